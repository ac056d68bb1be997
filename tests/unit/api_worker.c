/* SPDX-License-Identifier: MPL-2.0 */
/* A worker and its link, against a hub made for the test: attaching, breaks, jobs, parcels, the end in order. */
#include "api_worker_hub.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/muster.h"
#include "api/worker_address.h"

static char folder[] = "/tmp/muster-worker-XXXXXX";
static int null_fd;

/* The program's team: notes what it gets. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct muster_turn *turn; /* the last one */
    size_t begun, cancelled;
} own = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void
on_begin(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg)
{
    (void)prompt;
    (void)conversation;
    (void)arg;
    pthread_mutex_lock(&own.lock);
    own.turn = turn;
    own.begun++;
    pthread_cond_broadcast(&own.changed);
    pthread_mutex_unlock(&own.lock);
}

static void
on_cancel(struct muster_turn *turn, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&own.lock);
    own.cancelled++;
    pthread_cond_broadcast(&own.changed);
    pthread_mutex_unlock(&own.lock);
    (void)muster_turn_fail(turn, "CANCELLED", NULL, false);
}

static void
await_count(const size_t *count, size_t wanted)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&own.lock);
    while (*count < wanted)
        cr_assert_eq(pthread_cond_timedwait(&own.changed, &own.lock, &until), 0, "the team was not told");
    pthread_mutex_unlock(&own.lock);
}

static void
set_up(void)
{
    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    cr_assert_not_null(mkdtemp(folder));
    null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    setenv("MUSTER_API_KEY", "muster_sk_of_the_worker", 1);
}

static void
tear_down(void)
{
    char command[128];

    close(null_fd);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(worker, .init = set_up, .fini = tear_down, .timeout = 120);

static const char *
write_file(const char *name, const char *text)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    FILE *file;

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

static struct muster_worker *
start(const char *endpoint)
{
    static const struct muster_team team = {.name = "own", .concurrency = 3, .begin = on_begin, .cancel = on_cancel};
    static const char config[] = "worker: {reconnect: 20ms, max_reconnect: 50ms, labels: {gpu: 'yes'}}\n"
                                 "shutdown: {grace: 60s}\n"
                                 "teams: {own: {stop_timeout: 200ms}, side: {driver: echo}}\n";
    struct muster_worker_settings settings = {.config = write_file("worker.yaml", config),
                                              .address.hub = endpoint,
                                              .name = "w",
                                              .labels = "zone=a",
                                              .log_fd = null_fd,
                                              .teams = &team,
                                              .team_count = 1};
    char problem[1024];
    struct muster_worker *worker = muster_worker_start(&settings, problem, sizeof problem, NULL);

    cr_assert_not_null(worker, "%s", problem);
    return worker;
}

/* A worker that is attached to a hub. */
static struct muster_worker *
start_attached(struct hub *hub)
{
    struct muster_worker *worker;
    char problem[512] = "";

    hub_init(hub, folder);
    hub_start(hub);
    worker = start(hub->endpoint);
    cr_assert_null(muster_worker_wait(worker, PATIENCE_S * 1000, problem, sizeof problem), "%s", problem);
    return worker;
}

static void
stop(struct hub *hub, struct muster_worker **worker_p)
{
    muster_worker_hurry(*worker_p);
    muster_worker_hurry(*worker_p);
    muster_worker_stop(worker_p);
    cr_assert_null(*worker_p);
    hub_stop(hub);
}

static struct muster_id
job_of(int number)
{
    struct muster_id job = {{0}};

    job.bytes[15] = (uint8_t)number;
    return job;
}

static void
run(struct hub *hub, int number, int64_t attempt)
{
    struct agent_run body = {
        .job = job_of(number), .attempt = attempt, .prompt = "do", .timeout_ms = 600000, .team = "own"};

    hub_say(hub, &agent_run_type, &body);
}

/* Tell it until it is taken: the team's thread may be behind. */
static void
turn_done(const char *result)
{
    const char *code;

    do
        code = muster_turn_done(own.turn, result);
    while (code && strcmp(code, "OVERLOADED") == 0);
    cr_assert_null(code, "%s", code);
}

/* The parcels from *at on, up to the next report, which is returned. */
static const struct queue_report *
await_report(struct hub *hub, size_t *at, struct queue_report *out)
{
    const struct worker_parcel *parcel;
    struct muster_buf data = {0};

    do {
        parcel = hub_await(hub, at, &worker_parcel_type);
        if (parcel->part == 0)
            muster_buf_clear(&data);
        muster_buf_add(&data, parcel->data.data, parcel->data.size);
    } while (parcel->kind != parcel_kind_REPORT || !parcel->last);
    pthread_mutex_lock(&hub->lock); /* the arena is its */
    cr_assert_eq(muster_unpack(&queue_report_type, data.data, data.size, hub->arena, out, NULL), MUSTER_OK);
    pthread_mutex_unlock(&hub->lock);
    muster_buf_free(&data);
    return out;
}

/* ---- attaching ---- */

Test(worker, says_who_it_is_and_what_it_offers)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    const struct worker_attach *attach;
    const struct bus_hello *hello;
    size_t at = 0;

    hello = hub_await(&hub, &at, &bus_hello_type);
    cr_assert_str_eq(hello->key, "muster_sk_of_the_worker");
    attach = hub_await(&hub, &at, &worker_attach_type);
    cr_assert_eq(attach->protocol, MUSTER_WORKER_PROTOCOL);
    cr_assert_str_eq(attach->name, "w");
    cr_assert_eq(strlen(attach->epoch), 16);
    cr_assert_eq(attach->pid, getpid());
    cr_assert_eq(attach->teams.count, 2);
    cr_assert_str_eq(attach->teams.items[0].name, "own");
    cr_assert_eq(attach->teams.items[0].capacity, 3);
    cr_assert_str_eq(attach->teams.items[1].name, "side");
    cr_assert_eq(attach->labels.count, 2);
    cr_assert_str_eq(attach->labels.items[1].name, "zone");
    cr_assert_eq(attach->held.count, 0);
    hub_await(&hub, &at, &worker_beat_type);
    cr_assert_eq(((const struct worker_beat *)hub_await(&hub, &at, &worker_beat_type))->attachment, 1);
    cr_assert_str_eq(muster_worker_teams(worker), "own (3), side (1)");
    stop(&hub, &worker);
}

Test(worker, a_refusal_is_told_once_and_it_goes_on_trying)
{
    static struct hub hub;
    struct muster_worker *worker;
    char problem[512] = "";

    hub_init(&hub, folder);
    hub.refuse_attach = "TEAM_NOT_FOUND";
    hub_start(&hub);
    worker = start(hub.endpoint);
    cr_assert_str_eq(muster_worker_wait(worker, -1, problem, sizeof problem), "TEAM_NOT_FOUND");
    cr_assert_str_eq(problem, "because the test says so");
    HUB_SET(&hub, refuse_attach, "OVERLOADED");
    while (strcmp(muster_worker_wait(worker, 100, problem, sizeof problem), "TIMEOUT") != 0)
        ;
    HUB_SET(&hub, refuse_attach, NULL);
    HUB_SET(&hub, refuse_hello, "UNAUTHORIZED");
    cr_assert_str_eq(muster_worker_wait(worker, -1, problem, sizeof problem), "UNAUTHORIZED");
    HUB_SET(&hub, refuse_hello, NULL);
    while (muster_worker_wait(worker, -1, problem, sizeof problem) != NULL)
        ;
    stop(&hub, &worker);
}

Test(worker, waits_for_a_hub_that_is_not_there_yet)
{
    static struct hub hub;
    struct muster_worker *worker;
    char problem[512] = "";

    hub_init(&hub, folder);
    worker = start(hub.endpoint);
    cr_assert_str_eq(muster_worker_wait(worker, 300, problem, sizeof problem), "TIMEOUT");
    cr_assert_gt(strlen(problem), 0);
    hub_start(&hub);
    cr_assert_null(muster_worker_wait(worker, PATIENCE_S * 1000, problem, sizeof problem), "%s", problem);
    stop(&hub, &worker);
}

Test(worker, a_hub_that_does_not_answer_beats_is_left_after_its_lease)
{
    static struct hub hub;
    struct muster_worker *worker;
    size_t at = 0;
    int i;

    hub_init(&hub, folder);
    hub.lease_ms = 200;
    hub.deaf = true;
    hub_start(&hub);
    worker = start(hub.endpoint);
    hub_await(&hub, &at, &worker_attach_type);
    hub_await(&hub, &at, &worker_attach_type);
    HUB_SET(&hub, deaf, false);
    at = hub_now(&hub);
    for (i = 0; i < 50; i++) /* of 20 ms: longer than several leases */
        hub_await(&hub, &at, &worker_beat_type);
    cr_assert_leq(hub_count(&hub, &worker_attach_type), 3, "once more if its first beat was not answered");
    cr_assert_null(muster_worker_wait(worker, PATIENCE_S * 1000, NULL, 0));
    stop(&hub, &worker);
}

/* ---- jobs ---- */

Test(worker, a_job_is_done_and_told)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    const struct worker_parcel *parcel;
    struct queue_report report;
    size_t at = 0, events = 0;

    run(&hub, 1, 4);
    await_count(&own.begun, 1);
    cr_assert_null(muster_turn_chunk(own.turn, "hello", 5));
    parcel = hub_await(&hub, &at, &worker_parcel_type);
    cr_assert_eq(parcel->kind, parcel_kind_EVENTS);
    cr_assert_eq(parcel->seq, 1);
    cr_assert_eq(parcel->attachment, 1);
    turn_done("hello");
    await_report(&hub, &at, &report);
    cr_assert_eq(report.state, job_state_COMPLETED);
    cr_assert_str_eq(report.result, "hello");
    cr_assert_eq(report.attempt, 4);
    cr_assert_eq(report.job.bytes[15], 1);
    while (((const struct worker_beat *)hub_await(&hub, &events, &worker_beat_type))->parcels > 0 || events < at)
        ;
    stop(&hub, &worker);
}

Test(worker, a_large_answer_goes_out_in_parts)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    enum { LARGE = 20 << 20 };
    char *text = muster_alloc(LARGE + 1);
    const struct worker_parcel *parcel;
    struct queue_report report;
    size_t at = 0, parts = 0;

    memset(text, 'x', LARGE);
    run(&hub, 1, 1);
    await_count(&own.begun, 1);
    turn_done(text);
    await_report(&hub, &at, &report);
    cr_assert_eq(strlen(report.result), LARGE);
    for (at = 0; parts == 0 || !parcel->last;) {
        parcel = hub_await(&hub, &at, &worker_parcel_type);
        if (parcel->kind != parcel_kind_REPORT)
            continue;
        cr_assert_eq(parcel->part, (int64_t)parts++);
        cr_assert_leq(parcel->data.size, 256u << 10);
    }
    cr_assert_gt(parts, 75);
    free(text);
    stop(&hub, &worker);
}

Test(worker, a_team_that_it_does_not_offer_is_reported)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    struct agent_run body = {.job = job_of(1), .attempt = 1, .prompt = "do", .timeout_ms = 1, .team = "other"};
    struct queue_report report;
    size_t at = 0;

    hub_say(&hub, &agent_run_type, &body);
    await_report(&hub, &at, &report);
    cr_assert_eq(report.state, job_state_FAILED);
    cr_assert_str_eq(report.code, "TEAM_NOT_FOUND");
    stop(&hub, &worker);
}

Test(worker, a_job_of_another_attachment_is_not_begun)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    struct agent_run body = {
        .job = job_of(1), .attempt = 1, .prompt = "do", .timeout_ms = 600000, .team = "own", .attachment = 77};

    hub_say(&hub, &agent_run_type, &body);
    run(&hub, 2, 1);
    await_count(&own.begun, 1);
    cr_assert(strstr(muster_turn_job(own.turn), "0000-000000000002") != NULL, "%s", muster_turn_job(own.turn));
    stop(&hub, &worker);
}

Test(worker, a_job_is_cancelled)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    struct agent_cancel cancel = {.job = job_of(1), .attempt = 1};
    struct queue_report report;
    size_t at = 0;

    run(&hub, 1, 1);
    await_count(&own.begun, 1);
    hub_say(&hub, &agent_cancel_type, &cancel);
    await_report(&hub, &at, &report);
    cr_assert_eq(report.state, job_state_CANCELLED);
    stop(&hub, &worker);
}

/* ---- breaks ---- */

Test(worker, comes_back_with_what_it_has)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    const struct worker_attach *attach;
    struct queue_report report;
    size_t at = hub_now(&hub);

    run(&hub, 1, 4);
    await_count(&own.begun, 1);
    hub_break(&hub);
    attach = hub_await(&hub, &at, &worker_attach_type);
    cr_assert_eq(attach->held.count, 1);
    cr_assert_eq(attach->held.items[0].attempt, 4);
    cr_assert_eq(attach->held.items[0].job.bytes[15], 1);
    turn_done("still here");
    await_report(&hub, &at, &report);
    cr_assert_str_eq(report.result, "still here");
    cr_assert_eq(own.begun, 1, "it was not begun anew");
    stop(&hub, &worker);
}

Test(worker, what_was_not_acknowledged_is_sent_again)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    const struct worker_attach *attach;
    const struct worker_parcel *parcel;
    struct queue_report report;
    size_t at = hub_now(&hub);

    HUB_SET(&hub, keeps_acks, true);
    run(&hub, 1, 1);
    await_count(&own.begun, 1);
    turn_done("once");
    await_report(&hub, &at, &report);
    HUB_SET(&hub, received, 1);
    HUB_SET(&hub, keeps_acks, false);
    hub_break(&hub);
    attach = hub_await(&hub, &at, &worker_attach_type);
    cr_assert_eq(attach->held.count, 1, "its report is not acknowledged");
    parcel = hub_await(&hub, &at, &worker_parcel_type);
    cr_assert_gt(parcel->seq, 1, "the hub has the first one");
    at--;
    await_report(&hub, &at, &report);
    cr_assert_str_eq(report.result, "once");
    hub_break(&hub);
    attach = hub_await(&hub, &at, &worker_attach_type);
    cr_assert_eq(attach->held.count, 0);
    stop(&hub, &worker);
}

Test(worker, a_stale_attempt_is_ended_and_never_reported)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    struct queue_report report;
    size_t at = hub_now(&hub);

    run(&hub, 1, 1);
    await_count(&own.begun, 1);
    HUB_SET(&hub, stale, ((struct held_attempt){job_of(1), 1}));
    HUB_SET(&hub, has_stale, true);
    hub_break(&hub);
    await_count(&own.cancelled, 1);
    HUB_SET(&hub, has_stale, false);
    run(&hub, 2, 1);
    await_count(&own.begun, 2);
    turn_done("two");
    await_report(&hub, &at, &report);
    cr_assert_eq(report.job.bytes[15], 2, "nothing of the first one");
    hub_break(&hub);
    cr_assert_eq(((const struct worker_attach *)hub_await(&hub, &at, &worker_attach_type))->held.count, 0);
    stop(&hub, &worker);
}

Test(worker, a_parcel_that_the_hub_had_no_room_for_comes_again)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    const struct worker_parcel *parcel;
    size_t at = 0;

    HUB_SET(&hub, refuse_parcel, "OVERLOADED");
    run(&hub, 1, 1);
    await_count(&own.begun, 1);
    cr_assert_null(muster_turn_chunk(own.turn, "hello", 5));
    parcel = hub_await(&hub, &at, &worker_parcel_type);
    cr_assert_eq(parcel->seq, 1);
    HUB_SET(&hub, refuse_parcel, NULL);
    do
        parcel = hub_await(&hub, &at, &worker_parcel_type);
    while (parcel->seq != 1);
    cr_assert_eq(hub_count(&hub, &worker_attach_type), 1, "on the same connection");
    stop(&hub, &worker);
}

Test(worker, a_parcel_that_the_hub_does_not_understand_breaks_the_connection)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    size_t at = hub_now(&hub);

    HUB_SET(&hub, refuse_parcel, "CONFLICT");
    run(&hub, 1, 1);
    await_count(&own.begun, 1);
    hub_await(&hub, &at, &worker_parcel_type);
    HUB_SET(&hub, refuse_parcel, NULL);
    hub_await(&hub, &at, &worker_attach_type);
    hub_await(&hub, &at, &worker_parcel_type);
    stop(&hub, &worker);
}

Test(worker, attaches_anew_when_it_was_detached)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    size_t at = hub_now(&hub);

    hub_say(&hub, &worker_detached_type, &(struct worker_detached){.attachment = 1, .reason = "too slow"});
    hub_await(&hub, &at, &worker_attach_type);
    hub_await(&hub, &at, &worker_beat_type);
    stop(&hub, &worker);
}

/* ---- the end ---- */

static void *
drain(void *arg)
{
    return (void *)(intptr_t)muster_worker_drain(arg);
}

Test(worker, ends_what_runs_and_tells_it_before_it_leaves)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    const struct worker_beat *beat;
    struct queue_report report;
    pthread_t thread;
    void *left;
    size_t at = hub_now(&hub);

    run(&hub, 1, 1);
    await_count(&own.begun, 1);
    cr_assert_eq(pthread_create(&thread, NULL, drain, worker), 0);
    do
        beat = hub_await(&hub, &at, &worker_beat_type);
    while (!beat->draining);
    cr_assert_eq(hub_count(&hub, &worker_leave_type), 0);
    turn_done("the last one");
    await_report(&hub, &at, &report);
    cr_assert_str_eq(report.result, "the last one");
    hub_await(&hub, &at, &worker_leave_type);
    pthread_join(thread, &left);
    cr_assert_not_null(left, "the hub knows");
    stop(&hub, &worker);
}

Test(worker, parks_what_runs_when_it_is_to_hurry)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    const struct worker_beat *beat;
    struct queue_report report;
    pthread_t thread;
    void *left;
    size_t at = hub_now(&hub);

    run(&hub, 1, 1);
    await_count(&own.begun, 1);
    cr_assert_eq(pthread_create(&thread, NULL, drain, worker), 0);
    do
        beat = hub_await(&hub, &at, &worker_beat_type);
    while (!beat->draining);
    muster_worker_hurry(worker);
    await_report(&hub, &at, &report);
    cr_assert_eq(report.state, job_state_PARKED);
    pthread_join(thread, &left);
    cr_assert_not_null(left);
    stop(&hub, &worker);
}

Test(worker, what_the_hub_could_not_be_told_is_told_by_the_next_life)
{
    static struct hub hub;
    struct muster_worker *worker = start_attached(&hub);
    const struct worker_attach *attach;
    struct queue_report report;
    char epoch[32];
    size_t at = 0;

    snprintf(epoch, sizeof epoch, "%s",
             ((const struct worker_attach *)hub_await(&hub, &at, &worker_attach_type))->epoch);
    HUB_SET(&hub, keeps_acks, true);
    run(&hub, 3, 2);
    await_count(&own.begun, 1);
    turn_done("kept");
    await_report(&hub, &at, &report);
    hub_order(&hub, "X");
    muster_worker_hurry(worker);
    muster_worker_hurry(worker);
    cr_assert_not(muster_worker_drain(worker));
    muster_worker_stop(&worker);
    HUB_SET(&hub, keeps_acks, false);
    hub_order(&hub, "O");
    at = hub_now(&hub);
    worker = start(hub.endpoint);
    attach = hub_await(&hub, &at, &worker_attach_type);
    cr_assert_str_eq(attach->epoch, epoch);
    cr_assert_eq(attach->held.count, 1);
    cr_assert_eq(attach->held.items[0].attempt, 2);
    await_report(&hub, &at, &report);
    cr_assert_str_eq(report.result, "kept");
    cr_assert(muster_worker_drain(worker));
    stop(&hub, &worker);
}

/* ---- what is wrong with its settings ---- */

static void
expect_problem(struct muster_worker_settings settings, const char *text)
{
    char problem[1024] = "";
    bool config_error = false;

    settings.log_fd = null_fd;
    cr_expect_null(muster_worker_start(&settings, NULL, 0, NULL), "nobody asks why");
    cr_expect_null(muster_worker_start(&settings, problem, sizeof problem, &config_error));
    cr_expect(strstr(problem, text) != NULL, "%s: %s", text, problem);
    cr_expect(config_error, "%s", problem);
}

#define SETTINGS(...) ((struct muster_worker_settings){__VA_ARGS__})

Test(worker, says_what_is_wrong_with_its_settings)
{
    static const char *const unknown[] = {"echo", "nobody"};
    const char *config = write_file("c.yaml", "teams: {a: {driver: echo}, b: {driver: remote}}");
    const char *only_remote = write_file("r.yaml", "teams: {b: {driver: remote}}");
    const char *no_key = write_file("none", "nothing\n");

    expect_problem(SETTINGS(.address.hub = ""), "--hub tcp://HOST:5570");
    expect_problem(SETTINGS(.address.hub = "tcp://h"), "must be tcp://HOST:PORT");
    expect_problem(SETTINGS(.address.hub = "tcp://hub.example:5570"), "spoken to by CURVE only");
    expect_problem(SETTINGS(.address.hub = "tcp://10.0.0.1:5570", .address.hub_key = no_key), "without curve_key");
    expect_problem(SETTINGS(.address.hub = "tcp://10.0.0.1:5570", .address.curve_key = no_key), "without hub_key");
    expect_problem(
        SETTINGS(.address.hub = "tcp://10.0.0.1:5570", .address.curve_key = no_key, .address.hub_key = no_key), "none");
    expect_problem(SETTINGS(.address.hub = "tcp://10.0.0.1:5570", .address.curve_key = "/nowhere/a.key"),
                   "curve_key: /nowhere/a.key: No such file");
    expect_problem(SETTINGS(.address.hub = "tcp://10.0.0.1:5570", .address.curve_key = write_file("empty", "")),
                   "there is nothing in");
    expect_problem(SETTINGS(.address.hub = "ipc:///tmp/x", .offer = unknown, .offer_count = 2),
                   "nobody is not a team of this worker's configuration, which has: echo");
    expect_problem(SETTINGS(.address.hub = "ipc:///tmp/x", .config = only_remote), "there is no team to offer");
    expect_problem(SETTINGS(.address.hub = "ipc:///tmp/x", .name = "a b"), "letters, digits");
    expect_problem(SETTINGS(.address.hub = "ipc:///tmp/x", .labels = "gpu"), "NAME=VALUE");
    expect_problem(SETTINGS(.address.hub = "ipc:///tmp/x", .config = config, .offer = (const char *const[]){"b"},
                            .offer_count = 1),
                   "which has: a");
    unsetenv("MUSTER_API_KEY");
    expect_problem(SETTINGS(.address.hub = "ipc:///tmp/x"), "MUSTER_API_KEY");
}

static bool
reads(const char *curve_key, const char *hub_key, const uint8_t secret[MUSTER_CURVE], const uint8_t hub[MUSTER_CURVE])
{
    struct muster_address address = {.hub = "tcp://10.0.0.1:1", .curve_key = curve_key, .hub_key = hub_key};
    struct muster_journal *journal = muster_journal_new(null_fd, &(struct log_options){.level = log_level_ERROR});
    struct muster_dial_spec spec;
    const char *api_key = "";
    char problem[512];
    muster_err err = worker_address_read(&address, journal, &spec, &api_key, problem, sizeof problem);

    muster_journal_free(&journal);
    return !err && spec.curve && api_key == NULL && memcmp(spec.secret, secret, MUSTER_CURVE) == 0 &&
           memcmp(spec.hub_key, hub, MUSTER_CURVE) == 0;
}

Test(worker, key_files_may_be_as_they_were_printed)
{
    uint8_t secret[MUSTER_CURVE], public[MUSTER_CURVE], hub_secret[MUSTER_CURVE], hub[MUSTER_CURVE];
    char secret_text[MUSTER_Z85], public_text[MUSTER_Z85], hub_text[MUSTER_Z85], text[512];
    const char *file, *of_hub;

    muster_curve_pair(secret, public);
    muster_curve_pair(hub_secret, hub);
    muster_z85(secret, secret_text);
    muster_z85(public, public_text);
    muster_z85(hub, hub_text);
    snprintf(text, sizeof text, "muster_sk_x\ncurve-secret %s\ncurve-public %s\nserver-public %s\n", secret_text,
             public_text, hub_text);
    file = write_file("printed", text);
    cr_assert(reads(file, NULL, secret, hub), "it has both");
    cr_assert(reads(file, file, secret, hub));
    snprintf(text, sizeof text, "%s\n", secret_text);
    file = write_file("secret", text);
    of_hub = write_file("bus.key.pub", hub_text);
    cr_assert(reads(file, of_hub, secret, hub));
    cr_assert(reads(file, hub_text, secret, hub));
    cr_assert_not(reads(file, NULL, secret, hub));
}

Test(worker, the_default_data_folder_is_not_that_of_a_server)
{
    static struct hub hub;
    struct muster_worker_settings settings = {.config = write_file("w.yaml", "{}"), .log_fd = null_fd};
    struct muster_worker *worker;
    char problem[512], expected[256], real[512];

    hub_init(&hub, folder);
    settings.address.hub = hub.endpoint;
    worker = muster_worker_start(&settings, problem, sizeof problem, NULL);
    cr_assert_not_null(worker, "%s", problem);
    cr_assert_not_null(realpath(folder, real));
    snprintf(expected, sizeof expected, "%.200s/muster-worker", real);
    cr_assert_str_eq(muster_worker_data(worker), expected);
    muster_worker_stop(&worker);
    settings.config = write_file("d.yaml", "data: ./muster-data");
    worker = muster_worker_start(&settings, problem, sizeof problem, NULL);
    snprintf(expected, sizeof expected, "%.200s/muster-data", real);
    cr_assert_str_eq(muster_worker_data(worker), expected);
    muster_worker_stop(&worker);
    hub_stop(&hub);
}
