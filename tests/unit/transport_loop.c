/* SPDX-License-Identifier: MPL-2.0 */
/* Runners: a thread with a mailbox, timers and descriptors. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "transport/muster_loop.h"

/* One actor of a test.  `script` runs in `begin`; whatever it starts tells the test what happened by `say`. */
struct actor {
    struct muster_bus *bus;
    struct muster_loop *loop;
    struct muster_runner *runner;
    struct muster_post *test; /* the test's mailbox, on its thread */
    muster_err begin_err;
    void (*script)(struct actor *actor);
    atomic_int begun, ended, idles;
    int frames;
    int timers[8];
    int fds[8];
    int count;
    pthread_t thread;
};

static void
say(struct actor *actor, const char *content)
{
    struct muster_buf buf = {0};

    muster_buf_str(&buf, content);
    cr_assert_eq(muster_post_send(muster_loop_post(actor->loop), "test", &buf), MUSTER_OK);
}

static void
expect(struct actor *actor, const char *content)
{
    struct muster_frame frame;

    cr_assert_eq(muster_post_receive(actor->test, 20000, -1, &frame), MUSTER_OK, "waiting for %s", content);
    cr_assert(frame.size == strlen(content) && memcmp(frame.data, content, frame.size) == 0, "expected %s, got %.*s",
              content, (int)frame.size, (const char *)frame.data);
    muster_frame_free(&frame);
}

static void
expect_nothing(struct actor *actor)
{
    struct muster_frame frame;

    cr_assert_eq(muster_post_receive(actor->test, 0, -1, &frame), MUSTER_TIMEOUT);
}

static muster_err
begin(void *arg, struct muster_loop *loop)
{
    struct actor *actor = arg;

    actor->loop = loop;
    actor->thread = pthread_self();
    atomic_fetch_add(&actor->begun, 1);
    if (actor->script)
        actor->script(actor);
    return actor->begin_err;
}

/* Messages come back, with their number. */
static void
frame(void *arg, const void *data, size_t size)
{
    struct actor *actor = arg;
    char content[128];

    cr_assert(pthread_equal(actor->thread, pthread_self()));
    snprintf(content, sizeof content, "%d %.*s", actor->frames++, (int)size, (const char *)data);
    say(actor, content);
}

static void
idle(void *arg)
{
    struct actor *actor = arg;

    atomic_fetch_add(&actor->idles, 1);
}

static void
end(void *arg)
{
    struct actor *actor = arg;

    cr_assert(pthread_equal(actor->thread, pthread_self()));
    atomic_fetch_add(&actor->ended, 1);
}

static const struct muster_runner_hooks hooks = {.begin = begin, .frame = frame, .idle = idle, .end = end};

static void
set_up(struct actor *actor, void (*script)(struct actor *actor))
{
    *actor = (struct actor){.script = script};
    actor->bus = muster_bus_new();
    cr_assert_eq(muster_post_open(actor->bus, "test", 100000, &actor->test), MUSTER_OK);
}

static void
start(struct actor *actor, void (*script)(struct actor *actor))
{
    set_up(actor, script);
    cr_assert_eq(muster_runner_start(actor->bus, "actor", 100000, &hooks, actor, &actor->runner), MUSTER_OK);
}

static void
stop(struct actor *actor)
{
    muster_runner_stop(&actor->runner);
    muster_post_close(&actor->test);
    muster_bus_free(&actor->bus);
}

static void
tell(struct actor *actor, const char *content)
{
    struct muster_buf buf = {0};

    muster_buf_str(&buf, content);
    cr_assert_eq(muster_post_send(actor->test, "actor", &buf), MUSTER_OK);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

Test(loop, start_returns_after_begin_and_stop_after_end)
{
    struct actor actor;

    start(&actor, NULL);
    cr_assert_eq(atomic_load(&actor.begun), 1);
    cr_assert_eq(atomic_load(&actor.ended), 0);
    muster_runner_stop(&actor.runner);
    cr_assert_null(actor.runner);
    cr_assert_eq(atomic_load(&actor.ended), 1);
    stop(&actor);
}

Test(loop, begin_may_fail)
{
    struct actor actor;

    set_up(&actor, NULL);
    actor.begin_err = MUSTER_STORAGE_ERROR;
    cr_assert_eq(muster_runner_start(actor.bus, "actor", 10, &hooks, &actor, &actor.runner), MUSTER_STORAGE_ERROR);
    cr_assert_null(actor.runner);
    cr_assert_eq(atomic_load(&actor.ended), 0, "what did not begin does not end");
    actor.begin_err = MUSTER_OK;
    cr_assert_eq(muster_runner_start(actor.bus, "actor", 10, &hooks, &actor, &actor.runner), MUSTER_OK,
                 "its address is free again");
    stop(&actor);
}

Test(loop, taken_address_is_refused)
{
    struct actor actor;

    set_up(&actor, NULL);
    cr_assert_eq(muster_runner_start(actor.bus, "test", 10, &hooks, &actor, &actor.runner), MUSTER_EXISTS);
    cr_assert_null(actor.runner);
    cr_assert_eq(atomic_load(&actor.begun), 0);
    stop(&actor);
}

Test(loop, messages_are_handled_in_order)
{
    struct actor actor;
    char content[64];

    start(&actor, NULL);
    for (int i = 0; i < 20000; i++) {
        snprintf(content, sizeof content, "message %d", i);
        tell(&actor, content);
    }
    for (int i = 0; i < 20000; i++) {
        snprintf(content, sizeof content, "%d message %d", i, i);
        expect(&actor, content);
    }
    muster_runner_stop(&actor.runner);
    cr_assert_geq(atomic_load(&actor.idles), 20000 / 64);
    cr_assert_leq(atomic_load(&actor.idles), 20000);
    stop(&actor);
}

enum { MANY = 500 };

static void
fill_mailbox(struct actor *actor)
{
    struct muster_buf buf = {0};
    int i;

    for (i = 0; i < MANY; i++) {
        muster_buf_str(&buf, "x");
        cr_assert_eq(muster_post_send(muster_loop_post(actor->loop), "actor", &buf), MUSTER_OK);
    }
}

/* How often is `idle` called for messages that are all there at the start? */
static int
idles_of(size_t batch)
{
    const struct muster_runner_hooks batched = {
        .begin = begin, .frame = frame, .idle = idle, .end = end, .batch = batch};
    struct actor actor;
    char text[16];
    int i;

    set_up(&actor, fill_mailbox);
    cr_assert_eq(muster_runner_start(actor.bus, "actor", 100000, &batched, &actor, &actor.runner), MUSTER_OK);
    for (i = 0; i < MANY; i++) {
        snprintf(text, sizeof text, "%d x", i);
        expect(&actor, text);
    }
    stop(&actor);
    return atomic_load(&actor.idles);
}

Test(loop, messages_are_handled_in_batches_of_the_size_that_was_asked_for)
{
    cr_assert_geq(idles_of(50), MANY / 50);
    cr_assert_leq(idles_of(2 * MANY), 3, "one batch, and the stop");
}

Test(loop, what_came_before_the_stop_is_handled)
{
    struct actor actor;

    start(&actor, NULL);
    for (int i = 0; i < 50000; i++)
        tell(&actor, "a message that is longer than a small one, and is read");
    muster_runner_stop(&actor.runner);
    cr_assert_eq(actor.frames, 50000);
    cr_assert_eq(atomic_load(&actor.ended), 1);
    stop(&actor);
}

static void
write_to_itself(void *arg, const void *data, size_t size)
{
    struct actor *actor = arg;
    struct muster_buf buf = {0};

    muster_buf_add(&buf, data, size);
    actor->frames++;
    cr_assert_eq(muster_post_send(muster_loop_post(actor->loop), "actor", &buf), MUSTER_OK);
}

Test(loop, actor_that_writes_to_itself_can_be_stopped)
{
    const struct muster_runner_hooks endless = {.begin = begin, .frame = write_to_itself, .end = end};
    struct actor actor;

    set_up(&actor, NULL);
    cr_assert_eq(muster_runner_start(actor.bus, "actor", 100, &endless, &actor, &actor.runner), MUSTER_OK);
    tell(&actor, "again");
    stop(&actor);
    cr_assert_gt(actor.frames, 0);
    cr_assert_eq(atomic_load(&actor.ended), 1);
}

Test(loop, clock_is_in_milliseconds)
{
    int64_t now_s = (int64_t)time(NULL);

    cr_assert_leq(muster_clock_ms() / 1000 - now_s, 1);
    cr_assert_geq(muster_clock_ms() / 1000 - now_s, 0);
}

/* ---- timers ------------------------------------------------------------------------------------------------------ */

struct named {
    struct actor *actor;
    const char *name;
};

static void
fire_named(void *arg)
{
    struct named *named = arg;

    say(named->actor, named->name);
}

static void
timers_out_of_order(struct actor *actor)
{
    static struct named named[4] = {{.name = "third"}, {.name = "first"}, {.name = "second"}, {.name = "never"}};
    int never;

    for (int i = 0; i < 4; i++)
        named[i].actor = actor;
    never = muster_loop_timer(actor->loop, 10, fire_named, &named[3]);
    cr_assert_neq(muster_loop_timer(actor->loop, 30, fire_named, &named[0]), 0);
    cr_assert_neq(muster_loop_timer(actor->loop, -5, fire_named, &named[1]), 0);
    cr_assert_neq(muster_loop_timer(actor->loop, 20, fire_named, &named[2]), 0);
    muster_loop_timer(actor->loop, INT64_MAX, fire_named, &named[3]);
    muster_loop_timer_end(actor->loop, never);
    muster_loop_timer_end(actor->loop, never);
    muster_loop_timer_end(actor->loop, 0);
    muster_loop_timer_end(actor->loop, 12345);
}

Test(loop, timers_fire_once_by_due_time)
{
    struct actor actor;

    start(&actor, timers_out_of_order);
    expect(&actor, "first");
    expect(&actor, "second");
    expect(&actor, "third");
    expect_nothing(&actor);
    stop(&actor);
}

/* Of eight timers due at once the first ends itself and all others, then starts a new one. */
static void
fire_last(void *arg)
{
    say(arg, "last");
}

static void
fire_and_end_others(void *arg)
{
    struct actor *actor = arg;

    say(actor, "one");
    for (int i = 0; i < 8; i++)
        muster_loop_timer_end(actor->loop, actor->timers[i]);
    muster_loop_timer(actor->loop, 0, fire_last, actor);
}

static void
timers_that_end_each_other(struct actor *actor)
{
    for (int i = 0; i < 8; i++)
        actor->timers[i] = muster_loop_timer(actor->loop, 0, fire_and_end_others, actor);
}

Test(loop, timer_may_end_timers_due_with_it)
{
    struct actor actor;

    start(&actor, timers_that_end_each_other);
    expect(&actor, "one");
    expect(&actor, "last");
    expect_nothing(&actor);
    stop(&actor);
}

/* A timer of no delay that starts itself again must not shut out messages. */
static void
fire_again(void *arg)
{
    struct actor *actor = arg;

    actor->count++;
    muster_loop_timer(actor->loop, 0, fire_again, actor);
}

static void
restart_for_ever(struct actor *actor)
{
    fire_again(actor);
}

Test(loop, restarted_timers_leave_room_for_messages)
{
    struct actor actor;

    start(&actor, restart_for_ever);
    tell(&actor, "hello");
    expect(&actor, "0 hello");
    stop(&actor);
    cr_assert_gt(actor.count, 0);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

static void
on_pipe(void *arg, int fd, int events)
{
    struct actor *actor = arg;
    char content[64];
    ssize_t got = read(fd, content, sizeof content - 1);

    cr_assert_eq(events, MUSTER_WATCH_READ);
    if (got > 0) {
        content[got] = '\0';
        say(actor, content);
    } else {
        muster_loop_unwatch(actor->loop, fd);
        muster_loop_unwatch(actor->loop, fd);
        close(fd);
        say(actor, "end");
    }
}

static int test_pipe[2];

static void
watch_pipe(struct actor *actor)
{
    muster_loop_watch(actor->loop, test_pipe[0], MUSTER_WATCH_READ, on_pipe, actor);
}

Test(loop, watch_tells_of_bytes_and_of_the_end)
{
    struct actor actor;

    cr_assert_eq(pipe(test_pipe), 0);
    start(&actor, watch_pipe);
    cr_assert_eq(write(test_pipe[1], "one", 3), 3);
    expect(&actor, "one");
    cr_assert_eq(write(test_pipe[1], "two", 3), 3);
    expect(&actor, "two");
    close(test_pipe[1]);
    expect(&actor, "end");
    tell(&actor, "hello");
    expect(&actor, "0 hello");
    stop(&actor);
}

/* Both ends of four pipes are watched; the first callback unwatches and closes everything. */
static void
on_any(void *arg, int fd, int events)
{
    struct actor *actor = arg;

    (void)fd;
    (void)events;
    say(actor, "one");
    for (int i = 0; i < 8; i++) {
        muster_loop_unwatch(actor->loop, actor->fds[i]);
        close(actor->fds[i]);
    }
    /* The same numbers again, for other things. */
    cr_assert_eq(pipe(actor->fds), 0);
    muster_loop_watch(actor->loop, actor->fds[0], MUSTER_WATCH_READ, on_pipe, actor);
    cr_assert_eq(write(actor->fds[1], "new", 3), 3);
}

static void
watch_many(struct actor *actor)
{
    for (int i = 0; i < 8; i += 2) {
        cr_assert_eq(pipe(actor->fds + i), 0);
        cr_assert_eq(write(actor->fds[i + 1], "x", 1), 1);
        muster_loop_watch(actor->loop, actor->fds[i], MUSTER_WATCH_READ, on_any, actor);
        muster_loop_watch(actor->loop, actor->fds[i + 1], MUSTER_WATCH_WRITE, on_any, actor);
    }
}

Test(loop, watch_may_end_watches_ready_with_it)
{
    struct actor actor;

    start(&actor, watch_many);
    expect(&actor, "one");
    expect(&actor, "new");
    expect_nothing(&actor);
    muster_runner_stop(&actor.runner);
    close(actor.fds[0]);
    close(actor.fds[1]);
    stop(&actor);
}

static void
on_replaced(void *arg, int fd, int events)
{
    struct actor *actor = arg;

    (void)fd;
    cr_assert_eq(events, MUSTER_WATCH_WRITE);
    muster_loop_unwatch(actor->loop, actor->fds[1]);
    say(actor, "second");
}

static void
watch_twice(struct actor *actor)
{
    cr_assert_eq(pipe(actor->fds), 0);
    muster_loop_watch(actor->loop, actor->fds[1], MUSTER_WATCH_WRITE, on_any, actor);
    muster_loop_watch(actor->loop, actor->fds[1], MUSTER_WATCH_WRITE, on_replaced, actor);
}

Test(loop, second_watch_replaces_the_first)
{
    struct actor actor;

    start(&actor, watch_twice);
    expect(&actor, "second");
    expect_nothing(&actor);
    muster_runner_stop(&actor.runner);
    close(actor.fds[0]);
    close(actor.fds[1]);
    stop(&actor);
}
