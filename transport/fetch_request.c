/* SPDX-License-Identifier: MPL-2.0 */
/* fetch_request: turns what a caller wants sent into a libcurl handle, and keeps it away from private addresses.
 *
 * One thread at a time a request.  Fails when a URL, method or header cannot be sent. */
#include "transport/fetch.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void
set_up_curl(void)
{
    MUSTER_ASSERT(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

/* ---- addresses --------------------------------------------------------------------------------------------------- */

struct network {
    uint32_t address; /* host order */
    int bits;
};

static bool
v4_is_special(uint32_t address)
{
    static const struct network networks[] = {
        {0x00000000, 8},  /* this network */
        {0x0a000000, 8},  /* private */
        {0x64400000, 10}, /* carrier's */
        {0x7f000000, 8},  /* loopback */
        {0xa9fe0000, 16}, /* link-local, cloud metadata */
        {0xac100000, 12}, /* private */
        {0xc0000000, 24}, /* protocol assignments */
        {0xc0a80000, 16}, /* private */
        {0xc6120000, 15}, /* benchmarks */
        {0xe0000000, 4},  /* multicast */
        {0xf0000000, 4},  /* reserved, broadcast */
    };

    for (size_t i = 0; i < sizeof networks / sizeof networks[0]; i++) {
        if ((address ^ networks[i].address) >> (32 - networks[i].bits) == 0)
            return true;
    }
    return false;
}

static uint32_t
v4_at(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static bool
v6_is_special(const uint8_t *bytes)
{
    static const uint8_t zero[15];
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};                /* ::ffff:0:0/96 */
    static const uint8_t translated[12] = {0x00, 0x64, 0xff, 0x9b, [11] = 0x00}; /* 64:ff9b::/96 */

    if (memcmp(bytes, mapped, 12) == 0 || memcmp(bytes, translated, 12) == 0)
        return v4_is_special(v4_at(bytes + 12));
    if (memcmp(bytes, zero, 12) == 0) /* ::, ::1 and the old notation of IPv4 */
        return true;
    if (bytes[0] == 0x20 && bytes[1] == 0x02) /* 6to4 */
        return v4_is_special(v4_at(bytes + 2));
    return (bytes[0] & 0xfe) == 0xfc                          /* fc00::/7, unique local */
           || (bytes[0] == 0xfe && (bytes[1] & 0x80) == 0x80) /* fe80::/10 link-local, fec0::/10 site-local */
           || bytes[0] == 0xff;                               /* multicast */
}

bool
address_is_special(const char *text)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (inet_pton(AF_INET, text, &v4) == 1)
        return v4_is_special(ntohl(v4.s_addr));
    if (inet_pton(AF_INET6, text, &v6) == 1)
        return v6_is_special(v6.s6_addr);
    return true;
}

/* "localhost" and names below it, with or without the dot at the end, are never asked of a name server. */
static bool
is_localhost(const char *host)
{
    static const char name[] = "localhost";
    size_t size = strlen(host), length = sizeof name - 1;

    if (size > 0 && host[size - 1] == '.')
        size--;
    if (size < length || strncasecmp(host + size - length, name, length) != 0)
        return false;
    return size == length || host[size - length - 1] == '.';
}

/* `host` as libcurl writes it: IPv4 with four numbers, IPv6 in brackets and perhaps with a zone. */
static bool
is_private_host(char *host)
{
    struct in6_addr v6;
    struct in_addr v4;

    if (host[0] == '[') {
        host++;
        host[strcspn(host, "]%")] = '\0';
    }
    if (inet_pton(AF_INET, host, &v4) == 1 || inet_pton(AF_INET6, host, &v6) == 1)
        return address_is_special(host);
    return is_localhost(host);
}

bool
muster_fetch_is_private_literal(const char *url)
{
    CURLU *parts = curl_url();
    char *host = NULL;
    bool private = false;

    MUSTER_ASSERT(parts); /* only memory can be missing */
    if (curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(parts, CURLUPART_HOST, &host, CURLU_URLDECODE) == CURLUE_OK)
    private = is_private_host(host);
    curl_free(host);
    curl_url_cleanup(parts);
    return private;
}

static void
refuse_address(struct request *request, const char *text)
{
    snprintf(request->refused, sizeof request->refused,
             "The address %s is private, and requests to private addresses are not allowed", text);
}

/* libcurl asks for a socket for each address it is about to try, after the name was resolved. */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct request *request = arg;
    const struct sockaddr *plain = &address->addr;
    char text[INET6_ADDRSTRLEN] = "?";

    (void)purpose;
    if (plain->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)plain)->sin_addr, text, sizeof text);
    else if (plain->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)plain)->sin6_addr, text, sizeof text);
    if (!request->allow_private && address_is_special(text)) {
        refuse_address(request, text);
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* A connection that is used again was perhaps opened for a request that may go anywhere. */
static int
check_reused(void *arg, char *remote, char *local, int remote_port, int local_port)
{
    struct request *request = arg;

    (void)local;
    (void)remote_port;
    (void)local_port;
    if (request->allow_private || !address_is_special(remote))
        return CURL_PREREQFUNC_OK;
    refuse_address(request, remote);
    return CURL_PREREQFUNC_ABORT;
}

/* ---- headers ----------------------------------------------------------------------------------------------------- */

static bool
is_token(const char *text)
{
    return text[0] &&
           text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~")] == '\0';
}

static bool
is_one_line(const char *text)
{
    return text[strcspn(text, "\r\n")] == '\0';
}

static void
add_header(struct request *request, const char *line)
{
    struct curl_slist *longer = curl_slist_append(request->headers, line);

    MUSTER_ASSERT(longer); /* only memory can be missing */
    request->headers = longer;
}

static bool
add_headers(struct request *request, const struct muster_fetch_spec *spec)
{
    struct muster_buf line = {0};
    bool good = true, typed = false;

    for (size_t i = 0; i < spec->header_count && good; i++) {
        const struct muster_pair *header = &spec->headers[i];

        good = is_token(header->name) && is_one_line(header->value);
        typed = typed || strcasecmp(header->name, "Content-Type") == 0;
        muster_buf_clear(&line);
        /* libcurl takes "Name:" for "leave it out" and "Name;" for an empty value. */
        if (header->value[strspn(header->value, " \t")] == '\0')
            muster_buf_printf(&line, "%s;", header->name);
        else
            muster_buf_printf(&line, "%s: %s", header->name, header->value);
        if (good)
            add_header(request, line.data);
    }
    muster_buf_free(&line);
    add_header(request, "Expect:"); /* else a long body waits a second for "100 Continue" */
    if (!typed)
        add_header(request, "Content-Type:"); /* else it is called a form */
    return good;
}

/* Seconds, or a date. */
static int64_t
parse_retry_after(const char *value)
{
    const int64_t longest_s = 366 * 86400; /* so that the caller can calculate with it */
    char *end;
    long long seconds;
    time_t date;

    if (isdigit((unsigned char)value[0])) {
        seconds = strtoll(value, &end, 10);
        if (end[strspn(end, " \t\r\n")] != '\0')
            return -1;
    } else {
        date = curl_getdate(value, NULL);
        if (date == -1)
            return -1;
        seconds = date - time(NULL);
    }
    if (seconds < 0)
        seconds = 0;
    return seconds < longest_s ? seconds : longest_s;
}

static size_t
on_header(char *data, size_t unit, size_t count, void *arg)
{
    static const char name[] = "retry-after:";
    struct request *request = arg;
    size_t size = unit * count, start = sizeof name - 1;
    char value[64];

    if (size > 5 && memcmp(data, "HTTP/", 5) == 0)
        request->retry_after_s = -1; /* another answer begins; the last one counts */
    if (size <= start || size - start >= sizeof value || strncasecmp(data, name, start) != 0)
        return size;
    while (start < size && (data[start] == ' ' || data[start] == '\t'))
        start++;
    memcpy(value, data + start, size - start);
    value[size - start] = '\0';
    request->retry_after_s = parse_retry_after(value);
    return size;
}

/* ---- request ----------------------------------------------------------------------------------------------------- */

/* Which method, with which body.  A method that has one gets an empty body when there is none. */
static void
set_body(struct request *request, const struct muster_fetch_spec *spec)
{
    CURL *easy = request->easy;
    bool none = !spec->body && (strcmp(spec->method, "GET") == 0 || strcmp(spec->method, "DELETE") == 0 ||
                                strcmp(spec->method, "OPTIONS") == 0);

    if (strcmp(spec->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
        return;
    }
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, spec->method);
    if (none)
        return;
    request->body = muster_alloc(spec->body_size + 1);
    if (spec->body_size > 0)
        memcpy(request->body, spec->body, spec->body_size);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)(spec->body ? spec->body_size : 0));
}

static void
set_rules(struct request *request)
{
    CURL *easy = request->easy;

    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* also none from the environment: it would connect for us */
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* do not wait for a name server when a request is dropped */
#endif
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, request);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, check_reused);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, request);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, request);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, request->problem);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "muster/" MUSTER_VERSION);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->headers);
}

void
request_init(struct request *request, const struct muster_fetch_spec *spec)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT; /* libcurl has settings of the whole process */

    *request = (struct request){.allow_private = spec->allow_private, .retry_after_s = -1};
    pthread_once(&once, set_up_curl);
    request->easy = curl_easy_init();
    MUSTER_ASSERT(request->easy); /* only memory can be missing */
    if (!is_token(spec->method))
        snprintf(request->refused, sizeof request->refused, "The method cannot be sent");
    if (!add_headers(request, spec))
        snprintf(request->refused, sizeof request->refused, "A header cannot be sent");
    set_rules(request);
    set_body(request, spec);
    curl_easy_setopt(request->easy, CURLOPT_URL, spec->url);
    if (spec->timeout_ms > 0)
        curl_easy_setopt(request->easy, CURLOPT_TIMEOUT_MS,
                         (long)(spec->timeout_ms < INT32_MAX ? spec->timeout_ms : INT32_MAX));
}

void
request_fini(struct request *request)
{
    curl_easy_cleanup(request->easy);
    curl_slist_free_all(request->headers);
    free(request->body);
}

const char *
request_problem(const struct request *request, CURLcode code)
{
    if (request->refused[0])
        return request->refused;
    return request->problem[0] ? request->problem : curl_easy_strerror(code);
}
