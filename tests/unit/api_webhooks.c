/* SPDX-License-Identifier: MPL-2.0 */
/* The routes of webhooks, with their true actor and store behind them, and a receiver of the tests' own. */
#include "tests/unit/api_help.h"

#include <criterion/criterion.h>
#include <jansson.h>

#define PATH "/api/v1/webhooks"
#define HOOK "\"url\":\"https://example.com/hook\""
#define MINE "muster_sk_mine"       /* webhooks:manage */
#define OTHERS "muster_sk_others"   /* likewise */
#define LIMITED "muster_sk_limited" /* likewise, team backend only */
#define NOBODY "muster_sk_nobody"   /* everything of teams, nothing of webhooks */

static struct rig rig;
static struct answer answer;
static struct muster_actor *store, *webhook;

static void
publish_hook_keys(void)
{
    static const char *const all[] = {"*"}, *const manages[] = {"webhooks:manage"}, *const writes[] = {"teams:write"};
    static const char *const backend[] = {"backend"};
    static const struct rate_limit unlimited = {0, 60000, limit_algorithm_SLIDING_WINDOW};
    static const char *const secrets[] = {ADMIN_KEY, MINE, OTHERS, LIMITED, NOBODY};
    struct key keys[5] = {{.name = "admin", .scopes = {all, 1}},
                          {.name = "mine", .scopes = {manages, 1}},
                          {.name = "others", .scopes = {manages, 1}},
                          {.name = "limited", .scopes = {manages, 1}, .teams = {backend, 1}},
                          {.name = "nobody", .scopes = {writes, 1}}};
    static uint8_t digests[5][MUSTER_DIGEST];
    size_t i;

    for (i = 0; i < 5; i++) {
        muster_sha256(secrets[i], strlen(secrets[i]), digests[i]);
        keys[i].digest = (struct muster_bytes){digests[i], MUSTER_DIGEST};
        keys[i].id = muster_id_of("key", keys[i].name);
        keys[i].rate_limit = &unlimited;
        keys[i].created_ms = 1;
    }
    muster_board_publish(rig.bus, MUSTER_KEYS_BOARD, keys_new(keys, 5), keys_free);
}

static void
open_with(const char *more)
{
    struct muster_buf yaml = {0};

    muster_buf_printf(&yaml, "%s%s", rig_options, more);
    rig_open(&rig, yaml.data, http_dialects);
    muster_buf_free(&yaml);
    publish_hook_keys();
    NEED(muster_actor_start(&rig.house, MUSTER_STORE, &muster_store_class, NULL, &store) == MUSTER_OK);
    NEED(muster_actor_start(&rig.house, MUSTER_WEBHOOK, &muster_webhook_class, NULL, &webhook) == MUSTER_OK);
}

static void
open_rig(void)
{
    open_with("webhooks: {max_webhooks: 3}\n");
}

static void
open_private(void)
{
    open_with("webhooks: {allow_private: true, timeout: 20s}\n");
}

static void
close_rig(void)
{
    muster_buf_free(&answer.body);
    http_server_stop(&rig.server);
    muster_actor_stop(&webhook);
    muster_actor_stop(&store);
    rig_close(&rig);
}

TestSuite(webhooks, .init = open_rig, .fini = close_rig, .timeout = 60);
TestSuite(receiver, .init = open_private, .fini = close_rig, .timeout = 60);

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static json_t *
call_as(const char *key, const char *method, const char *path, const char *body, int status)
{
    json_t *json;

    cr_assert_eq(request_text(&rig, &answer, method, path, key, NULL, body), status, "%s %s %s: %d %s", method, path,
                 body ? body : "", answer.status, answer.body.data);
    json = json_loads(answer.body.data, 0, NULL);
    cr_assert_not_null(json, "%s", answer.body.data);
    return json;
}

static const char *
text_of(json_t *json, const char *name)
{
    const char *text = json_string_value(json_object_get(json, name));

    return text ? text : "";
}

static long long
number_of(json_t *json, const char *name)
{
    return json_integer_value(json_object_get(json, name));
}

/* Make one; its path. */
static const char *
make_as(const char *key, const char *body, char path[128])
{
    json_t *json = call_as(key, "POST", PATH, body, 201);

    (void)snprintf(path, 128, PATH "/%s", text_of(json, "id"));
    json_decref(json);
    return path;
}

static void
act(const char *key, const char *path, const char *verb, const char *body, int status)
{
    char whole[160];

    (void)snprintf(whole, sizeof whole, "%s%s", path, verb);
    json_decref(call_as(key, *verb ? "POST" : "PATCH", whole, body, status));
}

static void
expect_list(json_t *list, const char *expected)
{
    char *text = json_dumps(list, JSON_COMPACT);

    cr_expect_str_eq(text, expected);
    free(text);
}

/* Put an event on disk, as the queue has it done. */
static void
happen(const char *team, const struct muster_type *type, const void *body)
{
    struct muster_buf packed = {0}, ok = {0}, frame = {0};
    struct log_entry entry = {.at_ms = muster_clock_ms(), .type = type->wire, .team = team};
    struct store_answer told = {.to = "test"};
    struct store_commit commit = {.entries = {&entry, 1}, .answers = {&told, 1}};
    struct store_committed committed = {0};
    struct muster_envelope envelope = {.type = "", .reply_to = "", .trace = "", .principal = {.name = ""}};
    struct muster_frame got = {0};

    muster_pack(type, body, &packed);
    entry.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    muster_envelope_pack(&envelope, &store_committed_type, &committed, &ok);
    told.ok = (struct muster_bytes){(const uint8_t *)ok.data, ok.size};
    muster_envelope_pack(&envelope, &store_commit_type, &commit, &frame);
    NEED(muster_post_send(rig.post, MUSTER_STORE, &frame) == MUSTER_OK);
    NEED(muster_post_receive(rig.post, PATIENCE_MS, -1, &got) == MUSTER_OK);
    muster_frame_free(&got);
    muster_buf_free(&packed);
    muster_buf_free(&ok);
    muster_buf_free(&frame);
}

/* ---- made and shown ---------------------------------------------------------------------------------------------- */

Test(webhooks, one_is_made_shown_and_deleted)
{
    struct muster_buf journal = {0};
    char path[128];
    json_t *made, *seen, *list;

    made = call_as(MINE, "POST", PATH,
                   "{" HOOK ",\"name\":\"ci\",\"headers\":{\"Authorization\":\"Bearer hidden\",\"X-A\":\"b\"}}", 201);
    cr_expect_eq(strncmp(text_of(made, "secret"), "whsec_", 6), 0);
    cr_expect_eq(strlen(text_of(made, "secret")), 50, "32 bytes");
    (void)snprintf(path, sizeof path, PATH "/%s", text_of(made, "id"));
    seen = call_as(MINE, "GET", path, NULL, 200);
    json_object_del(made, "secret");
    cr_expect(json_equal(made, seen), "%s", answer.body.data);
    cr_expect_str_eq(text_of(seen, "name"), "ci");
    cr_expect_str_eq(text_of(seen, "url"), "https://example.com/hook");
    cr_expect_str_eq(text_of(seen, "state"), "active");
    cr_expect_str_eq(text_of(seen, "createdBy"), "mine");
    cr_expect_gt(number_of(seen, "createdAt"), 1600000000000);
    cr_expect_not_null(strchr(text_of(seen, "cursor"), '-'));
    cr_expect_eq(number_of(seen, "tries") + number_of(seen, "delivered") + number_of(seen, "missed"), 0);
    cr_expect(json_is_integer(json_object_get(seen, "tries")));
    expect_list(json_object_get(seen, "events"), "[\"job.completed\",\"job.failed\",\"job.cancelled\"]");
    expect_list(json_object_get(seen, "teams"), "[]");
    expect_list(json_object_get(seen, "headerNames"), "[\"Authorization\",\"X-A\"]");
    list = call_as(MINE, "GET", PATH, NULL, 200);
    cr_expect(json_equal(json_array_get(json_object_get(list, "webhooks"), 0), seen));
    cr_expect_not(answer_has(&answer, "hidden"));
    json_decref(list);
    list = call_as(MINE, "DELETE", path, NULL, 200);
    cr_expect_str_eq(text_of(list, "id"), text_of(seen, "id"));
    cr_expect(json_is_true(json_object_get(list, "removed")));
    json_decref(list);
    json_decref(call_as(MINE, "GET", path, NULL, 404));
    json_decref(call_as(MINE, "DELETE", path, NULL, 404));
    cr_expect_null(strstr(rig_journal(&rig, &journal), "whsec_"));
    cr_expect_null(strstr(journal.data, "hidden"));
    cr_expect_not_null(strstr(journal.data, "webhook-created"));
    cr_expect_not_null(strstr(journal.data, "webhook-removed"));
    muster_buf_free(&journal);
    json_decref(made);
    json_decref(seen);
}

Test(webhooks, caller_may_bring_a_secret_and_begin_paused)
{
    static const char secret[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    char body[256];
    json_t *json;

    (void)snprintf(body, sizeof body, "{" HOOK ",\"secret\":\"%s\",\"paused\":true}", secret);
    json = call_as(MINE, "POST", PATH, body, 201);
    cr_expect_str_eq(text_of(json, "secret"), secret);
    cr_expect_str_eq(text_of(json, "state"), "paused");
    json_decref(json);
}

Test(webhooks, patterns_stand_for_names)
{
    static const char *const rows[][2] = {
        {"[\"team.*\"]", "[\"team.paused\",\"team.resumed\"]"},
        {"[\"job.*\",\"job.failed\"]", "[\"job.queued\",\"job.completed\",\"job.failed\",\"job.cancelled\"]"},
        {"[\"*\"]", "[\"job.queued\",\"job.completed\",\"job.failed\",\"job.cancelled\",\"team.paused\","
                    "\"team.resumed\"]"}};
    char body[256];
    json_t *json;
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        (void)snprintf(body, sizeof body, "{" HOOK ",\"events\":%s}", rows[i][0]);
        json = call_as(MINE, "POST", PATH, body, 201);
        expect_list(json_object_get(json, "events"), rows[i][1]);
        json_decref(json);
    }
}

Test(webhooks, there_is_a_limit)
{
    char path[128];
    size_t i;

    for (i = 0; i < 3; i++)
        (void)make_as(MINE, "{" HOOK "}", path);
    json_decref(call_as(OTHERS, "POST", PATH, "{" HOOK "}", 409));
    cr_expect(answer_has(&answer, "webhooks.max_webhooks"));
    json_decref(call_as(MINE, "DELETE", path, NULL, 200));
    (void)make_as(OTHERS, "{" HOOK "}", path);
}

static void
refuse(const char *method, const char *path, const char *body, const char *field)
{
    json_t *json = call_as(ADMIN_KEY, method, path, body, 400);
    const char *named = text_of(json_object_get(json, "details"), "field");

    cr_expect_str_eq(text_of(json, "code"), "INVALID_REQUEST");
    cr_expect_eq(strncmp(named, field, strlen(field)), 0, "%s: %s", body, answer.body.data);
    json_decref(json);
}

Test(webhooks, what_cannot_be_is_refused_and_the_field_named)
{
    static const char *const rows[][2] = {
        {"{}", "url"},
        {"{\"url\":\"\"}", "url"},
        {"{\"url\":\"ftp://example.com/x\"}", "url"},
        {"{\"url\":\"https:///nohost\"}", "url"},
        {"{\"url\":\"http://example.com/\\r\\nA: b\"}", "url"},
        {"{\"url\":\"http://127.0.0.1:9/\"}", "url"},
        {"{\"url\":\"http://169.254.169.254/\"}", "url"},
        {"{" HOOK ",\"events\":[\"job.nonsense\"]}", "events"},
        {"{" HOOK ",\"events\":[\"job.chunk\"]}", "events"},
        {"{" HOOK ",\"events\":[\"job.comp*\"]}", "events"},
        {"{" HOOK ",\"events\":[\"\"]}", "events"},
        {"{" HOOK ",\"events\":[\"job.completed\",\"nothing.*\"]}", "events"},
        {"{" HOOK ",\"teams\":[\"nobody\"]}", "teams"},
        {"{" HOOK ",\"headers\":{\"A b\":\"c\"}}", "headers"},
        {"{" HOOK ",\"headers\":{\"A\":\"b\\r\\nC: d\"}}", "headers"},
        {"{" HOOK ",\"headers\":{\"Webhook-Signature\":\"v1,x\"}}", "headers"},
        {"{" HOOK ",\"headers\":{\"Content-Length\":\"5\"}}", "headers"},
        {"{" HOOK ",\"secret\":\"plain\"}", "secret"},
        {"{" HOOK ",\"secret\":\"whsec_c2hvcnQ=\"}", "secret"},
        {"{" HOOK ",\"paused\":\"yes\"}", "paused"},
        {"{" HOOK ",\"name\":5}", "name"},
    };
    static const char *const changes[][2] = {
        {"{\"url\":\"http://10.0.0.1/\"}", "url"},
        {"{\"url\":\"nonsense\"}", "url"},
        {"{\"events\":[\"nonsense\"]}", "events"},
        {"{\"teams\":[\"nobody\"]}", "teams"},
        {"{\"headers\":{\"Host\":\"c\"}}", "headers"},
        {"{\"paused\":1}", "paused"},
        {"{\"after\":\"nonsense\"}", "after"},
        {"{\"after\":5}", "after"},
        {"{\"secret\":\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"}", "secret"},
    };
    json_t *before, *after;
    char path[128], verb[160];
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++)
        refuse("POST", PATH, rows[i][0], rows[i][1]);
    before = call_as(ADMIN_KEY, "GET", PATH, NULL, 200);
    cr_assert_eq(json_array_size(json_object_get(before, "webhooks")), 0);
    json_decref(before);
    (void)make_as(ADMIN_KEY, "{" HOOK "}", path);
    before = call_as(ADMIN_KEY, "GET", path, NULL, 200);
    for (i = 0; i < sizeof changes / sizeof *changes; i++)
        refuse("PATCH", path, changes[i][0], changes[i][1]);
    (void)snprintf(verb, sizeof verb, "%s/rotate", path);
    refuse("POST", verb, "{\"overlap\":\"soon\"}", "overlap");
    refuse("POST", verb, "{\"overlap\":\"3650d\"}", "overlap");
    (void)snprintf(verb, sizeof verb, "%s/resume", path);
    refuse("POST", verb, "{\"after\":\"x\"}", "after");
    json_decref(call_as(ADMIN_KEY, "POST", verb, "{\"after\":\"0123456789abcdef-1\"}", 410));
    after = call_as(ADMIN_KEY, "GET", path, NULL, 200);
    cr_expect(json_equal(before, after), "%s", answer.body.data);
    json_decref(before);
    json_decref(after);
}

/* ---- changed ----------------------------------------------------------------------------------------------------- */

Test(webhooks, what_is_given_is_changed)
{
    json_t *json;
    char path[128];

    (void)make_as(MINE, "{" HOOK ",\"name\":\"old\"}", path);
    json = call_as(MINE, "PATCH", path,
                   "{\"name\":\"new\",\"url\":\"https://example.org/b\",\"events\":[\"job.failed\"],"
                   "\"teams\":[\"backend\"],\"headers\":{\"X-B\":\"1\"},\"paused\":true}",
                   200);
    cr_expect_str_eq(text_of(json, "name"), "new");
    cr_expect_str_eq(text_of(json, "url"), "https://example.org/b");
    cr_expect_str_eq(text_of(json, "state"), "paused");
    cr_expect_str_eq(text_of(json, "secret"), "");
    expect_list(json_object_get(json, "events"), "[\"job.failed\"]");
    expect_list(json_object_get(json, "teams"), "[\"backend\"]");
    expect_list(json_object_get(json, "headerNames"), "[\"X-B\"]");
    json_decref(json);
    json = call_as(MINE, "PATCH", path, "{\"paused\":false}", 200);
    cr_expect_str_eq(text_of(json, "state"), "active");
    cr_expect_str_eq(text_of(json, "name"), "new", "the rest stays");
    json_decref(json);
    act(MINE, path, "/pause", NULL, 200);
    cr_expect(answer_has(&answer, "\"state\":\"paused\""));
    act(MINE, path, "/pause", "{}", 200);
    act(MINE, path, "/resume", "{}", 200);
    cr_expect(answer_has(&answer, "\"state\":\"active\""));
}

Test(webhooks, secret_rotates)
{
    json_t *made, *rotated, *again, *seen;
    char path[128], verb[160];

    made = call_as(MINE, "POST", PATH, "{" HOOK "}", 201);
    (void)snprintf(path, sizeof path, PATH "/%s", text_of(made, "id"));
    (void)snprintf(verb, sizeof verb, "%s/rotate", path);
    rotated = call_as(MINE, "POST", verb, "{\"overlap\":\"1h\"}", 200);
    cr_expect_eq(strncmp(text_of(rotated, "secret"), "whsec_", 6), 0);
    cr_expect_str_neq(text_of(rotated, "secret"), text_of(made, "secret"));
    cr_expect_gt(number_of(rotated, "oldUntil"), muster_clock_ms() + 3500000);
    seen = call_as(MINE, "GET", path, NULL, 200);
    cr_expect_null(json_object_get(seen, "secret"));
    cr_expect_eq(number_of(seen, "oldUntil"), number_of(rotated, "oldUntil"));
    again = call_as(MINE, "POST", verb, "{}", 200);
    cr_expect_str_neq(text_of(again, "secret"), text_of(rotated, "secret"));
    cr_expect_null(json_object_get(again, "oldUntil"));
    json_decref(made);
    json_decref(rotated);
    json_decref(again);
    json_decref(seen);
}

/* ---- who --------------------------------------------------------------------------------------------------------- */

Test(webhooks, keys_see_what_they_made_and_admins_all)
{
    static const char *const verbs[] = {"/pause", "/resume", "/test", "/rotate"};
    json_t *list;
    char path[128];
    size_t i;

    (void)make_as(MINE, "{" HOOK "}", path);
    list = call_as(OTHERS, "GET", PATH, NULL, 200);
    cr_expect_eq(json_array_size(json_object_get(list, "webhooks")), 0);
    json_decref(list);
    json_decref(call_as(OTHERS, "GET", path, NULL, 404));
    json_decref(call_as(OTHERS, "DELETE", path, NULL, 404));
    act(OTHERS, path, "", "{\"name\":\"stolen\"}", 404);
    for (i = 0; i < 4; i++)
        act(OTHERS, path, verbs[i], "{}", 404);
    list = call_as(ADMIN_KEY, "GET", PATH, NULL, 200);
    cr_expect_eq(json_array_size(json_object_get(list, "webhooks")), 1);
    json_decref(list);
    act(ADMIN_KEY, path, "/pause", NULL, 200);
    cr_expect(answer_has(&answer, "\"createdBy\":\"mine\""));
    json_decref(call_as(MINE, "GET", PATH "/nonsense", NULL, 404));
    json_decref(call_as(MINE, "GET", PATH "/00000000-0000-7000-8000-000000000000", NULL, 404));
}

Test(webhooks, scope_is_needed)
{
    char path[128];

    (void)make_as(MINE, "{" HOOK "}", path);
    json_decref(call_as(NOBODY, "POST", PATH, "{" HOOK "}", 403));
    json_decref(call_as(NOBODY, "GET", PATH, NULL, 403));
    json_decref(call_as(NOBODY, "DELETE", path, NULL, 403));
    json_decref(call_as(MINE, "GET", PATH "/callbacks", NULL, 403));
    json_decref(call_as(MINE, "POST", PATH "/callbacks/rotate", "{}", 403));
    json_decref(call_as(NULL, "GET", PATH, NULL, 401));
}

Test(webhooks, key_of_some_teams_is_told_of_those)
{
    json_t *json = call_as(LIMITED, "POST", PATH, "{" HOOK "}", 201);
    char path[128];

    expect_list(json_object_get(json, "teams"), "[\"backend\"]");
    (void)snprintf(path, sizeof path, PATH "/%s", text_of(json, "id"));
    json_decref(json);
    json_decref(call_as(LIMITED, "POST", PATH, "{" HOOK ",\"teams\":[\"backend\",\"frontend\"]}", 400));
    cr_expect(answer_has(&answer, "\"field\":\"teams\""));
    json_decref(call_as(LIMITED, "PATCH", path, "{\"teams\":[\"frontend\"]}", 400));
    json_decref(call_as(LIMITED, "POST", PATH, "{" HOOK ",\"teams\":[\"backend\"]}", 201));
}

/* ---- the secret of callbacks ------------------------------------------------------------------------------------- */

Test(webhooks, secret_of_callbacks_is_shown_and_rotated)
{
    json_t *first = call_as(ADMIN_KEY, "GET", PATH "/callbacks", NULL, 200), *same, *next;

    cr_expect_eq(strncmp(text_of(first, "secret"), "whsec_", 6), 0);
    same = call_as(ADMIN_KEY, "GET", PATH "/callbacks", NULL, 200);
    cr_expect(json_equal(first, same));
    next = call_as(ADMIN_KEY, "POST", PATH "/callbacks/rotate", "{\"overlap\":60000}", 200);
    cr_expect_str_neq(text_of(next, "secret"), text_of(first, "secret"));
    cr_expect_gt(number_of(next, "oldUntil"), muster_clock_ms());
    json_decref(same);
    same = call_as(ADMIN_KEY, "GET", PATH "/callbacks", NULL, 200);
    cr_expect(json_equal(next, same));
    refuse("POST", PATH "/callbacks/rotate", "{\"overlap\":-1}", "overlap");
    json_decref(first);
    json_decref(same);
    json_decref(next);
}

/* ---- what waits -------------------------------------------------------------------------------------------------- */

Test(webhooks, what_waits_is_counted)
{
    static const struct job_completed completed = {.duration_ms = 1};
    static const struct job_chunk chunk = {.text = "x"};
    json_t *json;
    char path[128];
    size_t i;

    (void)make_as(MINE, "{" HOOK ",\"paused\":true,\"teams\":[\"backend\"]}", path);
    for (i = 0; i < 3; i++) {
        happen("backend", &job_completed_type, &completed);
        happen("backend", &job_chunk_type, &chunk);
        happen("frontend", &job_completed_type, &completed);
    }
    json = call_as(MINE, "GET", path, NULL, 200);
    cr_expect_eq(number_of(json, "lag"), 3);
    json_decref(json);
    json = call_as(MINE, "GET", PATH, NULL, 200);
    cr_expect_eq(number_of(json_array_get(json_object_get(json, "webhooks"), 0), "lag"), 3);
    json_decref(json);
}

/* ---- a receiver -------------------------------------------------------------------------------------------------- */

static int
listen_somewhere(int *out_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    NEED(fd >= 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    NEED(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 8) == 0);
    NEED(getsockname(fd, (struct sockaddr *)&address, &size) == 0);
    *out_port = ntohs(address.sin_port);
    return fd;
}

/* Take one request from `fd`, answer it with `status`; its head and body. */
static void
receive_one(int fd, const char *status, struct answer *out)
{
    struct client peer = {.fd = accept(fd, NULL, NULL)};
    const char *end;
    char length[32];
    size_t head, body;

    NEED(peer.fd >= 0);
    end = client_until(&peer, "\r\n\r\n");
    NEED(end != NULL);
    head = (size_t)(end - peer.in.data) + 4;
    NEED(head < sizeof out->head);
    memcpy(out->head, peer.in.data, head);
    out->head[head] = '\0';
    muster_buf_shift(&peer.in, head);
    body = answer_header(out, "Content-Length", length, sizeof length) ? (size_t)atol(length) : 0;
    while (peer.in.size < body)
        NEED(client_more(&peer));
    muster_buf_clear(&out->body);
    muster_buf_add(&out->body, peer.in.data, body);
    client_say(&peer, "HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status);
    client_close(&peer);
}

Test(receiver, test_is_sent_signed_and_its_outcome_told)
{
    struct client client;
    struct answer got = {0};
    struct muster_buf text = {0};
    char body[256], path[128], id[128], timestamp[32], signature[128], expected[64] = "v1,";
    uint8_t secret[MUSTER_WHSEC_BYTES], digest[MUSTER_DIGEST];
    size_t secret_size;
    json_t *json;
    int fd, port;

    fd = listen_somewhere(&port);
    (void)snprintf(body, sizeof body, "{\"url\":\"http://127.0.0.1:%d/hook\",\"headers\":{\"X-A\":\"b\"}}", port);
    json = call_as(MINE, "POST", PATH, body, 201);
    (void)snprintf(path, sizeof path, PATH "/%s/test", text_of(json, "id"));
    cr_assert_eq(muster_whsec_parse(text_of(json, "secret"), secret, &secret_size), MUSTER_OK);
    json_decref(json);
    client = client_open(&rig);
    client_say(&client, "POST %s HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer " MINE "\r\nContent-Length: 0\r\n\r\n",
               path);
    receive_one(fd, "204 No Content", &got);
    cr_assert(client_answer(&client, &answer));
    client_close(&client);
    cr_expect_eq(answer.status, 200);
    cr_expect(answer_has(&answer, "{\"status\":204,\"duration\":"));
    cr_expect_eq(strncmp(got.head, "POST /hook HTTP", 15), 0);
    cr_expect(answer_has(&got, "{\"type\":\"webhook.test\",\"timestamp\":\""));
    cr_assert(answer_header(&got, "webhook-id", id, sizeof id));
    cr_assert(answer_header(&got, "webhook-timestamp", timestamp, sizeof timestamp));
    cr_assert(answer_header(&got, "webhook-signature", signature, sizeof signature));
    muster_buf_printf(&text, "%s.%s.%s", id + strspn(id, " "), timestamp + strspn(timestamp, " "), got.body.data);
    muster_hmac_sha256(secret, secret_size, text.data, text.size, digest);
    muster_base64(digest, sizeof digest, expected + 3);
    cr_expect_str_eq(signature + strspn(signature, " "), expected);
    close(fd);
    json = call_as(MINE, "POST", path, "{}", 200);
    cr_expect_null(json_object_get(json, "status"));
    cr_expect_neq(text_of(json, "problem")[0], '\0', "nobody listens any more");
    json_decref(json);
    muster_buf_free(&text);
    muster_buf_free(&got.body);
}

/* ---- the manual -------------------------------------------------------------------------------------------------- */

Test(webhooks, every_body_is_described)
{
    FILE *file = fopen(MUSTER_SOURCE_DIR "/api/http/webhooks.def", "r");
    struct muster_buf text = {0};
    char line[1024], name[128];
    size_t count = 0;

    cr_assert_not_null(file);
    http_describe_bodies(&text);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "TYPE(%*[a-z_], \"%100[^\"]\"", name) == 1) {
            (void)strcat(name, "\n    ");
            cr_expect_not_null(strstr(text.data, name), "%s", name);
            count++;
        }
    cr_expect_eq(count, 9);
    (void)fclose(file);
    muster_buf_free(&text);
}
