/* SPDX-License-Identifier: MPL-2.0 */
/* Counts of a key to records and back; see limit_keep.h.
 *
 * A record holds what the counting itself goes by, with the times of the clock, so that time passes for it while the
 * server is down, and nothing is rounded. */
#include "actors/limit_keep.h"

#include <string.h>

#define TIME_BYTES 8 /* big-endian unix ms */
#define DAY_MS INT64_C(86400000)
#define MOST_REQUESTS INT64_C(1000000000)

void
limit_count_take(struct limit_count *count, bool bucket, const struct limit_rate *rate, int64_t cost, int64_t now_ms,
                 struct limit_verdict *out_verdict)
{
    if (bucket != count->bucket) {
        limit_count_fini(count);
        count->bucket = bucket;
    }
    count->rate = *rate;
    if (bucket)
        limit_bucket_take(&count->tokens, rate, cost, now_ms, out_verdict);
    else
        limit_log_take(&count->log, rate, cost, now_ms, out_verdict);
}

void
limit_count_fini(struct limit_count *count)
{
    limit_log_free(&count->log);
    *count = (struct limit_count){.bucket = false};
}

/* ---- to a record ---- */

static struct muster_bytes
pack_times(const struct limit_log *log, struct muster_arena *arena)
{
    uint8_t *bytes = muster_arena_alloc(arena, log->count * TIME_BYTES + 1), *at = bytes;
    size_t i;
    int shift;

    for (i = 0; i < log->count; i++)
        for (shift = 56; shift >= 0; shift -= 8)
            *at++ = (uint8_t)((uint64_t)limit_log_time(log, i) >> shift);
    return (struct muster_bytes){bytes, log->count * TIME_BYTES};
}

void
limit_keep_record(const struct limit_count *count, const struct muster_id *key, int64_t now_ms,
                  struct muster_arena *arena, struct rate *out)
{
    *out = (struct rate){.id = *key,
                         .algorithm = limit_algorithm_SLIDING_WINDOW,
                         .requests = count->rate.requests,
                         .window = count->rate.window_ms,
                         .at_ms = now_ms};
    if (!count->bucket) {
        out->times = pack_times(&count->log, arena);
        return;
    }
    out->algorithm = limit_algorithm_TOKEN_BUCKET;
    out->missing = count->tokens.missing;
    out->at_ms = count->tokens.at_ms;
}

/* ---- from a record ---- */

static int64_t
within(int64_t number, int64_t least, int64_t most)
{
    return number < least ? least : number > most ? most : number;
}

static int64_t
read_time(const uint8_t *bytes)
{
    uint64_t number = 0;
    int i;

    for (i = 0; i < TIME_BYTES; i++)
        number = number << 8 | bytes[i];
    return number > INT64_MAX ? INT64_MAX : (int64_t)number;
}

/* Times after now were counted before the clock went back: then they were now, at the latest. */
static bool
load_log(const struct rate *record, int64_t now_ms, struct limit_count *out, int64_t *out_idle_ms)
{
    int64_t start_ms = now_ms - out->rate.window_ms, time_ms, last_ms = start_ms;
    size_t at;

    for (at = 0; at + TIME_BYTES <= record->times.size; at += TIME_BYTES) {
        time_ms = read_time(record->times.data + at);
        if (time_ms <= start_ms)
            continue;
        last_ms = within(time_ms, last_ms, now_ms);
        limit_log_add(&out->log, last_ms);
    }
    *out_idle_ms = last_ms + out->rate.window_ms;
    return out->log.count > 0;
}

static bool
load_bucket(const struct rate *record, int64_t now_ms, struct limit_count *out, int64_t *out_idle_ms)
{
    struct limit_bucket *tokens = &out->tokens;
    int64_t passed_ms;

    tokens->rate = out->rate;
    tokens->at_ms = record->at_ms < now_ms ? record->at_ms : now_ms;
    tokens->missing = within(record->missing, 0, tokens->rate.requests * tokens->rate.window_ms);
    passed_ms = within(now_ms - tokens->at_ms, 0, tokens->rate.window_ms);
    *out_idle_ms = tokens->at_ms + tokens->rate.window_ms;
    return tokens->missing > passed_ms * tokens->rate.requests;
}

bool
limit_keep_load(const struct rate *record, int64_t now_ms, struct limit_count *out, int64_t *out_idle_ms)
{
    struct limit_count count = {
        .bucket = record->algorithm == limit_algorithm_TOKEN_BUCKET,
        .rate = {within(record->requests, 1, MOST_REQUESTS), within(record->window, 1, DAY_MS)}};
    int64_t idle_ms;
    bool counts =
        count.bucket ? load_bucket(record, now_ms, &count, &idle_ms) : load_log(record, now_ms, &count, &idle_ms);

    if (!counts) {
        limit_count_fini(&count);
        return false;
    }
    *out = count;
    *out_idle_ms = idle_ms;
    return true;
}
