/* SPDX-License-Identifier: MPL-2.0 */
/* What civetweb lets through and a careful server must not: requests that a proxy and we could read differently
 * (smuggling), headers that were dropped silently, bodies without end.  The connection's thread.
 *
 * Whatever is doubtful is refused and its connection closed, because nobody can say where the next request begins. */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "api/http/gateway.h"

enum {
    READ_PIECE = 16384,
    REST_BYTES = 65536,      /* an unread body up to this size is read so that the connection can live on */
    LINGER_BYTES = 16 << 20, /* thrown away at most after an answer that closes the connection, */
    LINGER_MS = 2000         /* and in no more time */
};

static bool
refuse(struct http_request *request, muster_err err, const char *message)
{
    http_close(request);
    http_fail(request, err, "%s", message);
    return false;
}

/* How many headers have this name, and the value of the first.  Most differ in their first letter. */
static int
count_headers(const struct mg_request_info *info, const char *name, const char **out_value)
{
    int i, count = 0;

    for (i = 0; i < info->num_headers; i++)
        if ((info->http_headers[i].name[0] | 0x20) == (name[0] | 0x20) &&
            strcasecmp(info->http_headers[i].name, name) == 0 && count++ == 0)
            *out_value = info->http_headers[i].value;
    return count;
}

/* civetweb skips any amount of white space in and behind the request line, line ends included.  Its texts point into
 * the head as it was received, so each must begin just behind the one before. */
static bool
line_is_exact(const struct mg_request_info *info)
{
    const char *uri = info->request_method + strlen(info->request_method) + 1;
    const char *end = info->request_uri + strlen(info->request_uri);
    const char *version_end = info->http_version + strlen(info->http_version);

    if (info->query_string)
        end = info->query_string + strlen(info->query_string);
    if (info->request_uri != uri || info->http_version != end + 1 + strlen("HTTP/"))
        return false;
    if (info->num_headers == 0)
        return true;
    return info->http_headers[0].name == version_end + 1 || info->http_headers[0].name == version_end + 2;
}

/* civetweb takes "Name : value", which others read as another name.  The colon has become a NUL, so what stands between
 * it and the value can only be white space that followed it. */
static bool
names_are_exact(const struct mg_request_info *info)
{
    const char *at;
    int i;

    for (i = 0; i < info->num_headers; i++) {
        at = info->http_headers[i].name + strlen(info->http_headers[i].name) + 1;
        for (; at < info->http_headers[i].value; at++)
            if (*at != ' ' && *at != '\t')
                return false;
    }
    return true;
}

/* civetweb ends the list of headers at the first line it does not understand, for example a folded one, and ignores the
 * rest.  Its values point into the head as it was received with line ends made NUL, so what follows the last value must
 * be the empty line. */
static bool
headers_are_complete(const struct mg_request_info *info)
{
    const char *end;

    if (info->num_headers == 0)
        return true;
    end = info->http_headers[info->num_headers - 1].value;
    end += strlen(end);
    end += end[1] == '\0' ? 2 : 1;
    return *end == '\r' || *end == '\n';
}

static bool
is_length(const char *text)
{
    size_t size = strlen(text);

    return size > 0 && size <= 18 && strspn(text, "0123456789") == size;
}

static const char *
framing_problem(const struct http_request *request, int64_t *out_length)
{
    const char *length = NULL, *encoding = NULL, *host = NULL;
    const struct mg_request_info *info = request->info;
    int lengths = count_headers(info, "Content-Length", &length);
    int encodings = count_headers(info, "Transfer-Encoding", &encoding);
    int hosts = count_headers(info, "Host", &host);

    if (!line_is_exact(info))
        return "Malformed request line";
    if (!names_are_exact(info) || !headers_are_complete(info))
        return "Malformed header line";
    if (hosts > 1 || (hosts == 0 && strcmp(info->http_version, "1.0") != 0))
        return "Exactly one Host header is needed";
    if (lengths > 1 || (length && !is_length(length)))
        return "Exactly one Content-Length of digits is allowed";
    if (encoding && (encodings > 1 || lengths > 0 || strcmp(info->http_version, "1.0") == 0))
        return "Transfer-Encoding must stand alone";
    if (encoding && strcasecmp(encoding, "chunked") != 0)
        return "Transfer-Encoding must be chunked";
    *out_length = encoding ? -1 : length ? strtoll(length, NULL, 10) : 0;
    return NULL;
}

/* Bytes of the request line and headers, without the last line ends. */
static int64_t
head_size(const struct mg_request_info *info)
{
    const char *last = info->num_headers > 0 ? info->http_headers[info->num_headers - 1].value : info->http_version;

    return last + strlen(last) - info->request_method;
}

bool
http_guard_head(struct http_request *request)
{
    const struct mg_request_info *info = request->info;
    const unsigned char *at;
    const char *problem;

    request->unread = -1; /* until it is known */
    if (head_size(info) > request->server->options->max_head)
        return refuse(request, MUSTER_HEADERS_TOO_LARGE, "The request line and headers are too large");

    if (info->num_headers >= MG_MAX_HEADERS)
        return refuse(request, MUSTER_HEADERS_TOO_LARGE, "At most 63 headers are allowed");
    problem = framing_problem(request, &request->unread);
    if (problem)
        return refuse(request, MUSTER_INVALID_REQUEST, problem);
    for (at = (const unsigned char *)request->path; *at; at++)
        if (*at <= ' ' || *at >= 127)
            return refuse(request, MUSTER_INVALID_REQUEST, "Malformed path");
    if (request->unread > request->server->options->max_body) {
        http_close(request);
        http_fail(request, MUSTER_PAYLOAD_TOO_LARGE, "The body may have at most %lld bytes",
                  (long long)request->server->options->max_body);
        return false;
    }
    return true;
}

/* ---- bodies ---- */

static void
say_continue(struct http_request *request)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    const char *expect = http_header(request, "Expect");

    if (expect && strcasecmp(expect, "100-continue") == 0)
        (void)mg_write(request->connection, text, sizeof text - 1);
}

enum read_end { READ_ALL, READ_SHORT, READ_BROKEN, READ_TOO_LARGE };

static enum read_end
read_known(struct http_request *request, struct muster_buf *in)
{
    int got;

    while (request->unread > 0) {
        size_t piece = request->unread < READ_PIECE ? (size_t)request->unread : READ_PIECE;

        got = mg_read(request->connection, muster_buf_room(in, piece), piece);
        if (got <= 0)
            return READ_SHORT;
        in->size += (size_t)got;
        request->unread -= got;
    }
    return READ_ALL;
}

static enum read_end
read_chunks(struct http_request *request, struct muster_buf *in)
{
    size_t most = (size_t)request->server->options->max_body;
    int got;

    while (in->size <= most) {
        /* One byte more than is allowed is enough to know. */
        size_t piece = most + 1 - in->size < READ_PIECE ? most + 1 - in->size : READ_PIECE;

        got = mg_read(request->connection, muster_buf_room(in, piece), piece);
        if (got < 0)
            return READ_BROKEN;
        if (got == 0) {
            request->unread = 0;
            return READ_ALL;
        }
        in->size += (size_t)got;
    }
    return READ_TOO_LARGE;
}

static bool
read_body(struct http_request *request, struct muster_buf *in)
{
    enum read_end end;
    bool late;

    if (request->unread == 0)
        return true;
    say_continue(request);
    http_watch_begin(request, HTTP_READING, request->server->options->request_timeout);
    end = request->unread > 0 ? read_known(request, in) : read_chunks(request, in);
    late = http_watch_end(request);
    if (end == READ_ALL)
        return true;
    if (late)
        return refuse(request, MUSTER_TIMEOUT, "The body did not arrive in time");
    if (end == READ_TOO_LARGE)
        return refuse(request, MUSTER_PAYLOAD_TOO_LARGE, "The body is larger than allowed");
    return refuse(request, MUSTER_INVALID_REQUEST,
                  end == READ_SHORT ? "The body is shorter than its Content-Length" : "Malformed chunked body");
}

/* Then a body may be left out. */
static bool
needs_nothing(const struct muster_type *type)
{
    const struct muster_field *row;

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++)
        if (row->need == MUSTER_REQUIRED)
            return false;
    return true;
}

bool
http_guard_body(struct http_request *request)
{
    const struct muster_type *type = request->entry->route->body;
    const char *content_type = http_header(request, "Content-Type");
    struct muster_buf *in = &request->thread->in;
    struct muster_fault fault = {"", ""};
    void *out;

    if (type && content_type && strncasecmp(content_type, "multipart/", 10) == 0) {
        http_fail(request, MUSTER_UNSUPPORTED_MEDIA_TYPE, "%s", muster_err_text(MUSTER_UNSUPPORTED_MEDIA_TYPE));
        return false;
    }
    muster_buf_clear(in);
    if (!read_body(request, in))
        return false;
    if (type == NULL)
        return true;
    out = muster_arena_alloc(request->thread->arena, type->size);
    if (in->size == 0 && needs_nothing(type))
        muster_buf_str(in, "{}");
    if (in->size == 0) {
        http_fail_field(request, "", "a JSON object is required");
        return false;
    }
    if (muster_json_decode(type, in->data, in->size, 0, request->thread->arena, out, &fault)) {
        http_fail_field(request, fault.field, fault.message);
        return false;
    }
    request->body = out;
    return true;
}

void
http_guard_rest(struct http_request *request)
{
    struct muster_buf *in = &request->thread->in;

    if (request->unread == 0 || !request->keep_alive)
        return;
    if (request->unread < 0 || request->unread > REST_BYTES || http_header(request, "Expect")) {
        http_close(request);
        return;
    }
    http_watch_begin(request, HTTP_READING, request->server->options->request_timeout);
    muster_buf_clear(in);
    if (read_known(request, in) != READ_ALL)
        http_close(request);
    (void)http_watch_end(request);
}

/* The kernel resets a connection that is closed with unread bytes, and the client may then lose the answer. */
void
http_guard_linger(struct http_request *request)
{
    int64_t end_us = http_clock_us() + LINGER_MS * 1000;
    size_t left = LINGER_BYTES;
    struct pollfd poller;
    int64_t wait_ms;
    ssize_t got;
    int fd;

    if (request->keep_alive || request->unread == 0 || (fd = http_fd(request)) < 0)
        return;
    (void)shutdown(fd, SHUT_WR);
    poller = (struct pollfd){.fd = fd, .events = POLLIN};
    while (left > 0 && (wait_ms = (end_us - http_clock_us()) / 1000) > 0) {
        if (poll(&poller, 1, (int)wait_ms) <= 0)
            break;
        got = recv(fd, muster_buf_room(&request->thread->in, READ_PIECE), READ_PIECE, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            break;
        if (got > 0)
            left -= (size_t)got < left ? (size_t)got : left;
    }
}
