/* SPDX-License-Identifier: MPL-2.0 */
/* iris: what is done to messages and teams: cancel, retry, pause, resume.  Each is one message to the queue, from the
 * connection's thread, answered when it is on disk. */
#include "api/dialects/iris.h"

/* ---- cancel ---- */

/* The message is where this cannot be done. */
static void
fail_state(struct http_request *request, const struct job *job, enum job_state state, const char *message)
{
    struct muster_arena *arena = http_arena(request);
    struct iris_ended ended = {iris_message_id(arena, &job->id), iris_status(state)};

    iris_fail(request, MUSTER_CONFLICT, &iris_ended_type, &ended,
              muster_arena_printf(arena, "%s: %s", message, ended.status));
}

muster_err
iris_cancel(struct http_request *request, const struct job *job, struct queue_cancelled *out)
{
    struct queue_cancel cancel = {.job = job->id};
    struct job now;
    muster_err err;

    *out = (struct queue_cancelled){.job = job->id, .state = job->state};
    if (muster_job_ended(job->state))
        return MUSTER_CONFLICT;
    out->state = job_state_NONE;
    err = http_ask(request, MUSTER_QUEUE, &queue_cancel_type, &cancel, &queue_cancelled_type, out, IRIS_HOP_MS);
    if (err == MUSTER_OK && out->state != job_state_CANCELLED)
        return MUSTER_CONFLICT;
    /* It has ended while this was on its way. */
    if (err == MUSTER_CONFLICT &&
        muster_store_get(http_house(request)->store, &job_type, &job->id, http_arena(request), &now) == MUSTER_OK &&
        muster_job_ended(now.state))
        out->state = now.state;
    return err;
}

void
iris_handle_cancel(struct http_request *request)
{
    struct muster_arena *arena = http_arena(request);
    struct queue_cancelled cancelled;
    struct iris_cancelled answer;
    struct job job;
    muster_err err;

    if (!iris_find(request, &job))
        return;
    err = iris_cancel(request, &job, &cancelled);
    if (err == MUSTER_CONFLICT && cancelled.state) {
        fail_state(request, &job, cancelled.state, "The message has ended already");
        return;
    }
    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    answer = (struct iris_cancelled){iris_message_id(arena, &job.id), iris_job_id(arena, &job.id),
                                     iris_status(cancelled.state), cancelled.was_running};
    http_answer_type(request, 200, &iris_cancelled_type, &answer);
}

/* ---- retry ---- */

/* The same again, for whoever asks now.  Its deadline counts when it has not passed. */
static struct job
repeat(struct http_request *request, const struct job *failed)
{
    struct muster_arena *arena = http_arena(request);
    char *digest = muster_arena_alloc(arena, MUSTER_DIGEST_HEX);
    uint8_t *fingerprint = muster_arena_alloc(arena, MUSTER_DIGEST);
    int64_t now_ms = muster_clock_ms();
    char id[MUSTER_ID_TEXT];

    muster_id_text(&failed->id, id);
    muster_digest_texts(digest, "retry", id, NULL);
    muster_sha256(id, sizeof id - 1, fingerprint);
    return (struct job){.id = muster_id_new(now_ms),
                        .kind = job_kind_EXECUTE,
                        .team = failed->team,
                        .state = job_state_QUEUED,
                        .priority = failed->priority,
                        .prompt = failed->prompt,
                        .context = failed->context,
                        .from = http_from(request),
                        .key = http_key(request)->id,
                        .trace = http_request_id(request),
                        .created_ms = now_ms,
                        .timeout_ms = failed->timeout_ms,
                        .max_attempts = failed->max_attempts,
                        .callback = failed->callback,
                        .idempotency = digest,
                        .fingerprint = {fingerprint, MUSTER_DIGEST},
                        .deadline_ms = failed->deadline_ms > now_ms ? failed->deadline_ms : 0,
                        .retry_delay_ms = failed->retry_delay_ms,
                        .max_retry_delay_ms = failed->max_retry_delay_ms,
                        .session_id = failed->session_id,
                        .conversation = failed->conversation,
                        .retry_of = failed->id};
}

/* The queue forgets who was retried; the record does not. */
static bool
answer_retried(struct http_request *request, const struct job *failed)
{
    struct queue_accepted accepted = {.job = failed->retried_as, .repeated = true};
    struct job again;

    if (muster_id_is_zero(&failed->retried_as) ||
        muster_store_get(http_house(request)->store, &job_type, &failed->retried_as, http_arena(request), &again))
        return false;
    accepted.position = again.position;
    accepted.estimate_ms = again.estimate_ms;
    iris_answer_accepted(request, &again, &accepted);
    return true;
}

void
iris_handle_retry(struct http_request *request)
{
    struct queue_submit submit;
    struct queue_accepted accepted;
    struct job failed, job;
    muster_err err;

    if (!iris_find(request, &failed))
        return;
    if (failed.state != job_state_FAILED) {
        fail_state(request, &failed, failed.state, "Only a failed message can be retried; this one is");
        return;
    }
    if (answer_retried(request, &failed))
        return;
    if (muster_team_options(http_house(request)->options, failed.team) == NULL) {
        http_fail(request, MUSTER_TEAM_NOT_FOUND, "Team '%.64s' does not exist any more", failed.team);
        return;
    }
    job = repeat(request, &failed);
    submit = (struct queue_submit){.job = &job};
    err = http_ask(request, MUSTER_QUEUE, &queue_submit_type, &submit, &queue_accepted_type, &accepted, IRIS_HOP_MS);
    if (err)
        iris_submit_failed(request, err, &job);
    else
        iris_answer_accepted(request, &job, &accepted);
}

/* ---- teams ---- */

static void
set_paused(struct http_request *request, bool paused)
{
    struct queue_pause pause = {http_param(request, "team"), paused};
    struct queue_paused done;
    struct iris_paused answer;
    muster_err err = http_ask(request, MUSTER_QUEUE, &queue_pause_type, &pause, &queue_paused_type, &done, IRIS_HOP_MS);

    if (err == MUSTER_TIMEOUT) {
        http_fail(request, MUSTER_OVERLOADED, "This was not confirmed in time; it may have been done all the same");
        return;
    }
    if (err) {
        http_fail_as_told(request, err);
        return;
    }
    answer = (struct iris_paused){done.team, done.paused};
    http_answer_type(request, 200, &iris_paused_type, &answer);
}

void
iris_handle_pause(struct http_request *request)
{
    set_paused(request, true);
}

void
iris_handle_resume(struct http_request *request)
{
    set_paused(request, false);
}
