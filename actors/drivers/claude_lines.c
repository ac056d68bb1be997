/* SPDX-License-Identifier: MPL-2.0 */
/* What the claude CLI prints: one JSON object a line, told apart by `type` in the table at the end.
 *
 * `stream_event` lines are a preview, `assistant` lines the truth: text that was streamed is not given twice, text that
 * came without deltas is given whole.  When the model's stream breaks, the preview just ends and the message comes
 * whole under another id: of that only what is new is given, or all of it behind a notice.  Anything unknown is passed
 * on as a notice; nothing printed is fatal.  Lines of many megabytes occur, so each is looked at once, and parsed once.
 * Agent actor's thread. */
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/drivers/claude.h"

#define RESULT_TEXT_MAX 4096
#define UNPARSED_SHOWN 1024

/* Does the line belong to the agent itself and not to one of its sub-agents? */
static bool
is_top_level(const json_t *line)
{
    const json_t *parent = json_object_get(line, "parent_tool_use_id");

    return !parent || json_is_null(parent);
}

static void
say(struct claude *self, const char *text, size_t size)
{
    if (size && self->in_turn && !self->ahead)
        self->host->chunk(self->host->self, text, size);
}

static void
tell_session(struct claude *self, const json_t *line)
{
    const char *session = driver_json_str(line, "session_id");

    if (*session)
        self->host->session(self->host->self, session);
}

/* ---- text -----------------------------------------------------------------------------------------------------------
 */

static void
preview_clear(struct claude *self)
{
    muster_buf_clear(&self->said);
    self->again = 0;
    self->anew = false;
}

static void
preview_add(struct claude *self, const char *text, size_t size)
{
    say(self, text, size);
    if (self->in_turn && !self->ahead && self->said.size + size <= (size_t)self->host->agents->max_answer)
        muster_buf_add(&self->said, text, size);
}

/* What was given is not what the message became: give that from its beginning, as far as it has come. */
static void
preview_drop(struct claude *self)
{
    driver_notice(self->host, "preview_dropped", "The model's stream broke; the answer begins anew.", NULL);
    say(self, self->said.data, self->again);
    preview_clear(self);
}

/* The message that was told anew is complete. */
static void
preview_end(struct claude *self)
{
    if (self->anew)
        preview_drop(self);
}

/* More text of a message that is told anew. */
static void
tell_anew(struct claude *self, const char *text, size_t size)
{
    size_t left = self->said.size - self->again, same = size < left ? size : left;

    self->anew = true;
    if (memcmp(self->said.data + self->again, text, same)) {
        preview_drop(self);
        say(self, text, size);
        return;
    }
    self->again += same;
    say(self, text + same, size - same);
    if (self->again == self->said.size)
        preview_clear(self);
}

static void
on_stream_event(struct claude *self, const json_t *line)
{
    const json_t *event = json_object_get(line, "event"), *delta, *text;

    if (!is_top_level(line))
        return;
    if (driver_json_is(event, "type", "message_start")) {
        preview_end(self);
        preview_clear(self);
        driver_text_copy(driver_json_str(json_object_get(event, "message"), "id"), self->message,
                         sizeof(self->message));
    } else if (driver_json_is(event, "type", "content_block_start")) {
        preview_clear(self);
    } else if (driver_json_is(event, "type", "content_block_delta")) {
        delta = json_object_get(event, "delta");
        text = json_object_get(delta, "text");
        if (!driver_json_is(delta, "type", "text_delta") || !json_is_string(text))
            return;
        preview_add(self, json_string_value(text), json_string_length(text));
    }
}

/* A text block as it became: give it unless its deltas were. */
static void
on_text_block(struct claude *self, const json_t *line, const json_t *block)
{
    const json_t *text = json_object_get(block, "text");
    const char *message = driver_json_str(json_object_get(line, "message"), "id");
    bool same_message = !strncmp(message, self->message, sizeof(self->message) - 1);

    if (!is_top_level(line) || !json_is_string(text) || json_object_get(line, "error"))
        return;
    if (!self->said.size)
        say(self, json_string_value(text), json_string_length(text));
    else if (same_message)
        preview_clear(self);
    else
        tell_anew(self, json_string_value(text), json_string_length(text));
}

/* ---- tools ----------------------------------------------------------------------------------------------------------
 */

static void
tools_at_work(struct claude *self, int64_t count)
{
    self->busy_tools = count;
    self->host->busy_tools(self->host->self, count);
}

static void
on_tool_block(struct claude *self, const json_t *line, const json_t *block)
{
    const char *id = driver_json_str(block, "id");

    if (json_object_get(self->tools, id))
        return;
    json_object_set_new(self->tools, id, json_true());
    driver_tool_use(self->host, driver_json_str(block, "name"), id, json_object_get(block, "input"));
    if (json_object_get(self->denied, id))
        claude_denied(self, id);
    if (is_top_level(line) && self->in_turn && !self->ahead)
        claude_todo_used(self, block);
    tools_at_work(self, self->busy_tools + 1);
}

static void
on_assistant(struct claude *self, const json_t *line)
{
    const json_t *content = json_object_get(json_object_get(line, "message"), "content"), *block;
    const char *error = driver_json_str(line, "error");
    size_t i;

    if (*error)
        driver_text_copy(error, self->error, sizeof(self->error));
    json_array_foreach(content, i, block)
    {
        if (driver_json_is(block, "type", "text"))
            on_text_block(self, line, block);
        else if (driver_json_is(block, "type", "tool_use"))
            on_tool_block(self, line, block);
    }
}

/* What a tool said: a text, or the first text of a list of blocks. */
static const json_t *
tool_text(const json_t *content)
{
    const json_t *block;
    size_t i;

    if (json_is_string(content))
        return content;
    json_array_foreach(content, i, block)
    {
        if (json_is_string(json_object_get(block, "text")))
            return json_object_get(block, "text");
    }
    return NULL;
}

static void
on_tool_result(struct claude *self, const json_t *line, const json_t *block)
{
    const char *id = driver_json_str(block, "tool_use_id");
    const json_t *said = tool_text(json_object_get(block, "content"));
    char text[RESULT_TEXT_MAX + 1], name[DRIVER_NAME_MAX + 1];
    struct job_tool_result event = {.id = driver_text_copy(id, name, sizeof(name)),
                                    .failed = json_is_true(json_object_get(block, "is_error")),
                                    .text = driver_text_copy(json_string_value(said), text, sizeof(text))};

    if (!json_is_true(json_object_get(self->tools, id)))
        return;
    json_object_set_new(self->tools, id, json_false());
    self->host->event(self->host->self, &job_tool_result_type, &event);
    claude_todo_done(self, id, event.failed, line, event.text);
    tools_at_work(self, self->busy_tools - 1);
}

static void
on_user(struct claude *self, const json_t *line)
{
    const json_t *content = json_object_get(json_object_get(line, "message"), "content"), *block;
    size_t i;

    json_array_foreach(content, i, block)
    {
        if (!driver_json_is(block, "type", "tool_result"))
            continue;
        if (is_top_level(line))
            preview_end(self);
        on_tool_result(self, line, block);
    }
}

/* ---- the turn's frame ----------------------------------------------------------------------------------------------- */

static void
on_control_response(struct claude *self, const json_t *line)
{
    const json_t *response = json_object_get(line, "response");

    if (self->ready || !driver_json_is(response, "request_id", CLAUDE_INITIALIZE))
        return;
    self->ready = true;
    self->host->ready(self->host->self);
}

static void
on_api_retry(struct claude *self, const json_t *line)
{
    char text[256];

    snprintf(text, sizeof(text),
             "Request %lld of %lld to the model API failed (%.100s); the next one is made in %.0f ms.",
             (long long)json_integer_value(json_object_get(line, "attempt")),
             (long long)json_integer_value(json_object_get(line, "max_retries")), driver_json_str(line, "error"),
             json_number_value(json_object_get(line, "retry_delay_ms")));
    driver_notice(self->host, "api_retry", text, line);
}

/* Outside of a turn: one of the CLI's own follows.  Before our turn's `init`: it was printed before our prompt came. */
static void
on_task_notification(struct claude *self, const json_t *line)
{
    if (!self->in_turn)
        self->announced = true;
    else if (!self->in_init)
        self->ahead = true;
    driver_notice(self->host, "task_notification", NULL, line);
}

static void
on_system(struct claude *self, const json_t *line)
{
    const char *subtype = driver_json_str(line, "subtype");

    if (!strcmp(subtype, "init")) {
        self->foreign = !self->in_turn;
        self->in_init = self->in_turn && !self->ahead;
        tell_session(self, line);
    } else if (!strcmp(subtype, "api_retry")) {
        on_api_retry(self, line);
    } else if (!strcmp(subtype, "task_notification")) {
        on_task_notification(self, line);
    } else if (strcmp(subtype, "status") && strcmp(subtype, "thinking_tokens") && strncmp(subtype, "hook_", 5)) {
        driver_notice(self->host, subtype, NULL, line);
    }
}

static void
on_rate_limit_event(struct claude *self, const json_t *line)
{
    const json_t *info = json_object_get(line, "rate_limit_info");
    double resets_at_s = json_number_value(json_object_get(info, "resetsAt"));

    if (driver_json_is(info, "status", "rejected") && resets_at_s > 0 && resets_at_s < 9e12)
        self->resets_at_s = (int64_t)resets_at_s;
    driver_notice(self->host, "rate_limit_event", NULL, line);
}

static void
on_unsolicited_result(struct claude *self, const json_t *line)
{
    struct driver_outcome outcome;
    struct muster_buf text = {0};

    claude_result(self, line, &text, &outcome);
    muster_buf_free(&text);
    if (!self->no_conversation)
        driver_notice(self->host, "unsolicited_turn", "The agent ended a turn that nobody asked for.", line);
    if (self->ahead) {
        self->ahead = false;
        return;
    }
    claude_turn_clear(self);
    claude_send_waiting(self);
}

/* Uses that the CLI denied by itself, by its own settings. */
static void
on_denials(struct claude *self, const json_t *line)
{
    const json_t *denials = json_object_get(line, "permission_denials"), *denial;
    const char *id;
    size_t i;

    json_array_foreach(denials, i, denial)
    {
        id = driver_json_str(denial, "tool_use_id");
        if (*id && !json_object_get(self->denied, id))
            claude_denied(self, id);
    }
}

static void
on_result(struct claude *self, const json_t *line)
{
    struct driver_outcome outcome;
    struct muster_buf text = {0};
    bool spent;

    tell_session(self, line);
    if (!self->in_turn || self->ahead) {
        on_unsolicited_result(self, line);
        return;
    }
    preview_end(self);
    on_denials(self, line);
    spent = driver_json_is(line, "subtype", "error_max_budget_usd");
    claude_result(self, line, &text, &outcome);
    claude_turn_clear(self);
    self->host->done(self->host->self, &outcome);
    muster_buf_free(&text);
    if (spent)
        self->host->broken(self->host->self, "The process has used up its budget.");
}

static void
on_nothing(struct claude *self, const json_t *line)
{
    (void)self;
    (void)line;
}

static const struct {
    const char *type;
    void (*on)(struct claude *self, const json_t *line);
} rows[] = {
    {"stream_event", on_stream_event},
    {"assistant", on_assistant},
    {"user", on_user},
    {"system", on_system},
    {"result", on_result},
    {"control_request", claude_asked},
    {"control_response", on_control_response},
    {"control_cancel_request", on_nothing},
    {"keep_alive", on_nothing},
    {"rate_limit_event", on_rate_limit_event},
};

/* ---- from bytes to a row --------------------------------------------------------------------------------------------
 */

/* The four hexadecimal digits at `at`; UINT_MAX when there are none. */
static unsigned
hex4(const char *at)
{
    unsigned code = 0, i;

    for (i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)at[i]))
            return UINT_MAX;
        code = code * 16 + (unsigned)(isdigit((unsigned char)at[i]) ? at[i] - '0' : (at[i] | 0x20) - 'a' + 10);
    }
    return code;
}

/* Replace escapes that jansson refuses, NUL and halves of surrogate pairs, by U+FFFD.  In place, same length. */
static void
mend_escapes(char *text, size_t size)
{
    size_t i;
    unsigned code, next;

    for (i = 0; i + 1 < size; i++) {
        if (text[i] != '\\')
            continue;
        i++;
        if (text[i] != 'u' || i + 4 >= size)
            continue;
        code = hex4(text + i + 1);
        next = i + 10 < size && text[i + 5] == '\\' && text[i + 6] == 'u' ? hex4(text + i + 7) : 0;
        if (code >= 0xD800 && code < 0xDC00 && next >= 0xDC00 && next < 0xE000)
            i += 10;
        else if (!code || (code >= 0xD800 && code < 0xE000))
            memcpy(text + i + 1, "fffd", 4);
    }
}

/* The line as JSON; NULL when it is none.  Lines that are JSON but for bytes that are no text are mended. */
static json_t *
parse(struct claude *self, const char *line, size_t size)
{
    struct muster_buf copy = {0};
    json_t *json;

    self->mended = false;
    if (!muster_json_shallow(line, size))
        return NULL;
    json = json_loadb(line, size, 0, NULL);
    if (json || !size || *line != '{')
        return json;
    self->mended = true;
    muster_utf8_clean(&copy, line, size);
    mend_escapes(copy.data, copy.size);
    json = json_loadb(copy.data, copy.size, JSON_DECODE_INT_AS_REAL, NULL);
    muster_buf_free(&copy);
    return json;
}

static void
on_unparsed(struct claude *self, const char *line, size_t size)
{
    static const char *const needed[] = {"{\"type\":\"result\"", "{\"type\":\"control_request\""};
    struct muster_buf shown = {0};
    size_t i;

    muster_utf8_clean(&shown, line, driver_text_cut(line, size, UNPARSED_SHOWN));
    driver_notice(self->host, "unparsed_line", shown.data ? shown.data : "", NULL);
    muster_buf_free(&shown);
    if (muster_json_shallow(line, size))
        return;
    /* Nested too deeply, and somebody waits for it: better a clear end than silence. */
    for (i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
        if (size > strlen(needed[i]) && !strncmp(line, needed[i], strlen(needed[i])))
            self->host->broken(self->host->self, "claude printed a line that is nested too deeply.");
}

void
claude_line(void *driver, const char *line, size_t size)
{
    struct claude *self = driver;
    json_t *json = parse(self, line, size);
    size_t i;

    if (json_is_object(json)) {
        for (i = 0; i < sizeof(rows) / sizeof(rows[0]) && !driver_json_is(json, "type", rows[i].type); i++) {
        }
        if (i < sizeof(rows) / sizeof(rows[0]))
            rows[i].on(self, json);
        else
            driver_notice(self->host, driver_json_str(json, "type"), NULL, json);
    } else if (strspn(line, " \t\r") < size) {
        on_unparsed(self, line, size);
    }
    json_decref(json);
}
