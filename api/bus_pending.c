/* SPDX-License-Identifier: MPL-2.0 */
/* bus_pending: what is awaited for clients, each in a slot until its answer or its end; and what is sent to clients and
 * actors.  The thread of the bus.  Full: no slot at BUS_PENDING_MAX. */
#include <stdlib.h>
#include <string.h>

#include "api/bus_inside.h"

#define INDEX_BITS 20
#define NUMBERS ((UINT64_C(1) << 43) - 1) /* what is left of a positive int64_t */

/* ---- to the actors ---- */

muster_err
bus_send(struct bus *bus, const char *to, const struct muster_envelope *envelope, const struct muster_type *type,
         const void *body)
{
    struct muster_buf frame = {0};
    muster_err err;

    muster_envelope_pack(envelope, type, body, &frame);
    err = muster_post_send(muster_loop_post(bus->loop), to, &frame);
    muster_buf_free(&frame);
    return err ? MUSTER_OVERLOADED : MUSTER_OK;
}

/* ---- answers ---- */

muster_err
bus_send_frame(struct bus *bus, const struct bus_pending *pending, struct muster_buf *frame)
{
    const struct bus_guest *guest = bus_guest_find(bus, pending->guest);

    if (guest && guest->connection != pending->connection) {
        muster_buf_free(frame);
        return MUSTER_GONE; /* who asked has left, and another client has its number */
    }
    return muster_door_send(
        bus->door, pending->guest,
        guest && guest->attached > 0 ? bus->house.options->workers->max_backlog : bus->options->max_backlog, frame);
}

static void
send_answer(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
            const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {
        .id = pending->id, .reply_to = "", .trace = pending->trace ? pending->trace : "", .principal.name = ""};
    struct muster_buf frame = {0};

    if (principal)
        envelope.principal = *principal;
    muster_envelope_pack(&envelope, type, body, &frame);
    (void)bus_send_frame(bus, pending, &frame); /* counted by the door when it is lost */
}

void
bus_answer(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
           const struct muster_type *type, const void *body)
{
    bus->view.answers++;
    send_answer(bus, pending, principal, type, body);
}

void
bus_fail(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal, muster_err err,
         const char *message, int64_t retry_after_s)
{
    struct failed failed = {.code = muster_err_code(err),
                            .message = message ? message : muster_err_text(err),
                            .retry_after_s = retry_after_s};

    bus->view.failed++;
    send_answer(bus, pending, principal, &failed_type, &failed);
}

/* ---- slots ---- */

struct bus_pending *
bus_new_pending(struct bus *bus)
{
    struct bus_pending *pending;
    uint32_t at = bus->first_free;

    if (at == 0) {
        if (bus->pending_count == BUS_PENDING_MAX)
            return NULL;
        if ((bus->pending_count & (bus->pending_count - 1)) == 0) { /* full: 0, or a power of two */
            size_t capacity = bus->pending_count ? 2 * (size_t)bus->pending_count : 1;

            bus->pending = muster_realloc(bus->pending, capacity * sizeof *bus->pending);
            bus->waiting = muster_realloc(bus->waiting, capacity * sizeof *bus->waiting);
        }
        at = ++bus->pending_count;
    } else {
        bus->first_free = bus->pending[at - 1].next_free;
    }
    pending = &bus->pending[at - 1];
    bus->numbers = (bus->numbers + 1) & NUMBERS;
    *pending = (struct bus_pending){.number = bus->numbers ? bus->numbers : ++bus->numbers};
    bus->pending_used++;
    return pending;
}

void
bus_end_pending(struct bus *bus, struct bus_pending *pending)
{
    struct bus_guest *guest = bus_guest_find(bus, pending->guest);

    if (guest)
        guest->pending--;
    if (pending->stage == BUS_ATTACHED)
        bus->attached--;
    if (pending->stage == BUS_ATTACHED && guest)
        guest->attached--;
    if (pending->stage == BUS_WAITING)
        bus_wait_end(bus, pending);
    muster_arena_free(&pending->arena);
    pending->stage = BUS_FREE;
    pending->next_free = bus->first_free;
    bus->first_free = (uint32_t)(pending - bus->pending) + 1;
    bus->pending_used--;
}

int64_t
bus_id_of(const struct bus *bus, const struct bus_pending *pending)
{
    return (int64_t)(pending->number << INDEX_BITS) | (pending - bus->pending);
}

struct bus_pending *
bus_find_pending(struct bus *bus, int64_t id)
{
    int64_t at = id & ((1 << INDEX_BITS) - 1);

    if (id <= 0 || at >= bus->pending_count || bus->pending[at].stage == BUS_FREE ||
        bus->pending[at].number != (uint64_t)id >> INDEX_BITS)
        return NULL;
    return &bus->pending[at];
}

void
bus_requests_free(struct bus *bus)
{
    uint32_t i;

    for (i = 0; i < bus->pending_count; i++)
        muster_arena_free(&bus->pending[i].arena);
    free(bus->pending);
    free(bus->waiting);
}

void
bus_expire(struct bus *bus)
{
    int64_t now_ms = muster_clock_ms();
    uint32_t i;

    for (i = 0; bus->pending_used > 0 && i < bus->pending_count; i++) {
        struct bus_pending *pending = &bus->pending[i];

        if (pending->stage == BUS_FREE || pending->until_ms > now_ms)
            continue;
        if (pending->stage == BUS_WAITING) {
            bus_wait_look(bus, pending);
            continue;
        }
        if (pending->row->body == &worker_attach_type)
            bus_worker_gone(bus, bus_id_of(bus, pending));
        bus_fail(bus, pending, NULL, MUSTER_TIMEOUT,
                 pending->stage == BUS_FINISHED ? "No answer came in time; the job goes on and can be read later"
                                                : "No answer came in time",
                 0);
        bus_end_pending(bus, pending);
    }
}
