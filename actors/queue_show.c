/* SPDX-License-Identifier: MPL-2.0 */
/* queue_show: the board's views of queue and teams, and the journal's lines about jobs.  The queue actor's thread;
 * nothing fails. */
#include "actors/queue_show.h"

#include <stdio.h>
#include <stdlib.h>

#include "actors/muster_journal.h"
#include "actors/muster_snapshots.h"

/* ---- on the board ---- */

static void
publish_team(struct muster_ctx *ctx, const struct queue_team *team, bool draining)
{
    struct muster_queue_view *view = muster_alloc(sizeof *view);
    char name[sizeof MUSTER_QUEUE_BOARD + 80];

    *view = (struct muster_queue_view){
        .queued = team->waiting + team->delayed,
        .running = team->running,
        .max_running = team->capacity,
        .completed = team->completed,
        .failed = team->failed,
        .cancelled = team->cancelled,
        .mean_ms = team->mean_ms,
        .paused = team->paused,
        .draining = draining,
    };
    snprintf(name, sizeof name, MUSTER_QUEUE_BOARD "/%s", team->name);
    muster_publish(ctx, name, view, free);
}

static void
publish_all(struct muster_ctx *ctx, const struct queue_table *table, bool draining)
{
    struct muster_queue_view *view = muster_alloc(sizeof *view);
    size_t i;

    *view = (struct muster_queue_view){
        .queued = table->queued,
        .running = table->running,
        .max_running = muster_ctx_options(ctx)->queue->max_running,
        .draining = draining,
    };
    for (i = 0; i < table->team_count; i++) {
        view->completed += table->teams[i].completed;
        view->failed += table->teams[i].failed;
        view->cancelled += table->teams[i].cancelled;
    }
    muster_publish(ctx, MUSTER_QUEUE_BOARD, view, free);
}

void
queue_show(struct muster_ctx *ctx, struct queue_table *table, bool draining, bool all)
{
    size_t i;

    for (i = 0; i < table->team_count; i++) {
        if (!table->teams[i].dirty)
            continue;
        publish_team(ctx, &table->teams[i], draining);
        table->teams[i].dirty = false;
        all = true;
    }
    if (all)
        publish_all(ctx, table, draining);
}

/* ---- in the journal ---- */

/* A job's name as callers know it. */
static const char *
message_id(struct muster_ctx *ctx, const struct queue_job *job)
{
    char text[MUSTER_ID_TEXT];

    muster_id_text(&job->id, text);
    return muster_arena_printf(muster_ctx_arena(ctx), "msg_%s", text);
}

void
queue_say_retrying(struct muster_ctx *ctx, const struct queue_job *job, const struct queue_report *report,
                   int64_t pause_ms)
{
    const char *id = message_id(ctx, job), *code = report->code ? report->code : muster_err_code(MUSTER_INTERNAL_ERROR);

    muster_journal_say(muster_ctx_journal(ctx), INFO, "job-retrying", "An attempt failed; another follows.",
                       MUSTER_SAY_TEXT("team", job->team->name), MUSTER_SAY_TEXT("message_id", id),
                       MUSTER_SAY_TEXT("code", code), MUSTER_SAY_NUMBER("attempt", job->attempt),
                       MUSTER_SAY_NUMBER("delay_ms", pause_ms), MUSTER_SAY_TEXT("request_id", job->trace));
}

void
queue_say_lost(struct muster_ctx *ctx, const struct queue_job *job, const char *reason)
{
    const char *id = message_id(ctx, job);

    muster_journal_say(muster_ctx_journal(ctx), WARNING, "job-lost", "The worker that had the job was lost.",
                       MUSTER_SAY_TEXT("team", job->team->name), MUSTER_SAY_TEXT("message_id", id),
                       MUSTER_SAY_TEXT("node", job->node), MUSTER_SAY_TEXT("reason", reason),
                       MUSTER_SAY_NUMBER("attempt", job->attempt), MUSTER_SAY_NUMBER("losses", job->losses),
                       MUSTER_SAY_TEXT("request_id", job->trace));
}

void
queue_say_found(struct muster_ctx *ctx, const struct queue_job *job)
{
    const char *id = message_id(ctx, job);

    muster_journal_say(muster_ctx_journal(ctx), INFO, "job-found", "The worker is back with the job, which goes on.",
                       MUSTER_SAY_TEXT("team", job->team->name), MUSTER_SAY_TEXT("message_id", id),
                       MUSTER_SAY_TEXT("node", job->node), MUSTER_SAY_NUMBER("attempt", job->attempt),
                       MUSTER_SAY_TEXT("request_id", job->trace));
}

void
queue_say_anew(struct muster_ctx *ctx, const struct queue_job *job, const char *node)
{
    const char *id = message_id(ctx, job);

    muster_journal_say(muster_ctx_journal(ctx), WARNING, "session-lost",
                       "The worker with a job's session stays away; the job goes on elsewhere, in a new session.",
                       MUSTER_SAY_TEXT("team", job->team->name), MUSTER_SAY_TEXT("message_id", id),
                       MUSTER_SAY_TEXT("node", node), MUSTER_SAY_TEXT("request_id", job->trace));
}

void
queue_say_ended(struct muster_ctx *ctx, const struct queue_job *job)
{
    enum log_level level = job->state == job_state_FAILED ? log_level_WARNING : log_level_INFO;
    const char *state = muster_enum_wire(&job_state_enum, (int)job->state), *id = message_id(ctx, job);
    bool began = job->started_ms > 0 && job->finished_ms > job->started_ms;
    int64_t duration_ms = began ? job->finished_ms - job->started_ms : 0;
    struct muster_say says[] = {MUSTER_SAY_TEXT("team", job->team->name),
                                MUSTER_SAY_TEXT("message_id", id),
                                MUSTER_SAY_TEXT("state", state),
                                MUSTER_SAY_NUMBER("attempts", job->attempt),
                                MUSTER_SAY_NUMBER("duration_ms", duration_ms),
                                MUSTER_SAY_TEXT("request_id", job->trace),
                                MUSTER_SAY_TEXT("from", job->final->from),
                                MUSTER_SAY_TEXT("code", job->final->error)};
    size_t count = sizeof says / sizeof *says;

    muster_journal_write(muster_ctx_journal(ctx), level, "job-ended", "A job has ended.", says,
                         job->final->error ? count : count - 1);
}
