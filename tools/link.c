/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of link.h. */
#include "tools/link.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "transport/muster_fetch.h"

#define CONNECTION_MS 300000 /* then a new one: finds out about a server that vanished without a word */
#define FIRST_DELAY_MS 500   /* doubled for each further try */
#define MAX_DELAY_MS 15000
#define FAILURE_MAX 65536 /* bytes kept of an answer that is an error */

static bool
on_event(void *arg, const struct sse_event *event)
{
    struct link *link = arg;

    link->seen = true;
    return strcmp(event->type, "heartbeat") == 0 || link->handler(link->arg, event);
}

static void
tell_back(struct link *link)
{
    if (link->lost && !link->tries_max && isatty(STDERR_FILENO))
        term_note(link->term, "muster: connected again");
    link->lost = false;
}

static bool
on_bytes(void *arg, long status, const char *bytes, size_t size)
{
    struct link *link = arg;
    muster_err err;

    link->status = status;
    if (status != 200) {
        if (link->failure.size < FAILURE_MAX)
            muster_buf_add(&link->failure, bytes, size);
        return true;
    }
    tell_back(link);
    err = sse_feed(&link->sse, bytes, size, on_event, link);
    if (link->read)
        link->read(link->arg);
    return err == MUSTER_OK;
}

void
link_open(struct link *link, const char *method, const char *path, const char *body)
{
    struct muster_pair headers[CLIENT_HEADERS_MAX + 1];
    size_t count = client_headers(link->client, body != NULL, "text/event-stream", headers);
    /* A copy: the events of this connection move the cursor. */
    const char *cursor = muster_arena_printf(link->client->arena, "%s", link_cursor(link));
    struct muster_fetch_spec spec = {
        .method = method,
        .url = muster_arena_printf(link->client->arena, "%s%s", link->client->url, path),
        .headers = headers,
        .body = body,
        .body_size = body ? strlen(body) : 0,
        .timeout_ms = CONNECTION_MS,
        .max_answer = FAILURE_MAX,
        .allow_private = true,
    };
    long status = 0;
    muster_err err;

    if (*cursor)
        headers[count++] = (struct muster_pair){"Last-Event-ID", cursor};
    spec.header_count = count;
    link->seen = false;
    link->status = 0;
    muster_buf_clear(&link->failure);
    sse_reset(&link->sse);
    err = muster_fetch_now(&spec, on_bytes, link, &status, NULL, link->problem, sizeof link->problem);
    if (!err)
        link->status = status; /* an answer without a body never came to on_bytes */
    link->broke = err != MUSTER_TIMEOUT;
}

bool
link_worth_a_try(long status)
{
    return status == 0 || status == 200 || status == 429 || status >= 500;
}

void
link_pause(int64_t ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    nanosleep(&pause, NULL);
}

/* Who tries as long as it takes says so once, and where somebody looks. */
static void
tell_lost(struct link *link, int64_t delay_ms)
{
    char span[32];

    term_span(span, sizeof span, delay_ms);
    if (link->tries_max)
        term_note(link->term, "muster: the connection broke: trying again in %s (%d of %d)", span, link->tries + 1,
                  link->tries_max);
    else if (!link->lost && isatty(STDERR_FILENO))
        term_note(link->term, "muster: the connection broke: trying again until the server is back");
    link->lost = true;
}

bool
link_again(struct link *link)
{
    int64_t delay_ms = FIRST_DELAY_MS;
    int i;

    if (!link_worth_a_try(link->status))
        return false;
    if (link->seen || !link->broke)
        link->tries = 0;
    if (!link->broke)
        return true;
    if (link->tries_max && link->tries == link->tries_max)
        return false;
    for (i = 0; i < link->tries && delay_ms < MAX_DELAY_MS; i++)
        delay_ms *= 2;
    if (delay_ms > MAX_DELAY_MS)
        delay_ms = MAX_DELAY_MS;
    tell_lost(link, delay_ms);
    link_pause(delay_ms);
    link->tries += link->tries < 1000;
    return true;
}

const char *
link_cursor(const struct link *link)
{
    return sse_cursor(&link->sse);
}

void
link_fini(struct link *link)
{
    muster_buf_free(&link->failure);
    sse_fini(&link->sse);
}
