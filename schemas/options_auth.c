/* SPDX-License-Identifier: MPL-2.0 */
/* What no single row can say of keys and JSON Web Tokens.  One thread at a time.  What can fail: any of the rules. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schemas/options.h"

enum {
    KEY_LENGTH = 16,   /* a key of a configuration file is not shorter */
    SECRET_LENGTH = 32 /* as long as the digest that it makes: RFC 7518, section 3.2 */
};

/* ---- who may call ---- */

static muster_err
check_credential(const struct options_reader *reader, const struct rows_path *at, const struct key_options *key,
                 uint8_t out_digest[MUSTER_DIGEST])
{
    struct rows_path text = OPTIONS_MEMBER(at, "key"), sha256 = OPTIONS_MEMBER(at, "sha256");

    if ((key->key[0] == '\0') == (key->sha256[0] == '\0'))
        return options_refuse(reader, at, "must have exactly one of key and sha256");
    if (key->sha256[0] != '\0') {
        if (muster_unhex(key->sha256, out_digest, MUSTER_DIGEST) != MUSTER_OK)
            return options_refuse(reader, &sha256, "must be 64 hexadecimal digits");
        return MUSTER_OK;
    }
    if (strlen(key->key) < KEY_LENGTH)
        return options_refuse(reader, &text, "must have at least %d characters, so that it cannot be guessed",
                              KEY_LENGTH);
    muster_sha256(key->key, strlen(key->key), out_digest);
    return MUSTER_OK;
}

static muster_err
check_scopes(const struct options_reader *reader, const struct rows_path *key, const struct muster_strs *scopes)
{
    struct rows_path up = OPTIONS_MEMBER(key, "scopes");
    size_t i;

    for (i = 0; i < scopes->count; i++) {
        struct rows_path at = OPTIONS_ITEM(&up, i);

        if (!muster_scope_known(scopes->items[i]))
            return options_refuse(reader, &at, "is not a known scope; `muster describe scopes` lists them");
    }
    return MUSTER_OK;
}

static muster_err
check_key_teams(const struct options_reader *reader, const struct rows_path *key, const struct options *options,
                const struct muster_strs *teams)
{
    struct rows_path up = OPTIONS_MEMBER(key, "teams");
    size_t i;

    for (i = 0; i < teams->count; i++) {
        struct rows_path at = OPTIONS_ITEM(&up, i);

        if (muster_team_options(options, teams->items[i]) == NULL)
            return options_refuse(reader, &at, "is not one of the teams");
    }
    return MUSTER_OK;
}

/* A key that may use some teams only speaks for one of those. */
static muster_err
check_speaker(const struct options_reader *reader, const struct rows_path *at, const struct options *options,
              const struct key_options *key)
{
    struct rows_path up = OPTIONS_MEMBER(at, "speaks_for");
    size_t i;

    if (key->speaks_for[0] == '\0')
        return MUSTER_OK;
    if (muster_team_options(options, key->speaks_for) == NULL)
        return options_refuse(reader, &up, "is not one of the teams");
    for (i = 0; i < key->teams.count && strcmp(key->teams.items[i], key->speaks_for) != 0; i++)
        ;
    if (key->teams.count > 0 && i == key->teams.count)
        return options_refuse(reader, &up, "must be one of the teams that the key may use");
    return MUSTER_OK;
}

/* `digests` are those of this key and the earlier ones. */
static muster_err
check_unique(const struct options_reader *reader, const struct rows_path *at, const struct options *options,
             size_t index, uint8_t (*digests)[MUSTER_DIGEST])
{
    const struct key_options *keys = options->auth->keys.items;
    struct rows_path name = OPTIONS_MEMBER(at, "name");
    size_t i;

    for (i = 0; i < index; i++) {
        if (strcmp(keys[i].name, keys[index].name) == 0)
            return options_refuse(reader, &name, "is the name of an earlier key");
        if (memcmp(digests[i], digests[index], MUSTER_DIGEST) == 0)
            return options_refuse(reader, at, "is the same key as that of %s", keys[i].name);
    }
    return MUSTER_OK;
}

static muster_err
check_key(const struct options_reader *reader, const struct rows_path *keys, const struct options *options,
          size_t index, uint8_t (*digests)[MUSTER_DIGEST])
{
    const struct key_options *key = &options->auth->keys.items[index];
    struct rows_path at = OPTIONS_ITEM(keys, index);
    muster_err err = check_credential(reader, &at, key, digests[index]);

    if (err == MUSTER_OK)
        err = check_unique(reader, &at, options, index, digests);
    if (err == MUSTER_OK)
        err = check_scopes(reader, &at, &key->scopes);
    if (err == MUSTER_OK)
        err = check_key_teams(reader, &at, options, &key->teams);
    if (err == MUSTER_OK)
        err = check_speaker(reader, &at, options, key);
    return err;
}

static muster_err
check_keys(const struct options_reader *reader, const struct options *options)
{
    struct rows_path auth = OPTIONS_MEMBER(NULL, "auth"), keys = OPTIONS_MEMBER(&auth, "keys");
    uint8_t(*digests)[MUSTER_DIGEST];
    muster_err err = MUSTER_OK;
    size_t i;

    digests = muster_arena_alloc(reader->arena, (options->auth->keys.count + 1) * sizeof *digests);
    for (i = 0; err == MUSTER_OK && i < options->auth->keys.count; i++)
        err = check_key(reader, &keys, options, i, digests);
    return err;
}

static muster_err
check_types(const struct options_reader *reader, const struct rows_path *auth, const struct auth_options *options)
{
    static const char *const kinds[] = {"bearer", "basic", "jwt"};
    const struct jwt_options *jwt = options->jwt;
    struct rows_path up = OPTIONS_MEMBER(auth, "type");
    size_t i, kind;

    for (i = 0; i < options->type.count; i++) {
        struct rows_path at = OPTIONS_ITEM(&up, i);

        for (kind = 0; kind < 3 && strcmp(options->type.items[i], kinds[kind]) != 0; kind++)
            ;
        if (kind == 3)
            return options_refuse(reader, &at, "must be bearer, basic or jwt");
    }
    if (options->type.count == 1 && strcmp(options->type.items[0], "jwt") == 0 && jwt->secret[0] == '\0' &&
        jwt->public_key[0] == '\0')
        return options_refuse(reader, &up, "lets nobody in: jwt needs auth.jwt.secret or auth.jwt.public_key");
    return MUSTER_OK;
}

/* Whether the key is a good one is told where it is loaded. */
static muster_err
check_public_key(const struct options_reader *reader, const struct rows_path *jwt, const char *path)
{
    struct rows_path at = OPTIONS_MEMBER(jwt, "public_key");

    if (path[0] != '\0' && access(path, R_OK) != 0)
        return options_refuse(reader, &at, "%.200s cannot be read: %s", path, strerror(errno));
    return MUSTER_OK;
}

static muster_err
check_jwt(const struct options_reader *reader, const struct rows_path *auth, const char *directory,
          struct jwt_options *jwt)
{
    struct rows_path up = OPTIONS_MEMBER(auth, "jwt"), secret = OPTIONS_MEMBER(&up, "secret");
    muster_err err;

    if (jwt->secret[0] != '\0' && jwt->public_key[0] != '\0')
        return options_refuse(reader, &up, "must not have both secret and public_key");
    if (jwt->secret[0] != '\0' && strlen(jwt->secret) < SECRET_LENGTH)
        return options_refuse(reader, &secret, "must have at least %d bytes, so that it cannot be guessed",
                              SECRET_LENGTH);
    if (jwt->public_key[0] != '\0')
        jwt->public_key = options_absolute(reader->arena, directory, jwt->public_key);
    err = check_public_key(reader, &up, jwt->public_key);
    return err ? err : check_scopes(reader, &up, &jwt->scopes);
}

muster_err
options_check_auth(const struct options_reader *reader, const char *directory, struct options *options)
{
    struct rows_path up = OPTIONS_MEMBER(NULL, "auth");
    struct auth_options *auth = muster_arena_alloc(reader->arena, sizeof *auth);
    struct jwt_options *jwt = muster_arena_alloc(reader->arena, sizeof *jwt);
    muster_err err = check_types(reader, &up, options->auth);

    *auth = *options->auth;
    *jwt = *auth->jwt;
    auth->jwt = jwt;
    options->auth = auth;
    if (err == MUSTER_OK)
        err = check_jwt(reader, &up, directory, jwt);
    return err ? err : check_keys(reader, options);
}
