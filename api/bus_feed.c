/* SPDX-License-Identifier: MPL-2.0 */
/* bus_feed: events on their way to subscribers, in the order of their numbers.  The thread of the bus.
 *
 * What comes before it is settled is held back.  When the mailbox was full and events were missed, or too many are
 * held, they are read from the log before anything behind them goes out; when the log cannot be read, it is tried
 * again. */
#include <stdlib.h>
#include <string.h>

#include "api/bus_inside.h"

#define JOIN "~/"

enum { HELD = 65536, HELD_BYTES = 64 << 20 };

/* ---- publishing ---- */

static int64_t *
last_of_team(struct bus *bus, const char *team)
{
    const struct options *options = bus->house.options;
    size_t i;

    for (i = 0; i < options->teams.count && strcmp(options->teams.items[i].name, team) != 0; i++)
        ;
    return &bus->feed.of_team[i];
}

static void
send_event(struct bus *bus, const struct event *event)
{
    int64_t *team_before = last_of_team(bus, event->team);
    char id[MUSTER_ID_TEXT] = "-", cursor[MUSTER_CURSOR_TEXT];
    struct bus_mark mark = {.cursor = cursor, .before = bus->feed.last, .team_before = *team_before};
    struct muster_buf topic = {0}, packed = {0}, marked = {0};

    if (!muster_id_is_zero(&event->job))
        muster_id_text(&event->job, id);
    muster_cursor_text(bus->house.store, event->seq, cursor);
    muster_buf_printf(&topic, "%s/%s/%s", event->team, event->type, id);
    muster_pack(&event_type, event, &packed);
    muster_pack(&bus_mark_type, &mark, &marked);
    muster_door_publish(bus->door,
                        (const struct muster_bytes[]){{(const uint8_t *)topic.data, topic.size},
                                                      {(const uint8_t *)packed.data, packed.size},
                                                      {(const uint8_t *)marked.data, marked.size}},
                        3);
    muster_buf_free(&topic);
    muster_buf_free(&packed);
    muster_buf_free(&marked);
    *team_before = event->seq;
    bus->feed.published++;
}

/* Once, and never backwards. */
static void
publish(struct bus *bus, const struct event *event)
{
    if (event->seq <= bus->feed.last)
        return;
    send_event(bus, event);
    bus->feed.last = event->seq;
}

static void
let_go(struct bus *bus)
{
    struct muster_arena *arena = muster_arena_new();
    struct event event;

    while (order_take(bus->feed.order, bus->feed.settled, &bus->feed.held)) {
        muster_arena_clear(arena);
        if (muster_unpack(&event_type, bus->feed.held.data, bus->feed.held.size, arena, &event, NULL) == MUSTER_OK)
            publish(bus, &event);
    }
    muster_arena_free(&arena);
}

static void
hold(struct bus *bus, const struct event *event)
{
    struct muster_buf packed = {0};

    muster_pack(&event_type, event, &packed);
    order_put(bus->feed.order, event->seq, packed.data, packed.size);
    muster_buf_free(&packed);
}

/* ---- what was missed ---- */

static void
ask_log(struct bus *bus)
{
    struct muster_envelope envelope = {.id = BUS_SYNC_ID, .reply_to = BUS_ADDRESS, .trace = "", .principal.name = ""};
    struct log_flush flush = {.all = true};

    bus->feed.asked = bus_send(bus, MUSTER_LOG, &envelope, &log_flush_type, &flush) == MUSTER_OK;
}

static void
fall_behind(struct bus *bus)
{
    order_clear(bus->feed.order);
    bus->feed.target = muster_log_last(bus->house.store);
    bus->feed.behind = true;
    if (!bus->feed.asked)
        ask_log(bus);
}

struct catch_up {
    struct bus *bus;
    int64_t until;
};

static bool
on_event(void *arg, const struct event *event)
{
    struct catch_up *catch_up = arg;

    if (event->seq > catch_up->until)
        return false;
    publish(catch_up->bus, event);
    return true;
}

void
bus_on_flushed(struct bus *bus, muster_err err, int64_t settled)
{
    struct bus_feed *feed = &bus->feed;
    struct catch_up catch_up = {bus, settled};

    feed->asked = false;
    if (err)
        return; /* bus_feed_look tries again */
    if (settled > feed->settled)
        feed->settled = settled;
    if (!feed->behind || settled < feed->target ||
        muster_log_walk(bus->house.store, NULL, feed->last, on_event, &catch_up))
        return;
    feed->behind = false;
    let_go(bus);
}

void
bus_feed_look(struct bus *bus)
{
    bool missed = muster_feed_missed(bus->house.bus, BUS_ADDRESS) > 0;

    if (missed)
        bus_wait_on_feed(bus, NULL);
    if (missed && bus->feed.on)
        fall_behind(bus);
    else if (bus->feed.behind && !bus->feed.asked)
        ask_log(bus);
}

/* Most often nothing is held and the event is settled: then it goes straight through. */
static void
take_event(struct bus *bus, const struct event *event, int64_t settled)
{
    struct bus_feed *feed = &bus->feed;

    if (event->seq <= feed->last)
        return;
    if (feed->behind || event->seq > settled || order_count(feed->order) > 0)
        hold(bus, event);
    else
        publish(bus, event);
    if (order_count(feed->order) > HELD || order_bytes(feed->order) > HELD_BYTES)
        fall_behind(bus);
}

static void
move_settled(struct bus *bus, int64_t settled)
{
    if (settled > bus->feed.settled)
        bus->feed.settled = settled;
    if (bus->feed.on && !bus->feed.behind && order_count(bus->feed.order) > 0)
        let_go(bus);
}

void
bus_on_feed(struct bus *bus, const struct feed_events *in)
{
    struct bus_feed *feed = &bus->feed;
    const struct event *event;
    size_t i;

    for (i = 0; i < in->events.count; i++) {
        event = &in->events.items[i];
        if (event->seq > feed->highest)
            feed->highest = event->seq;
        if (feed->on)
            take_event(bus, event, muster_feed_settled(in, i));
        move_settled(bus, muster_feed_settled(in, i));
    }
    move_settled(bus, in->settled);
    bus_wait_on_feed(bus, in);
}

/* ---- subscribers ---- */

static bool
starts_with_team(const char *topic, size_t size, const struct muster_strs *teams)
{
    size_t i, length;

    for (i = 0; i < teams->count; i++) {
        length = strlen(teams->items[i]);
        if (size > length && memcmp(topic, teams->items[i], length) == 0 && topic[length] == '/')
            return true;
    }
    return teams->count == 0;
}

static bool
is_join(const char *topic, size_t size)
{
    return size > strlen(JOIN) && memcmp(topic, JOIN, strlen(JOIN)) == 0;
}

static void
remember(struct bus_feed *feed, const uint8_t *curve)
{
    size_t i;

    for (i = 0; i < feed->key_count; i++)
        if (memcmp(feed->keys[i], curve, MUSTER_CURVE) == 0)
            return;
    if (feed->key_count == feed->key_capacity) {
        feed->key_capacity = feed->key_capacity ? 2 * feed->key_capacity : 16;
        feed->keys = muster_realloc(feed->keys, feed->key_capacity * sizeof *feed->keys);
    }
    memcpy(feed->keys[feed->key_count++], curve, MUSTER_CURVE);
}

bool
bus_on_subscribe(void *arg, const uint8_t *curve, const char *topic, size_t size)
{
    struct bus *bus = arg;
    struct muster_arena *arena = muster_arena_new();
    struct key key;
    bool may;

    if (curve == NULL) { /* only an endpoint without CURVE lets such a one in */
        may = bus->options->open_events && !bus->spec.events_curve;
    } else {
        may = bus_curve_may(bus, curve, "messages:stream", arena, &key) &&
              (is_join(topic, size) || starts_with_team(topic, size, &key.teams));
        if (may)
            remember(&bus->feed, curve);
    }
    muster_arena_free(&arena);
    return may;
}

void
bus_on_subscribed(void *arg, const char *topic, size_t size)
{
    struct bus *bus = arg;
    char cursor[MUSTER_CURSOR_TEXT];
    struct bus_joined joined = {.published = bus->feed.last, .cursor = cursor};
    struct muster_buf packed = {0};

    if (!is_join(topic, size))
        return;
    muster_cursor_text(bus->house.store, bus->feed.last, cursor);
    muster_pack(&bus_joined_type, &joined, &packed);
    muster_door_publish(
        bus->door,
        (const struct muster_bytes[]){{(const uint8_t *)topic, size}, {(const uint8_t *)packed.data, packed.size}}, 2);
    muster_buf_free(&packed);
}

void
bus_check_subscribers(struct bus *bus)
{
    struct muster_arena *arena = muster_arena_new();
    bool good = true;
    struct key key;
    size_t i;

    for (i = 0; good && i < bus->feed.key_count; i++) {
        muster_arena_clear(arena);
        good = bus_curve_may(bus, bus->feed.keys[i], "messages:stream", arena, &key);
    }
    muster_arena_free(&arena);
    if (good)
        return;
    bus->feed.key_count = 0;
    muster_door_reset(bus->door);
}

/* ---- birth and death ---- */

/* Whatever has a number now is never published here: it may be on its way past us, and nobody subscribes yet.  What
 * gets one later comes, for this thread has subscribed to the feed. */
void
bus_feed_begin(struct bus *bus)
{
    bus->feed.on = bus->options->events[0] != '\0';
    bus->feed.order = order_new();
    bus->feed.last = muster_log_last(bus->house.store);
    bus->feed.of_team = muster_alloc((bus->house.options->teams.count + 1) * sizeof *bus->feed.of_team);
    ask_log(bus); /* how far it is settled */
}

void
bus_feed_free(struct bus *bus)
{
    order_free(&bus->feed.order);
    muster_buf_free(&bus->feed.held);
    free(bus->feed.of_team);
    free(bus->feed.keys);
}
