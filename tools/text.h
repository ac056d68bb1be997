/* SPDX-License-Identifier: MPL-2.0 */
/* Text of the server as one line of a known width.  Pure; any thread. */
#ifndef TOOLS_TEXT_H
#define TOOLS_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "schemas/muster_buf.h"

/* Characters of UTF-8 text. */
int text_width(const char *text);
/* Cut to `width` characters, with "..." at the end of what was longer; a width of 3 or less cuts nothing. */
void text_cut(char *text, int width);
/* Every control character becomes a space. */
void text_flatten(char *text);
/* Copy as much as fits, never half a character. */
void text_copy(char *out, size_t size, const char *text);
/* Append at most `width` characters on one line: control characters and spaces that follow each other become one
 * space, none stand at the ends; "..." at the end of what was longer. */
void text_add_line(struct muster_buf *out, const char *text, int width);
/* Does it name a job: "msg_..." or "job_..." with an id behind it, or an id? */
bool text_is_job(const char *text);
/* The end of a job's name, which tells jobs of the same minute apart: "msg_01890a5d-ac96-774b-bcce-b302099a8057" gives
 * "099a8057". */
const char *text_short_id(const char *id);

#endif
