/* SPDX-License-Identifier: MPL-2.0 */
/* nodes_attach: a worker comes.
 *
 * Checked at once; then its record is written, behind all that it sent before; when that is on disk the queue is told
 * what the worker has, and says what of it is stale; then the worker is welcome.  Whatever fails on the way answers
 * `failed`, and leaves it away until its lease is over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/nodes.h"

#define JOIN_MS 10000 /* for disk and queue */
#define JOIN_RETRY_S 2
#define REASON_MAX 512

/* ---- checks ---------------------------------------------------------------------------------------------------------
 */

/* Explains, and says so in the journal: whoever set up the worker looks on either side. */
static muster_err refuse(struct nodes *self, const struct worker_attach *in, muster_err err, int64_t retry_after_s,
                         const char *format, ...) __attribute__((format(printf, 5, 6)));
static muster_err
refuse(struct nodes *self, const struct worker_attach *in, muster_err err, int64_t retry_after_s, const char *format,
       ...)
{
    char text[REASON_MAX];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    muster_explain(self->ctx, retry_after_s, "%s", text);
    self->refusals++;
    self->dirty = true;
    muster_journal_say(muster_ctx_journal(self->ctx), WARNING, "node-refused", "A worker was refused.",
                       MUSTER_SAY_TEXT("node", in->name), MUSTER_SAY_TEXT("host", in->host),
                       MUSTER_SAY_TEXT("version", in->version),
                       MUSTER_SAY_TEXT("key", muster_ctx_envelope(self->ctx)->principal.name),
                       MUSTER_SAY_TEXT("code", muster_err_code(err)), MUSTER_SAY_TEXT("reason", text));
    return err;
}

static bool
is_name(const char *name)
{
    return name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")] == '\0';
}

static bool
is_team(const struct nodes *self, const char *name)
{
    const struct options *options = muster_ctx_options(self->ctx);
    size_t i;

    for (i = 0; i < options->teams.count; i++)
        if (strcmp(options->teams.items[i].name, name) == 0)
            return true;
    return false;
}

static muster_err
check_team(struct nodes *self, const struct worker_attach *in, size_t at)
{
    const char *name = in->teams.items[at].name;
    size_t i;

    if (!is_team(self, name))
        return refuse(self, in, MUSTER_TEAM_NOT_FOUND, 0,
                      "the hub has no team %s; add `teams: %s: {driver: remote}` to the hub's configuration", name,
                      name);
    if (nodes_team_find(self, name) == NULL)
        return refuse(self, in, MUSTER_CONFLICT, 0,
                      "the hub does the jobs of the team %s itself; have `teams: %s: {driver: remote}` in the hub's "
                      "configuration to let workers do them",
                      name, name);
    for (i = 0; i < at; i++)
        if (strcmp(in->teams.items[i].name, name) == 0)
            return refuse(self, in, MUSTER_INVALID_REQUEST, 0, "the team %s is named twice", name);
    return MUSTER_OK;
}

static muster_err
check_body(struct nodes *self, const struct worker_attach *in)
{
    muster_err err = MUSTER_OK;
    size_t i;

    if (in->protocol != MUSTER_WORKER_PROTOCOL)
        return refuse(self, in, MUSTER_VERSION_MISMATCH, 0,
                      "the worker (muster %s) speaks protocol %lld and the hub (muster %s) speaks protocol %d; install "
                      "the same version of muster on both",
                      in->version, (long long)in->protocol, MUSTER_VERSION, MUSTER_WORKER_PROTOCOL);
    if (!is_name(in->name))
        return refuse(self, in, MUSTER_INVALID_REQUEST, 0,
                      "a worker's name consists of letters, digits, '.', '_' and '-'; give another one with --name");
    if (in->teams.count == 0)
        return refuse(self, in, MUSTER_INVALID_REQUEST, 0, "the worker offers no team");
    for (i = 0; i < in->teams.count && !err; i++)
        err = check_team(self, in, i);
    return err;
}

/* May this one have the name? */
static muster_err
check_owner(struct nodes *self, const struct worker *worker, const struct worker_attach *in)
{
    const struct muster_id *key = &muster_ctx_envelope(self->ctx)->principal.key;
    bool within_lease = worker->state == node_state_UP || worker->state == node_state_DRAINING ||
                        worker->state == node_state_AWAY || worker->join;
    bool other = strcmp(worker->record.epoch, in->epoch) != 0;

    if (other && (worker->join || (worker->caller && worker->state != node_state_AWAY)))
        return refuse(
            self, in, MUSTER_CONFLICT, 0,
            "another worker has the name %s, on host %s; use --name to give this one a name of its own, or, if "
            "that one has ended, wait %lld s",
            in->name, worker->record.host ? worker->record.host : "",
            (long long)(nodes_lease_ms(self) * 2 / 3 + 999) / 1000);
    if (within_lease && !muster_id_equal(&worker->record.key, key))
        return refuse(self, in, MUSTER_CONFLICT, 0,
                      "the worker %s came with another key and its lease is not over; use that key, use --name to give "
                      "this one a name of its own, or wait %lld s",
                      in->name, (long long)(nodes_lease_ms(self) + 999) / 1000);
    return MUSTER_OK;
}

static muster_err
check_room(struct nodes *self, const struct worker *worker, const struct worker_attach *in)
{
    int64_t max = muster_ctx_options(self->ctx)->workers->max_workers;
    size_t i, count = 0;

    for (i = 0; i < self->worker_count; i++)
        count += self->workers[i] != worker && (self->workers[i]->caller || self->workers[i]->join);
    if ((int64_t)count >= max)
        return refuse(self, in, MUSTER_OVERLOADED, JOIN_RETRY_S,
                      "the hub has %lld workers and takes no more; raise workers.max_workers in its configuration",
                      (long long)count);
    return MUSTER_OK;
}

/* Its record says up to which parcel it has been heard; that must be known. */
static muster_err
check_written(struct nodes *self, const struct worker *worker)
{
    if (worker->handed == 0 && worker->covered == 0)
        return nodes_check_sure(self, worker);
    muster_explain(self->ctx, 1, "what this worker sent before is still being written; try again");
    return MUSTER_OVERLOADED;
}

/* ---- on the way -----------------------------------------------------------------------------------------------------
 */

void
nodes_free_join(struct nodes_join **join_p)
{
    struct nodes_join *join = *join_p;

    if (join == NULL)
        return;
    muster_caller_free(&join->caller);
    muster_arena_free(&join->arena);
    free(join);
    *join_p = NULL;
}

static uint64_t
join_timer(const struct worker *worker)
{
    return NODES_TIMER_WORKER + NODES_TIMERS * worker->number + NODES_TIMER_JOIN;
}

void
nodes_attach_fail(struct nodes *self, struct worker *worker, muster_err err, const char *text)
{
    struct nodes_join *join = worker->join;
    bool asked = join && join->token;

    if (join == NULL)
        return;
    muster_timer_end(self->ctx, join_timer(worker));
    if (err)
        nodes_fail(self, &join->caller, err, JOIN_RETRY_S, text);
    nodes_free_join(&worker->join);
    if (worker->state == node_state_UP || worker->state == node_state_DRAINING)
        nodes_go_away(self, worker, text);
    else if (asked && worker->state == 0)
        nodes_turn(self, worker, node_state_AWAY, text);
    if (asked)
        nodes_tell_queue(self, worker, NULL); /* it was told otherwise */
}

/* Another life of the worker numbers its parcels anew.  So it seems with one that was forgotten and is back, too: its
 * events of before could come twice, so the attempts that it has are stale, until it is known to have heard that. */
static void
note_record(struct nodes *self, struct worker *worker, const struct worker_attach *in)
{
    struct muster_arena *arena = muster_ctx_arena(self->ctx);
    const char **teams = muster_arena_alloc(arena, (in->teams.count + 1) * sizeof *teams);
    struct node record = worker->record;
    size_t i;

    for (i = 0; i < in->teams.count; i++)
        teams[i] = in->teams.items[i].name;
    if (strcmp(record.epoch, in->epoch) != 0) {
        record.received = 0;
        worker->fresh = true;
        nodes_attempts_free(&worker->open);
    }
    record.epoch = in->epoch;
    record.key = muster_ctx_envelope(self->ctx)->principal.key;
    record.host = in->host;
    record.version = in->version;
    record.labels = in->labels;
    record.teams = (struct muster_strs){teams, in->teams.count};
    record.left = false;
    record.attached_ms = muster_now_ms(self->ctx);
    nodes_set_record(worker, &record, in->teams.items);
}

/* Of a fresh worker only what it got since counts. */
static void
drop_old(struct nodes_join *join, const struct worker *worker, const struct worker_attach *in)
{
    struct worker_attach kept = *in;
    struct held_attempt *held;
    size_t i;

    if (worker->fresh) {
        held = muster_arena_alloc(join->arena, (in->held.count + 1) * sizeof *held);
        join->dropped = muster_arena_alloc(join->arena, (in->held.count + 1) * sizeof *join->dropped);
        kept.held.items = held;
        kept.held.count = 0;
        for (i = 0; i < in->held.count; i++)
            if (nodes_attempt_find(&worker->open, &in->held.items[i].job, in->held.items[i].attempt))
                held[kept.held.count++] = in->held.items[i];
            else
                join->dropped[join->dropped_count++] = in->held.items[i];
    }
    join->in = nodes_copy(&worker_attach_type, &kept, join->arena);
}

static void
begin(struct nodes *self, struct worker *worker, const struct worker_attach *in)
{
    struct nodes_join *join = muster_alloc(sizeof *join);

    join->caller = muster_caller_keep(self->ctx);
    join->attachment = muster_ctx_envelope(self->ctx)->id;
    join->arena = muster_arena_new();
    drop_old(join, worker, in);
    worker->join = join;
    worker->wants_drain = false;
    muster_timer_in(self->ctx, JOIN_MS, join_timer(worker));
    nodes_wait(self, NODES_WAIT_ATTACH, worker, NULL);
}

/* A worker that has come before: what was under way for it ends. */
static void
replace(struct nodes *self, struct worker *worker)
{
    const char *text = "The worker has attached itself anew.";

    nodes_attach_fail(self, worker, MUSTER_CONFLICT, text);
    nodes_detach(self, worker, text);
}

muster_err
nodes_on_attach(struct nodes *self, const struct worker_attach *in)
{
    struct worker *worker = nodes_find(self, in->name);
    const struct muster_envelope *envelope = muster_ctx_envelope(self->ctx);
    muster_err err;

    if (envelope->id <= 0 || envelope->reply_to[0] == '\0' || nodes_find_attached(self, envelope->id)) {
        muster_explain(self->ctx, 0, "worker.attach needs a number of its own and somebody to answer to");
        return MUSTER_INVALID_REQUEST;
    }
    err = check_body(self, in);
    if (!err && worker)
        err = check_owner(self, worker, in);
    if (!err)
        err = check_room(self, worker, in);
    if (!err && worker)
        err = check_written(self, worker);
    if (err)
        return err;
    if (worker == NULL) {
        nodes_evict(self);
        worker = nodes_add(self, in->name);
    }
    replace(self, worker);
    note_record(self, worker, in);
    err = nodes_write(self, worker);
    if (err)
        nodes_doubt(self, worker, err); /* what was noted did not get there */
    else
        begin(self, worker, in);
    return err;
}

void
nodes_attach_written(struct nodes *self, struct worker *worker)
{
    worker->join->token = nodes_tell_queue(self, worker, worker->join);
}

/* ---- welcome --------------------------------------------------------------------------------------------------------
 */

/* Team and request id of an attempt that it had before we knew it. */
static void
learn(struct nodes *self, struct nodes_attempt *attempt)
{
    struct muster_arena *arena = muster_arena_new();
    const struct nodes_team *team;
    struct job job;

    if (muster_store_get(muster_ctx_store(self->ctx), &job_type, &attempt->job, arena, &job) == MUSTER_OK) {
        team = nodes_team_find(self, job.team);
        attempt->team = team ? team->options : NULL;
        free(attempt->trace);
        attempt->trace = muster_strdup(job.trace ? job.trace : "");
    }
    muster_arena_free(&arena);
}

static int
compare_held(const void *a, const void *b)
{
    const struct held_attempt *left = a, *right = b;
    int order = memcmp(&left->job, &right->job, sizeof left->job);

    return order ? order : (left->attempt > right->attempt) - (left->attempt < right->attempt);
}

/* A copy in order. */
static struct held_attempt *
sort_held(struct nodes *self, const struct held_attempt *items, size_t count)
{
    struct held_attempt *sorted = muster_arena_alloc(muster_ctx_arena(self->ctx), (count + 1) * sizeof *sorted);

    if (count > 0)
        memcpy(sorted, items, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_held);
    return sorted;
}

/* From now on it has what it says, without what is stale. */
static void
set_open(struct nodes *self, struct worker *worker, const struct worker_attach *in, const struct queue_noded *noded)
{
    const struct held_attempt *stale = sort_held(self, noded->stale.items, noded->stale.count), *held;
    struct nodes_attempts open = {.items = NULL};
    struct nodes_attempt *had, *item;
    size_t i;

    for (i = 0; i < in->held.count; i++) {
        held = &in->held.items[i];
        if (bsearch(held, stale, noded->stale.count, sizeof *stale, compare_held) ||
            nodes_attempt_find(&open, &held->job, held->attempt))
            continue;
        item = nodes_attempt_add(&open, &held->job, held->attempt);
        had = nodes_attempt_find(&worker->open, &held->job, held->attempt);
        if (had) {
            item->team = had->team;
            free(item->trace);
            item->trace = muster_strdup(had->trace);
        } else {
            learn(self, item);
        }
    }
    nodes_attempts_free(&worker->open);
    worker->open = open;
}

/* Returns how much is stale. */
static size_t
welcome(struct nodes *self, struct worker *worker, const struct queue_noded *noded)
{
    const struct nodes_join *join = worker->join;
    size_t count = noded->stale.count + join->dropped_count, i;
    struct held_attempt *stale = muster_arena_alloc(muster_ctx_arena(self->ctx), (count + 1) * sizeof *stale);
    struct worker_welcome body = {.attachment = worker->attachment,
                                  .version = MUSTER_VERSION,
                                  .epoch = muster_store_epoch(muster_ctx_store(self->ctx)),
                                  .lease_ms = nodes_lease_ms(self),
                                  .beat_ms = nodes_lease_ms(self) / 3,
                                  .received = worker->record.received,
                                  .draining = worker->record.draining};

    for (i = 0; i < count; i++)
        stale[i] = i < noded->stale.count ? noded->stale.items[i] : join->dropped[i - noded->stale.count];
    body.stale.items = stale;
    body.stale.count = count;
    nodes_send(self, worker->caller, &worker_welcome_type, &body);
    for (i = 0; i < worker->open.count; i++)
        nodes_send_early(self, worker, &worker->open.items[i].job, worker->open.items[i].attempt);
    return count;
}

void
nodes_attach_known(struct nodes *self, struct worker *worker, const struct queue_noded *noded)
{
    struct nodes_join *join = worker->join;
    size_t stale;

    if (join == NULL || join->token == 0 || join->attachment != noded->attachment)
        return;
    muster_timer_end(self->ctx, join_timer(worker));
    set_open(self, worker, join->in, noded);
    worker->caller = join->caller;
    join->caller = NULL;
    nodes_set_attached(self, worker, join->attachment);
    worker->taken = worker->acked = worker->refused = 0;
    worker->up_ms = worker->heard_ms = muster_now_ms(self->ctx);
    worker->heard_uptime_ms = muster_uptime_ms(self->ctx);
    self->attaches++;
    nodes_turn(self, worker, nodes_wanted(worker), NULL);
    nodes_publish(self); /* who was welcome is seen */
    stale = welcome(self, worker, noded);
    muster_journal_say(muster_ctx_journal(self->ctx), INFO, "node-attached", "A worker has attached itself.",
                       MUSTER_SAY_TEXT("node", worker->record.name), MUSTER_SAY_TEXT("host", worker->record.host),
                       MUSTER_SAY_TEXT("version", worker->record.version), MUSTER_SAY_NUMBER("pid", join->in->pid),
                       MUSTER_SAY_NUMBER("running", (int64_t)worker->open.count),
                       MUSTER_SAY_NUMBER("stale", (int64_t)stale),
                       MUSTER_SAY_NUMBER("received", worker->record.received));
    nodes_free_join(&worker->join);
}
