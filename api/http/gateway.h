/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of the HTTP gateway: the server, its threads and a request on its way through.
 *
 * A request belongs to the connection's thread.  The server is shared: what changes in it is atomic or under its lock.
 */
#ifndef GATEWAY_H
#define GATEWAY_H

#include <civetweb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "api/http/muster_http.h"
#include "schemas/muster_options.h"

enum {
    HTTP_STATUSES = 32,      /* room for the counted statuses, see metrics.c */
    HTTP_BUCKETS = 10,       /* of the histogram of durations */
    HTTP_PARAMS = 4,         /* {names} a path may have */
    HTTP_HEADERS = 8,        /* that a handler may add to its answer */
    HTTP_LISTEN = 16,        /* addresses */
    HTTP_HEAD_TIMES = 2,     /* civetweb's buffer in max_head, so that we can say what is wrong with a head too large */
    HTTP_KEEP_BYTES = 65536, /* a thread's buffers are kept up to this size between requests */
    HTTP_RETRY_AFTER_S = 1,  /* when an overload does not say */
    HTTP_HOP_MS = 10000      /* how long an actor may take where nothing else is said */
};

/* ---- routes and their counters ---- */

struct http_entry {
    const struct http_route *route; /* NULL: requests that fit no route */
    const char *method;             /* of the route; without one: a known method, or "other" */
    const struct http_dialect *dialect;
    size_t pieces;    /* of the route's path */
    const char *last; /* of them, with its slash */
    _Atomic uint64_t statuses[HTTP_STATUSES];
    _Atomic uint64_t buckets[HTTP_BUCKETS + 1]; /* the last one: longer */
    _Atomic uint64_t duration_us;
};

/* ---- a worker thread of civetweb ---- */

enum http_phase {
    HTTP_IDLE,
    HTTP_READING, /* the client must send its body before the deadline */
    HTTP_WRITING, /* the client must read its answer before the deadline */
    HTTP_ASKING   /* an actor's answer is awaited; ended by the server's stop */
};

struct http_thread {
    struct http_server *server;
    struct http_thread *next;   /* in the server's list, under its lock */
    struct muster_post *post;   /* NULL until the first ask */
    int64_t asked;              /* number of the last message sent */
    struct muster_arena *arena; /* of the current request; NULL until the first */
    struct muster_known known;  /* the last credential */
    struct muster_buf in;       /* body of the request */
    struct muster_buf text;     /* body of the answer */
    struct muster_buf out;      /* the answer with its head */
    pthread_mutex_t lock;       /* guards what follows against the watch */
    enum http_phase phase;
    int fd;
    int64_t deadline_ms;
    bool fired; /* the deadline has passed and the socket was shut down */
};

/* ---- the server ---- */

struct http_streams;
struct http_jwt;

struct http_server {
    struct muster_house house;
    const struct http_options *options;
    const struct http_dialect *const *dialects;
    struct mg_context *context;
    struct http_streams *streams;
    struct http_jwt *jwt;       /* NULL: tokens are not taken */
    struct http_entry *entries; /* first route_count for the routes, the others for requests that fit none */
    size_t route_count;
    size_t entry_count;
    struct muster_listen listen[HTTP_LISTEN];
    size_t listen_count;
    int64_t started_ms;
    char url[160];
    char problem[256];   /* what civetweb said last while it started */
    atomic_bool running; /* started: what civetweb says is about single connections */

    pthread_mutex_t lock; /* guards the list of threads */
    struct http_thread *threads;
    pthread_cond_t idle; /* with stopping: no request is at work any more */

    atomic_bool draining;
    atomic_bool stopping;
    atomic_int fd_hint;
    _Atomic int64_t connections; /* civetweb's and the keeper's */
    _Atomic int64_t busy;
    _Atomic int64_t waiting;
    int64_t max_behind;  /* of `behind` */
    int64_t max_streams; /* what the options say, as far as the process may open descriptors */
    sem_t joins;         /* places for streams that hold their thread until they are live: an eighth of all */
    int stream_fds;      /* the descriptors of streams begin here, so that those of connections stay near each other */
    _Atomic int64_t stream_count;
    _Atomic int64_t socket_count;
    _Atomic int64_t behind; /* bytes that readers of streams and sockets have not taken yet, all together */
    _Atomic uint64_t socket_messages;
    _Atomic uint64_t streams_dropped; /* too slow */
    _Atomic uint64_t stream_events;
    _Atomic uint64_t cut; /* connections that took too long */
};

/* ---- a request ---- */

/* A credential, as far as it takes to see whether it is still good. */
struct http_pass {
    bool given;                        /* false: none was needed, or none came yet */
    bool by_token;                     /* a JSON Web Token: in no table, good until it expires */
    int64_t expires_ms;                /* of a token */
    struct muster_id key;              /* else */
    uint8_t credential[MUSTER_DIGEST]; /* of the text that was sent, which may be that from before a rotation */
};

/* What is left of a request when it ends: for its line of the log and its counters. */
struct http_books {
    struct http_entry *entry;
    int64_t begun_us;
    int status;
    const char *method;
    const char *path; /* as sent, without the query */
    const char *key;  /* its name */
    const char *address;
    const char *agent; /* NULL: it did not say */
    const char *id;
};

struct http_field {
    const char *name;
    const char *value;
};

struct http_stream;
struct http_socket;

struct http_request {
    struct mg_connection *connection;   /* NULL: the keeper has it, see keeper.c */
    const struct mg_request_info *info; /* NULL when civetweb could not parse the request */
    const struct mg_request_info *peer; /* only the addresses in it are good in any case */
    struct http_server *server;
    struct http_thread *thread;
    struct http_entry *entry;
    const struct http_dialect *dialect; /* whose errors are rendered */
    const char *method;
    const char *path; /* as sent, without the query */
    struct http_field params[HTTP_PARAMS];
    size_t param_count;
    struct http_field *queries;
    size_t query_count;
    const void *body;
    struct key key; /* a copy; id zero: no credential was needed */
    struct http_pass pass;
    struct rate_limit limit;      /* the effective one; requests 0: unlimited */
    bool counted;                 /* against the rate */
    struct muster_principal rate; /* what is left; rate_limit 0: not known */
    struct {
        const char *message;
        int64_t retry_after_s;
    } told; /* by the last ask that failed */
    char id[129];
    const char *allow; /* for 405 */
    struct http_stream *stream;
    struct http_socket *socket;
    struct http_field headers[HTTP_HEADERS]; /* for the answer */
    size_t header_count;
    int64_t begun_us;
    int64_t unread; /* bytes of the body that were not read yet; -1: chunked, unknown */
    bool head_only;
    bool keep_alive;
    bool answered;
    bool kept;  /* the keeper has the stream, and ends the request */
    bool joins; /* it has one of the server's places for joining streams */
    int status;
};

/* ---- request.c ---- */
/* civetweb's begin_request: answers everything. */
int http_serve(struct mg_connection *connection);
/* civetweb's http_error: what it could not even parse. */
int http_refuse(struct mg_connection *connection, int status, const char *message);
int64_t http_clock_us(void);
/* What its books will say; the texts are the request's. */
void http_books_open(struct http_request *request, struct http_books *out);
/* The end of a request: its counters and its line of the log.  Any thread. */
void http_books_close(struct http_server *server, const struct http_books *books);
/* It is at work no more; when it was the last, the stop goes on.  Any thread. */
void http_leave(struct http_server *server);

/* ---- route.c ---- */
/* The table of all routes of all dialects. */
void http_routes_build(struct http_server *server);
/* Where a request with this method is counted until its route is known. */
struct http_entry *http_entry_unmatched(struct http_server *server, const char *method);
/* Fill entry, dialect and params.  False: answered. */
bool http_route_find(struct http_request *request);
/* Split and decode the query.  False: answered. */
bool http_query_parse(struct http_request *request);

/* ---- access.c ---- */
/* Credential, scopes and team.  False: answered. */
bool http_access(struct http_request *request);
/* Take the credential that an Authorization header with this text would bring (a bare key too) and fill in the
 * request's key.  MUSTER_UNAUTHORIZED with *out_reason. */
muster_err http_login(struct http_request *request, const char *authorization, const char **out_reason);
/* Does its key have the scopes of the route?  *out_missing, in the arena: those it lacks, separated by ", ". */
bool http_has_scopes(struct http_request *request, const char **out_missing);
/* As http_key_is_good.  Any thread. */
bool http_pass_is_good(const struct http_server *server, const struct http_pass *pass);
/* Append the WWW-Authenticate headers of a 401. */
void http_challenge(const struct http_request *request, struct muster_buf *out);

/* ---- common.c ---- */
/* What is of all teams is not for a key that is kept to some, whatever its scopes.  False: answered. */
bool http_may_manage(struct http_request *request);

/* ---- guard.c ---- */
/* Refuse what could be read in two ways or costs too much.  False: answered. */
bool http_guard_head(struct http_request *request);
/* Read the body, decode it to the route's type.  False: answered. */
bool http_guard_body(struct http_request *request);
/* Before an answer: read the rest of a small body, or see to it that the connection closes. */
void http_guard_rest(struct http_request *request);
/* After an answer whose connection closes with unread bytes: let the client read it before the reset. */
void http_guard_linger(struct http_request *request);

/* ---- watch.c: phases with a deadline, ended by shutting the socket down ---- */
void http_watch_begin(struct http_request *request, enum http_phase phase, int64_t limit_ms);
/* Did the deadline pass? */
bool http_watch_end(struct http_request *request);
/* Called often by the streams' loop. */
void http_watch_tick(struct http_server *server);
/* Wake everything that waits, for the stop. */
void http_watch_stop(struct http_server *server);

/* ---- fd.c ---- */
/* The descriptor of the request's connection, valid until the handler returns; -1: cannot be told.  Of one that the
 * keeper has: the stream's own. */
int http_fd(struct http_request *request);
/* Bytes that civetweb has read of the connection so far; -1: cannot be told. */
int64_t http_fd_taken(struct http_request *request);
/* The request has been served; what its connection brings next is another one. */
void http_fd_served(struct http_request *request);
/* Has civetweb read more of the connection than the head of this request, its first one and without a body?  What
 * stands where cannot be told, because it skips white space in front.  Of a later request it cannot be told at all:
 * false. */
bool http_fd_has_more(struct http_request *request);

/* ---- ask.c ---- */
/* Count the request against the key's rate.  False: answered. */
bool http_count(struct http_request *request);
/* The same for a request that is about to be refused, so that it is refused all the same when it cannot be counted.
 * False: the rate is spent, and that was answered. */
bool http_count_refusal(struct http_request *request);
/* The same for one message of a WebSocket: nothing is answered. */
muster_err http_count_message(struct http_request *request);
/* Ask without regard to the rate. */
muster_err http_ask_directly(struct http_request *request, const char *to, const struct muster_type *type,
                             const void *body, const struct muster_type *answer, void *out, int64_t timeout_ms);

/* ---- answer.c ---- */
/* The head of an answer; `size` -1: a stream; status 101: of a WebSocket. */
void http_head(struct http_request *request, struct muster_buf *out, int status, const char *content_type,
               int64_t size);
/* As http_fail, with a status that is not the error's own. */
void http_fail_status(struct http_request *request, int status, muster_err err, const char *message);
/* The connection ends after this answer. */
void http_close(struct http_request *request);
/* The client has left: nothing is answered. */
void http_gone(struct http_request *request);

/* ---- stream.c ---- */
int http_stream_fd(const struct http_stream *stream);

/* ---- hub.c ---- */
/* MUSTER_OVERLOADED: there are no descriptors or threads for it. */
muster_err http_streams_start(struct http_server *server, struct http_streams **out_streams);
/* Wake all that serve streams and sockets; they see that the server stops. */
void http_streams_wake(struct http_streams *streams);
/* No thread of civetweb is left, and the server stops. */
void http_streams_stop(struct http_streams **streams_p);

/* ---- upgrade.c ---- */
/* Do the headers ask for a WebSocket?  Prepares the headers of the answer.  False: answered. */
bool http_upgrade_check(struct http_request *request);

/* ---- metrics.c ---- */
void http_metrics_count(struct http_entry *entry, int status, int64_t duration_us);

/* ---- common.c ---- */
/* /health, /metrics and keys. */
extern const struct http_dialect http_common;

#endif
