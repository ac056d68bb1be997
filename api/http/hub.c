/* SPDX-License-Identifier: MPL-2.0 */
/* The hub: hands every live event to the clients that follow its job or its team.
 *
 * Runs on a thread of its own with mailbox "streams".  Who follows a job gets its events as they come.  Who follows
 * teams gets them in the order of their numbers: an event above what is settled (see feed.event) is held back until the
 * lower ones have come or never will.  An event is rendered once for all clients that want it the same way and sent
 * without waiting.  When the mailbox was full and events were missed, every client reads the log again from where it
 * is; this is found out before anything from behind the gap is handled, because the mailbox is larger than a batch. The
 * same thread ends connections that take too long (watch.c). */
#include <stdlib.h>
#include <string.h>

#include "api/http/hub.h"

#define HUB_ADDRESS "streams"
enum {
    HUB_MAILBOX = 65536,
    HUB_HELD = 65536, /* events held back at most, */
    HUB_HELD_BYTES = 64 << 20,
    TICK_MS = 250
};

/* ---- one client ---- */

/* An event at hand. */
struct shot {
    const struct event *event;
    bool final;
};

static void
shot_init(struct http_streams *streams, const struct event *event, struct shot *shot)
{
    const struct muster_event_row *row = muster_event_row(event->type);
    size_t i;

    *shot = (struct shot){event, row && row->final && !muster_id_is_zero(&event->job)};
    for (i = 0; i < HUB_TEXTS; i++)
        streams->texts[i].used = false;
}

static const struct muster_buf *
text_for(struct http_streams *streams, const struct shot *shot, const struct http_sink *sink)
{
    struct hub_text *text;
    size_t i;

    for (i = 0; i < HUB_TEXTS; i++) {
        text = &streams->texts[i];
        if (text->used && text->render == sink->render && text->arg == sink->arg && text->socket == sink->socket)
            return &text->text;
    }
    text = &streams->texts[streams->next_text++ % HUB_TEXTS];
    text->used = true;
    text->socket = sink->socket;
    text->render = sink->render;
    text->arg = sink->arg;
    muster_buf_clear(&text->text);
    http_sink_text(sink, shot->event, streams->event, &text->text);
    return &text->text;
}

/* Under the sink's lock. */
static void
pass(struct http_streams *streams, const struct shot *shot, struct http_follow *follow)
{
    const struct event *event = shot->event;
    static const struct muster_buf nothing = {0};
    const struct muster_buf *text = &nothing;

    http_follow_bind(follow, event->team);
    if (shot->final && (!http_follow_is_ordered(follow) || follow->sink->follow_count > 1))
        http_sink_wake(follow->sink); /* to let go of the job */
    if (follow->live && !http_follow_due(follow, event->seq, &event->job, shot->final))
        return;
    if (http_follow_shows(follow, event))
        text = text_for(streams, shot, follow->sink);
    if (!follow->live) {
        http_follow_keep(follow, event, shot->final, text);
        return;
    }
    if (text->size > 0) {
        streams->server->stream_events++;
        http_sink_put(follow->sink, text->data, text->size);
    }
}

static void
take(struct http_streams *streams, const struct shot *shot, struct http_follow *follow)
{
    struct http_sink *sink = follow->sink;

    pthread_mutex_lock(&sink->lock);
    if (!follow->final && !follow->missed && !sink->dropped && !sink->broken && !sink->closed)
        pass(streams, shot, follow);
    pthread_mutex_unlock(&sink->lock);
}

/* ---- all clients ---- */

static struct http_bucket *
team_bucket(struct http_streams *streams, const char *team)
{
    unsigned hash = 0;

    for (; *team; team++)
        hash = hash * 31 + (unsigned char)*team;
    return &streams->teams[hash % HUB_TEAMS];
}

static struct http_bucket *
job_bucket(struct http_streams *streams, const struct muster_id *job)
{
    return &streams->jobs[(job->bytes[14] << 8 | job->bytes[15]) % HUB_JOBS];
}

static struct http_bucket *
bucket_of(struct http_streams *streams, const struct http_follow *follow)
{
    if (!http_follow_is_ordered(follow))
        return job_bucket(streams, &follow->job);
    if (follow->teams && follow->teams[strlen(follow->teams) + 1] == '\0')
        return team_bucket(streams, follow->teams);
    return &streams->wide;
}

void
http_hub_add(struct http_streams *streams, struct http_sink *sink)
{
    struct muster_bus *bus = streams->server->house.bus;

    pthread_mutex_lock(&streams->lock);
    if (!streams->subscribed) /* fails at the stop only */
        streams->subscribed =
            muster_feed_subscribe(bus, HUB_ADDRESS, MUSTER_FEED_LIVE | MUSTER_FEED_DURABLE) == MUSTER_OK;
    sink->next = streams->sinks;
    sink->at = &streams->sinks;
    if (sink->next)
        sink->next->at = &sink->next;
    streams->sinks = sink;
    pthread_mutex_unlock(&streams->lock);
}

void
http_hub_remove(struct http_streams *streams, struct http_sink *sink)
{
    pthread_mutex_lock(&streams->lock);
    *sink->at = sink->next;
    if (sink->next)
        sink->next->at = sink->at;
    pthread_mutex_unlock(&streams->lock);
}

void
http_hub_join(struct http_streams *streams, struct http_follow *follow)
{
    struct http_bucket *bucket = bucket_of(streams, follow);

    if (http_follow_is_ordered(follow))
        streams->ordered++;
    pthread_mutex_lock(&bucket->lock);
    follow->bucket = bucket;
    follow->next = bucket->first;
    follow->at = &bucket->first;
    if (follow->next)
        follow->next->at = &follow->next;
    bucket->first = follow;
    pthread_mutex_unlock(&bucket->lock);
}

void
http_hub_leave(struct http_follow *follow)
{
    struct http_bucket *bucket = follow->bucket;

    pthread_mutex_lock(&bucket->lock);
    *follow->at = follow->next;
    if (follow->next)
        follow->next->at = follow->at;
    pthread_mutex_unlock(&bucket->lock);
    if (http_follow_is_ordered(follow))
        follow->sink->server->streams->ordered--;
}

static void
for_each_in(struct http_bucket *bucket, void (*call)(struct http_follow *follow))
{
    struct http_follow *follow;

    pthread_mutex_lock(&bucket->lock);
    for (follow = bucket->first; follow; follow = follow->next)
        call(follow);
    pthread_mutex_unlock(&bucket->lock);
}

static void
for_each(struct http_streams *streams, void (*call)(struct http_follow *follow))
{
    size_t i;

    for (i = 0; i < HUB_JOBS; i++)
        for_each_in(&streams->jobs[i], call);
    for (i = 0; i < HUB_TEAMS; i++)
        for_each_in(&streams->teams[i], call);
    for_each_in(&streams->wide, call);
}

/* Every one, also those that follow nothing. */
void
http_streams_wake(struct http_streams *streams)
{
    struct http_sink *sink;

    pthread_mutex_lock(&streams->lock);
    for (sink = streams->sinks; sink; sink = sink->next)
        http_sink_stop(sink);
    pthread_mutex_unlock(&streams->lock);
    http_keeper_hurry(streams->keeper);
}

static void
miss_one(struct http_follow *follow)
{
    pthread_mutex_lock(&follow->sink->lock);
    follow->missed = true;
    http_sink_wake(follow->sink);
    pthread_mutex_unlock(&follow->sink->lock);
}

static void
miss_ordered(struct http_follow *follow)
{
    if (http_follow_is_ordered(follow))
        miss_one(follow);
}

/* ---- handing out ---- */

static void
hand_out_job(struct http_streams *streams, const struct shot *shot)
{
    struct http_bucket *bucket = job_bucket(streams, &shot->event->job);
    struct http_follow *follow;

    if (muster_id_is_zero(&shot->event->job))
        return;
    pthread_mutex_lock(&bucket->lock);
    for (follow = bucket->first; follow; follow = follow->next)
        if (muster_id_equal(&follow->job, &shot->event->job))
            take(streams, shot, follow);
    pthread_mutex_unlock(&bucket->lock);
}

static void
hand_out_in(struct http_streams *streams, struct http_bucket *bucket, const struct shot *shot)
{
    struct http_follow *follow;

    pthread_mutex_lock(&bucket->lock);
    for (follow = bucket->first; follow; follow = follow->next)
        if (http_follow_has_team(follow, shot->event->team))
            take(streams, shot, follow);
    pthread_mutex_unlock(&bucket->lock);
}

static void
hand_out_ordered(struct http_streams *streams, const struct shot *shot)
{
    hand_out_in(streams, team_bucket(streams, shot->event->team), shot);
    hand_out_in(streams, &streams->wide, shot);
}

static void
hold(struct http_streams *streams, const struct event *event)
{
    struct muster_buf packed = {0};

    muster_pack(&event_type, event, &packed);
    order_put(streams->order, event->seq, packed.data, packed.size);
    muster_buf_free(&packed);
    if (order_count(streams->order) <= HUB_HELD && order_bytes(streams->order) <= HUB_HELD_BYTES)
        return;
    /* Something is wrong with what should have settled long ago.  The log will tell. */
    order_clear(streams->order);
    for_each(streams, miss_ordered);
}

static void
let_go(struct http_streams *streams, int64_t settled)
{
    struct event event;
    struct shot shot;

    while (order_take(streams->order, settled, &streams->held)) {
        muster_arena_clear(streams->event);
        if (muster_unpack(&event_type, streams->held.data, streams->held.size, streams->event, &event, NULL))
            continue;
        shot_init(streams, &event, &shot);
        hand_out_ordered(streams, &shot);
    }
}

/* In the order of the numbers.  Most often nothing is held and the event is settled: then it goes straight through. */
static void
pass_ordered(struct http_streams *streams, const struct shot *shot, int64_t settled)
{
    if (streams->ordered == 0) {
        order_clear(streams->order); /* who joins now begins behind all that was given a number */
        return;
    }
    if (shot->event && (shot->event->seq > settled || order_count(streams->order) > 0))
        hold(streams, shot->event);
    else if (shot->event)
        hand_out_ordered(streams, shot);
    let_go(streams, settled);
}

/* ---- the thread ---- */

static void
on_frame(void *arg, const void *data, size_t size)
{
    struct http_streams *streams = arg;
    struct muster_envelope envelope;
    struct feed_events feed;
    struct shot shot;
    size_t i;

    if (streams->stale > 0) {
        streams->stale--;
        return;
    }
    if (streams->server->stream_count == 0 && streams->server->socket_count == 0 && order_count(streams->order) == 0)
        return;
    muster_arena_clear(streams->arena);
    if (muster_envelope_open(data, size, streams->arena, &envelope) ||
        strcmp(envelope.type, feed_events_type.wire) != 0 ||
        muster_unpack(&feed_events_type, envelope.body.data, envelope.body.size, streams->arena, &feed, NULL))
        return;
    for (i = 0; i < feed.events.count; i++) {
        muster_arena_clear(streams->event);
        shot_init(streams, &feed.events.items[i], &shot);
        hand_out_job(streams, &shot);
        pass_ordered(streams, &shot, muster_feed_settled(&feed, i));
    }
    if (feed.events.count == 0)
        pass_ordered(streams, &(struct shot){.event = NULL}, feed.settled);
}

static void
on_idle(void *arg)
{
    struct http_streams *streams = arg;
    size_t i;

    if (muster_feed_missed(streams->server->house.bus, HUB_ADDRESS) > 0)
        for_each(streams, miss_one);
    for (i = 0; i < HUB_TEXTS; i++)
        if (streams->texts[i].text.capacity > HTTP_KEEP_BYTES)
            muster_buf_free(&streams->texts[i].text);
}

/* Nobody wakes the hub for events that nobody reads.  What waits in its mailbox then is not for those who come later:
 * between it and what they get others are missing. */
static void
rest(struct http_streams *streams)
{
    pthread_mutex_lock(&streams->lock);
    if (streams->subscribed && streams->sinks == NULL) {
        muster_feed_unsubscribe(streams->server->house.bus, HUB_ADDRESS);
        streams->subscribed = false;
        streams->stale = muster_post_waiting(muster_loop_post(streams->loop));
        order_clear(streams->order);
    }
    pthread_mutex_unlock(&streams->lock);
}

static void
on_tick(void *arg)
{
    struct http_streams *streams = arg;
    int64_t pause_ms = streams->server->options->request_timeout / 4;

    rest(streams);
    http_watch_tick(streams->server);
    (void)muster_loop_timer(streams->loop, pause_ms < TICK_MS ? pause_ms : TICK_MS, on_tick, streams);
}

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct http_streams *streams = arg;

    streams->loop = loop;
    on_tick(streams);
    return MUSTER_OK;
}

static const struct muster_runner_hooks hooks = {.begin = on_begin, .frame = on_frame, .idle = on_idle};

/* ---- birth and death ---- */

static void
for_each_bucket(struct http_streams *streams, void (*call)(pthread_mutex_t *lock))
{
    size_t i;

    for (i = 0; i < HUB_JOBS; i++)
        call(&streams->jobs[i].lock);
    for (i = 0; i < HUB_TEAMS; i++)
        call(&streams->teams[i].lock);
    call(&streams->wide.lock);
}

static void
lock_init(pthread_mutex_t *lock)
{
    pthread_mutex_init(lock, NULL);
}

static void
lock_fini(pthread_mutex_t *lock)
{
    pthread_mutex_destroy(lock);
}

static void
streams_free(struct http_streams *streams)
{
    size_t i;

    http_keeper_stop(&streams->keeper);
    for_each_bucket(streams, lock_fini);
    pthread_mutex_destroy(&streams->lock);
    for (i = 0; i < HUB_TEXTS; i++)
        muster_buf_free(&streams->texts[i].text);
    muster_arena_free(&streams->arena);
    muster_arena_free(&streams->event);
    order_free(&streams->order);
    muster_buf_free(&streams->held);
    free(streams);
}

muster_err
http_streams_start(struct http_server *server, struct http_streams **out_streams)
{
    struct http_streams *streams = muster_alloc(sizeof *streams);
    muster_err err;

    streams->server = server;
    streams->arena = muster_arena_new();
    streams->event = muster_arena_new();
    streams->order = order_new();
    for_each_bucket(streams, lock_init);
    pthread_mutex_init(&streams->lock, NULL);
    err = http_keeper_start(server, &streams->keeper);
    if (err == MUSTER_OK)
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
