/* SPDX-License-Identifier: MPL-2.0 */
/* The handler's side of a WebSocket: keeps what it follows up to date, beats, and closes.
 *
 * The connection's thread, from the handshake to the end.  It wakes for bytes of the client, for room for what the
 * client is behind with, and for what the hub tells it.  A connection ends with a close frame, unless the client is
 * gone. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/http/socket.h"

enum {
    PINGS = 2,      /* without a sign of life, before the client is given up */
    CLOSE_MS = 1000 /* for the client's side of the closing handshake */
};

static int64_t
now_ms(void)
{
    return http_clock_us() / 1000;
}

/* ---- what is followed ---- */

enum step { STEP_NONE, STEP_END, STEP_JOIN, STEP_LIVE };

/* The oldest follow that needs something. */
static struct http_follow *
next_step(struct http_sink *sink, enum step *out_step)
{
    struct http_follow *follow, *found = NULL;
    enum step step;

    pthread_mutex_lock(&sink->lock);
    for (follow = sink->follows; follow; follow = follow->sibling) {
        step = follow->final                      ? http_follow_is_needed(follow) ? STEP_NONE : STEP_END
               : follow->missed || follow->behind ? STEP_JOIN
               : follow->live                     ? STEP_NONE
                                                  : STEP_LIVE;
        if (step != STEP_NONE) {
            found = follow;
            *out_step = step;
        }
    }
    pthread_mutex_unlock(&sink->lock);
    return found;
}

/* False: the client takes nothing any more, or all ends. */
static bool
follow_up(struct http_socket *socket)
{
    struct http_follow *follow;
    enum step step = STEP_NONE;
    bool good = true;

    while (good && (follow = next_step(&socket->sink, &step)) != NULL) {
        muster_arena_clear(socket->arena);
        if (step == STEP_END)
            socket_let_go(follow);
        else
            good = step == STEP_JOIN ? http_join(socket->request, follow) : http_go_live(socket->request, follow);
    }
    return good;
}

/* ---- turns ---- */

static void
beat(struct http_socket *socket)
{
    struct http_request *request = socket->request;

    socket->beat_ms = now_ms() + request->server->options->heartbeat;
    if (socket->pings >= PINGS)
        socket_refuse(socket, WSLAY_CODE_POLICY_VIOLATION, "no pong came");
    else
        socket_ping(socket);
    if (!socket->spoke)
        muster_post_close(&request->thread->post); /* thousands may be parked */
    socket->spoke = false;
    socket_say(socket);
}

/* Is there a reason of ours to end it? */
static bool
is_to_end(struct http_socket *socket)
{
    struct http_sink *sink = &socket->sink;
    bool dropped, broken;

    pthread_mutex_lock(&sink->lock);
    http_sink_flush(sink);
    dropped = sink->dropped;
    broken = sink->broken;
    pthread_mutex_unlock(&sink->lock);
    if (sink->server->stopping)
        socket_refuse(socket, WSLAY_CODE_GOING_AWAY, "the server stops");
    else if (dropped)
        socket_refuse(socket, SOCKET_TOO_SLOW, "too slow: come back with the last cursor");
    else if (!http_key_is_good(socket->request))
        socket_refuse(socket, WSLAY_CODE_POLICY_VIOLATION, "the credential is no longer good");
    else if (!socket->request->pass.given && now_ms() >= socket->login_ms)
        socket_refuse(socket, WSLAY_CODE_POLICY_VIOLATION, "no credential came in time");
    else
        return broken || socket->left;
    return true;
}

/* Wait until there is something to do. */
static void
park(struct http_socket *socket)
{
    struct http_sink *sink = &socket->sink;
    int64_t until_ms = socket->beat_ms;
    struct http_woken woken;
    bool writes;

    if (!socket->request->pass.given && socket->login_ms < until_ms)
        until_ms = socket->login_ms;
    pthread_mutex_lock(&sink->lock);
    writes = sink->behind.size > 0;
    pthread_mutex_unlock(&sink->lock);
    woken = http_sink_park(sink, true, writes, socket->more ? 0 : until_ms - now_ms());
    if (woken.readable || woken.left || socket->more)
        socket_receive(socket);
}

static void
serve(struct http_socket *socket)
{
    while (!socket->closed && !is_to_end(socket)) {
        if (now_ms() >= socket->beat_ms)
            beat(socket);
        else if (follow_up(socket))
            park(socket);
        else
            socket->left = !is_to_end(socket);
    }
    socket_say(socket);
}

/* ---- the end ---- */

/* Throw away what the client still sends; false: it has closed. */
static bool
discard(struct http_socket *socket)
{
    struct muster_buf *in = &socket->request->thread->in;
    ssize_t got;

    muster_buf_clear(in);
    got = recv(socket->sink.fd, muster_buf_room(in, SOCKET_FIRST_BYTES), SOCKET_FIRST_BYTES, MSG_DONTWAIT);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
}

static int64_t
patience_ms(struct http_sink *sink)
{
    int64_t request_ms = sink->server->options->request_timeout;
    bool dropped;

    pthread_mutex_lock(&sink->lock);
    dropped = sink->dropped;
    pthread_mutex_unlock(&sink->lock);
    return dropped && request_ms > CLOSE_MS ? request_ms : CLOSE_MS;
}

/* Send what is left to send, the close frame last; then let the client close, so that it gets all of it.  One that is
 * too slow has as long as for any answer. */
static void
finish(struct http_socket *socket)
{
    struct http_sink *sink = &socket->sink;
    int64_t end_ms = now_ms() + patience_ms(sink), left_ms;
    bool ended = socket->left, shut = false, writes;
    struct http_woken woken;

    while (!ended && (left_ms = end_ms - now_ms()) > 0) {
        if ((shut || sink->server->stopping) && left_ms > CLOSE_MS)
            end_ms = now_ms() + CLOSE_MS;
        pthread_mutex_lock(&sink->lock);
        http_sink_flush(sink);
        writes = sink->behind.size > 0;
        ended = sink->broken;
        pthread_mutex_unlock(&sink->lock);
        if (!writes && !shut) {
            shut = true;
            (void)shutdown(sink->fd, SHUT_WR);
            ended = ended || wslay_event_get_close_received(socket->wslay);
            continue;
        }
        woken = http_sink_park(sink, true, writes, left_ms);
        if (woken.readable || woken.left)
            ended = ended || !discard(socket);
    }
}

/* ---- birth and death ---- */

static void
socket_init(struct http_socket *socket, struct http_request *request, http_socket_message *message, void *arg)
{
    const struct http_options *options = request->server->options;

    socket->request = request;
    socket->message = message;
    socket->arg = arg;
    socket->arena = muster_arena_new();
    socket->beat_ms = now_ms() + options->heartbeat;
    socket->login_ms = now_ms() + options->auth_timeout;
    socket_wire_init(socket);
    socket_allow(socket, request->pass.given ? options->max_body : SOCKET_FIRST_BYTES);
}

static void
socket_free(struct http_socket *socket)
{
    while (socket->sink.follows)
        socket_let_go(socket->sink.follows);
    http_sink_close(&socket->sink);
    wslay_event_context_free(socket->wslay);
    muster_arena_free(&socket->arena);
    muster_arena_free(&socket->key);
    muster_buf_free(&socket->out);
    free(socket);
}

static bool
send_head(struct http_request *request)
{
    struct muster_buf *out = &request->thread->out;

    http_close(request);
    request->answered = true;
    request->status = 101;
    muster_buf_clear(out);
    http_head(request, out, 101, NULL, -1);
    return http_sink_push(&request->socket->sink, out->data, out->size);
}

/* The memory of the request is for what lives as long as the connection; what a message needs goes with it. */
static void
run(struct http_socket *socket)
{
    struct http_request *request = socket->request;
    struct muster_arena *own = request->thread->arena;

    if (!send_head(request))
        return;
    request->thread->arena = socket->arena;
    serve(socket);
    finish(socket);
    muster_post_close(&request->thread->post);
    request->thread->arena = own;
    if (socket->key) /* for the log */
        request->key = (struct key){.id = request->key.id,
                                    .name = muster_arena_str(own, request->key.name, strlen(request->key.name))};
}

void
http_socket_run(struct http_request *request, http_socket_message *message, http_render_event *render, void *arg)
{
    struct http_socket *socket;
    muster_err err;

    if (!http_upgrade_check(request) || !http_count(request))
        return;
    socket = muster_alloc(sizeof *socket);
    err = http_sink_open(&socket->sink, request, render, arg, true);
    if (err) {
        free(socket);
        http_fail(request, err, "%s", muster_err_text(err));
        return;
    }
    socket_init(socket, request, message, arg);
    request->socket = socket;
    run(socket);
    request->socket = NULL;
    socket_free(socket);
}
