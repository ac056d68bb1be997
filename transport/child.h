/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of child processes, for child.c, child_spawn.c and child_find.c.  Any thread unless noted. */
#ifndef MUSTER_TRANSPORT_CHILD_H
#define MUSTER_TRANSPORT_CHILD_H

#include "transport/muster_child.h"

#define CHILD_VARIABLE "MUSTER_CHILD="

enum { CHILD_MARK_MAX = 127 };

/* A process that was just started, and our ends of its pipes (nonblocking). */
struct spawned {
    pid_t pid;
    int pidfd;
    int in;
    int out;
    int err;
};

/* Start a process.  On failure `problem` says why and nothing is left open. */
muster_err child_spawn(const struct muster_child_spec *spec, char *problem, size_t problem_size,
                       struct spawned *out_spawned);

/* The direct children that somebody here waits for.  Between child_own_begin and child_own_end no process is reaped by
 * child_reap, so that a child can be started and entered. */
struct owned {
    pid_t pid;
    struct owned *next;
};
void child_own_begin(void);
void child_own_end(struct owned *owned); /* NULL: it was not started */
/* Reap the process and what of its group is ours, and forget it. */
void child_disown(struct owned *owned);
/* Reap one process if it has ended, is our child and nobody owns it. */
void child_reap(pid_t pid);

/* SIGKILL what carries the mark (`exact`) or a mark that starts so, wait for its end and look again, until nothing is
 * found or `limit_ms` has passed.  Returns how many were found. */
size_t child_kill_marked(const char *mark, bool exact, int64_t limit_ms);
/* Wait until the process behind the descriptor has ended. */
bool child_wait_end(int pidfd, int64_t limit_ms);
int child_pidfd(pid_t pid);

#endif
