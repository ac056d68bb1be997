/* SPDX-License-Identifier: MPL-2.0 */
/* When a thread that finds its mailbox empty lets others run before it sleeps.
 *
 * Under load the message it waits for is often made by a thread that only waits for a processor.  To let that one run
 * (sched_yield) and look again costs less than to sleep and be woken up: a status answer at 64 connections takes 40 %
 * less processor time, and commits hold more jobs.  But where other programs compute, they get the processor instead,
 * for milliseconds; so it is done only while they leave most of it to us.  Any thread. */
#ifndef TRANSPORT_PACE_H
#define TRANSPORT_PACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PACE_SAMPLE_NS INT64_C(200000000) /* between two looks at what others do */
#define PACE_OTHERS_MOST 40               /* percent of all processors */

/* Zeroed: nothing is known, so nobody yields. */
struct pace {
    _Atomic int64_t due_ns; /* the next look */
    atomic_bool yields;
    /* at the last look, by whoever took it */
    int64_t busy, total; /* of all processors since the boot, in ticks of which a second has `ticks` */
    int64_t own_us;      /* this process on all of them */
};

/* Let others run, if that is wise now. */
void pace_yield(struct pace *pace);

/* Take a look: `stat` is the text of /proc/stat, with `ticks` a second; `own_us` the processor time of this process. */
void pace_look(struct pace *pace, const char *stat, int64_t ticks, int64_t own_us);

#endif
