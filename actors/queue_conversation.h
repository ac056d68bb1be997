/* SPDX-License-Identifier: MPL-2.0 */
/* Conversations: jobs that are done one after the other, in the order in which they were submitted, whatever their
 * priority.
 *
 * The oldest job of a conversation that has not ended has it; the others wait.  They keep their places in their team's
 * line, but are not ready, so nobody passes over them one by one; the end of a job makes the next one ready.  A job has
 * ended when its end is on disk; until then it may be delayed, be tried again or fail to be written.
 *
 * The queue actor's thread only. */
#ifndef ACTORS_QUEUE_CONVERSATION_H
#define ACTORS_QUEUE_CONVERSATION_H

#include "actors/queue_table.h"

struct queue_conversation {
    struct queue_name name; /* its digest; must be first */
    struct queue_job *first, *last;
    size_t count;
    char *session; /* the agent's, of the newest job that has ended and had one; NULL none */
    char *node;    /* worker that has it; NULL: the team's own agent */
    bool known;    /* the store need not be asked for them */
};

/* Last of all that were submitted so far.  Nothing fails. */
void queue_conversation_join(struct queue_table *table, struct queue_job *job, const char *digest);
/* It has ended, or never was; also for jobs that are in none.  The next one may be ready then. */
void queue_conversation_leave(struct queue_table *table, struct queue_job *job);
/* Is it not held back by an earlier one? */
bool queue_conversation_allows(const struct queue_job *job);
/* The session that the job is to go on in, and the worker that has it: its own, else that of the newest earlier job of
 * its conversation that had one, also in a former life of the daemon.  NULL: none; the worker is NULL when the team's
 * own agent had it.  Valid until the next call of one of these.  MUSTER_STORAGE_ERROR. */
muster_err queue_conversation_session(struct muster_ctx *ctx, struct queue_table *table, const struct queue_job *job,
                                      const char **out_session, const char **out_node);
/* The job and those behind it begin a new session. */
void queue_conversation_anew(struct queue_job *job);

#endif
