/* SPDX-License-Identifier: MPL-2.0 */
/* Events of the log, as GET /api/v1/events shows them, in words.  Every field may be missing or of another type.
 *
 * Pure; any thread. */
#ifndef TOOLS_EVENTS_H
#define TOOLS_EVENTS_H

#include <jansson.h>
#include <stdbool.h>

#include "schemas/muster_buf.h"

/* How lines are written. */
struct event_style {
    int width;       /* characters of a line; failures are longer where they must */
    int team_width;  /* of the column; grows with what is shown */
    bool short_time; /* the time of day only, for what happens today */
};

/* Append time, team, short id and what happened as one line, with its line end. */
void event_line(struct muster_buf *out, const json_t *event, struct event_style *style);
/* Is it the last event of its job?  Then *out_result is the exit code that tells how the job ended. */
bool event_ends(const json_t *event, int *out_result);
/* Append a tool and what it is given, on one line: "Read a.c", "Bash {"command":"ls"}". */
void event_add_tool(struct muster_buf *out, const json_t *use);

#endif
