/* SPDX-License-Identifier: MPL-2.0 */
/* ask, execute and stream: give a team something to do. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/client.h"
#include "tools/commands.h"
#include "tools/follow.h"
#include "tools/term.h"

#define ANSWER_MARGIN_MS 10000 /* what the server may take longer than the patience that it was told */
#define SUBMIT_TIMEOUT_MS 30000

/* Sets `context` from --context; it must be a JSON value. */
static int
put_context(const struct call *call, json_t *body)
{
    const char *text = call_value(call, "--context");
    json_t *context;

    if (!text)
        return EXIT_DONE;
    context = json_loads(text, JSON_DECODE_ANY, NULL);
    if (!context)
        return complain(EXIT_USAGE, "--context is not JSON: write for example '{\"source\": \"ci\"}'");
    json_object_set_new(body, "context", context);
    return EXIT_DONE;
}

/* In a pipe: one request, one answer. */
static int
ask_plainly(const struct client *client, const char *team, const char *body, int64_t timeout_ms)
{
    struct term *term = term_start(false, 0);
    json_t *answer = NULL;
    const char *text;
    int result = client_request(client, "POST", client_path(client, "/api/v1/teams/", team, "/ask"), body,
                                timeout_ms ? timeout_ms + ANSWER_MARGIN_MS : 0, &answer);

    if (!result && client->json) {
        json_print(answer);
    } else if (!result) {
        text = json_text(answer, "response");
        term_text(term, text, strlen(text));
    }
    term_stop(&term);
    json_decref(answer);
    return result;
}

static int
ask(const struct client *client, const struct call *call)
{
    bool watch = !client->json && isatty(STDOUT_FILENO);
    json_t *body = json_object();
    int64_t timeout_ms = 0;
    const char *text = NULL;
    int result = client_text(client, call, 1, &text);

    if (!result)
        result = client_duration(call, "--timeout", &timeout_ms);
    if (!result)
        result = put_context(call, body);
    if (result) {
        json_decref(body);
        return result;
    }
    json_put_text(body, watch ? "message" : "question", text);
    if (timeout_ms && !watch)
        json_object_set_new(body, "timeout", json_integer(timeout_ms));
    if (watch)
        return follow_new(client, client_path(client, "/api/v1/teams/", call->args[0], "/stream"),
                          client_body(client, body), timeout_ms);
    return ask_plainly(client, call->args[0], client_body(client, body), timeout_ms);
}

static int
stream(const struct client *client, const struct call *call)
{
    json_t *body;
    const char *text = NULL;
    int result = client_text(client, call, 1, &text);

    if (result)
        return result;
    body = json_object();
    json_put_text(body, "message", text);
    json_object_set_new(body, "stream", json_true());
    return follow_new(client, client_path(client, "/api/v1/teams/", call->args[0], "/stream"),
                      client_body(client, body), 0);
}

static void
print_accepted(const struct client *client, const json_t *answer)
{
    const char *id = json_text(answer, "jobId");
    char time[32];

    if (client->json) {
        json_print(answer);
        return;
    }
    puts(id);
    fflush(stdout);
    if (!isatty(STDERR_FILENO))
        return;
    term_time(time, sizeof time, json_number(answer, "estimatedCompletion"));
    fprintf(stderr, "%s at position %lld, likely done at %s: muster job %s --follow\n", json_text(answer, "status"),
            (long long)json_number(answer, "position"), time, id);
}

static int
execute(const struct client *client, const struct call *call)
{
    bool wait = call_value(call, "--wait") != NULL;
    json_t *body = json_object();
    json_t *answer = NULL;
    const char *text = NULL;
    int result = client_text(client, call, 1, &text);

    if (!result)
        result = put_context(call, body);
    if (result) {
        json_decref(body);
        return result;
    }
    json_put_text(body, "task", text);
    if (call_value(call, "--priority"))
        json_put_text(body, "priority", call_value(call, "--priority"));
    if (call_value(call, "--callback")) {
        json_t *callback = json_object();

        json_put_text(callback, "url", call_value(call, "--callback"));
        json_object_set_new(body, "callback", callback);
    }
    result = client_request(client, "POST", client_path(client, "/api/v1/teams/", call->args[0], "/execute"),
                            client_body(client, body), SUBMIT_TIMEOUT_MS, &answer);
    if (!result && wait) {
        fprintf(stderr, "muster: %s is accepted\n", json_text(answer, "jobId"));
        result = follow_job(client, json_text(answer, "jobId"));
    } else if (!result) {
        print_accepted(client, answer);
    }
    json_decref(answer);
    return result;
}

int
run_ask(const struct call *call)
{
    return client_run(call, ask);
}

int
run_execute(const struct call *call)
{
    return client_run(call, execute);
}

int
run_stream(const struct call *call)
{
    return client_run(call, stream);
}
