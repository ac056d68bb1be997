/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of a WebSocket: its state, and the side of it that speaks to libwslay.  The connection's thread.  Nothing here
 * fails: what is wrong with the client closes the connection. */
#ifndef SOCKET_H
#define SOCKET_H

#include <wslay/wslay.h>

#include "api/http/hub.h"

enum {
    SOCKET_FIRST_BYTES = 16384, /* of a message of a client that has not said who it is */
    SOCKET_TOO_SLOW = 1013      /* close code of RFC 6455's registry: try again later */
};

/* The frames of the client as they pass by. */
struct frames {
    unsigned char head[10];
    size_t have;   /* of it */
    uint64_t skip; /* bytes until the next head */
    size_t pieces; /* of the message at hand */
    bool large;    /* it is larger than `most` */
    uint64_t most;
};

struct http_socket {
    struct http_sink sink;
    struct http_request *request;
    http_socket_message *message;
    void *arg;
    wslay_event_context_ptr wslay;
    struct frames frames;
    struct muster_buf out;      /* control frames on their way to the sink */
    struct muster_arena *arena; /* of one message or turn */
    struct muster_arena *key;   /* of the key, when it came by a message */
    int64_t login_ms;           /* when there must be one */
    int64_t beat_ms;            /* when the next is due */
    int64_t pings;              /* since the client was heard */
    size_t taken;               /* bytes in this turn */
    bool more;                  /* it ended before the bytes did */
    bool spoke;                 /* there were messages since the last beat */
    bool left;                  /* the client */
    bool closed;                /* the close frame is on its way */
    int code;                   /* to close with behind this message */
    const char *reason;
};

/* ---- socket_wire.c ---- */

/* `arena` and the callbacks' argument are the socket's. */
void socket_wire_init(struct http_socket *socket);
/* Take messages of that size. */
void socket_allow(struct http_socket *socket, int64_t size);
/* Nothing more is read; the close frame goes out with the next socket_say. */
void socket_refuse(struct http_socket *socket, int code, const char *reason);
void socket_ping(struct http_socket *socket);
/* Send the control frames that are due. */
void socket_say(struct http_socket *socket);
/* Read what the client has sent, up to a turn's worth, and hand its messages on. */
void socket_receive(struct http_socket *socket);

/* ---- socket_calls.c ---- */

/* Follow it no more. */
void socket_let_go(struct http_follow *follow);

#endif
