/* SPDX-License-Identifier: MPL-2.0 */
/* muster: the table of commands, and its help. */
#include <stdio.h>
#include <string.h>

#include "tools/client.h"
#include "tools/commands.h"

/* ---- the table ---- */

static const struct option_row globals[] = {
    {"--url", "URL", "The server; else MUSTER_URL, else the data folder's, else " CLIENT_URL_DEFAULT "."},
    {"--key", "KEY", "The API key; else MUSTER_API_KEY (not seen in process lists), else the data folder's."},
    {"--json", NULL, "Print the server's JSON; event streams as one object a line."},
    {"--data", "DIR", "The data folder; else MUSTER_DATA, else " CLIENT_DATA_DEFAULT "."},
    {NULL, NULL, NULL},
};

static const struct option_row serve_options[] = {
    {"--config", "FILE", "Configuration; see muster describe options.  None is needed."},
    {"--listen", "ADDR", "Address instead of the configuration's, for example 127.0.0.1:0."},
    {NULL, NULL, NULL},
};

static const struct option_row worker_options_rows[] = {
    {"--hub", "ADDR", "bus.commands of the hub: tcp://HOST:PORT or ipc://PATH (worker.hub)."},
    {"--teams", "T,..", "Teams that it offers (worker.teams, or all of the configuration)."},
    {"--config", "FILE", "Configuration with the teams; see muster describe options."},
    {"--name", "NAME", "Its name at the hub, unique there (worker.name, or the host's)."},
    {"--hub-key", "KEY|FILE", "The hub's CURVE public key; --curve-key may have it too."},
    {"--curve-key", "FILE", "The CURVE secret key: what muster key create --curve printed."},
    {"--labels", "K=V,..", "What it says of itself, besides worker.labels."},
    {"--keep-trying", NULL, "Go on also when the hub refuses it at first."},
    {NULL, NULL, NULL},
};

#define PRIORITY_ROW                                                                                                   \
    {                                                                                                                  \
        "--priority", "P", "critical, high, normal (default) or low."                                                  \
    }
#define CONTEXT_ROW                                                                                                    \
    {                                                                                                                  \
        "--context", "JSON", "Your own data, kept with the job."                                                       \
    }

#define SESSION_ROW                                                                                                    \
    {                                                                                                                  \
        "--session", "ID", "A conversation of your own: what has the same ID goes on with it."                         \
    }
#define IDEMPOTENCY_ROW                                                                                                \
    {                                                                                                                  \
        "--idempotency-key", "K", "Sent twice with the same key, it is done once."                                     \
    }
#define OVERLAP_ROW                                                                                                    \
    {                                                                                                                  \
        "--overlap", "DUR", "How long the old one goes on to work, for example 1h (not at all)."                       \
    }

static const struct option_row ask_options[] = {
    {"--timeout", "DUR", "How long to wait, for example 90s (30m; on a terminal as long as it takes)."},
    PRIORITY_ROW,
    CONTEXT_ROW,
    SESSION_ROW,
    IDEMPOTENCY_ROW,
    {NULL, NULL, NULL},
};

static const struct option_row stream_options[] = {
    PRIORITY_ROW, CONTEXT_ROW, SESSION_ROW, IDEMPOTENCY_ROW, {NULL, NULL, NULL},
};

static const struct option_row execute_options[] = {
    PRIORITY_ROW,
    {"--timeout", "DUR", "Limit of one attempt, for example 10m (the team's)."},
    {"--attempts", "N", "Failures after which the job has failed (the server's, which is also the most)."},
    {"--callback", "URL", "Where the end is reported to."},
    CONTEXT_ROW,
    SESSION_ROW,
    IDEMPOTENCY_ROW,
    {"--delay", "DUR", "How long it waits before its first attempt."},
    {"--deadline", "TIME|DUR", "It fails when it has not ended by then: 2h, 2026-01-31T18:00Z or unix milliseconds."},
    {"--retry-delay", "DUR", "Pause before the second attempt (the server's)."},
    {"--wait", NULL, "Show the events as they come, up to the end."},
    {NULL, NULL, NULL},
};

static const struct option_row job_options[] = {
    {"--follow", NULL, "Show its events from the first on, up to the end."},
    {NULL, NULL, NULL},
};

static const struct option_row jobs_options[] = {
    {"--team", "TEAM", "Only this team's."},
    {"--status", "S,..", "Only these: queued, processing, completed, failed, cancelled; dead: failed, not retried."},
    {"--from", "NAME", "Only those sent by this key or team."},
    {"--limit", "N", "Jobs a page (50)."},
    {"--page", "N", "Which page (1)."},
    {NULL, NULL, NULL},
};

static const struct option_row watch_options[] = {
    {"--after", "CURSOR", "Go on behind this event; oldest: all that is kept (from now; a job: oldest)."},
    {"--type", "T", "Only events of this type, for example job.failed; see muster describe events."},
    {NULL, NULL, NULL},
};

static const struct option_row history_options[] = {
    {"--team", "TEAM", "Only this team's."},
    {"--status", "S", "Only these: queued, processing, completed, failed, cancelled; dead: failed, not retried."},
    {"--from", "NAME", "Only those sent by this key or team."},
    {"--since", "DUR", "Only the last 2h, 7d or so; or unix milliseconds."},
    {"--limit", "N", "Jobs a page (50)."},
    {"--page", "N", "Which page (1)."},
    {NULL, NULL, NULL},
};

static const struct option_row drain_options[] = {
    {"--wait", NULL, "Return when nothing runs there any more."},
    {"--resume", NULL, "Let it take jobs again."},
    {NULL, NULL, NULL},
};

static const struct option_row bench_options[] = {
    {"--connections", "N", "Connections at a time (16)."},
    {"--span", "DUR", "How long each work is measured (2s)."},
    {NULL, NULL, NULL},
};

static const struct option_row key_options_rows[] = {
    {"--scope", "A,B", "What it may do (teams:read,teams:write); see muster describe scopes."},
    {"--team", "T,..", "Teams it may use (all)."},
    {"--rate", "N/DUR", "Requests per span, for example 100/1m; 0/1m: unlimited."},
    {"--tier", "T", "Its rate by name: standard, premium or enterprise."},
    {"--as", "TEAM", "The team it speaks for, shown as the sender (the key's name is)."},
    {"--expires", "DUR", "When it stops working, from now (never)."},
    {"--curve", NULL, "Make a CURVE key pair for ZeroMQ too; the lines after the key show it."},
    {NULL, NULL, NULL},
};

static const struct option_row rotate_options[] = {
    OVERLAP_ROW,
    {NULL, NULL, NULL},
};

static const struct option_row webhook_options_rows[] = {
    {"--events", "T,..", "What it is told of: types, or job.*, team.*, * (the ends of jobs)."},
    {"--team", "T,..", "Teams whose events it is told of (all that the key may use)."},
    {"--name", "NAME", "For people."},
    {"--paused", NULL, "Tells nothing until it is resumed."},
    {NULL, NULL, NULL},
};

static const struct option_row webhook_resume_options[] = {
    {"--after", "CURSOR", "Go on behind this event (behind the last one it took)."},
    {NULL, NULL, NULL},
};

static const struct option_row webhook_secret_options[] = {
    {"--rotate", NULL, "Make a new one."},
    OVERLAP_ROW,
    {NULL, NULL, NULL},
};

static int run_help(const struct call *call);

static const struct command commands[] = {
    {"serve", "", "Run the server.", serve_options, 0, 0, run_serve},
    {"worker", "", "Do jobs of a server elsewhere; its data folder is ./muster-worker.", worker_options_rows, 0, 0,
     run_worker},
    {"ask", "TEAM QUESTION|-", "Ask a team and print its answer.", ask_options, 2, CALL_ARGS_MAX, run_ask},
    {"execute", "TEAM TASK|-", "Give a team a task and print the job's id.", execute_options, 2, CALL_ARGS_MAX,
     run_execute},
    {"stream", "TEAM MESSAGE|-", "Send a message and print the answer as it comes.", stream_options, 2, CALL_ARGS_MAX,
     run_stream},
    {"status", "[TEAM]", "Show the teams, or one of them.", NULL, 0, 1, run_status},
    {"job", "ID", "Show a job; the exit code tells how it ended.", job_options, 1, 1, run_job},
    {"cancel", "ID", "End a job.", NULL, 1, 1, run_cancel},
    {"retry", "ID...", "Send failed jobs again and print the ids of the new ones.", NULL, 1, CALL_ARGS_MAX, run_retry},
    {"pause", "TEAM", "Let a team start no more jobs; it goes on to take them.", NULL, 1, 1, run_pause},
    {"resume", "TEAM", "Let a paused team start jobs again.", NULL, 1, 1, run_resume},
    {"watch", "[TEAM|ID]", "Show events as they happen; of a job up to its end.", watch_options, 0, 1, run_watch},
    {"jobs", "", "List the jobs that have not ended, the newest first.", jobs_options, 0, 0, run_jobs},
    {"history", "", "List jobs, the newest first.", history_options, 0, 0, run_history},
    {"nodes", "", "Show the workers on other hosts, and the server itself.", NULL, 0, 0, run_nodes},
    {"drain", "NODE", "Let a worker take no more jobs; it goes on with those it has.", drain_options, 1, 1, run_drain},
    {"key create", "NAME", "Make an API key and print it.", key_options_rows, 1, 1, run_key_create},
    {"key list", "", "List the API keys.", NULL, 0, 0, run_key_list},
    {"key rotate", "ID|NAME", "Give an API key a new text and print it.", rotate_options, 1, 1, run_key_rotate},
    {"key revoke", "ID|NAME", "End an API key.", NULL, 1, 1, run_key_revoke},
    {"webhook create", "URL", "Have events sent to a URL; print its id and secret.", webhook_options_rows, 1, 1,
     run_webhook_create},
    {"webhook list", "", "List the webhooks.", NULL, 0, 0, run_webhook_list},
    {"webhook show", "ID", "Show a webhook.", NULL, 1, 1, run_webhook_show},
    {"webhook pause", "ID", "Send it nothing for now; it keeps its place.", NULL, 1, 1, run_webhook_pause},
    {"webhook resume", "ID", "Go on sending.", webhook_resume_options, 1, 1, run_webhook_resume},
    {"webhook test", "ID", "Send a test event now; fails when the receiver does not take it.", NULL, 1, 1,
     run_webhook_test},
    {"webhook rotate", "ID", "Make a new secret and print it.", rotate_options, 1, 1, run_webhook_rotate},
    {"webhook delete", "ID", "Delete a webhook.", NULL, 1, 1, run_webhook_delete},
    {"webhook secret", "", "Print the secret that signs callbacks of jobs.", webhook_secret_options, 0, 0,
     run_webhook_secret},
    {"describe", "[TOPIC [NAME]]", "Print reference text; without a topic the topics.", NULL, 0, 2, run_describe},
    {"check-config", "FILE", "Say whether a configuration file is right.", NULL, 1, 1, run_check_config},
    {"bench", "[TEAM]", "Measure a server; where there is none, one of its own.", bench_options, 0, 1, run_bench},
    {"version", "", "Print the version.", NULL, 0, 0, run_version},
    {"help", "[COMMAND]", "Print this, or all about a command.", NULL, 0, 2, run_help},
    {NULL, NULL, NULL, NULL, 0, 0, NULL},
};

/* ---- help ---- */

static void
print_options(const struct option_row *rows)
{
    char name[48];

    for (; rows && rows->name; rows++) {
        snprintf(name, sizeof name, "%s %s", rows->name, rows->value ? rows->value : "");
        printf("  %-28s %s\n", name, rows->doc);
    }
}

static void
print_usage(const struct command *command)
{
    char usage[48];

    snprintf(usage, sizeof usage, "%s %s", command->name, command->args);
    printf("  %-28s %s\n", usage, command->doc);
}

static int
help_all(void)
{
    const struct command *command;
    const struct exit_row *row;

    puts("muster: coding agents as microservices\n\nUsage: muster COMMAND [ARGUMENTS] [OPTIONS]\n\nCommands:");
    for (command = commands; command->name; command++)
        print_usage(command);
    puts("\nOptions of all commands:");
    print_options(globals);
    puts("\nExit codes:");
    for (row = exit_rows; row->doc; row++)
        printf("  %3d  %s\n", row->code, row->doc);
    puts("\nmuster help COMMAND shows a command's options.  \"-\" reads the text from standard input.");
    return EXIT_DONE;
}

static int
help_one(const struct command *command)
{
    printf("Usage: muster %s%s%s%s\n\n%s\n", command->name, *command->args ? " " : "", command->args,
           command->options ? " [OPTIONS]" : "", command->doc);
    if (command->options) {
        puts("\nOptions:");
        print_options(command->options);
    }
    puts("\nOptions of all commands:");
    print_options(globals);
    return EXIT_DONE;
}

/* All commands of two words that begin with this one; returns their number. */
static int
help_group(const char *word)
{
    const struct command *command;
    size_t length = strlen(word);
    int count = 0;

    for (command = commands; command->name; command++) {
        if (strncmp(command->name, word, length) != 0 || command->name[length] != ' ')
            continue;
        if (count++)
            putchar('\n');
        help_one(command);
    }
    return count;
}

static int
run_help(const struct call *call)
{
    const char *second = call->arg_count > 1 ? call->args[1] : NULL;
    const struct command *command;

    if (call->arg_count == 0)
        return help_all();
    command = command_find(commands, call->args[0], second);
    if (command)
        return help_one(command);
    if (!second && help_group(call->args[0]))
        return EXIT_DONE;
    return complain(EXIT_USAGE, "no command %s: muster help lists them", call->args[0]);
}

int
main(int argc, char **argv)
{
    struct call call;
    char problem[256] = "";
    int result;

    if (!call_parse(argc, argv, commands, globals, &call, problem, sizeof problem))
        return complain(EXIT_USAGE, "%s", problem);
    if (call.version)
        result = run_version(&call);
    else if (call.help && call.command)
        result = help_one(call.command);
    else if (call.help)
        result = help_all();
    else if (!call.command)
        return help_all(), EXIT_USAGE;
    else
        result = call.command->run(&call);
    if (fflush(stdout) != 0 || ferror(stdout))
        return complain(EXIT_FAILED, "cannot write standard output: make room or close the pipe later");
    return result;
}
