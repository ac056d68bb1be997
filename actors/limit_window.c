/* SPDX-License-Identifier: MPL-2.0 */
/* Sliding window log and token bucket; see limit_window.h.  Any thread; nothing fails. */
#include "actors/limit_window.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/muster_buf.h"

#define FIRST_CAPACITY 16

static int64_t
smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t
divide_up(int64_t number, int64_t by)
{
    return (number + by - 1) / by;
}

/* ---- log ------------------------------------------------------------------------------------------------------------
 */

static int64_t *
time_at(const struct limit_log *log, size_t index)
{
    return &log->times[(log->first + index) % log->capacity];
}

/* Requests that seem to come from the future were counted before the clock went back: they happened now at the latest.
 */
static void
pull_back(struct limit_log *log, int64_t now_ms)
{
    size_t i;

    for (i = log->count; i > 0 && *time_at(log, i - 1) > now_ms; i--)
        *time_at(log, i - 1) = now_ms;
}

static void
drop_old(struct limit_log *log, int64_t start_ms)
{
    while (log->count > 0 && *time_at(log, 0) <= start_ms) {
        log->first = (log->first + 1) % log->capacity;
        log->count--;
    }
}

static void
make_room(struct limit_log *log, size_t wanted)
{
    size_t capacity = log->capacity ? log->capacity : FIRST_CAPACITY, i;
    int64_t *times;

    if (wanted <= log->capacity)
        return;
    while (capacity < wanted)
        capacity *= 2;
    times = muster_alloc(capacity * sizeof *times);
    for (i = 0; i < log->count; i++)
        times[i] = *time_at(log, i);
    free(log->times);
    log->times = times;
    log->capacity = capacity;
    log->first = 0;
}

int64_t
limit_log_time(const struct limit_log *log, size_t index)
{
    return *time_at(log, index);
}

void
limit_log_add(struct limit_log *log, int64_t time_ms)
{
    make_room(log, log->count + 1);
    log->count++;
    *time_at(log, log->count - 1) = time_ms;
}

void
limit_log_take(struct limit_log *log, const struct limit_rate *rate, int64_t cost, int64_t now_ms,
               struct limit_verdict *out_verdict)
{
    int64_t count, over;

    cost = smaller(cost, rate->requests);
    pull_back(log, now_ms);
    drop_old(log, now_ms - rate->window_ms);
    count = (int64_t)log->count;
    over = count + cost - rate->requests;
    if (over > 0) {
        *out_verdict = (struct limit_verdict){
            .left = count < rate->requests ? rate->requests - count : 0,
            .reset_ms = *time_at(log, 0) + rate->window_ms,
            .retry_ms = *time_at(log, (size_t)over - 1) + rate->window_ms - now_ms,
        };
        return;
    }
    make_room(log, (size_t)(count + cost));
    for (; log->count < (size_t)(count + cost); log->count++)
        *time_at(log, log->count) = now_ms;
    *out_verdict = (struct limit_verdict){
        .allowed = true, .left = rate->requests - count - cost, .reset_ms = now_ms + rate->window_ms};
}

void
limit_log_free(struct limit_log *log)
{
    free(log->times);
    *log = (struct limit_log){0};
}

/* ---- bucket ---------------------------------------------------------------------------------------------------------
 */

/* Let flow in what the time since the last call gives; no product exceeds 1e9 * 86,400,000. */
static void
fill(struct limit_bucket *bucket, int64_t now_ms)
{
    int64_t passed = now_ms > bucket->at_ms ? now_ms - bucket->at_ms : 0;

    passed = smaller(passed, bucket->rate.window_ms);
    bucket->missing -= smaller(bucket->missing, passed * bucket->rate.requests);
    bucket->at_ms = now_ms;
}

/* Another rate: the tokens that were taken and have not flowed back stay taken. */
static void
convert(struct limit_bucket *bucket, const struct limit_rate *rate)
{
    int64_t tokens;

    if (bucket->rate.requests == rate->requests && bucket->rate.window_ms == rate->window_ms)
        return;
    tokens = bucket->missing > 0 ? divide_up(bucket->missing, bucket->rate.window_ms) : 0;
    bucket->missing = smaller(tokens, rate->requests) * rate->window_ms;
    bucket->rate = *rate;
}

void
limit_bucket_take(struct limit_bucket *bucket, const struct limit_rate *rate, int64_t cost, int64_t now_ms,
                  struct limit_verdict *out_verdict)
{
    int64_t units, capacity = rate->requests * rate->window_ms, there;

    fill(bucket, now_ms);
    convert(bucket, rate);
    units = smaller(cost, rate->requests) * rate->window_ms;
    there = capacity - bucket->missing;
    *out_verdict = (struct limit_verdict){.allowed = units <= there};
    if (out_verdict->allowed)
        bucket->missing += units;
    else
        out_verdict->retry_ms = divide_up(units - there, rate->requests);
    out_verdict->left = (capacity - bucket->missing) / rate->window_ms;
    out_verdict->reset_ms = now_ms + divide_up(bucket->missing, rate->requests);
}
