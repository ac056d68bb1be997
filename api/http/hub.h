/* SPDX-License-Identifier: MPL-2.0 */
/* Live events on their way to clients, shared by the hub (its own thread, hands them out), the keeper (its own thread,
 * serves all event streams that are live) and handlers (that open streams, or serve one WebSocket each).
 *
 * A sink is one connection that gets events, a follow is one thing that it wants to hear of: an event stream is a sink
 * with one follow, a WebSocket a sink with many.  A follow stands in a bucket of the hub from join to leave.  The
 * bucket's lock guards the list of follows; the sink's lock guards what a follow keeps, the list of the sink's follows,
 * and every send on its descriptor.  Both at a time: bucket before sink.  After http_hub_leave of its last follow
 * nobody but the handler or the keeper touches the descriptor.  Nothing here fails unless it says so. */
#ifndef HUB_H
#define HUB_H

#include "api/http/gateway.h"
#include "api/http/order.h"

enum {
    HUB_JOBS = 1024, /* buckets of follows of a job */
    HUB_TEAMS = 64,  /* of follows of one team, */
    HUB_TEXTS = 4    /* ways to render an event that are remembered */
};

struct http_follow;

struct http_bucket {
    pthread_mutex_t lock;
    struct http_follow *first;
};

/* ---- sink.c: one connection ---- */

struct http_sink {
    struct http_sink *next, **at; /* in the hub's list of all */
    struct http_server *server;
    http_render_event *render;
    void *arg;
    int fd;               /* of a stream, its own: another one of the connection than civetweb has */
    int wake;             /* of a WebSocket: eventfd, something below has changed */
    bool socket;          /* gets frames of WebSockets, not lines of an event stream */
    pthread_mutex_t lock; /* guards what follows */
    bool kept;            /* the keeper wants to hear when something below has changed */
    struct http_follow *follows;
    size_t follow_count;
    struct muster_buf behind; /* bytes that the client has not taken yet, sent by keeper or handler */
    size_t counted;           /* bytes of it in the server's count */
    size_t large;             /* bytes of a text in `behind` that is alone larger than the limit */
    size_t rest;              /* of a frame that was begun, at the head of `behind` */
    bool dropped;             /* too slow */
    bool broken;              /* cannot be sent to any more */
    bool closed;              /* the last frame was sent */
};

/* Why a thread woke. */
struct http_woken {
    bool left; /* the client */
    bool readable;
    bool writable;
    bool silence; /* nothing happened in time */
};

/* Take the request's connection.  MUSTER_SHUTTING_DOWN, MUSTER_OVERLOADED: at the limit of streams or sockets, or no
 * descriptors are left. */
muster_err http_sink_open(struct http_sink *sink, struct http_request *request, http_render_event *render, void *arg,
                          bool socket);
/* It has no follows any more.  Its connection stays open. */
void http_sink_close(struct http_sink *sink);
/* Under its lock: tell whoever serves it that something has changed. */
void http_sink_wake(struct http_sink *sink);
/* The server stops: end every wait for the client.  Not under its lock. */
void http_sink_stop(struct http_sink *sink);
/* Count an eventfd up. */
void http_wake(int fd);
/* Append `event` as it is sent to this sink; nothing when it does not see it. */
void http_sink_text(const struct http_sink *sink, const struct event *event, struct muster_arena *arena,
                    struct muster_buf *out);
/* A frame with one whole text around what is appended between these two. */
size_t http_frame_begin(struct muster_buf *out);
void http_frame_end(struct muster_buf *out, size_t begin);

/* Under its lock: send, or keep what the client does not take; beyond the limit, its own or that of all together, it is
 * dropped. */
void http_sink_put(struct http_sink *sink, const char *data, size_t size);
/* Under its lock: send some of what is behind. */
void http_sink_flush(struct http_sink *sink);
/* Under its lock: nothing follows this.  One that is too slow gets it right behind the frame that was begun. */
void http_sink_end(struct http_sink *sink, const char *data, size_t size);
/* Send all with patience: the client takes some of it every request_timeout.  False: it did not, or all ends. */
bool http_sink_push(struct http_sink *sink, const char *data, size_t size);
struct http_woken http_sink_park(const struct http_sink *sink, bool reads, bool writes, int64_t timeout_ms);

/* ---- follow.c: one thing that a sink wants to hear of ---- */

/* Where one event ends in `early`. */
struct http_mark {
    int64_t seq;
    struct muster_id job;
    size_t end;
    bool final;
};

struct http_follow {
    struct http_follow *next, **at; /* in its bucket */
    struct http_bucket *bucket;
    struct http_follow *sibling; /* of the same sink */
    struct http_sink *sink;
    struct muster_id job; /* zero: of many jobs, in the order of the numbers */
    char *teams;          /* then of these, each with its NUL, the last one empty; NULL: of all */
    char type[65];        /* only these events; "": all */
    /* under the sink's lock */
    char team[65];           /* of its job, as the first event told */
    bool live;               /* events are sent at once; else they are kept in `early` */
    bool behind;             /* the log is to be read after `last` first, or is being read */
    bool missed;             /* the hub missed events: read the log again after `last` */
    bool final;              /* the last event was the job's last */
    int64_t from, last;      /* events above `from` and up to `last` were sent or are behind; -1: none yet */
    int64_t until;           /* of a job: above this a follow of its team sends; INT64_MAX: none does */
    int64_t told;            /* of a job: up to this that one had sent before this one came; -1: there was none */
    struct muster_buf early; /* events since it joined, while the handler sends history */
    struct muster_buf marks; /* struct http_mark each */
};

/* A new one in the sink's list, not live.  `after` -1: with what comes; else the log is to be read from there. */
struct http_follow *http_follow_new(struct http_sink *sink, const struct http_topic *topic, int64_t after);
/* The hub has let go of it. */
void http_follow_free(struct http_follow **follow_p);
bool http_follow_is_ordered(const struct http_follow *follow);
/* Does an ordered one want the events of this team? */
bool http_follow_has_team(const struct http_follow *follow, const char *team);
/* Is it shown events of this type? */
bool http_follow_shows(const struct http_follow *follow, const struct event *event);

/* Is it one that sends all events of this team? */
bool http_follow_sends(const struct http_follow *follow, const char *team);

/* The rest under the sink's lock. */
/* An ordered one begins at `from`: it sends the events of its jobs that are above it, as soon as those that are
 * followed themselves are up to date. */
void http_follow_claim(struct http_follow *follow);
/* The job is of this team. */
void http_follow_bind(struct http_follow *follow, const char *team);
/* Is this event, found in the log, to be sent by way of this follow?  If so it counts as sent. */
bool http_follow_finds(struct http_follow *follow, const struct event *event, bool final);
/* Does an ordered follow of the same sink send events, or may it? */
bool http_follow_is_shared(const struct http_follow *follow);
/* Has an ordered follow of the same sink still to pass over what this one has sent? */
bool http_follow_is_needed(const struct http_follow *follow);
/* Is this event to be sent by way of this follow now?  If so it counts as sent. */
bool http_follow_due(struct http_follow *follow, int64_t seq, const struct muster_id *job, bool final);
void http_follow_keep(struct http_follow *follow, const struct event *event, bool final, const struct muster_buf *text);
void http_follow_forget(struct http_follow *follow);
/* Take the kept events that are due. */
void http_follow_take(struct http_follow *follow, struct muster_buf *out);

/* ---- hub.c: the thread, and who stands where ---- */

/* An event as one kind of client sees it. */
struct hub_text {
    bool used;
    bool socket;
    http_render_event *render;
    void *arg;
    struct muster_buf text;
};

struct http_streams {
    struct http_server *server;
    struct http_keeper *keeper;
    struct muster_runner *runner;
    struct muster_loop *loop;
    struct muster_arena *arena; /* of the message at hand */
    struct muster_arena *event; /* of the event at hand */
    struct hub_text texts[HUB_TEXTS];
    size_t next_text;
    struct order *order;    /* events above those that are settled */
    struct muster_buf held; /* the one taken out of it */
    atomic_size_t ordered;  /* follows that want it */
    struct http_bucket jobs[HUB_JOBS];
    struct http_bucket teams[HUB_TEAMS];
    struct http_bucket wide; /* of follows of several teams or all */
    size_t stale;            /* messages of the mailbox from before the hub rested */
    pthread_mutex_t lock;    /* guards the list of all sinks; of others only the feed's are taken inside */
    struct http_sink *sinks;
    bool subscribed; /* to the feed: while there are sinks, and some moments more */
};

void http_hub_add(struct http_streams *streams, struct http_sink *sink);
void http_hub_remove(struct http_streams *streams, struct http_sink *sink);

/* From now on live events are kept for it.  Any thread. */
void http_hub_join(struct http_streams *streams, struct http_follow *follow);
void http_hub_leave(struct http_follow *follow);

/* ---- join.c: history, then live; a thread that may wait.  False: the client cannot be served any further ---- */

/* An ordered one begins here: with what is published from now on.  It has joined the hub. */
bool http_join_now(struct http_request *request, struct http_follow *follow);
/* Send what the log has after `last`, then what the hub kept; then it is live. */
bool http_join(struct http_request *request, struct http_follow *follow);
/* Send what the hub kept; then it is live. */
bool http_go_live(struct http_request *request, struct http_follow *follow);

/* ---- stream.c: an event stream ---- */

/* A place in a list; one of itself alone is in none. */
struct http_link {
    struct http_link *next, *prev;
    struct http_stream *stream;
};

struct http_stream {
    struct http_sink sink; /* first, so that the one is the other */
    struct http_follow *follow;
    char *note; /* for its `render` */
    /* what is left of the request when the keeper has it */
    struct http_books books;
    char *texts; /* of the books */
    struct http_pass pass;
    /* the keeper's */
    struct http_link woken; /* under the keeper's lock: to be looked at */
    struct http_link beats; /* in the order of */
    int64_t beat_ms;
    int64_t moved_ms;       /* when its client last was seen to take something, or to be behind with nothing */
    struct http_link queue; /* for a reader */
    bool watched;           /* the keeper waits for its client; else it is new or has a reader */
    bool reading;           /* it has a reader, or had one: a thread to join */
    bool failed;            /* the reader could not go on */
    pthread_t reader;
};

/* It gets nothing any more, and is counted no more. */
void http_stream_unfollow(struct http_stream *stream);
/* Then: close its descriptor of the connection, and forget it. */
void http_stream_free(struct http_stream **stream_p);

/* ---- keeper.c: live streams ---- */

struct http_keeper;

/* MUSTER_OVERLOADED: there are no descriptors or threads for it. */
muster_err http_keeper_start(struct http_server *server, struct http_keeper **out_keeper);
/* Ends the streams there are, because the server stops. */
void http_keeper_stop(struct http_keeper **keeper_p);
/* Serve this stream, which is live, to its end; its books and pass are filled.  Any thread. */
void http_keeper_take(struct http_stream **stream_p);
/* Under its sink's lock: look at it. */
void http_keeper_wake(struct http_stream *stream);
/* The server has begun to stop.  Any thread. */
void http_keeper_hurry(struct http_keeper *keeper);
/* Put a socket without anybody at the other end in the place of this descriptor of civetweb's, so that the connection
 * stays when civetweb closes it. */
bool http_keeper_detach(const struct http_keeper *keeper, int fd);

#endif
