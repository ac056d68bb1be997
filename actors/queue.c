/* SPDX-License-Identifier: MPL-2.0 */
/* queue: takes jobs, has agents do them, and brings each to exactly one end.
 *
 * A job's way: PHASE_SUBMIT (being written) -> PHASE_WAIT -> PHASE_RUN -> PHASE_FINISH (its end being written) -> gone
 * from memory; a failed attempt that may be repeated goes PHASE_RUN -> PHASE_DELAY -> PHASE_WAIT.  A report counts only
 * for the attempt that is running, so nothing is finished twice.
 *
 * Persists a job before it is accepted, its attempt when it starts, and its end before anybody is told of it.  On
 * restart every job that is not final is read back and waits again; one that was running goes first, and resumes its
 * agent's session.  A commit that fails for want of room is refused to the submitter; an end is written again until it
 * is on disk. Mailbox full: submits are refused; reports are tried again by the log. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "actors/queue_record.h"
#include "actors/queue_show.h"

#define COMMIT_PAUSE_MS 1000  /* before an end that could not be written is tried again */
#define OVERDUE_MS 60000      /* an agent may be so late with its report before the attempt counts as lost */
#define OVERDUE_STEPS 6       /* and as many steps of its end, of stop_timeout each */
#define DISPATCH_PAUSE_MS 200 /* before jobs that could not be started are tried again */

enum { TIMER_DISPATCH = 1 }; /* all other timers are keyed by a job's address */

struct queue_actor {
    struct muster_ctx *ctx;      /* borrowed; outlives us */
    struct queue_table table;    /* all jobs that are not final */
    bool draining;               /* starts no more jobs */
    int64_t parked;              /* jobs put aside by the drain */
    struct muster_caller *drain; /* waits for running jobs to be gone */
    bool dirty;                  /* views are to be published */
};

static void finish(struct queue_actor *self, struct queue_job *job, const struct queue_report *report);
static void dispatch(struct queue_actor *self);
static void replace(char **text_p, const char *text);

/* ---- birth and death ---- */

static muster_err
queue_init(void *state, struct muster_ctx *ctx, const void *config)
{
    struct queue_actor *self = state;

    (void)config;
    self->ctx = ctx;
    self->dirty = true;
    queue_table_init(&self->table, muster_ctx_options(ctx));
    return queue_recover(ctx, &self->table);
}

static void
queue_fini(void *state)
{
    struct queue_actor *self = state;

    muster_caller_free(&self->drain);
    queue_table_fini(&self->table);
}

/* ---- starting jobs ---- */

static int64_t
overdue_ms(const struct queue_team *team)
{
    return OVERDUE_MS + (team->options ? OVERDUE_STEPS * team->options->stop_timeout : 0);
}

/* Hand the job to its team's agent, and write that it runs. */
static muster_err
hand_over(struct queue_actor *self, struct queue_job *job, struct job *record)
{
    struct agent_run run = {
        .job = job->id,
        .attempt = job->attempt + 1,
        .prompt = record->prompt,
        .session = job->session,
        .timeout_ms = job->timeout_ms,
        .trace = job->trace,
    };
    muster_err err = muster_tell(self->ctx, job->team->address, &agent_run_type, &run);

    if (err)
        return err;
    job->attempt++;
    job->state = job_state_RUNNING;
    job->given_up = false;
    job->started_ms = muster_now_ms(self->ctx);
    queue_record_apply(job, record);
    queue_record_note(self->ctx, record); /* when this one write is lost, a restart runs the attempt again: allowed */
    queue_job_enter(&self->table, job, PHASE_RUN, false);
    muster_timer_in(self->ctx, job->timeout_ms + overdue_ms(job->team), (uint64_t)(uintptr_t)job);
    return MUSTER_OK;
}

/* False: not now; it is tried again later. */
static bool
start(struct queue_actor *self, struct queue_job *job)
{
    struct job *record = muster_arena_alloc(muster_ctx_arena(self->ctx), sizeof *record);
    struct queue_report unreadable = {
        .state = job_state_FAILED, .code = "INTERNAL_ERROR", .message = "the job's record is gone"};
    muster_err err = queue_record_read(self->ctx, job, muster_ctx_arena(self->ctx), record);

    if (err == MUSTER_NOT_FOUND) {
        finish(self, job, &unreadable);
        return true;
    }
    if (!err) {
        err = hand_over(self, job, record);
        if (err == MUSTER_NOT_FOUND) {
            replace(&job->team->address, NULL); /* its agent is being restarted, and will say when it is ready */
            return true;
        }
    }
    return err == MUSTER_OK;
}

static void
dispatch(struct queue_actor *self)
{
    int64_t max_running = muster_ctx_options(self->ctx)->queue->max_running;
    struct queue_job *job;

    while (!self->draining && self->table.running < max_running) {
        job = queue_next(&self->table, muster_now_ms(self->ctx));
        if (job == NULL)
            return;
        if (!start(self, job)) {
            muster_timer_in(self->ctx, DISPATCH_PAUSE_MS, TIMER_DISPATCH);
            return;
        }
    }
}

/* ---- ends ---- */

static void
tell_waiters(struct queue_actor *self, struct queue_job *job)
{
    struct queue_finished finished = {.job = job->final};
    struct queue_cancelled cancelled = {.job = job->id, .state = job->state, .was_running = job->was_running};

    while (job->waiters) {
        struct queue_waiter *waiter = job->waiters;

        job->waiters = waiter->next;
        muster_caller_answer(self->ctx, &waiter->caller, MUSTER_OK,
                             waiter->cancel ? &queue_cancelled_type : &queue_finished_type,
                             waiter->cancel ? (const void *)&cancelled : (const void *)&finished);
        free(waiter);
    }
}

static void
commit_end(struct queue_actor *self, struct queue_job *job)
{
    if (muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &job->commit))
        muster_timer_in(self->ctx, COMMIT_PAUSE_MS, (uint64_t)(uintptr_t)job);
}

static void
count_end(struct queue_job *job)
{
    int64_t duration_ms = job->finished_ms - job->started_ms;

    switch (job->state) {
    case job_state_COMPLETED:
        job->team->completed++;
        job->team->mean_ms += job->team->mean_ms ? (duration_ms - job->team->mean_ms) / 8 : duration_ms;
        if (job->team->mean_ms < 1)
            job->team->mean_ms = 1;
        break;
    case job_state_CANCELLED:
        job->team->cancelled++;
        break;
    default:
        job->team->failed++;
    }
}

/* Bring the job to its end: completed, failed or cancelled. */
static void
finish(struct queue_actor *self, struct queue_job *job, const struct queue_report *report)
{
    muster_timer_end(self->ctx, (uint64_t)(uintptr_t)job);
    job->state = report->state;
    job->finished_ms = muster_now_ms(self->ctx);
    count_end(job);
    queue_job_enter(&self->table, job, PHASE_FINISH, false);
    queue_record_end(self->ctx, job, report);
    commit_end(self, job);
}

static int64_t
retry_pause_ms(struct queue_actor *self, const struct queue_job *job, int64_t told_ms)
{
    const struct queue_options *options = muster_ctx_options(self->ctx)->queue;
    int64_t pause_ms = options->retry_delay, i;

    for (i = 1; i < job->failures && pause_ms < options->max_retry_delay; i++)
        pause_ms *= 2;
    if (pause_ms > options->max_retry_delay)
        pause_ms = options->max_retry_delay;
    pause_ms = pause_ms * 3 / 4 + (int64_t)muster_random_below((uint32_t)(pause_ms / 2 + 1)); /* 75 to 125 percent */
    return told_ms > pause_ms ? told_ms : pause_ms;
}

static void
retry_later(struct queue_actor *self, struct queue_job *job, const struct queue_report *report)
{
    int64_t pause_ms = retry_pause_ms(self, job, report->retry_after_ms);

    job->state = job_state_RETRYING;
    job->not_before_ms = muster_now_ms(self->ctx) + pause_ms;
    queue_job_enter(&self->table, job, PHASE_DELAY, false);
    muster_timer_in(self->ctx, pause_ms, (uint64_t)(uintptr_t)job);
    queue_record_retry(self->ctx, job, report, pause_ms);
    queue_say_retrying(self->ctx, job, report, pause_ms);
}

static void
park(struct queue_actor *self, struct queue_job *job)
{
    muster_timer_end(self->ctx, (uint64_t)(uintptr_t)job);
    job->state = job_state_PARKED;
    self->parked++;
    queue_job_enter(&self->table, job, PHASE_WAIT, true);
    queue_record_park(self->ctx, job);
}

static void
replace(char **text_p, const char *text)
{
    char *copy = text && *text ? muster_strdup(text) : NULL; /* first: the text may be what is replaced */

    free(*text_p);
    *text_p = copy;
}

/* A failed attempt: again later, or never. */
static void
conclude_failed(struct queue_actor *self, struct queue_job *job, const struct queue_report *report)
{
    muster_err code = report->code ? muster_err_from_code(report->code) : MUSTER_INTERNAL_ERROR;
    bool repeatable = muster_err_retryable(code) && !report->final;

    if (repeatable && self->draining) { /* whoever ends the daemon may have ended its agents, too */
        park(self, job);
        return;
    }
    job->failures++;
    if (repeatable && job->failures < job->max_attempts)
        retry_later(self, job, report);
    else
        finish(self, job, report);
}

/* What an attempt came to. */
static void
conclude(struct queue_actor *self, struct queue_job *job, const struct queue_report *report)
{
    struct queue_report cancelled = *report;

    cancelled.state = job_state_CANCELLED;
    queue_job_use(job, report->usage);
    replace(&job->session, report->session);
    if (report->state == job_state_COMPLETED)
        finish(self, job, report);
    else if (job->cancelled_by || report->state == job_state_CANCELLED)
        finish(self, job, &cancelled);
    else if (report->state == job_state_PARKED)
        park(self, job);
    else
        conclude_failed(self, job, report);
}

/* Nobody reported the end of the attempt in time: have the agent drop it, so that it can never run beside the next one;
 * and if the agent does not even report that, count it as lost. */
static void
give_up(struct queue_actor *self, struct queue_job *job)
{
    struct agent_cancel cancel = {.job = job->id, .attempt = job->attempt};
    struct queue_report lost = {.state = job_state_FAILED,
                                .code = "AGENT_HUNG",
                                .message = "the agent did not report the end of the attempt",
                                .session = job->session};

    muster_journal_say(muster_ctx_journal(self->ctx), ERROR, "report-missing", "An attempt is given up.",
                       MUSTER_SAY_TEXT("team", job->team->name), MUSTER_SAY_NUMBER("attempt", job->attempt));
    if (!job->given_up && job->team->address &&
        muster_tell(self->ctx, job->team->address, &agent_cancel_type, &cancel) == MUSTER_OK) {
        job->given_up = true;
        muster_timer_in(self->ctx, overdue_ms(job->team), (uint64_t)(uintptr_t)job);
        return;
    }
    conclude(self, job, &lost);
}

MUSTER_ON(queue_actor, queue_report);
static muster_err
on_queue_report(struct queue_actor *self, const struct queue_report *in)
{
    struct queue_job *job = queue_job_find(&self->table, &in->job);

    if (job == NULL || job->phase != PHASE_RUN || job->attempt != in->attempt) {
        muster_journal_say(muster_ctx_journal(self->ctx), DEBUG, "report-stale",
                           "A report of a past attempt was ignored.", MUSTER_SAY_NUMBER("attempt", in->attempt));
        return MUSTER_OK;
    }
    if (job->given_up && in->state == job_state_CANCELLED && job->cancelled_by == NULL) {
        struct queue_report late = *in;

        late.state = job_state_FAILED;
        late.code = "AGENT_HUNG";
        late.message = "the agent did not begin or end the attempt in time";
        conclude(self, job, &late);
    } else {
        conclude(self, job, in);
    }
    dispatch(self);
    return MUSTER_OK;
}

/* ---- commits come back ---- */

MUSTER_ON(queue_actor, queue_written);
static muster_err
on_queue_written(struct queue_actor *self, const struct queue_written *in)
{
    struct queue_job *job = queue_job_find(&self->table, &in->job);

    if (job == NULL)
        return MUSTER_OK;
    if (job->phase == PHASE_FINISH && !in->failed) {
        muster_timer_end(self->ctx, (uint64_t)(uintptr_t)job);
        queue_say_ended(self->ctx, job);
        tell_waiters(self, job);
        queue_job_free(&self->table, job);
    } else if (job->phase == PHASE_FINISH) {
        muster_timer_in(self->ctx, COMMIT_PAUSE_MS, (uint64_t)(uintptr_t)job);
    } else if (job->phase == PHASE_SUBMIT && in->failed) {
        queue_job_free(&self->table, job); /* the store has told the submitter */
    } else if (job->phase == PHASE_SUBMIT) {
        queue_job_enter(&self->table, job, PHASE_WAIT, false);
        if (job->cancelled_by) {
            struct queue_report cancelled = {.state = job_state_CANCELLED};

            finish(self, job, &cancelled);
        }
        dispatch(self);
    }
    return MUSTER_OK;
}

/* ---- requests ---- */

static void
add_waiter(struct queue_actor *self, struct queue_job *job, bool cancel)
{
    struct queue_waiter *waiter = muster_alloc(sizeof *waiter);

    waiter->caller = muster_caller_keep(self->ctx);
    waiter->cancel = cancel;
    waiter->next = job->waiters;
    job->waiters = waiter;
}

/* Is there room for one more job of this team? */
static muster_err
check_room(struct queue_actor *self, const struct queue_team *team)
{
    int64_t waiting = team->delayed, i;

    for (i = 0; i < QUEUE_PRIORITIES; i++)
        waiting += team->waiting[i];
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

MUSTER_ON(queue_actor, queue_submit);
static muster_err
on_queue_submit(struct queue_actor *self, const struct queue_submit *in)
{
    const struct muster_envelope *envelope = muster_ctx_envelope(self->ctx);
    struct queue_team *team = queue_team_find(&self->table, in->job->team);
    struct job record = *in->job;
    struct queue_job *job;
    muster_err err;

    if (team == NULL || team->options == NULL) {
        muster_explain(self->ctx, 0, "there is no team %s", in->job->team);
        return MUSTER_TEAM_NOT_FOUND;
    }
    if (queue_job_find(&self->table, &record.id))
        return MUSTER_EXISTS;
    err = check_room(self, team);
    if (err)
        return err;
    queue_record_begin(self->ctx, team, envelope, &record);
    job = queue_job_add(&self->table, team, &record);
    job->waiting_since_ms = job->created_ms;
    if (in->wait)
        add_waiter(self, job, false);
    err = queue_record_submit(self->ctx, job, &record);
    if (err)
        queue_job_free(&self->table, job);
    return err;
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
    struct agent_cancel cancel;

    if (job == NULL)
        return cancel_final(self, in);
    add_waiter(self, job, true);
    if (job->phase == PHASE_FINISH)
        return MUSTER_OK;
    if (job->cancelled_by == NULL)
        job->cancelled_by = muster_strdup(muster_ctx_envelope(self->ctx)->principal.name);
    if (job->phase == PHASE_RUN) {
        job->was_running = true;
        cancel = (struct agent_cancel){.job = job->id, .attempt = job->attempt};
        if (job->team->address) /* else the agent is being restarted, and the job ends when it is back */
            (void)muster_tell(self->ctx, job->team->address, &agent_cancel_type, &cancel);
        return MUSTER_OK;
    }
    if (job->phase != PHASE_SUBMIT) {
        struct queue_report report = {.state = job_state_CANCELLED};

        finish(self, job, &report);
    }
    return MUSTER_OK;
}

/* An agent that says it is ready has no jobs: those it had were lost with its former self. */
static void
take_back(struct queue_actor *self, struct queue_team *team)
{
    size_t i;

    for (i = 0; i < self->table.bucket_count && team->running > 0; i++) {
        struct queue_job *job = self->table.buckets[i], *next;

        for (; job; job = next) {
            next = job->chain;
            if (job->team == team && job->phase == PHASE_RUN) {
                struct queue_report lost = {.state = job_state_FAILED,
                                            .code = "PROCESS_ERROR",
                                            .message = "the team's agent was restarted",
                                            .session = job->session};

                conclude(self, job, &lost);
            }
        }
    }
}

MUSTER_ON(queue_actor, queue_ready);
static muster_err
on_queue_ready(struct queue_actor *self, const struct queue_ready *in)
{
    struct queue_team *team = queue_team_find(&self->table, in->team);

    if (team == NULL)
        return MUSTER_TEAM_NOT_FOUND;
    take_back(self, team);
    replace(&team->address, in->address);
    team->capacity = in->capacity;
    dispatch(self);
    return MUSTER_OK;
}

/* ---- shutdown ---- */

static void
park_running(struct queue_actor *self)
{
    size_t i;

    for (i = 0; i < self->table.bucket_count; i++) {
        struct queue_job *job;

        for (job = self->table.buckets[i]; job; job = job->chain) {
            struct agent_cancel cancel = {.job = job->id, .attempt = job->attempt, .park = true};

            if (job->phase == PHASE_RUN && job->team->address)
                (void)muster_tell(self->ctx, job->team->address, &agent_cancel_type,
                                  &cancel); /* else killed, and recovered */
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
on_timer(void *state, uint64_t key)
{
    struct queue_actor *self = state;
    struct queue_job *job = (struct queue_job *)(uintptr_t)key; /* a job's timer ends before the job does */

    if (key == TIMER_DISPATCH) {
        dispatch(self);
        return;
    }
    if (job->phase == PHASE_FINISH) {
        commit_end(self, job);
    } else if (job->phase == PHASE_DELAY) {
        job->state = job_state_QUEUED;
        job->waiting_since_ms = muster_now_ms(self->ctx);
        queue_job_enter(&self->table, job, PHASE_WAIT, false);
    } else if (job->phase == PHASE_RUN) {
        give_up(self, job);
    }
    dispatch(self);
}

static bool
all_quiet(const struct queue_actor *self)
{
    size_t i;
    const struct queue_job *job;

    if (self->table.running > 0)
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
    MUSTER_ROW(queue_submit),
    MUSTER_ROW(queue_cancel),
    MUSTER_ROW(queue_ready),
    MUSTER_ROW(queue_report),
    MUSTER_ROW(queue_drain),
    MUSTER_ROW(queue_written),
    {NULL, NULL},
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
