/* SPDX-License-Identifier: MPL-2.0 */
/* mail: the registry of mailboxes, sending, receiving and gauges.
 *
 * Any thread may send and look at gauges; a post is received from and closed by the thread that opened it.  Fails when
 * no more sockets can be made, when a mailbox is full and when nobody has an address. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "transport/mail.h"
#include "transport/muster_loop.h"

enum { SOCKETS_MIN = 1024, SOCKETS_MAX = 65535 };

struct muster_post {
    struct muster_bus *bus;  /* borrowed; outlives us */
    struct mailbox *mailbox; /* a reference */
    zsock_t *pull;
    void *handle; /* of `pull`, for the pump */
    bool crowded; /* whoever was sent to last had other messages too */
};

_Static_assert(sizeof(zmq_msg_t) <= sizeof(((struct muster_frame *)0)->opaque), "a frame holds a ZeroMQ message");

/* ---- set up ------------------------------------------------------------------------------------------------------ */

/* czmq has one context a process.  Signals belong to the program; a socket costs a descriptor, so there is no use in
 * more sockets than descriptors.  The limit has no effect when the program made czmq sockets before. */
static void
set_up_czmq(void)
{
    struct rlimit limit;
    int sockets = SOCKETS_MIN;

    zsys_handler_set(NULL);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > SOCKETS_MIN)
        sockets = limit.rlim_cur < SOCKETS_MAX ? (int)limit.rlim_cur : SOCKETS_MAX;
    zmq_ctx_set(zsys_init(), ZMQ_MAX_SOCKETS, sockets);
}

/* ---- bus --------------------------------------------------------------------------------------------------------- */

struct muster_bus *
muster_bus_new(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT; /* czmq keeps its settings in globals */
    struct muster_bus *bus = muster_alloc(sizeof *bus);
    zuuid_t *uuid;

    pthread_once(&once, set_up_czmq);
    uuid = zuuid_new();
    snprintf(bus->id, sizeof bus->id, "%s", zuuid_str(uuid));
    zuuid_destroy(&uuid);
    pthread_mutex_init(&bus->lock, NULL);
    pthread_mutex_init(&bus->feed_lock, NULL);
    pthread_mutex_init(&bus->board_lock, NULL);
    bus->mailboxes = zhashx_new();
    bus->board = zhashx_new();
    return bus;
}

void
muster_bus_free(struct muster_bus **bus_p)
{
    struct muster_bus *bus = *bus_p;

    if (!bus)
        return;
    MUSTER_ASSERT(zhashx_size(bus->mailboxes) == 0);
    feed_fini(bus);
    board_fini(bus);
    zhashx_destroy(&bus->mailboxes);
    zhashx_destroy(&bus->board);
    pthread_mutex_destroy(&bus->lock);
    pthread_mutex_destroy(&bus->feed_lock);
    pthread_mutex_destroy(&bus->board_lock);
    free(bus);
    *bus_p = NULL;
}

/* ---- mailbox ----------------------------------------------------------------------------------------------------- */

struct mailbox *
mailbox_find(struct muster_bus *bus, const char *address)
{
    struct mailbox *mailbox;

    pthread_mutex_lock(&bus->lock);
    mailbox = zhashx_lookup(bus->mailboxes, address);
    if (mailbox)
        atomic_fetch_add(&mailbox->references, 1);
    pthread_mutex_unlock(&bus->lock);
    return mailbox;
}

void
mailbox_release(struct mailbox *mailbox)
{
    if (!mailbox || atomic_fetch_sub(&mailbox->references, 1) > 1)
        return;
    MUSTER_ASSERT(!mailbox->push);
    pthread_mutex_destroy(&mailbox->lock);
    free(mailbox->address);
    free(mailbox);
}

muster_err
mailbox_put(struct mailbox *mailbox, zmq_msg_t *message)
{
    muster_err err = MUSTER_NOT_FOUND;

    pthread_mutex_lock(&mailbox->lock);
    if (mailbox->push && atomic_load(&mailbox->waiting) >= mailbox->limit) {
        err = MUSTER_OVERLOADED;
    } else if (mailbox->push) {
        atomic_fetch_add(&mailbox->waiting, 1); /* before the receiver can count it off */
        if (zmq_msg_send(message, zsock_resolve(mailbox->push), ZMQ_DONTWAIT) >= 0)
            err = MUSTER_OK;
        else /* the context ends with the process */
            atomic_fetch_sub(&mailbox->waiting, 1);
    }
    pthread_mutex_unlock(&mailbox->lock);
    return err;
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

/* Enter the mailbox in the registry under its address, or under a fresh one. */
static muster_err
enter(struct muster_bus *bus, struct mailbox *mailbox, const char *address, uint64_t *out_number)
{
    char made[40];
    muster_err err = MUSTER_OK;

    pthread_mutex_lock(&bus->lock);
    if (!address) {
        mailbox->fresh = true;
        do
            snprintf(made, sizeof made, "caller/%llu", (unsigned long long)++bus->callers);
        while (zhashx_lookup(bus->mailboxes, made));
        address = made;
    }
    if (zhashx_insert(bus->mailboxes, address, mailbox) == 0) {
        mailbox->address = muster_strdup(address);
        atomic_fetch_add(&mailbox->references, 1);
        *out_number = ++bus->opened;
    } else {
        err = MUSTER_EXISTS;
    }
    pthread_mutex_unlock(&bus->lock);
    return err;
}

/* Both ends of the mailbox.  The endpoint is numbered, since ZeroMQ frees the name of a closed socket some time later.
 */
static muster_err
connect_ends(struct muster_post *post, uint64_t number)
{
    struct mailbox *mailbox = post->mailbox;
    zsock_t *push;

    post->pull = zsock_new(ZMQ_PULL);
    push = post->pull ? zsock_new(ZMQ_PUSH) : NULL;
    if (!push)
        return MUSTER_OVERLOADED;
    zsock_set_unbounded(post->pull);
    zsock_set_unbounded(push);
    zsock_set_linger(push, 0);
    if (zsock_bind(post->pull, "inproc://muster/%s/%llu", post->bus->id, (unsigned long long)number) == -1 ||
        zsock_connect(push, "inproc://muster/%s/%llu", post->bus->id, (unsigned long long)number) == -1) {
        zsock_destroy(&push);
        return MUSTER_OVERLOADED;
    }
    post->handle = zsock_resolve(post->pull);
    pthread_mutex_lock(&mailbox->lock);
    mailbox->push = push;
    pthread_mutex_unlock(&mailbox->lock);
    return MUSTER_OK;
}

muster_err
muster_post_open(struct muster_bus *bus, const char *address, size_t limit, struct muster_post **out_post)
{
    struct muster_post *post = muster_alloc(sizeof *post);
    uint64_t number = 0;
    muster_err err;

    post->bus = bus;
    post->mailbox = muster_alloc(sizeof *post->mailbox);
    post->mailbox->limit = limit;
    atomic_init(&post->mailbox->references, 1);
    pthread_mutex_init(&post->mailbox->lock, NULL);
    err = enter(bus, post->mailbox, address, &number);
    if (!err)
        err = connect_ends(post, number);
    if (err)
        muster_post_close(&post);
    else
        *out_post = post;
    return err;
}

void
muster_post_close(struct muster_post **post_p)
{
    struct muster_post *post = *post_p;
    struct mailbox *mailbox;
    zsock_t *push;

    if (!post)
        return;
    mailbox = post->mailbox;
    if (mailbox->address) { /* it was entered */
        pthread_mutex_lock(&post->bus->lock);
        zhashx_delete(post->bus->mailboxes, mailbox->address);
        pthread_mutex_unlock(&post->bus->lock);
        mailbox_release(mailbox);
    }
    pthread_mutex_lock(&mailbox->lock);
    push = mailbox->push;
    mailbox->push = NULL;
    pthread_mutex_unlock(&mailbox->lock);
    feed_forget(post->bus, mailbox);
    zsock_destroy(&push);
    zsock_destroy(&post->pull); /* with what waits in it */
    mailbox_release(mailbox);
    free(post);
    *post_p = NULL;
}

size_t
muster_post_waiting(const struct muster_post *post)
{
    return atomic_load(&post->mailbox->waiting);
}

const char *
muster_post_address(const struct muster_post *post)
{
    return post->mailbox->address;
}

struct muster_bus *
post_bus(struct muster_post *post)
{
    return post->bus;
}

bool
post_linger(struct muster_post *post)
{
    bool empty = muster_post_waiting(post) == 0;

    if (empty)
        pace_yield(&post->bus->pace);
    return empty;
}

zsock_t *
post_socket(struct muster_post *post)
{
    return post->pull;
}

/* ---- send -------------------------------------------------------------------------------------------------------- */

static void
free_data(void *data, void *hint)
{
    (void)hint;
    free(data);
}

void
message_take(zmq_msg_t *message, struct muster_buf *frame)
{
    size_t size = 0;
    char *data = muster_buf_take(frame, &size);

    if (size == 0 || zmq_msg_init_data(message, data, size, free_data, NULL) == -1) {
        MUSTER_ASSERT(size == 0); /* only memory can be missing */
        free(data);
        zmq_msg_init(message);
    }
}

static muster_err
send_to(struct mailbox *mailbox, struct muster_buf *frame)
{
    muster_err err = MUSTER_NOT_FOUND;
    zmq_msg_t message;

    message_take(&message, frame);
    if (mailbox)
        err = mailbox_put(mailbox, &message);
    if (err == MUSTER_OVERLOADED)
        atomic_fetch_add(&mailbox->refused, 1);
    zmq_msg_close(&message);
    return err;
}

muster_err
muster_post_send(struct muster_post *post, const char *to, struct muster_buf *frame)
{
    struct mailbox *mailbox = mailbox_find(post->bus, to);
    muster_err err = send_to(mailbox, frame);

    post->crowded = mailbox && atomic_load(&mailbox->waiting) > 1;
    mailbox_release(mailbox);
    return err;
}

muster_err
muster_bus_send(struct muster_bus *bus, const char *to, struct muster_buf *frame)
{
    struct mailbox *mailbox = mailbox_find(bus, to);
    muster_err err = send_to(mailbox, frame);

    mailbox_release(mailbox);
    return err;
}

/* ---- receive ----------------------------------------------------------------------------------------------------- */

static int64_t
uptime_ms(void)
{
    return muster_uptime_ns() / 1000000;
}

static bool
receive_now(struct muster_post *post, struct muster_frame *out_frame)
{
    zmq_msg_t *message = (zmq_msg_t *)out_frame->opaque;
    int rc;

    zmq_msg_init(message);
    do
        rc = zmq_msg_recv(message, post->handle, ZMQ_DONTWAIT);
    while (rc == -1 && zmq_errno() == EINTR);
    if (rc == -1)
        return false;
    atomic_fetch_sub(&post->mailbox->waiting, 1);
    out_frame->data = zmq_msg_data(message);
    out_frame->size = zmq_msg_size(message);
    return true;
}

/* Sleep until a message may be there.  A failed receive has consumed all that was signalled on the socket's descriptor,
 * so that what comes later makes it readable and no wake-up is lost.  Bytes the client sent ahead are no event. */
static muster_err
wait_for_mail(struct muster_post *post, int64_t until_ms, int watch_fd)
{
    struct pollfd fds[2] = {{.fd = zsock_fd(post->pull), .events = POLLIN}, {.fd = watch_fd, .events = POLLRDHUP}};
    int64_t left_ms = -1;

    if (until_ms >= 0) {
        left_ms = until_ms - uptime_ms();
        if (left_ms <= 0)
            return MUSTER_TIMEOUT;
        if (left_ms > INT_MAX)
            left_ms = INT_MAX;
    }
    if (poll(fds, watch_fd == -1 ? 1 : 2, (int)left_ms) <= 0 || fds[0].revents)
        return MUSTER_OK; /* interrupted, or time to look again */
    return fds[1].revents ? MUSTER_GONE : MUSTER_OK;
}

muster_err
muster_post_receive(struct muster_post *post, int64_t timeout_ms, int watch_fd, struct muster_frame *out_frame)
{
    int64_t until_ms = timeout_ms > 0 && timeout_ms < INT64_MAX / 2 ? uptime_ms() + timeout_ms : -1;
    muster_err err = MUSTER_OK;

    if (timeout_ms != 0 && post->crowded)
        (void)post_linger(post);
    while (!receive_now(post, out_frame)) {
        if (timeout_ms == 0 || zmq_errno() == ETERM)
            return MUSTER_TIMEOUT;
        err = wait_for_mail(post, until_ms, watch_fd);
        if (err)
            return err;
    }
    return MUSTER_OK;
}

void
muster_frame_free(struct muster_frame *frame)
{
    if (frame->data)
        zmq_msg_close((zmq_msg_t *)frame->opaque);
    frame->data = NULL;
    frame->size = 0;
}

/* ---- gauges ------------------------------------------------------------------------------------------------------ */

/* References to all named mailboxes, so that `visit` runs without the lock. */
static struct mailbox **
collect(struct muster_bus *bus, size_t *out_count)
{
    struct mailbox **all;
    struct mailbox *mailbox;
    size_t count = 0;

    pthread_mutex_lock(&bus->lock);
    all = muster_alloc((zhashx_size(bus->mailboxes) + 1) * sizeof(struct mailbox *));
    for (mailbox = zhashx_first(bus->mailboxes); mailbox; mailbox = zhashx_next(bus->mailboxes)) {
        if (mailbox->fresh)
            continue;
        atomic_fetch_add(&mailbox->references, 1);
        all[count++] = mailbox;
    }
    pthread_mutex_unlock(&bus->lock);
    *out_count = count;
    return all;
}

void
muster_bus_gauges(struct muster_bus *bus, void (*visit)(void *arg, const struct muster_mailbox_gauge *gauge), void *arg)
{
    size_t count = 0;
    struct mailbox **all = collect(bus, &count);

    for (size_t i = 0; i < count; i++) {
        struct muster_mailbox_gauge gauge = {.address = all[i]->address,
                                             .waiting = atomic_load(&all[i]->waiting),
                                             .limit = all[i]->limit,
                                             .refused = atomic_load(&all[i]->refused)};

        visit(arg, &gauge);
        mailbox_release(all[i]);
    }
    free(all);
}
