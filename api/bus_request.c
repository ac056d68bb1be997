/* SPDX-License-Identifier: MPL-2.0 */
/* bus_request: a client's message on its way: checked, counted, handed to its actor or answered from the store.  The
 * thread of the bus, which never waits: what is awaited stands in a slot until its answer or its end.
 *
 * Full: a client with max_pending requests at work gets OVERLOADED for more, and so do all at BUS_PENDING_MAX. */
#include <stdlib.h>
#include <string.h>

#include "actors/muster_job.h"
#include "api/bus_inside.h"

#define INDEX_BITS 20

/* ---- answers ---- */

static void
send_answer(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
            const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {
        .id = pending->id, .reply_to = "", .trace = pending->trace ? pending->trace : "", .principal.name = ""};
    const struct bus_guest *guest = bus_guest_find(bus, pending->guest);
    struct muster_buf frame = {0};

    if (guest && guest->connection != pending->connection)
        return; /* who asked has left, and another client has its number */
    if (principal)
        envelope.principal = *principal;
    muster_envelope_pack(&envelope, type, body, &frame);
    (void)muster_door_send(bus->door, pending->guest, &frame); /* counted there when it is lost */
}

void
bus_answer(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
           const struct muster_type *type, const void *body)
{
    bus->view.answers++;
    send_answer(bus, pending, principal, type, body);
}

void
bus_fail(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal, muster_err err,
         const char *message, int64_t retry_after_s)
{
    struct failed failed = {.code = muster_err_code(err),
                            .message = message ? message : muster_err_text(err),
                            .retry_after_s = retry_after_s};

    bus->view.failed++;
    send_answer(bus, pending, principal, &failed_type, &failed);
}

/* ---- slots ---- */

static struct bus_pending *
new_pending(struct bus *bus)
{
    struct bus_pending *pending;
    uint32_t at = bus->first_free, generation;

    if (at == 0) {
        if (bus->pending_count == BUS_PENDING_MAX)
            return NULL;
        if ((bus->pending_count & (bus->pending_count - 1)) == 0) { /* full: 0, or a power of two */
            size_t capacity = bus->pending_count ? 2 * (size_t)bus->pending_count : 1;

            bus->pending = muster_realloc(bus->pending, capacity * sizeof *bus->pending);
        }
        at = ++bus->pending_count;
        bus->pending[at - 1] = (struct bus_pending){.stage = BUS_FREE};
    } else {
        bus->first_free = bus->pending[at - 1].next_free;
    }
    pending = &bus->pending[at - 1];
    generation = pending->generation + 1;
    *pending = (struct bus_pending){.generation = generation};
    bus->pending_used++;
    return pending;
}

static void
end_pending(struct bus *bus, struct bus_pending *pending)
{
    struct bus_guest *guest = bus_guest_find(bus, pending->guest);

    if (guest)
        guest->pending--;
    muster_arena_free(&pending->arena);
    pending->stage = BUS_FREE;
    pending->next_free = bus->first_free;
    bus->first_free = (uint32_t)(pending - bus->pending) + 1;
    bus->pending_used--;
}

/* Never BUS_SYNC_ID. */
static int64_t
id_of(const struct bus *bus, const struct bus_pending *pending)
{
    return ((int64_t)pending->generation << INDEX_BITS) | (pending - bus->pending);
}

static struct bus_pending *
find_pending(struct bus *bus, int64_t id)
{
    int64_t at = id & ((1 << INDEX_BITS) - 1);

    if (id <= 0 || at >= bus->pending_count || bus->pending[at].stage == BUS_FREE ||
        bus->pending[at].generation != id >> INDEX_BITS)
        return NULL;
    return &bus->pending[at];
}

void
bus_requests_free(struct bus *bus)
{
    uint32_t i;

    for (i = 0; i < bus->pending_count; i++)
        muster_arena_free(&bus->pending[i].arena);
    free(bus->pending);
}

void
bus_expire(struct bus *bus)
{
    int64_t now_ms = muster_clock_ms();
    uint32_t i;

    for (i = 0; bus->pending_used > 0 && i < bus->pending_count; i++) {
        struct bus_pending *pending = &bus->pending[i];

        if (pending->stage == BUS_FREE || pending->until_ms > now_ms)
            continue;
        bus_fail(bus, pending, NULL, MUSTER_TIMEOUT,
                 pending->stage == BUS_FINISHED ? "No answer came in time; the job goes on and can be read later"
                                                : "No answer came in time",
                 0);
        end_pending(bus, pending);
    }
}

/* ---- to the actors ---- */

muster_err
bus_send(struct bus *bus, const char *to, const struct muster_envelope *envelope, const struct muster_type *type,
         const void *body)
{
    struct muster_buf frame = {0};
    muster_err err;

    muster_envelope_pack(envelope, type, body, &frame);
    err = muster_post_send(muster_loop_post(bus->loop), to, &frame);
    muster_buf_free(&frame);
    return err ? MUSTER_OVERLOADED : MUSTER_OK;
}

/* Through the limiter when the key has a limit; `type` NULL: only count. */
static muster_err
send_on(struct bus_request *request, const struct bus_pending *pending)
{
    struct bus *bus = request->bus;
    const struct muster_type *type = request->type;
    struct muster_envelope envelope = {.id = pending ? id_of(bus, pending) : BUS_SYNC_ID,
                                       .reply_to = pending ? BUS_ADDRESS : "",
                                       .deadline_ms = muster_clock_ms() + BUS_HOP_MS,
                                       .trace = pending ? pending->trace : "",
                                       .principal = {.key = request->key.id, .name = request->key.name}};
    struct limit_take take = {.requests = request->limit.requests,
                              .window = request->limit.window,
                              .algorithm = request->limit.algorithm,
                              .cost = 1};
    struct muster_buf packed = {0};
    muster_err err;

    if (request->limit.requests == 0 && type)
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

static muster_err
ask_log(struct bus *bus, const struct bus_pending *pending)
{
    struct muster_envelope envelope = {.id = id_of(bus, pending),
                                       .reply_to = BUS_ADDRESS,
                                       .trace = pending->trace,
                                       .principal = {.key = pending->key.id, .name = pending->key.name}};
    struct log_flush flush = {.all = true};

    return bus_send(bus, MUSTER_LOG, &envelope, &log_flush_type, &flush);
}

/* A read was counted: answer it, behind the log if it is about events. */
static void
go_on_reading(struct bus *bus, struct bus_pending *pending, const struct muster_principal *principal)
{
    if (pending->row->body == &log_read_type && ask_log(bus, pending) == MUSTER_OK) {
        pending->stage = BUS_FLUSHED;
        return;
    }
    if (pending->row->body == &log_read_type)
        bus_fail(bus, pending, principal, MUSTER_OVERLOADED, NULL, 1);
    else
        bus_answer_read(bus, pending, principal, bus->feed.settled);
    end_pending(bus, pending);
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
check(struct bus_request *request, const uint8_t *curve)
{
    struct bus *bus = request->bus;
    const char *missing;
    muster_err err = bus_login(request, curve);

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
    if (request->row->address[0] && atomic_load(&bus->draining))
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
    if (request->has_key && request->limit.requests > 0 && err != MUSTER_OVERLOADED)
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
    pending->until_ms = now_ms + BUS_HOP_MS;
    pending->wait_until_ms = now_ms + request->bus->house.options->http->max_ask_timeout;
    if (deadline_ms > 0 && deadline_ms < pending->until_ms)
        pending->until_ms = deadline_ms;
    if (deadline_ms > 0 && deadline_ms < pending->wait_until_ms)
        pending->wait_until_ms = deadline_ms;
    pending->arena = request->arena;
    pending->trace = request->envelope.trace;
    pending->key = request->key;
    pending->body = request->body;
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
    pending = new_pending(bus);
    if (pending == NULL)
        return refuse(request, MUSTER_OVERLOADED, NULL, 1);
    fill(request, guest, pending);
    request->guest->pending++;
    if (request->type || request->limit.requests > 0)
        err = send_on(request, pending);
    else
        go_on_reading(bus, pending, NULL);
    if (err) {
        pending->arena = NULL;
        end_pending(bus, pending);
        return refuse(request, err, NULL, 1);
    }
    if (request->type)
        keep_little(pending);
    else
        request->arena = NULL;
    return MUSTER_OK;
}

void
bus_on_message(void *arg, uint32_t guest, uint64_t connection, const uint8_t *curve, const void *data, size_t size)
{
    struct bus *bus = arg;
    struct bus_request request = {.bus = bus, .arena = muster_arena_new()};
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
        err = check(&request, curve);
    if (!err)
        err = begin(&request, guest);
    if (err)
        fail_at_once(&request, guest, connection, err);
    muster_arena_free(&request.arena);
}

/* ---- answers of actors ---- */

/* It was submitted before: its end is told if it has come. */
static void
answer_repeated(struct bus *bus, const struct bus_pending *pending, const struct muster_principal *principal,
                const struct muster_id *id)
{
    struct job job;
    struct queue_finished finished = {.job = &job};
    muster_err err = muster_store_get(bus->house.store, &job_type, id, bus->arena, &job);

    if (!err && !muster_job_ended(job.state))
        err = MUSTER_IDEMPOTENCY_IN_PROGRESS;
    if (err) {
        bus_fail(bus, pending, principal, err, NULL, 0);
        return;
    }
    job = bus_show_job(&job);
    bus_answer(bus, pending, principal, &queue_finished_type, &finished);
}

static void
relay_accepted(struct bus *bus, struct bus_pending *pending, const struct muster_envelope *envelope)
{
    struct queue_accepted accepted;

    if (muster_unpack(&queue_accepted_type, envelope->body.data, envelope->body.size, bus->arena, &accepted, NULL)) {
        bus_fail(bus, pending, NULL, MUSTER_INTERNAL_ERROR, NULL, 0);
        end_pending(bus, pending);
        return;
    }
    bus_answer(bus, pending, &envelope->principal, &queue_accepted_type, &accepted);
    if (pending->wait && !accepted.repeated) {
        pending->stage = BUS_FINISHED;
        pending->until_ms = pending->wait_until_ms;
        return;
    }
    if (pending->wait)
        answer_repeated(bus, pending, &envelope->principal, &accepted.job);
    end_pending(bus, pending);
}

static void
relay_finished(struct bus *bus, const struct bus_pending *pending, const struct muster_envelope *envelope)
{
    struct queue_finished finished;
    struct job job;

    if (muster_unpack(&queue_finished_type, envelope->body.data, envelope->body.size, bus->arena, &finished, NULL)) {
        bus_fail(bus, pending, NULL, MUSTER_INTERNAL_ERROR, NULL, 0);
        return;
    }
    job = bus_show_job(finished.job);
    finished.job = &job;
    bus_answer(bus, pending, &envelope->principal, &queue_finished_type, &finished);
}

/* Of a type that a client may see as it is. */
static void
relay(struct bus *bus, const struct bus_pending *pending, const struct muster_envelope *envelope,
      const struct muster_type *type)
{
    void *body = muster_arena_alloc(bus->arena, type->size);

    if (muster_unpack(type, envelope->body.data, envelope->body.size, bus->arena, body, NULL))
        bus_fail(bus, pending, NULL, MUSTER_INTERNAL_ERROR, NULL, 0);
    else if (type == &failed_type)
        bus_fail(bus, pending, &envelope->principal, muster_err_from_code(((struct failed *)body)->code),
                 ((struct failed *)body)->message, ((struct failed *)body)->retry_after_s);
    else
        bus_answer(bus, pending, &envelope->principal, type, body);
}

static void
on_flushed(struct bus *bus, const struct bus_pending *pending, const struct muster_envelope *envelope)
{
    struct store_committed committed;

    if (muster_unpack(&store_committed_type, envelope->body.data, envelope->body.size, bus->arena, &committed, NULL))
        bus_fail(bus, pending, NULL, MUSTER_INTERNAL_ERROR, NULL, 0);
    else
        bus_answer_read(bus, pending, NULL, committed.seq);
}

static void
on_synced(struct bus *bus, const struct muster_envelope *envelope)
{
    struct store_committed committed = {.seq = 0};
    muster_err err = MUSTER_STORAGE_ERROR;

    if (strcmp(envelope->type, store_committed_type.wire) == 0)
        err = muster_unpack(&store_committed_type, envelope->body.data, envelope->body.size, bus->arena, &committed,
                            NULL);
    bus_on_flushed(bus, err, committed.seq);
}

void
bus_on_answer(struct bus *bus, const struct muster_envelope *envelope)
{
    static const struct muster_type *const relayed[] = {&failed_type, &queue_cancelled_type, &queue_placed_type,
                                                        &queue_paused_type, NULL};
    struct bus_pending *pending = find_pending(bus, envelope->id);
    size_t i;

    if (envelope->id == BUS_SYNC_ID) {
        on_synced(bus, envelope);
        return;
    }
    if (pending == NULL)
        return; /* its time was over */
    if (strcmp(envelope->type, limit_taken_type.wire) == 0 && pending->stage == BUS_COUNTED) {
        go_on_reading(bus, pending, &envelope->principal);
        return;
    }
    if (strcmp(envelope->type, queue_accepted_type.wire) == 0 && pending->stage == BUS_ANSWERED) {
        relay_accepted(bus, pending, envelope);
        return;
    }
    for (i = 0; relayed[i] && strcmp(relayed[i]->wire, envelope->type) != 0; i++)
        ;
    if (strcmp(envelope->type, store_committed_type.wire) == 0 && pending->stage == BUS_FLUSHED)
        on_flushed(bus, pending, envelope);
    else if (strcmp(envelope->type, queue_finished_type.wire) == 0 && pending->stage == BUS_FINISHED)
        relay_finished(bus, pending, envelope);
    else if (relayed[i])
        relay(bus, pending, envelope, relayed[i]);
    else
        return;
    end_pending(bus, pending);
}
