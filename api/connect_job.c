/* SPDX-License-Identifier: MPL-2.0 */
/* connect_job: jobs of a hub elsewhere.  Any thread.  What can fail: what the hub refuses, and the way there. */
#include <poll.h>
#include <stdio.h>

#include "actors/muster_job.h"
#include "api/connect.h"

enum {
    TIMEOUT_MAX_MS = 86400000, /* of a submit; no team has a longer one */
    PAGE = 256,
    LOOK_MS = 20000,  /* for which one read of the log waits */
    AGAIN_MS = 200,   /* before it is tried again, */
    LIMITED_MS = 1000 /* with a rate that is used up */
};

static int64_t
uptime_ms(void)
{
    return muster_uptime_ns() / 1000000;
}

/* ---- asking -------------------------------------------------------------------------------------------------------- */

struct call {
    struct connect_request request;
    pthread_cond_t done;
};

static void
on_done(struct connect_request *request)
{
    pthread_cond_signal(&((struct call *)request)->done);
}

muster_err
connect_ask(struct library *library, const struct muster_type *type, const void *body, const struct muster_type *answer,
            int64_t end_ms, struct muster_arena *arena, void *out, char *problem, size_t problem_size)
{
    int64_t longest_ms = uptime_ms() + LIBRARY_CALL_MS;
    bool reads = type == &job_read_type || type == &log_read_type;
    struct call call = {.request = {.reads = reads, .done = on_done}};
    struct connect_request *request = &call.request;
    muster_err err;

    request->end_ms = end_ms >= 0 && end_ms < longest_ms ? end_ms : longest_ms;
    pthread_cond_init(&call.done, NULL);
    connect_put(library, request, type, body);
    pthread_mutex_lock(&library->lock);
    while (request->state != CONNECT_DONE)
        pthread_cond_wait(&call.done, &library->lock);
    pthread_mutex_unlock(&library->lock);
    err = request->err;
    if (!err)
        err = library_answer(request->answer.data, request->answer.size, answer, arena, out, problem, problem_size);
    else if (request->problem[0])
        library_problem(problem, problem_size, "%s", request->problem);
    pthread_cond_destroy(&call.done);
    connect_request_free(request);
    return err;
}

bool
connect_is_passing(muster_err err)
{
    return err == MUSTER_TIMEOUT || err == MUSTER_OVERLOADED || err == MUSTER_RATE_LIMITED;
}

/* ---- submit, cancel, read ------------------------------------------------------------------------------------------ */

static muster_err
far_submit(struct library *library, const struct muster_submit *in, enum job_priority priority,
           struct muster_arena *arena, struct muster_id *out_job, char *problem, size_t problem_size)
{
    struct bus_job job = {.team = in->team,
                          .prompt = in->prompt,
                          .priority = priority,
                          .context = in->context,
                          .session_id = in->session_id,
                          .idempotency = in->idempotency_key,
                          .timeout_ms = in->timeout_ms < TIMEOUT_MAX_MS ? in->timeout_ms : TIMEOUT_MAX_MS,
                          .max_attempts = in->max_attempts,
                          .not_before_ms = in->delay_ms ? muster_clock_ms() + in->delay_ms : 0,
                          .deadline_ms = in->deadline_ms};
    struct bus_submit submit = {.job = &job};
    struct queue_accepted accepted;
    muster_err err = connect_ask(library, &bus_submit_type, &submit, &queue_accepted_type, -1, arena, &accepted,
                                 problem, problem_size);

    if (!err)
        *out_job = accepted.job;
    return err;
}

static muster_err
far_cancel(struct library *library, const struct muster_id *job, enum job_state *out_state, char *problem,
           size_t problem_size)
{
    struct muster_arena *arena = muster_arena_new();
    struct queue_cancel cancel = {.job = *job};
    struct queue_cancelled cancelled;
    muster_err err = connect_ask(library, &queue_cancel_type, &cancel, &queue_cancelled_type, -1, arena, &cancelled,
                                 problem, problem_size);

    if (!err)
        *out_state = cancelled.state;
    muster_arena_free(&arena);
    return err;
}

static muster_err
read_until(struct library *library, const struct muster_id *job, int64_t end_ms, struct muster_arena *arena,
           struct job *out_job)
{
    struct job_read read = {.job = *job};
    struct job_is is;
    muster_err err = connect_ask(library, &job_read_type, &read, &job_is_type, end_ms, arena, &is, NULL, 0);

    if (!err)
        *out_job = *is.job;
    return err;
}

static muster_err
far_read(struct library *library, const struct muster_id *job, struct muster_arena *arena, struct job *out_job)
{
    return read_until(library, job, -1, arena, out_job);
}

/* ---- wait ---------------------------------------------------------------------------------------------------------- */

static bool
has_last_event(const struct log_page *page)
{
    const struct muster_event_row *row;
    size_t i;

    for (i = 0; i < page->events.count; i++) {
        row = muster_event_row(page->events.items[i].type);
        if (row && row->final)
            return true;
    }
    return false;
}

/* Read the job's events behind `cursor` until its last one has come. */
static muster_err
await_last_event(struct library *library, const struct muster_id *job, const char *cursor, int64_t end_ms)
{
    struct muster_arena *arena = muster_arena_new();
    char after[MUSTER_CURSOR_TEXT];
    struct log_read read = {.job = *job, .limit = PAGE, .after = after};
    struct log_page page = {.more = true};
    int64_t left_ms;
    muster_err err = MUSTER_OK;

    snprintf(after, sizeof after, "%s", cursor);
    while (!err && !has_last_event(&page)) {
        left_ms = end_ms < 0 ? LOOK_MS : end_ms - uptime_ms();
        read.wait_ms = left_ms < 1 ? 1 : left_ms < LOOK_MS ? left_ms : LOOK_MS;
        muster_arena_clear(arena);
        err = connect_ask(library, &log_read_type, &read, &log_page_type, end_ms, arena, &page, NULL, 0);
        if (!err)
            snprintf(after, sizeof after, "%s", page.next);
    }
    muster_arena_free(&arena);
    return err;
}

/* Where the log ends is looked at before the job: if that has not ended, its last event lies behind. */
static muster_err
look_once(struct library *library, const struct muster_id *job, int64_t end_ms, struct muster_arena *arena,
          struct job *out_job, bool *out_ended)
{
    char cursor[MUSTER_CURSOR_TEXT];
    muster_err err = connect_here(library, end_ms, cursor, NULL, 0);

    muster_arena_clear(arena);
    if (!err)
        err = read_until(library, job, end_ms, arena, out_job);
    *out_ended = !err && muster_job_ended(out_job->state);
    if (!err && !*out_ended)
        err = await_last_event(library, job, cursor, end_ms);
    return err;
}

static muster_err
far_wait(struct library *library, const struct muster_id *job, int64_t end_ms, struct muster_arena *arena,
         struct job *out_job)
{
    bool ended = false;
    muster_err err;

    do {
        err = look_once(library, job, end_ms, arena, out_job, &ended);
        if (connect_is_passing(err) && (end_ms < 0 || uptime_ms() < end_ms))
            (void)poll(NULL, 0, err == MUSTER_RATE_LIMITED ? LIMITED_MS : AGAIN_MS);
        else if (err && err != MUSTER_CURSOR_EXPIRED)
            return connect_is_passing(err) ? MUSTER_TIMEOUT : err;
    } while (!ended);
    return MUSTER_OK;
}

const struct library_ways connect_ways = {.submit = far_submit,
                                          .cancel = far_cancel,
                                          .read = far_read,
                                          .wait = far_wait,
                                          .follow_open = connect_follow_open,
                                          .follow_read = connect_follow_read,
                                          .follow_close = connect_follow_close};
