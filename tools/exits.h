/* SPDX-License-Identifier: MPL-2.0 */
/* Exit codes of the program, and which of them an answer of the server leads to.  Pure tables; any thread. */
#ifndef TOOLS_EXITS_H
#define TOOLS_EXITS_H

#include <stddef.h>

enum exit_code {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_UNREACHABLE = 3,
    EXIT_REFUSED = 4,
    EXIT_NOT_FOUND = 5,
    EXIT_TIMEOUT = 6,
    EXIT_LATER = 7,
    EXIT_CANCELLED = 8,
    EXIT_INTERRUPTED = 130
};

struct exit_row {
    int code;
    const char *doc;
};
extern const struct exit_row exit_rows[]; /* ends with doc == NULL */

/* The exit code for an HTTP status and the error code (may be "") of its body. */
int exit_of_answer(long status, const char *code);
/* The exit code for the code that a job ended with. */
int exit_of_job(const char *code);
/* What to do about an error code or else about a status; one sentence without a full stop, or "" where the server's
 * own message says it. */
const char *exit_advice(long status, const char *code);

#endif
