/* SPDX-License-Identifier: MPL-2.0 */
/* library_follow: events for the program, read from the log.
 *
 * Numbers are given out before their events are on disk, and not written in their order; so a follow reads only up to
 * the number that library_watch.c says is complete.  What is read is in order, without gap and never twice, and a
 * follow keeps no more than the batch that it read last.  Its descriptor is made readable when that number has moved;
 * it is emptied before the number is looked at, so no move is missed.
 *
 * The follower's thread, but for the two functions that make descriptors readable.  What can fail: a place in the log
 * that is no longer kept, the store, a hub that stops. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "actors/muster_job.h"
#include "api/library.h"
#include "schemas/muster_options.h"

enum {
    BATCH = 256,           /* events kept, */
    BATCH_BYTES = 1 << 20, /* with bodies of about so many bytes */
    LOOKS = 4096           /* events of others that are passed over in one reading */
};

struct muster_follow {
    struct muster_follow *next; /* under the library's lock */
    struct library *library;    /* a reference */
    struct muster_id job;       /* zero: of many */
    char *team;                 /* NULL: of all */
    int fd;
    atomic_llong until; /* all up to this number is on disk */
    int64_t last;       /* all up to this number was read */
    bool placed;        /* nothing behind `last` may be missing */
    bool unended;       /* the job's last event lies behind `last`, for sure */
    bool ended;         /* nothing more will come */
    muster_err err;     /* why, when it is not the job's end */
    struct muster_arena *arena;
    struct muster_event *events; /* in the arena */
    size_t count, given;
};

/* ---- waking ---- */

static void
make_readable(const struct muster_follow *follow)
{
    (void)eventfd_write(follow->fd, 1);
}

void
library_follows_tell(struct library *library, int64_t until)
{
    struct muster_follow *follow;

    for (follow = library->follows; follow; follow = follow->next) {
        if (atomic_load(&follow->until) >= until)
            continue;
        atomic_store(&follow->until, until);
        make_readable(follow);
    }
}

void
library_follows_wake(struct library *library)
{
    const struct muster_follow *follow;

    for (follow = library->follows; follow; follow = follow->next)
        make_readable(follow);
}

/* ---- opening and closing ---- */

/* The topic.  MUSTER_NOT_FOUND, MUSTER_TEAM_NOT_FOUND, MUSTER_INVALID_REQUEST. */
static muster_err
read_topic(const struct muster_house *house, const struct muster_follow_settings *settings,
           struct muster_follow *follow, char *problem, size_t problem_size)
{
    struct job job;
    muster_err err;

    if (settings->job && settings->team) {
        library_problem(problem, problem_size, "a follow is of a job or of a team, not of both");
        return MUSTER_INVALID_REQUEST;
    }
    if (settings->team && muster_team_options(house->options, settings->team) == NULL)
        return MUSTER_TEAM_NOT_FOUND;
    follow->team = muster_strdup(settings->team);
    if (settings->job == NULL)
        return MUSTER_OK;
    err = library_job_id(settings->job, &follow->job);
    if (!err)
        err = muster_store_get(house->store, &job_type, &follow->job, follow->arena, &job);
    muster_arena_clear(follow->arena);
    return err;
}

static muster_err
read_place(struct muster_store *store, const struct muster_follow_settings *settings, struct muster_follow *follow)
{
    struct muster_store_stats stats;
    muster_err err = MUSTER_OK;

    if (settings->after && strcmp(settings->after, "oldest") == 0)
        return MUSTER_OK;
    if (settings->after) {
        err = muster_cursor_parse(store, settings->after, &follow->last);
        if (!err && follow->last + 1 < muster_log_oldest(store))
            err = MUSTER_CURSOR_EXPIRED;
        follow->placed = true;
    } else if (settings->job == NULL) {
        muster_store_stats(store, &stats);
        follow->last = stats.last_seq;
        follow->placed = true;
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
    if (!err) {
        library->references++;
        follow->library = library;
        follow->next = library->follows;
        library->follows = follow;
    }
    pthread_mutex_unlock(&library->lock);
    if (err)
        return err;
    err = library_ask(library->house, MUSTER_LOG, &log_flush_type, &flush, &store_committed_type, follow->arena,
                      &committed, problem, problem_size);
    if (err)
        return err;
    pthread_mutex_lock(&library->lock);
    library_follows_tell(library, committed.seq);
    pthread_mutex_unlock(&library->lock);
    make_readable(follow);
    return MUSTER_OK;
}

static muster_err
open_follow(struct library *library, const struct muster_follow_settings *settings, struct muster_follow *follow,
            char *problem, size_t problem_size)
{
    muster_err err;

    follow->arena = muster_arena_new();
    follow->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (follow->fd < 0)
        return MUSTER_OVERLOADED;
    err = read_topic(library->house, settings, follow, problem, problem_size);
    if (!err)
        err = read_place(library->house->store, settings, follow);
    return err ? err : join(library, follow, problem, problem_size);
}

const char *
muster_follow_open(struct muster_hub *hub, const struct muster_follow_settings *settings,
                   struct muster_follow **out_follow, char *problem, size_t problem_size)
{
    struct muster_follow *follow = muster_alloc(sizeof *follow);
    struct library *library = library_of(hub);
    muster_err err = library_enter(library);

    library_problem(problem, problem_size, "%s", "");
    follow->fd = -1;
    if (!err) {
        err = open_follow(library, settings, follow, problem, problem_size);
        library_leave(library);
    }
    if (err)
        muster_follow_close(&follow);
    else
        *out_follow = follow;
    return library_told(err, problem, problem_size);
}

static void
leave(struct muster_follow *follow)
{
    struct library *library = follow->library;
    struct muster_follow **at;

    pthread_mutex_lock(&library->lock);
    for (at = &library->follows; *at != follow; at = &(*at)->next)
        ;
    *at = follow->next;
    pthread_mutex_unlock(&library->lock);
    library_release(library);
}

void
muster_follow_close(struct muster_follow **follow_p)
{
    struct muster_follow *follow = *follow_p;

    if (follow == NULL)
        return;
    if (follow->library)
        leave(follow);
    if (follow->fd >= 0)
        (void)close(follow->fd);
    muster_arena_free(&follow->arena);
    free(follow->team);
    free(follow);
    *follow_p = NULL;
}

int
muster_follow_fd(const struct muster_follow *follow)
{
    return follow->fd;
}

/* ---- reading the log ---- */

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

static const char *
body_of(const struct event *event, struct muster_arena *arena)
{
    const struct muster_event_row *row = muster_event_row(event->type);
    void *body = row ? muster_arena_alloc(arena, row->type->size) : NULL;
    struct muster_buf json = {0};
    const char *text = "{}"; /* of a type that this version does not know */

    if (row && muster_unpack(row->type, event->body.data, event->body.size, arena, body, NULL) == MUSTER_OK) {
        muster_json_encode(row->type, body, &json);
        text = muster_arena_str(arena, json.data, json.size);
    }
    muster_buf_free(&json);
    return text;
}

static void
add(struct reading *reading, const struct event *event)
{
    struct muster_follow *follow = reading->follow;
    struct muster_arena *arena = follow->arena;
    char *cursor = muster_arena_alloc(arena, MUSTER_CURSOR_TEXT), *job = muster_arena_alloc(arena, MUSTER_JOB_ID);

    muster_cursor_text(reading->store, event->seq, cursor);
    if (!muster_id_is_zero(&event->job)) {
        memcpy(job, "msg_", 4);
        muster_id_text(&event->job, job + 4);
    }
    follow->events[follow->count++] =
        (struct muster_event){.cursor = cursor,
                              .type = muster_arena_str(arena, event->type, strlen(event->type)),
                              .team = muster_arena_str(arena, event->team, strlen(event->team)),
                              .job = job,
                              .body = body_of(event, arena),
                              .at_ms = event->at_ms,
                              .attempt = event->attempt};
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
    reading->more = reading->seen == LOOKS || follow->count == BATCH || reading->bytes >= BATCH_BYTES;
    return !reading->final && !reading->more;
}

/* Were events behind `last` removed before they could be read? */
static bool
is_overtaken(const struct reading *reading)
{
    const struct muster_follow *follow = reading->follow;

    if (!follow->placed || muster_log_oldest(reading->store) <= follow->last + 1)
        return false;
    return !muster_id_is_zero(&follow->job) || reading->first != follow->last + 1;
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
    bool complete = atomic_load(&follow->until) >= follow->last, many = muster_id_is_zero(&follow->job);
    bool ended = !follow->unended && has_ended(store, follow);
    eventfd_t signals;
    muster_err err;

    muster_arena_clear(follow->arena);
    follow->unended = complete && !ended;
    follow->count = follow->given = 0;
    follow->events = muster_arena_alloc(follow->arena, BATCH * sizeof *follow->events);
    (void)eventfd_read(follow->fd, &signals);
    reading.until = atomic_load(&follow->until);
    err = muster_log_walk(store, many ? NULL : &follow->job, follow->last, on_event, &reading);
    if (!err && is_overtaken(&reading))
        err = MUSTER_CURSOR_EXPIRED;
    if (err) {
        follow->count = 0;
        return err;
    }
    follow->last = reading.more ? reading.last : reading.until > follow->last ? reading.until : follow->last;
    follow->placed = true;
    follow->ended = reading.final || (ended && !reading.more && !reading.above);
    if (follow->count > 0 || reading.more || follow->ended)
        make_readable(follow);
    return MUSTER_OK;
}

static void
fail(struct muster_follow *follow, muster_err err)
{
    follow->err = err;
    follow->ended = true;
    make_readable(follow);
}

/* Until there is something to tell, or nothing left to read. */
static void
read_on(struct muster_follow *follow)
{
    int64_t before;
    muster_err err;

    do {
        before = follow->last;
        err = library_enter(follow->library);
        if (!err) {
            err = read_batch(follow, follow->library->house->store);
            library_leave(follow->library);
        }
        if (err)
            fail(follow, err);
    } while (!follow->ended && follow->count == 0 && follow->last != before);
}

int
muster_follow_next(struct muster_follow *follow, struct muster_event *out_event, const char **out_code)
{
    *out_code = NULL;
    if (follow->given == follow->count && !follow->ended) {
        muster_arena_clear(follow->arena);
        follow->count = follow->given = 0;
        read_on(follow);
    }
    if (follow->given < follow->count) {
        *out_event = follow->events[follow->given++];
        return 1;
    }
    *out_code = follow->ended ? library_told(follow->err, NULL, 0) : NULL;
    return follow->ended ? -1 : 0;
}
