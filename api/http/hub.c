/* SPDX-License-Identifier: MPL-2.0 */
/* The hub of event streams: hands every live event to the clients that follow its job.
 *
 * Runs on a thread of its own with mailbox "streams".  An event is rendered once for all clients that want it the same
 * way and sent without waiting; what a client does not take at once is left to its own parked thread, so a stalled
 * reader costs nobody else anything.  When the mailbox was full and events were missed, every client reads the log
 * again from where it is.  The same thread ends connections that take too long (watch.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/http/hub.h"

#define HUB_ADDRESS "streams"
enum { HUB_MAILBOX = 65536, TICK_MS = 250 };

/* ---- one client ---- */

void
http_stream_wake(const struct http_stream *stream)
{
    uint64_t one = 1;

    /* It can only fail when it is about to wake already. */
    if (write(stream->wake, &one, sizeof one) < 0)
        return;
}

void
http_stream_put(const struct http_server *server, struct http_stream *stream, const char *data, size_t size)
{
    size_t most = (size_t)server->options->max_backlog;
    ssize_t sent = 0;

    if (stream->dropped)
        return;
    if (stream->behind.size == 0) {
        stream->large = size > most ? size : 0;
        sent = send(stream->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == (ssize_t)size)
            return;
        if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            stream->dropped = true;
        if (sent < 0)
            sent = 0;
    } else if (stream->behind.size + size > most + stream->large) {
        stream->dropped = true;
    }
    if (!stream->dropped)
        muster_buf_add(&stream->behind, data + sent, size - (size_t)sent);
    http_stream_wake(stream);
}

static void
keep_early(const struct http_server *server, struct http_stream *stream, const struct event *event, bool final,
           const struct muster_buf *text)
{
    struct http_mark mark = {event->seq, stream->early.size + text->size, final};

    if (stream->early.size > 0 && mark.end > (size_t)server->options->max_backlog) {
        stream->missed = true;
        return;
    }
    muster_buf_add(&stream->early, text->data, text->size);
    muster_buf_add(&stream->marks, &mark, sizeof mark);
}

/* An event at hand, and for whom `text` was rendered last. */
struct shot {
    const struct event *event;
    bool final;
    bool rendered;
    http_render_event *render;
    void *arg;
};

static void
render_for(struct http_streams *streams, struct shot *shot, const struct http_stream *stream)
{
    if (shot->rendered && shot->render == stream->render && shot->arg == stream->arg)
        return;
    shot->rendered = true;
    shot->render = stream->render;
    shot->arg = stream->arg;
    muster_buf_clear(&streams->text);
    http_stream_text(streams->server, shot->event, shot->render, shot->arg, streams->arena, &streams->text);
}

static void
take(struct http_streams *streams, struct shot *shot, struct http_stream *stream)
{
    if (stream->final || stream->missed || stream->dropped || shot->event->seq <= stream->last)
        return;
    render_for(streams, shot, stream);
    if (!stream->live) {
        keep_early(streams->server, stream, shot->event, shot->final, &streams->text);
        return;
    }
    stream->last = shot->event->seq;
    stream->final = shot->final;
    if (streams->text.size > 0) {
        streams->server->stream_events++;
        http_stream_put(streams->server, stream, streams->text.data, streams->text.size);
    }
    if (stream->final)
        http_stream_wake(stream);
}

/* ---- all clients ---- */

static struct http_bucket *
bucket_of(struct http_streams *streams, const struct muster_id *job)
{
    return &streams->buckets[(job->bytes[14] << 8 | job->bytes[15]) % HUB_BUCKETS];
}

void
http_hub_join(struct http_streams *streams, struct http_stream *stream)
{
    struct http_bucket *bucket = bucket_of(streams, &stream->job);

    pthread_mutex_lock(&bucket->lock);
    stream->bucket = bucket;
    stream->next = bucket->first;
    bucket->first = stream;
    pthread_mutex_unlock(&bucket->lock);
}

void
http_hub_leave(struct http_stream *stream)
{
    struct http_bucket *bucket = stream->bucket;
    struct http_stream **at;

    pthread_mutex_lock(&bucket->lock);
    for (at = &bucket->first; *at != stream; at = &(*at)->next)
        ;
    *at = stream->next;
    pthread_mutex_unlock(&bucket->lock);
}

static void
for_each(struct http_streams *streams, void (*call)(struct http_stream *stream))
{
    struct http_stream *stream;
    size_t i;

    for (i = 0; i < HUB_BUCKETS; i++) {
        pthread_mutex_lock(&streams->buckets[i].lock);
        for (stream = streams->buckets[i].first; stream; stream = stream->next)
            call(stream);
        pthread_mutex_unlock(&streams->buckets[i].lock);
    }
}

static void
wake_one(struct http_stream *stream)
{
    http_stream_wake(stream);
}

void
http_streams_wake(struct http_streams *streams)
{
    for_each(streams, wake_one);
}

static void
miss_one(struct http_stream *stream)
{
    stream->missed = true;
    http_stream_wake(stream);
}

/* ---- the thread ---- */

static void
hand_out(struct http_streams *streams, const struct event *event)
{
    const struct muster_event_row *row = muster_event_row(event->type);
    struct http_bucket *bucket = bucket_of(streams, &event->job);
    struct shot shot = {.event = event, .final = row && row->final};
    struct http_stream *stream;

    pthread_mutex_lock(&bucket->lock);
    for (stream = bucket->first; stream; stream = stream->next)
        if (muster_id_equal(&stream->job, &event->job))
            take(streams, &shot, stream);
    pthread_mutex_unlock(&bucket->lock);
}

static void
on_frame(void *arg, const void *data, size_t size)
{
    struct http_streams *streams = arg;
    struct muster_envelope envelope;
    struct feed_event feed;

    if (streams->server->stream_count == 0)
        return;
    muster_arena_clear(streams->arena);
    if (muster_envelope_unpack(data, size, streams->arena, &envelope) ||
        strcmp(envelope.type, feed_event_type.wire) != 0 ||
        muster_unpack(&feed_event_type, envelope.body.data, envelope.body.size, streams->arena, &feed, NULL))
        return;
    if (!muster_id_is_zero(&feed.event->job))
        hand_out(streams, feed.event);
}

static void
on_idle(void *arg)
{
    struct http_streams *streams = arg;

    if (muster_feed_missed(streams->server->house.bus, HUB_ADDRESS) > 0)
        for_each(streams, miss_one);
    if (streams->text.capacity > HTTP_KEEP_BYTES)
        muster_buf_free(&streams->text);
}

static void
on_tick(void *arg)
{
    struct http_streams *streams = arg;
    int64_t pause_ms = streams->server->options->request_timeout / 4;

    http_watch_tick(streams->server);
    (void)muster_loop_timer(streams->loop, pause_ms < TICK_MS ? pause_ms : TICK_MS, on_tick, streams);
}

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct http_streams *streams = arg;

    streams->loop = loop;
    on_tick(streams);
    return muster_feed_subscribe(streams->server->house.bus, HUB_ADDRESS);
}

static void
on_end(void *arg)
{
    struct http_streams *streams = arg;

    muster_feed_unsubscribe(streams->server->house.bus, HUB_ADDRESS);
}

static const struct muster_runner_hooks hooks = {on_begin, on_frame, on_idle, on_end};

/* ---- birth and death ---- */

static void
streams_free(struct http_streams *streams)
{
    size_t i;

    for (i = 0; i < HUB_BUCKETS; i++)
        pthread_mutex_destroy(&streams->buckets[i].lock);
    muster_arena_free(&streams->arena);
    muster_buf_free(&streams->text);
    free(streams);
}

muster_err
http_streams_start(struct http_server *server, struct http_streams **out_streams)
{
    struct http_streams *streams = muster_alloc(sizeof *streams);
    muster_err err;
    size_t i;

    streams->server = server;
    streams->arena = muster_arena_new();
    for (i = 0; i < HUB_BUCKETS; i++)
        pthread_mutex_init(&streams->buckets[i].lock, NULL);
    err = muster_runner_start(server->house.bus, HUB_ADDRESS, HUB_MAILBOX, &hooks, streams, &streams->runner);
    if (err) {
        streams_free(streams);
        return err;
    }
    *out_streams = streams;
    return MUSTER_OK;
}

void
http_streams_stop(struct http_streams **streams_p)
{
    if (*streams_p == NULL)
        return;
    muster_runner_stop(&(*streams_p)->runner);
    streams_free(*streams_p);
    *streams_p = NULL;
}
