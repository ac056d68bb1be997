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

/* ---- topics that are made of text ---- */

/* Does `name` stand in the line, as a word? */
static bool
has_word(const char *line, const char *end, const char *name)
{
    size_t size = strlen(name);
    const char *at = line;

    while (size > 0 && (at = memmem(at, (size_t)(end - at), name, size))) {
        if ((at == line || !isalnum((unsigned char)at[-1])) && (at + size == end || !isalnum((unsigned char)at[size])))
            return true;
        at++;
    }
    return false;
}

/* Append the lines that have `name` in them, each with the deeper indented ones below it. */
static void
add_lines(const char *text, const char *name, struct muster_buf *out)
{
    const char *line, *end;
    size_t indent;
    size_t below = SIZE_MAX; /* indentation of the last hit; deeper lines belong to it */

    for (line = text; line && *line; line = *end ? end + 1 : end) {
        end = line + strcspn(line, "\n");
        indent = strspn(line, " ");
        if (indent <= below || below == SIZE_MAX) {
            below = SIZE_MAX;
            if (!has_word(line, end, name))
                continue;
            below = indent;
        }
        muster_buf_printf(out, "%.*s\n", (int)(end - line), line);
    }
}

/* The paragraph that begins with `name` as a line of its own; NULL: there is none. */
static const char *
find_paragraph(const char *text, const char *name, size_t size)
{
    const char *at;

    for (at = text; at; at = (at = strstr(at, "\n\n")) ? at + 2 : NULL) {
        if (size > 0 && strncmp(at, name, size) == 0 && at[size] == '\n')
            return at;
    }
    return NULL;
}

/* Append the paragraph of a type and those of the types and enumerations that its fields have: "(iris.retry)". */
static void
add_paragraphs(const char *text, const char *name, size_t size, struct muster_buf *out)
{
    const char *at = find_paragraph(text, name, size);
    const char *end, *open, *line;

    if (!at || (out->data && find_paragraph(out->data, name, size)))
        return;
    end = strstr(at, "\n\n");
    end = end ? end + 2 : at + strlen(at);
    muster_buf_add(out, at, (size_t)(end - at));
    for (line = at; line < end; line += strcspn(line, "\n") + 1) {
        open = memchr(line, '(', strcspn(line, "\n"));
        if (strspn(line, " ") == 2 && open)
            add_paragraphs(text, open + 1, strcspn(open + 1, ")\n"), out);
    }
}

static void
add_body(const char *text, const char *name, struct muster_buf *out)
{
    add_paragraphs(text, name, strlen(name), out);
}

/* The topics besides those of schemas/. */
static const struct {
    const char *name;
    void (*describe)(struct muster_buf *out);
    void (*add_named)(const char *text, const char *name, struct muster_buf *out);
} texts[] = {{"routes", http_describe_routes, add_lines}, {"bodies", http_describe_bodies, add_body}};

static const size_t text_count = sizeof texts / sizeof *texts;

/* ---- describe ---- */

static int
print_topics(void)
{
    size_t i;

    for (i = 0; muster_describe_topics[i]; i++)
        puts(muster_describe_topics[i]);
    for (i = 0; i < text_count; i++)
        puts(texts[i].name);
    return EXIT_DONE;
}

static bool
is_topic(const char *topic)
{
    size_t i;

    for (i = 0; muster_describe_topics[i]; i++)
        if (strcmp(muster_describe_topics[i], topic) == 0)
            return true;
    for (i = 0; i < text_count; i++)
        if (strcmp(texts[i].name, topic) == 0)
            return true;
    return false;
}

/* Append the topic, or what `name` (may be NULL) names in it. */
static void
add_topic(const char *topic, const char *name, struct muster_buf *out)
{
    struct muster_buf text = {0};
    size_t i;

    for (i = 0; i < text_count && strcmp(texts[i].name, topic) != 0; i++)
        ;
    if (i == text_count) {
        if (name)
            (void)muster_describe_named(topic, name, out);
        else
            (void)muster_describe(topic, out);
        return;
    }
    texts[i].describe(name ? &text : out);
    if (name)
        texts[i].add_named(text.data ? text.data : "", name, out);
    muster_buf_free(&text);
}

int
run_describe(const struct call *call)
{
    const char *topic = call->arg_count > 0 ? call->args[0] : NULL;
    const char *name = call->arg_count > 1 ? call->args[1] : NULL;
    struct muster_buf out = {0};
    int result = EXIT_DONE;

    if (!topic)
        return print_topics();
    if (!is_topic(topic))
        return complain(EXIT_NOT_FOUND, "no topic %s: muster describe lists them", topic);
    add_topic(topic, name, &out);
    if (out.size > 0)
        fputs(out.data, stdout);
    else
        result = complain(EXIT_NOT_FOUND, "nothing named %s: muster describe %s shows what there is", name, topic);
    muster_buf_free(&out);
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
