/* SPDX-License-Identifier: MPL-2.0 */
/* Errors of client.h: answers that refuse, and servers that do not answer, as one line on standard error.  Main
 * thread. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tools/client.h"
#include "tools/term.h"

int
complain(int code, const char *format, ...)
{
    struct muster_buf line = {0};
    va_list args;

    va_start(args, format);
    muster_buf_vprintf(&line, format, args);
    va_end(args);
    fflush(stdout);
    term_print_safe(stderr, "muster: ", 8);
    term_print_safe(stderr, line.data, line.size);
    fputc('\n', stderr);
    muster_buf_free(&line);
    return code;
}

int
client_unreachable(const struct client *client, const char *problem)
{
    return complain(EXIT_UNREACHABLE, "cannot reach %s (%s): start it with muster serve, or give --url", client->url,
                    problem);
}

/* The message id that a 408 names, wherever it stands. */
static const char *
job_of_error(const json_t *error)
{
    const char *id = json_text(error, "messageId");

    return *id ? id : json_text(json_object_get(error, "details"), "messageId");
}

/* Append the scopes that a 403 names as required; nothing when the reason is another. */
static void
add_scopes_advice(struct muster_buf *out, const json_t *details)
{
    const json_t *required = json_object_get(details, "required");
    const json_t *scope;
    size_t i;

    json_array_foreach(required, i, scope)
    {
        if (json_is_string(scope))
            muster_buf_printf(out, "%s%s", i ? ", " : "use a key with the scopes ", json_string_value(scope));
    }
}

/* Append how long a 429 asks to wait. */
static void
add_wait_advice(struct muster_buf *out, const json_t *details)
{
    int64_t reset_ms = json_number(details, "resetAt");
    int64_t wait_ms;
    struct timespec now;
    char span[32];

    if (reset_ms <= 0)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    wait_ms = reset_ms - ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    term_span(span, sizeof span, wait_ms < 1000 ? 1000 : (wait_ms + 999) / 1000 * 1000);
    muster_buf_printf(out, "try again in %s", span);
}

static bool
is_at_work(const json_t *error)
{
    return strcmp(json_text(error, "code"), "IDEMPOTENCY_IN_PROGRESS") == 0;
}

/* What the answer itself says that helps, else what the table knows; may stay empty. */
static void
add_advice(struct muster_buf *out, int result, long status, const json_t *error)
{
    const json_t *details = json_object_get(error, "details");
    const char *id = job_of_error(error);

    if (status == 403)
        add_scopes_advice(out, details);
    else if (status == 429)
        add_wait_advice(out, details);
    else if (*id && (result == EXIT_FAILED || is_at_work(error)))
        muster_buf_printf(out, "see muster job %s", id);
    if (out->size == 0)
        muster_buf_str(out, exit_advice(status, json_text(error, "code")));
}

/* "message (CODE): advice" */
static void
tell_refused(int result, long status, const char *message, const json_t *error)
{
    const char *code = json_text(error, "code");
    const char *id = job_of_error(error);
    struct muster_buf advice = {0};
    size_t size = strlen(message);

    if (result == EXIT_TIMEOUT && *id) {
        complain(result, "no answer yet; it goes on: muster job %s", id);
        return;
    }
    add_advice(&advice, result, status, error);
    size -= size > 0 && message[size - 1] == '.';
    if (size == 0)
        complain(result, "the server answered with status %ld%s%s", status, advice.size ? ": " : "", advice.data);
    else
        complain(result, "%.*s (%s)%s%s", (int)size, message, *code ? code : "no code", advice.size ? ": " : "",
                 advice.data);
    muster_buf_free(&advice);
}

int
client_refused(const struct client *client, long status, const char *body, size_t size)
{
    json_t *error = body ? json_loadb(body, size, 0, NULL) : NULL;
    const char *message = json_text(error, "message");
    int result = exit_of_answer(status, json_text(error, "code"));

    if (result == EXIT_TIMEOUT && json_number(json_object_get(error, "details"), "attempts") > 0)
        result = EXIT_FAILED; /* not our patience has ended but the job */
    if (client->json && error)
        json_print(error);
    tell_refused(result, status, *message ? message : json_text(error, "error"), error);
    json_decref(error);
    return result;
}
