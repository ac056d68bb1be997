/* SPDX-License-Identifier: MPL-2.0 */
/* What a key may do: rate, teams, scopes, cursors.  Any thread.  What can fail: a cursor. */
#include "api/caller.h"

#include <string.h>

static const struct {
    enum key_tier tier;
    struct rate_limit rate;
} tiers[] = {
    {key_tier_STANDARD, {100, 60000, limit_algorithm_SLIDING_WINDOW}},
    {key_tier_PREMIUM, {1000, 60000, limit_algorithm_SLIDING_WINDOW}},
    {key_tier_ENTERPRISE, {0, 60000, limit_algorithm_SLIDING_WINDOW}},
};

static struct muster_strs
copy_strs(struct muster_arena *arena, const struct muster_strs *strs)
{
    const char **items = muster_arena_alloc(arena, (strs->count + 1) * sizeof *items);
    size_t i;

    for (i = 0; i < strs->count; i++)
        items[i] = muster_arena_str(arena, strs->items[i], strlen(strs->items[i]));
    return (struct muster_strs){items, strs->count};
}

void
caller_copy_key(struct muster_arena *arena, const struct key *key, struct key *out)
{
    *out = (struct key){.id = key->id,
                        .name = muster_arena_str(arena, key->name, strlen(key->name)),
                        .scopes = copy_strs(arena, &key->scopes),
                        .teams = copy_strs(arena, &key->teams),
                        .created_ms = key->created_ms,
                        .expires_ms = key->expires_ms,
                        .configured = key->configured,
                        .tier = key->tier};
    if (key->speaks_for && key->speaks_for[0])
        out->speaks_for = muster_arena_str(arena, key->speaks_for, strlen(key->speaks_for));
}

struct rate_limit
caller_rate(const struct auth_options *options, const struct key *key)
{
    const struct rate_options *rate = options->rate_limit;
    struct rate_limit limit = {rate->requests, rate->window, rate->algorithm};
    size_t i;

    if (key->rate_limit)
        limit = *key->rate_limit;
    for (i = 0; key->rate_limit == NULL && i < sizeof tiers / sizeof *tiers; i++)
        if (tiers[i].tier == key->tier)
            limit = tiers[i].rate;
    if (limit.algorithm == limit_algorithm_NONE)
        limit.algorithm = limit_algorithm_SLIDING_WINDOW;
    return limit;
}

bool
caller_may_use(const struct key *key, const char *team)
{
    const struct muster_strs *teams = &key->teams;
    size_t i;

    for (i = 0; i < teams->count; i++)
        if (strcmp(teams->items[i], team) == 0)
            return true;
    return teams->count == 0;
}

const char *
caller_from(const struct key *key)
{
    return key->speaks_for && key->speaks_for[0] ? key->speaks_for : key->name;
}

const char *
caller_lacks(struct muster_arena *arena, const struct key *key, const char *scopes)
{
    const char *word, *end, *scope, *missing = NULL;

    for (word = scopes; word && *word; word = *end ? end + 1 : end) {
        end = word + strcspn(word, " ");
        scope = muster_arena_str(arena, word, (size_t)(end - word));
        if (!muster_scope_grants(&key->scopes, scope))
            missing = missing ? muster_arena_printf(arena, "%s, %s", missing, scope) : scope;
    }
    return missing;
}

muster_err
caller_cursor(struct muster_store *store, const char *cursor, int64_t *out_after)
{
    int64_t after;
    muster_err err = muster_cursor_parse(store, cursor, &after);

    if (err == MUSTER_OK && after + 1 < muster_log_oldest(store))
        err = MUSTER_CURSOR_EXPIRED;
    if (err == MUSTER_OK)
        *out_after = after;
    return err;
}
