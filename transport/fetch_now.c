/* SPDX-License-Identifier: MPL-2.0 */
/* fetch_now: one request on the caller's thread, its answer whole or piece by piece.
 *
 * Any thread; blocks until the answer has ended.  Fails when no answer comes, in time or at all. */
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "transport/fetch.h"

struct receiver {
    CURL *easy;
    bool (*data)(void *arg, long status, const char *bytes, size_t size);
    void *arg;
    struct muster_buf *body; /* may be NULL */
    bool broke_off;
};

static size_t
on_data(char *bytes, size_t unit, size_t count, void *arg)
{
    struct receiver *receiver = arg;
    size_t size = unit * count;
    long status = 0;

    if (!receiver->data) {
        if (receiver->body)
            muster_buf_add(receiver->body, bytes, size);
        return size;
    }
    curl_easy_getinfo(receiver->easy, CURLINFO_RESPONSE_CODE, &status);
    if (receiver->data(receiver->arg, status, bytes, size))
        return size;
    receiver->broke_off = true;
    return 0;
}

/* Perform without SIGPIPE: OpenSSL writes to a closed connection, and the thread is the caller's. */
static CURLcode
perform(CURL *easy)
{
    const struct timespec at_once = {0};
    sigset_t pipe_only, before, pending;
    bool was_pending;
    CURLcode code;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigpending(&pending);
    was_pending = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    code = curl_easy_perform(easy);
    if (!was_pending)
        (void)sigtimedwait(&pipe_only, NULL, &at_once); /* take back the one we may have caused */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static muster_err
err_of(CURLcode code, const struct receiver *receiver)
{
    if (receiver->broke_off)
        return MUSTER_CANCELLED;
    if (code == CURLE_OPERATION_TIMEDOUT)
        return MUSTER_TIMEOUT;
    return code == CURLE_OK ? MUSTER_OK : MUSTER_GONE;
}

muster_err
muster_fetch_now(const struct muster_fetch_spec *spec,
                 bool (*data)(void *arg, long status, const char *bytes, size_t size), void *arg, long *out_status,
                 struct muster_buf *out_body, char *problem, size_t problem_size)
{
    struct muster_buf body = {0};
    struct request request;
    struct receiver receiver = {.data = data, .arg = arg, .body = out_body ? &body : NULL};
    CURLcode code = CURLE_BAD_FUNCTION_ARGUMENT;
    muster_err err;
    long status = 0;

    request_init(&request, spec);
    receiver.easy = request.easy;
    curl_easy_setopt(request.easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(request.easy, CURLOPT_WRITEDATA, &receiver);
    if (!request.refused[0])
        code = perform(request.easy);
    err = err_of(code, &receiver);
    curl_easy_getinfo(request.easy, CURLINFO_RESPONSE_CODE, &status);
    if (err && problem_size > 0)
        snprintf(problem, problem_size, "%s", request_problem(&request, code));
    if (!err) {
        *out_status = status;
        if (out_body)
            muster_buf_add(out_body, body.data, body.size);
    }
    muster_buf_free(&body);
    request_fini(&request);
    return err;
}
