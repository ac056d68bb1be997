/* SPDX-License-Identifier: MPL-2.0 */
/* Text: UTF-8, JSON strings and numbers.  Any thread; no recursion; nothing here fails. */
#include "schemas/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/muster_codec.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* The range of the second byte is what keeps overlong forms, surrogates and numbers above U+10FFFF out. */
size_t
text_character(const char *at, size_t left)
{
    const unsigned char *byte = (const unsigned char *)at;
    unsigned char lo = 0x80, hi = 0xbf;
    size_t size, i;

    if (byte[0] < 0x80)
        return 1;
    if (byte[0] < 0xc2 || byte[0] > 0xf4)
        return 0;
    size = byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : 4;
    if (left < size)
        return 0;
    if (byte[0] == 0xe0)
        lo = 0xa0;
    else if (byte[0] == 0xed)
        hi = 0x9f;
    else if (byte[0] == 0xf0)
        lo = 0x90;
    else if (byte[0] == 0xf4)
        hi = 0x8f;
    if (byte[1] < lo || byte[1] > hi)
        return 0;
    for (i = 2; i < size; i++)
        if ((byte[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

/* Are up to eight bytes ASCII and not NUL? */
static inline bool
is_plain(const char *text, size_t size)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = UINT64_C(0x8080808080808080);
    uint64_t word = ones;

    memcpy(&word, text, size);
    return ((word | (word - ones)) & highs) == 0;
}

/* Bytes at the start that are so: eight at a time, at the end fewer. */
static inline size_t
plain_prefix(const char *text, size_t size)
{
    size_t at;

    for (at = 0; at + sizeof(uint64_t) <= size; at += sizeof(uint64_t))
        if (!is_plain(text + at, sizeof(uint64_t)))
            return at;
    return at < size && is_plain(text + at, size - at) ? size : at;
}

/* From `at` on.  Most text ends before: kept apart, so that what it needs is not paid for. */
static __attribute__((noinline)) size_t
clean_rest(const char *text, size_t size, size_t at)
{
    size_t step;

    while (at < size && text[at] != '\0') {
        step = (signed char)text[at] > 0 ? 1 : text_character(text + at, size - at);
        if (step == 0)
            break;
        at += step;
        if (step == 1 && at % 64 == 0)
            at += plain_prefix(text + at, size - at);
    }
    return at;
}

/* The first byte that is NUL or no valid UTF-8; `size` when there is none. */
static inline size_t
clean_prefix(const char *text, size_t size)
{
    size_t at = plain_prefix(text, size);

    return at == size ? size : clean_rest(text, size, at);
}

bool
text_is_clean(const char *text, size_t size)
{
    return clean_prefix(text, size) == size;
}

void
muster_utf8_clean(struct muster_buf *out, const char *text, size_t size)
{
    size_t good;

    while (size > 0) {
        good = clean_prefix(text, size);
        muster_buf_add(out, text, good);
        if (good == size)
            return;
        muster_buf_str(out, REPLACEMENT);
        text += good + 1;
        size -= good + 1;
    }
}

/* ---- JSON strings ---- */

static void
quote_byte(struct muster_buf *out, char byte)
{
    static const char short_forms[] = "\"\"\\\\\bb\ff\nn\rr\tt"; /* byte, then its letter */
    const char *form;

    for (form = short_forms; *form != '\0'; form += 2)
        if (*form == byte) {
            muster_buf_add(out, (const char[]){'\\', form[1]}, 2);
            return;
        }
    muster_buf_printf(out, "\\u%04x", (unsigned)(unsigned char)byte);
}

/* ASCII that may stand in a JSON string as it is? */
static inline bool
is_literal(char letter)
{
    return letter >= 0x20 && letter < 0x7f && letter != '"' && letter != '\\';
}

/* Bytes at the start that are so, counted eight at a time. */
static inline size_t
literal_prefix(const char *text, size_t size)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t word, quote, slash;
    size_t at;

    for (at = 0; at + sizeof word <= size; at += sizeof word) {
        memcpy(&word, text + at, sizeof word);
        quote = word ^ '"' * ones;
        slash = word ^ '\\' * ones;
        if ((word | (word + ones) | (word - ' ' * ones) | (quote - ones) | (slash - ones)) & 0x80 * ones)
            break;
    }
    return at;
}

void
muster_json_quote(struct muster_buf *out, const char *text, size_t size)
{
    size_t from = 0, at = literal_prefix(text, size), step;

    (void)muster_buf_room(out, size + 2);
    muster_buf_str(out, "\"");
    while (at < size) {
        if (is_literal(text[at])) {
            at++;
            continue;
        }
        step = text_character(text + at, size - at);
        if (step > 1) {
            at += step;
            continue;
        }
        muster_buf_add(out, text + from, at - from);
        if (step == 0)
            muster_buf_str(out, REPLACEMENT);
        else
            quote_byte(out, text[at]);
        from = ++at;
        at += literal_prefix(text + at, size - at);
    }
    if (size > 0)
        muster_buf_add(out, text + from, at - from);
    muster_buf_str(out, "\"");
}

/* ---- numbers ---- */

void
text_real(struct muster_buf *out, double number)
{
    char text[40]; /* 17 digits, sign, point of up to 4 bytes, exponent */
    bool real = false, point = false;
    const char *at;
    int digits;

    for (digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number)
            break;
    }
    /* Whatever is no part of a number is the locale's decimal point, which may have several bytes. */
    for (at = text; *at != '\0'; at++) {
        if (strchr("0123456789+-e", *at) != NULL) {
            muster_buf_add(out, at, 1);
            real = real || *at == 'e';
            point = false;
        } else if (!point) {
            muster_buf_str(out, ".");
            real = point = true;
        }
    }
    if (!real)
        muster_buf_str(out, ".0");
}
