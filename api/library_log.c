/* SPDX-License-Identifier: MPL-2.0 */
/* library_log: follows of a hub of this process, read from its log.
 *
 * Numbers are given out before their events are on disk, and not written in their order; so a follow reads only up to
 * the number that library_watch.c says is complete.  What is read is in order, without gap and never twice.  A follow's
 * descriptor is made readable when that number has moved; it is emptied before the number is looked at, so no move is
 * missed.
 *
 * The follower's thread, but for the function that tells the number.  What can fail: a place in the log that is no
 * longer kept, the store, a hub that stops. */
#include <string.h>
#include <sys/eventfd.h>

#include "actors/muster_job.h"
#include "api/library.h"
#include "schemas/muster_options.h"

enum {
    BATCH_BYTES = 1 << 20, /* of the bodies in one batch, about */
    LOOKS = 4096           /* events of others that are passed over in one reading */
};

/* ---- opening ---- */

void
library_follows_tell(struct library *library, int64_t until)
{
    struct muster_follow *follow;

    for (follow = library->follows; follow; follow = follow->next) {
        if (atomic_load(&follow->log.until) >= until)
            continue;
        atomic_store(&follow->log.until, until);
        library_follow_ring(follow);
    }
}

/* MUSTER_NOT_FOUND, MUSTER_TEAM_NOT_FOUND. */
static muster_err
check_topic(const struct muster_house *house, const struct muster_follow *follow)
{
    struct job job;
    muster_err err = MUSTER_OK;

    if (follow->team && muster_team_options(house->options, follow->team) == NULL)
        return MUSTER_TEAM_NOT_FOUND;
    if (!muster_id_is_zero(&follow->job))
        err = muster_store_get(house->store, &job_type, &follow->job, follow->arena, &job);
    muster_arena_clear(follow->arena);
    return err;
}

static muster_err
read_place(struct muster_store *store, const char *after, struct muster_follow *follow)
{
    muster_err err = MUSTER_OK;

    if (after && strcmp(after, "oldest") == 0)
        return MUSTER_OK;
    if (after) {
        err = muster_cursor_parse(store, after, &follow->log.last);
        if (!err && follow->log.last + 1 < muster_log_oldest(store))
            err = MUSTER_CURSOR_EXPIRED;
        follow->log.placed = true;
    } else if (muster_id_is_zero(&follow->job)) {
        follow->log.last = muster_log_last(store);
        follow->log.placed = true;
    }
    return err;
}

/* From now on it is told how far the log is; what that is now, it hears from the log itself. */
static muster_err
join(struct library *library, struct muster_follow *follow, char *problem, size_t problem_size)
{
    struct log_flush flush = {.all = true};
    struct store_committed committed;
    muster_err err;

    pthread_mutex_lock(&library->lock);
    err = library->stopped ? MUSTER_SHUTTING_DOWN : library_watch_start(library);
    if (!err)
        library_follow_join(library, follow);
    pthread_mutex_unlock(&library->lock);
    if (!err)
        err = library_ask(library->house, MUSTER_LOG, &log_flush_type, &flush, &store_committed_type, follow->arena,
                          &committed, problem, problem_size);
    if (err)
        return err;
    pthread_mutex_lock(&library->lock);
    library_follows_tell(library, committed.seq);
    pthread_mutex_unlock(&library->lock);
    library_follow_ring(follow);
    return MUSTER_OK;
}

muster_err
library_log_open(struct library *library, struct muster_follow *follow, const char *after, char *problem,
                 size_t problem_size)
{
    muster_err err = check_topic(library->house, follow);

    if (!err)
        err = read_place(library->house->store, after, follow);
    return err ? err : join(library, follow, problem, problem_size);
}

/* ---- reading ---- */

struct reading {
    struct muster_follow *follow;
    struct muster_store *store;
    int64_t until;
    int64_t first, last; /* events seen; 0: none */
    size_t seen, bytes;
    bool more;  /* it broke off before `until` */
    bool above; /* there is something above `until` */
    bool final; /* the job's last event was read */
};

static void
add(struct reading *reading, const struct event *event)
{
    char cursor[MUSTER_CURSOR_TEXT];

    muster_cursor_text(reading->store, event->seq, cursor);
    library_follow_add(reading->follow, event, cursor);
    reading->bytes += event->body.size;
}

static bool
on_event(void *arg, const struct event *event)
{
    struct reading *reading = arg;
    struct muster_follow *follow = reading->follow;
    const struct muster_event_row *row = muster_event_row(event->type);

    if (event->seq > reading->until) {
        reading->above = true;
        return false;
    }
    if (reading->first == 0)
        reading->first = event->seq;
    reading->last = event->seq;
    reading->seen++;
    if (follow->team == NULL || strcmp(follow->team, event->team) == 0)
        add(reading, event);
    reading->final = row && row->final && !muster_id_is_zero(&follow->job);
    reading->more = reading->seen == LOOKS || follow->count == LIBRARY_BATCH || reading->bytes >= BATCH_BYTES;
    return !reading->final && !reading->more;
}

/* Were events behind `last` removed before they could be read? */
static bool
is_overtaken(const struct reading *reading)
{
    const struct muster_follow *follow = reading->follow;

    if (!follow->log.placed || muster_log_oldest(reading->store) <= follow->log.last + 1)
        return false;
    return !muster_id_is_zero(&follow->job) || reading->first != follow->log.last + 1;
}

static bool
has_ended(struct muster_store *store, struct muster_follow *follow)
{
    struct job job;
    bool ended = false;
    muster_err err;

    if (!muster_id_is_zero(&follow->job)) {
        err = muster_store_get(store, &job_type, &follow->job, follow->arena, &job);
        ended = err == MUSTER_NOT_FOUND || (!err && muster_job_ended(job.state));
    }
    return ended;
}

/* Read the next batch.  Whether the job has ended is looked at first: then its last event is in the log, or no longer.
 * When it has not, and all up to `last` is on disk, its last event will be read, and a large job not each time. */
static muster_err
read_batch(struct muster_follow *follow, struct muster_store *store)
{
    struct reading reading = {.follow = follow, .store = store};
    bool complete = atomic_load(&follow->log.until) >= follow->log.last, many = muster_id_is_zero(&follow->job);
    bool ended = !follow->log.unended && has_ended(store, follow);
    eventfd_t signals;
    muster_err err;

    library_follow_clear(follow);
    follow->log.unended = complete && !ended;
    (void)eventfd_read(follow->fd, &signals);
    reading.until = atomic_load(&follow->log.until);
    err = muster_log_walk(store, many ? NULL : &follow->job, follow->log.last, on_event, &reading);
    if (!err && is_overtaken(&reading))
        err = MUSTER_CURSOR_EXPIRED;
    if (err) {
        follow->count = 0;
        return err;
    }
    if (reading.more)
        follow->log.last = reading.last;
    else if (reading.until > follow->log.last)
        follow->log.last = reading.until;
    follow->log.placed = true;
    follow->ended = reading.final || (ended && !reading.more && !reading.above);
    if (follow->count > 0 || reading.more || follow->ended)
        library_follow_ring(follow);
    return MUSTER_OK;
}

/* Until there is something to tell, or nothing left to read. */
void
library_log_read(struct muster_follow *follow)
{
    int64_t before;
    muster_err err;

    do {
        before = follow->log.last;
        err = library_enter(follow->library);
        if (!err) {
            err = read_batch(follow, follow->library->house->store);
            library_leave(follow->library);
        }
        if (err)
            library_follow_fail(follow, err);
    } while (!follow->ended && follow->count == 0 && follow->log.last != before);
}
