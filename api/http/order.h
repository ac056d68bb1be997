/* SPDX-License-Identifier: MPL-2.0 */
/* Events that came before one with a lower number: held back, and let go in the order of their numbers.  One thread;
 * nothing fails. */
#ifndef ORDER_H
#define ORDER_H

#include <stdbool.h>

#include "schemas/muster_buf.h"

struct order;

struct order *order_new(void);
void order_free(struct order **order_p);
/* Keep a copy of the packed event. */
void order_put(struct order *order, int64_t seq, const void *data, size_t size);
/* Move the lowest one to `out`, which is emptied first; false: there is none up to `settled`. */
bool order_take(struct order *order, int64_t settled, struct muster_buf *out);
size_t order_count(const struct order *order);
size_t order_bytes(const struct order *order);
void order_clear(struct order *order);

#endif
