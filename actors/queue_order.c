/* SPDX-License-Identifier: MPL-2.0 */
/* queue_order: lines as treaps.  A treap is a binary search tree that is also a heap of random weights, which keeps it
 * shallow; splitting and merging are all it takes.  The queue actor's thread only; nothing fails. */
#include "actors/queue_order.h"

#include "actors/queue_table.h"

/* ---- the tree ---- */

static uint64_t
weight(const struct queue_job *job)
{
    return queue_scatter((uint64_t)job->spot.turn);
}

static size_t
count_of(const struct queue_job *job)
{
    return job ? job->spot.count : 0;
}

static size_t
ready_count_of(const struct queue_job *job)
{
    return job ? job->spot.ready_count : 0;
}

static void
tally(struct queue_job *job)
{
    struct queue_spot *spot = &job->spot;

    spot->count = 1 + count_of(spot->left) + count_of(spot->right);
    spot->ready_count = (spot->ready ? 1 : 0) + ready_count_of(spot->left) + ready_count_of(spot->right);
}

static bool
stands_before(const struct queue_job *a, const struct queue_job *b)
{
    return a->spot.since_ms != b->spot.since_ms ? a->spot.since_ms < b->spot.since_ms : a->spot.turn < b->spot.turn;
}

/* Divide a tree into what stands before `at` and the rest. */
static void
split(struct queue_job *root, const struct queue_job *at, struct queue_job **out_before, struct queue_job **out_behind)
{
    if (root == NULL) {
        *out_before = *out_behind = NULL;
        return;
    }
    if (stands_before(root, at)) {
        split(root->spot.right, at, &root->spot.right, out_behind);
        *out_before = root;
    } else {
        split(root->spot.left, at, out_before, &root->spot.left);
        *out_behind = root;
    }
    tally(root);
}

/* Make one tree of two; all of `before` stand before all of `behind`. */
static struct queue_job *
merge(struct queue_job *before, struct queue_job *behind)
{
    if (before == NULL || behind == NULL)
        return before ? before : behind;
    if (weight(before) > weight(behind)) {
        before->spot.right = merge(before->spot.right, behind);
        tally(before);
        return before;
    }
    behind->spot.left = merge(before, behind->spot.left);
    tally(behind);
    return behind;
}

/* ---- joining and leaving ---- */

static struct queue_line *
line_of(const struct queue_job *job)
{
    return &job->team->lines[job->priority];
}

static const struct queue_job *
first_of(const struct queue_line *line)
{
    const struct queue_job *job = line->root;

    while (job && job->spot.left)
        job = job->spot.left;
    return job;
}

static const struct queue_job *
last_of(const struct queue_line *line)
{
    const struct queue_job *job = line->root;

    while (job && job->spot.right)
        job = job->spot.right;
    return job;
}

void
queue_line_up(struct queue_table *table, struct queue_job *job, bool first)
{
    struct queue_line *line = line_of(job);
    const struct queue_job *other = first ? first_of(line) : last_of(line);
    struct queue_job *before, *behind;

    if (other && first != (job->spot.since_ms < other->spot.since_ms))
        job->spot.since_ms = other->spot.since_ms;
    job->spot.turn = first ? table->first_turn-- : table->last_turn++;
    job->spot.left = job->spot.right = NULL;
    job->spot.taken = true;
    job->spot.ready = false;
    tally(job);
    split(line->root, job, &before, &behind);
    line->root = merge(merge(before, job), behind);
}

void
queue_line_leave(struct queue_job *job)
{
    struct queue_job **place = &line_of(job)->root;

    while (*place != job) {
        (*place)->spot.count--;
        (*place)->spot.ready_count -= job->spot.ready ? 1 : 0;
        place = stands_before(job, *place) ? &(*place)->spot.left : &(*place)->spot.right;
    }
    *place = merge(job->spot.left, job->spot.right);
    job->spot.left = job->spot.right = NULL;
    job->spot.taken = job->spot.ready = false;
}

void
queue_line_ready(struct queue_job *job, bool ready)
{
    struct queue_job *at;

    if (job->spot.ready == ready)
        return;
    for (at = line_of(job)->root; at != job; at = stands_before(job, at) ? at->spot.left : at->spot.right)
        at->spot.ready_count = ready ? at->spot.ready_count + 1 : at->spot.ready_count - 1;
    job->spot.ready = ready;
    tally(job);
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
    return rank_a != rank_b ? rank_a > rank_b : stands_before(a, b);
}

static struct queue_job *
first_ready(const struct queue_line *line)
{
    struct queue_job *job = line->root;

    if (ready_count_of(job) == 0)
        return NULL;
    for (;;) {
        if (ready_count_of(job->spot.left) > 0)
            job = job->spot.left;
        else if (job->spot.ready)
            return job;
        else
            job = job->spot.right;
    }
}

struct queue_job *
queue_next_of(const struct queue_table *table, const struct queue_team *team, int64_t now_ms)
{
    struct queue_job *best = NULL, *job;
    int priority;

    for (priority = QUEUE_PRIORITIES - 1; priority >= 0; priority--) {
        job = first_ready(&team->lines[priority]);
        if (job && goes_before(table, job, best, now_ms))
            best = job;
    }
    return best;
}

struct queue_job *
queue_next(const struct queue_table *table, int64_t now_ms)
{
    struct queue_job *best = NULL, *job;
    size_t i;

    for (i = 0; i < table->team_count; i++) {
        const struct queue_team *team = &table->teams[i];

        if (team->paused || team->address == NULL || team->running >= team->capacity)
            continue;
        job = queue_next_of(table, team, now_ms);
        if (job && goes_before(table, job, best, now_ms))
            best = job;
    }
    return best;
}

/* ---- places and estimates ---- */

static size_t
count_before(const struct queue_table *table, const struct queue_line *line, const struct queue_job *job,
             int64_t now_ms)
{
    const struct queue_job *at = line->root;
    size_t before = 0;

    while (at) {
        if (goes_before(table, at, job, now_ms)) {
            before += 1 + count_of(at->spot.left);
            at = at->spot.right;
        } else {
            at = at->spot.left;
        }
    }
    return before;
}

int64_t
queue_position(const struct queue_table *table, const struct queue_job *job, int64_t now_ms)
{
    const struct queue_job *last = last_of(line_of(job));
    struct queue_job newest = {.team = job->team, .priority = job->priority};
    size_t before = 0;
    int i;

    newest.spot.since_ms = last && last->spot.since_ms > now_ms ? last->spot.since_ms : now_ms;
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

/* Jobs of the team that run at a time; of an agent that is not ready, as it is configured. */
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
