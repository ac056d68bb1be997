/* SPDX-License-Identifier: MPL-2.0 */
/* Looks errors up in the table of errors.def, and fills faults.  Any thread; nothing here fails or allocates. */
#include "schemas/muster_err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct err_row {
    const char *code;
    int http;
    bool retry;
    const char *text;
};

static const struct err_row rows[] = {
#define ERROR(id, http, retry, text) {#id, http, retry, text},
#define INSIDE(id, http, retry, text) {#id, http, retry, text},
#include "schemas/errors.def"
#undef ERROR
#undef INSIDE
};

/* A number that is no row can only be our own bug, but must not make it worse. */
static const struct err_row *
row_of(muster_err err)
{
    return (unsigned)err < MUSTER_ERR_COUNT ? &rows[err] : &rows[MUSTER_INTERNAL_ERROR];
}

const char *
muster_err_code(muster_err err)
{
    return row_of(err)->code;
}

const char *
muster_err_text(muster_err err)
{
    return row_of(err)->text;
}

int
muster_err_http(muster_err err)
{
    return row_of(err)->http;
}

bool
muster_err_retryable(muster_err err)
{
    return row_of(err)->retry;
}

muster_err
muster_err_from_code(const char *code)
{
    int i;

    for (i = 0; i < MUSTER_ERR_COUNT; i++)
        if (strcmp(rows[i].code, code) == 0)
            return (muster_err)i;
    return MUSTER_INTERNAL_ERROR;
}

muster_err
muster_fault_set(struct muster_fault *fault, const char *field, const char *format, ...)
{
    va_list args;

    if (fault == NULL)
        return MUSTER_INVALID_REQUEST;
    (void)snprintf(fault->field, sizeof fault->field, "%s", field ? field : "");
    va_start(args, format);
    (void)vsnprintf(fault->message, sizeof fault->message, format, args);
    va_end(args);
    return MUSTER_INVALID_REQUEST;
}

_Noreturn void
muster_assert_failed(const char *condition, const char *file, int line)
{
    (void)fprintf(stderr, "muster: %s:%d: this should be true: %s\n", file, line, condition);
    abort();
}
