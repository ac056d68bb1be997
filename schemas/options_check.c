/* SPDX-License-Identifier: MPL-2.0 */
/* What no single row of the options can say: paths, defaults that depend on other values, rules over several values.
 * One thread at a time.  What can fail: any of the rules. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schemas/options.h"

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

enum {
    KEY_LENGTH = 16,   /* a key of a configuration file is not shorter */
    SECRET_LENGTH = 32 /* as long as the digest that it makes: RFC 7518, section 3.2 */
};

/* A step down to a member or an item. */
#define MEMBER(above, member)                                                                                          \
    (struct rows_path)                                                                                                 \
    {                                                                                                                  \
        .up = above, .name = member, .size = strlen(member)                                                            \
    }
#define ITEM(above, at)                                                                                                \
    (struct rows_path)                                                                                                 \
    {                                                                                                                  \
        .up = above, .index = at                                                                                       \
    }

/* ---- paths ---- */

/* `directory` is absolute.  Symbolic links stay, so ".." does too. */
static const char *
absolute(struct muster_arena *arena, const char *directory, const char *path)
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
    const char *base = absolute(arena, current ? current : "/", directory ? directory : ".");

    base = muster_arena_str(arena, base, strlen(base));
    free(current);
    return base;
}

/* ---- http ---- */

static bool
is_port(const char *text)
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
    if (!is_port(port) || size >= sizeof host)
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
    struct rows_path up = MEMBER(http, "listen");
    const char *problem = "";
    size_t i, j;

    for (i = 0; i < listen->count; i++) {
        struct rows_path at = ITEM(&up, i);

        if (muster_listen_parse(listen->items[i], &seen[i], &problem))
            return options_refuse(reader, &at, "%s", problem);
        for (j = 0; j < i; j++)
            if (muster_listen_overlaps(&seen[j], &seen[i]))
                return options_refuse(reader, &at, "overlaps %s above", listen->items[j]);
    }
    return MUSTER_OK;
}

/* Streams and waiting asks hold a thread each.  Neither may take more than half of them, nor both together the last
 * eighth.  What is not given shrinks to fit. */
static muster_err
check_threads(const struct options_reader *reader, const struct rows_path *up, struct http_options *http)
{
    const struct rows_path streams = MEMBER(up, "max_streams"), waiting = MEMBER(up, "max_waiting");
    bool has_streams = options_is_given(reader, &streams), has_waiting = options_is_given(reader, &waiting);
    int64_t half = http->threads / 2, both = http->threads - http->threads / 8, room;

    if (has_streams && http->max_streams > half)
        return options_refuse(reader, &streams, "must be at most %" PRId64 ", half of http.threads", half);
    if (has_waiting && http->max_waiting > half)
        return options_refuse(reader, &waiting, "must be at most %" PRId64 ", half of http.threads", half);
    if (!has_streams) {
        room = has_waiting ? both - http->max_waiting : both / 2;
        http->max_streams = http->max_streams < room ? http->max_streams : room;
        http->max_streams = http->max_streams < half ? http->max_streams : half;
    }
    if (!has_waiting) {
        room = both - http->max_streams;
        http->max_waiting = http->max_waiting < room ? http->max_waiting : room;
        http->max_waiting = http->max_waiting < half ? http->max_waiting : half;
    }
    if (http->max_streams + http->max_waiting > both)
        return options_refuse(reader, &waiting,
                              "must be at most %" PRId64 ": with http.max_streams it must leave an "
                              "eighth of http.threads",
                              both - http->max_streams);
    return MUSTER_OK;
}

static muster_err
check_ask(const struct options_reader *reader, const struct rows_path *up, struct http_options *http)
{
    const struct rows_path ask = MEMBER(up, "ask_timeout");

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
    struct rows_path up = MEMBER(NULL, "http");
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
    size_t name = strspn(text, LETTERS "_-.:*"), size = strlen(text);

    if (name == 0 || name == size)
        return name > 0;
    return text[name] == '(' && text[size - 1] == ')' && size > name + 2;
}

static muster_err
check_rules(const struct options_reader *reader, const struct rows_path *up, const char *name,
            const struct muster_strs *rules)
{
    struct rows_path list = MEMBER(up, name);
    size_t i;

    for (i = 0; i < rules->count; i++) {
        struct rows_path at = ITEM(&list, i);

        if (!is_rule(rules->items[i]))
            return options_refuse(reader, &at, "must be Tool or Tool(pattern), for example Bash(git status*)");
    }
    return MUSTER_OK;
}

static muster_err
check_permissions(const struct options_reader *reader, const struct rows_path *team,
                  const struct permission_options *permissions)
{
    struct rows_path up = MEMBER(team, "permissions");
    muster_err err = check_rules(reader, &up, "allow", &permissions->allow);

    return err ? err : check_rules(reader, &up, "deny", &permissions->deny);
}

static muster_err
check_env(const struct options_reader *reader, const struct rows_path *team, const struct muster_pairs *env)
{
    struct rows_path up = MEMBER(team, "env");
    size_t i;

    for (i = 0; i < env->count; i++) {
        struct rows_path at = MEMBER(&up, env->items[i].name);

        if (env->items[i].name[0] == '\0' || strchr(env->items[i].name, '=') != NULL)
            return options_refuse(reader, &at, "must be the name of an environment variable");
    }
    return MUSTER_OK;
}

/* A team that the program registered is its own, whatever the file says of it otherwise. */
static muster_err
check_driver(const struct options_reader *reader, const struct rows_path *at, struct team_options *team)
{
    struct rows_path driver = MEMBER(at, "driver");
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
    struct rows_path labels = MEMBER(at, "labels");
    size_t i;

    if (team->driver != driver_kind_REMOTE) {
        if (team->labels.count == 0)
            return MUSTER_OK;
        return options_refuse(reader, &labels, "is only for teams with the driver remote: which workers get its jobs");
    }
    for (i = 0; i < sizeof theirs / sizeof *theirs; i++) {
        struct rows_path option = MEMBER(at, theirs[i]);

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
    struct rows_path up = MEMBER(NULL, "teams"), at = MEMBER(&up, team->name), command = MEMBER(&at, "command");
    muster_err err;

    if (team->name[strspn(team->name, LETTERS "._-")] != '\0')
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
    team->directory = absolute(reader->arena, directory, team->directory);
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

/* ---- who may call ---- */

static muster_err
check_credential(const struct options_reader *reader, const struct rows_path *at, const struct key_options *key,
                 uint8_t out_digest[MUSTER_DIGEST])
{
    struct rows_path text = MEMBER(at, "key"), sha256 = MEMBER(at, "sha256");

    if ((key->key[0] == '\0') == (key->sha256[0] == '\0'))
        return options_refuse(reader, at, "must have exactly one of key and sha256");
    if (key->sha256[0] != '\0') {
        if (muster_unhex(key->sha256, out_digest, MUSTER_DIGEST) != MUSTER_OK)
            return options_refuse(reader, &sha256, "must be 64 hexadecimal digits");
        return MUSTER_OK;
    }
    if (strlen(key->key) < KEY_LENGTH)
        return options_refuse(reader, &text, "must have at least %d characters, so that it cannot be guessed",
                              KEY_LENGTH);
    muster_sha256(key->key, strlen(key->key), out_digest);
    return MUSTER_OK;
}

static muster_err
check_scopes(const struct options_reader *reader, const struct rows_path *key, const struct muster_strs *scopes)
{
    struct rows_path up = MEMBER(key, "scopes");
    size_t i;

    for (i = 0; i < scopes->count; i++) {
        struct rows_path at = ITEM(&up, i);

        if (!muster_scope_known(scopes->items[i]))
            return options_refuse(reader, &at, "is not a known scope; `muster describe scopes` lists them");
    }
    return MUSTER_OK;
}

static muster_err
check_key_teams(const struct options_reader *reader, const struct rows_path *key, const struct options *options,
                const struct muster_strs *teams)
{
    struct rows_path up = MEMBER(key, "teams");
    size_t i;

    for (i = 0; i < teams->count; i++) {
        struct rows_path at = ITEM(&up, i);

        if (muster_team_options(options, teams->items[i]) == NULL)
            return options_refuse(reader, &at, "is not one of the teams");
    }
    return MUSTER_OK;
}

/* A key that may use some teams only speaks for one of those. */
static muster_err
check_speaker(const struct options_reader *reader, const struct rows_path *at, const struct options *options,
              const struct key_options *key)
{
    struct rows_path up = MEMBER(at, "speaks_for");
    size_t i;

    if (key->speaks_for[0] == '\0')
        return MUSTER_OK;
    if (muster_team_options(options, key->speaks_for) == NULL)
        return options_refuse(reader, &up, "is not one of the teams");
    for (i = 0; i < key->teams.count && strcmp(key->teams.items[i], key->speaks_for) != 0; i++)
        ;
    if (key->teams.count > 0 && i == key->teams.count)
        return options_refuse(reader, &up, "must be one of the teams that the key may use");
    return MUSTER_OK;
}

/* `digests` are those of this key and the earlier ones. */
static muster_err
check_unique(const struct options_reader *reader, const struct rows_path *at, const struct options *options,
             size_t index, uint8_t (*digests)[MUSTER_DIGEST])
{
    const struct key_options *keys = options->auth->keys.items;
    struct rows_path name = MEMBER(at, "name");
    size_t i;

    for (i = 0; i < index; i++) {
        if (strcmp(keys[i].name, keys[index].name) == 0)
            return options_refuse(reader, &name, "is the name of an earlier key");
        if (memcmp(digests[i], digests[index], MUSTER_DIGEST) == 0)
            return options_refuse(reader, at, "is the same key as that of %s", keys[i].name);
    }
    return MUSTER_OK;
}

static muster_err
check_key(const struct options_reader *reader, const struct rows_path *keys, const struct options *options,
          size_t index, uint8_t (*digests)[MUSTER_DIGEST])
{
    const struct key_options *key = &options->auth->keys.items[index];
    struct rows_path at = ITEM(keys, index);
    muster_err err = check_credential(reader, &at, key, digests[index]);

    if (err == MUSTER_OK)
        err = check_unique(reader, &at, options, index, digests);
    if (err == MUSTER_OK)
        err = check_scopes(reader, &at, &key->scopes);
    if (err == MUSTER_OK)
        err = check_key_teams(reader, &at, options, &key->teams);
    if (err == MUSTER_OK)
        err = check_speaker(reader, &at, options, key);
    return err;
}

static muster_err
check_keys(const struct options_reader *reader, const struct options *options)
{
    struct rows_path auth = MEMBER(NULL, "auth"), keys = MEMBER(&auth, "keys");
    uint8_t(*digests)[MUSTER_DIGEST];
    muster_err err = MUSTER_OK;
    size_t i;

    digests = muster_arena_alloc(reader->arena, (options->auth->keys.count + 1) * sizeof *digests);
    for (i = 0; err == MUSTER_OK && i < options->auth->keys.count; i++)
        err = check_key(reader, &keys, options, i, digests);
    return err;
}

static muster_err
check_types(const struct options_reader *reader, const struct rows_path *auth, const struct auth_options *options)
{
    static const char *const kinds[] = {"bearer", "basic", "jwt"};
    const struct jwt_options *jwt = options->jwt;
    struct rows_path up = MEMBER(auth, "type");
    size_t i, kind;

    for (i = 0; i < options->type.count; i++) {
        struct rows_path at = ITEM(&up, i);

        for (kind = 0; kind < 3 && strcmp(options->type.items[i], kinds[kind]) != 0; kind++)
            ;
        if (kind == 3)
            return options_refuse(reader, &at, "must be bearer, basic or jwt");
    }
    if (options->type.count == 1 && strcmp(options->type.items[0], "jwt") == 0 && jwt->secret[0] == '\0' &&
        jwt->public_key[0] == '\0')
        return options_refuse(reader, &up, "lets nobody in: jwt needs auth.jwt.secret or auth.jwt.public_key");
    return MUSTER_OK;
}

/* Whether the key is a good one is told where it is loaded. */
static muster_err
check_public_key(const struct options_reader *reader, const struct rows_path *jwt, const char *path)
{
    struct rows_path at = MEMBER(jwt, "public_key");

    if (path[0] != '\0' && access(path, R_OK) != 0)
        return options_refuse(reader, &at, "%.200s cannot be read: %s", path, strerror(errno));
    return MUSTER_OK;
}

static muster_err
check_jwt(const struct options_reader *reader, const struct rows_path *auth, const char *directory,
          struct jwt_options *jwt)
{
    struct rows_path up = MEMBER(auth, "jwt"), secret = MEMBER(&up, "secret");
    muster_err err;

    if (jwt->secret[0] != '\0' && jwt->public_key[0] != '\0')
        return options_refuse(reader, &up, "must not have both secret and public_key");
    if (jwt->secret[0] != '\0' && strlen(jwt->secret) < SECRET_LENGTH)
        return options_refuse(reader, &secret, "must have at least %d bytes, so that it cannot be guessed",
                              SECRET_LENGTH);
    if (jwt->public_key[0] != '\0')
        jwt->public_key = absolute(reader->arena, directory, jwt->public_key);
    err = check_public_key(reader, &up, jwt->public_key);
    return err ? err : check_scopes(reader, &up, &jwt->scopes);
}

static muster_err
check_auth(const struct options_reader *reader, const char *directory, struct options *options)
{
    struct rows_path up = MEMBER(NULL, "auth");
    struct auth_options *auth = muster_arena_alloc(reader->arena, sizeof *auth);
    struct jwt_options *jwt = muster_arena_alloc(reader->arena, sizeof *jwt);
    muster_err err = check_types(reader, &up, options->auth);

    *auth = *options->auth;
    *jwt = *auth->jwt;
    auth->jwt = jwt;
    options->auth = auth;
    if (err == MUSTER_OK)
        err = check_jwt(reader, &up, directory, jwt);
    return err ? err : check_keys(reader, options);
}

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
    struct rows_path up = MEMBER(NULL, "bus"), at = MEMBER(&up, name);
    struct muster_listen listen;

    if ((*endpoint)[0] == '\0')
        return MUSTER_OK;
    if (strncmp(*endpoint, "ipc://", 6) == 0 && (*endpoint)[6] != '\0' && (*endpoint)[6] != '@') {
        const char *path = absolute(reader->arena, directory, *endpoint + 6);

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

static muster_err
check_bus(const struct options_reader *reader, const char *directory, struct options *options)
{
    struct rows_path up = MEMBER(NULL, "bus"), events = MEMBER(&up, "events");
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
    return size > 0 && size < 256 && strspn(text, LETTERS ".-_") >= size;
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
        !is_host(endpoint + 6, (size_t)(colon - endpoint - 6)) || !is_port(colon + 1) || atoi(colon + 1) == 0)
        return shape;
    return NULL;
}

static muster_err
check_offer(const struct options_reader *reader, const struct rows_path *worker, const struct options *options)
{
    struct rows_path up = MEMBER(worker, "teams");
    const struct muster_strs *offer = &options->worker->teams;
    const struct team_options *team;
    size_t i;

    for (i = 0; i < offer->count; i++) {
        struct rows_path at = ITEM(&up, i);

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

    if (text[0] == '\0' || (strlen(text) == KEY_TEXT && strspn(text, LETTERS ".-:+=^!/*?&<>()[]{}@%$#") == KEY_TEXT))
        return text;
    return absolute(arena, directory, text);
}

static muster_err
check_worker(const struct options_reader *reader, const char *directory, struct options *options)
{
    struct rows_path up = MEMBER(NULL, "worker"), name = MEMBER(&up, "name"), hub = MEMBER(&up, "hub"),
                     longest = MEMBER(&up, "max_reconnect");
    struct worker_options *worker = muster_arena_alloc(reader->arena, sizeof *worker);
    const char *problem;

    *worker = *options->worker;
    options->worker = worker;
    if (strncmp(worker->hub, "ipc://", 6) == 0 && worker->hub[6] != '\0' && worker->hub[6] != '@')
        worker->hub =
            muster_arena_printf(reader->arena, "ipc://%s", absolute(reader->arena, directory, worker->hub + 6));
    problem = worker->hub[0] ? muster_hub_endpoint_problem(worker->hub) : NULL;
    if (problem)
        return options_refuse(reader, &hub, "%s", problem);
    if (worker->name[strspn(worker->name, LETTERS "._-")] != '\0')
        return options_refuse(reader, &name, "must have letters, digits, '.', '_' and '-' only");
    if (worker->max_reconnect < worker->reconnect)
        return options_refuse(reader, &longest, "must not be shorter than worker.reconnect");
    worker->hub_key = key_path(reader->arena, directory, worker->hub_key);
    if (worker->curve_key[0])
        worker->curve_key = absolute(reader->arena, directory, worker->curve_key);
    return check_offer(reader, &up, options);
}

muster_err
options_check(const struct options_reader *reader, const char *directory, struct options *options)
{
    const char *base = base_directory(reader->arena, directory);
    muster_err err;

    options->data = absolute(reader->arena, base, options->data);
    err = check_http(reader, options);
    if (err == MUSTER_OK)
        err = check_teams(reader, base, options);
    if (err == MUSTER_OK)
        err = check_auth(reader, base, options);
    if (err == MUSTER_OK)
        err = check_bus(reader, base, options);
    if (err == MUSTER_OK)
        err = check_worker(reader, base, options);
    return err;
}
