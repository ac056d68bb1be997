/* SPDX-License-Identifier: MPL-2.0 */
/* Mailboxes: one-way, bounded messages between the threads of a process, on ZeroMQ inproc sockets.
 *
 * A bus is the set of mailboxes of one hub.  A post is one thread's mailbox and its way to send to others.  A message
 * is any bytes (an envelope, see muster_codec.h); between two posts messages keep their order.  Sending never blocks: a
 * mailbox that holds its limit refuses with MUSTER_OVERLOADED.  A post belongs to the thread that opened it; the bus
 * may be used by any thread and outlives its posts. */
#ifndef MUSTER_MAIL_H
#define MUSTER_MAIL_H

#include "schemas/muster_buf.h"
#include "schemas/muster_err.h"

struct muster_bus;
struct muster_post;

/* A received message; valid until muster_frame_free, which each one needs. */
struct muster_frame {
    const void *data;
    size_t size;
    uint64_t opaque[8]; /* the transport's own */
};

struct muster_bus *muster_bus_new(void);
/* All posts and runners must be closed. */
void muster_bus_free(struct muster_bus **bus_p);

/* Open the mailbox `address` ("queue", "agent/backend"; NULL makes a fresh one such as "caller/17") that holds at most
 * `limit` waiting messages.  MUSTER_EXISTS when somebody has it, MUSTER_OVERLOADED when no more sockets can be made. */
muster_err muster_post_open(struct muster_bus *bus, const char *address, size_t limit, struct muster_post **out_post);
void muster_post_close(struct muster_post **post_p);
/* Messages in it. */
size_t muster_post_waiting(const struct muster_post *post);
const char *muster_post_address(const struct muster_post *post);

/* Send the content of `frame`, which is empty afterwards in every case.  MUSTER_OVERLOADED: that mailbox is full;
 * MUSTER_NOT_FOUND: nobody has it. */
muster_err muster_post_send(struct muster_post *post, const char *to, struct muster_buf *frame);
/* The same from any thread, for those that have no post. */
muster_err muster_bus_send(struct muster_bus *bus, const char *to, struct muster_buf *frame);
/* Wait for a message, at most `timeout_ms` (-1: for ever, 0: not at all).  MUSTER_TIMEOUT: none came.  With a
 * `watch_fd` other than -1 also return MUSTER_GONE when that socket's other side has closed. */
muster_err muster_post_receive(struct muster_post *post, int64_t timeout_ms, int watch_fd,
                               struct muster_frame *out_frame);
void muster_frame_free(struct muster_frame *frame);

/* ---- the feed: what is published goes to the mailbox of every subscriber that wants its kind ---- */

/* From now on the mailbox `address` gets what is published of these kinds, bits of the caller's; it must exist.  A
 * second time changes the kinds.  Any thread. */
muster_err muster_feed_subscribe(struct muster_bus *bus, const char *address, unsigned kinds);
void muster_feed_unsubscribe(struct muster_bus *bus, const char *address);
/* Does anybody want it?  Whoever subscribes before it is published gets it all the same. */
bool muster_feed_is_wanted(struct muster_post *post, unsigned kinds);
/* Send once to each who wants one of these kinds, without copying the bytes for each.  A full mailbox misses the
 * message and its gap is counted. One thread of a bus publishes, so that all subscribers see one order. */
void muster_feed_publish(struct muster_post *post, unsigned kinds, struct muster_buf *frame);
/* How many messages this mailbox missed since the last call: read the log instead. */
size_t muster_feed_missed(struct muster_bus *bus, const char *address);

/* ---- the board: immutable objects that an owner publishes whole and any thread reads ---- */

struct muster_notice; /* a reference to a published object */
/* Replace what stands under `name`; `destroy` runs when the last reader is done.  Takes `object`. */
void muster_board_publish(struct muster_bus *bus, const char *name, void *object, void (*destroy)(void *object));
/* NULL when nothing stands there.  Release it soon; never hold it across a wait. */
struct muster_notice *muster_board_take(struct muster_bus *bus, const char *name);
const void *muster_notice_object(const struct muster_notice *notice);
void muster_notice_release(struct muster_notice **notice_p);

/* ---- gauges ---- */

struct muster_mailbox_gauge {
    const char *address;
    size_t waiting;   /* messages in it now */
    size_t limit;     /* that it may hold */
    uint64_t refused; /* sends refused because it was full */
};
/* Call `visit` for every named mailbox (not for the fresh "caller/<n>" ones).  Any thread. */
void muster_bus_gauges(struct muster_bus *bus, void (*visit)(void *arg, const struct muster_mailbox_gauge *gauge),
                       void *arg);

#endif
