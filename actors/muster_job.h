/* SPDX-License-Identifier: MPL-2.0 */
/* What follows from a job's state and times.  Any thread.  Nothing fails. */
#ifndef MUSTER_JOB_H
#define MUSTER_JOB_H

#include "schemas/muster_schema.h"

/* Has a job in that state come to its end? */
static inline bool
muster_job_ended(enum job_state state)
{
    return state == job_state_COMPLETED || state == job_state_FAILED || state == job_state_CANCELLED;
}

/* Ms of its last attempt, at least 1; 0: it never started, or has not ended. */
static inline int64_t
muster_job_duration(int64_t started_ms, int64_t finished_ms)
{
    if (started_ms == 0 || finished_ms == 0)
        return 0;
    return finished_ms > started_ms ? finished_ms - started_ms : 1; /* the clock may be set back */
}

#endif
