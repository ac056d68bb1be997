/* SPDX-License-Identifier: MPL-2.0 */
/* Webhooks as they are shown.  Reads the records and the end of the log on the connection's thread.
 *
 * A key with admin:* sees all webhooks, another one those that it made; of what it may not see it is told that it does
 * not exist.  Secrets are shown when they are made and never again, values of headers never. */
#include <stdlib.h>
#include <string.h>

#include "api/http/webhooks.h"

enum { LAG_EVENTS = 10000 };

/* ---- which ones a key sees ---- */

static bool
may_see(const struct http_request *request, const struct webhook *record)
{
    const struct key *key = http_key(request);

    return (muster_scope_grants(&key->scopes, "admin:*") && key->teams.count == 0) ||
           muster_id_equal(&record->key, &key->id);
}

bool
webhooks_find(struct http_request *request, struct webhook *out)
{
    struct muster_id id;
    muster_err err = muster_id_parse(http_param(request, "id"), &id);

    if (!err)
        err = muster_store_get(http_house(request)->store, &webhook_type, &id, http_arena(request), out);
    if (err && err != MUSTER_NOT_FOUND && err != MUSTER_INVALID_REQUEST) {
        http_fail(request, err, "%s", muster_err_text(err));
        return false;
    }
    if (!err && may_see(request, out))
        return true;
    http_fail(request, MUSTER_NOT_FOUND, "There is no such webhook");
    return false;
}

/* ---- showing ---- */

static struct hook_shown
shown(struct http_request *request, const struct webhook *record)
{
    struct muster_arena *arena = http_arena(request);
    const char **names = muster_arena_alloc(arena, (record->headers.count + 1) * sizeof *names);
    char *cursor = muster_arena_alloc(arena, MUSTER_CURSOR_TEXT);
    size_t i;

    muster_cursor_text(http_house(request)->store, record->cursor, cursor);
    for (i = 0; i < record->headers.count; i++)
        names[i] = record->headers.items[i].name;
    return (struct hook_shown){.id = record->id,
                               .name = record->name,
                               .url = record->url,
                               .events = record->events,
                               .teams = record->teams,
                               .state = record->state,
                               .createdBy = record->from,
                               .createdAt = record->created_ms,
                               .cursor = cursor,
                               .delivered = record->delivered,
                               .missed = record->missed,
                               .tries = record->tries,
                               .nextTry = record->next_ms,
                               .httpStatus = record->status,
                               .problem = record->problem,
                               .lastDelivered = record->delivered_ms,
                               .headerNames = {names, record->headers.count},
                               .oldUntil = record->old_until_ms > muster_clock_ms() ? record->old_until_ms : 0};
}

static bool
has(const struct muster_strs *strs, const char *text)
{
    size_t i;

    for (i = 0; i < strs->count; i++)
        if (strcmp(strs->items[i], text) == 0)
            return true;
    return false;
}

/* What waits for them is counted in one walk over the end of the log. */
struct lag {
    const struct webhook *records;
    struct hook_shown *shown;
    size_t count;
};

static bool
count_event(void *arg, const struct event *event)
{
    struct lag *lag = arg;
    const struct muster_event_row *row = muster_event_row(event->type);
    size_t i;

    if (row == NULL || row->when != MUSTER_EVENT_DURABLE)
        return true;
    for (i = 0; i < lag->count; i++) {
        const struct webhook *record = &lag->records[i];

        if (event->seq > record->cursor && has(&record->events, event->type) &&
            (record->teams.count == 0 || has(&record->teams, event->team)))
            lag->shown[i].lag++;
    }
    return true;
}

static void
count_lag(struct http_request *request, struct lag *lag)
{
    struct muster_store *store = http_house(request)->store;
    int64_t after = INT64_MAX, last = muster_log_last(store);
    size_t i;

    for (i = 0; i < lag->count; i++)
        if (lag->records[i].cursor < after)
            after = lag->records[i].cursor;
    if (after < last - LAG_EVENTS)
        after = last - LAG_EVENTS;
    if (after < last)
        (void)muster_log_walk(store, NULL, after, count_event, lag); /* what cannot be read is not counted */
}

const char *
webhooks_secret_text(struct http_request *request, const struct muster_bytes *secret)
{
    char *text = muster_arena_alloc(http_arena(request), MUSTER_WHSEC_TEXT);

    muster_whsec_text(secret->data, secret->size, text);
    return text;
}

void
webhooks_answer(struct http_request *request, int status, const struct webhook *record, bool with_secret)
{
    struct hook_shown one = shown(request, record);
    struct lag lag = {record, &one, 1};

    count_lag(request, &lag);
    if (with_secret)
        one.secret = webhooks_secret_text(request, &record->secret);
    http_answer_type(request, status, &hook_shown_type, &one);
}

/* ---- listing ---- */

struct listing {
    struct http_request *request;
    struct webhook *records; /* what they point to is in the request's arena */
    size_t count, capacity;
};

static bool
list_one(void *arg, const void *found, struct muster_arena *arena)
{
    struct listing *listing = arg;
    const struct webhook *record = found;

    (void)arena;
    if (!may_see(listing->request, record))
        return true;
    if (listing->count == listing->capacity) {
        listing->capacity = listing->capacity ? 2 * listing->capacity : 16;
        listing->records = muster_realloc(listing->records, listing->capacity * sizeof *listing->records);
    }
    /* The walk's own copy goes when we return. */
    if (muster_store_get(http_house(listing->request)->store, &webhook_type, &record->id, http_arena(listing->request),
                         &listing->records[listing->count]) == MUSTER_OK)
        listing->count++;
    return true;
}

void
webhooks_handle_list(struct http_request *request)
{
    struct listing listing = {.request = request};
    muster_err err = muster_store_walk(http_house(request)->store, &webhook_type, NULL, NULL, MUSTER_OLDEST_FIRST,
                                       list_one, &listing);
    struct hook_shown *items = muster_arena_alloc(http_arena(request), (listing.count + 1) * sizeof *items);
    struct lag lag = {listing.records, items, listing.count};
    struct hook_list list = {.webhooks = {items, listing.count}};
    size_t i;

    if (err) {
        http_fail(request, err, "%s", muster_err_text(err));
    } else {
        for (i = 0; i < listing.count; i++)
            items[i] = shown(request, &listing.records[i]);
        count_lag(request, &lag);
        http_answer_type(request, 200, &hook_list_type, &list);
    }
    free(listing.records);
}

void
webhooks_handle_show(struct http_request *request)
{
    struct webhook record;

    if (webhooks_find(request, &record))
        webhooks_answer(request, 200, &record, false);
}
