/* SPDX-License-Identifier: MPL-2.0 */
/* Ids, digests and random bytes, all on libsodium.  Any thread; only parsing can fail. */
#include "schemas/muster_crypto.h"

#include <pthread.h>

#include <sodium.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#define ID_COUNTER_BITS 12
#define ID_BACK_MS 1000 /* a clock that went back further than this starts a new order */

/* A generator in the process, seeded by the kernel: an id costs no system call. */
static void
choose_generator(void)
{
    (void)randombytes_set_implementation(&randombytes_internal_implementation);
}

muster_err
muster_crypto_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT; /* libsodium keeps the choice in a global */

    (void)pthread_once(&once, choose_generator);
    return sodium_init() < 0 ? MUSTER_INTERNAL_ERROR : MUSTER_OK;
}

/* ---- ids ---- */

/* The last id's first 60 bits: 48 of milliseconds, 12 of a counter.  The order of ids is promised for the whole process
 * and ids are made on every thread, so this one number has to be shared by all. */
static _Atomic uint64_t id_last;

/* One more than the last, or the clock if that is later.  A full counter borrows from the next millisecond. */
static uint64_t
id_stamp(int64_t now_ms)
{
    uint64_t ms = now_ms < 0 ? 0 : (uint64_t)now_ms & ((UINT64_C(1) << 48) - 1);
    uint64_t wanted = ms << ID_COUNTER_BITS;
    uint64_t last = atomic_load(&id_last);
    uint64_t stamp;

    do {
        if (wanted > last || wanted + ((uint64_t)ID_BACK_MS << ID_COUNTER_BITS) < last)
            stamp = wanted;
        else
            stamp = last + 1;
    } while (!atomic_compare_exchange_weak(&id_last, &last, stamp));
    return stamp;
}

struct muster_id
muster_id_new(int64_t now_ms)
{
    uint64_t stamp = id_stamp(now_ms);
    uint64_t ms = stamp >> ID_COUNTER_BITS;
    struct muster_id id;
    int i;

    for (i = 0; i < 6; i++)
        id.bytes[i] = (uint8_t)(ms >> (40 - 8 * i));
    id.bytes[6] = (uint8_t)(0x70 | ((stamp >> 8) & 0x0f));
    id.bytes[7] = (uint8_t)stamp;
    randombytes_buf(id.bytes + 8, 8);
    id.bytes[8] = (uint8_t)(0x80 | (id.bytes[8] & 0x3f));
    return id;
}

static bool
is_dash(size_t at)
{
    return at == 8 || at == 13 || at == 18 || at == 23;
}

void
muster_id_text(const struct muster_id *id, char out_text[MUSTER_ID_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    size_t i, to = 0;

    for (i = 0; i < sizeof id->bytes; i++) {
        if (is_dash(to))
            out_text[to++] = '-';
        out_text[to++] = digits[id->bytes[i] >> 4];
        out_text[to++] = digits[id->bytes[i] & 0x0f];
    }
    out_text[to] = '\0';
}

muster_err
muster_id_parse(const char *text, struct muster_id *out_id)
{
    char hex[33];
    size_t from, to = 0;

    if (strnlen(text, MUSTER_ID_TEXT) != MUSTER_ID_TEXT - 1)
        return MUSTER_INVALID_REQUEST;
    for (from = 0; from < MUSTER_ID_TEXT - 1; from++) {
        if (is_dash(from) != (text[from] == '-'))
            return MUSTER_INVALID_REQUEST;
        if (!is_dash(from))
            hex[to++] = text[from];
    }
    hex[to] = '\0';
    return muster_unhex(hex, out_id->bytes, sizeof out_id->bytes);
}

bool
muster_id_equal(const struct muster_id *a, const struct muster_id *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

bool
muster_id_is_zero(const struct muster_id *id)
{
    static const struct muster_id zero;

    return muster_id_equal(id, &zero);
}

int64_t
muster_id_time(const struct muster_id *id)
{
    int64_t ms = 0;
    int i;

    for (i = 0; i < 6; i++)
        ms = ms << 8 | id->bytes[i];
    return ms;
}

/* ---- digests and texts ---- */

void
muster_sha256(const void *data, size_t size, uint8_t out_digest[MUSTER_DIGEST])
{
    (void)crypto_hash_sha256(out_digest, data, size);
}

/* SipHash with 128 bits: who does not know the secret cannot make another text of the same mark. */
void
muster_sha256_known(struct muster_known *known, const void *data, size_t size, uint8_t out_digest[MUSTER_DIGEST])
{
    uint8_t mark[sizeof known->mark];

    if (!known->used)
        randombytes_buf(known->secret, sizeof known->secret);
    (void)crypto_shorthash_siphashx24(mark, data, size, known->secret);
    if (!known->used || sodium_memcmp(mark, known->mark, sizeof mark) != 0) {
        muster_sha256(data, size, known->digest);
        memcpy(known->mark, mark, sizeof mark);
        known->used = true;
    }
    memcpy(out_digest, known->digest, sizeof known->digest);
}

void
muster_hex(const uint8_t *bytes, size_t size, char *out_text)
{
    (void)sodium_bin2hex(out_text, 2 * size + 1, bytes, size);
}

/* The characters are all checked first, so that a bad text changes nothing. */
muster_err
muster_unhex(const char *text, uint8_t *out_bytes, size_t size)
{
    size_t got;

    if (strspn(text, "0123456789abcdefABCDEF") != 2 * size || text[2 * size] != '\0')
        return MUSTER_INVALID_REQUEST;
    if (sodium_hex2bin(out_bytes, size, text, 2 * size, NULL, &got, NULL) != 0 || got != size)
        return MUSTER_INVALID_REQUEST;
    return MUSTER_OK;
}

void
muster_digest_texts(char out_hex[MUSTER_DIGEST_HEX], const char *first, ...)
{
    crypto_hash_sha256_state state;
    uint8_t digest[MUSTER_DIGEST];
    const char *text;
    va_list texts;

    (void)crypto_hash_sha256_init(&state);
    va_start(texts, first);
    for (text = first; text; text = va_arg(texts, const char *))
        (void)crypto_hash_sha256_update(&state, (const unsigned char *)text, strlen(text) + 1); /* with its NUL */
    va_end(texts);
    (void)crypto_hash_sha256_final(&state, digest);
    muster_hex(digest, sizeof digest, out_hex);
}

struct muster_id
muster_id_of(const char *kind, const char *name)
{
    crypto_hash_sha256_state state;
    uint8_t digest[MUSTER_DIGEST];
    struct muster_id id;

    (void)crypto_hash_sha256_init(&state);
    (void)crypto_hash_sha256_update(&state, (const unsigned char *)kind, strlen(kind));
    (void)crypto_hash_sha256_update(&state, (const unsigned char *)":", 1);
    (void)crypto_hash_sha256_update(&state, (const unsigned char *)name, strlen(name));
    (void)crypto_hash_sha256_final(&state, digest);
    memcpy(id.bytes, digest, sizeof id.bytes);
    return id;
}

bool
muster_digest_equal(const uint8_t a[MUSTER_DIGEST], const uint8_t b[MUSTER_DIGEST])
{
    return sodium_memcmp(a, b, MUSTER_DIGEST) == 0;
}

void
muster_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size, uint8_t out_digest[MUSTER_DIGEST])
{
    crypto_auth_hmacsha256_state state;

    (void)crypto_auth_hmacsha256_init(&state, key, key_size);
    (void)crypto_auth_hmacsha256_update(&state, data, size);
    (void)crypto_auth_hmacsha256_final(&state, out_digest);
    sodium_memzero(&state, sizeof state);
}

void
muster_base64(const void *data, size_t size, char *out_text)
{
    (void)sodium_bin2base64(out_text, muster_base64_size(size), data, size, sodium_base64_VARIANT_ORIGINAL);
}

size_t
muster_base64_size(size_t size)
{
    return sodium_base64_encoded_len(size, sodium_base64_VARIANT_ORIGINAL);
}

muster_err
muster_unbase64(const char *text, void *out_data, size_t size, size_t *out_size)
{
    size_t length = strlen(text), got;

    if (length % 4 == 0 && length > 0 && text[length - 1] == '=') /* padding is right or not there */
        length -= text[length - 2] == '=' ? 2 : 1;
    if (sodium_base642bin(out_data, size, text, length, NULL, &got, NULL, sodium_base64_VARIANT_ORIGINAL_NO_PADDING))
        return MUSTER_INVALID_REQUEST;
    *out_size = got;
    return MUSTER_OK;
}

/* ---- secrets of webhooks ---- */

static const char whsec[] = "whsec_";

muster_err
muster_whsec_parse(const char *text, uint8_t out_bytes[MUSTER_WHSEC_BYTES], size_t *out_size)
{
    size_t size;

    if (strncmp(text, whsec, sizeof whsec - 1) != 0 ||
        muster_unbase64(text + sizeof whsec - 1, out_bytes, MUSTER_WHSEC_BYTES, &size) || size < 24)
        return MUSTER_INVALID_REQUEST;
    *out_size = size;
    return MUSTER_OK;
}

void
muster_whsec_text(const uint8_t *bytes, size_t size, char out_text[MUSTER_WHSEC_TEXT])
{
    memcpy(out_text, whsec, sizeof whsec);
    muster_base64(bytes, size, out_text + sizeof whsec - 1);
}

/* ---- random bytes ---- */

void
muster_random(void *out_data, size_t size)
{
    randombytes_buf(out_data, size);
}

uint32_t
muster_random_below(uint32_t bound)
{
    return randombytes_uniform(bound);
}

void
muster_key_new(char out_key[MUSTER_KEY_TEXT])
{
    static const char prefix[] = "muster_sk_";
    uint8_t secret[32];

    randombytes_buf(secret, sizeof secret);
    memcpy(out_key, prefix, sizeof prefix - 1);
    (void)sodium_bin2base64(out_key + sizeof prefix - 1, MUSTER_KEY_TEXT - (sizeof prefix - 1), secret, sizeof secret,
                            sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    sodium_memzero(secret, sizeof secret);
}
