/* SPDX-License-Identifier: MPL-2.0 */
/* connect: the connection to a hub elsewhere.
 *
 * One thread, from connect_open to connect_close.  It says bus.hello first on each connection, with CURVE too, and
 * takes the answer for the sign that the hub is there and knows us; then it sends what waits.  When a connection
 * breaks, what was sent and changes something has failed, since nobody knows whether it was done; what only reads is
 * sent again. What can fail: the connection, at any time; requests wait for it as long as they may. */
#include "api/connect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    MAILBOX = 16,                    /* nobody writes to it */
    DIAL_MS = CONNECT_WAIT_MS - 500, /* so that a dial tells itself why there is no answer */
    HELLO_ID = 0,                    /* requests have others */
    MAX_UNSENT = 64 << 20,
    PAUSE_MS = 100, /* before it is dialled again, doubled up to */
    PAUSE_MAX_MS = 5000,
    FULL_MS = 20, /* before something is sent again that had no room */
    LARGE = 1 << 20
};

static int64_t
uptime_ms(void)
{
    return muster_uptime_ns() / 1000000;
}

/* ---- requests: under the lock -------------------------------------------------------------------------------------- */

static void
unlink_request(struct connect *connect, struct connect_request *request)
{
    struct connect_request **at;

    for (at = &connect->requests; *at != request; at = &(*at)->next)
        ;
    *at = request->next;
    if (connect->last == &request->next)
        connect->last = at;
}

static void
finish(struct connect *connect, struct connect_request *request, muster_err err)
{
    unlink_request(connect, request);
    request->err = err;
    request->state = CONNECT_DONE;
    request->done(request);
}

static void __attribute__((format(printf, 4, 5)))
fail(struct connect *connect, struct connect_request *request, muster_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(request->problem, sizeof request->problem, format, args);
    va_end(args);
    finish(connect, request, err);
}

/* A type has another name on the way to a hub when the hub makes another one of it. */
static const char *
wire_of(const struct muster_type *type)
{
    const struct muster_public *row;

    for (row = muster_publics; row->wire && row->body != type; row++)
        ;
    MUSTER_ASSERT(row->wire);
    return row->wire;
}

/* No deadline: the hub's clock may be another. */
static void
pack(int64_t id, const struct muster_type *type, const void *body, struct muster_buf *out)
{
    struct muster_envelope envelope = {
        .type = wire_of(type), .id = id, .reply_to = "", .trace = "", .principal.name = ""};
    struct muster_buf packed = {.size = 0};

    muster_pack(type, body, &packed);
    envelope.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    muster_envelope_wrap(&envelope, out);
    muster_buf_free(&packed);
}

void
connect_put(struct library *library, struct connect_request *request, const struct muster_type *type, const void *body)
{
    struct connect *connect = library->connect; /* as long as the call */

    pthread_mutex_lock(&library->lock);
    request->id = ++connect->last_id;
    pthread_mutex_unlock(&library->lock);
    pack(request->id, type, body, &request->frame);
    pthread_mutex_lock(&library->lock);
    request->state = CONNECT_WAITING;
    request->next = NULL;
    *connect->last = request;
    connect->last = &request->next;
    if (connect->closing)
        finish(connect, request, MUSTER_SHUTTING_DOWN);
    pthread_mutex_unlock(&library->lock);
    (void)eventfd_write(connect->wake_fd, 1);
}

void
connect_drop(struct library *library, struct connect_request *request)
{
    pthread_mutex_lock(&library->lock);
    if (request->state == CONNECT_WAITING || request->state == CONNECT_SENT)
        unlink_request(library->connect, request);
    request->state = CONNECT_IDLE;
    pthread_mutex_unlock(&library->lock);
}

void
connect_request_free(struct connect_request *request)
{
    muster_buf_free(&request->frame);
    muster_buf_free(&request->answer);
}

/* ---- what becomes of a dial ---------------------------------------------------------------------------------------- */

static void
say_tried(struct connect *connect, muster_err err)
{
    if (connect->has_tried)
        return;
    connect->has_tried = true;
    connect->err = err;
    pthread_cond_broadcast(&connect->tried);
}

static void
break_one(struct connect *connect, struct connect_request *request)
{
    const char *hint = request->frame.size > LARGE ? "; it may be larger than bus.max_message of the hub" : "";

    if (request->keep || request->reads) {
        request->state = CONNECT_WAITING;
        request->end_ms = request->keep ? 0 : request->end_ms;
    } else {
        fail(connect, request, MUSTER_TIMEOUT, "The connection broke, and it may have been done or not: %s%s",
             connect->reason, hint);
    }
}

/* There is no connection any more.  `err`: what the first one came to. */
static void
lose(struct connect *connect, muster_err err, const char *reason)
{
    struct connect_request *request, *next;

    if (connect->lost)
        return;
    connect->lost = true;
    pthread_mutex_lock(&connect->library->lock);
    connect->ready = false;
    snprintf(connect->reason, sizeof connect->reason, "%s", reason);
    for (request = connect->requests; request; request = next) {
        next = request->next;
        if (request->state == CONNECT_SENT)
            break_one(connect, request);
    }
    say_tried(connect, err);
    pthread_mutex_unlock(&connect->library->lock);
}

static void
on_up(void *arg)
{
    struct connect *connect = arg;
    struct bus_hello hello = {.key = connect->api_key};
    struct muster_buf frame = {.size = 0};

    pack(HELLO_ID, &bus_hello_type, &hello, &frame);
    if (muster_dial_send(connect->dial, &frame))
        lose(connect, MUSTER_OVERLOADED, "the first message could not be sent");
}

static void
on_down(void *arg, const char *reason, bool refused)
{
    lose(arg, refused ? MUSTER_UNAUTHORIZED : MUSTER_TIMEOUT, reason);
}

/* It knows the key no more: nobody needs to wait. */
static void
refuse_all(struct connect *connect, const char *reason)
{
    pthread_mutex_lock(&connect->library->lock);
    while (connect->requests)
        fail(connect, connect->requests, MUSTER_UNAUTHORIZED, "%s", reason);
    pthread_mutex_unlock(&connect->library->lock);
}

static void
on_hello(struct connect *connect, const void *data, size_t size)
{
    char problem[LIBRARY_TEXT] = "";
    struct bus_welcome welcome;
    muster_err err = library_answer(data, size, &bus_welcome_type, connect->arena, &welcome, problem, sizeof problem);

    if (err == MUSTER_UNAUTHORIZED)
        refuse_all(connect, problem);
    if (err) {
        lose(connect, err, problem[0] ? problem : muster_err_text(err));
        return;
    }
    connect->pause_ms = PAUSE_MS;
    pthread_mutex_lock(&connect->library->lock);
    connect->ready = true;
    say_tried(connect, MUSTER_OK);
    pthread_mutex_unlock(&connect->library->lock);
    (void)eventfd_write(connect->wake_fd, 1); /* what waits can be sent */
}

static void
on_message(void *arg, const void *data, size_t size)
{
    struct connect *connect = arg;
    struct muster_envelope envelope;
    struct connect_request *request;

    muster_arena_clear(connect->arena);
    if (muster_envelope_unpack(data, size, connect->arena, &envelope))
        return;
    if (envelope.id == HELLO_ID) {
        on_hello(connect, data, size);
        return;
    }
    pthread_mutex_lock(&connect->library->lock);
    for (request = connect->requests; request && request->id != envelope.id; request = request->next)
        ;
    if (request && request->state == CONNECT_SENT) {
        muster_buf_add(&request->answer, data, size);
        finish(connect, request, MUSTER_OK);
    }
    pthread_mutex_unlock(&connect->library->lock);
}

static const struct muster_dial_hooks dial_hooks = {on_up, on_message, on_down};

static muster_err
dial(struct connect *connect, char *problem, size_t size)
{
    connect->lost = false;
    connect->hello_ms = uptime_ms() + CONNECT_WAIT_MS;
    return muster_dial_open(connect->loop, &connect->spec, &dial_hooks, connect, &connect->dial, problem, size);
}

static void
on_redial(void *arg)
{
    struct connect *connect = arg;
    char problem[LIBRARY_TEXT];
    muster_err err;

    connect->redial_timer = 0;
    err = dial(connect, problem, sizeof problem);
    if (err)
        lose(connect, err, problem);
}

/* ---- rounds ---------------------------------------------------------------------------------------------------------- */

/* Send one that waits.  Returns when to look at it again.  A dial that has just ended loses what it is given. */
static int64_t
send_one(struct connect *connect, struct connect_request *request, int64_t now_ms)
{
    int64_t unsent = muster_dial_unsent(connect->dial);
    struct muster_buf copy = {.size = 0};

    if (request->begin_ms > now_ms)
        return request->begin_ms;
    if (unsent > 0 && unsent + (int64_t)request->frame.size > MAX_UNSENT)
        return now_ms + FULL_MS;
    muster_buf_add(&copy, request->frame.data, request->frame.size);
    if (muster_dial_send(connect->dial, &copy))
        return now_ms + FULL_MS;
    request->state = CONNECT_SENT;
    if (request->keep)
        request->end_ms = now_ms + request->limit_ms;
    return request->end_ms;
}

static int64_t
step(struct connect *connect, struct connect_request *request, int64_t now_ms)
{
    if (request->end_ms > 0 && request->end_ms <= now_ms && request->keep) {
        request->state = CONNECT_WAITING;
        request->end_ms = 0;
    } else if (request->end_ms > 0 && request->end_ms <= now_ms) {
        fail(connect, request, MUSTER_TIMEOUT, "%s%s",
             connect->ready ? "No answer came in time" : "The hub cannot be reached: ",
             connect->ready ? "" : connect->reason);
        return INT64_MAX;
    }
    if (request->state == CONNECT_WAITING && connect->ready)
        return send_one(connect, request, now_ms);
    return request->end_ms > 0 ? request->end_ms : INT64_MAX;
}

static void
on_timer(void *arg)
{
    ((struct connect *)arg)->timer = 0; /* on_idle follows */
}

/* Look at all requests, and when the next one is due. */
static void
look(struct connect *connect)
{
    int64_t now_ms = uptime_ms(), next_ms = INT64_MAX, at_ms;
    struct connect_request *request, *next;

    pthread_mutex_lock(&connect->library->lock);
    for (request = connect->requests; request; request = next) {
        next = request->next;
        at_ms = step(connect, request, now_ms);
        if (at_ms < next_ms)
            next_ms = at_ms;
    }
    if (connect->dial && !connect->ready && connect->hello_ms < next_ms)
        next_ms = connect->hello_ms;
    pthread_mutex_unlock(&connect->library->lock);
    muster_loop_timer_end(connect->loop, connect->timer);
    connect->timer = 0;
    if (next_ms < INT64_MAX)
        connect->timer = muster_loop_timer(connect->loop, next_ms - now_ms, on_timer, connect);
}

static bool
is_ready(struct connect *connect)
{
    bool ready;

    pthread_mutex_lock(&connect->library->lock);
    ready = connect->ready;
    pthread_mutex_unlock(&connect->library->lock);
    return ready;
}

/* Sending comes first: it uses up what told of something to receive. */
static void
on_idle(void *arg)
{
    struct connect *connect = arg;

    look(connect);
    if (connect->dial)
        muster_dial_pump(connect->dial);
    if (connect->dial && !connect->lost && connect->hello_ms <= uptime_ms() && !is_ready(connect))
        lose(connect, MUSTER_TIMEOUT, "the hub does not answer");
    if (!connect->lost || connect->redial_timer)
        return;
    muster_dial_close(&connect->dial);
    connect->redial_timer = muster_loop_timer(connect->loop, connect->pause_ms, on_redial, connect);
    connect->pause_ms = 2 * connect->pause_ms < PAUSE_MAX_MS ? 2 * connect->pause_ms : PAUSE_MAX_MS;
}

static void
on_wake(void *arg, int fd, int events)
{
    eventfd_t count;

    (void)arg; /* on_idle follows */
    (void)events;
    (void)eventfd_read(fd, &count);
}

static void
on_frame(void *arg, const void *data, size_t size)
{
    (void)arg;
    (void)data;
    (void)size;
}

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct connect *connect = arg;
    muster_err err;

    connect->loop = loop;
    err = dial(connect, connect->reason, sizeof connect->reason);
    if (!err)
        muster_loop_watch(loop, connect->wake_fd, MUSTER_WATCH_READ, on_wake, connect);
    return err;
}

static void
on_end(void *arg)
{
    muster_dial_close(&((struct connect *)arg)->dial);
}

static const struct muster_runner_hooks hooks = {.begin = on_begin, .frame = on_frame, .idle = on_idle, .end = on_end};

/* ---- birth and death --------------------------------------------------------------------------------------------------- */

static void
connect_free(struct connect *connect)
{
    muster_runner_stop(&connect->runner);
    muster_bus_free(&connect->bus);
    muster_arena_free(&connect->arena);
    pthread_cond_destroy(&connect->tried);
    if (connect->wake_fd >= 0)
        close(connect->wake_fd);
    if (connect->api_key)
        explicit_bzero(connect->api_key, strlen(connect->api_key));
    explicit_bzero(&connect->spec, sizeof connect->spec);
    free(connect->api_key);
    free(connect->endpoint);
    free(connect);
}

/* What the first dial comes to. */
static muster_err
await_first(struct connect *connect)
{
    muster_err err = muster_runner_start(connect->bus, "connect", MAILBOX, &hooks, connect, &connect->runner);

    if (err)
        return err;
    pthread_mutex_lock(&connect->library->lock);
    while (!connect->has_tried)
        pthread_cond_wait(&connect->tried, &connect->library->lock);
    err = connect->err;
    pthread_mutex_unlock(&connect->library->lock);
    return err;
}

muster_err
connect_open(const struct muster_address *address, struct library *library, char *problem, size_t problem_size)
{
    struct muster_dial_spec spec;
    const char *api_key;
    struct connect *connect;
    muster_err err = connect_address_read(address, &spec, &api_key, problem, problem_size);

    if (err)
        return err;
    connect = muster_alloc(sizeof *connect);
    *connect = (struct connect){.library = library,
                                .spec = spec,
                                .endpoint = muster_strdup(address->hub),
                                .api_key = muster_strdup(api_key),
                                .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                                .bus = muster_bus_new(),
                                .arena = muster_arena_new(),
                                .pause_ms = PAUSE_MS};
    explicit_bzero(&spec, sizeof spec);
    connect->last = &connect->requests;
    connect->spec.endpoint = connect->endpoint;
    connect->spec.max_unsent = MAX_UNSENT;
    connect->spec.connect_ms = DIAL_MS;
    pthread_cond_init(&connect->tried, NULL);
    err = connect->wake_fd < 0 ? MUSTER_OVERLOADED : await_first(connect);
    if (err) {
        muster_runner_stop(&connect->runner);
        snprintf(problem, problem_size, "%s: %s", address->hub,
                 connect->reason[0] ? connect->reason : muster_err_text(err));
        connect_free(connect);
        return err;
    }
    library->ways = &connect_ways;
    library->connect = connect;
    return MUSTER_OK;
}

void
connect_close(struct library *library)
{
    struct connect *connect = library->connect;

    if (connect == NULL)
        return;
    pthread_mutex_lock(&library->lock);
    connect->closing = true;
    while (connect->requests)
        finish(connect, connect->requests, MUSTER_SHUTTING_DOWN);
    pthread_mutex_unlock(&library->lock);
    library_stop(library);
    library->connect = NULL;
    connect_free(connect);
}

const char *
connect_endpoint(const struct library *library)
{
    return library->connect->endpoint;
}
