/* SPDX-License-Identifier: MPL-2.0 */
/* Permission rules for shell commands: the commands that a command line holds, and patterns against them.  This is no
 * shell: it knows the usual spellings of a command.  What permissions.c says about commands is done here.
 *
 * Any thread.  Nothing fails. */
#include "actors/drivers/permissions.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

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

/* Append one of them. */
static void
add_command(struct permission_commands *commands, const char *text)
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

/* Where the word ends. */
static size_t
word_end(const char *shape, size_t at)
{
    return at + strcspn(shape + at, " ");
}

/* Where the next word begins. */
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
            if (strlen(long_options[i]) == size && !strncmp(option, long_options[i], size))
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

/* The wrapper of that name; NULL none. */
static const struct wrapper *
find_wrapper(const char *name, size_t size)
{
    size_t i;

    for (i = 0; i < sizeof(wrappers) / sizeof(wrappers[0]); i++)
        if (strlen(wrappers[i].name) == size && !strncmp(name, wrappers[i].name, size))
            return &wrappers[i];
    return NULL;
}

/* Add a part, and what it runs behind its wrappers, each with and without the folder of the program. */
static void
add_part(struct permission_commands *commands, const char *text, const char *shape)
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
void
permission_commands_read(struct permission_commands *commands, const char *line)
{
    size_t size = strlen(line) + 1;
    char *shape = muster_alloc(size), *text = muster_alloc(size), *part, *rest;
    const char *at;

    commands->line = line;
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

void
permission_commands_free(struct permission_commands *commands)
{
    size_t i;

    for (i = 0; i < sizeof(commands->memory) / sizeof(commands->memory[0]); i++)
        free(commands->memory[i]);
    free(commands->items);
}

bool
permission_command_allowed(const char *pattern, const struct permission_commands *commands)
{
    if (strpbrk(commands->line, ";&|`<>\n\r") || strstr(commands->line, "$("))
        return false;
    return permission_glob(pattern, commands->line, true);
}

bool
permission_command_denied(const char *pattern, const struct permission_commands *commands)
{
    bool denied = commands->deep || permission_glob(pattern, commands->line, false);
    size_t i;

    for (i = 0; i < commands->count && !denied; i++)
        denied = permission_glob(pattern, commands->items[i], false);
    return denied;
}
