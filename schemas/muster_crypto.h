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
/* The same, for a text that comes again and again, such as a key: the digest of the last one is remembered.  What is
 * kept of the text itself is a keyed hash.  Zeroed at first; one thread at a time. */
struct muster_known {
    bool used;
    uint8_t secret[16]; /* random: the key of `mark` */
    uint8_t mark[16];   /* of the last text */
    uint8_t digest[MUSTER_DIGEST];
};
void muster_sha256_known(struct muster_known *known, const void *data, size_t size, uint8_t out_digest[MUSTER_DIGEST]);
void muster_hex(const uint8_t *bytes, size_t size, char *out_text); /* 2 * size + 1 characters */
muster_err muster_unhex(const char *text, uint8_t *out_bytes, size_t size);
/* Hexadecimal SHA-256 of several texts, up to a NULL; texts that are divided otherwise have another digest. */
void muster_digest_texts(char out_hex[MUSTER_DIGEST_HEX], const char *first, ...) __attribute__((sentinel));
/* Always the same id for the same name among things of one kind: the beginning of the SHA-256 of "kind:name". */
struct muster_id muster_id_of(const char *kind, const char *name);
/* Constant time. */
bool muster_digest_equal(const uint8_t a[MUSTER_DIGEST], const uint8_t b[MUSTER_DIGEST]);
void muster_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size,
                        uint8_t out_digest[MUSTER_DIGEST]);
/* Standard base64 with padding; out_text needs muster_base64_size(size). */
void muster_base64(const void *data, size_t size, char *out_text);
size_t muster_base64_size(size_t size);
/* Standard base64, padding optional.  `out_data` has room for `size` bytes.  MUSTER_INVALID_REQUEST: something else, or
 * more than that. */
muster_err muster_unbase64(const char *text, void *out_data, size_t size, size_t *out_size);

/* A secret of Standard Webhooks 1.0.0: "whsec_" and the base64 of 24 to 64 bytes.  MUSTER_INVALID_REQUEST. */
#define MUSTER_WHSEC_BYTES 64
#define MUSTER_WHSEC_TEXT 96
muster_err muster_whsec_parse(const char *text, uint8_t out_bytes[MUSTER_WHSEC_BYTES], size_t *out_size);
void muster_whsec_text(const uint8_t *bytes, size_t size, char out_text[MUSTER_WHSEC_TEXT]);

void muster_random(void *out_data, size_t size);
/* Uniform in [0, bound). */
uint32_t muster_random_below(uint32_t bound);
/* A new API key: "muster_sk_" and 256 random bits, URL-safe base64. */
#define MUSTER_KEY_TEXT 64
void muster_key_new(char out_key[MUSTER_KEY_TEXT]);

#endif
