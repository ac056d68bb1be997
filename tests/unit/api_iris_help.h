/* SPDX-License-Identifier: MPL-2.0 */
/* What the tests of the iris dialect share: a queue that does what the prompt says and remembers what it was given, and
 * requests that are answered with JSON. */
#ifndef TESTS_API_IRIS_HELP_H
#define TESTS_API_IRIS_HELP_H

#include "tests/unit/api_help.h"

#include <criterion/criterion.h>
#include <jansson.h>

static struct rig rig;
static struct answer answer;

/* ---- a queue that does what the prompt says -------------------------------------------------------------------------- */

struct desk_entry {
    char digest[MUSTER_DIGEST_HEX];
    uint8_t fingerprint[MUSTER_DIGEST];
    struct queue_accepted accepted;
};

static struct desk {
    struct muster_arena *arena; /* the test's */
    struct muster_buf job;      /* the last one submitted, packed */
    struct desk_entry entries[16];
    size_t count;
    bool busy;                        /* the first commit of a repeated submit is still under way */
    const char *refuses;              /* code for queue.place and queue.pause */
    struct queue_placed placed;       /* answer to queue.place */
    struct queue_cancelled cancelled; /* answer to queue.cancel; state NONE: it is cancelled */
    atomic_int asked;                 /* for a place */
    _Atomic int64_t settled;          /* what the log says to log.flush */
} desk;

static inline void
refuse(struct rig *r, const struct muster_envelope *envelope, const char *code)
{
    struct failed failed = {code, "The queue says no", 3};

    reply(r->queue_loop, envelope, &envelope->principal, &failed_type, &failed);
}

static inline void
finish(struct rig *r, const struct muster_envelope *envelope, const struct job *job)
{
    static const char *const tools[] = {"Read", "Grep"}, *const files[] = {"a.c"};
    struct usage usage = {.input_tokens = 10, .output_tokens = 4, .cost_usd = 0.5};
    struct job done = *job;
    struct queue_finished finished = {.job = &done};

    done.started_ms = job->created_ms + 10;
    done.finished_ms = job->created_ms + 2857;
    done.attempt = 1;
    done.state = job_state_COMPLETED;
    done.result = "We use Prisma";
    done.tools = (struct muster_strs){tools, 2};
    done.files = (struct muster_strs){files, 1};
    done.usage = &usage;
    if (strncmp(job->prompt, "fail", 4) == 0) { /* "fail": with MODEL_AUTH; "fail X": with X */
        done.state = job_state_FAILED;
        done.result = NULL;
        done.attempt = 3;
        done.error = job->prompt[4] ? job->prompt + 5 : "MODEL_AUTH";
        done.error_message = "invalid x-api-key";
    }
    reply(r->queue_loop, envelope, &envelope->principal, &queue_finished_type, &finished);
}

static inline bool
same_bytes(const struct muster_bytes *bytes, const uint8_t *other)
{
    return bytes->size == MUSTER_DIGEST && memcmp(bytes->data, other, MUSTER_DIGEST) == 0;
}

/* Was the same asked before?  True: answered. */
static inline bool
answer_again(struct rig *r, const struct muster_envelope *envelope, const struct job *job)
{
    struct desk_entry *entry;

    if (job->idempotency == NULL || *job->idempotency == '\0')
        return false;
    for (entry = desk.entries; entry < desk.entries + desk.count; entry++)
        if (strcmp(entry->digest, job->idempotency) == 0)
            break;
    if (entry < desk.entries + desk.count) {
        if (desk.busy)
            refuse(r, envelope, "IDEMPOTENCY_IN_PROGRESS");
        else if (!same_bytes(&job->fingerprint, entry->fingerprint))
            refuse(r, envelope, "IDEMPOTENCY_MISMATCH");
        else
            reply(r->queue_loop, envelope, &envelope->principal, &queue_accepted_type, &entry->accepted);
        return true;
    }
    NEED(desk.count < sizeof desk.entries / sizeof *desk.entries && job->fingerprint.size == MUSTER_DIGEST);
    snprintf(entry->digest, sizeof entry->digest, "%s", job->idempotency);
    memcpy(entry->fingerprint, job->fingerprint.data, MUSTER_DIGEST);
    entry->accepted = (struct queue_accepted){job->id, 3, 1704067500000, job->created_ms, true};
    desk.count++;
    return false;
}

static inline void
on_submit(struct rig *r, const struct muster_envelope *envelope, const struct queue_submit *submit)
{
    struct queue_accepted accepted = {submit->job->id, 3, 1704067500000, submit->job->created_ms, false};

    if (strcmp(submit->job->prompt, "refuse") == 0) {
        refuse(r, envelope, "QUEUE_FULL");
        return;
    }
    if (answer_again(r, envelope, submit->job))
        return;
    reply(r->queue_loop, envelope, &envelope->principal, &queue_accepted_type, &accepted);
    if (submit->wait && strcmp(submit->job->prompt, "silence") != 0)
        finish(r, envelope, submit->job);
}

static inline void
desk_receive(void *arg, const void *data, size_t size)
{
    struct rig *r = arg;
    struct muster_envelope envelope;
    struct queue_submit submit;
    struct queue_pause pause;
    struct queue_paused paused;

    muster_arena_clear(r->queue_arena);
    NEED(muster_envelope_unpack(data, size, r->queue_arena, &envelope) == MUSTER_OK);
    if (strcmp(envelope.type, queue_place_type.wire) == 0) {
        desk.asked++;
        if (desk.refuses)
            refuse(r, &envelope, desk.refuses);
        else
            reply(r->queue_loop, &envelope, &envelope.principal, &queue_placed_type, &desk.placed);
        return;
    }
    if (strcmp(envelope.type, queue_pause_type.wire) == 0) {
        NEED(muster_unpack(&queue_pause_type, envelope.body.data, envelope.body.size, r->queue_arena, &pause, NULL) ==
             MUSTER_OK);
        paused = (struct queue_paused){pause.team, pause.paused};
        if (desk.refuses)
            refuse(r, &envelope, desk.refuses);
        else
            reply(r->queue_loop, &envelope, &envelope.principal, &queue_paused_type, &paused);
        return;
    }
    if (strcmp(envelope.type, queue_cancel_type.wire) == 0 && desk.cancelled.state) {
        reply(r->queue_loop, &envelope, &envelope.principal, &queue_cancelled_type, &desk.cancelled);
        return;
    }
    if (strcmp(envelope.type, queue_submit_type.wire) == 0) {
        NEED(muster_unpack(&queue_submit_type, envelope.body.data, envelope.body.size, r->queue_arena, &submit, NULL) ==
             MUSTER_OK);
        muster_buf_clear(&desk.job);
        muster_pack(&job_type, submit.job, &desk.job);
    }
    fake_queue(arg, data, size);
}

static const struct muster_runner_hooks desk_hooks = {
    .begin = begin_queue, .frame = desk_receive, .idle = NULL, .end = end_nothing};

static inline void
desk_log(void *arg, const void *data, size_t size)
{
    struct rig *r = arg;
    struct store_committed committed = {.seq = desk.settled};
    struct muster_envelope envelope;

    muster_arena_clear(r->log_arena);
    NEED(muster_envelope_unpack(data, size, r->log_arena, &envelope) == MUSTER_OK);
    r->flushes++;
    reply(r->log_loop, &envelope, &envelope.principal, &store_committed_type, &committed);
}

static const struct muster_runner_hooks desk_log_hooks = {
    .begin = begin_log, .frame = desk_log, .idle = NULL, .end = end_nothing};

static inline void
open_rig_with(const char *yaml)
{
    rig_open(&rig, yaml, http_dialects);
    muster_runner_stop(&rig.queue);
    muster_runner_stop(&rig.log);
    NEED(muster_runner_start(rig.bus, MUSTER_LOG, 10000, &desk_log_hooks, &rig, &rig.log) == MUSTER_OK);
    NEED(muster_runner_start(rig.bus, MUSTER_QUEUE, 10000, &desk_hooks, &rig, &rig.queue) == MUSTER_OK);
    rig.on_submit = on_submit;
    desk.arena = muster_arena_new();
}

static inline void
open_rig(void)
{
    open_rig_with(rig_options);
}

/* What the queue was given last; good until the next call. */
static inline struct job
submitted(void)
{
    struct job job;

    muster_arena_clear(desk.arena);
    cr_assert_eq(muster_unpack(&job_type, desk.job.data, desk.job.size, desk.arena, &job, NULL), MUSTER_OK);
    return job;
}

static inline void
close_rig(void)
{
    muster_buf_free(&answer.body);
    rig_close(&rig);
    muster_arena_free(&desk.arena);
    muster_buf_free(&desk.job);
}

/* ---- asking for JSON ------------------------------------------------------------------------------------------------ */

static inline json_t *
call_as(const char *key, const char *method, const char *path, const char *body, int status)
{
    json_t *json;

    cr_assert_eq(request_text(&rig, &answer, method, path, key, NULL, body), status, "%s %s: %d %s", method, path,
                 answer.status, answer.body.data);
    json = json_loads(answer.body.data, 0, NULL);
    cr_assert_not_null(json, "%s", answer.body.data);
    return json;
}

static inline json_t *
call(const char *method, const char *path, const char *body, int status)
{
    return call_as(ADMIN_KEY, method, path, body, status);
}

static inline const char *
text_of(const json_t *json, const char *name)
{
    const char *text = json_string_value(json_object_get(json, name));

    cr_assert_not_null(text, "no %s in %s", name, answer.body.data);
    return text;
}

static inline int64_t
number_of(const json_t *json, const char *name)
{
    const json_t *value = json_object_get(json, name);

    cr_assert(json_is_integer(value), "no %s in %s", name, answer.body.data);
    return json_integer_value(value);
}

/* The error shape of the document, with this code. */
static inline void
expect_error(const char *path, const char *body, int status, const char *code)
{
    json_t *json = call(body ? "POST" : "GET", path, body, status);

    cr_expect_str_eq(text_of(json, "code"), code);
    cr_expect_gt(strlen(text_of(json, "error")), 0);
    cr_expect_gt(strlen(text_of(json, "message")), 0);
    cr_expect_gt(number_of(json, "timestamp"), 1600000000000);
    json_decref(json);
}

static inline struct job
store_one(const char *team, const char *from, enum job_state state, int64_t created_ms)
{
    struct job job = {.id = muster_id_new(created_ms),
                      .kind = job_kind_EXECUTE,
                      .team = team,
                      .state = state,
                      .priority = job_priority_NORMAL,
                      .prompt = "question",
                      .from = from,
                      .created_ms = created_ms,
                      .timeout_ms = 1000,
                      .max_attempts = 3,
                      .attempt = 1};

    if (state != job_state_QUEUED)
        job.started_ms = created_ms + 100;
    if (state == job_state_COMPLETED || state == job_state_FAILED || state == job_state_CANCELLED)
        job.finished_ms = created_ms + 600;
    if (state == job_state_COMPLETED)
        job.result = "answer";
    if (state == job_state_FAILED) {
        job.error = "PROCESS_ERROR";
        job.error_message = "exit code 1";
    }
    store_job(&rig, &job);
    return job;
}

static inline const char *
path_of(const struct job *job, const char *prefix, const char *rest)
{
    static char path[160];
    char id[MUSTER_ID_TEXT];

    muster_id_text(&job->id, id);
    snprintf(path, sizeof path, "/api/v1/messages/%s%s%s", prefix, id, rest);
    return path;
}

#endif
