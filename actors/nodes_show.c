/* SPDX-License-Identifier: MPL-2.0 */
/* nodes_show: what nodes publishes: all workers, and for each team whose driver is remote what its agent would publish
 * if it were here, made of what the workers said in their last beats.  Nothing here fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/nodes.h"

/* ---- workers --------------------------------------------------------------------------------------------------------
 */

static const struct muster_node_team *
show_teams(struct nodes *self, const struct worker *worker, struct muster_arena *arena)
{
    const struct muster_strs *names = &worker->record.teams;
    struct muster_node_team *teams = muster_arena_alloc(arena, (names->count + 1) * sizeof *teams);
    const struct nodes_team *team;
    size_t i, k;

    for (i = 0; i < names->count; i++) {
        (void)snprintf(teams[i].name, sizeof teams[i].name, "%s", names->items[i]);
        team = nodes_team_find(self, names->items[i]);
        teams[i].capacity = worker->offers ? worker->offers[i].capacity : 0;
        teams[i].fits = team && nodes_fits(worker, team->options);
        for (k = 0; team && k < worker->open.count; k++)
            teams[i].running += worker->open.items[k].team == team->options;
    }
    return teams;
}

static const struct muster_pair *
show_labels(const struct worker *worker, struct muster_arena *arena)
{
    const struct muster_pairs *labels = &worker->record.labels;
    struct muster_pair *copies = muster_arena_alloc(arena, (labels->count + 1) * sizeof *copies);
    size_t i;

    for (i = 0; i < labels->count; i++) {
        copies[i].name = muster_arena_str(arena, labels->items[i].name, strlen(labels->items[i].name));
        copies[i].value = muster_arena_str(arena, labels->items[i].value, strlen(labels->items[i].value));
    }
    return copies;
}

static bool
has_lease(const struct worker *worker)
{
    return worker->state == node_state_UP || worker->state == node_state_DRAINING || worker->state == node_state_AWAY;
}

static void
show_worker(struct nodes *self, const struct worker *worker, struct muster_arena *arena, struct muster_node_view *out)
{
    int64_t since_ms = muster_uptime_ms(self->ctx) - worker->heard_uptime_ms;

    *out = (struct muster_node_view){.state = worker->state,
                                     .draining = worker->record.draining,
                                     .attached_ms = worker->up_ms,
                                     .heard_ms = worker->heard_ms,
                                     .running = (int64_t)worker->open.count,
                                     .team_count = worker->record.teams.count,
                                     .label_count = worker->record.labels.count,
                                     .teams = show_teams(self, worker, arena),
                                     .labels = show_labels(worker, arena)};
    (void)snprintf(out->name, sizeof out->name, "%s", worker->record.name);
    (void)snprintf(out->host, sizeof out->host, "%s", worker->record.host ? worker->record.host : "");
    (void)snprintf(out->version, sizeof out->version, "%s", worker->record.version ? worker->record.version : "");
    if (has_lease(worker))
        out->lease_until_ms = muster_now_ms(self->ctx) + nodes_lease_ms(self) - since_ms;
    if (worker->beat == NULL)
        return;
    out->parcels = worker->beat->parcels;
    out->parcels_bytes = worker->beat->parcels_bytes;
    out->oldest_ms = worker->beat->oldest_ms;
    out->round_trip_ms = worker->beat->round_trip_ms;
    out->cpus = worker->beat->cpus;
    out->load = worker->beat->load;
}

static void
destroy_nodes(void *object)
{
    struct muster_nodes_view *view = object;

    muster_arena_free(&view->arena);
    free(view);
}

static void
publish_nodes(struct nodes *self)
{
    struct muster_nodes_view *view = muster_alloc(sizeof *view);
    struct muster_node_view *shown;
    size_t i;

    view->arena = muster_arena_new();
    shown = muster_arena_alloc(view->arena, (self->worker_count + 1) * sizeof *shown);
    for (i = 0; i < self->worker_count; i++)
        if (self->workers[i]->state != 0)
            show_worker(self, self->workers[i], view->arena, &shown[view->count++]);
    view->nodes = shown;
    view->attached = self->attaches;
    view->refused = self->refusals;
    view->lost = self->losses;
    view->parcels = self->parcels;
    view->stale = self->stale;
    muster_publish(self->ctx, MUSTER_NODES_BOARD, view, destroy_nodes);
}

/* ---- teams ----------------------------------------------------------------------------------------------------------
 */

static void
show_process(const struct worker_process *process, struct muster_process_view *out)
{
    *out = (struct muster_process_view){.pid = process->pid,
                                        .state = process->state,
                                        .started_ms = process->started_ms,
                                        .turns = process->turns,
                                        .job = process->job,
                                        .current = process->current,
                                        .total = process->total};
    if (process->session)
        (void)snprintf(out->session, sizeof out->session, "%s", process->session);
}

static void
add_beat(const struct worker_beat *beat, const char *team, struct muster_agent_view *view)
{
    const struct worker_problem *problem;
    size_t i;

    for (i = 0; i < beat->processes.count && view->count < MUSTER_VIEW_PROCESSES; i++)
        if (strcmp(beat->processes.items[i].team, team) == 0)
            show_process(&beat->processes.items[i], &view->processes[view->count++]);
    for (i = 0; i < beat->problems.count; i++) {
        problem = &beat->problems.items[i];
        if (strcmp(problem->team, team) != 0 || problem->at_ms < view->problem_ms)
            continue;
        (void)snprintf(view->problem, sizeof view->problem, "%s", problem->text);
        view->problem_ms = problem->at_ms;
    }
}

static void
publish_team(struct nodes *self, const struct nodes_team *team)
{
    struct muster_agent_view *view = muster_alloc(sizeof *view);
    char name[sizeof(MUSTER_AGENT_PREFIX) + 64];
    size_t i;

    for (i = 0; i < self->worker_count; i++)
        if (self->workers[i]->beat && has_lease(self->workers[i]))
            add_beat(self->workers[i]->beat, team->options->name, view);
    (void)snprintf(name, sizeof name, MUSTER_AGENT_PREFIX "%s", team->options->name);
    muster_publish(self->ctx, name, view, free);
}

static void
mark(struct nodes *self, const char *name)
{
    struct nodes_team *team = nodes_team_find(self, name);

    if (team)
        team->dirty = true;
}

void
nodes_show_worker(struct nodes *self, const struct worker *worker)
{
    size_t i;

    self->dirty = true;
    for (i = 0; i < worker->record.teams.count; i++)
        mark(self, worker->record.teams.items[i]);
}

void
nodes_publish(struct nodes *self)
{
    size_t i;

    if (self->dirty)
        publish_nodes(self);
    self->dirty = false;
    for (i = 0; i < self->team_count; i++)
        if (self->teams[i].dirty) {
            publish_team(self, &self->teams[i]);
            self->teams[i].dirty = false;
        }
}
