/* SPDX-License-Identifier: MPL-2.0 */
/* Ending and reaping processes that nobody holds: what an earlier run left behind, and what was adopted. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transport/muster_child.h"

/* Run a shell script with that environment; returns when it wrote its first line, which is copied to `line`. */
static pid_t
run_script(const char *script, char *mark, char *line, size_t size)
{
    char *const env[] = {(char[]){"PATH=/usr/bin:/bin"}, mark, NULL};
    char *const argv[] = {(char[]){"sh"}, (char[]){"-c"}, strdup(script), NULL};
    FILE *stream;
    int fds[2];
    pid_t pid;

    cr_assert_eq(pipe(fds), 0);
    pid = fork();
    if (pid == 0) {
        dup2(fds[1], 1);
        close(fds[0]);
        close(fds[1]);
        execve("/bin/sh", argv, env);
        _exit(127);
    }
    free(argv[2]);
    close(fds[1]);
    stream = fdopen(fds[0], "r");
    cr_assert_not_null(fgets(line, (int)size, stream));
    fclose(stream);
    return pid;
}

static int
hold(pid_t pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

    cr_assert_neq(pidfd, -1);
    return pidfd;
}

static bool
has_ended(int pidfd, int limit_ms)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};

    return poll(&fd, 1, limit_ms) == 1;
}

Test(orphans, all_whose_mark_starts_so_are_ended)
{
    char first_mark[] = "MUSTER_CHILD=orphans-1-backend", second_mark[] = "MUSTER_CHILD=orphans-1-frontend";
    char other_mark[] = "MUSTER_CHILD=orphans-2-backend", fake_mark[] = "NOT_MUSTER_CHILD=orphans-1-x";
    char line[64];
    pid_t pids[4];
    int held[4];

    pids[0] = run_script("echo ready; exec sleep 1000", first_mark, line, sizeof line);
    pids[1] = run_script("echo ready; exec sleep 1000", second_mark, line, sizeof line);
    pids[2] = run_script("echo ready; exec sleep 1000", other_mark, line, sizeof line);
    pids[3] = run_script("echo ready; exec sleep 1000", fake_mark, line, sizeof line);
    for (int i = 0; i < 4; i++)
        held[i] = hold(pids[i]);
    cr_assert_eq(muster_children_end("orphans-1-", 10000), 2);
    cr_assert(has_ended(held[0], 0) && has_ended(held[1], 0));
    cr_assert(!has_ended(held[2], 0) && !has_ended(held[3], 0));
    cr_assert_eq(waitpid(pids[0], NULL, WNOHANG), -1, "ours are reaped");
    cr_assert_eq(muster_children_end("orphans-1-", 10000), 0);
    cr_assert_eq(muster_children_end("orphans-2-", 10000), 1);
    cr_assert(has_ended(held[2], 0));
    kill(pids[3], SIGKILL);
    cr_assert_eq(waitpid(pids[3], NULL, 0), pids[3]);
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
}

Test(orphans, whole_trees_are_ended_and_reaped_when_adopted)
{
    char mark[] = "MUSTER_CHILD=orphans-3";
    char line[64];
    pid_t script, orphan;
    int held;

    muster_children_adopt();
    script =
        run_script("(setsid sh -c 'sleep 1000 & sleep 1001 & echo $$; exec sleep 1002' &)", mark, line, sizeof line);
    orphan = atoi(line);
    held = hold(orphan);
    cr_assert_eq(waitpid(script, NULL, 0), script); /* now its descendants are ours */
    cr_assert_eq(muster_children_end("orphans-3", 10000), 3);
    cr_assert(has_ended(held, 0));
    muster_children_reap();
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "no zombie is left");
    cr_assert_eq(errno, ECHILD);
}

Test(orphans, forking_cannot_outrun_the_end)
{
    char mark[] = "MUSTER_CHILD=orphans-4";
    char line[64];

    muster_children_adopt();
    run_script("f() { sh -c 'sleep 1000' & g & }; g() { sleep 0.001; f; }; f; echo ready; wait; sleep 1000", mark, line,
               sizeof line);
    cr_assert_gt(muster_children_end("orphans-4", 20000), 0);
    cr_assert_eq(muster_children_end("orphans-4", 20000), 0);
}

Test(orphans, this_process_is_never_ended)
{
    static const char mark[] = "MUSTER_CHILD=orphans-5";
    static char content[1 << 20];
    FILE *stream;
    size_t size;

    for (char **entry = environ; *entry; entry++) { /* where the kernel looks, setenv does not write */
        if (strlen(*entry) >= strlen(mark)) {
            memcpy(*entry, mark, sizeof mark);
            break;
        }
    }
    stream = fopen("/proc/self/environ", "r");
    size = fread(content, 1, sizeof content, stream);
    fclose(stream);
    cr_assert_not_null(memmem(content, size, mark, sizeof mark), "this process is marked");
    cr_assert_eq(muster_children_end("orphans-5", 1000), 0);
}

/* ---- reaping beside owners --------------------------------------------------------------------------------------- */

struct actor {
    struct muster_bus *bus;
    struct muster_loop *loop;
    struct muster_runner *runner;
    struct muster_post *test;
    struct muster_child *child;
    int status;
};

static void
say(struct actor *actor, const char *text)
{
    struct muster_buf buf = {0};

    muster_buf_str(&buf, text);
    cr_assert_eq(muster_post_send(muster_loop_post(actor->loop), "test", &buf), MUSTER_OK);
}

static void
on_line(void *arg, const char *line, size_t size)
{
    (void)size;
    say(arg, line);
}

static void
on_exited(void *arg, int status)
{
    struct actor *actor = arg;

    actor->status = status;
    say(actor, "(exited)");
}

static muster_err
begin(void *arg, struct muster_loop *loop)
{
    static const char *const env[] = {"PATH=/usr/bin:/bin", NULL};
    static const char *const argv[] = {"sh", "-c", "setsid sh -c 'exit 4' & wait; (sleep 0 &); echo x; exit 5", NULL};
    const struct muster_child_spec spec = {.argv = argv,
                                           .env = env,
                                           .directory = "/",
                                           .mark = "orphans-6",
                                           .max_line = 100,
                                           .stderr_kept = 100,
                                           .max_input = 100};
    const struct muster_child_hooks hooks = {.line = on_line, .exited = on_exited};
    struct actor *actor = arg;
    char problem[200];

    actor->loop = loop;
    return muster_child_start(loop, &spec, &hooks, actor, problem, sizeof problem, &actor->child);
}

static void
on_frame(void *arg, const void *data, size_t size)
{
    (void)arg;
    (void)data;
    (void)size;
}

static void
end(void *arg)
{
    struct actor *actor = arg;

    muster_child_free(&actor->child);
}

static void
expect(struct actor *actor, const char *content)
{
    struct muster_frame frame;

    cr_assert_eq(muster_post_receive(actor->test, 20000, -1, &frame), MUSTER_OK);
    cr_assert(frame.size == strlen(content) && memcmp(frame.data, content, frame.size) == 0);
    muster_frame_free(&frame);
}

Test(orphans, reaping_leaves_owned_children_to_their_owner)
{
    const struct muster_runner_hooks hooks = {.begin = begin, .frame = on_frame, .end = end};
    struct actor actor = {0};
    char mark[] = "MUSTER_CHILD=orphans-7";
    char line[64];
    siginfo_t info;
    pid_t orphan;

    muster_children_adopt();
    actor.bus = muster_bus_new();
    cr_assert_eq(muster_post_open(actor.bus, "test", 100, &actor.test), MUSTER_OK);
    cr_assert_eq(muster_runner_start(actor.bus, "actor", 100, &hooks, &actor, &actor.runner), MUSTER_OK);
    expect(&actor, "x");
    expect(&actor, "(exited)");
    cr_assert(WIFEXITED(actor.status) && WEXITSTATUS(actor.status) == 5);
    orphan = run_script("echo ready", mark, line, sizeof line);
    cr_assert_eq(waitid(P_PID, (id_t)orphan, &info, WEXITED | WNOWAIT), 0);
    muster_children_reap(); /* the owned one, which ended first, is in the way of the other */
    cr_assert_eq(waitpid(orphan, NULL, WNOHANG), -1);
    cr_assert_eq(waitid(P_PID, (id_t)muster_child_pid(actor.child), &info, WEXITED | WNOWAIT | WNOHANG), 0,
                 "the owned one is still there");
    muster_runner_stop(&actor.runner);
    muster_post_close(&actor.test);
    muster_bus_free(&actor.bus);
    muster_children_reap();
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "no zombie is left");
}
