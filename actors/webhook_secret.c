/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_secret: the server's secret, which signs callbacks that have none of their own.  It is made at the first
 * start and written then, or as soon as that can be done; shown and rotated by webhook.secret. */
#include <string.h>

#include "actors/muster_journal.h"
#include "actors/webhook.h"

#define SECRET_BYTES 32

/* Our own copy of the record. */
static void
keep(struct webhook_own *own, const struct secret *record)
{
    uint8_t value[MUSTER_WHSEC_BYTES], old[MUSTER_WHSEC_BYTES]; /* the record may point into what is written here */
    size_t value_size = record->value.size, old_size = record->old.size;

    memcpy(value, record->value.data, value_size);
    if (old_size > 0)
        memcpy(old, record->old.data, old_size);
    own->record = *record;
    memcpy(own->value, value, value_size);
    if (old_size > 0)
        memcpy(own->old, old, old_size);
    own->record.value = (struct muster_bytes){own->value, value_size};
    own->record.old = (struct muster_bytes){own->old, old_size};
}

static void
written(struct webhook_actor *self, struct webhook_pending *pending, bool on_disk)
{
    self->own.on_way--;
    if (pending->what)
        self->own.rotating = false;
    if (!on_disk) {
        muster_timer_in(self->ctx, WEBHOOK_SAVE_PAUSE_MS, WEBHOOK_TIMER_SAVE);
        return;
    }
    keep(&self->own, &pending->secret);
    self->own.saved = true;
    if (pending->what)
        muster_journal_say(muster_ctx_journal(self->ctx), INFO, pending->what, pending->message,
                           MUSTER_SAY_TEXT("by", pending->by));
}

/* Write what `pending` says; the caller of the current message, if there is one, is answered with it. */
static muster_err
write_secret(struct webhook_actor *self, struct webhook_pending *pending)
{
    struct webhook_secret_is answer = {.secret = &pending->secret};
    struct store_put put = {.record = secret_type.wire};
    struct muster_buf packed = {0};
    muster_err err;

    pending->done = written;
    muster_pack(&secret_type, &pending->secret, &packed);
    put.value = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    err = webhook_pending_send(self, pending, &put, &webhook_secret_is_type, &answer);
    explicit_bzero(packed.data, packed.size);
    muster_buf_free(&packed);
    self->own.on_way += err == MUSTER_OK;
    return err;
}

void
webhook_own_save(struct webhook_actor *self)
{
    struct webhook_pending *pending;

    if (self->own.saved || self->own.on_way > 0)
        return;
    pending = webhook_pending_new(self);
    pending->secret = self->own.record;
    if (write_secret(self, pending))
        muster_timer_in(self->ctx, WEBHOOK_SAVE_PAUSE_MS, WEBHOOK_TIMER_SAVE);
}

muster_err
webhook_own_load(struct webhook_actor *self)
{
    uint8_t value[SECRET_BYTES];
    struct secret record = {.id = muster_id_of("secret", "callbacks")};
    muster_err err;

    muster_arena_clear(self->arena);
    err = muster_store_get(muster_ctx_store(self->ctx), &secret_type, &record.id, self->arena, &record);
    self->own.saved = err == MUSTER_OK;
    if (err == MUSTER_NOT_FOUND) {
        muster_random(value, sizeof value);
        record.value = (struct muster_bytes){value, sizeof value};
        record.created_ms = muster_now_ms(self->ctx);
        err = MUSTER_OK;
    }
    if (err)
        return err;
    keep(&self->own, &record);
    webhook_own_save(self);
    return MUSTER_OK;
}

static void
rotate(struct webhook_actor *self, int64_t overlap_ms, struct webhook_pending *pending)
{
    int64_t now_ms = muster_now_ms(self->ctx);
    uint8_t *value = muster_arena_alloc(pending->arena, SECRET_BYTES);
    const struct secret *now = &self->own.record;

    muster_random(value, SECRET_BYTES);
    pending->secret = (struct secret){.id = now->id, .value = {value, SECRET_BYTES}, .created_ms = now_ms};
    if (overlap_ms > 0) {
        pending->secret.old = now->value;
        pending->secret.old_until_ms = now_ms + overlap_ms;
    }
    pending->what = "callback-secret-rotated";
    pending->message = "The secret that signs callbacks was replaced.";
}

muster_err
webhook_own_tell(struct webhook_actor *self, const struct webhook_secret *in)
{
    struct webhook_secret_is answer = {.secret = &self->own.record};
    struct webhook_pending *pending;
    muster_err err;

    if (!in->rotate && self->own.saved) {
        muster_reply(self->ctx, &webhook_secret_is_type, &answer);
        return MUSTER_OK;
    }
    if (self->own.rotating) {
        muster_explain(self->ctx, 1, "The secret is being changed; try again");
        return MUSTER_OVERLOADED;
    }
    pending = webhook_pending_new(self);
    if (in->rotate)
        rotate(self, in->overlap_ms, pending);
    else
        pending->secret = self->own.record; /* once more, to be answered when it is on disk */
    err = write_secret(self, pending);
    self->own.rotating = in->rotate && !err;
    return err;
}
