/* SPDX-License-Identifier: MPL-2.0 */
/* queue: takes jobs, has agents do them, and brings each to exactly one end.
 *
 * A job's way: PHASE_SUBMIT (being written) -> PHASE_WAIT -> PHASE_RUN -> PHASE_FINISH (its end being written) -> gone
 * from memory; a delayed one goes PHASE_SUBMIT -> PHASE_DELAY -> PHASE_WAIT, and a failed attempt that may be repeated
 * PHASE_RUN -> PHASE_DELAY -> PHASE_WAIT.  One whose worker is lost goes PHASE_RUN -> PHASE_WAIT, and back when the
 * worker comes back with it before another attempt has begun.  A deadline leads from each of them to PHASE_FINISH.  A
 * report counts only for the current attempt, and only once, so nothing is finished twice.
 *
 * Persists a job before it is accepted, its attempt when it starts (before a worker gets it), and its end before
 * anybody is told of it; and which teams are paused.  On restart every job that is not final is read back and waits
 * again, until its time if it has one; one that was running goes first, and resumes its agent's session; one that a
 * worker has goes on there.  A commit that fails for want of room is refused to whoever asked; an end is written again
 * until it is on disk.  Mailbox full: submits are refused; reports are tried again by the log.
 *
 * The actor's thread runs all of queue*.c:
 *   queue_submit.c        new jobs, idempotency, repeats of failed jobs
 *   queue_start.c         dispatch
 *   queue_node.c          workers that come, go, are lost and come back
 *   queue_hold.c          jobs that wait for the worker with their session
 *   queue_end.c           what attempts come to, retries, deadlines, ends
 *   queue_pause.c         paused teams
 *   queue_recover.c       restart
 *   queue_due.c           delays and deadlines come due
 *   queue_conversation.c  jobs that are done one after the other
 *   queue_order.c         who goes next, places, estimates
 *   queue_site.c          where jobs are done
 *   queue_table.c         all of this in memory
 *   queue_record.c        commits; queue_show.c views and journal; queue_names.c a hash table */
#include "actors/queue.h"

#include <stdlib.h>

#include "actors/muster_journal.h"
#include "actors/queue_due.h"
#include "actors/queue_node.h"
#include "actors/queue_pause.h"
#include "actors/queue_show.h"
#include "actors/queue_site.h"

/* ---- birth and death ---- */

static muster_err
queue_init(void *state, struct muster_ctx *ctx, const void *config)
{
    struct queue_actor *self = state;
    muster_err err;

    (void)config;
    self->ctx = ctx;
    self->dirty = true;
    outbox_init(&self->outbox);
    queue_table_init(&self->table, muster_ctx_options(ctx));
    err = queue_recover(self);
    return err ? err : queue_pause_recover(self);
}

static void
queue_fini(void *state)
{
    struct queue_actor *self = state;

    muster_caller_free(&self->drain);
    outbox_fini(&self->outbox);
    queue_pause_fini(&self->table);
    queue_table_fini(&self->table);
}

/* ---- requests ---- */

MUSTER_ON(queue_actor, queue_submit);
static muster_err
on_queue_submit(struct queue_actor *self, const struct queue_submit *in)
{
    return queue_take(self, in);
}

/* A job that is final already, or never was. */
static muster_err
cancel_final(struct queue_actor *self, const struct queue_cancel *in)
{
    struct queue_cancelled answer = {.job = in->job};
    struct job record;
    muster_err err =
        muster_store_get(muster_ctx_store(self->ctx), &job_type, &in->job, muster_ctx_arena(self->ctx), &record);

    if (err)
        return err;
    answer.state = record.state;
    muster_reply(self->ctx, &queue_cancelled_type, &answer);
    return MUSTER_OK;
}

MUSTER_ON(queue_actor, queue_cancel);
static muster_err
on_queue_cancel(struct queue_actor *self, const struct queue_cancel *in)
{
    struct queue_job *job = queue_job_find(&self->table, &in->job);

    if (job == NULL)
        return cancel_final(self, in);
    /* An agent that is being restarted has no attempts, and the job ends when it is back. */
    if (job->phase == PHASE_RUN && queue_drop_attempt(self, job) == MUSTER_OVERLOADED) {
        muster_explain(self->ctx, 1, "the agent takes no messages at the moment; try again");
        return MUSTER_OVERLOADED;
    }
    queue_add_waiter(self, job, true);
    if (job->phase == PHASE_FINISH)
        return MUSTER_OK;
    if (job->cancelled_by == NULL)
        job->cancelled_by = muster_strdup(muster_ctx_envelope(self->ctx)->principal.name);
    if (job->phase == PHASE_RUN) {
        job->was_running = true;
    } else if (job->phase != PHASE_SUBMIT) {
        struct queue_report report = {.state = job_state_CANCELLED};

        queue_finish(self, job, &report);
    }
    return MUSTER_OK;
}

MUSTER_ON(queue_actor, queue_place);
static muster_err
on_queue_place(struct queue_actor *self, const struct queue_place *in)
{
    const struct queue_job *job = queue_job_find(&self->table, &in->job);
    struct queue_placed answer = {.position = 0};
    int64_t now_ms = muster_now_ms(self->ctx);
    muster_err err = MUSTER_OK;
    struct job record;

    if (job == NULL) {
        err = muster_store_get(muster_ctx_store(self->ctx), &job_type, &in->job, muster_ctx_arena(self->ctx), &record);
    } else if (job->phase == PHASE_RUN) {
        answer.estimate_ms = queue_estimate_running(&self->table, job, now_ms);
    } else if (job->phase == PHASE_FINISH) {
        answer.estimate_ms = now_ms;
    } else {
        answer.position = queue_position(&self->table, job, now_ms);
        answer.estimate_ms = queue_estimate(&self->table, job, answer.position, now_ms);
    }
    if (!err)
        muster_reply(self->ctx, &queue_placed_type, &answer);
    return err;
}

MUSTER_ON(queue_actor, queue_pause);
static muster_err
on_queue_pause(struct queue_actor *self, const struct queue_pause *in)
{
    return queue_pause_take(self, in);
}

/* ---- agents ---- */

/* An agent that says it is ready has no jobs: those it had were lost with its former self. */
static void
take_back(struct queue_actor *self, struct queue_site *site)
{
    struct queue_job *job, *next;

    for (job = site->runs; job; job = next) {
        struct queue_report lost = {.state = job_state_FAILED,
                                    .code = "PROCESS_ERROR",
                                    .message = "the team's agent was restarted",
                                    .session = job->session};

        next = job->behind;
        queue_conclude(self, job, &lost);
    }
}

MUSTER_ON(queue_actor, queue_ready);
static muster_err
on_queue_ready(struct queue_actor *self, const struct queue_ready *in)
{
    struct queue_team *team = queue_team_find(&self->table, in->team);
    struct queue_site *site;

    if (team == NULL)
        return MUSTER_TEAM_NOT_FOUND;
    site = queue_site_get(team, "");
    take_back(self, site);
    queue_site_reach(site, in->address);
    queue_site_set(site, node_state_UP, in->capacity);
    queue_dispatch(self);
    return MUSTER_OK;
}

MUSTER_ON(queue_actor, queue_node);
static muster_err
on_queue_node(struct queue_actor *self, const struct queue_node *in)
{
    queue_node_take(self, in);
    queue_dispatch(self);
    return MUSTER_OK;
}

static void
ignore_report(struct queue_actor *self, const struct queue_report *in)
{
    muster_journal_say(muster_ctx_journal(self->ctx), DEBUG, "report-stale", "A report of a past attempt was ignored.",
                       MUSTER_SAY_NUMBER("attempt", in->attempt));
    queue_report_ignored(self, in);
}

MUSTER_ON(queue_actor, queue_report);
static muster_err
on_queue_report(struct queue_actor *self, const struct queue_report *in)
{
    struct queue_job *job = queue_job_find(&self->table, &in->job);

    if (job == NULL || job->attempt != in->attempt) {
        ignore_report(self, in);
        return MUSTER_OK;
    }
    if (job->phase == PHASE_WAIT && job->lost) /* its worker is back, and was faster than another one */
        queue_regain(self, job, queue_site_get(job->team, job->node));
    if (job->phase == PHASE_RUN)
        queue_conclude(self, job, in);
    else if (job->phase == PHASE_FINISH && job->reported)
        queue_report_repeated(job, in);
    else
        ignore_report(self, in);
    queue_dispatch(self);
    return MUSTER_OK;
}

/* ---- commits come back ---- */

/* What was last written of a job, or of a team. */
static void
take_written(struct queue_actor *self, const struct muster_id *id, bool failed)
{
    struct queue_job *job = queue_job_find(&self->table, id);

    if (job == NULL)
        queue_pause_written(self, id, failed);
    else if (job->handovers > 0) /* the store tells in order, and nothing of a job is written beside them */
        queue_handed(self, job, failed);
    else if (job->phase == PHASE_FINISH && failed)
        queue_commit_later(self, job);
    else if (job->phase == PHASE_FINISH)
        queue_ended(self, job);
    else if (job->phase == PHASE_SUBMIT && failed)
        queue_refused(self, job);
    else if (job->phase == PHASE_SUBMIT)
        queue_taken(self, job);
}

MUSTER_ON(queue_actor, store_written);
static muster_err
on_store_written(struct queue_actor *self, const struct store_written *in)
{
    size_t i;

    for (i = 0; i < in->commits.count; i++)
        take_written(self, &in->commits.items[i].about, in->failed);
    queue_dispatch(self);
    return MUSTER_OK;
}

/* ---- shutdown ---- */

static void
park_running(struct queue_actor *self)
{
    size_t i;

    self->parking = true;
    for (i = 0; i < self->table.bucket_count; i++) {
        struct queue_job *job;

        for (job = self->table.buckets[i]; job; job = job->chain) {
            struct agent_cancel cancel = {.job = job->id, .attempt = job->attempt, .park = true};

            /* While it is handed to a worker: afterwards.  One that does not hear it is killed, and recovered. */
            if (job->phase == PHASE_RUN && job->site->address && job->handovers == 0)
                (void)muster_tell(self->ctx, job->site->address, &agent_cancel_type, &cancel);
        }
    }
}

MUSTER_ON(queue_actor, queue_drain);
static muster_err
on_queue_drain(struct queue_actor *self, const struct queue_drain *in)
{
    self->draining = true;
    self->dirty = true;
    muster_caller_free(&self->drain);
    self->drain = muster_caller_keep(self->ctx);
    if (in->now)
        park_running(self);
    return MUSTER_OK;
}

/* ---- timers and views ---- */

static void
on_job_timer(struct queue_actor *self, struct queue_job *job)
{
    if (job->phase == PHASE_FINISH)
        queue_commit_end(self, job);
    else if (job->phase == PHASE_DELAY)
        queue_wait(self, job);
    else if (job->phase == PHASE_RUN)
        queue_give_up(self, job);
}

void
queue_tell_surely(struct queue_actor *self, const char *to, const struct muster_type *type, const void *body)
{
    outbox_tell(&self->outbox, self->ctx, to, type, body);
    if (outbox_waiting(&self->outbox))
        muster_timer_in(self->ctx, OUTBOX_PAUSE_MS, QUEUE_TIMER_OUTBOX);
}

static void
push_outbox(struct queue_actor *self)
{
    outbox_push(&self->outbox, self->ctx);
    if (outbox_waiting(&self->outbox))
        muster_timer_in(self->ctx, OUTBOX_PAUSE_MS, QUEUE_TIMER_OUTBOX);
}

static void
on_timer(void *state, uint64_t key)
{
    struct queue_actor *self = state;

    if (key == QUEUE_TIMER_DUE)
        queue_wake(self);
    else if (key == QUEUE_TIMER_OUTBOX)
        push_outbox(self);
    else if (key == QUEUE_TIMER_STALLED)
        self->table.stalled = false;
    else if (key != QUEUE_TIMER_DISPATCH)
        on_job_timer(self, (struct queue_job *)(uintptr_t)key); /* a job's timer ends before the job does */
    queue_dispatch(self);
}

/* Jobs that run where they cannot be put aside: their workers keep what they come to until the daemon is back. */
static int64_t
count_out_of_reach(const struct queue_actor *self)
{
    const struct queue_site *site;
    int64_t count = 0;
    size_t i;

    for (i = 0; i < self->table.team_count; i++)
        for (site = self->table.teams[i].sites; site; site = site->next)
            count += site->state == node_state_AWAY ? site->running : 0;
    return count;
}

static bool
all_quiet(const struct queue_actor *self)
{
    size_t i;
    const struct queue_job *job;

    if (self->table.running > (self->parking ? count_out_of_reach(self) : 0))
        return false;
    for (i = 0; i < self->table.bucket_count; i++)
        for (job = self->table.buckets[i]; job; job = job->chain)
            if (job->phase == PHASE_FINISH || job->phase == PHASE_SUBMIT)
                return false;
    return true;
}

static void
on_idle(void *state)
{
    struct queue_actor *self = state;

    queue_show(self->ctx, &self->table, self->draining, self->dirty);
    self->dirty = false;
    if (self->drain && all_quiet(self)) {
        struct queue_drained drained = {.parked = self->parked};

        muster_caller_answer(self->ctx, &self->drain, MUSTER_OK, &queue_drained_type, &drained);
    }
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(queue_submit),  MUSTER_ROW(queue_cancel),
    MUSTER_ROW(queue_place),   MUSTER_ROW(queue_pause),
    MUSTER_ROW(queue_ready),   MUSTER_ROW(queue_node),
    MUSTER_ROW(queue_report),  MUSTER_ROW(queue_drain),
    MUSTER_ROW(store_written), {NULL, NULL},
};

const struct muster_actor_class muster_queue_class = {
    .name = "queue",
    .size = sizeof(struct queue_actor),
    .mailbox = 65536,
    .init = queue_init,
    .fini = queue_fini,
    .handlers = handlers,
    .timer = on_timer,
    .idle = on_idle,
};
