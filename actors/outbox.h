/* SPDX-License-Identifier: MPL-2.0 */
/* Messages that must arrive although a mailbox is full now: kept in order, tried again until they are taken.
 *
 * Once one message to anybody waits, all later ones queue behind it, so order is kept.  The owner calls outbox_push
 * from a timer while outbox_waiting.  Its actor's thread only. */
#ifndef ACTORS_OUTBOX_H
#define ACTORS_OUTBOX_H

#include "actors/muster_actor.h"

struct outbox_entry;
struct outbox {
    struct outbox_entry *first, **last; /* oldest first */
    size_t bytes;                       /* kept */
};

#define OUTBOX_PAUSE_MS 5

void outbox_init(struct outbox *outbox);
void outbox_fini(struct outbox *outbox);
/* Send now, or keep it for later.  An address that nobody has drops the message. */
void outbox_tell(struct outbox *outbox, struct muster_ctx *ctx, const char *to, const struct muster_type *type,
                 const void *body);
/* The same with bytes that are a whole message already. */
void outbox_send(struct outbox *outbox, struct muster_ctx *ctx, const char *to, const void *message, size_t size);
/* Try again what waits. */
void outbox_push(struct outbox *outbox, struct muster_ctx *ctx);
bool outbox_waiting(const struct outbox *outbox);

#endif
