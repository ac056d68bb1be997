/* SPDX-License-Identifier: MPL-2.0 */
/* queue_table: jobs by id, teams, and counts.  Cannot fail; the number of jobs is bounded by the queue's options. */
#include "actors/queue_table.h"

#include <stdlib.h>
#include <string.h>

#include "actors/cost.h"
#include "actors/queue_conversation.h"
#include "actors/queue_site.h"

#define FIRST_BUCKETS 256

void
queue_table_init(struct queue_table *table, const struct options *options)
{
    size_t i;

    *table = (struct queue_table){.bucket_count = FIRST_BUCKETS,
                                  .first_turn = -1,
                                  .aging_ms = options->queue->aging,
                                  .max_running = options->queue->max_running,
                                  .first_estimate_ms = options->queue->first_estimate};
    queue_names_init(&table->keys);
    queue_names_init(&table->conversations);
    table->buckets = muster_alloc(FIRST_BUCKETS * sizeof(struct queue_job *));
    for (i = 0; i < options->teams.count; i++) {
        struct queue_team *team = queue_team_get(table, options->teams.items[i].name);

        team->options = &options->teams.items[i];
        team->remote = team->options->driver == driver_kind_REMOTE;
    }
}

void
queue_table_fini(struct queue_table *table)
{
    size_t i;

    for (i = 0; i < table->bucket_count; i++)
        while (table->buckets[i])
            queue_job_free(table, table->buckets[i]);
    for (i = 0; i < table->team_count; i++) {
        queue_sites_free(&table->teams[i]);
        free(table->teams[i].name);
    }
    free(table->teams);
    free(table->buckets);
    free(table->due.jobs);
    queue_names_fini(&table->keys);
    queue_names_fini(&table->conversations);
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
    *team = (struct queue_team){.name = muster_strdup(name), .state_id = muster_id_of("team", name), .dirty = true};
    return team;
}

static void count(struct queue_table *table, struct queue_job *job, int64_t by); /* below, with the phases */

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
    job->deadline_ms = record->deadline_ms;
    job->timeout_ms = record->timeout_ms;
    job->attempt = record->attempt;
    job->failures = record->failures;
    job->max_attempts = record->max_attempts;
    job->retry_delay_ms = record->retry_delay_ms;
    job->max_retry_delay_ms = record->max_retry_delay_ms;
    job->session = muster_strdup(record->session);
    job->node = record->node && *record->node ? muster_strdup(record->node) : NULL;
    job->losses = record->losses;
    job->trace = muster_strdup(record->trace);
    if (record->usage)
        job->usage = *record->usage;
    home = bucket(table, &job->id);
    job->chain = *home;
    *home = job;
    table->job_count++;
    count(table, job, 1);
    if (record->conversation && *record->conversation)
        queue_conversation_join(table, job, record->conversation);
    return job;
}

/* ---- keys ---- */

void
queue_key_hold(struct queue_table *table, struct queue_job *job, const struct job *record)
{
    struct queue_key *key = muster_alloc(sizeof *key);

    key->name.text = muster_strdup(record->idempotency);
    key->print_size = record->fingerprint.size;
    MUSTER_ASSERT(key->print_size <= sizeof key->print); /* so says its row */
    if (key->print_size > 0)
        memcpy(key->print, record->fingerprint.data, key->print_size);
    queue_names_add(&table->keys, &key->name);
    job->key = key;
}

const struct queue_key *
queue_key_find(const struct queue_table *table, const char *digest)
{
    return (const struct queue_key *)queue_names_find(&table->keys, digest);
}

static void
drop_key(struct queue_table *table, struct queue_job *job)
{
    if (job->key == NULL)
        return;
    queue_names_remove(&table->keys, &job->key->name);
    free(job->key->name.text);
    free(job->key);
    job->key = NULL;
}

/* ---- phases and counts ---- */

static void
count(struct queue_table *table, struct queue_job *job, int64_t by)
{
    bool waits = job->phase == PHASE_SUBMIT || job->phase == PHASE_WAIT;

    table->queued += waits || job->phase == PHASE_DELAY ? by : 0;
    table->running += job->phase == PHASE_RUN ? by : 0;
    job->team->running += job->phase == PHASE_RUN ? by : 0;
    job->team->waiting += waits ? by : 0;
    job->team->delayed += job->phase == PHASE_DELAY ? by : 0;
    job->team->dirty = true;
}

void
queue_job_enter(struct queue_table *table, struct queue_job *job, enum queue_phase phase, bool first)
{
    drop_key(table, job);
    queue_untie(job);
    queue_site_leave(job);
    count(table, job, -1);
    job->phase = phase;
    count(table, job, 1);
    if (phase == PHASE_WAIT) {
        if (!job->spot.taken)
            queue_line_up(table, job, first);
        queue_line_ready(job, queue_conversation_allows(job));
    } else if (job->spot.taken) {
        queue_line_leave(job);
    }
}

void
queue_job_run(struct queue_table *table, struct queue_job *job, struct queue_site *site)
{
    queue_job_enter(table, job, PHASE_RUN, false);
    queue_site_enter(site, job);
}

void
queue_job_free(struct queue_table *table, struct queue_job *job)
{
    struct queue_job **place = bucket(table, &job->id);

    while (*place != job)
        place = &(*place)->chain;
    *place = job->chain;
    queue_untie(job);
    queue_site_leave(job);
    if (job->spot.taken)
        queue_line_leave(job);
    queue_conversation_leave(table, job);
    drop_key(table, job);
    count(table, job, -1);
    table->job_count--;
    while (job->waiters) {
        struct queue_waiter *waiter = job->waiters;

        job->waiters = waiter->next;
        muster_caller_free(&waiter->caller);
        free(waiter);
    }
    muster_arena_free(&job->arena);
    free(job->repeat);
    free(job->session);
    free(job->node);
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
