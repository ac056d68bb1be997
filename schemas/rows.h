/* SPDX-License-Identifier: MPL-2.0 */
/* What everything that reads rows shares: access to a struct's field, bounds, the words for what a row expects, and
 * where in a nested value we are.  Any thread, no state. */
#ifndef ROWS_H
#define ROWS_H

#include "schemas/muster_codec.h"

/* The way from the whole value down to the one at work; lives on the stack, is turned into text only in an error. */
struct rows_path {
    const struct rows_path *up; /* NULL: this is the first step */
    const char *name;           /* NULL: an item of a list */
    size_t size;                /* of name */
    size_t index;               /* of the item */
};

/* "callback.headers[2]" */
void rows_path_text(const struct rows_path *path, char *out_text, size_t size);
/* Fills the fault for the value at `path` (NULL: the whole); returns MUSTER_INVALID_REQUEST. */
muster_err rows_refuse(struct muster_fault *fault, const struct rows_path *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "must be text of 8 to 2048 bytes".  `as_option`: durations and sizes are written with a unit. */
void rows_expected(const struct muster_field *row, bool as_option, char *out_text, size_t size);
/* "30s", "16MiB": the largest unit that leaves no fraction. */
void rows_duration_text(int64_t ms, char *out_text, size_t size);
void rows_size_text(int64_t bytes, char *out_text, size_t size);

/* Is a number, a size in bytes or a count within the row's bounds? */
static inline bool
rows_fits(const struct muster_field *row, int64_t number)
{
    return number >= row->lo && number <= row->hi;
}

static inline bool
rows_fits_size(const struct muster_field *row, size_t size)
{
    return size <= INT64_MAX && rows_fits(row, (int64_t)size);
}

bool rows_fits_real(const struct muster_field *row, double number);

static inline bool
rows_is_named(const struct muster_field *row, const char *name, size_t size)
{
    return row->name_size == size && __builtin_memcmp(row->name, name, size) == 0;
}

/* What rows_find does when the first row is not it. */
const struct muster_field *rows_search(const struct muster_type *type, const struct muster_field *from,
                                       const char *name, size_t size);
/* The row of the name, looked for from `from` on and then from the start: fields tend to come in their order. */
static inline const struct muster_field *
rows_find(const struct muster_type *type, const struct muster_field *from, const char *name, size_t size)
{
    if (from->kind != MUSTER_KIND_END && rows_is_named(from, name, size))
        return from;
    return rows_search(type, from, name, size);
}

/* The fields that are encoded, one bit a row, the first row lowest: an OPTIONAL one that is zero, NULL or empty is left
 * out. */
uint64_t rows_present(const struct muster_type *type, const void *in);

/* Typed access by offset.  Pointers to structs are copied as bytes: their types differ from row to row. */
static inline const void *
rows_at(const struct muster_field *row, const void *in)
{
    return (const char *)in + row->offset;
}

static inline const void *
rows_one(const struct muster_field *row, const void *in)
{
    const void *sub;

    __builtin_memcpy(&sub, rows_at(row, in), sizeof sub);
    return sub;
}

static inline struct muster_many
rows_many(const struct muster_field *row, const void *in)
{
    struct muster_many many;

    __builtin_memcpy(&many, rows_at(row, in), sizeof many);
    return many;
}

static inline void
rows_store(const struct muster_field *row, void *out, const void *value, size_t size)
{
    __builtin_memcpy((char *)out + row->offset, value, size);
}

#endif
