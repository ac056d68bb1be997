/* SPDX-License-Identifier: MPL-2.0 */
/* status, job, cancel and history: look at teams and jobs. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schemas/muster_options.h"
#include "tools/client.h"
#include "tools/commands.h"
#include "tools/follow.h"
#include "tools/show.h"
#include "tools/term.h"

#define LOOK_TIMEOUT_MS 30000
#define UNIX_MS_MIN 100000000000 /* a plain --since from here on is a time; below it a unit was forgotten */

static int
status(const struct client *client, const struct call *call)
{
    const char *team = call->arg_count > 0 ? call->args[0] : NULL;
    json_t *answer = NULL;
    int result =
        client_request(client, "GET", team ? client_path(client, "/api/v1/teams/", team, "/status") : "/api/v1/teams",
                       NULL, LOOK_TIMEOUT_MS, &answer);

    if (!result && client->json)
        json_print(answer);
    else if (!result && team)
        show_fields(answer, 0);
    else if (!result)
        show_teams(json_is_array(answer) ? answer : json_object_get(answer, "teams"));
    json_decref(answer);
    return result;
}

static int
job(const struct client *client, const struct call *call)
{
    json_t *answer = NULL;
    int result;

    if (call_value(call, "--follow"))
        return follow_job(client, call->args[0], NULL);
    result = client_request(client, "GET", client_path(client, "/api/v1/messages/", call->args[0], ""), NULL,
                            LOOK_TIMEOUT_MS, &answer);
    if (!result && client->json)
        json_print(answer);
    else if (!result)
        show_job(answer);
    if (!result)
        result = show_job_result(answer);
    json_decref(answer);
    return result;
}

static int
cancel(const struct client *client, const struct call *call)
{
    json_t *answer = NULL;
    int result = client_request(client, "POST", client_path(client, "/api/v1/messages/", call->args[0], "/cancel"),
                                "{}", LOOK_TIMEOUT_MS, &answer);

    if (!result && client->json)
        json_print(answer);
    else if (!result)
        puts(*json_text(answer, "status") ? json_text(answer, "status") : "cancelled");
    json_decref(answer);
    return result;
}

/* ---- history ---- */

static void
add_query(struct muster_buf *path, const char *name, const char *value)
{
    if (!value)
        return;
    muster_buf_printf(path, "%c%s=", strchr(path->data, '?') ? '&' : '?', name);
    url_encode(path, value);
}

/* A span back from now, or a time in unix milliseconds. */
static int
add_since(const struct call *call, struct muster_buf *path)
{
    const char *value = call_value(call, "--since");
    struct timespec now;
    int64_t since_ms = 0;
    char text[32];
    int result;

    if (!value)
        return EXIT_DONE;
    if (strtoll(value, NULL, 10) >= UNIX_MS_MIN && duration_lacks_unit(value)) {
        add_query(path, "since", value);
        return EXIT_DONE;
    }
    result = client_duration(call, "--since", &since_ms);
    if (result)
        return result;
    clock_gettime(CLOCK_REALTIME, &now);
    since_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 - since_ms;
    snprintf(text, sizeof text, "%" PRId64, since_ms);
    add_query(path, "since", text);
    return EXIT_DONE;
}

static int
history(const struct client *client, const struct call *call)
{
    static const char *const plain[] = {"team", "status", "from", "limit", "page"};
    struct muster_buf path = {0};
    json_t *answer = NULL;
    char option[16];
    size_t i;
    int result;

    muster_buf_str(&path, "/api/v1/messages/history");
    for (i = 0; i < sizeof plain / sizeof *plain; i++) {
        snprintf(option, sizeof option, "--%s", plain[i]);
        add_query(&path, plain[i], call_value(call, option));
    }
    result = add_since(call, &path);
    if (!result)
        result = client_request(client, "GET", path.data, NULL, LOOK_TIMEOUT_MS, &answer);
    if (!result && client->json)
        json_print(answer);
    else if (!result)
        show_history(answer);
    json_decref(answer);
    muster_buf_free(&path);
    return result;
}

int
run_status(const struct call *call)
{
    return client_run(call, status);
}

int
run_job(const struct call *call)
{
    return client_run(call, job);
}

int
run_cancel(const struct call *call)
{
    return client_run(call, cancel);
}

int
run_history(const struct call *call)
{
    return client_run(call, history);
}
