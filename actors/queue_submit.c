/* SPDX-License-Identifier: MPL-2.0 */
/* queue_submit: takes new jobs, or answers with the job that was taken before.  The queue actor's thread.
 *
 * What can fail: the team, the times, the room and the store; nothing is kept of a job that is refused. */
#include <string.h>

#include "actors/queue.h"
#include "actors/queue_due.h"
#include "actors/queue_record.h"

void
queue_add_waiter(struct queue_actor *self, struct queue_job *job, bool cancel)
{
    struct queue_waiter *waiter = muster_alloc(sizeof *waiter);

    waiter->caller = muster_caller_keep(self->ctx);
    waiter->cancel = cancel;
    waiter->next = job->waiters;
    job->waiters = waiter;
}

/* ---- what was taken before ---- */

/* Tell what was told then.  A job's end is told to those that waited from its begin only: a repeated submit with `wait`
 * gets no queue.finished, and whoever sent it reads the record. */
static void
answer_repeated(struct queue_actor *self, const struct job *earlier)
{
    struct queue_accepted answer = {.job = earlier->id,
                                    .position = earlier->position,
                                    .estimate_ms = earlier->estimate_ms,
                                    .created_ms = earlier->created_ms,
                                    .repeated = true};

    muster_reply(self->ctx, &queue_accepted_type, &answer);
}

static bool
same_bytes(const void *a, size_t a_size, const void *b, size_t b_size)
{
    return a_size == b_size && (a_size == 0 || memcmp(a, b, a_size) == 0);
}

static muster_err
refuse_mismatch(struct queue_actor *self)
{
    muster_explain(self->ctx, 0, "this Idempotency-Key was used for another request");
    return MUSTER_IDEMPOTENCY_MISMATCH;
}

/* The newest job with the key, which alone counts. */
struct newest {
    struct muster_ctx *ctx;
    const struct job *submitted;
    bool found, same; /* taken within the window; asked the same */
    struct job job;   /* no texts */
};

static bool
take_newest(void *arg, const void *record, struct muster_arena *arena)
{
    struct newest *newest = arg;
    const struct job *job = record;
    struct muster_bytes print = job->fingerprint, wanted = newest->submitted->fingerprint;

    (void)arena;
    newest->found = muster_now_ms(newest->ctx) - job->created_ms < muster_ctx_options(newest->ctx)->queue->dedup_window;
    newest->same = same_bytes(print.data, print.size, wanted.data, wanted.size);
    newest->job = (struct job){
        .id = job->id, .position = job->position, .estimate_ms = job->estimate_ms, .created_ms = job->created_ms};
    return false;
}

/* Is it a job that was taken already, by its Idempotency-Key? */
static muster_err
find_repeated(struct queue_actor *self, const struct job *record, bool *out_answered)
{
    const struct queue_key *key = queue_key_find(&self->table, record->idempotency);
    struct newest newest = {.ctx = self->ctx, .submitted = record};
    muster_err err;

    if (key && !same_bytes(key->print, key->print_size, record->fingerprint.data, record->fingerprint.size))
        return refuse_mismatch(self);
    if (key) {
        muster_explain(self->ctx, 1, "the request with this Idempotency-Key is being accepted");
        return MUSTER_IDEMPOTENCY_IN_PROGRESS;
    }
    err = muster_store_walk(muster_ctx_store(self->ctx), &job_type, "job_by_idempotency", record->idempotency,
                            MUSTER_NEWEST_FIRST, take_newest, &newest);
    if (err)
        return err;
    if (newest.found && !newest.same)
        return refuse_mismatch(self);
    if (newest.found)
        answer_repeated(self, &newest.job);
    *out_answered = newest.found;
    return MUSTER_OK;
}

/* ---- a failed job once more ---- */

/* The failed job that this one is to repeat.  One that was repeated already is not repeated twice: that job is the
 * answer, as long as it is kept. */
static muster_err
find_original(struct queue_actor *self, const struct job *record, struct job **out_original, bool *out_answered)
{
    struct muster_arena *arena = muster_ctx_arena(self->ctx);
    struct job *original = muster_arena_alloc(arena, sizeof *original), repeat;
    muster_err err = muster_store_get(muster_ctx_store(self->ctx), &job_type, &record->retry_of, arena, original);

    if (err == MUSTER_NOT_FOUND)
        muster_explain(self->ctx, 0, "the job that is to be repeated does not exist");
    if (err)
        return err;
    if (original->state != job_state_FAILED) {
        muster_explain(self->ctx, 0, "only a failed job can be repeated; this one is %s",
                       muster_enum_wire(&job_state_enum, (int)original->state));
        return MUSTER_CONFLICT;
    }
    if (!muster_id_is_zero(&original->retried_as) &&
        muster_store_get(muster_ctx_store(self->ctx), &job_type, &original->retried_as, arena, &repeat) == MUSTER_OK) {
        answer_repeated(self, &repeat);
        *out_answered = true;
    }
    original->retried_as = record->id;
    *out_original = original;
    return MUSTER_OK;
}

/* ---- may it be taken? ---- */

static muster_err
check_times(struct queue_actor *self, const struct job *record)
{
    int64_t max_delay = muster_ctx_options(self->ctx)->queue->max_delay;
    int64_t now_ms = muster_now_ms(self->ctx);

    if (record->deadline_ms > 0 && record->deadline_ms <= now_ms) {
        muster_explain(self->ctx, 0, "the deadline has passed already");
        return MUSTER_INVALID_REQUEST;
    }
    if (record->not_before_ms - now_ms > max_delay) {
        muster_explain(self->ctx, 0, "a job may be delayed by %lld seconds at most, as queue.max_delay says",
                       (long long)(max_delay / 1000));
        return MUSTER_INVALID_REQUEST;
    }
    return MUSTER_OK;
}

/* Is there room for one more job of this team? */
static muster_err
check_room(struct queue_actor *self, const struct queue_team *team)
{
    int64_t waiting = team->waiting + team->delayed;

    if (self->draining) {
        muster_explain(self->ctx, 5, "the server is shutting down");
        return MUSTER_SHUTTING_DOWN;
    }
    if (self->table.queued >= muster_ctx_options(self->ctx)->queue->max_queued) {
        muster_explain(self->ctx, 5, "%lld jobs wait already, as many as queue.max_queued allows",
                       (long long)self->table.queued);
        return MUSTER_QUEUE_FULL;
    }
    if (waiting >= team->options->max_queued) {
        muster_explain(self->ctx, 5, "%lld jobs of team %s wait already, as many as its max_queued allows",
                       (long long)waiting, team->name);
        return MUSTER_QUEUE_FULL;
    }
    return MUSTER_OK;
}

/* ---- taking it ---- */

static muster_err
begin(struct queue_actor *self, struct queue_team *team, const struct queue_submit *in, struct job *record,
      const struct job *original)
{
    struct queue_job *job;
    muster_err err;

    queue_record_begin(self->ctx, team, muster_ctx_envelope(self->ctx), record);
    job = queue_job_add(&self->table, team, record);
    if (record->not_before_ms == 0) {
        job->spot.since_ms = record->created_ms;
        queue_line_up(&self->table, job, false);
    }
    record->position = queue_position(&self->table, job, record->created_ms);
    record->estimate_ms = queue_estimate(&self->table, job, record->position, record->created_ms);
    if (record->idempotency && *record->idempotency)
        queue_key_hold(&self->table, job, record);
    if (in->wait)
        queue_add_waiter(self, job, false);
    err = queue_record_submit(self->ctx, job, record, original);
    if (err)
        queue_job_free(&self->table, job);
    return err;
}

muster_err
queue_take(struct queue_actor *self, const struct queue_submit *in)
{
    struct queue_team *team = queue_team_find(&self->table, in->job->team);
    struct job record = *in->job, *original = NULL;
    bool answered = false;
    muster_err err = MUSTER_OK;

    if (record.idempotency && *record.idempotency)
        err = find_repeated(self, &record, &answered);
    if (err || answered)
        return err;
    if (team == NULL || team->options == NULL) {
        muster_explain(self->ctx, 0, "there is no team %s", in->job->team);
        return MUSTER_TEAM_NOT_FOUND;
    }
    if (queue_job_find(&self->table, &record.id))
        return MUSTER_EXISTS;
    if (!muster_id_is_zero(&record.retry_of))
        err = find_original(self, &record, &original, &answered);
    if (err || answered)
        return err;
    err = check_times(self, &record);
    if (!err)
        err = check_room(self, team);
    return err ? err : begin(self, team, in, &record, original);
}

void
queue_taken(struct queue_actor *self, struct queue_job *job)
{
    struct queue_report cancelled = {.state = job_state_CANCELLED};

    if (job->not_before_ms > muster_now_ms(self->ctx))
        queue_job_enter(&self->table, job, PHASE_DELAY, false);
    else if (job->spot.taken)
        queue_job_enter(&self->table, job, PHASE_WAIT, false);
    else
        queue_wait(self, job); /* its delay is over already */
    if (job->cancelled_by)
        queue_finish(self, job, &cancelled);
    else if (queue_is_over(self, job))
        queue_expire(self, job);
    else
        queue_watch(self, job);
}

/* The store has told the submitter; whoever meant to cancel the job meanwhile is told here. */
void
queue_refused(struct queue_actor *self, struct queue_job *job)
{
    struct queue_waiter *waiter;

    for (waiter = job->waiters; waiter; waiter = waiter->next)
        if (waiter->cancel)
            muster_caller_answer(self->ctx, &waiter->caller, MUSTER_NOT_FOUND, NULL, NULL);
    queue_job_free(&self->table, job);
}
