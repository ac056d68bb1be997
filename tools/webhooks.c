/* SPDX-License-Identifier: MPL-2.0 */
/* webhook create, list, show, pause, resume, test, rotate, delete and secret. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/client.h"
#include "tools/commands.h"
#include "tools/show.h"
#include "tools/term.h"

#define WEBHOOK_TIMEOUT_MS 30000
#define TEST_TIMEOUT_MS 660000 /* the receiver has up to ten minutes */
#define WEBHOOKS "/api/v1/webhooks"

/* "/api/v1/webhooks/<the first argument><after>" */
static const char *
path_of(const struct client *client, const struct call *call, const char *after)
{
    return client_path(client, WEBHOOKS "/", call->args[0], after);
}

/* One request, and its answer as JSON or as `show` shows it. */
static int
request(const struct client *client, const char *method, const char *path, const char *body,
        void (*show)(const json_t *answer))
{
    json_t *answer = NULL;
    int result = client_request(client, method, path, body, WEBHOOK_TIMEOUT_MS, &answer);

    if (!result && client->json)
        json_print(answer);
    else if (!result)
        show(answer);
    json_decref(answer);
    return result;
}

/* ---- those that tell a secret ---- */

static void
print_line(const char *name, const char *value)
{
    if (!*value)
        return;
    printf("%s ", name);
    term_print_safe(stdout, value, strlen(value));
    putchar('\n');
}

/* Each on a line of its own with its name; the secret of a callback has no id. */
static void
show_secret(const json_t *answer)
{
    char until[32];

    print_line("id", json_text(answer, "id"));
    print_line("secret", json_text(answer, "secret"));
    fflush(stdout);
    if (!isatty(STDERR_FILENO))
        return;
    if (json_number(answer, "oldUntil") > 0) {
        term_time(until, sizeof until, json_number(answer, "oldUntil"));
        fprintf(stderr, "The old one signs too until %s.\n", until);
    }
}

static void
show_new_secret(const json_t *answer)
{
    show_secret(answer);
    if (isatty(STDERR_FILENO))
        fputs("Give the secret to the receiver and keep it: it is not shown again.\n", stderr);
}

static int
create(const struct client *client, const struct call *call)
{
    const char *events = call_value(call, "--events");
    const char *teams = call_value(call, "--team");
    json_t *body = json_object();

    json_put_text(body, "url", call->args[0]);
    if (call_value(call, "--name"))
        json_put_text(body, "name", call_value(call, "--name"));
    if (events)
        json_object_set_new(body, "events", json_split(events));
    if (teams)
        json_object_set_new(body, "teams", json_split(teams));
    if (call_value(call, "--paused"))
        json_object_set_new(body, "paused", json_true());
    return request(client, "POST", WEBHOOKS, client_body(client, body), show_new_secret);
}

static int
rotate(const struct client *client, const struct call *call)
{
    const char *body;
    int result = client_overlap(client, call, &body);

    return result ? result : request(client, "POST", path_of(client, call, "/rotate"), body, show_new_secret);
}

/* What signs the callbacks of jobs. */
static int
secret(const struct client *client, const struct call *call)
{
    const char *body;
    int result = client_overlap(client, call, &body);

    if (result)
        return result;
    if (call_value(call, "--rotate"))
        return request(client, "POST", WEBHOOKS "/callbacks/rotate", body, show_secret);
    if (call_value(call, "--overlap"))
        return complain(EXIT_USAGE, "--overlap goes with --rotate: give both or none");
    return request(client, "GET", WEBHOOKS "/callbacks", NULL, show_secret);
}

/* ---- the others ---- */

static int
list(const struct client *client, const struct call *call)
{
    (void)call;
    return request(client, "GET", WEBHOOKS, NULL, show_webhooks);
}

static void
show_one(const json_t *answer)
{
    show_fields(answer, 0);
}

static int
show(const struct client *client, const struct call *call)
{
    return request(client, "GET", path_of(client, call, ""), NULL, show_one);
}

static void
show_state(const json_t *answer)
{
    const char *state = json_text(answer, "state");

    term_print_safe(stdout, *state ? state : "done", strlen(*state ? state : "done"));
    putchar('\n');
}

static int
pause_webhook(const struct client *client, const struct call *call)
{
    return request(client, "POST", path_of(client, call, "/pause"), "{}", show_state);
}

static int
resume_webhook(const struct client *client, const struct call *call)
{
    json_t *body = json_object();

    if (call_value(call, "--after"))
        json_put_text(body, "after", call_value(call, "--after"));
    return request(client, "POST", path_of(client, call, "/resume"), client_body(client, body), show_state);
}

static void
show_deleted(const json_t *answer)
{
    (void)answer;
    puts("deleted");
}

static int delete (const struct client *client, const struct call *call)
{
    return request(client, "DELETE", path_of(client, call, ""), NULL, show_deleted);
}

/* "answered 200 in 35 ms" when the receiver took it. */
static int
tell_test(const struct client *client, const json_t *answer)
{
    int64_t status = json_number(answer, "status");
    const char *problem = json_text(answer, "problem");
    char span[32];

    term_span(span, sizeof span, json_number(answer, "duration"));
    if (client->json)
        json_print(answer);
    if (status >= 200 && status <= 299) {
        if (!client->json)
            printf("answered %lld in %s\n", (long long)status, span);
        return EXIT_DONE;
    }
    if (status > 0)
        return complain(EXIT_FAILED, "the receiver did not take it (%lld in %s)%s%s", (long long)status, span,
                        *problem ? ": " : "", problem);
    return complain(EXIT_FAILED, "the receiver did not take it: %s", *problem ? problem : "no answer came");
}

static int
test(const struct client *client, const struct call *call)
{
    json_t *answer = NULL;
    int result = client_request(client, "POST", path_of(client, call, "/test"), "{}", TEST_TIMEOUT_MS, &answer);

    if (!result)
        result = tell_test(client, answer);
    json_decref(answer);
    return result;
}

int
run_webhook_create(const struct call *call)
{
    return client_run(call, create);
}

int
run_webhook_list(const struct call *call)
{
    return client_run(call, list);
}

int
run_webhook_show(const struct call *call)
{
    return client_run(call, show);
}

int
run_webhook_pause(const struct call *call)
{
    return client_run(call, pause_webhook);
}

int
run_webhook_resume(const struct call *call)
{
    return client_run(call, resume_webhook);
}

int
run_webhook_test(const struct call *call)
{
    return client_run(call, test);
}

int
run_webhook_rotate(const struct call *call)
{
    return client_run(call, rotate);
}

int
run_webhook_delete(const struct call *call)
{
    return client_run(call, delete);
}

int
run_webhook_secret(const struct call *call)
{
    return client_run(call, secret);
}
