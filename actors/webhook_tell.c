/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_tell: the way of one webhook.  It is told of the events it wants one at a time, in the order of their
 * numbers; its cursor moves when one was taken.  One that is behind the front looks for its next event in bounded
 * pieces; the event is read again when it is sent, so nothing of the log is kept in memory.  What cannot be read is
 * tried again later.  Every outcome is written. */
#include "actors/muster_journal.h"
#include "actors/webhook.h"

/* ---- where a webhook goes -------------------------------------------------------------------------------------------
 */

void
webhook_hook_go(struct webhook_hook *hook)
{
    struct webhook_actor *self = hook->self;
    int64_t now_ms = muster_now_ms(self->ctx);

    if (hook->open)
        return;
    webhook_feed_watch(hook, false);
    webhook_turn_leave(&self->turns, &hook->turn);
    if (!self->feed.begun || hook->record.state != webhook_state_ACTIVE || hook->changing)
        return;
    if (hook->record.next_ms > now_ms)
        webhook_turn_due(&self->turns, &hook->turn, hook->record.next_ms);
    else if (hook->next == 0 && webhook_feed_is_at_front(hook))
        webhook_feed_watch(hook, true);
    else
        webhook_turn_due(&self->turns, &hook->turn, now_ms);
}

/* Events behind its cursor are gone: go on behind `cursor`, or with the oldest that is kept. */
static void
skip_lost(struct webhook_hook *hook, int64_t cursor)
{
    int64_t oldest = muster_log_oldest(muster_ctx_store(hook->self->ctx));

    hook->next = 0;
    hook->record.cursor = cursor < oldest - 1 ? oldest - 1 : cursor;
    hook->record.missed++;
    hook->record.tries = 0;
    webhook_hook_say(hook, log_level_WARNING, "webhook-missed",
                     "Events were removed before a webhook was told of them; it goes on at the oldest that is kept.");
    webhook_hook_save(hook);
}

void
webhook_hook_end(struct webhook_hook *hook)
{
    webhook_feed_watch(hook, false);
    if (hook->open) {
        hook->removed = true;
        return;
    }
    webhook_turn_leave(&hook->self->turns, &hook->turn);
    webhook_hook_free(hook);
}

/* Look at what lies between cursor and front, until there is something to tell or it has been enough. */
static bool
look(void *arg, const struct event *event)
{
    struct webhook_hook *hook = arg;

    if (event->seq > hook->self->feed.front)
        return false;
    if (webhook_hook_wants(hook, webhook_type_bit(event->type), event->team)) {
        hook->next = event->seq;
        return false;
    }
    hook->record.cursor = event->seq;
    return webhook_feed_spend(hook->self, event);
}

/* False: there is nothing to tell now, and it was put where it belongs. */
static bool
find_next(struct webhook_hook *hook)
{
    struct webhook_actor *self = hook->self;
    struct muster_store *store = muster_ctx_store(self->ctx);
    int64_t now_ms = muster_now_ms(self->ctx);
    muster_err err;

    if (hook->record.cursor + 1 < muster_log_oldest(store))
        skip_lost(hook, hook->record.cursor);
    err = muster_log_walk(store, NULL, hook->record.cursor, look, hook);
    if (err) {
        webhook_turn_due(&self->turns, &hook->turn, now_ms + WEBHOOK_SAVE_PAUSE_MS);
        return false;
    }
    if (hook->next)
        return true;
    if (self->feed.work <= 0)
        webhook_turn_due(&self->turns, &hook->turn, now_ms);
    else
        webhook_feed_watch(hook, true);
    return false;
}

/* ---- outcomes -------------------------------------------------------------------------------------------------------
 */

static void
on_taken(struct webhook_hook *hook)
{
    struct webhook *record = &hook->record;

    record->cursor = hook->sent;
    hook->next = 0;
    record->tries = 0;
    record->next_ms = 0;
    record->delivered++;
    record->delivered_ms = muster_now_ms(hook->self->ctx);
}

static void
on_refused(struct webhook_hook *hook, int64_t retry_after_s)
{
    struct webhook_actor *self = hook->self;

    if (hook->record.tries == 1)
        webhook_hook_say(hook, log_level_WARNING, "webhook-retrying",
                         "An event was not taken by a webhook's receiver and is tried again.");
    hook->record.next_ms =
        muster_now_ms(self->ctx) + webhook_pause_ms(self->options, hook->record.tries, retry_after_s);
}

static void
disable(struct webhook_hook *hook)
{
    hook->record.state = webhook_state_DISABLED;
    hook->record.next_ms = 0;
    webhook_hook_say(hook, log_level_WARNING, "webhook-disabled",
                     "A webhook was disabled; it goes on with the same event when it is resumed.");
}

static void
judge(struct webhook_hook *hook, const struct muster_fetch_result *result)
{
    hook->record.tries++;
    hook->record.status = webhook_status(result);
    webhook_problem(result, hook->problem);
    switch (webhook_judge(hook->self->options, hook->record.tries, result)) {
    case WEBHOOK_TAKEN:
        on_taken(hook);
        break;
    case WEBHOOK_OVER:
        disable(hook);
        break;
    default:
        on_refused(hook, result->retry_after_s);
        break;
    }
    webhook_hook_save(hook);
}

/* What came of a request to where it no longer sends, or from before its cursor was set, says nothing of it now. */
static void
on_answer(void *arg, const struct muster_fetch_result *result)
{
    struct webhook_hook *hook = arg;
    struct webhook_actor *self = hook->self;

    self->turns.open--;
    hook->open = false;
    webhook_turn_leave(&self->turns, &hook->turn);
    if (hook->removed) {
        webhook_hook_free(hook);
        return;
    }
    if (hook->place == hook->sent_place)
        judge(hook, result);
    webhook_hook_go(hook);
}

/* ---- requests -------------------------------------------------------------------------------------------------------
 */

static void
request(struct webhook_hook *hook, const struct event *event, const struct job *job)
{
    struct webhook_actor *self = hook->self;
    const struct webhook *record = &hook->record;
    struct webhook_letter letter = {.url = record->url,
                                    .headers = record->headers,
                                    .secrets = {record->secret, record->old_secret, record->old_until_ms},
                                    .now_ms = muster_now_ms(self->ctx)};
    struct muster_buf body = {0};
    char cursor[MUSTER_CURSOR_TEXT];

    muster_cursor_text(muster_ctx_store(self->ctx), event->seq, cursor);
    letter.id = cursor;
    webhook_body_event(self->arena, event, job, &body);
    hook->open = true;
    hook->sent = event->seq;
    hook->sent_place = hook->place;
    webhook_send(self, &letter, &body, on_answer, hook);
    muster_buf_free(&body);
}

/* The event that is to be told and its job; `*out_job` NULL: none is kept. */
static muster_err
read_event(struct webhook_hook *hook, struct event *event, struct job *job, const struct job **out_job)
{
    struct webhook_actor *self = hook->self;
    struct muster_store *store = muster_ctx_store(self->ctx);
    muster_err err = muster_log_get(store, hook->next, self->arena, event);

    *out_job = NULL;
    if (err || muster_id_is_zero(&event->job))
        return err;
    err = muster_store_get(store, &job_type, &event->job, self->arena, job);
    if (err == MUSTER_OK)
        *out_job = job;
    return err == MUSTER_NOT_FOUND ? MUSTER_OK : err;
}

void
webhook_hook_begin(struct webhook_turn *turn)
{
    struct webhook_hook *hook = (struct webhook_hook *)turn;
    struct webhook_actor *self = hook->self;
    const struct job *job;
    struct event event;
    struct job record;
    muster_err err;

    if (hook->next == 0 && !find_next(hook))
        return;
    muster_arena_clear(self->arena);
    if (!webhook_turn_slot(&self->turns, turn, webhook_endpoint_name(self->arena, hook->record.url),
                           self->options->max_per_endpoint))
        return;
    err = read_event(hook, &event, &record, &job);
    if (err == MUSTER_OK) {
        request(hook, &event, job);
        return;
    }
    webhook_turn_leave(&self->turns, turn);
    if (err == MUSTER_NOT_FOUND) {
        skip_lost(hook, hook->next);
        webhook_hook_go(hook);
    } else {
        webhook_turn_due(&self->turns, turn, muster_now_ms(self->ctx) + WEBHOOK_SAVE_PAUSE_MS);
    }
}
