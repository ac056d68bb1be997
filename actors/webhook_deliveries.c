/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_deliveries: tells the receivers that jobs named in their `callback` how the jobs ended.
 *
 * The queue puts a pending `delivery` record in the commit of such a job's end.  We find it by the job's last event, or
 * by walking the pending ones at our start and when events were missed, at most once a second.  It is then held in
 * memory until its outcome is on the disk.  Every outcome is written.  A restart makes again what was open, with the
 * same webhook-id, so a receiver gets each end at least once.  A delivery whose outcome cannot be written is kept and
 * its outcome written later. */
#include "actors/muster_journal.h"
#include "actors/webhook.h"

#define MAX_HELD 100000    /* deliveries in memory; further ones are walked to when half of these are done */
#define WALK_PAUSE_MS 1000 /* shortest time between two walks */

/* ---- saving outcomes ------------------------------------------------------------------------------------------------
 */

static muster_err
put_record(struct webhook_task *task, int64_t next_ms)
{
    struct delivery record = {.id = task->job,
                              .state = task->state,
                              .tries = task->tries,
                              .next_ms = next_ms,
                              .status = task->status,
                              .problem = task->problem};
    struct store_put put = {.record = delivery_type.wire};
    struct muster_buf packed = {0};
    muster_err err;

    muster_pack(&delivery_type, &record, &packed);
    put.value = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    err = webhook_put(task->self, &put, &task->token);
    muster_buf_free(&packed);
    return err;
}

/* A final outcome is kept until the disk has it. */
static void
save_final(struct webhook_task *task)
{
    struct webhook_actor *self = task->self;

    if (put_record(task, 0))
        webhook_turn_due(&self->turns, &task->turn, muster_now_ms(self->ctx) + WEBHOOK_SAVE_PAUSE_MS);
    else
        webhook_saving_put(&self->tasks, task);
}

/* What is lost when this one is not written: after a restart the try is made again. */
static void
save_pending(struct webhook_task *task, int64_t next_ms)
{
    (void)put_record(task, next_ms);
    webhook_turn_due(&task->self->turns, &task->turn, next_ms);
}

bool
webhook_deliveries_saved(struct webhook_actor *self, int64_t token, bool written)
{
    struct webhook_task *task = webhook_saving_take(&self->tasks, token);

    if (task == NULL)
        return false;
    if (written)
        webhook_task_free(&self->tasks, task);
    else
        webhook_turn_due(&self->turns, &task->turn, muster_now_ms(self->ctx) + WEBHOOK_SAVE_PAUSE_MS);
    return true;
}

/* ---- outcomes -------------------------------------------------------------------------------------------------------
 */

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
    int64_t delay_ms = webhook_pause_ms(self->options, task->tries, retry_after_s);

    if (task->tries == 1)
        warn_retrying(task, host, delay_ms);
    save_pending(task, muster_now_ms(self->ctx) + delay_ms);
}

static void
on_answer(void *arg, const struct muster_fetch_result *result)
{
    struct webhook_task *task = arg;
    struct webhook_actor *self = task->self;
    const char *host;

    self->turns.open--;
    muster_arena_clear(self->arena);
    host = muster_arena_printf(self->arena, "%s", task->turn.endpoint->name);
    webhook_turn_leave(&self->turns, &task->turn);
    task->tries++;
    task->status = webhook_status(result);
    webhook_problem(result, task->problem);
    switch (webhook_judge(self->options, task->tries, result)) {
    case WEBHOOK_TAKEN:
        task->state = delivery_state_DELIVERED;
        save_final(task);
        break;
    case WEBHOOK_OVER:
        give_up(task);
        break;
    default:
        try_again(task, host, result->retry_after_s);
        break;
    }
}

/* ---- requests -------------------------------------------------------------------------------------------------------
 */

static void
request(struct webhook_task *task, const struct job *job)
{
    struct webhook_actor *self = task->self;
    const struct job_callback *callback = job->callback;
    const struct secret *own = &self->own.record;
    struct webhook_letter letter = {.url = callback->url,
                                    .method = callback->method,
                                    .headers = callback->headers,
                                    .secrets = {own->value, own->old, own->old_until_ms},
                                    .now_ms = muster_now_ms(self->ctx)};
    struct muster_buf body = {0};
    char id[MUSTER_ID_TEXT];

    if (callback->secret.size > 0)
        letter.secrets = (struct webhook_secrets){.value = callback->secret};
    muster_id_text(&job->id, id);
    letter.id = muster_arena_printf(self->arena, "msg_%s", id);
    webhook_body_callback(self->arena, job, &body);
    webhook_send(self, &letter, &body, on_answer, task);
    muster_buf_free(&body);
}

/* Do what is due: send it, or save how it ended. */
static void
begin(struct webhook_turn *turn)
{
    struct webhook_task *task = (struct webhook_task *)turn;
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
        if (webhook_turn_slot(&self->turns, turn, webhook_endpoint_name(self->arena, job.callback->url),
                              self->options->max_per_endpoint))
            request(task, &job);
        return;
    }
    webhook_turn_leave(&self->turns, turn);
    if (err && err != MUSTER_NOT_FOUND) {
        webhook_turn_due(&self->turns, turn, muster_now_ms(self->ctx) + WEBHOOK_SAVE_PAUSE_MS);
        return;
    }
    webhook_problem_set("The job is no longer kept", task->problem);
    give_up(task);
}

/* ---- finding deliveries ---------------------------------------------------------------------------------------------
 */

/* False: there is no room for more. */
static bool
hold(struct webhook_actor *self, const struct delivery *record)
{
    struct webhook_task *task;

    if (record->state != delivery_state_PENDING || webhook_task_is_held(&self->tasks, &record->id))
        return true;
    if (self->tasks.held >= MAX_HELD) {
        self->more = true;
        return false;
    }
    task = webhook_task_add(&self->tasks, record);
    task->self = self;
    task->turn.begin = begin;
    webhook_turn_due(&self->turns, &task->turn, record->next_ms);
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

void
webhook_deliveries_note(struct webhook_actor *self, const struct muster_id *job)
{
    struct delivery record;
    muster_err err =
        muster_store_get(muster_ctx_store(self->ctx), &delivery_type, job, muster_ctx_arena(self->ctx), &record);

    if (err == MUSTER_OK)
        (void)hold(self, &record);
    else if (err != MUSTER_NOT_FOUND)
        self->more = true;
}

void
webhook_deliveries_walk(struct webhook_actor *self)
{
    int64_t passed_ms = muster_now_ms(self->ctx) - self->walked_ms;

    if (!self->more || self->tasks.held > MAX_HELD / 2)
        return;
    if (passed_ms < 0 || passed_ms >= WALK_PAUSE_MS)
        walk(self);
    else
        muster_timer_in(self->ctx, WALK_PAUSE_MS - passed_ms, WEBHOOK_TIMER_WALK);
}
