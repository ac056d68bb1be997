/* SPDX-License-Identifier: MPL-2.0 */
/* queue_table: the lists and counts of the queue.  Cannot fail; the number of jobs is bounded by the queue's options.
 */
#include "actors/queue_table.h"

#include <stdlib.h>
#include <string.h>

#include "actors/cost.h"

#define FIRST_BUCKETS 256

void
queue_table_init(struct queue_table *table, const struct options *options)
{
    size_t i;

    *table = (struct queue_table){.bucket_count = FIRST_BUCKETS, .aging_ms = options->queue->aging};
    table->buckets = muster_alloc(FIRST_BUCKETS * sizeof(struct queue_job *));
    for (i = 0; i < options->teams.count; i++)
        queue_team_get(table, options->teams.items[i].name)->options = &options->teams.items[i];
}

void
queue_table_fini(struct queue_table *table)
{
    size_t i;

    for (i = 0; i < table->bucket_count; i++)
        while (table->buckets[i])
            queue_job_free(table, table->buckets[i]);
    for (i = 0; i < table->team_count; i++) {
        free(table->teams[i].name);
        free(table->teams[i].address);
    }
    free(table->teams);
    free(table->buckets);
}

/* ---- teams ---- */

struct queue_team *
queue_team_find(struct queue_table *table, const char *name)
{
    size_t i;

    for (i = 0; i < table->team_count; i++)
        if (strcmp(table->teams[i].name, name) == 0)
            return &table->teams[i];
    return NULL;
}

struct queue_team *
queue_team_get(struct queue_table *table, const char *name)
{
    struct queue_team *team = queue_team_find(table, name);

    if (team)
        return team;
    MUSTER_ASSERT(table->job_count == 0); /* jobs point to their teams */
    table->teams = muster_realloc(table->teams, (table->team_count + 1) * sizeof *table->teams);
    team = &table->teams[table->team_count++];
    *team = (struct queue_team){.name = muster_strdup(name), .dirty = true};
    return team;
}

static void count(struct queue_table *table, struct queue_job *job, int64_t by);

/* ---- jobs ---- */

/* The last eight bytes of a UUIDv7 are random but for two bits of the first of them. */
static struct queue_job **
bucket(const struct queue_table *table, const struct muster_id *id)
{
    uint64_t hash;

    memcpy(&hash, id->bytes + 8, sizeof hash);
    return &table->buckets[(hash >> 8) & (table->bucket_count - 1)];
}

static void
grow(struct queue_table *table)
{
    struct queue_job **old = table->buckets;
    size_t old_count = table->bucket_count, i;

    table->bucket_count *= 2;
    table->buckets = muster_alloc(table->bucket_count * sizeof(struct queue_job *));
    for (i = 0; i < old_count; i++) {
        while (old[i]) {
            struct queue_job *job = old[i], **home = bucket(table, &job->id);

            old[i] = job->chain;
            job->chain = *home;
            *home = job;
        }
    }
    free(old);
}

struct queue_job *
queue_job_find(const struct queue_table *table, const struct muster_id *id)
{
    struct queue_job *job;

    for (job = *bucket(table, id); job; job = job->chain)
        if (muster_id_equal(&job->id, id))
            return job;
    return NULL;
}

struct queue_job *
queue_job_add(struct queue_table *table, struct queue_team *team, const struct job *record)
{
    struct queue_job *job = muster_alloc(sizeof *job), **home;

    if (table->job_count == table->bucket_count)
        grow(table);
    job->id = record->id;
    job->team = team;
    job->phase = PHASE_SUBMIT;
    job->state = record->state;
    job->priority = record->priority;
    job->created_ms = record->created_ms;
    job->started_ms = record->started_ms;
    job->not_before_ms = record->not_before_ms;
    job->timeout_ms = record->timeout_ms;
    job->attempt = record->attempt;
    job->failures = record->failures;
    job->max_attempts = record->max_attempts;
    job->session = muster_strdup(record->session);
    job->trace = muster_strdup(record->trace);
    if (record->usage)
        job->usage = *record->usage;
    home = bucket(table, &job->id);
    job->chain = *home;
    *home = job;
    table->job_count++;
    count(table, job, 1);
    return job;
}

/* ---- lists and counts ---- */

static void
link_waiting(struct queue_job *job, bool first)
{
    struct queue_team *team = job->team;
    int list = (int)job->priority;

    job->previous = first ? NULL : team->last[list];
    job->next = first ? team->first[list] : NULL;
    *(job->previous ? &job->previous->next : &team->first[list]) = job;
    *(job->next ? &job->next->previous : &team->last[list]) = job;
}

static void
unlink_waiting(struct queue_job *job)
{
    struct queue_team *team = job->team;
    int list = (int)job->priority;

    *(job->previous ? &job->previous->next : &team->first[list]) = job->next;
    *(job->next ? &job->next->previous : &team->last[list]) = job->previous;
    job->next = job->previous = NULL;
}

static bool
counts_as_queued(enum queue_phase phase)
{
    return phase == PHASE_SUBMIT || phase == PHASE_WAIT || phase == PHASE_DELAY;
}

static void
count(struct queue_table *table, struct queue_job *job, int64_t by)
{
    table->queued += counts_as_queued(job->phase) ? by : 0;
    table->running += job->phase == PHASE_RUN ? by : 0;
    job->team->running += job->phase == PHASE_RUN ? by : 0;
    job->team->waiting[job->priority] += job->phase == PHASE_SUBMIT || job->phase == PHASE_WAIT ? by : 0;
    job->team->delayed += job->phase == PHASE_DELAY ? by : 0;
    job->team->dirty = true;
}

void
queue_job_enter(struct queue_table *table, struct queue_job *job, enum queue_phase phase, bool first)
{
    if (job->phase == PHASE_WAIT)
        unlink_waiting(job);
    count(table, job, -1);
    job->phase = phase;
    count(table, job, 1);
    if (phase == PHASE_WAIT)
        link_waiting(job, first);
}

void
queue_job_free(struct queue_table *table, struct queue_job *job)
{
    struct queue_job **place = bucket(table, &job->id);

    while (*place != job)
        place = &(*place)->chain;
    *place = job->chain;
    if (job->phase == PHASE_WAIT)
        unlink_waiting(job);
    count(table, job, -1);
    table->job_count--;
    while (job->waiters) {
        struct queue_waiter *waiter = job->waiters;

        job->waiters = waiter->next;
        muster_caller_free(&waiter->caller);
        free(waiter);
    }
    muster_arena_free(&job->arena);
    free(job->session);
    free(job->trace);
    free(job->cancelled_by);
    free(job);
}

/* ---- usage ---- */

/* An agent may say any number. */
static int64_t
sum_of(int64_t a, int64_t b)
{
    return a > INT64_MAX - b ? INT64_MAX : a + b;
}

void
queue_job_use(struct queue_job *job, const struct usage *more)
{
    struct usage *sum = &job->usage;

    if (more == NULL)
        return;
    sum->input_tokens = sum_of(sum->input_tokens, more->input_tokens);
    sum->output_tokens = sum_of(sum->output_tokens, more->output_tokens);
    sum->cache_read_tokens = sum_of(sum->cache_read_tokens, more->cache_read_tokens);
    sum->cache_write_tokens = sum_of(sum->cache_write_tokens, more->cache_write_tokens);
    sum->turns = sum_of(sum->turns, more->turns);
    sum->cost_usd = cost_rounded(sum->cost_usd + more->cost_usd);
}

/* ---- order ---- */

static int64_t
rank(const struct queue_table *table, const struct queue_job *job, int64_t now_ms)
{
    int64_t waited_ms = now_ms - job->waiting_since_ms;

    return (int64_t)job->priority + (waited_ms > 0 ? waited_ms / table->aging_ms : 0); /* the clock may be set back */
}

static bool
goes_before(const struct queue_table *table, const struct queue_job *a, const struct queue_job *b, int64_t now_ms)
{
    int64_t rank_a, rank_b;

    if (b == NULL)
        return true;
    rank_a = rank(table, a, now_ms);
    rank_b = rank(table, b, now_ms);
    return rank_a != rank_b ? rank_a > rank_b : a->waiting_since_ms < b->waiting_since_ms;
}

struct queue_job *
queue_next_of(const struct queue_table *table, const struct queue_team *team, int64_t now_ms)
{
    struct queue_job *best = NULL;
    int list;

    for (list = QUEUE_PRIORITIES - 1; list >= 0; list--)
        if (team->first[list] && goes_before(table, team->first[list], best, now_ms))
            best = team->first[list];
    return best;
}

struct queue_job *
queue_next(const struct queue_table *table, int64_t now_ms)
{
    struct queue_job *best = NULL, *job;
    size_t i;

    for (i = 0; i < table->team_count; i++) {
        const struct queue_team *team = &table->teams[i];

        if (team->address == NULL || team->running >= team->capacity)
            continue;
        job = queue_next_of(table, team, now_ms);
        if (job && goes_before(table, job, best, now_ms))
            best = job;
    }
    return best;
}

int64_t
queue_position(const struct queue_job *job)
{
    int64_t position = 0;
    int list;

    for (list = (int)job->priority; list < QUEUE_PRIORITIES; list++)
        position += job->team->waiting[list];
    return position;
}

int64_t
queue_estimate(const struct queue_team *team, int64_t position, int64_t first_estimate_ms, int64_t now_ms)
{
    int64_t lanes = team->capacity > 0 ? team->capacity : 1;
    int64_t ahead = position - 1 + team->running;
    int64_t mean_ms = team->mean_ms > 0 ? team->mean_ms : first_estimate_ms;

    return now_ms + (ahead / lanes + 1) * mean_ms;
}
