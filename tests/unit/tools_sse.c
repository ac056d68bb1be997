/* SPDX-License-Identifier: MPL-2.0 */
/* The reader of event streams: the rules of the HTML standard, whatever pieces the bytes come in. */
#include "tools/sse.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

/* What the handler saw: "type|id|data;" for every event. */
struct seen {
    char text[1024];
    int stop_after; /* events; 0: never */
    int count;
};

static bool
note(void *arg, const struct sse_event *event)
{
    struct seen *seen = arg;
    size_t used = strlen(seen->text);

    cr_assert_eq(strlen(event->data), event->size);
    snprintf(seen->text + used, sizeof seen->text - used, "%s|%s|%s;", event->type, event->id, event->data);
    return ++seen->count != seen->stop_after;
}

static void
expect_sized(const char *stream, size_t size, const char *expected)
{
    size_t piece;

    for (piece = 1; piece <= size; piece++) {
        struct sse_parser parser = {0};
        struct seen seen = {0};
        size_t at;

        for (at = 0; at < size; at += piece) {
            size_t left = size - at < piece ? size - at : piece;

            cr_assert_eq(sse_feed(&parser, stream + at, left, note, &seen), MUSTER_OK);
        }
        cr_assert_str_eq(seen.text, expected, "in pieces of %zu: %s", piece, seen.text);
        sse_fini(&parser);
    }
}

/* The same events must come out in whatever pieces the stream arrives. */
static void
expect(const char *stream, const char *expected)
{
    expect_sized(stream, strlen(stream), expected);
}

Test(tools_sse, an_empty_line_ends_an_event)
{
    expect("event: start\ndata: {\"a\":1}\n\nevent: chunk\ndata: x\n\n", "start||{\"a\":1};chunk||x;");
}

Test(tools_sse, lines_end_with_lf_cr_or_both)
{
    expect("data: a\r\n\r\ndata: b\r\rdata: c\n\n", "message||a;message||b;message||c;");
    expect("data: a\r\ndata: b\r\n\r\n", "message||a\nb;");
}

Test(tools_sse, data_lines_are_joined)
{
    expect("data: a\ndata: b\ndata:\ndata: c\n\n", "message||a\nb\n\nc;");
}

Test(tools_sse, one_space_after_the_colon_is_dropped)
{
    expect("data:a\n\ndata: a\n\ndata:  a\n\n", "message||a;message||a;message|| a;");
}

Test(tools_sse, a_field_without_colon_has_an_empty_value)
{
    expect("data\n\ndata\ndata\n\n", "message||;message||\n;");
}

Test(tools_sse, an_event_without_data_is_none_and_its_type_is_forgotten)
{
    expect("event: chunk\n\ndata: x\n\n", "message||x;");
}

Test(tools_sse, an_id_stays_until_the_next)
{
    expect("id: 1-1\ndata: a\n\ndata: b\n\nid: 1-3\n\ndata: c\n\nid\ndata: d\n\n",
           "message|1-1|a;message|1-1|b;message|1-3|c;message||d;");
}

Test(tools_sse, an_id_with_a_nul_is_ignored)
{
    static const char stream[] = "id: 7\ndata: a\n\nid: 8\0x\ndata: b\n\n";

    expect_sized(stream, sizeof stream - 1, "message|7|a;message|7|b;");
}

Test(tools_sse, comments_and_unknown_fields_are_ignored)
{
    expect(": heartbeat\n:\nnonsense: 1\ndatax: 2\ndata: a\n\n", "message||a;");
}

Test(tools_sse, a_byte_order_mark_is_dropped_at_the_start_only)
{
    expect("\xef\xbb\xbf"
           "data: a\n\n\xef\xbb\xbf"
           "data: b\n\ndata: c\n\n",
           "message||a;message||c;");
}

Test(tools_sse, an_unfinished_event_is_not_told)
{
    expect("data: a\n\ndata: b\n", "message||a;");
    expect("data: a\n\ndata: b", "message||a;");
}

Test(tools_sse, reset_forgets_half_an_event_and_keeps_the_id)
{
    struct sse_parser parser = {0};
    struct seen seen = {0};
    const char *const parts[] = {"id: 4\ndata: a\n\nevent: chunk\ndata: hal", "data: b\n\n"};

    cr_assert_eq(sse_feed(&parser, parts[0], strlen(parts[0]), note, &seen), MUSTER_OK);
    sse_reset(&parser);
    cr_assert_eq(sse_feed(&parser, parts[1], strlen(parts[1]), note, &seen), MUSTER_OK);
    cr_assert_str_eq(seen.text, "message|4|a;message|4|b;");
    sse_fini(&parser);
}

Test(tools_sse, the_cursor_is_that_of_the_last_whole_event)
{
    struct sse_parser parser = {0};
    struct seen seen = {0};
    const char *const parts[] = {"id: 4\n\n", "id: 5\ndata: a\n", "\nid: 6\ndata: b", "\n", "\n", "data: c\n\n"};
    const char *const cursors[] = {"4", "4", "5", "5", "6", "6"};
    size_t i;

    cr_assert_str_eq(sse_cursor(&parser), "");
    for (i = 0; i < sizeof parts / sizeof *parts; i++) {
        cr_assert_eq(sse_feed(&parser, parts[i], strlen(parts[i]), note, &seen), MUSTER_OK);
        cr_assert_str_eq(sse_cursor(&parser), cursors[i], "after %s", parts[i]);
    }
    cr_assert_eq(sse_feed(&parser, "id: 7\ndata: d", 13, note, &seen), MUSTER_OK);
    sse_reset(&parser);
    cr_assert_eq(sse_feed(&parser, "data: e\n\n", 9, note, &seen), MUSTER_OK);
    cr_assert_str_eq(sse_cursor(&parser), "6", "half an event counts for nothing");
    cr_assert_str_eq(seen.text, "message|5|a;message|6|b;message|6|c;message|6|e;");
    sse_fini(&parser);
}

Test(tools_sse, a_handler_can_break_off)
{
    struct sse_parser parser = {0};
    struct seen seen = {.stop_after = 1};
    const char *stream = "data: a\n\ndata: b\n\n";

    cr_assert_eq(sse_feed(&parser, stream, strlen(stream), note, &seen), MUSTER_CANCELLED);
    cr_assert_str_eq(seen.text, "message||a;");
    sse_fini(&parser);
}

Test(tools_sse, retry_takes_digits_only)
{
    struct sse_parser parser = {0};
    struct seen seen = {0};
    const char *const streams[] = {"retry: 2500\n", "retry: 3s\n", "retry:\n", "retry: -1\n", "retry: 9999999999999\n"};
    size_t i;

    for (i = 0; i < sizeof streams / sizeof *streams; i++) {
        cr_assert_eq(sse_feed(&parser, streams[i], strlen(streams[i]), note, &seen), MUSTER_OK);
        cr_assert_eq(sse_retry_ms(&parser), 2500, "after %s", streams[i]);
    }
    sse_fini(&parser);
}
