/* SPDX-License-Identifier: MPL-2.0 */
/* What a key may do, for all ways in.  Any thread; nothing here waits. */
#ifndef CALLER_H
#define CALLER_H

#include "actors/muster_snapshots.h"

/* A copy without its digests; texts go to the arena. */
void caller_copy_key(struct muster_arena *arena, const struct key *key, struct key *out);
/* Its own rate, else that of its tier, else the default. */
struct rate_limit caller_rate(const struct auth_options *options, const struct key *key);
bool caller_may_use(const struct key *key, const char *team);
/* What stands as `from` of its messages: the team it speaks for, else its name. */
const char *caller_from(const struct key *key);
/* Which of these scopes, separated by spaces (NULL: none), it lacks: in the arena, separated by ", "; NULL: none. */
const char *caller_lacks(struct muster_arena *arena, const struct key *key, const char *scopes);
/* The number behind which a reader with this cursor goes on.  MUSTER_INVALID_REQUEST: not a cursor;
 * MUSTER_CURSOR_EXPIRED: events behind it are no longer kept. */
muster_err caller_cursor(struct muster_store *store, const char *cursor, int64_t *out_after);

#endif
