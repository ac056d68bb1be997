/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of events.h: a table of types, and a function for each that puts its body into words. */
#include "tools/events.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/client.h"
#include "tools/term.h"
#include "tools/text.h"

#define TEXT_WIDTH 1000  /* characters of a text; the line is cut once more */
#define INPUT_WIDTH 300  /* characters of what a tool was given */
#define TEAM_WIDTH 24    /* the column grows no wider */
#define SHORT_ID_WIDTH 8 /* of text_short_id */

/* ---- pieces ---- */

/* Append a text field with what stands around it; nothing when it is not there or empty. */
static void
add_field(struct muster_buf *out, const char *before, const json_t *body, const char *name, const char *after)
{
    const char *text = json_text(body, name);

    if (!*text)
        return;
    muster_buf_str(out, before);
    text_add_line(out, text, TEXT_WIDTH);
    muster_buf_str(out, after);
}

static void
add_span(struct muster_buf *out, const char *before, const json_t *body, const char *name)
{
    int64_t span_ms = json_number(body, name);
    char span[32];

    if (span_ms < 0)
        return;
    term_span(span, sizeof span, span_ms);
    muster_buf_printf(out, "%s%s", before, span);
}

static void
add_number(struct muster_buf *out, const char *before, const json_t *body, const char *name, const char *after)
{
    int64_t number = json_number(body, name);

    if (number > 0)
        muster_buf_printf(out, "%s%" PRId64 "%s", before, number, after);
}

static void
add_json(struct muster_buf *out, const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

    if (text)
        text_add_line(out, text, INPUT_WIDTH);
    free(text);
}

void
event_add_tool(struct muster_buf *out, const json_t *use)
{
    const json_t *input = json_object_get(use, "input");
    const char *tool = json_text(use, "tool");
    const char *file = json_text(use, "file");

    text_add_line(out, *tool ? tool : "a tool", TEXT_WIDTH);
    if (*file || input)
        muster_buf_str(out, " ");
    if (*file)
        text_add_line(out, file, TEXT_WIDTH);
    else if (input)
        add_json(out, input);
}

/* ---- one function a type ---- */

static void
put_queued(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "queued");
    add_field(out, ", ", body, "priority", "");
    add_number(out, ", position ", body, "position", "");
}

static void
put_started(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "started");
    add_number(out, " by process ", body, "process", "");
    if (json_is_true(json_object_get(body, "resumed")))
        muster_buf_str(out, ", goes on with its conversation");
}

static void
put_chunk(struct muster_buf *out, const json_t *body)
{
    add_field(out, "says: ", body, "text", "");
    if (out->size == 0)
        muster_buf_str(out, "says: ");
}

static void
put_tool_use(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "uses ");
    event_add_tool(out, body);
}

static void
put_tool_result(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, json_is_true(json_object_get(body, "failed")) ? "the tool failed" : "the tool is done");
    add_field(out, ": ", body, "text", "");
}

static void
put_permission(struct muster_buf *out, const json_t *body)
{
    const char *verdict = json_text(body, "verdict");

    muster_buf_str(out, *verdict ? verdict : "asked for");
    muster_buf_str(out, ": ");
    event_add_tool(out, body);
    add_field(out, " (by the rule ", body, "rule", ")");
    if (!*json_text(body, "rule"))
        muster_buf_str(out, " (no rule)");
}

static void
put_usage(struct muster_buf *out, const json_t *body)
{
    const json_t *usage = json_object_get(body, "usage");
    const json_t *cost = json_object_get(usage, "cost_usd");

    const size_t begin = out->size + strlen("usage:");

    muster_buf_str(out, "usage:");
    add_number(out, " ", usage, "input_tokens", " tokens in");
    add_number(out, ", ", usage, "output_tokens", " out");
    if (json_is_number(cost) && json_number_value(cost) < 1e9)
        muster_buf_printf(out, ", %.4f USD", json_number_value(cost));
    if (out->size == begin)
        muster_buf_str(out, " not told");
}

static void
put_notice(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "notice");
    add_field(out, " ", body, "kind", "");
    add_field(out, ": ", body, "text", "");
}

static void
put_retrying(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "the attempt failed");
    add_field(out, " (", body, "code", ")");
    add_field(out, ": ", body, "message", "");
    add_span(out, "; tries again in ", body, "delay_ms");
}

static void
put_parked(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "parked");
    add_field(out, ": ", body, "reason", "");
}

static void
put_lost(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "its worker was lost");
    add_field(out, " (", body, "node", ")");
    add_field(out, ": ", body, "reason", "");
}

static void
put_found(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "its worker is back");
    add_field(out, " (", body, "node", ")");
    muster_buf_str(out, ", the attempt goes on");
}

static void
put_completed(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "completed");
    add_span(out, " in ", body, "duration_ms");
}

static void
put_failed(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "failed");
    add_field(out, " (", body, "code", ")");
    add_field(out, ": ", body, "message", "");
}

static void
put_cancelled(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "cancelled");
    add_field(out, " by ", body, "by", "");
}

static void
put_process(struct muster_buf *out, const json_t *body)
{
    const char *state = json_text(body, "state");

    muster_buf_str(out, "process");
    add_number(out, " ", body, "process", "");
    muster_buf_printf(out, " is %s", *state ? state : "in another state");
    add_field(out, ": ", body, "reason", "");
}

static void
put_progress(struct muster_buf *out, const json_t *body)
{
    int64_t current = json_number(body, "current");

    muster_buf_printf(out, "step %" PRId64, current > 0 ? current : 0);
    add_number(out, " of ", body, "total", "");
    add_field(out, ": ", body, "step", "");
}

static void
put_paused(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "the team is paused");
    add_field(out, " by ", body, "by", "");
}

static void
put_resumed(struct muster_buf *out, const json_t *body)
{
    muster_buf_str(out, "the team is resumed");
    add_field(out, " by ", body, "by", "");
}

static void
put_node(struct muster_buf *out, const json_t *body)
{
    const char *state = json_text(body, "state");

    muster_buf_str(out, "worker");
    add_field(out, " ", body, "node", "");
    muster_buf_printf(out, " is %s", *state ? state : "in another state");
    add_field(out, ": ", body, "reason", "");
}

enum end { GOES_ON, COMPLETED, FAILED, CANCELLED };

static const struct event_words {
    const char *type;
    void (*put)(struct muster_buf *out, const json_t *body);
    enum end end; /* of the job */
    bool names;   /* the line says the whole id, for commands */
    bool whole;   /* the line is not cut */
} words[] = {
    {"job.queued", put_queued, GOES_ON, true, true},
    {"job.started", put_started, GOES_ON, false, false},
    {"job.chunk", put_chunk, GOES_ON, false, false},
    {"job.tool_use", put_tool_use, GOES_ON, false, false},
    {"job.tool_result", put_tool_result, GOES_ON, false, false},
    {"job.permission", put_permission, GOES_ON, false, true},
    {"job.usage", put_usage, GOES_ON, false, false},
    {"job.notice", put_notice, GOES_ON, false, false},
    {"job.retrying", put_retrying, GOES_ON, false, true},
    {"job.parked", put_parked, GOES_ON, false, false},
    {"job.progress", put_progress, GOES_ON, false, false},
    {"job.completed", put_completed, COMPLETED, false, false},
    {"job.failed", put_failed, FAILED, false, true},
    {"job.cancelled", put_cancelled, CANCELLED, false, false},
    {"agent.process", put_process, GOES_ON, false, false},
    {"team.paused", put_paused, GOES_ON, false, false},
    {"team.resumed", put_resumed, GOES_ON, false, false},
    {"job.lost", put_lost, GOES_ON, false, true},
    {"job.found", put_found, GOES_ON, false, false},
    {"node.changed", put_node, GOES_ON, false, true},
};

static const struct event_words *
find_words(const json_t *event)
{
    const char *type = json_text(event, "type");
    size_t i;

    for (i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(words[i].type, type) == 0)
            return &words[i];
    }
    return NULL;
}

/* ---- lines ---- */

static void
add_time(struct muster_buf *out, const json_t *event, const struct event_style *style)
{
    const json_t *at = json_object_get(event, "at");
    char text[32];
    char today[32];
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    term_time(today, sizeof today, (int64_t)now.tv_sec * 1000);
    if (json_is_string(at))
        text_copy(text, sizeof text, json_string_value(at));
    else
        term_time(text, sizeof text, json_whole(at));
    text_flatten(text);
    if (style->short_time && strlen(text) > 11 && strncmp(text, today, 11) == 0)
        muster_buf_str(out, text + 11);
    else
        muster_buf_str(out, text);
}

static void
add_team(struct muster_buf *out, const json_t *event, struct event_style *style)
{
    struct muster_buf team = {0};
    int width;

    text_add_line(&team, json_text(event, "team"), TEAM_WIDTH);
    width = text_width(team.data ? team.data : "");
    if (width > style->team_width)
        style->team_width = width;
    muster_buf_printf(out, "  %s%*s", team.data ? team.data : "", style->team_width - width, "");
    muster_buf_free(&team);
}

static void
add_words(struct muster_buf *out, const struct event_words *found, const json_t *event)
{
    const json_t *body = json_object_get(event, "data");
    const char *type = json_text(event, "type");
    const char *id = json_text(event, "messageId");

    if (found && found->names && *id) {
        text_add_line(out, id, TEXT_WIDTH);
        muster_buf_str(out, ": ");
    }
    if (found) {
        found->put(out, body);
        return;
    }
    text_add_line(out, *type ? type : "an event without a type", TEXT_WIDTH);
    if (body) {
        muster_buf_str(out, " ");
        add_json(out, body);
    }
}

void
event_line(struct muster_buf *out, const json_t *event, struct event_style *style)
{
    const struct event_words *found = find_words(event);
    struct muster_buf line = {0};
    struct muster_buf what = {0};
    int left;

    add_time(&line, event, style);
    add_team(&line, event, style);
    muster_buf_printf(&line, "  %-*s  ", SHORT_ID_WIDTH, text_short_id(json_text(event, "messageId")));
    text_flatten(line.data);
    left = style->width - text_width(line.data);
    if (found && found->whole)
        left = TEXT_WIDTH;
    add_words(&what, found, event);
    text_add_line(&line, what.data ? what.data : "", left > SHORT_ID_WIDTH ? left : SHORT_ID_WIDTH);
    muster_buf_printf(out, "%s\n", line.data);
    muster_buf_free(&what);
    muster_buf_free(&line);
}

bool
event_ends(const json_t *event, int *out_result)
{
    const struct event_words *found = find_words(event);
    enum end end = found ? found->end : GOES_ON;

    if (end == COMPLETED)
        *out_result = EXIT_DONE;
    else if (end == FAILED)
        *out_result = exit_of_job(json_text(json_object_get(event, "data"), "code"));
    else if (end == CANCELLED)
        *out_result = EXIT_CANCELLED;
    return end != GOES_ON;
}
