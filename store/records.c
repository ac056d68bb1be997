/* SPDX-License-Identifier: MPL-2.0 */
/* Records: their keys, the header in front of their bytes, and reading them by id, by index and in order.
 * Any thread.  Bytes on disk that do not decode, or are of a newer version, are MUSTER_STORAGE_ERROR. */
#include <stdlib.h>

#include "store/store.h"

#define PLAIN_TEXT 255 /* longer texts are cut and end in their digest, so that equality holds for any length */
#define CUT_TEXT 192

/* ---- tables and keys ---- */

enum engine_table
record_table(const struct muster_record_row *row)
{
    return (enum engine_table)(ENGINE_RECORDS + (row - muster_records));
}

size_t
index_key(const char *index, struct muster_bytes text, uint8_t out_key[KEY_MAX_SIZE])
{
    size_t size = strlen(index) + 1;

    MUSTER_ASSERT(size <= NAME_MAX_SIZE);
    memcpy(out_key, index, size);
    if (text.size)
        memcpy(out_key + size, text.data, text.size);
    return size + text.size;
}

/* ---- index texts ---- */

/* The text as it stands in an index: itself, or what `room` is filled with. */
static struct muster_bytes
index_text(const char *text, char room[INDEX_TEXT])
{
    size_t size = strlen(text);
    uint8_t digest[MUSTER_DIGEST];

    if (size <= PLAIN_TEXT)
        return bytes_of(text, size);
    memcpy(room, text, CUT_TEXT);
    muster_sha256(text, size, digest);
    muster_hex(digest, sizeof(digest), room + CUT_TEXT);
    return bytes_of(room, strlen(room));
}

void
index_fields(struct muster_store *store)
{
    const struct muster_record_row *row;
    const struct muster_field *field;
    size_t i;

    for (row = muster_records; row->type; row++)
        for (i = 0; row->indexes[i].name; i++) {
            field = muster_field_find(row->type, row->indexes[i].field);
            MUSTER_ASSERT(row - muster_records < ENGINE_RECORD_TYPES && i < INDEXES_MAX && field);
            MUSTER_ASSERT(field->kind == MUSTER_KIND_STR || field->kind == MUSTER_KIND_CHOICE);
            store->indexed[row - muster_records][i] = field;
        }
}

/* The value of the indexed field as text; a field that is not given is the empty text, which is not indexed. */
static const char *
field_text(const struct muster_field *field, const void *record)
{
    const void *at = (const char *)record + field->offset;
    const char *text = NULL;
    int choice;

    if (field->kind == MUSTER_KIND_CHOICE) {
        memcpy(&choice, at, sizeof(choice));
        text = muster_enum_wire(field->choice, choice);
    } else {
        memcpy(&text, at, sizeof(text));
    }
    return text ? text : "";
}

/* NULL for NULL. */
static const struct muster_index *
find_index(const struct muster_record_row *row, const char *name)
{
    const struct muster_index *index;

    if (name == NULL)
        return NULL;
    for (index = row->indexes; index->name && strcmp(index->name, name) != 0; index++)
        ;
    MUSTER_ASSERT(index->name != NULL);
    return index;
}

/* ---- header ---- */

bool
header_read(struct muster_bytes value, struct header *out_header)
{
    struct header header = {0};
    size_t i, size;

    if (value.size < 2 || value.data[1] > INDEXES_MAX)
        return false;
    header.version = value.data[0];
    header.count = value.data[1];
    header.size = 2;
    for (i = 0; i < header.count; i++) {
        if (value.size - header.size < 2)
            return false;
        size = (size_t)value.data[header.size] << 8 | value.data[header.size + 1];
        header.size += 2;
        if (size >= INDEX_TEXT || value.size - header.size < size)
            return false;
        header.texts[i] = bytes_of(value.data + header.size, size);
        header.size += size;
    }
    *out_header = header;
    return true;
}

void
header_write(const struct muster_store *store, const struct muster_record_row *row, const void *record,
             struct muster_buf *out)
{
    const struct muster_field *const *fields = store->indexed[row - muster_records];
    uint8_t head[2] = {(uint8_t)row->version, 0};
    struct muster_bytes text;
    char room[INDEX_TEXT];
    size_t i;

    while (row->indexes[head[1]].name)
        head[1]++;
    muster_buf_add(out, head, sizeof(head));
    for (i = 0; row->indexes[i].name; i++) {
        text = index_text(field_text(fields[i], record), room);
        head[0] = (uint8_t)(text.size >> 8);
        head[1] = (uint8_t)text.size;
        muster_buf_add(out, head, sizeof(head));
        muster_buf_add(out, text.data, text.size);
    }
}

/* ---- reading ---- */

static muster_err
decode(const struct muster_record_row *row, struct muster_bytes value, struct muster_arena *arena, void *out)
{
    struct header header;

    if (!header_read(value, &header) || header.version > row->version)
        return MUSTER_STORAGE_ERROR;
    if (muster_unpack(row->type, value.data + header.size, value.size - header.size, arena, out, NULL) != MUSTER_OK)
        return MUSTER_STORAGE_ERROR;
    return MUSTER_OK;
}

static const struct muster_record_row *
row_of(const struct muster_type *type)
{
    const struct muster_record_row *row = muster_record_row(type);

    MUSTER_ASSERT(row != NULL);
    return row;
}

muster_err
muster_store_get(struct muster_store *store, const struct muster_type *type, const struct muster_id *id,
                 struct muster_arena *arena, void *out)
{
    const struct muster_record_row *row = row_of(type);
    struct muster_buf value = {0};
    muster_err err;

    err = store->engine->class->get(store->engine, record_table(row), bytes_of(id->bytes, ID_SIZE), &value);
    if (err == MUSTER_OK)
        err = decode(row, bytes_of(value.data, value.size), arena, out);
    muster_buf_free(&value);
    return err;
}

/* ---- walking ---- */

struct walk {
    struct muster_store *store;
    const struct muster_record_row *row;
    const struct muster_field *indexed; /* NULL: all records */
    const char *value;
    muster_store_visit *visit;
    void *arg;
    struct muster_arena *arena;
    void *record;
};

/* The record with this id.  It may have been removed or changed since the page was read: then it is left out. */
static muster_err
read_indexed(const struct walk *walk, struct muster_bytes member, bool *out_there)
{
    const struct muster_type *type = walk->row->type;
    struct muster_id id;
    muster_err err;

    if (member.size != ID_SIZE)
        return MUSTER_STORAGE_ERROR;
    memcpy(id.bytes, member.data, ID_SIZE);
    err = muster_store_get(walk->store, type, &id, walk->arena, walk->record);
    if (err == MUSTER_NOT_FOUND) {
        *out_there = false;
        return MUSTER_OK;
    }
    if (err == MUSTER_OK)
        *out_there = strcmp(field_text(walk->indexed, walk->record), walk->value) == 0;
    return err;
}

static muster_err
walk_rows(struct walk *walk, struct scan *scan)
{
    struct muster_bytes key, value;
    bool there, more = true;
    muster_err err;

    while (more) {
        err = scan_next(scan, &key, &value);
        if (err)
            return err == MUSTER_NOT_FOUND ? MUSTER_OK : err;
        muster_arena_clear(walk->arena);
        there = true;
        if (walk->indexed)
            err = read_indexed(walk, key, &there);
        else
            err = decode(walk->row, value, walk->arena, walk->record);
        if (err)
            return err;
        if (there)
            more = walk->visit(walk->arg, walk->record, walk->arena);
    }
    return MUSTER_OK;
}

/* The set of an index that has the ids; or, without an index, the table that has the records. */
struct place {
    enum engine_table table;
    size_t size;
    uint8_t key[KEY_MAX_SIZE];
};

static struct place
place_of(const struct muster_record_row *row, const struct muster_index *index, const char *value)
{
    struct place place = {.table = index ? ENGINE_INDEX : record_table(row)};
    char room[INDEX_TEXT];

    if (index)
        place.size = index_key(index->name, index_text(value ? value : "", room), place.key);
    return place;
}

static void
scan_place(struct scan *scan, struct muster_store *store, const struct place *place, enum muster_order order)
{
    scan_init(scan, store->engine, place->table, bytes_of(place->key, place->size), bytes_of(NULL, 0),
              order == MUSTER_NEWEST_FIRST);
}

muster_err
muster_store_walk(struct muster_store *store, const struct muster_type *type, const char *index, const char *value,
                  enum muster_order order, muster_store_visit *visit, void *arg)
{
    struct walk walk = {.store = store, .row = row_of(type), .value = value ? value : "", .visit = visit, .arg = arg};
    const struct muster_index *by = find_index(walk.row, index);
    struct place place = place_of(walk.row, by, value);
    struct scan scan;
    muster_err err;

    if (by)
        walk.indexed = store->indexed[walk.row - muster_records][by - walk.row->indexes];
    walk.arena = muster_arena_new();
    walk.record = muster_alloc(type->size);
    scan_place(&scan, store, &place, order);
    err = walk_rows(&walk, &scan);
    scan_fini(&scan);
    free(walk.record);
    muster_arena_free(&walk.arena);
    return err;
}

muster_err
muster_store_walk_ids(struct muster_store *store, const struct muster_type *type, const char *index, const char *value,
                      enum muster_order order, muster_store_visit_id *visit, void *arg)
{
    const struct muster_record_row *row = row_of(type);
    struct place place = place_of(row, find_index(row, index), value);
    struct muster_bytes key, none;
    struct muster_id id;
    struct scan scan;
    bool more = true;
    muster_err err = MUSTER_OK;

    scan_place(&scan, store, &place, order);
    scan.keys_only = true;
    while (more && (err = scan_next(&scan, &key, &none)) == MUSTER_OK) {
        if (key.size != ID_SIZE) {
            err = MUSTER_STORAGE_ERROR;
            break;
        }
        memcpy(id.bytes, key.data, ID_SIZE);
        more = visit(arg, &id);
    }
    scan_fini(&scan);
    return err == MUSTER_NOT_FOUND ? MUSTER_OK : err;
}

muster_err
muster_store_count(struct muster_store *store, const struct muster_type *type, const char *index, const char *value,
                   size_t *out_count)
{
    const struct muster_record_row *row = row_of(type);
    struct place place = place_of(row, find_index(row, index), value);
    uint64_t count;
    muster_err err;

    err = store->engine->class->count(store->engine, place.table, bytes_of(place.key, place.size), &count);
    if (err == MUSTER_OK)
        *out_count = (size_t)count;
    return err;
}
