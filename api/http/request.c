/* SPDX-License-Identifier: MPL-2.0 */
/* A request from its first to its last moment: the order of the checks, then the handler, then the books.
 *
 * Runs on the connection's thread, which has 100 KiB of stack in civetweb: no large locals here or below. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>

#include "api/caller.h"
#include "api/http/gateway.h"
#include "transport/muster_fetch.h"

enum { STATUS_GONE = 499 /* in log and metrics: the client left before its answer */ };

int64_t
http_clock_us(void)
{
    return muster_uptime_ns() / 1000;
}

/* ---- what handlers ask ---- */

const struct muster_house *
http_house(const struct http_request *request)
{
    return &request->server->house;
}

const char *
http_param(const struct http_request *request, const char *name)
{
    size_t i;

    for (i = 0; i < request->param_count; i++)
        if (strcmp(request->params[i].name, name) == 0)
            return request->params[i].value;
    return NULL;
}

const char *
http_query(struct http_request *request, const char *name)
{
    size_t i;

    for (i = 0; i < request->query_count; i++)
        if (strcmp(request->queries[i].name, name) == 0)
            return request->queries[i].value;
    return NULL;
}

const char *
http_header(const struct http_request *request, const char *name)
{
    int i;

    if (request->info == NULL)
        return NULL;
    for (i = 0; i < request->info->num_headers; i++)
        if (strcasecmp(request->info->http_headers[i].name, name) == 0)
            return request->info->http_headers[i].value;
    return NULL;
}

const void *
http_body(const struct http_request *request)
{
    return request->body;
}

const struct key *
http_key(const struct http_request *request)
{
    return &request->key;
}

const char *
http_from(const struct http_request *request)
{
    return caller_from(&request->key);
}

bool
http_may_use(const struct http_request *request, const char *team)
{
    return caller_may_use(&request->key, team);
}

bool
http_may_call_back(const struct http_request *request, const char *url)
{
    return request->server->house.options->webhooks->allow_private || !muster_fetch_is_private_literal(url);
}

const char *
http_request_id(const struct http_request *request)
{
    return request->id;
}

struct muster_arena *
http_arena(struct http_request *request)
{
    return request->thread->arena;
}

/* ---- begin ---- */

static bool
is_sane_id(const char *text)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t size = text ? strlen(text) : 0;

    return size >= 1 && size <= 128 && strspn(text, allowed) == size;
}

static void
name_request(struct http_request *request)
{
    const char *wanted = http_header(request, "X-Request-Id");
    struct muster_id id;

    if (is_sane_id(wanted)) {
        memcpy(request->id, wanted, strlen(wanted) + 1);
        return;
    }
    id = muster_id_new(muster_clock_ms());
    muster_id_text(&id, request->id);
}

/* What civetweb will do with the connection, so that we can tell the client the same. */
static bool
wants_keep_alive(const struct http_request *request)
{
    const char *connection = http_header(request, "Connection");

    if (http_header(request, "Upgrade"))
        return false;
    if (connection)
        return strcasestr(connection, "keep-alive") != NULL;
    return strcmp(request->info->http_version, "1.1") == 0;
}

static void
begin(struct http_request *request, struct mg_connection *connection, bool parsed)
{
    struct http_thread *thread = mg_get_thread_pointer(connection);

    memset(request, 0, sizeof *request);
    request->connection = connection;
    request->thread = thread;
    request->server = thread->server;
    request->begun_us = http_clock_us();
    request->peer = mg_get_request_info(connection);
    request->method = request->path = "-";
    if (thread->arena == NULL)
        thread->arena = muster_arena_new();
    if (parsed) {
        request->info = mg_get_request_info(connection);
        request->method = request->info->request_method;
        request->path = request->info->local_uri_raw ? request->info->local_uri_raw : "";
        request->head_only = strcmp(request->method, "HEAD") == 0;
        request->keep_alive = wants_keep_alive(request);
        if (!request->keep_alive)
            mg_disable_connection_keep_alive(connection);
    }
    request->entry = http_entry_unmatched(request->server, request->method);
    request->dialect = request->entry->dialect;
    name_request(request);
    request->server->busy++;
}

/* ---- end ---- */

static void
keep_small(struct muster_buf *buf)
{
    if (buf->capacity > HTTP_KEEP_BYTES)
        muster_buf_free(buf);
    else
        muster_buf_clear(buf);
}

/* At most `most` bytes of a header, so that a line of the log stays a line. */
static const char *
shortened(struct http_request *request, const char *text, size_t most)
{
    if (text == NULL || strlen(text) <= most)
        return text;
    return muster_arena_str(request->thread->arena, text, most);
}

void
http_books_open(struct http_request *request, struct http_books *out)
{
    *out = (struct http_books){.entry = request->entry,
                               .begun_us = request->begun_us,
                               .status = request->status,
                               .method = shortened(request, request->method, 32),
                               .path = shortened(request, request->path, 512),
                               .key = request->key.name,
                               .address = request->peer ? request->peer->remote_addr : "",
                               .agent = shortened(request, http_header(request, "User-Agent"), 200),
                               .id = request->id};
}

void
http_leave(struct http_server *server)
{
    if (--server->busy > 0 || !server->stopping)
        return;
    pthread_mutex_lock(&server->lock);
    pthread_cond_broadcast(&server->idle);
    pthread_mutex_unlock(&server->lock);
}

void
http_books_close(struct http_server *server, const struct http_books *books)
{
    int64_t duration_us = http_clock_us() - books->begun_us;

    http_metrics_count(books->entry, books->status, duration_us);
    muster_journal_say(server->house.journal, INFO, "http-request", "A request was answered.",
                       MUSTER_SAY_TEXT("method", books->method), MUSTER_SAY_TEXT("path", books->path),
                       MUSTER_SAY_NUMBER("status", books->status), MUSTER_SAY_NUMBER("duration_ms", duration_us / 1000),
                       MUSTER_SAY_TEXT("key", books->key), MUSTER_SAY_TEXT("address", books->address),
                       MUSTER_SAY_TEXT("user_agent", books->agent), MUSTER_SAY_TEXT("request_id", books->id));
}

static int
end(struct http_request *request)
{
    struct http_thread *thread = request->thread;
    struct http_books books;

    if (request->stream)
        http_stream_drop(request);
    if (!request->answered)
        http_fail(request, MUSTER_INTERNAL_ERROR, "%s", muster_err_text(MUSTER_INTERNAL_ERROR));
    if (!request->kept) {
        http_books_open(request, &books);
        http_books_close(request->server, &books);
        http_guard_linger(request);
        http_fd_served(request);
        http_leave(request->server);
    }
    keep_small(&thread->in);
    keep_small(&thread->text);
    keep_small(&thread->out);
    muster_arena_clear(thread->arena);
    return request->status;
}

void
http_gone(struct http_request *request)
{
    http_close(request);
    request->answered = true;
    request->status = STATUS_GONE;
}

/* ---- civetweb's calls ---- */

static bool
counts_before(const struct http_request *request)
{
    return (request->entry->route->flags & (HTTP_OPEN | HTTP_FORWARDS)) == 0;
}

static bool
is_open(struct http_request *request)
{
    if (!request->server->stopping)
        return true;
    http_close(request);
    http_fail(request, MUSTER_SHUTTING_DOWN, "%s", muster_err_text(MUSTER_SHUTTING_DOWN));
    return false;
}

int
http_serve(struct mg_connection *connection)
{
    struct http_request request;

    begin(&request, connection, true);
    if (is_open(&request) && http_guard_head(&request) && http_query_parse(&request) && http_route_find(&request) &&
        http_access(&request) && http_guard_body(&request) && (!counts_before(&request) || http_count(&request)))
        request.entry->route->handle(&request);
    return end(&request);
}

/* civetweb calls a head that fills its buffer malformed, too; then there is most often more of it to read.  What came
 * on the connection before counts, too. */
static bool
has_more(struct http_request *request)
{
    int64_t taken = http_fd_taken(request), buffer = request->server->options->max_head * HTTP_HEAD_TIMES;
    int fd = http_fd(request), waiting = 0;

    return fd >= 0 && (taken < 0 || taken >= buffer) && ioctl(fd, FIONREAD, &waiting) == 0 && waiting > 0;
}

int
http_refuse(struct mg_connection *connection, int status, const char *message)
{
    struct http_thread *thread = mg_get_thread_pointer(connection);
    struct http_request request;

    (void)message;
    if (thread == NULL)
        return 1;
    begin(&request, connection, false);
    request.unread = -1;
    http_close(&request);
    if (status == 500)
        http_fail(&request, MUSTER_INTERNAL_ERROR, "%s", muster_err_text(MUSTER_INTERNAL_ERROR));
    else if (status == 413 || has_more(&request))
        http_fail(&request, MUSTER_HEADERS_TOO_LARGE, "The request line and headers are too large");
    else
        http_fail(&request, MUSTER_INVALID_REQUEST, "Malformed or incomplete request head");
    (void)end(&request);
    return 0;
}
