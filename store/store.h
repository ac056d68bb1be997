/* SPDX-License-Identifier: MPL-2.0 */
/* What the files of this folder share: the store's struct, the keys of its tables, and the scan over them.
 *
 * META        "epoch" -> 16 hexadecimal digits; "totals" -> struct totals; the engine's own "format"
 * EVENTS      number, 8 bytes big-endian -> msgpack of the event
 * JOB_EVENTS  id of the job -> the set of its events' numbers
 * INDEX       name of the index, 0, text of the field -> the set of the records' ids
 * RECORDS     one table a type: id -> header (below), msgpack of the record */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "store/bytes.h"
#include "store/engine.h"
#include "store/muster_store.h"

/* Event numbers reserved on disk ahead of use.  A commit reserves anew when less than half is left, so half of it may
 * be taken while no commit succeeds: days of events on a full disk.  After a crash the log goes on behind the reserve;
 * 2^30 of 2^53, what a JSON number holds, allows for eight million crashes. */
#define LOG_RESERVE ((int64_t)1 << 30)

#define EPOCH_SIZE 16
#define ID_SIZE 16
#define NUMBER_SIZE 8
#define INDEXES_MAX 8    /* of one record type */
#define INDEX_TEXT 257   /* longest text in an index and its NUL; longer ones end in a digest */
#define NAME_MAX_SIZE 64 /* of an index, with its NUL */
#define KEY_MAX_SIZE (NAME_MAX_SIZE + INDEX_TEXT)

/* Kept with every commit.  Rows are not counted here: the engine knows their number. */
struct totals {
    int64_t reserved;    /* event numbers below this may have been given out */
    int64_t oldest;      /* events before this number were removed */
    int64_t event_bytes; /* of the keys and values of the log */
};

struct muster_store {
    struct muster_engine *engine;
    struct store_options options;
    char epoch[EPOCH_SIZE + 1];
    char mark[EPOCH_SIZE + 20];
    atomic_llong next;    /* the event number to give out next */
    atomic_llong limit;   /* totals.reserved, for all threads */
    pthread_mutex_t lock; /* guards what follows; the writer reads it without, as nobody else changes it */
    struct totals totals;
    uint64_t commits;
    /* The writer's alone: of each record type, an id that none is above, so that new records need not be looked for. */
    struct muster_id newest[ENGINE_RECORD_TYPES];
    const struct muster_field *indexed[ENGINE_RECORD_TYPES][INDEXES_MAX]; /* the fields of their indexes */
};

/* ---- store.c ---- */

#define TOTALS_SIZE 24
/* Totals as they lie in META. */
void totals_write(const struct totals *totals, uint8_t out_bytes[TOTALS_SIZE]);
/* The change of a commit that writes the totals from `bytes`. */
struct engine_change totals_change(const uint8_t bytes[TOTALS_SIZE]);
/* Raise the reserve where less than half is left. */
void totals_reserve(struct muster_store *store, struct totals *totals);
/* These totals are on disk now. */
void totals_adopt(struct muster_store *store, const struct totals *totals);

/* ---- records.c ---- */

/* In front of every record: the version of its row, and the texts it has in its indexes, in the order of the rows, so
 * that its index entries are found again without decoding it.
 * version u8, count u8, then for each a length u16 big-endian and the text. */
struct header {
    int version;
    size_t count;
    struct muster_bytes texts[INDEXES_MAX];
    size_t size; /* of the header itself */
};
/* False when the bytes do not begin with a header.  The texts point into `value`. */
bool header_read(struct muster_bytes value, struct header *out_header);
/* Append the header of a decoded record. */
void header_write(const struct muster_store *store, const struct muster_record_row *row, const void *record,
                  struct muster_buf *out);
/* Fill store->indexed. */
void index_fields(struct muster_store *store);

/* The table of a record type. */
enum engine_table record_table(const struct muster_record_row *row);
/* Write the key of the set for this text into `out_key`; its size. */
size_t index_key(const char *index, struct muster_bytes text, uint8_t out_key[KEY_MAX_SIZE]);

/* ---- batch.c ---- */

/* Remove an event of `size` bytes; `job` zero: it belongs to none. */
void batch_drop(struct muster_batch *batch, int64_t seq, const struct muster_id *job, size_t size);
/* Set what muster_log_oldest answers after the commit. */
void batch_oldest(struct muster_batch *batch, int64_t seq);

/* ---- scan.c: rows of a table one by one, copied a page at a time, with no transaction open in between ---- */

struct scan {
    struct muster_engine *engine;
    enum engine_table table;
    bool backward;
    bool keys_only; /* give out no values; set by the caller after scan_init */
    bool skip_from; /* `from` is a row that was given out already */
    bool ended;     /* the engine has nothing behind the page */
    struct muster_buf prefix, from;
    struct muster_buf page; /* key size, value size, key, value of each row */
    size_t at;              /* next row in the page */
    size_t last;            /* last row of the page */
    size_t rows, room;      /* rows in the page, rows that fit */
};
/* Keys with `prefix`, or members of the set `prefix`, beginning at `from` (empty: at the end of the table or set that
 * the direction begins with). */
void scan_init(struct scan *scan, struct muster_engine *engine, enum engine_table table, struct muster_bytes prefix,
               struct muster_bytes from, bool backward);
/* The next row, valid until the next call.  MUSTER_NOT_FOUND: there are no more. */
muster_err scan_next(struct scan *scan, struct muster_bytes *out_key, struct muster_bytes *out_value);
void scan_fini(struct scan *scan);

#endif
