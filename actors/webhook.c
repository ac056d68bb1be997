/* SPDX-License-Identifier: MPL-2.0 */
/* webhook: tells the receivers that jobs named in their `callback` how the jobs ended.
 *
 * The queue puts a pending `delivery` record in the commit of such a job's end.  We find it by the job's last event, or
 * by walking the pending ones at our start and when events were missed, at most once a second.  It is then held in
 * memory, in one of the places that webhook.h names, until its outcome is on the disk.
 *
 * Every outcome is written.  A restart makes again what was open, with the same webhook-id, so a receiver gets each end
 * at least once.  A delivery whose outcome cannot be written is kept and its outcome written later.  Mailbox full:
 * events are missed, and the records are walked instead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_journal.h"
#include "actors/webhook.h"

#define MAX_HELD 100000 /* deliveries in memory; further ones are walked to when half of these are done */
#define GROWTH 6
#define JITTER_PERCENT 20
#define SAVE_PAUSE_MS 5000
#define WALK_PAUSE_MS 1000 /* shortest time between two walks */

enum { TIMER_PUMP = 1, TIMER_WALK };

struct webhook_actor {
    struct muster_ctx *ctx;                /* borrowed; outlives us */
    const struct webhook_options *options; /* likewise */
    struct muster_arena *arena;            /* for one request */
    struct webhook_tasks tasks;            /* all that are held */
    int64_t open;                          /* requests on their way */
    int64_t last_token;
    int64_t walked_ms; /* when the records were last walked */
    bool more;         /* there may be pending deliveries that are not held */
};

/* ---- saving outcomes ------------------------------------------------------------------------------------------------
 */

/* Send the record to the store; when the outcome is final, with an answer to ourselves that has the token as its
 * number. */
static muster_err
send_record(struct webhook_task *task, int64_t next_ms)
{
    struct webhook_actor *self = task->self;
    struct delivery record = {.id = task->job,
                              .state = task->state,
                              .tries = task->tries,
                              .next_ms = next_ms,
                              .status = task->status,
                              .problem = task->problem};
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal = {.name = ""}};
    const struct store_committed committed = {0};
    struct muster_buf packed = {0}, frame = {0};
    struct store_put put = {.record = delivery_type.wire};
    struct store_answer told = {.to = muster_ctx_address(self->ctx)};
    struct store_commit commit = {.puts = {&put, 1}, .answers = {&told, 1}};
    muster_err err;

    envelope.id = task->token = ++self->last_token;
    muster_envelope_pack(&envelope, &store_committed_type, &committed, &frame);
    told.ok = (struct muster_bytes){(const uint8_t *)frame.data, frame.size};
    if (task->state == delivery_state_PENDING)
        commit.answers.count = 0;
    muster_pack(&delivery_type, &record, &packed);
    put.value = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    err = muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit);
    muster_buf_free(&packed);
    muster_buf_free(&frame);
    return err;
}

/* A final outcome is kept until the disk has it. */
static void
save_final(struct webhook_task *task)
{
    struct webhook_actor *self = task->self;

    if (send_record(task, 0)) {
        webhook_due_put(&self->tasks, task, muster_now_ms(self->ctx) + SAVE_PAUSE_MS);
        return;
    }
    webhook_saving_put(&self->tasks, task);
}

/* What is lost when this one is not written: after a restart the try is made again. */
static void
save_pending(struct webhook_task *task, int64_t next_ms)
{
    (void)send_record(task, next_ms);
    webhook_due_put(&task->self->tasks, task, next_ms);
}

MUSTER_ON(webhook_actor, store_committed);

static muster_err
on_store_committed(struct webhook_actor *self, const struct store_committed *in)
{
    struct webhook_task *task = webhook_saving_take(&self->tasks, muster_ctx_envelope(self->ctx)->id);

    (void)in;
    if (task)
        webhook_task_free(&self->tasks, task);
    return MUSTER_OK;
}

MUSTER_ON(webhook_actor, failed);

/* The store could not write an outcome. */
static muster_err
on_failed(struct webhook_actor *self, const struct failed *in)
{
    struct webhook_task *task = webhook_saving_take(&self->tasks, muster_ctx_envelope(self->ctx)->id);

    (void)in;
    if (task)
        webhook_due_put(&self->tasks, task, muster_now_ms(self->ctx) + SAVE_PAUSE_MS);
    return MUSTER_OK;
}

/* ---- outcomes -------------------------------------------------------------------------------------------------------
 */

static void
set_problem(struct webhook_task *task, const char *text)
{
    struct muster_buf clean = {0};

    muster_utf8_clean(&clean, text, strnlen(text, WEBHOOK_PROBLEM_MAX));
    (void)snprintf(task->problem, sizeof task->problem, "%s", clean.data ? clean.data : "");
    muster_buf_free(&clean);
}

static void
give_up(struct webhook_task *task)
{
    char text[MUSTER_ID_TEXT];
    const char *job = text, *problem = task->problem;

    muster_id_text(&task->job, text);
    muster_journal_say(muster_ctx_journal(task->self->ctx), WARNING, "callback-failed", "A callback was given up.",
                       MUSTER_SAY_TEXT("job", job), MUSTER_SAY_NUMBER("tries", task->tries),
                       MUSTER_SAY_NUMBER("status", task->status), MUSTER_SAY_TEXT("problem", problem));
    task->state = delivery_state_FAILED;
    save_final(task);
}

/* Until the next request: sixfold each time, up to the longest, with jitter; longer if the receiver asked for that. */
static int64_t
pause_ms(const struct webhook_options *options, int64_t tries, int64_t retry_after_s)
{
    int64_t pause = options->retry_delay, longest = options->max_retry_delay, spread, i;

    for (i = 1; i < tries && pause < longest; i++)
        pause *= GROWTH;
    pause = pause < longest ? pause : longest;
    spread = pause * JITTER_PERCENT / 100;
    pause += (int64_t)muster_random_below((uint32_t)(2 * spread + 1)) - spread;
    if (retry_after_s > longest / 1000)
        return longest;
    if (retry_after_s > 0 && retry_after_s * 1000 > pause)
        pause = retry_after_s * 1000;
    return pause < longest ? pause : longest;
}

static void
describe_problem(struct webhook_task *task, const struct muster_fetch_result *result)
{
    char text[64];

    if (result->status >= 200 && result->status < 300) {
        task->problem[0] = '\0';
    } else if (result->status == 0) {
        set_problem(task, result->problem && result->problem[0] ? result->problem : "No answer came");
    } else {
        (void)snprintf(text, sizeof text, "The receiver answered %ld", result->status);
        set_problem(task, text);
    }
}

/* Say that a callback does not get through, once each. */
static void
warn_retrying(const struct webhook_task *task, const char *host, int64_t delay_ms)
{
    char text[MUSTER_ID_TEXT];
    const char *job = text, *problem = task->problem;

    muster_id_text(&task->job, text);
    muster_journal_say(muster_ctx_journal(task->self->ctx), WARNING, "callback-retrying",
                       "A callback was not taken and is tried again.", MUSTER_SAY_TEXT("job", job),
                       MUSTER_SAY_TEXT("host", host), MUSTER_SAY_NUMBER("status", task->status),
                       MUSTER_SAY_TEXT("problem", problem), MUSTER_SAY_NUMBER("delay_ms", delay_ms));
}

static void
try_again(struct webhook_task *task, const char *host, int64_t retry_after_s)
{
    struct webhook_actor *self = task->self;
    int64_t delay_ms = pause_ms(self->options, task->tries, retry_after_s);

    if (task->tries == 1)
        warn_retrying(task, host, delay_ms);
    save_pending(task, muster_now_ms(self->ctx) + delay_ms);
}

static void
on_answer(void *arg, const struct muster_fetch_result *result)
{
    struct webhook_task *task = arg;
    struct webhook_actor *self = task->self;
    char *host = muster_strdup(task->host->name);

    self->open--;
    webhook_slot_leave(&self->tasks, task);
    task->tries++;
    task->status = result->status > 999 ? 999 : result->status;
    describe_problem(task, result);
    if (result->status >= 200 && result->status < 300) {
        task->state = delivery_state_DELIVERED;
        save_final(task);
    } else if (result->status == 410 || task->tries >= self->options->max_tries) {
        give_up(task);
    } else {
        try_again(task, host, result->retry_after_s);
    }
    free(host);
}

/* ---- requests -------------------------------------------------------------------------------------------------------
 */

static void
request(struct webhook_task *task, const struct job *job)
{
    struct webhook_actor *self = task->self;
    struct muster_fetch_spec spec = {.timeout_ms = self->options->timeout,
                                     .allow_private = self->options->allow_private};
    struct muster_buf body = {0};

    webhook_request_fill(self->arena, job, muster_now_ms(self->ctx), &body, &spec);
    self->open++;
    muster_ctx_fetch(self->ctx, &spec, on_answer, task);
    muster_buf_free(&body);
}

/* Its time has come. */
static void
begin(struct webhook_task *task)
{
    struct webhook_actor *self = task->self;
    struct job job;
    muster_err err;

    if (task->state != delivery_state_PENDING) {
        save_final(task);
        return;
    }
    muster_arena_clear(self->arena);
    err = muster_store_get(muster_ctx_store(self->ctx), &job_type, &task->job, self->arena, &job);
    if (err == MUSTER_OK && job.callback) {
        if (webhook_slot_take(&self->tasks, task, webhook_host_name(self->arena, job.callback->url)))
            request(task, &job);
        return;
    }
    webhook_slot_leave(&self->tasks, task);
    if (err && err != MUSTER_NOT_FOUND) {
        webhook_due_put(&self->tasks, task, muster_now_ms(self->ctx) + SAVE_PAUSE_MS);
        return;
    }
    set_problem(task, "The job is no longer kept");
    give_up(task);
}

/* Begin what is due, and be called again when the next one is.  While as many as may be are open, the end of one calls.
 */
static void
pump(struct webhook_actor *self)
{
    int64_t now_ms = muster_now_ms(self->ctx);
    const struct webhook_task *first;

    while ((first = webhook_due_first(&self->tasks)) && first->due_ms <= now_ms &&
           self->open < self->options->max_parallel)
        begin(webhook_due_take(&self->tasks));
    if (first && self->open < self->options->max_parallel)
        muster_timer_in(self->ctx, first->due_ms - now_ms, TIMER_PUMP);
    else
        muster_timer_end(self->ctx, TIMER_PUMP);
}

/* ---- finding deliveries ---------------------------------------------------------------------------------------------
 */

/* False: there is no room for more. */
static bool
hold(struct webhook_actor *self, const struct delivery *record)
{
    if (record->state != delivery_state_PENDING || webhook_task_is_held(&self->tasks, &record->id))
        return true;
    if (self->tasks.held >= MAX_HELD) {
        self->more = true;
        return false;
    }
    webhook_task_add(&self->tasks, self, record);
    return true;
}

static bool
hold_walked(void *arg, const void *record, struct muster_arena *arena)
{
    (void)arena;
    return hold(arg, record);
}

static void
walk(struct webhook_actor *self)
{
    self->more = false;
    self->walked_ms = muster_now_ms(self->ctx);
    if (muster_store_walk(muster_ctx_store(self->ctx), &delivery_type, "delivery_by_state",
                          muster_enum_wire(&delivery_state_enum, delivery_state_PENDING), MUSTER_OLDEST_FIRST,
                          hold_walked, self))
        self->more = true;
}

MUSTER_ON(webhook_actor, feed_event);

static muster_err
on_feed_event(struct webhook_actor *self, const struct feed_event *in)
{
    const struct muster_event_row *row = muster_event_row(in->event->type);
    struct delivery record;
    muster_err err;

    if (row == NULL || !row->final)
        return MUSTER_OK;
    err = muster_store_get(muster_ctx_store(self->ctx), &delivery_type, &in->event->job, muster_ctx_arena(self->ctx),
                           &record);
    if (err == MUSTER_OK)
        (void)hold(self, &record);
    else if (err != MUSTER_NOT_FOUND)
        self->more = true;
    return MUSTER_OK;
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static muster_err
init(void *arg, struct muster_ctx *ctx, const void *config)
{
    struct webhook_actor *self = arg;

    (void)config;
    self->ctx = ctx;
    self->options = muster_ctx_options(ctx)->webhooks;
    self->arena = muster_arena_new();
    self->last_token = muster_now_ms(ctx) * 1000; /* no answer to an earlier life is taken for one to this */
    muster_events_subscribe(ctx);
    walk(self);
    pump(self);
    return MUSTER_OK;
}

static void
fini(void *arg)
{
    struct webhook_actor *self = arg;

    webhook_tasks_fini(&self->tasks);
    muster_arena_free(&self->arena);
}

/* What is due is begun in idle, which follows. */
static void
on_timer(void *arg, uint64_t key)
{
    (void)arg;
    (void)key;
}

static void
on_idle(void *arg)
{
    struct webhook_actor *self = arg;
    int64_t passed_ms = muster_now_ms(self->ctx) - self->walked_ms;

    if (muster_events_missed(self->ctx) > 0)
        self->more = true;
    if (self->more && self->tasks.held <= MAX_HELD / 2) {
        if (passed_ms < 0 || passed_ms >= WALK_PAUSE_MS)
            walk(self);
        else
            muster_timer_in(self->ctx, WALK_PAUSE_MS - passed_ms, TIMER_WALK);
    }
    pump(self);
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(feed_event), MUSTER_ROW(store_committed), MUSTER_ROW(failed), {NULL, NULL}};

const struct muster_actor_class muster_webhook_class = {
    .name = "webhook",
    .size = sizeof(struct webhook_actor),
    .mailbox = 10000,
    .init = init,
    .fini = fini,
    .handlers = handlers,
    .timer = on_timer,
    .idle = on_idle,
};
