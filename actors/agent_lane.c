/* SPDX-License-Identifier: MPL-2.0 */
/* agent_lane: one lane of an agent and its process, from the process's start to its end.
 *
 *   STOPPED -> STARTING -> IDLE <-> BUSY          any -> STOPPING -> STOPPED
 *
 * In STARTING it may have a turn that waits for `ready`; in STOPPING one that is reported when the process is gone.
 * The end goes down a ladder, each step with stop_timeout: interrupt (a turn only), end of input, SIGINT, SIGTERM,
 * SIGKILL.  Whatever the process leaves behind is killed by its mark.  The agent's thread. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "actors/agent.h"
#include "actors/drivers/share.h"

#define REASON_MAX 4096
#define PROBLEM_MAX 1024

void
agent_lane_timer_in(struct agent_lane *lane, enum agent_timer timer, int64_t delay_ms)
{
    muster_timer_in(lane->agent->ctx, delay_ms, lane->index * AGENT_TIMERS + timer);
}

void
agent_lane_timer_end(struct agent_lane *lane, enum agent_timer timer)
{
    muster_timer_end(lane->agent->ctx, lane->index * AGENT_TIMERS + timer);
}

void
agent_lane_heard(struct agent_lane *lane)
{
    lane->last_output_ms = muster_uptime_ms(lane->agent->ctx);
}

/* Name of the program, for messages. */
static const char *
program(const struct agent_lane *lane)
{
    return driver_program(lane->agent->team, lane->agent->driver_class->name);
}

void
agent_lane_tell(struct agent_lane *lane, enum process_state state, const char *reason)
{
    struct agent *self = lane->agent;
    struct agent_process event = {.process = lane->pid, .state = state};
    char text[REASON_MAX + 1];

    lane->state = state;
    self->dirty = true;
    if (!self->driver_class->has_process)
        return;
    event.reason = driver_text_copy(reason, text, sizeof(text));
    agent_log_event(&self->log, &(struct agent_log_about){0}, &agent_process_type, &event);
}

static void
warn(const struct agent_lane *lane, const char *id, const char *message, const char *problem)
{
    const struct agent *self = lane->agent;
    struct muster_say of[AGENT_SAYS];
    char text[AGENT_ID_TEXT];

    agent_turn_say(lane->turn, text, of);
    muster_journal_write(muster_ctx_journal(self->ctx), log_level_WARNING, id, message,
                         (const struct muster_say[]){MUSTER_SAY_TEXT("team", self->team->name),
                                                     MUSTER_SAY_NUMBER("process", lane->pid),
                                                     MUSTER_SAY_TEXT("session", lane->session),
                                                     MUSTER_SAY_TEXT("problem", problem), of[0], of[1]},
                         4 + AGENT_SAYS);
}

/* ---- the end --------------------------------------------------------------------------------------------------------
 */

/* The turn is over with its process, unless another process is to do it. */
static void
leave_turn(struct agent_lane *lane)
{
    bool again = lane->again;

    lane->again = false;
    if (again && lane->turn && lane->turn->end == AGENT_END_NONE) {
        agent_turn_again(lane);
        return;
    }
    if (again)
        lane->session[0] = '\0';
    agent_turn_report(lane, NULL);
}

/* The process, if there was one, has ended with `status`: report its turn, forget it.  `last_words` is no longer the
 * child's. */
static void
gone(struct agent_lane *lane, bool started, int status, const char *last_words, const char *reason)
{
    const struct driver *driver = lane->agent->driver_class;
    bool rested = lane->turn == NULL; /* then its next turn goes on in the same session */
    unsigned timer;

    lane->state = process_state_STOPPING;
    if (lane->turn && started && driver->exited)
        driver->exited(lane->driver, status, last_words);
    leave_turn(lane);
    for (timer = 0; timer < AGENT_TIMERS; timer++)
        agent_lane_timer_end(lane, (enum agent_timer)timer);
    if (driver->fini)
        driver->fini(lane->driver);
    free(lane->driver);
    lane->driver = NULL;
    lane->step = AGENT_STEP_NONE;
    if (rested)
        agent_session_keep(lane->agent, lane->conversation, lane->session);
    agent_lane_tell(lane, process_state_STOPPED, reason);
    lane->session[0] = lane->conversation[0] = '\0';
}

/* End the process now, with all that it has started. */
static void
kill_now(struct agent_lane *lane)
{
    char *last_words = muster_strdup(lane->child ? muster_child_last_words(lane->child) : "");
    bool started = lane->child != NULL;

    muster_child_free(&lane->child);
    gone(lane, started, SIGKILL, last_words, "killed");
    free(last_words);
}

/* The next step down. */
static void
descend(struct agent_lane *lane)
{
    lane->step++;
    if (lane->step == AGENT_STEP_CLOSE && lane->input_closed)
        lane->step++;
    agent_lane_timer_in(lane, AGENT_TIMER_STEP, lane->agent->team->stop_timeout);
    if (lane->step == AGENT_STEP_CLOSE)
        lane->host.close_input(lane);
    else if (lane->step == AGENT_STEP_INT)
        muster_child_signal(lane->child, SIGINT);
    else if (lane->step == AGENT_STEP_TERM)
        muster_child_signal(lane->child, SIGTERM);
    else
        kill_now(lane);
}

void
agent_lane_stop(struct agent_lane *lane, const char *reason)
{
    if (lane->state == process_state_STOPPING || lane->state == process_state_STOPPED)
        return;
    agent_lane_timer_end(lane, AGENT_TIMER_START);
    agent_lane_timer_end(lane, AGENT_TIMER_SILENCE);
    agent_lane_timer_end(lane, AGENT_TIMER_IDLE);
    agent_lane_tell(lane, process_state_STOPPING, reason);
    lane->step = AGENT_STEP_INTERRUPT;
    if (lane->child)
        descend(lane);
    else
        gone(lane, false, 0, "", reason);
}

void
agent_lane_interrupt(struct agent_lane *lane)
{
    const struct driver *driver = lane->agent->driver_class;

    if (lane->state != process_state_BUSY || lane->step != AGENT_STEP_NONE)
        return;
    if (!driver->interrupt) {
        agent_lane_stop(lane, "its turn was given up");
        return;
    }
    lane->step = AGENT_STEP_INTERRUPT;
    agent_lane_timer_in(lane, AGENT_TIMER_STEP, lane->agent->team->stop_timeout);
    driver->interrupt(lane->driver);
}

void
agent_lane_fail(struct agent_lane *lane, muster_err err, const char *problem)
{
    if (lane->turn)
        agent_turn_end(lane->turn, AGENT_END_FAIL, err, problem);
    else
        agent_problem(lane->agent, problem);
    agent_lane_stop(lane, problem);
}

/* ---- what the child does --------------------------------------------------------------------------------------------
 */

static void
child_line(void *arg, const char *line, size_t size)
{
    struct agent_lane *lane = arg;

    agent_lane_heard(lane);
    lane->agent->driver_class->line(lane->driver, line, size);
}

static void
child_overlong(void *arg)
{
    struct agent_lane *lane = arg;
    char problem[PROBLEM_MAX];

    snprintf(problem, sizeof(problem), "%.200s printed a line longer than agents.max_line.", program(lane));
    agent_lane_fail(lane, MUSTER_OUTPUT_TOO_LARGE, problem);
}

/* An end that nobody asked for. */
static void
warn_crash(struct agent_lane *lane, int status, const char *last_words)
{
    struct muster_buf text = {0};
    bool expected = lane->agent->driver_class->process_per_turn && WIFEXITED(status) && !WEXITSTATUS(status);

    driver_exit_text(program(lane), status, last_words, &text);
    if (!expected) {
        warn(lane, "agent-crash", "An agent's process ended by itself.", text.data);
        agent_problem(lane->agent, text.data);
    }
    muster_buf_free(&text);
}

static void
child_exited(void *arg, int status)
{
    struct agent_lane *lane = arg;
    char *last_words = muster_strdup(muster_child_last_words(lane->child));
    char reason[64];

    if (lane->state != process_state_STOPPING)
        warn_crash(lane, status, last_words);
    if (WIFSIGNALED(status))
        snprintf(reason, sizeof(reason), "signal %d", WTERMSIG(status));
    else
        snprintf(reason, sizeof(reason), "status %d", WEXITSTATUS(status));
    muster_child_free(&lane->child);
    gone(lane, true, status, last_words, reason);
    free(last_words);
}

/* ---- the beginning --------------------------------------------------------------------------------------------------
 */

void
agent_lane_ready(struct agent_lane *lane)
{
    if (lane->ready)
        return;
    lane->ready = true;
    agent_lane_timer_end(lane, AGENT_TIMER_START);
    if (lane->state == process_state_STOPPING)
        return;
    if (lane->turn)
        agent_turn_begin(lane);
    else
        agent_lane_rest(lane);
}

static void
start_failed(struct agent_lane *lane, muster_err err, const char *problem)
{
    warn(lane, err == MUSTER_NOT_FOUND ? "agent-missing" : "agent-start", "An agent's process could not be started.",
         problem);
    agent_turn_end(lane->turn, AGENT_END_FAIL, MUSTER_PROCESS_ERROR, problem);
    lane->turn->end_final = err == MUSTER_NOT_FOUND;
    gone(lane, false, 0, "", problem);
}

static void
reset(struct agent_lane *lane, struct agent_turn *turn)
{
    struct agent *self = lane->agent;

    lane->turn = turn;
    lane->ready = lane->input_closed = false;
    lane->step = AGENT_STEP_NONE;
    lane->started_ms = lane->idle_since_ms = muster_now_ms(self->ctx);
    lane->last_output_ms = muster_uptime_ms(self->ctx);
    lane->turns = lane->busy_tools = lane->pid = 0;
    if (agent_has_sessions(self))
        agent_session_take(self, turn, lane->session);
    (void)driver_text_copy(turn->conversation, lane->conversation, sizeof(lane->conversation));
    turn->resumed = lane->session[0] != '\0';
    free(lane->directory);
    lane->directory = realpath(self->team->directory, NULL); /* NULL: it is not there, which the start will tell */
    lane->host.directory = lane->directory ? lane->directory : self->team->directory;
    lane->driver = muster_alloc(self->driver_class->size);
    self->driver_class->init(lane->driver, &lane->host);
}

void
agent_lane_start(struct agent_lane *lane, struct agent_turn **turn_p)
{
    static const struct muster_child_hooks hooks = {child_line, child_overlong, child_exited};
    struct agent *self = lane->agent;
    const struct driver *driver = self->driver_class;
    char problem[PROBLEM_MAX] = "";
    muster_err err = MUSTER_OK;

    reset(lane, *turn_p);
    *turn_p = NULL;
    agent_lane_timer_in(lane, AGENT_TIMER_TURN, lane->turn->timeout_ms);
    if (driver->has_process)
        err = agent_spec_start(lane, &hooks, problem, sizeof(problem));
    if (err) {
        start_failed(lane, err, problem);
        return;
    }
    lane->pid = lane->child ? (int64_t)muster_child_pid(lane->child) : 0;
    agent_lane_tell(lane, process_state_STARTING, NULL);
    if (!driver->started) {
        agent_lane_ready(lane);
        return;
    }
    agent_lane_timer_in(lane, AGENT_TIMER_START, self->team->start_timeout);
    driver->started(lane->driver);
}

void
agent_lane_rest(struct agent_lane *lane)
{
    if (lane->state == process_state_STOPPING)
        return;
    if (lane->step == AGENT_STEP_INTERRUPT) {
        lane->step = AGENT_STEP_NONE;
        agent_lane_timer_end(lane, AGENT_TIMER_STEP);
    }
    if (lane->agent->driver_class->process_per_turn) {
        if (lane->child)
            agent_lane_stop(lane, "its turn is over");
        return;
    }
    lane->idle_since_ms = muster_now_ms(lane->agent->ctx);
    if (lane->child)
        agent_lane_timer_in(lane, AGENT_TIMER_IDLE, lane->agent->team->idle_stop);
    agent_lane_tell(lane, process_state_IDLE, NULL);
}

/* ---- timers ---------------------------------------------------------------------------------------------------------
 */

static void
on_start_timeout(struct agent_lane *lane)
{
    char problem[PROBLEM_MAX];

    snprintf(problem, sizeof(problem), "%.200s was not ready within %lld ms.", program(lane),
             (long long)lane->agent->team->start_timeout);
    warn(lane, "agent-hang", "An agent's process does not become ready and is ended.", problem);
    agent_lane_fail(lane, MUSTER_AGENT_HUNG, problem);
}

static void
on_turn_timeout(struct agent_lane *lane)
{
    struct agent_turn *turn = lane->turn;
    char problem[PROBLEM_MAX];

    if (!turn)
        return;
    snprintf(problem, sizeof(problem), "The attempt took longer than %lld ms.", (long long)turn->timeout_ms);
    agent_turn_end(turn, AGENT_END_FAIL, MUSTER_TIMEOUT, problem);
    if (turn->begun)
        agent_lane_interrupt(lane);
    else if (lane->state == process_state_STARTING)
        agent_turn_report(lane, NULL);
}

static void
on_silence(struct agent_lane *lane)
{
    int64_t limit_ms = lane->agent->team->silence_timeout * (lane->busy_tools > 0 ? 2 : 1);
    int64_t quiet_ms = muster_uptime_ms(lane->agent->ctx) - lane->last_output_ms;
    char problem[PROBLEM_MAX];

    if (!lane->turn || lane->state != process_state_BUSY)
        return;
    if (quiet_ms < limit_ms) {
        agent_lane_timer_in(lane, AGENT_TIMER_SILENCE, limit_ms - quiet_ms);
        return;
    }
    snprintf(problem, sizeof(problem), "%.200s said nothing for %lld ms%s.", program(lane), (long long)quiet_ms,
             lane->busy_tools > 0 ? " with a tool at work" : "");
    warn(lane, "agent-hang", "An agent says nothing any more and its turn is ended.", problem);
    agent_turn_end(lane->turn, AGENT_END_FAIL, MUSTER_AGENT_HUNG, problem);
    agent_lane_interrupt(lane);
}

static void
on_step(struct agent_lane *lane)
{
    if (lane->state == process_state_STOPPING) {
        descend(lane);
    } else if (lane->step == AGENT_STEP_INTERRUPT) {
        warn(lane, "agent-deaf", "An agent does not react to an interrupt and is ended.", "");
        agent_lane_stop(lane, "it did not react to an interrupt");
    }
}

static void
on_driver_timer(struct agent_lane *lane)
{
    if (lane->driver && lane->agent->driver_class->timer)
        lane->agent->driver_class->timer(lane->driver);
}

static void
on_idle_timeout(struct agent_lane *lane)
{
    if (lane->state == process_state_IDLE)
        agent_lane_stop(lane, "idle");
}

void
agent_lane_timer(struct agent_lane *lane, enum agent_timer timer)
{
    static void (*const on[AGENT_TIMERS])(struct agent_lane * lane) = {
        [AGENT_TIMER_START] = on_start_timeout, [AGENT_TIMER_STEP] = on_step,
        [AGENT_TIMER_TURN] = on_turn_timeout,   [AGENT_TIMER_SILENCE] = on_silence,
        [AGENT_TIMER_DRIVER] = on_driver_timer, [AGENT_TIMER_IDLE] = on_idle_timeout,
    };

    on[timer](lane);
}

void
agent_lane_free(struct agent_lane *lane)
{
    muster_child_free(&lane->child);
    if (lane->driver && lane->agent->driver_class->fini)
        lane->agent->driver_class->fini(lane->driver);
    free(lane->driver);
    lane->driver = NULL;
    free(lane->directory);
    agent_turn_free(&lane->turn);
}
