/* SPDX-License-Identifier: MPL-2.0 */
/* The command line: what fits its row, and what is said about what does not. */
#include "tools/args.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tools/exits.h"

static const struct option_row globals[] = {{"--url", "URL", ""}, {"--json", NULL, ""}, {NULL, NULL, NULL}};
static const struct option_row ask_options[] = {{"--timeout", "DUR", ""}, {"--time", "T", ""}, {NULL, NULL, NULL}};
static const struct option_row create_options[] = {{"--team", "T,..", ""}, {NULL, NULL, NULL}};
static const struct command commands[] = {
    {"ask", "TEAM QUESTION", "", ask_options, 2, 3, NULL},
    {"status", "[TEAM]", "", NULL, 0, 1, NULL},
    {"key create", "NAME", "", create_options, 1, 1, NULL},
    {"key list", "", "", NULL, 0, 0, NULL},
    {NULL, NULL, NULL, NULL, 0, 0, NULL},
};

static char problem[256];

/* Words are given as "ask|team|hello". */
static bool
parse(const char *line, struct call *call)
{
    static char copy[512];
    static char *argv[32];
    char *rest = copy;
    int argc = 0;

    snprintf(copy, sizeof copy, "%s", line);
    argv[argc++] = (char *)"muster";
    while (rest)
        argv[argc++] = strsep(&rest, "|");
    return call_parse(argc, argv, commands, globals, call, problem, sizeof problem);
}

static void
expect_problem(const char *line, const char *expected)
{
    struct call call;

    cr_assert_not(parse(line, &call), "%s was taken", line);
    cr_assert(strstr(problem, expected), "%s: %s", line, problem);
}

Test(tools_args, words_after_the_command_are_its_arguments)
{
    struct call call;

    cr_assert(parse("ask|echo|hello", &call), "%s", problem);
    cr_assert_str_eq(call.command->name, "ask");
    cr_assert_eq(call.arg_count, 2);
    cr_assert_str_eq(call.args[1], "hello");
    cr_assert_null(call_value(&call, "--timeout"));
    cr_assert_null(call_value(&call, "--json"));
}

Test(tools_args, options_stand_anywhere_and_take_both_forms)
{
    struct call call;

    cr_assert(parse("--json|ask|--timeout|5s|echo|--url=http://x|hello|--time=", &call), "%s", problem);
    cr_assert_str_eq(call_value(&call, "--timeout"), "5s");
    cr_assert_str_eq(call_value(&call, "--time"), "");
    cr_assert_str_eq(call_value(&call, "--url"), "http://x");
    cr_assert_str_eq(call_value(&call, "--json"), "");
    cr_assert_eq(call.arg_count, 2);
}

Test(tools_args, an_option_that_takes_a_list_may_be_in_the_plural)
{
    struct call call;

    cr_assert(parse("key|create|x|--teams|a,b", &call), "%s", problem);
    cr_assert_str_eq(call_value(&call, "--team"), "a,b");
    cr_assert(parse("key|create|x|--teams=a", &call), "%s", problem);
    cr_assert_str_eq(call_value(&call, "--team"), "a");
    expect_problem("key|create|x|--teamss|a", "--teamss");
    expect_problem("ask|echo|hello|--timeouts|1s", "--timeouts");
}

Test(tools_args, two_dashes_end_the_options)
{
    struct call call;

    cr_assert(parse("ask|echo|--|--json", &call), "%s", problem);
    cr_assert_str_eq(call.args[1], "--json");
    cr_assert_null(call_value(&call, "--json"));
}

Test(tools_args, a_single_dash_and_a_negative_number_are_arguments)
{
    struct call call;

    cr_assert(parse("ask|echo|-", &call), "%s", problem);
    cr_assert_str_eq(call.args[1], "-");
    cr_assert(parse("ask|echo|-5", &call), "%s", problem);
}

Test(tools_args, a_command_may_have_two_words)
{
    struct call call;

    cr_assert(parse("key|create|ci", &call), "%s", problem);
    cr_assert_str_eq(call.command->name, "key create");
    cr_assert_str_eq(call.args[0], "ci");
}

Test(tools_args, help_needs_no_arguments)
{
    struct call call;

    cr_assert(parse("ask|--help", &call), "%s", problem);
    cr_assert(call.help);
    cr_assert(parse("-h", &call), "%s", problem);
    cr_assert_null(call.command);
}

Test(tools_args, what_is_wrong_is_named)
{
    expect_problem("fly", "unknown command fly");
    expect_problem("key|fly", "unknown command key fly");
    expect_problem("key", "key what?");
    expect_problem("ask|echo", "too few arguments: muster ask TEAM QUESTION");
    expect_problem("status|a|b", "too many arguments");
    expect_problem("ask|echo|hello|--fly", "unknown option --fly: see muster help ask");
    expect_problem("ask|echo|hello|--timeoutx=1", "unknown option --timeoutx=1");
    expect_problem("ask|echo|hello|--timeout", "--timeout has no value");
    expect_problem("status|--json=yes", "--json takes no value");
    expect_problem("--timeout|5s|ask|echo|hello", "unknown option --timeout");
}

Test(tools_args, an_error_leads_to_one_exit_code)
{
    cr_assert_eq(exit_of_answer(401, "UNAUTHORIZED"), EXIT_REFUSED);
    cr_assert_eq(exit_of_answer(403, ""), EXIT_REFUSED);
    cr_assert_eq(exit_of_answer(404, "TEAM_NOT_FOUND"), EXIT_NOT_FOUND);
    cr_assert_eq(exit_of_answer(404, "NOT_FOUND"), EXIT_NOT_FOUND);
    cr_assert_eq(exit_of_answer(408, "TIMEOUT"), EXIT_TIMEOUT);
    cr_assert_eq(exit_of_answer(409, "CANCELLED"), EXIT_CANCELLED);
    cr_assert_eq(exit_of_answer(409, "CONFLICT"), EXIT_FAILED);
    cr_assert_eq(exit_of_answer(429, "RATE_LIMITED"), EXIT_LATER);
    cr_assert_eq(exit_of_answer(503, "QUEUE_FULL"), EXIT_LATER);
    cr_assert_eq(exit_of_answer(507, "STORAGE_FULL"), EXIT_LATER);
    cr_assert_eq(exit_of_answer(500, "PROCESS_ERROR"), EXIT_FAILED);
    cr_assert_eq(exit_of_answer(400, "INVALID_REQUEST"), EXIT_USAGE);
    cr_assert_eq(exit_of_answer(409, "IDEMPOTENCY_IN_PROGRESS"), EXIT_LATER);
    cr_assert_eq(exit_of_answer(422, "IDEMPOTENCY_MISMATCH"), EXIT_USAGE);
    cr_assert_eq(exit_of_answer(408, "DEADLINE_EXCEEDED"), EXIT_FAILED);
    cr_assert_eq(exit_of_job("CANCELLED"), EXIT_CANCELLED);
    cr_assert_eq(exit_of_job("TIMEOUT"), EXIT_FAILED);
}

Test(tools_args, a_span_without_a_unit_is_told_apart)
{
    cr_assert(duration_lacks_unit("5"));
    cr_assert(duration_lacks_unit("0"));
    cr_assert(duration_lacks_unit("1.5"));
    cr_assert_not(duration_lacks_unit("5s"));
    cr_assert_not(duration_lacks_unit("5 "));
    cr_assert_not(duration_lacks_unit("soon"));
    cr_assert_not(duration_lacks_unit(""));
}

Test(tools_args, advice_fits_the_error)
{
    cr_assert_str_eq(exit_advice(404, "TEAM_NOT_FOUND"), "", "the message lists the teams");
    cr_assert(strstr(exit_advice(409, "CONFLICT"), "key list"));
    cr_assert_not(strstr(exit_advice(403, "FORBIDDEN"), "scope"));
    cr_assert_str_eq(exit_advice(599, "NEVER_SEEN"), "look into the server's log");
}
