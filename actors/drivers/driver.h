/* SPDX-License-Identifier: MPL-2.0 */
/* How an agent is spoken to: one table of functions a driver, one file a driver.
 *
 * The agent actor owns processes, timers, the kill ladder and reports; a driver only turns a prompt into bytes and
 * lines into what they mean.  It does so through a `struct driver_host`, so that recorded lines can be played to it in
 * tests. A driver object serves one process (or, without one, one lane) for all its turns.  Agent actor's thread. */
#ifndef DRIVER_H
#define DRIVER_H

#include "schemas/muster_codec.h"

/* How a turn ended. */
struct driver_outcome {
    muster_err err;         /* MUSTER_OK: completed */
    const char *text;       /* the answer, or what went wrong */
    size_t text_size;       /* bytes of text */
    int64_t retry_after_ms; /* the agent was told to wait; 0: not known */
    bool fresh_session;     /* the session cannot be resumed */
    bool final;             /* of a failure: another attempt would not help */
    struct usage usage;     /* of this turn */
};

/* What a driver can do; every function takes `host->self` first. */
struct driver_host {
    void *self;
    const struct team_options *team;
    const struct agent_options *agents;
    const char *directory; /* the team's, without symbolic links */

    /* ---- to the process ---- */
    muster_err (*write)(void *self, const void *data, size_t size);
    void (*close_input)(void *self);

    /* ---- to the log ---- */
    void (*chunk)(void *self, const char *text, size_t size);
    /* Any other event of events.def. */
    void (*event)(void *self, const struct muster_type *type, const void *body);
    /* The use of a tool that was told, or will be, is not carried out. */
    void (*denied)(void *self, const char *use);

    /* ---- to the agent ---- */
    void (*ready)(void *self);                                      /* a turn may begin */
    void (*session)(void *self, const char *session);               /* the agent's session is now called so */
    void (*done)(void *self, const struct driver_outcome *outcome); /* the turn has ended */
    void (*broken)(void *self, const char *problem);                /* it cannot go on: end the process */
    void (*timer)(void *self, int64_t delay_ms);                    /* call the driver's `timer` then; one at a time */
    void (*busy_tools)(void *self, int64_t count);                  /* tools at work now, for the silence timer */
};

struct driver_turn {
    const char *prompt;
    int64_t attempt;
    struct muster_id job;
    const char *conversation; /* that the job came in; "" none of its own */
};

struct driver {
    const char *name;
    bool has_process;       /* a process is started for it, and `line` gets what it prints */
    bool process_per_turn;  /* the process ends with its turn; never warm */
    const char *const *env; /* names of further variables of our environment that it sees, NULL at the end; or NULL */
    size_t size;            /* of the driver object, given zeroed to init */
    void (*init)(void *driver, const struct driver_host *host);
    void (*fini)(void *driver);
    /* Command line and further environment of the process.  `session` is resumed when not "".  For a process of one
     * turn `turn` is that turn, else NULL.  Everything in the arena. */
    void (*command)(void *driver, const char *session, const struct driver_turn *turn, struct muster_arena *arena,
                    struct muster_strs *out_argv, struct muster_pairs *out_env);
    void (*started)(void *driver);                               /* the process runs; say hello; NULL: ready at once */
    void (*begin)(void *driver, const struct driver_turn *turn); /* begin a turn */
    void (*line)(void *driver, const char *line, size_t size);   /* it printed a line */
    /* During a turn, or while one waits for `ready`; after the last line; must call done. */
    void (*exited)(void *driver, int status, const char *last_words);
    void (*interrupt)(void *driver); /* ask it to give up its turn; NULL: cannot be asked */
    void (*timer)(void *driver);
    void (*said)(void *driver, const struct agent_said *said); /* the turn tells something; NULL: it cannot */
};

extern const struct driver driver_echo;
extern const struct driver driver_command;
extern const struct driver driver_claude;
extern const struct driver driver_actor;

const struct driver *driver_find(enum driver_kind kind);

/* ---- permission rules (permissions.c) ---- */
/* What the rules say to `tool` with `input` (JSON text).  Relative file patterns count from `directory`.  *out_rule is
 * the rule that matched, "" none; so a denial with a rule is one of a deny rule. */
enum tool_verdict permission_check(const struct permission_options *permissions, const char *directory,
                                   const char *tool, const char *input, const char **out_rule);

#endif
