/* SPDX-License-Identifier: MPL-2.0 */
/* The configuration: reads the file, parses the YAML, hands it to options_yaml.c and options_check.c.  Any thread.
 * What can fail: the file, the YAML, any value in it. */
#include "schemas/options.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX (1 << 20)
#define DEPTH_MAX MUSTER_DEPTH_MAX

/* ---- durations and sizes ---- */

struct unit {
    const char *name;
    int64_t one;
};

static muster_err
parse_unit(const char *text, const struct unit *units, int64_t *out)
{
    int64_t number = 0, result;

    if (*text < '0' || *text > '9')
        return MUSTER_INVALID_REQUEST;
    for (; *text >= '0' && *text <= '9'; text++)
        if (__builtin_mul_overflow(number, 10, &number) || __builtin_add_overflow(number, *text - '0', &number))
            return MUSTER_INVALID_REQUEST;
    for (; units->name; units++)
        if (strcmp(units->name, text) == 0) {
            if (__builtin_mul_overflow(number, units->one, &result))
                return MUSTER_INVALID_REQUEST;
            *out = result;
            return MUSTER_OK;
        }
    return MUSTER_INVALID_REQUEST;
}

muster_err
muster_duration_parse(const char *text, int64_t *out_ms)
{
    static const struct unit units[] = {{"", 1},        {"ms", 1},       {"s", 1000}, {"m", 60000},
                                        {"h", 3600000}, {"d", 86400000}, {NULL, 0}};

    return parse_unit(text, units, out_ms);
}

muster_err
muster_size_parse(const char *text, int64_t *out_bytes)
{
    static const struct unit units[] = {{"", 1},
                                        {"KiB", INT64_C(1) << 10},
                                        {"MiB", INT64_C(1) << 20},
                                        {"GiB", INT64_C(1) << 30},
                                        {"TiB", INT64_C(1) << 40},
                                        {"KB", 1000},
                                        {"MB", 1000000},
                                        {"GB", 1000000000},
                                        {"TB", 1000000000000},
                                        {NULL, 0}};

    return parse_unit(text, units, out_bytes);
}

/* ---- YAML ---- */

/* Line and column of what the parser complained about; bytes that are no UTF-8 have an offset only. */
static yaml_mark_t
problem_mark(const yaml_parser_t *parser, const char *text, size_t size)
{
    yaml_mark_t mark = {0};
    size_t i;

    if (parser->error != YAML_READER_ERROR)
        return parser->problem_mark;
    for (i = 0; i < size && i < parser->problem_offset; i++) {
        mark.line += text[i] == '\n';
        mark.column = text[i] == '\n' ? 0 : mark.column + 1;
    }
    return mark;
}

static bool
has_anchor(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        return true;
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor != NULL;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor != NULL;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor != NULL;
    default:
        return false;
    }
}

/* Nesting after this event. */
static int
depth_after(int depth, yaml_event_type_t type)
{
    if (type == YAML_MAPPING_START_EVENT || type == YAML_SEQUENCE_START_EVENT)
        return depth + 1;
    if (type == YAML_MAPPING_END_EVENT || type == YAML_SEQUENCE_END_EVENT)
        return depth - 1;
    return depth;
}

/* The library's loader takes time that grows with the square of nesting and of anchors, so its events are looked at
 * before anything is loaded.  Malformed YAML passes: the loader says more about it. */
static muster_err
check_events(const struct options_reader *reader, yaml_parser_t *parser)
{
    yaml_event_type_t type = YAML_NO_EVENT;
    int depth = 0, documents = 0;
    yaml_event_t event;
    yaml_mark_t mark;
    bool anchor;

    while (type != YAML_STREAM_END_EVENT && yaml_parser_parse(parser, &event)) {
        type = event.type;
        mark = event.start_mark;
        anchor = has_anchor(&event);
        yaml_event_delete(&event);
        depth = depth_after(depth, type);
        documents += type == YAML_DOCUMENT_START_EVENT;
        if (anchor)
            return options_refuse_at(reader, mark, NULL, "must not use anchors and aliases (& and *); quote such text");
        if (depth > DEPTH_MAX)
            return options_refuse_at(reader, mark, NULL, "must be nested at most %d deep", DEPTH_MAX);
        if (documents > 1)
            return options_refuse_at(reader, mark, NULL, "must be one YAML document");
    }
    return MUSTER_OK;
}

static void
parser_begin(yaml_parser_t *parser, const char *text, size_t size)
{
    MUSTER_ASSERT(yaml_parser_initialize(parser)); /* fails without memory only */
    yaml_parser_set_input_string(parser, (const unsigned char *)text, size);
}

static muster_err
load_document(const struct options_reader *reader, const char *text, size_t size, yaml_document_t *out)
{
    yaml_parser_t parser;
    muster_err err;

    parser_begin(&parser, text, size);
    err = check_events(reader, &parser);
    yaml_parser_delete(&parser);
    if (err)
        return err;
    parser_begin(&parser, text, size);
    if (!yaml_parser_load(&parser, out))
        err = options_refuse_at(reader, problem_mark(&parser, text, size), NULL, "malformed YAML: %s%s%s",
                                parser.context ? parser.context : "", parser.context ? ", " : "",
                                parser.problem ? parser.problem : "unknown problem");
    yaml_parser_delete(&parser);
    return err;
}

/* ---- whole configurations ---- */

static muster_err
build(struct options_reader *reader, const char *directory, struct muster_config *out_config)
{
    const struct rows_path data = {.name = "data", .size = 4};
    struct options *options = muster_arena_alloc(reader->arena, sizeof *options);
    muster_err err = options_read(reader, options);

    if (err == MUSTER_OK)
        err = options_check(reader, directory, options);
    if (err == MUSTER_OK)
        *out_config = (struct muster_config){
            .arena = reader->arena, .options = options, .data_given = options_is_given(reader, &data)};
    return err;
}

/* `reader` has name, error and own. */
static muster_err
parse(struct options_reader reader, const char *text, size_t size, const char *directory,
      struct muster_config *out_config)
{
    yaml_document_t document;
    muster_err err;

    reader.arena = muster_arena_new();
    if (size > FILE_BYTES_MAX)
        err = options_refuse(&reader, NULL, "must have at most %d bytes", FILE_BYTES_MAX);
    else
        err = load_document(&reader, text ? text : "", size, &document);
    if (err == MUSTER_OK) {
        reader.document = &document;
        err = build(&reader, directory, out_config);
        yaml_document_delete(&document);
    }
    if (err)
        muster_arena_free(&reader.arena);
    return err;
}

muster_err
muster_config_parse(const char *text, size_t size, const char *name, const char *directory,
                    struct muster_config *out_config, struct muster_options_error *error)
{
    return parse((struct options_reader){.name = name, .error = error}, text, size, directory, out_config);
}

/* At most one byte more than allowed, so that the parser can say that it is too large. */
static muster_err
read_file(const char *path, struct muster_buf *out)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = -1;

    if (file < 0)
        return MUSTER_NOT_FOUND;
    do {
        got = read(file, muster_buf_room(out, 65536), 65536);
        if (got > 0)
            out->size += (size_t)got;
    } while (out->size <= FILE_BYTES_MAX && (got > 0 || (got < 0 && errno == EINTR)));
    (void)close(file);
    return got < 0 ? MUSTER_STORAGE_ERROR : MUSTER_OK;
}

static muster_err
refuse_file(const char *path, struct muster_options_error *error)
{
    char reason[128];

    if (error)
        (void)snprintf(error->text, sizeof error->text, "%.400s: cannot be read: %s", path,
                       strerror_r(errno, reason, sizeof reason));
    return MUSTER_INVALID_REQUEST;
}

muster_err
muster_config_load(const char *path, struct muster_config *out_config, struct muster_options_error *error)
{
    return muster_config_load_own(path, NULL, out_config, error);
}

muster_err
muster_config_load_own(const char *path, const struct muster_strs *own, struct muster_config *out_config,
                       struct muster_options_error *error)
{
    struct options_reader reader = {.name = path ? path : "defaults", .error = error, .own = own};
    struct muster_buf text = {0};
    char real[PATH_MAX];
    muster_err err;

    if (path == NULL)
        return parse(reader, "", 0, NULL, out_config);
    if (realpath(path, real) == NULL || read_file(path, &text) != MUSTER_OK)
        err = refuse_file(path, error);
    else
        err = parse(reader, text.data, text.size, dirname(real), out_config);
    muster_buf_free(&text);
    return err;
}

void
muster_config_free(struct muster_config *config)
{
    muster_arena_free(&config->arena);
    config->options = NULL;
}

const struct team_options *
muster_team_options(const struct options *options, const char *name)
{
    size_t i;

    for (i = 0; i < options->teams.count; i++)
        if (strcmp(options->teams.items[i].name, name) == 0)
            return &options->teams.items[i];
    return NULL;
}
