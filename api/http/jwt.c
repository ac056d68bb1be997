/* SPDX-License-Identifier: MPL-2.0 */
/* JSON Web Tokens; see jwt.h.
 *
 * The configured key says how a token is signed, never the token: the signature is verified over the bytes that came,
 * before anything in them is parsed, and in constant time where it is a digest (libjwt compares with strcmp).  Then
 * libjwt parses header and claims.  It gets each as the claims of a token without signature, since it would refuse the
 * `typ` of OAuth access tokens (RFC 9068) otherwise.  Runs on connections' threads, whose stacks are small: what is
 * parsed is at most MUSTER_DEPTH_MAX deep. */
#include "api/http/jwt.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <jwt.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schemas/muster_options.h"

enum {
    PEM_MAX = 65536,      /* bytes of a key file */
    RSA_BITS = 2048,      /* at least */
    ES256_HALF = 32,      /* bytes of each of the two numbers of a signature */
    SUBJECT_MAX = 100,    /* characters */
    NAME_MAX_BYTES = 64,  /* as of other keys */
    TOKEN_TEAMS_MAX = 256 /* likewise */
};

#define LAST_SECOND INT64_C(253402300799) /* of the year 9999; a later one is most likely milliseconds */
#define UNSIGNED "eyJhbGciOiJub25lIn0."   /* {"alg":"none"} */
#define BASE64URL "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

struct http_jwt {
    const struct jwt_options *options; /* borrowed */
    const char *alg;                   /* what the header of a token must say */
    EVP_PKEY *key;                     /* NULL: HS256 with the secret of the options */
};

/* A token, split. */
struct parts {
    const char *head, *claims, *signature;
    size_t head_size, claims_size, signature_size;
};

/* ---- opening ---- */

static muster_err
read_file(const char *path, char *text, size_t room, size_t *out_size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), error = 0;
    size_t size = 0;
    ssize_t got = 1;

    if (fd < 0)
        return MUSTER_NOT_FOUND;
    while (size < room && (got = read(fd, text + size, room - size)) > 0)
        size += (size_t)got;
    if (got < 0)
        error = errno;
    close(fd);
    errno = error;
    if (got < 0)
        return MUSTER_NOT_FOUND;
    *out_size = size;
    return MUSTER_OK;
}

/* What `alg` this key verifies; NULL: none that is taken. */
static const char *
alg_of(const EVP_PKEY *key)
{
    char curve[64] = "";

    if (EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA && EVP_PKEY_get_bits(key) >= RSA_BITS)
        return "RS256";
    if (EVP_PKEY_get_base_id(key) == EVP_PKEY_EC && EVP_PKEY_get_group_name(key, curve, sizeof curve, NULL) == 1 &&
        strcmp(curve, "prime256v1") == 0)
        return "ES256";
    return NULL;
}

static muster_err
load_key(struct http_jwt *jwt, const char *path, char *problem, size_t problem_size)
{
    char *text = muster_alloc(PEM_MAX);
    size_t size = 0;
    BIO *bio;

    if (read_file(path, text, PEM_MAX, &size)) {
        (void)snprintf(problem, problem_size, "auth.jwt.public_key: %s cannot be read: %s", path, strerror(errno));
        free(text);
        return MUSTER_INVALID_REQUEST;
    }
    bio = BIO_new_mem_buf(text, (int)size);
    jwt->key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    free(text);
    jwt->alg = jwt->key ? alg_of(jwt->key) : NULL;
    ERR_clear_error();
    if (jwt->alg)
        return MUSTER_OK;
    (void)snprintf(problem, problem_size,
                   "auth.jwt.public_key: %s must be a PEM file with the PUBLIC KEY of RSA, at least 2048 bits, or of "
                   "the curve P-256",
                   path);
    return MUSTER_INVALID_REQUEST;
}

muster_err
http_jwt_open(const struct jwt_options *options, struct http_jwt **out_jwt, char *problem, size_t size)
{
    struct http_jwt *jwt;
    muster_err err = MUSTER_OK;

    if (options->secret[0] == '\0' && options->public_key[0] == '\0') {
        *out_jwt = NULL;
        return MUSTER_OK;
    }
    jwt = muster_alloc(sizeof *jwt);
    *jwt = (struct http_jwt){.options = options, .alg = "HS256"};
    if (options->public_key[0])
        err = load_key(jwt, options->public_key, problem, size);
    if (err)
        http_jwt_close(&jwt);
    else
        *out_jwt = jwt;
    return err;
}

void
http_jwt_close(struct http_jwt **jwt_p)
{
    struct http_jwt *jwt = *jwt_p;

    if (jwt == NULL)
        return;
    EVP_PKEY_free(jwt->key);
    free(jwt);
    *jwt_p = NULL;
}

/* ---- the bytes of a token ---- */

static bool
split(const char *token, struct parts *out)
{
    out->head = token;
    out->head_size = strspn(token, BASE64URL);
    out->claims = token + out->head_size + 1;
    if (out->head_size == 0 || out->claims[-1] != '.')
        return false;
    out->claims_size = strspn(out->claims, BASE64URL);
    out->signature = out->claims + out->claims_size + 1;
    if (out->claims_size == 0 || out->signature[-1] != '.')
        return false;
    out->signature_size = strspn(out->signature, BASE64URL);
    return out->signature_size > 0 && out->signature[out->signature_size] == '\0';
}

bool
http_jwt_is_token(const char *text)
{
    struct parts parts;

    return split(text, &parts);
}

/* NULL: it is not base64url. */
static uint8_t *
decode(const char *text, size_t size, struct muster_arena *arena, size_t *out_size)
{
    char *plain = muster_arena_str(arena, text, size);
    uint8_t *data = muster_arena_alloc(arena, size + 1);
    size_t i;

    for (i = 0; i < size; i++)
        if (plain[i] == '-')
            plain[i] = '+';
        else if (plain[i] == '_')
            plain[i] = '/';
    return muster_unbase64(plain, data, size, out_size) ? NULL : data;
}

/* ---- the signature ---- */

/* The two numbers of an ES256 signature in the shape that the library wants; the caller frees it.  0: it has another
 * size. */
static int
wrap_numbers(const uint8_t *signature, size_t size, uint8_t **out_der)
{
    BIGNUM *r, *s;
    ECDSA_SIG *numbers;
    int der_size;

    *out_der = NULL;
    if (size != 2 * ES256_HALF)
        return 0;
    numbers = ECDSA_SIG_new();
    r = BN_bin2bn(signature, ES256_HALF, NULL);
    s = BN_bin2bn(signature + ES256_HALF, ES256_HALF, NULL);
    MUSTER_ASSERT(numbers && r && s && ECDSA_SIG_set0(numbers, r, s) == 1);
    der_size = i2d_ECDSA_SIG(numbers, out_der);
    ECDSA_SIG_free(numbers);
    return der_size > 0 ? der_size : 0;
}

static bool
is_signed_by(EVP_PKEY *key, const struct parts *parts, const uint8_t *signature, size_t size)
{
    size_t text_size = (size_t)(parts->signature - 1 - parts->head);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    uint8_t *der = NULL;
    bool good;

    if (EVP_PKEY_get_base_id(key) == EVP_PKEY_EC) {
        size = (size_t)wrap_numbers(signature, size, &der);
        signature = der;
    }
    good = context && size > 0 && EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key) == 1 &&
           EVP_DigestVerify(context, signature, size, (const uint8_t *)parts->head, text_size) == 1;
    EVP_MD_CTX_free(context);
    OPENSSL_free(der);
    ERR_clear_error();
    return good;
}

static bool
is_signed(const struct http_jwt *jwt, const struct parts *parts, struct muster_arena *arena)
{
    const char *secret = jwt->options->secret;
    uint8_t digest[MUSTER_DIGEST];
    size_t size;
    uint8_t *signature = decode(parts->signature, parts->signature_size, arena, &size);

    if (signature == NULL)
        return false;
    if (jwt->key)
        return is_signed_by(jwt->key, parts, signature, size);
    muster_hmac_sha256(secret, strlen(secret), parts->head, (size_t)(parts->signature - 1 - parts->head), digest);
    return size == MUSTER_DIGEST && muster_digest_equal(signature, digest);
}

/* ---- header and claims ---- */

/* The JSON object of a part; NULL: it is none.  The caller lets go of it. */
static json_t *
parse(const char *part, size_t size, struct muster_arena *arena)
{
    json_t *object = NULL;
    jwt_t *token = NULL;
    size_t text_size;
    const uint8_t *text = decode(part, size, arena, &text_size);
    char *claims = NULL;

    if (text == NULL || !muster_json_shallow((const char *)text, text_size))
        return NULL;
    if (jwt_decode(&token, muster_arena_printf(arena, UNSIGNED "%.*s.", (int)size, part), NULL, 0) == 0)
        claims = jwt_get_grants_json(token, NULL);
    if (claims)
        object = json_loads(claims, 0, NULL);
    free(claims);
    jwt_free(token);
    if (json_is_object(object))
        return object;
    json_decref(object);
    return NULL;
}

static muster_err
refuse(const char **out_reason, const char *reason)
{
    *out_reason = reason;
    return MUSTER_UNAUTHORIZED;
}

static muster_err
check_header(const struct http_jwt *jwt, const json_t *header, struct muster_arena *arena, const char **out_reason)
{
    const char *alg = json_string_value(json_object_get(header, "alg"));

    if (alg == NULL || strcmp(alg, jwt->alg) != 0)
        return refuse(out_reason, muster_arena_printf(arena, "The alg of the token must be %s", jwt->alg));
    if (json_object_get(header, "crit"))
        return refuse(out_reason, "The token has critical extensions (crit), and none is known here");
    return MUSTER_OK;
}

/* Unix ms from the seconds of a claim.  False: it is not a time. */
static bool
read_time(const json_t *claim, int64_t *out_ms)
{
    double seconds = json_number_value(claim);

    if (!json_is_number(claim) || seconds < 0 || seconds > (double)LAST_SECOND)
        return false;
    *out_ms = (int64_t)(seconds * 1000);
    return true;
}

static muster_err
check_times(const struct http_jwt *jwt, const json_t *claims, int64_t now_ms, struct key *key, const char **out_reason)
{
    const json_t *not_before = json_object_get(claims, "nbf");
    int64_t leeway_ms = jwt->options->leeway, expires_ms, begins_ms = 0;

    if (!read_time(json_object_get(claims, "exp"), &expires_ms))
        return refuse(out_reason, "The token must say when it expires (exp), in unix seconds");
    if (now_ms >= expires_ms + leeway_ms)
        return refuse(out_reason, "The token has expired");
    if (not_before && !read_time(not_before, &begins_ms))
        return refuse(out_reason, "The token's nbf must be unix seconds");
    if (begins_ms > now_ms + leeway_ms)
        return refuse(out_reason, "The token is not valid yet");
    key->expires_ms = expires_ms + leeway_ms;
    return MUSTER_OK;
}

static bool
is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static bool
holds(const json_t *value, const char *text)
{
    size_t i;

    if (is_text(value, text))
        return true;
    for (i = 0; i < json_array_size(value); i++)
        if (is_text(json_array_get(value, i), text))
            return true;
    return false;
}

static muster_err
check_parties(const struct http_jwt *jwt, const json_t *claims, const char **out_reason)
{
    const json_t *issuer = json_object_get(claims, "iss");

    if (issuer && !json_is_string(issuer))
        return refuse(out_reason, "The token's iss must be text");
    if (jwt->options->issuer[0] && !is_text(issuer, jwt->options->issuer))
        return refuse(out_reason, "The token is from another issuer (iss)");
    if (jwt->options->audience[0] && !holds(json_object_get(claims, "aud"), jwt->options->audience))
        return refuse(out_reason, "The token is for another audience (aud)");
    return MUSTER_OK;
}

/* ---- who it is, and what it may do ---- */

/* Bytes of the first `most` characters. */
static size_t
first_characters(const char *text, size_t most)
{
    size_t size = 0;

    for (; text[size] != '\0'; size++)
        if (((unsigned char)text[size] & 0xc0) != 0x80 && most-- == 0)
            break;
    return size;
}

static bool
is_subject(const char *text)
{
    const char *at;

    if (text == NULL || *text == '\0' || text[first_characters(text, SUBJECT_MAX)] != '\0')
        return false;
    for (at = text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 127)
            return false;
    return true;
}

static muster_err
name_key(const json_t *claims, struct muster_arena *arena, struct key *key, const char **out_reason)
{
    const char *issuer = json_string_value(json_object_get(claims, "iss"));
    const char *subject = json_string_value(json_object_get(claims, "sub"));
    char *name;
    size_t size;

    if (!is_subject(subject))
        return refuse(out_reason, "The token must say for whom it is (sub), in 1 to 100 characters");
    key->id = muster_id_of("jwt", muster_arena_printf(arena, "%s %s", issuer ? issuer : "", subject));
    name = muster_arena_printf(arena, "jwt:%s", subject);
    size = strlen(name);
    if (size > NAME_MAX_BYTES)
        for (size = NAME_MAX_BYTES; ((unsigned char)name[size] & 0xc0) == 0x80; size--)
            ;
    name[size] = '\0';
    key->name = name;
    return MUSTER_OK;
}

/* Would the options grant it to a token? */
static bool
may_have(const struct http_jwt *jwt, const char *scope)
{
    const struct muster_strs *granted = &jwt->options->scopes;

    if (!muster_scope_known(scope))
        return false;
    if (granted->count == 0)
        return strcmp(scope, "*") != 0 && strcmp(scope, "admin:*") != 0;
    return muster_scope_grants(granted, scope);
}

static void
add_scope(const struct http_jwt *jwt, const char *scope, const char **items, struct muster_strs *out)
{
    size_t i;

    for (i = 0; i < out->count && strcmp(items[i], scope) != 0; i++)
        ;
    if (i == out->count && may_have(jwt, scope))
        items[out->count++] = scope;
}

static void
read_scopes(const struct http_jwt *jwt, const json_t *claims, struct muster_arena *arena, struct muster_strs *out)
{
    const char *word = json_string_value(json_object_get(claims, "scope"));
    const json_t *list = json_object_get(claims, "scopes");
    size_t room = json_array_size(list) + (word ? strlen(word) : 0), size, i;
    const char **items = muster_arena_alloc(arena, (room + 1) * sizeof *items);

    *out = (struct muster_strs){items, 0};
    for (; word && *(word += strspn(word, " ")) != '\0'; word += size) {
        size = strcspn(word, " ");
        add_scope(jwt, muster_arena_str(arena, word, size), items, out);
    }
    for (i = 0; i < json_array_size(list); i++)
        if (json_is_string(json_array_get(list, i)))
            add_scope(jwt, muster_arena_printf(arena, "%s", json_string_value(json_array_get(list, i))), items, out);
}

/* No teams would mean all of them, so a list that is there must not be empty. */
static muster_err
read_teams(const json_t *claims, struct muster_arena *arena, struct muster_strs *out, const char **out_reason)
{
    static const char expected[] = "The token's teams must be a list of 1 to 256 names; without it all teams are meant";
    const json_t *list = json_object_get(claims, "teams");
    const char **items;
    size_t count = json_array_size(list), i;

    *out = (struct muster_strs){NULL, 0};
    if (list == NULL)
        return MUSTER_OK;
    if (count == 0 || count > TOKEN_TEAMS_MAX)
        return refuse(out_reason, expected);
    items = muster_arena_alloc(arena, count * sizeof *items);
    for (i = 0; i < count; i++) {
        if (!json_is_string(json_array_get(list, i)))
            return refuse(out_reason, expected);
        items[i] = muster_arena_printf(arena, "%s", json_string_value(json_array_get(list, i)));
    }
    *out = (struct muster_strs){items, count};
    return MUSTER_OK;
}

static muster_err
read_claims(const struct http_jwt *jwt, const json_t *claims, int64_t now_ms, struct muster_arena *arena,
            struct key *key, const char **out_reason)
{
    const char *tier = json_string_value(json_object_get(claims, "tier"));
    muster_err err = check_times(jwt, claims, now_ms, key, out_reason);

    if (err == MUSTER_OK)
        err = check_parties(jwt, claims, out_reason);
    if (err == MUSTER_OK)
        err = name_key(claims, arena, key, out_reason);
    if (err == MUSTER_OK)
        err = read_teams(claims, arena, &key->teams, out_reason);
    read_scopes(jwt, claims, arena, &key->scopes);
    if (tier)
        key->tier = (enum key_tier)muster_enum_value(&key_tier_enum, tier);
    return err;
}

muster_err
http_jwt_check(const struct http_jwt *jwt, const char *token, int64_t now_ms, struct muster_arena *arena,
               struct key *out_key, const char **out_reason)
{
    struct key key = {.name = ""};
    json_t *header = NULL, *claims = NULL;
    struct parts parts;
    muster_err err = MUSTER_OK;

    if (strlen(token) > HTTP_JWT_BYTES)
        return refuse(out_reason, "The token is longer than 8 KiB");
    if (!split(token, &parts) || !is_signed(jwt, &parts, arena))
        return refuse(out_reason, muster_arena_printf(arena, "The signature of the token is not good (%s)", jwt->alg));
    header = parse(parts.head, parts.head_size, arena);
    claims = parse(parts.claims, parts.claims_size, arena);
    if (header == NULL || claims == NULL)
        err = refuse(out_reason, "The token is malformed");
    if (err == MUSTER_OK)
        err = check_header(jwt, header, arena, out_reason);
    if (err == MUSTER_OK)
        err = read_claims(jwt, claims, now_ms, arena, &key, out_reason);
    json_decref(header);
    json_decref(claims);
    if (err == MUSTER_OK)
        *out_key = key;
    return err;
}
