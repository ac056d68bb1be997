/* SPDX-License-Identifier: MPL-2.0 */
/* parcels_disk: what of the parcels is on disk.
 *
 * A parcel is written when it was not acknowledged within a few milliseconds; most never are.  One commit is under way
 * at a time; what is acknowledged meanwhile is removed with a later one.  The actor's thread.  What can fail: the disk;
 * then all stays in memory and is tried again. */
#include <stdlib.h>
#include <string.h>

#include "actors/parcels.h"

#define WRITE_MS 10
#define REMOVE_MS 1000
#define RETRY_MS 1000
#define BUSY_MS 5 /* the store's mailbox is full */
#define COMMIT_PARCELS 1000
#define COMMIT_REMOVALS 4000
#define COMMIT_BYTES ((size_t)8 << 20)

/* ---- reading ---- */

static struct muster_id
id_of(int64_t seq)
{
    struct muster_id id = {{0}};
    size_t i;

    for (i = 0; i < 8; i++)
        id.bytes[15 - i] = (uint8_t)((uint64_t)seq >> (8 * i));
    return id;
}

static bool
on_record(void *arg, const void *record, struct muster_arena *arena)
{
    struct parcels *self = arg;
    const struct parcel *parcel = record;
    struct parcels_item *item = muster_alloc(sizeof *item);

    (void)arena;
    item->seq = parcel->seq;
    item->kind = parcel->kind;
    item->size = parcel->data.size;
    item->job = parcel->job;
    item->attempt = parcel->attempt;
    item->at_ms = parcel->at_ms;
    item->where = PARCELS_ON_DISK;
    parcels_add(self, item);
    self->last_seq = parcel->seq;
    return true;
}

muster_err
parcels_disk_read(struct parcels *self)
{
    return muster_store_walk(muster_ctx_store(self->ctx), &parcel_type, NULL, NULL, MUSTER_OLDEST_FIRST, on_record,
                             self);
}

muster_err
parcels_disk_row(struct parcels *self, const struct parcels_item *item, struct muster_arena *arena,
                 struct muster_bytes *out_row)
{
    struct muster_id id = id_of(item->seq);
    struct parcel record;
    muster_err err;

    if (item->where != PARCELS_ON_DISK) {
        *out_row = (struct muster_bytes){(const uint8_t *)item->data.data, item->data.size};
        return MUSTER_OK;
    }
    err = muster_store_get(muster_ctx_store(self->ctx), &parcel_type, &id, arena, &record);
    if (!err)
        *out_row = record.data;
    return err;
}

/* ---- writing ---- */

void
parcels_disk_remove(struct parcels *self, int64_t seq)
{
    if (self->gone_count == self->gone_capacity) {
        self->gone_capacity = self->gone_capacity ? 2 * self->gone_capacity : 64;
        self->gone = muster_realloc(self->gone, self->gone_capacity * sizeof *self->gone);
    }
    if (self->gone_count == self->going)
        self->gone_ms = muster_uptime_ms(self->ctx);
    self->gone[self->gone_count++] = seq;
}

/* What one commit writes. */
struct commit {
    struct muster_arena *arena;
    struct store_put *puts;
    size_t count, bytes;
};

static void
put_removals(struct parcels *self, struct commit *commit)
{
    struct muster_id *id;
    size_t i;

    self->going = self->gone_count < COMMIT_REMOVALS ? self->gone_count : COMMIT_REMOVALS;
    for (i = 0; i < self->going; i++) {
        id = muster_arena_alloc(commit->arena, sizeof *id);
        *id = id_of(self->gone[i]);
        commit->puts[commit->count++] =
            (struct store_put){.record = parcel_type.wire, .value = {id->bytes, sizeof id->bytes}, .remove = true};
    }
}

static void
put_parcel(struct commit *commit, const struct parcels_item *item)
{
    struct parcel record = {
        .id = id_of(item->seq),
        .seq = item->seq,
        .kind = item->kind,
        .data = {(const uint8_t *)item->data.data, item->data.size},
        .job = item->job,
        .attempt = item->attempt,
        .at_ms = item->at_ms,
    };
    struct muster_buf packed = {0};

    muster_pack(&parcel_type, &record, &packed);
    commit->puts[commit->count++] = (struct store_put){
        .record = parcel_type.wire, .value = muster_bytes_copy(commit->arena, packed.data, packed.size)};
    commit->bytes += packed.size;
    muster_buf_free(&packed);
}

/* Up to `made_ms`; returns the first that is left in memory. */
static struct parcels_item *
put_parcels(struct parcels *self, struct commit *commit, int64_t made_ms)
{
    struct parcels_item *item = self->unwritten;
    size_t count = 0;

    for (; item && item->seq > 0 && item->made_ms <= made_ms && count < COMMIT_PARCELS && commit->bytes < COMMIT_BYTES;
         item = item->next) {
        if (item->where != PARCELS_IN_MEMORY)
            continue;
        put_parcel(commit, item);
        count++;
    }
    return item;
}

static muster_err
send_commit(struct parcels *self, const struct commit *commit)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    struct parcels_written written = {.seq = self->last_seq ? self->last_seq : 1};
    struct store_answer answer = {.to = muster_ctx_address(self->ctx)};
    struct store_commit body = {.puts = {commit->puts, commit->count}, .answers = {&answer, 1}};
    struct muster_buf ok = {0}, no = {0};
    muster_err err;

    muster_envelope_pack(&envelope, &parcels_written_type, &written, &ok);
    written.failed = true;
    muster_envelope_pack(&envelope, &parcels_written_type, &written, &no);
    answer.ok = (struct muster_bytes){(const uint8_t *)ok.data, ok.size};
    answer.no = (struct muster_bytes){(const uint8_t *)no.data, no.size};
    err = muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &body);
    muster_buf_free(&ok);
    muster_buf_free(&no);
    return err;
}

/* Write what was made up to `made_ms`, and with it what is to be removed; also alone if `removals`. */
static muster_err
write_up_to(struct parcels *self, int64_t made_ms, bool removals)
{
    struct commit commit = {.arena = muster_arena_new()};
    struct parcels_item *item, *rest;
    muster_err err = MUSTER_OK;

    commit.puts = muster_alloc((COMMIT_PARCELS + COMMIT_REMOVALS) * sizeof *commit.puts);
    rest = put_parcels(self, &commit, made_ms);
    if (commit.count > 0 || removals)
        put_removals(self, &commit);
    if (commit.count > 0)
        err = send_commit(self, &commit);
    for (item = self->unwritten; !err && item != rest; item = item->next)
        if (item->where == PARCELS_IN_MEMORY)
            item->where = PARCELS_WRITING;
    if (!err)
        self->unwritten = rest;
    self->writing = commit.count > 0 && !err;
    if (!self->writing)
        self->going = 0;
    free(commit.puts);
    muster_arena_free(&commit.arena);
    return err;
}

/* ---- when ---- */

/* At the latest so soon. */
static void
write_in(struct parcels *self, int64_t delay_ms)
{
    int64_t due_ms = muster_uptime_ms(self->ctx) + (delay_ms > 0 ? delay_ms : 0);

    if (self->write_due_ms != 0 && self->write_due_ms <= due_ms)
        return;
    self->write_due_ms = due_ms;
    muster_timer_in(self->ctx, delay_ms, PARCELS_TIMER_WRITE);
}

static bool
has_unwritten(const struct parcels *self)
{
    return self->unwritten && self->unwritten->seq > 0;
}

void
parcels_disk_look(struct parcels *self)
{
    int64_t now_ms = muster_uptime_ms(self->ctx);

    if (self->writing || (!has_unwritten(self) && self->gone_count == 0))
        return;
    if (self->failing)
        write_in(self, RETRY_MS);
    else if (has_unwritten(self))
        write_in(self, self->unwritten->made_ms + WRITE_MS - now_ms);
    else
        write_in(self, self->gone_count >= COMMIT_REMOVALS ? 0 : self->gone_ms + REMOVE_MS - now_ms);
}

void
parcels_disk_timer(struct parcels *self)
{
    int64_t now_ms = muster_uptime_ms(self->ctx);
    bool removals = self->gone_count >= COMMIT_REMOVALS || now_ms >= self->gone_ms + REMOVE_MS;

    self->write_due_ms = 0;
    if (!self->writing && write_up_to(self, now_ms - WRITE_MS, removals))
        write_in(self, BUSY_MS);
    else
        parcels_disk_look(self);
}

/* The commit under way did not come to the disk. */
static void
take_back(struct parcels *self)
{
    struct parcels_item *item;

    self->unwritten = NULL;
    for (item = self->first; item; item = item->next) {
        if (item->where == PARCELS_WRITING)
            item->where = PARCELS_IN_MEMORY;
        if (!self->unwritten && item->where == PARCELS_IN_MEMORY)
            self->unwritten = item;
    }
}

static void
forget_removed(struct parcels *self)
{
    if (self->going == 0)
        return;
    self->gone_count -= self->going;
    memmove(self->gone, self->gone + self->going, self->gone_count * sizeof *self->gone);
    self->going = 0;
}

static void
settle(struct parcels *self)
{
    struct parcels_item *item;

    for (item = self->first; item && item != self->unwritten; item = item->next) {
        if (item->where != PARCELS_WRITING)
            continue;
        item->where = PARCELS_ON_DISK;
        muster_buf_free(&item->data);
    }
    forget_removed(self);
}

void
parcels_disk_done(struct parcels *self, bool failed)
{
    if (failed)
        take_back(self);
    else
        settle(self);
    if (failed && !self->failing)
        muster_journal_say(muster_ctx_journal(self->ctx), WARNING, "parcels-unwritten",
                           "What the hub has not acknowledged cannot be written; it is kept in memory.",
                           MUSTER_SAY_NUMBER("parcels", (int64_t)self->count));
    self->failing = failed;
    self->writing = false;
    self->going = 0;
    parcels_disk_look(self);
}

void
parcels_disk_flush(struct parcels *self)
{
    bool more = true;

    while (more) {
        self->writing = false;
        more = write_up_to(self, INT64_MAX, true) == MUSTER_OK && self->writing;
        forget_removed(self);
    }
}
