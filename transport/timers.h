/* SPDX-License-Identifier: MPL-2.0 */
/* Timers of one loop: a heap by due time.  One thread; nothing here fails. */
#ifndef MUSTER_TRANSPORT_TIMERS_H
#define MUSTER_TRANSPORT_TIMERS_H

#include <stdint.h>

struct timers;

struct timers *timers_new(void);
void timers_free(struct timers **timers_p);
/* Call `fire` once at `due_ns`.  Never returns 0. */
int timers_add(struct timers *timers, int64_t due_ns, void (*fire)(void *arg), void *arg);
/* Forget a timer, if it is still there. */
void timers_end(struct timers *timers, int id);
/* When the next one is due; INT64_MAX: there is none. */
int64_t timers_next_ns(const struct timers *timers);
/* Fire what is due, in order of due time.  A timer that a callback adds waits for the next call, one that it ends does
 * not fire. */
void timers_fire(struct timers *timers, int64_t now_ns);

#endif
