/* SPDX-License-Identifier: MPL-2.0 */
/* The door for ZeroMQ clients of other processes: commands come in on a ROUTER, events go out on an XPUB.
 *
 * A door lives on a loop, which calls muster_door_pump after every batch; everything here is for the loop's thread.  It
 * has a ZeroMQ context of its own, with the handler that lets connections in (ZAP).  A client is bounded: in its
 * messages, in what it leaves unread, and in how much of one round it gets; what is beyond is dropped and counted. */
#ifndef MUSTER_DOOR_H
#define MUSTER_DOOR_H

#include "schemas/muster_schema.h"
#include "transport/muster_loop.h"

/* ---- CURVE keys: any thread ---- */

#define MUSTER_CURVE 32 /* bytes of a key, */
#define MUSTER_Z85 41   /* and of its text with the NUL */

void muster_curve_pair(uint8_t out_secret[MUSTER_CURVE], uint8_t out_public[MUSTER_CURVE]);
void muster_curve_public(const uint8_t secret[MUSTER_CURVE], uint8_t out_public[MUSTER_CURVE]);
void muster_z85(const uint8_t key[MUSTER_CURVE], char out_text[MUSTER_Z85]);
/* The key of such a text; false: it is none. */
bool muster_curve_parse(const char *text, uint8_t out_key[MUSTER_CURVE]);

/* ---- the door ---- */

struct muster_door;

struct muster_door_spec {
    const char *commands; /* endpoint; "": none */
    const char *events;
    bool commands_curve; /* clients need CURVE keys; else all may come in */
    bool events_curve;
    uint8_t secret[MUSTER_CURVE]; /* the server's own */
    int64_t max_clients;          /* connections, */
    int64_t max_events;           /* events for one slow subscriber, */
    int64_t max_message;          /* and bytes of one message */
};

/* `key` is the client's CURVE public key; NULL: it came without. */
struct muster_door_hooks {
    /* May this key connect, to the events or to the commands? */
    bool (*admit)(void *arg, const uint8_t *key, bool events);
    /* A message of the client `guest`; `data` is valid for the call.  Another `connection` of the same guest is another
     * client, which has taken its place. */
    void (*message)(void *arg, uint32_t guest, uint64_t connection, const uint8_t *key, const void *data, size_t size);
    /* May it hear topics that begin so?  Asked for the count only where there is no CURVE: all may. */
    bool (*subscribe)(void *arg, const uint8_t *key, const char *topic, size_t size);
    /* From now on it does. */
    void (*subscribed)(void *arg, const char *topic, size_t size);
};

struct muster_door_counts {
    int64_t clients;      /* connections now */
    uint64_t connections; /* accepted, */
    uint64_t refused;     /* and not let in: wrong key, or too many */
    uint64_t commands;    /* messages that came */
    uint64_t malformed;   /* of more than one frame, of a client with a routing id of its own, or of a subscriber */
    uint64_t dropped;     /* answers to clients that had left or did not read */
    uint64_t unheard;     /* subscriptions that were not allowed */
};

/* `spec` is copied, `hooks` and `arg` are borrowed.  MUSTER_CONFLICT with `problem`: an endpoint cannot be had. */
muster_err muster_door_open(struct muster_loop *loop, const struct muster_door_spec *spec,
                            const struct muster_door_hooks *hooks, void *arg, struct muster_door **out_door,
                            char *problem, size_t problem_size);
/* What was sent and has not left within 100 ms is lost. */
void muster_door_close(struct muster_door **door_p);
/* Handle what has come; the loop's idle hook. */
void muster_door_pump(struct muster_door *door);
/* Send the content of `frame`, which is empty afterwards.  MUSTER_GONE: the client has left; MUSTER_OVERLOADED: with it
 * more than `max_backlog` bytes would be unread by that client.  In both cases it is dropped and counted. */
muster_err muster_door_send(struct muster_door *door, uint32_t guest, int64_t max_backlog, struct muster_buf *frame);
/* Send a message of `count` frames to those that hear their first one as a topic. */
void muster_door_publish(struct muster_door *door, const struct muster_bytes *frames, size_t count);
/* End all subscribers' connections; they come back and are let in, or not, as is right now. */
void muster_door_reset(struct muster_door *door);
struct muster_door_counts muster_door_counts(const struct muster_door *door);

#endif
