/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_body: what receivers are told.  Keeps nothing and cannot fail: what a job or an event lacks is left out, or
 * has a value that stands for it. */
#include <string.h>

#include "actors/muster_job.h"
#include "actors/webhook.h"

#define SUMMARY_MAX 200 /* characters */

/* clang-format off */
#include "schemas/pass_struct.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_extern.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_rows.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_types.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
/* clang-format on */

/* ---- how a job ended ------------------------------------------------------------------------------------------------
 */

/* The first line that is not blank, cut to SUMMARY_MAX characters. */
static const char *
summary_of(struct muster_arena *arena, const char *text)
{
    size_t size, characters = 0;

    text += strspn(text, " \t\r\n");
    for (size = 0; text[size] && text[size] != '\n' && text[size] != '\r'; size++)
        if (((unsigned char)text[size] & 0xc0) != 0x80 && ++characters > SUMMARY_MAX)
            break;
    return muster_arena_str(arena, text, size);
}

static struct callback_result
result_of(struct muster_arena *arena, const struct job *job)
{
    const char *details = job->result ? job->result : "";

    return (struct callback_result){.summary = summary_of(arena, details), .details = details};
}

static const char *
error_of(const char *code, const char *message)
{
    return message && message[0] ? message : muster_err_text(muster_err_from_code(code));
}

static const char *
prefixed(struct muster_arena *arena, const char *prefix, const struct muster_id *id)
{
    char text[MUSTER_ID_TEXT];

    muster_id_text(id, text);
    return muster_arena_printf(arena, "%s_%s", prefix, text);
}

void
webhook_body_callback(struct muster_arena *arena, const struct job *job, struct muster_buf *out)
{
    struct callback_result result = result_of(arena, job);
    struct callback_body body = {.jobId = prefixed(arena, "job", &job->id),
                                 .team = job->team,
                                 .status = muster_enum_wire(&job_state_enum, (int)job->state),
                                 .duration = muster_job_duration(job->started_ms, job->finished_ms),
                                 .timestamp = job->finished_ms};

    if (job->state == job_state_COMPLETED) {
        body.result = &result;
    } else if (job->state == job_state_FAILED) {
        body.code = job->error ? job->error : muster_err_code(MUSTER_INTERNAL_ERROR);
        body.error = error_of(body.code, job->error_message);
    }
    muster_json_encode(&callback_body_type, &body, out);
}

/* ---- events ---------------------------------------------------------------------------------------------------------
 */

static const char *
time_text(struct muster_arena *arena, int64_t at_ms)
{
    struct muster_buf text = {0};
    const char *copy;

    muster_buf_time(&text, at_ms);
    copy = muster_arena_str(arena, text.data, text.size);
    muster_buf_free(&text);
    return copy;
}

static struct webhook_ended
ended_of(struct muster_arena *arena, const struct event *event, const struct job *job, enum job_state state)
{
    return (struct webhook_ended){.messageId = prefixed(arena, "msg", &event->job),
                                  .jobId = prefixed(arena, "job", &event->job),
                                  .team = event->team,
                                  .status = muster_enum_wire(&job_state_enum, (int)state),
                                  .from = job ? job->from : NULL,
                                  .sessionId = job ? job->session_id : NULL,
                                  .timestamp = event->at_ms};
}

static void
put_queued(struct muster_arena *arena, const struct event *event, const struct job *job, const void *body,
           struct muster_buf *out)
{
    const struct job_queued *in = body;
    struct webhook_queued data = {.messageId = prefixed(arena, "msg", &event->job),
                                  .jobId = prefixed(arena, "job", &event->job),
                                  .team = event->team,
                                  .status = muster_enum_wire(&job_state_enum, job_state_QUEUED),
                                  .from = job ? job->from : NULL,
                                  .sessionId = job ? job->session_id : NULL,
                                  .priority = in->priority,
                                  .position = in->position,
                                  .timestamp = event->at_ms};

    muster_json_encode(&webhook_queued_type, &data, out);
}

static void
put_completed(struct muster_arena *arena, const struct event *event, const struct job *job, const void *body,
              struct muster_buf *out)
{
    const struct job_completed *in = body;
    struct webhook_ended data = ended_of(arena, event, job, job_state_COMPLETED);
    struct callback_result result;

    data.duration = in->duration_ms;
    if (job) {
        result = result_of(arena, job);
        data.result = &result;
    }
    muster_json_encode(&webhook_ended_type, &data, out);
}

static void
put_failed(struct muster_arena *arena, const struct event *event, const struct job *job, const void *body,
           struct muster_buf *out)
{
    const struct job_failed *in = body;
    struct webhook_ended data = ended_of(arena, event, job, job_state_FAILED);

    data.duration = in->duration_ms;
    data.code = in->code;
    data.error = error_of(in->code, in->message);
    muster_json_encode(&webhook_ended_type, &data, out);
}

static void
put_cancelled(struct muster_arena *arena, const struct event *event, const struct job *job, const void *body,
              struct muster_buf *out)
{
    const struct job_cancelled *in = body;
    struct webhook_ended data = ended_of(arena, event, job, job_state_CANCELLED);

    data.duration = in->duration_ms;
    data.by = in->by;
    muster_json_encode(&webhook_ended_type, &data, out);
}

static void
put_paused(struct muster_arena *arena, const struct event *event, const struct job *job, const void *body,
           struct muster_buf *out)
{
    const struct team_paused *in = body;
    struct webhook_team data = {.team = event->team, .by = in->by};

    (void)arena;
    (void)job;
    muster_json_encode(&webhook_team_type, &data, out);
}

static void
put_resumed(struct muster_arena *arena, const struct event *event, const struct job *job, const void *body,
            struct muster_buf *out)
{
    const struct team_resumed *in = body;
    struct webhook_team data = {.team = event->team, .by = in->by};

    (void)arena;
    (void)job;
    muster_json_encode(&webhook_team_type, &data, out);
}

static const struct {
    const struct muster_type *type;
    void (*put)(struct muster_arena *arena, const struct event *event, const struct job *job, const void *body,
                struct muster_buf *out);
} told[] = {{&job_queued_type, put_queued},
            {&job_completed_type, put_completed},
            {&job_failed_type, put_failed},
            {&job_cancelled_type, put_cancelled},
            {&team_paused_type, put_paused},
            {&team_resumed_type, put_resumed},
            {NULL, NULL}};

/* Append the JSON of its `data`; of a type without a row here what the event itself has. */
static void
put_data(struct muster_arena *arena, const struct event *event, const struct job *job, struct muster_buf *out)
{
    const struct muster_event_row *row = muster_event_row(event->type);
    void *body;
    size_t i;

    if (row == NULL) {
        muster_buf_str(out, "{}");
        return;
    }
    body = muster_arena_alloc(arena, row->type->size);
    if (muster_unpack(row->type, event->body.data, event->body.size, arena, body, NULL)) {
        muster_buf_str(out, "{}");
        return;
    }
    for (i = 0; told[i].type && told[i].type != row->type; i++)
        ;
    if (told[i].type)
        told[i].put(arena, event, job, body, out);
    else
        muster_json_encode(row->type, body, out);
}

static void
put_body(struct muster_arena *arena, const char *type, int64_t at_ms, const struct muster_buf *data,
         struct muster_buf *out)
{
    struct webhook_body body = {.type = type, .timestamp = time_text(arena, at_ms), .data = data->data};

    muster_json_encode(&webhook_body_type, &body, out);
}

void
webhook_body_event(struct muster_arena *arena, const struct event *event, const struct job *job, struct muster_buf *out)
{
    struct muster_buf data = {0};

    put_data(arena, event, job, &data);
    put_body(arena, event->type, event->at_ms, &data, out);
    muster_buf_free(&data);
}

void
webhook_body_test(struct muster_arena *arena, const struct muster_id *webhook, int64_t now_ms, struct muster_buf *out)
{
    struct webhook_tested_data tested = {.webhookId = *webhook, .message = "This is a test; nothing has happened."};
    struct muster_buf data = {0};

    muster_json_encode(&webhook_tested_data_type, &tested, &data);
    put_body(arena, "webhook.test", now_ms, &data, out);
    muster_buf_free(&data);
}
