/* SPDX-License-Identifier: MPL-2.0 */
/* Reads an event stream (text/event-stream) as bytes arrive, by the rules of the HTML standard.
 *
 * Pure: no input or output.  One thread at a time.  An event larger than SSE_EVENT_MAX is an error. */
#ifndef TOOLS_SSE_H
#define TOOLS_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schemas/muster_buf.h"
#include "schemas/muster_err.h"

#define SSE_EVENT_MAX ((size_t)256 << 20)

/* Valid for the call. */
struct sse_event {
    const char *type; /* "message" when the stream named none */
    const char *id;   /* last id seen, also on an earlier event; "" none */
    const char *data; /* lines joined by '\n', NUL-terminated */
    size_t size;
};

/* All members are private.  Zeroed is ready. */
struct sse_parser {
    struct muster_buf line;
    struct muster_buf data;
    struct muster_buf type;
    struct muster_buf id;
    struct muster_buf cursor; /* the id when the last event ended, also one without data */
    int64_t retry_ms;         /* 0: the stream did not say */
    bool has_data;
    bool after_cr; /* a '\n' that follows ends no further line */
    bool started;  /* the first line, which may begin with a byte order mark, is over */
};

/* Returns false to break off. */
typedef bool sse_handler(void *arg, const struct sse_event *event);

/* Read some bytes and hand on every event that they complete.
 * MUSTER_CANCELLED: the handler broke off; MUSTER_OUTPUT_TOO_LARGE: the event is larger than allowed. */
muster_err sse_feed(struct sse_parser *parser, const char *bytes, size_t size, sse_handler *handler, void *arg);
/* A new connection: forget what is half read, its id too, and keep that of the last whole event. */
void sse_reset(struct sse_parser *parser);
/* The id to go on behind; "" none. */
const char *sse_cursor(const struct sse_parser *parser);
/* Pause before a reconnect that the stream asked for; 0: it did not. */
int64_t sse_retry_ms(const struct sse_parser *parser);
void sse_fini(struct sse_parser *parser);

#endif
