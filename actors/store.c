/* SPDX-License-Identifier: MPL-2.0 */
/* store: the one writer.  Collects what came in one batch of messages, commits it with one sync, then answers
 * everybody.
 *
 * Durable events get their number here, on their way to the disk, and go to the log for publishing once they are there.
 * What may wait (`lazy`) is written with whatever is committed next, in the order in which it came.
 * A commit that fails (no room) changes nothing: everybody in it is told so, and the next one is tried afresh.
 * Persists everything; on restart there is nothing to rebuild.  Mailbox full: senders are told OVERLOADED. */
#include <stdlib.h>
#include <string.h>

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "actors/outbox.h"

#define COMMIT_MESSAGES 1024            /* in one commit, at most; */
#define COMMIT_BYTES ((size_t)16 << 20) /* or when there are so many bytes */

#define SWEEP_ROWS 1000   /* removed in one commit */
#define SWEEP_PAUSE_MS 10 /* between two of these while there is more */

#define LAZY_MS 5 /* what may wait for another commit waits so long at most */

enum { TIMER_SWEEP = 1, TIMER_OUTBOX, TIMER_LAZY };

struct store_actor {
    struct muster_ctx *ctx;       /* borrowed; outlives us */
    struct muster_batch *batch;   /* what the next commit writes */
    struct store_answer *answers; /* who is told after it */
    size_t answer_count, answer_capacity;
    const char **writers;       /* who gets store.written */
    struct store_about *abouts; /* of what, side by side */
    size_t writer_count, writer_capacity;
    struct event *durable; /* what is published after it; texts in `arena` */
    size_t durable_count, durable_capacity;
    struct muster_arena *arena; /* of all these; cleared with each commit */
    struct outbox outbox;       /* towards the log, and whoever is answered */
    struct outbox apart;        /* towards those whom nobody waits for */
    bool dirty;                 /* something is to be committed now, */
    bool lazy;                  /* or when the timer rings */
    bool failing;               /* the last commit failed */
};

static muster_err
store_init(void *state, struct muster_ctx *ctx, const void *config)
{
    struct store_actor *self = state;

    (void)config;
    self->ctx = ctx;
    self->batch = muster_batch_new(muster_ctx_store(ctx));
    self->arena = muster_arena_new();
    outbox_init(&self->outbox);
    outbox_init(&self->apart);
    muster_timer_in(ctx, muster_ctx_options(ctx)->store->sweep, TIMER_SWEEP);
    return MUSTER_OK;
}

/* ---- answers ---- */

static void
keep_answers(struct store_actor *self, const struct store_commit *in)
{
    size_t i;

    for (i = 0; i < in->answers.count; i++) {
        const struct store_answer *answer = &in->answers.items[i];

        if (self->answer_count == self->answer_capacity) {
            self->answer_capacity = self->answer_capacity ? 2 * self->answer_capacity : 64;
            self->answers = muster_realloc(self->answers, self->answer_capacity * sizeof *self->answers);
        }
        self->answers[self->answer_count++] =
            (struct store_answer){.to = muster_arena_str(self->arena, answer->to, strlen(answer->to)),
                                  .ok = muster_bytes_copy(self->arena, answer->ok.data, answer->ok.size),
                                  .no = muster_bytes_copy(self->arena, answer->no.data, answer->no.size),
                                  .ahead = answer->ahead,
                                  .apart = answer->apart};
    }
}

static void
keep_writer(struct store_actor *self, const struct store_commit *in)
{
    if (in->writer == NULL || *in->writer == '\0')
        return;
    if (self->writer_count == self->writer_capacity) {
        self->writer_capacity = self->writer_capacity ? 2 * self->writer_capacity : 64;
        self->writers = muster_realloc(self->writers, self->writer_capacity * sizeof *self->writers);
        self->abouts = muster_realloc(self->abouts, self->writer_capacity * sizeof *self->abouts);
    }
    self->writers[self->writer_count] = muster_arena_str(self->arena, in->writer, strlen(in->writer));
    self->abouts[self->writer_count++].about = in->about;
}

static void
await_outbox(struct store_actor *self)
{
    if (outbox_waiting(&self->outbox) || outbox_waiting(&self->apart))
        muster_timer_in(self->ctx, OUTBOX_PAUSE_MS, TIMER_OUTBOX);
}

/* A caller may be gone, an actor may be full: then it is told later. */
static void
send_answer(struct store_actor *self, const struct store_answer *answer, muster_err err)
{
    const struct muster_bytes *message = err ? &answer->no : &answer->ok;

    if (message->size > 0)
        outbox_send(answer->apart ? &self->apart : &self->outbox, self->ctx, answer->to, message->data, message->size);
    else
        (void)muster_send_failed(self->ctx, answer->to, answer->ok.data, answer->ok.size, err);
    await_outbox(self);
}

/* Tell each writer once of all its commits that stand together, from number `from` on. */
static void
send_written(struct store_actor *self, size_t from, muster_err err)
{
    size_t at, end;

    for (at = from; at < self->writer_count; at = end) {
        struct store_written written = {.failed = err != MUSTER_OK};

        for (end = at + 1; end < self->writer_count && strcmp(self->writers[at], self->writers[end]) == 0; end++)
            ;
        written.commits.items = &self->abouts[at];
        written.commits.count = end - at;
        outbox_tell(&self->outbox, self->ctx, self->writers[at], &store_written_type, &written);
        await_outbox(self);
    }
    self->writer_count = from;
}

/* Tell everybody from these numbers on: the writers before those who may ask them for what they were answered. */
static void
send_answers(struct store_actor *self, size_t from, size_t from_writer, muster_err err)
{
    size_t i;

    for (i = from; i < self->answer_count; i++)
        if (self->answers[i].ahead)
            send_answer(self, &self->answers[i], err);
    send_written(self, from_writer, err);
    for (i = from; i < self->answer_count; i++)
        if (!self->answers[i].ahead)
            send_answer(self, &self->answers[i], err);
    self->answer_count = from;
}

/* ---- collecting ---- */

static const struct muster_type *
record_type(const char *wire)
{
    const struct muster_record_row *row;

    for (row = muster_records; row->type; row++)
        if (strcmp(row->type->wire, wire) == 0)
            return row->type;
    return NULL;
}

static muster_err
collect_remove(struct store_actor *self, const struct muster_type *type, const struct store_put *put)
{
    struct muster_id id;

    if (put->value.size != sizeof id.bytes)
        return MUSTER_INVALID_REQUEST;
    memcpy(id.bytes, put->value.data, sizeof id.bytes);
    return muster_batch_remove(self->batch, type, &id);
}

static muster_err
collect_puts(struct store_actor *self, const struct store_commit *in)
{
    size_t i;

    for (i = 0; i < in->puts.count; i++) {
        const struct store_put *put = &in->puts.items[i];
        const struct muster_type *type = record_type(put->record);
        muster_err err;

        if (type == NULL) {
            muster_explain(self->ctx, 0, "there is no record %.32s", put->record);
            return MUSTER_INVALID_REQUEST;
        }
        err = put->remove ? collect_remove(self, type, put)
                          : muster_batch_put(self->batch, type, put->value.data, put->value.size);
        if (err)
            return err;
    }
    return MUSTER_OK;
}

static void
collect_entry(struct store_actor *self, const struct log_entry *entry)
{
    struct event *event;

    if (self->durable_count == self->durable_capacity) {
        self->durable_capacity = self->durable_capacity ? 2 * self->durable_capacity : 64;
        self->durable = muster_realloc(self->durable, self->durable_capacity * sizeof *self->durable);
    }
    event = &self->durable[self->durable_count++];
    *event = (struct event){
        .seq = muster_log_number(muster_ctx_store(self->ctx)),
        .at_ms = entry->at_ms,
        .type = muster_arena_str(self->arena, entry->type, strlen(entry->type)),
        .team = muster_arena_str(self->arena, entry->team, strlen(entry->team)),
        .job = entry->job,
        .attempt = entry->attempt,
        .trace = entry->trace ? muster_arena_str(self->arena, entry->trace, strlen(entry->trace)) : NULL,
        .body = muster_bytes_copy(self->arena, entry->body.data, entry->body.size),
    };
    muster_batch_append(self->batch, event);
}

static void
wait_for_others(struct store_actor *self)
{
    if (!self->lazy)
        muster_timer_in(self->ctx, LAZY_MS, TIMER_LAZY);
    self->lazy = true;
}

static void commit(struct store_actor *self);

MUSTER_ON(store_actor, store_commit);
static muster_err
on_store_commit(struct store_actor *self, const struct store_commit *in)
{
    size_t first_answer = self->answer_count, first_writer = self->writer_count, i;
    muster_err err;

    keep_answers(self, in);
    keep_writer(self, in);
    err = collect_puts(self, in);
    if (err) { /* only our own actors send commits, so this is a mistake of theirs; nobody may wait for ever */
        send_answers(self, first_answer, first_writer, err);
        return err;
    }
    for (i = 0; i < in->events.count; i++)
        muster_batch_append(self->batch, &in->events.items[i]);
    for (i = 0; i < in->entries.count; i++)
        collect_entry(self, &in->entries.items[i]);
    if (in->lazy)
        wait_for_others(self);
    else
        self->dirty = true;
    if (muster_batch_bytes(self->batch) >= COMMIT_BYTES)
        commit(self);
    return MUSTER_OK;
}

/* ---- committing ---- */

static void
tell_health(struct store_actor *self, muster_err err)
{
    if (err && !self->failing)
        muster_journal_say(muster_ctx_journal(self->ctx), ERROR, "store-failing",
                           "The data folder cannot be written; changes are refused until it can.",
                           MUSTER_SAY_TEXT("code", muster_err_code(err)));
    if (!err && self->failing)
        muster_journal_say(muster_ctx_journal(self->ctx), WARNING, "store-recovered",
                           "The data folder can be written again.", MUSTER_SAY_TEXT("code", "OK"));
    self->failing = err != MUSTER_OK;
}

/* Have the log publish them; or tell it that their numbers stay empty. */
static void
publish_durable(struct store_actor *self, muster_err err)
{
    struct log_publish publish = {.events = {self->durable, self->durable_count}};
    struct log_number *lost;
    size_t i;

    if (self->durable_count == 0)
        return;
    if (err) {
        lost = muster_arena_alloc(self->arena, self->durable_count * sizeof *lost);
        for (i = 0; i < self->durable_count; i++)
            lost[i].seq = self->durable[i].seq;
        publish = (struct log_publish){.lost = {lost, self->durable_count}};
    }
    outbox_tell(&self->outbox, self->ctx, MUSTER_LOG, &log_publish_type, &publish);
    await_outbox(self);
}

static void
commit(struct store_actor *self)
{
    muster_err err;

    if (self->lazy)
        muster_timer_end(self->ctx, TIMER_LAZY);
    self->dirty = self->lazy = false;
    err = muster_batch_commit(self->batch);
    tell_health(self, err);
    publish_durable(self, err);
    send_answers(self, 0, 0, err);
    self->durable_count = 0;
    muster_arena_clear(self->arena);
}

static void
on_idle(void *state)
{
    struct store_actor *self = state;

    if (self->dirty)
        commit(self);
}

static void
sweep(struct store_actor *self)
{
    bool more = false;
    muster_err err = muster_store_sweep(muster_ctx_store(self->ctx), muster_now_ms(self->ctx), SWEEP_ROWS, &more);

    muster_timer_in(self->ctx, !err && more ? SWEEP_PAUSE_MS : muster_ctx_options(self->ctx)->store->sweep,
                    TIMER_SWEEP);
}

static void
on_timer(void *state, uint64_t key)
{
    struct store_actor *self = state;

    if (key == TIMER_SWEEP) {
        sweep(self);
    } else if (key == TIMER_LAZY) {
        self->dirty = true; /* the end of this batch commits */
    } else {
        outbox_push(&self->outbox, self->ctx);
        outbox_push(&self->apart, self->ctx);
        await_outbox(self);
    }
}

static void
store_fini(void *state)
{
    struct store_actor *self = state;

    if (self->dirty || self->lazy)
        commit(self);
    outbox_fini(&self->outbox);
    outbox_fini(&self->apart);
    free(self->answers);
    free(self->writers);
    free(self->abouts);
    free(self->durable);
    muster_batch_free(&self->batch);
    muster_arena_free(&self->arena);
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(store_commit),
    {NULL, NULL},
};

const struct muster_actor_class muster_store_class = {
    .name = "store",
    .size = sizeof(struct store_actor),
    .mailbox = 65536,
    .init = store_init,
    .fini = store_fini,
    .handlers = handlers,
    .timer = on_timer,
    .idle = on_idle,
    .batch = COMMIT_MESSAGES,
};
