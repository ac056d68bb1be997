/* SPDX-License-Identifier: MPL-2.0 */
/* worker_attempts: which attempts a worker has: from agent.run until the hub has acknowledged the report.  The link's
 * thread; nothing here fails.  There are about as many as the teams' agents have places. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/worker_inside.h"

#define HELD_MAX 100000 /* that worker.attach may name */

struct worker_attempt *
worker_attempt_find(struct worker_link *link, const struct muster_id *job, int64_t attempt)
{
    struct worker_attempts *attempts = &link->attempts;
    size_t i;

    for (i = 0; i < attempts->count; i++)
        if (attempts->items[i].attempt == attempt && muster_id_equal(&attempts->items[i].job, job))
            return &attempts->items[i];
    return NULL;
}

void
worker_attempt_add(struct worker_link *link, const struct muster_id *job, int64_t attempt, size_t team)
{
    struct worker_attempts *attempts = &link->attempts;

    if (worker_attempt_find(link, job, attempt))
        return;
    if (attempts->count == attempts->capacity) {
        attempts->capacity = attempts->capacity ? 2 * attempts->capacity : 16;
        attempts->items = muster_realloc(attempts->items, attempts->capacity * sizeof *attempts->items);
    }
    attempts->items[attempts->count++] = (struct worker_attempt){.job = *job, .attempt = attempt, .team = team};
}

void
worker_attempt_remove(struct worker_link *link, struct worker_attempt *attempt)
{
    *attempt = link->attempts.items[--link->attempts.count];
}

void
worker_attempts_acked(struct worker_link *link, int64_t seq)
{
    struct worker_attempts *attempts = &link->attempts;
    size_t i = 0;

    while (i < attempts->count)
        if (attempts->items[i].report > 0 && attempts->items[i].report <= seq)
            worker_attempt_remove(link, &attempts->items[i]);
        else
            i++;
}

void
worker_attempts_reported(struct worker_link *link, const struct parcels_kept *kept)
{
    struct worker_attempt *attempt;
    size_t i;

    for (i = 0; i < link->attempts.count; i++)
        link->attempts.items[i].reported = false;
    for (i = 0; i < kept->reports.count; i++) {
        attempt = worker_attempt_find(link, &kept->reports.items[i].job, kept->reports.items[i].attempt);
        if (attempt)
            attempt->reported = true;
    }
}

void
worker_attempts_held(struct worker_link *link, const struct parcels_kept *kept, struct worker_attach *attach)
{
    size_t count = 0, max = link->attempts.count + kept->reports.count, i;
    struct held_attempt *held = muster_arena_alloc(link->arena, (max + 1) * sizeof *held);

    for (i = 0; i < link->attempts.count && count < HELD_MAX; i++)
        held[count++] = (struct held_attempt){link->attempts.items[i].job, link->attempts.items[i].attempt};
    for (i = 0; i < kept->reports.count && count < HELD_MAX; i++)
        if (!worker_attempt_find(link, &kept->reports.items[i].job, kept->reports.items[i].attempt))
            held[count++] = kept->reports.items[i];
    attach->held.items = held;
    attach->held.count = count;
}

size_t
worker_attempts_running(const struct worker_link *link)
{
    size_t count = 0, i;

    for (i = 0; i < link->attempts.count; i++)
        count += !link->attempts.items[i].reported && link->attempts.items[i].report == 0;
    return count;
}

/* ---- to agents and the log ---- */

void
worker_attempt_cancel(struct worker_link *link, const struct worker_attempt *attempt, bool park)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    struct agent_cancel cancel = {.job = attempt->job, .attempt = attempt->attempt, .park = park};
    char address[128];

    if (attempt->team == link->spec->team_count)
        return; /* of none of its agents */
    snprintf(address, sizeof address, MUSTER_AGENT_PREFIX "%s", link->spec->teams[attempt->team].name);
    worker_tell(link, address, &envelope, &agent_cancel_type, &cancel);
}

void
worker_attempt_report(struct worker_link *link, const struct muster_id *job, int64_t attempt, enum job_state state,
                      muster_err err, const char *message)
{
    struct queue_report report = {.job = *job, .attempt = attempt, .state = state};

    if (state == job_state_FAILED) {
        report.code = muster_err_code(err);
        report.message = message;
    }
    worker_tell_parcels(link, "", &log_report_type, &(struct log_report){.report = &report});
}

void
worker_on_ready(struct worker_link *link, const struct queue_ready *ready)
{
    const struct worker_attempt *attempt;
    size_t team, i;

    for (team = 0; team < link->spec->team_count; team++)
        if (strcmp(link->spec->teams[team].name, ready->team) == 0)
            break;
    if (team == link->spec->team_count)
        return;
    for (i = 0; link->ready[team] && i < link->attempts.count; i++) {
        attempt = &link->attempts.items[i];
        if (attempt->team == team && !attempt->report)
            worker_attempt_report(link, &attempt->job, attempt->attempt, job_state_FAILED, MUSTER_PROCESS_ERROR,
                                  "the team's agent was restarted");
    }
    link->ready[team] = true;
    worker_dial_when_ready(link);
}
