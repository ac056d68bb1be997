/* SPDX-License-Identifier: MPL-2.0 */
/* bus_request: a client's message on its way: checked, counted, handed to its actor or answered from the store.  The
 * thread of the bus, which never waits.
 *
 * Full: a client with max_pending requests at work gets OVERLOADED for more, and so do all at BUS_PENDING_MAX. */
#include <string.h>

#include "api/bus_inside.h"

/* ---- to the actors ---- */

static int64_t
hop_of(const struct muster_public *row)
{
    return row && row->body == &worker_parcel_type ? BUS_PARCEL_MS : BUS_HOP_MS;
}

/* Does it count against the key's rate?  What a worker says does not: it is work that the hub gave it. */
static bool
is_counted(const struct bus_request *request)
{
    return request->has_key && request->limit.requests > 0 && !bus_is_of_worker(request->row);
}

/* Through the limiter when it counts; `type` NULL: only count. */
static muster_err
send_on(struct bus_request *request, const struct bus_pending *pending)
{
    struct bus *bus = request->bus;
    const struct muster_type *type = request->type;
    struct muster_envelope envelope = {.id = pending ? bus_id_of(bus, pending) : BUS_SYNC_ID,
                                       .reply_to = pending ? BUS_ADDRESS : "",
                                       .deadline_ms = muster_clock_ms() + hop_of(request->row),
                                       .trace = pending ? pending->trace : "",
                                       .principal = {.key = request->key.id, .name = request->key.name}};
    struct limit_take take = {.requests = request->limit.requests,
                              .window = request->limit.window,
                              .algorithm = request->limit.algorithm,
                              .cost = 1};
    struct muster_buf packed = {0};
    muster_err err;

    if (type && !is_counted(request))
        return bus_send(bus, request->row->address, &envelope, type, request->message);
    if (type) {
        muster_pack(type, request->message, &packed);
        take.next = request->row->address;
        take.type = type->wire;
        take.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    }
    err = bus_send(bus, MUSTER_LIMIT, &envelope, &limit_take_type, &take);
    muster_buf_free(&packed);
    return err;
}

/* ---- a message ---- */

static const struct muster_public *
find_public(const char *wire)
{
    const struct muster_public *row;

    for (row = muster_publics; row->wire; row++)
        if (strcmp(row->wire, wire) == 0)
            return row;
    return NULL;
}

static muster_err
read_body(struct bus_request *request)
{
    void *body = muster_arena_alloc(request->arena, request->row->body->size);
    struct muster_fault fault;
    muster_err err = muster_unpack(request->row->body, request->envelope.body.data, request->envelope.body.size,
                                   request->arena, body, &fault);

    if (err)
        request->problem =
            muster_arena_printf(request->arena, "%s%s%s", fault.field, fault.field[0] ? ": " : "", fault.message);
    request->body = body;
    return err;
}

static muster_err
refuse(struct bus_request *request, muster_err err, const char *problem, int64_t retry_after_s)
{
    request->problem = problem;
    request->retry_after_s = retry_after_s;
    return err;
}

static muster_err
check(struct bus_request *request)
{
    struct bus *bus = request->bus;
    const char *missing;
    muster_err err = bus_login(request, request->curve);

    if (err)
        return err;
    if (request->row == NULL)
        return refuse(request, MUSTER_INVALID_REQUEST,
                      muster_arena_printf(request->arena, "There is no message of type %.64s for clients",
                                          request->envelope.type),
                      0);
    missing = caller_lacks(request->arena, &request->key, request->row->scopes);
    if (missing)
        return refuse(
            request, MUSTER_FORBIDDEN,
            muster_arena_printf(request->arena, "%s: the key lacks %s", muster_err_text(MUSTER_FORBIDDEN), missing), 0);
    if (request->envelope.deadline_ms > 0 && request->envelope.deadline_ms <= muster_clock_ms())
        return refuse(request, MUSTER_TIMEOUT, "The deadline has passed", 0);
    if (request->row->address[0] && atomic_load(&bus->draining) && !bus_is_of_worker(request->row))
        return refuse(request, MUSTER_SHUTTING_DOWN, NULL, 1);
    err = read_body(request);
    return err ? err : bus_plan(request);
}

/* A request id that can stand in a log. */
static const char *
trace_of(const struct bus_request *request)
{
    const char *at, *trace = request->envelope.trace;
    char *made;
    struct muster_id id;

    for (at = trace; *at > ' ' && *at <= '~'; at++)
        ;
    if (*trace && *at == '\0')
        return trace;
    id = muster_id_new(muster_clock_ms());
    made = muster_arena_alloc(request->arena, MUSTER_ID_TEXT);
    muster_id_text(&id, made);
    return made;
}

/* Nothing is awaited; it was answered. */
static void
fail_at_once(struct bus_request *request, uint32_t guest, uint64_t connection, muster_err err)
{
    struct bus_pending gone = {
        .guest = guest, .connection = connection, .id = request->envelope.id, .trace = request->envelope.trace};

    bus_fail(request->bus, &gone, NULL, err, request->problem, request->retry_after_s);
    request->type = NULL;
    if (is_counted(request) && err != MUSTER_OVERLOADED)
        (void)send_on(request, NULL); /* what is refused counts too */
}

static void
fill(const struct bus_request *request, uint32_t guest, struct bus_pending *pending)
{
    int64_t now_ms = muster_clock_ms(), deadline_ms = request->envelope.deadline_ms;

    pending->stage = request->type ? BUS_ANSWERED : BUS_COUNTED;
    pending->guest = guest;
    pending->connection = request->guest->connection;
    pending->id = request->envelope.id;
    pending->row = request->row;
    pending->wait = request->wait;
    pending->until_ms = now_ms + hop_of(request->row);
    pending->wait_until_ms =
        now_ms + (request->row->body == &log_read_type ? ((const struct log_read *)request->body)->wait_ms
                                                       : request->bus->house.options->http->max_ask_timeout);
    if (deadline_ms > 0 && deadline_ms < pending->until_ms)
        pending->until_ms = deadline_ms;
    if (deadline_ms > 0 && deadline_ms < pending->wait_until_ms)
        pending->wait_until_ms = deadline_ms;
    pending->arena = request->arena;
    pending->trace = request->envelope.trace;
    pending->key = request->key;
    pending->body = request->body;
    pending->by_curve = request->curve != NULL;
    memcpy(pending->proof, request->curve ? request->curve : request->guest->digest, sizeof pending->proof);
}

/* Its actor has the rest, which may be large and the wait long. */
static void
keep_little(struct bus_pending *pending)
{
    const char *trace = pending->trace;

    pending->arena = muster_arena_new();
    pending->trace = muster_arena_str(pending->arena, trace, strlen(trace));
    pending->key = (struct key){.id = pending->key.id};
    pending->body = NULL;
}

/* Takes the arena of a read when all is well. */
static muster_err
begin(struct bus_request *request, uint32_t guest)
{
    struct bus *bus = request->bus;
    struct bus_pending *pending;
    muster_err err = MUSTER_OK;

    if (request->guest->pending >= bus->options->max_pending)
        return refuse(request, MUSTER_OVERLOADED, "Too many requests of this client wait for their answer", 1);
    pending = bus_new_pending(bus);
    if (pending == NULL)
        return refuse(request, MUSTER_OVERLOADED, NULL, 1);
    fill(request, guest, pending);
    request->guest->pending++;
    if (request->type || is_counted(request))
        err = send_on(request, pending);
    else
        bus_go_on_reading(bus, pending, NULL);
    if (err) {
        pending->arena = NULL;
        bus_end_pending(bus, pending);
        return refuse(request, err, NULL, 1);
    }
    if (request->type)
        keep_little(pending);
    else
        request->arena = NULL;
    return MUSTER_OK;
}

/* Of one who is a worker, and says so with a key that is no longer good? */
static void
note_refusal(const struct bus_request *request)
{
    if (request->guest && request->guest->attached > 0 && bus_is_of_worker(request->row) &&
        request->row->body != &worker_attach_type)
        bus_on_worker_refused(request->bus, request->guest->number);
}

void
bus_on_message(void *arg, uint32_t guest, uint64_t connection, const uint8_t *curve, const void *data, size_t size)
{
    struct bus *bus = arg;
    struct bus_request request = {.bus = bus, .arena = muster_arena_new(), .curve = curve};
    muster_err err;

    if (muster_envelope_unpack(data, size, request.arena, &request.envelope)) {
        bus->view.broken++;
        muster_arena_free(&request.arena);
        return;
    }
    request.row = find_public(request.envelope.type);
    request.envelope.trace = trace_of(&request);
    request.guest = bus_guest_of(bus, guest, connection);
    if (request.guest == NULL)
        err = refuse(&request, MUSTER_OVERLOADED, NULL, 1);
    else
        err = check(&request);
    if (!err)
        err = begin(&request, guest);
    if (err)
        fail_at_once(&request, guest, connection, err);
    if (err == MUSTER_UNAUTHORIZED || err == MUSTER_FORBIDDEN)
        note_refusal(&request);
    muster_arena_free(&request.arena);
}
