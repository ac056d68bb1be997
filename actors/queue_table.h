/* SPDX-License-Identifier: MPL-2.0 */
/* The queue's memory: jobs that are not final, their teams and their conversations.
 *
 * Pure data, no messages: a model can be held against it.  Holds what changes while a job lives; its prompt and what
 * else stays the same lie in the store.  The queue actor's thread only. */
#ifndef ACTORS_QUEUE_TABLE_H
#define ACTORS_QUEUE_TABLE_H

#include "actors/muster_actor.h"
#include "actors/queue_names.h"
#include "actors/queue_order.h"

#define QUEUE_PRIORITIES 5 /* job_priority values, 0 unused */

/* What is going on with a job besides its state. */
enum queue_phase {
    PHASE_SUBMIT, /* its first commit is under way; not to be started yet */
    PHASE_WAIT,   /* waits for its turn, and for its conversation */
    PHASE_DELAY,  /* waits for the time of its first or next attempt */
    PHASE_RUN,    /* an agent has it */
    PHASE_FINISH  /* its last commit is under way */
};

/* Somebody who waits for a job's end. */
struct queue_waiter {
    struct queue_waiter *next;
    struct muster_caller *caller;
    bool cancel; /* asked by queue.cancel, not by queue.submit */
};

/* The Idempotency-Key of a job in PHASE_SUBMIT. */
struct queue_key {
    struct queue_name name; /* the digest; must be first */
    uint8_t print[MUSTER_DIGEST];
    size_t print_size;
};

struct queue_team;
struct queue_conversation;
struct queue_site;
struct queue_tie;
struct queue_repeat;

struct queue_job {
    struct muster_id id;
    struct queue_team *team;
    struct queue_job *chain; /* in the table */
    enum queue_phase phase;
    enum job_state state; /* as the store has it, or will */
    enum job_priority priority;
    struct queue_spot spot; /* in its team's line, in PHASE_SUBMIT and PHASE_WAIT */
    int64_t created_ms, started_ms, finished_ms, not_before_ms, deadline_ms;
    int64_t timeout_ms, attempt, failures, max_attempts;
    int64_t retry_delay_ms, max_retry_delay_ms; /* 0: the queue's */
    struct queue_conversation *conversation;    /* NULL none */
    struct queue_job *earlier, *later;          /* in it, in the order of submission */
    struct queue_key *key;                      /* NULL none */
    int64_t due_ms;                             /* time is to be looked at then; see queue_due.h */
    size_t due_place;                           /* in the heap of those, from 1; 0: not in it */
    char *session;                              /* the agent's, to be resumed; NULL none */
    char *node;                                 /* worker that had its last attempt; NULL: the team's own agent */
    int64_t losses;                             /* attempts that were lost with their worker */
    struct queue_site *site;                    /* where it runs; NULL when it does not */
    struct queue_job *before, *behind;          /* among those that run there */
    struct queue_tie *tie;                      /* it may go to one site only; NULL: to any, or not known yet */
    size_t handovers;                           /* commits under way that hand an attempt to a worker */
    bool lost;                                  /* its attempt was, and nobody has begun another */
    bool held;                                  /* its worker has it; only while that attaches itself */
    bool reported;                              /* PHASE_FINISH: by a worker's report of its last attempt */
    struct queue_repeat *repeat;                /* that report came again meanwhile; see queue_end.c */
    char *trace;                                /* request id of the submit */
    char *cancelled_by;                         /* somebody wants its end; NULL nobody */
    bool was_running;                           /* when its end was wanted */
    bool given_up;                              /* its agent was asked to drop the attempt */
    bool expired;                               /* likewise, because its deadline passed */
    struct usage usage;                         /* of all attempts that ended */
    struct queue_waiter *waiters;
    struct muster_arena *arena; /* of its last commit, until that is on disk */
    struct store_commit commit; /* that commit, to be sent again if it fails */
    struct job *final;          /* the record in that commit */
};

struct queue_team {
    char *name;
    const struct team_options *options; /* NULL: jobs are left from an earlier configuration */
    bool remote;                        /* its jobs are done by workers */
    struct queue_site *sites;           /* where its jobs are done, in the order in which they came; see queue_site.h */
    size_t open;                        /* sites that have room */
    int64_t capacity;                   /* jobs that all sites take at a time */
    size_t tied;                        /* jobs that wait for a certain site */
    struct queue_line lines[QUEUE_PRIORITIES];
    int64_t waiting; /* jobs in PHASE_SUBMIT or PHASE_WAIT */
    int64_t delayed; /* jobs in PHASE_DELAY */
    int64_t running;
    int64_t mean_ms; /* of recent jobs; 0 none yet */
    int64_t completed, failed, cancelled;
    bool paused;                            /* starts no jobs */
    struct muster_id state_id;              /* of its team_state record */
    bool changing, change_to;               /* a commit that pauses or resumes it is under way */
    struct queue_asked *asked, *asked_last; /* who wants it paused or resumed after that; see queue_pause.h */
    bool dirty;                             /* its view is to be published */
};

/* Jobs with a time to look at, as a heap: none is due before the first, and none before those it stands above. */
struct queue_due {
    struct queue_job **jobs;
    size_t count, capacity;
};

struct queue_table {
    struct queue_job **buckets;
    size_t bucket_count, job_count;
    struct queue_team *teams;
    size_t team_count;
    struct queue_names keys;          /* of jobs in PHASE_SUBMIT */
    struct queue_names conversations; /* of all jobs */
    struct queue_due due;
    int64_t queued;                /* jobs in PHASE_SUBMIT, PHASE_WAIT or PHASE_DELAY */
    int64_t running;               /* jobs in PHASE_RUN */
    int64_t first_turn, last_turn; /* given out next in front of and behind all others */
    int64_t last_given;            /* jobs given to sites so far */
    bool stalled;                  /* nothing is handed to workers for a while: it could not be written */
    int64_t aging_ms, max_running, first_estimate_ms;
};

void queue_table_init(struct queue_table *table, const struct options *options);
void queue_table_fini(struct queue_table *table);

/* NULL when there is no such team. */
struct queue_team *queue_team_find(struct queue_table *table, const char *name);
/* The team, made without options when it is not configured.  May move teams: only before any job is in the table. */
struct queue_team *queue_team_get(struct queue_table *table, const char *name);

/* NULL when it is final or never was. */
struct queue_job *queue_job_find(const struct queue_table *table, const struct muster_id *id);
/* A new job in PHASE_SUBMIT with the record's facts, last in its conversation, in no line yet. */
struct queue_job *queue_job_add(struct queue_table *table, struct queue_team *team, const struct job *record);
/* Out of the table and gone; its waiters must have been told.  What its conversation held back may be started. */
void queue_job_free(struct queue_table *table, struct queue_job *job);
/* Add what an attempt used; `usage` may be NULL. */
void queue_job_use(struct queue_job *job, const struct usage *usage);
/* Move it to another phase, keeping lines, sites and counts.  PHASE_WAIT puts a job that is in no line behind its
 * equals, with `first` before them; spot.since_ms is since when it waits.  It is not tied to a site afterwards. */
void queue_job_enter(struct queue_table *table, struct queue_job *job, enum queue_phase phase, bool first);
/* It runs at that site, in PHASE_RUN. */
void queue_job_run(struct queue_table *table, struct queue_job *job, struct queue_site *site);

/* As good as random, and always the same for the same number. */
static inline uint64_t
queue_scatter(uint64_t number)
{
    number = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
    number = (number ^ (number >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    number = (number ^ (number >> 27)) * UINT64_C(0x94d049bb133111eb);
    return number ^ (number >> 31);
}

/* Remember the Idempotency-Key of a job in PHASE_SUBMIT, until it leaves it. */
void queue_key_hold(struct queue_table *table, struct queue_job *job, const struct job *record);
/* That key, held by a job; NULL: none holds it. */
const struct queue_key *queue_key_find(const struct queue_table *table, const char *digest);

#endif
