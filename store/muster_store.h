/* SPDX-License-Identifier: MPL-2.0 */
/* The durable state: typed records with indexes and the event log, on an engine.
 *
 * One thread writes (the store actor): it fills a batch and commits it; everything in a batch reaches the disk together
 * or not at all.  Any thread reads, each call on a snapshot of its own that it does not hold afterwards.
 * Record bytes are the msgpack of their row type; indexes are kept from the rows of records.def. */
#ifndef MUSTER_STORE_H
#define MUSTER_STORE_H

#include "schemas/muster_codec.h"

struct muster_store;
struct muster_engine;

/* Open the data folder `path` (made when missing, mode 0700) on LMDB.  MUSTER_STORAGE_ERROR with `problem` filled when
 * it cannot be used; MUSTER_CONFLICT when another daemon has it open. */
muster_err muster_store_open(const char *path, const struct store_options *options, struct muster_store **out_store,
                             char *problem, size_t problem_size);
void muster_store_close(struct muster_store **store_p);

/* Names this data folder for ever: 16 hexadecimal digits made when it was created; also the log's epoch. */
const char *muster_store_epoch(const struct muster_store *store);
/* Names it on this machine: the epoch and the folder's inode, so that a copy of the folder is another one.  For marking
 * processes.  At most 40 characters, without dots. */
const char *muster_store_mark(const struct muster_store *store);

/* ---- reading: any thread -------------------------------------------------------------------------------------------
 */

/* Decode the record with this id into `out`, a struct of `type`.  MUSTER_NOT_FOUND. */
muster_err muster_store_get(struct muster_store *store, const struct muster_type *type, const struct muster_id *id,
                            struct muster_arena *arena, void *out);

enum muster_order { MUSTER_OLDEST_FIRST, MUSTER_NEWEST_FIRST };
/* Visit records of `type`, in the order of their ids.  `index` NULL: all of them; else only those whose indexed field
 * equals `value` (wire text).  The visitor returns false to end; `record` and `arena` are valid for the call.
 * Between calls of the visitor nothing is locked, so it may take its time: the walk goes on from the last id. */
typedef bool muster_store_visit(void *arg, const void *record, struct muster_arena *arena);
muster_err muster_store_walk(struct muster_store *store, const struct muster_type *type, const char *index,
                             const char *value, enum muster_order order, muster_store_visit *visit, void *arg);
/* Visit the ids of those records only, without reading the records. */
typedef bool muster_store_visit_id(void *arg, const struct muster_id *id);
muster_err muster_store_walk_ids(struct muster_store *store, const struct muster_type *type, const char *index,
                                 const char *value, enum muster_order order, muster_store_visit_id *visit, void *arg);
/* How many records muster_store_walk would visit.  Looks none of them up: the cost does not grow with their number. */
muster_err muster_store_count(struct muster_store *store, const struct muster_type *type, const char *index,
                              const char *value, size_t *out_count);

/* Visit events with a number above `after`, in order; `job` NULL: all jobs. */
typedef bool muster_log_visit(void *arg, const struct event *event);
muster_err muster_log_walk(struct muster_store *store, const struct muster_id *job, int64_t after,
                           muster_log_visit *visit, void *arg);
/* The event with this number. MUSTER_NOT_FOUND when it never was or is no longer kept. */
muster_err muster_log_get(struct muster_store *store, int64_t seq, struct muster_arena *arena, struct event *out_event);
/* Number of the oldest event kept; events before it were removed.  1 when none ever was. */
int64_t muster_log_oldest(struct muster_store *store);
/* The highest number given out; 0 when none ever was.  Any thread, without reading anything. */
int64_t muster_log_last(struct muster_store *store);

/* "epoch-seq". */
#define MUSTER_CURSOR_TEXT 48
void muster_cursor_text(const struct muster_store *store, int64_t seq, char out_text[MUSTER_CURSOR_TEXT]);
/* MUSTER_INVALID_REQUEST: not a cursor; MUSTER_CURSOR_EXPIRED: of another data folder. */
muster_err muster_cursor_parse(const struct muster_store *store, const char *text, int64_t *out_seq);

/* ---- numbering: any thread ------------------------------------------------------------------------------------------
 */

/* The next event number.  Never the same twice, also after a crash: blocks of numbers are reserved on disk ahead. A
 * number may be taken only while muster_store_reserve keeps enough in reserve; beyond that it aborts. */
int64_t muster_log_number(struct muster_store *store);

/* ---- writing: the one writer thread ---------------------------------------------------------------------------------
 */

struct muster_batch;
/* Begin with an empty batch. */
struct muster_batch *muster_batch_new(struct muster_store *store);
void muster_batch_free(struct muster_batch **batch_p);
/* Add the packed record `value` of `type`, replacing what its id had.  MUSTER_INVALID_REQUEST: not a record of that
 * type; the batch is unchanged. */
muster_err muster_batch_put(struct muster_batch *batch, const struct muster_type *type, const void *value, size_t size);
/* Remove the record with the id of `value`; none there is no error. */
muster_err muster_batch_remove(struct muster_batch *batch, const struct muster_type *type, const struct muster_id *id);
/* Add an event that has its number. */
void muster_batch_append(struct muster_batch *batch, const struct event *event);
size_t muster_batch_bytes(const struct muster_batch *batch);
/* Write and sync everything, reserving event numbers ahead on the way; then the batch is empty.  On failure nothing was
 * written, the batch is empty too: MUSTER_STORAGE_FULL (no room), MUSTER_STORAGE_ERROR. */
muster_err muster_batch_commit(struct muster_batch *batch);

/* Remove what is older than the options say as of `now_ms`, at most about `limit` rows in one commit.  Sets *out_more
 * when another call would find more.  The writer thread. */
muster_err muster_store_sweep(struct muster_store *store, int64_t now_ms, size_t limit, bool *out_more);

struct muster_store_stats {
    size_t jobs;
    size_t events;
    int64_t last_seq;
    uint64_t map_bytes;  /* of the memory map */
    uint64_t used_bytes; /* of it in use */
    uint64_t commits;
};
/* Any thread. */
void muster_store_stats(struct muster_store *store, struct muster_store_stats *out_stats);

#endif
