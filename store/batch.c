/* SPDX-License-Identifier: MPL-2.0 */
/* Batches: what one commit writes.  The writer thread.
 *
 * A batch keeps its records and events packed in one buffer.  The commit takes the last change of each record, finds
 * what the store has of it, and makes the engine's changes of that: record, index entries that differ, events, totals.
 * Nothing in memory changes unless the engine has written all of it. */
#include <stdlib.h>

#include "store/store.h"

struct record_change {
    const struct muster_record_row *row;
    struct muster_id id;
    size_t order;    /* of several changes of a record the last one counts */
    size_t at, size; /* in batch->data; size 0: remove */
};

struct event_change {
    uint8_t number[NUMBER_SIZE];
    struct muster_id job; /* zero: none */
    size_t at, size;      /* in batch->data */
    bool drop;
};

struct muster_batch {
    struct muster_store *store;
    struct muster_arena *arena;             /* decoded records; at the commit the keys of index entries */
    struct muster_buf data;                 /* packed records with their headers, packed events */
    struct muster_buf records;              /* of struct record_change */
    struct muster_buf events;               /* of struct event_change */
    struct muster_buf changes;              /* of struct engine_change, made by the commit */
    struct muster_buf entries[INDEXES_MAX]; /* likewise, of the first, second ... index: each lies in one place */
    struct muster_buf stored;               /* what the store has of the record at work */
    int64_t oldest;                         /* 0: leave it as it is */
};

struct muster_batch *
muster_batch_new(struct muster_store *store)
{
    struct muster_batch *batch = muster_alloc(sizeof(*batch));

    batch->store = store;
    batch->arena = muster_arena_new();
    return batch;
}

void
muster_batch_free(struct muster_batch **batch_p)
{
    struct muster_batch *batch = *batch_p;
    size_t i;

    *batch_p = NULL;
    if (batch == NULL)
        return;
    muster_buf_free(&batch->data);
    muster_buf_free(&batch->records);
    muster_buf_free(&batch->events);
    muster_buf_free(&batch->changes);
    for (i = 0; i < INDEXES_MAX; i++)
        muster_buf_free(&batch->entries[i]);
    muster_buf_free(&batch->stored);
    muster_arena_free(&batch->arena);
    free(batch);
}

static void
clear(struct muster_batch *batch)
{
    size_t i;

    muster_buf_clear(&batch->data);
    muster_buf_clear(&batch->records);
    muster_buf_clear(&batch->events);
    muster_buf_clear(&batch->changes);
    for (i = 0; i < INDEXES_MAX; i++)
        muster_buf_clear(&batch->entries[i]);
    muster_buf_free(&batch->stored); /* it may have been a large one */
    muster_arena_clear(batch->arena);
    batch->oldest = 0;
}

size_t
muster_batch_bytes(const struct muster_batch *batch)
{
    return batch->data.size + batch->records.size + batch->events.size;
}

/* ---- filling ---- */

static void
add_record(struct muster_batch *batch, const struct muster_record_row *row, const struct muster_id *id, size_t at)
{
    struct record_change change = {.row = row, .id = *id, .order = batch->records.size, .at = at};

    change.size = batch->data.size - at;
    muster_buf_add(&batch->records, &change, sizeof(change));
}

muster_err
muster_batch_put(struct muster_batch *batch, const struct muster_type *type, const void *value, size_t size)
{
    const struct muster_record_row *row = muster_record_row(type);
    size_t at = batch->data.size;
    void *record;
    muster_err err;

    MUSTER_ASSERT(row != NULL);
    muster_arena_clear(batch->arena);
    record = muster_arena_alloc(batch->arena, type->size);
    err = muster_unpack(type, value, size, batch->arena, record, NULL);
    if (err)
        return err;
    header_write(batch->store, row, record, &batch->data);
    muster_buf_add(&batch->data, value, size);
    add_record(batch, row, record, at); /* the id is the first field of every record */
    return MUSTER_OK;
}

muster_err
muster_batch_remove(struct muster_batch *batch, const struct muster_type *type, const struct muster_id *id)
{
    const struct muster_record_row *row = muster_record_row(type);

    MUSTER_ASSERT(row != NULL);
    add_record(batch, row, id, batch->data.size);
    return MUSTER_OK;
}

void
muster_batch_append(struct muster_batch *batch, const struct event *event)
{
    struct event_change change = {.job = event->job, .at = batch->data.size};

    number_write(event->seq, change.number);
    muster_pack(&event_type, event, &batch->data);
    change.size = batch->data.size - change.at;
    muster_buf_add(&batch->events, &change, sizeof(change));
}

void
batch_drop(struct muster_batch *batch, int64_t seq, const struct muster_id *job, size_t size)
{
    struct event_change change = {.job = *job, .size = size, .drop = true};

    number_write(seq, change.number);
    muster_buf_add(&batch->events, &change, sizeof(change));
}

void
batch_oldest(struct muster_batch *batch, int64_t seq)
{
    batch->oldest = seq;
}

/* ---- the engine's changes ---- */

/* Key and value are borrowed until the commit is done. */
static void
add_change(struct muster_buf *changes, enum engine_verb verb, enum engine_table table, struct muster_bytes key,
           struct muster_bytes value)
{
    struct engine_change change = {.verb = verb, .table = table, .key = key, .value = value};

    muster_buf_add(changes, &change, sizeof(change));
}

static void
change_entry(struct muster_batch *batch, const struct record_change *change, enum engine_verb verb, size_t index,
             struct muster_bytes text)
{
    uint8_t key[KEY_MAX_SIZE];
    size_t size = index_key(change->row->indexes[index].name, text, key);
    const char *copy = muster_arena_str(batch->arena, (const char *)key, size);

    add_change(&batch->entries[index], verb, ENGINE_INDEX, bytes_of(copy, size), bytes_of(change->id.bytes, ID_SIZE));
}

static void
change_index(struct muster_batch *batch, const struct record_change *change, const struct header *before,
             const struct header *after)
{
    size_t i;

    for (i = 0; change->row->indexes[i].name; i++) {
        bool had = i < before->count && before->texts[i].size > 0;
        bool has = i < after->count && after->texts[i].size > 0;

        if (had && has && bytes_compare(before->texts[i], after->texts[i]) == 0)
            continue;
        if (had)
            change_entry(batch, change, ENGINE_DELETE, i, before->texts[i]);
        if (has)
            change_entry(batch, change, ENGINE_APPEND, i, after->texts[i]);
    }
}

struct stored {
    struct muster_buf *copy;
    struct header *header;
    bool found, broken;
};

/* Copies the header only: the value may be large, and is not needed. */
static bool
keep_header(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct stored *stored = arg;

    (void)key;
    stored->found = true;
    stored->broken = !header_read(value, stored->header);
    if (stored->broken)
        return false;
    muster_buf_add(stored->copy, value.data, stored->header->size);
    MUSTER_ASSERT(header_read(bytes_of(stored->copy->data, stored->copy->size), stored->header));
    return false;
}

/* The header of what the store has of the record; MUSTER_NOT_FOUND.  One above all others need not be looked for. */
static muster_err
find_stored(struct muster_batch *batch, const struct record_change *change, struct header *out_header)
{
    struct muster_engine *engine = batch->store->engine;
    struct muster_bytes key = bytes_of(change->id.bytes, ID_SIZE);
    struct stored stored = {.copy = &batch->stored, .header = out_header};
    muster_err err;

    if (memcmp(key.data, batch->store->newest[change->row - muster_records].bytes, ID_SIZE) > 0)
        return MUSTER_NOT_FOUND;
    muster_buf_clear(&batch->stored);
    err = engine->class->range(engine, record_table(change->row), key, key, false, keep_header, &stored);
    if (err == MUSTER_OK && stored.broken)
        err = MUSTER_STORAGE_ERROR;
    return err == MUSTER_OK && !stored.found ? MUSTER_NOT_FOUND : err;
}

static muster_err
plan_record(struct muster_batch *batch, const struct record_change *change)
{
    enum engine_table table = record_table(change->row);
    struct muster_bytes key = bytes_of(change->id.bytes, ID_SIZE), value = bytes_of(NULL, 0);
    struct header before = {0}, after = {0};
    muster_err err;

    err = find_stored(batch, change, &before);
    if (err && err != MUSTER_NOT_FOUND)
        return err;
    if (change->size) {
        value = bytes_of(batch->data.data + change->at, change->size);
        MUSTER_ASSERT(header_read(value, &after));
        add_change(&batch->changes, err ? ENGINE_APPEND : ENGINE_PUT, table, key, value);
    } else if (!err) {
        add_change(&batch->changes, ENGINE_DELETE, table, key, value);
    }
    change_index(batch, change, &before, &after);
    return MUSTER_OK;
}

static void
plan_event(struct muster_batch *batch, const struct event_change *change, struct totals *totals)
{
    enum engine_verb verb = change->drop ? ENGINE_DELETE : ENGINE_APPEND;
    struct muster_bytes number = bytes_of(change->number, NUMBER_SIZE), value = bytes_of(NULL, 0);
    int64_t bytes = (int64_t)(change->size + NUMBER_SIZE);

    if (!change->drop)
        value = bytes_of(batch->data.data + change->at, change->size);
    add_change(&batch->changes, verb, ENGINE_EVENTS, number, value);
    if (!muster_id_is_zero(&change->job))
        add_change(&batch->changes, verb, ENGINE_JOB_EVENTS, bytes_of(change->job.bytes, ID_SIZE), number);
    totals->event_bytes += change->drop ? -bytes : bytes;
}

static bool
same_record(const struct record_change *a, const struct record_change *b)
{
    return a->row == b->row && muster_id_equal(&a->id, &b->id);
}

static int
compare_changes(const void *left, const void *right)
{
    const struct record_change *a = left, *b = right;
    int order;

    if (a->row != b->row)
        return a->row < b->row ? -1 : 1;
    order = memcmp(a->id.bytes, b->id.bytes, ID_SIZE);
    return order ? order : (a->order > b->order) - (a->order < b->order);
}

static muster_err
plan(struct muster_batch *batch, struct totals *totals)
{
    struct record_change *records = (struct record_change *)(void *)batch->records.data;
    const struct event_change *events = (const struct event_change *)(void *)batch->events.data;
    size_t record_count = batch->records.size / sizeof(*records), event_count = batch->events.size / sizeof(*events);
    muster_err err = MUSTER_OK;
    size_t i;

    muster_arena_clear(batch->arena);
    if (record_count > 1)
        qsort(records, record_count, sizeof(*records), compare_changes);
    for (i = 0; i < record_count && err == MUSTER_OK; i++)
        if (i + 1 == record_count || !same_record(&records[i], &records[i + 1]))
            err = plan_record(batch, &records[i]);
    for (i = 0; i < INDEXES_MAX; i++)
        muster_buf_add(&batch->changes, batch->entries[i].data, batch->entries[i].size);
    for (i = 0; i < event_count && err == MUSTER_OK; i++)
        plan_event(batch, &events[i], totals);
    if (batch->oldest > totals->oldest)
        totals->oldest = batch->oldest;
    totals_reserve(batch->store, totals);
    return err;
}

/* The records may be on disk now: what a failed commit left there is not always known before the next one. */
static void
raise_newest(struct muster_batch *batch)
{
    const struct record_change *records = (const struct record_change *)(const void *)batch->records.data;
    size_t count = batch->records.size / sizeof(*records), i;

    for (i = 0; i < count; i++) {
        struct muster_id *newest = &batch->store->newest[records[i].row - muster_records];

        if (memcmp(records[i].id.bytes, newest->bytes, ID_SIZE) > 0)
            *newest = records[i].id;
    }
}

muster_err
muster_batch_commit(struct muster_batch *batch)
{
    struct muster_store *store = batch->store;
    struct totals totals = store->totals;
    uint8_t totals_bytes[TOTALS_SIZE];
    struct engine_change change;
    muster_err err;

    err = plan(batch, &totals);
    if (err == MUSTER_OK && (batch->changes.size || memcmp(&totals, &store->totals, sizeof(totals)) != 0)) {
        totals_write(&totals, totals_bytes);
        change = totals_change(totals_bytes);
        muster_buf_add(&batch->changes, &change, sizeof(change));
        err = store->engine->class->commit(store->engine, (const struct engine_change *)(void *)batch->changes.data,
                                           batch->changes.size / sizeof(change));
        raise_newest(batch);
        if (err == MUSTER_OK)
            totals_adopt(store, &totals);
    }
    clear(batch);
    return err;
}
