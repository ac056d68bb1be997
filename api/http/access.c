/* SPDX-License-Identifier: MPL-2.0 */
/* Who calls and what they may do: credential, scopes, team.  Reads the snapshot of keys that auth published, on the
 * connection's thread; the key is copied, so that the snapshot is not held across a wait. */
#include <string.h>
#include <strings.h>

#include "api/caller.h"
#include "api/http/gateway.h"
#include "api/http/jwt.h"
#include "schemas/muster_options.h"

#define PROTOCOL_KEY "muster.key." /* a WebSocket subprotocol of that beginning is a credential */

/* ---- the key behind a credential ---- */

static void
take_key(struct http_request *request, const struct key *key)
{
    caller_copy_key(request->thread->arena, key, &request->key);
    request->pass = (struct http_pass){.given = true, .expires_ms = key->expires_ms, .key = key->id};
    request->limit = caller_rate(request->server->house.options->auth, key);
}

/* `name`: of a user, who must be the key's; NULL or empty: it is not said. */
static muster_err
login_secret(struct http_request *request, const char *secret, const char *name, const char **out_reason)
{
    struct muster_notice *notice = muster_board_take(request->server->house.bus, MUSTER_KEYS_BOARD);
    const struct key *key = NULL;
    uint8_t digest[MUSTER_DIGEST];
    muster_err err = MUSTER_UNAUTHORIZED;

    *out_reason = "Invalid API key";
    muster_sha256_known(&request->thread->known, secret, strlen(secret), digest);
    if (notice)
        err = muster_keys_check_digest(muster_notice_object(notice), digest, muster_clock_ms(), &key, out_reason);
    if (err == MUSTER_OK && name && *name && strcmp(name, key->name) != 0) {
        *out_reason = "The user name must be the name of the key, or empty";
        err = MUSTER_UNAUTHORIZED;
    }
    if (err == MUSTER_OK) {
        take_key(request, key);
        memcpy(request->pass.credential, digest, sizeof digest);
    }
    muster_notice_release(&notice);
    return err;
}

static muster_err
login_token(struct http_request *request, const char *token, const char **out_reason)
{
    struct key key;
    muster_err err =
        http_jwt_check(request->server->jwt, token, muster_clock_ms(), request->thread->arena, &key, out_reason);

    if (err)
        return err;
    take_key(request, &key);
    request->pass.by_token = true;
    return MUSTER_OK;
}

/* ---- the kinds of credentials ---- */

static bool
takes(const struct http_request *request, const char *kind)
{
    const struct muster_strs *kinds = &request->server->house.options->auth->type;
    size_t i;

    for (i = 0; i < kinds->count; i++)
        if (strcmp(kinds->items[i], kind) == 0)
            return true;
    return false;
}

static bool
takes_tokens(const struct http_request *request)
{
    return request->server->jwt && takes(request, "jwt");
}

static muster_err
not_taken(struct http_request *request, const char *what, const char **out_reason)
{
    struct muster_buf kinds = {0};

    if (takes(request, "bearer"))
        muster_buf_str(&kinds, "a key as Bearer token");
    if (takes_tokens(request))
        muster_buf_printf(&kinds, "%sa JSON Web Token as Bearer token", kinds.size ? " or " : "");
    if (takes(request, "basic"))
        muster_buf_printf(&kinds, "%sa key as the password of Basic", kinds.size ? " or " : "");
    *out_reason = muster_arena_printf(request->thread->arena, "%s not taken here; send %s in the Authorization header",
                                      what, kinds.size ? kinds.data : "nothing");
    muster_buf_free(&kinds);
    return MUSTER_UNAUTHORIZED;
}

/* A key may look like a token when it was configured so; then it is a key. */
static muster_err
login_bearer(struct http_request *request, const char *text, const char **out_reason)
{
    bool takes_keys = takes(request, "bearer");
    muster_err err = takes_keys ? login_secret(request, text, NULL, out_reason) : MUSTER_UNAUTHORIZED;

    if (err == MUSTER_OK)
        return MUSTER_OK;
    if (!http_jwt_is_token(text))
        return takes_keys ? err : not_taken(request, "Bearer keys are", out_reason);
    return takes_tokens(request) ? login_token(request, text, out_reason)
                                 : not_taken(request, "JSON Web Tokens are", out_reason);
}

/* A browser adds Basic credentials that it remembers by itself, also for a page of somebody else. */
static bool
is_of_foreign_page(const struct http_request *request)
{
    const char *origin = http_header(request, "Origin"), *host = http_header(request, "Host");
    const char *name = origin ? strstr(origin, "://") : NULL;

    return origin && (name == NULL || host == NULL || strcasecmp(name + 3, host) != 0);
}

static muster_err
login_basic(struct http_request *request, const char *text, const char **out_reason)
{
    size_t room = strlen(text), size;
    char *pair, *colon;

    if (!takes(request, "basic"))
        return not_taken(request, "Basic credentials are", out_reason);
    if (is_of_foreign_page(request)) {
        *out_reason = "Basic credentials are not taken from a page of another origin; send the key as Bearer token";
        return MUSTER_UNAUTHORIZED;
    }
    pair = muster_arena_alloc(request->thread->arena, room + 1);
    colon = muster_unbase64(text, pair, room, &size) ? NULL : memchr(pair, ':', size);
    if (colon == NULL || memchr(pair, '\0', size)) {
        *out_reason = "Basic must be followed by the base64 of a user name, a colon and the key";
        return MUSTER_UNAUTHORIZED;
    }
    pair[size] = '\0';
    *colon = '\0';
    return login_secret(request, colon + 1, pair, out_reason);
}

/* What follows a scheme and spaces; NULL: it is another scheme. */
static const char *
behind(const char *text, const char *scheme)
{
    size_t size = strlen(scheme);

    if (strncasecmp(text, scheme, size) != 0 || (text[size] != ' ' && text[size] != '\0'))
        return NULL;
    return text + size + strspn(text + size, " ");
}

muster_err
http_login(struct http_request *request, const char *authorization, const char **out_reason)
{
    const char *basic = behind(authorization, "Basic"), *bearer = behind(authorization, "Bearer");

    if (basic)
        return login_basic(request, basic, out_reason);
    return login_bearer(request, bearer ? bearer : authorization, out_reason);
}

/* ---- where it stands ---- */

/* Of a list of subprotocols; NULL: there is none. */
static const char *
protocol_key(struct http_request *request, const char *protocols)
{
    const char *item, *end;

    for (item = protocols; item && *item; item = *end ? end + 1 : end) {
        item += strspn(item, " \t");
        end = item + strcspn(item, ",");
        if (strncmp(item, PROTOCOL_KEY, sizeof PROTOCOL_KEY - 1) == 0) {
            item += sizeof PROTOCOL_KEY - 1;
            return muster_arena_str(request->thread->arena, item, strcspn(item, ", \t"));
        }
    }
    return NULL;
}

/* A key or token that stands anywhere but in the Authorization header; NULL: there is none. */
static const char *
other_credential(struct http_request *request)
{
    unsigned flags = request->entry->route->flags;
    const char *text = http_header(request, "X-Api-Key");

    if (text == NULL && (flags & (HTTP_STREAM | HTTP_SOCKET)))
        text = http_query(request, "api_key");
    if (text == NULL && (flags & HTTP_SOCKET))
        text = protocol_key(request, http_header(request, "Sec-WebSocket-Protocol"));
    return text;
}

static bool
unauthorized(struct http_request *request, const char *reason)
{
    http_fail(request, MUSTER_UNAUTHORIZED, "%s", reason);
    return false;
}

static bool
no_credential(struct http_request *request)
{
    if (http_query(request, "api_key") && (request->entry->route->flags & (HTTP_STREAM | HTTP_SOCKET)) == 0)
        return unauthorized(request, "?api_key= is taken on stream routes only; send the key in the Authorization "
                                     "header");
    return unauthorized(request, "Missing or invalid Authorization header");
}

/* Bearer goes before the other places, and they before Basic, which may be meant for a proxy in front. */
static bool
authenticate(struct http_request *request, const char *header, const char *other)
{
    const char *bearer = header ? behind(header, "Bearer") : NULL, *basic = header ? behind(header, "Basic") : NULL;
    const char *reason = "";
    muster_err err;

    if (bearer && *bearer)
        err = login_bearer(request, bearer, &reason);
    else if (other && *other)
        err = login_bearer(request, other, &reason);
    else if (basic && *basic)
        err = login_basic(request, basic, &reason);
    else
        return no_credential(request);
    return err == MUSTER_OK || unauthorized(request, reason);
}

muster_err
http_auth_probe(const struct auth_options *options, char *problem, size_t size)
{
    struct http_jwt *jwt = NULL;
    muster_err err = http_jwt_open(options->jwt, &jwt, problem, size);

    http_jwt_close(&jwt);
    return err;
}

void
http_challenge(const struct http_request *request, struct muster_buf *out)
{
    if (takes(request, "bearer") || takes_tokens(request))
        muster_buf_str(out, "WWW-Authenticate: Bearer realm=\"muster\"\r\n");
    if (takes(request, "basic"))
        muster_buf_str(out, "WWW-Authenticate: Basic realm=\"muster\", charset=\"UTF-8\"\r\n");
}

bool
http_pass_is_good(const struct http_server *server, const struct http_pass *pass)
{
    int64_t now_ms = muster_clock_ms();
    struct muster_notice *notice;
    const struct key *key;
    const char *reason;
    bool good;

    if (!pass->given)
        return true;
    if (pass->by_token)
        return now_ms < pass->expires_ms;
    notice = muster_board_take(server->house.bus, MUSTER_KEYS_BOARD);
    if (notice == NULL)
        return true; /* being republished: the next time will tell */
    good =
        muster_keys_check_digest(muster_notice_object(notice), pass->credential, now_ms, &key, &reason) == MUSTER_OK &&
        muster_id_equal(&key->id, &pass->key);
    muster_notice_release(&notice);
    return good;
}

bool
http_key_is_good(const struct http_request *request)
{
    return http_pass_is_good(request->server, &request->pass);
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

bool
http_has_scopes(struct http_request *request, const char **out_missing)
{
    const char *missing = caller_lacks(request->thread->arena, &request->key, request->entry->route->scopes);

    if (missing)
        *out_missing = missing;
    return missing == NULL;
}

static bool
has_scopes(struct http_request *request)
{
    const char *missing;

    return http_has_scopes(request, &missing) || forbidden(request, missing);
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
    const char *header, *other;

    if (flags & HTTP_OPEN)
        return true;
    header = http_header(request, "Authorization");
    other = other_credential(request);
    if (header == NULL && other == NULL && (flags & HTTP_SOCKET))
        return true; /* it is to say who it is in its first message; what the route needs is checked then */
    return authenticate(request, header, other) && has_scopes(request) &&
           ((flags & HTTP_TEAM) == 0 || has_team(request));
}
