/* SPDX-License-Identifier: MPL-2.0 */
/* dial: one connection of a DEALER to a hub.  The loop's thread, but for unsent_free and a name look-up that outlives
 * its dial.
 *
 * libzmq makes a connection again by itself and tells nobody that what was sent meanwhile came out of order or never;
 * here the pause before that is so long that it never comes to it: the dial is over before.  With ZMQ_RECONNECT_IVL -1
 * libzmq would not do it either, but would not tell of a name that cannot be resolved.  As seen with libzmq 4.3.4, at
 * the monitor of the side that connects:
 *
 * - let in: CONNECT_DELAYED (not with ipc), CONNECTED, HANDSHAKE_SUCCEEDED
 * - ZAP says 400: CONNECTED, HANDSHAKE_FAILED_AUTH 400, DISCONNECTED
 * - ZAP says 300: CONNECTED; then FAILED_NO_DETAIL EPIPE, DISCONNECTED, or nothing (with CURVE) until
 *   ZMQ_HANDSHAKE_IVL, FAILED_NO_DETAIL EAGAIN, DISCONNECTED
 * - another server key: CONNECTED, FAILED_NO_DETAIL EPIPE, DISCONNECTED, CONNECT_RETRIED
 * - only one side with CURVE: CONNECTED, FAILED_PROTOCOL MECHANISM_MISMATCH or, when the other side saw it first,
 *   FAILED_NO_DETAIL EPIPE; then DISCONNECTED
 * - somebody who says nothing: CONNECTED, after ZMQ_HANDSHAKE_IVL FAILED_NO_DETAIL EAGAIN, DISCONNECTED
 * - nobody listens: CONNECT_DELAYED (not with ipc), CLOSED, CONNECT_RETRIED
 * - a name that does not resolve: CONNECT_RETRIED alone, which -1 leaves out
 * - port 99999: connects to 34463; ports are checked here
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "schemas/muster_options.h"
#include "transport/muster_dial.h"

#define MONITOR "inproc://dial"

enum {
    NEVER_MS = 3600000, /* long after the dial is over; libzmq adds as much again, in an int */
    ROUND = 128,        /* messages in one round */
    REASON = 256,
    MESSAGE_MAX = 256 << 20, /* bytes of one message from the hub */
    MESSAGE_EXTRA = 256,     /* bytes that an unsent message takes besides its own */
    STALL_MS = 30000,        /* data that is not acknowledged for so long ends the connection */
    KEEPALIVE_S = 30,
    WATCHED = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_CONNECT_DELAYED | ZMQ_EVENT_CONNECT_RETRIED | ZMQ_EVENT_CLOSED |
              ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
              ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH
};

/* Bytes that wait for the network.  Shared with libzmq's thread, which lets go of the messages. */
struct unsent {
    atomic_size_t bytes;
    atomic_size_t references;
};

struct receipt {
    struct unsent *unsent;
    size_t size;
};

struct muster_dial {
    struct muster_loop *loop;
    const struct muster_dial_hooks *hooks; /* borrowed, with `arg` */
    void *arg;
    void *context;
    void *socket; /* NULL: it is over */
    void *monitor;
    int fd, monitor_fd;
    struct unsent *unsent;
    size_t max_unsent;
    int64_t connect_ms;
    int timer;  /* of connect_ms, then of the next round */
    bool curve; /* as in the specification, */
    bool ipc;   /* and its endpoint */
    bool named; /* the host's name is not being looked up any more */
    bool late;  /* connect_ms have passed */
    bool is_up; /* the handshake is done */
    bool told;  /* `up` was called */
    bool ended; /* `reason` says why */
    bool refused;
    char reason[REASON];
};

/* ---- sockets ----------------------------------------------------------------------------------------------------- */

static void
set_int(void *socket, int option, int value)
{
    MUSTER_ASSERT(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

static void
set_key(void *socket, int option, const uint8_t key[MUSTER_CURVE])
{
    MUSTER_ASSERT(zmq_setsockopt(socket, option, key, MUSTER_CURVE) == 0);
}

static void
on_ready(void *arg, int fd, int events)
{
    (void)arg; /* the pump follows */
    (void)fd;
    (void)events;
}

static int
watch(struct muster_dial *dial, void *socket)
{
    int fd = -1;
    size_t size = sizeof fd;

    MUSTER_ASSERT(zmq_getsockopt(socket, ZMQ_FD, &fd, &size) == 0);
    muster_loop_watch(dial->loop, fd, MUSTER_WATCH_READ, on_ready, dial);
    return fd;
}

static void
end_socket(struct muster_dial *dial, void **socket_p, int fd)
{
    if (*socket_p == NULL)
        return;
    if (fd != -1)
        muster_loop_unwatch(dial->loop, fd);
    (void)zmq_close(*socket_p);
    *socket_p = NULL;
}

static void *
end_context(void *context)
{
    while (zmq_ctx_term(context) == -1 && errno == EINTR)
        continue;
    return NULL;
}

/* libzmq waits for a name look-up under way; the loop does not. */
static void
shut(struct muster_dial *dial)
{
    pthread_t thread;

    if (dial->socket)
        (void)zmq_socket_monitor(dial->socket, NULL, 0);
    end_socket(dial, &dial->monitor, dial->monitor_fd);
    end_socket(dial, &dial->socket, dial->fd);
    if (dial->context && !dial->named && pthread_create(&thread, NULL, end_context, dial->context) == 0)
        pthread_detach(thread);
    else if (dial->context)
        (void)end_context(dial->context);
    dial->context = NULL;
}

/* ---- beginning --------------------------------------------------------------------------------------------------- */

static void
set_up(const struct muster_dial *dial, const struct muster_dial_spec *spec)
{
    int64_t max_message = MESSAGE_MAX;
    uint8_t public[MUSTER_CURVE];

    set_int(dial->socket, ZMQ_LINGER, 0);
    set_int(dial->socket, ZMQ_RECONNECT_IVL, NEVER_MS);
    set_int(dial->socket, ZMQ_HANDSHAKE_IVL, (int)dial->connect_ms);
    set_int(dial->socket, ZMQ_SNDHWM, 0); /* max_unsent it is */
    set_int(dial->socket, ZMQ_TCP_KEEPALIVE, 1);
    set_int(dial->socket, ZMQ_TCP_KEEPALIVE_IDLE, KEEPALIVE_S);
    set_int(dial->socket, ZMQ_TCP_KEEPALIVE_INTVL, KEEPALIVE_S / 3);
    set_int(dial->socket, ZMQ_TCP_MAXRT, STALL_MS);
    MUSTER_ASSERT(zmq_setsockopt(dial->socket, ZMQ_MAXMSGSIZE, &max_message, sizeof max_message) == 0);
    if (!spec->curve)
        return;
    muster_curve_public(spec->secret, public);
    set_key(dial->socket, ZMQ_CURVE_SERVERKEY, spec->hub_key);
    set_key(dial->socket, ZMQ_CURVE_PUBLICKEY, public);
    set_key(dial->socket, ZMQ_CURVE_SECRETKEY, spec->secret);
}

static bool
make_sockets(struct muster_dial *dial, const struct muster_dial_spec *spec)
{
    dial->context = zmq_ctx_new();
    if (dial->context == NULL)
        return false;
    dial->socket = zmq_socket(dial->context, ZMQ_DEALER);
    if (dial->socket == NULL)
        return false;
    set_up(dial, spec);
    dial->fd = watch(dial, dial->socket);
    if (zmq_socket_monitor(dial->socket, MONITOR, WATCHED) == -1)
        return false;
    dial->monitor = zmq_socket(dial->context, ZMQ_PAIR);
    if (dial->monitor == NULL)
        return false;
    set_int(dial->monitor, ZMQ_LINGER, 0);
    set_int(dial->monitor, ZMQ_RCVHWM, 0); /* libzmq's thread would wait for us */
    dial->monitor_fd = watch(dial, dial->monitor);
    return zmq_connect(dial->monitor, MONITOR) == 0;
}

static void
on_late(void *arg)
{
    struct muster_dial *dial = arg; /* the pump follows */

    dial->timer = 0;
    dial->late = true;
}

static muster_err
begin(struct muster_dial *dial, const struct muster_dial_spec *spec, char *problem, size_t size)
{
    const char *wrong = muster_hub_endpoint_problem(spec->endpoint);

    if (wrong) {
        snprintf(problem, size, "the endpoint %s %s", spec->endpoint, wrong);
        return MUSTER_INVALID_REQUEST;
    }
    if (!make_sockets(dial, spec)) {
        snprintf(problem, size, "no sockets can be had: %s", zmq_strerror(errno));
        return MUSTER_OVERLOADED;
    }
    if (zmq_connect(dial->socket, spec->endpoint) == -1) {
        snprintf(problem, size, "the endpoint %s cannot be used: %s", spec->endpoint, zmq_strerror(errno));
        return errno == EMFILE || errno == EMTHREAD ? MUSTER_OVERLOADED : MUSTER_INVALID_REQUEST;
    }
    dial->named = dial->ipc; /* else its name is being looked up from here on */
    dial->timer = muster_loop_timer(dial->loop, dial->connect_ms, on_late, dial);
    return MUSTER_OK;
}

muster_err
muster_dial_open(struct muster_loop *loop, const struct muster_dial_spec *spec, const struct muster_dial_hooks *hooks,
                 void *arg, struct muster_dial **out_dial, char *problem, size_t problem_size)
{
    struct muster_dial *dial = muster_alloc(sizeof *dial);
    muster_err err;

    *dial = (struct muster_dial){.loop = loop,
                                 .hooks = hooks,
                                 .arg = arg,
                                 .fd = -1,
                                 .monitor_fd = -1,
                                 .unsent = muster_alloc(sizeof *dial->unsent),
                                 .max_unsent = spec->max_unsent > 0 ? (size_t)spec->max_unsent : 0,
                                 .connect_ms = spec->connect_ms > 0 ? spec->connect_ms : 1,
                                 .curve = spec->curve,
                                 .ipc = strncmp(spec->endpoint, "ipc://", 6) == 0,
                                 .named = true};
    atomic_init(&dial->unsent->references, 1);
    err = begin(dial, spec, problem, problem_size);
    if (err)
        muster_dial_close(&dial);
    else
        *out_dial = dial;
    return err;
}

/* ---- what becomes of it ------------------------------------------------------------------------------------------ */

/* The first reason is the one. */
static void __attribute__((format(printf, 3, 4))) end(struct muster_dial *dial, bool refused, const char *format, ...)
{
    va_list args;

    if (dial->ended)
        return;
    dial->ended = true;
    dial->refused = refused;
    va_start(args, format);
    vsnprintf(dial->reason, sizeof dial->reason, format, args);
    va_end(args);
}

static void
end_unanswered(struct muster_dial *dial)
{
    int64_t ms = dial->connect_ms;

    if (!dial->named)
        end(dial, false, "the host name was not resolved within %g s", (double)ms / 1000);
    else
        end(dial, false, "no answer within %g s", (double)ms / 1000);
}

/* It hung up on us, without a word. */
static void
end_mismatched(struct muster_dial *dial)
{
    if (dial->curve)
        end(dial, true, "the hub has another key than was given for it, takes no CURVE, or has no room for clients");
    else
        end(dial, false, "the hub takes only clients with CURVE keys, or has no room for clients");
}

static void
end_unreached(struct muster_dial *dial)
{
    if (dial->ipc)
        end(dial, false, "nobody listens there");
    else if (dial->named)
        end(dial, false, "connection refused, or the host cannot be reached");
    else
        end(dial, false, "the host name cannot be resolved");
}

static void
on_event(struct muster_dial *dial, uint16_t event, uint32_t value)
{
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
        dial->is_up = true;
    else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH && value == 400)
        end(dial, true, "the hub does not take this key");
    else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        end(dial, false, "the hub could not check the key (%u)", value);
    else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL && value == EAGAIN)
        end_unanswered(dial);
    else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL && value != ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
        end(dial, false, "what answers there is no hub, or another one than was meant");
    else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL || event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
        end_mismatched(dial);
    else if (event == ZMQ_EVENT_CONNECT_RETRIED)
        end_unreached(dial);
    else if (event == ZMQ_EVENT_DISCONNECTED)
        end(dial, false, "the connection was closed");
    dial->named = true;
}

/* A message of the monitor has two parts: event and value, and the endpoint. */
static bool
watch_one(struct muster_dial *dial)
{
    uint8_t parts[6] = {0};
    char endpoint[1];
    uint16_t event;
    uint32_t value;
    int more = 0;
    size_t size = sizeof more;

    if (zmq_recv(dial->monitor, parts, sizeof parts, ZMQ_DONTWAIT) == -1)
        return false;
    while (zmq_getsockopt(dial->monitor, ZMQ_RCVMORE, &more, &size) == 0 && more)
        (void)zmq_recv(dial->monitor, endpoint, sizeof endpoint, ZMQ_DONTWAIT);
    memcpy(&event, parts, sizeof event);
    memcpy(&value, parts + sizeof event, sizeof value);
    on_event(dial, event, value);
    return true;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* A message of several frames is none of a hub's and is dropped. */
static bool
take_message(struct muster_dial *dial)
{
    bool first = true, more = true, single = true;
    zmq_msg_t message, part;

    zmq_msg_init(&message);
    while (more) {
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, dial->socket, ZMQ_DONTWAIT) == -1)
            break;
        more = zmq_msg_more(&part);
        single = first && !more;
        if (first)
            zmq_msg_move(&message, &part);
        zmq_msg_close(&part);
        first = false;
    }
    if (!first && single)
        dial->hooks->message(dial->arg, zmq_msg_data(&message), zmq_msg_size(&message));
    zmq_msg_close(&message);
    return !first;
}

static void
unsent_release(struct unsent *unsent)
{
    if (atomic_fetch_sub(&unsent->references, 1) == 1)
        free(unsent);
}

/* Any thread: libzmq has sent the message, or dropped it with the connection. */
static void
unsent_free(void *data, void *hint)
{
    struct receipt *receipt = hint;

    free(data);
    atomic_fetch_sub(&receipt->unsent->bytes, receipt->size);
    unsent_release(receipt->unsent);
    free(receipt);
}

muster_err
muster_dial_send(struct muster_dial *dial, struct muster_buf *frame)
{
    size_t waiting = atomic_load(&dial->unsent->bytes), size = frame->size + MESSAGE_EXTRA;
    struct receipt *receipt;
    zmq_msg_t message;
    char *data;

    if (dial->socket == NULL || !dial->is_up || dial->ended || (waiting > 0 && waiting + size > dial->max_unsent)) {
        muster_buf_free(frame);
        return dial->socket && dial->is_up && !dial->ended ? MUSTER_OVERLOADED : MUSTER_GONE;
    }
    data = muster_buf_take(frame, &size);
    receipt = muster_alloc(sizeof *receipt);
    *receipt = (struct receipt){dial->unsent, size + MESSAGE_EXTRA};
    atomic_fetch_add(&dial->unsent->references, 1);
    atomic_fetch_add(&dial->unsent->bytes, size + MESSAGE_EXTRA);
    MUSTER_ASSERT(zmq_msg_init_data(&message, data, size, unsent_free, receipt) == 0);
    if (zmq_msg_send(&message, dial->socket, ZMQ_DONTWAIT) == -1) {
        zmq_msg_close(&message);
        return MUSTER_GONE;
    }
    return MUSTER_OK;
}

int64_t
muster_dial_unsent(const struct muster_dial *dial)
{
    return (int64_t)atomic_load(&dial->unsent->bytes);
}

/* ---- rounds ------------------------------------------------------------------------------------------------------ */

static void
on_round(void *arg)
{
    ((struct muster_dial *)arg)->timer = 0; /* the pump follows */
}

static void
tell_up(struct muster_dial *dial)
{
    dial->told = true;
    muster_loop_timer_end(dial->loop, dial->timer);
    dial->timer = 0;
    dial->hooks->up(dial->arg);
}

/* What came before the end is told before the end. */
void
muster_dial_pump(struct muster_dial *dial)
{
    bool more = true;
    int i;

    if (dial->socket == NULL)
        return;
    for (i = 0; more && i < ROUND; i++) {
        while (watch_one(dial))
            continue;
        if (dial->is_up && !dial->told)
            tell_up(dial);
        more = dial->told && take_message(dial);
    }
    if (dial->late && !dial->told)
        end_unanswered(dial);
    if (more && dial->timer == 0)
        dial->timer = muster_loop_timer(dial->loop, 0, on_round, dial);
    if (more || !dial->ended)
        return;
    shut(dial);
    dial->hooks->down(dial->arg, dial->reason, dial->refused);
}

void
muster_dial_close(struct muster_dial **dial_p)
{
    struct muster_dial *dial = *dial_p;

    if (dial == NULL)
        return;
    muster_loop_timer_end(dial->loop, dial->timer);
    shut(dial);
    unsent_release(dial->unsent);
    free(dial);
    *dial_p = NULL;
}
