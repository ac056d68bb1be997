/* SPDX-License-Identifier: MPL-2.0 */
/* The door for ZeroMQ clients: messages and answers, CURVE, topics, what is dropped, several doors in one process. */
#include <criterion/criterion.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "schemas/muster_crypto.h"
#include "transport/muster_door.h"

enum { WAIT_MS = 10000, MAX_BACKLOG = 262144 };

/* A door that answers every message with its bytes, on a loop of its own. */
struct house {
    char folder[64], commands[96], events[96];
    struct muster_bus *bus;
    struct muster_runner *runner;
    struct muster_loop *loop;
    struct muster_door *door;
    struct muster_door_spec spec;
    muster_err err;
    char problem[256];
    uint8_t admitted[MUSTER_CURVE]; /* the one key */
    bool has_key;                   /* of the last message */
    sem_t subscribed;
    struct muster_door_counts counts; /* when it was closed */
    atomic_bool reset;
};

static bool
on_admit(void *arg, const uint8_t *key, bool events)
{
    struct house *house = arg;

    (void)events;
    return memcmp(key, house->admitted, MUSTER_CURVE) == 0;
}

static void
on_message(void *arg, uint32_t guest, uint64_t connection, const uint8_t *key, const void *data, size_t size)
{
    struct house *house = arg;
    struct muster_buf answer = {0};

    (void)connection;
    house->has_key = key && memcmp(key, house->admitted, MUSTER_CURVE) == 0;
    muster_buf_add(&answer, data, size);
    (void)muster_door_send(house->door, guest, MAX_BACKLOG, &answer);
    cr_assert_null(answer.data);
}

static bool
on_subscribe(void *arg, const uint8_t *key, const char *topic, size_t size)
{
    (void)arg;
    (void)key;
    return size == 0 || topic[0] != 'x';
}

static void
on_subscribed(void *arg, const char *topic, size_t size)
{
    struct house *house = arg;
    struct muster_bytes frames[] = {{(const uint8_t *)topic, size}, {(const uint8_t *)"here", 4}};

    muster_door_publish(house->door, frames, 2);
    sem_post(&house->subscribed);
}

static const struct muster_door_hooks door_hooks = {on_admit, on_message, on_subscribe, on_subscribed};

static void
on_timer(void *arg)
{
    struct house *house = arg;

    if (atomic_exchange(&house->reset, false))
        muster_door_reset(house->door);
    (void)muster_loop_timer(house->loop, 5, on_timer, house);
}

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct house *house = arg;

    house->loop = loop;
    on_timer(house);
    return muster_door_open(loop, &house->spec, &door_hooks, house, &house->door, house->problem,
                            sizeof house->problem);
}

/* Others publish through its mailbox: the topic. */
static void
on_frame(void *arg, const void *data, size_t size)
{
    struct house *house = arg;
    struct muster_bytes frames[] = {{data, size}, {(const uint8_t *)"body", 4}};

    muster_door_publish(house->door, frames, 2);
}

static void
on_idle(void *arg)
{
    muster_door_pump(((struct house *)arg)->door);
}

static void
on_end(void *arg)
{
    struct house *house = arg;

    house->counts = muster_door_counts(house->door);
    muster_door_close(&house->door);
}

static const struct muster_runner_hooks hooks = {.begin = on_begin, .frame = on_frame, .idle = on_idle, .end = on_end};

static void
open_house(struct house *house, bool curve)
{
    uint8_t public[MUSTER_CURVE];

    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    snprintf(house->folder, sizeof house->folder, "/tmp/door-XXXXXX");
    cr_assert_not_null(mkdtemp(house->folder));
    snprintf(house->commands, sizeof house->commands, "ipc://%s/c", house->folder);
    snprintf(house->events, sizeof house->events, "ipc://%s/e", house->folder);
    sem_init(&house->subscribed, 0, 0);
    house->spec.commands = house->commands;
    house->spec.events = house->events;
    house->spec.commands_curve = house->spec.events_curve = curve;
    if (house->spec.max_clients == 0)
        house->spec.max_clients = 10;
    house->spec.max_events = 1000;
    house->spec.max_message = 65536;
    muster_curve_pair(house->spec.secret, public);
    house->bus = muster_bus_new();
    house->err = muster_runner_start(house->bus, "door", 1000, &hooks, house, &house->runner);
}

static void
close_house(struct house *house)
{
    muster_runner_stop(&house->runner);
    muster_bus_free(&house->bus);
    sem_destroy(&house->subscribed);
    rmdir(house->folder);
    cr_assert_eq(access(house->folder, F_OK), -1); /* no socket is left */
}

struct client {
    void *context, *socket;
};

static struct client
client_of(int type, const char *endpoint)
{
    struct client client = {.context = zmq_ctx_new()};
    int linger = 0, timeout = WAIT_MS;

    client.socket = zmq_socket(client.context, type);
    zmq_setsockopt(client.socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(client.socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    if (endpoint)
        cr_assert_eq(zmq_connect(client.socket, endpoint), 0);
    return client;
}

static void
client_end(struct client *client)
{
    zmq_close(client->socket);
    zmq_ctx_term(client->context);
}

static void
set_keys(struct client *client, const uint8_t secret[MUSTER_CURVE], const uint8_t server_secret[MUSTER_CURVE])
{
    uint8_t public[MUSTER_CURVE];

    muster_curve_public(secret, public);
    zmq_setsockopt(client->socket, ZMQ_CURVE_SECRETKEY, secret, MUSTER_CURVE);
    zmq_setsockopt(client->socket, ZMQ_CURVE_PUBLICKEY, public, MUSTER_CURVE);
    muster_curve_public(server_secret, public);
    zmq_setsockopt(client->socket, ZMQ_CURVE_SERVERKEY, public, MUSTER_CURVE);
}

static void
assert_echo(struct client *client, const char *text)
{
    char answer[64] = "";

    cr_assert_eq(zmq_send(client->socket, text, strlen(text), 0), (int)strlen(text));
    cr_assert_eq(zmq_recv(client->socket, answer, sizeof answer - 1, 0), (int)strlen(text));
    cr_assert_str_eq(answer, text);
}

Test(door, answers_each_of_several_clients)
{
    struct house house = {.has_key = true};
    struct client one, two;

    open_house(&house, false);
    cr_assert_eq(house.err, MUSTER_OK, "%s", house.problem);
    one = client_of(ZMQ_DEALER, house.commands);
    two = client_of(ZMQ_DEALER, house.commands);
    assert_echo(&one, "one");
    assert_echo(&two, "two");
    assert_echo(&one, "three");
    cr_assert(!house.has_key);
    client_end(&one);
    client_end(&two);
    close_house(&house);
    cr_assert_eq(house.counts.commands, 3);
}

Test(door, two_of_them_live_in_one_process)
{
    struct house first = {0}, second = {0};
    struct client client;

    open_house(&first, true);
    open_house(&second, false);
    client = client_of(ZMQ_DEALER, second.commands);
    assert_echo(&client, "plain");
    client_end(&client);
    close_house(&first);
    client = client_of(ZMQ_DEALER, second.commands);
    assert_echo(&client, "still there");
    client_end(&client);
    close_house(&second);
}

Test(door, says_which_endpoint_cannot_be_had)
{
    struct house house = {0};

    open_house(&house, false);
    muster_runner_stop(&house.runner);
    house.spec.commands = "ipc:///nowhere/at/all";
    house.err = muster_runner_start(house.bus, "door", 1000, &hooks, &house, &house.runner);
    cr_assert_eq(house.err, MUSTER_CONFLICT);
    cr_assert_not_null(strstr(house.problem, "/nowhere/at/all"));
    muster_bus_free(&house.bus);
    rmdir(house.folder);
}

Test(door, curve_tells_who_it_is_and_keeps_others_out)
{
    struct house house = {0};
    uint8_t secret[MUSTER_CURVE], other[MUSTER_CURVE], public[MUSTER_CURVE];
    struct client good, bad, plain;
    int timeout = 300;
    char room[8];

    muster_curve_pair(other, public);
    muster_curve_pair(secret, house.admitted);
    open_house(&house, true);
    good = client_of(ZMQ_DEALER, NULL);
    bad = client_of(ZMQ_DEALER, NULL);
    plain = client_of(ZMQ_DEALER, house.commands);
    set_keys(&good, secret, house.spec.secret);
    set_keys(&bad, other, house.spec.secret);
    zmq_connect(good.socket, house.commands);
    zmq_connect(bad.socket, house.commands);
    zmq_send(bad.socket, "bad", 3, 0);
    zmq_send(plain.socket, "plain", 5, 0);
    assert_echo(&good, "good");
    cr_assert(house.has_key);
    zmq_setsockopt(bad.socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    zmq_setsockopt(plain.socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    cr_assert_eq(zmq_recv(bad.socket, room, sizeof room, 0), -1);
    cr_assert_eq(zmq_recv(plain.socket, room, sizeof room, 0), -1);
    client_end(&good);
    client_end(&bad);
    client_end(&plain);
    close_house(&house);
    cr_assert_eq(house.counts.commands, 1);
    cr_assert_geq(house.counts.refused, 1);
}

Test(door, drops_what_is_not_one_frame_and_who_brings_a_routing_id)
{
    struct house house = {0};
    struct client client, named;

    open_house(&house, false);
    client = client_of(ZMQ_DEALER, house.commands);
    named = client_of(ZMQ_DEALER, NULL);
    zmq_setsockopt(named.socket, ZMQ_ROUTING_ID, "me", 2);
    zmq_connect(named.socket, house.commands);
    zmq_send(named.socket, "x", 1, 0);
    zmq_send(client.socket, "a", 1, ZMQ_SNDMORE);
    zmq_send(client.socket, "b", 1, ZMQ_SNDMORE);
    zmq_send(client.socket, "c", 1, 0);
    assert_echo(&client, "good");
    client_end(&client);
    while (zmq_send(named.socket, "x", 1, ZMQ_DONTWAIT) == -1)
        ;
    client_end(&named);
    close_house(&house);
    cr_assert_geq(house.counts.malformed, 1);
}

Test(door, a_client_that_does_not_read_costs_its_backlog_only)
{
    struct house house = {0};
    struct client deaf, other;
    char data[60000] = {1};
    int hwm = 1, i;

    open_house(&house, false);
    deaf = client_of(ZMQ_DEALER, NULL);
    zmq_setsockopt(deaf.socket, ZMQ_RCVHWM, &hwm, sizeof hwm);
    zmq_connect(deaf.socket, house.commands);
    other = client_of(ZMQ_DEALER, house.commands);
    for (i = 0; i < 500; i++)
        cr_assert_eq(zmq_send(deaf.socket, data, sizeof data, 0), (int)sizeof data);
    for (i = 0; i < 100; i++)
        assert_echo(&other, "hello");
    while (zmq_send(deaf.socket, "last", 4, ZMQ_DONTWAIT) == -1)
        assert_echo(&other, "hello");
    for (i = 0; i < 100; i++)
        assert_echo(&other, "hello");
    client_end(&deaf);
    client_end(&other);
    close_house(&house);
    cr_assert_gt(house.counts.dropped, 100);
}

static void
subscribe(struct client *client, const char *topic)
{
    cr_assert_eq(zmq_setsockopt(client->socket, ZMQ_SUBSCRIBE, topic, strlen(topic)), 0);
}

static void
assert_topic(struct client *client, const char *topic)
{
    char room[64] = "", body[8];

    cr_assert_neq(zmq_recv(client->socket, room, sizeof room - 1, 0), -1, "no %s", topic);
    cr_assert_str_eq(room, topic);
    cr_assert_eq(zmq_recv(client->socket, body, sizeof body, 0), 4);
}

static void
publish(struct house *house, struct muster_post *post, const char *topic)
{
    struct muster_buf frame = {0};

    (void)house;
    muster_buf_str(&frame, topic);
    cr_assert_eq(muster_post_send(post, "door", &frame), MUSTER_OK);
}

Test(door, subscribers_hear_the_topics_they_may_and_come_back_after_a_reset)
{
    struct house house = {0};
    uint8_t secret[MUSTER_CURVE];
    struct muster_post *post;
    struct client client;

    muster_curve_pair(secret, house.admitted);
    open_house(&house, true);
    cr_assert_eq(muster_post_open(house.bus, NULL, 4, &post), MUSTER_OK);
    client = client_of(ZMQ_SUB, NULL);
    set_keys(&client, secret, house.spec.secret);
    cr_assert_eq(zmq_connect(client.socket, house.events), 0);
    subscribe(&client, "x/");
    subscribe(&client, "a/");
    assert_topic(&client, "a/");
    publish(&house, post, "x/1");
    publish(&house, post, "b/1");
    publish(&house, post, "a/1");
    assert_topic(&client, "a/1");
    atomic_store(&house.reset, true);
    assert_topic(&client, "a/"); /* it has come back */
    publish(&house, post, "a/2");
    assert_topic(&client, "a/2");
    client_end(&client);
    muster_post_close(&post);
    close_house(&house);
    cr_assert_geq(house.counts.unheard, 2);
}

Test(door, more_connections_than_allowed_wait_outside)
{
    struct house house = {.spec.max_clients = 1};
    struct client first, second;
    int timeout = 500;
    char room[8];

    open_house(&house, false);
    first = client_of(ZMQ_DEALER, house.commands);
    assert_echo(&first, "first");
    second = client_of(ZMQ_DEALER, house.commands);
    zmq_send(second.socket, "late", 4, 0);
    zmq_setsockopt(second.socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    cr_assert_eq(zmq_recv(second.socket, room, sizeof room, 0), -1);
    client_end(&first);
    timeout = WAIT_MS;
    zmq_setsockopt(second.socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    cr_assert_eq(zmq_recv(second.socket, room, sizeof room, 0), 4);
    client_end(&second);
    close_house(&house);
}

Test(curve, keys_have_their_text)
{
    uint8_t secret[MUSTER_CURVE], public[MUSTER_CURVE], again[MUSTER_CURVE];
    char text[MUSTER_Z85];

    muster_curve_pair(secret, public);
    muster_curve_public(secret, again);
    cr_assert_eq(memcmp(public, again, sizeof public), 0);
    muster_z85(public, text);
    cr_assert_eq(strlen(text), 40);
}
