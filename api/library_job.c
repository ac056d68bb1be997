/* SPDX-License-Identifier: MPL-2.0 */
/* library_job: jobs that the program itself submits, waits for and cancels, whatever the hub is.  Any thread.  What can
 * fail: what is asked for, and what the hub's ways say. */
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_job.h"
#include "api/library.h"

enum { KEY_MAX = 255, SESSION_MAX = 128, PROMPT_MAX = 16 << 20, CONTEXT_MAX = 1 << 20, ATTEMPTS_MAX = 100 };

/* A result, and all that it points to. */
struct muster_result {
    struct muster_arena *arena;
    struct job job;
    char id[MUSTER_JOB_ID];
};

/* ---- submit ---- */

static bool
is_clean(const char *text)
{
    struct muster_buf clean = {0};
    bool same;

    muster_utf8_clean(&clean, text, strlen(text));
    same = clean.data == NULL || strcmp(clean.data, text) == 0;
    muster_buf_free(&clean);
    return same;
}

static bool
is_object(const char *text)
{
    size_t size = strlen(text);
    json_t *value = size <= CONTEXT_MAX && muster_json_shallow(text, size) ? json_loadb(text, size, 0, NULL) : NULL;
    bool object = json_is_object(value);

    json_decref(value);
    return object;
}

/* NULL: it can be taken. */
static const char *
what_is_wrong(const struct muster_submit *in, int priority)
{
    size_t prompt = in->prompt ? strlen(in->prompt) : 0, session = in->session_id ? strlen(in->session_id) : 1;
    size_t key = in->idempotency_key ? strlen(in->idempotency_key) : 1;

    if (in->team == NULL || *in->team == '\0')
        return "team is required";
    if (prompt < 1 || prompt > PROMPT_MAX || !is_clean(in->prompt))
        return "prompt must be text of 1 byte to 16 MiB";
    if (in->priority && priority == job_priority_NONE)
        return "priority must be low, normal, high or critical";
    if (session < 1 || session > SESSION_MAX || (in->session_id && !is_clean(in->session_id)))
        return "session_id must be text of 1 to 128 bytes";
    if (key < 1 || key > KEY_MAX)
        return "idempotency_key must have 1 to 255 bytes";
    if (in->context && !is_object(in->context))
        return "context must be a JSON object of at most 1 MiB";
    if (in->timeout_ms < 0 || in->delay_ms < 0 || in->deadline_ms < 0)
        return "times must not be negative";
    if (in->max_attempts < 0 || in->max_attempts > ATTEMPTS_MAX)
        return "max_attempts must be 0 to 100";
    return NULL;
}

const char *
muster_submit(struct muster_hub *hub, const struct muster_submit *submit, char out_id[MUSTER_JOB_ID], char *problem,
              size_t problem_size)
{
    int priority = submit->priority ? muster_enum_value(&job_priority_enum, submit->priority) : job_priority_NORMAL;
    const char *wrong = what_is_wrong(submit, priority);
    struct library *library = library_of(hub);
    struct muster_arena *arena;
    struct muster_id id;
    muster_err err;

    library_problem(problem, problem_size, "%s", wrong ? wrong : "");
    err = wrong ? MUSTER_INVALID_REQUEST : library_enter(library);
    if (err)
        return library_told(err, problem, problem_size);
    arena = muster_arena_new();
    err = library->ways->submit(library, submit, (enum job_priority)priority, arena, &id, problem, problem_size);
    library_leave(library);
    if (!err)
        library_job_text(&id, out_id);
    muster_arena_free(&arena);
    return library_told(err, problem, problem_size);
}

/* ---- cancel ---- */

const char *
muster_cancel(struct muster_hub *hub, const char *job, char *problem, size_t problem_size)
{
    struct library *library = library_of(hub);
    enum job_state state;
    struct muster_id id;
    muster_err err = library_job_id(job, &id);

    library_problem(problem, problem_size, "%s", "");
    if (!err)
        err = library_enter(library);
    if (!err) {
        err = library->ways->cancel(library, &id, &state, problem, problem_size);
        if (!err && state != job_state_CANCELLED)
            err = MUSTER_CONFLICT;
        library_leave(library);
    }
    return library_told(err, problem, problem_size);
}

/* ---- results ---- */

/* `end_ms` of the uptime until which to wait for its end, -1: for ever; 0: not at all. */
static const char *
get_result(struct muster_hub *hub, const char *job, int64_t end_ms, struct muster_result **out_result)
{
    struct library *library = library_of(hub);
    struct muster_result *result = muster_alloc(sizeof *result);
    struct muster_id id;
    muster_err err = library_job_id(job, &id);

    result->arena = muster_arena_new();
    if (!err)
        err = library_enter(library);
    if (!err) {
        if (end_ms)
            err = library->ways->wait(library, &id, end_ms, result->arena, &result->job);
        else
            err = library->ways->read(library, &id, result->arena, &result->job);
        library_leave(library);
    }
    if (err) {
        muster_result_free(&result);
        return library_told(err, NULL, 0);
    }
    library_job_text(&id, result->id);
    *out_result = result;
    return NULL;
}

const char *
muster_job_result(struct muster_hub *hub, const char *job, struct muster_result **out_result)
{
    return get_result(hub, job, 0, out_result);
}

const char *
muster_job_wait(struct muster_hub *hub, const char *job, int64_t timeout_ms, struct muster_result **out_result)
{
    int64_t end_ms = -1;

    if (timeout_ms >= 0)
        end_ms = muster_uptime_ns() / 1000000 + (timeout_ms > INT_MAX ? INT_MAX : timeout_ms);
    return get_result(hub, job, end_ms, out_result);
}

void
muster_result_free(struct muster_result **result_p)
{
    if (*result_p == NULL)
        return;
    muster_arena_free(&(*result_p)->arena);
    free(*result_p);
    *result_p = NULL;
}

/* ---- what a result says ---- */

/* NULL when there is nothing. */
static const char *
given(const char *text)
{
    return text && *text ? text : NULL;
}

const char *
muster_result_job(const struct muster_result *result)
{
    return result->id;
}

const char *
muster_result_state(const struct muster_result *result)
{
    return muster_enum_wire(&job_state_enum, (int)result->job.state);
}

bool
muster_result_ended(const struct muster_result *result)
{
    return muster_job_ended(result->job.state);
}

const char *
muster_result_text(const struct muster_result *result)
{
    if (result->job.state != job_state_COMPLETED)
        return NULL;
    return result->job.result ? result->job.result : "";
}

const char *
muster_result_error(const struct muster_result *result)
{
    return result->job.state == job_state_FAILED ? given(result->job.error) : NULL;
}

const char *
muster_result_message(const struct muster_result *result)
{
    const char *error = muster_result_error(result), *message = given(result->job.error_message);

    return error && message ? message : error ? muster_code_text(error) : NULL;
}

int64_t
muster_result_attempts(const struct muster_result *result)
{
    return result->job.attempt;
}

int64_t
muster_result_created_ms(const struct muster_result *result)
{
    return result->job.created_ms;
}

int64_t
muster_result_started_ms(const struct muster_result *result)
{
    return result->job.started_ms;
}

int64_t
muster_result_ended_ms(const struct muster_result *result)
{
    return result->job.finished_ms;
}

int64_t
muster_result_duration_ms(const struct muster_result *result)
{
    const struct job *job = &result->job;

    return job->started_ms > 0 && job->finished_ms > job->started_ms ? job->finished_ms - job->started_ms : 0;
}
