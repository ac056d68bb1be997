/* SPDX-License-Identifier: MPL-2.0 */
/* queue_end: what attempts come to, and the ends of jobs.  The queue actor's thread.
 *
 * An end that cannot be written is written again until it is on disk; nobody is told of it before. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_journal.h"
#include "actors/queue.h"
#include "actors/queue_due.h"
#include "actors/queue_node.h"
#include "actors/queue_record.h"
#include "actors/queue_show.h"
#include "actors/queue_site.h"

#define COMMIT_PAUSE_MS 1000            /* before an end that could not be written is tried again */
#define OVERDUE_MS 60000                /* an agent may be so late with its report before the attempt counts as lost */
#define OVERDUE_STEPS 6                 /* and as many steps of its end, of stop_timeout each */
#define LONGEST_MS INT64_C(31536000000) /* a duration that is longer comes of a clock that was set */

/* Who sent the report once more. */
struct queue_repeat {
    char reply_to[129], node[65];
    int64_t parcel;
};

/* ---- workers' reports ---- */

void
queue_report_ignored(struct queue_actor *self, const struct queue_report *report)
{
    struct queue_reported told = queue_reported_of(report);

    if (queue_is_awaited(report))
        queue_tell_surely(self, report->reply_to, &queue_reported_type, &told);
}

void
queue_report_repeated(struct queue_job *job, const struct queue_report *report)
{
    if (!queue_is_awaited(report))
        return;
    if (job->repeat == NULL)
        job->repeat = muster_alloc(sizeof *job->repeat);
    snprintf(job->repeat->reply_to, sizeof job->repeat->reply_to, "%s", report->reply_to);
    snprintf(job->repeat->node, sizeof job->repeat->node, "%s", report->node ? report->node : "");
    job->repeat->parcel = report->parcel;
}

static void
tell_repeat(struct queue_actor *self, const struct queue_job *job)
{
    const struct queue_repeat *repeat = job->repeat;
    struct queue_report report = {.job = job->id, .attempt = job->attempt};

    if (repeat == NULL)
        return;
    report.reply_to = repeat->reply_to;
    report.node = repeat->node;
    report.parcel = repeat->parcel;
    queue_report_ignored(self, &report);
}

/* ---- the last commit ---- */

void
queue_commit_later(struct queue_actor *self, struct queue_job *job)
{
    muster_timer_in(self->ctx, COMMIT_PAUSE_MS, queue_timer_of(job));
}

void
queue_commit_end(struct queue_actor *self, struct queue_job *job)
{
    if (muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &job->commit))
        queue_commit_later(self, job);
}

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

void
queue_ended(struct queue_actor *self, struct queue_job *job)
{
    muster_timer_end(self->ctx, queue_timer_of(job));
    queue_say_ended(self->ctx, job);
    tell_waiters(self, job);
    tell_repeat(self, job);
    queue_job_free(&self->table, job);
}

int64_t
queue_duration_ms(int64_t started_ms, int64_t finished_ms)
{
    int64_t duration_ms = finished_ms - started_ms;

    if (duration_ms < 1)
        return 1;
    return duration_ms < LONGEST_MS ? duration_ms : LONGEST_MS;
}

/* A new mean, an eighth of it the last duration. */
static void
measure(struct queue_team *team, int64_t duration_ms)
{
    team->mean_ms += team->mean_ms ? (duration_ms - team->mean_ms) / 8 : duration_ms;
}

static void
count_end(struct queue_job *job)
{
    switch (job->state) {
    case job_state_COMPLETED:
        job->team->completed++;
        measure(job->team, queue_duration_ms(job->started_ms, job->finished_ms));
        break;
    case job_state_CANCELLED:
        job->team->cancelled++;
        break;
    default:
        job->team->failed++;
    }
}

void
queue_finish(struct queue_actor *self, struct queue_job *job, const struct queue_report *report)
{
    muster_timer_end(self->ctx, queue_timer_of(job));
    queue_watch_at(self, job, 0);
    job->state = report->state;
    job->reported = queue_is_awaited(report);
    job->finished_ms = muster_now_ms(self->ctx);
    queue_job_enter(&self->table, job, PHASE_FINISH, false);
    queue_record_end(self->ctx, job, report);
    count_end(job);
    queue_commit_end(self, job);
}

/* ---- again ---- */

static int64_t
at_most(int64_t value, int64_t limit)
{
    return value < limit ? value : limit;
}

/* 75 to 125 percent of the pause, no two jobs alike, so that those which failed together do not come back together. */
static int64_t
spread(const struct queue_job *job, int64_t pause_ms, int64_t longest_ms)
{
    int64_t least_ms = pause_ms * 3 / 4, most_ms = at_most(pause_ms + pause_ms / 4, longest_ms);
    uint64_t tail;

    memcpy(&tail, job->id.bytes + sizeof job->id.bytes - sizeof tail, sizeof tail);
    return least_ms + (int64_t)(queue_scatter(tail + (uint64_t)job->failures) % (uint64_t)(most_ms - least_ms + 1));
}

/* Doubled for each failure after the first, up to the longest pause; and as long as the agent was told to wait. */
static int64_t
retry_pause_ms(struct queue_actor *self, const struct queue_job *job, int64_t told_ms)
{
    const struct queue_options *options = muster_ctx_options(self->ctx)->queue;
    int64_t longest_ms = options->max_retry_delay, pause_ms = options->retry_delay, i;

    if (job->max_retry_delay_ms > 0)
        longest_ms = at_most(job->max_retry_delay_ms, longest_ms);
    if (job->retry_delay_ms > 0)
        pause_ms = job->retry_delay_ms;
    for (i = 1; i < job->failures && pause_ms < longest_ms; i++)
        pause_ms *= 2;
    pause_ms = spread(job, at_most(pause_ms, longest_ms), longest_ms);
    told_ms = at_most(told_ms, options->max_delay); /* an agent may say any number */
    return told_ms > pause_ms ? told_ms : pause_ms;
}

static void
retry_later(struct queue_actor *self, struct queue_job *job, const struct queue_report *report, int64_t pause_ms)
{
    job->state = job_state_RETRYING;
    job->not_before_ms = muster_now_ms(self->ctx) + pause_ms;
    queue_job_enter(&self->table, job, PHASE_DELAY, false);
    muster_timer_in(self->ctx, pause_ms, queue_timer_of(job));
    queue_watch(self, job);
    if (!queue_record_retry(self->ctx, job, report, pause_ms))
        queue_report_ignored(self, report);
    queue_say_retrying(self->ctx, job, report, pause_ms);
}

static void
park(struct queue_actor *self, struct queue_job *job, const struct queue_report *report)
{
    muster_timer_end(self->ctx, queue_timer_of(job));
    job->state = job_state_PARKED;
    job->spot.since_ms = job->created_ms;
    self->parked++;
    queue_job_enter(&self->table, job, PHASE_WAIT, true);
    if (!queue_record_park(self->ctx, job, report))
        queue_report_ignored(self, report);
}

/* ---- what attempts come to ---- */

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
    int64_t pause_ms;

    if (repeatable && self->draining) { /* whoever ends the daemon may have ended its agents, too */
        park(self, job, report);
        return;
    }
    job->failures++;
    if (repeatable && job->failures < job->max_attempts) {
        pause_ms = retry_pause_ms(self, job, report->retry_after_ms);
        if (job->deadline_ms == 0 || muster_now_ms(self->ctx) + pause_ms < job->deadline_ms) {
            retry_later(self, job, report, pause_ms);
            return;
        }
    }
    queue_finish(self, job, report);
}

void
queue_finish_expired(struct queue_actor *self, struct queue_job *job, const struct queue_report *attempt)
{
    struct queue_report expired = *attempt;

    expired.state = job_state_FAILED;
    expired.code = muster_err_code(MUSTER_DEADLINE_EXCEEDED);
    expired.message = muster_err_text(MUSTER_DEADLINE_EXCEEDED);
    queue_finish(self, job, &expired);
}

void
queue_conclude(struct queue_actor *self, struct queue_job *job, const struct queue_report *report)
{
    struct queue_report other = *report;

    queue_job_use(job, report->usage);
    replace(&job->session, report->session);
    if (report->state == job_state_COMPLETED) {
        queue_finish(self, job, report);
    } else if (job->expired) {
        queue_finish_expired(self, job, report);
    } else if (job->given_up && report->state == job_state_CANCELLED && job->cancelled_by == NULL) {
        other.state = job_state_FAILED;
        other.code = muster_err_code(MUSTER_AGENT_HUNG);
        other.message = "the agent did not begin or end the attempt in time";
        conclude_failed(self, job, &other);
    } else if (job->cancelled_by || report->state == job_state_CANCELLED) {
        other.state = job_state_CANCELLED;
        queue_finish(self, job, &other);
    } else if (report->state == job_state_PARKED) {
        park(self, job, report);
    } else {
        conclude_failed(self, job, report);
    }
}

/* ---- attempts that are to end ---- */

int64_t
queue_overdue_ms(const struct queue_team *team)
{
    return OVERDUE_MS + (team->options ? OVERDUE_STEPS * team->options->stop_timeout : 0);
}

muster_err
queue_drop_attempt(struct queue_actor *self, struct queue_job *job)
{
    struct agent_cancel cancel = {.job = job->id, .attempt = job->attempt};

    if (job->site->address == NULL)
        return MUSTER_NOT_FOUND;
    if (job->handovers > 0)
        return MUSTER_OK;
    return muster_tell(self->ctx, job->site->address, &agent_cancel_type, &cancel);
}

/* What the agent of a worker that is away does is not known: its lease, or its return, decides. */
static bool
is_out_of_reach(struct queue_actor *self, struct queue_job *job)
{
    if (job->site->state != node_state_AWAY)
        return false;
    if (job->site->told)
        muster_timer_in(self->ctx, queue_overdue_ms(job->team), queue_timer_of(job));
    else
        queue_lose(self, job, "nobody knows the worker any more");
    return true;
}

/* Have the agent drop the attempt, so that it can never run beside the next one; and if the agent does not even report
 * that, count it as lost. */
void
queue_give_up(struct queue_actor *self, struct queue_job *job)
{
    struct queue_report lost = {.state = job_state_FAILED,
                                .code = "AGENT_HUNG",
                                .message = "the agent did not report the end of the attempt",
                                .session = job->session};
    struct queue_reported told = {.job = job->id, .attempt = job->attempt};

    if (is_out_of_reach(self, job))
        return;
    muster_journal_say(muster_ctx_journal(self->ctx), ERROR, "report-missing", "An attempt is given up.",
                       MUSTER_SAY_TEXT("team", job->team->name), MUSTER_SAY_NUMBER("attempt", job->attempt));
    if (!job->given_up && queue_drop_attempt(self, job) == MUSTER_OK) {
        job->given_up = true;
        muster_timer_in(self->ctx, queue_overdue_ms(job->team), queue_timer_of(job));
        return;
    }
    if (queue_site_is_worker(job->site)) { /* what it still says of the attempt does not count */
        told.node = job->site->node;
        queue_tell_surely(self, MUSTER_NODES, &queue_reported_type, &told);
    }
    queue_conclude(self, job, &lost);
}

bool
queue_is_over(const struct queue_actor *self, const struct queue_job *job)
{
    return job->deadline_ms > 0 && job->deadline_ms <= muster_now_ms(self->ctx);
}

/* Its agent is to drop the attempt; whatever it reports then but success ends the job.  An agent that is being
 * restarted has dropped it. */
static void
expire_running(struct queue_actor *self, struct queue_job *job)
{
    muster_err err;

    if (job->cancelled_by || job->expired)
        return;
    err = queue_drop_attempt(self, job);
    if (err == MUSTER_OVERLOADED) {
        queue_watch_at(self, job, muster_now_ms(self->ctx) + QUEUE_TRY_AGAIN_MS);
        return;
    }
    job->expired = true;
    if (!err && !job->given_up) {
        job->given_up = true;
        muster_timer_in(self->ctx, queue_overdue_ms(job->team), queue_timer_of(job));
    }
}

void
queue_expire(struct queue_actor *self, struct queue_job *job)
{
    struct queue_report nothing = {.state = job_state_FAILED};

    if (job->phase == PHASE_RUN)
        expire_running(self, job);
    else
        queue_finish_expired(self, job, &nothing);
}
