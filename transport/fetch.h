/* SPDX-License-Identifier: MPL-2.0 */
/* One outbound request as a libcurl handle, for fetch.c (on a loop) and fetch_now.c (on the caller's thread).
 *
 * One thread at a time a request. */
#ifndef MUSTER_TRANSPORT_FETCH_H
#define MUSTER_TRANSPORT_FETCH_H

#include <curl/curl.h>

#include "transport/muster_fetch.h"

struct request {
    CURL *easy;
    struct curl_slist *headers;
    char *body; /* a copy; NULL: none */
    bool allow_private;
    int64_t retry_after_s;         /* -1: none */
    char problem[CURL_ERROR_SIZE]; /* filled by libcurl, and by us when we refuse */
    char refused[256];             /* our own reason; "": none */
};

/* Prepare a request.  When something is wrong with `spec`, `refused` says what and the request must not be sent. */
void request_init(struct request *request, const struct muster_fetch_spec *spec);
void request_fini(struct request *request);
/* One sentence on why no answer came. */
const char *request_problem(const struct request *request, CURLcode code);
/* Is it a loopback, private, link-local or otherwise special address?  What is no address is. */
bool address_is_special(const char *text);

#endif
