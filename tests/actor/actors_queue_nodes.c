/* SPDX-License-Identifier: MPL-2.0 */
/* The queue and workers: handing over, workers that are away, lost and back, sessions that lie with one of them, and
 * random lives in which everything of that happens.  The test plays nodes and its workers. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_snapshots.h"
#include "fake/fake_ctx.h"

#define OPTIONS                                                                                                        \
    "queue: {max_running: 10, max_attempts: 3, retry_delay: 1s, max_retry_delay: 10s, aging: 1h}\n"                    \
    "workers: {lease: 30s, hold_sessions: 10m, max_losses: 3}\n"                                                       \
    "teams:\n"                                                                                                         \
    "  far: {driver: remote, turn_timeout: 10h}\n"                                                                     \
    "  near: {driver: echo, concurrency: 2}\n"

enum { TIMEOUT = 60000, OVERDUE = 90000, HOLD = 600000, COMMIT_PAUSE = 1000 };

static struct muster_ctx *
queue_new(void)
{
    struct muster_ctx *ctx = fake_new(OPTIONS);

    cr_assert_eq(fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL), MUSTER_OK);
    return ctx;
}

/* ---- what nodes says ---- */

static struct queue_noded
tell_node(struct muster_ctx *ctx, const struct queue_node *body)
{
    const struct fake_sent *sent;

    cr_assert_eq(fake_call(ctx, MUSTER_NODES, 1, &queue_node_type, body), MUSTER_OK);
    sent = fake_take_type(ctx, &queue_noded_type);
    cr_assert_not_null(sent, "each is answered");
    cr_assert_str_eq(sent->to, MUSTER_NODES);
    return *(const struct queue_noded *)sent->body;
}

/* A worker for `far` that takes `capacity` jobs attaches itself, with the attempts that it has. */
static struct queue_noded
attach(struct muster_ctx *ctx, const char *node, int64_t attachment, int64_t capacity, const struct held_attempt *held,
       size_t count)
{
    struct worker_team team = {.name = "far", .capacity = capacity};
    struct queue_node body = {.node = node,
                              .state = node_state_UP,
                              .attachment = attachment,
                              .attached = true,
                              .teams = {&team, 1},
                              .held = {held, count}};

    return tell_node(ctx, &body);
}

static void
attach_new(struct muster_ctx *ctx, const char *node, int64_t capacity)
{
    attach(ctx, node, 1, capacity, NULL, 0);
}

static void
stands(struct muster_ctx *ctx, const char *node, enum node_state state)
{
    struct queue_node body = {.node = node, .state = state};

    tell_node(ctx, &body);
}

/* ---- jobs ---- */

static struct job
job_for(const char *team)
{
    return (struct job){
        .id = muster_id_new(FAKE_START_MS),
        .kind = job_kind_EXECUTE,
        .team = team,
        .state = job_state_QUEUED,
        .priority = job_priority_NORMAL,
        .prompt = "do it",
        .from = "test",
        .created_ms = 1,
        .timeout_ms = TIMEOUT,
        .max_attempts = 3,
    };
}

static struct muster_id
submit(struct muster_ctx *ctx, const struct job *job)
{
    struct queue_submit body = {.job = job};

    cr_assert_eq(fake_call(ctx, "caller/1", 7, &queue_submit_type, &body), MUSTER_OK);
    fake_commit_all(ctx);
    return job->id;
}

static struct muster_id
submit_far(struct muster_ctx *ctx)
{
    struct job job = job_for("far");

    return submit(ctx, &job);
}

/* One that may take very long. */
static struct muster_id
submit_long(struct muster_ctx *ctx)
{
    struct job job = job_for("far");

    job.timeout_ms = 5 * HOLD;
    return submit(ctx, &job);
}

/* A job of a conversation. */
static struct muster_id
submit_talk(struct muster_ctx *ctx, const char *conversation)
{
    struct job job = job_for("far");

    job.conversation = conversation;
    return submit(ctx, &job);
}

static const struct job *
stored(struct muster_ctx *ctx, const struct muster_id *id)
{
    return fake_get(ctx, &job_type, id);
}

/* The oldest agent.run that nodes got. */
static const struct agent_run *
handed(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &agent_run_type);

    if (sent == NULL)
        return NULL;
    cr_assert_str_eq(sent->to, MUSTER_NODES);
    return sent->body;
}

/* The same once all is on disk. */
static const struct agent_run *
handed_at_last(struct muster_ctx *ctx)
{
    fake_commit_all(ctx);
    return handed(ctx);
}

/* It is that job's attempt, and goes to that worker. */
static const struct agent_run *
handed_to(struct muster_ctx *ctx, const struct muster_id *id, int64_t attempt, const char *node)
{
    const struct agent_run *run = handed(ctx);

    cr_assert_not_null(run, "nothing was handed over");
    cr_assert(muster_id_equal(&run->job, id), "another job");
    cr_assert_eq(run->attempt, attempt);
    cr_assert_str_eq(run->node, node);
    return run;
}

static struct queue_report
report_of(const struct muster_id *id, int64_t attempt, enum job_state state)
{
    return (struct queue_report){.job = *id,
                                 .attempt = attempt,
                                 .state = state,
                                 .code = state == job_state_FAILED ? "PROCESS_ERROR" : NULL,
                                 .result = "done",
                                 .session = "s-1",
                                 .reply_to = MUSTER_NODES,
                                 .node = "one",
                                 .parcel = 17};
}

static void
report(struct muster_ctx *ctx, const struct muster_id *id, int64_t attempt, enum job_state state)
{
    struct queue_report body = report_of(id, attempt, state);

    fake_call(ctx, "", 0, &queue_report_type, &body);
}

/* How many queue.reported nodes got. */
static size_t
reported(struct muster_ctx *ctx, const struct muster_id *id, int64_t attempt)
{
    const struct fake_sent *sent;
    size_t count = 0;

    while ((sent = fake_take_type(ctx, &queue_reported_type)) != NULL) {
        const struct queue_reported *body = sent->body;

        cr_assert_str_eq(sent->to, MUSTER_NODES);
        cr_assert(muster_id_equal(&body->job, id) && body->attempt == attempt, "of another attempt");
        cr_assert_str_eq(body->node, "one");
        cr_assert_eq(body->parcel, 17);
        count++;
    }
    return count;
}

/* Cancels that nodes got for that attempt; `park`: how. */
static size_t
dropped(struct muster_ctx *ctx, const struct muster_id *id, int64_t attempt, bool park)
{
    const struct fake_sent *sent;
    size_t count = 0;

    while ((sent = fake_take_type(ctx, &agent_cancel_type)) != NULL) {
        const struct agent_cancel *body = sent->body;

        cr_assert_str_eq(sent->to, MUSTER_NODES);
        cr_assert(muster_id_equal(&body->job, id) && body->attempt == attempt, "of another attempt");
        cr_assert_eq(body->park, park);
        count++;
    }
    return count;
}

static void
cancel(struct muster_ctx *ctx, const struct muster_id *id)
{
    struct muster_envelope envelope = {.reply_to = "caller/2", .id = 9, .principal = {.name = "operator"}};
    struct queue_cancel body = {.job = *id};

    cr_assert_eq(fake_deliver(ctx, &envelope, &queue_cancel_type, &body), MUSTER_OK);
}

/* How often it was said in the log since the last call for any type. */
static size_t
said(struct muster_ctx *ctx, const struct muster_type *type)
{
    const struct fake_sent *sent;
    size_t count = 0, i;

    while ((sent = fake_take_type(ctx, &log_append_type)) != NULL) {
        const struct log_append *append = sent->body;

        for (i = 0; i < append->entries.count; i++)
            count += strcmp(append->entries.items[i].type, type->wire) == 0;
    }
    return count;
}

static size_t
ends_of(struct muster_ctx *ctx, const struct muster_id *id)
{
    size_t found = 0, i;

    for (i = 0; i < fake_event_count(ctx); i++) {
        const struct event *event = fake_event_at(ctx, i);

        found += muster_id_equal(&event->job, id) && muster_event_row(event->type)->final;
    }
    return found;
}

static const struct muster_queue_view *
view_of(struct muster_ctx *ctx)
{
    return fake_board(ctx, MUSTER_QUEUE_BOARD "/far");
}

/* One worker with room for one job, which it has. */
static struct muster_id
one_at_work(struct muster_ctx *ctx)
{
    struct muster_id id;

    attach_new(ctx, "one", 1);
    id = submit_far(ctx);
    handed_to(ctx, &id, 1, "one");
    fake_forget(ctx);
    return id;
}

/* ---- handing over ---------------------------------------------------------------------------------------------------
 */

Test(queue_nodes, nothing_is_handed_over_before_it_is_on_disk)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("far");
    struct queue_submit body = {.job = &job};
    struct muster_envelope envelope = {.reply_to = "caller/1", .id = 7, .trace = "req-5", .principal = {.name = "me"}};
    const struct fake_sent *sent;
    const struct agent_run *run;

    attach(ctx, "one", 41, 1, NULL, 0);
    cr_assert_eq(fake_deliver(ctx, &envelope, &queue_submit_type, &body), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    cr_assert_null(handed(ctx), "that it runs is not on disk");
    cr_assert(fake_commit(ctx));
    sent = fake_take_type(ctx, &agent_run_type);
    run = sent->body;
    cr_assert_str_eq(sent->to, MUSTER_NODES);
    cr_assert_str_eq(sent->envelope.trace, "req-5");
    cr_assert_str_eq(run->team, "far");
    cr_assert_str_eq(run->node, "one");
    cr_assert_eq(run->attachment, 41);
    cr_assert_eq(run->attempt, 1);
    cr_assert_eq(run->timeout_ms, TIMEOUT);
    cr_assert_str_eq(run->prompt, "do it");
    cr_assert_str_eq(run->trace, "req-5");
    cr_assert_eq(stored(ctx, &job.id)->state, job_state_RUNNING);
    cr_assert_str_eq(stored(ctx, &job.id)->node, "one");
    cr_assert_eq(stored(ctx, &job.id)->attempt, 1);
    fake_free(&ctx);
}

Test(queue_nodes, a_handover_that_cannot_be_written_is_tried_later)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("far");
    struct queue_submit body = {.job = &job};

    attach_new(ctx, "one", 1);
    fake_call(ctx, "caller/1", 7, &queue_submit_type, &body);
    cr_assert(fake_commit(ctx));
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_eq(view_of(ctx)->running, 0);
    cr_assert_eq(view_of(ctx)->queued, 1);
    cr_assert_null(fake_take_type(ctx, &store_commit_type), "not at once");
    fake_advance(ctx, COMMIT_PAUSE);
    fake_commit_all(ctx);
    handed_to(ctx, &job.id, 2, "one");
    cr_assert_eq(stored(ctx, &job.id)->failures, 0);
    fake_free(&ctx);
}

Test(queue_nodes, a_store_that_takes_nothing_is_tried_again)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = submit_far(ctx);

    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    attach_new(ctx, "one", 1);
    cr_assert_eq(view_of(ctx)->running, 0);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OK);
    fake_advance(ctx, 200);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 1, "one");
    fake_free(&ctx);
}

Test(queue_nodes, jobs_go_to_the_worker_that_is_least_busy)
{
    struct muster_ctx *ctx = queue_new();
    static const char *const order[] = {"one", "two", "two", "one", "two", "two"};
    size_t i;

    attach_new(ctx, "one", 2);
    attach_new(ctx, "two", 4);
    for (i = 0; i < 6; i++) {
        struct muster_id id = submit_far(ctx);

        handed_to(ctx, &id, 1, order[i]);
    }
    submit_far(ctx);
    cr_assert_null(handed_at_last(ctx), "there is no room");
    fake_free(&ctx);
}

Test(queue_nodes, of_two_idle_workers_the_one_that_waits_longer_goes_first)
{
    struct muster_ctx *ctx = queue_new();
    static const char *const order[] = {"one", "two", "one", "two"};
    size_t i;

    attach_new(ctx, "one", 1);
    attach_new(ctx, "two", 1);
    for (i = 0; i < 4; i++) {
        struct muster_id id = submit_far(ctx);

        handed_to(ctx, &id, 1, order[i]);
        report(ctx, &id, 1, job_state_COMPLETED);
        fake_commit_all(ctx);
    }
    fake_free(&ctx);
}

Test(queue_nodes, only_workers_that_are_up_get_jobs)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id;

    attach_new(ctx, "one", 1);
    attach_new(ctx, "two", 1);
    attach_new(ctx, "three", 1);
    stands(ctx, "one", node_state_DRAINING);
    stands(ctx, "two", node_state_AWAY);
    stands(ctx, "three", node_state_LEFT);
    id = submit_far(ctx);
    cr_assert_null(handed_at_last(ctx));
    stands(ctx, "one", node_state_UP);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 1, "one");
    fake_free(&ctx);
}

Test(queue_nodes, the_views_count_what_workers_take)
{
    struct muster_ctx *ctx = queue_new();

    attach_new(ctx, "one", 2);
    attach_new(ctx, "two", 3);
    cr_assert_eq(view_of(ctx)->max_running, 5);
    submit_far(ctx);
    cr_assert_eq(view_of(ctx)->running, 1);
    stands(ctx, "two", node_state_AWAY);
    cr_assert_eq(view_of(ctx)->max_running, 2);
    fake_free(&ctx);
}

Test(queue_nodes, a_capacity_below_what_runs_is_waited_for)
{
    struct muster_ctx *ctx = queue_new();
    struct worker_team less = {.name = "far", .capacity = 1};
    struct queue_node body = {.node = "one", .state = node_state_UP, .teams = {&less, 1}};
    struct muster_id first, second, third;

    attach_new(ctx, "one", 2);
    first = submit_far(ctx);
    second = submit_far(ctx);
    handed_to(ctx, &first, 1, "one");
    handed_to(ctx, &second, 1, "one");
    tell_node(ctx, &body);
    third = submit_far(ctx);
    report(ctx, &first, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    cr_assert_null(handed_at_last(ctx), "it still has as many as it takes");
    report(ctx, &second, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    handed_to(ctx, &third, 1, "one");
    fake_free(&ctx);
}

Test(queue_nodes, teams_that_are_not_for_workers_are_ignored)
{
    struct muster_ctx *ctx = queue_new();
    struct worker_team teams[] = {{.name = "nowhere", .capacity = 1}, {.name = "near", .capacity = 1}};
    struct queue_node body = {.node = "one", .state = node_state_UP, .attached = true, .teams = {teams, 2}};
    struct job job = job_for("near");

    tell_node(ctx, &body);
    cr_assert_eq(fake_said(ctx, "node-team-unknown"), 2);
    submit(ctx, &job);
    cr_assert_null(handed_at_last(ctx));
    fake_free(&ctx);
}

Test(queue_nodes, a_team_that_a_worker_does_not_name_any_more_gets_no_more_jobs)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};
    struct queue_node body = {.node = "one", .state = node_state_UP, .attached = true, .held = {&held, 1}};

    cr_assert_eq(tell_node(ctx, &body).stale.count, 0, "what it has goes on");
    report(ctx, &id, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_COMPLETED);
    submit_far(ctx);
    cr_assert_null(handed_at_last(ctx));
    fake_free(&ctx);
}

/* ---- lost and found -------------------------------------------------------------------------------------------------
 */

Test(queue_nodes, a_job_whose_worker_is_lost_goes_elsewhere_without_a_failure)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx), other = submit_far(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};
    struct queue_noded answer;

    stands(ctx, "one", node_state_AWAY);
    cr_assert_eq(view_of(ctx)->running, 1, "within its lease it runs");
    stands(ctx, "one", node_state_LOST);
    cr_assert_eq(said(ctx, &job_lost_type), 1);
    cr_assert_eq(fake_said(ctx, "job-lost"), 1);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_QUEUED);
    cr_assert_eq(stored(ctx, &id)->losses, 1);
    cr_assert_eq(stored(ctx, &id)->failures, 0);
    attach_new(ctx, "two", 1);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 2, "two");
    answer = attach(ctx, "one", 2, 1, &held, 1);
    cr_assert_eq(answer.stale.count, 1);
    cr_assert_eq(answer.stale.items[0].attempt, 1);
    report(ctx, &id, 1, job_state_COMPLETED);
    cr_assert_eq(reported(ctx, &id, 1), 1, "it need not be kept");
    cr_assert_eq(stored(ctx, &id)->state, job_state_RUNNING);
    fake_commit_all(ctx);
    handed_to(ctx, &other, 1, "one");
    report(ctx, &id, 2, job_state_COMPLETED);
    fake_commit_all(ctx);
    cr_assert_eq(ends_of(ctx, &id), 1);
    fake_free(&ctx);
}

Test(queue_nodes, an_attempt_nobody_else_has_begun_goes_on_when_its_worker_is_back)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    said(ctx, &job_lost_type);
    cr_assert_eq(attach(ctx, "one", 2, 1, &held, 1).stale.count, 0);
    cr_assert_eq(said(ctx, &job_found_type), 1);
    cr_assert_null(handed_at_last(ctx), "it is not begun anew");
    cr_assert_eq(view_of(ctx)->running, 1);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RUNNING);
    report(ctx, &id, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_COMPLETED);
    cr_assert_eq(stored(ctx, &id)->attempt, 1);
    cr_assert_eq(ends_of(ctx, &id), 1);
    fake_free(&ctx);
}

Test(queue_nodes, an_attempt_that_was_found_has_its_limit)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    fake_advance(ctx, 10000);
    stands(ctx, "one", node_state_LOST);
    fake_advance(ctx, 10000);
    attach(ctx, "one", 2, 1, &held, 1);
    fake_advance(ctx, TIMEOUT + OVERDUE - 20001);
    cr_assert_null(fake_take_type(ctx, &agent_cancel_type));
    fake_advance(ctx, 1);
    cr_assert_not_null(fake_take_type(ctx, &agent_cancel_type));
    fake_free(&ctx);
}

Test(queue_nodes, the_report_of_a_lost_attempt_counts_as_long_as_nobody_else_has_begun_it)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    report(ctx, &id, 1, job_state_FAILED);
    fake_commit_all(ctx);
    cr_assert_eq(reported(ctx, &id, 1), 1);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RETRYING);
    cr_assert_eq(stored(ctx, &id)->failures, 1);
    cr_assert_eq(view_of(ctx)->running, 0);
    fake_free(&ctx);
}

Test(queue_nodes, what_a_worker_comes_back_without_is_lost)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    attach(ctx, "one", 2, 1, NULL, 0);
    cr_assert_eq(said(ctx, &job_lost_type), 1);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 2, "one");
    fake_free(&ctx);
}

Test(queue_nodes, what_nobody_wants_from_a_worker_is_stale)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx), never = muster_id_new(FAKE_START_MS), ended;
    struct held_attempt held[4] = {{.job = id, .attempt = 1}, {.job = id, .attempt = 2}, {.job = never, .attempt = 1}};
    struct queue_noded answer;

    attach(ctx, "two", 5, 1, NULL, 0);
    ended = submit_far(ctx);
    report(ctx, &ended, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    held[3] = (struct held_attempt){.job = ended, .attempt = 1};
    answer = attach(ctx, "one", 2, 1, held, 4);
    cr_assert_eq(answer.attachment, 2);
    cr_assert_eq(answer.stale.count, 3);
    cr_assert_eq(answer.stale.items[0].attempt, 2);
    cr_assert(muster_id_equal(&answer.stale.items[1].job, &never));
    cr_assert(muster_id_equal(&answer.stale.items[2].job, &ended));
    answer = attach(ctx, "two", 6, 1, held, 1);
    cr_assert_eq(answer.stale.count, 1, "another worker has that one");
    cr_assert_eq(view_of(ctx)->running, 1);
    fake_free(&ctx);
}

/* As after a backup was restored: what the worker is about to drop must not be begun there under the same number. */
Test(queue_nodes, attempts_that_a_worker_has_and_the_queue_does_not_know_are_not_begun_again)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = submit_far(ctx), other = submit_far(ctx);
    struct held_attempt held[2] = {{.job = id, .attempt = 3}, {.job = other, .attempt = INT64_MAX}};

    cr_assert_eq(attach(ctx, "one", 1, 2, held, 2).stale.count, 2);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 4, "one");
    handed_to(ctx, &other, 1, "one");
    fake_free(&ctx);
}

Test(queue_nodes, a_worker_lost_while_a_job_is_handed_to_it)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("far");
    struct queue_submit body = {.job = &job};

    attach_new(ctx, "one", 1);
    fake_call(ctx, "caller/1", 7, &queue_submit_type, &body);
    cr_assert(fake_commit(ctx)); /* taken; the first handover is under way */
    stands(ctx, "one", node_state_LOST);
    attach_new(ctx, "two", 1); /* so is the second, behind the note that the job was lost */
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_eq(view_of(ctx)->running, 1, "the first failed, the second did not");
    fake_forget(ctx);
    fake_free(&ctx);
}

Test(queue_nodes, an_end_beside_a_handover_is_not_mistaken_for_it)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("far");
    struct queue_submit body = {.job = &job};

    attach_new(ctx, "one", 1);
    fake_call(ctx, "caller/1", 7, &queue_submit_type, &body);
    cr_assert(fake_commit(ctx));
    cancel(ctx, &job.id);
    stands(ctx, "one", node_state_LOST);
    cr_assert(fake_commit(ctx)); /* of the handover */
    cr_assert_null(fake_take_type(ctx, &queue_cancelled_type), "its end is not on disk");
    cr_assert(fake_commit(ctx));
    cr_assert_not_null(fake_take_type(ctx, &queue_cancelled_type));
    cr_assert_eq(stored(ctx, &job.id)->state, job_state_CANCELLED);
    fake_free(&ctx);
}

Test(queue_nodes, a_job_that_is_lost_too_often_fails)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id;
    int64_t i;

    attach_new(ctx, "one", 1);
    id = submit_far(ctx);
    for (i = 1; i <= 3; i++) {
        handed_to(ctx, &id, i, "one");
        attach(ctx, "one", i + 1, 1, NULL, 0);
        fake_commit_all(ctx);
    }
    cr_assert_eq(stored(ctx, &id)->state, job_state_FAILED);
    cr_assert_str_eq(stored(ctx, &id)->error, "WORKER_LOST");
    cr_assert_eq(stored(ctx, &id)->losses, 3);
    cr_assert_eq(stored(ctx, &id)->failures, 0);
    cr_assert_eq(ends_of(ctx, &id), 1);
    fake_free(&ctx);
}

Test(queue_nodes, lost_jobs_go_first_in_their_order)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id ids[3];
    int i;

    attach_new(ctx, "one", 2);
    for (i = 0; i < 3; i++) {
        ids[i] = submit_far(ctx);
        fake_advance(ctx, 10);
    }
    fake_forget(ctx);
    attach(ctx, "one", 2, 2, NULL, 0);
    fake_commit_all(ctx);
    handed_to(ctx, &ids[0], 2, "one");
    handed_to(ctx, &ids[1], 2, "one");
    cr_assert_null(handed_at_last(ctx));
    fake_free(&ctx);
}

/* ---- reports --------------------------------------------------------------------------------------------------------
 */

Test(queue_nodes, a_report_is_answered_when_the_end_is_on_disk)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    report(ctx, &id, 1, job_state_COMPLETED);
    cr_assert_eq(reported(ctx, &id, 1), 0, "it is not on disk");
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_eq(reported(ctx, &id, 1), 0);
    cr_assert_eq(attach(ctx, "one", 2, 1, &held, 1).stale.count, 0, "its worker is to keep it until then");
    report(ctx, &id, 1, job_state_COMPLETED);
    cr_assert_eq(reported(ctx, &id, 1), 0, "once more before it is on disk");
    fake_advance(ctx, COMMIT_PAUSE);
    fake_commit_all(ctx);
    cr_assert_eq(reported(ctx, &id, 1), 2, "each is answered");
    report(ctx, &id, 1, job_state_COMPLETED);
    cr_assert_eq(reported(ctx, &id, 1), 1, "once more after the end");
    cr_assert_eq(ends_of(ctx, &id), 1);
    cr_assert_eq(stored(ctx, &id)->state, job_state_COMPLETED);
    fake_free(&ctx);
}

Test(queue_nodes, the_answer_to_a_report_waits_for_a_full_mailbox)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = muster_id_new(FAKE_START_MS);

    fake_refuse(ctx, MUSTER_NODES, MUSTER_OVERLOADED);
    report(ctx, &id, 3, job_state_COMPLETED);
    fake_advance(ctx, 100);
    cr_assert_eq(reported(ctx, &id, 3), 0);
    fake_refuse(ctx, MUSTER_NODES, MUSTER_OK);
    fake_advance(ctx, 100);
    cr_assert_eq(reported(ctx, &id, 3), 1);
    fake_free(&ctx);
}

Test(queue_nodes, a_report_that_leads_to_a_retry_is_answered_with_its_note)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    report(ctx, &id, 1, job_state_FAILED);
    cr_assert_eq(reported(ctx, &id, 1), 0);
    fake_commit_all(ctx);
    cr_assert_eq(reported(ctx, &id, 1), 1);
    fake_advance(ctx, 2000);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 2, "one");
    report(ctx, &id, 2, job_state_PARKED);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_eq(reported(ctx, &id, 2), 1, "a restart can do without the note");
    fake_free(&ctx);
}

Test(queue_nodes, a_report_whose_note_nobody_takes_is_answered_at_once)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    report(ctx, &id, 1, job_state_FAILED);
    cr_assert_eq(reported(ctx, &id, 1), 1);
    fake_free(&ctx);
}

/* ---- cancel, deadlines, limits --------------------------------------------------------------------------------------
 */

Test(queue_nodes, a_cancel_reaches_a_job_at_its_worker)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    cancel(ctx, &id);
    cr_assert_eq(dropped(ctx, &id, 1, false), 1);
    report(ctx, &id, 1, job_state_CANCELLED);
    fake_commit_all(ctx);
    cr_assert_not_null(fake_take_to(ctx, "caller/2"));
    cr_assert_eq(stored(ctx, &id)->state, job_state_CANCELLED);
    fake_free(&ctx);
}

Test(queue_nodes, a_cancel_while_a_job_is_handed_over_follows_it)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("far");
    struct queue_submit body = {.job = &job};

    attach_new(ctx, "one", 1);
    fake_call(ctx, "caller/1", 7, &queue_submit_type, &body);
    fake_commit(ctx);
    cancel(ctx, &job.id);
    cr_assert_eq(dropped(ctx, &job.id, 1, false), 0, "it would arrive before the job");
    fake_commit_all(ctx);
    handed_to(ctx, &job.id, 1, "one");
    cr_assert_eq(dropped(ctx, &job.id, 1, false), 1);
    fake_free(&ctx);
}

Test(queue_nodes, a_cancelled_job_that_could_not_be_handed_over_is_cancelled)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("far");
    struct queue_submit body = {.job = &job};

    attach_new(ctx, "one", 1);
    fake_call(ctx, "caller/1", 7, &queue_submit_type, &body);
    fake_commit(ctx);
    cancel(ctx, &job.id);
    fake_commit_fails(ctx, MUSTER_STORAGE_FULL);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &job.id)->state, job_state_CANCELLED);
    cr_assert_not_null(fake_take_to(ctx, "caller/2"));
    fake_free(&ctx);
}

Test(queue_nodes, a_cancelled_job_of_a_worker_that_is_away_waits_for_it)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    stands(ctx, "one", node_state_AWAY);
    cancel(ctx, &id);
    fake_forget(ctx);
    attach(ctx, "one", 2, 1, &held, 1);
    cr_assert_eq(dropped(ctx, &id, 1, false), 1, "it is told when it is back");
    stands(ctx, "one", node_state_AWAY);
    cr_assert_null(fake_take_to(ctx, "caller/2"));
    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    cr_assert_eq(said(ctx, &job_lost_type), 0, "it waits for nothing");
    cr_assert_eq(((const struct queue_cancelled *)fake_take_to(ctx, "caller/2")->body)->state, job_state_CANCELLED);
    cr_assert_eq(stored(ctx, &id)->state, job_state_CANCELLED);
    fake_free(&ctx);
}

Test(queue_nodes, a_lost_job_can_be_cancelled)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    cancel(ctx, &id);
    cr_assert_eq(attach(ctx, "one", 2, 1, &held, 1).stale.count, 1, "also before its end is on disk");
    report(ctx, &id, 1, job_state_COMPLETED);
    cr_assert_eq(reported(ctx, &id, 1), 1);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_CANCELLED);
    cr_assert_eq(ends_of(ctx, &id), 1);
    fake_free(&ctx);
}

/* A job with a deadline in 20 s, at work at worker one. */
static struct muster_id
with_deadline(struct muster_ctx *ctx)
{
    struct job job = job_for("far");

    attach_new(ctx, "one", 1);
    job.deadline_ms = FAKE_START_MS + 20000;
    submit(ctx, &job);
    fake_forget(ctx);
    return job.id;
}

Test(queue_nodes, a_deadline_passes_while_a_job_is_lost)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = with_deadline(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    fake_advance(ctx, 20000);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_FAILED);
    cr_assert_str_eq(stored(ctx, &id)->error, "DEADLINE_EXCEEDED");
    cr_assert_eq(attach(ctx, "one", 2, 1, &held, 1).stale.count, 1);
    fake_free(&ctx);
}

Test(queue_nodes, a_job_whose_deadline_has_passed_is_not_lost_first)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("far");
    struct muster_id id;

    job.deadline_ms = FAKE_START_MS + 10000;
    attach_new(ctx, "one", 1);
    id = submit(ctx, &job);
    handed_to(ctx, &id, 1, "one");
    fake_set_clock(ctx, FAKE_START_MS + 10001); /* no timer has seen it yet */
    stands(ctx, "one", node_state_LOST);
    cr_assert_eq(said(ctx, &job_lost_type), 0, "nothing may stand behind its end");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_FAILED);
    cr_assert_str_eq(stored(ctx, &id)->error, "DEADLINE_EXCEEDED");
    fake_free(&ctx);
}

Test(queue_nodes, a_deadline_passes_while_a_worker_is_away)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = with_deadline(ctx);

    stands(ctx, "one", node_state_AWAY);
    fake_advance(ctx, 20000);
    fake_forget(ctx);
    fake_advance(ctx, 2 * OVERDUE);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RUNNING, "its lease decides");
    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    cr_assert_str_eq(stored(ctx, &id)->error, "DEADLINE_EXCEEDED");
    fake_free(&ctx);
}

Test(queue_nodes, an_overdue_attempt_is_given_up_only_when_its_worker_is_there)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    stands(ctx, "one", node_state_AWAY);
    fake_advance(ctx, TIMEOUT + 4 * OVERDUE);
    cr_assert_eq(dropped(ctx, &id, 1, false), 0);
    cr_assert_eq(view_of(ctx)->running, 1, "a worker that is away spends no attempt");
    attach(ctx, "one", 2, 1, &held, 1);
    fake_advance(ctx, 2 * OVERDUE - 1);
    cr_assert_eq(dropped(ctx, &id, 1, false), 1);
    fake_advance(ctx, 1);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RETRYING);
    cr_assert_eq(stored(ctx, &id)->failures, 1);
    fake_free(&ctx);
}

Test(queue_nodes, nodes_hears_of_an_attempt_that_was_given_up)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    const struct queue_reported *told;
    const struct fake_sent *sent;

    fake_advance(ctx, TIMEOUT + OVERDUE);
    cr_assert_eq(dropped(ctx, &id, 1, false), 1);
    cr_assert_null(fake_take_type(ctx, &queue_reported_type), "it may still be reported");
    fake_advance(ctx, OVERDUE);
    sent = fake_take_type(ctx, &queue_reported_type);
    cr_assert_not_null(sent);
    cr_assert_str_eq(sent->to, MUSTER_NODES);
    told = sent->body;
    cr_assert_str_eq(told->node, "one");
    cr_assert(muster_id_equal(&told->job, &id));
    cr_assert_eq(told->attempt, 1);
    fake_free(&ctx);
}

Test(queue_nodes, an_attempt_that_was_given_up_is_dropped_again_when_its_worker_is_back)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    fake_advance(ctx, TIMEOUT + OVERDUE);
    cr_assert_eq(dropped(ctx, &id, 1, false), 1);
    stands(ctx, "one", node_state_LOST);
    attach(ctx, "one", 2, 0, NULL, 0);
    cr_assert_eq(attach(ctx, "one", 3, 1, &held, 1).stale.count, 0);
    cr_assert_eq(dropped(ctx, &id, 1, false), 1);
    report(ctx, &id, 1, job_state_CANCELLED);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RETRYING, "as one that hung");
    fake_free(&ctx);
}

/* ---- shutdown and restart -------------------------------------------------------------------------------------------
 */

static void
drain(struct muster_ctx *ctx, bool now)
{
    struct queue_drain body = {.now = now};

    fake_call(ctx, "hub", 1, &queue_drain_type, &body);
}

Test(queue_nodes, a_shutdown_parks_what_workers_have)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    drain(ctx, false);
    cr_assert_eq(dropped(ctx, &id, 1, true), 0);
    drain(ctx, true);
    cr_assert_eq(dropped(ctx, &id, 1, true), 1);
    cr_assert_null(fake_take_to(ctx, "hub"));
    report(ctx, &id, 1, job_state_PARKED);
    fake_commit_all(ctx);
    cr_assert_eq(reported(ctx, &id, 1), 1);
    cr_assert_not_null(fake_take_to(ctx, "hub"));
    cr_assert_eq(stored(ctx, &id)->state, job_state_PARKED);
    fake_free(&ctx);
}

Test(queue_nodes, a_shutdown_does_not_wait_for_a_worker_that_is_away)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    stands(ctx, "one", node_state_AWAY);
    drain(ctx, false);
    cr_assert_null(fake_take_to(ctx, "hub"), "it may come back");
    fake_forget(ctx);
    drain(ctx, true);
    cr_assert_not_null(fake_take_to(ctx, "hub"));
    cr_assert_eq(stored(ctx, &id)->state, job_state_RUNNING);
    cr_assert_eq(dropped(ctx, &id, 1, true), 1);
    attach(ctx, "one", 2, 1, &held, 1);
    cr_assert_eq(dropped(ctx, &id, 1, true), 1, "parked when it is back in time");
    fake_free(&ctx);
}

Test(queue_nodes, what_is_lost_during_a_shutdown_is_not_begun_anew)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    attach_new(ctx, "two", 1);
    drain(ctx, false);
    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    cr_assert_null(handed_at_last(ctx));
    cr_assert_not_null(fake_take_to(ctx, "hub"), "nothing runs");
    cr_assert_eq(stored(ctx, &id)->losses, 1);
    fake_restart(ctx);
    attach_new(ctx, "two", 1);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 2, "two");
    fake_free(&ctx);
}

Test(queue_nodes, a_job_goes_on_at_its_worker_over_a_restart)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    fake_restart(ctx);
    cr_assert_eq(said(ctx, &job_retrying_type), 0, "nothing begins anew");
    cr_assert_eq(view_of(ctx)->running, 1);
    stands(ctx, "one", node_state_AWAY);
    cr_assert_eq(attach(ctx, "one", 2, 1, &held, 1).stale.count, 0);
    report(ctx, &id, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    cr_assert_eq(reported(ctx, &id, 1), 1);
    cr_assert_eq(stored(ctx, &id)->state, job_state_COMPLETED);
    cr_assert_eq(stored(ctx, &id)->attempt, 1);
    fake_free(&ctx);
}

Test(queue_nodes, a_job_whose_worker_does_not_come_back_after_a_restart_is_lost)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    fake_restart(ctx);
    attach_new(ctx, "two", 1);
    cr_assert_null(handed_at_last(ctx));
    stands(ctx, "one", node_state_AWAY);
    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 2, "two");
    fake_free(&ctx);
}

Test(queue_nodes, a_job_whose_worker_nobody_knows_after_a_restart_is_lost_at_last)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    fake_restart(ctx);
    attach_new(ctx, "two", 1);
    fake_advance(ctx, TIMEOUT + OVERDUE);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 2, "two");
    cr_assert_eq(stored(ctx, &id)->failures, 0);
    fake_free(&ctx);
}

Test(queue_nodes, a_lost_attempt_is_found_over_a_restart)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    stands(ctx, "one", node_state_LOST);
    fake_commit_all(ctx);
    fake_restart(ctx);
    cr_assert_eq(view_of(ctx)->queued, 1);
    cr_assert_eq(attach(ctx, "one", 2, 1, &held, 1).stale.count, 0);
    report(ctx, &id, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->attempt, 1);
    cr_assert_eq(stored(ctx, &id)->losses, 1);
    fake_free(&ctx);
}

Test(queue_nodes, a_parked_attempt_is_not_found)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);
    struct held_attempt held = {.job = id, .attempt = 1};

    stands(ctx, "one", node_state_DRAINING);
    report(ctx, &id, 1, job_state_PARKED);
    fake_commit_all(ctx);
    fake_restart(ctx);
    cr_assert_eq(attach(ctx, "one", 2, 1, &held, 1).stale.count, 1, "it was reported");
    fake_commit_all(ctx);
    handed_to(ctx, &id, 2, "one");
    fake_free(&ctx);
}

Test(queue_nodes, a_job_of_a_team_that_is_local_now_begins_anew)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("near");
    struct queue_ready ready = {.team = "near", .address = "agent/near", .capacity = 2};
    const struct agent_run *run;

    fake_stop(ctx);
    job.state = job_state_RUNNING;
    job.attempt = 1;
    job.node = "one";
    job.session = "s-1";
    fake_put(ctx, &job_type, &job);
    fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL);
    cr_assert_eq(said(ctx, &job_retrying_type), 1);
    stands(ctx, "one", node_state_AWAY);
    fake_call(ctx, "", 0, &queue_ready_type, &ready);
    run = fake_take_to(ctx, "agent/near")->body;
    cr_assert_eq(run->attempt, 2);
    fake_commit_all(ctx);
    cr_assert(stored(ctx, &job.id)->node == NULL || *stored(ctx, &job.id)->node == '\0');
    fake_free(&ctx);
}

/* ---- sessions -------------------------------------------------------------------------------------------------------
 */

/* Conversation c has a session at worker one, which takes `capacity` jobs; two takes one job. */
static void
begin_talk(struct muster_ctx *ctx, int64_t capacity)
{
    struct muster_id id;

    attach_new(ctx, "one", capacity);
    id = submit_talk(ctx, "c");
    handed_to(ctx, &id, 1, "one");
    report(ctx, &id, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    attach_new(ctx, "two", 1);
    fake_forget(ctx);
}

Test(queue_nodes, a_conversation_stays_with_the_worker_that_has_its_session)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id;
    int i;

    begin_talk(ctx, 1);
    for (i = 0; i < 3; i++) {
        id = submit_talk(ctx, "c");
        cr_assert_str_eq(handed_to(ctx, &id, 1, "one")->session, "s-1");
        report(ctx, &id, 1, job_state_COMPLETED);
        fake_commit_all(ctx);
    }
    fake_restart(ctx);
    attach(ctx, "two", 2, 1, NULL, 0);
    attach(ctx, "one", 2, 1, NULL, 0);
    id = submit_talk(ctx, "c");
    cr_assert_str_eq(handed_to(ctx, &id, 1, "one")->session, "s-1", "in a later life too");
    fake_free(&ctx);
}

Test(queue_nodes, a_job_waits_for_room_at_the_worker_with_its_session_and_others_pass)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id busy, talk, other, third;
    int i;

    begin_talk(ctx, 1);
    busy = submit_talk(ctx, "d");
    handed_to(ctx, &busy, 1, "two");
    report(ctx, &busy, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    busy = submit_long(ctx);
    handed_to(ctx, &busy, 1, "one");
    talk = submit_talk(ctx, "c");
    cr_assert_null(handed_at_last(ctx), "it goes to worker one only");
    other = submit_long(ctx);
    handed_to(ctx, &other, 1, "two");
    third = submit_long(ctx);
    for (i = 0; i < 3; i++)
        fake_advance(ctx, HOLD / 2);
    cr_assert_null(handed_at_last(ctx), "for room it waits as long as it takes");
    cr_assert_eq(said(ctx, &job_notice_type), 0);
    report(ctx, &busy, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    cr_assert_str_eq(handed_to(ctx, &talk, 1, "one")->session, "s-1");
    report(ctx, &other, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    handed_to(ctx, &third, 1, "two");
    fake_free(&ctx);
}

Test(queue_nodes, jobs_tied_to_a_worker_and_others_go_in_their_order)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id busy, low, free_job, high;
    struct job job = job_for("far");

    begin_talk(ctx, 1);
    stands(ctx, "two", node_state_DRAINING);
    busy = submit_talk(ctx, "d");
    handed_to(ctx, &busy, 1, "one");
    report(ctx, &busy, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    busy = submit_far(ctx);
    handed_to(ctx, &busy, 1, "one");
    stands(ctx, "two", node_state_UP);
    fake_advance(ctx, 5);
    low = submit_talk(ctx, "c");
    fake_advance(ctx, 5);
    job.conversation = "d";
    job.priority = job_priority_HIGH;
    high = submit(ctx, &job);
    stands(ctx, "two", node_state_DRAINING);
    fake_advance(ctx, 5);
    free_job = submit_far(ctx);
    cr_assert_null(handed_at_last(ctx));
    report(ctx, &busy, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    handed_to(ctx, &high, 1, "one");
    report(ctx, &high, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    handed_to(ctx, &low, 1, "one");
    report(ctx, &low, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    handed_to(ctx, &free_job, 1, "one");
    fake_free(&ctx);
}

Test(queue_nodes, a_job_waits_only_so_long_for_a_worker_that_is_away)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id first, second;
    const struct agent_run *run;

    begin_talk(ctx, 1);
    stands(ctx, "one", node_state_AWAY);
    first = submit_talk(ctx, "c");
    second = submit_talk(ctx, "c");
    stands(ctx, "one", node_state_LOST);
    fake_advance(ctx, HOLD - 1);
    fake_commit_all(ctx);
    cr_assert_null(handed_at_last(ctx));
    fake_advance(ctx, 1);
    cr_assert_eq(said(ctx, &job_notice_type), 1);
    cr_assert_eq(fake_said(ctx, "session-lost"), 1);
    fake_commit_all(ctx);
    run = handed_to(ctx, &first, 1, "two");
    cr_assert(run->session == NULL || *run->session == '\0', "nobody else knows it");
    report(ctx, &first, 1, job_state_COMPLETED);
    fake_commit_all(ctx);
    attach(ctx, "one", 2, 1, NULL, 0);
    fake_commit_all(ctx);
    cr_assert_str_eq(handed_to(ctx, &second, 1, "two")->session, "s-1", "the conversation goes on from there");
    fake_free(&ctx);
}

Test(queue_nodes, a_worker_that_is_back_in_time_gets_the_job_with_its_session)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id;

    begin_talk(ctx, 1);
    stands(ctx, "one", node_state_LOST);
    id = submit_talk(ctx, "c");
    fake_advance(ctx, HOLD / 2);
    attach(ctx, "one", 2, 0, NULL, 0);
    fake_advance(ctx, HOLD / 4);
    attach(ctx, "one", 3, 1, NULL, 0);
    fake_commit_all(ctx);
    cr_assert_str_eq(handed_to(ctx, &id, 1, "one")->session, "s-1");
    cr_assert_eq(said(ctx, &job_notice_type), 0);
    fake_free(&ctx);
}

Test(queue_nodes, the_wait_for_a_worker_begins_when_it_goes_away)
{
    struct muster_ctx *ctx = queue_new();
    struct held_attempt held = {.attempt = 1};
    struct muster_id talk;

    begin_talk(ctx, 1);
    stands(ctx, "two", node_state_DRAINING);
    held.job = submit_long(ctx);
    handed_to(ctx, &held.job, 1, "one");
    talk = submit_talk(ctx, "c");
    stands(ctx, "two", node_state_UP);
    fake_advance(ctx, 60000);
    stands(ctx, "one", node_state_AWAY);
    fake_advance(ctx, HOLD - 1);
    cr_assert_null(handed_at_last(ctx));
    attach(ctx, "one", 2, 1, &held, 1); /* as full as before */
    fake_advance(ctx, 60000);
    cr_assert_null(handed_at_last(ctx), "it waits for room only");
    stands(ctx, "one", node_state_DRAINING);
    fake_advance(ctx, HOLD - 1);
    cr_assert_null(handed_at_last(ctx));
    fake_advance(ctx, 1);
    fake_commit_all(ctx);
    handed_to(ctx, &talk, 1, "two");
    fake_free(&ctx);
}

Test(queue_nodes, a_session_of_a_worker_that_was_never_seen_is_waited_for_too)
{
    struct muster_ctx *ctx = queue_new();
    struct job old = job_for("far");
    struct muster_id id;

    old.conversation = "c";
    old.state = job_state_COMPLETED;
    old.session = "s-7";
    old.node = "gone";
    fake_put(ctx, &job_type, &old);
    attach_new(ctx, "two", 1);
    id = submit_talk(ctx, "c");
    cr_assert_null(handed_at_last(ctx));
    fake_advance(ctx, HOLD);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 1, "two");
    cr_assert_eq(said(ctx, &job_notice_type), 1);
    fake_free(&ctx);
}

Test(queue_nodes, a_retry_goes_to_the_worker_that_has_its_session)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id id = one_at_work(ctx);

    attach_new(ctx, "two", 1);
    report(ctx, &id, 1, job_state_FAILED);
    fake_commit_all(ctx);
    stands(ctx, "one", node_state_DRAINING);
    fake_advance(ctx, 2000);
    cr_assert_null(handed_at_last(ctx));
    cancel(ctx, &id);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_CANCELLED, "one that waits for a worker can be cancelled");
    id = submit_far(ctx);
    handed_to(ctx, &id, 1, "two");
    report(ctx, &id, 1, job_state_FAILED);
    fake_commit_all(ctx);
    stands(ctx, "one", node_state_UP);
    fake_advance(ctx, 2000);
    fake_commit_all(ctx);
    cr_assert_str_eq(handed_to(ctx, &id, 2, "two")->session, "s-1");
    fake_free(&ctx);
}

Test(queue_nodes, a_job_tied_to_a_worker_fails_at_its_deadline)
{
    struct muster_ctx *ctx = queue_new();
    struct job job = job_for("far");

    begin_talk(ctx, 1);
    stands(ctx, "one", node_state_LOST);
    job.conversation = "c";
    job.deadline_ms = FAKE_START_MS + 5000;
    submit(ctx, &job);
    fake_advance(ctx, 5000);
    fake_commit_all(ctx);
    cr_assert_str_eq(stored(ctx, &job.id)->error, "DEADLINE_EXCEEDED");
    fake_free(&ctx);
}

Test(queue_nodes, a_later_job_of_its_conversation_does_not_free_a_tied_one)
{
    struct muster_ctx *ctx = queue_new();
    struct muster_id first, second;

    begin_talk(ctx, 1);
    stands(ctx, "one", node_state_LOST);
    first = submit_talk(ctx, "c");
    second = submit_talk(ctx, "c");
    cancel(ctx, &second);
    fake_commit_all(ctx);
    cr_assert_null(handed_at_last(ctx));
    attach(ctx, "one", 2, 1, NULL, 0);
    fake_commit_all(ctx);
    handed_to(ctx, &first, 1, "one");
    fake_free(&ctx);
}

Test(queue_nodes, without_a_hold_a_conversation_goes_elsewhere_at_once)
{
    struct muster_ctx *ctx = fake_new("workers: {hold_sessions: 0s}\nteams: {far: {driver: remote}}\n");
    struct muster_id id;

    cr_assert_eq(fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL), MUSTER_OK);
    begin_talk(ctx, 1);
    stands(ctx, "one", node_state_AWAY);
    id = submit_talk(ctx, "c");
    fake_advance(ctx, 0);
    fake_commit_all(ctx);
    handed_to(ctx, &id, 1, "two");
    fake_free(&ctx);
}
