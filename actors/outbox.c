/* SPDX-License-Identifier: MPL-2.0 */
/* outbox: a list of packed messages in front of full mailboxes.  Cannot fail; bounded by its owner's watch on `bytes`.
 */
#include "actors/outbox.h"

#include <stdlib.h>

struct outbox_entry {
    struct outbox_entry *next;
    char *to;
    const struct muster_type *type; /* NULL: `body` is a whole message */
    struct muster_buf body;         /* packed */
};

void
outbox_init(struct outbox *outbox)
{
    outbox->first = NULL;
    outbox->last = &outbox->first;
    outbox->bytes = 0;
}

static void
drop_first(struct outbox *outbox)
{
    struct outbox_entry *entry = outbox->first;

    outbox->first = entry->next;
    if (outbox->first == NULL)
        outbox->last = &outbox->first;
    outbox->bytes -= entry->body.size;
    muster_buf_free(&entry->body);
    free(entry->to);
    free(entry);
}

void
outbox_fini(struct outbox *outbox)
{
    while (outbox->first)
        drop_first(outbox);
}

bool
outbox_waiting(const struct outbox *outbox)
{
    return outbox->first != NULL;
}

static struct outbox_entry *
keep(struct outbox *outbox, const char *to)
{
    struct outbox_entry *entry = muster_alloc(sizeof *entry);

    entry->to = muster_strdup(to);
    *outbox->last = entry;
    outbox->last = &entry->next;
    return entry;
}

void
outbox_tell(struct outbox *outbox, struct muster_ctx *ctx, const char *to, const struct muster_type *type,
            const void *body)
{
    struct outbox_entry *entry;

    if (outbox->first == NULL && muster_tell(ctx, to, type, body) != MUSTER_OVERLOADED)
        return;
    entry = keep(outbox, to);
    entry->type = type;
    muster_pack(type, body, &entry->body);
    outbox->bytes += entry->body.size;
}

void
outbox_send(struct outbox *outbox, struct muster_ctx *ctx, const char *to, const void *message, size_t size)
{
    struct outbox_entry *entry;

    if (outbox->first == NULL && muster_send_whole(ctx, to, message, size) != MUSTER_OVERLOADED)
        return;
    entry = keep(outbox, to);
    muster_buf_add(&entry->body, message, size);
    outbox->bytes += size;
}

static muster_err
send_entry(struct muster_ctx *ctx, const struct outbox_entry *entry)
{
    static const struct muster_principal nobody = {.name = ""};
    struct muster_bytes body = {(const uint8_t *)entry->body.data, entry->body.size};

    if (entry->type == NULL)
        return muster_send_whole(ctx, entry->to, entry->body.data, entry->body.size);
    return muster_forward_packed(ctx, entry->to, entry->type->wire, body, &nobody);
}

void
outbox_push(struct outbox *outbox, struct muster_ctx *ctx)
{
    while (outbox->first && send_entry(ctx, outbox->first) != MUSTER_OVERLOADED)
        drop_first(outbox);
}
