/* SPDX-License-Identifier: MPL-2.0 */
/* Starts and stops civetweb and all that belongs to it.
 *
 * civetweb gets no document root and no handler of its own: every request is answered in begin_request, so its file,
 * form and script code is never reached.  Start and stop run on the caller's thread; stop ends what waits (streams,
 * asks, slow bodies) before it waits for the threads. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "api/http/gateway.h"
#include "api/http/jwt.h"

enum {
    LISTEN_TEXT = 32, /* room for an address and its port */
    QUEUE = 1024,     /* connections that wait for a thread, as in start_civetweb */
    BACKLOGS = 256,   /* of readers, as full as may be, that all of them may have together, */
    BACKLOGS_MIN = 64 << 20,
    IDLE_S = 5 /* how long the stop waits for requests at work */
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

static void
listen_text(const struct muster_listen *listen, char out[LISTEN_TEXT])
{
    struct in_addr address = {htonl(listen->address)};
    char host[INET_ADDRSTRLEN] = "";

    (void)inet_ntop(AF_INET, &address, host, sizeof host);
    (void)snprintf(out, LISTEN_TEXT, "%s:%d", host, listen->port);
}

static muster_err
parse_addresses(const struct http_options *options, struct muster_listen out[HTTP_LISTEN], char *problem, size_t size)
{
    const struct muster_strs *texts = &options->listen;
    const char *expected = "";
    size_t i, j;

    MUSTER_ASSERT(texts->count <= HTTP_LISTEN);
    for (i = 0; i < texts->count; i++) {
        if (muster_listen_parse(texts->items[i], &out[i], &expected)) {
            (void)snprintf(problem, size, "The address to listen on, '%.200s', %s", texts->items[i], expected);
            return MUSTER_INVALID_REQUEST;
        }
        for (j = 0; j < i; j++)
            if (muster_listen_overlaps(&out[j], &out[i])) {
                (void)snprintf(problem, size, "The addresses to listen on, %s and %s, overlap", texts->items[j],
                               texts->items[i]);
                return MUSTER_INVALID_REQUEST;
            }
    }
    return MUSTER_OK;
}

static void
tell_bind(const struct muster_listen *listen, int error, char *problem, size_t size)
{
    char text[LISTEN_TEXT];

    listen_text(listen, text);
    if (error == EADDRINUSE)
        (void)snprintf(problem, size,
                       "%s: address already in use; stop the other program or choose another with http.listen", text);
    else if (error == EADDRNOTAVAIL)
        (void)snprintf(problem, size, "%s: this machine has no such address; choose another with http.listen", text);
    else if (error == EACCES)
        (void)snprintf(problem, size, "%s: ports below 1024 need a privilege; choose another with http.listen", text);
    else
        (void)snprintf(problem, size, "%s: %s", text, strerror(error));
}

/* Bind as civetweb will, and let go. */
static muster_err
try_bind(const struct muster_listen *listen, char *problem, size_t size)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((in_port_t)listen->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, error = 0;

    address.sin_addr.s_addr = htonl(listen->address);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        error = errno;
    if (fd >= 0)
        (void)close(fd);
    if (error == 0)
        return MUSTER_OK;
    tell_bind(listen, error, problem, size);
    return MUSTER_CONFLICT;
}

muster_err
http_server_probe(const struct http_options *options, char *problem, size_t size)
{
    struct muster_listen listen[HTTP_LISTEN];
    muster_err err = parse_addresses(options, listen, problem, size);
    size_t i;

    for (i = 0; err == MUSTER_OK && i < options->listen.count; i++)
        err = try_bind(&listen[i], problem, size);
    return err;
}

/* What civetweb gets: the address always stands before the port, because a port alone is all addresses to it. */
static void
join_addresses(const struct http_server *server, struct muster_buf *out)
{
    char text[LISTEN_TEXT];
    size_t i;

    for (i = 0; i < server->listen_count; i++) {
        listen_text(&server->listen[i], text);
        muster_buf_printf(out, "%s%s", i ? "," : "", text);
    }
}

/* Which ports it took, and the URL of the first. */
static void
note_addresses(struct http_server *server)
{
    struct mg_server_port ports[HTTP_LISTEN];
    int count = mg_get_server_ports(server->context, HTTP_LISTEN, ports), i;
    struct muster_listen first;
    char text[LISTEN_TEXT];

    for (i = 0; i < count && (size_t)i < server->listen_count; i++)
        server->listen[i].port = ports[i].port;
    first = server->listen[0];
    if (first.address == INADDR_ANY)
        first.address = INADDR_LOOPBACK;
    listen_text(&first, text);
    (void)snprintf(server->url, sizeof server->url, "http://%s", text);
}

static void
warn_if_open(const struct http_server *server)
{
    struct muster_buf open = {0};
    char text[LISTEN_TEXT];
    size_t i;

    for (i = 0; i < server->listen_count; i++)
        if (server->listen[i].address >> 24 != IN_LOOPBACKNET) {
            listen_text(&server->listen[i], text);
            muster_buf_printf(&open, "%s%s", open.size ? ", " : "", text);
        }
    if (open.size)
        muster_journal_say(server->house.journal, WARNING, "listen-open",
                           "The gateway listens beyond this machine; put TLS in front.",
                           MUSTER_SAY_TEXT("address", open.data));
    muster_buf_free(&open);
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
    (void)snprintf(head, sizeof head, "%lld", (long long)options->max_head * HTTP_HEAD_TIMES);
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
    sem_destroy(&server->joins);
    http_jwt_close(&server->jwt);
    free(server->entries);
    free(server);
    (void)mg_exit_library();
}

/* Streams may have half of the descriptors.  Theirs are above those that connections, mailboxes and the queue in front
 * of the threads usually have. */
static void
share_descriptors(struct http_server *server)
{
    const struct http_options *options = server->options;
    int64_t half = INT_MAX / 2, others = 2 * (options->threads + QUEUE);
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / 2 < (rlim_t)half)
        half = (int64_t)(limit.rlim_cur / 2);
    server->max_streams = options->max_streams < half ? options->max_streams : half;
    server->stream_fds = (int)(others < half ? others : half);
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
    sem_init(&server->joins, 0, (unsigned)(server->options->threads / 8));
    server->dialects = dialects;
    server->max_behind = server->options->max_backlog * BACKLOGS;
    if (server->max_behind < BACKLOGS_MIN)
        server->max_behind = BACKLOGS_MIN;
    share_descriptors(server);
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
    muster_err err = http_jwt_open(house->options->auth->jwt, &server->jwt, problem, problem_size);

    if (err == MUSTER_OK)
        err = parse_addresses(server->options, server->listen, problem, problem_size);
    if (err)
        goto out;
    server->listen_count = server->options->listen.count;
    join_addresses(server, &addresses);
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
    warn_if_open(server);
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

/* Is it a socket that listens on one of our addresses? */
static bool
is_listener(const struct http_server *server, int fd)
{
    struct sockaddr_in name;
    socklen_t size = sizeof name, flag_size = sizeof(int);
    int listens = 0;
    size_t i;

    memset(&name, 0, sizeof name);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &flag_size) != 0 || !listens ||
        getsockname(fd, (struct sockaddr *)&name, &size) != 0 || name.sin_family != AF_INET)
        return false;
    for (i = 0; i < server->listen_count; i++)
        if (ntohl(name.sin_addr.s_addr) == server->listen[i].address && ntohs(name.sin_port) == server->listen[i].port)
            return true;
    return false;
}

/* civetweb looks every two seconds whether it is to stop, or when something happens to a listening socket; and a
 * connection that it accepts meanwhile would never be closed.  So nothing is accepted any more. */
static void
end_listening(const struct http_server *server)
{
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    int fd;

    if (folder == NULL)
        return; /* then it takes its two seconds */
    while ((entry = readdir(folder)) != NULL) {
        fd = entry->d_name[0] == '.' ? -1 : atoi(entry->d_name);
        if (fd >= 0 && is_listener(server, fd))
            (void)shutdown(fd, SHUT_RDWR);
    }
    (void)closedir(folder);
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
    end_listening(server);
    mg_stop(server->context);
    http_streams_stop(&server->streams);
    server_free(server);
}
