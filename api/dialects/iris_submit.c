/* SPDX-License-Identifier: MPL-2.0 */
/* iris: ask and execute.  Both are a queue.submit that goes through the rate limiter; an ask waits for the job's end on
 * the connection's thread, and the job goes on when nobody waits any more. */
#include <string.h>
#include <strings.h>

#include "api/dialects/iris.h"

/* ---- the job ---- */

struct job
iris_job(struct http_request *request, enum job_kind kind, const char *prompt, enum job_priority priority,
         const char *context)
{
    const struct options *options = http_house(request)->options;
    const struct team_options *team = muster_team_options(options, http_param(request, "team"));
    int64_t now_ms = muster_clock_ms();

    return (struct job){.id = muster_id_new(now_ms),
                        .kind = kind,
                        .team = team->name,
                        .state = job_state_QUEUED,
                        .priority = priority ? priority : job_priority_NORMAL,
                        .prompt = prompt,
                        .context = context,
                        .from = http_key(request)->name,
                        .key = http_key(request)->id,
                        .trace = http_request_id(request),
                        .created_ms = now_ms,
                        .timeout_ms = team->turn_timeout,
                        .max_attempts = options->queue->max_attempts};
}

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

bool
iris_check_context(struct http_request *request, const char *context)
{
    if (context == NULL || *context == '{')
        return true;
    iris_fail_field(request, "context", "must be an object");
    return false;
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

void
iris_handle_ask(struct http_request *request)
{
    const struct http_options *options = http_house(request)->options->http;
    const struct iris_ask *in = http_body(request);
    int64_t timeout_ms = in->timeout ? in->timeout : options->ask_timeout;
    struct job job = iris_job(request, job_kind_ASK, in->question, in->priority, in->context);
    struct queue_submit submit = {.job = &job, .wait = true};
    struct queue_accepted accepted;
    muster_err err;

    if (!iris_check_context(request, in->context))
        return;
    if (timeout_ms > options->max_ask_timeout) {
        iris_fail_field(
            request, "timeout",
            muster_arena_printf(http_arena(request), "must be at most %lld", (long long)options->max_ask_timeout));
        return;
    }
    if (!http_wait_begin(request)) {
        http_fail(request, MUSTER_OVERLOADED, "Too many asks wait for their answer; try again later, or execute");
        return;
    }
    /* Only what was accepted may be said to go on, so that comes first, however short the caller's patience. */
    err = http_ask(request, MUSTER_QUEUE, &queue_submit_type, &submit, &queue_accepted_type, &accepted, IRIS_HOP_MS);
    if (err)
        iris_submit_failed(request, err, &job);
    else
        await_answer(request, &job, timeout_ms);
    http_wait_end(request);
}

/* ---- execute ---- */

static bool
is_url(const char *url)
{
    const char *host = strncasecmp(url, "http://", 7) == 0    ? url + 7
                       : strncasecmp(url, "https://", 8) == 0 ? url + 8
                                                              : NULL;
    const unsigned char *at;

    if (host == NULL || strchr("/:?#@", *host))
        return false;
    for (at = (const unsigned char *)url; *at; at++)
        if (*at <= ' ' || *at == 127)
            return false;
    return true;
}

static bool
is_header_name(const char *text)
{
    static const char token[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~";
    static const char *const ours[] = {"Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect",
                                       "TE",   "Trailer",        "Upgrade",           "Keep-Alive", "Proxy-Connection"};
    size_t size = strlen(text), i;

    for (i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcasecmp(text, ours[i]) == 0)
            return false;
    return size >= 1 && size <= 128 && strspn(text, token) == size;
}

static bool
is_header_value(const char *text)
{
    const unsigned char *at;

    for (at = (const unsigned char *)text; *at; at++)
        if ((*at < ' ' && *at != '\t') || *at == 127)
            return false;
    return strlen(text) <= 4096;
}

static bool
check_callback(struct http_request *request, const struct iris_callback *in)
{
    size_t i;

    if (!is_url(in->url)) {
        iris_fail_field(request, "callback.url", "must be an http or https URL");
        return false;
    }
    if (!http_may_call_back(request, in->url)) {
        iris_fail_field(request, "callback.url",
                        "must not be a loopback, private or link-local address unless webhooks.allow_private is set");
        return false;
    }
    if (in->method && strcmp(in->method, "POST") != 0 && strcmp(in->method, "PUT") != 0 &&
        strcmp(in->method, "PATCH") != 0) {
        iris_fail_field(request, "callback.method", "must be one of POST, PUT, PATCH");
        return false;
    }
    for (i = 0; i < in->headers.count; i++)
        if (!is_header_name(in->headers.items[i].name) || !is_header_value(in->headers.items[i].value)) {
            iris_fail_field(request, "callback.headers",
                            "must be names and values of headers, without those that belong to the connection");
            return false;
        }
    return true;
}

static void
answer_execute(struct http_request *request, const struct job *job, const struct queue_accepted *accepted)
{
    struct muster_arena *arena = http_arena(request);
    struct iris_accepted answer = {.jobId = iris_job_id(arena, &job->id),
                                   .messageId = iris_message_id(arena, &job->id),
                                   .team = job->team,
                                   .status = "queued",
                                   .estimatedCompletion = accepted->estimate_ms,
                                   .position = accepted->position};

    http_answer_type(request, 202, &iris_accepted_type, &answer);
}

void
iris_handle_execute(struct http_request *request)
{
    const struct iris_execute *in = http_body(request);
    struct job job = iris_job(request, job_kind_EXECUTE, in->task, in->priority, in->context);
    struct queue_submit submit = {.job = &job};
    struct queue_accepted accepted;
    struct job_callback callback;
    muster_err err;

    if (!iris_check_context(request, in->context) || (in->callback && !check_callback(request, in->callback)))
        return;
    if (in->callback) {
        callback = (struct job_callback){in->callback->url, in->callback->method ? in->callback->method : "POST",
                                         in->callback->headers};
        job.callback = &callback;
    }
    if (in->timeout && in->timeout < job.timeout_ms)
        job.timeout_ms = in->timeout;
    if (in->retry)
        job.max_attempts = in->retry->maxAttempts;
    err = http_ask(request, MUSTER_QUEUE, &queue_submit_type, &submit, &queue_accepted_type, &accepted, IRIS_HOP_MS);
    if (err)
        iris_submit_failed(request, err, &job);
    else
        answer_execute(request, &job, &accepted);
}
