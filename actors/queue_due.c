/* SPDX-License-Identifier: MPL-2.0 */
/* queue_due: a binary heap of jobs by the time at which they are to be looked at.  Each knows its place in it, so that
 * it can be moved.  The queue actor's thread only; nothing fails. */
#include "actors/queue_due.h"

#include <string.h>

#include "actors/queue_hold.h"

#define LOOK_MS 60000 /* the longest that the timer is set to */

/* ---- the heap; places count from 1 ---- */

static struct queue_job *
at(const struct queue_due *due, size_t place)
{
    return due->jobs[place - 1];
}

/* At the same time the older job comes first. */
static bool
comes_before(const struct queue_job *a, const struct queue_job *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : memcmp(&a->id, &b->id, sizeof a->id) < 0;
}

static void
put(struct queue_due *due, size_t place, struct queue_job *job)
{
    due->jobs[place - 1] = job;
    job->due_place = place;
}

static void
rise(struct queue_due *due, struct queue_job *job)
{
    size_t place = job->due_place;

    for (; place > 1 && comes_before(job, at(due, place / 2)); place /= 2)
        put(due, place, at(due, place / 2));
    put(due, place, job);
}

static void
sink(struct queue_due *due, struct queue_job *job)
{
    size_t place = job->due_place, below;

    for (; (below = 2 * place) <= due->count; place = below) {
        if (below < due->count && comes_before(at(due, below + 1), at(due, below)))
            below++;
        if (!comes_before(at(due, below), job))
            break;
        put(due, place, at(due, below));
    }
    put(due, place, job);
}

static void
settle(struct queue_due *due, struct queue_job *job)
{
    rise(due, job);
    sink(due, job);
}

static void
remove_job(struct queue_due *due, struct queue_job *job)
{
    size_t place = job->due_place;
    struct queue_job *last = due->jobs[--due->count];

    job->due_place = 0;
    if (last == job)
        return;
    put(due, place, last);
    settle(due, last);
}

static void
add_job(struct queue_due *due, struct queue_job *job)
{
    if (due->count == due->capacity) {
        due->capacity = due->capacity ? 2 * due->capacity : 64;
        due->jobs = muster_realloc(due->jobs, due->capacity * sizeof *due->jobs);
    }
    put(due, ++due->count, job);
    rise(due, job);
}

/* ---- watching ---- */

static void
arm(struct queue_actor *self)
{
    const struct queue_due *due = &self->table.due;
    int64_t left_ms;

    if (due->count == 0) {
        muster_timer_end(self->ctx, QUEUE_TIMER_DUE);
        self->armed_ms = 0;
        return;
    }
    if (self->armed_ms > 0 && self->armed_ms <= at(due, 1)->due_ms)
        return; /* a look too early does no harm */
    self->armed_ms = at(due, 1)->due_ms;
    left_ms = self->armed_ms - muster_now_ms(self->ctx);
    muster_timer_in(self->ctx, left_ms < LOOK_MS ? left_ms : LOOK_MS, QUEUE_TIMER_DUE);
}

void
queue_watch_at(struct queue_actor *self, struct queue_job *job, int64_t due_ms)
{
    struct queue_due *due = &self->table.due;

    job->due_ms = due_ms;
    if (due_ms == 0 && job->due_place > 0)
        remove_job(due, job);
    else if (due_ms > 0 && job->due_place > 0)
        settle(due, job);
    else if (due_ms > 0)
        add_job(due, job);
    else
        return;
    arm(self);
}

/* The end of a delay that the caller wanted; pauses before retries are spans. */
static bool
is_delayed(const struct queue_job *job)
{
    return job->phase == PHASE_DELAY && job->state == job_state_QUEUED;
}

void
queue_watch(struct queue_actor *self, struct queue_job *job)
{
    bool waits = job->phase == PHASE_WAIT || job->phase == PHASE_DELAY;
    bool runs = job->phase == PHASE_RUN && !job->expired && !job->cancelled_by;
    int64_t due_ms = waits || runs ? job->deadline_ms : 0, hold_ms;

    if (is_delayed(job) && (due_ms == 0 || job->not_before_ms < due_ms))
        due_ms = job->not_before_ms;
    hold_ms = queue_hold_until(self, job);
    if (hold_ms > 0 && (due_ms == 0 || hold_ms < due_ms))
        due_ms = hold_ms;
    queue_watch_at(self, job, due_ms);
}

static void
look_at(struct queue_actor *self, struct queue_job *job)
{
    if (queue_is_over(self, job)) {
        queue_expire(self, job);
        return;
    }
    if (is_delayed(job) && job->not_before_ms <= muster_now_ms(self->ctx))
        queue_wait(self, job);
    if (job->tie)
        queue_hold_look(self, job);
    queue_watch(self, job);
}

void
queue_wake(struct queue_actor *self)
{
    struct queue_due *due = &self->table.due;

    self->armed_ms = 0;
    while (due->count > 0 && at(due, 1)->due_ms <= muster_now_ms(self->ctx)) {
        struct queue_job *job = at(due, 1);

        remove_job(due, job);
        look_at(self, job);
    }
    arm(self);
}
