/* SPDX-License-Identifier: MPL-2.0 */
/* The bytes of a WebSocket.  libwslay takes the client's frames apart and makes control frames; whatever goes to the
 * client goes through the sink, whole, so that control frames never come between the bytes of an event.  The
 * connection's thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/http/socket.h"

enum {
    TURN_BYTES = 65536, /* read from one client before the other duties of its thread */
    MAX_PIECES = 4096,  /* of one message: each costs memory of its own */
    REASON_BYTES = 120
};

/* ---- to the client ---- */

/* What libwslay has to say. */
void
socket_say(struct http_socket *socket)
{
    struct http_sink *sink = &socket->sink;

    if (socket->closed)
        return;
    muster_buf_clear(&socket->out);
    (void)wslay_event_send(socket->wslay);
    socket->closed = wslay_event_get_close_sent(socket->wslay) != 0;
    pthread_mutex_lock(&sink->lock);
    if (socket->closed)
        http_sink_end(sink, socket->out.data, socket->out.size);
    else if (socket->out.size > 0)
        http_sink_put(sink, socket->out.data, socket->out.size);
    pthread_mutex_unlock(&sink->lock);
}

/* The client does not keep to the protocol.  libwslay would say so without the code. */
static void
say_broken(struct http_socket *socket)
{
    static const char frame[] = {(char)0x88, 2, (char)(1002 >> 8), (char)(1002 & 0xff)};
    struct http_sink *sink = &socket->sink;

    socket->closed = true;
    pthread_mutex_lock(&sink->lock);
    http_sink_end(sink, frame, sizeof frame);
    pthread_mutex_unlock(&sink->lock);
}

void
socket_refuse(struct http_socket *socket, int code, const char *reason)
{
    size_t size = strlen(reason);

    if (size > REASON_BYTES)
        for (size = REASON_BYTES; size > 0 && (reason[size] & 0xc0) == 0x80; size--) /* no half characters */
            ;
    (void)wslay_event_queue_close(socket->wslay, (uint16_t)code, (const uint8_t *)reason, size);
    wslay_event_shutdown_read(socket->wslay);
}

static ssize_t
on_send(wslay_event_context_ptr wslay, const uint8_t *data, size_t size, int flags, void *arg)
{
    struct http_socket *socket = arg;

    (void)wslay;
    (void)flags;
    muster_buf_add(&socket->out, data, size);
    return (ssize_t)size;
}

/* ---- from the client ---- */

/* The head is whole: what follows it? */
static bool
end_head(struct frames *frames, size_t size)
{
    uint64_t length = frames->head[1] & 0x7f;
    bool data = (frames->head[0] & 0x08) == 0;
    size_t i;

    for (length = size > 2 ? 0 : length, i = 2; i < size; i++)
        length = length << 8 | frames->head[i];
    frames->skip = length + 4; /* the mask */
    frames->have = 0;
    frames->large = data && length > frames->most;
    if (frames->large || (data && ++frames->pieces > MAX_PIECES))
        return false;
    if (data && (frames->head[0] & 0x80))
        frames->pieces = 0;
    return true;
}

/* How long a head is, by its second byte, without the mask. */
static size_t
head_size(unsigned char second)
{
    unsigned length = second & 0x7f;

    return length < 126 ? 2 : length == 126 ? 4 : 10;
}

/* Is every frame masked, as it must be, no message in too many pieces, and none announced that is too large?  libwslay
 * does not look at that, or only when the first byte has come. */
static bool
pass_by(struct frames *frames, const uint8_t *data, size_t size)
{
    size_t step;

    for (; size > 0; data += step, size -= step) {
        step = frames->skip < size ? (size_t)frames->skip : size;
        frames->skip -= step;
        if (step > 0)
            continue;
        step = 1;
        frames->head[frames->have++] = *data;
        if (frames->have >= 2 && (frames->head[1] & 0x80) == 0)
            return false;
        if (frames->have >= 2 && frames->have == head_size(frames->head[1]) && !end_head(frames, frames->have))
            return false;
    }
    return true;
}

static ssize_t
on_receive(wslay_event_context_ptr wslay, uint8_t *room, size_t size, int flags, void *arg)
{
    struct http_socket *socket = arg;
    ssize_t got;

    (void)flags;
    socket->more = socket->taken >= TURN_BYTES;
    if (socket->more) {
        wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    got = recv(socket->sink.fd, room, size, MSG_DONTWAIT);
    if (got == 0 && socket->request->server->stopping) { /* the stop ended what waited here; the client is told */
        wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    socket->left = got <= 0;
    if (got <= 0 || !pass_by(&socket->frames, room, (size_t)got)) {
        if (socket->frames.large)
            socket_refuse(socket, WSLAY_CODE_MESSAGE_TOO_BIG, "");
        wslay_event_set_error(wslay, socket->frames.large ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
        return -1;
    }
    socket->taken += (size_t)got;
    socket->pings = 0;
    return got;
}

static void
hear(struct http_socket *socket, const char *text, size_t size)
{
    struct http_request *request = socket->request;

    socket_say(socket); /* a pong to what came before */
    muster_arena_clear(socket->arena);
    request->counted = false;
    request->told.message = NULL;
    request->told.retry_after_s = 0;
    request->server->socket_messages++;
    socket->spoke = true;
    socket->message(request, text, size, socket->arg);
    if (socket->code)
        socket_refuse(socket, socket->code, socket->reason);
}

static void
on_message(wslay_event_context_ptr wslay, const struct wslay_event_on_msg_recv_arg *in, void *arg)
{
    struct http_socket *socket = arg;
    struct muster_buf *text = &socket->request->thread->in;

    (void)wslay;
    if (wslay_is_ctrl_frame(in->opcode))
        return;
    if (in->opcode != WSLAY_TEXT_FRAME) {
        socket_refuse(socket, WSLAY_CODE_UNSUPPORTED_DATA, "only text is understood");
        return;
    }
    muster_buf_clear(text);
    muster_buf_add(text, in->msg, in->msg_length); /* with a NUL */
    if (!muster_json_shallow(text->data, text->size))
        socket_refuse(socket, WSLAY_CODE_POLICY_VIOLATION, "nested too deep");
    else if (!socket->request->server->stopping)
        hear(socket, text->data, text->size);
    if (text->capacity > HTTP_KEEP_BYTES)
        muster_buf_free(text); /* the next message may be hours away */
}

void
socket_receive(struct http_socket *socket)
{
    socket->taken = 0;
    socket->more = false;
    if (wslay_event_recv(socket->wslay) == 0)
        socket_say(socket);
    else if (!socket->left)
        say_broken(socket);
}

/* Messages of that size. */
void
socket_allow(struct http_socket *socket, int64_t size)
{
    socket->frames.most = (uint64_t)size;
    wslay_event_config_set_max_recv_msg_length(socket->wslay, (uint64_t)size);
}

void
socket_ping(struct http_socket *socket)
{
    struct wslay_event_msg ping = {.opcode = WSLAY_PING};

    (void)wslay_event_queue_msg(socket->wslay, &ping);
    socket->pings++;
}

void
socket_wire_init(struct http_socket *socket)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_receive, .send_callback = on_send, .on_msg_recv_callback = on_message};

    if (wslay_event_context_server_init(&socket->wslay, &callbacks, socket) != 0)
        abort(); /* out of memory, as muster_alloc does */
}
