/* SPDX-License-Identifier: MPL-2.0 */
/* queue_order: lines as treaps.  A treap is a binary search tree that is also a heap of random weights, which keeps it
 * shallow; splitting and merging are all it takes.  The queue actor's thread only; nothing fails. */
#include "actors/queue_order.h"

#include "actors/queue_site.h"

/* ---- the tree ---- */

static uint64_t
weight(const struct queue_spot *spot)
{
    return queue_scatter((uint64_t)spot->turn);
}

static size_t
count_of(const struct queue_spot *spot)
{
    return spot ? spot->count : 0;
}

static size_t
ready_count_of(const struct queue_spot *spot)
{
    return spot ? spot->ready_count : 0;
}

static void
tally(struct queue_spot *spot)
{
    spot->count = 1 + count_of(spot->left) + count_of(spot->right);
    spot->ready_count = (spot->ready ? 1 : 0) + ready_count_of(spot->left) + ready_count_of(spot->right);
}

static bool
stands_before(const struct queue_spot *a, const struct queue_spot *b)
{
    return a->since_ms != b->since_ms ? a->since_ms < b->since_ms : a->turn < b->turn;
}

/* Divide a tree into what stands before `at` and the rest. */
static void
split(struct queue_spot *root, const struct queue_spot *at, struct queue_spot **out_before,
      struct queue_spot **out_behind)
{
    if (root == NULL) {
        *out_before = *out_behind = NULL;
        return;
    }
    if (stands_before(root, at)) {
        split(root->right, at, &root->right, out_behind);
        *out_before = root;
    } else {
        split(root->left, at, out_before, &root->left);
        *out_behind = root;
    }
    tally(root);
}

/* Make one tree of two; all of `before` stand before all of `behind`. */
static struct queue_spot *
merge(struct queue_spot *before, struct queue_spot *behind)
{
    if (before == NULL || behind == NULL)
        return before ? before : behind;
    if (weight(before) > weight(behind)) {
        before->right = merge(before->right, behind);
        tally(before);
        return before;
    }
    behind->left = merge(before, behind->left);
    tally(behind);
    return behind;
}

/* ---- joining and leaving ---- */

static struct queue_line *
line_of(const struct queue_job *job)
{
    return &job->team->lines[job->priority];
}

static const struct queue_spot *
first_of(const struct queue_line *line)
{
    const struct queue_spot *spot = line->root;

    while (spot && spot->left)
        spot = spot->left;
    return spot;
}

static const struct queue_spot *
last_of(const struct queue_line *line)
{
    const struct queue_spot *spot = line->root;

    while (spot && spot->right)
        spot = spot->right;
    return spot;
}

void
queue_spot_join(struct queue_line *line, struct queue_spot *spot, bool ready)
{
    struct queue_spot *before, *behind;

    spot->left = spot->right = NULL;
    spot->taken = true;
    spot->ready = ready;
    tally(spot);
    split(line->root, spot, &before, &behind);
    line->root = merge(merge(before, spot), behind);
}

void
queue_spot_leave(struct queue_line *line, struct queue_spot *spot)
{
    struct queue_spot **place = &line->root;

    while (*place != spot) {
        (*place)->count--;
        (*place)->ready_count -= spot->ready ? 1 : 0;
        place = stands_before(spot, *place) ? &(*place)->left : &(*place)->right;
    }
    *place = merge(spot->left, spot->right);
    spot->left = spot->right = NULL;
    spot->taken = spot->ready = false;
}

void
queue_line_up(struct queue_table *table, struct queue_job *job, bool first)
{
    struct queue_line *line = line_of(job);
    const struct queue_spot *other = first ? first_of(line) : last_of(line);

    if (other && first != (job->spot.since_ms < other->since_ms))
        job->spot.since_ms = other->since_ms;
    job->spot.job = job;
    job->spot.turn = first ? table->first_turn-- : table->last_turn++;
    queue_spot_join(line, &job->spot, false);
}

void
queue_line_leave(struct queue_job *job)
{
    queue_spot_leave(line_of(job), &job->spot);
}

void
queue_line_ready(struct queue_job *job, bool ready)
{
    struct queue_spot *spot = &job->spot, *at;

    if (spot->ready == ready)
        return;
    for (at = line_of(job)->root; at != spot; at = stands_before(spot, at) ? at->left : at->right)
        at->ready_count = ready ? at->ready_count + 1 : at->ready_count - 1;
    spot->ready = ready;
    tally(spot);
}

/* ---- who goes next ---- */

static int64_t
rank(const struct queue_table *table, const struct queue_job *job, int64_t now_ms)
{
    int64_t waited_ms = now_ms - job->spot.since_ms;

    return (int64_t)job->priority + (waited_ms > 0 ? waited_ms / table->aging_ms : 0); /* the clock may be set back */
}

/* Within a line this is the order of the line, whatever the time. */
static bool
goes_before(const struct queue_table *table, const struct queue_job *a, const struct queue_job *b, int64_t now_ms)
{
    int64_t rank_a, rank_b;

    if (b == NULL)
        return true;
    rank_a = rank(table, a, now_ms);
    rank_b = rank(table, b, now_ms);
    return rank_a != rank_b ? rank_a > rank_b : stands_before(&a->spot, &b->spot);
}

static struct queue_job *
first_ready(const struct queue_line *line)
{
    struct queue_spot *spot = line->root;

    if (ready_count_of(spot) == 0)
        return NULL;
    for (;;) {
        if (ready_count_of(spot->left) > 0)
            spot = spot->left;
        else if (spot->ready)
            return spot->job;
        else
            spot = spot->right;
    }
}

/* Of those in the lines and `best`, which may be NULL. */
static struct queue_job *
best_of(const struct queue_table *table, const struct queue_line *lines, struct queue_job *best, int64_t now_ms)
{
    int priority;

    for (priority = QUEUE_PRIORITIES - 1; priority >= 0; priority--) {
        struct queue_job *job = first_ready(&lines[priority]);

        if (job && goes_before(table, job, best, now_ms))
            best = job;
    }
    return best;
}

/* The team's next job: highest priority, a step higher for every `aging_ms` waited; the older of two. */
static struct queue_job *
next_of(const struct queue_table *table, const struct queue_team *team, struct queue_job *best, int64_t now_ms)
{
    const struct queue_site *site;

    best = best_of(table, team->lines, best, now_ms);
    for (site = team->tied > 0 ? team->sites : NULL; site; site = site->next)
        if (site->open && site->tied > 0)
            best = best_of(table, site->lines, best, now_ms);
    return best;
}

struct queue_job *
queue_next(const struct queue_table *table, int64_t now_ms)
{
    struct queue_job *best = NULL;
    size_t i;

    for (i = 0; i < table->team_count; i++) {
        const struct queue_team *team = &table->teams[i];

        if (!team->paused && team->open > 0 && !(team->remote && table->stalled))
            best = next_of(table, team, best, now_ms);
    }
    return best;
}

/* ---- places and estimates ---- */

static size_t
count_before(const struct queue_table *table, const struct queue_line *line, const struct queue_job *job,
             int64_t now_ms)
{
    const struct queue_spot *at = line->root;
    size_t before = 0;

    while (at) {
        if (goes_before(table, at->job, job, now_ms)) {
            before += 1 + count_of(at->left);
            at = at->right;
        } else {
            at = at->left;
        }
    }
    return before;
}

int64_t
queue_position(const struct queue_table *table, const struct queue_job *job, int64_t now_ms)
{
    const struct queue_spot *last = last_of(line_of(job));
    struct queue_job newest = {.team = job->team, .priority = job->priority};
    size_t before = 0;
    int i;

    newest.spot.since_ms = last && last->since_ms > now_ms ? last->since_ms : now_ms;
    newest.spot.turn = INT64_MAX;
    for (i = 0; i < QUEUE_PRIORITIES; i++)
        before += count_before(table, &job->team->lines[i], job->spot.taken ? job : &newest, now_ms);
    return (int64_t)before + 1;
}

static int64_t
mean_ms(const struct queue_table *table, const struct queue_team *team)
{
    return team->mean_ms > 0 ? team->mean_ms : table->first_estimate_ms;
}

/* Jobs of the team that run at a time; while nobody is there who does them, as it is configured. */
static int64_t
lanes(const struct queue_table *table, const struct queue_team *team)
{
    int64_t count = team->capacity;

    if (count < 1)
        count = team->options ? team->options->concurrency : 1;
    return count < table->max_running ? count : table->max_running;
}

int64_t
queue_estimate(const struct queue_table *table, const struct queue_job *job, int64_t position, int64_t now_ms)
{
    int64_t ahead = position - 1 + job->team->running;
    int64_t begin_ms = now_ms + ahead / lanes(table, job->team) * mean_ms(table, job->team);

    if (begin_ms < job->not_before_ms)
        begin_ms = job->not_before_ms;
    return begin_ms + mean_ms(table, job->team);
}

int64_t
queue_estimate_running(const struct queue_table *table, const struct queue_job *job, int64_t now_ms)
{
    int64_t end_ms = job->started_ms + mean_ms(table, job->team);

    return end_ms > now_ms ? end_ms : now_ms;
}
