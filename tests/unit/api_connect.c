/* SPDX-License-Identifier: MPL-2.0 */
/* A hub elsewhere behind the same calls: jobs, follows, what a key may not do, and connections that break. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/connect.h"

#define PLAIN "queue: {retry_delay: 10ms}\nshutdown: {grace: 0ms}\nteams: {echo: {}}\nbus: {commands: 'ipc://c'}\n"
#define CURVE                                                                                                          \
    "queue: {retry_delay: 10ms}\nshutdown: {grace: 0ms}\nteams: {echo: {}}\nbus: {commands: 'ipc://c', curve: true}\n"

enum { PATIENCE_MS = 60000, NAME = 64 };

static char folder[] = "/tmp/muster-connect-XXXXXX";
static char endpoint[128];
static int null_fd;

/* What the hub's own team was given last. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct muster_turn *turn;
    size_t begun;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void
set_up(void)
{
    cr_assert_not_null(mkdtemp(folder));
    snprintf(endpoint, sizeof endpoint, "ipc://%s/c", folder);
    null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    unsetenv("MUSTER_API_KEY");
}

static void
tear_down(void)
{
    char command[128];

    close(null_fd);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(connect, .init = set_up, .fini = tear_down, .timeout = 120);

/* ---- the hub --------------------------------------------------------------------------------------------------------- */

static void
keep(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg)
{
    (void)prompt;
    (void)conversation;
    (void)arg;
    pthread_mutex_lock(&seen.lock);
    seen.turn = turn;
    seen.begun++;
    pthread_cond_broadcast(&seen.changed);
    pthread_mutex_unlock(&seen.lock);
}

static struct muster_turn *
await_turn(size_t count)
{
    struct muster_turn *turn;

    pthread_mutex_lock(&seen.lock);
    while (seen.begun < count)
        pthread_cond_wait(&seen.changed, &seen.lock);
    turn = seen.turn;
    pthread_mutex_unlock(&seen.lock);
    return turn;
}

static void
write_file(const char *name, const char *text)
{
    char path[256];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

static const char *
path_of(const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof *paths, "%s/%s", folder, name);
    return path;
}

static struct muster_hub *
start(const char *config)
{
    static const struct muster_team team = {.name = "mine", .concurrency = 4, .begin = keep};
    struct muster_hub_settings settings = {.listen = "127.0.0.1:0", .log_fd = null_fd, .teams = &team, .team_count = 1};
    char problem[512];
    struct muster_hub *hub;

    write_file("muster.yaml", config);
    settings.config = path_of("muster.yaml");
    settings.data = path_of("data");
    hub = muster_hub_start(&settings, problem, sizeof problem, NULL);
    cr_assert_not_null(hub, "%s", problem);
    return hub;
}

/* Make a key; its CURVE secret goes to the file NAME.key, as the command line prints it. */
static void
make_key(struct muster_hub *hub, const char *name, const char *scope, const char *team, bool curve, char *out_key,
         size_t size)
{
    struct auth_create create = {.name = name, .scopes = {&scope, 1}, .teams = {&team, team ? 1 : 0}, .curve = curve};
    struct muster_arena *arena = muster_arena_new();
    struct auth_created created;
    char file[NAME], text[256];

    cr_assert_eq(library_ask(library_of(hub)->house, MUSTER_AUTH, &auth_create_type, &create, &auth_created_type, arena,
                             &created, NULL, 0),
                 MUSTER_OK);
    snprintf(out_key, size, "%s", created.key);
    if (curve) {
        snprintf(file, sizeof file, "%s.key", name);
        snprintf(text, sizeof text, "%s\ncurve-secret %s\ncurve-public %s\n", created.key, created.curve_secret,
                 created.curve_public);
        write_file(file, text);
    }
    muster_arena_free(&arena);
}

static struct muster_hub *
connect_to(const struct muster_address *address)
{
    char problem[512];
    struct muster_hub *hub = muster_hub_connect(address, problem, sizeof problem);

    cr_assert_not_null(hub, "%s", problem);
    return hub;
}

static struct muster_hub *
connect_plain(const char *api_key)
{
    return connect_to(&(struct muster_address){.hub = endpoint, .api_key = api_key});
}

static void
expect_no_connection(const struct muster_address *address, const char *why)
{
    char problem[512] = "";

    cr_assert_null(muster_hub_connect(address, problem, sizeof problem), "%s", why);
    cr_assert_not_null(strstr(problem, why), "%s", problem);
}

/* ---- jobs ------------------------------------------------------------------------------------------------------------ */

static void
submit(struct muster_hub *hub, const char *team, const char *prompt, char id[MUSTER_JOB_ID])
{
    struct muster_submit job = {.team = team, .prompt = prompt};
    char problem[256];
    const char *code = muster_submit(hub, &job, id, problem, sizeof problem);

    cr_assert_null(code, "%s: %s", code, problem);
}

static void
expect_text(struct muster_hub *hub, const char *id, const char *text)
{
    struct muster_result *result = NULL;
    const char *code = muster_job_wait(hub, id, PATIENCE_MS, &result);

    cr_assert_null(code, "%s", code);
    cr_assert_str_eq(muster_result_state(result), "completed", "%s", muster_result_message(result));
    cr_assert_str_eq(muster_result_text(result), text);
    cr_assert_str_eq(muster_result_job(result), id);
    cr_assert_gt(muster_result_ended_ms(result), 0);
    muster_result_free(&result);
}

static struct muster_follow *
follow(struct muster_hub *hub, const struct muster_follow_settings *settings)
{
    struct muster_follow *made;
    char problem[256];
    const char *code = muster_follow_open(hub, settings, &made, problem, sizeof problem);

    cr_assert_null(code, "%s: %s", code, problem);
    return made;
}

/* false: there will be no more, because of *out_code. */
static bool
next(struct muster_follow *from, struct muster_event *out, const char **out_code)
{
    struct pollfd fd = {.fd = muster_follow_fd(from), .events = POLLIN};
    int told;

    while ((told = muster_follow_next(from, out, out_code)) == 0)
        cr_assert_gt(poll(&fd, 1, PATIENCE_MS), 0, "nothing came");
    return told == 1;
}

/* Both tell the same of a job, to its end. */
static void
expect_same_events(struct muster_hub *one, struct muster_hub *other, const char *job, const char *after)
{
    struct muster_follow_settings settings = {.job = job, .after = after};
    struct muster_follow *left = follow(one, &settings), *right = follow(other, &settings);
    struct muster_event a, b;
    const char *code;

    while (next(left, &a, &code)) {
        cr_assert(next(right, &b, &code), "%s is missing", a.type);
        cr_assert_str_eq(a.cursor, b.cursor);
        cr_assert_str_eq(a.type, b.type);
        cr_assert_str_eq(a.team, b.team);
        cr_assert_str_eq(a.job, b.job);
        cr_assert_str_eq(a.body, b.body);
        cr_assert_eq(a.at_ms, b.at_ms);
        cr_assert_eq(a.attempt, b.attempt);
    }
    cr_assert_null(code);
    cr_assert_not(next(right, &b, &code), "%s is too much", b.type);
    cr_assert_null(code);
    muster_follow_close(&left);
    muster_follow_close(&right);
}

Test(connect, jobs_and_events_are_as_on_a_hub_of_our_own)
{
    struct muster_hub *own = start(PLAIN), *hub = connect_plain(muster_hub_new_key(own));
    struct muster_result *result;
    char id[MUSTER_JOB_ID];

    submit(hub, "echo", "hello", id);
    expect_text(hub, id, "hello");
    expect_text(own, id, "hello");
    expect_same_events(own, hub, id, NULL);
    submit(hub, "echo", "@chunks=600 a long answer of which there are more pieces than fit into one batch of events",
           id);
    expect_same_events(hub, own, id, NULL); /* as they come */
    expect_same_events(own, hub, id, NULL); /* from the log */
    submit(hub, "echo", "@fail=PROCESS_ERROR", id);
    cr_assert_null(muster_job_wait(hub, id, PATIENCE_MS, &result));
    cr_assert(muster_result_ended(result));
    muster_result_free(&result);
    muster_hub_stop(&hub);
    cr_assert_null(hub);
    submit(own, "echo", "still there", id);
    muster_hub_stop(&own);
}

Test(connect, curve_keys_from_files_are_enough)
{
    struct muster_hub *own = start(CURVE), *hub;
    char key[128], id[MUSTER_JOB_ID];

    make_key(own, "program", "admin:*", NULL, true, key, sizeof key);
    hub = connect_to(&(struct muster_address){
        .hub = endpoint, .hub_key = path_of("data/bus.key.pub"), .curve_key = path_of("program.key")});
    submit(hub, "echo", "hello", id);
    expect_text(hub, id, "hello");
    expect_same_events(own, hub, id, NULL);
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

Test(connect, who_is_not_let_in_is_told_why)
{
    struct muster_hub *own = start(CURVE);
    uint8_t secret[MUSTER_CURVE], public[MUSTER_CURVE];
    char text[MUSTER_Z85], key[128];
    struct muster_address address = {.hub = endpoint, .hub_key = path_of("data/bus.key.pub")};

    make_key(own, "program", "admin:*", NULL, true, key, sizeof key);
    muster_curve_pair(secret, public);
    muster_z85(secret, text);
    write_file("stranger.key", text);
    address.curve_key = path_of("stranger.key");
    expect_no_connection(&address, "does not take this key");
    muster_z85(public, text);
    address.curve_key = path_of("program.key");
    address.hub_key = text;
    expect_no_connection(&address, "another key");
    expect_no_connection(&(struct muster_address){.hub = endpoint, .api_key = key}, "CURVE keys");
    muster_hub_stop(&own);
    own = start(PLAIN);
    expect_no_connection(&(struct muster_address){.hub = endpoint, .api_key = "muster_sk_nobody"}, "API key");
    muster_hub_stop(&own);
    expect_no_connection(&(struct muster_address){.hub = endpoint, .api_key = "muster_sk_nobody"}, "nobody listens");
    cr_assert_null(muster_hub_connect(&(struct muster_address){.hub = endpoint, .api_key = "x"}, NULL, 0));
}

Test(connect, addresses_that_cannot_be_meant_are_refused)
{
    write_file("empty", "");
    expect_no_connection(&(struct muster_address){.api_key = "x"}, "hub is required");
    expect_no_connection(&(struct muster_address){.hub = "localhost:5570", .api_key = "x"}, "tcp://HOST:PORT");
    expect_no_connection(&(struct muster_address){.hub = endpoint}, "api_key is required");
    expect_no_connection(&(struct muster_address){.hub = endpoint, .hub_key = "x"}, "belong together");
    expect_no_connection(&(struct muster_address){.hub = "tcp://hub.example:5570", .api_key = "x"}, "another host");
    expect_no_connection(&(struct muster_address){.hub = endpoint, .hub_key = "/none", .curve_key = "/none"},
                         "hub_key: /none: No such file");
    expect_no_connection(
        &(struct muster_address){.hub = endpoint, .hub_key = path_of("empty"), .curve_key = path_of("empty")},
        "no CURVE key in");
}

Test(connect, a_connected_hub_has_no_house)
{
    struct muster_hub *own = start(PLAIN), *hub;

    setenv("MUSTER_API_KEY", muster_hub_new_key(own), 1);
    hub = connect_plain(NULL);
    cr_assert_str_eq(muster_hub_url(hub), endpoint);
    cr_assert_null(muster_hub_new_key(hub));
    cr_assert_null(muster_hub_data(hub));
    cr_assert_null(muster_hub_first_team(hub));
    muster_hub_hurry(hub);
    muster_hub_drain(hub);
    muster_hub_reap(hub);
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

Test(connect, what_is_asked_wrongly_says_so)
{
    struct muster_hub *own = start(PLAIN), *hub = connect_plain(muster_hub_new_key(own));
    struct muster_submit job = {.team = "nobody", .prompt = "x"};
    struct muster_follow_settings settings = {.team = "nobody"};
    struct muster_result *result = NULL;
    struct muster_follow *made = NULL;
    char id[MUSTER_JOB_ID], problem[256];

    cr_assert_str_eq(muster_submit(hub, &job, id, problem, sizeof problem), "TEAM_NOT_FOUND");
    cr_assert_not_null(strstr(problem, "nobody"), "%s", problem);
    job.prompt = "";
    cr_assert_str_eq(muster_submit(hub, &job, id, problem, sizeof problem), "INVALID_REQUEST");
    job = (struct muster_submit){.team = "echo", .prompt = "x", .idempotency_key = "with a space"};
    cr_assert_str_eq(muster_submit(hub, &job, id, problem, sizeof problem), "INVALID_REQUEST");
    cr_assert_str_eq(muster_job_result(hub, "msg_0190b7a2-0000-7000-8000-000000000000", &result), "NOT_FOUND");
    cr_assert_str_eq(muster_job_wait(hub, "msg_0190b7a2-0000-7000-8000-000000000000", -1, &result), "NOT_FOUND");
    cr_assert_str_eq(muster_job_wait(hub, "nonsense", -1, &result), "NOT_FOUND");
    cr_assert_str_eq(muster_cancel(hub, "msg_0190b7a2-0000-7000-8000-000000000000", NULL, 0), "NOT_FOUND");
    cr_assert_str_eq(muster_follow_open(hub, &settings, &made, problem, sizeof problem), "TEAM_NOT_FOUND");
    settings = (struct muster_follow_settings){.job = "msg_0190b7a2-0000-7000-8000-000000000000"};
    cr_assert_str_eq(muster_follow_open(hub, &settings, &made, problem, sizeof problem), "NOT_FOUND");
    settings = (struct muster_follow_settings){.after = "nonsense"};
    cr_assert_str_eq(muster_follow_open(hub, &settings, &made, problem, sizeof problem), "INVALID_REQUEST");
    settings.after = "0123456789abcdef-1";
    cr_assert_str_eq(muster_follow_open(hub, &settings, &made, problem, sizeof problem), "CURSOR_EXPIRED");
    settings = (struct muster_follow_settings){.job = "x", .team = "echo"};
    cr_assert_str_eq(muster_follow_open(hub, &settings, &made, problem, sizeof problem), "INVALID_REQUEST");
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

Test(connect, an_idempotency_key_makes_one_job)
{
    struct muster_hub *own = start(PLAIN), *hub = connect_plain(muster_hub_new_key(own));
    struct muster_submit job = {.team = "echo", .prompt = "x", .idempotency_key = "k", .context = "{\"a\":1}"};
    char id[MUSTER_JOB_ID], other[MUSTER_JOB_ID];

    cr_assert_null(muster_submit(hub, &job, id, NULL, 0));
    cr_assert_null(muster_submit(hub, &job, other, NULL, 0));
    cr_assert_str_eq(id, other);
    job.prompt = "y";
    cr_assert_str_eq(muster_submit(hub, &job, other, NULL, 0), "IDEMPOTENCY_MISMATCH");
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

Test(connect, a_job_is_cancelled_once)
{
    struct muster_hub *own = start(PLAIN), *hub = connect_plain(muster_hub_new_key(own));
    struct muster_result *result;
    char id[MUSTER_JOB_ID];

    submit(hub, "echo", "@hang", id);
    cr_assert_str_eq(muster_job_wait(hub, id, 20, &result), "TIMEOUT");
    cr_assert_null(muster_cancel(hub, id, NULL, 0));
    cr_assert_null(muster_job_wait(hub, id, PATIENCE_MS, &result));
    cr_assert_str_eq(muster_result_state(result), "cancelled");
    muster_result_free(&result);
    submit(hub, "echo", "x", id);
    expect_text(hub, id, "x");
    cr_assert_str_eq(muster_cancel(hub, id, NULL, 0), "CONFLICT");
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

/* ---- follows ----------------------------------------------------------------------------------------------------- */

Test(connect, a_follow_behind_a_jobs_last_event_ends_at_once)
{
    struct muster_hub *own = start(PLAIN), *hub = connect_plain(muster_hub_new_key(own));
    struct muster_follow_settings settings = {.after = "oldest"};
    char id[MUSTER_JOB_ID], cursor[64] = "";
    struct muster_follow *made;
    struct muster_event event;
    const char *code;

    submit(hub, "echo", "x", id);
    settings.job = id;
    made = follow(hub, &settings);
    while (next(made, &event, &code))
        snprintf(cursor, sizeof cursor, "%s", event.cursor);
    cr_assert_null(code);
    muster_follow_close(&made);
    expect_same_events(own, hub, id, cursor);
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

Test(connect, a_follow_from_now_on_tells_nothing_of_before)
{
    struct muster_hub *own = start(PLAIN), *hub = connect_plain(muster_hub_new_key(own));
    struct muster_follow_settings all = {0}, team = {.team = "mine"};
    struct muster_follow *events, *mine;
    char old[MUSTER_JOB_ID], id[MUSTER_JOB_ID];
    struct muster_event event;
    const char *code;

    submit(hub, "echo", "x", old);
    expect_text(hub, old, "x");
    events = follow(hub, &all);
    mine = follow(hub, &team);
    cr_assert_eq(muster_follow_next(events, &event, &code), 0);
    submit(own, "echo", "y", id);
    submit(own, "mine", "z", id);
    do {
        cr_assert(next(events, &event, &code));
        cr_assert_str_neq(event.job, old);
    } while (strcmp(event.job, id) != 0);
    cr_assert(next(mine, &event, &code));
    cr_assert_str_eq(event.type, "job.queued");
    cr_assert_str_eq(event.team, "mine");
    cr_assert_null(muster_turn_done(await_turn(1), NULL));
    muster_follow_close(&events);
    muster_hub_stop(&hub);
    muster_follow_close(&mine);
    muster_hub_stop(&own);
}

/* Reads until `ended` jobs have ended; the numbers must rise.  Returns the sum of them. */
static long long
read_ends(struct muster_follow *from, size_t ended, long long *last)
{
    long long sum = 0, seq;
    struct muster_event event;
    const char *code;

    while (ended > 0) {
        cr_assert(next(from, &event, &code), "%s", code);
        seq = atoll(strrchr(event.cursor, '-') + 1);
        cr_assert_gt(seq, *last);
        *last = seq;
        sum += seq;
        ended -= strcmp(event.type, "job.completed") == 0;
    }
    return sum;
}

enum { JOBS = 60 };

static void *
submit_many(void *hub)
{
    char id[MUSTER_JOB_ID];
    int i;

    for (i = 0; i < JOBS; i++)
        submit(hub, "echo", "@chunks=5 12345", id);
    return NULL;
}

Test(connect, two_connections_miss_nothing_and_get_nothing_twice)
{
    struct muster_hub *own = start(PLAIN), *one = connect_plain(muster_hub_new_key(own)),
                      *two = connect_plain(muster_hub_new_key(own));
    struct muster_follow_settings oldest = {.after = "oldest"};
    struct muster_follow *a = follow(one, &oldest), *b = follow(two, &oldest), *c;
    long long sums[3], last[3] = {0};
    pthread_t threads[2];

    cr_assert_eq(pthread_create(&threads[0], NULL, submit_many, one), 0);
    cr_assert_eq(pthread_create(&threads[1], NULL, submit_many, two), 0);
    sums[0] = read_ends(a, JOBS + JOBS, &last[0]);
    sums[1] = read_ends(b, JOBS + JOBS, &last[1]);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    c = follow(own, &oldest);
    sums[2] = read_ends(c, JOBS + JOBS, &last[2]);
    cr_assert_eq(sums[0], sums[2]);
    cr_assert_eq(sums[1], sums[2]);
    muster_follow_close(&a);
    muster_follow_close(&b);
    muster_follow_close(&c);
    muster_hub_stop(&one);
    muster_hub_stop(&two);
    muster_hub_stop(&own);
}

/* ---- keys ------------------------------------------------------------------------------------------------------------ */

Test(connect, a_key_may_do_what_its_scopes_say)
{
    struct muster_hub *own = start(PLAIN), *reader, *other;
    struct muster_submit job = {.team = "echo", .prompt = "x"};
    struct muster_follow_settings settings = {.team = "echo"};
    struct muster_result *result;
    struct muster_follow *made;
    char key[128], id[MUSTER_JOB_ID], problem[256];

    submit(own, "echo", "x", id);
    expect_text(own, id, "x");
    make_key(own, "reader", "messages:read", NULL, false, key, sizeof key);
    reader = connect_plain(key);
    cr_assert_null(muster_job_result(reader, id, &result));
    muster_result_free(&result);
    cr_assert_str_eq(muster_submit(reader, &job, id, problem, sizeof problem), "FORBIDDEN");
    cr_assert_gt(strlen(problem), 5);
    cr_assert_str_eq(muster_follow_open(reader, &settings, &made, problem, sizeof problem), "FORBIDDEN");
    make_key(own, "other", "admin:*", "mine", false, key, sizeof key);
    other = connect_plain(key);
    cr_assert_str_eq(muster_submit(other, &job, id, problem, sizeof problem), "FORBIDDEN");
    cr_assert_str_eq(muster_follow_open(other, &settings, &made, problem, sizeof problem), "FORBIDDEN");
    muster_hub_stop(&reader);
    muster_hub_stop(&other);
    muster_hub_stop(&own);
}

Test(connect, a_key_that_is_revoked_ends_follows_and_waits)
{
    struct muster_hub *own = start(PLAIN), *hub;
    struct auth_revoke revoke = {.key = "gone"};
    struct muster_arena *arena = muster_arena_new();
    struct muster_follow_settings all = {.after = NULL};
    struct muster_submit job = {.team = "echo", .prompt = "x"};
    struct auth_revoked revoked;
    struct muster_follow *made;
    struct muster_event event;
    char key[128], id[MUSTER_JOB_ID];
    const char *code = "";

    make_key(own, "gone", "admin:*", NULL, false, key, sizeof key);
    hub = connect_plain(key);
    made = follow(hub, &all);
    cr_assert_eq(library_ask(library_of(own)->house, MUSTER_AUTH, &auth_revoke_type, &revoke, &auth_revoked_type, arena,
                             &revoked, NULL, 0),
                 MUSTER_OK);
    cr_assert_str_eq(muster_submit(hub, &job, id, NULL, 0), "UNAUTHORIZED");
    submit(own, "echo", "x", id);
    while (next(made, &event, &code))
        continue;
    cr_assert_str_eq(code, "UNAUTHORIZED");
    muster_follow_close(&made);
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
    muster_arena_free(&arena);
}

/* ---- connections that break ------------------------------------------------------------------------------------------ */

struct waiter {
    struct muster_hub *hub;
    const char *job;
    struct muster_result *result;
    const char *code;
};

static void *
wait_long(void *arg)
{
    struct waiter *waiter = arg;

    waiter->code = muster_job_wait(waiter->hub, waiter->job, -1, &waiter->result);
    return NULL;
}

/* Until so many calls are under way. */
static void
await_calls(struct muster_hub *hub, size_t expected)
{
    struct library *library = library_of(hub);
    size_t calls = 0;

    while (calls < expected) {
        pthread_mutex_lock(&library->lock);
        calls = library->calls;
        pthread_mutex_unlock(&library->lock);
        sched_yield();
    }
}

static void
assert_goes_on(const char *config, const struct muster_address *address, struct muster_hub *own)
{
    struct muster_hub *hub = connect_to(address);
    struct muster_follow_settings oldest = {.after = "oldest"};
    struct muster_follow *made = follow(hub, &oldest), *later;
    struct waiter waiter = {.hub = hub};
    long long sum, last = 0, again = 0;
    struct muster_turn *first;
    char id[MUSTER_JOB_ID], done[MUSTER_JOB_ID];
    pthread_t thread;

    submit(hub, "mine", "x", id);
    submit(hub, "echo", "y", done);
    first = await_turn(1);
    sum = read_ends(made, 1, &last);
    waiter.job = id;
    cr_assert_eq(pthread_create(&thread, NULL, wait_long, &waiter), 0);
    await_calls(hub, 1);
    muster_hub_stop(&own);
    cr_assert_str_eq(muster_turn_done(first, "too late"), "CONFLICT");
    own = start(config);
    cr_assert_null(muster_turn_done(await_turn(2), "done"));
    pthread_join(thread, NULL);
    cr_assert_null(waiter.code, "%s", waiter.code);
    cr_assert_str_eq(muster_result_text(waiter.result), "done");
    muster_result_free(&waiter.result);
    sum += read_ends(made, 1, &last);
    later = follow(own, &oldest);
    cr_assert_eq(sum, read_ends(later, 2, &again));
    muster_follow_close(&made);
    muster_follow_close(&later);
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

Test(connect, a_follow_and_a_wait_go_on_when_the_hub_was_started_again)
{
    struct muster_hub *own = start(PLAIN);
    char key[128];

    snprintf(key, sizeof key, "%s", muster_hub_new_key(own));
    assert_goes_on(PLAIN, &(struct muster_address){.hub = endpoint, .api_key = key}, own);
}

Test(connect, a_follow_and_a_wait_go_on_with_curve_too)
{
    struct muster_hub *own = start(CURVE);
    char key[128];

    make_key(own, "program", "admin:*", NULL, true, key, sizeof key);
    assert_goes_on(CURVE,
                   &(struct muster_address){
                       .hub = endpoint, .hub_key = path_of("data/bus.key.pub"), .curve_key = path_of("program.key")},
                   own);
}

static void *
submit_one(void *arg)
{
    struct waiter *waiter = arg;
    struct muster_submit job = {.team = "echo", .prompt = "late"};
    static char id[MUSTER_JOB_ID];

    waiter->code = muster_submit(waiter->hub, &job, id, NULL, 0);
    waiter->job = id;
    return NULL;
}

Test(connect, what_is_asked_while_the_hub_is_away_waits_for_it)
{
    struct muster_hub *own = start(PLAIN), *hub = connect_plain(muster_hub_new_key(own));
    struct waiter waiter = {.hub = hub};
    struct muster_result *result;
    pthread_t thread;
    char id[MUSTER_JOB_ID];

    submit(hub, "echo", "x", id);
    expect_text(hub, id, "x");
    muster_hub_stop(&own);
    cr_assert_str_eq(muster_job_wait(hub, id, 50, &result), "TIMEOUT");
    cr_assert_eq(pthread_create(&thread, NULL, submit_one, &waiter), 0);
    await_calls(hub, 1);
    own = start(PLAIN);
    pthread_join(thread, NULL);
    cr_assert_null(waiter.code, "%s", waiter.code);
    expect_text(hub, waiter.job, "late");
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

/* A hub drops a connection on which a message comes that is larger than bus.max_message. */
Test(connect, a_job_that_is_too_large_breaks_the_connection_and_says_so)
{
    struct muster_hub *own = start(PLAIN), *hub = connect_plain(muster_hub_new_key(own));
    struct muster_submit job = {.team = "echo"};
    char id[MUSTER_JOB_ID], problem[256], *prompt = malloc((2 << 20) + 1);

    cr_assert_not_null(prompt);
    memset(prompt, 'x', 2 << 20);
    prompt[2 << 20] = '\0';
    job.prompt = prompt;
    cr_assert_str_eq(muster_submit(hub, &job, id, problem, sizeof problem), "TIMEOUT");
    cr_assert_not_null(strstr(problem, "max_message"), "%s", problem);
    free(prompt);
    submit(hub, "echo", "small", id);
    expect_text(hub, id, "small");
    muster_hub_stop(&hub);
    muster_hub_stop(&own);
}

/* ---- stopping -------------------------------------------------------------------------------------------------------- */

static size_t
threads_now(void)
{
    DIR *directory = opendir("/proc/self/task");
    size_t count = 0;

    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

Test(connect, a_stop_ends_waits_and_follows_and_leaves_no_thread)
{
    struct muster_hub *own = start(PLAIN), *hub;
    struct muster_follow_settings all = {.after = NULL};
    size_t before = threads_now();
    struct muster_follow *made;
    struct waiter waiter = {.hub = NULL};
    struct muster_event event;
    char id[MUSTER_JOB_ID];
    pthread_t thread;
    const char *code;

    hub = connect_plain(muster_hub_new_key(own));
    cr_assert_gt(threads_now(), before);
    submit(hub, "echo", "@hang", id);
    made = follow(hub, &all);
    cr_assert_geq(muster_follow_next(made, &event, &code), 0);
    waiter.hub = hub;
    waiter.job = id;
    cr_assert_eq(pthread_create(&thread, NULL, wait_long, &waiter), 0);
    await_calls(hub, 1);
    muster_hub_stop(&hub);
    pthread_join(thread, NULL);
    cr_assert_str_eq(waiter.code, "SHUTTING_DOWN");
    while (next(made, &event, &code))
        continue;
    cr_assert_str_eq(code, "SHUTTING_DOWN");
    muster_follow_close(&made);
    cr_assert_eq(threads_now(), before);
    muster_hub_stop(&own);
}
