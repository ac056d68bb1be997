/* SPDX-License-Identifier: MPL-2.0 */
/* Paths, bounds and words for rows.  Any thread; no recursion but along a path, which is as deep as the schema. */
#include "schemas/rows.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static size_t
path_add(const struct rows_path *path, char *text, size_t size, size_t used)
{
    int added;

    if (path == NULL)
        return used;
    used = path_add(path->up, text, size, used);
    if (used >= size)
        return used;
    if (path->name == NULL)
        added = snprintf(text + used, size - used, "[%zu]", path->index);
    else
        added = snprintf(text + used, size - used, "%s%.*s", used ? "." : "",
                         (int)(path->size < 256 ? path->size : 256), path->name);
    return used + (size_t)(added > 0 ? added : 0);
}

void
rows_path_text(const struct rows_path *path, char *out_text, size_t size)
{
    out_text[0] = '\0';
    (void)path_add(path, out_text, size, 0);
}

muster_err
rows_refuse(struct muster_fault *fault, const struct rows_path *path, const char *format, ...)
{
    va_list args;

    if (fault == NULL)
        return MUSTER_INVALID_REQUEST;
    rows_path_text(path, fault->field, sizeof fault->field);
    va_start(args, format);
    (void)vsnprintf(fault->message, sizeof fault->message, format, args);
    va_end(args);
    return MUSTER_INVALID_REQUEST;
}

/* ---- words ---- */

struct unit {
    int64_t one;
    const char *name;
};

static void
unit_text(const struct unit *unit, int64_t number, char *out_text, size_t size)
{
    while (unit->one > 1 && (number == 0 || number % unit->one != 0))
        unit++;
    (void)snprintf(out_text, size, "%" PRId64 "%s", number / unit->one, unit->name);
}

void
rows_duration_text(int64_t ms, char *out_text, size_t size)
{
    static const struct unit units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};

    unit_text(units, ms, out_text, size);
}

void
rows_size_text(int64_t bytes, char *out_text, size_t size)
{
    static const struct unit units[] = {
        {INT64_C(1) << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}, {1, ""}};

    unit_text(units, bytes, out_text, size);
}

static void
bound_text(const struct muster_field *row, bool as_option, int64_t bound, char *out_text, size_t size)
{
    if (as_option && row->kind == MUSTER_KIND_MS)
        rows_duration_text(bound, out_text, size);
    else if (as_option && row->kind == MUSTER_KIND_SIZE)
        rows_size_text(bound, out_text, size);
    else
        (void)snprintf(out_text, size, "%" PRId64, bound);
}

/* "8 to 2048", "at most 2048", "32" */
static void
range_text(const struct muster_field *row, bool as_option, bool number, char *out_text, size_t size)
{
    char lo[32], hi[32];

    bound_text(row, as_option, row->lo, lo, sizeof lo);
    bound_text(row, as_option, row->hi, hi, sizeof hi);
    if (row->lo == row->hi)
        (void)snprintf(out_text, size, "%s", lo);
    else if (row->hi == INT64_MAX)
        (void)snprintf(out_text, size, "at least %s", lo);
    else if (row->lo == 0 && !number)
        (void)snprintf(out_text, size, "at most %s", hi);
    else
        (void)snprintf(out_text, size, "%s to %s", lo, hi);
}

static void
choice_text(const struct muster_enum *choice, char *out_text, size_t size)
{
    const struct muster_enum_value *value;
    size_t used;

    (void)snprintf(out_text, size, "must be one of");
    for (value = choice->values; value->wire; value++) {
        used = strlen(out_text);
        (void)snprintf(out_text + used, size - used, "%s %s", value == choice->values ? "" : ",", value->wire);
    }
}

static const char *
expected_format(const struct muster_field *row, bool as_option)
{
    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        return "must be true or false";
    case MUSTER_KIND_MS:
        return as_option ? "must be a duration, %s" : "must be a whole number of milliseconds, %s";
    case MUSTER_KIND_SIZE:
        return as_option ? "must be a size, %s" : "must be a whole number of bytes, %s";
    case MUSTER_KIND_INT:
        return "must be a whole number, %s";
    case MUSTER_KIND_REAL:
        return "must be a number, %s";
    case MUSTER_KIND_STR:
        return "must be text of %s bytes";
    case MUSTER_KIND_JSON:
        return "must be a JSON value of %s bytes";
    case MUSTER_KIND_BIN:
        return "must be %s bytes, in JSON as base64";
    case MUSTER_KIND_ID:
        return "must be a UUID";
    case MUSTER_KIND_STRS:
        return "must be a list of %s texts";
    case MUSTER_KIND_PAIRS:
        return as_option ? "must be a mapping of %s texts" : "must be an object of %s texts";
    case MUSTER_KIND_MANY:
        return as_option ? "must be a list of %s mappings" : "must be a list of %s objects";
    default:
        return as_option ? "must be a mapping" : "must be an object";
    }
}

void
rows_expected(const struct muster_field *row, bool as_option, char *out_text, size_t size)
{
    bool number = row->kind >= MUSTER_KIND_INT && row->kind <= MUSTER_KIND_REAL;
    const char *format = expected_format(row, as_option);
    const char *at = strstr(format, "%s");
    char range[80];

    if (row->kind == MUSTER_KIND_CHOICE) {
        choice_text(row->choice, out_text, size);
        return;
    }
    if (at == NULL) {
        (void)snprintf(out_text, size, "%s", format);
        return;
    }
    range_text(row, as_option, number, range, sizeof range);
    (void)snprintf(out_text, size, "%.*s%s%s", (int)(at - format), format, range, at + 2);
}

/* ---- bounds ---- */

bool
rows_fits_real(const struct muster_field *row, double number)
{
    return number >= (double)row->lo && number <= (double)row->hi; /* false for NaN */
}

const struct muster_field *
rows_search(const struct muster_type *type, const struct muster_field *from, const char *name, size_t size)
{
    const struct muster_field *row;

    for (row = from; row->kind != MUSTER_KIND_END; row++)
        if (rows_is_named(row, name, size))
            return row;
    for (row = type->fields; row != from; row++)
        if (rows_is_named(row, name, size))
            return row;
    return NULL;
}

/* Is the field zero, NULL or empty? */
static inline bool
is_empty(const struct muster_field *row, const void *in)
{
    const void *at = rows_at(row, in);
    const char *text;

    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        return !*(const bool *)at;
    case MUSTER_KIND_INT:
    case MUSTER_KIND_MS:
    case MUSTER_KIND_SIZE:
        return *(const int64_t *)at == 0;
    case MUSTER_KIND_REAL:
        return *(const double *)at == 0;
    case MUSTER_KIND_STR:
    case MUSTER_KIND_JSON:
        text = *(const char *const *)at;
        return text == NULL || *text == '\0';
    case MUSTER_KIND_ID:
        return muster_id_is_zero(at);
    case MUSTER_KIND_BIN:
        return ((const struct muster_bytes *)at)->size == 0;
    case MUSTER_KIND_STRS:
        return ((const struct muster_strs *)at)->count == 0;
    case MUSTER_KIND_PAIRS:
        return ((const struct muster_pairs *)at)->count == 0;
    case MUSTER_KIND_CHOICE:
        return *(const int *)at == 0;
    case MUSTER_KIND_ONE:
        return rows_one(row, in) == NULL;
    case MUSTER_KIND_MANY:
        return rows_many(row, in).count == 0;
    default:
        return true;
    }
}

uint64_t
rows_present(const struct muster_type *type, const void *in)
{
    const struct muster_field *row;
    uint64_t present = 0, bit = 1;

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++, bit <<= 1)
        if (row->need == MUSTER_REQUIRED || !is_empty(row, in))
            present |= bit;
    return present;
}
