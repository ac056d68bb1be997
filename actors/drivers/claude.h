/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the claude driver: its state, shared by claude.c (turns), claude_lines.c (what the CLI prints),
 * claude_ask.c (what it asks), claude_todo.c (how far it is) and claude_result.c (how a turn ended).
 * Agent actor's thread. */
#ifndef DRIVER_CLAUDE_H
#define DRIVER_CLAUDE_H

#include "actors/drivers/share.h"

/* request_id of our `initialize`. */
#define CLAUDE_INITIALIZE "muster-initialize"
/* callback_id of the hook that sees every use of a tool before it is made. */
#define CLAUDE_DENY_HOOK "deny"

struct claude {
    const struct driver_host *host; /* borrowed; outlives us */
    bool ready;                     /* `initialize` was answered */
    bool in_turn;                   /* our prompt was written and its result is not here yet */
    bool in_init;                   /* our turn's `init` is here */
    bool announced;                 /* idle, and the CLI will begin a turn of its own making */
    bool foreign;                   /* the CLI is in a turn of its own making, and ours is not written */
    bool ahead;                     /* ours is written, and the CLI does one of its own before it */
    bool interrupted;               /* we asked the turn to end */
    bool no_conversation;           /* the session to resume does not exist */
    char *waiting;                  /* our prompt line, until the CLI's own turn is over; NULL none */
    json_t *tools;                  /* ids of tools used in this turn: true while at work */
    json_t *denied;                 /* ids of those that a deny rule stopped */
    json_t *todos;                  /* uses of the to-do tools that have no result yet: id to block */
    json_t *tasks;                  /* those of this turn: id to {status, step} */
    int64_t busy_tools;             /* at work now */
    char message[128];              /* id of the message that is streamed */
    struct muster_buf said;         /* its open text block as far as it was given as chunks: a preview */
    bool anew;                      /* the preview's message broke off and is told again, under another id */
    size_t again;                   /* bytes of `said` that were told again */
    char error[64];                 /* `error` of the last synthetic assistant line of this turn */
    double cost_usd;                /* total_cost_usd of the last result */
    int64_t resets_at_s;            /* of the last rejecting rate_limit_event of this turn; 0 none */
    int64_t requests;               /* control requests sent */
    bool mended;                    /* the line being read was not quite JSON and was mended */
};

/* Begin the turn that waited, if one did. */
void claude_send_waiting(struct claude *self);
/* Write one JSON object as a line; takes the reference. */
void claude_write(struct claude *self, json_t *object);
/* What the CLI printed. */
void claude_line(void *driver, const char *line, size_t size);
/* A control_request of the CLI. */
void claude_asked(struct claude *self, const json_t *line);
/* Tell that the use of a tool is not carried out. */
void claude_denied(struct claude *self, const char *use);
/* A tool of the agent itself is used; those that are not for to-dos are passed over. */
void claude_todo_used(struct claude *self, const json_t *block);
/* The result of a use is here, in `line`; it said `said`. */
void claude_todo_done(struct claude *self, const char *use, bool failed, const json_t *line, const char *said);
/* The turn has ended: forget what was its own. */
void claude_turn_clear(struct claude *self);
/* How a turn ended, from its `result`.  Text in `text`. */
void claude_result(struct claude *self, const json_t *result, struct muster_buf *text, struct driver_outcome *out);

#endif
