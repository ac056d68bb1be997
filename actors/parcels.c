/* SPDX-License-Identifier: MPL-2.0 */
/* parcels: the log of a worker.  What its agents say goes from here to the hub, in order, each once.
 *
 *   log.append, log.report   become parcels with numbers; small appends are joined, a report is a parcel of its own
 *   parcels.open, .close     the hub can be reached, or not: then all is kept
 *   parcels.acked            up to that number nothing need be kept
 *   parcels.again            what is on its way is sent once more, after a pause
 *
 * A parcel gets its number when it is known how far the hub is, which the first parcels.open of a life tells: numbers
 * that a former life gave and nobody remembers here must not be given again.  Persists what was not acknowledged within
 * a few milliseconds (parcels_disk.c); on restart that is sent again.  Beyond worker.max_outbox events are left out and
 * counted; reports never are.  Mailbox full: agents keep what they have and try again. */
#include "actors/parcels.h"

#include <stdlib.h>
#include <string.h>

#define SEAL_MS 2
#define SEAL_BYTES ((size_t)64 << 10)
#define SEAL_ENTRIES 10000 /* that one log.append may have */
#define WINDOW_PARCELS 32
#define WINDOW_BYTES ((size_t)4 << 20)
#define BUSY_MS 5 /* the link's mailbox is full */
#define AGAIN_MS 1000
#define STALE_MAX 100000
#define KEPT_MAX 100000 /* that parcels.kept may name */

static muster_err
parcels_init(void *state, struct muster_ctx *ctx, const void *config)
{
    struct parcels *self = state;

    (void)config;
    self->ctx = ctx;
    self->arena = muster_arena_new();
    self->dirty = true;
    parcels_list_init(self);
    return parcels_disk_read(self);
}

/* ---- joining ---- */

static struct parcels_item *
new_item(struct parcels *self, enum parcel_kind kind, const struct muster_type *type, const void *row)
{
    struct parcels_item *item = muster_alloc(sizeof *item);

    item->kind = kind;
    item->at_ms = muster_now_ms(self->ctx);
    item->made_ms = muster_uptime_ms(self->ctx);
    muster_pack(type, row, &item->data);
    item->size = item->data.size;
    return item;
}

/* What was joined so far becomes a parcel. */
static void
seal(struct parcels *self)
{
    struct log_append row = {.entries = {self->entries, self->entry_count}};

    if (self->entry_count == 0)
        return;
    muster_timer_end(self->ctx, PARCELS_TIMER_SEAL);
    parcels_add(self, new_item(self, parcel_kind_EVENTS, &log_append_type, &row));
    self->entry_count = self->entry_bytes = 0;
    muster_arena_clear(self->arena);
    parcels_disk_look(self);
}

static const char *
keep_text(struct parcels *self, const char *text)
{
    return text ? muster_arena_str(self->arena, text, strlen(text)) : NULL;
}

static void
join(struct parcels *self, const struct log_entry *entry)
{
    struct log_entry *copy;

    if (self->entry_count == self->entry_capacity) {
        self->entry_capacity = self->entry_capacity ? 2 * self->entry_capacity : 64;
        self->entries = muster_realloc(self->entries, self->entry_capacity * sizeof *self->entries);
    }
    copy = &self->entries[self->entry_count++];
    *copy = *entry;
    copy->type = keep_text(self, entry->type);
    copy->team = keep_text(self, entry->team);
    copy->trace = keep_text(self, entry->trace);
    copy->body = muster_bytes_copy(self->arena, entry->body.data, entry->body.size);
    self->entry_bytes += entry->body.size;
}

/* Is there room for these?  If not, they are left out. */
static bool
has_room(struct parcels *self, const struct log_append *in)
{
    size_t max = (size_t)muster_ctx_options(self->ctx)->worker->max_outbox, size = 0, i;
    const struct log_entry *entries = in->entries.items;

    for (i = 0; i < in->entries.count; i++)
        size += entries[i].body.size;
    if (parcels_cost(self) + size <= max) {
        if (parcels_cost(self) <= max / 2)
            self->full = false;
        return true;
    }
    self->left_out += (int64_t)in->entries.count;
    self->dirty = true;
    if (!self->full)
        muster_journal_say(muster_ctx_journal(self->ctx), ERROR, "parcels-full",
                           "The hub does not take them, and worker.max_outbox is reached: events are left out.",
                           MUSTER_SAY_NUMBER("left_out", self->left_out));
    self->full = true;
    return false;
}

MUSTER_ON(parcels, log_append);
static muster_err
on_log_append(struct parcels *self, const struct log_append *in)
{
    const struct log_entry *entries = in->entries.items;
    size_t i;

    if (!has_room(self, in))
        return MUSTER_OK;
    if (self->entry_count + in->entries.count > SEAL_ENTRIES)
        seal(self);
    if (self->entry_count == 0)
        muster_timer_in(self->ctx, SEAL_MS, PARCELS_TIMER_SEAL);
    for (i = 0; i < in->entries.count; i++)
        join(self, &entries[i]);
    if (self->entry_bytes >= SEAL_BYTES)
        seal(self);
    return MUSTER_OK;
}

/* ---- reports ---- */

/* Was that attempt not wanted any more?  It is asked once for each. */
static bool
take_stale(struct parcels *self, const struct muster_id *job, int64_t attempt)
{
    struct parcels_stale *stale = &self->stale;
    size_t i;

    for (i = 0; i < stale->count; i++) {
        if (stale->items[i].attempt != attempt || !muster_id_equal(&stale->items[i].job, job))
            continue;
        stale->items[i] = stale->items[--stale->count];
        return true;
    }
    return false;
}

static void
add_stale(struct parcels *self, const struct held_attempt *attempt)
{
    struct parcels_stale *stale = &self->stale;

    if (stale->count == STALE_MAX)
        return;
    (void)take_stale(self, &attempt->job, attempt->attempt);
    if (stale->count == stale->capacity) {
        stale->capacity = stale->capacity ? 2 * stale->capacity : 16;
        stale->items = muster_realloc(stale->items, stale->capacity * sizeof *stale->items);
    }
    stale->items[stale->count++] = *attempt;
}

MUSTER_ON(parcels, log_report);
static muster_err
on_log_report(struct parcels *self, const struct log_report *in)
{
    struct parcels_item *item;

    seal(self);
    if (take_stale(self, &in->report->job, in->report->attempt))
        return MUSTER_OK;
    item = new_item(self, parcel_kind_REPORT, &queue_report_type, in->report);
    item->job = in->report->job;
    item->attempt = in->report->attempt;
    parcels_add(self, item);
    parcels_disk_look(self);
    return MUSTER_OK;
}

/* ---- on its way to the hub ---- */

static muster_err
send_row(struct parcels *self, const struct parcels_item *item, struct muster_bytes row)
{
    struct parcels_parcel body = {
        .seq = item->seq, .kind = item->kind, .data = row, .job = item->job, .attempt = item->attempt};

    return muster_tell(self->ctx, MUSTER_QUEUE, &parcels_parcel_type, &body);
}

/* It cannot be read: of events nothing is left, of a report that the attempt has ended. */
static void
replace(struct parcels *self, struct parcels_item *item, muster_err reason)
{
    struct queue_report report = {.job = item->job,
                                  .attempt = item->attempt,
                                  .state = job_state_FAILED,
                                  .code = muster_err_code(MUSTER_STORAGE_ERROR),
                                  .message = "The worker cannot read what the attempt came to."};
    struct parcels_item **link = &self->first;

    muster_journal_say(muster_ctx_journal(self->ctx), ERROR, "parcel-unreadable",
                       "A parcel on disk cannot be read, its content is lost.", MUSTER_SAY_NUMBER("parcel", item->seq),
                       MUSTER_SAY_TEXT("code", muster_err_code(reason)));
    if (item->kind == parcel_kind_REPORT) {
        self->bytes -= item->size;
        muster_pack(&queue_report_type, &report, &item->data);
        item->size = item->data.size;
        self->bytes += item->size;
        item->where = PARCELS_IN_MEMORY;
        self->unwritten = item; /* what is on disk lies before what is not */
        return;
    }
    while (*link != item)
        link = &(*link)->next;
    parcels_drop(self, link);
}

/* MUSTER_AGAIN: there is another one to be sent in its place. */
static muster_err
send_item(struct parcels *self, struct parcels_item *item)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_bytes row;
    muster_err err = parcels_disk_row(self, item, arena, &row);

    if (err) {
        replace(self, item, err);
        err = MUSTER_AGAIN;
    } else {
        err = send_row(self, item, row);
    }
    muster_arena_free(&arena);
    return err;
}

/* Up to the window. */
static void
send(struct parcels *self)
{
    struct parcels_item *item;
    muster_err err;

    while (self->open && !self->paused && (item = self->unsent) && self->sent < WINDOW_PARCELS &&
           (self->sent == 0 || self->sent_bytes + item->size <= WINDOW_BYTES)) {
        err = send_item(self, item);
        if (err == MUSTER_AGAIN)
            continue;
        if (err) {
            muster_timer_in(self->ctx, BUSY_MS, PARCELS_TIMER_SEND);
            return;
        }
        self->sent++;
        self->sent_bytes += item->size;
        self->unsent = item->next;
    }
}

/* ---- what the link tells ---- */

static struct parcels_item **
find_report(struct parcels *self, const struct held_attempt *attempt)
{
    struct parcels_item **link = &self->first;

    while (*link && !((*link)->kind == parcel_kind_REPORT && (*link)->attempt == attempt->attempt &&
                      muster_id_equal(&(*link)->job, &attempt->job)))
        link = &(*link)->next;
    return link;
}

static void
drop_received(struct parcels *self, int64_t received)
{
    struct parcels_item **link = &self->first;

    while (*link) {
        if ((*link)->kind == parcel_kind_EVENTS && (*link)->seq > 0 && (*link)->seq <= received)
            parcels_drop(self, link);
        else
            link = &(*link)->next;
    }
}

MUSTER_ON(parcels, parcels_open);
static muster_err
on_parcels_open(struct parcels *self, const struct parcels_open *in)
{
    const struct held_attempt *stale = in->stale.items;
    struct parcels_item **link;
    size_t i;

    self->open = true;
    self->paused = false;
    muster_timer_end(self->ctx, PARCELS_TIMER_AGAIN);
    drop_received(self, in->received); /* before numbers are given: what has none is not among it */
    for (i = 0; i < in->stale.count; i++) {
        link = find_report(self, &stale[i]);
        if (*link)
            parcels_drop(self, link);
        else
            add_stale(self, &stale[i]);
    }
    parcels_number(self, in->received);
    parcels_rewind(self);
    parcels_disk_look(self);
    return MUSTER_OK;
}

MUSTER_ON(parcels, parcels_close);
static muster_err
on_parcels_close(struct parcels *self, const struct parcels_close *in)
{
    (void)in;
    self->open = false;
    parcels_rewind(self);
    return MUSTER_OK;
}

MUSTER_ON(parcels, parcels_acked);
static muster_err
on_parcels_acked(struct parcels *self, const struct parcels_acked *in)
{
    parcels_acked_up_to(self, in->seq);
    parcels_disk_look(self);
    return MUSTER_OK;
}

MUSTER_ON(parcels, parcels_again);
static muster_err
on_parcels_again(struct parcels *self, const struct parcels_again *in)
{
    (void)in;
    if (self->open && !self->paused)
        muster_timer_in(self->ctx, AGAIN_MS, PARCELS_TIMER_AGAIN);
    self->paused = self->open;
    return MUSTER_OK;
}

MUSTER_ON(parcels, parcels_read);
static muster_err
on_parcels_read(struct parcels *self, const struct parcels_read *in)
{
    struct held_attempt *reports = muster_arena_alloc(muster_ctx_arena(self->ctx), self->count * sizeof *reports + 1);
    struct parcels_kept kept = {.parcels = (int64_t)self->count};
    const struct parcels_item *item;
    size_t count = 0;

    (void)in;
    for (item = self->first; item && count < KEPT_MAX; item = item->next)
        if (item->kind == parcel_kind_REPORT)
            reports[count++] = (struct held_attempt){item->job, item->attempt};
    kept.reports.items = reports;
    kept.reports.count = count;
    muster_reply(self->ctx, &parcels_kept_type, &kept);
    return MUSTER_OK;
}

MUSTER_ON(parcels, parcels_written);
static muster_err
on_parcels_written(struct parcels *self, const struct parcels_written *in)
{
    parcels_disk_done(self, in->failed);
    return MUSTER_OK;
}

/* ---- the rest ---- */

static void
on_timer(void *state, uint64_t key)
{
    struct parcels *self = state;

    if (key == PARCELS_TIMER_SEAL)
        seal(self);
    else if (key == PARCELS_TIMER_WRITE)
        parcels_disk_timer(self);
    if (key != PARCELS_TIMER_AGAIN)
        return; /* PARCELS_TIMER_SEND: idle does it */
    self->paused = false;
    parcels_rewind(self);
}

static void
publish(struct parcels *self)
{
    struct muster_parcels_view *view = muster_alloc(sizeof *view);

    view->count = (int64_t)self->count + (self->entry_count > 0);
    view->bytes = (int64_t)(self->bytes + self->entry_bytes);
    view->oldest_ms = self->first ? self->first->at_ms : self->entry_count > 0 ? self->entries[0].at_ms : 0;
    view->left_out = self->left_out;
    muster_publish(self->ctx, MUSTER_PARCELS_BOARD, view, free);
    self->dirty = false;
}

static void
on_idle(void *state)
{
    struct parcels *self = state;

    send(self);
    if (self->dirty)
        publish(self);
}

/* What the hub has not acknowledged goes to the disk; without a number it is of no job that the hub gave. */
static void
parcels_fini(void *state)
{
    struct parcels *self = state;

    seal(self);
    parcels_disk_flush(self);
    parcels_list_fini(self);
    free(self->entries);
    free(self->stale.items);
    free(self->gone);
    muster_arena_free(&self->arena);
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(log_append),    MUSTER_ROW(log_report),      MUSTER_ROW(parcels_open),
    MUSTER_ROW(parcels_close), MUSTER_ROW(parcels_acked),   MUSTER_ROW(parcels_again),
    MUSTER_ROW(parcels_read),  MUSTER_ROW(parcels_written), {NULL, NULL},
};

const struct muster_actor_class muster_parcels_class = {
    .name = "parcels",
    .size = sizeof(struct parcels),
    .mailbox = 65536,
    .init = parcels_init,
    .fini = parcels_fini,
    .handlers = handlers,
    .timer = on_timer,
    .idle = on_idle,
};
