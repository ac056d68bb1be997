/* SPDX-License-Identifier: MPL-2.0 */
/* key create, key list, key rotate and key revoke. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "schemas/muster_options.h"
#include "tools/client.h"
#include "tools/commands.h"
#include "tools/show.h"
#include "tools/term.h"

#define KEY_TIMEOUT_MS 30000

/* "100/1m": 100 requests a minute. */
static int
put_rate(const struct call *call, json_t *body)
{
    const char *text = call_value(call, "--rate");
    char *slash = NULL;
    long long requests;
    int64_t window_ms;
    json_t *rate;

    if (!text)
        return EXIT_DONE;
    requests = strtoll(text, &slash, 10);
    if (slash != text && *slash == '/' && duration_lacks_unit(slash + 1))
        return complain(EXIT_USAGE, "--rate: write a unit, for example 100/1m");
    if (slash == text || requests < 0 || *slash != '/' || muster_duration_parse(slash + 1, &window_ms))
        return complain(EXIT_USAGE, "--rate %s is no rate: write for example 100/1m", text);
    rate = json_object();
    json_object_set_new(rate, "requests", json_integer(requests));
    json_object_set_new(rate, "window", json_integer(window_ms));
    json_object_set_new(body, "rateLimit", rate);
    return EXIT_DONE;
}

static int
put_expires(const struct call *call, json_t *body)
{
    int64_t span_ms = 0;
    int result = client_duration(call, "--expires", &span_ms);

    if (result || !span_ms)
        return result;
    json_object_set_new(body, "expiresAt", json_integer(client_now_ms() + span_ms));
    return EXIT_DONE;
}

static void
print_key(const struct client *client, const json_t *answer, const char *note)
{
    if (client->json) {
        json_print(answer);
        return;
    }
    puts(json_text(answer, "key"));
    if (json_object_get(answer, "curveSecret"))
        printf("curve-secret %s\ncurve-public %s\nserver-public %s\n", json_text(answer, "curveSecret"),
               json_text(answer, "curvePublic"), json_text(answer, "serverPublic"));
    fflush(stdout);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "Keep this key: it is not shown again.%s\n", note);
}

static int
create(const struct client *client, const struct call *call)
{
    const char *scopes = call_value(call, "--scope");
    const char *teams = call_value(call, "--team");
    json_t *body = json_object();
    json_t *answer = NULL;
    int result;

    json_put_text(body, "name", call->args[0]);
    json_object_set_new(body, "scopes", json_split(scopes ? scopes : "teams:read,teams:write"));
    if (teams)
        json_object_set_new(body, "teams", json_split(teams));
    if (call_value(call, "--tier"))
        json_put_text(body, "tier", call_value(call, "--tier"));
    if (call_value(call, "--as"))
        json_put_text(body, "speaksFor", call_value(call, "--as"));
    if (call_value(call, "--curve"))
        json_object_set_new(body, "curve", json_true());
    result = put_rate(call, body);
    if (!result)
        result = put_expires(call, body);
    if (result) {
        json_decref(body);
        return result;
    }
    result = client_request(client, "POST", "/api/v1/keys", client_body(client, body), KEY_TIMEOUT_MS, &answer);
    if (!result)
        print_key(client, answer, "");
    json_decref(answer);
    return result;
}

static int
list(const struct client *client, const struct call *call)
{
    json_t *answer = NULL;
    int result = client_request(client, "GET", "/api/v1/keys", NULL, KEY_TIMEOUT_MS, &answer);

    (void)call;
    if (!result && client->json)
        json_print(answer);
    else if (!result)
        show_keys(json_is_array(answer) ? answer : json_object_get(answer, "keys"));
    json_decref(answer);
    return result;
}

/* The old text goes on to work for --overlap, or ends with this. */
static int
rotate(const struct client *client, const struct call *call)
{
    json_t *answer = NULL;
    const char *body;
    char until[32];
    int result = client_overlap(client, call, &body);

    if (!result)
        result = client_request(client, "POST", client_path(client, "/api/v1/keys/", call->args[0], "/rotate"), body,
                                KEY_TIMEOUT_MS, &answer);
    if (!result) {
        term_time(until, sizeof until, json_number(answer, "oldUntil"));
        print_key(client, answer,
                  json_number(answer, "oldUntil") > 0
                      ? muster_arena_printf(client->arena, "  The old one works until %s: replace it by then.", until)
                      : "  The old one works no longer: replace it wherever it is kept.");
    }
    json_decref(answer);
    return result;
}

static int
end(const struct client *client, const struct call *call)
{
    json_t *answer = NULL;
    int result = client_request(client, "DELETE", client_path(client, "/api/v1/keys/", call->args[0], ""), NULL,
                                KEY_TIMEOUT_MS, &answer);

    if (!result && client->json)
        json_print(answer);
    else if (!result)
        puts("revoked");
    json_decref(answer);
    return result;
}

int
run_key_create(const struct call *call)
{
    return client_run(call, create);
}

int
run_key_list(const struct call *call)
{
    return client_run(call, list);
}

int
run_key_rotate(const struct call *call)
{
    return client_run(call, rotate);
}

int
run_key_revoke(const struct call *call)
{
    return client_run(call, end);
}
