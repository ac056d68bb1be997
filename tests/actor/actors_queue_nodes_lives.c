/* SPDX-License-Identifier: MPL-2.0 */
/* The queue and three workers in random lives: jobs come, workers break off, are lost and come back, the disk fails,
 * the daemon dies; in the end every job has ended exactly once, no attempt was ever given to two, and nobody waits for
 * an answer.
 *
 * The test plays nodes and the workers.  MUSTER_SEED=<n> runs one life again.  One thread. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake/fake_ctx.h"

#define OPTIONS                                                                                                        \
    "queue: {max_running: 5, max_attempts: 3, retry_delay: 1s, max_retry_delay: 4s, max_queued: 1000}\n"               \
    "workers: {lease: 30s, hold_sessions: 20s, max_losses: 50}\n"                                                      \
    "teams: {far: {driver: remote, max_queued: 1000}}\n"

enum { LIVES = 80, STEPS = 600, JOBS = 128, WORKERS = 3, CAPACITY = 2, HELD = 64 };

/* An attempt that a worker has: it runs, or its report is not acknowledged. */
struct held {
    struct muster_id job;
    int64_t attempt;
    bool cancelled, ended;
    enum job_state state;
};

struct worker {
    char name[8];
    bool linked;            /* to the hub */
    enum node_state stands; /* as the hub sees it */
    int64_t attachment;
    struct held held[HELD];
    size_t count;
};

struct life {
    struct muster_ctx *ctx;
    unsigned seed;
    uint64_t random;
    int64_t attachments, now_ms;
    struct worker workers[WORKERS];
    struct muster_id jobs[JOBS];
    bool accepted[JOBS];
    int64_t begun[JOBS];  /* last attempt that was given to a worker */
    int64_t failed[JOBS]; /* reports of failure that workers made */
    size_t job_count;
};

#define CHECK(life, condition, ...)                                                                                    \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            char text_[256];                                                                                           \
            snprintf(text_, sizeof text_, __VA_ARGS__);                                                                \
            cr_assert_fail("MUSTER_SEED=%u: %s", (life)->seed, text_);                                                 \
        }                                                                                                              \
    } while (0)

static unsigned
dice(struct life *life, unsigned sides)
{
    life->random = life->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((life->random >> 33) % sides);
}

static bool
one_in(struct life *life, unsigned sides)
{
    return dice(life, sides) == 0;
}

static size_t
number_of(const struct life *life, const struct muster_id *id)
{
    size_t i = 0;

    while (i < life->job_count && !muster_id_equal(&life->jobs[i], id))
        i++;
    return i;
}

/* ---- workers ---- */

static struct held *
find_held(struct worker *worker, const struct muster_id *job, int64_t attempt)
{
    size_t i;

    for (i = 0; i < worker->count; i++)
        if (worker->held[i].attempt == attempt && muster_id_equal(&worker->held[i].job, job))
            return &worker->held[i];
    return NULL;
}

static void
drop_held(struct worker *worker, struct held *held)
{
    *held = worker->held[--worker->count];
}

static void
on_run(struct life *life, const struct agent_run *run)
{
    size_t number = number_of(life, &run->job), i;

    CHECK(life, number < life->job_count, "a job that nobody submitted");
    CHECK(life, run->attempt > life->begun[number], "attempt %d was given away twice", (int)run->attempt);
    life->begun[number] = run->attempt;
    for (i = 0; i < WORKERS; i++) {
        struct worker *worker = &life->workers[i];

        if (strcmp(worker->name, run->node) != 0 || !worker->linked || worker->attachment != run->attachment)
            continue;
        CHECK(life, worker->count < HELD, "too many attempts");
        worker->held[worker->count++] = (struct held){.job = run->job, .attempt = run->attempt};
    }
}

static void
on_cancel(struct life *life, const struct agent_cancel *cancel)
{
    size_t i;

    for (i = 0; i < WORKERS; i++) {
        struct held *held = find_held(&life->workers[i], &cancel->job, cancel->attempt);

        if (held && life->workers[i].linked)
            held->cancelled = true;
    }
}

static void
on_reported(struct life *life, const struct queue_reported *reported)
{
    size_t i;

    for (i = 0; i < WORKERS; i++) {
        struct worker *worker = &life->workers[i];
        struct held *held = find_held(worker, &reported->job, reported->attempt);

        if (held && worker->linked && strcmp(worker->name, reported->node) == 0) {
            CHECK(life, held->ended, "an answer to what was not reported");
            drop_held(worker, held);
        }
    }
}

/* Messages to nodes and callers arrive. */
static void
deliver(struct life *life)
{
    const struct fake_sent *sent;

    while ((sent = fake_take_to(life->ctx, "caller")) != NULL)
        if (sent->type == &queue_accepted_type)
            life->accepted[number_of(life, &((const struct queue_accepted *)sent->body)->job)] = true;
    while ((sent = fake_take_to(life->ctx, MUSTER_NODES)) != NULL) {
        if (sent->type == &agent_run_type)
            on_run(life, sent->body);
        else if (sent->type == &agent_cancel_type)
            on_cancel(life, sent->body);
        else if (sent->type == &queue_reported_type)
            on_reported(life, sent->body);
    }
}

static void
send_report(struct life *life, const struct worker *worker, const struct held *held)
{
    struct queue_report body = {.job = held->job,
                                .attempt = held->attempt,
                                .state = held->state,
                                .code = held->state == job_state_FAILED ? "PROCESS_ERROR" : NULL,
                                .result = "done",
                                .session = worker->name,
                                .reply_to = MUSTER_NODES,
                                .node = worker->name,
                                .parcel = held->attempt};

    if (worker->linked)
        fake_call(life->ctx, "", 0, &queue_report_type, &body);
}

/* An attempt ends, whether the hub can be reached or not. */
static void
end_attempt(struct life *life, struct worker *worker, struct held *held)
{
    static const enum job_state ends[] = {job_state_COMPLETED, job_state_COMPLETED, job_state_FAILED};

    held->ended = true;
    held->state = held->cancelled ? job_state_CANCELLED : ends[dice(life, 3)];
    life->failed[number_of(life, &held->job)] += held->state == job_state_FAILED;
    send_report(life, worker, held);
}

static void
work(struct life *life, struct worker *worker)
{
    struct held *held = worker->count > 0 ? &worker->held[dice(life, (unsigned)worker->count)] : NULL;

    if (held && held->ended)
        send_report(life, worker, held); /* once more: the answer may have been lost */
    else if (held)
        end_attempt(life, worker, held);
}

/* ---- how they stand ---- */

static void
stands(struct life *life, struct worker *worker, enum node_state state)
{
    struct queue_node body = {.node = worker->name, .state = state};

    worker->stands = state;
    fake_call(life->ctx, "", 0, &queue_node_type, &body);
}

static void
link_worker(struct life *life, struct worker *worker)
{
    struct held_attempt held[HELD];
    struct worker_team team = {.name = "far", .capacity = CAPACITY};
    struct queue_node body = {.node = worker->name,
                              .state = node_state_UP,
                              .attached = true,
                              .attachment = ++life->attachments,
                              .teams = {&team, 1},
                              .held = {held, worker->count}};
    const struct queue_noded *answer;
    size_t i;

    for (i = 0; i < worker->count; i++)
        held[i] = (struct held_attempt){.job = worker->held[i].job, .attempt = worker->held[i].attempt};
    worker->linked = true;
    worker->stands = node_state_UP;
    worker->attachment = body.attachment;
    fake_call(life->ctx, "noded", 0, &queue_node_type, &body);
    answer = fake_take_to(life->ctx, "noded")->body;
    for (i = 0; i < answer->stale.count; i++)
        drop_held(worker, find_held(worker, &answer->stale.items[i].job, answer->stale.items[i].attempt));
}

static void
change_worker(struct life *life, struct worker *worker)
{
    if (worker->linked && one_in(life, 3)) {
        worker->linked = false;
        stands(life, worker, node_state_AWAY);
    } else if (worker->linked) {
        stands(life, worker, one_in(life, 4) ? node_state_DRAINING : node_state_UP);
    } else if (worker->stands == node_state_AWAY && one_in(life, 3)) {
        stands(life, worker, node_state_LOST);
    } else if (one_in(life, 3)) {
        link_worker(life, worker);
        for (size_t i = 0; i < worker->count; i++)
            if (worker->held[i].ended && one_in(life, 2))
                send_report(life, worker, &worker->held[i]);
    }
}

/* ---- the hub ---- */

static void
advance(struct life *life, int64_t ms)
{
    fake_advance(life->ctx, ms);
    life->now_ms += ms;
}

static void
submit(struct life *life)
{
    static const char *const conversations[] = {NULL, NULL, "a", "b", "c"};
    struct job job = {.id = muster_id_new(FAKE_START_MS + (int64_t)life->job_count),
                      .kind = job_kind_EXECUTE,
                      .team = "far",
                      .state = job_state_QUEUED,
                      .from = "test",
                      .created_ms = 1,
                      .max_attempts = 3,
                      .priority = (enum job_priority)(1 + dice(life, 4)),
                      .prompt = "do it",
                      .conversation = conversations[dice(life, 5)],
                      .timeout_ms = 3600000};
    struct queue_submit body = {.job = &job};

    if (life->job_count == JOBS)
        return;
    if (one_in(life, 8))
        job.deadline_ms = life->now_ms + 1000 + dice(life, 60000);
    life->jobs[life->job_count++] = job.id;
    CHECK(life, fake_call(life->ctx, "caller", 1, &queue_submit_type, &body) == MUSTER_OK, "a job was refused");
}

static void
cancel(struct life *life)
{
    struct queue_cancel body;

    if (life->job_count == 0)
        return;
    body.job = life->jobs[dice(life, (unsigned)life->job_count)];
    fake_call(life->ctx, "caller", 2, &queue_cancel_type, &body);
}

static void
disk(struct life *life)
{
    if (one_in(life, 10))
        fake_commit_fails(life->ctx, MUSTER_STORAGE_FULL);
    else if (one_in(life, 2))
        fake_commit(life->ctx);
    else
        fake_commit_all(life->ctx);
}

static void
die(struct life *life)
{
    size_t i;

    while (!one_in(life, 3) && fake_commit(life->ctx))
        ;
    if (one_in(life, 2))
        deliver(life); /* nodes was faster than death */
    fake_forget(life->ctx);
    cr_assert_eq(fake_restart(life->ctx), MUSTER_OK);
    for (i = 0; i < WORKERS; i++) {
        life->workers[i].linked = false;
        stands(life, &life->workers[i], node_state_AWAY);
    }
}

static void
step(struct life *life)
{
    struct worker *worker = &life->workers[dice(life, WORKERS)];

    switch (dice(life, 12)) {
    case 0:
    case 1:
        submit(life);
        break;
    case 2:
    case 3:
    case 4:
        work(life, worker);
        break;
    case 5:
    case 6:
        change_worker(life, worker);
        break;
    case 7:
        if (one_in(life, 3))
            cancel(life);
        break;
    case 8:
        advance(life, dice(life, 5000));
        break;
    case 9:
    case 10:
        disk(life);
        break;
    default:
        if (one_in(life, 8))
            die(life);
    }
    deliver(life);
}

/* Nothing breaks any more. */
static void
live_out(struct life *life)
{
    size_t round, i, at;

    for (round = 0; round < 400; round++) {
        for (i = 0; i < WORKERS; i++) {
            struct worker *worker = &life->workers[i];

            if (!worker->linked)
                link_worker(life, worker);
            if (worker->stands != node_state_UP)
                stands(life, worker, node_state_UP);
            for (at = worker->count; at > 0; at--)
                work(life, worker);
        }
        fake_commit_all(life->ctx);
        deliver(life);
        advance(life, 500);
    }
}

static void
check_job(struct life *life, size_t number)
{
    const struct job *job = fake_get(life->ctx, &job_type, &life->jobs[number]);
    int ends = 0;
    size_t i;

    CHECK(life, job || !life->accepted[number], "job %zu was accepted, and is gone", number);
    if (job == NULL)
        return;
    for (i = 0; i < fake_event_count(life->ctx); i++)
        ends += muster_id_equal(&fake_event_at(life->ctx, i)->job, &job->id) &&
                muster_event_row(fake_event_at(life->ctx, i)->type)->final;
    CHECK(life, ends == 1, "job %zu, in state %d, has %d ends", number, (int)job->state, ends);
    CHECK(life, job->failures <= life->failed[number], "job %zu has %d failures, and its workers reported %d", number,
          (int)job->failures, (int)life->failed[number]);
}

/* How often what is tested here happened. */
struct counts {
    size_t lost, found, elsewhere;
};

static void
live(unsigned seed, struct counts *counts)
{
    struct life *life = muster_alloc(sizeof *life);
    size_t i;

    life->seed = seed;
    life->random = seed * UINT64_C(2654435761) + 1;
    life->now_ms = FAKE_START_MS;
    life->ctx = fake_new(OPTIONS);
    cr_assert_eq(fake_start(life->ctx, &muster_queue_class, MUSTER_QUEUE, NULL), MUSTER_OK);
    for (i = 0; i < WORKERS; i++) {
        snprintf(life->workers[i].name, sizeof life->workers[i].name, "w-%zu", i);
        life->workers[i].stands = node_state_LOST;
        link_worker(life, &life->workers[i]);
    }
    for (i = 0; i < STEPS; i++)
        step(life);
    live_out(life);
    for (i = 0; i < life->job_count; i++)
        check_job(life, i);
    for (i = 0; i < WORKERS; i++)
        CHECK(life, life->workers[i].count == 0, "worker %zu still has %zu attempts", i, life->workers[i].count);
    counts->lost += fake_said(life->ctx, "job-lost");
    counts->found += fake_said(life->ctx, "job-found");
    counts->elsewhere += fake_said(life->ctx, "session-lost");
    fake_free(&life->ctx);
    free(life);
}

Test(queue_nodes_lives, every_job_ends_exactly_once_whatever_workers_do)
{
    const char *one = getenv("MUSTER_SEED");
    struct counts counts = {0};
    unsigned seed;

    if (one) {
        live((unsigned)strtoul(one, NULL, 10), &counts);
        return;
    }
    for (seed = 1; seed <= LIVES; seed++)
        live(seed, &counts);
    cr_assert(counts.lost > LIVES && counts.found > LIVES && counts.elsewhere > LIVES / 2,
              "%zu lost, %zu found, %zu moved", counts.lost, counts.found, counts.elsewhere);
}
