/* SPDX-License-Identifier: MPL-2.0 */
/* Keys and values as byte ranges: making, comparing, and numbers that sort as bytes.  Any thread; nothing can fail. */
#ifndef STORE_BYTES_H
#define STORE_BYTES_H

#include <stdint.h>
#include <string.h>

#include "schemas/muster_schema.h"

static inline struct muster_bytes
bytes_of(const void *data, size_t size)
{
    return (struct muster_bytes){.data = data, .size = size};
}

/* The order of keys: byte by byte, a prefix before what it begins. */
static inline int
bytes_compare(struct muster_bytes a, struct muster_bytes b)
{
    size_t shared = a.size < b.size ? a.size : b.size;
    int order = shared ? memcmp(a.data, b.data, shared) : 0;

    return order ? order : (a.size > b.size) - (a.size < b.size);
}

static inline bool
bytes_begin_with(struct muster_bytes text, struct muster_bytes prefix)
{
    return prefix.size == 0 || (text.size >= prefix.size && memcmp(text.data, prefix.data, prefix.size) == 0);
}

/* Big-endian, so that numbers that are not negative sort as bytes. */
static inline void
number_write(int64_t number, uint8_t out_bytes[8])
{
    int i;

    for (i = 0; i < 8; i++)
        out_bytes[i] = (uint8_t)((uint64_t)number >> (56 - 8 * i));
}

static inline int64_t
number_read(const uint8_t bytes[8])
{
    uint64_t number = 0;
    int i;

    for (i = 0; i < 8; i++)
        number = number << 8 | bytes[i];
    return (int64_t)number;
}

#endif
