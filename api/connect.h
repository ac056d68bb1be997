/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the embedding interface: a hub elsewhere.
 *
 * One thread owns the connection, makes it again when it breaks, and sends what any thread put among the requests.  The
 * lock of the library guards the requests and all members that are marked so. */
#ifndef CONNECT_H
#define CONNECT_H

#include "api/library.h"
#include "transport/muster_dial.h"

enum { CONNECT_WAIT_MS = 10000 /* for a connection and its first answer */ };

/* ---- connect_address.c: any thread ---- */

/* Who we are and where the hub is.  `out_spec` borrows the endpoint; it gets no limits.  *out_api_key is NULL with
 * CURVE, else borrowed of the address or the environment.  MUSTER_INVALID_REQUEST with `problem` (not NULL), also when
 * a file cannot be read. */
muster_err connect_address_read(const struct muster_address *address, struct muster_dial_spec *out_spec,
                                const char **out_api_key, char *problem, size_t problem_size);

/* ---- connect.c ---- */

enum connect_state { CONNECT_IDLE, CONNECT_WAITING, CONNECT_SENT, CONNECT_DONE };

/* One message to the hub and its answer.  Whoever asks owns it, and it is among the requests while it waits or is sent.
 */
struct connect_request {
    struct connect_request *next; /* under the lock, as are the others but those that are said to be fixed */
    enum connect_state state;
    int64_t id;
    bool reads;              /* fixed: it changes nothing, and is sent again when the connection breaks */
    bool keep;               /* fixed: likewise, until it is answered or dropped */
    int64_t begin_ms;        /* fixed: of the uptime; not to be sent before */
    int64_t end_ms;          /* of the uptime: then it has failed; with `keep` it is sent again then; 0: not sent */
    int64_t limit_ms;        /* fixed: for the answer, from when it is sent; with `keep` */
    struct muster_buf frame; /* to be sent */
    struct muster_buf answer;
    muster_err err; /* there is no answer */
    char problem[LIBRARY_TEXT];
    void (*done)(struct connect_request *request); /* fixed; under the lock */
};

struct connect {
    struct library *library; /* borrowed; the hub has it until we are closed */
    struct muster_dial_spec spec;
    char *endpoint, *api_key; /* the key: NULL with CURVE */
    struct muster_bus *bus;
    struct muster_runner *runner;
    int wake_fd; /* there is something new among the requests */
    /* of the thread */
    struct muster_loop *loop;
    struct muster_dial *dial; /* NULL: none now */
    struct muster_arena *arena;
    int timer, redial_timer;
    int64_t hello_ms; /* of the uptime: the welcome must have come by then */
    int64_t pause_ms; /* before the next dial */
    bool lost;        /* the dial is to be closed */
    /* under the lock */
    pthread_cond_t tried; /* the first dial came to something */
    bool has_tried, ready, closing;
    muster_err err;            /* what it came to, */
    char reason[LIBRARY_TEXT]; /* and why there is no connection */
    struct connect_request *requests, **last;
    int64_t last_id;
};

/* Dial, and wait for the first answer. */
muster_err connect_open(const struct muster_address *address, struct library *library, char *problem,
                        size_t problem_size);
/* Calls under way come back with MUSTER_SHUTTING_DOWN; returns when nothing of it is left.  Without one nothing. */
void connect_close(struct library *library);
const char *connect_endpoint(const struct library *library);

/* Put it among the requests; its frame is made from `body`, its other fixed members are set. */
void connect_put(struct library *library, struct connect_request *request, const struct muster_type *type,
                 const void *body);
/* Take it out if it is there. */
void connect_drop(struct library *library, struct connect_request *request);
void connect_request_free(struct connect_request *request);

/* ---- connect_job.c ---- */
extern const struct library_ways connect_ways;
/* Ask and wait for the answer until `end_ms` of the uptime, LIBRARY_CALL_MS at most. */
muster_err connect_ask(struct library *library, const struct muster_type *type, const void *body,
                       const struct muster_type *answer, int64_t end_ms, struct muster_arena *arena, void *out,
                       char *problem, size_t problem_size);
/* Is it worth trying again?  What it is about goes on. */
bool connect_is_passing(muster_err err);

/* ---- connect_follow.c ---- */
muster_err connect_follow_open(struct library *library, struct muster_follow *follow, const char *after, char *problem,
                               size_t problem_size);
void connect_follow_read(struct muster_follow *follow);
void connect_follow_close(struct muster_follow *follow);
/* The cursor behind all that is on disk now. */
muster_err connect_here(struct library *library, int64_t end_ms, char out_cursor[MUSTER_CURSOR_TEXT], char *problem,
                        size_t problem_size);

#endif
