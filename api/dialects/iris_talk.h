/* SPDX-License-Identifier: MPL-2.0 */
/* One message of a client on the WebSocket of iris, and the ways to answer it.  The connection's thread; what these
 * make lives in the request's arena. */
#ifndef IRIS_TALK_H
#define IRIS_TALK_H

#include "api/dialects/iris.h"

/* One message of the client. */
struct talk {
    struct http_request *request;
    struct muster_arena *arena;
    const char *text;
    size_t size;
    const char *id; /* NULL: it has none */
    bool counted;   /* against the rate, or not to be */
};

/* What an error is about; all of it may be missing. */
struct about {
    const char *message_id;
    const char *team;
    const char *details; /* JSON */
    int64_t retry_after_s;
};

/* The direct answer, a struct of `type`. */
void talk_answer(const struct talk *talk, const struct muster_type *type, const void *body);
/* Count it against the rate, once.  False: the rate is spent; answered. */
bool talk_count(struct talk *talk);
/* Answer with an error.  A refusal counts like an answer. */
void talk_refuse(struct talk *talk, muster_err err, const struct about *about, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* INVALID_REQUEST that names the field. */
void talk_refuse_field(struct talk *talk, const struct about *about, const char *field, const char *expected);
/* What the last http_ask was told. */
void talk_refuse_as_told(struct talk *talk, muster_err err, const struct about *about);
/* What http_cursor_parse said to `after`. */
void talk_refuse_cursor(struct talk *talk, muster_err err, const struct about *about);

/* Checks.  False: answered. */
bool talk_read_body(struct talk *talk, const struct muster_type *type, void *out);
bool talk_may(struct talk *talk, const char *scope);
/* A team that there is and that the key may use. */
bool talk_find_team(struct talk *talk, const char *name, const struct team_options **out_team);
bool talk_find_message(struct talk *talk, const char *name, struct job *out_job);

#endif
