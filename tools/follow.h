/* SPDX-License-Identifier: MPL-2.0 */
/* Shows a job as it goes on, up to its end: by its event stream, over broken connections, or by looking again and
 * again. Main thread.
 *
 * `out_forbidden` (may be NULL: then it is an error like others): set, and nothing told, when the server's first answer
 * was 403, as it is to a key without the scope for streams. */
#ifndef TOOLS_FOLLOW_H
#define TOOLS_FOLLOW_H

#include "tools/client.h"

/* Send `body` to `path` and show the events of the job that it makes; returns the exit code of how the job ended.
 * `deadline_ms`: how long to wait for that; 0: for ever. */
int follow_new(const struct client *client, const char *path, const char *body, int64_t deadline_ms,
               bool *out_forbidden);
/* Show the events of a job from its first on. */
int follow_job(const struct client *client, const char *id, bool *out_forbidden);
/* Without its events: wait for a job's end and show it. */
int poll_job(const struct client *client, const char *id);

#endif
