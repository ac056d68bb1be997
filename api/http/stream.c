/* SPDX-License-Identifier: MPL-2.0 */
/* An event stream from its request until it is live: joins history and live, then hands it to the keeper; and cursors.
 *
 * The connection's thread, which is free for other connections as soon as the stream is live.  Fails when there are too
 * many streams, and when the client or the log does. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api/caller.h"
#include "api/http/hub.h"

enum { PLACE_S = 1 /* how long a place is waited for */ };

/* ---- places ---- */

/* Until a stream is live it holds a thread, for as long as its client takes to read the history.  However many do, most
 * threads are left for others. */
static bool
take_place(struct http_request *request)
{
    struct timespec until;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PLACE_S;
    while (!request->joins && !request->server->stopping) {
        request->joins = sem_clockwait(&request->server->joins, CLOCK_MONOTONIC, &until) == 0;
        if (!request->joins && errno != EINTR)
            break;
    }
    return request->joins;
}

static void
leave_place(struct http_request *request)
{
    if (request->joins)
        (void)sem_post(&request->server->joins);
    request->joins = false;
}

/* ---- open and drop ---- */

int
http_stream_fd(const struct http_stream *stream)
{
    return stream->sink.fd;
}

muster_err
http_stream_open(struct http_request *request, const struct http_topic *topic, http_render_event *render,
                 const char *note)
{
    struct http_stream *stream;
    muster_err err;

    if (!take_place(request))
        return MUSTER_OVERLOADED;
    stream = muster_alloc(sizeof *stream);
    stream->note = note ? muster_strdup(note) : NULL;
    err = http_sink_open(&stream->sink, request, render, stream->note, false);
    if (err) {
        leave_place(request);
        free(stream->note);
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
http_stream_unfollow(struct http_stream *stream)
{
    http_hub_leave(stream->follow);
    http_follow_free(&stream->follow);
    http_sink_close(&stream->sink);
}

void
http_stream_free(struct http_stream **stream_p)
{
    struct http_stream *stream = *stream_p;

    *stream_p = NULL;
    (void)close(stream->sink.fd);
    free(stream->note);
    free(stream->texts);
    free(stream);
}

void
http_stream_drop(struct http_request *request)
{
    if (request->stream == NULL)
        return;
    http_stream_unfollow(request->stream);
    http_stream_free(&request->stream);
    leave_place(request);
}

/* ---- to the keeper ---- */

static void
keep_books(struct http_request *request, struct http_stream *stream)
{
    struct http_books *books = &stream->books;
    const char **texts[] = {&books->method, &books->path, &books->key, &books->address, &books->agent, &books->id};
    const size_t count = sizeof texts / sizeof *texts;
    struct muster_buf all = {0};
    size_t size, i;
    char *at;

    http_books_open(request, books);
    for (i = 0; i < count; i++)
        if (*texts[i])
            muster_buf_add(&all, *texts[i], strlen(*texts[i]) + 1);
    stream->texts = at = muster_buf_take(&all, &size);
    for (i = 0; i < count; i++)
        if (*texts[i]) {
            *texts[i] = at;
            at += strlen(at) + 1;
        }
}

/* From here on nothing of the stream is this thread's.  A stream that cannot be handed over ends, and its client comes
 * back with its cursor. */
static void
hand_over(struct http_request *request)
{
    struct http_server *server = request->server;

    if (!http_keeper_detach(server->streams->keeper, http_fd(request))) {
        http_stream_drop(request);
        return;
    }
    keep_books(request, request->stream);
    request->stream->pass = request->pass;
    request->kept = true;
    server->connections++; /* civetweb counts its own down now */
    http_keeper_take(&request->stream);
    leave_place(request);
}

/* ---- the whole ---- */

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

    if (!http_count(request)) {
        http_stream_drop(request);
        return;
    }
    if (after >= 0)
        begin_after(stream->follow, after);
    if (send_head(request, first, first_size) &&
        (after >= 0 ? http_join(request, stream->follow) : http_go_live(request, stream->follow)))
        hand_over(request);
    else
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
