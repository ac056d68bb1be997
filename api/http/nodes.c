/* SPDX-License-Identifier: MPL-2.0 */
/* Workers on other hosts: shown from what nodes published last; drained, resumed and forgotten by asking it.  Handlers
 * run on the connection's thread.  What can fail: the worker is not known, or still attached.
 *
 * A key that is kept to some teams sees workers of these, and changes none: a worker is of all its teams. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/http/gateway.h"

#include "schemas/pass_struct.h"

#include "api/http/nodes.def"
#include "schemas/pass_end.h"

#include "schemas/pass_extern.h"

#include "api/http/nodes.def"
#include "schemas/pass_end.h"

#include "schemas/pass_rows.h"

#include "api/http/nodes.def"
#include "schemas/pass_end.h"

#include "schemas/pass_types.h"

#include "api/http/nodes.def"
#include "schemas/pass_end.h"

enum { NAME_BYTES = 64 };

/* ---- showing ---- */

/* The teams that the key may use, and their attempts. */
static void
show_teams(struct http_request *request, const struct muster_node_view *view, struct node_shown *out)
{
    struct node_team *teams = muster_arena_alloc(http_arena(request), (view->team_count + 1) * sizeof *teams);
    size_t i;

    out->teams.items = teams;
    for (i = 0; i < view->team_count; i++) {
        const struct muster_node_team *team = &view->teams[i];

        if (!http_may_use(request, team->name))
            continue;
        teams[out->teams.count++] = (struct node_team){team->name, team->capacity, team->running, team->fits};
        out->running += team->running;
    }
}

/* Its texts are the view's.  False: the key may not see it. */
static bool
show_node(struct http_request *request, const struct muster_node_view *view, struct node_shown *out)
{
    struct node_load *load = muster_arena_alloc(http_arena(request), sizeof *load);
    struct node_lag *lag = muster_arena_alloc(http_arena(request), sizeof *lag);
    bool all = http_key(request)->teams.count == 0;

    *load = (struct node_load){view->load, view->cpus};
    *lag = (struct node_lag){view->parcels, view->parcels_bytes, view->oldest_ms, view->round_trip_ms};
    *out = (struct node_shown){.name = view->name,
                               .host = view->host,
                               .version = view->version,
                               .state = view->state,
                               .draining = view->draining,
                               .attachedAt = view->attached_ms,
                               .lastHeardAt = view->heard_ms,
                               .leaseUntil = view->lease_until_ms,
                               .labels = {view->labels, view->label_count},
                               .load = load,
                               .lag = lag};
    show_teams(request, view, out);
    if (all)
        out->running = view->running;
    return all || out->teams.count > 0;
}

static struct muster_queue_view
queue_view(const struct http_request *request, const char *team)
{
    struct muster_queue_view view = {.queued = 0};
    struct muster_notice *notice;
    char board[160];

    (void)snprintf(board, sizeof board, MUSTER_QUEUE_BOARD "/%s", team);
    notice = muster_board_take(http_house(request)->bus, board);
    if (notice)
        view = *(const struct muster_queue_view *)muster_notice_object(notice);
    muster_notice_release(&notice);
    return view;
}

static void
show_hub_teams(struct http_request *request, struct hub_shown *out)
{
    const struct options *options = http_house(request)->options;
    struct hub_team *teams = muster_arena_alloc(http_arena(request), (options->teams.count + 1) * sizeof *teams);
    size_t i;

    out->teams.items = teams;
    for (i = 0; i < options->teams.count; i++) {
        const struct team_options *team = &options->teams.items[i];
        int64_t running;

        if (team->driver == driver_kind_REMOTE || !http_may_use(request, team->name))
            continue;
        running = queue_view(request, team->name).running;
        teams[out->teams.count++] = (struct hub_team){team->name, team->concurrency, running};
        out->running += running;
    }
}

static void
show_hub(struct http_request *request, struct hub_shown *out)
{
    struct node_load *load = muster_arena_alloc(http_arena(request), sizeof *load);
    char *host = muster_arena_alloc(http_arena(request), 256);

    *load = (struct node_load){.cpus = sysconf(_SC_NPROCESSORS_ONLN)};
    if (getloadavg(&load->load1, 1) != 1)
        load->load1 = 0;
    (void)gethostname(host, 255); /* longer ones are cut; the arena's memory is zero */
    *out = (struct hub_shown){.host = host, .version = MUSTER_VERSION, .load = load};
    show_hub_teams(request, out);
}

static void
handle_list(struct http_request *request)
{
    struct muster_notice *notice = muster_board_take(http_house(request)->bus, MUSTER_NODES_BOARD);
    const struct muster_nodes_view *view = notice ? muster_notice_object(notice) : NULL;
    size_t count = view ? view->count : 0, i;
    struct node_shown *nodes = muster_arena_alloc(http_arena(request), (count + 1) * sizeof *nodes);
    struct hub_shown hub;
    struct node_list list = {.hub = &hub, .nodes = {nodes, 0}};
    struct muster_buf text = {0};

    show_hub(request, &hub);
    for (i = 0; i < count; i++)
        list.nodes.count += show_node(request, &view->nodes[i], &nodes[list.nodes.count]);
    muster_json_encode(&node_list_type, &list, &text);
    muster_notice_release(&notice);
    http_answer(request, 200, "application/json", text.data, text.size);
    muster_buf_free(&text);
}

static void
handle_show(struct http_request *request)
{
    struct muster_notice *notice = muster_board_take(http_house(request)->bus, MUSTER_NODES_BOARD);
    const struct muster_nodes_view *view = notice ? muster_notice_object(notice) : NULL;
    const char *name = http_param(request, "node");
    struct muster_buf text = {0};
    struct node_shown node;
    size_t i;

    for (i = 0; view && i < view->count && strcmp(view->nodes[i].name, name) != 0; i++)
        ;
    if (view && i < view->count && show_node(request, &view->nodes[i], &node))
        muster_json_encode(&node_shown_type, &node, &text);
    muster_notice_release(&notice);
    if (text.size > 0)
        http_answer(request, 200, "application/json", text.data, text.size);
    else
        http_fail(request, MUSTER_NOT_FOUND, "There is no such worker");
    muster_buf_free(&text);
}

/* ---- changing ---- */

/* Ask nodes about the worker in the path.  False: answered. */
static bool
ask_nodes(struct http_request *request, const struct muster_type *type, const void *body, struct node_drained *out)
{
    muster_err err;

    if (!http_may_manage(request))
        return false;
    if (strlen(http_param(request, "node")) > NAME_BYTES) {
        http_fail(request, MUSTER_NOT_FOUND, "There is no such worker");
        return false;
    }
    err = http_ask(request, MUSTER_NODES, type, body, &node_drained_type, out, HTTP_HOP_MS);
    if (err)
        http_fail_as_told(request, err);
    return !err;
}

static void
set_draining(struct http_request *request, bool draining)
{
    struct node_drain drain = {http_param(request, "node"), draining};
    struct node_drained drained;
    struct node_now now;

    if (!ask_nodes(request, &node_drain_type, &drain, &drained))
        return;
    now = (struct node_now){drained.node, drained.state, drained.running};
    http_answer_type(request, 200, &node_now_type, &now);
}

static void
handle_drain(struct http_request *request)
{
    set_draining(request, true);
}

static void
handle_resume(struct http_request *request)
{
    set_draining(request, false);
}

static void
handle_forget(struct http_request *request)
{
    struct node_forget forget = {http_param(request, "node")};
    struct node_drained drained;
    struct node_forgotten forgotten;

    if (!ask_nodes(request, &node_forget_type, &forget, &drained))
        return;
    forgotten = (struct node_forgotten){drained.node, true};
    http_answer_type(request, 200, &node_forgotten_type, &forgotten);
}

/* ---- the table ---- */

static const struct http_route routes[] = {
    {"GET", "/api/v1/nodes", "processes:read", 1, NULL, 0, handle_list,
     "Where jobs run: the server itself, and the workers that attached themselves."},
    {"GET", "/api/v1/nodes/{node}", "processes:read", 1, NULL, 0, handle_show, "A worker: how it is."},
    {"POST", "/api/v1/nodes/{node}/drain", "processes:manage", 1, NULL, 0, handle_drain,
     "Give a worker no more jobs; those it has go on.  It stays so when the worker comes back."},
    {"POST", "/api/v1/nodes/{node}/resume", "processes:manage", 1, NULL, 0, handle_resume, "Give a worker jobs again."},
    {"DELETE", "/api/v1/nodes/{node}", "admin:*", 1, NULL, 0, handle_forget,
     "Forget a worker that is lost or has left; 409 while it is attached or may come back."},
    {NULL, NULL, NULL, 0, NULL, 0, NULL, NULL}};

static const struct muster_type *const answers[] = {&node_list_type, &node_shown_type, &node_now_type,
                                                    &node_forgotten_type, NULL};
static const struct http_bodies bodies[] = {{"answers", answers}, {NULL, NULL}};

const struct http_dialect http_nodes = {"nodes", routes, http_render_plain_error, bodies};
