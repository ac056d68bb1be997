/* SPDX-License-Identifier: MPL-2.0 */
/* Teams that are paused and resumed: they take jobs, but start none.
 *
 * What was said last lies in a team_state record.  It counts for as long as the configuration file says what it said
 * then.  A pause is effective at once, a resume when it is on disk; a change that cannot be written is undone.  The
 * queue actor's thread only. */
#ifndef ACTORS_QUEUE_PAUSE_H
#define ACTORS_QUEUE_PAUSE_H

#include "actors/queue.h"

/* See queue.pause.  MUSTER_TEAM_NOT_FOUND. */
muster_err queue_pause_take(struct queue_actor *self, const struct queue_pause *in);
/* From the store, for the id of a team_state: it is on disk, or is not. */
void queue_pause_written(struct queue_actor *self, const struct muster_id *state_id, bool failed);
/* Find out which teams are paused.  MUSTER_STORAGE_ERROR. */
muster_err queue_pause_recover(struct queue_actor *self);
void queue_pause_fini(struct queue_table *table);

#endif
