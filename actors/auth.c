/* SPDX-License-Identifier: MPL-2.0 */
/* auth: owns the API keys: those in the store, which it makes, rotates and revokes, and those of the configuration
 * file.
 *
 * Publishes the whole table under MUSTER_KEYS_BOARD at its start and after each change.  A change goes to the store
 * first and comes back as auth.changed; only then is it published and answered, so what was answered is on disk and in
 * effect. On restart the table is read again; the answer to a change on its way is inside auth.changed and is still
 * given.  When the store fails, the caller is told and nothing has changed.  Mailbox full: changes are refused, checks
 * go on. */
#include <stdlib.h>
#include <string.h>

#include "actors/keys.h"
#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "schemas/muster_options.h"
#include "transport/muster_door.h"

/* A change on its way to the disk. */
struct change {
    struct change *next;
    int64_t token; /* the store's answer carries it */
    struct muster_id key;
    char *new_name; /* of a key being made; NULL: it is being revoked or rotated */
    struct muster_caller *caller;
};

struct auth_actor {
    struct muster_ctx *ctx;   /* borrowed; outlives us */
    struct muster_keys *keys; /* our own copy of what is published */
    struct change *changes;   /* on their way */
    int64_t last_token;
};

/* Keys found while init runs. */
struct found {
    struct muster_arena *arena;
    struct key *keys;
    size_t count;
};

/* ---- loading --------------------------------------------------------------------------------------------------------
 */

static void
add_found(struct found *found, const struct key *key)
{
    found->keys = muster_realloc(found->keys, (found->count + 1) * sizeof *found->keys);
    keys_copy_key(found->arena, key, &found->keys[found->count++]);
}

static bool
load_stored(void *arg, const void *record, struct muster_arena *arena)
{
    (void)arena;
    add_found(arg, record);
    return true;
}

/* The reader of the configuration has checked that there is one of `key` and `sha256`, and known scopes and teams. */
static muster_err
load_configured(struct auth_actor *self, const struct key_options *option, struct found *found)
{
    uint8_t digest[MUSTER_DIGEST];
    struct rate_limit rate;
    struct key key = {.id = muster_id_of("name", option->name), /* so that its jobs and limits survive restarts */
                      .name = option->name,
                      .digest = {digest, sizeof digest},
                      .scopes = option->scopes,
                      .teams = option->teams,
                      .tier = option->tier,
                      .speaks_for = option->speaks_for,
                      .created_ms = muster_now_ms(self->ctx),
                      .configured = true};

    if (option->key && option->key[0]) {
        muster_sha256(option->key, strlen(option->key), digest);
    } else if (option->sha256 == NULL || muster_unhex(option->sha256, digest, sizeof digest)) {
        muster_journal_say(muster_ctx_journal(self->ctx), ERROR, "key-invalid",
                           "A configured key has neither a key nor a valid sha256.",
                           MUSTER_SAY_TEXT("name", option->name));
        return MUSTER_INVALID_REQUEST;
    }
    if (option->rate_limit) {
        rate = (struct rate_limit){.requests = option->rate_limit->requests,
                                   .window = option->rate_limit->window,
                                   .algorithm = option->rate_limit->algorithm};
        key.rate_limit = &rate;
    }
    add_found(found, &key);
    return MUSTER_OK;
}

static muster_err
load(struct auth_actor *self)
{
    const struct auth_options *options = muster_ctx_options(self->ctx)->auth;
    struct found found = {.arena = muster_arena_new()};
    muster_err err;
    size_t i;

    err =
        muster_store_walk(muster_ctx_store(self->ctx), &key_type, NULL, NULL, MUSTER_OLDEST_FIRST, load_stored, &found);
    for (i = 0; !err && i < options->keys.count; i++)
        err = load_configured(self, &options->keys.items[i], &found);
    if (!err)
        self->keys = keys_new(found.keys, found.count);
    free(found.keys);
    muster_arena_free(&found.arena);
    return err;
}

static void
publish(struct auth_actor *self)
{
    muster_publish(self->ctx, MUSTER_KEYS_BOARD, keys_copy(self->keys), keys_free);
}

static muster_err
init(void *arg, struct muster_ctx *ctx, const void *config)
{
    struct auth_actor *self = arg;
    muster_err err;

    (void)config;
    self->ctx = ctx;
    self->last_token = muster_now_ms(ctx) * 1000; /* no answer to an earlier life is taken for one to this */
    err = load(self);
    if (!err)
        publish(self);
    return err;
}

/* ---- changes on their way -------------------------------------------------------------------------------------------
 */

static void
change_free(struct change *change)
{
    muster_caller_free(&change->caller);
    free(change->new_name);
    free(change);
}

/* Take the change with that token out of the list; NULL: it is of a time before a restart. */
static struct change *
take_change(struct auth_actor *self, int64_t token)
{
    struct change **link = &self->changes, *change;

    while (*link && (*link)->token != token)
        link = &(*link)->next;
    change = *link;
    if (change)
        *link = change->next;
    return change;
}

static void
fini(void *arg)
{
    struct auth_actor *self = arg;
    struct change *change;

    while ((change = self->changes) != NULL) {
        self->changes = change->next;
        change_free(change);
    }
    keys_free(self->keys);
}

/* The message that comes back to us when the key is on disk, with the caller's answer inside. */
static void
pack_changed(const struct change *change, const struct key *key, const struct muster_type *type, const void *answer,
             struct muster_buf *out)
{
    struct muster_envelope envelope = {
        .id = change->token, .reply_to = "", .trace = "", .principal = *muster_caller_principal(change->caller)};
    struct auth_changed changed = {.key = key, .reply_to = muster_caller_address(change->caller)};
    struct muster_buf whole = {0};

    muster_caller_pack(change->caller, type, answer, &whole);
    changed.answer = (struct muster_bytes){(const uint8_t *)whole.data, whole.size};
    muster_envelope_pack(&envelope, &auth_changed_type, &changed, out);
    explicit_bzero(whole.data, whole.size);
    muster_buf_free(&whole);
}

/* Have `key` written and `answer` sent.  Nothing is kept when the store takes no more. */
static muster_err
send_change(struct auth_actor *self, const struct key *key, const char *new_name, const struct muster_type *type,
            const void *answer)
{
    struct change *change = muster_alloc(sizeof *change);
    struct muster_buf record = {0}, changed = {0};
    struct store_put put = {.record = key_type.wire};
    struct store_answer told = {.to = muster_ctx_address(self->ctx)};
    struct store_commit commit = {.puts = {&put, 1}, .answers = {&told, 1}};
    muster_err err;

    *change = (struct change){.next = self->changes,
                              .token = ++self->last_token,
                              .key = key->id,
                              .new_name = muster_strdup(new_name),
                              .caller = muster_caller_keep(self->ctx)};
    muster_pack(&key_type, key, &record);
    put.value = (struct muster_bytes){(const uint8_t *)record.data, record.size};
    pack_changed(change, key, type, answer, &changed);
    told.ok = (struct muster_bytes){(const uint8_t *)changed.data, changed.size};
    err = muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit);
    explicit_bzero(changed.data, changed.size);
    muster_buf_free(&changed);
    muster_buf_free(&record);
    if (err) {
        change_free(change);
        muster_explain(self->ctx, 1, "The store takes no changes at the moment; try again");
        return MUSTER_OVERLOADED;
    }
    self->changes = change;
    return MUSTER_OK;
}

/* ---- auth.create ----------------------------------------------------------------------------------------------------
 */

static bool
name_is_taken(const struct auth_actor *self, const char *name)
{
    const struct change *change;
    const struct key *key;
    size_t i;

    for (change = self->changes; change; change = change->next)
        if (change->new_name && strcmp(change->new_name, name) == 0)
            return true;
    for (i = 0; (key = muster_keys_at(self->keys, i)) != NULL; i++)
        if (strcmp(key->name, name) == 0 && keys_is_live(key, muster_now_ms(self->ctx)))
            return true;
    return false;
}

static muster_err
check_team(struct auth_actor *self, const char *team)
{
    if (muster_team_options(muster_ctx_options(self->ctx), team))
        return MUSTER_OK;
    muster_explain(self->ctx, 0, "Team '%.64s' does not exist", team);
    return MUSTER_TEAM_NOT_FOUND;
}

/* A key that may use some teams only speaks for one of those: what it says in the name of a team is as if that had said
 * it. */
static muster_err
check_speaker(struct auth_actor *self, const struct auth_create *in)
{
    const char *team = in->speaks_for;
    size_t i;

    if (team == NULL || team[0] == '\0')
        return MUSTER_OK;
    for (i = 0; i < in->teams.count && strcmp(in->teams.items[i], team) != 0; i++)
        ;
    if (in->teams.count == 0 || i < in->teams.count)
        return check_team(self, team);
    muster_explain(self->ctx, 0, "A key that may use some teams only can speak for one of those only");
    return MUSTER_INVALID_REQUEST;
}

static muster_err
check_create(struct auth_actor *self, const struct auth_create *in)
{
    muster_err err = MUSTER_OK;
    struct muster_id id;
    size_t i;

    if (muster_id_parse(in->name, &id) == MUSTER_OK) {
        muster_explain(self->ctx, 0, "name: must not look like the id of a key");
        return MUSTER_INVALID_REQUEST;
    }
    for (i = 0; i < in->scopes.count; i++)
        if (!muster_scope_known(in->scopes.items[i])) {
            muster_explain(self->ctx, 0, "scopes: there is no scope %.64s", in->scopes.items[i]);
            return MUSTER_INVALID_REQUEST;
        }
    for (i = 0; !err && i < in->teams.count; i++)
        err = check_team(self, in->teams.items[i]);
    if (!err)
        err = check_speaker(self, in);
    if (err)
        return err;
    if (in->expires_ms != 0 && in->expires_ms <= muster_now_ms(self->ctx)) {
        muster_explain(self->ctx, 0, "expires_ms: must be in the future");
        return MUSTER_INVALID_REQUEST;
    }
    if (name_is_taken(self, in->name)) {
        muster_explain(self->ctx, 0, "There is a key named '%s' already", in->name);
        return MUSTER_CONFLICT;
    }
    return MUSTER_OK;
}

MUSTER_ON(auth_actor, auth_create);

static muster_err
on_auth_create(struct auth_actor *self, const struct auth_create *in)
{
    int64_t now_ms = muster_now_ms(self->ctx);
    struct auth_created answer = {.name = in->name};
    uint8_t digest[MUSTER_DIGEST];
    uint8_t curve_secret[MUSTER_CURVE], curve[MUSTER_CURVE];
    char secret[MUSTER_KEY_TEXT], secret_text[MUSTER_Z85] = "", public_text[MUSTER_Z85];
    struct key key = {.name = in->name,
                      .digest = {digest, sizeof digest},
                      .scopes = in->scopes,
                      .teams = in->teams,
                      .rate_limit = in->rate_limit,
                      .tier = in->tier,
                      .speaks_for = in->speaks_for,
                      .created_ms = now_ms,
                      .expires_ms = in->expires_ms};
    muster_err err = check_create(self, in);

    if (err)
        return err;
    muster_key_new(secret);
    muster_sha256(secret, strlen(secret), digest);
    key.id = answer.id = muster_id_new(now_ms);
    answer.key = secret;
    if (in->curve) {
        muster_curve_pair(curve_secret, curve);
        muster_z85(curve_secret, secret_text);
        muster_z85(curve, public_text);
        key.curve = (struct muster_bytes){curve, sizeof curve};
        answer.curve_secret = secret_text;
        answer.curve_public = public_text;
        explicit_bzero(curve_secret, sizeof curve_secret);
    }
    err = send_change(self, &key, in->name, &auth_created_type, &answer);
    explicit_bzero(secret, sizeof secret);
    explicit_bzero(secret_text, sizeof secret_text);
    return err;
}

/* ---- auth.revoke ----------------------------------------------------------------------------------------------------
 */

/* Of several keys with one name: the one in the store that is not revoked, then a configured one, then a revoked one.
 */
static const struct key *
find_named(const struct auth_actor *self, const char *name)
{
    const struct key *key, *best = NULL;
    int rank, best_rank = 0;
    size_t i;

    for (i = 0; (key = muster_keys_at(self->keys, i)) != NULL; i++) {
        if (strcmp(key->name, name) != 0)
            continue;
        rank = key->revoked_ms ? 1 : key->configured ? 2 : 3;
        if (rank >= best_rank) {
            best = key;
            best_rank = rank;
        }
    }
    return best;
}

static bool
is_changing(const struct auth_actor *self, const struct muster_id *key)
{
    const struct change *change;

    for (change = self->changes; change; change = change->next)
        if (muster_id_equal(&change->key, key))
            return true;
    return false;
}

/* The key, if it is one that can be revoked or rotated. */
static muster_err
find_own(struct auth_actor *self, const char *text, const struct key **out_key)
{
    struct muster_id id;
    bool is_id = muster_id_parse(text, &id) == MUSTER_OK;
    const struct key *key = is_id ? keys_by_id(self->keys, &id) : find_named(self, text);

    if (key == NULL) {
        muster_explain(self->ctx, 0, "There is no key '%s'", text);
        return MUSTER_NOT_FOUND;
    }
    if (key->configured) {
        muster_explain(self->ctx, 0, "The key '%s' is configured; change it or remove it from the configuration file",
                       key->name);
        return MUSTER_CONFLICT;
    }
    if (key->revoked_ms) {
        muster_explain(self->ctx, 0, "The key '%s' is revoked already", key->name);
        return MUSTER_CONFLICT;
    }
    if (is_changing(self, &key->id)) {
        muster_explain(self->ctx, 0, "The key '%s' is being revoked or rotated already", key->name);
        return MUSTER_CONFLICT;
    }
    *out_key = key;
    return MUSTER_OK;
}

MUSTER_ON(auth_actor, auth_revoke);

static muster_err
on_auth_revoke(struct auth_actor *self, const struct auth_revoke *in)
{
    struct auth_revoked answer;
    const struct key *found;
    struct key key;
    muster_err err = find_own(self, in->key, &found);

    if (err)
        return err;
    key = *found;
    key.revoked_ms = muster_now_ms(self->ctx);
    answer = (struct auth_revoked){.id = key.id, .name = key.name};
    return send_change(self, &key, NULL, &auth_revoked_type, &answer);
}

/* ---- auth.rotate ----------------------------------------------------------------------------------------------------
 */

static muster_err
find_rotatable(struct auth_actor *self, const char *text, const struct key **out_key)
{
    const struct key *key;
    muster_err err = find_own(self, text, &key);

    if (err)
        return err;
    if (!keys_is_live(key, muster_now_ms(self->ctx))) {
        muster_explain(self->ctx, 0, "The key '%s' has expired; make a new one", key->name);
        return MUSTER_CONFLICT;
    }
    *out_key = key;
    return MUSTER_OK;
}

MUSTER_ON(auth_actor, auth_rotate);

/* An old text from an earlier rotation stops working here, whatever was left of its time. */
static muster_err
on_auth_rotate(struct auth_actor *self, const struct auth_rotate *in)
{
    int64_t now_ms = muster_now_ms(self->ctx);
    uint8_t digest[MUSTER_DIGEST];
    char secret[MUSTER_KEY_TEXT];
    struct auth_rotated answer;
    const struct key *found;
    struct key key;
    muster_err err = find_rotatable(self, in->key, &found);

    if (err)
        return err;
    muster_key_new(secret);
    muster_sha256(secret, strlen(secret), digest);
    key = *found;
    key.old_digest = found->digest;
    key.old_until_ms = now_ms + in->overlap_ms;
    key.digest = (struct muster_bytes){digest, sizeof digest};
    answer = (struct auth_rotated){
        .id = key.id, .name = key.name, .key = secret, .old_until_ms = in->overlap_ms > 0 ? key.old_until_ms : 0};
    err = send_change(self, &key, NULL, &auth_rotated_type, &answer);
    explicit_bzero(secret, sizeof secret);
    return err;
}

/* ---- the store's answers --------------------------------------------------------------------------------------------
 */

static void
say_changed(struct auth_actor *self, const struct key *key, const char *by)
{
    struct muster_journal *journal = muster_ctx_journal(self->ctx);
    char text[MUSTER_ID_TEXT];
    const char *id = text;

    muster_id_text(&key->id, text);
    if (key->revoked_ms)
        muster_journal_say(journal, INFO, "key-revoked", "A key was revoked.", MUSTER_SAY_TEXT("name", key->name),
                           MUSTER_SAY_TEXT("key_id", id), MUSTER_SAY_TEXT("by", by));
    else if (key->old_digest.size > 0)
        muster_journal_say(journal, INFO, "key-rotated", "A key was given a new text.",
                           MUSTER_SAY_TEXT("name", key->name), MUSTER_SAY_TEXT("key_id", id), MUSTER_SAY_TEXT("by", by),
                           MUSTER_SAY_NUMBER("old_until", key->old_until_ms));
    else
        muster_journal_say(journal, INFO, "key-created", "A key was made.", MUSTER_SAY_TEXT("name", key->name),
                           MUSTER_SAY_TEXT("key_id", id), MUSTER_SAY_TEXT("by", by));
}

MUSTER_ON(auth_actor, auth_changed);

static muster_err
on_auth_changed(struct auth_actor *self, const struct auth_changed *in)
{
    const struct muster_envelope *envelope = muster_ctx_envelope(self->ctx);
    struct change *change = take_change(self, envelope->id);
    struct muster_keys *keys = keys_with(self->keys, in->key);

    keys_free(self->keys);
    self->keys = keys;
    publish(self);
    say_changed(self, in->key, envelope->principal.name);
    if (in->reply_to && in->reply_to[0])
        (void)muster_send_whole(self->ctx, in->reply_to, in->answer.data, in->answer.size); /* may be gone */
    if (change)
        change_free(change);
    return MUSTER_OK;
}

MUSTER_ON(auth_actor, failed);

/* The store could not write a change. */
static muster_err
on_failed(struct auth_actor *self, const struct failed *in)
{
    struct change *change = take_change(self, muster_ctx_envelope(self->ctx)->id);

    if (change == NULL)
        return MUSTER_OK; /* asked for before a restart; its caller has given up */
    muster_explain(self->ctx, in->retry_after_s, "%s", in->message ? in->message : "");
    muster_caller_answer(self->ctx, &change->caller, muster_err_from_code(in->code), NULL, NULL);
    change_free(change);
    return MUSTER_OK;
}

static const struct muster_handler handlers[] = {MUSTER_ROW(auth_create), MUSTER_ROW(auth_revoke),
                                                 MUSTER_ROW(auth_rotate), MUSTER_ROW(auth_changed),
                                                 MUSTER_ROW(failed),      {NULL, NULL}};

const struct muster_actor_class muster_auth_class = {
    .name = "auth",
    .size = sizeof(struct auth_actor),
    .mailbox = 1000,
    .init = init,
    .fini = fini,
    .handlers = handlers,
};
