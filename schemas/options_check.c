/* SPDX-License-Identifier: MPL-2.0 */
/* What no single row of the options can say: paths, defaults that depend on other values, rules over several values;
 * here of the HTTP gateway and of teams, in options_auth.c and options_bus.c of the rest.  One thread at a time.  What
 * can fail: any of the rules. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schemas/options.h"

/* ---- paths ---- */

const char *
options_absolute(struct muster_arena *arena, const char *directory, const char *path)
{
    if (path[0] == '/')
        return path;
    while (strncmp(path, "./", 2) == 0)
        path += 2 + strspn(path + 2, "/");
    if (*path == '\0' || strcmp(path, ".") == 0)
        return directory;
    return muster_arena_printf(arena, "%s/%s", strcmp(directory, "/") == 0 ? "" : directory, path);
}

static const char *
base_directory(struct muster_arena *arena, const char *directory)
{
    char *current = getcwd(NULL, 0);
    const char *base = options_absolute(arena, current ? current : "/", directory ? directory : ".");

    base = muster_arena_str(arena, base, strlen(base));
    free(current);
    return base;
}

/* ---- http ---- */

bool
options_is_port(const char *text)
{
    return *text != '\0' && strlen(text) <= 5 && text[strspn(text, "0123456789")] == '\0' && atoi(text) <= 65535;
}

/* The HTTP library's way to say TLS is an s behind the port. */
static bool
is_tls(const char *text)
{
    size_t size = strlen(text);

    return size >= 2 && text[size - 1] == 's' && text[size - 2] >= '0' && text[size - 2] <= '9';
}

static muster_err
bad_listen(const char **out_problem, const char *problem)
{
    if (out_problem)
        *out_problem = problem;
    return MUSTER_INVALID_REQUEST;
}

muster_err
muster_listen_parse(const char *text, struct muster_listen *out_listen, const char **out_problem)
{
    static const char shape[] = "must be PORT or ADDRESS:PORT with an IPv4 address or *";
    const char *colon = strrchr(text, ':'), *port = colon ? colon + 1 : text;
    size_t size = colon ? (size_t)(colon - text) : 0;
    struct in_addr address = {htonl(INADDR_LOOPBACK)};
    char host[INET_ADDRSTRLEN] = "";

    if (is_tls(text))
        return bad_listen(out_problem, "TLS is not served here; put a reverse proxy in front and give its address "
                                       "without the s");
    if (!options_is_port(port) || size >= sizeof host)
        return bad_listen(out_problem, shape);
    memcpy(host, text, size);
    if (colon && strcmp(host, "*") == 0)
        address.s_addr = htonl(INADDR_ANY);
    else if (colon && inet_pton(AF_INET, host, &address) != 1)
        return bad_listen(out_problem, shape);
    *out_listen = (struct muster_listen){ntohl(address.s_addr), atoi(port)};
    return MUSTER_OK;
}

bool
muster_listen_overlaps(const struct muster_listen *one, const struct muster_listen *other)
{
    if (one->port == 0 || one->port != other->port)
        return false;
    return one->address == other->address || one->address == INADDR_ANY || other->address == INADDR_ANY;
}

static muster_err
check_listen(const struct options_reader *reader, const struct rows_path *http, const struct muster_strs *listen)
{
    struct muster_listen *seen = muster_arena_alloc(reader->arena, (listen->count + 1) * sizeof *seen);
    struct rows_path up = OPTIONS_MEMBER(http, "listen");
    const char *problem = "";
    size_t i, j;

    for (i = 0; i < listen->count; i++) {
        struct rows_path at = OPTIONS_ITEM(&up, i);

        if (muster_listen_parse(listen->items[i], &seen[i], &problem))
            return options_refuse(reader, &at, "%s", problem);
        for (j = 0; j < i; j++)
            if (muster_listen_overlaps(&seen[j], &seen[i]))
                return options_refuse(reader, &at, "overlaps %s above", listen->items[j]);
    }
    return MUSTER_OK;
}

/* WebSockets and waiting asks hold a thread each.  Neither may take more than half of them, nor both together the last
 * quarter, of which streams that are not live yet take half.  What is not given shrinks to fit. */
static muster_err
check_threads(const struct options_reader *reader, const struct rows_path *up, struct http_options *http)
{
    const struct rows_path sockets = OPTIONS_MEMBER(up, "max_sockets"), waiting = OPTIONS_MEMBER(up, "max_waiting");
    bool has_sockets = options_is_given(reader, &sockets), has_waiting = options_is_given(reader, &waiting);
    int64_t half = http->threads / 2, both = http->threads - http->threads / 4, room;

    if (has_sockets && http->max_sockets > half)
        return options_refuse(reader, &sockets, "must be at most %" PRId64 ", half of http.threads", half);
    if (has_waiting && http->max_waiting > half)
        return options_refuse(reader, &waiting, "must be at most %" PRId64 ", half of http.threads", half);
    if (!has_sockets) {
        room = has_waiting ? both - http->max_waiting : both / 2;
        http->max_sockets = http->max_sockets < room ? http->max_sockets : room;
        http->max_sockets = http->max_sockets < half ? http->max_sockets : half;
    }
    if (!has_waiting) {
        room = both - http->max_sockets;
        http->max_waiting = http->max_waiting < room ? http->max_waiting : room;
        http->max_waiting = http->max_waiting < half ? http->max_waiting : half;
    }
    if (http->max_sockets + http->max_waiting > both)
        return options_refuse(reader, &waiting,
                              "must be at most %" PRId64 ": with http.max_sockets it must leave a "
                              "quarter of http.threads",
                              both - http->max_sockets);
    return MUSTER_OK;
}

static muster_err
check_ask(const struct options_reader *reader, const struct rows_path *up, struct http_options *http)
{
    const struct rows_path ask = OPTIONS_MEMBER(up, "ask_timeout");

    if (http->ask_timeout <= http->max_ask_timeout)
        return MUSTER_OK;
    if (options_is_given(reader, &ask))
        return options_refuse(reader, &ask, "must not be longer than http.max_ask_timeout");
    http->ask_timeout = http->max_ask_timeout;
    return MUSTER_OK;
}

static muster_err
check_http(const struct options_reader *reader, struct options *options)
{
    struct rows_path up = OPTIONS_MEMBER(NULL, "http");
    struct http_options *http = muster_arena_alloc(reader->arena, sizeof *http);
    muster_err err;

    *http = *options->http;
    err = check_listen(reader, &up, &http->listen);
    if (err == MUSTER_OK)
        err = check_threads(reader, &up, http);
    if (err == MUSTER_OK)
        err = check_ask(reader, &up, http);
    options->http = http;
    return err;
}

/* ---- teams ---- */

/* Name, or Name(pattern); the name may hold stars. */
static bool
is_rule(const char *text)
{
    size_t name = strspn(text, OPTIONS_LETTERS "_-.:*"), size = strlen(text);

    if (name == 0 || name == size)
        return name > 0;
    return text[name] == '(' && text[size - 1] == ')' && size > name + 2;
}

static muster_err
check_rules(const struct options_reader *reader, const struct rows_path *up, const char *name,
            const struct muster_strs *rules)
{
    struct rows_path list = OPTIONS_MEMBER(up, name);
    size_t i;

    for (i = 0; i < rules->count; i++) {
        struct rows_path at = OPTIONS_ITEM(&list, i);

        if (!is_rule(rules->items[i]))
            return options_refuse(reader, &at, "must be Tool or Tool(pattern), for example Bash(git status*)");
    }
    return MUSTER_OK;
}

static muster_err
check_permissions(const struct options_reader *reader, const struct rows_path *team,
                  const struct permission_options *permissions)
{
    struct rows_path up = OPTIONS_MEMBER(team, "permissions");
    muster_err err = check_rules(reader, &up, "allow", &permissions->allow);

    return err ? err : check_rules(reader, &up, "deny", &permissions->deny);
}

static muster_err
check_env(const struct options_reader *reader, const struct rows_path *team, const struct muster_pairs *env)
{
    struct rows_path up = OPTIONS_MEMBER(team, "env");
    size_t i;

    for (i = 0; i < env->count; i++) {
        struct rows_path at = OPTIONS_MEMBER(&up, env->items[i].name);

        if (env->items[i].name[0] == '\0' || strchr(env->items[i].name, '=') != NULL)
            return options_refuse(reader, &at, "must be the name of an environment variable");
    }
    return MUSTER_OK;
}

/* A team that the program registered is its own, whatever the file says of it otherwise. */
static muster_err
check_driver(const struct options_reader *reader, const struct rows_path *at, struct team_options *team)
{
    struct rows_path driver = OPTIONS_MEMBER(at, "driver");
    const struct muster_strs *own = reader->own;
    size_t i;

    for (i = 0; own && i < own->count && strcmp(own->items[i], team->name) != 0; i++)
        ;
    if (own == NULL || i == own->count) {
        if (team->driver != driver_kind_ACTOR)
            return MUSTER_OK;
        return options_refuse(reader, &driver,
                              "must not be actor: that is for teams that a program registers when it starts the hub, "
                              "and it registered none of this name");
    }
    if (team->driver != driver_kind_ACTOR && options_is_given(reader, &driver))
        return options_refuse(reader, &driver, "must be actor: the program that starts the hub registered this team");
    team->driver = driver_kind_ACTOR;
    return MUSTER_OK;
}

/* How the agents of a remote team are spoken to is known to the workers only. */
static muster_err
check_remote(const struct options_reader *reader, const struct rows_path *at, const struct team_options *team)
{
    static const char *const theirs[] = {
        "directory",    "command",   "model", "permission_mode", "concurrency", "silence_timeout", "start_timeout",
        "stop_timeout", "idle_stop", "env",   "permissions"};
    struct rows_path labels = OPTIONS_MEMBER(at, "labels");
    size_t i;

    if (team->driver != driver_kind_REMOTE) {
        if (team->labels.count == 0)
            return MUSTER_OK;
        return options_refuse(reader, &labels, "is only for teams with the driver remote: which workers get its jobs");
    }
    for (i = 0; i < sizeof theirs / sizeof *theirs; i++) {
        struct rows_path option = OPTIONS_MEMBER(at, theirs[i]);

        if (options_is_given(reader, &option))
            return options_refuse(reader, &option,
                                  "belongs into the configuration of the workers, as the driver is "
                                  "remote");
    }
    return MUSTER_OK;
}

static muster_err
check_team(const struct options_reader *reader, const char *directory, struct team_options *team)
{
    static const char *const claude[] = {"claude"};
    struct rows_path up = OPTIONS_MEMBER(NULL, "teams"), at = OPTIONS_MEMBER(&up, team->name),
                     command = OPTIONS_MEMBER(&at, "command");
    muster_err err;

    if (team->name[strspn(team->name, OPTIONS_LETTERS "._-")] != '\0')
        return options_refuse(reader, &at, "must have a name of letters, digits, '.', '_' and '-'");
    if (strcmp(team->name, ".") == 0 || strcmp(team->name, "..") == 0)
        return options_refuse(reader, &at, "must not be named . or .., which clients take out of a path");
    err = check_driver(reader, &at, team);
    if (!err)
        err = check_remote(reader, &at, team);
    if (err)
        return err;
    if (team->command.count > 0 && team->command.items[0][0] == '\0')
        return options_refuse(reader, &command, "must begin with a program");
    if (team->driver == driver_kind_COMMAND && team->command.count == 0)
        return options_refuse(reader, &command, "is required for the driver command");
    if (team->driver == driver_kind_CLAUDE && team->command.count == 0)
        team->command = (struct muster_strs){claude, 1};
    team->directory = options_absolute(reader->arena, directory, team->directory);
    err = check_env(reader, &at, &team->env);
    return err ? err : check_permissions(reader, &at, team->permissions);
}

static muster_err
check_teams(const struct options_reader *reader, const char *directory, struct options *options)
{
    struct team_options *teams = muster_arena_alloc(reader->arena, options->teams.count * sizeof *teams);
    muster_err err;
    size_t i;

    for (i = 0; i < options->teams.count; i++) {
        teams[i] = options->teams.items[i];
        err = check_team(reader, directory, &teams[i]);
        if (err)
            return err;
    }
    options->teams.items = teams;
    return MUSTER_OK;
}

muster_err
options_check(const struct options_reader *reader, const char *directory, struct options *options)
{
    const char *base = base_directory(reader->arena, directory);
    muster_err err;

    options->data = options_absolute(reader->arena, base, options->data);
    err = check_http(reader, options);
    if (err == MUSTER_OK)
        err = check_teams(reader, base, options);
    if (err == MUSTER_OK)
        err = options_check_auth(reader, base, options);
    if (err == MUSTER_OK)
        err = options_check_bus(reader, base, options);
    if (err == MUSTER_OK)
        err = options_check_worker(reader, base, options);
    return err;
}
