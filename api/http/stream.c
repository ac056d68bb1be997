/* SPDX-License-Identifier: MPL-2.0 */
/* The handler's side of an event stream: joins history and live, then parks until there is a reason to act; and
 * cursors.
 *
 * The connection's thread.  The parked thread sees at once that its client has left, sends what a slow client did not
 * take yet, reads the log again when the hub missed something, and beats. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "api/caller.h"
#include "api/http/hub.h"

struct http_stream {
    struct http_sink sink;
    struct http_follow *follow;
};

/* ---- open and drop ---- */

muster_err
http_stream_open(struct http_request *request, const struct http_topic *topic, http_render_event *render, void *arg)
{
    struct http_stream *stream = muster_alloc(sizeof *stream);
    muster_err err = http_sink_open(&stream->sink, request, render, arg, false);

    if (err) {
        free(stream);
        return err;
    }
    stream->follow = http_follow_new(&stream->sink, topic, -1);
    http_hub_join(request->server->streams, stream->follow);
    request->stream = stream;
    if (!http_follow_is_ordered(stream->follow) || http_join_now(request, stream->follow))
        return MUSTER_OK;
    http_stream_drop(request);
    return MUSTER_OVERLOADED;
}

void
http_stream_drop(struct http_request *request)
{
    struct http_stream *stream = request->stream;

    if (stream == NULL)
        return;
    request->stream = NULL;
    http_hub_leave(stream->follow);
    http_follow_free(&stream->follow);
    http_sink_close(&stream->sink);
    free(stream);
}

/* ---- following ---- */

static void
beat(struct http_sink *sink)
{
    char text[96];
    int size =
        snprintf(text, sizeof text, "event: heartbeat\ndata: {\"timestamp\":%lld}\n\n", (long long)muster_clock_ms());

    if (sink->behind.size == 0)
        http_sink_put(sink, text, (size_t)size);
}

/* What the parked thread does next. */
enum turn { TURN_WAIT, TURN_WRITE, TURN_JOIN, TURN_END };

static enum turn
look(struct http_stream *stream, const struct http_woken *woken, bool beats)
{
    struct http_sink *sink = &stream->sink;
    enum turn turn;

    pthread_mutex_lock(&sink->lock);
    if (woken->writable)
        http_sink_flush(sink);
    if (beats)
        beat(sink);
    if (sink->dropped || sink->broken || sink->server->stopping)
        turn = TURN_END;
    else if (stream->follow->missed)
        turn = TURN_JOIN;
    else if (sink->behind.size > 0)
        turn = TURN_WRITE;
    else
        turn = stream->follow->final ? TURN_END : TURN_WAIT;
    pthread_mutex_unlock(&sink->lock);
    return turn;
}

static bool
is_whole(struct http_sink *sink)
{
    bool whole;

    pthread_mutex_lock(&sink->lock);
    whole = sink->behind.size == 0;
    pthread_mutex_unlock(&sink->lock);
    return whole;
}

/* False: it ended in the middle of an event. */
static bool
follow(struct http_request *request)
{
    struct http_stream *stream = request->stream;
    int64_t pause_ms = request->server->options->heartbeat;
    int64_t next_ms = http_clock_us() / 1000 + pause_ms, now_ms;
    struct http_woken woken = {.left = false};
    enum turn turn;

    muster_post_close(&request->thread->post); /* thousands may be parked, and hardly any will ask again */
    while (!woken.left) {
        now_ms = http_clock_us() / 1000;
        if (now_ms >= next_ms && !http_key_is_good(request))
            break;
        turn = look(stream, &woken, now_ms >= next_ms);
        if (now_ms >= next_ms)
            next_ms = now_ms + pause_ms;
        if (turn == TURN_END)
            break;
        if (turn == TURN_JOIN && !http_join(request, stream->follow))
            return false;
        if (turn != TURN_JOIN)
            woken = http_sink_park(&stream->sink, false, turn == TURN_WRITE, next_ms - now_ms);
    }
    return is_whole(&stream->sink);
}

/* ---- the whole ---- */

static void
say_stopping(const struct http_sink *sink)
{
    static const char text[] = ": server stopping\n\n";

    /* A client that has no room for it finds out by the end of the connection. */
    (void)send(sink->fd, text, sizeof text - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
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
    return http_sink_push(&request->stream->sink, out->data, out->size);
}

static void
begin_after(struct http_follow *one, int64_t after)
{
    pthread_mutex_lock(&one->sink->lock);
    one->from = one->last = after;
    pthread_mutex_unlock(&one->sink->lock);
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
    if (after >= 0)
        begin_after(stream->follow, after);
    whole = send_head(request, first, first_size) &&
            (after >= 0 ? http_join(request, stream->follow) : http_go_live(request, stream->follow)) &&
            follow(request);
    if (request->server->stopping && whole)
        say_stopping(&stream->sink);
    http_stream_drop(request);
}

/* ---- cursors ---- */

muster_err
http_cursor_parse(struct http_request *request, const char *cursor, int64_t *out_after)
{
    return caller_cursor(request->server->house.store, cursor, out_after);
}

void
http_fail_cursor(struct http_request *request, muster_err err, const char *name)
{
    struct muster_store *store = request->server->house.store;
    char oldest[MUSTER_CURSOR_TEXT];

    if (err == MUSTER_INVALID_REQUEST) {
        http_fail(request, err, "%s is not a cursor", name);
    } else if (err == MUSTER_CURSOR_EXPIRED) {
        muster_cursor_text(store, muster_log_oldest(store), oldest);
        http_fail_details(request, err, muster_arena_printf(http_arena(request), "{\"oldest\":\"%s\"}", oldest), "%s",
                          muster_err_text(err));
    } else {
        http_fail(request, err, "%s", muster_err_text(err));
    }
}

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
