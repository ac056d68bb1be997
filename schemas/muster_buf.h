/* SPDX-License-Identifier: MPL-2.0 */
/* Growing byte buffer, and the arena that decoded values live in.
 *
 * A zeroed `struct muster_buf` is empty and valid.  Out of memory aborts with one line (sizes are bounded by the
 * limits on every input).  One thread at a time. */
#ifndef MUSTER_BUF_H
#define MUSTER_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct muster_buf {
    char *data;      /* always NUL-terminated once something was added; NULL when empty */
    size_t size;     /* bytes used, without the NUL */
    size_t capacity; /* bytes allocated */
};

/* Memory for `size` more bytes and the NUL behind them. */
void muster_buf_grow(struct muster_buf *buf, size_t size);
/* Room for `size` more bytes at data + size; the caller adds what it wrote to `size`. */
static inline char *
muster_buf_room(struct muster_buf *buf, size_t size)
{
    if (size >= buf->capacity - buf->size)
        muster_buf_grow(buf, size);
    return buf->data + buf->size;
}
/* Most of what is added has a few bytes: it costs no call. */
static inline void
muster_buf_add(struct muster_buf *buf, const void *data, size_t size)
{
    char *room = muster_buf_room(buf, size);

    if (size > 0)
        memcpy(room, data, size);
    room[size] = '\0';
    buf->size += size;
}
static inline void
muster_buf_str(struct muster_buf *buf, const char *text)
{
    muster_buf_add(buf, text, strlen(text));
}
/* In decimal digits. */
void muster_buf_int(struct muster_buf *buf, int64_t number);
/* Append the last `digits` digits of a number that is not negative, with zeros in front: at most 20. */
void muster_buf_digits(struct muster_buf *buf, int64_t number, size_t digits);
/* Append "13:05:09". */
void muster_buf_clock(struct muster_buf *buf, int hour, int minute, int second);
/* Append unix milliseconds as RFC 3339 in UTC, "2026-01-31T13:05:09.007Z". */
void muster_buf_time(struct muster_buf *buf, int64_t unix_ms);
void muster_buf_printf(struct muster_buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void muster_buf_vprintf(struct muster_buf *buf, const char *format, va_list args);
/* Drop the first `size` bytes. */
void muster_buf_shift(struct muster_buf *buf, size_t size);
/* Keep the memory, forget the content. */
void muster_buf_clear(struct muster_buf *buf);
void muster_buf_free(struct muster_buf *buf);
/* Hand over the memory: the caller frees it with free(); the buffer is empty afterwards. */
char *muster_buf_take(struct muster_buf *buf, size_t *out_size);

/* malloc/calloc/strdup that abort on failure. */
void *muster_alloc(size_t size); /* zeroed */
void *muster_realloc(void *memory, size_t size);
char *muster_strdup(const char *text); /* NULL gives NULL */

/* Memory that is freed all at once. */
struct muster_arena;
struct muster_arena *muster_arena_new(void);
void muster_arena_free(struct muster_arena **arena_p);
/* Forget everything, keep one block. */
void muster_arena_clear(struct muster_arena *arena);
void *muster_arena_alloc(struct muster_arena *arena, size_t size); /* zeroed; fits pointers, int64_t, double */
char *muster_arena_str(struct muster_arena *arena, const char *text, size_t size);
/* One text behind the other. */
char *muster_arena_join(struct muster_arena *arena, const char *first, const char *second);
char *muster_arena_printf(struct muster_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
