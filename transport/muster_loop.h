/* SPDX-License-Identifier: MPL-2.0 */
/* A thread with a mailbox, timers and descriptors.
 *
 * muster_runner_start returns when `begin` has run on the new thread, muster_runner_stop when `end` has.  All hooks and
 * callbacks run on that thread and must not block.  Loop functions are for that thread only. */
#ifndef MUSTER_LOOP_H
#define MUSTER_LOOP_H

#include <stdbool.h>

#include "transport/muster_mail.h"

struct muster_loop;
struct muster_runner;

struct muster_runner_hooks {
    /* Set up; an error makes muster_runner_start fail with it. */
    muster_err (*begin)(void *arg, struct muster_loop *loop);
    /* One message arrived; `data` is valid for the call. */
    void (*frame)(void *arg, const void *data, size_t size);
    /* After a batch of messages, timers or descriptors was handled.  May be NULL. */
    void (*idle)(void *arg);
    /* Last call.  May be NULL. */
    void (*end)(void *arg);
    /* Messages in a batch, at most; 0: MUSTER_BATCH. */
    size_t batch;
};

#define MUSTER_BATCH 64 /* messages handled before timers and descriptors are looked at */

/* The calling thread takes no signals from now on, nor do those it starts: they are the program's, and EPIPE says what
 * SIGPIPE would. */
void muster_signals_block(void);

/* Start the thread with mailbox `address`.  `hooks` and `arg` are borrowed until stop. */
muster_err muster_runner_start(struct muster_bus *bus, const char *address, size_t limit,
                               const struct muster_runner_hooks *hooks, void *arg, struct muster_runner **out_runner);
/* Have it handle what its mailbox holds now, end, and wait for it.  Not from its own thread. */
void muster_runner_stop(struct muster_runner **runner_p);

struct muster_post *muster_loop_post(struct muster_loop *loop);
/* Unix milliseconds.  Any thread. */
int64_t muster_clock_ms(void);
/* Nanoseconds of a clock that is never set and stands still while the machine sleeps: for spans.  Any thread. */
int64_t muster_uptime_ns(void);

/* Call `fire` once after `delay_ms`.  Returns a number for muster_loop_timer_end, never 0. */
int muster_loop_timer(struct muster_loop *loop, int64_t delay_ms, void (*fire)(void *arg), void *arg);
/* Forget a timer; one that has fired already is ignored, 0 too. */
void muster_loop_timer_end(struct muster_loop *loop, int timer);

enum { MUSTER_WATCH_READ = 1, MUSTER_WATCH_WRITE = 2 };
/* Call `ready` whenever the descriptor can be read or written, has ended or failed.  One watch a descriptor; a second
 * call replaces the first. */
void muster_loop_watch(struct muster_loop *loop, int fd, int events, void (*ready)(void *arg, int fd, int events),
                       void *arg);
void muster_loop_unwatch(struct muster_loop *loop, int fd);

#endif
