/* SPDX-License-Identifier: MPL-2.0 */
/* The handshake of a WebSocket (RFC 6455, section 4.2): what the client must have sent, and what it is answered.  The
 * connection's thread.  civetweb's own WebSockets are never reached. */
#include <openssl/sha.h>
#include <string.h>
#include <strings.h>

#include "api/http/gateway.h"

#define PROTOCOL "muster" /* the one subprotocol; others beside it may be credentials and are never said again */

enum { KEY_BYTES = 16 };

/* Does the list, in any of the headers of that name, have this item? */
static bool
has_item(const struct http_request *request, const char *name, const char *item, bool any_case)
{
    const struct mg_request_info *info = request->info;
    const char *at;
    size_t size;
    int i;

    for (i = 0; i < info->num_headers; i++) {
        if (strcasecmp(info->http_headers[i].name, name) != 0)
            continue;
        for (at = info->http_headers[i].value; *at; at += strcspn(at, ",")) {
            at += strspn(at, ", \t");
            size = strcspn(at, ", \t");
            if (size == strlen(item) && (any_case ? strncasecmp : strncmp)(at, item, size) == 0)
                return true;
        }
    }
    return false;
}

static size_t
count(const struct http_request *request, const char *name)
{
    size_t found = 0;
    int i;

    for (i = 0; i < request->info->num_headers; i++)
        found += strcasecmp(request->info->http_headers[i].name, name) == 0;
    return found;
}

static bool
is_key(const char *text)
{
    uint8_t bytes[KEY_BYTES];
    size_t size;

    return text && strlen(text) == 24 && muster_unbase64(text, bytes, sizeof bytes, &size) == MUSTER_OK &&
           size == KEY_BYTES;
}

/* What tells the client that it was a WebSocket server that answered. */
static const char *
accept_text(struct http_request *request, const char *key)
{
    struct muster_arena *arena = http_arena(request);
    const char *text = muster_arena_printf(arena, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    unsigned char digest[SHA_DIGEST_LENGTH];
    char *out = muster_arena_alloc(arena, muster_base64_size(sizeof digest));

    (void)SHA1((const unsigned char *)text, strlen(text), digest);
    muster_base64(digest, sizeof digest, out);
    return out;
}

static bool
upgrade_required(struct http_request *request, const char *message)
{
    http_add_header(request, "Connection", "Upgrade");
    http_add_header(request, "Upgrade", "websocket");
    http_add_header(request, "Sec-WebSocket-Version", "13");
    http_fail_status(request, 426, MUSTER_INVALID_REQUEST, message);
    return false;
}

bool
http_upgrade_check(struct http_request *request)
{
    const char *key = http_header(request, "Sec-WebSocket-Key");
    const char *length = http_header(request, "Content-Length");

    if (!has_item(request, "Upgrade", "websocket", true) || !has_item(request, "Connection", "Upgrade", true))
        return upgrade_required(request, "This is a WebSocket: send an upgrade");
    if (strcmp(request->info->http_version, "1.0") == 0)
        return upgrade_required(request, "A WebSocket needs HTTP/1.1");
    if (count(request, "Sec-WebSocket-Version") != 1 ||
        strcmp(http_header(request, "Sec-WebSocket-Version"), "13") != 0)
        return upgrade_required(request, "Only version 13 of WebSockets is spoken here");
    if (count(request, "Sec-WebSocket-Key") != 1 || !is_key(key)) {
        http_fail(request, MUSTER_INVALID_REQUEST, "Sec-WebSocket-Key must be the base64 of 16 bytes");
        return false;
    }
    if (http_header(request, "Transfer-Encoding") || (length && strspn(length, "0") != strlen(length))) {
        http_fail(request, MUSTER_INVALID_REQUEST, "An upgrade has no body");
        return false;
    }
    if (http_fd_has_more(request)) {
        request->unread = -1; /* nobody can say what it is */
        http_fail(request, MUSTER_INVALID_REQUEST, "Nothing may come beside the head of an upgrade before its answer");
        return false;
    }
    http_add_header(request, "Upgrade", "websocket");
    http_add_header(request, "Sec-WebSocket-Accept", accept_text(request, key));
    if (has_item(request, "Sec-WebSocket-Protocol", PROTOCOL, false))
        http_add_header(request, "Sec-WebSocket-Protocol", PROTOCOL);
    return true;
}
