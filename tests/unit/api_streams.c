/* SPDX-License-Identifier: MPL-2.0 */
/* Event streams of the gateway on real sockets: order, joining history and live, readers of all tempers, the end. */
#include "tests/unit/api_help.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <semaphore.h>

static struct rig rig;
static struct answer answer;
static struct muster_id job;

/* ---- a dialect for the tests ---------------------------------------------------------------------------------------- */

static sem_t gate; /* closed: rendering waits */
static atomic_bool gated;
static void (*opened)(void); /* called between open and run */

static void
render(struct muster_buf *out, const struct event *event, const char *cursor, struct muster_arena *arena, void *arg)
{
    struct job_chunk chunk;

    (void)cursor;
    (void)arg;
    if (gated)
        sem_wait(&gate);
    if (strcmp(event->type, job_completed_type.wire) == 0)
        muster_buf_str(out, "event: end\ndata: end\n");
    else if (strcmp(event->type, job_chunk_type.wire) == 0 &&
             muster_unpack(&job_chunk_type, event->body.data, event->body.size, arena, &chunk, NULL) == MUSTER_OK)
        muster_buf_printf(out, "data: %s\n", chunk.text);
    else if (strcmp(event->type, team_paused_type.wire) == 0)
        muster_buf_printf(out, "data: %s paused\n", event->team);
}

static void
handle_stream(struct http_request *request)
{
    const char *after = http_query(request, "after");
    struct http_topic topic = {.teams = NULL};
    muster_err err;

    if (muster_id_parse(http_param(request, "job"), &topic.job)) {
        http_fail(request, MUSTER_NOT_FOUND, "no job");
        return;
    }
    err = http_stream_open(request, &topic, render, NULL);
    if (err)
        http_fail(request, err, "%s", muster_err_text(err));
    else
        http_stream_run(request, ": first\n\n", 9, after ? atoll(after) : -1);
}

/* "a,b" */
static struct muster_strs
split(struct muster_arena *arena, const char *text)
{
    const char **items = muster_arena_alloc(arena, 8 * sizeof *items);
    size_t count = 0;

    for (; text && *text; text += strcspn(text, ","), text += *text == ',')
        items[count++] = muster_arena_str(arena, text, strcspn(text, ","));
    return (struct muster_strs){items, count};
}

static void
handle_teams(struct http_request *request)
{
    const char *after = http_query(request, "after");
    struct muster_strs teams = split(http_arena(request), http_query(request, "teams"));
    struct http_topic topic = {.teams = &teams, .type = http_query(request, "type")};
    muster_err err = http_stream_open(request, &topic, render, NULL);

    if (err) {
        http_fail(request, err, "%s", muster_err_text(err));
        return;
    }
    if (opened)
        opened();
    http_stream_run(request, ": first\n\n", 9, after ? atoll(after) : -1);
}

static void
handle_cursor(struct http_request *request)
{
    struct event event;
    muster_err err = http_stream_cursor(request, http_query(request, "c"), &event);
    char text[32];

    if (err)
        http_fail(request, err, "%s", muster_err_text(err));
    else
        http_answer(request, 200, "text/plain", text,
                    (size_t)snprintf(text, sizeof text, "%lld", (long long)event.seq));
}

static void
render_error(struct muster_buf *out, muster_err err, const char *message, const char *details, int64_t now_ms)
{
    (void)message;
    (void)details;
    (void)now_ms;
    muster_buf_printf(out, "{\"code\":\"%s\"}", muster_err_code(err));
}

static const struct http_route routes[] = {
    {"GET", "/stream/{job}", "teams:read", 1, NULL, HTTP_STREAM, handle_stream, "Stream."},
    {"GET", "/teams", "teams:read", 1, NULL, HTTP_STREAM, handle_teams, "Stream of teams."},
    {"GET", "/cursor", "teams:read", 1, NULL, 0, handle_cursor, "Cursor."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};
static const struct http_dialect dialect = {"test", routes, render_error, NULL};
static const struct http_dialect *const dialects[] = {&dialect, NULL};

static void
open_with(const char *yaml)
{
    rig_open(&rig, yaml, dialects);
    job = muster_id_new(1000);
    sem_init(&gate, 0, 0);
}

static void
open_rig(void)
{
    open_with(rig_options);
}

static void
close_rig(void)
{
    muster_buf_free(&answer.body);
    rig_close(&rig);
}

TestSuite(streams, .init = open_rig, .fini = close_rig, .timeout = 60);

static bool
metric_is(const char *line)
{
    cr_assert_eq(request_text(&rig, &answer, "GET", "/metrics", NULL, NULL, NULL), 200);
    return answer_has(&answer, line);
}

/* Every look is a request, and the test's own limit ends a wait in vain. */
static void
await_metric(const char *line)
{
    while (!metric_is(line))
        ;
}

static void
ask_stream(struct client *client, int64_t after, const char *key)
{
    char id[MUSTER_ID_TEXT], query[32] = "";

    muster_id_text(&job, id);
    if (after >= 0)
        snprintf(query, sizeof query, "?after=%lld", (long long)after);
    client_say(client, "GET /stream/%s%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", id, query, key);
}

/* A stream whose head has arrived: from now on nothing is missed. */
static struct client
open_stream(int64_t after)
{
    struct client client = client_open(&rig);

    ask_stream(&client, after, ADMIN_KEY);
    cr_assert(client_until(&client, ": first\n\n") != NULL, "%s", client.in.data);
    return client;
}

static void
expect_events(struct client *client, int64_t first, int64_t last)
{
    int64_t seq;

    for (seq = first; seq <= last; seq++)
        cr_assert_eq(client_event(client, NULL, 0), seq, "not %lld", (long long)seq);
}

/* ---- live ----------------------------------------------------------------------------------------------------------- */

Test(streams, events_arrive_in_order_and_the_last_one_ends_the_stream)
{
    struct client client = open_stream(-1);
    char text[256], expected[256];
    int64_t seq;

    cr_expect(strstr(client.in.data, "HTTP/1.1 200 OK\r\n") != NULL);
    cr_expect(strstr(client.in.data, "Content-Type: text/event-stream\r\n") != NULL);
    cr_expect(strstr(client.in.data, "Cache-Control: no-cache\r\n") != NULL);
    cr_expect(strstr(client.in.data, "X-Accel-Buffering: no\r\n") != NULL);
    cr_expect(strstr(client.in.data, "Connection: close\r\n") != NULL);
    cr_expect(strstr(client.in.data, "X-Request-Id: ") != NULL);
    cr_expect(strstr(client.in.data, "\r\n\r\nretry: 2000\n\n") != NULL);
    for (seq = 1; seq <= 5; seq++)
        publish_text(&rig, &job, seq, "text", false);
    publish_text(&rig, &job, 6, "", true);
    cr_expect_eq(client_event(&client, text, sizeof text), 1);
    snprintf(expected, sizeof expected, "id: %s-1\ndata: text", muster_store_epoch(rig.house.store));
    cr_expect_str_eq(text, expected);
    expect_events(&client, 2, 6);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
    await_metric("muster_http_streams 0\n");
}

Test(streams, every_reader_gets_the_events_of_its_job_only)
{
    struct muster_id first = job, second = muster_id_new(1001);
    struct client a = open_stream(-1), b = open_stream(-1), c;

    job = second;
    c = open_stream(-1);
    publish_text(&rig, &first, 1, "x", false);
    publish_text(&rig, &second, 2, "x", false);
    publish_text(&rig, &first, 3, "x", true);
    publish_text(&rig, &second, 4, "x", true);
    cr_expect_eq(client_event(&a, NULL, 0), 1);
    cr_expect_eq(client_event(&a, NULL, 0), 3);
    cr_expect_eq(client_event(&a, NULL, 0), -1);
    cr_expect_eq(client_event(&b, NULL, 0), 1);
    cr_expect_eq(client_event(&b, NULL, 0), 3);
    cr_expect_eq(client_event(&c, NULL, 0), 2);
    cr_expect_eq(client_event(&c, NULL, 0), 4);
    client_close(&a);
    client_close(&b);
    client_close(&c);
}

Test(streams, events_that_are_not_shown_do_not_appear_but_end_the_stream)
{
    struct job_cancelled cancelled = {.by = "me"};
    struct client client = open_stream(-1);
    struct muster_buf body = {0};
    struct event event;

    muster_pack(&job_cancelled_type, &cancelled, &body);
    event = (struct event){.seq = 9,
                           .type = job_cancelled_type.wire,
                           .team = "backend",
                           .job = job,
                           .body = {(const uint8_t *)body.data, body.size}};
    publish(&rig, &event);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    muster_buf_free(&body);
    client_close(&client);
}

/* ---- joining -------------------------------------------------------------------------------------------------------- */

Test(streams, stored_events_come_first_and_only_those_after_the_cursor)
{
    struct client client;

    store_chunks(&rig, &job, 1, 100, "old", false);
    client = open_stream(40);
    expect_events(&client, 41, 100);
    publish_text(&rig, &job, 101, "new", false);
    publish_text(&rig, &job, 102, "", true);
    expect_events(&client, 101, 102);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
}

static void
store_what_was_published(struct rig *r)
{
    store_chunks(r, &job, 1, 10, "late", false);
}

Test(streams, events_that_are_not_on_disk_yet_are_waited_for)
{
    struct client client;
    int64_t seq;

    for (seq = 1; seq <= 10; seq++)
        publish_text(&rig, &job, seq, "late", false);
    rig.on_flush = store_what_was_published;
    client = open_stream(0);
    expect_events(&client, 1, 10);
    cr_expect_eq(rig.flushes, 1);
    client_close(&client);
}

/* While the history is asked for, more is published: some of it is on disk by then, some is not. */
static void
publish_meanwhile(struct rig *r)
{
    int64_t seq;

    for (seq = 11; seq <= 30; seq++)
        publish_text(r, &job, seq, "between", false);
    store_chunks(r, &job, 1, 20, "stored", false);
}

Test(streams, history_and_live_join_without_gap_or_double)
{
    struct client client;

    rig.on_flush = publish_meanwhile;
    client = open_stream(0);
    expect_events(&client, 1, 30);
    publish_text(&rig, &job, 31, "", true);
    expect_events(&client, 31, 31);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
}

Test(streams, a_finished_job_is_told_from_the_log_alone)
{
    struct client client;

    store_chunks(&rig, &job, 1, 5000, "a longer text, so that it takes more than one piece of history", true);
    client = open_stream(0);
    expect_events(&client, 1, 5000);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
}

Test(streams, a_finished_job_whose_events_are_gone_ends_at_once)
{
    struct job record = {.id = job,
                         .kind = job_kind_EXECUTE,
                         .team = "backend",
                         .state = job_state_COMPLETED,
                         .priority = job_priority_NORMAL,
                         .prompt = "x",
                         .from = "admin",
                         .max_attempts = 1};
    struct client client;

    store_job(&rig, &record);
    client = open_stream(0);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
}

Test(streams, cursors_name_events)
{
    char path[128];

    store_chunks(&rig, &job, 1, 3, "x", false);
    snprintf(path, sizeof path, "/cursor?c=%s-2", muster_store_epoch(rig.house.store));
    cr_expect_eq(request_text(&rig, &answer, "GET", path, ADMIN_KEY, NULL, NULL), 200);
    cr_expect_str_eq(answer.body.data, "2");
    snprintf(path, sizeof path, "/cursor?c=%s-999", muster_store_epoch(rig.house.store));
    cr_expect_eq(request_text(&rig, &answer, "GET", path, ADMIN_KEY, NULL, NULL), 410);
    cr_expect_eq(request_text(&rig, &answer, "GET", "/cursor?c=0123456789abcdef-1", ADMIN_KEY, NULL, NULL), 410);
    cr_expect_eq(request_text(&rig, &answer, "GET", "/cursor?c=nonsense", ADMIN_KEY, NULL, NULL), 400);
}

Test(streams, limited_keys_are_counted_and_told)
{
    struct client client = client_open(&rig);

    ask_stream(&client, 0, READER_KEY);
    cr_assert(client_until(&client, "\r\n\r\n") != NULL);
    cr_expect(strstr(client.in.data, "X-RateLimit-Limit: 1000\r\n") != NULL);
    client_close(&client);
    client = client_open(&rig);
    ask_stream(&client, 0, SPENT_KEY);
    cr_assert(client_answer(&client, &answer));
    cr_expect_eq(answer.status, 429);
    client_close(&client);
}

/* ---- of teams, in the order of the numbers -------------------------------------------------------------------------- */

/* A stream of teams whose head has arrived. */
static struct client
open_teams(const char *query)
{
    struct client client = client_open(&rig);

    client_say(&client, "GET /teams?%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", query, ADMIN_KEY);
    cr_assert(client_until(&client, ": first\n\n") != NULL, "%s", client.in.data);
    return client;
}

/* A chunk of a job of `team`, while everything up to `settled` has come. */
static void
publish_of(const char *team, const struct muster_id *id, int64_t seq, int64_t settled)
{
    struct muster_buf body = {0};
    struct event event;

    make_event(&body, id, seq, "text", false, &event);
    event.team = team;
    rig.settled = settled;
    publish_settled(&rig, &event, settled);
    muster_buf_free(&body);
}

static void
publish_paused(const char *team, int64_t seq)
{
    struct team_paused paused = {.by = "me"};
    struct muster_buf body = {0};
    struct event event = {.seq = seq, .type = team_paused_type.wire, .team = team};

    muster_pack(&team_paused_type, &paused, &body);
    event.body = (struct muster_bytes){(const uint8_t *)body.data, body.size};
    rig.settled = seq;
    publish(&rig, &event);
    muster_buf_free(&body);
}

Test(streams, those_of_a_team_come_in_the_order_of_their_numbers)
{
    struct muster_id a = job, b = muster_id_new(1001);
    struct client client = open_teams("teams=backend"), alone = open_stream(-1);

    publish_of("backend", &a, 2, 0); /* 1 is on its way to the disk */
    publish_of("backend", &a, 4, 0);
    cr_expect_eq(client_event(&alone, NULL, 0), 2, "who follows the job alone does not wait");
    cr_expect_eq(client_event(&alone, NULL, 0), 4);
    publish_of("backend", &b, 1, 2);
    publish_of("backend", &b, 3, 4);
    publish_of("backend", &b, 5, 5);
    expect_events(&client, 1, 5);
    client_close(&client);
    client_close(&alone);
}

Test(streams, one_that_was_kept_back_comes_behind_those_that_are_published_together)
{
    struct client client = open_teams("teams=backend");
    struct muster_buf bodies[4] = {{0}};
    struct event events[4];
    size_t i;

    for (i = 0; i < 4; i++)
        make_event(&bodies[i], &job, (int64_t)i + 1, "text", false, &events[i]);
    publish_settled(&rig, &events[3], 0);
    publish_many(&rig, events, 3, 4);
    expect_events(&client, 1, 4);
    for (i = 0; i < 4; i++)
        muster_buf_free(&bodies[i]);
    client_close(&client);
}

Test(streams, what_is_settled_without_an_event_lets_others_go)
{
    struct client client = open_teams("teams=backend");
    struct muster_id other = muster_id_new(1001);

    publish_of("backend", &job, 3, 0);
    publish_of("backend", &job, 2, 0);
    publish_settled(&rig, NULL, 3); /* 1 was lost */
    expect_events(&client, 2, 3);
    publish_of("backend", &other, 5, 3);
    publish_of("backend", &other, 6, 3);
    publish_settled(&rig, NULL, 5);
    cr_expect_eq(client_event(&client, NULL, 0), 5);
    publish_settled(&rig, NULL, 9);
    cr_expect_eq(client_event(&client, NULL, 0), 6);
    client_close(&client);
}

Test(streams, each_reader_gets_its_teams_and_their_own_events)
{
    struct client backend = open_teams("teams=backend"), both = open_teams("teams=backend,frontend"),
                  all = open_teams("");
    struct muster_id other = muster_id_new(1001);
    char text[256];

    publish_of("backend", &job, 1, 1);
    publish_of("frontend", &other, 2, 2);
    publish_paused("frontend", 3);
    publish_of("elsewhere", &other, 4, 4);
    publish_of("backend", &job, 5, 5);
    cr_expect_eq(client_event(&backend, NULL, 0), 1);
    cr_expect_eq(client_event(&backend, NULL, 0), 5);
    expect_events(&both, 1, 2);
    cr_expect_eq(client_event(&both, text, sizeof text), 3);
    cr_expect(strstr(text, "data: frontend paused") != NULL, "%s", text);
    cr_expect_eq(client_event(&both, NULL, 0), 5);
    expect_events(&all, 1, 5);
    client_close(&backend);
    client_close(&both);
    client_close(&all);
}

Test(streams, one_type_is_chosen_of_history_and_live)
{
    struct muster_id other = muster_id_new(1001);
    struct client client;

    store_chunks(&rig, &other, 1, 9, "x", true);
    rig.settled = 9;
    client = open_teams("teams=backend&type=job.completed&after=0");
    cr_expect_eq(client_event(&client, NULL, 0), 9);
    publish_of("backend", &job, 10, 10);
    publish_text(&rig, &job, 11, "", true);
    cr_expect_eq(client_event(&client, NULL, 0), 11);
    client_close(&client);
}

Test(streams, those_of_a_team_go_on_after_the_last_event_of_a_job)
{
    struct client client = open_teams("teams=backend");

    publish_text(&rig, &job, 1, "", true);
    job = muster_id_new(1001);
    publish_text(&rig, &job, 2, "x", false);
    expect_events(&client, 1, 2);
    client_close(&client);
}

/* Two were given out and are on their way: the first flush finds them so, the second one on disk. */
static void
settle_at_the_second_look(struct rig *r)
{
    struct muster_buf bodies[2] = {{0}};
    struct event events[2];
    size_t i;

    if (r->flushes != 2) /* the first was that of the open */
        return;
    for (i = 0; i < 2; i++)
        make_event(&bodies[i], &job, r->seq + (int64_t)i, "late", false, &events[i]);
    store_events(r, events, 2);
    r->settled = r->seq + 1;
    for (i = 0; i < 2; i++)
        muster_buf_free(&bodies[i]);
}

Test(streams, a_join_waits_for_what_the_hub_may_not_have_held_back)
{
    struct client client;

    rig.seq = muster_log_number(rig.house.store);
    rig.settled = rig.seq;
    store_chunks(&rig, &job, rig.seq, rig.seq, "old", false);
    rig.on_flush = settle_at_the_second_look;
    client = client_open(&rig);
    client_say(&client, "GET /teams?teams=backend&after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n",
               ADMIN_KEY);
    cr_assert(client_until(&client, ": first\n\n") != NULL);
    cr_expect_eq(client_event(&client, NULL, 0), rig.seq);
    cr_expect_eq(rig.flushes, 2, "one at the open, one at the join");
    client_close(&client);
    rig.flushes = 1;
    rig.seq = muster_log_number(rig.house.store);
    (void)muster_log_number(rig.house.store);
    rig.settled = rig.seq - 1;
    client = open_teams("teams=backend&after=0");
    expect_events(&client, rig.seq - 1, rig.seq + 1);
    publish_of("backend", &job, rig.seq + 2, rig.seq + 2);
    expect_events(&client, rig.seq + 2, rig.seq + 2);
    client_close(&client);
}

/* While the history is asked for, more comes, out of order: some settled, some not, some on disk. */
static void
publish_unordered_meanwhile(struct rig *r)
{
    struct muster_id other = muster_id_new(1001);
    struct muster_buf body = {0};
    struct event late;

    if (r->flushes != 1)
        return;
    store_chunks(r, &job, 1, 12, "stored", false);
    make_event(&body, &job, 15, "on disk but not settled", false, &late);
    store_events(r, &late, 1);
    muster_buf_free(&body);
    publish_of("backend", &job, 11, 11);
    publish_of("backend", &job, 12, 12);
    publish_of("backend", &job, 15, 12);
    publish_of("backend", &other, 14, 12);
}

Test(streams, history_and_live_of_a_team_join_without_gap_or_double)
{
    struct muster_id other = muster_id_new(1002);
    struct client client;

    rig.settled = 10;
    rig.on_flush = publish_unordered_meanwhile;
    client = open_teams("teams=backend&after=4");
    expect_events(&client, 5, 12);
    publish_of("backend", &other, 13, 15);
    expect_events(&client, 13, 15);
    publish_of("backend", &other, 16, 16);
    expect_events(&client, 16, 16);
    client_close(&client);
}

static void
publish_after_open(void)
{
    publish_of("backend", &job, 21, 20);
    publish_of("backend", &job, 20, 21);
}

Test(streams, from_now_on_is_from_the_open_on)
{
    struct client client;

    publish_of("backend", &job, 19, 19); /* the hub may not have seen it yet; it is from before all the same */
    opened = publish_after_open;
    client = open_teams("teams=backend");
    expect_events(&client, 20, 21);
    client_close(&client);
}

/* ---- readers of all tempers ------------------------------------------------------------------------------------------ */

Test(streams, a_stalled_reader_is_dropped_while_its_neighbour_gets_everything)
{
    struct client good = open_stream(-1), stalled = client_open_small(&rig, 4096);
    int64_t seq = 0, read = 0;
    char text[8001];

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    ask_stream(&stalled, -1, ADMIN_KEY);
    cr_assert(client_until(&stalled, ": first\n\n") != NULL);
    while (!metric_is("muster_http_streams_dropped_total 1\n")) {
        cr_assert_lt(seq, 10000, "the stalled reader is never dropped");
        for (int i = 0; i < 50; i++)
            publish_text(&rig, &job, ++seq, text, false);
        while (read < seq)
            cr_assert_eq(client_event(&good, NULL, 0), ++read);
    }
    publish_text(&rig, &job, ++seq, "", true);
    cr_expect_eq(client_event(&good, NULL, 0), seq);
    cr_expect_eq(client_event(&good, NULL, 0), -1);
    client_close(&good);
    client_close(&stalled);
}

Test(streams, a_reader_that_was_behind_gets_everything_when_it_reads_again)
{
    struct client client = client_open_small(&rig, 4096);
    char text[4001];
    int64_t seq;

    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    ask_stream(&client, -1, ADMIN_KEY);
    cr_assert(client_until(&client, ": first\n\n") != NULL);
    /* More than this reader's buffer takes, less than is kept for it. */
    for (seq = 1; seq <= 10; seq++)
        publish_text(&rig, &job, seq, text, false);
    publish_text(&rig, &job, 11, "", true);
    expect_events(&client, 1, 11);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
}

Test(streams, one_event_larger_than_the_backlog_arrives)
{
    struct client client = open_stream(-1);
    size_t size = 6000000;
    char *text = muster_alloc(size + 1);

    memset(text, 'z', size);
    publish_text(&rig, &job, 1, text, false);
    publish_text(&rig, &job, 2, "", true);
    cr_expect_eq(client_event(&client, NULL, 0), 1);
    client_close(&client);
    free(text);
}

Test(streams, a_client_that_leaves_is_seen_at_once)
{
    struct client client = open_stream(-1);

    cr_expect(metric_is("muster_http_streams 1\n"));
    client_close(&client);
    await_metric("muster_http_streams 0\n");
}

Test(streams, more_streams_than_may_be_are_503)
{
    struct client clients[8], late = client_open(&rig);
    size_t i;

    for (i = 0; i < 8; i++)
        clients[i] = open_stream(-1);
    ask_stream(&late, -1, ADMIN_KEY);
    cr_assert(client_answer(&late, &answer));
    cr_expect_eq(answer.status, 503);
    client_close(&clients[0]);
    await_metric("muster_http_streams 7\n");
    clients[0] = open_stream(-1);
    for (i = 0; i < 8; i++)
        client_close(&clients[i]);
    client_close(&late);
}

Test(streams, readers_come_and_go_while_events_flow)
{
    int64_t seq = 0;
    int round;

    for (round = 0; round < 50; round++) {
        struct client a = open_stream(-1), b = open_stream(-1);

        for (int i = 0; i < 20; i++)
            publish_text(&rig, &job, ++seq, "flow", false);
        cr_expect_eq(client_event(&a, NULL, 0), seq - 19);
        client_close(&a);
        expect_events(&b, seq - 19, seq);
        client_close(&b);
        if (round % 3 == 2)
            await_metric("muster_http_streams 0\n"); /* there are places for eight */
    }
    await_metric("muster_http_streams 0\n");
}

/* ---- the end -------------------------------------------------------------------------------------------------------- */

Test(streams, stop_ends_streams_with_a_comment)
{
    struct client clients[5];
    size_t i;

    for (i = 0; i < 5; i++)
        clients[i] = open_stream(-1);
    http_server_stop(&rig.server);
    for (i = 0; i < 5; i++) {
        cr_expect(client_until(&clients[i], ": server stopping\n\n") != NULL);
        cr_expect_eq(client_event(&clients[i], NULL, 0), -1);
        client_close(&clients[i]);
    }
}

static void
open_beating(void)
{
    open_with("http:\n  listen: [127.0.0.1:0]\n  threads: 24\n  max_streams: 8\n  max_waiting: 8\n  heartbeat: 30ms\n"
              "  max_backlog: 64MiB\n");
}

TestSuite(beating, .init = open_beating, .fini = close_rig, .timeout = 60);

Test(beating, heartbeats_are_named_and_have_no_id)
{
    struct client client = open_stream(-1);
    const char *at;
    int i;

    for (i = 0; i < 3; i++) {
        at = client_until(&client, "event: heartbeat\ndata: {\"timestamp\":");
        cr_assert(at != NULL);
        cr_expect_gt(atoll(at + strlen("event: heartbeat\ndata: {\"timestamp\":")), 1600000000000);
        muster_buf_shift(&client.in, (size_t)(at - client.in.data) + 10);
    }
    cr_expect(strstr(client.in.data, "id:") == NULL);
    client_close(&client);
}

Test(beating, events_that_the_hub_missed_are_read_from_the_log)
{
    enum { MANY = 70000 };
    struct client client;
    int64_t seq;

    store_chunks(&rig, &job, 1, MANY, "x", false);
    client = open_stream(-1);
    gated = true;
    for (seq = 1; seq <= MANY; seq++)
        publish_text(&rig, &job, seq, "x", false);
    gated = false;
    sem_post(&gate);
    expect_events(&client, 1, MANY);
    publish_text(&rig, &job, MANY + 1, "", true);
    expect_events(&client, MANY + 1, MANY + 1);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    cr_expect_geq(rig.flushes, 1);
    client_close(&client);
}

Test(beating, events_of_teams_that_the_hub_missed_are_read_from_the_log)
{
    enum { MANY = 70000 };
    struct muster_id other = muster_id_new(1001);
    struct client client;
    int64_t seq;

    store_chunks(&rig, &job, 1, MANY, "x", false);
    client = open_teams("teams=backend");
    gated = true;
    for (seq = 1; seq <= MANY; seq++)
        publish_of("backend", &job, seq, seq);
    gated = false;
    sem_post(&gate);
    expect_events(&client, 1, MANY);
    store_chunks(&rig, &other, MANY + 1, MANY + 1, "x", false);
    store_chunks(&rig, &job, MANY + 2, MANY + 2, "x", false);
    publish_of("backend", &job, MANY + 2, MANY);
    publish_of("backend", &other, MANY + 1, MANY + 2);
    store_chunks(&rig, &other, MANY + 3, MANY + 3, "x", false);
    publish_of("backend", &other, MANY + 3, MANY + 3);
    expect_events(&client, MANY + 1, MANY + 3);
    client_close(&client);
}

static void
open_crowd(void)
{
    open_with("http:\n  listen: [127.0.0.1:0]\n  threads: 8\n  max_streams: 64\n  max_sockets: 1\n  max_waiting: 4\n"
              "  heartbeat: 30ms\n");
}

TestSuite(crowd, .init = open_crowd, .fini = close_rig, .timeout = 60);

/* More than may read the log at a time, and more than there are threads of civetweb. */
Test(crowd, all_that_missed_events_get_them_from_the_log_in_turns)
{
    enum { MANY = 70000, CLIENTS = 50 };
    struct client clients[CLIENTS], gone, one;
    int64_t seq;
    size_t i;

    rig.settled = 0;
    one = open_stream(-1);
    for (i = 0; i < CLIENTS; i++)
        clients[i] = open_teams("teams=backend&type=job.completed");
    gone = open_teams("teams=backend&type=job.completed");
    store_chunks(&rig, &job, 1, MANY, "x", true);
    gated = true; /* the hub stands still with the first event of `one` */
    for (seq = 1; seq <= MANY; seq++)
        publish_text(&rig, &job, seq, "x", seq == MANY);
    rig.settled = MANY;
    client_close(&gone);
    gated = false;
    sem_post(&gate);
    for (i = 0; i < CLIENTS; i++)
        cr_assert_eq(client_event(&clients[i], NULL, 0), MANY, "client %zu", i);
    store_chunks(&rig, &job, MANY + 1, MANY + 1, "x", true);
    rig.settled = MANY
    +1;
    publish_text(&rig, &job, MANY + 1, "x", true);
    for (i = 0; i < CLIENTS; i++) {
        cr_assert_eq(client_event(&clients[i], NULL, 0), MANY + 1, "client %zu", i);
        client_close(&clients[i]);
    }
    expect_events(&one, 1, MANY);
    cr_expect_eq(client_event(&one, NULL, 0), -1);
    client_close(&one);
    await_metric("muster_http_streams 0\n");
}

Test(crowd, the_stop_has_a_word_for_each)
{
    enum { CLIENTS = 60 };
    struct client clients[CLIENTS];
    size_t i;

    for (i = 0; i < CLIENTS; i++)
        clients[i] = open_stream(-1);
    http_server_stop(&rig.server);
    for (i = 0; i < CLIENTS; i++) {
        cr_expect(client_until(&clients[i], ": server stopping\n\n") != NULL);
        cr_expect_eq(client_event(&clients[i], NULL, 0), -1);
        client_close(&clients[i]);
    }
}

static int64_t
behind_now(void)
{
    const char *at;

    cr_assert_eq(request_text(&rig, &answer, "GET", "/metrics", NULL, NULL, NULL), 200);
    at = strstr(answer.body.data, "\nmuster_http_behind_bytes ");
    cr_assert(at != NULL);
    return atoll(at + strlen("\nmuster_http_behind_bytes "));
}

static void
open_tight(void)
{
    open_with("http:\n  listen: [127.0.0.1:0]\n  threads: 8\n  max_streams: 64\n  max_sockets: 1\n  max_waiting: 4\n"
              "  max_backlog: 64KiB\n");
}

TestSuite(tight, .init = open_tight, .fini = close_rig, .timeout = 60);

/* Each of them may have one event that is larger than the limit, but not all of them. */
Test(tight, what_is_kept_for_all_that_stall_has_a_limit_too)
{
    enum { CLIENTS = 40, LIMIT = 64 << 20, SIZE = 6000000 };
    struct client clients[CLIENTS], good;
    char *text = muster_alloc(SIZE + 1);
    size_t i;

    for (i = 0; i < CLIENTS; i++) {
        clients[i] = client_open_small(&rig, 4096);
        ask_stream(&clients[i], -1, ADMIN_KEY);
        cr_assert(client_until(&clients[i], ": first\n\n") != NULL);
    }
    good = open_stream(-1);
    memset(text, 'x', SIZE);
    publish_text(&rig, &job, 1, text, false);
    cr_assert_eq(client_event(&good, NULL, 0), 1);
    cr_assert_gt(behind_now(), LIMIT);
    publish_text(&rig, &job, 2, "y", false);
    cr_assert_eq(client_event(&good, NULL, 0), 2);
    while (behind_now() > LIMIT)
        ;
    cr_expect(!metric_is("muster_http_streams_dropped_total 0\n"));
    publish_text(&rig, &job, 3, "", true);
    cr_assert_eq(client_event(&good, NULL, 0), 3);
    for (i = 0; i < CLIENTS; i++)
        client_close(&clients[i]);
    client_close(&good);
    await_metric("muster_http_streams 0\n");
    cr_expect_eq(behind_now(), 0);
    free(text);
}

static void
open_everywhere(void)
{
    open_with("http:\n  listen: [0.0.0.0:0, 127.0.0.1:0]\n  threads: 24\n  max_streams: 8\n  max_waiting: 8\n");
}

TestSuite(everywhere, .init = open_everywhere, .fini = close_rig, .timeout = 60);

Test(everywhere, streams_work_on_an_address_that_is_all_addresses)
{
    struct client client = open_stream(-1);

    publish_text(&rig, &job, 1, "x", true);
    expect_events(&client, 1, 1);
    cr_expect_eq(client_event(&client, NULL, 0), -1);
    client_close(&client);
}
