/* SPDX-License-Identifier: MPL-2.0 */
/* The link of a worker to its hub: one connection after the other, each attached anew, for as long as the worker lives.
 *
 * It is a thread with the mailbox MUSTER_QUEUE, so the agents and the log of the worker (actors/parcels.c) find it
 * where on a hub the queue is.  What follows may be called by any thread, start and stop by one. */
#ifndef WORKER_LINK_H
#define WORKER_LINK_H

#include "actors/muster_actor.h"
#include "transport/muster_dial.h"

struct worker_link;

/* Borrowed until stop. */
struct worker_link_spec {
    const struct muster_house *house;
    struct muster_dial_spec dial;
    const char *api_key; /* without CURVE */
    const char *name;
    const struct worker_team *teams;
    size_t team_count;
    int64_t park_ms; /* that agents may take to park what they have */
};

/* MUSTER_EXISTS, MUSTER_OVERLOADED. */
muster_err worker_link_start(const struct worker_link_spec *spec, struct worker_link **out_link);
/* What is not acknowledged stays with the parcels.  NULL is accepted. */
void worker_link_stop(struct worker_link **link_p);
/* Wait until it is attached, or refused for a reason that will be the same the next time and was not told by this
 * before, or for `timeout_ms` (-1: for ever): MUSTER_TIMEOUT.  `problem` says what is in the way. */
muster_err worker_link_wait(struct worker_link *link, int64_t timeout_ms, char *problem, size_t problem_size);
/* Was it ever attached, or does it have anything that the hub is to be told? */
bool worker_link_matters(struct worker_link *link);
/* Begin to leave: end what runs, tell everything, go. */
void worker_link_drain(struct worker_link *link);
/* Wait for the end of that, at most `timeout_ms`.  MUSTER_TIMEOUT; else *out_left: the hub knows that we are gone. */
muster_err worker_link_drained(struct worker_link *link, int64_t timeout_ms, bool *out_left);
/* Park at once; the second time: do not wait for the hub. */
void worker_link_hurry(struct worker_link *link);

#endif
