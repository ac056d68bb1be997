/* SPDX-License-Identifier: MPL-2.0 */
/* hub: puts the house together and takes it down again.
 *
 * Up: configuration, store, orphans of a dead daemon, actors from the store outwards, gateway.  Down the other way
 * round, so that whatever an actor still sends finds its receiver.  The caller's thread; nothing here runs by itself.
 */
#include "api/muster.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/bus.h"
#include "api/connect.h"
#include "api/data_file.h"
#include "api/house.h"
#include "api/http/muster_http.h"
#include "api/library.h"

#define CALL_MS 30000 /* for an actor's answer */
#define LOOK_MS 100   /* how often a waiting stop looks whether it is to hurry */

enum { OWN_NAME_MAX = 64, OWN_CONCURRENCY_MAX = 1000 };

/* One elsewhere has a library only. */
struct muster_hub {
    struct house house;
    struct http_options http; /* the configuration's, with the settings over them */
    struct library *library;  /* for the program's own calls; NULL until it can take them */
    struct http_server *server;
    struct bus *zmq; /* NULL: off */
    char *new_key;   /* made at this start; NULL none */
    bool own_process;
    atomic_bool hurry; /* the drain is to park at once */
    bool drained;      /* it is done */
    bool started;      /* everything is up */
};

/* The actors that do not depend on teams, from the store outwards. */
static const struct {
    const char *address;
    const struct muster_actor_class *class;
} fixed_actors[] = {
    {MUSTER_STORE, &muster_store_class},     {MUSTER_LOG, &muster_log_class},
    {MUSTER_METRICS, &muster_metrics_class}, {MUSTER_WEBHOOK, &muster_webhook_class},
    {MUSTER_AUTH, &muster_auth_class},       {MUSTER_LIMIT, &muster_limit_class},
    {MUSTER_QUEUE, &muster_queue_class},     {MUSTER_NODES, &muster_nodes_class},
};

#define FIXED_ACTORS (sizeof fixed_actors / sizeof *fixed_actors)

const char *
muster_version(void)
{
    return MUSTER_VERSION;
}

/* ---- up ---- */

static muster_err
load_options(struct muster_hub *hub, const struct muster_hub_settings *settings, char *problem, size_t size)
{
    const struct house_settings load = {.config = settings->config,
                                        .data = settings->data,
                                        .teams = settings->teams,
                                        .team_count = settings->team_count};
    muster_err err = house_load(&hub->house, &load, problem, size);
    struct muster_arena *arena = hub->house.config.arena;
    const char **listen;

    if (err)
        return err;
    hub->http = *hub->house.options.http;
    hub->house.options.http = &hub->http;
    if (settings->listen) {
        listen = muster_arena_alloc(arena, sizeof *listen);
        *listen = muster_arena_str(arena, settings->listen, strlen(settings->listen));
        hub->http.listen = (struct muster_strs){listen, 1};
    }
    return MUSTER_OK;
}

static muster_err
start_actors(struct muster_hub *hub, char *problem, size_t size)
{
    const struct options *options = &hub->house.options;
    muster_err err = MUSTER_OK;
    size_t i;

    for (i = 0; i < FIXED_ACTORS && !err; i++)
        err = house_start_actor(&hub->house, fixed_actors[i].address, fixed_actors[i].class, NULL, problem, size);
    for (i = 0; i < options->teams.count && !err; i++)
        if (options->teams.items[i].driver != driver_kind_REMOTE) /* those have their agents on workers */
            err = house_start_agent(&hub->house, i, problem, size);
    return err;
}

static void
warn_of_workers(const struct muster_hub *hub)
{
    const struct options *options = &hub->house.options;
    size_t i;

    for (i = 0; i < options->teams.count && options->bus->commands[0] == '\0'; i++)
        if (options->teams.items[i].driver == driver_kind_REMOTE)
            muster_journal_say(hub->house.shared.journal, WARNING, "workers-shut-out",
                               "A team's jobs wait for workers, which cannot come: set bus.commands.",
                               MUSTER_SAY_TEXT("team", options->teams.items[i].name));
}

/* ---- the first key ---- */

static muster_err
make_first_key(struct muster_hub *hub, char *problem, size_t size)
{
    static const char *const scopes[] = {"admin:*"};
    struct auth_create create = {.name = "admin", .scopes = {scopes, 1}};
    struct muster_arena *arena = muster_arena_new();
    struct rate_limit unlimited = {.requests = 0, .window = 60000, .algorithm = limit_algorithm_SLIDING_WINDOW};
    struct auth_created created;
    struct muster_post *post;
    size_t keys = 0;
    muster_err err;

    create.rate_limit = &unlimited;
    err = muster_store_count(hub->house.shared.store, &key_type, NULL, NULL, &keys);
    if (!err && (keys > 0 || hub->house.options.auth->keys.count > 0))
        goto out;
    if (!err)
        err = muster_post_open(hub->house.shared.bus, NULL, 4, &post);
    if (err)
        goto out;
    err = house_send(post, MUSTER_AUTH, &auth_create_type, &create);
    if (!err)
        err = house_receive(post, &auth_created_type, arena, &created, CALL_MS);
    muster_post_close(&post);
    if (err)
        goto out;
    hub->new_key = muster_strdup(created.key);
    err = data_file_write(hub->house.options.data, DATA_FILE_ADMIN_KEY, created.key);
out:
    if (err)
        snprintf(problem, size, "no admin key could be made: %s", muster_err_text(err));
    muster_arena_free(&arena);
    return err;
}

static muster_err
start_all(struct muster_hub *hub, const struct muster_hub_settings *settings, char *problem, size_t size)
{
    muster_err err = house_open(&hub->house, settings->own_process, problem, size);

    if (err)
        return err;
    hub->library = library_new(&hub->house.shared);
    err = start_actors(hub, problem, size);
    if (!err)
        err = make_first_key(hub, problem, size);
    if (!err)
        err = bus_start(&hub->house.shared, &hub->zmq, problem, size);
    if (!err)
        err = http_server_start(&hub->house.shared, http_dialects, &hub->server, problem, size);
    if (!err && data_file_write(hub->house.options.data, "url", http_server_url(hub->server)))
        snprintf(problem, size, "%s/url cannot be written: %s", hub->house.options.data, strerror(errno)),
            err = MUSTER_STORAGE_ERROR;
    return err;
}

struct muster_hub *
muster_hub_start(const struct muster_hub_settings *settings, char *problem, size_t problem_size, bool *out_config_error)
{
    struct muster_hub *hub = muster_alloc(sizeof *hub);
    muster_err err = muster_crypto_init();
    bool config_error = false;
    char untold[1];

    if (problem == NULL || problem_size == 0) {
        problem = untold;
        problem_size = sizeof untold;
    }
    problem[0] = '\0';
    hub->own_process = settings->own_process;
    if (!err) {
        err = load_options(hub, settings, problem, problem_size);
        config_error = err != MUSTER_OK;
    }
    if (!err) { /* before anything is made on the disk */
        err = http_server_probe(&hub->http, problem, problem_size);
        if (!err)
            err = http_auth_probe(hub->house.options.auth, problem, problem_size);
        config_error = err == MUSTER_INVALID_REQUEST;
    }
    if (!err) {
        hub->house.shared.journal = muster_journal_new(settings->log_fd, hub->house.options.log);
        err = start_all(hub, settings, problem, problem_size);
    }
    if (out_config_error)
        *out_config_error = config_error;
    if (err) {
        muster_hub_stop(&hub);
        return NULL;
    }
    hub->started = true;
    muster_journal_say(hub->house.shared.journal, INFO, "hub-started", "Ready.",
                       MUSTER_SAY_TEXT("url", muster_hub_url(hub)), MUSTER_SAY_TEXT("data", hub->house.options.data),
                       MUSTER_SAY_TEXT("version", MUSTER_VERSION));
    warn_of_workers(hub);
    return hub;
}

struct muster_hub *
muster_hub_connect(const struct muster_address *address, char *problem, size_t problem_size)
{
    struct muster_hub *hub = muster_alloc(sizeof *hub);
    char text[512] = "";
    muster_err err = muster_crypto_init();

    hub->library = library_new(NULL);
    if (!err)
        err = connect_open(address, hub->library, text, sizeof text);
    (void)library_told(err, text, sizeof text);
    library_problem(problem, problem_size, "%s", text);
    if (err)
        muster_hub_stop(&hub);
    return hub;
}

/* ---- down ---- */

void
muster_hub_hurry(struct muster_hub *hub)
{
    atomic_store(&hub->hurry, true);
}

/* Wait for queue.drained until `until_ms`; with `patient` break off when the stop is to hurry. */
static muster_err
await_drained(struct muster_hub *hub, struct muster_post *post, int64_t until_ms, bool patient, int64_t *out_parked)
{
    struct muster_arena *arena = muster_arena_new();
    struct queue_drained drained = {0};
    muster_err err = MUSTER_TIMEOUT;

    while (err == MUSTER_TIMEOUT && muster_clock_ms() < until_ms && !(patient && atomic_load(&hub->hurry))) {
        int64_t left_ms = until_ms - muster_clock_ms();

        err = house_receive(post, &queue_drained_type, arena, &drained, left_ms < LOOK_MS ? left_ms : LOOK_MS);
        if (hub->own_process)
            muster_children_reap();
    }
    if (!err)
        *out_parked = drained.parked;
    muster_arena_free(&arena);
    return err;
}

/* Let running jobs end, then have the rest parked.  Whatever is left after that is killed with its agent, and recovered
 * at the next start like after a crash. */
static void
drain_queue(struct muster_hub *hub)
{
    struct queue_drain wait = {.now = false}, park = {.now = true};
    struct muster_post *post;
    int64_t parked = 0;
    muster_err err;

    if (muster_post_open(hub->house.shared.bus, NULL, 8, &post))
        return;
    err = house_send(post, MUSTER_QUEUE, &queue_drain_type, &wait);
    if (!err)
        err = await_drained(hub, post, muster_clock_ms() + hub->house.options.shutdown->grace, true, &parked);
    if (err && house_send(post, MUSTER_QUEUE, &queue_drain_type, &park) == MUSTER_OK)
        err = await_drained(hub, post, muster_clock_ms() + house_park_ms(&hub->house), false, &parked);
    muster_journal_say(hub->house.shared.journal, INFO, "hub-drained", "No job runs any more.",
                       MUSTER_SAY_NUMBER("parked", parked), MUSTER_SAY_TEXT("result", muster_err_code(err)));
    muster_post_close(&post);
}

void
muster_hub_drain(struct muster_hub *hub)
{
    if (hub->drained || hub->server == NULL) /* without a server it never took any work */
        return;
    http_server_drain(hub->server);
    bus_drain(hub->zmq);
    drain_queue(hub);
    hub->drained = true;
}

static void
stop_all(struct muster_hub *hub)
{
    char path[PATH_MAX];

    muster_hub_drain(hub);
    if (hub->server) {
        snprintf(path, sizeof path, "%s/url", hub->house.options.data);
        unlink(path);
    }
    if (hub->library)
        library_stop(hub->library);
    http_server_stop(&hub->server);
    bus_stop(&hub->zmq);
    house_stop(&hub->house);
    if (hub->started)
        muster_journal_say(hub->house.shared.journal, INFO, "hub-stopped", "Stopped.",
                           MUSTER_SAY_TEXT("data", hub->house.options.data));
}

void
muster_hub_stop(struct muster_hub **hub_p)
{
    struct muster_hub *hub = *hub_p;

    if (hub == NULL)
        return;
    if (hub->house.shared.journal)
        stop_all(hub);
    if (hub->library) {
        connect_close(hub->library);
        library_release(hub->library);
    }
    free(hub->new_key);
    house_free(&hub->house);
    free(hub);
    *hub_p = NULL;
}

/* ---- facts ---- */

struct library *
library_of(struct muster_hub *hub)
{
    return hub->library;
}

const char *
muster_hub_url(const struct muster_hub *hub)
{
    return hub->server ? http_server_url(hub->server) : connect_endpoint(hub->library);
}

const char *
muster_hub_new_key(const struct muster_hub *hub)
{
    return hub->new_key;
}

const char *
muster_hub_first_team(const struct muster_hub *hub)
{
    return hub->house.options.teams.count > 0 ? hub->house.options.teams.items[0].name : NULL;
}

const char *
muster_hub_data(const struct muster_hub *hub)
{
    return hub->house.options.data;
}

void
muster_hub_reap(struct muster_hub *hub)
{
    (void)hub;
    muster_children_reap();
}
