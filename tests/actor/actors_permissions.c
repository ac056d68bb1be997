/* SPDX-License-Identifier: MPL-2.0 */
/* The permission rules of a team. */
#include <criterion/criterion.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "actors/drivers/driver.h"

#define DIRECTORY "/home/dev/app"

static const char *const none[] = {NULL};

static enum tool_verdict
check_in(const char *directory, const char *const *allow, const char *const *deny, const char *tool, const char *input,
         const char **out_rule)
{
    struct permission_options permissions = {0};

    permissions.allow.items = allow;
    while (allow[permissions.allow.count])
        permissions.allow.count++;
    permissions.deny.items = deny;
    while (deny[permissions.deny.count])
        permissions.deny.count++;
    return permission_check(&permissions, directory, tool, input, out_rule);
}

static enum tool_verdict
check(const char *const *allow, const char *const *deny, const char *tool, const char *input, const char **out_rule)
{
    return check_in(DIRECTORY, allow, deny, tool, input, out_rule);
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

/* Commands that the rule catches, or does not; NULL at the end. */
static void
forbids_each(const char *rule, const char *const *commands, bool expected)
{
    for (; *commands; commands++)
        cr_assert_eq(forbids(rule, *commands), expected, "%s: %s", rule, *commands);
}

Test(permissions, a_deny_pattern_knows_the_spellings_of_a_command)
{
    static const char *const caught[] = {"rm\t-rf x",
                                         "rm  x",
                                         "  rm x",
                                         "\\rm x",
                                         "r\\m x",
                                         "/bin/rm x",
                                         "../bin/rm x",
                                         "'rm' x",
                                         "\"rm\" x",
                                         "r'm' x",
                                         "\"/bin/rm\" x",
                                         "rm \\\n -rf x",
                                         "(rm x)",
                                         "( rm x )",
                                         "$(rm x)",
                                         "\"$(rm x)\"",
                                         "`rm x`",
                                         "a && rm x",
                                         "a || rm x",
                                         "a | rm x",
                                         "a & rm x",
                                         "a\nrm x",
                                         "a\n\trm x",
                                         "{ rm x; }",
                                         "! rm x",
                                         "f() { rm x; }",
                                         "cat <(rm x)",
                                         "a; /bin/rm x",
                                         "X=1 rm x",
                                         "X=1 Y=2 rm x",
                                         "X= rm x",
                                         "X+=1 rm x",
                                         "A[1]=2 rm x",
                                         "X='a b' rm x",
                                         "X='a ' rm x",
                                         "X=\"a;b\" rm x",
                                         "X=a\\ b rm x",
                                         ">f rm x",
                                         "2> f rm x",
                                         "< f rm x",
                                         "a 'it' # don't\nrm x",
                                         "echo 'a' && rm x",
                                         NULL};
    static const char *const passed[] = {"ls rm x",   "echo rm x",
                                         "rmdir x",   "farm x",
                                         "rm",        "git rm x",
                                         "X=rm ls x", "grep 'rm x' f",
                                         "./rm.sh x", "ls /bin/rm x",
                                         "ls > rm x", "",
                                         " ",         ";",
                                         "''",        "\\",
                                         "X=1",       "/",
                                         NULL};

    forbids_each("Bash(rm *)", caught, true);
    forbids_each("Bash(rm *)", passed, false);
}

Test(permissions, a_deny_pattern_looks_behind_words_that_run_a_command)
{
    static const char *const caught[] = {"if true; then rm x; fi",
                                         "if rm x; then a; fi",
                                         "if a; then b; elif rm x; then c; fi",
                                         "if a; then b; else rm x; fi",
                                         "while rm x; do a; done",
                                         "until rm x; do a; done",
                                         "for i in a; do rm x; done",
                                         "env rm x",
                                         "env X=1 rm x",
                                         "env -i X='a b' rm x",
                                         "env - rm x",
                                         "env -u A -C /d rm x",
                                         "env --unset A rm x",
                                         "env -- rm x",
                                         "sudo rm x",
                                         "sudo -u root rm x",
                                         "sudo -nu root rm x",
                                         "sudo -uroot rm x",
                                         "sudo --user root rm x",
                                         "sudo --user=root rm x",
                                         "/usr/bin/sudo /bin/rm x",
                                         "command rm x",
                                         "command -p rm x",
                                         "builtin rm x",
                                         "exec rm x",
                                         "exec -a n rm x",
                                         "nohup rm x",
                                         "time rm x",
                                         "time -p rm x",
                                         "nice rm x",
                                         "nice -n 5 rm x",
                                         "nice -5 rm x",
                                         "timeout 5 rm x",
                                         "timeout -s KILL 5s rm x",
                                         "timeout --kill-after 1 5 rm x",
                                         "timeout $T rm x",
                                         "ls | xargs rm x",
                                         "xargs -0 -n 1 rm x",
                                         "xargs -I {} rm {}",
                                         "xargs -I{} rm {}",
                                         "xargs --max-args 1 rm x",
                                         "setsid rm x",
                                         "stdbuf -o L rm x",
                                         "sh -c 'rm x'",
                                         "bash -lc \"X=1 rm x\"",
                                         "eval 'rm x'",
                                         "'sudo' rm x",
                                         "\\sudo rm x",
                                         "if ! time sudo env nice nohup timeout 5 rm x",
                                         NULL};
    static const char *const passed[] = {"sudo ls rm x", "env X=1 ls rm x", "env",          "sudo",
                                         "sudo -u",      "timeout 5",       "timeout rm x", "xargs -n 1 ls rm x",
                                         "sudo -u rm x", "sh rm.sh x",      "nice -n rm x", "time",
                                         "if",           "sudoo rm x",      "exec -a rm x", NULL};

    forbids_each("Bash(rm *)", caught, true);
    forbids_each("Bash(rm *)", passed, false);
    cr_assert(forbids("Bash(rm *)", "sudo sudo sudo sudo sudo sudo sudo sudo sudo ls"), "in doubt");
    cr_assert(forbids("Bash(sudo *)", "sudo ls"));
    cr_assert(forbids("Bash(X=1 *)", "X=1 ls"));
}

Test(permissions, a_deny_pattern_of_two_words)
{
    static const char *const caught[] = {"git push",      "git  push -f",       "git\tpush",         "git 'push'",
                                         "X=1 git  push", "cd d && git\t push", "/usr/bin/git push", NULL};
    static const char *const passed[] = {"git log push",  "git pull", "git stash push",
                                         "git -C d push", "gitpush",  NULL};

    forbids_each("Bash(git push*)", caught, true);
    forbids_each("Bash(git push*)", passed, false);
    forbids_each("Bash(git push:*)", caught, true);
    forbids_each("Bash(git push:*)", passed, false);
    cr_assert(forbids("Bash(*\"a  b\"*)", "ls \"a  b\""), "a pattern sees the quotes and blanks too");
    cr_assert(forbids("Bash(/bin/rm *)", "X=1 /bin/rm x"));
}

/* A long command of `unit`s with `tail`. */
static bool
forbids_long(const char *unit, const char *tail)
{
    struct muster_buf command = {0};
    bool denied;

    while (command.size < 1000000)
        muster_buf_str(&command, unit);
    muster_buf_str(&command, tail);
    denied = forbids("Bash(rm *)", command.data);
    muster_buf_free(&command);
    return denied;
}

Test(permissions, a_long_command_takes_no_long_time, .timeout = 20)
{
    static const char *const units[] = {"a;", ";", " ", "X=1 ", ">f ", "a ", "'", "\\", "(", "env;", "'a;' ", "/"};
    size_t i;

    for (i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        cr_assert(forbids_long(units[i], "\nrm x"), "%s", units[i]);
    cr_assert(forbids_long("env ", ""), "in doubt");
    cr_assert_not(forbids_long("a;", "b"));
    cr_assert_not(forbids_long("X=1 ", "ls"));
    cr_assert_not(forbids_long("'a;' ", "ls"));
}

Test(permissions, file_patterns_count_from_the_directory_too)
{
    cr_assert(allows("Edit(src/*)", "Edit", "{\"file_path\":\"" DIRECTORY "/src/a/b.c\"}"));
    cr_assert(allows("Edit(src/*)", "Edit", "{\"file_path\":\"src/b.c\"}"));
    cr_assert(allows("Read(" DIRECTORY "/*)", "Read", "{\"file_path\":\"" DIRECTORY "/x\"}"));
    cr_assert_not(allows("Edit(src/*)", "Edit", "{\"file_path\":\"/etc/src/b.c\"}"));
    cr_assert_not(allows("Edit(src/*)", "Edit", "{\"file_path\":\"" DIRECTORY "-other/src/b.c\"}"));
    cr_assert(allows("NotebookEdit(*.ipynb)", "NotebookEdit", "{\"notebook_path\":\"" DIRECTORY "/x/n.ipynb\"}"));
}

Test(permissions, a_relative_pattern_allows_nothing_outside)
{
    cr_assert(allows("Edit(*.md)", "Edit", "{\"file_path\":\"README.md\"}"));
    cr_assert(allows("Edit(*.md)", "Edit", "{\"file_path\":\"" DIRECTORY "/doc/README.md\"}"));
    cr_assert(allows("Edit(**)", "Edit", "{\"file_path\":\"" DIRECTORY "//doc/./x\"}"));
    cr_assert(allows("Edit(/etc/*.md)", "Edit", "{\"file_path\":\"/etc/other/README.md\"}"));
    cr_assert(allows("Edit(*)", "Edit", "{\"file_path\":\"/etc/other/README.md\"}"));
    cr_assert(allows("Edit", "Edit", "{\"file_path\":\"/etc/other/README.md\"}"));
    cr_assert_not(allows("Edit(*.md)", "Edit", "{\"file_path\":\"/etc/other/README.md\"}"));
    cr_assert_not(allows("Edit(**)", "Edit", "{\"file_path\":\"/etc/other/README.md\"}"));
    cr_assert_not(allows("Edit(?etc/*)", "Edit", "{\"file_path\":\"/etc/x\"}"));
    cr_assert_not(allows("Edit([/]etc/*)", "Edit", "{\"file_path\":\"/etc/x\"}"));
    cr_assert_not(allows("Grep(**)", "Grep", "{\"pattern\":\"x\",\"path\":\"/etc\"}"));
    cr_assert(denies("Edit(*.md)", "Edit", "{\"file_path\":\"/etc/other/README.md\"}"));
}

Test(permissions, a_path_that_programs_read_differently_is_never_allowed_by_a_pattern)
{
    cr_assert_not(allows("Edit(**)", "Edit", "{\"file_path\":\"~/x\"}"));
    cr_assert_not(allows("Edit(**)", "Edit", "{\"file_path\":\" /etc/x\"}"));
    cr_assert_not(allows("Edit(**)", "Edit", "{\"file_path\":\"x\\n\"}"));
    cr_assert_not(allows("Edit(**)", "Edit", "{\"file_path\":\"\"}"));
    cr_assert_not(allows("Glob(src*)", "Glob", "{\"pattern\":\"{..,x}/*\",\"path\":\"src\"}"));
    cr_assert_not(allows("Glob(src*)", "Glob", "{\"pattern\":\"{x,/etc}/*\",\"path\":\"src\"}"));
    cr_assert(allows("Glob(src*)", "Glob", "{\"pattern\":\"**/*.{c,h}\",\"path\":\"src\"}"));
    cr_assert(denies("Edit(/etc/*)", "Edit", "{\"file_path\":\" /etc/x\"}"));
    setenv("HOME", "/home/dev", 1);
    cr_assert(denies("Edit(/home/dev/.ssh/*)", "Edit", "{\"file_path\":\"~/.ssh/key\"}"));
    cr_assert(denies("Edit(~/.ssh/*)", "Edit", "{\"file_path\":\"/home/dev/.ssh/key\"}"));
    cr_assert_not(denies("Edit(~/.ssh/*)", "Edit", "{\"file_path\":\"/home/dev/x\"}"));
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

Test(permissions, a_denied_path_is_known_in_its_relative_form)
{
    cr_assert(denies("Read(/home/dev/app/keys/*)", "Read", "{\"file_path\":\"keys/a\"}"));
    cr_assert(denies("Read(/home/dev/other/*)", "Read", "{\"file_path\":\"../other/a\"}"));
    cr_assert_not(denies("Read(/home/dev/app/keys/*)", "Read", "{\"file_path\":\"src/a\"}"));
}

Test(permissions, a_sub_agent_has_two_names)
{
    cr_assert(denies("Task", "Agent", "{\"prompt\":\"x\"}"));
    cr_assert(allows("Task", "Agent", "{\"prompt\":\"x\"}"));
    cr_assert_not(allows("Agent", "Task", "{\"prompt\":\"x\"}"));
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

Test(permissions, a_folder_that_is_searched_is_what_lies_in_it)
{
    static const char *const rules[] = {"Grep(secrets/*)", "Grep(" DIRECTORY "/secrets/*)", "Grep(secrets/**)"};
    size_t i;

    for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        cr_assert(denies(rules[i], "Grep", "{\"pattern\":\"x\",\"path\":\"secrets\"}"));
        cr_assert(denies(rules[i], "Grep", "{\"pattern\":\"x\",\"path\":\"./secrets/\"}"));
        cr_assert(denies(rules[i], "Grep", "{\"pattern\":\"x\",\"path\":\"" DIRECTORY "/secrets\"}"));
        cr_assert(denies(rules[i], "Grep", "{\"pattern\":\"x\",\"path\":\"" DIRECTORY "/secrets/a\"}"));
        cr_assert_not(denies(rules[i], "Grep", "{\"pattern\":\"x\",\"path\":\"src\"}"));
        cr_assert_not(denies(rules[i], "Grep", "{\"pattern\":\"x\",\"path\":\"secrets.txt\"}"));
        cr_assert_not(denies(rules[i], "Grep", "{\"pattern\":\"x\"}"));
    }
    cr_assert(denies("Glob(secrets/*)", "Glob", "{\"pattern\":\"*\",\"path\":\"secrets\"}"));
    cr_assert(denies("Glob(secrets/*)", "Glob", "{\"pattern\":\"secrets/*\",\"path\":\"" DIRECTORY "\"}"));
    cr_assert(denies("Glob(a/secrets/*)", "Glob", "{\"pattern\":\"secrets/*\",\"path\":\"a\"}"));
    cr_assert(denies("Glob(secrets/*)", "Glob", "{\"pattern\":\"secrets/*\"}"));
    cr_assert_not(denies("Glob(secrets/*)", "Glob", "{\"pattern\":\"src/*\",\"path\":\"" DIRECTORY "\"}"));
    cr_assert_not(denies("Read(secrets/*)", "Read", "{\"file_path\":\"secrets\"}"), "a file is no folder");
    cr_assert(allows("Grep(src/*)", "Grep", "{\"pattern\":\"x\",\"path\":\"" DIRECTORY "/src\"}"));
    cr_assert(allows("Grep(**)", "Grep", "{\"pattern\":\"x\",\"path\":\"" DIRECTORY "\"}"));
    cr_assert_not(allows("Grep(src/*)", "Grep", "{\"pattern\":\"x\",\"path\":\"" DIRECTORY "\"}"));
}

/* ---- directories on disk ----
 *
 *   ROOT/team         the directory, with src/ and secrets/
 *   ROOT/link         a symbolic link to it
 *   ROOT/team/out     to ROOT/other; team/lost to ROOT/missing; team/hidden to secrets; team/mirror to ROOT/team/src
 *   ROOT/other
 *
 * ROOT is static because Criterion hands nothing from a fixture to its test. */
static char root[PATH_MAX];

static const char *
at_root(char *out, size_t size, const char *format)
{
    size_t used = 0;

    for (; *format && used + 1 < size; format++) {
        if (*format == '@')
            used += (size_t)snprintf(out + used, size - used, "%s", root);
        else
            out[used++] = *format;
    }
    out[used] = '\0';
    return out;
}

static void
make_link(const char *target, const char *name)
{
    char from[PATH_MAX * 2], to[PATH_MAX * 2];

    cr_assert_eq(symlink(at_root(from, sizeof(from), target), at_root(to, sizeof(to), name)), 0);
}

static void
make_tree(void)
{
    static const char *const folders[] = {"@/team", "@/team/src", "@/team/secrets", "@/other"};
    char made[] = "/tmp/permissions-XXXXXX", path[PATH_MAX * 2];
    size_t i;

    cr_assert_not_null(mkdtemp(made));
    cr_assert_not_null(realpath(made, root));
    for (i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
        cr_assert_eq(mkdir(at_root(path, sizeof(path), folders[i]), 0700), 0);
    make_link("@/team", "@/link");
    make_link("@/other", "@/team/out");
    make_link("@/missing", "@/team/lost");
    make_link("secrets", "@/team/hidden");
    make_link("src", "@/team/mirror");
}

static void
drop_tree(void)
{
    static const char *const paths[] = {"@/team/mirror", "@/team/hidden",  "@/team/lost", "@/team/out", "@/link",
                                        "@/other",       "@/team/secrets", "@/team/src",  "@/team",     "@"};
    char path[PATH_MAX * 2];
    size_t i;

    for (i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        cr_assert_eq(remove(at_root(path, sizeof(path), paths[i])), 0, "%s", path);
}

TestSuite(permissions_on_disk, .init = make_tree, .fini = drop_tree);

/* Is a rule that allows, or denies, matched by `path` of a tool in `directory`?  '@' is the root. */
static bool
matches_in(const char *directory, const char *rule, const char *path, bool deny)
{
    char place[PATH_MAX * 2], full_rule[PATH_MAX * 2], file[PATH_MAX * 2], input[PATH_MAX * 4], tool[16];
    const char *const rules[] = {at_root(full_rule, sizeof(full_rule), rule), NULL}, *const all[] = {"*", NULL};
    const char *matched;

    snprintf(tool, sizeof(tool), "%.*s", (int)strcspn(rule, "("), rule);
    snprintf(input, sizeof(input), "{\"pattern\":\"x\",\"%s\":\"%s\"}", *tool == 'G' ? "path" : "file_path",
             at_root(file, sizeof(file), path));
    check_in(at_root(place, sizeof(place), directory), deny ? all : rules, deny ? rules : none, tool, input, &matched);
    return !strcmp(matched, rules[0]);
}

static const char *const directories[] = {"@/team",         "@/link",    "@/other/../team",
                                          "@/link/../team", "@/./team/", "@/nothing/../team"};
enum { DIRECTORIES = sizeof(directories) / sizeof(directories[0]) };

Test(permissions_on_disk, a_directory_is_the_same_however_it_is_written)
{
    static const char *const files[] = {"@/team/secrets/key", "secrets/key", "./secrets/key", "@/link/secrets/key"};
    char rule[PATH_MAX * 2];
    size_t i, j;

    for (i = 0; i < DIRECTORIES; i++) {
        for (j = 0; j < sizeof(files) / sizeof(files[0]); j++) {
            cr_assert(matches_in(directories[i], "Edit(secrets/*)", files[j], true), "%s %s", directories[i], files[j]);
            cr_assert(matches_in(directories[i], "Edit(@/team/secrets/*)", files[j], true), "%s %s", directories[i],
                      files[j]);
            cr_assert(matches_in(directories[i], "Edit(@/link/secrets/*)", files[j], true));
            cr_assert(matches_in(directories[i], "Edit(@/link/secrets/*)", files[j], false));
            cr_assert_not(matches_in(directories[i], "Edit(src/*)", files[j], true));
            cr_assert_not(matches_in(directories[i], "Edit(src/*)", files[j], false));
        }
        snprintf(rule, sizeof(rule), "Edit(%s/secrets/*)", directories[i]);
        cr_assert(matches_in(directories[i], rule, "@/team/secrets/key", true), "%s", rule);
        cr_assert(matches_in(directories[i], rule, "@/team/secrets/key", false), "%s", rule);
        cr_assert(matches_in(directories[i], "Edit(secrets/*)", "@/team/secrets/key", false), "%s", directories[i]);
        cr_assert(matches_in(directories[i], "Edit(secrets/*)", "secrets/key", false), "%s", directories[i]);
        cr_assert(matches_in(directories[i], "Edit(src/*)", "src/new/file", false), "a new file");
        cr_assert_not(matches_in(directories[i], "Edit(**)", "@/other/file", false));
        cr_assert_not(matches_in(directories[i], "Edit(**)", "@/teams/file", false));
    }
    cr_assert(matches_in("@/link", "Edit(src/*)", "@/link/src/a", false));
    cr_assert(matches_in("@/other/../team", "Edit(src/*)", "@/other/../team/src/a", false));
}

Test(permissions_on_disk, a_missing_directory_is_taken_as_written)
{
    cr_assert(matches_in("@/a/../none", "Edit(src/*)", "@/none/src/x", false));
    cr_assert(matches_in("@/a/../none", "Edit(src/*)", "@/none/src/x", true));
    cr_assert_not(matches_in("@/a/../none", "Edit(src/*)", "@/team/src/x", false));
}

Test(permissions_on_disk, a_link_that_leaves_the_directory_is_seen)
{
    cr_assert_not(matches_in("@/team", "Edit(**)", "out/file", false));
    cr_assert_not(matches_in("@/team", "Edit(out/*)", "@/team/out/file", false));
    cr_assert_not(matches_in("@/team", "Edit(@/team/*)", "@/team/out/file", false));
    cr_assert_not(matches_in("@/team", "Grep(**)", "out", false));
    cr_assert(matches_in("@/team", "Edit(@/other/*)", "out/file", false));
    cr_assert(matches_in("@/team", "Edit(@/other/*)", "out/file", true));
    cr_assert(matches_in("@/team", "Edit(@/other/*)", "@/team/out/new/file", true));
    cr_assert(matches_in("@/team", "Grep(@/other/*)", "out", true));
    cr_assert(matches_in("@/team", "Edit(../other/*)", "out/file", true));
    cr_assert(matches_in("@/team", "Edit(out/*)", "@/other/file", true));
    cr_assert_not(matches_in("@/team", "Edit(@/other/*)", "src/file", true));
}

Test(permissions_on_disk, a_link_within_the_directory_is_followed_for_deny_rules)
{
    cr_assert(matches_in("@/team", "Edit(secrets/*)", "hidden/key", true));
    cr_assert(matches_in("@/team", "Edit(hidden/*)", "secrets/key", true));
    cr_assert(matches_in("@/team", "Grep(secrets/*)", "hidden", true));
    cr_assert(matches_in("@/team", "Edit(secrets/*)", "src/../hidden/key", true));
    cr_assert(matches_in("@/team", "Edit(@/file)", "src/../out/../file", true));
    cr_assert(matches_in("@/team", "Edit(secrets/*)", "nothing/../hidden/key", true));
    cr_assert(matches_in("@/link", "Edit(o*/file)", "@/link/out/file", true));
    cr_assert(matches_in("@/link", "Edit(o*/file)", "@/team/out/file", true));
    cr_assert_not(matches_in("@/team", "Edit(secrets/*)", "mirror/key", true));
    cr_assert(matches_in("@/team", "Edit(mirror/*)", "mirror/a", false));
}

Test(permissions_on_disk, a_link_to_nothing_is_denied_in_doubt)
{
    cr_assert_not(matches_in("@/team", "Edit(**)", "lost", false));
    cr_assert_not(matches_in("@/team", "Edit(**)", "lost/file", false));
    cr_assert(matches_in("@/team", "Edit(secrets/*)", "lost", true));
    cr_assert(matches_in("@/team", "Edit(secrets/*)", "lost/file", true));
    cr_assert_not(matches_in("@/team", "Edit(secrets/*)", "missing", true));
}

Test(permissions_on_disk, the_pattern_of_a_search_stays_in_its_folder)
{
    char input[PATH_MAX];
    const char *const allow[] = {"Glob(**)", NULL};
    const char *rule;
    char place[PATH_MAX * 2];

    at_root(place, sizeof(place), "@/team");
    snprintf(input, sizeof(input), "{\"path\":\".\",\"pattern\":\"out/**\"}");
    cr_assert_eq(check_in(place, allow, none, "Glob", input, &rule), tool_verdict_DENIED);
    snprintf(input, sizeof(input), "{\"path\":\".\",\"pattern\":\"src/**\"}");
    cr_assert_eq(check_in(place, allow, none, "Glob", input, &rule), tool_verdict_ALLOWED);
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
        cr_assert(denies("Bash(rm *)", "Bash", inputs[i]), "in doubt");
        cr_assert_not(denies("mcp__a__b(x*)", "mcp__a__b", inputs[i]));
    }
}
