/* SPDX-License-Identifier: MPL-2.0 */
/* fetch: many outbound requests on one loop, with libcurl's multi interface.
 *
 * Runs on the loop's thread.  libcurl says which descriptors and which one timer it waits for; the loop wakes it.  A
 * request that cannot be sent ends like one that got no answer.  `done` may start requests and free the fetcher. */
#include "transport/fetch.h"

#include <stdlib.h>

struct call {
    struct request request;
    struct muster_fetcher *fetcher;
    void (*done)(void *arg, const struct muster_fetch_result *result);
    void *arg;
    size_t max_answer;
    bool full; /* the rest of the answer was thrown away */
    struct muster_buf answer;
    int timer; /* of one that is not sent */
    bool sent; /* `multi` has it */
    struct call *next;
    struct call **place; /* the pointer to us in the list */
};

struct muster_fetcher {
    struct muster_loop *loop; /* borrowed */
    CURLM *multi;
    int timer;
    struct call *calls; /* open ones */
    int busy;           /* calls on the stack */
    bool freed;
};

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static void
call_free(struct call *call)
{
    *call->place = call->next;
    if (call->next)
        call->next->place = call->place;
    muster_loop_timer_end(call->fetcher->loop, call->timer);
    if (call->sent)
        curl_multi_remove_handle(call->fetcher->multi, call->request.easy);
    request_fini(&call->request);
    muster_buf_free(&call->answer);
    free(call);
}

static size_t
on_data(char *bytes, size_t unit, size_t count, void *arg)
{
    struct call *call = arg;
    size_t size = unit * count, room = call->max_answer - call->answer.size;

    muster_buf_add(&call->answer, bytes, size < room ? size : room);
    if (size <= room)
        return size;
    call->full = true;
    return 0; /* ends the transfer: an answer without end must not hold the connection */
}

/* Tell the owner.  The call is gone afterwards, and the fetcher may be. */
static void
finish(struct call *call, CURLcode code)
{
    struct muster_fetch_result result = {.retry_after_s = call->request.retry_after_s, .problem = "", .body = ""};

    if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && call->full)) {
        curl_easy_getinfo(call->request.easy, CURLINFO_RESPONSE_CODE, &result.status);
        result.body_size = call->answer.size;
        if (call->answer.data)
            result.body = call->answer.data;
    } else {
        result.retry_after_s = -1;
        result.problem = request_problem(&call->request, code);
    }
    call->done(call->arg, &result);
    call_free(call);
}

/* ---- between libcurl and the loop -------------------------------------------------------------------------------- */

static void
enter(struct muster_fetcher *fetcher)
{
    fetcher->busy++;
}

/* The last one out of a freed fetcher takes everything down. */
static void
leave(struct muster_fetcher *fetcher)
{
    if (--fetcher->busy > 0 || !fetcher->freed)
        return;
    while (fetcher->calls)
        call_free(fetcher->calls);
    curl_multi_cleanup(fetcher->multi);
    muster_loop_timer_end(fetcher->loop, fetcher->timer);
    free(fetcher);
}

/* Let libcurl do what it can, then finish what has ended. */
static void
act(struct muster_fetcher *fetcher, curl_socket_t fd, int flags)
{
    CURLMsg *message;
    int running, left;

    enter(fetcher);
    curl_multi_socket_action(fetcher->multi, fd, flags, &running);
    while (!fetcher->freed && (message = curl_multi_info_read(fetcher->multi, &left))) {
        struct call *call = NULL;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &call);
        finish(call, message->data.result);
    }
    leave(fetcher);
}

static void
on_descriptor(void *arg, int fd, int events)
{
    int flags = 0;

    if (events & MUSTER_WATCH_READ)
        flags |= CURL_CSELECT_IN;
    if (events & MUSTER_WATCH_WRITE)
        flags |= CURL_CSELECT_OUT;
    act(arg, fd, flags);
}

static void
on_timer(void *arg)
{
    struct muster_fetcher *fetcher = arg;

    fetcher->timer = 0;
    act(fetcher, CURL_SOCKET_TIMEOUT, 0);
}

static int
want_descriptor(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
    struct muster_fetcher *fetcher = arg;
    int events = 0;

    (void)easy;
    (void)unused;
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
        events |= MUSTER_WATCH_READ;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
        events |= MUSTER_WATCH_WRITE;
    if (what == CURL_POLL_REMOVE)
        muster_loop_unwatch(fetcher->loop, fd);
    else
        muster_loop_watch(fetcher->loop, fd, events, on_descriptor, fetcher);
    return 0;
}

static int
want_timer(CURLM *multi, long delay_ms, void *arg)
{
    struct muster_fetcher *fetcher = arg;

    (void)multi;
    muster_loop_timer_end(fetcher->loop, fetcher->timer);
    fetcher->timer = delay_ms < 0 ? 0 : muster_loop_timer(fetcher->loop, delay_ms, on_timer, fetcher);
    return 0;
}

/* ---- public ------------------------------------------------------------------------------------------------------ */

struct muster_fetcher *
muster_fetcher_new(struct muster_loop *loop)
{
    struct muster_fetcher *fetcher = muster_alloc(sizeof *fetcher);

    fetcher->loop = loop;
    fetcher->multi = curl_multi_init();
    MUSTER_ASSERT(fetcher->multi); /* only memory can be missing */
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETFUNCTION, want_descriptor);
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETDATA, fetcher);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERDATA, fetcher);
    return fetcher;
}

void
muster_fetcher_free(struct muster_fetcher **fetcher_p)
{
    struct muster_fetcher *fetcher = *fetcher_p;

    *fetcher_p = NULL;
    if (!fetcher)
        return;
    enter(fetcher);
    fetcher->freed = true;
    leave(fetcher);
}

/* A request that cannot be sent: `done` comes later, as for any other. */
static void
on_refused(void *arg)
{
    struct call *call = arg;
    struct muster_fetcher *fetcher = call->fetcher;

    call->timer = 0;
    enter(fetcher);
    finish(call, CURLE_BAD_FUNCTION_ARGUMENT);
    leave(fetcher);
}

void
muster_fetch(struct muster_fetcher *fetcher, const struct muster_fetch_spec *spec,
             void (*done)(void *arg, const struct muster_fetch_result *result), void *arg)
{
    struct call *call = muster_alloc(sizeof *call);

    call->fetcher = fetcher;
    call->done = done;
    call->arg = arg;
    call->max_answer = spec->max_answer;
    call->next = fetcher->calls;
    call->place = &fetcher->calls;
    if (call->next)
        call->next->place = &call->next;
    fetcher->calls = call;
    request_init(&call->request, spec);
    curl_easy_setopt(call->request.easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(call->request.easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(call->request.easy, CURLOPT_PRIVATE, call);
    if (!call->request.refused[0])
        call->sent = curl_multi_add_handle(fetcher->multi, call->request.easy) == CURLM_OK;
    if (!call->sent)
        call->timer = muster_loop_timer(fetcher->loop, 0, on_refused, call);
}
