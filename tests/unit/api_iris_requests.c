/* SPDX-License-Identifier: MPL-2.0 */
/* iris: conversations, repeated requests, and the times of a task. */
#include "tests/unit/api_iris_help.h"

TestSuite(iris_requests, .init = open_rig, .fini = close_rig, .timeout = 60);

#define ASK "/api/v1/teams/backend/ask"
#define EXECUTE "/api/v1/teams/backend/execute"
#define STREAM "/api/v1/teams/backend/stream"

/* ---- conversations -------------------------------------------------------------------------------------------------- */

/* The conversation that a request with this session id belongs to. */
static char *
conversation_of(const char *key, const char *path, const char *session_id)
{
    char body[256];

    snprintf(body, sizeof body, "{\"task\":\"x\",\"sessionId\":\"%s\"}", session_id);
    json_decref(call_as(key, "POST", path, body, 202));
    cr_assert_str_eq(submitted().session_id, session_id);
    cr_assert_not_null(submitted().conversation);
    return muster_strdup(submitted().conversation);
}

Test(iris_requests, a_session_id_names_a_conversation_of_one_key_with_one_team)
{
    char *one = conversation_of(ADMIN_KEY, EXECUTE, "s1"), *again = conversation_of(ADMIN_KEY, EXECUTE, "s1");
    char *other = conversation_of(ADMIN_KEY, EXECUTE, "s2"), *key = conversation_of(BACKEND_KEY, EXECUTE, "s1");
    char *team = conversation_of(ADMIN_KEY, "/api/v1/teams/frontend/execute", "s1");

    cr_expect_str_eq(one, again);
    cr_expect_str_neq(one, other);
    cr_expect_str_neq(one, key);
    cr_expect_str_neq(one, team);
    free(one);
    free(again);
    free(other);
    free(key);
    free(team);
}

Test(iris_requests, a_key_with_the_name_of_another_does_not_come_into_its_conversations)
{
    char *one = conversation_of(ADMIN_KEY, EXECUTE, "s1"), *other;

    publish_keys(&rig); /* the names are the same, the ids are not */
    other = conversation_of(ADMIN_KEY, EXECUTE, "s1");
    cr_expect_str_neq(one, other);
    free(one);
    free(other);
}

Test(iris_requests, a_job_without_a_session_id_belongs_to_no_conversation)
{
    json_decref(call("POST", EXECUTE, "{\"task\":\"x\"}", 202));
    cr_expect(submitted().conversation == NULL || *submitted().conversation == '\0');
    cr_expect(submitted().session_id == NULL || *submitted().session_id == '\0');
    cr_expect(submitted().idempotency == NULL || *submitted().idempotency == '\0');
}

Test(iris_requests, answers_carry_the_session_id_that_was_given)
{
    json_t *json = call("POST", ASK, "{\"question\":\"x\",\"sessionId\":\"s-1\"}", 200);

    cr_expect_str_eq(text_of(json, "sessionId"), "s-1");
    json_decref(json);
    json = call("POST", EXECUTE, "{\"task\":\"x\",\"sessionId\":\"s-1\"}", 202);
    cr_expect_str_eq(text_of(json, "sessionId"), "s-1");
    json_decref(json);
    json = call("POST", EXECUTE, "{\"task\":\"x\"}", 202);
    cr_expect_null(json_object_get(json, "sessionId"));
    json_decref(json);
}

static struct client
open_stream(const char *method, const char *path, const char *headers, const char *body)
{
    struct client client = client_open(&rig);

    client_say(&client, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s", method, path, ADMIN_KEY,
               headers ? headers : "");
    client_say(&client, "Content-Length: %zu\r\n\r\n%s", body ? strlen(body) : 0, body ? body : "");
    cr_assert(client_until(&client, "\r\n\r\nretry: 2000\n\n") != NULL, "%s", client.in.data);
    return client;
}

static void
publish_body(const struct muster_id *job, int64_t seq, const struct muster_type *type, const void *in)
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
                           .body = {(const uint8_t *)body.data, body.size}};
    muster_batch_append(batch, &event);
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_batch_free(&batch);
    publish(&rig, &event);
    muster_buf_free(&body);
}

Test(iris_requests, the_start_of_a_stream_carries_the_session_id_also_when_it_is_read_later)
{
    static const char expected[] = "\"team\":\"backend\",\"sessionId\":\"s 1\"}";
    struct client client = open_stream("GET", STREAM "?message=x&sessionId=s%201", NULL, NULL);
    struct job job = submitted();
    char text[1024];

    cr_expect_str_eq(job.session_id, "s 1");
    publish_body(&job.id, 1, &job_queued_type, &(struct job_queued){job_priority_NORMAL, 1});
    cr_assert_eq(client_event(&client, text, sizeof text), 1);
    cr_expect(strstr(text, expected) != NULL, "%s", text);
    client_close(&client);
    store_job(&rig, &job);
    client = open_stream("GET", path_of(&job, "msg_", "/stream"), NULL, NULL);
    cr_assert_eq(client_event(&client, text, sizeof text), 1);
    cr_expect(strstr(text, expected) != NULL, "%s", text);
    client_close(&client);
}

Test(iris_requests, a_stream_shows_progress)
{
    struct client client = open_stream("POST", STREAM, NULL, "{\"message\":\"x\",\"stream\":true}");
    char text[1024];

    publish_body(&rig.last_job, 1, &job_progress_type, &(struct job_progress){2, 5, "tests"});
    cr_assert_eq(client_event(&client, text, sizeof text), 1);
    cr_expect_not_null(strstr(text, "\nevent: progress\ndata: {\"current\":2,\"total\":5,\"step\":\"tests\"}"), "%s",
                       text);
    client_close(&client);
}

/* ---- times ---------------------------------------------------------------------------------------------------------- */

Test(iris_requests, the_times_of_a_task_reach_its_job)
{
    char body[512];
    struct job job;

    snprintf(body, sizeof body,
             "{\"task\":\"x\",\"delay\":\"10m\",\"deadline\":%lld,\"retry\":{\"delay\":2500,\"maxDelay\":\"1m\"}}",
             (long long)muster_clock_ms() + 3600000);
    json_decref(call("POST", EXECUTE, body, 202));
    job = submitted();
    cr_expect_eq(job.not_before_ms, job.created_ms + 600000);
    cr_expect_geq(job.deadline_ms, job.created_ms + 3590000);
    cr_expect_leq(job.deadline_ms, job.created_ms + 3600000);
    cr_expect_eq(job.retry_delay_ms, 2500);
    cr_expect_eq(job.max_retry_delay_ms, 60000);
    cr_expect_eq(job.max_attempts, 3);
    json_decref(call("POST", EXECUTE, "{\"task\":\"x\",\"delay\":1500,\"deadline\":\"2999-01-01T00:00:00Z\"}", 202));
    job = submitted();
    cr_expect_eq(job.not_before_ms, job.created_ms + 1500);
    cr_expect_eq(job.deadline_ms, 32472144000000);
    cr_expect_eq(job.retry_delay_ms, 0);
    json_decref(call("POST", EXECUTE, "{\"task\":\"x\",\"delay\":0,\"deadline\":null,\"retry\":{}}", 202));
    cr_expect_eq(submitted().not_before_ms, 0);
    cr_expect_eq(submitted().deadline_ms, 0);
}

Test(iris_requests, a_callback_may_have_its_own_secret)
{
    static const char body[] = "{\"task\":\"x\",\"callback\":{\"url\":\"https://example.com/\","
                               "\"secret\":\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"}}";
    struct job job;

    json_decref(call("POST", EXECUTE, body, 202));
    job = submitted();
    cr_assert_not_null(job.callback);
    cr_expect_eq(job.callback->secret.size, 24);
    cr_expect_eq(job.callback->secret.data[0], 0x31);
    cr_expect_str_eq(job.callback->method, "POST");
}

Test(iris_requests, what_does_not_fit_is_400_and_names_its_field)
{
    static char long_id[300];
    static const struct {
        const char *path, *body, *field;
    } rows[] = {
        {ASK, "{\"question\":\"x\",\"sessionId\":\"\"}", "sessionId"},
        {ASK, "{\"question\":\"x\",\"sessionId\":7}", "sessionId"},
        {ASK, long_id, "sessionId"},
        {EXECUTE, "{\"task\":\"x\",\"sessionId\":[]}", "sessionId"},
        {EXECUTE, "{\"task\":\"x\",\"delay\":-1}", "delay"},
        {EXECUTE, "{\"task\":\"x\",\"delay\":1.5}", "delay"},
        {EXECUTE, "{\"task\":\"x\",\"delay\":\"soon\"}", "delay"},
        {EXECUTE, "{\"task\":\"x\",\"delay\":true}", "delay"},
        {EXECUTE, "{\"task\":\"x\",\"delay\":{}}", "delay"},
        {EXECUTE, "{\"task\":\"x\",\"delay\":\"31d\"}", "delay"},
        {EXECUTE, "{\"task\":\"x\",\"deadline\":1704067200000}", "deadline"},
        {EXECUTE, "{\"task\":\"x\",\"deadline\":\"tomorrow\"}", "deadline"},
        {EXECUTE, "{\"task\":\"x\",\"deadline\":[1]}", "deadline"},
        {EXECUTE, "{\"task\":\"x\",\"retry\":{\"delay\":0}}", "retry.delay"},
        {EXECUTE, "{\"task\":\"x\",\"retry\":{\"delay\":\"6m\"}}", "retry.delay"},
        {EXECUTE, "{\"task\":\"x\",\"retry\":{\"maxDelay\":\"1x\"}}", "retry.maxDelay"},
        {EXECUTE, "{\"task\":\"x\",\"retry\":{\"delay\":\"2s\",\"maxDelay\":\"1s\"}}", "retry.maxDelay"},
        {EXECUTE, "{\"task\":\"x\",\"retry\":{\"maxAttempts\":0}}", "retry.maxAttempts"},
        {EXECUTE, "{\"task\":\"x\",\"retry\":7}", "retry"},
        {EXECUTE, "{\"task\":\"x\",\"callback\":{\"url\":\"https://example.com/\",\"secret\":\"whsec_short\"}}",
         "callback.secret"},
        {EXECUTE, "{\"task\":\"x\",\"callback\":{\"url\":\"https://example.com/\",\"method\":\"GET\"}}",
         "callback.method"},
        {STREAM, "{\"message\":\"x\",\"stream\":false}", "stream"},
        {STREAM, "{\"message\":\"x\",\"stream\":\"true\"}", "stream"},
        {STREAM, "{\"message\":\"x\",\"sessionId\":\"\"}", "sessionId"},
        {STREAM, "{\"message\":\"x\",\"context\":\"\"}", "context"},
        {STREAM "?message=x&sessionId=", NULL, "sessionId"},
    };
    char field[64];
    size_t i;

    snprintf(long_id, sizeof long_id, "{\"question\":\"x\",\"sessionId\":\"%0129d\"}", 0);
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        expect_error(rows[i].path, rows[i].body, 400, "INVALID_REQUEST");
        snprintf(field, sizeof field, "\"field\":\"%s\"", rows[i].field);
        cr_expect(answer_has(&answer, field), "%s: %s", rows[i].body, answer.body.data);
    }
    cr_expect_eq(rig.submits, 0);
}

Test(iris_requests, a_deadline_must_come_after_the_delay)
{
    char body[128];

    snprintf(body, sizeof body, "{\"task\":\"x\",\"delay\":\"1h\",\"deadline\":%lld}",
             (long long)muster_clock_ms() + 60000);
    expect_error(EXECUTE, body, 400, "INVALID_REQUEST");
    cr_expect(answer_has(&answer, "deadline: must be after the delay"), "%s", answer.body.data);
}

/* ---- repeated requests ---------------------------------------------------------------------------------------------- */

static int
post(const char *key, const char *path, const char *idempotency_key, const char *body)
{
    char headers[400];

    snprintf(headers, sizeof headers, "Idempotency-Key: %s\r\n", idempotency_key);
    return request_text(&rig, &answer, "POST", path, key, headers, body);
}

static bool
is_replayed(void)
{
    char text[16] = "";

    return answer_header(&answer, "Idempotent-Replayed", text, sizeof text) && strcmp(text, "true") == 0;
}

/* The digest that a request with this key leads to. */
static char *
digest_of(const char *key, const char *path, const char *idempotency_key, const char *body)
{
    int status = post(key, path, idempotency_key, body);

    cr_assert(status == 200 || status == 202, "%d: %s", status, answer.body.data);
    cr_assert_eq(strlen(submitted().idempotency), 64);
    cr_assert_eq(submitted().fingerprint.size, MUSTER_DIGEST);
    return muster_strdup(submitted().idempotency);
}

Test(iris_requests, an_idempotency_key_counts_for_one_caller_endpoint_and_team)
{
    static const char task[] = "{\"task\":\"x\"}";
    char *digests[] = {digest_of(ADMIN_KEY, EXECUTE, "k1", task), digest_of(ADMIN_KEY, EXECUTE, "k2", task),
                       digest_of(BACKEND_KEY, EXECUTE, "k1", task),
                       digest_of(ADMIN_KEY, "/api/v1/teams/frontend/execute", "k1", task),
                       digest_of(ADMIN_KEY, ASK, "k1", "{\"question\":\"x\"}")};
    char *quoted = digest_of(ADMIN_KEY, EXECUTE, "\"k1\"", task);
    char *escaped = digest_of(ADMIN_KEY, EXECUTE, "\"k\\\"\\\\\"", task);
    char *plain = digest_of(ADMIN_KEY, EXECUTE, "k\"\\", task);
    size_t i, j;

    for (i = 0; i < 5; i++)
        for (j = 0; j < i; j++)
            cr_expect_str_neq(digests[i], digests[j]);
    cr_expect_str_eq(quoted, digests[0]);
    cr_expect_str_eq(escaped, plain);
    for (i = 0; i < 5; i++)
        free(digests[i]);
    free(quoted);
    free(escaped);
    free(plain);
}

Test(iris_requests, idempotency_keys_that_do_not_fit_are_400)
{
    static char long_key[257];
    static const char *const keys[] = {"", "a b", "\"a", "\"a\"b", "\"\"", "\"a\\b\"", "k\xc3\xa4", long_key};
    static const char *const paths[] = {EXECUTE, ASK, STREAM};
    static const char *const bodies[] = {"{\"task\":\"x\"}", "{\"question\":\"x\"}", "{\"message\":\"x\"}"};
    size_t i, j;

    memset(long_key, 'k', 256);
    for (i = 0; i < sizeof keys / sizeof *keys; i++)
        for (j = 0; j < 3; j++) {
            cr_expect_eq(post(ADMIN_KEY, paths[j], keys[i], bodies[j]), 400, "%s: %d", keys[i], answer.status);
            cr_expect(answer_has(&answer, "\"field\":\"Idempotency-Key\""), "%s: %s", keys[i], answer.body.data);
        }
    cr_expect_eq(rig.submits, 0);
}

Test(iris_requests, an_execute_that_is_repeated_gets_the_same_answer)
{
    char first[1024];

    cr_assert_eq(post(ADMIN_KEY, EXECUTE, "k", "{\"task\":\"x\",\"sessionId\":\"s\"}"), 202);
    cr_expect_not(is_replayed());
    snprintf(first, sizeof first, "%s", answer.body.data);
    cr_assert_eq(post(ADMIN_KEY, EXECUTE, "k", "{\"sessionId\":\"s\", \"task\":\"x\", \"priority\":\"normal\"}"), 202);
    cr_expect(is_replayed(), "%s", answer.head);
    cr_expect_str_eq(answer.body.data, first);
}

Test(iris_requests, a_key_that_was_used_for_something_else_is_422)
{
    cr_assert_eq(post(ADMIN_KEY, EXECUTE, "k", "{\"task\":\"x\"}"), 202);
    cr_expect_eq(post(ADMIN_KEY, EXECUTE, "k", "{\"task\":\"y\"}"), 422);
    cr_expect(answer_has(&answer, "\"code\":\"IDEMPOTENCY_MISMATCH\""), "%s", answer.body.data);
    cr_expect(strncmp(answer.head, "HTTP/1.1 422 Unprocessable", 26) == 0, "%s", answer.head);
    desk.busy = true;
    cr_expect_eq(post(ADMIN_KEY, EXECUTE, "k", "{\"task\":\"x\"}"), 409);
    cr_expect(answer_has(&answer, "\"code\":\"IDEMPOTENCY_IN_PROGRESS\""), "%s", answer.body.data);
    cr_expect_not_null(strstr(answer.head, "\nRetry-After: 3\r"), "%s", answer.head);
}

Test(iris_requests, a_repeated_execute_may_be_past_its_deadline)
{
    int64_t deadline_ms = muster_clock_ms() + 1000;
    struct job job;
    char body[128];

    snprintf(body, sizeof body, "{\"task\":\"x\",\"deadline\":%lld}", (long long)deadline_ms);
    cr_assert_eq(post(ADMIN_KEY, EXECUTE, "k", body), 202);
    job = submitted();
    store_job(&rig, &job);
    while (muster_clock_ms() <= deadline_ms)
        cr_assert_eq(post(ADMIN_KEY, EXECUTE, "k", body), 202);
    cr_expect_eq(post(ADMIN_KEY, EXECUTE, "k", body), 202, "%s", answer.body.data);
    cr_expect(is_replayed());
    cr_expect_eq(post(ADMIN_KEY, EXECUTE, "other", body), 400);
}

/* Ask once, and put what came of it into the store. */
static void
ask_and_store(enum job_state state, const char *error)
{
    struct job job;

    cr_assert_eq(post(ADMIN_KEY, ASK, "k", "{\"question\":\"x\",\"sessionId\":\"s\"}"), 200);
    cr_expect_not(is_replayed());
    job = submitted();
    job.state = state;
    if (state == job_state_COMPLETED) {
        job.started_ms = job.created_ms + 10;
        job.finished_ms = job.created_ms + 30;
        job.result = "the answer";
    }
    job.attempt = 2;
    job.error = error;
    job.error_message = error ? "it broke" : NULL;
    store_job(&rig, &job);
}

Test(iris_requests, an_ask_that_is_repeated_gets_the_answer_of_the_first)
{
    json_t *json;

    ask_and_store(job_state_COMPLETED, NULL);
    cr_assert_eq(post(ADMIN_KEY, ASK, "k", "{\"question\":\"x\",\"sessionId\":\"s\"}"), 200);
    cr_expect(is_replayed());
    json = json_loads(answer.body.data, 0, NULL);
    cr_expect_str_eq(text_of(json, "response"), "the answer");
    cr_expect_eq(number_of(json, "duration"), 20);
    cr_expect_str_eq(text_of(json, "sessionId"), "s");
    json_decref(json);
}

Test(iris_requests, an_ask_that_is_repeated_gets_the_error_of_the_first)
{
    ask_and_store(job_state_FAILED, "PROCESS_ERROR");
    cr_expect_eq(post(ADMIN_KEY, ASK, "k", "{\"question\":\"x\",\"sessionId\":\"s\"}"), 500);
    cr_expect(is_replayed());
    cr_expect(answer_has(&answer, "\"code\":\"PROCESS_ERROR\""), "%s", answer.body.data);
    cr_expect(answer_has(&answer, "\"message\":\"it broke\""));
    cr_expect(answer_has(&answer, "\"attempts\":2"));
}

Test(iris_requests, an_ask_that_is_repeated_too_early_is_told_where_the_first_is)
{
    char id[MUSTER_ID_TEXT];

    ask_and_store(job_state_RUNNING, NULL);
    muster_id_text(&rig.last_job, id);
    cr_expect_eq(post(ADMIN_KEY, ASK, "k", "{\"question\":\"x\",\"sessionId\":\"s\"}"), 409);
    cr_expect(is_replayed());
    cr_expect(answer_has(&answer, "\"code\":\"IDEMPOTENCY_IN_PROGRESS\""), "%s", answer.body.data);
    cr_expect(answer_has(&answer, "\"status\":\"processing\""), "%s", answer.body.data);
    cr_expect(answer_has(&answer, id), "%s", answer.body.data);
    cr_expect_eq(rig.submits, 2);
}

Test(iris_requests, a_stream_that_is_repeated_is_shown_from_its_beginning)
{
    static const char headers[] = "Idempotency-Key: k\r\n", body[] = "{\"message\":\"x\"}";
    struct client client = open_stream("POST", STREAM, headers, body);
    struct job job = submitted();

    client_close(&client);
    store_job(&rig, &job);
    store_chunks(&rig, &job.id, 1, 3, "text", false);
    client = client_open(&rig);
    client_say(&client, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%sContent-Length: %zu\r\n\r\n%s",
               STREAM, ADMIN_KEY, headers, strlen(body), body);
    cr_assert_not_null(client_until(&client, "Idempotent-Replayed: true\r\n"), "%s", client.in.data);
    cr_assert_not_null(client_until(&client, "\r\n\r\nretry: 2000\n\n"));
    muster_buf_shift(&client.in, (size_t)(strstr(client.in.data, "retry: 2000\n\n") - client.in.data) + 13);
    cr_expect_eq(client_event(&client, NULL, 0), 1);
    cr_expect_eq(client_event(&client, NULL, 0), 2);
    cr_expect_eq(client_event(&client, NULL, 0), 3);
    publish_text(&rig, &job.id, 4, "x", true);
    cr_expect_eq(client_event(&client, NULL, 0), 4);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
}

Test(iris_requests, a_repeated_stream_whose_events_are_gone_says_so)
{
    struct client client = open_stream("POST", STREAM, "Idempotency-Key: k\r\n", "{\"message\":\"x\"}");
    struct job job = submitted();

    client_close(&client);
    job.state = job_state_COMPLETED;
    job.finished_ms = job.created_ms + 1;
    store_job(&rig, &job);
    cr_expect_eq(post(ADMIN_KEY, STREAM, "k", "{\"message\":\"x\"}"), 410);
    cr_expect(answer_has(&answer, "\"code\":\"CURSOR_EXPIRED\""), "%s", answer.body.data);
}
