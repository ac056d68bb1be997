/* SPDX-License-Identifier: MPL-2.0 */
/* The engine in memory: one sorted array a table, nothing durable; for tests of what stands above the engines.
 * A member of a set is a row without a value, whose key is that of the set, with its size in front, and the member.
 * Any thread; one mutex is held for the whole of every call, the visitor's of a range included.  Nothing but a missed
 * expectation can fail. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/muster_buf.h"
#include "store/bytes.h"
#include "store/engine.h"

struct row {
    uint8_t *key; /* NULL: no row */
    uint8_t *value;
    size_t key_size, value_size;
};

struct table {
    struct row *rows; /* sorted by key */
    size_t count, capacity;
};

struct memory_engine {
    struct muster_engine base;
    pthread_mutex_t lock;
    struct table tables[ENGINE_TABLES];
};

static struct memory_engine *
memory_of(struct muster_engine *engine)
{
    return (struct memory_engine *)engine;
}

static struct muster_bytes
key_of(const struct row *row)
{
    return bytes_of(row->key, row->key_size);
}

static uint8_t *
copy_of(struct muster_bytes bytes)
{
    uint8_t *copy = muster_alloc(bytes.size + 1); /* never of size 0 */

    if (bytes.size)
        memcpy(copy, bytes.data, bytes.size);
    return copy;
}

/* Of a row of `table` with this key; of a set, of the member, or, without one, what its members have in front. */
static struct muster_buf
full_key(enum engine_table table, struct muster_bytes key, struct muster_bytes member)
{
    const uint8_t size[2] = {(uint8_t)(key.size >> 8), (uint8_t)key.size};
    struct muster_buf full = {0};

    if (engine_has_sets(table))
        muster_buf_add(&full, size, sizeof(size));
    muster_buf_add(&full, key.data, key.size);
    if (engine_has_sets(table))
        muster_buf_add(&full, member.data, member.size);
    return full;
}

static struct muster_bytes
bytes_in(const struct muster_buf *buf)
{
    return bytes_of(buf->data, buf->size);
}

static void
free_row(struct row row)
{
    free(row.key);
    free(row.value);
}

/* Position of the first row that is not below `key`; with `after_prefix`, of the first behind those that begin with
 * it. */
static size_t
seek(const struct table *table, struct muster_bytes key, bool after_prefix)
{
    size_t low = 0, high = table->count, middle;

    while (low < high) {
        struct muster_bytes found;

        middle = low + (high - low) / 2;
        found = key_of(&table->rows[middle]);
        if (bytes_compare(found, key) < 0 || (after_prefix && bytes_begin_with(found, key)))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t
position(const struct table *table, struct muster_bytes key)
{
    return seek(table, key, false);
}

static struct row *
find(const struct table *table, struct muster_bytes key)
{
    size_t at = position(table, key);

    if (at == table->count || bytes_compare(key_of(&table->rows[at]), key) != 0)
        return NULL;
    return &table->rows[at];
}

/* Put the row in; returns the one it replaces. */
static struct row
place(struct table *table, struct row row)
{
    struct row *found = find(table, key_of(&row));
    struct row old = {0};
    size_t at;

    if (found) {
        old = *found;
        *found = row;
        return old;
    }
    if (table->count == table->capacity) {
        table->capacity = table->capacity ? table->capacity * 2 : 16;
        table->rows = muster_realloc(table->rows, table->capacity * sizeof(row));
    }
    at = position(table, key_of(&row));
    memmove(&table->rows[at + 1], &table->rows[at], (table->count - at) * sizeof(row));
    table->rows[at] = row;
    table->count++;
    return old;
}

/* Take the row with this key out. */
static struct row
take(struct table *table, struct muster_bytes key)
{
    struct row *found = find(table, key);
    struct row old = {0};
    size_t at;

    if (found == NULL)
        return old;
    old = *found;
    at = (size_t)(found - table->rows);
    memmove(found, found + 1, (table->count - at - 1) * sizeof(old));
    table->count--;
    return old;
}

static bool
expectation_met(const struct table *table, const struct engine_change *change)
{
    const struct row *row = find(table, change->key);

    if (row == NULL || change->value.data == NULL)
        return row == NULL && change->value.data == NULL;
    return bytes_compare(bytes_of(row->value, row->value_size), change->value) == 0;
}

static struct row
apply(struct table *table, const struct engine_change *change)
{
    struct muster_buf key = full_key(change->table, change->key, change->value);
    struct muster_bytes value = engine_has_sets(change->table) ? bytes_of(NULL, 0) : change->value;
    struct row row = {.key_size = key.size, .value_size = value.size};

    if (change->verb == ENGINE_DELETE) {
        row = take(table, bytes_in(&key));
        muster_buf_free(&key);
        return row;
    }
    row.key = (uint8_t *)muster_buf_take(&key, NULL);
    row.value = copy_of(value);
    return place(table, row);
}

static void
undo(struct memory_engine *self, const struct engine_change *change, struct row old)
{
    struct muster_buf key = full_key(change->table, change->key, change->value);
    struct table *table = &self->tables[change->table];

    if (change->verb != ENGINE_EXPECT)
        free_row(old.key ? place(table, old) : take(table, bytes_in(&key)));
    muster_buf_free(&key);
}

static muster_err
memory_commit(struct muster_engine *engine, const struct engine_change *changes, size_t count)
{
    struct memory_engine *self = memory_of(engine);
    struct row *olds = muster_alloc((count + 1) * sizeof(*olds));
    muster_err err = MUSTER_OK;
    size_t done, i;

    pthread_mutex_lock(&self->lock);
    for (done = 0; done < count; done++) {
        struct table *table = &self->tables[changes[done].table];

        if (changes[done].verb != ENGINE_EXPECT) {
            olds[done] = apply(table, &changes[done]);
        } else if (!expectation_met(table, &changes[done])) {
            err = MUSTER_CONFLICT;
            break;
        }
    }
    if (err)
        while (done > 0) {
            done--;
            undo(self, &changes[done], olds[done]);
        }
    else
        for (i = 0; i < count; i++)
            free_row(olds[i]);
    pthread_mutex_unlock(&self->lock);
    free(olds);
    return err;
}

static muster_err
memory_get(struct muster_engine *engine, enum engine_table table, struct muster_bytes key, struct muster_buf *out)
{
    struct memory_engine *self = memory_of(engine);
    const struct row *row;

    pthread_mutex_lock(&self->lock);
    row = find(&self->tables[table], key);
    if (row)
        muster_buf_add(out, row->value, row->value_size);
    pthread_mutex_unlock(&self->lock);
    return row ? MUSTER_OK : MUSTER_NOT_FOUND;
}

/* Rows below this position are not above `from`; for an empty `from`, not above the last key with the prefix. */
static size_t
end_of(const struct table *table, struct muster_bytes prefix, struct muster_bytes from)
{
    size_t at;

    if (from.size == 0)
        return seek(table, prefix, true);
    at = position(table, from);
    if (at < table->count && bytes_compare(key_of(&table->rows[at]), from) == 0)
        at++;
    return at;
}

/* A range at work. */
struct walk {
    struct muster_bytes prefix;
    size_t hidden; /* bytes in front of a member that are the set's */
    engine_visit *visit;
    void *arg;
};

static bool
visit_row(const struct walk *walk, const struct row *row)
{
    return bytes_begin_with(key_of(row), walk->prefix) &&
           walk->visit(walk->arg, bytes_of(row->key + walk->hidden, row->key_size - walk->hidden),
                       bytes_of(row->value, row->value_size));
}

static muster_err
memory_range(struct muster_engine *engine, enum engine_table table_id, struct muster_bytes prefix,
             struct muster_bytes from, bool backward, engine_visit *visit, void *arg)
{
    struct memory_engine *self = memory_of(engine);
    const struct table *table = &self->tables[table_id];
    struct muster_buf first = full_key(table_id, prefix, bytes_of(NULL, 0)), begin = {0};
    struct walk walk = {.prefix = bytes_in(&first), .visit = visit, .arg = arg};
    size_t at;

    if (engine_has_sets(table_id))
        walk.hidden = first.size;
    if (from.size > 0)
        begin = full_key(table_id, engine_has_sets(table_id) ? prefix : from, from);
    pthread_mutex_lock(&self->lock);
    if (backward)
        for (at = end_of(table, walk.prefix, bytes_in(&begin)); at > 0 && visit_row(&walk, &table->rows[at - 1]); at--)
            ;
    else
        for (at = position(table, begin.size ? bytes_in(&begin) : walk.prefix);
             at < table->count && visit_row(&walk, &table->rows[at]); at++)
            ;
    pthread_mutex_unlock(&self->lock);
    muster_buf_free(&first);
    muster_buf_free(&begin);
    return MUSTER_OK;
}

static muster_err
memory_count(struct muster_engine *engine, enum engine_table table_id, struct muster_bytes key, uint64_t *out_count)
{
    struct memory_engine *self = memory_of(engine);
    const struct table *table = &self->tables[table_id];
    struct muster_buf first = full_key(table_id, key, bytes_of(NULL, 0));

    pthread_mutex_lock(&self->lock);
    if (engine_has_sets(table_id))
        *out_count = seek(table, bytes_in(&first), true) - position(table, bytes_in(&first));
    else
        *out_count = table->count;
    pthread_mutex_unlock(&self->lock);
    muster_buf_free(&first);
    return MUSTER_OK;
}

static void
memory_size(struct muster_engine *engine, uint64_t *out_map_bytes, uint64_t *out_used_bytes)
{
    struct memory_engine *self = memory_of(engine);
    uint64_t bytes = 0;
    size_t table, i;

    pthread_mutex_lock(&self->lock);
    for (table = 0; table < ENGINE_TABLES; table++)
        for (i = 0; i < self->tables[table].count; i++)
            bytes += self->tables[table].rows[i].key_size + self->tables[table].rows[i].value_size;
    pthread_mutex_unlock(&self->lock);
    *out_map_bytes = bytes;
    *out_used_bytes = bytes;
}

static void
memory_close(struct muster_engine *engine)
{
    struct memory_engine *self = memory_of(engine);
    size_t table, i;

    for (table = 0; table < ENGINE_TABLES; table++) {
        for (i = 0; i < self->tables[table].count; i++)
            free_row(self->tables[table].rows[i]);
        free(self->tables[table].rows);
    }
    pthread_mutex_destroy(&self->lock);
    free(self);
}

struct muster_engine *
engine_memory_new(void)
{
    static const struct engine_class class = {memory_close, memory_get,    memory_range,
                                              memory_count, memory_commit, memory_size};
    struct memory_engine *self = muster_alloc(sizeof(*self));

    self->base.class = &class;
    pthread_mutex_init(&self->lock, NULL);
    return &self->base;
}
