/* SPDX-License-Identifier: MPL-2.0 */
/* Any bytes as an envelope and as a body of every message, event and record.  What decodes is encoded and decoded
 * again: the bytes of both encodings must be the same, in msgpack always, by way of JSON where its JSON texts are
 * valid. */
#include <string.h>

#include "schemas/muster_codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_json(const struct muster_type *type, const void *value, struct muster_arena *arena)
{
    void *again = muster_arena_alloc(arena, type->size);
    struct muster_buf one = {0}, two = {0};

    muster_json_encode(type, value, &one);
    if (muster_json_decode(type, one.data, one.size, MUSTER_JSON_STRICT, arena, again, NULL) == MUSTER_OK) {
        muster_json_encode(type, again, &two);
        memset(again, 0, type->size);
        MUSTER_ASSERT(muster_json_decode(type, two.data, two.size, MUSTER_JSON_STRICT, arena, again, NULL) ==
                      MUSTER_OK);
        muster_buf_clear(&one);
        muster_json_encode(type, again, &one);
        MUSTER_ASSERT(one.size == two.size && memcmp(one.data, two.data, one.size) == 0);
    }
    muster_buf_free(&one);
    muster_buf_free(&two);
}

static void
check_type(const struct muster_type *type, const uint8_t *data, size_t size, struct muster_arena *arena)
{
    void *value = muster_arena_alloc(arena, type->size), *again = muster_arena_alloc(arena, type->size);
    struct muster_buf one = {0}, two = {0};
    struct muster_fault fault = {0};

    if (muster_unpack(type, data, size, arena, value, &fault) != MUSTER_OK) {
        MUSTER_ASSERT(fault.message[0] != '\0');
        return;
    }
    muster_pack(type, value, &one);
    MUSTER_ASSERT(muster_unpack(type, one.data, one.size, arena, again, NULL) == MUSTER_OK);
    muster_pack(type, again, &two);
    MUSTER_ASSERT(one.size == two.size && memcmp(one.data, two.data, one.size) == 0);
    check_json(type, again, arena);
    muster_buf_free(&one);
    muster_buf_free(&two);
}

/* `wire` NULL: every type. */
static void
check_types(const char *wire, const uint8_t *data, size_t size, struct muster_arena *arena)
{
    size_t i;

    for (i = 0; muster_messages[i]; i++)
        if (wire == NULL || strcmp(wire, muster_messages[i]->wire) == 0)
            check_type(muster_messages[i], data, size, arena);
    for (i = 0; muster_events[i].type; i++)
        if (wire == NULL || strcmp(wire, muster_events[i].type->wire) == 0)
            check_type(muster_events[i].type, data, size, arena);
    for (i = 0; muster_records[i].type; i++)
        if (wire == NULL || strcmp(wire, muster_records[i].type->wire) == 0)
            check_type(muster_records[i].type, data, size, arena);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_envelope envelope, again;
    struct muster_buf buf = {0};

    if (muster_envelope_unpack(data, size, arena, &envelope) == MUSTER_OK) {
        check_types(envelope.type, envelope.body.data, envelope.body.size, arena);
        muster_envelope_wrap(&envelope, &buf);
        MUSTER_ASSERT(muster_envelope_unpack(buf.data, buf.size, arena, &again) == MUSTER_OK);
        MUSTER_ASSERT(strcmp(envelope.type, again.type) == 0 && envelope.id == again.id);
        MUSTER_ASSERT(envelope.body.size == again.body.size);
    } else {
        check_types(NULL, data, size, arena);
    }
    muster_buf_free(&buf);
    muster_arena_free(&arena);
    return 0;
}
