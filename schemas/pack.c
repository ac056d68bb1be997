/* SPDX-License-Identifier: MPL-2.0 */
/* Structs to msgpack.  Any thread; nothing here fails.
 *
 * Bounds are the decoder's business: a struct that lacks a REQUIRED value is packed with nil in its place, and whoever
 * decodes it says which field that was.  The library's packer is not used: it calls back for each head, and most values
 * are little more than that. */
#include "schemas/pack.h"

#include <endian.h>
#include <string.h>

#include "schemas/rows.h"

/* ---- values ---- */

/* First bytes.  What is long or large has one that stands for a number behind it of 1, 2, 4 or 8 bytes, and those are
 * that of one byte (there is none of lists and maps) plus 0, 1, 2 or 3. */
enum {
    SHORT_MAP = 0x80,
    SHORT_LIST = 0x90,
    SHORT_TEXT = 0xa0,
    NIL = 0xc0,
    BOOL = 0xc2,
    BYTES = 0xc4,
    REAL = 0xc8,
    UINT = 0xcc,
    INT = 0xd0,
    TEXT = 0xd9,
    LIST = 0xdb,
    MAP = 0xdd
};
enum { SHORT_ITEMS = 15, SHORT_TEXT_BYTES = 31, HEAD_BYTES = 9 };

/* 0 to 3: in how few of 1, 2, 4 or 8 bytes the number fits. */
static unsigned
width_of(uint64_t number)
{
    if (number <= UINT8_MAX)
        return 0;
    return number <= UINT16_MAX ? 1 : number <= UINT32_MAX ? 2 : 3;
}

/* Where the next byte goes.  HEAD_BYTES must be free, of which those that `width` leaves out count for nothing. */
static inline char *
put_head(char *at, unsigned head, unsigned width, uint64_t number)
{
    uint64_t bytes = htobe64(number << (64 - (8U << width)));

    *at++ = (char)(head + width);
    memcpy(at, &bytes, sizeof bytes);
    return at + ((size_t)1 << width);
}

static inline void
put_body(struct muster_buf *out, char *at, const void *data, size_t size)
{
    if (size > 0)
        memcpy(at, data, size);
    out->size = (size_t)(at - out->data) + size;
}

static inline void
put_byte(struct muster_buf *out, unsigned byte)
{
    *muster_buf_room(out, 1) = (char)byte;
    out->size++;
}

static void
put_items(struct muster_buf *out, unsigned short_head, unsigned head, size_t count)
{
    char *at = muster_buf_room(out, HEAD_BYTES);

    if (count <= SHORT_ITEMS)
        *at++ = (char)(short_head | count);
    else
        at = put_head(at, head, count <= UINT16_MAX ? 1 : 2, count);
    out->size = (size_t)(at - out->data);
}

static inline void
put_text(struct muster_buf *out, const char *text, size_t size)
{
    char *at = muster_buf_room(out, HEAD_BYTES + size);

    if (size <= SHORT_TEXT_BYTES)
        *at++ = (char)(SHORT_TEXT | size);
    else
        at = put_head(at, TEXT, width_of(size), size);
    put_body(out, at, text, size);
}

static void
put_real(struct muster_buf *out, double number)
{
    char *at = muster_buf_room(out, HEAD_BYTES);
    uint64_t bits;

    memcpy(&bits, &number, sizeof bits);
    out->size = (size_t)(put_head(at, REAL, 3, bits) - out->data);
}

void
pack_list(struct muster_buf *out, size_t count)
{
    put_items(out, SHORT_LIST, LIST, count);
}

void
pack_int(struct muster_buf *out, int64_t number)
{
    char *at = muster_buf_room(out, HEAD_BYTES);

    if (number >= -32 && number < 128)
        *at++ = (char)number;
    else if (number > 0)
        at = put_head(at, UINT, width_of((uint64_t)number), (uint64_t)number);
    else
        at = put_head(at, INT, width_of((uint64_t)~number << 1), (uint64_t)number); /* with room for its sign */
    out->size = (size_t)(at - out->data);
}

void
pack_bytes(struct muster_buf *out, const void *data, size_t size)
{
    char *at = muster_buf_room(out, HEAD_BYTES + size);

    put_body(out, put_head(at, BYTES, width_of(size), size), data, size);
}

void
pack_text(struct muster_buf *out, const char *text)
{
    put_text(out, text, text ? strlen(text) : 0);
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

    put_items(out, SHORT_MAP, MAP, pairs->count);
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
        put_byte(out, BOOL | *(const bool *)at);
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

void
pack_struct(struct muster_buf *out, const struct muster_type *type, const void *in)
{
    const struct muster_field *row;
    uint64_t left;

    if (in == NULL) {
        put_byte(out, NIL);
    } else {
        left = rows_present(type, in);
        put_items(out, SHORT_MAP, MAP, (size_t)__builtin_popcountll(left));
        for (; left != 0; left &= left - 1) {
            row = &type->fields[__builtin_ctzll(left)];
            put_text(out, row->name, row->name_size);
            put_field(out, row, in);
        }
    }
    out->data[out->size] = '\0';
}

void
muster_pack(const struct muster_type *type, const void *in, struct muster_buf *out)
{
    (void)muster_buf_room(out, PACK_ROOM);
    pack_struct(out, type, in);
}
