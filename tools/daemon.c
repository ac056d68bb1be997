/* SPDX-License-Identifier: MPL-2.0 */
/* daemon: signals and the end of programs that run until one comes.  The main thread. */
#include "tools/daemon.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS 1000
#define LARGE_BYTES (256 << 10)

/* The drain, on a thread of its own so that the main thread still hears signals. */
struct draining {
    const struct daemon *daemon;
    atomic_bool done;
};

static void
block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1); /* our own: the drain is over */
    sigaddset(set, SIGPIPE);
    sigaddset(set, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    sigdelset(set, SIGPIPE); /* these two are never waited for: a write that fails is an error and nothing more */
    sigdelset(set, SIGXFSZ);
}

/* Every connection and agent takes descriptors; the soft limit is often only 1024. */
static void
raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        perror("muster: cannot raise the limit of open files, going on");
}

/* Left to itself, malloc takes the first large answer that was freed as a sign to keep all large memory, in an arena a
 * thread: 750 MB after fifty answers of 15 MB, where this leaves 60. */
static void
give_memory_back(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, LARGE_BYTES);
}

void
daemon_prepare(sigset_t *out_set)
{
    block_signals(out_set);
    raise_descriptors();
    give_memory_back();
}

bool
daemon_ends(const sigset_t *set, int64_t timeout_ms)
{
    const struct timespec pause = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000L};
    int signal = sigtimedwait(set, NULL, &pause);

    if (signal == SIGHUP)
        fputs("muster: reload is not supported; restart\n", stderr);
    return signal == SIGINT || signal == SIGTERM;
}

static void *
run_drain(void *arg)
{
    struct draining *draining = arg;

    draining->daemon->drain(draining->daemon->what);
    atomic_store(&draining->done, true);
    kill(getpid(), SIGUSR1);
    return NULL;
}

void
daemon_drain(const struct daemon *daemon, const sigset_t *set)
{
    struct draining draining = {.daemon = daemon};
    pthread_t thread;

    if (pthread_create(&thread, NULL, run_drain, &draining) != 0) {
        daemon->hurry(daemon->what);
        return;
    }
    while (!atomic_load(&draining.done))
        if (daemon_ends(set, LOOK_MS))
            daemon->hurry(daemon->what);
    pthread_join(thread, NULL);
}
