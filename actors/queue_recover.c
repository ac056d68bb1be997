/* SPDX-License-Identifier: MPL-2.0 */
/* queue_recover: reads back the jobs that a former life left open, in the order in which they are to go on.
 *
 * The queue actor's thread, in its init.  Fails when the store cannot be read. */
#include <stdlib.h>
#include <string.h>

#include "actors/muster_journal.h"
#include "actors/queue_record.h"

/* Open jobs found so far; texts in the arena. */
struct recovery {
    struct job *jobs;
    size_t count, capacity;
    struct muster_arena *arena;
};

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
        .team = muster_arena_str(recovery->arena, found->team, strlen(found->team)),
        .state = found->state,
        .priority = found->priority,
        .created_ms = found->created_ms,
        .started_ms = found->started_ms,
        .not_before_ms = found->not_before_ms,
        .timeout_ms = found->timeout_ms,
        .attempt = found->attempt,
        .failures = found->failures,
        .max_attempts = found->max_attempts,
    };
    if (found->session)
        kept->session = muster_arena_str(recovery->arena, found->session, strlen(found->session));
    if (found->trace)
        kept->trace = muster_arena_str(recovery->arena, found->trace, strlen(found->trace));
    if (found->usage) {
        struct usage *usage = muster_arena_alloc(recovery->arena, sizeof *usage);

        *usage = *found->usage;
        kept->usage = usage;
    }
    return true;
}

/* Jobs that had begun go on before those that had not; otherwise in the order of their ids. */
static int
by_age(const void *a, const void *b)
{
    const struct job *left = a, *right = b;
    bool left_begun = left->state == job_state_RUNNING || left->state == job_state_PARKED;
    bool right_begun = right->state == job_state_RUNNING || right->state == job_state_PARKED;

    if (left_begun != right_begun)
        return left_begun ? -1 : 1;
    return memcmp(left->id.bytes, right->id.bytes, sizeof left->id.bytes);
}

static void
restore(struct muster_ctx *ctx, struct queue_table *table, const struct job *record)
{
    struct queue_team *team = queue_team_find(table, record->team);
    struct queue_job *job = queue_job_add(table, team, record);
    int64_t now_ms = muster_now_ms(ctx);

    job->waiting_since_ms = job->created_ms;
    if (record->state == job_state_RETRYING && record->not_before_ms > now_ms) {
        queue_job_enter(table, job, PHASE_DELAY, false);
        muster_timer_in(ctx, record->not_before_ms - now_ms, (uint64_t)(uintptr_t)job);
        return;
    }
    if (record->state == job_state_RUNNING || record->state == job_state_PARKED)
        queue_record_resume(ctx, job);
    job->state = job_state_QUEUED;
    queue_job_enter(table, job, PHASE_WAIT, false);
}

muster_err
queue_recover(struct muster_ctx *ctx, struct queue_table *table)
{
    static const enum job_state open_states[] = {job_state_QUEUED, job_state_RUNNING, job_state_WAITING,
                                                 job_state_RETRYING, job_state_PARKED};
    struct recovery recovery = {.arena = muster_arena_new()};
    muster_err err = MUSTER_OK;
    size_t i;

    for (i = 0; i < sizeof open_states / sizeof *open_states && !err; i++)
        err = muster_store_walk(muster_ctx_store(ctx), &job_type, "job_by_state",
                                muster_enum_wire(&job_state_enum, (int)open_states[i]), MUSTER_OLDEST_FIRST, collect,
                                &recovery);
    if (!err && recovery.count > 0) {
        qsort(recovery.jobs, recovery.count, sizeof *recovery.jobs, by_age);
        for (i = 0; i < recovery.count; i++)
            queue_team_get(table, recovery.jobs[i].team);
        for (i = 0; i < recovery.count; i++)
            restore(ctx, table, &recovery.jobs[i]);
        muster_journal_say(muster_ctx_journal(ctx), INFO, "queue-recovered", "Jobs of a former life wait again.",
                           MUSTER_SAY_NUMBER("jobs", (int64_t)recovery.count));
    }
    free(recovery.jobs);
    muster_arena_free(&recovery.arena);
    return err;
}
