/* SPDX-License-Identifier: MPL-2.0 */
/* describe, check-config and version: what needs no server. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "api/http/muster_http.h"
#include "api/muster.h"
#include "schemas/muster_describe.h"
#include "schemas/muster_options.h"
#include "tools/client.h"
#include "tools/commands.h"

#define ROUTES "routes" /* the one topic that is not a table of schemas/ */

/* ---- describe ---- */

/* The type of that name in `type` itself or below it; options and records nest only a few levels. */
static const struct muster_type *
find_below(const struct muster_type *type, const char *name)
{
    const struct muster_field *field;
    const struct muster_type *found;

    if (strcmp(type->wire, name) == 0)
        return type;
    for (field = type->fields; field->kind != MUSTER_KIND_END; field++) {
        found = field->sub ? find_below(field->sub, name) : NULL;
        if (found)
            return found;
    }
    return NULL;
}

/* The type that a topic knows under that name; NULL: none, or the topic has no types. */
static const struct muster_type *
find_type(const char *topic, const char *name)
{
    const struct muster_type *found = NULL;
    size_t i;

    if (strcmp(topic, "messages") == 0) {
        for (i = 0; muster_messages[i] && !found; i++)
            found = find_below(muster_messages[i], name);
    } else if (strcmp(topic, "events") == 0) {
        for (i = 0; muster_events[i].type && !found; i++)
            found = find_below(muster_events[i].type, name);
    } else if (strcmp(topic, "records") == 0) {
        for (i = 0; muster_records[i].type && !found; i++)
            found = find_below(muster_records[i].type, name);
    } else if (strcmp(topic, "options") == 0) {
        found = find_below(&options_type, name);
    }
    return found;
}

/* Does `name` stand in the line, as a word? */
static bool
has_word(const char *line, const char *end, const char *name)
{
    size_t size = strlen(name);
    const char *at = line;

    while ((at = memmem(at, (size_t)(end - at), name, size))) {
        if ((at == line || !isalnum((unsigned char)at[-1])) && (at + size == end || !isalnum((unsigned char)at[size])))
            return true;
        at++;
    }
    return false;
}

/* Print the lines that have `name` in them, each with the deeper indented ones below it; returns the number of hits. */
static int
print_lines(const struct muster_buf *text, const char *name)
{
    const char *line = text->data;
    const char *end;
    size_t indent;
    size_t below = SIZE_MAX; /* indentation of the last hit; deeper lines belong to it */
    int count = 0;

    for (; line && *line; line = *end ? end + 1 : end) {
        end = line + strcspn(line, "\n");
        indent = strspn(line, " ");
        if (indent <= below || below == SIZE_MAX) {
            below = SIZE_MAX;
            if (!has_word(line, end, name))
                continue;
            below = indent;
            count++;
        }
        printf("%.*s\n", (int)(end - line), line);
    }
    return count;
}

static int
print_topics(void)
{
    size_t i;

    for (i = 0; muster_describe_topics[i]; i++)
        puts(muster_describe_topics[i]);
    puts(ROUTES);
    return EXIT_DONE;
}

int
run_describe(const struct call *call)
{
    const char *topic = call->arg_count > 0 ? call->args[0] : NULL;
    const char *name = call->arg_count > 1 ? call->args[1] : NULL;
    const struct muster_type *type;
    struct muster_buf text = {0};
    int result = EXIT_DONE;

    if (!topic)
        return print_topics();
    type = name ? find_type(topic, name) : NULL;
    if (type)
        muster_describe_type(type, &text);
    else if (strcmp(topic, ROUTES) == 0)
        http_describe_routes(&text);
    else if (muster_describe(topic, &text))
        result = complain(EXIT_NOT_FOUND, "no topic %s: muster describe lists them", topic);
    if (!result && (!name || type))
        fputs(text.data ? text.data : "", stdout);
    else if (!result && print_lines(&text, name) == 0)
        result = complain(EXIT_NOT_FOUND, "nothing named %s: muster describe %s shows what there is", name, topic);
    muster_buf_free(&text);
    return result;
}

/* ---- the others ---- */

int
run_check_config(const struct call *call)
{
    struct muster_options_error error = {{0}};
    struct muster_config config = {0};

    if (muster_config_load(call->args[0], &config, &error))
        return complain(EXIT_USAGE, "%s: correct the file", error.text);
    printf("%s is fine: %zu team%s, %zu key%s, data in %s\n", call->args[0], config.options->teams.count,
           config.options->teams.count == 1 ? "" : "s", config.options->auth->keys.count,
           config.options->auth->keys.count == 1 ? "" : "s", config.options->data);
    muster_config_free(&config);
    return EXIT_DONE;
}

int
run_version(const struct call *call)
{
    if (call_value(call, "--json"))
        printf("{\"version\": \"%s\"}\n", muster_version());
    else
        printf("muster %s\n", muster_version());
    return EXIT_DONE;
}
