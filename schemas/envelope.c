/* SPDX-License-Identifier: MPL-2.0 */
/* The envelope around every message.  Any thread.  What can fail: bytes that are no envelope of this version. */
#include <string.h>

#include "schemas/pack.h"
#include "schemas/text.h"

#define ENVELOPE_ITEMS 8
#define PRINCIPAL_ITEMS 6
#define TYPE_BYTES 64
#define TEXT_BYTES 128 /* addresses, traces, names */

/* ---- writing ---- */

static void
put_principal(struct muster_buf *out, const struct muster_principal *principal)
{
    pack_list(out, PRINCIPAL_ITEMS);
    pack_bytes(out, principal->key.bytes, sizeof principal->key.bytes);
    pack_text(out, principal->name);
    pack_int(out, principal->rate_limit);
    pack_int(out, principal->rate_left);
    pack_int(out, principal->rate_reset_s);
    pack_int(out, principal->rate_window_s);
}

/* Everything but the body. */
static void
put_head(struct muster_buf *out, const struct muster_envelope *envelope, const char *type)
{
    (void)muster_buf_room(out, PACK_ROOM);
    pack_list(out, ENVELOPE_ITEMS);
    pack_int(out, MUSTER_ENVELOPE_VERSION);
    pack_text(out, type);
    pack_int(out, envelope->id);
    pack_text(out, envelope->reply_to);
    pack_int(out, envelope->deadline_ms);
    pack_text(out, envelope->trace);
    put_principal(out, &envelope->principal);
}

void
muster_envelope_pack(const struct muster_envelope *envelope, const struct muster_type *type, const void *in,
                     struct muster_buf *out)
{
    put_head(out, envelope, type->wire);
    pack_struct(out, type, in);
}

void
muster_envelope_wrap(const struct muster_envelope *envelope, struct muster_buf *out)
{
    static const uint8_t empty_map = 0x80;

    put_head(out, envelope, envelope->type);
    if (envelope->body.size > 0)
        muster_buf_add(out, envelope->body.data, envelope->body.size);
    else
        muster_buf_add(out, &empty_map, 1);
}

/* ---- reading ---- */

enum { ITEM_LEVEL = 1, PRINCIPAL_LEVEL = 2 };

static bool
get_int(struct pack_reader *reader, size_t level, int64_t *out)
{
    struct decode_value value;

    if (!pack_read(reader, level, &value) || value.shape != DECODE_INT)
        return false;
    *out = value.number;
    return true;
}

static bool
get_text(struct pack_reader *reader, size_t level, size_t max, struct muster_arena *arena, const char **out)
{
    struct decode_value value;

    if (!pack_read(reader, level, &value) || value.shape != DECODE_TEXT || value.size > max ||
        !text_is_clean(value.text, value.size))
        return false;
    *out = muster_arena_str(arena, value.text, value.size);
    return true;
}

static bool
get_list(struct pack_reader *reader, size_t level, size_t items)
{
    struct decode_value value;

    return pack_read(reader, level, &value) && value.shape == DECODE_LIST && value.size == items;
}

static bool
get_principal(struct pack_reader *reader, struct muster_arena *arena, struct muster_principal *out)
{
    struct decode_value key;

    if (!get_list(reader, ITEM_LEVEL, PRINCIPAL_ITEMS))
        return false;
    if (!pack_read(reader, PRINCIPAL_LEVEL, &key) || key.shape != DECODE_BYTES || key.size != sizeof out->key.bytes)
        return false;
    memcpy(out->key.bytes, key.text, sizeof out->key.bytes);
    return get_text(reader, PRINCIPAL_LEVEL, TEXT_BYTES, arena, &out->name) &&
           get_int(reader, PRINCIPAL_LEVEL, &out->rate_limit) && get_int(reader, PRINCIPAL_LEVEL, &out->rate_left) &&
           get_int(reader, PRINCIPAL_LEVEL, &out->rate_reset_s) &&
           get_int(reader, PRINCIPAL_LEVEL, &out->rate_window_s);
}

static bool
get_head(struct pack_reader *reader, struct muster_arena *arena, struct muster_envelope *out)
{
    int64_t version;

    return get_list(reader, 0, ENVELOPE_ITEMS) && get_int(reader, ITEM_LEVEL, &version) &&
           version == MUSTER_ENVELOPE_VERSION && get_text(reader, ITEM_LEVEL, TYPE_BYTES, arena, &out->type) &&
           out->type[0] != '\0' && get_int(reader, ITEM_LEVEL, &out->id) &&
           get_text(reader, ITEM_LEVEL, TEXT_BYTES, arena, &out->reply_to) &&
           get_int(reader, ITEM_LEVEL, &out->deadline_ms) &&
           get_text(reader, ITEM_LEVEL, TEXT_BYTES, arena, &out->trace) &&
           get_principal(reader, arena, &out->principal);
}

muster_err
muster_envelope_open(const void *data, size_t size, struct muster_arena *arena, struct muster_envelope *out)
{
    struct muster_envelope envelope = {0};
    struct pack_reader reader;
    struct decode_value body;

    pack_read_begin(&reader, data, size);
    if (!get_head(&reader, arena, &envelope))
        return MUSTER_INVALID_REQUEST;
    envelope.body = (struct muster_bytes){reader.at, (size_t)(reader.end - reader.at)};
    if (!pack_read(&reader, ITEM_LEVEL, &body) || body.shape != DECODE_MAP)
        return MUSTER_INVALID_REQUEST;
    *out = envelope;
    return MUSTER_OK;
}

muster_err
muster_envelope_unpack(const void *data, size_t size, struct muster_arena *arena, struct muster_envelope *out)
{
    struct muster_envelope envelope;
    struct pack_reader body;

    if (muster_envelope_open(data, size, arena, &envelope))
        return MUSTER_INVALID_REQUEST;
    pack_read_begin(&body, envelope.body.data, envelope.body.size);
    if (!pack_read_end(&body))
        return MUSTER_INVALID_REQUEST;
    *out = envelope;
    return MUSTER_OK;
}
