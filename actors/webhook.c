/* SPDX-License-Identifier: MPL-2.0 */
/* webhook: tells receivers outside what happened: those that jobs name in their `callback` how the jobs ended, and
 * webhooks of the events they want.  Requests are signed and tried again by one schedule; how many are open at a time,
 * to one receiver and over all, is bounded.  See webhook.h for what each of its files does.
 *
 * All that it does stands in records: deliveries, webhooks with their cursors, and the secret that signs callbacks.  A
 * restart goes on from there, so a receiver gets everything at least once, under the same webhook-id each time. Mailbox
 * full: events are missed, and the records and the log are walked instead; changes are refused. */
#include <stdlib.h>

#include "actors/webhook.h"

/* ---- messages -------------------------------------------------------------------------------------------------------
 */

MUSTER_ON(webhook_actor, feed_events);
static muster_err
on_feed_events(struct webhook_actor *self, const struct feed_events *in)
{
    const struct muster_event_row *row;
    size_t i;

    for (i = 0; i < in->events.count; i++) {
        row = muster_event_row(in->events.items[i].type);
        if (row && row->final)
            webhook_deliveries_note(self, &in->events.items[i].job);
        if (row && row->when == MUSTER_EVENT_DURABLE)
            webhook_feed_note(self, in->events.items[i].seq, muster_feed_settled(in, i));
    }
    webhook_feed_note(self, 0, in->settled);
    return MUSTER_OK;
}

MUSTER_ON(webhook_actor, webhook_create);
static muster_err
on_webhook_create(struct webhook_actor *self, const struct webhook_create *in)
{
    return webhook_admin_create(self, in);
}

MUSTER_ON(webhook_actor, webhook_change);
static muster_err
on_webhook_change(struct webhook_actor *self, const struct webhook_change *in)
{
    return webhook_admin_change(self, in);
}

MUSTER_ON(webhook_actor, webhook_remove);
static muster_err
on_webhook_remove(struct webhook_actor *self, const struct webhook_remove *in)
{
    return webhook_admin_remove(self, in);
}

MUSTER_ON(webhook_actor, webhook_test);
static muster_err
on_webhook_test(struct webhook_actor *self, const struct webhook_test *in)
{
    return webhook_probe_begin(self, in);
}

MUSTER_ON(webhook_actor, webhook_secret);
static muster_err
on_webhook_secret(struct webhook_actor *self, const struct webhook_secret *in)
{
    return webhook_own_tell(self, in);
}

MUSTER_ON(webhook_actor, store_committed);

/* Something of ours is on disk, or the log says what is settled. */
static muster_err
on_store_committed(struct webhook_actor *self, const struct store_committed *in)
{
    int64_t token = muster_ctx_envelope(self->ctx)->id;

    if (!webhook_deliveries_saved(self, token, true) && !webhook_pending_saved(self, token, true))
        (void)webhook_feed_told(self, token, in->seq, true);
    return MUSTER_OK;
}

MUSTER_ON(webhook_actor, failed);

/* The store could not write it. */
static muster_err
on_failed(struct webhook_actor *self, const struct failed *in)
{
    int64_t token = muster_ctx_envelope(self->ctx)->id;

    (void)in;
    if (!webhook_deliveries_saved(self, token, false) && !webhook_pending_saved(self, token, false) &&
        !webhook_feed_told(self, token, 0, false))
        (void)webhook_feed_unsaved(self, token);
    return MUSTER_OK;
}

/* ---- doing what is due ----------------------------------------------------------------------------------------------
 */

/* Begin what is due, and be called again when the next one is.  While as many as may be are open, the end of one calls.
 */
static void
pump(struct webhook_actor *self)
{
    int64_t now_ms = muster_now_ms(self->ctx), most = self->options->max_parallel;
    struct webhook_turn *first;

    while ((first = webhook_turns_first(&self->turns)) && first->due_ms <= now_ms && self->turns.open < most &&
           self->feed.work > 0) {
        webhook_turn_take(&self->turns, first);
        first->begin(first);
    }
    if (first && self->turns.open < most)
        muster_timer_in(self->ctx, first->due_ms - now_ms, WEBHOOK_TIMER_PUMP);
    else
        muster_timer_end(self->ctx, WEBHOOK_TIMER_PUMP);
}

static void
on_idle(void *arg)
{
    struct webhook_actor *self = arg;

    if (muster_events_missed(self->ctx) > 0) {
        self->more = true;
        webhook_feed_missed(self);
    }
    webhook_deliveries_walk(self);
    self->feed.work = WEBHOOK_WORK;
    webhook_feed_advance(self);
    pump(self);
}

/* What is due otherwise is begun in idle, which follows. */
static void
on_timer(void *arg, uint64_t key)
{
    struct webhook_actor *self = arg;

    if (key == WEBHOOK_TIMER_SAVE) {
        webhook_own_save(self);
        webhook_feed_save(self);
    } else if (key == WEBHOOK_TIMER_KEEP) {
        webhook_feed_keep(self);
    }
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static bool
load_hook(void *arg, const void *record, struct muster_arena *arena)
{
    (void)arena;
    (void)webhook_hook_add(arg, record);
    return true;
}

static muster_err
init(void *arg, struct muster_ctx *ctx, const void *config)
{
    struct webhook_actor *self = arg;
    muster_err err;

    (void)config;
    self->ctx = ctx;
    self->options = muster_ctx_options(ctx)->webhooks;
    self->arena = muster_arena_new();
    self->last_token = muster_now_ms(ctx) * 1000; /* no answer to an earlier life is taken for one to this */
    err = webhook_own_load(self);
    if (!err)
        err = muster_store_walk(muster_ctx_store(ctx), &webhook_type, NULL, NULL, MUSTER_OLDEST_FIRST, load_hook, self);
    if (err)
        return err;
    muster_events_subscribe(ctx, MUSTER_FEED_DURABLE);
    self->more = true; /* whatever ended before we subscribed */
    webhook_feed_missed(self);
    on_idle(self);
    return MUSTER_OK;
}

static void
fini(void *arg)
{
    struct webhook_actor *self = arg;

    webhook_probe_fini(self);
    webhook_pending_fini(self);
    while (self->hook_count > 0)
        webhook_hook_free(self->hooks[self->hook_count - 1]);
    free(self->hooks);
    webhook_tasks_fini(&self->tasks);
    webhook_turns_fini(&self->turns);
    muster_arena_free(&self->arena);
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(feed_events),     MUSTER_ROW(webhook_create), MUSTER_ROW(webhook_change),
    MUSTER_ROW(webhook_remove),  MUSTER_ROW(webhook_test),   MUSTER_ROW(webhook_secret),
    MUSTER_ROW(store_committed), MUSTER_ROW(failed),         {NULL, NULL}};

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
