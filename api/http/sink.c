/* SPDX-License-Identifier: MPL-2.0 */
/* One connection that gets events: what is sent to it at once, what it is behind with, when it is too slow.
 *
 * The hub puts without waiting; what a client does not take at once is left to its own thread, so a stalled reader
 * costs nobody else anything.  Whatever is put goes out whole, so events, answers and control frames never mix. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/http/hub.h"

/* ---- open and close ---- */

static bool
count_stream(struct http_server *server)
{
    if (++server->stream_count <= server->options->max_streams)
        return true;
    server->stream_count--;
    return false;
}

muster_err
http_sink_open(struct http_sink *sink, struct http_request *request, http_render_event *render, void *arg, bool socket)
{
    struct http_server *server = request->server;
    int fd = http_fd(request);
    int wake;

    if (server->stopping)
        return MUSTER_SHUTTING_DOWN;
    if (fd < 0 || !count_stream(server))
        return MUSTER_OVERLOADED;
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0) {
        server->stream_count--;
        return MUSTER_OVERLOADED;
    }
    *sink =
        (struct http_sink){.server = server, .render = render, .arg = arg, .fd = fd, .wake = wake, .socket = socket};
    pthread_mutex_init(&sink->lock, NULL);
    if (socket)
        server->socket_count++;
    http_hub_add(server->streams, sink);
    return MUSTER_OK;
}

void
http_sink_close(struct http_sink *sink)
{
    MUSTER_ASSERT(sink->follows == NULL);
    http_hub_remove(sink->server->streams, sink);
    if (sink->dropped)
        sink->server->streams_dropped++;
    if (sink->socket)
        sink->server->socket_count--;
    sink->server->stream_count--;
    (void)close(sink->wake);
    muster_buf_free(&sink->behind);
    pthread_mutex_destroy(&sink->lock);
}

void
http_sink_wake(const struct http_sink *sink)
{
    uint64_t one = 1;

    /* It can only fail when it is about to wake already. */
    if (write(sink->wake, &one, sizeof one) < 0)
        return;
}

/* ---- events as bytes ---- */

enum { FRAME_TEXT = 0x81, FRAME_HEAD = 10, FRAME_SHORT = 125 };

size_t
http_frame_begin(struct muster_buf *out)
{
    (void)muster_buf_room(out, FRAME_HEAD);
    out->size += FRAME_HEAD;
    return out->size;
}

void
http_frame_end(struct muster_buf *out, size_t begin)
{
    size_t size = out->size - begin, head = size <= FRAME_SHORT ? 2 : size <= UINT16_MAX ? 4 : FRAME_HEAD, i;
    char *at = out->data + begin - FRAME_HEAD;

    at[0] = (char)FRAME_TEXT;
    at[1] = (char)(head == 2 ? size : head == 4 ? FRAME_SHORT + 1 : FRAME_SHORT + 2);
    for (i = head; i > 2; i--)
        at[i - 1] = (char)(size >> 8 * (head - i) & 0xff);
    memmove(at + head, at + FRAME_HEAD, size);
    out->size -= FRAME_HEAD - head;
}

/* Of the whole frame that begins here, one of ours. */
static size_t
frame_size(const char *data)
{
    const unsigned char *at = (const unsigned char *)data;
    size_t size = 0, head = at[1] <= FRAME_SHORT ? 2 : at[1] == FRAME_SHORT + 1 ? 4 : FRAME_HEAD, i;

    if (head == 2)
        return head + at[1];
    for (i = 2; i < head; i++)
        size = size << 8 | at[i];
    return head + size;
}

void
http_sink_text(const struct http_sink *sink, const struct event *event, struct muster_arena *arena,
               struct muster_buf *out)
{
    size_t start = out->size, begin;
    char cursor[MUSTER_CURSOR_TEXT];

    muster_cursor_text(sink->server->house.store, event->seq, cursor);
    if (sink->socket)
        (void)http_frame_begin(out);
    else
        muster_buf_printf(out, "id: %s\n", cursor);
    begin = out->size;
    sink->render(out, event, cursor, arena, sink->arg);
    if (out->size == begin)
        out->size = start;
    else if (sink->socket)
        http_frame_end(out, begin);
    else
        muster_buf_str(out, "\n");
}

/* ---- sending ---- */

/* How much it took. */
static size_t
send_now(struct http_sink *sink, const char *data, size_t size)
{
    ssize_t sent = send(sink->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent >= 0)
        return (size_t)sent;
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        sink->broken = true;
    return 0;
}

/* Bytes of a begun frame that are left, when `sent` bytes of the frames in `data`, the first of them already begun with
 * `rest` bytes left, have gone. */
static size_t
rest_after(const struct http_sink *sink, const char *data, size_t rest, size_t sent)
{
    size_t at = rest;

    if (!sink->socket)
        return 0;
    while (at < sent)
        at += frame_size(data + at);
    return at - sent;
}

/* Without regard to the limit. */
static void
hand(struct http_sink *sink, const char *data, size_t size)
{
    size_t most = (size_t)sink->server->options->max_backlog, sent = 0;

    if (sink->behind.size == 0) {
        sink->large = size > most ? size : 0;
        sent = send_now(sink, data, size);
        sink->rest = rest_after(sink, data, 0, sent);
    }
    if (sent < size && !sink->broken)
        muster_buf_add(&sink->behind, data + sent, size - sent);
    if (sent < size)
        http_sink_wake(sink);
}

static bool
is_over(const struct http_sink *sink)
{
    return sink->dropped || sink->broken || sink->closed;
}

void
http_sink_put(struct http_sink *sink, const char *data, size_t size)
{
    size_t most = (size_t)sink->server->options->max_backlog + sink->large;

    if (is_over(sink))
        return;
    if (sink->behind.size > 0 && sink->behind.size + size > most) {
        sink->dropped = true;
        http_sink_wake(sink);
        return;
    }
    hand(sink, data, size);
}

void
http_sink_flush(struct http_sink *sink)
{
    size_t sent;

    if (sink->behind.size == 0 || sink->broken)
        return;
    sent = send_now(sink, sink->behind.data, sink->behind.size);
    sink->rest = rest_after(sink, sink->behind.data, sink->rest, sent);
    muster_buf_shift(&sink->behind, sent);
}

void
http_sink_end(struct http_sink *sink, const char *data, size_t size)
{
    if (sink->closed || sink->broken)
        return;
    if (sink->dropped)
        sink->behind.size = sink->rest;
    hand(sink, data, size);
    sink->closed = true;
}

/* Until nothing is behind. */
static bool
drain(struct http_sink *sink)
{
    struct http_woken woken;
    size_t left;
    bool over;

    for (;;) {
        pthread_mutex_lock(&sink->lock);
        http_sink_flush(sink);
        left = sink->behind.size;
        over = is_over(sink);
        pthread_mutex_unlock(&sink->lock);
        if (over || left == 0)
            return !over;
        woken = http_sink_park(sink, false, true, sink->server->options->request_timeout);
        if (woken.left || woken.silence || sink->server->stopping)
            return false;
    }
}

bool
http_sink_push(struct http_sink *sink, const char *data, size_t size)
{
    if (!drain(sink))
        return false;
    pthread_mutex_lock(&sink->lock);
    if (size > 0 && !is_over(sink))
        hand(sink, data, size);
    pthread_mutex_unlock(&sink->lock);
    return drain(sink);
}

struct http_woken
http_sink_park(const struct http_sink *sink, bool reads, bool writes, int64_t timeout_ms)
{
    struct pollfd fds[2] = {{.fd = sink->fd, .events = POLLRDHUP}, {.fd = sink->wake, .events = POLLIN}};
    struct http_woken woken = {.left = false};
    uint64_t count;
    int ready;

    fds[0].events = (short)(fds[0].events | (reads ? POLLIN : 0) | (writes ? POLLOUT : 0));
    ready = poll(fds, 2, (int)(timeout_ms > 0 ? timeout_ms : 0));
    woken.silence = ready == 0;
    if (ready <= 0)
        return woken;
    if ((fds[1].revents & POLLIN) && read(sink->wake, &count, sizeof count) < 0)
        return woken;
    woken.left = (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
    woken.readable = (fds[0].revents & POLLIN) != 0;
    woken.writable = (fds[0].revents & POLLOUT) != 0;
    return woken;
}
