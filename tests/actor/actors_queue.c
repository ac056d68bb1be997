/* SPDX-License-Identifier: MPL-2.0 */
/* The queue on a clock of its own: order, limits, idempotency, retries, delays, deadlines, pauses, places,
 * conversations, cancel, recovery, and random lives.  actors_queue_model.c holds it against a model. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_snapshots.h"
#include "fake/fake_ctx.h"

#define TEAM_LINES                                                                                                     \
    "teams:\n"                                                                                                         \
    "  backend: {driver: echo, concurrency: 1, max_queued: 5}\n"                                                       \
    "  frontend: {driver: echo, concurrency: 2}\n"
#define TEAMS "queue: {max_running: 3, max_attempts: 3, retry_delay: 1s, max_retry_delay: 10s, aging: 1m}\n" TEAM_LINES

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

static muster_err
pause_team(struct muster_ctx *ctx, const char *team, bool paused)
{
    struct muster_envelope envelope = {.reply_to = "operator", .id = 3, .principal = {.name = "operator"}};
    struct queue_pause body = {.team = team, .paused = paused};

    return fake_deliver(ctx, &envelope, &queue_pause_type, &body);
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

/* ---- the begin of an attempt ---- */

static void
expect_written(struct muster_ctx *ctx, const struct agent_run *run)
{
    const struct fake_sent *sent = fake_take_type(ctx, &agent_written_type);
    const struct agent_written *told;

    cr_assert_not_null(sent);
    cr_assert_str_eq(sent->to, "agent/backend");
    told = sent->body;
    cr_assert(muster_id_equal(&told->job, &run->job));
    cr_assert_eq(told->attempt, run->attempt);
}

Test(queue, an_agent_is_told_when_the_begin_of_its_attempt_is_on_disk)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct agent_run *run;
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL); /* commits what begin wrote, too */
    run = started(ctx);
    cr_assert(run->unwritten);
    cr_assert_eq(((const struct job *)fake_get(ctx, &job_type, &id))->state, job_state_RUNNING);
    expect_written(ctx, run);
    fake_free(&ctx);
}

Test(queue, an_agent_is_told_also_when_the_begin_of_its_attempt_cannot_be_written)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct agent_run *run;

    submit_ok(ctx, "backend", job_priority_NORMAL);
    agent_ready(ctx, "backend", 1);
    run = started(ctx);
    cr_assert_null(fake_take_type(ctx, &agent_written_type));
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    expect_written(ctx, run);
    fake_free(&ctx);
}

Test(queue, an_agent_is_told_also_when_the_store_takes_nothing)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct agent_run *run;

    submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    agent_ready(ctx, "backend", 1);
    run = started(ctx);
    expect_written(ctx, run);
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

    job.from = "tester";
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

Test(queue, a_cancel_that_a_full_agent_does_not_take_is_refused)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_refuse(ctx, "agent/backend", MUSTER_OVERLOADED);
    cr_assert_eq(cancel(ctx, &id), MUSTER_OVERLOADED, "not taken and then forgotten");
    fake_refuse(ctx, "agent/backend", MUSTER_OK);
    cr_assert_eq(cancel(ctx, &id), MUSTER_OK);
    cr_assert_not_null(fake_take_type(ctx, &agent_cancel_type));
    fake_free(&ctx);
}

Test(queue, a_cancel_of_a_job_that_could_not_be_written_is_told_so)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = job_for("backend", job_priority_NORMAL);
    const struct fake_sent *sent;

    cr_assert_eq(submit(ctx, &job, "caller/1", true), MUSTER_OK);
    cr_assert_eq(cancel(ctx, &job.id), MUSTER_OK);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    sent = fake_take_to(ctx, "caller/2");
    cr_assert_not_null(sent, "nobody may wait for ever");
    cr_assert_str_eq(((const struct failed *)sent->body)->code, "NOT_FOUND");
    cr_assert_not_null(fake_take_to(ctx, "caller/1"));
    cr_assert_null(fake_take_to(ctx, "caller/1"), "told once, by the store");
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

/* ---- idempotency ----------------------------------------------------------------------------------------------------
 */

#define PRINT_A ((struct muster_bytes){(const uint8_t *)"aaaa", 4})
#define PRINT_B ((struct muster_bytes){(const uint8_t *)"bbbb", 4})

/* A job with the key k; `print`: what is asked. */
static struct job
keyed_job(struct muster_bytes print)
{
    struct job job = job_for("backend", job_priority_NORMAL);

    job.idempotency = "digest-of-k";
    job.fingerprint = print;
    return job;
}

/* The answer to the last submit: accepted, or NULL. */
static const struct queue_accepted *
accepted(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &queue_accepted_type);

    return sent ? sent->body : NULL;
}

static const struct failed *
refused(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &failed_type);

    return sent ? sent->body : NULL;
}

Test(queue, the_same_key_and_request_is_answered_with_the_job_of_then)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job first = keyed_job(PRINT_A), again = keyed_job(PRINT_A);
    const struct queue_accepted *then, *now;

    submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_forget(ctx);
    cr_assert_eq(submit(ctx, &first, "caller/1", false), MUSTER_OK);
    fake_commit_all(ctx);
    then = accepted(ctx);
    cr_assert_not(then->repeated);
    cr_assert_eq(then->position, 2);
    fake_advance(ctx, 60000);
    cr_assert_eq(submit(ctx, &again, "caller/2", true), MUSTER_OK);
    cr_assert_not(fake_commit(ctx), "nothing new is written");
    now = accepted(ctx);
    cr_assert(now->repeated);
    cr_assert(muster_id_equal(&now->job, &first.id));
    cr_assert_eq(now->position, then->position);
    cr_assert_eq(now->estimate_ms, then->estimate_ms);
    cr_assert_eq(now->created_ms, FAKE_START_MS);
    agent_ready(ctx, "backend", 1);
    cr_assert_not(muster_id_equal(&started(ctx)->job, &again.id));
    fake_free(&ctx);
}

Test(queue, the_same_key_for_another_request_is_refused)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job first = keyed_job(PRINT_A), other = keyed_job(PRINT_B), longer = keyed_job(PRINT_A);

    cr_assert_eq(submit(ctx, &first, "caller/1", false), MUSTER_OK);
    cr_assert_eq(submit(ctx, &other, "caller/2", false), MUSTER_IDEMPOTENCY_MISMATCH, "while it is being written");
    fake_commit_all(ctx);
    cr_assert_eq(submit(ctx, &other, "caller/2", false), MUSTER_IDEMPOTENCY_MISMATCH, "and after");
    longer.fingerprint.size = 3;
    cr_assert_eq(submit(ctx, &longer, "caller/2", false), MUSTER_IDEMPOTENCY_MISMATCH);
    fake_free(&ctx);
}

Test(queue, a_key_whose_first_commit_is_under_way_is_in_progress)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job first = keyed_job(PRINT_A), again = keyed_job(PRINT_A);
    const struct failed *failed;

    cr_assert_eq(submit(ctx, &first, "caller/1", false), MUSTER_OK);
    cr_assert_eq(submit(ctx, &again, "caller/2", false), MUSTER_IDEMPOTENCY_IN_PROGRESS);
    failed = refused(ctx);
    cr_assert_str_eq(failed->code, "IDEMPOTENCY_IN_PROGRESS");
    cr_assert_eq(failed->retry_after_s, 1);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_eq(submit(ctx, &again, "caller/2", false), MUSTER_OK, "a key is free again when its job was not written");
    fake_commit_all(ctx);
    cr_assert(muster_id_equal(&accepted(ctx)->job, &again.id));
    fake_free(&ctx);
}

Test(queue, a_key_is_remembered_for_its_window_over_restarts)
{
    struct muster_ctx *ctx = queue_with("queue: {dedup_window: 1h}\n" TEAM_LINES);
    struct job first = keyed_job(PRINT_A), again = keyed_job(PRINT_A), late = keyed_job(PRINT_B);

    submit(ctx, &first, "caller/1", false);
    fake_commit_all(ctx);
    agent_ready(ctx, "backend", 1);
    report(ctx, &first.id, 1, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    fake_restart(ctx);
    fake_forget(ctx);
    fake_advance(ctx, 3600000 - 1);
    cr_assert_eq(submit(ctx, &again, "caller/1", false), MUSTER_OK);
    cr_assert(accepted(ctx)->repeated, "also when it has ended");
    fake_advance(ctx, 1);
    cr_assert_eq(submit(ctx, &late, "caller/1", false), MUSTER_OK);
    fake_commit_all(ctx);
    cr_assert_not(accepted(ctx)->repeated, "the window is over");
    cr_assert_eq(submit(ctx, &again, "caller/1", false), MUSTER_IDEMPOTENCY_MISMATCH, "the newest job counts");
    fake_free(&ctx);
}

Test(queue, a_repeated_submit_is_answered_when_nothing_new_is_taken)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job first = keyed_job(PRINT_A), again = keyed_job(PRINT_A);
    struct queue_drain drain = {.now = false};
    int i;

    first.deadline_ms = again.deadline_ms = FAKE_START_MS + 1000;
    submit(ctx, &first, "caller/1", false);
    fake_commit_all(ctx);
    fake_forget(ctx);
    for (i = 0; i < 4; i++)
        submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_call(ctx, "hub", 1, &queue_drain_type, &drain);
    fake_advance(ctx, 2000);
    fake_forget(ctx);
    cr_assert_eq(submit(ctx, &again, "caller/1", false), MUSTER_OK, "full, draining, and past the deadline");
    cr_assert(accepted(ctx)->repeated);
    fake_free(&ctx);
}

/* ---- a failed job once more -----------------------------------------------------------------------------------------
 */

static struct muster_id
failed_job(struct muster_ctx *ctx)
{
    struct muster_id id = submit_ok(ctx, "backend", job_priority_NORMAL);

    report(ctx, &id, 1, job_state_FAILED, "MODEL_AUTH");
    fake_commit_all(ctx);
    fake_forget(ctx);
    return id;
}

Test(queue, a_failed_job_is_repeated_as_a_new_one)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job again = job_for("backend", job_priority_NORMAL), twice = job_for("backend", job_priority_NORMAL);
    struct muster_id original;

    agent_ready(ctx, "backend", 1);
    original = failed_job(ctx);
    again.retry_of = twice.retry_of = original;
    cr_assert_eq(submit(ctx, &again, "caller/1", false), MUSTER_OK);
    cr_assert(muster_id_is_zero(&stored(ctx, &original)->retried_as));
    fake_commit(ctx);
    cr_assert(muster_id_equal(&stored(ctx, &original)->retried_as, &again.id), "in the same commit");
    cr_assert(muster_id_equal(&stored(ctx, &again.id)->retry_of, &original));
    cr_assert_str_eq(stored(ctx, &original)->error, "MODEL_AUTH", "else it is as it was");
    cr_assert_not(accepted(ctx)->repeated);
    cr_assert_eq(submit(ctx, &twice, "caller/1", false), MUSTER_OK);
    cr_assert(muster_id_equal(&accepted(ctx)->job, &again.id), "once only");
    cr_assert_null(stored(ctx, &twice.id));
    fake_free(&ctx);
}

Test(queue, only_what_failed_can_be_repeated)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job again = job_for("backend", job_priority_NORMAL);
    const struct failed *failed;

    agent_ready(ctx, "backend", 1);
    again.retry_of = muster_id_new(FAKE_START_MS);
    cr_assert_eq(submit(ctx, &again, "caller/1", false), MUSTER_NOT_FOUND);
    again.retry_of = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_forget(ctx);
    cr_assert_eq(submit(ctx, &again, "caller/1", false), MUSTER_CONFLICT);
    failed = refused(ctx);
    cr_assert_not_null(strstr(failed->message, "running"), "%s", failed->message);
    report(ctx, &again.retry_of, 1, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(submit(ctx, &again, "caller/1", false), MUSTER_CONFLICT);
    fake_free(&ctx);
}

Test(queue, a_repeat_that_was_not_written_leaves_the_original_alone)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job again = job_for("backend", job_priority_NORMAL);

    agent_ready(ctx, "backend", 1);
    again.retry_of = failed_job(ctx);
    cr_assert_eq(submit(ctx, &again, "caller/1", false), MUSTER_OK);
    fake_commit_fails(ctx, MUSTER_STORAGE_FULL);
    cr_assert_str_eq(refused(ctx)->code, "STORAGE_FULL");
    cr_assert(muster_id_is_zero(&stored(ctx, &again.retry_of)->retried_as));
    fake_free(&ctx);
}

/* ---- delay ----------------------------------------------------------------------------------------------------------
 */

static struct job
delayed_job(int64_t delay_ms)
{
    struct job job = job_for("backend", job_priority_NORMAL);

    job.not_before_ms = FAKE_START_MS + delay_ms;
    return job;
}

Test(queue, a_delayed_job_waits_for_its_time)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = delayed_job(90000);
    const struct muster_queue_view *view;

    agent_ready(ctx, "backend", 1);
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    fake_commit_all(ctx);
    cr_assert_eq(accepted(ctx)->estimate_ms, job.not_before_ms + 10000);
    view = fake_board(ctx, MUSTER_QUEUE_BOARD "/backend");
    cr_assert_eq(view->queued, 1);
    fake_advance(ctx, 89999);
    cr_assert_null(started(ctx));
    cr_assert_eq(stored(ctx, &job.id)->state, job_state_QUEUED);
    fake_advance(ctx, 1);
    cr_assert(muster_id_equal(&started(ctx)->job, &job.id));
    fake_free(&ctx);
}

Test(queue, a_delay_holds_over_a_restart)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = delayed_job(90000), other = delayed_job(20000);

    submit(ctx, &job, "caller/1", false);
    submit(ctx, &other, "caller/1", false);
    fake_commit_all(ctx);
    fake_stop(ctx);
    fake_set_clock(ctx, FAKE_START_MS + 30000);
    fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL);
    agent_ready(ctx, "backend", 2);
    cr_assert(muster_id_equal(&started(ctx)->job, &other.id), "its time came while nobody was there");
    fake_advance(ctx, 59999);
    cr_assert_null(started(ctx));
    fake_advance(ctx, 1);
    cr_assert(muster_id_equal(&started(ctx)->job, &job.id));
    fake_free(&ctx);
}

Test(queue, a_delay_ends_by_the_wall_clock)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = delayed_job(7200000);

    agent_ready(ctx, "backend", 1);
    submit(ctx, &job, "caller/1", false);
    fake_commit_all(ctx);
    fake_set_clock(ctx, FAKE_START_MS - 3600000); /* set back: the timer of the actor has moved away by an hour */
    fake_advance(ctx, 3 * 3600000 - 1);
    cr_assert_null(started(ctx));
    fake_advance(ctx, 1);
    cr_assert_not_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, a_delay_that_is_too_long_is_refused)
{
    struct muster_ctx *ctx = queue_with("queue: {max_delay: 1h}\n" TEAM_LINES);
    struct job job = delayed_job(3600001);

    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_INVALID_REQUEST);
    cr_assert_not_null(strstr(refused(ctx)->message, "max_delay"));
    job.not_before_ms = INT64_MAX;
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_INVALID_REQUEST);
    job.not_before_ms = FAKE_START_MS + 3600000;
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    job = delayed_job(-5000);
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &job.id)->not_before_ms, 0, "a time that has passed is none");
    fake_free(&ctx);
}

Test(queue, jobs_delayed_to_the_same_time_go_in_their_order)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id ids[5];
    const struct agent_run *run;
    size_t i;

    agent_ready(ctx, "backend", 1);
    for (i = 0; i < 5; i++) {
        struct job job = delayed_job(60000);

        ids[i] = job.id;
        submit(ctx, &job, "caller/1", false);
    }
    fake_commit_all(ctx);
    fake_advance(ctx, 60000);
    for (i = 0; i < 5; i++) {
        run = started(ctx);
        cr_assert(muster_id_equal(&run->job, &ids[i]));
        report(ctx, &run->job, 1, job_state_COMPLETED, NULL);
    }
    fake_free(&ctx);
}

Test(queue, a_delayed_job_can_be_cancelled)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = delayed_job(60000);

    agent_ready(ctx, "backend", 1);
    submit(ctx, &job, "caller/1", false);
    fake_commit_all(ctx);
    cancel(ctx, &job.id);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &job.id)->state, job_state_CANCELLED);
    fake_advance(ctx, 120000);
    cr_assert_null(started(ctx));
    fake_free(&ctx);
}

/* ---- deadline -------------------------------------------------------------------------------------------------------
 */

static struct muster_id
submit_with_deadline(struct muster_ctx *ctx, int64_t ms)
{
    struct job job = job_for("backend", job_priority_NORMAL);

    job.deadline_ms = FAKE_START_MS + ms;
    cr_assert_eq(submit(ctx, &job, "caller/1", true), MUSTER_OK);
    fake_commit_all(ctx);
    fake_take_to(ctx, "caller/1");
    return job.id;
}

static void
assert_expired(struct muster_ctx *ctx, const struct muster_id *id)
{
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, id)->state, job_state_FAILED);
    cr_assert_str_eq(stored(ctx, id)->error, "DEADLINE_EXCEEDED");
    cr_assert_eq(events_of(ctx, id, true), 1);
}

Test(queue, a_deadline_that_has_passed_is_refused)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = job_for("backend", job_priority_NORMAL);

    job.deadline_ms = FAKE_START_MS;
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_INVALID_REQUEST);
    cr_assert_not_null(strstr(refused(ctx)->message, "deadline"));
    job.deadline_ms = FAKE_START_MS + 1;
    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    fake_set_clock(ctx, FAKE_START_MS + 2);
    fake_commit(ctx);
    assert_expired(ctx, &job.id);
    fake_free(&ctx);
}

Test(queue, a_waiting_job_fails_at_its_deadline)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id = submit_with_deadline(ctx, 30000);
    const struct queue_finished *finished;

    fake_advance(ctx, 29999);
    cr_assert_not(fake_commit(ctx));
    fake_advance(ctx, 1);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    fake_advance(ctx, 1000);
    assert_expired(ctx, &id);
    finished = fake_take_type(ctx, &queue_finished_type)->body;
    cr_assert_str_eq(finished->job->error, "DEADLINE_EXCEEDED");
    agent_ready(ctx, "backend", 1);
    cr_assert_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, a_delayed_job_fails_at_its_deadline)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = delayed_job(60000);

    agent_ready(ctx, "backend", 1);
    job.deadline_ms = FAKE_START_MS + 30000;
    submit(ctx, &job, "caller/1", false);
    fake_commit_all(ctx);
    fake_advance(ctx, 30000);
    assert_expired(ctx, &job.id);
    fake_advance(ctx, 60000);
    cr_assert_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, a_running_job_is_cancelled_at_its_deadline)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;
    const struct agent_cancel *dropped;

    agent_ready(ctx, "backend", 1);
    id = submit_with_deadline(ctx, 30000);
    fake_advance(ctx, 30000);
    dropped = fake_take_type(ctx, &agent_cancel_type)->body;
    cr_assert_eq(dropped->attempt, 1);
    cr_assert_eq(stored(ctx, &id)->state, job_state_RUNNING, "until its agent says so");
    report(ctx, &id, 1, job_state_CANCELLED, NULL);
    assert_expired(ctx, &id);
    cr_assert_str_eq(stored(ctx, &id)->session, "s-1");
    fake_free(&ctx);
}

Test(queue, a_job_that_completes_after_all_has_completed)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_with_deadline(ctx, 30000);
    fake_advance(ctx, 30000);
    report(ctx, &id, 1, job_state_COMPLETED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_COMPLETED);
    fake_free(&ctx);
}

Test(queue, a_failure_after_the_deadline_is_not_repeated)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_with_deadline(ctx, 30000);
    fake_advance(ctx, 30000);
    report(ctx, &id, 1, job_state_FAILED, "PROCESS_ERROR");
    assert_expired(ctx, &id);
    fake_free(&ctx);
}

Test(queue, a_deadline_needs_no_report_of_the_agent)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id lost, restarted;

    agent_ready(ctx, "backend", 1);
    lost = submit_with_deadline(ctx, 30000);
    fake_advance(ctx, 30000 + 90000 - 1);
    cr_assert_eq(stored(ctx, &lost)->state, job_state_RUNNING);
    fake_advance(ctx, 1);
    assert_expired(ctx, &lost);
    restarted = submit_with_deadline(ctx, 150000);
    fake_advance(ctx, 30000);
    agent_ready(ctx, "backend", 1);
    assert_expired(ctx, &restarted);
    fake_free(&ctx);
}

Test(queue, a_deadline_is_told_to_an_agent_whose_mailbox_was_full)
{
    struct muster_ctx *ctx = queue_with(TEAMS);

    agent_ready(ctx, "backend", 1);
    submit_with_deadline(ctx, 30000);
    fake_refuse(ctx, "agent/backend", MUSTER_OVERLOADED);
    fake_advance(ctx, 30000);
    cr_assert_null(fake_take_type(ctx, &agent_cancel_type));
    fake_refuse(ctx, "agent/backend", MUSTER_OK);
    fake_advance(ctx, 200);
    cr_assert_not_null(fake_take_type(ctx, &agent_cancel_type));
    fake_free(&ctx);
}

Test(queue, a_cancel_before_the_deadline_counts)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_with_deadline(ctx, 30000);
    cancel(ctx, &id);
    fake_forget(ctx);
    fake_advance(ctx, 30000);
    cr_assert_null(fake_take_type(ctx, &agent_cancel_type), "its agent knows");
    report(ctx, &id, 1, job_state_CANCELLED, NULL);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &id)->state, job_state_CANCELLED);
    fake_free(&ctx);
}

Test(queue, a_cancel_after_the_deadline_is_told_that_it_failed)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    id = submit_with_deadline(ctx, 30000);
    fake_advance(ctx, 30000);
    cancel(ctx, &id);
    report(ctx, &id, 1, job_state_CANCELLED, NULL);
    assert_expired(ctx, &id);
    cr_assert_eq(((const struct queue_cancelled *)fake_take_to(ctx, "caller/2")->body)->state, job_state_FAILED);
    fake_free(&ctx);
}

Test(queue, no_retry_is_planned_beyond_the_deadline)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id soon, late;

    agent_ready(ctx, "backend", 1);
    soon = submit_with_deadline(ctx, 700);
    report(ctx, &soon, 1, job_state_FAILED, "PROCESS_ERROR");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &soon)->state, job_state_FAILED);
    cr_assert_str_eq(stored(ctx, &soon)->error, "PROCESS_ERROR", "why it failed says more than when");
    late = submit_with_deadline(ctx, 60000);
    report(ctx, &late, 1, job_state_FAILED, "PROCESS_ERROR");
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &late)->state, job_state_RETRYING);
    pause_team(ctx, "backend", true);
    fake_commit_all(ctx);
    fake_advance(ctx, 60000);
    assert_expired(ctx, &late);
    fake_free(&ctx);
}

Test(queue, a_deadline_holds_over_a_restart)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id passed = submit_with_deadline(ctx, 30000), coming = submit_with_deadline(ctx, 90000);

    fake_stop(ctx);
    fake_set_clock(ctx, FAKE_START_MS + 60000);
    fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL);
    agent_ready(ctx, "backend", 1); /* before any timer has fired */
    assert_expired(ctx, &passed);
    cr_assert(muster_id_equal(&started(ctx)->job, &coming));
    fake_advance(ctx, 30000);
    cr_assert_not_null(fake_take_type(ctx, &agent_cancel_type));
    fake_free(&ctx);
}

/* ---- retries of one's own -------------------------------------------------------------------------------------------
 */

/* How long it waits after a failure of that attempt, which runs. */
static int64_t
pause_after(struct muster_ctx *ctx, const struct muster_id *id, int64_t attempt)
{
    int64_t ended_ms;

    fake_forget(ctx);
    report(ctx, id, attempt, job_state_FAILED, "PROCESS_ERROR");
    ended_ms = muster_now_ms(ctx);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, id)->state, job_state_RETRYING);
    return stored(ctx, id)->not_before_ms - ended_ms;
}

Test(queue, a_job_has_its_own_pauses)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job job = job_for("backend", job_priority_NORMAL);
    int64_t pause_ms;

    agent_ready(ctx, "backend", 1);
    job.retry_delay_ms = 4000;
    job.max_retry_delay_ms = 5000;
    submit(ctx, &job, "caller/1", false);
    fake_commit_all(ctx);
    pause_ms = pause_after(ctx, &job.id, 1);
    cr_assert(pause_ms >= 3000 && pause_ms <= 5000, "%lld", (long long)pause_ms);
    fake_advance(ctx, pause_ms);
    pause_ms = pause_after(ctx, &job.id, 2);
    cr_assert(pause_ms >= 3750 && pause_ms <= 5000, "%lld", (long long)pause_ms);
    fake_free(&ctx);
}

Test(queue, a_job_never_pauses_longer_than_the_queue_allows)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    int64_t pause_ms;
    int i;

    agent_ready(ctx, "backend", 1);
    for (i = 0; i < 20; i++) {
        struct job job = job_for("backend", job_priority_NORMAL);

        job.retry_delay_ms = job.max_retry_delay_ms = INT64_MAX;
        submit(ctx, &job, "caller/1", false);
        fake_commit_all(ctx);
        pause_ms = pause_after(ctx, &job.id, 1);
        cr_assert(pause_ms >= 7500 && pause_ms <= 10000, "%lld", (long long)pause_ms);
        cancel(ctx, &job.id);
        fake_commit_all(ctx);
    }
    fake_free(&ctx);
}

Test(queue, a_pause_an_agent_makes_up_has_an_end)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct queue_report told = {
        .attempt = 1, .state = job_state_FAILED, .code = "MODEL_RATE_LIMITED", .retry_after_ms = INT64_MAX};

    agent_ready(ctx, "backend", 1);
    told.job = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_call(ctx, "", 0, &queue_report_type, &told);
    fake_commit_all(ctx);
    cr_assert_eq(stored(ctx, &told.job)->not_before_ms, FAKE_START_MS + INT64_C(30) * 86400000, "queue.max_delay");
    fake_free(&ctx);
}

/* ---- teams paused and resumed ---------------------------------------------------------------------------------------
 */

static const struct queue_paused *
told_paused(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &queue_paused_type);

    return sent ? sent->body : NULL;
}

static const struct team_state *
team_state_of(struct muster_ctx *ctx, const char *team)
{
    struct muster_id id = muster_id_of("team", team);

    return fake_get(ctx, &team_state_type, &id);
}

static const struct muster_queue_view *
backend_view(struct muster_ctx *ctx)
{
    return fake_board(ctx, MUSTER_QUEUE_BOARD "/backend");
}

Test(queue, a_paused_team_takes_jobs_and_starts_none)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id running, waiting;

    agent_ready(ctx, "backend", 1);
    running = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_forget(ctx);
    cr_assert_eq(pause_team(ctx, "backend", true), MUSTER_OK);
    cr_assert(backend_view(ctx)->paused, "at once");
    cr_assert_null(told_paused(ctx), "answered before it is on disk");
    fake_commit_all(ctx);
    cr_assert(told_paused(ctx)->paused);
    cr_assert(team_state_of(ctx, "backend")->paused);
    cr_assert_str_eq(team_state_of(ctx, "backend")->by, "operator");
    cr_assert_str_eq(fake_event_at(ctx, fake_event_count(ctx) - 1)->type, "team.paused");
    cr_assert_str_eq(fake_event_at(ctx, fake_event_count(ctx) - 1)->team, "backend");
    waiting = submit_ok(ctx, "backend", job_priority_CRITICAL);
    report(ctx, &running, 1, job_state_FAILED, "PROCESS_ERROR"); /* what runs goes on to its end, and its retry waits */
    fake_commit_all(ctx);
    fake_advance(ctx, 60000);
    cr_assert_null(started(ctx));
    cr_assert_eq(pause_team(ctx, "backend", false), MUSTER_OK);
    cr_assert_null(started(ctx), "resumed only when that is on disk");
    cr_assert(backend_view(ctx)->paused);
    fake_commit_all(ctx);
    cr_assert_not(told_paused(ctx)->paused);
    cr_assert_not(backend_view(ctx)->paused);
    cr_assert(muster_id_equal(&started(ctx)->job, &waiting));
    fake_free(&ctx);
}

Test(queue, other_teams_go_on)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    agent_ready(ctx, "frontend", 1);
    pause_team(ctx, "backend", true);
    fake_commit_all(ctx);
    submit_ok(ctx, "backend", job_priority_CRITICAL);
    id = submit_ok(ctx, "frontend", job_priority_LOW);
    cr_assert(muster_id_equal(&started(ctx)->job, &id));
    fake_free(&ctx);
}

Test(queue, pausing_an_unknown_team_is_refused)
{
    struct muster_ctx *ctx = queue_with(TEAMS);

    cr_assert_eq(pause_team(ctx, "nobody", true), MUSTER_TEAM_NOT_FOUND);
    fake_free(&ctx);
}

Test(queue, saying_what_is_already_so_changes_nothing)
{
    struct muster_ctx *ctx = queue_with(TEAMS);

    pause_team(ctx, "backend", false);
    cr_assert_not(told_paused(ctx)->paused);
    pause_team(ctx, "backend", true);
    pause_team(ctx, "backend", true);
    cr_assert_null(told_paused(ctx), "nobody is told before it is on disk");
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert(told_paused(ctx)->paused);
    cr_assert(told_paused(ctx)->paused);
    cr_assert_eq(fake_event_count(ctx), 1);
    fake_free(&ctx);
}

Test(queue, a_resume_that_meets_a_pause_under_way_comes_after_it)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;

    agent_ready(ctx, "backend", 1);
    pause_team(ctx, "backend", true);
    pause_team(ctx, "backend", false);
    pause_team(ctx, "backend", true);
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    cr_assert(told_paused(ctx)->paused);
    cr_assert_not(told_paused(ctx)->paused);
    cr_assert(told_paused(ctx)->paused);
    cr_assert_eq(fake_event_count(ctx), 4, "three changes and a job");
    cr_assert_null(started(ctx), "the last word was: pause");
    (void)id;
    fake_free(&ctx);
}

Test(queue, a_pause_that_cannot_be_written_is_undone)
{
    struct muster_ctx *ctx = queue_with(TEAMS);

    agent_ready(ctx, "backend", 1);
    pause_team(ctx, "backend", true);
    pause_team(ctx, "backend", true);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_str_eq(refused(ctx)->code, "STORAGE_FULL");
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL), "the second one tries for itself");
    cr_assert_str_eq(refused(ctx)->code, "STORAGE_FULL");
    cr_assert_not(backend_view(ctx)->paused);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    cr_assert_not_null(started(ctx));
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    pause_team(ctx, "backend", true);
    cr_assert_str_eq(refused(ctx)->code, "OVERLOADED");
    cr_assert_not(backend_view(ctx)->paused);
    fake_free(&ctx);
}

Test(queue, a_resume_that_cannot_be_written_leaves_the_team_paused)
{
    struct muster_ctx *ctx = queue_with(TEAMS);

    agent_ready(ctx, "backend", 1);
    pause_team(ctx, "backend", true);
    fake_commit_all(ctx);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    pause_team(ctx, "backend", false);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_str_eq(refused(ctx)->code, "STORAGE_FULL");
    cr_assert(backend_view(ctx)->paused);
    cr_assert_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, a_pause_holds_over_a_restart)
{
    struct muster_ctx *ctx = queue_with(TEAMS);

    pause_team(ctx, "backend", true);
    fake_commit_all(ctx);
    fake_restart(ctx);
    agent_ready(ctx, "backend", 1);
    submit_ok(ctx, "backend", job_priority_NORMAL);
    cr_assert_null(started(ctx));
    cr_assert(backend_view(ctx)->paused);
    fake_free(&ctx);
}

/* What was said of backend in a former life, in which the file said `configured`. */
static void
put_state(struct muster_ctx *ctx, bool paused, bool configured)
{
    struct team_state state = {.id = muster_id_of("team", "backend"),
                               .team = "backend",
                               .paused = paused,
                               .configured = configured,
                               .by = "operator",
                               .changed_ms = 1};

    fake_put(ctx, &team_state_type, &state);
}

Test(queue, the_file_counts_again_when_it_has_changed)
{
    struct muster_ctx *ctx = fake_new("teams: {backend: {driver: echo, paused: true}}\n");

    fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL);
    agent_ready(ctx, "backend", 1);
    cr_assert(backend_view(ctx)->paused, "nothing was ever said");
    fake_stop(ctx);
    put_state(ctx, false, true);
    fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL);
    agent_ready(ctx, "backend", 1);
    cr_assert_not(backend_view(ctx)->paused, "what was said counts");
    fake_stop(ctx);
    put_state(ctx, false, false);
    fake_start(ctx, &muster_queue_class, MUSTER_QUEUE, NULL);
    agent_ready(ctx, "backend", 1);
    cr_assert(backend_view(ctx)->paused, "the file was changed since");
    fake_commit_all(ctx);
    cr_assert_null(team_state_of(ctx, "backend"), "and what was said before is forgotten");
    fake_free(&ctx);
}

/* ---- places and estimates -------------------------------------------------------------------------------------------
 */

static struct queue_placed
place_of(struct muster_ctx *ctx, const struct muster_id *id)
{
    struct queue_place body = {.job = *id};

    cr_assert_eq(fake_call(ctx, "asker", 1, &queue_place_type, &body), MUSTER_OK);
    return *(const struct queue_placed *)fake_take_to(ctx, "asker")->body;
}

Test(queue, a_place_follows_the_order_in_which_jobs_will_start)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id low = submit_ok(ctx, "backend", job_priority_LOW), normal, high;

    fake_advance(ctx, 59999);
    normal = submit_ok(ctx, "backend", job_priority_NORMAL);
    high = submit_ok(ctx, "backend", job_priority_HIGH);
    cr_assert_eq(place_of(ctx, &low).position, 3);
    cr_assert_eq(place_of(ctx, &normal).position, 2);
    fake_advance(ctx, 1);
    cr_assert_eq(place_of(ctx, &low).position, 2, "aged by one priority, and older than the normal one");
    fake_advance(ctx, 60000);
    cr_assert_eq(place_of(ctx, &low).position, 2);
    cr_assert_eq(place_of(ctx, &high).position, 1);
    cr_assert_eq(place_of(ctx, &normal).position, 3);
    cr_assert_eq(place_of(ctx, &low).estimate_ms, FAKE_START_MS + 120000 + 2 * 10000);
    fake_free(&ctx);
}

Test(queue, a_place_is_asked_of_any_job)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct queue_place nobody = {.job = muster_id_new(FAKE_START_MS)};
    struct job submitted = job_for("backend", job_priority_NORMAL), delayed = delayed_job(60000);
    struct muster_id running;

    agent_ready(ctx, "backend", 1);
    running = submit_ok(ctx, "backend", job_priority_NORMAL);
    fake_advance(ctx, 4000);
    submit(ctx, &submitted, "caller/1", false);
    cr_assert_eq(place_of(ctx, &submitted.id).position, 1, "its commit is under way");
    fake_commit_all(ctx);
    submit(ctx, &delayed, "caller/1", false);
    fake_commit_all(ctx);
    cr_assert_eq(place_of(ctx, &running).position, 0);
    cr_assert_eq(place_of(ctx, &running).estimate_ms, FAKE_START_MS + 10000);
    fake_advance(ctx, 20000);
    cr_assert_eq(place_of(ctx, &running).estimate_ms, FAKE_START_MS + 24000, "any moment");
    cr_assert_eq(place_of(ctx, &delayed.id).position, 2, "as if it came now");
    cr_assert_eq(place_of(ctx, &delayed.id).estimate_ms, FAKE_START_MS + 60000 + 10000, "not before its time");
    report(ctx, &running, 1, job_state_COMPLETED, NULL);
    cr_assert_eq(place_of(ctx, &running).estimate_ms, FAKE_START_MS + 24000);
    fake_commit_all(ctx);
    cr_assert_eq(place_of(ctx, &running).position, 0);
    cr_assert_eq(place_of(ctx, &running).estimate_ms, 0, "ended");
    cr_assert_eq(fake_call(ctx, "asker", 1, &queue_place_type, &nobody), MUSTER_NOT_FOUND);
    fake_free(&ctx);
}

Test(queue, an_estimate_knows_how_many_run_at_a_time)
{
    struct muster_ctx *ctx = queue_with("queue: {max_running: 2}\n"
                                        "teams: {backend: {driver: echo, concurrency: 4}}\n");
    struct muster_id last;
    int i;

    agent_ready(ctx, "backend", 4);
    for (i = 0; i < 6; i++)
        last = submit_ok(ctx, "backend", job_priority_NORMAL);
    cr_assert_eq(place_of(ctx, &last).position, 4);
    cr_assert_eq(place_of(ctx, &last).estimate_ms, FAKE_START_MS + 3 * 10000, "five before it, two at a time");
    fake_free(&ctx);
}

Test(queue, places_among_very_many_are_right)
{
    struct muster_ctx *ctx = queue_with("queue: {aging: 1s}\nteams: {backend: {driver: echo}}\n");
    struct muster_id ids[2000];
    int64_t expected = 2000;
    int i;

    for (i = 0; i < 2000; i++) {
        ids[i] = submit_ok(ctx, "backend", job_priority_NORMAL);
        fake_advance(ctx, i % 7);
    }
    for (i = 0; i < 2000; i += 2) {
        cancel(ctx, &ids[i]);
        expected--;
    }
    fake_commit_all(ctx);
    fake_forget(ctx);
    cr_assert_eq(place_of(ctx, &ids[1999]).position, expected);
    cr_assert_eq(place_of(ctx, &ids[1]).position, 1);
    cr_assert_eq(place_of(ctx, &ids[1001]).position, 501);
    fake_free(&ctx);
}

Test(queue, how_long_jobs_take_is_known_after_a_restart)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id id;
    int i;

    agent_ready(ctx, "backend", 1);
    for (i = 0; i < 20; i++) {
        id = submit_ok(ctx, "backend", job_priority_NORMAL);
        fake_advance(ctx, i < 4 ? 50000 : 3000);
        report(ctx, &id, 1, job_state_COMPLETED, NULL);
        fake_commit_all(ctx);
    }
    failed_job(ctx);
    fake_restart(ctx);
    agent_ready(ctx, "backend", 1);
    cr_assert_eq(backend_view(ctx)->mean_ms, 3000, "the newest sixteen");
    id = submit_ok(ctx, "backend", job_priority_NORMAL);
    cr_assert_eq(stored(ctx, &id)->estimate_ms, muster_now_ms(ctx) + 3000);
    fake_free(&ctx);
}

/* ---- conversations --------------------------------------------------------------------------------------------------
 */

static struct job
talk(const char *conversation, enum job_priority priority)
{
    struct job job = job_for("frontend", priority);

    job.conversation = conversation;
    job.session_id = "mine";
    return job;
}

static struct muster_id
submit_talk(struct muster_ctx *ctx, const char *conversation, enum job_priority priority)
{
    struct job job = talk(conversation, priority);

    cr_assert_eq(submit(ctx, &job, "caller/1", false), MUSTER_OK);
    fake_commit_all(ctx);
    return job.id;
}

static void
report_session(struct muster_ctx *ctx, const struct muster_id *job, int64_t attempt, enum job_state state,
               const char *session)
{
    struct queue_report body = {
        .job = *job, .attempt = attempt, .state = state, .code = "PROCESS_ERROR", .result = "", .session = session};

    fake_call(ctx, "", 0, &queue_report_type, &body);
}

Test(queue, jobs_of_a_conversation_follow_each_other)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id first, second, third, other;
    const struct agent_run *run;

    agent_ready(ctx, "frontend", 2);
    first = submit_talk(ctx, "c", job_priority_LOW);
    run = started(ctx);
    cr_assert_str_eq(run->conversation, "c");
    second = submit_talk(ctx, "c", job_priority_NORMAL);
    third = submit_talk(ctx, "c", job_priority_CRITICAL);
    cr_assert_null(started(ctx), "there is room, but the conversation is busy");
    other = submit_talk(ctx, "d", job_priority_LOW);
    cr_assert(muster_id_equal(&started(ctx)->job, &other), "others pass");
    cr_assert_eq(((const struct muster_queue_view *)fake_board(ctx, MUSTER_QUEUE_BOARD "/frontend"))->queued, 2);
    report_session(ctx, &first, 1, job_state_FAILED, "s-9");
    fake_commit_all(ctx);
    fake_advance(ctx, 500);
    cr_assert_null(started(ctx), "its retry comes first");
    fake_advance(ctx, 1000);
    run = started(ctx);
    cr_assert(muster_id_equal(&run->job, &first));
    report_session(ctx, &first, 2, job_state_COMPLETED, "s-9");
    cr_assert_null(started(ctx), "its end is not on disk");
    fake_commit_all(ctx);
    run = started(ctx);
    cr_assert(muster_id_equal(&run->job, &second), "whatever their priority");
    cr_assert_str_eq(run->session, "s-9");
    report_session(ctx, &second, 1, job_state_COMPLETED, "");
    fake_commit_all(ctx);
    run = started(ctx);
    cr_assert(muster_id_equal(&run->job, &third));
    cr_assert_str_eq(run->session, "s-9", "of the newest that had one");
    fake_free(&ctx);
}

Test(queue, whatever_ends_a_job_frees_its_conversation)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job lost = talk("c", job_priority_NORMAL), next = talk("c", job_priority_NORMAL);
    struct muster_id ids[3];
    int i;

    agent_ready(ctx, "frontend", 2);
    submit(ctx, &lost, "caller/1", false);
    submit(ctx, &next, "caller/1", false);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    fake_commit_all(ctx);
    cr_assert(muster_id_equal(&started(ctx)->job, &next.id), "the first was never taken");
    for (i = 0; i < 3; i++)
        ids[i] = submit_talk(ctx, "c", job_priority_NORMAL);
    cancel(ctx, &ids[1]);
    cancel(ctx, &ids[0]);
    fake_commit_all(ctx);
    cr_assert_null(started(ctx), "the running one has not ended");
    report_session(ctx, &next.id, 1, job_state_CANCELLED, "");
    fake_commit_all(ctx);
    cr_assert(muster_id_equal(&started(ctx)->job, &ids[2]));
    fake_free(&ctx);
}

Test(queue, a_delayed_job_holds_back_its_conversation)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job delayed = talk("c", job_priority_NORMAL);
    struct muster_id later;

    agent_ready(ctx, "frontend", 2);
    delayed.not_before_ms = FAKE_START_MS + 30000;
    submit(ctx, &delayed, "caller/1", false);
    later = submit_talk(ctx, "c", job_priority_CRITICAL);
    cr_assert_null(started(ctx));
    fake_advance(ctx, 30000);
    cr_assert(muster_id_equal(&started(ctx)->job, &delayed.id));
    report_session(ctx, &delayed.id, 1, job_state_COMPLETED, "s-1");
    fake_commit_all(ctx);
    cr_assert(muster_id_equal(&started(ctx)->job, &later));
    fake_free(&ctx);
}

Test(queue, conversations_go_on_after_a_restart)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct muster_id first, second, third;
    const struct agent_run *run;

    agent_ready(ctx, "frontend", 2);
    first = submit_talk(ctx, "c", job_priority_LOW);
    report_session(ctx, &first, 1, job_state_COMPLETED, "s-5");
    fake_commit_all(ctx);
    second = submit_talk(ctx, "c", job_priority_LOW);
    third = submit_talk(ctx, "c", job_priority_CRITICAL);
    fake_forget(ctx);
    fake_restart(ctx);
    agent_ready(ctx, "frontend", 2);
    run = started(ctx);
    cr_assert(muster_id_equal(&run->job, &second), "it had begun");
    cr_assert_str_eq(run->session, "s-5", "of a job of a former life");
    cr_assert_null(started(ctx));
    report_session(ctx, &second, 2, job_state_FAILED, "s-6");
    fake_commit_all(ctx);
    fake_restart(ctx);
    agent_ready(ctx, "frontend", 2);
    cr_assert_null(started(ctx), "it waits for its retry, and the other for it");
    fake_advance(ctx, 1500);
    run = started(ctx);
    cr_assert(muster_id_equal(&run->job, &second));
    cr_assert_str_eq(run->session, "s-6", "its own");
    report_session(ctx, &second, 3, job_state_COMPLETED, "s-6");
    fake_commit_all(ctx);
    cr_assert(muster_id_equal(&started(ctx)->job, &third));
    fake_free(&ctx);
}

Test(queue, a_session_is_found_behind_the_jobs_that_wait_for_it)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    const struct agent_run *run;
    struct muster_id first;
    int i;

    agent_ready(ctx, "frontend", 2);
    first = submit_talk(ctx, "c", job_priority_NORMAL);
    report_session(ctx, &first, 1, job_state_COMPLETED, "s-5");
    fake_commit_all(ctx);
    pause_team(ctx, "frontend", true);
    fake_commit_all(ctx);
    for (i = 0; i < 200; i++)
        submit_talk(ctx, "c", job_priority_NORMAL);
    fake_restart(ctx);
    fake_forget(ctx);
    agent_ready(ctx, "frontend", 2);
    pause_team(ctx, "frontend", false);
    fake_commit_all(ctx);
    run = started(ctx);
    cr_assert_str_eq(run->session, "s-5");
    cr_assert_null(started(ctx));
    fake_free(&ctx);
}

Test(queue, a_session_of_another_team_is_not_taken)
{
    struct muster_ctx *ctx = queue_with(TEAMS);
    struct job old = job_for("backend", job_priority_NORMAL);
    const struct agent_run *run;

    old.conversation = "c";
    old.state = job_state_COMPLETED;
    old.session = "s-b";
    fake_put(ctx, &job_type, &old);
    agent_ready(ctx, "frontend", 2);
    submit_talk(ctx, "c", job_priority_NORMAL);
    run = started(ctx);
    cr_assert(run->session == NULL || *run->session == '\0');
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
