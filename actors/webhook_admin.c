/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_admin: messages that make, change and remove webhooks.  A change is written before it counts.  While one is
 * on its way to the disk its webhook begins no request and writes nothing itself, so that neither overwrites the other;
 * the outcome of a request that was open then is put into what the change made of it. */
#include <string.h>

#include "actors/muster_journal.h"
#include "actors/webhook.h"

#define SECRET_BYTES 32
#define URL_MIN 8

/* ---- checks ---------------------------------------------------------------------------------------------------------
 */

static muster_err
check_url(struct webhook_actor *self, const char *url)
{
    if (strlen(url) >= URL_MIN && strstr(url, "://"))
        return MUSTER_OK;
    muster_explain(self->ctx, 0, "url: must be an http or https URL");
    return MUSTER_INVALID_REQUEST;
}

static muster_err
check_events(struct webhook_actor *self, const struct muster_strs *events)
{
    const char *unknown = NULL;

    (void)webhook_types(events, &unknown);
    if (unknown == NULL)
        return MUSTER_OK;
    muster_explain(self->ctx, 0, "events: there is no durable event %.64s", unknown);
    return MUSTER_INVALID_REQUEST;
}

static muster_err
check_create(struct webhook_actor *self, const struct webhook *record)
{
    size_t count = self->creating, i;
    muster_err err = check_url(self, record->url);

    if (!err)
        err = check_events(self, &record->events);
    if (err)
        return err;
    for (i = 0; i < self->hook_count; i++)
        count += !self->hooks[i]->removed;
    if ((int64_t)count < self->options->max_webhooks)
        return MUSTER_OK;
    muster_explain(self->ctx, 0, "There are as many webhooks as webhooks.max_webhooks allows");
    return MUSTER_CONFLICT;
}

static muster_err
find(struct webhook_actor *self, const struct muster_id *id, struct webhook_hook **out_hook)
{
    struct webhook_hook *hook = webhook_hook_find(self, id);

    if (hook == NULL) {
        muster_explain(self->ctx, 0, "There is no such webhook");
        return MUSTER_NOT_FOUND;
    }
    if (hook->changing) {
        muster_explain(self->ctx, 1, "The webhook is being changed by another request; try again");
        return MUSTER_OVERLOADED;
    }
    *out_hook = hook;
    return MUSTER_OK;
}

/* ---- writing --------------------------------------------------------------------------------------------------------
 */

static void
say(const struct webhook_pending *pending, struct webhook_actor *self, const struct webhook *record)
{
    char text[MUSTER_ID_TEXT];
    const char *id = text;

    muster_id_text(&record->id, text);
    muster_journal_say(muster_ctx_journal(self->ctx), INFO, pending->what, pending->message,
                       MUSTER_SAY_TEXT("webhook", id), MUSTER_SAY_TEXT("name", record->name),
                       MUSTER_SAY_TEXT("host", webhook_endpoint_name(pending->arena, record->url)),
                       MUSTER_SAY_TEXT("by", pending->by));
}

static muster_err
write_record(struct webhook_actor *self, struct webhook_pending *pending)
{
    struct webhook_created answer = {.webhook = &pending->record};
    struct store_put put = {.record = webhook_type.wire};
    struct muster_buf packed = {0};
    muster_err err;

    muster_pack(&webhook_type, &pending->record, &packed);
    put.value = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    err = webhook_pending_send(self, pending, &put, &webhook_created_type, &answer);
    explicit_bzero(packed.data, packed.size);
    muster_buf_free(&packed);
    return err;
}

/* ---- webhook.create -------------------------------------------------------------------------------------------------
 */

static void
created(struct webhook_actor *self, struct webhook_pending *pending, bool written)
{
    struct webhook_hook *hook;

    self->creating--;
    if (!written)
        return;
    hook = webhook_hook_add(self, &pending->record);
    say(pending, self, &hook->record);
    webhook_hook_go(hook);
}

/* The number behind which a new webhook begins: whatever has one may be known to the caller already, published or not.
 */
static int64_t
cursor_now(struct webhook_actor *self)
{
    return muster_log_last(muster_ctx_store(self->ctx));
}

muster_err
webhook_admin_create(struct webhook_actor *self, const struct webhook_create *in)
{
    const struct muster_envelope *envelope = muster_ctx_envelope(self->ctx);
    int64_t now_ms = muster_now_ms(self->ctx);
    struct webhook record = {.id = muster_id_new(now_ms),
                             .name = in->webhook->name,
                             .url = in->webhook->url,
                             .headers = in->webhook->headers,
                             .events = in->webhook->events,
                             .teams = in->webhook->teams,
                             .secret = in->webhook->secret,
                             .state = in->webhook->state,
                             .from = envelope->principal.name,
                             .key = envelope->principal.key,
                             .created_ms = now_ms,
                             .cursor = cursor_now(self)};
    struct webhook_pending *pending;
    muster_err err = check_create(self, &record);

    if (err)
        return err;
    if (record.from == NULL || record.from[0] == '\0')
        record.from = in->webhook->from;
    if (record.state != webhook_state_PAUSED)
        record.state = webhook_state_ACTIVE;
    pending = webhook_pending_new(self);
    pending->done = created;
    pending->record = webhook_record_copy(pending->arena, &record);
    pending->what = "webhook-created";
    pending->message = "A webhook was made.";
    err = write_record(self, pending);
    self->creating += err == MUSTER_OK;
    return err;
}

/* ---- webhook.change -------------------------------------------------------------------------------------------------
 */

/* What it became while the change was on its way stays, where the change did not say otherwise. */
static void
merge(const struct webhook_hook *hook, struct webhook_pending *pending)
{
    const struct webhook *now = &hook->record;
    struct webhook *record = &pending->record;

    if (!pending->state)
        record->state = now->state;
    if (!pending->seek)
        record->cursor = now->cursor;
    if (!pending->fresh) {
        record->tries = now->tries;
        record->next_ms = now->next_ms;
    }
    record->status = now->status;
    record->problem = now->problem;
    record->delivered = now->delivered;
    record->delivered_ms = now->delivered_ms;
    record->missed = now->missed;
}

static void
changed(struct webhook_actor *self, struct webhook_pending *pending, bool written)
{
    struct webhook_hook *hook = pending->hook;

    hook->changing = false;
    if (written) {
        merge(hook, pending);
        webhook_hook_set(hook, &pending->record);
        if (pending->seek || pending->moves)
            hook->place++;
        if (pending->fresh)
            hook->next = 0; /* it may be another one */
        say(pending, self, &hook->record);
    }
    if (hook->unsaved)
        webhook_hook_save(hook);
    webhook_hook_go(hook);
}

static muster_err
check_change(struct webhook_actor *self, const struct webhook_change *in)
{
    muster_err err = in->url && in->url[0] ? check_url(self, in->url) : MUSTER_OK;

    return err ? err : check_events(self, &in->events);
}

static void
apply_rotation(struct webhook_actor *self, const struct webhook_change *in, struct webhook_pending *pending)
{
    struct webhook *record = &pending->record;
    uint8_t *secret = muster_arena_alloc(pending->arena, SECRET_BYTES);

    muster_random(secret, SECRET_BYTES);
    record->old_secret = in->overlap_ms > 0 ? record->secret : (struct muster_bytes){0};
    record->old_until_ms = in->overlap_ms > 0 ? muster_now_ms(self->ctx) + in->overlap_ms : 0;
    record->secret = (struct muster_bytes){secret, SECRET_BYTES};
}

/* Put what the message says over the record.  What may have kept the receiver from taking events is tried anew at once.
 */
static void
apply(struct webhook_actor *self, const struct webhook_change *in, struct webhook_pending *pending)
{
    struct webhook *record = &pending->record;
    int64_t settled = self->feed.begun ? self->feed.settled : record->cursor;

    pending->state = in->state != webhook_state_NONE;
    pending->seek = in->seek;
    pending->moves = in->url && in->url[0];
    pending->fresh = in->seek || pending->moves || in->headers.count > 0 || in->events.count > 0 ||
                     in->teams.count > 0 || in->rotate || in->state == webhook_state_ACTIVE;
    if (in->name && in->name[0])
        record->name = in->name;
    if (pending->moves)
        record->url = in->url;
    if (in->headers.count > 0)
        record->headers = in->headers;
    if (in->events.count > 0)
        record->events = in->events;
    if (in->teams.count > 0)
        record->teams = in->teams;
    if (pending->state)
        record->state = in->state;
    if (in->rotate)
        apply_rotation(self, in, pending);
    if (in->seek)
        record->cursor = in->cursor < settled ? in->cursor : settled;
    if (pending->fresh)
        record->tries = record->next_ms = 0;
}

muster_err
webhook_admin_change(struct webhook_actor *self, const struct webhook_change *in)
{
    struct webhook_pending *pending;
    struct webhook_hook *hook;
    muster_err err = find(self, &in->id, &hook);

    if (!err)
        err = check_change(self, in);
    if (err)
        return err;
    pending = webhook_pending_new(self);
    pending->done = changed;
    pending->hook = hook;
    pending->record = hook->record;
    apply(self, in, pending);
    pending->record = webhook_record_copy(pending->arena, &pending->record);
    pending->what = in->rotate ? "webhook-secret-rotated" : "webhook-changed";
    pending->message = in->rotate ? "The secret of a webhook was replaced." : "A webhook was changed.";
    err = write_record(self, pending);
    if (err)
        return err;
    hook->changing = true;
    webhook_hook_go(hook);
    return MUSTER_OK;
}

/* ---- webhook.remove -------------------------------------------------------------------------------------------------
 */

static void
removed(struct webhook_actor *self, struct webhook_pending *pending, bool written)
{
    struct webhook_hook *hook = pending->hook;

    hook->changing = false;
    if (!written) {
        if (hook->unsaved)
            webhook_hook_save(hook);
        webhook_hook_go(hook);
        return;
    }
    say(pending, self, &hook->record);
    webhook_hook_end(hook);
}

muster_err
webhook_admin_remove(struct webhook_actor *self, const struct webhook_remove *in)
{
    struct webhook_removed answer = {.id = in->id};
    struct store_put put = {.record = webhook_type.wire, .value = {in->id.bytes, sizeof in->id.bytes}, .remove = true};
    struct webhook_pending *pending;
    struct webhook_hook *hook;
    muster_err err = find(self, &in->id, &hook);

    if (err)
        return err;
    pending = webhook_pending_new(self);
    pending->done = removed;
    pending->hook = hook;
    pending->what = "webhook-removed";
    pending->message = "A webhook was removed.";
    err = webhook_pending_send(self, pending, &put, &webhook_removed_type, &answer);
    if (err)
        return err;
    hook->changing = true;
    webhook_hook_go(hook);
    return MUSTER_OK;
}
