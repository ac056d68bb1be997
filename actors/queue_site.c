/* SPDX-License-Identifier: MPL-2.0 */
/* queue_site: lists of sites, one a team.  What a team keeps about all of them is brought up to date with each change
 * of one, so that looking for the next job costs a team without room nothing.  The queue actor's thread only; nothing
 * fails. */
#include "actors/queue_site.h"

#include <stdlib.h>
#include <string.h>

#include "actors/queue_conversation.h"

struct queue_site *
queue_site_find(const struct queue_team *team, const char *node)
{
    struct queue_site *site = team->sites;

    while (site && strcmp(site->node, node) != 0)
        site = site->next;
    return site;
}

struct queue_site *
queue_site_get(struct queue_team *team, const char *node)
{
    struct queue_site *site = queue_site_find(team, node), **end;

    if (site)
        return site;
    for (end = &team->sites; *end; end = &(*end)->next)
        ;
    site = *end = muster_alloc(sizeof *site);
    site->team = team;
    site->node = muster_strdup(node);
    site->state = node_state_LOST;
    if (queue_site_is_worker(site))
        site->address = muster_strdup(MUSTER_NODES);
    return site;
}

/* What its team keeps of it. */
static void
update(struct queue_site *site)
{
    struct queue_team *team = site->team;
    bool open = queue_site_serves(site) && site->running < site->capacity;
    int64_t counted = site->state == node_state_UP ? site->capacity : 0;

    if (open != site->open)
        team->open = open ? team->open + 1 : team->open - 1;
    if (counted != site->counted)
        team->dirty = true;
    team->capacity += counted - site->counted;
    site->open = open;
    site->counted = counted;
}

void
queue_site_reach(struct queue_site *site, const char *address)
{
    char *copy = address ? muster_strdup(address) : NULL;

    free(site->address);
    site->address = copy;
    update(site);
}

void
queue_site_set(struct queue_site *site, enum node_state state, int64_t capacity)
{
    site->state = state;
    site->capacity = capacity;
    update(site);
}

/* ---- jobs that run ---- */

static bool
is_better(const struct queue_site *a, const struct queue_site *b)
{
    int64_t load_a, load_b;

    if (b == NULL)
        return true;
    load_a = a->running * b->capacity; /* as parts of capacity, without a division */
    load_b = b->running * a->capacity;
    return load_a != load_b ? load_a < load_b : a->given < b->given;
}

struct queue_site *
queue_site_choose(const struct queue_team *team)
{
    struct queue_site *best = NULL, *site;

    for (site = team->sites; site; site = site->next)
        if (site->open && is_better(site, best))
            best = site;
    return best;
}

void
queue_site_enter(struct queue_site *site, struct queue_job *job)
{
    job->site = site;
    job->before = NULL;
    job->behind = site->runs;
    if (site->runs)
        site->runs->before = job;
    site->runs = job;
    site->running++;
    update(site);
}

void
queue_site_leave(struct queue_job *job)
{
    struct queue_site *site = job->site;

    if (site == NULL)
        return;
    *(job->before ? &job->before->behind : &site->runs) = job->behind;
    if (job->behind)
        job->behind->before = job->before;
    job->site = NULL;
    job->before = job->behind = NULL;
    site->running--;
    update(site);
}

/* ---- jobs that wait for a site ---- */

void
queue_tie(struct queue_job *job, struct queue_site *site)
{
    struct queue_tie *tie = muster_alloc(sizeof *tie);

    queue_line_ready(job, false);
    tie->site = site;
    tie->spot.job = job;
    tie->spot.since_ms = job->spot.since_ms;
    tie->spot.turn = job->spot.turn;
    queue_spot_join(&site->lines[job->priority], &tie->spot, true);
    site->tied++;
    site->team->tied++;
    job->tie = tie;
}

void
queue_untie(struct queue_job *job)
{
    struct queue_tie *tie = job->tie;

    if (tie == NULL)
        return;
    queue_spot_leave(&tie->site->lines[job->priority], &tie->spot);
    tie->site->tied--;
    tie->site->team->tied--;
    free(tie);
    job->tie = NULL;
    queue_line_ready(job, queue_conversation_allows(job));
}

static void
visit_all(struct queue_spot *spot, void (*visit)(void *arg, struct queue_job *job), void *arg)
{
    if (spot == NULL)
        return;
    visit_all(spot->left, visit, arg);
    visit(arg, spot->job);
    visit_all(spot->right, visit, arg);
}

void
queue_site_each_tied(const struct queue_site *site, void (*visit)(void *arg, struct queue_job *job), void *arg)
{
    int priority;

    for (priority = QUEUE_PRIORITIES - 1; priority >= 0; priority--)
        visit_all(site->lines[priority].root, visit, arg);
}

/* ---- the end ---- */

static void
forget(struct queue_site **at)
{
    struct queue_site *site = *at;

    *at = site->next;
    free(site->node);
    free(site->address);
    free(site);
}

void
queue_sites_sweep(struct queue_table *table)
{
    size_t i;

    for (i = 0; i < table->team_count; i++) {
        struct queue_site **at = &table->teams[i].sites;

        while (*at) {
            bool gone = (*at)->state == node_state_LOST || (*at)->state == node_state_LEFT;

            if (queue_site_is_worker(*at) && gone && (*at)->running == 0 && (*at)->tied == 0)
                forget(at);
            else
                at = &(*at)->next;
        }
    }
}

void
queue_sites_free(struct queue_team *team)
{
    while (team->sites)
        forget(&team->sites);
}
