/* SPDX-License-Identifier: MPL-2.0 */
/* What time does to jobs: delayed ones begin to wait, those whose deadline has passed fail, and those that waited long
 * enough for the worker with their session go elsewhere.
 *
 * These are times of the wall clock.  One timer of the actor stands for all of them, and is looked at once a minute at
 * least, so that a clock that is set, or a machine that slept, is noticed.  Spans (pauses before a retry, limits of
 * attempts) are timers of their own.  The queue actor's thread only; nothing fails. */
#ifndef ACTORS_QUEUE_DUE_H
#define ACTORS_QUEUE_DUE_H

#include "actors/queue.h"

/* Look at the job when its delay, its deadline or its wait for a worker is over, whichever matters first as it is now;
 * or no more. */
void queue_watch(struct queue_actor *self, struct queue_job *job);
/* The same at a time of the caller's; 0: not any more. */
void queue_watch_at(struct queue_actor *self, struct queue_job *job, int64_t due_ms);
/* The timer: see to all jobs that are due. */
void queue_wake(struct queue_actor *self);

#endif
