/* SPDX-License-Identifier: MPL-2.0 */
/* The other side of a door (muster_door.h): one connection of this process to bus.commands of a hub.
 *
 * A dial lives on a loop, which calls muster_dial_pump after every batch; everything here is for the loop's thread.  It
 * is one connection: when that ends, so does the dial, and nothing that was sent is sent again; whoever wants another
 * one opens another dial.  So two messages of one dial never come out of order, or without what was between them. */
#ifndef MUSTER_DIAL_H
#define MUSTER_DIAL_H

#include "transport/muster_door.h"

struct muster_dial;

struct muster_dial_spec {
    const char *endpoint;          /* tcp://HOST:PORT or ipc://PATH */
    bool curve;                    /* with the two keys that follow; else plain */
    uint8_t hub_key[MUSTER_CURVE]; /* public */
    uint8_t secret[MUSTER_CURVE];  /* our own; the public one follows from it */
    int64_t max_unsent;            /* bytes that wait for the network */
    int64_t connect_ms;            /* for the connection and its handshake */
};

struct muster_dial_hooks {
    /* The connection is there, and with CURVE the other side has proven who it is and let us in. */
    void (*up)(void *arg);
    /* A message came; `data` is valid for the call. */
    void (*message)(void *arg, const void *data, size_t size);
    /* It has ended, or never began: a sentence for a person.  `refused`: the other side does not take our key, or has
     * another one than hub_key.  Last call; the dial is still to be closed, later than in this call. */
    void (*down)(void *arg, const char *reason, bool refused);
};

/* Begin to connect.  `spec` is copied, `hooks` and `arg` are borrowed.  MUSTER_INVALID_REQUEST with `problem`: not an
 * endpoint; MUSTER_OVERLOADED: no sockets can be had. */
muster_err muster_dial_open(struct muster_loop *loop, const struct muster_dial_spec *spec,
                            const struct muster_dial_hooks *hooks, void *arg, struct muster_dial **out_dial,
                            char *problem, size_t problem_size);
/* What was sent and has not left is lost.  NULL is accepted. */
void muster_dial_close(struct muster_dial **dial_p);
/* Handle what has come; the loop's idle hook, behind all that the batch sends outside of the hooks. */
void muster_dial_pump(struct muster_dial *dial);
/* Send the content of `frame`, which is empty afterwards in every case.  MUSTER_OVERLOADED: max_unsent is reached;
 * MUSTER_GONE: it is not up. */
muster_err muster_dial_send(struct muster_dial *dial, struct muster_buf *frame);
/* Bytes that wait for the network. */
int64_t muster_dial_unsent(const struct muster_dial *dial);

#endif
