/* SPDX-License-Identifier: MPL-2.0 */
/* What the commands that talk to a server share: which server, which key, one request, and errors as one line.
 *
 * Runs on the main thread.  Functions that return int return an exit code and have told the error already. */
#ifndef TOOLS_CLIENT_H
#define TOOLS_CLIENT_H

#include <jansson.h>

#include "schemas/muster_buf.h"
#include "schemas/muster_schema.h"
#include "tools/args.h"
#include "tools/exits.h"

#define CLIENT_DATA_DEFAULT "./muster-data"
#define CLIENT_URL_DEFAULT "http://127.0.0.1:3100"

struct client {
    struct muster_arena *arena;  /* owns the texts below and whatever else lives as long */
    const char *url;             /* without a '/' at its end */
    const char *key;             /* NULL: none */
    bool json;                   /* --json */
    const char *idempotency_key; /* sent with whatever has a body; NULL: none */
};

/* Check the words of the command line, which become names and texts, then find server and key: flags, then MUSTER_URL
 * and MUSTER_API_KEY, then the data folder.  The folder's key goes only to the server that wrote it, or where --data
 * says so. */
int client_open(const struct call *call, struct client *out);
void client_close(struct client *client);
/* Open, run, close. */
int client_run(const struct call *call, int (*run)(const struct client *client, const struct call *call));

/* Can it be a header's value?  No spaces and control characters in it, so that it begins no other header. */
bool client_is_plain(const char *text);
/* --data, else MUSTER_DATA, else NULL. */
const char *client_data(const struct call *call);
enum { CLIENT_HEADERS_MAX = 5 };
/* "Authorization" and what goes with it; `items` has room for CLIENT_HEADERS_MAX.  Returns their number. */
size_t client_headers(const struct client *client, bool has_body, const char *accept, struct muster_pair *items);

/* What came of a request. */
struct client_reply {
    muster_err err;         /* no answer came: why */
    char problem[256];      /* then: in words */
    long status;            /* else */
    struct muster_buf body; /* of the answer, whatever the status */
};
/* Send and wait; tells nothing.  `out` is the caller's to give to client_take or client_drop. */
void client_send(const struct client *client, const char *method, const char *path, const char *body,
                 int64_t timeout_ms, struct client_reply *out);
/* Tell what went wrong, or give the JSON value (the caller's) of a 2xx answer. */
int client_take(const struct client *client, struct client_reply *reply, json_t **out_answer);
void client_drop(struct client_reply *reply);
/* Is it a 400 about that field of the body? */
bool client_is_about(const struct client_reply *reply, const char *field);

/* Send and wait.  EXIT_DONE: *out_answer is the JSON value (the caller's) of a 2xx answer. */
int client_request(const struct client *client, const char *method, const char *path, const char *body,
                   int64_t timeout_ms, json_t **out_answer);
/* Tell an answer that is not 2xx; returns its exit code. */
int client_refused(const struct client *client, long status, const char *body, size_t size);
int client_unreachable(const struct client *client, const char *problem);

/* One line on standard error, "muster: what: what to do next".  Returns `code`. */
int complain(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- requests ---- */
/* "/api/v1/teams/<part>/ask" with `part` percent-encoded; lives in the client. */
const char *client_path(const struct client *client, const char *before, const char *part, const char *after);
/* Append `text`, percent-encoded for a query or a path. */
void url_encode(struct muster_buf *out, const char *text);
/* Append "name=value" to a path; nothing when `value` is NULL. */
void client_add_query(struct muster_buf *path, const char *name, const char *value);
/* Set a text field; client_open has seen to it that the command line is UTF-8. */
void json_put_text(json_t *object, const char *name, const char *text);
/* The value as compact text, `object` released; lives in the client. */
const char *client_body(const struct client *client, json_t *object);
/* The text of args[from..], joined by spaces, or standard input for "-"; lives in the client. */
int client_text(const struct client *client, const struct call *call, int from, const char **out_text);
/* "a,b" as ["a","b"]. */
json_t *json_split(const char *text);
int64_t client_now_ms(void);
/* A span on the command line, with its unit; EXIT_USAGE when it is none. */
int client_duration(const struct call *call, const char *option, int64_t *out_ms);

/* The body of a rotation: --overlap, if given. */
int client_overlap(const struct client *client, const struct call *call, const char **out_body);

/* ---- answers ---- */
/* Text of a field; "" when it is not there or no text. */
const char *json_text(const json_t *object, const char *name);
/* A number without what follows its point; -1: it is none, or not exact. */
int64_t json_whole(const json_t *value);
/* Number of a field; -1 when it is not there. */
int64_t json_number(const json_t *object, const char *name);
/* Print as it is, indented. */
void json_print(const json_t *json);

#endif
