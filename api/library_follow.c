/* SPDX-License-Identifier: MPL-2.0 */
/* library_follow: events for the program, whatever the hub is.  A follow keeps no more than one batch; where the next
 * one comes from is a matter of the hub's ways, which also make the descriptor readable when it may be there.
 *
 * The follower's thread, but for the functions that make descriptors readable.  What can fail: what is to be followed,
 * and what the ways say. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "api/library.h"

/* ---- waking ---- */

void
library_follow_ring(const struct muster_follow *follow)
{
    (void)eventfd_write(follow->fd, 1);
}

void
library_follows_wake(struct library *library)
{
    const struct muster_follow *follow;

    for (follow = library->follows; follow; follow = follow->next)
        library_follow_ring(follow);
}

/* ---- opening and closing ---- */

void
library_follow_join(struct library *library, struct muster_follow *follow)
{
    library->references++;
    follow->library = library;
    follow->next = library->follows;
    library->follows = follow;
}

static muster_err
read_topic(const struct muster_follow_settings *settings, struct muster_follow *follow, char *problem,
           size_t problem_size)
{
    if (settings->job && settings->team) {
        library_problem(problem, problem_size, "a follow is of a job or of a team, not of both");
        return MUSTER_INVALID_REQUEST;
    }
    follow->team = muster_strdup(settings->team);
    return settings->job ? library_job_id(settings->job, &follow->job) : MUSTER_OK;
}

muster_err
library_follow(struct library *library, const struct muster_follow_settings *settings,
               struct muster_follow **out_follow, char *problem, size_t problem_size)
{
    struct muster_follow *follow = muster_alloc(sizeof *follow);
    muster_err err;

    follow->arena = muster_arena_new();
    follow->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = follow->fd < 0 ? MUSTER_OVERLOADED : read_topic(settings, follow, problem, problem_size);
    if (!err)
        err = library->ways->follow_open(library, follow, settings->after, problem, problem_size);
    if (err)
        muster_follow_close(&follow);
    else
        *out_follow = follow;
    return err;
}

const char *
muster_follow_open(struct muster_hub *hub, const struct muster_follow_settings *settings,
                   struct muster_follow **out_follow, char *problem, size_t problem_size)
{
    struct library *library = library_of(hub);
    muster_err err = library_enter(library);

    library_problem(problem, problem_size, "%s", "");
    if (!err) {
        err = library_follow(library, settings, out_follow, problem, problem_size);
        library_leave(library);
    }
    return library_told(err, problem, problem_size);
}

static void
leave(struct muster_follow *follow)
{
    struct library *library = follow->library;
    struct muster_follow **at;

    if (library->ways->follow_close)
        library->ways->follow_close(follow);
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

/* ---- the batch ---- */

void
library_follow_clear(struct muster_follow *follow)
{
    muster_arena_clear(follow->arena);
    follow->count = follow->given = 0;
    follow->events = muster_arena_alloc(follow->arena, LIBRARY_BATCH * sizeof *follow->events);
}

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

void
library_follow_add(struct muster_follow *follow, const struct event *event, const char *cursor)
{
    struct muster_arena *arena = follow->arena;
    char *job = muster_arena_alloc(arena, MUSTER_JOB_ID);

    if (!muster_id_is_zero(&event->job))
        library_job_text(&event->job, job);
    follow->events[follow->count++] =
        (struct muster_event){.cursor = muster_arena_str(arena, cursor, strlen(cursor)),
                              .type = muster_arena_str(arena, event->type, strlen(event->type)),
                              .team = muster_arena_str(arena, event->team, strlen(event->team)),
                              .job = job,
                              .body = body_of(event, arena),
                              .at_ms = event->at_ms,
                              .attempt = event->attempt};
}

void
library_follow_fail(struct muster_follow *follow, muster_err err)
{
    follow->err = err;
    follow->ended = true;
    library_follow_ring(follow);
}

int
muster_follow_next(struct muster_follow *follow, struct muster_event *out_event, const char **out_code)
{
    *out_code = NULL;
    if (follow->given == follow->count && !follow->ended) {
        library_follow_clear(follow);
        follow->library->ways->follow_read(follow);
    }
    if (follow->given < follow->count) {
        *out_event = follow->events[follow->given++];
        return 1;
    }
    *out_code = follow->ended ? library_told(follow->err, NULL, 0) : NULL;
    return follow->ended ? -1 : 0;
}
