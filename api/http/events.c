/* SPDX-License-Identifier: MPL-2.0 */
/* Events of all jobs and teams, as they are in the log, as an event stream.  Handlers run on the connection's thread
 * until the stream is live; rendering also runs on the thread of the hub.  What can fail: what the query asks for. */
#include <string.h>

#include "actors/muster_job.h"
#include "api/http/gateway.h"

#include "schemas/pass_struct.h"

#include "api/http/events.def"
#include "schemas/pass_end.h"

#include "schemas/pass_rows.h"

#include "api/http/events.def"
#include "schemas/pass_end.h"

#include "schemas/pass_extern.h"

#include "api/http/events.def"
#include "schemas/pass_end.h"

#include "schemas/pass_types.h"

#include "api/http/events.def"
#include "schemas/pass_end.h"

enum { MAX_TEAMS = 256 };

/* ---- one event ---- */

/* The body as JSON; of a type that this version does not know: nothing. */
static void
put_body(struct muster_buf *out, const struct event *event, struct muster_arena *arena)
{
    const struct muster_event_row *row = muster_event_row(event->type);
    void *body = row ? muster_arena_alloc(arena, row->type->size) : NULL;

    if (row && muster_unpack(row->type, event->body.data, event->body.size, arena, body, NULL) == MUSTER_OK)
        muster_json_encode(row->type, body, out);
    else
        muster_buf_str(out, "{}");
}

static void
render(struct muster_buf *out, const struct event *event, const char *cursor, struct muster_arena *arena, void *arg)
{
    struct event_shown shown = {
        .cursor = cursor, .type = event->type, .team = event->team, .attempt = event->attempt, .at = event->at_ms};
    struct muster_buf body = {0};
    char id[MUSTER_ID_TEXT];

    (void)arg;
    if (!muster_id_is_zero(&event->job)) {
        muster_id_text(&event->job, id);
        shown.messageId = muster_arena_printf(arena, "msg_%s", id);
    }
    put_body(&body, event, arena);
    shown.data = body.data;
    muster_buf_printf(out, "event: %s\ndata: ", event->type);
    muster_json_encode(&event_shown_type, &shown, out);
    muster_buf_str(out, "\n");
    muster_buf_free(&body);
}

/* ---- what the query asks for; false: answered ---- */

static bool
check_team(struct http_request *request, const char *team)
{
    if (!http_may_use(request, team)) {
        http_fail(request, MUSTER_FORBIDDEN, "This key may not use team '%.64s'", team);
        return false;
    }
    if (muster_team_options(http_house(request)->options, team) == NULL) {
        http_fail(request, MUSTER_TEAM_NOT_FOUND, "Team '%.64s' does not exist", team);
        return false;
    }
    return true;
}

/* Those named, else those that the key may use. */
static bool
read_teams(struct http_request *request, struct muster_strs *out)
{
    struct muster_arena *arena = http_arena(request);
    const char *at = http_query(request, "team"), *end;
    const char **items;

    if (at == NULL) {
        *out = http_key(request)->teams;
        return true;
    }
    items = muster_arena_alloc(arena, MAX_TEAMS * sizeof *items);
    *out = (struct muster_strs){items, 0};
    for (;; at = end + 1) {
        end = at + strcspn(at, ",");
        if (out->count == MAX_TEAMS) {
            http_fail_field(request, "team", "must be at most 256 names");
            return false;
        }
        items[out->count] = muster_arena_str(arena, at, (size_t)(end - at));
        if (!check_team(request, items[out->count++]))
            return false;
        if (*end == '\0')
            return true;
    }
}

static bool
read_job(struct http_request *request, const char *text, struct muster_id *out)
{
    struct muster_id id;
    struct job job;

    if (strncmp(text, "msg_", 4) == 0 || strncmp(text, "job_", 4) == 0)
        text += 4;
    if (muster_id_parse(text, &id) ||
        muster_store_get(http_house(request)->store, &job_type, &id, http_arena(request), &job) ||
        !http_may_use(request, job.team)) {
        http_fail(request, MUSTER_NOT_FOUND, "There is no such message");
        return false;
    }
    *out = id;
    return true;
}

static bool
read_topic(struct http_request *request, struct muster_strs *teams, struct http_topic *out)
{
    const char *job = http_query(request, "job");

    *out = (struct http_topic){.teams = teams, .type = http_query(request, "type")};
    if (out->type && muster_event_row(out->type) == NULL) {
        http_fail_field(request, "type", "must be a type of event, see muster describe events");
        return false;
    }
    if (job == NULL)
        return read_teams(request, teams);
    if (http_query(request, "team")) {
        http_fail_field(request, "team", "must not stand beside job");
        return false;
    }
    return read_job(request, job, &out->job);
}

/* Where to go on; -1: with what comes from now on. */
static bool
read_after(struct http_request *request, int64_t *out_after)
{
    const char *cursor = http_header(request, "Last-Event-ID"), *name = "Last-Event-ID";
    muster_err err;

    if (cursor == NULL || *cursor == '\0') {
        name = "since";
        cursor = http_query(request, name);
    }
    *out_after = cursor ? 0 : -1;
    if (cursor == NULL || (strcmp(name, "since") == 0 && strcmp(cursor, "oldest") == 0))
        return true;
    err = http_cursor_parse(request, cursor, out_after);
    if (err)
        http_fail_cursor(request, err, name);
    return err == MUSTER_OK;
}

/* ---- the stream ---- */

static bool
on_any(void *arg, const struct event *event)
{
    (void)event;
    *(bool *)arg = true;
    return false;
}

/* Has the job ended, with nothing behind `after`?  Then a stream would end before it began, again and again. */
static bool
is_over(struct http_request *request, const struct muster_id *id, int64_t after)
{
    struct muster_store *store = http_house(request)->store;
    struct job job;
    bool more = false;

    if (muster_store_get(store, &job_type, id, http_arena(request), &job) || !muster_job_ended(job.state))
        return false;
    if (after >= 0)
        (void)muster_log_walk(store, id, after, on_any, &more);
    return !more;
}

/* Who has seen no event yet when the connection breaks knows where to go on, too. */
static const char *
begin_text(struct http_request *request, int64_t after)
{
    char cursor[MUSTER_CURSOR_TEXT];

    muster_cursor_text(http_house(request)->store, after, cursor);
    return muster_arena_printf(http_arena(request), "id: %s\n\n", cursor);
}

static void
handle_events(struct http_request *request)
{
    struct muster_strs teams = {NULL, 0};
    struct http_topic topic;
    const char *first = "";
    int64_t after;
    muster_err err;

    if (!read_topic(request, &teams, &topic) || !read_after(request, &after))
        return;
    if (after < 0 && muster_id_is_zero(&topic.job)) {
        err = http_settled(request, &after);
        if (err) {
            http_fail(request, err, "%s", muster_err_text(err));
            return;
        }
        first = begin_text(request, after);
    }
    err = http_stream_open(request, &topic, render, NULL);
    if (err) {
        http_fail(request, err, "%s", muster_err_text(err));
    } else if (!muster_id_is_zero(&topic.job) && is_over(request, &topic.job, after)) {
        http_stream_drop(request);
        http_answer(request, 204, "", "", 0); /* tells EventSource to come back no more */
    } else {
        http_stream_run(request, first, strlen(first), after);
    }
}

static const struct http_route routes[] = {
    {"GET", "/api/v1/events", "messages:stream", 1, NULL, HTTP_STREAM, handle_events,
     "Events as they are in the log, of ?team= (several with commas; none: all that the key may use) or of one ?job=, "
     "only those of ?type=, behind ?since= (a cursor, or oldest; none: from now on) or Last-Event-ID."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};

static const struct muster_type *const shown_types[] = {&event_shown_type, NULL};
static const struct http_bodies bodies[] = {{"events", shown_types}, {NULL, NULL}};

const struct http_dialect http_events = {"events", routes, http_render_plain_error, bodies};
