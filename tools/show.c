/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of show.h. */
#include "tools/show.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/client.h"
#include "tools/term.h"
#include "tools/text.h"

#define COLUMNS_MAX 16
#define CELL_MAX 512

/* ---- cells ---- */

/* A value on one line. */
static void
cell_text(char *out, size_t size, const json_t *value)
{
    char *dumped;

    if (json_is_string(value)) {
        text_copy(out, size, json_string_value(value));
    } else if (!value || json_is_null(value)) {
        snprintf(out, size, "-");
    } else {
        dumped = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        text_copy(out, size, dumped ? dumped : "-");
        free(dumped);
    }
}

static void
join_list(char *out, size_t size, const json_t *list)
{
    char cell[CELL_MAX];
    struct muster_buf joined = {0};
    size_t i;
    const json_t *item;

    json_array_foreach(list, i, item)
    {
        cell_text(cell, sizeof cell, item);
        muster_buf_printf(&joined, "%s%s", i ? "," : "", cell);
    }
    text_copy(out, size, joined.data ? joined.data : "-");
    muster_buf_free(&joined);
}

/* "100 in 1m 00s", "unlimited"; where the key has none of its own "by tier" or "default". */
static void
rate_text(char *out, size_t size, const json_t *key, const json_t *rate)
{
    int64_t requests = json_number(rate, "requests");
    char span[32];

    if (requests < 0) {
        snprintf(out, size, "%s", *json_text(key, "tier") ? "by tier" : "default");
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

    if (column->kind == COLUMN_TIME && json_is_number(value))
        term_time(out, size, json_whole(value));
    else if (column->kind == COLUMN_SPAN && json_is_number(value))
        term_span(out, size, json_whole(value));
    else if (column->kind == COLUMN_RATE)
        rate_text(out, size, row, value);
    else if (column->kind == COLUMN_FLAG)
        text_copy(out, size, json_is_true(value) ? "yes" : "-");
    else if (json_is_array(value))
        join_list(out, size, value);
    else
        cell_text(out, size, value);
    text_flatten(out);
}

/* ---- tables ---- */

/* Is there anything in it? */
static bool
is_used(const json_t *rows, const struct column *column)
{
    char cell[CELL_MAX];
    const json_t *row;
    size_t i;

    if (!column->optional)
        return true;
    json_array_foreach(rows, i, row)
    {
        fill_cell(cell, sizeof cell, row, column);
        if (strcmp(cell, "-") != 0)
            return true;
    }
    return false;
}

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
        text_cut(cell, column->width_max);
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

static void
show_columns(const json_t *rows, const struct column *const *columns, int count)
{
    int widths[COLUMNS_MAX] = {0};
    char cell[CELL_MAX];
    const json_t *row;
    size_t i;
    int c;

    for (c = 0; c < count; c++)
        widths[c] = column_width(rows, columns[c]);
    for (c = 0; c < count; c++)
        print_cell(columns[c]->title, widths[c], c + 1 == count);
    json_array_foreach(rows, i, row)
    {
        for (c = 0; c < count; c++) {
            fill_cell(cell, sizeof cell, row, columns[c]);
            text_cut(cell, columns[c]->width_max);
            print_cell(cell, widths[c], c + 1 == count);
        }
    }
}

void
show_table(const json_t *rows, const struct column *columns)
{
    const struct column *used[COLUMNS_MAX];
    int count = 0;

    for (; columns->title && count < COLUMNS_MAX; columns++) {
        if (is_used(rows, columns))
            used[count++] = columns;
    }
    show_columns(rows, used, count);
}

/* ---- fields ---- */

static bool
ends_with(const char *name, const char *end)
{
    return strlen(name) >= strlen(end) && strcmp(name + strlen(name) - strlen(end), end) == 0;
}

static bool
is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

/* The API's times and spans are numbers of ms; their names tell which. */
static void
field_text(char *out, size_t size, const char *name, const json_t *value)
{
    static const char *const times[] = {"estimatedCompletion", "deadline", "nextTry", "oldUntil",
                                        "lastDelivered",       NULL};
    static const char *const spans[] = {"duration", "averageDuration", NULL};

    if (json_is_number(value) && (ends_with(name, "At") || is_one_of(name, times)))
        term_time(out, size, json_whole(value));
    else if (json_is_number(value) && is_one_of(name, spans))
        term_span(out, size, json_whole(value));
    else
        cell_text(out, size, value);
}

static void
show_value(const char *name, const json_t *value, int indent)
{
    char line[CELL_MAX * 4];

    if (json_is_object(value)) {
        printf("%*s", indent, "");
        term_print_safe(stdout, name, strlen(name));
        fputs(":\n", stdout);
        show_fields(value, indent + 2);
        return;
    }
    field_text(line, sizeof line, name, value);
    printf("%*s", indent, "");
    term_print_safe(stdout, name, strlen(name));
    fputs(": ", stdout);
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

static void
show_next_page(const json_t *pages)
{
    if (json_is_true(json_object_get(pages, "hasNext")))
        printf("(%lld in all; go on with --page %lld)\n", (long long)json_number(pages, "total"),
               (long long)json_number(pages, "page") + 1);
}

void
show_history(const json_t *answer)
{
    static const struct column columns[] = {
        {"TIME", "timestamp", COLUMN_TIME, 20, false}, {"STATUS", "status", COLUMN_TEXT, 12, false},
        {"TEAM", "to", COLUMN_TEXT, 24, false},        {"FROM", "from", COLUMN_TEXT, 24, false},
        {"TOOK", "duration", COLUMN_SPAN, 12, false},  {"MESSAGE", "messageId", COLUMN_TEXT, 48, false},
        {"TEXT", "message", COLUMN_TEXT, 60, false},   {NULL, NULL, COLUMN_TEXT, 0, false},
    };

    show_table(json_object_get(answer, "messages"), columns);
    show_next_page(json_object_get(answer, "pagination"));
}

/* What is not in the answer but follows from it: how old a job is. */
static void
add_age(json_t *job, int64_t now_ms)
{
    int64_t sent_ms = json_number(job, "timestamp");

    if (json_is_object(job) && sent_ms > 0)
        json_object_set_new(job, "age", json_integer(now_ms > sent_ms ? now_ms - sent_ms : 0));
}

void
show_jobs(const json_t *answer, int64_t now_ms)
{
    static const struct column columns[] = {
        {"JOB", "messageId", COLUMN_TEXT, 48, false},    {"TEAM", "to", COLUMN_TEXT, 24, false},
        {"STATUS", "status", COLUMN_TEXT, 12, false},    {"PRIORITY", "priority", COLUMN_TEXT, 12, true},
        {"POSITION", "position", COLUMN_TEXT, 12, true}, {"AGE", "age", COLUMN_SPAN, 12, false},
        {"TOOK", "duration", COLUMN_SPAN, 12, true},     {"FROM", "from", COLUMN_TEXT, 24, false},
        {"TEXT", "message", COLUMN_TEXT, 60, false},     {NULL, NULL, COLUMN_TEXT, 0, false},
    };
    json_t *jobs = json_deep_copy(json_object_get(answer, "messages"));
    json_t *job;
    size_t i;

    json_array_foreach(jobs, i, job) add_age(job, now_ms);
    show_table(jobs, columns);
    json_decref(jobs);
    show_next_page(json_object_get(answer, "pagination"));
}

void
show_webhooks(const json_t *answer)
{
    static const struct column columns[] = {
        {"ID", "id", COLUMN_TEXT, 48, false},           {"NAME", "name", COLUMN_TEXT, 32, true},
        {"STATE", "state", COLUMN_TEXT, 12, false},     {"URL", "url", COLUMN_TEXT, 60, false},
        {"EVENTS", "events", COLUMN_TEXT, 48, false},   {"TEAMS", "teams", COLUMN_TEXT, 32, true},
        {"TAKEN", "delivered", COLUMN_TEXT, 12, false}, {"LAG", "lag", COLUMN_TEXT, 12, true},
        {"TRIES", "tries", COLUMN_TEXT, 8, true},       {"NEXT TRY", "nextTry", COLUMN_TIME, 20, true},
        {"PROBLEM", "problem", COLUMN_TEXT, 60, true},  {NULL, NULL, COLUMN_TEXT, 0, false},
    };

    show_table(json_is_array(answer) ? answer : json_object_get(answer, "webhooks"), columns);
}

void
show_teams(const json_t *teams)
{
    static const struct column columns[] = {
        {"TEAM", "name", COLUMN_TEXT, 32, false},     {"STATUS", "status", COLUMN_TEXT, 16, false},
        {"DRIVER", "driver", COLUMN_TEXT, 12, false}, {"RUNNING", "running", COLUMN_TEXT, 8, false},
        {"QUEUED", "queued", COLUMN_TEXT, 8, false},  {"CONCURRENCY", "concurrency", COLUMN_TEXT, 12, false},
        {"WORKERS", "workers", COLUMN_TEXT, 8, true}, {"PAUSED", "paused", COLUMN_FLAG, 8, true},
        {NULL, NULL, COLUMN_TEXT, 0, false},
    };

    show_table(teams, columns);
}

void
show_keys(const json_t *keys)
{
    static const struct column columns[] = {
        {"NAME", "name", COLUMN_TEXT, 64, false},         {"ID", "id", COLUMN_TEXT, 48, false},
        {"SCOPES", "scopes", COLUMN_TEXT, 60, false},     {"TEAMS", "teams", COLUMN_TEXT, 40, false},
        {"TIER", "tier", COLUMN_TEXT, 12, true},          {"AS", "speaksFor", COLUMN_TEXT, 32, true},
        {"CREATED", "createdAt", COLUMN_TIME, 20, false}, {"EXPIRES", "expiresAt", COLUMN_TIME, 20, false},
        {"OLD UNTIL", "oldUntil", COLUMN_TIME, 20, true}, {"REVOKED", "revokedAt", COLUMN_TIME, 20, false},
        {"RATE", "rateLimit", COLUMN_RATE, 20, false},    {NULL, NULL, COLUMN_TEXT, 0, false},
    };

    show_table(keys, columns);
}

void
show_job(const json_t *job)
{
    const char *const texts[] = {"response", "result"};
    json_t *head = json_copy((json_t *)job);
    const json_t *progress = json_object_get(job, "progress");
    const char *text;
    size_t i;

    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (json_is_string(json_object_get(head, texts[i])))
            json_object_del(head, texts[i]);
    }
    if (json_number(progress, "total") > 0)
        json_object_set_new(head, "progress",
                            json_sprintf("%lld of %lld (%lld %%)", (long long)json_number(progress, "current"),
                                         (long long)json_number(progress, "total"),
                                         (long long)json_number(progress, "percentage")));
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

bool
job_has_ended(const json_t *job)
{
    const char *state = json_text(job, "status");

    return strcmp(state, "queued") != 0 && strcmp(state, "processing") != 0;
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
