/* SPDX-License-Identifier: MPL-2.0 */
/* iris: the events of a job in the words of the dialect, for streams and for WebSockets.  Both see the same rows; on a
 * WebSocket each says also whose it is, when it was, and its cursor.  Any thread, the hub's above all; an event that
 * does not decode is not shown. */
#include <string.h>

#include "api/dialects/iris.h"

/* One event, on its way to a client. */
struct telling {
    struct muster_buf *out;
    const struct event *event;
    const char *cursor;
    struct muster_arena *arena;
    const char *session_id; /* NULL: none was given */
};

typedef void tell(const struct telling *t, const void *body);

static const char *
message_id(const struct telling *t)
{
    return iris_message_id(t->arena, &t->event->job);
}

/* ---- what does not depend on the client ---- */

/* What was sent of the answer is void, as with a failed attempt; but the attempt goes on. */
static bool
read_notice(const struct job_notice *in, struct job_retrying *out)
{
    if (strcmp(in->kind, "preview_dropped") != 0)
        return false;
    *out = (struct job_retrying){.code = muster_err_code(MUSTER_MODEL_ERROR),
                                 .message = in->text && *in->text ? in->text : muster_err_text(MUSTER_MODEL_ERROR)};
    return true;
}

/* As answers and history have it: it took some time. */
static int64_t
duration_of(const struct job_completed *in)
{
    return in->duration_ms > 0 ? in->duration_ms : 1;
}

static const char *
words_of(const struct job_failed *in)
{
    return in->message && *in->message ? in->message : muster_err_text(muster_err_from_code(in->code));
}

static struct job_failed
as_failed(void)
{
    return (struct job_failed){.code = muster_err_code(MUSTER_CANCELLED)};
}

/* ---- streams ---- */

static void
put(const struct telling *t, const struct muster_type *type, const void *in)
{
    muster_buf_printf(t->out, "event: %s\ndata: ", type->wire);
    muster_json_encode(type, in, t->out);
    muster_buf_str(t->out, "\n");
}

static void
put_start(const struct telling *t, const void *body)
{
    struct iris_start start = {message_id(t), t->event->team, t->session_id};

    (void)body;
    put(t, &iris_start_type, &start);
}

static void
put_chunk(const struct telling *t, const void *body)
{
    const struct job_chunk *in = body;
    struct iris_chunk chunk = {in->text};

    put(t, &iris_chunk_type, &chunk);
}

static void
put_tool_use(const struct telling *t, const void *body)
{
    const struct job_tool_use *in = body;
    struct iris_tool_use tool_use = {in->tool, in->file, in->input};

    put(t, &iris_tool_use_type, &tool_use);
}

static void
put_permission(const struct telling *t, const void *body)
{
    const struct job_permission *in = body;
    struct iris_denied denied = {in->tool, in->rule, in->input};

    if (in->verdict == tool_verdict_DENIED)
        put(t, &iris_denied_type, &denied);
}

static void
put_progress(const struct telling *t, const void *body)
{
    const struct job_progress *in = body;
    struct iris_step step = {in->current, in->total, in->step};

    put(t, &iris_step_type, &step);
}

static void
put_retry(const struct telling *t, const void *body)
{
    const struct job_retrying *in = body;
    struct iris_retry retry = {message_id(t), in->code, in->message, in->delay_ms};

    put(t, &iris_retry_type, &retry);
}

static void
put_notice(const struct telling *t, const void *body)
{
    struct job_retrying retrying;

    if (read_notice(body, &retrying))
        put_retry(t, &retrying);
}

static void
put_lost(const struct telling *t, const void *body)
{
    const struct job_lost *in = body;
    struct iris_lost lost = {message_id(t), in->node, in->reason};

    put(t, &iris_lost_type, &lost);
}

static void
put_found(const struct telling *t, const void *body)
{
    const struct job_found *in = body;
    struct iris_found found = {message_id(t), in->node};

    put(t, &iris_found_type, &found);
}

static void
put_complete(const struct telling *t, const void *body)
{
    const struct job_completed *in = body;
    struct iris_complete complete = {message_id(t), duration_of(in), t->event->at_ms,
                                     iris_usage_of(t->arena, in->usage)};

    put(t, &iris_complete_type, &complete);
}

static void
put_failed(const struct telling *t, const void *body)
{
    const struct job_failed *in = body;
    struct iris_broken broken = {words_of(in), in->code, words_of(in), message_id(t), t->event->at_ms};

    put(t, &iris_broken_type, &broken);
}

static void
put_cancelled(const struct telling *t, const void *body)
{
    struct job_failed failed = as_failed();

    (void)body;
    put_failed(t, &failed);
}

/* ---- WebSockets ---- */

/* What all of them begin and end with. */
#define HEAD(t, name)                                                                                                  \
    .type = (name), .messageId = message_id(t), .team = (t)->event->team, .cursor = (t)->cursor,                       \
    .timestamp = (t)->event->at_ms

static void
say(const struct telling *t, const struct muster_type *type, const void *in)
{
    muster_json_encode(type, in, t->out);
}

static void
say_start(const struct telling *t, const void *body)
{
    struct iris_socket_start start = {HEAD(t, "start")};

    (void)body;
    say(t, &iris_socket_start_type, &start);
}

static void
say_chunk(const struct telling *t, const void *body)
{
    const struct job_chunk *in = body;
    struct iris_socket_chunk chunk = {HEAD(t, "chunk"), .text = in->text};

    say(t, &iris_socket_chunk_type, &chunk);
}

static void
say_tool_use(const struct telling *t, const void *body)
{
    const struct job_tool_use *in = body;
    struct iris_socket_tool_use tool_use = {HEAD(t, "tool_use"), .tool = in->tool, .file = in->file};

    tool_use.input = in->input && *in->input ? in->input : "{}";
    say(t, &iris_socket_tool_use_type, &tool_use);
}

static void
say_permission(const struct telling *t, const void *body)
{
    const struct job_permission *in = body;
    struct iris_socket_denied denied = {HEAD(t, "permission_denied"), .tool = in->tool, .rule = in->rule};

    denied.input = in->input;
    if (in->verdict == tool_verdict_DENIED)
        say(t, &iris_socket_denied_type, &denied);
}

static void
say_progress(const struct telling *t, const void *body)
{
    const struct job_progress *in = body;
    struct iris_socket_progress progress = {HEAD(t, "progress"), .current = in->current, .total = in->total};

    progress.step = in->step;
    say(t, &iris_socket_progress_type, &progress);
}

static void
say_retry(const struct telling *t, const void *body)
{
    const struct job_retrying *in = body;
    struct iris_socket_retry retry = {HEAD(t, "retry"), .code = in->code, .message = in->message};

    retry.delay = in->delay_ms;
    say(t, &iris_socket_retry_type, &retry);
}

static void
say_notice(const struct telling *t, const void *body)
{
    struct job_retrying retrying;

    if (read_notice(body, &retrying))
        say_retry(t, &retrying);
}

static void
say_lost(const struct telling *t, const void *body)
{
    const struct job_lost *in = body;
    struct iris_socket_lost lost = {HEAD(t, "lost"), .node = in->node, .message = in->reason};

    say(t, &iris_socket_lost_type, &lost);
}

static void
say_found(const struct telling *t, const void *body)
{
    const struct job_found *in = body;
    struct iris_socket_found found = {HEAD(t, "found"), .node = in->node};

    say(t, &iris_socket_found_type, &found);
}

static void
say_complete(const struct telling *t, const void *body)
{
    const struct job_completed *in = body;
    struct iris_socket_complete complete = {HEAD(t, "complete"), .duration = duration_of(in)};

    complete.usage = iris_usage_of(t->arena, in->usage);
    say(t, &iris_socket_complete_type, &complete);
}

static void
say_failed(const struct telling *t, const void *body)
{
    const struct job_failed *in = body;
    struct iris_socket_error error = {HEAD(t, "error"), .code = in->code};

    error.error = error.message = words_of(in);
    say(t, &iris_socket_error_type, &error);
}

static void
say_cancelled(const struct telling *t, const void *body)
{
    struct job_failed failed = as_failed();

    (void)body;
    say_failed(t, &failed);
}

/* ---- the table ---- */

/* Events that are not here are not shown. */
static const struct shown {
    const struct muster_type *type;
    tell *put; /* to a stream */
    tell *say; /* to a WebSocket */
} shown[] = {{&job_chunk_type, put_chunk, say_chunk},
             {&job_tool_use_type, put_tool_use, say_tool_use},
             {&job_queued_type, put_start, say_start},
             {&job_progress_type, put_progress, say_progress},
             {&job_retrying_type, put_retry, say_retry},
             {&job_completed_type, put_complete, say_complete},
             {&job_failed_type, put_failed, say_failed},
             {&job_cancelled_type, put_cancelled, say_cancelled},
             {&job_permission_type, put_permission, say_permission},
             {&job_notice_type, put_notice, say_notice},
             {&job_lost_type, put_lost, say_lost},
             {&job_found_type, put_found, say_found},
             {NULL, NULL, NULL}};

/* NULL: it is not shown. */
static const struct shown *
read_event(const struct event *event, struct muster_arena *arena, void **out_body)
{
    const struct shown *row;
    void *body;

    for (row = shown; row->type && strcmp(row->type->wire, event->type) != 0; row++)
        ;
    if (row->type == NULL)
        return NULL;
    body = muster_arena_alloc(arena, row->type->size);
    if (muster_unpack(row->type, event->body.data, event->body.size, arena, body, NULL))
        return NULL;
    *out_body = body;
    return row;
}

void
iris_render_stream(struct muster_buf *out, const struct event *event, const char *cursor, struct muster_arena *arena,
                   void *arg)
{
    struct telling t = {out, event, cursor, arena, arg};
    void *body = NULL;
    const struct shown *row = read_event(event, arena, &body);

    if (row)
        row->put(&t, body);
}

void
iris_render_socket(struct muster_buf *out, const struct event *event, const char *cursor, struct muster_arena *arena,
                   void *arg)
{
    struct telling t = {out, event, cursor, arena, NULL};
    void *body = NULL;
    const struct shown *row = read_event(event, arena, &body);

    (void)arg;
    if (row)
        row->say(&t, body);
}
