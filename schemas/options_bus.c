/* SPDX-License-Identifier: MPL-2.0 */
/* What no single row can say of ZeroMQ endpoints and of a worker.  One thread at a time.  What can fail: any of the
 * rules. */
#include <stdlib.h>
#include <string.h>

#include "schemas/options.h"

/* ---- ZeroMQ ---- */

enum { SOCKET_PATH = 107 }; /* of a UNIX socket address, without the NUL */

bool
muster_endpoint_is_local(const char *endpoint)
{
    struct muster_listen listen;

    return strncmp(endpoint, "tcp://", 6) != 0 || strncmp(endpoint, "tcp://localhost:", 16) == 0 ||
           (muster_listen_parse(endpoint + 6, &listen, NULL) == MUSTER_OK && listen.address >> 24 == 127);
}

static muster_err
check_endpoint(const struct options_reader *reader, const char *directory, const char *name, const char **endpoint)
{
    struct rows_path up = OPTIONS_MEMBER(NULL, "bus"), at = OPTIONS_MEMBER(&up, name);
    struct muster_listen listen;

    if ((*endpoint)[0] == '\0')
        return MUSTER_OK;
    if (strncmp(*endpoint, "ipc://", 6) == 0 && (*endpoint)[6] != '\0' && (*endpoint)[6] != '@') {
        const char *path = options_absolute(reader->arena, directory, *endpoint + 6);

        if (strlen(path) > SOCKET_PATH)
            return options_refuse(reader, &at, "must have a path of at most %d bytes", SOCKET_PATH);
        *endpoint = muster_arena_printf(reader->arena, "ipc://%s", path);
        return MUSTER_OK;
    }
    if (strncmp(*endpoint, "tcp://", 6) != 0 || strchr(*endpoint + 6, ':') == NULL ||
        muster_listen_parse(*endpoint + 6, &listen, NULL) || listen.port == 0)
        return options_refuse(reader, &at, "must be tcp://ADDRESS:PORT with an IPv4 address or *, or ipc://PATH");
    return MUSTER_OK;
}

muster_err
options_check_bus(const struct options_reader *reader, const char *directory, struct options *options)
{
    struct rows_path up = OPTIONS_MEMBER(NULL, "bus"), events = OPTIONS_MEMBER(&up, "events");
    struct bus_options *bus = muster_arena_alloc(reader->arena, sizeof *bus);
    muster_err err;

    *bus = *options->bus;
    options->bus = bus;
    err = check_endpoint(reader, directory, "commands", &bus->commands);
    if (!err)
        err = check_endpoint(reader, directory, "events", &bus->events);
    if (!err && bus->events[0] && strcmp(bus->events, bus->commands) == 0)
        err = options_refuse(reader, &events, "must not be that of bus.commands");
    if (!err && bus->events[0] && muster_endpoint_is_local(bus->events) && !bus->curve && !bus->open_events)
        err = options_refuse(reader, &events,
                             "has no credential without CURVE: set bus.curve, or bus.open_events to let everybody on "
                             "this machine read all events");
    return err;
}

/* ---- a worker ---- */

/* Of a host's name or IPv4 address, which the resolver looks at. */
static bool
is_host(const char *text, size_t size)
{
    return size > 0 && size < 256 && strspn(text, OPTIONS_LETTERS ".-_") >= size;
}

const char *
muster_hub_endpoint_problem(const char *endpoint)
{
    static const char shape[] = "must be tcp://HOST:PORT or ipc://PATH";
    const char *colon;

    if (strncmp(endpoint, "ipc://", 6) == 0) {
        if (endpoint[6] == '\0' || endpoint[6] == '@')
            return shape;
        return strlen(endpoint + 6) > SOCKET_PATH ? "must have a path of at most 107 bytes" : NULL;
    }
    colon = strrchr(endpoint, ':');
    if (strncmp(endpoint, "tcp://", 6) != 0 || colon < endpoint + 6 ||
        !is_host(endpoint + 6, (size_t)(colon - endpoint - 6)) || !options_is_port(colon + 1) || atoi(colon + 1) == 0)
        return shape;
    return NULL;
}

static muster_err
check_offer(const struct options_reader *reader, const struct rows_path *worker, const struct options *options)
{
    struct rows_path up = OPTIONS_MEMBER(worker, "teams");
    const struct muster_strs *offer = &options->worker->teams;
    const struct team_options *team;
    size_t i;

    for (i = 0; i < offer->count; i++) {
        struct rows_path at = OPTIONS_ITEM(&up, i);

        team = muster_team_options(options, offer->items[i]);
        if (team == NULL)
            return options_refuse(reader, &at, "is not one of the teams");
        if (team->driver == driver_kind_REMOTE)
            return options_refuse(reader, &at, "is a team with the driver remote, so it is not of this process");
    }
    return MUSTER_OK;
}

/* A key itself is text that cannot be taken for the name of a file. */
static const char *
key_path(struct muster_arena *arena, const char *directory, const char *text)
{
    enum { KEY_TEXT = 40 };

    if (text[0] == '\0' ||
        (strlen(text) == KEY_TEXT && strspn(text, OPTIONS_LETTERS ".-:+=^!/*?&<>()[]{}@%$#") == KEY_TEXT))
        return text;
    return options_absolute(arena, directory, text);
}

muster_err
options_check_worker(const struct options_reader *reader, const char *directory, struct options *options)
{
    struct rows_path up = OPTIONS_MEMBER(NULL, "worker"), name = OPTIONS_MEMBER(&up, "name"),
                     hub = OPTIONS_MEMBER(&up, "hub"), longest = OPTIONS_MEMBER(&up, "max_reconnect");
    struct worker_options *worker = muster_arena_alloc(reader->arena, sizeof *worker);
    const char *problem;

    *worker = *options->worker;
    options->worker = worker;
    if (strncmp(worker->hub, "ipc://", 6) == 0 && worker->hub[6] != '\0' && worker->hub[6] != '@')
        worker->hub =
            muster_arena_printf(reader->arena, "ipc://%s", options_absolute(reader->arena, directory, worker->hub + 6));
    problem = worker->hub[0] ? muster_hub_endpoint_problem(worker->hub) : NULL;
    if (problem)
        return options_refuse(reader, &hub, "%s", problem);
    if (worker->name[strspn(worker->name, OPTIONS_LETTERS "._-")] != '\0')
        return options_refuse(reader, &name, "must have letters, digits, '.', '_' and '-' only");
    if (worker->max_reconnect < worker->reconnect)
        return options_refuse(reader, &longest, "must not be shorter than worker.reconnect");
    worker->hub_key = key_path(reader->arena, directory, worker->hub_key);
    if (worker->curve_key[0])
        worker->curve_key = options_absolute(reader->arena, directory, worker->curve_key);
    return check_offer(reader, &up, options);
}
