/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_tasks: the deliveries in memory, which of them is due next, and how many requests a host has open.  Cannot
 * fail.  The actor bounds how many are held. */
#include <stdlib.h>
#include <string.h>

#include "actors/webhook.h"

#define MAX_PER_HOST 4

/* ---- all deliveries by job ------------------------------------------------------------------------------------------
 */

/* Ids end in random bits. */
static struct webhook_task **
bucket_of(struct webhook_tasks *tasks, const struct muster_id *job)
{
    size_t number;

    memcpy(&number, job->bytes + sizeof job->bytes - sizeof number, sizeof number);
    return &tasks->buckets[number % WEBHOOK_BUCKETS];
}

bool
webhook_task_is_held(struct webhook_tasks *tasks, const struct muster_id *job)
{
    const struct webhook_task *task;

    for (task = *bucket_of(tasks, job); task; task = task->chain)
        if (muster_id_equal(&task->job, job))
            return true;
    return false;
}

void
webhook_task_add(struct webhook_tasks *tasks, struct webhook_actor *self, const struct delivery *record)
{
    struct webhook_task *task = muster_alloc(sizeof *task), **bucket = bucket_of(tasks, &record->id);

    task->self = self;
    task->job = record->id;
    task->state = record->state;
    task->tries = record->tries;
    task->status = (long)record->status;
    task->chain = *bucket;
    *bucket = task;
    tasks->held++;
    webhook_due_put(tasks, task, record->next_ms);
}

void
webhook_task_free(struct webhook_tasks *tasks, struct webhook_task *task)
{
    struct webhook_task **link = bucket_of(tasks, &task->job);

    while (*link != task)
        link = &(*link)->chain;
    *link = task->chain;
    tasks->held--;
    free(task);
}

/* ---- due: a heap ----------------------------------------------------------------------------------------------------
 */

static bool
is_before(const struct webhook_task *a, const struct webhook_task *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

void
webhook_due_put(struct webhook_tasks *tasks, struct webhook_task *task, int64_t due_ms)
{
    size_t at = tasks->heap_count++, up;

    if (tasks->heap_count > tasks->heap_capacity) {
        tasks->heap_capacity = tasks->heap_capacity ? 2 * tasks->heap_capacity : 64;
        tasks->heap = muster_realloc(tasks->heap, tasks->heap_capacity * sizeof(struct webhook_task *));
    }
    task->due_ms = due_ms;
    task->order = ++tasks->last_order;
    for (; at > 0 && is_before(task, tasks->heap[up = (at - 1) / 2]); at = up)
        tasks->heap[at] = tasks->heap[up];
    tasks->heap[at] = task;
}

const struct webhook_task *
webhook_due_first(const struct webhook_tasks *tasks)
{
    return tasks->heap_count > 0 ? tasks->heap[0] : NULL;
}

struct webhook_task *
webhook_due_take(struct webhook_tasks *tasks)
{
    struct webhook_task *first = tasks->heap[0], *last = tasks->heap[--tasks->heap_count];
    size_t at = 0, down;

    while ((down = 2 * at + 1) < tasks->heap_count) {
        if (down + 1 < tasks->heap_count && is_before(tasks->heap[down + 1], tasks->heap[down]))
            down++;
        if (!is_before(tasks->heap[down], last))
            break;
        tasks->heap[at] = tasks->heap[down];
        at = down;
    }
    tasks->heap[at] = last;
    return first;
}

/* ---- hosts ----------------------------------------------------------------------------------------------------------
 */

static struct webhook_host *
host_of(struct webhook_tasks *tasks, const char *name)
{
    struct webhook_host *host;

    for (host = tasks->hosts; host; host = host->next)
        if (strcmp(host->name, name) == 0)
            return host;
    host = muster_alloc(sizeof *host);
    host->name = muster_strdup(name);
    host->last = &host->first;
    host->next = tasks->hosts;
    tasks->hosts = host;
    return host;
}

static void
host_free(struct webhook_tasks *tasks, struct webhook_host *host)
{
    struct webhook_host **link = &tasks->hosts;

    while (*link != host)
        link = &(*link)->next;
    *link = host->next;
    free(host->name);
    free(host);
}

bool
webhook_slot_take(struct webhook_tasks *tasks, struct webhook_task *task, const char *host_name)
{
    struct webhook_host *host;

    if (task->host)
        return true;
    host = host_of(tasks, host_name);
    if (host->slots < MAX_PER_HOST) {
        host->slots++;
        task->host = host;
        return true;
    }
    task->next = NULL;
    *host->last = task;
    host->last = &task->next;
    return false;
}

void
webhook_slot_leave(struct webhook_tasks *tasks, struct webhook_task *task)
{
    struct webhook_host *host = task->host;
    struct webhook_task *next;

    if (host == NULL)
        return;
    task->host = NULL;
    next = host->first;
    if (next) {
        host->first = next->next;
        if (host->first == NULL)
            host->last = &host->first;
        next->host = host;
        webhook_due_put(tasks, next, next->due_ms);
    } else if (--host->slots == 0) {
        host_free(tasks, host);
    }
}

/* ---- saving ---------------------------------------------------------------------------------------------------------
 */

void
webhook_saving_put(struct webhook_tasks *tasks, struct webhook_task *task)
{
    task->next = tasks->saving;
    tasks->saving = task;
}

struct webhook_task *
webhook_saving_take(struct webhook_tasks *tasks, int64_t token)
{
    struct webhook_task **link = &tasks->saving, *task;

    while (*link && (*link)->token != token)
        link = &(*link)->next;
    task = *link;
    if (task)
        *link = task->next;
    return task;
}

/* ---- end ------------------------------------------------------------------------------------------------------------
 */

void
webhook_tasks_fini(struct webhook_tasks *tasks)
{
    size_t i;

    for (i = 0; i < WEBHOOK_BUCKETS; i++)
        while (tasks->buckets[i])
            webhook_task_free(tasks, tasks->buckets[i]);
    while (tasks->hosts)
        host_free(tasks, tasks->hosts);
    free(tasks->heap);
}
