/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of follow.h. */
#include "tools/follow.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tools/events.h"
#include "tools/link.h"
#include "tools/show.h"
#include "tools/text.h"

#define TRIES_MAX 5
#define PROGRESS_WIDTH 40 /* characters of how far it is */
#define POLL_MS 1000      /* first pause where there is no stream; each further one is longer by as much */
#define POLL_MAX_MS 5000
#define POLL_TIMEOUT_MS 30000

struct follow {
    const struct client *client;
    struct term *term;
    struct link link;
    char team[96];     /* "" until the stream named it */
    char job[96];      /* "" until the stream named it */
    char progress[64]; /* ", 3/7 tests"; "" until the agent says how far it is */
    bool printed;      /* some text of the answer was shown */
    bool lost;         /* its worker was lost, and nothing of the answer came since */
    bool ended;        /* the last event of the job came */
    int result;        /* then: how it ended */
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
    term_label(follow->term, "%s%sat work%s", follow->team, *follow->team ? " is " : "", follow->progress);
}

static void
on_progress(struct follow *follow, const json_t *data)
{
    int64_t total = json_number(data, "total");
    const char *step = json_text(data, "step");
    char text[256];

    if (total <= 0)
        return;
    snprintf(text, sizeof text, ", %" PRId64 "/%" PRId64 "%s%s", json_number(data, "current"), total, *step ? " " : "",
             step);
    text_flatten(text);
    text_cut(text, PROGRESS_WIDTH);
    text_copy(follow->progress, sizeof follow->progress, text);
    note_work(follow);
}

static void
on_chunk(struct follow *follow, const json_t *data)
{
    const char *text = json_text(data, "text");

    note_work(follow);
    if (follow->lost && follow->printed)
        term_note(follow->term, "muster: another worker has the job: the answer begins anew");
    if (follow->lost)
        follow->lost = follow->printed = false;
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
    const char *rule = json_text(data, "rule");
    struct muster_buf tool = {0};

    event_add_tool(&tool, data);
    note_work(follow);
    term_note(follow->term, "denied: %s (%s%s)", tool.data, *rule ? "by the rule " : "no rule allows it", rule);
    muster_buf_free(&tool);
}

static void
on_retry(struct follow *follow, const json_t *data)
{
    const char *code = json_text(data, "code");

    term_note(follow->term, "muster: the attempt failed%s%s: the server tries again", *code ? " with " : "", code);
    term_label(follow->term, "waiting");
    follow->progress[0] = '\0';
    follow->printed = follow->lost = false;
}

static void
on_lost(struct follow *follow, const json_t *data)
{
    const char *message = json_text(data, "message");

    term_note(follow->term, "muster: the worker %s was lost%s%s: the job waits for it, or for another one",
              json_text(data, "node"), *message ? ": " : "", message);
    term_label(follow->term, "waiting");
    follow->progress[0] = '\0';
    follow->lost = true;
}

static void
on_found(struct follow *follow, const json_t *data)
{
    term_note(follow->term, "muster: the worker %s is back: the answer goes on", json_text(data, "node"));
    follow->lost = false;
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
    {"start", on_start, GOES_ON},         {"chunk", on_chunk, GOES_ON},
    {"tool_use", on_tool_use, GOES_ON},   {"permission_denied", on_denied, GOES_ON},
    {"progress", on_progress, GOES_ON},   {"retry", on_retry, GOES_ON},
    {"lost", on_lost, GOES_ON},           {"found", on_found, GOES_ON},
    {"complete", on_complete, ENDS_WELL}, {"error", on_error, ENDS_BADLY},
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

/* Connect again and again, each time after the last event seen. */
static void
reconnect(struct follow *follow)
{
    const char *path = client_path(follow->client, "/api/v1/messages/", follow->job, "/stream");

    while (!follow->ended && link_again(&follow->link))
        link_open(&follow->link, "GET", path, NULL);
}

static int
tell_end(struct follow *follow)
{
    const struct link *link = &follow->link;
    const char *problem = *link->problem ? link->problem : "the connection was closed";

    if (follow->ended)
        return follow->result;
    if (link->status >= 300)
        return client_refused(follow->client, link->status, link->failure.data, link->failure.size);
    if (*follow->job && *link_cursor(link))
        return complain(EXIT_UNREACHABLE, "lost the server (%s): the job goes on, see muster job %s --follow", problem,
                        follow->job);
    if (link->status == 0)
        return client_unreachable(follow->client, problem);
    return complain(EXIT_UNREACHABLE,
                    "the connection broke before the job had a name: look for it with muster history");
}

static int
follow(const struct client *client, const char *method, const char *path, const char *body, const char *id,
       int64_t deadline_ms, bool *out_forbidden)
{
    struct follow state = {.client = client, .term = term_start(!client->json, deadline_ms)};
    int result;

    state.link =
        (struct link){.client = client, .term = state.term, .handler = on_event, .arg = &state, .tries_max = TRIES_MAX};
    snprintf(state.job, sizeof state.job, "%s", id);
    term_job(state.term, id);
    term_label(state.term, "waiting");
    link_open(&state.link, method, path, body);
    if (*state.job && state.link.status == 200)
        reconnect(&state);
    term_stop(&state.term);
    if (out_forbidden && state.link.status == 403 && !*link_cursor(&state.link)) {
        *out_forbidden = true;
        result = EXIT_REFUSED;
    } else {
        result = tell_end(&state);
    }
    link_fini(&state.link);
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
        if (link_worth_a_try(reply.err ? 0 : reply.status) && reply.status != 200 && try++ < TRIES_MAX) {
            client_drop(&reply);
        } else {
            result = client_take(client, &reply, &job);
            if (result)
                return result;
            if (job_has_ended(job))
                break;
            try = 0;
            term_label(term, "%s", strcmp(json_text(job, "status"), "queued") == 0 ? "waiting" : "at work");
            json_decref(job);
            job = NULL;
        }
        link_pause(delay_ms);
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
