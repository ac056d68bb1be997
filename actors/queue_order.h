/* SPDX-License-Identifier: MPL-2.0 */
/* Who goes next, at which place a job stands, and when it is likely done.
 *
 * Each team has a line per priority.  A line is ordered by the time since when its jobs wait, and by their turn where
 * that is the same; it is kept as a tree, so that joining, leaving and counting who stands before a job take time in
 * the logarithm of its length.  All waiting jobs stand in it: those whose first commit is under way and those that wait
 * for their conversation or for a worker too, which are not `ready`.  They keep their places, are counted in the
 * positions of others, and are passed over when the next job is looked for.  Those that wait for a worker have a
 * second spot in a line of its site, in the same order; there they are ready.
 *
 * Pure data.  The queue actor's thread only; nothing fails. */
#ifndef ACTORS_QUEUE_ORDER_H
#define ACTORS_QUEUE_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct queue_job;
struct queue_team;
struct queue_table;

/* Where a job stands in a line. */
struct queue_spot {
    struct queue_job *job;           /* who stands there, while it is taken */
    struct queue_spot *left, *right; /* the parts of the tree before and behind it, below it */
    size_t count, ready_count;       /* spots in its part of the tree, itself included; those of them that are ready */
    int64_t since_ms;                /* it waits since then */
    int64_t turn;                    /* among those that wait since the same time */
    bool taken;                      /* it stands in the line */
    bool ready;                      /* it may be started */
};

struct queue_line {
    struct queue_spot *root;
};

/* Into the line where the spot's since_ms and turn say, and out of it. */
void queue_spot_join(struct queue_line *line, struct queue_spot *spot, bool ready);
void queue_spot_leave(struct queue_line *line, struct queue_spot *spot);

/* Join its team's line, not ready: behind all others, or with `first` before them.  spot.since_ms is since when it
 * waits; where others had better claims by a clock that was set, it is made to agree with its place. */
void queue_line_up(struct queue_table *table, struct queue_job *job, bool first);
void queue_line_leave(struct queue_job *job);
void queue_line_ready(struct queue_job *job, bool ready);

/* The next job of any team that has room and is not paused: highest priority, a step higher for every `aging_ms`
 * waited; the older of two.  One that is tied to a site only if that one has room.  NULL: none. */
struct queue_job *queue_next(const struct queue_table *table, int64_t now_ms);

/* How many waiting jobs of its team go before it as things are, and itself.  For a job that does not stand in its line:
 * if it joined now. */
int64_t queue_position(const struct queue_table *table, const struct queue_job *job, int64_t now_ms);
/* When it is likely done: at `position` behind the jobs that run, each taking as long as recent ones did, and not begun
 * before its time. */
int64_t queue_estimate(const struct queue_table *table, const struct queue_job *job, int64_t position, int64_t now_ms);
/* The same for a job that runs. */
int64_t queue_estimate_running(const struct queue_table *table, const struct queue_job *job, int64_t now_ms);

#endif
