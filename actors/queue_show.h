/* SPDX-License-Identifier: MPL-2.0 */
/* What others see of the queue: its views on the board, and its lines in the journal.
 *
 * The queue actor's thread only. */
#ifndef ACTORS_QUEUE_SHOW_H
#define ACTORS_QUEUE_SHOW_H

#include "actors/queue_table.h"

/* Publish the views of teams that changed, and with any of them, or with `all`, that of the whole queue. */
void queue_show(struct muster_ctx *ctx, struct queue_table *table, bool draining, bool all);

/* An attempt failed, and another follows after `pause_ms`. */
void queue_say_retrying(struct muster_ctx *ctx, const struct queue_job *job, const struct queue_report *report,
                        int64_t pause_ms);
/* Its worker was lost, or is back with it. */
void queue_say_lost(struct muster_ctx *ctx, const struct queue_job *job, const char *reason);
void queue_say_found(struct muster_ctx *ctx, const struct queue_job *job);
/* It waits no longer for that worker, which has its session. */
void queue_say_anew(struct muster_ctx *ctx, const struct queue_job *job, const char *node);
/* The job's end is on disk. */
void queue_say_ended(struct muster_ctx *ctx, const struct queue_job *job);

#endif
