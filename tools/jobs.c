/* SPDX-License-Identifier: MPL-2.0 */
/* status, job, cancel, retry, pause and resume: look at teams and jobs, and steer them. */
#include <stdio.h>
#include <string.h>

#include "tools/client.h"
#include "tools/commands.h"
#include "tools/follow.h"
#include "tools/show.h"
#include "tools/term.h"

#define LOOK_TIMEOUT_MS 30000

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

/* ---- retry ---- */

static int
retry_one(const struct client *client, const char *id)
{
    json_t *answer = NULL;
    const char *again;
    int result = client_request(client, "POST", client_path(client, "/api/v1/messages/", id, "/retry"), "{}",
                                LOOK_TIMEOUT_MS, &answer);

    if (!result && client->json) {
        json_print(answer);
    } else if (!result) {
        again = json_text(answer, "jobId");
        puts(*again ? again : "accepted");
    }
    json_decref(answer);
    return result;
}

/* One that cannot be sent again keeps none of the others from it; the exit code is that of the first. */
static int
retry(const struct client *client, const struct call *call)
{
    int first = EXIT_DONE;
    int result;
    int i;

    for (i = 0; i < call->arg_count; i++) {
        result = retry_one(client, call->args[i]);
        if (result && call->arg_count > 1)
            complain(result, "%s was not sent again", call->args[i]);
        first = first ? first : result;
    }
    return first;
}

/* ---- pause and resume ---- */

static int
set_paused(const struct client *client, const struct call *call, const char *after, bool paused)
{
    json_t *answer = NULL;
    const json_t *now;
    int result = client_request(client, "POST", client_path(client, "/api/v1/teams/", call->args[0], after), "{}",
                                LOOK_TIMEOUT_MS, &answer);

    if (!result && client->json) {
        json_print(answer);
    } else if (!result) {
        now = json_object_get(answer, "paused");
        puts((json_is_boolean(now) ? json_is_true(now) : paused) ? "paused" : "resumed");
    }
    json_decref(answer);
    return result;
}

static int
pause_team(const struct client *client, const struct call *call)
{
    return set_paused(client, call, "/pause", true);
}

static int
resume_team(const struct client *client, const struct call *call)
{
    return set_paused(client, call, "/resume", false);
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
run_retry(const struct call *call)
{
    return client_run(call, retry);
}

int
run_pause(const struct call *call)
{
    return client_run(call, pause_team);
}

int
run_resume(const struct call *call)
{
    return client_run(call, resume_team);
}
