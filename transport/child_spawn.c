/* SPDX-License-Identifier: MPL-2.0 */
/* child_spawn: starts a process with three pipes, an environment and a session of its own.
 *
 * posix_spawn, since fork of a large process blocks it for tens of milliseconds.  Any thread.  Fails when the program
 * or directory is not there and when the system is out of processes or descriptors. */
#include "transport/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of each pipe the first descriptor is read and the second written. */
struct pipes {
    int in[2];
    int out[2];
    int err[2];
};

/* ---- which program ----------------------------------------------------------------------------------------------- */

/* The value of a variable in `env`, NULL when it is not there. */
static const char *
value_of(const char *const *env, const char *name)
{
    size_t size = strlen(name);

    for (; *env; env++) {
        if (strncmp(*env, name, size) == 0 && (*env)[size] == '=')
            return *env + size + 1;
    }
    return NULL;
}

/* 0, or why the path, counted from the directory, is no program: ENOENT or EACCES. */
static int
check_program(const char *directory, const char *path)
{
    struct muster_buf full = {0};
    struct stat status;
    int problem = 0;

    if (path[0] != '/')
        muster_buf_printf(&full, "%s/", directory);
    muster_buf_str(&full, path);
    if (stat(full.data, &status) == -1)
        problem = errno == EACCES ? EACCES : ENOENT;
    else if (!S_ISREG(status.st_mode) || access(full.data, X_OK) == -1)
        problem = EACCES;
    muster_buf_free(&full);
    return problem;
}

/* Look `name` up in the colon-separated `path`; an empty entry is the working directory. */
static int
search(const char *directory, const char *path, const char *name, struct muster_buf *out_program)
{
    int problem = ENOENT;
    int found;

    for (const char *end; path; path = *end ? end + 1 : NULL) {
        end = strchrnul(path, ':');
        muster_buf_clear(out_program);
        muster_buf_add(out_program, path, (size_t)(end - path));
        muster_buf_str(out_program, end == path ? "./" : "/");
        muster_buf_str(out_program, name);
        found = check_program(directory, out_program->data);
        if (found == 0)
            return 0;
        if (found == EACCES)
            problem = EACCES; /* unless a later entry has it */
    }
    return problem;
}

/* The path to execute, absolute or counted from the directory of `spec`. */
static muster_err
resolve(const struct muster_child_spec *spec, char *problem, size_t problem_size, struct muster_buf *out_program)
{
    const char *name = spec->argv[0];
    const char *path = value_of(spec->env, "PATH");
    struct stat status;
    int failed;

    if (!path)
        path = "/usr/local/bin:/usr/bin:/bin";
    if (stat(spec->directory, &status) == -1 || !S_ISDIR(status.st_mode)) {
        snprintf(problem, problem_size, "%s: no such directory", spec->directory);
        return MUSTER_NOT_FOUND;
    }
    if (!name || !name[0]) {
        snprintf(problem, problem_size, "the command is empty");
        return MUSTER_NOT_FOUND;
    }
    if (strchr(name, '/')) {
        muster_buf_str(out_program, name);
        failed = check_program(spec->directory, name);
    } else {
        failed = search(spec->directory, path, name, out_program);
    }
    if (failed == ENOENT && strchr(name, '/'))
        snprintf(problem, problem_size, "%s: no such program", name);
    else if (failed == ENOENT)
        snprintf(problem, problem_size, "%s: no such program in PATH (%s)", name, path);
    else if (failed)
        snprintf(problem, problem_size, "%s: not an executable file", name);
    return failed ? MUSTER_NOT_FOUND : MUSTER_OK;
}

/* ---- pipes ------------------------------------------------------------------------------------------------------- */

static void
close_fd(int *fd_p)
{
    if (*fd_p != -1)
        close(*fd_p);
    *fd_p = -1;
}

/* A pipe none of whose ends is one of the child's standard descriptors, so that placing one does not cover another. */
static bool
open_pipe(int fds[2])
{
    if (pipe2(fds, O_CLOEXEC) == -1)
        return false;
    for (int i = 0; i < 2; i++) {
        int low = fds[i];

        if (low > 2)
            continue;
        fds[i] = fcntl(low, F_DUPFD_CLOEXEC, 3);
        close(low);
        if (fds[i] == -1)
            return false;
    }
    return true;
}

static bool
open_pipes(struct pipes *pipes)
{
    return open_pipe(pipes->in) && open_pipe(pipes->out) && open_pipe(pipes->err) &&
           fcntl(pipes->in[1], F_SETFL, O_NONBLOCK) == 0 && fcntl(pipes->out[0], F_SETFL, O_NONBLOCK) == 0 &&
           fcntl(pipes->err[0], F_SETFL, O_NONBLOCK) == 0;
}

static void
close_pipes(struct pipes *pipes)
{
    for (int i = 0; i < 2; i++) {
        close_fd(&pipes->in[i]);
        close_fd(&pipes->out[i]);
        close_fd(&pipes->err[i]);
    }
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

/* The environment of `spec` with our mark in front, and no other mark.  Freed with free(). */
static char **
environment(const struct muster_child_spec *spec, char *mark)
{
    size_t count = 0, used = 0;
    char **env;

    while (spec->env[count])
        count++;
    env = muster_alloc((count + 2) * sizeof(char *));
    env[used++] = mark;
    for (size_t i = 0; i < count; i++) {
        if (strncmp(spec->env[i], CHILD_VARIABLE, strlen(CHILD_VARIABLE)) != 0)
            env[used++] = (char *)(uintptr_t)spec->env[i]; /* posix_spawn changes nothing */
    }
    return env;
}

/* A session of its own, default signals, our ends of the pipes closed; paths count from the directory. */
static int
spawn(const struct muster_child_spec *spec, const char *program, const struct pipes *pipes, pid_t *out_pid)
{
    char mark[sizeof CHILD_VARIABLE + CHILD_MARK_MAX];
    char **env;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int failed;

    snprintf(mark, sizeof mark, CHILD_VARIABLE "%s", spec->mark);
    env = environment(spec, mark);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipes->in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, pipes->out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, pipes->err[1], 2);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    posix_spawn_file_actions_addchdir_np(&actions, spec->directory);
    failed = posix_spawn(out_pid, program, &actions, &attributes, (char *const *)(uintptr_t)spec->argv, env);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    free(env);
    return failed;
}

int
child_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec */
}

/* Spawn, with no memory dump when it crashes: it would hold the credentials in its environment. */
static int
spawn_observed(const struct muster_child_spec *spec, const char *program, const struct pipes *pipes,
               struct spawned *out_spawned)
{
    const struct rlimit none = {0};
    struct spawned spawned = {.in = pipes->in[1], .out = pipes->out[0], .err = pipes->err[0]};
    int failed = spawn(spec, program, pipes, &spawned.pid);

    if (failed)
        return failed;
    (void)prlimit(spawned.pid, RLIMIT_CORE, &none, NULL); /* it may have ended */
    spawned.pidfd = child_pidfd(spawned.pid);
    if (spawned.pidfd == -1) {
        failed = errno;
        kill(-spawned.pid, SIGKILL);
        (void)waitpid(spawned.pid, NULL, 0);
        return failed;
    }
    *out_spawned = spawned;
    return 0;
}

muster_err
child_spawn(const struct muster_child_spec *spec, char *problem, size_t problem_size, struct spawned *out_spawned)
{
    struct pipes pipes = {{-1, -1}, {-1, -1}, {-1, -1}};
    struct muster_buf program = {0};
    muster_err err;
    int failed;

    if (strlen(spec->mark) > CHILD_MARK_MAX) {
        snprintf(problem, problem_size, "the name of the process is too long");
        return MUSTER_PROCESS_ERROR;
    }
    err = resolve(spec, problem, problem_size, &program);
    if (err)
        goto out;
    failed = open_pipes(&pipes) ? spawn_observed(spec, program.data, &pipes, out_spawned) : errno;
    if (failed) {
        snprintf(problem, problem_size, "%s: could not be started: %s", spec->argv[0], strerror(failed));
        err = MUSTER_PROCESS_ERROR;
        goto out;
    }
    pipes.in[1] = pipes.out[0] = pipes.err[0] = -1; /* handed over */
out:
    close_pipes(&pipes);
    muster_buf_free(&program);
    return err;
}
