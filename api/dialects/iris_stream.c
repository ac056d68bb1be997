/* SPDX-License-Identifier: MPL-2.0 */
/* iris: event streams.  The events of a job in the words of the dialect; a client that comes back with the id of the
 * last event it saw goes on behind it and never submits again.  Handlers park on the connection's thread; rendering
 * also runs on the thread of the hub. */
#include <string.h>

#include "api/dialects/iris.h"

/* ---- events ---- */

static void
put(struct muster_buf *out, const struct muster_type *type, const void *in)
{
    muster_buf_printf(out, "event: %s\ndata: ", type->wire);
    muster_json_encode(type, in, out);
    muster_buf_str(out, "\n");
}

static void
put_start(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    struct iris_start start = {iris_message_id(arena, &event->job), event->team};

    (void)body;
    put(out, &iris_start_type, &start);
}

static void
put_chunk(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    const struct job_chunk *in = body;
    struct iris_chunk chunk = {in->text};

    (void)event;
    (void)arena;
    put(out, &iris_chunk_type, &chunk);
}

static void
put_tool_use(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    const struct job_tool_use *in = body;
    struct iris_tool_use tool_use = {in->tool, in->file, in->input};

    (void)event;
    (void)arena;
    put(out, &iris_tool_use_type, &tool_use);
}

static void
put_permission(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    const struct job_permission *in = body;
    struct iris_denied denied = {in->tool, in->rule, in->input};

    (void)event;
    (void)arena;
    if (in->verdict == tool_verdict_DENIED)
        put(out, &iris_denied_type, &denied);
}

static void
put_retry(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    const struct job_retrying *in = body;
    struct iris_retry retry = {iris_message_id(arena, &event->job), in->code, in->message, in->delay_ms};

    put(out, &iris_retry_type, &retry);
}

/* What was sent of the answer is void, as with a failed attempt; but the attempt goes on. */
static void
put_notice(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    const struct job_notice *in = body;
    struct iris_retry retry = {iris_message_id(arena, &event->job), muster_err_code(MUSTER_MODEL_ERROR),
                               in->text && *in->text ? in->text : muster_err_text(MUSTER_MODEL_ERROR), 0};

    if (strcmp(in->kind, "preview_dropped") == 0)
        put(out, &iris_retry_type, &retry);
}

static void
put_complete(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    const struct job_completed *in = body;
    struct iris_complete complete = {iris_message_id(arena, &event->job), in->duration_ms, event->at_ms,
                                     iris_usage_of(arena, in->usage)};

    put(out, &iris_complete_type, &complete);
}

static void
put_broken(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const char *code,
           const char *message)
{
    const char *text = message && *message ? message : muster_err_text(muster_err_from_code(code));
    struct iris_broken broken = {text, code, text, iris_message_id(arena, &event->job), event->at_ms};

    put(out, &iris_broken_type, &broken);
}

static void
put_failed(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    const struct job_failed *in = body;

    put_broken(out, event, arena, in->code, in->message);
}

static void
put_cancelled(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body)
{
    (void)body;
    put_broken(out, event, arena, muster_err_code(MUSTER_CANCELLED), NULL);
}

/* Events that are not here are not shown. */
static const struct {
    const struct muster_type *type;
    void (*put)(struct muster_buf *out, const struct event *event, struct muster_arena *arena, const void *body);
} shown[] = {{&job_chunk_type, put_chunk},         {&job_tool_use_type, put_tool_use},
             {&job_queued_type, put_start},        {&job_retrying_type, put_retry},
             {&job_completed_type, put_complete},  {&job_failed_type, put_failed},
             {&job_cancelled_type, put_cancelled}, {&job_permission_type, put_permission},
             {&job_notice_type, put_notice},       {NULL, NULL}};

static void
render(struct muster_buf *out, const struct event *event, struct muster_arena *arena, void *arg)
{
    void *body;
    size_t i;

    (void)arg;
    for (i = 0; shown[i].type && strcmp(shown[i].type->wire, event->type) != 0; i++)
        ;
    if (shown[i].type == NULL)
        return;
    body = muster_arena_alloc(arena, shown[i].type->size);
    if (muster_unpack(shown[i].type, event->body.data, event->body.size, arena, body, NULL) == MUSTER_OK)
        shown[i].put(out, event, arena, body);
}

/* ---- following ---- */

static void
fail_cursor(struct http_request *request, muster_err err)
{
    struct muster_store *store = http_house(request)->store;
    char oldest[MUSTER_CURSOR_TEXT];
    const char *details;

    if (err != MUSTER_CURSOR_EXPIRED) {
        http_fail(request, err, "%s",
                  err == MUSTER_INVALID_REQUEST ? "Last-Event-ID is not a cursor" : muster_err_text(err));
        return;
    }
    muster_cursor_text(store, muster_log_oldest(store), oldest);
    details = muster_arena_printf(http_arena(request), "{\"oldest\":\"%s\"}", oldest);
    http_fail_details(request, err, details, "%s", muster_err_text(err));
}

static void
follow(struct http_request *request, const struct muster_id *job, int64_t after)
{
    muster_err err = http_stream_open(request, job, render, NULL);

    if (err)
        http_fail(request, err, "%s", muster_err_text(err));
    else
        http_stream_run(request, "", 0, after);
}

/* Streams of one key on one team that a lost event may have come from. */
struct suspects {
    const struct key *key;
    struct muster_id job;
    size_t count; /* found */
    size_t seen;  /* looked at */
};

enum { SUSPECTS_SEEN = 1000 };

static bool
suspect(void *arg, const void *record, struct muster_arena *arena)
{
    struct suspects *suspects = arg;
    const struct job *job = record;

    (void)arena;
    if (job->kind == job_kind_STREAM && muster_id_equal(&job->key, &suspects->key->id) &&
        (!iris_is_final(job->state) || job->attempt > 1)) {
        suspects->job = job->id;
        suspects->count++;
    }
    return ++suspects->seen < SUSPECTS_SEEN && suspects->count < 2;
}

/* Live events are seen a little before they are on disk, so a daemon that was killed may not know the last one that a
 * client saw.  When the client can only have meant one stream, that one goes on. */
static bool
go_on_after_loss(struct http_request *request, const char *cursor)
{
    struct muster_store *store = http_house(request)->store;
    struct suspects suspects = {.key = http_key(request)};
    int64_t seq;

    if (muster_cursor_parse(store, cursor, &seq) || seq < muster_log_oldest(store))
        return false;
    if (muster_store_walk(store, &job_type, "job_by_team", http_param(request, "team"), MUSTER_NEWEST_FIRST, suspect,
                          &suspects) ||
        suspects.count != 1)
        return false;
    follow(request, &suspects.job, seq);
    return true;
}

/* Behind the event that the client saw last. */
static void
go_on(struct http_request *request, const char *cursor)
{
    const struct muster_event_row *row;
    struct event event;
    muster_err err = http_stream_cursor(request, cursor, &event);

    if (err == MUSTER_CURSOR_EXPIRED && go_on_after_loss(request, cursor))
        return;
    if (err) {
        fail_cursor(request, err);
        return;
    }
    if (muster_id_is_zero(&event.job) || strcmp(event.team, http_param(request, "team")) != 0) {
        http_fail(request, MUSTER_NOT_FOUND, "Last-Event-ID is not of this team");
        return;
    }
    row = muster_event_row(event.type);
    if (row && row->final)
        http_answer(request, 204, "", "", 0); /* tells EventSource to come back no more */
    else
        follow(request, &event.job, event.seq);
}

static void
submit(struct http_request *request, const char *message, enum job_priority priority, const char *context)
{
    struct job job = iris_job(request, job_kind_STREAM, message, priority, context);
    struct queue_submit queue_submit = {.job = &job};
    struct queue_accepted accepted;
    muster_err err = http_stream_open(request, &job.id, render, NULL);

    if (err) {
        http_fail(request, err, "%s", muster_err_text(err));
        return;
    }
    err = http_ask(request, MUSTER_QUEUE, &queue_submit_type, &queue_submit, &queue_accepted_type, &accepted,
                   IRIS_HOP_MS);
    if (err == MUSTER_OK) {
        http_stream_run(request, "", 0, -1);
        return;
    }
    http_stream_drop(request);
    iris_submit_failed(request, err, &job);
}

void
iris_handle_stream(struct http_request *request)
{
    const char *cursor = http_header(request, "Last-Event-ID");
    const struct iris_stream *in = http_body(request);

    if (cursor && *cursor)
        go_on(request, cursor);
    else if (iris_check_context(request, in->context))
        submit(request, in->message, in->priority, in->context);
}

void
iris_handle_stream_get(struct http_request *request)
{
    const char *cursor = http_header(request, "Last-Event-ID");
    const char *message = http_query(request, "message");
    const char *priority = http_query(request, "priority");
    int value = priority ? muster_enum_value(&job_priority_enum, priority) : 0;

    if (cursor && *cursor)
        go_on(request, cursor);
    else if (message == NULL || *message == '\0')
        iris_fail_field(request, "message", "must be the message, percent-encoded in the query");
    else if (priority && value == 0)
        iris_fail_field(request, "priority", "must be one of low, normal, high, critical");
    else
        submit(request, message, (enum job_priority)value, NULL);
}

/* ---- attaching ---- */

static bool
note_event(void *arg, const struct event *event)
{
    (void)event;
    *(bool *)arg = true;
    return false;
}

static bool
read_cursor(struct http_request *request, int64_t *out_after)
{
    struct muster_store *store = http_house(request)->store;
    const char *cursor = http_header(request, "Last-Event-ID");
    muster_err err;

    if (cursor == NULL || *cursor == '\0')
        cursor = http_query(request, "after");
    *out_after = 0;
    if (cursor == NULL || *cursor == '\0')
        return true;
    err = muster_cursor_parse(store, cursor, out_after);
    if (err == MUSTER_OK && *out_after + 1 < muster_log_oldest(store))
        err = MUSTER_CURSOR_EXPIRED;
    if (err)
        fail_cursor(request, err);
    return err == MUSTER_OK;
}

void
iris_handle_attach(struct http_request *request)
{
    bool more = false;
    struct job job;
    int64_t after;

    if (!iris_find(request, &job) || !read_cursor(request, &after))
        return;
    if (iris_is_final(job.state)) {
        /* Its last event is on disk, or no longer: nothing will come. */
        (void)muster_log_walk(http_house(request)->store, &job.id, after, note_event, &more);
        if (!more && after > 0) {
            http_answer(request, 204, "", "", 0);
            return;
        }
        if (!more) {
            fail_cursor(request, MUSTER_CURSOR_EXPIRED);
            return;
        }
    }
    follow(request, &job.id, after);
}
