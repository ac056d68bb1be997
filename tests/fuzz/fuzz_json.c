/* SPDX-License-Identifier: MPL-2.0 */
/* Any text as JSON of several types.  What decodes must encode to text that decodes strictly, to the same bytes both as
 * JSON and as msgpack.  The text helpers and the YAML reader get the same bytes. */
#include <string.h>

#include "schemas/muster_options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_msgpack(const struct muster_type *type, const void *value, struct muster_arena *arena)
{
    void *again = muster_arena_alloc(arena, type->size);
    struct muster_buf one = {0}, two = {0};

    muster_pack(type, value, &one);
    MUSTER_ASSERT(muster_unpack(type, one.data, one.size, arena, again, NULL) == MUSTER_OK);
    muster_pack(type, again, &two);
    MUSTER_ASSERT(one.size == two.size && memcmp(one.data, two.data, one.size) == 0);
    muster_buf_free(&one);
    muster_buf_free(&two);
}

static void
check_type(const struct muster_type *type, const char *text, size_t size, struct muster_arena *arena)
{
    void *value = muster_arena_alloc(arena, type->size), *again = muster_arena_alloc(arena, type->size);
    struct muster_buf one = {0}, two = {0};
    struct muster_fault fault = {0};

    if (muster_json_decode(type, text, size, 0, arena, value, &fault) != MUSTER_OK) {
        MUSTER_ASSERT(fault.message[0] != '\0');
        return;
    }
    muster_json_encode(type, value, &one);
    MUSTER_ASSERT(muster_json_decode(type, one.data, one.size, MUSTER_JSON_STRICT, arena, again, NULL) == MUSTER_OK);
    muster_json_encode(type, again, &two);
    MUSTER_ASSERT(one.size == two.size && memcmp(one.data, two.data, one.size) == 0);
    check_msgpack(type, again, arena);
    muster_buf_free(&one);
    muster_buf_free(&two);
}

static void
check_text(const char *text, size_t size)
{
    struct muster_buf once = {0}, twice = {0};

    muster_json_quote(&once, text, size);
    muster_utf8_clean(&twice, text, size);
    muster_buf_clear(&once);
    muster_utf8_clean(&once, twice.data ? twice.data : "", twice.size);
    MUSTER_ASSERT(once.size == twice.size); /* what is clean stays as it is */
    muster_buf_free(&once);
    muster_buf_free(&twice);
}

static void
check_options(const char *text, size_t size)
{
    struct muster_options_error error = {""};
    struct muster_config config;

    if (muster_config_parse(text, size, "fuzz", "/", &config, &error) == MUSTER_OK)
        muster_config_free(&config);
    else
        MUSTER_ASSERT(error.text[0] != '\0');
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct muster_type *const types[] = {&job_type,        &job_callback_type, &auth_create_type,
                                                      &job_usage_type,  &limit_take_type,   &store_commit_type,
                                                      &job_notice_type, &options_type,      &key_type};
    struct muster_arena *arena = muster_arena_new();
    size_t i;

    for (i = 0; i < sizeof types / sizeof *types; i++)
        check_type(types[i], (const char *)data, size, arena);
    check_text((const char *)data, size);
    check_options((const char *)data, size);
    muster_arena_free(&arena);
    return 0;
}
