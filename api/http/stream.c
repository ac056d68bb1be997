/* SPDX-License-Identifier: MPL-2.0 */
/* The handler's side of an event stream: joins history and live, then parks until there is a reason to act.
 *
 * The connection's thread.  Joining: the hub keeps live events from the open on; the log is asked to put everything on
 * disk that was published; the stored events are sent; then the kept ones with higher numbers.  So nothing is left out
 * and nothing sent twice.  The parked thread sees at once that its client has left, sends what a slow client did not
 * take yet, and beats. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/http/hub.h"

enum { HISTORY_PIECE = 32768 };

void
http_stream_text(const struct http_server *server, const struct event *event, http_render_event *render, void *arg,
                 struct muster_arena *arena, struct muster_buf *out)
{
    char cursor[MUSTER_CURSOR_TEXT];
    size_t begin = out->size, head;

    muster_cursor_text(server->house.store, event->seq, cursor);
    muster_buf_printf(out, "id: %s\n", cursor);
    head = out->size;
    render(out, event, arena, arg);
    if (out->size > head)
        muster_buf_str(out, "\n");
    else
        out->size = begin;
}

/* ---- open and drop ---- */

static bool
count_stream(struct http_server *server)
{
    if (++server->stream_count <= server->options->max_streams)
        return true;
    server->stream_count--;
    return false;
}

muster_err
http_stream_open(struct http_request *request, const struct muster_id *job, http_render_event *render, void *arg)
{
    struct http_server *server = request->server;
    struct http_stream *stream;
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
    stream = muster_alloc(sizeof *stream);
    *stream = (struct http_stream){.job = *job, .render = render, .arg = arg, .fd = fd, .wake = wake, .last = -1};
    http_hub_join(server->streams, stream);
    request->stream = stream;
    return MUSTER_OK;
}

void
http_stream_drop(struct http_request *request)
{
    struct http_stream *stream = request->stream;

    if (stream == NULL)
        return;
    http_hub_leave(stream);
    request->stream = NULL;
    request->server->stream_count--;
    (void)close(stream->wake);
    muster_buf_free(&stream->early);
    muster_buf_free(&stream->marks);
    muster_buf_free(&stream->behind);
    free(stream);
}

/* ---- sending with patience ---- */

/* Why the thread woke. */
struct woken {
    bool left; /* the client */
    bool writable;
    bool silence; /* nothing happened in time */
};

static struct woken
park(const struct http_stream *stream, bool writes, int64_t timeout_ms)
{
    struct pollfd fds[2] = {{.fd = stream->fd, .events = (short)(POLLRDHUP | (writes ? POLLOUT : 0))},
                            {.fd = stream->wake, .events = POLLIN}};
    struct woken woken = {false, false, false};
    uint64_t count;
    int ready = poll(fds, 2, (int)(timeout_ms > 0 ? timeout_ms : 0));

    woken.silence = ready == 0;
    if (ready <= 0)
        return woken;
    if ((fds[1].revents & POLLIN) && read(stream->wake, &count, sizeof count) < 0)
        return woken;
    woken.left = (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
    woken.writable = (fds[0].revents & POLLOUT) != 0;
    return woken;
}

/* Everything, while the client takes some of it every request_timeout. */
static bool
send_all(struct http_request *request, const char *data, size_t size)
{
    struct http_stream *stream = request->stream;
    struct woken woken;
    ssize_t sent;

    while (size > 0) {
        sent = send(stream->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
            continue;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return false;
        woken = park(stream, true, request->server->options->request_timeout);
        if (woken.left || woken.silence || request->server->stopping)
            return false;
    }
    return true;
}

/* ---- joining ---- */

struct history {
    struct http_request *request;
    struct muster_arena *arena;
    struct muster_buf text;
    int64_t last;
    bool final;
    bool failed;
};

static bool
flush_history(struct history *history)
{
    if (!history->failed && history->text.size > 0)
        history->failed = !send_all(history->request, history->text.data, history->text.size);
    muster_buf_clear(&history->text);
    return !history->failed;
}

static bool
on_stored_event(void *arg, const struct event *event)
{
    struct history *history = arg;
    const struct http_stream *stream = history->request->stream;
    const struct muster_event_row *row = muster_event_row(event->type);

    muster_arena_clear(history->arena);
    http_stream_text(history->request->server, event, stream->render, stream->arg, history->arena, &history->text);
    history->request->server->stream_events++;
    history->last = event->seq;
    history->final = row && row->final;
    if (history->final)
        return false;
    return history->text.size < HISTORY_PIECE || flush_history(history);
}

static bool
has_ended(struct http_request *request)
{
    struct muster_store *store = request->server->house.store;
    struct muster_arena *arena = muster_arena_new();
    struct job job;
    bool ended = false;

    if (muster_store_get(store, &job_type, &request->stream->job, arena, &job) == MUSTER_OK)
        ended = job.state == job_state_COMPLETED || job.state == job_state_FAILED || job.state == job_state_CANCELLED;
    muster_arena_free(&arena);
    return ended;
}

static bool
send_history(struct http_request *request, int64_t after, bool *out_final, int64_t *out_last)
{
    struct history history = {.request = request, .last = after};
    struct log_flush flush = {.all = true};
    struct store_committed committed;
    bool ended;

    if (http_ask_directly(request, MUSTER_LOG, &log_flush_type, &flush, &store_committed_type, &committed, HTTP_HOP_MS))
        return false;
    /* Looked at before the walk: a job that has ended by now has its last event in the log, or no longer. */
    ended = has_ended(request);
    history.arena = muster_arena_new();
    if (muster_log_walk(request->server->house.store, &request->stream->job, after, on_stored_event, &history))
        history.failed = true;
    (void)flush_history(&history);
    muster_arena_free(&history.arena);
    muster_buf_free(&history.text);
    *out_final = history.final || ended;
    *out_last = history.last;
    return !history.failed;
}

/* Take the kept events with numbers above `last` out of the stream.  Under the bucket's lock. */
static void
take_early(struct http_stream *stream, struct muster_buf *out)
{
    const struct http_mark *mark = (const struct http_mark *)(void *)stream->marks.data;
    size_t count = stream->marks.size / sizeof *mark, begin = 0, i;

    for (i = 0; i < count && !stream->final; i++) {
        if (mark[i].seq > stream->last) {
            muster_buf_add(out, stream->early.data + begin, mark[i].end - begin);
            stream->last = mark[i].seq;
            stream->final = mark[i].final;
        }
        begin = mark[i].end;
    }
    muster_buf_free(&stream->early);
    muster_buf_free(&stream->marks);
}

/* Send what was kept until nothing is left; then the hub sends. */
static bool
go_live(struct http_request *request)
{
    struct http_stream *stream = request->stream;
    struct muster_buf text = {0};
    bool sent = true;

    for (;;) {
        muster_buf_clear(&text);
        pthread_mutex_lock(&stream->bucket->lock);
        take_early(stream, &text);
        stream->live = text.size == 0 && !stream->missed;
        pthread_mutex_unlock(&stream->bucket->lock);
        if (text.size == 0 || !(sent = send_all(request, text.data, text.size)))
            break;
    }
    muster_buf_free(&text);
    return sent;
}

static bool
join(struct http_request *request, int64_t after)
{
    struct http_stream *stream = request->stream;
    struct muster_buf behind = {0};
    int64_t last = after;
    bool final = false, sent;

    pthread_mutex_lock(&stream->bucket->lock);
    stream->live = stream->missed = false;
    muster_buf_free(&stream->early);
    muster_buf_free(&stream->marks);
    behind = stream->behind;
    stream->behind = (struct muster_buf){0};
    pthread_mutex_unlock(&stream->bucket->lock);
    sent = send_all(request, behind.data, behind.size) && send_history(request, after, &final, &last);
    muster_buf_free(&behind);
    if (!sent)
        return false;
    pthread_mutex_lock(&stream->bucket->lock);
    stream->last = last;
    stream->final = final;
    pthread_mutex_unlock(&stream->bucket->lock);
    return go_live(request);
}

/* ---- following ---- */

/* Send some of what the client was behind with.  Under the bucket's lock. */
static void
send_behind(struct http_stream *stream)
{
    ssize_t sent = send(stream->fd, stream->behind.data, stream->behind.size, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent > 0)
        muster_buf_shift(&stream->behind, (size_t)sent);
    else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        stream->dropped = true;
}

static void
beat(const struct http_server *server, struct http_stream *stream)
{
    char text[96];
    int size =
        snprintf(text, sizeof text, "event: heartbeat\ndata: {\"timestamp\":%lld}\n\n", (long long)muster_clock_ms());

    if (stream->behind.size == 0)
        http_stream_put(server, stream, text, (size_t)size);
}

/* Is the key that opened the stream still good?  Looked at with every heartbeat. */
static bool
may_go_on(const struct http_request *request)
{
    struct muster_notice *notice;
    const struct muster_keys *keys;
    int64_t now_ms = muster_clock_ms();
    bool good = !request->has_key;
    size_t i;

    notice = muster_board_take(request->server->house.bus, MUSTER_KEYS_BOARD);
    if (notice == NULL)
        return true; /* being republished: the next beat will tell */
    keys = muster_notice_object(notice);
    for (i = 0; i < muster_keys_count(keys) && !good; i++) {
        const struct key *key = muster_keys_at(keys, i);

        good = muster_id_equal(&key->id, &request->key.id) && key->revoked_ms == 0 &&
               (key->expires_ms == 0 || key->expires_ms > now_ms);
    }
    muster_notice_release(&notice);
    return good;
}

/* What the parked thread does next. */
enum turn { TURN_WAIT, TURN_WRITE, TURN_JOIN, TURN_END };

static enum turn
look(struct http_request *request, const struct woken *woken, bool beats)
{
    struct http_stream *stream = request->stream;
    enum turn turn;

    pthread_mutex_lock(&stream->bucket->lock);
    if (woken->writable && stream->behind.size > 0)
        send_behind(stream);
    if (beats)
        beat(request->server, stream);
    if (stream->dropped || request->server->stopping)
        turn = TURN_END;
    else if (stream->missed)
        turn = TURN_JOIN;
    else if (stream->behind.size > 0)
        turn = TURN_WRITE;
    else
        turn = stream->final ? TURN_END : TURN_WAIT;
    pthread_mutex_unlock(&stream->bucket->lock);
    return turn;
}

/* False: it ended in the middle of an event. */
static bool
follow(struct http_request *request)
{
    struct http_stream *stream = request->stream;
    int64_t pause_ms = request->server->options->heartbeat;
    int64_t next_ms = http_clock_us() / 1000 + pause_ms, now_ms;
    struct woken woken = {false, false, false};
    enum turn turn;

    muster_post_close(&request->thread->post); /* thousands may be parked, and hardly any will ask again */
    while (!woken.left) {
        now_ms = http_clock_us() / 1000;
        if (now_ms >= next_ms && !may_go_on(request))
            break;
        turn = look(request, &woken, now_ms >= next_ms);
        if (now_ms >= next_ms)
            next_ms = now_ms + pause_ms;
        if (turn == TURN_END)
            break;
        if (turn == TURN_JOIN && !join(request, stream->last > 0 ? stream->last : 0))
            return false;
        if (turn != TURN_JOIN)
            woken = park(stream, turn == TURN_WRITE, next_ms - now_ms);
    }
    return stream->behind.size == 0;
}

static void
say_stopping(struct http_request *request)
{
    static const char text[] = ": server stopping\n\n";
    struct http_stream *stream = request->stream;

    /* A client that has no room for it finds out by the end of the connection. */
    (void)send(stream->fd, text, sizeof text - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool
send_head(struct http_request *request, const char *first, size_t first_size)
{
    struct muster_buf *out = &request->thread->out;

    http_close(request);
    request->answered = true;
    request->status = 200;
    muster_buf_clear(out);
    http_head(request, out, 200, "text/event-stream", -1);
    muster_buf_str(out, "retry: 2000\n\n");
    muster_buf_add(out, first, first_size);
    return send_all(request, out->data, out->size);
}

void
http_stream_run(struct http_request *request, const char *first, size_t first_size, int64_t after)
{
    struct http_stream *stream = request->stream;
    bool whole;

    if (!http_count(request)) {
        http_stream_drop(request);
        return;
    }
    whole = send_head(request, first, first_size) && (after >= 0 ? join(request, after) : go_live(request)) &&
            follow(request);
    if (stream->dropped)
        request->server->streams_dropped++;
    if (request->server->stopping && whole)
        say_stopping(request);
    http_stream_drop(request);
}

/* ---- cursors ---- */

muster_err
http_stream_cursor(struct http_request *request, const char *cursor, struct event *out_event)
{
    struct muster_store *store = request->server->house.store;
    struct log_flush flush = {.all = true};
    struct store_committed committed;
    int64_t seq;
    muster_err err = muster_cursor_parse(store, cursor, &seq);

    if (err)
        return err;
    err = muster_log_get(store, seq, request->thread->arena, out_event);
    if (err == MUSTER_NOT_FOUND && seq >= muster_log_oldest(store)) {
        /* It may be so new that it is not on disk yet. */
        (void)http_ask_directly(request, MUSTER_LOG, &log_flush_type, &flush, &store_committed_type, &committed,
                                HTTP_HOP_MS);
        err = muster_log_get(store, seq, request->thread->arena, out_event);
    }
    return err == MUSTER_NOT_FOUND ? MUSTER_CURSOR_EXPIRED : err;
}
