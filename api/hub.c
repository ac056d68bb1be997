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

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "actors/muster_own.h"
#include "api/bus.h"
#include "api/data_file.h"
#include "api/http/muster_http.h"
#include "api/library.h"
#include "schemas/muster_options.h"

#define ORPHANS_MS 10000 /* for the end of what a dead daemon's agents left running */
#define CALL_MS 30000    /* for an actor's answer */
#define PARK_STEPS 8     /* stop_timeouts that the slowest agent may take to park */
#define LOOK_MS 100      /* how often a waiting stop looks whether it is to hurry */

enum { OWN_NAME_MAX = 64, OWN_CONCURRENCY_MAX = 1000 };

struct muster_hub {
    struct muster_config config;
    struct options options;   /* the configuration's, with the settings over them */
    struct http_options http; /* likewise */
    struct muster_house house;
    struct muster_actor **actors; /* in the order of their start */
    size_t actor_count;
    struct muster_own_team *own; /* one for each team of the options; only those of the program are filled */
    struct library *library;     /* for the program's own calls; NULL until it can take them */
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
    {MUSTER_STORE, &muster_store_class},     {MUSTER_LOG, &muster_log_class},   {MUSTER_METRICS, &muster_metrics_class},
    {MUSTER_WEBHOOK, &muster_webhook_class}, {MUSTER_AUTH, &muster_auth_class}, {MUSTER_LIMIT, &muster_limit_class},
    {MUSTER_QUEUE, &muster_queue_class},
};

#define FIXED_ACTORS (sizeof fixed_actors / sizeof *fixed_actors)

const char *
muster_version(void)
{
    return MUSTER_VERSION;
}

/* ---- up ---- */

static const struct muster_team *
find_own(const struct muster_hub_settings *settings, const char *name)
{
    size_t i;

    for (i = 0; i < settings->team_count; i++)
        if (strcmp(settings->teams[i].name, name) == 0)
            return &settings->teams[i];
    return NULL;
}

static muster_err
check_own(const struct muster_hub_settings *settings, char *problem, size_t size)
{
    const struct muster_team *team;
    size_t i;

    if (settings->teams == NULL && settings->team_count > 0) {
        snprintf(problem, size, "teams is NULL, though team_count is %zu", settings->team_count);
        return MUSTER_INVALID_REQUEST;
    }
    for (i = 0; i < settings->team_count; i++) {
        team = &settings->teams[i];
        if (team->name == NULL || *team->name == '\0' || strlen(team->name) > OWN_NAME_MAX)
            snprintf(problem, size, "teams[%zu].name must have 1 to %d characters", i, OWN_NAME_MAX);
        else if (find_own(settings, team->name) != team)
            snprintf(problem, size, "teams[%zu].name is that of an earlier team, %s", i, team->name);
        else if (team->begin == NULL)
            snprintf(problem, size, "teams[%zu].begin is required", i);
        else if (team->concurrency < 0 || team->concurrency > OWN_CONCURRENCY_MAX)
            snprintf(problem, size, "teams[%zu].concurrency must be at most %d", i, OWN_CONCURRENCY_MAX);
        else
            continue;
        return MUSTER_INVALID_REQUEST;
    }
    return MUSTER_OK;
}

/* What the program says of its teams stands over the configuration. */
static void
adopt_own(struct muster_hub *hub, const struct muster_hub_settings *settings)
{
    size_t count = hub->options.teams.count, i;
    struct team_options *teams = muster_arena_alloc(hub->config.arena, count * sizeof *teams);
    const struct muster_team *own;

    hub->own = muster_arena_alloc(hub->config.arena, count * sizeof *hub->own);
    for (i = 0; i < count; i++) {
        teams[i] = hub->options.teams.items[i];
        own = teams[i].driver == driver_kind_ACTOR ? find_own(settings, teams[i].name) : NULL;
        if (own == NULL)
            continue;
        if (own->concurrency > 0)
            teams[i].concurrency = own->concurrency;
        hub->own[i] =
            (struct muster_own_team){.options = teams[i], .begin = own->begin, .cancel = own->cancel, .arg = own->arg};
    }
    hub->options.teams.items = teams;
}

static muster_err
load_config(struct muster_hub *hub, const struct muster_hub_settings *settings, char *problem, size_t size)
{
    struct muster_options_error error = {""};
    const char **names = muster_alloc((settings->team_count + 1) * sizeof *names);
    struct muster_strs own = {names, settings->team_count};
    muster_err err;
    size_t i;

    for (i = 0; i < own.count; i++)
        names[i] = settings->teams[i].name;
    err = muster_config_load_own(settings->config, &own, &hub->config, &error);
    if (err)
        snprintf(problem, size, "%s", error.text);
    free(names);
    return err;
}

static muster_err
load_options(struct muster_hub *hub, const struct muster_hub_settings *settings, char *problem, size_t size)
{
    const char **listen;
    char cwd[PATH_MAX];
    muster_err err = check_own(settings, problem, size);

    if (!err)
        err = load_config(hub, settings, problem, size);
    if (err)
        return err;
    hub->options = *hub->config.options;
    adopt_own(hub, settings);
    hub->http = *hub->options.http;
    hub->options.http = &hub->http;
    if (settings->data && settings->data[0] != '/' && getcwd(cwd, sizeof cwd))
        hub->options.data = muster_arena_printf(hub->config.arena, "%s/%s", cwd, settings->data);
    else if (settings->data)
        hub->options.data = muster_arena_str(hub->config.arena, settings->data, strlen(settings->data));
    if (settings->listen) {
        listen = muster_arena_alloc(hub->config.arena, sizeof *listen);
        *listen = muster_arena_str(hub->config.arena, settings->listen, strlen(settings->listen));
        hub->http.listen = (struct muster_strs){listen, 1};
    }
    return MUSTER_OK;
}

static void
end_orphans(struct muster_hub *hub)
{
    char mark[64];
    size_t ended;

    snprintf(mark, sizeof mark, "%s.", muster_store_mark(hub->house.store));
    ended = muster_children_end(mark, ORPHANS_MS);
    if (ended > 0)
        muster_journal_say(hub->house.journal, WARNING, "orphans-ended",
                           "Processes that a former daemon's agents left running were ended.",
                           MUSTER_SAY_NUMBER("processes", (int64_t)ended));
}

static muster_err
start_actor(struct muster_hub *hub, const char *address, const struct muster_actor_class *class, const void *config,
            char *problem, size_t size)
{
    muster_err err = muster_actor_start(&hub->house, address, class, config, &hub->actors[hub->actor_count]);

    if (err)
        snprintf(problem, size, "%s could not be started: %s", address, muster_err_text(err));
    else
        hub->actor_count++;
    return err;
}

static muster_err
start_actors(struct muster_hub *hub, char *problem, size_t size)
{
    const struct options *options = &hub->options;
    muster_err err = MUSTER_OK;
    char address[128];
    size_t i;

    hub->actors = muster_alloc((FIXED_ACTORS + options->teams.count) * sizeof(struct muster_actor *));
    for (i = 0; i < FIXED_ACTORS && !err; i++)
        err = start_actor(hub, fixed_actors[i].address, fixed_actors[i].class, NULL, problem, size);
    for (i = 0; i < options->teams.count && !err; i++) {
        snprintf(address, sizeof address, MUSTER_AGENT_PREFIX "%s", options->teams.items[i].name);
        hub->own[i].bus = hub->house.bus;
        err = start_actor(hub, address, &muster_agent_class,
                          hub->own[i].begin ? (const void *)&hub->own[i] : &options->teams.items[i], problem, size);
    }
    return err;
}

/* ---- asking an actor ---- */

static muster_err
send_message(struct muster_post *post, const char *to, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.reply_to = muster_post_address(post), .trace = "", .principal.name = ""};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, type, body, &frame);
    return muster_post_send(post, to, &frame);
}

static muster_err
receive_answer(struct muster_post *post, const struct muster_type *type, struct muster_arena *arena, void *out,
               int64_t timeout_ms)
{
    struct muster_envelope envelope;
    struct muster_frame frame;
    struct failed failed;
    muster_err err = muster_post_receive(post, timeout_ms, -1, &frame);

    if (err)
        return err;
    err = muster_envelope_unpack(frame.data, frame.size, arena, &envelope);
    if (!err && strcmp(envelope.type, type->wire) == 0)
        err = muster_unpack(type, envelope.body.data, envelope.body.size, arena, out, NULL);
    else if (!err &&
             muster_unpack(&failed_type, envelope.body.data, envelope.body.size, arena, &failed, NULL) == MUSTER_OK)
        err = muster_err_from_code(failed.code);
    muster_frame_free(&frame);
    return err;
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
    err = muster_store_count(hub->house.store, &key_type, NULL, NULL, &keys);
    if (!err && (keys > 0 || hub->options.auth->keys.count > 0))
        goto out;
    if (!err)
        err = muster_post_open(hub->house.bus, NULL, 4, &post);
    if (err)
        goto out;
    err = send_message(post, MUSTER_AUTH, &auth_create_type, &create);
    if (!err)
        err = receive_answer(post, &auth_created_type, arena, &created, CALL_MS);
    muster_post_close(&post);
    if (err)
        goto out;
    hub->new_key = muster_strdup(created.key);
    err = data_file_write(hub->options.data, DATA_FILE_ADMIN_KEY, created.key);
out:
    if (err)
        snprintf(problem, size, "no admin key could be made: %s", muster_err_text(err));
    muster_arena_free(&arena);
    return err;
}

static muster_err
start_all(struct muster_hub *hub, const struct muster_hub_settings *settings, char *problem, size_t size)
{
    muster_err err = muster_store_open(hub->options.data, hub->options.store, &hub->house.store, problem, size);

    if (err)
        return err;
    if (settings->own_process)
        muster_children_adopt();
    end_orphans(hub);
    hub->house.bus = muster_bus_new();
    hub->library = library_new(&hub->house);
    err = start_actors(hub, problem, size);
    if (!err)
        err = make_first_key(hub, problem, size);
    if (!err)
        err = bus_start(&hub->house, &hub->zmq, problem, size);
    if (!err)
        err = http_server_start(&hub->house, http_dialects, &hub->server, problem, size);
    if (!err && data_file_write(hub->options.data, "url", http_server_url(hub->server)))
        snprintf(problem, size, "%s/url cannot be written: %s", hub->options.data, strerror(errno)),
            err = MUSTER_STORAGE_ERROR;
    return err;
}

struct muster_hub *
muster_hub_start(const struct muster_hub_settings *settings, char *problem, size_t problem_size, bool *out_config_error)
{
    struct muster_hub *hub = muster_alloc(sizeof *hub);
    muster_err err = muster_crypto_init();
    bool config_error = false;

    problem[0] = '\0';
    hub->own_process = settings->own_process;
    if (!err) {
        err = load_options(hub, settings, problem, problem_size);
        config_error = err != MUSTER_OK;
    }
    if (!err) { /* before anything is made on the disk */
        err = http_server_probe(&hub->http, problem, problem_size);
        if (!err)
            err = http_auth_probe(hub->options.auth, problem, problem_size);
        config_error = err == MUSTER_INVALID_REQUEST;
    }
    if (!err) {
        hub->house.options = &hub->options;
        hub->house.journal = muster_journal_new(settings->log_fd, hub->options.log);
        err = start_all(hub, settings, problem, problem_size);
    }
    if (out_config_error)
        *out_config_error = config_error;
    if (err) {
        muster_hub_stop(&hub);
        return NULL;
    }
    hub->started = true;
    muster_journal_say(hub->house.journal, INFO, "hub-started", "Ready.", MUSTER_SAY_TEXT("url", muster_hub_url(hub)),
                       MUSTER_SAY_TEXT("data", hub->options.data), MUSTER_SAY_TEXT("version", MUSTER_VERSION));
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

        err = receive_answer(post, &queue_drained_type, arena, &drained, left_ms < LOOK_MS ? left_ms : LOOK_MS);
        if (hub->own_process)
            muster_children_reap();
    }
    if (!err)
        *out_parked = drained.parked;
    muster_arena_free(&arena);
    return err;
}

static int64_t
slowest_stop_ms(const struct muster_hub *hub)
{
    int64_t slowest_ms = 1000;
    size_t i;

    for (i = 0; i < hub->options.teams.count; i++)
        if (hub->options.teams.items[i].stop_timeout > slowest_ms)
            slowest_ms = hub->options.teams.items[i].stop_timeout;
    return slowest_ms * PARK_STEPS;
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

    if (muster_post_open(hub->house.bus, NULL, 8, &post))
        return;
    err = send_message(post, MUSTER_QUEUE, &queue_drain_type, &wait);
    if (!err)
        err = await_drained(hub, post, muster_clock_ms() + hub->options.shutdown->grace, true, &parked);
    if (err && send_message(post, MUSTER_QUEUE, &queue_drain_type, &park) == MUSTER_OK)
        err = await_drained(hub, post, muster_clock_ms() + slowest_stop_ms(hub), false, &parked);
    muster_journal_say(hub->house.journal, INFO, "hub-drained", "No job runs any more.",
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
        snprintf(path, sizeof path, "%s/url", hub->options.data);
        unlink(path);
    }
    if (hub->library)
        library_stop(hub->library);
    http_server_stop(&hub->server);
    bus_stop(&hub->zmq);
    while (hub->actor_count > 0)
        muster_actor_stop(&hub->actors[--hub->actor_count]);
    muster_bus_free(&hub->house.bus);
    muster_store_close(&hub->house.store);
    if (hub->started)
        muster_journal_say(hub->house.journal, INFO, "hub-stopped", "Stopped.",
                           MUSTER_SAY_TEXT("data", hub->options.data));
}

void
muster_hub_stop(struct muster_hub **hub_p)
{
    struct muster_hub *hub = *hub_p;

    if (hub == NULL)
        return;
    if (hub->house.journal)
        stop_all(hub);
    if (hub->library)
        library_release(hub->library);
    free(hub->actors);
    free(hub->new_key);
    muster_journal_free(&hub->house.journal);
    muster_config_free(&hub->config);
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
    return http_server_url(hub->server);
}

const char *
muster_hub_new_key(const struct muster_hub *hub)
{
    return hub->new_key;
}

const char *
muster_hub_first_team(const struct muster_hub *hub)
{
    return hub->options.teams.items[0].name;
}

const char *
muster_hub_data(const struct muster_hub *hub)
{
    return hub->options.data;
}

void
muster_hub_reap(struct muster_hub *hub)
{
    (void)hub;
    muster_children_reap();
}
