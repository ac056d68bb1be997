/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_pending: changes on their way to the disk.  A change is made in memory, and its caller answered, when the
 * store says that it is written; the answer to the caller goes with the commit, so it is given also when we have been
 * restarted meanwhile.  A change that cannot be written changes nothing, and its caller is told by the store. */
#include <stdlib.h>
#include <string.h>

#include "actors/webhook.h"

muster_err
webhook_put(struct webhook_actor *self, const struct store_put *put, int64_t *out_token)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal = {.name = ""}};
    const struct store_committed committed = {0};
    struct store_answer told = {.to = muster_ctx_address(self->ctx)};
    struct store_commit commit = {.puts = {put, 1}, .answers = {&told, 1}};
    struct muster_buf frame = {0};
    muster_err err;

    envelope.id = ++self->last_token;
    muster_envelope_pack(&envelope, &store_committed_type, &committed, &frame);
    told.ok = (struct muster_bytes){(const uint8_t *)frame.data, frame.size};
    err = muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit);
    muster_buf_free(&frame);
    if (err == MUSTER_OK)
        *out_token = envelope.id;
    return err;
}

struct webhook_pending *
webhook_pending_new(struct webhook_actor *self)
{
    struct webhook_pending *pending = muster_alloc(sizeof *pending);
    const char *by = muster_ctx_envelope(self->ctx)->principal.name;

    pending->arena = muster_arena_new();
    pending->by = muster_arena_printf(pending->arena, "%s", by ? by : "");
    return pending;
}

static void
pending_free(struct webhook_pending *pending)
{
    muster_arena_free(&pending->arena);
    free(pending);
}

/* Two answers: the first to ourselves, so that what the caller was told is in effect for whatever it asks next. */
static muster_err
send_commit(struct webhook_actor *self, int64_t token, const struct store_put *put, const struct muster_type *type,
            const void *answer)
{
    struct muster_caller *caller = muster_caller_keep(self->ctx);
    struct muster_envelope envelope = {.id = token, .reply_to = "", .trace = "", .principal = {.name = ""}};
    const struct store_committed committed = {0};
    struct muster_buf own = {0}, whole = {0};
    struct store_answer told[2] = {{.to = muster_ctx_address(self->ctx)}, {.to = muster_caller_address(caller)}};
    struct store_commit commit = {.puts = {put, 1}, .answers = {told, 1}};
    muster_err err;

    muster_envelope_pack(&envelope, &store_committed_type, &committed, &own);
    told[0].ok = (struct muster_bytes){(const uint8_t *)own.data, own.size};
    if (told[1].to[0]) {
        muster_caller_pack(caller, type, answer, &whole);
        told[1].ok = (struct muster_bytes){(const uint8_t *)whole.data, whole.size};
        commit.answers.count = 2;
    }
    err = muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit);
    if (whole.size > 0)
        explicit_bzero(whole.data, whole.size); /* it may hold a secret */
    muster_buf_free(&whole);
    muster_buf_free(&own);
    muster_caller_free(&caller);
    return err;
}

muster_err
webhook_pending_send(struct webhook_actor *self, struct webhook_pending *pending, const struct store_put *put,
                     const struct muster_type *type, const void *answer)
{
    pending->token = ++self->last_token;
    if (send_commit(self, pending->token, put, type, answer)) {
        pending_free(pending);
        muster_explain(self->ctx, 1, "The store takes no changes at the moment; try again");
        return MUSTER_OVERLOADED;
    }
    pending->next = self->pending;
    self->pending = pending;
    return MUSTER_OK;
}

bool
webhook_pending_saved(struct webhook_actor *self, int64_t token, bool written)
{
    struct webhook_pending **link = &self->pending, *pending;

    while (*link && (*link)->token != token)
        link = &(*link)->next;
    pending = *link;
    if (pending == NULL)
        return false;
    *link = pending->next;
    pending->done(self, pending, written);
    pending_free(pending);
    return true;
}

void
webhook_pending_fini(struct webhook_actor *self)
{
    struct webhook_pending *pending;

    while ((pending = self->pending) != NULL) {
        self->pending = pending->next;
        pending_free(pending);
    }
}
