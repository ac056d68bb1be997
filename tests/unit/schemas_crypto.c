/* SPDX-License-Identifier: MPL-2.0 */
/* Ids, digests, random values, and the buffer and arena below everything. */
#include <criterion/criterion.h>
#include <pthread.h>

#include "schemas/muster_buf.h"
#include "schemas/muster_crypto.h"

#define THREADS 4
#define IDS 20000

Test(id, is_a_uuid_of_version_7_with_its_time)
{
    struct muster_id id;
    char text[MUSTER_ID_TEXT];

    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    id = muster_id_new(0x018bcfe56800);
    muster_id_text(&id, text);
    cr_assert_eq(strlen(text), 36u);
    cr_assert_eq(strncmp(text, "018bcfe5-6800-7", 15), 0, "%s", text);
    cr_assert_not_null(strchr("89ab", text[19]));
    cr_assert_eq(muster_id_time(&id), 0x018bcfe56800);
    cr_assert_not(muster_id_is_zero(&id));
}

Test(id, ids_of_one_millisecond_keep_the_order_of_calls)
{
    struct muster_id last = muster_id_new(1700000000000), next;
    int i;

    for (i = 0; i < 10000; i++) {
        next = muster_id_new(1700000000000);
        cr_assert_lt(memcmp(&last, &next, sizeof last), 0);
        last = next;
    }
}

Test(id, a_clock_set_far_back_is_believed)
{
    struct muster_id id = muster_id_new(1700000000000);

    id = muster_id_new(1600000000000);
    cr_assert_eq(muster_id_time(&id), 1600000000000);
    id = muster_id_new(-5);
    cr_assert_eq(muster_id_time(&id), 0);
}

static void *
make_ids(void *out)
{
    struct muster_id *ids = out;
    int i;

    for (i = 0; i < IDS; i++)
        ids[i] = muster_id_new(1700000000000);
    return NULL;
}

static int
compare_stamps(const void *a, const void *b)
{
    return memcmp(a, b, 8);
}

Test(id, threads_never_share_a_stamp_and_each_keeps_its_order)
{
    struct muster_id *ids = muster_alloc(THREADS * IDS * sizeof *ids);
    pthread_t threads[THREADS];
    int i;

    for (i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, make_ids, ids + i * IDS), 0);
    for (i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    for (i = 1; i < THREADS * IDS; i++)
        cr_assert(i % IDS == 0 || memcmp(&ids[i - 1], &ids[i], 8) < 0);
    qsort(ids, THREADS * IDS, sizeof *ids, compare_stamps);
    for (i = 1; i < THREADS * IDS; i++)
        cr_assert(memcmp(&ids[i - 1], &ids[i], 8) < 0);
    free(ids);
}

Test(id, text_comes_back_and_other_text_is_refused)
{
    static const char *const bad[] = {"",
                                      "x",
                                      "018bcfe5-6800-7000-aa3a-a9640562b6e",
                                      "018bcfe5-6800-7000-aa3a-a9640562b6e55",
                                      "018bcfe5x6800-7000-aa3a-a9640562b6e5",
                                      "018bcfe5-6800-7000-aa3a-a9640562b6eg",
                                      "018bcfe56800-7000-aa3a-a9640562b6e5-",
                                      "018bcfe5-6800-7000-aa3a--9640562b6e5"};
    struct muster_id id = {{0}}, upper;
    char text[MUSTER_ID_TEXT];
    size_t i;

    cr_assert_eq(muster_id_parse("018bcfe5-6800-7000-aa3a-a9640562b6e5", &id), MUSTER_OK);
    muster_id_text(&id, text);
    cr_assert_str_eq(text, "018bcfe5-6800-7000-aa3a-a9640562b6e5");
    cr_assert_eq(muster_id_parse("018BCFE5-6800-7000-AA3A-A9640562B6E5", &upper), MUSTER_OK);
    cr_assert(muster_id_equal(&id, &upper));
    for (i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(muster_id_parse(bad[i], &upper), MUSTER_INVALID_REQUEST, "%s", bad[i]);
    cr_assert(muster_id_equal(&id, &upper), "a bad text changes nothing");
}

/* FIPS 180-2 and RFC 4231 */
Test(digest, known_answers)
{
    uint8_t digest[MUSTER_DIGEST], other[MUSTER_DIGEST];
    char text[MUSTER_DIGEST_HEX];

    muster_sha256("abc", 3, digest);
    muster_hex(digest, sizeof digest, text);
    cr_assert_str_eq(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    muster_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, other);
    muster_hex(other, sizeof other, text);
    cr_assert_str_eq(text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    cr_assert_not(muster_digest_equal(digest, other));
    cr_assert_eq(muster_unhex(text, digest, sizeof digest), MUSTER_OK);
    cr_assert(muster_digest_equal(digest, other));
}

Test(digest, that_of_a_known_text_is_its_sha256)
{
    static const char *const texts[] = {"abc", "abc", "abd", "", "", "abc", "abcd", "abc"};
    uint8_t digest[MUSTER_DIGEST], expected[MUSTER_DIGEST];
    struct muster_known known = {0}, other = {0};
    size_t i;

    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        muster_sha256(texts[i], strlen(texts[i]), expected);
        muster_sha256_known(&known, texts[i], strlen(texts[i]), digest);
        cr_expect(muster_digest_equal(digest, expected), "%zu", i);
    }
    muster_sha256_known(&other, "abc", 3, digest);
    cr_expect_neq(memcmp(known.mark, other.mark, sizeof known.mark), 0, "each has its own secret");
    cr_expect_null(memmem(&known, sizeof known, "abc", 3), "the text itself is not kept");
}

Test(digest, a_known_text_is_not_hashed_again)
{
    uint8_t digest[MUSTER_DIGEST];
    struct muster_known known = {0};

    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    muster_sha256_known(&known, "abc", 3, digest);
    known.digest[0] ^= 1;
    muster_sha256_known(&known, "abc", 3, digest);
    cr_expect_eq(memcmp(digest, known.digest, sizeof digest), 0);
    known.mark[15] ^= 1;
    muster_sha256_known(&known, "abc", 3, digest);
    cr_expect_eq(digest[0], 0xba);
}

Test(digest, bad_hex_changes_nothing)
{
    uint8_t bytes[2] = {7, 8};

    cr_assert_eq(muster_unhex("123", bytes, 2), MUSTER_INVALID_REQUEST);
    cr_assert_eq(muster_unhex("12345", bytes, 2), MUSTER_INVALID_REQUEST);
    cr_assert_eq(muster_unhex("12g4", bytes, 2), MUSTER_INVALID_REQUEST);
    cr_assert_eq(muster_unhex("12 4", bytes, 2), MUSTER_INVALID_REQUEST);
    cr_assert_eq(bytes[0], 7);
    cr_assert_eq(muster_unhex("12fF", bytes, 2), MUSTER_OK);
    cr_assert_eq(bytes[1], 0xff);
}

Test(digest, base64_is_padded)
{
    char text[16];

    cr_assert_eq(muster_base64_size(4), 9u);
    muster_base64("\xff\xee\xdd\xcc", 4, text);
    cr_assert_str_eq(text, "/+7dzA==");
    muster_base64("", 0, text);
    cr_assert_str_eq(text, "");
}

Test(digest, base64_comes_back_with_and_without_padding)
{
    static const char *const bad[] = {"/+7dzA=",  "/+7dzA===", "/+7dzA====", "/+7d=A==", "/+7dzB==", "/+7 dzA==",
                                      "_-7dzA==", "=",         "====",       "A",        "/+7dzA==x"};
    uint8_t data[4];
    size_t size = 77, i;

    cr_assert_eq(muster_unbase64("/+7dzA==", data, sizeof data, &size), MUSTER_OK);
    cr_assert_eq(size, 4u);
    cr_assert_eq(memcmp(data, "\xff\xee\xdd\xcc", 4), 0);
    cr_assert_eq(muster_unbase64("/+7dzA", data, sizeof data, &size), MUSTER_OK);
    cr_assert_eq(size, 4u);
    cr_assert_eq(muster_unbase64("/+7d", data, sizeof data, &size), MUSTER_OK);
    cr_assert_eq(size, 3u);
    cr_assert_eq(muster_unbase64("", data, sizeof data, &size), MUSTER_OK);
    cr_assert_eq(size, 0u);
    for (i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(muster_unbase64(bad[i], data, sizeof data, &size), MUSTER_INVALID_REQUEST, "%s", bad[i]);
    cr_assert_eq(muster_unbase64("/+7dzMw=", data, sizeof data, &size), MUSTER_INVALID_REQUEST,
                 "more than there is room");
}

Test(whsec, secret_of_any_allowed_size_comes_back)
{
    uint8_t secret[MUSTER_WHSEC_BYTES], back[MUSTER_WHSEC_BYTES];
    char text[MUSTER_WHSEC_TEXT];
    size_t size, got;

    muster_random(secret, sizeof secret);
    for (size = 24; size <= MUSTER_WHSEC_BYTES; size++) {
        muster_whsec_text(secret, size, text);
        cr_assert_eq(strncmp(text, "whsec_", 6), 0);
        cr_assert_lt(strlen(text), sizeof text);
        cr_assert_eq(muster_whsec_parse(text, back, &got), MUSTER_OK);
        cr_assert_eq(got, size);
        cr_assert_eq(memcmp(back, secret, size), 0);
    }
}

Test(whsec, other_text_is_refused)
{
    static const char *const bad[] = {"",
                                      "whsec_",
                                      "whsec_c2hvcnQ=",
                                      "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                                      "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                                      "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!",
                                      "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS"};
    uint8_t secret[MUSTER_WHSEC_BYTES], large[MUSTER_WHSEC_BYTES + 1] = {0};
    char text[MUSTER_WHSEC_TEXT + 8] = "whsec_";
    size_t size = 77, i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(muster_whsec_parse(bad[i], secret, &size), MUSTER_INVALID_REQUEST, "%s", bad[i]);
    muster_base64(large, sizeof large, text + 6);
    cr_assert_eq(muster_whsec_parse(text, secret, &size), MUSTER_INVALID_REQUEST, "one byte too many");
    cr_assert_eq(size, 77u);
}

Test(random, keys_differ_and_are_of_the_announced_form)
{
    char a[MUSTER_KEY_TEXT], b[MUSTER_KEY_TEXT];
    int i;

    muster_key_new(a);
    muster_key_new(b);
    cr_assert_eq(strlen(a), 53u);
    cr_assert_eq(strncmp(a, "muster_sk_", 10), 0);
    cr_assert_eq(strspn(a + 10, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), 43u);
    cr_assert_str_neq(a, b);
    for (i = 0; i < 1000; i++)
        cr_assert_lt(muster_random_below(7), 7u);
}

/* ---- buffer and arena ---- */

Test(buf, grows_shifts_and_is_taken)
{
    struct muster_buf buf = {0};
    size_t size;
    char *data;
    int i;

    for (i = 0; i < 1000; i++)
        muster_buf_printf(&buf, "%03d", i);
    cr_assert_eq(buf.size, 3000u);
    muster_buf_shift(&buf, 2997);
    cr_assert_str_eq(buf.data, "999");
    muster_buf_add(&buf, "a\0b", 3);
    memcpy(muster_buf_room(&buf, 2), "xy", 2);
    buf.size += 2;
    data = muster_buf_take(&buf, &size);
    cr_assert_eq(size, 8u);
    cr_assert_eq(memcmp(data, "999a\0bxy", 8), 0);
    cr_assert_null(buf.data);
    free(data);
}

Test(buf, an_empty_one_is_taken_as_empty_text)
{
    struct muster_buf buf = {0};
    char *data = muster_buf_take(&buf, NULL);

    cr_assert_str_eq(data, "");
    free(data);
    muster_buf_clear(&buf);
    muster_buf_shift(&buf, 0);
    muster_buf_free(&buf);
}

Test(alloc, gives_zeroed_memory_of_any_size)
{
    static const size_t sizes[] = {0, 1, 24, 999, 1000, 1001, 100000};
    size_t i, at, round;
    char *memory;

    for (round = 0; round < 3; round++)
        for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            memory = muster_alloc(sizes[i]);
            for (at = 0; at < sizes[i]; at++)
                cr_assert_eq(memory[at], 0);
            memset(memory, 0xff, sizes[i]);
            free(memory);
        }
}

Test(arena, gives_zeroed_aligned_memory_of_any_size)
{
    struct muster_arena *arena = muster_arena_new();
    static const size_t sizes[] = {0, 1, 7, 8, 100, 8191, 8192, 100000};
    size_t i, round, at;
    char *memory;

    for (round = 0; round < 20; round++) {
        for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            memory = muster_arena_alloc(arena, sizes[i]);
            cr_assert_eq((uintptr_t)memory % _Alignof(int64_t), 0u);
            for (at = 0; at < sizes[i]; at++)
                cr_assert_eq(memory[at], 0);
            memset(memory, 0xff, sizes[i]);
        }
        muster_arena_clear(arena);
    }
    cr_assert_str_eq(muster_arena_str(arena, "abcdef", 3), "abc");
    cr_assert_str_eq(muster_arena_printf(arena, "%s-%d", "x", 5), "x-5");
    cr_assert_str_eq(muster_arena_join(arena, "ab", "c"), "abc");
    cr_assert_str_eq(muster_arena_join(arena, "", ""), "");
    muster_arena_free(&arena);
    cr_assert_null(arena);
    muster_arena_free(&arena);
}
