/* SPDX-License-Identifier: MPL-2.0 */
/* Child processes on a loop. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transport/muster_child.h"

/* An actor with one child.  The test tells it what to do and hears what the hooks said. */
struct actor {
    struct muster_bus *bus;
    struct muster_loop *loop;
    struct muster_runner *runner;
    struct muster_post *test; /* the test's mailbox, on its thread */
    struct muster_child_spec spec;
    struct muster_child *child;
    muster_err err; /* of the start */
    char problem[256];
    pid_t pid;
    int status;
    bool free_in_line;
    bool free_in_exited;
    int descriptors; /* open before the first child */
    char mark[64];   /* of this process: tests run side by side */
};

static const char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "COLOUR=blue", NULL};

/* ---- what the actor says ----------------------------------------------------------------------------------------- */

static void
say(struct actor *actor, const void *data, size_t size)
{
    struct muster_buf buf = {0};

    muster_buf_add(&buf, data, size);
    cr_assert_eq(muster_post_send(muster_loop_post(actor->loop), "test", &buf), MUSTER_OK);
}

static void
say_text(struct actor *actor, const char *text)
{
    say(actor, text, strlen(text));
}

static void
on_line(void *arg, const char *line, size_t size)
{
    struct actor *actor = arg;

    cr_assert_eq(line[size], '\0');
    say(actor, line, size);
    if (actor->free_in_line)
        muster_child_free(&actor->child);
}

static void
on_overlong(void *arg)
{
    say_text(arg, "(overlong)");
}

static void
on_exited(void *arg, int status)
{
    struct actor *actor = arg;

    actor->status = status;
    cr_assert_eq(muster_child_write(actor->child, "x", 1), MUSTER_GONE);
    say_text(actor, "(exited)");
    if (actor->free_in_exited)
        muster_child_free(&actor->child);
}

static const struct muster_child_hooks child_hooks = {.line = on_line, .overlong = on_overlong, .exited = on_exited};

/* ---- what the test says ------------------------------------------------------------------------------------------ */

/* Not those of ZeroMQ's sockets, which it closes some time later. */
static int
count_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    char target[64];
    int count = 0;

    while ((entry = readdir(dir))) {
        ssize_t size = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);

        target[size > 0 ? size : 0] = '\0';
        if (size > 0 && strcmp(target, "anon_inode:[eventfd]") != 0)
            count++;
    }
    closedir(dir);
    return count;
}

static void
start_child(struct actor *actor)
{
    actor->descriptors = count_descriptors();
    actor->err = muster_child_start(actor->loop, &actor->spec, &child_hooks, actor, actor->problem,
                                    sizeof actor->problem, &actor->child);
    if (!actor->err)
        actor->pid = muster_child_pid(actor->child);
}

static void
free_child(struct actor *actor, bool silently)
{
    char content[64];

    muster_child_free(&actor->child);
    cr_assert_null(actor->child);
    if (silently)
        return;
    snprintf(content, sizeof content, "(freed, %d descriptors more)", count_descriptors() - actor->descriptors);
    say_text(actor, content);
}

/* "w<size> <text>" writes and says how that went; the other commands are one letter. */
static void
on_command(void *arg, const void *data, size_t size)
{
    struct actor *actor = arg;
    const char *text = data;

    switch (text[0]) {
    case 's':
        start_child(actor);
        say_text(actor, muster_err_code(actor->err));
        break;
    case 'w':
        say_text(actor, muster_err_code(muster_child_write(actor->child, text + 1, size - 1)));
        break;
    case 'c':
        muster_child_close_input(actor->child);
        break;
    case 't':
        muster_child_signal(actor->child, SIGTERM);
        break;
    case 'l':
        say_text(actor, muster_child_last_words(actor->child));
        break;
    case 'f':
        free_child(actor, false);
        break;
    default:
        free_child(actor, true);
        say_text(actor, "(freed)");
    }
}

static muster_err
begin(void *arg, struct muster_loop *loop)
{
    struct actor *actor = arg;

    actor->loop = loop;
    return MUSTER_OK;
}

static void
end(void *arg)
{
    struct actor *actor = arg;

    muster_child_free(&actor->child);
    muster_child_free(&actor->child);
}

static const struct muster_runner_hooks hooks = {.begin = begin, .frame = on_command, .end = end};

static void
tell(struct actor *actor, const char *command)
{
    struct muster_buf buf = {0};

    muster_buf_str(&buf, command);
    cr_assert_eq(muster_post_send(actor->test, "actor", &buf), MUSTER_OK);
}

static void
expect_bytes(struct actor *actor, const char *content, size_t size)
{
    struct muster_frame frame;

    cr_assert_eq(muster_post_receive(actor->test, 20000, -1, &frame), MUSTER_OK, "waiting for %s", content);
    cr_assert(frame.size == size && memcmp(frame.data, content, size) == 0, "expected %s, got %.*s", content,
              (int)frame.size, (const char *)frame.data);
    muster_frame_free(&frame);
}

static void
expect(struct actor *actor, const char *content)
{
    expect_bytes(actor, content, strlen(content));
}

static void
open_actor(struct actor *actor, const char *const *argv)
{
    *actor = (struct actor){.spec = {.argv = argv,
                                     .env = environment,
                                     .directory = "/",
                                     .mark = actor->mark,
                                     .max_line = 100000,
                                     .stderr_kept = 4096,
                                     .max_input = 1000000}};
    snprintf(actor->mark, sizeof actor->mark, "test-child-%d", (int)getpid());
    actor->bus = muster_bus_new();
    cr_assert_eq(muster_post_open(actor->bus, "test", 200000, &actor->test), MUSTER_OK);
    cr_assert_eq(muster_runner_start(actor->bus, "actor", 1000, &hooks, actor, &actor->runner), MUSTER_OK);
}

/* After this nothing may be left: no child, dead or alive. */
static void
close_actor(struct actor *actor)
{
    muster_runner_stop(&actor->runner);
    muster_post_close(&actor->test);
    muster_bus_free(&actor->bus);
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
    cr_assert_eq(errno, ECHILD);
}

#define SHELL(script) ((const char *const[]){"sh", "-c", (script), NULL})

static void
start_shell(struct actor *actor, const char *const *argv)
{
    open_actor(actor, argv);
    tell(actor, "s");
    expect(actor, "OK");
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

Test(child, lines_go_in_and_come_out)
{
    struct actor actor;

    start_shell(&actor, (const char *const[]){"cat", NULL});
    tell(&actor, "whello\nworld\n");
    expect(&actor, "OK");
    expect(&actor, "hello");
    expect(&actor, "world");
    tell(&actor, "wempty lines\n\n\nlast");
    tell(&actor, "c");
    expect(&actor, "OK");
    expect(&actor, "empty lines");
    expect(&actor, "");
    expect(&actor, "");
    expect(&actor, "last");
    expect(&actor, "(exited)");
    cr_assert(WIFEXITED(actor.status) && WEXITSTATUS(actor.status) == 0);
    close_actor(&actor);
}

Test(child, line_written_in_pieces_is_one_line)
{
    struct actor actor;

    start_shell(&actor, SHELL("printf one; echo half >&2; read x; printf ' two\\nthree\\nfo'; read x; echo ur"));
    tell(&actor, "wgo\n");
    expect(&actor, "OK");
    expect(&actor, "one two");
    expect(&actor, "three");
    tell(&actor, "wgo\n");
    expect(&actor, "OK");
    expect(&actor, "four");
    expect(&actor, "(exited)");
    close_actor(&actor);
}

Test(child, nul_bytes_are_passed_with_their_size)
{
    struct actor actor;

    start_shell(&actor, SHELL("printf 'a\\0b\\377\\n\\0\\n'"));
    expect_bytes(&actor, "a\0b\377", 4);
    expect_bytes(&actor, "\0", 1);
    expect(&actor, "(exited)");
    close_actor(&actor);
}

Test(child, a_megabyte_of_lines_arrives_whole)
{
    struct actor actor;
    char content[32];

    start_shell(&actor, SHELL("seq 1 150000"));
    for (int i = 1; i <= 150000; i++) {
        snprintf(content, sizeof content, "%d", i);
        expect(&actor, content);
    }
    expect(&actor, "(exited)");
    close_actor(&actor);
}

static void
expect_overlong(const char *script)
{
    struct actor actor;

    open_actor(&actor, SHELL(script));
    actor.spec.max_line = 1000;
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "good");
    expect(&actor, "(overlong)");
    expect(&actor, "(exited)");
    cr_assert(WIFSIGNALED(actor.status) && WTERMSIG(actor.status) == SIGKILL);
    close_actor(&actor);
}

Test(child, overlong_line_ends_the_child)
{
    expect_overlong("echo good; head -c 1001 /dev/zero | tr '\\0' x; sleep 1000");
    expect_overlong("echo good; head -c 1001 /dev/zero | tr '\\0' x; echo; echo bad; sleep 1000");
    expect_overlong("echo good; head -c 1000000 /dev/zero | tr '\\0' x; sleep 1000");
}

Test(child, line_of_just_the_limit_is_good)
{
    struct actor actor;
    char content[1001] = "";

    memset(content, 'x', 1000);
    open_actor(&actor, SHELL("head -c 1000 /dev/zero | tr '\\0' x; echo; head -c 1000 /dev/zero | tr '\\0' x"));
    actor.spec.max_line = 1000;
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, content);
    expect(&actor, content);
    expect(&actor, "(exited)");
    close_actor(&actor);
}

Test(child, hook_may_free_the_child_at_a_line)
{
    struct actor actor;

    open_actor(&actor, SHELL("echo one; echo two; sleep 1000"));
    actor.free_in_line = true;
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "one");
    tell(&actor, "f");
    expect(&actor, "(freed, 0 descriptors more)");
    close_actor(&actor);
}

Test(child, hook_may_free_the_child_at_its_end)
{
    struct actor actor;

    open_actor(&actor, SHELL("echo one"));
    actor.free_in_exited = true;
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "one");
    expect(&actor, "(exited)");
    tell(&actor, "f");
    expect(&actor, "(freed, 0 descriptors more)");
    close_actor(&actor);
}

/* ---- standard error ---------------------------------------------------------------------------------------------- */

Test(child, last_words_are_kept_and_cleaned)
{
    struct actor actor;

    open_actor(&actor, SHELL("printf 'x%.0s' $(seq 1 1000) >&2; printf '\\303\\251tait\\377' >&2; echo done; read x"));
    actor.spec.stderr_kept = 7;
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "done");
    tell(&actor, "c");
    expect(&actor, "(exited)");
    tell(&actor, "l");
    expect(&actor, "\303\251tait\357\277\275");
    close_actor(&actor);
}

Test(child, last_words_begin_with_a_whole_character)
{
    struct actor actor;

    open_actor(&actor, SHELL("printf 'x\\303\\251tait' >&2"));
    actor.spec.stderr_kept = 5;
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "(exited)");
    tell(&actor, "l");
    expect(&actor, "tait");
    close_actor(&actor);
}

Test(child, silence_gives_empty_last_words)
{
    struct actor actor;

    start_shell(&actor, SHELL("exit 0"));
    expect(&actor, "(exited)");
    tell(&actor, "l");
    expect(&actor, "");
    close_actor(&actor);
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

static void
expect_refused(const char *const *argv, const char *directory, const char *code, const char *problem)
{
    struct actor actor;

    open_actor(&actor, argv);
    actor.spec.directory = directory;
    tell(&actor, "s");
    expect(&actor, code);
    cr_assert(strstr(actor.problem, problem), "%s", actor.problem);
    tell(&actor, "f");
    expect(&actor, "(freed, 0 descriptors more)");
    close_actor(&actor);
}

Test(child, what_cannot_be_started_says_why)
{
    char directory[] = "/tmp/transport-child-XXXXXX";
    char path[64];
    int fd;

    cr_assert_not_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/plain", directory);
    fd = open(path, O_CREAT | O_WRONLY, 0644);
    cr_assert_neq(fd, -1);
    close(fd);
    expect_refused((const char *const[]){"no-such-program", NULL}, "/", "NOT_FOUND",
                   "no-such-program: no such program in PATH (/usr/local/bin:/usr/bin:/bin)");
    expect_refused((const char *const[]){"/no/such/program", NULL}, "/", "NOT_FOUND", "no such program");
    expect_refused((const char *const[]){"", NULL}, "/", "NOT_FOUND", "empty");
    expect_refused((const char *const[]){NULL}, "/", "NOT_FOUND", "empty");
    expect_refused((const char *const[]){"true", NULL}, "/no/such/directory", "NOT_FOUND", "no such directory");
    expect_refused((const char *const[]){"true", NULL}, path, "NOT_FOUND", "no such directory");
    expect_refused((const char *const[]){"./plain", NULL}, directory, "NOT_FOUND", "not an executable file");
    expect_refused((const char *const[]){"/tmp", NULL}, "/", "NOT_FOUND", "not an executable file");
    unlink(path);
    rmdir(directory);
}

Test(child, script_without_interpreter_says_why)
{
    char path[] = "/tmp/transport-script-XXXXXX";
    int fd = mkstemp(path);

    cr_assert_eq(write(fd, "#!/no/such/interpreter\n", 23), 23);
    fchmod(fd, 0755);
    close(fd);
    expect_refused((const char *const[]){path, NULL}, "/", "PROCESS_ERROR", "could not be started");
    unlink(path);
}

Test(child, programs_are_found_from_the_directory)
{
    char directory[] = "/tmp/transport-child-XXXXXX";
    static const char *const relative_path[] = {"PATH=/nowhere:bin:", NULL};
    char bin[64], path[80], here[80];
    struct actor actor;

    cr_assert_not_null(mkdtemp(directory));
    snprintf(bin, sizeof bin, "%s/bin", directory);
    snprintf(path, sizeof path, "%s/tool", bin);
    snprintf(here, sizeof here, "%s/other", directory);
    cr_assert_eq(mkdir(bin, 0755), 0);
    cr_assert_eq(symlink("/bin/echo", path), 0);
    cr_assert_eq(symlink("/bin/echo", here), 0);
    open_actor(&actor, (const char *const[]){"tool", "from PATH", NULL});
    actor.spec.directory = directory;
    actor.spec.env = relative_path;
    actor.free_in_exited = true;
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "from PATH");
    expect(&actor, "(exited)");
    actor.spec.argv = (const char *const[]){"other", "from here", NULL};
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "from here");
    expect(&actor, "(exited)");
    actor.spec.argv = (const char *const[]){"bin/tool", "by its path", NULL};
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "by its path");
    expect(&actor, "(exited)");
    close_actor(&actor);
    unlink(path);
    unlink(here);
    rmdir(bin);
    rmdir(directory);
}

Test(child, environment_is_exactly_what_was_given)
{
    static const char *const marked[] = {"MUSTER_CHILD=of-our-own-parent", "PATH=/usr/bin:/bin", "COLOUR=blue", NULL};
    struct actor actor;
    char entry[80];

    open_actor(&actor, (const char *const[]){"env", NULL});
    actor.spec.env = marked;
    tell(&actor, "s");
    expect(&actor, "OK");
    snprintf(entry, sizeof entry, "MUSTER_CHILD=%s", actor.mark);
    expect(&actor, entry);
    expect(&actor, "PATH=/usr/bin:/bin");
    expect(&actor, "COLOUR=blue");
    expect(&actor, "(exited)");
    close_actor(&actor);
}

Test(child, child_leads_a_session_and_inherits_nothing)
{
    struct actor actor;
    int open_fd = open("/dev/null", O_RDONLY); /* not close-on-exec */

    signal(SIGPIPE, SIG_IGN);
    start_shell(&actor, SHELL("read x; pwd; ulimit -c; ls /proc/self/fd | wc -l; grep SigBlk /proc/self/status;"
                              "sed -n 's/SigIgn.*\\(.......\\)$/\\1/p' /proc/self/status; read x"));
    cr_assert_eq(getsid(actor.pid), actor.pid);
    cr_assert_eq(getpgid(actor.pid), actor.pid);
    tell(&actor, "wgo\n");
    expect(&actor, "OK");
    expect(&actor, "/");
    expect(&actor, "0");
    expect(&actor, "4"); /* ls holds the folder as well */
    expect(&actor, "SigBlk:\t0000000000000000");
    expect(&actor, "0000000");
    close_actor(&actor);
    close(open_fd);
}

Test(child, too_long_a_mark_is_refused)
{
    struct actor actor;
    char mark[130] = "";

    memset(mark, 'm', 128);
    open_actor(&actor, SHELL("exit 0"));
    actor.spec.mark = mark;
    tell(&actor, "s");
    expect(&actor, "PROCESS_ERROR");
    mark[127] = '\0';
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "(exited)");
    close_actor(&actor);
}

/* ---- end --------------------------------------------------------------------------------------------------------- */

Test(child, exit_code_is_told)
{
    struct actor actor;

    start_shell(&actor, SHELL("exit 42"));
    expect(&actor, "(exited)");
    cr_assert(WIFEXITED(actor.status) && WEXITSTATUS(actor.status) == 42);
    close_actor(&actor);
}

Test(child, signal_reaches_the_whole_group)
{
    struct actor actor;

    start_shell(&actor, SHELL("sleep 1000 & echo ready; wait"));
    expect(&actor, "ready");
    tell(&actor, "t");
    expect(&actor, "(exited)"); /* at once, so the sleep that held the pipe has ended as well */
    cr_assert(WIFSIGNALED(actor.status) && WTERMSIG(actor.status) == SIGTERM);
    close_actor(&actor);
}

Test(child, closing_its_output_is_not_the_end)
{
    struct actor actor;

    start_shell(&actor, SHELL("echo before; exec >&- 2>&-; read x; exit 7"));
    expect(&actor, "before");
    tell(&actor, "wgo\n");
    expect(&actor, "OK");
    expect(&actor, "(exited)");
    cr_assert(WIFEXITED(actor.status) && WEXITSTATUS(actor.status) == 7);
    close_actor(&actor);
}

Test(child, descendant_that_holds_the_pipe_does_not_delay_the_end_for_ever)
{
    struct actor actor;

    start_shell(&actor, SHELL("sleep 1000 & printf unfinished; exit 3"));
    expect(&actor, "unfinished");
    expect(&actor, "(exited)");
    cr_assert(WIFEXITED(actor.status) && WEXITSTATUS(actor.status) == 3);
    tell(&actor, "f");
    expect(&actor, "(freed, 0 descriptors more)");
    close_actor(&actor);
}

/* ---- input ------------------------------------------------------------------------------------------------------- */

Test(child, input_beyond_its_limit_is_refused)
{
    struct actor actor;
    char big[70002] = "w";

    memset(big + 1, 'i', 70000);
    open_actor(&actor, SHELL(""));
    actor.spec.max_input = 70000;
    actor.spec.argv = SHELL("trap 'exec wc -c' TERM; echo ready; while :; do sleep 0.01; done");
    tell(&actor, "s");
    expect(&actor, "OK");
    expect(&actor, "ready");
    tell(&actor, big);
    expect(&actor, "OK"); /* 64 KiB are in the pipe, the rest waits */
    tell(&actor, big);
    expect(&actor, "OVERLOADED");
    big[65001] = '\0';
    tell(&actor, big);
    expect(&actor, "OK");
    tell(&actor, big);
    expect(&actor, "OVERLOADED");
    tell(&actor, "c");
    tell(&actor, "wmore");
    expect(&actor, "GONE");
    tell(&actor, "t");
    expect(&actor, "135000");
    expect(&actor, "(exited)");
    close_actor(&actor);
}

Test(child, closed_input_is_noticed_when_written_to)
{
    struct actor actor;

    start_shell(&actor, SHELL("exec 0<&-; echo closed; exec sleep 1000"));
    expect(&actor, "closed");
    tell(&actor, "whello");
    expect(&actor, "GONE");
    tell(&actor, "whello");
    expect(&actor, "GONE");
    tell(&actor, "c");
    tell(&actor, "f");
    expect(&actor, "(freed, 0 descriptors more)");
    close_actor(&actor);
}

/* ---- nothing left ------------------------------------------------------------------------------------------------ */

static pid_t
receive_pid(struct actor *actor)
{
    struct muster_frame frame;
    char content[32] = "";

    cr_assert_eq(muster_post_receive(actor->test, 20000, -1, &frame), MUSTER_OK);
    cr_assert_lt(frame.size, sizeof content);
    memcpy(content, frame.data, frame.size);
    muster_frame_free(&frame);
    return atoi(content);
}

/* Has it ended?  It may be somebody else's zombie. */
static void
expect_ended(int pidfd)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};

    cr_assert_eq(poll(&fd, 1, 0), 1);
    close(pidfd);
}

Test(child, free_ends_descendants_that_left_the_group)
{
    struct actor actor;
    pid_t grandchild;
    int pidfd;

    start_shell(&actor, SHELL("setsid sh -c 'echo $$; exec sleep 1000' & wait"));
    grandchild = receive_pid(&actor);
    pidfd = (int)syscall(SYS_pidfd_open, grandchild, 0);
    cr_assert_neq(pidfd, -1);
    tell(&actor, "q");
    expect(&actor, "(freed)");
    expect_ended(pidfd);
    close_actor(&actor);
}

Test(child, free_reaps_adopted_descendants)
{
    struct actor actor;
    pid_t deserter, daemon;

    muster_children_adopt();
    start_shell(&actor, SHELL("setsid sh -c 'sleep 1001 & echo $$; echo $!; exec sleep 1002' & read x"));
    deserter = receive_pid(&actor);
    daemon = receive_pid(&actor);
    tell(&actor, "f");
    expect(&actor, "(freed, 0 descriptors more)");
    cr_assert_eq(kill(deserter, 0), -1);
    cr_assert_eq(kill(daemon, 0), -1);
    close_actor(&actor);
}

Test(child, free_spares_marks_that_only_begin_alike)
{
    struct actor actor, other;
    struct pollfd fd = {.events = POLLIN};

    start_shell(&actor, SHELL("echo ready; exec sleep 1000"));
    expect(&actor, "ready");
    open_actor(&other, SHELL("echo ready; exec sleep 1000"));
    strcat(other.mark, "-2");
    tell(&other, "s");
    expect(&other, "OK");
    expect(&other, "ready");
    fd.fd = (int)syscall(SYS_pidfd_open, other.pid, 0);
    tell(&actor, "q");
    expect(&actor, "(freed)");
    cr_assert_eq(poll(&fd, 1, 0), 0, "it lives");
    close(fd.fd);
    tell(&other, "q");
    expect(&other, "(freed)");
    close_actor(&other);
    close_actor(&actor);
}

Test(child, a_hundred_children_leave_nothing)
{
    struct actor actor;

    open_actor(&actor, SHELL("echo hello"));
    actor.free_in_exited = true;
    for (int i = 0; i < 100; i++) {
        tell(&actor, "s");
        expect(&actor, "OK");
        expect(&actor, "hello");
        expect(&actor, "(exited)");
    }
    tell(&actor, "f");
    expect(&actor, "(freed, 0 descriptors more)");
    close_actor(&actor);
}
