/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of the mailboxes, for the files of this folder: mail.c, feed.c, board.c and loop.c.
 *
 * A mailbox is a PULL socket that its owner reads and one PUSH socket that all senders share under the mailbox's lock
 * (a lock around each use is the fence libzmq asks for when a socket changes threads).  So a mailbox costs two sockets
 * and one pipe however many threads send to it, senders keep nothing about their targets, and closing leaves nothing
 * behind.  Locks are taken in the order bus, feed, mailbox; the board's is taken alone. */
#ifndef MUSTER_TRANSPORT_MAIL_H
#define MUSTER_TRANSPORT_MAIL_H

#include <czmq.h>
#include <pthread.h>
#include <stdatomic.h>

#include "transport/muster_mail.h"
#include "transport/pace.h"

struct mailbox {
    char *address;
    size_t limit;                  /* messages */
    bool fresh;                    /* address made up by the bus */
    atomic_size_t references;      /* registry, owner, feed, and senders while they send */
    atomic_size_t waiting;         /* sent and not yet received; grows under `lock` only */
    atomic_uint_least64_t refused; /* sends refused because it was full */
    atomic_size_t missed;          /* feed messages refused since the last muster_feed_missed */
    pthread_mutex_t lock;          /* guards `push` */
    zsock_t *push;                 /* NULL once closed */
};

struct subscriber {
    struct mailbox *mailbox; /* a reference */
    unsigned kinds;
};

struct muster_bus {
    char id[40];               /* part of the endpoints' names: several buses share one ZeroMQ context */
    pthread_mutex_t lock;      /* guards the next three */
    zhashx_t *mailboxes;       /* address -> struct mailbox */
    uint64_t opened;           /* mailboxes opened so far; numbers endpoints */
    uint64_t callers;          /* fresh addresses made so far */
    pthread_mutex_t feed_lock; /* guards the next two, and is held while a message goes out to all */
    struct subscriber *subscribers;
    size_t subscriber_count;
    struct pace pace;
    pthread_mutex_t board_lock; /* guards `board` */
    zhashx_t *board;            /* name -> struct muster_notice */
};

/* A reference to the mailbox of that address, NULL when nobody has it. */
struct mailbox *mailbox_find(struct muster_bus *bus, const char *address);
void mailbox_release(struct mailbox *mailbox);
/* Put a message in.  It is empty afterwards on success and untouched otherwise. */
muster_err mailbox_put(struct mailbox *mailbox, zmq_msg_t *message);
/* Move the bytes of `frame` into a message without copying them. */
void message_take(zmq_msg_t *message, struct muster_buf *frame);
/* Remove a mailbox that closes from the feed. */
void feed_forget(struct muster_bus *bus, struct mailbox *mailbox);
void feed_fini(struct muster_bus *bus);
void board_fini(struct muster_bus *bus);
struct muster_bus *post_bus(struct muster_post *post);
/* If it has no message, let others run who may have some.  Had it none? */
bool post_linger(struct muster_post *post);
/* The socket that messages to this post arrive on. */
zsock_t *post_socket(struct muster_post *post);

#endif
