/* SPDX-License-Identifier: MPL-2.0 */
/* bus: the life of the way in for ZeroMQ clients, and the server's own CURVE key.
 *
 * The key pair is made at the first start and kept in the store; its public half also stands in bus.key.pub of the data
 * folder.  On restart clients come back by themselves; what they had asked for is lost here, and done by the queue. */
#include "api/bus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_journal.h"
#include "api/bus_inside.h"
#include "api/data_file.h"
#include "api/house.h"

#define KEY_FILE "bus.key.pub"
#define COMMIT_MS 30000

/* ---- the server's key ---- */

static muster_err
write_secret(const struct muster_house *house, const struct secret *secret, struct muster_arena *arena)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    struct store_committed done = {.seq = 0};
    struct muster_buf record = {0}, ok = {0}, frame = {0};
    struct store_put put = {.record = secret_type.wire};
    struct store_answer answer = {.to = ""};
    struct store_commit commit = {.puts = {&put, 1}, .answers = {&answer, 1}};
    struct muster_post *post;
    muster_err err = muster_post_open(house->bus, NULL, 4, &post);

    if (err)
        return err;
    muster_pack(&secret_type, secret, &record);
    put.value = (struct muster_bytes){(const uint8_t *)record.data, record.size};
    muster_envelope_pack(&envelope, &store_committed_type, &done, &ok);
    answer.to = muster_post_address(post);
    answer.ok = (struct muster_bytes){(const uint8_t *)ok.data, ok.size};
    muster_envelope_pack(&envelope, &store_commit_type, &commit, &frame);
    err = muster_post_send(post, MUSTER_STORE, &frame);
    if (!err)
        err = house_receive(post, &store_committed_type, arena, &done, COMMIT_MS);
    explicit_bzero(record.data, record.size);
    muster_buf_free(&record);
    muster_buf_free(&ok);
    muster_post_close(&post);
    return err;
}

static muster_err
load_key(struct bus *bus)
{
    struct muster_arena *arena = muster_arena_new();
    struct secret secret = {.id = muster_id_of("secret", "bus"), .created_ms = muster_clock_ms()};
    uint8_t public[MUSTER_CURVE];
    muster_err err = muster_store_get(bus->house.store, &secret_type, &secret.id, arena, &secret);

    if (err == MUSTER_NOT_FOUND) {
        muster_curve_pair(bus->spec.secret, public);
        secret.value = (struct muster_bytes){bus->spec.secret, MUSTER_CURVE};
        err = write_secret(&bus->house, &secret, arena);
    } else if (err == MUSTER_OK && secret.value.size != MUSTER_CURVE) {
        err = MUSTER_STORAGE_ERROR;
    } else if (err == MUSTER_OK) {
        memcpy(bus->spec.secret, secret.value.data, MUSTER_CURVE);
    }
    muster_arena_free(&arena);
    if (err)
        return err;
    muster_curve_public(bus->spec.secret, public);
    muster_z85(public, bus->view.server_key);
    return data_file_write(bus->house.options->data, KEY_FILE, bus->view.server_key);
}

/* ---- the view ---- */

static void
publish_view(struct bus *bus)
{
    struct bus_view *view = muster_alloc(sizeof *view);

    bus->view.counts = muster_door_counts(bus->door);
    bus->view.published = bus->feed.published;
    bus->view.pending = bus->pending_used;
    *view = bus->view;
    muster_board_publish(bus->house.bus, BUS_BOARD, view, free);
}

/* ---- the thread ---- */

static void
on_frame(void *arg, const void *data, size_t size)
{
    struct bus *bus = arg;
    struct muster_envelope envelope;
    struct feed_events feed;

    muster_arena_clear(bus->arena);
    if (muster_envelope_unpack(data, size, bus->arena, &envelope))
        return;
    if (strcmp(envelope.type, feed_events_type.wire) != 0)
        bus_on_answer(bus, &envelope);
    else if (muster_unpack(&feed_events_type, envelope.body.data, envelope.body.size, bus->arena, &feed, NULL) ==
             MUSTER_OK)
        bus_on_feed(bus, &feed);
}

static void
on_idle(void *arg)
{
    struct bus *bus = arg;

    bus_feed_look(bus);
    muster_door_pump(bus->door);
}

static void
on_tick(void *arg)
{
    struct bus *bus = arg;

    bus_expire(bus);
    bus_check_subscribers(bus);
    bus_check_workers(bus);
    publish_view(bus);
    (void)muster_loop_timer(bus->loop, BUS_TICK_MS, on_tick, bus);
}

static bool
on_admit(void *arg, const uint8_t *curve, bool events)
{
    struct bus *bus = arg;
    struct muster_arena *arena = muster_arena_new();
    struct key key;
    bool may = bus_curve_may(bus, curve, events ? "messages:stream" : NULL, arena, &key);

    muster_arena_free(&arena);
    return may;
}

static const struct muster_door_hooks door_hooks = {on_admit, bus_on_message, bus_on_subscribe, bus_on_subscribed};

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct bus *bus = arg;
    muster_err err;

    bus->loop = loop;
    err = muster_feed_subscribe(bus->house.bus, BUS_ADDRESS, MUSTER_FEED_LIVE | MUSTER_FEED_DURABLE);
    if (err)
        return err;
    bus_feed_begin(bus);
    err = muster_door_open(loop, &bus->spec, &door_hooks, bus, &bus->door, bus->problem, bus->problem_size);
    if (err) {
        muster_feed_unsubscribe(bus->house.bus, BUS_ADDRESS);
        return err;
    }
    on_tick(bus);
    return MUSTER_OK;
}

static void
on_end(void *arg)
{
    struct bus *bus = arg;

    muster_feed_unsubscribe(bus->house.bus, BUS_ADDRESS);
    bus_wait_stop(bus);
    muster_door_close(&bus->door);
}

static const struct muster_runner_hooks hooks = {.begin = on_begin, .frame = on_frame, .idle = on_idle, .end = on_end};

/* ---- birth and death ---- */

static void
bus_free(struct bus *bus)
{
    bus_requests_free(bus);
    bus_guests_free(bus);
    bus_feed_free(bus);
    muster_arena_free(&bus->arena);
    explicit_bzero(&bus->spec, sizeof bus->spec);
    free(bus);
}

static struct muster_door_spec
spec_of(const struct bus_options *options)
{
    return (struct muster_door_spec){
        .commands = options->commands,
        .events = options->events,
        .commands_curve = options->curve || !muster_endpoint_is_local(options->commands),
        .events_curve = options->curve || !muster_endpoint_is_local(options->events),
        .max_clients = options->max_clients,
        .max_events = options->max_events,
        .max_message = options->max_message,
    };
}

muster_err
bus_start(const struct muster_house *house, struct bus **out_bus, char *problem, size_t problem_size)
{
    const struct bus_options *options = house->options->bus;
    struct bus *bus;
    muster_err err;

    *out_bus = NULL;
    if (options->commands[0] == '\0' && options->events[0] == '\0')
        return MUSTER_OK;
    bus = muster_alloc(sizeof *bus);
    *bus = (struct bus){.house = *house,
                        .options = options,
                        .spec = spec_of(options),
                        .arena = muster_arena_new(),
                        .problem = problem,
                        .problem_size = problem_size};
    muster_random(&bus->numbers, sizeof bus->numbers);
    err = load_key(bus);
    if (!err)
        err = muster_runner_start(house->bus, BUS_ADDRESS, BUS_MAILBOX, &hooks, bus, &bus->runner);
    if (err) {
        if (problem[0] == '\0')
            snprintf(problem, problem_size, "ZeroMQ could not be started: %s", muster_err_text(err));
        bus_free(bus);
        return err;
    }
    muster_journal_say(house->journal, INFO, "bus-started", "ZeroMQ clients are served.",
                       MUSTER_SAY_TEXT("commands", options->commands), MUSTER_SAY_TEXT("events", options->events));
    *out_bus = bus;
    return MUSTER_OK;
}

void
bus_drain(struct bus *bus)
{
    if (bus)
        atomic_store(&bus->draining, true);
}

void
bus_stop(struct bus **bus_p)
{
    if (*bus_p == NULL)
        return;
    muster_runner_stop(&(*bus_p)->runner);
    bus_free(*bus_p);
    *bus_p = NULL;
}
