/* SPDX-License-Identifier: MPL-2.0 */
/* agent_turn: one attempt of a job: from agent.run to log.report.
 *
 * The driver tells what the agent says through the functions at the end.  An attempt is reported exactly once: as the
 * agent ended it, or as we did.  A completion counts even when we had asked for the end.  The agent's thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/agent.h"
#include "actors/drivers/share.h"

#define MESSAGE_MAX ((size_t)65536)

struct agent_turn *
agent_turn_new(const struct agent_run *run, bool sessions)
{
    struct agent_turn *turn = muster_alloc(sizeof(*turn));

    turn->job = run->job;
    turn->attempt = run->attempt;
    turn->timeout_ms = run->timeout_ms;
    turn->prompt = muster_strdup(run->prompt);
    turn->session = muster_strdup(sessions && run->session ? run->session : "");
    turn->conversation = muster_strdup(sessions && run->conversation ? run->conversation : "");
    turn->origin = muster_strdup(run->conversation ? run->conversation : "");
    turn->trace = muster_strdup(run->trace ? run->trace : "");
    turn->unwritten = run->unwritten;
    turn->tools.limit = AGENT_TOOLS_MAX;
    turn->files.limit = AGENT_FILES_MAX;
    return turn;
}

static void
list_free(struct agent_list *list)
{
    size_t i;

    for (i = 0; i < list->count; i++)
        free((void *)(uintptr_t)list->items[i]);
    free(list->items);
}

static void
use_free(struct agent_use *use)
{
    free(use->id);
    free(use->tool);
    free(use->file);
}

void
agent_turn_free(struct agent_turn **turn_p)
{
    struct agent_turn *turn = *turn_p;
    size_t i;

    *turn_p = NULL;
    if (!turn)
        return;
    free(turn->prompt);
    free(turn->session);
    free(turn->conversation);
    free(turn->origin);
    free(turn->trace);
    free(turn->end_text);
    for (i = 0; i < turn->use_count; i++)
        use_free(&turn->uses[i]);
    list_free(&turn->tools);
    list_free(&turn->files);
    free(turn);
}

/* Keep a text unless it is there already or the list is full. */
static void
list_add(struct agent_list *list, const char *text)
{
    size_t i;

    if (!text || !*text || list->count == list->limit)
        return;
    for (i = 0; i < list->count; i++)
        if (!strcmp(list->items[i], text))
            return;
    list->items = muster_realloc(list->items, (list->count + 1) * sizeof(*list->items));
    list->items[list->count++] = muster_strdup(text);
}

/* ---- tools it uses --------------------------------------------------------------------------------------------------
 */

/* What became of a use is known. */
static void
use_settle(struct agent_turn *turn, size_t index, bool used)
{
    struct agent_use *use = &turn->uses[index];

    if (used) {
        list_add(&turn->tools, use->tool);
        list_add(&turn->files, use->file);
    }
    use_free(use);
    turn->use_count--;
    memmove(use, use + 1, (turn->use_count - index) * sizeof(*use));
}

static void
use_settle_id(struct agent_turn *turn, const char *id, bool used)
{
    size_t i;

    for (i = 0; i < turn->use_count; i++) {
        if (!strcmp(turn->uses[i].id, id)) {
            use_settle(turn, i, used);
            return;
        }
    }
}

static void
use_begin(struct agent_turn *turn, const struct job_tool_use *event)
{
    if (turn->use_count == AGENT_USES_MAX)
        use_settle(turn, 0, true);
    turn->uses[turn->use_count++] = (struct agent_use){.id = muster_strdup(event->id ? event->id : ""),
                                                       .tool = muster_strdup(event->tool),
                                                       .file = muster_strdup(event->file ? event->file : "")};
}

static void
use_settle_all(struct agent_turn *turn)
{
    while (turn->use_count)
        use_settle(turn, 0, true);
}

/* ---- who it is ------------------------------------------------------------------------------------------------------
 */

void
agent_turn_say(const struct agent_turn *turn, char out_id[AGENT_ID_TEXT], struct muster_say out_says[AGENT_SAYS])
{
    char text[MUSTER_ID_TEXT] = "";

    if (turn)
        muster_id_text(&turn->job, text);
    snprintf(out_id, AGENT_ID_TEXT, "%s%s", turn ? "msg_" : "", text);
    out_says[0] = MUSTER_SAY_TEXT("message_id", out_id);
    out_says[1] = MUSTER_SAY_TEXT("request_id", turn ? turn->trace : "");
}

static struct agent_log_about
about(const struct agent_turn *turn)
{
    return (struct agent_log_about){
        .job = turn->job, .attempt = turn->attempt, .trace = turn->trace, .held = turn->unwritten};
}

/* ---- begin and end --------------------------------------------------------------------------------------------------
 */

static void
tell_lost(struct agent *self, const struct agent_turn *turn)
{
    struct job_notice notice = {.kind = "session_lost",
                                .text = "The agent does not know the session of this conversation any more.  It "
                                        "answers in a new one, without what was said before."};
    struct agent_log_about of = about(turn);

    agent_log_event(&self->log, &of, &job_notice_type, &notice);
}

void
agent_turn_begin(struct agent_lane *lane)
{
    struct agent *self = lane->agent;
    struct agent_turn *turn = lane->turn;
    struct driver_turn given = {
        .prompt = turn->prompt, .attempt = turn->attempt, .job = turn->job, .conversation = turn->origin};
    struct agent_log_about of = about(turn);
    struct job_started started = {.process = lane->pid, .session = lane->session, .resumed = turn->resumed};

    turn->begun = true;
    lane->turns++;
    lane->last_output_ms = muster_uptime_ms(self->ctx);
    agent_lane_timer_end(lane, AGENT_TIMER_IDLE);
    agent_lane_tell(lane, process_state_BUSY, NULL);
    if (!turn->told)
        agent_log_event(&self->log, &of, &job_started_type, &started);
    turn->told = true;
    if (turn->lost)
        tell_lost(self, turn);
    agent_lane_timer_in(lane, AGENT_TIMER_SILENCE, self->team->silence_timeout);
    self->driver_class->begin(lane->driver, &given);
}

/* Did the turn not happen, because there is no session of that name? */
static bool
is_lost(const struct agent_lane *lane, const struct driver_outcome *outcome)
{
    const struct agent_turn *turn = lane->turn;

    return outcome->err && outcome->fresh_session && turn->resumed && !turn->lost && !turn->said && lane->turns <= 1 &&
           turn->end == AGENT_END_NONE;
}

void
agent_turn_again(struct agent_lane *lane)
{
    struct agent *self = lane->agent;
    struct agent_turn *turn = lane->turn;
    struct muster_say of[AGENT_SAYS];
    char id[AGENT_ID_TEXT];

    agent_turn_say(turn, id, of);
    muster_journal_say(muster_ctx_journal(self->ctx), WARNING, "agent-session-lost",
                       "An agent does not know a session any more; its conversation goes on in a new one.",
                       MUSTER_SAY_TEXT("team", self->team->name), MUSTER_SAY_TEXT("session", lane->session), of[0],
                       of[1]);
    lane->turn = NULL;
    lane->busy_tools = 0;
    turn->lost = true;
    turn->begun = turn->resumed = false;
    turn->session[0] = '\0';
    turn->next = self->waiting;
    self->waiting = turn;
}

void
agent_turn_end(struct agent_turn *turn, enum agent_end end, muster_err err, const char *text)
{
    if (end <= turn->end)
        return;
    turn->end = end;
    turn->end_err = err;
    free(turn->end_text);
    turn->end_text = muster_strdup(text ? text : "");
}

/* ---- the report -----------------------------------------------------------------------------------------------------
 */

/* What is to be said of an end that was not a completion. */
static void
fill_failure(const struct agent_turn *turn, const struct driver_outcome *outcome, struct muster_buf *text,
             struct queue_report *report)
{
    struct muster_buf raw = {0};
    muster_err err = outcome ? outcome->err : MUSTER_PROCESS_ERROR;

    if (turn->end != AGENT_END_FAIL && outcome)
        muster_buf_add(&raw, outcome->text, outcome->text_size);
    if (turn->end == AGENT_END_FAIL) {
        err = turn->end_err;
        muster_buf_str(&raw, turn->end_text);
    }
    muster_utf8_clean(text, raw.data ? raw.data : "",
                      driver_text_cut(raw.data ? raw.data : "", raw.size, MESSAGE_MAX / 3));
    muster_buf_free(&raw);
    report->state = job_state_FAILED;
    report->code = muster_err_code(err);
    report->message = text->data ? text->data : "";
    report->final = turn->end == AGENT_END_FAIL ? turn->end_final : outcome && outcome->final;
}

static void
fill(const struct agent *self, const struct agent_turn *turn, const struct driver_outcome *outcome,
     struct muster_buf *text, struct queue_report *report)
{
    bool completed = outcome && outcome->err == MUSTER_OK;

    if (completed && outcome->text_size <= (size_t)muster_ctx_options(self->ctx)->agents->max_answer) {
        muster_utf8_clean(text, outcome->text, outcome->text_size);
        report->state = job_state_COMPLETED;
        report->result = text->data ? text->data : "";
    } else if (completed) {
        report->state = job_state_FAILED;
        report->code = muster_err_code(MUSTER_OUTPUT_TOO_LARGE);
        report->message = muster_err_text(MUSTER_OUTPUT_TOO_LARGE);
    } else if (turn->end == AGENT_END_CANCEL) {
        report->state = job_state_CANCELLED;
    } else if (turn->end == AGENT_END_PARK) {
        report->state = job_state_PARKED;
    } else {
        fill_failure(turn, outcome, text, report);
    }
    if (outcome && report->state == job_state_FAILED)
        report->retry_after_ms = outcome->retry_after_ms;
}

static bool
used_something(const struct usage *usage)
{
    return usage->input_tokens || usage->output_tokens || usage->cache_read_tokens || usage->cache_write_tokens ||
           usage->cost_usd > 0 || usage->turns;
}

static void
send_report(struct agent *self, struct agent_turn *turn, const struct driver_outcome *outcome, const char *session)
{
    struct agent_log_about of = about(turn);
    struct queue_report report = {.job = turn->job, .attempt = turn->attempt, .session = session};
    struct muster_buf text = {0};
    bool fresh = outcome && outcome->fresh_session;

    if (fresh)
        report.session = "";
    fill(self, turn, outcome, &text, &report);
    use_settle_all(turn);
    report.tools = (struct muster_strs){turn->tools.items, turn->tools.count};
    report.files = (struct muster_strs){turn->files.items, turn->files.count};
    if (outcome && used_something(&outcome->usage)) {
        report.usage = &outcome->usage;
        agent_log_event(&self->log, &of, &job_usage_type, &(struct job_usage){.usage = &outcome->usage});
    }
    agent_log_report(&self->log, &of, &report);
    if (report.state == job_state_FAILED && report.message)
        agent_problem(self, *report.message ? report.message : report.code);
    muster_buf_free(&text);
}

void
agent_turn_report(struct agent_lane *lane, const struct driver_outcome *outcome)
{
    struct agent_turn *turn = lane->turn;
    enum agent_timer timer;

    if (!turn)
        return;
    lane->turn = NULL;
    lane->busy_tools = 0;
    lane->agent->dirty = true;
    for (timer = AGENT_TIMER_TURN; timer <= AGENT_TIMER_DRIVER; timer++)
        agent_lane_timer_end(lane, timer);
    send_report(lane->agent, turn, outcome, lane->session);
    if (outcome && outcome->fresh_session)
        lane->session[0] = '\0';
    agent_turn_free(&turn);
}

void
agent_turn_drop(struct agent *self, struct agent_turn **turn_p)
{
    send_report(self, *turn_p, NULL, (*turn_p)->session);
    agent_turn_free(turn_p);
}

/* ---- what the driver gets -------------------------------------------------------------------------------------------
 */

static muster_err
host_write(void *self, const void *data, size_t size)
{
    struct agent_lane *lane = self;

    return lane->child ? muster_child_write(lane->child, data, size) : MUSTER_GONE;
}

static void
host_close_input(void *self)
{
    struct agent_lane *lane = self;

    lane->input_closed = true;
    if (lane->child)
        muster_child_close_input(lane->child);
}

static void
host_chunk(void *self, const char *text, size_t size)
{
    struct agent_lane *lane = self;
    struct agent_log_about of;

    agent_lane_heard(lane);
    if (!lane->turn || !lane->turn->begun)
        return;
    lane->turn->said = true;
    of = about(lane->turn);
    agent_log_chunk(&lane->agent->log, &of, text, size);
}

static void
warn_denied(const struct agent_lane *lane, const struct job_permission *asked)
{
    const struct agent *self = lane->agent;
    struct muster_say of[AGENT_SAYS];
    char id[AGENT_ID_TEXT];

    if (asked->verdict != tool_verdict_DENIED)
        return;
    agent_turn_say(lane->turn, id, of);
    muster_journal_say(muster_ctx_journal(self->ctx), WARNING, "agent-permission-denied",
                       "An agent wanted to use a tool that the team's rules do not allow.",
                       MUSTER_SAY_TEXT("team", self->team->name), MUSTER_SAY_TEXT("tool", asked->tool),
                       MUSTER_SAY_TEXT("rule", asked->rule), of[0], of[1]);
}

/* What is said outside of a turn has no job that it could belong to. */
static void
say_outside(const struct agent *self, const struct muster_type *type, const void *body)
{
    const struct job_notice *notice = body;

    if (type == &job_notice_type)
        muster_journal_say(muster_ctx_journal(self->ctx), INFO, "agent-notice",
                           "An agent without a job said something.", MUSTER_SAY_TEXT("team", self->team->name),
                           MUSTER_SAY_TEXT("kind", notice->kind), MUSTER_SAY_TEXT("text", notice->text));
}

/* What an event says about the turn. */
static void
note_event(struct agent_lane *lane, const struct muster_type *type, const void *body)
{
    struct agent_turn *turn = lane->turn;
    const struct job_tool_result *result = body;
    const struct job_progress *progress = body;

    if (type == &job_tool_use_type) {
        turn->said = true;
        use_begin(turn, body);
    } else if (type == &job_tool_result_type && !result->failed) { /* a failure may be told to be a denial yet */
        use_settle_id(turn, result->id, true);
    } else if (type == &job_progress_type) {
        turn->current = progress->current;
        turn->total = progress->total;
        lane->agent->dirty = true;
    }
}

static void
host_event(void *self, const struct muster_type *type, const void *body)
{
    struct agent_lane *lane = self;
    struct agent_turn *turn = lane->turn;
    struct agent_log_about of;

    agent_lane_heard(lane);
    if (type == &job_permission_type)
        warn_denied(lane, body);
    if (!turn || !turn->begun) {
        say_outside(lane->agent, type, body);
        return;
    }
    note_event(lane, type, body);
    of = about(turn);
    agent_log_event(&lane->agent->log, &of, type, body);
}

static void
host_denied(void *self, const char *use)
{
    struct agent_lane *lane = self;

    if (lane->turn)
        use_settle_id(lane->turn, use, false);
}

static void
host_ready(void *self)
{
    agent_lane_ready(self);
}

static void
host_session(void *self, const char *session)
{
    struct agent_lane *lane = self;

    if (strlen(session) > AGENT_SESSION_MAX || !strcmp(session, lane->session))
        return;
    (void)driver_text_copy(session, lane->session, sizeof(lane->session));
    lane->agent->dirty = true;
}

static void
host_done(void *self, const struct driver_outcome *outcome)
{
    struct agent_lane *lane = self;

    if (!lane->turn || lane->again)
        return;
    if (is_lost(lane, outcome)) {
        lane->again = true;
        agent_lane_stop(lane, "its session is not known any more");
        return;
    }
    agent_turn_report(lane, outcome);
    agent_lane_rest(lane);
}

static void
host_broken(void *self, const char *problem)
{
    agent_lane_fail(self, MUSTER_PROCESS_ERROR, problem);
}

static void
host_timer(void *self, int64_t delay_ms)
{
    agent_lane_timer_in(self, AGENT_TIMER_DRIVER, delay_ms);
}

static void
host_busy_tools(void *self, int64_t count)
{
    ((struct agent_lane *)self)->busy_tools = count;
}

void
agent_turn_host(struct agent_lane *lane)
{
    const struct agent *self = lane->agent;

    lane->host = (struct driver_host){
        .self = lane,
        .team = self->team,
        .agents = muster_ctx_options(self->ctx)->agents,
        .directory = self->team->directory,
        .write = host_write,
        .close_input = host_close_input,
        .chunk = host_chunk,
        .event = host_event,
        .denied = host_denied,
        .ready = host_ready,
        .session = host_session,
        .done = host_done,
        .broken = host_broken,
        .timer = host_timer,
        .busy_tools = host_busy_tools,
    };
}
