/* SPDX-License-Identifier: MPL-2.0 */
/* ask, execute and stream: give a team something to do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schemas/muster_options.h"
#include "tools/client.h"
#include "tools/commands.h"
#include "tools/follow.h"
#include "tools/term.h"

#define ANSWER_MARGIN_MS 10000 /* what the server may take longer than the patience that it was told */
#define SUBMIT_TIMEOUT_MS 30000
#define ATTEMPTS_MAX 100
#define IDEMPOTENCY_KEY_MAX 255
#define UNIX_MS_MIN 100000000000 /* a plain --deadline from here on is a time; below it a unit was forgotten */
#define ASK_DEFAULT_MS 1800000   /* patience where nobody can see what happens; the server's own default is short */

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

/* What ask, execute and stream take alike: the text under its name, priority, context and session.  EXIT_DONE:
 * *out_body is the caller's. */
static int
make_body(const struct call *call, const char *name, const char *text, json_t **out_body)
{
    json_t *body = json_object();
    int result = put_context(call, body);

    if (result) {
        json_decref(body);
        return result;
    }
    json_put_text(body, name, text);
    if (call_value(call, "--priority"))
        json_put_text(body, "priority", call_value(call, "--priority"));
    if (call_value(call, "--session"))
        json_put_text(body, "sessionId", call_value(call, "--session"));
    *out_body = body;
    return EXIT_DONE;
}

/* ---- ask ---- */

/* What is asked. */
struct question {
    const struct call *call;
    const char *team;
    const char *text;
    int64_t timeout_ms; /* 0: the caller did not say */
};

/* Send and wait.  `timeout_ms` 0: as long as the server likes. */
static int
send_question(const struct client *client, const struct question *question, int64_t timeout_ms,
              struct client_reply *out)
{
    json_t *body;
    int result = make_body(question->call, "question", question->text, &body);

    if (result)
        return result;
    if (timeout_ms)
        json_object_set_new(body, "timeout", json_integer(timeout_ms));
    client_send(client, "POST", client_path(client, "/api/v1/teams/", question->team, "/ask"),
                client_body(client, body), timeout_ms ? timeout_ms + ANSWER_MARGIN_MS : 0, out);
    return EXIT_DONE;
}

/* One request, one answer.  A server that allows less than our default is asked for its own. */
static int
ask_plainly(const struct client *client, const struct question *question)
{
    struct term *term = term_start(!client->json && isatty(STDOUT_FILENO), 0);
    struct client_reply reply;
    json_t *answer = NULL;
    const char *text;
    int result;

    term_label(term, "waiting");
    result = send_question(client, question, question->timeout_ms ? question->timeout_ms : ASK_DEFAULT_MS, &reply);
    if (!result && !question->timeout_ms && client_is_about(&reply, "timeout")) {
        client_drop(&reply);
        result = send_question(client, question, 0, &reply);
    }
    term_clear(term);
    if (!result)
        result = client_take(client, &reply, &answer);
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

/* On a terminal the answer is shown as it comes, if the key may stream. */
static int
ask_watching(const struct client *client, const struct question *question)
{
    bool forbidden = false;
    json_t *body;
    int result = make_body(question->call, "message", question->text, &body);

    if (result)
        return result;
    result = follow_new(client, client_path(client, "/api/v1/teams/", question->team, "/stream"),
                        client_body(client, body), question->timeout_ms, &forbidden);
    return forbidden ? ask_plainly(client, question) : result;
}

static int
ask(const struct client *client, const struct call *call)
{
    struct question question = {.call = call, .team = call->args[0]};
    int result = client_text(client, call, 1, &question.text);

    if (!result)
        result = client_duration(call, "--timeout", &question.timeout_ms);
    if (result)
        return result;
    if (!client->json && isatty(STDOUT_FILENO))
        return ask_watching(client, &question);
    return ask_plainly(client, &question);
}

/* ---- stream ---- */

static int
stream(const struct client *client, const struct call *call)
{
    json_t *body;
    const char *text = NULL;
    int result = client_text(client, call, 1, &text);

    if (!result)
        result = make_body(call, "message", text, &body);
    if (result)
        return result;
    json_object_set_new(body, "stream", json_true());
    return follow_new(client, client_path(client, "/api/v1/teams/", call->args[0], "/stream"),
                      client_body(client, body), 0, NULL);
}

/* ---- execute ---- */

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
    fputs(*json_text(answer, "status") ? json_text(answer, "status") : "accepted", stderr);
    if (json_number(answer, "position") > 0)
        fprintf(stderr, " at position %lld", (long long)json_number(answer, "position"));
    term_time(time, sizeof time, json_number(answer, "estimatedCompletion"));
    if (json_number(answer, "estimatedCompletion") > 0)
        fprintf(stderr, ", likely done at %s", time);
    fprintf(stderr, ": muster job %s --follow\n", id);
}

/* In a span from now, or at a time that the server reads. */
static int
put_deadline(const struct call *call, json_t *body)
{
    const char *text = call_value(call, "--deadline");
    int64_t span_ms = 0;
    int result;

    if (!text)
        return EXIT_DONE;
    if (strchr(text, '-')) {
        json_put_text(body, "deadline", text);
    } else if (duration_lacks_unit(text) && !strchr(text, '.') && strtoll(text, NULL, 10) >= UNIX_MS_MIN) {
        json_object_set_new(body, "deadline", json_integer(strtoll(text, NULL, 10)));
    } else if (!duration_lacks_unit(text) && muster_duration_parse(text, &span_ms)) {
        return complain(EXIT_USAGE, "--deadline %s is no span or time: write for example 2h or 2026-01-31T18:00Z",
                        text);
    } else {
        result = client_duration(call, "--deadline", &span_ms);
        if (!result && call_value(call, "--idempotency-key"))
            result = complain(EXIT_USAGE,
                              "--deadline %s is another time at each call: with --idempotency-key write a "
                              "time, for example 2026-01-31T18:00Z",
                              text);
        if (result)
            return result;
        json_object_set_new(body, "deadline", json_integer(client_now_ms() + span_ms));
    }
    return EXIT_DONE;
}

static int
put_attempts(const struct call *call, json_t *retry)
{
    const char *text = call_value(call, "--attempts");
    char *end = NULL;
    long count;

    if (!text)
        return EXIT_DONE;
    count = strtol(text, &end, 10);
    if (end == text || *end || count < 1 || count > ATTEMPTS_MAX)
        return complain(EXIT_USAGE, "--attempts %s is no number from 1 to %d: write for example 3", text, ATTEMPTS_MAX);
    json_object_set_new(retry, "maxAttempts", json_integer(count));
    return EXIT_DONE;
}

static int
put_retry(const struct call *call, json_t *body)
{
    json_t *retry = json_object();
    int64_t delay_ms = 0;
    int result = put_attempts(call, retry);

    if (!result)
        result = client_duration(call, "--retry-delay", &delay_ms);
    if (delay_ms)
        json_object_set_new(retry, "delay", json_integer(delay_ms));
    if (!result && json_object_size(retry) > 0)
        json_object_set(body, "retry", retry);
    json_decref(retry);
    return result;
}

/* What only execute has. */
static int
put_limits(const struct call *call, json_t *body)
{
    int64_t timeout_ms = 0;
    int64_t delay_ms = 0;
    json_t *callback;
    int result = client_duration(call, "--timeout", &timeout_ms);

    if (!result)
        result = client_duration(call, "--delay", &delay_ms);
    if (!result)
        result = put_deadline(call, body);
    if (result)
        return result;
    if (timeout_ms)
        json_object_set_new(body, "timeout", json_integer(timeout_ms));
    if (delay_ms)
        json_object_set_new(body, "delay", json_integer(delay_ms));
    if (call_value(call, "--callback")) {
        callback = json_object();
        json_put_text(callback, "url", call_value(call, "--callback"));
        json_object_set_new(body, "callback", callback);
    }
    return put_retry(call, body);
}

/* A key that may not stream looks again and again. */
static int
wait_for_end(const struct client *client, const char *id)
{
    bool forbidden = false;
    int result = follow_job(client, id, &forbidden);

    return forbidden ? poll_job(client, id) : result;
}

static int
execute(const struct client *client, const struct call *call)
{
    json_t *body = NULL;
    json_t *answer = NULL;
    const char *text = NULL;
    int result = client_text(client, call, 1, &text);

    if (!result)
        result = make_body(call, "task", text, &body);
    if (!result)
        result = put_limits(call, body);
    if (result) {
        json_decref(body);
        return result;
    }
    result = client_request(client, "POST", client_path(client, "/api/v1/teams/", call->args[0], "/execute"),
                            client_body(client, body), SUBMIT_TIMEOUT_MS, &answer);
    if (!result && call_value(call, "--wait")) {
        fprintf(stderr, "muster: %s is accepted\n", json_text(answer, "jobId"));
        result = wait_for_end(client, json_text(answer, "jobId"));
    } else if (!result) {
        print_accepted(client, answer);
    }
    json_decref(answer);
    return result;
}

/* ---- all three ---- */

static int
run_once(const struct call *call, int (*run)(const struct client *client, const struct call *call))
{
    const char *key = call_value(call, "--idempotency-key");
    struct client client;
    int result;

    if (key && (!*key || strlen(key) > IDEMPOTENCY_KEY_MAX || !client_is_plain(key)))
        return complain(EXIT_USAGE, "--idempotency-key: write 1 to %d characters without spaces", IDEMPOTENCY_KEY_MAX);
    result = client_open(call, &client);
    if (result)
        return result;
    client.idempotency_key = key;
    result = run(&client, call);
    client_close(&client);
    return result;
}

int
run_ask(const struct call *call)
{
    return run_once(call, ask);
}

int
run_execute(const struct call *call)
{
    return run_once(call, execute);
}

int
run_stream(const struct call *call)
{
    return run_once(call, stream);
}
