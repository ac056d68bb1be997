/* SPDX-License-Identifier: MPL-2.0 */
/* iris: what is asked becomes a job.  Values that a schema row cannot check are checked here.  The connection's thread;
 * nothing is answered, what does not fit is told by a fault. */
#include <string.h>

#include "api/dialects/iris.h"

enum { KEY_BYTES = 255, SESSION_BYTES = 128 };

/* ---- the job ---- */

/* The same of another request: its meaning, not its spelling. */
static void
mark_idempotent(struct http_request *request, const struct iris_plan *plan, struct job *job)
{
    struct muster_arena *arena = http_arena(request);
    char *digest = muster_arena_alloc(arena, MUSTER_DIGEST_HEX);
    uint8_t *fingerprint = muster_arena_alloc(arena, MUSTER_DIGEST);
    const char *asked = iris_json(arena, plan->type, plan->asked);
    char key[MUSTER_ID_TEXT];

    muster_id_text(&job->key, key);
    muster_digest_texts(digest, key, job->team, muster_enum_wire(&job_kind_enum, (int)plan->kind), plan->key, NULL);
    muster_sha256(asked, strlen(asked), fingerprint);
    job->idempotency = digest;
    job->fingerprint = (struct muster_bytes){fingerprint, MUSTER_DIGEST};
}

/* Of the key's id: names are cut for tokens, the same from all issuers, and given again when a key was revoked. */
static const char *
conversation(struct http_request *request, const char *team, const char *session_id)
{
    char *digest = muster_arena_alloc(http_arena(request), MUSTER_DIGEST_HEX);
    char key[MUSTER_ID_TEXT];

    muster_id_text(&http_key(request)->id, key);
    muster_digest_texts(digest, team, key, session_id, NULL);
    return digest;
}

static bool
is_visible(const char *text, size_t most)
{
    size_t size;

    for (size = 0; text[size]; size++)
        if (text[size] <= ' ' || text[size] > '~')
            return false;
    return size >= 1 && size <= most;
}

static muster_err
check_plan(const struct iris_plan *plan, struct muster_fault *fault)
{
    if (plan->context && *plan->context != '{')
        return muster_fault_set(fault, "context", "must be an object");
    if (plan->session_id && (*plan->session_id == '\0' || strlen(plan->session_id) > SESSION_BYTES))
        return muster_fault_set(fault, "sessionId", "must be text of 1 to %d bytes", SESSION_BYTES);
    if (plan->key && !is_visible(plan->key, KEY_BYTES))
        return muster_fault_set(fault, "idempotencyKey", "must be 1 to %d visible ASCII characters", KEY_BYTES);
    return MUSTER_OK;
}

muster_err
iris_plan_job(struct http_request *request, const struct iris_plan *plan, struct job *out_job,
              struct muster_fault *fault)
{
    int64_t now_ms = muster_clock_ms();
    muster_err err = check_plan(plan, fault);

    if (err)
        return err;
    *out_job = (struct job){.id = muster_id_new(now_ms),
                            .kind = plan->kind,
                            .team = plan->team->name,
                            .state = job_state_QUEUED,
                            .priority = plan->priority ? plan->priority : job_priority_NORMAL,
                            .prompt = plan->prompt,
                            .context = plan->context,
                            .from = http_from(request),
                            .key = http_key(request)->id,
                            .trace = http_request_id(request),
                            .created_ms = now_ms,
                            .timeout_ms = plan->team->turn_timeout,
                            .max_attempts = http_house(request)->options->queue->max_attempts,
                            .session_id = plan->session_id};
    if (plan->session_id)
        out_job->conversation = conversation(request, out_job->team, plan->session_id);
    if (plan->key)
        mark_idempotent(request, plan, out_job);
    return MUSTER_OK;
}

/* ---- the header ---- */

/* The inside of a quoted string (RFC 9651, section 3.3.3); NULL: it is none. */
static const char *
unquoted(struct muster_arena *arena, const char *text)
{
    char *out = muster_arena_alloc(arena, strlen(text) + 1), *at = out;

    for (text++; *text && *text != '"'; text++) {
        if (*text == '\\' && (text[1] == '"' || text[1] == '\\'))
            text++;
        else if (*text == '\\')
            return NULL;
        *at++ = *text;
    }
    return text[0] == '"' && text[1] == '\0' ? out : NULL;
}

muster_err
iris_idempotency_key(struct http_request *request, const char **out_key, struct muster_fault *fault)
{
    const char *text = http_header(request, "Idempotency-Key");
    const char *key = text;

    if (text && *text == '"')
        key = unquoted(http_arena(request), text);
    if (text && (key == NULL || !is_visible(key, KEY_BYTES)))
        return muster_fault_set(fault, "Idempotency-Key",
                                "must be 1 to %d visible ASCII characters, which may stand in quotes", KEY_BYTES);
    *out_key = key;
    return MUSTER_OK;
}

/* ---- times ---- */

struct span {
    const char *field;
    const char *example;
    int64_t least, most;
};

/* `json` NULL: *out stays as it is. */
static muster_err
read_span(struct http_request *request, const struct span *span, const char *json, int64_t *out,
          struct muster_fault *fault)
{
    int64_t ms;

    if (json == NULL)
        return MUSTER_OK;
    if (muster_duration_parse(http_bare(request, json), &ms) || ms < span->least || ms > span->most)
        return muster_fault_set(fault, span->field,
                                "must be milliseconds or a text such as \"%s\", %lld to %lld milliseconds",
                                span->example, (long long)span->least, (long long)span->most);
    *out = ms;
    return MUSTER_OK;
}

static muster_err
plan_retry(struct http_request *request, const struct iris_attempts *in, struct job *job, struct muster_fault *fault)
{
    int64_t most = http_house(request)->options->queue->max_retry_delay;
    struct span delay = {"retry.delay", "10s", 1, most}, max_delay = {"retry.maxDelay", "5m", 1, most};
    muster_err err;

    if (in->maxAttempts)
        job->max_attempts = in->maxAttempts;
    err = read_span(request, &delay, in->delay, &job->retry_delay_ms, fault);
    if (!err)
        err = read_span(request, &max_delay, in->maxDelay, &job->max_retry_delay_ms, fault);
    if (!err && job->max_retry_delay_ms && job->max_retry_delay_ms < job->retry_delay_ms)
        err = muster_fault_set(fault, "retry.maxDelay", "must be at least retry.delay");
    return err;
}

/* Was it taken before?  Then its deadline may have passed meanwhile. */
static bool
is_known(struct http_request *request, const struct job *job)
{
    size_t count = 0;

    return job->idempotency &&
           muster_store_count(http_house(request)->store, &job_type, "job_by_idempotency", job->idempotency, &count) ==
               MUSTER_OK &&
           count > 0;
}

static muster_err
plan_deadline(struct http_request *request, const char *json, struct job *job, struct muster_fault *fault)
{
    int64_t deadline_ms;

    if (http_time_parse(http_bare(request, json), &deadline_ms))
        return muster_fault_set(fault, "deadline", "must be unix milliseconds or an ISO 8601 time");
    if ((deadline_ms <= job->created_ms || deadline_ms <= job->not_before_ms) && !is_known(request, job))
        return muster_fault_set(fault, "deadline",
                                deadline_ms <= job->created_ms ? "must be in the future" : "must be after the delay");
    job->deadline_ms = deadline_ms;
    return MUSTER_OK;
}

muster_err
iris_plan_times(struct http_request *request, const struct iris_execute *in, struct job *job,
                struct muster_fault *fault)
{
    struct span delay = {"delay", "10m", 0, http_house(request)->options->queue->max_delay};
    int64_t delay_ms = 0;
    muster_err err = MUSTER_OK;

    if (in->timeout && in->timeout < job->timeout_ms)
        job->timeout_ms = in->timeout;
    if (in->retry)
        err = plan_retry(request, in->retry, job, fault);
    if (!err)
        err = read_span(request, &delay, in->delay, &delay_ms, fault);
    if (err)
        return err;
    if (delay_ms > 0)
        job->not_before_ms = job->created_ms + delay_ms;
    return in->deadline ? plan_deadline(request, in->deadline, job, fault) : MUSTER_OK;
}
