/* SPDX-License-Identifier: MPL-2.0 */
/* The permission rules of a team. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "actors/drivers/driver.h"

#define DIRECTORY "/home/dev/app"

static const char *const none[] = {NULL};

static enum tool_verdict
check(const char *const *allow, const char *const *deny, const char *tool, const char *input, const char **out_rule)
{
    struct permission_options permissions = {0};

    permissions.allow.items = allow;
    while (allow[permissions.allow.count])
        permissions.allow.count++;
    permissions.deny.items = deny;
    while (deny[permissions.deny.count])
        permissions.deny.count++;
    return permission_check(&permissions, DIRECTORY, tool, input, out_rule);
}

static bool
allows(const char *rule, const char *tool, const char *input)
{
    const char *const allow[] = {rule, NULL};
    const char *matched = "?";
    bool allowed = check(allow, none, tool, input, &matched) == tool_verdict_ALLOWED;

    cr_assert_str_eq(matched, allowed ? rule : "");
    return allowed;
}

static bool
denies(const char *rule, const char *tool, const char *input)
{
    const char *const all[] = {"*", NULL}, *const deny[] = {rule, NULL};
    const char *matched = "?";
    bool denied = check(all, deny, tool, input, &matched) == tool_verdict_DENIED;

    cr_assert_str_eq(matched, denied ? rule : "*");
    return denied;
}

static bool
runs(const char *rule, const char *command)
{
    struct muster_buf input = {0};
    bool allowed;

    muster_buf_str(&input, "{\"command\":");
    muster_json_quote(&input, command, strlen(command));
    muster_buf_str(&input, ",\"description\":\"d\"}");
    allowed = allows(rule, "Bash", input.data);
    muster_buf_free(&input);
    return allowed;
}

static bool
forbids(const char *rule, const char *command)
{
    struct muster_buf input = {0};
    bool denied;

    muster_buf_str(&input, "{\"command\":");
    muster_json_quote(&input, command, strlen(command));
    muster_buf_str(&input, "}");
    denied = denies(rule, "Bash", input.data);
    muster_buf_free(&input);
    return denied;
}

Test(permissions, without_a_rule_nothing_is_allowed)
{
    const char *rule = "?";

    cr_assert_eq(check(none, none, "Read", "{\"file_path\":\"/x\"}", &rule), tool_verdict_DENIED);
    cr_assert_str_eq(rule, "");
}

Test(permissions, a_tool_name_allows_every_use)
{
    cr_assert(allows("Bash", "Bash", "{\"command\":\"a; b\"}"));
    cr_assert_not(allows("Bash", "BashOutput", "{}"));
    cr_assert_not(allows("bash", "Bash", "{}"));
}

Test(permissions, deny_wins_over_allow)
{
    const char *const allow[] = {"Bash", "Bash(git *)", NULL}, *const deny[] = {"Bash(git push*)", NULL};
    const char *rule;

    cr_assert_eq(check(allow, deny, "Bash", "{\"command\":\"git push -f\"}", &rule), tool_verdict_DENIED);
    cr_assert_str_eq(rule, "Bash(git push*)");
    cr_assert_eq(check(allow, deny, "Bash", "{\"command\":\"git log\"}", &rule), tool_verdict_ALLOWED);
    cr_assert_str_eq(rule, "Bash");
}

Test(permissions, command_patterns)
{
    cr_assert(runs("Bash(git status*)", "git status -s"));
    cr_assert(runs("Bash(make)", "make"));
    cr_assert_not(runs("Bash(make)", "make install"));
    cr_assert_not(runs("Bash(git status*)", " git status"));
    cr_assert_not(runs("Bash(git status*)", "sudo git status"));
}

Test(permissions, prefix_syntax_means_whole_words)
{
    cr_assert(runs("Bash(npm run test:*)", "npm run test"));
    cr_assert(runs("Bash(npm run test:*)", "npm run test -- -v"));
    cr_assert_not(runs("Bash(npm run test:*)", "npm run tests-and-more"));
    cr_assert_not(runs("Bash(npm run test:*)", "npm run"));
    cr_assert(forbids("Bash(rm:*)", "rm -rf /"));
    cr_assert(forbids("Bash(rm:*)", "rmdir x"));
}

Test(permissions, a_pattern_never_allows_operators)
{
    static const char *const tails[] = {"; rm x", " && rm x",  " & rm x",   " | sh",  " `id`",
                                        " $(id)", " > /etc/x", " < /etc/x", "\nrm x", "\rrm x"};
    char command[64];
    size_t i;

    for (i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
        snprintf(command, sizeof(command), "git status%s", tails[i]);
        cr_assert_not(runs("Bash(git status*)", command), "%s", command);
        cr_assert_not(runs("Bash(git status:*)", command), "%s", command);
        cr_assert_not(runs("Bash(**)", command), "%s", command);
        cr_assert(runs("Bash(*)", command), "%s", command);
    }
}

Test(permissions, a_deny_pattern_looks_at_every_part)
{
    cr_assert(forbids("Bash(rm *)", "rm x"));
    cr_assert(forbids("Bash(rm *)", "ls; rm x"));
    cr_assert(forbids("Bash(rm *)", "ls && rm x"));
    cr_assert(forbids("Bash(rm *)", "ls | rm x"));
    cr_assert(forbids("Bash(rm *)", "ls\n  rm x"));
    cr_assert(forbids("Bash(rm *)", "echo $(rm x)"));
    cr_assert(forbids("Bash(ls; rm *)", "ls; rm x"));
    cr_assert_not(forbids("Bash(rm *)", "ls form x"));
}

Test(permissions, file_patterns_count_from_the_directory_too)
{
    cr_assert(allows("Edit(src/*)", "Edit", "{\"file_path\":\"" DIRECTORY "/src/a/b.c\"}"));
    cr_assert(allows("Edit(src/*)", "Edit", "{\"file_path\":\"src/b.c\"}"));
    cr_assert(allows("Read(" DIRECTORY "/*)", "Read", "{\"file_path\":\"" DIRECTORY "/x\"}"));
    cr_assert_not(allows("Edit(src/*)", "Edit", "{\"file_path\":\"/etc/src/b.c\"}"));
    cr_assert_not(allows("Edit(src/*)", "Edit", "{\"file_path\":\"" DIRECTORY "-other/src/b.c\"}"));
    cr_assert(allows("NotebookEdit(*.ipynb)", "NotebookEdit", "{\"notebook_path\":\"/x/n.ipynb\"}"));
}

Test(permissions, a_climbing_path_is_never_allowed_by_a_pattern)
{
    cr_assert_not(allows("Write(src/*)", "Write", "{\"file_path\":\"" DIRECTORY "/src/../../.ssh/key\"}"));
    cr_assert_not(allows("Write(src/*)", "Write", "{\"file_path\":\"src/..\"}"));
    cr_assert_not(allows("Write(**)", "Write", "{\"file_path\":\"../x\"}"));
    cr_assert(allows("Write(*)", "Write", "{\"file_path\":\"../x\"}"));
    cr_assert(allows("Write(src/*)", "Write", "{\"file_path\":\"src/a..b\"}"));
}

Test(permissions, a_denied_path_cannot_be_written_another_way)
{
    cr_assert(denies("Read(/etc/*)", "Read", "{\"file_path\":\"/etc/passwd\"}"));
    cr_assert(denies("Read(/etc/*)", "Read", "{\"file_path\":\"/usr/../etc/passwd\"}"));
    cr_assert(denies("Read(/etc/*)", "Read", "{\"file_path\":\"//etc/./passwd\"}"));
    cr_assert(denies("Read(.env)", "Read", "{\"file_path\":\"" DIRECTORY "/src/../.env\"}"));
    cr_assert(denies("Read(x/y)", "Read", "{\"file_path\":\"x/z/../y\"}"));
    cr_assert_not(denies("Read(/etc/*)", "Read", "{\"file_path\":\"/etcetera\"}"));
}

Test(permissions, searches_are_bound_to_their_path)
{
    cr_assert(allows("Grep(src*)", "Grep", "{\"pattern\":\"x\",\"path\":\"" DIRECTORY "/src\"}"));
    cr_assert_not(allows("Grep(src*)", "Grep", "{\"pattern\":\"src\",\"path\":\"/etc\"}"));
    cr_assert(allows("Glob(src/*)", "Glob", "{\"pattern\":\"src/*.c\"}"));
    cr_assert_not(allows("Glob(src*)", "Glob", "{\"pattern\":\"../**\",\"path\":\"src\"}"));
    cr_assert_not(allows("Glob(src*)", "Glob", "{\"pattern\":\"/etc/**\",\"path\":\"src\"}"));
    cr_assert(denies("Glob(/etc*)", "Glob", "{\"pattern\":\"/etc/**\",\"path\":\"src\"}"));
}

Test(permissions, urls_and_domains)
{
    cr_assert(allows("WebFetch(https://a.example/*)", "WebFetch", "{\"url\":\"https://a.example/x\"}"));
    cr_assert(allows("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"https://A.example:8443/x?y\"}"));
    cr_assert(allows("WebFetch(domain:*.example)", "WebFetch", "{\"url\":\"https://b.example/\"}"));
    cr_assert_not(allows("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"https://b.a.example/\"}"));
    cr_assert_not(allows("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"https://a.example@evil.test/\"}"));
    cr_assert_not(allows("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"https://evil.test\\\\@a.example/\"}"));
    cr_assert_not(allows("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"https://evil.test/#@a.example/\"}"));
    cr_assert_not(allows("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"file://a.example/x\"}"));
    cr_assert(denies("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"https://b.a.example./\"}"));
    cr_assert(denies("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"https://%61.example/\"}"));
    cr_assert_not(denies("WebFetch(domain:a.example)", "WebFetch", "{\"url\":\"https://ba.example/\"}"));
}

Test(permissions, tools_of_mcp_servers)
{
    cr_assert(allows("mcp__git__*", "mcp__git__log", "{}"));
    cr_assert(allows("mcp__git", "mcp__git__log", "{}"));
    cr_assert_not(allows("mcp__git", "mcp__github__log", "{}"));
    cr_assert_not(allows("mcp__git__*", "mcp__github__log", "{}"));
    cr_assert(allows("mcp__git__log(*\"n\":1*)", "mcp__git__log", "{ \"n\" : 1 }"));
}

Test(permissions, a_rule_that_cannot_be_read_denies_and_never_allows)
{
    cr_assert_not(allows("Bash(ls", "Bash", "{\"command\":\"ls\"}"));
    cr_assert(denies("Bash(rm *", "Bash", "{\"command\":\"ls\"}"));
    cr_assert_not(denies("Bash(rm *", "Read", "{\"file_path\":\"x\"}"));
    cr_assert_not(allows("", "Bash", "{}"));
    cr_assert_not(allows("(", "Bash", "{}"));
    cr_assert_not(allows("Bash()", "Bash", "{\"command\":\"ls\"}"));
}

Test(permissions, input_of_an_unknown_shape_is_harmless)
{
    static const char *const inputs[] = {"", "{", "null", "[]", "{\"command\":7}", "{\"command\":null}", "\"ls\""};
    size_t i;

    for (i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
        cr_assert_not(allows("Bash(ls*)", "Bash", inputs[i]), "%s", inputs[i]);
        cr_assert(allows("Bash", "Bash", inputs[i]));
        cr_assert(denies("Bash", "Bash", inputs[i]));
    }
}
