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
put_principal(msgpack_packer *packer, const struct muster_principal *principal)
{
    (void)msgpack_pack_array(packer, PRINCIPAL_ITEMS);
    (void)msgpack_pack_bin_with_body(packer, principal->key.bytes, sizeof principal->key.bytes);
    pack_text(packer, principal->name);
    (void)msgpack_pack_int64(packer, principal->rate_limit);
    (void)msgpack_pack_int64(packer, principal->rate_left);
    (void)msgpack_pack_int64(packer, principal->rate_reset_s);
    (void)msgpack_pack_int64(packer, principal->rate_window_s);
}

/* Everything but the body. */
static void
put_head(msgpack_packer *packer, const struct muster_envelope *envelope, const char *type)
{
    (void)msgpack_pack_array(packer, ENVELOPE_ITEMS);
    (void)msgpack_pack_int64(packer, MUSTER_ENVELOPE_VERSION);
    pack_text(packer, type);
    (void)msgpack_pack_int64(packer, envelope->id);
    pack_text(packer, envelope->reply_to);
    (void)msgpack_pack_int64(packer, envelope->deadline_ms);
    pack_text(packer, envelope->trace);
    put_principal(packer, &envelope->principal);
}

void
muster_envelope_pack(const struct muster_envelope *envelope, const struct muster_type *type, const void *in,
                     struct muster_buf *out)
{
    msgpack_packer packer;

    pack_begin(&packer, out);
    put_head(&packer, envelope, type->wire);
    pack_struct(&packer, type, in);
}

void
muster_envelope_wrap(const struct muster_envelope *envelope, struct muster_buf *out)
{
    msgpack_packer packer;

    pack_begin(&packer, out);
    put_head(&packer, envelope, envelope->type);
    if (envelope->body.size > 0)
        muster_buf_add(out, envelope->body.data, envelope->body.size);
    else
        (void)msgpack_pack_map(&packer, 0);
}

/* ---- reading ---- */

static bool
get_int(const msgpack_object *object, int64_t *out)
{
    if (object->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        *out = object->via.i64;
    else if (object->type == MSGPACK_OBJECT_POSITIVE_INTEGER && object->via.u64 <= INT64_MAX)
        *out = (int64_t)object->via.u64;
    else
        return false;
    return true;
}

static bool
get_text(const msgpack_object *object, size_t max, struct muster_arena *arena, const char **out)
{
    if (object->type != MSGPACK_OBJECT_STR || object->via.str.size > max ||
        !text_is_clean(object->via.str.ptr, object->via.str.size))
        return false;
    *out = muster_arena_str(arena, object->via.str.ptr, object->via.str.size);
    return true;
}

static bool
get_principal(const msgpack_object *object, struct muster_arena *arena, struct muster_principal *out)
{
    const msgpack_object *item = object->via.array.ptr;

    if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size != PRINCIPAL_ITEMS)
        return false;
    if (item[0].type != MSGPACK_OBJECT_BIN || item[0].via.bin.size != sizeof out->key.bytes)
        return false;
    memcpy(out->key.bytes, item[0].via.bin.ptr, sizeof out->key.bytes);
    return get_text(&item[1], TEXT_BYTES, arena, &out->name) && get_int(&item[2], &out->rate_limit) &&
           get_int(&item[3], &out->rate_left) && get_int(&item[4], &out->rate_reset_s) &&
           get_int(&item[5], &out->rate_window_s);
}

static bool
get_head(const msgpack_object *item, struct muster_arena *arena, struct muster_envelope *out)
{
    int64_t version;

    return get_int(&item[0], &version) && version == MUSTER_ENVELOPE_VERSION &&
           get_text(&item[1], TYPE_BYTES, arena, &out->type) && out->type[0] != '\0' && get_int(&item[2], &out->id) &&
           get_text(&item[3], TEXT_BYTES, arena, &out->reply_to) && get_int(&item[4], &out->deadline_ms) &&
           get_text(&item[5], TEXT_BYTES, arena, &out->trace) && get_principal(&item[6], arena, &out->principal);
}

/* The items are parsed one by one and the body is only walked over, so that it can stay where it is. */
muster_err
muster_envelope_unpack(const void *data, size_t size, struct muster_arena *arena, struct muster_envelope *out)
{
    const uint8_t *bytes = data;
    msgpack_object items[ENVELOPE_ITEMS - 1];
    struct muster_envelope envelope = {0};
    struct pack_head head;
    size_t at, item_size, i;

    if (!pack_read_head(bytes, size, &head) || head.map || head.values != ENVELOPE_ITEMS)
        return MUSTER_INVALID_REQUEST;
    at = head.size;
    for (i = 0; i < ENVELOPE_ITEMS - 1; i++) {
        item_size = pack_scan(bytes + at, size - at);
        if (item_size == 0 || !pack_parse(bytes + at, item_size, arena, &items[i]))
            return MUSTER_INVALID_REQUEST;
        at += item_size;
    }
    envelope.body = (struct muster_bytes){bytes + at, size - at};
    if (!pack_read_head(bytes + at, size - at, &head) || !head.map || pack_scan(bytes + at, size - at) != size - at)
        return MUSTER_INVALID_REQUEST;
    if (!get_head(items, arena, &envelope))
        return MUSTER_INVALID_REQUEST;
    *out = envelope;
    return MUSTER_OK;
}
