/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the agent actor: what its files share.  The actor's thread only.
 *
 *   agent.c           messages, which job goes to which lane, what is published
 *   agent_turn.c      one attempt of a job: what the driver says of it, and its report
 *   agent_lane.c      one lane and its process: start, timers, the ladder down to its end
 *   agent_session.c   sessions that have no process now
 *   agent_spec.c      command line and environment of a process
 *   agent_log.c       what goes to the log, in order, however full its mailbox is */
#ifndef ACTORS_AGENT_H
#define ACTORS_AGENT_H

#include "actors/drivers/driver.h"
#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "actors/muster_snapshots.h"

#define AGENT_TOOLS_MAX 256
#define AGENT_FILES_MAX 1024
#define AGENT_USES_MAX 64
#define AGENT_SESSION_MAX 128
#define AGENT_CONVERSATION_MAX 64
#define AGENT_SESSIONS_A_LANE 4

/* ---- what goes to the log -------------------------------------------------------------------------------------------
 */

struct agent_log_item;
struct agent_log {
    struct muster_ctx *ctx;               /* borrowed */
    const char *team;                     /* borrowed */
    struct agent_log_item *first, **last; /* oldest first */
    size_t count, held;                   /* of items, and of those that wait for agent_log_release */
    size_t live_bytes;                    /* of events and chunks in the list */
    bool refused;                         /* the log's mailbox was full; a timer is set */
    int64_t dropped;                      /* events dropped since the list last was empty */
};
/* Who an entry is about; all zero: the agent itself. */
struct agent_log_about {
    struct muster_id job;
    int64_t attempt;
    const char *trace; /* borrowed for the call */
    bool held;         /* until agent_log_release of the attempt */
};
void agent_log_init(struct agent_log *log, struct muster_ctx *ctx, const char *team);
void agent_log_fini(struct agent_log *log);
/* A piece of the answer; any bytes.  Joined with the piece before it while nobody has seen that yet. */
void agent_log_chunk(struct agent_log *log, const struct agent_log_about *about, const char *text, size_t size);
void agent_log_event(struct agent_log *log, const struct agent_log_about *about, const struct muster_type *type,
                     const void *body);
/* The end of an attempt; never dropped. */
void agent_log_report(struct agent_log *log, const struct agent_log_about *about, const struct queue_report *report);
/* What was held of this attempt goes out with the next flush. */
void agent_log_release(struct agent_log *log, const struct muster_id *job, int64_t attempt);
/* Send what there is; what the log has no room for is kept, and tried again when the timer AGENT_TIMER_LOG fires. */
void agent_log_flush(struct agent_log *log);

/* ---- an attempt of a job --------------------------------------------------------------------------------------------
 */

/* Texts that are told once each. */
struct agent_list {
    const char **items; /* each owned */
    size_t count, limit;
};

/* A tool that is used, until it is known whether it was: a use that is denied does not count. */
struct agent_use {
    char *id, *tool, *file;
};

/* Why an attempt was ended by us; the agent's own end counts only when it is a completion. */
enum agent_end { AGENT_END_NONE, AGENT_END_FAIL, AGENT_END_PARK, AGENT_END_CANCEL };

struct agent_turn {
    struct agent_turn *next; /* of those that wait */
    struct muster_id job;
    int64_t attempt;
    int64_t timeout_ms;
    char *prompt;
    char *session;      /* to be resumed; "" none */
    char *conversation; /* it belongs to; "" the team's own */
    char *origin;       /* the conversation that it came in, also when the driver has no sessions; "" none */
    char *trace;
    bool unwritten;         /* what it says is held, until it is on disk that it has begun */
    bool begun;             /* given to the driver */
    bool told;              /* job.started was said */
    bool resumed;           /* its process was started with its session */
    bool said;              /* the agent has said or done something */
    bool lost;              /* its session was gone, and it is done in a new one */
    int64_t current, total; /* how far the agent says it is; total 0: it does not say */
    enum agent_end end;
    muster_err end_err; /* of AGENT_END_FAIL */
    char *end_text;     /* of AGENT_END_FAIL */
    bool end_final;     /* of AGENT_END_FAIL: another attempt would not help */
    struct agent_use uses[AGENT_USES_MAX];
    size_t use_count;
    struct agent_list tools, files;
};

/* ---- a lane: one turn at a time, with at most one process, or none if the driver needs none -------------------------
 */

/* Steps of a process's end; each has stop_timeout. */
enum agent_step {
    AGENT_STEP_NONE,
    AGENT_STEP_INTERRUPT,
    AGENT_STEP_CLOSE,
    AGENT_STEP_INT,
    AGENT_STEP_TERM,
    AGENT_STEP_KILL
};

struct agent;
/* A lane belongs to a conversation as long as it has a process. */
struct agent_lane {
    struct agent *agent;
    uint64_t index; /* in agent->lanes */
    enum process_state state;
    enum agent_step step;
    struct muster_child *child; /* NULL: none, or the driver needs none */
    int64_t pid;                /* of the child, or of the last one */
    void *driver;               /* NULL while stopped */
    struct driver_host host;
    struct agent_turn *turn; /* NULL: none */
    bool ready;              /* the driver takes turns */
    bool again;              /* its turn goes to another process when this one is gone */
    bool input_closed;
    char *directory; /* the team's, without symbolic links, as it was at the last start; NULL before */
    int64_t started_ms, last_output_ms, idle_since_ms;
    int64_t turns;
    int64_t busy_tools;
    char session[AGENT_SESSION_MAX + 1];           /* "" not known yet, or stopped */
    char conversation[AGENT_CONVERSATION_MAX + 1]; /* "" the team's own, or stopped */
};

/* A session that has no process now. */
struct agent_session {
    char name[AGENT_SESSION_MAX + 1];
    char conversation[AGENT_CONVERSATION_MAX + 1]; /* "" the team's own */
};

/* Timers of a lane; its keys are AGENT_TIMERS * index + timer. */
enum agent_timer {
    AGENT_TIMER_START,
    AGENT_TIMER_STEP,
    AGENT_TIMER_TURN,
    AGENT_TIMER_SILENCE,
    AGENT_TIMER_DRIVER,
    AGENT_TIMER_IDLE,
    AGENT_TIMERS
};
#define AGENT_TIMER_LOG UINT64_MAX
#define AGENT_TIMER_READY (UINT64_MAX - 1)

struct agent {
    struct muster_ctx *ctx; /* borrowed; outlives us */
    const struct team_options *team;
    const struct driver *driver_class;
    struct agent_lane *lanes; /* team->concurrency of them */
    size_t count;
    struct agent_turn *waiting; /* oldest first */
    struct agent_session *sessions;
    size_t session_count;
    struct agent_log log;
    int64_t started; /* processes ever started; part of their marks */
    bool dirty;      /* the board is behind */
    char problem[512];
    int64_t problem_ms;
};

/* Note the last thing that went wrong, for the board. */
void agent_problem(struct agent *self, const char *text);
/* Has the driver sessions that a later process can resume? */
bool agent_has_sessions(const struct agent *self);
/* Does a turn other than `but` wait for this conversation (not "") or session (not "")? */
bool agent_is_awaited(const struct agent *self, const char *conversation, const char *session,
                      const struct agent_turn *but);

/* ---- agent_session.c */
/* A process in that session has ended; a session "" is none. */
void agent_session_keep(struct agent *self, const char *conversation, const char *session);
/* The session that a new process for `turn` resumes, "" none; it is no longer kept. */
void agent_session_take(struct agent *self, const struct agent_turn *turn, char out[AGENT_SESSION_MAX + 1]);

/* ---- agent_turn.c */
/* Without `sessions` its session and conversation are left out. */
struct agent_turn *agent_turn_new(const struct agent_run *run, bool sessions);
void agent_turn_free(struct agent_turn **turn_p);
/* The functions that the driver of `lane` gets. */
void agent_turn_host(struct agent_lane *lane);
/* Give the turn of an idle lane to its driver. */
void agent_turn_begin(struct agent_lane *lane);
/* We end the attempt: whatever the driver says now, unless it is a completion, this is what is reported. */
void agent_turn_end(struct agent_turn *turn, enum agent_end end, muster_err err, const char *text);
/* Facts of a journal entry that `turn` is about; NULL: none.  `out_id` keeps the text. */
#define AGENT_SAYS 2
#define AGENT_ID_TEXT 48
void agent_turn_say(const struct agent_turn *turn, char out_id[AGENT_ID_TEXT], struct muster_say out_says[AGENT_SAYS]);
/* Report the attempt of `lane`, which is free afterwards.  `outcome` NULL: there is none but our own end. */
void agent_turn_report(struct agent_lane *lane, const struct driver_outcome *outcome);
/* The session of the turn of `lane` is gone: have the turn wait for a process with a new one, before all others. */
void agent_turn_again(struct agent_lane *lane);
/* Report an attempt that no lane has, and free it. */
void agent_turn_drop(struct agent *self, struct agent_turn **turn_p);

/* ---- agent_lane.c */
/* Start a stopped one for `turn`, which it takes in every case; the driver may begin it at once. */
void agent_lane_start(struct agent_lane *lane, struct agent_turn **turn_p);
/* Ask for the end of its turn, and for its own if it does not react. */
void agent_lane_interrupt(struct agent_lane *lane);
/* On its way out: end of input, SIGINT, SIGTERM, SIGKILL. */
void agent_lane_stop(struct agent_lane *lane, const char *reason);
/* Its turn is over: idle again, or gone if it is of one turn only. */
void agent_lane_rest(struct agent_lane *lane);
/* It said something. */
void agent_lane_heard(struct agent_lane *lane);
void agent_lane_ready(struct agent_lane *lane);
/* End its turn and then the process: the turn is reported with this failure. */
void agent_lane_fail(struct agent_lane *lane, muster_err err, const char *problem);
void agent_lane_timer(struct agent_lane *lane, enum agent_timer timer);
void agent_lane_timer_in(struct agent_lane *lane, enum agent_timer timer, int64_t delay_ms);
void agent_lane_timer_end(struct agent_lane *lane, enum agent_timer timer);
/* At once, without reports. */
void agent_lane_free(struct agent_lane *lane);
void agent_lane_tell(struct agent_lane *lane, enum process_state state, const char *reason);

/* ---- agent_spec.c */
/* Start the process of `lane`; `problem` as in muster_child.h. */
muster_err agent_spec_start(struct agent_lane *lane, const struct muster_child_hooks *hooks, char *problem,
                            size_t problem_size);

#endif
