/* SPDX-License-Identifier: MPL-2.0 */
/* parcels_list: what the hub has not acknowledged, oldest first, with two marks in it: what is on its way, and what is
 * in memory only.  The actor's thread; nothing here fails. */
#include <stdlib.h>

#include "actors/parcels.h"

#define ITEM_COST 128 /* besides its row */

void
parcels_list_init(struct parcels *self)
{
    self->last = &self->first;
}

static void
free_item(struct parcels_item *item)
{
    muster_buf_free(&item->data);
    free(item);
}

void
parcels_list_fini(struct parcels *self)
{
    struct parcels_item *item;

    while ((item = self->first)) {
        self->first = item->next;
        free_item(item);
    }
}

void
parcels_add(struct parcels *self, struct parcels_item *item)
{
    if (item->seq == 0 && self->numbered)
        item->seq = ++self->last_seq;
    *self->last = item;
    self->last = &item->next;
    self->count++;
    self->bytes += item->size;
    if (!self->unsent)
        self->unsent = item;
    if (!self->unwritten && item->where == PARCELS_IN_MEMORY)
        self->unwritten = item;
    self->dirty = true;
}

void
parcels_drop(struct parcels *self, struct parcels_item **link)
{
    struct parcels_item *item = *link;

    *link = item->next;
    if (self->last == &item->next)
        self->last = link;
    if (self->unsent == item)
        self->unsent = item->next;
    if (self->unwritten == item)
        self->unwritten = item->next;
    if (item->where != PARCELS_IN_MEMORY)
        parcels_disk_remove(self, item->seq);
    self->count--;
    self->bytes -= item->size;
    self->dirty = true;
    free_item(item);
}

void
parcels_acked_up_to(struct parcels *self, int64_t seq)
{
    while (self->first != self->unsent && self->first->seq <= seq) {
        self->sent--;
        self->sent_bytes -= self->first->size;
        parcels_drop(self, &self->first);
    }
}

void
parcels_rewind(struct parcels *self)
{
    self->unsent = self->first;
    self->sent = self->sent_bytes = 0;
}

void
parcels_number(struct parcels *self, int64_t received)
{
    struct parcels_item *item;

    if (received > self->last_seq)
        self->last_seq = received;
    if (self->numbered)
        return;
    self->numbered = true;
    for (item = self->first; item; item = item->next)
        if (item->seq == 0)
            item->seq = ++self->last_seq;
}

size_t
parcels_cost(const struct parcels *self)
{
    return self->bytes + self->entry_bytes + self->count * ITEM_COST;
}
