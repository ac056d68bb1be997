/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the webhook actor: what its files share.  The actor's thread only.
 *
 *   webhook.c           the actor: finds deliveries, begins what is due, judges answers, has outcomes saved
 *   webhook_tasks.c     the deliveries in memory: by job, by time, by host
 *   webhook_request.c   what a receiver is sent */
#ifndef ACTORS_WEBHOOK_H
#define ACTORS_WEBHOOK_H

#include "actors/muster_actor.h"

#define WEBHOOK_BUCKETS 16384
#define WEBHOOK_PROBLEM_MAX 160 /* bytes; cleaned they are at most three times as many */

/* ---- deliveries in memory -------------------------------------------------------------------------------------------
 *
 * Each is in one place at a time:
 *
 *   due      in a heap by the time of its next request (or of its next try to save the outcome)
 *   blocked  in the list of its host, which has as many requests open already as it may
 *   open     its request is on its way; in no list
 *   saving   its outcome is final and on its way to the disk */

struct webhook_actor;
struct webhook_task;

/* A receiver with requests open. */
struct webhook_host {
    struct webhook_host *next;
    char *name;                         /* host and port */
    size_t slots;                       /* taken; there is a limit for each host */
    struct webhook_task *first, **last; /* blocked, in their order */
};

/* One delivery. */
struct webhook_task {
    struct webhook_actor *self; /* whose it is, for the answer to its request */
    struct muster_id job;
    struct webhook_task *chain; /* next in its bucket */
    struct webhook_task *next;  /* next blocked or saving */
    struct webhook_host *host;  /* where it has a slot; NULL: it has none */
    int64_t due_ms;             /* when it leaves the heap */
    uint64_t order;             /* of two due at the same time the one put there first is first */
    int64_t token;              /* of its last save */
    enum delivery_state state;
    int64_t tries;
    long status;                               /* of the last request */
    char problem[3 * WEBHOOK_PROBLEM_MAX + 1]; /* of the last request */
};

struct webhook_tasks {
    struct webhook_task *buckets[WEBHOOK_BUCKETS]; /* all of them, by job */
    size_t held;                                   /* how many those are */
    struct webhook_task **heap;                    /* due ones, the earliest first */
    size_t heap_count, heap_capacity;
    struct webhook_host *hosts;  /* those with a slot taken; at most as many as there are requests open */
    struct webhook_task *saving; /* waiting for the store */
    uint64_t last_order;
};

/* Begins as zeros. */
void webhook_tasks_fini(struct webhook_tasks *tasks);

bool webhook_task_is_held(struct webhook_tasks *tasks, const struct muster_id *job);
/* A new one with the record's facts, due when the record says.  Its job must not be held yet. */
void webhook_task_add(struct webhook_tasks *tasks, struct webhook_actor *self, const struct delivery *record);
/* Out of its bucket and gone; it must have been taken from the place it was in. */
void webhook_task_free(struct webhook_tasks *tasks, struct webhook_task *task);

void webhook_due_put(struct webhook_tasks *tasks, struct webhook_task *task, int64_t due_ms);
/* The earliest; NULL: none. */
const struct webhook_task *webhook_due_first(const struct webhook_tasks *tasks);
/* Take the earliest, of which there must be one. */
struct webhook_task *webhook_due_take(struct webhook_tasks *tasks);

/* Take a slot of the host, unless the task has one.  False: there is none left, and the task is blocked until it gets
 * one; then it has it and is due. */
bool webhook_slot_take(struct webhook_tasks *tasks, struct webhook_task *task, const char *host_name);
/* Give the task's slot, if it has one, to the next that waits for it.  A host without slots taken is forgotten. */
void webhook_slot_leave(struct webhook_tasks *tasks, struct webhook_task *task);

void webhook_saving_put(struct webhook_tasks *tasks, struct webhook_task *task);
/* Take the one whose last save had `token`; NULL: none. */
struct webhook_task *webhook_saving_take(struct webhook_tasks *tasks, int64_t token);

/* ---- what receivers get ---------------------------------------------------------------------------------------------
 */

/* Host and port of an URL, in small letters; in `arena`. */
const char *webhook_host_name(struct muster_arena *arena, const char *url);
/* Fill in address, method, headers and body of the request that tells of the job's end; the job has a callback.  What
 * they point to is the job's, in `arena` or in `body`, which the caller frees. */
void webhook_request_fill(struct muster_arena *arena, const struct job *job, int64_t now_ms, struct muster_buf *body,
                          struct muster_fetch_spec *spec);

#endif
