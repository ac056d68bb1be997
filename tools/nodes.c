/* SPDX-License-Identifier: MPL-2.0 */
/* nodes and drain: where jobs run, and letting a worker take no more of them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/client.h"
#include "tools/commands.h"
#include "tools/link.h"
#include "tools/show.h"
#include "tools/term.h"

#define NODES "/api/v1/nodes"
#define NODES_TIMEOUT_MS 30000
#define POLL_MS 500
#define TRIES_MAX 20 /* the server may be starting anew */

/* ---- nodes ---- */

/* "backend 1/4, frontend 0/2 (labels)": the worker lacks labels that frontend asks for. */
static json_t *
teams_text(const json_t *teams)
{
    struct muster_buf text = {0};
    json_t *value;
    const json_t *team;
    size_t i;

    json_array_foreach(teams, i, team)
    {
        muster_buf_printf(&text, "%s%s %" PRId64 "/%" PRId64, i ? ", " : "", json_text(team, "name"),
                          json_number(team, "running"), json_number(team, "capacity"));
        if (json_is_false(json_object_get(team, "fits")))
            muster_buf_str(&text, " (labels)");
    }
    value = json_string(text.size > 0 ? text.data : "-");
    muster_buf_free(&text);
    return value;
}

static json_t *
load_text(const json_t *load)
{
    return json_sprintf("%.2f of %" PRId64, json_number_value(json_object_get(load, "load1")),
                        json_number(load, "cpus"));
}

/* What it has not told yet: "3, 1.2 s"; "-": nothing. */
static json_t *
lag_text(const json_t *lag)
{
    int64_t parcels = json_number(lag, "parcels");
    char span[32];

    if (parcels <= 0)
        return json_string("-");
    term_span(span, sizeof span, json_number(lag, "oldestMs"));
    return json_sprintf("%" PRId64 ", %s", parcels, span);
}

static json_t *
row_of(const json_t *node, int64_t now_ms)
{
    const char *state = json_text(node, "state");
    int64_t heard_ms = json_number(node, "lastHeardAt");
    json_t *row = json_object();

    json_put_text(row, "name", json_text(node, "name"));
    json_object_set_new(row, "state",
                        json_is_true(json_object_get(node, "draining")) && strcmp(state, "draining") != 0
                            ? json_sprintf("%s, draining", state)
                            : json_string(state));
    json_put_text(row, "host", json_text(node, "host"));
    json_put_text(row, "version", json_text(node, "version"));
    json_object_set_new(row, "teams", teams_text(json_object_get(node, "teams")));
    json_object_set_new(row, "load", load_text(json_object_get(node, "load")));
    json_object_set_new(row, "lag", lag_text(json_object_get(node, "lag")));
    if (heard_ms > 0)
        json_object_set_new(row, "heard", json_integer(now_ms > heard_ms ? now_ms - heard_ms : 0));
    return row;
}

void
show_nodes(const json_t *answer, int64_t now_ms)
{
    static const struct column columns[] = {
        {"NODE", "name", COLUMN_TEXT, 64, false},   {"STATE", "state", COLUMN_TEXT, 20, false},
        {"HOST", "host", COLUMN_TEXT, 32, false},   {"VERSION", "version", COLUMN_TEXT, 16, false},
        {"TEAMS", "teams", COLUMN_TEXT, 60, false}, {"LOAD", "load", COLUMN_TEXT, 16, false},
        {"LAG", "lag", COLUMN_TEXT, 20, false},     {"HEARD", "heard", COLUMN_SPAN, 12, false},
        {NULL, NULL, COLUMN_TEXT, 0, false},
    };
    json_t *rows = json_array(), *hub = row_of(json_object_get(answer, "hub"), now_ms);
    const json_t *node;
    size_t i;

    json_put_text(hub, "name", "(server)");
    json_put_text(hub, "state", "up");
    json_array_append_new(rows, hub);
    json_array_foreach(json_object_get(answer, "nodes"), i, node) json_array_append_new(rows, row_of(node, now_ms));
    show_table(rows, columns);
    json_decref(rows);
}

static int
nodes(const struct client *client, const struct call *call)
{
    json_t *answer = NULL;
    int result = client_request(client, "GET", NODES, NULL, NODES_TIMEOUT_MS, &answer);

    (void)call;
    if (!result && client->json)
        json_print(answer);
    else if (!result)
        show_nodes(answer, client_now_ms());
    json_decref(answer);
    return result;
}

/* ---- drain ---- */

/* Look again and again until nothing runs there; EXIT_DONE: *out_node is how it is then. */
static int
await_empty(const struct client *client, struct term *term, const char *name, json_t **out_node)
{
    const char *path = client_path(client, NODES "/", name, "");
    struct client_reply reply;
    json_t *node = NULL;
    int result;
    int try = 0;

    for (;; link_pause(POLL_MS)) {
        client_send(client, "GET", path, NULL, NODES_TIMEOUT_MS, &reply);
        if (link_worth_a_try(reply.err ? 0 : reply.status) && reply.status != 200 && try++ < TRIES_MAX) {
            client_drop(&reply);
            continue;
        }
        result = client_take(client, &reply, &node);
        if (result)
            return result;
        if (json_number(node, "running") <= 0)
            break;
        try = 0;
        term_label(term, "%s is %s, %" PRId64 " running", name, json_text(node, "state"), json_number(node, "running"));
        json_decref(node);
        node = NULL;
    }
    *out_node = node;
    return EXIT_DONE;
}

/* *answer_p is the server's answer to the drain, and then how the worker is in the end. */
static int
wait_until_empty(const struct client *client, const char *name, json_t **answer_p)
{
    struct term *term = term_start(!client->json, 0);
    json_t *node = NULL;
    int result;

    term_hint(term, "%s takes no more jobs; muster drain %s --resume lets it", name, name);
    term_label(term, "%s is draining", name);
    result = await_empty(client, term, name, &node);
    term_stop(&term);
    if (!result) {
        json_decref(*answer_p);
        *answer_p = node;
    }
    return result;
}

static void
show_drained(const json_t *answer)
{
    const char *state = json_text(answer, "state");
    int64_t running = json_number(answer, "running");

    term_print_safe(stdout, state, strlen(state));
    if (running > 0)
        printf(", %" PRId64 " running", running);
    putchar('\n');
}

static int
drain(const struct client *client, const struct call *call)
{
    bool resume = call_value(call, "--resume") != NULL;
    json_t *answer = NULL;
    int result;

    if (resume && call_value(call, "--wait"))
        return complain(EXIT_USAGE, "--wait does not go with --resume: give one of them");
    result =
        client_request(client, "POST", client_path(client, NODES "/", call->args[0], resume ? "/resume" : "/drain"),
                       "{}", NODES_TIMEOUT_MS, &answer);
    if (!result && call_value(call, "--wait") && json_number(answer, "running") > 0)
        result = wait_until_empty(client, call->args[0], &answer);
    if (!result && client->json)
        json_print(answer);
    else if (!result)
        show_drained(answer);
    json_decref(answer);
    return result;
}

int
run_nodes(const struct call *call)
{
    return client_run(call, nodes);
}

int
run_drain(const struct call *call)
{
    return client_run(call, drain);
}
