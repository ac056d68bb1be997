/* SPDX-License-Identifier: MPL-2.0 */
/* iris: where a message stands, retries, paused teams, the history's filters, and the document's error codes. */
#include "tests/unit/api_iris_help.h"

TestSuite(iris_manage, .init = open_rig, .fini = close_rig, .timeout = 60);

/* ---- where a message stands ----------------------------------------------------------------------------------------- */

Test(iris_manage, the_queue_says_where_a_waiting_message_stands)
{
    struct job job = store_one("backend", "admin", job_state_QUEUED, muster_clock_ms());
    json_t *json;

    desk.placed = (struct queue_placed){4, 1804067500000};
    json = call("GET", path_of(&job, "msg_", ""), NULL, 200);
    cr_expect_eq(number_of(json, "position"), 4);
    cr_expect_eq(number_of(json, "estimatedCompletion"), 1804067500000);
    json_decref(json);
}

Test(iris_manage, the_queue_is_asked_for_waiting_messages_only)
{
    static const enum job_state states[] = {job_state_RUNNING, job_state_COMPLETED, job_state_FAILED,
                                            job_state_CANCELLED};
    struct job job;
    json_t *json;
    size_t i;

    desk.placed = (struct queue_placed){4, 1804067500000};
    for (i = 0; i < 4; i++) {
        job = store_one("backend", "admin", states[i], muster_clock_ms());
        json = call("GET", path_of(&job, "msg_", ""), NULL, 200);
        cr_expect_null(json_object_get(json, "position"));
        json_decref(json);
    }
    cr_expect_eq(desk.asked, 0);
}

Test(iris_manage, a_queue_that_does_not_say_leaves_an_estimate)
{
    struct job job = store_one("backend", "admin", job_state_RETRYING, muster_clock_ms());
    json_t *json;

    desk.refuses = "OVERLOADED";
    json = call("GET", path_of(&job, "msg_", ""), NULL, 200);
    cr_expect_eq(desk.asked, 1);
    cr_expect_null(json_object_get(json, "position"));
    cr_expect_geq(number_of(json, "estimatedCompletion"), job.created_ms);
    json_decref(json);
}

static void
publish_agent(const struct muster_id *job, int64_t current, int64_t total)
{
    struct muster_agent_view *agent = muster_alloc(sizeof *agent);

    agent->count = 2;
    agent->processes[0] = (struct muster_process_view){.pid = 41, .job = muster_id_new(1), .current = 1, .total = 9};
    agent->processes[1] = (struct muster_process_view){.pid = 42, .job = *job, .current = current, .total = total};
    muster_board_publish(rig.bus, MUSTER_AGENT_PREFIX "backend", agent, free);
}

Test(iris_manage, progress_is_what_the_agent_counts)
{
    static const int64_t rows[][4] = {{3, 5, 60, 3}, {0, 7, 0, 0}, {5, 5, 100, 5}, {9, 5, 100, 5}};
    struct job job = store_one("backend", "admin", job_state_RUNNING, muster_clock_ms() - 1000);
    json_t *json, *progress;
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        publish_agent(&job.id, rows[i][0], rows[i][1]);
        json = call("GET", path_of(&job, "msg_", ""), NULL, 200);
        progress = json_object_get(json, "progress");
        cr_expect_eq(number_of(progress, "current"), rows[i][3]);
        cr_expect_eq(number_of(progress, "total"), rows[i][1]);
        cr_expect_eq(number_of(progress, "percentage"), rows[i][2]);
        json_decref(json);
    }
    publish_agent(&job.id, 0, 0);
    json = call("GET", path_of(&job, "msg_", ""), NULL, 200);
    cr_expect_eq(number_of(json_object_get(json, "progress"), "total"), 1);
    json_decref(json);
}

Test(iris_manage, a_message_shows_its_conversation_deadline_and_retries)
{
    struct job job = store_one("backend", "admin", job_state_FAILED, 1704067200000);
    struct job other = store_one("backend", "admin", job_state_QUEUED, 1704067200001);
    json_t *json;

    job.session_id = "s-1";
    job.deadline_ms = 1704067300000;
    job.retry_of = job.retried_as = other.id;
    store_job(&rig, &job);
    json = call("GET", path_of(&job, "msg_", ""), NULL, 200);
    cr_expect_str_eq(text_of(json, "sessionId"), "s-1");
    cr_expect_eq(number_of(json, "deadline"), 1704067300000);
    cr_expect_str_eq(text_of(json, "retryOf"), path_of(&other, "msg_", "") + strlen("/api/v1/messages/"));
    cr_expect_str_eq(text_of(json, "retriedAs"), text_of(json, "retryOf"));
    json_decref(json);
    json = call("GET", path_of(&other, "msg_", ""), NULL, 200);
    cr_expect_null(json_object_get(json, "retryOf"));
    cr_expect_null(json_object_get(json, "sessionId"));
    cr_expect_null(json_object_get(json, "deadline"));
    json_decref(json);
}

/* ---- retry ---------------------------------------------------------------------------------------------------------- */

static struct job
store_failed(void)
{
    static const uint8_t secret[24] = {1, 2, 3};
    static const struct muster_pair header = {"X-A", "b"};
    static struct job_callback callback = {"https://example.com/x", "PUT", {&header, 1}, {secret, sizeof secret}};
    struct job job = store_one("backend", "ci", job_state_FAILED, 1704067200000);

    job.kind = job_kind_ASK;
    job.priority = job_priority_HIGH;
    job.context = "{\"pr\":1}";
    job.callback = &callback;
    job.session_id = "s";
    job.conversation = "c0ffee";
    job.timeout_ms = 777;
    job.max_attempts = 5;
    job.retry_delay_ms = 11;
    job.max_retry_delay_ms = 22;
    job.deadline_ms = 1704067300000;
    job.session = "agent-session";
    job.idempotency = "old";
    store_job(&rig, &job);
    return job;
}

Test(iris_manage, a_failed_message_is_sent_again_as_a_new_one)
{
    struct job failed = store_failed(), job;
    json_t *json = call("POST", path_of(&failed, "msg_", "/retry"), "", 202);
    char id[MUSTER_ID_TEXT];

    job = submitted();
    muster_id_text(&job.id, id);
    cr_expect_str_eq(text_of(json, "messageId") + 4, id);
    cr_expect_str_eq(text_of(json, "jobId") + 4, id);
    cr_expect_str_eq(text_of(json, "retryOf"), path_of(&failed, "msg_", "") + strlen("/api/v1/messages/"));
    cr_expect_str_eq(text_of(json, "sessionId"), "s");
    cr_expect_str_eq(text_of(json, "status"), "queued");
    cr_expect_eq(number_of(json, "position"), 3);
    json_decref(json);
    cr_expect(muster_id_equal(&job.retry_of, &failed.id));
    cr_expect(!muster_id_equal(&job.id, &failed.id));
    cr_expect_str_eq(job.from, "admin");
    cr_expect_str_eq(job.prompt, "question");
    cr_expect_str_eq(job.context, "{\"pr\":1}");
    cr_expect_eq(job.priority, job_priority_HIGH);
    cr_expect_str_eq(job.callback->url, "https://example.com/x");
    cr_expect_eq(job.callback->secret.size, 24);
    cr_expect_str_eq(job.session_id, "s");
    cr_expect_str_eq(job.conversation, "c0ffee");
    cr_expect_eq(job.timeout_ms, 777);
    cr_expect_eq(job.max_attempts, 5);
    cr_expect_eq(job.retry_delay_ms, 11);
    cr_expect_eq(job.max_retry_delay_ms, 22);
    cr_expect_eq(job.deadline_ms, 0); /* it has passed */
    cr_expect_eq(job.state, job_state_QUEUED);
    cr_expect_eq(job.attempt, 0);
    cr_expect_null(job.result);
    cr_expect_str_neq(job.idempotency, "old");
}

Test(iris_manage, a_message_is_retried_once)
{
    struct job failed = store_failed(), again;
    char headers[16] = "";
    json_t *first = call("POST", path_of(&failed, "msg_", "/retry"), "", 202);
    json_t *second = call("POST", path_of(&failed, "job_", "/retry"), "", 202);

    cr_expect(json_equal(first, second), "%s", answer.body.data);
    cr_expect(answer_header(&answer, "Idempotent-Replayed", headers, sizeof headers));
    cr_expect_eq(rig.submits, 2);
    json_decref(second);
    /* The queue has forgotten it; the record has not. */
    again = submitted();
    again.id = desk.entries[0].accepted.job;
    again.position = 3;
    again.estimate_ms = 1704067500000;
    store_job(&rig, &again);
    failed.retried_as = again.id;
    store_job(&rig, &failed);
    desk.count = 0;
    second = call("POST", path_of(&failed, "", "/retry"), "", 202);
    cr_expect(json_equal(first, second), "%s", answer.body.data);
    cr_expect(answer_header(&answer, "Idempotent-Replayed", headers, sizeof headers));
    cr_expect_eq(rig.submits, 2);
    json_decref(first);
    json_decref(second);
}

Test(iris_manage, only_failed_messages_are_retried)
{
    static const struct {
        enum job_state state;
        const char *status;
    } rows[] = {{job_state_QUEUED, "queued"},
                {job_state_RUNNING, "processing"},
                {job_state_COMPLETED, "completed"},
                {job_state_CANCELLED, "cancelled"}};
    struct job job;
    json_t *json;
    size_t i;

    for (i = 0; i < 4; i++) {
        job = store_one("backend", "admin", rows[i].state, 1704067200000);
        json = call("POST", path_of(&job, "msg_", "/retry"), "", 409);
        cr_expect_str_eq(text_of(json, "code"), "CONFLICT");
        cr_expect_str_eq(text_of(json_object_get(json, "details"), "status"), rows[i].status);
        json_decref(json);
    }
    job = store_one("gone", "admin", job_state_FAILED, 1704067200000);
    expect_error(path_of(&job, "msg_", "/retry"), "", 404, "TEAM_NOT_FOUND");
    expect_error("/api/v1/messages/msg_nonsense/retry", "", 404, "NOT_FOUND");
    job = store_one("frontend", "admin", job_state_FAILED, 1704067200000);
    json_decref(call_as(BACKEND_KEY, "POST", path_of(&job, "msg_", "/retry"), "", 404));
    json_decref(call_as(READER_KEY, "POST", path_of(&job, "msg_", "/retry"), "", 403));
    cr_expect_eq(rig.submits, 0);
}

/* ---- cancel --------------------------------------------------------------------------------------------------------- */

Test(iris_manage, a_message_that_ends_before_its_cancel_arrives_has_ended)
{
    struct job job = store_one("backend", "admin", job_state_RUNNING, 1704067200000);
    json_t *json;

    desk.cancelled = (struct queue_cancelled){job.id, job_state_COMPLETED, false};
    json = call("POST", path_of(&job, "msg_", "/cancel"), "", 409);
    cr_expect_str_eq(text_of(json_object_get(json, "details"), "status"), "completed");
    json_decref(json);
}

/* ---- teams ---------------------------------------------------------------------------------------------------------- */

static void
publish_queue(int64_t queued, int64_t running, bool paused)
{
    struct muster_queue_view *queue = muster_alloc(sizeof *queue);

    *queue = (struct muster_queue_view){.queued = queued, .running = running, .paused = paused};
    muster_board_publish(rig.bus, MUSTER_QUEUE_BOARD "/backend", queue, free);
}

Test(iris_manage, a_team_is_paused_and_resumed)
{
    json_t *json = call("POST", "/api/v1/teams/backend/pause", "", 200);

    cr_expect_str_eq(text_of(json, "team"), "backend");
    cr_expect(json_is_true(json_object_get(json, "paused")));
    json_decref(json);
    json = call("POST", "/api/v1/teams/backend/resume", "", 200);
    cr_expect(json_is_false(json_object_get(json, "paused")));
    json_decref(json);
    expect_error("/api/v1/teams/nobody/pause", "", 404, "TEAM_NOT_FOUND");
    json_decref(call_as(BACKEND_KEY, "POST", "/api/v1/teams/backend/pause", "", 403));
    desk.refuses = "STORAGE_FULL";
    expect_error("/api/v1/teams/backend/pause", "", 507, "STORAGE_FULL");
}

Test(iris_manage, a_paused_team_is_shown_as_such_once_nothing_runs)
{
    static const struct {
        int64_t queued, running;
        bool paused;
        const char *status;
    } rows[] = {{3, 0, true, "paused"}, {3, 1, true, "busy"}, {3, 0, false, "busy"}, {0, 0, false, "idle"}};
    json_t *json, *team;
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        publish_queue(rows[i].queued, rows[i].running, rows[i].paused);
        json = call("GET", "/api/v1/teams/backend/status", NULL, 200);
        cr_expect_str_eq(text_of(json, "status"), rows[i].status);
        cr_expect_eq(json_is_true(json_object_get(json, "paused")), rows[i].paused);
        json_decref(json);
        json = call("GET", "/api/v1/teams", NULL, 200);
        team = json_array_get(json_object_get(json, "teams"), 0);
        cr_expect_str_eq(text_of(team, "status"), rows[i].status);
        cr_expect_eq(json_is_true(json_object_get(team, "paused")), rows[i].paused);
        json_decref(json);
    }
}

/* ---- history -------------------------------------------------------------------------------------------------------- */

static void
expect_page(const char *key, const char *query, size_t shown, int64_t total, bool more)
{
    char path[256];
    json_t *json, *page;

    snprintf(path, sizeof path, "/api/v1/messages/history%s", query);
    json = call_as(key, "GET", path, NULL, 200);
    page = json_object_get(json, "pagination");
    cr_expect_eq(json_array_size(json_object_get(json, "messages")), shown, "%s: %s", query, answer.body.data);
    cr_expect_eq(number_of(page, "total"), total, "%s: %s", query, answer.body.data);
    cr_expect_eq(json_is_true(json_object_get(page, "hasNext")), more, "%s", query);
    json_decref(json);
}

/* Everything in pages of `limit`: each message once, newest first. */
static void
expect_pages(const char *key, const char *query, int limit, int64_t total)
{
    int64_t seen = 0, last = INT64_MAX;
    int page = 1;
    bool more = true;
    json_t *json, *messages;
    char path[256];
    size_t i;

    for (; more; page++) {
        snprintf(path, sizeof path, "/api/v1/messages/history?%s&limit=%d&page=%d", query, limit, page);
        json = call_as(key, "GET", path, NULL, 200);
        messages = json_object_get(json, "messages");
        for (i = 0; i < json_array_size(messages); i++, seen++) {
            cr_expect_lt(number_of(json_array_get(messages, i), "timestamp"), last, "%s", path);
            last = number_of(json_array_get(messages, i), "timestamp");
        }
        more = json_is_true(json_object_get(json_object_get(json, "pagination"), "hasNext"));
        cr_expect_eq(number_of(json_object_get(json, "pagination"), "total"), total);
        json_decref(json);
    }
    cr_expect_eq(seen, total, "%s: %lld", query, (long long)seen);
}

static void
store_history(void)
{
    static const enum job_state states[] = {job_state_QUEUED,    job_state_RUNNING, job_state_COMPLETED,
                                            job_state_FAILED,    job_state_PARKED,  job_state_RETRYING,
                                            job_state_CANCELLED, job_state_WAITING, job_state_FAILED};
    struct job job;
    int i;

    for (i = 0; i < 90; i++) {
        job = store_one(i % 2 ? "backend" : "frontend", i % 3 ? "ci" : "web", states[i % 9], 1704067200000 + i * 1000);
        if (i % 9 == 8) {
            job.retried_as = job.id;
            store_job(&rig, &job);
        }
    }
}

Test(iris_manage, history_filters_combine)
{
    store_history();
    expect_page(ADMIN_KEY, "?status=dead", 10, 10, false);
    expect_page(ADMIN_KEY, "?status=failed", 20, 20, false);
    expect_page(ADMIN_KEY, "?status=queued", 30, 30, false);
    expect_page(ADMIN_KEY, "?status=queued&limit=7&page=2", 7, 30, true);
    expect_page(ADMIN_KEY, "?status=processing", 20, 20, false);
    expect_page(ADMIN_KEY, "?status=dead&team=backend", 5, 5, false);
    expect_page(ADMIN_KEY, "?status=dead&team=backend&limit=3&page=2", 2, 5, false);
    expect_page(ADMIN_KEY, "?status=dead&team=backend&limit=3", 3, 5, true);
    expect_page(ADMIN_KEY, "?status=dead&from=web", 10, 10, false);
    expect_page(ADMIN_KEY, "?status=dead&from=ci", 0, 0, false);
    expect_page(ADMIN_KEY, "?to=backend&from=web", 15, 15, false);
    expect_page(ADMIN_KEY, "?to=backend&team=backend&from=web&status=dead", 5, 5, false);
    expect_page(ADMIN_KEY, "?to=backend&team=frontend&from=web", 0, 0, false);
    expect_page(ADMIN_KEY, "?to=backend&since=1704067280000", 5, 5, false);
    expect_page(ADMIN_KEY, "?since=1704067289000", 1, 1, false);
    expect_page(ADMIN_KEY, "?since=1704067289001", 0, 0, false);
    expect_page(ADMIN_KEY, "?since=0&limit=10&page=9", 10, 90, false);
    expect_page(ADMIN_KEY, "?limit=10&page=10", 0, 90, false);
    expect_page(ADMIN_KEY, "?status=queued&page=1000000&limit=200", 0, 30, false);
    expect_page(ADMIN_KEY, "?from=nobody", 0, 0, false);
    expect_page(ADMIN_KEY, "?team=nobody", 0, 0, false);
    expect_page(ADMIN_KEY, "?team=", 0, 0, false);
    expect_page(BACKEND_KEY, "", 45, 45, false);
    expect_page(BACKEND_KEY, "?status=queued", 15, 15, false);
    expect_page(BACKEND_KEY, "?to=frontend", 0, 0, false);
}

Test(iris_manage, pages_of_the_history_fit_together)
{
    store_history();
    expect_pages(ADMIN_KEY, "status=queued", 7, 30);
    expect_pages(ADMIN_KEY, "status=processing", 3, 20);
    expect_pages(ADMIN_KEY, "status=dead", 4, 10);
    expect_pages(ADMIN_KEY, "from=ci", 9, 60);
    expect_pages(ADMIN_KEY, "from=ci&team=backend", 11, 30);
    expect_pages(BACKEND_KEY, "from=ci", 11, 30);
    expect_pages(ADMIN_KEY, "", 13, 90);
}

/* ---- errors --------------------------------------------------------------------------------------------------------- */

static void
expect_code(const char *key, const char *path, const char *body, int status, const char *code)
{
    json_t *json = call_as(key, "POST", path, body, status);

    cr_expect_str_eq(text_of(json, "code"), code);
    cr_expect_gt(strlen(text_of(json, "error")), 0);
    cr_expect_gt(strlen(text_of(json, "message")), 0);
    cr_expect_gt(number_of(json, "timestamp"), 1600000000000);
    json_decref(json);
}

Test(iris_manage, every_code_of_the_document_is_reached_in_its_shape)
{
    static const char path[] = "/api/v1/teams/backend/ask", ask[] = "{\"question\":\"x\"}";

    expect_code(ADMIN_KEY, path, "{}", 400, "INVALID_REQUEST");
    expect_code(ADMIN_KEY, "/api/v1/teams/nobody/ask", ask, 404, "TEAM_NOT_FOUND");
    expect_code(NULL, path, ask, 401, "UNAUTHORIZED");
    expect_code("muster_sk_wrong", path, ask, 401, "UNAUTHORIZED");
    expect_code(READER_KEY, path, ask, 403, "FORBIDDEN");
    expect_code(BACKEND_KEY, "/api/v1/teams/frontend/ask", ask, 403, "FORBIDDEN");
    expect_code(SPENT_KEY, path, ask, 429, "RATE_LIMITED");
    expect_code(ADMIN_KEY, path, "{\"question\":\"silence\",\"timeout\":20}", 408, "TIMEOUT");
    expect_code(ADMIN_KEY, path, "{\"question\":\"fail PROCESS_ERROR\"}", 500, "PROCESS_ERROR");
    expect_code(ADMIN_KEY, path, "{\"question\":\"fail INTERNAL_ERROR\"}", 500, "INTERNAL_ERROR");
    expect_code(ADMIN_KEY, path, "{\"question\":\"fail DEADLINE_EXCEEDED\"}", 408, "DEADLINE_EXCEEDED");
}
