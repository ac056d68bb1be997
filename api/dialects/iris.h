/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of the iris dialect: its types and what its files share.  Handlers run on the connection's thread. */
#ifndef IRIS_H
#define IRIS_H

#include "actors/muster_job.h"
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
/* The job with this name (msg_, job_ or bare), if there is one for this key. */
bool iris_look_up(struct http_request *request, const char *name, struct job *out_job);
/* The one that {messageId} of the path names.  False: there is none for this key; answered. */
bool iris_find(struct http_request *request, struct job *out_job);
/* queued, processing, completed, failed, cancelled. */
const char *iris_status(enum job_state state);
/* Ms the agent took, at least 1; 0: it has not ended or never started. */
int64_t iris_duration(const struct job *job);
/* NULL: it used nothing that was counted. */
const struct iris_usage *iris_usage_of(struct muster_arena *arena, const struct usage *usage);
const struct iris_metadata *iris_metadata_of(struct muster_arena *arena, const struct job *job);
/* NULL: it did not fail. */
const struct iris_problem *iris_problem_of(struct muster_arena *arena, const struct job *job);
/* What the queue published about a team; zeros when nothing. */
struct muster_queue_view iris_queue_view(struct http_request *request, const char *team);
/* The struct `in` of `type` as JSON text, in the arena. */
const char *iris_json(struct muster_arena *arena, const struct muster_type *type, const void *in);
/* With the fields of `details`, a struct of `type`. */
void iris_fail(struct http_request *request, muster_err err, const struct muster_type *type, const void *details,
               const char *message);

/* ---- iris_job.c: what is asked becomes a job ---- */

struct iris_plan {
    enum job_kind kind;
    const struct team_options *team;
    const char *prompt;
    enum job_priority priority; /* 0: normal */
    const char *context;        /* JSON; NULL: none */
    const char *session_id;     /* NULL: none */
    const char *key;            /* Idempotency-Key; NULL: none */
    const struct muster_type *type;
    const void *asked; /* of `type`: another request with the same key must ask the same */
};
/* Fill a job for queue.submit; texts are borrowed, digests lie in the arena.  MUSTER_INVALID_REQUEST. */
muster_err iris_plan_job(struct http_request *request, const struct iris_plan *plan, struct job *out_job,
                         struct muster_fault *fault);
/* Read the header Idempotency-Key; NULL: there is none.  MUSTER_INVALID_REQUEST. */
muster_err iris_idempotency_key(struct http_request *request, const char **out_key, struct muster_fault *fault);
/* Fill in what an execute says of its times: timeout, retry, delay and deadline. */
muster_err iris_plan_times(struct http_request *request, const struct iris_execute *in, struct job *job,
                           struct muster_fault *fault);

/* ---- iris_submit.c ---- */

/* The submit was not confirmed: answer, naming the job where it may have been accepted all the same. */
void iris_submit_failed(struct http_request *request, muster_err err, const struct job *job);
/* 202: `job` as it was accepted; one that was accepted before is marked. */
void iris_answer_accepted(struct http_request *request, const struct job *job, const struct queue_accepted *accepted);
/* The answer is that of an earlier request. */
void iris_mark_replayed(struct http_request *request);

/* ---- iris_act.c ---- */

/* End a job.  MUSTER_CONFLICT with a state in `out`: it has ended already, with that.  Else as http_ask. */
muster_err iris_cancel(struct http_request *request, const struct job *job, struct queue_cancelled *out);

/* ---- iris_stream.c ---- */

/* Is there an event of this job behind `after`, or may there be one yet? */
bool iris_has_more(struct http_request *request, const struct job *job, int64_t after);

/* ---- iris_events.c: events as clients see them ---- */

/* For streams.  `arg`: sessionId of the job, or NULL. */
http_render_event iris_render_stream;
/* For WebSockets. */
http_render_event iris_render_socket;

/* ---- routes ---- */

void iris_handle_ask(struct http_request *request);
void iris_handle_execute(struct http_request *request);
void iris_handle_stream(struct http_request *request);
void iris_handle_stream_get(struct http_request *request);
void iris_handle_attach(struct http_request *request);
void iris_handle_teams(struct http_request *request);
void iris_handle_team_status(struct http_request *request);
void iris_handle_pause(struct http_request *request);
void iris_handle_resume(struct http_request *request);
void iris_handle_message(struct http_request *request);
void iris_handle_cancel(struct http_request *request);
void iris_handle_retry(struct http_request *request);
void iris_handle_history(struct http_request *request);
void iris_handle_socket(struct http_request *request);

extern const struct http_dialect iris_dialect;

#endif
