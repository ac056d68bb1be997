/* SPDX-License-Identifier: MPL-2.0 */
/* feed: one message to the mailbox of every subscriber that wants it, its bytes shared and not copied.
 *
 * Any thread subscribes, one thread publishes.  Publishing never fails: a mailbox that is full misses the message. */
#include "transport/mail.h"

static size_t
place_of(const struct muster_bus *bus, const struct mailbox *mailbox)
{
    size_t place = 0;

    while (place < bus->subscriber_count && bus->subscribers[place].mailbox != mailbox)
        place++;
    return place;
}

muster_err
muster_feed_subscribe(struct muster_bus *bus, const char *address, unsigned kinds)
{
    struct mailbox *mailbox = mailbox_find(bus, address);
    size_t place;
    bool open;

    if (!mailbox)
        return MUSTER_NOT_FOUND;
    pthread_mutex_lock(&bus->feed_lock);
    pthread_mutex_lock(&mailbox->lock); /* a mailbox that closes empties `push` first and leaves the feed after that */
    open = mailbox->push != NULL;
    pthread_mutex_unlock(&mailbox->lock);
    place = place_of(bus, mailbox);
    if (open && place == bus->subscriber_count) {
        bus->subscribers = muster_realloc(bus->subscribers, (place + 1) * sizeof *bus->subscribers);
        bus->subscribers[bus->subscriber_count++].mailbox = mailbox;
        atomic_fetch_add(&mailbox->references, 1);
    }
    if (open)
        bus->subscribers[place].kinds = kinds;
    pthread_mutex_unlock(&bus->feed_lock);
    mailbox_release(mailbox);
    return open ? MUSTER_OK : MUSTER_NOT_FOUND;
}

void
feed_forget(struct muster_bus *bus, struct mailbox *mailbox)
{
    size_t place;
    bool found;

    pthread_mutex_lock(&bus->feed_lock);
    place = place_of(bus, mailbox);
    found = place < bus->subscriber_count;
    if (found)
        bus->subscribers[place] = bus->subscribers[--bus->subscriber_count];
    pthread_mutex_unlock(&bus->feed_lock);
    if (found)
        mailbox_release(mailbox);
}

void
muster_feed_unsubscribe(struct muster_bus *bus, const char *address)
{
    struct mailbox *mailbox = mailbox_find(bus, address);

    if (mailbox)
        feed_forget(bus, mailbox);
    mailbox_release(mailbox);
}

bool
muster_feed_is_wanted(struct muster_post *post, unsigned kinds)
{
    struct muster_bus *bus = post_bus(post);
    bool wanted = false;

    pthread_mutex_lock(&bus->feed_lock);
    for (size_t i = 0; i < bus->subscriber_count; i++)
        wanted = wanted || (bus->subscribers[i].kinds & kinds);
    pthread_mutex_unlock(&bus->feed_lock);
    return wanted;
}

void
muster_feed_publish(struct muster_post *post, unsigned kinds, struct muster_buf *frame)
{
    struct muster_bus *bus = post_bus(post);
    zmq_msg_t message, copy;

    message_take(&message, frame);
    pthread_mutex_lock(&bus->feed_lock);
    for (size_t i = 0; i < bus->subscriber_count; i++) {
        if (!(bus->subscribers[i].kinds & kinds))
            continue;
        zmq_msg_init(&copy);
        zmq_msg_copy(&copy, &message);
        if (mailbox_put(bus->subscribers[i].mailbox, &copy))
            atomic_fetch_add(&bus->subscribers[i].mailbox->missed, 1);
        zmq_msg_close(&copy);
    }
    pthread_mutex_unlock(&bus->feed_lock);
    zmq_msg_close(&message);
}

size_t
muster_feed_missed(struct muster_bus *bus, const char *address)
{
    struct mailbox *mailbox = mailbox_find(bus, address);
    size_t missed = mailbox ? atomic_exchange(&mailbox->missed, 0) : 0;

    mailbox_release(mailbox);
    return missed;
}

void
feed_fini(struct muster_bus *bus)
{
    MUSTER_ASSERT(bus->subscriber_count == 0); /* mailboxes leave the feed when they close */
    free(bus->subscribers);
}
