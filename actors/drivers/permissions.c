/* SPDX-License-Identifier: MPL-2.0 */
/* Permission rules: what a team's agent may do when it asks.
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
#include <ctype.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

/* The commands that a command line holds, for deny patterns. */
struct commands {
    char *memory[3]; /* owned: what the items point into */
    const char **items;
    size_t count, capacity;
    bool deep; /* more programs that run programs than are looked at */
};

enum { PLACE_CLEAN, PLACE_REAL, PLACE_CLEAN_REAL, PLACE_COUNT };

/* One path in the spellings that patterns are tried on; all owned. */
struct place {
    const char *text;             /* borrowed: as given; NULL: there is no path */
    char *text_folder;            /* the same with '/' after it; for searches, else NULL */
    char *spellings[PLACE_COUNT]; /* absolute; NULL: none */
    char *folders[PLACE_COUNT];   /* likewise with '/' after it */
    bool sure;                    /* its text means the same to every program */
    bool dangling;                /* leads through a symbolic link to nothing */
};

enum { PLACES = 3 };

/* What a pattern is matched against. */
struct subject {
    enum subject_kind kind;
    const char *text;            /* the main argument */
    const char *other;           /* a search's pattern beside its path; NULL none */
    char *json;                  /* owned: text of SUBJECT_OTHER */
    bool unknown;                /* the main argument should be there and is not */
    struct commands commands;    /* of SUBJECT_COMMAND */
    struct place places[PLACES]; /* text, other and both together, of files and searches */
    char *joined;                /* owned: text of the third place */
    const char *directory;       /* of the team */
    char *clean_directory;       /* owned: without '.' and '..' */
    char *real_directory;        /* owned: with symbolic links followed */
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
        return (*pattern == *text || strchr("*?[\\", *pattern)) && fnmatch(pattern, text, 0) == 0;
    size -= 2;
    if (!begins_with(text, pattern, size))
        return false;
    return !words || !text[size] || text[size] == ' ' || text[size] == '\t';
}

/* Has the path a segment "..", perhaps as a choice in braces? */
static bool
climbs(const char *path)
{
    const char *at = path;

    while ((at = strstr(at, ".."))) {
        if ((at == path || strchr("/{,", at[-1])) && strchr("/},", at[2]))
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

/* The part of `path` inside `directory`, "" for itself; NULL when it lies elsewhere.  Both are clean. */
static const char *
inside(const char *path, const char *directory)
{
    size_t size = strlen(directory);

    while (size && directory[size - 1] == '/')
        size--;
    if (!begins_with(path, directory, size) || (path[size] && path[size] != '/'))
        return NULL;
    return path[size] ? path + size + 1 : path + size;
}

/* `text`, a path from `directory` or the home folder, from the root; the caller frees it. */
static char *
absolute_path(const char *text, const char *directory)
{
    const char *home = getenv("HOME");
    struct muster_buf path = {0};

    if (home && *text == '~' && (!text[1] || text[1] == '/')) {
        muster_buf_str(&path, home);
        text++;
    } else if (*text != '/') {
        muster_buf_str(&path, directory);
        muster_buf_str(&path, "/");
    }
    muster_buf_str(&path, text);
    return muster_buf_take(&path, NULL);
}

static bool
is_link(const char *path)
{
    struct stat status;

    return !lstat(path, &status) && S_ISLNK(status.st_mode);
}

/* The path, from the root, with its symbolic links followed, as far as it exists; the caller frees it.  NULL: it leads
 * through a link to nothing. */
static char *
real_path(const char *path)
{
    char *head = muster_strdup(path), *real = NULL, *slash, *whole = NULL;
    struct muster_buf joined = {0};
    bool lost = false;

    while (strlen(path) < PATH_MAX && !lost && *head && !(real = realpath(head, NULL))) {
        lost = is_link(head);
        slash = strrchr(head, '/');
        *(slash ? slash : head) = '\0';
    }
    if (!lost) {
        muster_buf_str(&joined, real ? real : "");
        muster_buf_str(&joined, "/");
        muster_buf_str(&joined, real ? path + strlen(head) : path);
        whole = plain_path(joined.data);
    }
    muster_buf_free(&joined);
    free(real);
    free(head);
    return whole;
}

/* ---- the commands of a command line ---------------------------------------------------------------------------------
 */

static const char separators[] = ";&|\n\r`()";

/* Words before a command that are not the command. */
static const struct wrapper {
    const char *name;
    const char *options; /* letters of those that take a word */
    int words;           /* of its own, before the command */
    bool shell;          /* the command is one word of text */
} wrappers[] = {
    {"if", "", 0, false},
    {"then", "", 0, false},
    {"elif", "", 0, false},
    {"else", "", 0, false},
    {"while", "", 0, false},
    {"until", "", 0, false},
    {"do", "", 0, false},
    {"!", "", 0, false},
    {"{", "", 0, false},
    {"coproc", "", 0, false},
    {"function", "", 1, false},
    {"time", "fo", 0, false},
    {"builtin", "", 0, false},
    {"command", "", 0, false},
    {"exec", "a", 0, false},
    {"env", "uC", 0, false},
    {"nohup", "", 0, false},
    {"nice", "n", 0, false},
    {"ionice", "cn", 0, false},
    {"setsid", "", 0, false},
    {"stdbuf", "ioe", 0, false},
    {"timeout", "sk", 1, false},
    {"sudo", "ughprtUTCDR", 0, false},
    {"doas", "uC", 0, false},
    {"xargs", "adEILnPs", 0, false},
    {"busybox", "", 0, false},
    {"eval", "", 0, true},
    {"sh", "oO", 0, true},
    {"bash", "oO", 0, true},
    {"dash", "oO", 0, true},
    {"zsh", "oO", 0, true},
};

/* Options in long form that take the next word. */
static const char *const long_options[] = {
    "--user",     "--group",    "--host",      "--prompt",    "--chdir",     "--unset",      "--signal", "--kill-after",
    "--arg-file", "--max-args", "--max-procs", "--max-chars", "--delimiter", "--adjustment", "--output", "--format",
};

/* How many of them in a row are looked through. */
enum { WRAPPERS_MAX = 8 };

static void
add_command(struct commands *commands, const char *text)
{
    if (commands->count == commands->capacity) {
        commands->capacity = commands->capacity ? commands->capacity * 2 : 16;
        commands->items = muster_realloc(commands->items, commands->capacity * sizeof(*commands->items));
    }
    commands->items[commands->count++] = text;
}

/* Append a character with blanks made one ' '.  In `shape` a quoted blank is none. */
static size_t
put_character(char *text, char *shape, size_t used, char character, bool quoted)
{
    bool blank = character == ' ' || character == '\t';

    if (blank && (!used || text[used - 1] == ' ')) {
        if (used && !quoted)
            shape[used - 1] = ' ';
        return used;
    }
    text[used] = blank ? ' ' : character;
    shape[used] = blank && quoted ? '_' : text[used];
    return used + 1;
}

/* Read up to a separator outside of quotes, without quotes and backslashes; returns where it stands. */
static const char *
read_part(const char *at, char *text, char *shape)
{
    size_t used = 0;
    char quote = '\0';
    bool quoted;

    for (; *at; at++) {
        quoted = quote != '\0';
        if (*at == '\\' && quote != '\'') {
            if (!at[1] || *++at == '\n')
                continue;
            quoted = true;
        } else if (quote ? *at == quote : *at == '"' || *at == '\'') {
            quote = quote ? '\0' : *at;
            continue;
        } else if (!quote && strchr(separators, *at)) {
            break;
        }
        used = put_character(text, shape, used, *at, quoted);
    }
    while (used && shape[used - 1] == ' ')
        used--;
    text[used] = shape[used] = '\0';
    return at;
}

static size_t
word_end(const char *shape, size_t at)
{
    return at + strcspn(shape + at, " ");
}

static size_t
next_word(const char *shape, size_t at)
{
    at = word_end(shape, at);
    return at + strspn(shape + at, " ");
}

/* NAME=value, NAME+=value or NAME[index]=value */
static bool
is_assignment(const char *word, size_t size)
{
    static const char name[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    const char *sign = memchr(word, '=', size);
    size_t used = strspn(word, name);

    return sign && used && !isdigit((unsigned char)*word) &&
           (word[used] == '=' || word[used] == '[' || word[used] == '+');
}

/* Pass variables and redirections. */
static size_t
skip_prefixes(const char *text, const char *shape, size_t at)
{
    size_t end, size;

    for (; text[at]; at = next_word(shape, at)) {
        end = word_end(shape, at);
        if (is_assignment(text + at, end - at))
            continue;
        size = strspn(text + at, "0123456789");
        if (text[at + size] != '<' && text[at + size] != '>')
            break;
        size += strspn(text + at + size, "<>");
        if (at + size == end)
            at = next_word(shape, at);
    }
    return at;
}

/* Does the option take the word that follows? */
static bool
takes_word(const struct wrapper *wrapper, const char *option, size_t size)
{
    size_t i;

    if (size > 1 && option[1] == '-') {
        for (i = 0; i < sizeof(long_options) / sizeof(long_options[0]); i++)
            if (strlen(long_options[i]) == size && begins_with(option, long_options[i], size))
                return true;
        return false;
    }
    for (i = 1; i < size; i++)
        if (strchr(wrapper->options, option[i]))
            return i + 1 == size;
    return false;
}

/* Pass the name of a wrapper, its options and its own words. */
static size_t
skip_wrapper(const struct wrapper *wrapper, const char *text, const char *shape, size_t at)
{
    size_t size;
    bool takes;
    int i;

    at = next_word(shape, at);
    while (text[at] == '-') {
        size = word_end(shape, at) - at;
        takes = takes_word(wrapper, text + at, size);
        at = next_word(shape, at);
        if (takes)
            at = next_word(shape, at);
    }
    for (i = 0; i < wrapper->words; i++)
        at = next_word(shape, at);
    return at;
}

static const struct wrapper *
find_wrapper(const char *name, size_t size)
{
    size_t i;

    for (i = 0; i < sizeof(wrappers) / sizeof(wrappers[0]); i++)
        if (strlen(wrappers[i].name) == size && begins_with(name, wrappers[i].name, size))
            return &wrappers[i];
    return NULL;
}

/* Add a part, and what it runs behind its wrappers, each with and without the folder of the program. */
static void
add_part(struct commands *commands, const char *text, const char *shape)
{
    const struct wrapper *wrapper;
    const char *name, *slash;
    size_t at = 0, end, i;

    add_command(commands, text);
    for (i = 0; i <= WRAPPERS_MAX; i++) {
        at = skip_prefixes(text, shape, at);
        if (!text[at])
            return;
        end = word_end(shape, at);
        slash = memrchr(text + at, '/', end - at);
        name = slash ? slash + 1 : text + at;
        if (at)
            add_command(commands, text + at);
        if (slash)
            add_command(commands, name);
        wrapper = find_wrapper(name, (size_t)(text + end - name));
        if (!wrapper)
            return;
        if (wrapper->shell)
            shape = text;
        at = skip_wrapper(wrapper, text, shape, at);
    }
    commands->deep = true;
}

/* Split at every separator, and once more at those outside of quotes: the first finds what is run inside of double
 * quotes, the second knows where a quoted word ends. */
static void
commands_read(struct commands *commands, const char *line)
{
    size_t size = strlen(line) + 1;
    char *shape = muster_alloc(size), *text = muster_alloc(size), *part, *rest;
    const char *at;

    commands->memory[0] = muster_strdup(line);
    commands->memory[1] = text;
    for (part = strtok_r(commands->memory[0], separators, &rest); part; part = strtok_r(NULL, separators, &rest)) {
        read_part(part, text, shape);
        part += strspn(part, " \t");
        if (strcmp(part, text))
            add_command(commands, part);
        add_part(commands, text, shape);
        text += strlen(text) + 1;
    }
    if (strpbrk(line, "'\"\\")) {
        commands->memory[2] = text = muster_alloc(size);
        for (at = line; *at; at += *at ? 1 : 0) {
            at = read_part(at, text, shape);
            add_part(commands, text, shape);
            text += strlen(text) + 1;
        }
    }
    free(shape);
}

static void
commands_free(struct commands *commands)
{
    size_t i;

    for (i = 0; i < sizeof(commands->memory) / sizeof(commands->memory[0]); i++)
        free(commands->memory[i]);
    free(commands->items);
}

/* ---- the spellings of a path ----------------------------------------------------------------------------------------
 */

static char *
with_slash(const char *path)
{
    struct muster_buf folder = {0};

    muster_buf_str(&folder, path);
    muster_buf_str(&folder, "/");
    return muster_buf_take(&folder, NULL);
}

/* Does a path climb, or is it one that some program expands to a path elsewhere? */
static bool
strays(const char *path)
{
    return *path == '~' || climbs(path) || strstr(path, "{/") || strstr(path, ",/");
}

/* Does the text of a path mean the same to every program? */
static bool
is_sure(const char *text, const char *directory)
{
    size_t size = strlen(text), root = strlen(directory);

    if (!size || isspace((unsigned char)*text) || isspace((unsigned char)text[size - 1]))
        return false;
    if (begins_with(text, directory, root) && text[root] == '/')
        text += root;
    return !strays(text);
}

static void
place_read(struct place *place, const char *text, const struct subject *subject)
{
    bool folder = subject->kind == SUBJECT_SEARCH;
    char *path;
    size_t i;

    place->text = text;
    place->sure = is_sure(text, subject->directory);
    path = absolute_path(text + strspn(text, " \t\r\n"), subject->real_directory);
    place->spellings[PLACE_CLEAN] = plain_path(path);
    place->spellings[PLACE_REAL] = real_path(path);
    if (climbs(path))
        place->spellings[PLACE_CLEAN_REAL] = real_path(place->spellings[PLACE_CLEAN]);
    place->dangling = !place->spellings[PLACE_REAL];
    place->text_folder = folder ? with_slash(text) : NULL;
    for (i = 0; folder && i < PLACE_COUNT; i++)
        if (place->spellings[i])
            place->folders[i] = with_slash(place->spellings[i]);
    free(path);
}

static void
place_free(struct place *place)
{
    size_t i;

    for (i = 0; i < PLACE_COUNT; i++) {
        free(place->spellings[i]);
        free(place->folders[i]);
    }
    free(place->text_folder);
}

static void
directory_read(struct subject *subject, const char *directory)
{
    subject->directory = directory && *directory ? directory : ".";
    subject->clean_directory = plain_path(subject->directory);
    subject->real_directory = real_path(subject->directory);
    if (!subject->real_directory)
        subject->real_directory = muster_strdup(subject->clean_directory);
}

static void
places_read(struct subject *subject)
{
    struct muster_buf joined = {0};

    place_read(&subject->places[0], subject->text, subject);
    if (!subject->other)
        return;
    place_read(&subject->places[1], subject->other, subject);
    muster_buf_printf(&joined, "%s/%s", subject->text, subject->other);
    subject->joined = muster_buf_take(&joined, NULL);
    place_read(&subject->places[2], subject->joined, subject);
}

/* The pattern from the root, links in the part before its first special character followed; NULL: they lead to
 * nothing.  The caller frees it. */
static char *
real_pattern(const char *pattern, const char *directory)
{
    size_t size = strcspn(pattern, "*?[\\");
    struct muster_buf out = {0};
    char *head, *path, *real;
    const char *at;

    while (pattern[size] && size && pattern[size - 1] != '/')
        size--;
    head = muster_strdup(pattern);
    head[size] = '\0';
    path = absolute_path(head, directory);
    real = real_path(path);
    for (at = real ? real : ""; *at; at++) {
        if (strchr("*?[\\", *at))
            muster_buf_str(&out, "\\");
        muster_buf_add(&out, at, 1);
    }
    if (real && pattern[size] && strcmp(real, "/"))
        muster_buf_str(&out, "/");
    muster_buf_str(&out, pattern + size);
    free(head);
    free(path);
    free(real);
    if (real)
        return muster_buf_take(&out, NULL);
    muster_buf_free(&out);
    return NULL;
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
command_denied(const char *pattern, const struct subject *subject)
{
    const struct commands *commands = &subject->commands;
    bool denied = commands->deep || glob(pattern, subject->text, false);
    size_t i;

    for (i = 0; i < commands->count && !denied; i++)
        denied = glob(pattern, commands->items[i], false);
    return denied;
}

static bool
either_matches(const char *pattern, const char *path, const char *folder)
{
    return (path && glob(pattern, path, false)) || (folder && glob(pattern, folder, false));
}

/* `pattern` against one spelling, from the root. */
static bool
whole_matches(const char *pattern, const struct place *place, size_t spelling)
{
    return either_matches(pattern, place->spellings[spelling], place->folders[spelling]);
}

/* `pattern` against one spelling, from `directory`. */
static bool
rest_matches(const char *pattern, const struct place *place, size_t spelling, const char *directory)
{
    const char *path = place->spellings[spelling], *folder = place->folders[spelling];

    return either_matches(pattern, path ? inside(path, directory) : NULL, folder ? inside(folder, directory) : NULL);
}

static bool
path_allowed(const char *pattern, const struct place *place, const struct subject *subject)
{
    char *real;
    bool allowed;

    if (!place->sure || place->dangling)
        return false;
    if (*pattern != '/')
        return inside(place->spellings[PLACE_REAL], subject->real_directory) &&
               (rest_matches(pattern, place, PLACE_CLEAN, subject->clean_directory) ||
                rest_matches(pattern, place, PLACE_CLEAN, subject->real_directory));
    real = real_pattern(pattern, subject->real_directory);
    allowed = whole_matches(pattern, place, PLACE_REAL) || (real && whole_matches(real, place, PLACE_REAL));
    free(real);
    return allowed;
}

static bool
path_denied(const char *pattern, const struct place *place, const struct subject *subject)
{
    bool denied = place->dangling;
    char *real;
    size_t i;

    if (!place->text)
        return false;
    denied = denied || either_matches(pattern, place->text, place->text_folder);
    real = real_pattern(pattern, subject->real_directory); /* of a relative pattern too */
    for (i = 0; i < PLACE_COUNT && !denied; i++)
        denied = whole_matches(pattern, place, i) || (real && whole_matches(real, place, i)) ||
                 rest_matches(pattern, place, i, subject->clean_directory);
    free(real);
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

/* May the pattern of a search, if it has one, only find what lies in the folder that is searched? */
static bool
stays_below(const struct subject *subject)
{
    const struct place *joined = &subject->places[2];

    if (!subject->other)
        return true;
    if (*subject->other == '/' || strays(subject->other) || joined->dangling || subject->places[0].dangling)
        return false;
    return inside(joined->spellings[PLACE_REAL], subject->places[0].spellings[PLACE_REAL]) != NULL;
}

static bool
paths_match(const char *pattern, const struct subject *subject, bool deny)
{
    bool denied = false;
    size_t i;

    if (!deny)
        return stays_below(subject) && path_allowed(pattern, &subject->places[0], subject);
    for (i = 0; i < PLACES && !denied; i++)
        denied = path_denied(pattern, &subject->places[i], subject);
    return denied;
}

static bool
pattern_matches(const char *pattern, const struct subject *subject, bool deny)
{
    if (!strcmp(pattern, "*"))
        return true;
    if (subject->unknown)
        return deny;
    switch (subject->kind) {
    case SUBJECT_COMMAND:
        return deny ? command_denied(pattern, subject) : command_allowed(pattern, subject->text);
    case SUBJECT_FILE:
    case SUBJECT_SEARCH:
        return paths_match(pattern, subject, deny);
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

    if (!strcmp(name, tool) || (!strcmp(name, "Task") && !strcmp(tool, "Agent")))
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
    out->unknown = out->kind != SUBJECT_OTHER;
    out->kind = SUBJECT_OTHER;
    out->json = input ? json_dumps(input, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    out->text = out->json ? out->json : text;
}

/* Prepare what the patterns of this kind of subject are tried on. */
static void
subject_expand(struct subject *subject, const char *directory)
{
    if (subject->kind == SUBJECT_COMMAND)
        commands_read(&subject->commands, subject->text);
    if (subject->kind != SUBJECT_FILE && subject->kind != SUBJECT_SEARCH)
        return;
    directory_read(subject, directory);
    places_read(subject);
}

static void
subject_free(struct subject *subject)
{
    size_t i;

    for (i = 0; i < PLACES; i++)
        place_free(&subject->places[i]);
    commands_free(&subject->commands);
    free(subject->joined);
    free(subject->clean_directory);
    free(subject->real_directory);
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
