/* SPDX-License-Identifier: MPL-2.0 */
/* door_events: events to subscribers, and who hears what.  The loop's thread.  Subscriptions of all clients together
 * are bounded; beyond that, and when one sends what is none, all begin anew. */
#include <string.h>
#include <unistd.h>

#include "transport/door.h"

enum {
    SUBSCRIPTIONS = 1024, /* for each of max_clients, all together */
    RESET_MS = 20,        /* pause between tries to have an endpoint again */
    LATE_MS = 500
};

static void
look_for_file(void *arg)
{
    struct muster_door *door = arg;

    door->reset_timer = 0;
    if (access(door_ipc_path(&door->events), F_OK) == -1)
        muster_door_reset(door);
}

static void
try_again(void *arg)
{
    struct muster_door *door = arg;
    char problem[256];

    door->reset_timer = 0;
    if (door_way_begin(door, &door->events, problem, sizeof problem))
        door->reset_timer = muster_loop_timer(door->loop, RESET_MS, try_again, door);
    else if (door_ipc_path(&door->events)) /* a libzmq that removes the file of the old one late removes this one's */
        door->reset_timer = muster_loop_timer(door->loop, LATE_MS, look_for_file, door);
}

void
muster_door_reset(struct muster_door *door)
{
    if (door->events.socket == NULL)
        return;
    door_way_end(door, &door->events);
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
    const uint8_t *key = door_key_of(message, room);

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
    const uint8_t *key = door_key_of(message, room);

    door->counts.malformed++;
    if (!door->events.curve)
        return;
    if (key && !door_is_outcast(door, key)) {
        door->outcasts = muster_realloc(door->outcasts, (door->outcast_count + 1) * sizeof *door->outcasts);
        memcpy(door->outcasts[door->outcast_count++], key, MUSTER_CURVE);
    }
    muster_door_reset(door);
}

bool
door_take_subscription(struct muster_door *door)
{
    zmq_msg_t message;
    size_t count = door->events.socket ? door_receive(door->events.socket, &message, 1) : 0;
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
    door_let_go(&message, count, 1);
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
