/* SPDX-License-Identifier: MPL-2.0 */
/* From a request line to a row of the table: paths are compared piece by piece, literal pieces win over {names}, so
 * "/messages/history" is not the message "history".  The connection's thread; the table never changes. */
#include <stdlib.h>
#include <string.h>

#include "api/http/gateway.h"
#include "schemas/muster_describe.h"

enum { QUERY_FIELDS = 32 };

/* ---- decoding ---- */

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool
is_clean(const char *text, size_t size)
{
    struct muster_buf cleaned = {0};
    bool same;
    size_t i;

    for (i = 0; i < size && (unsigned char)text[i] < 128 && text[i] != '\0'; i++)
        ;
    if (i == size)
        return true;
    muster_utf8_clean(&cleaned, text, size);
    same = cleaned.size == size && memcmp(cleaned.data, text, size) == 0;
    muster_buf_free(&cleaned);
    return same;
}

/* NULL: not percent-encoded UTF-8 without NUL. */
static const char *
decode(struct muster_arena *arena, const char *text, size_t size, bool plus_is_space)
{
    char *out = muster_arena_str(arena, text, size);
    size_t i, used = 0;
    int high, low;

    for (i = 0; i < size; i++) {
        if (text[i] == '%') {
            if (i + 2 >= size || (high = hex_digit(text[i + 1])) < 0 || (low = hex_digit(text[i + 2])) < 0)
                return NULL;
            out[used++] = (char)(high * 16 + low);
            i += 2;
        } else {
            out[used++] = text[i] == '+' && plus_is_space ? ' ' : text[i];
        }
    }
    out[used] = '\0';
    return memchr(out, '\0', used) == NULL && is_clean(out, used) ? out : NULL;
}

/* ---- the query ---- */

static bool
query_failed(struct http_request *request, const char *message)
{
    http_fail(request, MUSTER_INVALID_REQUEST, "%s", message);
    return false;
}

static bool
add_query(struct http_request *request, const char *at, size_t size)
{
    struct muster_arena *arena = request->thread->arena;
    const char *equals = memchr(at, '=', size);
    size_t name_size = equals ? (size_t)(equals - at) : size;
    const char *name = decode(arena, at, name_size, true);
    const char *value = equals ? decode(arena, equals + 1, size - name_size - 1, true) : "";

    if (name == NULL || value == NULL)
        return false;
    request->queries[request->query_count++] = (struct http_field){name, value};
    return true;
}

bool
http_query_parse(struct http_request *request)
{
    const char *at = request->info->query_string, *end;

    if (at == NULL || *at == '\0')
        return true;
    request->queries = muster_arena_alloc(request->thread->arena, QUERY_FIELDS * sizeof *request->queries);
    for (; *at; at = *end ? end + 1 : end) {
        end = at + strcspn(at, "&");
        if (end == at)
            continue;
        if (request->query_count == QUERY_FIELDS)
            return query_failed(request, "The query has more than 32 fields");
        if (!add_query(request, at, (size_t)(end - at)))
            return query_failed(request, "The query is not percent-encoded UTF-8");
    }
    return true;
}

/* ---- the path ---- */

struct match {
    const char *begins[HTTP_PARAMS]; /* of the values, in the path as sent */
    size_t sizes[HTTP_PARAMS];
    const char *names[HTTP_PARAMS];
    size_t name_sizes[HTTP_PARAMS];
    size_t count;
    unsigned literal; /* one bit a piece, the first piece highest: more is better */
};

static size_t
count_pieces(const char *path)
{
    size_t count = 0;

    for (; *path; path++)
        count += *path == '/';
    return count;
}

static bool
ends_piece(char byte)
{
    return byte == '/' || byte == '\0';
}

static void
take_piece(struct match *match, const char **pattern, const char **path)
{
    const char *name = *pattern + 1, *begin = *path;

    *pattern = strchrnul(name, '/');
    *path = strchrnul(begin, '/');
    match->names[match->count] = name;
    match->name_sizes[match->count] = (size_t)(*pattern - name) - 1;
    match->begins[match->count] = begin;
    match->sizes[match->count++] = (size_t)(*path - begin);
}

static bool
fits(const char *pattern, const char *path, struct match *match)
{
    unsigned bit;

    match->count = 0;
    match->literal = 0;
    for (bit = 1u << 15; *pattern == '/' && *path == '/'; bit >>= 1) {
        pattern++;
        path++;
        if (*pattern == '{' && !ends_piece(*path) && match->count < HTTP_PARAMS) {
            take_piece(match, &pattern, &path);
            continue;
        }
        for (; *pattern == *path && !ends_piece(*pattern); pattern++, path++)
            ;
        if (!ends_piece(*pattern) || !ends_piece(*path))
            return false;
        match->literal |= bit;
    }
    return *pattern == '\0' && *path == '\0';
}

/* The last piece tells most routes apart: both have the same number of them. */
static bool
ends_alike(const struct http_entry *entry, const char *last)
{
    return entry->last[1] == '{' || strcmp(entry->last, last) == 0;
}

static bool
serves(const struct http_request *request, const struct http_route *route)
{
    if (strcmp(request->method, route->method) == 0)
        return true;
    return request->head_only && strcmp(route->method, "GET") == 0 && (route->flags & (HTTP_STREAM | HTTP_SOCKET)) == 0;
}

static void
allow(struct http_request *request, const char *method)
{
    struct muster_arena *arena = request->thread->arena;

    if (request->allow == NULL)
        request->allow = method;
    else if (strstr(request->allow, method) == NULL)
        request->allow = muster_arena_printf(arena, "%s, %s", request->allow, method);
}

static bool
take_params(struct http_request *request, const struct match *match)
{
    struct muster_arena *arena = request->thread->arena;
    size_t i;

    for (i = 0; i < match->count; i++) {
        const char *value = decode(arena, match->begins[i], match->sizes[i], false);

        if (value == NULL) {
            http_fail(request, MUSTER_INVALID_REQUEST, "The path is not percent-encoded UTF-8");
            return false;
        }
        request->params[i].name = muster_arena_str(arena, match->names[i], match->name_sizes[i]);
        request->params[i].value = value;
    }
    request->param_count = match->count;
    return true;
}

/* No route serves the request; which methods would be served at its path? */
static bool
not_found(struct http_request *request)
{
    struct http_server *server = request->server;
    struct match match;
    size_t i;

    for (i = 0; i < server->route_count; i++) {
        const struct http_entry *entry = &server->entries[i];

        if (fits(entry->route->path, request->path, &match)) {
            request->dialect = entry->dialect;
            allow(request, entry->route->method);
        }
    }
    if (request->allow)
        http_fail(request, MUSTER_METHOD_NOT_ALLOWED, "%.32s is not allowed here, only %s", request->method,
                  request->allow);
    else
        http_fail(request, MUSTER_NOT_FOUND, "There is nothing at this path");
    return false;
}

bool
http_route_find(struct http_request *request)
{
    struct http_server *server = request->server;
    struct http_entry *best = NULL;
    struct match match, best_match = {.count = 0};
    size_t pieces = count_pieces(request->path), i;
    const char *last = strrchr(request->path, '/');

    for (i = 0; i < server->route_count; i++) {
        struct http_entry *entry = &server->entries[i];

        if (entry->pieces != pieces || !ends_alike(entry, last) || !serves(request, entry->route) ||
            !fits(entry->route->path, request->path, &match))
            continue;
        if (best == NULL || match.literal > best_match.literal) {
            best = entry;
            best_match = match;
        }
    }
    if (best == NULL)
        return not_found(request);
    request->entry = best;
    request->dialect = best->dialect;
    return take_params(request, &best_match);
}

/* ---- the table ---- */

/* Methods that are counted by name when they meet no route; the last one stands for all others. */
static const char *const methods[] = {"GET",    "HEAD",    "POST",  "PUT",     "PATCH",
                                      "DELETE", "OPTIONS", "TRACE", "CONNECT", "other"};
enum { METHODS = sizeof methods / sizeof *methods };

struct http_entry *
http_entry_unmatched(struct http_server *server, const char *method)
{
    size_t i;

    for (i = 0; i + 1 < METHODS && strcmp(methods[i], method) != 0; i++)
        ;
    return &server->entries[server->route_count + i];
}

static size_t
add_routes(struct http_entry *entries, const struct http_dialect *dialect)
{
    const struct http_route *route;
    size_t count = 0;

    for (route = dialect->routes; route->method; route++, count++)
        if (entries) {
            entries[count].route = route;
            entries[count].method = route->method;
            entries[count].pieces = count_pieces(route->path);
            entries[count].last = strrchr(route->path, '/');
            entries[count].dialect = dialect;
        }
    return count;
}

void
http_routes_build(struct http_server *server)
{
    const struct http_dialect *const *dialect;
    size_t count = add_routes(NULL, &http_common), i;

    for (dialect = server->dialects; *dialect; dialect++)
        count += add_routes(NULL, *dialect);
    server->route_count = count;
    server->entry_count = count + METHODS;
    server->entries = muster_alloc(server->entry_count * sizeof *server->entries);
    count = add_routes(server->entries, &http_common);
    for (dialect = server->dialects; *dialect; dialect++)
        count += add_routes(server->entries + count, *dialect);
    for (i = 0; i < METHODS; i++, count++) {
        server->entries[count].method = methods[i];
        server->entries[count].dialect = server->dialects[0] ? server->dialects[0] : &http_common;
    }
}

/* ---- the manual ---- */

static const char bodies_text[] =
    "Bodies are JSON objects.  Times are unix milliseconds, durations milliseconds.  In requests a field that is not\n"
    "required may be left out, and fields that are not listed are ignored; in answers it is left out when it is 0,\n"
    "false or empty.  An event of a stream is one line `event: NAME` and one line `data: ` with the object.\n\n";

static void
describe(struct muster_buf *out, const struct http_dialect *dialect)
{
    const struct http_route *route;

    muster_buf_printf(out, "%s\n", dialect->name);
    for (route = dialect->routes; route->method; route++) {
        muster_buf_printf(out, "  %-6s %s\n         %s\n", route->method, route->path, route->doc);
        muster_buf_printf(out, "         scopes: %s; counts for: %lld; body: %s%s%s\n",
                          route->flags & HTTP_OPEN ? "none, open to all" : route->scopes,
                          (long long)(route->flags & HTTP_OPEN ? 0 : route->cost),
                          route->body ? route->body->wire : "none",
                          route->flags & HTTP_STREAM ? "; event stream, ?api_key= is accepted" : "",
                          route->flags & HTTP_SOCKET
                              ? "; WebSocket, ?api_key=, a subprotocol muster.key.KEY or a first message is accepted"
                              : "");
    }
}

void
http_describe_routes(struct muster_buf *out)
{
    const struct http_dialect *const *dialect;

    describe(out, &http_common);
    for (dialect = http_dialects; *dialect; dialect++)
        describe(out, *dialect);
}

static void
describe_bodies(struct muster_buf *out, const struct http_dialect *dialect)
{
    const struct http_bodies *group;
    size_t i;

    for (group = dialect->bodies; group && group->title; group++) {
        muster_buf_printf(out, "---- %s: %s ----\n\n", dialect->name, group->title);
        for (i = 0; group->types[i]; i++)
            muster_describe_type(group->types[i], out);
    }
}

void
http_describe_bodies(struct muster_buf *out)
{
    const struct http_dialect *const *dialect;

    muster_buf_str(out, bodies_text);
    describe_bodies(out, &http_common);
    for (dialect = http_dialects; *dialect; dialect++)
        describe_bodies(out, *dialect);
}
