/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_request: a request as Standard Webhooks 1.0.0 has it: whose headers, and what signs it.  Keeps nothing and
 * cannot fail: a header of the owner's that must not be sent is left out. */
#include <string.h>
#include <strings.h>

#include "actors/webhook.h"

const char *
webhook_endpoint_name(struct muster_arena *arena, const char *url)
{
    const char *from = strstr(url, "://"), *at;
    char *name, *c;
    size_t size;

    from = from ? from + 3 : url;
    size = strcspn(from, "/?#");
    at = memrchr(from, '@', size);
    if (at) {
        size -= (size_t)(at + 1 - from);
        from = at + 1;
    }
    name = muster_arena_str(arena, from, size);
    for (c = name; *c; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c - 'A' + 'a');
    return name;
}

/* ---- the signature --------------------------------------------------------------------------------------------------
 */

static const char *
timestamp(struct muster_arena *arena, const struct webhook_letter *letter)
{
    return muster_arena_printf(arena, "%lld", (long long)(letter->now_ms / 1000));
}

static const char *
sign(struct muster_arena *arena, const struct muster_bytes *secret, const struct muster_buf *text)
{
    uint8_t digest[MUSTER_DIGEST];
    char *base64 = muster_arena_alloc(arena, muster_base64_size(sizeof digest));

    muster_hmac_sha256(secret->data, secret->size, text->data, text->size, digest);
    muster_base64(digest, sizeof digest, base64);
    return base64;
}

const char *
webhook_signature(struct muster_arena *arena, const struct webhook_letter *letter, const void *body, size_t size)
{
    const struct webhook_secrets *secrets = &letter->secrets;
    struct muster_buf text = {0};
    const char *signature;

    muster_buf_printf(&text, "%s.%s.", letter->id, timestamp(arena, letter));
    muster_buf_add(&text, body, size);
    signature = muster_arena_printf(arena, "v1,%s", sign(arena, &secrets->value, &text));
    if (secrets->old.size > 0 && letter->now_ms < secrets->old_until_ms)
        signature = muster_arena_printf(arena, "%s v1,%s", signature, sign(arena, &secrets->old, &text));
    muster_buf_free(&text);
    return signature;
}

/* ---- headers --------------------------------------------------------------------------------------------------------
 */

/* May the owner's header be sent?  Not what would break the request's frame, and not what is ours to say. */
static bool
is_sendable(const struct muster_pair *header)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection",
                                       "webhook-id",     "webhook-timestamp", "webhook-signature"};
    static const char name[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~";
    const char *c;
    size_t i;

    if (header->name[0] == '\0' || header->name[strspn(header->name, name)] != '\0')
        return false;
    for (c = header->value; *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
            return false;
    for (i = 0; i < sizeof ours / sizeof ours[0]; i++)
        if (strcasecmp(header->name, ours[i]) == 0)
            return false;
    return true;
}

/* The owner's headers, then ours; a Content-Type of the owner's replaces ours. */
static size_t
list_headers(struct muster_arena *arena, const struct webhook_letter *letter, const struct muster_buf *body,
             const struct muster_pair **out_headers)
{
    const struct muster_pairs *own = &letter->headers;
    struct muster_pair *headers = muster_arena_alloc(arena, (own->count + 4) * sizeof *headers);
    bool has_type = false;
    size_t i, count = 0;

    for (i = 0; i < own->count; i++)
        if (is_sendable(&own->items[i])) {
            headers[count++] = own->items[i];
            has_type = has_type || strcasecmp(own->items[i].name, "content-type") == 0;
        }
    if (!has_type)
        headers[count++] = (struct muster_pair){"Content-Type", "application/json"};
    headers[count++] = (struct muster_pair){"webhook-id", letter->id};
    headers[count++] = (struct muster_pair){"webhook-timestamp", timestamp(arena, letter)};
    headers[count++] =
        (struct muster_pair){"webhook-signature", webhook_signature(arena, letter, body->data, body->size)};
    *out_headers = headers;
    return count;
}

void
webhook_send(struct webhook_actor *self, const struct webhook_letter *letter, const struct muster_buf *body,
             void (*done)(void *arg, const struct muster_fetch_result *result), void *arg)
{
    struct muster_fetch_spec spec = {.method = letter->method && letter->method[0] ? letter->method : "POST",
                                     .url = letter->url,
                                     .body = body->data,
                                     .body_size = body->size,
                                     .timeout_ms = self->options->timeout,
                                     .allow_private = self->options->allow_private};

    spec.header_count = list_headers(self->arena, letter, body, &spec.headers);
    self->turns.open++;
    muster_ctx_fetch(self->ctx, &spec, done, arg);
}
