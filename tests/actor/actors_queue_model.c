/* SPDX-License-Identifier: MPL-2.0 */
/* The queue against a model of it: thousands of random operations, and after each the same jobs started in the same
 * order, the same commits, the same answers, the same views and places.
 *
 * The model is lists and loops and knows nothing of how the queue keeps its jobs.  Commits are taken from the queue and
 * written by the test, so that the disk may be slow, may fail, and may lose what was under way when the actor dies.
 * MUSTER_SEED=<n> runs one life again; a failure says its seed and step.  One thread. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_snapshots.h"
#include "fake/fake_ctx.h"

#define OPTIONS                                                                                                        \
    "queue: {max_running: 3, max_queued: 24, max_attempts: 3, retry_delay: 2s, max_retry_delay: 8s, aging: 20s,"       \
    " dedup_window: 5m, max_delay: 10m}\n"                                                                             \
    "teams:\n"                                                                                                         \
    "  backend: {driver: echo, concurrency: 1, max_queued: 14}\n"                                                      \
    "  frontend: {driver: echo, concurrency: 2}\n"

/* The options above, and what the queue makes of stop_timeout. */
enum {
    TEAMS = 2,
    MAX_RUNNING = 3,
    MAX_QUEUED = 24,
    MAX_ATTEMPTS = 3,
    RETRY_DELAY = 2000,
    MAX_RETRY_DELAY = 8000,
    AGING = 20000,
    DEDUP_WINDOW = 300000,
    MAX_DELAY = 600000,
    FIRST_ESTIMATE = 10000,
    OVERDUE = 90000,
    COMMIT_PAUSE = 1000
};
static const int64_t concurrency[TEAMS] = {1, 2}, team_max_queued[TEAMS] = {14, 10000};
static const char *const team_names[TEAMS] = {"backend", "frontend"};

enum { LIVES = 60, STEPS = 1000, JOBS = STEPS + 8, CONVERSATIONS = 3, KEYS = 6, NO_JOB = -1 };

/* ---- what the model knows ------------------------------------------------------------------------------------------
 */

enum phase { NOWHERE, SUBMIT, WAIT, DELAY, RUN, FINISH };

/* What changes of a job, as it lies in the store or is to. */
struct facts {
    enum job_state state;
    int64_t attempt, failures, started_ms, finished_ms, not_before_ms;
    char session[32], error[32];
    int retried_as;
};

struct waiter {
    int64_t request;
    bool cancel;
};

struct mjob {
    struct muster_id id;
    int team, conversation, key, retry_of; /* -1: none */
    char print;
    enum job_priority priority;
    int64_t created_ms, deadline_ms, timeout_ms, max_attempts, retry_delay_ms, max_retry_delay_ms;
    int64_t position, estimate_ms;
    bool stored; /* its first commit was written */
    struct facts disk;
    enum phase phase; /* in memory */
    struct facts now;
    int64_t since_ms, seq; /* among the waiting */
    int64_t due_ms;        /* of its own timer; -1: not set */
    bool cancelled, was_running, given_up, expired;
    struct waiter waiters[16];
    int waiter_count;
    int ends; /* final events on disk */
};

struct mteam {
    bool ready, paused, disk_paused, changing, change_to;
    int64_t mean_ms;
    struct waiter asked[64]; /* .cancel: paused */
    int asked_count;
};

enum kind { KIND_SUBMIT, KIND_STEP, KIND_END, KIND_PAUSE };

/* A commit that is expected, or under way. */
struct write {
    enum kind kind;
    int job, team;
    struct facts facts;
    int64_t request; /* who is told; 0: nobody */
    bool paused;
    const struct store_commit *commit;
};

/* An answer. */
struct told {
    int64_t request;
    const char *code; /* of failed; NULL: another answer */
    const struct muster_type *type;
    int job, team;
    int64_t position, estimate_ms;
    enum job_state state;
    bool flag; /* repeated, was_running, paused */
};

struct start {
    int job;
    int64_t attempt;
    char session[32];
};

struct retry {
    int job;
    int64_t attempt, delay_ms;
    char code[32];
};

struct list {
    struct told told[256];
    struct start starts[64], drops[64];
    struct retry retries[64];
    struct write writes[256];
    int told_count, start_count, drop_count, retry_count, write_count;
};

struct model {
    struct muster_ctx *ctx;
    unsigned seed, step;
    const char *what; /* the operation */
    int64_t now_ms, next_seq, first_seq, request;
    struct mjob jobs[JOBS];
    int job_count;
    struct mteam teams[TEAMS];
    struct list expected, seen; /* in this step */
    struct write disk[512];     /* commits under way, oldest first */
    int disk_count;
    uint64_t random;
};

#define CHECK(model, condition, ...)                                                                                   \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            char text_[512];                                                                                           \
            snprintf(text_, sizeof text_, __VA_ARGS__);                                                                \
            cr_assert_fail("MUSTER_SEED=%u, step %u (%s): %s", (model)->seed, (model)->step, (model)->what, text_);    \
        }                                                                                                              \
    } while (0)

static unsigned
dice(struct model *model, unsigned sides)
{
    model->random = model->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((model->random >> 33) % sides);
}

static bool
one_in(struct model *model, unsigned sides)
{
    return dice(model, sides) == 0;
}

/* Ids in the order of submission. */
static struct muster_id
make_id(struct model *model, int number)
{
    uint64_t ms = (uint64_t)(FAKE_START_MS + number);
    struct muster_id id;
    size_t i;

    for (i = 0; i < sizeof id.bytes; i++)
        id.bytes[i] = (uint8_t)((i < 6 ? (uint64_t)ms >> (40 - 8 * i) : (uint64_t)dice(model, 256)) & 0xff);
    return id;
}

static int
job_of(struct model *model, const struct muster_id *id)
{
    int i;

    for (i = 0; i < model->job_count; i++)
        if (muster_id_equal(&model->jobs[i].id, id))
            return i;
    return NO_JOB;
}

static const char *
conversation_name(const struct mjob *job, char out[32])
{
    snprintf(out, 32, "talk-%s-%d", team_names[job->team], job->conversation);
    return job->conversation >= 0 ? out : NULL;
}

/* ---- the rules, as plainly as possible -----------------------------------------------------------------------------
 */

static bool
is_final(enum job_state state)
{
    return state == job_state_COMPLETED || state == job_state_FAILED || state == job_state_CANCELLED;
}

static bool
in_line(const struct mjob *job)
{
    return job->seq != 0;
}

static int64_t
rank(const struct model *model, const struct mjob *job)
{
    return (int64_t)job->priority + (model->now_ms - job->since_ms) / AGING;
}

static bool
before(const struct model *model, const struct mjob *a, const struct mjob *b)
{
    if (rank(model, a) != rank(model, b))
        return rank(model, a) > rank(model, b);
    return a->since_ms != b->since_ms ? a->since_ms < b->since_ms : a->seq < b->seq;
}

/* Does an earlier job of its conversation live? */
static bool
is_blocked(const struct model *model, const struct mjob *job)
{
    const struct mjob *other;

    for (other = model->jobs; other < job; other++)
        if (other->phase != NOWHERE && job->conversation >= 0 && other->team == job->team &&
            other->conversation == job->conversation)
            return true;
    return false;
}

static int
count_phase(const struct model *model, int team, enum phase phase)
{
    int count = 0, i;

    for (i = 0; i < model->job_count; i++)
        count += (team < 0 || model->jobs[i].team == team) && model->jobs[i].phase == phase;
    return count;
}

static int
count_queued(const struct model *model, int team)
{
    return count_phase(model, team, SUBMIT) + count_phase(model, team, WAIT) + count_phase(model, team, DELAY);
}

static int64_t
place_of(const struct model *model, const struct mjob *job)
{
    struct mjob probe = *job;
    int64_t place = 1;
    int i;

    if (!in_line(job)) {
        probe.since_ms = model->now_ms;
        probe.seq = INT64_MAX;
    }
    for (i = 0; i < model->job_count; i++)
        place += in_line(&model->jobs[i]) && model->jobs[i].team == job->team && before(model, &model->jobs[i], &probe);
    return place;
}

static int64_t
mean_of(const struct model *model, int team)
{
    return model->teams[team].mean_ms ? model->teams[team].mean_ms : FIRST_ESTIMATE;
}

static int64_t
estimate_of(const struct model *model, const struct mjob *job, int64_t place)
{
    int64_t ahead = place - 1 + count_phase(model, job->team, RUN);
    int64_t begin_ms = model->now_ms + ahead / concurrency[job->team] * mean_of(model, job->team);

    return (begin_ms > job->now.not_before_ms ? begin_ms : job->now.not_before_ms) + mean_of(model, job->team);
}

static bool
is_over(const struct model *model, const struct mjob *job)
{
    return job->deadline_ms > 0 && job->deadline_ms <= model->now_ms;
}

/* ---- what the model expects to see ---- */

static void
expect_told(struct model *model, struct told told)
{
    if (told.request > 0)
        model->expected.told[model->expected.told_count++] = told;
}

static void
expect_failed(struct model *model, muster_err err)
{
    expect_told(model, (struct told){.request = model->request, .code = muster_err_code(err)});
}

static void
expect_write(struct model *model, enum kind kind, int job)
{
    model->expected.writes[model->expected.write_count++] =
        (struct write){.kind = kind, .job = job, .team = -1, .facts = model->jobs[job].now};
}

/* ---- what happens to jobs ---- */

static void
line_up(struct model *model, struct mjob *job)
{
    job->since_ms = model->now_ms;
    job->seq = model->next_seq++;
}

/* In front of all with its priority. */
static void
line_up_first(struct model *model, struct mjob *job, int64_t since_ms)
{
    int i;

    job->since_ms = since_ms;
    for (i = 0; i < model->job_count; i++) {
        const struct mjob *other = &model->jobs[i];

        if (other != job && in_line(other) && other->team == job->team && other->priority == job->priority &&
            other->since_ms < job->since_ms)
            job->since_ms = other->since_ms;
    }
    job->seq = --model->first_seq;
}

static void
finish(struct model *model, struct mjob *job, enum job_state state, const char *code)
{
    struct mteam *team = &model->teams[job->team];
    int64_t duration_ms = model->now_ms - job->now.started_ms;

    job->phase = FINISH;
    job->seq = 0;
    job->due_ms = -1;
    job->now.state = state;
    job->now.finished_ms = model->now_ms;
    snprintf(job->now.error, sizeof job->now.error, "%s", code ? code : "");
    if (duration_ms < 1)
        duration_ms = 1;
    if (state == job_state_COMPLETED)
        team->mean_ms += team->mean_ms ? (duration_ms - team->mean_ms) / 8 : duration_ms;
    expect_write(model, KIND_END, (int)(job - model->jobs));
}

static void
expire(struct model *model, struct mjob *job)
{
    if (job->phase != RUN) {
        finish(model, job, job_state_FAILED, "DEADLINE_EXCEEDED");
        return;
    }
    if (job->cancelled)
        return;
    job->expired = true;
    model->expected.drops[model->expected.drop_count++] =
        (struct start){.job = (int)(job - model->jobs), .attempt = job->now.attempt};
    if (!job->given_up)
        job->due_ms = model->now_ms + OVERDUE;
    job->given_up = true;
}

/* The session of the newest job of the conversation that has ended on disk and had one. */
static const char *
session_of(const struct model *model, const struct mjob *job)
{
    int i;

    if (job->now.session[0] || job->conversation < 0)
        return job->now.session;
    for (i = model->job_count - 1; i >= 0; i--) {
        const struct mjob *other = &model->jobs[i];

        if (other->stored && other->phase == NOWHERE && is_final(other->disk.state) && other->team == job->team &&
            other->conversation == job->conversation && other->disk.session[0])
            return other->disk.session;
    }
    return "";
}

static void
run(struct model *model, struct mjob *job)
{
    struct start *start = &model->expected.starts[model->expected.start_count++];

    *start = (struct start){.job = (int)(job - model->jobs), .attempt = job->now.attempt + 1};
    snprintf(start->session, sizeof start->session, "%s", session_of(model, job));
    job->phase = RUN;
    job->seq = 0;
    job->given_up = false;
    job->now.attempt++;
    job->now.state = job_state_RUNNING;
    job->now.started_ms = model->now_ms;
    job->due_ms = model->now_ms + job->timeout_ms + OVERDUE;
    expect_write(model, KIND_STEP, start->job);
}

static struct mjob *
next_job(struct model *model)
{
    struct mjob *best = NULL;
    int i;

    for (i = 0; i < model->job_count; i++) {
        struct mjob *job = &model->jobs[i];
        const struct mteam *team = &model->teams[job->team];

        if (job->phase == WAIT && team->ready && !team->paused && !is_blocked(model, job) &&
            count_phase(model, job->team, RUN) < concurrency[job->team] && (best == NULL || before(model, job, best)))
            best = job;
    }
    return best;
}

static void
dispatch(struct model *model)
{
    struct mjob *job;

    while (count_phase(model, -1, RUN) < MAX_RUNNING && (job = next_job(model)) != NULL) {
        if (is_over(model, job))
            expire(model, job);
        else
            run(model, job);
    }
}

static void
park(struct model *model, struct mjob *job)
{
    job->phase = WAIT;
    job->due_ms = -1;
    job->now.state = job_state_PARKED;
    line_up_first(model, job, job->created_ms);
    expect_write(model, KIND_STEP, (int)(job - model->jobs));
}

static int64_t
lower(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A failed attempt that may be repeated.  How long the queue waits is its own choice within bounds; whether it waits at
 * all is seen from what it says. */
static void
repeat(struct model *model, struct mjob *job, const char *code, int64_t told_ms)
{
    int64_t longest_ms = job->max_retry_delay_ms ? lower(job->max_retry_delay_ms, MAX_RETRY_DELAY) : MAX_RETRY_DELAY;
    int64_t pause_ms = job->retry_delay_ms ? lower(job->retry_delay_ms, MAX_RETRY_DELAY) : RETRY_DELAY, most_ms;
    struct retry *said = NULL;
    int i;

    for (i = 1; i < job->now.failures; i++)
        pause_ms = lower(2 * pause_ms, longest_ms);
    pause_ms = lower(pause_ms, longest_ms);
    most_ms = lower(pause_ms + pause_ms / 4, longest_ms);
    for (i = 0; i < model->seen.retry_count && said == NULL; i++)
        if (&model->jobs[model->seen.retries[i].job] == job)
            said = &model->seen.retries[i];
    if (said == NULL) {
        CHECK(model,
              job->deadline_ms > 0 && model->now_ms + (told_ms > most_ms ? told_ms : most_ms) >= job->deadline_ms,
              "job %d was not tried again", (int)(job - model->jobs));
        finish(model, job, job_state_FAILED, code);
        return;
    }
    CHECK(model, said->attempt == job->now.attempt && strcmp(said->code, code) == 0, "a wrong job.retrying: %s",
          said->code);
    CHECK(model, said->delay_ms == told_ms || (said->delay_ms > told_ms && said->delay_ms >= pause_ms * 3 / 4),
          "a pause of %lld", (long long)said->delay_ms);
    CHECK(model, said->delay_ms == told_ms || said->delay_ms <= most_ms, "a pause of %lld", (long long)said->delay_ms);
    CHECK(model, job->deadline_ms == 0 || model->now_ms + said->delay_ms < job->deadline_ms, "behind the deadline");
    job->phase = DELAY;
    job->now.state = job_state_RETRYING;
    job->now.not_before_ms = job->due_ms = model->now_ms + said->delay_ms;
    *said = model->seen.retries[--model->seen.retry_count];
    expect_write(model, KIND_STEP, (int)(job - model->jobs));
}

struct report {
    enum job_state state;
    const char *code, *session;
    bool final;
    int64_t told_ms;
};

static void
fail(struct model *model, struct mjob *job, const struct report *report)
{
    bool repeatable = muster_err_retryable(muster_err_from_code(report->code)) && !report->final;

    job->now.failures++;
    if (repeatable && job->now.failures < job->max_attempts)
        repeat(model, job, report->code, report->told_ms);
    else
        finish(model, job, job_state_FAILED, report->code);
}

static void
conclude(struct model *model, struct mjob *job, const struct report *report)
{
    struct report hung = *report;

    hung.code = "AGENT_HUNG";
    snprintf(job->now.session, sizeof job->now.session, "%s", report->session);
    if (report->state == job_state_COMPLETED)
        finish(model, job, job_state_COMPLETED, NULL);
    else if (job->expired)
        finish(model, job, job_state_FAILED, "DEADLINE_EXCEEDED");
    else if (job->given_up && report->state == job_state_CANCELLED && !job->cancelled)
        fail(model, job, &hung);
    else if (job->cancelled || report->state == job_state_CANCELLED)
        finish(model, job, job_state_CANCELLED, NULL);
    else if (report->state == job_state_PARKED)
        park(model, job);
    else
        fail(model, job, report);
}

static void
conclude_lost(struct model *model, struct mjob *job, const char *code)
{
    struct report lost = {.state = job_state_FAILED, .code = code};
    char session[32];

    memcpy(session, job->now.session, sizeof session);
    lost.session = session;
    conclude(model, job, &lost);
}

/* ---- what is seen of the queue -------------------------------------------------------------------------------------
 */

static void
see_told(struct model *model, const struct muster_envelope *envelope, const struct muster_type *type, const void *body)
{
    struct told *told = &model->seen.told[model->seen.told_count++];
    const struct queue_accepted *accepted = body;
    const struct queue_finished *finished = body;
    const struct queue_cancelled *cancelled = body;
    const struct queue_paused *paused = body;
    const struct queue_placed *placed = body;

    *told = (struct told){.request = envelope->id, .type = type, .job = NO_JOB, .team = -1};
    if (type == &failed_type) {
        told->code = ((const struct failed *)body)->code;
    } else if (type == &queue_accepted_type) {
        told->job = job_of(model, &accepted->job);
        told->position = accepted->position;
        told->estimate_ms = accepted->estimate_ms;
        told->flag = accepted->repeated;
        CHECK(model, accepted->created_ms == model->jobs[told->job].created_ms, "a wrong created_ms");
    } else if (type == &queue_finished_type) {
        told->job = job_of(model, &finished->job->id);
        told->state = finished->job->state;
    } else if (type == &queue_cancelled_type) {
        told->job = job_of(model, &cancelled->job);
        told->state = cancelled->state;
        told->flag = cancelled->was_running;
    } else if (type == &queue_paused_type) {
        told->team = strcmp(paused->team, team_names[0]) == 0 ? 0 : 1;
        told->flag = paused->paused;
    } else if (type == &queue_placed_type) {
        told->position = placed->position;
        told->estimate_ms = placed->estimate_ms;
    }
}

static void
see_start(struct model *model, const struct agent_run *run)
{
    struct start *start = &model->seen.starts[model->seen.start_count++];
    const struct mjob *job;
    const char *wanted;
    char name[32];

    start->job = job_of(model, &run->job);
    start->attempt = run->attempt;
    snprintf(start->session, sizeof start->session, "%s", run->session ? run->session : "");
    job = &model->jobs[start->job];
    wanted = conversation_name(job, name);
    CHECK(model, run->timeout_ms == job->timeout_ms, "a wrong limit");
    CHECK(model, strcmp(wanted ? wanted : "", run->conversation ? run->conversation : "") == 0, "a wrong conversation");
}

static void
see_log(struct model *model, const struct log_append *append)
{
    const struct log_entry *entry = append->entries.items;
    struct muster_arena *arena = muster_arena_new();
    struct job_retrying retrying;
    struct retry *retry;

    cr_assert_eq(append->entries.count, 1);
    if (strcmp(entry->type, job_retrying_type.wire) == 0) {
        cr_assert_eq(muster_unpack(&job_retrying_type, entry->body.data, entry->body.size, arena, &retrying, NULL),
                     MUSTER_OK);
        retry = &model->seen.retries[model->seen.retry_count++];
        *retry =
            (struct retry){.job = job_of(model, &entry->job), .attempt = entry->attempt, .delay_ms = retrying.delay_ms};
        snprintf(retry->code, sizeof retry->code, "%s", retrying.code);
    } else {
        CHECK(model, strcmp(entry->type, job_parked_type.wire) == 0, "said %s", entry->type);
    }
    muster_arena_free(&arena);
}

static void
look(struct model *model)
{
    const struct fake_sent *sent;
    const struct agent_cancel *cancel;

    while ((sent = fake_take(model->ctx)) != NULL) {
        if (sent->type == &store_commit_type) {
            model->seen.writes[model->seen.write_count++].commit = sent->body;
        } else if (sent->type == &agent_run_type) {
            see_start(model, sent->body);
        } else if (sent->type == &agent_cancel_type) {
            cancel = sent->body;
            model->seen.drops[model->seen.drop_count++] =
                (struct start){.job = job_of(model, &cancel->job), .attempt = cancel->attempt};
        } else if (sent->type == &log_append_type) {
            see_log(model, sent->body);
        } else {
            CHECK(model, strcmp(sent->to, "caller") == 0, "%s to %s", sent->type->wire, sent->to);
            see_told(model, &sent->envelope, sent->type, sent->body);
        }
    }
}

/* ---- is it the same? ---- */

static bool
same_told(const struct told *a, const struct told *b)
{
    if (a->request != b->request)
        return false;
    if (a->code || b->code)
        return a->code && b->code && strcmp(a->code, b->code) == 0;
    return a->type == b->type && a->job == b->job && a->team == b->team && a->position == b->position &&
           a->estimate_ms == b->estimate_ms && a->state == b->state && a->flag == b->flag;
}

static void
compare_told(struct model *model)
{
    struct list *expected = &model->expected, *seen = &model->seen;
    int i, j;

    for (i = 0; i < seen->told_count; i++) {
        const struct told *told = &seen->told[i];

        for (j = 0; j < expected->told_count && !same_told(told, &expected->told[j]); j++)
            ;
        CHECK(model, j < expected->told_count,
              "request %lld was told %s %s: job %d, place %lld, estimate %lld, state %d, flag %d",
              (long long)told->request, told->type->wire, told->code ? told->code : "", told->job,
              (long long)told->position, (long long)told->estimate_ms, (int)told->state, told->flag);
        expected->told[j] = expected->told[--expected->told_count];
    }
    CHECK(model, expected->told_count == 0, "request %lld was not told %s %s: job %d, place %lld, estimate %lld",
          (long long)expected->told[0].request, expected->told[0].type ? expected->told[0].type->wire : "failed",
          expected->told[0].code ? expected->told[0].code : "", expected->told[0].job,
          (long long)expected->told[0].position, (long long)expected->told[0].estimate_ms);
}

static void
compare_starts(struct model *model, const char *what, const struct start *expected, int expected_count,
               const struct start *seen, int seen_count)
{
    int i;

    for (i = 0; i < expected_count && i < seen_count; i++)
        CHECK(model,
              expected[i].job == seen[i].job && expected[i].attempt == seen[i].attempt &&
                  strcmp(expected[i].session, seen[i].session) == 0,
              "%s %d should be job %d attempt %lld session %s, is job %d attempt %lld session %s", what, i,
              expected[i].job, (long long)expected[i].attempt, expected[i].session, seen[i].job,
              (long long)seen[i].attempt, seen[i].session);
    CHECK(model, expected_count == seen_count, "%s: %d expected, %d seen", what, expected_count, seen_count);
}

static void
check_record(struct model *model, const struct write *write, const struct job *record)
{
    const struct facts *facts = &write->facts;

    CHECK(model, record->state == facts->state, "job %d is written as %d, not %d", write->job, (int)record->state,
          (int)facts->state);
    CHECK(model,
          record->attempt == facts->attempt && record->failures == facts->failures &&
              record->started_ms == facts->started_ms && record->finished_ms == facts->finished_ms &&
              record->not_before_ms == facts->not_before_ms,
          "job %d is written with wrong numbers", write->job);
    CHECK(model,
          strcmp(record->session ? record->session : "", facts->session) == 0 &&
              strcmp(record->error ? record->error : "", facts->error) == 0,
          "job %d is written with session %s, error %s, not %s, %s", write->job, record->session ? record->session : "",
          record->error ? record->error : "", facts->session, facts->error);
    CHECK(model,
          record->position == model->jobs[write->job].position &&
              record->estimate_ms == model->jobs[write->job].estimate_ms &&
              record->deadline_ms == model->jobs[write->job].deadline_ms,
          "job %d is written with a wrong place", write->job);
}

/* Find the expectation that the commit fulfils; commits of several jobs may come in any order within a step. */
static void
match_write(struct model *model, const struct store_commit *commit)
{
    const struct store_put *put = commit->puts.items;
    struct muster_arena *arena = muster_arena_new();
    struct list *expected = &model->expected;
    struct team_state state;
    struct job record;
    int id = NO_JOB, i;

    if (strcmp(put->record, job_type.wire) == 0) {
        cr_assert_eq(muster_unpack(&job_type, put->value.data, put->value.size, arena, &record, NULL), MUSTER_OK);
        id = job_of(model, &record.id);
    } else {
        cr_assert_eq(muster_unpack(&team_state_type, put->value.data, put->value.size, arena, &state, NULL), MUSTER_OK);
    }
    for (i = 0; i < expected->write_count && expected->writes[i].job != id; i++)
        ;
    CHECK(model, i < expected->write_count, "an unexpected commit of job %d", id);
    if (id != NO_JOB) {
        check_record(model, &expected->writes[i], &record);
        CHECK(model, commit->entries.count == (expected->writes[i].kind == KIND_STEP ? 0 : 1), "wrong events");
    } else {
        CHECK(model,
              strcmp(state.team, team_names[expected->writes[i].team]) == 0 &&
                  state.paused == expected->writes[i].paused,
              "a wrong team_state");
    }
    model->disk[model->disk_count] = expected->writes[i];
    model->disk[model->disk_count++].commit = commit;
    expected->write_count--;
    memmove(&expected->writes[i], &expected->writes[i + 1],
            (size_t)(expected->write_count - i) * sizeof expected->writes[i]);
    muster_arena_free(&arena);
}

static void
compare_views(struct model *model)
{
    const struct muster_queue_view *view;
    char name[64];
    int i;

    for (i = 0; i < TEAMS; i++) {
        snprintf(name, sizeof name, MUSTER_QUEUE_BOARD "/%s", team_names[i]);
        view = fake_board(model->ctx, name);
        CHECK(model,
              view->queued == count_queued(model, i) && view->running == count_phase(model, i, RUN) &&
                  view->paused == model->teams[i].paused && view->mean_ms == model->teams[i].mean_ms,
              "%s shows %lld queued, %lld running, paused %d, mean %lld instead of %d, %d, %d, %lld", name,
              (long long)view->queued, (long long)view->running, view->paused, (long long)view->mean_ms,
              count_queued(model, i), count_phase(model, i, RUN), model->teams[i].paused,
              (long long)model->teams[i].mean_ms);
    }
}

/* The end of a step: all that was expected was seen, and nothing else. */
static void
compare(struct model *model)
{
    int i;

    look(model);
    for (i = 0; i < model->seen.write_count; i++)
        match_write(model, model->seen.writes[i].commit);
    compare_starts(model, "start", model->expected.starts, model->expected.start_count, model->seen.starts,
                   model->seen.start_count);
    compare_starts(model, "cancel", model->expected.drops, model->expected.drop_count, model->seen.drops,
                   model->seen.drop_count);
    compare_told(model);
    CHECK(model, model->seen.retry_count == 0, "job %d said that it will be tried again", model->seen.retries[0].job);
    CHECK(model, model->expected.write_count == 0, "job %d was not written", model->expected.writes[0].job);
    compare_views(model);
    memset(&model->expected, 0, sizeof model->expected);
    memset(&model->seen, 0, sizeof model->seen);
}

/* ---- the disk ------------------------------------------------------------------------------------------------------
 */

/* Write the records of a commit, as the store does. */
static void
write_records(struct model *model, const struct store_commit *commit)
{
    struct muster_arena *arena = muster_arena_new();
    size_t i;

    for (i = 0; i < commit->puts.count; i++) {
        const struct store_put *put = &commit->puts.items[i];
        const struct muster_type *type = strcmp(put->record, job_type.wire) == 0 ? &job_type : &team_state_type;
        void *record = muster_arena_alloc(arena, type->size);

        cr_assert_eq(muster_unpack(type, put->value.data, put->value.size, arena, record, NULL), MUSTER_OK);
        fake_put(model->ctx, type, record);
    }
    for (i = 0; i < commit->entries.count; i++) {
        const struct log_entry *entry = &commit->entries.items[i];

        if (muster_event_row(entry->type)->final)
            model->jobs[job_of(model, &entry->job)].ends++;
    }
    muster_arena_free(&arena);
}

/* Tell whom the commit wants told; `to_queue` false: the actor that sent it is gone. */
static void
send_answers(struct model *model, const struct store_commit *commit, bool failed, bool to_queue)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_envelope envelope;
    size_t i;

    for (i = 0; i < commit->answers.count; i++) {
        const struct store_answer *answer = &commit->answers.items[i];
        struct muster_bytes message = answer->ok;
        struct failed body = {.code = muster_err_code(MUSTER_STORAGE_FULL)};
        const struct muster_type *type = NULL;
        void *decoded;
        size_t at;

        cr_assert_eq(muster_envelope_unpack(message.data, message.size, arena, &envelope), MUSTER_OK);
        if (strcmp(envelope.type, agent_written_type.wire) == 0) { /* to an agent, and the same in both cases */
            cr_assert_eq(answer->no.size, answer->ok.size);
            continue;
        }
        for (at = 0; muster_messages[at] && type == NULL; at++)
            if (strcmp(muster_messages[at]->wire, envelope.type) == 0)
                type = muster_messages[at];
        decoded = muster_arena_alloc(arena, type->size);
        cr_assert_eq(muster_unpack(type, envelope.body.data, envelope.body.size, arena, decoded, NULL), MUSTER_OK);
        if (failed)
            see_told(model, &envelope, &failed_type, &body);
        else
            see_told(model, &envelope, type, decoded);
    }
    if (commit->writer && *commit->writer && to_queue)
        fake_deliver(model->ctx, &(struct muster_envelope){.reply_to = "", .trace = "", .principal.name = ""},
                     &store_written_type,
                     &(struct store_written){.commits = {&(struct store_about){commit->about}, 1}, .failed = failed});
    muster_arena_free(&arena);
}

static void
model_pause_next(struct model *model, int team_number)
{
    struct mteam *team = &model->teams[team_number];

    while (team->asked_count > 0 && !team->changing) {
        struct waiter asked = team->asked[0];

        memmove(team->asked, team->asked + 1, (size_t)--team->asked_count * sizeof *team->asked);
        if (asked.cancel == team->paused) {
            expect_told(model, (struct told){.request = asked.request,
                                             .type = &queue_paused_type,
                                             .job = NO_JOB,
                                             .team = team_number,
                                             .flag = team->paused});
            continue;
        }
        team->changing = true;
        team->change_to = asked.cancel;
        team->paused = team->paused || asked.cancel;
        model->expected.writes[model->expected.write_count++] = (struct write){
            .kind = KIND_PAUSE, .job = NO_JOB, .team = team_number, .request = asked.request, .paused = asked.cancel};
    }
}

static struct told
accepted_as(const struct model *model, int job, int64_t request, bool repeated)
{
    return (struct told){.request = request,
                         .type = &queue_accepted_type,
                         .job = job,
                         .team = -1,
                         .position = model->jobs[job].position,
                         .estimate_ms = model->jobs[job].estimate_ms,
                         .flag = repeated};
}

/* What the model thinks of a commit on disk. */
static void
model_stored(struct model *model, const struct write *write)
{
    struct mjob *job = write->job >= 0 ? &model->jobs[write->job] : NULL;

    if (write->kind == KIND_PAUSE) {
        model->teams[write->team].disk_paused = write->paused;
        expect_told(model, (struct told){.request = write->request,
                                         .type = &queue_paused_type,
                                         .job = NO_JOB,
                                         .team = write->team,
                                         .flag = write->paused});
        return;
    }
    job->disk = write->facts;
    job->disk.retried_as = job->stored ? job->disk.retried_as : NO_JOB;
    job->stored = true;
    if (write->kind != KIND_SUBMIT)
        return;
    if (job->retry_of >= 0)
        model->jobs[job->retry_of].disk.retried_as = write->job;
    expect_told(model, accepted_as(model, write->job, write->request, false));
}

static void
model_taken(struct model *model, struct mjob *job)
{
    if (job->now.not_before_ms > model->now_ms) {
        job->phase = DELAY;
    } else {
        job->phase = WAIT;
        if (!in_line(job))
            line_up(model, job);
    }
    if (job->cancelled)
        finish(model, job, job_state_CANCELLED, NULL);
    else if (is_over(model, job))
        expire(model, job);
}

static void
model_ended(struct model *model, struct mjob *job)
{
    job->phase = NOWHERE;
    for (; job->waiter_count > 0; job->waiter_count--) {
        const struct waiter *waiter = &job->waiters[job->waiter_count - 1];

        expect_told(model, (struct told){.request = waiter->request,
                                         .type = waiter->cancel ? &queue_cancelled_type : &queue_finished_type,
                                         .job = (int)(job - model->jobs),
                                         .team = -1,
                                         .state = job->now.state,
                                         .flag = waiter->cancel && job->was_running});
    }
}

/* Its first commit failed: who meant to cancel it is told; the submitter was, by the store. */
static void
model_refused(struct model *model, struct mjob *job)
{
    for (; job->waiter_count > 0; job->waiter_count--) {
        const struct waiter *waiter = &job->waiters[job->waiter_count - 1];

        if (waiter->cancel)
            expect_told(model, (struct told){.request = waiter->request, .code = muster_err_code(MUSTER_NOT_FOUND)});
    }
}

/* What the queue makes of the news. */
static void
model_written(struct model *model, const struct write *write, bool failed)
{
    struct mjob *job = write->job >= 0 ? &model->jobs[write->job] : NULL;

    if (write->kind == KIND_PAUSE) {
        struct mteam *team = &model->teams[write->team];

        if (failed == team->change_to)
            team->paused = false;
        team->changing = false;
        model_pause_next(model, write->team);
    } else if (write->kind == KIND_END && failed) {
        job->due_ms = model->now_ms + COMMIT_PAUSE;
    } else if (write->kind == KIND_END) {
        job->due_ms = -1;
        model_ended(model, job);
    } else if (write->kind == KIND_SUBMIT && failed) {
        job->phase = NOWHERE;
        job->seq = 0;
        model_refused(model, job);
    } else if (write->kind == KIND_SUBMIT) {
        model_taken(model, job);
    }
    if (write->kind != KIND_STEP)
        dispatch(model);
}

static void
disk_step(struct model *model, bool failed)
{
    struct write write = model->disk[0];

    if (model->disk_count == 0)
        return;
    model->what = failed ? "commit fails" : "commit";
    memmove(model->disk, model->disk + 1, (size_t)--model->disk_count * sizeof *model->disk);
    if (!failed) {
        write_records(model, write.commit);
        model_stored(model, &write);
    } else if (write.request > 0) {
        expect_told(model,
                    (struct told){.request = write.request, .code = muster_err_code(MUSTER_STORAGE_FULL), .team = -1});
    }
    send_answers(model, write.commit, failed, true);
    model_written(model, &write, failed);
    compare(model);
}

/* ---- requests ------------------------------------------------------------------------------------------------------
 */

/* The answer to a submit that is not taken as a new job; false: it is. */
static bool
model_refuses(struct model *model, const struct mjob *job)
{
    int i;

    for (i = 0; i < model->job_count && job->key >= 0; i++) {
        const struct mjob *other = &model->jobs[i];

        if (other->phase == SUBMIT && other->key == job->key) {
            expect_failed(model,
                          other->print == job->print ? MUSTER_IDEMPOTENCY_IN_PROGRESS : MUSTER_IDEMPOTENCY_MISMATCH);
            return true;
        }
    }
    for (i = model->job_count - 1; i >= 0 && job->key >= 0; i--) {
        const struct mjob *other = &model->jobs[i];

        if (!other->stored || other->key != job->key)
            continue;
        if (model->now_ms - other->created_ms >= DEDUP_WINDOW)
            break;
        if (other->print == job->print)
            expect_told(model, accepted_as(model, i, model->request, true));
        else
            expect_failed(model, MUSTER_IDEMPOTENCY_MISMATCH);
        return true;
    }
    if (job->retry_of >= 0) {
        const struct mjob *original = &model->jobs[job->retry_of];

        if (!original->stored || original->disk.state != job_state_FAILED) {
            expect_failed(model, original->stored ? MUSTER_CONFLICT : MUSTER_NOT_FOUND);
            return true;
        }
        if (original->disk.retried_as >= 0) {
            expect_told(model, accepted_as(model, original->disk.retried_as, model->request, true));
            return true;
        }
    }
    if ((job->deadline_ms > 0 && job->deadline_ms <= model->now_ms) ||
        job->now.not_before_ms - model->now_ms > MAX_DELAY) {
        expect_failed(model, MUSTER_INVALID_REQUEST);
        return true;
    }
    if (count_queued(model, -1) >= MAX_QUEUED || count_queued(model, job->team) >= team_max_queued[job->team]) {
        expect_failed(model, MUSTER_QUEUE_FULL);
        return true;
    }
    return false;
}

static void
model_submit(struct model *model, struct mjob job, bool wait)
{
    struct mjob *kept;

    if (model_refuses(model, &job))
        return;
    kept = &model->jobs[model->job_count++];
    *kept = job;
    kept->phase = SUBMIT;
    kept->created_ms = model->now_ms;
    if (kept->now.not_before_ms <= model->now_ms) {
        kept->now.not_before_ms = 0;
        line_up(model, kept);
    }
    kept->position = place_of(model, kept);
    kept->estimate_ms = estimate_of(model, kept, kept->position);
    if (wait)
        kept->waiters[kept->waiter_count++] = (struct waiter){.request = model->request};
    expect_write(model, KIND_SUBMIT, (int)(kept - model->jobs));
    model->expected.writes[model->expected.write_count - 1].request = model->request;
}

static struct mjob
random_job(struct model *model)
{
    struct mjob job = {.id = make_id(model, model->job_count),
                       .team = (int)dice(model, TEAMS),
                       .conversation = one_in(model, 3) ? (int)dice(model, CONVERSATIONS) : -1,
                       .key = one_in(model, 4) ? (int)dice(model, KEYS) : -1,
                       .print = (char)('a' + (one_in(model, 5) ? 1 : 0)),
                       .retry_of = -1,
                       .priority = (enum job_priority)(1 + dice(model, 4)),
                       .timeout_ms = 5000 + (int64_t)dice(model, 60000),
                       .max_attempts = 1 + (int64_t)dice(model, MAX_ATTEMPTS),
                       .due_ms = -1,
                       .now = {.state = job_state_QUEUED, .retried_as = NO_JOB},
                       .disk = {.retried_as = NO_JOB}};

    if (model->job_count > 0 && one_in(model, 10))
        job.retry_of = (int)dice(model, (unsigned)model->job_count);
    if (one_in(model, 4))
        job.now.not_before_ms = model->now_ms - 2000 + (int64_t)dice(model, 40000);
    if (one_in(model, 30))
        job.now.not_before_ms = model->now_ms + MAX_DELAY + (int64_t)dice(model, 2);
    if (one_in(model, 3))
        job.deadline_ms = model->now_ms - 1000 + (int64_t)dice(model, 60000);
    if (one_in(model, 3))
        job.retry_delay_ms = 1 + (int64_t)dice(model, 12000);
    if (one_in(model, 3))
        job.max_retry_delay_ms = 1 + (int64_t)dice(model, 12000);
    return job;
}

static void
do_submit(struct model *model)
{
    struct mjob job = random_job(model);
    char name[32], digest[16];
    struct job record = {.id = job.id,
                         .kind = job_kind_EXECUTE,
                         .team = team_names[job.team],
                         .state = job_state_QUEUED,
                         .priority = job.priority,
                         .prompt = "do it",
                         .from = "test",
                         .timeout_ms = job.timeout_ms,
                         .max_attempts = job.max_attempts,
                         .not_before_ms = job.now.not_before_ms,
                         .deadline_ms = job.deadline_ms,
                         .retry_delay_ms = job.retry_delay_ms,
                         .max_retry_delay_ms = job.max_retry_delay_ms,
                         .conversation = conversation_name(&job, name)};
    struct queue_submit body = {.job = &record, .wait = one_in(model, 2)};

    if (model->job_count == JOBS)
        return;
    model->what = "submit";
    snprintf(digest, sizeof digest, "key-%d", job.key);
    if (job.key >= 0) {
        record.idempotency = digest;
        record.fingerprint = (struct muster_bytes){(const uint8_t *)&job.print, 1};
    }
    if (job.retry_of >= 0)
        record.retry_of = model->jobs[job.retry_of].id;
    model->request++;
    fake_call(model->ctx, "caller", model->request, &queue_submit_type, &body);
    model_submit(model, job, body.wait);
    compare(model);
}

static void
model_cancel(struct model *model, struct mjob *job)
{
    struct told told = {.request = model->request,
                        .type = &queue_cancelled_type,
                        .job = (int)(job - model->jobs),
                        .team = -1,
                        .state = job->disk.state};

    if (job->phase == NOWHERE && !job->stored) {
        expect_failed(model, MUSTER_NOT_FOUND);
        return;
    }
    if (job->phase == NOWHERE) {
        expect_told(model, told);
        return;
    }
    job->waiters[job->waiter_count++] = (struct waiter){.request = model->request, .cancel = true};
    if (job->phase == FINISH)
        return;
    job->cancelled = true;
    if (job->phase == RUN) {
        job->was_running = true;
        model->expected.drops[model->expected.drop_count++] =
            (struct start){.job = told.job, .attempt = job->now.attempt};
    } else if (job->phase != SUBMIT) {
        finish(model, job, job_state_CANCELLED, NULL);
    }
}

/* Any job, but often one that an agent has. */
static int
job_to_cancel(struct model *model)
{
    int i;

    for (i = 0; i < model->job_count; i++)
        if (model->jobs[i].phase == RUN && one_in(model, 4))
            return i;
    return model->job_count > 0 ? (int)dice(model, (unsigned)model->job_count) : NO_JOB;
}

static void
do_cancel(struct model *model)
{
    int number = job_to_cancel(model);
    struct queue_cancel body;

    if (number == NO_JOB || model->jobs[number].waiter_count >= 8)
        return;
    model->what = "cancel";
    body.job = model->jobs[number].id;
    model->request++;
    fake_call(model->ctx, "caller", model->request, &queue_cancel_type, &body);
    model_cancel(model, &model->jobs[number]);
    compare(model);
}

static void
do_pause(struct model *model, int number, bool paused)
{
    struct mteam *team = &model->teams[number];
    struct queue_pause body = {.team = team_names[number], .paused = paused};

    if (team->asked_count >= 32)
        return;
    model->what = body.paused ? "pause" : "resume";
    model->request++;
    fake_call(model->ctx, "caller", model->request, &queue_pause_type, &body);
    team->asked[team->asked_count++] = (struct waiter){.request = model->request, .cancel = body.paused};
    model_pause_next(model, number);
    compare(model);
}

static void
do_place(struct model *model, int number)
{
    const struct mjob *job = &model->jobs[number];
    struct queue_place body = {.job = job->id};
    struct told told = {.type = &queue_placed_type, .job = NO_JOB, .team = -1};
    int64_t end_ms;

    model->what = "place";
    told.request = ++model->request;
    if (job->phase == SUBMIT || job->phase == WAIT || job->phase == DELAY) {
        told.position = place_of(model, job);
        told.estimate_ms = estimate_of(model, job, told.position);
    } else if (job->phase == RUN) {
        end_ms = job->now.started_ms + mean_of(model, job->team);
        told.estimate_ms = end_ms > model->now_ms ? end_ms : model->now_ms;
    } else if (job->phase == FINISH) {
        told.estimate_ms = model->now_ms;
    }
    if (job->phase == NOWHERE && !job->stored)
        expect_failed(model, MUSTER_NOT_FOUND);
    else
        expect_told(model, told);
    fake_call(model->ctx, "caller", model->request, &queue_place_type, &body);
    compare(model);
}

/* ---- agents ---- */

static void
do_ready(struct model *model, int number)
{
    char address[64];
    struct queue_ready ready = {.team = team_names[number], .address = address, .capacity = concurrency[number]};
    int i;

    model->what = "ready";
    snprintf(address, sizeof address, "agent/%s", team_names[number]);
    fake_call(model->ctx, "", 0, &queue_ready_type, &ready);
    look(model);
    for (i = 0; i < model->job_count; i++)
        if (model->jobs[i].team == number && model->jobs[i].phase == RUN)
            conclude_lost(model, &model->jobs[i], "PROCESS_ERROR");
    model->teams[number].ready = true;
    dispatch(model);
    compare(model);
}

static struct report
random_report(struct model *model, char session[32])
{
    static const char *const codes[] = {"PROCESS_ERROR", "MODEL_AUTH", "MODEL_OVERLOADED"};
    struct report report = {.state = job_state_COMPLETED, .code = codes[dice(model, 3)], .session = session};

    snprintf(session, 32, "s-%u", dice(model, 1000));
    if (one_in(model, 4))
        session[0] = '\0';
    if (one_in(model, 2))
        report.state = job_state_FAILED;
    if (one_in(model, 8))
        report.state = one_in(model, 2) ? job_state_CANCELLED : job_state_PARKED;
    report.final = one_in(model, 8);
    report.told_ms = one_in(model, 4) ? (int64_t)dice(model, 20000) : 0;
    return report;
}

/* Of the attempt that runs, or of one that is over, or that never was. */
static void
do_report(struct model *model)
{
    char session[32];
    struct report report = random_report(model, session);
    int running[JOBS], count = 0, number, i;
    struct queue_report body = {.state = report.state,
                                .result = "done",
                                .code = report.code,
                                .message = "because",
                                .session = session,
                                .final = report.final,
                                .retry_after_ms = report.told_ms};
    bool stale;

    for (i = 0; i < model->job_count; i++)
        if (model->jobs[i].phase == RUN)
            running[count++] = i;
    stale = model->job_count > 0 && one_in(model, 6);
    if (count == 0 && !stale)
        return;
    model->what = stale ? "stale report" : "report";
    number = stale ? (int)dice(model, (unsigned)model->job_count) : running[dice(model, (unsigned)count)];
    body.job = model->jobs[number].id;
    body.attempt = model->jobs[number].now.attempt + (stale ? one_in(model, 2) ? -1 : 1 : 0);
    if (body.attempt < 1)
        body.attempt = model->jobs[number].now.attempt + 1;
    fake_call(model->ctx, "", 0, &queue_report_type, &body);
    look(model);
    if (!stale) {
        conclude(model, &model->jobs[number], &report);
        dispatch(model);
    }
    compare(model);
}

/* ---- time ----------------------------------------------------------------------------------------------------------
 */

/* When the wall clock matters to a job: the end of its delay or its deadline; -1: never. */
static int64_t
wall_due(const struct mjob *job)
{
    bool running = job->phase == RUN && !job->expired && !job->cancelled;
    int64_t due_ms = -1;

    if (job->deadline_ms > 0 && (job->phase == WAIT || job->phase == DELAY || running))
        due_ms = job->deadline_ms;
    if (job->phase == DELAY && job->now.state == job_state_QUEUED && (due_ms < 0 || job->now.not_before_ms < due_ms))
        due_ms = job->now.not_before_ms;
    return due_ms;
}

/* The next time at which something happens; -1: never.  `out_tie`: several timers of the actor ring then, and nothing
 * says which comes first. */
static int64_t
next_due(const struct model *model, bool *out_tie)
{
    int64_t next_ms = -1;
    int i, timers = 0;
    bool wall = false;

    for (i = 0; i < model->job_count; i++) {
        const struct mjob *job = &model->jobs[i];
        int64_t wall_ms = wall_due(job);

        if (job->due_ms >= 0 && (next_ms < 0 || job->due_ms < next_ms))
            next_ms = job->due_ms;
        if (wall_ms >= 0 && (next_ms < 0 || wall_ms < next_ms))
            next_ms = wall_ms;
    }
    for (i = 0; i < model->job_count && next_ms >= 0; i++) {
        timers += model->jobs[i].due_ms == next_ms;
        wall = wall || wall_due(&model->jobs[i]) == next_ms;
    }
    *out_tie = timers + wall > 1;
    return next_ms;
}

static void
ring(struct model *model, struct mjob *job)
{
    job->due_ms = -1;
    if (job->phase == FINISH) {
        expect_write(model, KIND_END, (int)(job - model->jobs));
    } else if (job->phase == DELAY) {
        job->phase = WAIT;
        job->now.state = job_state_QUEUED;
        line_up(model, job);
    } else if (job->given_up) {
        conclude_lost(model, job, "AGENT_HUNG");
    } else {
        job->given_up = true;
        job->due_ms = model->now_ms + OVERDUE;
        model->expected.drops[model->expected.drop_count++] =
            (struct start){.job = (int)(job - model->jobs), .attempt = job->now.attempt};
    }
}

/* All that the wall clock has brought about, the oldest time first, of the same time the oldest job. */
static void
look_at_wall(struct model *model)
{
    struct mjob *first;
    int i;

    do {
        first = NULL;
        for (i = 0; i < model->job_count; i++) {
            struct mjob *job = &model->jobs[i];

            if (wall_due(job) >= 0 && wall_due(job) <= model->now_ms &&
                (first == NULL || wall_due(job) < wall_due(first)))
                first = job;
        }
        if (first && is_over(model, first)) {
            expire(model, first);
        } else if (first) {
            first->phase = WAIT;
            line_up(model, first);
        }
    } while (first);
}

static void restart(struct model *model, int64_t now_ms);

/* What is due at this moment. */
static void
happen(struct model *model)
{
    int i;

    look(model);
    for (i = 0; i < model->job_count; i++)
        if (model->jobs[i].due_ms >= 0 && model->jobs[i].due_ms <= model->now_ms)
            ring(model, &model->jobs[i]);
    look_at_wall(model);
    dispatch(model);
    compare(model);
}

static void
advance(struct model *model, int64_t ms)
{
    int64_t target_ms = model->now_ms + ms, next_ms;
    bool tie;

    for (;;) {
        model->what = "time";
        next_ms = next_due(model, &tie);
        if (next_ms < 0 || next_ms > target_ms)
            break;
        if (next_ms < model->now_ms)
            next_ms = model->now_ms;
        if (tie) { /* die before, and come back after it */
            fake_advance(model->ctx, next_ms > model->now_ms ? next_ms - 1 - model->now_ms : 0);
            restart(model, next_ms + 1);
            target_ms = target_ms > model->now_ms ? target_ms : model->now_ms;
            continue;
        }
        fake_advance(model->ctx, next_ms - model->now_ms);
        model->now_ms = next_ms;
        happen(model);
    }
    fake_advance(model->ctx, target_ms - model->now_ms);
    model->now_ms = target_ms;
    dispatch(model);
    compare(model);
}

/* ---- death and rebirth ---------------------------------------------------------------------------------------------
 */

static int64_t
claim_ms(const struct mjob *job)
{
    return job->disk.not_before_ms > job->created_ms ? job->disk.not_before_ms : job->created_ms;
}

static bool
was_begun(const struct mjob *job)
{
    return job->disk.state == job_state_RUNNING || job->disk.state == job_state_PARKED;
}

/* Of the jobs that are not back yet, the one whose turn it is: by claim, or by claim from the end. */
static struct mjob *
next_back(struct model *model, const bool *todo, bool begun)
{
    struct mjob *best = NULL;
    int i;

    for (i = 0; i < model->job_count; i++) {
        struct mjob *job = &model->jobs[i];

        if (todo[i] && was_begun(job) == begun &&
            (best == NULL || (begun ? claim_ms(job) >= claim_ms(best) : claim_ms(job) < claim_ms(best))))
            best = job;
    }
    return best;
}

static void
forget_memory(struct mjob *job)
{
    job->phase = NOWHERE;
    job->seq = 0;
    job->due_ms = -1;
    job->cancelled = job->was_running = job->given_up = job->expired = false;
    job->waiter_count = 0;
    job->now = job->disk;
}

static void
come_back(struct model *model, struct mjob *job)
{
    int64_t due_ms = job->now.not_before_ms;

    if (was_begun(job)) {
        struct retry *retry;
        int i;

        for (i = 0; i < model->seen.retry_count && &model->jobs[model->seen.retries[i].job] != job; i++)
            ;
        CHECK(model, i < model->seen.retry_count, "nobody was told that job %d begins anew", (int)(job - model->jobs));
        retry = &model->seen.retries[i];
        CHECK(model, strcmp(retry->code, "SHUTTING_DOWN") == 0, "a wrong reason");
        *retry = model->seen.retries[--model->seen.retry_count];
        job->phase = WAIT;
        line_up_first(model, job, claim_ms(job));
    } else if (due_ms > model->now_ms) {
        job->phase = DELAY;
        job->due_ms = job->now.state == job_state_RETRYING ? due_ms : -1;
        return;
    } else {
        job->phase = WAIT;
        line_up(model, job);
        job->since_ms = claim_ms(job);
    }
    job->now.state = job_state_QUEUED;
}

/* The mean of the newest 16 completed jobs among the newest 64 that have ended. */
static int64_t
remembered_mean(const struct model *model, int team)
{
    int64_t sum_ms = 0;
    int count = 0, left = 64 + count_queued(model, team), i;

    for (i = model->job_count - 1; i >= 0 && left > 0 && count < 16; i--) {
        const struct mjob *job = &model->jobs[i];
        int64_t duration_ms = job->disk.finished_ms - job->disk.started_ms;

        if (!job->stored || job->team != team)
            continue;
        left--;
        if (job->disk.state != job_state_COMPLETED)
            continue;
        sum_ms += duration_ms > 1 ? duration_ms : 1;
        count++;
    }
    return count ? sum_ms / count : 0;
}

static void
model_restart(struct model *model)
{
    bool todo[JOBS];
    struct mjob *job;
    int i;

    for (i = 0; i < model->job_count; i++) {
        forget_memory(&model->jobs[i]);
        todo[i] = model->jobs[i].stored && !is_final(model->jobs[i].disk.state);
        if (todo[i])
            model->jobs[i].phase = SUBMIT; /* all are there before the first is put in its place */
    }
    model->next_seq = 1;
    model->first_seq = 0;
    while ((job = next_back(model, todo, false)) != NULL || (job = next_back(model, todo, true)) != NULL) {
        todo[job - model->jobs] = false;
        come_back(model, job);
    }
    for (i = 0; i < TEAMS; i++)
        model->teams[i] = (struct mteam){.paused = model->teams[i].disk_paused,
                                         .disk_paused = model->teams[i].disk_paused,
                                         .mean_ms = remembered_mean(model, i)};
}

/* The actor dies; of what was under way some reaches the disk; it comes back at `now_ms`. */
static void
restart(struct model *model, int64_t now_ms)
{
    int written = model->disk_count > 0 ? (int)dice(model, (unsigned)model->disk_count + 1) : 0, i;
    struct write write;

    model->what = "restart";
    for (i = 0; i < written; i++) {
        write = model->disk[i];
        write_records(model, write.commit);
        send_answers(model, write.commit, false, false);
        model_stored(model, &write);
    }
    model->disk_count = 0;
    fake_stop(model->ctx);
    fake_set_clock(model->ctx, now_ms);
    model->now_ms = now_ms;
    cr_assert_eq(fake_start(model->ctx, &muster_queue_class, MUSTER_QUEUE, NULL), MUSTER_OK);
    look(model);
    model_restart(model);
    fake_batch_begin(model->ctx);
    fake_batch_end(model->ctx); /* idle: views */
    compare(model);
    if (one_in(model, 2))
        do_ready(model, (int)dice(model, TEAMS)); /* before the timer of deadlines that have passed */
    fake_advance(model->ctx, 0);
    model->what = "restart";
    happen(model);
    for (i = 0; i < TEAMS; i++)
        do_ready(model, i);
}

/* ---- lives ---------------------------------------------------------------------------------------------------------
 */

static void
random_step(struct model *model)
{
    switch (dice(model, 16)) {
    case 0:
    case 1:
    case 2:
    case 3:
        do_submit(model);
        break;
    case 4:
    case 5:
    case 6:
        do_report(model);
        break;
    case 7:
        do_cancel(model);
        break;
    case 8:
    case 9:
    case 10:
    case 11:
        disk_step(model, one_in(model, 8));
        break;
    case 12:
    case 13:
        advance(model, (int64_t)dice(model, one_in(model, 10) ? 200000 : 4000));
        break;
    case 14:
        do_pause(model, (int)dice(model, TEAMS), one_in(model, 3));
        break;
    default:
        if (one_in(model, 4))
            restart(model, model->now_ms);
        else if (one_in(model, 4))
            do_ready(model, (int)dice(model, TEAMS));
    }
}

static void
ask_places(struct model *model)
{
    int i;

    for (i = 0; i < model->job_count; i++)
        if (model->jobs[i].phase != NOWHERE || one_in(model, 20))
            do_place(model, i);
}

static bool
all_ended(const struct model *model)
{
    int i;

    for (i = 0; i < model->job_count; i++)
        if (model->jobs[i].phase != NOWHERE)
            return false;
    return model->disk_count == 0;
}

/* Nothing fails any more, and nobody asks for more. */
static void
live_out(struct model *model)
{
    int i;

    for (i = 0; i < 20000 && !all_ended(model); i++) {
        do_report(model);
        disk_step(model, false);
        if (i % 4 == 0)
            advance(model, 1000);
        if (model->teams[i % TEAMS].paused) /* again, if the actor died with it */
            do_pause(model, i % TEAMS, false);
    }
    CHECK(model, all_ended(model), "jobs are left");
}

static void
live(unsigned seed)
{
    struct model *model = muster_alloc(sizeof *model);
    int i;

    model->seed = seed;
    model->random = seed * UINT64_C(2654435761) + 1;
    model->what = "birth";
    model->next_seq = 1;
    model->ctx = fake_new(OPTIONS);
    model->now_ms = FAKE_START_MS;
    cr_assert_eq(fake_start(model->ctx, &muster_queue_class, MUSTER_QUEUE, NULL), MUSTER_OK);
    for (i = 0; i < TEAMS; i++)
        do_ready(model, i);
    for (model->step = 0; model->step < STEPS; model->step++) {
        random_step(model);
        if (model->step % 8 == 0)
            ask_places(model);
    }
    live_out(model);
    for (i = 0; i < model->job_count; i++)
        CHECK(model, model->jobs[i].ends == (model->jobs[i].stored ? 1 : 0), "job %d has %d ends", i,
              model->jobs[i].ends);
    fake_free(&model->ctx);
    free(model);
}

Test(queue_model, the_queue_does_what_its_model_does)
{
    const char *one = getenv("MUSTER_SEED");
    unsigned seed;

    if (one) {
        live((unsigned)strtoul(one, NULL, 10));
        return;
    }
    for (seed = 1; seed <= LIVES; seed++)
        live(seed);
}
