/* SPDX-License-Identifier: MPL-2.0 */
/* The one list of errors: internal results, HTTP statuses and job failure codes.
 *
 * Every function that can fail returns `muster_err`; MUSTER_OK is 0.  Outputs are written only on success.
 * Any thread.  Nothing here allocates. */
#ifndef MUSTER_ERR_H
#define MUSTER_ERR_H

#include <stdbool.h>

typedef enum muster_err {
#define ERROR(id, http, retry, text) MUSTER_##id,
#define INSIDE(id, http, retry, text) MUSTER_##id,
#include "schemas/errors.def"
#undef ERROR
#undef INSIDE
    MUSTER_ERR_COUNT
} muster_err;

/* The published code, for example "TEAM_NOT_FOUND". */
const char *muster_err_code(muster_err err);
/* One sentence for a person. */
const char *muster_err_text(muster_err err);
/* HTTP status that carries this error. */
int muster_err_http(muster_err err);
/* May the queue try a job again that ended with this? */
bool muster_err_retryable(muster_err err);
/* The inverse of muster_err_code; MUSTER_INTERNAL_ERROR for an unknown code. */
muster_err muster_err_from_code(const char *code);

/* What was wrong with an input, for the person who sent it. */
struct muster_fault {
    char field[96];    /* path of the field, "callback.url"; empty: the whole input */
    char message[256]; /* what was expected, complete sentence without the field's name */
};

/* Fill a fault; returns MUSTER_INVALID_REQUEST so that it can be returned at once.  `fault` may be NULL. */
muster_err muster_fault_set(struct muster_fault *fault, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Our own bug, never reachable from outside input: prints file:line and aborts, in release too. */
#define MUSTER_ASSERT(condition) ((condition) ? (void)0 : muster_assert_failed(#condition, __FILE__, __LINE__))
_Noreturn void muster_assert_failed(const char *condition, const char *file, int line);

#endif
