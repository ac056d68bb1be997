/* SPDX-License-Identifier: MPL-2.0 */
/* board: immutable objects by name, each kept until its last reader is done.  Any thread; nothing here fails. */
#include "transport/mail.h"

struct muster_notice {
    void *object;
    void (*destroy)(void *object); /* may be NULL */
    atomic_size_t references;      /* the board and readers */
};

void
muster_board_publish(struct muster_bus *bus, const char *name, void *object, void (*destroy)(void *object))
{
    struct muster_notice *notice = muster_alloc(sizeof *notice);
    struct muster_notice *old;

    notice->object = object;
    notice->destroy = destroy;
    atomic_init(&notice->references, 1);
    pthread_mutex_lock(&bus->board_lock);
    old = zhashx_lookup(bus->board, name);
    zhashx_update(bus->board, name, notice);
    pthread_mutex_unlock(&bus->board_lock);
    muster_notice_release(&old);
}

struct muster_notice *
muster_board_take(struct muster_bus *bus, const char *name)
{
    struct muster_notice *notice;

    pthread_mutex_lock(&bus->board_lock);
    notice = zhashx_lookup(bus->board, name);
    if (notice)
        atomic_fetch_add(&notice->references, 1);
    pthread_mutex_unlock(&bus->board_lock);
    return notice;
}

const void *
muster_notice_object(const struct muster_notice *notice)
{
    return notice->object;
}

void
muster_notice_release(struct muster_notice **notice_p)
{
    struct muster_notice *notice = *notice_p;

    *notice_p = NULL;
    if (!notice || atomic_fetch_sub(&notice->references, 1) > 1)
        return;
    if (notice->destroy)
        notice->destroy(notice->object);
    free(notice);
}

void
board_fini(struct muster_bus *bus)
{
    struct muster_notice *notice;

    for (notice = zhashx_first(bus->board); notice; notice = zhashx_next(bus->board)) {
        struct muster_notice *last = notice;

        muster_notice_release(&last);
    }
}
