/* SPDX-License-Identifier: MPL-2.0 */
/* msgpack: what is packed comes back, and no bytes at all do harm. */
#include <criterion/criterion.h>
#include <endian.h>
#include <msgpack.h>
#include <sys/resource.h>

#include "tests/unit/schemas_random.h"

/* AddressSanitizer needs terabytes of address space. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#else
#define SANITIZED 0
#endif

struct bench {
    struct muster_arena *arena;
    struct muster_buf buf;
    struct muster_fault fault;
};

static struct bench
bench_new(void)
{
    return (struct bench){.arena = muster_arena_new()};
}

static void
bench_free(struct bench *bench)
{
    muster_arena_free(&bench->arena);
    muster_buf_free(&bench->buf);
}

Test(pack, decode_of_encode_is_the_same_for_every_type)
{
    struct bench bench = bench_new();
    const struct muster_type *type;
    size_t i;
    uint64_t seed;

    for (i = 0; (type = type_at(i)) != NULL; i++)
        for (seed = 0; seed < 200; seed++) {
            void *in = muster_arena_alloc(bench.arena, type->size), *out = muster_arena_alloc(bench.arena, type->size);

            random_struct(seed, bench.arena, type, in);
            muster_buf_clear(&bench.buf);
            muster_pack(type, in, &bench.buf);
            cr_assert_eq(muster_unpack(type, bench.buf.data, bench.buf.size, bench.arena, out, &bench.fault), MUSTER_OK,
                         "%s seed %d: %s %s", type->wire, (int)seed, bench.fault.field, bench.fault.message);
            cr_assert(structs_equal(type, in, out), "%s seed %d", type->wire, (int)seed);
            cr_assert(struct_fits(type, out), "%s seed %d", type->wire, (int)seed);
            muster_arena_clear(bench.arena);
        }
    bench_free(&bench);
}

/* The library reads what we write, and writes the same bytes. */
Test(pack, what_is_packed_is_what_msgpack_c_packs)
{
    struct bench bench = bench_new();
    const struct muster_type *type;
    msgpack_sbuffer again;
    msgpack_unpacked read;
    msgpack_packer packer;
    size_t i, offset;
    uint64_t seed;

    for (i = 0; (type = type_at(i)) != NULL; i++)
        for (seed = 0; seed < 100; seed++) {
            void *in = muster_arena_alloc(bench.arena, type->size);

            random_struct(seed, bench.arena, type, in);
            muster_buf_clear(&bench.buf);
            muster_pack(type, in, &bench.buf);
            msgpack_unpacked_init(&read);
            msgpack_sbuffer_init(&again);
            msgpack_packer_init(&packer, &again, msgpack_sbuffer_write);
            offset = 0;
            cr_assert_eq(msgpack_unpack_next(&read, bench.buf.data, bench.buf.size, &offset), MSGPACK_UNPACK_SUCCESS);
            cr_assert_eq(offset, bench.buf.size);
            (void)msgpack_pack_object(&packer, read.data);
            cr_assert_eq(again.size, bench.buf.size, "%s seed %d", type->wire, (int)seed);
            cr_assert_eq(memcmp(again.data, bench.buf.data, again.size), 0, "%s seed %d", type->wire, (int)seed);
            msgpack_sbuffer_destroy(&again);
            msgpack_unpacked_destroy(&read);
            muster_arena_clear(bench.arena);
        }
    bench_free(&bench);
}

/* Change some bytes; sometimes cut or lengthen. */
static size_t
mutate(uint64_t *state, char *data, size_t size, size_t room)
{
    size_t changes = 1 + random_below(state, 4);

    while (changes-- > 0 && size > 0)
        data[random_below(state, size)] = (char)(random_below(state, 2) ? next_random(state) : 0xdf);
    if (random_below(state, 4) == 0)
        size = random_below(state, size + 1);
    else if (random_below(state, 8) == 0 && size < room)
        data[size++] = (char)next_random(state);
    return size;
}

Test(pack, changed_bytes_are_refused_or_give_values_within_the_rows)
{
    struct bench bench = bench_new();
    const struct muster_type *type;
    size_t i, size, taken = 0, refused = 0;
    uint64_t seed, state = 1;

    for (i = 0; (type = type_at(i)) != NULL; i++)
        for (seed = 0; seed < 500; seed++) {
            void *in = muster_arena_alloc(bench.arena, type->size);

            random_struct(seed, bench.arena, type, in);
            muster_buf_clear(&bench.buf);
            muster_pack(type, in, &bench.buf);
            size = mutate(&state, muster_buf_room(&bench.buf, 8) - bench.buf.size, bench.buf.size, bench.buf.size + 8);
            memset(in, 0, type->size);
            if (muster_unpack(type, bench.buf.data, size, bench.arena, in, &bench.fault) == MUSTER_OK) {
                cr_assert(struct_fits(type, in), "%s", type->wire);
                taken++;
            } else {
                cr_assert_neq(bench.fault.message[0], '\0');
                refused++;
            }
            muster_arena_clear(bench.arena);
        }
    cr_assert_gt(taken, 100);
    cr_assert_gt(refused, 1000);
    bench_free(&bench);
}

Test(pack, random_bytes_do_no_harm)
{
    struct bench bench = bench_new();
    struct muster_envelope envelope;
    uint64_t state = 7;
    uint8_t bytes[64];
    size_t round, i, size;
    struct job job;

    for (round = 0; round < 100000; round++) {
        size = random_below(&state, sizeof bytes);
        for (i = 0; i < size; i++)
            bytes[i] = (uint8_t)next_random(&state);
        (void)muster_unpack(&job_type, bytes, size, bench.arena, &job, NULL);
        (void)muster_envelope_unpack(bytes, size, bench.arena, &envelope);
        muster_arena_clear(bench.arena);
    }
    bench_free(&bench);
}

static muster_err
unpack_callback(struct bench *bench, const char *bytes, size_t size)
{
    struct job_callback out = {0};

    return muster_unpack(&job_callback_type, bytes, size, bench->arena, &out, &bench->fault);
}

Test(pack, a_failed_decode_changes_nothing)
{
    struct bench bench = bench_new();
    static const char bytes[] = "\x82\xa3url\xa9http://ab\xa6method\x05";
    struct job_callback out = {.method = "before"};

    cr_assert_eq(muster_unpack(&job_callback_type, bytes, sizeof bytes - 1, bench.arena, &out, &bench.fault),
                 MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(bench.fault.field, "method");
    cr_assert_str_eq(bench.fault.message, "must be text of at most 16 bytes");
    cr_assert_null(out.url);
    cr_assert_str_eq(out.method, "before");
    bench_free(&bench);
}

Test(pack, a_missing_required_field_is_named)
{
    struct bench bench = bench_new();

    cr_assert_eq(unpack_callback(&bench, "\x80", 1), MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(bench.fault.field, "url");
    cr_assert_str_eq(bench.fault.message, "is required");
    cr_assert_eq(unpack_callback(&bench, "\x81\xa3url\xc0", 6), MUSTER_INVALID_REQUEST, "nil is not given");
    bench_free(&bench);
}

Test(pack, unknown_fields_are_ignored_and_double_ones_are_not)
{
    struct bench bench = bench_new();
    static const char unknown[] = "\x83\xa3url\xa8http://a\xa3new\x93\x01\x02\x81\x05\xc3\x05\xc7\x01\x09x";
    static const char twice[] = "\x82\xa3url\xa8http://a\xa3url\xa8http://b";

    cr_assert_eq(unpack_callback(&bench, unknown, sizeof unknown - 1), MUSTER_OK);
    cr_assert_eq(unpack_callback(&bench, twice, sizeof twice - 1), MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(bench.fault.message, "is given twice");
    bench_free(&bench);
}

Test(pack, fields_come_in_any_order)
{
    struct bench bench = bench_new();
    static const char mixed[] = "\x84\xa5turns\x07\xa3new\x05\xa8"
                                "cost_usd\xca\x3f\x80\0\0\xacinput_tokens\xcd\x01\x02";
    struct usage usage;
    struct job_callback callback;

    cr_assert_eq(muster_unpack(&usage_type, mixed, sizeof mixed - 1, bench.arena, &usage, &bench.fault), MUSTER_OK,
                 "%s %s", bench.fault.field, bench.fault.message);
    cr_assert_eq(usage.turns, 7);
    cr_assert_eq(usage.input_tokens, 258);
    cr_assert_float_eq(usage.cost_usd, 1, 0);
    cr_assert_eq(usage.output_tokens, 0);
    cr_assert_eq(
        muster_unpack(&job_callback_type, "\x82\xa6method\xa3PUT\xa3url\xa8http://a", 25, bench.arena, &callback, NULL),
        MUSTER_OK);
    cr_assert_str_eq(callback.url, "http://a");
    cr_assert_str_eq(callback.method, "PUT");
    bench_free(&bench);
}

Test(pack, a_name_is_compared_whole)
{
    struct bench bench = bench_new();
    static const char *const names[] = {"ur", "urls", "URL", "", "u", "method\x00"};
    size_t i, size;

    for (i = 0; i < sizeof names / sizeof *names; i++) {
        size = i == 5 ? 7 : strlen(names[i]);
        muster_buf_clear(&bench.buf);
        muster_buf_add(&bench.buf, "\x82\xa3url\xa8http://a", 14);
        muster_buf_add(&bench.buf, &(char){(char)(0xa0 | size)}, 1);
        muster_buf_add(&bench.buf, names[i], size);
        muster_buf_add(&bench.buf, "\x05", 1); /* would be refused by the row of that name */
        cr_expect_eq(unpack_callback(&bench, bench.buf.data, bench.buf.size), MUSTER_OK, "%s", names[i]);
    }
    muster_buf_clear(&bench.buf);
    muster_buf_add(&bench.buf, "\x82\xa3url\xa8http://a\x05\x05", 16);
    cr_expect_eq(unpack_callback(&bench, bench.buf.data, bench.buf.size), MUSTER_OK, "a name that is no text");
    bench_free(&bench);
}

Test(pack, a_choice_is_compared_whole)
{
    struct bench bench = bench_new();
    static const char *const bad[] = {"", "token_bucke", "token_buckets", "Token_bucket", "x"};
    struct limit_take take;
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        muster_buf_clear(&bench.buf);
        muster_buf_str(&bench.buf, "\x81\xa9"
                                   "algorithm");
        muster_buf_add(&bench.buf, &(char){(char)(0xa0 | strlen(bad[i]))}, 1);
        muster_buf_str(&bench.buf, bad[i]);
        cr_expect_eq(muster_unpack(&limit_take_type, bench.buf.data, bench.buf.size, bench.arena, &take, NULL),
                     MUSTER_INVALID_REQUEST, "%s", bad[i]);
    }
    cr_expect_eq(muster_unpack(&limit_take_type,
                               "\x81\xa9"
                               "algorithm\xactoken_bucket",
                               24, bench.arena, &take, NULL),
                 MUSTER_OK);
    cr_expect_eq(take.algorithm, limit_algorithm_TOKEN_BUCKET);
    bench_free(&bench);
}

/* A name that ends early is not taken for the whole, and nothing is read behind it. */
Test(pack, a_choice_with_a_nul_and_more_is_refused)
{
    static const uint32_t sizes[] = {13, 14, 100, 70000, 1 << 24};
    struct bench bench = bench_new();
    struct limit_take take;
    char *text;
    size_t i;

    for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        muster_buf_clear(&bench.buf);
        muster_buf_str(&bench.buf, "\x81\xa9"
                                   "algorithm\xdb");
        muster_buf_add(&bench.buf, &(uint32_t){htobe32(sizes[i])}, 4);
        text = muster_buf_room(&bench.buf, sizes[i]);
        memset(text, '\0', sizes[i]);
        memcpy(text, "token_bucket", 12);
        bench.buf.size += sizes[i];
        cr_expect_eq(muster_unpack(&limit_take_type, bench.buf.data, bench.buf.size, bench.arena, &take, NULL),
                     MUSTER_INVALID_REQUEST, "%u", (unsigned)sizes[i]);
    }
    bench_free(&bench);
}

Test(pack, text_with_nul_or_invalid_utf8_is_refused)
{
    struct bench bench = bench_new();

    cr_assert_eq(unpack_callback(&bench, "\x81\xa3url\xa8http\0//a", 14), MUSTER_INVALID_REQUEST);
    cr_assert_eq(unpack_callback(&bench, "\x81\xa3url\xa8http\xc0\x80/a", 14), MUSTER_INVALID_REQUEST);
    cr_assert_eq(unpack_callback(&bench, "\x81\xa3url\xa8http\xed\xa0\x80x", 14), MUSTER_INVALID_REQUEST);
    cr_assert_eq(unpack_callback(&bench, "\x81\xa3url\xa8http\xe2\x82\xacx", 14), MUSTER_OK);
    bench_free(&bench);
}

Test(pack, huge_announced_lengths_allocate_nothing)
{
    struct bench bench = bench_new();
    const struct rlimit limit = {1 << 28, 1 << 28};
    static const char *const heads[] = {"\xdd\x0f\xff\xff\xff", "\xdf\x0f\xff\xff\xff", "\xdd\xff\xff\xff\xff",
                                        "\xdf\xff\xff\xff\xff", "\xdb\xff\xff\xff\xff", "\xc6\xff\xff\xff\xff",
                                        "\xc9\xff\xff\xff\xff"};
    char bytes[6];
    size_t i;

#if !SANITIZED
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0); /* a parser that believed the head would end the program */
#else
    (void)limit;
#endif
    for (i = 0; i < sizeof heads / sizeof *heads; i++) {
        memcpy(bytes, heads[i], 5);
        bytes[5] = 1;
        cr_assert_eq(unpack_callback(&bench, bytes, sizeof bytes), MUSTER_INVALID_REQUEST);
    }
    bench_free(&bench);
}

/* {"url": "http://a", "x": [[[...1...]]]} with `depth` levels in all. */
static muster_err
unpack_deep(struct bench *bench, size_t depth)
{
    muster_buf_clear(&bench->buf);
    muster_buf_add(&bench->buf, "\x82\xa3url\xa8http://a\xa1x", 16);
    for (; depth > 1; depth--)
        muster_buf_add(&bench->buf, "\x91", 1);
    muster_buf_add(&bench->buf, "\x01", 1);
    return unpack_callback(bench, bench->buf.data, bench->buf.size);
}

Test(pack, nesting_is_limited)
{
    struct bench bench = bench_new();

    cr_assert_eq(unpack_deep(&bench, 32), MUSTER_OK);
    cr_assert_eq(unpack_deep(&bench, 33), MUSTER_INVALID_REQUEST);
    cr_assert_eq(unpack_deep(&bench, 1000000), MUSTER_INVALID_REQUEST);
    bench_free(&bench);
}

Test(pack, bytes_behind_the_value_are_refused)
{
    struct bench bench = bench_new();

    cr_assert_eq(unpack_callback(&bench, "\x81\xa3url\xa8http://a", 14), MUSTER_OK);
    cr_assert_eq(unpack_callback(&bench, "\x81\xa3url\xa8http://a\xc0", 15), MUSTER_INVALID_REQUEST);
    cr_assert_eq(unpack_callback(&bench, "", 0), MUSTER_INVALID_REQUEST);
    cr_assert_eq(unpack_callback(&bench, NULL, 0), MUSTER_INVALID_REQUEST);
    bench_free(&bench);
}

Test(pack, numbers_outside_int64_are_refused)
{
    struct bench bench = bench_new();
    struct usage usage;

    cr_assert_eq(muster_unpack(&usage_type, "\x81\xa5turns\xcf\x80\0\0\0\0\0\0\0", 16, bench.arena, &usage, NULL),
                 MUSTER_INVALID_REQUEST);
    cr_assert_eq(
        muster_unpack(&usage_type, "\x81\xa5turns\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", 16, bench.arena, &usage, NULL),
        MUSTER_OK);
    cr_assert_eq(usage.turns, INT64_MAX);
    cr_assert_eq(muster_unpack(&usage_type, "\x81\xa5turns\xff", 8, bench.arena, &usage, NULL), MUSTER_INVALID_REQUEST);
    cr_assert_eq(muster_unpack(&usage_type,
                               "\x81\xa8"
                               "cost_usd\xcb\x7f\xf8\0\0\0\0\0\0",
                               19, bench.arena, &usage, NULL),
                 MUSTER_INVALID_REQUEST, "NaN");
    bench_free(&bench);
}

static void
check_packed(struct bench *bench, int64_t number, const char *bytes, size_t size)
{
    struct usage usage = {.turns = number};
    const char *at;

    muster_buf_clear(&bench->buf);
    muster_pack(&usage_type, &usage, &bench->buf);
    at = bench->buf.data + bench->buf.size - size;
    cr_assert_eq(memcmp(at, bytes, size), 0, "%lld", (long long)number);
    cr_assert_eq(memcmp(at - 6, "\xa5turns", 6), 0, "%lld", (long long)number);
}

Test(pack, numbers_take_their_shortest_form)
{
    struct bench bench = bench_new();

    check_packed(&bench, 127, "\x7f", 1);
    check_packed(&bench, 128, "\xcc\x80", 2);
    check_packed(&bench, 255, "\xcc\xff", 2);
    check_packed(&bench, 256, "\xcd\x01\x00", 3);
    check_packed(&bench, 65536, "\xce\x00\x01\x00\x00", 5);
    check_packed(&bench, 0x123456789abcdef, "\xcf\x01\x23\x45\x67\x89\xab\xcd\xef", 9);
    check_packed(&bench, -32768, "\xd1\x80\x00", 3);
    check_packed(&bench, INT64_C(-2147483648), "\xd2\x80\x00\x00\x00", 5);
    check_packed(&bench, INT64_C(-2147483649), "\xd3\xff\xff\xff\xff\x7f\xff\xff\xff", 9);
    check_packed(&bench, 65535, "\xcd\xff\xff", 3);
    check_packed(&bench, UINT32_MAX, "\xce\xff\xff\xff\xff", 5);
    check_packed(&bench, INT64_MAX, "\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", 9);
    check_packed(&bench, INT64_C(1) << 32, "\xcf\x00\x00\x00\x01\x00\x00\x00\x00", 9);
    check_packed(&bench, -1, "\xff", 1);
    check_packed(&bench, -32, "\xe0", 1);
    check_packed(&bench, -33, "\xd0\xdf", 2);
    check_packed(&bench, -128, "\xd0\x80", 2);
    check_packed(&bench, -129, "\xd1\xff\x7f", 3);
    check_packed(&bench, -32769, "\xd2\xff\xff\x7f\xff", 5);
    check_packed(&bench, INT64_MIN, "\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9);
    bench_free(&bench);
}

static void
check_text(struct bench *bench, size_t size, const char *head, size_t head_size)
{
    char *text = muster_arena_alloc(bench->arena, size + 1);
    struct failed failed = {.code = memset(text, 'x', size)}, out;

    muster_buf_clear(&bench->buf);
    muster_pack(&failed_type, &failed, &bench->buf);
    cr_assert_eq(memcmp(bench->buf.data + 6, head, head_size), 0, "%zu", size);
    cr_assert_eq(bench->buf.data[6 + head_size], 'x');
    if (muster_unpack(&failed_type, bench->buf.data, bench->buf.size, bench->arena, &out, &bench->fault) == MUSTER_OK)
        cr_assert_eq(strlen(out.code), size);
    else
        cr_assert_str_neq(bench->fault.field, "", "it was read, and is too long for its row");
}

Test(pack, texts_of_any_length_have_the_head_for_it)
{
    struct bench bench = bench_new();

    check_text(&bench, 31, "\xbf", 1);
    check_text(&bench, 32, "\xd9\x20", 2);
    check_text(&bench, 255, "\xd9\xff", 2);
    check_text(&bench, 256, "\xda\x01\x00", 3);
    check_text(&bench, 65535, "\xda\xff\xff", 3);
    check_text(&bench, 65536, "\xdb\x00\x01\x00\x00", 5);
    bench_free(&bench);
}

/* A list, a map and bytes of `count`. */
static void
check_count(struct bench *bench, size_t count, const char *list_head, size_t list_size, const char *map_head,
            size_t map_size, const char *bytes_head, size_t bytes_size)
{
    const char **items = muster_arena_alloc(bench->arena, (count + 1) * sizeof *items);
    struct muster_pair *pairs = muster_arena_alloc(bench->arena, (count + 1) * sizeof *pairs);
    struct key key = {.name = "", .scopes = {items, count}};
    struct job_callback callback = {.headers = {pairs, count}};
    struct limit_take take = {.body = {muster_arena_alloc(bench->arena, count), count}};
    const char *at;
    size_t i;

    for (i = 0; i < count; i++) {
        items[i] = "";
        pairs[i] = (struct muster_pair){"", ""};
    }
    muster_buf_clear(&bench->buf);
    muster_pack(&key_type, &key, &bench->buf);
    at = memmem(bench->buf.data, bench->buf.size, "scopes", 6);
    cr_expect_eq(memcmp(at + 6, list_head, list_size), 0, "%zu", count);
    muster_buf_clear(&bench->buf);
    muster_pack(&job_callback_type, &callback, &bench->buf);
    at = memmem(bench->buf.data, bench->buf.size, "headers", 7);
    cr_expect_eq(memcmp(at + 7, map_head, map_size), 0, "%zu", count);
    cr_expect_eq(bench->buf.size, (size_t)(at - bench->buf.data) + 7 + map_size + 2 * count, "%zu", count);
    cr_expect_eq(bench->buf.data[bench->buf.size], '\0');
    muster_buf_clear(&bench->buf);
    muster_pack(&limit_take_type, &take, &bench->buf);
    at = memmem(bench->buf.data, bench->buf.size, "body", 4);
    cr_expect_eq(memcmp(at + 4, bytes_head, bytes_size), 0, "%zu", count);
}

Test(pack, lists_maps_and_bytes_of_any_size_have_the_head_for_it)
{
    struct bench bench = bench_new();

    check_count(&bench, 15, "\x9f", 1, "\x8f", 1, "\xc4\x0f", 2);
    check_count(&bench, 16, "\xdc\x00\x10", 3, "\xde\x00\x10", 3, "\xc4\x10", 2);
    check_count(&bench, 255, "\xdc\x00\xff", 3, "\xde\x00\xff", 3, "\xc4\xff", 2);
    check_count(&bench, 256, "\xdc\x01\x00", 3, "\xde\x01\x00", 3, "\xc5\x01\x00", 3);
    check_count(&bench, 65535, "\xdc\xff\xff", 3, "\xde\xff\xff", 3, "\xc5\xff\xff", 3);
    check_count(&bench, 65536, "\xdd\x00\x01\x00\x00", 5, "\xdf\x00\x01\x00\x00", 5, "\xc6\x00\x01\x00\x00", 5);
    bench_free(&bench);
}

/* ---- envelopes ---- */

static const struct muster_envelope sample = {
    .id = -7,
    .reply_to = "http/3",
    .deadline_ms = 1700000000000,
    .trace = "req-1",
    .principal =
        {.key = {{1, 2}}, .name = "ci", .rate_limit = 100, .rate_left = 99, .rate_reset_s = 5, .rate_window_s = 60},
};

Test(envelope, comes_back_with_its_body)
{
    struct bench bench = bench_new();
    struct muster_envelope out;
    struct queue_cancel body = {.job = {{9}}}, body_out;

    muster_envelope_pack(&sample, &queue_cancel_type, &body, &bench.buf);
    cr_assert_eq(muster_envelope_unpack(bench.buf.data, bench.buf.size, bench.arena, &out), MUSTER_OK);
    cr_assert_str_eq(out.type, "queue.cancel");
    cr_assert_eq(out.id, -7);
    cr_assert_str_eq(out.reply_to, "http/3");
    cr_assert_eq(out.deadline_ms, 1700000000000);
    cr_assert_str_eq(out.trace, "req-1");
    cr_assert(muster_id_equal(&out.principal.key, &sample.principal.key));
    cr_assert_str_eq(out.principal.name, "ci");
    cr_assert_eq(out.principal.rate_limit, 100);
    cr_assert_eq(out.principal.rate_left, 99);
    cr_assert_eq(out.principal.rate_reset_s, 5);
    cr_assert_eq(out.principal.rate_window_s, 60);
    cr_assert_eq((const char *)out.body.data + out.body.size, bench.buf.data + bench.buf.size,
                 "body points into the frame");
    cr_assert_eq(muster_unpack(&queue_cancel_type, out.body.data, out.body.size, bench.arena, &body_out, NULL),
                 MUSTER_OK);
    cr_assert(muster_id_equal(&body_out.job, &body.job));
    bench_free(&bench);
}

Test(envelope, wrap_gives_the_same_bytes_as_pack)
{
    struct bench bench = bench_new();
    struct muster_buf body = {0}, wrapped = {0};
    struct muster_envelope envelope = sample;
    struct queue_cancel cancel = {.job = {{9}}};

    muster_envelope_pack(&sample, &queue_cancel_type, &cancel, &bench.buf);
    muster_pack(&queue_cancel_type, &cancel, &body);
    envelope.type = "queue.cancel";
    envelope.body = (struct muster_bytes){(uint8_t *)body.data, body.size};
    muster_envelope_wrap(&envelope, &wrapped);
    cr_assert_eq(wrapped.size, bench.buf.size);
    cr_assert_eq(memcmp(wrapped.data, bench.buf.data, wrapped.size), 0);
    muster_buf_free(&body);
    muster_buf_free(&wrapped);
    bench_free(&bench);
}

Test(envelope, empty_texts_may_be_null_and_the_body_may_be_empty)
{
    struct bench bench = bench_new();
    struct muster_envelope empty = {.type = "log.flush"}, out;

    muster_envelope_wrap(&empty, &bench.buf);
    cr_assert_eq(muster_envelope_unpack(bench.buf.data, bench.buf.size, bench.arena, &out), MUSTER_OK);
    cr_assert_str_eq(out.reply_to, "");
    cr_assert_str_eq(out.trace, "");
    cr_assert_str_eq(out.principal.name, "");
    cr_assert_eq(out.body.size, 1);
    bench_free(&bench);
}

Test(envelope, every_cut_and_every_other_version_is_refused)
{
    struct bench bench = bench_new();
    struct muster_envelope out;
    struct queue_cancel cancel = {.job = {{9}}};
    size_t size;

    muster_envelope_pack(&sample, &queue_cancel_type, &cancel, &bench.buf);
    for (size = 0; size < bench.buf.size; size++)
        cr_assert_eq(muster_envelope_unpack(bench.buf.data, size, bench.arena, &out), MUSTER_INVALID_REQUEST);
    bench.buf.data[1] = 2;
    cr_assert_eq(muster_envelope_unpack(bench.buf.data, bench.buf.size, bench.arena, &out), MUSTER_INVALID_REQUEST);
    bench_free(&bench);
}

Test(envelope, a_body_that_is_no_map_is_refused)
{
    struct bench bench = bench_new();
    struct muster_envelope envelope = {.type = "x", .body = {(const uint8_t *)"\x05", 1}}, out;

    muster_envelope_wrap(&envelope, &bench.buf);
    cr_assert_eq(muster_envelope_unpack(bench.buf.data, bench.buf.size, bench.arena, &out), MUSTER_INVALID_REQUEST);
    bench_free(&bench);
}

Test(envelope, to_open_one_is_not_to_look_into_its_body)
{
    struct bench bench = bench_new();
    static const uint8_t cut[] = {0x81, 0xa3, 'j', 'o'};
    struct muster_envelope envelope = {.type = "x", .body = {cut, sizeof cut}}, out;
    struct queue_cancel cancel;

    muster_envelope_wrap(&envelope, &bench.buf);
    cr_assert_eq(muster_envelope_unpack(bench.buf.data, bench.buf.size, bench.arena, &out), MUSTER_INVALID_REQUEST);
    cr_assert_eq(muster_envelope_open(bench.buf.data, bench.buf.size, bench.arena, &out), MUSTER_OK);
    cr_assert_eq(out.body.size, sizeof cut);
    cr_assert_eq(muster_unpack(&queue_cancel_type, out.body.data, out.body.size, bench.arena, &cancel, &bench.fault),
                 MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(bench.fault.message, "must be one msgpack map");
    bench_free(&bench);
}
