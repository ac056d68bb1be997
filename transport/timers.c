/* SPDX-License-Identifier: MPL-2.0 */
/* timers: zloop's own list is searched from end to end at each turn and fires what was ended in the same turn; this
 * heap does neither.  One thread; nothing here fails. */
#include "transport/timers.h"

#include "transport/numbers.h"

#include "schemas/muster_buf.h"

struct timer {
    int id;
    size_t place;    /* in the heap */
    uint64_t serial; /* order of adding, decides between equal due times */
    int64_t due_ns;
    void (*fire)(void *arg);
    void *arg;
};

struct timers {
    struct timer **heap; /* no timer is due before its parent, at (place - 1) / 2 */
    size_t count;
    size_t capacity;
    zhashx_t *by_id; /* keys are the ids themselves */
    int last_id;
    uint64_t serials;
};

static void *
key_of(int id)
{
    return (void *)(intptr_t)id;
}

struct timers *
timers_new(void)
{
    struct timers *timers = muster_alloc(sizeof *timers);

    timers->by_id = numbers_new();
    return timers;
}

void
timers_free(struct timers **timers_p)
{
    struct timers *timers = *timers_p;

    if (!timers)
        return;
    for (size_t i = 0; i < timers->count; i++)
        free(timers->heap[i]);
    free(timers->heap);
    zhashx_destroy(&timers->by_id);
    free(timers);
    *timers_p = NULL;
}

static bool
before(const struct timer *a, const struct timer *b)
{
    return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->serial < b->serial);
}

static void
place(struct timers *timers, struct timer *timer, size_t at)
{
    timers->heap[at] = timer;
    timer->place = at;
}

/* Move `timer` from the hole `at` to where it belongs. */
static void
settle(struct timers *timers, struct timer *timer, size_t at)
{
    size_t child;

    while (at > 0 && before(timer, timers->heap[(at - 1) / 2])) {
        place(timers, timers->heap[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    while ((child = 2 * at + 1) < timers->count) {
        if (child + 1 < timers->count && before(timers->heap[child + 1], timers->heap[child]))
            child++;
        if (!before(timers->heap[child], timer))
            break;
        place(timers, timers->heap[child], at);
        at = child;
    }
    place(timers, timer, at);
}

static void
take_out(struct timers *timers, struct timer *timer)
{
    struct timer *last = timers->heap[--timers->count];

    zhashx_delete(timers->by_id, key_of(timer->id));
    if (last != timer)
        settle(timers, last, timer->place);
}

int
timers_add(struct timers *timers, int64_t due_ns, void (*fire)(void *arg), void *arg)
{
    struct timer *timer = muster_alloc(sizeof *timer);

    do
        timers->last_id = timers->last_id == INT_MAX ? 1 : timers->last_id + 1;
    while (zhashx_lookup(timers->by_id, key_of(timers->last_id)));
    timer->id = timers->last_id;
    timer->serial = ++timers->serials;
    timer->due_ns = due_ns;
    timer->fire = fire;
    timer->arg = arg;
    zhashx_insert(timers->by_id, key_of(timer->id), timer);
    if (timers->count == timers->capacity) {
        timers->capacity = timers->capacity ? timers->capacity * 2 : 16;
        timers->heap = muster_realloc(timers->heap, timers->capacity * sizeof(struct timer *));
    }
    settle(timers, timer, timers->count++);
    return timer->id;
}

void
timers_end(struct timers *timers, int id)
{
    struct timer *timer = id > 0 ? zhashx_lookup(timers->by_id, key_of(id)) : NULL;

    if (!timer)
        return;
    take_out(timers, timer);
    free(timer);
}

int64_t
timers_next_ns(const struct timers *timers)
{
    return timers->count ? timers->heap[0]->due_ns : INT64_MAX;
}

void
timers_fire(struct timers *timers, int64_t now_ns)
{
    uint64_t old = timers->serials; /* what a callback adds is due later than what is due now, and comes after it */

    while (timers->count && timers->heap[0]->due_ns <= now_ns && timers->heap[0]->serial <= old) {
        struct timer *timer = timers->heap[0];

        take_out(timers, timer);
        timer->fire(timer->arg);
        free(timer);
    }
}
