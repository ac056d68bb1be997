/* SPDX-License-Identifier: MPL-2.0 */
/* The parser behind args.h. */
#include "tools/args.h"

#include <stdio.h>
#include <string.h>

#include "schemas/muster_err.h"

const struct command *
command_find(const struct command *commands, const char *first, const char *second)
{
    const struct command *command;
    size_t length;

    for (command = commands; command->name; command++) {
        length = strlen(first);
        if (strncmp(command->name, first, length) != 0)
            continue;
        if (command->name[length] == '\0')
            return command;
        if (command->name[length] == ' ' && second && strcmp(command->name + length + 1, second) == 0)
            return command;
    }
    return NULL;
}

/* Is there a command of two words that begins with this one? */
static bool
is_group(const struct command *commands, const char *word)
{
    size_t length = strlen(word);

    for (; commands->name; commands++) {
        if (strncmp(commands->name, word, length) == 0 && commands->name[length] == ' ')
            return true;
    }
    return false;
}

/* Does argv's word, up to its '=', name this option?  One that takes a list may be written with an s. */
static bool
names_option(const char *word, const struct option_row *row)
{
    size_t length = strlen(row->name);

    if (strncmp(word, row->name, length) != 0)
        return false;
    if (word[length] == 's' && row->value && strchr(row->value, ','))
        length++;
    return word[length] == '\0' || word[length] == '=';
}

static int
find_option(const struct option_row *rows, const char *word)
{
    int i;

    for (i = 0; rows && rows[i].name; i++) {
        MUSTER_ASSERT(i < CALL_OPTIONS_MAX);
        if (names_option(word, &rows[i]))
            return i;
    }
    return -1;
}

/* What is being read. */
struct reader {
    int argc;
    char *const *argv;
    int at;
    struct call *call;
    const char *group; /* first word of a command of two */
    char *problem;
    size_t problem_size;
};

static bool
store_option(struct reader *reader, const struct option_row *row, const char **value)
{
    const char *word = reader->argv[reader->at];
    const char *equals = strchr(word, '=');

    if (!row->value) {
        if (equals) {
            snprintf(reader->problem, reader->problem_size, "%s takes no value: leave out %s", row->name, equals);
            return false;
        }
        *value = "";
        return true;
    }
    if (equals) {
        *value = equals + 1;
        return true;
    }
    if (reader->at + 1 >= reader->argc) {
        snprintf(reader->problem, reader->problem_size, "%s has no value: write %s %s", row->name, row->name,
                 row->value);
        return false;
    }
    *value = reader->argv[++reader->at];
    return true;
}

static bool
read_option(struct reader *reader)
{
    struct call *call = reader->call;
    const char *word = reader->argv[reader->at];
    int i;

    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return call->help = true;
    if (strcmp(word, "--version") == 0)
        return call->version = true;
    i = find_option(call->globals, word);
    if (i >= 0)
        return store_option(reader, &call->globals[i], &call->global_values[i]);
    i = call->command ? find_option(call->command->options, word) : -1;
    if (i >= 0)
        return store_option(reader, &call->command->options[i], &call->values[i]);
    snprintf(reader->problem, reader->problem_size, "unknown option %s: see muster help%s%s (-- ends the options)",
             word, call->command ? " " : "", call->command ? call->command->name : "");
    return false;
}

static bool
read_word(struct reader *reader)
{
    struct call *call = reader->call;
    const char *word = reader->argv[reader->at];

    if (call->command) {
        if (call->arg_count == CALL_ARGS_MAX) {
            snprintf(reader->problem, reader->problem_size, "too many arguments: put the text into quotes");
            return false;
        }
        call->args[call->arg_count++] = word;
        return true;
    }
    if (!reader->group && is_group(call->commands, word)) {
        reader->group = word;
        return true;
    }
    call->command =
        reader->group ? command_find(call->commands, reader->group, word) : command_find(call->commands, word, NULL);
    if (!call->command)
        snprintf(reader->problem, reader->problem_size, "unknown command %s%s%s: see muster help",
                 reader->group ? reader->group : "", reader->group ? " " : "", word);
    return call->command != NULL;
}

static bool
check_count(const struct reader *reader)
{
    const struct call *call = reader->call;
    const struct command *command = call->command;

    if (call->help || call->version)
        return true;
    if (!command && reader->group) {
        snprintf(reader->problem, reader->problem_size, "%s what?: see muster help %s", reader->group, reader->group);
        return false;
    }
    if (!command || (call->arg_count >= command->min_args && call->arg_count <= command->max_args))
        return true;
    snprintf(reader->problem, reader->problem_size, "too %s arguments: muster %s%s%s",
             call->arg_count < command->min_args ? "few" : "many", command->name, *command->args ? " " : "",
             command->args);
    return false;
}

bool
call_parse(int argc, char *const argv[], const struct command *commands, const struct option_row *globals,
           struct call *out, char *problem, size_t problem_size)
{
    struct reader reader = {.argc = argc, .argv = argv, .call = out, .problem = problem, .problem_size = problem_size};
    bool options = true;
    bool ok;

    memset(out, 0, sizeof *out);
    out->commands = commands;
    out->globals = globals;
    for (reader.at = 1; reader.at < argc; reader.at++) {
        const char *word = argv[reader.at];

        if (options && strcmp(word, "--") == 0) {
            options = false;
            continue;
        }
        if (options && (strncmp(word, "--", 2) == 0 || strcmp(word, "-h") == 0))
            ok = read_option(&reader);
        else
            ok = read_word(&reader);
        if (!ok)
            return false;
    }
    return check_count(&reader);
}

const char *
call_value(const struct call *call, const char *name)
{
    int i = find_option(call->globals, name);

    if (i >= 0)
        return call->global_values[i];
    i = call->command ? find_option(call->command->options, name) : -1;
    MUSTER_ASSERT(i >= 0);
    return call->values[i];
}

bool
duration_lacks_unit(const char *text)
{
    return *text && text[strspn(text, "0123456789.")] == '\0';
}
