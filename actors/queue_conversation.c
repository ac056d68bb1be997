/* SPDX-License-Identifier: MPL-2.0 */
/* queue_conversation: lists of jobs by the digest of their conversation.  A conversation without jobs is forgotten; the
 * store is asked once for its session when it comes back.  The queue actor's thread only; only reading the store can
 * fail. */
#include "actors/queue_conversation.h"

#include <stdlib.h>
#include <string.h>

#define MOST_READ 64 /* ended jobs looked at in search of a session */

void
queue_conversation_join(struct queue_table *table, struct queue_job *job, const char *digest)
{
    struct queue_conversation *conversation =
        (struct queue_conversation *)queue_names_find(&table->conversations, digest);

    if (conversation == NULL) {
        conversation = muster_alloc(sizeof *conversation);
        conversation->name.text = muster_strdup(digest);
        queue_names_add(&table->conversations, &conversation->name);
    }
    job->conversation = conversation;
    job->earlier = conversation->last;
    *(job->earlier ? &job->earlier->later : &conversation->first) = job;
    conversation->last = job;
    conversation->count++;
}

bool
queue_conversation_allows(const struct queue_job *job)
{
    return job->conversation == NULL || job->conversation->first == job;
}

static void
forget(struct queue_table *table, struct queue_conversation *conversation)
{
    queue_names_remove(&table->conversations, &conversation->name);
    free(conversation->name.text);
    free(conversation->session);
    free(conversation->node);
    free(conversation);
}

/* Both may be NULL. */
static void
keep_session(struct queue_conversation *conversation, const char *session, const char *node)
{
    free(conversation->session);
    free(conversation->node);
    conversation->session = session ? muster_strdup(session) : NULL;
    conversation->node = node && *node ? muster_strdup(node) : NULL;
    conversation->known = true;
}

/* What an ended job leaves to the next. */
static void
bequeath(struct queue_conversation *conversation, const struct queue_job *job)
{
    if (job->phase != PHASE_FINISH || job->final == NULL || job->final->session == NULL || !*job->final->session)
        return;
    keep_session(conversation, job->final->session, job->node);
}

void
queue_conversation_leave(struct queue_table *table, struct queue_job *job)
{
    struct queue_conversation *conversation = job->conversation;

    if (conversation == NULL)
        return;
    *(job->earlier ? &job->earlier->later : &conversation->first) = job->later;
    *(job->later ? &job->later->earlier : &conversation->last) = job->earlier;
    job->conversation = NULL;
    bequeath(conversation, job);
    if (--conversation->count == 0)
        forget(table, conversation);
    else if (conversation->first->phase == PHASE_WAIT && conversation->first->tie == NULL)
        queue_line_ready(conversation->first, true);
}

/* ---- sessions ---- */

struct search {
    const struct queue_table *table;
    const struct queue_job *job;
    size_t left; /* records that may still be read */
    char *found, *node;
};

static bool
look_at(void *arg, const void *record, struct muster_arena *arena)
{
    struct search *search = arg;
    const struct job *other = record;

    (void)arena;
    if (queue_job_find(search->table, &other->id) == NULL && other->session && *other->session &&
        strcmp(other->team, search->job->team->name) == 0) {
        search->found = muster_strdup(other->session);
        search->node = other->node ? muster_strdup(other->node) : NULL;
        return false;
    }
    return --search->left > 0;
}

static muster_err
find_session(struct muster_ctx *ctx, struct queue_table *table, const struct queue_job *job)
{
    struct queue_conversation *conversation = job->conversation;
    struct search search = {
        .table = table,
        .job = job,
        .left = conversation->count + MOST_READ, /* the newest are those that have not ended */
    };
    muster_err err = muster_store_walk(muster_ctx_store(ctx), &job_type, "job_by_conversation", conversation->name.text,
                                       MUSTER_NEWEST_FIRST, look_at, &search);

    if (!err)
        keep_session(conversation, search.found, search.node);
    free(search.found);
    free(search.node);
    return err;
}

muster_err
queue_conversation_session(struct muster_ctx *ctx, struct queue_table *table, const struct queue_job *job,
                           const char **out_session, const char **out_node)
{
    struct queue_conversation *conversation = job->conversation;
    muster_err err = MUSTER_OK;

    if (job->session == NULL && conversation && !conversation->known)
        err = find_session(ctx, table, job);
    if (err)
        return err;
    *out_session = job->session ? job->session : conversation ? conversation->session : NULL;
    *out_node = job->session ? job->node : conversation ? conversation->node : NULL;
    return MUSTER_OK;
}

void
queue_conversation_anew(struct queue_job *job)
{
    free(job->session);
    job->session = NULL;
    if (job->conversation)
        keep_session(job->conversation, NULL, NULL);
}
