/* SPDX-License-Identifier: MPL-2.0 */
/* connect_follow: follows of a hub elsewhere.
 *
 * One read of the log is under way at a time, which waits at the hub for events; its answer is the next batch, and the
 * next read goes on behind it.  So a broken connection costs nothing but that the same read is sent again: none is
 * missed, and none comes twice.
 *
 * A job's end is told by its last event.  Whether that is still to come is known once the job was seen not to have
 * ended while all up to the cursor was on disk; until then the job is looked at before each read.
 *
 * The follower's thread, but for on_done.  What can fail: what the hub refuses, and a hub that stops. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "actors/muster_job.h"
#include "api/connect.h"

enum {
    LOOK_MS = 20000,   /* for which a read waits at the hub, */
    LATE_MS = 20000,   /* and after which its answer counts as lost */
    EMPTY_MS = 200,    /* between reads if the hub does not wait */
    AGAIN_MS = 500,    /* before a read that failed is sent again */
    LIMITED_MS = 2000, /* with a rate that is used up */
};

struct connect_follow {
    struct connect_request request;
    struct muster_follow *follow;
    bool asked;                     /* the request is under way or answered */
    bool looks;                     /* it is about the job, not about the log */
    bool over;                      /* the job has ended: what is in the log is all there will be */
    bool unended;                   /* the job's last event lies behind the cursor, for sure */
    char after[MUSTER_CURSOR_TEXT]; /* cursor behind which to read; "": from the oldest */
    int64_t settled;                /* everything up to this number is on disk, as the hub said */
    int64_t asked_ms;
    int64_t pause_ms; /* before the next one */
    struct muster_arena *arena;
};

static int64_t
uptime_ms(void)
{
    return muster_uptime_ns() / 1000000;
}

/* ---- cursors ------------------------------------------------------------------------------------------------------- */

/* The cursor of `seq` in the same log as another one. */
static void
cursor_of(const char *other, int64_t seq, char out[MUSTER_CURSOR_TEXT])
{
    const char *dash = strrchr(other, '-');

    snprintf(out, MUSTER_CURSOR_TEXT, "%.*s-%lld", dash ? (int)(dash - other) : 0, other, (long long)seq);
}

static int64_t
number_of(const char *cursor)
{
    const char *dash = strrchr(cursor, '-');

    return dash ? strtoll(dash + 1, NULL, 10) : 0;
}

muster_err
connect_here(struct library *library, int64_t end_ms, char out_cursor[MUSTER_CURSOR_TEXT], char *problem,
             size_t problem_size)
{
    struct muster_arena *arena = muster_arena_new();
    struct log_read read = {.limit = 1};
    struct log_page page;
    muster_err err =
        connect_ask(library, &log_read_type, &read, &log_page_type, end_ms, arena, &page, problem, problem_size);

    if (!err)
        cursor_of(page.next, page.settled, out_cursor);
    muster_arena_free(&arena);
    return err;
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static bool
is_of_job(const struct connect_follow *wire)
{
    return !muster_id_is_zero(&wire->follow->job);
}

static void
on_done(struct connect_request *request)
{
    library_follow_ring(((struct connect_follow *)request)->follow);
}

/* The next request. */
static void
ask(struct connect_follow *wire, struct library *library)
{
    struct muster_follow *follow = wire->follow;
    struct job_read look = {.job = follow->job};
    struct log_read read = {.after = wire->after[0] ? wire->after : NULL,
                            .team = follow->team,
                            .job = follow->job,
                            .limit = LIBRARY_BATCH,
                            .wait_ms = wire->over ? 0 : LOOK_MS};

    connect_request_free(&wire->request);
    wire->asked_ms = uptime_ms();
    wire->request = (struct connect_request){
        .keep = true, .begin_ms = wire->asked_ms + wire->pause_ms, .limit_ms = LATE_MS + read.wait_ms, .done = on_done};
    wire->asked_ms += wire->pause_ms;
    wire->pause_ms = 0;
    wire->asked = true;
    if (wire->looks)
        connect_put(library, &wire->request, &job_read_type, &look);
    else
        connect_put(library, &wire->request, &log_read_type, &read);
}

static void
take_page(struct connect_follow *wire, const struct log_page *page)
{
    struct muster_follow *follow = wire->follow;
    const struct muster_event_row *row;
    char cursor[MUSTER_CURSOR_TEXT];
    size_t i;

    for (i = 0; i < page->events.count && i < LIBRARY_BATCH && !follow->ended; i++) {
        const struct event *event = &page->events.items[i];

        cursor_of(page->next, event->seq, cursor);
        library_follow_add(follow, event, cursor);
        row = muster_event_row(event->type);
        follow->ended = row && row->final && is_of_job(wire);
    }
    snprintf(wire->after, sizeof wire->after, "%s", page->next);
    wire->settled = page->settled;
    if (page->events.count == 0 && !page->more && wire->over)
        follow->ended = true;
    else if (page->events.count == 0 && !page->more && uptime_ms() - wire->asked_ms < EMPTY_MS)
        wire->pause_ms = EMPTY_MS;
    wire->looks = is_of_job(wire) && !wire->over && !wire->unended;
}

static void
take_job(struct connect_follow *wire, enum job_state state)
{
    wire->looks = false;
    wire->over = muster_job_ended(state);
    wire->unended = !wire->over && wire->settled >= number_of(wire->after);
}

/* The hub could not, or does not want to. */
static void
take_failure(struct connect_follow *wire, muster_err err)
{
    if (err == MUSTER_NOT_FOUND && is_of_job(wire)) /* it was there: it has ended, and is no longer kept */
        wire->follow->ended = true;
    else if (connect_is_passing(err))
        wire->pause_ms = err == MUSTER_RATE_LIMITED ? LIMITED_MS : AGAIN_MS;
    else
        library_follow_fail(wire->follow, err);
}

static void
take_answer(struct connect_follow *wire)
{
    const struct connect_request *request = &wire->request;
    struct log_page page;
    struct job_is is;
    muster_err err = request->err;

    wire->asked = false;
    muster_arena_clear(wire->arena);
    if (!err && wire->looks)
        err = library_answer(request->answer.data, request->answer.size, &job_is_type, wire->arena, &is, NULL, 0);
    else if (!err)
        err = library_answer(request->answer.data, request->answer.size, &log_page_type, wire->arena, &page, NULL, 0);
    if (err)
        take_failure(wire, err);
    else if (wire->looks)
        take_job(wire, is.job->state);
    else
        take_page(wire, &page);
}

static bool
is_answered(struct connect_follow *wire, struct library *library)
{
    bool answered;

    pthread_mutex_lock(&library->lock);
    answered = wire->request.state == CONNECT_DONE;
    pthread_mutex_unlock(&library->lock);
    return answered;
}

/* Until there is something to tell, or something to wait for. */
static void
read_on(struct muster_follow *follow, struct library *library)
{
    struct connect_follow *wire = follow->wire;
    eventfd_t signals;

    (void)eventfd_read(follow->fd, &signals);
    while (!follow->ended && follow->count == 0) {
        if (!wire->asked)
            ask(wire, library);
        if (!is_answered(wire, library))
            return;
        take_answer(wire);
    }
    library_follow_ring(follow);
}

void
connect_follow_read(struct muster_follow *follow)
{
    muster_err err = library_enter(follow->library);

    if (err) {
        library_follow_fail(follow, err);
        return;
    }
    read_on(follow, follow->library);
    library_leave(follow->library);
}

/* ---- opening and closing --------------------------------------------------------------------------------------------- */

/* Are the topic and the place good?  What is read here is the first batch. */
static muster_err
read_first(struct connect_follow *wire, struct library *library, char *problem, size_t problem_size)
{
    struct muster_follow *follow = wire->follow;
    struct log_read read = {
        .after = wire->after[0] ? wire->after : NULL, .team = follow->team, .job = follow->job, .limit = LIBRARY_BATCH};
    struct log_page page;
    muster_err err;

    err = connect_ask(library, &log_read_type, &read, &log_page_type, -1, wire->arena, &page, problem, problem_size);
    if (!err) {
        library_follow_clear(follow);
        take_page(wire, &page);
        wire->pause_ms = 0;
    }
    return err;
}

static muster_err
read_job(struct connect_follow *wire, struct library *library, char *problem, size_t problem_size)
{
    struct job_read read = {.job = wire->follow->job};
    struct job_is is;
    muster_err err =
        connect_ask(library, &job_read_type, &read, &job_is_type, -1, wire->arena, &is, problem, problem_size);

    if (!err)
        take_job(wire, is.job->state);
    return err;
}

static muster_err
join(struct library *library, struct muster_follow *follow)
{
    muster_err err = MUSTER_SHUTTING_DOWN;

    pthread_mutex_lock(&library->lock);
    if (!library->stopped) {
        library_follow_join(library, follow);
        err = MUSTER_OK;
    }
    pthread_mutex_unlock(&library->lock);
    return err;
}

static void
wire_free(struct connect_follow *wire)
{
    connect_request_free(&wire->request);
    muster_arena_free(&wire->arena);
    free(wire);
}

muster_err
connect_follow_open(struct library *library, struct muster_follow *follow, const char *after, char *problem,
                    size_t problem_size)
{
    struct connect_follow *wire = muster_alloc(sizeof *wire);
    muster_err err = MUSTER_OK;

    wire->follow = follow;
    wire->arena = muster_arena_new();
    if (after && strcmp(after, "oldest") != 0)
        err = snprintf(wire->after, sizeof wire->after, "%s", after) < (int)sizeof wire->after ? MUSTER_OK
                                                                                               : MUSTER_INVALID_REQUEST;
    else if (after == NULL && !is_of_job(wire))
        err = connect_here(library, -1, wire->after, problem, problem_size);
    if (!err && is_of_job(wire))
        err = read_job(wire, library, problem, problem_size);
    if (!err)
        err = read_first(wire, library, problem, problem_size);
    if (!err)
        err = join(library, follow);
    if (err) {
        wire_free(wire);
        return err;
    }
    follow->wire = wire;
    library_follow_ring(follow);
    return MUSTER_OK;
}

void
connect_follow_close(struct muster_follow *follow)
{
    connect_drop(follow->library, &follow->wire->request);
    wire_free(follow->wire);
    follow->wire = NULL;
}
