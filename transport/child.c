/* SPDX-License-Identifier: MPL-2.0 */
/* child: one child process on a loop: its input queue, its lines, its end.
 *
 * Runs on the loop's thread.  A process that has ended stays a zombie until it is freed, so that neither its number nor
 * its group's can pass to another process while we may still signal them.  Starting and writing can fail; the hooks may
 * free the child, which is why each caller of a hook looks at `freed` before it goes on. */
#include "transport/child.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "schemas/muster_codec.h"

enum {
    READ_SIZE = 65536,   /* bytes taken from a pipe at a time: its usual capacity */
    PIPE_HELD_MS = 1000, /* that output may go on after the process has ended */
    END_LIMIT_MS = 1000, /* that killed processes may take to end */
    LAST_READS_MAX = 64  /* pieces read of what was left in a pipe */
};

struct muster_child {
    struct muster_loop *loop; /* borrowed */
    struct muster_child_hooks hooks;
    void *arg;
    char *mark;
    size_t max_line;
    size_t max_input;
    size_t stderr_kept;
    struct owned owned;     /* its pid is ours */
    struct spawned process; /* a descriptor is -1 once closed */
    struct muster_buf input;
    size_t input_sent; /* bytes at the front of `input` that the child has */
    bool input_ending; /* close it when everything was sent */
    struct muster_buf output;
    size_t searched; /* bytes at the front of `output` without a newline */
    bool discarding; /* a line was too long */
    struct muster_buf errors;
    struct muster_buf words; /* what muster_child_last_words gave out */
    bool ended;              /* the process; `status` is set */
    bool reported;           /* `exited` was called */
    int status;
    int held_timer; /* runs when the process has ended and its output has not */
    int busy;       /* hooks and readers on the stack */
    bool freed;
};

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

static void
hang_up(struct muster_child *child, int *fd_p)
{
    if (*fd_p == -1)
        return;
    muster_loop_unwatch(child->loop, *fd_p);
    close(*fd_p);
    *fd_p = -1;
}

static void
enter(struct muster_child *child)
{
    child->busy++;
}

/* The last one out of a freed child gives back its memory.  Returns whether the child is still there. */
static bool
leave(struct muster_child *child)
{
    bool there = !child->freed;

    if (--child->busy > 0 || there)
        return there;
    muster_buf_free(&child->input);
    muster_buf_free(&child->output);
    muster_buf_free(&child->errors);
    muster_buf_free(&child->words);
    free(child->mark);
    free(child);
    return false;
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

static void
refuse_line(struct muster_child *child)
{
    child->discarding = true;
    muster_buf_free(&child->output);
    muster_child_signal(child, SIGKILL);
    if (child->hooks.overlong)
        child->hooks.overlong(child->arg);
}

/* Hand on the complete lines at the front of the buffer.  `child` is entered. */
static void
split_lines(struct muster_child *child)
{
    size_t start = 0;
    char *newline;

    while (!child->freed && !child->discarding) {
        struct muster_buf *output = &child->output;
        size_t left = output->size - child->searched;

        newline = left ? memchr(output->data + child->searched, '\n', left) : NULL;
        child->searched = newline ? (size_t)(newline - output->data) + 1 : output->size;
        if (child->searched - start > child->max_line + (newline ? 1 : 0)) {
            refuse_line(child);
            return;
        }
        if (!newline)
            break;
        *newline = '\0';
        child->hooks.line(child->arg, output->data + start, (size_t)(newline - output->data) - start);
        start = child->searched;
    }
    if (!child->freed && !child->discarding && start > 0) {
        muster_buf_shift(&child->output, start);
        child->searched -= start;
    }
}

/* What stands after the last newline. */
static void
flush_line(struct muster_child *child)
{
    struct muster_buf rest = child->output;

    if (child->freed || child->discarding || rest.size == 0)
        return;
    child->output = (struct muster_buf){0};
    child->searched = 0;
    muster_buf_add(&rest, "", 1);
    child->hooks.line(child->arg, rest.data, rest.size - 1);
    muster_buf_free(&rest);
}

/* Read one piece; false when there is none now.  At the end the descriptor is closed. */
static bool
read_output(struct muster_child *child)
{
    struct muster_buf *output = &child->output;
    ssize_t got;

    if (child->process.out == -1)
        return false;
    got = read(child->process.out, muster_buf_room(output, READ_SIZE), READ_SIZE);
    if (got == -1 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0) {
        hang_up(child, &child->process.out);
        return false;
    }
    if (!child->discarding) {
        output->size += (size_t)got;
        split_lines(child);
    }
    return !child->freed;
}

static bool
read_errors(struct muster_child *child)
{
    struct muster_buf *errors = &child->errors;
    ssize_t got;

    if (child->process.err == -1)
        return false;
    got = read(child->process.err, muster_buf_room(errors, READ_SIZE), READ_SIZE);
    if (got == -1 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0) {
        hang_up(child, &child->process.err);
        return false;
    }
    errors->size += (size_t)got;
    if (errors->size > child->stderr_kept)
        muster_buf_shift(errors, errors->size - child->stderr_kept);
    return true;
}

/* ---- end --------------------------------------------------------------------------------------------------------- */

/* Everything that is still in the pipes, then the last call. */
static void
report(struct muster_child *child)
{
    if (child->reported || child->freed)
        return;
    child->reported = true;
    muster_loop_timer_end(child->loop, child->held_timer);
    child->held_timer = 0;
    for (int i = 0; i < LAST_READS_MAX && read_output(child); i++)
        continue;
    for (int i = 0; i < LAST_READS_MAX && !child->freed && read_errors(child); i++)
        continue;
    flush_line(child);
    if (child->freed)
        return;
    hang_up(child, &child->process.in);
    hang_up(child, &child->process.out);
    hang_up(child, &child->process.err);
    child->hooks.exited(child->arg, child->status);
}

static void
on_held(void *arg)
{
    struct muster_child *child = arg;

    child->held_timer = 0;
    enter(child);
    report(child);
    leave(child);
}

static void
on_output(void *arg, int fd, int events)
{
    struct muster_child *child = arg;

    (void)fd;
    (void)events;
    enter(child);
    read_output(child);
    if (!child->freed && child->process.out == -1) {
        flush_line(child);
        if (child->ended)
            report(child);
    }
    leave(child);
}

static void
on_errors(void *arg, int fd, int events)
{
    (void)fd;
    (void)events;
    read_errors(arg);
}

/* What waitpid would have said, without reaping. */
static int
status_of(const siginfo_t *info)
{
    if (info->si_code == CLD_EXITED)
        return (info->si_status & 0xff) << 8;
    return info->si_status | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

static void
on_end(void *arg, int fd, int events)
{
    struct muster_child *child = arg;
    siginfo_t info = {.si_code = CLD_EXITED, .si_status = 255}; /* when a program ignores SIGCHLD nobody knows */

    (void)fd;
    (void)events;
    if (waitid(P_PID, (id_t)child->process.pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0)
        return; /* not yet */
    child->ended = true;
    child->status = status_of(&info);
    muster_loop_unwatch(child->loop, child->process.pidfd);
    enter(child);
    if (child->process.out == -1)
        report(child);
    else
        child->held_timer = muster_loop_timer(child->loop, PIPE_HELD_MS, on_held, child);
    leave(child);
}

/* ---- input ------------------------------------------------------------------------------------------------------- */

/* Send what the pipe takes now; false when the child closed its end.  The loop's thread blocks SIGPIPE. */
static bool
push_input(struct muster_child *child)
{
    while (child->input_sent < child->input.size) {
        ssize_t sent =
            write(child->process.in, child->input.data + child->input_sent, child->input.size - child->input_sent);

        if (sent == -1 && errno == EINTR)
            continue;
        if (sent == -1 && errno == EAGAIN)
            return true;
        if (sent == -1) {
            hang_up(child, &child->process.in);
            muster_buf_free(&child->input);
            child->input_sent = 0;
            return false;
        }
        child->input_sent += (size_t)sent;
    }
    muster_buf_clear(&child->input);
    child->input_sent = 0;
    return true;
}

static void
on_input(void *arg, int fd, int events)
{
    struct muster_child *child = arg;

    (void)events;
    if (!push_input(child) || child->input.size > 0)
        return;
    if (child->input_ending)
        hang_up(child, &child->process.in);
    else
        muster_loop_unwatch(child->loop, fd);
}

muster_err
muster_child_write(struct muster_child *child, const void *data, size_t size)
{
    size_t waiting = child->input.size - child->input_sent;

    if (child->process.in == -1 || child->input_ending)
        return MUSTER_GONE;
    if (size > child->max_input || waiting > child->max_input - size)
        return MUSTER_OVERLOADED;
    if (child->input_sent > child->input.size / 2) {
        muster_buf_shift(&child->input, child->input_sent);
        child->input_sent = 0;
    }
    muster_buf_add(&child->input, data, size);
    if (waiting > 0)
        return MUSTER_OK; /* being watched already */
    if (!push_input(child))
        return MUSTER_GONE;
    if (child->input.size > 0)
        muster_loop_watch(child->loop, child->process.in, MUSTER_WATCH_WRITE, on_input, child);
    return MUSTER_OK;
}

void
muster_child_close_input(struct muster_child *child)
{
    child->input_ending = true;
    if (child->input.size == 0)
        hang_up(child, &child->process.in);
}

/* ---- start, look, free ------------------------------------------------------------------------------------------- */

static struct muster_child *
child_new(struct muster_loop *loop, const struct muster_child_spec *spec, const struct muster_child_hooks *hooks,
          void *arg)
{
    struct muster_child *child = muster_alloc(sizeof *child);

    child->loop = loop;
    child->hooks = *hooks;
    child->arg = arg;
    child->mark = muster_strdup(spec->mark);
    child->max_line = spec->max_line;
    child->max_input = spec->max_input;
    child->stderr_kept = spec->stderr_kept;
    return child;
}

muster_err
muster_child_start(struct muster_loop *loop, const struct muster_child_spec *spec,
                   const struct muster_child_hooks *hooks, void *arg, char *problem, size_t problem_size,
                   struct muster_child **out_child)
{
    struct spawned process;
    struct muster_child *child = NULL;
    muster_err err;

    child_own_begin();
    err = child_spawn(spec, problem, problem_size, &process);
    if (!err) {
        child = child_new(loop, spec, hooks, arg);
        child->process = process;
        child->owned.pid = process.pid;
    }
    child_own_end(child ? &child->owned : NULL);
    if (err)
        return err;
    muster_loop_watch(loop, process.out, MUSTER_WATCH_READ, on_output, child);
    muster_loop_watch(loop, process.err, MUSTER_WATCH_READ, on_errors, child);
    muster_loop_watch(loop, process.pidfd, MUSTER_WATCH_READ, on_end, child);
    *out_child = child;
    return MUSTER_OK;
}

void
muster_child_signal(struct muster_child *child, int signal)
{
    (void)kill(-child->process.pid, signal); /* fails when the whole group has ended */
}

pid_t
muster_child_pid(const struct muster_child *child)
{
    return child->process.pid;
}

const char *
muster_child_last_words(struct muster_child *child)
{
    size_t start = 0;

    /* The oldest byte kept may lie inside a character. */
    if (child->errors.size == child->stderr_kept) {
        while (start < child->errors.size && start < 3 && ((unsigned char)child->errors.data[start] & 0xc0) == 0x80)
            start++;
    }
    muster_buf_clear(&child->words);
    muster_buf_str(&child->words, "");
    if (child->errors.size > start)
        muster_utf8_clean(&child->words, child->errors.data + start, child->errors.size - start);
    return child->words.data ? child->words.data : "";
}

void
muster_child_free(struct muster_child **child_p)
{
    struct muster_child *child = *child_p;

    *child_p = NULL;
    if (!child)
        return;
    enter(child);
    child->freed = true;
    muster_loop_timer_end(child->loop, child->held_timer);
    muster_child_signal(child, SIGKILL);
    (void)child_kill_marked(child->mark, true, END_LIMIT_MS);
    (void)child_wait_end(child->process.pidfd, END_LIMIT_MS);
    child_disown(&child->owned);
    hang_up(child, &child->process.in);
    hang_up(child, &child->process.out);
    hang_up(child, &child->process.err);
    hang_up(child, &child->process.pidfd);
    leave(child);
}
