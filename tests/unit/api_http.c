/* SPDX-License-Identifier: MPL-2.0 */
/* The gateway on real sockets: what is refused and how, credentials, limits, connections that live on, clients that
 * leave. */
#include "tests/unit/api_help.h"

#include <criterion/criterion.h>

static struct rig rig;
static struct answer answer;

/* ---- a dialect for the tests ---------------------------------------------------------------------------------------- */

static void
render_error(struct muster_buf *out, muster_err err, const char *message, const char *details, int64_t now_ms)
{
    (void)now_ms;
    muster_buf_printf(out, "{\"code\":\"%s\",\"details\":%s,\"message\":", muster_err_code(err),
                      details ? details : "null");
    muster_json_quote(out, message, strlen(message));
    muster_buf_str(out, "}");
}

static void
handle_echo(struct http_request *request)
{
    const char *name = http_param(request, "name"), *query = http_query(request, "q");
    char text[512];
    int size = snprintf(text, sizeof text, "%s|%s|%s", name, query ? query : "-", http_key(request)->name);

    http_answer(request, 200, "text/plain", text, (size_t)size);
}

static void
handle_literal(struct http_request *request)
{
    http_answer(request, 200, "text/plain", "literal", 7);
}

static void
handle_put(struct http_request *request)
{
    const struct auth_revoke *in = http_body(request);

    http_answer_type(request, 200, &auth_revoke_type, in);
}

static void
handle_silence(struct http_request *request)
{
    struct log_flush flush = {.all = true};
    struct store_committed committed;
    muster_err err;

    err = http_ask(request, "silent", &log_flush_type, &flush, &store_committed_type, &committed, 600000);
    http_fail_as_told(request, err);
}

/* Asks whatever address the path names. */
static void
handle_ask(struct http_request *request)
{
    struct log_flush flush = {.all = true};
    struct store_committed committed;

    http_fail_as_told(request, http_ask(request, http_param(request, "name"), &log_flush_type, &flush,
                                        &store_committed_type, &committed, 600000));
}

static void
handle_wait(struct http_request *request)
{
    if (!http_wait_begin(request)) {
        http_fail(request, MUSTER_OVERLOADED, "full");
        return;
    }
    handle_silence(request);
    http_wait_end(request);
}

static void
handle_large(struct http_request *request)
{
    size_t size = (size_t)atol(http_query(request, "size"));
    char *text = muster_arena_alloc(http_arena(request), size);

    memset(text, 'x', size);
    http_answer(request, 200, "text/plain", text, size);
}

static void
handle_overloaded(struct http_request *request)
{
    http_fail(request, MUSTER_OVERLOADED, "full");
}

static void
handle_forgets(struct http_request *request)
{
    (void)request;
}

static const struct http_route routes[] = {
    {"GET", "/echo/{name}", "teams:read", 1, NULL, 0, handle_echo, "Echo."},
    {"GET", "/echo/literal", "teams:read", 1, NULL, 0, handle_literal, "Literal."},
    {"GET", "/teams/{team}", "teams:read", 1, NULL, HTTP_TEAM, handle_literal, "Team."},
    {"POST", "/put", "teams:read", 1, &auth_revoke_type, 0, handle_put, "Body."},
    {"PUT", "/put", "teams:read", 1, &auth_revoke_type, 0, handle_put, "Body."},
    {"GET", "/silence", "teams:read", 1, NULL, 0, handle_silence, "Waits for ever."},
    {"GET", "/ask/{name}", "teams:read", 1, NULL, 0, handle_ask, "Asks an actor."},
    {"GET", "/wait", "teams:read", 1, NULL, 0, handle_wait, "Waits for ever, counted."},
    {"GET", "/large", "teams:read", 1, NULL, 0, handle_large, "Large."},
    {"GET", "/admin", "admin:*", 1, NULL, 0, handle_literal, "Admin."},
    {"GET", "/live", "teams:read", 1, NULL, HTTP_STREAM, handle_literal, "Key in the query."},
    {"GET", "/overloaded", "teams:read", 1, NULL, HTTP_FORWARDS, handle_overloaded, "Full."},
    {"GET", "/forgets", NULL, 0, NULL, HTTP_OPEN, handle_forgets, "Never answers."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};
static const struct http_dialect dialect = {"test", routes, render_error, NULL};
static const struct http_dialect *const dialects[] = {&dialect, NULL};

static void
open_rig(void)
{
    rig_open(&rig, rig_options, dialects);
}

static void
close_rig(void)
{
    muster_buf_free(&answer.body);
    rig_close(&rig);
}

TestSuite(http, .init = open_rig, .fini = close_rig, .timeout = 60);

#define HEAD "Host: test\r\nAuthorization: Bearer " ADMIN_KEY "\r\n"

static int
raw(const char *text)
{
    return request_bytes(&rig, text, strlen(text), &answer);
}

static int
get(const char *path, const char *key)
{
    return request_text(&rig, &answer, "GET", path, key, NULL, NULL);
}

static int
put(const char *body, const char *headers)
{
    return request_text(&rig, &answer, "POST", "/put", ADMIN_KEY, headers, body);
}

/* Do the metrics have this? */
static bool
metric_is(const char *line)
{
    cr_assert_eq(get("/metrics", NULL), 200);
    return answer_has(&answer, line);
}

/* Wait until the metrics say this; every look is a request, and the test's own limit ends a wait in vain. */
static void
await_metric(const char *line)
{
    while (!metric_is(line))
        ;
}

/* ---- routes --------------------------------------------------------------------------------------------------------- */

Test(http, a_route_gets_its_parameters_and_query_decoded)
{
    cr_expect_eq(get("/echo/a%20b%2Fc?q=x+y%26z&other", ADMIN_KEY), 200);
    cr_expect_str_eq(answer.body.data, "a b/c|x y&z|admin");
}

Test(http, a_literal_path_wins_over_a_parameter)
{
    cr_expect_eq(get("/echo/literal", ADMIN_KEY), 200);
    cr_expect_str_eq(answer.body.data, "literal");
}

Test(http, unknown_paths_are_404_and_wrong_methods_405_with_allow)
{
    char allow[64] = "";

    cr_expect_eq(get("/nothing/here", ADMIN_KEY), 404);
    cr_expect(answer_has(&answer, "\"NOT_FOUND\""));
    cr_expect_eq(request_text(&rig, &answer, "DELETE", "/put", ADMIN_KEY, NULL, NULL), 405);
    cr_expect(answer_header(&answer, "Allow", allow, sizeof allow));
    cr_expect_str_eq(allow, "POST, PUT");
}

Test(http, head_is_get_without_a_body)
{
    struct client client = client_open(&rig);
    const char *end;

    client_say(&client, "HEAD /echo/abc HTTP/1.1\r\n" HEAD "Connection: close\r\n\r\n");
    end = client_until(&client, "\r\n\r\n");
    cr_assert(end != NULL);
    cr_expect(strstr(client.in.data, "Content-Length: 11\r\n") != NULL);
    cr_expect_eq((size_t)(end + 4 - client.in.data), client.in.size);
    cr_expect(!client_more(&client));
    client_close(&client);
}

Test(http, bad_encodings_in_path_and_query_are_400)
{
    static const char *const paths[] = {"/echo/%00",     "/echo/%zz",        "/echo/%f",     "/echo/%ff%fe",
                                        "/echo/a?q=%00", "/echo/a?q=%c0%80", "/echo/a?%ff=1"};
    size_t i;

    for (i = 0; i < sizeof paths / sizeof *paths; i++)
        cr_expect_eq(get(paths[i], ADMIN_KEY), 400, "%s: %d", paths[i], answer.status);
}

Test(http, dots_in_a_path_lead_nowhere)
{
    cr_expect_eq(get("/../../etc/passwd", ADMIN_KEY), 404);
    cr_expect_eq(get("/echo/../admin", ADMIN_KEY), 404);
    cr_expect_eq(get("/%2e%2e/%2e%2e/etc/passwd", ADMIN_KEY), 404);
}

Test(http, a_handler_that_forgets_to_answer_is_a_500)
{
    cr_expect_eq(get("/forgets", NULL), 500);
}

/* ---- who calls ------------------------------------------------------------------------------------------------------ */

Test(http, no_or_a_wrong_key_is_401_with_a_challenge)
{
    char challenge[64] = "";

    cr_expect_eq(get("/echo/a", NULL), 401);
    cr_expect(answer_header(&answer, "WWW-Authenticate", challenge, sizeof challenge));
    cr_expect_str_eq(challenge, "Bearer realm=\"muster\"");
    cr_expect(answer_has(&answer, "Missing or invalid Authorization header"));
    cr_expect_eq(get("/echo/a", "wrong"), 401);
    cr_expect(answer_has(&answer, "Invalid API key"));
}

Test(http, a_key_may_come_as_x_api_key)
{
    cr_expect_eq(request_text(&rig, &answer, "GET", "/echo/a", NULL, "x-api-key: " ADMIN_KEY "\r\n", NULL), 200);
}

Test(http, a_key_in_the_query_is_taken_by_streams_only)
{
    cr_expect_eq(get("/live?api_key=" ADMIN_KEY, NULL), 200);
    cr_expect_eq(get("/echo/a?api_key=" ADMIN_KEY, NULL), 401);
    cr_expect(answer_has(&answer, "?api_key= is taken on stream routes only"), "%s", answer.body.data);
}

Test(http, a_missing_scope_is_403_and_names_what_is_needed)
{
    cr_expect_eq(get("/admin", READER_KEY), 403);
    cr_expect(answer_has(&answer, "{\"required\":[\"admin:*\"],\"provided\":[\"teams:read\"]}"), "%s",
              answer.body.data);
    cr_expect(answer_has(&answer, "the key lacks admin:*"), "%s", answer.body.data);
    cr_expect_eq(get("/admin", ADMIN_KEY), 200);
}

Test(http, teams_must_exist_and_belong_to_the_key)
{
    cr_expect_eq(get("/teams/backend", BACKEND_KEY), 200);
    cr_expect_eq(get("/teams/frontend", BACKEND_KEY), 403);
    cr_expect_eq(get("/teams/nobody", BACKEND_KEY), 403);
    cr_expect_eq(get("/teams/nobody", ADMIN_KEY), 404);
    cr_expect(answer_has(&answer, "TEAM_NOT_FOUND"));
    cr_expect(answer_has(&answer, "backend, frontend"));
}

Test(http, limited_keys_see_their_rate_in_both_kinds_of_headers)
{
    char text[64] = "";

    cr_expect_eq(get("/echo/a", READER_KEY), 200);
    cr_expect(answer_header(&answer, "X-RateLimit-Limit", text, sizeof text));
    cr_expect_str_eq(text, "1000");
    cr_expect(answer_header(&answer, "X-RateLimit-Remaining", text, sizeof text));
    cr_expect_str_eq(text, "995");
    cr_expect(answer_header(&answer, "X-RateLimit-Reset", text, sizeof text));
    cr_expect_geq(atoll(text), muster_clock_ms() / 1000 + 10);
    cr_expect(answer_header(&answer, "RateLimit-Policy", text, sizeof text));
    cr_expect_str_eq(text, "\"default\";q=1000;w=60");
    cr_expect(answer_header(&answer, "RateLimit", text, sizeof text));
    cr_expect_eq(strncmp(text, "\"default\";r=995;t=", 18), 0);
    cr_expect_geq(atoi(text + 18), 58, "%s", text);
    cr_expect_leq(atoi(text + 18), 60, "%s", text);
}

Test(http, refusals_count_like_answers)
{
    static const struct {
        const char *method, *path, *body;
        int status;
    } rows[] = {{"POST", "/put", "{}", 400}, {"GET", "/admin", NULL, 403}, {"GET", "/teams/nobody", NULL, 404}};
    char text[64] = "";
    int i;

    for (i = 0; i < 3; i++) {
        cr_expect_eq(request_text(&rig, &answer, rows[i].method, rows[i].path, READER_KEY, NULL, rows[i].body),
                     rows[i].status, "%s", rows[i].path);
        cr_expect_eq(rig.taken, i + 1, "%s", rows[i].path);
        cr_expect(answer_header(&answer, "X-RateLimit-Remaining", text, sizeof text), "%s", rows[i].path);
        cr_expect_str_eq(text, "995");
    }
    cr_expect_eq(request_text(&rig, &answer, "POST", "/put", SPENT_KEY, NULL, "{}"), 429);
    cr_expect(answer_has(&answer, "RATE_LIMITED"));
    cr_expect_eq(rig.taken, 4);
}

Test(http, what_is_not_the_callers_fault_is_not_counted)
{
    cr_expect_eq(get("/overloaded", READER_KEY), 503);
    cr_expect_eq(get("/nothing", READER_KEY), 404, "the key is not looked at");
    cr_expect_eq(get("/echo/a", "wrong"), 401);
    cr_expect_eq(rig.taken, 0);
}

Test(http, unlimited_keys_cost_no_hop)
{
    cr_expect_eq(get("/echo/a", ADMIN_KEY), 200);
    cr_expect_eq(rig.taken, 0);
}

Test(http, a_spent_key_is_429_with_retry_after)
{
    char text[64] = "";

    cr_expect_eq(get("/echo/a", SPENT_KEY), 429);
    cr_expect(answer_header(&answer, "Retry-After", text, sizeof text));
    cr_expect_str_eq(text, "7");
    cr_expect(answer_header(&answer, "X-RateLimit-Remaining", text, sizeof text));
    cr_expect_str_eq(text, "0");
    cr_expect(answer_has(&answer, "\"limit\":1000,\"window\":60000,\"resetAt\":"));
}

Test(http, request_ids_are_made_or_taken_when_sane)
{
    char text[160] = "";

    cr_expect_eq(get("/health", NULL), 200);
    cr_expect(answer_header(&answer, "X-Request-Id", text, sizeof text));
    cr_expect_eq(strlen(text), 36);
    cr_expect_eq(request_text(&rig, &answer, "GET", "/health", NULL, "X-Request-Id: build-7.a_b\r\n", NULL), 200);
    cr_expect(answer_header(&answer, "X-Request-Id", text, sizeof text));
    cr_expect_str_eq(text, "build-7.a_b");
    cr_expect_eq(request_text(&rig, &answer, "GET", "/health", NULL, "X-Request-Id: \"><script>\r\n", NULL), 200);
    cr_expect(answer_header(&answer, "X-Request-Id", text, sizeof text));
    cr_expect_eq(strlen(text), 36);
}

/* ---- bodies --------------------------------------------------------------------------------------------------------- */

Test(http, json_bodies_are_decoded_whatever_their_content_type)
{
    cr_expect_eq(put("{\"key\":\"k\",\"extra\":true}", NULL), 200);
    cr_expect_str_eq(answer.body.data, "{\"key\":\"k\"}");
    cr_expect_eq(put("{\"key\":\"k\"}", "Content-Type: application/json; charset=utf-8\r\n"), 200);
    cr_expect_eq(put("{\"key\":\"k\"}", "Content-Type: application/x-www-form-urlencoded\r\n"), 200);
}

Test(http, forms_with_parts_are_415)
{
    cr_expect_eq(put("{\"key\":\"k\"}", "Content-Type: multipart/form-data; boundary=x\r\n"), 415);
}

Test(http, a_body_that_does_not_fit_is_400_and_names_the_field)
{
    cr_expect_eq(put("{}", NULL), 400);
    cr_expect(answer_has(&answer, "\"field\":\"key\""), "%s", answer.body.data);
    cr_expect_eq(put("{\"key\":7}", NULL), 400);
    cr_expect(answer_has(&answer, "\"field\":\"key\""));
    cr_expect_eq(put("[1]", NULL), 400);
    cr_expect_eq(put("{\"key\":\"k\"} x", NULL), 400);
    cr_expect_eq(put("{\"key\":\"\xff\xfe\"}", NULL), 400);
    cr_expect_eq(request_text(&rig, &answer, "POST", "/put", ADMIN_KEY, NULL, NULL), 400);
    cr_expect(answer_has(&answer, "\"message\":\"a JSON object is required\""), "%s", answer.body.data);
}

Test(http, nul_bytes_in_a_body_are_400)
{
    static const char text[] = "POST /put HTTP/1.1\r\n" HEAD "Content-Length: 13\r\n\r\n{\"key\":\"a\0b\"}";

    cr_expect_eq(request_bytes(&rig, text, sizeof text - 1, &answer), 400);
}

Test(http, deep_json_is_400)
{
    size_t depth = 20000;
    char *body = muster_alloc(depth * 3 + 1);

    memset(body, '[', depth);
    cr_expect_eq(put(body, NULL), 400);
    for (size_t i = 0; i < depth / 2; i++)
        memcpy(body + i * 5, "{\"a\":", 5);
    cr_expect_eq(put(body, NULL), 400);
    free(body);
}

Test(http, a_body_over_the_limit_is_413_before_it_is_read)
{
    struct client client = client_open(&rig);

    client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "Content-Length: 65537\r\n\r\n");
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 413);
    cr_expect(client_is_closed(&client));
    client_close(&client);
}

Test(http, a_large_body_that_is_refused_does_not_cost_the_client_its_answer)
{
    size_t size = 300000;
    char *text = muster_alloc(size + 1);
    struct client client = client_open(&rig);

    memset(text, 'x', size);
    client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "Content-Length: %zu\r\n\r\n", size);
    (void)client_send(&client, text, size);
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 413);
    client_close(&client);
    free(text);
}

Test(http, a_chunked_body_is_read)
{
    cr_expect_eq(raw("POST /put HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n"
                     "5\r\n{\"key\r\n8\r\n\":\"abc\"}\r\n0\r\n\r\n"),
                 200);
    cr_expect_str_eq(answer.body.data, "{\"key\":\"abc\"}");
}

Test(http, a_connection_lives_on_after_a_chunked_body)
{
    struct client client = client_open(&rig);
    int i;

    for (i = 0; i < 2; i++) {
        client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n"
                            "d\r\n{\"key\":\"abc\"}\r\n0\r\n\r\n");
        cr_assert(client_answer(&client, &answer));
        cr_expect_eq(answer.status, 200);
    }
    client_close(&client);
}

Test(http, a_chunked_body_over_the_limit_is_413)
{
    struct client client = client_open(&rig);
    char piece[4096 + 16];
    int i;

    client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n");
    memset(piece, 'x', sizeof piece);
    memcpy(piece, "1000\r\n", 6);
    memcpy(piece + 6 + 4096, "\r\n", 2);
    for (i = 0; i < 17 && client_send(&client, piece, 6 + 4096 + 2); i++)
        ;
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 413);
    client_close(&client);
}

Test(http, broken_chunks_are_400_and_closed)
{
    static const char *const bodies[] = {"zz\r\n{}\r\n0\r\n\r\n", "5\r\nhello!!\r\n0\r\n\r\n",
                                         "-5\r\nhello\r\n0\r\n\r\n", "ffffffffffffffffff\r\nx"};
    size_t i;

    for (i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct client client = client_open(&rig);

        client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n%s", bodies[i]);
        cr_expect(client_answer(&client, &answer), "%zu", i);
        cr_expect(answer.status == 400 || answer.status == 408, "%zu: %d", i, answer.status);
        cr_expect(client_is_closed(&client), "%zu", i);
        client_close(&client);
    }
}

Test(http, expect_100_continue_is_answered)
{
    struct client client = client_open(&rig);

    client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "Expect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    cr_assert(client_until(&client, "\r\n\r\n") != NULL);
    cr_assert_eq(strncmp(client.in.data, "HTTP/1.1 100 ", 13), 0);
    muster_buf_shift(&client.in, strlen("HTTP/1.1 100 Continue\r\n\r\n"));
    client_say(&client, "{\"key\":\"k\"}");
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 200);
    client_close(&client);
}

Test(http, a_body_that_never_comes_is_408_and_closed)
{
    struct client client = client_open(&rig);

    client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "Content-Length: 11\r\n\r\n{\"key\"");
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 408);
    cr_expect(client_is_closed(&client));
    client_close(&client);
}

Test(http, a_body_that_trickles_is_cut_in_all)
{
    struct client client = client_open(&rig);
    struct pollfd poller = {.fd = client.fd, .events = POLLIN};
    int i;

    /* Each byte is sent well before civetweb's own limit begins to count. */
    client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "Content-Length: 60000\r\n\r\n");
    for (i = 0; i < 100 && poll(&poller, 1, 100) == 0; i++)
        if (!client_send(&client, "x", 1))
            break;
    cr_expect_lt(i, 40);
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 408);
    client_close(&client);
}

/* ---- heads ---------------------------------------------------------------------------------------------------------- */

Test(http, more_headers_than_are_kept_are_431_and_nothing_behind_them_runs)
{
    struct muster_buf text = {0};
    struct client client = client_open(&rig);
    int i;

    muster_buf_str(&text, "GET /echo/a HTTP/1.1\r\n" HEAD);
    for (i = 0; i < 65; i++)
        muster_buf_printf(&text, "X-%d: y\r\n", i);
    muster_buf_str(&text, "Content-Length: 40\r\n\r\nGET /admin HTTP/1.1\r\n" HEAD "\r\n");
    (void)client_send(&client, text.data, text.size);
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 431);
    cr_expect(client_is_closed(&client));
    client_close(&client);
    muster_buf_free(&text);
}

Test(http, ambiguous_requests_are_400_and_closed)
{
    static const char *const heads[] = {
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4x\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: -4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Host: other\r\n",
        "X: y\r\n folded: z\r\nContent-Length: 4\r\n",
        "X : y\r\n",
        "no colon\r\nContent-Length: 4\r\n",
    };
    size_t i;

    for (i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct client client = client_open(&rig);

        client_say(&client, "POST /put HTTP/1.1\r\n" HEAD "%s\r\n{}{}GET /admin HTTP/1.1\r\n" HEAD "\r\n", heads[i]);
        cr_expect(client_answer(&client, &answer), "%s", heads[i]);
        cr_expect_eq(answer.status, 400, "%s: %d", heads[i], answer.status);
        cr_expect(client_is_closed(&client), "%s", heads[i]);
        client_close(&client);
    }
}

Test(http, malformed_heads_are_400)
{
    static const char *const heads[] = {
        "GET /health HTTP/1.1\r\n\r\n",
        "GET  /health HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /health  HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /health HTTP/1.1\r\n Host: x\r\n\r\n",
        "GET /hea\x01lth HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /hea\xfflth HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nX: a\x02\r\n\r\n",
        "GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        "NONSENSE\r\n\r\n",
    };
    size_t i;

    for (i = 0; i < sizeof heads / sizeof *heads; i++)
        cr_expect_eq(raw(heads[i]), 400, "%s: %d", heads[i], answer.status);
}

Test(http, a_nul_in_the_head_is_400)
{
    static const char text[] = "GET /health\0x HTTP/1.1\r\nHost: x\r\n\r\n";

    cr_expect_eq(request_bytes(&rig, text, sizeof text - 1, &answer), 400);
}

Test(http, a_megabyte_of_header_is_refused)
{
    size_t size = 1 << 20;
    char *text = muster_alloc(size + 1);
    struct client client = client_open(&rig);

    memset(text, 'a', size);
    client_say(&client, "GET /health HTTP/1.1\r\nHost: x\r\nX: ");
    (void)client_send(&client, text, size);
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 431);
    cr_expect(answer_has(&answer, "too large"));
    client_close(&client);
    free(text);
}

Test(http, a_head_over_the_limit_is_431)
{
    struct muster_buf text = {0};
    int i;

    muster_buf_str(&text, "GET /health HTTP/1.1\r\nHost: x\r\n");
    for (i = 0; i < 40; i++)
        muster_buf_printf(&text, "X-%d: %0500d\r\n", i, i);
    muster_buf_str(&text, "\r\n");
    cr_expect_eq(request_bytes(&rig, text.data, text.size, &answer), 431);
    muster_buf_free(&text);
}

Test(http, heads_that_cannot_be_read_are_logged_with_the_peer)
{
    struct muster_buf text = {0};

    cr_expect_eq(raw("NONSENSE\r\n\r\n"), 400);
    cr_expect(answer_has(&answer, "Malformed or incomplete request head"));
    http_server_stop(&rig.server);
    rig_journal(&rig, &text);
    cr_expect(strstr(text.data, "\"method\":\"-\",\"path\":\"-\",\"status\":400") != NULL, "%s", text.data);
    cr_expect(strstr(text.data, "\"address\":\"127.0.0.1\"") != NULL, "%s", text.data);
    muster_buf_free(&text);
}

/* ---- connections ---------------------------------------------------------------------------------------------------- */

Test(http, two_requests_share_a_connection)
{
    struct client client = client_open(&rig);
    char text[32] = "";
    int i;

    for (i = 0; i < 2; i++) {
        client_say(&client, "GET /echo/n%d HTTP/1.1\r\n" HEAD "\r\n", i);
        cr_assert(client_answer(&client, &answer));
        cr_expect_eq(answer.status, 200);
        cr_expect(answer_header(&answer, "Connection", text, sizeof text));
        cr_expect_str_eq(text, "keep-alive");
    }
    client_say(&client, "GET /echo/last HTTP/1.1\r\n" HEAD "Connection: close\r\n\r\n");
    cr_assert(client_answer(&client, &answer));
    cr_expect(answer_header(&answer, "Connection", text, sizeof text));
    cr_expect_str_eq(text, "close");
    cr_expect(client_is_closed(&client));
    client_close(&client);
}

Test(http, a_connection_lives_on_after_errors_with_small_bodies)
{
    struct client client = client_open(&rig);
    int i;

    for (i = 0; i < 3; i++) {
        client_say(&client, "POST /nothing HTTP/1.1\r\n" HEAD "Content-Length: 11\r\n\r\n{\"key\":\"k\"}");
        cr_assert(client_answer(&client, &answer));
        cr_expect_eq(answer.status, 404);
    }
    client_close(&client);
}

Test(http, pipelined_requests_are_answered_in_order)
{
    struct client client = client_open(&rig);
    struct muster_buf text = {0};
    char expected[32];
    int i;

    for (i = 0; i < 5; i++)
        muster_buf_printf(&text, "POST /put HTTP/1.1\r\n" HEAD "Content-Length: 12\r\n\r\n{\"key\":\"n%d\"}", i);
    (void)client_send(&client, text.data, text.size);
    for (i = 0; i < 5; i++) {
        snprintf(expected, sizeof expected, "{\"key\":\"n%d\"}", i);
        cr_assert(client_answer(&client, &answer));
        cr_expect_str_eq(answer.body.data, expected);
    }
    client_close(&client);
    muster_buf_free(&text);
}

Test(http, http_1_0_needs_no_host_and_closes)
{
    struct client client = client_open(&rig);

    client_say(&client, "GET /health HTTP/1.0\r\n\r\n");
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 200);
    cr_expect(client_is_closed(&client));
    client_close(&client);
}

Test(http, more_half_open_clients_than_threads_are_all_closed)
{
    struct client clients[60];
    size_t i;

    for (i = 0; i < 60; i++) {
        clients[i] = client_open(&rig);
        if (i % 2)
            client_say(&clients[i], "GET /hea");
    }
    cr_expect_eq(get("/health", NULL), 200);
    for (i = 0; i < 60; i++) {
        while (client_more(&clients[i]))
            ;
        client_close(&clients[i]);
    }
}

Test(http, a_client_that_does_not_read_is_cut)
{
    struct client client = client_open_small(&rig, 4096);

    client_say(&client, "GET /large?size=20000000 HTTP/1.1\r\n" HEAD "\r\n");
    await_metric("muster_http_cut_total 1\n");
    client_close(&client);
}

Test(http, a_large_answer_arrives_whole)
{
    cr_expect_eq(get("/large?size=5000000", ADMIN_KEY), 200);
    cr_expect_eq(answer.body.size, 5000000);
}

Test(http, a_client_that_leaves_during_an_ask_frees_its_thread)
{
    struct client client = client_open(&rig);

    client_say(&client, "GET /wait HTTP/1.1\r\n" HEAD "\r\n");
    await_metric("muster_http_waiting 1\n");
    client_close(&client);
    await_metric("muster_http_waiting 0\n");
    cr_expect(metric_is("route=\"/wait\",status=\"499\"} 1"));
}

Test(http, no_more_asks_wait_than_may)
{
    struct client clients[8];
    char text[16] = "";
    size_t i;

    for (i = 0; i < 8; i++) {
        clients[i] = client_open(&rig);
        client_say(&clients[i], "GET /wait HTTP/1.1\r\n" HEAD "\r\n");
    }
    await_metric("muster_http_waiting 8\n");
    cr_expect_eq(get("/wait", ADMIN_KEY), 503);
    cr_expect(answer_header(&answer, "Retry-After", text, sizeof text));
    cr_expect_geq(atoi(text), 1);
    for (i = 0; i < 8; i++)
        client_close(&clients[i]);
}

Test(http, a_full_mailbox_and_an_actor_that_is_gone_are_503)
{
    struct muster_post *post;
    struct muster_buf frame = {0};
    char text[16] = "";

    cr_assert_eq(muster_post_open(rig.house.bus, "narrow", 1, &post), MUSTER_OK);
    muster_buf_str(&frame, "the one message that fits");
    cr_assert_eq(muster_post_send(post, "narrow", &frame), MUSTER_OK);
    cr_expect_eq(get("/ask/narrow", ADMIN_KEY), 503);
    cr_expect(answer_header(&answer, "Retry-After", text, sizeof text));
    cr_expect_geq(atoi(text), 1);
    cr_expect_eq(get("/ask/nobody", ADMIN_KEY), 503);
    muster_post_close(&post);
}

/* ---- common routes -------------------------------------------------------------------------------------------------- */

Test(http, health_tells_the_queue_and_draining)
{
    cr_expect_eq(get("/health", NULL), 200);
    cr_expect(answer_has(&answer, "\"status\":\"ok\""), "%s", answer.body.data);
    cr_expect(answer_has(&answer, "\"maxConcurrent\":"));
    cr_expect(answer_has(&answer, "\"teams\":2"));
    http_server_drain(rig.server);
    cr_expect_eq(get("/health", NULL), 200);
    cr_expect(answer_has(&answer, "\"status\":\"draining\""));
}

Test(http, keys_are_listed_without_secrets)
{
    char hex[MUSTER_DIGEST_HEX];
    uint8_t digest[MUSTER_DIGEST];

    cr_expect_eq(get("/api/v1/keys", ADMIN_KEY), 200);
    cr_expect(answer_has(&answer, "\"name\":\"reader\""));
    cr_expect(answer_has(&answer, "\"teams\":[\"backend\"]"));
    muster_sha256(ADMIN_KEY, strlen(ADMIN_KEY), digest);
    muster_hex(digest, sizeof digest, hex);
    cr_expect(!answer_has(&answer, hex));
    cr_expect(!answer_has(&answer, "digest"));
    cr_expect_eq(get("/api/v1/keys", READER_KEY), 403);
}

Test(http, keys_to_make_are_checked)
{
    static const char *const bodies[] = {
        "{\"name\":\"a\",\"scopes\":[\"nonsense\"]}",
        "{\"name\":\"a\",\"scopes\":[]}",
        "{\"scopes\":[\"teams:read\"]}",
        "{\"name\":\"a\",\"scopes\":[\"*\"],\"rateLimit\":{\"requests\":1,\"window\":\"x\"}}",
        "{\"name\":\"a\",\"scopes\":[\"*\"],\"expiresAt\":\"tomorrow\"}",
        "{\"name\":\"a\",\"scopes\":[\"*\"],\"expiresAt\":\"2020-01-01\"}"};
    size_t i;

    for (i = 0; i < sizeof bodies / sizeof *bodies; i++)
        cr_expect_eq(request_text(&rig, &answer, "POST", "/api/v1/keys", ADMIN_KEY, NULL, bodies[i]), 400, "%s",
                     bodies[i]);
    cr_expect(answer_has(&answer, "{\"field\":\"expiresAt\",\"expected\":\"must be in the future\"}"), "%s",
              answer.body.data);
}

/* ---- metrics --------------------------------------------------------------------------------------------------------- */

/* The name in a line, up to a blank or brace. */
static size_t
name_size(const char *text)
{
    return strcspn(text, " {\n");
}

/* Does the sample belong to the metric?  A histogram's samples have endings. */
static bool
is_of(const char *sample, size_t size, const char *metric, size_t metric_size, bool histogram)
{
    static const char *const ends[] = {"_bucket", "_sum", "_count"};
    size_t i;

    if (size < metric_size || memcmp(sample, metric, metric_size) != 0)
        return false;
    for (i = 0; histogram && i < 3; i++)
        if (size == metric_size + strlen(ends[i]) && memcmp(sample + metric_size, ends[i], strlen(ends[i])) == 0)
            return true;
    return !histogram && size == metric_size;
}

/* HELP, TYPE, then all samples of that metric and of no other; no metric twice. */
static size_t
check_metrics(const char *text)
{
    const char *line = text, *help = NULL, *type = NULL, *seen;
    char again[160];
    size_t groups = 0;

    for (; *line; line = strchr(line, '\n') + 1) {
        cr_assert_not_null(strchr(line, '\n'), "%s", line);
        if (strncmp(line, "# HELP ", 7) == 0) {
            help = line + 7;
            type = NULL;
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            type = line + 7;
            cr_assert(help && name_size(help) == name_size(type) && memcmp(help, type, name_size(type)) == 0,
                      "no HELP before: %.80s", line);
            snprintf(again, sizeof again, "# TYPE %.*s ", (int)name_size(type), type);
            seen = strstr(text, again);
            cr_assert_eq(seen, line, "twice: %s", again);
            groups++;
        } else {
            cr_assert(type && is_of(line, name_size(line), type, name_size(type),
                                    strncmp(type + name_size(type), " histogram", 10) == 0),
                      "not in its group: %.80s", line);
        }
    }
    return groups;
}

static void
publish_team(void)
{
    struct muster_queue_view *queue = muster_alloc(sizeof *queue);
    struct muster_agent_view *agent = muster_alloc(sizeof *agent);

    *queue = (struct muster_queue_view){.queued = 2, .running = 1};
    agent->count = 2;
    agent->processes[0].state = agent->processes[1].state = process_state_IDLE;
    muster_board_publish(rig.bus, MUSTER_QUEUE_BOARD "/backend", queue, free);
    muster_board_publish(rig.bus, MUSTER_AGENT_PREFIX "backend", agent, free);
}

Test(http, metrics_are_in_groups_that_are_explained)
{
    static const char *const lines[] = {
        "muster_info{version=\"" MUSTER_VERSION "\"} 1\n",
        "# TYPE muster_start_time_seconds gauge\n",
        "# TYPE muster_store_last_seq gauge\n",
        "muster_queue_jobs{team=\"backend\",state=\"queued\"} 2\n",
        "muster_queue_jobs{team=\"backend\",state=\"running\"} 1\n",
        "muster_queue_jobs{team=\"frontend\",state=\"queued\"} 0\n",
        "muster_agent_processes{team=\"backend\",state=\"idle\"} 2\n",
        "muster_agent_processes{team=\"frontend\",state=\"busy\"} 0\n",
        "muster_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1\n",
        "muster_http_requests_total{method=\"other\",route=\"none\",status=\"404\"} 1\n",
        "muster_http_requests_total{method=\"other\",route=\"none\",status=\"400\"} 1\n",
    };
    size_t i;

    publish_team();
    cr_expect_eq(get("/nothing", ADMIN_KEY), 404);
    cr_expect_eq(request_text(&rig, &answer, "PROPFIND", "/nothing", ADMIN_KEY, NULL, NULL), 404);
    cr_expect_eq(raw("NONSENSE\r\n\r\n"), 400);
    for (i = 0; i < sizeof lines / sizeof *lines; i++)
        await_metric(lines[i]); /* a request is counted just after its answer */
    cr_expect_gt(check_metrics(answer.body.data), 20);
    cr_expect(!answer_has(&answer, "route=\"\""));
}

Test(http, every_request_is_in_the_log_without_query_or_secret)
{
    struct muster_buf text = {0};

    cr_expect_eq(get("/live?api_key=" ADMIN_KEY, NULL), 200);
    cr_expect_eq(get("/echo/secret?q=hidden", "bad-key"), 401);
    http_server_stop(&rig.server);
    rig_journal(&rig, &text);
    cr_expect(strstr(text.data, "http-request") != NULL);
    cr_expect(strstr(text.data, "\"/live\"") != NULL);
    cr_expect(strstr(text.data, "\"admin\"") != NULL);
    cr_expect(strstr(text.data, ADMIN_KEY) == NULL);
    cr_expect(strstr(text.data, "bad-key") == NULL);
    cr_expect(strstr(text.data, "hidden") == NULL);
    muster_buf_free(&text);
}

/* ---- the server's own life ------------------------------------------------------------------------------------------ */

Test(http, a_taken_address_is_told)
{
    struct http_options http = *rig.config.options->http;
    struct options options = *rig.config.options;
    struct muster_house house = rig.house;
    struct http_server *other = NULL;
    char address[32], problem[256] = "";
    const char *items[] = {address};

    snprintf(address, sizeof address, "127.0.0.1:%d", rig.port);
    http.listen = (struct muster_strs){items, 1};
    options.http = &http;
    house.options = &options;
    house.bus = muster_bus_new();
    cr_expect_eq(http_server_start(&house, dialects, &other, problem, sizeof problem), MUSTER_CONFLICT);
    cr_expect(strstr(problem, address) != NULL, "%s", problem);
    cr_expect_null(other);
    muster_bus_free(&house.bus);
}

/* Ask the gateway whether it could listen on one or two addresses. */
static muster_err
probe(const char *one, const char *two, char problem[256])
{
    struct http_options http = *rig.config.options->http;
    const char *items[] = {one, two};

    http.listen = (struct muster_strs){items, two ? 2 : 1};
    return http_server_probe(&http, problem, 256);
}

Test(http, a_probe_tells_what_is_wrong_before_anything_starts)
{
    char problem[256] = "", address[32], expected[256];

    snprintf(address, sizeof address, "127.0.0.1:%d", rig.port);
    cr_expect_eq(probe(address, NULL, problem), MUSTER_CONFLICT);
    snprintf(expected, sizeof expected,
             "%s: address already in use; stop the other program or choose another with http.listen", address);
    cr_expect_str_eq(problem, expected);
    snprintf(address, sizeof address, "%d", rig.port);
    cr_expect_eq(probe("127.0.0.1:0", address, problem), MUSTER_CONFLICT);
    cr_expect_str_eq(problem, expected);
    cr_expect_eq(probe("192.0.2.1:0", NULL, problem), MUSTER_CONFLICT);
    cr_expect_str_eq(problem, "192.0.2.1:0: this machine has no such address; choose another with http.listen");
    cr_expect_eq(probe("[::1]:80", NULL, problem), MUSTER_INVALID_REQUEST);
    cr_expect(strstr(problem, "'[::1]:80', must be PORT or ADDRESS:PORT with an IPv4 address or *"), "%s", problem);
    cr_expect_eq(probe("443s", NULL, problem), MUSTER_INVALID_REQUEST);
    cr_expect(strstr(problem, "TLS is not served here"), "%s", problem);
    cr_expect_eq(probe("0.0.0.0:4711", "4711", problem), MUSTER_INVALID_REQUEST);
    cr_expect(strstr(problem, "0.0.0.0:4711 and 4711, overlap"), "%s", problem);
    cr_expect_eq(probe("0", "*:0", problem), MUSTER_OK);
}

/* Can 127.0.0.2 be reached at that port?  Only when the server listens on all addresses. */
static bool
is_open(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((in_port_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool open;

    address.sin_addr.s_addr = htonl(0x7f000002);
    open = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return open;
}

static void
expect_open(const char *listen, bool open)
{
    struct http_options http = *rig.config.options->http;
    struct options options = *rig.config.options;
    struct muster_house house = rig.house;
    struct http_server *other = NULL;
    struct muster_buf text = {0};
    char problem[256] = "";
    const char *url;

    http.listen = (struct muster_strs){&listen, 1};
    options.http = &http;
    house.options = &options;
    house.bus = muster_bus_new();
    cr_assert_eq(http_server_start(&house, dialects, &other, problem, sizeof problem), MUSTER_OK, "%s", problem);
    url = http_server_url(other);
    cr_expect_eq(strncmp(url, "http://127.0.0.1:", 17), 0, "%s", url);
    cr_expect_eq(is_open(atoi(url + 17)), open, "%s", listen);
    cr_expect_eq(strstr(rig_journal(&rig, &text), "listen-open") != NULL, open, "%s", listen);
    if (open)
        cr_expect(strstr(text.data, "\"address\":\"0.0.0.0:") != NULL, "%s", text.data);
    http_server_stop(&other);
    muster_bus_free(&house.bus);
    muster_buf_free(&text);
}

Test(http, a_port_alone_is_of_this_machine_only)
{
    expect_open("0", false);
}

Test(http, listening_on_all_addresses_is_said_loudly)
{
    expect_open("*:0", true);
}

Test(http, addresses_that_would_switch_on_tls_are_refused)
{
    static const char *const bad[] = {
        "127.0.0.1:0s", "0s", "+0", "[::1]:0", "127.0.0.1", "127.0.0.1:", "x:/tmp/socket", "a,b:0"};
    struct http_options http = *rig.config.options->http;
    struct options options = *rig.config.options;
    struct muster_house house = rig.house;
    struct http_server *other = NULL;
    char problem[256] = "";
    size_t i;

    options.http = &http;
    house.options = &options;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        http.listen = (struct muster_strs){&bad[i], 1};
        cr_expect_eq(http_server_start(&house, dialects, &other, problem, sizeof problem), MUSTER_INVALID_REQUEST, "%s",
                     bad[i]);
        cr_expect(strstr(problem, bad[i]) != NULL);
    }
}

Test(http, stop_ends_asks_that_wait)
{
    struct client client = client_open(&rig);

    client_say(&client, "GET /wait HTTP/1.1\r\n" HEAD "\r\n");
    await_metric("muster_http_waiting 1\n");
    http_server_stop(&rig.server);
    cr_expect(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 503);
    client_close(&client);
}

Test(http, times_are_read_in_both_ways)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {{"1704067200000", 1704067200000},
                {"2024-01-01", 1704067200000},
                {"2024-01-01T00:00:00Z", 1704067200000},
                {"2024-01-01T02:00:00+02:00", 1704067200000},
                {"2024-01-01T00:00:00.250Z", 1704067200250},
                {"2024-01-01 00:00", 1704067200000}};
    static const char *const bad[] = {
        "", "x", "-1", "2024-13-01", "2024-01-01T", "2024-01-01T25:00", "2024-01-01T00:00:00+", "1 2"};
    int64_t ms;
    size_t i;

    for (i = 0; i < sizeof good / sizeof *good; i++) {
        cr_expect_eq(http_time_parse(good[i].text, &ms), MUSTER_OK, "%s", good[i].text);
        cr_expect_eq(ms, good[i].ms, "%s", good[i].text);
    }
    for (i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(http_time_parse(bad[i], &ms), MUSTER_INVALID_REQUEST, "%s", bad[i]);
}
