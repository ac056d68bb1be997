/* SPDX-License-Identifier: MPL-2.0 */
/* What the thread of the bus does when it has missed events: subscribers get them from the log, in order; reads that
 * wait are looked at again. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "actors/keys.h"
#include "api/bus_inside.h"

enum { STORED = 5, LAST = STORED + 6, HELD = 70000, WAIT_MS = 10000 };

struct site {
    char folder[64];
    char text[256];
    struct muster_config config;
    struct bus bus;
    struct muster_post *log; /* what is asked of the log */
    char problem[256];
    void (*act)(struct site *site); /* on the thread of the bus */
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

/* The last of them is published first, then all in front of it together. */
static void
overtake(struct bus *bus)
{
    struct event events[4];
    struct feed_events feed = {.events = {&events[3], 1}, .settled = STORED + 2};
    size_t i;

    for (i = 0; i < 4; i++)
        events[i] = event_of(STORED + 3 + (int64_t)i);
    bus_on_feed(bus, &feed);
    feed = (struct feed_events){{events, 3}, LAST};
    bus_on_feed(bus, &feed);
}

/* More is held back than may be, so the log is asked; it answers twice, the first time before all is settled. */
static void
hold_too_much(struct site *site)
{
    struct bus *bus = &site->bus;
    struct feed_events feed = {.settled = 0};
    struct event event;
    int64_t seq;

    bus->feed.asked = false;
    for (seq = STORED + 1; seq < HELD; seq++) {
        event = event_of(seq);
        feed.events.items = &event;
        feed.events.count = 1;
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
    feed = (struct feed_events){{&event, 1}, STORED};
    bus_on_feed(bus, &feed);
    event = event_of(STORED + 2);
    bus_on_feed(bus, &feed); /* above what is settled */
    event = event_of(STORED + 1);
    feed.settled = STORED + 2;
    bus_on_feed(bus, &feed);
    overtake(bus);
}

static struct bus_pending *
waiting_read(struct bus *bus)
{
    static const struct log_read read = {.wait_ms = 60000};
    struct bus_pending *pending = bus_new_pending(bus);

    pending->stage = BUS_FLUSHED;
    for (pending->row = muster_publics; pending->row->body != &log_read_type; pending->row++)
        ;
    pending->body = &read;
    pending->trace = "";
    pending->key.name = "reader";
    pending->arena = muster_arena_new();
    pending->wait_until_ms = muster_clock_ms() + read.wait_ms;
    return pending;
}

static void
miss_what_is_waited_for(struct site *site)
{
    struct bus *bus = &site->bus;
    struct bus_pending *pending = waiting_read(bus);
    struct event event = event_of(STORED + 5);
    struct feed_events feed = {{&event, 1}, STORED};

    bus_wait(bus, pending, STORED);
    cr_assert_eq(pending->wanted, 0);
    bus_on_feed(bus, &feed);
    cr_assert_eq(pending->wanted, STORED + 5);
    cr_assert_eq(pending->stage, BUS_WAITING, "it is not settled");
    bus_wait_on_feed(bus, NULL);
    cr_assert_eq(pending->stage, BUS_FLUSHED, "the log is asked");
    bus_wait(bus, pending, STORED);
    cr_assert_eq(pending->wanted, STORED + 5, "there may be something in front of that");
    while (bus_ask_log(bus, pending) == MUSTER_OK)
        continue;
    bus_wait_look(bus, pending);
    cr_assert_eq(pending->stage, BUS_WAITING, "the log is too busy");
    cr_assert_lt(pending->until_ms, pending->wait_until_ms);
    pending->wait_until_ms = 0;
    bus_wait_look(bus, pending);
    cr_assert_eq(bus->pending_used, 0, "its time was over");
    cr_assert_eq(bus->view.answers, 1);
}

static void
on_frame(void *arg, const void *data, size_t size)
{
    struct site *site = arg;
    struct muster_buf done = {0};

    (void)data;
    (void)size;
    site->act(site);
    muster_buf_str(&done, "done");
    (void)muster_post_send(muster_loop_post(site->bus.loop), "test", &done);
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

static const struct muster_runner_hooks hooks = {.begin = on_begin, .frame = on_frame, .idle = on_idle, .end = on_end};

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
    bus->spec = (struct muster_door_spec){
        .commands = "", .events = bus->options->events, .max_clients = 10, .max_events = 1000, .max_message = 1024};
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
    bus_requests_free(&site->bus);
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

    site.act = hold_too_much;
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
    for (seq = 1; seq <= LAST; seq++)
        cr_assert_eq(next_event(socket, arena, seq - 1), seq);
    zmq_close(socket);
    zmq_ctx_term(context);
    muster_arena_free(&arena);
    close_site(&site);
}

Test(bus, a_read_that_waits_is_looked_at_again_when_something_was_missed)
{
    static struct site site;
    uint8_t digest[MUSTER_DIGEST] = {0}; /* as the read has it */
    const char *scopes[] = {"*"};
    struct key key = {.id = muster_id_new(1),
                      .name = "reader",
                      .scopes = {scopes, 1},
                      .digest = {digest, sizeof digest},
                      .created_ms = 1};
    struct muster_buf go = {0};
    struct muster_frame frame;
    struct muster_post *test;

    site.act = miss_what_is_waited_for;
    open_site(&site);
    cr_assert_eq(muster_post_open(site.bus.house.bus, "test", 10, &test), MUSTER_OK);
    muster_board_publish(site.bus.house.bus, MUSTER_KEYS_BOARD, keys_new(&key, 1), keys_free);
    muster_buf_str(&go, "go");
    cr_assert_eq(muster_post_send(test, BUS_ADDRESS, &go), MUSTER_OK);
    cr_assert_eq(muster_post_receive(test, WAIT_MS, -1, &frame), MUSTER_OK);
    muster_frame_free(&frame);
    muster_post_close(&test);
    close_site(&site);
}
