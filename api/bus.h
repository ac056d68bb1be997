/* SPDX-License-Identifier: MPL-2.0 */
/* The way in for ZeroMQ clients: commands and events, see muster_door.h and schemas/public.def.
 *
 * One thread with mailbox "bus".  Who starts and stops it is one thread too. */
#ifndef BUS_H
#define BUS_H

#include "actors/muster_actor.h"
#include "transport/muster_door.h"

#define BUS_BOARD "bus" /* where the view stands while it is on */

struct bus;

struct bus_view {
    char server_key[MUSTER_Z85]; /* public */
    struct muster_door_counts counts;
    uint64_t broken;  /* messages that were no envelope */
    uint64_t failed;  /* requests answered with `failed` */
    uint64_t answers; /* others */
    uint64_t published;
    int64_t pending; /* requests at work */
};

/* *out_bus is NULL when options say off.  MUSTER_CONFLICT: an endpoint cannot be had; `problem` says which. */
muster_err bus_start(const struct muster_house *house, struct bus **out_bus, char *problem, size_t problem_size);
/* From now on new work is refused with SHUTTING_DOWN; reads and events go on. */
void bus_drain(struct bus *bus);
void bus_stop(struct bus **bus_p);

#endif
