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
    BUS_PARCEL_MS = 60000,  /* for that to a worker's parcel, which waits for the disk and the queue */
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
    int64_t attached; /* workers that it is */
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

/* What is awaited for a request: the limiter; the log's flush; an event (bus_wait.c); an actor's answer; the end of a
 * job; or for a worker all that nodes has for it (bus_worker.c). */
enum bus_stage { BUS_FREE, BUS_COUNTED, BUS_FLUSHED, BUS_WAITING, BUS_ANSWERED, BUS_FINISHED, BUS_ATTACHED };

struct bus_pending {
    enum bus_stage stage;
    uint64_t number;    /* with the index its id */
    uint32_t next_free; /* index + 1 */
    uint32_t guest;
    uint64_t connection; /* of the guest when it asked */
    int64_t id;          /* the client's */
    const struct muster_public *row;
    bool wait;
    int64_t wait_until_ms; /* for the job's end, or for an event */
    int64_t until_ms;
    uint32_t waiting; /* BUS_WAITING: place in the bus's list */
    int64_t looked;   /* likewise: there is nothing for it up to this event, */
    int64_t wanted;   /* and it is looked at again when this one is settled; 0: when one comes that fits */
    bool by_curve;    /* what its key was proven with: a CURVE key, or the digest of a text */
    uint8_t proof[MUSTER_DIGEST];
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
    const uint8_t *curve; /* NULL: it came without */
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
    int64_t highest;  /* number that was seen, settled or not */
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
    uint64_t numbers;  /* of requests; begin anywhere, so that those from before a restart are not these */
    uint32_t *waiting; /* indices of reads that wait for an event; as long as `pending` */
    uint32_t waiting_count;
    int64_t attached; /* workers */
    struct bus_feed feed;
    struct bus_view view;
    char *problem; /* of the start */
    size_t problem_size;
};

/* The guest of that number, a new one if it is not known.  NULL: there is no room, all have requests at work. */
struct bus_guest *bus_guest_of(struct bus *bus, uint32_t number, uint64_t connection);
/* NULL: it was forgotten. */
struct bus_guest *bus_guest_find(struct bus *bus, uint32_t number);
void bus_guests_free(struct bus *bus);
/* Who is it?  Fills key and limit.  MUSTER_UNAUTHORIZED with `problem`. */
muster_err bus_login(struct bus_request *request, const uint8_t *curve);
/* Is the key that it came with still good?  For what lasts longer than an answer. */
bool bus_is_still_good(struct bus *bus, const struct bus_pending *pending);
/* The key with this CURVE key, if it may now do what needs `scope` (NULL: anything); its copy in the arena. */
bool bus_curve_may(struct bus *bus, const uint8_t *curve, const char *scope, struct muster_arena *arena,
                   struct key *out_key);

void bus_on_message(void *arg, uint32_t guest, uint64_t connection, const uint8_t *curve, const void *data,
                    size_t size);

/* ---- bus_answer.c ---- */
/* An actor's answer. */
void bus_on_answer(struct bus *bus, const struct muster_envelope *envelope);
/* Answered by bus_answer_read when everything published so far is on disk. */
muster_err bus_ask_log(struct bus *bus, const struct bus_pending *pending);
/* A read was counted: answer it, behind the log if it is about events. */
void bus_go_on_reading(struct bus *bus, struct bus_pending *pending, const struct muster_principal *principal);

/* ---- bus_pending.c ---- */
/* NULL: there is no room. */
struct bus_pending *bus_new_pending(struct bus *bus);
void bus_end_pending(struct bus *bus, struct bus_pending *pending);
/* The number under which actors answer it; never BUS_SYNC_ID. */
int64_t bus_id_of(const struct bus *bus, const struct bus_pending *pending);
/* NULL: its time was over. */
struct bus_pending *bus_find_pending(struct bus *bus, int64_t id);
/* Give up what nobody waits for any more. */
void bus_expire(struct bus *bus);
void bus_requests_free(struct bus *bus);
/* Send a message to an actor. */
muster_err bus_send(struct bus *bus, const char *to, const struct muster_envelope *envelope,
                    const struct muster_type *type, const void *body);
/* Send a whole message to the client.  MUSTER_GONE, MUSTER_OVERLOADED: it is lost. */
muster_err bus_send_frame(struct bus *bus, const struct bus_pending *pending, struct muster_buf *frame);
void bus_answer(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
                const struct muster_type *type, const void *body);
void bus_fail(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
              muster_err err, const char *message, int64_t retry_after_s);

/* ---- bus_submit.c: checks of single messages; fill what goes to the actor ---- */
muster_err bus_plan(struct bus_request *request);
/* Without what is secret. */
struct job bus_show_job(const struct job *job);

/* ---- bus_read.c: answers from the store ---- */
/* False: there is no event for it yet, and it has still time to wait; `pending` says how far it has looked. */
bool bus_answer_read(struct bus *bus, struct bus_pending *pending, const struct muster_principal *principal,
                     int64_t settled);
/* The page of a read that found nothing. */
void bus_answer_nothing(struct bus *bus, const struct bus_pending *pending);
muster_err bus_check_read(struct bus_request *request);

/* ---- bus_wait.c: reads that wait for an event ---- */
/* The log was read up to `settled` and has nothing for it. */
void bus_wait(struct bus *bus, struct bus_pending *pending, int64_t settled);
/* Its slot ends, or goes on. */
void bus_wait_end(struct bus *bus, struct bus_pending *pending);
/* Read the log for it again: there is something, or its time is over. */
void bus_wait_look(struct bus *bus, struct bus_pending *pending);
/* Events were published, or what is settled has changed; NULL: some may have been missed. */
void bus_wait_on_feed(struct bus *bus, const struct feed_events *feed);
/* Answer all reads now: the server ends. */
void bus_wait_stop(struct bus *bus);

/* ---- bus_worker.c: workers on other hosts ---- */
bool bus_is_of_worker(const struct muster_public *row);
muster_err bus_check_worker(struct bus_request *request);
/* What nodes says to a worker. */
void bus_on_worker_answer(struct bus *bus, struct bus_pending *pending, const struct muster_envelope *envelope);
/* An answer whose slot has ended. */
void bus_on_late_answer(struct bus *bus, const struct muster_envelope *envelope);
/* Tell nodes that what it sends to this attachment does not arrive. */
void bus_worker_gone(struct bus *bus, int64_t attachment);
/* A message of this guest as a worker was refused. */
void bus_on_worker_refused(struct bus *bus, uint32_t guest);
/* Are all workers still allowed to be, and those that they were? */
void bus_check_workers(struct bus *bus);

/* ---- bus_feed.c ---- */
void bus_feed_begin(struct bus *bus);
void bus_feed_free(struct bus *bus);
void bus_on_feed(struct bus *bus, const struct feed_events *feed);
void bus_on_flushed(struct bus *bus, muster_err err, int64_t settled);
bool bus_on_subscribe(void *arg, const uint8_t *curve, const char *topic, size_t size);
void bus_on_subscribed(void *arg, const char *topic, size_t size);
/* After each batch. */
void bus_feed_look(struct bus *bus);
/* Are all subscribers still allowed to be? */
void bus_check_subscribers(struct bus *bus);
#define BUS_SYNC_ID 0 /* number of the feed's own messages; requests have others */

#endif
