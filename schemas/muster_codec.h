/* SPDX-License-Identifier: MPL-2.0 */
/* Structs to bytes and back, driven by the rows of a type: msgpack for messages, records and events, JSON at the edges.
 *
 * Decoding takes any bytes at all and either fills the whole struct or changes nothing and says which field was wrong.
 * Decoded text and lists live in the arena; nothing points into the source.  Unknown fields are ignored in msgpack and
 * by muster_json_decode unless MUSTER_JSON_STRICT.  Any thread, one arena per thread. */
#ifndef MUSTER_CODEC_H
#define MUSTER_CODEC_H

#include "schemas/muster_buf.h"
#include "schemas/muster_schema.h"

/* Nesting that JSON texts may have; deeper is MUSTER_INVALID_REQUEST.  In msgpack it is 32. */
#define MUSTER_DEPTH_MAX 64

/* A copy in the arena. */
static inline struct muster_bytes
muster_bytes_copy(struct muster_arena *arena, const void *data, size_t size)
{
    return (struct muster_bytes){(const uint8_t *)muster_arena_str(arena, data, size), size};
}

/* Append the struct `in` of `type` as one msgpack map. */
void muster_pack(const struct muster_type *type, const void *in, struct muster_buf *out);
/* MUSTER_INVALID_REQUEST with `fault` (may be NULL) filled when the bytes do not fit the rows. */
muster_err muster_unpack(const struct muster_type *type, const void *data, size_t size, struct muster_arena *arena,
                         void *out, struct muster_fault *fault);

enum { MUSTER_JSON_STRICT = 1 /* an unknown field is an error */ };
/* Append as compact JSON. */
void muster_json_encode(const struct muster_type *type, const void *in, struct muster_buf *out);
muster_err muster_json_decode(const struct muster_type *type, const char *text, size_t size, int flags,
                              struct muster_arena *arena, void *out, struct muster_fault *fault);
/* Is the text at most MUSTER_DEPTH_MAX deep?  Looks at brackets outside strings only: no recursion, no allocation. */
bool muster_json_shallow(const char *text, size_t size);
/* Append `text` as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void muster_json_quote(struct muster_buf *out, const char *text, size_t size);
/* Append `size` bytes of text, each byte that is not part of valid UTF-8, and each NUL, replaced by U+FFFD. */
void muster_utf8_clean(struct muster_buf *out, const char *text, size_t size);

/* Who calls, and what is left of their rate.  Travels with a request and comes back with its answer. */
struct muster_principal {
    struct muster_id key;  /* zero: the daemon itself */
    const char *name;      /* key's name; "" inside the daemon */
    int64_t rate_limit;    /* requests per window; 0: unlimited or not counted yet */
    int64_t rate_left;     /* requests left */
    int64_t rate_reset_s;  /* unix seconds when the window or bucket is full again */
    int64_t rate_window_s; /* length of the window in seconds */
};

/* First part of every message.  On the wire one msgpack array:
 * [version, type, id, reply address, deadline, trace, [key, name, limit, left, reset, window], body map]. */
struct muster_envelope {
    const char *type;     /* wire name */
    int64_t id;           /* the sender's number for the request; answers carry it back */
    const char *reply_to; /* address that the answer goes to; "" none */
    int64_t deadline_ms;  /* unix ms after which nobody waits any more; 0 none */
    const char *trace;    /* request id that follows the work through logs; "" none */
    struct muster_principal principal;
    struct muster_bytes body; /* points into the frame it was decoded from */
};
#define MUSTER_ENVELOPE_VERSION 1

/* Append the envelope and the body `in` of `type`; envelope->type and ->body are ignored. */
void muster_envelope_pack(const struct muster_envelope *envelope, const struct muster_type *type, const void *in,
                          struct muster_buf *out);
/* Append the envelope around a body that is packed already, under envelope->type. */
void muster_envelope_wrap(const struct muster_envelope *envelope, struct muster_buf *out);
/* Any bytes.  Text goes to the arena, `body` points into `data`. */
muster_err muster_envelope_unpack(const void *data, size_t size, struct muster_arena *arena,
                                  struct muster_envelope *out);
/* The same, but of the body only the first bytes are looked at: for frames whose body is given to muster_unpack next,
 * which looks at all of it, and to nobody else. */
muster_err muster_envelope_open(const void *data, size_t size, struct muster_arena *arena, struct muster_envelope *out);

#endif
