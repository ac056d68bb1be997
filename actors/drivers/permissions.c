/* SPDX-License-Identifier: MPL-2.0 */
/* Permission rules: what a team's agent may do when it asks.
 *
 * A rule is `Tool` or `Tool(pattern)`.  The tool's name may hold '*'; `mcp__server` stands for all tools of that
 * server. The pattern is matched with fnmatch, without flags, against the tool's main argument:
 *
 *   Bash                              command
 *   Read Edit MultiEdit Write NotebookEdit   the file, absolute or from the team's directory
 *   Glob Grep                         path, or pattern where no path is given
 *   WebFetch                          url; `domain:x` is the url's host
 *   others                            the whole input as compact JSON
 *
 * `prefix:*` matches what begins with the prefix; for a command that means whole words.
 * Deny rules are looked at first, then allow rules; no match is denied.  In doubt a deny rule matches and an allow rule
 * does not: an allow pattern other than `*` never matches a command with operators or a path with `..`, a deny pattern
 * is also tried on each part of a command and on the path without its `.` and `..`.  A deny rule that cannot be read
 * denies its tool.  This guards against mistakes; it is no sandbox. Any thread.  Nothing fails. */
#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "actors/drivers/share.h"

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
    const char *text;  /* the main argument */
    const char *other; /* a search's pattern beside its path; NULL none */
    const char *directory;
    char *json; /* owned: text of SUBJECT_OTHER */
};

/* ---- text helpers --------------------------------------------------------------------------------------------------
 */

static bool
begins_with(const char *text, const char *prefix, size_t size)
{
    return !strncmp(text, prefix, size);
}

/* `pattern` against `text`; `prefix:*` is a prefix, of whole words if `words`. */
static bool
glob(const char *pattern, const char *text, bool words)
{
    size_t size = strlen(pattern);

    if (size < 2 || strcmp(pattern + size - 2, ":*"))
        return fnmatch(pattern, text, 0) == 0;
    size -= 2;
    if (!begins_with(text, pattern, size))
        return false;
    return !words || !text[size] || text[size] == ' ' || text[size] == '\t';
}

/* Has the path a segment ".."? */
static bool
climbs(const char *path)
{
    const char *at = path;

    while ((at = strstr(at, ".."))) {
        if ((at == path || at[-1] == '/') && (at[2] == '/' || !at[2]))
            return true;
        at += 2;
    }
    return false;
}

/* Bytes of `path` without its last name. */
static size_t
parent_size(const char *path, size_t size)
{
    while (size && path[size - 1] != '/')
        size--;
    return size > 1 ? size - 1 : size;
}

/* The path without empty, "." and ".." segments; the caller frees it. */
static char *
plain_path(const char *path)
{
    char *plain = muster_alloc(strlen(path) + 2);
    size_t used = 0, size;

    for (; *path; path += size) {
        size = strcspn(path, "/");
        if (!size) {
            if (!used)
                plain[used++] = '/';
            size = 1;
        } else if (size == 2 && begins_with(path, "..", 2)) {
            used = parent_size(plain, used);
        } else if (size != 1 || *path != '.') {
            if (used && plain[used - 1] != '/')
                plain[used++] = '/';
            memcpy(plain + used, path, size);
            used += size;
        }
    }
    plain[used] = '\0';
    return plain;
}

/* The part of `path` inside `directory`; NULL when it lies elsewhere. */
static const char *
inside(const char *path, const char *directory)
{
    size_t size = directory ? strlen(directory) : 0;

    while (size && directory[size - 1] == '/')
        size--;
    if (!size || !begins_with(path, directory, size) || path[size] != '/')
        return NULL;
    return path + size + 1;
}

/* ---- one kind of subject after the other ----------------------------------------------------------------------------
 */

static bool
command_allowed(const char *pattern, const char *command)
{
    if (strpbrk(command, ";&|`<>\n\r") || strstr(command, "$("))
        return false;
    return glob(pattern, command, true);
}

static bool
command_denied(const char *pattern, const char *command)
{
    static const char separators[] = ";&|\n\r`()";
    char *copy, *part, *rest;
    bool denied = glob(pattern, command, false);

    copy = muster_strdup(command);
    for (part = strtok_r(copy, separators, &rest); part && !denied; part = strtok_r(NULL, separators, &rest))
        denied = glob(pattern, part + strspn(part, " \t"), false);
    free(copy);
    return denied;
}

static bool
path_matches(const char *pattern, const char *path, const char *directory)
{
    const char *rest = inside(path, directory);

    return glob(pattern, path, false) || (rest && glob(pattern, rest, false));
}

static bool
path_allowed(const char *pattern, const char *path, const char *directory)
{
    return !climbs(path) && path_matches(pattern, path, directory);
}

static bool
path_denied(const char *pattern, const char *path, const char *directory)
{
    char *plain = plain_path(path);
    bool denied = path_matches(pattern, path, directory) || path_matches(pattern, plain, directory);

    free(plain);
    return denied;
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

static bool
search_matches(const char *pattern, const struct subject *subject, bool deny)
{
    const char *directory = subject->directory, *other = subject->other;

    if (deny)
        return path_denied(pattern, subject->text, directory) || (other && path_denied(pattern, other, directory));
    if (other && (*other == '/' || climbs(other)))
        return false;
    return path_allowed(pattern, subject->text, directory);
}

static bool
pattern_matches(const char *pattern, const struct subject *subject, bool deny)
{
    if (!strcmp(pattern, "*"))
        return true;
    switch (subject->kind) {
    case SUBJECT_COMMAND:
        return deny ? command_denied(pattern, subject->text) : command_allowed(pattern, subject->text);
    case SUBJECT_FILE:
        return deny ? path_denied(pattern, subject->text, subject->directory)
                    : path_allowed(pattern, subject->text, subject->directory);
    case SUBJECT_SEARCH:
        return search_matches(pattern, subject, deny);
    case SUBJECT_URL:
        if (begins_with(pattern, "domain:", 7))
            return domain_matches(pattern + 7, subject->text, deny);
        break;
    case SUBJECT_OTHER:
        break;
    }
    return glob(pattern, subject->text, false);
}

/* ---- rules ----------------------------------------------------------------------------------------------------------
 */

static bool
tool_matches(const char *name, const char *tool)
{
    size_t size = strlen(name);

    if (!strcmp(name, tool))
        return true;
    if (strchr(name, '*'))
        return fnmatch(name, tool, 0) == 0;
    return begins_with(name, "mcp__", 5) && begins_with(tool, name, size) && begins_with(tool + size, "__", 2);
}

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

static const char *
first_match(const struct muster_strs *rules, const char *tool, const struct subject *subject, bool deny)
{
    size_t i;

    for (i = 0; i < rules->count; i++)
        if (rule_matches(rules->items[i], tool, subject, deny))
            return rules->items[i];
    return NULL;
}

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
    out->kind = SUBJECT_OTHER;
    out->json = input ? json_dumps(input, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    out->text = out->json ? out->json : text;
}

enum tool_verdict
permission_check(const struct permission_options *permissions, const char *directory, const char *tool,
                 const char *input, const char **out_rule)
{
    struct subject subject = {.directory = directory};
    json_t *json = NULL;
    const char *rule;
    bool allowed = false;

    if (muster_json_shallow(input, strlen(input)))
        json = json_loads(input, JSON_DECODE_ANY, NULL);
    subject_read(tool, json, input, &subject);
    rule = first_match(&permissions->deny, tool, &subject, true);
    if (!rule) {
        rule = first_match(&permissions->allow, tool, &subject, false);
        allowed = rule != NULL;
    }
    free(subject.json);
    json_decref(json);
    *out_rule = rule ? rule : "";
    return allowed ? tool_verdict_ALLOWED : tool_verdict_DENIED;
}
