/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of the iris dialect: its types and what its files share.  Handlers run on the connection's thread. */
#ifndef IRIS_H
#define IRIS_H

#include "api/http/muster_http.h"
#include "schemas/muster_options.h"
#include "schemas/pass_struct.h"

#include "api/dialects/iris.def"
#include "schemas/pass_end.h"

#include "schemas/pass_extern.h"

#include "api/dialects/iris.def"
#include "schemas/pass_end.h"

/* How long the queue may take to accept or cancel. */
enum { IRIS_HOP_MS = 30000 };

/* "msg_<id>" and "job_<id>", in the arena. */
const char *iris_message_id(struct muster_arena *arena, const struct muster_id *id);
const char *iris_job_id(struct muster_arena *arena, const struct muster_id *id);
/* The job that {messageId} of the path names.  False: there is none for this key; answered. */
bool iris_find(struct http_request *request, struct job *out_job);
/* queued, processing, completed, failed, cancelled. */
const char *iris_status(enum job_state state);
bool iris_is_final(enum job_state state);
/* Ms the agent took, at least 1; 0: it has not ended or never started. */
int64_t iris_duration(const struct job *job);
/* NULL: it used nothing that was counted. */
const struct iris_usage *iris_usage_of(struct muster_arena *arena, const struct usage *usage);
const struct iris_metadata *iris_metadata_of(struct muster_arena *arena, const struct job *job);
/* NULL: it did not fail. */
const struct iris_problem *iris_problem_of(struct muster_arena *arena, const struct job *job);
/* What the queue published about a team; zeros when nothing. */
struct muster_queue_view iris_queue_view(struct http_request *request, const char *team);
/* 400 that names the field. */
void iris_fail_field(struct http_request *request, const char *field, const char *expected);
/* With the fields of `details`, a struct of `type`. */
void iris_fail(struct http_request *request, muster_err err, const struct muster_type *type, const void *details,
               const char *message);

/* Fill a job for queue.submit.  `prompt` and the rest are borrowed. */
struct job iris_job(struct http_request *request, enum job_kind kind, const char *prompt, enum job_priority priority,
                    const char *context);
/* The submit was not confirmed: answer, naming the job where it may have been accepted all the same. */
void iris_submit_failed(struct http_request *request, muster_err err, const struct job *job);
/* False: `context` is no object; answered. */
bool iris_check_context(struct http_request *request, const char *context);

void iris_handle_ask(struct http_request *request);
void iris_handle_execute(struct http_request *request);
void iris_handle_stream(struct http_request *request);
void iris_handle_stream_get(struct http_request *request);
void iris_handle_attach(struct http_request *request);
void iris_handle_teams(struct http_request *request);
void iris_handle_team_status(struct http_request *request);
void iris_handle_message(struct http_request *request);
void iris_handle_cancel(struct http_request *request);
void iris_handle_history(struct http_request *request);

extern const struct http_dialect iris_dialect;

#endif
