/* SPDX-License-Identifier: MPL-2.0 */
/* The table of all keys: made by the auth actor, immutable, read by any thread.  Nothing here fails. */
#ifndef ACTORS_KEYS_H
#define ACTORS_KEYS_H

#include "actors/muster_snapshots.h"

/* Copies of all these keys, oldest first. */
struct muster_keys *keys_new(const struct key *keys, size_t count);
/* Copies of all keys of `old`, with `key` in place of the one with its id, or as a further one. */
struct muster_keys *keys_with(const struct muster_keys *old, const struct key *key);
struct muster_keys *keys_copy(const struct muster_keys *keys);
/* Copy one key; its texts go to the arena. */
void keys_copy_key(struct muster_arena *arena, const struct key *in, struct key *out);
/* A struct muster_keys, or NULL; typed for the board. */
void keys_free(void *keys);

const struct key *keys_by_id(const struct muster_keys *keys, const struct muster_id *id);
/* Not revoked and not expired. */
bool keys_is_live(const struct key *key, int64_t now_ms);

#endif
