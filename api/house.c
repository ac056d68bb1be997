/* SPDX-License-Identifier: MPL-2.0 */
/* house: what a hub and a worker are both made of.  Of the thread that starts and stops it.  What can fail: the
 * configuration, the store, the start of an actor. */
#include "api/house.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ORPHANS_MS 10000 /* for the end of what a dead daemon's agents left running */
#define PARK_STEPS 8     /* stop_timeouts that the slowest agent may take to park */

enum { OWN_NAME_MAX = 64, OWN_CONCURRENCY_MAX = 1000 };

/* ---- the program's own teams ---- */

static const struct muster_team *
find_own(const struct house_settings *settings, const char *name)
{
    size_t i;

    for (i = 0; i < settings->team_count; i++)
        if (strcmp(settings->teams[i].name, name) == 0)
            return &settings->teams[i];
    return NULL;
}

static muster_err
check_own(const struct house_settings *settings, char *problem, size_t size)
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
adopt_own(struct house *house, const struct house_settings *settings)
{
    size_t count = house->options.teams.count, i;
    struct team_options *teams = muster_arena_alloc(house->config.arena, count * sizeof *teams);
    const struct muster_team *own;

    house->own = muster_arena_alloc(house->config.arena, count * sizeof *house->own);
    for (i = 0; i < count; i++) {
        teams[i] = house->options.teams.items[i];
        own = teams[i].driver == driver_kind_ACTOR ? find_own(settings, teams[i].name) : NULL;
        if (own == NULL)
            continue;
        if (own->concurrency > 0)
            teams[i].concurrency = own->concurrency;
        house->own[i] =
            (struct muster_own_team){.options = teams[i], .begin = own->begin, .cancel = own->cancel, .arg = own->arg};
    }
    house->options.teams.items = teams;
}

/* ---- configuration ---- */

static muster_err
load_config(struct house *house, const struct house_settings *settings, char *problem, size_t size)
{
    struct muster_options_error error = {""};
    const char **names = muster_alloc((settings->team_count + 1) * sizeof *names);
    struct muster_strs own = {names, settings->team_count};
    muster_err err;
    size_t i;

    for (i = 0; i < own.count; i++)
        names[i] = settings->teams[i].name;
    err = muster_config_load_own(settings->config, &own, &house->config, &error);
    if (err)
        snprintf(problem, size, "%s", error.text);
    free(names);
    return err;
}

static void
set_data(struct house *house, const struct house_settings *settings)
{
    struct muster_arena *arena = house->config.arena;
    const char *data = house->options.data, *slash;
    char cwd[PATH_MAX];

    if (settings->data && settings->data[0] != '/' && getcwd(cwd, sizeof cwd)) {
        house->options.data = muster_arena_printf(arena, "%s/%s", cwd, settings->data);
    } else if (settings->data) {
        house->options.data = muster_arena_str(arena, settings->data, strlen(settings->data));
    } else if (settings->data_default && !house->config.data_given) {
        slash = strrchr(data, '/');
        house->options.data = muster_arena_printf(arena, "%.*s/%s", (int)(slash - data), data, settings->data_default);
    }
}

muster_err
house_load(struct house *house, const struct house_settings *settings, char *problem, size_t problem_size)
{
    muster_err err = check_own(settings, problem, problem_size);

    if (!err)
        err = load_config(house, settings, problem, problem_size);
    if (err)
        return err;
    house->options = *house->config.options;
    house->shared.options = &house->options;
    adopt_own(house, settings);
    set_data(house, settings);
    return MUSTER_OK;
}

/* ---- up ---- */

static void
end_orphans(struct house *house)
{
    char mark[64];
    size_t ended;

    snprintf(mark, sizeof mark, "%s.", muster_store_mark(house->shared.store));
    ended = muster_children_end(mark, ORPHANS_MS);
    if (ended > 0)
        muster_journal_say(house->shared.journal, WARNING, "orphans-ended",
                           "Processes that a former daemon's agents left running were ended.",
                           MUSTER_SAY_NUMBER("processes", (int64_t)ended));
}

muster_err
house_open(struct house *house, bool own_process, char *problem, size_t problem_size)
{
    muster_err err =
        muster_store_open(house->options.data, house->options.store, &house->shared.store, problem, problem_size);

    if (err)
        return err;
    if (own_process)
        muster_children_adopt();
    end_orphans(house);
    house->shared.bus = muster_bus_new();
    return MUSTER_OK;
}

muster_err
house_start_actor(struct house *house, const char *address, const struct muster_actor_class *class, const void *config,
                  char *problem, size_t problem_size)
{
    struct muster_actor *actor;
    muster_err err = muster_actor_start(&house->shared, address, class, config, &actor);

    if (err) {
        snprintf(problem, problem_size, "%s could not be started: %s", address, muster_err_text(err));
        return err;
    }
    house->actors = muster_realloc(house->actors, (house->actor_count + 1) * sizeof(struct muster_actor *));
    house->actors[house->actor_count++] = actor;
    return MUSTER_OK;
}

muster_err
house_start_agent(struct house *house, size_t team, char *problem, size_t problem_size)
{
    const struct team_options *options = &house->options.teams.items[team];
    struct muster_own_team *own = &house->own[team];
    char address[128];

    snprintf(address, sizeof address, MUSTER_AGENT_PREFIX "%s", options->name);
    own->bus = house->shared.bus;
    return house_start_actor(house, address, &muster_agent_class, own->begin ? (const void *)own : options, problem,
                             problem_size);
}

/* ---- down ---- */

int64_t
house_park_ms(const struct house *house)
{
    int64_t slowest_ms = 1000;
    size_t i;

    for (i = 0; i < house->options.teams.count; i++)
        if (house->options.teams.items[i].stop_timeout > slowest_ms)
            slowest_ms = house->options.teams.items[i].stop_timeout;
    return slowest_ms * PARK_STEPS;
}

void
house_stop(struct house *house)
{
    while (house->actor_count > 0)
        muster_actor_stop(&house->actors[--house->actor_count]);
    if (house->shared.bus)
        muster_bus_free(&house->shared.bus);
    if (house->shared.store)
        muster_store_close(&house->shared.store);
}

void
house_free(struct house *house)
{
    free(house->actors);
    muster_journal_free(&house->shared.journal);
    muster_config_free(&house->config);
}

/* ---- asking an actor ---- */

muster_err
house_send(struct muster_post *post, const char *to, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.reply_to = muster_post_address(post), .trace = "", .principal.name = ""};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, type, body, &frame);
    return muster_post_send(post, to, &frame);
}

muster_err
house_receive(struct muster_post *post, const struct muster_type *type, struct muster_arena *arena, void *out,
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
    else if (!err)
        err = muster_unpack(&failed_type, envelope.body.data, envelope.body.size, arena, &failed, NULL)
                  ? MUSTER_INTERNAL_ERROR
                  : muster_err_from_code(failed.code);
    muster_frame_free(&frame);
    return err;
}
