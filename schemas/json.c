/* SPDX-License-Identifier: MPL-2.0 */
/* JSON to structs.  Any thread, also ones with stacks of 100 KiB: the parser and the writer below recurse once a level
 * of nesting, and brackets are counted before anything is parsed.  What can fail: any text that does not fit. */
#include <jansson.h>
#include <string.h>

#include "schemas/decode.h"
#include "schemas/text.h"

/* Values in one JSON text.  The parser spends up to 250 bytes on a value of two, which the size of a body alone would
 * not bound well. */
#define JSON_VALUES_MAX 100000

/* ---- before parsing ---- */

struct outline {
    size_t depth;  /* deepest nesting */
    size_t values; /* brackets and commas: no fewer than values, the first one aside */
};

/* Of the quote that ends the string that begins at `at`; `size`: there is none. */
static size_t
skip_string(const char *text, size_t size, size_t at)
{
    const char *end, *before;

    while ((end = memchr(text + at + 1, '"', size - at - 1)) != NULL) {
        for (before = end; before[-1] == '\\'; before--)
            ;
        at = (size_t)(end - text);
        if ((end - before) % 2 == 0)
            return at;
    }
    return size;
}

static struct outline
outline_of(const char *text, size_t size)
{
    struct outline outline = {0};
    size_t depth = 0, at;

    for (at = 0; at < size; at++) {
        switch (text[at]) {
        case '"':
            at = skip_string(text, size, at);
            break;
        case '[':
        case '{':
            outline.values++;
            if (++depth > outline.depth)
                outline.depth = depth;
            break;
        case ']':
        case '}':
            if (depth > 0)
                depth--;
            break;
        case ',':
            outline.values++;
            break;
        }
    }
    return outline;
}

bool
muster_json_shallow(const char *text, size_t size)
{
    return outline_of(text, size).depth <= MUSTER_DEPTH_MAX;
}

/* ---- parsed values ---- */

static void
look(json_t *json, struct decode_value *out)
{
    *out = (struct decode_value){.shape = DECODE_OTHER, .node = json};
    switch (json_typeof(json)) {
    case JSON_NULL:
        out->shape = DECODE_NIL;
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        out->shape = DECODE_BOOL;
        out->truth = json_is_true(json);
        break;
    case JSON_INTEGER:
        out->shape = DECODE_INT;
        out->number = json_integer_value(json);
        break;
    case JSON_REAL:
        out->shape = DECODE_REAL;
        out->real = json_real_value(json);
        break;
    case JSON_STRING:
        out->shape = DECODE_TEXT;
        out->text = json_string_value(json);
        out->size = json_string_length(json);
        break;
    case JSON_ARRAY:
        out->shape = DECODE_LIST;
        out->size = json_array_size(json);
        break;
    case JSON_OBJECT:
        out->shape = DECODE_MAP;
        out->size = json_object_size(json);
        break;
    }
}

static void
list_item(const struct decode_value *list, size_t index, struct decode_value *out)
{
    look(json_array_get(list->node, index), out);
}

static bool
next_member(struct decode_walk *walk, struct decode_value *out_name, struct decode_value *out)
{
    json_t *object = walk->map->node;

    walk->iterator = walk->iterator ? json_object_iter_next(object, walk->iterator) : json_object_iter(object);
    if (walk->iterator == NULL)
        return false;
    *out_name = (struct decode_value){.shape = DECODE_TEXT, .text = json_object_iter_key(walk->iterator)};
    out_name->size = strlen(out_name->text); /* names with U+0000 are refused by the parser */
    look(json_object_iter_value(walk->iterator), out);
    return true;
}

static void write_value(const struct decode_value *value, struct muster_buf *out);

static void
write_list(const struct decode_value *list, struct muster_buf *out)
{
    struct decode_value item;
    size_t i;

    muster_buf_str(out, "[");
    for (i = 0; i < list->size; i++) {
        list_item(list, i, &item);
        muster_buf_str(out, i ? "," : "");
        write_value(&item, out);
    }
    muster_buf_str(out, "]");
}

static void
write_map(const struct decode_value *map, struct muster_buf *out)
{
    struct decode_walk walk = {.map = map};
    struct decode_value name, item;
    const char *separator = "";

    muster_buf_str(out, "{");
    while (next_member(&walk, &name, &item)) {
        muster_buf_str(out, separator);
        muster_json_quote(out, name.text, name.size);
        muster_buf_str(out, ":");
        write_value(&item, out);
        separator = ",";
    }
    muster_buf_str(out, "}");
}

static void
write_value(const struct decode_value *value, struct muster_buf *out)
{
    switch (value->shape) {
    case DECODE_BOOL:
        muster_buf_str(out, value->truth ? "true" : "false");
        return;
    case DECODE_INT:
        muster_buf_int(out, value->number);
        return;
    case DECODE_REAL:
        text_real(out, value->real);
        return;
    case DECODE_TEXT:
        muster_json_quote(out, value->text, value->size);
        return;
    case DECODE_LIST:
        write_list(value, out);
        return;
    case DECODE_MAP:
        write_map(value, out);
        return;
    default:
        muster_buf_str(out, "null");
        return;
    }
}

static const struct decode_source json_source = {
    .textual = true, .item = list_item, .next = next_member, .json = write_value};

/* ---- decoding ---- */

static muster_err
parse(const char *text, size_t size, struct muster_fault *fault, json_t **out)
{
    struct outline outline = outline_of(text, size);
    json_error_t error;

    if (outline.depth > MUSTER_DEPTH_MAX)
        return muster_fault_set(fault, "", "must be nested at most %d deep", MUSTER_DEPTH_MAX);
    if (outline.values > JSON_VALUES_MAX)
        return muster_fault_set(fault, "", "must hold at most %d values", JSON_VALUES_MAX);
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (*out == NULL)
        return muster_fault_set(fault, "", "malformed JSON at line %d, column %d: %s", error.line, error.column,
                                error.text);
    return MUSTER_OK;
}

muster_err
muster_json_decode(const struct muster_type *type, const char *text, size_t size, int flags, struct muster_arena *arena,
                   void *out, struct muster_fault *fault)
{
    const struct decode decode = {
        .source = &json_source, .arena = arena, .fault = fault, .strict = (flags & MUSTER_JSON_STRICT) != 0};
    struct decode_value value;
    json_t *json = NULL;
    void *whole;
    muster_err err;

    err = parse(size ? text : "", size, fault, &json);
    if (err)
        return err;
    look(json, &value);
    err = decode_struct(&decode, type, &value, &whole);
    if (err == MUSTER_OK)
        memcpy(out, whole, type->size);
    json_decref(json);
    return err;
}
