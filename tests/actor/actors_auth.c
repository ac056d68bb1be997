/* SPDX-License-Identifier: MPL-2.0 */
/* Keys: made, checked, rotated, revoked, configured; with a store that works, fails or comes late. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "actors/keys.h"
#include "tests/actor/fake/fake_ctx.h"

#define TEAMS "teams: {backend: {driver: echo}, frontend: {driver: echo}}\n"
#define CONFIGURED                                                                                                     \
    TEAMS "auth:\n"                                                                                                    \
          "  keys:\n"                                                                                                  \
          "    - {name: ci, key: secret-of-ci-0123456789, scopes: [teams:read], teams: [backend], "                    \
          "rate_limit: {requests: 7, window: 2m}}\n"                                                                   \
          "    - {name: dash, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}\n"

static const char *const read_scope[] = {"teams:read"};

static struct muster_ctx *
start(const char *yaml)
{
    struct muster_ctx *ctx = fake_new(yaml);

    cr_assert_eq(fake_start(ctx, &muster_auth_class, MUSTER_AUTH, NULL), MUSTER_OK);
    return ctx;
}

static const struct muster_keys *
board(const struct muster_ctx *ctx)
{
    return fake_board(ctx, MUSTER_KEYS_BOARD);
}

static struct auth_create
create_of(const char *name)
{
    return (struct auth_create){.name = name, .scopes = {read_scope, 1}};
}

static muster_err
call(struct muster_ctx *ctx, const char *reply_to, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.id = 11, .reply_to = reply_to, .trace = "req-1", .principal = {.name = "root"}};

    return fake_deliver(ctx, &envelope, type, body);
}

/* Make a key and return what its maker was told. */
static const struct auth_created *
create(struct muster_ctx *ctx, const struct auth_create *in)
{
    const struct fake_sent *sent;

    cr_assert_eq(call(ctx, "caller/1", &auth_create_type, in), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    sent = fake_take_to(ctx, "caller/1");
    cr_assert(sent && sent->type == &auth_created_type);
    cr_assert_eq(sent->envelope.id, 11);
    cr_assert_str_eq(sent->envelope.trace, "req-1");
    return sent->body;
}

static void
refused(struct muster_ctx *ctx, const struct muster_type *type, const void *body, muster_err expected,
        const char *message)
{
    const struct fake_sent *sent;
    const struct failed *failed;

    cr_assert_eq(call(ctx, "caller/1", type, body), expected);
    cr_assert_eq(fake_sent_count(ctx), 1, "nothing went to the store");
    sent = fake_take(ctx);
    cr_assert_eq(sent->type, &failed_type);
    failed = sent->body;
    cr_assert_str_eq(failed->code, muster_err_code(expected));
    cr_assert(strstr(failed->message, message) != NULL, "\"%s\"", failed->message);
}

static const char *
why_not(const struct muster_ctx *ctx, const char *secret, int64_t now_ms)
{
    const struct key *key = NULL;
    const char *reason = NULL;

    if (muster_keys_check(board(ctx), secret, now_ms, &key, &reason) == MUSTER_OK)
        return key->name;
    cr_assert_null(key);
    return reason;
}

Test(auth, key_works_only_once_it_is_on_disk)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("ci");
    const struct auth_created *created;
    const struct fake_sent *sent;
    const struct key *stored;

    cr_assert_eq(muster_keys_count(board(ctx)), 0);
    in.expires_ms = FAKE_START_MS + 5000;
    cr_assert_eq(call(ctx, "caller/1", &auth_create_type, &in), MUSTER_OK);
    cr_assert_null(fake_take_to(ctx, "caller/1"), "no answer before the commit");
    cr_assert_eq(muster_keys_count(board(ctx)), 0, "no effect before the commit");
    cr_assert(fake_commit(ctx));
    sent = fake_take_to(ctx, "caller/1");
    cr_assert_eq(sent->type, &auth_created_type);
    created = sent->body;
    cr_assert_eq(strncmp(created->key, "muster_sk_", 10), 0);
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "ci");
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS + 4999), "ci");
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS + 5000), "API key expired");
    stored = fake_get(ctx, &key_type, &created->id);
    cr_assert_not_null(stored);
    cr_assert_eq(stored->digest.size, 32);
    cr_assert_eq(stored->created_ms, FAKE_START_MS);
    cr_assert_eq(fake_said(ctx, "key-created"), 1);
    cr_assert(fake_said_text(ctx, "by=root"));
    cr_assert_not(fake_said_text(ctx, created->key), "the secret is in no log");
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_free(&ctx);
}

Test(auth, store_without_room_fails_the_request_and_changes_nothing)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("ci");
    const struct fake_sent *sent;
    const struct failed *failed;

    cr_assert_eq(call(ctx, "caller/1", &auth_create_type, &in), MUSTER_OK);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    sent = fake_take_to(ctx, "caller/1");
    cr_assert_eq(sent->type, &failed_type);
    cr_assert_eq(sent->envelope.id, 11);
    failed = sent->body;
    cr_assert_str_eq(failed->code, "STORAGE_FULL");
    cr_assert_eq(muster_keys_count(board(ctx)), 0);
    cr_assert_eq(fake_said(ctx, "key-created"), 0);
    (void)create(ctx, &in); /* the name is free again */
    fake_free(&ctx);
}

Test(auth, store_that_is_full_of_messages_is_told_at_once)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("ci");

    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    refused(ctx, &auth_create_type, &in, MUSTER_OVERLOADED, "try again");
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OK);
    (void)create(ctx, &in);
    fake_free(&ctx);
}

Test(auth, create_refuses_what_makes_no_sense)
{
    static const char *const unknown[] = {"teams:fly"}, *const ghosts[] = {"backend", "ghosts"};
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("ci");

    in.scopes.items = unknown;
    refused(ctx, &auth_create_type, &in, MUSTER_INVALID_REQUEST, "teams:fly");
    in.scopes.items = read_scope;
    in.teams = (struct muster_strs){ghosts, 2};
    refused(ctx, &auth_create_type, &in, MUSTER_TEAM_NOT_FOUND, "ghosts");
    in.teams.count = 1;
    in.expires_ms = FAKE_START_MS;
    refused(ctx, &auth_create_type, &in, MUSTER_INVALID_REQUEST, "future");
    in.expires_ms = 0;
    in.name = "0190a5b0-0000-7000-8000-000000000000";
    refused(ctx, &auth_create_type, &in, MUSTER_INVALID_REQUEST, "id");
    fake_free(&ctx);
}

Test(auth, names_are_unique_among_live_keys)
{
    struct muster_ctx *ctx = start(CONFIGURED);
    struct auth_create in = create_of("bot"), taken = create_of("ci");
    struct auth_revoke revoke = {.key = "bot"};

    refused(ctx, &auth_create_type, &taken, MUSTER_CONFLICT, "ci");
    cr_assert_eq(call(ctx, "caller/1", &auth_create_type, &in), MUSTER_OK);
    cr_assert_eq(call(ctx, "caller/2", &auth_create_type, &in), MUSTER_CONFLICT, "also while it is on its way");
    cr_assert_eq(fake_take_to(ctx, "caller/2")->type, &failed_type);
    cr_assert(fake_commit(ctx));
    fake_forget(ctx);
    refused(ctx, &auth_create_type, &in, MUSTER_CONFLICT, "bot");
    cr_assert_eq(call(ctx, "caller/1", &auth_revoke_type, &revoke), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    fake_forget(ctx);
    (void)create(ctx, &in);
    in.name = "short";
    in.expires_ms = FAKE_START_MS + 10;
    (void)create(ctx, &in);
    fake_set_clock(ctx, FAKE_START_MS + 10);
    in.expires_ms = 0;
    (void)create(ctx, &in); /* the name of an expired key is free */
    fake_free(&ctx);
}

Test(auth, revoked_key_stops_working_when_it_is_on_disk)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("ci");
    const struct auth_created *created = create(ctx, &in);
    struct auth_revoke by_name = {.key = "ci"};
    const struct fake_sent *sent;
    const struct auth_revoked *revoked;
    const struct key *stored;

    fake_set_clock(ctx, FAKE_START_MS + 1000);
    cr_assert_eq(call(ctx, "caller/1", &auth_revoke_type, &by_name), MUSTER_OK);
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "ci");
    cr_assert_eq(call(ctx, "caller/2", &auth_revoke_type, &by_name), MUSTER_CONFLICT, "it is being revoked");
    cr_assert(fake_commit(ctx));
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "API key revoked");
    sent = fake_take_to(ctx, "caller/1");
    cr_assert_eq(sent->type, &auth_revoked_type);
    revoked = sent->body;
    cr_assert_str_eq(revoked->name, "ci");
    cr_assert(muster_id_equal(&revoked->id, &created->id));
    stored = fake_get(ctx, &key_type, &created->id);
    cr_assert_eq(stored->revoked_ms, FAKE_START_MS + 1000);
    cr_assert_eq(fake_said(ctx, "key-revoked"), 1);
    fake_forget(ctx);
    refused(ctx, &auth_revoke_type, &by_name, MUSTER_CONFLICT, "already");
    fake_free(&ctx);
}

Test(auth, revoke_takes_an_id_and_knows_what_it_cannot_revoke)
{
    struct muster_ctx *ctx = start(CONFIGURED);
    struct auth_create in = create_of("bot");
    const struct auth_created *created = create(ctx, &in);
    struct auth_revoke revoke = {.key = "nobody"};
    char id[MUSTER_ID_TEXT];

    refused(ctx, &auth_revoke_type, &revoke, MUSTER_NOT_FOUND, "nobody");
    revoke.key = "0190a5b0-0000-7000-8000-000000000000";
    refused(ctx, &auth_revoke_type, &revoke, MUSTER_NOT_FOUND, "0190a5b0");
    revoke.key = "ci";
    refused(ctx, &auth_revoke_type, &revoke, MUSTER_CONFLICT, "remove it from the configuration file");
    muster_id_text(&created->id, id);
    revoke.key = id;
    cr_assert_eq(call(ctx, "caller/1", &auth_revoke_type, &revoke), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "API key revoked");
    fake_free(&ctx);
}

/* ---- rotation ---- */

/* Give a key a new text and return what the caller was told. */
static const struct auth_rotated *
rotate(struct muster_ctx *ctx, const char *name, int64_t overlap_ms)
{
    struct auth_rotate in = {.key = name, .overlap_ms = overlap_ms};
    const struct fake_sent *sent;

    cr_assert_eq(call(ctx, "caller/1", &auth_rotate_type, &in), MUSTER_OK);
    cr_assert_null(fake_take_to(ctx, "caller/1"), "no answer before the commit");
    cr_assert(fake_commit(ctx));
    sent = fake_take_to(ctx, "caller/1");
    cr_assert(sent && sent->type == &auth_rotated_type);
    return sent->body;
}

Test(auth, a_rotated_key_has_a_new_text_at_once)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("bot");
    const struct auth_created *created = create(ctx, &in);
    const struct auth_rotated *rotated = rotate(ctx, "bot", 0);
    const struct key *stored = fake_get(ctx, &key_type, &created->id);

    cr_assert(muster_id_equal(&rotated->id, &created->id));
    cr_assert_str_eq(rotated->name, "bot");
    cr_assert_str_neq(rotated->key, created->key);
    cr_assert_eq(rotated->old_until_ms, 0);
    cr_assert_str_eq(why_not(ctx, rotated->key, FAKE_START_MS), "bot");
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "API key rotated");
    cr_assert_eq(muster_keys_count(board(ctx)), 1);
    cr_assert_eq(stored->created_ms, FAKE_START_MS);
    cr_assert_eq(fake_said(ctx, "key-rotated"), 1);
    cr_assert_eq(fake_said(ctx, "key-created"), 1);
    cr_assert_not(fake_said_text(ctx, rotated->key), "the secret is in no log");
    fake_free(&ctx);
}

Test(auth, both_texts_work_until_the_overlap_ends)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("bot");
    const struct auth_created *created;
    const struct auth_rotated *rotated;

    in.expires_ms = FAKE_START_MS + 9000;
    created = create(ctx, &in);
    fake_set_clock(ctx, FAKE_START_MS + 1000);
    rotated = rotate(ctx, "bot", 5000);
    cr_assert_eq(rotated->old_until_ms, FAKE_START_MS + 6000);
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS + 5999), "bot");
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS + 6000), "API key rotated");
    cr_assert_str_eq(why_not(ctx, rotated->key, FAKE_START_MS + 6000), "bot");
    cr_assert_str_eq(why_not(ctx, rotated->key, FAKE_START_MS + 9000), "API key expired", "as before");
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS + 5999), "bot", "also after a restart");
    cr_assert_str_eq(why_not(ctx, rotated->key, FAKE_START_MS + 5999), "bot");
    cr_assert_str_eq(why_not(ctx, "neither", FAKE_START_MS), "Invalid API key");
    fake_free(&ctx);
}

Test(auth, rotating_again_ends_the_text_before_the_last_one)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("bot");
    const struct auth_created *first = create(ctx, &in);
    const struct auth_rotated *second = rotate(ctx, "bot", 100000), *third = rotate(ctx, "bot", 100);

    cr_assert_str_eq(why_not(ctx, first->key, FAKE_START_MS), "Invalid API key");
    cr_assert_str_eq(why_not(ctx, second->key, FAKE_START_MS + 99), "bot");
    cr_assert_str_eq(why_not(ctx, second->key, FAKE_START_MS + 100), "API key rotated");
    cr_assert_str_eq(why_not(ctx, third->key, FAKE_START_MS + 100), "bot");
    fake_free(&ctx);
}

Test(auth, a_revoked_key_works_with_neither_text)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("bot");
    struct auth_revoke revoke = {.key = "bot"};
    const struct auth_created *old = create(ctx, &in);
    const struct auth_rotated *new = rotate(ctx, "bot", 100000);

    cr_assert_eq(call(ctx, "caller/1", &auth_revoke_type, &revoke), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    cr_assert_str_eq(why_not(ctx, old->key, FAKE_START_MS), "API key revoked");
    cr_assert_str_eq(why_not(ctx, new->key, FAKE_START_MS), "API key revoked");
    cr_assert_eq(fake_said(ctx, "key-revoked"), 1);
    fake_free(&ctx);
}

Test(auth, what_cannot_be_rotated_says_why)
{
    struct muster_ctx *ctx = start(CONFIGURED);
    struct auth_create in = create_of("bot");
    struct auth_rotate of = {.key = "nobody"};
    struct auth_revoke revoke = {.key = "bot"};
    char id[MUSTER_ID_TEXT];

    refused(ctx, &auth_rotate_type, &of, MUSTER_NOT_FOUND, "nobody");
    of.key = "ci";
    refused(ctx, &auth_rotate_type, &of, MUSTER_CONFLICT, "configured");
    in.expires_ms = FAKE_START_MS + 10;
    muster_id_text(&create(ctx, &in)->id, id);
    of.key = id;
    fake_set_clock(ctx, FAKE_START_MS + 10);
    refused(ctx, &auth_rotate_type, &of, MUSTER_CONFLICT, "expired");
    fake_set_clock(ctx, FAKE_START_MS);
    of.key = "bot";
    cr_assert_eq(call(ctx, "caller/2", &auth_rotate_type, &of), MUSTER_OK);
    cr_assert_eq(call(ctx, "caller/1", &auth_rotate_type, &of), MUSTER_CONFLICT, "it is being rotated");
    cr_assert_eq(call(ctx, "caller/1", &auth_revoke_type, &revoke), MUSTER_CONFLICT);
    cr_assert(fake_commit(ctx));
    cr_assert_eq(call(ctx, "caller/1", &auth_revoke_type, &revoke), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    fake_forget(ctx);
    refused(ctx, &auth_rotate_type, &of, MUSTER_CONFLICT, "revoked");
    fake_free(&ctx);
}

Test(auth, a_rotation_that_is_not_written_changes_nothing)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("bot");
    struct auth_rotate of = {.key = "bot"};
    const struct auth_created *created = create(ctx, &in);

    cr_assert_eq(call(ctx, "caller/1", &auth_rotate_type, &of), MUSTER_OK);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_eq(fake_take_to(ctx, "caller/1")->type, &failed_type);
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "bot");
    cr_assert_eq(fake_said(ctx, "key-rotated"), 0);
    (void)rotate(ctx, "bot", 0);
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "API key rotated");
    fake_free(&ctx);
}

/* ---- rates by name, and teams that are spoken for ---- */

Test(auth, keys_have_a_tier_and_speak_for_a_team)
{
    static const char *const own[] = {"backend"};
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("bot");
    const struct auth_created *created;
    const struct key *stored;

    in.tier = key_tier_PREMIUM;
    in.speaks_for = "frontend";
    created = create(ctx, &in);
    stored = fake_get(ctx, &key_type, &created->id);
    cr_assert_eq(stored->tier, key_tier_PREMIUM);
    cr_assert_str_eq(stored->speaks_for, "frontend");
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_str_eq(muster_keys_at(board(ctx), 0)->speaks_for, "frontend");
    cr_assert_eq(muster_keys_at(board(ctx), 0)->tier, key_tier_PREMIUM);
    in.name = "other";
    in.speaks_for = "ghosts";
    refused(ctx, &auth_create_type, &in, MUSTER_TEAM_NOT_FOUND, "ghosts");
    in.teams = (struct muster_strs){own, 1};
    in.speaks_for = "frontend";
    refused(ctx, &auth_create_type, &in, MUSTER_INVALID_REQUEST, "one of those only");
    in.speaks_for = "backend";
    (void)create(ctx, &in);
    in.name = "plain";
    in.speaks_for = "";
    in.tier = key_tier_NONE;
    stored = fake_get(ctx, &key_type, &create(ctx, &in)->id);
    cr_assert_eq(stored->tier, key_tier_NONE);
    fake_free(&ctx);
}

Test(auth, configured_keys_have_a_tier_and_speak_for_a_team)
{
    struct muster_ctx *ctx = start(TEAMS "auth: {keys: [{name: ci, key: secret-of-ci-0123456789, tier: enterprise, "
                                         "speaks_for: frontend}]}\n");

    cr_assert_eq(muster_keys_at(board(ctx), 0)->tier, key_tier_ENTERPRISE);
    cr_assert_str_eq(muster_keys_at(board(ctx), 0)->speaks_for, "frontend");
    fake_free(&ctx);
}

/* ---- configured keys, and restarts ---- */

Test(auth, configured_keys_work_and_keep_their_ids)
{
    struct muster_ctx *ctx = start(CONFIGURED), *other = start(CONFIGURED);
    const struct key *key, *again;
    const char *reason;

    cr_assert_str_eq(why_not(ctx, "test", FAKE_START_MS), "dash");
    cr_assert_str_eq(why_not(ctx, "wrong", FAKE_START_MS), "Invalid API key");
    cr_assert_str_eq(why_not(ctx, "", FAKE_START_MS), "Invalid API key");
    cr_assert_eq(muster_keys_check(board(ctx), "secret-of-ci-0123456789", FAKE_START_MS, &key, &reason), MUSTER_OK);
    cr_assert_str_eq(key->name, "ci");
    cr_assert(key->configured);
    cr_assert_eq(key->teams.count, 1);
    cr_assert_eq(key->rate_limit->requests, 7);
    cr_assert_eq(key->rate_limit->window, 120000);
    cr_assert_eq(muster_keys_check(board(other), "secret-of-ci-0123456789", FAKE_START_MS, &again, &reason), MUSTER_OK);
    cr_assert(muster_id_equal(&key->id, &again->id));
    cr_assert_null(fake_get(ctx, &key_type, &key->id), "it is not in the store");
    fake_free(&ctx);
    fake_free(&other);
}

Test(auth, keys_are_there_again_after_a_restart)
{
    struct muster_ctx *ctx = start(CONFIGURED);
    struct auth_create in = create_of("bot");
    const struct auth_created *created = create(ctx, &in);
    size_t i;

    fake_set_clock(ctx, FAKE_START_MS + 50);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "bot");
    cr_assert_eq(muster_keys_count(board(ctx)), 3);
    for (i = 1; i < 3; i++)
        cr_assert_leq(muster_keys_at(board(ctx), i - 1)->created_ms, muster_keys_at(board(ctx), i)->created_ms);
    cr_assert_null(muster_keys_at(board(ctx), 3));
    fake_free(&ctx);
}

Test(auth, restart_before_the_commit_still_answers)
{
    struct muster_ctx *ctx = start(TEAMS);
    struct auth_create in = create_of("ci"), other = create_of("other");
    const struct fake_sent *sent;
    const struct auth_created *created;

    cr_assert_eq(call(ctx, "caller/1", &auth_create_type, &in), MUSTER_OK);
    cr_assert_eq(call(ctx, "caller/2", &auth_create_type, &other), MUSTER_OK);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    sent = fake_take_to(ctx, "caller/1");
    cr_assert_eq(sent->type, &auth_created_type);
    created = sent->body;
    cr_assert_str_eq(why_not(ctx, created->key, FAKE_START_MS), "ci");
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL)); /* nobody is known to wait; nothing breaks */
    cr_assert_eq(muster_keys_count(board(ctx)), 1);
    fake_free(&ctx);
}

Test(auth, many_keys_are_all_found)
{
    struct muster_ctx *ctx = fake_new(TEAMS);
    char secret[32], name[32];
    uint8_t digest[MUSTER_DIGEST];
    struct key key = {.name = name, .digest = {digest, sizeof digest}, .scopes = {read_scope, 1}, .created_ms = 1};
    int i;

    for (i = 0; i < 500; i++) {
        (void)snprintf(secret, sizeof secret, "secret-%d", i);
        (void)snprintf(name, sizeof name, "key-%d", i);
        muster_sha256(secret, strlen(secret), digest);
        key.id = muster_id_new(FAKE_START_MS);
        fake_put(ctx, &key_type, &key);
    }
    cr_assert_eq(fake_start(ctx, &muster_auth_class, MUSTER_AUTH, NULL), MUSTER_OK);
    for (i = 0; i < 500; i++) {
        (void)snprintf(secret, sizeof secret, "secret-%d", i);
        (void)snprintf(name, sizeof name, "key-%d", i);
        cr_assert_str_eq(why_not(ctx, secret, FAKE_START_MS), name);
    }
    fake_free(&ctx);
}

Test(keys, live_key_wins_over_a_revoked_one_with_the_same_secret)
{
    uint8_t digest[MUSTER_DIGEST];
    struct key list[2] = {{.name = "old", .scopes = {read_scope, 1}, .revoked_ms = 5, .created_ms = 1},
                          {.name = "new", .scopes = {read_scope, 1}, .created_ms = 2}};
    struct muster_keys *keys;
    const struct key *key;
    const char *reason;
    int order;

    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    muster_sha256("same", 4, digest);
    list[0].id = muster_id_new(1);
    list[1].id = muster_id_new(2);
    list[0].digest = list[1].digest = (struct muster_bytes){digest, sizeof digest};
    for (order = 0; order < 2; order++) {
        list[order].created_ms = 3; /* either order in the table */
        keys = keys_new(list, 2);
        cr_assert_eq(muster_keys_check(keys, "same", 10, &key, &reason), MUSTER_OK);
        cr_assert_str_eq(key->name, "new");
        keys_free(keys);
    }
}
