/* SPDX-License-Identifier: MPL-2.0 */
/* A hub for the tests of a worker's link: a door that notes what it hears, and answers as the test wants.  A failure
 * here ends the test at once. */
#ifndef TESTS_API_WORKER_HUB_H
#define TESTS_API_WORKER_HUB_H

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "actors/muster_actor.h"
#include "transport/muster_door.h"

enum { HEARD_MAX = 20000, PATIENCE_S = 20 };

/* A message that it heard. */
struct heard {
    const struct muster_type *type;
    int64_t id;
    const void *body; /* decoded */
};

struct hub {
    char endpoint[128];
    struct muster_bus *bus;
    struct muster_runner *runner;
    struct muster_loop *loop;
    struct muster_door *door;
    uint32_t guest;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    struct muster_arena *arena;
    struct heard heard[HEARD_MAX];
    size_t count;
    int64_t attach_id, attachment;
    /* How it answers. */
    const char *refuse_hello, *refuse_attach, *refuse_parcel; /* code; NULL: not */
    bool deaf;                                                /* to beats */
    bool keeps_acks;                                          /* of parcels */
    int64_t lease_ms, beat_ms, received;
    struct held_attempt stale;
    bool has_stale;
};

static inline void
hub_answer(struct hub *hub, int64_t id, const char *trace, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.id = id, .reply_to = "", .trace = trace, .principal.name = ""};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, type, body, &frame);
    (void)muster_door_send(hub->door, hub->guest, INT64_C(1) << 30, &frame);
}

static inline void
hub_refuse(struct hub *hub, int64_t id, const char *code)
{
    hub_answer(hub, id, "", &failed_type, &(struct failed){.code = code, .message = "because the test says so"});
}

static inline void
hub_welcome(struct hub *hub, int64_t id)
{
    struct worker_welcome welcome = {.attachment = ++hub->attachment,
                                     .version = "t",
                                     .epoch = "e",
                                     .lease_ms = hub->lease_ms,
                                     .beat_ms = hub->beat_ms,
                                     .received = hub->received,
                                     .stale = {&hub->stale, hub->has_stale}};

    hub->attach_id = id;
    hub_answer(hub, id, "", &worker_welcome_type, &welcome);
}

/* Under the lock. */
static inline void
hub_react(struct hub *hub, const struct heard *heard)
{
    const struct worker_parcel *parcel = heard->body;

    if (heard->type == &bus_hello_type && hub->refuse_hello)
        hub_refuse(hub, heard->id, hub->refuse_hello);
    else if (heard->type == &bus_hello_type)
        hub_answer(hub, heard->id, "", &bus_welcome_type,
                   &(struct bus_welcome){.server = "muster", .version = "t", .epoch = "e"});
    else if (heard->type == &worker_attach_type && hub->refuse_attach)
        hub_refuse(hub, heard->id, hub->refuse_attach);
    else if (heard->type == &worker_attach_type)
        hub_welcome(hub, heard->id);
    else if (heard->type == &worker_beat_type && !hub->deaf)
        hub_answer(hub, heard->id, "", &worker_heard_type, &(struct worker_heard){.draining = false});
    else if (heard->type == &worker_parcel_type && hub->refuse_parcel)
        hub_refuse(hub, heard->id, hub->refuse_parcel);
    else if (heard->type == &worker_parcel_type && (!hub->keeps_acks || !parcel->last))
        hub_answer(hub, heard->id, "", &worker_acked_type,
                   &(struct worker_acked){.seq = parcel->last ? parcel->seq : 0});
    else if (heard->type == &worker_leave_type)
        hub_answer(hub, heard->id, "", &worker_left_type, &(struct worker_left){.name = "w"});
}

static inline void
hub_on_message(void *arg, uint32_t guest, uint64_t connection, const uint8_t *key, const void *data, size_t size)
{
    struct hub *hub = arg;
    struct muster_envelope envelope;
    struct heard *heard;
    void *body;
    size_t i;

    (void)connection;
    (void)key;
    pthread_mutex_lock(&hub->lock);
    hub->guest = guest;
    cr_assert_lt(hub->count, (size_t)HEARD_MAX);
    cr_assert_eq(muster_envelope_unpack(data, size, hub->arena, &envelope), MUSTER_OK);
    for (i = 0; muster_messages[i] && strcmp(muster_messages[i]->wire, envelope.type) != 0; i++)
        ;
    cr_assert_not_null(muster_messages[i]);
    body = muster_arena_alloc(hub->arena, muster_messages[i]->size);
    cr_assert_eq(muster_unpack(muster_messages[i], envelope.body.data, envelope.body.size, hub->arena, body, NULL),
                 MUSTER_OK);
    heard = &hub->heard[hub->count++];
    *heard = (struct heard){muster_messages[i], envelope.id, body};
    hub_react(hub, heard);
    pthread_cond_broadcast(&hub->changed);
    pthread_mutex_unlock(&hub->lock);
}

static inline bool
hub_on_admit(void *arg, const uint8_t *key, bool events)
{
    (void)arg;
    (void)key;
    (void)events;
    return true;
}

static const struct muster_door_hooks hub_door_hooks = {hub_on_admit, hub_on_message, NULL, NULL};

static inline muster_err
hub_open_door(struct hub *hub)
{
    struct muster_door_spec spec = {
        .commands = hub->endpoint, .events = "", .max_clients = 10, .max_events = 10, .max_message = 1 << 20};
    char problem[256];

    return muster_door_open(hub->loop, &spec, &hub_door_hooks, hub, &hub->door, problem, sizeof problem);
}

static inline muster_err
hub_begin(void *arg, struct muster_loop *loop)
{
    struct hub *hub = arg;

    hub->loop = loop;
    return hub_open_door(hub);
}

/* Orders of the test: 'X' close the door, 'O' open it, else a whole message to the worker. */
static inline void
hub_frame(void *arg, const void *data, size_t size)
{
    struct hub *hub = arg;
    struct muster_buf frame = {0};

    if (size == 1 && *(const char *)data == 'X') {
        muster_door_close(&hub->door);
    } else if (size == 1) {
        cr_assert_eq(hub_open_door(hub), MUSTER_OK);
    } else {
        muster_buf_add(&frame, data, size);
        (void)muster_door_send(hub->door, hub->guest, INT64_C(1) << 30, &frame);
    }
}

static inline void
hub_idle(void *arg)
{
    struct hub *hub = arg;

    if (hub->door)
        muster_door_pump(hub->door);
}

static inline void
hub_end(void *arg)
{
    struct hub *hub = arg;

    if (hub->door)
        muster_door_close(&hub->door);
}

static const struct muster_runner_hooks hub_hooks = {
    .begin = hub_begin, .frame = hub_frame, .idle = hub_idle, .end = hub_end};

static inline void
hub_init(struct hub *hub, const char *folder)
{
    pthread_condattr_t clock;

    *hub = (struct hub){.lease_ms = 60000, .beat_ms = 20};
    snprintf(hub->endpoint, sizeof hub->endpoint, "ipc://%s/hub", folder);
    hub->arena = muster_arena_new();
    hub->bus = muster_bus_new();
    pthread_mutex_init(&hub->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&hub->changed, &clock);
    pthread_condattr_destroy(&clock);
}

static inline void
hub_start(struct hub *hub)
{
    cr_assert_eq(muster_runner_start(hub->bus, "hub", 1000, &hub_hooks, hub, &hub->runner), MUSTER_OK);
}

static inline void
hub_stop(struct hub *hub)
{
    if (hub->runner)
        muster_runner_stop(&hub->runner);
    muster_bus_free(&hub->bus);
    muster_arena_free(&hub->arena);
    pthread_cond_destroy(&hub->changed);
    pthread_mutex_destroy(&hub->lock);
}

/* ---- orders ---- */

static inline void
hub_order(struct hub *hub, const char *order)
{
    struct muster_buf frame = {0};

    muster_buf_str(&frame, order);
    cr_assert_eq(muster_bus_send(hub->bus, "hub", &frame), MUSTER_OK);
}

/* Every connection is lost. */
static inline void
hub_break(struct hub *hub)
{
    hub_order(hub, "X");
    hub_order(hub, "O");
}

/* To the worker, as the attachment does. */
static inline void
hub_say(struct hub *hub, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "request-1", .principal.name = ""};
    struct muster_buf frame = {0};

    pthread_mutex_lock(&hub->lock);
    envelope.id = hub->attach_id;
    pthread_mutex_unlock(&hub->lock);
    muster_envelope_pack(&envelope, type, body, &frame);
    cr_assert_eq(muster_bus_send(hub->bus, "hub", &frame), MUSTER_OK);
}

/* ---- what it heard ---- */

/* The next message of that type from number *at on, which is moved behind it; waits for it. */
static inline const void *
hub_await(struct hub *hub, size_t *at, const struct muster_type *type)
{
    struct timespec until;
    const void *body = NULL;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&hub->lock);
    while (body == NULL) {
        for (; *at < hub->count && body == NULL; (*at)++)
            if (hub->heard[*at].type == type)
                body = hub->heard[*at].body;
        if (body == NULL && pthread_cond_timedwait(&hub->changed, &hub->lock, &until) != 0)
            break;
    }
    pthread_mutex_unlock(&hub->lock);
    cr_assert_not_null(body, "%s did not come", type->wire);
    return body;
}

static inline size_t
hub_count(struct hub *hub, const struct muster_type *type)
{
    size_t count = 0, i;

    pthread_mutex_lock(&hub->lock);
    for (i = 0; i < hub->count; i++)
        count += hub->heard[i].type == type;
    pthread_mutex_unlock(&hub->lock);
    return count;
}

static inline size_t
hub_now(struct hub *hub)
{
    size_t count;

    pthread_mutex_lock(&hub->lock);
    count = hub->count;
    pthread_mutex_unlock(&hub->lock);
    return count;
}

#define HUB_SET(hub, member, value)                                                                                    \
    do {                                                                                                               \
        pthread_mutex_lock(&(hub)->lock);                                                                              \
        (hub)->member = (value);                                                                                       \
        pthread_mutex_unlock(&(hub)->lock);                                                                            \
    } while (0)

#endif
