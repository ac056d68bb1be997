/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of show.h. */
#include "tools/show.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/client.h"
#include "tools/term.h"

#define COLUMNS_MAX 12
#define CELL_MAX 512

/* ---- cells ---- */

/* A value on one line. */
static void
cell_text(char *out, size_t size, const json_t *value)
{
    char *dumped;

    if (json_is_string(value)) {
        snprintf(out, size, "%s", json_string_value(value));
    } else if (!value || json_is_null(value)) {
        snprintf(out, size, "-");
    } else {
        dumped = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        snprintf(out, size, "%s", dumped ? dumped : "-");
        free(dumped);
    }
}

static void
join_list(char *out, size_t size, const json_t *list)
{
    char cell[CELL_MAX];
    size_t used = 0;
    size_t i;
    const json_t *item;

    snprintf(out, size, "-");
    json_array_foreach(list, i, item)
    {
        cell_text(cell, sizeof cell, item);
        if (used >= size)
            break;
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? "," : "", cell);
    }
}

/* "100 in 1m 00s", "unlimited"; "default" where the key has none of its own. */
static void
rate_text(char *out, size_t size, const json_t *rate)
{
    int64_t requests = json_number(rate, "requests");
    char span[32];

    if (requests < 0) {
        snprintf(out, size, "default");
    } else if (requests == 0) {
        snprintf(out, size, "unlimited");
    } else {
        term_span(span, sizeof span, json_number(rate, "window"));
        snprintf(out, size, "%lld in %s", (long long)requests, span);
    }
}

static void
fill_cell(char *out, size_t size, const json_t *row, const struct column *column)
{
    const json_t *value = json_object_get(row, column->field);
    char *at;

    if (column->kind == COLUMN_TIME && json_is_number(value))
        term_time(out, size, (int64_t)json_number_value(value));
    else if (column->kind == COLUMN_SPAN && json_is_number(value))
        term_span(out, size, (int64_t)json_number_value(value));
    else if (column->kind == COLUMN_RATE)
        rate_text(out, size, value);
    else if (json_is_array(value))
        join_list(out, size, value);
    else
        cell_text(out, size, value);
    for (at = out; *at; at++) {
        if ((unsigned char)*at < ' ')
            *at = ' ';
    }
}

/* Characters of UTF-8 text. */
static int
text_width(const char *text)
{
    int width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

/* Cut to `width` characters, with "..." at the end of what was longer. */
static void
cut(char *text, int width)
{
    char *at = text;
    int seen = 0;

    if (width <= 3 || text_width(text) <= width)
        return;
    while (*at && (seen < width - 3 || ((unsigned char)*at & 0xc0) == 0x80))
        seen += ((unsigned char)*at++ & 0xc0) != 0x80;
    snprintf(at, 4, "...");
}

/* ---- tables ---- */

static int
column_width(const json_t *rows, const struct column *column)
{
    char cell[CELL_MAX];
    int widest = text_width(column->title);
    const json_t *row;
    size_t i;

    json_array_foreach(rows, i, row)
    {
        fill_cell(cell, sizeof cell, row, column);
        cut(cell, column->width_max);
        if (text_width(cell) > widest)
            widest = text_width(cell);
    }
    return widest;
}

static void
print_cell(const char *cell, int width, bool last)
{
    term_print_safe(stdout, cell, strlen(cell));
    if (last)
        putchar('\n');
    else
        printf("%*s", width - text_width(cell) + 2, "");
}

void
show_table(const json_t *rows, const struct column *columns)
{
    int widths[COLUMNS_MAX] = {0};
    char cell[CELL_MAX];
    const json_t *row;
    size_t i;
    int c;

    for (c = 0; columns[c].title; c++)
        widths[c] = column_width(rows, &columns[c]);
    for (c = 0; columns[c].title; c++)
        print_cell(columns[c].title, widths[c], !columns[c + 1].title);
    json_array_foreach(rows, i, row)
    {
        for (c = 0; columns[c].title; c++) {
            fill_cell(cell, sizeof cell, row, &columns[c]);
            cut(cell, columns[c].width_max);
            print_cell(cell, widths[c], !columns[c + 1].title);
        }
    }
}

/* ---- fields ---- */

static bool
ends_with(const char *name, const char *end)
{
    return strlen(name) >= strlen(end) && strcmp(name + strlen(name) - strlen(end), end) == 0;
}

/* The API's times and spans are numbers of ms; their names tell which. */
static void
field_text(char *out, size_t size, const char *name, const json_t *value)
{
    if (json_is_integer(value) && (ends_with(name, "At") || strcmp(name, "estimatedCompletion") == 0))
        term_time(out, size, json_integer_value(value));
    else if (json_is_integer(value) && (strcmp(name, "duration") == 0 || strcmp(name, "averageDuration") == 0))
        term_span(out, size, json_integer_value(value));
    else
        cell_text(out, size, value);
}

static void
show_value(const char *name, const json_t *value, int indent)
{
    char line[CELL_MAX * 4];

    if (json_is_object(value)) {
        printf("%*s%s:\n", indent, "", name);
        show_fields(value, indent + 2);
        return;
    }
    field_text(line, sizeof line, name, value);
    printf("%*s%s: ", indent, "", name);
    term_print_safe(stdout, line, strlen(line));
    putchar('\n');
}

void
show_fields(const json_t *object, int indent)
{
    const char *name;
    const json_t *value;
    const json_t *item;
    void *at;
    size_t i;

    for (at = json_object_iter((json_t *)object); at; at = json_object_iter_next((json_t *)object, at)) {
        name = json_object_iter_key(at);
        value = json_object_iter_value(at);
        if (!json_is_array(value) || !json_is_object(json_array_get(value, 0))) {
            show_value(name, value, indent);
            continue;
        }
        json_array_foreach(value, i, item) show_value(name, item, indent);
    }
}

/* ---- the answers ---- */

void
show_history(const json_t *answer)
{
    static const struct column columns[] = {
        {"TIME", "timestamp", COLUMN_TIME, 20}, {"STATUS", "status", COLUMN_TEXT, 12},
        {"TEAM", "to", COLUMN_TEXT, 24},        {"FROM", "from", COLUMN_TEXT, 24},
        {"TOOK", "duration", COLUMN_SPAN, 12},  {"MESSAGE", "messageId", COLUMN_TEXT, 48},
        {"TEXT", "message", COLUMN_TEXT, 60},   {NULL, NULL, COLUMN_TEXT, 0},
    };
    const json_t *pages = json_object_get(answer, "pagination");

    show_table(json_object_get(answer, "messages"), columns);
    if (json_is_true(json_object_get(pages, "hasNext")))
        printf("(%lld in all; go on with --page %lld)\n", (long long)json_number(pages, "total"),
               (long long)json_number(pages, "page") + 1);
}

void
show_teams(const json_t *teams)
{
    static const struct column columns[] = {
        {"TEAM", "name", COLUMN_TEXT, 32},     {"STATUS", "status", COLUMN_TEXT, 16},
        {"DRIVER", "driver", COLUMN_TEXT, 12}, {"RUNNING", "running", COLUMN_TEXT, 8},
        {"QUEUED", "queued", COLUMN_TEXT, 8},  {"CONCURRENCY", "concurrency", COLUMN_TEXT, 12},
        {NULL, NULL, COLUMN_TEXT, 0},
    };

    show_table(teams, columns);
}

void
show_keys(const json_t *keys)
{
    static const struct column columns[] = {
        {"NAME", "name", COLUMN_TEXT, 64},
        {"ID", "id", COLUMN_TEXT, 48},
        {"SCOPES", "scopes", COLUMN_TEXT, 60},
        {"TEAMS", "teams", COLUMN_TEXT, 40},
        {"CREATED", "createdAt", COLUMN_TIME, 20},
        {"EXPIRES", "expiresAt", COLUMN_TIME, 20},
        {"REVOKED", "revokedAt", COLUMN_TIME, 20},
        {"RATE", "rateLimit", COLUMN_RATE, 20},
        {NULL, NULL, COLUMN_TEXT, 0},
    };

    show_table(keys, columns);
}

void
show_job(const json_t *job)
{
    const char *const texts[] = {"response", "result"};
    json_t *head = json_copy((json_t *)job);
    const char *text;
    size_t i;

    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (json_is_string(json_object_get(head, texts[i])))
            json_object_del(head, texts[i]);
    }
    show_fields(head, 0);
    json_decref(head);
    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        text = json_text(job, texts[i]);
        if (!*text)
            continue;
        putchar('\n');
        term_print_safe(stdout, text, strlen(text));
        if (text[strlen(text) - 1] != '\n')
            putchar('\n');
        break;
    }
}

int
show_job_result(const json_t *job)
{
    const char *state = json_text(job, "status");

    if (strcmp(state, "cancelled") == 0)
        return EXIT_CANCELLED;
    if (strcmp(state, "failed") != 0)
        return EXIT_DONE;
    return strcmp(json_text(job, "code"), "CANCELLED") == 0 ? EXIT_CANCELLED : EXIT_FAILED;
}
