/* SPDX-License-Identifier: MPL-2.0 */
/* Answers of the server as plain lines and columns on standard output.  Fields that are not there are left out.
 * Main thread. */
#ifndef TOOLS_SHOW_H
#define TOOLS_SHOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* One column of a table. */
struct column {
    const char *title;
    const char *field;
    enum { COLUMN_TEXT, COLUMN_TIME, COLUMN_SPAN, COLUMN_RATE, COLUMN_FLAG } kind;
    int width_max; /* longer text is cut */
    bool optional; /* left out when no row has it */
};

/* `rows` is a list of objects; `columns` ends with title == NULL. */
void show_table(const json_t *rows, const struct column *columns);
/* "name: value" lines, objects and lists below, indented. */
void show_fields(const json_t *object, int indent);

void show_teams(const json_t *teams);
void show_keys(const json_t *keys);
void show_webhooks(const json_t *answer);
/* nodes.c: the server, then its workers; `now_ms` tells how long ago they were heard of. */
void show_nodes(const json_t *answer, int64_t now_ms);
void show_history(const json_t *answer);
/* As the history, for a person who looks after jobs: `now_ms` tells how old they are. */
void show_jobs(const json_t *answer, int64_t now_ms);
void show_job(const json_t *job);
/* Is it neither waiting nor at work? */
bool job_has_ended(const json_t *job);
/* The exit code that tells how the job stands: EXIT_DONE when it is completed or has not ended. */
int show_job_result(const json_t *job);

#endif
