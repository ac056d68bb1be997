/* SPDX-License-Identifier: MPL-2.0 */
/* What drivers share: names of programs, last words, paths, and events made from JSON.  Agent actor's thread; the
 * paths any.  Nothing fails. */
#ifndef DRIVER_SHARE_H
#define DRIVER_SHARE_H

#include <jansson.h>

#include "actors/drivers/driver.h"

/* The largest JSON and text that the rows of events.def take. */
#define DRIVER_JSON_MAX ((size_t)16777216)
#define DRIVER_NAME_MAX 256
#define DRIVER_FILE_MAX 4096

/* The team's program without its folder; `otherwise` when it names none. */
const char *driver_program(const struct team_options *team, const char *otherwise);
/* Append "claude exited with status 1: last words" or "claude was ended by signal 9: last words". */
void driver_exit_text(const char *program, int status, const char *last_words, struct muster_buf *out);
/* How many of `size` bytes fit into `limit` without cutting a character. */
size_t driver_text_cut(const char *text, size_t size, size_t limit);
/* Copy as much of `text` (NULL: nothing) as fits into `out`, NUL-terminated. */
const char *driver_text_copy(const char *text, char *out, size_t out_size);
/* Has the path a segment ".."?  With `braces` also one that is a choice in braces. */
bool driver_path_climbs(const char *path, bool braces);
/* The part of `path` inside `directory`, "" for itself; NULL when it lies elsewhere.  Both are clean. */
const char *driver_path_inside(const char *path, const char *directory);
/* The text of a member; "" when there is none. */
const char *driver_json_str(const json_t *object, const char *name);
/* Is the member that text? */
bool driver_json_is(const json_t *object, const char *name, const char *text);
/* Tell the log that `tool` is used.  `input` may be NULL.  A file in the team's directory is told from there. */
void driver_tool_use(const struct driver_host *host, const char *tool, const char *id, const json_t *input);
/* Tell the log something worth knowing.  `text` and `data` may be NULL. */
void driver_notice(const struct driver_host *host, const char *kind, const char *text, const json_t *data);

#endif
