/* SPDX-License-Identifier: MPL-2.0 */
/* bus_read: answers from the store.  The thread of the bus, so each read is short: a page of events is bounded in
 * events, bytes and in how many events it may look at.  What can fail: ids, teams, cursors. */
#include <string.h>

#include "api/bus_inside.h"

enum { PAGE_EVENTS = 100, PAGE_BYTES = 256 << 10, PAGE_LOOKS = 20000 };

static muster_err
refuse(struct bus_request *request, muster_err err, const char *problem)
{
    request->problem = problem;
    return err;
}

static muster_err
check_cursor(struct bus_request *request, const char *cursor)
{
    struct muster_store *store = request->bus->house.store;
    char oldest[MUSTER_CURSOR_TEXT];
    int64_t after;
    muster_err err = cursor && *cursor ? caller_cursor(store, cursor, &after) : MUSTER_OK;

    muster_cursor_text(store, muster_log_oldest(store), oldest);
    if (err == MUSTER_CURSOR_EXPIRED)
        return refuse(request, err,
                      muster_arena_printf(request->arena, "%s; the oldest is %s", muster_err_text(err), oldest));
    return err ? refuse(request, err, "after: is not a cursor") : MUSTER_OK;
}

muster_err
bus_check_read(struct bus_request *request)
{
    const struct log_read *in = request->body;

    if (request->row->body != &log_read_type)
        return MUSTER_OK;
    if (in->team && in->team[0] && !caller_may_use(&request->key, in->team))
        return refuse(request, MUSTER_FORBIDDEN, "This key may not use that team");
    if (in->team && in->team[0] && muster_team_options(request->bus->house.options, in->team) == NULL)
        return refuse(request, MUSTER_TEAM_NOT_FOUND, NULL);
    return check_cursor(request, in->after);
}

/* ---- one job ---- */

static muster_err
find_job(struct bus *bus, const struct bus_pending *pending, const struct muster_id *id, struct muster_arena *arena,
         struct job *out_job)
{
    muster_err err = muster_store_get(bus->house.store, &job_type, id, arena, out_job);

    if (err == MUSTER_OK && !caller_may_use(&pending->key, out_job->team))
        err = MUSTER_NOT_FOUND;
    return err;
}

static void
answer_job(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal)
{
    const struct job_read *in = pending->body;
    struct job job;
    struct job_is is = {.job = &job};
    muster_err err = find_job(bus, pending, &in->job, pending->arena, &job);

    if (err) {
        bus_fail(bus, pending, principal, err, err == MUSTER_NOT_FOUND ? "There is no such job" : NULL, 0);
        return;
    }
    job = bus_show_job(&job);
    bus_answer(bus, pending, principal, &job_is_type, &is);
}

/* ---- who, and where the log is ---- */

static void
answer_hello(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal)
{
    char cursor[MUSTER_CURSOR_TEXT];
    struct bus_welcome welcome = {.server = "muster",
                                  .version = MUSTER_VERSION,
                                  .epoch = muster_store_epoch(bus->house.store),
                                  .settled = bus->feed.settled,
                                  .cursor = cursor,
                                  .name = pending->key.name,
                                  .scopes = pending->key.scopes,
                                  .teams = pending->key.teams};

    muster_cursor_text(bus->house.store, bus->feed.settled, cursor);
    bus_answer(bus, pending, principal, &bus_welcome_type, &welcome);
}

/* ---- events ---- */

struct page {
    const struct log_read *in;
    const struct key *key;
    struct muster_arena *arena;
    struct event *events;
    size_t count, limit;
    size_t bytes, looks;
    int64_t until;
    int64_t last; /* looked at */
    bool more;
};

static void
keep(struct page *page, const struct event *event)
{
    struct event *copy = &page->events[page->count++];
    struct muster_arena *arena = page->arena;

    *copy = *event;
    copy->type = muster_arena_str(arena, event->type, strlen(event->type));
    copy->team = muster_arena_str(arena, event->team, strlen(event->team));
    copy->trace = event->trace ? muster_arena_str(arena, event->trace, strlen(event->trace)) : NULL;
    copy->body = muster_bytes_copy(arena, event->body.data, event->body.size);
    page->bytes += event->body.size;
}

static bool
on_event(void *arg, const struct event *event)
{
    struct page *page = arg;
    const char *team = page->in->team && page->in->team[0] ? page->in->team : NULL;

    if (event->seq > page->until)
        return false;
    if (page->count == page->limit || page->bytes > PAGE_BYTES || page->looks == PAGE_LOOKS) {
        page->more = true;
        return false;
    }
    page->looks++;
    page->last = event->seq;
    if (caller_may_use(page->key, event->team) && (team == NULL || strcmp(team, event->team) == 0))
        keep(page, event);
    return true;
}

static void
answer_page(struct bus *bus, const struct bus_pending *pending, struct page *page, int64_t settled)
{
    char next[MUSTER_CURSOR_TEXT];
    struct log_page answer = {
        .events = {page->events, page->count}, .next = next, .settled = settled, .more = page->more};

    muster_cursor_text(bus->house.store, page->last, next);
    bus_answer(bus, pending, NULL, &log_page_type, &answer);
}

static muster_err
fill_page(struct bus *bus, const struct bus_pending *pending, int64_t settled, struct page *page)
{
    struct muster_store *store = bus->house.store;
    const struct log_read *in = pending->body;
    bool one = !muster_id_is_zero(&in->job);
    struct job job;
    muster_err err = MUSTER_OK;

    *page = (struct page){.in = in,
                          .key = &pending->key,
                          .arena = page->arena,
                          .limit = in->limit ? (size_t)in->limit : PAGE_EVENTS,
                          .until = one ? INT64_MAX : settled,
                          .last = muster_log_oldest(store) - 1};
    page->events = muster_arena_alloc(page->arena, page->limit * sizeof *page->events);
    if (pending->looked > 0)
        page->last = pending->looked;
    else if (in->after && in->after[0])
        err = caller_cursor(store, in->after, &page->last);
    if (!err && one)
        err = find_job(bus, pending, &in->job, page->arena, &job);
    if (!err)
        err = muster_log_walk(store, one ? &in->job : NULL, page->last, on_event, page);
    if (!err && !one && !page->more && page->last < settled)
        page->last = settled;
    return err;
}

static bool
answer_log(struct bus *bus, struct bus_pending *pending, int64_t settled)
{
    struct page page = {.arena = muster_arena_new()};
    muster_err err = fill_page(bus, pending, settled, &page);
    bool waits = !err && page.count == 0 && !page.more && pending->wait_until_ms > muster_clock_ms();

    if (err)
        bus_fail(bus, pending, NULL, err, NULL, 0);
    else if (waits)
        pending->looked = page.last;
    else
        answer_page(bus, pending, &page, settled);
    muster_arena_free(&page.arena);
    return !waits;
}

void
bus_answer_nothing(struct bus *bus, const struct bus_pending *pending)
{
    struct page page = {.last = pending->looked};

    answer_page(bus, pending, &page, bus->feed.settled);
}

bool
bus_answer_read(struct bus *bus, struct bus_pending *pending, const struct muster_principal *principal, int64_t settled)
{
    if (pending->row->body == &log_read_type)
        return answer_log(bus, pending, settled);
    if (pending->row->body == &bus_hello_type)
        answer_hello(bus, pending, principal);
    else
        answer_job(bus, pending, principal);
    return true;
}
