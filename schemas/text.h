/* SPDX-License-Identifier: MPL-2.0 */
/* Text: UTF-8 and numbers.  Any thread, no state. */
#ifndef TEXT_H
#define TEXT_H

#include "schemas/muster_buf.h"

#include <stdbool.h>

/* Bytes of the valid UTF-8 character at `at`; 0 when there is none.  `left` must not be 0. */
size_t text_character(const char *at, size_t left);
/* Is all of it valid UTF-8 without NUL? */
bool text_is_clean(const char *text, size_t size);
/* Append the shortest decimal text that reads back as the same finite number, with a '.' in any locale.  It always has
 * a '.' or an 'e', so that it stays a real. */
void text_real(struct muster_buf *out, double number);

#endif
