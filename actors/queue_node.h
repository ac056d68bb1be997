/* SPDX-License-Identifier: MPL-2.0 */
/* Workers, as nodes tells of them: which attempts they have, which of those are lost with them, and which go on when
 * they come back.
 *
 * An attempt that is lost may still run; it counts again when its worker comes back with it, or reports it, before
 * another one has begun.  The queue actor's thread only. */
#ifndef ACTORS_QUEUE_NODE_H
#define ACTORS_QUEUE_NODE_H

#include "actors/queue.h"
#include "actors/queue_site.h"

/* See queue.node. */
void queue_node_take(struct queue_actor *self, const struct queue_node *in);
/* The worker that has the job is lost: it waits for another attempt, or ends if it was to end or was lost too often. */
void queue_lose(struct queue_actor *self, struct queue_job *job, const char *reason);
/* A lost attempt goes on at that site. */
void queue_regain(struct queue_actor *self, struct queue_job *job, struct queue_site *site);
/* Have the worker drop the attempt if it is to, once more. */
void queue_remind(struct queue_actor *self, struct queue_job *job);

#endif
