/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of the way in for ZeroMQ clients.  All of it is of the thread of the bus. */
#ifndef BUS_INSIDE_H
#define BUS_INSIDE_H

#include <stdatomic.h>

#include "api/bus.h"
#include "api/caller.h"
#include "api/http/order.h"
#include "schemas/muster_options.h"

#define BUS_ADDRESS "bus"

enum {
    BUS_MAILBOX = 65536,
    BUS_TICK_MS = 100,
    BUS_HOP_MS = 10000,     /* for an actor's answer */
    BUS_PENDING_MAX = 65536 /* requests at work at a time, of all clients */
};

/* ---- guests: bus_guest.c ---- */

/* A client that has sent something.  Those not seen for the longest time are forgotten when there are too many. */
struct bus_guest {
    uint32_t number;
    uint64_t connection;
    uint32_t next; /* in its bucket: index + 1 */
    bool used;
    bool said_hello;
    uint8_t digest[MUSTER_DIGEST]; /* of its API key */
    int64_t pending;
    uint64_t seen;
};

enum { BUS_BUCKETS = 1024 };

struct bus_guests {
    struct bus_guest *items;
    size_t count, capacity;
    uint32_t buckets[BUS_BUCKETS]; /* index + 1 */
    uint64_t clock;
};

/* ---- requests: bus_request.c ---- */

/* What is awaited for a request. */
enum bus_stage { BUS_FREE, BUS_COUNTED, BUS_FLUSHED, BUS_ANSWERED, BUS_FINISHED };

struct bus_pending {
    enum bus_stage stage;
    uint32_t generation;
    uint32_t next_free; /* index + 1 */
    uint32_t guest;
    uint64_t connection; /* of the guest when it asked */
    int64_t id;          /* the client's */
    const struct muster_public *row;
    bool wait;
    int64_t wait_until_ms; /* for the job's end */
    int64_t until_ms;
    struct muster_arena *arena; /* of what follows */
    const char *trace;
    struct key key;
    const void *body; /* of row->body */
};

/* A message at hand; all of it in the arena of its pending. */
struct bus_request {
    struct bus *bus;
    struct bus_guest *guest;
    struct muster_envelope envelope;
    const struct muster_public *row;
    struct muster_arena *arena;
    struct key key;
    bool has_key;
    struct rate_limit limit;
    const void *body;
    const char *problem; /* what `failed` says; NULL: what the code says */
    int64_t retry_after_s;
    const struct muster_type *type; /* what goes to the actor */
    const void *message;
    bool wait;
};

/* ---- events: bus_feed.c ---- */

struct bus_feed {
    bool on;          /* there is an endpoint */
    int64_t settled;  /* as the log told */
    int64_t last;     /* number of the last event published here; those up to it are never published again */
    int64_t target;   /* while behind: the log must be settled up to there */
    bool behind;      /* events were missed: they are read from the log */
    bool asked;       /* the log was asked to put all on disk */
    int64_t *of_team; /* last number of each team of the options, then of no team */
    struct order *order;
    struct muster_buf held;
    uint8_t (*keys)[MUSTER_CURVE]; /* of who subscribes */
    size_t key_count, key_capacity;
    uint64_t published;
};

struct bus {
    struct muster_house house;
    const struct bus_options *options;
    struct muster_door_spec spec;
    struct muster_runner *runner;
    struct muster_loop *loop;
    struct muster_door *door;
    struct muster_arena *arena; /* of the message from an actor at hand */
    atomic_bool draining;
    struct bus_guests guests;
    struct bus_pending *pending;
    uint32_t pending_count, first_free;
    int64_t pending_used;
    struct bus_feed feed;
    struct bus_view view;
    const struct muster_keys *keys_seen; /* compared only */
    char *problem;                       /* of the start */
    size_t problem_size;
};

/* The guest of that number, a new one if it is not known.  NULL: there is no room, all have requests at work. */
struct bus_guest *bus_guest_of(struct bus *bus, uint32_t number, uint64_t connection);
/* NULL: it was forgotten. */
struct bus_guest *bus_guest_find(struct bus *bus, uint32_t number);
void bus_guests_free(struct bus *bus);
/* Who is it?  Fills key and limit.  MUSTER_UNAUTHORIZED with `problem`. */
muster_err bus_login(struct bus_request *request, const uint8_t *curve);
/* The key with this CURVE key, if it may now do what needs `scope` (NULL: anything); its copy in the arena. */
bool bus_curve_may(struct bus *bus, const uint8_t *curve, const char *scope, struct muster_arena *arena,
                   struct key *out_key);

void bus_on_message(void *arg, uint32_t guest, uint64_t connection, const uint8_t *curve, const void *data,
                    size_t size);
/* An actor's answer. */
void bus_on_answer(struct bus *bus, const struct muster_envelope *envelope);
/* Give up what nobody waits for any more. */
void bus_expire(struct bus *bus);
void bus_requests_free(struct bus *bus);
/* Send a message to an actor. */
muster_err bus_send(struct bus *bus, const char *to, const struct muster_envelope *envelope,
                    const struct muster_type *type, const void *body);
void bus_answer(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
                const struct muster_type *type, const void *body);
void bus_fail(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
              muster_err err, const char *message, int64_t retry_after_s);

/* ---- bus_submit.c: checks of single messages; fill what goes to the actor ---- */
muster_err bus_plan(struct bus_request *request);
/* Without what is secret. */
struct job bus_show_job(const struct job *job);

/* ---- bus_read.c: answers from the store ---- */
void bus_answer_read(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
                     int64_t settled);
muster_err bus_check_read(struct bus_request *request);

/* ---- bus_feed.c ---- */
void bus_feed_begin(struct bus *bus);
void bus_feed_free(struct bus *bus);
void bus_on_feed(struct bus *bus, const struct feed_event *feed);
void bus_on_flushed(struct bus *bus, muster_err err, int64_t settled);
bool bus_on_subscribe(void *arg, const uint8_t *curve, const char *topic, size_t size);
void bus_on_subscribed(void *arg, const char *topic, size_t size);
/* After each batch. */
void bus_feed_look(struct bus *bus);
/* Are all subscribers still allowed to be? */
void bus_check_subscribers(struct bus *bus);
#define BUS_SYNC_ID 0 /* number of the feed's own messages; requests have others */

#endif
