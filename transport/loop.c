/* SPDX-License-Identifier: MPL-2.0 */
/* loop: the thread under every actor that has a mailbox.
 *
 * One epoll set holds the mailbox's descriptor, the watched ones, a timerfd and the eventfd that stops it.  czmq's
 * zloop is not used: it polls each socket twice a turn, which was a sixth of the system calls of a request, rebuilds
 * its set at each change and searches its timers.  Nor is zactor, since czmq detaches its threads: when
 * muster_runner_stop returns nothing of this one is left.  Starting fails when the thread, sockets, descriptors or the
 * `begin` hook fail. */
#include "transport/muster_loop.h"

#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "transport/mail.h"
#include "transport/numbers.h"
#include "transport/timers.h"

enum { DESCRIPTORS = 64 }; /* handled before the loop looks at the mailbox */

struct watch {
    int fd;
    int events; /* MUSTER_WATCH_... */
    bool dead;  /* unwatched; an event of the current batch may still point here */
    void (*ready)(void *arg, int fd, int events);
    void *arg;
    struct watch *next_dead;
};

struct muster_loop {
    const struct muster_runner_hooks *hooks; /* borrowed, with `arg` */
    void *arg;
    struct muster_post *post;
    bool stopping;
    int stop_fd; /* the runner's; tells events apart by its address */
    int epoll_fd;
    int timer_fd;
    int64_t armed_ns; /* what the timerfd is set to; INT64_MAX: nothing */
    struct timers *timers;
    zhashx_t *watches;  /* fd + 1 -> struct watch */
    struct watch *dead; /* freed after the batch */
};

struct muster_runner {
    pthread_t thread;
    int stop_fd;            /* an eventfd */
    sem_t begun;            /* posted when `err` is set */
    struct muster_bus *bus; /* the rest is what the new thread needs to begin, borrowed until it has */
    const char *address;
    size_t limit;
    const struct muster_runner_hooks *hooks;
    void *arg;
    muster_err err; /* how beginning went */
};

/* ---- clock ------------------------------------------------------------------------------------------------------- */

int64_t
muster_clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t
muster_uptime_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- timers ------------------------------------------------------------------------------------------------------ */

int
muster_loop_timer(struct muster_loop *loop, int64_t delay_ms, void (*fire)(void *arg), void *arg)
{
    const int64_t longest_ms = INT64_MAX / 4000000; /* 73 years */

    if (delay_ms < 0)
        delay_ms = 0;
    if (delay_ms > longest_ms)
        delay_ms = longest_ms;
    return timers_add(loop->timers, muster_uptime_ns() + delay_ms * 1000000, fire, arg);
}

void
muster_loop_timer_end(struct muster_loop *loop, int timer)
{
    timers_end(loop->timers, timer);
}

/* Set the timerfd when the next timer is due earlier than it would ring.  One that rings too early, since its timer was
 * ended or moved on, only leads here again: a timeout that is restarted at every line costs no system call. */
static void
arm(struct muster_loop *loop)
{
    int64_t next_ns = timers_next_ns(loop->timers);
    struct itimerspec spec = {.it_value = {.tv_sec = next_ns / 1000000000, .tv_nsec = next_ns % 1000000000}};

    if (next_ns >= loop->armed_ns)
        return;
    MUSTER_ASSERT(timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL) == 0);
    loop->armed_ns = next_ns;
}

static void
ring(struct muster_loop *loop)
{
    uint64_t rings;

    if (read(loop->timer_fd, &rings, sizeof rings) != sizeof rings)
        return;
    loop->armed_ns = INT64_MAX;
    timers_fire(loop->timers, muster_uptime_ns());
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

static void *
key_of(int fd)
{
    return (void *)((intptr_t)fd + 1);
}

void
muster_loop_watch(struct muster_loop *loop, int fd, int events, void (*ready)(void *arg, int fd, int events), void *arg)
{
    struct watch *watch = zhashx_lookup(loop->watches, key_of(fd));
    struct epoll_event event = {.events = 0};

    if (!watch) {
        watch = muster_alloc(sizeof *watch);
        watch->fd = fd;
        zhashx_insert(loop->watches, key_of(fd), watch);
    }
    watch->events = events;
    watch->ready = ready;
    watch->arg = arg;
    if (events & MUSTER_WATCH_READ)
        event.events |= EPOLLIN;
    if (events & MUSTER_WATCH_WRITE)
        event.events |= EPOLLOUT;
    event.data.ptr = watch;
    /* Closing a descriptor takes it out of the set behind our back. */
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, fd, &event) == -1)
        MUSTER_ASSERT(epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0);
}

void
muster_loop_unwatch(struct muster_loop *loop, int fd)
{
    struct watch *watch = zhashx_lookup(loop->watches, key_of(fd));

    if (!watch)
        return;
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* fails when it was closed already */
    zhashx_delete(loop->watches, key_of(fd));
    watch->dead = true;
    watch->next_dead = loop->dead;
    loop->dead = watch;
}

static void
dispatch(const struct watch *watch, uint32_t found)
{
    int events = 0;

    if (watch->dead)
        return;
    if (found & EPOLLIN)
        events |= MUSTER_WATCH_READ;
    if (found & EPOLLOUT)
        events |= MUSTER_WATCH_WRITE;
    if (found & (EPOLLHUP | EPOLLERR)) /* whatever is tried next will show it */
        events = watch->events;
    events &= watch->events; /* another callback of the batch may have changed them */
    if (events || (found & (EPOLLHUP | EPOLLERR)))
        watch->ready(watch->arg, watch->fd, events);
}

static void
bury(struct muster_loop *loop)
{
    struct watch *watch;

    while ((watch = loop->dead)) {
        loop->dead = watch->next_dead;
        free(watch);
    }
}

/* ---- rounds ------------------------------------------------------------------------------------------------------ */

static void
settle(struct muster_loop *loop)
{
    bury(loop);
    arm(loop);
}

static void
end_batch(struct muster_loop *loop)
{
    if (loop->hooks->idle)
        loop->hooks->idle(loop->arg);
    settle(loop);
}

/* Returns whether there may be more, of which nothing tells. */
static bool
take_mail(struct muster_loop *loop)
{
    size_t batch = loop->hooks->batch ? loop->hooks->batch : MUSTER_BATCH, count = 0;
    struct muster_frame frame;
    bool lingered = false;

    while (count < batch && !muster_post_receive(loop->post, 0, -1, &frame)) {
        loop->hooks->frame(loop->arg, frame.data, frame.size);
        muster_frame_free(&frame);
        count++;
        if (count > 1 && !lingered) /* there is load */
            lingered = post_linger(loop->post);
    }
    if (count > 0)
        end_batch(loop);
    return count == batch;
}

static void
take_descriptors(struct muster_loop *loop, bool wait)
{
    struct epoll_event events[DESCRIPTORS];
    int count = epoll_wait(loop->epoll_fd, events, DESCRIPTORS, wait ? -1 : 0);
    bool handled = false;

    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == &loop->post)
            continue; /* the mailbox is looked at in each round */
        if (events[i].data.ptr == &loop->stop_fd)
            loop->stopping = true;
        else if (events[i].data.ptr == &loop->timer_fd)
            ring(loop);
        else
            dispatch(events[i].data.ptr, events[i].events);
        handled = true;
    }
    if (handled)
        end_batch(loop);
}

/* The mailbox's descriptor becomes readable once for whatever comes after a receive has failed. */
static void
go_round(struct muster_loop *loop)
{
    bool more = true;

    while (!loop->stopping) {
        take_descriptors(loop, !more);
        more = take_mail(loop);
    }
}

/* What came before the end is handled before the end; `limit` keeps a thread that writes to itself from living on. */
static void
finish_mail(struct muster_loop *loop, size_t limit)
{
    struct muster_frame frame;
    size_t count;

    for (count = 0; count < limit && !muster_post_receive(loop->post, 0, -1, &frame); count++) {
        loop->hooks->frame(loop->arg, frame.data, frame.size);
        muster_frame_free(&frame);
    }
    if (count > 0)
        end_batch(loop);
}

/* ---- thread ------------------------------------------------------------------------------------------------------ */

static bool
add_own(struct muster_loop *loop, int *fd_p)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd_p};

    return *fd_p != -1 && epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd_p, &event) == 0;
}

static muster_err
loop_init(struct muster_loop *loop, const struct muster_runner *runner)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &loop->post};
    muster_err err;

    loop->hooks = runner->hooks;
    loop->arg = runner->arg;
    loop->stop_fd = runner->stop_fd;
    loop->armed_ns = INT64_MAX;
    loop->timers = timers_new();
    loop->watches = numbers_new();
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd == -1 || !add_own(loop, &loop->timer_fd) || !add_own(loop, &loop->stop_fd))
        return MUSTER_OVERLOADED;
    err = muster_post_open(runner->bus, runner->address, runner->limit, &loop->post);
    if (err)
        return err;
    MUSTER_ASSERT(epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, zsock_fd(post_socket(loop->post)), &event) == 0);
    return MUSTER_OK;
}

static void
loop_fini(struct muster_loop *loop)
{
    struct watch *watch;

    muster_post_close(&loop->post);
    timers_free(&loop->timers);
    for (watch = zhashx_first(loop->watches); watch; watch = zhashx_next(loop->watches))
        free(watch);
    zhashx_destroy(&loop->watches);
    bury(loop);
    if (loop->timer_fd != -1)
        close(loop->timer_fd);
    if (loop->epoll_fd != -1)
        close(loop->epoll_fd);
}

void
muster_signals_block(void)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}

/* The whole life of the thread. */
static void *
run(void *arg)
{
    struct muster_runner *runner = arg;
    struct muster_loop loop = {.epoll_fd = -1, .timer_fd = -1};
    muster_err err;

    muster_signals_block();
    if (runner->address)
        prctl(PR_SET_NAME, runner->address);
    err = loop_init(&loop, runner);
    if (!err)
        err = loop.hooks->begin(loop.arg, &loop);
    runner->err = err;
    sem_post(&runner->begun); /* muster_runner_start goes on; what it lent is not ours from here */
    if (!err) {
        settle(&loop);
        go_round(&loop);
        finish_mail(&loop, runner->limit);
        if (loop.hooks->end)
            loop.hooks->end(loop.arg);
    }
    loop_fini(&loop);
    return NULL;
}

static void
runner_free(struct muster_runner *runner)
{
    if (runner->stop_fd != -1)
        close(runner->stop_fd);
    sem_destroy(&runner->begun);
    free(runner);
}

muster_err
muster_runner_start(struct muster_bus *bus, const char *address, size_t limit, const struct muster_runner_hooks *hooks,
                    void *arg, struct muster_runner **out_runner)
{
    struct muster_runner *runner = muster_alloc(sizeof *runner);
    muster_err err = MUSTER_OVERLOADED;

    runner->bus = bus;
    runner->address = address;
    runner->limit = limit;
    runner->hooks = hooks;
    runner->arg = arg;
    runner->stop_fd = eventfd(0, EFD_CLOEXEC);
    sem_init(&runner->begun, 0, 0);
    if (runner->stop_fd != -1 && pthread_create(&runner->thread, NULL, run, runner) == 0) {
        while (sem_wait(&runner->begun) == -1) /* interrupted */
            continue;
        err = runner->err;
        if (err)
            pthread_join(runner->thread, NULL);
    }
    if (err)
        runner_free(runner);
    else
        *out_runner = runner;
    return err;
}

void
muster_runner_stop(struct muster_runner **runner_p)
{
    struct muster_runner *runner = *runner_p;

    if (!runner)
        return;
    MUSTER_ASSERT(eventfd_write(runner->stop_fd, 1) == 0);
    pthread_join(runner->thread, NULL);
    runner_free(runner);
    *runner_p = NULL;
}

struct muster_post *
muster_loop_post(struct muster_loop *loop)
{
    return loop->post;
}
