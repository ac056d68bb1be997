/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the embedding interface: what a hub keeps for the calls of its program.
 *
 * A hub is one of this process, whose actors and store are at hand, or one elsewhere at the end of a connection; a
 * table of ways hides which.  The library outlives the hub as long as there are follows of it.  Every call enters
 * before it uses the hub and leaves afterwards, so a stop knows when nobody does any more.  Any thread. */
#ifndef LIBRARY_H
#define LIBRARY_H

#include <pthread.h>
#include <stdatomic.h>

#include "actors/muster_actor.h"
#include "api/muster.h"
#include "transport/muster_loop.h"

struct connect;
struct library;
struct library_watch;

/* How a hub is used; called between enter and leave.  A `problem` (may be NULL) is only written to. */
struct library_ways {
    muster_err (*submit)(struct library *library, const struct muster_submit *submit, enum job_priority priority,
                         struct muster_arena *arena, struct muster_id *out_job, char *problem, size_t problem_size);
    muster_err (*cancel)(struct library *library, const struct muster_id *job, enum job_state *out_state, char *problem,
                         size_t problem_size);
    /* The record is in the arena. */
    muster_err (*read)(struct library *library, const struct muster_id *job, struct muster_arena *arena,
                       struct job *out_job);
    /* Until the job has ended, or `end_ms` of the uptime; -1: for ever. */
    muster_err (*wait)(struct library *library, const struct muster_id *job, int64_t end_ms, struct muster_arena *arena,
                       struct job *out_job);
    /* It has its topic and its descriptor.  Joins it when all is well. */
    muster_err (*follow_open)(struct library *library, struct muster_follow *follow, const char *after, char *problem,
                              size_t problem_size);
    /* There are no events left: get more, if there are, or say that it has ended. */
    void (*follow_read)(struct muster_follow *follow);
    /* Before it leaves; the hub may be gone. */
    void (*follow_close)(struct muster_follow *follow);
};

struct library {
    const struct library_ways *ways;
    const struct muster_house *house; /* borrowed; only between enter and leave; NULL: it is elsewhere */
    pthread_mutex_t lock;             /* guards what follows */
    pthread_cond_t quiet;             /* `calls` has become 0 */
    size_t references;                /* the hub's and those of follows */
    size_t calls;                     /* under way */
    bool stopped;
    struct muster_follow *follows;
    struct library_watch *watch; /* since the first follow; NULL: none yet */
    struct connect *connect;     /* to a hub elsewhere; NULL: none, or stopped */
};

enum {
    LIBRARY_BATCH = 256,     /* events that a follow keeps */
    LIBRARY_CALL_MS = 30000, /* for an answer */
    LIBRARY_TEXT = 256       /* bytes of a problem */
};

struct muster_follow {
    struct muster_follow *next; /* under the library's lock */
    struct library *library;    /* a reference; NULL: it has not joined */
    struct muster_id job;       /* zero: of many */
    char *team;                 /* NULL: of all */
    int fd;
    bool ended;     /* nothing more will come */
    muster_err err; /* why, when it is not the job's end */
    struct muster_arena *arena;
    struct muster_event *events; /* in the arena */
    size_t count, given;
    struct {                /* of a hub of this process */
        atomic_llong until; /* all up to this number is on disk */
        int64_t last;       /* all up to this number was read */
        bool placed;        /* nothing behind `last` may be missing */
        bool unended;       /* the job's last event lies behind `last`, for sure */
    } log;
    struct connect_follow *wire; /* of one elsewhere */
};

/* ---- library.c ---- */
/* `house` is that of a hub of this process that runs; NULL: the ways are set by whoever has others. */
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
/* An answer's bytes. */
muster_err library_answer(const void *data, size_t size, const struct muster_type *answer, struct muster_arena *arena,
                          void *out, char *problem, size_t problem_size);
/* "msg_...", "job_..." or the bare id.  MUSTER_NOT_FOUND. */
muster_err library_job_id(const char *text, struct muster_id *out_id);
void library_job_text(const struct muster_id *id, char out_text[MUSTER_JOB_ID]);

/* ---- library_house.c, library_log.c: a hub of this process ---- */
extern const struct library_ways library_house_ways;
/* Under the library's lock: everything up to `until` is on disk, or never will be. */
void library_follows_tell(struct library *library, int64_t until);
muster_err library_log_open(struct library *library, struct muster_follow *follow, const char *after, char *problem,
                            size_t problem_size);
void library_log_read(struct muster_follow *follow);

/* ---- library_watch.c: tells follows how far the log is on disk ---- */
/* Under the library's lock: start the thread, unless it runs. */
muster_err library_watch_start(struct library *library);
/* Nobody is inside. */
void library_watch_stop(struct library *library);

/* ---- library_follow.c ---- */
/* muster_follow_open from within a call. */
muster_err library_follow(struct library *library, const struct muster_follow_settings *settings,
                          struct muster_follow **out_follow, char *problem, size_t problem_size);
/* Under the library's lock: look again. */
void library_follows_wake(struct library *library);
/* Make its descriptor readable. */
void library_follow_ring(const struct muster_follow *follow);
/* Under the library's lock, which is not stopped: it is one of its follows from now on. */
void library_follow_join(struct library *library, struct muster_follow *follow);
/* Forget the batch, make room for another. */
void library_follow_clear(struct muster_follow *follow);
/* Add an event to the batch. */
void library_follow_add(struct muster_follow *follow, const struct event *event, const char *cursor);
void library_follow_fail(struct muster_follow *follow, muster_err err);

/* ---- hub.c ---- */
struct library *library_of(struct muster_hub *hub);

#endif
