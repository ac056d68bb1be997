/* SPDX-License-Identifier: MPL-2.0 */
/* Routes that belong to no dialect: health, metrics, keys.  Handlers run on the connection's thread. */
#include <stdio.h>
#include <string.h>

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

enum { METRICS_MS = 2000 };

static void
render_error(struct muster_buf *out, muster_err err, const char *message, const char *details, int64_t now_ms)
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

static void
fail_field(struct http_request *request, const char *field, const char *expected)
{
    const char *details =
        muster_arena_printf(http_arena(request), "{\"field\":\"%s\",\"expected\":\"%s\"}", field, expected);

    http_fail_details(request, MUSTER_INVALID_REQUEST, details, "%s: %s", field, expected);
}

/* A JSON string without its quotes, or a number as it is. */
static const char *
bare(struct http_request *request, const char *json)
{
    size_t size = strlen(json);

    if (size >= 2 && json[0] == '"')
        return muster_arena_str(http_arena(request), json + 1, size - 2);
    return json;
}

static bool
read_rate(struct http_request *request, const struct key_rate *in, struct rate_limit *out)
{
    int64_t window_ms;

    if (muster_duration_parse(bare(request, in->window), &window_ms) || window_ms < 1 || window_ms > 86400000) {
        fail_field(request, "rateLimit.window", "must be milliseconds or a text such as 1m, at most one day");
        return false;
    }
    *out = (struct rate_limit){in->requests, window_ms, limit_algorithm_SLIDING_WINDOW};
    return true;
}

static bool
read_create(struct http_request *request, const struct key_create *in, struct rate_limit *rate, struct auth_create *out)
{
    size_t i;

    *out = (struct auth_create){.name = in->name, .scopes = in->scopes, .teams = in->teams};
    for (i = 0; i < in->scopes.count; i++)
        if (!muster_scope_known(in->scopes.items[i])) {
            fail_field(request, "scopes", "must be known scopes, see muster describe scopes");
            return false;
        }
    if (in->expiresAt && (http_time_parse(bare(request, in->expiresAt), &out->expires_ms) || out->expires_ms <= 0)) {
        fail_field(request, "expiresAt", "must be unix milliseconds or an ISO 8601 time");
        return false;
    }
    if (in->expiresAt && out->expires_ms <= muster_clock_ms()) {
        fail_field(request, "expiresAt", "must be in the future");
        return false;
    }
    if (in->rateLimit == NULL)
        return true;
    out->rate_limit = rate;
    return read_rate(request, in->rateLimit, rate);
}

static void
handle_key_create(struct http_request *request)
{
    const struct key_create *in = http_body(request);
    struct rate_limit rate;
    struct auth_create create;
    struct auth_created created;
    struct key_created answer;
    muster_err err;

    if (!read_create(request, in, &rate, &create))
        return;
    err = http_ask(request, MUSTER_AUTH, &auth_create_type, &create, &auth_created_type, &created, HTTP_HOP_MS);
    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    answer = (struct key_created){created.id, created.name, created.key, in->scopes};
    http_answer_type(request, 201, &key_created_type, &answer);
}

static void
show_key(struct muster_arena *arena, const struct key *key, struct key_shown *out)
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
                              .configured = key->configured};
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
        show_key(http_arena(request), muster_keys_at(keys, i), &items[i]);
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

    if (strlen(revoke.key) > 64) {
        http_fail(request, MUSTER_NOT_FOUND, "There is no such key");
        return;
    }
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
    {"DELETE", "/api/v1/keys/{key}", "admin:*", 1, NULL, 0, handle_key_revoke, "Revoke a key by its id or name."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};

static const struct muster_type *const requests[] = {&key_create_type, NULL};
static const struct muster_type *const answers[] = {&health_type,      &key_created_type, &key_list_type,
                                                    &key_revoked_type, &plain_error_type, NULL};
static const struct http_bodies bodies[] = {{"requests", requests}, {"answers", answers}, {NULL, NULL}};

const struct http_dialect http_common = {"common", routes, render_error, bodies};
