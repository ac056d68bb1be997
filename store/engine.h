/* SPDX-License-Identifier: MPL-2.0 */
/* What a store engine does: ordered tables of bytes, snapshots for readers, atomic durable batches.
 *
 * A table has rows, each a key and its value; or sets, each a key and its members, which are bytes of one size.
 * Six functions; everything above them (records, indexes, log) knows no engine.  `commit` may be called by one thread
 * at a time, the others by any.  A range calls back with borrowed bytes; its visitor must not call the engine. */
#ifndef STORE_ENGINE_H
#define STORE_ENGINE_H

#include "schemas/muster_codec.h"

/* Of all the tables together; a data folder of another one is refused. */
#define ENGINE_FORMAT 2

#define ENGINE_RECORD_TYPES 16 /* rows of muster_records, at most */

enum engine_table {
    ENGINE_META,
    ENGINE_EVENTS,
    ENGINE_JOB_EVENTS, /* sets */
    ENGINE_INDEX,      /* sets */
    ENGINE_RECORDS,    /* the first of one table for each row of muster_records */
    ENGINE_TABLES = ENGINE_RECORDS + ENGINE_RECORD_TYPES
};

static inline bool
engine_has_sets(enum engine_table table)
{
    return table == ENGINE_JOB_EVENTS || table == ENGINE_INDEX;
}

enum engine_verb { ENGINE_PUT, ENGINE_APPEND, ENGINE_DELETE, ENGINE_EXPECT };

/* One change.  PUT makes or replaces a row; of a table of sets, `value` is the member that is added, or with DELETE
 * removed.  APPEND is PUT of what most likely comes last in its table or its set.  EXPECT makes the commit fail with
 * MUSTER_CONFLICT unless the key has exactly this value (size 0 and data NULL: is absent); not for sets.  Keys are 1 to
 * 500 bytes, members 1 to 64. */
struct engine_change {
    enum engine_verb verb;
    enum engine_table table;
    struct muster_bytes key;
    struct muster_bytes value;
};

struct muster_engine;
typedef bool engine_visit(void *arg, struct muster_bytes key, struct muster_bytes value);

struct engine_class {
    void (*close)(struct muster_engine *engine);
    /* Append the value to `out`.  MUSTER_NOT_FOUND.  Not for sets. */
    muster_err (*get)(struct muster_engine *engine, enum engine_table table, struct muster_bytes key,
                      struct muster_buf *out);
    /* Visit keys from `from` on while they begin with `prefix`, ascending; or, with `backward`, descending from the
     * last key that is not above `from`.  An empty `from` begins at the first, or last, key with the prefix.
     * Of a table of sets, `prefix` is the whole key of a set, and its members are visited as keys without a value. */
    muster_err (*range)(struct muster_engine *engine, enum engine_table table, struct muster_bytes prefix,
                        struct muster_bytes from, bool backward, engine_visit *visit, void *arg);
    /* How many rows the table has, without visiting them; of a table of sets, how many members the set `key` has. */
    muster_err (*count)(struct muster_engine *engine, enum engine_table table, struct muster_bytes key,
                        uint64_t *out_count);
    /* All or nothing, on disk when it returns.  MUSTER_CONFLICT, MUSTER_STORAGE_FULL, MUSTER_STORAGE_ERROR. */
    muster_err (*commit)(struct muster_engine *engine, const struct engine_change *changes, size_t count);
    /* Bytes of address space or quota, and bytes used. */
    void (*size)(struct muster_engine *engine, uint64_t *out_map_bytes, uint64_t *out_used_bytes);
};

struct muster_engine {
    const struct engine_class *class; /* first member of every engine */
};

/* LMDB in folder `path`. */
muster_err engine_lmdb_open(const char *path, uint64_t map_bytes, struct muster_engine **out_engine, char *problem,
                            size_t problem_size);
/* Ordered arrays in memory, nothing durable: for tests. */
struct muster_engine *engine_memory_new(void);

/* A store on an engine of the caller's; takes the engine. */
struct muster_store;
muster_err muster_store_on_engine(struct muster_engine **engine_p, const struct store_options *options,
                                  struct muster_store **out_store);

#endif
