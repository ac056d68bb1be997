/* SPDX-License-Identifier: MPL-2.0 */
/* What was counted of one key, and its record on disk.  The limiter's thread; nothing here fails. */
#ifndef ACTORS_LIMIT_KEEP_H
#define ACTORS_LIMIT_KEEP_H

#include "actors/limit_window.h"
#include "schemas/muster_codec.h"

struct limit_count {
    bool bucket;            /* which of the two below counts */
    struct limit_rate rate; /* it was last counted by */
    struct limit_log log;
    struct limit_bucket tokens;
};

/* Count a request; by another algorithm than before it is counted afresh. */
void limit_count_take(struct limit_count *count, bool bucket, const struct limit_rate *rate, int64_t cost,
                      int64_t now_ms, struct limit_verdict *out_verdict);
void limit_count_fini(struct limit_count *count);

/* The record of the key, as it is at `now_ms`.  Its times go to the arena. */
void limit_keep_record(const struct limit_count *count, const struct muster_id *key, int64_t now_ms,
                       struct muster_arena *arena, struct rate *out);
/* The count from a record, as if there had been no pause.  *out_idle_ms: when nothing of it counts any more.  False:
 * nothing does at `now_ms`.  Whatever is in the record, no caller waits longer than a window because of it. */
bool limit_keep_load(const struct rate *record, int64_t now_ms, struct limit_count *out, int64_t *out_idle_ms);

#endif
