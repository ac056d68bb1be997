/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of follow.h.
 *
 * A connection that breaks, or that was open for CONNECTION_MS, is followed by another that begins after the last event
 * seen, so nothing is lost and nothing shown twice. */
#include "tools/follow.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/show.h"
#include "tools/sse.h"
#include "tools/term.h"
#include "transport/muster_fetch.h"

#define TRIES_MAX 5
#define CONNECTION_MS 300000 /* then a new one: finds out about a server that vanished without a word */
#define FIRST_DELAY_MS 500   /* doubled for each further try */
#define POLL_MS 1000         /* first pause where there is no stream; each further one is longer by as much */
#define POLL_MAX_MS 5000
#define POLL_TIMEOUT_MS 30000
#define INPUT_SHOWN 300   /* bytes of what a denied tool was to be given */
#define FAILURE_MAX 65536 /* bytes kept of an answer that is an error */

struct follow {
    const struct client *client;
    struct term *term;
    struct sse_parser sse;
    struct muster_buf failure; /* body of an answer that is not a stream */
    char problem[256];         /* why no answer came */
    char team[96];             /* "" until the stream named it */
    char job[96];              /* "" until the stream named it */
    char cursor[96];           /* id of the last event */
    long status;               /* of this connection; 0: no answer came */
    bool seen;                 /* an event came on it */
    bool printed;              /* some text of the answer was shown */
    bool ended;                /* the last event of the job came */
    int result;                /* then: how it ended */
};

/* ---- events ---- */

static void
on_start(struct follow *follow, const json_t *data)
{
    snprintf(follow->team, sizeof follow->team, "%s", json_text(data, "team"));
}

/* The job was taken long before its agent says or does something; until then it waits. */
static void
note_work(struct follow *follow)
{
    if (*follow->team)
        term_label(follow->term, "%s is at work", follow->team);
    else
        term_label(follow->term, "at work");
}

static void
on_chunk(struct follow *follow, const json_t *data)
{
    const char *text = json_text(data, "text");

    note_work(follow);
    term_text(follow->term, text, strlen(text));
    follow->printed = follow->printed || *text;
}

static void
on_tool_use(struct follow *follow, const json_t *data)
{
    const char *file = json_text(data, "file");

    term_label(follow->term, "%s%s%s", json_text(data, "tool"), *file ? " " : "", file);
}

/* "denied: Bash {"command":"rm x"} (no rule allows it)" */
static void
on_denied(struct follow *follow, const json_t *data)
{
    const json_t *input = json_object_get(data, "input");
    const char *rule = json_text(data, "rule");
    char *text = input ? json_dumps(input, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    size_t size = text ? strlen(text) : 0;
    bool is_cut = size > INPUT_SHOWN;

    if (is_cut) {
        size = INPUT_SHOWN;
        while (size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80) /* not within a character */
            size--;
    }
    note_work(follow);
    term_note(follow->term, "denied: %s%s%.*s%s (%s%s)", json_text(data, "tool"), size ? " " : "", (int)size,
              text ? text : "", is_cut ? "..." : "", *rule ? "by the rule " : "no rule allows it", rule);
    free(text);
}

static void
on_retry(struct follow *follow, const json_t *data)
{
    const char *code = json_text(data, "code");

    term_note(follow->term, "muster: the attempt failed%s%s: the server tries again", *code ? " with " : "", code);
    term_label(follow->term, "waiting");
    follow->printed = false;
}

static void
on_complete(struct follow *follow, const json_t *data)
{
    const char *text = json_text(data, "response");

    if (!follow->printed)
        term_text(follow->term, text, strlen(text));
    follow->ended = true;
    follow->result = EXIT_DONE;
}

static void
on_cancelled(struct follow *follow, const json_t *data)
{
    (void)data;
    term_note(follow->term, "muster: the job was cancelled: see muster job %s", follow->job);
    follow->ended = true;
    follow->result = EXIT_CANCELLED;
}

static void
on_error(struct follow *follow, const json_t *data)
{
    const char *code = json_text(data, "code");
    const char *message = json_text(data, "message");

    if (!*message)
        message = json_text(data, "error");
    if (exit_of_job(code) == EXIT_CANCELLED) {
        on_cancelled(follow, data);
        return;
    }
    term_note(follow->term, "muster: the job failed%s%s%s%s%s: see muster job %s", *code ? " (" : "", code,
              *code ? ")" : "", *message ? ": " : "", message, follow->job);
    follow->ended = true;
    follow->result = EXIT_FAILED;
}

static const struct {
    const char *type;
    void (*show)(struct follow *follow, const json_t *data);
    enum { GOES_ON, ENDS_WELL, ENDS_BADLY } end; /* of the job; with --json nothing else is looked at */
} events[] = {
    {"start", on_start, GOES_ON},       {"chunk", on_chunk, GOES_ON},
    {"tool_use", on_tool_use, GOES_ON}, {"permission_denied", on_denied, GOES_ON},
    {"retry", on_retry, GOES_ON},       {"complete", on_complete, ENDS_WELL},
    {"error", on_error, ENDS_BADLY},
};

static void
print_event(struct follow *follow, const struct sse_event *event, json_t *data, size_t row)
{
    json_t *line = json_object();
    struct muster_buf out = {0};
    char *text;

    json_object_set_new(line, "event", json_string(event->type));
    if (*event->id)
        json_object_set_new(line, "id", json_string(event->id));
    json_object_set(line, "data", data);
    text = json_dumps(line, JSON_COMPACT);
    muster_buf_printf(&out, "%s\n", text ? text : "{}");
    term_text(follow->term, out.data, out.size);
    muster_buf_free(&out);
    free(text);
    json_decref(line);
    if (row < sizeof events / sizeof *events && events[row].end != GOES_ON) {
        follow->ended = true;
        follow->result = events[row].end == ENDS_WELL ? EXIT_DONE : exit_of_job(json_text(data, "code"));
    }
}

static void
note_job(struct follow *follow, const json_t *data)
{
    const char *id = json_text(data, "messageId");

    if (*follow->job || !*id)
        return;
    snprintf(follow->job, sizeof follow->job, "%s", id);
    term_job(follow->term, id);
}

static bool
on_event(void *arg, const struct sse_event *event)
{
    struct follow *follow = arg;
    const size_t count = sizeof events / sizeof *events;
    json_t *data;
    size_t row = 0;

    follow->seen = true;
    if (*event->id)
        snprintf(follow->cursor, sizeof follow->cursor, "%s", event->id);
    if (strcmp(event->type, "heartbeat") == 0)
        return true;
    data = json_loadb(event->data, event->size, JSON_DECODE_ANY, NULL);
    if (!data)
        return true;
    note_job(follow, data);
    while (row < count && strcmp(events[row].type, event->type) != 0)
        row++;
    if (follow->client->json)
        print_event(follow, event, data, row);
    else if (row < count)
        events[row].show(follow, data);
    json_decref(data);
    return !follow->ended;
}

/* ---- connections ---- */

static bool
on_bytes(void *arg, long status, const char *bytes, size_t size)
{
    struct follow *follow = arg;

    follow->status = status;
    if (status != 200) {
        if (follow->failure.size < FAILURE_MAX)
            muster_buf_add(&follow->failure, bytes, size);
        return true;
    }
    return sse_feed(&follow->sse, bytes, size, on_event, follow) == MUSTER_OK;
}

/* One connection, to its end.  Returns false when nothing broke and it was just time for a new one. */
static bool
connect_once(struct follow *follow, const char *method, const char *path, const char *body)
{
    struct muster_pair headers[5];
    size_t count = client_headers(follow->client, body != NULL, "text/event-stream", headers);
    struct muster_fetch_spec spec = {
        .method = method,
        .url = muster_arena_printf(follow->client->arena, "%s%s", follow->client->url, path),
        .headers = headers,
        .body = body,
        .body_size = body ? strlen(body) : 0,
        .timeout_ms = CONNECTION_MS,
        .max_answer = FAILURE_MAX,
        .allow_private = true,
    };
    long status = 0;
    muster_err err;

    if (*follow->cursor)
        headers[count++] = (struct muster_pair){"Last-Event-ID", follow->cursor};
    spec.header_count = count;
    follow->seen = false;
    follow->status = 0;
    muster_buf_clear(&follow->failure);
    sse_reset(&follow->sse);
    err = muster_fetch_now(&spec, on_bytes, follow, &status, NULL, follow->problem, sizeof follow->problem);
    if (!err)
        follow->status = status; /* an answer without a body never came to on_bytes */
    return err != MUSTER_TIMEOUT;
}

static bool
worth_a_try(long status)
{
    return status == 0 || status == 200 || status == 429 || status >= 500;
}

static void
pause_ms(int64_t ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    nanosleep(&pause, NULL);
}

static void
wait_before(struct follow *follow, int try)
{
    int64_t delay_ms = (int64_t)FIRST_DELAY_MS << try;
    char span[32];

    term_span(span, sizeof span, delay_ms);
    term_note(follow->term, "muster: the connection broke: trying again in %s (%d of %d)", span, try + 1, TRIES_MAX);
    pause_ms(delay_ms);
}

/* Connect again and again, each time after the last event seen. */
static void
reconnect(struct follow *follow, bool broke)
{
    const char *path = client_path(follow->client, "/api/v1/messages/", follow->job, "/stream");
    int try = 0;

    while (!follow->ended && worth_a_try(follow->status)) {
        if (follow->seen || !broke)
            try = 0;
        if (try == TRIES_MAX)
            break;
        if (broke)
            wait_before(follow, try++);
        broke = connect_once(follow, "GET", path, NULL);
    }
}

static int
tell_end(struct follow *follow)
{
    const char *problem = *follow->problem ? follow->problem : "the connection was closed";

    if (follow->ended)
        return follow->result;
    if (follow->status >= 300)
        return client_refused(follow->client, follow->status, follow->failure.data, follow->failure.size);
    if (*follow->job && follow->cursor[0])
        return complain(EXIT_UNREACHABLE, "lost the server (%s): the job goes on, see muster job %s --follow", problem,
                        follow->job);
    if (follow->status == 0)
        return client_unreachable(follow->client, problem);
    return complain(EXIT_UNREACHABLE,
                    "the connection broke before the job had a name: look for it with muster history");
}

static int
follow(const struct client *client, const char *method, const char *path, const char *body, const char *id,
       int64_t deadline_ms, bool *out_forbidden)
{
    struct follow state = {.client = client, .term = term_start(!client->json, deadline_ms)};
    bool broke;
    int result;

    snprintf(state.job, sizeof state.job, "%s", id);
    term_job(state.term, id);
    term_label(state.term, "waiting");
    broke = connect_once(&state, method, path, body);
    if (*state.job && state.status == 200)
        reconnect(&state, broke);
    term_stop(&state.term);
    if (out_forbidden && state.status == 403 && !*state.cursor) {
        *out_forbidden = true;
        result = EXIT_REFUSED;
    } else {
        result = tell_end(&state);
    }
    muster_buf_free(&state.failure);
    sse_fini(&state.sse);
    return result;
}

int
follow_new(const struct client *client, const char *path, const char *body, int64_t deadline_ms, bool *out_forbidden)
{
    return follow(client, "POST", path, body, "", deadline_ms, out_forbidden);
}

int
follow_job(const struct client *client, const char *id, bool *out_forbidden)
{
    return follow(client, "GET", client_path(client, "/api/v1/messages/", id, "/stream"), NULL, id, 0, out_forbidden);
}

/* ---- without a stream ---- */

static bool
has_ended(const json_t *job)
{
    const char *state = json_text(job, "status");

    return strcmp(state, "queued") != 0 && strcmp(state, "processing") != 0;
}

/* Look again and again until the job has ended; EXIT_DONE: *out_job is what it is then. */
static int
poll_until_end(const struct client *client, struct term *term, const char *id, json_t **out_job)
{
    const char *path = client_path(client, "/api/v1/messages/", id, "");
    int64_t delay_ms = POLL_MS;
    struct client_reply reply;
    json_t *job = NULL;
    int result;
    int try = 0;

    for (;;) {
        client_send(client, "GET", path, NULL, POLL_TIMEOUT_MS, &reply);
        if (worth_a_try(reply.err ? 0 : reply.status) && reply.status != 200 && try++ < TRIES_MAX) {
            client_drop(&reply);
        } else {
            result = client_take(client, &reply, &job);
            if (result)
                return result;
            if (has_ended(job))
                break;
            try = 0;
            term_label(term, "%s", strcmp(json_text(job, "status"), "queued") == 0 ? "waiting" : "at work");
            json_decref(job);
            job = NULL;
        }
        pause_ms(delay_ms);
        delay_ms = delay_ms < POLL_MAX_MS ? delay_ms + POLL_MS : POLL_MAX_MS;
    }
    *out_job = job;
    return EXIT_DONE;
}

static void
tell_polled(struct term *term, const char *id, const json_t *job)
{
    const json_t *error = json_object_get(job, "error");
    const char *text = json_text(job, "response");
    const char *state = json_text(job, "status");

    if (strcmp(state, "cancelled") == 0)
        term_note(term, "muster: the job was cancelled: see muster job %s", id);
    else if (strcmp(state, "failed") == 0)
        term_note(term, "muster: the job failed (%s): %s: see muster job %s", json_text(error, "code"),
                  json_text(error, "message"), id);
    else
        term_text(term, text, strlen(text));
}

int
poll_job(const struct client *client, const char *id)
{
    struct term *term = term_start(!client->json, 0);
    json_t *job = NULL;
    int result;

    term_job(term, id);
    term_label(term, "waiting");
    result = poll_until_end(client, term, id, &job);
    term_clear(term);
    if (!result && client->json)
        json_print(job);
    else if (!result)
        tell_polled(term, id, job);
    if (!result)
        result = show_job_result(job);
    term_stop(&term);
    json_decref(job);
    return result;
}
