/* SPDX-License-Identifier: MPL-2.0 */
/* The HTTP gateway: one server for all dialects.  No civetweb type crosses this header.
 *
 * The gateway owns every hazard of the wire (sizes, depth, smuggling, slow and vanished clients, thread counts),
 * request ids, credentials, scopes, rates, validation and the request log.  A dialect is a table of routes and the
 * shape of its errors; its handlers run on the connection's thread (100 KiB of stack), one request at a time, and may
 * wait. */
#ifndef MUSTER_HTTP_H
#define MUSTER_HTTP_H

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "actors/muster_snapshots.h"

/* ---- a request, as a handler sees it ---- */
struct http_request;

enum http_route_flags {
    HTTP_OPEN = 1,     /* needs no credential and is not counted */
    HTTP_STREAM = 2,   /* may become an event stream: the credential may also stand in ?api_key= (EventSource) */
    HTTP_FORWARDS = 4, /* the handler takes the rate by handing its message on through the limiter (http_submit) */
    HTTP_TEAM = 8,     /* {team} must exist and be among the key's teams; checked before the body is read */
    HTTP_SOCKET = 16   /* becomes a WebSocket: GET with the headers of an upgrade, else 426; the credential may also
                          stand in ?api_key= or a subprotocol, or come later (http_socket_login) */
};

struct http_route {
    const char *method;
    const char *path;               /* "/api/v1/teams/{team}/ask" */
    const char *scopes;             /* all needed, separated by spaces; NULL with HTTP_OPEN */
    int64_t cost;                   /* requests that it counts for */
    const struct muster_type *body; /* decoded before the handler runs; NULL: takes no body */
    unsigned flags;
    void (*handle)(struct http_request *request);
    const char *doc;
};

/* Types of bodies that belong together in the manual; types inside of them are shown with them. */
struct http_bodies {
    const char *title;                      /* "answers" */
    const struct muster_type *const *types; /* ends with NULL */
};

struct http_dialect {
    const char *name;
    const struct http_route *routes; /* ends with method == NULL */
    /* Append the body of an error answer.  `details` is a JSON value or NULL. */
    void (*render_error)(struct muster_buf *out, muster_err err, const char *message, const char *details,
                         int64_t now_ms);
    const struct http_bodies *bodies; /* for the manual, ends with title == NULL; may be NULL */
};

const struct muster_house *http_house(const struct http_request *request);
/* Value of {name} in the path, decoded. */
const char *http_param(const struct http_request *request, const char *name);
/* Value of a query field, decoded to the request's arena; NULL: not there. */
const char *http_query(struct http_request *request, const char *name);
/* NULL: not there.  Name in any case. */
const char *http_header(const struct http_request *request, const char *name);
/* The decoded body, a struct of the route's type. */
const void *http_body(const struct http_request *request);
const struct key *http_key(const struct http_request *request);
/* What stands as `from` of the messages that this key sends: the team it speaks for, else its name. */
const char *http_from(const struct http_request *request);
/* Is the key that the request came with still good: not revoked, not expired, not rotated without overlap; or has its
 * token time left?  True without one.  For what lasts longer than an answer. */
bool http_key_is_good(const struct http_request *request);
/* May this key use that team? */
bool http_may_use(const struct http_request *request, const char *team);
/* Is this a receiver that may be sent to: an http or https URL of an address that webhooks.allow_private allows, and
 * headers that are ours to hand on?  False: answered with 400 that names `field`.url or `field`.headers (`field` "":
 * without it). */
bool http_check_receiver(struct http_request *request, const char *field, const char *url,
                         const struct muster_pairs *headers);
/* Would a callback to this URL be sent?  False for addresses that webhooks.allow_private does not allow, as far as the
 * URL tells without a name server. */
bool http_may_call_back(const struct http_request *request, const char *url);
const char *http_request_id(const struct http_request *request);
/* Memory until the request is answered. */
struct muster_arena *http_arena(struct http_request *request);

/* ---- asking actors ---- */
/* Send a message and wait for its answer, at most `timeout_ms`.  With HTTP_FORWARDS the message goes through the rate
 * limiter.  MUSTER_OK: `out` (of `answer`, in the arena) is filled.  Else nothing is filled and the error has not been
 * told yet: MUSTER_TIMEOUT, MUSTER_GONE (the client left), or what the actor said, see http_fail_as_told. */
muster_err http_ask(struct http_request *request, const char *to, const struct muster_type *type, const void *body,
                    const struct muster_type *answer, void *out, int64_t timeout_ms);
/* Wait for a further answer to the last http_ask, which must have succeeded; likewise. */
muster_err http_await(struct http_request *request, const struct muster_type *answer, void *out, int64_t timeout_ms);
/* The words of the actor that refused the last http_ask, and seconds until it is worth trying again (0: unknown). */
const char *http_told(const struct http_request *request, muster_err err, int64_t *out_retry_after_s);
/* Answer with the error that the last http_ask returned, in the words of the actor. */
void http_fail_as_told(struct http_request *request, muster_err err);
/* Count one more waiting ask; false: the limit is reached, answer MUSTER_OVERLOADED.  Balanced by http_wait_end. */
bool http_wait_begin(struct http_request *request);
void http_wait_end(struct http_request *request);

/* ---- answering, exactly once ---- */
void http_answer(struct http_request *request, int status, const char *content_type, const char *body, size_t size);
void http_answer_type(struct http_request *request, int status, const struct muster_type *type, const void *body);
void http_fail(struct http_request *request, muster_err err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A header for the answer to come; both texts live as long as the request. */
void http_add_header(struct http_request *request, const char *name, const char *value);
/* 400 that names the field: "<field>: <expected>", with both in its details. */
void http_fail_field(struct http_request *request, const char *field, const char *expected);
/* With a JSON value for `details`. */
void http_fail_details(struct http_request *request, muster_err err, const char *details, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* For render_error: put the members of `details` of a 403 or 429 also at the end of the object in `out`, where the iris
 * document has them. */
void http_error_lift(struct muster_buf *out, muster_err err, const char *details);

/* ---- event streams ---- */
/* Append to `out` what this event is to a client of the dialect: for a stream its lines without its id, as
 * "event: chunk\ndata: {...}\n"; for a WebSocket the JSON text of one message.  `cursor` is the event's "epoch-seq".
 * Nothing appended: the client does not see it.  Events are rendered once for all clients with the same `render` and
 * `arg` (the note of http_stream_open, or as given to http_socket_run), so it must not look at anything else. */
typedef void http_render_event(struct muster_buf *out, const struct event *event, const char *cursor,
                               struct muster_arena *arena, void *arg);

/* Whose events: of one job, in order, each at once; or of all jobs of some teams and of the teams themselves, in the
 * order of their numbers, each when no lower one can come any more. */
struct http_topic {
    struct muster_id job;            /* not zero: of this job only */
    const struct muster_strs *teams; /* else of these; none: of all.  Borrowed for the call */
    const char *type;                /* only events of this type; NULL: of all types */
};

/* Begin to follow `topic`: from now on its events are kept for this client (so nothing is missed between a submit and
 * the first byte).  `note` (a copy; may be NULL) is for `render`.  MUSTER_OVERLOADED: at the limit of streams.  On
 * success the handler must end with http_stream_run or http_stream_drop. */
muster_err http_stream_open(struct http_request *request, const struct http_topic *topic, http_render_event *render,
                            const char *note);
/* Not to be: stop following; the handler answers otherwise. */
void http_stream_drop(struct http_request *request);
/* Send the head, `first` (may be empty), all events after `after` from the log (-1: none, only what came since open),
 * then live ones.  It returns when the stream is live; that goes on by itself until the job's last event was sent, the
 * client has left or is too slow, or the server stops. */
void http_stream_run(struct http_request *request, const char *first, size_t first_size, int64_t after);
/* The event that a cursor ("epoch-seq", as in Last-Event-ID) names, also one that is on its way to the disk.
 * MUSTER_INVALID_REQUEST: not a cursor; MUSTER_CURSOR_EXPIRED: no longer kept. */
muster_err http_stream_cursor(struct http_request *request, const char *cursor, struct event *out_event);

/* The number behind which a reader with this cursor goes on.  MUSTER_INVALID_REQUEST: not a cursor;
 * MUSTER_CURSOR_EXPIRED: events behind it are no longer kept. */
muster_err http_cursor_parse(struct http_request *request, const char *cursor, int64_t *out_after);
/* Answer with that error; `name` says where the cursor stood. */
void http_fail_cursor(struct http_request *request, muster_err err, const char *name);

/* ---- WebSockets ---- */
/* Serve this connection as a WebSocket until either side ends it, on the connection's thread.  Live events of what it
 * follows go to the client from another thread, in whole messages, as `render` makes them.  `message` is called with
 * each text message of the client, of at most http.max_body bytes and 64 levels of brackets, with a NUL behind it, and
 * may call the functions below and http_ask; it never answers the request.  Anything else is closed: binary with 1003,
 * text that is not UTF-8 with 1007, deeper with 1008, larger with 1009 (16 KiB before there is a key), what is against
 * the protocol with 1002.  So is a slow client, with 1013 at http.max_backlog; one without a key after
 * http.auth_timeout, with a key that is no longer good, or without a pong, with 1008; and all when the server stops,
 * with 1001.  What a dialect keeps for the connection is `arg`; the arena and http_socket_count are of one message. */
typedef void http_socket_message(struct http_request *request, const char *text, size_t size, void *arg);
void http_socket_run(struct http_request *request, http_socket_message *message, http_render_event *render, void *arg);

/* The rest is for inside of `message` only. */
void http_socket_send(struct http_request *request, const char *text, size_t size);
/* Close when `message` returns; codes as in RFC 6455. */
void http_socket_close(struct http_request *request, int code, const char *reason);
/* Has it a key yet?  Everything but http_socket_login and _send needs one. */
bool http_socket_has_key(const struct http_request *request);
/* Take a credential as the Authorization header would have it ("Bearer ..." or the bare key), and check the scopes of
 * the route.  MUSTER_UNAUTHORIZED, MUSTER_FORBIDDEN with *out_reason. */
muster_err http_socket_login(struct http_request *request, const char *credential, const char **out_reason);
/* Count this message against the key's rate; http_ask does so itself on routes that forward.  MUSTER_RATE_LIMITED;
 * http_told has the words. */
muster_err http_socket_count(struct http_request *request);
/* Follow a job (teams NULL) or one team, beginning behind the event `after` (0: with the oldest kept; -1: with what
 * comes from now on).  Its events go out when `message` has returned, behind what that sent.  A job's events come
 * once, also when its team is followed too: then in the team's order.  A job that has ended is no longer followed.
 * MUSTER_EXISTS: it does so already; MUSTER_OVERLOADED: http.max_follows. */
muster_err http_socket_follow(struct http_request *request, const struct http_topic *topic, int64_t after);
/* A number that everything up to it was published, and all that any client was shown by now is among it: where a follow
 * of teams begins that repeats nothing.  MUSTER_OVERLOADED. */
muster_err http_settled(struct http_request *request, int64_t *out_seq);
/* False: it was not followed. */
bool http_socket_unfollow(struct http_request *request, const struct http_topic *topic);

/* ---- values that all dialects read alike ---- */
/* A JSON string without its quotes (one with escapes fits nothing that is read so), or a number as it is. */
const char *http_bare(struct http_request *request, const char *json);
/* A time: unix ms, or ISO 8601 such as "2026-01-31", "2026-01-31T12:00:00Z" or "...T12:00:00.5+02:00". */
muster_err http_time_parse(const char *text, int64_t *out_ms);

/* ---- the server ---- */
struct http_server;
/* Could http_server_start listen on all addresses of the options now?  MUSTER_INVALID_REQUEST: one of them is none, or
 * two overlap; MUSTER_CONFLICT: one cannot be had.  `problem` says which and what to do. */
muster_err http_server_probe(const struct http_options *options, char *problem, size_t size);
/* Can the key that verifies tokens be used?  MUSTER_INVALID_REQUEST; `problem` says which file and why. */
muster_err http_auth_probe(const struct auth_options *options, char *problem, size_t size);
/* Starts to serve on all addresses of the options.  MUSTER_CONFLICT: an address is taken; MUSTER_INVALID_REQUEST: an
 * option cannot be used; `problem` says which. */
muster_err http_server_start(const struct muster_house *house, const struct http_dialect *const *dialects,
                             struct http_server **out_server, char *problem, size_t problem_size);
/* "http://127.0.0.1:3100" */
const char *http_server_url(const struct http_server *server);
/* From now on new work is refused with SHUTTING_DOWN; reads and streams go on. */
void http_server_drain(struct http_server *server);
/* End all streams (with a comment, so that clients come back with their cursor) and connections; returns when no thread
 * is left. */
void http_server_stop(struct http_server **server_p);
/* Append the metrics of the gateway, and those of queue, agents, mailboxes and store that can be read without asking.
 */
void http_server_metrics(const struct http_server *server, struct muster_buf *out);

/* Errors in the shape of the routes that belong to no document. */
void http_render_plain_error(struct muster_buf *out, muster_err err, const char *message, const char *details,
                             int64_t now_ms);
/* Routes of webhooks, of events and of workers; see http_dialects. */
extern const struct http_dialect http_webhooks;
extern const struct http_dialect http_events;
extern const struct http_dialect http_nodes;

/* All dialects of this build, ends with NULL. */
extern const struct http_dialect *const http_dialects[];
/* Text of `muster describe routes`. */
void http_describe_routes(struct muster_buf *out);
/* Text of `muster describe bodies`: every type of request, answer, stream event and callback. */
void http_describe_bodies(struct muster_buf *out);

#endif
