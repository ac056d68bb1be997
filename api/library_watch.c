/* SPDX-License-Identifier: MPL-2.0 */
/* library_watch: knows up to which number all events of the log are on disk, and tells the follows.
 *
 * One thread of a hub, with mailbox "library", from the first follow on.  Whenever something was published it asks the
 * log to put everything on disk, one request at a time and not more often than every few milliseconds; the answer's
 * number is what follows may read up to.  Events that the mailbox had no room for are no loss: they are in the log.
 * What can fail: the log's mailbox may be full, or the disk; it is asked again a moment later. */
#include <stdlib.h>
#include <string.h>

#include "api/library.h"

#define ADDRESS "library"

enum {
    MAILBOX = 4096,
    PACE_MS = 5,     /* between two requests */
    AGAIN_MS = 100,  /* after one that failed */
    ANSWER_MS = 5000 /* after which an answer is not waited for any longer */
};

struct library_watch {
    struct library *library;
    const struct muster_house *house;
    struct muster_runner *runner;
    struct muster_loop *loop;
    struct muster_arena *arena; /* of the message at hand */
    bool dirty;                 /* something was published since the last request */
    bool asked;                 /* a request is under way */
    int timer;                  /* for the next step; 0: none */
    int64_t asked_ms;           /* when the last request was sent */
};

static void step(struct library_watch *watch);

static void
on_timer(void *arg)
{
    struct library_watch *watch = arg;

    watch->timer = 0;
    if (watch->asked) /* no answer came */
        watch->dirty = true;
    watch->asked = false;
    step(watch);
}

static void
set_timer(struct library_watch *watch, int64_t delay_ms)
{
    muster_loop_timer_end(watch->loop, watch->timer);
    watch->timer = muster_loop_timer(watch->loop, delay_ms, on_timer, watch);
}

static void
ask(struct library_watch *watch)
{
    struct muster_envelope envelope = {.reply_to = ADDRESS, .trace = "", .principal.name = ""};
    struct log_flush flush = {.all = true};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, &log_flush_type, &flush, &frame);
    watch->asked_ms = muster_uptime_ns() / 1000000;
    watch->asked = muster_post_send(muster_loop_post(watch->loop), MUSTER_LOG, &frame) == MUSTER_OK;
    watch->dirty = !watch->asked;
    set_timer(watch, watch->asked ? ANSWER_MS : AGAIN_MS);
    muster_buf_free(&frame);
}

/* A follow that is opened now asks the log itself. */
static bool
has_follows(const struct library_watch *watch)
{
    bool has;

    pthread_mutex_lock(&watch->library->lock);
    has = watch->library->follows != NULL;
    pthread_mutex_unlock(&watch->library->lock);
    return has;
}

/* Ask if there is a reason to, now or when it is time. */
static void
step(struct library_watch *watch)
{
    int64_t since_ms = muster_uptime_ns() / 1000000 - watch->asked_ms;

    if (!watch->dirty || watch->asked || watch->timer || !has_follows(watch))
        return;
    if (since_ms < PACE_MS)
        set_timer(watch, PACE_MS - since_ms);
    else
        ask(watch);
}

static void
on_committed(struct library_watch *watch, const struct muster_envelope *envelope)
{
    struct store_committed committed;
    muster_err err =
        muster_unpack(&store_committed_type, envelope->body.data, envelope->body.size, watch->arena, &committed, NULL);

    watch->asked = false;
    muster_loop_timer_end(watch->loop, watch->timer);
    watch->timer = 0;
    if (err)
        return;
    pthread_mutex_lock(&watch->library->lock);
    library_follows_tell(watch->library, committed.seq);
    pthread_mutex_unlock(&watch->library->lock);
}

static void
on_frame(void *arg, const void *data, size_t size)
{
    struct library_watch *watch = arg;
    struct muster_envelope envelope;

    muster_arena_clear(watch->arena);
    if (muster_envelope_open(data, size, watch->arena, &envelope))
        return;
    if (strcmp(envelope.type, feed_events_type.wire) == 0) {
        watch->dirty = true;
    } else if (strcmp(envelope.type, store_committed_type.wire) == 0) {
        on_committed(watch, &envelope);
    } else if (watch->asked) { /* `failed` */
        watch->asked = false;
        watch->dirty = true;
        set_timer(watch, AGAIN_MS);
    }
}

static void
on_idle(void *arg)
{
    struct library_watch *watch = arg;

    if (muster_feed_missed(watch->house->bus, ADDRESS) > 0)
        watch->dirty = true;
    step(watch);
}

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct library_watch *watch = arg;

    watch->loop = loop;
    return muster_feed_subscribe(watch->house->bus, ADDRESS, MUSTER_FEED_LIVE | MUSTER_FEED_DURABLE);
}

static void
on_end(void *arg)
{
    struct library_watch *watch = arg;

    muster_feed_unsubscribe(watch->house->bus, ADDRESS);
}

static const struct muster_runner_hooks hooks = {.begin = on_begin, .frame = on_frame, .idle = on_idle, .end = on_end};

static void
watch_free(struct library_watch *watch)
{
    muster_arena_free(&watch->arena);
    free(watch);
}

muster_err
library_watch_start(struct library *library)
{
    struct library_watch *watch;
    muster_err err;

    if (library->watch)
        return MUSTER_OK;
    watch = muster_alloc(sizeof *watch);
    watch->library = library;
    watch->house = library->house;
    watch->arena = muster_arena_new();
    watch->dirty = true;
    err = muster_runner_start(library->house->bus, ADDRESS, MAILBOX, &hooks, watch, &watch->runner);
    if (err)
        watch_free(watch);
    else
        library->watch = watch;
    return err;
}

void
library_watch_stop(struct library *library)
{
    if (library->watch == NULL)
        return;
    muster_runner_stop(&library->watch->runner);
    watch_free(library->watch);
    library->watch = NULL;
}
