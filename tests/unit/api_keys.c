/* SPDX-License-Identifier: MPL-2.0 */
/* Credentials on real sockets: the kinds that are taken and the places they may stand in, rates by name, keys that are
 * rotated, and rates as the real limiter counts them, over restarts. */
#include "tests/unit/api_help.h"

#include <criterion/criterion.h>

#include "actors/muster_actor.h"
#include "api/http/gateway.h"

#define FILE_KEY "a-key-of-the-file-0123456789"
#define DOTTED_KEY "configured.like.atoken"
#define SECRET "0123456789abcdef0123456789abcdef"
#define HOUR_MS INT64_C(3600000)

static struct rig rig;
static struct answer answer;
static struct muster_actor *store_actor, *auth_actor, *limit_actor;
static void (*meanwhile)(void); /* called by /good between its two looks */

/* ---- a dialect for the tests ---------------------------------------------------------------------------------------- */

static void
handle_who(struct http_request *request)
{
    char text[512];
    int size =
        snprintf(text, sizeof text, "%s|%s|%s", request->pass.given ? http_key(request)->name : "nobody",
                 request->pass.given ? http_from(request) : "-", http_may_use(request, "frontend") ? "all" : "some");

    http_answer(request, 200, "text/plain", text, (size_t)size);
}

/* What a WebSocket does with a first message: ?token= is logged in with. */
static void
handle_socket(struct http_request *request)
{
    const char *token = http_query(request, "token"), *reason = "", *missing = "";

    if (token && http_login(request, token, &reason)) {
        http_answer(request, 200, "text/plain", reason, strlen(reason));
        return;
    }
    if (token && !http_has_scopes(request, &missing)) {
        http_answer(request, 200, "text/plain", missing, strlen(missing));
        return;
    }
    handle_who(request);
}

static void
handle_good(struct http_request *request)
{
    bool before = http_key_is_good(request);
    char text[16];

    if (meanwhile)
        meanwhile();
    (void)snprintf(text, sizeof text, "%d%d", before, http_key_is_good(request));
    http_answer(request, 200, "text/plain", text, 2);
}

static const struct http_route routes[] = {
    {"GET", "/who", "teams:read", 1, NULL, 0, handle_who, "Who calls?"},
    {"GET", "/teams/{team}", "teams:read", 1, NULL, HTTP_TEAM, handle_who, "Who calls for that team?"},
    {"GET", "/live", "teams:read", 1, NULL, HTTP_STREAM, handle_who, "Who looks?"},
    {"GET", "/good", "teams:read", 1, NULL, 0, handle_good, "Is it still good?"},
    {"GET", "/costly", "teams:read", 3, NULL, 0, handle_who, "Counts for three."},
    {"GET", "/socket", "teams:read messages:stream", 1, NULL, HTTP_SOCKET, handle_socket, "Who talks?"},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};
static const struct http_dialect dialect = {"test", routes, http_render_plain_error, NULL};
static const struct http_dialect *const dialects[] = {&dialect, NULL};

/* ---- the house ------------------------------------------------------------------------------------------------------ */

#define HTTP_YAML                                                                                                      \
    "http: {listen: [127.0.0.1:0], threads: 24, max_streams: 8, max_waiting: 8}\n"                                     \
    "teams: {backend: {}, frontend: {}}\nlog: {level: info}\n"
#define KEYS_YAML                                                                                                      \
    "  keys:\n"                                                                                                        \
    "  - {name: file, key: " FILE_KEY ", speaks_for: backend, tier: premium}\n"                                        \
    "  - {name: dotted, key: " DOTTED_KEY "}\n"                                                                        \
    "  - {name: root, key: the-key-of-the-root-01, scopes: ['*'], rate_limit: {requests: 0}}\n"                        \
    "  - {name: 'name:with colon', key: 'a key: with colon', tier: standard}\n"                                        \
    "  - {name: both, key: tier-and-rate-0123456789, tier: premium, rate_limit: {requests: 7}}\n"                      \
    "  - {name: unlimited, key: enterprise-0123456789, tier: enterprise}\n"

/* With the real keeper of keys. */
static void
open_with(const char *yaml)
{
    rig_open(&rig, yaml, dialects);
    NEED(muster_actor_start(&rig.house, MUSTER_STORE, &muster_store_class, NULL, &store_actor) == MUSTER_OK);
    NEED(muster_actor_start(&rig.house, MUSTER_AUTH, &muster_auth_class, NULL, &auth_actor) == MUSTER_OK);
}

static void
open_rig(void)
{
    open_with(HTTP_YAML "auth:\n  rate_limit: {requests: 50}\n" KEYS_YAML);
}

static void
open_jwt(void)
{
    open_with(HTTP_YAML "auth:\n  jwt: {secret: " SECRET ", scopes: [teams:write]}\n" KEYS_YAML);
}

static void
close_rig(void)
{
    http_server_stop(&rig.server); /* before those whom it asks */
    muster_actor_stop(&limit_actor);
    muster_actor_stop(&auth_actor);
    muster_actor_stop(&store_actor);
    muster_buf_free(&answer.body);
    rig_close(&rig);
}

TestSuite(keys, .init = open_rig, .fini = close_rig, .timeout = 60);
TestSuite(tokens, .init = open_jwt, .fini = close_rig, .timeout = 60);
TestSuite(kinds, .timeout = 60); /* each opens its own */
TestSuite(rates, .timeout = 60);

static int
get(const char *path, const char *headers)
{
    return request_text(&rig, &answer, "GET", path, NULL, headers, NULL);
}

static int
get_as(const char *path, const char *key)
{
    return request_text(&rig, &answer, "GET", path, key, NULL, NULL);
}

static int
basic(const char *user, size_t size)
{
    char text[256], header[320];

    NEED(muster_base64_size(size) <= sizeof text);
    muster_base64(user, size, text);
    (void)snprintf(header, sizeof header, "Authorization: Basic %s\r\n", text);
    return get("/who", header);
}

static int
post(const char *path, const char *key, const char *body)
{
    return request_text(&rig, &answer, "POST", path, key, NULL, body);
}

/* The text of a member of the last answer. */
static void
member(const char *name, char *out, size_t size)
{
    char wanted[64];
    const char *at;

    (void)snprintf(wanted, sizeof wanted, "\"%s\":", name);
    at = answer.body.data ? strstr(answer.body.data, wanted) : NULL;
    cr_assert_not_null(at, "no %s in %s", name, answer.body.data);
    at += strlen(wanted) + (at[strlen(wanted)] == '"');
    (void)snprintf(out, size, "%.*s", (int)strcspn(at, "\",}"), at);
}

#define ROOT "the-key-of-the-root-01"

/* ---- Basic ---------------------------------------------------------------------------------------------------------- */

Test(keys, a_key_may_be_the_password_of_basic)
{
    cr_expect_eq(basic("file:" FILE_KEY, 5 + sizeof FILE_KEY - 1), 200, "%s", answer.body.data);
    cr_expect(answer_has(&answer, "file|backend|all"), "%s", answer.body.data);
    cr_expect_eq(basic(":" FILE_KEY, sizeof FILE_KEY), 200, "the name may be left out");
    cr_expect_eq(get("/who", "authorization: bAsIc OmEta2V5LW9mLXRoZS1maWxlLTAxMjM0NTY3ODk=\r\n"), 200);
    cr_expect_eq(get("/who", "Authorization: Basic   OmEta2V5LW9mLXRoZS1maWxlLTAxMjM0NTY3ODk\r\n"), 200, "no padding");
    cr_expect_eq(basic(":a key: with colon", 18), 200);
    cr_expect_eq(basic("dotted:" FILE_KEY, 7 + sizeof FILE_KEY - 1), 401);
    cr_expect(answer_has(&answer, "The user name must be the name of the key, or empty"), "%s", answer.body.data);
    cr_expect_eq(basic("file:nonsense", 13), 401);
    cr_expect(answer_has(&answer, "Invalid API key"), "%s", answer.body.data);
}

Test(keys, basic_that_is_none_is_401)
{
    static const char *const texts[] = {
        "Basic !!!", "Basic", "Basic ", "Basic bm9jb2xvbg==", "Basic Og==", "Basic Og==x", "Basic=x", "Digest x=y"};
    char header[64];
    size_t i;

    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        (void)snprintf(header, sizeof header, "Authorization: %s\r\n", texts[i]);
        cr_expect_eq(get("/who", header), 401, "%s", texts[i]);
    }
    cr_expect_eq(basic(":" FILE_KEY "\0x", sizeof FILE_KEY + 2), 401, "no NUL");
}

Test(keys, a_key_in_its_own_header_goes_before_basic)
{
    cr_expect_eq(get("/who", "Authorization: Basic cHJveHk6c2VjcmV0\r\nX-Api-Key: " FILE_KEY "\r\n"), 200,
                 "Basic was for a proxy");
    cr_expect_eq(get("/who", "Authorization: Bearer wrong\r\nX-Api-Key: " FILE_KEY "\r\n"), 401);
    cr_expect_eq(get("/who", "Authorization: Bearer " FILE_KEY "\r\nX-Api-Key: wrong\r\n"), 200);
}

Test(keys, a_401_names_the_kinds_that_are_taken)
{
    cr_expect_eq(get("/who", NULL), 401);
    cr_expect(strstr(answer.head, "WWW-Authenticate: Bearer realm=\"muster\"\r\n"), "%s", answer.head);
    cr_expect(strstr(answer.head, "WWW-Authenticate: Basic realm=\"muster\", charset=\"UTF-8\"\r\n"), "%s",
              answer.head);
    cr_expect_eq(get_as("/who", FILE_KEY), 200);
    cr_expect_null(strstr(answer.head, "WWW-Authenticate"));
}

/* ---- which kinds ---------------------------------------------------------------------------------------------------- */

static const char file_basic[] = "Authorization: Basic OmEta2V5LW9mLXRoZS1maWxlLTAxMjM0NTY3ODk=\r\n";

Test(kinds, bearer_alone_takes_no_basic)
{
    open_with(HTTP_YAML "auth:\n  type: bearer\n" KEYS_YAML);
    cr_expect_eq(get_as("/who", FILE_KEY), 200);
    cr_expect_eq(get("/who", "X-Api-Key: " FILE_KEY "\r\n"), 200);
    cr_expect_eq(get("/live?api_key=" FILE_KEY, NULL), 200);
    cr_expect_eq(get("/who", file_basic), 401);
    cr_expect(
        answer_has(&answer, "Basic credentials are not taken here; send a key as Bearer token in the Authorization"),
        "%s", answer.body.data);
    cr_expect_null(strstr(answer.head, "WWW-Authenticate: Basic"));
    close_rig();
}

Test(kinds, basic_alone_takes_no_bearer)
{
    open_with(HTTP_YAML "auth:\n  type: [basic]\n" KEYS_YAML);
    cr_expect_eq(get("/who", file_basic), 200);
    cr_expect_eq(get_as("/who", FILE_KEY), 401);
    cr_expect(answer_has(&answer, "Bearer keys are not taken here; send a key as the password of Basic in the"), "%s",
              answer.body.data);
    cr_expect_eq(get("/who", "X-Api-Key: " FILE_KEY "\r\n"), 401);
    cr_expect_eq(get("/live?api_key=" FILE_KEY, NULL), 401);
    cr_expect_null(strstr(answer.head, "WWW-Authenticate: Bearer"));
    cr_expect_not_null(strstr(answer.head, "WWW-Authenticate: Basic"));
    close_rig();
}

/* ---- tokens --------------------------------------------------------------------------------------------------------- */

static const char *
token_of(const char *claims, char *out, size_t size)
{
    char head[64], body[1024], signature[64], *at;
    uint8_t digest[MUSTER_DIGEST];

    muster_base64("{\"alg\":\"HS256\"}", 15, head);
    NEED(muster_base64_size(strlen(claims)) <= sizeof body);
    muster_base64(claims, strlen(claims), body);
    (void)snprintf(out, size, "%s.%s", head, body);
    for (at = out; *at; at++)
        NEED(*at != '+' && *at != '/' && *at != '='); /* the claims of these tests are chosen so */
    muster_hmac_sha256(SECRET, strlen(SECRET), out, strlen(out), digest);
    muster_base64(digest, sizeof digest, signature);
    for (at = signature; *at; at++)
        *at = *at == '+' ? '-' : *at == '/' ? '_' : *at == '=' ? '\0' : *at;
    (void)snprintf(out + strlen(out), size - strlen(out), ".%s", signature);
    return out;
}

/* Claims of alice that end in `more`, filled up so that their base64 needs no padding. */
static const char *
alice(const char *more, char *out, size_t size)
{
    char claims[700];

    (void)snprintf(claims, sizeof claims, "{\"sub\":\"alice\",\"exp\":%lld%s}",
                   (long long)muster_clock_ms() / 1000 + 300, more);
    while (strlen(claims) % 3)
        (void)strcat(claims, " ");
    return token_of(claims, out, size);
}

Test(tokens, a_token_is_a_credential_wherever_a_key_is)
{
    char token[2048], header[2200];

    (void)alice(",\"scope\":\"teams:read\"", token, sizeof token);
    cr_expect_eq(get_as("/who", token), 200, "%s", answer.body.data);
    cr_expect(answer_has(&answer, "jwt:alice|jwt:alice|all"), "%s", answer.body.data);
    (void)snprintf(header, sizeof header, "X-Api-Key: %s\r\n", token);
    cr_expect_eq(get("/who", header), 200);
    (void)snprintf(header, sizeof header, "/live?api_key=%s", token);
    cr_expect_eq(get(header, NULL), 200);
    cr_expect_eq(get_as("/who", DOTTED_KEY), 200, "a key is a key, whatever it looks like");
    cr_expect(answer_has(&answer, "dotted|"), "%s", answer.body.data);
    cr_expect_eq(get_as("/who", "a.b.c"), 401);
    cr_expect(answer_has(&answer, "The signature of the token is not good (HS256)"), "%s", answer.body.data);
}

Test(tokens, what_a_token_may_do_is_checked)
{
    char token[2048], text[64] = "";

    cr_expect_eq(get_as("/who", alice("", token, sizeof token)), 403, "%s", answer.body.data);
    cr_expect_eq(get_as("/api/v1/keys", alice(",\"scope\":\"admin:*\"", token, sizeof token)), 403);
    cr_expect_eq(get_as("/api/v1/keys", alice(",\"scope\":\"*\"", token, sizeof token)), 403);
    (void)alice(",\"scope\":\"teams:read\",\"teams\":[\"backend\"],\"tier\":\"premium\"", token, sizeof token);
    cr_expect_eq(get_as("/teams/frontend", token), 403);
    cr_expect_eq(get_as("/teams/backend", token), 200);
    cr_expect(answer_has(&answer, "jwt:alice|jwt:alice|some"), "%s", answer.body.data);
    cr_expect(answer_header(&answer, "X-RateLimit-Limit", text, sizeof text));
    cr_expect_str_eq(text, "1000");
}

Test(keys, without_jwt_options_tokens_are_not_taken)
{
    char token[2048];

    cr_expect_eq(get_as("/who", alice(",\"scope\":\"teams:read\"", token, sizeof token)), 401);
    cr_expect(answer_has(&answer, "JSON Web Tokens are not taken here; send a key as Bearer token or a key as the "
                                  "password of Basic in the Authorization header"),
              "%s", answer.body.data);
}

Test(kinds, tokens_alone_take_no_keys)
{
    char token[2048];

    open_with(HTTP_YAML "auth:\n  type: jwt\n  jwt: {secret: " SECRET "}\n" KEYS_YAML);
    cr_expect_eq(get_as("/who", alice(",\"scope\":\"teams:read\"", token, sizeof token)), 200);
    cr_expect_eq(get_as("/who", FILE_KEY), 401);
    cr_expect(answer_has(&answer, "Bearer keys are not taken here; send a JSON Web Token as Bearer token in the"), "%s",
              answer.body.data);
    cr_expect_eq(get_as("/who", DOTTED_KEY), 401, "it is taken for a token");
    cr_expect_not_null(strstr(answer.head, "WWW-Authenticate: Bearer"));
    close_rig();
}

Test(kinds, a_public_key_that_is_none_is_told_before_anything_starts)
{
    char text[512], problem[512] = "";
    struct muster_options_error error;
    struct muster_config config = {0};
    struct http_server *server = NULL;

    open_with(HTTP_YAML "auth:\n" KEYS_YAML);
    (void)snprintf(text, sizeof text, HTTP_YAML "auth: {jwt: {public_key: /etc/passwd}}\n");
    NEED(muster_config_parse(text, strlen(text), "t.yaml", "/tmp", &config, &error) == MUSTER_OK);
    cr_expect_eq(http_auth_probe(config.options->auth, problem, sizeof problem), MUSTER_INVALID_REQUEST);
    cr_expect(strstr(problem, "auth.jwt.public_key: /etc/passwd must be a PEM file"), "%s", problem);
    rig.house.options = config.options;
    problem[0] = '\0';
    cr_expect_eq(http_server_start(&rig.house, dialects, &server, problem, sizeof problem), MUSTER_INVALID_REQUEST);
    cr_expect(strstr(problem, "/etc/passwd"), "%s", problem);
    cr_expect_null(server);
    rig.house.options = rig.config.options;
    cr_expect_eq(http_auth_probe(rig.config.options->auth, problem, sizeof problem), MUSTER_OK, "none is needed");
    muster_config_free(&config);
    close_rig();
}

/* ---- rates by name -------------------------------------------------------------------------------------------------- */

static const char *
limit_of(const char *key)
{
    static char text[32];

    cr_assert_eq(get_as("/who", key), 200, "%s", answer.body.data);
    return answer_header(&answer, "X-RateLimit-Limit", text, sizeof text) ? text : "none";
}

Test(keys, a_rate_is_the_keys_own_or_that_of_its_tier_or_the_default)
{
    cr_expect_str_eq(limit_of("a key: with colon"), "100");
    cr_expect_str_eq(limit_of(FILE_KEY), "1000");
    cr_expect_str_eq(limit_of("enterprise-0123456789"), "none");
    cr_expect_str_eq(limit_of("tier-and-rate-0123456789"), "7");
    cr_expect_str_eq(limit_of(DOTTED_KEY), "50");
    cr_expect_str_eq(limit_of(ROOT), "none");
}

/* ---- WebSockets ------------------------------------------------------------------------------------------------------ */

#define UPGRADE                                                                                                        \
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"                                       \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

Test(keys, a_websocket_may_come_without_a_credential)
{
    cr_expect_eq(get("/socket", UPGRADE), 200, "%s", answer.body.data);
    cr_expect(answer_has(&answer, "nobody|-|all"), "%s", answer.body.data);
    cr_expect_eq(rig.taken, 0, "nothing is counted");
}

Test(keys, the_credential_of_a_websocket_stands_in_four_places)
{
    static const char *const good[] = {"Authorization: Bearer " FILE_KEY "\r\n", "X-Api-Key: " FILE_KEY "\r\n",
                                       "Sec-WebSocket-Protocol: muster.key." FILE_KEY "\r\n",
                                       "Sec-WebSocket-Protocol: muster ,  muster.key." FILE_KEY " , other\r\n"};
    static const char *const bad[] = {"Authorization: Bearer wrong\r\n",
                                      "X-Api-Key: wrong\r\n",
                                      "Authorization: \r\n",
                                      "Authorization: Digest x\r\n",
                                      "X-Api-Key: \r\n",
                                      "Sec-WebSocket-Protocol: muster, muster.key.wrong\r\n",
                                      "Sec-WebSocket-Protocol: muster.key.\r\n"};
    char headers[512];
    size_t i;

    for (i = 0; i < sizeof good / sizeof *good; i++) {
        (void)snprintf(headers, sizeof headers, UPGRADE "%s", good[i]);
        cr_expect_eq(get("/socket", headers), 200, "%s", good[i]);
        cr_expect(answer_has(&answer, "file|backend"), "%s: %s", good[i], answer.body.data);
    }
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        (void)snprintf(headers, sizeof headers, UPGRADE "%s", bad[i]);
        cr_expect_eq(get("/socket", headers), 401, "%s", bad[i]);
    }
    cr_expect_eq(get("/socket?api_key=" FILE_KEY, UPGRADE), 200);
    cr_expect(answer_has(&answer, "file|backend"), "%s", answer.body.data);
    cr_expect_eq(get("/socket?api_key=wrong", UPGRADE), 401);
    cr_expect_eq(get("/socket?api_key=", UPGRADE), 401);
    cr_expect_eq(get("/socket", UPGRADE "Sec-WebSocket-Protocol: muster\r\n"), 200);
    cr_expect(answer_has(&answer, "nobody"), "%s", answer.body.data);
    cr_expect_eq(get("/who", "Sec-WebSocket-Protocol: muster.key." FILE_KEY "\r\n"), 401, "only there");
}

Test(keys, a_websocket_logs_in_with_its_first_message)
{
    cr_expect_eq(get("/socket?token=Bearer+" FILE_KEY, UPGRADE), 200);
    cr_expect(answer_has(&answer, "file|backend"), "%s", answer.body.data);
    cr_expect_eq(get("/socket?token=" FILE_KEY, UPGRADE), 200);
    cr_expect(answer_has(&answer, "file|backend"), "%s", answer.body.data);
    cr_expect_eq(get("/socket?token=a+key:+with+colon", UPGRADE), 200, "a key may have blanks");
    cr_expect(answer_has(&answer, "name:with colon"), "%s", answer.body.data);
    cr_expect_eq(get("/socket?token=wrong", UPGRADE), 200);
    cr_expect(answer_has(&answer, "Invalid API key"), "%s", answer.body.data);
    cr_expect_eq(post("/api/v1/keys", ROOT, "{\"name\":\"small\",\"scopes\":[\"processes:read\"]}"), 201);
    cr_expect_eq(request_text(&rig, &answer, "GET", "/socket", ROOT, UPGRADE, NULL), 200);
}

Test(keys, a_login_tells_which_scopes_are_missing)
{
    char text[128], path[192], header[320];

    cr_expect_eq(post("/api/v1/keys", ROOT, "{\"name\":\"small\",\"scopes\":[\"teams:read\"]}"), 201);
    member("key", text, sizeof text);
    (void)snprintf(path, sizeof path, "/socket?token=%s", text);
    cr_expect_eq(get(path, UPGRADE), 200);
    cr_expect_str_eq(answer.body.data, "messages:stream");
    (void)snprintf(header, sizeof header, UPGRADE "X-Api-Key: %s\r\n", text);
    cr_expect_eq(get("/socket", header), 403);
}

/* ---- who may manage keys -------------------------------------------------------------------------------------------- */

Test(keys, a_key_that_is_kept_to_some_teams_does_not_get_at_others_through_keys)
{
    static const char body[] = "{\"name\":\"small\",\"scopes\":[\"admin:*\"],\"teams\":[\"backend\"]}";
    char small[128];

    cr_assert_eq(post("/api/v1/keys", ROOT, body), 201, "%s", answer.body.data);
    member("key", small, sizeof small);
    cr_assert_eq(post("/api/v1/keys", ROOT, "{\"name\":\"bot\",\"scopes\":[\"teams:read\"]}"), 201);
    cr_expect_eq(post("/api/v1/keys", small, "{\"name\":\"wide\",\"scopes\":[\"*\"]}"), 403, "%s", answer.body.data);
    cr_expect_eq(post("/api/v1/keys/bot/rotate", small, "{}"), 403, "%s", answer.body.data);
    cr_expect_eq(request_text(&rig, &answer, "DELETE", "/api/v1/keys/bot", small, NULL, NULL), 403);
    cr_expect_eq(get_as("/api/v1/keys", small), 200);
    cr_expect_eq(post("/api/v1/keys/bot/rotate", ROOT, "{}"), 200, "%s", answer.body.data);
}

/* ---- keys that change while something lasts --------------------------------------------------------------------------- */

static char bot[128]; /* its text */

static void
make_bot(const char *more)
{
    char body[256];

    (void)snprintf(body, sizeof body, "{\"name\":\"bot\",\"scopes\":[\"teams:read\"]%s}", more);
    cr_assert_eq(post("/api/v1/keys", ROOT, body), 201, "%s", answer.body.data);
    member("key", bot, sizeof bot);
}

/* On a connection's thread, so with an answer of its own. */
static void
send_as_root(const char *method, const char *path, const char *body)
{
    struct answer other = {0};

    NEED(request_text(&rig, &other, method, path, ROOT, NULL, body) == 200);
    muster_buf_free(&other.body);
}

static void
do_revoke(void)
{
    send_as_root("DELETE", "/api/v1/keys/bot", NULL);
}

static void
do_rotate(void)
{
    send_as_root("POST", "/api/v1/keys/bot/rotate", "{}");
}

static void
do_rotate_with_overlap(void)
{
    send_as_root("POST", "/api/v1/keys/bot/rotate", "{\"overlap\":\"1h\"}");
}

static bool
good_is(const char *expected)
{
    cr_assert_eq(get_as("/good", bot), 200, "%s", answer.body.data);
    return answer.body.size == 2 && memcmp(answer.body.data, expected, 2) == 0;
}

Test(keys, what_lasts_ends_with_its_key)
{
    make_bot("");
    cr_expect(good_is("11"));
    meanwhile = do_rotate_with_overlap;
    cr_expect(good_is("11"), "the old text is still good");
    meanwhile = do_rotate;
    cr_expect(good_is("10"), "the text it came with works no more");
    send_as_root("DELETE", "/api/v1/keys/bot", NULL);
    make_bot("");
    meanwhile = do_revoke;
    cr_expect(good_is("10"));
}

/* ---- rotation -------------------------------------------------------------------------------------------------------- */

/* On one connection, whose thread remembers the last credential. */
static int
who_on(struct client *client, const char *key)
{
    client_say(client, "GET /who HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer %s\r\n\r\n", key);
    cr_assert(client_answer(client, &answer));
    return answer.status;
}

Test(keys, a_connection_may_change_its_key)
{
    struct client client = client_open(&rig);
    int round;

    make_bot("");
    for (round = 0; round < 3; round++) {
        cr_expect_eq(who_on(&client, bot), 200);
        cr_expect(answer_has(&answer, "bot|bot|"), "%s", answer.body.data);
        cr_expect_eq(who_on(&client, bot), 200);
        cr_expect(answer_has(&answer, "bot|bot|"), "%s", answer.body.data);
        cr_expect_eq(who_on(&client, ROOT), 200);
        cr_expect(answer_has(&answer, "root|root|"), "%s", answer.body.data);
        cr_expect_eq(who_on(&client, "no-key-of-anybody-at-all"), 401);
    }
    client_close(&client);
}

Test(keys, a_key_that_was_just_used_ends_at_once)
{
    struct client client = client_open(&rig);
    char old[128];

    make_bot("");
    cr_expect_eq(who_on(&client, bot), 200);
    cr_expect_eq(who_on(&client, bot), 200);
    memcpy(old, bot, sizeof old);
    cr_expect_eq(post("/api/v1/keys/bot/rotate", ROOT, "{}"), 200, "%s", answer.body.data);
    member("key", bot, sizeof bot);
    cr_expect_eq(who_on(&client, old), 401, "rotated");
    cr_expect_eq(who_on(&client, bot), 200);
    cr_expect_eq(who_on(&client, bot), 200);
    do_revoke();
    cr_expect_eq(who_on(&client, bot), 401, "revoked");
    cr_expect_eq(who_on(&client, bot), 401);
    client_close(&client);
}

Test(keys, a_key_is_rotated)
{
    char id[64], new_id[64], old[128], text[128];
    int64_t now_ms = muster_clock_ms();

    make_bot("");
    member("id", id, sizeof id);
    memcpy(old, bot, sizeof old);
    cr_expect_eq(post("/api/v1/keys/bot/rotate", ROOT, "{\"overlap\":3600000}"), 200, "%s", answer.body.data);
    member("id", new_id, sizeof new_id);
    cr_expect_str_eq(new_id, id);
    member("oldUntil", text, sizeof text);
    cr_expect_geq(atoll(text), now_ms + HOUR_MS);
    cr_expect_leq(atoll(text), muster_clock_ms() + HOUR_MS);
    member("key", bot, sizeof bot);
    cr_expect_eq(get_as("/who", bot), 200);
    cr_expect_eq(get_as("/who", old), 200);
    cr_expect_eq(get_as("/api/v1/keys", ROOT), 200);
    cr_expect(answer_has(&answer, "\"oldUntil\":"), "%s", answer.body.data);
    (void)snprintf(text, sizeof text, "/api/v1/keys/%s/rotate", id);
    cr_expect_eq(post(text, ROOT, NULL), 200, "by its id too, and without a body");
    cr_expect(!answer_has(&answer, "oldUntil"), "%s", answer.body.data);
    cr_expect_eq(get_as("/who", old), 401);
    cr_expect_eq(get_as("/who", bot), 401);
    cr_expect(answer_has(&answer, "API key rotated"), "%s", answer.body.data);
    cr_expect_eq(get_as("/api/v1/keys", ROOT), 200);
    cr_expect(!answer_has(&answer, "\"oldUntil\":"), "%s", answer.body.data);
}

Test(keys, what_cannot_be_rotated_says_why)
{
    static const char *const overlaps[] = {"-1", "\"soon\"", "\"366d\"", "31536000001", "true", "\"\"", "1.5"};
    char body[64], path[160];
    size_t i;

    make_bot("");
    for (i = 0; i < sizeof overlaps / sizeof *overlaps; i++) {
        (void)snprintf(body, sizeof body, "{\"overlap\":%s}", overlaps[i]);
        cr_expect_eq(post("/api/v1/keys/bot/rotate", ROOT, body), 400, "%s", overlaps[i]);
    }
    cr_expect_eq(get_as("/who", bot), 200, "nothing has changed");
    cr_expect_eq(post("/api/v1/keys/file/rotate", ROOT, "{}"), 409);
    cr_expect(answer_has(&answer, "is configured"), "%s", answer.body.data);
    cr_expect_eq(post("/api/v1/keys/nobody/rotate", ROOT, "{}"), 404);
    (void)snprintf(path, sizeof path, "/api/v1/keys/%0100d/rotate", 0);
    cr_expect_eq(post(path, ROOT, "{}"), 404);
    cr_expect_eq(post("/api/v1/keys/bot/rotate", bot, "{}"), 403);
    cr_expect_eq(post("/api/v1/keys/bot/rotate", ROOT, "{\"overlap\":\"365d\"}"), 200);
}

Test(keys, tier_team_and_age_of_a_key_are_shown)
{
    make_bot(",\"tier\":\"standard\",\"speaksFor\":\"frontend\"");
    cr_expect_eq(get_as("/who", bot), 200);
    cr_expect(answer_has(&answer, "bot|frontend|all"), "%s", answer.body.data);
    cr_expect_str_eq(limit_of(bot), "100");
    cr_expect_eq(get_as("/api/v1/keys", ROOT), 200);
    cr_expect(answer_has(&answer, "\"tier\":\"standard\",\"speaksFor\":\"frontend\""), "%s", answer.body.data);
    cr_expect(answer_has(&answer, "\"tier\":\"premium\",\"speaksFor\":\"backend\""), "%s", answer.body.data);
    cr_expect(!answer_has(&answer, "\"expired\""), "%s", answer.body.data);
    cr_expect_eq(post("/api/v1/keys", ROOT, "{\"name\":\"x\",\"scopes\":[\"*\"],\"tier\":\"gold\"}"), 400);
    cr_expect(answer_has(&answer, "tier"), "%s", answer.body.data);
    cr_expect_eq(post("/api/v1/keys", ROOT, "{\"name\":\"x\",\"scopes\":[\"*\"],\"speaksFor\":\"ghosts\"}"), 404);
    cr_expect_eq(post("/api/v1/keys", ROOT,
                      "{\"name\":\"x\",\"scopes\":[\"*\"],\"teams\":[\"backend\"],\"speaksFor\":\"frontend\"}"),
                 400);
}

Test(keys, an_expired_key_is_shown_as_such)
{
    char more[64];

    (void)snprintf(more, sizeof more, ",\"expiresAt\":%lld", (long long)muster_clock_ms() + 300);
    make_bot(more);
    while (get_as("/who", bot) == 200)
        ;
    cr_expect_eq(answer.status, 401);
    cr_expect(answer_has(&answer, "API key expired"), "%s", answer.body.data);
    cr_expect_eq(get_as("/api/v1/keys", ROOT), 200);
    cr_expect(answer_has(&answer, "\"expired\":true"), "%s", answer.body.data);
    cr_expect_eq(post("/api/v1/keys/bot/rotate", ROOT, "{}"), 409);
    cr_expect(answer_has(&answer, "has expired"), "%s", answer.body.data);
}

/* ---- rates as they are counted ------------------------------------------------------------------------------------------ */

/* A key's requests that passed, as the clock saw them: some time from `from` to `to`. */
struct passed {
    int64_t from_ms[64], to_ms[64];
    int count;
};

static int64_t
number_of(const char *header)
{
    char text[64] = "";

    cr_assert(answer_header(&answer, header, text, sizeof text), "no %s: %s", header, answer.head);
    return atoll(text);
}

/* The value of a parameter in the RateLimit headers. */
static int64_t
parameter(const char *header, const char *name)
{
    char text[64] = "", wanted[8];
    const char *at;

    cr_assert(answer_header(&answer, header, text, sizeof text), "no %s: %s", header, answer.head);
    cr_assert_eq(strncmp(text, "\"default\";", 10), 0, "%s", text);
    (void)snprintf(wanted, sizeof wanted, ";%s=", name);
    at = strstr(text, wanted);
    cr_assert_not_null(at, "no %s in %s", name, text);
    return atoll(at + strlen(wanted));
}

/* Both kinds of headers agree with each other and with what passed; `oldest` is the first request that counts. */
static void
check_headers(const struct passed *passed, int oldest, int64_t limit, int64_t window_ms, int64_t before_ms)
{
    int64_t now_ms = muster_clock_ms(), reset_s = number_of("X-RateLimit-Reset"), t = parameter("RateLimit", "t"),
            wait_s;
    int at = answer.status == 200 ? passed->count - 1 : oldest; /* whose leaving is the reset */

    cr_assert_eq(number_of("X-RateLimit-Limit"), limit);
    cr_assert_eq(number_of("X-RateLimit-Remaining"), limit - (passed->count - oldest));
    cr_assert_geq(reset_s, (passed->from_ms[at] + window_ms + 999) / 1000);
    cr_assert_leq(reset_s, (passed->to_ms[at] + window_ms + 999) / 1000);
    cr_assert_eq(parameter("RateLimit-Policy", "q"), limit);
    cr_assert_eq(parameter("RateLimit-Policy", "w"), window_ms / 1000);
    cr_assert_eq(parameter("RateLimit", "r"), limit - (passed->count - oldest));
    cr_assert_leq(t, window_ms / 1000);
    if (answer.status == 200) {
        cr_assert(t == window_ms / 1000 || (t >= reset_s - now_ms / 1000 && t <= reset_s - before_ms / 1000), "%lld",
                  (long long)t);
        return;
    }
    wait_s = number_of("Retry-After");
    cr_assert_leq(t, wait_s, "Retry-After is never earlier");
    cr_assert_geq(t, wait_s - 1);
    cr_assert_geq(wait_s, (passed->from_ms[oldest] + window_ms - now_ms + 999) / 1000);
    cr_assert_leq(wait_s, (passed->to_ms[oldest] + window_ms - before_ms + 999) / 1000);
}

/* One request of that cost, as the model has it. */
static void
call(struct passed *passed, int oldest, const char *key, int cost, int64_t limit, int64_t window_ms)
{
    bool fits = passed->count - oldest + cost <= limit;
    int64_t before_ms = muster_clock_ms();
    int i;

    cr_assert_eq(get_as(cost == 3 ? "/costly" : "/who", key), fits ? 200 : 429, "%s", answer.body.data);
    for (i = 0; fits && i < cost; i++) {
        passed->from_ms[passed->count] = before_ms;
        passed->to_ms[passed->count++] = muster_clock_ms();
    }
    check_headers(passed, oldest, limit, window_ms, before_ms);
}

static void
start_limiter(void)
{
    muster_runner_stop(&rig.limit);
    NEED(muster_actor_start(&rig.house, MUSTER_LIMIT, &muster_limit_class, NULL, &limit_actor) == MUSTER_OK);
}

/* Limiter and store as in a restart of the daemon. */
static void
restart_limiter(void)
{
    muster_actor_stop(&limit_actor);
    muster_actor_stop(&store_actor);
    NEED(muster_actor_start(&rig.house, MUSTER_STORE, &muster_store_class, NULL, &store_actor) == MUSTER_OK);
    NEED(muster_actor_start(&rig.house, MUSTER_LIMIT, &muster_limit_class, NULL, &limit_actor) == MUSTER_OK);
}

Test(rates, headers_are_exact_over_a_restart)
{
    struct passed passed = {.count = 0};
    int i;

    open_with(HTTP_YAML "auth: {keys: [{name: k, key: " FILE_KEY ", rate_limit: {requests: 10, window: 1h}}]}\n");
    start_limiter();
    call(&passed, 0, FILE_KEY, 1, 10, HOUR_MS);
    call(&passed, 0, FILE_KEY, 3, 10, HOUR_MS);
    restart_limiter();
    call(&passed, 0, FILE_KEY, 3, 10, HOUR_MS);
    call(&passed, 0, FILE_KEY, 1, 10, HOUR_MS);
    call(&passed, 0, FILE_KEY, 1, 10, HOUR_MS);
    call(&passed, 0, FILE_KEY, 1, 10, HOUR_MS);
    for (i = 0; i < 3; i++)
        call(&passed, 0, FILE_KEY, 1, 10, HOUR_MS);
    restart_limiter();
    call(&passed, 0, FILE_KEY, 1, 10, HOUR_MS);
    cr_assert_eq(answer.status, 429);
    close_rig();
}

/* What leaves the window makes room when the headers said so, and not before. */
Test(rates, the_wait_that_is_told_is_enough)
{
    struct passed passed = {.count = 0};
    int64_t reset_ms;
    int i;

    open_with(HTTP_YAML "auth: {keys: [{name: k, key: " FILE_KEY ", rate_limit: {requests: 3, window: 2s}}]}\n");
    start_limiter();
    for (i = 0; i < 4; i++)
        call(&passed, 0, FILE_KEY, 1, 3, 2000);
    reset_ms = number_of("X-RateLimit-Reset") * 1000;
    cr_assert_leq(reset_ms - 1000, passed.to_ms[0] + 2000);
    while (muster_clock_ms() < passed.from_ms[0] + 1990)
        cr_assert(get_as("/who", FILE_KEY) == 429 || muster_clock_ms() >= passed.from_ms[0] + 2000);
    while (get_as("/who", FILE_KEY) == 429)
        cr_assert_lt(muster_clock_ms(), reset_ms);
    cr_assert_geq(muster_clock_ms(), passed.from_ms[0] + 2000);
    close_rig();
}
