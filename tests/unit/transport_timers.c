/* SPDX-License-Identifier: MPL-2.0 */
/* The heap of timers, with a clock that the tests drive. */
#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdlib.h>

#include "transport/timers.h"

enum { COUNT = 2000 };

struct entry {
    int64_t due_ns;
    int id;
    int fired;
    bool ended;
};

static struct entry entries[COUNT];
static const struct entry *last_fired;
static struct timers *timers;

static void
fire(void *arg)
{
    struct entry *entry = arg;

    if (last_fired) {
        cr_assert_leq(last_fired->due_ns, entry->due_ns);
        cr_assert(last_fired->due_ns < entry->due_ns || last_fired < entry, "equal due times keep their order");
    }
    last_fired = entry;
    entry->fired++;
}

Test(timers, random_adding_ending_and_firing_agrees_with_a_list)
{
    timers = timers_new();
    srand(7);
    for (int i = 0; i < COUNT; i++) {
        entries[i].due_ns = rand() % 500;
        entries[i].id = timers_add(timers, entries[i].due_ns, fire, &entries[i]);
        cr_assert_neq(entries[i].id, 0);
        if (rand() % 2) {
            struct entry *other = &entries[rand() % (i + 1)];

            timers_end(timers, other->id);
            other->ended = true;
        }
    }
    for (int64_t now_ns = 0; now_ns < 500; now_ns += 50) {
        timers_fire(timers, now_ns);
        cr_assert_gt(timers_next_ns(timers), now_ns);
        for (int i = 0; i < COUNT; i++)
            cr_assert_eq(entries[i].fired, !entries[i].ended && entries[i].due_ns <= now_ns);
    }
    timers_fire(timers, 500);
    cr_assert_eq(timers_next_ns(timers), INT64_MAX);
    timers_free(&timers);
    cr_assert_null(timers);
    timers_free(&timers);
}

static void
add_again(void *arg)
{
    struct entry *entry = arg;

    entry->fired++;
    entry->id = timers_add(timers, entry->due_ns, add_again, entry);
}

Test(timers, what_a_callback_adds_waits_for_the_next_call)
{
    struct entry entry = {.due_ns = 5};

    timers = timers_new();
    entry.id = timers_add(timers, 5, add_again, &entry);
    timers_fire(timers, 4);
    cr_assert_eq(entry.fired, 0);
    timers_fire(timers, 5);
    cr_assert_eq(entry.fired, 1);
    timers_fire(timers, 5);
    cr_assert_eq(entry.fired, 2);
    timers_free(&timers);
}

static void
end_all(void *arg)
{
    (void)arg;
    for (int i = 0; i < 10; i++)
        timers_end(timers, entries[i].id);
    entries[0].fired++;
}

Test(timers, callback_may_end_itself_and_what_is_due_with_it)
{
    timers = timers_new();
    for (int i = 0; i < 10; i++)
        entries[i].id = timers_add(timers, 1, end_all, NULL);
    timers_fire(timers, 10);
    cr_assert_eq(entries[0].fired, 1);
    cr_assert_eq(timers_next_ns(timers), INT64_MAX);
    timers_end(timers, entries[3].id);
    timers_end(timers, 0);
    timers_end(timers, -1);
    timers_free(&timers);
}
