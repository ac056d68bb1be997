/* SPDX-License-Identifier: MPL-2.0 */
/* Ids, digests and random bytes, all on libsodium.  Any thread; muster_crypto_init first. */
#ifndef MUSTER_CRYPTO_H
#define MUSTER_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schemas/muster_err.h"

/* UUIDv7 (RFC 9562, section 5.7): 48 bits unix ms, then random.  Sorts by time as bytes. */
struct muster_id {
    uint8_t bytes[16];
};

#define MUSTER_ID_TEXT 37    /* 36 characters and the NUL */
#define MUSTER_DIGEST 32     /* SHA-256 */
#define MUSTER_DIGEST_HEX 65 /* 64 characters and the NUL */

/* Must succeed once before anything else here.  May be called again. */
muster_err muster_crypto_init(void);

/* A new id; ids made by one process never repeat and ids of the same millisecond keep the order of the calls. */
struct muster_id muster_id_new(int64_t now_ms);
/* Lower-case canonical text. */
void muster_id_text(const struct muster_id *id, char out_text[MUSTER_ID_TEXT]);
/* Canonical text, either case, exactly 36 characters. */
muster_err muster_id_parse(const char *text, struct muster_id *out_id);
bool muster_id_equal(const struct muster_id *a, const struct muster_id *b);
bool muster_id_is_zero(const struct muster_id *id);
/* The unix ms inside. */
int64_t muster_id_time(const struct muster_id *id);

void muster_sha256(const void *data, size_t size, uint8_t out_digest[MUSTER_DIGEST]);
void muster_hex(const uint8_t *bytes, size_t size, char *out_text); /* 2 * size + 1 characters */
muster_err muster_unhex(const char *text, uint8_t *out_bytes, size_t size);
/* Constant time. */
bool muster_digest_equal(const uint8_t a[MUSTER_DIGEST], const uint8_t b[MUSTER_DIGEST]);
void muster_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size,
                        uint8_t out_digest[MUSTER_DIGEST]);
/* Standard base64 with padding; out_text needs muster_base64_size(size). */
void muster_base64(const void *data, size_t size, char *out_text);
size_t muster_base64_size(size_t size);

void muster_random(void *out_data, size_t size);
/* Uniform in [0, bound). */
uint32_t muster_random_below(uint32_t bound);
/* A new API key: "muster_sk_" and 256 random bits, URL-safe base64. */
#define MUSTER_KEY_TEXT 64
void muster_key_new(char out_key[MUSTER_KEY_TEXT]);

#endif
