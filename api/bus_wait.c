/* SPDX-License-Identifier: MPL-2.0 */
/* bus_wait: reads of the log that wait for an event.  The thread of the bus.
 *
 * Each has been read up to what was settled.  It is read again once an event that fits was published and is settled,
 * once something may have been missed, and when its time is over; the end of its time is also looked after by
 * bus_expire.  What is not settled when it begins to wait may fit: that is looked at once.  Full: they are requests at
 * work and bounded as such. */
#include <string.h>

#include "api/bus_inside.h"

enum { AGAIN_MS = 100 }; /* the log was too busy to be asked */

void
bus_wait(struct bus *bus, struct bus_pending *pending, int64_t settled)
{
    pending->stage = BUS_WAITING;
    pending->until_ms = pending->wait_until_ms;
    pending->wanted = bus->feed.highest > settled ? bus->feed.highest : 0;
    pending->waiting = bus->waiting_count;
    bus->waiting[bus->waiting_count++] = (uint32_t)(pending - bus->pending);
    if (pending->wanted > 0 && pending->wanted <= bus->feed.settled)
        bus_wait_look(bus, pending);
}

void
bus_wait_end(struct bus *bus, struct bus_pending *pending)
{
    uint32_t last = bus->waiting[--bus->waiting_count];

    bus->waiting[pending->waiting] = last;
    bus->pending[last].waiting = pending->waiting;
}

void
bus_wait_look(struct bus *bus, struct bus_pending *pending)
{
    int64_t now_ms = muster_clock_ms();

    if (!bus_is_still_good(bus, pending)) {
        bus_fail(bus, pending, NULL, MUSTER_UNAUTHORIZED, "The key that it came with is no longer good", 0);
        bus_end_pending(bus, pending);
        return;
    }
    if (bus_ask_log(bus, pending) == MUSTER_OK) {
        bus_wait_end(bus, pending);
        pending->stage = BUS_FLUSHED;
        pending->until_ms = now_ms + BUS_HOP_MS;
    } else if (now_ms < pending->wait_until_ms) {
        pending->until_ms = now_ms + AGAIN_MS;
    } else {
        bus_answer_nothing(bus, pending);
        bus_end_pending(bus, pending);
    }
}

static bool
fits(const struct bus_pending *pending, const struct event *event)
{
    const struct log_read *in = pending->body;

    return (muster_id_is_zero(&in->job) || muster_id_equal(&in->job, &event->job)) &&
           (in->team == NULL || in->team[0] == '\0' || strcmp(in->team, event->team) == 0) &&
           caller_may_use(&pending->key, event->team);
}

static void
want(struct bus_pending *pending, const struct feed_events *feed)
{
    const struct event *event;
    size_t i;

    for (i = 0; i < feed->events.count; i++) {
        event = &feed->events.items[i];
        if ((pending->wanted == 0 || pending->wanted > event->seq) && fits(pending, event))
            pending->wanted = event->seq;
    }
}

void
bus_wait_on_feed(struct bus *bus, const struct feed_events *feed)
{
    int64_t last = feed ? 0 : muster_log_last(bus->house.store);
    struct bus_pending *pending;
    uint32_t i;

    if (last > bus->feed.highest)
        bus->feed.highest = last;
    for (i = bus->waiting_count; i-- > 0;) { /* the one that is looked at leaves, and the last takes its place */
        pending = &bus->pending[bus->waiting[i]];
        if (feed)
            want(pending, feed);
        if (feed == NULL || (pending->wanted > 0 && pending->wanted <= bus->feed.settled))
            bus_wait_look(bus, pending);
    }
}

/* The log will not answer any more. */
void
bus_wait_stop(struct bus *bus)
{
    struct bus_pending *pending;
    uint32_t i;

    for (i = 0; i < bus->pending_count; i++) {
        pending = &bus->pending[i];
        if (pending->stage != BUS_WAITING && pending->stage != BUS_FLUSHED)
            continue;
        if (pending->stage == BUS_WAITING || pending->looked > 0)
            bus_answer_nothing(bus, pending);
        else
            bus_fail(bus, pending, NULL, MUSTER_SHUTTING_DOWN, NULL, 1);
        bus_end_pending(bus, pending);
    }
}
