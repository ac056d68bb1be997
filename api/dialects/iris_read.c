/* SPDX-License-Identifier: MPL-2.0 */
/* iris: teams, their status, and one message.  Reads the store and what the actors published, and asks the queue where
 * a waiting message stands, on the connection's thread. */
#include <string.h>

#include "api/dialects/iris.h"

enum { PLACE_MS = 2000 /* the queue has so long to say where a message stands */ };

/* ---- teams ---- */

/* A copy of what the agent published last; NULL: nothing yet. */
static const struct muster_agent_view *
agent_view(struct http_request *request, const char *team)
{
    const char *board = muster_arena_join(http_arena(request), MUSTER_AGENT_PREFIX, team);
    struct muster_notice *notice = muster_board_take(http_house(request)->bus, board);
    struct muster_agent_view *view = NULL;

    if (notice) {
        view = muster_arena_alloc(http_arena(request), sizeof *view);
        *view = *(const struct muster_agent_view *)muster_notice_object(notice);
    }
    muster_notice_release(&notice);
    return view;
}

static size_t
process_count(const struct muster_agent_view *view)
{
    size_t count = view ? view->count : 0;

    return count < MUSTER_VIEW_PROCESSES ? count : MUSTER_VIEW_PROCESSES;
}

/* Workers that take a team's jobs. */
struct hands {
    bool needed; /* it has no agents here */
    int64_t workers, capacity;
};

static struct hands
hands_of(struct http_request *request, const struct team_options *team)
{
    struct hands hands = {.needed = team->driver == driver_kind_REMOTE, .capacity = team->concurrency};
    struct muster_notice *notice =
        hands.needed ? muster_board_take(http_house(request)->bus, MUSTER_NODES_BOARD) : NULL;
    const struct muster_nodes_view *view = notice ? muster_notice_object(notice) : NULL;
    const struct muster_node_team *of;
    size_t i, k;

    if (hands.needed)
        hands.capacity = 0;
    for (i = 0; view && i < view->count; i++)
        for (k = 0; view->nodes[i].state == node_state_UP && k < view->nodes[i].team_count; k++) {
            of = &view->nodes[i].teams[k];
            if (strcmp(of->name, team->name) == 0 && of->fits) {
                hands.workers++;
                hands.capacity += of->capacity;
            }
        }
    muster_notice_release(&notice);
    return hands;
}

static const char *
team_status(const struct muster_queue_view *queue, const struct muster_agent_view *agent, const struct hands *hands)
{
    size_t i;

    if (queue->running > 0)
        return "busy";
    for (i = 0; i < process_count(agent); i++)
        if (agent->processes[i].state == process_state_STARTING)
            return "starting";
    if (queue->paused)
        return "paused";
    if (hands->needed && hands->workers == 0)
        return "offline";
    return queue->queued > 0 ? "busy" : "idle";
}

void
iris_handle_teams(struct http_request *request)
{
    const struct options *options = http_house(request)->options;
    struct iris_team *items = muster_arena_alloc(http_arena(request), (options->teams.count + 1) * sizeof *items);
    struct iris_teams answer = {.teams = {items, 0}};
    size_t i;

    for (i = 0; i < options->teams.count; i++) {
        const struct team_options *team = &options->teams.items[i];
        struct muster_queue_view queue;
        struct hands hands;

        if (!http_may_use(request, team->name))
            continue;
        queue = iris_queue_view(request, team->name);
        hands = hands_of(request, team);
        items[answer.teams.count++] =
            (struct iris_team){.name = team->name,
                               .status = team_status(&queue, agent_view(request, team->name), &hands),
                               .paused = queue.paused,
                               .driver = muster_enum_wire(&driver_kind_enum, (int)team->driver),
                               .queued = queue.queued,
                               .running = queue.running,
                               .concurrency = hands.capacity,
                               .workers = hands.workers};
    }
    http_answer_type(request, 200, &iris_teams_type, &answer);
}

static void
show_processes(struct http_request *request, const struct muster_agent_view *view, struct iris_team_status *out)
{
    size_t count = process_count(view), i;
    struct iris_process *items = muster_arena_alloc(http_arena(request), (count + 1) * sizeof *items);

    for (i = 0; i < count; i++) {
        const struct muster_process_view *process = &view->processes[i];
        const char *state = muster_enum_wire(&process_state_enum, (int)process->state);

        items[i] = (struct iris_process){process->pid, state ? state : "stopped", process->started_ms, process->turns,
                                         process->session};
    }
    out->processes.items = items;
    out->processes.count = count;
    if (view && view->problem[0]) {
        out->lastError = view->problem;
        out->lastErrorAt = view->problem_ms;
    }
}

void
iris_handle_team_status(struct http_request *request)
{
    const struct team_options *team = muster_team_options(http_house(request)->options, http_param(request, "team"));
    const struct muster_agent_view *agent = agent_view(request, team->name);
    struct muster_queue_view queue = iris_queue_view(request, team->name);
    struct hands hands = hands_of(request, team);
    struct iris_team_status answer = {.team = team->name,
                                      .status = team_status(&queue, agent, &hands),
                                      .paused = queue.paused,
                                      .driver = muster_enum_wire(&driver_kind_enum, (int)team->driver),
                                      .queued = queue.queued,
                                      .running = queue.running,
                                      .concurrency = hands.capacity,
                                      .workers = hands.workers,
                                      .averageDuration = queue.mean_ms,
                                      .completed = queue.completed,
                                      .failed = queue.failed};

    show_processes(request, agent, &answer);
    http_answer_type(request, 200, &iris_team_status_type, &answer);
}

/* ---- a message ---- */

/* When it is likely done; 0: cannot be told. */
static int64_t
estimate(const struct job *job, const struct muster_queue_view *queue, int64_t mean_ms, int64_t now_ms)
{
    int64_t slots = queue->max_running > 0 ? queue->max_running : 1;
    int64_t end_ms;

    if (muster_job_ended(job->state))
        return 0;
    if (strcmp(iris_status(job->state), "processing") == 0)
        end_ms = job->started_ms + mean_ms;
    else
        end_ms = (job->not_before_ms > now_ms ? job->not_before_ms : now_ms) + mean_ms * (1 + queue->queued / slots);
    return end_ms > now_ms ? end_ms : now_ms;
}

/* What the agent itself says; false: nothing. */
static bool
counted_progress(struct http_request *request, const struct job *job, struct iris_progress *out)
{
    const struct muster_agent_view *view = agent_view(request, job->team);
    const struct muster_process_view *process;
    int64_t current;
    size_t i;

    for (i = 0; i < process_count(view); i++) {
        process = &view->processes[i];
        if (process->total <= 0 || !muster_id_equal(&process->job, &job->id))
            continue;
        current = process->current < process->total ? process->current : process->total;
        *out =
            (struct iris_progress){current, process->total, (int64_t)((double)current * 100 / (double)process->total)};
        return true;
    }
    return false;
}

static struct iris_progress
progress(struct http_request *request, const struct job *job, int64_t mean_ms, int64_t now_ms)
{
    struct iris_progress counted;
    int64_t percentage = 0;

    if (job->state == job_state_COMPLETED)
        return (struct iris_progress){1, 1, 100};
    if (strcmp(iris_status(job->state), "processing") != 0)
        return (struct iris_progress){0, 1, 0};
    if (counted_progress(request, job, &counted))
        return counted;
    if (now_ms > job->started_ms)
        percentage = (now_ms - job->started_ms) * 100 / (mean_ms > 0 ? mean_ms : 1);
    return (struct iris_progress){0, 1, percentage < 1 ? 1 : percentage < 99 ? percentage : 99};
}

/* NULL: it has no callback.  A job that has just ended has one on its way that is not written down yet. */
static const struct iris_delivery *
delivery_of(struct http_request *request, const struct job *job)
{
    struct muster_arena *arena = http_arena(request);
    struct iris_delivery *out;
    struct delivery delivery;

    if (job->callback == NULL)
        return NULL;
    out = muster_arena_alloc(arena, sizeof *out);
    if (!muster_job_ended(job->state))
        *out = (struct iris_delivery){.status = "waiting"};
    else if (muster_store_get(http_house(request)->store, &delivery_type, &job->id, arena, &delivery))
        *out = (struct iris_delivery){.status = muster_enum_wire(&delivery_state_enum, delivery_state_PENDING)};
    else
        *out = (struct iris_delivery){.status = muster_enum_wire(&delivery_state_enum, (int)delivery.state),
                                      .tries = delivery.tries,
                                      .httpStatus = delivery.status,
                                      .problem = delivery.problem,
                                      .nextTry = delivery.state == delivery_state_PENDING ? delivery.next_ms : 0};
    return out;
}

/* Where it stands, when it waits.  The queue may be too busy to say; then the estimate stays ours. */
static muster_err
ask_place(struct http_request *request, const struct job *job, struct iris_message *message)
{
    struct queue_place place = {.job = job->id};
    struct queue_placed placed;
    muster_err err;

    if (strcmp(message->status, "queued") != 0)
        return MUSTER_OK;
    err = http_ask(request, MUSTER_QUEUE, &queue_place_type, &place, &queue_placed_type, &placed, PLACE_MS);
    if (err)
        return err == MUSTER_GONE ? err : MUSTER_OK;
    message->position = placed.position;
    if (placed.estimate_ms > 0)
        message->estimatedCompletion = placed.estimate_ms;
    return MUSTER_OK;
}

static const char *
name_of(struct muster_arena *arena, const struct muster_id *id)
{
    return muster_id_is_zero(id) ? NULL : iris_message_id(arena, id);
}

static struct iris_message
show_job(struct http_request *request, const struct job *job)
{
    struct muster_arena *arena = http_arena(request);

    return (struct iris_message){.messageId = iris_message_id(arena, &job->id),
                                 .jobId = iris_job_id(arena, &job->id),
                                 .team = job->team,
                                 .from = job->from,
                                 .kind = job->kind,
                                 .priority = job->priority,
                                 .message = job->prompt,
                                 .context = job->context,
                                 .status = iris_status(job->state),
                                 .state = muster_enum_wire(&job_state_enum, (int)job->state),
                                 .createdAt = job->created_ms,
                                 .startedAt = job->started_ms,
                                 .completedAt = job->finished_ms,
                                 .deadline = job->deadline_ms,
                                 .sessionId = job->session_id,
                                 .retryOf = name_of(arena, &job->retry_of),
                                 .retriedAs = name_of(arena, &job->retried_as),
                                 .response = job->result,
                                 .error = iris_problem_of(arena, job),
                                 .duration = iris_duration(job),
                                 .attempts = job->attempt,
                                 .maxAttempts = job->max_attempts,
                                 .callback = delivery_of(request, job),
                                 .metadata = iris_metadata_of(arena, job)};
}

void
iris_handle_message(struct http_request *request)
{
    int64_t now_ms = muster_clock_ms(), mean_ms;
    struct muster_queue_view queue;
    struct iris_progress so_far;
    struct iris_message answer;
    struct job job;
    muster_err err;

    if (!iris_find(request, &job))
        return;
    queue = iris_queue_view(request, job.team);
    mean_ms = queue.mean_ms > 0 ? queue.mean_ms : http_house(request)->options->queue->first_estimate;
    so_far = progress(request, &job, mean_ms, now_ms);
    answer = show_job(request, &job);
    answer.progress = &so_far;
    answer.estimatedCompletion = estimate(&job, &queue, mean_ms, now_ms);
    err = ask_place(request, &job, &answer);
    if (err)
        http_fail_as_told(request, err);
    else
        http_answer_type(request, 200, &iris_message_type, &answer);
}
