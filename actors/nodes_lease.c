/* SPDX-License-Identifier: MPL-2.0 */
/* nodes_lease: how a worker stands, from sign of life to sign of life.
 *
 *   (new) --attach--> up <--> draining --2/3 of a lease without a sign, or its connection ends--> away
 *   away --a sign on the attachment that it still has, or attach--> up, draining;  --rest of the lease--> lost
 *   up, draining --worker.leave--> left;  lost, left --attach--> up, draining
 *
 * The queue is told of each change, and again with each beat, so that it knows its workers also when it was begun anew.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/nodes.h"

int64_t
nodes_lease_ms(const struct nodes *self)
{
    return muster_ctx_options(self->ctx)->workers->lease;
}

static bool
is_up(const struct worker *worker)
{
    return worker->state == node_state_UP || worker->state == node_state_DRAINING;
}

/* ---- what others are told -------------------------------------------------------------------------------------------
 */

int64_t
nodes_tell_queue(struct nodes *self, const struct worker *worker, const struct nodes_join *join)
{
    struct worker_team *teams =
        muster_arena_alloc(muster_ctx_arena(self->ctx), (worker->record.teams.count + 1) * sizeof *teams);
    struct queue_node told = {.node = worker->record.name, .state = worker->state, .attachment = worker->attachment};
    const struct nodes_team *team;
    struct muster_buf frame = {0};
    int64_t token;
    size_t i;

    for (i = 0; i < worker->record.teams.count; i++) {
        teams[i].name = worker->record.teams.items[i];
        team = nodes_team_find(self, teams[i].name);
        if (worker->offers && team && nodes_fits(worker, team->options))
            teams[i].capacity = worker->offers[i].capacity; /* else it keeps what it has, and gets nothing */
    }
    told.teams.items = teams;
    told.teams.count = worker->record.teams.count;
    if (join) {
        told.state = nodes_wanted(worker);
        told.attachment = join->attachment;
        told.attached = true;
        told.held.items = join->in->held.items;
        told.held.count = join->in->held.count;
    }
    token = nodes_pack_request(self, &queue_node_type, &told, &frame);
    outbox_send(&self->queue_outbox, self->ctx, MUSTER_QUEUE, frame.data, frame.size);
    nodes_await(self);
    muster_buf_free(&frame);
    return token;
}

static void
say_changed(struct nodes *self, const struct worker *worker, const char *reason)
{
    struct node_changed changed = {.node = worker->record.name, .state = worker->state, .reason = reason};
    struct log_entry entry = {.at_ms = muster_now_ms(self->ctx), .type = node_changed_type.wire, .team = ""};
    struct log_append append = {.put = NULL};
    struct muster_buf packed = {0};

    muster_pack(&node_changed_type, &changed, &packed);
    entry.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    append.entries.items = &entry;
    append.entries.count = 1;
    outbox_tell(&self->log_outbox, self->ctx, MUSTER_LOG, &log_append_type, &append);
    nodes_await(self);
    muster_buf_free(&packed);
}

void
nodes_turn(struct nodes *self, struct worker *worker, enum node_state state, const char *reason)
{
    worker->state = state;
    say_changed(self, worker, reason);
    nodes_show_worker(self, worker);
    nodes_arm(self, worker);
}

/* ---- the lease ------------------------------------------------------------------------------------------------------
 */

/* For so long it may be silent before it is away. */
static int64_t
patience_ms(const struct nodes *self)
{
    return nodes_lease_ms(self) * 2 / 3;
}

void
nodes_arm(struct nodes *self, struct worker *worker)
{
    uint64_t key = NODES_TIMER_WORKER + NODES_TIMERS * worker->number + NODES_TIMER_LEASE;
    int64_t since_ms = muster_uptime_ms(self->ctx) - worker->heard_uptime_ms;

    if (is_up(worker))
        muster_timer_in(self->ctx, patience_ms(self) - since_ms, key);
    else if (worker->state == node_state_AWAY)
        muster_timer_in(self->ctx, nodes_lease_ms(self) - since_ms, key);
    else
        muster_timer_end(self->ctx, key);
}

void
nodes_detach(struct nodes *self, struct worker *worker, const char *reason)
{
    struct worker_detached detached = {.attachment = worker->attachment, .reason = reason};

    if (worker->caller == NULL)
        return;
    if (reason)
        nodes_send(self, worker->caller, &worker_detached_type, &detached);
    muster_caller_free(&worker->caller);
    nodes_unset_attached(self, worker);
    nodes_parcels_drop(self, worker);
    self->dirty = true;
}

void
nodes_go_away(struct nodes *self, struct worker *worker, const char *reason)
{
    if (!is_up(worker))
        return;
    muster_journal_say(muster_ctx_journal(self->ctx), WARNING, "node-away",
                       "A worker is away; its jobs count as running while its lease lasts.",
                       MUSTER_SAY_TEXT("node", worker->record.name), MUSTER_SAY_TEXT("host", worker->record.host),
                       MUSTER_SAY_TEXT("reason", reason), MUSTER_SAY_NUMBER("running", (int64_t)worker->open.count));
    nodes_turn(self, worker, node_state_AWAY, reason);
    nodes_tell_queue(self, worker, NULL);
}

static void
lose(struct nodes *self, struct worker *worker)
{
    const char *reason = "It was not heard of for its whole lease.";

    nodes_detach(self, worker, reason);
    self->losses++;
    muster_journal_say(muster_ctx_journal(self->ctx), WARNING, "node-lost",
                       "A worker is lost; its jobs are queued again.", MUSTER_SAY_TEXT("node", worker->record.name),
                       MUSTER_SAY_TEXT("host", worker->record.host),
                       MUSTER_SAY_NUMBER("running", (int64_t)worker->open.count));
    nodes_attempts_free(&worker->open);
    nodes_turn(self, worker, node_state_LOST, reason);
    nodes_tell_queue(self, worker, NULL);
}

void
nodes_on_lease(struct nodes *self, struct worker *worker)
{
    int64_t since_ms = muster_uptime_ms(self->ctx) - worker->heard_uptime_ms;

    if (is_up(worker) && since_ms >= patience_ms(self)) {
        nodes_go_away(self, worker, "It has not been heard of for two thirds of its lease.");
    } else if (worker->join) { /* it is about to be welcome */
        worker->heard_uptime_ms += since_ms;
        nodes_arm(self, worker);
    } else if (worker->state == node_state_AWAY && since_ms >= nodes_lease_ms(self)) {
        lose(self, worker);
    } else {
        nodes_arm(self, worker);
    }
}

/* ---- signs of life --------------------------------------------------------------------------------------------------
 */

enum node_state
nodes_wanted(const struct worker *worker)
{
    return worker->record.draining || worker->wants_drain ? node_state_DRAINING : node_state_UP;
}

/* Back, or to drain from now on, or not any more. */
static void
stand(struct nodes *self, struct worker *worker)
{
    enum node_state state = nodes_wanted(worker);

    if (worker->state == state || worker->state == node_state_LEFT)
        return;
    if (worker->state == node_state_AWAY)
        muster_journal_say(muster_ctx_journal(self->ctx), INFO, "node-back", "A worker is heard of again.",
                           MUSTER_SAY_TEXT("node", worker->record.name),
                           MUSTER_SAY_NUMBER("running", (int64_t)worker->open.count));
    nodes_turn(self, worker, state, NULL);
    nodes_tell_queue(self, worker, NULL);
}

void
nodes_heard(struct nodes *self, struct worker *worker)
{
    worker->heard_ms = muster_now_ms(self->ctx);
    worker->heard_uptime_ms = muster_uptime_ms(self->ctx);
    worker->fresh = false; /* it knows its attachment, so it had its welcome */
    if (worker->state == node_state_AWAY)
        stand(self, worker); /* else the timer finds out by itself */
}

void
nodes_on_beat(struct nodes *self, struct worker *worker, const struct worker_beat *in)
{
    struct worker_heard heard = {.draining = worker->record.draining};
    enum node_state before = worker->state;

    nodes_show_worker(self, worker); /* teams of processes that are gone now */
    if (worker->beat_arena == NULL)
        worker->beat_arena = muster_arena_new();
    muster_arena_clear(worker->beat_arena);
    worker->beat = nodes_copy(&worker_beat_type, in, worker->beat_arena);
    worker->wants_drain = in->draining;
    nodes_show_worker(self, worker);
    nodes_heard(self, worker);
    stand(self, worker);
    if (worker->state == before && before != node_state_LEFT)
        nodes_tell_queue(self, worker, NULL);
    muster_reply(self->ctx, &worker_heard_type, &heard);
}

/* ---- the end in order -----------------------------------------------------------------------------------------------
 */

muster_err
nodes_on_leave(struct nodes *self, struct worker *worker)
{
    muster_err err;

    if (worker->open.count > 0) {
        muster_explain(self->ctx, 0, "%s still has %zu attempts of jobs; it can leave when their ends are told",
                       worker->record.name, worker->open.count);
        return MUSTER_CONFLICT;
    }
    worker->record.left = true;
    err = nodes_write(self, worker);
    if (err) {
        worker->record.left = false;
        return err;
    }
    nodes_wait(self, NODES_WAIT_LEAVE, worker, muster_caller_keep(self->ctx));
    if (worker->state == node_state_LEFT)
        return MUSTER_OK; /* asked twice */
    muster_journal_say(muster_ctx_journal(self->ctx), INFO, "node-left", "A worker has ended in order.",
                       MUSTER_SAY_TEXT("node", worker->record.name), MUSTER_SAY_TEXT("host", worker->record.host));
    nodes_turn(self, worker, node_state_LEFT, NULL);
    nodes_tell_queue(self, worker, NULL);
    return MUSTER_OK;
}

/* Also when that could not be written: nothing of it is awaited in any case. */
void
nodes_left(struct nodes *self, struct worker *worker, struct muster_caller **caller_p)
{
    struct worker_left left = {.name = worker->record.name};

    muster_caller_answer(self->ctx, caller_p, MUSTER_OK, &worker_left_type, &left);
    if (worker->state == node_state_LEFT)
        nodes_detach(self, worker, "It has left.");
}
