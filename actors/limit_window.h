/* SPDX-License-Identifier: MPL-2.0 */
/* Two ways to count requests, as pure functions of a clock that the caller gives.
 *
 * The log remembers each request of the last window and is exact: no window of that length ever has more than the
 * limit. The bucket needs no memory per request; it lets through a full bucket at once and then as many as flow in. A
 * clock that goes back never makes a caller wait longer than one window.  Nothing here fails. */
#ifndef LIMIT_WINDOW_H
#define LIMIT_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct limit_rate {
    int64_t requests;  /* 1 to 1e9 */
    int64_t window_ms; /* 1 to 86,400,000 */
};

struct limit_verdict {
    bool allowed;
    int64_t left; /* requests that would be let through now */
    /* log: when the oldest request leaves the window, or this one if allowed; bucket: when it is full */
    int64_t reset_ms;
    int64_t retry_ms; /* refused: how long to wait; else 0 */
};

/* Times of the requests in the window, oldest first, in a ring.  Zeroed it is empty. */
struct limit_log {
    int64_t *times;
    size_t capacity; /* grows up to the limit */
    size_t first;
    size_t count;
};
/* Count one request of `cost` (more than the limit counts as the limit), if it is within the rate. */
void limit_log_take(struct limit_log *log, const struct limit_rate *rate, int64_t cost, int64_t now_ms,
                    struct limit_verdict *out_verdict);
void limit_log_free(struct limit_log *log);
/* Number `index` of its times, from 0, the oldest. */
int64_t limit_log_time(const struct limit_log *log, size_t index);
/* Add one that is not before the others. */
void limit_log_add(struct limit_log *log, int64_t time_ms);

/* Zeroed it is full.  A token is `window_ms` units, so that the `requests` units that flow in each ms are whole. */
struct limit_bucket {
    int64_t missing;        /* units until it is full */
    int64_t at_ms;          /* when that was so */
    struct limit_rate rate; /* what the units were counted by */
};
void limit_bucket_take(struct limit_bucket *bucket, const struct limit_rate *rate, int64_t cost, int64_t now_ms,
                       struct limit_verdict *out_verdict);

#endif
