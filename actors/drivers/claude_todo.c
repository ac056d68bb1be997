/* SPDX-License-Identifier: MPL-2.0 */
/* How far the claude CLI says it is: its to-do tools to job.progress.
 *
 * TodoWrite gives the whole list each time.  TaskCreate adds one task, whose name its result tells, and TaskUpdate
 * changes one; of those the list is what was created or changed in this turn.  A use counts once its result is here and
 * is no failure.  Sub-agents have lists of their own, which are not the job's.  Anything unexpected is passed over.
 * Agent actor's thread. */
#include <string.h>

#include "actors/drivers/claude.h"

#define STEP_MAX 1024

struct progress {
    int64_t current, total;
    const char *step; /* NULL: not known */
};

static void
count(struct progress *progress, const char *status, const char *step)
{
    progress->total++;
    if (!strcmp(status, "completed"))
        progress->current++;
    else if (!strcmp(status, "in_progress") && !progress->step && *step)
        progress->step = step;
}

static void
tell(struct claude *self, const struct progress *progress)
{
    char step[STEP_MAX + 1];
    struct job_progress event = {.current = progress->current, .total = progress->total};

    if (!progress->total)
        return;
    if (progress->step)
        event.step = driver_text_copy(progress->step, step, sizeof(step));
    self->host->event(self->host->self, &job_progress_type, &event);
}

/* What is shown of a task while it is done: `activeForm`, else what it is called. */
static const char *
step_of(const json_t *object, const char *name)
{
    const char *step = driver_json_str(object, "activeForm");

    return *step ? step : driver_json_str(object, name);
}

static void
on_todo_write(struct claude *self, const json_t *input)
{
    const json_t *todos = json_object_get(input, "todos"), *todo;
    struct progress progress = {0};
    size_t i;

    json_array_foreach(todos, i, todo)
    {
        if (!json_is_object(todo))
            return;
        count(&progress, driver_json_str(todo, "status"), step_of(todo, "content"));
    }
    tell(self, &progress);
}

static void
tell_tasks(struct claude *self)
{
    struct progress progress = {0};
    const char *id;
    json_t *task;

    json_object_foreach(self->tasks, id, task)
        count(&progress, driver_json_str(task, "status"), driver_json_str(task, "step"));
    tell(self, &progress);
}

/* The name of a new task, from `tool_use_result`, else from "Task #N created ..."; "" none. */
static void
task_id(const json_t *line, const char *said, char *out, size_t out_size)
{
    const json_t *task = json_object_get(json_object_get(line, "tool_use_result"), "task");
    const char *id = driver_json_str(task, "id");
    size_t size;

    (void)driver_text_copy(id, out, out_size);
    if (*id || strncmp(said, "Task #", strlen("Task #")))
        return;
    said += strlen("Task #");
    size = strspn(said, "0123456789");
    if (size >= out_size)
        return;
    memcpy(out, said, size);
    out[size] = '\0';
}

static void
on_task_create(struct claude *self, const json_t *input, const json_t *line, const char *said)
{
    char id[DRIVER_NAME_MAX];

    task_id(line, said, id, sizeof(id));
    if (!*id)
        return;
    json_object_set_new(self->tasks, id,
                        json_pack("{s:s, s:s}", "status", "pending", "step", step_of(input, "subject")));
    tell_tasks(self);
}

static void
on_task_update(struct claude *self, const json_t *input)
{
    const char *id = driver_json_str(input, "taskId"), *status = driver_json_str(input, "status");
    const char *step = step_of(input, "subject");
    json_t *task = json_object_get(self->tasks, id);

    if (!*id || (!*status && !task))
        return;
    if (!strcmp(status, "deleted")) {
        json_object_del(self->tasks, id);
    } else {
        if (!task) {
            json_object_set_new(self->tasks, id, json_object());
            task = json_object_get(self->tasks, id);
        }
        if (*status)
            json_object_set_new(task, "status", json_string(status));
        if (*step)
            json_object_set_new(task, "step", json_string(step));
    }
    tell_tasks(self);
}

/* ---- what the lines are looked through for ------------------------------------------------------------------------- */

void
claude_todo_used(struct claude *self, const json_t *block)
{
    const char *tool = driver_json_str(block, "name");

    if (strcmp(tool, "TodoWrite") && strcmp(tool, "TaskCreate") && strcmp(tool, "TaskUpdate"))
        return;
    json_object_set_new(self->todos, driver_json_str(block, "id"), json_deep_copy(block));
}

void
claude_todo_done(struct claude *self, const char *use, bool failed, const json_t *line, const char *said)
{
    json_t *block = json_incref(json_object_get(self->todos, use));
    const json_t *input = json_object_get(block, "input");

    json_object_del(self->todos, use);
    if (!failed && driver_json_is(block, "name", "TodoWrite"))
        on_todo_write(self, input);
    else if (!failed && driver_json_is(block, "name", "TaskCreate"))
        on_task_create(self, input, line, said);
    else if (!failed && block)
        on_task_update(self, input);
    json_decref(block);
}
