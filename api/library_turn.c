/* SPDX-License-Identifier: MPL-2.0 */
/* library_turn: what a program tells of a turn, checked before it is sent, because nobody could tell it later.  Any
 * thread.  What can fail: what is told, and a turn that is over. */
#include <jansson.h>
#include <string.h>

#include "actors/muster_own.h"
#include "api/library.h"

enum {
    CHUNK_MAX = 16 << 20,
    ANSWER_MAX = 64 << 20,
    INPUT_MAX = 4 << 20, /* as an event it may be more than twice as long, and an agent keeps 16 MiB for the log */
    MESSAGE_MAX = 65536,
    NAME_MAX_BYTES = 256,
    STEP_MAX = 1024
};

/* Append as much of `text` as a row of `limit` bytes takes. */
static const char *
fit(struct muster_buf *out, const char *text, size_t limit)
{
    muster_utf8_clean(out, text, strlen(text));
    if (out->size > limit) {
        while (limit > 0 && ((unsigned char)out->data[limit] & 0xC0) == 0x80)
            limit--;
        out->data[limit] = '\0';
    }
    return out->data ? out->data : "";
}

static const char *
say(struct muster_turn *turn, struct agent_said *said)
{
    return library_told(muster_own_say(turn, said), NULL, 0);
}

const char *
muster_turn_chunk(struct muster_turn *turn, const char *text, size_t size)
{
    struct agent_said said = {.kind = said_kind_CHUNK, .text = {(const uint8_t *)text, size}};

    return size > CHUNK_MAX ? muster_err_code(MUSTER_PAYLOAD_TOO_LARGE) : say(turn, &said);
}

/* Does it fit the row: JSON, and not larger? */
static muster_err
check_input(const char *input)
{
    size_t size = strlen(input);
    json_t *value;

    if (size > INPUT_MAX)
        return MUSTER_PAYLOAD_TOO_LARGE;
    value = muster_json_shallow(input, size) ? json_loadb(input, size, JSON_DECODE_ANY, NULL) : NULL;
    json_decref(value);
    return value ? MUSTER_OK : MUSTER_INVALID_REQUEST;
}

const char *
muster_turn_tool(struct muster_turn *turn, const char *name, const char *input)
{
    struct agent_said said = {.kind = said_kind_TOOL_USE, .input = input};
    struct muster_buf text = {0};
    muster_err err = input ? check_input(input) : MUSTER_OK;
    const char *code;

    if (!err && (name == NULL || *name == '\0'))
        err = MUSTER_INVALID_REQUEST;
    if (err)
        return muster_err_code(err);
    said.tool = fit(&text, name, NAME_MAX_BYTES);
    code = say(turn, &said);
    muster_buf_free(&text);
    return code;
}

const char *
muster_turn_progress(struct muster_turn *turn, int64_t current, int64_t total, const char *step)
{
    struct agent_said said = {.kind = said_kind_PROGRESS, .current = current, .total = total};
    struct muster_buf text = {0};
    const char *code;

    if (current < 0 || total < 1 || current > total)
        return muster_err_code(MUSTER_INVALID_REQUEST);
    said.step = fit(&text, step ? step : "", STEP_MAX);
    code = say(turn, &said);
    muster_buf_free(&text);
    return code;
}

const char *
muster_turn_done(struct muster_turn *turn, const char *result)
{
    struct agent_said said = {.kind = said_kind_DONE, .joined = result == NULL};
    size_t size = result ? strlen(result) : 0;

    if (size > ANSWER_MAX)
        return muster_err_code(MUSTER_PAYLOAD_TOO_LARGE);
    said.text = (struct muster_bytes){(const uint8_t *)result, size};
    return say(turn, &said);
}

/* Is it a row that may be told of a job? */
static bool
is_failure(const char *code)
{
    muster_err err = muster_err_from_code(code);

    return strcmp(muster_err_code(err), code) == 0 && err != MUSTER_OK && err != MUSTER_EXISTS && err != MUSTER_GONE &&
           err != MUSTER_AGAIN;
}

const char *
muster_turn_fail(struct muster_turn *turn, const char *code, const char *message, bool again)
{
    struct agent_said said = {.kind = said_kind_FAILED, .code = code, .final = !again};
    size_t size = message ? strlen(message) : 0;

    if (code == NULL || !is_failure(code))
        return muster_err_code(MUSTER_INVALID_REQUEST);
    said.text = (struct muster_bytes){(const uint8_t *)message, size < MESSAGE_MAX ? size : MESSAGE_MAX};
    return say(turn, &said);
}

const char *
muster_turn_job(const struct muster_turn *turn)
{
    return muster_own_job(turn);
}

int64_t
muster_turn_attempt(const struct muster_turn *turn)
{
    return muster_own_attempt(turn);
}
