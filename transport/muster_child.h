/* SPDX-License-Identifier: MPL-2.0 */
/* Child processes on a loop: pipes, lines, exit, and an end that leaves nothing behind.
 *
 * A child gets a session and process group of its own, three pipes, no other descriptor, exactly the environment it was
 * given, and the variable MUSTER_CHILD=<mark>, which its descendants inherit.  Descendants that left the group (tools
 * of agents do) are found by that mark in /proc/<pid>/environ.  Linux only.  All calls on the loop's thread unless
 * noted. */
#ifndef MUSTER_CHILD_H
#define MUSTER_CHILD_H

#include <sys/types.h>

#include "transport/muster_loop.h"

struct muster_child;

struct muster_child_spec {
    const char *const *argv; /* ends with NULL; argv[0] is looked up in the PATH of `env` */
    const char *const *env;  /* "NAME=value", ends with NULL; MUSTER_CHILD is added */
    const char *directory;   /* working directory */
    const char *mark;        /* names this child and its descendants; at most 127 characters */
    size_t max_line;         /* bytes; a longer line of output ends the child, `overlong` is called */
    size_t stderr_kept;      /* last bytes of standard error kept */
    size_t max_input;        /* bytes of input that may wait for the child to read them */
};

struct muster_child_hooks {
    /* One line of standard output, without its newline, NUL-terminated; also the rest before the end of output. */
    void (*line)(void *arg, const char *line, size_t size);
    /* A line was longer than max_line; the rest of the output is thrown away.  May be NULL. */
    void (*overlong)(void *arg);
    /* The process has ended and its output is read to the end, or one second has passed since (a descendant holds the
     * pipe).  `status` as from waitpid.  Last call; muster_child_free may be called inside. */
    void (*exited)(void *arg, int status);
};

/* Start it.  On failure `problem` says why in one sentence ("claude: no such program in PATH ..."): MUSTER_NOT_FOUND
 * when there is no such program or directory or it cannot be executed, MUSTER_PROCESS_ERROR otherwise.  `spec` is
 * borrowed for the call. */
muster_err muster_child_start(struct muster_loop *loop, const struct muster_child_spec *spec,
                              const struct muster_child_hooks *hooks, void *arg, char *problem, size_t problem_size,
                              struct muster_child **out_child);
/* Queue bytes for standard input.  MUSTER_OVERLOADED: max_input would be exceeded, nothing was queued; MUSTER_GONE: the
 * child closed its input. */
muster_err muster_child_write(struct muster_child *child, const void *data, size_t size);
/* End of input, once what is queued has been read. */
void muster_child_close_input(struct muster_child *child);
/* To the whole process group. */
void muster_child_signal(struct muster_child *child, int signal);
pid_t muster_child_pid(const struct muster_child *child);
/* Last bytes of standard error, cleaned to UTF-8; valid until the child is freed or says more. */
const char *muster_child_last_words(struct muster_child *child);
/* SIGKILL to the group and to every process with its mark, reap them, close the pipes.  `exited` is not called. */
void muster_child_free(struct muster_child **child_p);

/* SIGKILL every process, other than this one, whose MUSTER_CHILD starts with `mark`, until none is left or `limit_ms`
 * has passed.  Returns how many were found.  Any thread; blocks. */
size_t muster_children_end(const char *mark, int64_t limit_ms);
/* Become the parent of orphaned descendants (PR_SET_CHILD_SUBREAPER).  Any thread. */
void muster_children_adopt(void);
/* Reap adopted processes that have ended; a child of muster_child_start is left to its owner.  Any thread.  Only for
 * programs whose children are all ours. */
void muster_children_reap(void);

#endif
