/* SPDX-License-Identifier: MPL-2.0 */
/* bus_guest: who the clients are.  The thread of the bus.  What can fail: a credential. */
#include <stdlib.h>
#include <string.h>

#include "api/bus_inside.h"

#define SPARE 64 /* guests that are remembered besides those connected */

static uint32_t *
bucket_of(struct bus *bus, uint32_t number)
{
    return &bus->guests.buckets[(number * UINT32_C(0x9e3779b1)) >> 22];
}

struct bus_guest *
bus_guest_find(struct bus *bus, uint32_t number)
{
    uint32_t at = *bucket_of(bus, number);

    while (at && bus->guests.items[at - 1].number != number)
        at = bus->guests.items[at - 1].next;
    return at ? &bus->guests.items[at - 1] : NULL;
}

static void
forget(struct bus *bus, struct bus_guest *guest)
{
    uint32_t *link = bucket_of(bus, guest->number), at = (uint32_t)(guest - bus->guests.items) + 1;

    while (*link != at)
        link = &bus->guests.items[*link - 1].next;
    *link = guest->next;
}

/* Those that have logged in last, so that strangers do not make the others say hello again. */
static bool
goes_before(const struct bus_guest *one, const struct bus_guest *other)
{
    return one->said_hello != other->said_hello ? other->said_hello : one->seen < other->seen;
}

/* A place for a new one; NULL: all have requests at work. */
static struct bus_guest *
place(struct bus *bus)
{
    struct bus_guests *guests = &bus->guests;
    struct bus_guest *oldest = NULL;
    size_t i;

    if (guests->items == NULL) {
        guests->capacity = 2 * (size_t)bus->options->max_clients + SPARE;
        guests->items = muster_alloc(guests->capacity * sizeof *guests->items);
    }
    if (guests->count < guests->capacity)
        return &guests->items[guests->count++];
    for (i = 0; i < guests->count; i++)
        if (guests->items[i].pending == 0 && (oldest == NULL || goes_before(&guests->items[i], oldest)))
            oldest = &guests->items[i];
    if (oldest)
        forget(bus, oldest);
    return oldest;
}

struct bus_guest *
bus_guest_of(struct bus *bus, uint32_t number, uint64_t connection)
{
    struct bus_guest *guest = bus_guest_find(bus, number);
    uint32_t *bucket = bucket_of(bus, number);

    if (guest == NULL) {
        guest = place(bus);
        if (guest == NULL)
            return NULL;
        *guest = (struct bus_guest){.number = number, .connection = connection, .next = *bucket};
        *bucket = (uint32_t)(guest - bus->guests.items) + 1;
    }
    if (guest->connection != connection) /* another client under this number: the login is not its */
        guest->said_hello = false;
    guest->connection = connection;
    guest->seen = ++bus->guests.clock;
    return guest;
}

void
bus_guests_free(struct bus *bus)
{
    free(bus->guests.items);
}

/* ---- credentials ---- */

static void
take_key(struct bus_request *request, const struct key *key)
{
    caller_copy_key(request->arena, key, &request->key);
    request->limit = caller_rate(request->bus->house.options->auth, key);
    request->has_key = true;
}

/* The API key of a first message. */
static bool
read_hello(struct bus_request *request, uint8_t out_digest[MUSTER_DIGEST])
{
    struct bus_hello hello;

    if (request->row == NULL || request->row->body != &bus_hello_type ||
        muster_unpack(&bus_hello_type, request->envelope.body.data, request->envelope.body.size, request->arena, &hello,
                      NULL) ||
        hello.key == NULL)
        return false;
    muster_sha256(hello.key, strlen(hello.key), out_digest);
    return true;
}

muster_err
bus_login(struct bus_request *request, const uint8_t *curve)
{
    struct muster_notice *notice = muster_board_take(request->bus->house.bus, MUSTER_KEYS_BOARD);
    const struct muster_keys *keys = notice ? muster_notice_object(notice) : NULL;
    struct bus_guest *guest = request->guest;
    uint8_t digest[MUSTER_DIGEST];
    bool hello = curve == NULL && read_hello(request, digest);
    const struct key *key = NULL;
    muster_err err = MUSTER_UNAUTHORIZED;

    request->problem = "Say bus.hello with an API key first";
    if (keys && curve)
        err = muster_keys_check_curve(keys, curve, muster_clock_ms(), &key, &request->problem);
    else if (keys && (hello || guest->said_hello))
        err =
            muster_keys_check_digest(keys, hello ? digest : guest->digest, muster_clock_ms(), &key, &request->problem);
    if (err == MUSTER_OK) {
        take_key(request, key);
        request->problem = NULL;
    }
    if (hello)
        guest->said_hello = err == MUSTER_OK;
    if (hello && err == MUSTER_OK)
        memcpy(guest->digest, digest, sizeof digest);
    muster_notice_release(&notice);
    return err;
}

bool
bus_is_still_good(struct bus *bus, const struct bus_pending *pending)
{
    struct muster_notice *notice = muster_board_take(bus->house.bus, MUSTER_KEYS_BOARD);
    const struct muster_keys *keys = notice ? muster_notice_object(notice) : NULL;
    int64_t now_ms = muster_clock_ms();
    const struct key *key;
    const char *problem;
    bool good;

    if (pending->by_curve)
        good = keys && muster_keys_check_curve(keys, pending->proof, now_ms, &key, &problem) == MUSTER_OK;
    else
        good = keys && muster_keys_check_digest(keys, pending->proof, now_ms, &key, &problem) == MUSTER_OK;
    muster_notice_release(&notice);
    return good;
}

bool
bus_curve_may(struct bus *bus, const uint8_t *curve, const char *scope, struct muster_arena *arena, struct key *out_key)
{
    struct muster_notice *notice = muster_board_take(bus->house.bus, MUSTER_KEYS_BOARD);
    const struct key *key = NULL;
    const char *reason;
    bool may = notice && muster_keys_check_curve(muster_notice_object(notice), curve, muster_clock_ms(), &key,
                                                 &reason) == MUSTER_OK;

    if (may && scope)
        may = muster_scope_grants(&key->scopes, scope);
    if (may)
        caller_copy_key(arena, key, out_key);
    muster_notice_release(&notice);
    return may;
}
