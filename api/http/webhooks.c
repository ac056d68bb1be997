/* SPDX-License-Identifier: MPL-2.0 */
/* Webhooks: made, changed, tested and deleted, by asking their actor; and the table of their routes.  Handlers run on
 * the connection's thread.  What can fail: what the body asks for, and what the actor says. */
#include <string.h>

#include "api/http/webhooks.h"

#include "schemas/pass_rows.h"

#include "api/http/webhooks.def"
#include "schemas/pass_end.h"

#include "schemas/pass_types.h"

#include "api/http/webhooks.def"
#include "schemas/pass_end.h"

#define OVERLAP_MAX_MS INT64_C(31536000000) /* of the rows webhook.change and webhook.secret */

enum { SECRET_BYTES = 32 };

/* ---- what may be asked for ---- */

/* Does "job.*", "*" or "job.completed" name that event? */
static bool
names(const char *text, const char *event)
{
    size_t size = strlen(text);

    if (size >= 1 && text[size - 1] == '*' && (size == 1 || text[size - 2] == '.'))
        return strncmp(text, event, size - 1) == 0;
    return strcmp(text, event) == 0;
}

/* The durable events that `in` names, in the order of the table.  False: answered. */
static bool
read_events(struct http_request *request, const struct muster_strs *in, struct muster_strs *out)
{
    const char **items = muster_arena_alloc(http_arena(request), 64 * sizeof *items);
    const struct muster_event_row *row;
    size_t i, count = 0, known = 0;

    for (i = 0; i < in->count; i++, known = 0) {
        for (row = muster_events; row->type; row++)
            known += row->when == MUSTER_EVENT_DURABLE && names(in->items[i], row->type->wire);
        if (known == 0) {
            http_fail_field(request, "events",
                            "must be names of durable events (see muster describe events), job.*, team.* or *");
            return false;
        }
    }
    for (row = muster_events; row->type; row++)
        for (i = 0; i < in->count; i++)
            if (row->when == MUSTER_EVENT_DURABLE && names(in->items[i], row->type->wire)) {
                items[count++] = row->type->wire;
                break;
            }
    *out = (struct muster_strs){items, count};
    return true;
}

static bool
check_teams(struct http_request *request, const struct muster_strs *teams)
{
    size_t i;

    for (i = 0; i < teams->count; i++)
        if (!http_may_use(request, teams->items[i]) ||
            muster_team_options(http_house(request)->options, teams->items[i]) == NULL) {
            http_fail_field(request, "teams", "must be teams of this server that the key may use");
            return false;
        }
    return true;
}

/* `paused` as JSON; *out_state stays as it is when it is not given. */
static bool
read_paused(struct http_request *request, const char *paused, enum webhook_state *out_state)
{
    if (paused == NULL)
        return true;
    if (strcmp(paused, "true") != 0 && strcmp(paused, "false") != 0) {
        http_fail_field(request, "paused", "must be true or false");
        return false;
    }
    *out_state = *paused == 't' ? webhook_state_PAUSED : webhook_state_ACTIVE;
    return true;
}

static bool
read_after(struct http_request *request, const char *after, struct webhook_change *change)
{
    muster_err err;

    if (after == NULL)
        return true;
    err = http_cursor_parse(request, http_bare(request, after), &change->cursor);
    change->seek = err == MUSTER_OK;
    if (err == MUSTER_INVALID_REQUEST)
        http_fail_field(request, "after", "must be the cursor of an event");
    else if (err)
        http_fail_cursor(request, err, "after");
    return err == MUSTER_OK;
}

static bool
read_overlap(struct http_request *request, const struct hook_rotate *in, int64_t *out_ms)
{
    *out_ms = 0;
    if (in->overlap == NULL || (muster_duration_parse(http_bare(request, in->overlap), out_ms) == MUSTER_OK &&
                                *out_ms >= 0 && *out_ms <= OVERLAP_MAX_MS))
        return true;
    http_fail_field(request, "overlap", "must be milliseconds or a text such as 1h, at most 365 days");
    return false;
}

/* ---- making ---- */

/* The secret that was given, or a new one. */
static bool
read_secret(struct http_request *request, const char *text, struct muster_bytes *out)
{
    uint8_t *bytes = muster_arena_alloc(http_arena(request), MUSTER_WHSEC_BYTES);

    *out = (struct muster_bytes){bytes, SECRET_BYTES};
    if (text == NULL || *text == '\0') {
        muster_random(bytes, SECRET_BYTES);
        return true;
    }
    if (muster_whsec_parse(text, bytes, &out->size) == MUSTER_OK)
        return true;
    http_fail_field(request, "secret", "must be whsec_ and the base64 of 24 to 64 bytes");
    return false;
}

/* False: answered. */
static bool
read_make(struct http_request *request, const struct hook_make *in, struct webhook *record)
{
    static const char *const ends[] = {"job.completed", "job.failed", "job.cancelled"};
    const struct muster_strs by_default = {ends, 3};

    *record = (struct webhook){.url = in->url,
                               .name = in->name,
                               .headers = in->headers,
                               .teams = in->teams.count > 0 ? in->teams : http_key(request)->teams,
                               .state = webhook_state_ACTIVE,
                               .from = http_key(request)->name,
                               .created_ms = muster_clock_ms()};
    return http_check_receiver(request, "", in->url, &in->headers) && check_teams(request, &in->teams) &&
           read_events(request, in->events.count > 0 ? &in->events : &by_default, &record->events) &&
           read_secret(request, in->secret, &record->secret) && read_paused(request, in->paused, &record->state);
}

static void
handle_create(struct http_request *request)
{
    struct webhook record;
    struct webhook_create create = {.webhook = &record};
    struct webhook_created created;
    muster_err err;

    if (!read_make(request, http_body(request), &record))
        return;
    err =
        http_ask(request, MUSTER_WEBHOOK, &webhook_create_type, &create, &webhook_created_type, &created, HTTP_HOP_MS);
    if (err)
        http_fail_as_told(request, err);
    else
        webhooks_answer(request, 201, created.webhook, true);
}

/* ---- changing ---- */

static void
ask_change(struct http_request *request, const struct webhook_change *change)
{
    struct webhook_created changed;
    muster_err err =
        http_ask(request, MUSTER_WEBHOOK, &webhook_change_type, change, &webhook_created_type, &changed, HTTP_HOP_MS);

    if (err)
        http_fail_as_told(request, err);
    else
        webhooks_answer(request, 200, changed.webhook, change->rotate);
}

static bool
read_patch(struct http_request *request, const struct hook_patch *in, const struct webhook *record,
           struct webhook_change *out)
{
    bool moves = in->url && in->url[0];

    *out = (struct webhook_change){
        .id = record->id, .name = in->name, .url = in->url, .headers = in->headers, .teams = in->teams};
    if (in->secret) {
        http_fail_field(request, "secret", "is given when a webhook is made; later it can be rotated");
        return false;
    }
    if ((moves || in->headers.count > 0) &&
        !http_check_receiver(request, "", moves ? in->url : record->url, &in->headers))
        return false;
    return check_teams(request, &in->teams) && read_events(request, &in->events, &out->events) &&
           read_paused(request, in->paused, &out->state) && read_after(request, in->after, out);
}

static void
handle_patch(struct http_request *request)
{
    struct webhook_change change;
    struct webhook record;

    if (webhooks_find(request, &record) && read_patch(request, http_body(request), &record, &change))
        ask_change(request, &change);
}

static void
handle_pause(struct http_request *request)
{
    struct webhook_change change = {.state = webhook_state_PAUSED};
    struct webhook record;

    if (!webhooks_find(request, &record))
        return;
    change.id = record.id;
    ask_change(request, &change);
}

static void
handle_resume(struct http_request *request)
{
    const struct hook_resume *in = http_body(request);
    struct webhook_change change = {.state = webhook_state_ACTIVE};
    struct webhook record;

    if (!webhooks_find(request, &record) || !read_after(request, in->after, &change))
        return;
    change.id = record.id;
    ask_change(request, &change);
}

static void
handle_rotate(struct http_request *request)
{
    struct webhook_change change = {.rotate = true};
    struct webhook record;

    if (!webhooks_find(request, &record) || !read_overlap(request, http_body(request), &change.overlap_ms))
        return;
    change.id = record.id;
    ask_change(request, &change);
}

static void
handle_remove(struct http_request *request)
{
    struct webhook_removed removed;
    struct webhook_remove remove;
    struct hook_removed gone;
    struct webhook record;
    muster_err err;

    if (!webhooks_find(request, &record))
        return;
    remove.id = record.id;
    err =
        http_ask(request, MUSTER_WEBHOOK, &webhook_remove_type, &remove, &webhook_removed_type, &removed, HTTP_HOP_MS);
    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    gone = (struct hook_removed){removed.id, true};
    http_answer_type(request, 200, &hook_removed_type, &gone);
}

/* ---- testing ---- */

static void
handle_test(struct http_request *request)
{
    int64_t patience_ms = http_house(request)->options->webhooks->timeout + HTTP_HOP_MS;
    struct webhook_tested tested;
    struct webhook_test test;
    struct hook_tested told;
    struct webhook record;
    muster_err err;

    if (!webhooks_find(request, &record))
        return;
    if (!http_wait_begin(request)) {
        http_fail(request, MUSTER_OVERLOADED, "Too many requests wait for their answer; try again later");
        return;
    }
    test.id = record.id;
    err = http_ask(request, MUSTER_WEBHOOK, &webhook_test_type, &test, &webhook_tested_type, &tested, patience_ms);
    http_wait_end(request);
    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    told = (struct hook_tested){tested.status, tested.problem, tested.duration_ms};
    http_answer_type(request, 200, &hook_tested_type, &told);
}

/* ---- the secret of callbacks ---- */

static void
ask_secret(struct http_request *request, const struct webhook_secret *ask)
{
    struct webhook_secret_is is;
    struct hook_secret told;
    muster_err err =
        http_ask(request, MUSTER_WEBHOOK, &webhook_secret_type, ask, &webhook_secret_is_type, &is, HTTP_HOP_MS);

    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    told = (struct hook_secret){webhooks_secret_text(request, &is.secret->value),
                                is.secret->old_until_ms > muster_clock_ms() ? is.secret->old_until_ms : 0};
    http_answer_type(request, 200, &hook_secret_type, &told);
}

static void
handle_secret(struct http_request *request)
{
    struct webhook_secret ask = {.rotate = false};

    if (http_may_manage(request))
        ask_secret(request, &ask);
}

static void
handle_secret_rotate(struct http_request *request)
{
    struct webhook_secret ask = {.rotate = true};

    if (http_may_manage(request) && read_overlap(request, http_body(request), &ask.overlap_ms))
        ask_secret(request, &ask);
}

/* ---- the table ---- */

static const struct http_route routes[] = {
    {"POST", "/api/v1/webhooks", "webhooks:manage", 1, &hook_make_type, 0, handle_create,
     "Make a webhook; its secret is shown this once."},
    {"GET", "/api/v1/webhooks", "webhooks:manage", 1, NULL, 0, webhooks_handle_list,
     "The webhooks that the key made; with admin:* all of them."},
    {"GET", "/api/v1/webhooks/callbacks", "admin:*", 1, NULL, 0, handle_secret,
     "The secret that signs callbacks of jobs that have none of their own."},
    {"POST", "/api/v1/webhooks/callbacks/rotate", "admin:*", 1, &hook_rotate_type, 0, handle_secret_rotate,
     "Make a new one."},
    {"GET", "/api/v1/webhooks/{id}", "webhooks:manage", 1, NULL, 0, webhooks_handle_show, "A webhook: how far it is."},
    {"PATCH", "/api/v1/webhooks/{id}", "webhooks:manage", 1, &hook_patch_type, 0, handle_patch,
     "Change a webhook; the next event is sent at once."},
    {"DELETE", "/api/v1/webhooks/{id}", "webhooks:manage", 1, NULL, 0, handle_remove, "Delete a webhook."},
    {"POST", "/api/v1/webhooks/{id}/pause", "webhooks:manage", 1, NULL, 0, handle_pause,
     "Pause a webhook; it keeps its place."},
    {"POST", "/api/v1/webhooks/{id}/resume", "webhooks:manage", 1, &hook_resume_type, 0, handle_resume,
     "Go on, also when it was disabled, where it was or behind a cursor."},
    {"POST", "/api/v1/webhooks/{id}/test", "webhooks:manage", 1, NULL, 0, handle_test,
     "Send webhook.test now, once, and say what came of it."},
    {"POST", "/api/v1/webhooks/{id}/rotate", "webhooks:manage", 1, &hook_rotate_type, 0, handle_rotate,
     "Make a new secret, which is shown this once."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};

/* Of actors/webhook.def, whose structs are the actor's own. */
extern const struct muster_type webhook_body_type;
extern const struct muster_type webhook_queued_type;
extern const struct muster_type webhook_ended_type;
extern const struct muster_type webhook_team_type;
extern const struct muster_type webhook_tested_data_type;

static const struct muster_type *const requests[] = {&hook_make_type, &hook_patch_type, &hook_resume_type,
                                                     &hook_rotate_type, NULL};
static const struct muster_type *const answers[] = {&hook_shown_type,  &hook_list_type,   &hook_removed_type,
                                                    &hook_tested_type, &hook_secret_type, NULL};
static const struct muster_type *const sent[] = {&webhook_body_type, &webhook_queued_type,      &webhook_ended_type,
                                                 &webhook_team_type, &webhook_tested_data_type, NULL};
static const struct http_bodies bodies[] = {
    {"requests", requests}, {"answers", answers}, {"requests to receivers", sent}, {NULL, NULL}};

const struct http_dialect http_webhooks = {"webhooks", routes, http_render_plain_error, bodies};
