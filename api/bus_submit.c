/* SPDX-License-Identifier: MPL-2.0 */
/* bus_submit: what a client asks of an actor becomes what the actor gets.  Values that no schema row can check, and
 * teams, are checked here.  The thread of the bus; what does not fit is told by the request's problem. */
#include <string.h>

#include "api/bus_inside.h"

enum { KEY_BYTES = 255 };

static muster_err
refuse(struct bus_request *request, muster_err err, const char *problem)
{
    request->problem = problem;
    return err;
}

static muster_err
check_team(struct bus_request *request, const char *team)
{
    if (!caller_may_use(&request->key, team))
        return refuse(request, MUSTER_FORBIDDEN,
                      muster_arena_printf(request->arena, "This key may not use team '%.64s'", team));
    if (muster_team_options(request->bus->house.options, team) == NULL)
        return refuse(request, MUSTER_TEAM_NOT_FOUND,
                      muster_arena_printf(request->arena, "Team '%.64s' does not exist", team));
    return MUSTER_OK;
}

/* One of a team that the key may not use is not there for it. */
static muster_err
check_job(struct bus_request *request, const struct muster_id *id)
{
    struct job job;
    muster_err err = muster_store_get(request->bus->house.store, &job_type, id, request->arena, &job);

    if (err == MUSTER_NOT_FOUND || (err == MUSTER_OK && !caller_may_use(&request->key, job.team)))
        return refuse(request, MUSTER_NOT_FOUND, "There is no such job");
    return err;
}

/* ---- submit ---- */

static bool
is_visible(const char *text)
{
    size_t size;

    for (size = 0; text[size]; size++)
        if (text[size] <= ' ' || text[size] > '~')
            return false;
    return size >= 1 && size <= KEY_BYTES;
}

static void
mark_idempotent(struct bus_request *request, const struct bus_job *in, struct job *job)
{
    struct bus_job asked = *in;
    char *digest = muster_arena_alloc(request->arena, MUSTER_DIGEST_HEX);
    uint8_t *fingerprint = muster_arena_alloc(request->arena, MUSTER_DIGEST);
    struct muster_buf json = {0};
    char key[MUSTER_ID_TEXT];

    asked.idempotency = NULL;
    asked.priority = job->priority;
    muster_id_text(&job->key, key);
    muster_digest_texts(digest, key, job->team, "bus", in->idempotency, NULL);
    muster_json_encode(&bus_job_type, &asked, &json);
    muster_sha256(json.data, json.size, fingerprint);
    muster_buf_free(&json);
    job->idempotency = digest;
    job->fingerprint = (struct muster_bytes){fingerprint, MUSTER_DIGEST};
}

static void
set_conversation(struct bus_request *request, struct job *job)
{
    char *digest = muster_arena_alloc(request->arena, MUSTER_DIGEST_HEX);
    char key[MUSTER_ID_TEXT];

    muster_id_text(&job->key, key);
    muster_digest_texts(digest, job->team, key, job->session_id, NULL);
    job->conversation = digest;
}

static muster_err
check_values(struct bus_request *request, const struct bus_job *in)
{
    if (in->callback)
        return refuse(request, MUSTER_INVALID_REQUEST, "job.callback: is not taken here; wait, or subscribe");
    if (in->context && *in->context != '{')
        return refuse(request, MUSTER_INVALID_REQUEST, "job.context: must be an object");
    if (in->idempotency && in->idempotency[0] && !is_visible(in->idempotency))
        return refuse(request, MUSTER_INVALID_REQUEST, "job.idempotency: must be 1 to 255 visible ASCII characters");
    if (in->not_before_ms > muster_clock_ms() + request->bus->house.options->queue->max_delay)
        return refuse(request, MUSTER_INVALID_REQUEST, "job.not_before_ms: is further ahead than queue.max_delay");
    return MUSTER_OK;
}

/* A deadline of a job that was taken before may have passed meanwhile. */
static muster_err
check_deadline(struct bus_request *request, const struct job *job)
{
    size_t count = 0;

    if (job->deadline_ms == 0 || (job->deadline_ms > job->created_ms && job->deadline_ms > job->not_before_ms))
        return MUSTER_OK;
    if (job->idempotency &&
        muster_store_count(request->bus->house.store, &job_type, "job_by_idempotency", job->idempotency, &count) ==
            MUSTER_OK &&
        count > 0)
        return MUSTER_OK;
    return refuse(request, MUSTER_INVALID_REQUEST, "job.deadline_ms: must be in the future and after not_before_ms");
}

static struct job
job_of(const struct bus_request *request, const struct bus_job *in)
{
    const struct options *options = request->bus->house.options;
    int64_t now_ms = muster_clock_ms(), most_ms = muster_team_options(options, in->team)->turn_timeout;

    return (struct job){.id = muster_id_new(now_ms),
                        .kind = ((const struct bus_submit *)request->body)->wait ? job_kind_ASK : job_kind_EXECUTE,
                        .team = in->team,
                        .state = job_state_QUEUED,
                        .priority = in->priority ? in->priority : job_priority_NORMAL,
                        .prompt = in->prompt,
                        .context = in->context,
                        .from = caller_from(&request->key),
                        .key = request->key.id,
                        .trace = request->envelope.trace,
                        .created_ms = now_ms,
                        .timeout_ms = in->timeout_ms > 0 && in->timeout_ms < most_ms ? in->timeout_ms : most_ms,
                        .max_attempts = in->max_attempts ? in->max_attempts : options->queue->max_attempts,
                        .not_before_ms = in->not_before_ms > now_ms ? in->not_before_ms : 0,
                        .deadline_ms = in->deadline_ms,
                        .session_id = in->session_id && in->session_id[0] ? in->session_id : NULL};
}

static muster_err
plan_submit(struct bus_request *request)
{
    const struct bus_submit *in = request->body;
    struct queue_submit *submit = muster_arena_alloc(request->arena, sizeof *submit);
    struct job *job = muster_arena_alloc(request->arena, sizeof *job);
    muster_err err = check_team(request, in->job->team);

    if (!err)
        err = check_values(request, in->job);
    if (err)
        return err;
    *job = job_of(request, in->job);
    if (job->session_id)
        set_conversation(request, job);
    if (in->job->idempotency && in->job->idempotency[0])
        mark_idempotent(request, in->job, job);
    *submit = (struct queue_submit){.job = job, .wait = in->wait};
    request->wait = in->wait;
    request->type = &queue_submit_type;
    request->message = submit;
    return check_deadline(request, job);
}

/* ---- all of them ---- */

muster_err
bus_plan(struct bus_request *request)
{
    const struct muster_type *body = request->row->body;

    if (body == &bus_submit_type)
        return plan_submit(request);
    if (request->row->address[0] == '\0')
        return bus_check_read(request);
    request->type = body;
    request->message = request->body;
    if (bus_is_of_worker(request->row))
        return bus_check_worker(request);
    if (body == &queue_cancel_type)
        return check_job(request, &((const struct queue_cancel *)request->body)->job);
    if (body == &queue_place_type)
        return check_job(request, &((const struct queue_place *)request->body)->job);
    if (body == &queue_pause_type)
        return check_team(request, ((const struct queue_pause *)request->body)->team);
    return MUSTER_INTERNAL_ERROR; /* a row of public.def that is not checked here goes nowhere */
}

struct job
bus_show_job(const struct job *job)
{
    struct job shown = *job;

    shown.callback = NULL; /* its headers and secret */
    shown.idempotency = NULL;
    shown.fingerprint = (struct muster_bytes){NULL, 0};
    shown.conversation = NULL;
    return shown;
}
