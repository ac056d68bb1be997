/* SPDX-License-Identifier: MPL-2.0 */
/* One connection to a door: messages both ways and in order, its limit, and what it says when it does not come to be.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "schemas/muster_crypto.h"
#include "transport/muster_dial.h"

enum { WAIT_S = 20 };

/* ---- a door that answers every message with its bytes ---- */

struct house {
    char folder[64], ipc[96], tcp[64];
    struct muster_bus *bus;
    struct muster_runner *runner;
    struct muster_door *door;
    struct muster_door_spec spec;
    uint8_t public[MUSTER_CURVE];   /* the door's */
    uint8_t admitted[MUSTER_CURVE]; /* the one key */
    char problem[256];
};

static bool
on_admit(void *arg, const uint8_t *key, bool events)
{
    (void)events;
    return memcmp(key, ((struct house *)arg)->admitted, MUSTER_CURVE) == 0;
}

static void
on_door_message(void *arg, uint32_t guest, uint64_t connection, const uint8_t *key, const void *data, size_t size)
{
    struct house *house = arg;
    struct muster_buf answer = {0};

    (void)connection;
    (void)key;
    muster_buf_add(&answer, data, size);
    (void)muster_door_send(house->door, guest, 64 << 20, &answer);
}

static bool
on_subscribe(void *arg, const uint8_t *key, const char *topic, size_t size)
{
    (void)arg;
    (void)key;
    (void)topic;
    (void)size;
    return false;
}

static void
on_subscribed(void *arg, const char *topic, size_t size)
{
    (void)arg;
    (void)topic;
    (void)size;
}

static const struct muster_door_hooks door_hooks = {on_admit, on_door_message, on_subscribe, on_subscribed};

static muster_err
on_house_begin(void *arg, struct muster_loop *loop)
{
    struct house *house = arg;

    return muster_door_open(loop, &house->spec, &door_hooks, house, &house->door, house->problem,
                            sizeof house->problem);
}

static void
on_no_frame(void *arg, const void *data, size_t size)
{
    (void)arg;
    (void)data;
    (void)size;
}

static void
on_house_idle(void *arg)
{
    muster_door_pump(((struct house *)arg)->door);
}

static void
on_house_end(void *arg)
{
    muster_door_close(&((struct house *)arg)->door);
}

static const struct muster_runner_hooks house_hooks = {
    .begin = on_house_begin, .frame = on_no_frame, .idle = on_house_idle, .end = on_house_end};

/* A port of 127.0.0.1 that was free a moment ago; with `out_fd` it is held, and whoever connects hears nothing. */
static int
port_of_nobody(int *out_fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    cr_assert_eq(bind(fd, (struct sockaddr *)&address, size), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    if (out_fd) {
        cr_assert_eq(listen(fd, 4), 0);
        *out_fd = fd;
    } else {
        close(fd);
    }
    return ntohs(address.sin_port);
}

static void
open_house(struct house *house, bool curve, bool tcp)
{
    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    snprintf(house->folder, sizeof house->folder, "/tmp/dial-XXXXXX");
    cr_assert_not_null(mkdtemp(house->folder));
    snprintf(house->ipc, sizeof house->ipc, "ipc://%s/c", house->folder);
    snprintf(house->tcp, sizeof house->tcp, "tcp://127.0.0.1:%d", port_of_nobody(NULL));
    muster_curve_pair(house->spec.secret, house->public);
    house->spec.commands = tcp ? house->tcp : house->ipc;
    house->spec.events = "";
    house->spec.commands_curve = curve;
    house->spec.max_clients = house->spec.max_clients ? house->spec.max_clients : 10;
    house->spec.max_events = 10;
    house->spec.max_message = 1 << 20;
    house->bus = muster_bus_new();
    cr_assert_eq(muster_runner_start(house->bus, "door", 10, &house_hooks, house, &house->runner), MUSTER_OK, "%s",
                 house->problem);
}

static void
close_house(struct house *house)
{
    muster_runner_stop(&house->runner);
    muster_bus_free(&house->bus);
    rmdir(house->folder);
}

/* ---- a dial on a loop of its own ---- */

struct caller {
    struct muster_bus *bus;
    struct muster_runner *runner;
    struct muster_dial *dial;
    struct muster_dial_spec spec;
    muster_err err;         /* of muster_dial_open */
    size_t send_bytes;      /* of each message sent at `up`; 0: none */
    int sends;              /* so many, each with its number in front */
    int came, out_of_order; /* on the loop's thread until a semaphore is posted */
    int overloaded;
    bool refused, is_down;
    int64_t unsent;  /* after the sends */
    muster_err late; /* of a send after the end */
    char problem[256], reason[256];
    sem_t up, all, down;
};

static muster_err
send_number(struct caller *caller, int number)
{
    struct muster_buf frame = {0};
    char *data = muster_alloc(caller->send_bytes);
    muster_err err;

    memcpy(data, &number, sizeof number);
    muster_buf_add(&frame, data, caller->send_bytes);
    free(data);
    err = muster_dial_send(caller->dial, &frame);
    cr_assert_null(frame.data);
    return err;
}

static void
on_up(void *arg)
{
    struct caller *caller = arg;
    int i;

    for (i = 0; i < caller->sends; i++)
        if (send_number(caller, i) == MUSTER_OVERLOADED)
            caller->overloaded++;
    caller->unsent = muster_dial_unsent(caller->dial);
    sem_post(&caller->up);
}

static void
on_message(void *arg, const void *data, size_t size)
{
    struct caller *caller = arg;
    int number = -1;

    if (size == caller->send_bytes)
        memcpy(&number, data, sizeof number);
    caller->out_of_order += number != caller->came;
    if (++caller->came == caller->sends)
        sem_post(&caller->all);
}

static void
on_down(void *arg, const char *reason, bool refused)
{
    struct caller *caller = arg;

    cr_assert(!caller->is_down, "down was called twice");
    caller->is_down = true;
    caller->refused = refused;
    snprintf(caller->reason, sizeof caller->reason, "%s", reason);
    if (caller->send_bytes)
        caller->late = send_number(caller, 0);
    sem_post(&caller->down);
}

static const struct muster_dial_hooks dial_hooks = {on_up, on_message, on_down};

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct caller *caller = arg;

    caller->err = muster_dial_open(loop, &caller->spec, &dial_hooks, caller, &caller->dial, caller->problem,
                                   sizeof caller->problem);
    return caller->err;
}

static void
on_idle(void *arg)
{
    muster_dial_pump(((struct caller *)arg)->dial);
}

static void
on_end(void *arg)
{
    muster_dial_close(&((struct caller *)arg)->dial);
}

static const struct muster_runner_hooks caller_hooks = {
    .begin = on_begin, .frame = on_no_frame, .idle = on_idle, .end = on_end};

static void
call(struct caller *caller, const char *endpoint)
{
    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    sem_init(&caller->up, 0, 0);
    sem_init(&caller->all, 0, 0);
    sem_init(&caller->down, 0, 0);
    caller->spec.endpoint = endpoint;
    if (caller->spec.max_unsent == 0)
        caller->spec.max_unsent = 64 << 20;
    if (caller->spec.connect_ms == 0)
        caller->spec.connect_ms = WAIT_S * 1000;
    caller->bus = muster_bus_new();
    caller->err = muster_runner_start(caller->bus, "caller", 10, &caller_hooks, caller, &caller->runner);
}

static void
hang_up(struct caller *caller)
{
    muster_runner_stop(&caller->runner);
    muster_bus_free(&caller->bus);
    sem_destroy(&caller->up);
    sem_destroy(&caller->all);
    sem_destroy(&caller->down);
}

static bool
await(sem_t *semaphore)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += WAIT_S;
    return sem_timedwait(semaphore, &end) == 0;
}

static void
use_curve(struct caller *caller, const struct house *house, uint8_t out_public[MUSTER_CURVE])
{
    caller->spec.curve = true;
    muster_curve_pair(caller->spec.secret, out_public);
    memcpy(caller->spec.hub_key, house->public, MUSTER_CURVE);
}

static void
assert_ends(struct caller *caller, const char *endpoint, const char *reason, bool refused)
{
    call(caller, endpoint);
    cr_assert_eq(caller->err, MUSTER_OK, "%s", caller->problem);
    cr_assert(await(&caller->down));
    cr_assert_eq(sem_trywait(&caller->up), -1);
    cr_assert_not_null(strstr(caller->reason, reason), "%s", caller->reason);
    cr_assert_eq(caller->refused, refused, "%s", caller->reason);
    hang_up(caller);
}

static void
assert_talks(bool curve, bool tcp)
{
    struct house house = {.bus = NULL};
    struct caller caller = {.send_bytes = 1000, .sends = 1000};

    if (curve) {
        open_house(&house, true, tcp);
        use_curve(&caller, &house, house.admitted);
    } else {
        open_house(&house, false, tcp);
    }
    call(&caller, house.spec.commands);
    cr_assert_eq(caller.err, MUSTER_OK, "%s", caller.problem);
    cr_assert(await(&caller.up), "%s", caller.reason);
    cr_assert(await(&caller.all));
    hang_up(&caller);
    cr_assert_eq(caller.out_of_order, 0);
    cr_assert_eq(caller.came, 1000);
    cr_assert(!caller.is_down);
    close_house(&house);
}

Test(dial, sends_and_hears_in_order_over_ipc)
{
    assert_talks(false, false);
}

Test(dial, sends_and_hears_in_order_over_tcp)
{
    assert_talks(false, true);
}

Test(dial, sends_and_hears_in_order_with_curve)
{
    assert_talks(true, true);
    assert_talks(true, false);
}

Test(dial, ends_once_with_the_door_and_takes_nothing_afterwards)
{
    struct house house = {.bus = NULL};
    struct caller caller = {.send_bytes = 10, .sends = 1};

    open_house(&house, false, true);
    call(&caller, house.spec.commands);
    cr_assert(await(&caller.all));
    close_house(&house);
    cr_assert(await(&caller.down));
    cr_assert_not_null(strstr(caller.reason, "closed"), "%s", caller.reason);
    cr_assert(!caller.refused);
    cr_assert_eq(caller.late, MUSTER_GONE);
    hang_up(&caller);
}

Test(dial, takes_no_more_than_its_limit_of_unsent_bytes)
{
    struct house house = {.bus = NULL};
    struct caller caller = {.send_bytes = 1 << 19, .sends = 200, .spec.max_unsent = 2 << 20};

    open_house(&house, false, false);
    call(&caller, house.spec.commands);
    cr_assert(await(&caller.up));
    hang_up(&caller);
    close_house(&house);
    cr_assert_gt(caller.overloaded, 0);
    cr_assert_leq(caller.unsent, 2 << 20);
}

Test(dial, takes_one_message_that_is_larger_than_the_limit)
{
    struct house house = {.bus = NULL};
    struct caller caller = {.send_bytes = 1 << 19, .sends = 1, .spec.max_unsent = 1000};

    open_house(&house, false, false);
    call(&caller, house.spec.commands);
    cr_assert(await(&caller.all));
    hang_up(&caller);
    close_house(&house);
    cr_assert_eq(caller.overloaded, 0);
}

Test(dial, says_that_the_key_is_not_taken)
{
    struct house house = {.bus = NULL};
    struct caller caller = {.sends = 0};
    uint8_t public[MUSTER_CURVE];

    open_house(&house, true, true);
    use_curve(&caller, &house, public);
    assert_ends(&caller, house.spec.commands, "does not take this key", true);
    close_house(&house);
}

Test(dial, says_that_the_hub_has_another_key)
{
    struct house house = {.bus = NULL};
    struct caller caller = {.sends = 0};

    open_house(&house, true, true);
    use_curve(&caller, &house, house.admitted);
    caller.spec.hub_key[0] ^= 1;
    assert_ends(&caller, house.spec.commands, "another key", true);
    close_house(&house);
}

Test(dial, says_that_only_one_side_uses_curve)
{
    struct house plain = {.bus = NULL}, curved = {.bus = NULL};
    struct caller with = {.sends = 0}, without = {.sends = 0};

    open_house(&plain, false, true);
    use_curve(&with, &plain, plain.admitted);
    assert_ends(&with, plain.spec.commands, "takes no CURVE", true);
    close_house(&plain);
    open_house(&curved, true, false);
    assert_ends(&without, curved.spec.commands, "CURVE keys", false);
    close_house(&curved);
}

Test(dial, says_that_nobody_is_there)
{
    struct caller tcp = {.sends = 0}, ipc = {.sends = 0}, name = {.sends = 0};
    char endpoint[64];

    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", port_of_nobody(NULL));
    assert_ends(&tcp, endpoint, "connection refused", false);
    assert_ends(&ipc, "ipc:///tmp/no-folder-of-a-hub/commands", "nobody listens", false);
    assert_ends(&name, "tcp://no-such-host.invalid:5570", "resolved", false);
}

Test(dial, gives_up_on_somebody_who_says_nothing)
{
    struct caller plain = {.spec.connect_ms = 200}, curve = {.spec = {.connect_ms = 200, .curve = true}};
    char endpoint[64];
    int fd;

    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", port_of_nobody(&fd));
    assert_ends(&plain, endpoint, "no answer within 0.2 s", false);
    assert_ends(&curve, endpoint, "no answer within 0.2 s", false);
    close(fd);
}

/* It hangs up, or says nothing. */
Test(dial, does_not_come_up_at_a_door_that_is_full)
{
    struct house house = {.spec.max_clients = 1};
    struct caller first = {.sends = 0}, second = {.spec.connect_ms = 300};

    open_house(&house, false, true);
    call(&first, house.spec.commands);
    cr_assert(await(&first.up));
    assert_ends(&second, house.spec.commands, "no ", false);
    hang_up(&first);
    close_house(&house);
}

/* A hub sends one frame; whatever else comes is passed over. */
Test(dial, drops_messages_of_several_frames)
{
    struct caller caller = {.send_bytes = sizeof(int), .sends = 1};
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    char endpoint[64], id[16], body[16];
    int wait_ms = WAIT_S * 1000, linger = 0, size, zero = 0;

    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", port_of_nobody(NULL));
    zmq_setsockopt(router, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    zmq_setsockopt(router, ZMQ_LINGER, &linger, sizeof linger);
    cr_assert_eq(zmq_bind(router, endpoint), 0);
    call(&caller, endpoint);
    size = zmq_recv(router, id, sizeof id, 0);
    cr_assert_gt(size, 0);
    cr_assert_eq(zmq_recv(router, body, sizeof body, 0), (int)sizeof(int));
    zmq_send(router, id, (size_t)size, ZMQ_SNDMORE);
    zmq_send(router, &zero, sizeof zero, ZMQ_SNDMORE);
    zmq_send(router, &zero, sizeof zero, 0);
    zmq_send(router, id, (size_t)size, ZMQ_SNDMORE);
    zmq_send(router, &zero, sizeof zero, 0);
    cr_assert(await(&caller.all));
    hang_up(&caller);
    cr_assert_eq(caller.came, 1);
    zmq_close(router);
    zmq_ctx_term(context);
}

static void
assert_no_endpoint(const char *endpoint)
{
    struct caller caller = {.sends = 0};

    call(&caller, endpoint);
    cr_assert_eq(caller.err, MUSTER_INVALID_REQUEST, "%s", endpoint);
    cr_assert_not_null(strstr(caller.problem, "endpoint"), "%s", caller.problem);
    hang_up(&caller);
}

Test(dial, takes_no_nonsense_for_an_endpoint)
{
    static const char *const texts[] = {"",           "localhost:5570",    "tcp://localhost", "tcp://:5570",
                                        "ipc://",     "tcp://a:99999",     "tcp://a:0",       "tcp://a:5570x",
                                        "udp://a:90", "tcp://a host:5570", "tcp://a:http",    "inproc://a"};
    size_t i;

    for (i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_no_endpoint(texts[i]);
}

static void
assert_closes(const char *endpoint)
{
    struct caller caller = {.sends = 0};

    call(&caller, endpoint);
    cr_assert_eq(caller.err, MUSTER_OK, "%s", caller.problem);
    hang_up(&caller);
}

Test(dial, is_closed_while_it_still_connects)
{
    char endpoint[64];
    int fd;

    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", port_of_nobody(&fd));
    assert_closes(endpoint);
    assert_closes("tcp://no-such-host.invalid:5570"); /* its name is being looked up */
    close(fd);
}

Test(curve, a_text_that_is_no_key_is_refused)
{
    uint8_t secret[MUSTER_CURVE], public[MUSTER_CURVE], again[MUSTER_CURVE];
    char text[MUSTER_Z85];

    muster_curve_pair(secret, public);
    muster_z85(public, text);
    cr_assert(muster_curve_parse(text, again));
    cr_assert_arr_eq(again, public, MUSTER_CURVE);
    cr_assert(!muster_curve_parse("", again));
    cr_assert(!muster_curve_parse("too short", again));
    text[3] = ' ';
    cr_assert(!muster_curve_parse(text, again));
    cr_assert_arr_eq(again, public, MUSTER_CURVE);
}
