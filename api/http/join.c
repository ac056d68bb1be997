/* SPDX-License-Identifier: MPL-2.0 */
/* Joins history and live: no event is left out and none sent twice.  A thread that may wait: the connection's, or
 * a reader of the keeper.  Fails when the client or the log does.
 *
 * The hub keeps live events from the join on; the log is asked to put everything on disk that was published; the stored
 * events are sent; then the kept ones with higher numbers.  A follow of a job takes all that is stored.  An ordered one
 * takes it up to what was settled when the log answered, because above that something may be missing yet; and it waits
 * until all is settled that had a number when it asked, because the hub may not have held back what came before it
 * joined. */
#include <string.h>

#include "actors/muster_job.h"
#include "api/http/hub.h"

enum {
    HISTORY_PIECE = 32768,
    LOOK_EVERY = 1024, /* events of a walk, after which it is seen whether the client is still there */
    SETTLE_TRIES = 20
};

/* ---- the log ---- */

static bool
flush_log(struct http_request *request, int64_t *out_settled)
{
    struct log_flush flush = {.all = true};
    struct store_committed committed;

    if (http_ask_directly(request, MUSTER_LOG, &log_flush_type, &flush, &store_committed_type, &committed, HTTP_HOP_MS))
        return false;
    *out_settled = committed.seq;
    return true;
}

/* A number up to which nothing is missing and all is on disk, and above which the hub has everything. */
static bool
settle(struct http_request *request, int64_t *out_settled)
{
    int64_t settled, last;
    int tries;

    if (!flush_log(request, &settled))
        return false;
    last = muster_log_last(request->server->house.store);
    for (tries = 0; settled < last; tries++)
        if (tries == SETTLE_TRIES || !flush_log(request, &settled))
            return false;
    *out_settled = settled;
    return true;
}

muster_err
http_settled(struct http_request *request, int64_t *out_seq)
{
    return settle(request, out_seq) ? MUSTER_OK : MUSTER_OVERLOADED;
}

static bool
has_ended(struct http_request *request, const struct muster_id *id)
{
    struct muster_arena *arena = muster_arena_new();
    struct job job;
    bool ended = false;

    if (muster_store_get(request->server->house.store, &job_type, id, arena, &job) == MUSTER_OK)
        ended = muster_job_ended(job.state);
    muster_arena_free(&arena);
    return ended;
}

/* ---- history ---- */

struct history {
    struct http_request *request;
    struct http_follow *follow;
    struct muster_arena *arena;
    struct muster_buf text;
    int64_t until; /* no further than this */
    int64_t last;  /* event seen */
    size_t seen;
    bool final;
    bool failed;
};

/* It takes as long as the client takes, so the key may have been revoked meanwhile. */
static bool
flush_history(struct history *history)
{
    if (!history->failed && history->text.size > 0)
        history->failed = !http_key_is_good(history->request) ||
                          !http_sink_push(history->follow->sink, history->text.data, history->text.size);
    muster_buf_clear(&history->text);
    return !history->failed;
}

/* Is it to be sent from here? */
static bool
is_due(struct history *history, const struct event *event, bool final)
{
    struct http_follow *follow = history->follow;
    bool due;

    pthread_mutex_lock(&follow->sink->lock);
    due = http_follow_finds(follow, event, final);
    pthread_mutex_unlock(&follow->sink->lock);
    return due;
}

static void
render(struct history *history, const struct event *event)
{
    const struct http_sink *sink = history->follow->sink;
    size_t before = history->text.size;

    muster_arena_clear(history->arena);
    http_sink_text(sink, event, history->arena, &history->text);
    if (history->text.size > before)
        sink->server->stream_events++;
}

/* A walk that shows nothing would not find out otherwise. */
static bool
may_go_on(struct history *history)
{
    const struct http_sink *sink = history->follow->sink;

    if (++history->seen % LOOK_EVERY == 0 && http_sink_park(sink, false, false, 0).left)
        history->failed = true;
    if (sink->server->stopping)
        history->failed = true;
    return !history->failed;
}

static bool
on_stored_event(void *arg, const struct event *event)
{
    struct history *history = arg;
    const struct http_follow *follow = history->follow;
    const struct muster_event_row *row = muster_event_row(event->type);
    bool final = row && row->final && !muster_id_is_zero(&event->job);

    if (event->seq > history->until)
        return false;
    history->last = event->seq;
    if (!http_follow_is_ordered(follow))
        history->final = final;
    else if (!http_follow_has_team(follow, event->team))
        return may_go_on(history);
    if (is_due(history, event, final) && http_follow_shows(follow, event))
        render(history, event);
    if (history->final)
        return false;
    return may_go_on(history) && (history->text.size < HISTORY_PIECE || flush_history(history));
}

static bool
walk(struct history *history)
{
    const struct http_follow *follow = history->follow;
    const struct muster_id *job = http_follow_is_ordered(follow) ? NULL : &follow->job;

    history->arena = muster_arena_new();
    if (muster_log_walk(history->request->server->house.store, job, history->last, on_stored_event, history))
        history->failed = true;
    (void)flush_history(history);
    muster_arena_free(&history->arena);
    muster_buf_free(&history->text);
    return !history->failed;
}

/* Alone it takes all that is stored.  Beside a follow of teams no more than what is settled: what comes above that, the
 * hub has kept, if it was for this one to send. */
static bool
send_job_history(struct history *history)
{
    struct http_request *request = history->request;
    struct http_follow *follow = history->follow;
    /* Looked at before the walk: a job that has ended by now has its last event in the log, or no longer. */
    bool ended = has_ended(request, &follow->job), shared;
    int64_t settled;

    pthread_mutex_lock(&follow->sink->lock);
    shared = http_follow_is_shared(follow);
    pthread_mutex_unlock(&follow->sink->lock);
    if (!(shared ? settle(request, &settled) : flush_log(request, &settled)))
        return false;
    history->until = shared ? settled : INT64_MAX;
    if (!walk(history))
        return false;
    pthread_mutex_lock(&follow->sink->lock);
    follow->last = history->last;
    follow->final = history->final || ended;
    pthread_mutex_unlock(&follow->sink->lock);
    return true;
}

static bool
send_ordered_history(struct history *history)
{
    struct http_follow *follow = history->follow;

    if (!settle(history->request, &history->until) || !walk(history))
        return false;
    pthread_mutex_lock(&follow->sink->lock);
    if (follow->last < history->until)
        follow->last = history->until;
    pthread_mutex_unlock(&follow->sink->lock);
    return true;
}

/* ---- joining ---- */

bool
http_go_live(struct http_request *request, struct http_follow *follow)
{
    struct http_sink *sink = follow->sink;
    struct muster_buf text = {0};
    bool sent = true;

    (void)request;
    for (;;) {
        muster_buf_clear(&text);
        pthread_mutex_lock(&sink->lock);
        http_follow_take(follow, &text);
        follow->live = text.size == 0 && !follow->missed;
        follow->behind = follow->behind && !follow->live;
        pthread_mutex_unlock(&sink->lock);
        if (text.size == 0 || !(sent = http_sink_push(sink, text.data, text.size)))
            break;
    }
    muster_buf_free(&text);
    return sent;
}

bool
http_join_now(struct http_request *request, struct http_follow *follow)
{
    int64_t settled;

    if (!settle(request, &settled))
        return false;
    pthread_mutex_lock(&follow->sink->lock);
    follow->from = follow->last = settled;
    http_follow_claim(follow);
    pthread_mutex_unlock(&follow->sink->lock);
    return true;
}

bool
http_join(struct http_request *request, struct http_follow *follow)
{
    struct history history = {.request = request, .follow = follow};

    pthread_mutex_lock(&follow->sink->lock);
    if (follow->missed) /* what was kept has a gap */
        http_follow_forget(follow);
    follow->live = follow->missed = false;
    follow->behind = true;
    if (follow->last < 0)
        follow->from = follow->last = 0;
    history.last = follow->last;
    pthread_mutex_unlock(&follow->sink->lock);
    if (!(http_follow_is_ordered(follow) ? send_ordered_history(&history) : send_job_history(&history)))
        return false;
    return http_go_live(request, follow);
}
