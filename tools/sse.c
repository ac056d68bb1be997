/* SPDX-License-Identifier: MPL-2.0 */
/* The parser behind sse.h: bytes to lines, lines to fields, an empty line ends the event. */
#include "tools/sse.h"

#include <string.h>

static void
set_text(struct muster_buf *buf, const char *text, size_t size)
{
    muster_buf_clear(buf);
    muster_buf_add(buf, text, size);
}

static void
set_retry(struct sse_parser *parser, const char *text, size_t size)
{
    int64_t retry_ms = 0;
    size_t i;

    if (size == 0 || size > 12)
        return;
    for (i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return;
        retry_ms = retry_ms * 10 + (text[i] - '0');
    }
    parser->retry_ms = retry_ms;
}

static void
add_data(struct sse_parser *parser, const char *text, size_t size)
{
    if (parser->has_data)
        muster_buf_add(&parser->data, "\n", 1);
    muster_buf_add(&parser->data, text, size);
    parser->has_data = true;
}

static bool
is_field(const char *line, size_t size, const char *name)
{
    return size == strlen(name) && memcmp(line, name, size) == 0;
}

static void
take_field(struct sse_parser *parser, const char *line, size_t size)
{
    const char *colon = memchr(line, ':', size);
    size_t name_size = colon ? (size_t)(colon - line) : size;
    const char *value = colon ? colon + 1 : line + size;
    size_t value_size = size - (size_t)(value - line);

    if (colon && value_size > 0 && *value == ' ') {
        value++;
        value_size--;
    }
    if (is_field(line, name_size, "data"))
        add_data(parser, value, value_size);
    else if (is_field(line, name_size, "event"))
        set_text(&parser->type, value, value_size);
    else if (is_field(line, name_size, "retry"))
        set_retry(parser, value, value_size);
    else if (is_field(line, name_size, "id") && !memchr(value, '\0', value_size))
        set_text(&parser->id, value, value_size);
}

static bool
end_event(struct sse_parser *parser, sse_handler *handler, void *arg)
{
    struct sse_event event = {
        .type = parser->type.size ? parser->type.data : "message",
        .id = parser->id.size ? parser->id.data : "",
        .data = parser->data.size ? parser->data.data : "",
        .size = parser->data.size,
    };
    bool go_on = true;

    set_text(&parser->cursor, event.id, strlen(event.id));
    if (parser->has_data)
        go_on = handler(arg, &event);
    muster_buf_clear(&parser->data);
    muster_buf_clear(&parser->type);
    parser->has_data = false;
    return go_on;
}

static bool
end_line(struct sse_parser *parser, sse_handler *handler, void *arg)
{
    const char *line = parser->line.size ? parser->line.data : "";
    size_t size = parser->line.size;
    bool go_on = true;

    if (!parser->started && size >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
        line += 3;
        size -= 3;
    }
    parser->started = true;
    if (size == 0)
        go_on = end_event(parser, handler, arg);
    else if (*line != ':')
        take_field(parser, line, size);
    muster_buf_clear(&parser->line);
    return go_on;
}

/* Bytes before the next line end. */
static size_t
line_part(const char *bytes, size_t size)
{
    size_t i;

    for (i = 0; i < size; i++) {
        if (bytes[i] == '\n' || bytes[i] == '\r')
            break;
    }
    return i;
}

muster_err
sse_feed(struct sse_parser *parser, const char *bytes, size_t size, sse_handler *handler, void *arg)
{
    size_t part;

    while (size > 0) {
        if (parser->after_cr && *bytes == '\n') {
            bytes++;
            size--;
            parser->after_cr = false;
            continue;
        }
        parser->after_cr = false;
        part = line_part(bytes, size);
        if (part + parser->line.size + parser->data.size > SSE_EVENT_MAX)
            return MUSTER_OUTPUT_TOO_LARGE;
        if (part > 0)
            muster_buf_add(&parser->line, bytes, part);
        if (part == size)
            break;
        parser->after_cr = bytes[part] == '\r';
        bytes += part + 1;
        size -= part + 1;
        if (!end_line(parser, handler, arg))
            return MUSTER_CANCELLED;
    }
    return MUSTER_OK;
}

void
sse_reset(struct sse_parser *parser)
{
    muster_buf_clear(&parser->line);
    muster_buf_clear(&parser->data);
    muster_buf_clear(&parser->type);
    set_text(&parser->id, sse_cursor(parser), parser->cursor.size);
    parser->has_data = false;
    parser->after_cr = false;
    parser->started = false;
}

const char *
sse_cursor(const struct sse_parser *parser)
{
    return parser->cursor.size ? parser->cursor.data : "";
}

int64_t
sse_retry_ms(const struct sse_parser *parser)
{
    return parser->retry_ms;
}

void
sse_fini(struct sse_parser *parser)
{
    muster_buf_free(&parser->line);
    muster_buf_free(&parser->data);
    muster_buf_free(&parser->type);
    muster_buf_free(&parser->id);
    muster_buf_free(&parser->cursor);
}
