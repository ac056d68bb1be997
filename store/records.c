/* SPDX-License-Identifier: MPL-2.0 */
/* Records: their keys, the header in front of their bytes, and reading them by id, by index and in order.
 * Any thread.  Bytes on disk that do not decode, or are of a newer version, are MUSTER_STORAGE_ERROR. */
#include <stdlib.h>

#include "store/store.h"

#define PLAIN_TEXT 255 /* longer texts are cut and end in their digest, so that equality holds for any length */
#define CUT_TEXT 192

/* ---- keys ---- */

static size_t
name_write(const char *name, uint8_t *out_key)
{
    size_t size = strlen(name) + 1;

    MUSTER_ASSERT(size <= NAME_MAX_SIZE);
    memcpy(out_key, name, size);
    return size;
}

size_t
record_key(const struct muster_type *type, const struct muster_id *id, uint8_t out_key[KEY_MAX_SIZE])
{
    size_t size = name_write(type->wire, out_key);

    memcpy(out_key + size, id->bytes, ID_SIZE);
    return size + ID_SIZE;
}

/* Everything of an index key before the id. */
static size_t
index_prefix(const char *index, struct muster_bytes text, uint8_t out_key[KEY_MAX_SIZE])
{
    size_t size = name_write(index, out_key);

    if (text.size)
        memcpy(out_key + size, text.data, text.size);
    size += text.size;
    out_key[size++] = '\0';
    return size;
}

size_t
index_key(const char *index, struct muster_bytes text, const struct muster_id *id, uint8_t out_key[KEY_MAX_SIZE])
{
    size_t size = index_prefix(index, text, out_key);

    memcpy(out_key + size, id->bytes, ID_SIZE);
    return size + ID_SIZE;
}

/* ---- index texts ---- */

static void
index_text(const char *text, char out_text[INDEX_TEXT])
{
    size_t size = strlen(text);
    uint8_t digest[MUSTER_DIGEST];

    if (size <= PLAIN_TEXT) {
        memcpy(out_text, text, size + 1);
        return;
    }
    memcpy(out_text, text, CUT_TEXT);
    muster_sha256(text, size, digest);
    muster_hex(digest, sizeof(digest), out_text + CUT_TEXT);
}

/* The value of the indexed field as text; a field that is not given is the empty text, which is not indexed. */
static const char *
field_text(const struct muster_type *type, const struct muster_index *index, const void *record)
{
    const struct muster_field *field = muster_field_find(type, index->field);
    const char *text = NULL;
    const void *at;
    int choice;

    MUSTER_ASSERT(field != NULL && (field->kind == MUSTER_KIND_STR || field->kind == MUSTER_KIND_CHOICE));
    at = (const char *)record + field->offset;
    if (field->kind == MUSTER_KIND_CHOICE) {
        memcpy(&choice, at, sizeof(choice));
        text = muster_enum_wire(field->choice, choice);
    } else {
        memcpy(&text, at, sizeof(text));
    }
    return text ? text : "";
}

static const struct muster_index *
find_index(const struct muster_record_row *row, const char *name)
{
    const struct muster_index *index;

    for (index = row->indexes; index->name; index++)
        if (strcmp(index->name, name) == 0)
            return index;
    return NULL;
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
header_write(const struct muster_record_row *row, const void *record, struct muster_buf *out)
{
    const struct muster_index *index;
    char text[INDEX_TEXT];
    uint8_t head[2] = {(uint8_t)row->version, 0};
    size_t size;

    for (index = row->indexes; index->name; index++)
        head[1]++;
    MUSTER_ASSERT(head[1] <= INDEXES_MAX);
    muster_buf_add(out, head, sizeof(head));
    for (index = row->indexes; index->name; index++) {
        index_text(field_text(row->type, index, record), text);
        size = strlen(text);
        head[0] = (uint8_t)(size >> 8);
        head[1] = (uint8_t)size;
        muster_buf_add(out, head, sizeof(head));
        muster_buf_add(out, text, size);
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
    struct muster_buf value = {0};
    uint8_t key[KEY_MAX_SIZE];
    muster_err err;

    err = store->engine->class->get(store->engine, ENGINE_RECORDS, bytes_of(key, record_key(type, id, key)), &value);
    if (err == MUSTER_OK)
        err = decode(row_of(type), bytes_of(value.data, value.size), arena, out);
    muster_buf_free(&value);
    return err;
}

/* ---- walking ---- */

struct walk {
    struct muster_store *store;
    const struct muster_record_row *row;
    const struct muster_index *index; /* NULL: all records */
    const char *value;
    muster_store_visit *visit;
    void *arg;
    struct muster_arena *arena;
    void *record;
};

/* A record with this id in its index key.  It may have been removed or changed since the page was read: then it is
 * left out. */
static muster_err
read_indexed(const struct walk *walk, struct muster_bytes key, bool *out_there)
{
    const struct muster_type *type = walk->row->type;
    struct muster_id id;
    muster_err err;

    if (key.size < ID_SIZE)
        return MUSTER_STORAGE_ERROR;
    memcpy(id.bytes, key.data + key.size - ID_SIZE, ID_SIZE);
    err = muster_store_get(walk->store, type, &id, walk->arena, walk->record);
    if (err == MUSTER_NOT_FOUND) {
        *out_there = false;
        return MUSTER_OK;
    }
    if (err == MUSTER_OK)
        *out_there = strcmp(field_text(type, walk->index, walk->record), walk->value) == 0;
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
        if (walk->index)
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

/* What all keys of a walk begin with, and in which table they are. */
static size_t
walk_prefix(const struct muster_record_row *row, const struct muster_index *index, const char *value,
            uint8_t out_key[KEY_MAX_SIZE], enum engine_table *out_table)
{
    char text[INDEX_TEXT];

    *out_table = index ? ENGINE_INDEX : ENGINE_RECORDS;
    if (index == NULL)
        return name_write(row->type->wire, out_key);
    index_text(value, text);
    return index_prefix(index->name, bytes_of(text, strlen(text)), out_key);
}

muster_err
muster_store_walk(struct muster_store *store, const struct muster_type *type, const char *index, const char *value,
                  enum muster_order order, muster_store_visit *visit, void *arg)
{
    struct walk walk = {.store = store, .row = row_of(type), .value = value ? value : "", .visit = visit, .arg = arg};
    uint8_t prefix[KEY_MAX_SIZE];
    enum engine_table table;
    struct scan scan;
    size_t size;
    muster_err err;

    walk.index = index ? find_index(walk.row, index) : NULL;
    MUSTER_ASSERT(index == NULL || walk.index != NULL);
    walk.arena = muster_arena_new();
    walk.record = muster_alloc(type->size);
    size = walk_prefix(walk.row, walk.index, walk.value, prefix, &table);
    scan_init(&scan, store->engine, table, bytes_of(prefix, size), bytes_of(NULL, 0), order == MUSTER_NEWEST_FIRST);
    err = walk_rows(&walk, &scan);
    scan_fini(&scan);
    free(walk.record);
    muster_arena_free(&walk.arena);
    return err;
}

static bool
count_row(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    size_t *count = arg;

    (void)key;
    (void)value;
    ++*count;
    return true;
}

muster_err
muster_store_count(struct muster_store *store, const struct muster_type *type, const char *index, const char *value,
                   size_t *out_count)
{
    const struct muster_record_row *row = row_of(type);
    const struct muster_index *by = index ? find_index(row, index) : NULL;
    uint8_t prefix[KEY_MAX_SIZE];
    enum engine_table table;
    size_t size, count = 0;
    muster_err err;

    MUSTER_ASSERT(index == NULL || by != NULL);
    size = walk_prefix(row, by, value ? value : "", prefix, &table);
    err = store->engine->class->range(store->engine, table, bytes_of(prefix, size), bytes_of(NULL, 0), false, count_row,
                                      &count);
    if (err == MUSTER_OK)
        *out_count = count;
    return err;
}
