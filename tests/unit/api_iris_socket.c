/* SPDX-License-Identifier: MPL-2.0 */
/* iris on a WebSocket: every message of a client, every event, and what is refused. */
#include "tests/unit/api_iris_help.h"

enum { TEXT = 1, CLOSE = 8, PING = 9 };

#define STREAM_KEY "muster_sk_stream" /* messages:stream only, unlimited */

/* ---- a client ------------------------------------------------------------------------------------------------------- */

static void
publish_stream_key(void)
{
    static const char *const stream[] = {"messages:stream"}, *const all[] = {"*"}, *const writes[] = {"teams:write"};
    static const char *const backend[] = {"backend"};
    static const char *const secrets[] = {ADMIN_KEY, STREAM_KEY, BACKEND_KEY, SPENT_KEY};
    static const struct rate_limit unlimited = {0, 60000, limit_algorithm_SLIDING_WINDOW};
    static const struct rate_limit thousand = {1000, 60000, limit_algorithm_SLIDING_WINDOW};
    static uint8_t digests[4][MUSTER_DIGEST];
    struct key keys[4] = {{.name = "admin", .scopes = {all, 1}, .rate_limit = &unlimited},
                          {.name = "stream", .scopes = {stream, 1}, .rate_limit = &unlimited},
                          {.name = "team", .scopes = {writes, 1}, .teams = {backend, 1}, .rate_limit = &thousand},
                          {.name = "spent", .scopes = {all, 1}, .rate_limit = &thousand}};
    size_t i;

    for (i = 0; i < 4; i++) {
        muster_sha256(secrets[i], strlen(secrets[i]), digests[i]);
        keys[i].digest = (struct muster_bytes){digests[i], MUSTER_DIGEST};
        keys[i].id = muster_id_new(2000 + (int64_t)i);
        keys[i].created_ms = 2000;
    }
    muster_board_publish(rig.bus, MUSTER_KEYS_BOARD, keys_new(keys, 4), keys_free);
}

static void
open_sockets(void)
{
    open_rig();
    publish_stream_key();
}

TestSuite(iris_socket, .init = open_sockets, .fini = close_rig, .timeout = 60);

/* Upgraded with this key; NULL: with none. */
static struct client
open_socket(const char *key)
{
    struct client client = client_open(&rig);
    const char *end;

    client_say(&client, "GET /api/v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    if (key)
        client_say(&client, "Authorization: Bearer %s\r\n", key);
    client_say(&client, "\r\n");
    end = client_until(&client, "\r\n\r\n");
    cr_assert_not_null(end);
    cr_assert_eq(strncmp(client.in.data, "HTTP/1.1 101 ", 13), 0, "%s", client.in.data);
    muster_buf_shift(&client.in, (size_t)(end - client.in.data) + 4);
    return client;
}

static void
say(struct client *client, const char *text)
{
    static const uint8_t mask[4] = {0x12, 0x34, 0x56, 0x78};
    size_t size = strlen(text), i;
    struct muster_buf frame = {0};
    uint8_t head[8] = {0x80 | TEXT, (uint8_t)(0x80 | (size < 126 ? size : 126))};
    char byte;

    NEED(size < 65536);
    muster_buf_add(&frame, head, 2);
    if (size >= 126) {
        head[0] = (uint8_t)(size >> 8);
        head[1] = (uint8_t)size;
        muster_buf_add(&frame, head, 2);
    }
    muster_buf_add(&frame, mask, 4);
    for (i = 0; i < size; i++) {
        byte = (char)((uint8_t)text[i] ^ mask[i % 4]);
        muster_buf_add(&frame, &byte, 1);
    }
    (void)client_send(client, frame.data, frame.size);
    muster_buf_free(&frame);
}

/* The next frame that is no ping; its payload stands in `out`. */
static int
next_frame(struct client *client, struct muster_buf *out)
{
    const uint8_t *at;
    size_t size, head;
    int code;

    for (;;) {
        while (client->in.size < 2)
            cr_assert(client_more(client), "closed");
        size = (uint8_t)client->in.data[1] & 0x7f;
        head = size == 126 ? 4 : size == 127 ? 10 : 2;
        while (client->in.size < head)
            cr_assert(client_more(client), "closed");
        at = (const uint8_t *)client->in.data;
        if (size == 126)
            size = (size_t)at[2] << 8 | at[3];
        while (client->in.size < head + size)
            cr_assert(client_more(client), "closed");
        code = (uint8_t)client->in.data[0] & 0x0f;
        muster_buf_clear(out);
        muster_buf_add(out, client->in.data + head, size);
        muster_buf_shift(&client->in, head + size);
        if (code != PING)
            return code;
    }
}

/* The next message. */
static json_t *
next(struct client *client)
{
    json_t *json;

    cr_assert_eq(next_frame(client, &answer.body), TEXT);
    json = json_loadb(answer.body.data, answer.body.size, 0, NULL);
    cr_assert_not_null(json, "%s", answer.body.data);
    return json;
}

/* Say that, and read the answer, which is of this type. */
static json_t *
ask(struct client *client, const char *text, const char *type)
{
    json_t *json;

    say(client, text);
    json = next(client);
    cr_assert_str_eq(text_of(json, "type"), type, "%s: %s", text, answer.body.data);
    return json;
}

/* Say that, and be refused with this code. */
static json_t *
refused(struct client *client, const char *text, const char *code)
{
    json_t *json = ask(client, text, "error");

    cr_expect_str_eq(text_of(json, "code"), code, "%s: %s", text, answer.body.data);
    cr_expect_gt(strlen(text_of(json, "error")), 0);
    cr_expect_gt(strlen(text_of(json, "message")), 0);
    cr_expect_gt(number_of(json, "timestamp"), 1600000000000);
    return json;
}

static void
expect_refused(struct client *client, const char *text, const char *code)
{
    json_decref(refused(client, text, code));
}

/* The next message is exactly this; each @ stands for the last job's id. */
static void
expect_text(struct client *client, const char *expected)
{
    json_t *want, *got = next(client);
    struct muster_buf text = {0};
    char id[MUSTER_ID_TEXT];
    const char *at;

    muster_id_text(&rig.last_job, id);
    for (at = expected; *at; at++)
        muster_buf_printf(&text, "%.*s", *at == '@' ? 36 : 1, *at == '@' ? id : at);
    want = json_loads(text.data, 0, NULL);
    cr_assert_not_null(want, "%s", text.data);
    cr_expect(json_equal(want, got), "wanted %s, got %s", text.data, answer.body.data);
    json_decref(want);
    json_decref(got);
    muster_buf_free(&text);
}

static const char *
cursor_of(int64_t seq)
{
    static char cursor[MUSTER_CURSOR_TEXT];

    muster_cursor_text(rig.house.store, seq, cursor);
    return cursor;
}

/* An event of a job of team backend, stored and published. */
static void
tell(const struct muster_id *job, int64_t seq, const struct muster_type *type, const void *in)
{
    struct muster_batch *batch = muster_batch_new(rig.house.store);
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
    muster_batch_append(batch, &event);
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_batch_free(&batch);
    publish(&rig, &event);
    muster_buf_free(&body);
}

/* The next message is event `seq` of the last job, with these members besides those that all have. */
static void
expect_event(struct client *client, int64_t seq, const char *members)
{
    char text[1024];

    snprintf(text, sizeof text,
             "{\"messageId\":\"msg_@\",\"team\":\"backend\",\"cursor\":\"%s\",\"timestamp\":1704067200000,%s}",
             cursor_of(seq), members);
    expect_text(client, text);
}

#define MESSAGE "{\"type\":\"message\",\"team\":\"backend\",\"message\":\"x\"}"

/* ---- messages ------------------------------------------------------------------------------------------------------- */

Test(iris_socket, a_message_is_accepted_with_all_that_is_known_of_it)
{
    struct client client = open_socket(ADMIN_KEY);
    struct job job;

    say(&client, "{\"type\":\"message\",\"team\":\"backend\",\"message\":\"What?\",\"sessionId\":\"s\",\"id\":\"7\","
                 "\"priority\":\"high\",\"context\":{\"a\":1},\"unknown\":true}");
    expect_text(&client, "{\"type\":\"accepted\",\"messageId\":\"msg_@\",\"jobId\":\"job_@\",\"team\":\"backend\","
                         "\"sessionId\":\"s\",\"position\":3,\"estimatedCompletion\":1704067500000,\"id\":\"7\"}");
    job = submitted();
    cr_expect_eq(job.kind, job_kind_STREAM);
    cr_expect_str_eq(job.prompt, "What?");
    cr_expect_str_eq(job.context, "{\"a\":1}");
    cr_expect_eq(job.priority, job_priority_HIGH);
    cr_expect_str_eq(job.from, "admin");
    cr_expect_str_eq(job.session_id, "s");
    cr_expect_eq(strlen(job.conversation), 64);
    client_close(&client);
}

Test(iris_socket, the_events_of_a_message_are_shown_as_they_come)
{
    struct client client = open_socket(ADMIN_KEY);
    const struct muster_id *job = &rig.last_job;

    json_decref(ask(&client, MESSAGE, "accepted"));
    tell(job, 1, &job_queued_type, &(struct job_queued){job_priority_NORMAL, 1});
    tell(job, 2, &job_started_type, &(struct job_started){.process = 7});
    tell(job, 3, &job_chunk_type, &(struct job_chunk){"a \"b\"\n"});
    tell(job, 4, &job_tool_use_type,
         &(struct job_tool_use){.tool = "Read", .file = "a.ts", .input = "{\"path\":\"a.ts\"}"});
    tell(job, 5, &job_tool_use_type, &(struct job_tool_use){.tool = "List"});
    tell(job, 6, &job_permission_type,
         &(struct job_permission){.tool = "Bash", .verdict = tool_verdict_DENIED, .rule = "Bash(*)", .input = "{}"});
    tell(job, 7, &job_permission_type, &(struct job_permission){.tool = "Read", .verdict = tool_verdict_ALLOWED});
    tell(job, 8, &job_progress_type, &(struct job_progress){2, 5, "tests"});
    tell(job, 9, &job_retrying_type, &(struct job_retrying){"PROCESS_ERROR", "exit 1", 1000});
    tell(job, 10, &job_notice_type, &(struct job_notice){.kind = "preview_dropped"});
    tell(job, 11, &job_completed_type,
         &(struct job_completed){.duration_ms = 2847, .usage = &(struct usage){.output_tokens = 4}});
    expect_event(&client, 1, "\"type\":\"start\"");
    expect_event(&client, 3, "\"type\":\"chunk\",\"text\":\"a \\\"b\\\"\\n\"");
    expect_event(&client, 4, "\"type\":\"tool_use\",\"tool\":\"Read\",\"file\":\"a.ts\",\"input\":{\"path\":\"a.ts\"}");
    expect_event(&client, 5, "\"type\":\"tool_use\",\"tool\":\"List\",\"input\":{}");
    expect_event(&client, 6, "\"type\":\"permission_denied\",\"tool\":\"Bash\",\"rule\":\"Bash(*)\",\"input\":{}");
    expect_event(&client, 8, "\"type\":\"progress\",\"current\":2,\"total\":5,\"step\":\"tests\"");
    expect_event(&client, 9, "\"type\":\"retry\",\"code\":\"PROCESS_ERROR\",\"message\":\"exit 1\",\"delay\":1000");
    expect_event(&client, 10,
                 "\"type\":\"retry\",\"code\":\"MODEL_ERROR\",\"message\":\"The model API failed\",\"delay\":0");
    expect_event(&client, 11, "\"type\":\"complete\",\"duration\":2847,\"usage\":{\"outputTokens\":4}");
    json_decref(ask(&client, "{\"type\":\"ping\"}", "pong"));
    client_close(&client);
}

Test(iris_socket, failed_and_cancelled_messages_end_with_an_error)
{
    struct client client = open_socket(ADMIN_KEY);

    json_decref(ask(&client, MESSAGE, "accepted"));
    tell(&rig.last_job, 1, &job_failed_type, &(struct job_failed){.code = "TIMEOUT", .message = "too slow"});
    expect_event(&client, 1, "\"type\":\"error\",\"error\":\"too slow\",\"message\":\"too slow\",\"code\":\"TIMEOUT\"");
    json_decref(ask(&client, MESSAGE, "accepted"));
    tell(&rig.last_job, 2, &job_cancelled_type, &(struct job_cancelled){.by = "me"});
    expect_event(&client, 2,
                 "\"type\":\"error\",\"error\":\"The job was cancelled\",\"message\":\"The job was cancelled\","
                 "\"code\":\"CANCELLED\"");
    client_close(&client);
}

/* The queue's answer comes after the first events. */
static void
on_submit_with_events(struct rig *r, const struct muster_envelope *envelope, const struct queue_submit *submit)
{
    publish_text(r, &submit->job->id, 1, "early", false);
    on_submit(r, envelope, submit);
}

Test(iris_socket, an_event_that_comes_before_the_answer_is_shown_after_it)
{
    struct client client = open_socket(ADMIN_KEY);
    json_t *json;

    rig.on_submit = on_submit_with_events;
    json_decref(ask(&client, MESSAGE, "accepted"));
    json = next(&client);
    cr_expect_str_eq(text_of(json, "text"), "early");
    json_decref(json);
    client_close(&client);
}

Test(iris_socket, a_message_that_is_repeated_is_shown_from_its_beginning)
{
    static const char message[] =
        "{\"type\":\"message\",\"team\":\"backend\",\"message\":\"x\",\"idempotencyKey\":\"k\"}";
    struct client client = open_socket(ADMIN_KEY), other;
    struct job job;
    json_t *json;

    json_decref(ask(&client, message, "accepted"));
    job = submitted();
    store_job(&rig, &job);
    store_chunks(&rig, &job.id, 1, 2, "text", false);
    other = open_socket(ADMIN_KEY);
    json = ask(&other, message, "accepted");
    cr_expect(json_is_true(json_object_get(json, "replayed")), "%s", answer.body.data);
    cr_expect_str_eq(text_of(json, "messageId"), path_of(&job, "msg_", "") + strlen("/api/v1/messages/"));
    json_decref(json);
    json = next(&other);
    cr_expect_str_eq(text_of(json, "cursor"), cursor_of(1));
    json_decref(json);
    json = next(&other);
    cr_expect_str_eq(text_of(json, "cursor"), cursor_of(2));
    json_decref(json);
    publish_text(&rig, &job.id, 3, "live", false);
    json = next(&other);
    cr_expect_str_eq(text_of(json, "text"), "live");
    json_decref(json);
    json_decref(ask(&other, message, "accepted")); /* also to one who follows it */
    json = next(&other);
    cr_expect_str_eq(text_of(json, "cursor"), cursor_of(1));
    json_decref(json);
    json_decref(next(&other));
    expect_refused(&other, "{\"type\":\"message\",\"team\":\"backend\",\"message\":\"y\",\"idempotencyKey\":\"k\"}",
                   "IDEMPOTENCY_MISMATCH");
    client_close(&client);
    client_close(&other);
}

Test(iris_socket, a_key_that_was_used_on_a_stream_counts_here_too)
{
    struct client client = client_open(&rig), other = open_socket(ADMIN_KEY);
    static const char body[] = "{\"message\":\"x\",\"stream\":true}";
    struct job job;
    json_t *json;

    client_say(&client,
               "POST /api/v1/teams/backend/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
               "Idempotency-Key: \"k\"\r\nContent-Length: %zu\r\n\r\n%s",
               ADMIN_KEY, strlen(body), body);
    cr_assert_not_null(client_until(&client, "retry: 2000\n\n"));
    job = submitted();
    store_job(&rig, &job);
    json = ask(&other,
               "{\"type\":\"message\",\"team\":\"backend\",\"message\":\"x\",\"idempotencyKey\":\"k\",\"priority\":"
               "\"normal\"}",
               "accepted");
    cr_expect(json_is_true(json_object_get(json, "replayed")), "%s", answer.body.data);
    json_decref(json);
    client_close(&client);
    client_close(&other);
}

Test(iris_socket, what_the_queue_refuses_is_told_and_the_connection_stays)
{
    struct client client = open_socket(ADMIN_KEY);
    json_t *json = refused(&client, "{\"type\":\"message\",\"team\":\"backend\",\"message\":\"refuse\",\"id\":\"q\"}",
                           "QUEUE_FULL");

    cr_expect_str_eq(text_of(json, "message"), "The queue says no");
    cr_expect_str_eq(text_of(json, "id"), "q");
    cr_expect_str_eq(text_of(json, "team"), "backend");
    cr_expect_eq(number_of(json, "retryAfter"), 3);
    cr_expect_null(json_object_get(json, "messageId"));
    json_decref(json);
    json_decref(ask(&client, MESSAGE, "accepted"));
    client_close(&client);
}

/* ---- what does not fit ---------------------------------------------------------------------------------------------- */

Test(iris_socket, what_does_not_fit_names_its_field_and_the_connection_stays)
{
    static char long_id[300];
    static const struct {
        const char *text, *field;
    } rows[] = {
        {"{}", "type"},
        {"{\"type\":7}", "type"},
        {"{\"type\":\"nonsense\"}", "type"},
        {"{\"type\":\"ping\",\"id\":7}", "id"},
        {long_id, "id"},
        {"[]", ""},
        {"{\"type\":\"subscribe\"}", "team"},
        {"{\"type\":\"subscribe\",\"team\":1}", "team"},
        {"{\"type\":\"subscribe\",\"team\":\"backend\",\"after\":1}", "after"},
        {"{\"type\":\"subscribe\",\"team\":\"backend\",\"after\":\"nonsense\"}", "after"},
        {"{\"type\":\"unsubscribe\"}", "team"},
        {"{\"type\":\"message\",\"message\":\"x\"}", "team"},
        {"{\"type\":\"message\",\"team\":\"backend\"}", "message"},
        {"{\"type\":\"message\",\"team\":\"backend\",\"message\":\"\"}", "message"},
        {"{\"type\":\"message\",\"team\":\"backend\",\"message\":\"x\",\"sessionId\":\"\"}", "sessionId"},
        {"{\"type\":\"message\",\"team\":\"backend\",\"message\":\"x\",\"priority\":\"urgent\"}", "priority"},
        {"{\"type\":\"message\",\"team\":\"backend\",\"message\":\"x\",\"context\":7}", "context"},
        {"{\"type\":\"message\",\"team\":\"backend\",\"message\":\"x\",\"idempotencyKey\":\"a b\"}", "idempotencyKey"},
        {"{\"type\":\"message\",\"team\":\"backend\",\"message\":\"x\",\"idempotencyKey\":\"\"}", "idempotencyKey"},
        {"{\"type\":\"cancel\"}", "messageId"},
        {"{\"type\":\"resume\",\"messageId\":{}}", "messageId"},
        {"{\"type\":\"auth\"}", "token"},
    };
    struct client client = open_socket(ADMIN_KEY);
    json_t *json;
    size_t i;

    snprintf(long_id, sizeof long_id, "{\"type\":\"ping\",\"id\":\"%0129d\"}", 0);
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        json = refused(&client, rows[i].text, "INVALID_REQUEST");
        cr_expect_str_eq(text_of(json_object_get(json, "details"), "field"), rows[i].field, "%s", rows[i].text);
        json_decref(json);
    }
    json_decref(ask(&client, "{\"type\":\"ping\"}", "pong"));
    cr_expect_eq(rig.submits, 0);
    client_close(&client);
}

Test(iris_socket, teams_and_messages_that_are_not_there_for_the_key_are_refused)
{
    struct client client = open_socket(BACKEND_KEY);
    struct job job = store_one("frontend", "admin", job_state_RUNNING, 1704067200000);
    char text[256];

    expect_refused(&client, "{\"type\":\"message\",\"team\":\"frontend\",\"message\":\"x\"}", "FORBIDDEN");
    expect_refused(&client, "{\"type\":\"subscribe\",\"team\":\"frontend\"}", "FORBIDDEN");
    snprintf(text, sizeof text, "{\"type\":\"cancel\",\"messageId\":\"%s\"}",
             path_of(&job, "msg_", "") + strlen("/api/v1/messages/"));
    expect_refused(&client, text, "NOT_FOUND");
    snprintf(text, sizeof text, "{\"type\":\"resume\",\"messageId\":\"%s\"}",
             path_of(&job, "msg_", "") + strlen("/api/v1/messages/"));
    expect_refused(&client, text, "NOT_FOUND");
    client_close(&client);
    client = open_socket(ADMIN_KEY);
    expect_refused(&client, "{\"type\":\"message\",\"team\":\"nobody\",\"message\":\"x\"}", "TEAM_NOT_FOUND");
    expect_refused(&client, "{\"type\":\"subscribe\",\"team\":\"nobody\"}", "TEAM_NOT_FOUND");
    expect_refused(&client, "{\"type\":\"cancel\",\"messageId\":\"nonsense\"}", "NOT_FOUND");
    client_close(&client);
}

Test(iris_socket, each_message_needs_its_own_scopes)
{
    struct job job = store_one("backend", "admin", job_state_RUNNING, 1704067200000);
    struct client client = open_socket(STREAM_KEY);
    json_t *json = refused(&client, MESSAGE, "FORBIDDEN"), *details = json_object_get(json, "details");
    char text[256];

    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(details, "required"), 0)), "messages:write");
    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(details, "provided"), 0)), "messages:stream");
    json_decref(json);
    expect_refused(&client, "{\"type\":\"subscribe\",\"team\":\"backend\"}", "FORBIDDEN");
    snprintf(text, sizeof text, "{\"type\":\"cancel\",\"messageId\":\"%s\"}",
             path_of(&job, "", "") + strlen("/api/v1/messages/"));
    expect_refused(&client, text, "FORBIDDEN");
    /* This it may: see what there is. */
    store_chunks(&rig, &job.id, 1, 1, "text", false);
    snprintf(text, sizeof text, "{\"type\":\"resume\",\"messageId\":\"%s\"}",
             path_of(&job, "", "") + strlen("/api/v1/messages/"));
    json_decref(ask(&client, text, "resumed"));
    cr_expect_eq(rig.submits, 0);
    client_close(&client);
}

/* ---- who it is ------------------------------------------------------------------------------------------------------ */

Test(iris_socket, the_key_may_come_in_the_first_message)
{
    struct client client = open_socket(NULL);
    json_t *json;

    json = refused(&client, "{\"type\":\"ping\",\"id\":\"1\"}", "UNAUTHORIZED");
    cr_expect_str_eq(text_of(json, "id"), "1");
    json_decref(json);
    expect_refused(&client, MESSAGE, "UNAUTHORIZED");
    expect_refused(&client, "[]", "UNAUTHORIZED");
    expect_refused(&client, "{\"type\":\"auth\",\"token\":\"muster_sk_wrong\"}", "UNAUTHORIZED");
    expect_refused(&client, "{\"type\":\"auth\"}", "INVALID_REQUEST");
    say(&client, "{\"type\":\"auth\",\"token\":\"" ADMIN_KEY "\",\"id\":\"2\"}");
    expect_text(&client, "{\"type\":\"authenticated\",\"name\":\"admin\",\"id\":\"2\"}");
    json_decref(ask(&client, MESSAGE, "accepted"));
    expect_refused(&client, "{\"type\":\"auth\",\"token\":\"" ADMIN_KEY "\"}", "CONFLICT");
    cr_expect_eq(rig.submits, 1);
    client_close(&client);
}

Test(iris_socket, a_key_in_the_first_message_may_stand_as_in_a_header)
{
    struct client client = open_socket(NULL);

    json_decref(ask(&client, "{\"type\":\"auth\",\"token\":\"Bearer " BACKEND_KEY "\"}", "authenticated"));
    client_close(&client);
}

Test(iris_socket, messages_count_against_the_rate_and_pings_do_not)
{
    struct client client = open_socket(BACKEND_KEY);
    int before = rig.taken;

    json_decref(ask(&client, MESSAGE, "accepted"));
    cr_expect_eq(rig.taken, before + 1);
    json_decref(ask(&client, "{\"type\":\"subscribe\",\"team\":\"backend\"}", "subscribed"));
    cr_expect_eq(rig.taken, before + 2);
    expect_refused(&client, "{\"type\":\"message\",\"team\":\"frontend\",\"message\":\"x\"}", "FORBIDDEN");
    cr_expect_eq(rig.taken, before + 3);
    expect_refused(&client, "{\"type\":\"cancel\",\"messageId\":\"nonsense\"}", "NOT_FOUND");
    cr_expect_eq(rig.taken, before + 4);
    expect_refused(&client, "{\"type\":\"nonsense\"}", "INVALID_REQUEST");
    cr_expect_eq(rig.taken, before + 5);
    json_decref(ask(&client, "{\"type\":\"ping\"}", "pong"));
    expect_refused(&client, "{\"type\":\"auth\",\"token\":\"x\"}", "CONFLICT");
    cr_expect_eq(rig.taken, before + 5);
    client_close(&client);
}

Test(iris_socket, a_spent_rate_is_told_and_the_connection_stays)
{
    static const char *const texts[] = {MESSAGE,
                                        "{\"type\":\"message\",\"team\":\"nobody\",\"message\":\"x\"}",
                                        "{\"type\":\"subscribe\",\"team\":\"backend\"}",
                                        "{\"type\":\"unsubscribe\",\"team\":\"backend\"}",
                                        "{\"type\":\"cancel\",\"messageId\":\"x\"}",
                                        "{\"type\":\"resume\",\"messageId\":\"x\"}",
                                        "{\"type\":\"nonsense\"}"};
    struct client client = open_socket(NULL);
    json_t *json;
    size_t i;

    json_decref(ask(&client, "{\"type\":\"auth\",\"token\":\"" SPENT_KEY "\"}", "authenticated"));
    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        json = refused(&client, texts[i], "RATE_LIMITED");
        cr_expect_eq(number_of(json, "retryAfter"), 7);
        json_decref(json);
    }
    json_decref(ask(&client, "{\"type\":\"ping\",\"id\":\"p\"}", "pong"));
    cr_expect_eq(rig.submits, 0);
    client_close(&client);
}

/* ---- teams ---------------------------------------------------------------------------------------------------------- */

Test(iris_socket, a_subscription_shows_all_messages_of_its_team_until_it_ends)
{
    struct client client = open_socket(ADMIN_KEY);
    struct muster_id jobs[2] = {muster_id_new(1), muster_id_new(2)};
    char text[256];

    say(&client, "{\"type\":\"subscribe\",\"team\":\"backend\",\"id\":\"s\"}");
    snprintf(text, sizeof text, "{\"type\":\"subscribed\",\"team\":\"backend\",\"cursor\":\"%s\",\"id\":\"s\"}",
             cursor_of(0));
    expect_text(&client, text);
    tell(&jobs[0], 1, &job_chunk_type, &(struct job_chunk){"one"});
    tell(&jobs[1], 2, &job_chunk_type, &(struct job_chunk){"two"});
    rig.last_job = jobs[0];
    expect_event(&client, 1, "\"type\":\"chunk\",\"text\":\"one\"");
    rig.last_job = jobs[1];
    expect_event(&client, 2, "\"type\":\"chunk\",\"text\":\"two\"");
    expect_refused(&client, "{\"type\":\"subscribe\",\"team\":\"backend\"}", "CONFLICT");
    say(&client, "{\"type\":\"unsubscribe\",\"team\":\"backend\"}");
    expect_text(&client, "{\"type\":\"unsubscribed\",\"team\":\"backend\"}");
    tell(&jobs[0], 3, &job_chunk_type, &(struct job_chunk){"three"});
    json_decref(ask(&client, "{\"type\":\"ping\"}", "pong"));
    expect_refused(&client, "{\"type\":\"unsubscribe\",\"team\":\"backend\"}", "NOT_FOUND");
    client_close(&client);
}

Test(iris_socket, a_subscription_goes_on_behind_a_cursor)
{
    struct client client = open_socket(ADMIN_KEY);
    struct muster_id job = muster_id_new(1);
    char text[256];
    json_t *json;

    store_chunks(&rig, &job, 1, 3, "text", false);
    desk.settled = 3;
    snprintf(text, sizeof text, "{\"type\":\"subscribe\",\"team\":\"backend\",\"after\":\"%s\"}", cursor_of(1));
    json = ask(&client, text, "subscribed");
    cr_expect_str_eq(text_of(json, "cursor"), cursor_of(1));
    json_decref(json);
    rig.last_job = job;
    json = next(&client);
    cr_expect_str_eq(text_of(json, "cursor"), cursor_of(2));
    json_decref(json);
    json = next(&client);
    cr_expect_str_eq(text_of(json, "cursor"), cursor_of(3));
    json_decref(json);
    client_close(&client);
}

Test(iris_socket, a_subscription_from_now_on_begins_where_the_log_is_settled)
{
    struct client client = open_socket(ADMIN_KEY);
    struct muster_id job = muster_id_new(1);
    json_t *json;
    int i;

    store_chunks(&rig, &job, 1, 3, "text", false);
    desk.settled = 2; /* the third is on disk and not published yet */
    json = ask(&client, "{\"type\":\"subscribe\",\"team\":\"backend\"}", "subscribed");
    cr_expect_str_eq(text_of(json, "cursor"), cursor_of(2));
    json_decref(json);
    for (i = 3; i <= 4; i++) {
        publish_text(&rig, &job, i, "text", false);
        json = next(&client);
        cr_expect_str_eq(text_of(json, "cursor"), cursor_of(i), "%s", answer.body.data);
        json_decref(json);
    }
    client_close(&client);
}

Test(iris_socket, a_cursor_that_is_no_longer_good_names_the_oldest)
{
    struct client client = open_socket(ADMIN_KEY);
    json_t *json = refused(&client, "{\"type\":\"subscribe\",\"team\":\"backend\",\"after\":\"0123456789abcdef-1\"}",
                           "CURSOR_EXPIRED");

    cr_expect_str_eq(text_of(json_object_get(json, "details"), "oldest"), cursor_of(1));
    json_decref(json);
    client_close(&client);
}

/* ---- resume --------------------------------------------------------------------------------------------------------- */

static void
resume_text(const struct job *job, const char *after, char *out, size_t size)
{
    const char *id = path_of(job, "msg_", "") + strlen("/api/v1/messages/");

    if (after)
        snprintf(out, size, "{\"type\":\"resume\",\"messageId\":\"%s\",\"after\":\"%s\",\"id\":\"r\"}", id, after);
    else
        snprintf(out, size, "{\"type\":\"resume\",\"messageId\":\"%s\",\"id\":\"r\"}", id);
}

Test(iris_socket, a_message_is_resumed_from_its_beginning_or_behind_a_cursor)
{
    struct job job = store_one("backend", "admin", job_state_RUNNING, 1704067200000);
    struct client client = open_socket(ADMIN_KEY), other = open_socket(ADMIN_KEY);
    char text[256];
    json_t *json;
    int i;

    store_chunks(&rig, &job.id, 1, 3, "text", false);
    resume_text(&job, NULL, text, sizeof text);
    json = ask(&client, text, "resumed");
    cr_expect_str_eq(text_of(json, "id"), "r");
    cr_expect_str_eq(text_of(json, "status"), "processing");
    json_decref(json);
    for (i = 1; i <= 3; i++) {
        json = next(&client);
        cr_expect_str_eq(text_of(json, "cursor"), cursor_of(i));
        json_decref(json);
    }
    json_decref(ask(&client, text, "resumed")); /* once more */
    json_decref(next(&client));
    json_decref(next(&client));
    json_decref(next(&client));
    resume_text(&job, cursor_of(2), text, sizeof text);
    json_decref(ask(&other, text, "resumed"));
    json = next(&other);
    cr_expect_str_eq(text_of(json, "cursor"), cursor_of(3));
    json_decref(json);
    publish_text(&rig, &job.id, 4, "x", true);
    json_decref(next(&client));
    json = next(&other);
    cr_expect_str_eq(text_of(json, "type"), "complete");
    json_decref(json);
    client_close(&client);
    client_close(&other);
}

Test(iris_socket, a_message_that_has_ended_is_shown_as_long_as_its_events_are_kept)
{
    struct job job = store_one("backend", "admin", job_state_COMPLETED, 1704067200000);
    struct job old = store_one("backend", "admin", job_state_COMPLETED, 1704067100000);
    struct client client = open_socket(ADMIN_KEY);
    char text[256];
    json_t *json;

    store_chunks(&rig, &job.id, 1, 2, "text", true);
    resume_text(&job, NULL, text, sizeof text);
    json_decref(ask(&client, text, "resumed"));
    json_decref(next(&client));
    json = next(&client);
    cr_expect_str_eq(text_of(json, "type"), "complete");
    json_decref(json);
    resume_text(&job, cursor_of(2), text, sizeof text);
    json = refused(&client, text, "CONFLICT");
    cr_expect_str_eq(text_of(json_object_get(json, "details"), "status"), "completed");
    cr_expect_str_eq(text_of(json, "id"), "r");
    json_decref(json);
    resume_text(&old, NULL, text, sizeof text);
    json = refused(&client, text, "CURSOR_EXPIRED");
    cr_expect_str_eq(text_of(json_object_get(json, "details"), "oldest"), cursor_of(1));
    cr_expect_str_eq(text_of(json, "messageId"), path_of(&old, "msg_", "") + strlen("/api/v1/messages/"));
    json_decref(json);
    resume_text(&job, "nonsense", text, sizeof text);
    expect_refused(&client, text, "INVALID_REQUEST");
    client_close(&client);
}

/* ---- a credential that ends ----------------------------------------------------------------------------------------- */

Test(iris_socket, a_key_that_is_revoked_says_no_more)
{
    struct client client = open_socket(ADMIN_KEY);

    json_decref(ask(&client, "{\"type\":\"ping\"}", "pong"));
    muster_board_publish(rig.bus, MUSTER_KEYS_BOARD, keys_new(NULL, 0), keys_free);
    say(&client, "{\"type\":\"message\",\"team\":\"backend\",\"message\":\"What?\"}");
    cr_expect_eq(next_frame(&client, &answer.body), CLOSE);
    cr_expect_eq((uint8_t)answer.body.data[0] << 8 | (uint8_t)answer.body.data[1], 1008);
    cr_expect_eq(rig.submits, 0);
    client_close(&client);
}

/* ---- cancel --------------------------------------------------------------------------------------------------------- */

Test(iris_socket, a_message_is_cancelled_once)
{
    struct job running = store_one("backend", "admin", job_state_RUNNING, 1704067200000);
    struct job ended = store_one("backend", "admin", job_state_COMPLETED, 1704067200001);
    struct client client = open_socket(ADMIN_KEY);
    char text[256];
    json_t *json;

    rig.last_job = running.id;
    snprintf(text, sizeof text, "{\"type\":\"cancel\",\"messageId\":\"%s\",\"id\":\"c\"}",
             path_of(&running, "msg_", "") + strlen("/api/v1/messages/"));
    say(&client, text);
    expect_text(&client, "{\"type\":\"cancelled\",\"messageId\":\"msg_@\",\"status\":\"cancelled\",\"wasRunning\":true,"
                         "\"id\":\"c\"}");
    snprintf(text, sizeof text, "{\"type\":\"cancel\",\"messageId\":\"%s\",\"id\":\"c\"}",
             path_of(&ended, "job_", "") + strlen("/api/v1/messages/"));
    json = refused(&client, text, "CONFLICT");
    cr_expect_str_eq(text_of(json_object_get(json, "details"), "status"), "completed");
    cr_expect_str_eq(text_of(json, "id"), "c");
    json_decref(json);
    client_close(&client);
}
