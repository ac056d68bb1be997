/* SPDX-License-Identifier: MPL-2.0 */
/* worker: puts a worker process together and takes it down again.
 *
 * Up: configuration, store, orphans of a former life, parcels (under the log's address), link (under the queue's),
 * agents.  Down the other way round, so that what agents still say is kept.  The caller's thread; nothing here runs by
 * itself. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/house.h"
#include "api/worker_address.h"
#include "api/worker_link.h"

#define DATA_DEFAULT "muster-worker"
#define LOOK_MS 100 /* how often a waiting stop reaps */
#define NAME_MAX_BYTES 64
#define NAME_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
#define LABELS_MAX 32

struct muster_worker {
    struct house house;
    struct worker_options options; /* the configuration's, with the settings over them */
    struct worker_link_spec spec;
    struct worker_link *link;
    size_t *offer;             /* indexes of the teams that it offers */
    struct worker_team *teams; /* those */
    size_t team_count;
    const char *shown_teams; /* for people */
    bool own_process;
    bool drained; /* muster_worker_drain is done */
    bool left;    /* and the hub knows */
    bool started;
};

/* ---- settings ---- */

static const char *
keep(struct muster_worker *worker, const char *text)
{
    return muster_arena_str(worker->house.config.arena, text, strlen(text));
}

/* The name of the host, as far as it is one of a worker. */
static const char *
host_name(struct muster_worker *worker)
{
    char host[256] = "", *at;

    (void)gethostname(host, sizeof host - 1);
    host[NAME_MAX_BYTES] = '\0';
    for (at = host; *at; at++)
        if (strchr(NAME_LETTERS, *at) == NULL)
            *at = '-';
    return keep(worker, host[0] ? host : "worker");
}

static muster_err
check_name(const char *name, char *problem, size_t size)
{
    if (name[strspn(name, NAME_LETTERS)] == '\0' && strlen(name) <= NAME_MAX_BYTES)
        return MUSTER_OK;
    snprintf(problem, size, "name: %.100s must be at most %d letters, digits, '.', '_' and '-'", name, NAME_MAX_BYTES);
    return MUSTER_INVALID_REQUEST;
}

/* "a=b,c=d" behind those of the configuration; the same name again replaces what it had. */
static muster_err
add_labels(struct muster_worker *worker, const char *text, char *problem, size_t size)
{
    struct muster_arena *arena = worker->house.config.arena;
    struct muster_pair *pairs = muster_arena_alloc(arena, LABELS_MAX * sizeof *pairs);
    size_t count = worker->options.labels.count, length, name, i;

    if (count > 0)
        memcpy(pairs, worker->options.labels.items, count * sizeof *pairs);
    for (; *text; text += length + (text[length] == ',')) {
        length = strcspn(text, ",");
        name = strcspn(text, "=,");
        for (i = 0; i < count && (strlen(pairs[i].name) != name || strncmp(pairs[i].name, text, name) != 0); i++)
            ;
        if (name == 0 || name >= length || i == LABELS_MAX) {
            snprintf(problem, size, "labels: %.100s must be NAME=VALUE, and %d of them at most", text, LABELS_MAX);
            return MUSTER_INVALID_REQUEST;
        }
        pairs[i].name = muster_arena_str(arena, text, name);
        pairs[i].value = muster_arena_str(arena, text + name + 1, length - name - 1);
        count += i == count;
    }
    worker->options.labels.items = pairs;
    worker->options.labels.count = count;
    return MUSTER_OK;
}

static void
list_teams(const struct options *options, struct muster_buf *out)
{
    size_t i;

    for (i = 0; i < options->teams.count; i++)
        if (options->teams.items[i].driver != driver_kind_REMOTE)
            muster_buf_printf(out, "%s%s", out->size ? ", " : "", options->teams.items[i].name);
    if (out->size == 0)
        muster_buf_str(out, "none");
}

static muster_err
offer_team(struct muster_worker *worker, const char *name, char *problem, size_t size)
{
    const struct options *options = &worker->house.options;
    struct muster_buf names = {0};
    size_t i, j;

    for (i = 0; i < options->teams.count && strcmp(options->teams.items[i].name, name) != 0; i++)
        ;
    if (i == options->teams.count || options->teams.items[i].driver == driver_kind_REMOTE) {
        list_teams(options, &names);
        snprintf(problem, size, "teams: %.64s is not a team of this worker's configuration, which has: %s", name,
                 names.data);
        muster_buf_free(&names);
        return MUSTER_INVALID_REQUEST;
    }
    for (j = 0; j < worker->team_count; j++)
        if (worker->offer[j] == i)
            return MUSTER_OK;
    worker->offer[worker->team_count] = i;
    worker->teams[worker->team_count++] =
        (struct worker_team){.name = options->teams.items[i].name, .capacity = options->teams.items[i].concurrency};
    return MUSTER_OK;
}

static void
show_teams(struct muster_worker *worker)
{
    struct muster_buf text = {0};
    size_t i;

    for (i = 0; i < worker->team_count; i++)
        muster_buf_printf(&text, "%s%s (%lld)", i ? ", " : "", worker->teams[i].name,
                          (long long)worker->teams[i].capacity);
    worker->shown_teams = keep(worker, text.data);
    muster_buf_free(&text);
}

static muster_err
offer_teams(struct muster_worker *worker, const struct muster_worker_settings *settings, char *problem, size_t size)
{
    const struct options *options = &worker->house.options;
    const struct muster_strs *configured = &worker->options.teams;
    size_t count = settings->offer ? settings->offer_count : configured->count, i;
    const char *const *names = settings->offer ? settings->offer : configured->items;
    muster_err err = MUSTER_OK;

    worker->offer = muster_arena_alloc(worker->house.config.arena, options->teams.count * sizeof *worker->offer);
    worker->teams = muster_arena_alloc(worker->house.config.arena, options->teams.count * sizeof *worker->teams);
    for (i = 0; i < count && !err; i++)
        err = offer_team(worker, names[i], problem, size);
    for (i = 0; i < options->teams.count && count == 0 && !err; i++)
        if (options->teams.items[i].driver != driver_kind_REMOTE)
            err = offer_team(worker, options->teams.items[i].name, problem, size);
    if (!err && worker->team_count == 0) {
        snprintf(problem, size, "there is no team to offer: give some in the configuration");
        err = MUSTER_INVALID_REQUEST;
    }
    if (!err)
        show_teams(worker);
    return err;
}

static void
set_text(struct muster_worker *worker, const char **option, const char *text)
{
    if (text && text[0])
        *option = keep(worker, text);
}

static muster_err
load_options(struct muster_worker *worker, const struct muster_worker_settings *settings, char *problem, size_t size)
{
    const struct house_settings load = {.config = settings->config,
                                        .data = settings->data,
                                        .teams = settings->teams,
                                        .team_count = settings->team_count,
                                        .data_default = DATA_DEFAULT};
    struct worker_options *options = &worker->options;
    muster_err err = house_load(&worker->house, &load, problem, size);

    if (err)
        return err;
    *options = *worker->house.options.worker;
    worker->house.options.worker = options;
    set_text(worker, &options->hub, settings->address.hub);
    set_text(worker, &options->hub_key, settings->address.hub_key);
    set_text(worker, &options->curve_key, settings->address.curve_key);
    set_text(worker, &options->api_key, settings->address.api_key);
    set_text(worker, &options->name, settings->name);
    if (options->name[0] == '\0')
        options->name = host_name(worker);
    err = check_name(options->name, problem, size);
    if (!err && settings->labels)
        err = add_labels(worker, settings->labels, problem, size);
    return err ? err : offer_teams(worker, settings, problem, size);
}

static muster_err
read_address(struct muster_worker *worker, char *problem, size_t size)
{
    const struct worker_options *options = &worker->options;
    const struct muster_address address = {
        .hub = options->hub, .hub_key = options->hub_key, .curve_key = options->curve_key, .api_key = options->api_key};
    const char *api_key;
    muster_err err =
        worker_address_read(&address, worker->house.shared.journal, &worker->spec.dial, &api_key, problem, size);

    if (!err && api_key)
        worker->spec.api_key = keep(worker, api_key);
    return err;
}

/* ---- up ---- */

static muster_err
start_all(struct muster_worker *worker, char *problem, size_t size)
{
    struct house *house = &worker->house;
    muster_err err = house_open(house, worker->own_process, problem, size);
    size_t i;

    if (err)
        return err;
    worker->spec.house = &house->shared;
    worker->spec.name = worker->options.name;
    worker->spec.teams = worker->teams;
    worker->spec.team_count = worker->team_count;
    worker->spec.park_ms = house_park_ms(house);
    err = house_start_actor(house, MUSTER_STORE, &muster_store_class, NULL, problem, size);
    if (!err)
        err = house_start_actor(house, MUSTER_LOG, &muster_parcels_class, NULL, problem, size);
    if (!err) {
        err = worker_link_start(&worker->spec, &worker->link);
        if (err)
            snprintf(problem, size, "the link could not be started: %s", muster_err_text(err));
    }
    for (i = 0; i < worker->team_count && !err; i++)
        err = house_start_agent(house, worker->offer[i], problem, size);
    return err;
}

struct muster_worker *
muster_worker_start(const struct muster_worker_settings *settings, char *problem, size_t problem_size,
                    bool *out_config_error)
{
    struct muster_worker *worker = muster_alloc(sizeof *worker);
    muster_err err = muster_crypto_init();
    bool config_error = false;
    char untold[1];

    if (problem == NULL || problem_size == 0) {
        problem = untold;
        problem_size = sizeof untold;
    }
    problem[0] = '\0';
    worker->own_process = settings->own_process;
    if (!err) {
        err = load_options(worker, settings, problem, problem_size);
        if (!err) {
            worker->house.shared.journal = muster_journal_new(settings->log_fd, worker->house.options.log);
            err = read_address(worker, problem, problem_size);
        }
        config_error = err != MUSTER_OK;
    }
    if (!err)
        err = start_all(worker, problem, problem_size);
    if (out_config_error)
        *out_config_error = config_error;
    if (err) {
        muster_worker_stop(&worker);
        return NULL;
    }
    worker->started = true;
    muster_journal_say(worker->house.shared.journal, INFO, "worker-started", "Ready.",
                       MUSTER_SAY_TEXT("name", worker->options.name), MUSTER_SAY_TEXT("hub", worker->options.hub),
                       MUSTER_SAY_TEXT("data", worker->house.options.data), MUSTER_SAY_TEXT("version", MUSTER_VERSION));
    return worker;
}

const char *
muster_worker_wait(struct muster_worker *worker, int64_t timeout_ms, char *problem, size_t problem_size)
{
    muster_err err = worker_link_wait(worker->link, timeout_ms, problem, problem_size);

    return err ? muster_err_code(err) : NULL;
}

/* ---- down ---- */

bool
muster_worker_drain(struct muster_worker *worker)
{
    bool left = false;

    if (worker->drained)
        return worker->left;
    worker_link_drain(worker->link);
    while (worker_link_drained(worker->link, LOOK_MS, &left))
        if (worker->own_process)
            muster_children_reap();
    worker->drained = true;
    worker->left = left;
    muster_journal_say(worker->house.shared.journal, INFO, "worker-drained",
                       left ? "The hub knows that this worker is gone."
                            : "The hub could not be told; what it does not know stays in the data folder.",
                       MUSTER_SAY_TEXT("hub", worker->options.hub));
    return left;
}

void
muster_worker_hurry(struct muster_worker *worker)
{
    worker_link_hurry(worker->link);
}

void
muster_worker_reap(struct muster_worker *worker)
{
    (void)worker;
    muster_children_reap();
}

/* The agents go before the link, and the parcels and the store after it. */
static void
stop_all(struct muster_worker *worker)
{
    enum { STORE_AND_PARCELS = 2 };
    struct house *house = &worker->house;

    if (worker->started && !worker->drained && worker_link_matters(worker->link))
        (void)muster_worker_drain(worker);
    while (house->actor_count > STORE_AND_PARCELS)
        muster_actor_stop(&house->actors[--house->actor_count]);
    worker_link_stop(&worker->link);
    house_stop(house);
    if (worker->started)
        muster_journal_say(house->shared.journal, INFO, "worker-stopped", "Stopped.",
                           MUSTER_SAY_TEXT("data", house->options.data));
}

void
muster_worker_stop(struct muster_worker **worker_p)
{
    struct muster_worker *worker = *worker_p;

    if (worker == NULL)
        return;
    if (worker->house.shared.journal)
        stop_all(worker);
    explicit_bzero(&worker->spec.dial, sizeof worker->spec.dial);
    house_free(&worker->house);
    free(worker);
    *worker_p = NULL;
}

/* ---- facts ---- */

const char *
muster_worker_name(const struct muster_worker *worker)
{
    return worker->options.name;
}

const char *
muster_worker_hub(const struct muster_worker *worker)
{
    return worker->options.hub;
}

const char *
muster_worker_teams(const struct muster_worker *worker)
{
    return worker->shown_teams;
}

const char *
muster_worker_data(const struct muster_worker *worker)
{
    return worker->house.options.data;
}
