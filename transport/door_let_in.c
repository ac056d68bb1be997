/* SPDX-License-Identifier: MPL-2.0 */
/* door_let_in: who may come in (libzmq's ZAP handler).  The loop's thread.  What can fail: who comes.
 *
 * Every connection gets a number when it is let in, which its messages carry and a client cannot choose. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/muster_crypto.h"
#include "transport/door.h"

#define ZAP_ENDPOINT "inproc://zeromq.zap.01"
#define USER_TEXT (16 + 1 + 2 * MUSTER_CURVE + 1) /* a connection's number, a dot, its key if it has one */

enum { PARTS = 8 };

bool
door_begin_letting_in(struct muster_door *door)
{
    door->context = zmq_ctx_new();
    if (door->context == NULL)
        return false;
    zmq_ctx_set(door->context, ZMQ_MAX_SOCKETS, 64);
    door->zap = zmq_socket(door->context, ZMQ_REP);
    if (door->zap == NULL)
        return false;
    door_set_int(door->zap, ZMQ_LINGER, 0);
    door->zap_fd = door_watch(door, door->zap);
    return zmq_bind(door->zap, ZAP_ENDPOINT) == 0;
}

/* ---- who is it? ---- */

const uint8_t *
door_key_of(zmq_msg_t *message, uint8_t room[MUSTER_CURVE])
{
    const char *user = zmq_msg_gets(message, "User-Id"), *dot = user ? strchr(user, '.') : NULL;

    return dot && muster_unhex(dot + 1, room, MUSTER_CURVE) == MUSTER_OK ? room : NULL;
}

uint64_t
door_connection_of(zmq_msg_t *message)
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

bool
door_is_outcast(const struct muster_door *door, const uint8_t *key)
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
        (way == &door->events && door_is_outcast(door, zmq_msg_data(&parts[6]))) ||
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

bool
door_let_in_one(struct muster_door *door)
{
    zmq_msg_t parts[PARTS];
    size_t count = door_receive(door->zap, parts, PARTS);
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
    door_let_go(parts, count, PARTS);
    return true;
}
