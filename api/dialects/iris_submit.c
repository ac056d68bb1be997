/* SPDX-License-Identifier: MPL-2.0 */
/* iris: ask and execute.  Both are a queue.submit that goes through the rate limiter; an ask waits for the job's end on
 * the connection's thread, and the job goes on when nobody waits any more.  A request that is sent again with its
 * Idempotency-Key gets the job of the first one. */
#include <string.h>

#include "api/dialects/iris.h"

/* ---- answers ---- */

static void
fail_pending(struct http_request *request, muster_err err, const struct job *job, const char *message)
{
    struct muster_arena *arena = http_arena(request);
    const char *id = iris_message_id(arena, &job->id);
    struct iris_pending pending = {.messageId = id, .jobId = iris_job_id(arena, &job->id)};
    struct job now;

    pending.status = "queued";
    if (muster_store_get(http_house(request)->store, &job_type, &job->id, arena, &now) == MUSTER_OK)
        pending.status = iris_status(now.state);
    pending.statusUrl = muster_arena_printf(arena, "/api/v1/messages/%s", id);
    iris_fail(request, err, &iris_pending_type, &pending, message);
}

void
iris_submit_failed(struct http_request *request, muster_err err, const struct job *job)
{
    if (err == MUSTER_TIMEOUT)
        fail_pending(request, MUSTER_OVERLOADED, job,
                     "The message was not confirmed in time; it may have been accepted all the same");
    else
        http_fail_as_told(request, err);
}

void
iris_mark_replayed(struct http_request *request)
{
    http_add_header(request, "Idempotent-Replayed", "true");
}

void
iris_answer_accepted(struct http_request *request, const struct job *job, const struct queue_accepted *accepted)
{
    struct muster_arena *arena = http_arena(request);
    struct iris_accepted answer = {.jobId = iris_job_id(arena, &accepted->job),
                                   .messageId = iris_message_id(arena, &accepted->job),
                                   .team = job->team,
                                   .status = "queued",
                                   .estimatedCompletion = accepted->estimate_ms,
                                   .position = accepted->position,
                                   .sessionId = job->session_id};

    if (!muster_id_is_zero(&job->retry_of))
        answer.retryOf = iris_message_id(arena, &job->retry_of);
    if (accepted->repeated)
        iris_mark_replayed(request);
    http_answer_type(request, 202, &iris_accepted_type, &answer);
}

/* ---- ask ---- */

static void
answer_ask(struct http_request *request, const struct job *job)
{
    struct muster_arena *arena = http_arena(request);
    struct iris_failure failure = {iris_message_id(arena, &job->id), job->attempt};
    const struct iris_problem *problem = iris_problem_of(arena, job);
    struct iris_answer answer = {.messageId = failure.messageId,
                                 .team = job->team,
                                 .question = job->prompt,
                                 .response = job->result ? job->result : "",
                                 .duration = iris_duration(job),
                                 .timestamp = job->finished_ms,
                                 .sessionId = job->session_id,
                                 .metadata = iris_metadata_of(arena, job)};

    if (problem)
        iris_fail(request, muster_err_from_code(problem->code), &iris_failure_type, &failure, problem->message);
    else
        http_answer_type(request, 200, &iris_answer_type, &answer);
}

/* Whatever comes between now and the answer, the message goes on. */
static void
await_answer(struct http_request *request, const struct job *job, int64_t timeout_ms)
{
    struct queue_finished finished;
    muster_err err = http_await(request, &queue_finished_type, &finished, timeout_ms);

    if (err == MUSTER_OK)
        answer_ask(request, finished.job);
    else if (err == MUSTER_TIMEOUT)
        fail_pending(request, err, job, "No answer came in time; the message goes on and can be asked for later");
    else if (err == MUSTER_GONE)
        http_fail_as_told(request, err);
    else
        fail_pending(request, err, job, "The server stops; the message goes on, at its next start if need be");
}

/* It was asked before: what came of it, or where it is. */
static void
answer_repeated(struct http_request *request, const struct muster_id *id)
{
    struct job job;
    muster_err err = muster_store_get(http_house(request)->store, &job_type, id, http_arena(request), &job);

    iris_mark_replayed(request);
    if (err)
        http_fail(request, err, "The message of this Idempotency-Key is no longer kept");
    else if (muster_job_ended(job.state))
        answer_ask(request, &job);
    else
        fail_pending(request, MUSTER_IDEMPOTENCY_IN_PROGRESS, &job,
                     "The message of this Idempotency-Key has no answer yet; ask for it later");
}

static void
submit_ask(struct http_request *request, const struct job *job, int64_t timeout_ms)
{
    struct queue_submit submit = {.job = job, .wait = true};
    struct queue_accepted accepted;
    /* Only what was accepted may be said to go on, so that comes first, however short the caller's patience. */
    muster_err err =
        http_ask(request, MUSTER_QUEUE, &queue_submit_type, &submit, &queue_accepted_type, &accepted, IRIS_HOP_MS);

    if (err)
        iris_submit_failed(request, err, job);
    else if (accepted.repeated)
        answer_repeated(request, &accepted.job);
    else
        await_answer(request, job, timeout_ms);
}

static muster_err
plan_ask(struct http_request *request, const struct iris_ask *in, struct job *out_job, struct muster_fault *fault)
{
    const struct http_options *options = http_house(request)->options->http;
    struct iris_ask asked = *in;
    struct iris_plan plan = {.kind = job_kind_ASK,
                             .team = muster_team_options(http_house(request)->options, http_param(request, "team")),
                             .prompt = in->question,
                             .priority = in->priority,
                             .context = in->context,
                             .session_id = in->sessionId,
                             .type = &iris_ask_type,
                             .asked = &asked};
    muster_err err = iris_idempotency_key(request, &plan.key, fault);

    if (!asked.priority)
        asked.priority = job_priority_NORMAL;
    if (!err)
        err = iris_plan_job(request, &plan, out_job, fault);
    if (!err && in->timeout > options->max_ask_timeout)
        err = muster_fault_set(fault, "timeout", "must be at most %lld", (long long)options->max_ask_timeout);
    return err;
}

void
iris_handle_ask(struct http_request *request)
{
    const struct iris_ask *in = http_body(request);
    struct muster_fault fault;
    struct job job;

    if (plan_ask(request, in, &job, &fault)) {
        http_fail_field(request, fault.field, fault.message);
        return;
    }
    if (!http_wait_begin(request)) {
        http_fail(request, MUSTER_OVERLOADED, "Too many asks wait for their answer; try again later, or execute");
        return;
    }
    submit_ask(request, &job, in->timeout ? in->timeout : http_house(request)->options->http->ask_timeout);
    http_wait_end(request);
}

/* ---- execute ---- */

static muster_err
plan_callback(struct http_request *request, const struct iris_callback *in, struct job *job, struct muster_fault *fault)
{
    struct job_callback *callback = muster_arena_alloc(http_arena(request), sizeof *callback);
    uint8_t *secret = muster_arena_alloc(http_arena(request), MUSTER_WHSEC_BYTES);
    size_t size;

    *callback =
        (struct job_callback){.url = in->url, .method = in->method ? in->method : "POST", .headers = in->headers};
    if (strcmp(callback->method, "POST") != 0 && strcmp(callback->method, "PUT") != 0 &&
        strcmp(callback->method, "PATCH") != 0)
        return muster_fault_set(fault, "callback.method", "must be one of POST, PUT, PATCH");
    if (in->secret && muster_whsec_parse(in->secret, secret, &size))
        return muster_fault_set(fault, "callback.secret", "must be whsec_ and 24 to 64 bytes in base64");
    if (in->secret)
        callback->secret = (struct muster_bytes){secret, size};
    job->callback = callback;
    return MUSTER_OK;
}

static muster_err
plan_execute(struct http_request *request, const struct iris_execute *in, struct job *out_job,
             struct muster_fault *fault)
{
    struct iris_execute asked = *in;
    struct iris_plan plan = {.kind = job_kind_EXECUTE,
                             .team = muster_team_options(http_house(request)->options, http_param(request, "team")),
                             .prompt = in->task,
                             .priority = in->priority,
                             .context = in->context,
                             .session_id = in->sessionId,
                             .type = &iris_execute_type,
                             .asked = &asked};
    muster_err err = iris_idempotency_key(request, &plan.key, fault);

    if (!asked.priority)
        asked.priority = job_priority_NORMAL;
    if (!err)
        err = iris_plan_job(request, &plan, out_job, fault);
    if (!err)
        err = iris_plan_times(request, in, out_job, fault);
    if (!err && in->callback)
        err = plan_callback(request, in->callback, out_job, fault);
    return err;
}

void
iris_handle_execute(struct http_request *request)
{
    const struct iris_execute *in = http_body(request);
    struct queue_accepted accepted;
    struct muster_fault fault;
    struct job job;
    struct queue_submit submit = {.job = &job};
    muster_err err;

    if (in->callback && !http_check_receiver(request, "callback", in->callback->url, &in->callback->headers))
        return;
    if (plan_execute(request, in, &job, &fault)) {
        http_fail_field(request, fault.field, fault.message);
        return;
    }
    err = http_ask(request, MUSTER_QUEUE, &queue_submit_type, &submit, &queue_accepted_type, &accepted, IRIS_HOP_MS);
    if (err)
        iris_submit_failed(request, err, &job);
    else
        iris_answer_accepted(request, &job, &accepted);
}
