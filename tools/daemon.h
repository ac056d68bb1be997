/* SPDX-License-Identifier: MPL-2.0 */
/* What programs that run until a signal share: signals, descriptors, the end in order.
 *
 * The main thread, before it starts others. */
#ifndef TOOLS_DAEMON_H
#define TOOLS_DAEMON_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* What is run.  `drain` runs on a thread of its own and must return; the others do not wait. */
struct daemon {
    void *what;
    void (*drain)(void *what);
    void (*hurry)(void *what);
};

/* Block the signals that are waited for, raise the limit of open files, and have freed memory given back. */
void daemon_prepare(sigset_t *out_set);
/* Wait for a signal that asks for the end, at most so long; false: none came. */
bool daemon_ends(const sigset_t *set, int64_t timeout_ms);
/* Drain; a further signal has it hurry. */
void daemon_drain(const struct daemon *daemon, const sigset_t *set);

#endif
