/* SPDX-License-Identifier: MPL-2.0 */
/* iris: answers to a client on the WebSocket, its refusals above all: in the shape of the document's error, counted
 * against the rate as refused requests are.  The connection's thread. */
#include "api/dialects/iris_talk.h"

#include <stdarg.h>

/* ---- answers ---- */

void
talk_answer(const struct talk *talk, const struct muster_type *type, const void *body)
{
    struct muster_buf text = {0};

    muster_json_encode(type, body, &text);
    http_socket_send(talk->request, text.data, text.size);
    muster_buf_free(&text);
}

static void
answer_error(const struct talk *talk, muster_err err, const struct about *about, const char *words)
{
    struct iris_socket_error error = {.type = "error",
                                      .messageId = about->message_id,
                                      .team = about->team,
                                      .error = words,
                                      .code = muster_err_code(err),
                                      .message = words,
                                      .id = talk->id,
                                      .details = about->details,
                                      .retryAfter = about->retry_after_s,
                                      .timestamp = muster_clock_ms()};

    talk_answer(talk, &iris_socket_error_type, &error);
}

bool
talk_count(struct talk *talk)
{
    struct about about = {.message_id = NULL};
    const char *words;
    muster_err err;

    if (talk->counted)
        return true;
    talk->counted = true;
    err = http_socket_count(talk->request);
    if (err == MUSTER_OK || err == MUSTER_GONE)
        return err == MUSTER_OK;
    words = http_told(talk->request, err, &about.retry_after_s);
    answer_error(talk, err == MUSTER_TIMEOUT ? MUSTER_OVERLOADED : err, &about, words);
    return false;
}

void
talk_refuse(struct talk *talk, muster_err err, const struct about *about, const char *format, ...)
{
    struct muster_buf words = {0};
    va_list args;

    va_start(args, format);
    muster_buf_vprintf(&words, format, args);
    va_end(args);
    if (talk_count(talk))
        answer_error(talk, err, about, words.data ? words.data : "");
    muster_buf_free(&words);
}

void
talk_refuse_field(struct talk *talk, const struct about *about, const char *field, const char *expected)
{
    struct iris_misfit misfit = {field, expected};
    struct about whole = *about;

    whole.details = iris_json(talk->arena, &iris_misfit_type, &misfit);
    talk_refuse(talk, MUSTER_INVALID_REQUEST, &whole, "%s%s%s", field, *field ? ": " : "", expected);
}

void
talk_refuse_as_told(struct talk *talk, muster_err err, const struct about *about)
{
    struct about whole = *about;
    const char *words = http_told(talk->request, err, &whole.retry_after_s);

    talk->counted = true;
    if (err != MUSTER_GONE)
        answer_error(talk, err, &whole, words);
}

void
talk_refuse_cursor(struct talk *talk, muster_err err, const struct about *about)
{
    struct muster_store *store = http_house(talk->request)->store;
    struct about whole = *about;
    char oldest[MUSTER_CURSOR_TEXT];

    if (err == MUSTER_INVALID_REQUEST) {
        talk_refuse_field(talk, about, "after", "must be a cursor");
        return;
    }
    muster_cursor_text(store, muster_log_oldest(store), oldest);
    whole.details = muster_arena_printf(talk->arena, "{\"oldest\":\"%s\"}", oldest);
    talk_refuse(talk, err, &whole, "%s", muster_err_text(err));
}

/* ---- checks ---- */

bool
talk_read_body(struct talk *talk, const struct muster_type *type, void *out)
{
    struct muster_fault fault = {"", ""};

    if (muster_json_decode(type, talk->text, talk->size, 0, talk->arena, out, &fault) == MUSTER_OK)
        return true;
    talk_refuse_field(talk, &(struct about){.message_id = NULL}, fault.field, fault.message);
    return false;
}

bool
talk_may(struct talk *talk, const char *scope)
{
    const struct muster_strs *held = &http_key(talk->request)->scopes;
    struct iris_lacking lacking = {{&scope, 1}, *held};
    struct about about = {.message_id = NULL};

    if (muster_scope_grants(held, scope))
        return true;
    about.details = iris_json(talk->arena, &iris_lacking_type, &lacking);
    talk_refuse(talk, MUSTER_FORBIDDEN, &about, "%s: the key lacks %s", muster_err_text(MUSTER_FORBIDDEN), scope);
    return false;
}

bool
talk_find_team(struct talk *talk, const char *name, const struct team_options **out_team)
{
    struct about about = {.team = name};

    *out_team = muster_team_options(http_house(talk->request)->options, name);
    if (!http_may_use(talk->request, name))
        talk_refuse(talk, MUSTER_FORBIDDEN, &about, "This key may not use team '%s'", name);
    else if (*out_team == NULL)
        talk_refuse(talk, MUSTER_TEAM_NOT_FOUND, &about, "Team '%s' does not exist", name);
    else
        return true;
    return false;
}

bool
talk_find_message(struct talk *talk, const char *name, struct job *out_job)
{
    struct about about = {.message_id = name};

    if (iris_look_up(talk->request, name, out_job))
        return true;
    talk_refuse(talk, MUSTER_NOT_FOUND, &about, "There is no such message");
    return false;
}
