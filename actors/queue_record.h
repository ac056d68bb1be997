/* SPDX-License-Identifier: MPL-2.0 */
/* What the queue reads back and has written of a job: one function per step of its life, each one commit.
 *
 * The queue actor's thread only. */
#ifndef ACTORS_QUEUE_RECORD_H
#define ACTORS_QUEUE_RECORD_H

#include "actors/queue_table.h"

/* The job's record from the store, into the arena. */
muster_err queue_record_read(struct muster_ctx *ctx, const struct queue_job *job, struct muster_arena *arena,
                             struct job *out_record);
/* Put what changes over a record that was read. */
void queue_record_apply(const struct queue_job *job, struct job *record);
/* Write that an attempt has begun; then the agent gets `written`, also when it could not be written: a restart repeats
 * what it does not find.  MUSTER_OVERLOADED: it is not being written. */
muster_err queue_record_note(struct muster_ctx *ctx, const struct job *record, const char *agent,
                             const struct agent_written *written);

/* Fill in what the queue decides of a new job: times, limits, who. */
void queue_record_begin(struct muster_ctx *ctx, const struct queue_team *team, const struct muster_envelope *envelope,
                        struct job *record);
/* Write a new job with its job.queued, and `original` (may be NULL), the job that it repeats; then tell the queue
 * (store.written) and the caller (queue.accepted).  MUSTER_OVERLOADED: nothing was begun. */
muster_err queue_record_submit(struct muster_ctx *ctx, const struct queue_job *job, const struct job *record,
                               const struct job *original);
/* Prepare job->commit: its end as `report` says, with its last event and its callback. */
void queue_record_end(struct muster_ctx *ctx, struct queue_job *job, const struct queue_report *report);
/* Write `record`, the next attempt at a worker, and then have nodes hand `run` to it; the queue gets store.written for
 * it too.  MUSTER_OVERLOADED: nothing was begun. */
muster_err queue_record_handover(struct muster_ctx *ctx, const struct job *record, const struct agent_run *run);
/* Write that it waits for another attempt.  False: it is not written, and whoever is to get queue.reported is not told;
 * otherwise they are told afterwards, also when it cannot be written: a restart can do without it. */
bool queue_record_retry(struct muster_ctx *ctx, struct queue_job *job, const struct queue_report *report,
                        int64_t pause_ms);
/* Write that it goes on at the next start; likewise. */
bool queue_record_park(struct muster_ctx *ctx, struct queue_job *job, const struct queue_report *report);
/* Say that an attempt of a former life of the daemon is repeated. */
void queue_record_resume(struct muster_ctx *ctx, struct queue_job *job);
/* Write that its worker was lost, or is back with it. */
void queue_record_lost(struct muster_ctx *ctx, struct queue_job *job, const char *reason);
void queue_record_found(struct muster_ctx *ctx, struct queue_job *job);
/* Say that the agent's session is out of reach, and the job goes on without it. */
void queue_record_anew(struct muster_ctx *ctx, struct queue_job *job, const char *node);

/* Parts of commits; all bytes lie in the arena. */
struct muster_bytes queue_pack(const struct muster_type *type, const void *body, struct muster_arena *arena);
/* Is somebody to get queue.reported for it? */
bool queue_is_awaited(const struct queue_report *report);
/* What they get. */
struct queue_reported queue_reported_of(const struct queue_report *report);
/* A caller gets that body, or the store's reason. */
struct store_answer queue_answer_caller(const struct muster_caller *caller, const struct muster_type *type,
                                        const void *body, struct muster_arena *arena);

#endif
