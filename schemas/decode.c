/* SPDX-License-Identifier: MPL-2.0 */
/* From parsed values to structs: one small function a kind, each of which checks the row's bounds.  Any thread.
 * What can fail: any value that does not fit its row. */
#include "schemas/decode.h"

#include <math.h>
#include <sodium.h>
#include <string.h>

#include "schemas/text.h"

typedef muster_err get_function(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
                                const struct decode_value *value, void *out);

static muster_err get_map(const struct decode *de, const struct rows_path *path, const struct muster_type *type,
                          const struct decode_value *value, void *out);

static muster_err
refuse(const struct decode *de, const struct rows_path *path, const struct muster_field *row)
{
    char expected[256];

    rows_expected(row, false, expected, sizeof expected);
    return rows_refuse(de->fault, path, "%s", expected);
}

/* ---- scalars ---- */

static muster_err
get_bool(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
         const struct decode_value *value, void *out)
{
    if (value->shape != DECODE_BOOL)
        return refuse(de, path, row);
    rows_store(row, out, &value->truth, sizeof value->truth);
    return MUSTER_OK;
}

static bool
is_whole(double number)
{
    return number >= -0x1p63 && number < 0x1p63 && (double)(int64_t)number == number;
}

static muster_err
get_int(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
        const struct decode_value *value, void *out)
{
    int64_t number;

    if (value->shape == DECODE_INT)
        number = value->number;
    else if (value->shape == DECODE_REAL && de->source->textual && is_whole(value->real))
        number = (int64_t)value->real;
    else
        return refuse(de, path, row);
    if (!rows_fits(row, number))
        return refuse(de, path, row);
    rows_store(row, out, &number, sizeof number);
    return MUSTER_OK;
}

static muster_err
get_real(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
         const struct decode_value *value, void *out)
{
    double number;

    if (value->shape != DECODE_INT && value->shape != DECODE_REAL)
        return refuse(de, path, row);
    number = value->shape == DECODE_INT ? (double)value->number : value->real;
    if (!isfinite(number) || !rows_fits_real(row, number))
        return refuse(de, path, row);
    rows_store(row, out, &number, sizeof number);
    return MUSTER_OK;
}

static muster_err
get_choice(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
           const struct decode_value *value, void *out)
{
    const struct muster_enum_value *choice;

    if (value->shape != DECODE_TEXT)
        return refuse(de, path, row);
    for (choice = row->choice->values; choice->wire; choice++)
        if (strlen(choice->wire) == value->size && memcmp(choice->wire, value->text, value->size) == 0) {
            rows_store(row, out, &choice->value, sizeof choice->value);
            return MUSTER_OK;
        }
    return refuse(de, path, row);
}

static muster_err
get_id(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
       const struct decode_value *value, void *out)
{
    char text[MUSTER_ID_TEXT] = "";
    struct muster_id id;

    if (!de->source->textual) {
        if (value->shape != DECODE_BYTES || value->size != sizeof id.bytes)
            return rows_refuse(de->fault, path, "must be a UUID as 16 bytes");
        memcpy(id.bytes, value->text, sizeof id.bytes);
    } else {
        if (value->shape == DECODE_TEXT && value->size == sizeof text - 1)
            memcpy(text, value->text, value->size);
        if (muster_id_parse(text, &id) != MUSTER_OK)
            return refuse(de, path, row);
    }
    rows_store(row, out, &id, sizeof id);
    return MUSTER_OK;
}

/* ---- text and bytes ---- */

/* Copy a value that must be clean text. */
static inline muster_err
get_text(const struct decode *de, const struct rows_path *path, const struct decode_value *value, const char **out)
{
    if (value->shape != DECODE_TEXT)
        return rows_refuse(de->fault, path, "must be text");
    if (!text_is_clean(value->text, value->size))
        return rows_refuse(de->fault, path, "must be UTF-8 text without U+0000");
    *out = muster_arena_str(de->arena, value->text, value->size);
    return MUSTER_OK;
}

static muster_err
get_str(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
        const struct decode_value *value, void *out)
{
    const char *text = NULL;
    muster_err err;

    if (value->shape != DECODE_TEXT || !rows_fits_size(row, value->size))
        return refuse(de, path, row);
    err = get_text(de, path, value, &text);
    if (err == MUSTER_OK)
        rows_store(row, out, &text, sizeof text);
    return err;
}

static muster_err
get_json(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
         const struct decode_value *value, void *out)
{
    struct muster_buf buf = {0};
    muster_err err = MUSTER_OK;
    const char *text;

    if (!de->source->textual)
        return get_str(de, path, row, value, out);
    de->source->json(value, &buf);
    if (rows_fits_size(row, buf.size)) {
        text = muster_arena_str(de->arena, buf.data, buf.size);
        rows_store(row, out, &text, sizeof text);
    } else {
        err = refuse(de, path, row);
    }
    muster_buf_free(&buf);
    return err;
}

static muster_err
get_bin(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
        const struct decode_value *value, void *out)
{
    struct muster_bytes bytes;
    uint8_t *data;

    if (value->shape != (de->source->textual ? DECODE_TEXT : DECODE_BYTES))
        return refuse(de, path, row);
    bytes.size = value->size;
    data = (uint8_t *)muster_arena_str(de->arena, value->text, value->size);
    if (de->source->textual && sodium_base642bin(data, value->size, value->text, value->size, NULL, &bytes.size, NULL,
                                                 sodium_base64_VARIANT_ORIGINAL) != 0)
        return refuse(de, path, row);
    if (!rows_fits_size(row, bytes.size))
        return refuse(de, path, row);
    bytes.data = data;
    rows_store(row, out, &bytes, sizeof bytes);
    return MUSTER_OK;
}

/* ---- lists and maps ---- */

static muster_err
get_strs(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
         const struct decode_value *value, void *out)
{
    struct rows_path at = {.up = path};
    struct muster_strs strs;
    struct decode_value item;
    const char **items;
    muster_err err;

    if (value->shape != DECODE_LIST || !rows_fits_size(row, value->size))
        return refuse(de, path, row);
    strs.count = value->size;
    items = muster_arena_alloc(de->arena, strs.count * sizeof *items);
    for (at.index = 0; at.index < strs.count; at.index++) {
        de->source->item(value, at.index, &item);
        err = get_text(de, &at, &item, &items[at.index]);
        if (err)
            return err;
    }
    strs.items = items;
    rows_store(row, out, &strs, sizeof strs);
    return MUSTER_OK;
}

static bool
has_pair(const struct muster_pair *pairs, size_t count, const char *name)
{
    while (count-- > 0)
        if (strcmp(pairs[count].name, name) == 0)
            return true;
    return false;
}

static muster_err
get_pairs(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
          const struct decode_value *value, void *out)
{
    struct decode_walk walk = {.map = value};
    struct muster_pairs pairs = {NULL, 0};
    struct decode_value name, item;
    struct muster_pair *items;
    muster_err err;

    if (value->shape != DECODE_MAP || !rows_fits_size(row, value->size))
        return refuse(de, path, row);
    items = muster_arena_alloc(de->arena, value->size * sizeof *items);
    while (de->source->next(&walk, &name, &item)) {
        struct rows_path at = {.up = path, .index = pairs.count};

        err = get_text(de, &at, &name, &items[pairs.count].name);
        if (err)
            return err;
        at.name = items[pairs.count].name;
        at.size = name.size;
        if (has_pair(items, pairs.count, at.name))
            return rows_refuse(de->fault, &at, "is given twice");
        err = get_text(de, &at, &item, &items[pairs.count].value);
        if (err)
            return err;
        pairs.count++;
    }
    pairs.items = items;
    rows_store(row, out, &pairs, sizeof pairs);
    return MUSTER_OK;
}

static muster_err
get_one(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
        const struct decode_value *value, void *out)
{
    void *sub = muster_arena_alloc(de->arena, row->sub->size);
    muster_err err = get_map(de, path, row->sub, value, sub);

    if (err == MUSTER_OK)
        rows_store(row, out, &sub, sizeof sub);
    return err;
}

static muster_err
get_many(const struct decode *de, const struct rows_path *path, const struct muster_field *row,
         const struct decode_value *value, void *out)
{
    struct rows_path at = {.up = path};
    struct muster_many many;
    struct decode_value item;
    char *items;
    muster_err err;

    if (value->shape != DECODE_LIST || !rows_fits_size(row, value->size))
        return refuse(de, path, row);
    many.count = value->size;
    items = muster_arena_alloc(de->arena, many.count * row->sub->size);
    for (at.index = 0; at.index < many.count; at.index++) {
        de->source->item(value, at.index, &item);
        err = get_map(de, &at, row->sub, &item, items + at.index * row->sub->size);
        if (err)
            return err;
    }
    many.items = items;
    rows_store(row, out, &many, sizeof many);
    return MUSTER_OK;
}

/* ---- structs ---- */

static get_function *const getters[] = {
    [MUSTER_KIND_BOOL] = get_bool, [MUSTER_KIND_INT] = get_int,     [MUSTER_KIND_MS] = get_int,
    [MUSTER_KIND_SIZE] = get_int,  [MUSTER_KIND_REAL] = get_real,   [MUSTER_KIND_STR] = get_str,
    [MUSTER_KIND_JSON] = get_json, [MUSTER_KIND_BIN] = get_bin,     [MUSTER_KIND_ID] = get_id,
    [MUSTER_KIND_STRS] = get_strs, [MUSTER_KIND_PAIRS] = get_pairs, [MUSTER_KIND_CHOICE] = get_choice,
    [MUSTER_KIND_ONE] = get_one,   [MUSTER_KIND_MANY] = get_many,
};

static muster_err
check_required(const struct decode *de, const struct rows_path *path, const struct muster_type *type, uint64_t seen)
{
    const struct muster_field *row;

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++, seen >>= 1)
        if (row->need == MUSTER_REQUIRED && (seen & 1) == 0) {
            struct rows_path at = {.up = path, .name = row->name, .size = row->name_size};

            return rows_refuse(de->fault, &at, "is required");
        }
    return MUSTER_OK;
}

/* A nil is "not given".  `seen` has one bit a row; types have at most 64, which a test holds. */
static muster_err
get_map(const struct decode *de, const struct rows_path *path, const struct muster_type *type,
        const struct decode_value *value, void *out)
{
    struct decode_walk walk = {.map = value};
    const struct muster_field *row, *expected = type->fields;
    struct decode_value name, item;
    uint64_t seen = 0, bit;
    muster_err err;

    if (value->shape != DECODE_MAP)
        return rows_refuse(de->fault, path, "must be an object");
    while (de->source->next(&walk, &name, &item)) {
        struct rows_path at = {.up = path};

        if (name.shape != DECODE_TEXT)
            continue;
        at.name = name.text;
        at.size = name.size;
        row = rows_find(type, expected, name.text, name.size);
        if (row == NULL && de->strict)
            return rows_refuse(de->fault, &at, "is not a known field");
        if (row == NULL || item.shape == DECODE_NIL)
            continue;
        bit = UINT64_C(1) << (row - type->fields);
        if (seen & bit)
            return rows_refuse(de->fault, &at, "is given twice");
        err = getters[row->kind](de, &at, row, &item, out);
        if (err)
            return err;
        seen |= bit;
        expected = row + 1;
    }
    return check_required(de, path, type, seen);
}

muster_err
decode_struct(const struct decode *decode, const struct muster_type *type, const struct decode_value *value,
              void **out_struct)
{
    void *whole = muster_arena_alloc(decode->arena, type->size);
    muster_err err = get_map(decode, NULL, type, value, whole);

    if (err == MUSTER_OK)
        *out_struct = whole;
    return err;
}
