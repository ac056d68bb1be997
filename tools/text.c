/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of text.h. */
#include "tools/text.h"

#include <stdio.h>
#include <string.h>

#include "schemas/muster_crypto.h"

#define SHORT_ID 8

static bool
is_inside(char byte)
{
    return ((unsigned char)byte & 0xc0) == 0x80;
}

static bool
is_blank(char byte)
{
    return (unsigned char)byte <= ' ' || byte == 0x7f;
}

int
text_width(const char *text)
{
    int width = 0;

    for (; *text; text++)
        width += !is_inside(*text);
    return width;
}

void
text_cut(char *text, int width)
{
    char *at = text;
    int seen = 0;

    if (width <= 3 || text_width(text) <= width)
        return;
    while (*at && (seen < width - 3 || is_inside(*at)))
        seen += !is_inside(*at++);
    snprintf(at, 4, "...");
}

void
text_flatten(char *text)
{
    for (; *text; text++) {
        if (is_blank(*text))
            *text = ' ';
    }
}

void
text_copy(char *out, size_t size, const char *text)
{
    size_t length = strlen(text);

    if (length >= size) {
        length = size - 1;
        while (length > 0 && is_inside(text[length]))
            length--;
    }
    memcpy(out, text, length);
    out[length] = '\0';
}

void
text_add_line(struct muster_buf *out, const char *text, int width)
{
    const size_t begin = out->size;
    size_t kept = begin; /* up to where there is room for "..." behind it */
    bool blank = false;
    int seen = 0;

    for (; *text; text++) {
        if (is_blank(*text)) {
            blank = out->size > begin;
            continue;
        }
        if (seen + blank + !is_inside(*text) > width) {
            out->size = kept;
            muster_buf_str(out, "...");
            return;
        }
        if (blank) {
            muster_buf_str(out, " ");
            seen++;
        }
        blank = false;
        muster_buf_add(out, text, 1);
        seen += !is_inside(*text);
        if (seen <= width - 3)
            kept = out->size;
    }
}

bool
text_is_job(const char *text)
{
    struct muster_id id;

    if (strncmp(text, "msg_", 4) == 0 || strncmp(text, "job_", 4) == 0)
        return text[4] && text[4 + strspn(text + 4, "0123456789abcdefABCDEF-")] == '\0';
    return muster_id_parse(text, &id) == MUSTER_OK;
}

const char *
text_short_id(const char *id)
{
    size_t size = strlen(id);

    id += size > SHORT_ID ? size - SHORT_ID : 0;
    while (is_inside(*id))
        id++;
    return id;
}
