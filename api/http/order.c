/* SPDX-License-Identifier: MPL-2.0 */
/* The held events, a heap by number. */
#include "api/http/order.h"

#include <stdlib.h>

struct held {
    int64_t seq;
    struct muster_buf data;
};

struct order {
    struct held *items; /* items[i] is not above items[2 * i + 1] and items[2 * i + 2] */
    size_t count, capacity;
    size_t bytes;
};

struct order *
order_new(void)
{
    return muster_alloc(sizeof(struct order));
}

void
order_free(struct order **order_p)
{
    if (*order_p == NULL)
        return;
    order_clear(*order_p);
    free((*order_p)->items);
    free(*order_p);
    *order_p = NULL;
}

void
order_put(struct order *order, int64_t seq, const void *data, size_t size)
{
    size_t at = order->count++;
    struct held held = {.seq = seq};

    if (order->count > order->capacity) {
        order->capacity = order->capacity ? 2 * order->capacity : 64;
        order->items = muster_realloc(order->items, order->capacity * sizeof *order->items);
    }
    muster_buf_add(&held.data, data, size);
    order->bytes += size;
    for (; at > 0 && order->items[(at - 1) / 2].seq > seq; at = (at - 1) / 2)
        order->items[at] = order->items[(at - 1) / 2];
    order->items[at] = held;
}

/* Put the last item in place of the first. */
static void
sink_last(struct order *order)
{
    struct held last = order->items[--order->count];
    size_t at = 0, below;

    while ((below = 2 * at + 1) < order->count) {
        if (below + 1 < order->count && order->items[below + 1].seq < order->items[below].seq)
            below++;
        if (order->items[below].seq >= last.seq)
            break;
        order->items[at] = order->items[below];
        at = below;
    }
    order->items[at] = last;
}

bool
order_take(struct order *order, int64_t settled, struct muster_buf *out)
{
    if (order->count == 0 || order->items[0].seq > settled)
        return false;
    muster_buf_free(out);
    *out = order->items[0].data;
    order->bytes -= out->size;
    sink_last(order);
    return true;
}

size_t
order_count(const struct order *order)
{
    return order->count;
}

size_t
order_bytes(const struct order *order)
{
    return order->bytes;
}

void
order_clear(struct order *order)
{
    while (order->count > 0)
        muster_buf_free(&order->items[--order->count].data);
    order->bytes = 0;
}
