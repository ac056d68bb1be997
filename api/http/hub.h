/* SPDX-License-Identifier: MPL-2.0 */
/* Event streams, shared by the hub (its own thread, hands out live events) and the handlers (one parked thread a
 * client).
 *
 * A stream stands in the bucket of its job from open to drop; the bucket's lock guards everything in it that both sides
 * touch, and every send on its descriptor by the hub, so after http_hub_leave nobody touches the descriptor. */
#ifndef HUB_H
#define HUB_H

#include "api/http/gateway.h"

enum { HUB_BUCKETS = 1024 };

struct http_bucket {
    pthread_mutex_t lock;
    struct http_stream *first;
};

/* Where one event ends in `early`. */
struct http_mark {
    int64_t seq;
    size_t end;
    bool final;
};

struct http_stream {
    struct http_stream *next;
    struct http_bucket *bucket;
    struct muster_id job;
    http_render_event *render;
    void *arg;
    int fd;
    int wake; /* eventfd: something below has changed */
    /* under the bucket's lock */
    bool live;                /* events are sent at once; else they are kept in `early` */
    struct muster_buf early;  /* events since open, while the handler sends history */
    struct muster_buf marks;  /* struct http_mark each */
    struct muster_buf behind; /* bytes that the client has not taken yet, sent by its handler */
    size_t large;             /* bytes of an event in `behind` that is alone larger than the limit */
    int64_t last;             /* number of the last event sent or behind; -1: none */
    bool final;               /* it was the job's last */
    bool missed;              /* the hub missed events: read the log again after `last` */
    bool dropped;             /* too slow */
};

struct http_streams {
    struct http_server *server;
    struct muster_runner *runner;
    struct muster_loop *loop;
    struct muster_arena *arena; /* of the event at hand */
    struct muster_buf text;     /* the event at hand as it is sent */
    struct http_bucket buckets[HUB_BUCKETS];
};

/* Append `event` as it is sent to this client, with its id; nothing when it does not see it. */
void http_stream_text(const struct http_server *server, const struct event *event, http_render_event *render, void *arg,
                      struct muster_arena *arena, struct muster_buf *out);
/* From now on live events are kept for it.  Any thread. */
void http_hub_join(struct http_streams *streams, struct http_stream *stream);
void http_hub_leave(struct http_stream *stream);
/* Under the bucket's lock: send, or keep what the client does not take. */
void http_stream_put(const struct http_server *server, struct http_stream *stream, const char *data, size_t size);
void http_stream_wake(const struct http_stream *stream);

#endif
