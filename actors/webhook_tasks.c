/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_tasks: the callbacks in memory, by job and by what the store was last told.  Cannot fail.  How many are held
 * is bounded by webhook_deliveries. */
#include <stdlib.h>
#include <string.h>

#include "actors/webhook.h"

/* ---- all by job -----------------------------------------------------------------------------------------------------
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

struct webhook_task *
webhook_task_add(struct webhook_tasks *tasks, const struct delivery *record)
{
    struct webhook_task *task = muster_alloc(sizeof *task), **bucket = bucket_of(tasks, &record->id);

    task->job = record->id;
    task->state = record->state;
    task->tries = record->tries;
    task->status = record->status;
    task->chain = *bucket;
    *bucket = task;
    tasks->held++;
    return task;
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
}
