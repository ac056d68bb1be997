/* SPDX-License-Identifier: MPL-2.0 */
/* nodes_disk: records of workers, and who waits until something is on disk.
 *
 * All that is written of workers goes to the log, in one order with the events they send, and one log.flush at a time
 * tells when it is on disk.  Since a commit can fail while a later one does not, what was written is looked at before
 * anybody is told.  A worker of which something was not written is detached, and until the next flush has succeeded,
 * which shows what became of everything, nothing more of it is taken; then its record on disk counts, and it sends
 * again what that lacks.  So it is for all workers after a restart, since what was handed to the log before may still
 * be on its way.  Parcels are not held back while those before them are being written: so on a full disk that takes a
 * commit just after it refused one, events of the refused one can be missing, as those of the hub's own agents are.
 */
#include <stdlib.h>
#include <string.h>

#include "actors/nodes.h"

#define FLUSH_MS 30000 /* for the answer; then it is asked for again */
#define PAUSE_MS 200   /* after a failure */

/* ---- the record in memory -------------------------------------------------------------------------------------------
 */

static struct worker_team *
copy_offers(const struct worker_team *offers, const struct node *record, struct muster_arena *arena)
{
    struct worker_team *copies = muster_arena_alloc(arena, (record->teams.count + 1) * sizeof *copies);
    size_t i;

    for (i = 0; i < record->teams.count; i++) {
        copies[i].name = record->teams.items[i];
        copies[i].capacity = offers[i].capacity;
    }
    return copies;
}

void
nodes_set_record(struct worker *worker, const struct node *record, const struct worker_team *offers)
{
    struct muster_arena *old = worker->facts;

    worker->facts = muster_arena_new();
    worker->record = *record;
    worker->record.name = muster_arena_str(worker->facts, record->name, strlen(record->name));
    if (record->epoch[0] != '\0')
        worker->record = *(const struct node *)nodes_copy(&node_type, record, worker->facts);
    worker->offers = offers ? copy_offers(offers, &worker->record, worker->facts) : NULL;
    if (old)
        muster_arena_free(&old);
}

/* What the disk says counts; a worker that is not there has never been. */
static muster_err
look(struct nodes *self, struct worker *worker)
{
    struct muster_arena *arena = muster_arena_new();
    struct node record = {.id = worker->record.id, .name = worker->record.name, .epoch = ""};
    muster_err err = muster_store_get(muster_ctx_store(self->ctx), &node_type, &worker->record.id, arena, &record);

    if (err == MUSTER_NOT_FOUND)
        err = MUSTER_OK;
    if (!err) {
        nodes_set_record(worker, &record, NULL);
        worker->unsure = MUSTER_OK;
        worker->handed = 0;
        self->dirty = true;
    }
    muster_arena_free(&arena);
    return err;
}

/* ---- writing --------------------------------------------------------------------------------------------------------
 */

struct store_put
nodes_put(const struct worker *worker, struct muster_buf *packed)
{
    muster_pack(&node_type, &worker->record, packed);
    return (struct store_put){.record = node_type.wire, .value = {(const uint8_t *)packed->data, packed->size}};
}

muster_err
nodes_hand_put(struct nodes *self, const struct store_put *put)
{
    struct log_append append = {.put = put};

    if (muster_tell(self->ctx, MUSTER_LOG, &log_append_type, &append)) {
        muster_explain(self->ctx, NODES_RETRY_S, "the log of the hub is full; try again");
        return MUSTER_OVERLOADED;
    }
    nodes_handed(self);
    return MUSTER_OK;
}

muster_err
nodes_write(struct nodes *self, const struct worker *worker)
{
    struct muster_buf packed = {0};
    struct store_put put = nodes_put(worker, &packed);
    muster_err err = nodes_hand_put(self, &put);

    muster_buf_free(&packed);
    return err;
}

muster_err
nodes_check_sure(struct nodes *self, const struct worker *worker)
{
    if (worker->unsure)
        muster_explain(self->ctx, NODES_RETRY_S,
                       "it is being looked up what is on disk of the worker %s (%s); try again", worker->record.name,
                       muster_err_text(worker->unsure));
    return worker->unsure;
}

/* ---- waiting --------------------------------------------------------------------------------------------------------
 */

void
nodes_wait(struct nodes *self, enum nodes_wait_kind kind, struct worker *worker, struct muster_caller *caller)
{
    struct nodes_wait *wait = muster_alloc(sizeof *wait);

    wait->next = self->waits;
    self->waits = wait;
    wait->kind = kind;
    wait->worker = worker;
    wait->caller = caller;
    wait->attachment = worker->join ? worker->join->attachment : 0;
    wait->draining = worker->record.draining;
    worker->waits++;
    nodes_handed(self);
}

void
nodes_handed(struct nodes *self)
{
    self->flush_due = true;
}

/* What is handed from now on is for the next one. */
static void
cover(struct nodes *self)
{
    struct nodes_wait *wait;
    size_t i;

    for (wait = self->waits; wait; wait = wait->next)
        wait->covered = true;
    for (i = 0; i < self->worker_count; i++) {
        self->workers[i]->covered = self->workers[i]->handed;
        self->workers[i]->handed = 0;
    }
}

void
nodes_flush(struct nodes *self)
{
    const struct log_flush flush = {.all = true};
    struct muster_buf frame = {0};
    muster_err err;
    int64_t token;

    if (!self->flush_due || self->flush_token || self->flush_paused)
        return;
    token = nodes_pack_request(self, &log_flush_type, &flush, &frame);
    err = muster_send_whole(self->ctx, MUSTER_LOG, frame.data, frame.size);
    muster_buf_free(&frame);
    if (err) {
        self->flush_paused = true;
        muster_timer_in(self->ctx, OUTBOX_PAUSE_MS, NODES_TIMER_FLUSH);
        return;
    }
    self->flush_token = token;
    self->flush_due = false;
    muster_timer_in(self->ctx, FLUSH_MS, NODES_TIMER_FLUSH);
    cover(self);
}

void
nodes_flush_again(struct nodes *self)
{
    bool lost = self->flush_token != 0;

    self->flush_paused = false;
    self->flush_token = 0;
    if (lost)
        nodes_on_flushed(self, MUSTER_OVERLOADED); /* nothing is known of it */
    nodes_flush(self);
}

/* ---- what is on disk ------------------------------------------------------------------------------------------------
 */

/* Is the record there, of this life of the worker, with everything up to `received`? */
static bool
is_written(struct nodes *self, const struct worker *worker, int64_t received)
{
    struct muster_arena *arena = muster_arena_new();
    struct node record;
    bool written =
        muster_store_get(muster_ctx_store(self->ctx), &node_type, &worker->record.id, arena, &record) == MUSTER_OK &&
        strcmp(record.epoch, worker->record.epoch) == 0 && record.received >= received;

    muster_arena_free(&arena);
    return written;
}

void
nodes_doubt(struct nodes *self, struct worker *worker, muster_err err)
{
    const char *reason = "The hub's data folder could not be written.";

    if (worker->unsure)
        return;
    worker->unsure = err;
    muster_journal_say(muster_ctx_journal(self->ctx), ERROR, "node-not-written",
                       "What a worker sent could not be written; it is to send it again.",
                       MUSTER_SAY_TEXT("node", worker->record.name), MUSTER_SAY_TEXT("code", muster_err_code(err)));
    nodes_wait(self, NODES_WAIT_LOOK, worker, NULL);
    nodes_attach_fail(self, worker, err, reason);
    nodes_detach(self, worker, reason);
    nodes_go_away(self, worker, reason);
}

static void
settle(struct nodes *self, struct worker *worker, muster_err err)
{
    int64_t seq = worker->covered;

    worker->covered = 0;
    if (!err && !is_written(self, worker, seq))
        err = MUSTER_STORAGE_ERROR;
    if (err)
        nodes_doubt(self, worker, err);
    else
        nodes_parcels_written(self, worker, seq);
}

/* ---- the flush is done ----------------------------------------------------------------------------------------------
 */

static void
after_attach(struct nodes *self, struct nodes_wait *wait, muster_err err)
{
    struct worker *worker = wait->worker;

    if (worker->join == NULL || worker->join->attachment != wait->attachment)
        return; /* it was given up */
    if (!err && !is_written(self, worker, 0))
        err = MUSTER_STORAGE_ERROR;
    if (err)
        nodes_doubt(self, worker, err);
    else
        nodes_attach_written(self, worker);
}

static void
go_on(struct nodes *self, struct nodes_wait *wait, muster_err err)
{
    wait->worker->waits--;
    switch (wait->kind) {
    case NODES_WAIT_ATTACH:
        after_attach(self, wait, err);
        return;
    case NODES_WAIT_DRAIN:
        nodes_after_drain(self, wait, err);
        return;
    case NODES_WAIT_FORGET:
        nodes_after_forget(self, wait, err);
        return;
    case NODES_WAIT_LEAVE:
        nodes_left(self, wait->worker, &wait->caller);
        return;
    case NODES_WAIT_LOOK:
        if (err || look(self, wait->worker))
            nodes_wait(self, NODES_WAIT_LOOK, wait->worker, NULL);
    }
}

void
nodes_on_flushed(struct nodes *self, muster_err err)
{
    struct nodes_wait *wait, **at = &self->waits;
    size_t i;

    self->flush_token = 0;
    muster_timer_end(self->ctx, NODES_TIMER_FLUSH);
    for (i = 0; i < self->worker_count; i++)
        if (self->workers[i]->covered)
            settle(self, self->workers[i], err);
    while ((wait = *at)) {
        if (!wait->covered) {
            at = &wait->next;
            continue;
        }
        *at = wait->next;
        go_on(self, wait, err);
        muster_caller_free(&wait->caller);
        free(wait);
    }
    if (err && self->flush_due) { /* a disk that fails is not asked in a circle */
        self->flush_paused = true;
        muster_timer_in(self->ctx, PAUSE_MS, NODES_TIMER_FLUSH);
    }
}
