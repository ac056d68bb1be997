/* SPDX-License-Identifier: MPL-2.0 */
/* Private to nodes, the hub's side of workers: what its files share.  The actor's thread only.
 *
 *   nodes.c           messages, timers, what is told to whom
 *   nodes_attach.c    a worker comes: checks, record, queue, welcome
 *   nodes_lease.c     how it stands: up, draining, away, lost, left
 *   nodes_parcel.c    what it sends: put together, handed on, acknowledged
 *   nodes_disk.c      records of workers, and who waits until something is on disk
 *   nodes_admin.c     what operators want of workers
 *   nodes_table.c     who there is, and which attempts each has
 *   nodes_show.c      what is published */
#ifndef ACTORS_NODES_H
#define ACTORS_NODES_H

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "actors/muster_snapshots.h"
#include "actors/outbox.h"

#define NODES_PARCEL_MAX (INT64_C(128) << 20) /* bytes of a parcel; of several that wait for the disk, too */
#define NODES_EARLY_MAX 4096                  /* cancels kept for attempts that are not at a worker yet */

#define NODES_RETRY_S 2
#define NODES_NOT_WRITTEN "The data folder of the hub could not be written; try again."

/* Timers; those of a worker are NODES_TIMER_WORKER + NODES_TIMERS * number and what follows. */
enum { NODES_TIMER_OUTBOX, NODES_TIMER_FLUSH, NODES_TIMER_WORKER };
enum { NODES_TIMER_LEASE, NODES_TIMER_JOIN, NODES_TIMERS };

struct worker;
struct nodes;

/* ---- nodes_table.c: attempts ---------------------------------------------------------------------------------------
 */

struct nodes_attempt {
    struct muster_id job;
    int64_t attempt;
    const struct team_options *team; /* NULL: not known */
    char *trace;                     /* request id of the job; "" none */
    bool ended;                      /* its report was handed on: it says nothing any more */
    bool park;                       /* of a cancel that is kept */
};
/* By job and attempt, ascending. */
struct nodes_attempts {
    struct nodes_attempt *items;
    size_t count, capacity;
};
/* NULL: it is not there. */
struct nodes_attempt *nodes_attempt_find(const struct nodes_attempts *attempts, const struct muster_id *job,
                                         int64_t attempt);
/* The one that is there, or a new one. */
struct nodes_attempt *nodes_attempt_add(struct nodes_attempts *attempts, const struct muster_id *job, int64_t attempt);
void nodes_attempt_remove(struct nodes_attempts *attempts, struct nodes_attempt *item);
void nodes_attempts_free(struct nodes_attempts *attempts);

/* ---- a worker -------------------------------------------------------------------------------------------------------
 */

/* A worker.attach that is not answered yet. */
struct nodes_join {
    struct muster_caller *caller;
    int64_t attachment;
    struct muster_arena *arena;     /* of what follows */
    const struct worker_attach *in; /* as it came, without what is dropped */
    struct held_attempt *dropped;   /* what it is to drop, whatever the queue says */
    size_t dropped_count;
    int64_t token; /* of the queue.node that waits for queue.noded; 0: the record is being written */
};

/* A parcel that was taken and not acknowledged. */
struct nodes_parcel {
    struct nodes_parcel *next;
    int64_t seq;
    bool settled;                 /* nothing of it is to be done */
    bool report;                  /* else events */
    struct muster_id job;         /* of a report */
    int64_t attempt;              /* likewise */
    size_t size;                  /* bytes */
    struct muster_caller *caller; /* who waits */
};

/* The parts of a parcel that has not come whole. */
struct nodes_parts {
    int64_t seq;  /* 0: none */
    int64_t next; /* part */
    int kind;
    struct muster_buf data;
};

struct worker {
    uint64_t number;            /* for its timers */
    struct node record;         /* as it was last handed to the log to be written; texts in `facts` */
    struct worker_team *offers; /* the record's teams with what it does of them; in `facts` */
    struct muster_arena *facts;
    enum node_state state; /* 0: it has never been attached */
    struct nodes_join *join;
    struct muster_caller *caller; /* of its worker.attach; NULL: not attached */
    int64_t attachment;           /* 0: not attached */
    int64_t up_ms;                /* when it last attached itself, since the start; 0: it did not */
    int64_t heard_ms;             /* unix ms; 0: not since the start */
    int64_t heard_uptime_ms;      /* its lease began */
    bool wants_drain;             /* it is about to end */
    bool fresh;                   /* how far it was heard is not known: what it has of before does not count */
    const struct worker_beat *beat;
    struct muster_arena *beat_arena; /* of beat */
    struct nodes_attempts open;
    struct nodes_parts parts;
    struct nodes_parcel *first, **last; /* in their order */
    int64_t taken;                      /* number of the last parcel taken in this attachment */
    int64_t acked;                      /* all up to it are acknowledged */
    int64_t refused;                    /* this one was, and is to come before those after it; 0: none was */
    int64_t handed;                     /* events up to it are on their way to the disk; 0: none are */
    int64_t covered;                    /* those up to it by the flush under way; 0: none are */
    size_t waiting_bytes;               /* of all those parcels */
    muster_err unsure;                  /* not MUSTER_OK: what is on disk of it must be looked up before all else */
    size_t waits;                       /* that are about it */
};

/* ---- what waits for the disk ----------------------------------------------------------------------------------------
 */

enum nodes_wait_kind { NODES_WAIT_ATTACH, NODES_WAIT_DRAIN, NODES_WAIT_FORGET, NODES_WAIT_LEAVE, NODES_WAIT_LOOK };

struct nodes_wait {
    struct nodes_wait *next;
    enum nodes_wait_kind kind;
    struct worker *worker;
    struct muster_caller *caller; /* NULL: nobody is to be answered */
    int64_t attachment;           /* of an attach */
    bool draining;                /* of a drain: what it was to be */
    bool covered;                 /* by the flush under way */
};

/* ---- the actor ------------------------------------------------------------------------------------------------------
 */

/* A team whose driver is remote. */
struct nodes_team {
    const struct team_options *options;
    bool dirty; /* its view is behind */
};

struct nodes {
    struct muster_ctx *ctx;   /* borrowed; outlives us */
    struct worker **workers;  /* by name */
    struct worker **attached; /* those that are, by attachment */
    size_t worker_count, worker_capacity, attached_count, attached_capacity;
    uint64_t last_number;       /* of a worker */
    struct nodes_team *teams;   /* remote ones of the options */
    size_t team_count;          /* of teams */
    struct nodes_wait *waits;   /* newest first */
    int64_t last_token;         /* of our own requests */
    int64_t flush_token;        /* of the log.flush under way; 0: none is */
    bool flush_due;             /* something was handed to the log since the last */
    bool flush_paused;          /* the timer begins the next one */
    struct outbox queue_outbox; /* what must arrive, each way in its order */
    struct outbox log_outbox, bus_outbox;
    struct nodes_attempts early; /* cancels that came before their attempts, or before the welcome */
    bool dirty;                  /* the board is behind */
    uint64_t attaches, refusals, losses, parcels, stale; /* since the start; see muster_nodes_view */
};

/* ---- nodes_table.c: workers */
struct worker *nodes_find(const struct nodes *self, const char *name);
/* A new one, that has never been attached. */
struct worker *nodes_add(struct nodes *self, const char *name);
void nodes_remove(struct nodes *self, struct worker *worker);
void nodes_free_worker(struct worker *worker);
/* The one that is attached so; NULL: none. */
struct worker *nodes_find_attached(const struct nodes *self, int64_t attachment);
void nodes_set_attached(struct nodes *self, struct worker *worker, int64_t attachment);
void nodes_unset_attached(struct nodes *self, struct worker *worker);
/* NULL: there is no such team, or its driver is not remote. */
struct nodes_team *nodes_team_find(const struct nodes *self, const char *name);
/* Have the worker the labels that the team asks for? */
bool nodes_fits(const struct worker *worker, const struct team_options *team);
/* The worker that has this attempt; NULL: none. */
struct worker *nodes_of_attempt(const struct nodes *self, const struct muster_id *job, int64_t attempt);

/* ---- nodes.c */
/* A copy of the struct `in` of `type` in the arena. */
const void *nodes_copy(const struct muster_type *type, const void *in, struct muster_arena *arena);
/* Send a worker something on its attachment. */
void nodes_send(struct nodes *self, const struct muster_caller *caller, const struct muster_type *type,
                const void *body);
/* Answer `failed` with these words. */
void nodes_fail(struct nodes *self, struct muster_caller **caller_p, muster_err err, int64_t retry_after_s,
                const char *text);
/* A whole request of our own; returns the number that its answer comes with. */
int64_t nodes_pack_request(struct nodes *self, const struct muster_type *type, const void *body,
                           struct muster_buf *out);
/* Send the cancel that was kept for an attempt which the worker now has. */
void nodes_send_early(struct nodes *self, const struct worker *worker, const struct muster_id *job, int64_t attempt);
/* The timer of the outboxes, if something waits there. */
void nodes_await(struct nodes *self);
/* Facts of a journal entry about an attempt; the id is in the arena of the message. */
#define NODES_SAYS 4
void nodes_say_attempt(struct nodes *self, const struct worker *worker, const struct nodes_attempt *attempt,
                       struct muster_say out_says[NODES_SAYS]);

/* ---- nodes_lease.c */
/* It has changed to this state: the event, the board, its lease. */
void nodes_turn(struct nodes *self, struct worker *worker, enum node_state state, const char *reason);
/* Tell the queue how it stands; `join` not NULL: how it will, with what it said it has.  Returns the number that the
 * answer comes with. */
int64_t nodes_tell_queue(struct nodes *self, const struct worker *worker, const struct nodes_join *join);
/* up or draining, as it and the operator want it. */
enum node_state nodes_wanted(const struct worker *worker);
/* A sign of life of an attached worker. */
void nodes_heard(struct nodes *self, struct worker *worker);
/* The end of its attachment, with what it has not been told; how it stands is the caller's business.  Without a
 * `reason` it is not told either. */
void nodes_detach(struct nodes *self, struct worker *worker, const char *reason);
void nodes_go_away(struct nodes *self, struct worker *worker, const char *reason);
void nodes_on_beat(struct nodes *self, struct worker *worker, const struct worker_beat *in);
void nodes_on_lease(struct nodes *self, struct worker *worker);
/* It asks to end; the request at hand. */
muster_err nodes_on_leave(struct nodes *self, struct worker *worker);
void nodes_left(struct nodes *self, struct worker *worker, struct muster_caller **caller_p);
/* Set its lease's timer. */
void nodes_arm(struct nodes *self, struct worker *worker);
int64_t nodes_lease_ms(const struct nodes *self);

/* ---- nodes_attach.c */
/* The request at hand. */
muster_err nodes_on_attach(struct nodes *self, const struct worker_attach *in);
/* Its record is on disk. */
void nodes_attach_written(struct nodes *self, struct worker *worker);
void nodes_attach_known(struct nodes *self, struct worker *worker, const struct queue_noded *noded);
/* End an attach that is under way. */
void nodes_attach_fail(struct nodes *self, struct worker *worker, muster_err err, const char *text);
void nodes_free_join(struct nodes_join **join_p);

/* ---- nodes_parcel.c */
/* The request at hand. */
muster_err nodes_on_parcel(struct nodes *self, struct worker *worker, const struct worker_parcel *in);
void nodes_on_reported(struct nodes *self, struct worker *worker, const struct queue_reported *in);
/* Its events up to `seq` are on disk. */
void nodes_parcels_written(struct nodes *self, struct worker *worker, int64_t seq);
/* Forget what was not acknowledged; who waits is told to attach again. */
void nodes_parcels_drop(struct nodes *self, struct worker *worker);

/* ---- nodes_disk.c */
/* Hand the record to the log.  MUSTER_OVERLOADED: it has no room; nothing was changed. */
muster_err nodes_write(struct nodes *self, const struct worker *worker);
/* The packed record for a log.append; `packed` is filled. */
struct store_put nodes_put(const struct worker *worker, struct muster_buf *packed);
/* Hand a put to the log; likewise. */
muster_err nodes_hand_put(struct nodes *self, const struct store_put *put);
/* Something was handed to the log: flush it soon. */
void nodes_handed(struct nodes *self);
/* Have it go on when everything handed so far is on disk.  Takes the caller. */
void nodes_wait(struct nodes *self, enum nodes_wait_kind kind, struct worker *worker, struct muster_caller *caller);
void nodes_flush(struct nodes *self);
/* The answer to log.flush. */
void nodes_on_flushed(struct nodes *self, muster_err err);
void nodes_flush_again(struct nodes *self);
/* Something of it was not written, and nobody knows yet what else: it is to come again when that is known. */
void nodes_doubt(struct nodes *self, struct worker *worker, muster_err err);
/* While it is unsure what is on disk of a worker: the error, explained. */
muster_err nodes_check_sure(struct nodes *self, const struct worker *worker);
/* Names and facts of a record in the worker's own memory. */
void nodes_set_record(struct worker *worker, const struct node *record, const struct worker_team *offers);

/* ---- nodes_admin.c */
/* The request at hand. */
muster_err nodes_on_drain(struct nodes *self, const struct node_drain *in);
muster_err nodes_on_forget(struct nodes *self, const struct node_forget *in);
/* It is on disk, or is not; `wait` keeps its caller until it is answered. */
void nodes_after_drain(struct nodes *self, struct nodes_wait *wait, muster_err err);
void nodes_after_forget(struct nodes *self, struct nodes_wait *wait, muster_err err);
/* Make room for one more worker. */
void nodes_evict(struct nodes *self);

/* ---- nodes_show.c */
/* Views of all teams that it has processes of, or offers, are behind. */
void nodes_show_worker(struct nodes *self, const struct worker *worker);
void nodes_publish(struct nodes *self);

#endif
