/* SPDX-License-Identifier: MPL-2.0 */
/* Shows a job's event stream as it comes, over broken connections, up to its end.  Main thread. */
#ifndef TOOLS_FOLLOW_H
#define TOOLS_FOLLOW_H

#include "tools/client.h"

/* Send `body` to `path` and show the events of the job that it makes; returns the exit code of how the job ended.
 * `deadline_ms`: how long to wait for that; 0: for ever. */
int follow_new(const struct client *client, const char *path, const char *body, int64_t deadline_ms);
/* Show the events of a job from its first on. */
int follow_job(const struct client *client, const char *id);

#endif
