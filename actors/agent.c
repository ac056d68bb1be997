/* SPDX-License-Identifier: MPL-2.0 */
/* agent: does the jobs of one team, each attempt on a lane of its own; a lane has at most one process.
 *
 *   agent.run     -> a lane of its conversation, else one that is free, else the job waits
 *   agent.written -> what was said of the attempt goes to the log, and whatever it says from now on
 *   agent.cancel  -> the attempt is interrupted, and reported like any end
 *   agent.said    -> to the driver of the attempt's lane; of an attempt that is over it is ignored
 *
 * A job's conversation is its caller's, or the team's own, which all jobs without one share.  A process serves one
 * conversation until it ends.  Of a caller's conversation there is one process at most; the team's own may have several
 * sessions, and a job that does not ask for one of them takes any that is idle.  A new process resumes the session that
 * the job names, else the last that its conversation had.  Never do two processes have the same session.  When all
 * lanes are taken, the process that is idle longest is ended to make room.  A session that the agent does not know any
 * more is replaced by a new one within the attempt.  Conversations mean nothing to a driver without sessions.
 * Persists nothing.  After a restart it has no process and no job, and says so with queue.ready.  Mailbox full:
 * agent.run and agent.cancel are refused, and the queue tries again.  The log's mailbox full: agent_log.c. What can
 * fail: processes.  Every attempt is reported exactly once, however it ends. */
#include "actors/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/drivers/share.h"

#define MAILBOX 4096
#define READY_PAUSE_MS 100

void
agent_problem(struct agent *self, const char *text)
{
    (void)driver_text_copy(text, self->problem, sizeof(self->problem));
    self->problem_ms = muster_now_ms(self->ctx);
    self->dirty = true;
}

bool
agent_has_sessions(const struct agent *self)
{
    return self->driver_class->has_process && !self->driver_class->process_per_turn;
}

/* ---- birth and death ------------------------------------------------------------------------------------------------
 */

static void
say_ready(struct agent *self)
{
    struct queue_ready ready = {
        .team = self->team->name, .address = muster_ctx_address(self->ctx), .capacity = self->team->concurrency};

    if (muster_tell(self->ctx, MUSTER_QUEUE, &queue_ready_type, &ready))
        muster_timer_in(self->ctx, READY_PAUSE_MS, AGENT_TIMER_READY);
}

static muster_err
init(void *actor, struct muster_ctx *ctx, const void *config)
{
    struct agent *self = actor;
    size_t i;

    self->ctx = ctx;
    self->team = config;
    self->driver_class = driver_find(self->team->driver);
    if (!self->driver_class)
        return MUSTER_INVALID_REQUEST;
    agent_log_init(&self->log, ctx, self->team->name);
    self->count = (size_t)self->team->concurrency;
    self->lanes = muster_alloc(self->count * sizeof(*self->lanes));
    for (i = 0; i < self->count; i++) {
        self->lanes[i].agent = self;
        self->lanes[i].index = i;
        self->lanes[i].state = process_state_STOPPED;
        agent_turn_host(&self->lanes[i]);
    }
    self->dirty = true;
    say_ready(self);
    return MUSTER_OK;
}

static void
fini(void *actor)
{
    struct agent *self = actor;
    struct agent_turn *turn;
    size_t i;

    for (i = 0; i < self->count; i++)
        agent_lane_free(&self->lanes[i]);
    free(self->lanes);
    free(self->sessions);
    while ((turn = self->waiting)) {
        self->waiting = turn->next;
        agent_turn_free(&turn);
    }
    agent_log_fini(&self->log);
}

/* ---- which job goes where -------------------------------------------------------------------------------------------
 */

bool
agent_is_awaited(const struct agent *self, const char *conversation, const char *session, const struct agent_turn *but)
{
    const struct agent_turn *turn;

    for (turn = self->waiting; turn; turn = turn->next)
        if (turn != but && ((*conversation && !strcmp(turn->conversation, conversation)) ||
                            (*session && !strcmp(turn->session, session))))
            return true;
    return false;
}

/* The lane of the turn's conversation, if that is not the team's own, else that of its session. */
static struct agent_lane *
lane_of_turn(struct agent *self, const struct agent_turn *turn)
{
    size_t i;

    for (i = 0; *turn->conversation && i < self->count; i++)
        if (!strcmp(self->lanes[i].conversation, turn->conversation))
            return &self->lanes[i];
    for (i = 0; *turn->session && i < self->count; i++)
        if (!strcmp(self->lanes[i].session, turn->session))
            return &self->lanes[i];
    return NULL;
}

static struct agent_lane *
stopped_lane(struct agent *self)
{
    size_t i;

    for (i = 0; i < self->count; i++)
        if (self->lanes[i].state == process_state_STOPPED)
            return &self->lanes[i];
    return NULL;
}

static bool
is_free_for(const struct agent *self, const struct agent_lane *lane, const struct agent_turn *turn)
{
    return lane->state == process_state_IDLE && !agent_is_awaited(self, lane->conversation, lane->session, turn);
}

/* Of those free for the turn the team's own that became idle last. */
static struct agent_lane *
warm_lane(struct agent *self, const struct agent_turn *turn)
{
    struct agent_lane *found = NULL, *lane;
    size_t i;

    for (i = 0; i < self->count; i++) {
        lane = &self->lanes[i];
        if (!*lane->conversation && is_free_for(self, lane, turn) &&
            (!found || lane->idle_since_ms > found->idle_since_ms))
            found = lane;
    }
    return found;
}

/* Of those free for the turn the one that is idle longest. */
static struct agent_lane *
cold_lane(struct agent *self, const struct agent_turn *turn)
{
    struct agent_lane *found = NULL, *lane;
    size_t i;

    for (i = 0; i < self->count; i++) {
        lane = &self->lanes[i];
        if (is_free_for(self, lane, turn) && (!found || lane->idle_since_ms < found->idle_since_ms))
            found = lane;
    }
    return found;
}

/* Is a process on its way out that will leave a free lane behind? */
static bool
lane_becomes_free(const struct agent *self)
{
    size_t i;

    for (i = 0; i < self->count; i++)
        if (self->lanes[i].state == process_state_STOPPING && !self->lanes[i].turn)
            return true;
    return false;
}

/* A lane for a new process; NULL: none now, though room may have been asked for. */
static struct agent_lane *
make_room(struct agent *self, const struct agent_turn *turn)
{
    struct agent_lane *lane = stopped_lane(self);

    if (lane || lane_becomes_free(self))
        return lane;
    lane = cold_lane(self, turn);
    if (lane)
        agent_lane_stop(lane, "another conversation needs its place");
    return stopped_lane(self);
}

/* Where the turn can run now; NULL: nowhere. */
static struct agent_lane *
pick(struct agent *self, const struct agent_turn *turn)
{
    struct agent_lane *lane = lane_of_turn(self, turn);

    if (lane && lane->state == process_state_IDLE && strcmp(lane->conversation, turn->conversation)) {
        agent_lane_stop(lane, "its session goes on in another conversation");
        return NULL;
    }
    if (lane)
        return lane->state == process_state_IDLE ? lane : NULL;
    if (!*turn->session && !*turn->conversation && !turn->lost)
        lane = warm_lane(self, turn);
    return lane ? lane : make_room(self, turn);
}

static void
run(struct agent_lane *lane, struct agent_turn **turn_p)
{
    if (lane->state == process_state_STOPPED) {
        agent_lane_start(lane, turn_p);
        return;
    }
    lane->turn = *turn_p;
    *turn_p = NULL;
    lane->turn->resumed = lane->turn->session[0] != '\0';
    agent_lane_timer_in(lane, AGENT_TIMER_TURN, lane->turn->timeout_ms);
    agent_turn_begin(lane);
}

/* Give what waits to lanes that are free. */
static void
pump(struct agent *self)
{
    struct agent_turn **at = &self->waiting, *turn;
    struct agent_lane *lane;

    while ((turn = *at)) {
        lane = pick(self, turn);
        if (!lane) {
            at = &turn->next;
            continue;
        }
        *at = turn->next;
        turn->next = NULL;
        run(lane, &turn);
    }
}

/* ---- messages -------------------------------------------------------------------------------------------------------
 */

static bool
is_attempt(const struct agent_turn *turn, const struct muster_id *job, int64_t attempt)
{
    return turn && turn->attempt == attempt && muster_id_equal(&turn->job, job);
}

static struct agent_lane *
lane_of_attempt(struct agent *self, const struct muster_id *job, int64_t attempt)
{
    size_t i;

    for (i = 0; i < self->count; i++)
        if (is_attempt(self->lanes[i].turn, job, attempt))
            return &self->lanes[i];
    return NULL;
}

static struct agent_turn **
find_waiting(struct agent *self, const struct muster_id *job, int64_t attempt)
{
    struct agent_turn **at = &self->waiting;

    while (*at && !is_attempt(*at, job, attempt))
        at = &(*at)->next;
    return at;
}

MUSTER_ON(agent, agent_run);
static muster_err
on_agent_run(struct agent *self, const struct agent_run *in)
{
    struct agent_turn **at = find_waiting(self, &in->job, in->attempt);

    if (*at || lane_of_attempt(self, &in->job, in->attempt))
        return MUSTER_OK;                               /* told twice */
    *at = agent_turn_new(in, agent_has_sessions(self)); /* given to a lane when all of the batch is known */
    return MUSTER_OK;
}

MUSTER_ON(agent, agent_cancel);
static muster_err
on_agent_cancel(struct agent *self, const struct agent_cancel *in)
{
    enum agent_end end = in->park ? AGENT_END_PARK : AGENT_END_CANCEL;
    struct agent_turn **at = find_waiting(self, &in->job, in->attempt), *turn = *at;
    struct agent_lane *lane = lane_of_attempt(self, &in->job, in->attempt);

    if (turn) {
        *at = turn->next;
        agent_turn_end(turn, end, MUSTER_OK, NULL);
        agent_turn_drop(self, &turn);
    } else if (lane) {
        agent_turn_end(lane->turn, end, MUSTER_OK, NULL);
        if (lane->turn->begun)
            agent_lane_interrupt(lane);
        else if (lane->state == process_state_STARTING)
            agent_turn_report(lane, NULL); /* the process may go on to become ready */
    }
    return MUSTER_OK;
}

MUSTER_ON(agent, agent_written);
static muster_err
on_agent_written(struct agent *self, const struct agent_written *in)
{
    struct agent_lane *lane = lane_of_attempt(self, &in->job, in->attempt);
    struct agent_turn *turn = lane ? lane->turn : *find_waiting(self, &in->job, in->attempt);

    if (turn)
        turn->unwritten = false;
    agent_log_release(&self->log, &in->job, in->attempt);
    return MUSTER_OK;
}

MUSTER_ON(agent, agent_said);
static muster_err
on_agent_said(struct agent *self, const struct agent_said *in)
{
    struct agent_lane *lane = lane_of_attempt(self, &in->job, in->attempt);

    if (lane && lane->turn->begun && lane->driver && self->driver_class->said)
        self->driver_class->said(lane->driver, in);
    return MUSTER_OK;
}

/* ---- the rest -------------------------------------------------------------------------------------------------------
 */

static void
timer(void *actor, uint64_t key)
{
    struct agent *self = actor;

    if (key == AGENT_TIMER_LOG)
        agent_log_flush(&self->log);
    else if (key == AGENT_TIMER_READY)
        say_ready(self);
    else
        agent_lane_timer(&self->lanes[key / AGENT_TIMERS], (enum agent_timer)(key % AGENT_TIMERS));
}

static void
publish(struct agent *self)
{
    struct muster_agent_view *view = muster_alloc(sizeof(*view));
    struct muster_process_view *shown;
    const struct agent_lane *lane;
    char name[sizeof(MUSTER_AGENT_PREFIX) + 64];
    size_t i;

    for (i = 0; i < self->count && view->count < MUSTER_VIEW_PROCESSES; i++) {
        lane = &self->lanes[i];
        if (lane->state == process_state_STOPPED)
            continue;
        shown = &view->processes[view->count++];
        shown->pid = lane->pid;
        shown->state = lane->state;
        shown->started_ms = lane->started_ms;
        shown->turns = lane->turns;
        (void)driver_text_copy(lane->session, shown->session, sizeof(shown->session));
        if (!lane->turn)
            continue;
        shown->job = lane->turn->job;
        shown->current = lane->turn->current;
        shown->total = lane->turn->total;
    }
    (void)driver_text_copy(self->problem, view->problem, sizeof(view->problem));
    view->problem_ms = self->problem_ms;
    snprintf(name, sizeof(name), MUSTER_AGENT_PREFIX "%s", self->team->name);
    muster_publish(self->ctx, name, view, free);
    self->dirty = false;
}

static void
idle(void *actor)
{
    struct agent *self = actor;

    pump(self);
    if (!self->log.refused)
        agent_log_flush(&self->log);
    if (self->dirty)
        publish(self);
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(agent_run), MUSTER_ROW(agent_written), MUSTER_ROW(agent_cancel), MUSTER_ROW(agent_said), {NULL, NULL},
};

const struct muster_actor_class muster_agent_class = {
    .name = "agent",
    .size = sizeof(struct agent),
    .mailbox = MAILBOX,
    .init = init,
    .fini = fini,
    .handlers = handlers,
    .timer = timer,
    .idle = idle,
};
