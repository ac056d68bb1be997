/* SPDX-License-Identifier: MPL-2.0 */
/* iris: the WebSocket.  Messages of the client come in here, each gets one direct answer, and the events of what it
 * follows go out from elsewhere (iris_events.c).  The connection's thread.
 *
 * A client follows what it sends from before it is sent, so no event is missed, and whole teams, and messages that it
 * resumes.  What does not fit is answered with an error, and the connection stays. */
#include <string.h>

#include "api/dialects/iris_talk.h"

enum { POLICY_VIOLATION = 1008 };

/* ---- following ---- */

static void
refuse_follow(struct talk *talk, muster_err err, const struct about *about)
{
    if (err == MUSTER_EXISTS)
        talk_refuse(talk, MUSTER_CONFLICT, about, "This connection follows it already");
    else if (err == MUSTER_OVERLOADED)
        talk_refuse(talk, err, about, "This connection follows as much as http.max_follows allows");
    else
        talk_refuse(talk, err, about, "%s", muster_err_text(err));
}

static struct http_topic
topic_of(struct talk *talk, const char *const *team)
{
    struct muster_strs *teams = muster_arena_alloc(talk->arena, sizeof *teams);

    *teams = (struct muster_strs){team, 1};
    return (struct http_topic){.teams = teams};
}

static void
on_subscribe(struct talk *talk)
{
    struct iris_subscribe in;
    struct iris_subscribed subscribed = {.type = "subscribed", .id = talk->id};
    const struct team_options *team;
    struct http_topic topic;
    struct about about;
    char cursor[MUSTER_CURSOR_TEXT];
    int64_t after = 0;
    muster_err err;

    if (!talk_read_body(talk, &iris_subscribe_type, &in) || !talk_may(talk, "teams:read") ||
        !talk_find_team(talk, in.team, &team))
        return;
    about = (struct about){.team = in.team};
    err = in.after ? http_cursor_parse(talk->request, in.after, &after) : http_settled(talk->request, &after);
    if (err && in.after) {
        talk_refuse_cursor(talk, err, &about);
        return;
    }
    if (err) {
        talk_refuse(talk, err, &about, "%s", muster_err_text(err));
        return;
    }
    topic = topic_of(talk, &in.team);
    err = http_socket_follow(talk->request, &topic, after);
    if (err) {
        refuse_follow(talk, err, &about);
        return;
    }
    muster_cursor_text(http_house(talk->request)->store, after, cursor);
    subscribed.team = in.team;
    subscribed.cursor = cursor;
    talk_answer(talk, &iris_subscribed_type, &subscribed);
}

static void
on_unsubscribe(struct talk *talk)
{
    struct iris_unsubscribed unsubscribed = {.type = "unsubscribed", .id = talk->id};
    struct iris_unsubscribe in;
    struct http_topic topic;
    struct about about;

    if (!talk_read_body(talk, &iris_unsubscribe_type, &in))
        return;
    about = (struct about){.team = in.team};
    topic = topic_of(talk, &in.team);
    if (!http_socket_unfollow(talk->request, &topic)) {
        talk_refuse(talk, MUSTER_NOT_FOUND, &about, "This connection has not subscribed to team '%s'", in.team);
        return;
    }
    unsubscribed.team = in.team;
    talk_answer(talk, &iris_unsubscribed_type, &unsubscribed);
}

/* The events of a message behind `after`, and those to come.  False: refused. */
static bool
follow_known(struct talk *talk, const struct job *job, int64_t after)
{
    struct http_topic topic = {.job = job->id};
    struct about about = {.message_id = iris_message_id(talk->arena, &job->id), .team = job->team};
    struct iris_ended ended = {about.message_id, iris_status(job->state)};
    muster_err err;

    if (iris_has_more(talk->request, job, after)) {
        (void)http_socket_unfollow(talk->request, &topic); /* it is to be shown from there, whatever was shown */
        err = http_socket_follow(talk->request, &topic, after);
        if (err)
            refuse_follow(talk, err, &about);
        return err == MUSTER_OK;
    }
    if (after > 0) {
        about.details = iris_json(talk->arena, &iris_ended_type, &ended);
        talk_refuse(talk, MUSTER_CONFLICT, &about, "The message has ended, with nothing behind this cursor: %s",
                    ended.status);
    } else {
        talk_refuse_cursor(talk, MUSTER_CURSOR_EXPIRED, &about);
    }
    return false;
}

static void
on_resume(struct talk *talk)
{
    struct iris_resumed resumed = {.type = "resumed", .id = talk->id};
    struct iris_resume in;
    struct job job;
    int64_t after = 0;
    muster_err err = MUSTER_OK;

    if (!talk_read_body(talk, &iris_resume_type, &in) || !talk_find_message(talk, in.messageId, &job))
        return;
    if (in.after)
        err = http_cursor_parse(talk->request, in.after, &after);
    if (err) {
        talk_refuse_cursor(talk, err, &(struct about){.message_id = in.messageId, .team = job.team});
        return;
    }
    if (!follow_known(talk, &job, after))
        return;
    resumed.messageId = iris_message_id(talk->arena, &job.id);
    resumed.team = job.team;
    resumed.status = iris_status(job.state);
    talk_answer(talk, &iris_resumed_type, &resumed);
}

/* ---- messages ---- */

static void
answer_sent(struct talk *talk, const struct job *job, const struct queue_accepted *accepted)
{
    struct iris_sent sent = {.type = "accepted",
                             .messageId = iris_message_id(talk->arena, &accepted->job),
                             .jobId = iris_job_id(talk->arena, &accepted->job),
                             .team = job->team,
                             .sessionId = job->session_id,
                             .position = accepted->position,
                             .estimatedCompletion = accepted->estimate_ms,
                             .replayed = accepted->repeated,
                             .id = talk->id};

    talk_answer(talk, &iris_sent_type, &sent);
}

/* The message of an earlier one with the same idempotencyKey. */
static void
follow_repeated(struct talk *talk, const struct muster_id *id)
{
    struct about about = {.message_id = iris_message_id(talk->arena, id)};
    struct job job;

    if (muster_store_get(http_house(talk->request)->store, &job_type, id, talk->arena, &job))
        talk_refuse(talk, MUSTER_NOT_FOUND, &about, "The message of this idempotencyKey is no longer kept");
    else
        (void)follow_known(talk, &job, 0);
}

static void
submit_failed(struct talk *talk, muster_err err, const struct job *job)
{
    struct about about = {.message_id = iris_message_id(talk->arena, &job->id), .team = job->team};

    if (err == MUSTER_TIMEOUT) {
        talk_refuse(talk, MUSTER_OVERLOADED, &about,
                    "The message was not confirmed in time; it may have been accepted all the same");
        return;
    }
    about.message_id = NULL;
    talk_refuse_as_told(talk, err, &about);
}

/* Follows before it sends: an event that comes at once is not missed. */
static void
submit(struct talk *talk, const struct job *job)
{
    struct http_topic topic = {.job = job->id};
    struct queue_submit queue_submit = {.job = job};
    struct queue_accepted accepted;
    muster_err err = http_socket_follow(talk->request, &topic, -1);

    if (err) {
        refuse_follow(talk, err, &(struct about){.team = job->team});
        return;
    }
    err = http_ask(talk->request, MUSTER_QUEUE, &queue_submit_type, &queue_submit, &queue_accepted_type, &accepted,
                   IRIS_HOP_MS);
    talk->counted = true;
    if ((err && err != MUSTER_TIMEOUT) || (!err && accepted.repeated))
        (void)http_socket_unfollow(talk->request, &topic);
    if (err) {
        submit_failed(talk, err, job);
        return;
    }
    answer_sent(talk, job, &accepted);
    if (accepted.repeated)
        follow_repeated(talk, &accepted.job);
}

static void
on_message(struct talk *talk)
{
    struct iris_send in;
    struct iris_stream asked; /* what a stream would have said, so that one key serves both */
    struct iris_plan plan = {.kind = job_kind_STREAM, .type = &iris_stream_type, .asked = &asked};
    struct muster_fault fault = {"", ""};
    struct job job;

    if (!talk_read_body(talk, &iris_send_type, &in) || !talk_may(talk, "messages:write") ||
        !talk_find_team(talk, in.team, &plan.team))
        return;
    asked = (struct iris_stream){.message = in.message,
                                 .priority = in.priority ? in.priority : job_priority_NORMAL,
                                 .context = in.context,
                                 .sessionId = in.sessionId};
    plan.prompt = in.message;
    plan.priority = asked.priority;
    plan.context = in.context;
    plan.session_id = in.sessionId;
    plan.key = in.idempotencyKey;
    if (iris_plan_job(talk->request, &plan, &job, &fault))
        talk_refuse_field(talk, &(struct about){.team = in.team}, fault.field, fault.message);
    else
        submit(talk, &job);
}

static void
on_cancel(struct talk *talk)
{
    struct iris_socket_cancelled answered = {.type = "cancelled", .id = talk->id};
    struct queue_cancelled cancelled;
    struct iris_ended ended;
    struct iris_end in;
    struct about about;
    struct job job;
    muster_err err;

    if (!talk_read_body(talk, &iris_end_type, &in) || !talk_may(talk, "messages:write") ||
        !talk_find_message(talk, in.messageId, &job))
        return;
    about = (struct about){.message_id = iris_message_id(talk->arena, &job.id), .team = job.team};
    err = iris_cancel(talk->request, &job, &cancelled);
    if (err == MUSTER_CONFLICT && cancelled.state) {
        ended = (struct iris_ended){about.message_id, iris_status(cancelled.state)};
        about.details = iris_json(talk->arena, &iris_ended_type, &ended);
        talk_refuse(talk, err, &about, "The message has ended already: %s", ended.status);
    } else if (err) {
        talk_refuse_as_told(talk, err, &about);
    } else {
        answered.messageId = about.message_id;
        answered.status = iris_status(cancelled.state);
        answered.wasRunning = cancelled.was_running;
        talk_answer(talk, &iris_socket_cancelled_type, &answered);
    }
}

/* ---- who it is, and whether it is there ---- */

static void
on_auth(struct talk *talk)
{
    struct iris_authenticated authenticated = {.type = "authenticated", .id = talk->id};
    const struct about nothing = {.message_id = NULL};
    const char *reason = NULL;
    struct iris_auth in;
    muster_err err;

    if (!talk_read_body(talk, &iris_auth_type, &in))
        return;
    if (http_socket_has_key(talk->request)) {
        talk_refuse(talk, MUSTER_CONFLICT, &nothing, "This connection is authenticated already");
        return;
    }
    err = http_socket_login(talk->request, in.token, &reason);
    if (err) {
        talk_refuse(talk, err, &nothing, "%s", reason ? reason : muster_err_text(err));
        return;
    }
    authenticated.name = http_key(talk->request)->name;
    talk_answer(talk, &iris_authenticated_type, &authenticated);
}

static void
on_ping(struct talk *talk)
{
    struct iris_pong pong = {"pong", muster_clock_ms(), talk->id};

    talk_answer(talk, &iris_pong_type, &pong);
}

/* ---- the table ---- */

enum counted { COUNTS, FORWARDS /* counts when it is handed on, or refused */, FREE };

static const struct said {
    const char *type;
    enum counted counted;
    void (*handle)(struct talk *talk);
} rows[] = {{"auth", FREE, on_auth},
            {"subscribe", COUNTS, on_subscribe},
            {"unsubscribe", COUNTS, on_unsubscribe},
            {"message", FORWARDS, on_message},
            {"cancel", COUNTS, on_cancel},
            {"resume", COUNTS, on_resume},
            {"ping", FREE, on_ping},
            {NULL, FREE, NULL}};

static const struct said *
find_row(const char *type)
{
    const struct said *row;

    for (row = rows; row->type; row++)
        if (strcmp(row->type, type) == 0)
            return row;
    return NULL;
}

static void
dispatch(struct talk *talk, const struct said *row)
{
    if (row == NULL) {
        talk_refuse_field(talk, &(struct about){.message_id = NULL}, "type",
                          "must be one of auth, subscribe, unsubscribe, message, cancel, resume, ping");
        return;
    }
    if (row->counted == FREE)
        talk->counted = true;
    if (row->counted != COUNTS || talk_count(talk))
        row->handle(talk);
}

static void
on_text(struct http_request *request, const char *text, size_t size, void *arg)
{
    struct talk talk = {.request = request, .arena = http_arena(request), .text = text, .size = size};
    bool has_key = http_socket_has_key(request);
    struct muster_fault fault = {"", ""};
    struct iris_said said = {.type = ""};
    muster_err err = muster_json_decode(&iris_said_type, text, size, 0, talk.arena, &said, &fault);

    (void)arg;
    if (!http_key_is_good(request)) { /* the heartbeat would see it too, but later */
        http_socket_close(request, POLICY_VIOLATION, "the credential is no longer good");
        return;
    }
    talk.id = said.id;
    talk.counted = !has_key; /* there is nothing to count against */
    if (!has_key && (err || strcmp(said.type, "auth") != 0))
        talk_refuse(&talk, MUSTER_UNAUTHORIZED, &(struct about){.message_id = NULL},
                    "The first message must be {\"type\":\"auth\",\"token\":\"...\"}");
    else if (err)
        talk_refuse_field(&talk, &(struct about){.message_id = NULL}, fault.field, fault.message);
    else
        dispatch(&talk, find_row(said.type));
}

void
iris_handle_socket(struct http_request *request)
{
    http_socket_run(request, on_text, iris_render_socket, NULL);
}
