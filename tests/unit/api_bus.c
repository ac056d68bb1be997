/* SPDX-License-Identifier: MPL-2.0 */
/* Events for ZeroMQ subscribers when the thread that publishes them has missed some: read from the log, in order. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "api/bus_inside.h"

enum { STORED = 5, HELD = 70000, WAIT_MS = 10000 };

struct site {
    char folder[64];
    char text[256];
    struct muster_config config;
    struct bus bus;
    struct muster_post *log; /* what is asked of the log */
    char problem[256];
};

static const struct muster_door_hooks door_hooks = {NULL, NULL, bus_on_subscribe, bus_on_subscribed};

static struct event
event_of(int64_t seq)
{
    return (struct event){
        .seq = seq, .at_ms = 1, .type = "team.paused", .team = "echo", .body = {(uint8_t *)"\x80", 1}};
}

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct site *site = arg;
    struct bus *bus = &site->bus;
    struct muster_batch *batch = muster_batch_new(bus->house.store);
    struct event event;
    int i;

    bus->loop = loop;
    bus_feed_begin(bus);
    for (i = 0; i < STORED; i++) {
        event = event_of(muster_log_number(bus->house.store));
        muster_batch_append(batch, &event);
    }
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_batch_free(&batch);
    return muster_door_open(loop, &bus->spec, &door_hooks, bus, &bus->door, site->problem, sizeof site->problem);
}

/* More is held back than may be, so the log is asked; it answers twice, the first time before all is settled. */
static void
on_frame(void *arg, const void *data, size_t size)
{
    struct bus *bus = &((struct site *)arg)->bus;
    struct feed_event feed = {.settled = 0};
    struct event event;
    int64_t seq;

    (void)data;
    (void)size;
    bus->feed.asked = false;
    for (seq = STORED + 1; seq < HELD; seq++) {
        event = event_of(seq);
        feed.event = &event;
        bus_on_feed(bus, &feed);
        if (bus->feed.behind)
            break;
    }
    cr_assert(bus->feed.behind && bus->feed.asked);
    cr_assert_eq(bus->feed.target, STORED);
    bus_on_flushed(bus, MUSTER_OK, STORED - 2);
    cr_assert(bus->feed.behind && !bus->feed.asked);
    bus_feed_look(bus);
    cr_assert(bus->feed.asked);
    bus_on_flushed(bus, MUSTER_OK, STORED);
    cr_assert(!bus->feed.behind);
    event = event_of(STORED); /* again, from the feed */
    feed = (struct feed_event){&event, STORED};
    bus_on_feed(bus, &feed);
    event = event_of(STORED + 2);
    bus_on_feed(bus, &feed); /* above what is settled */
    event = event_of(STORED + 1);
    feed.settled = STORED + 2;
    bus_on_feed(bus, &feed);
}

static void
on_idle(void *arg)
{
    muster_door_pump(((struct site *)arg)->bus.door);
}

static void
on_end(void *arg)
{
    muster_door_close(&((struct site *)arg)->bus.door);
}

static const struct muster_runner_hooks hooks = {on_begin, on_frame, on_idle, on_end};

static void
open_site(struct site *site)
{
    struct muster_options_error error;
    struct bus *bus = &site->bus;

    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    snprintf(site->folder, sizeof site->folder, "/tmp/bus-XXXXXX");
    cr_assert_not_null(mkdtemp(site->folder));
    snprintf(site->text, sizeof site->text, "{data: ., bus: {events: 'ipc://e', open_events: true}}");
    cr_assert_eq(muster_config_parse(site->text, strlen(site->text), "m", site->folder, &site->config, &error),
                 MUSTER_OK, "%s", error.text);
    bus->house.options = site->config.options;
    bus->options = site->config.options->bus;
    bus->spec = (struct muster_door_spec){.commands = "",
                                          .events = bus->options->events,
                                          .max_clients = 10,
                                          .max_events = 1000,
                                          .max_message = 1024,
                                          .max_backlog = 4096};
    cr_assert_eq(muster_store_open(site->folder, site->config.options->store, &bus->house.store, site->problem,
                                   sizeof site->problem),
                 MUSTER_OK, "%s", site->problem);
    bus->house.bus = muster_bus_new();
    cr_assert_eq(muster_post_open(bus->house.bus, MUSTER_LOG, 100, &site->log), MUSTER_OK);
    cr_assert_eq(muster_runner_start(bus->house.bus, BUS_ADDRESS, 100, &hooks, site, &bus->runner), MUSTER_OK, "%s",
                 site->problem);
}

static void
close_site(struct site *site)
{
    char command[128];

    muster_runner_stop(&site->bus.runner);
    muster_post_close(&site->log);
    bus_feed_free(&site->bus);
    muster_bus_free(&site->bus.house.bus);
    muster_store_close(&site->bus.house.store);
    muster_config_free(&site->config);
    snprintf(command, sizeof command, "rm -rf '%s'", site->folder);
    cr_assert_eq(system(command), 0);
}

/* The number of the next event, checked against the one before it. */
static int64_t
next_event(void *socket, struct muster_arena *arena, int64_t before)
{
    char topic[128] = "", packed[256], marked[256];
    struct bus_mark mark;
    struct event event;
    int size;

    cr_assert_neq(zmq_recv(socket, topic, sizeof topic - 1, 0), -1, "nothing after %lld", (long long)before);
    cr_assert_str_eq(topic, "echo/team.paused/-");
    size = zmq_recv(socket, packed, sizeof packed, 0);
    cr_assert_eq(muster_unpack(&event_type, packed, (size_t)size, arena, &event, NULL), MUSTER_OK);
    size = zmq_recv(socket, marked, sizeof marked, 0);
    cr_assert_eq(muster_unpack(&bus_mark_type, marked, (size_t)size, arena, &mark, NULL), MUSTER_OK);
    cr_assert_eq(mark.before, before);
    cr_assert_eq(mark.team_before, before);
    return event.seq;
}

Test(bus, what_was_missed_comes_from_the_log_in_order_and_once)
{
    static struct site site;
    struct muster_arena *arena = muster_arena_new();
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_SUB);
    int timeout = WAIT_MS, size;
    struct bus_joined joined;
    struct muster_buf go = {0};
    char topic[16] = "", packed[256];
    int64_t seq;

    open_site(&site);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "~/me", 4);
    cr_assert_eq(zmq_connect(socket, site.bus.options->events), 0);
    cr_assert_eq(zmq_recv(socket, topic, sizeof topic - 1, 0), 4);
    cr_assert_str_eq(topic, "~/me");
    size = zmq_recv(socket, packed, sizeof packed, 0);
    cr_assert_eq(muster_unpack(&bus_joined_type, packed, (size_t)size, arena, &joined, NULL), MUSTER_OK);
    cr_assert_eq(joined.published, 0);
    muster_buf_str(&go, "go");
    cr_assert_eq(muster_post_send(site.log, BUS_ADDRESS, &go), MUSTER_OK);
    for (seq = 1; seq <= STORED + 2; seq++)
        cr_assert_eq(next_event(socket, arena, seq - 1), seq);
    zmq_close(socket);
    zmq_ctx_term(context);
    muster_arena_free(&arena);
    close_site(&site);
}
