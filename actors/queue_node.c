/* SPDX-License-Identifier: MPL-2.0 */
/* queue_node: brings jobs in line with what a worker has.  The queue actor's thread; nothing fails but the writing of
 * what a restart finds out again. */
#include "actors/queue_node.h"

#include <string.h>

#include "actors/muster_journal.h"
#include "actors/queue_due.h"
#include "actors/queue_hold.h"
#include "actors/queue_record.h"
#include "actors/queue_show.h"

#define SKIP_MAX 1000 /* attempts that are skipped at once; a worker may say any number */

/* ---- lost and found ---- */

static void
wait_again(struct queue_actor *self, struct queue_job *job, const char *reason)
{
    job->lost = true;
    job->state = job_state_QUEUED; /* also while the daemon drains: so the next one knows that it may be found */
    job->spot.since_ms = job->created_ms;
    queue_job_enter(&self->table, job, PHASE_WAIT, true);
    queue_watch(self, job);
    queue_record_lost(self->ctx, job, reason);
}

void
queue_lose(struct queue_actor *self, struct queue_job *job, const char *reason)
{
    struct queue_report cancelled = {.state = job_state_CANCELLED};
    struct queue_report failed = {.state = job_state_FAILED,
                                  .code = muster_err_code(MUSTER_WORKER_LOST),
                                  .message = muster_err_text(MUSTER_WORKER_LOST)};

    muster_timer_end(self->ctx, queue_timer_of(job));
    job->losses++;
    queue_say_lost(self->ctx, job, reason);
    if (job->expired)
        queue_finish_expired(self, job, &failed);
    else if (job->cancelled_by)
        queue_finish(self, job, &cancelled);
    else if (queue_is_over(self, job)) /* the timer is late */
        queue_finish_expired(self, job, &failed);
    else if (job->losses >= muster_ctx_options(self->ctx)->workers->max_losses)
        queue_finish(self, job, &failed);
    else
        wait_again(self, job, reason);
}

void
queue_regain(struct queue_actor *self, struct queue_job *job, struct queue_site *site)
{
    job->lost = false;
    job->state = job_state_RUNNING;
    queue_job_run(&self->table, job, site);
    queue_watch(self, job);
    queue_arm(self, job);
}

void
queue_remind(struct queue_actor *self, struct queue_job *job)
{
    bool dropped = job->cancelled_by || job->expired || job->given_up;
    struct agent_cancel cancel = {.job = job->id, .attempt = job->attempt, .park = !dropped};

    if (dropped || self->parking)
        queue_tell_surely(self, MUSTER_NODES, &agent_cancel_type, &cancel);
}

/* ---- what it has ---- */

/* A worker has a later attempt than we ever began: our data folder is a copy of an earlier one.  Its numbers are not
 * given again, so that nobody mistakes the one for the other. */
static void
skip_attempts(struct queue_job *job, int64_t used)
{
    bool waits = job->phase == PHASE_WAIT || job->phase == PHASE_DELAY;

    if (!waits || used <= job->attempt || used - job->attempt > SKIP_MAX)
        return;
    job->attempt = used;
    job->lost = false;
}

static bool
keep_job(struct queue_actor *self, const struct queue_node *in, struct queue_job *job)
{
    if (job->phase == PHASE_FINISH)
        return job->reported; /* it tells its end until that is on disk */
    if (job->phase == PHASE_WAIT && job->lost) {
        queue_regain(self, job, queue_site_get(job->team, in->node));
        queue_record_found(self->ctx, job);
        queue_say_found(self->ctx, job);
    }
    job->held = job->phase == PHASE_RUN;
    return job->held;
}

/* Is the attempt still wanted?  Then it is marked. */
static bool
keep_held(struct queue_actor *self, const struct queue_node *in, const struct held_attempt *held)
{
    struct queue_job *job = queue_job_find(&self->table, &held->job);

    if (job && job->attempt < held->attempt)
        skip_attempts(job, held->attempt);
    else if (job && job->attempt == held->attempt && job->node && strcmp(job->node, in->node) == 0)
        return keep_job(self, in, job);
    return false;
}

static struct queue_noded
take_held(struct queue_actor *self, const struct queue_node *in)
{
    struct queue_noded answer = {.node = in->node, .attachment = in->attachment};
    struct held_attempt *stale = muster_arena_alloc(muster_ctx_arena(self->ctx), (in->held.count + 1) * sizeof *stale);
    size_t i;

    for (i = 0; in->attached && i < in->held.count; i++)
        if (!keep_held(self, in, &in->held.items[i]))
            stale[answer.stale.count++] = in->held.items[i];
    answer.stale.items = stale;
    return answer;
}

/* ---- how it stands ---- */

static bool
is_gone(enum node_state state)
{
    return state == node_state_LOST || state == node_state_LEFT;
}

static void
learn_team(struct queue_actor *self, const struct queue_node *in, const struct worker_team *named)
{
    struct queue_team *team = queue_team_find(&self->table, named->name);
    struct queue_site *site;

    if (team == NULL || !team->remote) {
        muster_journal_say(muster_ctx_journal(self->ctx), WARNING, "node-team-unknown",
                           "A worker names a team that is not one for workers; it is ignored.",
                           MUSTER_SAY_TEXT("node", in->node), MUSTER_SAY_TEXT("team", named->name));
        return;
    }
    if (is_gone(in->state) && queue_site_find(team, in->node) == NULL)
        return;
    site = queue_site_get(team, in->node);
    if (in->state == node_state_UP || in->state == node_state_DRAINING)
        queue_site_set(site, site->state, named->capacity);
}

static bool
names_team(const struct queue_node *in, const char *team)
{
    size_t i;

    for (i = 0; i < in->teams.count; i++)
        if (strcmp(in->teams.items[i].name, team) == 0)
            return true;
    return false;
}

/* Jobs there that it does not have are lost; the others hear again what they are to do. */
static void
settle_jobs(struct queue_actor *self, const struct queue_node *in, struct queue_site *site)
{
    const char *reason = in->state == node_state_LEFT   ? "the worker has ended"
                         : in->state == node_state_LOST ? "the worker was not heard of for longer than its lease"
                                                        : "the worker came back without it";
    struct queue_job *job, *next;

    for (job = site->runs; job; job = next) {
        next = job->behind;
        if (is_gone(in->state) || (in->attached && !job->held))
            queue_lose(self, job, reason);
        else if (in->attached)
            queue_remind(self, job);
        job->held = false;
    }
}

static void
settle_site(struct queue_actor *self, const struct queue_node *in, struct queue_site *site)
{
    bool named = !in->attached || names_team(in, site->team->name); /* a worker that is back names all its teams */

    site->told = true;
    if (in->attachment > 0)
        site->attachment = in->attachment;
    queue_site_set(site, in->state, named ? site->capacity : 0);
    settle_jobs(self, in, site);
    queue_hold_changed(self, site);
}

void
queue_node_take(struct queue_actor *self, const struct queue_node *in)
{
    struct queue_noded answer;
    size_t i;

    for (i = 0; i < in->teams.count; i++)
        learn_team(self, in, &in->teams.items[i]);
    answer = take_held(self, in);
    for (i = 0; i < self->table.team_count; i++) {
        struct queue_site *site = queue_site_find(&self->table.teams[i], in->node);

        if (site)
            settle_site(self, in, site);
    }
    queue_sites_sweep(&self->table);
    muster_reply(self->ctx, &queue_noded_type, &answer);
}
