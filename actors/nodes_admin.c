/* SPDX-License-Identifier: MPL-2.0 */
/* nodes_admin: what operators want of workers: that one gets no more jobs, or is forgotten.
 *
 * Answered when it is on disk.  A worker that cannot be written of answers the store's error, and nothing has changed.
 */
#include <stdlib.h>
#include <string.h>

#include "actors/nodes.h"

#define KEPT_MIN 1000 /* workers that are known, besides twice as many as may be attached */

static muster_err
erase(struct nodes *self, const struct worker *worker)
{
    const struct muster_id *id = &worker->record.id;
    struct store_put put = {.record = node_type.wire, .value = {id->bytes, sizeof id->bytes}, .remove = true};

    return nodes_hand_put(self, &put);
}

/* What an operator wants, as it is on disk.  False: there is no record. */
static bool
read_draining(struct nodes *self, const struct worker *worker, bool *out_draining)
{
    struct muster_arena *arena = muster_arena_new();
    struct node record;
    bool there =
        muster_store_get(muster_ctx_store(self->ctx), &node_type, &worker->record.id, arena, &record) == MUSTER_OK;

    if (there)
        *out_draining = record.draining;
    muster_arena_free(&arena);
    return there;
}

/* ---- requests ------------------------------------------------------------------------------------------------------
 */

static muster_err
find_known(struct nodes *self, const char *name, struct worker **out_worker)
{
    struct worker *worker = nodes_find(self, name);

    if (worker == NULL || worker->state == 0) {
        muster_explain(self->ctx, 0, "there is no worker %s", name);
        return MUSTER_NOT_FOUND;
    }
    *out_worker = worker;
    return nodes_check_sure(self, worker);
}

muster_err
nodes_on_drain(struct nodes *self, const struct node_drain *in)
{
    struct worker *worker;
    bool before;
    muster_err err = find_known(self, in->node, &worker);

    if (err)
        return err;
    before = worker->record.draining;
    worker->record.draining = in->draining;
    err = nodes_write(self, worker);
    if (err)
        worker->record.draining = before;
    else
        nodes_wait(self, NODES_WAIT_DRAIN, worker, muster_caller_keep(self->ctx));
    return err;
}

static bool
is_gone(const struct worker *worker)
{
    return (worker->state == node_state_LOST || worker->state == node_state_LEFT) && worker->join == NULL &&
           worker->caller == NULL;
}

muster_err
nodes_on_forget(struct nodes *self, const struct node_forget *in)
{
    struct worker *worker;
    muster_err err = find_known(self, in->node, &worker);

    if (err)
        return err;
    if (!is_gone(worker)) {
        muster_explain(self->ctx, 0,
                       "the worker %s is attached or within its lease; only one that is lost or has left "
                       "can be forgotten",
                       in->node);
        return MUSTER_CONFLICT;
    }
    err = erase(self, worker);
    if (!err)
        nodes_wait(self, NODES_WAIT_FORGET, worker, muster_caller_keep(self->ctx));
    return err;
}

/* Those that came and went under ever new names are forgotten, the oldest first. */
void
nodes_evict(struct nodes *self)
{
    size_t max = 2 * (size_t)muster_ctx_options(self->ctx)->workers->max_workers + KEPT_MIN, i;
    struct worker *oldest = NULL, *worker;

    if (self->worker_count < max)
        return;
    for (i = 0; i < self->worker_count; i++) {
        worker = self->workers[i];
        if ((is_gone(worker) || (worker->state == 0 && worker->join == NULL)) && worker->waits == 0 &&
            (oldest == NULL || worker->record.attached_ms < oldest->record.attached_ms))
            oldest = worker;
    }
    if (oldest && erase(self, oldest) == MUSTER_OK)
        nodes_remove(self, oldest);
}

/* What is answered is seen. */
static void
answer(struct nodes *self, struct muster_caller **caller_p, const struct node_drained *body)
{
    self->dirty = true;
    nodes_publish(self);
    muster_caller_answer(self->ctx, caller_p, MUSTER_OK, &node_drained_type, body);
}

static void
drained(struct nodes *self, struct worker *worker, struct muster_caller **caller_p)
{
    struct node_drained body = {.node = worker->record.name, .running = (int64_t)worker->open.count};
    enum node_state state = nodes_wanted(worker);

    muster_journal_say(muster_ctx_journal(self->ctx), INFO, "node-drain",
                       worker->record.draining ? "A worker gets no more jobs." : "A worker gets jobs again.",
                       MUSTER_SAY_TEXT("node", worker->record.name),
                       MUSTER_SAY_TEXT("key", muster_caller_principal(*caller_p)->name));
    if ((worker->state == node_state_UP || worker->state == node_state_DRAINING) && worker->state != state) {
        nodes_turn(self, worker, state, NULL);
        nodes_tell_queue(self, worker, NULL);
    }
    body.state = worker->state;
    answer(self, caller_p, &body);
}

/* ---- on disk -------------------------------------------------------------------------------------------------------
 */

void
nodes_after_drain(struct nodes *self, struct nodes_wait *wait, muster_err err)
{
    bool draining;

    if (!err && (!read_draining(self, wait->worker, &draining) ||
                 (draining != wait->draining && wait->worker->record.draining == wait->draining)))
        err = MUSTER_STORAGE_ERROR;
    if (!err) {
        drained(self, wait->worker, &wait->caller);
        return;
    }
    nodes_fail(self, &wait->caller, err, NODES_RETRY_S, NODES_NOT_WRITTEN);
    nodes_doubt(self, wait->worker, err);
}

void
nodes_after_forget(struct nodes *self, struct nodes_wait *wait, muster_err err)
{
    struct worker *worker = wait->worker;
    struct node_drained body = {.state = worker->state, .running = (int64_t)worker->open.count};
    bool draining;

    if (!err && worker->join == NULL && worker->caller == NULL && read_draining(self, worker, &draining))
        err = MUSTER_STORAGE_ERROR; /* it is still there */
    if (err) {
        nodes_fail(self, &wait->caller, err, NODES_RETRY_S, NODES_NOT_WRITTEN);
        nodes_doubt(self, worker, err);
        return;
    }
    body.node = muster_arena_str(muster_ctx_arena(self->ctx), worker->record.name, strlen(worker->record.name));
    if (is_gone(worker) && worker->waits == 0)
        nodes_remove(self, worker);
    answer(self, &wait->caller, &body);
}
