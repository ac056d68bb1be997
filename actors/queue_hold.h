/* SPDX-License-Identifier: MPL-2.0 */
/* Sticky sessions: a job whose agent's session lies with a worker waits for that worker.
 *
 * While the worker only has no room, it waits as for any room.  While the worker takes no jobs at all, it waits for
 * workers.hold_sessions, counted from when that was first seen; then it goes to any worker, without the session.  The
 * queue actor's thread only; nothing fails. */
#ifndef ACTORS_QUEUE_HOLD_H
#define ACTORS_QUEUE_HOLD_H

#include "actors/queue.h"
#include "actors/queue_site.h"

/* Have a waiting job wait for that site. */
void queue_hold(struct queue_actor *self, struct queue_job *job, struct queue_site *site);
/* The site may take jobs now, or does not any more. */
void queue_hold_changed(struct queue_actor *self, struct queue_site *site);
/* Unix ms at which a job's wait for a worker is over; 0: never, or it waits for none. */
int64_t queue_hold_until(const struct queue_actor *self, const struct queue_job *job);
/* The wait of a tied job may be over: then it goes elsewhere. */
void queue_hold_look(struct queue_actor *self, struct queue_job *job);

#endif
