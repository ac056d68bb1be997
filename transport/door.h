/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of the door (muster_door.h).  All of it is of the loop's thread, but for what says otherwise. */
#ifndef DOOR_H
#define DOOR_H

#include <zmq.h>

#include "transport/mail.h"
#include "transport/muster_door.h"

/* One of the two ways in. */
struct way {
    const char *name;
    char *endpoint; /* NULL: not used */
    bool curve;
    int type;
    void *socket;  /* NULL while it is closed for a reset */
    void *monitor; /* tells who comes and goes */
    int fd, monitor_fd;
    int64_t clients;
};

struct muster_door {
    struct muster_loop *loop;
    struct muster_door_spec spec;
    const struct muster_door_hooks *hooks;
    void *arg;
    void *context;
    void *zap;
    int zap_fd;
    struct way commands, events;
    int64_t subscriptions;
    uint64_t monitors;                 /* made so far; numbers their endpoints */
    uint64_t admitted;                 /* connections let in so far; numbers them */
    uint8_t (*outcasts)[MUSTER_CURVE]; /* keys that may not subscribe any more */
    size_t outcast_count;
    zhashx_t *unread; /* guest + 1 -> struct unread, of door_commands.c */
    int timer;        /* of the next round */
    int reset_timer;
    struct muster_door_counts counts;
};

/* ---- door_way.c: sockets ---- */
void door_set_int(void *socket, int option, int value);
/* Have the pump follow when there may be something; returns the descriptor. */
int door_watch(struct muster_door *door, void *socket);
/* Close it; *socket_p NULL: nothing happens. */
void door_end_socket(struct muster_door *door, void **socket_p, int fd);
/* Read a whole message; parts beyond `room` are dropped.  Returns how many there were, 0: there is none. */
size_t door_receive(void *socket, zmq_msg_t *parts, size_t room);
void door_let_go(zmq_msg_t *parts, size_t count, size_t room);

/* ---- door_way.c: ways ---- */
/* MUSTER_CONFLICT with `problem`: its endpoint cannot be had. */
muster_err door_way_begin(struct muster_door *door, struct way *way, char *problem, size_t size);
void door_way_end(struct muster_door *door, struct way *way);
/* Of an ipc:// endpoint; NULL: it is another one. */
const char *door_ipc_path(const struct way *way);
/* Count one that has come or gone; false: nobody has. */
bool door_watch_one(struct muster_door *door, struct way *way);

/* ---- door_let_in.c ---- */
/* Before anybody can come: without a handler libzmq lets all of them in.  False: no sockets can be had. */
bool door_begin_letting_in(struct muster_door *door);
/* Judge one who wants to come in; false: nobody does. */
bool door_let_in_one(struct muster_door *door);
bool door_is_outcast(const struct muster_door *door, const uint8_t *key);
/* The CURVE key behind a message, as it was written there when it was let in; NULL: none. */
const uint8_t *door_key_of(zmq_msg_t *message, uint8_t room[MUSTER_CURVE]);
/* Likewise the number of its connection; 0: none. */
uint64_t door_connection_of(zmq_msg_t *message);

/* ---- door_commands.c ---- */
/* Hand one message to its hook; false: there is none. */
bool door_take_message(struct muster_door *door);
void door_commands_free(struct muster_door *door);

/* ---- door_events.c ---- */
/* Handle one subscription; false: there is none. */
bool door_take_subscription(struct muster_door *door);

#endif
