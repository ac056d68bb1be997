/* SPDX-License-Identifier: MPL-2.0 */
/* JSON: what is encoded comes back, any text is harmless, and errors say what was expected. */
#include <criterion/criterion.h>
#include <locale.h>
#include <pthread.h>

#include "tests/unit/schemas_random.h"

Test(json, decode_of_encode_is_the_same_for_every_type)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_fault fault = {0};
    struct muster_buf buf = {0};
    const struct muster_type *type;
    size_t i;
    uint64_t seed;

    for (i = 0; (type = type_at(i)) != NULL; i++)
        for (seed = 0; seed < 200; seed++) {
            void *in = muster_arena_alloc(arena, type->size), *out = muster_arena_alloc(arena, type->size);

            random_struct(seed, arena, type, in);
            muster_buf_clear(&buf);
            muster_json_encode(type, in, &buf);
            cr_assert_eq(muster_json_decode(type, buf.data, buf.size, MUSTER_JSON_STRICT, arena, out, &fault),
                         MUSTER_OK, "%s seed %d: %s %s\n%s", type->wire, (int)seed, fault.field, fault.message,
                         buf.data);
            cr_assert(structs_equal(type, in, out), "%s seed %d\n%s", type->wire, (int)seed, buf.data);
            muster_arena_clear(arena);
        }
    muster_buf_free(&buf);
    muster_arena_free(&arena);
}

Test(json, changed_text_is_refused_or_gives_values_within_the_rows)
{
    static const char letters[] = "{}[]\",:\\0e-.tn\xc3 ";
    struct muster_arena *arena = muster_arena_new();
    struct muster_buf buf = {0};
    const struct muster_type *type;
    size_t i, at, taken = 0;
    uint64_t seed, state = 3;

    for (i = 0; (type = type_at(i)) != NULL; i++)
        for (seed = 0; seed < 300; seed++) {
            void *in = muster_arena_alloc(arena, type->size);

            random_struct(seed, arena, type, in);
            muster_buf_clear(&buf);
            muster_json_encode(type, in, &buf);
            for (at = 0; at < 1 + seed % 3; at++)
                buf.data[random_below(&state, buf.size)] = letters[random_below(&state, sizeof letters)];
            memset(in, 0, type->size);
            if (muster_json_decode(type, buf.data, buf.size, 0, arena, in, NULL) == MUSTER_OK) {
                cr_assert(struct_fits(type, in), "%s\n%s", type->wire, buf.data);
                taken++;
            }
            muster_arena_clear(arena);
        }
    cr_assert_gt(taken, 100);
    muster_buf_free(&buf);
    muster_arena_free(&arena);
}

/* ---- errors ---- */

static void
expect_fault(const struct muster_type *type, int flags, const char *text, const char *field, const char *message)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_fault fault = {0};
    void *out = muster_arena_alloc(arena, type->size);

    cr_expect_eq(muster_json_decode(type, text, strlen(text), flags, arena, out, &fault), MUSTER_INVALID_REQUEST, "%s",
                 text);
    cr_expect_str_eq(fault.field, field, "%s: %s", text, fault.field);
    cr_expect_str_eq(fault.message, message, "%s: %s", text, fault.message);
    muster_arena_free(&arena);
}

Test(json, errors_say_what_was_expected)
{
    expect_fault(&job_callback_type, 0, "{}", "url", "is required");
    expect_fault(&job_callback_type, 0, "{\"url\":null}", "url", "is required");
    expect_fault(&job_callback_type, 0, "{\"url\":\"x\"}", "url", "must be text of 8 to 2048 bytes");
    expect_fault(&job_callback_type, 0, "{\"url\":\"http://a\",\"headers\":{\"a\":1}}", "headers.a", "must be text");
    expect_fault(&job_callback_type, 0, "{\"url\":\"http:\\u0000//a\"}", "url", "must be UTF-8 text without U+0000");
    expect_fault(&job_callback_type, MUSTER_JSON_STRICT, "{\"url\":\"http://a\",\"urls\":1}", "urls",
                 "is not a known field");
    expect_fault(&limit_take_type, 0, "{\"algorithm\":\"leaky\"}", "algorithm",
                 "must be one of sliding_window, token_bucket");
    expect_fault(&limit_take_type, 0, "{\"requests\":1.5}", "requests", "must be a whole number, 0 to 1000000000");
    expect_fault(&limit_take_type, 0, "{\"requests\":-1}", "requests", "must be a whole number, 0 to 1000000000");
    expect_fault(&limit_take_type, 0, "{\"requests\":\"1\"}", "requests", "must be a whole number, 0 to 1000000000");
    expect_fault(&limit_taken_type, 0, "{\"unlimited\":1}", "unlimited", "must be true or false");
    expect_fault(&queue_cancel_type, 0, "{\"job\":\"1\"}", "job", "must be a UUID");
    expect_fault(&auth_create_type, 0, "{\"name\":\"a\",\"scopes\":[]}", "scopes", "must be a list of 1 to 32 texts");
    expect_fault(&auth_create_type, 0, "{\"name\":\"a\",\"scopes\":[\"x\",5]}", "scopes[1]", "must be text");
    expect_fault(&log_append_type, 0, "{\"entries\":[{}]}", "entries[0].at_ms", "is required");
    expect_fault(&key_type, 0, "{\"id\":\"018bcfe5-6800-7000-aa3a-a9640562b6e5\",\"name\":\"a\",\"digest\":\"AA==\"}",
                 "digest", "must be 32 bytes, in JSON as base64");
    expect_fault(&usage_type, 0, "[]", "", "must be an object");
}

Test(json, malformed_text_is_placed_by_line_and_column)
{
    expect_fault(&usage_type, 0, "{\n \"a\": }", "", "malformed JSON at line 2, column 7: unexpected token near '}'");
    expect_fault(&usage_type, 0, "", "", "malformed JSON at line 1, column 0: unexpected token near end of file");
    expect_fault(&usage_type, 0, "{\"turns\":1,\"turns\":2}", "",
                 "malformed JSON at line 1, column 18: duplicate object key near '\"turns\"'");
    expect_fault(&usage_type, 0, "{}x", "", "malformed JSON at line 1, column 3: end of file expected near 'x'");
}

Test(json, whole_reals_are_whole_numbers)
{
    struct muster_arena *arena = muster_arena_new();
    struct usage usage = {0};

    cr_assert_eq(muster_json_decode(&usage_type, "{\"turns\":5.0,\"cost_usd\":3}", 26, 0, arena, &usage, NULL),
                 MUSTER_OK);
    cr_assert_eq(usage.turns, 5);
    cr_assert_eq(usage.cost_usd, 3.0);
    cr_assert_eq(muster_json_decode(&usage_type, "{\"turns\":1e19}", 14, 0, arena, &usage, NULL),
                 MUSTER_INVALID_REQUEST);
    muster_arena_free(&arena);
}

/* ---- depth ---- */

static muster_err
decode_deep(size_t depth)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_buf buf = {0};
    struct usage usage;
    muster_err err;
    size_t i;

    muster_buf_str(&buf, "{\"x\":");
    for (i = 1; i < depth; i++)
        muster_buf_str(&buf, "[");
    for (i = 1; i < depth; i++)
        muster_buf_str(&buf, "]");
    muster_buf_str(&buf, depth > 1 ? "}" : "1}");
    cr_expect_eq(muster_json_shallow(buf.data, buf.size), depth <= MUSTER_DEPTH_MAX);
    err = muster_json_decode(&usage_type, buf.data, buf.size, 0, arena, &usage, NULL);
    muster_buf_free(&buf);
    muster_arena_free(&arena);
    return err;
}

Test(json, nesting_is_limited)
{
    cr_assert_eq(decode_deep(1), MUSTER_OK);
    cr_assert_eq(decode_deep(MUSTER_DEPTH_MAX), MUSTER_OK);
    cr_assert_eq(decode_deep(MUSTER_DEPTH_MAX + 1), MUSTER_INVALID_REQUEST);
    cr_assert_eq(decode_deep(1000000), MUSTER_INVALID_REQUEST);
}

Test(json, brackets_in_strings_are_not_nesting)
{
    char text[400];

    memset(text, '[', sizeof text);
    memcpy(text, "[\"\\\"", 4);
    cr_assert(muster_json_shallow(text, sizeof text));
    text[4] = '"';
    cr_assert_not(muster_json_shallow(text, sizeof text));
}

Test(json, an_escaped_quote_does_not_end_a_string)
{
    static const struct {
        const char *string;
        bool ends;
    } rows[] = {
        {"\"\"", true},         {"\"x\"", true},         {"\"\\\"", false},      {"\"\\\\\"", true},
        {"\"\\\\\\\"", false},  {"\"\\\\\\\\\"", true},  {"\"\\\"\"", true},     {"\"\\\"\\\"", false},
        {"\"\\\"\\\\\"", true}, {"\"a\\\"b\\c\"", true}, {"\"a\\\"b\\c", false}, {"\"", false},
    };
    char text[200];
    size_t i, size;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        size = strlen(rows[i].string);
        memset(text, '[', sizeof text);
        memcpy(text, rows[i].string, size);
        cr_expect_eq(muster_json_shallow(text, sizeof text), !rows[i].ends, "%s", rows[i].string);
    }
}

static void *
decode_on_small_stack(void *unused)
{
    static const char head[] = "{\"tool\":\"x\",\"input\":", tail[] = "}";
    struct muster_arena *arena = muster_arena_new();
    struct muster_buf buf = {0};
    struct job_tool_use use;
    muster_err err;
    int i;

    muster_buf_str(&buf, head);
    for (i = 1; i < MUSTER_DEPTH_MAX; i++)
        muster_buf_str(&buf, i % 2 ? "{\"a\":" : "[");
    muster_buf_str(&buf, "1");
    for (i = MUSTER_DEPTH_MAX - 1; i > 0; i--)
        muster_buf_str(&buf, i % 2 ? "}" : "]");
    muster_buf_str(&buf, tail);
    err = muster_json_decode(&job_tool_use_type, buf.data, buf.size, 0, arena, &use, NULL);
    muster_buf_free(&buf);
    muster_arena_free(&arena);
    return err == MUSTER_OK ? unused : NULL;
}

Test(json, deepest_text_fits_a_stack_of_100_kib)
{
    pthread_attr_t attributes;
    pthread_t thread;
    void *result = NULL;
    char mark;

    cr_assert_eq(pthread_attr_init(&attributes), 0);
    cr_assert_eq(pthread_attr_setstacksize(&attributes, 100 << 10), 0);
    cr_assert_eq(pthread_create(&thread, &attributes, decode_on_small_stack, &mark), 0);
    cr_assert_eq(pthread_join(thread, &result), 0);
    cr_assert_eq(result, &mark);
    (void)pthread_attr_destroy(&attributes);
}

Test(json, the_number_of_values_is_limited)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_fault fault = {0};
    struct muster_buf buf = {0};
    struct usage usage;
    int i;

    muster_buf_str(&buf, "{\"x\":[0");
    for (i = 0; i < 100000; i++)
        muster_buf_str(&buf, ",0");
    muster_buf_str(&buf, "]}");
    cr_assert_eq(muster_json_decode(&usage_type, buf.data, buf.size, 0, arena, &usage, &fault), MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(fault.message, "must hold at most 100000 values");
    muster_buf_free(&buf);
    muster_arena_free(&arena);
}

/* ---- text and numbers ---- */

static void
expect_quoted(const char *text, size_t size, const char *expected)
{
    struct muster_buf buf = {0};

    muster_json_quote(&buf, text, size);
    cr_expect_str_eq(buf.data, expected, "%s", buf.data);
    muster_buf_free(&buf);
}

Test(text, quoting_escapes_what_json_wants_escaped)
{
    expect_quoted("", 0, "\"\"");
    expect_quoted(NULL, 0, "\"\"");
    expect_quoted("a\"b\\c/\n\r\t\b\f", 11, "\"a\\\"b\\\\c/\\n\\r\\t\\b\\f\"");
    expect_quoted("\0\x1f", 2, "\"\\u0000\\u001f\"");
    expect_quoted("\xc3\xa9\xf0\x9f\x99\x82", 6, "\"\xc3\xa9\xf0\x9f\x99\x82\"");
    expect_quoted("a\xff\xc3", 3, "\"a\xef\xbf\xbd\xef\xbf\xbd\"");
}

/* Bytes are looked at eight at a time. */
Test(text, quoting_finds_each_byte_at_each_place)
{
    struct muster_buf buf = {0}, expected = {0};
    char text[20];
    unsigned byte;
    size_t at;

    for (byte = 0; byte < 128; byte++)
        for (at = 0; at < sizeof text; at++) {
            memset(text, '~', sizeof text);
            text[at] = (char)byte;
            muster_buf_clear(&expected);
            muster_buf_printf(&expected, "\"%.*s", (int)at, "~~~~~~~~~~~~~~~~~~~~");
            if (byte == '"' || byte == '\\')
                muster_buf_printf(&expected, "\\%c", (int)byte);
            else if (byte >= 0x20 && byte < 0x7f)
                muster_buf_printf(&expected, "%c", (int)byte);
            else if (byte == '\b' || byte == '\f' || byte == '\n' || byte == '\r' || byte == '\t')
                muster_buf_printf(&expected, "\\%c", "btn?fr"[byte - '\b']);
            else
                muster_buf_printf(&expected, "\\u%04x", byte);
            muster_buf_printf(&expected, "%.*s\"", (int)(sizeof text - at - 1), "~~~~~~~~~~~~~~~~~~~~");
            muster_buf_clear(&buf);
            muster_json_quote(&buf, text, sizeof text);
            cr_assert_str_eq(buf.data, expected.data, "%u at %zu", byte, at);
        }
    muster_buf_free(&buf);
    muster_buf_free(&expected);
}

Test(text, cleaning_replaces_each_bad_byte)
{
    struct muster_buf buf = {0};

    muster_utf8_clean(&buf, "good\xc0\x80\0x\xed\xa0\x80", 11);
    cr_assert_str_eq(buf.data, "good\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    muster_buf_free(&buf);
}

Test(text, only_valid_utf8_without_nul_is_clean)
{
    static const struct {
        const char *text;
        size_t size;
        bool clean;
    } rows[] = {
        {"", 0, true},
        {"plain text of more than eight bytes", 35, true},
        {"eight by\0es", 11, false},
        {"\xc2\x80", 2, true},
        {"\xdf\xbf", 2, true},
        {"\xc1\xbf", 2, false}, /* overlong */
        {"\xe0\xa0\x80", 3, true},
        {"\xe0\x9f\xbf", 3, false}, /* overlong */
        {"\xed\x9f\xbf", 3, true},
        {"\xed\xa0\x80", 3, false}, /* surrogate */
        {"\xef\xbf\xbf", 3, true},
        {"\xf0\x90\x80\x80", 4, true},
        {"\xf0\x8f\xbf\xbf", 4, false}, /* overlong */
        {"\xf4\x8f\xbf\xbf", 4, true},
        {"\xf4\x90\x80\x80", 4, false}, /* above U+10FFFF */
        {"\xe2\x82", 2, false},         /* cut */
        {"\x80", 1, false},
        {"\xff", 1, false},
        {"a\xc3(", 3, false},
    };
    char padded[200];
    size_t i, pad;

    for (i = 0; i < sizeof rows / sizeof *rows; i++)
        for (pad = 0; pad < 140; pad += 7) {
            memset(padded, 'x', sizeof padded);
            memcpy(padded + pad, rows[i].text, rows[i].size);
            cr_expect_eq(text_is_clean(padded, pad + rows[i].size), rows[i].clean, "row %zu, pad %zu", i, pad);
        }
}

static void
expect_real(double number, const char *expected)
{
    struct muster_buf buf = {0};

    text_real(&buf, number);
    cr_expect_str_eq(buf.data, expected, "%s", buf.data);
    muster_buf_free(&buf);
}

Test(text, reals_are_short_and_read_back)
{
    struct muster_buf buf = {0};
    uint64_t state = 11, bits;
    double number;
    int i;

    expect_real(0.1, "0.1");
    expect_real(0.30000000000000004, "0.30000000000000004");
    expect_real(5, "5.0");
    expect_real(1e300, "1e+300");
    expect_real(-0.0, "-0.0");
    expect_real(123456789012345680.0, "1.2345678901234568e+17");
    for (i = 0; i < 20000; i++) {
        bits = next_random(&state);
        memcpy(&number, &bits, sizeof number);
        if (!isfinite(number))
            continue;
        muster_buf_clear(&buf);
        text_real(&buf, number);
        cr_assert_eq(strtod(buf.data, NULL), number, "%s", buf.data);
    }
    muster_buf_free(&buf);
}

Test(text, reals_have_a_point_in_any_locale)
{
    if (setlocale(LC_ALL, "de_DE.UTF-8") == NULL && setlocale(LC_ALL, "fr_FR.UTF-8") == NULL)
        cr_skip("no locale with a decimal comma here");
    expect_real(1.5, "1.5");
    expect_real(1e-7, "1e-07");
}

Test(json, what_is_no_number_is_written_as_null)
{
    struct muster_buf buf = {0};

    muster_json_encode(&usage_type, &(struct usage){.cost_usd = (double)INFINITY, .turns = 1}, &buf);
    cr_assert_str_eq(buf.data, "{\"cost_usd\":null,\"turns\":1}");
    muster_buf_clear(&buf);
    muster_json_encode(&usage_type, &(struct usage){.cost_usd = (double)NAN}, &buf);
    cr_assert_str_eq(buf.data, "{\"cost_usd\":null}");
    muster_buf_free(&buf);
}

Test(text, times_are_rfc_3339_in_utc)
{
    static const struct {
        int64_t unix_ms;
        const char *text;
    } rows[] = {{0, "1970-01-01T00:00:00.000Z"},
                {1700000000007, "2023-11-14T22:13:20.007Z"},
                {951782399999, "2000-02-28T23:59:59.999Z"},
                {4102444800000, "2100-01-01T00:00:00.000Z"}};
    struct muster_buf out = {0};
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        muster_buf_clear(&out);
        muster_buf_time(&out, rows[i].unix_ms);
        cr_expect_str_eq(out.data, rows[i].text);
    }
    muster_buf_free(&out);
}
