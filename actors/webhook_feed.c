/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_feed: what is new in the log, for all webhooks, and what is written of their progress.
 *
 * Webhooks that have been told everything wait at the front, and one walk over what is new serves them all.  It is not
 * made when the feed shows that nothing durable is there.  What could not be written is written later; after a restart
 * before that, events that were taken are sent again with the same webhook-ids.  A cursor that moved over events nobody
 * wanted is written now and then, so that a webhook which was told everything is not behind the oldest kept event after
 * a restart. */
#include <string.h>

#include "actors/muster_journal.h"
#include "actors/webhook.h"

#define WORK_BYTES 4096     /* that many of an event's bytes count like a row */
#define KEEP_PAUSE_MS 60000 /* between writing cursors that moved over what nobody wanted */
#define KEEP_AT_A_TIME 100  /* records of one commit */

/* ---- what is settled ------------------------------------------------------------------------------------------------
 */

void
webhook_feed_ask(struct webhook_actor *self)
{
    struct muster_envelope envelope = {
        .reply_to = muster_ctx_address(self->ctx), .trace = "", .principal = {.name = ""}};
    const struct log_flush flush = {0};
    struct muster_buf frame = {0};

    envelope.id = ++self->last_token;
    muster_envelope_pack(&envelope, &log_flush_type, &flush, &frame);
    self->feed.flush_token = envelope.id;
    if (muster_send_whole(self->ctx, MUSTER_LOG, frame.data, frame.size))
        muster_timer_in(self->ctx, WEBHOOK_SAVE_PAUSE_MS, WEBHOOK_TIMER_SAVE);
    muster_buf_free(&frame);
}

static void
set_front(struct webhook_feed *feed, int64_t front)
{
    feed->front = front;
    if (feed->first > 0 && feed->first <= front)
        feed->first = feed->last > front ? front + 1 : 0;
}

/* Cursors may have moved. */
static void
keep_later(struct webhook_actor *self)
{
    if (self->hook_count == 0 || self->feed.keep_timer)
        return;
    self->feed.keep_timer = true;
    muster_timer_in(self->ctx, KEEP_PAUSE_MS, WEBHOOK_TIMER_KEEP);
}

static void
begin_feed(struct webhook_actor *self)
{
    struct webhook_feed *feed = &self->feed;
    size_t i;

    feed->begun = true;
    if (feed->last < feed->settled) /* whatever was missed up to here nobody has walked over */
        feed->last = feed->settled;
    set_front(feed, feed->settled);
    for (i = 0; i < self->hook_count; i++)
        webhook_hook_go(self->hooks[i]);
    keep_later(self);
}

static void
set_settled(struct webhook_actor *self, int64_t settled)
{
    if (settled > self->feed.settled)
        self->feed.settled = settled;
    if (!self->feed.begun)
        begin_feed(self);
}

bool
webhook_feed_told(struct webhook_actor *self, int64_t token, int64_t settled, bool ok)
{
    if (token != self->feed.flush_token)
        return false;
    if (ok) {
        self->feed.flush_token = 0;
        set_settled(self, settled);
    } else {
        muster_timer_in(self->ctx, WEBHOOK_SAVE_PAUSE_MS, WEBHOOK_TIMER_SAVE);
    }
    return true;
}

/* There may be durable events from `first` to `last` that were not walked over. */
static void
expect(struct webhook_feed *feed, int64_t first, int64_t last)
{
    if (first > last)
        return;
    if (feed->first == 0 || first < feed->first)
        feed->first = first;
    if (last > feed->last)
        feed->last = last;
}

void
webhook_feed_note(struct webhook_actor *self, int64_t durable, int64_t settled)
{
    if (durable > 0)
        expect(&self->feed, durable, durable);
    set_settled(self, settled);
}

void
webhook_feed_missed(struct webhook_actor *self)
{
    /* Whatever was missed has a number already. */
    expect(&self->feed, self->feed.front + 1, muster_log_last(muster_ctx_store(self->ctx)));
    webhook_feed_ask(self);
}

/* ---- the front ------------------------------------------------------------------------------------------------------
 */

void
webhook_feed_watch(struct webhook_hook *hook, bool watching)
{
    struct webhook_feed *feed = &hook->self->feed;

    if (hook->watching == watching)
        return;
    hook->watching = watching;
    if (watching) {
        feed->watching++;
        return;
    }
    feed->watching--;
    if (hook->record.cursor < feed->front)
        hook->record.cursor = feed->front;
}

bool
webhook_feed_spend(struct webhook_actor *self, const struct event *event)
{
    self->feed.work -= 1 + (int64_t)(event->body.size / WORK_BYTES);
    return self->feed.work > 0;
}

bool
webhook_feed_is_at_front(const struct webhook_hook *hook)
{
    const struct webhook_feed *feed = &hook->self->feed;

    return hook->record.cursor >= feed->front || hook->record.cursor >= feed->last;
}

/* Each webhook that waits for it has it to tell. */
static bool
show(void *arg, const struct event *event)
{
    struct webhook_actor *self = arg;
    uint64_t bit = webhook_type_bit(event->type);
    struct webhook_hook *hook;
    size_t i;

    if (event->seq > self->feed.settled)
        return false;
    for (i = 0; bit && i < self->hook_count; i++) {
        hook = self->hooks[i];
        if (!hook->watching || event->seq <= hook->record.cursor || !webhook_hook_wants(hook, bit, event->team))
            continue;
        webhook_feed_watch(hook, false);
        hook->record.cursor = event->seq - 1;
        hook->next = event->seq;
        webhook_turn_due(&self->turns, &hook->turn, muster_now_ms(self->ctx));
    }
    self->feed.front = event->seq;
    return webhook_feed_spend(self, event);
}

void
webhook_feed_advance(struct webhook_actor *self)
{
    struct webhook_feed *feed = &self->feed;
    muster_err err;

    if (!feed->begun || feed->front >= feed->settled)
        return;
    if (feed->watching > 0 && feed->first > 0 && feed->first <= feed->settled) {
        if (feed->front < feed->first - 1)
            feed->front = feed->first - 1;
        err = muster_log_walk(muster_ctx_store(self->ctx), NULL, feed->front, show, self);
        if (err || feed->work <= 0) {
            set_front(feed, feed->front);
            muster_timer_in(self->ctx, err ? WEBHOOK_SAVE_PAUSE_MS : 0, WEBHOOK_TIMER_FEED);
            return;
        }
    }
    set_front(feed, feed->settled);
    keep_later(self);
}

/* ---- saving ---------------------------------------------------------------------------------------------------------
 */

void
webhook_hook_save(struct webhook_hook *hook)
{
    struct webhook_actor *self = hook->self;
    struct store_put put = {.record = webhook_type.wire};
    struct muster_buf packed = {0};

    hook->unsaved = true;
    if (hook->changing || hook->removed)
        return;
    muster_pack(&webhook_type, &hook->record, &packed);
    put.value = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    hook->unsaved = webhook_put(self, &put, &hook->token) != MUSTER_OK;
    if (hook->unsaved)
        muster_timer_in(self->ctx, WEBHOOK_SAVE_PAUSE_MS, WEBHOOK_TIMER_SAVE);
    hook->kept = hook->record.cursor;
    explicit_bzero(packed.data, packed.size);
    muster_buf_free(&packed);
}

bool
webhook_feed_unsaved(struct webhook_actor *self, int64_t token)
{
    size_t i;

    for (i = 0; i < self->hook_count; i++)
        if (self->hooks[i]->token == token) {
            self->hooks[i]->unsaved = true;
            muster_timer_in(self->ctx, WEBHOOK_SAVE_PAUSE_MS, WEBHOOK_TIMER_SAVE);
            return true;
        }
    return false;
}

void
webhook_feed_save(struct webhook_actor *self)
{
    size_t i;

    if (self->feed.flush_token)
        webhook_feed_ask(self);
    for (i = 0; i < self->hook_count; i++)
        if (self->hooks[i]->unsaved)
            webhook_hook_save(self->hooks[i]);
}

static void
send_kept(struct webhook_actor *self, struct store_put *puts, size_t count)
{
    struct store_commit commit = {.puts = {puts, count}};

    if (count > 0)
        (void)muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit); /* if not now, at the next event */
}

/* The cursor of each that was told nothing since it was last written. */
void
webhook_feed_keep(struct webhook_actor *self)
{
    struct muster_arena *arena = muster_arena_new();
    struct store_put *puts = muster_arena_alloc(arena, KEEP_AT_A_TIME * sizeof *puts);
    struct muster_buf packed = {0};
    size_t i, count = 0;

    self->feed.keep_timer = false;
    for (i = 0; i < self->hook_count; i++) {
        struct webhook_hook *hook = self->hooks[i];

        if (hook->watching && hook->record.cursor < self->feed.front)
            hook->record.cursor = self->feed.front;
        if (hook->record.cursor == hook->kept || hook->changing || hook->removed)
            continue;
        hook->kept = hook->record.cursor;
        muster_buf_clear(&packed);
        muster_pack(&webhook_type, &hook->record, &packed);
        puts[count++] = (struct store_put){.record = webhook_type.wire,
                                           .value = muster_bytes_copy(arena, packed.data, packed.size)};
        if (count == KEEP_AT_A_TIME) {
            send_kept(self, puts, count);
            count = 0;
        }
    }
    send_kept(self, puts, count);
    muster_buf_free(&packed);
    muster_arena_free(&arena);
}
