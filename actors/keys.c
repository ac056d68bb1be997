/* SPDX-License-Identifier: MPL-2.0 */
/* keys: a hash table by digest, built once.  Any thread may read; nothing fails but the check itself.
 *
 * A key has two entries: an even one for its digest, and an odd one, which may be unused, for the digest it had before
 * it was rotated.
 * A bucket is chosen by the digest and a random salt, and every key in it is compared as a whole in constant time.  So
 * neither the way to a key nor the comparison tells how much of a digest was right. */
#include "actors/keys.h"

#include <stdlib.h>
#include <string.h>

struct muster_keys {
    struct muster_arena *arena; /* texts of the keys */
    struct key *keys;           /* oldest first */
    size_t count;
    uint32_t *buckets; /* number of its first entry, from 1; 0: empty */
    uint32_t *next;    /* likewise the next in the bucket, by index of an entry */
    size_t mask;       /* number of buckets less one */
    uint64_t salt;
};

/* ---- making ---------------------------------------------------------------------------------------------------------
 */

void
keys_copy_key(struct muster_arena *arena, const struct key *in, struct key *out)
{
    struct muster_buf packed = {0};
    muster_err err;

    muster_pack(&key_type, in, &packed);
    err = muster_unpack(&key_type, packed.data, packed.size, arena, out, NULL);
    MUSTER_ASSERT(err == MUSTER_OK); /* it comes from the store or fits the rows of the configuration */
    muster_buf_free(&packed);
}

static int
compare_age(const void *a, const void *b)
{
    const struct key *left = a, *right = b;

    if (left->created_ms != right->created_ms)
        return left->created_ms < right->created_ms ? -1 : 1;
    return memcmp(left->id.bytes, right->id.bytes, sizeof left->id.bytes);
}

static size_t
bucket_of(const struct muster_keys *keys, const uint8_t *digest)
{
    uint64_t number;

    memcpy(&number, digest, sizeof number);
    return (size_t)(((number ^ keys->salt) * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & keys->mask;
}

static const struct key *
key_at(const struct muster_keys *keys, uint32_t entry)
{
    return &keys->keys[entry / 2];
}

static bool
is_old(uint32_t entry)
{
    return entry % 2 == 1;
}

/* The digest of an entry; NULL: it is unused. */
static const uint8_t *
digest_at(const struct muster_keys *keys, uint32_t entry)
{
    const struct muster_bytes *bytes = is_old(entry) ? &key_at(keys, entry)->old_digest : &key_at(keys, entry)->digest;

    return bytes->size == MUSTER_DIGEST ? bytes->data : NULL;
}

static void
index_keys(struct muster_keys *keys)
{
    size_t buckets = 16, at;
    uint32_t entry;

    while (buckets < 4 * keys->count)
        buckets *= 2;
    keys->mask = buckets - 1;
    keys->buckets = muster_alloc(buckets * sizeof *keys->buckets);
    keys->next = muster_alloc(2 * keys->count * sizeof *keys->next);
    muster_random(&keys->salt, sizeof keys->salt);
    for (entry = 0; entry < 2 * keys->count; entry++) {
        if (digest_at(keys, entry) == NULL)
            continue;
        at = bucket_of(keys, digest_at(keys, entry));
        keys->next[entry] = keys->buckets[at];
        keys->buckets[at] = entry + 1;
    }
}

struct muster_keys *
keys_new(const struct key *keys, size_t count)
{
    struct muster_keys *self = muster_alloc(sizeof *self);
    size_t i;

    self->arena = muster_arena_new();
    self->keys = muster_alloc(count * sizeof *self->keys);
    self->count = count;
    for (i = 0; i < count; i++)
        keys_copy_key(self->arena, &keys[i], &self->keys[i]);
    if (count > 1)
        qsort(self->keys, count, sizeof *self->keys, compare_age);
    index_keys(self);
    return self;
}

struct muster_keys *
keys_with(const struct muster_keys *old, const struct key *key)
{
    struct key *list = muster_alloc((old->count + 1) * sizeof *list);
    struct muster_keys *keys;
    size_t i, count = old->count;

    for (i = 0; i < count; i++)
        list[i] = old->keys[i];
    for (i = 0; i < count && !muster_id_equal(&list[i].id, &key->id); i++)
        ;
    list[i] = *key;
    keys = keys_new(list, i == count ? count + 1 : count);
    free(list);
    return keys;
}

struct muster_keys *
keys_copy(const struct muster_keys *keys)
{
    return keys_new(keys->keys, keys->count);
}

void
keys_free(void *keys)
{
    struct muster_keys *self = keys;

    if (self == NULL)
        return;
    muster_arena_free(&self->arena);
    free(self->keys);
    free(self->buckets);
    free(self->next);
    free(self);
}

/* ---- reading --------------------------------------------------------------------------------------------------------
 */

static bool
is_expired(const struct key *key, int64_t now_ms)
{
    return key->expires_ms != 0 && now_ms >= key->expires_ms;
}

bool
keys_is_live(const struct key *key, int64_t now_ms)
{
    return key->revoked_ms == 0 && !is_expired(key, now_ms);
}

/* Why the key of that entry cannot be used; NULL: it can. */
static const char *
fault_of(const struct muster_keys *keys, uint32_t entry, int64_t now_ms)
{
    const struct key *key = key_at(keys, entry);

    if (key->revoked_ms)
        return "API key revoked";
    if (is_expired(key, now_ms))
        return "API key expired";
    return is_old(entry) && now_ms >= key->old_until_ms ? "API key rotated" : NULL;
}

muster_err
muster_keys_check_digest(const struct muster_keys *keys, const uint8_t digest[MUSTER_DIGEST], int64_t now_ms,
                         const struct key **out_key, const char **out_reason)
{
    const struct key *found = NULL;
    const char *reason = "Invalid API key", *fault;
    uint32_t at;

    for (at = keys->buckets[bucket_of(keys, digest)]; at != 0; at = keys->next[at - 1]) {
        if (!muster_digest_equal(digest_at(keys, at - 1), digest))
            continue;
        fault = fault_of(keys, at - 1, now_ms);
        if (fault)
            reason = fault;
        else
            found = key_at(keys, at - 1); /* the same secret may have been revoked once and be configured now */
    }
    if (found == NULL) {
        *out_reason = reason;
        return MUSTER_UNAUTHORIZED;
    }
    *out_key = found;
    return MUSTER_OK;
}

muster_err
muster_keys_check(const struct muster_keys *keys, const char *secret, int64_t now_ms, const struct key **out_key,
                  const char **out_reason)
{
    uint8_t digest[MUSTER_DIGEST];

    muster_sha256(secret, strlen(secret), digest);
    return muster_keys_check_digest(keys, digest, now_ms, out_key, out_reason);
}

/* Few keys have one, and whoever asks has shown that it is theirs: there is no secret in the time it takes. */
muster_err
muster_keys_check_curve(const struct muster_keys *keys, const uint8_t curve[32], int64_t now_ms,
                        const struct key **out_key, const char **out_reason)
{
    const char *reason = "Invalid CURVE key";
    size_t i;

    for (i = 0; i < keys->count; i++) {
        const struct key *key = &keys->keys[i];

        if (key->curve.size != 32 || memcmp(key->curve.data, curve, 32) != 0)
            continue;
        if (keys_is_live(key, now_ms)) {
            *out_key = key;
            return MUSTER_OK;
        }
        reason = key->revoked_ms ? "API key revoked" : "API key expired";
    }
    *out_reason = reason;
    return MUSTER_UNAUTHORIZED;
}

size_t
muster_keys_count(const struct muster_keys *keys)
{
    return keys->count;
}

const struct key *
muster_keys_at(const struct muster_keys *keys, size_t index)
{
    return index < keys->count ? &keys->keys[index] : NULL;
}

const struct key *
keys_by_id(const struct muster_keys *keys, const struct muster_id *id)
{
    size_t i;

    for (i = 0; i < keys->count; i++)
        if (muster_id_equal(&keys->keys[i].id, id))
            return &keys->keys[i];
    return NULL;
}
