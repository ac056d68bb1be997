/* SPDX-License-Identifier: MPL-2.0 */
/* JSON Web Tokens as credentials: who they stand for, what they may do, and all that is refused.  Tokens are made by
 * libjwt where it can, else by hand. */
#include <criterion/criterion.h>

#include <jwt.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/http/jwt.h"
#include "schemas/muster_options.h"

#define SECRET "0123456789abcdef0123456789abcdef"
#define NOW_S 1700000000
#define NOW_MS INT64_C(1700000000000)
#define ALICE "\"sub\":\"alice\",\"exp\":1700000060" /* good for a minute */

static struct muster_arena *arena;
static const char *reason; /* of the last refusal */
static struct key key;     /* of the last token that was taken */

static void
open_arena(void)
{
    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    arena = muster_arena_new();
}

static void
close_arena(void)
{
    muster_arena_free(&arena);
}

TestSuite(jwt, .init = open_arena, .fini = close_arena);

/* ---- making tokens ---- */

static const char *
base64url(const void *data, size_t size)
{
    char *text = muster_arena_alloc(arena, muster_base64_size(size)), *at;

    muster_base64(data, size, text);
    for (at = text; *at; at++)
        *at = *at == '+' ? '-' : *at == '/' ? '_' : *at == '=' ? '\0' : *at;
    return text;
}

/* "header.claims" */
static const char *
unsigned_token(const char *header, const char *claims)
{
    return muster_arena_printf(arena, "%s.%s", base64url(header, strlen(header)), base64url(claims, strlen(claims)));
}

static const char *
sign(const char *header, const char *claims, const char *secret)
{
    const char *text = unsigned_token(header, claims);
    uint8_t digest[MUSTER_DIGEST];

    muster_hmac_sha256(secret, strlen(secret), text, strlen(text), digest);
    return muster_arena_printf(arena, "%s.%s", text, base64url(digest, sizeof digest));
}

static const char *
token_of(const char *claims)
{
    return sign("{\"alg\":\"HS256\",\"typ\":\"JWT\"}", claims, SECRET);
}

/* The same by the library. */
static const char *
library_token(jwt_alg_t alg, const char *private_key, const char *claims)
{
    jwt_t *jwt = NULL;
    char *text;
    const char *copy;

    cr_assert_eq(jwt_new(&jwt), 0);
    cr_assert_eq(jwt_add_grants_json(jwt, claims), 0);
    cr_assert_eq(jwt_set_alg(jwt, alg, (const unsigned char *)private_key, (int)strlen(private_key)), 0);
    text = jwt_encode_str(jwt);
    cr_assert_not_null(text);
    copy = muster_arena_str(arena, text, strlen(text));
    free(text);
    jwt_free(jwt);
    return copy;
}

/* ---- a verifier ---- */

static struct jwt_options
options_of(const char *secret)
{
    return (struct jwt_options){.secret = secret, .public_key = "", .issuer = "", .audience = "", .leeway = 30000};
}

static muster_err
check_with(const struct jwt_options *options, const char *token)
{
    struct http_jwt *jwt = NULL;
    char problem[512] = "";
    muster_err err;

    reason = "";
    key = (struct key){.name = ""};
    cr_assert_eq(http_jwt_open(options, &jwt, problem, sizeof problem), MUSTER_OK, "%s", problem);
    cr_assert_not_null(jwt);
    err = http_jwt_check(jwt, token, NOW_MS, arena, &key, &reason);
    cr_assert(err == MUSTER_OK || err == MUSTER_UNAUTHORIZED);
    cr_assert(err == MUSTER_OK || key.name[0] == '\0', "nothing comes out");
    http_jwt_close(&jwt);
    cr_assert_null(jwt);
    return err;
}

static muster_err
check(const char *token)
{
    struct jwt_options options = options_of(SECRET);

    return check_with(&options, token);
}

static void
expect_refused(const char *token, const char *why)
{
    cr_expect_eq(check(token), MUSTER_UNAUTHORIZED, "%s", token);
    cr_expect(strstr(reason, why) != NULL, "\"%s\" says \"%s\", not \"%s\"", token, reason, why);
}

static bool
has_scope(const char *scope)
{
    size_t i;

    for (i = 0; i < key.scopes.count; i++)
        if (strcmp(key.scopes.items[i], scope) == 0)
            return true;
    return false;
}

/* ---- who it is ---- */

Test(jwt, without_a_key_no_token_is_taken)
{
    struct jwt_options options = options_of("");
    struct http_jwt *jwt = (struct http_jwt *)&options;
    char problem[64] = "";

    cr_assert_eq(http_jwt_open(&options, &jwt, problem, sizeof problem), MUSTER_OK);
    cr_assert_null(jwt);
}

Test(jwt, a_token_is_three_parts_of_base64url)
{
    cr_expect(http_jwt_is_token("a.b.c"));
    cr_expect(http_jwt_is_token(token_of("{" ALICE "}")));
    cr_expect_not(http_jwt_is_token(""));
    cr_expect_not(http_jwt_is_token("."));
    cr_expect_not(http_jwt_is_token("a"));
    cr_expect_not(http_jwt_is_token("a.b"));
    cr_expect_not(http_jwt_is_token("a.b."));
    cr_expect_not(http_jwt_is_token(".b.c"));
    cr_expect_not(http_jwt_is_token("a..c"));
    cr_expect_not(http_jwt_is_token("a.b.c.d"));
    cr_expect_not(http_jwt_is_token("a.b.c="));
    cr_expect_not(http_jwt_is_token("a.b+.c"));
    cr_expect_not(http_jwt_is_token("muster_sk_0123456789"));
}

Test(jwt, a_good_token_stands_for_its_subject)
{
    struct muster_id id = muster_id_of("jwt", "https://issuer alice");

    cr_assert_eq(check(token_of("{" ALICE ",\"iss\":\"https://issuer\",\"scope\":\"teams:read messages:write\"}")),
                 MUSTER_OK, "%s", reason);
    cr_assert_str_eq(key.name, "jwt:alice");
    cr_assert(muster_id_equal(&key.id, &id));
    cr_assert_eq(key.expires_ms, NOW_MS + 60000 + 30000, "when it expires, and the leeway");
    cr_assert_eq(key.scopes.count, 2);
    cr_assert(has_scope("teams:read") && has_scope("messages:write"));
    cr_assert_eq(key.teams.count, 0);
    cr_assert_eq(key.tier, key_tier_NONE);
    cr_assert_eq(check(token_of("{" ALICE "}")), MUSTER_OK);
    id = muster_id_of("jwt", " alice");
    cr_assert(muster_id_equal(&key.id, &id));
    cr_assert_eq(key.scopes.count, 0, "without a scope it may do nothing");
}

Test(jwt, tokens_of_the_library_are_taken)
{
    cr_assert_eq(check(library_token(JWT_ALG_HS256, SECRET, "{" ALICE "}")), MUSTER_OK, "%s", reason);
    cr_assert_str_eq(key.name, "jwt:alice");
    expect_refused(library_token(JWT_ALG_HS512, SECRET, "{" ALICE "}"), "signature");
    expect_refused(library_token(JWT_ALG_HS256, SECRET "x", "{" ALICE "}"), "signature");
}

Test(jwt, subjects_are_text_of_1_to_100_characters)
{
    char sub[512] = "";
    int i;

    for (i = 0; i < 100; i++)
        strcat(sub, "\xc3\xa9");
    cr_assert_eq(check(token_of(muster_arena_printf(arena, "{\"sub\":\"%s\",\"exp\":1700000060}", sub))), MUSTER_OK);
    cr_assert_eq(strlen(key.name), 64, "a name is not longer");
    cr_assert_eq(strncmp(key.name + 4, sub, 60), 0);
    cr_assert_eq(check(token_of(muster_arena_printf(arena, "{\"sub\":\"x%s\",\"exp\":1700000060}", sub + 2))),
                 MUSTER_OK);
    cr_assert_eq(strlen(key.name), 63, "and ends with a whole character");
    expect_refused(token_of(muster_arena_printf(arena, "{\"sub\":\"x%s\",\"exp\":1700000060}", sub)), "sub");
    expect_refused(token_of("{\"sub\":\"\",\"exp\":1700000060}"), "sub");
    expect_refused(token_of("{\"sub\":7,\"exp\":1700000060}"), "sub");
    expect_refused(token_of("{\"sub\":\"a\\nb\",\"exp\":1700000060}"), "sub");
    expect_refused(token_of("{\"exp\":1700000060}"), "sub");
}

Test(jwt, subjects_with_the_same_name_are_different_keys)
{
    char sub[101] = "";
    struct muster_id first;

    memset(sub, 'a', 100);
    cr_assert_eq(check(token_of(muster_arena_printf(arena, "{\"sub\":\"%s\",\"exp\":1700000060}", sub))), MUSTER_OK);
    first = key.id;
    sub[99] = 'b';
    cr_assert_eq(check(token_of(muster_arena_printf(arena, "{\"sub\":\"%s\",\"exp\":1700000060}", sub))), MUSTER_OK);
    cr_assert_not(muster_id_equal(&key.id, &first));
}

/* ---- when, from whom, for whom ---- */

Test(jwt, times_are_checked_with_leeway)
{
    cr_expect_eq(check(token_of("{\"sub\":\"a\",\"exp\":1699999971}")), MUSTER_OK, "%s", reason);
    expect_refused(token_of("{\"sub\":\"a\",\"exp\":1699999970}"), "expired");
    cr_expect_eq(check(token_of("{\"sub\":\"a\",\"exp\":1699999970.5}")), MUSTER_OK, "fractions count");
    cr_expect_eq(check(token_of("{" ALICE ",\"nbf\":1700000030}")), MUSTER_OK);
    expect_refused(token_of("{" ALICE ",\"nbf\":1700000031}"), "not valid yet");
    expect_refused(token_of("{" ALICE ",\"nbf\":\"soon\"}"), "nbf");
    expect_refused(token_of("{\"sub\":\"a\"}"), "exp");
    expect_refused(token_of("{\"sub\":\"a\",\"exp\":\"1700000060\"}"), "exp");
    expect_refused(token_of("{\"sub\":\"a\",\"exp\":null}"), "exp");
    expect_refused(token_of("{\"sub\":\"a\",\"exp\":-1}"), "exp");
    expect_refused(token_of("{\"sub\":\"a\",\"exp\":1e300}"), "exp");
    expect_refused(token_of("{\"sub\":\"a\",\"exp\":1700000060000}"), "unix seconds");
}

Test(jwt, issuer_and_audience_must_be_those_of_the_options)
{
    struct jwt_options options = options_of(SECRET);

    options.issuer = "https://issuer";
    options.audience = "muster";
    cr_expect_eq(check_with(&options, token_of("{" ALICE ",\"iss\":\"https://issuer\",\"aud\":\"muster\"}")),
                 MUSTER_OK);
    cr_expect_eq(check_with(&options, token_of("{" ALICE ",\"iss\":\"https://issuer\",\"aud\":[7,\"x\",\"muster\"]}")),
                 MUSTER_OK);
    cr_expect_neq(check_with(&options, token_of("{" ALICE ",\"aud\":\"muster\"}")), MUSTER_OK);
    cr_expect(strstr(reason, "iss"), "%s", reason);
    cr_expect_neq(check_with(&options, token_of("{" ALICE ",\"iss\":\"https://issuer2\",\"aud\":\"muster\"}")),
                  MUSTER_OK);
    cr_expect_neq(check_with(&options, token_of("{" ALICE ",\"iss\":\"https://issuer\"}")), MUSTER_OK);
    cr_expect(strstr(reason, "aud"), "%s", reason);
    cr_expect_neq(check_with(&options, token_of("{" ALICE ",\"iss\":\"https://issuer\",\"aud\":[\"x\"]}")), MUSTER_OK);
    cr_expect_neq(check_with(&options, token_of("{" ALICE ",\"iss\":\"https://issuer\",\"aud\":{\"muster\":1}}")),
                  MUSTER_OK);
    expect_refused(token_of("{" ALICE ",\"iss\":[\"x\"]}"), "iss");
    cr_expect_eq(check(token_of("{" ALICE ",\"iss\":\"any\",\"aud\":\"any\"}")), MUSTER_OK, "the options want none");
}

/* ---- what it may do ---- */

Test(jwt, scopes_are_known_ones_and_never_those_of_an_administrator)
{
    cr_assert_eq(check(token_of("{" ALICE ",\"scope\":\"  teams:read openid  * admin:* teams:fly teams:read \","
                                "\"scopes\":[\"webhooks:manage\",7,\"*\",\"teams:read\",\"admin:*\"]}")),
                 MUSTER_OK);
    cr_assert_eq(key.scopes.count, 2, "%zu", key.scopes.count);
    cr_assert(has_scope("teams:read") && has_scope("webhooks:manage"));
    cr_assert_eq(check(token_of("{" ALICE ",\"scope\":[\"teams:read\"],\"scopes\":\"teams:write\"}")), MUSTER_OK);
    cr_assert_eq(key.scopes.count, 0, "each has its shape");
    cr_assert_eq(check(token_of("{" ALICE ",\"scope\":\"\",\"scopes\":[]}")), MUSTER_OK);
    cr_assert_eq(key.scopes.count, 0);
}

Test(jwt, scopes_are_cut_down_to_those_of_the_options)
{
    static const char *const granted[] = {"teams:write"}, *const all[] = {"*"};
    struct jwt_options options = options_of(SECRET);
    const char *token = token_of("{" ALICE ",\"scope\":\"messages:write teams:write teams:delete processes:read *\"}");

    options.scopes = (struct muster_strs){granted, 1};
    cr_assert_eq(check_with(&options, token), MUSTER_OK);
    cr_assert_eq(key.scopes.count, 2);
    cr_assert(has_scope("messages:write") && has_scope("teams:write"), "teams:write grants messages:write");
    options.scopes = (struct muster_strs){all, 1};
    cr_assert_eq(check_with(&options, token), MUSTER_OK);
    cr_assert_eq(key.scopes.count, 5);
    cr_assert(has_scope("*"));
}

Test(jwt, teams_and_tier_are_taken)
{
    struct muster_buf many = {0};
    int i;

    cr_assert_eq(check(token_of("{" ALICE ",\"teams\":[\"backend\",\"gone\"],\"tier\":\"premium\"}")), MUSTER_OK);
    cr_assert_eq(key.teams.count, 2);
    cr_assert_str_eq(key.teams.items[0], "backend");
    cr_assert_str_eq(key.teams.items[1], "gone");
    cr_assert_eq(key.tier, key_tier_PREMIUM);
    cr_assert_eq(check(token_of("{" ALICE ",\"tier\":\"gold\"}")), MUSTER_OK);
    cr_assert_eq(key.tier, key_tier_NONE, "unknown ones say nothing");
    expect_refused(token_of("{" ALICE ",\"teams\":[]}"), "teams");
    expect_refused(token_of("{" ALICE ",\"teams\":\"backend\"}"), "teams");
    expect_refused(token_of("{" ALICE ",\"teams\":null}"), "teams");
    expect_refused(token_of("{" ALICE ",\"teams\":[\"backend\",1]}"), "teams");
    muster_buf_str(&many, "{" ALICE ",\"teams\":[\"a\"");
    for (i = 0; i < 256; i++)
        muster_buf_str(&many, ",\"a\"");
    muster_buf_str(&many, "]}");
    expect_refused(token_of(many.data), "teams");
    muster_buf_free(&many);
}

/* ---- the header ---- */

Test(jwt, the_algorithm_is_that_of_the_key)
{
    static const char *const headers[] = {
        "{\"alg\":\"none\"}", "{\"alg\":\"HS512\"}", "{\"alg\":\"hs256\"}",   "{\"alg\":\"RS256\"}",
        "{\"alg\":\"\"}",     "{\"typ\":\"JWT\"}",   "{\"alg\":[\"HS256\"]}", "{\"alg\":256}",
        "{\"alg\":null}",     "{\"ALG\":\"HS256\"}",
    };
    size_t i;

    for (i = 0; i < sizeof headers / sizeof *headers; i++)
        expect_refused(sign(headers[i], "{" ALICE "}", SECRET), "alg");
    expect_refused(sign("[\"HS256\"]", "{" ALICE "}", SECRET), "malformed");
    expect_refused(sign("HS256", "{" ALICE "}", SECRET), "malformed");
    expect_refused(sign("{\"alg\":\"HS256\",\"crit\":[\"exp\"]}", "{" ALICE "}", SECRET), "crit");
}

Test(jwt, access_tokens_of_oauth_are_taken_too)
{
    cr_assert_eq(check(sign("{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"1\"}", "{" ALICE "}", SECRET)), MUSTER_OK,
                 "%s", reason);
    cr_assert_eq(check(sign("{\"alg\":\"HS256\"}", "{" ALICE "}", SECRET)), MUSTER_OK);
}

/* ---- tampering ---- */

Test(jwt, any_change_to_a_token_is_refused)
{
    const char *good = token_of("{" ALICE ",\"scope\":\"teams:read\"}");
    static const char letters[] = "Aa0-_.=% ";
    char *bad = muster_arena_str(arena, good, strlen(good));
    size_t size = strlen(good), at, i;

    cr_assert_eq(check(good), MUSTER_OK);
    for (at = 0; at < size; at++) {
        for (i = 0; letters[i]; i++) {
            bad[at] = letters[i];
            cr_assert(strcmp(bad, good) == 0 || check(bad) == MUSTER_UNAUTHORIZED, "%s", bad);
        }
        bad[at] = good[at];
    }
    for (at = 0; at < size; at++)
        cr_assert_eq(check(muster_arena_str(arena, good, at)), MUSTER_UNAUTHORIZED);
    cr_assert_eq(check(muster_arena_printf(arena, "%sA", good)), MUSTER_UNAUTHORIZED);
    cr_assert_eq(check(muster_arena_printf(arena, "%s.", good)), MUSTER_UNAUTHORIZED);
}

Test(jwt, signed_nonsense_is_refused)
{
    static const char *const claims[] = {"",
                                         "{",
                                         "[]",
                                         "7",
                                         "null",
                                         "{\"sub\":\"a\",\"exp\":1700000060",
                                         "x",
                                         "{}x",
                                         "\"alice\"",
                                         "\xff",
                                         "{\"sub\":\"\xff\",\"exp\":1700000060}"};
    size_t i;

    for (i = 0; i < sizeof claims / sizeof *claims; i++)
        cr_expect_eq(check(token_of(claims[i])), MUSTER_UNAUTHORIZED, "%s", claims[i]);
}

Test(jwt, long_tokens_are_refused)
{
    char *text = muster_arena_alloc(arena, 10000);

    memset(text, 'x', 5900);
    cr_assert_eq(check(token_of(muster_arena_printf(arena, "{" ALICE ",\"x\":\"%s\"}", text))), MUSTER_OK);
    memset(text, 'x', 8000);
    expect_refused(token_of(muster_arena_printf(arena, "{" ALICE ",\"x\":\"%s\"}", text)), "longer than 8 KiB");
}

static const char *
deep(int levels)
{
    char *text = muster_arena_alloc(arena, 10000);

    memset(text, '[', (size_t)levels);
    memset(text + levels, ']', (size_t)levels);
    return muster_arena_printf(arena, "{" ALICE ",\"x\":%s}", text);
}

Test(jwt, deep_tokens_are_refused)
{
    cr_assert_eq(check(token_of(deep(60))), MUSTER_OK, "%s", reason);
    expect_refused(token_of(deep(70)), "malformed");
    expect_refused(token_of(deep(2900)), "malformed");
}

/* ---- public keys ---- */

static char folder[64];

/* A new key; its public part is in the file, its private one comes out as PEM.  The caller frees the key. */
static EVP_PKEY *
make_key(EVP_PKEY *made, const char *name, const char **out_path, const char **out_private)
{
    BIO *memory = BIO_new(BIO_s_mem());
    char *text;
    FILE *file;
    long size;

    cr_assert_not_null(made);
    if (folder[0] == '\0') {
        snprintf(folder, sizeof folder, "/tmp/muster-jwt-XXXXXX");
        cr_assert_not_null(mkdtemp(folder));
    }
    *out_path = muster_arena_printf(arena, "%s/%s", folder, name);
    file = fopen(*out_path, "w");
    cr_assert_not_null(file);
    cr_assert_eq(PEM_write_PUBKEY(file, made), 1);
    fclose(file);
    cr_assert_eq(PEM_write_bio_PrivateKey(memory, made, NULL, NULL, 0, NULL, NULL), 1);
    size = BIO_get_mem_data(memory, &text);
    *out_private = muster_arena_str(arena, text, (size_t)size);
    BIO_free(memory);
    return made;
}

static void
drop_key(EVP_PKEY *made, const char *path)
{
    EVP_PKEY_free(made);
    cr_assert_eq(unlink(path), 0);
    if (rmdir(folder) == 0) /* it was the last one */
        folder[0] = '\0';
}

static struct jwt_options
options_with(const char *path)
{
    struct jwt_options options = options_of("");

    options.public_key = path;
    return options;
}

static const char *
read_text(const char *path)
{
    char *text = muster_arena_alloc(arena, 8192);
    FILE *file = fopen(path, "r");

    cr_assert_not_null(file);
    cr_assert_gt(fread(text, 1, 8191, file), 0);
    fclose(file);
    return text;
}

static void
check_public(EVP_PKEY *made, EVP_PKEY *stranger, jwt_alg_t alg, const char *name)
{
    const char *path, *private, *other_path, *other_private, *good, *header;
    struct jwt_options options;
    char *bad;

    made = make_key(made, "ours.pem", &path, &private);
    stranger = make_key(stranger, "other.pem", &other_path, &other_private);
    options = options_with(path);
    good = library_token(alg, private, "{" ALICE ",\"scope\":\"teams:read\"}");
    cr_assert_eq(check_with(&options, good), MUSTER_OK, "%s", reason);
    cr_assert_str_eq(key.name, "jwt:alice");
    cr_assert_neq(check_with(&options, library_token(alg, other_private, "{" ALICE "}")), MUSTER_OK);
    cr_assert(strstr(reason, name), "%s", reason);
    header = muster_arena_printf(arena, "{\"alg\":\"%s\"}", name);
    cr_assert_neq(check_with(&options, sign(header, "{" ALICE "}", read_text(path))), MUSTER_OK, "not by its text");
    cr_assert_neq(check_with(&options, sign("{\"alg\":\"HS256\"}", "{" ALICE "}", read_text(path))), MUSTER_OK);
    cr_assert_neq(check_with(&options, sign("{\"alg\":\"none\"}", "{" ALICE "}", "")), MUSTER_OK);
    cr_assert_neq(check_with(&options, muster_arena_printf(arena, "%s.AAAA", unsigned_token(header, "{" ALICE "}"))),
                  MUSTER_OK);
    bad = muster_arena_str(arena, good, strlen(good));
    bad[strlen(bad) / 3] = bad[strlen(bad) / 3] == 'A' ? 'B' : 'A';
    cr_assert_neq(check_with(&options, bad), MUSTER_OK);
    drop_key(stranger, other_path);
    drop_key(made, path);
}

Test(jwt, an_rsa_key_verifies_rs256_only)
{
    check_public(EVP_RSA_gen(2048), EVP_RSA_gen(2048), JWT_ALG_RS256, "RS256");
}

Test(jwt, a_p256_key_verifies_es256_only)
{
    check_public(EVP_EC_gen("P-256"), EVP_EC_gen("P-256"), JWT_ALG_ES256, "ES256");
}

Test(jwt, longer_digests_of_the_same_key_are_refused)
{
    const char *path, *private;
    EVP_PKEY *made = make_key(EVP_RSA_gen(2048), "rsa.pem", &path, &private);
    struct jwt_options options = options_with(path);

    cr_assert_neq(check_with(&options, library_token(JWT_ALG_RS512, private, "{" ALICE "}")), MUSTER_OK);
    drop_key(made, path);
}

static void
expect_unusable(const char *path, const char *why)
{
    struct jwt_options options = options_with(path);
    struct http_jwt *jwt = NULL;
    char problem[512] = "";

    cr_expect_eq(http_jwt_open(&options, &jwt, problem, sizeof problem), MUSTER_INVALID_REQUEST);
    cr_expect_null(jwt);
    cr_expect(strstr(problem, path), "%s", problem);
    cr_expect(strstr(problem, why), "%s", problem);
}

Test(jwt, keys_that_cannot_be_used_are_told_with_their_path)
{
    const char *path, *private;
    EVP_PKEY *made;

    expect_unusable("/nowhere/key.pem", "No such file or directory");
    expect_unusable("/tmp", "Is a directory");
    expect_unusable("/etc/passwd", "must be a PEM file");
    expect_unusable("/dev/zero", "must be a PEM file");
    made = make_key(EVP_RSA_gen(1024), "short.pem", &path, &private);
    expect_unusable(path, "2048");
    drop_key(made, path);
    made = make_key(EVP_EC_gen("P-384"), "curve.pem", &path, &private);
    expect_unusable(path, "P-256");
    drop_key(made, path);
    made = make_key(EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), "ed.pem", &path, &private);
    expect_unusable(path, "P-256");
    drop_key(made, path);
}

/* ---- small stacks ---- */

struct look {
    const struct http_jwt *jwt;
    const char *token;
    muster_err err;
};

static void *
check_there(void *arg)
{
    struct look *look = arg;

    look->err = http_jwt_check(look->jwt, look->token, NOW_MS, arena, &key, &reason);
    return NULL;
}

/* On a thread like those of connections. */
static muster_err
check_on_small_stack(const struct jwt_options *options, const char *token)
{
    struct look look = {.token = token};
    struct http_jwt *jwt = NULL;
    char problem[512] = "";
    pthread_attr_t attributes;
    pthread_t thread;

    cr_assert_eq(http_jwt_open(options, &jwt, problem, sizeof problem), MUSTER_OK, "%s", problem);
    look.jwt = jwt;
    cr_assert_eq(pthread_attr_init(&attributes), 0);
    cr_assert_eq(pthread_attr_setstacksize(&attributes, 64 * 1024), 0); /* they have 100 KiB, and use some before */
    cr_assert_eq(pthread_create(&thread, &attributes, check_there, &look), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    (void)pthread_attr_destroy(&attributes);
    http_jwt_close(&jwt);
    return look.err;
}

Test(jwt, small_stacks_are_enough)
{
    const char *path, *private;
    struct jwt_options options = options_of(SECRET);
    EVP_PKEY *made;

    cr_expect_eq(check_on_small_stack(&options, token_of(deep(60))), MUSTER_OK);
    cr_expect_eq(check_on_small_stack(&options, token_of(deep(2900))), MUSTER_UNAUTHORIZED);
    made = make_key(EVP_RSA_gen(4096), "rsa.pem", &path, &private);
    options = options_with(path);
    cr_expect_eq(check_on_small_stack(&options, library_token(JWT_ALG_RS256, private, deep(60))), MUSTER_OK);
    drop_key(made, path);
    made = make_key(EVP_EC_gen("P-256"), "ec.pem", &path, &private);
    options = options_with(path);
    cr_expect_eq(check_on_small_stack(&options, library_token(JWT_ALG_ES256, private, deep(60))), MUSTER_OK);
    drop_key(made, path);
}
