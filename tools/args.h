/* SPDX-License-Identifier: MPL-2.0 */
/* The command line: rows that say what a command takes, and the one parser that reads them.
 *
 * Pure: nothing is printed, nothing is allocated; results point into argv.  Any thread. */
#ifndef TOOLS_ARGS_H
#define TOOLS_ARGS_H

#include <stdbool.h>
#include <stddef.h>

struct call;

struct option_row {
    const char *name;  /* "--timeout" */
    const char *value; /* name of its value in help; NULL: it takes none */
    const char *doc;
};

struct command {
    const char *name; /* one or two words: "ask", "key create" */
    const char *args; /* as help shows them: "TEAM QUESTION|-" */
    const char *doc;
    const struct option_row *options; /* ends with name == NULL; NULL: none */
    int min_args, max_args;
    int (*run)(const struct call *call); /* returns the exit code */
};

enum { CALL_OPTIONS_MAX = 16, CALL_ARGS_MAX = 256 };

/* A command line that fits its row. */
struct call {
    const struct command *commands; /* the whole table, for help */
    const struct option_row *globals;
    const struct command *command; /* NULL: none was given */
    const char *args[CALL_ARGS_MAX];
    int arg_count;
    const char *global_values[CALL_OPTIONS_MAX]; /* in the order of the rows; NULL: not given; "" for a flag */
    const char *values[CALL_OPTIONS_MAX];
    bool help;    /* --help or -h stood somewhere */
    bool version; /* --version */
};

/* Read argv[1..]; false: `problem` holds "what: what to do".  Options may stand anywhere; "--" ends them. */
bool call_parse(int argc, char *const argv[], const struct command *commands, const struct option_row *globals,
                struct call *out, char *problem, size_t problem_size);
/* Value of an option of the command or of all commands; NULL: not given. */
const char *call_value(const struct call *call, const char *name);
/* Is it a number and nothing else?  Such a span would be milliseconds, which nobody who writes 5 means. */
bool duration_lacks_unit(const char *text);
/* The row of "ask" or "key create"; NULL: there is none. */
const struct command *command_find(const struct command *commands, const char *first, const char *second);

#endif
