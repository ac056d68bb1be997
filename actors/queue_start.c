/* SPDX-License-Identifier: MPL-2.0 */
/* queue_start: has agents begin jobs, in their order, as long as there is room.  The queue actor's thread.  An agent
 * whose mailbox is full, or a store that cannot be read, is tried again; an agent that is not there says when it is.  A
 * worker gets an attempt once that is on disk; if it cannot be written, it is tried again, too. */
#include <stdlib.h>

#include "actors/queue.h"
#include "actors/queue_conversation.h"
#include "actors/queue_due.h"
#include "actors/queue_hold.h"
#include "actors/queue_node.h"
#include "actors/queue_record.h"
#include "actors/queue_site.h"

#define STALLED_MS 1000 /* before anything is handed to a worker again after that could not be written */

void
queue_wait(struct queue_actor *self, struct queue_job *job)
{
    job->state = job_state_QUEUED;
    job->spot.since_ms = muster_now_ms(self->ctx);
    queue_job_enter(&self->table, job, PHASE_WAIT, false);
}

void
queue_arm(struct queue_actor *self, struct queue_job *job)
{
    int64_t overdue_ms = queue_overdue_ms(job->team);
    int64_t left_ms = job->started_ms + job->timeout_ms - muster_now_ms(self->ctx);

    if (left_ms < 0 || job->given_up)
        left_ms = 0;
    else if (left_ms > job->timeout_ms) /* the clock was set back */
        left_ms = job->timeout_ms;
    muster_timer_in(self->ctx, left_ms + overdue_ms, queue_timer_of(job));
}

/* ---- handing over ---- */

/* Tell the team's own agent, and write that it runs.  Nothing of the attempt is seen before that is on disk: who saw
 * some of it is told by a restart that it begins anew. */
static muster_err
tell_agent(struct queue_actor *self, const struct queue_site *site, struct agent_run *run, const struct job *record)
{
    struct agent_written written = {.job = run->job, .attempt = run->attempt};
    muster_err err;

    run->unwritten = true;
    err = muster_tell(self->ctx, site->address, &agent_run_type, run);
    if (!err && queue_record_note(self->ctx, record, site->address, &written))
        queue_tell_surely(self, site->address, &agent_written_type, &written);
    return err;
}

/* Write that it runs, and have the worker told then: no two workers ever get the same attempt. */
static muster_err
tell_worker(struct queue_actor *self, struct queue_job *job, const struct queue_site *site, struct agent_run *run,
            const struct job *record)
{
    muster_err err;

    run->team = job->team->name;
    run->node = site->node;
    run->attachment = site->attachment;
    err = queue_record_handover(self->ctx, record, run);
    if (!err)
        job->handovers++;
    return err;
}

static void
set_node(struct queue_job *job, const struct queue_site *site)
{
    free(job->node);
    job->node = queue_site_is_worker(site) ? muster_strdup(site->node) : NULL;
}

/* Give the job to a site with room, and write that it runs. */
static muster_err
hand_over(struct queue_actor *self, struct queue_job *job, struct queue_site *site, const char *session,
          struct job *record)
{
    struct agent_run run = {
        .job = job->id,
        .attempt = job->attempt + 1,
        .prompt = record->prompt,
        .session = session,
        .timeout_ms = job->timeout_ms,
        .trace = job->trace,
        .conversation = record->conversation,
    };
    muster_err err;

    queue_record_apply(job, record);
    record->attempt = run.attempt;
    record->state = job_state_RUNNING;
    record->started_ms = muster_now_ms(self->ctx);
    record->node = queue_site_is_worker(site) ? site->node : NULL;
    err =
        queue_site_is_worker(site) ? tell_worker(self, job, site, &run, record) : tell_agent(self, site, &run, record);
    if (err)
        return err;
    job->attempt = record->attempt;
    job->state = record->state;
    job->started_ms = record->started_ms;
    job->given_up = job->lost = false;
    set_node(job, site);
    site->given = ++self->table.last_given;
    queue_job_run(&self->table, job, site);
    queue_arm(self, job);
    return MUSTER_OK;
}

/* It could not be written.  Nobody has the attempt; its number stays used. */
static void
take_back(struct queue_actor *self, struct queue_job *job)
{
    struct queue_report cancelled = {.state = job_state_CANCELLED}, nothing = {.state = job_state_FAILED};

    self->table.stalled = true;
    muster_timer_in(self->ctx, STALLED_MS, QUEUE_TIMER_STALLED);
    muster_timer_end(self->ctx, queue_timer_of(job));
    if (job->expired) {
        queue_finish_expired(self, job, &nothing);
    } else if (job->cancelled_by) {
        queue_finish(self, job, &cancelled);
    } else {
        job->state = job_state_QUEUED;
        job->spot.since_ms = job->created_ms;
        queue_job_enter(&self->table, job, PHASE_WAIT, true);
        queue_watch(self, job);
    }
}

void
queue_handed(struct queue_actor *self, struct queue_job *job, bool failed)
{
    if (--job->handovers > 0 || job->phase != PHASE_RUN) /* of an attempt that was lost since */
        return;
    if (failed)
        take_back(self, job);
    else
        queue_remind(self, job);
}

/* ---- starting ---- */

/* Where it is to run, and in which session.  NULL: it is tied to a site now, which has no room. */
static muster_err
find_site(struct queue_actor *self, struct queue_job *job, struct queue_site **out_site, const char **out_session)
{
    const char *session, *node;
    struct queue_site *site;
    muster_err err = queue_conversation_session(self->ctx, &self->table, job, &session, &node);

    if (err)
        return err;
    if (job->team->remote && session && node)
        site = queue_site_get(job->team, node);
    else
        site = queue_site_choose(job->team);
    if (!site->open) {
        queue_hold(self, job, site);
        site = NULL;
    }
    *out_site = site;
    *out_session = session;
    return MUSTER_OK;
}

static muster_err
start_at(struct queue_actor *self, struct queue_job *job, struct queue_site *site, const char *session)
{
    struct job *record = muster_arena_alloc(muster_ctx_arena(self->ctx), sizeof *record);
    struct queue_report unreadable = {
        .state = job_state_FAILED, .code = "INTERNAL_ERROR", .message = "the job's record is gone"};
    muster_err err = queue_record_read(self->ctx, job, muster_ctx_arena(self->ctx), record);

    if (err == MUSTER_NOT_FOUND) {
        queue_finish(self, job, &unreadable);
        return MUSTER_OK;
    }
    if (!err)
        err = hand_over(self, job, site, session, record);
    if (err == MUSTER_NOT_FOUND &&
        !queue_site_is_worker(site)) { /* its agent is being restarted, and will say when it is ready */
        queue_site_reach(site, NULL);
        return MUSTER_OK;
    }
    return err;
}

/* False: not now; it is tried again later. */
static bool
start(struct queue_actor *self, struct queue_job *job)
{
    struct queue_site *site;
    const char *session;
    muster_err err;

    if (queue_is_over(self, job)) { /* the timer is late */
        queue_expire(self, job);
        return true;
    }
    err = find_site(self, job, &site, &session);
    if (!err && site)
        err = start_at(self, job, site, session);
    return err == MUSTER_OK;
}

void
queue_dispatch(struct queue_actor *self)
{
    struct queue_job *job;

    while (!self->draining && self->table.running < self->table.max_running) {
        job = queue_next(&self->table, muster_now_ms(self->ctx));
        if (job == NULL)
            return;
        if (!start(self, job)) {
            muster_timer_in(self->ctx, QUEUE_TRY_AGAIN_MS, QUEUE_TIMER_DISPATCH);
            return;
        }
    }
}
