/* SPDX-License-Identifier: MPL-2.0 */
/* WebSockets of the gateway on real sockets: the handshake, messages in all shapes, what is followed, and every way to
 * end. */
#include "tests/unit/api_help.h"

#include <criterion/criterion.h>

static struct rig rig;
static struct answer answer;
static struct muster_id job, other;

/* ---- a dialect for the tests: messages are words --------------------------------------------------------------------- */

static void
render(struct muster_buf *out, const struct event *event, const char *cursor, struct muster_arena *arena, void *arg)
{
    struct job_chunk chunk = {""};

    (void)cursor;
    (void)arg;
    if (strcmp(event->type, job_chunk_type.wire) == 0)
        (void)muster_unpack(&job_chunk_type, event->body.data, event->body.size, arena, &chunk, NULL);
    muster_buf_printf(out, "%lld %s %s", (long long)event->seq, event->type, chunk.text);
}

static void say(struct http_request *request, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void
say(struct http_request *request, const char *format, ...)
{
    struct muster_buf text = {0};
    va_list args;

    va_start(args, format);
    muster_buf_vprintf(&text, format, args);
    va_end(args);
    http_socket_send(request, text.data ? text.data : "", text.size);
    muster_buf_free(&text);
}

/* "job ID" or "team NAME" */
static struct http_topic
topic_of(struct http_request *request, const char *kind, const char *name)
{
    struct http_topic topic = {.teams = NULL};
    struct muster_strs *teams = muster_arena_alloc(http_arena(request), sizeof *teams);
    const char **items = muster_arena_alloc(http_arena(request), sizeof *items);

    items[0] = muster_arena_str(http_arena(request), name, strlen(name));
    *teams = (struct muster_strs){items, 1};
    if (strcmp(kind, "job") == 0)
        NEED(muster_id_parse(name, &topic.job) == MUSTER_OK);
    else
        topic.teams = teams;
    return topic;
}

static void
on_follow(struct http_request *request, const char *kind, const char *name, const char *after)
{
    struct http_topic topic = topic_of(request, kind, name);

    say(request, "follow %s", muster_err_code(http_socket_follow(request, &topic, *after ? atoll(after) : -1)));
}

static void
on_unfollow(struct http_request *request, const char *kind, const char *name)
{
    struct http_topic topic = topic_of(request, kind, name);

    say(request, "unfollow %d", http_socket_unfollow(request, &topic));
}

static void
on_ask(struct http_request *request, const char *to)
{
    struct log_flush flush = {.all = true};
    struct store_committed committed;
    int64_t wait_s;
    muster_err err = http_ask(request, to, &log_flush_type, &flush, &store_committed_type, &committed, 600000);

    if (err)
        say(request, "ask %s: %s", muster_err_code(err), http_told(request, err, &wait_s));
    else
        say(request, "ask ok");
}

static void
on_login(struct http_request *request, const char *credential)
{
    const char *reason = "";
    muster_err err = http_socket_login(request, credential, &reason);

    say(request, "login %s %s %s", muster_err_code(err), reason, err ? "-" : http_key(request)->name);
}

static void
on_count(struct http_request *request)
{
    muster_err err = http_socket_count(request);
    int64_t wait_s;
    const char *words = http_told(request, err, &wait_s);

    say(request, "count %s %s %lld", muster_err_code(err), err ? words : "", (long long)wait_s);
}

static void
on_words(struct http_request *request, const char *text, size_t size, void *arg)
{
    char words[4][128] = {"", "", "", ""};

    NEED(text[size] == '\0');
    (void)sscanf(text, "%127s %127s %127s %127s", words[0], words[1], words[2], words[3]);
    if (strcmp(words[0], "follow") == 0)
        on_follow(request, words[1], words[2], words[3]);
    else if (strcmp(words[0], "unfollow") == 0)
        on_unfollow(request, words[1], words[2]);
    else if (strcmp(words[0], "ask") == 0)
        on_ask(request, words[1]);
    else if (strcmp(words[0], "login") == 0)
        on_login(request, words[1]);
    else if (strcmp(words[0], "count") == 0)
        on_count(request);
    else if (strcmp(words[0], "close") == 0)
        http_socket_close(request, atoi(words[1]), words[2]);
    else if (strcmp(words[0], "key") == 0)
        say(request, "key %d %s", http_socket_has_key(request), http_from(request) ? http_from(request) : "-");
    else
        say(request, "%s:%zu:%.100s", (const char *)arg, size, text);
}

static void
handle_socket(struct http_request *request)
{
    http_socket_run(request, on_words, render, "echo");
}

static void
render_error(struct muster_buf *out, muster_err err, const char *message, const char *details, int64_t now_ms)
{
    (void)details;
    (void)now_ms;
    muster_buf_printf(out, "{\"code\":\"%s\",\"message\":\"%s\"}", muster_err_code(err), message);
}

static const struct http_route routes[] = {
    {"GET", "/socket", "messages:stream", 1, NULL, HTTP_SOCKET, handle_socket, "Socket."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};
static const struct http_dialect dialect = {"test", routes, render_error, NULL};
static const struct http_dialect *const dialects[] = {&dialect, NULL};

static void
open_with(const char *yaml)
{
    rig_open(&rig, yaml, dialects);
    job = muster_id_new(1000);
    other = muster_id_new(1001);
}

static void
open_rig(void)
{
    open_with(rig_options);
}

static void
close_rig(void)
{
    muster_buf_free(&answer.body);
    rig_close(&rig);
}

TestSuite(socket, .init = open_rig, .fini = close_rig, .timeout = 60);

/* Every look is a request, and the test's own limit ends a wait in vain. */
static void
await_metric(const char *line)
{
    do
        cr_assert_eq(request_text(&rig, &answer, "GET", "/metrics", NULL, NULL, NULL), 200);
    while (!answer_has(&answer, line));
}

/* ---- a client ------------------------------------------------------------------------------------------------------- */

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10, FIN = 0x80 };

#define UPGRADE                                                                                                        \
    "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"                           \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

static void
add_frame(struct muster_buf *out, int first, const void *data, size_t size)
{
    static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};
    unsigned char head[14] = {(unsigned char)first};
    size_t used = 2, i;

    if (size < 126) {
        head[1] = (unsigned char)(0x80 | size);
    } else if (size < 65536) {
        head[1] = 0x80 | 126;
        head[2] = (unsigned char)(size >> 8);
        head[3] = (unsigned char)size;
        used = 4;
    } else {
        head[1] = 0x80 | 127;
        for (i = 0; i < 8; i++)
            head[2 + i] = (unsigned char)(size >> (56 - 8 * i));
        used = 10;
    }
    memcpy(head + used, mask, 4);
    muster_buf_add(out, head, used + 4);
    for (i = 0; i < size; i++) {
        char byte = (char)(((const unsigned char *)data)[i] ^ mask[i % 4]);

        muster_buf_add(out, &byte, 1);
    }
}

static void
send_frame(struct client *client, int first, const void *data, size_t size)
{
    struct muster_buf out = {0};

    add_frame(&out, first, data, size);
    (void)client_send(client, out.data, out.size);
    muster_buf_free(&out);
}

static void
tell(struct client *client, const char *text)
{
    send_frame(client, FIN | TEXT, text, strlen(text));
}

static bool
have(struct client *client, size_t size)
{
    while (client->in.size < size)
        if (!client_more(client))
            return false;
    return true;
}

/* Its first byte; 0: the connection has ended. */
static int
next_frame(struct client *client, struct muster_buf *out)
{
    const unsigned char *at;
    size_t size, head = 2, i;
    int first;

    muster_buf_clear(out);
    if (!have(client, 2))
        return 0;
    at = (const unsigned char *)client->in.data;
    cr_assert((at[1] & 0x80) == 0, "masked by the server");
    first = at[0];
    size = at[1];
    if (size >= 126) {
        head = size == 126 ? 4 : 10;
        if (!have(client, head))
            return 0;
        at = (const unsigned char *)client->in.data;
        for (size = 0, i = 2; i < head; i++)
            size = size << 8 | at[i];
    }
    if (!have(client, head + size))
        return 0;
    muster_buf_add(out, client->in.data + head, size);
    muster_buf_shift(&client->in, head + size);
    return first;
}

/* The next text, "" when there is none any more; pings are answered. */
static const char *
next_text(struct client *client)
{
    static struct muster_buf text;
    int first;

    while ((first = next_frame(client, &text)) != 0 && first != (FIN | TEXT))
        if (first == (FIN | PING))
            send_frame(client, FIN | PONG, text.data, text.size);
    return first ? text.data : "";
}

static void
expect_text(struct client *client, const char *expected)
{
    const char *text = next_text(client);

    cr_assert_str_eq(text, expected, "%s, not %s", text, expected);
}

/* The next event, by its number. */
static void
expect_event(struct client *client, int64_t seq)
{
    const char *text = next_text(client);

    cr_assert_eq(atoll(text), seq, "'%.100s', not %lld", text, (long long)seq);
}

/* These, in any order: only those of one thing that is followed have one. */
static void
expect_events(struct client *client, const int64_t *seqs, size_t count)
{
    size_t left = count, i;
    bool seen[16] = {false};

    for (; left > 0; left--) {
        const char *text = next_text(client);

        for (i = 0; i < count && (seen[i] || atoll(text) != seqs[i]); i++)
            ;
        cr_assert_lt(i, count, "'%.100s'", text);
        seen[i] = true;
    }
}

/* The server closes with this code, which the client answers; then the connection ends. */
static void
expect_close(struct client *client, int code)
{
    struct muster_buf text = {0};
    int first;

    while ((first = next_frame(client, &text)) != 0 && first != (FIN | CLOSE))
        ;
    cr_assert_eq(first, FIN | CLOSE, "no close frame");
    cr_assert_geq(text.size, 2);
    cr_assert_eq((unsigned char)text.data[0] << 8 | (unsigned char)text.data[1], code, "%d %s",
                 (unsigned char)text.data[0] << 8 | (unsigned char)text.data[1], text.data + 2);
    send_frame(client, FIN | CLOSE, text.data, 2);
    cr_assert_eq(next_frame(client, &text), 0, "nothing follows");
    muster_buf_free(&text);
    client_close(client);
}

static void
ask_upgrade(struct client *client, const char *key, const char *more)
{
    client_say(client, "GET /socket HTTP/1.1\r\nHost: x\r\n" UPGRADE "%s", more ? more : "");
    if (key)
        client_say(client, "Authorization: Bearer %s\r\n", key);
    client_say(client, "\r\n");
}

static struct client
open_small(const char *key, const char *more, int receive_bytes)
{
    struct client client = client_open_small(&rig, receive_bytes);

    ask_upgrade(&client, key, more);
    cr_assert(client_answer(&client, &answer));
    cr_assert_eq(answer.status, 101, "%d %s", answer.status, answer.body.data);
    return client;
}

static struct client
open_socket(void)
{
    return open_small(ADMIN_KEY, NULL, 0);
}

/* ---- the handshake -------------------------------------------------------------------------------------------------- */

static void
expect_header(const char *name, const char *expected)
{
    char value[256] = "-";

    (void)answer_header(&answer, name, value, sizeof value);
    cr_expect_str_eq(value, expected, "%s: %s", name, value);
}

Test(socket, the_handshake_is_that_of_the_rfc)
{
    struct client client = open_small(ADMIN_KEY, "Sec-WebSocket-Protocol: other, muster\r\nX-Request-Id: r-1\r\n", 0);

    expect_header("Upgrade", "websocket");
    expect_header("Connection", "Upgrade");
    expect_header("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    expect_header("Sec-WebSocket-Protocol", "muster");
    expect_header("X-Request-Id", "r-1");
    expect_header("Content-Length", "-");
    expect_header("Content-Type", "-");
    tell(&client, "hello");
    expect_text(&client, "echo:5:hello");
    client_close(&client);
    client = open_small(ADMIN_KEY, "Sec-WebSocket-Protocol: other\r\n", 0);
    expect_header("Sec-WebSocket-Protocol", "-");
    client_close(&client);
}

static int
status_of(const char *method, const char *path, const char *key, const char *headers, const char *body)
{
    return request_text(&rig, &answer, method, path, key, headers, body);
}

Test(socket, what_is_no_upgrade_is_told_what_is_needed)
{
    struct client client;

    cr_expect_eq(status_of("GET", "/socket", ADMIN_KEY, NULL, NULL), 426);
    expect_header("Upgrade", "websocket");
    expect_header("Sec-WebSocket-Version", "13");
    cr_expect(answer_has(&answer, "\"code\":\"INVALID_REQUEST\""));
    cr_expect_eq(status_of("GET", "/socket", NULL, NULL, NULL), 426, "also without a key");
    cr_expect_eq(status_of("GET", "/socket", ADMIN_KEY,
                           "Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                           NULL),
                 426);
    cr_expect_eq(status_of("GET", "/socket", ADMIN_KEY,
                           "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"
                           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                           NULL),
                 426);
    cr_expect_eq(status_of("GET", "/socket", ADMIN_KEY,
                           "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", NULL),
                 400);
    cr_expect_eq(status_of("GET", "/socket", ADMIN_KEY,
                           "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                           "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n",
                           NULL),
                 400);
    cr_expect_eq(status_of("GET", "/socket", ADMIN_KEY, UPGRADE, "x"), 400);
    cr_expect_eq(status_of("POST", "/socket", ADMIN_KEY, UPGRADE, NULL), 405);
    client = client_open(&rig);
    client_say(&client, "GET /socket HTTP/1.0\r\nHost: x\r\n" UPGRADE "Authorization: Bearer " ADMIN_KEY "\r\n\r\n");
    cr_assert(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 426, "not for HTTP/1.0");
    client_close(&client);
    cr_expect_eq(status_of("GET", "/health", NULL, UPGRADE, NULL), 200, "elsewhere an upgrade is not asked for");
}

Test(socket, a_credential_of_the_upgrade_is_checked_before_it)
{
    struct client client;

    cr_expect_eq(status_of("GET", "/socket", "wrong", UPGRADE, NULL), 401);
    cr_expect_eq(status_of("GET", "/socket?api_key=wrong", NULL, UPGRADE, NULL), 401);
    cr_expect_eq(
        status_of("GET", "/socket", NULL, UPGRADE "Sec-WebSocket-Protocol: muster, muster.key.wrong\r\n", NULL), 401);
    cr_expect_eq(status_of("GET", "/socket", READER_KEY, UPGRADE, NULL), 403);
    cr_expect_eq(status_of("GET", "/socket", SPENT_KEY, UPGRADE, NULL), 429, "the upgrade counts");
    client = open_small(NULL, "Sec-WebSocket-Protocol: muster.key." ADMIN_KEY ", muster\r\n", 0);
    expect_header("Sec-WebSocket-Protocol", "muster");
    tell(&client, "key");
    expect_text(&client, "key 1 admin");
    client_close(&client);
}

/* civetweb has read them together with the head, and skipped white space in front of it: nobody can say which bytes of
 * its buffer are the client's. */
Test(socket, an_upgrade_with_more_than_its_head_is_refused)
{
    static const char head[] =
        "GET /socket HTTP/1.1\r\nHost: x\r\n" UPGRADE "Authorization: Bearer " ADMIN_KEY "\r\n\r\n";
    static const char *const fronts[] = {"", "\r\n", "                    "};
    struct muster_buf bytes = {0};
    struct client client;
    size_t i;

    for (i = 0; i < 4; i++) {
        client = client_open(&rig);
        muster_buf_clear(&bytes);
        muster_buf_printf(&bytes, "%s%s", fronts[i % 3], head);
        if (i != 2) /* white space alone, too */
            add_frame(&bytes, FIN | TEXT, "early", 5);
        cr_assert(client_send(&client, bytes.data, bytes.size));
        cr_assert(client_answer(&client, &answer));
        cr_expect_eq(answer.status, 400, "%zu", i);
        cr_expect_eq(recv(client.fd, &(char){0}, 1, 0), 0, "closed");
        client_close(&client);
    }
    muster_buf_free(&bytes);
}

Test(socket, a_connection_that_served_requests_can_be_upgraded)
{
    struct client client = client_open(&rig);
    int i;

    for (i = 0; i < 3; i++) {
        client_say(&client, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        cr_assert(client_answer(&client, &answer));
        cr_assert_eq(answer.status, 200);
    }
    ask_upgrade(&client, ADMIN_KEY, NULL);
    cr_assert(client_answer(&client, &answer));
    cr_assert_eq(answer.status, 101);
    tell(&client, "hello");
    expect_text(&client, "echo:5:hello");
    client_close(&client);
}

Test(socket, more_sockets_than_may_be_are_503)
{
    struct client clients[8], late = client_open(&rig);
    size_t i;

    for (i = 0; i < 8; i++)
        clients[i] = open_socket();
    await_metric("muster_http_sockets 8\n");
    cr_expect(answer_has(&answer, "muster_http_streams 0\n"));
    ask_upgrade(&late, ADMIN_KEY, NULL);
    cr_assert(client_answer(&late, &answer));
    cr_expect_eq(answer.status, 503);
    client_close(&late);
    client_close(&clients[0]);
    await_metric("muster_http_sockets 7\n");
    clients[0] = open_socket();
    for (i = 0; i < 8; i++)
        client_close(&clients[i]);
    await_metric("muster_http_sockets 0\n");
}

/* ---- messages ------------------------------------------------------------------------------------------------------- */

Test(socket, messages_come_whole_whatever_the_frames)
{
    struct client client = open_socket();
    struct muster_buf text = {0};
    size_t i;

    send_frame(&client, TEXT, "one ", 4);
    send_frame(&client, FIN | PING, "between", 7);
    send_frame(&client, 0, "", 0);
    send_frame(&client, 0, "\xe2\x82", 2); /* a character in two pieces */
    send_frame(&client, FIN, "\xac", 1);
    cr_assert_eq(next_frame(&client, &text), FIN | PONG, "control frames do not wait");
    cr_expect_str_eq(text.data, "between");
    expect_text(&client, "echo:7:one \xe2\x82\xac");
    tell(&client, "");
    expect_text(&client, "echo:0:");
    muster_buf_clear(&text);
    add_frame(&text, FIN | TEXT, "slowly", 6);
    for (i = 0; i < text.size; i++) /* a byte a segment */
        cr_assert(client_send(&client, text.data + i, 1));
    expect_text(&client, "echo:6:slowly");
    client_close(&client);
    muster_buf_free(&text);
}

Test(socket, many_messages_and_large_ones_are_taken_in_order)
{
    struct client client = open_socket();
    char *text = muster_alloc(65537), expected[160];
    int i;

    memset(text, 'x', 65536);
    send_frame(&client, FIN | TEXT, text, 65536); /* max_body */
    snprintf(expected, sizeof expected, "echo:65536:%.100s", text);
    expect_text(&client, expected);
    for (i = 0; i < 3000; i++) {
        snprintf(expected, sizeof expected, "number %d", i);
        tell(&client, expected);
        if (i % 100 != 99)
            continue;
        for (int k = i - 99; k <= i; k++) {
            char words[64];

            snprintf(words, sizeof words, "number %d", k);
            snprintf(expected, sizeof expected, "echo:%zu:%s", strlen(words), words);
            expect_text(&client, expected);
        }
    }
    client_close(&client);
    free(text);
    await_metric("muster_http_socket_messages_total 3001\n");
}

Test(socket, a_message_may_ask_actors)
{
    struct client client = open_socket();
    int i;

    for (i = 0; i < 3; i++) {
        tell(&client, "ask log");
        expect_text(&client, "ask ok");
    }
    cr_expect_eq(rig.flushes, 3);
    client_close(&client);
}

Test(socket, messages_are_counted_one_by_one)
{
    struct client client = open_small(NULL, NULL, 0);
    int taken;

    tell(&client, "login " SPENT_KEY);
    expect_text(&client, "login OK  spent");
    taken = rig.taken;
    tell(&client, "count");
    expect_text(&client, "count RATE_LIMITED Rate limit exceeded 7");
    tell(&client, "count");
    expect_text(&client, "count RATE_LIMITED Rate limit exceeded 7");
    cr_expect_eq(rig.taken, taken + 2);
    tell(&client, "login " ADMIN_KEY);
    expect_text(&client, "login OK  admin");
    tell(&client, "count");
    expect_text(&client, "count OK  0");
    client_close(&client);
}

/* ---- who it is ------------------------------------------------------------------------------------------------------ */

Test(socket, the_credential_may_come_in_a_message)
{
    struct client client = open_small(NULL, NULL, 0);

    tell(&client, "key");
    expect_text(&client, "key 0 -");
    tell(&client, "login wrong");
    expect_text(&client, "login UNAUTHORIZED Invalid API key -");
    tell(&client, "login " READER_KEY);
    cr_expect(strncmp(next_text(&client), "login FORBIDDEN ", 16) == 0);
    tell(&client, "key");
    expect_text(&client, "key 0 -");
    tell(&client, "login " BACKEND_KEY);
    expect_text(&client, "login OK  team");
    tell(&client, "login wrong");
    expect_text(&client, "login UNAUTHORIZED Invalid API key -");
    tell(&client, "key");
    expect_text(&client, "key 1 team");
    client_close(&client);
    await_metric("muster_http_sockets 0\n");
}

Test(socket, a_stranger_may_not_send_much)
{
    struct client client = open_small(NULL, NULL, 0);
    char *text = muster_alloc(20001);

    memset(text, 'x', 20000);
    send_frame(&client, FIN | TEXT, text, 20000);
    expect_close(&client, 1009);
    client = open_small(NULL, NULL, 0);
    tell(&client, "login " ADMIN_KEY);
    expect_text(&client, "login OK  admin");
    send_frame(&client, FIN | TEXT, text, 20000);
    cr_expect(strncmp(next_text(&client), "echo:20000:", 11) == 0);
    client_close(&client);
    free(text);
}

static void
open_impatient(void)
{
    open_with("http:\n  listen: [127.0.0.1:0]\n  threads: 24\n  max_sockets: 8\n  max_waiting: 8\n  heartbeat: 100ms\n"
              "  auth_timeout: 200ms\n  max_follows: 2\n");
}

TestSuite(impatient, .init = open_impatient, .fini = close_rig, .timeout = 60);

Test(impatient, who_does_not_say_who_it_is_is_closed)
{
    struct client client = open_small(NULL, NULL, 0);

    expect_close(&client, 1008);
}

Test(impatient, who_answers_pings_stays_and_who_does_not_is_closed)
{
    struct client lively = open_socket(), dead = open_socket();
    struct muster_buf text = {0};
    int i;

    for (i = 0; i < 8; i++) {
        cr_assert_eq(next_frame(&lively, &text), FIN | PING);
        send_frame(&lively, FIN | PONG, text.data, text.size);
    }
    expect_close(&dead, 1008);
    tell(&lively, "still here");
    expect_text(&lively, "echo:10:still here");
    client_close(&lively);
    muster_buf_free(&text);
}

Test(impatient, a_key_that_is_no_longer_good_ends_it)
{
    struct client client = open_socket();

    tell(&client, "hello");
    expect_text(&client, "echo:5:hello");
    muster_board_publish(rig.bus, MUSTER_KEYS_BOARD, keys_new(NULL, 0), keys_free);
    expect_close(&client, 1008);
}

/* ---- following ------------------------------------------------------------------------------------------------------ */

static void
follow_job(struct client *client, const struct muster_id *id, const char *after)
{
    char text[MUSTER_ID_TEXT], words[128];

    muster_id_text(id, text);
    snprintf(words, sizeof words, "follow job %s %s", text, after);
    tell(client, words);
}

static void
unfollow_job(struct client *client, const struct muster_id *id)
{
    char text[MUSTER_ID_TEXT], words[128];

    muster_id_text(id, text);
    snprintf(words, sizeof words, "unfollow job %s", text);
    tell(client, words);
}

/* It is on disk before, as what is settled always is. */
static void
publish_of(const char *team, const struct muster_id *id, int64_t seq, int64_t settled)
{
    struct muster_buf body = {0};
    struct event event;

    make_event(&body, id, seq, "text", false, &event);
    event.team = team;
    store_events(&rig, &event, 1);
    rig.settled = settled;
    publish_settled(&rig, &event, settled);
    muster_buf_free(&body);
}

static void
publish_final(const struct muster_id *id, int64_t seq)
{
    store_chunks(&rig, id, seq, seq, "", true);
    rig.settled = seq;
    publish_text(&rig, id, seq, "", true);
}

Test(socket, several_things_are_followed_on_one_connection)
{
    struct client client = open_socket(), second = open_socket();
    struct muster_id third = muster_id_new(1002);

    follow_job(&client, &job, "");
    expect_text(&client, "follow OK");
    follow_job(&client, &job, "");
    expect_text(&client, "follow EXISTS");
    follow_job(&client, &other, "");
    expect_text(&client, "follow OK");
    tell(&client, "follow team frontend");
    expect_text(&client, "follow OK");
    follow_job(&second, &other, "");
    expect_text(&second, "follow OK");
    publish_of("backend", &job, 1, 1);
    publish_of("backend", &other, 2, 2);
    publish_of("backend", &third, 3, 3);
    publish_of("frontend", &third, 4, 4);
    publish_final(&job, 5);
    publish_of("backend", &job, 6, 6); /* it has ended: never */
    publish_of("frontend", &third, 7, 7);
    expect_events(&client, (const int64_t[]){1, 2, 4, 5, 7}, 5);
    expect_event(&second, 2);
    unfollow_job(&client, &other);
    expect_text(&client, "unfollow 1");
    unfollow_job(&client, &other);
    expect_text(&client, "unfollow 0");
    publish_of("backend", &other, 8, 8);
    publish_of("frontend", &third, 9, 9);
    expect_event(&client, 9);
    expect_event(&second, 8);
    client_close(&client);
    client_close(&second);
    await_metric("muster_http_sockets 0\n");
}

Test(socket, the_direct_answer_comes_before_the_events)
{
    struct client client = open_socket();

    store_chunks(&rig, &job, 1, 500, "some text, so that there is something to send", false);
    rig.settled = 500;
    follow_job(&client, &job, "0");
    expect_text(&client, "follow OK");
    for (int64_t seq = 1; seq <= 500; seq++)
        expect_event(&client, seq);
    tell(&client, "follow team backend 498");
    expect_text(&client, "follow OK");
    publish_of("backend", &job, 501, 501);
    expect_event(&client, 501); /* 499 and 500 came by the job's own way */
    client_close(&client);
}

Test(impatient, as_much_is_followed_as_the_options_say)
{
    struct client client = open_socket();

    follow_job(&client, &job, "");
    expect_text(&client, "follow OK");
    tell(&client, "follow team backend");
    expect_text(&client, "follow OK");
    tell(&client, "follow team frontend");
    expect_text(&client, "follow OVERLOADED");
    publish_final(&job, 1);
    expect_event(&client, 1);
    do
        tell(&client, "follow team frontend"); /* its place is free when its thread has looked */
    while (strcmp(next_text(&client), "follow OVERLOADED") == 0);
    client_close(&client);
}

/* ---- a job and its team --------------------------------------------------------------------------------------------- */

Test(socket, a_job_and_its_team_are_told_once_and_in_order)
{
    struct client client = open_socket();

    follow_job(&client, &job, "");
    expect_text(&client, "follow OK");
    publish_of("backend", &job, 2, 0); /* 1 is on its way: the job alone does not wait for it */
    expect_event(&client, 2);
    tell(&client, "follow team backend");
    expect_text(&client, "follow OK");
    publish_of("backend", &job, 4, 0);
    publish_of("backend", &other, 1, 2);
    expect_event(&client, 1); /* and not 2, which was seen */
    publish_of("backend", &other, 3, 5);
    expect_event(&client, 3);
    expect_event(&client, 4);
    publish_of("backend", &job, 5, 5);
    expect_event(&client, 5);
    publish_final(&job, 6);
    expect_event(&client, 6);
    publish_of("backend", &other, 7, 7);
    expect_event(&client, 7);
    client_close(&client);
}

Test(socket, a_job_goes_on_alone_when_its_team_is_no_longer_followed)
{
    struct client client = open_socket();

    follow_job(&client, &job, "");
    expect_text(&client, "follow OK");
    tell(&client, "follow team backend");
    expect_text(&client, "follow OK");
    publish_of("backend", &job, 1, 1);
    expect_event(&client, 1);
    publish_of("backend", &other, 4, 4);
    expect_event(&client, 4);
    publish_of("backend", &job, 6, 4); /* held back: 5 is on its way */
    publish_of("backend", &job, 7, 4);
    tell(&client, "unfollow team backend");
    expect_text(&client, "unfollow 1");
    expect_event(&client, 6);
    expect_event(&client, 7);
    publish_of("backend", &other, 5, 7);
    publish_of("backend", &job, 8, 8);
    expect_event(&client, 8);
    client_close(&client);
}

Test(socket, a_job_is_resumed_beside_its_team)
{
    struct client client = open_socket();

    store_chunks(&rig, &job, 1, 9, "x", false);
    rig.settled = 9;
    tell(&client, "follow team backend 6");
    expect_text(&client, "follow OK");
    expect_event(&client, 7);
    expect_event(&client, 8);
    expect_event(&client, 9);
    follow_job(&client, &job, "3");
    expect_text(&client, "follow OK");
    expect_event(&client, 4); /* what the team has not told */
    expect_event(&client, 5);
    expect_event(&client, 6);
    publish_of("backend", &job, 10, 10);
    expect_event(&client, 10);
    publish_final(&job, 11);
    expect_event(&client, 11);
    publish_of("backend", &other, 12, 12);
    expect_event(&client, 12);
    client_close(&client);
}

/* Random jobs and numbers out of order, follows of jobs and of the team that come and go: whatever is told is told
 * once, and nothing of a followed job is missing. */
Test(socket, each_event_of_a_followed_job_comes_once_whatever_else_is_followed)
{
    enum { ROUNDS = 300, JOBS = 4 };
    struct client client = open_socket();
    struct muster_id ids[JOBS];
    bool seen[ROUNDS * 3 + 2] = {false}, team = false;
    int64_t seq = 1, k;
    unsigned random = 12345;
    const char *text;
    size_t i;

    for (i = 0; i < JOBS; i++) {
        ids[i] = muster_id_new(2000 + (int64_t)i);
        follow_job(&client, &ids[i], "");
        expect_text(&client, "follow OK");
    }
    for (i = 0; i < ROUNDS; i++, seq += 3) {
        const struct muster_id *a = &ids[random >> 16 & 3], *b = &ids[(random >> 18 & 3)];

        random = random * 1103515245 + 12345;
        publish_of("backend", a, seq + 1, seq - 1);
        publish_of("backend", a, seq + 2, seq - 1);
        if ((random >> 20 & 7) == 0) {
            tell(&client, team ? "unfollow team backend" : "follow team backend");
            team = !team;
        }
        if (b == a)
            b = &ids[(size_t)(b - ids + 1) % JOBS];
        publish_of("backend", b, seq, seq + 2);
    }
    tell(&client, "done");
    for (k = 0; k < ROUNDS * 3;) {
        text = next_text(&client);
        cr_assert(*text != '\0', "ended after %lld", (long long)k);
        if (atoll(text) == 0)
            continue;
        cr_assert_not(seen[atoll(text)], "%s came twice", text);
        seen[atoll(text)] = true;
        k++;
    }
    client_close(&client);
}

/* ---- the end -------------------------------------------------------------------------------------------------------- */

Test(socket, a_client_that_says_goodbye_is_answered)
{
    struct client client = open_socket();
    struct muster_buf text = {0};

    send_frame(&client, FIN | CLOSE,
               "\x03\xe8"
               "bye",
               5);
    cr_assert_eq(next_frame(&client, &text), FIN | CLOSE);
    cr_expect_eq((unsigned char)text.data[0] << 8 | (unsigned char)text.data[1], 1000);
    cr_expect(client_is_closed(&client));
    client_close(&client);
    client = open_socket();
    send_frame(&client, FIN | CLOSE, "", 0);
    cr_assert_eq(next_frame(&client, &text), FIN | CLOSE);
    cr_expect(client_is_closed(&client));
    client_close(&client);
    muster_buf_free(&text);
}

Test(socket, a_dialect_may_close)
{
    struct client client = open_socket();

    tell(&client, "close 4001 enough");
    tell(&client, "not heard any more");
    expect_close(&client, 4001);
}

static void
expect_refused(const char *bytes, size_t size, int code)
{
    struct client client = open_socket();

    cr_assert(client_send(&client, bytes, size));
    expect_close(&client, code);
}

Test(socket, what_is_against_the_protocol_is_closed_with_its_code)
{
    struct client client = open_socket();
    struct muster_buf deep = {0};
    int i;

    send_frame(&client, FIN | BINARY, "{}", 2);
    expect_close(&client, 1003);
    client = open_socket();
    send_frame(&client, FIN | TEXT, "\xff\xfe", 2);
    expect_close(&client, 1007);
    client = open_socket();
    send_frame(&client, FIN | TEXT, "\xe2\x82", 2); /* ends in the middle of a character */
    expect_close(&client, 1007);
    for (i = 0; i < 65; i++)
        muster_buf_str(&deep, "[");
    client = open_socket();
    tell(&client, deep.data);
    expect_close(&client, 1008);
    client = open_socket();
    tell(&client, deep.data + 1);
    cr_expect(strncmp(next_text(&client), "echo:64:[[", 10) == 0);
    client_close(&client);
    expect_refused("\x81\x02hi", 4, 1002);                                         /* not masked */
    expect_refused("\xc1\x80mask", 6, 1002);                                       /* of an extension */
    expect_refused("\x83\x80mask", 6, 1002);                                       /* no such opcode */
    expect_refused("\x80\x80mask", 6, 1002);                                       /* a continuation of nothing */
    expect_refused("\x09\x80mask", 6, 1002);                                       /* a ping in pieces */
    expect_refused("\x89\xfe\x00\x7emask", 8, 1002);                               /* a long ping */
    expect_refused("\x81\xff\x00\x00\x01\x00\x00\x00\x00\x00mask", 14, 1009);      /* announced */
    expect_refused("\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00mask", 14, 1009);      /* a length that cannot be */
    expect_refused("GET / HTTP/1.1\r\nHost: x\r\n\r\nAnd this goes on", 44, 1002); /* not a frame at all */
    muster_buf_free(&deep);
}

Test(socket, a_message_larger_than_a_body_may_be_is_closed)
{
    struct client client = open_socket();
    char *text = muster_alloc(40000);
    int i;

    memset(text, 'x', 40000);
    send_frame(&client, TEXT, text, 40000);
    send_frame(&client, FIN, text, 40000);
    expect_close(&client, 1009);
    client = open_socket();
    send_frame(&client, TEXT, "x", 1);
    for (i = 0; i < 5000; i++)
        send_frame(&client, 0, "x", 1);
    expect_close(&client, 1002);
    free(text);
}

Test(socket, a_client_that_leaves_is_seen_at_once)
{
    struct client client = open_socket();

    follow_job(&client, &job, "");
    expect_text(&client, "follow OK");
    await_metric("muster_http_sockets 1\n");
    client_close(&client);
    await_metric("muster_http_sockets 0\n");
    client = open_socket();
    send_frame(&client, TEXT, "half a mess", 11);
    client_close(&client);
    await_metric("muster_http_sockets 0\n");
}

static void
open_patient(void)
{
    open_with("http:\n  listen: [127.0.0.1:0]\n  threads: 24\n  max_sockets: 8\n  max_waiting: 8\n"
              "  request_timeout: 30s\n  max_backlog: 64KiB\n");
}

TestSuite(patient, .init = open_patient, .fini = close_rig, .timeout = 60);

Test(patient, a_slow_reader_is_closed_and_its_neighbour_gets_everything)
{
    struct client slow = open_small(ADMIN_KEY, NULL, 4096), good = open_socket();
    int64_t seq = 0, read = 0;
    char text[8001];

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    follow_job(&slow, &job, "");
    expect_text(&slow, "follow OK");
    follow_job(&good, &job, "");
    expect_text(&good, "follow OK");
    while (seq < 2000) {
        for (int i = 0; i < 50; i++)
            publish_text(&rig, &job, ++seq, text, false);
        while (read < seq)
            expect_event(&good, ++read);
    }
    expect_close(&slow, 1013);
    await_metric("muster_http_streams_dropped_total 1\n");
    tell(&good, "well");
    expect_text(&good, "echo:4:well");
    client_close(&good);
}

Test(socket, stop_says_so_to_all_and_ends_what_waits)
{
    struct client clients[4], waiting = open_socket(), stranger = open_small(NULL, NULL, 0);
    size_t i;

    for (i = 0; i < 4; i++)
        clients[i] = open_socket();
    follow_job(&clients[1], &job, "");
    expect_text(&clients[1], "follow OK");
    tell(&waiting, "ask silent");
    await_metric("muster_http_socket_messages_total 2\n");
    for (i = 0; i < 4; i++)
        shutdown(clients[i].fd, i == 3 ? SHUT_WR : -1);
    http_server_stop(&rig.server);
    for (i = 0; i < 3; i++)
        expect_close(&clients[i], 1001);
    expect_close(&stranger, 1001);
    cr_expect(strncmp(next_text(&waiting), "ask SHUTTING_DOWN", 17) == 0);
    expect_close(&waiting, 1001);
    client_close(&clients[3]);
}
