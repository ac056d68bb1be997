/* SPDX-License-Identifier: MPL-2.0 */
/* What the msgpack codec and the envelope share.  Any thread. */
#ifndef PACK_H
#define PACK_H

#include "schemas/decode.h"

/* Levels of nesting in msgpack. */
#define PACK_DEPTH_MAX 32
/* Values in one msgpack text; the largest message, log.publish, has 2 million. */
#define PACK_VALUES_MAX 4000000

/* Bytes that most messages and records fit in, so that their buffer grows once. */
#define PACK_ROOM 600

/* A place in msgpack bytes, read value by value.  What a head announces is believed only as far as bytes are there. */
struct pack_reader {
    const uint8_t *at, *end;
    bool broken;                       /* the bytes are no msgpack or pass a limit; then `at` is `end` */
    uint64_t values;                   /* announced by lists and maps so far */
    size_t depth;                      /* level of the next value; 0: the whole */
    uint64_t left[PACK_DEPTH_MAX + 1]; /* values still to come, level by level */
};

void pack_read_begin(struct pack_reader *reader, const void *data, size_t size);
/* The next value of that level, past all that is left of deeper ones; text points into the bytes.  False: there is
 * none, `out` is DECODE_OTHER. */
bool pack_read(struct pack_reader *reader, size_t level, struct decode_value *out);
/* Walk over what was not read.  Was it one well-formed value and nothing behind it? */
bool pack_read_end(struct pack_reader *reader);

/* Append one value.  The NUL that ends a buffer is behind a struct only, so each text of values ends with one. */
void pack_int(struct muster_buf *out, int64_t number);
void pack_text(struct muster_buf *out, const char *text); /* NULL: "" */
void pack_bytes(struct muster_buf *out, const void *data, size_t size);
/* The head of a list whose values follow. */
void pack_list(struct muster_buf *out, size_t count);
/* One struct as a map; NULL as nil. */
void pack_struct(struct muster_buf *out, const struct muster_type *type, const void *in);

#endif
