/* SPDX-License-Identifier: MPL-2.0 */
/* door_way: the sockets of a door, and its two ways in: what they allow, and who comes and goes.  The loop's thread.
 * What can fail: an endpoint that is taken. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transport/door.h"

enum {
    HANDSHAKE_MS = 10000, /* that a connection has */
    TOPIC_BYTES = 1024,   /* of a subscription, and of the handshake's frames */
    CURVE_EXTRA = 64      /* bytes that CURVE adds to a message */
};

/* ---- sockets ----------------------------------------------------------------------------------------------------- */

void
door_set_int(void *socket, int option, int value)
{
    MUSTER_ASSERT(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

static void
on_ready(void *arg, int fd, int events)
{
    (void)arg; /* the pump follows */
    (void)fd;
    (void)events;
}

int
door_watch(struct muster_door *door, void *socket)
{
    int fd = -1;
    size_t size = sizeof fd;

    MUSTER_ASSERT(zmq_getsockopt(socket, ZMQ_FD, &fd, &size) == 0);
    muster_loop_watch(door->loop, fd, MUSTER_WATCH_READ, on_ready, door);
    return fd;
}

void
door_end_socket(struct muster_door *door, void **socket_p, int fd)
{
    if (*socket_p == NULL)
        return;
    muster_loop_unwatch(door->loop, fd);
    (void)zmq_close(*socket_p);
    *socket_p = NULL;
}

size_t
door_receive(void *socket, zmq_msg_t *parts, size_t room)
{
    size_t count = 0;
    bool more = true;
    zmq_msg_t part;

    while (more) {
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) == -1) {
            zmq_msg_close(&part);
            return count;
        }
        more = zmq_msg_more(&part);
        if (count < room) {
            zmq_msg_init(&parts[count]);
            zmq_msg_move(&parts[count], &part);
        }
        zmq_msg_close(&part);
        count++;
    }
    return count;
}

void
door_let_go(zmq_msg_t *parts, size_t count, size_t room)
{
    size_t i;

    for (i = 0; i < count && i < room; i++)
        zmq_msg_close(&parts[i]);
}

/* ---- ways -------------------------------------------------------------------------------------------------------- */

static void
set_up(struct muster_door *door, struct way *way)
{
    bool events = way == &door->events;
    int64_t max_message = events ? TOPIC_BYTES : door->spec.max_message + CURVE_EXTRA;

    door_set_int(way->socket, ZMQ_LINGER, 0);
    door_set_int(way->socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    door_set_int(way->socket, ZMQ_TCP_KEEPALIVE, 1); /* so that a client whose host has gone is let go of */
    door_set_int(way->socket, ZMQ_TCP_KEEPALIVE_IDLE, 60);
    MUSTER_ASSERT(zmq_setsockopt(way->socket, ZMQ_MAXMSGSIZE, &max_message, sizeof max_message) == 0);
    MUSTER_ASSERT(zmq_setsockopt(way->socket, ZMQ_ZAP_DOMAIN, way->name, strlen(way->name)) == 0);
    if (way->curve) {
        door_set_int(way->socket, ZMQ_CURVE_SERVER, 1);
        MUSTER_ASSERT(zmq_setsockopt(way->socket, ZMQ_CURVE_SECRETKEY, door->spec.secret, MUSTER_CURVE) == 0);
    }
    if (events) {
        door_set_int(way->socket, way->curve ? ZMQ_XPUB_MANUAL : ZMQ_XPUB_VERBOSER, 1);
        door_set_int(way->socket, ZMQ_SNDHWM, (int)door->spec.max_events);
    } else {
        door_set_int(way->socket, ZMQ_ROUTER_MANDATORY, 1);
        door_set_int(way->socket, ZMQ_SNDHWM, 0); /* max_backlog it is */
    }
}

static bool
begin_monitor(struct muster_door *door, struct way *way)
{
    char endpoint[64];

    snprintf(endpoint, sizeof endpoint, "inproc://%s-%llu", way->name, (unsigned long long)++door->monitors);
    way->clients = 0;
    if (zmq_socket_monitor(way->socket, endpoint, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) == -1)
        return false;
    way->monitor = zmq_socket(door->context, ZMQ_PAIR);
    if (way->monitor == NULL)
        return false;
    door_set_int(way->monitor, ZMQ_LINGER, 0);
    door_set_int(way->monitor, ZMQ_RCVHWM, 0); /* libzmq's thread would wait for us */
    way->monitor_fd = door_watch(door, way->monitor);
    return zmq_connect(way->monitor, endpoint) == 0;
}

const char *
door_ipc_path(const struct way *way)
{
    return strncmp(way->endpoint, "ipc://", 6) == 0 ? way->endpoint + 6 : NULL;
}

void
door_way_end(struct muster_door *door, struct way *way)
{
    if (way->socket == NULL)
        return;
    (void)zmq_socket_monitor(way->socket, NULL, 0);
    door_end_socket(door, &way->monitor, way->monitor_fd);
    if (zmq_unbind(way->socket, way->endpoint) == 0 && door_ipc_path(way))
        (void)unlink(door_ipc_path(way));
    door_end_socket(door, &way->socket, way->fd);
    way->clients = 0;
}

muster_err
door_way_begin(struct muster_door *door, struct way *way, char *problem, size_t size)
{
    way->socket = zmq_socket(door->context, way->type);
    if (way->socket) {
        set_up(door, way);
        way->fd = door_watch(door, way->socket);
        if (begin_monitor(door, way) && zmq_bind(way->socket, way->endpoint) == 0) {
            if (door_ipc_path(way))
                (void)chmod(door_ipc_path(way), 0600); /* for this user only, also with a lax umask */
            return MUSTER_OK;
        }
    }
    snprintf(problem, size, "bus.%s: cannot listen on %s: %s", way->name, way->endpoint, zmq_strerror(errno));
    door_way_end(door, way);
    return MUSTER_CONFLICT;
}

/* ---- who comes and goes ---- */

bool
door_watch_one(struct muster_door *door, struct way *way)
{
    zmq_msg_t parts[2];
    size_t count = way->monitor ? door_receive(way->monitor, parts, 2) : 0;
    uint16_t event = 0;

    if (count == 0)
        return false;
    if (zmq_msg_size(&parts[0]) >= sizeof event)
        memcpy(&event, zmq_msg_data(&parts[0]), sizeof event);
    if (event == ZMQ_EVENT_ACCEPTED) {
        way->clients++;
        door->counts.connections++;
    } else if (event == ZMQ_EVENT_DISCONNECTED && way->clients > 0) {
        way->clients--;
    }
    door_let_go(parts, count, 2);
    return true;
}
