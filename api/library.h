/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the embedding interface: what a hub keeps for the calls of its program.
 *
 * It outlives the hub as long as there are follows of it.  Every call enters before it uses the hub and leaves
 * afterwards, so a stop knows when nobody does any more.  Any thread. */
#ifndef LIBRARY_H
#define LIBRARY_H

#include <pthread.h>
#include <stdatomic.h>

#include "actors/muster_actor.h"
#include "api/muster.h"
#include "transport/muster_loop.h"

struct library_watch;

struct library {
    const struct muster_house *house; /* borrowed; only between enter and leave */
    pthread_mutex_t lock;             /* guards what follows */
    pthread_cond_t quiet;             /* `calls` has become 0 */
    size_t references;                /* the hub's and those of follows */
    size_t calls;                     /* under way */
    bool stopped;
    struct muster_follow *follows;
    struct library_watch *watch; /* since the first follow; NULL: none yet */
};

/* ---- library.c ---- */
/* `house` is that of a hub that runs. */
struct library *library_new(const struct muster_house *house);
/* Calls under way come back, new ones are refused; returns when there are none. */
void library_stop(struct library *library);
void library_release(struct library *library);
/* MUSTER_SHUTTING_DOWN */
muster_err library_enter(struct library *library);
void library_leave(struct library *library);

/* Tell a code, and its sentence to `problem` (may be NULL) unless something stands there; NULL: MUSTER_OK. */
const char *library_told(muster_err err, char *problem, size_t problem_size);
void library_problem(char *problem, size_t problem_size, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Send `body` to the actor `to` and wait for its answer.  A `failed` fills `problem`. */
muster_err library_ask(const struct muster_house *house, const char *to, const struct muster_type *type,
                       const void *body, const struct muster_type *answer, struct muster_arena *arena, void *out,
                       char *problem, size_t problem_size);
/* "msg_...", "job_..." or the bare id.  MUSTER_NOT_FOUND. */
muster_err library_job_id(const char *text, struct muster_id *out_id);

/* ---- library_watch.c: tells follows how far the log is on disk ---- */
/* Under the library's lock: start the thread, unless it runs. */
muster_err library_watch_start(struct library *library);
/* Nobody is inside. */
void library_watch_stop(struct library *library);

/* ---- library_follow.c ---- */
/* Under the library's lock: everything up to `until` is on disk, or never will be. */
void library_follows_tell(struct library *library, int64_t until);
/* Under the library's lock: look again. */
void library_follows_wake(struct library *library);

/* ---- hub.c ---- */
struct library *library_of(struct muster_hub *hub);

#endif
