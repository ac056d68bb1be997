/* SPDX-License-Identifier: MPL-2.0 */
/* bus_answer: what actors answer, on its way to the client who asked.  The thread of the bus. */
#include <string.h>

#include "actors/muster_job.h"
#include "api/bus_inside.h"

/* ---- reads ---- */

muster_err
bus_ask_log(struct bus *bus, const struct bus_pending *pending)
{
    struct muster_envelope envelope = {.id = bus_id_of(bus, pending),
                                       .reply_to = BUS_ADDRESS,
                                       .trace = pending->trace,
                                       .principal = {.key = pending->key.id, .name = pending->key.name}};
    struct log_flush flush = {.all = true};

    return bus_send(bus, MUSTER_LOG, &envelope, &log_flush_type, &flush);
}

void
bus_go_on_reading(struct bus *bus, struct bus_pending *pending, const struct muster_principal *principal)
{
    if (pending->row->body == &log_read_type && bus_ask_log(bus, pending) == MUSTER_OK) {
        pending->stage = BUS_FLUSHED;
        return;
    }
    if (pending->row->body == &log_read_type)
        bus_fail(bus, pending, principal, MUSTER_OVERLOADED, NULL, 1);
    else
        (void)bus_answer_read(bus, pending, principal, bus->feed.settled);
    bus_end_pending(bus, pending);
}

/* ---- answers of actors ---- */

/* It was submitted before: its end is told if it has come. */
static void
answer_repeated(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
                const struct muster_id *id)
{
    struct job job;
    struct queue_finished finished = {.job = &job};
    muster_err err = muster_store_get(bus->house.store, &job_type, id, bus->arena, &job);

    if (!err && !muster_job_ended(job.state))
        err = MUSTER_IDEMPOTENCY_IN_PROGRESS;
    if (err) {
        bus_fail(bus, pending, principal, err, NULL, 0);
        return;
    }
    job = bus_show_job(&job);
    bus_answer(bus, pending, principal, &queue_finished_type, &finished);
}

static void
relay_accepted(struct bus *bus, struct bus_pending *pending, const struct muster_envelope *envelope)
{
    struct queue_accepted accepted;

    if (muster_unpack(&queue_accepted_type, envelope->body.data, envelope->body.size, bus->arena, &accepted, NULL)) {
        bus_fail(bus, pending, NULL, MUSTER_INTERNAL_ERROR, NULL, 0);
        bus_end_pending(bus, pending);
        return;
    }
    bus_answer(bus, pending, &envelope->principal, &queue_accepted_type, &accepted);
    if (pending->wait && !accepted.repeated) {
        pending->stage = BUS_FINISHED;
        pending->until_ms = pending->wait_until_ms;
        return;
    }
    if (pending->wait)
        answer_repeated(bus, pending, &envelope->principal, &accepted.job);
    bus_end_pending(bus, pending);
}

static void
relay_finished(struct bus *bus, const struct bus_pending *pending, const struct muster_envelope *envelope)
{
    struct queue_finished finished;
    struct job job;

    if (muster_unpack(&queue_finished_type, envelope->body.data, envelope->body.size, bus->arena, &finished, NULL)) {
        bus_fail(bus, pending, NULL, MUSTER_INTERNAL_ERROR, NULL, 0);
        return;
    }
    job = bus_show_job(finished.job);
    finished.job = &job;
    bus_answer(bus, pending, &envelope->principal, &queue_finished_type, &finished);
}

/* Of a type that a client may see as it is. */
static void
relay(struct bus *bus, const struct bus_pending *pending, const struct muster_envelope *envelope,
      const struct muster_type *type)
{
    void *body = muster_arena_alloc(bus->arena, type->size);

    if (muster_unpack(type, envelope->body.data, envelope->body.size, bus->arena, body, NULL))
        bus_fail(bus, pending, NULL, MUSTER_INTERNAL_ERROR, NULL, 0);
    else if (type == &failed_type)
        bus_fail(bus, pending, &envelope->principal, muster_err_from_code(((struct failed *)body)->code),
                 ((struct failed *)body)->message, ((struct failed *)body)->retry_after_s);
    else
        bus_answer(bus, pending, &envelope->principal, type, body);
}

static void
on_flushed(struct bus *bus, struct bus_pending *pending, const struct muster_envelope *envelope)
{
    struct store_committed committed;

    if (muster_unpack(&store_committed_type, envelope->body.data, envelope->body.size, bus->arena, &committed, NULL))
        bus_fail(bus, pending, NULL, MUSTER_INTERNAL_ERROR, NULL, 0);
    else if (!bus_answer_read(bus, pending, NULL, committed.seq)) {
        bus_wait(bus, pending, committed.seq);
        return;
    }
    bus_end_pending(bus, pending);
}

static void
on_synced(struct bus *bus, const struct muster_envelope *envelope)
{
    struct store_committed committed = {.seq = 0};
    muster_err err = MUSTER_STORAGE_ERROR;

    if (strcmp(envelope->type, store_committed_type.wire) == 0)
        err = muster_unpack(&store_committed_type, envelope->body.data, envelope->body.size, bus->arena, &committed,
                            NULL);
    bus_on_flushed(bus, err, committed.seq);
}

void
bus_on_answer(struct bus *bus, const struct muster_envelope *envelope)
{
    static const struct muster_type *const relayed[] = {
        &failed_type,       &queue_cancelled_type, &queue_placed_type, &queue_paused_type,
        &worker_heard_type, &worker_acked_type,    &worker_left_type,  NULL};
    struct bus_pending *pending = bus_find_pending(bus, envelope->id);
    size_t i;

    if (envelope->id == BUS_SYNC_ID) {
        on_synced(bus, envelope);
        return;
    }
    if (pending == NULL) {
        bus_on_late_answer(bus, envelope);
        return;
    }
    if (pending->row->body == &worker_attach_type) {
        bus_on_worker_answer(bus, pending, envelope);
        return;
    }
    if (strcmp(envelope->type, limit_taken_type.wire) == 0 && pending->stage == BUS_COUNTED) {
        bus_go_on_reading(bus, pending, &envelope->principal);
        return;
    }
    if (strcmp(envelope->type, queue_accepted_type.wire) == 0 && pending->stage == BUS_ANSWERED) {
        relay_accepted(bus, pending, envelope);
        return;
    }
    for (i = 0; relayed[i] && strcmp(relayed[i]->wire, envelope->type) != 0; i++)
        ;
    if (strcmp(envelope->type, store_committed_type.wire) == 0 && pending->stage == BUS_FLUSHED) {
        on_flushed(bus, pending, envelope);
        return;
    }
    if (strcmp(envelope->type, queue_finished_type.wire) == 0 && pending->stage == BUS_FINISHED)
        relay_finished(bus, pending, envelope);
    else if (relayed[i])
        relay(bus, pending, envelope, relayed[i]);
    else
        return;
    bus_end_pending(bus, pending);
}
