/* SPDX-License-Identifier: MPL-2.0 */
/* JSON Web Tokens as credentials.  Any thread once it is open; nothing in it changes.  What can fail: a key that cannot
 * be read, and any token. */
#ifndef HTTP_JWT_H
#define HTTP_JWT_H

#include "schemas/muster_codec.h"

#define HTTP_JWT_BYTES 8192 /* a token is not longer */

struct http_jwt;

/* Load the secret or public key of the options, which are borrowed.  *out_jwt NULL: they have neither, so no token is
 * taken.  MUSTER_INVALID_REQUEST: the key cannot be used; `problem` says which and why. */
muster_err http_jwt_open(const struct jwt_options *options, struct http_jwt **out_jwt, char *problem, size_t size);
void http_jwt_close(struct http_jwt **jwt_p);

/* Has it the shape of a token: three base64url parts with dots between them? */
bool http_jwt_is_token(const char *text);
/* Verify a token, and make the key that it stands for; its texts go to the arena.  It has an id and a name that are
 * always the same for the same issuer and subject, and ends when the token does.  MUSTER_UNAUTHORIZED with
 * *out_reason. */
muster_err http_jwt_check(const struct http_jwt *jwt, const char *token, int64_t now_ms, struct muster_arena *arena,
                          struct key *out_key, const char **out_reason);

#endif
