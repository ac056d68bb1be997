/* SPDX-License-Identifier: MPL-2.0 */
/* iris: event streams.  A client that comes back with the id of the last event it saw goes on behind it and never
 * submits again; one that sends its message again with the same Idempotency-Key reads the stream of the first. Handlers
 * run on the connection's thread until the stream is live. */
#include <string.h>

#include "api/dialects/iris.h"

/* ---- following ---- */

static muster_err
open_stream(struct http_request *request, const struct muster_id *id, const char *session_id)
{
    struct http_topic topic = {.job = *id};

    return http_stream_open(request, &topic, iris_render_stream, session_id); /* the start event shows it */
}

static void
follow(struct http_request *request, const struct muster_id *id, const char *session_id, int64_t after)
{
    muster_err err = open_stream(request, id, session_id);

    if (err)
        http_fail(request, err, "%s", muster_err_text(err));
    else
        http_stream_run(request, "", 0, after);
}

static bool
note_event(void *arg, const struct event *event)
{
    (void)event;
    *(bool *)arg = true;
    return false;
}

bool
iris_has_more(struct http_request *request, const struct job *job, int64_t after)
{
    bool more = false;

    if (!muster_job_ended(job->state))
        return true;
    /* Its last event is on disk, or no longer: nothing will come. */
    (void)muster_log_walk(http_house(request)->store, &job->id, after, note_event, &more);
    return more;
}

/* Its events behind `after`; 0: all of them. */
static void
follow_known(struct http_request *request, const struct job *job, int64_t after)
{
    if (iris_has_more(request, job, after))
        follow(request, &job->id, job->session_id, after);
    else if (after > 0)
        http_answer(request, 204, "", "", 0); /* tells EventSource to come back no more */
    else
        http_fail_cursor(request, MUSTER_CURSOR_EXPIRED, "after");
}

/* The same of a job whose record may not be there any more. */
static void
follow_job(struct http_request *request, const struct muster_id *id, int64_t after)
{
    struct job job = {.session_id = NULL};

    (void)muster_store_get(http_house(request)->store, &job_type, id, http_arena(request), &job);
    follow(request, id, job.session_id, after);
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
        (!muster_job_ended(job->state) || job->attempt > 1)) {
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
    follow_job(request, &suspects.job, seq);
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
        http_fail_cursor(request, err, "Last-Event-ID");
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
        follow_job(request, &event.job, event.seq);
}

/* ---- submitting ---- */

/* The message of an earlier request with the same Idempotency-Key, from its beginning. */
static void
follow_repeated(struct http_request *request, const struct muster_id *id)
{
    struct job job;
    muster_err err = muster_store_get(http_house(request)->store, &job_type, id, http_arena(request), &job);

    iris_mark_replayed(request);
    if (err)
        http_fail(request, err, "The message of this Idempotency-Key is no longer kept");
    else
        follow_known(request, &job, 0);
}

static void
submit(struct http_request *request, const struct job *job)
{
    struct queue_submit queue_submit = {.job = job};
    struct queue_accepted accepted;
    muster_err err = open_stream(request, &job->id, job->session_id);

    if (err) {
        http_fail(request, err, "%s", muster_err_text(err));
        return;
    }
    err = http_ask(request, MUSTER_QUEUE, &queue_submit_type, &queue_submit, &queue_accepted_type, &accepted,
                   IRIS_HOP_MS);
    if (err == MUSTER_OK && !accepted.repeated) {
        http_stream_run(request, "", 0, -1);
        return;
    }
    http_stream_drop(request);
    if (err)
        iris_submit_failed(request, err, job);
    else
        follow_repeated(request, &accepted.job);
}

/* `asked` is what the client sent, its priority filled in. */
static void
submit_asked(struct http_request *request, const struct iris_stream *asked, const char *key)
{
    struct iris_plan plan = {.kind = job_kind_STREAM,
                             .team = muster_team_options(http_house(request)->options, http_param(request, "team")),
                             .prompt = asked->message,
                             .priority = asked->priority,
                             .context = asked->context,
                             .session_id = asked->sessionId,
                             .key = key,
                             .type = &iris_stream_type,
                             .asked = asked};
    struct muster_fault fault;
    struct job job;

    if (iris_plan_job(request, &plan, &job, &fault))
        http_fail_field(request, fault.field, fault.message);
    else
        submit(request, &job);
}

void
iris_handle_stream(struct http_request *request)
{
    const char *cursor = http_header(request, "Last-Event-ID"), *key;
    const struct iris_stream *in = http_body(request);
    struct iris_stream asked = *in;
    struct muster_fault fault;

    asked.stream = NULL; /* given or not, it means the same */
    if (!asked.priority)
        asked.priority = job_priority_NORMAL;
    if (in->stream && strcmp(in->stream, "true") != 0)
        http_fail_field(request, "stream", "must be true; for an answer in one piece there is ask");
    else if (cursor && *cursor)
        go_on(request, cursor);
    else if (iris_idempotency_key(request, &key, &fault))
        http_fail_field(request, fault.field, fault.message);
    else
        submit_asked(request, &asked, key);
}

void
iris_handle_stream_get(struct http_request *request)
{
    const char *cursor = http_header(request, "Last-Event-ID");
    const char *priority = http_query(request, "priority");
    struct iris_stream asked = {.message = http_query(request, "message"),
                                .priority = job_priority_NORMAL,
                                .sessionId = http_query(request, "sessionId")};

    if (priority)
        asked.priority = (enum job_priority)muster_enum_value(&job_priority_enum, priority);
    if (cursor && *cursor)
        go_on(request, cursor);
    else if (asked.message == NULL || *asked.message == '\0')
        http_fail_field(request, "message", "must be the message, percent-encoded in the query");
    else if (asked.priority == 0)
        http_fail_field(request, "priority", "must be one of low, normal, high, critical");
    else
        submit_asked(request, &asked, NULL);
}

/* ---- attaching ---- */

static bool
read_cursor(struct http_request *request, int64_t *out_after)
{
    const char *cursor = http_header(request, "Last-Event-ID");
    const char *name = "Last-Event-ID";
    muster_err err;

    if (cursor == NULL || *cursor == '\0') {
        cursor = http_query(request, "after");
        name = "after";
    }
    *out_after = 0;
    if (cursor == NULL || *cursor == '\0')
        return true;
    err = http_cursor_parse(request, cursor, out_after);
    if (err)
        http_fail_cursor(request, err, name);
    return err == MUSTER_OK;
}

void
iris_handle_attach(struct http_request *request)
{
    struct job job;
    int64_t after;

    if (iris_find(request, &job) && read_cursor(request, &after))
        follow_known(request, &job, after);
}
