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
    int64_t seq;
    struct muster_id job; /* zero: none */
    size_t at, size;      /* in batch->data */
    bool drop;
};

struct muster_batch {
    struct muster_store *store;
    struct muster_arena *arena; /* decoded records; at the commit the engine's keys */
    struct muster_buf data;     /* packed records with their headers, packed events */
    struct muster_buf records;  /* of struct record_change */
    struct muster_buf events;   /* of struct event_change */
    struct muster_buf changes;  /* of struct engine_change, made by the commit */
    int64_t oldest;             /* 0: leave it as it is */
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

    *batch_p = NULL;
    if (batch == NULL)
        return;
    muster_buf_free(&batch->data);
    muster_buf_free(&batch->records);
    muster_buf_free(&batch->events);
    muster_buf_free(&batch->changes);
    muster_arena_free(&batch->arena);
    free(batch);
}

static void
clear(struct muster_batch *batch)
{
    muster_buf_clear(&batch->data);
    muster_buf_clear(&batch->records);
    muster_buf_clear(&batch->events);
    muster_buf_clear(&batch->changes);
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
    header_write(row, record, &batch->data);
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
    struct event_change change = {.seq = event->seq, .job = event->job, .at = batch->data.size};

    muster_pack(&event_type, event, &batch->data);
    change.size = batch->data.size - change.at;
    muster_buf_add(&batch->events, &change, sizeof(change));
}

void
batch_drop(struct muster_batch *batch, int64_t seq, const struct muster_id *job, size_t size)
{
    struct event_change change = {.seq = seq, .job = *job, .size = size, .drop = true};

    muster_buf_add(&batch->events, &change, sizeof(change));
}

void
batch_oldest(struct muster_batch *batch, int64_t seq)
{
    batch->oldest = seq;
}

/* ---- the engine's changes ---- */

static void
add_change(struct muster_batch *batch, enum engine_verb verb, enum engine_table table, struct muster_bytes key,
           struct muster_bytes value)
{
    struct engine_change change = {.verb = verb, .table = table, .value = value};
    uint8_t *copy = muster_arena_alloc(batch->arena, key.size);

    memcpy(copy, key.data, key.size);
    change.key = bytes_of(copy, key.size);
    muster_buf_add(&batch->changes, &change, sizeof(change));
}

struct stored {
    struct muster_arena *arena;
    struct header header;
    bool found, broken;
};

/* Copies the header only: the value may be large, and is not needed. */
static bool
keep_header(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct stored *stored = arg;
    struct muster_bytes *text;
    size_t i;

    (void)key;
    stored->found = true;
    stored->broken = !header_read(value, &stored->header);
    for (i = 0; !stored->broken && i < stored->header.count; i++) {
        text = &stored->header.texts[i];
        text->data = (const uint8_t *)muster_arena_str(stored->arena, (const char *)text->data, text->size);
    }
    return false;
}

static void
change_index(struct muster_batch *batch, const struct record_change *change, const struct header *before,
             const struct header *after)
{
    const struct muster_index *index;
    uint8_t key[KEY_MAX_SIZE];
    size_t i;

    for (i = 0, index = change->row->indexes; index->name; index++, i++) {
        bool had = i < before->count && before->texts[i].size > 0;
        bool has = i < after->count && after->texts[i].size > 0;

        if (had && has && bytes_compare(before->texts[i], after->texts[i]) == 0)
            continue;
        if (had)
            add_change(batch, ENGINE_DELETE, ENGINE_INDEX,
                       bytes_of(key, index_key(index->name, before->texts[i], &change->id, key)), bytes_of("", 0));
        if (has)
            add_change(batch, ENGINE_PUT, ENGINE_INDEX,
                       bytes_of(key, index_key(index->name, after->texts[i], &change->id, key)), bytes_of("", 0));
    }
}

static muster_err
plan_record(struct muster_batch *batch, const struct record_change *change, struct totals *totals)
{
    struct muster_engine *engine = batch->store->engine;
    struct stored stored = {.arena = batch->arena};
    struct muster_bytes key, value = bytes_of(NULL, 0);
    struct header after = {0};
    uint8_t key_bytes[KEY_MAX_SIZE];
    muster_err err;

    key = bytes_of(key_bytes, record_key(change->row->type, &change->id, key_bytes));
    err = engine->class->range(engine, ENGINE_RECORDS, key, key, false, keep_header, &stored);
    if (err == MUSTER_OK && stored.broken)
        err = MUSTER_STORAGE_ERROR;
    if (err)
        return err;
    if (change->size) {
        value = bytes_of(batch->data.data + change->at, change->size);
        MUSTER_ASSERT(header_read(value, &after));
        add_change(batch, ENGINE_PUT, ENGINE_RECORDS, key, value);
    } else if (stored.found) {
        add_change(batch, ENGINE_DELETE, ENGINE_RECORDS, key, value);
    }
    change_index(batch, change, &stored.header, &after);
    if (change->row->type == &job_type)
        totals->jobs += (change->size ? 1 : 0) - (stored.found ? 1 : 0);
    return MUSTER_OK;
}

static void
plan_event(struct muster_batch *batch, const struct event_change *change, struct totals *totals)
{
    enum engine_verb verb = change->drop ? ENGINE_DELETE : ENGINE_PUT;
    struct muster_bytes value = bytes_of(NULL, 0);
    uint8_t key[ID_SIZE + NUMBER_SIZE];
    int sign = change->drop ? -1 : 1;

    job_event_key(&change->job, change->seq, key);
    if (!change->drop)
        value = bytes_of(batch->data.data + change->at, change->size);
    add_change(batch, verb, ENGINE_EVENTS, bytes_of(key + ID_SIZE, NUMBER_SIZE), value);
    if (!muster_id_is_zero(&change->job))
        add_change(batch, verb, ENGINE_JOB_EVENTS, bytes_of(key, sizeof(key)), bytes_of("", 0));
    totals->events += sign;
    totals->event_bytes += sign * (int64_t)(change->size + NUMBER_SIZE);
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
            err = plan_record(batch, &records[i], totals);
    for (i = 0; i < event_count && err == MUSTER_OK; i++)
        plan_event(batch, &events[i], totals);
    if (batch->oldest > totals->oldest)
        totals->oldest = batch->oldest;
    totals_reserve(batch->store, totals);
    return err;
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
        if (err == MUSTER_OK)
            totals_adopt(store, &totals);
    }
    clear(batch);
    return err;
}
