/* SPDX-License-Identifier: MPL-2.0 */
/* From YAML nodes and defaults to `struct options`, by the rows.  One thread at a time.  What can fail: any value that
 * does not fit its row.  Recursion follows the rows and not the document, so that aliases and deep nesting do no harm.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/options.h"
#include "schemas/text.h"

/* ---- places ---- */

static yaml_node_t *
node_of(const struct options_reader *reader, int index)
{
    return yaml_document_get_node(reader->document, index);
}

static yaml_node_t *
member_of(const struct options_reader *reader, const yaml_node_t *map, const char *name, size_t size)
{
    const yaml_node_pair_t *pair;
    const yaml_node_t *key;

    if (map->type != YAML_MAPPING_NODE)
        return NULL;
    for (pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top; pair++) {
        key = node_of(reader, pair->key);
        if (key->type == YAML_SCALAR_NODE && key->data.scalar.length == size &&
            memcmp(key->data.scalar.value, name, size) == 0)
            return node_of(reader, pair->value);
    }
    return NULL;
}

static yaml_node_t *
item_of(const struct options_reader *reader, const yaml_node_t *list, size_t index)
{
    const yaml_node_item_t *item = list->data.sequence.items.start;

    if (list->type != YAML_SEQUENCE_NODE || index >= (size_t)(list->data.sequence.items.top - item))
        return NULL;
    return node_of(reader, item[index]);
}

/* The deepest node along the path.  `out_whole`: it is the path's end. */
static yaml_node_t *
locate(const struct options_reader *reader, const struct rows_path *path, bool *out_whole)
{
    yaml_node_t *up, *node = NULL;

    if (path == NULL) {
        node = reader->document ? yaml_document_get_root_node(reader->document) : NULL;
        *out_whole = node != NULL;
        return node;
    }
    up = locate(reader, path->up, out_whole);
    if (!*out_whole)
        return up;
    node = path->name ? member_of(reader, up, path->name, path->size) : item_of(reader, up, path->index);
    *out_whole = node != NULL;
    return node ? node : up;
}

bool
options_is_given(const struct options_reader *reader, const struct rows_path *path)
{
    bool whole;

    (void)locate(reader, path, &whole);
    return whole;
}

static void
write_error(const struct options_reader *reader, yaml_mark_t mark, const struct rows_path *path, const char *message)
{
    char field[256];

    if (reader->error == NULL)
        return;
    rows_path_text(path, field, sizeof field);
    (void)snprintf(reader->error->text, sizeof reader->error->text, "%.300s:%zu:%zu: %s%s%.400s", reader->name,
                   mark.line + 1, mark.column + 1, field, field[0] ? ": " : "", message);
}

muster_err
options_refuse(const struct options_reader *reader, const struct rows_path *path, const char *format, ...)
{
    const yaml_node_t *node;
    char message[400];
    bool whole;
    va_list args;

    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    node = locate(reader, path, &whole);
    write_error(reader, node ? node->start_mark : (yaml_mark_t){0}, path, message);
    return MUSTER_INVALID_REQUEST;
}

muster_err
options_refuse_at(const struct options_reader *reader, yaml_mark_t mark, const struct rows_path *path,
                  const char *format, ...)
{
    char message[400];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    write_error(reader, mark, path, message);
    return MUSTER_INVALID_REQUEST;
}

static muster_err
refuse_row(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row)
{
    char expected[256];

    rows_expected(row, true, expected, sizeof expected);
    return options_refuse(reader, path, "%s", expected);
}

/* ---- text and variables ---- */

/* `at` stands behind "${".  Appends the variable's value, and gives the place behind "}". */
static muster_err
expand_one(const struct options_reader *reader, const struct rows_path *path, const char *at, struct muster_buf *out,
           const char **out_end)
{
    static const char name_letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    size_t size = strspn(at, name_letters);
    const char *fallback = strncmp(at + size, ":-", 2) == 0 ? at + size + 2 : NULL;
    const char *end = strchr(fallback ? fallback : at + size, '}');
    const char *value;

    if (size == 0 || end == NULL || (fallback == NULL && end != at + size))
        return options_refuse(reader, path, "must use variables as ${NAME} or ${NAME:-default}, and $$ for a dollar");
    value = getenv(muster_arena_str(reader->arena, at, size));
    if (value != NULL && (*value != '\0' || fallback == NULL))
        muster_buf_str(out, value);
    else if (fallback != NULL)
        muster_buf_add(out, fallback, (size_t)(end - fallback));
    else
        return options_refuse(reader, path, "uses the variable %.*s, which is not set", (int)(size < 100 ? size : 100),
                              at);
    *out_end = end + 1;
    return MUSTER_OK;
}

static muster_err
expand(const struct options_reader *reader, const struct rows_path *path, const char *text, struct muster_buf *out)
{
    const char *dollar;
    muster_err err;

    for (dollar = strchr(text, '$'); dollar != NULL; dollar = strchr(text, '$')) {
        muster_buf_add(out, text, (size_t)(dollar - text));
        text = dollar + 1;
        if (*text == '{') {
            err = expand_one(reader, path, text + 1, out, &text);
            if (err)
                return err;
        } else {
            muster_buf_str(out, "$");
            text += *text == '$';
        }
    }
    muster_buf_str(out, text);
    return MUSTER_OK;
}

/* The text of a scalar node, variables expanded, in the arena. */
static muster_err
scalar_text(const struct options_reader *reader, const struct rows_path *path, const yaml_node_t *node,
            const char **out_text)
{
    struct muster_buf buf = {0};
    const char *raw = (const char *)node->data.scalar.value;
    muster_err err;

    if (node->type != YAML_SCALAR_NODE)
        return options_refuse(reader, path, "must be text");
    if (!text_is_clean(raw, node->data.scalar.length))
        return options_refuse(reader, path, "must be UTF-8 text without U+0000");
    err = expand(reader, path, raw, &buf);
    if (err == MUSTER_OK && !text_is_clean(buf.data, buf.size))
        err = options_refuse(reader, path, "must be UTF-8 text also where variables are expanded");
    if (err == MUSTER_OK)
        *out_text = muster_arena_str(reader->arena, buf.data, buf.size);
    muster_buf_free(&buf);
    return err;
}

/* ---- scalars ---- */

static muster_err
parse_whole(const char *text, int64_t *out)
{
    char *end;
    intmax_t number;

    if (text[strspn(text, "+-")] < '0' || text[strspn(text, "+-")] > '9')
        return MUSTER_INVALID_REQUEST;
    errno = 0;
    number = strtoimax(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return MUSTER_INVALID_REQUEST;
    *out = number;
    return MUSTER_OK;
}

static muster_err
parse_number(enum muster_kind kind, const char *text, int64_t *out)
{
    if (kind == MUSTER_KIND_MS)
        return muster_duration_parse(text, out);
    if (kind == MUSTER_KIND_SIZE)
        return muster_size_parse(text, out);
    return parse_whole(text, out);
}

/* `text` lies in the arena. */
static muster_err
read_scalar(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
            const char *text, void *out)
{
    bool truth = strcmp(text, "true") == 0;
    int64_t number;
    int value;

    switch (row->kind) {
    case MUSTER_KIND_BOOL:
        if (!truth && strcmp(text, "false") != 0)
            return refuse_row(reader, path, row);
        rows_store(row, out, &truth, sizeof truth);
        return MUSTER_OK;
    case MUSTER_KIND_INT:
    case MUSTER_KIND_MS:
    case MUSTER_KIND_SIZE:
        if (parse_number(row->kind, text, &number) != MUSTER_OK || !rows_fits(row, number))
            return refuse_row(reader, path, row);
        rows_store(row, out, &number, sizeof number);
        return MUSTER_OK;
    case MUSTER_KIND_STR:
        if (!rows_fits_size(row, strlen(text)))
            return refuse_row(reader, path, row);
        rows_store(row, out, &text, sizeof text);
        return MUSTER_OK;
    case MUSTER_KIND_CHOICE:
        value = muster_enum_value(row->choice, text);
        if (value == 0)
            return refuse_row(reader, path, row);
        rows_store(row, out, &value, sizeof value);
        return MUSTER_OK;
    default: /* no option has another kind; a test reads the defaults of all */
        return refuse_row(reader, path, row);
    }
}

/* ---- lists and maps ---- */

/* "key:" with nothing behind it, "~" and "null" stand for an empty list or mapping. */
static bool
is_nothing(const yaml_node_t *node)
{
    const char *text = (const char *)node->data.scalar.value;

    return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (*text == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static size_t
items_in(const yaml_node_t *node)
{
    if (node->type == YAML_SEQUENCE_NODE)
        return (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
    if (node->type == YAML_MAPPING_NODE)
        return (size_t)(node->data.mapping.pairs.top - node->data.mapping.pairs.start);
    return 0;
}

/* Is it of that type, or nothing, and does the number of its items fit? */
static bool
fits_list(const struct muster_field *row, const yaml_node_t *node, yaml_node_type_t type)
{
    return (node->type == type || is_nothing(node)) && rows_fits_size(row, items_in(node));
}

/* A text alone stands for a list of one. */
static muster_err
read_one_str(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
             const yaml_node_t *node, void *out)
{
    const char **items = muster_arena_alloc(reader->arena, sizeof *items);
    struct muster_strs strs = {items, 1};
    muster_err err;

    if (!rows_fits_size(row, 1))
        return refuse_row(reader, path, row);
    err = scalar_text(reader, path, node, items);
    if (err == MUSTER_OK)
        rows_store(row, out, &strs, sizeof strs);
    return err;
}

static muster_err
read_strs(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
          const yaml_node_t *node, void *out)
{
    struct rows_path at = {.up = path};
    struct muster_strs strs = {NULL, items_in(node)};
    const char **items;
    muster_err err;

    if (node->type == YAML_SCALAR_NODE && !is_nothing(node))
        return read_one_str(reader, path, row, node, out);
    if (!fits_list(row, node, YAML_SEQUENCE_NODE))
        return refuse_row(reader, path, row);
    items = muster_arena_alloc(reader->arena, strs.count * sizeof *items);
    for (at.index = 0; at.index < strs.count; at.index++) {
        err = scalar_text(reader, &at, item_of(reader, node, at.index), &items[at.index]);
        if (err)
            return err;
    }
    strs.items = items;
    rows_store(row, out, &strs, sizeof strs);
    return MUSTER_OK;
}

/* A default: words between spaces. */
static void
default_strs(const struct options_reader *reader, const struct muster_field *row, void *out)
{
    struct muster_strs strs = {NULL, 0};
    const char **items = muster_arena_alloc(reader->arena, (strlen(row->initial) / 2 + 1) * sizeof *items);
    const char *word = row->initial + strspn(row->initial, " ");
    size_t size;

    for (; *word != '\0'; word += size + strspn(word + size, " ")) {
        size = strcspn(word, " ");
        items[strs.count++] = muster_arena_str(reader->arena, word, size);
    }
    strs.items = items;
    rows_store(row, out, &strs, sizeof strs);
}

/* The name on the left of a pair.  `seen`: pairs before it, among which it must not be. */
static muster_err
read_name(const struct options_reader *reader, const struct rows_path *path, const yaml_node_t *map,
          const yaml_node_pair_t *pair, struct rows_path *out)
{
    const yaml_node_t *key = node_of(reader, pair->key);
    const yaml_node_pair_t *other;
    const yaml_node_t *earlier;

    if (key->type != YAML_SCALAR_NODE || !text_is_clean((char *)key->data.scalar.value, key->data.scalar.length))
        return options_refuse_at(reader, key->start_mark, path, "must have names that are text");
    *out = (struct rows_path){.up = path, .name = (char *)key->data.scalar.value, .size = key->data.scalar.length};
    for (other = map->data.mapping.pairs.start; other < pair; other++) {
        earlier = node_of(reader, other->key);
        if (strcmp((char *)earlier->data.scalar.value, out->name) == 0)
            return options_refuse_at(reader, key->start_mark, out, "is given twice; the first is in line %zu",
                                     earlier->start_mark.line + 1);
    }
    return MUSTER_OK;
}

static muster_err
read_pairs(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
           const yaml_node_t *node, void *out)
{
    struct muster_pairs pairs = {NULL, items_in(node)};
    struct muster_pair *items;
    struct rows_path at;
    muster_err err;
    size_t i;

    if (!fits_list(row, node, YAML_MAPPING_NODE))
        return refuse_row(reader, path, row);
    items = muster_arena_alloc(reader->arena, pairs.count * sizeof *items);
    for (i = 0; i < pairs.count; i++) {
        const yaml_node_pair_t *pair = &node->data.mapping.pairs.start[i];

        err = read_name(reader, path, node, pair, &at);
        if (err == MUSTER_OK)
            err = scalar_text(reader, &at, node_of(reader, pair->value), &items[i].value);
        if (err)
            return err;
        items[i].name = muster_arena_str(reader->arena, at.name, at.size);
    }
    pairs.items = items;
    rows_store(row, out, &pairs, sizeof pairs);
    return MUSTER_OK;
}

/* ---- structs ---- */

static muster_err read_struct(const struct options_reader *reader, const struct rows_path *path,
                              const struct muster_type *type, const yaml_node_t *node, const char *name, void *out);

static muster_err
read_many(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
          const yaml_node_t *node, void *out)
{
    struct rows_path at = {.up = path};
    struct muster_many many = {NULL, items_in(node)};
    char *items;
    muster_err err;

    if (!fits_list(row, node, YAML_SEQUENCE_NODE))
        return refuse_row(reader, path, row);
    items = muster_arena_alloc(reader->arena, many.count * row->sub->size);
    for (at.index = 0; at.index < many.count; at.index++) {
        err = read_struct(reader, &at, row->sub, item_of(reader, node, at.index), NULL,
                          items + at.index * row->sub->size);
        if (err)
            return err;
    }
    many.items = items;
    rows_store(row, out, &many, sizeof many);
    return MUSTER_OK;
}

static muster_err
read_named(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
           const yaml_node_t *node, void *out)
{
    struct muster_many many = {NULL, items_in(node)};
    struct rows_path at;
    char *items;
    muster_err err;
    size_t i;

    if (!fits_list(row, node, YAML_MAPPING_NODE))
        return options_refuse(reader, path, "must be a mapping from at most %" PRId64 " names to mappings", row->hi);
    items = muster_arena_alloc(reader->arena, many.count * row->sub->size);
    for (i = 0; i < many.count; i++) {
        const yaml_node_pair_t *pair = &node->data.mapping.pairs.start[i];

        err = read_name(reader, path, node, pair, &at);
        if (err == MUSTER_OK)
            err = read_struct(reader, &at, row->sub, node_of(reader, pair->value),
                              muster_arena_str(reader->arena, at.name, at.size), items + i * row->sub->size);
        if (err)
            return err;
    }
    many.items = items;
    rows_store(row, out, &many, sizeof many);
    return MUSTER_OK;
}

/* A sub struct; `node` NULL: made of defaults only. */
static muster_err
read_one(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
         const yaml_node_t *node, void *out)
{
    void *sub = muster_arena_alloc(reader->arena, row->sub->size);
    muster_err err = read_struct(reader, path, row->sub, node, NULL, sub);

    if (err == MUSTER_OK)
        rows_store(row, out, &sub, sizeof sub);
    return err;
}

static muster_err
read_given(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
           const yaml_node_t *node, void *out)
{
    const char *text;
    muster_err err;

    switch (row->kind) {
    case MUSTER_KIND_STRS:
        return read_strs(reader, path, row, node, out);
    case MUSTER_KIND_PAIRS:
        return read_pairs(reader, path, row, node, out);
    case MUSTER_KIND_ONE:
        return read_one(reader, path, row, node, out);
    case MUSTER_KIND_MANY:
        return (row->initial ? read_named : read_many)(reader, path, row, node, out);
    default:
        if (node->type != YAML_SCALAR_NODE)
            return refuse_row(reader, path, row);
        err = scalar_text(reader, path, node, &text);
        return err ? err : read_scalar(reader, path, row, text, out);
    }
}

static muster_err
read_default(const struct options_reader *reader, const struct rows_path *path, const struct muster_field *row,
             void *out)
{
    switch (row->kind) {
    case MUSTER_KIND_MANY:
    case MUSTER_KIND_PAIRS:
        return MUSTER_OK;
    case MUSTER_KIND_ONE:
        return row->initial ? read_one(reader, path, row, NULL, out) : MUSTER_OK;
    case MUSTER_KIND_STRS:
        default_strs(reader, row, out);
        return MUSTER_OK;
    default:
        if (row->initial == NULL)
            return options_refuse(reader, path, "is required");
        if (row->kind == MUSTER_KIND_CHOICE && *row->initial == '\0')
            return MUSTER_OK; /* none of its values */
        return read_scalar(reader, path, row, row->initial, out);
    }
}

/* How many letters must be changed, added or dropped to make one of the other; large for long texts. */
static size_t
distance(const char *a, const char *b)
{
    size_t row[33], columns = strlen(b), diagonal, above, i, j;

    if (columns > 32 || strlen(a) > 32)
        return SIZE_MAX;
    for (j = 0; j <= columns; j++)
        row[j] = j;
    for (i = 1; a[i - 1] != '\0'; i++) {
        diagonal = row[0];
        row[0] = i;
        for (j = 1; j <= columns; j++) {
            above = row[j];
            row[j] = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < row[j])
                row[j] = above + 1;
            if (row[j - 1] + 1 < row[j])
                row[j] = row[j - 1] + 1;
            diagonal = above;
        }
    }
    return row[columns];
}

static muster_err
refuse_unknown(const struct options_reader *reader, const struct rows_path *path, yaml_mark_t mark,
               const struct muster_field *rows)
{
    const struct muster_field *row, *nearest = NULL;
    size_t least = strlen(path->name) / 3 + 2, far;

    for (row = rows; row->kind != MUSTER_KIND_END; row++) {
        far = distance(path->name, row->name);
        if (far < least) {
            least = far;
            nearest = row;
        }
    }
    if (nearest)
        return options_refuse_at(reader, mark, path, "is not a known option; did you mean %s?", nearest->name);
    return options_refuse_at(reader, mark, path, "is not a known option");
}

/* Read all pairs of a mapping; one bit a row in `out_seen`. */
static muster_err
read_members(const struct options_reader *reader, const struct rows_path *path, const struct muster_type *type,
             const struct muster_field *rows, const yaml_node_t *node, void *out, uint64_t *out_seen)
{
    const yaml_node_pair_t *pair;
    const struct muster_field *row;
    struct rows_path at;
    muster_err err;

    for (pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        err = read_name(reader, path, node, pair, &at);
        if (err)
            return err;
        row = rows_find(type, type->fields, at.name, at.size);
        if (row == NULL || row < rows)
            return refuse_unknown(reader, &at, node_of(reader, pair->key)->start_mark, rows);
        err = read_given(reader, &at, row, node_of(reader, pair->value), out);
        if (err)
            return err;
        *out_seen |= UINT64_C(1) << (row - type->fields);
    }
    return MUSTER_OK;
}

/* `node` NULL or nothing: all defaults.  `name`: what the first row gets, when a mapping's key says it; it can then not
 * be given inside. */
static muster_err
read_struct(const struct options_reader *reader, const struct rows_path *path, const struct muster_type *type,
            const yaml_node_t *node, const char *name, void *out)
{
    const struct muster_field *rows = type->fields + (name ? 1 : 0);
    const struct muster_field *row;
    uint64_t seen = 0;
    muster_err err = MUSTER_OK;

    if (name)
        err = read_scalar(reader, path, type->fields, name, out);
    if (err == MUSTER_OK && node != NULL && !is_nothing(node)) {
        if (node->type != YAML_MAPPING_NODE)
            return options_refuse(reader, path, "must be a mapping");
        err = read_members(reader, path, type, rows, node, out, &seen);
    }
    for (row = rows; err == MUSTER_OK && row->kind != MUSTER_KIND_END; row++) {
        struct rows_path at = {.up = path, .name = row->name, .size = strlen(row->name)};

        if (!(seen & UINT64_C(1) << (row - type->fields)))
            err = read_default(reader, &at, row, out);
    }
    return err;
}

static muster_err
add_team(const struct options_reader *reader, const char *name, struct options *out)
{
    struct team_options *teams = muster_arena_alloc(reader->arena, (out->teams.count + 1) * sizeof *teams);
    size_t i;

    for (i = 0; i < out->teams.count; i++)
        teams[i] = out->teams.items[i];
    out->teams.items = teams;
    return read_struct(reader, NULL, &team_options_type, NULL, name, &teams[out->teams.count++]);
}

/* Those that the document does not have. */
static muster_err
add_own(const struct options_reader *reader, struct options *out)
{
    muster_err err = MUSTER_OK;
    size_t i;

    for (i = 0; reader->own && i < reader->own->count && !err; i++)
        if (muster_team_options(out, reader->own->items[i]) == NULL)
            err = add_team(reader, reader->own->items[i], out);
    return err;
}

muster_err
options_read(const struct options_reader *reader, struct options *out)
{
    const yaml_node_t *root = reader->document ? yaml_document_get_root_node(reader->document) : NULL;
    muster_err err = read_struct(reader, NULL, &options_type, root, NULL, out);

    if (err == MUSTER_OK)
        err = add_own(reader, out);
    if (err == MUSTER_OK && out->teams.count == 0)
        err = add_team(reader, "echo", out);
    return err;
}
