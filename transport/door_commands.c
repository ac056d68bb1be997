/* SPDX-License-Identifier: MPL-2.0 */
/* door_commands: messages of clients, and the answers to them.  The loop's thread, but for unread_free.  What can fail:
 * a client that has left, or leaves more unread than it may.
 *
 * Routing ids are given out here; who brings one of its own is not listened to.  It could take the place of a client
 * that has just left and be sent what that had asked for.  An own one that looks like ours cannot be told by itself, so
 * that every connection has a number too (door_let_in.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport/door.h"
#include "transport/numbers.h"

enum {
    GUEST_BYTES = 5,    /* a zero and a number, as ROUTER makes them */
    ANSWER_EXTRA = 256, /* bytes that an unread answer takes besides its own */
    RESTS = 64          /* guests above max_clients whose backlog is remembered though it is empty */
};

/* Bytes of answers that a guest has not taken yet.  Shared with libzmq's thread, which lets go of the messages. */
struct unread {
    atomic_size_t bytes;
    atomic_size_t references;
};

struct receipt {
    struct unread *unread;
    size_t size;
};

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static bool
is_given_out(zmq_msg_t *id)
{
    return zmq_msg_size(id) == GUEST_BYTES && *(const char *)zmq_msg_data(id) == '\0';
}

bool
door_take_message(struct muster_door *door)
{
    zmq_msg_t parts[2];
    size_t count = door->commands.socket ? door_receive(door->commands.socket, parts, 2) : 0;
    uint8_t key[MUSTER_CURVE];
    const char *own;
    uint32_t guest;

    if (count == 0)
        return false;
    door->counts.commands++;
    own = count == 2 ? zmq_msg_gets(&parts[1], "Identity") : NULL;
    if (count == 2 && is_given_out(&parts[0]) && (own == NULL || own[0] == '\0')) {
        memcpy(&guest, (const char *)zmq_msg_data(&parts[0]) + 1, sizeof guest);
        door->hooks->message(door->arg, guest, door_connection_of(&parts[1]), door_key_of(&parts[1], key),
                             zmq_msg_data(&parts[1]), zmq_msg_size(&parts[1]));
    } else {
        door->counts.malformed++;
    }
    door_let_go(parts, count, 2);
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
    struct receipt *receipt = hint;

    free(data);
    atomic_fetch_sub(&receipt->unread->bytes, receipt->size);
    unread_release(receipt->unread);
    free(receipt);
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
muster_door_send(struct muster_door *door, uint32_t guest, int64_t max_backlog, struct muster_buf *frame)
{
    struct unread *unread = unread_of(door, guest);
    size_t waiting = atomic_load(&unread->bytes), size;
    char id[GUEST_BYTES] = {0};
    struct receipt *receipt;
    zmq_msg_t message;
    char *data;

    memcpy(id + 1, &guest, sizeof guest);
    if (waiting > 0 && waiting + frame->size + ANSWER_EXTRA > (size_t)max_backlog)
        return drop(door, frame, MUSTER_OVERLOADED);
    if (zmq_send(door->commands.socket, id, sizeof id, ZMQ_SNDMORE | ZMQ_DONTWAIT) == -1)
        return drop(door, frame, errno == EAGAIN ? MUSTER_OVERLOADED : MUSTER_GONE);
    data = muster_buf_take(frame, &size);
    size += ANSWER_EXTRA;
    receipt = muster_alloc(sizeof *receipt);
    *receipt = (struct receipt){unread, size};
    atomic_fetch_add(&unread->references, 1);
    atomic_fetch_add(&unread->bytes, size);
    MUSTER_ASSERT(zmq_msg_init_data(&message, data, size - ANSWER_EXTRA, unread_free, receipt) == 0);
    if (zmq_msg_send(&message, door->commands.socket, ZMQ_DONTWAIT) == -1) {
        zmq_msg_close(&message);
        return drop(door, frame, MUSTER_GONE);
    }
    return MUSTER_OK;
}

void
door_commands_free(struct muster_door *door)
{
    struct unread *unread;

    for (unread = zhashx_first(door->unread); unread; unread = zhashx_next(door->unread))
        unread_release(unread);
    zhashx_destroy(&door->unread);
}
