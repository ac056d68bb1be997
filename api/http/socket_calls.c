/* SPDX-License-Identifier: MPL-2.0 */
/* What a dialect may do inside of a message of a WebSocket: answer, close, log in, count, follow.  The connection's
 * thread. */
#include <stdlib.h>
#include <string.h>

#include "api/http/socket.h"

void
http_socket_send(struct http_request *request, const char *text, size_t size)
{
    struct http_sink *sink = &request->socket->sink;
    struct muster_buf frame = {0};
    size_t begin = http_frame_begin(&frame);

    muster_buf_add(&frame, text, size);
    http_frame_end(&frame, begin);
    pthread_mutex_lock(&sink->lock);
    http_sink_put(sink, frame.data, frame.size);
    pthread_mutex_unlock(&sink->lock);
    muster_buf_free(&frame);
}

void
http_socket_close(struct http_request *request, int code, const char *reason)
{
    struct http_socket *socket = request->socket;

    if (socket->code)
        return;
    socket->code = code;
    socket->reason = muster_arena_str(socket->arena, reason, strlen(reason));
}

bool
http_socket_has_key(const struct http_request *request)
{
    return request->pass.given;
}

muster_err
http_socket_login(struct http_request *request, const char *credential, const char **out_reason)
{
    struct http_socket *socket = request->socket;
    struct muster_arena *fresh = muster_arena_new();
    struct http_request before = *request;
    const char *reason = "", *missing = "";
    muster_err err;

    request->thread->arena = fresh;
    err = http_login(request, credential, &reason);
    if (err == MUSTER_OK && !http_has_scopes(request, &missing)) {
        reason = muster_arena_printf(socket->arena, "%s: the key lacks %s", muster_err_text(MUSTER_FORBIDDEN), missing);
        err = MUSTER_FORBIDDEN;
    }
    request->thread->arena = socket->arena;
    if (err) {
        *out_reason = muster_arena_str(socket->arena, reason, strlen(reason));
        *request = before;
        muster_arena_free(&fresh);
        return err;
    }
    muster_arena_free(&socket->key);
    socket->key = fresh;
    socket_allow(socket, request->server->options->max_body);
    return MUSTER_OK;
}

muster_err
http_socket_count(struct http_request *request)
{
    return http_count_message(request);
}

void
socket_let_go(struct http_follow *follow)
{
    http_hub_leave(follow);
    http_follow_free(&follow);
}

static struct http_follow *
find(const struct http_sink *sink, const struct http_topic *topic)
{
    struct http_follow *follow;

    for (follow = sink->follows; follow; follow = follow->sibling) {
        if (!muster_id_is_zero(&topic->job) && muster_id_equal(&follow->job, &topic->job))
            return follow;
        if (muster_id_is_zero(&topic->job) && http_follow_is_ordered(follow) &&
            http_follow_has_team(follow, topic->teams->items[0]))
            return follow;
    }
    return NULL;
}

muster_err
http_socket_follow(struct http_request *request, const struct http_topic *topic, int64_t after)
{
    struct http_sink *sink = &request->socket->sink;
    struct http_follow *follow;

    MUSTER_ASSERT(!muster_id_is_zero(&topic->job) || (topic->teams && topic->teams->count == 1));
    if (find(sink, topic))
        return MUSTER_EXISTS;
    if (sink->follow_count >= (size_t)request->server->options->max_follows)
        return MUSTER_OVERLOADED;
    follow = http_follow_new(sink, topic, after);
    http_hub_join(request->server->streams, follow);
    if (after >= 0 || !http_follow_is_ordered(follow) || http_join_now(request, follow))
        return MUSTER_OK;
    socket_let_go(follow);
    return MUSTER_OVERLOADED;
}

bool
http_socket_unfollow(struct http_request *request, const struct http_topic *topic)
{
    struct http_follow *follow = find(&request->socket->sink, topic);

    if (follow)
        socket_let_go(follow);
    return follow != NULL;
}
