/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the webhook actor: what its files share.  The actor's thread only.
 *
 *   webhook.c             the actor: its messages, its start and end, and who is called when
 *   webhook_turns.c       who may send next: by time, by receiver, and over all
 *   webhook_retry.c       what an answer means, and when the next request is made
 *   webhook_request.c     a request's headers and signature
 *   webhook_body.c        what a request says
 *   webhook_deliveries.c  callbacks of jobs: found, sent, their outcomes saved
 *   webhook_tasks.c       those callbacks in memory
 *   webhook_hooks.c       webhooks in memory
 *   webhook_feed.c        their way along the log: what is new, and what is written of it
 *   webhook_tell.c        the way of one: its next event, the request, the outcome
 *   webhook_admin.c       messages that make, change and remove them
 *   webhook_probe.c       the request that tests one
 *   webhook_secret.c      the secret that signs callbacks */
#ifndef ACTORS_WEBHOOK_H
#define ACTORS_WEBHOOK_H

#include "actors/muster_actor.h"

#define WEBHOOK_BUCKETS 16384
#define WEBHOOK_PROBLEM_MAX 160 /* bytes; cleaned they are at most three times as many */
#define WEBHOOK_PROBLEM_TEXT (3 * WEBHOOK_PROBLEM_MAX + 1)
#define WEBHOOK_WORK 4000          /* rows of the log that are read before messages are looked at again */
#define WEBHOOK_SAVE_PAUSE_MS 5000 /* until what could not be written or read is tried again */

enum webhook_timer {
    WEBHOOK_TIMER_PUMP = 1, /* the next turn is due */
    WEBHOOK_TIMER_WALK,     /* the records of callbacks may be walked again */
    WEBHOOK_TIMER_FEED,     /* the front may move on */
    WEBHOOK_TIMER_SAVE,     /* what could not be written or asked is tried again */
    WEBHOOK_TIMER_KEEP      /* cursors are written that moved while nothing was told */
};

struct webhook_actor;

/* ---- turns ----------------------------------------------------------------------------------------------------------
 *
 * Whatever sends requests has a turn.  It is in one place at a time:
 *
 *   due      in a heap by the time at which its `begin` is called
 *   blocked  in the list of its receiver, which has as many requests open already as it may
 *   none     its request is on its way, or it has nothing to do */

/* A receiver with requests open. */
struct webhook_endpoint {
    struct webhook_endpoint *next;
    char *name;                         /* host and port */
    size_t slots;                       /* taken; there is a limit for each receiver */
    struct webhook_turn *first, **last; /* blocked, in their order */
};

/* Begins as zeros with `begin`; the first member of what has it. */
struct webhook_turn {
    void (*begin)(struct webhook_turn *turn); /* it is due; it has left the heap */
    int64_t due_ms;
    uint64_t order;                    /* of two due at the same time the one put there first is first */
    size_t place;                      /* in the heap, from 1; 0: it is not there */
    struct webhook_endpoint *endpoint; /* where it has a slot, or waits for one; NULL: neither */
    bool has_slot;
    struct webhook_turn *next; /* blocked behind it */
};

struct webhook_turns {
    struct webhook_turn **heap; /* due ones, the earliest first; from 1 */
    size_t count, capacity;
    struct webhook_endpoint *endpoints; /* those with a slot taken */
    uint64_t last_order;
    int64_t open; /* requests on their way */
};

/* Ends as nothing but its memory: those that had a turn are gone already, or will be without leaving it. */
void webhook_turns_fini(struct webhook_turns *turns);
/* Put it in the heap, also when it was there already.  It must not be blocked. */
void webhook_turn_due(struct webhook_turns *turns, struct webhook_turn *turn, int64_t due_ms);
/* The earliest that is due; NULL: none. */
struct webhook_turn *webhook_turns_first(const struct webhook_turns *turns);
/* Take it out of the heap if it is there; it keeps its slot. */
void webhook_turn_take(struct webhook_turns *turns, struct webhook_turn *turn);
/* Take a slot of the receiver, unless it has one.  False: there is none left, and it is blocked until it gets one; then
 * it has it and is due. */
bool webhook_turn_slot(struct webhook_turns *turns, struct webhook_turn *turn, const char *endpoint, int64_t most);
/* Is there a slot left? */
bool webhook_turns_have_slot(const struct webhook_turns *turns, const char *endpoint, int64_t most);
/* Out of wherever it is.  Its slot, if it has one, goes to the next that waits for it. */
void webhook_turn_leave(struct webhook_turns *turns, struct webhook_turn *turn);

/* ---- retries ----------------------------------------------------------------------------------------------------- */

enum webhook_verdict {
    WEBHOOK_TAKEN, /* 2xx */
    WEBHOOK_AGAIN, /* to be asked again after webhook_pause_ms */
    WEBHOOK_OVER   /* no more requests: the receiver is gone (410), or that was the last try */
};
/* `tries` counts this one too. */
enum webhook_verdict webhook_judge(const struct webhook_options *options, int64_t tries,
                                   const struct muster_fetch_result *result);
/* Until the next request: sixfold each time, up to the longest, with jitter; longer if the receiver asked for that. */
int64_t webhook_pause_ms(const struct webhook_options *options, int64_t tries, int64_t retry_after_s);
/* Why it was not taken; "" when it was. */
void webhook_problem(const struct muster_fetch_result *result, char out_text[WEBHOOK_PROBLEM_TEXT]);
void webhook_problem_set(const char *text, char out_text[WEBHOOK_PROBLEM_TEXT]);
/* The status as records have it. */
int64_t webhook_status(const struct muster_fetch_result *result);

/* ---- requests ---------------------------------------------------------------------------------------------------- */

/* What signs; a second one during a rotation. */
struct webhook_secrets {
    struct muster_bytes value;
    struct muster_bytes old; /* size 0: none */
    int64_t old_until_ms;
};

struct webhook_letter {
    const char *id; /* webhook-id */
    const char *url;
    const char *method; /* NULL: POST */
    struct muster_pairs headers;
    struct webhook_secrets secrets;
    int64_t now_ms;
};

/* Host and port of an URL, in small letters; in `arena`. */
const char *webhook_endpoint_name(struct muster_arena *arena, const char *url);
/* "v1,..." of id, time in seconds and body as Standard Webhooks 1.0.0 has it; a second one while the old secret counts.
 * In `arena`. */
const char *webhook_signature(struct muster_arena *arena, const struct webhook_letter *letter, const void *body,
                              size_t size);
/* Send it with `body` and call `done` with `arg` once.  The turn must have its slot. */
void webhook_send(struct webhook_actor *self, const struct webhook_letter *letter, const struct muster_buf *body,
                  void (*done)(void *arg, const struct muster_fetch_result *result), void *arg);

/* Append the body that tells of the end of a job with a callback. */
void webhook_body_callback(struct muster_arena *arena, const struct job *job, struct muster_buf *out);
/* Append the body that tells a webhook of an event; `job` NULL: it is not kept, or there is none. */
void webhook_body_event(struct muster_arena *arena, const struct event *event, const struct job *job,
                        struct muster_buf *out);
/* Append the body of webhook.test. */
void webhook_body_test(struct muster_arena *arena, const struct muster_id *webhook, int64_t now_ms,
                       struct muster_buf *out);

/* ---- callbacks in memory --------------------------------------------------------------------------------------------
 *
 * Each has its turn; or its request is open; or its outcome is final and on its way to the disk: then it is in
 * `saving`. */

/* One delivery. */
struct webhook_task {
    struct webhook_turn turn;
    struct webhook_actor *self; /* whose it is, for the answer to its request */
    struct muster_id job;
    struct webhook_task *chain; /* next in its bucket */
    struct webhook_task *next;  /* next saving */
    int64_t token;              /* of its last save */
    enum delivery_state state;
    int64_t tries;
    int64_t status;                     /* of the last request */
    char problem[WEBHOOK_PROBLEM_TEXT]; /* of the last request */
};

struct webhook_tasks {
    struct webhook_task *buckets[WEBHOOK_BUCKETS]; /* all of them, by job */
    size_t held;                                   /* how many those are */
    struct webhook_task *saving;                   /* waiting for the store */
};

/* Begins as zeros. */
void webhook_tasks_fini(struct webhook_tasks *tasks);
bool webhook_task_is_held(struct webhook_tasks *tasks, const struct muster_id *job);
/* A new one with the record's facts.  Its job must not be held yet. */
struct webhook_task *webhook_task_add(struct webhook_tasks *tasks, const struct delivery *record);
/* Out of its bucket and gone; it must have left its turn. */
void webhook_task_free(struct webhook_tasks *tasks, struct webhook_task *task);
void webhook_saving_put(struct webhook_tasks *tasks, struct webhook_task *task);
/* Take the one whose last save had `token`; NULL: none. */
struct webhook_task *webhook_saving_take(struct webhook_tasks *tasks, int64_t token);

/* ---- callbacks: what they do ----------------------------------------------------------------------------------------
 */

/* An event that is the last of its job: there may be a delivery. */
void webhook_deliveries_note(struct webhook_actor *self, const struct muster_id *job);
/* Walk the records when that is due. */
void webhook_deliveries_walk(struct webhook_actor *self);
/* The store's answer to a save.  False: it was to something else. */
bool webhook_deliveries_saved(struct webhook_actor *self, int64_t token, bool written);

/* ---- webhooks in memory ------------------------------------------------------------------------------------------ */

struct webhook_hook {
    struct webhook_turn turn;
    struct webhook_actor *self; /* whose it is, for the answer to its request */
    struct muster_arena *arena; /* of what the record points to */
    struct webhook record;      /* as it is now; `cursor` is ahead of the disk while nothing is told */
    uint64_t types;             /* bit N: wants events of row N of muster_events */
    int64_t next;               /* number of the event to be told, the one after the cursor; 0: to be looked for */
    bool watching;              /* it has been told everything up to the front */
    bool open;                  /* its request is on its way */
    bool changing;              /* a change is on its way to the disk: nothing begins, nothing else is written */
    bool removed;               /* goes when its request ends */
    bool unsaved;               /* is to be written */
    int64_t sent;               /* number of the event that its last request told of */
    int64_t place; /* counts changes of where it sends to or of where it is; an answer to an earlier request
                      does not count */
    int64_t sent_place;
    int64_t token; /* of its last save */
    int64_t kept;  /* cursor that was written last */
    char problem[WEBHOOK_PROBLEM_TEXT];
};

/* Bits of these event types; *out_unknown: the first that there is not, or that is not durable. */
uint64_t webhook_types(const struct muster_strs *events, const char **out_unknown);
/* A deep copy in `arena`. */
struct webhook webhook_record_copy(struct muster_arena *arena, const struct webhook *record);
/* Add one with a copy of the record. */
struct webhook_hook *webhook_hook_add(struct webhook_actor *self, const struct webhook *record);
/* Take the place of its record. */
void webhook_hook_set(struct webhook_hook *hook, const struct webhook *record);
/* Out of the list and gone; its turn and its request have ended. */
void webhook_hook_free(struct webhook_hook *hook);
/* NULL: there is none. */
struct webhook_hook *webhook_hook_find(const struct webhook_actor *self, const struct muster_id *id);
/* The bit of an event type in `types`; 0: it is none that can be wanted. */
uint64_t webhook_type_bit(const char *wire);
bool webhook_hook_wants(const struct webhook_hook *hook, uint64_t bit, const char *team);
/* Say something about it in the journal. */
void webhook_hook_say(const struct webhook_hook *hook, enum log_level level, const char *id, const char *message);

/* ---- webhooks: their way along the log ------------------------------------------------------------------------------
 *
 * The front is the number up to which the log was looked at for those that have been told everything before; one walk
 * serves them all.  A webhook that is behind walks on its own, a bounded piece at a time, until it has reached the
 * front. */

struct webhook_feed {
    bool begun;          /* it is known what is settled */
    bool keep_timer;     /* is set */
    int64_t settled;     /* every event up to it is on disk, or never will be */
    int64_t front;       /* at most that */
    int64_t first;       /* durable events above the front have no lower number than this; 0: there are none yet */
    int64_t last;        /* no durable event known of has a higher number */
    size_t watching;     /* webhooks at the front */
    int64_t work;        /* what may still be read before messages are looked at again */
    int64_t flush_token; /* of the question that was asked last; 0: it is answered */
};

/* Ask the log how far everything is settled. */
void webhook_feed_ask(struct webhook_actor *self);
/* The answer.  False: it was to something else. */
bool webhook_feed_told(struct webhook_actor *self, int64_t token, int64_t settled, bool ok);
/* A durable event was published under this number (0: none was), and `settled` may have moved. */
void webhook_feed_note(struct webhook_actor *self, int64_t durable, int64_t settled);
/* Events were missed. */
void webhook_feed_missed(struct webhook_actor *self);
/* Move the front. */
void webhook_feed_advance(struct webhook_actor *self);
/* It waits at the front, or no longer. */
void webhook_feed_watch(struct webhook_hook *hook, bool watching);
/* Is there nothing for it between its cursor and the front? */
bool webhook_feed_is_at_front(const struct webhook_hook *hook);
/* This event was read for it.  False: it is enough for now. */
bool webhook_feed_spend(struct webhook_actor *self, const struct event *event);
/* Have a webhook do what it has to do next. */
void webhook_hook_go(struct webhook_hook *hook);
/* It is no more: gone at once, or when its request ends. */
void webhook_hook_end(struct webhook_hook *hook);
/* Have it written, now or when its change is. */
void webhook_hook_save(struct webhook_hook *hook);
/* The timer of what is to be written. */
void webhook_feed_save(struct webhook_actor *self);
/* The store could not write a save.  False: it was something else. */
bool webhook_feed_unsaved(struct webhook_actor *self, int64_t token);
/* The timer of cursors that moved. */
void webhook_feed_keep(struct webhook_actor *self);
/* The `begin` of its turn. */
void webhook_hook_begin(struct webhook_turn *turn);

/* ---- changes on their way to the disk ---------------------------------------------------------------------------- */

struct webhook_pending {
    struct webhook_pending *next;
    int64_t token;
    struct muster_arena *arena; /* of what the records point to */
    /* The disk has it, or does not. */
    void (*done)(struct webhook_actor *self, struct webhook_pending *pending, bool written);
    struct webhook_hook *hook; /* the one that changes; NULL: it is made, or it is not about one */
    struct webhook record;     /* what it becomes */
    bool state;                /* of those fields that change without a message too, these are changed: its state, */
    bool seek;                 /* its cursor, */
    bool fresh;                /* its tries */
    bool moves;                /* it sends to another address */
    struct secret secret;      /* what the server's becomes */
    const char *by;            /* name of the key, for the journal */
    const char *what;          /* "webhook-created"; NULL: nothing is said */
    const char *message;
};

struct webhook_pending *webhook_pending_new(struct webhook_actor *self);
/* Have `put` written, and when it is, `done` called and the caller of the current message answered.  Takes `pending`.
 * MUSTER_OVERLOADED: the store takes no more; nothing is kept, `done` is not called. */
muster_err webhook_pending_send(struct webhook_actor *self, struct webhook_pending *pending,
                                const struct store_put *put, const struct muster_type *type, const void *answer);
/* The store's answer.  False: it was to something else. */
bool webhook_pending_saved(struct webhook_actor *self, int64_t token, bool written);
void webhook_pending_fini(struct webhook_actor *self);
/* Have `put` written, with an answer to ourselves under *out_token. */
muster_err webhook_put(struct webhook_actor *self, const struct store_put *put, int64_t *out_token);

/* ---- messages ---------------------------------------------------------------------------------------------------- */

muster_err webhook_admin_create(struct webhook_actor *self, const struct webhook_create *in);
muster_err webhook_admin_change(struct webhook_actor *self, const struct webhook_change *in);
muster_err webhook_admin_remove(struct webhook_actor *self, const struct webhook_remove *in);

struct webhook_probe;
muster_err webhook_probe_begin(struct webhook_actor *self, const struct webhook_test *in);
void webhook_probe_fini(struct webhook_actor *self);

/* ---- the secret that signs callbacks ----------------------------------------------------------------------------- */

struct webhook_own {
    struct secret record; /* points into what follows */
    uint8_t value[MUSTER_WHSEC_BYTES];
    uint8_t old[MUSTER_WHSEC_BYTES];
    bool saved;    /* it is on disk */
    bool rotating; /* a new one is on its way there */
    size_t on_way; /* writes that are */
};
/* Read it, or make it at the first start. */
muster_err webhook_own_load(struct webhook_actor *self);
/* Try to write it if it is not on disk yet. */
void webhook_own_save(struct webhook_actor *self);
muster_err webhook_own_tell(struct webhook_actor *self, const struct webhook_secret *in);

/* ---- the actor --------------------------------------------------------------------------------------------------- */

struct webhook_actor {
    struct muster_ctx *ctx;                /* borrowed; outlives us */
    const struct webhook_options *options; /* likewise */
    struct muster_arena *arena;            /* for one request */
    struct webhook_turns turns;            /* of all that send */
    int64_t last_token;                    /* of what was sent to the store or the log */
    struct webhook_tasks tasks;            /* callbacks */
    int64_t walked_ms;                     /* when the records of those were last walked */
    bool more;                             /* there may be pending ones that are not held */
    struct webhook_own own;
    struct webhook_hook **hooks; /* webhooks; also removed ones whose request is open */
    size_t hook_count, hook_capacity;
    size_t creating; /* webhooks on their way to the disk for the first time */
    struct webhook_feed feed;
    struct webhook_pending *pending;
    struct webhook_probe *probes;
};

#endif
