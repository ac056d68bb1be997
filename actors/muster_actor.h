/* SPDX-License-Identifier: MPL-2.0 */
/* What an actor is made of, and what it may ask of its surroundings.
 *
 * An actor is its mailbox: one address, one thread, its own memory.  Its file ends in a `struct muster_actor_class`
 * that lists a handler per message.  The runtime decodes a message, calls the handler, and answers `failed` when it
 * returns an error.  A handler never blocks and knows no socket, clock or file: it asks its `ctx`.  In tests the ctx is
 * a fake with a clock of its own.  An actor whose handler returns MUSTER_INTERNAL_ERROR has failed: the runtime ends it
 * with `fini` and begins it anew with `init` after a pause that doubles up to a minute; its mailbox stays.
 *
 * Everything here is for the actor's own thread. */
#ifndef MUSTER_ACTOR_H
#define MUSTER_ACTOR_H

#include "schemas/muster_codec.h"
#include "store/muster_store.h"
#include "transport/muster_child.h"
#include "transport/muster_fetch.h"

struct muster_ctx;

struct muster_handler {
    const struct muster_type *type;
    muster_err (*handle)(void *self, const void *in);
};

struct muster_actor_class {
    const char *name; /* for logs */
    size_t size;      /* of its struct, given zeroed to init */
    size_t mailbox;   /* messages its mailbox may hold */
    muster_err (*init)(void *self, struct muster_ctx *ctx, const void *config);
    void (*fini)(void *self);                /* also after a failed init */
    const struct muster_handler *handlers;   /* ends with type == NULL */
    void (*timer)(void *self, uint64_t key); /* a timer of muster_timer_in; NULL: has none */
    void (*idle)(void *self);                /* after each batch of messages; may be NULL */
    size_t batch;                            /* messages in one, at most; 0: MUSTER_BATCH */
};

/* Declares the handler `on_<message>` with its true types and makes the function that the table wants. */
#define MUSTER_ON(actor, message)                                                                                      \
    static muster_err on_##message(struct actor *self, const struct message *in);                                      \
    static muster_err handle_##message(void *self, const void *in)                                                     \
    {                                                                                                                  \
        return on_##message(self, in);                                                                                 \
    }                                                                                                                  \
    struct actor
#define MUSTER_ROW(message)                                                                                            \
    {                                                                                                                  \
        &message##_type, handle_##message                                                                              \
    }

/* ---- surroundings ---- */

const char *muster_ctx_address(const struct muster_ctx *ctx);
const struct options *muster_ctx_options(const struct muster_ctx *ctx);
/* Unix milliseconds. */
int64_t muster_now_ms(struct muster_ctx *ctx);
/* Milliseconds of a clock that is never set and stands still while the machine sleeps: for measuring spans. */
int64_t muster_uptime_ms(struct muster_ctx *ctx);
/* For reading. */
struct muster_store *muster_ctx_store(struct muster_ctx *ctx);
struct muster_journal *muster_ctx_journal(struct muster_ctx *ctx);
/* Memory until the handler returns; empty again for the next one. */
struct muster_arena *muster_ctx_arena(struct muster_ctx *ctx);

/* Call the class's `timer` with `key` after `delay_ms`; a timer with that key which has not fired is moved. */
void muster_timer_in(struct muster_ctx *ctx, int64_t delay_ms, uint64_t key);
void muster_timer_end(struct muster_ctx *ctx, uint64_t key);

/* ---- messages ---- */

/* The message being handled; valid until the handler returns.  An empty one inside init, timers and callbacks. */
const struct muster_envelope *muster_ctx_envelope(struct muster_ctx *ctx);

/* Tell `to` something, no answer wanted.  MUSTER_OVERLOADED, MUSTER_NOT_FOUND. */
muster_err muster_tell(struct muster_ctx *ctx, const char *to, const struct muster_type *type, const void *body);
/* Hand the current request on to `to`, who answers in our place. */
muster_err muster_forward(struct muster_ctx *ctx, const char *to, const struct muster_type *type, const void *body);
/* The same with a body that is packed already, and what `principal` says now. */
muster_err muster_forward_packed(struct muster_ctx *ctx, const char *to, const char *type, struct muster_bytes body,
                                 const struct muster_principal *principal);
/* Answer the current request; without a reply address nothing is sent.  The caller may be gone: no error is told. */
void muster_reply(struct muster_ctx *ctx, const struct muster_type *type, const void *body);
void muster_reply_as(struct muster_ctx *ctx, const struct muster_type *type, const void *body,
                     const struct muster_principal *principal);
/* Send bytes that are a whole message already, as muster_caller_pack makes them. */
muster_err muster_send_whole(struct muster_ctx *ctx, const char *to, const void *message, size_t size);
/* Send `failed` with `err` to whoever waits for that message. */
muster_err muster_send_failed(struct muster_ctx *ctx, const char *to, const void *message, size_t size, muster_err err);
/* What `failed` says when the handler now returns its error: a sentence, and seconds until it is worth trying again. */
void muster_explain(struct muster_ctx *ctx, int64_t retry_after_s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A request kept for a later answer. */
struct muster_caller;
struct muster_caller *muster_caller_keep(struct muster_ctx *ctx);
/* Answer and let go; *caller_p is NULL afterwards.  `err` other than MUSTER_OK answers `failed`, with `type` NULL. */
void muster_caller_answer(struct muster_ctx *ctx, struct muster_caller **caller_p, muster_err err,
                          const struct muster_type *type, const void *body);
/* Let go without an answer. */
void muster_caller_free(struct muster_caller **caller_p);
/* The whole answer as bytes, for a store.answer, and the address it goes to. */
void muster_caller_pack(const struct muster_caller *caller, const struct muster_type *type, const void *body,
                        struct muster_buf *out);
const char *muster_caller_address(const struct muster_caller *caller);
const struct muster_principal *muster_caller_principal(const struct muster_caller *caller);

/* ---- the board: what readers on other threads see ---- */

void muster_publish(struct muster_ctx *ctx, const char *name, void *object, void (*destroy)(void *object));
/* What a subscriber of events may want: live ones as they come, or all of some milliseconds in one message, which wakes
 * it up less often; and durable ones. */
enum muster_feed_kind { MUSTER_FEED_LIVE = 1, MUSTER_FEED_GATHERED = 2, MUSTER_FEED_DURABLE = 4 };
/* Publish to the subscribers of these kinds, once to each; see feed.events for `settled`.  Only the log does. */
void muster_publish_events(struct muster_ctx *ctx, unsigned kinds, const struct event *events, size_t count,
                           int64_t settled);
/* How far everything is published when those up to the one at `at` have been handled: between two events of a feed
 * others may come that were kept back. */
static inline int64_t
muster_feed_settled(const struct feed_events *feed, size_t at)
{
    int64_t before = at + 1 < feed->events.count ? feed->events.items[at + 1].seq - 1 : feed->settled;

    return before < feed->settled ? before : feed->settled;
}
/* Events that this actor's mailbox had no room for since the last call. */
size_t muster_events_missed(struct muster_ctx *ctx);
/* `kinds`: enum muster_feed_kind. */
void muster_events_subscribe(struct muster_ctx *ctx, unsigned kinds);

/* ---- the outside world ---- */

/* As in muster_child.h, on this actor's loop. */
muster_err muster_ctx_child(struct muster_ctx *ctx, const struct muster_child_spec *spec,
                            const struct muster_child_hooks *hooks, void *arg, char *problem, size_t problem_size,
                            struct muster_child **out_child);
/* As in muster_fetch.h, on this actor's loop. */
void muster_ctx_fetch(struct muster_ctx *ctx, const struct muster_fetch_spec *spec,
                      void (*done)(void *arg, const struct muster_fetch_result *result), void *arg);

/* ---- running ---- */

/* What all actors of a hub share. */
struct muster_house {
    struct muster_bus *bus;
    struct muster_store *store;
    const struct options *options;
    struct muster_journal *journal; /* the log that people read */
};

struct muster_actor;
/* Start an actor at `address`; returns when its init has run.  `house` and `config` are borrowed until stop. */
muster_err muster_actor_start(const struct muster_house *house, const char *address,
                              const struct muster_actor_class *class, const void *config,
                              struct muster_actor **out_actor);
/* Returns when its fini has run.  Not from an actor. */
void muster_actor_stop(struct muster_actor **actor_p);

/* The names actors are reached by. */
#define MUSTER_QUEUE "queue"
#define MUSTER_LOG "log"
#define MUSTER_STORE "store"
#define MUSTER_LIMIT "ratelimit"
#define MUSTER_AUTH "auth"
#define MUSTER_METRICS "metrics"
#define MUSTER_WEBHOOK "webhook"
#define MUSTER_NODES "nodes"
#define MUSTER_AGENT_PREFIX "agent/" /* and the team's name */
/* In a worker the agents find under MUSTER_LOG its parcels, and under MUSTER_QUEUE its link to the hub. */

extern const struct muster_actor_class muster_queue_class;   /* config: none */
extern const struct muster_actor_class muster_log_class;     /* config: none */
extern const struct muster_actor_class muster_store_class;   /* config: none */
extern const struct muster_actor_class muster_limit_class;   /* config: none */
extern const struct muster_actor_class muster_auth_class;    /* config: none */
extern const struct muster_actor_class muster_metrics_class; /* config: none */
extern const struct muster_actor_class muster_webhook_class; /* config: none */
extern const struct muster_actor_class muster_nodes_class;   /* config: none */
extern const struct muster_actor_class muster_parcels_class; /* config: none */
extern const struct muster_actor_class muster_agent_class;   /* config: struct team_options */

#define MUSTER_WORKER_PROTOCOL 1 /* of the messages worker.*; raised when an old worker would misunderstand the new */

#endif
