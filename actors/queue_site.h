/* SPDX-License-Identifier: MPL-2.0 */
/* Sites: where a team's jobs are done.  That is the team's own agent, or, with the driver remote, workers, one site
 * each.
 *
 * A site with room takes any job of its team.  A job whose agent's session lies with a worker may go to that one only:
 * when that has no room, the job is tied to its site, where it keeps its rank without being looked at again.
 *
 * Pure data.  The queue actor's thread only; nothing fails. */
#ifndef ACTORS_QUEUE_SITE_H
#define ACTORS_QUEUE_SITE_H

#include "actors/queue_table.h"

struct queue_site {
    struct queue_site *next; /* of its team */
    struct queue_team *team;
    char *node;                                /* the worker's name; "": the team's own agent */
    char *address;                             /* who takes its messages; NULL: an agent that is being restarted */
    enum node_state state;                     /* of an agent: UP once it has been ready */
    bool told;                                 /* nodes has spoken of it since the queue began */
    int64_t capacity;                          /* jobs it takes at a time */
    int64_t running;                           /* jobs it has */
    int64_t attachment;                        /* of the worker, as nodes said last */
    int64_t given;                             /* jobs given to all sites when it was given its last one */
    bool open;                                 /* it has room */
    int64_t counted;                           /* its part of the team's capacity */
    struct queue_job *runs;                    /* jobs it has */
    struct queue_line lines[QUEUE_PRIORITIES]; /* jobs tied to it */
    size_t tied;
};

/* A job that waits for a site. */
struct queue_tie {
    struct queue_spot spot; /* in the site's line; must be first */
    struct queue_site *site;
    int64_t gone_ms; /* unix ms since when the site takes no jobs at all; 0: it only has no room */
};

/* NULL: there is none. */
struct queue_site *queue_site_find(const struct queue_team *team, const char *node);
/* The site, made if need be: of a worker, or with "" of an agent, that is not there. */
struct queue_site *queue_site_get(struct queue_team *team, const char *node);
/* Set who takes its messages; `address` may be NULL. */
void queue_site_reach(struct queue_site *site, const char *address);
/* Set how it stands and how many jobs it takes. */
void queue_site_set(struct queue_site *site, enum node_state state, int64_t capacity);
/* The site for a job that may go anywhere: the least busy one with room; of several the one that was given nothing for
 * the longest time.  NULL: none has room. */
struct queue_site *queue_site_choose(const struct queue_team *team);

static inline bool
queue_site_is_worker(const struct queue_site *site)
{
    return site->node[0] != '\0';
}

/* Does it take jobs, when it has room? */
static inline bool
queue_site_serves(const struct queue_site *site)
{
    return site->address && site->state == node_state_UP && site->capacity > 0;
}

/* A job begins to run there, or does no longer, for jobs that run nowhere too. */
void queue_site_enter(struct queue_site *site, struct queue_job *job);
void queue_site_leave(struct queue_job *job);

/* Have a waiting job wait for that site, and the reverse, for jobs that are not tied too.  It is ready in its team's
 * line when it is not tied. */
void queue_tie(struct queue_job *job, struct queue_site *site);
void queue_untie(struct queue_job *job);
/* Call `visit` for all jobs that wait for it.  It must not change who does. */
void queue_site_each_tied(const struct queue_site *site, void (*visit)(void *arg, struct queue_job *job), void *arg);

/* Forget sites of workers that are gone and have no jobs and none that wait for them. */
void queue_sites_sweep(struct queue_table *table);
void queue_sites_free(struct queue_team *team);

#endif
