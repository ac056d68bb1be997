/* SPDX-License-Identifier: MPL-2.0 */
/* Answers: head and body leave in one write, because two would meet Nagle's algorithm, and each is bounded in time.
 * The connection's thread. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "api/http/gateway.h"

enum { SMALL_ANSWER = 16384 /* always fits the socket's buffer: needs no watch */ };

/* ---- the head ---- */

static const char *
phrase(int status)
{
    static const struct {
        int status;
        const char *text;
    } rows[] = {
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {507, "Insufficient Storage"},
    };
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].status == status)
            return rows[i].text;
    return "Unknown";
}

/* Not strftime, whose names of days depend on the locale. */
static void
put_date(struct muster_buf *out)
{
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t now = (time_t)(muster_clock_ms() / 1000);
    struct tm tm = {0};

    (void)gmtime_r(&now, &tm);
    muster_buf_add(out, days + 3 * tm.tm_wday, 3);
    muster_buf_str(out, ", ");
    muster_buf_digits(out, tm.tm_mday, 2);
    muster_buf_str(out, " ");
    muster_buf_add(out, months + 3 * tm.tm_mon, 3);
    muster_buf_str(out, " ");
    muster_buf_digits(out, tm.tm_year + 1900, 4);
    muster_buf_str(out, " ");
    muster_buf_clock(out, tm.tm_hour, tm.tm_min, tm.tm_sec);
    muster_buf_str(out, " GMT");
}

static void
put_header(struct muster_buf *out, const char *name, const char *value)
{
    muster_buf_str(out, name);
    muster_buf_str(out, ": ");
    muster_buf_str(out, value);
    muster_buf_str(out, "\r\n");
}

/* `name` with what stands between it and the number. */
static void
put_number(struct muster_buf *out, const char *name, int64_t number)
{
    muster_buf_str(out, name);
    muster_buf_int(out, number);
}

static void
head_rate(const struct http_request *request, struct muster_buf *out, int status)
{
    const struct muster_principal *rate = &request->rate;
    int64_t wait_s = rate->rate_reset_s - muster_clock_ms() / 1000;
    int64_t left = rate->rate_left > 0 ? rate->rate_left : 0;

    if (rate->rate_limit <= 0)
        return;
    if (wait_s > rate->rate_window_s) /* both ends were rounded to seconds */
        wait_s = rate->rate_window_s;
    if (status == 429 && request->told.retry_after_s > 0 && wait_s > request->told.retry_after_s)
        wait_s = request->told.retry_after_s; /* Retry-After must not be earlier */
    put_number(out, "X-RateLimit-Limit: ", rate->rate_limit);
    put_number(out, "\r\nX-RateLimit-Remaining: ", left);
    put_number(out, "\r\nX-RateLimit-Reset: ", rate->rate_reset_s);
    put_number(out, "\r\nRateLimit-Policy: \"default\";q=", rate->rate_limit);
    put_number(out, ";w=", rate->rate_window_s);
    put_number(out, "\r\nRateLimit: \"default\";r=", left);
    put_number(out, ";t=", wait_s > 0 ? wait_s : 0);
    muster_buf_str(out, "\r\n");
}

static void
head_retry(const struct http_request *request, struct muster_buf *out, int status)
{
    int64_t wait_s = request->told.retry_after_s;

    if (status != 429 && status != 503 && status != 507 && (status != 409 || wait_s <= 0))
        return;
    if (wait_s <= 0 && status == 429 && request->rate.rate_limit > 0)
        wait_s = request->rate.rate_reset_s - muster_clock_ms() / 1000;
    muster_buf_printf(out, "Retry-After: %lld\r\n", (long long)(wait_s > 0 ? wait_s : HTTP_RETRY_AFTER_S));
}

/* What the body is. */
static void
head_body(struct muster_buf *out, int status, const char *content_type, int64_t size)
{
    if (status == 101)
        return;
    if (status != 204)
        put_header(out, "Content-Type", content_type);
    if (size >= 0 && status != 204) {
        put_number(out, "Content-Length: ", size);
        muster_buf_str(out, "\r\n");
    }
    if (size >= 0)
        muster_buf_str(out, "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n");
    else
        muster_buf_str(out, "X-Content-Type-Options: nosniff\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
}

void
http_head(struct http_request *request, struct muster_buf *out, int status, const char *content_type, int64_t size)
{
    const char *connection = request->keep_alive ? "keep-alive" : "close";
    size_t i;

    put_number(out, "HTTP/1.1 ", status);
    muster_buf_str(out, " ");
    muster_buf_str(out, phrase(status));
    muster_buf_str(out, "\r\nDate: ");
    put_date(out);
    muster_buf_str(out, "\r\n");
    put_header(out, "Connection", status == 101 ? "Upgrade" : connection);
    put_header(out, "X-Request-Id", request->id);
    head_body(out, status, content_type, size);
    if (status == 401)
        http_challenge(request, out);
    if (status == 405 && request->allow)
        put_header(out, "Allow", request->allow);
    for (i = 0; i < request->header_count; i++)
        put_header(out, request->headers[i].name, request->headers[i].value);
    head_rate(request, out, status);
    head_retry(request, out, status);
    muster_buf_str(out, "\r\n");
}

void
http_add_header(struct http_request *request, const char *name, const char *value)
{
    MUSTER_ASSERT(request->header_count < HTTP_HEADERS);
    MUSTER_ASSERT(strpbrk(value, "\r\n") == NULL);
    request->headers[request->header_count++] = (struct http_field){name, value};
}

void
http_close(struct http_request *request)
{
    request->keep_alive = false;
    mg_disable_connection_keep_alive(request->connection);
}

/* ---- the whole ---- */

static void
write_out(struct http_request *request, const struct muster_buf *out)
{
    bool watched = out->size > SMALL_ANSWER;
    int written;

    if (watched)
        http_watch_begin(request, HTTP_WRITING, request->server->options->request_timeout);
    written = mg_write(request->connection, out->data, out->size);
    if (watched)
        (void)http_watch_end(request);
    if (written < 0 || (size_t)written != out->size)
        http_close(request);
}

void
http_answer(struct http_request *request, int status, const char *content_type, const char *body, size_t size)
{
    struct muster_buf *out = &request->thread->out;

    MUSTER_ASSERT(!request->answered);
    request->answered = true;
    request->status = status;
    http_guard_rest(request);
    muster_buf_clear(out);
    http_head(request, out, status, content_type, (int64_t)size);
    if (!request->head_only && status != 204)
        muster_buf_add(out, body, size);
    write_out(request, out);
}

void
http_answer_type(struct http_request *request, int status, const struct muster_type *type, const void *body)
{
    struct muster_buf *text = &request->thread->text;

    muster_buf_clear(text);
    muster_json_encode(type, body, text);
    http_answer(request, status, "application/json", text->data, text->size);
}

/* A refusal counts against the rate like an answer; failures of ours do not.  False: the rate was refused and that was
 * answered instead. */
static bool
count_refusal(struct http_request *request, muster_err err)
{
    int64_t retry_after_s = request->told.retry_after_s;
    bool counted;

    if (request->counted || !request->pass.given || muster_err_http(err) >= 500 || request->server->stopping)
        return true;
    counted = http_count_refusal(request);
    request->told.retry_after_s = retry_after_s;
    return counted;
}

static void
fail_text(struct http_request *request, int status, muster_err err, const char *details, const char *message)
{
    struct muster_buf *text = &request->thread->text;

    if (!count_refusal(request, err))
        return;
    muster_buf_clear(text);
    request->dialect->render_error(text, err, message, details, muster_clock_ms());
    http_answer(request, status, "application/json", text->data, text->size);
}

static void
fail(struct http_request *request, muster_err err, const char *details, const char *format, va_list args)
{
    struct muster_buf message = {0};

    muster_buf_vprintf(&message, format, args);
    fail_text(request, muster_err_http(err), err, details, message.data ? message.data : "");
    muster_buf_free(&message);
}

void
http_fail_status(struct http_request *request, int status, muster_err err, const char *message)
{
    fail_text(request, status, err, NULL, message);
}

void
http_fail(struct http_request *request, muster_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fail(request, err, NULL, format, args);
    va_end(args);
}

void
http_fail_details(struct http_request *request, muster_err err, const char *details, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fail(request, err, details, format, args);
    va_end(args);
}

void
http_error_lift(struct muster_buf *out, muster_err err, const char *details)
{
    if ((err != MUSTER_FORBIDDEN && err != MUSTER_RATE_LIMITED) || details == NULL || details[0] != '{' ||
        details[1] == '}')
        return;
    out->size--; /* the brace at the end */
    muster_buf_str(out, ",");
    muster_buf_str(out, details + 1);
}

void
http_fail_field(struct http_request *request, const char *field, const char *expected)
{
    struct muster_buf details = {0};

    muster_buf_str(&details, "{\"field\":");
    muster_json_quote(&details, field, strlen(field));
    muster_buf_str(&details, ",\"expected\":");
    muster_json_quote(&details, expected, strlen(expected));
    muster_buf_str(&details, "}");
    http_fail_details(request, MUSTER_INVALID_REQUEST, details.data, "%s%s%s", field, *field ? ": " : "", expected);
    muster_buf_free(&details);
}
