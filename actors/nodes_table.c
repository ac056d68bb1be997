/* SPDX-License-Identifier: MPL-2.0 */
/* nodes_table: who there is, by name and by attachment, and which attempts each worker has.  Nothing here fails. */
#include <stdlib.h>
#include <string.h>

#include "actors/nodes.h"

/* ---- attempts -------------------------------------------------------------------------------------------------------
 */

/* Where it is, or would be. */
static size_t
attempt_place(const struct nodes_attempts *attempts, const struct muster_id *job, int64_t attempt)
{
    size_t low = 0, high = attempts->count, middle;

    while (low < high) {
        const struct nodes_attempt *item;
        int order;

        middle = low + (high - low) / 2;
        item = &attempts->items[middle];
        order = memcmp(&item->job, job, sizeof *job);
        if (order < 0 || (order == 0 && item->attempt < attempt))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct nodes_attempt *
nodes_attempt_find(const struct nodes_attempts *attempts, const struct muster_id *job, int64_t attempt)
{
    size_t at = attempt_place(attempts, job, attempt);

    if (at == attempts->count || attempts->items[at].attempt != attempt ||
        !muster_id_equal(&attempts->items[at].job, job))
        return NULL;
    return &attempts->items[at];
}

struct nodes_attempt *
nodes_attempt_add(struct nodes_attempts *attempts, const struct muster_id *job, int64_t attempt)
{
    struct nodes_attempt *item = nodes_attempt_find(attempts, job, attempt);
    size_t at;

    if (item)
        return item;
    at = attempt_place(attempts, job, attempt);
    if (attempts->count == attempts->capacity) {
        attempts->capacity = attempts->capacity ? 2 * attempts->capacity : 16;
        attempts->items = muster_realloc(attempts->items, attempts->capacity * sizeof *attempts->items);
    }
    item = &attempts->items[at];
    memmove(item + 1, item, (attempts->count - at) * sizeof *item);
    attempts->count++;
    *item = (struct nodes_attempt){.job = *job, .attempt = attempt, .trace = muster_strdup("")};
    return item;
}

void
nodes_attempt_remove(struct nodes_attempts *attempts, struct nodes_attempt *item)
{
    size_t at = (size_t)(item - attempts->items);

    free(item->trace);
    attempts->count--;
    memmove(item, item + 1, (attempts->count - at) * sizeof *item);
}

void
nodes_attempts_free(struct nodes_attempts *attempts)
{
    size_t i;

    for (i = 0; i < attempts->count; i++)
        free(attempts->items[i].trace);
    free(attempts->items);
    *attempts = (struct nodes_attempts){.items = NULL};
}

/* ---- by name --------------------------------------------------------------------------------------------------------
 */

static size_t
name_place(const struct nodes *self, const char *name)
{
    size_t low = 0, high = self->worker_count, middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (strcmp(self->workers[middle]->record.name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct worker *
nodes_find(const struct nodes *self, const char *name)
{
    size_t at = name_place(self, name);

    return at < self->worker_count && strcmp(self->workers[at]->record.name, name) == 0 ? self->workers[at] : NULL;
}

/* Put the worker into a list that is in order. */
static void
insert(struct worker ***list, size_t *count, size_t *capacity, size_t at, struct worker *worker)
{
    if (*count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 16;
        *list = muster_realloc(*list, *capacity * sizeof **list);
    }
    memmove(*list + at + 1, *list + at, (*count - at) * sizeof **list);
    (*list)[at] = worker;
    (*count)++;
}

struct worker *
nodes_add(struct nodes *self, const char *name)
{
    struct worker *worker = muster_alloc(sizeof *worker);

    worker->number = self->last_number++;
    worker->last = &worker->first;
    nodes_set_record(worker, &(struct node){.id = muster_id_of("node", name), .name = name, .epoch = ""}, NULL);
    insert(&self->workers, &self->worker_count, &self->worker_capacity, name_place(self, name), worker);
    return worker;
}

void
nodes_free_worker(struct worker *worker)
{
    struct nodes_parcel *parcel;

    while ((parcel = worker->first)) {
        worker->first = parcel->next;
        muster_caller_free(&parcel->caller);
        free(parcel);
    }
    nodes_free_join(&worker->join);
    muster_caller_free(&worker->caller);
    nodes_attempts_free(&worker->open);
    muster_buf_free(&worker->parts.data);
    muster_arena_free(&worker->facts);
    if (worker->beat_arena)
        muster_arena_free(&worker->beat_arena);
    free(worker);
}

void
nodes_remove(struct nodes *self, struct worker *worker)
{
    size_t at = name_place(self, worker->record.name);
    uint64_t timer;

    nodes_unset_attached(self, worker);
    self->worker_count--;
    memmove(self->workers + at, self->workers + at + 1, (self->worker_count - at) * sizeof *self->workers);
    for (timer = 0; timer < NODES_TIMERS; timer++)
        muster_timer_end(self->ctx, NODES_TIMER_WORKER + NODES_TIMERS * worker->number + timer);
    nodes_free_worker(worker);
}

/* ---- by attachment --------------------------------------------------------------------------------------------------
 */

static size_t
attachment_place(const struct nodes *self, int64_t attachment)
{
    size_t low = 0, high = self->attached_count, middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (self->attached[middle]->attachment < attachment)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct worker *
nodes_find_attached(const struct nodes *self, int64_t attachment)
{
    size_t at = attachment_place(self, attachment);

    return at < self->attached_count && self->attached[at]->attachment == attachment ? self->attached[at] : NULL;
}

void
nodes_set_attached(struct nodes *self, struct worker *worker, int64_t attachment)
{
    worker->attachment = attachment;
    insert(&self->attached, &self->attached_count, &self->attached_capacity, attachment_place(self, attachment),
           worker);
}

void
nodes_unset_attached(struct nodes *self, struct worker *worker)
{
    size_t at = attachment_place(self, worker->attachment);

    if (worker->attachment == 0)
        return;
    self->attached_count--;
    memmove(self->attached + at, self->attached + at + 1, (self->attached_count - at) * sizeof *self->attached);
    worker->attachment = 0;
}

/* ---- teams ----------------------------------------------------------------------------------------------------------
 */

struct nodes_team *
nodes_team_find(const struct nodes *self, const char *name)
{
    size_t i;

    for (i = 0; i < self->team_count; i++)
        if (strcmp(self->teams[i].options->name, name) == 0)
            return &self->teams[i];
    return NULL;
}

static bool
says(const struct worker *worker, const struct muster_pair *label)
{
    const struct muster_pairs *labels = &worker->record.labels;
    size_t i;

    for (i = 0; i < labels->count; i++)
        if (strcmp(labels->items[i].name, label->name) == 0)
            return strcmp(labels->items[i].value, label->value) == 0;
    return false;
}

bool
nodes_fits(const struct worker *worker, const struct team_options *team)
{
    size_t i;

    for (i = 0; i < team->labels.count; i++)
        if (!says(worker, &team->labels.items[i]))
            return false;
    return true;
}

struct worker *
nodes_of_attempt(const struct nodes *self, const struct muster_id *job, int64_t attempt)
{
    size_t i;

    for (i = 0; i < self->worker_count; i++)
        if (nodes_attempt_find(&self->workers[i]->open, job, attempt))
            return self->workers[i];
    return NULL;
}
