/* SPDX-License-Identifier: MPL-2.0 */
/* child_find: finds processes by the mark in their environment, ends and reaps them.
 *
 * Any thread; blocks for as long as the kernel takes to end what was killed, up to the caller's limit.  What cannot be
 * read (another user's processes) is passed over; so are zombies, whose environment is empty. */
#include "transport/child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ENVIRON_MAX = 4 << 20,    /* bytes read of an environment */
    STARTING_TRIES = 20,      /* looks at a process that seems to start a program */
    KERNEL_THREAD = 0x200000, /* PF_KTHREAD */
    ROUND_MAX = 256           /* processes ended at a time, each with a descriptor */
};

struct found {
    pid_t pid;
    int pidfd;
};

/* ---- owned children ---------------------------------------------------------------------------------------------- */

/* Waiting is per process, so this list is too: a reaper must not take the exit status of a child that has an owner. */
static pthread_mutex_t owned_lock = PTHREAD_MUTEX_INITIALIZER;
static struct owned *owned_first;

void
child_own_begin(void)
{
    pthread_mutex_lock(&owned_lock);
}

void
child_own_end(struct owned *owned)
{
    if (owned) {
        owned->next = owned_first;
        owned_first = owned;
    }
    pthread_mutex_unlock(&owned_lock);
}

static bool
is_owned(pid_t pid)
{
    const struct owned *owned = owned_first;

    while (owned && owned->pid != pid)
        owned = owned->next;
    return owned != NULL;
}

void
child_disown(struct owned *owned)
{
    struct owned **place = &owned_first;

    pthread_mutex_lock(&owned_lock);
    while (waitpid(-owned->pid, NULL, WNOHANG) > 0) /* it leads its group, so it is among them */
        continue;
    while (*place != owned)
        place = &(*place)->next;
    *place = owned->next;
    pthread_mutex_unlock(&owned_lock);
}

void
child_reap(pid_t pid)
{
    pthread_mutex_lock(&owned_lock);
    if (!is_owned(pid))
        (void)waitpid(pid, NULL, WNOHANG); /* fails when it is not our child */
    pthread_mutex_unlock(&owned_lock);
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

/* The content of /proc/<pid>/<name>; false when it cannot be read. */
static bool
read_proc(pid_t pid, const char *name, struct muster_buf *content)
{
    char path[64];
    ssize_t got;
    int fd;

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return false;
    muster_buf_clear(content);
    do {
        got = read(fd, muster_buf_room(content, 16384), 16384);
        if (got > 0)
            content->size += (size_t)got;
    } while (got > 0 && content->size < ENVIRON_MAX);
    close(fd);
    return got != -1;
}

/* Does an entry of the environment start with `entry`, and end there when `exact`? */
static bool
has_entry(const struct muster_buf *environ_block, const char *entry, bool exact)
{
    size_t size = strlen(entry);
    const char *at = environ_block->data;
    const char *end = at + environ_block->size;

    while (at && (at = memmem(at, (size_t)(end - at), entry, size))) {
        bool starts = at == environ_block->data || at[-1] == '\0';

        at += size;
        if (starts && (!exact || at == end || *at == '\0'))
            return true;
    }
    return false;
}

struct state {
    char letter; /* 'Z': a zombie */
    int parent;
    unsigned flags; /* the kernel's PF_... */
};

/* After the name, which may hold anything, stand the state, the parent and four numbers that do not matter here. */
static bool
read_state(pid_t pid, struct muster_buf *scratch, struct state *out_state)
{
    const char *after;

    if (!read_proc(pid, "stat", scratch) || scratch->size == 0)
        return false;
    muster_buf_add(scratch, "", 1);
    after = strrchr(scratch->data, ')');
    return after &&
           sscanf(after, ") %c %d %*d %*d %*d %*d %u", &out_state->letter, &out_state->parent, &out_state->flags) == 3;
}

/* An environment is empty for a zombie, for a kernel thread, and for a moment while a program starts another one. */
static bool
may_be_starting(pid_t pid, struct muster_buf *scratch)
{
    struct state state;

    return read_state(pid, scratch, &state) && state.letter != 'Z' && state.letter != 'X' &&
           !(state.flags & KERNEL_THREAD);
}

static bool
is_marked(pid_t pid, const char *entry, bool exact, struct muster_buf *scratch)
{
    for (int tries = 0; tries < STARTING_TRIES; tries++) {
        if (!read_proc(pid, "environ", scratch))
            return false;
        if (scratch->size > 0)
            return has_entry(scratch, entry, exact);
        if (!may_be_starting(pid, scratch))
            return false;
        sched_yield();
    }
    return false; /* it has none */
}

/* The next process in /proc, 0 at the end. */
static pid_t
next_process(DIR *proc)
{
    struct dirent *entry;

    while ((entry = readdir(proc))) {
        int pid = atoi(entry->d_name);

        if (pid > 0)
            return pid;
    }
    return 0;
}

/* Look once at every process.  The environment is read again once the process is held by a descriptor: its number may
 * have passed to another one between looking and killing. */
static size_t
find_marked(const char *entry, bool exact, struct found *found)
{
    DIR *proc = opendir("/proc");
    struct muster_buf scratch = {0};
    size_t count = 0;
    pid_t pid;

    while (proc && count < ROUND_MAX && (pid = next_process(proc))) {
        int pidfd;

        if (pid == 1 || pid == getpid() || !is_marked(pid, entry, exact, &scratch))
            continue;
        pidfd = child_pidfd(pid);
        if (pidfd == -1)
            continue;
        if (is_marked(pid, entry, exact, &scratch))
            found[count++] = (struct found){.pid = pid, .pidfd = pidfd};
        else
            close(pidfd);
    }
    if (proc)
        closedir(proc);
    muster_buf_free(&scratch);
    return count;
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static int64_t
uptime_ms(void)
{
    return muster_uptime_ns() / 1000000;
}

bool
child_wait_end(int pidfd, int64_t limit_ms)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};
    int64_t until_ms = uptime_ms() + limit_ms;
    int ready;

    do {
        int64_t left_ms = until_ms - uptime_ms();

        ready = poll(&fd, 1, left_ms > 0 ? (int)(left_ms < INT32_MAX ? left_ms : INT32_MAX) : 0);
    } while (ready == -1 && errno == EINTR);
    return ready > 0;
}

/* Kill all of them before waiting for any, and reap when all have ended: then those whose parents were among them have
 * become ours. */
static void
end_found(const struct found *found, size_t count, int64_t until_ms)
{
    for (size_t i = 0; i < count; i++)
        (void)syscall(SYS_pidfd_send_signal, found[i].pidfd, SIGKILL, NULL, 0); /* it may have ended */
    for (size_t i = 0; i < count; i++) {
        (void)child_wait_end(found[i].pidfd, until_ms - uptime_ms());
        close(found[i].pidfd);
    }
    for (size_t i = 0; i < count; i++)
        child_reap(found[i].pid);
}

size_t
child_kill_marked(const char *mark, bool exact, int64_t limit_ms)
{
    struct found *found = muster_alloc(ROUND_MAX * sizeof *found);
    struct muster_buf entry = {0};
    int64_t until_ms = uptime_ms() + limit_ms;
    size_t total = 0, count;

    muster_buf_printf(&entry, CHILD_VARIABLE "%s", mark);
    do {
        count = find_marked(entry.data, exact, found);
        end_found(found, count, until_ms);
        total += count;
    } while (count > 0 && uptime_ms() < until_ms);
    muster_buf_free(&entry);
    free(found);
    return total;
}

size_t
muster_children_end(const char *mark, int64_t limit_ms)
{
    return child_kill_marked(mark, false, limit_ms);
}

/* ---- reaping ----------------------------------------------------------------------------------------------------- */

void
muster_children_adopt(void)
{
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1); /* Linux 3.4 */
}

static bool
is_our_zombie(pid_t pid, struct muster_buf *scratch)
{
    struct state state;

    return read_state(pid, scratch, &state) && state.letter == 'Z' && state.parent == getpid();
}

/* waitid names only one of the processes that have ended.  If that one has an owner, look for the others in /proc. */
void
muster_children_reap(void)
{
    struct muster_buf scratch = {0};
    siginfo_t info = {0};
    DIR *proc;
    pid_t pid, last = 0;

    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0 && info.si_pid != last) {
        last = info.si_pid;
        child_reap(last);
        info.si_pid = 0;
    }
    if (last == 0 || info.si_pid != last)
        return;
    proc = opendir("/proc");
    while (proc && (pid = next_process(proc))) {
        if (is_our_zombie(pid, &scratch))
            child_reap(pid);
    }
    if (proc)
        closedir(proc);
    muster_buf_free(&scratch);
}
