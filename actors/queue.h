/* SPDX-License-Identifier: MPL-2.0 */
/* The queue actor's struct, and what its files do for each other.  The queue actor's thread only. */
#ifndef ACTORS_QUEUE_H
#define ACTORS_QUEUE_H

#include "actors/outbox.h"
#include "actors/queue_table.h"

/* All other timers are keyed by a job's address: the pause before its retry or before its end is written again, or the
 * limit of its attempt. */
enum { QUEUE_TIMER_DISPATCH = 1, QUEUE_TIMER_DUE, QUEUE_TIMER_STALLED, QUEUE_TIMER_OUTBOX };

#define QUEUE_TRY_AGAIN_MS 200 /* before an agent whose mailbox was full is told again */

struct queue_actor {
    struct muster_ctx *ctx;      /* borrowed; outlives us */
    struct queue_table table;    /* all jobs that are not final */
    struct outbox outbox;        /* towards nodes */
    bool draining;               /* starts no more jobs */
    bool parking;                /* likewise, and has those that run put aside */
    int64_t parked;              /* jobs put aside by the drain */
    int64_t armed_ms;            /* when QUEUE_TIMER_DUE is wanted; 0: not set */
    struct muster_caller *drain; /* waits for running jobs to be gone */
    bool dirty;                  /* views are to be published */
};

/* ---- queue.c ---- */

/* Tell, later if the mailbox is full now. */
void queue_tell_surely(struct queue_actor *self, const char *to, const struct muster_type *type, const void *body);

/* ---- queue_submit.c ---- */

/* Take a job: see queue.submit. */
muster_err queue_take(struct queue_actor *self, const struct queue_submit *in);
/* Its first commit is on disk. */
void queue_taken(struct queue_actor *self, struct queue_job *job);
/* Its first commit failed: there is no such job. */
void queue_refused(struct queue_actor *self, struct queue_job *job);
/* The current request is answered at the job's end. */
void queue_add_waiter(struct queue_actor *self, struct queue_job *job, bool cancel);

/* ---- queue_start.c ---- */

/* Start what may be started. */
void queue_dispatch(struct queue_actor *self);
/* From now on it waits for its turn; it was delayed. */
void queue_wait(struct queue_actor *self, struct queue_job *job);
/* That an attempt goes to a worker is on disk, and the worker gets it; or it is not, and the job waits again. */
void queue_handed(struct queue_actor *self, struct queue_job *job, bool failed);
/* Set the timer after which the attempt that runs is given up. */
void queue_arm(struct queue_actor *self, struct queue_job *job);

/* ---- queue_end.c ---- */

/* Bring the job to its end: completed, failed or cancelled. */
void queue_finish(struct queue_actor *self, struct queue_job *job, const struct queue_report *report);
/* Send the commit of its end, once more if need be. */
void queue_commit_end(struct queue_actor *self, struct queue_job *job);
/* The commit failed: try again later. */
void queue_commit_later(struct queue_actor *self, struct queue_job *job);
/* Its end is on disk: tell everybody, and forget it. */
void queue_ended(struct queue_actor *self, struct queue_job *job);
/* A worker's report came to nothing: it need not be kept. */
void queue_report_ignored(struct queue_actor *self, const struct queue_report *report);
/* A worker's report of the attempt whose end is being written came again: it is answered once that is on disk. */
void queue_report_repeated(struct queue_job *job, const struct queue_report *report);
/* What an attempt came to. */
void queue_conclude(struct queue_actor *self, struct queue_job *job, const struct queue_report *report);
/* Have the agent drop the attempt that runs; one that is being handed to a worker, as soon as it is.  MUSTER_NOT_FOUND:
 * the agent is being restarted; MUSTER_OVERLOADED. */
muster_err queue_drop_attempt(struct queue_actor *self, struct queue_job *job);
/* An attempt is over its limit and nobody reported its end. */
void queue_give_up(struct queue_actor *self, struct queue_job *job);
/* Has its deadline passed? */
bool queue_is_over(const struct queue_actor *self, const struct queue_job *job);
/* Its deadline has passed. */
void queue_expire(struct queue_actor *self, struct queue_job *job);
/* The end of a job whose deadline has passed, with what its last attempt left. */
void queue_finish_expired(struct queue_actor *self, struct queue_job *job, const struct queue_report *attempt);
/* How long after its limit an attempt of that team counts as lost. */
int64_t queue_overdue_ms(const struct queue_team *team);
/* From 1 to a year, also when the clock was set in between. */
int64_t queue_duration_ms(int64_t started_ms, int64_t finished_ms);

/* The timer of the job itself; for keys of muster_timer_in. */
static inline uint64_t
queue_timer_of(const struct queue_job *job)
{
    return (uint64_t)(uintptr_t)job;
}

/* ---- queue_recover.c ---- */

/* Read back all jobs that are not final, in the order in which they are to go on, and how long recent ones took. */
muster_err queue_recover(struct queue_actor *self);

#endif
