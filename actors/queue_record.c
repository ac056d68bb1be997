/* SPDX-License-Identifier: MPL-2.0 */
/* queue_record: builds the store.commit of each step of a job's life.
 *
 * A record is read from the store, what changes is put over it, and it is written back whole: what stays the same need
 * not be kept in memory.  Only the queue writes jobs, so nothing comes in between. */
#include "actors/queue_record.h"

#include <string.h>

#include "actors/muster_job.h"
#include "actors/muster_journal.h"

muster_err
queue_record_read(struct muster_ctx *ctx, const struct queue_job *job, struct muster_arena *arena,
                  struct job *out_record)
{
    return muster_store_get(muster_ctx_store(ctx), &job_type, &job->id, arena, out_record);
}

void
queue_record_apply(const struct queue_job *job, struct job *record)
{
    record->state = job->state;
    record->started_ms = job->started_ms;
    record->finished_ms = job->finished_ms;
    record->not_before_ms = job->not_before_ms;
    record->attempt = job->attempt;
    record->failures = job->failures;
    record->session = job->session;
    record->node = job->node;
    record->losses = job->losses;
    record->usage = &job->usage;
}

/* ---- parts of commits ---- */

struct muster_bytes
queue_pack(const struct muster_type *type, const void *body, struct muster_arena *arena)
{
    struct muster_buf buf = {0};
    struct muster_bytes packed;

    muster_pack(type, body, &buf);
    packed = muster_bytes_copy(arena, buf.data, buf.size);
    muster_buf_free(&buf);
    return packed;
}

static struct store_put
put(const struct muster_type *type, const void *record, struct muster_arena *arena)
{
    return (struct store_put){.record = type->wire, .value = queue_pack(type, record, arena)};
}

static struct log_entry
entry(struct muster_ctx *ctx, const struct queue_job *job, const struct muster_type *type, const void *body,
      struct muster_arena *arena)
{
    return (struct log_entry){
        .at_ms = muster_now_ms(ctx),
        .type = type->wire,
        .team = job->team->name,
        .job = job->id,
        .attempt = job->attempt,
        .trace = job->trace,
        .body = queue_pack(type, body, arena),
    };
}

/* A whole message that nobody answers. */
static struct muster_bytes
message_of(const struct muster_type *type, const void *body, const char *trace, struct muster_arena *arena)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = trace ? trace : "", .principal.name = ""};
    struct muster_buf buf = {0};
    struct muster_bytes message;

    muster_envelope_pack(&envelope, type, body, &buf);
    message = muster_bytes_copy(arena, buf.data, buf.size);
    muster_buf_free(&buf);
    return message;
}

bool
queue_is_awaited(const struct queue_report *report)
{
    return report->reply_to && *report->reply_to;
}

struct queue_reported
queue_reported_of(const struct queue_report *report)
{
    return (struct queue_reported){
        .node = report->node, .parcel = report->parcel, .job = report->job, .attempt = report->attempt};
}

static struct store_answer
reported(const struct queue_report *report, struct muster_arena *arena)
{
    struct queue_reported body = queue_reported_of(report);

    return (struct store_answer){
        .to = muster_arena_str(arena, report->reply_to, strlen(report->reply_to)),
        .ok = message_of(&queue_reported_type, &body, NULL, arena),
    };
}

struct store_answer
queue_answer_caller(const struct muster_caller *caller, const struct muster_type *type, const void *body,
                    struct muster_arena *arena)
{
    const char *to = muster_caller_address(caller);
    struct store_answer answer = {.to = muster_arena_str(arena, to, strlen(to))};
    struct muster_buf buf = {0};

    muster_caller_pack(caller, type, body, &buf);
    answer.ok = muster_bytes_copy(arena, buf.data, buf.size);
    muster_buf_free(&buf);
    return answer;
}

/* ---- begin and steps ---- */

muster_err
queue_record_note(struct muster_ctx *ctx, const struct job *record, const char *agent,
                  const struct agent_written *written)
{
    struct muster_arena *arena = muster_ctx_arena(ctx);
    struct store_put one = put(&job_type, record, arena);
    struct muster_bytes told = message_of(&agent_written_type, written, NULL, arena);
    /* A restart repeats a step that is lost; and one agent that hangs holds up nobody else. */
    struct store_answer answer = {.to = agent, .ok = told, .no = told, .apart = true};
    struct store_commit commit = {.puts = {&one, 1}, .answers = {&answer, 1}};

    return muster_tell(ctx, MUSTER_STORE, &store_commit_type, &commit);
}

void
queue_record_begin(struct muster_ctx *ctx, const struct queue_team *team, const struct muster_envelope *envelope,
                   struct job *record)
{
    const struct queue_options *options = muster_ctx_options(ctx)->queue;

    record->state = job_state_QUEUED;
    if (record->priority == job_priority_NONE)
        record->priority = job_priority_NORMAL;
    if (record->from == NULL || *record->from == '\0')
        record->from = envelope->principal.name[0] ? envelope->principal.name : "muster";
    record->key = envelope->principal.key;
    record->trace = envelope->trace;
    record->created_ms = muster_now_ms(ctx);
    if (record->timeout_ms < 1 || record->timeout_ms > team->options->turn_timeout)
        record->timeout_ms = team->options->turn_timeout;
    if (record->max_attempts < 1 || record->max_attempts > options->max_attempts)
        record->max_attempts = options->max_attempts;
    if (record->retry_delay_ms > options->max_retry_delay)
        record->retry_delay_ms = options->max_retry_delay;
    if (record->max_retry_delay_ms > options->max_retry_delay)
        record->max_retry_delay_ms = options->max_retry_delay;
    if (record->not_before_ms <= record->created_ms)
        record->not_before_ms = 0;
    record->attempt = record->failures = 0;
    record->started_ms = record->finished_ms = 0;
    record->session = record->result = record->error = record->error_message = NULL;
    record->usage = NULL;
    record->tools.count = record->files.count = 0;
    record->retried_as = (struct muster_id){{0}};
}

/* What the caller is told once the job is on disk. */
static struct store_answer
accepted(struct muster_ctx *ctx, const struct job *record, struct muster_arena *arena)
{
    struct queue_accepted body = {
        .job = record->id,
        .position = record->position,
        .estimate_ms = record->estimate_ms,
        .created_ms = record->created_ms,
    };
    struct muster_caller *caller = muster_caller_keep(ctx);
    struct store_answer answer = queue_answer_caller(caller, &queue_accepted_type, &body, arena);

    muster_caller_free(&caller);
    return answer;
}

muster_err
queue_record_submit(struct muster_ctx *ctx, const struct queue_job *job, const struct job *record,
                    const struct job *original)
{
    struct muster_arena *arena = muster_ctx_arena(ctx);
    struct job_queued queued = {.priority = job->priority, .position = record->position};
    struct store_put puts[2] = {put(&job_type, record, arena)};
    struct log_entry event = entry(ctx, job, &job_queued_type, &queued, arena);
    struct store_answer answer;
    struct store_commit commit = {
        .puts = {puts, 1}, .entries = {&event, 1}, .writer = muster_ctx_address(ctx), .about = job->id};

    if (original)
        puts[commit.puts.count++] = put(&job_type, original, arena);
    if (muster_ctx_envelope(ctx)->reply_to[0] != '\0') {
        answer = accepted(ctx, record, arena);
        commit.answers.items = &answer;
        commit.answers.count = 1;
    }
    return muster_tell(ctx, MUSTER_STORE, &store_commit_type, &commit);
}

/* ---- end ---- */

static const char *
copy(struct muster_arena *arena, const char *text)
{
    return text ? muster_arena_str(arena, text, strlen(text)) : NULL;
}

static struct muster_strs
copy_strs(struct muster_arena *arena, struct muster_strs strs)
{
    const char **items = muster_arena_alloc(arena, (strs.count + 1) * sizeof *items);
    size_t i;

    for (i = 0; i < strs.count; i++)
        items[i] = copy(arena, strs.items[i]);
    return (struct muster_strs){items, strs.count};
}

/* The record as it is after its end.  When it cannot be read, what is known of it: enough to tell who waits. */
static struct job *
final_record(struct muster_ctx *ctx, struct queue_job *job, const struct queue_report *report, bool *out_readable)
{
    struct job *record = muster_arena_alloc(job->arena, sizeof *record);
    bool failed = report->state == job_state_FAILED;
    muster_err err = queue_record_read(ctx, job, job->arena, record);

    if (err) {
        muster_journal_say(muster_ctx_journal(ctx), ERROR, "job-unreadable", "A job's record could not be read.",
                           MUSTER_SAY_TEXT("team", job->team->name), MUSTER_SAY_TEXT("code", muster_err_code(err)));
        *record = (struct job){.id = job->id,
                               .kind = job_kind_ASK,
                               .team = job->team->name,
                               .prompt = "?",
                               .from = "?",
                               .priority = job->priority,
                               .created_ms = job->created_ms,
                               .timeout_ms = job->timeout_ms,
                               .max_attempts = job->max_attempts};
    }
    *out_readable = err == MUSTER_OK;
    queue_record_apply(job, record);
    record->result =
        report->state == job_state_COMPLETED ? copy(job->arena, report->result ? report->result : "") : NULL;
    record->error = failed ? copy(job->arena, report->code ? report->code : "INTERNAL_ERROR") : NULL;
    record->error_message = failed ? copy(job->arena, report->message) : NULL;
    record->tools = copy_strs(job->arena, report->tools);
    record->files = copy_strs(job->arena, report->files);
    return record;
}

static struct log_entry
final_entry(struct muster_ctx *ctx, struct queue_job *job, const struct job *record)
{
    int64_t duration_ms = muster_job_duration(job->started_ms, job->finished_ms);
    struct job_completed completed = {.duration_ms = duration_ms, .usage = record->usage};
    struct job_cancelled cancelled = {.by = job->cancelled_by ? job->cancelled_by : "",
                                      .was_running = job->was_running,
                                      .duration_ms = duration_ms,
                                      .usage = record->usage};
    struct job_failed failed = {
        .code = record->error, .message = record->error_message, .duration_ms = duration_ms, .usage = record->usage};

    if (job->state == job_state_COMPLETED)
        return entry(ctx, job, &job_completed_type, &completed, job->arena);
    if (job->state == job_state_CANCELLED)
        return entry(ctx, job, &job_cancelled_type, &cancelled, job->arena);
    return entry(ctx, job, &job_failed_type, &failed, job->arena);
}

/* What the store would refuse must not keep a job from its end: leave out what the agent said. */
static void
make_writable(struct muster_ctx *ctx, struct queue_job *job, struct job *record)
{
    struct muster_bytes packed = queue_pack(&job_type, record, job->arena);
    struct muster_fault fault = {0};
    struct job scratch;

    if (muster_unpack(&job_type, packed.data, packed.size, job->arena, &scratch, &fault) == MUSTER_OK)
        return;
    muster_journal_say(muster_ctx_journal(ctx), ERROR, "job-unwritable", "What the agent reported cannot be written.",
                       MUSTER_SAY_TEXT("team", job->team->name), MUSTER_SAY_TEXT("field", fault.field),
                       MUSTER_SAY_TEXT("problem", fault.message));
    job->state = record->state = job_state_FAILED;
    record->error = muster_err_code(MUSTER_INTERNAL_ERROR);
    record->error_message =
        muster_arena_printf(job->arena, "the agent's report cannot be written: %s %s", fault.field, fault.message);
    record->result = record->session = NULL;
    record->usage = NULL;
    record->tools.count = record->files.count = 0;
}

void
queue_record_end(struct muster_ctx *ctx, struct queue_job *job, const struct queue_report *report)
{
    struct delivery delivery = {.id = job->id, .state = delivery_state_PENDING};
    struct store_answer *answer;
    struct log_entry *event;
    struct store_put *puts;
    bool readable;
    size_t count = 0;

    muster_arena_free(&job->arena);
    job->arena = muster_arena_new();
    job->final = final_record(ctx, job, report, &readable);
    if (readable)
        make_writable(ctx, job, job->final);
    puts = muster_arena_alloc(job->arena, 2 * sizeof *puts);
    event = muster_arena_alloc(job->arena, sizeof *event);
    answer = muster_arena_alloc(job->arena, sizeof *answer);
    if (readable)
        puts[count++] = put(&job_type, job->final, job->arena);
    if (job->final->callback)
        puts[count++] = put(&delivery_type, &delivery, job->arena);
    *event = final_entry(ctx, job, job->final);
    if (queue_is_awaited(report))
        *answer = reported(report, job->arena);
    job->commit.puts.items = puts;
    job->commit.puts.count = count;
    job->commit.entries.items = event;
    job->commit.entries.count = 1;
    job->commit.answers.items = answer;
    job->commit.answers.count = queue_is_awaited(report) ? 1 : 0;
    job->commit.writer = muster_ctx_address(ctx);
    job->commit.about = job->id;
}

/* ---- between ---- */

/* Say something in the log.  It may be lost: a restart can do without it.  It goes the way of what agents say, so it
 * stands before the events of the next attempt. */
static void
say(struct muster_ctx *ctx, const struct queue_job *job, const struct muster_type *type, const void *body)
{
    struct log_entry event = entry(ctx, job, type, body, muster_ctx_arena(ctx));
    struct log_append append = {.entries = {&event, 1}};

    (void)muster_tell(ctx, MUSTER_LOG, &log_append_type, &append);
}

/* Write the record as it is now.  It may be lost likewise; whoever waits for the report is told in any case, because a
 * restart finds the attempt running, and its worker without it. */
static bool
write_step(struct muster_ctx *ctx, const struct queue_job *job, const struct queue_report *report)
{
    struct muster_arena *arena = muster_ctx_arena(ctx);
    struct job *record = muster_arena_alloc(arena, sizeof *record);
    struct store_answer answer;
    struct store_put one;
    struct store_commit commit = {.puts = {&one, 1}, .answers = {&answer, 0}};

    if (queue_record_read(ctx, job, arena, record))
        return false;
    queue_record_apply(job, record);
    one = put(&job_type, record, arena);
    if (report && queue_is_awaited(report)) {
        answer = reported(report, arena);
        answer.no = answer.ok;
        commit.answers.count = 1;
    }
    return muster_tell(ctx, MUSTER_STORE, &store_commit_type, &commit) == MUSTER_OK;
}

muster_err
queue_record_handover(struct muster_ctx *ctx, const struct job *record, const struct agent_run *run)
{
    struct muster_arena *arena = muster_ctx_arena(ctx);
    struct store_put one = put(&job_type, record, arena);
    struct store_answer told = {
        .to = MUSTER_NODES, .ok = message_of(&agent_run_type, run, run->trace, arena), .ahead = true};
    struct store_commit commit = {
        .puts = {&one, 1}, .answers = {&told, 1}, .writer = muster_ctx_address(ctx), .about = record->id};

    return muster_tell(ctx, MUSTER_STORE, &store_commit_type, &commit);
}

bool
queue_record_retry(struct muster_ctx *ctx, struct queue_job *job, const struct queue_report *report, int64_t pause_ms)
{
    struct job_retrying body = {
        .code = report->code ? report->code : "INTERNAL_ERROR",
        .message = report->message,
        .delay_ms = pause_ms,
    };

    say(ctx, job, &job_retrying_type, &body);
    return write_step(ctx, job, report);
}

bool
queue_record_park(struct muster_ctx *ctx, struct queue_job *job, const struct queue_report *report)
{
    struct job_parked body = {.reason = "shutdown"};

    say(ctx, job, &job_parked_type, &body);
    return write_step(ctx, job, report);
}

void
queue_record_resume(struct muster_ctx *ctx, struct queue_job *job)
{
    struct job_retrying body = {
        .code = muster_err_code(MUSTER_SHUTTING_DOWN),
        .message = "the server was restarted; the answer begins anew",
    };

    say(ctx, job, &job_retrying_type, &body);
}

void
queue_record_lost(struct muster_ctx *ctx, struct queue_job *job, const char *reason)
{
    struct job_lost body = {.node = job->node, .reason = reason};

    say(ctx, job, &job_lost_type, &body);
    (void)write_step(ctx, job, NULL);
}

void
queue_record_found(struct muster_ctx *ctx, struct queue_job *job)
{
    struct job_found body = {.node = job->node};

    say(ctx, job, &job_found_type, &body);
    (void)write_step(ctx, job, NULL);
}

void
queue_record_anew(struct muster_ctx *ctx, struct queue_job *job, const char *node)
{
    struct job_notice body = {
        .kind = "session_lost",
        .text = muster_arena_printf(muster_ctx_arena(ctx),
                                    "The worker %s, which has the agent's session of this conversation, cannot be "
                                    "reached.  The agent answers in a new one, without what was said before.",
                                    node),
    };

    say(ctx, job, &job_notice_type, &body);
}
