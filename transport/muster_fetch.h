/* SPDX-License-Identifier: MPL-2.0 */
/* Outbound HTTP on libcurl: many requests at a time on a loop, or one request on the caller's thread.
 *
 * Redirects are never followed.  Unless allowed, no connection is made to loopback, private, link-local or otherwise
 * special addresses; the address is checked when the connection is opened, after the name was resolved. */
#ifndef MUSTER_FETCH_H
#define MUSTER_FETCH_H

#include "schemas/muster_schema.h"
#include "transport/muster_loop.h"

struct muster_fetch_spec {
    const char *method; /* "POST" */
    const char *url;    /* http or https */
    const struct muster_pair *headers;
    size_t header_count;
    const void *body; /* NULL: none */
    size_t body_size;
    int64_t timeout_ms; /* for everything; 0: none */
    size_t max_answer;  /* bytes of the answer kept by muster_fetch; more are thrown away */
    bool allow_private; /* any address will do */
};

struct muster_fetch_result {
    long status;           /* HTTP status; 0: no answer came, `problem` says why */
    int64_t retry_after_s; /* from Retry-After, seconds or date; -1: none */
    const char *problem;   /* one sentence; "" when an answer came */
    const char *body;      /* NUL-terminated */
    size_t body_size;
};

/* Is the host of the URL localhost, or an address written out that is only allowed with allow_private?  All ways of
 * writing an IPv4 address count: 2130706433, 0x7f.1.  A name that resolves to one is found out when it is fetched. */
bool muster_fetch_is_private_literal(const char *url);

/* ---- on a loop ---- */
struct muster_fetcher;
struct muster_fetcher *muster_fetcher_new(struct muster_loop *loop);
/* Requests still open are dropped without a call. */
void muster_fetcher_free(struct muster_fetcher **fetcher_p);
/* `done` is called once, later, on the loop's thread; its result is valid for the call.  `spec` is copied. */
void muster_fetch(struct muster_fetcher *fetcher, const struct muster_fetch_spec *spec,
                  void (*done)(void *arg, const struct muster_fetch_result *result), void *arg);

/* ---- on the caller's thread ---- */
/* Send the request and wait.  `data` (may be NULL) gets the answer piece by piece as it comes, with its status, and
 * returns false to break off.  What `data` did not get is in `out_body` (may be NULL).
 * MUSTER_GONE: no answer came, `problem` says why; MUSTER_TIMEOUT; MUSTER_CANCELLED: `data` broke off. */
muster_err muster_fetch_now(const struct muster_fetch_spec *spec,
                            bool (*data)(void *arg, long status, const char *bytes, size_t size), void *arg,
                            long *out_status, struct muster_buf *out_body, char *problem, size_t problem_size);

#endif
