/* SPDX-License-Identifier: MPL-2.0 */
/* Msgpack to structs.  Any thread.  What can fail: bytes that are no msgpack, pass a limit, or do not fit the rows.
 *
 * The library's parser allocates what a list's head announces, gigabytes for six bytes.  So all bytes are walked over
 * first: a value is parsed only when it is known to be complete and within the limits. */
#include <string.h>

#include "schemas/decode.h"
#include "schemas/pack.h"

/* ---- walking over bytes ---- */

/* What follows the first bytes 0xc0 to 0xdf: a count of so many bytes, further bytes, values for each counted one. */
struct head_row {
    bool known;
    uint8_t count_bytes;
    uint8_t bytes;
    uint8_t values;
};

/* clang-format off */
static const struct head_row head_rows[32] = {
    [0x00] = {true, 0, 0, 0}, /* nil */
    [0x02] = {true, 0, 0, 0}, [0x03] = {true, 0, 0, 0}, /* false, true */
    [0x04] = {true, 1, 0, 0}, [0x05] = {true, 2, 0, 0}, [0x06] = {true, 4, 0, 0}, /* bin */
    [0x07] = {true, 1, 1, 0}, [0x08] = {true, 2, 1, 0}, [0x09] = {true, 4, 1, 0}, /* ext */
    [0x0a] = {true, 0, 4, 0}, [0x0b] = {true, 0, 8, 0}, /* float */
    [0x0c] = {true, 0, 1, 0}, [0x0d] = {true, 0, 2, 0}, [0x0e] = {true, 0, 4, 0}, [0x0f] = {true, 0, 8, 0}, /* uint */
    [0x10] = {true, 0, 1, 0}, [0x11] = {true, 0, 2, 0}, [0x12] = {true, 0, 4, 0}, [0x13] = {true, 0, 8, 0}, /* int */
    [0x14] = {true, 0, 2, 0}, [0x15] = {true, 0, 3, 0}, [0x16] = {true, 0, 5, 0}, [0x17] = {true, 0, 9, 0}, /* fixext */
    [0x18] = {true, 0, 17, 0},
    [0x19] = {true, 1, 0, 0}, [0x1a] = {true, 2, 0, 0}, [0x1b] = {true, 4, 0, 0}, /* str */
    [0x1c] = {true, 2, 0, 1}, [0x1d] = {true, 4, 0, 1}, /* array */
    [0x1e] = {true, 2, 0, 2}, [0x1f] = {true, 4, 0, 2}, /* map */
};
/* clang-format on */

static bool
read_long_head(const uint8_t *at, size_t left, struct pack_head *out)
{
    const struct head_row *row = &head_rows[at[0] & 0x1f];
    uint64_t count = 0;
    size_t i;

    if (!row->known || left < 1u + row->count_bytes)
        return false;
    for (i = 1; i <= row->count_bytes; i++)
        count = count << 8 | at[i];
    out->size = 1u + row->count_bytes;
    out->bytes = row->values ? 0 : count + row->bytes;
    out->values = count * row->values;
    out->map = row->values == 2;
    return true;
}

bool
pack_read_head(const uint8_t *at, size_t left, struct pack_head *out)
{
    *out = (struct pack_head){.size = 1};
    if (left == 0)
        return false;
    if (at[0] < 0x80 || at[0] >= 0xe0) /* small numbers */
        return true;
    if (at[0] >= 0xc0)
        return read_long_head(at, left, out);
    if (at[0] >= 0xa0) { /* short text */
        out->bytes = at[0] & 0x1f;
    } else { /* short map, short list */
        out->map = at[0] < 0x90;
        out->values = (uint64_t)(at[0] & 0x0f) << out->map;
    }
    return true;
}

size_t
pack_scan(const uint8_t *data, size_t size)
{
    uint64_t left[PACK_DEPTH_MAX + 1] = {1}; /* values still to come, level by level */
    uint64_t values = 0;
    size_t depth = 0, at = 0;
    struct pack_head head;

    for (;;) {
        while (left[depth] == 0) {
            if (depth-- == 0)
                return at;
        }
        left[depth]--;
        if (!pack_read_head(data + at, size - at, &head) || head.bytes > size - at - head.size)
            return 0;
        at += head.size + (size_t)head.bytes;
        values += head.values;
        if (head.values == 0)
            continue;
        if (head.values > size - at || values > PACK_VALUES_MAX || depth == PACK_DEPTH_MAX)
            return 0;
        left[++depth] = head.values;
    }
}

/* ---- parsed values ---- */

bool
pack_parse(const uint8_t *data, size_t size, struct muster_arena *arena, msgpack_object *out)
{
    size_t at = 0;
    msgpack_unpack_return got = msgpack_unpack((const char *)data, size, &at, &arena->zone, out);

    return (got == MSGPACK_UNPACK_SUCCESS || got == MSGPACK_UNPACK_EXTRA_BYTES) && at == size;
}

static void
look(const msgpack_object *object, struct decode_value *out)
{
    *out = (struct decode_value){.shape = DECODE_OTHER, .node = object};
    switch (object->type) {
    case MSGPACK_OBJECT_NIL:
        out->shape = DECODE_NIL;
        break;
    case MSGPACK_OBJECT_BOOLEAN:
        out->shape = DECODE_BOOL;
        out->truth = object->via.boolean;
        break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        out->shape = object->via.u64 <= INT64_MAX ? DECODE_INT : DECODE_REAL;
        out->number = (int64_t)(object->via.u64 & INT64_MAX);
        out->real = (double)object->via.u64;
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        out->shape = DECODE_INT;
        out->number = object->via.i64;
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        out->shape = DECODE_REAL;
        out->real = object->via.f64;
        break;
    case MSGPACK_OBJECT_STR:
        out->shape = DECODE_TEXT;
        out->text = object->via.str.ptr;
        out->size = object->via.str.size;
        break;
    case MSGPACK_OBJECT_BIN:
        out->shape = DECODE_BYTES;
        out->text = object->via.bin.ptr;
        out->size = object->via.bin.size;
        break;
    case MSGPACK_OBJECT_ARRAY:
        out->shape = DECODE_LIST;
        out->size = object->via.array.size;
        break;
    case MSGPACK_OBJECT_MAP:
        out->shape = DECODE_MAP;
        out->size = object->via.map.size;
        break;
    case MSGPACK_OBJECT_EXT:
        break;
    }
}

static void
list_item(const struct decode_value *list, size_t index, struct decode_value *out)
{
    const msgpack_object *object = list->node;

    look(&object->via.array.ptr[index], out);
}

static bool
next_member(struct decode_walk *walk, struct decode_value *out_name, struct decode_value *out)
{
    const msgpack_object *object = walk->map->node;

    if (walk->index >= object->via.map.size)
        return false;
    look(&object->via.map.ptr[walk->index].key, out_name);
    look(&object->via.map.ptr[walk->index].val, out);
    walk->index++;
    return true;
}

static const struct decode_source msgpack_source = {.textual = false, .item = list_item, .next = next_member};

muster_err
muster_unpack(const struct muster_type *type, const void *data, size_t size, struct muster_arena *arena, void *out,
              struct muster_fault *fault)
{
    const struct decode decode = {.source = &msgpack_source, .arena = arena, .fault = fault};
    struct decode_value value;
    msgpack_object object;

    if (size == 0 || pack_scan(data, size) != size || !pack_parse(data, size, arena, &object))
        return muster_fault_set(fault, "", "must be one msgpack map");
    look(&object, &value);
    return decode_struct(&decode, type, &value, out);
}
