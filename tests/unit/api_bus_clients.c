/* SPDX-License-Identifier: MPL-2.0 */
/* What clients of bus.commands get: workers, whose other side is pretended, and reads of the log that wait. */
#include "tests/unit/api_help.h"

#include <criterion/criterion.h>
#include <semaphore.h>
#include <zmq.h>

#include "api/bus.h"

#define WORKER_KEY "muster_sk_worker" /* workers:run, team backend, 1000 a minute */

enum { RUN_BYTES = 256 << 10, QUIET_MS = 300 };

static struct rig rig;
static struct bus *bus;
static struct muster_post *nodes; /* what is sent to nodes */
static struct muster_arena *arena;
static void *context;
static sem_t flushed; /* the log was asked for a flush */

static const struct http_dialect *const dialects[] = {NULL};
static const char options[] = "data: .\n"
                              "http: {listen: [127.0.0.1:0], threads: 8, max_sockets: 4, max_waiting: 2}\n"
                              "bus: {commands: 'ipc://c', max_backlog: 1MiB, max_pending: 3}\n"
                              "workers: {max_backlog: 8MiB}\n"
                              "teams: {backend: {}, frontend: {}}\n"
                              "log: {format: json, level: info}\n";

/* ---- the bus and its house ---- */

static void
publish_both(int64_t revoked_ms)
{
    static const char *const runs[] = {"workers:run"}, *const all[] = {"*"}, *const teams[] = {"backend"};
    static const struct rate_limit thousand = {1000, 60000, limit_algorithm_SLIDING_WINDOW};
    static const struct rate_limit unlimited = {0, 60000, limit_algorithm_SLIDING_WINDOW};
    static uint8_t digests[2][MUSTER_DIGEST];
    struct key keys[2] = {{.name = "worker",
                           .scopes = {runs, 1},
                           .teams = {teams, 1},
                           .rate_limit = &thousand,
                           .revoked_ms = revoked_ms,
                           .digest = {digests[0], MUSTER_DIGEST}},
                          {.name = "admin",
                           .scopes = {all, 1},
                           .rate_limit = &unlimited,
                           .revoked_ms = revoked_ms,
                           .digest = {digests[1], MUSTER_DIGEST}}};

    muster_sha256(WORKER_KEY, strlen(WORKER_KEY), digests[0]);
    muster_sha256(ADMIN_KEY, strlen(ADMIN_KEY), digests[1]);
    keys[0].id = muster_id_new(1000);
    keys[1].id = muster_id_new(1001);
    muster_board_publish(rig.bus, MUSTER_KEYS_BOARD, keys_new(keys, 2), keys_free);
}

static void
store_secret(void)
{
    static const uint8_t value[MUSTER_CURVE] = {1};
    struct secret secret = {
        .id = muster_id_of("secret", "bus"), .value = {value, sizeof value}, .created_ms = muster_clock_ms()};
    struct muster_batch *batch = muster_batch_new(rig.house.store);
    struct muster_buf bytes = {0};

    muster_pack(&secret_type, &secret, &bytes);
    cr_assert_eq(muster_batch_put(batch, &secret_type, bytes.data, bytes.size), MUSTER_OK);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_buf_free(&bytes);
    muster_batch_free(&batch);
}

static void
on_flush(struct rig *r)
{
    (void)r;
    sem_post(&flushed);
}

static void
open_bus(void)
{
    char problem[256] = "";

    rig_open(&rig, options, dialects);
    sem_init(&flushed, 0, 0);
    rig.on_flush = on_flush;
    publish_both(0);
    store_secret();
    arena = muster_arena_new();
    cr_assert_eq(muster_post_open(rig.bus, MUSTER_NODES, 1000, &nodes), MUSTER_OK);
    cr_assert_eq(bus_start(&rig.house, &bus, problem, sizeof problem), MUSTER_OK, "%s", problem);
    sem_wait(&flushed); /* how far the log is settled */
    context = zmq_ctx_new();
}

static void
close_bus(void)
{
    bus_stop(&bus);
    muster_post_close(&nodes);
    zmq_ctx_term(context);
    muster_arena_free(&arena);
    rig_close(&rig);
}

TestSuite(bus_clients, .init = open_bus, .fini = close_bus, .timeout = 60);

/* ---- a client ---- */

/* One that keeps `room` messages that nobody has taken; 0: any number.  While it is full it takes nothing from its
 * connection, and if that ends then, what was still on the way is lost to it. */
static void *
connect_client(int room)
{
    void *socket = zmq_socket(context, ZMQ_DEALER);
    int patience = PATIENCE_MS, none = 0;

    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof patience);
    zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none);
    zmq_setsockopt(socket, ZMQ_RCVHWM, &room, sizeof room);
    cr_assert_eq(zmq_connect(socket, rig.config.options->bus->commands), 0);
    return socket;
}

static void
say(void *socket, int64_t id, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.id = id, .reply_to = "", .trace = "request-1", .principal.name = ""};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, type, body, &frame);
    cr_assert_neq(zmq_send(socket, frame.data, frame.size, 0), -1);
    muster_buf_free(&frame);
}

/* The next message, which must have that id and type; its body. */
static const void *
heard(void *socket, int64_t id, const struct muster_type *type, struct muster_envelope *out)
{
    void *body = muster_arena_alloc(arena, type->size);
    struct muster_envelope envelope;
    zmq_msg_t message;
    char *data;

    zmq_msg_init(&message);
    cr_assert_neq(zmq_msg_recv(&message, socket, 0), -1, "no %s", type->wire);
    data = muster_arena_alloc(arena, zmq_msg_size(&message));
    memcpy(data, zmq_msg_data(&message), zmq_msg_size(&message));
    cr_assert_eq(muster_envelope_unpack(data, zmq_msg_size(&message), arena, &envelope), MUSTER_OK);
    cr_assert_str_eq(envelope.type, type->wire);
    cr_assert_eq(envelope.id, id);
    cr_assert_eq(muster_unpack(type, envelope.body.data, envelope.body.size, arena, body, NULL), MUSTER_OK);
    zmq_msg_close(&message);
    if (out)
        *out = envelope;
    return body;
}

static void
expect_failed(void *socket, int64_t id, const char *code)
{
    const struct failed *failed = heard(socket, id, &failed_type, NULL);

    cr_expect_str_eq(failed->code, code, "%s", failed->message);
}

static void *
login_with_room(const char *key, int room)
{
    void *socket = connect_client(room);
    struct bus_hello hello = {key};

    say(socket, 1, &bus_hello_type, &hello);
    (void)heard(socket, 1, &bus_welcome_type, NULL);
    return socket;
}

static void *
login(const char *key)
{
    return login_with_room(key, 0);
}

/* ---- nodes ---- */

static const void *
nodes_got(const struct muster_type *type, struct muster_envelope *out)
{
    void *body = muster_arena_alloc(arena, type->size);
    struct muster_frame frame;
    char *data;

    cr_assert_eq(muster_post_receive(nodes, PATIENCE_MS, -1, &frame), MUSTER_OK, "no %s", type->wire);
    data = muster_arena_alloc(arena, frame.size);
    memcpy(data, frame.data, frame.size);
    cr_assert_eq(muster_envelope_unpack(data, frame.size, arena, out), MUSTER_OK);
    muster_frame_free(&frame);
    cr_assert_str_eq(out->type, type->wire);
    cr_assert_eq(muster_unpack(type, out->body.data, out->body.size, arena, body, NULL), MUSTER_OK);
    return body;
}

static void
nodes_say(int64_t id, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.id = id, .reply_to = "", .trace = "request-2", .principal.name = "of the job"};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, type, body, &frame);
    cr_assert_eq(muster_post_send(nodes, "bus", &frame), MUSTER_OK);
    muster_buf_free(&frame);
}

static void
expect_gone(int64_t attachment)
{
    struct muster_envelope envelope;
    const struct node_gone *gone = nodes_got(&node_gone_type, &envelope);

    cr_expect_eq(gone->attachment, attachment);
}

static void
ask_attach(void *socket, int64_t id, const char *team)
{
    struct worker_team teams[] = {{"backend", 2}, {team, 1}};
    struct worker_attach attach = {
        .protocol = 1, .version = "0.1.0", .name = "w1", .epoch = "e", .teams = {teams, team ? 2 : 1}};

    say(socket, id, &worker_attach_type, &attach);
}

/* A worker whose worker.attach had the number 7; returns its attachment. */
static int64_t
attach_worker(void *socket)
{
    struct worker_welcome welcome = {.version = "0.1.0", .epoch = "x", .lease_ms = 30000, .beat_ms = 10000};
    struct muster_envelope envelope;
    const struct worker_attach *got;

    ask_attach(socket, 7, NULL);
    got = nodes_got(&worker_attach_type, &envelope);
    cr_assert_str_eq(got->name, "w1");
    cr_assert_str_eq(envelope.reply_to, "bus");
    cr_assert_gt(envelope.id, 0);
    welcome.attachment = envelope.id;
    nodes_say(envelope.id, &worker_welcome_type, &welcome);
    cr_assert_eq(((const struct worker_welcome *)heard(socket, 7, &worker_welcome_type, NULL))->attachment,
                 envelope.id);
    return envelope.id;
}

static struct agent_run
run_of(const char *prompt)
{
    return (struct agent_run){
        .job = muster_id_new(5), .attempt = 2, .prompt = prompt, .timeout_ms = 1000, .team = "backend", .node = "w1"};
}

/* ---- workers ------------------------------------------------------------------------------------------------------ */

Test(bus_clients, a_worker_hears_what_nodes_says_under_the_number_of_its_attach)
{
    void *socket = login(WORKER_KEY);
    int64_t attachment = attach_worker(socket);
    struct worker_beat beat = {.attachment = attachment};
    struct worker_heard answer = {.draining = true};
    struct worker_detached detached = {attachment, "another one"};
    struct agent_run run = run_of("do it"), late = run_of("too late");
    struct agent_cancel cancel = {.job = run.job, .attempt = 2};
    struct muster_envelope envelope;
    const struct agent_run *got;
    int taken = rig.taken; /* for the hello */

    nodes_say(attachment, &agent_run_type, &run);
    got = heard(socket, 7, &agent_run_type, &envelope);
    cr_expect_str_eq(got->prompt, "do it");
    cr_expect_str_eq(envelope.trace, "request-2");
    cr_expect_str_eq(envelope.principal.name, "", "whose job it is is not the worker's");
    nodes_say(attachment, &agent_cancel_type, &cancel);
    (void)heard(socket, 7, &agent_cancel_type, NULL);
    say(socket, 8, &worker_beat_type, &beat);
    cr_expect_eq(((const struct worker_beat *)nodes_got(&worker_beat_type, &envelope))->attachment, attachment);
    cr_expect_str_eq(envelope.principal.name, "worker");
    nodes_say(envelope.id, &worker_heard_type, &answer);
    cr_expect(((const struct worker_heard *)heard(socket, 8, &worker_heard_type, NULL))->draining);
    nodes_say(attachment, &worker_detached_type, &detached);
    (void)heard(socket, 7, &worker_detached_type, NULL);
    nodes_say(attachment, &agent_run_type, &late);
    expect_gone(attachment);
    cr_expect_eq(rig.taken, taken, "nothing of it counts against its rate");
    zmq_close(socket);
}

Test(bus_clients, an_attach_that_nodes_refuses_ends_there)
{
    void *socket = login(WORKER_KEY);
    struct failed failed = {"CONFLICT", "another worker has this name", 0};
    struct agent_run run = run_of("nobody");
    struct muster_envelope envelope;

    ask_attach(socket, 3, NULL);
    (void)nodes_got(&worker_attach_type, &envelope);
    nodes_say(envelope.id, &failed_type, &failed);
    expect_failed(socket, 3, "CONFLICT");
    nodes_say(envelope.id, &agent_run_type, &run);
    expect_gone(envelope.id);
    zmq_close(socket);
}

Test(bus_clients, who_may_not_be_a_worker_reaches_nobody)
{
    void *stranger = connect_client(0), *worker = login(WORKER_KEY);
    struct worker_beat beat = {.attachment = 5};
    struct log_read read = {.limit = 1};

    ask_attach(stranger, 2, NULL);
    expect_failed(stranger, 2, "UNAUTHORIZED");
    ask_attach(worker, 3, "frontend");
    expect_failed(worker, 3, "FORBIDDEN");
    say(worker, 4, &log_read_type, &read);
    expect_failed(worker, 4, "FORBIDDEN");
    publish_keys(&rig); /* the reader among them, who has no workers:run */
    zmq_close(worker);
    worker = login(READER_KEY);
    say(worker, 5, &worker_beat_type, &beat);
    expect_failed(worker, 5, "FORBIDDEN");
    publish_both(0);
    zmq_close(worker);
    worker = login(WORKER_KEY);
    (void)attach_worker(worker); /* the first that nodes hears of */
    zmq_close(worker);
    zmq_close(stranger);
}

Test(bus_clients, a_worker_whose_key_is_revoked_is_not_one_any_more)
{
    void *socket = login(WORKER_KEY);
    int64_t attachment = attach_worker(socket);
    struct worker_beat beat = {.attachment = attachment};

    publish_both(1); /* without a word of the worker */
    expect_failed(socket, 7, "UNAUTHORIZED");
    expect_gone(attachment);
    say(socket, 9, &worker_beat_type, &beat);
    expect_failed(socket, 9, "UNAUTHORIZED");
    zmq_close(socket);
}

Test(bus_clients, a_worker_that_says_hello_as_somebody_else_is_not_one_any_more)
{
    void *socket = login(WORKER_KEY);
    int64_t attachment = attach_worker(socket);
    struct worker_beat beat = {.attachment = attachment};
    struct bus_hello hello = {"muster_sk_wrong"};

    say(socket, 8, &bus_hello_type, &hello);
    expect_failed(socket, 8, "UNAUTHORIZED");
    say(socket, 9, &worker_beat_type, &beat);
    expect_failed(socket, 9, "UNAUTHORIZED");
    expect_failed(socket, 7, "UNAUTHORIZED");
    expect_gone(attachment);
    zmq_close(socket);
}

Test(bus_clients, nodes_is_told_when_a_worker_has_left)
{
    void *socket = login(WORKER_KEY);
    int64_t attachment = attach_worker(socket);
    struct agent_run run = run_of("nobody");
    struct muster_frame frame;
    muster_err err;

    zmq_close(socket);
    do {
        nodes_say(attachment, &agent_run_type, &run); /* until the connection's end was seen */
        err = muster_post_receive(nodes, 10, -1, &frame);
    } while (err == MUSTER_TIMEOUT);
    cr_assert_eq(err, MUSTER_OK);
    muster_frame_free(&frame);
}

Test(bus_clients, a_worker_that_does_not_read_has_a_backlog_of_its_own)
{
    void *socket = login_with_room(WORKER_KEY, 1);
    int64_t attachment = attach_worker(socket);
    char *prompt = muster_arena_alloc(arena, RUN_BYTES + 1);
    struct muster_frame frame;
    struct agent_run run;
    int count;

    memset(prompt, 'x', RUN_BYTES);
    run = run_of(prompt);
    for (count = 0; count < 16; count++) /* four times bus.max_backlog */
        nodes_say(attachment, &agent_run_type, &run);
    cr_assert_eq(muster_post_receive(nodes, QUIET_MS, -1, &frame), MUSTER_TIMEOUT);
    for (; count < 100; count++)
        nodes_say(attachment, &agent_run_type, &run);
    expect_gone(attachment);
    zmq_close(socket);
}

Test(bus_clients, a_worker_may_tell_what_it_did_while_the_server_drains)
{
    void *socket = login(WORKER_KEY);
    int64_t attachment = attach_worker(socket);
    struct worker_parcel parcel = {attachment, 1, 0, true, parcel_kind_EVENTS, {(const uint8_t *)"x", 1}};
    struct worker_acked acked = {1};
    struct muster_envelope envelope;

    bus_drain(bus);
    say(socket, 9, &worker_parcel_type, &parcel);
    (void)nodes_got(&worker_parcel_type, &envelope);
    cr_expect_gt(envelope.deadline_ms, muster_clock_ms() + 30000);
    nodes_say(envelope.id, &worker_acked_type, &acked);
    cr_expect_eq(((const struct worker_acked *)heard(socket, 9, &worker_acked_type, NULL))->seq, 1);
    zmq_close(socket);
}

/* ---- reads that wait ---------------------------------------------------------------------------------------------- */

/* Let `count` reads of the log be answered by the log; returns how often it was asked so far.  A message that is sent
 * to the bus from now on comes behind those answers. */
static int
await_flushes(int count)
{
    struct muster_envelope envelope = {.reply_to = "test", .trace = "", .principal.name = ""};
    struct log_flush flush = {.all = true};
    struct muster_buf frame = {0};
    struct muster_frame answer;

    while (count-- > 0)
        sem_wait(&flushed);
    muster_envelope_pack(&envelope, &log_flush_type, &flush, &frame);
    cr_assert_eq(muster_post_send(rig.post, MUSTER_LOG, &frame), MUSTER_OK);
    cr_assert_eq(muster_post_receive(rig.post, PATIENCE_MS, -1, &answer), MUSTER_OK);
    muster_frame_free(&answer);
    sem_wait(&flushed);
    return rig.flushes;
}

static void
publish_event(const char *team, int64_t seq, int64_t settled)
{
    struct team_paused paused = {.by = "me"};
    struct muster_buf packed = {0};
    struct event event = {.seq = seq, .at_ms = 1, .type = team_paused_type.wire, .team = team};

    muster_pack(&team_paused_type, &paused, &packed);
    event.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    store_events(&rig, &event, 1);
    rig.settled = settled;
    publish_settled(&rig, &event, settled);
    muster_buf_free(&packed);
}

static void
ask_log(void *socket, int64_t id, const char *team, int64_t wait_ms)
{
    struct log_read read = {.team = team, .wait_ms = wait_ms};

    say(socket, id, &log_read_type, &read);
}

static void
expect_page(void *socket, int64_t id, int64_t seq)
{
    const struct log_page *page = heard(socket, id, &log_page_type, NULL);

    cr_assert_eq(page->events.count, seq > 0 ? 1 : 0);
    if (seq > 0)
        cr_expect_eq(page->events.items[0].seq, seq);
}

Test(bus_clients, a_read_waits_for_an_event_that_fits)
{
    void *socket = login(ADMIN_KEY);
    int before;

    ask_log(socket, 2, "backend", 20000);
    before = await_flushes(1);
    publish_event("frontend", 1, 1);
    publish_event("frontend", 2, 2);
    publish_event("backend", 3, 3);
    expect_page(socket, 2, 3);
    cr_expect_eq(rig.flushes, before + 1, "what does not fit is not looked at");
    zmq_close(socket);
}

Test(bus_clients, a_read_waits_until_the_event_is_settled)
{
    void *socket = login(ADMIN_KEY);
    int before;

    ask_log(socket, 2, "backend", 20000);
    before = await_flushes(1);
    publish_event("backend", 2, 0);
    publish_event("backend", 3, 0);
    publish_event("frontend", 1, 3);
    cr_expect_eq(((const struct log_page *)heard(socket, 2, &log_page_type, NULL))->events.count, 2);
    cr_expect_eq(rig.flushes, before + 1);
    zmq_close(socket);
}

Test(bus_clients, what_was_published_and_not_settled_before_the_read_is_seen)
{
    void *socket = login(ADMIN_KEY);

    publish_event("backend", 2, 0);
    ask_log(socket, 2, "backend", 20000);
    (void)await_flushes(1);
    publish_event("frontend", 1, 2);
    expect_page(socket, 2, 2);
    zmq_close(socket);
}

Test(bus_clients, a_read_that_waited_in_vain_gets_an_empty_page_that_goes_on)
{
    void *socket = login(ADMIN_KEY);
    const struct log_page *page;

    publish_event("frontend", 1, 1);
    ask_log(socket, 2, "backend", 50);
    page = heard(socket, 2, &log_page_type, NULL);
    cr_expect_eq(page->events.count, 0);
    cr_expect_eq(page->settled, 1);
    cr_expect_not_null(strstr(page->next, "-1"));
    zmq_close(socket);
}

Test(bus_clients, the_deadline_ends_a_wait_too)
{
    void *socket = login(ADMIN_KEY);
    struct muster_envelope envelope = {
        .id = 2, .reply_to = "", .trace = "", .principal.name = "", .deadline_ms = muster_clock_ms() + 200};
    struct log_read read = {.wait_ms = 60000};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, &log_read_type, &read, &frame);
    cr_assert_neq(zmq_send(socket, frame.data, frame.size, 0), -1);
    expect_page(socket, 2, 0);
    muster_buf_free(&frame);
    zmq_close(socket);
}

Test(bus_clients, reads_that_wait_count_as_requests_and_are_answered_at_the_end)
{
    void *socket = login(ADMIN_KEY), *other = login(ADMIN_KEY);
    int64_t id;

    publish_event("backend", 1, 1);
    ask_log(other, 2, NULL, 0);
    expect_page(other, 2, 1);
    for (id = 2; id <= 5; id++)
        ask_log(socket, id, "frontend", 60000);
    expect_failed(socket, 5, "OVERLOADED");
    ask_log(other, 3, "frontend", 1);
    expect_page(other, 3, 0); /* so those before it wait */
    zmq_close(other);
    bus_drain(bus);
    cr_expect_eq(zmq_recv(socket, (char[1]){0}, 1, ZMQ_DONTWAIT), -1);
    bus_stop(&bus);
    for (id = 0; id < 3; id++) {
        struct muster_envelope envelope;
        zmq_msg_t message;

        zmq_msg_init(&message);
        cr_assert_neq(zmq_msg_recv(&message, socket, 0), -1);
        cr_assert_eq(muster_envelope_unpack(zmq_msg_data(&message), zmq_msg_size(&message), arena, &envelope),
                     MUSTER_OK);
        cr_expect_str_eq(envelope.type, log_page_type.wire);
        zmq_msg_close(&message);
    }
    zmq_close(socket);
}

Test(bus_clients, who_lost_the_key_while_waiting_is_told_nothing)
{
    void *socket = login(ADMIN_KEY);

    ask_log(socket, 2, NULL, 20000);
    (void)await_flushes(1);
    publish_both(1);
    publish_event("backend", 1, 1);
    expect_failed(socket, 2, "UNAUTHORIZED");
    zmq_close(socket);
}

Test(bus_clients, a_read_of_one_job_waits_for_that_job)
{
    void *socket = login(ADMIN_KEY);
    struct job job = {.id = muster_id_new(9),
                      .kind = job_kind_EXECUTE,
                      .team = "backend",
                      .state = job_state_QUEUED,
                      .priority = job_priority_NORMAL,
                      .prompt = "x",
                      .from = "me",
                      .trace = "",
                      .created_ms = 1,
                      .timeout_ms = 1000,
                      .max_attempts = 1};
    struct log_read read = {.job = job.id, .wait_ms = 20000};
    const struct log_page *page;
    int before;

    store_job(&rig, &job);
    say(socket, 2, &log_read_type, &read);
    before = await_flushes(1);
    publish_event("backend", 1, 1);
    store_chunks(&rig, &job.id, 2, 2, "mine", false);
    rig.settled = 2;
    publish_text(&rig, &job.id, 2, "mine", false);
    page = heard(socket, 2, &log_page_type, NULL);
    cr_assert_eq(page->events.count, 1);
    cr_expect_eq(page->events.items[0].seq, 2);
    cr_expect_eq(rig.flushes, before + 1);
    zmq_close(socket);
}
