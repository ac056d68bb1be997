/* SPDX-License-Identifier: MPL-2.0 */
/* Routes that belong to no dialect: health, metrics, keys.  Handlers run on the connection's thread. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/bus.h"
#include "api/data_file.h"
#include "api/http/gateway.h"
#include "schemas/muster_options.h"

#include "schemas/pass_struct.h"

#include "api/http/http.def"
#include "schemas/pass_end.h"

#include "schemas/pass_extern.h"

#include "api/http/http.def"
#include "schemas/pass_end.h"

#include "schemas/pass_rows.h"

#include "api/http/http.def"
#include "schemas/pass_end.h"

#include "schemas/pass_types.h"

#include "api/http/http.def"
#include "schemas/pass_end.h"

#define OVERLAP_MAX_MS INT64_C(31536000000) /* of the row auth.rotate */

enum { METRICS_MS = 2000 };

void
http_render_plain_error(struct muster_buf *out, muster_err err, const char *message, const char *details,
                        int64_t now_ms)
{
    struct plain_error error = {.error = muster_err_text(err),
                                .code = muster_err_code(err),
                                .message = message,
                                .details = details,
                                .timestamp = now_ms};

    muster_json_encode(&plain_error_type, &error, out);
    http_error_lift(out, err, details);
}

/* ---- health ---- */

static void
handle_health(struct http_request *request)
{
    const struct muster_house *house = http_house(request);
    struct muster_notice *notice = muster_board_take(house->bus, MUSTER_QUEUE_BOARD);
    struct health_queue queue = {.maxConcurrent = house->options->queue->max_running};
    struct health health = {.status = request->server->draining ? "draining" : "ok",
                            .version = MUSTER_VERSION,
                            .uptime = (muster_clock_ms() - request->server->started_ms) / 1000,
                            .queue = &queue,
                            .teams = (int64_t)house->options->teams.count};

    if (health.uptime < 0)
        health.uptime = 0;
    if (notice) {
        const struct muster_queue_view *view = muster_notice_object(notice);

        queue = (struct health_queue){view->running, view->queued, view->max_running};
        if (view->draining)
            health.status = "draining";
    }
    muster_notice_release(&notice);
    http_answer_type(request, 200, &health_type, &health);
}

/* ---- metrics ---- */

static void
handle_metrics(struct http_request *request)
{
    struct metrics_read read = {.all = true};
    struct metrics_text text;
    struct muster_buf out = {0};
    muster_err err =
        http_ask(request, MUSTER_METRICS, &metrics_read_type, &read, &metrics_text_type, &text, METRICS_MS);

    if (err == MUSTER_GONE) {
        http_gone(request);
        return;
    }
    if (err == MUSTER_OK && text.text)
        muster_buf_str(&out, text.text);
    http_server_metrics(request->server, &out);
    http_answer(request, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.size);
    muster_buf_free(&out);
}

/* ---- keys ---- */

static bool
read_rate(struct http_request *request, const struct key_rate *in, struct rate_limit *out)
{
    int64_t window_ms;

    if (muster_duration_parse(http_bare(request, in->window), &window_ms) || window_ms < 1 || window_ms > 86400000) {
        http_fail_field(request, "rateLimit.window", "must be milliseconds or a text such as 1m, at most one day");
        return false;
    }
    *out = (struct rate_limit){in->requests, window_ms, limit_algorithm_SLIDING_WINDOW};
    return true;
}

static bool
read_create(struct http_request *request, const struct key_create *in, struct rate_limit *rate, struct auth_create *out)
{
    size_t i;

    *out = (struct auth_create){.name = in->name,
                                .scopes = in->scopes,
                                .teams = in->teams,
                                .tier = in->tier,
                                .speaks_for = in->speaksFor,
                                .curve = in->curve};
    for (i = 0; i < in->scopes.count; i++)
        if (!muster_scope_known(in->scopes.items[i])) {
            http_fail_field(request, "scopes", "must be known scopes, see muster describe scopes");
            return false;
        }
    if (in->expiresAt &&
        (http_time_parse(http_bare(request, in->expiresAt), &out->expires_ms) || out->expires_ms <= 0)) {
        http_fail_field(request, "expiresAt", "must be unix milliseconds or an ISO 8601 time");
        return false;
    }
    if (in->expiresAt && out->expires_ms <= muster_clock_ms()) {
        http_fail_field(request, "expiresAt", "must be in the future");
        return false;
    }
    if (in->rateLimit == NULL)
        return true;
    out->rate_limit = rate;
    return read_rate(request, in->rateLimit, rate);
}

/* Whoever makes and rotates keys may use all teams through them, so a key that is kept to some may not.  False:
 * answered.
 */
bool
http_may_manage(struct http_request *request)
{
    if (http_key(request)->teams.count == 0)
        return true;
    http_fail(request, MUSTER_FORBIDDEN, "A key that may use some teams only may not do this");
    return false;
}

/* Names are not longer than that.  True: answered. */
static bool
no_such_key(struct http_request *request, const char *key)
{
    if (strlen(key) <= 64)
        return false;
    http_fail(request, MUSTER_NOT_FOUND, "There is no such key");
    return true;
}

/* False: answered. */
static bool
find_server_key(struct http_request *request, const char **out_text)
{
    struct muster_notice *notice = muster_board_take(http_house(request)->bus, BUS_BOARD);
    const struct bus_view *view = notice ? muster_notice_object(notice) : NULL;

    if (view)
        *out_text = muster_arena_str(http_arena(request), view->server_key, strlen(view->server_key));
    else
        http_fail(request, MUSTER_CONFLICT, "ZeroMQ is off here; set bus.commands or bus.events");
    muster_notice_release(&notice);
    return view != NULL;
}

static void
handle_key_create(struct http_request *request)
{
    const struct key_create *in = http_body(request);
    struct rate_limit rate;
    struct auth_create create;
    struct auth_created created;
    struct key_created answer;
    const char *server = NULL;
    muster_err err;

    if (!http_may_manage(request) || !read_create(request, in, &rate, &create) ||
        (in->curve && !find_server_key(request, &server)))
        return;
    err = http_ask(request, MUSTER_AUTH, &auth_create_type, &create, &auth_created_type, &created, HTTP_HOP_MS);
    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    answer = (struct key_created){.id = created.id,
                                  .name = created.name,
                                  .key = created.key,
                                  .scopes = in->scopes,
                                  .curveSecret = created.curve_secret,
                                  .curvePublic = created.curve_public,
                                  .serverPublic = server};
    http_answer_type(request, 201, &key_created_type, &answer);
}

/* Is it the key of the data folder's admin.key, which follows it? */
static bool
is_in_file(const struct muster_house *house, const char *name_or_id)
{
    struct muster_notice *notice = muster_board_take(house->bus, MUSTER_KEYS_BOARD);
    const struct key *key;
    char id[MUSTER_ID_TEXT];
    bool found = false;
    size_t i;

    for (i = 0; notice && !found && (key = muster_keys_at(muster_notice_object(notice), i)) != NULL; i++) {
        muster_id_text(&key->id, id);
        found = (strcmp(key->name, name_or_id) == 0 || strcasecmp(id, name_or_id) == 0) &&
                data_file_has_key(house->options->data, muster_notice_object(notice), &key->id, muster_clock_ms());
    }
    muster_notice_release(&notice);
    return found;
}

static void
handle_key_rotate(struct http_request *request)
{
    const struct key_rotate *in = http_body(request);
    struct auth_rotate rotate = {.key = http_param(request, "key")};
    struct auth_rotated rotated;
    struct key_rotated answer;
    bool in_file;
    muster_err err;

    if (!http_may_manage(request))
        return;
    if (in->overlap && (muster_duration_parse(http_bare(request, in->overlap), &rotate.overlap_ms) ||
                        rotate.overlap_ms < 0 || rotate.overlap_ms > OVERLAP_MAX_MS)) {
        http_fail_field(request, "overlap", "must be milliseconds or a text such as 1h, at most 365 days");
        return;
    }
    if (no_such_key(request, rotate.key))
        return;
    in_file = is_in_file(http_house(request), rotate.key);
    err = http_ask(request, MUSTER_AUTH, &auth_rotate_type, &rotate, &auth_rotated_type, &rotated, HTTP_HOP_MS);
    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    if (in_file && data_file_write(http_house(request)->options->data, DATA_FILE_ADMIN_KEY, rotated.key))
        muster_journal_say(http_house(request)->journal, WARNING, "admin-key-stale",
                           "The data folder's admin.key could not be written; put the new key into it.",
                           MUSTER_SAY_TEXT("name", rotated.name));
    answer = (struct key_rotated){rotated.id, rotated.name, rotated.key, rotated.old_until_ms};
    http_answer_type(request, 200, &key_rotated_type, &answer);
}

static void
show_key(struct muster_arena *arena, const struct key *key, int64_t now_ms, struct key_shown *out)
{
    struct key_limit *limit = NULL;

    if (key->rate_limit) {
        limit = muster_arena_alloc(arena, sizeof *limit);
        *limit = (struct key_limit){key->rate_limit->requests, key->rate_limit->window};
    }
    *out = (struct key_shown){.id = key->id,
                              .name = key->name,
                              .scopes = key->scopes,
                              .teams = key->teams,
                              .rateLimit = limit,
                              .createdAt = key->created_ms,
                              .expiresAt = key->expires_ms,
                              .revokedAt = key->revoked_ms,
                              .configured = key->configured,
                              .tier = key->tier,
                              .speaksFor = key->speaks_for,
                              .oldUntil = key->old_until_ms > now_ms ? key->old_until_ms : 0,
                              .expired = key->expires_ms != 0 && key->expires_ms <= now_ms};
}

static void
handle_key_list(struct http_request *request)
{
    struct muster_notice *notice = muster_board_take(http_house(request)->bus, MUSTER_KEYS_BOARD);
    const struct muster_keys *keys = notice ? muster_notice_object(notice) : NULL;
    size_t count = keys ? muster_keys_count(keys) : 0, i;
    struct key_shown *items = muster_arena_alloc(http_arena(request), (count + 1) * sizeof *items);
    struct key_list list = {.keys = {items, count}};
    struct muster_buf text = {0};

    for (i = 0; i < count; i++)
        show_key(http_arena(request), muster_keys_at(keys, i), muster_clock_ms(), &items[i]);
    muster_json_encode(&key_list_type, &list, &text);
    muster_notice_release(&notice);
    http_answer(request, 200, "application/json", text.data, text.size);
    muster_buf_free(&text);
}

static void
handle_key_revoke(struct http_request *request)
{
    struct auth_revoke revoke = {.key = http_param(request, "key")};
    struct auth_revoked revoked;
    struct key_revoked answer;
    muster_err err;

    if (!http_may_manage(request) || no_such_key(request, revoke.key))
        return;
    err = http_ask(request, MUSTER_AUTH, &auth_revoke_type, &revoke, &auth_revoked_type, &revoked, HTTP_HOP_MS);
    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    answer = (struct key_revoked){revoked.id, revoked.name, true};
    http_answer_type(request, 200, &key_revoked_type, &answer);
}

static const struct http_route routes[] = {
    {"GET", "/health", NULL, 0, NULL, HTTP_OPEN, handle_health, "Is the server well, and how busy?"},
    {"GET", "/metrics", NULL, 0, NULL, HTTP_OPEN, handle_metrics,
     "Counters for Prometheus; no names of keys, no texts."},
    {"POST", "/api/v1/keys", "admin:*", 1, &key_create_type, 0, handle_key_create, "Make an API key; shown this once."},
    {"GET", "/api/v1/keys", "admin:*", 1, NULL, 0, handle_key_list, "All API keys, without their secrets."},
    {"POST", "/api/v1/keys/{key}/rotate", "admin:*", 1, &key_rotate_type, 0, handle_key_rotate,
     "Give a key a new text, by its id or name; shown this once."},
    {"DELETE", "/api/v1/keys/{key}", "admin:*", 1, NULL, 0, handle_key_revoke, "Revoke a key by its id or name."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};

static const struct muster_type *const requests[] = {&key_create_type, &key_rotate_type, NULL};
static const struct muster_type *const answers[] = {
    &health_type, &key_created_type, &key_rotated_type, &key_list_type, &key_revoked_type, &plain_error_type, NULL};
static const struct http_bodies bodies[] = {{"requests", requests}, {"answers", answers}, {NULL, NULL}};

const struct http_dialect http_common = {"common", routes, http_render_plain_error, bodies};
