/* SPDX-License-Identifier: MPL-2.0 */
/* door: the sockets for ZeroMQ clients of other processes.  The loop's thread, but for unread_free.
 *
 * A socket's descriptor only tells that something may have changed since it was last looked at, so the pump, which runs
 * after every batch of the loop, reads each socket until nothing is left or its share of the round is used up.
 *
 * Routing ids are given out here; who brings one of its own is not listened to.  It could take the place of a client
 * that has just left and be sent what that had asked for.  An own one that looks like ours cannot be told by itself, so
 * that every connection gets a number when it is let in, which its messages carry and a client cannot choose.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "schemas/muster_crypto.h"
#include "transport/mail.h"
#include "transport/muster_door.h"
#include "transport/numbers.h"

#define ZAP_ENDPOINT "inproc://zeromq.zap.01"
#define USER_TEXT (16 + 1 + 2 * MUSTER_CURVE + 1) /* a connection's number, a dot, its key if it has one */

enum {
    ROUND = 128,          /* messages of one socket in one round */
    GUEST_BYTES = 5,      /* a zero and a number, as ROUTER makes them */
    HANDSHAKE_MS = 10000, /* that a connection has */
    TOPIC_BYTES = 1024,   /* of a subscription, and of the handshake's frames */
    SUBSCRIPTIONS = 1024, /* for each of max_clients, all together */
    CURVE_EXTRA = 64,     /* bytes that CURVE adds to a message */
    ANSWER_EXTRA = 256,   /* bytes that an unread answer takes besides its own */
    RESET_MS = 20,        /* pause between tries to have an endpoint again */
    LATE_MS = 500,
    RESTS = 64, /* guests above max_clients whose backlog is remembered though it is empty */
    PARTS = 8
};

/* Bytes of answers that a guest has not taken yet.  Shared with libzmq's thread, which lets go of the messages. */
struct unread {
    atomic_size_t bytes;
    atomic_size_t references;
};

struct parcel {
    struct unread *unread;
    size_t size;
};

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
    zhashx_t *unread; /* guest + 1 -> struct unread */
    int timer;        /* of the next round */
    int reset_timer;
    struct muster_door_counts counts;
};

/* ---- sockets ----------------------------------------------------------------------------------------------------- */

static void
set_int(void *socket, int option, int value)
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

static int
watch(struct muster_door *door, void *socket)
{
    int fd = -1;
    size_t size = sizeof fd;

    MUSTER_ASSERT(zmq_getsockopt(socket, ZMQ_FD, &fd, &size) == 0);
    muster_loop_watch(door->loop, fd, MUSTER_WATCH_READ, on_ready, door);
    return fd;
}

static void
end_socket(struct muster_door *door, void **socket_p, int fd)
{
    if (*socket_p == NULL)
        return;
    muster_loop_unwatch(door->loop, fd);
    (void)zmq_close(*socket_p);
    *socket_p = NULL;
}

/* Read a whole message; parts beyond `room` are dropped.  Returns how many there were, 0: there is none. */
static size_t
receive(void *socket, zmq_msg_t *parts, size_t room)
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

static void
let_go(zmq_msg_t *parts, size_t count, size_t room)
{
    size_t i;

    for (i = 0; i < count && i < room; i++)
        zmq_msg_close(&parts[i]);
}

/* The CURVE key behind a message, as the handler below wrote it; NULL: none. */
static const uint8_t *
key_of(zmq_msg_t *message, uint8_t room[MUSTER_CURVE])
{
    const char *user = zmq_msg_gets(message, "User-Id"), *dot = user ? strchr(user, '.') : NULL;

    return dot && muster_unhex(dot + 1, room, MUSTER_CURVE) == MUSTER_OK ? room : NULL;
}

/* Likewise the number of its connection; 0: none. */
static uint64_t
connection_of(zmq_msg_t *message)
{
    const char *user = zmq_msg_gets(message, "User-Id");

    return user ? strtoull(user, NULL, 16) : 0;
}

/* ---- letting in -------------------------------------------------------------------------------------------------- */

static bool
part_is(zmq_msg_t *part, const char *text)
{
    return zmq_msg_size(part) == strlen(text) && memcmp(zmq_msg_data(part), text, strlen(text)) == 0;
}

static bool
is_outcast(const struct muster_door *door, const uint8_t *key)
{
    size_t i;

    for (i = 0; i < door->outcast_count && memcmp(door->outcasts[i], key, MUSTER_CURVE) != 0; i++)
        ;
    return i < door->outcast_count;
}

/* Parts: version, request id, domain, address, routing id, mechanism, credentials.  Fills what its messages carry. */
static const char *
judge(struct muster_door *door, zmq_msg_t *parts, size_t count, char out_user[USER_TEXT])
{
    const struct way *way = part_is(&parts[2], door->events.name) ? &door->events : &door->commands;
    int size = snprintf(out_user, USER_TEXT, "%llx.", (unsigned long long)++door->admitted);

    if (door->commands.clients + door->events.clients > door->spec.max_clients)
        return "300";
    if (!way->curve)
        return part_is(&parts[5], "NULL") ? "200" : "400";
    if (count != 7 || !part_is(&parts[5], "CURVE") || zmq_msg_size(&parts[6]) != MUSTER_CURVE ||
        (way == &door->events && is_outcast(door, zmq_msg_data(&parts[6]))) ||
        !door->hooks->admit(door->arg, zmq_msg_data(&parts[6]), way == &door->events))
        return "400";
    muster_hex(zmq_msg_data(&parts[6]), MUSTER_CURVE, out_user + size);
    return "200";
}

static void
send_text(void *socket, const char *text, int flags)
{
    (void)zmq_send(socket, text, strlen(text), flags);
}

static bool
let_in_one(struct muster_door *door)
{
    zmq_msg_t parts[PARTS];
    size_t count = receive(door->zap, parts, PARTS);
    char user[USER_TEXT] = "";
    const char *status = "500";

    if (count == 0)
        return false;
    if (count >= 6)
        status = judge(door, parts, count, user);
    if (status[0] != '2')
        door->counts.refused++;
    send_text(door->zap, "1.0", ZMQ_SNDMORE);
    (void)zmq_send(door->zap, count > 1 ? zmq_msg_data(&parts[1]) : "", count > 1 ? zmq_msg_size(&parts[1]) : 0,
                   ZMQ_SNDMORE);
    send_text(door->zap, status, ZMQ_SNDMORE);
    send_text(door->zap, status[0] == '2' ? "OK" : "refused", ZMQ_SNDMORE);
    send_text(door->zap, user, ZMQ_SNDMORE);
    send_text(door->zap, "", 0);
    let_go(parts, count, PARTS);
    return true;
}

static bool
watch_one(struct muster_door *door, struct way *way)
{
    zmq_msg_t parts[2];
    size_t count = way->monitor ? receive(way->monitor, parts, 2) : 0;
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
    let_go(parts, count, 2);
    return true;
}

/* ---- ways -------------------------------------------------------------------------------------------------------- */

static void
set_up(struct muster_door *door, struct way *way)
{
    bool events = way == &door->events;
    int64_t max_message = events ? TOPIC_BYTES : door->spec.max_message + CURVE_EXTRA;

    set_int(way->socket, ZMQ_LINGER, 0);
    set_int(way->socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    set_int(way->socket, ZMQ_TCP_KEEPALIVE, 1); /* so that a client whose host has gone is let go of */
    set_int(way->socket, ZMQ_TCP_KEEPALIVE_IDLE, 60);
    MUSTER_ASSERT(zmq_setsockopt(way->socket, ZMQ_MAXMSGSIZE, &max_message, sizeof max_message) == 0);
    MUSTER_ASSERT(zmq_setsockopt(way->socket, ZMQ_ZAP_DOMAIN, way->name, strlen(way->name)) == 0);
    if (way->curve) {
        set_int(way->socket, ZMQ_CURVE_SERVER, 1);
        MUSTER_ASSERT(zmq_setsockopt(way->socket, ZMQ_CURVE_SECRETKEY, door->spec.secret, MUSTER_CURVE) == 0);
    }
    if (events) {
        set_int(way->socket, way->curve ? ZMQ_XPUB_MANUAL : ZMQ_XPUB_VERBOSER, 1);
        set_int(way->socket, ZMQ_SNDHWM, (int)door->spec.max_events);
    } else {
        set_int(way->socket, ZMQ_ROUTER_MANDATORY, 1);
        set_int(way->socket, ZMQ_SNDHWM, 0); /* max_backlog it is */
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
    set_int(way->monitor, ZMQ_LINGER, 0);
    set_int(way->monitor, ZMQ_RCVHWM, 0); /* libzmq's thread would wait for us */
    way->monitor_fd = watch(door, way->monitor);
    return zmq_connect(way->monitor, endpoint) == 0;
}

static const char *
ipc_path(const struct way *way)
{
    return strncmp(way->endpoint, "ipc://", 6) == 0 ? way->endpoint + 6 : NULL;
}

static void
way_end(struct muster_door *door, struct way *way)
{
    if (way->socket == NULL)
        return;
    (void)zmq_socket_monitor(way->socket, NULL, 0);
    end_socket(door, &way->monitor, way->monitor_fd);
    if (zmq_unbind(way->socket, way->endpoint) == 0 && ipc_path(way))
        (void)unlink(ipc_path(way));
    end_socket(door, &way->socket, way->fd);
    way->clients = 0;
}

static muster_err
way_begin(struct muster_door *door, struct way *way, char *problem, size_t size)
{
    way->socket = zmq_socket(door->context, way->type);
    if (way->socket) {
        set_up(door, way);
        way->fd = watch(door, way->socket);
        if (begin_monitor(door, way) && zmq_bind(way->socket, way->endpoint) == 0) {
            if (ipc_path(way))
                (void)chmod(ipc_path(way), 0600); /* for this user only, also with a lax umask */
            return MUSTER_OK;
        }
    }
    snprintf(problem, size, "bus.%s: cannot listen on %s: %s", way->name, way->endpoint, zmq_strerror(errno));
    way_end(door, way);
    return MUSTER_CONFLICT;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static bool
is_given_out(zmq_msg_t *id)
{
    return zmq_msg_size(id) == GUEST_BYTES && *(const char *)zmq_msg_data(id) == '\0';
}

static bool
take_message(struct muster_door *door)
{
    zmq_msg_t parts[2];
    size_t count = door->commands.socket ? receive(door->commands.socket, parts, 2) : 0;
    uint8_t key[MUSTER_CURVE];
    const char *own;
    uint32_t guest;

    if (count == 0)
        return false;
    door->counts.commands++;
    own = count == 2 ? zmq_msg_gets(&parts[1], "Identity") : NULL;
    if (count == 2 && is_given_out(&parts[0]) && (own == NULL || own[0] == '\0')) {
        memcpy(&guest, (const char *)zmq_msg_data(&parts[0]) + 1, sizeof guest);
        door->hooks->message(door->arg, guest, connection_of(&parts[1]), key_of(&parts[1], key),
                             zmq_msg_data(&parts[1]), zmq_msg_size(&parts[1]));
    } else {
        door->counts.malformed++;
    }
    let_go(parts, count, 2);
    return true;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void *
place_of(uint32_t guest)
{
    return (void *)((uintptr_t)guest + 1);
}

static void
unread_release(struct unread *unread)
{
    if (atomic_fetch_sub(&unread->references, 1) == 1)
        free(unread);
}

/* Any thread: libzmq has sent the message, or dropped it with the connection. */
static void
unread_free(void *data, void *hint)
{
    struct parcel *parcel = hint;

    free(data);
    atomic_fetch_sub(&parcel->unread->bytes, parcel->size);
    unread_release(parcel->unread);
    free(parcel);
}

/* Forget the guests that have read everything. */
static void
sweep_unread(struct muster_door *door)
{
    zlistx_t *places = zhashx_keys(door->unread);
    struct unread *unread;
    void *place;

    for (place = zlistx_first(places); place; place = zlistx_next(places)) {
        unread = zhashx_lookup(door->unread, place);
        if (atomic_load(&unread->bytes) == 0) {
            zhashx_delete(door->unread, place);
            unread_release(unread);
        }
    }
    zlistx_destroy(&places);
}

static struct unread *
unread_of(struct muster_door *door, uint32_t guest)
{
    struct unread *unread = zhashx_lookup(door->unread, place_of(guest));

    if (unread)
        return unread;
    if (zhashx_size(door->unread) > (size_t)door->spec.max_clients + RESTS)
        sweep_unread(door);
    unread = muster_alloc(sizeof *unread);
    atomic_init(&unread->references, 1);
    zhashx_insert(door->unread, place_of(guest), unread);
    return unread;
}

static muster_err
drop(struct muster_door *door, struct muster_buf *frame, muster_err err)
{
    muster_buf_free(frame);
    door->counts.dropped++;
    return err;
}

muster_err
muster_door_send(struct muster_door *door, uint32_t guest, struct muster_buf *frame)
{
    struct unread *unread = unread_of(door, guest);
    size_t waiting = atomic_load(&unread->bytes), size;
    char id[GUEST_BYTES] = {0};
    struct parcel *parcel;
    zmq_msg_t message;
    char *data;

    memcpy(id + 1, &guest, sizeof guest);
    if (waiting > 0 && waiting + frame->size + ANSWER_EXTRA > (size_t)door->spec.max_backlog)
        return drop(door, frame, MUSTER_OVERLOADED);
    if (zmq_send(door->commands.socket, id, sizeof id, ZMQ_SNDMORE | ZMQ_DONTWAIT) == -1)
        return drop(door, frame, errno == EAGAIN ? MUSTER_OVERLOADED : MUSTER_GONE);
    data = muster_buf_take(frame, &size);
    size += ANSWER_EXTRA;
    parcel = muster_alloc(sizeof *parcel);
    *parcel = (struct parcel){unread, size};
    atomic_fetch_add(&unread->references, 1);
    atomic_fetch_add(&unread->bytes, size);
    MUSTER_ASSERT(zmq_msg_init_data(&message, data, size - ANSWER_EXTRA, unread_free, parcel) == 0);
    if (zmq_msg_send(&message, door->commands.socket, ZMQ_DONTWAIT) == -1) {
        zmq_msg_close(&message);
        return drop(door, frame, MUSTER_GONE);
    }
    return MUSTER_OK;
}

/* ---- subscribers ------------------------------------------------------------------------------------------------- */

static void
look_for_file(void *arg)
{
    struct muster_door *door = arg;

    door->reset_timer = 0;
    if (access(ipc_path(&door->events), F_OK) == -1)
        muster_door_reset(door);
}

static void
try_again(void *arg)
{
    struct muster_door *door = arg;
    char problem[256];

    door->reset_timer = 0;
    if (way_begin(door, &door->events, problem, sizeof problem))
        door->reset_timer = muster_loop_timer(door->loop, RESET_MS, try_again, door);
    else if (ipc_path(&door->events)) /* a libzmq that removes the file of the old one late removes this one's */
        door->reset_timer = muster_loop_timer(door->loop, LATE_MS, look_for_file, door);
}

void
muster_door_reset(struct muster_door *door)
{
    if (door->events.socket == NULL)
        return;
    way_end(door, &door->events);
    door->subscriptions = 0;
    muster_loop_timer_end(door->loop, door->reset_timer);
    door->reset_timer = muster_loop_timer(door->loop, RESET_MS, try_again, door);
}

static void
subscribe(struct muster_door *door, zmq_msg_t *message)
{
    const char *topic = (const char *)zmq_msg_data(message) + 1;
    size_t size = zmq_msg_size(message) - 1;
    uint8_t room[MUSTER_CURVE];
    const uint8_t *key = key_of(message, room);

    if (++door->subscriptions > SUBSCRIPTIONS * door->spec.max_clients) {
        muster_door_reset(door);
        return;
    }
    if (!door->hooks->subscribe(door->arg, key, topic, size)) {
        door->counts.unheard++;
        return;
    }
    if (door->events.curve) /* else libzmq has done it */
        (void)zmq_setsockopt(door->events.socket, ZMQ_SUBSCRIBE, topic, size);
    door->hooks->subscribed(door->arg, topic, size);
}

/* A subscriber has sent something else.  libzmq then takes the subscriptions behind it for those of other connections
 * than they came on, and what one may hear another would get: all begin anew, and without the one who did it.  Where
 * everybody may hear everything libzmq subscribes them itself and nothing is mixed up. */
static void
cast_out(struct muster_door *door, zmq_msg_t *message)
{
    uint8_t room[MUSTER_CURVE];
    const uint8_t *key = key_of(message, room);

    door->counts.malformed++;
    if (!door->events.curve)
        return;
    if (key && !is_outcast(door, key)) {
        door->outcasts = muster_realloc(door->outcasts, (door->outcast_count + 1) * sizeof *door->outcasts);
        memcpy(door->outcasts[door->outcast_count++], key, MUSTER_CURVE);
    }
    muster_door_reset(door);
}

static bool
take_subscription(struct muster_door *door)
{
    zmq_msg_t message;
    size_t count = door->events.socket ? receive(door->events.socket, &message, 1) : 0;
    const char *data;

    if (count == 0)
        return false;
    data = zmq_msg_data(&message);
    if (count == 1 && zmq_msg_size(&message) > 0 && data[0] == 1) {
        subscribe(door, &message);
    } else if (count == 1 && zmq_msg_size(&message) > 0 && data[0] == 0) {
        if (door->events.curve)
            (void)zmq_setsockopt(door->events.socket, ZMQ_UNSUBSCRIBE, data + 1, zmq_msg_size(&message) - 1);
        door->subscriptions -= door->subscriptions > 0;
    } else {
        cast_out(door, &message);
    }
    let_go(&message, count, 1);
    return true;
}

void
muster_door_publish(struct muster_door *door, const struct muster_bytes *frames, size_t count)
{
    size_t i;

    for (i = 0; door->events.socket && i < count; i++)
        if (zmq_send(door->events.socket, frames[i].data, frames[i].size,
                     ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0)) == -1)
            return;
}

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
        while (watch_one(door, &door->commands) || watch_one(door, &door->events))
            continue; /* all of it first, so that whoever is let in was counted */
        more = let_in_one(door);
        more = take_message(door) || more;
        more = take_subscription(door) || more;
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

/* Before anybody can come: without a handler libzmq lets all of them in. */
static bool
begin_letting_in(struct muster_door *door)
{
    door->context = zmq_ctx_new();
    if (door->context == NULL)
        return false;
    zmq_ctx_set(door->context, ZMQ_MAX_SOCKETS, 64);
    door->zap = zmq_socket(door->context, ZMQ_REP);
    if (door->zap == NULL)
        return false;
    set_int(door->zap, ZMQ_LINGER, 0);
    door->zap_fd = watch(door, door->zap);
    return zmq_bind(door->zap, ZAP_ENDPOINT) == 0;
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
    if (!begin_letting_in(door)) {
        snprintf(problem, problem_size, "bus: no sockets can be had: %s", zmq_strerror(errno));
        err = MUSTER_OVERLOADED;
    }
    if (!err && door->commands.endpoint)
        err = way_begin(door, &door->commands, problem, problem_size);
    if (!err && door->events.endpoint)
        err = way_begin(door, &door->events, problem, problem_size);
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
    struct unread *unread;

    if (door == NULL)
        return;
    muster_loop_timer_end(door->loop, door->timer);
    muster_loop_timer_end(door->loop, door->reset_timer);
    way_end(door, &door->commands);
    way_end(door, &door->events);
    end_socket(door, &door->zap, door->zap_fd);
    while (door->context && zmq_ctx_term(door->context) == -1 && errno == EINTR)
        continue;
    for (unread = zhashx_first(door->unread); unread; unread = zhashx_next(door->unread))
        unread_release(unread);
    zhashx_destroy(&door->unread);
    free(door->outcasts);
    explicit_bzero(&door->spec, sizeof door->spec);
    free(door->commands.endpoint);
    free(door->events.endpoint);
    free(door);
    *door_p = NULL;
}
