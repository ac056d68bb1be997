/* SPDX-License-Identifier: MPL-2.0 */
/* Permission rules: what a team's agent may do when it asks.  Here are the rules and their entry, permission_check;
 * permissions_command.c takes command lines apart, permissions_path.c paths.
 *
 * These rules are a net against accidents, not a sandbox: a deny pattern knows the usual spellings of a command and of
 * a path, and who wants to get around it can.
 *
 * A rule is `Tool` or `Tool(pattern)`.  The tool's name may hold '*'; `mcp__server` stands for all tools of that
 * server, `Task` also for its newer name `Agent`.  The pattern `*` means any argument; others are matched with fnmatch,
 * without flags, against the tool's main argument:
 *
 *   Bash                              command
 *   Read Edit MultiEdit Write NotebookEdit   the file
 *   Glob Grep                         path, or pattern where no path is given
 *   WebFetch                          url; `domain:x` is the url's host
 *   others                            the whole input as compact JSON
 *
 * `prefix:*` matches what begins with the prefix; for a command that means whole words.
 * Deny rules are looked at first, then allow rules; no match is denied.  In doubt a deny rule matches and an allow rule
 * does not.  A deny rule that cannot be read denies its tool, and so does one with a pattern when the input lacks the
 * main argument.
 *
 * Commands: an allow pattern never matches one with operators.  A deny pattern is also tried on each part of the
 * command, without its quotes, with single blanks, and on what follows variables, redirections, keywords and programs
 * that run another program (sudo, env, xargs, ...), with and without the folder of the program.
 *
 * Paths: an allow pattern without a leading '/' is tried on the path from the team's directory and matches nothing
 * outside, symbolic links followed; one with a leading '/' is tried on the path with its links followed.  No allow
 * pattern matches a path with `..`.  A deny pattern is tried on the path as given, without its `.` and `..`, and with
 * its links followed, each from the root and from the team's directory.  A folder that is searched also counts as
 * `folder/`.
 *
 * Any thread.  Looks at symbolic links on disk, nothing else.  Nothing fails. */
#include "actors/drivers/permissions.h"

#include <ctype.h>
#include <fnmatch.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum subject_kind { SUBJECT_COMMAND, SUBJECT_FILE, SUBJECT_SEARCH, SUBJECT_URL, SUBJECT_OTHER };

static const struct {
    const char *tool;
    enum subject_kind kind;
    const char *names[2]; /* of its main argument in the input */
} subjects[] = {
    {"Bash", SUBJECT_COMMAND, {"command"}},
    {"Read", SUBJECT_FILE, {"file_path"}},
    {"Edit", SUBJECT_FILE, {"file_path"}},
    {"MultiEdit", SUBJECT_FILE, {"file_path"}},
    {"Write", SUBJECT_FILE, {"file_path"}},
    {"NotebookEdit", SUBJECT_FILE, {"notebook_path", "file_path"}},
    {"Glob", SUBJECT_SEARCH, {"path", "pattern"}},
    {"Grep", SUBJECT_SEARCH, {"path", "pattern"}},
    {"WebFetch", SUBJECT_URL, {"url"}},
};

/* What a pattern is matched against. */
struct subject {
    enum subject_kind kind;
    const char *text;                    /* the main argument */
    const char *other;                   /* a search's pattern beside its path; NULL none */
    char *json;                          /* owned: text of SUBJECT_OTHER */
    bool unknown;                        /* the main argument should be there and is not */
    struct permission_commands commands; /* of SUBJECT_COMMAND */
    struct permission_paths paths;       /* of SUBJECT_FILE and SUBJECT_SEARCH */
};

/* ---- patterns ---- */

bool
permission_glob(const char *pattern, const char *text, bool words)
{
    size_t size = strlen(pattern);

    if (size < 2 || strcmp(pattern + size - 2, ":*"))
        return (*pattern == *text || strchr("*?[\\", *pattern)) && fnmatch(pattern, text, 0) == 0;
    size -= 2;
    if (strncmp(text, pattern, size))
        return false;
    return !words || !text[size] || text[size] == ' ' || text[size] == '\t';
}

/* The host of an http or https url in lower case without its port; false when there is none to be sure of. */
static bool
url_host(const char *url, char *out_host, size_t out_size)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz0123456789.-";
    const char *at, *end;
    size_t size, i;

    if (strncasecmp(url, "http://", 7) && strncasecmp(url, "https://", 8))
        return false;
    url = strstr(url, "://") + 3;
    end = url + strcspn(url, "/\\?#");
    at = memrchr(url, '@', (size_t)(end - url));
    url = at ? at + 1 : url;
    size = strcspn(url, ":/\\?#");
    while (size && url[size - 1] == '.')
        size--;
    if (!size || size >= out_size)
        return false;
    for (i = 0; i < size; i++)
        out_host[i] = (char)tolower((unsigned char)url[i]);
    out_host[size] = '\0';
    return strspn(out_host, plain) == size;
}

/* Is the url's host the domain, or for a deny rule below it? */
static bool
domain_matches(const char *domain, const char *url, bool deny)
{
    char host[256];
    size_t host_size, size = strlen(domain);

    if (!url_host(url, host, sizeof(host)))
        return deny;
    if (!fnmatch(domain, host, FNM_CASEFOLD))
        return true;
    host_size = strlen(host);
    return deny && host_size > size && host[host_size - size - 1] == '.' &&
           !strcasecmp(host + host_size - size, domain);
}

/* The pattern in the rule's brackets against the main argument. */
static bool
pattern_matches(const char *pattern, const struct subject *subject, bool deny)
{
    if (!strcmp(pattern, "*"))
        return true;
    if (subject->unknown)
        return deny;
    switch (subject->kind) {
    case SUBJECT_COMMAND:
        return deny ? permission_command_denied(pattern, &subject->commands)
                    : permission_command_allowed(pattern, &subject->commands);
    case SUBJECT_FILE:
    case SUBJECT_SEARCH:
        return deny ? permission_paths_denied(pattern, &subject->paths)
                    : permission_paths_allowed(pattern, &subject->paths);
    case SUBJECT_URL:
        if (!strncmp(pattern, "domain:", 7))
            return domain_matches(pattern + 7, subject->text, deny);
        break;
    case SUBJECT_OTHER:
        break;
    }
    return permission_glob(pattern, subject->text, false);
}

/* ---- rules ---- */

/* The name in the rule against the tool's. */
static bool
tool_matches(const char *name, const char *tool)
{
    size_t size = strlen(name);

    if (!strcmp(name, tool) || (!strcmp(name, "Task") && !strcmp(tool, "Agent")))
        return true;
    if (strchr(name, '*'))
        return fnmatch(name, tool, 0) == 0;
    return !strncmp(name, "mcp__", 5) && !strncmp(tool, name, size) && !strncmp(tool + size, "__", 2);
}

/* A rule that has a '(' and does not end in ')' cannot be read. */
static bool
rule_matches(const char *rule, const char *tool, const struct subject *subject, bool deny)
{
    char *name = muster_strdup(rule), *pattern = strchr(name, '(');
    size_t size = strlen(name);
    bool whole = true, matches;

    if (pattern) {
        *pattern++ = '\0';
        whole = name[size - 1] == ')' && size > strlen(name) + 1;
        if (whole)
            name[size - 1] = '\0';
    }
    matches = tool_matches(name, tool);
    if (matches && !whole)
        matches = deny;
    else if (matches && pattern)
        matches = pattern_matches(pattern, subject, deny);
    free(name);
    return matches;
}

/* The first rule that matches; NULL none. */
static const char *
first_match(const struct muster_strs *rules, const char *tool, const struct subject *subject, bool deny)
{
    size_t i;

    for (i = 0; i < rules->count; i++)
        if (rule_matches(rules->items[i], tool, subject, deny))
            return rules->items[i];
    return NULL;
}

/* ---- subjects ---- */

/* Find the main argument of the tool in its input. */
static void
subject_read(const char *tool, const json_t *input, const char *text, struct subject *out)
{
    const char *first = NULL, *second = NULL;
    size_t i;

    out->kind = SUBJECT_OTHER;
    for (i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++) {
        if (strcmp(subjects[i].tool, tool))
            continue;
        first = json_string_value(json_object_get(input, subjects[i].names[0]));
        if (subjects[i].names[1])
            second = json_string_value(json_object_get(input, subjects[i].names[1]));
        out->kind = subjects[i].kind;
        break;
    }
    out->text = first ? first : second;
    out->other = first ? second : NULL;
    if (out->kind != SUBJECT_OTHER && out->text)
        return;
    out->unknown = out->kind != SUBJECT_OTHER;
    out->kind = SUBJECT_OTHER;
    out->json = input ? json_dumps(input, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    out->text = out->json ? out->json : text;
}

/* Prepare what the patterns of this kind of subject are tried on. */
static void
subject_expand(struct subject *subject, const char *directory)
{
    bool search = subject->kind == SUBJECT_SEARCH;

    if (subject->kind == SUBJECT_COMMAND)
        permission_commands_read(&subject->commands, subject->text);
    else if (subject->kind == SUBJECT_FILE || search)
        permission_paths_read(&subject->paths, directory, subject->text, subject->other, search);
}

static void
subject_free(struct subject *subject)
{
    permission_paths_free(&subject->paths);
    permission_commands_free(&subject->commands);
    free(subject->json);
}

enum tool_verdict
permission_check(const struct permission_options *permissions, const char *directory, const char *tool,
                 const char *input, const char **out_rule)
{
    struct subject subject = {0};
    json_t *json = NULL;
    const char *rule;
    bool allowed = false;

    if (muster_json_shallow(input, strlen(input)))
        json = json_loads(input, JSON_DECODE_ANY, NULL);
    subject_read(tool, json, input, &subject);
    subject_expand(&subject, directory);
    rule = first_match(&permissions->deny, tool, &subject, true);
    if (!rule) {
        rule = first_match(&permissions->allow, tool, &subject, false);
        allowed = rule != NULL;
    }
    subject_free(&subject);
    json_decref(json);
    *out_rule = rule ? rule : "";
    return allowed ? tool_verdict_ALLOWED : tool_verdict_DENIED;
}
