/* SPDX-License-Identifier: MPL-2.0 */
/* The queue's memory: jobs that are not final, their teams, and who goes next.
 *
 * Pure data, no messages: a model can be held against it.  Holds what changes while a job lives; its prompt and what
 * else stays the same lie in the store.  The queue actor's thread only. */
#ifndef ACTORS_QUEUE_TABLE_H
#define ACTORS_QUEUE_TABLE_H

#include "actors/muster_actor.h"

#define QUEUE_PRIORITIES 5 /* job_priority values, 0 unused */

/* What is going on with a job besides its state. */
enum queue_phase {
    PHASE_SUBMIT, /* its first commit is under way; not to be started yet */
    PHASE_WAIT,   /* in its team's waiting list */
    PHASE_DELAY,  /* waits for the time of its next attempt */
    PHASE_RUN,    /* an agent has it */
    PHASE_FINISH  /* its last commit is under way */
};

/* Somebody who waits for a job's end. */
struct queue_waiter {
    struct queue_waiter *next;
    struct muster_caller *caller;
    bool cancel; /* asked by queue.cancel, not by queue.submit */
};

struct queue_team;

struct queue_job {
    struct muster_id id;
    struct queue_team *team;
    struct queue_job *next, *previous; /* in the waiting list, oldest first */
    struct queue_job *chain;           /* in the table */
    enum queue_phase phase;
    enum job_state state; /* as the store has it, or will */
    enum job_priority priority;
    int64_t created_ms, started_ms, finished_ms, waiting_since_ms, not_before_ms;
    int64_t timeout_ms, attempt, failures, max_attempts;
    char *session;      /* the agent's, to be resumed; NULL none */
    char *trace;        /* request id of the submit */
    char *cancelled_by; /* somebody wants its end; NULL nobody */
    bool was_running;   /* when its end was wanted */
    bool given_up;      /* its agent was asked to drop the attempt */
    struct usage usage; /* of all attempts that ended */
    struct queue_waiter *waiters;
    struct muster_arena *arena; /* of its last commit, until that is on disk */
    struct store_commit commit; /* that commit, to be sent again if it fails */
    struct job *final;          /* the record in that commit */
};

struct queue_team {
    char *name;
    const struct team_options *options; /* NULL: jobs are left from an earlier configuration */
    char *address;                      /* of its agent; NULL until it is ready */
    int64_t capacity;                   /* jobs its agent takes at a time */
    struct queue_job *first[QUEUE_PRIORITIES], *last[QUEUE_PRIORITIES]; /* waiting lists */
    int64_t waiting[QUEUE_PRIORITIES];                                  /* jobs in PHASE_SUBMIT or PHASE_WAIT */
    int64_t delayed;                                                    /* jobs in PHASE_DELAY */
    int64_t running;
    int64_t mean_ms; /* of recent jobs; 0 none yet */
    int64_t completed, failed, cancelled;
    bool dirty; /* its view is to be published */
};

struct queue_table {
    struct queue_job **buckets;
    size_t bucket_count, job_count;
    struct queue_team *teams;
    size_t team_count;
    int64_t queued;  /* jobs in PHASE_SUBMIT, PHASE_WAIT or PHASE_DELAY */
    int64_t running; /* jobs in PHASE_RUN */
    int64_t aging_ms;
};

void queue_table_init(struct queue_table *table, const struct options *options);
void queue_table_fini(struct queue_table *table);

/* NULL when there is no such team. */
struct queue_team *queue_team_find(struct queue_table *table, const char *name);
/* The team, made without options when it is not configured.  May move teams: only before any job is in the table. */
struct queue_team *queue_team_get(struct queue_table *table, const char *name);

/* NULL when it is final or never was. */
struct queue_job *queue_job_find(const struct queue_table *table, const struct muster_id *id);
/* A new job in PHASE_SUBMIT, with the record's facts. */
struct queue_job *queue_job_add(struct queue_table *table, struct queue_team *team, const struct job *record);
/* Out of the table and gone; its waiters must have been told. */
void queue_job_free(struct queue_table *table, struct queue_job *job);
/* Add what an attempt used; `usage` may be NULL. */
void queue_job_use(struct queue_job *job, const struct usage *usage);
/* Move it to another phase, keeping lists and counts.  PHASE_WAIT puts it behind its equals, `first` before them. */
void queue_job_enter(struct queue_table *table, struct queue_job *job, enum queue_phase phase, bool first);

/* The team's next job: highest priority, a step higher for every `aging_ms` waited; the older of two.  NULL: none. */
struct queue_job *queue_next_of(const struct queue_table *table, const struct queue_team *team, int64_t now_ms);
/* The next job of any team that has room.  NULL: none. */
struct queue_job *queue_next(const struct queue_table *table, int64_t now_ms);
/* Place of the newest of its equals among the team's waiting jobs, itself counted, from 1. */
int64_t queue_position(const struct queue_job *job);
/* When a job at `position` is likely done. */
int64_t queue_estimate(const struct queue_team *team, int64_t position, int64_t first_estimate_ms, int64_t now_ms);

#endif
