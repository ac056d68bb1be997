/* SPDX-License-Identifier: MPL-2.0 */
/* One connection that gets events: what is sent to it at once, what it is behind with, when it is too slow.
 *
 * The hub puts without waiting; what a client does not take at once is left to the keeper or, of a WebSocket, to its
 * own thread, so a stalled reader costs nobody else anything.  Whatever is put goes out whole, so events, answers and
 * control frames never mix. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/http/hub.h"

/* ---- open and close ---- */

static bool
count(_Atomic int64_t *sinks, int64_t most)
{
    if (++*sinks <= most)
        return true;
    --*sinks;
    return false;
}

static bool
count_sink(struct http_server *server, bool socket)
{
    return socket ? count(&server->socket_count, server->options->max_sockets)
                  : count(&server->stream_count, server->max_streams);
}

static void
uncount_sink(struct http_server *server, bool socket)
{
    --*(socket ? &server->socket_count : &server->stream_count);
}

/* A stream outlives civetweb's descriptor.  False: there are no more descriptors. */
static bool
take_descriptors(struct http_sink *sink, int fd)
{
    if (sink->socket) {
        sink->fd = fd;
        sink->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return sink->wake >= 0;
    }
    sink->wake = -1;
    sink->fd = fcntl(fd, F_DUPFD_CLOEXEC, sink->server->stream_fds);
    return sink->fd >= 0;
}

muster_err
http_sink_open(struct http_sink *sink, struct http_request *request, http_render_event *render, void *arg, bool socket)
{
    struct http_server *server = request->server;
    int fd = http_fd(request);

    if (server->stopping)
        return MUSTER_SHUTTING_DOWN;
    if (fd < 0 || !count_sink(server, socket))
        return MUSTER_OVERLOADED;
    *sink = (struct http_sink){.server = server, .render = render, .arg = arg, .socket = socket};
    if (!take_descriptors(sink, fd)) {
        uncount_sink(server, socket);
        return MUSTER_OVERLOADED;
    }
    pthread_mutex_init(&sink->lock, NULL);
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
    uncount_sink(sink->server, sink->socket);
    if (sink->socket)
        (void)close(sink->wake);
    muster_buf_free(&sink->behind);
    sink->server->behind -= (int64_t)sink->counted;
    pthread_mutex_destroy(&sink->lock);
}

void
http_wake(int fd)
{
    uint64_t one = 1;

    /* It can only fail when it is about to wake already. */
    if (write(fd, &one, sizeof one) < 0)
        return;
}

void
http_sink_wake(struct http_sink *sink)
{
    if (sink->socket)
        http_wake(sink->wake);
    else if (sink->kept)
        http_keeper_wake((struct http_stream *)(void *)sink);
}

void
http_sink_stop(struct http_sink *sink)
{
    if (sink->socket)
        http_wake(sink->wake);
    else
        (void)shutdown(sink->fd, SHUT_RD); /* whoever waits for the client takes it to have left */
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

/* After each change of `behind`. */
static void
count_behind(struct http_sink *sink)
{
    if (sink->behind.size != sink->counted)
        sink->server->behind += (int64_t)sink->behind.size - (int64_t)sink->counted;
    sink->counted = sink->behind.size;
}

/* Without regard to the limit. */
static void
hand(struct http_sink *sink, const char *data, size_t size)
{
    size_t most = (size_t)sink->server->options->max_backlog, sent = 0;
    bool begins = sink->behind.size == 0;

    if (begins) {
        sink->large = size > most ? size : 0;
        sent = send_now(sink, data, size);
        sink->rest = rest_after(sink, data, 0, sent);
    }
    if (sent < size && !sink->broken)
        muster_buf_add(&sink->behind, data + sent, size - sent);
    count_behind(sink);
    if (begins && sent < size && (sink->socket || sink->broken)) /* the keeper hears of room to send by itself */
        http_sink_wake(sink);
}

static bool
is_over(const struct http_sink *sink)
{
    return sink->dropped || sink->broken || sink->closed;
}

/* It has not taken what came before, and there is no room for more. */
static bool
is_too_slow(const struct http_sink *sink, size_t size)
{
    const struct http_server *server = sink->server;

    return sink->behind.size > 0 && (sink->behind.size + size > (size_t)server->options->max_backlog + sink->large ||
                                     server->behind + (int64_t)size > server->max_behind);
}

void
http_sink_put(struct http_sink *sink, const char *data, size_t size)
{
    if (is_over(sink))
        return;
    if (is_too_slow(sink, size)) {
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
    count_behind(sink);
    if (sink->behind.size == 0)
        muster_buf_free(&sink->behind); /* it may live for days without needing it again */
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
