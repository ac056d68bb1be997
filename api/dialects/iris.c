/* SPDX-License-Identifier: MPL-2.0 */
/* The iris dialect: its routes, its errors, and how its words map onto ours.  A message and a job are the same thing
 * here: msg_<id> and job_<id> name one job.  Runs on connections' threads. */
#include "api/dialects/iris.h"

#include <string.h>

#include "schemas/pass_rows.h"

#include "api/dialects/iris.def"
#include "schemas/pass_end.h"

#include "schemas/pass_types.h"

#include "api/dialects/iris.def"
#include "schemas/pass_end.h"

#define STREAMS (HTTP_TEAM | HTTP_STREAM | HTTP_FORWARDS)

static const struct http_route routes[] = {
    {"POST", "/api/v1/teams/{team}/ask", "teams:read messages:write", 1, &iris_ask_type, HTTP_TEAM | HTTP_FORWARDS,
     iris_handle_ask, "Ask a team and wait for its answer."},
    {"POST", "/api/v1/teams/{team}/execute", "teams:read messages:write", 1, &iris_execute_type,
     HTTP_TEAM | HTTP_FORWARDS, iris_handle_execute, "Give a team a task; its end can be called back."},
    {"POST", "/api/v1/teams/{team}/stream", "teams:read messages:stream", 1, &iris_stream_type, STREAMS,
     iris_handle_stream, "Ask a team and read its answer as it comes."},
    {"GET", "/api/v1/teams/{team}/stream", "teams:read messages:stream", 1, NULL, STREAMS, iris_handle_stream_get,
     "The same for EventSource: ?message, priority, sessionId; with Last-Event-ID an earlier stream goes on."},
    {"GET", "/api/v1/teams/{team}/status", "teams:read", 1, NULL, HTTP_TEAM, iris_handle_team_status,
     "A team, its queue and its processes."},
    {"POST", "/api/v1/teams/{team}/pause", "processes:manage", 1, NULL, HTTP_TEAM, iris_handle_pause,
     "Have a team start no more messages; those at work go on."},
    {"POST", "/api/v1/teams/{team}/resume", "processes:manage", 1, NULL, HTTP_TEAM, iris_handle_resume,
     "Have it start messages again."},
    {"GET", "/api/v1/teams", "teams:read", 1, NULL, 0, iris_handle_teams, "The teams that the key may use."},
    {"GET", "/api/v1/messages/history", "messages:read", 1, NULL, 0, iris_handle_history,
     "Messages, newest first: ?team, from, to, status (also dead: failed and not retried), since, limit, page."},
    {"GET", "/api/v1/messages/{messageId}", "messages:read", 1, NULL, 0, iris_handle_message,
     "A message, its status and its answer."},
    {"GET", "/api/v1/messages/{messageId}/stream", "messages:stream", 1, NULL, HTTP_STREAM, iris_handle_attach,
     "The events of a message, from its beginning or ?after=<cursor>."},
    {"POST", "/api/v1/messages/{messageId}/cancel", "messages:write", 1, NULL, 0, iris_handle_cancel,
     "End a message that has not ended yet."},
    {"POST", "/api/v1/messages/{messageId}/retry", "messages:write", 1, NULL, 0, iris_handle_retry,
     "Send a failed message again, as a new one."},
    {"GET", "/api/v1/stream", "messages:stream", 1, NULL, HTTP_SOCKET | HTTP_FORWARDS, iris_handle_socket,
     "A WebSocket: messages in, their events out; subscriptions to teams."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};

/* `error` is the sentence that the document's own checks put there. */
static void
render_error(struct muster_buf *out, muster_err err, const char *message, const char *details, int64_t now_ms)
{
    struct iris_error error = {.error = err == MUSTER_UNAUTHORIZED ? message : muster_err_text(err),
                               .code = muster_err_code(err),
                               .message = message,
                               .details = details,
                               .timestamp = now_ms};

    muster_json_encode(&iris_error_type, &error, out);
    http_error_lift(out, err, details);
}

/* ---- the manual ---- */

extern const struct muster_type callback_body_type; /* of actors/webhook.def, whose structs are the actor's own */

static const struct muster_type *const requests[] = {&iris_ask_type, &iris_execute_type, &iris_stream_type, NULL};
static const struct muster_type *const answers[] = {
    &iris_answer_type, &iris_accepted_type,    &iris_message_type, &iris_cancelled_type, &iris_history_type,
    &iris_teams_type,  &iris_team_status_type, &iris_paused_type,  &iris_error_type,     NULL};
static const struct muster_type *const error_details[] = {&iris_pending_type, &iris_failure_type, &iris_ended_type,
                                                          NULL};
static const struct muster_type *const events[] = {&iris_start_type,
                                                   &iris_chunk_type,
                                                   &iris_tool_use_type,
                                                   &iris_denied_type,
                                                   &iris_step_type,
                                                   &iris_retry_type,
                                                   &iris_lost_type,
                                                   &iris_found_type,
                                                   &iris_complete_type,
                                                   &iris_broken_type,
                                                   NULL};
static const struct muster_type *const socket_in[] = {
    &iris_said_type, &iris_auth_type, &iris_subscribe_type, &iris_unsubscribe_type,
    &iris_send_type, &iris_end_type,  &iris_resume_type,    NULL};
static const struct muster_type *const socket_out[] = {
    &iris_authenticated_type, &iris_subscribed_type,       &iris_resumed_type,       &iris_unsubscribed_type,
    &iris_sent_type,          &iris_socket_cancelled_type, &iris_pong_type,          &iris_socket_start_type,
    &iris_socket_chunk_type,  &iris_socket_tool_use_type,  &iris_socket_denied_type, &iris_socket_progress_type,
    &iris_socket_retry_type,  &iris_socket_complete_type,  &iris_socket_error_type,  &iris_lacking_type,
    &iris_socket_lost_type,   &iris_socket_found_type,     &iris_misfit_type,        NULL};
static const struct muster_type *const callbacks[] = {&callback_body_type, NULL};
static const struct http_bodies bodies[] = {{"requests", requests},
                                            {"answers", answers},
                                            {"details of errors", error_details},
                                            {"events of a stream", events},
                                            {"to a WebSocket; `type` is the name's last part", socket_in},
                                            {"from a WebSocket", socket_out},
                                            {"callbacks", callbacks},
                                            {NULL, NULL}};

const struct http_dialect iris_dialect = {"iris", routes, render_error, bodies};

/* ---- names ---- */

static const char *
name(struct muster_arena *arena, const char *prefix, const struct muster_id *id)
{
    char text[MUSTER_ID_TEXT];

    muster_id_text(id, text);
    return muster_arena_join(arena, prefix, text);
}

const char *
iris_message_id(struct muster_arena *arena, const struct muster_id *id)
{
    return name(arena, "msg_", id);
}

const char *
iris_job_id(struct muster_arena *arena, const struct muster_id *id)
{
    return name(arena, "job_", id);
}

bool
iris_look_up(struct http_request *request, const char *text, struct job *out_job)
{
    struct muster_id id;

    if (strncmp(text, "msg_", 4) == 0 || strncmp(text, "job_", 4) == 0)
        text += 4;
    return muster_id_parse(text, &id) == MUSTER_OK &&
           muster_store_get(http_house(request)->store, &job_type, &id, http_arena(request), out_job) == MUSTER_OK &&
           http_may_use(request, out_job->team);
}

bool
iris_find(struct http_request *request, struct job *out_job)
{
    if (iris_look_up(request, http_param(request, "messageId"), out_job))
        return true;
    http_fail(request, MUSTER_NOT_FOUND, "There is no such message");
    return false;
}

/* ---- words ---- */

const char *
iris_status(enum job_state state)
{
    switch (state) {
    case job_state_RUNNING:
    case job_state_WAITING:
        return "processing";
    case job_state_COMPLETED:
        return "completed";
    case job_state_FAILED:
        return "failed";
    case job_state_CANCELLED:
        return "cancelled";
    default:
        return "queued";
    }
}

int64_t
iris_duration(const struct job *job)
{
    return muster_job_duration(job->started_ms, job->finished_ms);
}

const struct iris_usage *
iris_usage_of(struct muster_arena *arena, const struct usage *usage)
{
    struct iris_usage *out;

    if (usage == NULL || (usage->input_tokens == 0 && usage->output_tokens == 0 && usage->cache_read_tokens == 0 &&
                          usage->cache_write_tokens == 0 && usage->turns == 0 && usage->cost_usd <= 0))
        return NULL;
    out = muster_arena_alloc(arena, sizeof *out);
    *out = (struct iris_usage){.inputTokens = usage->input_tokens,
                               .outputTokens = usage->output_tokens,
                               .cacheReadTokens = usage->cache_read_tokens,
                               .cacheWriteTokens = usage->cache_write_tokens,
                               .costUsd = usage->cost_usd,
                               .turns = usage->turns};
    return out;
}

const struct iris_metadata *
iris_metadata_of(struct muster_arena *arena, const struct job *job)
{
    struct iris_metadata *out = muster_arena_alloc(arena, sizeof *out);

    *out = (struct iris_metadata){job->files, job->tools, iris_usage_of(arena, job->usage)};
    return out;
}

const struct iris_problem *
iris_problem_of(struct muster_arena *arena, const struct job *job)
{
    struct iris_problem *out;

    if (job->state != job_state_FAILED && job->state != job_state_CANCELLED)
        return NULL;
    out = muster_arena_alloc(arena, sizeof *out);
    out->code = job->error && *job->error           ? job->error
                : job->state == job_state_CANCELLED ? muster_err_code(MUSTER_CANCELLED)
                                                    : muster_err_code(MUSTER_INTERNAL_ERROR);
    out->message = job->error_message && *job->error_message ? job->error_message
                                                             : muster_err_text(muster_err_from_code(out->code));
    return out;
}

struct muster_queue_view
iris_queue_view(struct http_request *request, const char *team)
{
    const char *board = muster_arena_join(http_arena(request), MUSTER_QUEUE_BOARD "/", team);
    struct muster_notice *notice = muster_board_take(http_house(request)->bus, board);
    struct muster_queue_view view = {.queued = 0};

    if (notice)
        view = *(const struct muster_queue_view *)muster_notice_object(notice);
    muster_notice_release(&notice);
    return view;
}

/* ---- errors ---- */

const char *
iris_json(struct muster_arena *arena, const struct muster_type *type, const void *in)
{
    struct muster_buf json = {0};
    const char *text;

    muster_json_encode(type, in, &json);
    text = muster_arena_str(arena, json.data, json.size);
    muster_buf_free(&json);
    return text;
}

void
iris_fail(struct http_request *request, muster_err err, const struct muster_type *type, const void *details,
          const char *message)
{
    http_fail_details(request, err, iris_json(http_arena(request), type, details), "%s", message);
}
