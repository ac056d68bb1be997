/* SPDX-License-Identifier: MPL-2.0 */
/* keys: a hash table by digest, built once.  Any thread may read; nothing fails but the check itself.
 *
 * A bucket is chosen by the digest and a random salt, and every key in it is compared as a whole in constant time.  So
 * neither the way to a key nor the comparison tells how much of a digest was right. */
#include "actors/keys.h"

#include <stdlib.h>
#include <string.h>

struct muster_keys {
    struct muster_arena *arena; /* texts of the keys */
    struct key *keys;           /* oldest first */
    size_t count;
    uint32_t *buckets; /* number of its first key, from 1; 0: empty */
    uint32_t *next;    /* likewise the next in the bucket, by index of a key */
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

static void
index_keys(struct muster_keys *keys)
{
    size_t buckets = 16, i, at;

    while (buckets < 2 * keys->count)
        buckets *= 2;
    keys->mask = buckets - 1;
    keys->buckets = muster_alloc(buckets * sizeof *keys->buckets);
    keys->next = muster_alloc(keys->count * sizeof *keys->next);
    muster_random(&keys->salt, sizeof keys->salt);
    for (i = 0; i < keys->count; i++) {
        at = bucket_of(keys, keys->keys[i].digest.data);
        keys->next[i] = keys->buckets[at];
        keys->buckets[at] = (uint32_t)(i + 1);
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

muster_err
muster_keys_check(const struct muster_keys *keys, const char *secret, int64_t now_ms, const struct key **out_key,
                  const char **out_reason)
{
    const struct key *found = NULL, *key;
    uint8_t digest[MUSTER_DIGEST];
    uint32_t at;

    muster_sha256(secret, strlen(secret), digest);
    for (at = keys->buckets[bucket_of(keys, digest)]; at != 0; at = keys->next[at - 1]) {
        key = &keys->keys[at - 1];
        if (muster_digest_equal(key->digest.data, digest) && (found == NULL || keys_is_live(key, now_ms)))
            found = key; /* the same secret may have been revoked once and be in the configuration now */
    }
    if (found && keys_is_live(found, now_ms)) {
        *out_key = found;
        return MUSTER_OK;
    }
    if (found == NULL)
        *out_reason = "Invalid API key";
    else
        *out_reason = found->revoked_ms ? "API key revoked" : "API key expired";
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
