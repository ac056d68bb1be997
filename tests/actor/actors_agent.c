/* SPDX-License-Identifier: MPL-2.0 */
/* The agent actor on a virtual clock: with the echo driver, and with a child that the test plays. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "actors/muster_snapshots.h"
#include "schemas/muster_options.h"
#include "tests/actor/fake/fake_ctx.h"

#define ADDRESS "agent/backend"
#define READY                                                                                                          \
    "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"request_id\":\"muster-initialize\"}}"
#define INIT "{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s-1\"}"
#define RESULT                                                                                                         \
    "{\"type\":\"result\",\"is_error\":false,\"result\":\"done\",\"session_id\":\"s-1\",\"total_cost_usd\":0.5,"       \
    "\"usage\":{\"input_tokens\":3,\"output_tokens\":4},\"num_turns\":1}"
#define ABORTED                                                                                                        \
    "{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"is_error\":true,\"terminal_reason\":"               \
    "\"aborted_streaming\",\"errors\":[\"x\"],\"session_id\":\"s-1\"}"

/* What entries of the journal say of job 1. */
#define OF_JOB_1 "message_id=msg_00000000-0000-0000-0000-000000000001 request_id=req-1"

#define ECHO "teams:\n  backend:\n    driver: echo\n"
#define CLAUDE "teams:\n  backend:\n    driver: claude\n    directory: /tmp\n"

static struct muster_ctx *
start(const char *yaml)
{
    struct muster_ctx *ctx = fake_new(yaml);
    const struct team_options *team = muster_team_options(muster_ctx_options(ctx), "backend");

    cr_assert_eq(fake_start(ctx, &muster_agent_class, ADDRESS, team), MUSTER_OK);
    return ctx;
}

static struct muster_id
job(int number)
{
    struct muster_id id = {{0}};

    id.bytes[15] = (uint8_t)number;
    return id;
}

static void
run_attempt(struct muster_ctx *ctx, int number, int64_t attempt, const char *prompt, const char *session)
{
    struct agent_run run = {.job = job(number),
                            .attempt = attempt,
                            .prompt = prompt,
                            .session = session,
                            .timeout_ms = 3600000,
                            .trace = "req-1"};

    cr_assert_eq(fake_deliver(ctx, NULL, &agent_run_type, &run), MUSTER_OK);
}

/* A job of a caller's conversation. */
static void
run_in(struct muster_ctx *ctx, int number, const char *conversation, const char *prompt, const char *session)
{
    struct agent_run run = {.job = job(number),
                            .attempt = 1,
                            .prompt = prompt,
                            .session = session,
                            .timeout_ms = 3600000,
                            .trace = "req-1",
                            .conversation = conversation};

    cr_assert_eq(fake_deliver(ctx, NULL, &agent_run_type, &run), MUSTER_OK);
}

static void
run(struct muster_ctx *ctx, int number, const char *prompt)
{
    run_attempt(ctx, number, 1, prompt, "");
}

static void
cancel(struct muster_ctx *ctx, int number, bool park)
{
    struct agent_cancel message = {.job = job(number), .attempt = 1, .park = park};

    cr_assert_eq(fake_deliver(ctx, NULL, &agent_cancel_type, &message), MUSTER_OK);
}

/* The next report; NULL: none was sent. */
static const struct queue_report *
report(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &log_report_type);

    if (!sent)
        return NULL;
    cr_assert_str_eq(sent->to, MUSTER_LOG);
    return ((const struct log_report *)sent->body)->report;
}

static const struct queue_report *
report_of(struct muster_ctx *ctx, int number, enum job_state state, muster_err err)
{
    const struct queue_report *got = report(ctx);
    struct muster_id id = job(number);

    cr_assert_not_null(got);
    cr_assert(muster_id_equal(&got->job, &id));
    cr_assert_eq(got->state, state, "%s", got->message ? got->message : "");
    cr_assert_str_eq(got->code ? got->code : "", err ? muster_err_code(err) : "");
    return got;
}

/* Names of the events of all log.append messages not taken yet, agent.process left out: "job.started job.chunk". */
static void
events(struct muster_ctx *ctx, char *out, size_t size)
{
    const struct fake_sent *sent;
    const struct log_append *append;
    size_t i, used = 0;

    *out = '\0';
    while ((sent = fake_take_type(ctx, &log_append_type))) {
        append = sent->body;
        for (i = 0; i < append->entries.count; i++) {
            cr_assert_str_eq(append->entries.items[i].team, "backend");
            if (!strcmp(append->entries.items[i].type, agent_process_type.wire))
                continue;
            cr_assert_str_eq(append->entries.items[i].trace, "req-1");
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? " " : "", append->entries.items[i].type);
        }
    }
}

/* ---- with the echo driver -------------------------------------------------------------------------------------------
 */

Test(agent, tells_the_queue_that_it_is_ready)
{
    struct muster_ctx *ctx = start("teams:\n  backend:\n    concurrency: 3\n");
    const struct fake_sent *sent = fake_take_to(ctx, MUSTER_QUEUE);
    const struct queue_ready *ready = sent->body;

    cr_assert_eq(sent->type, &queue_ready_type);
    cr_assert_str_eq(ready->team, "backend");
    cr_assert_str_eq(ready->address, ADDRESS);
    cr_assert_eq(ready->capacity, 3);
    fake_free(&ctx);
}

Test(agent, tells_it_again_when_the_queue_was_not_there)
{
    struct muster_ctx *ctx = fake_new(ECHO);

    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_NOT_FOUND);
    cr_assert_eq(fake_start(ctx, &muster_agent_class, ADDRESS, muster_team_options(muster_ctx_options(ctx), "backend")),
                 MUSTER_OK);
    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_OK);
    fake_forget(ctx);
    fake_advance(ctx, 1000);
    cr_assert_not_null(fake_take_type(ctx, &queue_ready_type));
    fake_free(&ctx);
}

Test(agent, reports_behind_what_was_said)
{
    struct muster_ctx *ctx = start(ECHO);
    const struct queue_report *got;
    const struct fake_sent *sent;
    char text[512];

    fake_forget(ctx);
    run(ctx, 1, "@tool=Read:{\"file_path\":\"a.c\"} @tool=Read:{\"file_path\":\"b.c\"} @cost=0.5 hello");
    sent = fake_take(ctx);
    cr_assert_eq(sent->type, &log_append_type);
    got = report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    cr_assert_str_eq(got->result, "hello");
    cr_assert_eq(got->attempt, 1);
    cr_assert_eq(got->tools.count, 1);
    cr_assert_str_eq(got->tools.items[0], "Read");
    cr_assert_eq(got->files.count, 2);
    cr_assert_float_eq(got->usage->cost_usd, 0.5, 1e-9);
    fake_forget(ctx);
    run(ctx, 2, "@tool=X hello");
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.tool_use job.chunk job.usage");
    fake_free(&ctx);
}

/* An attempt whose begin is not on disk yet. */
static void
run_unwritten(struct muster_ctx *ctx, int number, const char *prompt)
{
    struct agent_run message = {
        .job = job(number), .attempt = 1, .prompt = prompt, .timeout_ms = 3600000, .trace = "req-1", .unwritten = true};

    cr_assert_eq(fake_deliver(ctx, NULL, &agent_run_type, &message), MUSTER_OK);
}

static void
written(struct muster_ctx *ctx, int number, int64_t attempt)
{
    struct agent_written message = {.job = job(number), .attempt = attempt};

    cr_assert_eq(fake_deliver(ctx, NULL, &agent_written_type, &message), MUSTER_OK);
}

Test(agent, tells_nothing_of_an_attempt_before_its_begin_is_on_disk)
{
    struct muster_ctx *ctx = start(ECHO "    concurrency: 2\n");
    char text[512];

    run_unwritten(ctx, 1, "@chunks=2 @gap=5ms ab");
    fake_advance(ctx, 100);
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "", "not even that it has started");
    cr_assert_null(report(ctx));
    run(ctx, 2, "other");
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk job.usage", "another job's are not held up");
    report_of(ctx, 2, job_state_COMPLETED, MUSTER_OK);
    cr_assert_null(report(ctx));
    written(ctx, 1, 2);
    cr_assert_null(report(ctx), "that was another attempt");
    written(ctx, 1, 1);
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk job.chunk job.usage", "all of it in its order");
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    cr_assert_null(report(ctx));
    fake_free(&ctx);
}

Test(agent, tells_at_once_what_comes_after_the_begin_is_on_disk)
{
    struct muster_ctx *ctx = start(ECHO);
    char text[512];

    run_unwritten(ctx, 1, "@chunks=2 @gap=50ms ab");
    written(ctx, 1, 1);
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk");
    fake_advance(ctx, 50);
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.chunk job.usage");
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    written(ctx, 1, 1); /* of an attempt that is over */
    fake_free(&ctx);
}

Test(agent, reports_a_cancelled_attempt_when_its_begin_is_on_disk)
{
    struct muster_ctx *ctx = start(ECHO);

    run_unwritten(ctx, 1, "@hang");
    cancel(ctx, 1, false);
    fake_advance(ctx, 100);
    cr_assert_null(report(ctx));
    written(ctx, 1, 1);
    report_of(ctx, 1, job_state_CANCELLED, MUSTER_OK);
    fake_free(&ctx);
}

Test(agent, joins_chunks_of_one_round)
{
    struct muster_ctx *ctx = start(ECHO);
    char text[512];

    run(ctx, 1, "@chunks=50 @size=1000");
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk job.usage");
    run(ctx, 2, "@chunks=2 @gap=5ms ab");
    fake_advance(ctx, 10);
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk job.chunk job.usage");
    run(ctx, 3, "@size=1MiB @chunks=4");
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk job.chunk job.chunk job.chunk job.usage");
    fake_free(&ctx);
}

Test(agent, does_no_more_jobs_at_a_time_than_it_may)
{
    struct muster_ctx *ctx = start(ECHO "    concurrency: 2\n");

    run(ctx, 1, "@delay=10ms a");
    run(ctx, 2, "@delay=20ms b");
    run(ctx, 3, "c");
    cr_assert_null(report(ctx));
    fake_advance(ctx, 10);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    report_of(ctx, 3, job_state_COMPLETED, MUSTER_OK);
    cr_assert_null(report(ctx));
    fake_advance(ctx, 10);
    report_of(ctx, 2, job_state_COMPLETED, MUSTER_OK);
    fake_free(&ctx);
}

Test(agent, an_attempt_told_twice_is_done_once)
{
    struct muster_ctx *ctx = start(ECHO);

    run(ctx, 1, "@delay=10ms a");
    run(ctx, 1, "@delay=10ms a");
    fake_advance(ctx, 100);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    cr_assert_null(report(ctx));
    fake_free(&ctx);
}

Test(agent, cancels_what_runs_and_what_waits)
{
    struct muster_ctx *ctx = start(ECHO);

    run(ctx, 1, "@hang a");
    run(ctx, 2, "b");
    cancel(ctx, 2, false);
    report_of(ctx, 2, job_state_CANCELLED, MUSTER_OK);
    cancel(ctx, 1, false);
    report_of(ctx, 1, job_state_CANCELLED, MUSTER_OK);
    cancel(ctx, 1, false);
    cancel(ctx, 9, false);
    cr_assert_null(report(ctx));
    run(ctx, 3, "still there");
    report_of(ctx, 3, job_state_COMPLETED, MUSTER_OK);
    fake_free(&ctx);
}

Test(agent, parks_what_runs)
{
    struct muster_ctx *ctx = start(ECHO);

    run(ctx, 1, "@hang a");
    cancel(ctx, 1, true);
    report_of(ctx, 1, job_state_PARKED, MUSTER_OK);
    fake_free(&ctx);
}

Test(agent, reports_failures_with_their_code)
{
    struct muster_ctx *ctx = start(ECHO);
    const struct muster_agent_view *view;

    run(ctx, 1, "@fail=MODEL_OVERLOADED x");
    report_of(ctx, 1, job_state_FAILED, MUSTER_MODEL_OVERLOADED);
    view = fake_board(ctx, ADDRESS);
    cr_assert_str_eq(view->problem, muster_err_text(MUSTER_MODEL_OVERLOADED));
    cr_assert_eq(view->problem_ms, FAKE_START_MS);
    fake_free(&ctx);
}

Test(agent, ends_an_attempt_at_its_time_limit)
{
    struct muster_ctx *ctx = start(ECHO);
    struct agent_run in = {.job = job(1), .attempt = 1, .prompt = "@hang x", .timeout_ms = 500, .trace = "req-1"};

    cr_assert_eq(fake_deliver(ctx, NULL, &agent_run_type, &in), MUSTER_OK);
    fake_advance(ctx, 499);
    cr_assert_null(report(ctx));
    fake_advance(ctx, 1);
    report_of(ctx, 1, job_state_FAILED, MUSTER_TIMEOUT);
    fake_free(&ctx);
}

Test(agent, ends_an_attempt_that_says_nothing)
{
    struct muster_ctx *ctx = start(ECHO "    silence_timeout: 1s\n");

    run(ctx, 1, "@gap=900ms @chunks=3 abc");
    fake_advance(ctx, 5000);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    run(ctx, 2, "@hang x");
    fake_advance(ctx, 999);
    cr_assert_null(report(ctx));
    fake_advance(ctx, 1);
    report_of(ctx, 2, job_state_FAILED, MUSTER_AGENT_HUNG);
    cr_assert_eq(fake_said(ctx, "agent-hang"), 1);
    fake_free(&ctx);
}

Test(agent, an_answer_may_be_too_large)
{
    struct muster_ctx *ctx = start("agents:\n  max_answer: 1KiB\n" ECHO);

    run(ctx, 1, "@size=1024");
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    run(ctx, 2, "@size=1025");
    report_of(ctx, 2, job_state_FAILED, MUSTER_OUTPUT_TOO_LARGE);
    fake_free(&ctx);
}

Test(agent, keeps_its_order_while_the_log_is_full)
{
    struct muster_ctx *ctx = start(ECHO);
    char text[512];

    fake_forget(ctx);
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    run(ctx, 1, "one");
    run(ctx, 2, "two");
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OK);
    fake_advance(ctx, 100);
    cr_assert_eq(fake_take(ctx)->type, &log_append_type);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk job.usage");
    report_of(ctx, 2, job_state_COMPLETED, MUSTER_OK);
    fake_free(&ctx);
}

Test(agent, drops_events_but_no_report_when_the_log_stays_full)
{
    struct muster_ctx *ctx = start(ECHO);
    char text[8192];
    int i;

    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    for (i = 1; i <= 20; i++)
        run(ctx, i, "@size=2MiB");
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OK);
    fake_advance(ctx, 100);
    cr_assert_eq(fake_said(ctx, "agent-log-full"), 1);
    for (i = 1; i <= 20; i++)
        cr_assert_eq(strlen(report_of(ctx, i, job_state_COMPLETED, MUSTER_OK)->result), 2u << 20);
    events(ctx, text, sizeof(text));
    cr_assert_not_null(strstr(text, "job.chunk"));
    fake_free(&ctx);
}

Test(agent, starts_with_nothing_after_a_crash)
{
    struct muster_ctx *ctx = start(ECHO);

    run(ctx, 1, "@hang x");
    run(ctx, 2, "waits");
    fake_forget(ctx);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_not_null(fake_take_type(ctx, &queue_ready_type));
    fake_advance(ctx, 1000);
    cr_assert_null(report(ctx));
    run(ctx, 3, "x");
    report_of(ctx, 3, job_state_COMPLETED, MUSTER_OK);
    fake_free(&ctx);
}

Test(agent, shows_how_far_a_job_is_until_it_ends)
{
    struct muster_ctx *ctx = start(ECHO);
    const struct muster_agent_view *view;
    struct muster_id first = job(1);
    char text[512];

    run(ctx, 1, "@progress=2/5 @progress=3/5 @chunks=3 @gap=5ms abc");
    view = fake_board(ctx, ADDRESS);
    cr_assert(muster_id_equal(&view->processes[0].job, &first));
    cr_assert_eq(view->processes[0].current, 2);
    cr_assert_eq(view->processes[0].total, 5);
    fake_advance(ctx, 5);
    view = fake_board(ctx, ADDRESS);
    cr_assert_eq(view->processes[0].current, 3);
    fake_advance(ctx, 5);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    view = fake_board(ctx, ADDRESS);
    cr_assert(muster_id_is_zero(&view->processes[0].job));
    cr_assert_eq(view->processes[0].total, 0);
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk job.progress job.chunk job.progress job.chunk job.usage");
    run(ctx, 2, "@hang next");
    view = fake_board(ctx, ADDRESS);
    cr_assert_eq(view->processes[0].job.bytes[15], 2);
    cr_assert_eq(view->processes[0].total, 0);
    fake_free(&ctx);
}

Test(agent, conversations_mean_nothing_to_a_driver_without_sessions)
{
    struct muster_ctx *ctx = start(ECHO);
    const struct muster_agent_view *view;

    run_in(ctx, 1, "conv-a", "a", "s-a");
    cr_assert_null(report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK)->session);
    run_in(ctx, 2, "conv-b", "b", NULL);
    report_of(ctx, 2, job_state_COMPLETED, MUSTER_OK);
    run(ctx, 3, "c");
    report_of(ctx, 3, job_state_COMPLETED, MUSTER_OK);
    view = fake_board(ctx, ADDRESS);
    cr_assert_eq(view->processes[0].turns, 3, "one lane has done them all");
    fake_free(&ctx);
}

/* ---- with a child ---------------------------------------------------------------------------------------------------
 */

/* A claude in the turn of job 1. */
static struct muster_child *
begun(struct muster_ctx *ctx)
{
    struct muster_child *child;

    run(ctx, 1, "do it");
    cr_assert_eq(fake_child_count(ctx), 1);
    child = fake_child_at(ctx, 0);
    fake_child_line(child, READY);
    fake_child_input_clear(child);
    fake_child_line(child, INIT);
    return child;
}

static bool
has_variable(const struct muster_child *child, const char *variable)
{
    const char *const *env = fake_child_spec(child)->env;

    for (; *env; env++)
        if (!strncmp(*env, variable, strlen(variable)))
            return true;
    return false;
}

Test(agent, gives_its_process_only_what_it_may_see)
{
    struct muster_ctx *ctx;
    struct muster_child *child;
    char mark[64];

    setenv("SECRET_OF_THE_DAEMON", "1", 1);
    setenv("CLAUDECODE", "1", 1);
    setenv("CLAUDE_CODE_ENTRYPOINT", "cli", 1);
    setenv("PASSED", "yes", 1);
    ctx = start("agents:\n  pass_env: [PATH, PASSED, CLAUDECODE, CLAUDE_CODE_ENTRYPOINT, UNSET_VARIABLE]\n" CLAUDE
                "    env: {CLAUDE_CODE_MAX_RETRIES: '9', OWN: 'a=b'}\n");
    child = begun(ctx);
    cr_assert(has_variable(child, "PATH="));
    cr_assert(has_variable(child, "PASSED=yes"));
    cr_assert(has_variable(child, "DISABLE_AUTOUPDATER=1"));
    cr_assert(has_variable(child, "CLAUDE_CODE_MAX_RETRIES=9"));
    cr_assert_not(has_variable(child, "CLAUDE_CODE_MAX_RETRIES=3"));
    cr_assert(has_variable(child, "OWN=a=b"));
    cr_assert_not(has_variable(child, "SECRET"));
    cr_assert_not(has_variable(child, "CLAUDECODE"));
    cr_assert_not(has_variable(child, "CLAUDE_CODE_ENTRYPOINT"));
    cr_assert_not(has_variable(child, "UNSET"));
    snprintf(mark, sizeof(mark), "%s.backend.1", muster_store_mark(muster_ctx_store(ctx)));
    cr_assert_str_eq(fake_child_spec(child)->mark, mark);
    cr_assert_str_eq(fake_child_spec(child)->directory, "/tmp");
    fake_free(&ctx);
}

Test(agent, only_the_driver_that_needs_them_gets_the_models_credentials)
{
    static const char *const names[] = {
        "ANTHROPIC_API_KEY=", "ANTHROPIC_AUTH_TOKEN=",    "ANTHROPIC_BASE_URL=",      "ANTHROPIC_MODEL=",
        "CLAUDE_CONFIG_DIR=", "CLAUDE_CODE_OAUTH_TOKEN=", "CLAUDE_CODE_USE_BEDROCK=", "CLAUDE_CODE_USE_VERTEX="};
    size_t count = sizeof(names) / sizeof(names[0]), i;
    struct muster_ctx *ctx;
    char name[64];

    for (i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%.*s", (int)strlen(names[i]) - 1, names[i]);
        setenv(name, "of the daemon", 1);
    }
    ctx = start(CLAUDE "    env: {ANTHROPIC_MODEL: of the team}\n");
    run(ctx, 1, "x");
    for (i = 0; i < count; i++)
        cr_assert(has_variable(fake_child_at(ctx, 0), names[i]), "%s", names[i]);
    cr_assert(has_variable(fake_child_at(ctx, 0), "ANTHROPIC_MODEL=of the team"));
    fake_free(&ctx);
    ctx = start("teams:\n  backend:\n    driver: command\n    directory: /tmp\n    command: [env]\n");
    run(ctx, 1, "x");
    cr_assert(has_variable(fake_child_at(ctx, 0), "PATH="));
    for (i = 0; i < count; i++)
        cr_assert_not(has_variable(fake_child_at(ctx, 0), names[i]), "%s", names[i]);
    fake_free(&ctx);
}

Test(agent, keeps_a_process_warm_for_the_next_job)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);
    const struct muster_agent_view *view;
    const struct queue_report *got;

    view = fake_board(ctx, ADDRESS);
    cr_assert_eq(view->processes[0].state, process_state_BUSY);
    fake_child_line(child, RESULT);
    got = report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    cr_assert_str_eq(got->session, "s-1");
    cr_assert_str_eq(got->result, "done");
    cr_assert_eq(got->usage->input_tokens, 3);
    view = fake_board(ctx, ADDRESS);
    cr_assert_eq(view->count, 1);
    cr_assert_eq(view->processes[0].state, process_state_IDLE);
    cr_assert_eq(view->processes[0].turns, 1);
    cr_assert_gt(view->processes[0].pid, 0);
    cr_assert_str_eq(view->processes[0].session, "s-1");
    run(ctx, 2, "and this");
    cr_assert_eq(fake_child_count(ctx), 1);
    cr_assert_not_null(strstr(fake_child_input(child), "and this"));
    fake_free(&ctx);
}

/* The session that the process was started with; "" none. */
static const char *
resumes(const struct muster_child *child)
{
    const char *const *argv = fake_child_spec(child)->argv;

    while (*argv && strcmp(*argv, "--resume"))
        argv++;
    return *argv ? argv[1] : "";
}

#define PAIR CLAUDE "    concurrency: 2\n"

/* The last process that was started begins its turn, in `session`. */
static struct muster_child *
newest_begins(struct muster_ctx *ctx, const char *session)
{
    struct muster_child *child = fake_child_at(ctx, fake_child_count(ctx) - 1);
    char text[256];

    snprintf(text, sizeof(text), "{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"%s\"}", session);
    fake_child_line(child, READY);
    fake_child_line(child, text);
    return child;
}

/* The process ends the turn of job `number`, in `session`, which the report says. */
static void
ends(struct muster_ctx *ctx, struct muster_child *child, int number, const char *session)
{
    char text[256];

    snprintf(text, sizeof(text), "{\"type\":\"result\",\"is_error\":false,\"result\":\"done\",\"session_id\":\"%s\"}",
             session);
    fake_child_input_clear(child);
    fake_child_line(child, text);
    cr_assert_str_eq(report_of(ctx, number, job_state_COMPLETED, MUSTER_OK)->session, session);
}

Test(agent, stops_an_idle_process_and_resumes_its_session)
{
    struct muster_ctx *ctx = start(CLAUDE "    idle_stop: 1m\n");
    struct muster_child *child = begun(ctx);
    const char *const *argv;

    fake_child_line(child, RESULT);
    fake_advance(ctx, 60000);
    cr_assert(fake_child_input_closed(child));
    fake_child_exit(child, 0);
    cr_assert(fake_child_freed(child));
    cr_assert_eq(((const struct muster_agent_view *)fake_board(ctx, ADDRESS))->count, 0);
    cr_assert_eq(fake_said(ctx, "agent-crash"), 0);
    run_attempt(ctx, 2, 1, "go on", NULL);
    cr_assert_eq(fake_child_count(ctx), 2);
    for (argv = fake_child_spec(fake_child_at(ctx, 1))->argv; *argv && strcmp(*argv, "--resume"); argv++) {
    }
    cr_assert_str_eq(argv[1], "s-1");
    fake_free(&ctx);
}

Test(agent, a_sleeping_session_is_not_started_twice)
{
    struct muster_ctx *ctx = start(CLAUDE "    idle_stop: 1m\n    concurrency: 2\n");
    const char *const *argv;

    fake_child_line(begun(ctx), RESULT);
    fake_advance(ctx, 60000);
    fake_child_exit(fake_child_at(ctx, 0), 0);
    run_attempt(ctx, 2, 1, "any", NULL);
    run_attempt(ctx, 3, 1, "mine", "s-1");
    cr_assert_eq(fake_child_count(ctx), 2, "the second waits for the process of its session");
    run_attempt(ctx, 4, 1, "another", NULL);
    cr_assert_eq(fake_child_count(ctx), 3);
    for (argv = fake_child_spec(fake_child_at(ctx, 2))->argv; *argv; argv++)
        cr_assert_str_neq(*argv, "--resume");
    fake_free(&ctx);
}

Test(agent, a_session_goes_to_its_own_process_only)
{
    struct muster_ctx *ctx = start(CLAUDE "    concurrency: 2\n");
    struct muster_child *first = begun(ctx), *second;

    fake_child_line(first, RESULT);
    run_attempt(ctx, 2, 1, "other", "s-2");
    cr_assert_eq(fake_child_count(ctx), 2);
    second = fake_child_at(ctx, 1);
    fake_child_line(second, READY);
    run_attempt(ctx, 3, 1, "same", "s-2");
    cr_assert_null(strstr(fake_child_input(second), "same"));
    cr_assert_not(fake_child_input_closed(first));
    fake_child_line(second, "{\"type\":\"result\",\"is_error\":false,\"result\":\"x\",\"session_id\":\"s-2\"}");
    cr_assert_not_null(strstr(fake_child_input(second), "same"));
    cr_assert_null(strstr(fake_child_input(first), "same"));
    fake_free(&ctx);
}

Test(agent, an_idle_process_makes_room_for_another_session)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);

    fake_child_line(child, RESULT);
    run_attempt(ctx, 2, 1, "other", "s-2");
    cr_assert(fake_child_input_closed(child));
    cr_assert_eq(fake_child_count(ctx), 1);
    fake_child_exit(child, 0);
    cr_assert_eq(fake_child_count(ctx), 2);
    fake_child_line(fake_child_at(ctx, 1), READY);
    cr_assert_not_null(strstr(fake_child_input(fake_child_at(ctx, 1)), "other"));
    fake_free(&ctx);
}

/* ---- conversations --------------------------------------------------------------------------------------------------
 */

Test(agent, two_conversations_have_a_process_each)
{
    struct muster_ctx *ctx = start(PAIR);
    struct muster_child *a, *b;

    run_in(ctx, 1, "conv-a", "one", NULL);
    a = newest_begins(ctx, "s-a");
    run_in(ctx, 2, "conv-b", "two", NULL);
    cr_assert_eq(fake_child_count(ctx), 2);
    b = newest_begins(ctx, "s-b");
    cr_assert_str_eq(resumes(a), "");
    cr_assert_str_eq(resumes(b), "");
    ends(ctx, a, 1, "s-a");
    ends(ctx, b, 2, "s-b");
    run_in(ctx, 3, "conv-a", "three", "s-a");
    cr_assert_not_null(strstr(fake_child_input(a), "\"three\""));
    run_in(ctx, 4, "conv-b", "four", NULL);
    cr_assert_not_null(strstr(fake_child_input(b), "\"four\""), "also when the queue knows no session");
    cr_assert_eq(fake_child_count(ctx), 2);
    fake_free(&ctx);
}

Test(agent, a_conversation_never_has_two_processes)
{
    struct muster_ctx *ctx = start(PAIR);
    struct muster_child *a;

    run_in(ctx, 1, "conv-a", "one", NULL);
    run_in(ctx, 2, "conv-a", "two", NULL);
    cr_assert_eq(fake_child_count(ctx), 1);
    a = newest_begins(ctx, "s-a");
    ends(ctx, a, 1, "s-a");
    cr_assert_not_null(strstr(fake_child_input(a), "\"two\""));
    cr_assert_eq(fake_child_count(ctx), 1);
    fake_free(&ctx);
}

Test(agent, conversations_take_turns_on_one_lane)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child;

    run_in(ctx, 1, "conv-a", "one", NULL);
    child = newest_begins(ctx, "s-a");
    run_in(ctx, 2, "conv-b", "two", NULL);
    cr_assert_not(fake_child_input_closed(child), "it is busy");
    ends(ctx, child, 1, "s-a");
    cr_assert(fake_child_input_closed(child));
    cr_assert_eq(fake_child_count(ctx), 1);
    fake_child_exit(child, 0);
    child = newest_begins(ctx, "s-b");
    cr_assert_str_eq(resumes(child), "");
    cr_assert_not_null(strstr(fake_child_input(child), "\"two\""));
    ends(ctx, child, 2, "s-b");
    run_in(ctx, 3, "conv-a", "three", "s-a");
    fake_child_exit(child, 0);
    cr_assert_eq(fake_child_count(ctx), 3);
    cr_assert_str_eq(resumes(fake_child_at(ctx, 2)), "s-a");
    fake_free(&ctx);
}

Test(agent, the_teams_own_jobs_and_those_of_conversations_do_not_mix)
{
    struct muster_ctx *ctx = start(PAIR);
    struct muster_child *own, *a;

    own = begun(ctx);
    fake_child_line(own, RESULT);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    run_in(ctx, 2, "conv-a", "two", NULL);
    cr_assert_eq(fake_child_count(ctx), 2, "the idle process is the team's own");
    a = newest_begins(ctx, "s-a");
    ends(ctx, a, 2, "s-a");
    run(ctx, 3, "three");
    cr_assert_not_null(strstr(fake_child_input(own), "\"three\""));
    run(ctx, 4, "four");
    cr_assert_null(strstr(fake_child_input(a), "\"four\""));
    cr_assert(fake_child_input_closed(a));
    fake_child_exit(a, 0);
    cr_assert_eq(fake_child_count(ctx), 3);
    cr_assert_str_eq(resumes(fake_child_at(ctx, 2)), "", "what is left of the conversation is not the team's");
    fake_free(&ctx);
}

Test(agent, the_teams_own_conversation_outlives_one_that_takes_its_place)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);

    fake_child_line(child, RESULT);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    run_in(ctx, 2, "conv-a", "two", NULL);
    fake_child_exit(child, 0);
    child = newest_begins(ctx, "s-a");
    cr_assert_str_eq(resumes(child), "");
    ends(ctx, child, 2, "s-a");
    run(ctx, 3, "three");
    fake_child_exit(child, 0);
    cr_assert_str_eq(resumes(fake_child_at(ctx, 2)), "s-1");
    fake_free(&ctx);
}

Test(agent, the_process_that_is_idle_longest_makes_room)
{
    struct muster_ctx *ctx = start(PAIR);
    struct muster_child *a, *b;

    run_in(ctx, 1, "conv-a", "one", NULL);
    a = newest_begins(ctx, "s-a");
    run_in(ctx, 2, "conv-b", "two", NULL);
    b = newest_begins(ctx, "s-b");
    ends(ctx, b, 2, "s-b");
    fake_advance(ctx, 1000);
    ends(ctx, a, 1, "s-a");
    run_in(ctx, 3, "conv-c", "three", NULL);
    cr_assert(fake_child_input_closed(b));
    cr_assert_not(fake_child_input_closed(a));
    fake_free(&ctx);
}

Test(agent, a_process_that_another_job_waits_for_is_not_ended_to_make_room)
{
    struct muster_ctx *ctx = start(PAIR);
    struct muster_child *a, *b;

    run_in(ctx, 1, "conv-a", "one", NULL);
    a = newest_begins(ctx, "s-a");
    ends(ctx, a, 1, "s-a");
    fake_advance(ctx, 1000);
    run_in(ctx, 2, "conv-b", "two", NULL);
    b = newest_begins(ctx, "s-b");
    ends(ctx, b, 2, "s-b");
    fake_batch_begin(ctx); /* both are there before any of them is looked at */
    run_in(ctx, 3, "conv-c", "three", NULL);
    run_in(ctx, 4, "conv-a", "four", NULL);
    fake_batch_end(ctx);
    cr_assert(fake_child_input_closed(b));
    cr_assert_not_null(strstr(fake_child_input(a), "\"four\""));
    fake_free(&ctx);
}

Test(agent, a_stopped_conversation_is_resumed_where_the_queue_says)
{
    struct muster_ctx *ctx = start(CLAUDE "    idle_stop: 1m\n");
    struct muster_child *child;

    run_in(ctx, 1, "conv-a", "one", NULL);
    child = newest_begins(ctx, "s-a");
    ends(ctx, child, 1, "s-a");
    fake_advance(ctx, 60000);
    fake_child_exit(child, 0);
    run_in(ctx, 2, "conv-b", "two", "s-old");
    child = newest_begins(ctx, "s-old");
    cr_assert_str_eq(resumes(child), "s-old", "as after a restart of the daemon");
    ends(ctx, child, 2, "s-old");
    fake_advance(ctx, 60000);
    fake_child_exit(child, 0);
    run_in(ctx, 3, "conv-a", "three", NULL);
    cr_assert_str_eq(resumes(newest_begins(ctx, "s-a")), "s-a", "the agent still knows it");
    fake_free(&ctx);
}

Test(agent, a_report_has_the_session_that_the_turn_ended_in)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child;

    run_in(ctx, 1, "conv-a", "/clear", "s-a");
    child = newest_begins(ctx, "s-a");
    ends(ctx, child, 1, "s-cleared");
    run_in(ctx, 2, "conv-a", "two", "s-cleared");
    cancel(ctx, 2, false);
    fake_child_line(child, "{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"is_error\":true,"
                           "\"terminal_reason\":\"aborted_streaming\",\"session_id\":\"s-cleared\"}");
    cr_assert_str_eq(report_of(ctx, 2, job_state_CANCELLED, MUSTER_OK)->session, "s-cleared");
    run_in(ctx, 3, "conv-a", "three", "s-cleared");
    fake_child_line(child, "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":true,\"api_error_status\":529,"
                           "\"session_id\":\"s-cleared\"}");
    cr_assert_str_eq(report_of(ctx, 3, job_state_FAILED, MUSTER_MODEL_OVERLOADED)->session, "s-cleared");
    run_in(ctx, 4, "conv-b", "four", "s-b");
    cancel(ctx, 4, false);
    cr_assert_str_eq(report_of(ctx, 4, job_state_CANCELLED, MUSTER_OK)->session, "s-b", "also when it never began");
    fake_free(&ctx);
}

Test(agent, a_crash_in_a_conversation_is_resumed_there)
{
    struct muster_ctx *ctx = start(PAIR);
    struct muster_child *child;

    run_in(ctx, 1, "conv-a", "one", NULL);
    child = newest_begins(ctx, "s-a");
    fake_child_exit(child, 9);
    cr_assert_str_eq(report_of(ctx, 1, job_state_FAILED, MUSTER_PROCESS_ERROR)->session, "s-a");
    run(ctx, 2, "own");
    cr_assert_str_eq(resumes(newest_begins(ctx, "s-1")), "");
    run_in(ctx, 3, "conv-a", "again", "s-a");
    cr_assert_str_eq(resumes(newest_begins(ctx, "s-a")), "s-a");
    fake_free(&ctx);
}

Test(agent, a_job_without_a_session_leaves_the_process_that_a_retry_waits_for)
{
    struct muster_ctx *ctx = start(PAIR);
    struct muster_child *first = begun(ctx), *second;

    fake_child_line(first, RESULT);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    run_attempt(ctx, 2, 1, "two", "s-2");
    second = newest_begins(ctx, "s-2");
    run(ctx, 3, "three");
    cr_assert_not_null(strstr(fake_child_input(first), "\"three\""));
    run(ctx, 4, "four");
    run_attempt(ctx, 5, 2, "retry", "s-2");
    ends(ctx, second, 2, "s-2");
    cr_assert_not_null(strstr(fake_child_input(second), "\"retry\""));
    cr_assert_null(strstr(fake_child_input(second), "\"four\""));
    fake_child_line(first, RESULT);
    cr_assert_not_null(strstr(fake_child_input(first), "\"four\""));
    fake_free(&ctx);
}

Test(agent, a_job_without_a_session_leaves_the_session_that_a_retry_waits_for)
{
    struct muster_ctx *ctx = start(PAIR "    idle_stop: 1m\n");

    fake_child_line(begun(ctx), RESULT);
    fake_advance(ctx, 60000);
    fake_child_exit(fake_child_at(ctx, 0), 0);
    fake_batch_begin(ctx);
    run(ctx, 2, "any");
    run_attempt(ctx, 3, 2, "retry", "s-1");
    fake_batch_end(ctx);
    cr_assert_eq(fake_child_count(ctx), 3);
    cr_assert_str_eq(resumes(fake_child_at(ctx, 1)), "");
    cr_assert_str_eq(resumes(fake_child_at(ctx, 2)), "s-1");
    fake_free(&ctx);
}

Test(agent, a_session_that_goes_over_to_a_conversation_is_let_go_first)
{
    struct muster_ctx *ctx = start(PAIR);
    struct muster_child *child = begun(ctx);

    fake_child_line(child, RESULT);
    run_in(ctx, 2, "conv-a", "two", "s-1");
    cr_assert(fake_child_input_closed(child));
    cr_assert_eq(fake_child_count(ctx), 1);
    fake_child_exit(child, 0);
    cr_assert_str_eq(resumes(fake_child_at(ctx, 1)), "s-1");
    run(ctx, 3, "three");
    cr_assert_str_eq(resumes(fake_child_at(ctx, 2)), "", "it is no longer the team's");
    fake_free(&ctx);
}

Test(agent, many_stopped_conversations_do_not_push_out_the_teams_own)
{
    struct muster_ctx *ctx = start(CLAUDE "    idle_stop: 1s\n");
    struct muster_child *child = begun(ctx);
    char conversation[32], session[32];
    int i;

    fake_child_line(child, RESULT);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    for (i = 2; i < 50; i++) {
        fake_advance(ctx, 1000);
        fake_child_exit(child, 0);
        snprintf(conversation, sizeof(conversation), "conv-%d", i);
        snprintf(session, sizeof(session), "s-%d", i);
        run_in(ctx, i, conversation, "x", NULL);
        child = newest_begins(ctx, session);
        cr_assert_str_eq(resumes(child), "");
        ends(ctx, child, i, session);
    }
    fake_advance(ctx, 1000);
    fake_child_exit(child, 0);
    run(ctx, 50, "own");
    cr_assert_str_eq(resumes(newest_begins(ctx, "s-1")), "s-1");
    fake_free(&ctx);
}

/* ---- ends of processes ----------------------------------------------------------------------------------------------
 */

Test(agent, a_crash_fails_the_attempt_with_the_last_words)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);
    const struct queue_report *got;

    fake_child_words(child, "out of memory\n");
    fake_child_exit(child, 1 << 8);
    got = report_of(ctx, 1, job_state_FAILED, MUSTER_PROCESS_ERROR);
    cr_assert_str_eq(got->message, "claude exited with status 1: out of memory");
    cr_assert_str_eq(got->session, "s-1");
    cr_assert_not(got->final);
    cr_assert(fake_child_freed(child));
    cr_assert_eq(fake_said(ctx, "agent-crash"), 1);
    cr_assert(fake_said_text(ctx, OF_JOB_1));
    fake_free(&ctx);
}

#define UNKNOWN                                                                                                        \
    "{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"is_error\":true,\"num_turns\":0,\"session_id\":"    \
    "\"s-9\",\"errors\":[\"No conversation found with session ID: s-9\"]}"

/* Job 1 is done by a process that was started without a session; its answer is reported with the new one. */
static void
is_done_in_a_new_session(struct muster_ctx *ctx)
{
    struct muster_child *child = fake_child_at(ctx, 1);
    char text[512];

    cr_assert_eq(fake_child_count(ctx), 2);
    cr_assert_null(report(ctx));
    cr_assert_str_eq(resumes(child), "");
    cr_assert_eq(fake_said(ctx, "agent-session-lost"), 1);
    fake_child_line(child, READY);
    cr_assert_not_null(strstr(fake_child_input(child), "\"go on\""));
    fake_child_line(child, INIT);
    fake_child_line(child, RESULT);
    cr_assert_str_eq(report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK)->session, "s-1");
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.notice job.usage");
    cr_assert_null(report(ctx));
}

Test(agent, a_turn_whose_session_is_unknown_is_done_in_a_new_one)
{
    struct muster_ctx *ctx = start(CLAUDE);

    run_in(ctx, 1, "conv-a", "go on", "s-9");
    cr_assert_str_eq(resumes(fake_child_at(ctx, 0)), "s-9");
    fake_child_line(fake_child_at(ctx, 0), UNKNOWN);
    fake_child_exit(fake_child_at(ctx, 0), 1 << 8);
    is_done_in_a_new_session(ctx);
    fake_free(&ctx);
    ctx = start(CLAUDE); /* of the team's own conversation, told by its last words only */
    run_attempt(ctx, 1, 1, "go on", "s-9");
    fake_child_words(fake_child_at(ctx, 0), "No conversation found with session ID: s-9");
    fake_child_exit(fake_child_at(ctx, 0), 1 << 8);
    is_done_in_a_new_session(ctx);
    fake_free(&ctx);
}

Test(agent, a_session_that_is_unknown_is_not_replaced_by_another_of_the_teams_own)
{
    struct muster_ctx *ctx = start(PAIR "    idle_stop: 1m\n");
    struct muster_child *other = begun(ctx), *child;

    fake_child_line(other, RESULT);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    run_attempt(ctx, 2, 2, "retry", "s-9");
    fake_child_words(fake_child_at(ctx, 1), "No conversation found with session ID: s-9");
    fake_child_exit(fake_child_at(ctx, 1), 1 << 8);
    child = newest_begins(ctx, "s-2");
    cr_assert_eq(fake_child_count(ctx), 3);
    cr_assert_null(strstr(fake_child_input(other), "\"retry\""));
    fake_advance(ctx, 60000);
    fake_child_exit(other, 0);
    ends(ctx, child, 2, "s-2");
    run_attempt(ctx, 3, 2, "retry", "s-8");
    fake_child_words(fake_child_at(ctx, 3), "No conversation found with session ID: s-8");
    fake_child_exit(fake_child_at(ctx, 3), 1 << 8);
    cr_assert_str_eq(resumes(fake_child_at(ctx, 4)), "", "nor by one that has no process");
    fake_free(&ctx);
}

Test(agent, a_session_may_turn_out_to_be_unknown_after_the_prompt)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child;

    run_in(ctx, 1, "conv-a", "go on", "s-9");
    child = fake_child_at(ctx, 0);
    fake_child_line(child, READY);
    fake_child_line(child, UNKNOWN);
    cr_assert(fake_child_input_closed(child));
    cr_assert_eq(fake_child_count(ctx), 1, "never two processes of one conversation");
    fake_child_exit(child, 1 << 8);
    is_done_in_a_new_session(ctx);
    fake_free(&ctx);
}

Test(agent, a_turn_that_is_cancelled_is_not_begun_again)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child;

    run_in(ctx, 1, "conv-a", "go on", "s-9");
    child = fake_child_at(ctx, 0);
    fake_child_line(child, READY);
    fake_child_line(child, UNKNOWN);
    cancel(ctx, 1, false);
    fake_child_exit(child, 1 << 8);
    cr_assert_null(report_of(ctx, 1, job_state_CANCELLED, MUSTER_OK)->session);
    cr_assert_eq(fake_child_count(ctx), 1);
    fake_free(&ctx);
}

Test(agent, a_turn_in_which_something_was_done_is_not_begun_again)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child;

    run_in(ctx, 1, "conv-a", "go on", "s-9");
    child = fake_child_at(ctx, 0);
    fake_child_line(child, READY);
    fake_child_line(child, "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"tool_use\","
                           "\"id\":\"t1\",\"name\":\"Bash\",\"input\":{}}]}}");
    fake_child_words(child, "No conversation found");
    fake_child_exit(child, 1 << 8);
    cr_assert_null(report_of(ctx, 1, job_state_FAILED, MUSTER_PROCESS_ERROR)->session);
    cr_assert_eq(fake_child_count(ctx), 1);
    fake_free(&ctx);
}

Test(agent, a_program_that_is_missing_fails_each_attempt)
{
    struct muster_ctx *ctx = start(CLAUDE);
    const struct queue_report *got;

    fake_child_refuse(ctx, MUSTER_NOT_FOUND, "claude: no such program in PATH");
    run_attempt(ctx, 1, 1, "x", "s-3");
    got = report_of(ctx, 1, job_state_FAILED, MUSTER_PROCESS_ERROR);
    cr_assert_str_eq(got->message, "claude: no such program in PATH");
    cr_assert_str_eq(got->session, "s-3");
    cr_assert(got->final);
    cr_assert_eq(fake_said(ctx, "agent-missing"), 1);
    cr_assert(fake_said_text(ctx, OF_JOB_1));
    fake_child_refuse(ctx, MUSTER_PROCESS_ERROR, "no room for another process");
    run(ctx, 3, "x");
    cr_assert_not(report_of(ctx, 3, job_state_FAILED, MUSTER_PROCESS_ERROR)->final);
    run(ctx, 2, "now it is there");
    cr_assert_eq(fake_child_count(ctx), 1);
    fake_free(&ctx);
}

Test(agent, a_process_that_is_never_ready_is_ended)
{
    struct muster_ctx *ctx = start(CLAUDE "    start_timeout: 2s\n    stop_timeout: 1s\n");
    struct muster_child *child;

    run(ctx, 1, "x");
    child = fake_child_at(ctx, 0);
    fake_advance(ctx, 2000);
    cr_assert(fake_child_input_closed(child));
    cr_assert_null(report(ctx));
    fake_child_exit(child, 0);
    report_of(ctx, 1, job_state_FAILED, MUSTER_AGENT_HUNG);
    fake_free(&ctx);
}

Test(agent, goes_down_the_ladder_step_by_step)
{
    struct muster_ctx *ctx = start(CLAUDE "    stop_timeout: 1s\n");
    struct muster_child *child = begun(ctx);

    cancel(ctx, 1, false);
    cr_assert_not_null(strstr(fake_child_input(child), "\"interrupt\""));
    fake_advance(ctx, 999);
    cr_assert_not(fake_child_input_closed(child));
    fake_advance(ctx, 1);
    cr_assert(fake_child_input_closed(child));
    cr_assert_eq(fake_said(ctx, "agent-deaf"), 1);
    fake_advance(ctx, 1000);
    cr_assert_eq(fake_child_last_signal(child), SIGINT);
    fake_advance(ctx, 1000);
    cr_assert_eq(fake_child_last_signal(child), SIGTERM);
    cr_assert_null(report(ctx));
    fake_advance(ctx, 1000);
    cr_assert(fake_child_freed(child));
    report_of(ctx, 1, job_state_CANCELLED, MUSTER_OK);
    run(ctx, 2, "next");
    cr_assert_eq(fake_child_count(ctx), 2);
    fake_free(&ctx);
}

Test(agent, an_interrupted_process_stays)
{
    struct muster_ctx *ctx = start(CLAUDE "    stop_timeout: 1s\n");
    struct muster_child *child = begun(ctx);

    cancel(ctx, 1, true);
    fake_child_line(child, ABORTED);
    cr_assert_str_eq(report_of(ctx, 1, job_state_PARKED, MUSTER_OK)->session, "s-1");
    fake_advance(ctx, 10000);
    cr_assert_not(fake_child_input_closed(child));
    fake_free(&ctx);
}

Test(agent, a_turn_that_ends_by_itself_first_is_completed)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);

    cancel(ctx, 1, false);
    fake_child_line(child, RESULT);
    report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    fake_free(&ctx);
}

Test(agent, a_cancelled_start_is_reported_at_once_and_goes_on)
{
    struct muster_ctx *ctx = start(CLAUDE);

    run(ctx, 1, "x");
    cancel(ctx, 1, false);
    report_of(ctx, 1, job_state_CANCELLED, MUSTER_OK);
    cr_assert(muster_id_is_zero(&((const struct muster_agent_view *)fake_board(ctx, ADDRESS))->processes[0].job));
    run(ctx, 2, "y");
    fake_child_line(fake_child_at(ctx, 0), READY);
    cr_assert_not_null(strstr(fake_child_input(fake_child_at(ctx, 0)), "\"y\""));
    cr_assert_eq(fake_child_count(ctx), 1);
    fake_free(&ctx);
}

Test(agent, a_tool_at_work_doubles_the_patience)
{
    struct muster_ctx *ctx = start(CLAUDE "    silence_timeout: 1s\n    stop_timeout: 1s\n");
    struct muster_child *child = begun(ctx);

    fake_child_line(child,
                    "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"tool_use\",\"id\":"
                    "\"t1\",\"name\":\"Bash\",\"input\":{}}]}}");
    fake_advance(ctx, 1999);
    cr_assert_null(strstr(fake_child_input(child), "\"interrupt\""));
    fake_advance(ctx, 1);
    cr_assert_not_null(strstr(fake_child_input(child), "\"interrupt\""));
    fake_child_line(child, ABORTED);
    report_of(ctx, 1, job_state_FAILED, MUSTER_AGENT_HUNG);
    fake_free(&ctx);
}

Test(agent, a_line_too_long_fails_the_attempt)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);

    fake_child_overlong(child);
    fake_child_exit(child, 9);
    report_of(ctx, 1, job_state_FAILED, MUSTER_OUTPUT_TOO_LARGE);
    fake_free(&ctx);
}

Test(agent, a_denied_tool_is_in_the_journal)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);

    fake_child_line(child,
                    "{\"type\":\"control_request\",\"request_id\":\"1\",\"request\":{\"subtype\":\"can_use_tool\","
                    "\"tool_name\":\"Bash\",\"input\":{\"command\":\"rm x\"}}}");
    cr_assert_eq(fake_said(ctx, "agent-permission-denied"), 1);
    cr_assert(fake_said_text(ctx, "tool=Bash rule= " OF_JOB_1));
    cr_assert_not_null(strstr(fake_child_input(child), "\"deny\""));
    fake_free(&ctx);
}

#define TOOL_USE(id, tool, file)                                                                                       \
    "{\"type\":\"assistant\",\"message\":{\"id\":\"m-" id "\",\"content\":[{\"type\":\"tool_use\",\"id\":\"" id        \
    "\",\"name\":\"" tool "\",\"input\":{\"file_path\":\"" file "\"}}]}}"

Test(agent, a_denied_tool_is_not_among_those_used)
{
    struct muster_ctx *ctx = start(CLAUDE "    permissions: {deny: ['Read(*.env)']}\n");
    struct muster_child *child = begun(ctx);
    const struct queue_report *got;

    fake_child_line(child, TOOL_USE("t1", "Read", "/tmp/.env"));
    fake_child_line(child,
                    "{\"type\":\"control_request\",\"request_id\":\"1\",\"request\":{\"subtype\":\"hook_callback\","
                    "\"callback_id\":\"deny\",\"input\":{\"tool_name\":\"Read\",\"tool_input\":{\"file_path\":"
                    "\"/tmp/.env\"},\"tool_use_id\":\"t1\"}}}");
    fake_child_line(child, TOOL_USE("t2", "Grep", "/tmp/src/a.c"));
    fake_child_line(child, TOOL_USE("t3", "Edit", "/etc/motd"));
    fake_child_line(child,
                    "{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"t3\","
                    "\"content\":\"done\"}]}}");
    fake_child_line(child, RESULT);
    got = report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    cr_assert_eq(got->tools.count, 2);
    cr_assert_str_eq(got->tools.items[0], "Edit");
    cr_assert_str_eq(got->tools.items[1], "Grep");
    cr_assert_eq(got->files.count, 2);
    cr_assert_str_eq(got->files.items[0], "/etc/motd");
    cr_assert_str_eq(got->files.items[1], "src/a.c");
    fake_free(&ctx);
}

Test(agent, a_use_that_the_cli_denied_by_itself_is_none_but_one_that_failed_is)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);
    const struct queue_report *got;

    fake_child_line(child, TOOL_USE("t1", "Write", "/tmp/denied.c"));
    fake_child_line(child, TOOL_USE("t2", "Read", "/tmp/missing.c"));
    fake_child_line(child, "{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":"
                           "\"t1\",\"is_error\":true,\"content\":\"Permission to use Write has been denied.\"},"
                           "{\"type\":\"tool_result\",\"tool_use_id\":\"t2\",\"is_error\":true,\"content\":"
                           "\"File does not exist.\"}]}}");
    fake_child_line(child, "{\"type\":\"result\",\"is_error\":false,\"result\":\"done\",\"permission_denials\":[{"
                           "\"tool_name\":\"Write\",\"tool_use_id\":\"t1\",\"tool_input\":{}}]}");
    got = report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    cr_assert_eq(got->tools.count, 1);
    cr_assert_str_eq(got->tools.items[0], "Read");
    cr_assert_eq(got->files.count, 1);
    cr_assert_str_eq(got->files.items[0], "missing.c");
    fake_free(&ctx);
}

Test(agent, more_tools_at_once_than_are_watched_are_all_used)
{
    struct muster_ctx *ctx = start(CLAUDE);
    struct muster_child *child = begun(ctx);
    const struct queue_report *got;
    char text[512];
    int i;

    for (i = 0; i < 200; i++) {
        snprintf(text, sizeof(text), TOOL_USE("t%d", "Tool%d", "f"), i, i, i);
        fake_child_line(child, text);
    }
    fake_child_line(child, RESULT);
    got = report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    cr_assert_eq(got->tools.count, 200);
    cr_assert_eq(got->files.count, 1);
    fake_free(&ctx);
}

Test(agent, files_are_told_from_the_resolved_directory)
{
    struct muster_ctx *ctx;
    struct muster_child *child;
    char folder[] = "/tmp/muster-agent-XXXXXX", real[64], link[64], yaml[256], text[512];
    const struct queue_report *got;

    cr_assert_not_null(mkdtemp(folder));
    snprintf(real, sizeof(real), "%s/real", folder);
    snprintf(link, sizeof(link), "%s/link", folder);
    cr_assert_eq(mkdir(real, 0700), 0);
    cr_assert_eq(symlink(real, link), 0);
    snprintf(yaml, sizeof(yaml), "teams:\n  backend:\n    driver: claude\n    directory: %s\n", link);
    ctx = start(yaml);
    child = begun(ctx);
    snprintf(text, sizeof(text), TOOL_USE("t1", "Read", "%s/src/a.c"), real);
    fake_child_line(child, text);
    fake_child_line(child, RESULT);
    got = report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK);
    cr_assert_str_eq(got->files.items[0], "src/a.c");
    fake_free(&ctx);
    unlink(link);
    rmdir(real);
    rmdir(folder);
}

Test(agent, says_what_its_processes_do)
{
    struct muster_ctx *ctx = start(CLAUDE);
    const struct fake_sent *sent;
    const struct log_append *append;
    char states[256] = "";
    struct muster_arena *arena = muster_arena_new();
    struct agent_process event;
    size_t i;

    fake_child_line(begun(ctx), RESULT);
    while ((sent = fake_take_type(ctx, &log_append_type))) {
        append = sent->body;
        for (i = 0; i < append->entries.count; i++) {
            if (strcmp(append->entries.items[i].type, agent_process_type.wire))
                continue;
            cr_assert_eq(muster_unpack(&agent_process_type, append->entries.items[i].body.data,
                                       append->entries.items[i].body.size, arena, &event, NULL),
                         MUSTER_OK);
            cr_assert(muster_id_is_zero(&append->entries.items[i].job));
            strcat(strcat(states, " "), muster_enum_wire(&process_state_enum, (int)event.state));
        }
    }
    cr_assert_str_eq(states, " starting busy idle");
    muster_arena_free(&arena);
    fake_free(&ctx);
}

/* ---- one process a turn ---------------------------------------------------------------------------------------------
 */

#define COMMAND "teams:\n  backend:\n    driver: command\n    directory: /tmp\n    command: "

Test(agent, a_command_reads_the_prompt_and_its_lines_are_chunks)
{
    struct muster_ctx *ctx = start(COMMAND "[wc, -l]\n");
    struct muster_child *child;
    char text[256];

    run(ctx, 1, "two\nlines");
    child = fake_child_at(ctx, 0);
    cr_assert_str_eq(fake_child_input(child), "two\nlines");
    cr_assert(fake_child_input_closed(child));
    fake_child_line(child, "first");
    fake_child_line(child, "second");
    cr_assert_null(report(ctx));
    fake_child_exit(child, 0);
    cr_assert_str_eq(report_of(ctx, 1, job_state_COMPLETED, MUSTER_OK)->result, "first\nsecond");
    events(ctx, text, sizeof(text));
    cr_assert_str_eq(text, "job.started job.chunk job.chunk");
    cr_assert(fake_child_freed(child));
    cr_assert_eq(fake_said(ctx, "agent-crash"), 0);
    run(ctx, 2, "again");
    cr_assert_eq(fake_child_count(ctx), 2);
    fake_free(&ctx);
}

Test(agent, a_command_may_take_the_prompt_as_argument)
{
    struct muster_ctx *ctx = start(COMMAND "[ask, '--model={model}', '--x={prompt}!', '{other}']\n    model: m1\n");
    const struct muster_child_spec *spec;

    run(ctx, 1, "what {model}?");
    spec = fake_child_spec(fake_child_at(ctx, 0));
    cr_assert_str_eq(spec->argv[0], "ask");
    cr_assert_str_eq(spec->argv[1], "--model=m1");
    cr_assert_str_eq(spec->argv[2], "--x=what {model}?!");
    cr_assert_str_eq(spec->argv[3], "{other}");
    cr_assert_null(spec->argv[4]);
    cr_assert_str_eq(fake_child_input(fake_child_at(ctx, 0)), "");
    cr_assert(fake_child_input_closed(fake_child_at(ctx, 0)));
    fake_free(&ctx);
}

Test(agent, a_command_that_fails_is_a_process_error)
{
    struct muster_ctx *ctx = start(COMMAND "[/bin/false]\n");
    const struct queue_report *got;

    run(ctx, 1, "x");
    fake_child_words(fake_child_at(ctx, 0), "no such option");
    fake_child_exit(fake_child_at(ctx, 0), 2 << 8);
    got = report_of(ctx, 1, job_state_FAILED, MUSTER_PROCESS_ERROR);
    cr_assert_str_eq(got->message, "false exited with status 2: no such option");
    cr_assert(got->final, "it may have done something already");
    run(ctx, 2, "x");
    fake_child_exit(fake_child_at(ctx, 1), SIGSEGV);
    got = report_of(ctx, 2, job_state_FAILED, MUSTER_PROCESS_ERROR);
    cr_assert_str_eq(got->message, "false was ended by signal 11");
    cr_assert_not(got->final);
    run(ctx, 3, "x");
    fake_child_exit(fake_child_at(ctx, 2), (128 + SIGTERM) << 8);
    cr_assert_not(report_of(ctx, 3, job_state_FAILED, MUSTER_PROCESS_ERROR)->final, "so a shell tells a signal");
    fake_free(&ctx);
}

Test(agent, a_cancelled_command_is_ended)
{
    struct muster_ctx *ctx = start(COMMAND "[sleep]\n    stop_timeout: 1s\n");
    struct muster_child *child;

    run(ctx, 1, "x");
    child = fake_child_at(ctx, 0);
    cancel(ctx, 1, false);
    cr_assert_eq(fake_child_last_signal(child), SIGINT);
    fake_child_exit(child, SIGINT);
    report_of(ctx, 1, job_state_CANCELLED, MUSTER_OK);
    fake_free(&ctx);
}

Test(agent, a_command_that_prints_too_much_is_ended)
{
    struct muster_ctx *ctx = start("agents:\n  max_answer: 1KiB\n" COMMAND "[yes]\n");
    struct muster_child *child;
    int i;

    run(ctx, 1, "x");
    child = fake_child_at(ctx, 0);
    for (i = 0; i < 200; i++)
        fake_child_line(child, "yyyyyyyyyyyyyyy");
    report_of(ctx, 1, job_state_FAILED, MUSTER_OUTPUT_TOO_LARGE);
    cr_assert_eq(fake_child_last_signal(child), SIGINT);
    fake_child_exit(child, SIGINT);
    cr_assert_null(report(ctx));
    fake_free(&ctx);
}
