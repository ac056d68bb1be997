/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_turns: who may send next.  A heap by time, and for each receiver with requests open the list of those that
 * wait for one of them to end.  Callbacks and webhooks stand in the same heap, so neither holds up the other.  Cannot
 * fail. */
#include <stdlib.h>
#include <string.h>

#include "actors/webhook.h"

/* ---- due: a heap, from 1 --------------------------------------------------------------------------------------------
 */

static bool
is_before(const struct webhook_turn *a, const struct webhook_turn *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

static void
set_place(struct webhook_turns *turns, struct webhook_turn *turn, size_t place)
{
    turns->heap[place] = turn;
    turn->place = place;
}

/* Let it rise or sink from `place`, which is free, to where it belongs. */
static void
settle(struct webhook_turns *turns, struct webhook_turn *turn, size_t place)
{
    size_t down;

    for (; place > 1 && is_before(turn, turns->heap[place / 2]); place /= 2)
        set_place(turns, turns->heap[place / 2], place);
    while ((down = 2 * place) <= turns->count) {
        if (down < turns->count && is_before(turns->heap[down + 1], turns->heap[down]))
            down++;
        if (!is_before(turns->heap[down], turn))
            break;
        set_place(turns, turns->heap[down], place);
        place = down;
    }
    set_place(turns, turn, place);
}

void
webhook_turn_due(struct webhook_turns *turns, struct webhook_turn *turn, int64_t due_ms)
{
    webhook_turn_take(turns, turn);
    if (turns->count + 1 >= turns->capacity) {
        turns->capacity = turns->capacity ? 2 * turns->capacity : 64;
        turns->heap = muster_realloc(turns->heap, turns->capacity * sizeof(struct webhook_turn *));
    }
    turn->due_ms = due_ms;
    turn->order = ++turns->last_order;
    turns->count++;
    settle(turns, turn, turns->count);
}

struct webhook_turn *
webhook_turns_first(const struct webhook_turns *turns)
{
    return turns->count > 0 ? turns->heap[1] : NULL;
}

void
webhook_turn_take(struct webhook_turns *turns, struct webhook_turn *turn)
{
    struct webhook_turn *last;
    size_t place = turn->place;

    if (place == 0)
        return;
    turn->place = 0;
    last = turns->heap[turns->count--];
    if (last != turn)
        settle(turns, last, place);
}

/* ---- receivers ------------------------------------------------------------------------------------------------------
 */

static struct webhook_endpoint *
find_endpoint(const struct webhook_turns *turns, const char *name)
{
    struct webhook_endpoint *endpoint = turns->endpoints;

    while (endpoint && strcmp(endpoint->name, name) != 0)
        endpoint = endpoint->next;
    return endpoint;
}

static struct webhook_endpoint *
add_endpoint(struct webhook_turns *turns, const char *name)
{
    struct webhook_endpoint *endpoint = muster_alloc(sizeof *endpoint);

    endpoint->name = muster_strdup(name);
    endpoint->last = &endpoint->first;
    endpoint->next = turns->endpoints;
    turns->endpoints = endpoint;
    return endpoint;
}

static void
free_endpoint(struct webhook_turns *turns, struct webhook_endpoint *endpoint)
{
    struct webhook_endpoint **link = &turns->endpoints;

    while (*link != endpoint)
        link = &(*link)->next;
    *link = endpoint->next;
    free(endpoint->name);
    free(endpoint);
}

bool
webhook_turns_have_slot(const struct webhook_turns *turns, const char *name, int64_t most)
{
    const struct webhook_endpoint *endpoint = find_endpoint(turns, name);

    return endpoint == NULL || (int64_t)endpoint->slots < most;
}

bool
webhook_turn_slot(struct webhook_turns *turns, struct webhook_turn *turn, const char *name, int64_t most)
{
    struct webhook_endpoint *endpoint;

    if (turn->has_slot)
        return true;
    endpoint = find_endpoint(turns, name);
    if (endpoint == NULL)
        endpoint = add_endpoint(turns, name);
    turn->endpoint = endpoint;
    turn->has_slot = (int64_t)endpoint->slots < most;
    if (turn->has_slot) {
        endpoint->slots++;
        return true;
    }
    turn->next = NULL;
    *endpoint->last = turn;
    endpoint->last = &turn->next;
    return false;
}

static void
stop_waiting(struct webhook_turn *turn)
{
    struct webhook_endpoint *endpoint = turn->endpoint;
    struct webhook_turn **link = &endpoint->first;

    while (*link != turn)
        link = &(*link)->next;
    *link = turn->next;
    if (turn->next == NULL)
        endpoint->last = link;
}

/* The slot goes to the next that waits.  A receiver without slots taken is forgotten. */
static void
give_slot(struct webhook_turns *turns, struct webhook_endpoint *endpoint)
{
    struct webhook_turn *next = endpoint->first;

    if (next) {
        stop_waiting(next);
        next->has_slot = true;
        webhook_turn_due(turns, next, next->due_ms);
    } else if (--endpoint->slots == 0) {
        free_endpoint(turns, endpoint);
    }
}

void
webhook_turn_leave(struct webhook_turns *turns, struct webhook_turn *turn)
{
    struct webhook_endpoint *endpoint = turn->endpoint;

    webhook_turn_take(turns, turn);
    if (endpoint == NULL)
        return;
    if (turn->has_slot) {
        turn->has_slot = false;
        turn->endpoint = NULL;
        give_slot(turns, endpoint);
    } else {
        stop_waiting(turn);
        turn->endpoint = NULL;
    }
}

void
webhook_turns_fini(struct webhook_turns *turns)
{
    while (turns->endpoints)
        free_endpoint(turns, turns->endpoints);
    free(turns->heap);
}
