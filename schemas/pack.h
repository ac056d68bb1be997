/* SPDX-License-Identifier: MPL-2.0 */
/* What the msgpack codec and the envelope share.  Any thread. */
#ifndef PACK_H
#define PACK_H

#include "schemas/arena.h"
#include "schemas/muster_codec.h"

/* Levels of nesting in msgpack; what the library's parser has room for. */
#define PACK_DEPTH_MAX 32
/* Values in one msgpack text.  Each takes 24 bytes while it is decoded; the largest message, log.publish, has 2
 * million. */
#define PACK_VALUES_MAX 4000000

struct pack_head {
    size_t size;     /* bytes of the head itself */
    uint64_t bytes;  /* bytes that follow it */
    uint64_t values; /* values that follow those */
    bool map;        /* the values are pairs */
};

/* Read the first bytes of a value; false when they are cut off or invalid. */
bool pack_read_head(const uint8_t *at, size_t left, struct pack_head *out);
/* Size of the whole well-formed value at the start of `data`; 0 when there is none or it passes a limit. */
size_t pack_scan(const uint8_t *data, size_t size);
/* Parse the value at the start of `data`, whose size pack_scan has told, into the arena; text points into `data`. */
bool pack_parse(const uint8_t *data, size_t size, struct muster_arena *arena, msgpack_object *out);

/* A packer that appends to `out`. */
void pack_begin(msgpack_packer *packer, struct muster_buf *out);
void pack_text(msgpack_packer *packer, const char *text); /* NULL: "" */
/* One struct as a map. */
void pack_struct(msgpack_packer *packer, const struct muster_type *type, const void *in);

#endif
