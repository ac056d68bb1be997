/* SPDX-License-Identifier: MPL-2.0 */
/* log: numbers live events, publishes all events in one order, and has them written.
 *
 * What an agent says comes here first: its events, and behind them the report of its end, which goes on to the queue.
 * Live events are published at once and sent to the store a few milliseconds later, many together, so a sync in flight
 * never delays a chunk; so are they to those who want them gathered.  Durable events come back from the store when they
 * are on disk and are published then.  Since all publishing happens here, and a job's end comes by way of this mailbox
 * behind the job's own events, subscribers see each job's events in the order of their numbers.  Those of several jobs
 * may overtake each other: a live event is not held up by a durable one with a lower number that is being synced.  Who
 * wants one order over all waits for `settled`, which says how far nothing is missing.
 *
 * A log.append may bring a record along.  It waits with the events, and goes to the store in the same commit as those
 * that came before it: so whoever reads it on disk knows that they are there too.
 *
 * Persists nothing itself; on restart there is nothing to rebuild.  Mailbox full: agents keep their events and try
 * again. */
#include <stdlib.h>
#include <string.h>

#include "actors/muster_actor.h"
#include "actors/outbox.h"

#define FLUSH_MS 5            /* live events are sent to the store after at most this */
#define FLUSH_BYTES (1 << 18) /* or when so many bytes wait */

#define GATHERED_EVENTS 32 /* so many at a time are gathered already */

enum { PIECE_EVENTS = 256, PIECE_BYTES = 1 << 20 }; /* published together at most */

enum { TIMER_FLUSH = 1, TIMER_OUTBOX };

/* A record that waits. */
struct log_record {
    struct muster_id id;
    struct store_put put; /* in the arena */
};

struct log_actor {
    struct muster_ctx *ctx;     /* borrowed; outlives us */
    struct muster_arena *arena; /* copies of what waits for the store */
    struct event *pending;      /* events, in order */
    size_t count, capacity;     /* of pending */
    size_t given;               /* of pending: those published gathered */
    struct log_record *records; /* at most one of an id, in the order in which they first came */
    size_t record_count, record_capacity;
    size_t bytes;     /* of the bodies of all of them */
    int64_t last_seq; /* highest number seen: published, or on its way through the store */
    int64_t *open;    /* numbers up to it whose events are on their way through the store, ascending */
    size_t open_first, open_end, open_capacity; /* of open: [open_first, open_end) */
    struct outbox outbox;                       /* towards store and queue */
};

static muster_err
log_init(void *state, struct muster_ctx *ctx, const void *config)
{
    struct log_actor *self = state;

    (void)config;
    self->ctx = ctx;
    self->arena = muster_arena_new();
    self->last_seq = muster_log_last(muster_ctx_store(ctx)); /* nothing below is on its way */
    outbox_init(&self->outbox);
    return MUSTER_OK;
}

/* Keep a copy of the event until the next flush. */
static void
keep(struct log_actor *self, const struct event *event)
{
    struct event *copy;

    if (self->count == self->capacity) {
        self->capacity = self->capacity ? 2 * self->capacity : 64;
        self->pending = muster_realloc(self->pending, self->capacity * sizeof *self->pending);
    }
    copy = &self->pending[self->count++];
    *copy = *event;
    copy->type = muster_arena_str(self->arena, event->type, strlen(event->type));
    copy->team = muster_arena_str(self->arena, event->team, strlen(event->team));
    copy->trace = event->trace ? muster_arena_str(self->arena, event->trace, strlen(event->trace)) : NULL;
    copy->body = muster_bytes_copy(self->arena, event->body.data, event->body.size);
    self->bytes += event->body.size;
}

/* Every record begins with its id; of one that is removed it is all that comes. */
static muster_err
id_of(struct log_actor *self, const struct store_put *put, struct muster_id *out_id)
{
    struct record_id {
        struct muster_id id;
    } record;
    static const struct muster_field fields[] = {
        {.kind = MUSTER_KIND_ID, .name = "id", .name_size = 2, .need = MUSTER_REQUIRED},
        {.kind = MUSTER_KIND_END},
    };
    static const struct muster_type type = {.wire = "", .doc = "", .fields = fields, .size = sizeof record};
    muster_err err = MUSTER_OK;

    if (!put->remove)
        err = muster_unpack(&type, put->value.data, put->value.size, muster_ctx_arena(self->ctx), &record, NULL);
    else if (put->value.size == sizeof record.id.bytes)
        memcpy(record.id.bytes, put->value.data, sizeof record.id.bytes);
    else
        err = MUSTER_INVALID_REQUEST;
    if (!err)
        *out_id = record.id;
    return err;
}

/* Keep it until the next flush, in the place of an earlier one of that id. */
static void
keep_record(struct log_actor *self, const struct store_put *put, const struct muster_id *id)
{
    size_t at;

    for (at = 0; at < self->record_count; at++)
        if (muster_id_equal(&self->records[at].id, id) && strcmp(self->records[at].put.record, put->record) == 0)
            break;
    if (at == self->record_capacity) {
        self->record_capacity = self->record_capacity ? 2 * self->record_capacity : 16;
        self->records = muster_realloc(self->records, self->record_capacity * sizeof *self->records);
    }
    if (at == self->record_count)
        self->record_count++;
    self->records[at].id = *id;
    self->records[at].put = (struct store_put){
        .record = muster_arena_str(self->arena, put->record, strlen(put->record)),
        .value = muster_bytes_copy(self->arena, put->value.data, put->value.size),
        .remove = put->remove,
    };
    self->bytes += put->value.size;
}

/* ---- which numbers are still to come ---- */

/* Numbers are given out one after the other, here and by the store: those between the last one seen and this one are on
 * their way through the store. */
static void
see(struct log_actor *self, int64_t seq)
{
    for (; self->last_seq < seq; self->last_seq++) {
        if (self->open_first > 0 && 2 * self->open_first >= self->open_end) { /* half of the places are free */
            memmove(self->open, self->open + self->open_first,
                    (self->open_end - self->open_first) * sizeof *self->open);
            self->open_end -= self->open_first;
            self->open_first = 0;
        }
        if (self->open_end == self->open_capacity) {
            self->open_capacity = self->open_capacity ? 2 * self->open_capacity : 64;
            self->open = muster_realloc(self->open, self->open_capacity * sizeof *self->open);
        }
        self->open[self->open_end++] = self->last_seq + 1;
    }
}

/* This one has come, or never will. */
static void
settle(struct log_actor *self, int64_t seq)
{
    size_t low, high, middle;

    see(self, seq);
    for (low = self->open_first, high = self->open_end; low < high;) {
        middle = low + (high - low) / 2;
        if (self->open[middle] < seq)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == self->open_end || self->open[low] != seq)
        return;
    /* They come nearly in order, so few stand before it. */
    memmove(self->open + self->open_first + 1, self->open + self->open_first,
            (low - self->open_first) * sizeof *self->open);
    self->open_first++;
}

static int64_t
settled(const struct log_actor *self)
{
    return self->open_first < self->open_end ? self->open[self->open_first] - 1 : self->last_seq;
}

/* A piece of these for one message; returns how many. */
static size_t
piece(const struct event *events, size_t count)
{
    size_t bytes = 0, i;

    for (i = 0; i < count && i < PIECE_EVENTS && bytes < PIECE_BYTES; i++)
        bytes += events[i].body.size;
    return i;
}

/* In the order of their numbers. */
static void
publish(struct log_actor *self, unsigned kinds, const struct event *events, size_t count)
{
    size_t at, size, i;

    for (at = 0; at < count; at += size) {
        size = piece(events + at, count - at);
        for (i = at; i < at + size; i++)
            settle(self, events[i].seq);
        muster_publish_events(self->ctx, kinds, events + at, size, settled(self));
    }
}

/* What was not published gathered yet. */
static void
give_gathered(struct log_actor *self)
{
    publish(self, MUSTER_FEED_GATHERED, self->pending + self->given, self->count - self->given);
    self->given = self->count;
}

/* ---- on to the store ---- */

static void
flush(struct log_actor *self, const struct store_answer *answer, bool lazy)
{
    struct store_commit commit = {
        .events = {self->pending, self->count},
        .answers = {answer, answer ? 1 : 0},
        .lazy = lazy,
    };
    struct store_put *puts;
    size_t i;

    muster_timer_end(self->ctx, TIMER_FLUSH);
    if (self->count == 0 && self->record_count == 0 && answer == NULL)
        return;
    puts = muster_arena_alloc(self->arena, (self->record_count + 1) * sizeof *puts);
    for (i = 0; i < self->record_count; i++)
        puts[i] = self->records[i].put;
    commit.puts.items = puts;
    commit.puts.count = self->record_count;
    outbox_tell(&self->outbox, self->ctx, MUSTER_STORE, &store_commit_type, &commit);
    if (outbox_waiting(&self->outbox))
        muster_timer_in(self->ctx, OUTBOX_PAUSE_MS, TIMER_OUTBOX);
    give_gathered(self);
    muster_arena_clear(self->arena);
    self->given = self->count = self->record_count = self->bytes = 0;
}

static void
log_fini(void *state)
{
    struct log_actor *self = state;

    flush(self, NULL, false);
    outbox_fini(&self->outbox);
    muster_arena_free(&self->arena);
    free(self->pending);
    free(self->records);
    free(self->open);
}

MUSTER_ON(log_actor, log_append);
static muster_err
on_log_append(struct log_actor *self, const struct log_append *in)
{
    struct event *events = muster_arena_alloc(muster_ctx_arena(self->ctx), (in->entries.count + 1) * sizeof *events);
    bool waiting = self->count > 0 || self->record_count > 0, many = in->entries.count >= GATHERED_EVENTS;
    struct muster_id id;
    size_t i;

    if (in->put && id_of(self, in->put, &id)) {
        muster_explain(self->ctx, 0, "put: is not a record");
        return MUSTER_INVALID_REQUEST;
    }
    if (many)
        give_gathered(self);
    for (i = 0; i < in->entries.count; i++) {
        const struct log_entry *entry = &in->entries.items[i];

        events[i] = (struct event){
            .seq = muster_log_number(muster_ctx_store(self->ctx)),
            .at_ms = entry->at_ms,
            .type = entry->type,
            .team = entry->team,
            .job = entry->job,
            .attempt = entry->attempt,
            .trace = entry->trace,
            .body = entry->body,
        };

        keep(self, &events[i]);
    }
    publish(self, many ? MUSTER_FEED_LIVE | MUSTER_FEED_GATHERED : MUSTER_FEED_LIVE, events, in->entries.count);
    if (many)
        self->given = self->count;
    if (in->put)
        keep_record(self, in->put, &id);
    if (self->bytes >= FLUSH_BYTES)
        flush(self, NULL, false);
    else if (!waiting)
        muster_timer_in(self->ctx, FLUSH_MS, TIMER_FLUSH);
    return MUSTER_OK;
}

MUSTER_ON(log_actor, log_publish);
static muster_err
on_log_publish(struct log_actor *self, const struct log_publish *in)
{
    size_t i;

    publish(self, MUSTER_FEED_DURABLE, in->events.items, in->events.count);
    for (i = 0; i < in->lost.count; i++)
        settle(self, in->lost.items[i].seq);
    if (in->lost.count > 0)
        muster_publish_events(self->ctx, MUSTER_FEED_DURABLE, NULL, 0, settled(self));
    return MUSTER_OK;
}

MUSTER_ON(log_actor, log_report);
static muster_err
on_log_report(struct log_actor *self, const struct log_report *in)
{
    flush(self, NULL, true); /* the end of the job is written in a moment */
    outbox_tell(&self->outbox, self->ctx, MUSTER_QUEUE, &queue_report_type, in->report);
    if (outbox_waiting(&self->outbox))
        muster_timer_in(self->ctx, OUTBOX_PAUSE_MS, TIMER_OUTBOX);
    return MUSTER_OK;
}

MUSTER_ON(log_actor, log_flush);
static muster_err
on_log_flush(struct log_actor *self, const struct log_flush *in)
{
    struct muster_caller *caller = muster_caller_keep(self->ctx);
    struct store_committed committed = {.seq = settled(self)};
    struct muster_buf ok = {0};
    struct store_answer answer;

    (void)in;
    muster_caller_pack(caller, &store_committed_type, &committed, &ok);
    answer = (struct store_answer){
        .to = muster_caller_address(caller),
        .ok = {(const uint8_t *)ok.data, ok.size},
    };
    flush(self, answer.to[0] ? &answer : NULL, false);
    muster_buf_free(&ok);
    muster_caller_free(&caller);
    return MUSTER_OK;
}

static void
on_timer(void *state, uint64_t key)
{
    struct log_actor *self = state;

    if (key == TIMER_FLUSH) {
        flush(self, NULL, false);
    } else {
        outbox_push(&self->outbox, self->ctx);
        if (outbox_waiting(&self->outbox))
            muster_timer_in(self->ctx, OUTBOX_PAUSE_MS, TIMER_OUTBOX);
    }
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(log_append), MUSTER_ROW(log_publish), MUSTER_ROW(log_report), MUSTER_ROW(log_flush), {NULL, NULL},
};

const struct muster_actor_class muster_log_class = {
    .name = "log",
    .size = sizeof(struct log_actor),
    .mailbox = 65536,
    .init = log_init,
    .fini = log_fini,
    .handlers = handlers,
    .timer = on_timer,
};
