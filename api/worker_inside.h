/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of a worker's link.  All of it is of the link's thread, but for what the lock guards.
 *
 *   worker_link.c       the connection: dial, hello, attach, detach, again
 *   worker_hub.c        what the hub sends and gets: beats, parcels, jobs
 *   worker_attempts.c   which attempts this worker has
 *   worker_drain.c      the end in order */
#ifndef WORKER_INSIDE_H
#define WORKER_INSIDE_H

#include <pthread.h>

#include "actors/muster_journal.h"
#include "actors/muster_snapshots.h"
#include "api/worker_link.h"

/* An attempt that was given to an agent, until its report is acknowledged. */
struct worker_attempt {
    struct muster_id job;
    int64_t attempt;
    size_t team;
    int64_t report; /* number of the parcel with its report, once that was sent in this attachment; 0: not yet */
    bool reported;  /* it has ended, as the parcels said last */
};

struct worker_attempts {
    struct worker_attempt *items;
    size_t count, capacity;
};

/* A message for an actor whose mailbox was full. */
struct worker_mail {
    struct worker_mail *next;
    char *to;
    struct muster_buf frame;
};

/* A parcel on its way, in parts. */
struct worker_outgoing {
    struct worker_outgoing *next;
    int64_t seq;
    enum parcel_kind kind;
    int64_t part;
    struct muster_buf data;
    size_t sent; /* bytes of data */
};

enum worker_link_state {
    LINK_WAITING,   /* for the next dial */
    LINK_DIALING,   /* for the connection */
    LINK_HELLO,     /* for the answer to bus.hello */
    LINK_READING,   /* for parcels.kept */
    LINK_ATTACHING, /* for worker.welcome */
    LINK_ATTACHED
};

enum worker_drain_step {
    DRAIN_NONE,
    DRAIN_ENDING,  /* what runs may end */
    DRAIN_PARKING, /* what still runs is parked */
    DRAIN_TELLING, /* the hub is to acknowledge everything */
    DRAIN_LEAVING, /* worker.leave is on its way */
    DRAIN_DONE
};

struct worker_drain {
    enum worker_drain_step step;
    int64_t until_ms; /* of the step, on the clock of spans */
    int hurries;
    int64_t parcels; /* not acknowledged, as they said last; -1: not asked since the step began */
    int64_t leave_id;
};

struct worker_link {
    const struct worker_link_spec *spec;
    const struct worker_options *options;
    struct muster_journal *journal;
    struct muster_runner *runner;
    struct muster_loop *loop;
    struct muster_arena *arena; /* of the message at hand */
    struct muster_dial *dial;
    bool dial_over; /* to be closed when its hooks are not at work */
    bool dialed;    /* for the first time: all agents have begun */
    enum worker_link_state state;
    int dial_timer, answer_timer, beat_timer, mail_timer, drain_timer;
    int64_t pause_ms; /* before the next dial */
    int64_t last_id;  /* of our requests */
    int64_t hello_id, attach_id;

    /* While attached. */
    int64_t attachment, lease_ms, beat_ms;
    int64_t beat_id;      /* on its way; 0: none */
    int64_t beat_sent_ms; /* clock of spans, like the next two */
    int64_t heard_ms;     /* when what the hub heard last was sent */
    int64_t round_trip_ms;
    bool held_back; /* the hub gives no jobs, because an operator wants it so */
    struct worker_outgoing *outgoing, **outgoing_last;
    size_t asked; /* parts on their way */
    int64_t acked;

    struct worker_attempts attempts;
    bool *ready; /* for each team: its agent has begun */
    struct worker_mail *mail, **mail_last;
    struct worker_drain drain;
    char said[512]; /* the last problem that stands in the journal */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    bool attached, was_attached;
    muster_err err;         /* why it is not attached */
    uint64_t refused, told; /* refusals that come again; those that worker_link_wait told */
    char problem[512];
    bool drained, left, has_attempts;
};

int64_t worker_uptime_ms(void);

/* ---- worker_mail.c */
/* To an actor of this worker; if its mailbox is full, later and in order. */
void worker_tell(struct worker_link *link, const char *to, const struct muster_envelope *envelope,
                 const struct muster_type *type, const void *body);
void worker_tell_parcels(struct worker_link *link, const char *reply_to, const struct muster_type *type,
                         const void *body);
void worker_mail_free(struct worker_link *link);

/* ---- worker_link.c */
/* To the hub; returns the number of the request. */
int64_t worker_ask(struct worker_link *link, const struct muster_type *type, const void *body);
/* Dial for the first time, once all agents have begun. */
void worker_dial_when_ready(struct worker_link *link);
/* The connection is of no more use: another one after a pause. */
void worker_lose(struct worker_link *link, muster_err err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* If it waits for the next dial, not for long. */
void worker_dial_soon(struct worker_link *link);

/* ---- worker_hub.c */
void worker_attached(struct worker_link *link, const struct worker_welcome *welcome);
void worker_detached(struct worker_link *link);
/* A message while it is attached. */
void worker_on_hub(struct worker_link *link, const struct muster_envelope *envelope);
void worker_on_parcel(struct worker_link *link, const struct parcels_parcel *parcel);
/* A sign of life now. */
void worker_beat_now(struct worker_link *link);

/* ---- worker_attempts.c */
struct worker_attempt *worker_attempt_find(struct worker_link *link, const struct muster_id *job, int64_t attempt);
void worker_attempt_add(struct worker_link *link, const struct muster_id *job, int64_t attempt, size_t team);
void worker_attempt_remove(struct worker_link *link, struct worker_attempt *attempt);
/* The hub has the reports in parcels up to that number. */
void worker_attempts_acked(struct worker_link *link, int64_t seq);
/* These have their reports among the parcels, and no others. */
void worker_attempts_reported(struct worker_link *link, const struct parcels_kept *kept);
/* All that it has, for worker.attach; in the arena. */
void worker_attempts_held(struct worker_link *link, const struct parcels_kept *kept, struct worker_attach *attach);
/* Attempts that go on. */
size_t worker_attempts_running(const struct worker_link *link);
/* End it; by its agent. */
void worker_attempt_cancel(struct worker_link *link, const struct worker_attempt *attempt, bool park);
/* Report an attempt of which its agent knows nothing. */
void worker_attempt_report(struct worker_link *link, const struct muster_id *job, int64_t attempt, enum job_state state,
                           muster_err err, const char *message);
/* An agent has begun; if that is not the first time, what it had is gone. */
void worker_on_ready(struct worker_link *link, const struct queue_ready *ready);

/* ---- worker_drain.c */
void worker_on_drain(struct worker_link *link, bool hurry);
void worker_drain_kept(struct worker_link *link, const struct parcels_kept *kept);
/* worker.left came, or worker.leave failed. */
void worker_drain_answered(struct worker_link *link, bool left);
/* Does it take jobs? */
static inline bool
worker_takes_jobs(const struct worker_link *link)
{
    return link->drain.step < DRAIN_PARKING;
}

#endif
