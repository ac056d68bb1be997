/* SPDX-License-Identifier: MPL-2.0 */
/* Outbound HTTP against a small server in this process. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "transport/fetch.h"
#include "transport/muster_fetch.h"

/* ---- server ------------------------------------------------------------------------------------------------------ */

/* Answers each connection with `answer`, keeps what it was sent, and hangs up.  With no answer it says nothing until it
 * is stopped. */
struct server {
    int listener;
    int port;
    pthread_t thread;
    const char *answer;
    size_t answer_size;
    size_t repeat; /* send `answer` that often; 0: once */
    bool keep;     /* serve several requests on a connection */
    atomic_int connections;
    char request[65536]; /* the last one */
    size_t request_size;
};

/* One request with its body; false when the client hung up. */
static bool
read_request(struct server *server, int fd)
{
    server->request_size = 0;
    for (;;) {
        char *end, *length;
        ssize_t got =
            recv(fd, server->request + server->request_size, sizeof server->request - 1 - server->request_size, 0);

        if (got <= 0)
            return false;
        server->request_size += (size_t)got;
        server->request[server->request_size] = '\0';
        end = strstr(server->request, "\r\n\r\n");
        if (!end)
            continue;
        length = strstr(server->request, "Content-Length: ");
        if ((size_t)(end + 4 - server->request) + (length ? strtoul(length + 16, NULL, 10) : 0) <= server->request_size)
            return true;
    }
}

static void *
serve(void *arg)
{
    struct server *server = arg;
    char rest[100];
    int fd;

    while ((fd = accept(server->listener, NULL, NULL)) != -1) {
        bool good = true;

        atomic_fetch_add(&server->connections, 1);
        while (good && read_request(server, fd)) {
            for (size_t i = 0; good && server->answer && i < (server->repeat ? server->repeat : 1); i++)
                good = send(fd, server->answer, server->answer_size, MSG_NOSIGNAL) > 0;
            if (!server->keep)
                break;
        }
        if (server->answer)
            shutdown(fd, SHUT_WR);
        while (recv(fd, rest, sizeof rest, 0) > 0)
            continue;
        close(fd);
    }
    return NULL;
}

static void
server_start(struct server *server, const char *answer)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;

    server->answer = answer;
    server->answer_size = answer ? strlen(answer) : 0;
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(server->listener, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(listen(server->listener, 100), 0);
    cr_assert_eq(getsockname(server->listener, (struct sockaddr *)&address, &size), 0);
    server->port = ntohs(address.sin_port);
    cr_assert_eq(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void
server_stop(struct server *server)
{
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->thread, NULL);
    close(server->listener);
}

/* ---- one request on this thread ---------------------------------------------------------------------------------- */

static char url[128];
static char problem[300];

static struct muster_fetch_spec
spec_for(const struct server *server, const char *method)
{
    snprintf(url, sizeof url, "http://127.0.0.1:%d/path?x=1", server->port);
    return (struct muster_fetch_spec){
        .method = method, .url = url, .timeout_ms = 20000, .max_answer = 1000, .allow_private = true};
}

Test(fetch_now, request_and_answer_arrive_whole)
{
    static struct server server;
    const struct muster_pair headers[] = {
        {"X-Key", "secret value"}, {"X-Empty", ""}, {"Content-Type", "application/json"}};
    struct muster_fetch_spec spec;
    struct muster_buf body = {0};
    long status = 0;

    server_start(&server, "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello");
    spec = spec_for(&server, "POST");
    spec.headers = headers;
    spec.header_count = 3;
    spec.body = "{\"a\":1}";
    spec.body_size = 7;
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, &body, problem, sizeof problem), MUSTER_OK, "%s",
                 problem);
    cr_assert_eq(status, 201);
    cr_assert_str_eq(body.data, "hello");
    cr_assert_eq(strncmp(server.request, "POST /path?x=1 HTTP/1.1\r\n", 25), 0);
    cr_assert(strstr(server.request, "\r\nX-Key: secret value\r\n"));
    cr_assert(strstr(server.request, "\r\nX-Empty:"));
    cr_assert(strstr(server.request, "\r\nContent-Type: application/json\r\n"));
    cr_assert(strstr(server.request, "\r\nUser-Agent: muster/" MUSTER_VERSION "\r\n"));
    cr_assert(!strstr(server.request, "Expect"));
    cr_assert(strstr(server.request, "\r\n\r\n{\"a\":1}"));
    muster_buf_free(&body);
    server_stop(&server);
}

Test(fetch_now, methods_send_what_they_should)
{
    static struct server server;
    struct muster_fetch_spec spec;
    long status = 0;

    server_start(&server, "HTTP/1.1 204 No Content\r\n\r\n");
    spec = spec_for(&server, "GET");
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, NULL, problem, sizeof problem), MUSTER_OK);
    cr_assert(strstr(server.request, "GET /path") && !strstr(server.request, "Content-"));
    spec = spec_for(&server, "POST");
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, NULL, problem, sizeof problem), MUSTER_OK);
    cr_assert(strstr(server.request, "POST /path") && strstr(server.request, "Content-Length: 0"));
    cr_assert(!strstr(server.request, "Content-Type"));
    spec = spec_for(&server, "DELETE");
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, NULL, problem, sizeof problem), MUSTER_OK);
    cr_assert(strstr(server.request, "DELETE /path"));
    spec = spec_for(&server, "HEAD");
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, NULL, problem, sizeof problem), MUSTER_OK);
    cr_assert(strstr(server.request, "HEAD /path"));
    cr_assert_eq(status, 204);
    server_stop(&server);
}

static void
expect_unsendable(const struct muster_fetch_spec *spec, const char *why)
{
    struct muster_buf body = {0};
    long status = 12;

    cr_assert_eq(muster_fetch_now(spec, NULL, NULL, &status, &body, problem, sizeof problem), MUSTER_GONE);
    cr_assert(strstr(problem, why), "%s", problem);
    cr_assert_eq(status, 12, "outputs are written on success only");
    cr_assert_null(body.data);
}

Test(fetch_now, what_could_smuggle_is_not_sent)
{
    static struct server server;
    struct muster_pair header = {"X-Key", "one\r\nX-Other: two"};
    struct muster_fetch_spec spec;

    server_start(&server, "HTTP/1.1 204 No Content\r\n\r\n");
    spec = spec_for(&server, "POST");
    spec.headers = &header;
    spec.header_count = 1;
    expect_unsendable(&spec, "header");
    header = (struct muster_pair){"X-Key: x\r\nX-Other", "two"};
    expect_unsendable(&spec, "header");
    header = (struct muster_pair){"", "two"};
    expect_unsendable(&spec, "header");
    spec = spec_for(&server, "GET / HTTP/1.1\r\nX: y\r\n\r\nGET");
    expect_unsendable(&spec, "method");
    cr_assert_eq(atomic_load(&server.connections), 0);
    spec = spec_for(&server, "GET");
    spec.url = "file:///etc/passwd";
    expect_unsendable(&spec, "rotocol");
    spec.url = "not a url";
    expect_unsendable(&spec, "");
    cr_assert_neq(problem[0], '\0');
    server_stop(&server);
}

Test(fetch_now, silent_server_times_out)
{
    static struct server server;
    struct muster_fetch_spec spec;
    long status = 0;

    server_start(&server, NULL);
    spec = spec_for(&server, "GET");
    spec.timeout_ms = 20;
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, NULL, problem, sizeof problem), MUSTER_TIMEOUT);
    cr_assert_neq(problem[0], '\0');
    server_stop(&server);
}

Test(fetch_now, refused_connection_is_gone)
{
    static struct server server;
    struct muster_fetch_spec spec;
    long status = 0;

    server_start(&server, NULL);
    spec = spec_for(&server, "GET");
    server_stop(&server);
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, NULL, problem, sizeof problem), MUSTER_GONE);
    cr_assert_neq(problem[0], '\0');
}

struct pieces {
    struct muster_buf all;
    long status;
    size_t enough; /* break off then; 0: never */
};

static bool
take_piece(void *arg, long status, const char *bytes, size_t size)
{
    struct pieces *pieces = arg;

    pieces->status = status;
    muster_buf_add(&pieces->all, bytes, size);
    return pieces->enough == 0 || pieces->all.size < pieces->enough;
}

Test(fetch_now, answer_streams_and_can_be_broken_off)
{
    static struct server server;
    static char answer[70000] = "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n";
    struct muster_fetch_spec spec;
    struct pieces pieces = {.enough = 0};
    struct muster_buf body = {0};
    size_t head = strlen(answer);
    long status = 0;

    memset(answer + head, 'a', 60000);
    server_start(&server, answer);
    spec = spec_for(&server, "GET");
    cr_assert_eq(muster_fetch_now(&spec, take_piece, &pieces, &status, &body, problem, sizeof problem), MUSTER_OK);
    cr_assert_eq(pieces.all.size, 60000);
    cr_assert_eq(pieces.status, 200);
    cr_assert_eq(body.size, 0, "all of it went to the callback");
    server_stop(&server);
    muster_buf_clear(&pieces.all);
    pieces.enough = 10;
    server_start(&server, answer);
    server.repeat = 1000000; /* more than it could ever send */
    spec = spec_for(&server, "GET");
    cr_assert_eq(muster_fetch_now(&spec, take_piece, &pieces, &status, &body, problem, sizeof problem),
                 MUSTER_CANCELLED);
    cr_assert_lt(pieces.all.size, 60000);
    muster_buf_free(&pieces.all);
    muster_buf_free(&body);
    server_stop(&server);
}

Test(fetch_now, private_addresses_are_refused)
{
    static struct server server;
    struct muster_fetch_spec spec;
    char named[64];
    long status = 0;

    server_start(&server, "HTTP/1.1 204 No Content\r\n\r\n");
    spec = spec_for(&server, "GET");
    spec.allow_private = false;
    expect_unsendable(&spec, "127.0.0.1 is private");
    snprintf(named, sizeof named, "http://localhost:%d/", server.port);
    spec.url = named;
    expect_unsendable(&spec, "is private");
    snprintf(named, sizeof named, "http://[::ffff:127.0.0.1]:%d/", server.port);
    expect_unsendable(&spec, "is private");
    snprintf(named, sizeof named, "http://0x7f000001:%d/", server.port);
    expect_unsendable(&spec, "is private");
    snprintf(named, sizeof named, "http://0:%d/", server.port);
    expect_unsendable(&spec, "is private");
    cr_assert_eq(atomic_load(&server.connections), 0);
    spec.allow_private = true;
    snprintf(named, sizeof named, "http://localhost:%d/", server.port);
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, NULL, problem, sizeof problem), MUSTER_OK, "%s", problem);
    server_stop(&server);
}

Test(fetch_now, proxies_of_the_environment_are_ignored)
{
    static struct server server;
    struct muster_fetch_spec spec = {.method = "GET", .url = "http://127.0.0.1:1/", .allow_private = true};
    char proxy[64];
    long status = 0;

    server_start(&server, "HTTP/1.1 204 No Content\r\n\r\n");
    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", server.port);
    setenv("http_proxy", proxy, 1);
    setenv("ALL_PROXY", proxy, 1);
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, NULL, problem, sizeof problem), MUSTER_GONE);
    cr_assert_eq(atomic_load(&server.connections), 0);
    server_stop(&server);
}

Test(fetch_address, special_addresses_are_known)
{
    static const char *const special[] = {"0.0.0.0",
                                          "10.1.2.3",
                                          "100.64.0.1",
                                          "100.127.255.255",
                                          "127.0.0.1",
                                          "127.255.255.255",
                                          "169.254.169.254",
                                          "172.16.0.1",
                                          "172.31.255.255",
                                          "192.0.0.1",
                                          "192.168.1.1",
                                          "198.18.0.1",
                                          "198.19.255.255",
                                          "224.0.0.1",
                                          "239.1.1.1",
                                          "240.0.0.1",
                                          "255.255.255.255",
                                          "::",
                                          "::1",
                                          "::127.0.0.1",
                                          "::ffff:10.0.0.1",
                                          "::ffff:127.0.0.1",
                                          "64:ff9b::192.168.0.1",
                                          "2002:7f00:1::",
                                          "fc00::1",
                                          "fdff::1",
                                          "fe80::1",
                                          "febf::1",
                                          "fec0::1",
                                          "ff02::1",
                                          "nonsense",
                                          ""};
    static const char *const public[] = {"1.1.1.1",         "9.255.255.255",   "11.0.0.0",         "100.63.255.255",
                                         "100.128.0.0",     "126.255.255.255", "128.0.0.0",        "169.253.255.255",
                                         "172.15.255.255",  "172.32.0.0",      "192.0.1.0",        "192.167.255.255",
                                         "192.169.0.0",     "198.17.255.255",  "198.20.0.0",       "223.255.255.255",
                                         "2606:4700::1111", "::ffff:1.1.1.1",  "64:ff9b::1.1.1.1", "2002:101:101::",
                                         "fbff::1",         "fe00::1"};

    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++)
        cr_assert(address_is_special(special[i]), "%s", special[i]);
    for (size_t i = 0; i < sizeof public / sizeof public[0]; i++)
        cr_assert(!address_is_special(public[i]), "%s", public[i]);
}

/* ---- many on a loop ---------------------------------------------------------------------------------------------- */

/* The actor starts a fetch for each message, which is the URL, and tells the test how it ended. */
struct actor {
    struct muster_bus *bus;
    struct muster_loop *loop;
    struct muster_runner *runner;
    struct muster_post *test;
    struct muster_fetcher *fetcher;
    bool allow_private;
    bool free_in_done;
    int64_t timeout_ms;
    size_t max_answer;
    const char *method;
};

static void
on_done(void *arg, const struct muster_fetch_result *result)
{
    struct actor *actor = arg;
    struct muster_buf buf = {0};

    cr_assert_eq(strlen(result->body), result->body_size);
    cr_assert_eq(result->status == 0, result->problem[0] != '\0');
    muster_buf_printf(&buf, "%ld %lld %s%s", result->status, (long long)result->retry_after_s, result->body,
                      result->problem);
    if (actor->free_in_done)
        muster_fetcher_free(&actor->fetcher);
    cr_assert_eq(muster_post_send(muster_loop_post(actor->loop), "test", &buf), MUSTER_OK);
}

static muster_err
begin(void *arg, struct muster_loop *loop)
{
    struct actor *actor = arg;

    actor->loop = loop;
    actor->fetcher = muster_fetcher_new(loop);
    return MUSTER_OK;
}

static void
on_frame(void *arg, const void *data, size_t size)
{
    struct actor *actor = arg;
    char *target = strndup(data, size);
    const struct muster_fetch_spec spec = {.method = actor->method,
                                           .url = target,
                                           .body = "{}",
                                           .body_size = 2,
                                           .timeout_ms = actor->timeout_ms,
                                           .max_answer = actor->max_answer,
                                           .allow_private = actor->allow_private};

    if (strcmp(target, "free") == 0)
        muster_fetcher_free(&actor->fetcher);
    else
        muster_fetch(actor->fetcher, &spec, on_done, actor);
    memset(target, '#', size); /* the request has its own copy */
    free(target);
}

static void
end(void *arg)
{
    struct actor *actor = arg;

    muster_fetcher_free(&actor->fetcher);
}

static const struct muster_runner_hooks hooks = {.begin = begin, .frame = on_frame, .end = end};

static void
open_actor(struct actor *actor)
{
    *actor = (struct actor){.allow_private = true, .timeout_ms = 20000, .max_answer = 1000, .method = "POST"};
    actor->bus = muster_bus_new();
    cr_assert_eq(muster_post_open(actor->bus, "test", 1000, &actor->test), MUSTER_OK);
    cr_assert_eq(muster_runner_start(actor->bus, "actor", 1000, &hooks, actor, &actor->runner), MUSTER_OK);
}

static void
close_actor(struct actor *actor)
{
    muster_runner_stop(&actor->runner);
    muster_post_close(&actor->test);
    muster_bus_free(&actor->bus);
}

static void
tell(struct actor *actor, const char *target)
{
    struct muster_buf buf = {0};

    muster_buf_str(&buf, target);
    cr_assert_eq(muster_post_send(actor->test, "actor", &buf), MUSTER_OK);
}

static void
fetch(struct actor *actor, const struct server *server)
{
    snprintf(url, sizeof url, "http://127.0.0.1:%d/hook", server->port);
    tell(actor, url);
}

static void
receive(struct actor *actor, char *content, size_t size)
{
    struct muster_frame frame;

    cr_assert_eq(muster_post_receive(actor->test, 20000, -1, &frame), MUSTER_OK);
    cr_assert_lt(frame.size, size);
    memcpy(content, frame.data, frame.size);
    content[frame.size] = '\0';
    muster_frame_free(&frame);
}

static void
expect(struct actor *actor, const char *expected)
{
    char content[2000];

    receive(actor, content, sizeof content);
    cr_assert_eq(strncmp(content, expected, strlen(expected)), 0, "expected %s, got %s", expected, content);
}

static void
expect_answer(const char *answer, const char *expected)
{
    static struct server server;
    struct actor actor;

    server = (struct server){0};
    server_start(&server, answer);
    open_actor(&actor);
    fetch(&actor, &server);
    expect(&actor, expected);
    close_actor(&actor);
    server_stop(&server);
}

Test(fetch, answers_are_told)
{
    expect_answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "200 -1 hello");
    expect_answer("HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad", "500 -1 bad");
    expect_answer("HTTP/1.1 204 Fine\r\n\r\n", "204 -1 ");
    expect_answer("garbage\r\n\r\n", "0 -1 ");
}

Test(fetch, retry_after_is_read_as_seconds_and_as_date)
{
    char answer[200], date[64], content[200];
    static struct server server;
    struct actor actor;
    time_t then = time(NULL) + 100;
    long seconds;

    expect_answer("HTTP/1.1 503 No\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n", "503 17 ");
    expect_answer("HTTP/1.1 429 No\r\nretry-after:0  \r\nContent-Length: 0\r\n\r\n", "429 0 ");
    expect_answer("HTTP/1.1 429 No\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n", "429 -1 ");
    expect_answer("HTTP/1.1 429 No\r\nRetry-After: 12 eggs\r\nContent-Length: 0\r\n\r\n", "429 -1 ");
    expect_answer("HTTP/1.1 429 No\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n", "429 31622400 ");
    expect_answer("HTTP/1.1 429 No\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n",
                  "429 0 ");
    expect_answer("HTTP/1.1 100 Continue\r\nRetry-After: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                  "200 -1 ");
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&then));
    snprintf(answer, sizeof answer, "HTTP/1.1 503 No\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n", date);
    server_start(&server, answer);
    open_actor(&actor);
    fetch(&actor, &server);
    receive(&actor, content, sizeof content);
    cr_assert_eq(sscanf(content, "503 %ld", &seconds), 1);
    cr_assert(seconds >= 80 && seconds <= 100, "%ld", seconds);
    close_actor(&actor);
    server_stop(&server);
}

Test(fetch, redirects_are_not_followed)
{
    static struct server target;
    char answer[200];

    server_start(&target, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    snprintf(answer, sizeof answer, "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n",
             target.port);
    expect_answer(answer, "302 -1 ");
    cr_assert_eq(atomic_load(&target.connections), 0);
    server_stop(&target);
}

Test(fetch, big_answer_is_cut)
{
    static struct server server;
    static char answer[5000] = "HTTP/1.1 200 OK\r\n\r\n";
    char content[2000];
    struct actor actor;

    memset(answer + strlen(answer), 'a', 4000);
    server_start(&server, answer);
    server.repeat = 1000000; /* more than it could ever send */
    open_actor(&actor);
    fetch(&actor, &server);
    receive(&actor, content, sizeof content);
    cr_assert_eq(strncmp(content, "200 -1 aaaa", 11), 0);
    cr_assert_eq(strlen(content), 7 + 1000);
    close_actor(&actor);
    server_stop(&server);
}

Test(fetch, failures_are_told)
{
    static struct server silent, closed;
    struct actor actor;

    server_start(&silent, NULL);
    server_start(&closed, NULL);
    server_stop(&closed);
    open_actor(&actor);
    actor.timeout_ms = 20;
    fetch(&actor, &silent);
    expect(&actor, "0 -1 ");
    actor.timeout_ms = 20000;
    fetch(&actor, &closed);
    expect(&actor, "0 -1 ");
    tell(&actor, "gopher://127.0.0.1/");
    expect(&actor, "0 -1 ");
    actor.allow_private = false;
    fetch(&actor, &silent);
    expect(&actor, "0 -1 The address 127.0.0.1 is private");
    actor.method = "not a method";
    fetch(&actor, &silent);
    expect(&actor, "0 -1 The method cannot be sent");
    close_actor(&actor);
    server_stop(&silent);
}

Test(fetch, connections_are_used_again_but_not_for_those_who_must_not)
{
    static struct server server;
    struct actor actor;

    server_start(&server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    server.keep = true;
    open_actor(&actor);
    for (int i = 0; i < 3; i++) {
        fetch(&actor, &server);
        expect(&actor, "200 -1 ok");
    }
    cr_assert_eq(atomic_load(&server.connections), 1);
    server.request_size = 0;
    actor.allow_private = false;
    fetch(&actor, &server);
    expect(&actor, "0 -1 The address 127.0.0.1 is private");
    cr_assert_eq(server.request_size, 0, "nothing was sent");
    close_actor(&actor);
    server_stop(&server);
}

Test(fetch, many_run_at_a_time)
{
    static struct server servers[8];
    struct actor actor;

    open_actor(&actor);
    for (int i = 0; i < 8; i++)
        server_start(&servers[i], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    for (int i = 0; i < 200; i++)
        fetch(&actor, &servers[i % 8]);
    for (int i = 0; i < 200; i++)
        expect(&actor, "200 -1 ok");
    close_actor(&actor);
    for (int i = 0; i < 8; i++)
        server_stop(&servers[i]);
}

Test(fetch, freeing_drops_what_is_open)
{
    static struct server server;
    struct actor actor;
    struct muster_frame frame;

    server_start(&server, NULL);
    open_actor(&actor);
    for (int i = 0; i < 5; i++)
        fetch(&actor, &server);
    actor.method = "not a method";
    fetch(&actor, &server);
    tell(&actor, "free");
    muster_runner_stop(&actor.runner);
    while (muster_post_receive(actor.test, 0, -1, &frame) == MUSTER_OK) {
        cr_assert_eq(memcmp(frame.data, "0 -1 The method", 15), 0, "none but the one that was refused at once");
        muster_frame_free(&frame);
    }
    close_actor(&actor);
    server_stop(&server);
}

Test(fetch, fetcher_may_be_freed_when_one_is_done)
{
    static struct server server, silent;
    struct actor actor;

    server_start(&server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    server_start(&silent, NULL);
    open_actor(&actor);
    fetch(&actor, &silent);
    actor.free_in_done = true;
    fetch(&actor, &server);
    expect(&actor, "200 -1 ok");
    close_actor(&actor);
    server_stop(&server);
    server_stop(&silent);
}

Test(fetch, private_addresses_are_seen_in_a_url)
{
    static const char *const private[] = {"http://127.0.0.1/",
                                          "http://127.0.0.1:8080/x?y",
                                          "HTTP://127.0.0.1",
                                          "https://10.0.0.1",
                                          "http://192.168.1.1/",
                                          "http://169.254.169.254/",
                                          "http://2130706433/",
                                          "http://0x7f.1/",
                                          "http://127.1",
                                          "http://0177.0.0.1/",
                                          "http://0",
                                          "http://[::1]/",
                                          "http://[::1]:80/",
                                          "http://[fe80::1%25eth0]/",
                                          "http://[fd00::1]",
                                          "http://[::ffff:10.0.0.1]/",
                                          "http://me:pw@127.0.0.1",
                                          "http://localhost",
                                          "http://LocalHost:99/",
                                          "http://localhost./",
                                          "http://a.localhost/"};
    static const char *const others[] = {
        "http://example.com/",       "https://8.8.8.8/",     "http://134744072/",
        "http://[2606:4700::1111]/", "http://notlocalhost/", "http://localhost.example/",
        "http://127.0.0.1.example/", "nonsense://",          ""};
    size_t i;

    for (i = 0; i < sizeof private / sizeof *private; i++)
        cr_expect(muster_fetch_is_private_literal(private[i]), "%s", private[i]);
    for (i = 0; i < sizeof others / sizeof *others; i++)
        cr_expect_not(muster_fetch_is_private_literal(others[i]), "%s", others[i]);
}
