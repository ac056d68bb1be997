/* SPDX-License-Identifier: MPL-2.0 */
/* Msgpack to structs.  Any thread.  What can fail: bytes that are no msgpack, pass a limit, or do not fit the rows.
 *
 * Values are read as the rows ask for them and never stand in memory as a tree.  The library's parser is not used: it
 * allocates what a list's head announces, gigabytes for six bytes. */
#include <endian.h>
#include <string.h>

#include "schemas/pack.h"

/* ---- values in bytes ---- */

/* What the first bytes 0xc0 to 0xdf begin: a count of so many bytes, then further bytes. */
struct head_row {
    enum decode_shape shape;
    uint8_t count_bytes;
    uint8_t bytes;
};

/* clang-format off */
static const struct head_row head_rows[32] = {
    [0x00] = {DECODE_NIL, 0, 0}, /* 0x01 is refused */
    [0x02] = {DECODE_BOOL, 0, 0}, [0x03] = {DECODE_BOOL, 0, 0},
    [0x04] = {DECODE_BYTES, 1, 0}, [0x05] = {DECODE_BYTES, 2, 0}, [0x06] = {DECODE_BYTES, 4, 0},
    [0x07] = {DECODE_OTHER, 1, 1}, [0x08] = {DECODE_OTHER, 2, 1}, [0x09] = {DECODE_OTHER, 4, 1}, /* ext */
    [0x0a] = {DECODE_REAL, 0, 4}, [0x0b] = {DECODE_REAL, 0, 8},
    [0x0c] = {DECODE_INT, 0, 1}, [0x0d] = {DECODE_INT, 0, 2}, [0x0e] = {DECODE_INT, 0, 4}, [0x0f] = {DECODE_INT, 0, 8},
    [0x10] = {DECODE_INT, 0, 1}, [0x11] = {DECODE_INT, 0, 2}, [0x12] = {DECODE_INT, 0, 4}, [0x13] = {DECODE_INT, 0, 8},
    [0x14] = {DECODE_OTHER, 0, 2}, [0x15] = {DECODE_OTHER, 0, 3}, [0x16] = {DECODE_OTHER, 0, 5}, /* fixext */
    [0x17] = {DECODE_OTHER, 0, 9}, [0x18] = {DECODE_OTHER, 0, 17},
    [0x19] = {DECODE_TEXT, 1, 0}, [0x1a] = {DECODE_TEXT, 2, 0}, [0x1b] = {DECODE_TEXT, 4, 0},
    [0x1c] = {DECODE_LIST, 2, 0}, [0x1d] = {DECODE_LIST, 4, 0},
    [0x1e] = {DECODE_MAP, 2, 0}, [0x1f] = {DECODE_MAP, 4, 0},
};
/* clang-format on */
enum { NEVER_USED = 0xc1, UINT_64 = 0xcf };

static bool
stop(struct pack_reader *reader, struct decode_value *out)
{
    reader->broken = true;
    reader->at = reader->end;
    out->shape = DECODE_OTHER;
    return false;
}

static inline bool
take_bytes(struct pack_reader *reader, enum decode_shape shape, uint64_t size, struct decode_value *out)
{
    if (size > (size_t)(reader->end - reader->at))
        return stop(reader, out);
    out->shape = shape;
    out->text = (const char *)reader->at;
    out->size = (size_t)size;
    reader->at += size;
    return true;
}

static bool
enter(struct pack_reader *reader, enum decode_shape shape, uint64_t count, struct decode_value *out)
{
    uint64_t values = shape == DECODE_MAP ? 2 * count : count;

    out->shape = shape;
    out->size = (size_t)count;
    out->node = reader;
    out->level = 0;
    if (values == 0)
        return true;
    reader->values += values;
    if (values > (size_t)(reader->end - reader->at) || reader->values > PACK_VALUES_MAX ||
        reader->depth == PACK_DEPTH_MAX)
        return stop(reader, out);
    out->level = ++reader->depth;
    reader->left[reader->depth] = values;
    return true;
}

/* Up to 8 bytes, the highest first; they must be there. */
static inline uint64_t
take_number(struct pack_reader *reader, size_t size)
{
    uint64_t number = 0;

    memcpy((char *)&number + sizeof number - size, reader->at, size);
    reader->at += size;
    return be64toh(number);
}

static void
set_real(uint64_t bits, size_t size, struct decode_value *out)
{
    uint32_t short_bits = (uint32_t)bits;
    float short_real;

    if (size == sizeof short_real) {
        memcpy(&short_real, &short_bits, sizeof short_real);
        out->real = (double)short_real;
    } else {
        memcpy(&out->real, &bits, sizeof out->real);
    }
}

static void
set_int(uint64_t bits, uint8_t head, size_t size, struct decode_value *out)
{
    size_t unused = 64 - 8 * size;

    if (head > UINT_64) {
        out->number = (int64_t)(bits << unused) >> unused; /* with its sign */
    } else if (bits <= INT64_MAX) {
        out->number = (int64_t)bits;
    } else {
        out->shape = DECODE_REAL;
        out->real = (double)bits;
    }
}

static bool
read_int(struct pack_reader *reader, uint8_t head, struct decode_value *out)
{
    size_t size = (size_t)1 << (head & 3);

    if ((size_t)(reader->end - reader->at) < size)
        return stop(reader, out);
    out->shape = DECODE_INT;
    set_int(take_number(reader, size), head, size, out);
    return true;
}

static bool
read_long(struct pack_reader *reader, uint8_t head, struct decode_value *out)
{
    const struct head_row *row = &head_rows[head & 0x1f];
    uint64_t number;

    if (row->shape == DECODE_INT)
        return read_int(reader, head, out);
    if (head == NEVER_USED || (size_t)(reader->end - reader->at) < (size_t)row->count_bytes)
        return stop(reader, out);
    number = take_number(reader, row->count_bytes);
    if (row->shape == DECODE_LIST || row->shape == DECODE_MAP)
        return enter(reader, row->shape, number, out);
    if (!take_bytes(reader, row->shape, number + row->bytes, out))
        return false;
    if (row->shape == DECODE_BOOL)
        out->truth = head & 1;
    if (row->shape == DECODE_REAL) {
        reader->at -= row->bytes;
        set_real(take_number(reader, row->bytes), row->bytes, out);
    }
    return true;
}

static inline bool
read_next(struct pack_reader *reader, struct decode_value *out)
{
    uint8_t head;

    if (reader->at == reader->end)
        return stop(reader, out);
    head = *reader->at++;
    reader->left[reader->depth]--;
    if (head >= 0xa0 && head < 0xc0)
        return take_bytes(reader, DECODE_TEXT, head & 0x1f, out);
    if (head >= 0xc0 && head < 0xe0)
        return read_long(reader, head, out);
    if (head >= 0x80 && head < 0xa0)
        return enter(reader, head < 0x90 ? DECODE_MAP : DECODE_LIST, head & 0x0f, out);
    out->shape = DECODE_INT;
    out->number = (int8_t)head;
    return true;
}

/* Walk over what is left of values deeper than that. */
static void
leave(struct pack_reader *reader, size_t level)
{
    struct decode_value value;

    while (reader->depth > level) {
        if (reader->left[reader->depth] == 0)
            reader->depth--;
        else if (!read_next(reader, &value))
            return;
    }
}

void
pack_read_begin(struct pack_reader *reader, const void *data, size_t size)
{
    reader->at = data;
    reader->end = size > 0 ? reader->at + size : reader->at;
    reader->broken = false;
    reader->values = 0;
    reader->depth = 0;
    reader->left[0] = 1;
}

static inline bool
read_at(struct pack_reader *reader, size_t level, struct decode_value *out)
{
    if (reader->depth > level)
        leave(reader, level);
    return read_next(reader, out);
}

bool
pack_read(struct pack_reader *reader, size_t level, struct decode_value *out)
{
    return read_at(reader, level, out);
}

bool
pack_read_end(struct pack_reader *reader)
{
    struct decode_value value;

    if (reader->left[0] > 0)
        (void)read_next(reader, &value);
    leave(reader, 0);
    return !reader->broken && reader->at == reader->end;
}

/* ---- the source of the decoder ---- */

static void
list_item(const struct decode_value *list, size_t index, struct decode_value *out)
{
    (void)index;
    (void)read_at(list->node, list->level, out);
}

static bool
next_member(struct decode_walk *walk, struct decode_value *out_name, struct decode_value *out)
{
    struct pack_reader *reader = walk->map->node;
    size_t level = walk->map->level;

    if (walk->index++ == walk->map->size)
        return false;
    return read_at(reader, level, out_name) && read_at(reader, level, out);
}

static const struct decode_source msgpack_source = {.textual = false, .item = list_item, .next = next_member};

/* Bytes that are no msgpack are told as that, whatever the rows had to say before they were met. */
muster_err
muster_unpack(const struct muster_type *type, const void *data, size_t size, struct muster_arena *arena, void *out,
              struct muster_fault *fault)
{
    const struct decode decode = {.source = &msgpack_source, .arena = arena, .fault = fault};
    struct pack_reader reader;
    struct decode_value value;
    void *whole;
    muster_err err;

    pack_read_begin(&reader, data, size);
    (void)pack_read(&reader, 0, &value);
    err = decode_struct(&decode, type, &value, &whole);
    if (!pack_read_end(&reader))
        return muster_fault_set(fault, "", "must be one msgpack map");
    if (err == MUSTER_OK)
        memcpy(out, whole, type->size);
    return err;
}
