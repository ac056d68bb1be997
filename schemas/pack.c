/* SPDX-License-Identifier: MPL-2.0 */
/* Structs to msgpack.  Any thread; nothing here fails.
 *
 * Bounds are the decoder's business: a struct that lacks a REQUIRED value is packed with nil in its place, and whoever
 * decodes it says which field that was. */
#include "schemas/pack.h"

#include <msgpack.h>
#include <string.h>

#include "schemas/rows.h"

/* ---- values ---- */

static int
append(void *out, const char *data, size_t size)
{
    muster_buf_add(out, data, size);
    return 0;
}

/* The library's packer has no state but where it appends to. */
static msgpack_packer
packer_of(struct muster_buf *out)
{
    return (msgpack_packer){.data = out, .callback = append};
}

static void
put_bool(struct muster_buf *out, bool truth)
{
    msgpack_packer packer = packer_of(out);

    (void)(truth ? msgpack_pack_true(&packer) : msgpack_pack_false(&packer));
}

static void
put_real(struct muster_buf *out, double number)
{
    msgpack_packer packer = packer_of(out);

    (void)msgpack_pack_double(&packer, number);
}

static void
put_map(struct muster_buf *out, size_t count)
{
    msgpack_packer packer = packer_of(out);

    (void)msgpack_pack_map(&packer, count);
}

void
pack_list(struct muster_buf *out, size_t count)
{
    msgpack_packer packer = packer_of(out);

    (void)msgpack_pack_array(&packer, count);
}

void
pack_int(struct muster_buf *out, int64_t number)
{
    msgpack_packer packer = packer_of(out);

    (void)msgpack_pack_int64(&packer, number);
}

void
pack_bytes(struct muster_buf *out, const void *data, size_t size)
{
    msgpack_packer packer = packer_of(out);

    (void)msgpack_pack_bin_with_body(&packer, data, size);
}

void
pack_text(struct muster_buf *out, const char *text)
{
    msgpack_packer packer = packer_of(out);

    (void)msgpack_pack_str_with_body(&packer, text ? text : "", text ? strlen(text) : 0);
}

/* ---- structs ---- */

static void
put_strs(struct muster_buf *out, const struct muster_strs *strs)
{
    size_t i;

    pack_list(out, strs->count);
    for (i = 0; i < strs->count; i++)
        pack_text(out, strs->items[i]);
}

static void
put_pairs(struct muster_buf *out, const struct muster_pairs *pairs)
{
    size_t i;

    put_map(out, pairs->count);
    for (i = 0; i < pairs->count; i++) {
        pack_text(out, pairs->items[i].name);
        pack_text(out, pairs->items[i].value);
    }
}

static void
put_many(struct muster_buf *out, const struct muster_type *sub, struct muster_many many)
{
    size_t i;

    pack_list(out, many.count);
    for (i = 0; i < many.count; i++)
        pack_struct(out, sub, (const char *)many.items + i * sub->size);
}

static void
put_field(struct muster_buf *out, const struct muster_field *row, const void *in)
{
    const void *at = rows_at(row, in);
    const struct muster_bytes *bytes = at;

    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        put_bool(out, *(const bool *)at);
        return;
    case MUSTER_KIND_INT:
    case MUSTER_KIND_MS:
    case MUSTER_KIND_SIZE:
        pack_int(out, *(const int64_t *)at);
        return;
    case MUSTER_KIND_REAL:
        put_real(out, *(const double *)at);
        return;
    case MUSTER_KIND_STR:
    case MUSTER_KIND_JSON:
        pack_text(out, *(const char *const *)at);
        return;
    case MUSTER_KIND_BIN:
        pack_bytes(out, bytes->data, bytes->size);
        return;
    case MUSTER_KIND_ID:
        pack_bytes(out, at, sizeof(struct muster_id));
        return;
    case MUSTER_KIND_STRS:
        put_strs(out, at);
        return;
    case MUSTER_KIND_PAIRS:
        put_pairs(out, at);
        return;
    case MUSTER_KIND_CHOICE:
        pack_text(out, muster_enum_wire(row->choice, *(const int *)at));
        return;
    case MUSTER_KIND_ONE:
        pack_struct(out, row->sub, rows_one(row, in));
        return;
    case MUSTER_KIND_MANY:
        put_many(out, row->sub, rows_many(row, in));
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
pack_struct(struct muster_buf *out, const struct muster_type *type, const void *in)
{
    const struct muster_field *row;
    size_t count = 0;

    if (in == NULL) {
        msgpack_packer packer = packer_of(out);

        (void)msgpack_pack_nil(&packer);
        return;
    }
    for (row = type->fields; row->kind != MUSTER_KIND_END; row++)
        count += !is_left_out(row, in);
    put_map(out, count);
    for (row = type->fields; row->kind != MUSTER_KIND_END; row++) {
        if (is_left_out(row, in))
            continue;
        pack_text(out, row->name);
        put_field(out, row, in);
    }
}

void
muster_pack(const struct muster_type *type, const void *in, struct muster_buf *out)
{
    pack_struct(out, type, in);
}
