/* SPDX-License-Identifier: MPL-2.0 */
/* GET /api/v1/events: what is shown, to whom, from where on, and what is refused. */
#include "tests/unit/api_help.h"

#include <criterion/criterion.h>

static struct rig rig;
static struct answer answer;
static struct muster_id job, other;

static const struct http_dialect *const dialects[] = {&http_events, NULL};

static void
open_rig(void)
{
    rig_open(&rig, rig_options, dialects);
    job = muster_id_new(1000);
    other = muster_id_new(1001);
}

static void
close_rig(void)
{
    muster_buf_free(&answer.body);
    rig_close(&rig);
}

TestSuite(events, .init = open_rig, .fini = close_rig, .timeout = 60);

/* A stream whose head has come; and where it begins, if it begins with what comes. */
static struct client
open_events(const char *query, const char *key, const char *headers)
{
    struct client client = client_open(&rig);

    client_say(&client, "GET /api/v1/events%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n", query, key,
               headers ? headers : "");
    cr_assert(client_until(&client, "retry: 2000\n\n") != NULL, "%s", client.in.data);
    cr_assert(strstr(client.in.data, "HTTP/1.1 200 OK\r\n") != NULL);
    if (strstr(query, "since=") == NULL && strstr(query, "job=") == NULL && headers == NULL)
        cr_assert_eq(client_event(&client, NULL, 0), rig.settled, "where it begins");
    return client;
}

static int
status_of(const char *query, const char *key, const char *headers)
{
    char path[256];

    snprintf(path, sizeof path, "/api/v1/events%s", query);
    return request_text(&rig, &answer, "GET", path, key, headers, NULL);
}

static void
tell(const char *team, const struct muster_id *id, int64_t seq, const struct muster_type *type, const void *body)
{
    struct muster_buf packed = {0};
    struct event event = {.seq = seq, .at_ms = 1700000000000, .type = type->wire, .team = team, .attempt = 2};

    if (id)
        event.job = *id;
    else
        event.attempt = 0;
    muster_pack(type, body, &packed);
    event.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    store_events(&rig, &event, 1);
    rig.settled = seq;
    publish(&rig, &event);
    muster_buf_free(&packed);
}

static void
tell_chunk(const char *team, const struct muster_id *id, int64_t seq)
{
    struct job_chunk chunk = {"say \"hi\"\n"};

    tell(team, id, seq, &job_chunk_type, &chunk);
}

static void
tell_completed(const char *team, const struct muster_id *id, int64_t seq)
{
    struct job_completed completed = {.duration_ms = 7};

    tell(team, id, seq, &job_completed_type, &completed);
}

static void
expect_event(struct client *client, int64_t seq)
{
    cr_assert_eq(client_event(client, NULL, 0), seq, "not %lld", (long long)seq);
}

/* ---- what is shown -------------------------------------------------------------------------------------------------- */

Test(events, each_is_shown_as_it_is_in_the_log)
{
    struct client client = open_events("", ADMIN_KEY, NULL);
    struct team_paused paused = {.by = "me"};
    const char *epoch = muster_store_epoch(rig.house.store);
    char text[1024], expected[1024], id[MUSTER_ID_TEXT];

    muster_id_text(&job, id);
    tell_chunk("backend", &job, 1);
    tell("frontend", NULL, 2, &team_paused_type, &paused);
    cr_assert_eq(client_event(&client, text, sizeof text), 1);
    snprintf(expected, sizeof expected,
             "id: %s-1\nevent: job.chunk\ndata: {\"cursor\":\"%s-1\",\"type\":\"job.chunk\",\"team\":\"backend\","
             "\"messageId\":\"msg_%s\",\"attempt\":2,\"at\":1700000000000,\"data\":{\"text\":\"say \\\"hi\\\"\\n\"}}",
             epoch, epoch, id);
    cr_expect_str_eq(text, expected, "%s", text);
    cr_assert_eq(client_event(&client, text, sizeof text), 2);
    snprintf(expected, sizeof expected,
             "id: %s-2\nevent: team.paused\ndata: {\"cursor\":\"%s-2\",\"type\":\"team.paused\",\"team\":\"frontend\","
             "\"at\":1700000000000,\"data\":{\"by\":\"me\"}}",
             epoch, epoch);
    cr_expect_str_eq(text, expected, "%s", text);
    client_close(&client);
}

Test(events, one_of_a_type_that_is_not_known_has_no_fields)
{
    static const struct muster_type later = {"job.later", "", NULL, 0};
    struct event event = {.seq = 1, .type = later.wire, .team = "backend", .job = job};
    struct client client;
    char text[512];

    event.body = (struct muster_bytes){(const uint8_t *)"\x80", 1};
    store_events(&rig, &event, 1);
    rig.settled = 1;
    client = open_events("?since=oldest", ADMIN_KEY, NULL);
    cr_assert_eq(client_event(&client, text, sizeof text), 1);
    cr_expect(strstr(text, "\"type\":\"job.later\"") && strstr(text, "\"data\":{}}"), "%s", text);
    client_close(&client);
}

Test(events, those_of_a_job_end_with_its_last)
{
    char query[80], header[80], id[MUSTER_ID_TEXT];
    const char *const prefixes[] = {"", "msg_", "job_"};
    struct job record = {.id = job,
                         .kind = job_kind_EXECUTE,
                         .team = "backend",
                         .state = job_state_RUNNING,
                         .priority = job_priority_NORMAL,
                         .prompt = "x",
                         .from = "admin",
                         .max_attempts = 1};
    struct client clients[3];
    size_t i;

    store_job(&rig, &record);
    muster_id_text(&job, id);
    tell_chunk("backend", &job, 1);
    tell_chunk("backend", &other, 2);
    for (i = 0; i < 3; i++) {
        snprintf(query, sizeof query, "?job=%s%s&since=oldest", prefixes[i], id);
        clients[i] = open_events(query, i == 2 ? BACKEND_KEY : ADMIN_KEY, NULL);
        expect_event(&clients[i], 1);
    }
    tell_chunk("backend", &job, 3);
    tell_completed("backend", &job, 4);
    for (i = 0; i < 3; i++) {
        expect_event(&clients[i], 3);
        expect_event(&clients[i], 4);
        cr_expect_eq(client_event(&clients[i], NULL, 0), -1, "it has ended");
        client_close(&clients[i]);
    }
    record.state = job_state_COMPLETED;
    store_job(&rig, &record);
    clients[0] = open_events(query, ADMIN_KEY, NULL);
    expect_event(&clients[0], 1);
    expect_event(&clients[0], 3);
    expect_event(&clients[0], 4);
    cr_expect_eq(client_event(&clients[0], NULL, 0), -1);
    client_close(&clients[0]);
    snprintf(query, sizeof query, "?job=%s", id);
    cr_expect_eq(status_of(query, ADMIN_KEY, NULL), 204, "nothing can come: do not come back");
    snprintf(query, sizeof query, "?job=%s&since=oldest", id);
    snprintf(header, sizeof header, "Last-Event-ID: %s-4\r\n", muster_store_epoch(rig.house.store));
    cr_expect_eq(status_of(query, ADMIN_KEY, header), 204, "nor behind the last");
}

/* ---- whose ---------------------------------------------------------------------------------------------------------- */

Test(events, each_reader_sees_the_teams_it_asks_for_and_may_use)
{
    struct client all = open_events("", ADMIN_KEY, NULL), named = open_events("?team=frontend", ADMIN_KEY, NULL),
                  both = open_events("?team=frontend,backend", ADMIN_KEY, NULL),
                  mine = open_events("", BACKEND_KEY, NULL);

    tell_chunk("backend", &job, 1);
    tell_chunk("frontend", &other, 2);
    tell_chunk("", &other, 3);
    tell_chunk("backend", &job, 4);
    tell_chunk("frontend", &other, 5);
    for (int64_t seq = 1; seq <= 5; seq++)
        expect_event(&all, seq);
    expect_event(&named, 2);
    expect_event(&named, 5);
    expect_event(&both, 1);
    expect_event(&both, 2);
    expect_event(&both, 4);
    expect_event(&both, 5);
    expect_event(&mine, 1);
    expect_event(&mine, 4);
    client_close(&all);
    client_close(&named);
    client_close(&both);
    client_close(&mine);
    cr_expect_eq(status_of("?team=frontend", BACKEND_KEY, NULL), 403);
    cr_expect_eq(status_of("?team=backend,frontend", BACKEND_KEY, NULL), 403);
    cr_expect_eq(status_of("?team=nobody", ADMIN_KEY, NULL), 404);
    cr_expect(answer_has(&answer, "TEAM_NOT_FOUND"));
    cr_expect_eq(status_of("?team=backend,", ADMIN_KEY, NULL), 404);
    cr_expect_eq(status_of("?team=", ADMIN_KEY, NULL), 404);
}

Test(events, jobs_of_others_are_not_there)
{
    struct job record = {.id = job,
                         .kind = job_kind_EXECUTE,
                         .team = "frontend",
                         .state = job_state_RUNNING,
                         .priority = job_priority_NORMAL,
                         .prompt = "x",
                         .from = "admin",
                         .max_attempts = 1};
    char query[80], id[MUSTER_ID_TEXT];

    store_job(&rig, &record);
    muster_id_text(&job, id);
    snprintf(query, sizeof query, "?job=msg_%s", id);
    cr_expect_eq(status_of(query, BACKEND_KEY, NULL), 404);
    snprintf(query, sizeof query, "?job=msg_%s&team=frontend", id);
    cr_expect_eq(status_of(query, ADMIN_KEY, NULL), 400);
    muster_id_text(&other, id);
    snprintf(query, sizeof query, "?job=%s", id);
    cr_expect_eq(status_of(query, ADMIN_KEY, NULL), 404);
    cr_expect_eq(status_of("?job=nonsense", ADMIN_KEY, NULL), 404);
    cr_expect_eq(status_of("?job=msg_job_", ADMIN_KEY, NULL), 404);
}

Test(events, a_key_needs_the_scope_of_streams)
{
    struct client client = client_open(&rig);

    cr_expect_eq(status_of("", READER_KEY, NULL), 403);
    cr_expect_eq(status_of("", NULL, NULL), 401);
    cr_expect_eq(status_of("", SPENT_KEY, NULL), 429);
    client_say(&client, "GET /api/v1/events?api_key=" ADMIN_KEY " HTTP/1.1\r\nHost: x\r\n\r\n");
    cr_expect(client_until(&client, "retry: 2000\n\n") != NULL);
    client_close(&client);
}

/* ---- from where on -------------------------------------------------------------------------------------------------- */

Test(events, a_reader_begins_where_it_says)
{
    const char *epoch = muster_store_epoch(rig.house.store);
    char query[80], header[80];
    struct client client;

    for (int64_t seq = 1; seq <= 5; seq++)
        tell_chunk("backend", &job, seq);
    client = open_events("", ADMIN_KEY, NULL);
    tell_chunk("backend", &job, 6);
    expect_event(&client, 6);
    client_close(&client);
    client = open_events("?since=oldest", ADMIN_KEY, NULL);
    expect_event(&client, 1);
    client_close(&client);
    snprintf(query, sizeof query, "?since=%s-3", epoch);
    client = open_events(query, ADMIN_KEY, NULL);
    expect_event(&client, 4);
    client_close(&client);
    snprintf(header, sizeof header, "Last-Event-ID: %s-5\r\n", epoch);
    client = open_events(query, ADMIN_KEY, header);
    expect_event(&client, 6);
    client_close(&client);
    client = open_events(query, ADMIN_KEY, "Last-Event-ID: \r\n");
    expect_event(&client, 4);
    client_close(&client);
    cr_expect_eq(status_of("?since=nonsense", ADMIN_KEY, NULL), 400);
    cr_expect(answer_has(&answer, "since is not a cursor"));
    cr_expect_eq(status_of("", ADMIN_KEY, "Last-Event-ID: oldest\r\n"), 400);
    cr_expect(answer_has(&answer, "Last-Event-ID is not a cursor"));
    cr_expect_eq(status_of("?since=0123456789abcdef-1", ADMIN_KEY, NULL), 410);
    cr_expect(answer_has(&answer, "CURSOR_EXPIRED") && answer_has(&answer, "\"oldest\":\""));
}

Test(events, one_type_is_chosen)
{
    struct client client;

    tell_chunk("backend", &job, 1);
    tell_completed("backend", &job, 2);
    client = open_events("?type=job.completed&since=oldest", ADMIN_KEY, NULL);
    expect_event(&client, 2);
    tell_chunk("backend", &other, 3);
    tell_completed("backend", &other, 4);
    expect_event(&client, 4);
    client_close(&client);
    cr_expect_eq(status_of("?type=job.nonsense", ADMIN_KEY, NULL), 400);
    cr_expect(answer_has(&answer, "\"field\":\"type\""));
}

/* ---- the manual ----------------------------------------------------------------------------------------------------- */

Test(events, the_manual_names_the_route_and_what_it_sends)
{
    struct muster_buf text = {0};

    http_describe_routes(&text);
    cr_expect(strstr(text.data, "GET    /api/v1/events\n") != NULL);
    muster_buf_clear(&text);
    http_describe_bodies(&text);
    cr_expect(strstr(text.data, "event_shown") != NULL);
    muster_buf_free(&text);
}
