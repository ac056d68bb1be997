/* SPDX-License-Identifier: MPL-2.0 */
/* Starts and stops civetweb and all that belongs to it.
 *
 * civetweb gets no document root and no handler of its own: every request is answered in begin_request, so its file,
 * form and script code is never reached.  Start and stop run on the caller's thread; stop ends what waits (streams,
 * asks, slow bodies) before it waits for the threads. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "api/http/gateway.h"

enum {
    IDLE_S = 5,        /* how long the stop waits for requests at work */
    KNOCK_NS = 5000000 /* between two knocks */
};

/* ---- threads ---- */

static void *
on_thread_begin(const struct mg_context *context, int kind)
{
    struct http_server *server = mg_get_user_data(context);
    struct http_thread *thread;

    if (kind != 1)
        return NULL;
    thread = muster_alloc(sizeof *thread);
    thread->server = server;
    thread->fd = -1;
    pthread_mutex_init(&thread->lock, NULL);
    pthread_mutex_lock(&server->lock);
    thread->next = server->threads;
    server->threads = thread;
    pthread_mutex_unlock(&server->lock);
    return thread;
}

static void
on_thread_end(const struct mg_context *context, int kind, void *pointer)
{
    struct http_thread *thread = pointer, **at;
    struct http_server *server;

    (void)context;
    if (kind != 1 || thread == NULL)
        return;
    server = thread->server;
    pthread_mutex_lock(&server->lock);
    for (at = &server->threads; *at != thread; at = &(*at)->next)
        ;
    *at = thread->next;
    pthread_mutex_unlock(&server->lock);
    pthread_mutex_destroy(&thread->lock);
    muster_post_close(&thread->post);
    muster_arena_free(&thread->arena);
    muster_buf_free(&thread->in);
    muster_buf_free(&thread->text);
    muster_buf_free(&thread->out);
    free(thread);
}

/* ---- connections and words ---- */

static int
on_connection(const struct mg_connection *connection, void **data)
{
    struct http_server *server = mg_get_user_context_data(connection);

    *data = NULL;
    server->connections++;
    return 0;
}

static void
on_connection_end(const struct mg_connection *connection)
{
    struct http_server *server = mg_get_user_context_data(connection);

    server->connections--;
}

/* While it starts civetweb says here why it could not; later it speaks of single connections, which we count ourselves.
 */
static int
on_words(const struct mg_connection *connection, const char *message)
{
    struct http_server *server = mg_get_user_context_data(connection);

    if (server && !server->running)
        (void)snprintf(server->problem, sizeof server->problem, "%s", message);
    return 1;
}

/* ---- addresses ---- */

/* "127.0.0.1:3100", "localhost:0" or "3100".  Letters that civetweb knows behind a port would switch on TLS, which this
 * build of it cannot do. */
static bool
is_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    const char *port = colon ? colon + 1 : text;
    size_t digits = strspn(port, "0123456789");
    size_t host = colon ? (size_t)(colon - text) : 0;

    if (digits == 0 || digits > 5 || port[digits] != '\0' || strtol(port, NULL, 10) > 65535 || host > 100)
        return false;
    return strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-") >= host;
}

static muster_err
join_addresses(const struct http_options *options, struct muster_buf *out, char *problem, size_t problem_size)
{
    size_t i;

    for (i = 0; i < options->listen.count; i++) {
        if (!is_address(options->listen.items[i])) {
            (void)snprintf(problem, problem_size,
                           "'%s' is not an address to listen on: write IPv4-address:port; put a proxy in front for TLS "
                           "and IPv6",
                           options->listen.items[i]);
            return MUSTER_INVALID_REQUEST;
        }
        muster_buf_printf(out, "%s%s", i ? "," : "", options->listen.items[i]);
    }
    return MUSTER_OK;
}

static void
note_addresses(struct http_server *server)
{
    struct mg_server_port ports[HTTP_LISTEN];
    int count = mg_get_server_ports(server->context, HTTP_LISTEN, ports), i;
    char host[128];

    for (i = 0; i < count && (size_t)i < server->options->listen.count; i++) {
        const char *text = server->options->listen.items[i];
        const char *colon = strrchr(text, ':');
        struct http_listen *listen = &server->listen[i];

        (void)snprintf(host, sizeof host, "%.*s", colon ? (int)(colon - text) : 0, text);
        if (inet_pton(AF_INET, host, &listen->address) != 1)
            listen->address.s_addr = INADDR_ANY;
        listen->port = ports[i].port;
        if (i == 0)
            (void)snprintf(server->url, sizeof server->url, "http://%s:%d",
                           *host && strcmp(host, "0.0.0.0") != 0 ? host : "127.0.0.1", ports[i].port);
    }
    server->listen_count = count > 0 ? (size_t)count : 0;
}

/* ---- start ---- */

static const struct mg_callbacks callbacks = {
    .begin_request = http_serve,
    .http_error = http_refuse,
    .log_message = on_words,
    .init_thread = on_thread_begin,
    .exit_thread = on_thread_end,
    .init_connection = on_connection,
    .connection_closed = on_connection_end,
};

static muster_err
start_civetweb(struct http_server *server, const char *addresses)
{
    const struct http_options *options = server->options;
    char threads[24], head[24], request_ms[24], idle_ms[24];
    const char *settings[] = {"listening_ports",
                              addresses,
                              "num_threads",
                              threads,
                              "max_request_size",
                              head,
                              "request_timeout_ms",
                              request_ms,
                              "keep_alive_timeout_ms",
                              idle_ms,
                              "enable_keep_alive",
                              "yes",
                              "tcp_nodelay",
                              "1",
                              "connection_queue",
                              "1024",
                              "listen_backlog",
                              "1024",
                              "decode_url",
                              "no",
                              "enable_directory_listing",
                              "no",
                              "access_control_allow_origin",
                              "",
                              "access_control_allow_methods",
                              "",
                              NULL};

    (void)snprintf(threads, sizeof threads, "%lld", (long long)options->threads);
    /* Twice, so that we can say what is wrong with a head that is somewhat too large. */
    (void)snprintf(head, sizeof head, "%lld", (long long)options->max_head * 2);
    (void)snprintf(request_ms, sizeof request_ms, "%lld", (long long)options->request_timeout);
    (void)snprintf(idle_ms, sizeof idle_ms, "%lld", (long long)options->keep_alive);
    server->context = mg_start(&callbacks, server, settings);
    return server->context ? MUSTER_OK : MUSTER_CONFLICT;
}

static void
server_free(struct http_server *server)
{
    pthread_mutex_destroy(&server->lock);
    pthread_cond_destroy(&server->idle);
    free(server->entries);
    free(server);
    (void)mg_exit_library();
}

static struct http_server *
server_new(const struct muster_house *house, const struct http_dialect *const *dialects)
{
    struct http_server *server = muster_alloc(sizeof *server);

    (void)mg_init_library(0);
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->idle, NULL);
    server->house = *house;
    server->options = house->options->http;
    server->dialects = dialects;
    server->started_ms = muster_clock_ms();
    http_routes_build(server);
    return server;
}

muster_err
http_server_start(const struct muster_house *house, const struct http_dialect *const *dialects,
                  struct http_server **out_server, char *problem, size_t problem_size)
{
    struct http_server *server = server_new(house, dialects);
    struct muster_buf addresses = {0};
    muster_err err = join_addresses(server->options, &addresses, problem, problem_size);

    if (err)
        goto out;
    err = http_streams_start(server, &server->streams);
    if (err) {
        (void)snprintf(problem, problem_size, "The event streams could not start: %s", muster_err_text(err));
        goto out;
    }
    err = start_civetweb(server, addresses.data);
    if (err) {
        (void)snprintf(problem, problem_size, "Cannot listen on %s: %s", addresses.data, server->problem);
        goto out;
    }
    note_addresses(server);
    server->running = true;
    *out_server = server;
out:
    muster_buf_free(&addresses);
    if (err) {
        http_streams_stop(&server->streams);
        server_free(server);
    }
    return err;
}

/* ---- life and stop ---- */

const char *
http_server_url(const struct http_server *server)
{
    return server->url;
}

void
http_server_drain(struct http_server *server)
{
    server->draining = true;
}

/* civetweb stops writing as soon as it is told to stop, so whoever waits must have its answer before. */
static void
await_idle(struct http_server *server)
{
    struct timespec until;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += IDLE_S;
    pthread_mutex_lock(&server->lock);
    while (server->busy > 0)
        if (pthread_cond_timedwait(&server->idle, &server->lock, &until) != 0)
            break;
    pthread_mutex_unlock(&server->lock);
}

/* civetweb looks every two seconds whether it is to stop, or when somebody connects. */
struct knocker {
    struct sockaddr_in address;
    atomic_bool stopped;
};

static void *
knock(void *arg)
{
    const struct timespec pause = {.tv_nsec = KNOCK_NS};
    struct knocker *knocker = arg;

    while (!atomic_load(&knocker->stopped)) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd >= 0) {
            (void)connect(fd, (const struct sockaddr *)&knocker->address, sizeof knocker->address);
            (void)close(fd);
        }
        (void)nanosleep(&pause, NULL);
    }
    return NULL;
}

static void
stop_civetweb(struct http_server *server)
{
    struct knocker knocker = {.address.sin_family = AF_INET};
    pthread_t thread;
    bool knocks;

    knocker.address.sin_addr = server->listen[0].address;
    knocker.address.sin_port = htons((uint16_t)server->listen[0].port);
    knocks = pthread_create(&thread, NULL, knock, &knocker) == 0; /* else it takes its two seconds */
    mg_stop(server->context);
    atomic_store(&knocker.stopped, true);
    if (knocks)
        (void)pthread_join(thread, NULL);
}

void
http_server_stop(struct http_server **server_p)
{
    struct http_server *server = *server_p;

    if (server == NULL)
        return;
    *server_p = NULL;
    server->draining = true;
    server->stopping = true;
    http_streams_wake(server->streams);
    http_watch_stop(server);
    await_idle(server);
    stop_civetweb(server);
    http_streams_stop(&server->streams);
    server_free(server);
}
