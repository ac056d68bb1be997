/* SPDX-License-Identifier: MPL-2.0 */
/* nodes: the hub's side of workers, which run teams on other hosts.
 *
 * A worker attaches itself and from then on has a lease, which each sign of life begins anew.  The queue decides what
 * it does; nodes hands attempts on to it as answers to its worker.attach, knows which of them it has, and hands on what
 * it sends of these: events to the log, reports by way of the log to the queue.  What a worker sends is acknowledged
 * when it is on disk.  Whether a report counts is the queue's to say.
 *
 * Keeps a record of each worker: which of its parcels have come, what an operator wants of it.  On restart all workers
 * that have not left are away with a full lease, and attach themselves anew.
 * Full mailboxes: parcels are refused and come again; what the queue, the log and workers must be told waits here. */
#include <stdlib.h>
#include <string.h>

#include "actors/nodes.h"

/* ---- what all files need --------------------------------------------------------------------------------------------
 */

const void *
nodes_copy(const struct muster_type *type, const void *in, struct muster_arena *arena)
{
    struct muster_buf packed = {0};
    void *out = muster_arena_alloc(arena, type->size);
    muster_err err;

    muster_pack(type, in, &packed);
    err = muster_unpack(type, packed.data, packed.size, arena, out, NULL);
    MUSTER_ASSERT(err == MUSTER_OK); /* `in` was decoded by the same rows */
    muster_buf_free(&packed);
    return out;
}

void
nodes_await(struct nodes *self)
{
    if (outbox_waiting(&self->queue_outbox) || outbox_waiting(&self->log_outbox) || outbox_waiting(&self->bus_outbox))
        muster_timer_in(self->ctx, OUTBOX_PAUSE_MS, NODES_TIMER_OUTBOX);
}

void
nodes_send(struct nodes *self, const struct muster_caller *caller, const struct muster_type *type, const void *body)
{
    struct muster_buf packed = {0};

    muster_caller_pack(caller, type, body, &packed);
    outbox_send(&self->bus_outbox, self->ctx, muster_caller_address(caller), packed.data, packed.size);
    nodes_await(self);
    muster_buf_free(&packed);
}

void
nodes_fail(struct nodes *self, struct muster_caller **caller_p, muster_err err, int64_t retry_after_s, const char *text)
{
    muster_explain(self->ctx, retry_after_s, "%s", text);
    muster_caller_answer(self->ctx, caller_p, err, NULL, NULL);
}

int64_t
nodes_pack_request(struct nodes *self, const struct muster_type *type, const void *body, struct muster_buf *out)
{
    struct muster_envelope envelope = {
        .id = ++self->last_token, .reply_to = muster_ctx_address(self->ctx), .trace = "", .principal = {.name = ""}};

    muster_envelope_pack(&envelope, type, body, out);
    return envelope.id;
}

void
nodes_say_attempt(struct nodes *self, const struct worker *worker, const struct nodes_attempt *attempt,
                  struct muster_say out_says[NODES_SAYS])
{
    char text[MUSTER_ID_TEXT];

    muster_id_text(&attempt->job, text);
    out_says[0] = MUSTER_SAY_TEXT("message_id", muster_arena_printf(muster_ctx_arena(self->ctx), "msg_%s", text));
    out_says[1] = MUSTER_SAY_TEXT("request_id", attempt->trace);
    out_says[2] = MUSTER_SAY_TEXT("node", worker->record.name);
    out_says[3] = MUSTER_SAY_NUMBER("attempt", attempt->attempt);
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static void
find_teams(struct nodes *self)
{
    const struct options *options = muster_ctx_options(self->ctx);
    size_t i;

    self->teams = muster_alloc((options->teams.count + 1) * sizeof *self->teams);
    for (i = 0; i < options->teams.count; i++)
        if (options->teams.items[i].driver == driver_kind_REMOTE)
            self->teams[self->team_count++] = (struct nodes_team){.options = &options->teams.items[i], .dirty = true};
}

/* A worker that was there before the start; it has its whole lease to come back. */
static bool
recover(void *arg, const void *found, struct muster_arena *arena)
{
    struct nodes *self = arg;
    const struct node *record = found;
    struct worker *worker = nodes_add(self, record->name);

    (void)arena;
    nodes_set_record(worker, record, NULL);
    worker->state = record->left ? node_state_LEFT : node_state_AWAY;
    worker->heard_uptime_ms = muster_uptime_ms(self->ctx);
    worker->unsure = MUSTER_OVERLOADED;
    nodes_wait(self, NODES_WAIT_LOOK, worker, NULL);
    nodes_tell_queue(self, worker, NULL); /* of one that has left, too: a job may have been on its way to it */
    nodes_arm(self, worker);
    return true;
}

static muster_err
init(void *actor, struct muster_ctx *ctx, const void *config)
{
    struct nodes *self = actor;
    muster_err err;

    (void)config;
    self->ctx = ctx;
    self->last_token = INT64_C(1) << 40; /* unlike what others number */
    self->dirty = true;
    outbox_init(&self->queue_outbox);
    outbox_init(&self->log_outbox);
    outbox_init(&self->bus_outbox);
    find_teams(self);
    err = muster_store_walk(muster_ctx_store(ctx), &node_type, NULL, NULL, MUSTER_OLDEST_FIRST, recover, self);
    nodes_flush(self);
    return err;
}

static void
fini(void *actor)
{
    struct nodes *self = actor;
    struct nodes_wait *wait;
    size_t i;

    while ((wait = self->waits)) {
        self->waits = wait->next;
        muster_caller_free(&wait->caller);
        free(wait);
    }
    for (i = 0; i < self->worker_count; i++)
        nodes_free_worker(self->workers[i]);
    free(self->workers);
    free(self->attached);
    free(self->teams);
    nodes_attempts_free(&self->early);
    outbox_fini(&self->queue_outbox);
    outbox_fini(&self->log_outbox);
    outbox_fini(&self->bus_outbox);
}

/* ---- from workers ---------------------------------------------------------------------------------------------------
 */

/* The worker that is attached so, and whose key it is. */
static muster_err
find_caller(struct nodes *self, int64_t attachment, struct worker **out_worker)
{
    struct worker *worker = nodes_find_attached(self, attachment);

    if (worker == NULL || !muster_id_equal(&worker->record.key, &muster_ctx_envelope(self->ctx)->principal.key)) {
        muster_explain(self->ctx, 0, "the worker is not attached so any more; attach again");
        return MUSTER_CONFLICT;
    }
    *out_worker = worker;
    return MUSTER_OK;
}

MUSTER_ON(nodes, worker_attach);
static muster_err
on_worker_attach(struct nodes *self, const struct worker_attach *in)
{
    return nodes_on_attach(self, in);
}

MUSTER_ON(nodes, worker_beat);
static muster_err
on_worker_beat(struct nodes *self, const struct worker_beat *in)
{
    struct worker *worker;
    muster_err err = find_caller(self, in->attachment, &worker);

    if (!err)
        nodes_on_beat(self, worker, in);
    return err;
}

MUSTER_ON(nodes, worker_parcel);
static muster_err
on_worker_parcel(struct nodes *self, const struct worker_parcel *in)
{
    struct worker *worker;
    muster_err err = find_caller(self, in->attachment, &worker);

    return err ? err : nodes_on_parcel(self, worker, in);
}

MUSTER_ON(nodes, worker_leave);
static muster_err
on_worker_leave(struct nodes *self, const struct worker_leave *in)
{
    struct worker *worker;
    muster_err err = find_caller(self, in->attachment, &worker);

    return err ? err : nodes_on_leave(self, worker);
}

MUSTER_ON(nodes, node_gone);
static muster_err
on_node_gone(struct nodes *self, const struct node_gone *in)
{
    const char *reason = "Its connection has ended.";
    struct worker *worker = nodes_find_attached(self, in->attachment);
    size_t i;

    if (worker) {
        nodes_detach(self, worker, NULL);
        nodes_go_away(self, worker, reason);
        return MUSTER_OK;
    }
    for (i = 0; i < self->worker_count; i++) {
        worker = self->workers[i];
        if (worker->join && worker->join->attachment == in->attachment) {
            nodes_attach_fail(self, worker, MUSTER_OK, reason);
            break;
        }
    }
    return MUSTER_OK;
}

/* ---- from the queue -------------------------------------------------------------------------------------------------
 */

static void
keep_early(struct nodes *self, const struct agent_cancel *in)
{
    if (self->early.count >= NODES_EARLY_MAX)
        nodes_attempt_remove(&self->early, &self->early.items[0]);
    nodes_attempt_add(&self->early, &in->job, in->attempt)->park = in->park;
}

void
nodes_send_early(struct nodes *self, const struct worker *worker, const struct muster_id *job, int64_t attempt)
{
    struct nodes_attempt *early = nodes_attempt_find(&self->early, job, attempt);
    struct agent_cancel cancel = {.job = *job, .attempt = attempt};

    if (early == NULL)
        return;
    cancel.park = early->park;
    nodes_attempt_remove(&self->early, early);
    nodes_send(self, worker->caller, &agent_cancel_type, &cancel);
}

static void
open_attempt(struct nodes *self, struct worker *worker, const struct agent_run *in)
{
    struct nodes_attempt *attempt = nodes_attempt_add(&worker->open, &in->job, in->attempt);
    const struct nodes_team *team = in->team ? nodes_team_find(self, in->team) : NULL;
    struct muster_say says[NODES_SAYS + 1];

    attempt->team = team ? team->options : NULL;
    free(attempt->trace);
    attempt->trace = muster_strdup(in->trace ? in->trace : "");
    nodes_say_attempt(self, worker, attempt, says);
    says[NODES_SAYS] = MUSTER_SAY_TEXT("team", in->team);
    muster_journal_write(muster_ctx_journal(self->ctx), log_level_INFO, "job-handed-over",
                         "An attempt was handed over to a worker.", says, NODES_SAYS + 1);
    self->dirty = true;
}

MUSTER_ON(nodes, agent_run);
static muster_err
on_agent_run(struct nodes *self, const struct agent_run *in)
{
    struct worker *worker = nodes_find_attached(self, in->attachment);

    if (worker == NULL || in->node == NULL || strcmp(worker->record.name, in->node) != 0 ||
        worker->state == node_state_LEFT)
        return MUSTER_OK; /* too late: the queue was told so by queue.node */
    open_attempt(self, worker, in);
    nodes_send(self, worker->caller, &agent_run_type, in);
    nodes_send_early(self, worker, &in->job, in->attempt);
    return MUSTER_OK;
}

MUSTER_ON(nodes, agent_cancel);
static muster_err
on_agent_cancel(struct nodes *self, const struct agent_cancel *in)
{
    struct worker *worker = nodes_of_attempt(self, &in->job, in->attempt);

    if (worker && worker->caller)
        nodes_send(self, worker->caller, &agent_cancel_type, in);
    else /* the attempt is on its way through the store, or the worker is about to be welcome */
        keep_early(self, in);
    return MUSTER_OK;
}

MUSTER_ON(nodes, queue_noded);
static muster_err
on_queue_noded(struct nodes *self, const struct queue_noded *in)
{
    struct worker *worker = nodes_find(self, in->node);

    if (worker)
        nodes_attach_known(self, worker, in);
    return MUSTER_OK;
}

MUSTER_ON(nodes, queue_reported);
static muster_err
on_queue_reported(struct nodes *self, const struct queue_reported *in)
{
    struct worker *worker = in->node ? nodes_find(self, in->node) : NULL;

    if (worker)
        nodes_on_reported(self, worker, in);
    return MUSTER_OK;
}

/* ---- from operators -------------------------------------------------------------------------------------------------
 */

MUSTER_ON(nodes, node_drain);
static muster_err
on_node_drain(struct nodes *self, const struct node_drain *in)
{
    return nodes_on_drain(self, in);
}

MUSTER_ON(nodes, node_forget);
static muster_err
on_node_forget(struct nodes *self, const struct node_forget *in)
{
    return nodes_on_forget(self, in);
}

/* ---- answers --------------------------------------------------------------------------------------------------------
 */

MUSTER_ON(nodes, store_committed);
static muster_err
on_store_committed(struct nodes *self, const struct store_committed *in)
{
    (void)in;
    if (self->flush_token && muster_ctx_envelope(self->ctx)->id == self->flush_token)
        nodes_on_flushed(self, MUSTER_OK);
    return MUSTER_OK;
}

/* Of the flush, of a queue.node; or of an agent.run that could not be written, which only the queue is to know. */
MUSTER_ON(nodes, failed);
static muster_err
on_failed(struct nodes *self, const struct failed *in)
{
    int64_t id = muster_ctx_envelope(self->ctx)->id;
    muster_err err = muster_err_from_code(in->code);
    size_t i;

    if (id == 0)
        return MUSTER_OK;
    if (id == self->flush_token) {
        nodes_on_flushed(self, err ? err : MUSTER_STORAGE_ERROR);
        return MUSTER_OK;
    }
    for (i = 0; i < self->worker_count; i++)
        if (self->workers[i]->join && self->workers[i]->join->token == id) {
            nodes_attach_fail(self, self->workers[i], err ? err : MUSTER_OVERLOADED,
                              in->message ? in->message : "The queue does not answer.");
            break;
        }
    return MUSTER_OK;
}

/* ---- timers ---------------------------------------------------------------------------------------------------------
 */

static void
on_worker_timer(struct nodes *self, uint64_t key)
{
    size_t i;

    for (i = 0; i < self->worker_count; i++)
        if (self->workers[i]->number == key / NODES_TIMERS)
            break;
    if (i == self->worker_count)
        return;
    if (key % NODES_TIMERS == NODES_TIMER_LEASE)
        nodes_on_lease(self, self->workers[i]);
    else
        nodes_attach_fail(self, self->workers[i], MUSTER_OVERLOADED, "The hub did not get to it in time; try again.");
}

static void
timer(void *actor, uint64_t key)
{
    struct nodes *self = actor;

    if (key >= NODES_TIMER_WORKER) {
        on_worker_timer(self, key - NODES_TIMER_WORKER);
    } else if (key == NODES_TIMER_FLUSH) {
        nodes_flush_again(self);
    } else {
        outbox_push(&self->queue_outbox, self->ctx);
        outbox_push(&self->log_outbox, self->ctx);
        outbox_push(&self->bus_outbox, self->ctx);
        nodes_await(self);
    }
}

static void
idle(void *actor)
{
    struct nodes *self = actor;

    nodes_flush(self);
    nodes_publish(self);
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(worker_attach),  MUSTER_ROW(worker_beat),
    MUSTER_ROW(worker_parcel),  MUSTER_ROW(worker_leave),
    MUSTER_ROW(node_gone),      MUSTER_ROW(agent_run),
    MUSTER_ROW(agent_cancel),   MUSTER_ROW(queue_noded),
    MUSTER_ROW(queue_reported), MUSTER_ROW(node_drain),
    MUSTER_ROW(node_forget),    MUSTER_ROW(store_committed),
    MUSTER_ROW(failed),         {NULL, NULL},
};

const struct muster_actor_class muster_nodes_class = {
    .name = "nodes",
    .size = sizeof(struct nodes),
    .mailbox = 65536,
    .init = init,
    .fini = fini,
    .handlers = handlers,
    .timer = timer,
    .idle = idle,
};
