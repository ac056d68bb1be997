/* SPDX-License-Identifier: MPL-2.0 */
/* Closed-loop load on a server: connections that ask, wait for the answer, and ask again.
 *
 * Each connection has a thread of its own; load_run returns when all have ended. */
#ifndef TOOLS_BENCH_LOAD_H
#define TOOLS_BENCH_LOAD_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load {
    const struct addrinfo *address; /* borrowed */
    const char *request;            /* the bytes of one request, with its end */
    bool stream;                    /* the answer does not end: its beginning counts, on a connection each */
    int connections;
    int64_t span_ms;
};

struct load_result {
    double rate;           /* good answers a second */
    double p50_ms, p99_ms; /* of these */
    int64_t good;
    int64_t limited; /* answered 429 */
    int64_t failed;  /* answered otherwise, or not at all */
    int status;      /* the last one that is neither good nor 429; 0: no answer came */
};

/* False: no thread could be started. */
bool load_run(const struct load *load, struct load_result *out);

#endif
