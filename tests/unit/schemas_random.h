/* SPDX-License-Identifier: MPL-2.0 */
/* Random values for any type, made from its rows; comparing them; checking them against their rows.
 * The same seed gives the same value on every machine.  One thread. */
#ifndef SCHEMAS_RANDOM_H
#define SCHEMAS_RANDOM_H

#include <math.h>
#include <string.h>

#include "schemas/muster_codec.h"
#include "schemas/rows.h"
#include "schemas/text.h"

/* splitmix64 */
static inline uint64_t
next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t
random_below(uint64_t *state, uint64_t bound)
{
    return bound ? next_random(state) % bound : 0;
}

static inline uint64_t
hash_text(uint64_t seed, const char *text)
{
    for (; *text != '\0'; text++)
        seed = (seed ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return seed;
}

/* Within [lo, hi], the bounds themselves often, but never more than `most` above lo. */
static inline size_t
random_size(uint64_t *state, const struct muster_field *row, size_t most)
{
    size_t lo = (size_t)row->lo, span = (size_t)(row->hi - row->lo) < most ? (size_t)(row->hi - row->lo) : most;

    return lo + (size_t)random_below(state, span + 1);
}

static inline int64_t
random_int(uint64_t *state, const struct muster_field *row)
{
    uint64_t span = (uint64_t)row->hi - (uint64_t)row->lo;

    switch (random_below(state, 4)) {
    case 0:
        return row->lo;
    case 1:
        return row->hi;
    case 2:
        return row->lo + (int64_t)(next_random(state) % (span < 300 ? span + 1 : 300));
    default:
        return row->lo + (int64_t)(span == UINT64_MAX ? 0 : next_random(state) % (span + 1));
    }
}

/* Text of exactly `size` bytes: letters, what JSON must escape, and characters of several bytes. */
static inline const char *
random_text(uint64_t *state, struct muster_arena *arena, size_t size)
{
    static const char *const pieces[] = {"a",
                                         "Z",
                                         "0",
                                         " ",
                                         "\"",
                                         "\\",
                                         "/",
                                         "\n",
                                         "\x01",
                                         "\x7f",
                                         "\xc3\xa9",
                                         "\xe2\x82\xac",
                                         "\xf0\x9f\x99\x82",
                                         "\xef\xbf\xbd"};
    char *text = muster_arena_alloc(arena, size + 1);
    const char *piece;
    size_t at = 0;

    while (at < size) {
        piece = pieces[random_below(state, sizeof pieces / sizeof *pieces)];
        if (strlen(piece) > size - at)
            piece = "x";
        memcpy(text + at, piece, strlen(piece));
        at += strlen(piece);
    }
    return text;
}

static inline void random_struct(uint64_t seed, struct muster_arena *arena, const struct muster_type *type, void *out);

static inline void
random_list(uint64_t *state, struct muster_arena *arena, const struct muster_field *row, void *out)
{
    size_t count = random_size(state, row, 3), i;
    struct muster_pair *pairs = muster_arena_alloc(arena, (count + 1) * sizeof *pairs);
    const char **strs = muster_arena_alloc(arena, (count + 1) * sizeof *strs);

    for (i = 0; i < count; i++) {
        strs[i] = random_text(state, arena, random_below(state, 12));
        pairs[i].name = muster_arena_printf(arena, "%s%zu", random_text(state, arena, random_below(state, 6)), i);
        pairs[i].value = strs[i];
    }
    if (row->kind == MUSTER_KIND_STRS)
        rows_store(row, out, &(struct muster_strs){strs, count}, sizeof(struct muster_strs));
    else
        rows_store(row, out, &(struct muster_pairs){pairs, count}, sizeof(struct muster_pairs));
}

static inline void
random_subs(uint64_t *state, struct muster_arena *arena, const struct muster_field *row, void *out)
{
    size_t count = row->kind == MUSTER_KIND_ONE ? 1 : random_size(state, row, 3), i;
    char *items = muster_arena_alloc(arena, (count + 1) * row->sub->size);
    const void *one = items;

    for (i = 0; i < count; i++)
        random_struct(next_random(state), arena, row->sub, items + i * row->sub->size);
    if (row->kind == MUSTER_KIND_ONE)
        rows_store(row, out, &one, sizeof one);
    else
        rows_store(row, out, &(struct muster_many){items, count}, sizeof(struct muster_many));
}

static inline const char *
random_json(uint64_t *state)
{
    static const char *const values[] = {"5",
                                         "-1.5",
                                         "\"\\u0000\\\"x\"",
                                         "[]",
                                         "{}",
                                         "true",
                                         "{\"a\":[1,2.5,\"\\n\",{\"b\":null}],\"c\":1e+300}",
                                         "0.1",
                                         "[9223372036854775807,-9223372036854775808]"};

    return values[random_below(state, sizeof values / sizeof *values)];
}

static inline double
random_real(uint64_t *state, const struct muster_field *row)
{
    double unit = (double)(next_random(state) >> 11) * 0x1p-53;
    double span = (double)row->hi - (double)row->lo;

    return (double)row->lo + (random_below(state, 2) ? unit * (span < 1000 ? span : 1000) : unit * span);
}

static inline void
random_field(uint64_t *state, struct muster_arena *arena, const struct muster_field *row, void *out)
{
    uint8_t bytes[512];
    size_t i, values = 0;

    for (i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)next_random(state);
    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        rows_store(row, out, &(bool){random_below(state, 2) == 0}, sizeof(bool));
        return;
    case MUSTER_KIND_INT:
    case MUSTER_KIND_MS:
    case MUSTER_KIND_SIZE:
        rows_store(row, out, &(int64_t){random_int(state, row)}, sizeof(int64_t));
        return;
    case MUSTER_KIND_REAL:
        rows_store(row, out, &(double){random_real(state, row)}, sizeof(double));
        return;
    case MUSTER_KIND_STR:
        rows_store(row, out, &(const char *){random_text(state, arena, random_size(state, row, 300))},
                   sizeof(const char *));
        return;
    case MUSTER_KIND_JSON:
        rows_store(row, out, &(const char *){random_json(state)}, sizeof(const char *));
        return;
    case MUSTER_KIND_BIN:
        i = random_size(state, row, 300);
        rows_store(row, out, &(struct muster_bytes){(uint8_t *)muster_arena_str(arena, (char *)bytes, i), i},
                   sizeof(struct muster_bytes));
        return;
    case MUSTER_KIND_ID:
        rows_store(row, out, bytes, sizeof(struct muster_id));
        return;
    case MUSTER_KIND_CHOICE:
        while (row->choice->values[values].wire)
            values++;
        rows_store(row, out, &row->choice->values[random_below(state, values)].value, sizeof(int));
        return;
    case MUSTER_KIND_STRS:
    case MUSTER_KIND_PAIRS:
        random_list(state, arena, row, out);
        return;
    default:
        random_subs(state, arena, row, out);
        return;
    }
}

/* A value that fits its rows.  A field's value depends on the seed and its name only, so that rows that are appended
 * later change no other field. */
static inline void
random_struct(uint64_t seed, struct muster_arena *arena, const struct muster_type *type, void *out)
{
    const struct muster_field *row;
    uint64_t state;

    memset(out, 0, type->size);
    for (row = type->fields; row->kind != MUSTER_KIND_END; row++) {
        state = hash_text(seed ^ UINT64_C(0xcbf29ce484222325), row->name);
        if (row->need == MUSTER_REQUIRED || random_below(&state, 3) > 0)
            random_field(&state, arena, row, out);
    }
}

/* ---- comparing ---- */

static inline bool structs_equal(const struct muster_type *type, const void *a, const void *b);

static inline bool
texts_equal(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

static inline bool
strs_equal(const struct muster_strs *a, const struct muster_strs *b)
{
    size_t i;

    for (i = 0; a->count == b->count && i < a->count; i++)
        if (!texts_equal(a->items[i], b->items[i]))
            return false;
    return a->count == b->count;
}

static inline bool
pairs_equal(const struct muster_pairs *a, const struct muster_pairs *b)
{
    size_t i;

    for (i = 0; a->count == b->count && i < a->count; i++)
        if (!texts_equal(a->items[i].name, b->items[i].name) || !texts_equal(a->items[i].value, b->items[i].value))
            return false;
    return a->count == b->count;
}

static inline bool
many_equal(const struct muster_type *sub, struct muster_many a, struct muster_many b)
{
    size_t i;

    for (i = 0; a.count == b.count && i < a.count; i++)
        if (!structs_equal(sub, (const char *)a.items + i * sub->size, (const char *)b.items + i * sub->size))
            return false;
    return a.count == b.count;
}

static inline bool
one_equal(const struct muster_type *sub, const void *a, const void *b)
{
    return a && b ? structs_equal(sub, a, b) : a == b;
}

static inline bool
fields_equal(const struct muster_field *row, const void *a, const void *b)
{
    const void *in_a = rows_at(row, a), *in_b = rows_at(row, b);
    const struct muster_bytes *bytes_a = in_a, *bytes_b = in_b;

    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        return *(const bool *)in_a == *(const bool *)in_b;
    case MUSTER_KIND_REAL:
        return *(const double *)in_a == *(const double *)in_b;
    case MUSTER_KIND_STR:
    case MUSTER_KIND_JSON:
        return texts_equal(*(const char *const *)in_a, *(const char *const *)in_b);
    case MUSTER_KIND_BIN:
        return bytes_a->size == bytes_b->size &&
               (bytes_a->size == 0 || memcmp(bytes_a->data, bytes_b->data, bytes_a->size) == 0);
    case MUSTER_KIND_ID:
        return muster_id_equal(in_a, in_b);
    case MUSTER_KIND_CHOICE:
        return *(const int *)in_a == *(const int *)in_b;
    case MUSTER_KIND_STRS:
        return strs_equal(in_a, in_b);
    case MUSTER_KIND_PAIRS:
        return pairs_equal(in_a, in_b);
    case MUSTER_KIND_ONE:
        return one_equal(row->sub, rows_one(row, a), rows_one(row, b));
    case MUSTER_KIND_MANY:
        return many_equal(row->sub, rows_many(row, a), rows_many(row, b));
    default:
        return *(const int64_t *)in_a == *(const int64_t *)in_b;
    }
}

static inline bool
structs_equal(const struct muster_type *type, const void *a, const void *b)
{
    const struct muster_field *row;

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++)
        if (!fields_equal(row, a, b))
            return false;
    return true;
}

/* ---- checking what a decoder gave ---- */

static inline bool struct_fits(const struct muster_type *type, const void *in);

static inline bool
list_fits(const struct muster_field *row, const void *in)
{
    const struct muster_strs *strs = rows_at(row, in);
    const struct muster_pairs *pairs = rows_at(row, in);
    struct muster_many many = rows_many(row, in);
    size_t i;

    if (!rows_fits_size(row, strs->count))
        return false;
    for (i = 0; i < strs->count; i++) {
        if (row->kind == MUSTER_KIND_STRS && !text_is_clean(strs->items[i], strlen(strs->items[i])))
            return false;
        if (row->kind == MUSTER_KIND_PAIRS && !text_is_clean(pairs->items[i].name, strlen(pairs->items[i].name)))
            return false;
        if (row->kind == MUSTER_KIND_PAIRS && !text_is_clean(pairs->items[i].value, strlen(pairs->items[i].value)))
            return false;
        if (row->kind == MUSTER_KIND_MANY && !struct_fits(row->sub, (const char *)many.items + i * row->sub->size))
            return false;
    }
    return true;
}

static inline bool
field_fits(const struct muster_field *row, const void *in)
{
    const void *at = rows_at(row, in);
    const char *text;

    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        return *(const uint8_t *)at <= 1;
    case MUSTER_KIND_INT:
    case MUSTER_KIND_MS:
    case MUSTER_KIND_SIZE:
        return rows_fits(row, *(const int64_t *)at);
    case MUSTER_KIND_REAL:
        return isfinite(*(const double *)at) && rows_fits_real(row, *(const double *)at);
    case MUSTER_KIND_STR:
    case MUSTER_KIND_JSON:
        text = *(const char *const *)at;
        return text && rows_fits_size(row, strlen(text)) && text_is_clean(text, strlen(text));
    case MUSTER_KIND_BIN:
        return rows_fits_size(row, ((const struct muster_bytes *)at)->size);
    case MUSTER_KIND_CHOICE:
        return muster_enum_wire(row->choice, *(const int *)at) != NULL;
    case MUSTER_KIND_STRS:
    case MUSTER_KIND_PAIRS:
    case MUSTER_KIND_MANY:
        return list_fits(row, in);
    case MUSTER_KIND_ONE:
        return rows_one(row, in) != NULL && struct_fits(row->sub, rows_one(row, in));
    default:
        return true;
    }
}

/* Not left out when the struct is encoded? */
static inline bool
is_present(const struct muster_type *type, const struct muster_field *row, const void *in)
{
    return rows_present(type, in) >> (row - type->fields) & 1;
}

/* An OPTIONAL field may be empty whatever its bounds. */
static inline bool
struct_fits(const struct muster_type *type, const void *in)
{
    const struct muster_field *row;

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++)
        if (is_present(type, row, in) && !field_fits(row, in))
            return false;
    return true;
}

/* ---- all types ---- */

/* Messages, then events, then records; NULL behind the last. */
static inline const struct muster_type *
type_at(size_t index)
{
    size_t i;

    for (i = 0; muster_messages[i]; i++)
        if (index-- == 0)
            return muster_messages[i];
    if (index-- == 0)
        return &event_type;
    for (i = 0; muster_events[i].type; i++)
        if (index-- == 0)
            return muster_events[i].type;
    for (i = 0; muster_records[i].type; i++)
        if (index-- == 0)
            return muster_records[i].type;
    return index == 0 ? &options_type : NULL;
}

#endif
