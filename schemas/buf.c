/* SPDX-License-Identifier: MPL-2.0 */
/* Growing byte buffer and arena.  One thread at a time an object.  Nothing here fails: without memory the program ends.
 */
#include "schemas/muster_buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schemas/muster_err.h"

#define BUF_FIRST 256    /* bytes of a buffer's first allocation */
#define ARENA_CHUNK 8192 /* bytes of an arena's blocks, larger ones aside */
#define SMALL_BYTES 1000 /* up to here malloc has a list for each thread, which calloc does not look into */

static _Noreturn void
out_of_memory(size_t size)
{
    (void)fprintf(stderr, "muster: out of memory (%zu bytes wanted)\n", size);
    abort();
}

void *
muster_alloc(size_t size)
{
    void *memory = size <= SMALL_BYTES ? malloc(size ? size : 1) : calloc(1, size);

    if (memory == NULL)
        out_of_memory(size);
    return size <= SMALL_BYTES ? memset(memory, 0, size) : memory;
}

void *
muster_realloc(void *memory, size_t size)
{
    void *grown = realloc(memory, size ? size : 1);

    if (grown == NULL)
        out_of_memory(size);
    return grown;
}

char *
muster_strdup(const char *text)
{
    size_t size;

    if (text == NULL)
        return NULL;
    size = strlen(text) + 1;
    return memcpy(muster_realloc(NULL, size), text, size);
}

/* ---- buffer ---- */

void
muster_buf_grow(struct muster_buf *buf, size_t size)
{
    size_t wanted, capacity;

    if (size >= SIZE_MAX / 2 - buf->size)
        out_of_memory(size);
    wanted = buf->size + size + 1;
    if (wanted > buf->capacity) {
        capacity = buf->capacity ? buf->capacity : BUF_FIRST;
        while (capacity < wanted)
            capacity *= 2;
        buf->data = muster_realloc(buf->data, capacity);
        buf->capacity = capacity;
    }
}

void
muster_buf_int(struct muster_buf *buf, int64_t number)
{
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    char digits[20];
    size_t at = sizeof digits;

    do
        digits[--at] = (char)('0' + rest % 10);
    while ((rest /= 10) > 0);
    if (number < 0)
        digits[--at] = '-';
    muster_buf_add(buf, digits + at, sizeof digits - at);
}

void
muster_buf_digits(struct muster_buf *buf, int64_t number, size_t digits)
{
    char *out = muster_buf_room(buf, digits);
    size_t at;

    for (at = digits; at > 0; number /= 10)
        out[--at] = (char)('0' + number % 10);
    buf->size += digits;
    buf->data[buf->size] = '\0';
}

void
muster_buf_vprintf(struct muster_buf *buf, const char *format, va_list args)
{
    va_list again;
    int size;

    va_copy(again, args);
    (void)muster_buf_room(buf, 0);
    size = vsnprintf(buf->data + buf->size, buf->capacity - buf->size, format, args);
    MUSTER_ASSERT(size >= 0);
    if ((size_t)size >= buf->capacity - buf->size) /* it did not fit */
        (void)vsnprintf(muster_buf_room(buf, (size_t)size), (size_t)size + 1, format, again);
    va_end(again);
    buf->size += (size_t)size;
}

void
muster_buf_clock(struct muster_buf *buf, int hour, int minute, int second)
{
    muster_buf_digits(buf, hour, 2);
    muster_buf_str(buf, ":");
    muster_buf_digits(buf, minute, 2);
    muster_buf_str(buf, ":");
    muster_buf_digits(buf, second, 2);
}

void
muster_buf_time(struct muster_buf *buf, int64_t unix_ms)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm parts = {0};

    (void)gmtime_r(&seconds, &parts);
    muster_buf_digits(buf, parts.tm_year + 1900, 4);
    muster_buf_str(buf, "-");
    muster_buf_digits(buf, parts.tm_mon + 1, 2);
    muster_buf_str(buf, "-");
    muster_buf_digits(buf, parts.tm_mday, 2);
    muster_buf_str(buf, "T");
    muster_buf_clock(buf, parts.tm_hour, parts.tm_min, parts.tm_sec);
    muster_buf_str(buf, ".");
    muster_buf_digits(buf, unix_ms % 1000, 3);
    muster_buf_str(buf, "Z");
}

void
muster_buf_printf(struct muster_buf *buf, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    muster_buf_vprintf(buf, format, args);
    va_end(args);
}

void
muster_buf_shift(struct muster_buf *buf, size_t size)
{
    MUSTER_ASSERT(size <= buf->size);
    if (size == 0)
        return;
    buf->size -= size;
    memmove(buf->data, buf->data + size, buf->size);
    buf->data[buf->size] = '\0';
}

void
muster_buf_clear(struct muster_buf *buf)
{
    buf->size = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

void
muster_buf_free(struct muster_buf *buf)
{
    free(buf->data);
    *buf = (struct muster_buf){0};
}

char *
muster_buf_take(struct muster_buf *buf, size_t *out_size)
{
    char *data;

    muster_buf_add(buf, "", 0); /* an empty buffer gives "" and not NULL */
    data = buf->data;
    if (out_size)
        *out_size = buf->size;
    *buf = (struct muster_buf){0};
    return data;
}

/* ---- arena ---- */

/* Memory in front of what it holds. */
struct block {
    struct block *next;
    size_t size, used; /* of `bytes` */
    _Alignas(max_align_t) char bytes[];
};

struct muster_arena {
    struct block *first; /* small values are put here; never NULL */
};

static struct block *
block_new(size_t size, struct block *next)
{
    struct block *block = size < SIZE_MAX - sizeof *block ? malloc(sizeof *block + size) : NULL;

    if (block == NULL)
        out_of_memory(size);
    block->next = next;
    block->size = size;
    block->used = 0;
    return block;
}

static void
blocks_free(struct block *block)
{
    struct block *next;

    for (; block; block = next) {
        next = block->next;
        free(block);
    }
}

struct muster_arena *
muster_arena_new(void)
{
    struct muster_arena *arena = muster_alloc(sizeof *arena);

    arena->first = block_new(ARENA_CHUNK, NULL);
    return arena;
}

void
muster_arena_free(struct muster_arena **arena_p)
{
    if (*arena_p == NULL)
        return;
    blocks_free((*arena_p)->first);
    free(*arena_p);
    *arena_p = NULL;
}

void
muster_arena_clear(struct muster_arena *arena)
{
    blocks_free(arena->first->next);
    arena->first->next = NULL;
    arena->first->used = 0;
}

/* In a block of its own, behind the one that small values are put in. */
static void *
large_raw(struct muster_arena *arena, size_t size)
{
    arena->first->next = block_new(size, arena->first->next);
    return arena->first->next->bytes;
}

static inline void *
arena_raw(struct muster_arena *arena, size_t size)
{
    struct block *block = arena->first;
    void *memory;

    if (size > ARENA_CHUNK / 4 && size > block->size - block->used)
        return large_raw(arena, size);
    if (size > block->size - block->used)
        arena->first = block = block_new(ARENA_CHUNK, block);
    memory = block->bytes + block->used;
    size = (size + _Alignof(max_align_t) - 1) / _Alignof(max_align_t) * _Alignof(max_align_t);
    block->used = size < block->size - block->used ? block->used + size : block->size;
    return memory;
}

void *
muster_arena_alloc(struct muster_arena *arena, size_t size)
{
    return memset(arena_raw(arena, size), 0, size);
}

char *
muster_arena_str(struct muster_arena *arena, const char *text, size_t size)
{
    char *copy = arena_raw(arena, size + 1);

    if (size > 0)
        memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

char *
muster_arena_join(struct muster_arena *arena, const char *first, const char *second)
{
    size_t begin = strlen(first), end = strlen(second) + 1;
    char *text = arena_raw(arena, begin + end);

    memcpy(text, first, begin);
    memcpy(text + begin, second, end);
    return text;
}

char *
muster_arena_printf(struct muster_arena *arena, const char *format, ...)
{
    char most[128]; /* what most texts fit in: they are printed once */
    va_list args;
    int size;
    char *text;

    va_start(args, format);
    size = vsnprintf(most, sizeof most, format, args);
    va_end(args);
    MUSTER_ASSERT(size >= 0);
    if ((size_t)size < sizeof most)
        return muster_arena_str(arena, most, (size_t)size);
    text = arena_raw(arena, (size_t)size + 1);
    va_start(args, format);
    (void)vsnprintf(text, (size_t)size + 1, format, args);
    va_end(args);
    return text;
}
