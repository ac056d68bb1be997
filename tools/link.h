/* SPDX-License-Identifier: MPL-2.0 */
/* An event stream over connections that break: each begins after the last event seen, so that nothing is lost and
 * nothing shown twice.
 *
 * One thread at a time; it is blocked while a connection is open. */
#ifndef TOOLS_LINK_H
#define TOOLS_LINK_H

#include "tools/client.h"
#include "tools/sse.h"
#include "tools/term.h"

struct link {
    const struct client *client;
    struct term *term;
    sse_handler *handler;    /* of events that are no heartbeats; false breaks off */
    void (*read)(void *arg); /* some bytes were read, the cursor may have moved; NULL: nobody asks */
    void *arg;
    int tries_max; /* without an event in between; 0: as many as it takes */

    /* What came of the last connection. */
    long status;               /* 0: no answer came */
    char problem[256];         /* then: why */
    struct muster_buf failure; /* body of an answer that is not a stream */

    /* Private. */
    struct sse_parser sse;
    int tries;
    bool seen;  /* an event came on this connection */
    bool broke; /* it was not just time for a new one */
    bool lost;  /* told that it broke, and not yet that it is back */
};

/* One connection, to its end.  `body` NULL: none. */
void link_open(struct link *link, const char *method, const char *path, const char *body);
/* Is another connection worth it?  If so, the pause before it is over. */
bool link_again(struct link *link);
/* Id of the last event, which the next connection goes on behind; "" none. */
const char *link_cursor(const struct link *link);
void link_fini(struct link *link);

/* Will the same request perhaps have another answer later? */
bool link_worth_a_try(long status);
void link_pause(int64_t ms);

#endif
