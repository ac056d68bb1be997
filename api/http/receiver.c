/* SPDX-License-Identifier: MPL-2.0 */
/* Who may be sent to: URLs and headers of callbacks and webhooks, checked before they are taken.  The connection's
 * thread.  What is refused is answered with 400 that names the field.  The address behind a name is checked when it is
 * connected to, not here. */
#include <string.h>
#include <strings.h>

#include "api/http/gateway.h"

#define NAME_MAX_BYTES 128
#define VALUE_MAX_BYTES 4096

static bool
is_url(const char *url)
{
    const char *host = strncasecmp(url, "http://", 7) == 0    ? url + 7
                       : strncasecmp(url, "https://", 8) == 0 ? url + 8
                                                              : NULL;
    const unsigned char *at;

    if (host == NULL || *host == '\0' || strchr("/:?#@", *host))
        return false;
    for (at = (const unsigned char *)url; *at; at++)
        if (*at <= ' ' || *at == 127)
            return false;
    return true;
}

static bool
is_header_name(const char *text)
{
    static const char token[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~";
    static const char *const ours[] = {
        "Host",       "Content-Length",    "Transfer-Encoding", "Connection", "Expect",
        "TE",         "Trailer",           "Upgrade",           "Keep-Alive", "Proxy-Connection",
        "webhook-id", "webhook-timestamp", "webhook-signature"};
    size_t size = strlen(text), i;

    for (i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcasecmp(text, ours[i]) == 0)
            return false;
    return size >= 1 && size <= NAME_MAX_BYTES && strspn(text, token) == size;
}

static bool
is_header_value(const char *text)
{
    const unsigned char *at;

    for (at = (const unsigned char *)text; *at; at++)
        if ((*at < ' ' && *at != '\t') || *at == 127)
            return false;
    return strlen(text) <= VALUE_MAX_BYTES;
}

static bool
refuse(struct http_request *request, const char *field, const char *member, const char *expected)
{
    const char *name = *field ? muster_arena_printf(http_arena(request), "%s.%s", field, member) : member;

    http_fail_field(request, name, expected);
    return false;
}

bool
http_check_receiver(struct http_request *request, const char *field, const char *url,
                    const struct muster_pairs *headers)
{
    size_t i;

    if (!is_url(url))
        return refuse(request, field, "url", "must be an http or https URL");
    if (!http_may_call_back(request, url))
        return refuse(request, field, "url",
                      "must not be a loopback, private or link-local address unless webhooks.allow_private is set");
    for (i = 0; i < headers->count; i++)
        if (!is_header_name(headers->items[i].name) || !is_header_value(headers->items[i].value))
            return refuse(request, field, "headers",
                          "must be names and values of headers, without those that belong to the connection or to "
                          "webhooks");
    return true;
}
