/* SPDX-License-Identifier: MPL-2.0 */
/* door: the life of the sockets for ZeroMQ clients of other processes.  The loop's thread.  What can fail: the start.
 *
 * A socket's descriptor only tells that something may have changed since it was last looked at, so the pump, which runs
 * after every batch of the loop, reads each socket until nothing is left or its share of the round is used up. */
#include "transport/door.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/numbers.h"

enum {
    ROUND = 128,  /* messages of one socket in one round */
    LAST_MS = 100 /* that the last answers have to leave */
};

/* ---- rounds ------------------------------------------------------------------------------------------------------ */

static void
on_round(void *arg)
{
    ((struct muster_door *)arg)->timer = 0; /* the pump follows */
}

void
muster_door_pump(struct muster_door *door)
{
    bool more = true;
    int i;

    for (i = 0; more && i < ROUND; i++) {
        while (door_watch_one(door, &door->commands) || door_watch_one(door, &door->events))
            continue; /* all of it first, so that whoever is let in was counted */
        more = door_let_in_one(door);
        more = door_take_message(door) || more;
        more = door_take_subscription(door) || more;
    }
    if (more && door->timer == 0)
        door->timer = muster_loop_timer(door->loop, 0, on_round, door);
}

struct muster_door_counts
muster_door_counts(const struct muster_door *door)
{
    struct muster_door_counts counts = door->counts;

    counts.clients = door->commands.clients + door->events.clients;
    return counts;
}

/* ---- birth and death --------------------------------------------------------------------------------------------- */

static void
way_init(struct way *way, const char *name, int type, const char *endpoint, bool curve)
{
    *way = (struct way){.name = name,
                        .type = type,
                        .endpoint = endpoint[0] ? muster_strdup(endpoint) : NULL,
                        .curve = curve,
                        .fd = -1,
                        .monitor_fd = -1};
}

muster_err
muster_door_open(struct muster_loop *loop, const struct muster_door_spec *spec, const struct muster_door_hooks *hooks,
                 void *arg, struct muster_door **out_door, char *problem, size_t problem_size)
{
    struct muster_door *door = muster_alloc(sizeof *door);
    muster_err err = MUSTER_OK;

    *door = (struct muster_door){.loop = loop, .spec = *spec, .hooks = hooks, .arg = arg, .unread = numbers_new()};
    way_init(&door->commands, "commands", ZMQ_ROUTER, spec->commands, spec->commands_curve);
    way_init(&door->events, "events", ZMQ_XPUB, spec->events, spec->events_curve);
    if (!door_begin_letting_in(door)) {
        snprintf(problem, problem_size, "bus: no sockets can be had: %s", zmq_strerror(errno));
        err = MUSTER_OVERLOADED;
    }
    if (!err && door->commands.endpoint)
        err = door_way_begin(door, &door->commands, problem, problem_size);
    if (!err && door->events.endpoint)
        err = door_way_begin(door, &door->events, problem, problem_size);
    if (err)
        muster_door_close(&door);
    else
        *out_door = door;
    return err;
}

void
muster_door_close(struct muster_door **door_p)
{
    struct muster_door *door = *door_p;

    if (door == NULL)
        return;
    muster_loop_timer_end(door->loop, door->timer);
    muster_loop_timer_end(door->loop, door->reset_timer);
    if (door->commands.socket)
        door_set_int(door->commands.socket, ZMQ_LINGER, LAST_MS);
    door_way_end(door, &door->commands);
    door_way_end(door, &door->events);
    door_end_socket(door, &door->zap, door->zap_fd);
    while (door->context && zmq_ctx_term(door->context) == -1 && errno == EINTR)
        continue;
    door_commands_free(door);
    free(door->outcasts);
    explicit_bzero(&door->spec, sizeof door->spec);
    free(door->commands.endpoint);
    free(door->events.endpoint);
    free(door);
    *door_p = NULL;
}
