/* SPDX-License-Identifier: MPL-2.0 */
/* Workers over HTTP: how they are shown, to whom, and what is asked of nodes; teams that need workers; metrics. */
#include "tests/unit/api_help.h"

#include <criterion/criterion.h>
#include <jansson.h>

#include "api/dialects/iris.h"

#define KEPT_KEY "muster_sk_kept"   /* processes:manage, team backend */
#define STAFF_KEY "muster_sk_staff" /* processes:manage, all teams */

static struct rig rig;
static struct answer answer;
static struct muster_runner *nodes;
static struct muster_loop *nodes_loop;
static struct muster_arena *nodes_arena;
static char last_asked[128]; /* of nodes: type, worker, and what */

static const struct http_dialect *const dialects[] = {&iris_dialect, &http_nodes, NULL};
static const char options[] =
    "http: {listen: [127.0.0.1:0], threads: 8, max_sockets: 4, max_waiting: 2}\n"
    "teams: {backend: {driver: remote}, frontend: {driver: remote}, local: {driver: echo, concurrency: 3}}\n"
    "log: {format: json, level: info}\n";

/* ---- the other side ------------------------------------------------------------------------------------------------ */

static void
answer_node(const struct muster_envelope *envelope, const char *node)
{
    struct node_drained drained = {node, node_state_DRAINING, 2};
    struct failed failed = {"CONFLICT", "It is attached", 0};

    if (strcmp(node, "busy") == 0)
        reply(nodes_loop, envelope, &envelope->principal, &failed_type, &failed);
    else
        reply(nodes_loop, envelope, &envelope->principal, &node_drained_type, &drained);
}

static void
fake_nodes(void *arg, const void *data, size_t size)
{
    struct muster_envelope envelope;
    struct node_drain drain;
    struct node_forget forget;

    (void)arg;
    muster_arena_clear(nodes_arena);
    NEED(muster_envelope_unpack(data, size, nodes_arena, &envelope) == MUSTER_OK);
    if (strcmp(envelope.type, node_drain_type.wire) == 0) {
        NEED(muster_unpack(&node_drain_type, envelope.body.data, envelope.body.size, nodes_arena, &drain, NULL) ==
             MUSTER_OK);
        snprintf(last_asked, sizeof last_asked, "drain %s %d", drain.node, drain.draining);
        answer_node(&envelope, drain.node);
        return;
    }
    NEED(muster_unpack(&node_forget_type, envelope.body.data, envelope.body.size, nodes_arena, &forget, NULL) ==
         MUSTER_OK);
    snprintf(last_asked, sizeof last_asked, "forget %s", forget.node);
    answer_node(&envelope, forget.node);
}

static muster_err
begin_nodes(void *arg, struct muster_loop *loop)
{
    (void)arg;
    nodes_loop = loop;
    return MUSTER_OK;
}

static const struct muster_runner_hooks nodes_hooks = {
    .begin = begin_nodes, .frame = fake_nodes, .idle = NULL, .end = end_nothing};

static void
publish_staff(void)
{
    static const char *const manages[] = {"processes:manage", "teams:read"}, *const admin[] = {"*"};
    static const char *const reads[] = {"messages:read"}, *const backend[] = {"backend"};
    static const struct rate_limit unlimited = {0, 60000, limit_algorithm_SLIDING_WINDOW};
    static const char *const secrets[] = {KEPT_KEY, STAFF_KEY, ADMIN_KEY, READER_KEY};
    struct key keys[4] = {{.name = "kept", .scopes = {manages, 2}, .teams = {backend, 1}},
                          {.name = "staff", .scopes = {manages, 2}},
                          {.name = "admin", .scopes = {admin, 1}},
                          {.name = "reader", .scopes = {reads, 1}}};
    uint8_t digests[4][MUSTER_DIGEST];
    size_t i;

    for (i = 0; i < 4; i++) {
        muster_sha256(secrets[i], strlen(secrets[i]), digests[i]);
        keys[i].digest = (struct muster_bytes){digests[i], MUSTER_DIGEST};
        keys[i].id = muster_id_new(1000 + (int64_t)i);
        keys[i].rate_limit = &unlimited;
    }
    muster_board_publish(rig.bus, MUSTER_KEYS_BOARD, keys_new(keys, 4), keys_free);
}

static void
free_view(void *object)
{
    free(object);
}

/* w1: up, with both teams; w2: away, only frontend. */
static void
publish_nodes(enum node_state first)
{
    static const struct muster_node_team both[] = {{"backend", 4, 1, true}, {"frontend", 2, 2, true}};
    static const struct muster_node_team other[] = {{"frontend", 8, 0, false}};
    static const struct muster_pair labels[] = {{"zone", "a"}};
    static struct muster_node_view items[2];
    struct muster_nodes_view *view = muster_alloc(sizeof *view);

    items[0] = (struct muster_node_view){.name = "w1",
                                         .host = "far.example",
                                         .version = "0.1.0",
                                         .state = first,
                                         .attached_ms = 1000,
                                         .heard_ms = 2000,
                                         .lease_until_ms = 3000,
                                         .running = 3,
                                         .parcels = 5,
                                         .parcels_bytes = 600,
                                         .oldest_ms = 70,
                                         .round_trip_ms = 8,
                                         .cpus = 16,
                                         .load = 0.5,
                                         .team_count = 2,
                                         .label_count = 1,
                                         .teams = both,
                                         .labels = labels};
    items[1] = (struct muster_node_view){
        .name = "w2", .state = node_state_AWAY, .draining = true, .team_count = 1, .teams = other};
    *view = (struct muster_nodes_view){
        .count = 2, .nodes = items, .attached = 9, .refused = 8, .lost = 7, .parcels = 6, .stale = 5};
    muster_board_publish(rig.bus, MUSTER_NODES_BOARD, view, free_view);
}

static void
open_rig(void)
{
    rig_open(&rig, options, dialects);
    nodes_arena = muster_arena_new();
    NEED(muster_runner_start(rig.bus, MUSTER_NODES, 100, &nodes_hooks, NULL, &nodes) == MUSTER_OK);
    publish_staff();
}

static void
close_rig(void)
{
    muster_buf_free(&answer.body);
    http_server_stop(&rig.server);
    muster_runner_stop(&nodes);
    muster_arena_free(&nodes_arena);
    rig_close(&rig);
}

TestSuite(nodes, .init = open_rig, .fini = close_rig, .timeout = 60);

static json_t *
call(const char *key, const char *method, const char *path, int status)
{
    json_t *json;

    cr_assert_eq(request_text(&rig, &answer, method, path, key, NULL, NULL), status, "%s", answer.body.data);
    json = json_loads(answer.body.data, 0, NULL);
    cr_assert_not_null(json, "%s", answer.body.data);
    return json;
}

static void
expect_refused(const char *key, const char *method, const char *path, int status, const char *code)
{
    json_t *json = call(key, method, path, status);

    cr_expect_str_eq(json_string_value(json_object_get(json, "code")), code);
    json_decref(json);
}

/* ---- showing ------------------------------------------------------------------------------------------------------- */

Test(nodes, before_any_worker_there_is_the_server_alone)
{
    json_t *json = call(STAFF_KEY, "GET", "/api/v1/nodes", 200), *hub = json_object_get(json, "hub");
    const json_t *team = json_array_get(json_object_get(hub, "teams"), 0);

    cr_expect_eq(json_array_size(json_object_get(json, "nodes")), 0);
    cr_expect_str_eq(json_string_value(json_object_get(hub, "version")), MUSTER_VERSION);
    cr_expect_neq(json_string_value(json_object_get(hub, "host"))[0], '\0');
    cr_expect_geq(json_integer_value(json_object_get(json_object_get(hub, "load"), "cpus")), 1);
    cr_expect_eq(json_array_size(json_object_get(hub, "teams")), 1, "those that need workers are not the server's");
    cr_expect_str_eq(json_string_value(json_object_get(team, "name")), "local");
    cr_expect_eq(json_integer_value(json_object_get(team, "capacity")), 3);
    json_decref(json);
}

Test(nodes, a_worker_is_shown_as_nodes_published_it)
{
    static const char expected[] =
        "{\"name\":\"w1\",\"host\":\"far.example\",\"version\":\"0.1.0\",\"state\":\"up\",\"draining\":false,"
        "\"running\":3,\"attachedAt\":1000,\"lastHeardAt\":2000,\"leaseUntil\":3000,\"labels\":{\"zone\":\"a\"},"
        "\"teams\":[{\"name\":\"backend\",\"capacity\":4,\"running\":1,\"fits\":true},"
        "{\"name\":\"frontend\",\"capacity\":2,\"running\":2,\"fits\":true}],"
        "\"load\":{\"load1\":0.5,\"cpus\":16},"
        "\"lag\":{\"parcels\":5,\"bytes\":600,\"oldestMs\":70,\"roundTripMs\":8}}";
    json_t *json;

    publish_nodes(node_state_UP);
    json = call(STAFF_KEY, "GET", "/api/v1/nodes/w1", 200);
    cr_expect_str_eq(answer.body.data, expected);
    json_decref(json);
    json = call(STAFF_KEY, "GET", "/api/v1/nodes", 200);
    cr_expect_eq(json_array_size(json_object_get(json, "nodes")), 2);
    cr_expect(answer_has(&answer, expected));
    cr_expect(
        answer_has(&answer, "{\"name\":\"w2\",\"host\":\"\",\"version\":\"\",\"state\":\"away\",\"draining\":true") ||
        answer_has(&answer, "{\"name\":\"w2\",\"state\":\"away\",\"draining\":true"));
    json_decref(json);
    expect_refused(STAFF_KEY, "GET", "/api/v1/nodes/w3", 404, "NOT_FOUND");
}

Test(nodes, a_key_kept_to_teams_sees_these_only_and_changes_nothing)
{
    json_t *json, *list;

    publish_nodes(node_state_UP);
    json = call(KEPT_KEY, "GET", "/api/v1/nodes", 200);
    list = json_object_get(json, "nodes");
    cr_expect_eq(json_array_size(list), 1);
    cr_expect_eq(json_integer_value(json_object_get(json_array_get(list, 0), "running")), 1);
    cr_expect_null(strstr(answer.body.data, "frontend"));
    cr_expect_null(strstr(answer.body.data, "local"));
    json_decref(json);
    expect_refused(KEPT_KEY, "GET", "/api/v1/nodes/w2", 404, "NOT_FOUND");
    expect_refused(KEPT_KEY, "POST", "/api/v1/nodes/w1/drain", 403, "FORBIDDEN");
    expect_refused(KEPT_KEY, "POST", "/api/v1/nodes/w1/resume", 403, "FORBIDDEN");
    cr_expect_str_eq(last_asked, "");
}

Test(nodes, scopes_are_needed)
{
    expect_refused(READER_KEY, "GET", "/api/v1/nodes", 403, "FORBIDDEN");
    expect_refused(READER_KEY, "GET", "/api/v1/nodes/w1", 403, "FORBIDDEN");
    expect_refused(READER_KEY, "POST", "/api/v1/nodes/w1/drain", 403, "FORBIDDEN");
    expect_refused(STAFF_KEY, "DELETE", "/api/v1/nodes/w1", 403, "FORBIDDEN");
    cr_expect_str_eq(last_asked, "");
}

/* ---- changing ------------------------------------------------------------------------------------------------------ */

Test(nodes, a_worker_is_drained_resumed_and_forgotten)
{
    static const struct {
        const char *key, *method, *path, *asked, *body;
    } rows[] = {
        {STAFF_KEY, "POST", "/api/v1/nodes/w1/drain", "drain w1 1",
         "{\"name\":\"w1\",\"state\":\"draining\",\"running\":2}"},
        {STAFF_KEY, "POST", "/api/v1/nodes/w1/resume", "drain w1 0",
         "{\"name\":\"w1\",\"state\":\"draining\",\"running\":2}"},
        {ADMIN_KEY, "DELETE", "/api/v1/nodes/w1", "forget w1", "{\"name\":\"w1\",\"forgotten\":true}"},
    };
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_decref(call(rows[i].key, rows[i].method, rows[i].path, 200));
        cr_expect_str_eq(last_asked, rows[i].asked);
        cr_expect_str_eq(answer.body.data, rows[i].body);
    }
    expect_refused(ADMIN_KEY, "DELETE", "/api/v1/nodes/busy", 409, "CONFLICT");
    last_asked[0] = '\0';
    expect_refused(STAFF_KEY, "POST",
                   "/api/v1/nodes/x1234567890123456789012345678901234567890123456789012345678901234/drain", 404,
                   "NOT_FOUND");
    cr_expect_str_eq(last_asked, "");
}

/* ---- teams that need workers ------------------------------------------------------------------------------------------ */

static void
expect_team(const char *name, const char *status, int64_t workers, int64_t concurrency)
{
    char path[64];
    json_t *json;

    snprintf(path, sizeof path, "/api/v1/teams/%s/status", name);
    json = call(STAFF_KEY, "GET", path, 200);
    cr_expect_str_eq(json_string_value(json_object_get(json, "status")), status);
    cr_expect_eq(json_integer_value(json_object_get(json, "workers")), workers);
    cr_expect_eq(json_integer_value(json_object_get(json, "concurrency")), concurrency);
    json_decref(json);
}

Test(nodes, a_team_without_a_worker_is_offline)
{
    json_t *json;

    expect_team("backend", "offline", 0, 0);
    expect_team("local", "idle", 0, 3);
    publish_nodes(node_state_UP);
    expect_team("backend", "idle", 1, 4);
    expect_team("frontend", "idle", 1, 2); /* w2 is away, and its labels do not fit */
    json = call(STAFF_KEY, "GET", "/api/v1/teams", 200);
    cr_expect(answer_has(&answer, "\"driver\":\"remote\",\"queued\":0,\"running\":0,\"concurrency\":4,\"workers\":1}"));
    json_decref(json);
    publish_nodes(node_state_DRAINING);
    expect_team("backend", "offline", 0, 0);
}

Test(nodes, a_lost_worker_is_told_to_streams_and_sockets)
{
    struct job_lost lost = {"w1", "not heard of for 30 s"};
    struct job_found found = {"w1"};
    struct muster_arena *arena = muster_arena_new();
    struct muster_buf body = {0}, out = {0};
    struct event event = {.seq = 4, .at_ms = 5, .type = job_lost_type.wire, .team = "backend", .job = {{1}}};

    muster_pack(&job_lost_type, &lost, &body);
    event.body = (struct muster_bytes){(const uint8_t *)body.data, body.size};
    iris_render_stream(&out, &event, "e-4", arena, NULL);
    cr_expect_str_eq(out.data, "event: lost\ndata: {\"messageId\":\"msg_01000000-0000-0000-0000-000000000000\","
                               "\"node\":\"w1\",\"message\":\"not heard of for 30 s\"}\n");
    muster_buf_clear(&out);
    iris_render_socket(&out, &event, "e-4", arena, NULL);
    cr_expect_str_eq(out.data, "{\"type\":\"lost\",\"messageId\":\"msg_01000000-0000-0000-0000-000000000000\","
                               "\"team\":\"backend\",\"node\":\"w1\",\"message\":\"not heard of for 30 s\","
                               "\"cursor\":\"e-4\",\"timestamp\":5}");
    muster_buf_clear(&out);
    muster_buf_clear(&body);
    muster_pack(&job_found_type, &found, &body);
    event.type = job_found_type.wire;
    event.body = (struct muster_bytes){(const uint8_t *)body.data, body.size};
    iris_render_stream(&out, &event, "e-4", arena, NULL);
    cr_expect_str_eq(out.data, "event: found\ndata: {\"messageId\":\"msg_01000000-0000-0000-0000-000000000000\","
                               "\"node\":\"w1\"}\n");
    muster_buf_clear(&out);
    iris_render_socket(&out, &event, "e-4", arena, NULL);
    cr_expect_str_eq(out.data, "{\"type\":\"found\",\"messageId\":\"msg_01000000-0000-0000-0000-000000000000\","
                               "\"team\":\"backend\",\"node\":\"w1\",\"cursor\":\"e-4\",\"timestamp\":5}");
    muster_buf_free(&out);
    muster_buf_free(&body);
    muster_arena_free(&arena);
}

/* ---- metrics and the manual -------------------------------------------------------------------------------------------- */

Test(nodes, workers_are_counted_in_the_metrics)
{
    static const char *const lines[] = {"muster_nodes{state=\"up\"} 1\n",
                                        "muster_nodes{state=\"away\"} 1\n",
                                        "muster_nodes{state=\"lost\"} 0\n",
                                        "muster_node_running{node=\"w1\"} 3\n",
                                        "muster_node_parcels{node=\"w1\"} 5\n",
                                        "muster_node_parcels_bytes{node=\"w1\"} 600\n",
                                        "muster_node_oldest_parcel_ms{node=\"w1\"} 70\n",
                                        "muster_nodes_attached_total 9\n",
                                        "muster_nodes_refused_total 8\n",
                                        "muster_nodes_lost_total 7\n",
                                        "muster_nodes_parcels_total 6\n",
                                        "muster_nodes_stale_total 5\n"};
    struct muster_buf text = {0};
    size_t i;

    publish_nodes(node_state_UP);
    http_server_metrics(rig.server, &text);
    for (i = 0; i < sizeof lines / sizeof *lines; i++)
        cr_expect_not_null(strstr(text.data, lines[i]), "%s", lines[i]);
    muster_buf_free(&text);
}

Test(nodes, every_body_is_described)
{
    FILE *file = fopen(MUSTER_SOURCE_DIR "/api/http/nodes.def", "r");
    struct muster_buf text = {0};
    char line[1024], name[128];
    size_t count = 0;

    cr_assert_not_null(file);
    http_describe_bodies(&text);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "TYPE(%*[a-z_], \"%100[^\"]\"", name) == 1) {
            (void)strcat(name, "\n    ");
            cr_expect_not_null(strstr(text.data, name), "%s", name);
            count++;
        }
    cr_expect_eq(count, 9);
    (void)fclose(file);
    muster_buf_free(&text);
}
