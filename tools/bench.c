/* SPDX-License-Identifier: MPL-2.0 */
/* bench: how fast a server answers: reads, submits and the begin of event streams.
 *
 * Without a server to be found it starts one of its own in a temporary folder, which is removed afterwards.  On a
 * server of the user's no job is run: submits go to a paused team only, and their deadline is DEADLINE_MS away.  Main
 * thread. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/muster.h"
#include "schemas/muster_crypto.h"
#include "tools/bench_load.h"
#include "tools/client.h"
#include "tools/commands.h"

#define LOOK_TIMEOUT_MS 10000
#define DEADLINE_MS 60000
#define CONNECTIONS_DEFAULT 16
#define CONNECTIONS_MAX 1000
#define SPAN_DEFAULT_MS 2000

struct bench {
    const struct client *client;
    const char *team;
    bool paused;
    struct addrinfo *address;
    const char *host; /* as the Host header has it */
    int connections;
    int64_t span_ms;
};

/* ---- what is asked ---- */

static const char *
request_text(const struct bench *bench, const char *method, const char *path, const char *body)
{
    struct muster_pair headers[CLIENT_HEADERS_MAX];
    size_t count = client_headers(bench->client, body != NULL, "*/*", headers), i;
    struct muster_buf text = {0};
    const char *kept;

    muster_buf_printf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, bench->host);
    for (i = 0; i < count; i++)
        muster_buf_printf(&text, "%s: %s\r\n", headers[i].name, headers[i].value);
    if (body)
        muster_buf_printf(&text, "Content-Length: %zu\r\n", strlen(body));
    muster_buf_printf(&text, "\r\n%s", body ? body : "");
    kept = muster_arena_str(bench->client->arena, text.data, text.size);
    muster_buf_free(&text);
    return kept;
}

/* ---- what is shown ---- */

static void
show(const struct bench *bench, const char *work, const struct load_result *result)
{
    json_t *line;

    if (!bench->client->json) {
        printf("%-8s %11.0f/s %10.3f ms %10.3f ms\n", work, result->rate, result->p50_ms, result->p99_ms);
        return;
    }
    line =
        json_pack("{s:s, s:i, s:f, s:f, s:f, s:I, s:I, s:I}", "work", work, "connections", bench->connections, "rate",
                  result->rate, "p50Ms", result->p50_ms, "p99Ms", result->p99_ms, "good", (json_int_t)result->good,
                  "limited", (json_int_t)result->limited, "failed", (json_int_t)result->failed);
    puts(client_body(bench->client, line));
}

static int
measure(const struct bench *bench, const char *work, const char *request, bool stream)
{
    struct load load = {.address = bench->address,
                        .request = request,
                        .stream = stream,
                        .connections = bench->connections,
                        .span_ms = bench->span_ms};
    struct load_result result;

    if (!load_run(&load, &result))
        return complain(EXIT_FAILED, "cannot start a thread: end other programs");
    show(bench, work, &result);
    fflush(stdout);
    if (result.failed > 0 && result.status == 0)
        return complain(EXIT_UNREACHABLE, "%s: %lld requests got no answer", work, (long long)result.failed);
    if (result.failed > 0)
        return complain(EXIT_FAILED, "%s: %lld requests were answered with %d", work, (long long)result.failed,
                        result.status);
    if (result.limited > 0)
        return complain(EXIT_LATER, "%s: %lld requests were refused by the key's rate: use a key with --rate 0/1m",
                        work, (long long)result.limited);
    return EXIT_DONE;
}

static int
measure_all(const struct bench *bench)
{
    const char *status = client_path(bench->client, "/api/v1/teams/", bench->team, "/status");
    const char *execute = client_path(bench->client, "/api/v1/teams/", bench->team, "/execute");
    const char *body = muster_arena_printf(bench->client->arena, "{\"task\":\"muster bench\",\"deadline\":%lld}",
                                           (long long)client_now_ms() + bench->span_ms + DEADLINE_MS);
    int result;

    if (!bench->client->json)
        printf("%-8s %13s %13s %13s   team %s, %d connections\n", "", "rate", "p50", "p99", bench->team,
               bench->connections);
    result = measure(bench, "status", request_text(bench, "GET", status, NULL), false);
    if (!result && bench->paused)
        result = measure(bench, "submit", request_text(bench, "POST", execute, body), false);
    else if (!result)
        fprintf(stderr, "muster: no submits: team %s would run them; pause it first\n", bench->team);
    if (!result)
        result = measure(bench, "stream", request_text(bench, "GET", "/api/v1/events", NULL), true);
    return result;
}

/* ---- which server and team ---- */

static int
find_address(struct bench *bench)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const struct client *client = bench->client;
    const char *url = client->url, *colon;
    char *host;

    if (strncmp(url, "http://", 7) != 0 || strchr(url + 7, '/'))
        return complain(EXIT_USAGE, "bench speaks to http://HOST:PORT only, not to %s", url);
    bench->host = url + 7;
    colon = strrchr(bench->host, ':');
    host = muster_arena_str(client->arena, bench->host, colon ? (size_t)(colon - bench->host) : strlen(bench->host));
    if (getaddrinfo(host, colon ? colon + 1 : "80", &hints, &bench->address) != 0)
        return client_unreachable(client, "there is no such host");
    return EXIT_DONE;
}

static int
find_team(struct bench *bench, const char *name)
{
    const struct client *client = bench->client;
    json_t *teams = NULL, *status = NULL;
    int result = EXIT_DONE;

    if (!name) {
        result = client_request(client, "GET", "/api/v1/teams", NULL, LOOK_TIMEOUT_MS, &teams);
        if (!result) {
            const json_t *list = json_is_array(teams) ? teams : json_object_get(teams, "teams");

            name = json_text(json_array_get(list, 0), "name");
            name = muster_arena_str(client->arena, name, strlen(name));
        }
        json_decref(teams);
    }
    if (!result)
        result = client_request(client, "GET", client_path(client, "/api/v1/teams/", name, "/status"), NULL,
                                LOOK_TIMEOUT_MS, &status);
    bench->team = name;
    bench->paused = json_is_true(json_object_get(status, "paused"));
    json_decref(status);
    return result;
}

static int
read_options(const struct call *call, struct bench *bench)
{
    const char *connections = call_value(call, "--connections");
    char *end = NULL;
    long count = connections ? strtol(connections, &end, 10) : CONNECTIONS_DEFAULT;

    if (connections && (end == connections || *end || count < 1 || count > CONNECTIONS_MAX))
        return complain(EXIT_USAGE, "--connections is a number from 1 to %d", CONNECTIONS_MAX);
    bench->connections = (int)count;
    bench->span_ms = SPAN_DEFAULT_MS;
    return client_duration(call, "--span", &bench->span_ms);
}

static int
bench_server(const struct client *client, const struct call *call)
{
    struct bench bench = {.client = client};
    int result = read_options(call, &bench);

    if (!result)
        result = find_address(&bench);
    if (!result)
        result = find_team(&bench, call->arg_count > 0 ? call->args[0] : NULL);
    if (!result)
        result = measure_all(&bench);
    if (bench.address)
        freeaddrinfo(bench.address);
    return result;
}

/* ---- a server of its own ---- */

static void
remove_folder(const char *path)
{
    struct dirent *entry;
    struct muster_buf name = {0};
    DIR *folder = opendir(path);

    while (folder && (entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        muster_buf_clear(&name);
        muster_buf_printf(&name, "%s/%s", path, entry->d_name);
        if (unlink(name.data) != 0)
            remove_folder(name.data);
    }
    if (folder)
        closedir(folder);
    muster_buf_free(&name);
    (void)rmdir(path);
}

/* A key with a rate, so that it is counted as other keys are, but never refused. */
static bool
write_config(const char *path, const char *key)
{
    FILE *file = fopen(path, "we");

    if (!file)
        return false;
    fprintf(file,
            "http: {threads: 2048}\n"
            "queue: {max_queued: 10000000}\n"
            "auth: {keys: [{name: bench, key: %s, rate_limit: {requests: 1000000000, window: 1m}}]}\n"
            "teams: {bench: {driver: echo, paused: true, max_queued: 10000000}}\n",
            key);
    return fclose(file) == 0;
}

/* Ids end in 62 random bits. */
static const char *
make_key(const struct client *client)
{
    char first[MUSTER_ID_TEXT] = "", second[MUSTER_ID_TEXT] = "";
    struct muster_id id;

    if (muster_crypto_init())
        return NULL;
    id = muster_id_new(client_now_ms());
    muster_id_text(&id, first);
    id = muster_id_new(client_now_ms());
    muster_id_text(&id, second);
    return muster_arena_printf(client->arena, "%s%s", first, second);
}

static int
bench_hub(const struct client *client, const struct call *call, const struct muster_hub *hub, const char *key)
{
    struct client own = *client;

    own.url = muster_hub_url(hub);
    own.key = key;
    return bench_server(&own, call);
}

/* Durability is part of what is measured, so the folder is where temporary files of some size belong: on a disk. */
static int
bench_own(const struct client *client, const struct call *call)
{
    const char *parent = getenv("TMPDIR");
    char *folder =
        muster_arena_printf(client->arena, "%s/muster-bench-XXXXXX", parent && *parent ? parent : "/var/tmp");
    struct muster_hub_settings settings = {.listen = "127.0.0.1:0", .own_process = true};
    const char *key = make_key(client);
    struct muster_hub *hub;
    char problem[1024] = "";
    int result;

    if (!key || !mkdtemp(folder))
        return complain(EXIT_FAILED, "cannot make %s: set TMPDIR", folder);
    settings.config = muster_arena_printf(client->arena, "%s/muster.yaml", folder);
    settings.data = muster_arena_printf(client->arena, "%s/data", folder);
    settings.log_fd = open(muster_arena_printf(client->arena, "%s/log", folder), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    hub = write_config(settings.config, key) && settings.log_fd != -1
              ? muster_hub_start(&settings, problem, sizeof problem, NULL)
              : NULL;
    result = hub ? bench_hub(client, call, hub, key)
                 : complain(EXIT_FAILED, "%s", *problem ? problem : "cannot write into the temporary folder");
    muster_hub_stop(&hub);
    if (settings.log_fd != -1)
        close(settings.log_fd);
    remove_folder(folder);
    return result;
}

static bool
is_there(const struct client *client)
{
    struct client_reply reply;

    client_send(client, "GET", "/health", NULL, LOOK_TIMEOUT_MS, &reply);
    client_drop(&reply);
    return !reply.err;
}

/* A server that was named must be there; one that was only guessed need not. */
static int
run(const struct client *client, const struct call *call)
{
    bool named = call_value(call, "--url") || client_data(call) || (getenv("MUSTER_URL") && *getenv("MUSTER_URL"));

    return named || is_there(client) ? bench_server(client, call) : bench_own(client, call);
}

int
run_bench(const struct call *call)
{
    return client_run(call, run);
}
