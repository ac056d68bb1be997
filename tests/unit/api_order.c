/* SPDX-License-Identifier: MPL-2.0 */
/* Events that are held back: let go in the order of their numbers, as far as is settled. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "api/http/order.h"

static void
put(struct order *order, int64_t seq)
{
    char text[24];

    order_put(order, seq, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)seq));
}

static void
expect(struct order *order, int64_t settled, int64_t seq)
{
    struct muster_buf out = {0};

    cr_assert(order_take(order, settled, &out));
    cr_assert_eq(atoll(out.data), seq, "%s, not %lld", out.data, (long long)seq);
    muster_buf_free(&out);
}

Test(order, nothing_above_what_is_settled_is_let_go)
{
    struct order *order = order_new();
    struct muster_buf out = {0};

    cr_assert_not(order_take(order, 100, &out));
    put(order, 7);
    put(order, 5);
    cr_assert_not(order_take(order, 4, &out));
    expect(order, 5, 5);
    cr_assert_not(order_take(order, 6, &out));
    put(order, 6);
    cr_assert_eq(order_bytes(order), 2);
    expect(order, 9, 6);
    expect(order, 9, 7);
    cr_assert_not(order_take(order, 9, &out));
    cr_assert_eq(order_count(order), 0);
    cr_assert_eq(order_bytes(order), 0);
    order_free(&order);
    cr_assert_null(order);
}

Test(order, many_come_out_sorted_whatever_the_order_they_came_in)
{
    enum { COUNT = 3000 };
    struct order *order = order_new();
    int64_t i, taken = 0;

    for (i = 0; i < COUNT; i++)
        put(order, i * 1009 % COUNT); /* each once */
    for (; taken < COUNT; taken++)
        expect(order, COUNT, taken);
    cr_assert_eq(order_count(order), 0);
    order_free(&order);
}

Test(order, cleared_it_is_empty_and_can_be_used_again)
{
    struct order *order = order_new();

    put(order, 2);
    put(order, 1);
    order_clear(order);
    cr_assert_eq(order_count(order), 0);
    put(order, 3);
    expect(order, 3, 3);
    put(order, 4); /* freed with what it holds */
    order_free(&order);
}
