/* SPDX-License-Identifier: MPL-2.0 */
/* The agent actor on the real runtime with real processes: shell scripts and tests/fake_claude.py.
 *
 * The test holds the mailboxes of the queue and the log and waits for messages there, never for time to pass. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "schemas/muster_options.h"

#define ADDRESS "agent/backend"
#define WAIT_MS 20000

struct hub {
    char folder[64];
    struct muster_config config;
    struct muster_house house;
    struct muster_journal *journal;
    struct muster_store *store;
    struct muster_bus *bus;
    struct muster_post *queue, *log;
    struct muster_actor *agent;
    struct muster_arena *arena; /* of everything received */
    struct muster_buf chunks;   /* of all jobs so far */
    int journal_fd;
};

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static void
configure(struct hub *hub, const char *team)
{
    struct muster_buf yaml = {0};
    struct muster_options_error error;

    muster_buf_printf(&yaml,
                      "data: %s/data\nteams:\n  backend:\n    directory: %s\n    stop_timeout: 300ms\n"
                      "    env: {HOME: '%s', CLAUDE_CONFIG_DIR: '%s', LC_ALL: C.UTF-8}\n%s",
                      hub->folder, hub->folder, hub->folder, hub->folder, team);
    cr_assert_eq(muster_config_parse(yaml.data, yaml.size, "test.yaml", hub->folder, &hub->config, &error), MUSTER_OK,
                 "%s", error.text);
    muster_buf_free(&yaml);
}

static struct hub *
open_hub(const char *team)
{
    struct hub *hub = muster_alloc(sizeof(*hub));
    char problem[256];

    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    muster_children_adopt();
    strcpy(hub->folder, "/tmp/muster-agent-XXXXXX");
    cr_assert_not_null(mkdtemp(hub->folder));
    configure(hub, team);
    hub->arena = muster_arena_new();
    hub->journal_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    hub->journal = muster_journal_new(hub->journal_fd, hub->config.options->log);
    cr_assert_eq(
        muster_store_open(hub->config.options->data, hub->config.options->store, &hub->store, problem, sizeof(problem)),
        MUSTER_OK, "%s", problem);
    hub->bus = muster_bus_new();
    cr_assert_eq(muster_post_open(hub->bus, MUSTER_QUEUE, 100, &hub->queue), MUSTER_OK);
    cr_assert_eq(muster_post_open(hub->bus, MUSTER_LOG, 1000, &hub->log), MUSTER_OK);
    hub->house = (struct muster_house){hub->bus, hub->store, hub->config.options, hub->journal};
    cr_assert_eq(muster_actor_start(&hub->house, ADDRESS, &muster_agent_class,
                                    muster_team_options(hub->config.options, "backend"), &hub->agent),
                 MUSTER_OK);
    return hub;
}

static void
close_hub(struct hub *hub)
{
    char command[128];

    muster_actor_stop(&hub->agent);
    muster_post_close(&hub->queue);
    muster_post_close(&hub->log);
    muster_bus_free(&hub->bus);
    muster_store_close(&hub->store);
    muster_journal_free(&hub->journal);
    close(hub->journal_fd);
    muster_config_free(&hub->config);
    muster_buf_free(&hub->chunks);
    muster_arena_free(&hub->arena);
    snprintf(command, sizeof(command), "rm -rf '%s'", hub->folder);
    cr_assert_eq(system(command), 0);
    free(hub);
}

/* ---- talking to it --------------------------------------------------------------------------------------------------
 */

static void
tell(struct hub *hub, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal = {.name = ""}};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, type, body, &frame);
    cr_assert_eq(muster_post_send(hub->queue, ADDRESS, &frame), MUSTER_OK);
    muster_buf_free(&frame);
}

static void
run_in(struct hub *hub, int64_t attempt, const char *prompt, const char *conversation, const char *session)
{
    struct agent_run run = {.job = {{1}},
                            .attempt = attempt,
                            .prompt = prompt,
                            .session = session,
                            .timeout_ms = 60000,
                            .conversation = conversation};

    tell(hub, &agent_run_type, &run);
}

static void
run_session(struct hub *hub, int64_t attempt, const char *prompt, const char *session)
{
    run_in(hub, attempt, prompt, "", session);
}

static void
run(struct hub *hub, int64_t attempt, const char *prompt)
{
    run_session(hub, attempt, prompt, "");
}

static void
cancel(struct hub *hub, int64_t attempt)
{
    tell(hub, &agent_cancel_type, &(struct agent_cancel){.job = {{1}}, .attempt = attempt});
}

/* The next message to the log, its chunks added to `chunks`; `out_report` is filled if it was a report. */
static bool
receive(struct hub *hub, struct queue_report *out_report)
{
    struct muster_frame frame;
    struct muster_envelope envelope;
    struct log_append append;
    struct log_report report;
    struct job_chunk chunk;
    size_t i;

    cr_assert_eq(muster_post_receive(hub->log, WAIT_MS, -1, &frame), MUSTER_OK, "no message came");
    cr_assert_eq(muster_envelope_unpack(frame.data, frame.size, hub->arena, &envelope), MUSTER_OK);
    if (!strcmp(envelope.type, log_report_type.wire)) {
        cr_assert_eq(muster_unpack(&log_report_type, envelope.body.data, envelope.body.size, hub->arena, &report, NULL),
                     MUSTER_OK);
        *out_report = *report.report;
        muster_frame_free(&frame);
        return true;
    }
    cr_assert_str_eq(envelope.type, log_append_type.wire);
    cr_assert_eq(muster_unpack(&log_append_type, envelope.body.data, envelope.body.size, hub->arena, &append, NULL),
                 MUSTER_OK);
    for (i = 0; i < append.entries.count; i++) {
        if (strcmp(append.entries.items[i].type, job_chunk_type.wire))
            continue;
        cr_assert_eq(muster_unpack(&job_chunk_type, append.entries.items[i].body.data,
                                   append.entries.items[i].body.size, hub->arena, &chunk, NULL),
                     MUSTER_OK);
        muster_buf_str(&hub->chunks, chunk.text);
    }
    muster_frame_free(&frame);
    return false;
}

static struct queue_report
report(struct hub *hub)
{
    struct queue_report got = {0};

    while (!receive(hub, &got)) {
    }
    return got;
}

static struct queue_report
completes(struct hub *hub, int64_t attempt, const char *result)
{
    struct queue_report got = report(hub);

    cr_assert_eq(got.attempt, attempt);
    cr_assert_eq(got.state, job_state_COMPLETED, "%s: %s", got.code ? got.code : "", got.message ? got.message : "");
    if (result)
        cr_assert_str_eq(got.result, result);
    return got;
}

static struct queue_report
fails(struct hub *hub, int64_t attempt, muster_err err)
{
    struct queue_report got = report(hub);

    cr_assert_eq(got.attempt, attempt);
    cr_assert_eq(got.state, job_state_FAILED);
    cr_assert_str_eq(got.code, muster_err_code(err), "%s: %s", got.code, got.message);
    return got;
}

/* Wait until a chunk with that text has come. */
static void
until_said(struct hub *hub, const char *text)
{
    struct queue_report got;

    while (!hub->chunks.size || !strstr(hub->chunks.data, text))
        cr_assert_not(receive(hub, &got), "ended before it said \"%s\"", text);
}

/* Does the process run?  One that has ended and waits to be reaped does not. */
static bool
lives(const char *pid_text)
{
    char path[64], text[512] = "";
    FILE *file;
    const char *state;

    snprintf(path, sizeof(path), "/proc/%ld/stat", strtol(pid_text, NULL, 10));
    file = fopen(path, "r");
    if (!file)
        return false;
    (void)!fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    state = strrchr(text, ')');
    return state && state[2] != 'Z' && state[2] != 'X';
}

/* ---- programs -------------------------------------------------------------------------------------------------------
 */

#define SHELL(script) "    driver: command\n    command: [sh, -c, '" script "']\n"

Test(agent_child, a_program_answers_with_its_output)
{
    struct hub *hub = open_hub(SHELL("echo first; cat; echo; echo \"$LC_ALL\""));

    run(hub, 1, "the prompt");
    completes(hub, 1, "first\nthe prompt\nC.UTF-8");
    cr_assert_str_eq(hub->chunks.data, "first\nthe prompt\nC.UTF-8\n");
    close_hub(hub);
}

Test(agent_child, a_large_prompt_goes_through)
{
    struct hub *hub = open_hub(SHELL("wc -c"));
    char *prompt = muster_alloc((8 << 20) + 1);

    memset(prompt, 'x', 8 << 20);
    run(hub, 1, prompt);
    completes(hub, 1, "8388608");
    free(prompt);
    close_hub(hub);
}

Test(agent_child, a_program_that_does_not_read_its_input_is_no_failure)
{
    struct hub *hub = open_hub(SHELL("exec <&-; echo fine"));
    char *prompt = muster_alloc((1 << 20) + 1);

    memset(prompt, 'x', 1 << 20);
    run(hub, 1, prompt);
    completes(hub, 1, "fine");
    free(prompt);
    close_hub(hub);
}

Test(agent_child, a_program_fails_with_its_last_words)
{
    struct hub *hub = open_hub(SHELL("echo no good >&2; exit 3"));
    struct queue_report got;

    run(hub, 1, "x");
    got = fails(hub, 1, MUSTER_PROCESS_ERROR);
    cr_assert_str_eq(got.message, "sh exited with status 3: no good");
    cr_assert(got.final);
    close_hub(hub);
}

Test(agent_child, a_missing_program_is_told_for_each_attempt)
{
    struct hub *hub = open_hub("    driver: command\n    command: [no-such-program-of-ours]\n");

    run(hub, 1, "x");
    cr_assert_not_null(strstr(fails(hub, 1, MUSTER_PROCESS_ERROR).message, "no-such-program-of-ours"));
    run(hub, 2, "x");
    cr_assert(fails(hub, 2, MUSTER_PROCESS_ERROR).final);
    close_hub(hub);
}

Test(agent_child, a_cancelled_program_is_gone_with_its_children)
{
    struct hub *hub = open_hub(SHELL("trap : INT TERM; setsid sleep 1000 & echo pid $!; while :; do sleep 1000; done"));
    struct queue_report got;
    char *pid;

    run(hub, 1, "x");
    until_said(hub, "\n");
    pid = hub->chunks.data + strlen("pid ");
    cr_assert(lives(pid));
    cancel(hub, 1);
    got = report(hub);
    cr_assert_eq(got.state, job_state_CANCELLED);
    cr_assert_not(lives(pid));
    close_hub(hub);
}

/* ---- the stand-in for claude ----------------------------------------------------------------------------------------
 */

#define FAKE(more)                                                                                                     \
    "    driver: claude\n    command: [/usr/bin/python3, " MUSTER_SOURCE_DIR "/tests/fake_claude.py]\n" more

Test(agent_child, one_process_does_turn_after_turn)
{
    struct hub *hub = open_hub(FAKE(""));
    struct queue_report got;

    run(hub, 1, "echo: hello there");
    got = completes(hub, 1, "hello there");
    cr_assert_str_eq(hub->chunks.data, "hello there");
    cr_assert_float_eq(got.usage->cost_usd, 0.001, 1e-9);
    run(hub, 2, "recall:");
    got = completes(hub, 2, "echo: hello there | recall:");
    cr_assert_float_eq(got.usage->cost_usd, 0.001, 1e-9);
    cr_assert_eq(strlen(got.session), 36);
    close_hub(hub);
}

Test(agent_child, a_crash_is_told_and_the_session_goes_on)
{
    struct hub *hub = open_hub(FAKE(""));
    struct queue_report got;

    run(hub, 1, "crash-once: 7 lost my mind");
    got = fails(hub, 1, MUSTER_PROCESS_ERROR);
    cr_assert_str_eq(got.message, "python3 exited with status 7: lost my mind");
    cr_assert_eq(strlen(got.session), 36);
    run_session(hub, 2, "crash-once: 7 lost my mind", got.session);
    completes(hub, 2, "survived lost my mind");
    run_session(hub, 3, "recall:", got.session);
    completes(hub, 3, "crash-once: 7 lost my mind | crash-once: 7 lost my mind | recall:");
    close_hub(hub);
}

Test(agent_child, a_turn_whose_session_is_unknown_is_done_in_a_new_one)
{
    static const char unknown[] = "4b1a126a-1f0c-46f7-a7b1-b4347ca08a61";
    struct hub *hub = open_hub(FAKE(""));
    struct queue_report got;

    run_session(hub, 1, "REMEMBER one", unknown);
    got = completes(hub, 1, "remembered one");
    cr_assert_eq(strlen(got.session), 36);
    cr_assert_str_neq(got.session, unknown);
    run_session(hub, 2, "RECALL", got.session);
    completes(hub, 2, "one");
    close_hub(hub);
}

static void
conversations(const char *team)
{
    struct hub *hub = open_hub(team);
    struct queue_report a, b;

    run_in(hub, 1, "REMEMBER apple", "conv-a", "");
    a = completes(hub, 1, "remembered apple");
    run_in(hub, 2, "REMEMBER birch", "conv-b", "");
    b = completes(hub, 2, "remembered birch");
    run(hub, 3, "REMEMBER own");
    completes(hub, 3, "remembered own");
    run_in(hub, 4, "RECALL", "conv-a", a.session);
    completes(hub, 4, "apple");
    run_in(hub, 5, "RECALL", "conv-b", b.session);
    completes(hub, 5, "birch");
    run(hub, 6, "RECALL");
    completes(hub, 6, "own");
    run_in(hub, 7, "clear:", "conv-a", a.session);
    a = completes(hub, 7, "cleared");
    run_in(hub, 8, "RECALL", "conv-b", b.session);
    completes(hub, 8, "birch");
    run_in(hub, 9, "RECALL", "conv-a", a.session);
    completes(hub, 9, "nothing");
    close_hub(hub);
}

Test(agent_child, conversations_remember_each_their_own)
{
    conversations(FAKE(""));
    conversations(FAKE("    concurrency: 2\n"));
    conversations(FAKE("    concurrency: 4\n"));
}

Test(agent_child, an_interrupted_turn_leaves_a_process_that_works)
{
    struct hub *hub = open_hub(FAKE(""));

    run(hub, 1, "slow: 60000 late");
    until_said(hub, "started");
    cancel(hub, 1);
    cr_assert_eq(report(hub).state, job_state_CANCELLED);
    run(hub, 2, "recall:");
    completes(hub, 2, "slow: 60000 late | recall:");
    close_hub(hub);
}

Test(agent_child, a_deaf_process_is_killed)
{
    struct hub *hub = open_hub(FAKE("    silence_timeout: 500ms\n"));

    run(hub, 1, "deaf:");
    fails(hub, 1, MUSTER_AGENT_HUNG);
    run(hub, 2, "echo: new");
    completes(hub, 2, "new");
    close_hub(hub);
}

Test(agent_child, a_process_that_hangs_behind_its_result_makes_room)
{
    struct hub *hub = open_hub(FAKE("    idle_stop: 50ms\n"));

    run(hub, 1, "hang-after-result: done");
    completes(hub, 1, "done");
    run_session(hub, 2, "echo: other", "");
    completes(hub, 2, "other");
    close_hub(hub);
}

Test(agent_child, an_orphan_goes_with_its_process)
{
    struct hub *hub = open_hub(FAKE(""));
    char *pid;

    run(hub, 1, "orphan: 1000");
    completes(hub, 1, NULL);
    pid = hub->chunks.data + strlen("orphan ");
    cr_assert(lives(pid));
    muster_actor_stop(&hub->agent);
    cr_assert_not(lives(pid));
    close_hub(hub);
}

Test(agent_child, tools_are_asked_for_and_used)
{
    struct hub *hub = open_hub(FAKE("    permissions: {allow: ['Bash(echo *)']}\n"));
    struct queue_report got;

    run(hub, 1, "tool: Bash {\"command\":\"echo from the tool\"}");
    got = completes(hub, 1, "tool said: from the tool");
    cr_assert_eq(got.tools.count, 1);
    cr_assert_str_eq(got.tools.items[0], "Bash");
    run(hub, 2, "tool: Write {\"file_path\":\"/tmp/x\"}");
    got = completes(hub, 2, NULL);
    cr_assert_not_null(strstr(got.result, "No rule allows Write"));
    cr_assert_eq(got.tools.count + got.files.count, 0, "a use that was denied is none");
    close_hub(hub);
}

Test(agent_child, what_is_denied_is_denied_where_the_cli_does_not_ask)
{
    struct hub *hub = open_hub(FAKE("    permissions: {deny: ['Read(*.env)']}\n"));
    struct queue_report got;

    run(hub, 1, "tool: Read {\"file_path\":\"a.c\"}");
    got = completes(hub, 1, "tool said: done");
    cr_assert_eq(got.files.count, 1);
    run(hub, 2, "tool: Read {\"file_path\":\".env\"}");
    got = completes(hub, 2, "tool said: The rule Read(*.env) does not allow this. Go on without it.");
    cr_assert_eq(got.tools.count + got.files.count, 0);
    close_hub(hub);
}

Test(agent_child, odd_output_does_no_harm)
{
    struct hub *hub = open_hub(FAKE(""));

    run(hub, 1, "badline: fine");
    completes(hub, 1, "fine");
    run(hub, 2, "huge: 3000000");
    cr_assert_eq(strlen(completes(hub, 2, NULL).result), 3000000);
    run(hub, 3, "unsolicited: mine");
    completes(hub, 3, "mine");
    run(hub, 4, "echo: after");
    completes(hub, 4, "after");
    run(hub, 5, "error: 529");
    fails(hub, 5, MUSTER_MODEL_OVERLOADED);
    run(hub, 6, "clear:");
    completes(hub, 6, "cleared");
    run(hub, 7, "recall:");
    completes(hub, 7, "recall:");
    close_hub(hub);
}

Test(agent_child, the_end_of_the_actor_is_the_end_of_its_processes)
{
    struct hub *hub = open_hub(FAKE(""));
    char pid[32];

    run(hub, 1, "orphan: 1000");
    completes(hub, 1, NULL);
    snprintf(pid, sizeof(pid), "%s", hub->chunks.data + strlen("orphan "));
    run(hub, 2, "silent:");
    muster_actor_stop(&hub->agent);
    cr_assert_not(lives(pid));
    close_hub(hub);
}
