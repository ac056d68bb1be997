/* SPDX-License-Identifier: MPL-2.0 */
/* library_job: jobs that the program itself submits, waits for and cancels.  Any thread; waiting is following the job.
 * What can fail: what is asked for, the queue's refusal, a hub that stops. */
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_job.h"
#include "api/library.h"
#include "schemas/muster_options.h"

#define FROM "program" /* who submitted it, where a key's name would stand */

enum { KEY_MAX = 255, SESSION_MAX = 128, PROMPT_MAX = 16 << 20, CONTEXT_MAX = 1 << 20, ATTEMPTS_MAX = 100 };

/* A result, and all that it points to. */
struct muster_result {
    struct muster_arena *arena;
    struct job job;
    char id[MUSTER_JOB_ID];
};

static void
job_text(const struct muster_id *id, char out[MUSTER_JOB_ID])
{
    memcpy(out, "msg_", 4);
    muster_id_text(id, out + 4);
}

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

/* The same digests as those of other callers, with the program in the place of a key. */
static void
add_digests(const struct muster_submit *in, struct muster_arena *arena, struct job *job)
{
    char *digest = muster_arena_alloc(arena, MUSTER_DIGEST_HEX), print[MUSTER_DIGEST_HEX];
    uint8_t *bytes = muster_arena_alloc(arena, MUSTER_DIGEST);
    const char *numbers =
        muster_arena_printf(arena, "%lld %lld %lld %lld %d", (long long)in->timeout_ms, (long long)in->delay_ms,
                            (long long)in->deadline_ms, (long long)in->max_attempts, (int)job->priority);

    if (in->session_id) {
        char *conversation = muster_arena_alloc(arena, MUSTER_DIGEST_HEX);

        muster_digest_texts(conversation, in->team, FROM, in->session_id, NULL);
        job->conversation = conversation;
    }
    if (in->idempotency_key == NULL)
        return;
    muster_digest_texts(digest, FROM, in->team, in->idempotency_key, NULL);
    muster_digest_texts(print, in->prompt, in->session_id ? in->session_id : "", in->context ? in->context : "",
                        numbers, NULL);
    muster_sha256(print, strlen(print), bytes);
    job->idempotency = digest;
    job->fingerprint = (struct muster_bytes){bytes, MUSTER_DIGEST};
}

static muster_err
plan(const struct muster_house *house, const struct muster_submit *in, struct muster_arena *arena, struct job *out_job,
     char *problem, size_t problem_size)
{
    int priority = in->priority ? muster_enum_value(&job_priority_enum, in->priority) : job_priority_NORMAL;
    const struct team_options *team = in->team ? muster_team_options(house->options, in->team) : NULL;
    const char *wrong = what_is_wrong(in, priority);
    int64_t now_ms = muster_clock_ms();

    if (wrong) {
        library_problem(problem, problem_size, "%s", wrong);
        return MUSTER_INVALID_REQUEST;
    }
    if (team == NULL)
        return MUSTER_TEAM_NOT_FOUND;
    *out_job = (struct job){.id = muster_id_new(now_ms),
                            .kind = job_kind_EXECUTE,
                            .team = team->name,
                            .state = job_state_QUEUED,
                            .priority = (enum job_priority)priority,
                            .prompt = in->prompt,
                            .from = FROM,
                            .created_ms = now_ms,
                            .timeout_ms = in->timeout_ms ? in->timeout_ms : team->turn_timeout,
                            .max_attempts = in->max_attempts ? in->max_attempts : house->options->queue->max_attempts,
                            .not_before_ms = in->delay_ms ? now_ms + in->delay_ms : 0,
                            .deadline_ms = in->deadline_ms,
                            .session_id = in->session_id,
                            .context = in->context};
    add_digests(in, arena, out_job);
    return MUSTER_OK;
}

const char *
muster_submit(struct muster_hub *hub, const struct muster_submit *submit, char out_id[MUSTER_JOB_ID], char *problem,
              size_t problem_size)
{
    struct library *library = library_of(hub);
    struct muster_arena *arena = muster_arena_new();
    struct queue_accepted accepted;
    struct job job;
    struct queue_submit message = {.job = &job};
    muster_err err = library_enter(library);

    library_problem(problem, problem_size, "%s", "");
    if (!err) {
        err = plan(library->house, submit, arena, &job, problem, problem_size);
        if (!err)
            err = library_ask(library->house, MUSTER_QUEUE, &queue_submit_type, &message, &queue_accepted_type, arena,
                              &accepted, problem, problem_size);
        library_leave(library);
    }
    if (!err)
        job_text(&accepted.job, out_id);
    muster_arena_free(&arena);
    return library_told(err, problem, problem_size);
}

/* ---- cancel ---- */

const char *
muster_cancel(struct muster_hub *hub, const char *job, char *problem, size_t problem_size)
{
    struct library *library = library_of(hub);
    struct muster_arena *arena = muster_arena_new();
    struct queue_cancelled cancelled;
    struct queue_cancel cancel;
    muster_err err = library_job_id(job, &cancel.job);

    library_problem(problem, problem_size, "%s", "");
    if (!err)
        err = library_enter(library);
    if (!err) {
        err = library_ask(library->house, MUSTER_QUEUE, &queue_cancel_type, &cancel, &queue_cancelled_type, arena,
                          &cancelled, problem, problem_size);
        if (!err && cancelled.state != job_state_CANCELLED)
            err = MUSTER_CONFLICT;
        library_leave(library);
    }
    muster_arena_free(&arena);
    return library_told(err, problem, problem_size);
}

/* ---- results ---- */

static muster_err
read_result(const struct library *library, const char *text, struct muster_result **out_result)
{
    struct muster_result *result = muster_alloc(sizeof *result);
    struct muster_id id;
    muster_err err = library_job_id(text, &id);

    result->arena = muster_arena_new();
    if (!err)
        err = muster_store_get(library->house->store, &job_type, &id, result->arena, &result->job);
    if (err) {
        muster_result_free(&result);
        return err;
    }
    job_text(&id, result->id);
    *out_result = result;
    return MUSTER_OK;
}

const char *
muster_job_result(struct muster_hub *hub, const char *job, struct muster_result **out_result)
{
    struct library *library = library_of(hub);
    muster_err err = library_enter(library);

    if (!err) {
        err = read_result(library, job, out_result);
        library_leave(library);
    }
    return library_told(err, NULL, 0);
}

/* Until the follow ends; `end_ms` of the uptime, -1: for ever.  MUSTER_TIMEOUT. */
static muster_err
await_end(struct muster_follow *follow, int64_t end_ms)
{
    struct pollfd fd = {.fd = muster_follow_fd(follow), .events = POLLIN};
    struct muster_event event;
    const char *code = NULL;
    int64_t left_ms = -1;
    int told;

    while ((told = muster_follow_next(follow, &event, &code)) >= 0) {
        if (end_ms >= 0)
            left_ms = end_ms - muster_uptime_ns() / 1000000;
        if (end_ms >= 0 && left_ms <= 0)
            return MUSTER_TIMEOUT;
        if (told == 0)
            (void)poll(&fd, 1, (int)left_ms);
    }
    return code ? muster_err_from_code(code) : MUSTER_OK;
}

/* Follow the job from here on, to its end. */
static muster_err
follow_on(struct muster_hub *hub, const char *job, int64_t end_ms)
{
    const struct muster_house *house = library_of(hub)->house;
    struct muster_follow_settings settings = {.job = job};
    char cursor[MUSTER_CURSOR_TEXT];
    struct muster_store_stats stats;
    struct muster_follow *follow;
    const char *code;
    muster_err err;

    muster_store_stats(house->store, &stats);
    muster_cursor_text(house->store, stats.last_seq, cursor);
    settings.after = cursor;
    code = muster_follow_open(hub, &settings, &follow, NULL, 0);
    if (code)
        return muster_err_from_code(code);
    err = await_end(follow, end_ms);
    muster_follow_close(&follow);
    return err;
}

/* What a waiter missed of the log is nothing to it: it looks at the job again. */
static muster_err
wait_for(struct muster_hub *hub, const char *job, int64_t timeout_ms, struct muster_result **out_result)
{
    int64_t end_ms = -1;
    struct muster_result *result;
    muster_err err;

    if (timeout_ms >= 0)
        end_ms = muster_uptime_ns() / 1000000 + (timeout_ms > INT_MAX ? INT_MAX : timeout_ms);
    do {
        err = read_result(library_of(hub), job, &result);
        if (err)
            return err;
        if (muster_result_ended(result)) {
            *out_result = result;
            return MUSTER_OK;
        }
        muster_result_free(&result);
        err = follow_on(hub, job, end_ms);
    } while (err == MUSTER_OK || err == MUSTER_CURSOR_EXPIRED);
    return err;
}

const char *
muster_job_wait(struct muster_hub *hub, const char *job, int64_t timeout_ms, struct muster_result **out_result)
{
    struct library *library = library_of(hub);
    muster_err err = library_enter(library);

    if (!err) {
        err = wait_for(hub, job, timeout_ms, out_result);
        library_leave(library);
    }
    return library_told(err, NULL, 0);
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
