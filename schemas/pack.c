/* SPDX-License-Identifier: MPL-2.0 */
/* Structs to msgpack.  Any thread; nothing here fails.
 *
 * Bounds are the decoder's business: a struct that lacks a REQUIRED value is packed with nil in its place, and whoever
 * decodes it says which field that was. */
#include "schemas/pack.h"

#include <string.h>

#include "schemas/rows.h"

static int
append(void *out, const char *data, size_t size)
{
    muster_buf_add(out, data, size);
    return 0;
}

void
pack_begin(msgpack_packer *packer, struct muster_buf *out)
{
    msgpack_packer_init(packer, out, append);
}

void
pack_text(msgpack_packer *packer, const char *text)
{
    size_t size = text ? strlen(text) : 0;

    (void)msgpack_pack_str_with_body(packer, text ? text : "", size);
}

static void
put_strs(msgpack_packer *packer, const struct muster_strs *strs)
{
    size_t i;

    (void)msgpack_pack_array(packer, strs->count);
    for (i = 0; i < strs->count; i++)
        pack_text(packer, strs->items[i]);
}

static void
put_pairs(msgpack_packer *packer, const struct muster_pairs *pairs)
{
    size_t i;

    (void)msgpack_pack_map(packer, pairs->count);
    for (i = 0; i < pairs->count; i++) {
        pack_text(packer, pairs->items[i].name);
        pack_text(packer, pairs->items[i].value);
    }
}

static void
put_bin(msgpack_packer *packer, const struct muster_bytes *bytes)
{
    (void)msgpack_pack_bin_with_body(packer, bytes->data, bytes->size);
}

static void
put_many(msgpack_packer *packer, const struct muster_type *sub, struct muster_many many)
{
    size_t i;

    (void)msgpack_pack_array(packer, many.count);
    for (i = 0; i < many.count; i++)
        pack_struct(packer, sub, (const char *)many.items + i * sub->size);
}

static void
put_field(msgpack_packer *packer, const struct muster_field *row, const void *in)
{
    const void *at = rows_at(row, in);

    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        (void)(*(const bool *)at ? msgpack_pack_true(packer) : msgpack_pack_false(packer));
        return;
    case MUSTER_KIND_INT:
    case MUSTER_KIND_MS:
    case MUSTER_KIND_SIZE:
        (void)msgpack_pack_int64(packer, *(const int64_t *)at);
        return;
    case MUSTER_KIND_REAL:
        (void)msgpack_pack_double(packer, *(const double *)at);
        return;
    case MUSTER_KIND_STR:
    case MUSTER_KIND_JSON:
        pack_text(packer, *(const char *const *)at);
        return;
    case MUSTER_KIND_BIN:
        put_bin(packer, at);
        return;
    case MUSTER_KIND_ID:
        (void)msgpack_pack_bin_with_body(packer, at, sizeof(struct muster_id));
        return;
    case MUSTER_KIND_STRS:
        put_strs(packer, at);
        return;
    case MUSTER_KIND_PAIRS:
        put_pairs(packer, at);
        return;
    case MUSTER_KIND_CHOICE:
        pack_text(packer, muster_enum_wire(row->choice, *(const int *)at));
        return;
    case MUSTER_KIND_ONE:
        pack_struct(packer, row->sub, rows_one(row, in));
        return;
    case MUSTER_KIND_MANY:
        put_many(packer, row->sub, rows_many(row, in));
        return;
    case MUSTER_KIND_END:
        return;
    }
}

static bool
is_left_out(const struct muster_field *row, const void *in)
{
    return row->need == MUSTER_OPTIONAL && rows_is_empty(row, in);
}

void
pack_struct(msgpack_packer *packer, const struct muster_type *type, const void *in)
{
    const struct muster_field *row;
    size_t count = 0;

    if (in == NULL) {
        (void)msgpack_pack_nil(packer);
        return;
    }
    for (row = type->fields; row->kind != MUSTER_KIND_END; row++)
        count += !is_left_out(row, in);
    (void)msgpack_pack_map(packer, count);
    for (row = type->fields; row->kind != MUSTER_KIND_END; row++) {
        if (is_left_out(row, in))
            continue;
        pack_text(packer, row->name);
        put_field(packer, row, in);
    }
}

void
muster_pack(const struct muster_type *type, const void *in, struct muster_buf *out)
{
    msgpack_packer packer;

    pack_begin(&packer, out);
    pack_struct(&packer, type, in);
}
