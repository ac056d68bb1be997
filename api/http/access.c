/* SPDX-License-Identifier: MPL-2.0 */
/* Who calls and what they may do: credential, scopes, team.  Reads the snapshot of keys that auth published, on the
 * connection's thread; the key is copied, so that the snapshot is not held across a wait. */
#include <string.h>
#include <strings.h>

#include "api/http/gateway.h"
#include "schemas/muster_options.h"

/* ---- the credential ---- */

static const char *
credential(struct http_request *request)
{
    const char *header = http_header(request, "Authorization");

    if (header && strncasecmp(header, "Bearer ", 7) == 0) {
        header += 7;
        return header + strspn(header, " ");
    }
    header = http_header(request, "X-Api-Key");
    if (header)
        return header;
    if (request->entry->route->flags & HTTP_STREAM)
        return http_query(request, "api_key");
    return NULL;
}

static struct muster_strs
copy_strs(struct muster_arena *arena, const struct muster_strs *strs)
{
    const char **items = muster_arena_alloc(arena, (strs->count + 1) * sizeof *items);
    size_t i;

    for (i = 0; i < strs->count; i++)
        items[i] = muster_arena_str(arena, strs->items[i], strlen(strs->items[i]));
    return (struct muster_strs){items, strs->count};
}

static void
take_key(struct http_request *request, const struct key *key)
{
    struct muster_arena *arena = request->thread->arena;
    const struct rate_options *rate = request->server->house.options->auth->rate_limit;

    request->has_key = true;
    request->key.id = key->id;
    request->key.name = muster_arena_str(arena, key->name, strlen(key->name));
    request->key.scopes = copy_strs(arena, &key->scopes);
    request->key.teams = copy_strs(arena, &key->teams);
    request->key.created_ms = key->created_ms;
    request->key.expires_ms = key->expires_ms;
    request->key.configured = key->configured;
    if (key->rate_limit)
        request->limit = *key->rate_limit;
    else
        request->limit = (struct rate_limit){rate->requests, rate->window, rate->algorithm};
    if (request->limit.algorithm == limit_algorithm_NONE)
        request->limit.algorithm = limit_algorithm_SLIDING_WINDOW;
}

static bool
unauthorized(struct http_request *request, const char *reason)
{
    http_fail(request, MUSTER_UNAUTHORIZED, "%s", reason);
    return false;
}

static bool
authenticate(struct http_request *request)
{
    const char *secret = credential(request), *reason = "Invalid API key";
    struct muster_notice *notice;
    const struct key *key = NULL;
    muster_err err = MUSTER_UNAUTHORIZED;

    if ((secret == NULL || *secret == '\0') && http_query(request, "api_key") &&
        (request->entry->route->flags & HTTP_STREAM) == 0)
        return unauthorized(request, "?api_key= is taken on stream routes only; send the key in the Authorization "
                                     "header");
    if (secret == NULL || *secret == '\0')
        return unauthorized(request, "Missing or invalid Authorization header");
    notice = muster_board_take(request->server->house.bus, MUSTER_KEYS_BOARD);
    if (notice)
        err = muster_keys_check(muster_notice_object(notice), secret, muster_clock_ms(), &key, &reason);
    if (err == MUSTER_OK)
        take_key(request, key);
    muster_notice_release(&notice);
    return err == MUSTER_OK || unauthorized(request, reason);
}

/* ---- what the credential allows ---- */

static void
quote_item(struct muster_buf *out, const char *text, size_t size)
{
    if (out->data[out->size - 1] != '[')
        muster_buf_str(out, ",");
    muster_json_quote(out, text, size);
}

/* `missing`: scopes separated by ", ". */
static bool
forbidden(struct http_request *request, const char *missing)
{
    const struct muster_strs *held = &request->key.scopes;
    struct muster_buf details = {0};
    const char *word, *end;
    size_t i;

    muster_buf_str(&details, "{\"required\":[");
    for (word = request->entry->route->scopes; *word; word = *end ? end + 1 : end) {
        end = word + strcspn(word, " ");
        quote_item(&details, word, (size_t)(end - word));
    }
    muster_buf_str(&details, "],\"provided\":[");
    for (i = 0; i < held->count; i++)
        quote_item(&details, held->items[i], strlen(held->items[i]));
    muster_buf_str(&details, "]}");
    http_fail_details(request, MUSTER_FORBIDDEN, details.data, "%s: the key lacks %s",
                      muster_err_text(MUSTER_FORBIDDEN), missing);
    muster_buf_free(&details);
    return false;
}

static bool
has_scopes(struct http_request *request)
{
    struct muster_arena *arena = request->thread->arena;
    const char *word, *end, *scope, *missing = NULL;

    for (word = request->entry->route->scopes; word && *word; word = *end ? end + 1 : end) {
        end = word + strcspn(word, " ");
        scope = muster_arena_str(arena, word, (size_t)(end - word));
        if (!muster_scope_grants(&request->key.scopes, scope))
            missing = missing ? muster_arena_printf(arena, "%s, %s", missing, scope) : scope;
    }
    return missing == NULL || forbidden(request, missing);
}

/* Names the teams there are, as far as this key may see them. */
static bool
no_such_team(struct http_request *request, const char *team)
{
    const struct options *options = request->server->house.options;
    struct muster_buf known = {0};
    size_t i;

    if (muster_scope_grants(&request->key.scopes, "teams:read"))
        for (i = 0; i < options->teams.count; i++)
            if (http_may_use(request, options->teams.items[i].name))
                muster_buf_printf(&known, "%s%s", known.size ? ", " : "; known teams: ", options->teams.items[i].name);
    http_fail(request, MUSTER_TEAM_NOT_FOUND, "Team '%.64s' does not exist%s", team, known.size ? known.data : "");
    muster_buf_free(&known);
    return false;
}

static bool
has_team(struct http_request *request)
{
    const char *team = http_param(request, "team");

    if (!http_may_use(request, team)) {
        http_fail(request, MUSTER_FORBIDDEN, "This key may not use team '%.64s'", team);
        return false;
    }
    return muster_team_options(request->server->house.options, team) != NULL || no_such_team(request, team);
}

bool
http_access(struct http_request *request)
{
    unsigned flags = request->entry->route->flags;

    if (flags & HTTP_OPEN)
        return true;
    return authenticate(request) && has_scopes(request) && ((flags & HTTP_TEAM) == 0 || has_team(request));
}
