/* SPDX-License-Identifier: MPL-2.0 */
/* queue_recover: reads back the jobs that a former life left open, in the order in which they are to go on, and how
 * long recent jobs of each team took.
 *
 * The queue actor's thread, in its init.  Fails when the store cannot be read. */
#include <stdlib.h>
#include <string.h>

#include "actors/muster_journal.h"
#include "actors/queue.h"
#include "actors/queue_due.h"
#include "actors/queue_record.h"
#include "actors/queue_site.h"

#define MEAN_OF 16   /* newest completed jobs of a team */
#define MOST_READ 64 /* ended jobs of a team looked at for those */

/* Open jobs found so far; texts in the arena. */
struct recovery {
    struct job *jobs;
    size_t count, capacity;
    struct muster_arena *arena;
};

/* ---- reading ---- */

static const char *
keep(const struct recovery *recovery, const char *text)
{
    return text ? muster_arena_str(recovery->arena, text, strlen(text)) : NULL;
}

static bool
collect(void *arg, const void *record, struct muster_arena *arena)
{
    struct recovery *recovery = arg;
    const struct job *found = record;
    struct job *kept;

    (void)arena;
    if (recovery->count == recovery->capacity) {
        recovery->capacity = recovery->capacity ? 2 * recovery->capacity : 64;
        recovery->jobs = muster_realloc(recovery->jobs, recovery->capacity * sizeof *recovery->jobs);
    }
    kept = &recovery->jobs[recovery->count++];
    *kept = (struct job){
        .id = found->id,
        .team = keep(recovery, found->team),
        .state = found->state,
        .priority = found->priority,
        .created_ms = found->created_ms,
        .started_ms = found->started_ms,
        .not_before_ms = found->not_before_ms,
        .deadline_ms = found->deadline_ms,
        .timeout_ms = found->timeout_ms,
        .attempt = found->attempt,
        .failures = found->failures,
        .max_attempts = found->max_attempts,
        .retry_delay_ms = found->retry_delay_ms,
        .max_retry_delay_ms = found->max_retry_delay_ms,
        .conversation = keep(recovery, found->conversation),
        .session = keep(recovery, found->session),
        .node = keep(recovery, found->node),
        .losses = found->losses,
        .trace = keep(recovery, found->trace),
    };
    if (found->usage) {
        struct usage *usage = muster_arena_alloc(recovery->arena, sizeof *usage);

        *usage = *found->usage;
        kept->usage = usage;
    }
    return true;
}

/* ---- order ---- */

static int
compare(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* In the order of submission.  A conversation's job that has had an attempt was its first. */
static int
by_submission(const void *a, const void *b)
{
    const struct job *left = a, *right = b;
    int order = compare(right->attempt > 0, left->attempt > 0);

    if (order == 0)
        order = compare(left->created_ms, right->created_ms);
    return order ? order : memcmp(left->id.bytes, right->id.bytes, sizeof left->id.bytes);
}

/* An agent was at work on it. */
static bool
was_begun(const struct job *record)
{
    return record->state != job_state_QUEUED && record->state != job_state_RETRYING;
}

static bool
has_node(const struct job *record)
{
    return record->node && *record->node;
}

/* It waits because it was lost with its worker. */
static bool
was_lost(const struct job *record)
{
    return record->state == job_state_QUEUED && record->attempt > 0 && has_node(record);
}

/* Somebody had it, so it goes before those that nobody had. */
static bool
goes_first(const struct job *record)
{
    return was_begun(record) || was_lost(record);
}

/* Its worker may still have it; nodes will say. */
static bool
may_run(const struct queue_team *team, const struct job *record)
{
    return team->remote && has_node(record) &&
           (record->state == job_state_RUNNING || record->state == job_state_WAITING);
}

/* Since when it waits, as far as is known. */
static int64_t
since_ms(const struct job *record)
{
    return record->not_before_ms > record->created_ms ? record->not_before_ms : record->created_ms;
}

/* Those that somebody had go on before those that nobody had, which go by the time since when they wait. */
static int
by_claim(const void *a, const void *b)
{
    const struct job *left = a, *right = b;
    int order = compare(goes_first(right), goes_first(left));

    if (order == 0)
        order = compare(since_ms(left), since_ms(right));
    return order ? order : memcmp(left->id.bytes, right->id.bytes, sizeof left->id.bytes);
}

/* ---- going on ---- */

/* It goes on where it was. */
static void
restore_running(struct queue_actor *self, struct queue_job *job)
{
    struct queue_site *site = queue_site_get(job->team, job->node);

    queue_site_set(site, node_state_AWAY, site->capacity);
    queue_job_run(&self->table, job, site);
    queue_arm(self, job);
}

/* It waits; or not yet, because its time has not come; or it runs. */
static void
restore(struct queue_actor *self, const struct job *record)
{
    struct queue_job *job = queue_job_find(&self->table, &record->id);
    int64_t left_ms = record->not_before_ms - muster_now_ms(self->ctx);

    job->spot.since_ms = since_ms(record);
    if (may_run(job->team, record)) {
        restore_running(self, job);
    } else if (goes_first(record) || left_ms <= 0) {
        if (was_begun(record))
            queue_record_resume(self->ctx, job);
        job->state = job_state_QUEUED;
        job->lost = job->team->remote && was_lost(record);
        queue_job_enter(&self->table, job, PHASE_WAIT, goes_first(record));
    } else {
        queue_job_enter(&self->table, job, PHASE_DELAY, false);
        if (record->state == job_state_RETRYING)
            muster_timer_in(self->ctx, left_ms, queue_timer_of(job));
    }
    queue_watch(self, job);
}

static void
restore_all(struct queue_actor *self, struct recovery *recovery)
{
    size_t begun = 0, i;

    for (i = 0; i < recovery->count; i++)
        queue_team_get(&self->table, recovery->jobs[i].team);
    qsort(recovery->jobs, recovery->count, sizeof *recovery->jobs, by_submission);
    for (i = 0; i < recovery->count; i++)
        queue_job_add(&self->table, queue_team_find(&self->table, recovery->jobs[i].team), &recovery->jobs[i]);
    qsort(recovery->jobs, recovery->count, sizeof *recovery->jobs, by_claim);
    while (begun < recovery->count && goes_first(&recovery->jobs[begun]))
        begun++;
    for (i = begun; i < recovery->count; i++)
        restore(self, &recovery->jobs[i]);
    for (i = begun; i > 0; i--) /* each goes before those in the line, so the first comes last */
        restore(self, &recovery->jobs[i - 1]);
}

/* ---- how long jobs take ---- */

struct durations {
    int64_t sum_ms, count;
    int64_t left; /* records that may still be read */
};

static bool
add_duration(void *arg, const void *record, struct muster_arena *arena)
{
    struct durations *durations = arg;
    const struct job *job = record;

    (void)arena;
    if (job->state == job_state_COMPLETED) {
        durations->sum_ms += queue_duration_ms(job->started_ms, job->finished_ms);
        durations->count++;
    }
    return --durations->left > 0 && durations->count < MEAN_OF;
}

static muster_err
recover_mean(struct queue_actor *self, struct queue_team *team)
{
    struct durations durations = {.left = team->waiting + team->delayed + MOST_READ}; /* the newest have not ended */
    muster_err err = muster_store_walk(muster_ctx_store(self->ctx), &job_type, "job_by_team", team->name,
                                       MUSTER_NEWEST_FIRST, add_duration, &durations);

    if (!err && durations.count > 0)
        team->mean_ms = durations.sum_ms / durations.count;
    return err;
}

muster_err
queue_recover(struct queue_actor *self)
{
    static const enum job_state open_states[] = {job_state_QUEUED, job_state_RUNNING, job_state_WAITING,
                                                 job_state_RETRYING, job_state_PARKED};
    struct recovery recovery = {.arena = muster_arena_new()};
    muster_err err = MUSTER_OK;
    size_t i;

    for (i = 0; i < sizeof open_states / sizeof *open_states && !err; i++)
        err = muster_store_walk(muster_ctx_store(self->ctx), &job_type, "job_by_state",
                                muster_enum_wire(&job_state_enum, (int)open_states[i]), MUSTER_OLDEST_FIRST, collect,
                                &recovery);
    if (!err && recovery.count > 0) {
        restore_all(self, &recovery);
        muster_journal_say(muster_ctx_journal(self->ctx), INFO, "queue-recovered", "Jobs of a former life wait again.",
                           MUSTER_SAY_NUMBER("jobs", (int64_t)recovery.count));
    }
    for (i = 0; i < self->table.team_count && !err; i++)
        if (self->table.teams[i].options)
            err = recover_mean(self, &self->table.teams[i]);
    free(recovery.jobs);
    muster_arena_free(&recovery.arena);
    return err;
}
