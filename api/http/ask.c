/* SPDX-License-Identifier: MPL-2.0 */
/* Asks actors on behalf of a request and waits.  The connection's thread.
 *
 * A thread has one mailbox, opened at its first ask.  Every message has a number, so an answer to an earlier one is
 * known and dropped; after an ask that nobody waited for to the end the mailbox is closed, and a late answer finds
 * nobody. */
#include <stdlib.h>
#include <string.h>

#include "api/http/gateway.h"

enum { POST_LIMIT = 64, SLICE_MS = 1000 };

/* ---- telling what went wrong ---- */

static muster_err
tell(struct http_request *request, muster_err err, const char *message, int64_t retry_after_s)
{
    request->told.message = message;
    request->told.retry_after_s = retry_after_s;
    return err;
}

static muster_err
tell_plain(struct http_request *request, muster_err err)
{
    return tell(request, err, muster_err_text(err), 0);
}

static void
fail_rate_limited(struct http_request *request)
{
    const struct rate_limit *limit = &request->limit;
    struct muster_buf details = {0};

    muster_buf_printf(&details, "{\"limit\":%lld,\"window\":%lld,\"resetAt\":%lld}", (long long)limit->requests,
                      (long long)limit->window, (long long)request->rate.rate_reset_s * 1000);
    http_fail_details(request, MUSTER_RATE_LIMITED, details.data, "%s", request->told.message);
    muster_buf_free(&details);
}

const char *
http_told(const struct http_request *request, muster_err err, int64_t *out_retry_after_s)
{
    int64_t wait_s = request->told.retry_after_s;

    if (wait_s <= 0 && err == MUSTER_RATE_LIMITED && request->rate.rate_limit > 0)
        wait_s = request->rate.rate_reset_s - muster_clock_ms() / 1000;
    *out_retry_after_s = wait_s > 0 ? wait_s : 0;
    return request->told.message ? request->told.message : muster_err_text(err);
}

void
http_fail_as_told(struct http_request *request, muster_err err)
{
    if (err == MUSTER_GONE)
        http_gone(request);
    else if (err == MUSTER_RATE_LIMITED)
        fail_rate_limited(request);
    else
        http_fail(request, err, "%s", request->told.message);
}

/* ---- sending ---- */

static muster_err
thread_post(struct http_thread *thread)
{
    if (thread->post)
        return MUSTER_OK;
    return muster_post_open(thread->server->house.bus, NULL, POST_LIMIT, &thread->post);
}

static void
fill_envelope(struct http_request *request, int64_t timeout_ms, struct muster_envelope *envelope)
{
    struct http_thread *thread = request->thread;

    memset(envelope, 0, sizeof *envelope);
    envelope->type = "";
    envelope->id = ++thread->asked;
    envelope->reply_to = muster_post_address(thread->post);
    envelope->deadline_ms = muster_clock_ms() + timeout_ms;
    envelope->trace = request->id;
    envelope->principal.key = request->key.id;
    envelope->principal.name = request->key.name ? request->key.name : "";
}

static muster_err
send_body(struct http_request *request, const char *to, const struct muster_type *type, const void *body,
          int64_t timeout_ms)
{
    struct muster_envelope envelope;
    struct muster_buf frame = {0};
    muster_err err;

    fill_envelope(request, timeout_ms, &envelope);
    muster_envelope_pack(&envelope, type, body, &frame);
    err = muster_post_send(request->thread->post, to, &frame);
    muster_buf_free(&frame);
    if (err == MUSTER_OK)
        return MUSTER_OK;
    return tell_plain(request, request->server->stopping ? MUSTER_SHUTTING_DOWN : MUSTER_OVERLOADED);
}

static bool
is_limited(const struct http_request *request)
{
    return request->pass.given && request->limit.requests > 0;
}

/* `to` NULL: only count. */
static muster_err
send_through_limiter(struct http_request *request, const char *to, const struct muster_type *type, const void *body,
                     int64_t timeout_ms)
{
    struct muster_buf packed = {0};
    struct limit_take take = {.requests = request->limit.requests,
                              .window = request->limit.window,
                              .algorithm = request->limit.algorithm,
                              .cost = request->entry->route->cost,
                              .next = to,
                              .type = type ? type->wire : NULL};
    muster_err err;

    if (type) {
        muster_pack(type, body, &packed);
        take.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    }
    err = send_body(request, MUSTER_LIMIT, &limit_take_type, &take, timeout_ms);
    muster_buf_free(&packed);
    if (err == MUSTER_OK)
        request->counted = true;
    return err;
}

/* ---- waiting ---- */

static muster_err
open_failed(struct http_request *request, const struct muster_envelope *envelope)
{
    struct failed failed;

    if (muster_unpack(&failed_type, envelope->body.data, envelope->body.size, request->thread->arena, &failed, NULL))
        return tell_plain(request, MUSTER_INTERNAL_ERROR);
    return tell(request, muster_err_from_code(failed.code),
                failed.message ? failed.message : muster_err_text(muster_err_from_code(failed.code)),
                failed.retry_after_s);
}

/* MUSTER_AGAIN: it is an answer to something else. */
static muster_err
open_answer(struct http_request *request, const struct muster_frame *frame, const struct muster_type *answer, void *out)
{
    struct muster_arena *arena = request->thread->arena;
    struct muster_envelope envelope;
    muster_err err;

    if (muster_envelope_open(frame->data, frame->size, arena, &envelope) || envelope.id != request->thread->asked)
        return MUSTER_AGAIN;
    if (envelope.principal.rate_limit > 0)
        request->rate = envelope.principal;
    if (strcmp(envelope.type, failed_type.wire) == 0) {
        err = open_failed(request, &envelope);
        return err == MUSTER_OK || err == MUSTER_AGAIN ? MUSTER_INTERNAL_ERROR : err;
    }
    if (strcmp(envelope.type, answer->wire) != 0 ||
        muster_unpack(answer, envelope.body.data, envelope.body.size, arena, out, NULL))
        return tell_plain(request, MUSTER_INTERNAL_ERROR);
    return MUSTER_OK;
}

static muster_err
wait_one(struct http_request *request, const struct muster_type *answer, void *out, int64_t end_us, int fd)
{
    struct muster_frame frame = {0};
    int64_t left_ms = (end_us - http_clock_us() + 999) / 1000;
    muster_err err;

    if (left_ms <= 0)
        return MUSTER_TIMEOUT;
    err = muster_post_receive(request->thread->post, left_ms < SLICE_MS || fd >= 0 ? left_ms : SLICE_MS, fd, &frame);
    if (err == MUSTER_OK)
        err = open_answer(request, &frame, answer, out);
    else if (err == MUSTER_TIMEOUT)
        err = MUSTER_AGAIN;
    muster_frame_free(&frame);
    return err;
}

static muster_err
wait_answer(struct http_request *request, const struct muster_type *answer, void *out, int64_t timeout_ms)
{
    int64_t end_us = http_clock_us() + timeout_ms * 1000;
    muster_err err = MUSTER_AGAIN;
    int fd = http_fd(request);

    http_watch_begin(request, HTTP_ASKING, timeout_ms);
    while (err == MUSTER_AGAIN && !request->server->stopping)
        err = wait_one(request, answer, out, end_us, fd);
    (void)http_watch_end(request);
    if (request->server->stopping && (err == MUSTER_AGAIN || err == MUSTER_GONE))
        err = tell_plain(request, MUSTER_SHUTTING_DOWN);
    if (err == MUSTER_TIMEOUT)
        (void)tell(request, err, "No answer came in time", 0);
    if (err == MUSTER_TIMEOUT || err == MUSTER_GONE || err == MUSTER_SHUTTING_DOWN)
        muster_post_close(&request->thread->post);
    return err;
}

/* ---- the ways to ask ---- */

muster_err
http_ask_directly(struct http_request *request, const char *to, const struct muster_type *type, const void *body,
                  const struct muster_type *answer, void *out, int64_t timeout_ms)
{
    muster_err err;

    if (thread_post(request->thread))
        return tell_plain(request, MUSTER_OVERLOADED);
    err = send_body(request, to, type, body, timeout_ms);
    return err ? err : wait_answer(request, answer, out, timeout_ms);
}

muster_err
http_ask(struct http_request *request, const char *to, const struct muster_type *type, const void *body,
         const struct muster_type *answer, void *out, int64_t timeout_ms)
{
    bool forwards = (request->entry->route->flags & HTTP_FORWARDS) && !request->counted;
    muster_err err;

    if (forwards && request->server->draining)
        return tell_plain(request, MUSTER_SHUTTING_DOWN);
    if (!forwards || !is_limited(request))
        return http_ask_directly(request, to, type, body, answer, out, timeout_ms);
    if (thread_post(request->thread))
        return tell_plain(request, MUSTER_OVERLOADED);
    err = send_through_limiter(request, to, type, body, timeout_ms);
    return err ? err : wait_answer(request, answer, out, timeout_ms);
}

muster_err
http_await(struct http_request *request, const struct muster_type *answer, void *out, int64_t timeout_ms)
{
    return wait_answer(request, answer, out, timeout_ms);
}

static muster_err
count(struct http_request *request)
{
    struct limit_taken taken;
    muster_err err;

    if (request->counted || !is_limited(request))
        return MUSTER_OK;
    err = thread_post(request->thread) ? tell_plain(request, MUSTER_OVERLOADED)
                                       : send_through_limiter(request, NULL, NULL, NULL, HTTP_HOP_MS);
    request->counted = true; /* as far as it could be: what is answered now does not come here again */
    return err ? err : wait_answer(request, &limit_taken_type, &taken, HTTP_HOP_MS);
}

bool
http_count(struct http_request *request)
{
    muster_err err = count(request);

    if (err == MUSTER_OK)
        return true;
    http_fail_as_told(request, err == MUSTER_TIMEOUT ? MUSTER_OVERLOADED : err);
    return false;
}

muster_err
http_count_message(struct http_request *request)
{
    muster_err err = count(request);

    return err == MUSTER_TIMEOUT ? tell_plain(request, MUSTER_OVERLOADED) : err;
}

bool
http_count_refusal(struct http_request *request)
{
    if (count(request) != MUSTER_RATE_LIMITED)
        return true;
    fail_rate_limited(request);
    return false;
}

bool
http_wait_begin(struct http_request *request)
{
    struct http_server *server = request->server;

    if (++server->waiting <= server->options->max_waiting)
        return true;
    server->waiting--;
    return false;
}

void
http_wait_end(struct http_request *request)
{
    request->server->waiting--;
}
