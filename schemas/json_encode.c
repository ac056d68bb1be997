/* SPDX-License-Identifier: MPL-2.0 */
/* Structs to JSON text, written directly.  Any thread; nothing here fails.  Bounds are the decoder's business, as in
 * pack.c: what a struct lacks is written as null. */
#include <math.h>
#include <string.h>

#include "schemas/rows.h"
#include "schemas/text.h"

static void put_struct(const struct muster_type *type, const void *in, struct muster_buf *out);

static void
put_text(const char *text, struct muster_buf *out)
{
    muster_json_quote(out, text ? text : "", text ? strlen(text) : 0);
}

static void
put_real(double number, struct muster_buf *out)
{
    if (isfinite(number))
        text_real(out, number);
    else
        muster_buf_str(out, "null");
}

static void
put_bin(const struct muster_bytes *bytes, struct muster_buf *out)
{
    size_t size = muster_base64_size(bytes->size);

    muster_buf_str(out, "\"");
    muster_base64(bytes->data, bytes->size, muster_buf_room(out, size));
    out->size += size - 1;
    muster_buf_str(out, "\"");
}

static void
put_id(const struct muster_id *id, struct muster_buf *out)
{
    char text[MUSTER_ID_TEXT];

    muster_id_text(id, text);
    put_text(text, out);
}

static void
put_strs(const struct muster_strs *strs, struct muster_buf *out)
{
    size_t i;

    muster_buf_str(out, "[");
    for (i = 0; i < strs->count; i++) {
        muster_buf_str(out, i ? "," : "");
        put_text(strs->items[i], out);
    }
    muster_buf_str(out, "]");
}

static void
put_pairs(const struct muster_pairs *pairs, struct muster_buf *out)
{
    size_t i;

    muster_buf_str(out, "{");
    for (i = 0; i < pairs->count; i++) {
        muster_buf_str(out, i ? "," : "");
        put_text(pairs->items[i].name, out);
        muster_buf_str(out, ":");
        put_text(pairs->items[i].value, out);
    }
    muster_buf_str(out, "}");
}

static void
put_many(const struct muster_type *sub, struct muster_many many, struct muster_buf *out)
{
    size_t i;

    muster_buf_str(out, "[");
    for (i = 0; i < many.count; i++) {
        muster_buf_str(out, i ? "," : "");
        put_struct(sub, (const char *)many.items + i * sub->size, out);
    }
    muster_buf_str(out, "]");
}

static void
put_choice(const struct muster_enum *choice, int value, struct muster_buf *out)
{
    const char *wire = muster_enum_wire(choice, value);

    if (wire)
        put_text(wire, out);
    else
        muster_buf_str(out, "null");
}

static void
put_json(const char *json, struct muster_buf *out)
{
    muster_buf_str(out, json && *json ? json : "null");
}

static void
put_field(const struct muster_field *row, const void *in, struct muster_buf *out)
{
    const void *at = rows_at(row, in);

    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        muster_buf_str(out, *(const bool *)at ? "true" : "false");
        return;
    case MUSTER_KIND_INT:
    case MUSTER_KIND_MS:
    case MUSTER_KIND_SIZE:
        muster_buf_int(out, *(const int64_t *)at);
        return;
    case MUSTER_KIND_REAL:
        put_real(*(const double *)at, out);
        return;
    case MUSTER_KIND_STR:
        put_text(*(const char *const *)at, out);
        return;
    case MUSTER_KIND_JSON:
        put_json(*(const char *const *)at, out);
        return;
    case MUSTER_KIND_BIN:
        put_bin(at, out);
        return;
    case MUSTER_KIND_ID:
        put_id(at, out);
        return;
    case MUSTER_KIND_STRS:
        put_strs(at, out);
        return;
    case MUSTER_KIND_PAIRS:
        put_pairs(at, out);
        return;
    case MUSTER_KIND_CHOICE:
        put_choice(row->choice, *(const int *)at, out);
        return;
    case MUSTER_KIND_ONE:
        put_struct(row->sub, rows_one(row, in), out);
        return;
    case MUSTER_KIND_MANY:
        put_many(row->sub, rows_many(row, in), out);
        return;
    case MUSTER_KIND_END:
        return;
    }
}

static void
put_struct(const struct muster_type *type, const void *in, struct muster_buf *out)
{
    const struct muster_field *row;
    const char *separator = "\"";
    uint64_t left;

    if (in == NULL) {
        muster_buf_str(out, "null");
        return;
    }
    muster_buf_str(out, "{");
    for (left = rows_present(type, in); left != 0; left &= left - 1) {
        row = &type->fields[__builtin_ctzll(left)];
        muster_buf_str(out, separator);
        muster_buf_add(out, row->name, row->name_size);
        muster_buf_str(out, "\":");
        put_field(row, in, out);
        separator = ",\"";
    }
    muster_buf_str(out, "}");
}

void
muster_json_encode(const struct muster_type *type, const void *in, struct muster_buf *out)
{
    put_struct(type, in, out);
}
