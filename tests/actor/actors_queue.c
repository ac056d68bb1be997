/* SPDX-License-Identifier: MPL-2.0 */
/* The queue on a clock of its own: order, limits, retries, cancel, recovery, and random lives held against a model. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "actors/muster_snapshots.h"
#include "fake/fake_ctx.h"

#define TEAMS                                                                                                          \
    "queue: {max_running: 3, max_attempts: 3, retry_delay: 1s, max_retry_delay: 10s, aging: 1m}\n"                     \
    "teams:\n"                                                                                                         \
    "  backend: {driver: echo, concurrency: 1, max_queued: 5}\n"                                                       \
    "  frontend: {driver: echo, concurrency: 2}\n"

static struct muster_ctx *
queue_with(const char *yaml)
{
    struct muster_ctx *ctx = fake_new(yaml);

    cr_assert_eq(fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL), MUSTER_OK);
    return ctx;
}

static void
agent_ready(struct muster_ctx *ctx, const char *team, int64_t capacity)
{
    char address[64];
    struct queue_ready ready = {.team = team, .address = address, .capacity = capacity};

    snprintf(address, sizeof address, "agent/%s", team);
    cr_assert_eq(fake_call(ctx, "", 0, &queue_ready_type, &ready), MUSTER_OK);
}

static struct job
job_for(const char *team, enum job_priority priority)
{
    return (struct job){
        .id = muster_id_new(FAKE_START_MS),
        .kind = job_kind_EXECUTE,
        .team = team,
        .state = job_state_QUEUED,
        .priority = priority,
        .prompt = "do it",
        .from = "test",
        .created_ms = 1,
        .timeout_ms = 60000,
        .max_attempts = 3,
    };
}

static muster_err
submit(struct muster_ctx *ctx, const struct job *job, const char *reply_to, bool wait)
{
    struct queue_submit body = {.job = job, .wait = wait};

    return fake_call(ctx, reply_to, 7, &queue_submit_type, &body);
}

static struct muster_id
submit_ok(struct muster_ctx *ctx, const char *team, enum job_priority priority)
{
    struct job job = job_for(team, priority);

    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    fake_commit_all(ctx);
    return job.id;
}

static const struct agent_run *
started(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &agent_run_type);

    return sent ? sent->body : NULL;
}

static void
report(struct muster_ctx *ctx, const struct muster_id *job, int64_t attempt, enum job_state state, const char *code)
{
    struct queue_report body = {.job = *job,
                                .attempt = attempt,
                                .state = state,
                                .result = "done",
                                .code = code,
                                .message = "because",
                                .session = "s-1"};

    fake_call(ctx, "", 0, &queue_report_type, &body);
}

static const struct job *
stored(struct muster_ctx *ctx, const struct muster_id *id)
{
    return fake_get(ctx, &job_type, id);
}

static size_t
events_of(struct muster_ctx *ctx, const struct muster_id *id, bool final_only)
{
    size_t found = 0, i;

    for (i = 0; i < fake_event_count(ctx); i++) {
        const struct event *event = fake_event_at(ctx, i);

        if (muster_id_equal(&event->job, id) && (!final_only || muster_event_row(event->type)->final))
            found++;
    }
    return found;
}

Test(queue, accepts_only_what_is_on_disk)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = job_for("backend", job_priority_NORMAL);

    agent_ready(ctx, "backend", 1);
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    cr_assert_null(fake_take_to(ctx, "caller/1"), "answered before the commit");
    cr_assert_null(started(ctx), "started before the commit");
    cr_assert(fake_commit(ctx));
    cr_assert_not_null(fake_take_type(ctx, &queue_accepted_type));
    cr_assert_not_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, full_disk_refuses_and_forgets)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = job_for("backend", job_priority_NORMAL);
    const struct fake_sent *sent;

    agent_ready(ctx, "backend", 1);
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    sent = fake_take_to(ctx, "caller/1");
    cr_assert_str_eq(((const struct failed *)sent->body)->code, "STORAGE_FULL");
    cr_assert_null(started(ctx));
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK, "the id is free again");
    fake_free(&ctx);
}

Test(queue, unknown_team_and_limits_are_refused)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = job_for("nobody", job_priority_NORMAL);
    int i;

    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_TEAM_NOT_FOUND);
    for (i = 0; i < 5; i++)
        submit_ok(ctx, "backend", job_priority_NORMAL);
    job = job_for("backend", job_priority_NORMAL);
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_QUEUE_FULL);
    cr_assert_gt(((const struct failed *)fake_take_type(ctx, &failed_type)->body)->retry_after_s, -1);
    fake_free(&ctx);
}

Test(queue, higher_priority_first_then_first_come)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id low = submit_ok(ctx, "backend", job_priority_LOW);
    struct muster_id first = submit_ok(ctx, "backend", job_priority_NORMAL);
    struct muster_id second = submit_ok(ctx, "backend", job_priority_NORMAL);
    struct muster_id critical = submit_ok(ctx, "backend", job_priority_CRITICAL);
    const struct muster_id *order[] = {&critical, &first, &second, &low};
    size_t i;

    agent_ready(ctx, "backend", 1);
    for (i = 0; i < 4; i++) {
        const struct agent_run *run = started(ctx);

        cr_assert_not_null(run);
        cr_assert(muster_id_equal(&run->job, order[i]), "place %zu", i);
        cr_assert_null(started(ctx), "one at a time");
        report(ctx, &run->job, run->attempt, job_state_COMPLETED, NULL);
        fake_commit_all(ctx);
    }
    fake_free(&ctx);
}

Test(queue, waiting_raises_priority)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id low = submit_ok(ctx, "backend", job_priority_LOW);
    const struct agent_run *run;

    fake_advance(ctx, 5 * 60000);
    submit_ok(ctx, "backend", job_priority_CRITICAL);
    agent_ready(ctx, "backend", 1);
    run = started(ctx);
    cr_assert(muster_id_equal(&run->job, &low));
    fake_free(&ctx);
}

Test(queue, concurrency_per_team_and_overall)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    int i, count = 0;

    agent_ready(ctx, "backend", 2);
    agent_ready(ctx, "frontend", 2);
    for (i = 0; i < 4; i++) {
        submit_ok(ctx, "backend", job_priority_NORMAL);
        submit_ok(ctx, "frontend", job_priority_NORMAL);
    }
    while (started(ctx))
        count++;
    cr_assert_eq(count, 3, "max_running holds over both teams, got %d", count);
    fake_free(&ctx);
}

Test(queue, position_and_estimate)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct queue_accepted *accepted;
    struct job job = job_for("backend", job_priority_NORMAL);

    submit_ok(ctx, "backend", job_priority_LOW);
    submit_ok(ctx, "backend", job_priority_HIGH);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_forget(ctx);
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    fake_commit(ctx);
    accepted = fake_take_type(ctx, &queue_accepted_type)->body;
    cr_assert_eq(accepted->position, 3, "behind one high and one normal");
    cr_assert_eq(accepted->estimate_ms, FAKE_START_MS + 3 * 10000, "three jobs of first_estimate each");
    fake_free(&ctx);
}

Test(queue, waiter_is_told_the_end_only_when_it_is_on_disk)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = job_for("backend", job_priority_NORMAL);
    const struct queue_finished *finished;

    agent_ready(ctx, "backend", 1);
    cr_assert_eq(submit(ctx, &job, "caller/1", true), MUSTER_OK);
    fake_commit_all(ctx);
    cr_assert_eq(fake_take_to(ctx, "caller/1")->type, &queue_accepted_type);
    report(ctx, &job.id, 1, job_state_COMPLETED, NULL);
    cr_assert_null(fake_take_to(ctx, "caller/1"));
    fake_commit_all(ctx);
    finished = fake_take_type(ctx, &queue_finished_type)->body;
    cr_assert_str_eq(finished->job->result, "done");
    cr_assert_eq(stored(ctx, &job.id)->state, job_state_COMPLETED);
    cr_assert_eq(events_of(ctx, &job.id, true), 1);
    fake_free(&ctx);
}

Test(queue, an_end_that_cannot_be_written_is_written_later)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = job_for("backend", job_priority_NORMAL);

    agent_ready(ctx, "backend", 1);
    submit(ctx, &job, "caller/1", true);
    fake_commit_all(ctx);
    cr_assert_eq(fake_take_to(ctx, "caller/1")->type, &queue_accepted_type);
    report(ctx, &job.id, 1, job_state_COMPLETED, NULL);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_null(fake_take_to(ctx, "caller/1"));
    fake_advance(ctx, 2000);
    fake_commit_all(ctx);
    cr_assert_not_null(fake_take_type(ctx, &queue_finished_type));
    cr_assert_eq(stored(ctx, &job.id)->state, job_state_COMPLETED);
    fake_free(&ctx);
}

Test(queue, retries_with_growing_pauses_and_resumes_the_session)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;
    const struct agent_run *run;
    const struct log_append *append;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    run = started(ctx);
    cr_assert_eq(run->attempt, 1);
    report(ctx, &id, 1, job_state_FAILED, "PROCESS_ERROR");
    append = fake_take_to(ctx, MUSTER_LOG)->body;
    cr_assert_str_eq(append->entries.items[0].type, "job.retrying", "said before the next attempt can begin");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RETRYING);
    fake_advance(ctx, 700);
    cr_assert_null(started(ctx), "a pause is at least three quarters of retry_delay");
    fake_advance(ctx, 600);
    run = started(ctx);
    cr_assert_eq(run->attempt, 2);
    cr_assert_str_eq(run->session, "s-1");
    report(ctx, &id, 2, job_state_FAILED, "PROCESS_ERROR");
    fake_commit_all(ctx);
    fake_advance(ctx, 1400);
    cr_assert_null(started(ctx), "the second pause is twice as long");
    fake_advance(ctx, 1200);
    run = started(ctx);
    cr_assert_eq(run->attempt, 3);
    report(ctx, &id, 3, job_state_FAILED, "PROCESS_ERROR");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_FAILED, "max_attempts");
    cr_assert_eq(events_of(ctx, &id, true), 1);
    fake_free(&ctx);
}

Test(queue, what_cannot_be_retried_is_final_at_once)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    report(ctx, &id, 1, job_state_FAILED, "MODEL_AUTH");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_FAILED);
    cr_assert_str_eq(stored(ctx, &id)->error, "MODEL_AUTH");
    fake_free(&ctx);
}

Test(queue, what_an_agent_calls_final_is_not_tried_again)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct queue_report final = {
        .attempt = 1, .state = job_state_FAILED, .code = "PROCESS_ERROR", .message = "status 3", .final = true};

    agent_ready(ctx, "backend", 1);
    final.job = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_call(ctx, "", 0, &queue_report_type, &final);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &final.job)->state, job_state_FAILED);
    cr_assert_str_eq(stored(ctx, &final.job)->error, "PROCESS_ERROR");
    fake_free(&ctx);
}

/* Is there an entry with these facts? */
static bool
said_of(struct muster_ctx *ctx, const struct muster_id *job, const char *before, const char *after)
{
    char id[MUSTER_ID_TEXT], text[512];

    muster_id_text(job, id);
    snprintf(text, sizeof text, "%s message_id=msg_%s %s", before, id, after);
    return fake_said_text(ctx, text);
}

/* As submit_ok, from somebody, in a request. */
static struct muster_id
submit_from(struct muster_ctx *ctx, const char *team)
{
    struct muster_envelope envelope = {.reply_to = "caller/1", .trace = "req-q", .principal = {.name = "tester"}};
    struct job job = job_for(team, job_priority_NORMAL);
    struct queue_submit body = {.job = &job};

    cr_assert_eq(fake_deliver(ctx, &envelope, &queue_submit_type, &body), MUSTER_OK);
    fake_commit_all(ctx);
    return job.id;
}

Test(queue, the_journal_names_each_end_and_each_retry)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id good, bad, never;

    agent_ready(ctx, "backend", 1);
    good = submit_from(ctx, "backend");
    fake_advance(ctx, 250);
    report(ctx, &good, 1, job_state_COMPLETED, NULL);
    cr_assert_eq(fake_said(ctx, "job-ended"), 0, "not before it is on disk");
    fake_commit_all(ctx);
    cr_assert_eq(fake_said(ctx, "job-ended"), 1);
    cr_assert(said_of(ctx, &good, "info A job has ended. team=backend",
                      "state=completed attempts=1 duration_ms=250 request_id=req-q from=tester"));
    bad = submit_from(ctx, "backend");
    report(ctx, &bad, 1, job_state_FAILED, "MODEL_OVERLOADED");
    cr_assert_eq(fake_said(ctx, "job-retrying"), 1);
    cr_assert(said_of(ctx, &bad, "info An attempt failed; another follows. team=backend",
                      "code=MODEL_OVERLOADED attempt=1 delay_ms="));
    fake_advance(ctx, 2000);
    report(ctx, &bad, 2, job_state_FAILED, "MODEL_AUTH");
    fake_commit_all(ctx);
    cr_assert(said_of(ctx, &bad, "warning A job has ended. team=backend", "state=failed attempts=2 duration_ms="));
    cr_assert(fake_said_text(ctx, "from=tester code=MODEL_AUTH"));
    never = submit_from(ctx, "frontend");
    fake_call(ctx, "", 0, &queue_cancel_type, &(struct queue_cancel){.job = never});
    fake_commit_all(ctx);
    cr_assert(said_of(ctx, &never, "info A job has ended. team=frontend", "state=cancelled attempts=0 duration_ms=0"));
    fake_free(&ctx);
}

Test(queue, the_cost_of_all_attempts_has_no_more_digits_than_it_should)
{
    static const double costs[] = {0.1, 0.2, 0.01809};
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct usage usage = {0};
    struct queue_report body = {.state = job_state_FAILED, .code = "PROCESS_ERROR", .usage = &usage};

    agent_ready(ctx, "backend", 1);
    body.job = submit_ok(ctx, "backend", job_priority_NORMAL);
    for (body.attempt = 1; body.attempt <= 3; body.attempt++) {
        usage.cost_usd = costs[body.attempt - 1];
        fake_call(ctx, "", 0, &queue_report_type, &body);
        fake_commit_all(ctx);
        fake_advance(ctx, 20000);
    }
    cr_assert_eq(stored(ctx, &body.job)->usage->cost_usd, 0.31809, "%.17g", stored(ctx, &body.job)->usage->cost_usd);
    fake_free(&ctx);
}

Test(queue, an_attempt_over_its_limit_is_not_repeated)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    report(ctx, &id, 1, job_state_FAILED, "TIMEOUT");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_FAILED, "it would cost the same again");
    fake_free(&ctx);
}

Test(queue, a_pause_the_agent_was_told_is_kept)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct queue_report told = {
        .attempt = 1, .state = job_state_FAILED, .code = "MODEL_RATE_LIMITED", .retry_after_ms = 30000};

    agent_ready(ctx, "backend", 1);
    told.job = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_forget(ctx);
    fake_call(ctx, "", 0, &queue_report_type, &told);
    fake_commit_all(ctx);
    fake_advance(ctx, 29000);
    cr_assert_null(started(ctx));
    fake_advance(ctx, 2000);
    cr_assert_not_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, stale_reports_change_nothing)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    report(ctx, &id, 1, job_state_FAILED, "PROCESS_ERROR");
    fake_commit_all(ctx);
    report(ctx, &id, 1, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RETRYING, "the attempt was over");
    fake_advance(ctx, 2000);
    report(ctx, &id, 2, job_state_COMPLETED, NULL);
    report(ctx, &id, 2, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(events_of(ctx, &id, true), 1);
    fake_free(&ctx);
}

static muster_err
cancel(struct muster_ctx *ctx, const struct muster_id *id)
{
    struct queue_cancel body = {.job = *id};

    return fake_call(ctx, "caller/2", 9, &queue_cancel_type, &body);
}

Test(queue, cancel_of_a_waiting_job)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id = submit_ok(ctx, "backend", job_priority_NORMAL);
    const struct queue_cancelled *answer;

    cr_assert_eq(cancel(ctx, &id), MUSTER_OK);
    cr_assert_null(fake_take_to(ctx, "caller/2"));
    fake_commit_all(ctx);
    answer = fake_take_to(ctx, "caller/2")->body;
    cr_assert_eq(answer->state, job_state_CANCELLED);
    cr_assert_not(answer->was_running);
    agent_ready(ctx, "backend", 1);
    cr_assert_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, cancel_of_a_running_job_waits_for_its_agent)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct queue_cancelled *answer;
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    cr_assert_eq(cancel(ctx, &id), MUSTER_OK);
    cr_assert_not_null(fake_take_type(ctx, &agent_cancel_type));
    report(ctx, &id, 1, job_state_CANCELLED, NULL);
    fake_commit_all(ctx);
    answer = fake_take_to(ctx, "caller/2")->body;
    cr_assert(answer->was_running);
    cr_assert_eq(stored(ctx, &id)->state, job_state_CANCELLED);
    cr_assert_eq(cancel(ctx, &id), MUSTER_OK);
    answer = fake_take_to(ctx, "caller/2")->body;
    cr_assert_eq(answer->state, job_state_CANCELLED, "asked again, told again");
    fake_free(&ctx);
}

Test(queue, a_failure_after_cancel_is_not_retried)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    cancel(ctx, &id);
    report(ctx, &id, 1, job_state_FAILED, "PROCESS_ERROR");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_CANCELLED);
    fake_free(&ctx);
}

Test(queue, cancel_of_nothing_is_not_found)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id = muster_id_new(FAKE_START_MS);

    cr_assert_eq(cancel(ctx, &id), MUSTER_NOT_FOUND);
    fake_free(&ctx);
}

Test(queue, an_agent_that_restarts_gets_its_jobs_again)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct agent_run *run;
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_forget(ctx);
    agent_ready(ctx, "backend", 1);
    fake_commit_all(ctx);
    fake_advance(ctx, 2000);
    run = started(ctx);
    cr_assert(muster_id_equal(&run->job, &id));
    cr_assert_eq(run->attempt, 2);
    fake_free(&ctx);
}

/* A job in its second attempt, in session s-1, whose first failed. */
static struct muster_id
second_attempt(struct muster_ctx *ctx)
{
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    report(ctx, &id, 1, job_state_FAILED, "PROCESS_ERROR");
    fake_commit_all(ctx);
    fake_advance(ctx, 2000);
    fake_forget(ctx);
    return id;
}

Test(queue, an_overdue_attempt_is_dropped_by_its_agent_before_the_next_begins)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id = second_attempt(ctx);
    const struct agent_run *run;

    fake_advance(ctx, 60000 + 60000 + 30000 + 1000); /* limit, grace, six steps of stop_timeout */
    cr_assert_eq(((const struct agent_cancel *)fake_take_type(ctx, &agent_cancel_type)->body)->attempt, 2);
    cr_assert_null(started(ctx), "not while the agent may still run the old one");
    report(ctx, &id, 2, job_state_CANCELLED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RETRYING);
    fake_advance(ctx, 5000);
    run = started(ctx);
    cr_assert_eq(run->attempt, 3);
    cr_assert_str_eq(run->session, "s-1");
    fake_free(&ctx);
}

Test(queue, an_attempt_nobody_reports_is_lost_at_last)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id = second_attempt(ctx);
    const struct agent_run *run;

    fake_advance(ctx, 60000 + 2 * 90000 + 8000);
    run = started(ctx);
    cr_assert_eq(run->attempt, 3);
    cr_assert_str_eq(run->session, "s-1", "the session outlives the attempt");
    cr_assert(fake_said(ctx, "report-missing"));
    (void)id;
    fake_free(&ctx);
}

Test(queue, numbers_an_agent_makes_up_do_not_keep_a_job_from_its_end)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct usage usage = {.input_tokens = INT64_MAX, .output_tokens = INT64_MAX};
    struct queue_report body = {.attempt = 1, .state = job_state_FAILED, .code = "PROCESS_ERROR", .usage = &usage};

    agent_ready(ctx, "backend", 1);
    body.job = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_call(ctx, "", 0, &queue_report_type, &body);
    fake_commit_all(ctx);
    fake_advance(ctx, 2000);
    body.attempt = 2;
    body.state = job_state_COMPLETED;
    fake_call(ctx, "", 0, &queue_report_type, &body);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &body.job)->state, job_state_COMPLETED);
    cr_assert_eq(stored(ctx, &body.job)->usage->input_tokens, INT64_MAX);
    fake_free(&ctx);
}

Test(queue, a_failure_that_is_final_is_not_repeated)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct queue_report body = {.attempt = 1, .state = job_state_FAILED, .code = "PROCESS_ERROR", .final = true};

    agent_ready(ctx, "backend", 1);
    body.job = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_call(ctx, "", 0, &queue_report_type, &body);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &body.job)->state, job_state_FAILED);
    fake_free(&ctx);
}

Test(queue, an_agent_killed_while_the_daemon_stops_is_no_failure)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct queue_drain wait = {.now = false};
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_call(ctx, "hub", 1, &queue_drain_type, &wait);
    report(ctx, &id, 1, job_state_FAILED, "PROCESS_ERROR");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_PARKED);
    cr_assert_eq(stored(ctx, &id)->failures, 0);
    cr_assert_not_null(fake_take_to(ctx, "hub"));
    fake_free(&ctx);
}

Test(queue, readers_are_told_that_a_restart_repeats_an_attempt)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct log_append *append;

    agent_ready(ctx, "backend", 1);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_forget(ctx);
    fake_restart(ctx);
    append = fake_take_to(ctx, MUSTER_LOG)->body;
    cr_assert_str_eq(append->entries.items[0].type, "job.retrying");
    cr_assert_null(fake_take_to(ctx, MUSTER_LOG), "the job that had only waited has nothing to repeat");
    fake_free(&ctx);
}

Test(queue, a_full_agent_is_tried_again)
{
    struct muster_ctx *ctx = queue_with(TEAMS);

    agent_ready(ctx, "backend", 1);
    fake_refuse(ctx, "agent/backend", MUSTER_OVERLOADED);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    cr_assert_null(started(ctx));
    fake_refuse(ctx, "agent/backend", MUSTER_OK);
    fake_advance(ctx, 1000);
    cr_assert_not_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, a_clock_set_back_does_not_turn_the_order_round)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id first = submit_ok(ctx, "backend", job_priority_NORMAL);

    fake_set_clock(ctx, FAKE_START_MS - 3600000);
    submit_ok(ctx, "backend", job_priority_LOW);
    agent_ready(ctx, "backend", 1);
    cr_assert(muster_id_equal(&started(ctx)->job, &first));
    fake_free(&ctx);
}

Test(queue, restart_brings_back_what_was_not_final)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id running, waiting, done;
    const struct agent_run *run;

    agent_ready(ctx, "backend", 1);
    done = submit_ok(ctx, "backend", job_priority_NORMAL);
    report(ctx, &done, 1, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    running = submit_ok(ctx, "backend", job_priority_LOW);
    waiting = submit_ok(ctx, "backend", job_priority_LOW);
    fake_forget(ctx);
    fake_restart(ctx);
    agent_ready(ctx, "backend", 1);
    run = started(ctx);
    cr_assert(muster_id_equal(&run->job, &running), "what had begun goes first");
    cr_assert_eq(run->attempt, 2);
    report(ctx, &running, 1, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &running)->state, job_state_RUNNING, "the dead attempt is fenced");
    report(ctx, &running, 2, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    cr_assert(muster_id_equal(&started(ctx)->job, &waiting));
    cr_assert_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, drain_starts_nothing_waits_and_parks)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct queue_drain wait = {.now = false}, now = {.now = true};
    struct job job = job_for("backend", job_priority_NORMAL);
    struct muster_id running;

    agent_ready(ctx, "backend", 1);
    running = submit_ok(ctx, "backend", job_priority_NORMAL);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_forget(ctx);
    fake_call(ctx, "hub", 1, &queue_drain_type, &wait);
    cr_assert_null(fake_take_to(ctx, "hub"));
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_SHUTTING_DOWN);
    fake_call(ctx, "hub", 2, &queue_drain_type, &now);
    cr_assert(((const struct agent_cancel *)fake_take_type(ctx, &agent_cancel_type)->body)->park);
    report(ctx, &running, 1, job_state_PARKED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(((const struct queue_drained *)fake_take_to(ctx, "hub")->body)->parked, 1);
    cr_assert_null(started(ctx));
    cr_assert_eq(stored(ctx, &running)->state, job_state_PARKED);
    fake_restart(ctx);
    agent_ready(ctx, "backend", 1);
    cr_assert(muster_id_equal(&started(ctx)->job, &running));
    fake_free(&ctx);
}

Test(queue, a_callback_is_due_with_the_end)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job_callback callback = {.url = "http://example.com/hook"};
    struct job job = job_for("backend", job_priority_NORMAL);

    agent_ready(ctx, "backend", 1);
    job.callback = &callback;
    submit(ctx, &job, "caller/1", false);
    fake_commit_all(ctx);
    cr_assert_null(fake_get(ctx, &delivery_type, &job.id));
    report(ctx, &job.id, 1, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(((const struct delivery *)fake_get(ctx, &delivery_type, &job.id))->state, delivery_state_PENDING);
    fake_free(&ctx);
}

Test(queue, views_show_counts)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct muster_queue_view *view;

    agent_ready(ctx, "backend", 1);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    view = fake_board(ctx, MUSTER_QUEUE_BOARD "/backend");
    cr_assert_eq(view->running, 1);
    cr_assert_eq(view->queued, 1);
    view = fake_board(ctx, MUSTER_QUEUE_BOARD);
    cr_assert_eq(view->running, 1);
    cr_assert_eq(view->max_running, 3);
    fake_free(&ctx);
}

/* ---- random lives ---------------------------------------------------------------------------------------------------
 */

#define MODEL_JOBS 64

struct model {
    struct muster_ctx *ctx;
    struct muster_id accepted[MODEL_JOBS];
    size_t count;
    struct agent_run running[8]; /* what agents hold; texts are not used */
    size_t running_count;
};

static void
model_note_starts(struct model *model)
{
    const struct agent_run *run;

    while ((run = started(model->ctx)) != NULL) {
        size_t i;

        for (i = 0; i < model->running_count; i++)
            cr_assert_not(muster_id_equal(&model->running[i].job, &run->job), "a job runs twice at a time");
        cr_assert_lt(model->running_count, 3, "more run than may");
        model->running[model->running_count++] = *run;
    }
}

static void
model_end_one(struct model *model, enum job_state state, const char *code)
{
    size_t at;
    struct agent_run run;

    if (model->running_count == 0)
        return;
    at = (size_t)rand() % model->running_count;
    run = model->running[at];
    model->running[at] = model->running[--model->running_count];
    report(model->ctx, &run.job, run.attempt, state, code);
}

static void
model_restart(struct model *model)
{
    fake_forget(model->ctx); /* what was not on disk is lost */
    model->running_count = 0;
    cr_assert_eq(fake_restart(model->ctx), MUSTER_OK);
    agent_ready(model->ctx, "backend", 1);
    agent_ready(model->ctx, "frontend", 2);
}

static void
model_submit(struct model *model)
{
    struct job job = job_for(rand() % 2 ? "frontend" : "backend", (enum job_priority)(1 + rand() % 4));
    bool lost = rand() % 8 == 0;

    if (model->count == MODEL_JOBS || submit(model->ctx, &job, "caller/1", false) != MUSTER_OK)
        return;
    model_note_starts(model);
    if (lost) {
        while (fake_commit_fails(model->ctx, MUSTER_STORAGE_FULL))
            ;
        return;
    }
    fake_commit_all(model->ctx);
    if (stored(model->ctx, &job.id))
        model->accepted[model->count++] = job.id;
}

static void
model_step(struct model *model)
{
    switch (rand() % 9) {
    case 0:
    case 1:
    case 2:
        model_submit(model);
        break;
    case 3:
        model_end_one(model, job_state_COMPLETED, NULL);
        break;
    case 4:
        model_end_one(model, job_state_FAILED, rand() % 2 ? "PROCESS_ERROR" : "MODEL_AUTH");
        break;
    case 5:
        if (model->count > 0)
            cancel(model->ctx, &model->accepted[(size_t)rand() % model->count]);
        break;
    case 6:
        fake_advance(model->ctx, rand() % 5000);
        break;
    case 7:
        if (rand() % 4 == 0)
            fake_commit_fails(model->ctx, MUSTER_STORAGE_FULL);
        else
            fake_commit_all(model->ctx);
        break;
    default:
        if (rand() % 4 == 0)
            model_restart(model);
    }
    model_note_starts(model);
}

Test(queue, every_accepted_job_ends_exactly_once_whatever_happens)
{
    unsigned seed;

    for (seed = 1; seed <= 60; seed++) {
        struct model model = {.ctx = queue_with(TEAMS)};
        int i;
        size_t at;

        srand(seed);
        agent_ready(model.ctx, "backend", 1);
        agent_ready(model.ctx, "frontend", 2);
        for (i = 0; i < 300; i++)
            model_step(&model);
        model_restart(&model);
        for (i = 0; i < 2000; i++) {
            model_note_starts(&model);
            model_end_one(&model, job_state_COMPLETED, NULL);
            fake_commit_all(model.ctx);
            fake_advance(model.ctx, 500);
        }
        for (at = 0; at < model.count; at++) {
            const struct job *job = stored(model.ctx, &model.accepted[at]);

            cr_assert(job->state == job_state_COMPLETED || job->state == job_state_FAILED ||
                          job->state == job_state_CANCELLED,
                      "seed %u: job %zu is left %d", seed, at, (int)job->state);
            cr_assert_eq(events_of(model.ctx, &model.accepted[at], true), 1, "seed %u: job %zu has %zu ends", seed, at,
                         events_of(model.ctx, &model.accepted[at], true));
        }
        fake_free(&model.ctx);
    }
}
