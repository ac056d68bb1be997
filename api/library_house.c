/* SPDX-License-Identifier: MPL-2.0 */
/* library_house: jobs of a hub of this process; its queue is asked, its store is read.  Any thread; waiting is
 * following the job.  What can fail: the queue's refusal, the store, a hub that stops. */
#include <poll.h>
#include <string.h>

#include "actors/muster_job.h"
#include "api/library.h"
#include "schemas/muster_options.h"

#define FROM "program" /* who submitted it, where a key's name would stand */

/* ---- submit ---- */

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
house_submit(struct library *library, const struct muster_submit *in, enum job_priority priority,
             struct muster_arena *arena, struct muster_id *out_job, char *problem, size_t problem_size)
{
    const struct muster_house *house = library->house;
    const struct team_options *team = muster_team_options(house->options, in->team);
    int64_t now_ms = muster_clock_ms();
    struct queue_accepted accepted;
    struct job job;
    struct queue_submit message = {.job = &job};
    muster_err err;

    if (team == NULL)
        return MUSTER_TEAM_NOT_FOUND;
    job = (struct job){.id = muster_id_new(now_ms),
                       .kind = job_kind_EXECUTE,
                       .team = team->name,
                       .state = job_state_QUEUED,
                       .priority = priority,
                       .prompt = in->prompt,
                       .from = FROM,
                       .created_ms = now_ms,
                       .timeout_ms = in->timeout_ms ? in->timeout_ms : team->turn_timeout,
                       .max_attempts = in->max_attempts ? in->max_attempts : house->options->queue->max_attempts,
                       .not_before_ms = in->delay_ms ? now_ms + in->delay_ms : 0,
                       .deadline_ms = in->deadline_ms,
                       .session_id = in->session_id,
                       .context = in->context};
    add_digests(in, arena, &job);
    err = library_ask(house, MUSTER_QUEUE, &queue_submit_type, &message, &queue_accepted_type, arena, &accepted,
                      problem, problem_size);
    if (!err)
        *out_job = accepted.job;
    return err;
}

/* ---- cancel and read ---- */

static muster_err
house_cancel(struct library *library, const struct muster_id *job, enum job_state *out_state, char *problem,
             size_t problem_size)
{
    struct muster_arena *arena = muster_arena_new();
    struct queue_cancel cancel = {.job = *job};
    struct queue_cancelled cancelled;
    muster_err err = library_ask(library->house, MUSTER_QUEUE, &queue_cancel_type, &cancel, &queue_cancelled_type,
                                 arena, &cancelled, problem, problem_size);

    if (!err)
        *out_state = cancelled.state;
    muster_arena_free(&arena);
    return err;
}

static muster_err
house_read(struct library *library, const struct muster_id *job, struct muster_arena *arena, struct job *out_job)
{
    return muster_store_get(library->house->store, &job_type, job, arena, out_job);
}

/* ---- wait ---- */

/* Until the follow ends.  MUSTER_TIMEOUT. */
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
follow_on(struct library *library, const struct muster_id *job, int64_t end_ms)
{
    char text[MUSTER_JOB_ID], cursor[MUSTER_CURSOR_TEXT];
    struct muster_follow_settings settings = {.job = text, .after = cursor};
    struct muster_follow *follow;
    muster_err err;

    muster_cursor_text(library->house->store, muster_log_last(library->house->store), cursor);
    library_job_text(job, text);
    err = library_follow(library, &settings, &follow, NULL, 0);
    if (err)
        return err;
    err = await_end(follow, end_ms);
    muster_follow_close(&follow);
    return err;
}

/* What a waiter missed of the log is nothing to it: it looks at the job again. */
static muster_err
house_wait(struct library *library, const struct muster_id *job, int64_t end_ms, struct muster_arena *arena,
           struct job *out_job)
{
    muster_err err;

    do {
        muster_arena_clear(arena);
        err = house_read(library, job, arena, out_job);
        if (err || muster_job_ended(out_job->state))
            return err;
        err = follow_on(library, job, end_ms);
    } while (err == MUSTER_OK || err == MUSTER_CURSOR_EXPIRED);
    return err;
}

const struct library_ways library_house_ways = {.submit = house_submit,
                                                .cancel = house_cancel,
                                                .read = house_read,
                                                .wait = house_wait,
                                                .follow_open = library_log_open,
                                                .follow_read = library_log_read};
