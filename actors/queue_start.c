/* SPDX-License-Identifier: MPL-2.0 */
/* queue_start: has agents begin jobs, in their order, as long as there is room.  The queue actor's thread.  An agent
 * whose mailbox is full, or a store that cannot be read, is tried again; an agent that is not there says when it is. */
#include <stdlib.h>

#include "actors/queue.h"
#include "actors/queue_conversation.h"
#include "actors/queue_record.h"

void
queue_wait(struct queue_actor *self, struct queue_job *job)
{
    job->state = job_state_QUEUED;
    job->spot.since_ms = muster_now_ms(self->ctx);
    queue_job_enter(&self->table, job, PHASE_WAIT, false);
}

/* Hand the job to its team's agent, and write that it runs. */
static muster_err
hand_over(struct queue_actor *self, struct queue_job *job, struct job *record)
{
    struct agent_run run = {
        .job = job->id,
        .attempt = job->attempt + 1,
        .prompt = record->prompt,
        .timeout_ms = job->timeout_ms,
        .trace = job->trace,
        .conversation = record->conversation,
    };
    muster_err err = queue_conversation_session(self->ctx, &self->table, job, &run.session);

    if (!err)
        err = muster_tell(self->ctx, job->team->address, &agent_run_type, &run);
    if (err)
        return err;
    job->attempt++;
    job->state = job_state_RUNNING;
    job->given_up = false;
    job->started_ms = muster_now_ms(self->ctx);
    queue_record_apply(job, record);
    queue_record_note(self->ctx, record); /* when this one write is lost, a restart runs the attempt again: allowed */
    queue_job_enter(&self->table, job, PHASE_RUN, false);
    muster_timer_in(self->ctx, job->timeout_ms + queue_overdue_ms(job->team), queue_timer_of(job));
    return MUSTER_OK;
}

/* False: not now; it is tried again later. */
static bool
start(struct queue_actor *self, struct queue_job *job)
{
    struct job *record = muster_arena_alloc(muster_ctx_arena(self->ctx), sizeof *record);
    struct queue_report unreadable = {
        .state = job_state_FAILED, .code = "INTERNAL_ERROR", .message = "the job's record is gone"};
    muster_err err;

    if (queue_is_over(self, job)) { /* the timer is late */
        queue_expire(self, job);
        return true;
    }
    err = queue_record_read(self->ctx, job, muster_ctx_arena(self->ctx), record);
    if (err == MUSTER_NOT_FOUND) {
        queue_finish(self, job, &unreadable);
        return true;
    }
    if (!err) {
        err = hand_over(self, job, record);
        if (err == MUSTER_NOT_FOUND) { /* its agent is being restarted, and will say when it is ready */
            free(job->team->address);
            job->team->address = NULL;
            return true;
        }
    }
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
