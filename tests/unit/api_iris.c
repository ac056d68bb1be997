/* SPDX-License-Identifier: MPL-2.0 */
/* The iris dialect word by word, with a queue of the tests' own behind it. */
#include "tests/unit/api_iris_help.h"

TestSuite(iris, .init = open_rig, .fini = close_rig, .timeout = 60);

/* ---- ask ------------------------------------------------------------------------------------------------------------ */

#define ASK "/api/v1/teams/backend/ask"

Test(iris, ask_answers_with_all_fields_of_the_document)
{
    json_t *json = call("POST", ASK, "{\"question\":\"What?\",\"timeout\":30000,\"context\":{\"source\":\"x\"}}", 200);
    json_t *metadata = json_object_get(json, "metadata");

    cr_expect_eq(strncmp(text_of(json, "messageId"), "msg_", 4), 0);
    cr_expect_str_eq(text_of(json, "team"), "backend");
    cr_expect_str_eq(text_of(json, "question"), "What?");
    cr_expect_str_eq(text_of(json, "response"), "We use Prisma");
    cr_expect_eq(number_of(json, "duration"), 2847);
    cr_expect_gt(number_of(json, "timestamp"), 1600000000000);
    cr_expect_eq(json_array_size(json_object_get(metadata, "toolsUsed")), 2);
    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(metadata, "filesAccessed"), 0)), "a.c");
    cr_expect_eq(number_of(json_object_get(metadata, "usage"), "outputTokens"), 4);
    json_decref(json);
}

Test(iris, a_failed_ask_has_the_status_and_words_of_its_failure)
{
    json_t *json = call("POST", ASK, "{\"question\":\"fail\"}", 502);

    cr_expect_str_eq(text_of(json, "code"), "MODEL_AUTH");
    cr_expect_str_eq(text_of(json, "message"), "invalid x-api-key");
    cr_expect_eq(number_of(json_object_get(json, "details"), "attempts"), 3);
    cr_expect_eq(strncmp(text_of(json_object_get(json, "details"), "messageId"), "msg_", 4), 0);
    json_decref(json);
}

Test(iris, an_ask_that_takes_too_long_is_408_and_names_its_message)
{
    json_t *json = call("POST", ASK, "{\"question\":\"silence\",\"timeout\":50}", 408);
    json_t *details = json_object_get(json, "details");
    char id[MUSTER_ID_TEXT];

    muster_id_text(&rig.last_job, id);
    cr_expect_str_eq(text_of(json, "code"), "TIMEOUT");
    cr_expect_str_eq(text_of(details, "messageId") + 4, id);
    cr_expect_str_eq(text_of(details, "jobId") + 4, id);
    cr_expect_str_eq(text_of(details, "status"), "queued");
    cr_expect_str_eq(text_of(details, "statusUrl") + strlen("/api/v1/messages/msg_"), id);
    json_decref(json);
}

Test(iris, a_queue_that_refuses_is_503_with_retry_after)
{
    char text[16] = "";

    expect_error(ASK, "{\"question\":\"refuse\"}", 503, "QUEUE_FULL");
    cr_expect(answer_header(&answer, "Retry-After", text, sizeof text));
    cr_expect_str_eq(text, "3");
}

Test(iris, asks_that_do_not_fit_are_400)
{
    static const char *const bodies[] = {"{}",
                                         "{\"question\":\"\"}",
                                         "{\"question\":1}",
                                         "{\"question\":\"x\",\"timeout\":0}",
                                         "{\"question\":\"x\",\"timeout\":-1}",
                                         "{\"question\":\"x\",\"timeout\":80000000}",
                                         "{\"question\":\"x\",\"timeout\":\"1\"}",
                                         "{\"question\":\"x\",\"context\":7}",
                                         "{\"question\":\"x\",\"priority\":\"urgent\"}"};
    size_t i;

    for (i = 0; i < sizeof bodies / sizeof *bodies; i++)
        expect_error(ASK, bodies[i], 400, "INVALID_REQUEST");
    cr_expect_eq(rig.submits, 0);
}

Test(iris, unknown_fields_are_ignored)
{
    json_decref(call("POST", ASK, "{\"question\":\"x\",\"stream\":true,\"nonsense\":{}}", 200));
}

Test(iris, unknown_teams_are_404)
{
    expect_error("/api/v1/teams/nobody/ask", "{\"question\":\"x\"}", 404, "TEAM_NOT_FOUND");
}

Test(iris, the_seeds_example_scopes_may_ask)
{
    json_decref(call_as(BACKEND_KEY, "POST", ASK, "{\"question\":\"x\"}", 200));
}

Test(iris, a_reader_may_not_ask)
{
    json_t *json = call_as(READER_KEY, "POST", ASK, "{\"question\":\"x\"}", 403);

    cr_expect_str_eq(text_of(json, "error"), "Insufficient permissions");
    cr_expect_str_eq(text_of(json, "message"), "Insufficient permissions: the key lacks messages:write");
    cr_expect_eq(json_array_size(json_object_get(json_object_get(json, "details"), "required")), 2);
    cr_expect(
        json_equal(json_object_get(json, "required"), json_object_get(json_object_get(json, "details"), "required")));
    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(json, "provided"), 0)), "teams:read");
    json_decref(json);
}

Test(iris, submits_go_through_the_limiter_once)
{
    json_t *json = call_as(SPENT_KEY, "POST", ASK, "{\"question\":\"x\"}", 429);

    cr_expect_str_eq(text_of(json, "error"), "Rate limit exceeded");
    cr_expect_eq(number_of(json_object_get(json, "details"), "limit"), 1000);
    cr_expect_eq(number_of(json, "limit"), 1000);
    cr_expect_eq(number_of(json, "window"), 60000);
    cr_expect_eq(number_of(json, "resetAt"), number_of(json_object_get(json, "details"), "resetAt"));
    cr_expect_gt(number_of(json, "resetAt"), muster_clock_ms());
    cr_expect_eq(rig.taken, 1);
    cr_expect_eq(rig.submits, 0);
    json_decref(json);
}

Test(iris, a_submit_that_is_refused_for_its_body_counts_once)
{
    char text[32] = "";

    json_decref(call_as(SPENT_KEY, "POST", ASK, "{\"question\":\"x\",\"context\":7}", 429));
    cr_expect_eq(rig.taken, 1);
    cr_expect(answer_header(&answer, "X-RateLimit-Limit", text, sizeof text));
    cr_expect_eq(rig.submits, 0);
}

Test(iris, a_draining_server_takes_no_new_work_but_answers_reads)
{
    http_server_drain(rig.server);
    expect_error(ASK, "{\"question\":\"x\"}", 503, "SHUTTING_DOWN");
    json_decref(call("GET", "/api/v1/teams", NULL, 200));
}

/* ---- execute -------------------------------------------------------------------------------------------------------- */

#define EXECUTE "/api/v1/teams/backend/execute"

Test(iris, execute_answers_202_with_all_fields_of_the_document)
{
    json_t *json =
        call("POST", EXECUTE,
             "{\"task\":\"x\",\"priority\":\"high\",\"timeout\":5000,\"retry\":{\"maxAttempts\":7},\"callback\":"
             "{\"url\":\"https://example.com/hook\",\"method\":\"PUT\",\"headers\":{\"Authorization\":\"Bearer s\"}}}",
             202);
    char id[MUSTER_ID_TEXT];

    muster_id_text(&rig.last_job, id);
    cr_expect_str_eq(text_of(json, "jobId") + 4, id);
    cr_expect_eq(strncmp(text_of(json, "jobId"), "job_", 4), 0);
    cr_expect_eq(strncmp(text_of(json, "messageId"), "msg_", 4), 0);
    cr_expect_str_eq(text_of(json, "team"), "backend");
    cr_expect_str_eq(text_of(json, "status"), "queued");
    cr_expect_eq(number_of(json, "estimatedCompletion"), 1704067500000);
    cr_expect_eq(number_of(json, "position"), 3);
    cr_expect_eq(rig.last_timeout_ms, 5000);
    cr_expect_eq(rig.last_max_attempts, 7);
    cr_expect_str_eq(rig.last_callback, "https://example.com/hook");
    json_decref(json);
}

Test(iris, a_timeout_beyond_the_teams_is_the_teams)
{
    json_decref(call("POST", EXECUTE, "{\"task\":\"x\",\"timeout\":86400000}", 202));
    cr_expect_eq(rig.last_timeout_ms, 30 * 60 * 1000);
}

Test(iris, callbacks_that_could_do_harm_are_400)
{
    static const char *const callbacks[] = {
        "{\"url\":\"ftp://example.com\"}",
        "{\"url\":\"http://\"}",
        "{\"url\":\"http:///path\"}",
        "{\"url\":\"http://example.com/a b\"}",
        "{\"url\":\"http://example.com/\\r\\nX: y\"}",
        "{\"url\":\"http://example.com\",\"method\":\"GET\"}",
        "{\"url\":\"http://example.com\",\"headers\":{\"X\":\"a\\r\\nY: b\"}}",
        "{\"url\":\"http://example.com\",\"headers\":{\"X\\n\":\"a\"}}",
        "{\"url\":\"http://example.com\",\"headers\":{\"Host\":\"other\"}}",
        "{\"url\":\"http://example.com\",\"headers\":{\"content-length\":\"1\"}}",
    };
    char body[256];
    size_t i;

    for (i = 0; i < sizeof callbacks / sizeof *callbacks; i++) {
        snprintf(body, sizeof body, "{\"task\":\"x\",\"callback\":%s}", callbacks[i]);
        expect_error(EXECUTE, body, 400, "INVALID_REQUEST");
        cr_expect(answer_has(&answer, "\"field\":\"callback."), "%s: %s", callbacks[i], answer.body.data);
    }
    cr_expect_eq(rig.submits, 0);
}

Test(iris, callbacks_to_private_addresses_are_refused_at_once)
{
    static const char *const urls[] = {"http://127.0.0.1:9/x", "http://localhost/",  "http://2130706433/",
                                       "http://0x7f.1/",       "http://[::1]:8080/", "https://192.168.0.9/"};
    char body[256];
    size_t i;

    for (i = 0; i < sizeof urls / sizeof *urls; i++) {
        snprintf(body, sizeof body, "{\"task\":\"x\",\"callback\":{\"url\":\"%s\"}}", urls[i]);
        expect_error(EXECUTE, body, 400, "INVALID_REQUEST");
        cr_expect(answer_has(&answer, "\"field\":\"callback.url\""), "%s", urls[i]);
        cr_expect(answer_has(&answer, "unless webhooks.allow_private is set"), "%s", urls[i]);
    }
    cr_expect_eq(rig.submits, 0);
}

Test(iris, callbacks_to_private_addresses_can_be_allowed)
{
    struct muster_buf yaml = {0};

    close_rig();
    muster_buf_printf(&yaml, "%swebhooks: {allow_private: true}\n", rig_options);
    open_rig_with(yaml.data);
    muster_buf_free(&yaml);
    json_decref(call("POST", EXECUTE, "{\"task\":\"x\",\"callback\":{\"url\":\"http://127.0.0.1:9/x\"}}", 202));
    cr_expect_str_eq(rig.last_callback, "http://127.0.0.1:9/x");
}

Test(iris, what_is_wrong_with_a_field_is_said_alike)
{
    static const struct {
        const char *path, *body, *expected;
    } rows[] = {
        {ASK, "{\"question\":\"x\",\"context\":7}", "\"message\":\"context: must be an object\""},
        {ASK, "{\"question\":\"x\",\"timeout\":80000000}", "\"message\":\"timeout: must be at most 1800000\""},
        {ASK, "{\"question\":7}", "\"message\":\"question: must be text"},
        {ASK, "", "\"message\":\"a JSON object is required\""},
        {EXECUTE, "{\"task\":\"x\",\"callback\":{\"url\":\"ftp://x.example\"}}",
         "\"expected\":\"must be an http or https URL\""},
        {"/api/v1/messages/history?limit=0", NULL, "\"message\":\"limit: must be a whole number, 1 to 200\""},
        {"/api/v1/messages/history?status=done", NULL, "\"expected\":\"must be one of queued, processing"},
        {"/api/v1/messages/history?since=soon", NULL, "\"expected\":\"must be unix milliseconds or"},
        {"/api/v1/teams/backend/stream", NULL, "\"message\":\"message: must be the message"},
    };
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        expect_error(rows[i].path, rows[i].body, 400, "INVALID_REQUEST");
        cr_expect(answer_has(&answer, rows[i].expected), "%s: %s", rows[i].expected, answer.body.data);
    }
}

/* ---- streams -------------------------------------------------------------------------------------------------------- */

static void
publish_body(const struct muster_id *job, int64_t seq, const struct muster_type *type, const void *in, bool stored)
{
    struct muster_buf body = {0};
    struct event event;

    muster_pack(type, in, &body);
    event = (struct event){.seq = seq,
                           .at_ms = 1704067200000,
                           .type = type->wire,
                           .team = "backend",
                           .job = *job,
                           .attempt = 1,
                           .body = {(const uint8_t *)body.data, body.size}};
    if (stored) {
        struct muster_batch *batch = muster_batch_new(rig.house.store);

        muster_batch_append(batch, &event);
        NEED(muster_batch_commit(batch) == MUSTER_OK);
        muster_batch_free(&batch);
    }
    publish(&rig, &event);
    muster_buf_free(&body);
}

static struct client
open_stream(const char *method, const char *path, const char *cursor, const char *body)
{
    struct client client = client_open(&rig);

    client_say(&client, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n", method, path, ADMIN_KEY);
    if (cursor)
        client_say(&client, "Last-Event-ID: %s\r\n", cursor);
    client_say(&client, "Content-Length: %zu\r\n\r\n%s", body ? strlen(body) : 0, body ? body : "");
    cr_assert(client_until(&client, "\r\n\r\nretry: 2000\n\n") != NULL, "%s", client.in.data);
    return client;
}

static void
expect_event(struct client *client, int64_t seq, const char *format)
{
    char text[1024], expected[1024], id[MUSTER_ID_TEXT], *end;

    muster_id_text(&rig.last_job, id);
    cr_assert_eq(client_event(client, text, sizeof text), seq);
    end = strchr(text, '\n');
    snprintf(expected, sizeof expected, format, id);
    cr_expect_str_eq(end + 1, expected);
}

#define STREAM "/api/v1/teams/backend/stream"

static void
publish_story(void)
{
    const struct muster_id *job = &rig.last_job;

    publish_body(job, 1, &job_queued_type, &(struct job_queued){job_priority_NORMAL, 1}, true);
    publish_body(job, 2, &job_started_type, &(struct job_started){.process = 7}, true);
    publish_body(job, 3, &job_chunk_type, &(struct job_chunk){"The \"flow\"\n"}, true);
    publish_body(job, 4, &job_tool_use_type, &(struct job_tool_use){.tool = "Read", .file = "src/auth/jwt.ts"}, true);
    publish_body(job, 5, &job_retrying_type, &(struct job_retrying){"PROCESS_ERROR", "exit 1", 1000}, true);
    publish_body(job, 6, &job_completed_type, &(struct job_completed){.duration_ms = 4532}, true);
}

static void
expect_story_after_start(struct client *client)
{
    expect_event(client, 3, "event: chunk\ndata: {\"text\":\"The \\\"flow\\\"\\n\"}");
    expect_event(client, 4, "event: tool_use\ndata: {\"tool\":\"Read\",\"file\":\"src/auth/jwt.ts\"}");
    expect_event(client, 5,
                 "event: retry\ndata: {\"messageId\":\"msg_%s\",\"code\":\"PROCESS_ERROR\",\"message\":\"exit "
                 "1\",\"delay\":1000}");
    expect_event(client, 6,
                 "event: complete\ndata: {\"messageId\":\"msg_%s\",\"duration\":4532,\"timestamp\":1704067200000}");
    cr_expect_eq(client_event(client, NULL, 0), -1);
}

Test(iris, a_stream_says_what_the_document_shows)
{
    struct client client = open_stream("POST", STREAM, NULL, "{\"message\":\"Explain\",\"stream\":true}");

    publish_story();
    expect_event(&client, 1, "event: start\ndata: {\"messageId\":\"msg_%s\",\"team\":\"backend\"}");
    expect_story_after_start(&client);
    client_close(&client);
}

Test(iris, an_event_source_gives_its_message_in_the_query)
{
    struct client client = open_stream("GET", STREAM "?message=Explain%20it&priority=high", NULL, NULL);

    cr_expect_eq(rig.submits, 1);
    client_close(&client);
    expect_error(STREAM, NULL, 400, "INVALID_REQUEST");
    expect_error(STREAM "?message=x&priority=urgent", NULL, 400, "INVALID_REQUEST");
}

Test(iris, a_cancelled_or_failed_job_ends_its_stream_with_an_error)
{
    struct client client = open_stream("POST", STREAM, NULL, "{\"message\":\"x\"}");

    publish_body(&rig.last_job, 1, &job_failed_type,
                 &(struct job_failed){.code = "MODEL_AUTH", .message = "no \xe2\x82\xac"}, true);
    expect_event(
        &client, 1,
        "event: error\ndata: {\"error\":\"no \xe2\x82\xac\",\"code\":\"MODEL_AUTH\",\"message\":\"no \xe2\x82\xac\","
        "\"messageId\":\"msg_%s\",\"timestamp\":1704067200000}");
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
    client = open_stream("POST", STREAM, NULL, "{\"message\":\"x\"}");
    publish_body(&rig.last_job, 2, &job_cancelled_type, &(struct job_cancelled){.by = "me"}, true);
    cr_expect_eq(client_event(&client, NULL, 0), 2);
    client_close(&client);
}

Test(iris, a_dropped_preview_makes_the_answer_begin_anew)
{
    struct client client = open_stream("POST", STREAM, NULL, "{\"message\":\"x\"}");

    publish_body(&rig.last_job, 1, &job_notice_type, &(struct job_notice){.kind = "api_retry", .text = "not shown"},
                 true);
    publish_body(&rig.last_job, 2, &job_notice_type,
                 &(struct job_notice){.kind = "preview_dropped", .text = "The stream broke"}, true);
    publish_body(&rig.last_job, 3, &job_notice_type, &(struct job_notice){.kind = "preview_dropped"}, true);
    expect_event(&client, 2,
                 "event: retry\ndata: {\"messageId\":\"msg_%s\",\"code\":\"MODEL_ERROR\",\"message\":"
                 "\"The stream broke\",\"delay\":0}");
    expect_event(&client, 3,
                 "event: retry\ndata: {\"messageId\":\"msg_%s\",\"code\":\"MODEL_ERROR\",\"message\":"
                 "\"The model API failed\",\"delay\":0}");
    client_close(&client);
}

Test(iris, a_refused_stream_is_an_ordinary_error)
{
    expect_error(STREAM, "{\"message\":\"refuse\"}", 503, "QUEUE_FULL");
}

static const char *
cursor_of(int64_t seq)
{
    static char cursor[MUSTER_CURSOR_TEXT];

    muster_cursor_text(rig.house.store, seq, cursor);
    return cursor;
}

static int
resume(const char *path, const char *cursor)
{
    char headers[128];

    snprintf(headers, sizeof headers, "Last-Event-ID: %s\r\n", cursor);
    return request_text(&rig, &answer, "GET", path, ADMIN_KEY, headers, NULL);
}

Test(iris, a_reader_that_comes_back_goes_on_and_submits_nothing)
{
    struct client client = open_stream("POST", STREAM, NULL, "{\"message\":\"Explain\"}");

    client_close(&client);
    publish_story();
    client = open_stream("GET", STREAM "?message=Explain", cursor_of(1), NULL);
    expect_story_after_start(&client);
    client_close(&client);
    client = open_stream("POST", STREAM, cursor_of(2), "{\"message\":\"Explain\"}");
    expect_story_after_start(&client);
    client_close(&client);
    cr_expect_eq(rig.submits, 1);
    cr_expect_eq(resume(STREAM "?message=Explain", cursor_of(6)), 204);
    cr_expect_eq(resume("/api/v1/teams/frontend/stream?message=Explain", cursor_of(3)), 404);
    cr_expect_eq(resume(STREAM "?message=Explain", "nonsense"), 400);
    cr_expect_eq(resume(STREAM "?message=Explain", "0123456789abcdef-1"), 410);
    cr_expect(answer_has(&answer, "\"code\":\"CURSOR_EXPIRED\""));
    cr_expect(answer_has(&answer, "\"oldest\":"));
    cr_expect_eq(rig.submits, 1);
}

Test(iris, anybody_may_attach_to_a_message_at_any_time)
{
    struct job job = store_one("backend", "admin", job_state_RUNNING, 1704067200000);
    struct client client;
    char path[256];

    rig.last_job = job.id;
    publish_story();
    snprintf(path, sizeof path, "%s", path_of(&job, "msg_", "/stream"));
    client = open_stream("GET", path, NULL, NULL);
    expect_event(&client, 1, "event: start\ndata: {\"messageId\":\"msg_%s\",\"team\":\"backend\"}");
    expect_story_after_start(&client);
    client_close(&client);
    snprintf(path, sizeof path, "%s%s", path_of(&job, "job_", "/stream?after="), cursor_of(2));
    client = open_stream("GET", path, NULL, NULL);
    expect_story_after_start(&client);
    client_close(&client);
}

Test(iris, attaching_to_a_message_whose_events_are_gone_says_so)
{
    struct job job = store_one("backend", "admin", job_state_COMPLETED, 1704067200000);

    expect_error(path_of(&job, "msg_", "/stream"), NULL, 410, "CURSOR_EXPIRED");
    expect_error("/api/v1/messages/msg_00000000-0000-7000-8000-000000000000/stream", NULL, 404, "NOT_FOUND");
}

/* ---- teams ---------------------------------------------------------------------------------------------------------- */

static void
publish_views(void)
{
    struct muster_queue_view *queue = muster_alloc(sizeof *queue);
    struct muster_agent_view *agent = muster_alloc(sizeof *agent);

    *queue = (struct muster_queue_view){
        .queued = 2, .running = 1, .max_running = 1, .completed = 9, .failed = 4, .mean_ms = 1500};
    agent->count = 1;
    agent->processes[0] =
        (struct muster_process_view){.pid = 42, .state = process_state_BUSY, .started_ms = 5, .turns = 3};
    snprintf(agent->processes[0].session, sizeof agent->processes[0].session, "abc");
    snprintf(agent->problem, sizeof agent->problem, "it fell over");
    muster_board_publish(rig.bus, MUSTER_QUEUE_BOARD "/backend", queue, free);
    muster_board_publish(rig.bus, MUSTER_AGENT_PREFIX "backend", agent, free);
}

Test(iris, team_status_shows_queue_and_processes)
{
    json_t *json, *process;

    publish_views();
    json = call("GET", "/api/v1/teams/backend/status", NULL, 200);
    process = json_array_get(json_object_get(json, "processes"), 0);
    cr_expect_str_eq(text_of(json, "team"), "backend");
    cr_expect_str_eq(text_of(json, "status"), "busy");
    cr_expect_str_eq(text_of(json, "driver"), "echo");
    cr_expect_eq(number_of(json, "queued"), 2);
    cr_expect_eq(number_of(json, "running"), 1);
    cr_expect_eq(number_of(json, "averageDuration"), 1500);
    cr_expect_eq(number_of(json, "completed"), 9);
    cr_expect_eq(number_of(json, "failed"), 4);
    cr_expect_str_eq(text_of(json, "lastError"), "it fell over");
    cr_expect_eq(number_of(process, "pid"), 42);
    cr_expect_str_eq(text_of(process, "status"), "busy");
    cr_expect_eq(number_of(process, "turns"), 3);
    cr_expect_str_eq(text_of(process, "sessionId"), "abc");
    json_decref(json);
}

Test(iris, a_team_that_has_done_nothing_is_idle)
{
    json_t *json = call("GET", "/api/v1/teams/frontend/status", NULL, 200);

    cr_expect_str_eq(text_of(json, "status"), "idle");
    cr_expect_eq(json_array_size(json_object_get(json, "processes")), 0);
    json_decref(json);
}

Test(iris, a_key_sees_its_own_teams)
{
    json_t *json = call("GET", "/api/v1/teams", NULL, 200);

    cr_expect_eq(json_array_size(json_object_get(json, "teams")), 2);
    json_decref(json);
    json = call_as(BACKEND_KEY, "GET", "/api/v1/teams", NULL, 200);
    cr_expect_eq(json_array_size(json_object_get(json, "teams")), 1);
    json_decref(json);
}

/* ---- one message ---------------------------------------------------------------------------------------------------- */

Test(iris, a_message_is_found_under_all_its_names)
{
    struct job job = store_one("backend", "admin", job_state_COMPLETED, 1704067200000);
    static const char *const prefixes[] = {"msg_", "job_", ""};
    json_t *json;
    size_t i;

    for (i = 0; i < 3; i++) {
        json = call("GET", path_of(&job, prefixes[i], ""), NULL, 200);
        cr_expect_str_eq(text_of(json, "status"), "completed");
        cr_expect_str_eq(text_of(json, "state"), "completed");
        cr_expect_str_eq(text_of(json, "response"), "answer");
        cr_expect_eq(number_of(json, "duration"), 500);
        cr_expect_eq(number_of(json, "createdAt"), 1704067200000);
        cr_expect_eq(number_of(json, "startedAt"), 1704067200100);
        cr_expect_eq(number_of(json, "completedAt"), 1704067200600);
        cr_expect_str_eq(text_of(json, "from"), "admin");
        cr_expect_str_eq(text_of(json, "kind"), "execute");
        cr_expect_str_eq(text_of(json, "priority"), "normal");
        cr_expect_str_eq(text_of(json, "message"), "question");
        cr_expect_eq(number_of(json, "attempts"), 1);
        cr_expect_eq(number_of(json, "maxAttempts"), 3);
        cr_expect_null(json_object_get(json, "error"));
        cr_expect_null(json_object_get(json, "callback"));
        json_decref(json);
    }
}

Test(iris, states_are_told_in_the_documents_words)
{
    static const struct {
        enum job_state state;
        const char *status, *exact;
    } rows[] = {{job_state_QUEUED, "queued", "queued"},         {job_state_RETRYING, "queued", "retrying"},
                {job_state_PARKED, "queued", "parked"},         {job_state_RUNNING, "processing", "running"},
                {job_state_WAITING, "processing", "waiting"},   {job_state_FAILED, "failed", "failed"},
                {job_state_CANCELLED, "cancelled", "cancelled"}};
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct job job = store_one("backend", "admin", rows[i].state, muster_clock_ms());
        json_t *json = call("GET", path_of(&job, "msg_", ""), NULL, 200);

        cr_expect_str_eq(text_of(json, "status"), rows[i].status);
        cr_expect_str_eq(text_of(json, "state"), rows[i].exact);
        if (i < 5)
            cr_expect_geq(number_of(json, "estimatedCompletion"), job.created_ms);
        else
            cr_expect_not_null(json_object_get(json, "error"));
        json_decref(json);
    }
}

static void
expect_progress(const struct job *job, int64_t current, int64_t least, int64_t most)
{
    json_t *json = call("GET", path_of(job, "msg_", ""), NULL, 200), *progress = json_object_get(json, "progress");

    cr_expect_eq(number_of(progress, "current"), current, "%s", answer.body.data);
    cr_expect_eq(number_of(progress, "total"), 1);
    cr_expect_geq(number_of(progress, "percentage"), least, "%s", answer.body.data);
    cr_expect_leq(number_of(progress, "percentage"), most, "%s", answer.body.data);
    json_decref(json);
}

Test(iris, progress_is_full_only_when_completed)
{
    static const struct {
        enum job_state state;
        int64_t age_ms, current, least, most;
    } rows[] = {{job_state_QUEUED, 5000, 0, 0, 0},      {job_state_RETRYING, 5000, 0, 0, 0},
                {job_state_RUNNING, 0, 0, 1, 20},       {job_state_RUNNING, 5100, 0, 50, 90},
                {job_state_RUNNING, 999999, 0, 99, 99}, {job_state_COMPLETED, 5000, 1, 100, 100},
                {job_state_FAILED, 5000, 0, 0, 0},      {job_state_CANCELLED, 5000, 0, 0, 0}};
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct job job = store_one("backend", "admin", rows[i].state, muster_clock_ms() - rows[i].age_ms);

        expect_progress(&job, rows[i].current, rows[i].least, rows[i].most);
    }
}

Test(iris, context_comes_back_as_it_was_given_and_empty_usage_is_left_out)
{
    struct job job = store_one("backend", "admin", job_state_RUNNING, 1704067200000);
    struct usage usage = {.turns = 0};
    json_t *json;

    job.context = "{\"pr\":[1,{\"a\":null}]}";
    job.usage = &usage;
    store_job(&rig, &job);
    json = call("GET", path_of(&job, "msg_", ""), NULL, 200);
    cr_expect(answer_has(&answer, "\"context\":{\"pr\":[1,{\"a\":null}]}"), "%s", answer.body.data);
    cr_expect_null(json_object_get(json_object_get(json, "metadata"), "usage"), "%s", answer.body.data);
    json_decref(json);
    usage.turns = 1;
    store_job(&rig, &job);
    json = call("GET", path_of(&job, "msg_", ""), NULL, 200);
    cr_expect_eq(number_of(json_object_get(json_object_get(json, "metadata"), "usage"), "turns"), 1);
    json_decref(json);
}

static void
store_delivery(const struct delivery *delivery)
{
    struct muster_batch *batch = muster_batch_new(rig.house.store);
    struct muster_buf bytes = {0};

    muster_pack(&delivery_type, delivery, &bytes);
    NEED(muster_batch_put(batch, &delivery_type, bytes.data, bytes.size) == MUSTER_OK);
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_buf_free(&bytes);
    muster_batch_free(&batch);
}

static void
expect_callback(const struct job *job, const char *expected)
{
    json_t *json = call("GET", path_of(job, "msg_", ""), NULL, 200);
    char *text = json_dumps(json_object_get(json, "callback"), JSON_COMPACT | JSON_SORT_KEYS);

    cr_assert_not_null(text);
    cr_expect_str_eq(text, expected);
    free(text);
    json_decref(json);
}

Test(iris, a_message_tells_where_its_callback_is)
{
    struct job_callback callback = {.url = "https://example.com/"};
    struct job job = store_one("backend", "admin", job_state_RUNNING, 1704067200000);
    struct delivery delivery = {.id = job.id, .state = delivery_state_PENDING, .tries = 2, .next_ms = 1704067300000};

    job.callback = &callback;
    store_job(&rig, &job);
    expect_callback(&job, "{\"status\":\"waiting\",\"tries\":0}");
    job.state = job_state_COMPLETED;
    job.finished_ms = job.started_ms + 1;
    store_job(&rig, &job);
    expect_callback(&job, "{\"status\":\"pending\",\"tries\":0}");
    delivery.problem = "Connection refused";
    store_delivery(&delivery);
    expect_callback(&job, "{\"nextTry\":1704067300000,\"problem\":\"Connection refused\",\"status\":\"pending\","
                          "\"tries\":2}");
    delivery = (struct delivery){.id = job.id, .state = delivery_state_DELIVERED, .tries = 3, .status = 204};
    store_delivery(&delivery);
    expect_callback(&job, "{\"httpStatus\":204,\"status\":\"delivered\",\"tries\":3}");
    delivery = (struct delivery){.id = job.id, .state = delivery_state_FAILED, .tries = 10, .status = 500};
    store_delivery(&delivery);
    expect_callback(&job, "{\"httpStatus\":500,\"status\":\"failed\",\"tries\":10}");
}

Test(iris, a_failed_message_tells_why)
{
    struct job job = store_one("backend", "admin", job_state_FAILED, 1704067200000);
    json_t *json = call("GET", path_of(&job, "msg_", ""), NULL, 200);

    cr_expect_str_eq(text_of(json_object_get(json, "error"), "code"), "PROCESS_ERROR");
    cr_expect_str_eq(text_of(json_object_get(json, "error"), "message"), "exit code 1");
    json_decref(json);
}

Test(iris, messages_of_other_teams_are_not_there)
{
    struct job job = store_one("frontend", "admin", job_state_COMPLETED, 1704067200000);

    json_decref(call_as(BACKEND_KEY, "GET", path_of(&job, "msg_", ""), NULL, 404));
    expect_error("/api/v1/messages/msg_nonsense", NULL, 404, "NOT_FOUND");
    expect_error("/api/v1/messages/msg_00000000-0000-7000-8000-000000000000", NULL, 404, "NOT_FOUND");
}

/* ---- cancel --------------------------------------------------------------------------------------------------------- */

Test(iris, cancel_ends_a_message_and_refuses_one_that_has_ended)
{
    struct job running = store_one("backend", "admin", job_state_RUNNING, 1704067200000);
    struct job ended = store_one("backend", "admin", job_state_COMPLETED, 1704067200001);
    json_t *json = call("POST", path_of(&running, "msg_", "/cancel"), "", 200);

    cr_expect_str_eq(text_of(json, "status"), "cancelled");
    cr_expect(json_is_true(json_object_get(json, "wasRunning")));
    json_decref(json);
    json = call("POST", path_of(&ended, "job_", "/cancel"), "", 409);
    cr_expect_str_eq(text_of(json, "code"), "CONFLICT");
    cr_expect_str_eq(text_of(json_object_get(json, "details"), "status"), "completed");
    json_decref(json);
}

/* ---- history -------------------------------------------------------------------------------------------------------- */

#define HISTORY "/api/v1/messages/history"

static void
expect_page(const char *key, const char *query, size_t shown, int64_t total, bool more)
{
    char path[256];
    json_t *json, *page;

    snprintf(path, sizeof path, HISTORY "%s", query);
    json = call_as(key, "GET", path, NULL, 200);
    page = json_object_get(json, "pagination");
    cr_expect_eq(json_array_size(json_object_get(json, "messages")), shown, "%s: %s", query, answer.body.data);
    cr_expect_eq(number_of(page, "total"), total, "%s: %s", query, answer.body.data);
    cr_expect_eq(json_is_true(json_object_get(page, "hasNext")), more, "%s", query);
    json_decref(json);
}

static void
store_history(void)
{
    int i;

    /* 60 of backend, 30 of frontend; every tenth has failed, the last three still wait. */
    for (i = 0; i < 90; i++)
        store_one(i % 3 == 2 ? "frontend" : "backend", i % 2 ? "slack" : "ci",
                  i >= 87       ? (i == 87   ? job_state_QUEUED
                                   : i == 88 ? job_state_RETRYING
                                             : job_state_RUNNING)
                  : i % 10 == 0 ? job_state_FAILED
                                : job_state_COMPLETED,
                  1704067200000 + i * 1000);
}

Test(iris, history_has_pages_and_correct_totals)
{
    json_t *json, *first;

    expect_page(ADMIN_KEY, "", 0, 0, false);
    store_history();
    expect_page(ADMIN_KEY, "", 50, 90, true);
    expect_page(ADMIN_KEY, "?page=2", 40, 90, false);
    expect_page(ADMIN_KEY, "?page=3", 0, 90, false);
    expect_page(ADMIN_KEY, "?limit=45&page=2", 45, 90, false);
    expect_page(ADMIN_KEY, "?team=backend&limit=10&page=6", 10, 60, false);
    expect_page(ADMIN_KEY, "?team=backend&limit=10&page=5", 10, 60, true);
    expect_page(ADMIN_KEY, "?to=frontend", 30, 30, false);
    expect_page(ADMIN_KEY, "?team=backend&to=frontend", 0, 0, false);
    expect_page(ADMIN_KEY, "?from=ci&limit=5", 5, 45, true);
    expect_page(ADMIN_KEY, "?from=ci&team=frontend", 15, 15, false);
    expect_page(ADMIN_KEY, "?status=failed", 9, 9, false);
    expect_page(ADMIN_KEY, "?status=queued", 2, 2, false);
    expect_page(ADMIN_KEY, "?status=processing", 1, 1, false);
    expect_page(ADMIN_KEY, "?since=1704067280000", 10, 10, false);
    expect_page(ADMIN_KEY, "?since=2024-01-01T00:01:20Z", 10, 10, false);
    expect_page(ADMIN_KEY, "?limit=200&page=1000000", 0, 90, false);
    expect_page(BACKEND_KEY, "?limit=50", 50, 60, true);
    expect_page(BACKEND_KEY, "?limit=50&page=2", 10, 60, false);
    expect_page(BACKEND_KEY, "?team=frontend", 0, 0, false);
    json = call("GET", HISTORY "?limit=1&team=frontend&status=completed", NULL, 200);
    first = json_array_get(json_object_get(json, "messages"), 0);
    cr_expect_eq(strncmp(text_of(first, "messageId"), "msg_", 4), 0);
    cr_expect_str_eq(text_of(first, "to"), "frontend");
    cr_expect_str_eq(text_of(first, "from"), "ci");
    cr_expect_str_eq(text_of(first, "message"), "question");
    cr_expect_str_eq(text_of(first, "response"), "answer");
    cr_expect_str_eq(text_of(first, "status"), "completed");
    cr_expect_eq(number_of(first, "duration"), 500);
    cr_expect_eq(number_of(first, "timestamp"), 1704067286000);
    json_decref(json);
}

Test(iris, history_values_that_do_not_fit_are_400_and_named)
{
    static const char *const queries[][2] = {
        {"limit=0", "limit"},      {"limit=201", "limit"},  {"limit=x", "limit"},
        {"limit=", "limit"},       {"page=0", "page"},      {"page=-1", "page"},
        {"status=done", "status"}, {"since=soon", "since"}, {"page=99999999999", "page"}};
    char path[128], field[64];
    size_t i;

    for (i = 0; i < sizeof queries / sizeof *queries; i++) {
        snprintf(path, sizeof path, HISTORY "?%s", queries[i][0]);
        expect_error(path, NULL, 400, "INVALID_REQUEST");
        snprintf(field, sizeof field, "\"field\":\"%s\"", queries[i][1]);
        cr_expect(answer_has(&answer, field), "%s", answer.body.data);
    }
}

Test(iris, long_texts_are_cut_in_the_history_at_a_whole_character)
{
    struct muster_buf prompt = {0};
    struct job job = store_one("backend", "ci", job_state_COMPLETED, 1704067200000);
    json_t *json, *first;

    muster_buf_str(&prompt, "x");
    while (prompt.size < 20000)
        muster_buf_str(&prompt, "\xe2\x82\xac");
    job.prompt = prompt.data;
    job.started_ms = job.finished_ms = 0;
    job.result = "answer";
    store_job(&rig, &job);
    json = call("GET", HISTORY, NULL, 200);
    first = json_array_get(json_object_get(json, "messages"), 0);
    cr_expect(json_is_true(json_object_get(first, "truncated")));
    cr_expect_leq(strlen(text_of(first, "message")), 16384);
    cr_expect_geq(strlen(text_of(first, "message")), 16380);
    json_decref(json);
    muster_buf_free(&prompt);
}

Test(iris, every_route_is_described)
{
    const struct http_dialect *const *dialect;
    const struct http_route *route;
    struct muster_buf text = {0};

    http_describe_routes(&text);
    for (dialect = http_dialects; *dialect; dialect++)
        for (route = (*dialect)->routes; route->method; route++)
            cr_expect(strstr(text.data, route->path) != NULL);
    muster_buf_free(&text);
}

/* Every TYPE of a table stands in the text. */
static void
expect_described(const char *text, const char *path)
{
    FILE *file = fopen(path, "r");
    char line[1024], wire[128];
    size_t count = 0;

    cr_assert_not_null(file, "%s", path);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "TYPE(%*[a-z_], \"%120[^\"]\"", wire) == 1) {
            strcat(wire, "\n    "); /* its name alone on a line, then its doc */
            cr_expect(strstr(text, wire) != NULL, "%s: %s", path, wire);
            count++;
        }
    fclose(file);
    cr_expect_gt(count, 1, "%s", path);
}

Test(iris, every_body_is_described)
{
    struct muster_buf text = {0};

    http_describe_bodies(&text);
    expect_described(text.data, MUSTER_SOURCE_DIR "/api/http/http.def");
    expect_described(text.data, MUSTER_SOURCE_DIR "/api/dialects/iris.def");
    expect_described(text.data, MUSTER_SOURCE_DIR "/actors/webhook.def");
    muster_buf_free(&text);
}
