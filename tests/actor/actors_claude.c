/* SPDX-License-Identifier: MPL-2.0 */
/* The claude driver fed with recorded and made-up lines of the CLI.
 *
 * A transcript is a file of {"dir":"in"|"out","v":...}: what was written to the real CLI and what it printed.  Playing
 * it begins a turn for each user line, interrupts where the record does, and gives the driver what the CLI printed. */
#include <jansson.h>
#include <stdio.h>

#include "tests/actor/fake/fake_host.h"

#define READY                                                                                                          \
    "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"request_id\":\"muster-initialize\"}}"
#define INIT "{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s-1\"}"

/* ---- playing --------------------------------------------------------------------------------------------------------
 */

static void
line(struct fake_host *fake, const char *text)
{
    driver_claude.line(fake->driver, text, strlen(text));
}

static struct fake_host *
ready(void)
{
    struct fake_host *fake = fake_host_new(&driver_claude);

    driver_claude.started(fake->driver);
    line(fake, READY);
    cr_assert_eq(fake->ready_count, 1);
    muster_buf_clear(&fake->input);
    return fake;
}

static struct fake_host *
in_turn(void)
{
    struct fake_host *fake = ready();

    fake_host_begin(fake, "do it", 1);
    line(fake, INIT);
    return fake;
}

static void
play_in(struct fake_host *fake, const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *content = json_object_get(json_object_get(v, "message"), "content");

    if (!type)
        return;
    if (!strcmp(type, "user"))
        fake_host_begin(fake, json_is_string(content) ? json_string_value(content) : "blocks", 1);
    else if (!strcmp(type, "control_request"))
        driver_claude.interrupt(fake->driver);
}

static void
play_line(struct fake_host *fake, const char *text)
{
    json_t *record = json_loads(text, 0, NULL), *v = json_object_get(record, "v");
    const char *dir = json_string_value(json_object_get(record, "dir"));
    char *out;

    cr_assert_not_null(record);
    if (!strcmp(dir, "in")) {
        play_in(fake, v);
    } else {
        out = json_dumps(v, JSON_COMPACT);
        line(fake, out);
        free(out);
    }
    json_decref(record);
}

/* Play a transcript from its beginning. */
static struct fake_host *
play(const char *name, const char *const *allow)
{
    struct fake_host *fake = fake_host_new(&driver_claude);
    char path[512], *text = NULL;
    size_t capacity = 0;
    FILE *file;

    fake->permissions.allow.items = allow;
    while (allow && allow[fake->permissions.allow.count])
        fake->permissions.allow.count++;
    driver_claude.started(fake->driver);
    line(fake, READY);
    snprintf(path, sizeof(path), "%s/tests/transcripts/%s.jsonl", MUSTER_SOURCE_DIR, name);
    file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    while (getline(&text, &capacity, file) > 0)
        play_line(fake, text);
    free(text);
    fclose(file);
    return fake;
}

/* The agent uses a tool, or the tool says something; `more` goes beside the message. */
static void
use_tool(struct fake_host *fake, size_t id, const char *tool, const char *input)
{
    char text[1024];

    snprintf(text, sizeof(text),
             "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"tool_use\",\"id\":\"%zu\","
             "\"name\":\"%s\",\"input\":%s}]}}",
             id, tool, input);
    line(fake, text);
}

static void
tool_says(struct fake_host *fake, size_t id, bool failed, const char *said, const char *more)
{
    char text[1024];

    snprintf(text, sizeof(text),
             "{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"%zu\","
             "\"is_error\":%s,\"content\":\"%s\"}]}%s}",
             id, failed ? "true" : "false", said, more);
    line(fake, text);
}

/* ---- the process ----------------------------------------------------------------------------------------------------
 */

static void
command_is(struct fake_host *fake, const char *session, const char *expected)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_strs argv;
    struct muster_pairs env;
    struct muster_buf text = {0};
    size_t i;

    driver_claude.command(fake->driver, session, NULL, arena, &argv, &env);
    for (i = 0; i < argv.count; i++)
        muster_buf_printf(&text, "%s%s", i ? " " : "", argv.items[i]);
    cr_assert_str_eq(text.data, expected);
    cr_assert_eq(env.count, 4);
    muster_buf_free(&text);
    muster_arena_free(&arena);
}

#define FLAGS                                                                                                          \
    "-p --input-format stream-json --output-format stream-json --verbose --include-partial-messages "                  \
    "--permission-prompt-tool stdio"

Test(claude, command_line_names_model_mode_and_session)
{
    static const char *const own[] = {"/opt/cc/claude", "--bare"};
    struct fake_host *fake = fake_host_new(&driver_claude);

    command_is(fake, "", "claude " FLAGS);
    fake->team.command = (struct muster_strs){own, 2};
    fake->team.model = "opus";
    fake->team.permission_mode = "acceptEdits";
    command_is(fake, "s-9", "/opt/cc/claude --bare " FLAGS " --model opus --permission-mode acceptEdits --resume s-9");
    fake_host_free(fake);
}

Test(claude, is_ready_when_initialize_is_answered)
{
    struct fake_host *fake = fake_host_new(&driver_claude);

    driver_claude.started(fake->driver);
    cr_assert_str_eq(fake->input.data,
                     "{\"type\":\"control_request\",\"request_id\":\"muster-initialize\",\"request\":{"
                     "\"subtype\":\"initialize\"}}\n");
    line(fake, "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"request_id\":\"other\"}}");
    cr_assert_eq(fake->ready_count, 0);
    line(fake, READY);
    line(fake, READY);
    cr_assert_eq(fake->ready_count, 1);
    fake_host_free(fake);
}

Test(claude, a_prompt_is_one_line_whatever_it_holds)
{
    struct fake_host *fake = ready();

    fake_host_begin(fake, "a \"quoted\"\nline \\ \x01 {\"type\":\"x\"} \xff end", 1);
    cr_assert_eq(fake->input.data[fake->input.size - 1], '\n');
    cr_assert_eq(memchr(fake->input.data, '\n', fake->input.size), fake->input.data + fake->input.size - 1);
    cr_assert_not_null(strstr(fake->input.data,
                              "\"content\":\"a \\\"quoted\\\"\\nline \\\\ \\u0001 {\\\"type\\\":\\\"x\\\"} "
                              "\xef\xbf\xbd end\""));
    fake_host_free(fake);
}

Test(claude, a_prompt_that_is_not_read_breaks_the_process)
{
    struct fake_host *fake = ready();

    fake->write_error = MUSTER_OVERLOADED;
    fake_host_begin(fake, "x", 1);
    cr_assert_str_eq(fake->broken, "claude does not read its input.");
    fake_host_free(fake);
}

Test(claude, a_process_that_cannot_be_started_like_this_is_not_started_again)
{
    static const struct {
        int status;
        const char *words;
        bool final;
    } ends[] = {{1 << 8, "error: unknown option '--x'\n", true},
                {1 << 8, " \n", false},
                {2 << 8, "out of space", false},
                {9, "killed", false},
                {1 << 8, "No conversation found with session ID: s-9", false}};
    struct fake_host *fake;
    size_t i;

    for (i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        fake = fake_host_new(&driver_claude);
        driver_claude.started(fake->driver);
        driver_claude.exited(fake->driver, ends[i].status, ends[i].words);
        cr_assert_eq(fake->done[0].outcome.final, ends[i].final, "%s", ends[i].words);
        fake_host_free(fake);
    }
    fake = in_turn();
    driver_claude.exited(fake->driver, 1 << 8, "it was ready before");
    cr_assert_not(fake->done[0].outcome.final);
    fake_host_free(fake);
}

Test(claude, an_exit_is_told_with_the_last_words)
{
    struct fake_host *fake = in_turn();

    driver_claude.exited(fake->driver, 1 << 8, "boom\n\n");
    cr_assert_eq(fake->done[0].outcome.err, MUSTER_PROCESS_ERROR);
    cr_assert_str_eq(fake->done[0].text, "claude exited with status 1: boom");
    cr_assert_not(fake->done[0].outcome.fresh_session);
    fake_host_begin(fake, "again", 2);
    driver_claude.exited(fake->driver, 9, "");
    cr_assert_str_eq(fake->done[1].text, "claude was ended by signal 9");
    fake_host_free(fake);
}

/* ---- recorded turns -------------------------------------------------------------------------------------------------
 */

Test(claude, several_turns_in_one_process)
{
    static const char *const answers[] = {"first answer", "second answer",
                                          "users: echo: first answer | think: second answer | recall:",
                                          "msgs=8 users=4 tools=24 model=claude-opus-4-8", "block form"};
    static const double costs[] = {0.008345, 0.00855, 0.00906, 0.009175, 0.009135};
    struct fake_host *fake = play("c-multiturn", NULL);
    struct muster_buf all = {0};
    size_t i;

    cr_assert_eq(fake->done_count, 5);
    for (i = 0; i < 5; i++) {
        cr_assert_eq(fake->done[i].outcome.err, MUSTER_OK);
        cr_assert_str_eq(fake->done[i].text, answers[i]);
        cr_assert_float_eq(fake->done[i].outcome.usage.cost_usd, costs[i], 1e-6, "turn %zu cost %f", i,
                           fake->done[i].outcome.usage.cost_usd);
        cr_assert_gt(fake->done[i].outcome.usage.input_tokens, 0);
        cr_assert_eq(fake->done[i].outcome.usage.turns, 1);
        muster_buf_str(&all, answers[i]);
    }
    cr_assert_str_eq(fake->chunks.data, all.data);
    cr_assert_gt(fake->chunk_count, 5);
    cr_assert_eq(fake->event_count, 0);
    cr_assert_eq(strlen(fake->session), 36);
    muster_buf_free(&all);
    fake_host_free(fake);
}

Test(claude, tools_and_their_results_are_told_once)
{
    struct fake_host *fake = play("d-tools", NULL);

    cr_assert_eq(fake_host_events(fake, &job_tool_use_type, "\"tool\":\"Read\""), 4);
    cr_assert_eq(fake_host_events(fake, &job_tool_use_type, "\"file\":\"nope.txt\""), 1);
    cr_assert_eq(fake_host_events(fake, &job_tool_use_type, "NoSuchTool"), 1);
    cr_assert_eq(fake_host_events(fake, &job_tool_use_type, ""), fake_host_events(fake, &job_tool_result_type, ""));
    cr_assert_eq(fake_host_events(fake, &job_tool_result_type, "\"failed\":true"), 4);
    cr_assert_eq(fake_host_events(fake, &job_tool_result_type, "No such tool available: NoSuchTool"), 1);
    cr_assert_eq(fake->busy_tools, 0);
    cr_assert_geq(fake->busy_most, 1);
    fake_host_free(fake);
}

Test(claude, files_in_the_directory_are_told_from_there)
{
    static const struct {
        const char *file, *told;
    } files[] = {{"/work-dir/work/src/a.c", "src/a.c"},
                 {"/mnt/real/src/a.c", "src/a.c"},
                 {"/work-dir/work//a.c", "a.c"},
                 {"/work-dir/worker/a.c", "/work-dir/worker/a.c"},
                 {"/work-dir/work/../a", "/work-dir/work/../a"},
                 {"/work-dir/work/", "/work-dir/work/"},
                 {"src/a.c", "src/a.c"}};
    struct fake_host *fake = in_turn();
    char text[512];
    size_t i;

    fake->host.directory = "/mnt/real";
    for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(text, sizeof(text),
                 "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"tool_use\",\"id\":\"%zu\","
                 "\"name\":\"Read\",\"input\":{\"file_path\":\"%s\"}}]}}",
                 i, files[i].file);
        line(fake, text);
        snprintf(text, sizeof(text), "\"id\":\"%zu\",\"file\":\"%s\"", i, files[i].told);
        cr_assert_eq(fake_host_events(fake, &job_tool_use_type, text), 1, "%s", files[i].file);
    }
    fake_host_free(fake);
}

Test(claude, the_file_of_a_tool_is_told_whatever_the_tool_calls_it)
{
    static const struct {
        const char *tool, *input, *told;
    } uses[] = {{"Read", "{\"file_path\":\"/work-dir/work/a.c\",\"limit\":5}", "a.c"},
                {"Edit", "{\"file_path\":\"/work-dir/work/a.c\",\"old_string\":\"x\",\"new_string\":\"y\"}", "a.c"},
                {"Write", "{\"file_path\":\"/work-dir/work/b.c\",\"content\":\"\"}", "b.c"},
                {"MultiEdit", "{\"file_path\":\"/work-dir/work/c.c\",\"edits\":[]}", "c.c"},
                {"NotebookEdit", "{\"notebook_path\":\"/work-dir/work/d.ipynb\",\"new_source\":\"\"}", "d.ipynb"},
                {"Grep", "{\"pattern\":\"x\",\"path\":\"/work-dir/work/src\"}", "src"},
                {"Glob", "{\"pattern\":\"*.c\",\"path\":\"/elsewhere\"}", "/elsewhere"},
                {"Grep", "{\"pattern\":\"x\"}", NULL},
                {"Read", "{\"file_path\":7}", NULL},
                {"Bash", "{\"command\":\"cat a.c\"}", NULL}};
    struct fake_host *fake = in_turn();
    char text[512];
    size_t i;

    for (i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
        use_tool(fake, i, uses[i].tool, uses[i].input);
        if (uses[i].told)
            snprintf(text, sizeof(text), "{\"tool\":\"%s\",\"id\":\"%zu\",\"file\":\"%s\"", uses[i].tool, i,
                     uses[i].told);
        else
            snprintf(text, sizeof(text), "{\"tool\":\"%s\",\"id\":\"%zu\",\"input\"", uses[i].tool, i);
        cr_assert_eq(fake_host_events(fake, &job_tool_use_type, text), 1, "%s: %s", text,
                     fake->events[fake->event_count - 1].json);
    }
    fake_host_free(fake);
}

/* ---- how far it is --------------------------------------------------------------------------------------------------
 */

static const char *
newest_progress(const struct fake_host *fake)
{
    size_t i;

    for (i = fake->event_count; i-- > 0;)
        if (fake->events[i].type == &job_progress_type)
            return fake->events[i].json;
    return "";
}

static size_t
progress_count(const struct fake_host *fake)
{
    return fake_host_events(fake, &job_progress_type, "");
}

#define ITEM(content, status)                                                                                          \
    "{\"content\":\"" content "\",\"status\":\"" status "\",\"activeForm\":\"Doing " content "\"}"

Test(claude, a_list_of_todos_says_how_far_it_is)
{
    struct fake_host *fake = in_turn();

    use_tool(fake, 1, "TodoWrite",
             "{\"todos\":[" ITEM("a", "completed") "," ITEM("b", "in_progress") "," ITEM("c", "pending") "]}");
    cr_assert_eq(progress_count(fake), 0, "it may be denied yet");
    tool_says(fake, 1, false, "Todos have been modified successfully.", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":1,\"total\":3,\"step\":\"Doing b\"}");
    use_tool(fake, 2, "TodoWrite",
             "{\"todos\":[" ITEM("a", "completed") "," ITEM("b", "completed") "," ITEM("c", "completed") "]}");
    tool_says(fake, 2, false, "Todos have been modified successfully.", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":3,\"total\":3}");
    use_tool(fake, 3, "TodoWrite", "{\"todos\":[{\"content\":\"old\",\"status\":\"in_progress\"}]}");
    tool_says(fake, 3, false, "fine", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":0,\"total\":1,\"step\":\"old\"}");
    cr_assert_eq(progress_count(fake), 3);
    fake_host_free(fake);
}

Test(claude, tasks_that_are_created_and_updated_say_how_far_it_is)
{
    struct fake_host *fake = in_turn();

    use_tool(fake, 1, "TaskCreate", "{\"subject\":\"Read\",\"description\":\"x\",\"activeForm\":\"Reading\"}");
    tool_says(fake, 1, false, "Task #7 created successfully: Read", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":0,\"total\":1}");
    use_tool(fake, 2, "TaskCreate", "{\"subject\":\"Write\",\"description\":\"x\"}");
    tool_says(fake, 2, false, "made", ",\"tool_use_result\":{\"task\":{\"id\":\"8\",\"subject\":\"Write\"}}");
    use_tool(fake, 3, "TaskUpdate", "{\"taskId\":\"7\",\"status\":\"in_progress\"}");
    tool_says(fake, 3, false, "Updated task #7 status", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":0,\"total\":2,\"step\":\"Reading\"}");
    use_tool(fake, 4, "TaskUpdate", "{\"taskId\":\"7\",\"status\":\"completed\"}");
    tool_says(fake, 4, false, "Updated task #7 status", "");
    use_tool(fake, 5, "TaskUpdate", "{\"taskId\":\"8\",\"status\":\"in_progress\"}");
    tool_says(fake, 5, false, "Updated task #8 status", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":1,\"total\":2,\"step\":\"Write\"}");
    use_tool(fake, 6, "TaskUpdate", "{\"taskId\":\"8\",\"status\":\"deleted\"}");
    tool_says(fake, 6, false, "Updated task #8 deleted", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":1,\"total\":1}");
    use_tool(fake, 7, "TaskUpdate", "{\"taskId\":\"3\",\"status\":\"in_progress\"}");
    tool_says(fake, 7, false, "Updated task #3 status", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":1,\"total\":2}", "one of an earlier turn");
    fake_host_free(fake);
}

Test(claude, the_next_turn_counts_its_own_tasks)
{
    struct fake_host *fake = in_turn();

    use_tool(fake, 1, "TaskCreate", "{\"subject\":\"Read\"}");
    tool_says(fake, 1, false, "Task #1 created successfully: Read", "");
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"x\"}");
    fake_host_forget(fake);
    fake_host_begin(fake, "next", 1);
    line(fake, INIT);
    use_tool(fake, 2, "TaskCreate", "{\"subject\":\"Write\"}");
    tool_says(fake, 2, false, "Task #2 created successfully: Write", "");
    cr_assert_str_eq(newest_progress(fake), "{\"current\":0,\"total\":1}");
    fake_host_free(fake);
}

Test(claude, todos_that_do_not_count_are_passed_over)
{
    static const struct {
        const char *tool, *input, *said;
    } uses[] = {{"TodoWrite", "{\"todos\":[]}", "x"},
                {"TodoWrite", "{\"todos\":[1]}", "x"},
                {"TodoWrite", "{\"todos\":{\"a\":1}}", "x"},
                {"TodoWrite", "[]", "x"},
                {"TaskCreate", "{\"subject\":\"x\"}", "made one"},
                {"TaskCreate", "{\"subject\":\"x\"}", "Task #x"},
                {"TaskUpdate", "{\"taskId\":\"1\"}", "x"},
                {"TaskUpdate", "{\"taskId\":1,\"status\":\"completed\"}", "x"},
                {"TaskUpdate", "{\"taskId\":\"1\",\"status\":\"deleted\"}", "x"},
                {"TaskUpdate", "null", "x"},
                {"TaskList", "{}", "Task #1"}};
    struct fake_host *fake = in_turn();
    size_t i;

    for (i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
        use_tool(fake, i, uses[i].tool, uses[i].input);
        tool_says(fake, i, false, uses[i].said, "");
        cr_assert_eq(progress_count(fake), 0, "%s %s", uses[i].tool, uses[i].input);
    }
    use_tool(fake, 100, "TodoWrite", "{\"todos\":[" ITEM("a", "completed") "]}");
    tool_says(fake, 100, true, "denied", "");
    cr_assert_eq(progress_count(fake), 0, "a use that failed changed nothing");
    line(fake,
         "{\"type\":\"assistant\",\"parent_tool_use_id\":\"t\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":"
         "\"tool_use\",\"id\":\"101\",\"name\":\"TodoWrite\",\"input\":{\"todos\":[" ITEM("a", "completed") "]}}]}}");
    tool_says(fake, 101, false, "fine", "");
    cr_assert_eq(progress_count(fake), 0, "a sub-agent's list is not the job's");
    fake_host_free(fake);
}

Test(claude, the_cost_of_a_turn_has_no_more_digits_than_it_should)
{
    static const char *const totals[] = {"0.1", "0.3", "0.318089999999999995"};
    static const double costs[] = {0.1, 0.2, 0.01809};
    struct fake_host *fake = ready();
    char text[256];
    size_t i;

    for (i = 0; i < 3; i++) {
        fake_host_begin(fake, "x", 1);
        snprintf(text, sizeof(text), "{\"type\":\"result\",\"is_error\":false,\"result\":\"x\",\"total_cost_usd\":%s}",
                 totals[i]);
        line(fake, text);
        cr_assert_eq(fake->done[i].outcome.usage.cost_usd, costs[i], "%.17g", fake->done[i].outcome.usage.cost_usd);
    }
    fake_host_free(fake);
}

Test(claude, what_a_sub_agent_says_is_not_the_answer)
{
    struct fake_host *fake = play("d2-subagent", NULL);

    cr_assert_eq(fake->done_count, 1);
    cr_assert_str_eq(fake->chunks.data, fake->done[0].text);
    cr_assert_eq(fake_host_events(fake, &job_tool_use_type, "\"tool\":\"Task\""), 1);
    cr_assert_eq(fake_host_events(fake, &job_notice_type, "\"kind\":\"task_started\""), 1);
    fake_host_free(fake);
}

Test(claude, a_turn_that_nobody_asked_for_ends_nothing)
{
    struct fake_host *fake = play("d3-background-bash", NULL);

    cr_assert_eq(fake->done_count, 1);
    cr_assert_eq(fake_host_events(fake, &job_notice_type, "\"kind\":\"unsolicited_turn\""), 1);
    cr_assert_str_eq(fake->chunks.data, fake->done[0].text);
    fake_host_forget(fake);
    fake_host_begin(fake, "next", 1);
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"ok\",\"total_cost_usd\":0.04}");
    cr_assert_eq(fake->done_count, 1);
    cr_assert_float_eq(fake->done[0].outcome.usage.cost_usd, 0.04 - 0.030975, 1e-6);
    fake_host_free(fake);
}

Test(claude, a_prompt_waits_for_the_end_of_the_agents_own_turn)
{
    struct fake_host *fake = ready();

    line(fake, INIT);
    fake_host_begin(fake, "mine", 1);
    cr_assert_eq(fake->input.size, 0);
    line(fake,
         "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"text\",\"text\":\"own\"}]}}");
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"own\",\"session_id\":\"s-1\"}");
    cr_assert_eq(fake->done_count, 0);
    cr_assert_eq(fake->chunk_count, 0);
    cr_assert_not_null(strstr(fake->input.data, "\"mine\""));
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"yours\"}");
    cr_assert_eq(fake->done_count, 1);
    cr_assert_str_eq(fake->done[0].text, "yours");
    fake_host_free(fake);
}

#define NOTIFICATION "{\"type\":\"system\",\"subtype\":\"task_notification\",\"task_id\":\"b\"}"
#define OWN_RESULT "{\"type\":\"result\",\"is_error\":false,\"result\":\"own\"}"

Test(claude, a_prompt_written_just_too_late_is_not_answered_by_the_agents_own_turn)
{
    struct fake_host *fake = ready();

    fake_host_begin(fake, "mine", 1);
    line(fake, NOTIFICATION);
    line(fake, INIT);
    line(fake,
         "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"text\",\"text\":\"own\"}]}}");
    line(fake, OWN_RESULT);
    cr_assert_eq(fake->done_count, 0);
    cr_assert_eq(fake->chunk_count, 0);
    line(fake, INIT);
    line(fake, NOTIFICATION);
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"yours\"}");
    cr_assert_eq(fake->done_count, 1);
    cr_assert_str_eq(fake->done[0].text, "yours");
    fake_host_free(fake);
}

Test(claude, a_prompt_waits_for_a_turn_that_was_announced)
{
    struct fake_host *fake = ready();

    line(fake, NOTIFICATION);
    fake_host_begin(fake, "mine", 1);
    cr_assert_eq(fake->input.size, 0);
    line(fake, INIT);
    driver_claude.timer(fake->driver);
    cr_assert_eq(fake->input.size, 0);
    line(fake, OWN_RESULT);
    cr_assert_not_null(strstr(fake->input.data, "\"mine\""));
    fake_host_free(fake);
}

Test(claude, a_prompt_does_not_wait_for_ever)
{
    struct fake_host *fake = ready();

    line(fake, NOTIFICATION);
    fake_host_begin(fake, "mine", 1);
    cr_assert_gt(fake->timer_ms, 0);
    driver_claude.timer(fake->driver);
    cr_assert_not_null(strstr(fake->input.data, "\"mine\""));
    line(fake, INIT);
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"yours\"}");
    cr_assert_str_eq(fake->done[0].text, "yours");
    fake_host_free(fake);
}

Test(claude, a_prompt_that_waits_can_be_given_up)
{
    struct fake_host *fake = ready();

    line(fake, INIT);
    fake_host_begin(fake, "mine", 1);
    driver_claude.interrupt(fake->driver);
    cr_assert_eq(fake->done[0].outcome.err, MUSTER_CANCELLED);
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"own\"}");
    cr_assert_eq(fake->done_count, 1);
    cr_assert_eq(fake->input.size, 0);
    fake_host_free(fake);
}

Test(claude, an_interrupted_turn_is_cancelled_and_the_next_one_works)
{
    struct fake_host *fake = play("e2-interrupt", NULL);
    size_t i, cancelled = 0, completed = 0;

    for (i = 0; i < fake->done_count; i++) {
        cancelled += fake->done[i].outcome.err == MUSTER_CANCELLED;
        completed += fake->done[i].outcome.err == MUSTER_OK;
    }
    cr_assert_eq(cancelled, 4);
    cr_assert_eq(completed + cancelled, fake->done_count);
    cr_assert_eq(fake->done[0].outcome.err, MUSTER_CANCELLED);
    cr_assert_str_eq(fake->done[1].text, "users: slow: 8000 finished | recall:");
    cr_assert_eq(fake->busy_tools, 0);
    fake_host_free(fake);
}

Test(claude, an_interrupt_during_retries_cancels)
{
    struct fake_host *fake = play("g-api-retry-interrupt", NULL);

    cr_assert_eq(fake->done[0].outcome.err, MUSTER_CANCELLED);
    cr_assert_geq(fake_host_events(fake, &job_notice_type, "\"kind\":\"api_retry\""), 3);
    cr_assert_eq(fake->done[1].outcome.err, MUSTER_OK);
    fake_host_free(fake);
}

Test(claude, a_slash_command_changes_the_session)
{
    struct fake_host *fake = play("h-slash", NULL);

    cr_assert_eq(fake->done_count, 5);
    cr_assert_eq(strncmp(fake->done[0].text, "## Context Usage", 16), 0);
    cr_assert_str_eq(fake->done[3].text, "Unknown command: /nosuch");
    cr_assert_eq(strlen(fake->session), 36);
    fake_host_free(fake);
}

/* ---- a stream of the model that breaks ------------------------------------------------------------------------------
 */

static size_t
drops(const struct fake_host *fake)
{
    return fake_host_events(fake, &job_notice_type, "\"kind\":\"preview_dropped\"");
}

Test(claude, what_was_streamed_before_a_break_is_not_given_twice)
{
    static const char *const names[] = {"g-api-midstream-cut", "g-api-midstream-error"};
    struct fake_host *fake;
    size_t i;

    for (i = 0; i < 2; i++) {
        fake = play(names[i], NULL);
        cr_assert_eq(fake->done[0].outcome.err, MUSTER_OK);
        cr_assert_str_eq(fake->chunks.data, fake->done[0].text, "%s", names[i]);
        cr_assert_gt(fake->chunk_count, 0);
        cr_assert_eq(drops(fake), 0);
        fake_host_free(fake);
    }
}

Test(claude, the_text_of_a_broken_stream_without_an_answer_stays)
{
    struct fake_host *fake = play("g-api-cut-nofallback", NULL);

    cr_assert_eq(fake->done[0].outcome.err, MUSTER_MODEL_ERROR);
    cr_assert_str_eq(fake->chunks.data, "c0 c1 ");
    cr_assert_eq(drops(fake), 0);
    fake_host_free(fake);
}

static void
delta(struct fake_host *fake, const char *text)
{
    char event[512];

    snprintf(event, sizeof(event),
             "{\"type\":\"stream_event\",\"event\":{\"type\":\"content_block_delta\",\"delta\":{\"type\":"
             "\"text_delta\",\"text\":\"%s\"}}}",
             text);
    line(fake, event);
}

static void
message_start(struct fake_host *fake, const char *id)
{
    char event[256];

    snprintf(event, sizeof(event),
             "{\"type\":\"stream_event\",\"event\":{\"type\":\"message_start\",\"message\":{\"id\":\"%s\"}}}", id);
    line(fake, event);
}

static void
assistant(struct fake_host *fake, const char *id, const char *text)
{
    char whole[512];

    snprintf(whole, sizeof(whole),
             "{\"type\":\"assistant\",\"message\":{\"id\":\"%s\",\"content\":[{\"type\":\"text\",\"text\":\"%s\"}]}}",
             id, text);
    line(fake, whole);
}

/* A turn in which the stream of message A broke behind "one two ". */
static struct fake_host *
broken_stream(void)
{
    struct fake_host *fake = in_turn();

    message_start(fake, "A");
    delta(fake, "one ");
    delta(fake, "two ");
    return fake;
}

Test(claude, an_answer_that_begins_anew_is_given_whole_behind_a_notice)
{
    struct fake_host *fake = broken_stream();

    assistant(fake, "B", "one TWO three");
    cr_assert_eq(drops(fake), 1);
    cr_assert_str_eq(fake->chunks.data, "one two one TWO three");
    message_start(fake, "C");
    delta(fake, "next");
    assistant(fake, "C", "next");
    cr_assert_eq(drops(fake), 1);
    cr_assert_str_eq(fake->chunks.data, "one two one TWO threenext");
    fake_host_free(fake);
}

Test(claude, an_answer_told_anew_in_several_blocks_is_followed)
{
    struct fake_host *fake = broken_stream();

    assistant(fake, "B", "one ");
    assistant(fake, "B", "two three");
    assistant(fake, "B", " four");
    cr_assert_eq(drops(fake), 0);
    cr_assert_str_eq(fake->chunks.data, "one two three four");
    fake_host_free(fake);
    fake = broken_stream();
    assistant(fake, "B", "one ");
    assistant(fake, "B", "2");
    cr_assert_eq(drops(fake), 1);
    cr_assert_str_eq(fake->chunks.data, "one two one 2");
    fake_host_free(fake);
}

Test(claude, an_answer_told_anew_may_be_shorter)
{
    struct fake_host *fake = broken_stream();

    assistant(fake, "B", "one");
    cr_assert_eq(drops(fake), 0);
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"one\"}");
    cr_assert_eq(drops(fake), 1);
    cr_assert_str_eq(fake->chunks.data, "one two one");
    cr_assert_eq(fake->done_count, 1);
    fake_host_free(fake);
}

/* ---- failures -------------------------------------------------------------------------------------------------------
 */

static const struct {
    const char *transcript;
    muster_err err;
    const char *text; /* in the message */
} failures[] = {
    {"g-api-400", MUSTER_MODEL_REFUSED, "400"},
    {"g-api-401", MUSTER_MODEL_AUTH, "Failed to authenticate"},
    {"g-api-403", MUSTER_MODEL_AUTH, "403"},
    {"g-api-404", MUSTER_MODEL_REFUSED, ""},
    {"g-api-429-always", MUSTER_MODEL_RATE_LIMITED, "429"},
    {"g-api-529-always", MUSTER_MODEL_OVERLOADED, "Overloaded"},
    {"g-api-529-maxretries0", MUSTER_MODEL_OVERLOADED, ""},
    {"g-api-down", MUSTER_MODEL_ERROR, "Unable to connect"},
    {"g-api-nokey", MUSTER_MODEL_AUTH, "Please run /login"},
    {"g-api-cut-nofallback", MUSTER_MODEL_ERROR, "Connection to the API was lost"},
    {"h-max-turns", MUSTER_MAX_TURNS, "Reached maximum number of turns (2)"},
    {"h-max-budget", MUSTER_MAX_TURNS, "Reached maximum budget"},
};

Test(claude, failures_have_their_codes)
{
    struct fake_host *fake;
    size_t i;

    for (i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
        fake = play(failures[i].transcript, NULL);
        cr_assert_geq(fake->done_count, 1, "%s", failures[i].transcript);
        cr_assert_eq(fake->done[0].outcome.err, failures[i].err, "%s: %s", failures[i].transcript,
                     muster_err_code(fake->done[0].outcome.err));
        cr_assert_not_null(strstr(fake->done[0].text, failures[i].text), "%s: %s", failures[i].transcript,
                           fake->done[0].text);
        fake_host_free(fake);
    }
}

Test(claude, the_text_of_a_failure_is_no_chunk)
{
    struct fake_host *fake = play("g-api-down", NULL);

    cr_assert_eq(fake->chunk_count, 0);
    cr_assert_geq(fake_host_events(fake, &job_notice_type, "\"kind\":\"api_retry\""), 3);
    fake_host_free(fake);
}

Test(claude, a_failed_turn_is_no_end_of_the_process)
{
    struct fake_host *fake = play("g-api-401", NULL);

    cr_assert_eq(fake->done_count, 2);
    cr_assert_eq(fake->done[1].outcome.err, MUSTER_OK);
    cr_assert_str_eq(fake->done[1].text, "next turn ok");
    cr_assert_str_eq(fake->broken, "");
    fake_host_free(fake);
}

Test(claude, a_used_up_budget_is_the_end_of_the_process)
{
    struct fake_host *fake = play("h-max-budget", NULL);

    cr_assert_str_neq(fake->broken, "");
    fake_host_free(fake);
}

Test(claude, a_session_that_is_gone_is_begun_afresh)
{
    struct fake_host *fake = fake_host_new(&driver_claude);

    driver_claude.started(fake->driver);
    line(fake, "{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"is_error\":true,\"num_turns\":0,"
               "\"errors\":[\"No conversation found with session ID: x\"]}");
    cr_assert_eq(fake->done_count, 0);
    driver_claude.exited(fake->driver, 1 << 8, "");
    cr_assert_eq(fake->done[0].outcome.err, MUSTER_PROCESS_ERROR);
    cr_assert(fake->done[0].outcome.fresh_session);
    cr_assert_eq(fake->event_count, 0, "it is no turn of the agent's own");
    fake_host_free(fake);
    fake = play("f6-resume-unknown", NULL);
    cr_assert_eq(fake->done[0].outcome.err, MUSTER_PROCESS_ERROR);
    cr_assert(fake->done[0].outcome.fresh_session);
    fake_host_free(fake);
}

Test(claude, a_rejected_account_waits_until_its_reset)
{
    static const char *const resets[] = {"99999999999", "1"};
    static const int64_t waits[] = {6 * 3600 * 1000, 60 * 1000};
    struct fake_host *fake;
    char text[256];
    size_t i;

    for (i = 0; i < 2; i++) {
        fake = in_turn();
        snprintf(text, sizeof(text),
                 "{\"type\":\"rate_limit_event\",\"rate_limit_info\":{\"status\":\"rejected\",\"resetsAt\":%s}}",
                 resets[i]);
        line(fake, text);
        line(fake, "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":true,\"api_error_status\":429,"
                   "\"result\":\"limit\"}");
        cr_assert_eq(fake->done[0].outcome.err, MUSTER_MODEL_RATE_LIMITED);
        cr_assert_eq(fake->done[0].outcome.retry_after_ms, waits[i]);
        cr_assert_eq(fake_host_events(fake, &job_notice_type, "rate_limit_event"), 1);
        fake_host_free(fake);
    }
}

/* ---- permissions ----------------------------------------------------------------------------------------------------
 */

Test(claude, rules_answer_permission_requests)
{
    static const char *const allow[] = {"Bash(mkdir perm/*)", NULL};
    struct fake_host *fake = play("e3-permission", allow);

    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"verdict\":\"denied\""), 3);
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"rule\":\"Bash(mkdir perm/*)\""), 9);
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"input\":{\"command\":\"mkdir perm/d1\""), 1);
    cr_assert_not_null(strstr(fake->input.data,
                              "\"response\":{\"behavior\":\"allow\",\"updatedInput\":{\"command\":\"mkdir perm/a2\","
                              "\"description\":\"make dir\"}}"));
    cr_assert_not_null(
        strstr(fake->input.data,
               "\"request_id\":\"f0eb6de2-1f47-4a53-9290-968e5f136939\",\"response\":{\"behavior\":\"allow\""));
    cr_assert_not_null(strstr(fake->input.data, "{\"behavior\":\"deny\",\"message\":\"No rule allows Write here."));
    fake_host_free(fake);
}

Test(claude, other_requests_of_the_agent_are_refused)
{
    struct fake_host *fake = play("e4-hooks", NULL);

    cr_assert_not_null(strstr(fake->input.data, "{\"subtype\":\"error\",\"request_id\":\"a8e0fb67-42df-4ab9-961b-"
                                                "c669f50a48ef\",\"error\":\"Unsupported control request subtype: "
                                                "hook_callback\"}"));
    fake_host_free(fake);
}

#define HOOK(id, tool, input)                                                                                          \
    "{\"type\":\"control_request\",\"request_id\":\"h-" id                                                             \
    "\",\"request\":{\"subtype\":\"hook_callback\",\"callback_id\":"                                                   \
    "\"deny\",\"input\":{\"hook_event_name\":\"PreToolUse\",\"tool_name\":\"" tool "\",\"tool_input\":" input          \
    ",\"tool_use_id\":\"" id "\"}}}"
#define CAN_USE(id, tool, input)                                                                                       \
    "{\"type\":\"control_request\",\"request_id\":\"c-" id                                                             \
    "\",\"request\":{\"subtype\":\"can_use_tool\",\"tool_name\":"                                                      \
    "\"" tool "\",\"input\":" input ",\"tool_use_id\":\"" id "\"}}"
#define NO_DECISION(id)                                                                                                \
    "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"request_id\":\"h-" id                      \
    "\",\"response\":{}}}\n"

/* In a turn of a team with deny rules. */
static struct fake_host *
with_denials(void)
{
    static const char *const deny[] = {"Read(*.env)", "Bash(cat *)", "Edit(keys/*)"};
    struct fake_host *fake = in_turn();

    fake->permissions.deny = (struct muster_strs){deny, 3};
    return fake;
}

Test(claude, asks_to_see_every_use_of_a_tool_only_when_something_is_denied)
{
    static const char *const deny[] = {"Read(*.env)"};
    struct fake_host *fake = fake_host_new(&driver_claude);

    fake->permissions.allow = (struct muster_strs){deny, 1};
    driver_claude.started(fake->driver);
    cr_assert_null(strstr(fake->input.data, "hooks"));
    fake_host_forget(fake);
    fake->permissions.deny = (struct muster_strs){deny, 1};
    driver_claude.started(fake->driver);
    cr_assert_not_null(strstr(fake->input.data, "\"request\":{\"subtype\":\"initialize\",\"hooks\":{\"PreToolUse\":[{"
                                                "\"hookCallbackIds\":[\"deny\"],\"timeout\":3600}]}}}"));
    fake_host_free(fake);
}

Test(claude, a_deny_rule_stops_what_the_agent_would_not_ask_about)
{
    struct fake_host *fake = with_denials();

    line(fake, HOOK("1", "Read", "{\"file_path\":\"/work-dir/work/.env\"}"));
    cr_assert_not_null(strstr(fake->input.data,
                              "\"request_id\":\"h-1\",\"response\":{\"hookSpecificOutput\":{\"hookEventName\":"
                              "\"PreToolUse\",\"permissionDecision\":\"deny\",\"permissionDecisionReason\":\"The rule "
                              "Read(*.env) does not allow this. Go on without it.\"}}"));
    line(fake, HOOK("2", "Bash", "{\"command\":\"ls; cat .env\"}"));
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"denied\""), 2);
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"rule\":\"Bash(cat *)\""), 1);
    cr_assert_str_eq(fake->denied.data, "1 2 ");
    fake_host_free(fake);
}

Test(claude, what_no_deny_rule_names_takes_the_agents_own_way)
{
    struct fake_host *fake = with_denials();

    line(fake, HOOK("1", "Read", "{\"file_path\":\"/work-dir/work/a.c\"}"));
    cr_assert_not_null(strstr(fake->input.data, NO_DECISION("1")));
    line(fake, HOOK("2", "Write", "{\"file_path\":\"a.c\"}"));
    cr_assert_eq(fake->event_count, 0, "nothing was decided");
    line(fake, CAN_USE("2", "Write", "{\"file_path\":\"a.c\"}"));
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"denied\""), 1, "no rule allows it");
    cr_assert_str_eq(fake->denied.data, "2 ");
    fake_host_free(fake);
}

Test(claude, a_use_that_is_denied_twice_is_told_once)
{
    struct fake_host *fake = with_denials();

    line(fake, HOOK("1", "Bash", "{\"command\":\"cat x\"}"));
    line(fake, CAN_USE("1", "Bash", "{\"command\":\"cat x\"}"));
    cr_assert_eq(fake->event_count, 1);
    cr_assert_not_null(strstr(fake->input.data, "\"behavior\":\"deny\""));
    line(fake, HOOK("2", "Bash", "{\"command\":\"cat x\"}"));
    cr_assert_eq(fake->event_count, 2);
    fake_host_free(fake);
}

Test(claude, a_use_that_is_told_after_its_denial_does_not_count_either)
{
    struct fake_host *fake = with_denials();

    line(fake, HOOK("1", "Bash", "{\"command\":\"cat x\"}"));
    line(fake,
         "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"tool_use\",\"id\":\"1\",\"name\":"
         "\"Bash\",\"input\":{\"command\":\"cat x\"}}]}}");
    cr_assert_str_eq(fake->denied.data, "1 1 ");
    fake_host_free(fake);
}

Test(claude, in_doubt_a_use_is_stopped_where_something_is_denied)
{
    struct fake_host *fake = with_denials();

    line(fake, HOOK("1", "Bash", "{\"command\":\"ca\\u0000t x\"}"));
    cr_assert_not_null(strstr(fake->input.data, "\"permissionDecision\":\"deny\""));
    muster_buf_clear(&fake->input);
    line(fake, "{\"type\":\"control_request\",\"request_id\":\"2\",\"request\":{\"subtype\":\"hook_callback\","
               "\"callback_id\":\"deny\"}}");
    cr_assert_not_null(strstr(fake->input.data, "\"permissionDecision\":\"deny\""));
    fake_host_free(fake);
}

Test(claude, a_rule_holds_for_both_names_of_the_directory)
{
    struct fake_host *fake = with_denials();

    fake->host.directory = "/mnt/real";
    line(fake, HOOK("1", "Edit", "{\"file_path\":\"/mnt/real/keys/a\"}"));
    line(fake, HOOK("2", "Edit", "{\"file_path\":\"/work-dir/work/keys/a\"}"));
    line(fake, HOOK("3", "Edit", "{\"file_path\":\"/elsewhere/keys/a\"}"));
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"rule\":\"Edit(keys/*)\""), 2);
    cr_assert_str_eq(fake->denied.data, "1 2 ");
    fake_host_free(fake);
}

Test(claude, an_allow_rule_holds_for_both_names_of_the_directory)
{
    static const char *const allow[] = {"Edit(src/*)"};
    struct fake_host *fake = with_denials();

    fake->permissions.allow = (struct muster_strs){allow, 1};
    fake->host.directory = "/mnt/real";
    line(fake, CAN_USE("1", "Edit", "{\"file_path\":\"/mnt/real/src/a\"}"));
    line(fake, CAN_USE("2", "Edit", "{\"file_path\":\"/work-dir/work/src/a\"}"));
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"allowed\""), 2);
    line(fake, CAN_USE("3", "Edit", "{\"file_path\":\"/elsewhere/src/a\"}"));
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"denied\""), 1);
    fake_host_free(fake);
}

Test(claude, what_the_agent_denied_by_itself_is_told_with_the_result)
{
    struct fake_host *fake = with_denials();

    line(fake, HOOK("1", "Bash", "{\"command\":\"cat x\"}"));
    line(fake,
         "{\"type\":\"result\",\"is_error\":false,\"result\":\"x\",\"permission_denials\":[{\"tool_use_id\":\"1\"},"
         "{\"tool_use_id\":\"2\"},{\"tool_use_id\":3},7]}");
    cr_assert_str_eq(fake->denied.data, "1 2 ");
    cr_assert_eq(fake->done_count, 1);
    fake_host_free(fake);
}

Test(claude, input_that_cannot_be_passed_on_unchanged_is_denied)
{
    static const char *const allow[] = {"*", NULL};
    struct fake_host *fake = in_turn();

    fake->permissions.allow = (struct muster_strs){allow, 1};
    line(fake, "{\"type\":\"control_request\",\"request_id\":\"1\",\"request\":{\"subtype\":\"can_use_tool\","
               "\"tool_name\":\"Bash\",\"input\":{\"command\":\"a\\u0000b\"}}}");
    line(fake, "{\"type\":\"control_request\",\"request_id\":\"2\",\"request\":{\"subtype\":\"can_use_tool\","
               "\"tool_name\":\"Bash\",\"input\":{\"command\":\"ab\"}}}");
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"denied\""), 1);
    cr_assert_eq(fake_host_events(fake, &job_permission_type, "\"allowed\""), 1);
    fake_host_free(fake);
}

/* ---- lines of any kind ----------------------------------------------------------------------------------------------
 */

Test(claude, unknown_lines_are_notices)
{
    struct fake_host *fake = in_turn();

    line(fake, "{\"type\":\"tool_progress\",\"elapsed\":3}");
    line(fake, "{\"type\":\"system\",\"subtype\":\"new_thing\",\"n\":1}");
    line(fake, "{\"no\":\"type\"}");
    cr_assert_eq(fake_host_events(fake, &job_notice_type, "\"data\":{\"type\":\"tool_progress\",\"elapsed\":3}"), 1);
    cr_assert_eq(fake_host_events(fake, &job_notice_type, "\"kind\":\"new_thing\""), 1);
    cr_assert_eq(fake_host_events(fake, &job_notice_type, "\"kind\":\"unknown\""), 1);
    fake_host_forget(fake);
    line(fake, "{\"type\":\"system\",\"subtype\":\"status\"}");
    line(fake, "{\"type\":\"system\",\"subtype\":\"thinking_tokens\"}");
    line(fake, "{\"type\":\"system\",\"subtype\":\"hook_started\"}");
    line(fake, "{\"type\":\"keep_alive\"}");
    line(fake, "{\"type\":\"control_cancel_request\"}");
    line(fake, "");
    line(fake, "  \t");
    cr_assert_eq(fake->event_count, 0);
    fake_host_free(fake);
}

Test(claude, a_line_that_is_no_json_is_a_notice_and_the_turn_goes_on)
{
    struct fake_host *fake = in_turn();

    line(fake, "warning: \xff something \x01 else");
    line(fake, "{\"type\":\"result\"");
    line(fake, "[1,2]");
    line(fake, "null");
    cr_assert_eq(fake_host_events(fake, &job_notice_type, "\"kind\":\"unparsed_line\""), 4);
    cr_assert_eq(fake->done_count, 0);
    line(fake, "{\"type\":\"result\",\"is_error\":false,\"result\":\"fine\"}");
    cr_assert_str_eq(fake->done[0].text, "fine");
    fake_host_free(fake);
}

Test(claude, text_with_broken_characters_is_mended)
{
    struct fake_host *fake = in_turn();

    line(fake,
         "{\"type\":\"result\",\"is_error\":false,\"result\":\"a\\ud83d b\\u0000 c\\\\u0000 \\ud83d\\ude00 \xff\","
         "\"n\":123456789012345678901234567890}");
    cr_assert_eq(fake->done_count, 1);
    cr_assert_str_eq(fake->done[0].text, "a\xef\xbf\xbd b\xef\xbf\xbd c\\u0000 \xf0\x9f\x98\x80 \xef\xbf\xbd");
    fake_host_free(fake);
}

static void
deep_line(struct fake_host *fake, const char *head)
{
    struct muster_buf text = {0};
    size_t i;

    muster_buf_str(&text, head);
    for (i = 0; i < 100; i++)
        muster_buf_str(&text, "[");
    for (i = 0; i < 100; i++)
        muster_buf_str(&text, "]");
    muster_buf_str(&text, "}");
    line(fake, text.data);
    muster_buf_free(&text);
}

Test(claude, a_line_nested_too_deeply_breaks_only_what_somebody_waits_for)
{
    struct fake_host *fake = in_turn();

    deep_line(fake, "{\"type\":\"user\",\"x\":");
    cr_assert_str_eq(fake->broken, "");
    deep_line(fake, "{\"type\":\"control_request\",\"x\":");
    cr_assert_str_neq(fake->broken, "");
    fake_host_free(fake);
}

Test(claude, text_without_deltas_is_given_whole)
{
    struct fake_host *fake = in_turn();

    line(fake,
         "{\"type\":\"assistant\",\"message\":{\"id\":\"m1\",\"content\":[{\"type\":\"text\",\"text\":\"whole\"}]}}");
    line(fake, "{\"type\":\"assistant\",\"parent_tool_use_id\":\"t\",\"message\":{\"id\":\"m2\",\"content\":[{\"type\":"
               "\"text\",\"text\":\"sub\"}]}}");
    cr_assert_str_eq(fake->chunks.data, "whole");
    fake_host_free(fake);
}

Test(claude, a_line_of_many_megabytes_is_read)
{
    struct fake_host *fake = in_turn();
    struct muster_buf text = {0};
    size_t i, size = 20 << 20;

    muster_buf_str(&text, "{\"type\":\"result\",\"is_error\":false,\"result\":\"");
    for (i = 0; i < size; i += 8)
        muster_buf_str(&text, i % 4096 ? "abcdefgh" : "ab\\ndef\\\"");
    muster_buf_str(&text, "\"}");
    line(fake, text.data);
    cr_assert_eq(fake->done_count, 1);
    cr_assert_gt(fake->done[0].outcome.text_size, size - size / 1024);
    text.data[text.size - 3] = '\xff'; /* the slow way: mended */
    fake_host_begin(fake, "again", 1);
    line(fake, text.data);
    cr_assert_eq(fake->done_count, 2);
    muster_buf_free(&text);
    fake_host_free(fake);
}

static uint32_t
next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void
play_mangled(struct fake_host *fake, const char *text, uint32_t *state)
{
    char *copy = muster_strdup(text);
    size_t size = strlen(copy), i, changes = next_random(state) % 4;

    if (next_random(state) % 3 == 0)
        size = next_random(state) % (uint32_t)(size + 1);
    for (i = 0; i < changes && size; i++)
        copy[next_random(state) % (uint32_t)size] = (char)next_random(state);
    copy[size] = '\0';
    driver_claude.line(fake->driver, copy, size);
    free(copy);
}

/* Lines cut short and lines with wrong bytes, in and out of turns: no crash, and every event fits its row. */
Test(claude, mangled_lines_are_harmless)
{
    static const char *const names[] = {"d-tools", "e2-interrupt", "e3-permission", "g-api-429-always"};
    struct fake_host *fake = ready();
    uint32_t state = 20260101;
    char path[512], *text = NULL;
    size_t capacity = 0, i;
    FILE *file;
    json_t *record;
    char *out;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/tests/transcripts/%s.jsonl", MUSTER_SOURCE_DIR, names[i]);
        file = fopen(path, "r");
        cr_assert_not_null(file);
        while (getline(&text, &capacity, file) > 0) {
            if (next_random(&state) % 5 == 0)
                fake_host_begin(fake, "x", 1);
            record = json_loads(text, 0, NULL);
            out = json_dumps(json_object_get(record, "v"), JSON_COMPACT | JSON_ENCODE_ANY);
            play_mangled(fake, out, &state);
            free(out);
            json_decref(record);
            fake_host_forget(fake);
        }
        fclose(file);
    }
    free(text);
    fake_host_begin(fake, "x", 1);
    driver_claude.exited(fake->driver, 0, NULL);
    cr_assert_geq(fake->done_count, 1);
    fake_host_free(fake);
}
