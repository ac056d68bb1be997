/* SPDX-License-Identifier: MPL-2.0 */
/* The keeper: serves every event stream that is live, so that an idle one costs no thread.
 *
 * One thread with an epoll set.  A stream comes from the thread that opened it, which lets go of civetweb's descriptor;
 * the hub goes on sending to it, and the keeper sees that its client has left, sends what the client did not take at
 * once, beats, looks after its credential, and ends it.  Sockets are watched for edges: what the client sends ahead is
 * none that is asked for, and room to send is one only after a send that fell short, whoever tried it.  When the hub
 * missed something, the log is read again, which waits for the log and for the client: a reader, a thread of its own,
 * does that and gives the stream back.
 *
 * What fails ends the stream; its client comes back with its cursor. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/http/hub.h"

enum {
    READERS = 32, /* at a time; the other streams wait for their turn */
    EVENTS = 256, /* of a look at the sockets */
    REST_PIECE = 4096,
    REST_PIECES = 64 /* thrown away at most of what a client sent ahead */
};

struct http_keeper {
    struct http_server *server;
    pthread_t thread;
    int epoll;
    int wake; /* eventfd: see `woken` and `ending` */
    int dead; /* a socket without anybody at its other end */
    /* the keeper's thread's */
    struct http_link beats; /* streams that are watched, the one whose beat is due next first */
    struct http_link queue; /* streams that wait for a reader */
    size_t readers;
    size_t count;         /* of streams, those with a reader too */
    pthread_mutex_t lock; /* guards what follows */
    struct http_link woken;
    bool ending;
};

static int64_t
now_ms(void)
{
    return http_clock_us() / 1000;
}

/* ---- lists ---- */

static void
link_init(struct http_link *link, struct http_stream *stream)
{
    *link = (struct http_link){link, link, stream};
}

static bool
is_linked(const struct http_link *link)
{
    return link->next != link;
}

static void
unlink_one(struct http_link *link)
{
    link->next->prev = link->prev;
    link->prev->next = link->next;
    link->next = link->prev = link;
}

static void
append(struct http_link *list, struct http_link *link)
{
    link->next = list;
    link->prev = list->prev;
    list->prev->next = link;
    list->prev = link;
}

/* NULL: none. */
static struct http_stream *
first(const struct http_link *list)
{
    return list->next->stream;
}

/* ---- waking ---- */

void
http_keeper_wake(struct http_stream *stream)
{
    struct http_keeper *keeper = stream->sink.server->streams->keeper;
    bool begins;

    pthread_mutex_lock(&keeper->lock);
    begins = !is_linked(&keeper->woken);
    if (!is_linked(&stream->woken))
        append(&keeper->woken, &stream->woken);
    pthread_mutex_unlock(&keeper->lock);
    if (begins)
        http_wake(keeper->wake);
}

static struct http_stream *
take_woken(struct http_keeper *keeper)
{
    struct http_stream *stream;

    pthread_mutex_lock(&keeper->lock);
    stream = first(&keeper->woken);
    if (stream)
        unlink_one(&stream->woken);
    pthread_mutex_unlock(&keeper->lock);
    return stream;
}

static void
listen_to(struct http_stream *stream)
{
    pthread_mutex_lock(&stream->sink.lock);
    stream->sink.kept = true;
    http_keeper_wake(stream); /* what happened before this is seen at the first look */
    pthread_mutex_unlock(&stream->sink.lock);
}

/* From now on nobody wakes the keeper for it. */
static void
listen_no_more(struct http_keeper *keeper, struct http_stream *stream)
{
    pthread_mutex_lock(&stream->sink.lock);
    stream->sink.kept = false;
    pthread_mutex_unlock(&stream->sink.lock);
    pthread_mutex_lock(&keeper->lock);
    unlink_one(&stream->woken);
    pthread_mutex_unlock(&keeper->lock);
}

void
http_keeper_hurry(struct http_keeper *keeper)
{
    http_wake(keeper->wake);
}

/* ---- coming and going ---- */

bool
http_keeper_detach(const struct http_keeper *keeper, int fd)
{
    return dup3(keeper->dead, fd, O_CLOEXEC) == fd;
}

void
http_keeper_take(struct http_stream **stream_p)
{
    struct http_stream *stream = *stream_p;

    *stream_p = NULL;
    link_init(&stream->woken, stream);
    link_init(&stream->beats, stream);
    link_init(&stream->queue, stream);
    listen_to(stream);
}

static bool
watch(struct http_keeper *keeper, struct http_stream *stream)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLOUT | EPOLLET, .data.ptr = stream};

    if (epoll_ctl(keeper->epoll, EPOLL_CTL_ADD, stream->sink.fd, &event) != 0)
        return false;
    stream->watched = true;
    stream->moved_ms = now_ms();
    stream->beat_ms = stream->moved_ms + keeper->server->options->heartbeat;
    append(&keeper->beats, &stream->beats);
    return true;
}

/* Not left to the close: a child process that is just being started may have the descriptor too. */
static void
watch_no_more(struct http_keeper *keeper, struct http_stream *stream)
{
    if (stream->watched)
        (void)epoll_ctl(keeper->epoll, EPOLL_CTL_DEL, stream->sink.fd, NULL);
    stream->watched = false;
    unlink_one(&stream->beats);
    unlink_one(&stream->queue);
    listen_no_more(keeper, stream);
}

/* ---- the end of a stream ---- */

/* Only between two events.  A client that has no room for it finds out by the end of the connection. */
static void
say_stopping(struct http_sink *sink)
{
    static const char text[] = ": server stopping\n\n";

    pthread_mutex_lock(&sink->lock);
    if (sink->behind.size == 0)
        (void)send(sink->fd, text, sizeof text - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    pthread_mutex_unlock(&sink->lock);
}

/* The kernel resets a connection that is closed with unread bytes, and the client may then lose the last events. */
static void
hang_up(int fd)
{
    char rest[REST_PIECE];
    int pieces = 0;

    (void)shutdown(fd, SHUT_WR);
    while (pieces++ < REST_PIECES && recv(fd, rest, sizeof rest, MSG_DONTWAIT) > 0)
        ;
}

static void
end(struct http_keeper *keeper, struct http_stream *stream)
{
    struct http_server *server = keeper->server;

    watch_no_more(keeper, stream);
    if (server->stopping)
        say_stopping(&stream->sink);
    http_stream_unfollow(stream);
    http_books_close(server, &stream->books);
    hang_up(stream->sink.fd);
    http_stream_free(&stream);
    keeper->count--;
    server->connections--;
    http_leave(server);
}

/* ---- reading the log again ---- */

static void *
read_again(void *arg)
{
    struct http_stream *stream = arg;
    struct http_thread thread = {.server = stream->sink.server, .fd = -1, .arena = muster_arena_new()};
    struct http_request request = {.server = thread.server,
                                   .thread = &thread,
                                   .stream = stream,
                                   .pass = stream->pass,
                                   .key = {.id = stream->pass.key, .name = stream->books.key}};

    (void)snprintf(request.id, sizeof request.id, "%s", stream->books.id);
    pthread_mutex_init(&thread.lock, NULL);
    stream->failed = !http_join(&request, stream->follow);
    pthread_mutex_destroy(&thread.lock);
    muster_post_close(&thread.post);
    muster_arena_free(&thread.arena);
    listen_to(stream);
    return NULL;
}

static void
read_log(struct http_keeper *keeper, struct http_stream *stream)
{
    if (keeper->readers == READERS) {
        if (!is_linked(&stream->queue))
            append(&keeper->queue, &stream->queue);
        return;
    }
    watch_no_more(keeper, stream);
    if (pthread_create(&stream->reader, NULL, read_again, stream) != 0) {
        end(keeper, stream);
        return;
    }
    stream->reading = true;
    keeper->readers++;
}

/* ---- looking after a stream ---- */

enum turn { TURN_WAIT, TURN_READ, TURN_END };

static enum turn
look(struct http_stream *stream)
{
    struct http_sink *sink = &stream->sink;
    enum turn turn = TURN_WAIT;
    size_t before;

    pthread_mutex_lock(&sink->lock);
    before = sink->behind.size;
    http_sink_flush(sink);
    if (sink->behind.size < before)
        stream->moved_ms = now_ms();
    if (sink->dropped || sink->broken || sink->server->stopping || stream->failed)
        turn = TURN_END;
    else if (sink->behind.size > 0)
        turn = TURN_WAIT; /* for the client; one that does not read gets no reader, which others may need */
    else if (stream->follow->final)
        turn = TURN_END;
    else if (stream->follow->missed)
        turn = TURN_READ;
    pthread_mutex_unlock(&sink->lock);
    return turn;
}

static void
serve(struct http_keeper *keeper, struct http_stream *stream)
{
    enum turn turn = look(stream);

    if (turn == TURN_END)
        end(keeper, stream);
    else if (turn == TURN_READ)
        read_log(keeper, stream);
}

/* The stream has no reader any more. */
static void
rejoin(struct http_keeper *keeper, struct http_stream *stream)
{
    struct http_stream *next;

    (void)pthread_join(stream->reader, NULL);
    stream->reading = false;
    keeper->readers--;
    while (keeper->readers < READERS && (next = first(&keeper->queue)) != NULL) {
        unlink_one(&next->queue);
        serve(keeper, next);
    }
}

static void
on_woken(struct http_keeper *keeper, struct http_stream *stream)
{
    if (stream->reading)
        rejoin(keeper, stream);
    else if (!stream->watched)
        keeper->count++;
    if (stream->watched || watch(keeper, stream))
        serve(keeper, stream);
    else
        end(keeper, stream);
}

static void
on_ready(struct http_keeper *keeper, const struct epoll_event *event)
{
    uint64_t count;

    if (event->data.ptr == NULL) {
        if (read(keeper->wake, &count, sizeof count) < 0)
            return; /* it was read already */
    } else if (event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        end(keeper, event->data.ptr);
    } else {
        serve(keeper, event->data.ptr);
    }
}

static void
beat(struct http_keeper *keeper, struct http_stream *stream, int64_t now)
{
    const struct http_options *options = keeper->server->options;
    struct http_sink *sink = &stream->sink;
    bool stalled;
    char text[96];
    int size =
        snprintf(text, sizeof text, "event: heartbeat\ndata: {\"timestamp\":%lld}\n\n", (long long)muster_clock_ms());

    if (!http_pass_is_good(keeper->server, &stream->pass)) {
        end(keeper, stream);
        return;
    }
    pthread_mutex_lock(&sink->lock);
    if (sink->behind.size == 0) {
        http_sink_put(sink, text, (size_t)size);
        stream->moved_ms = now;
    }
    stalled = now - stream->moved_ms > options->heartbeat + options->request_timeout;
    sink->dropped = sink->dropped || stalled;
    pthread_mutex_unlock(&sink->lock);
    if (stalled) {
        end(keeper, stream);
        return;
    }
    stream->beat_ms = now + options->heartbeat;
    unlink_one(&stream->beats);
    append(&keeper->beats, &stream->beats);
}

/* ---- the thread ---- */

/* Every beat that is due; returns the time until the next one, -1: there is none. */
static int
beat_all(struct http_keeper *keeper)
{
    int64_t now = now_ms();
    struct http_stream *stream;

    while ((stream = first(&keeper->beats)) != NULL) {
        if (stream->beat_ms > now)
            return (int)(stream->beat_ms - now);
        beat(keeper, stream, now);
    }
    return -1;
}

static bool
is_over(struct http_keeper *keeper)
{
    bool ending;

    pthread_mutex_lock(&keeper->lock);
    ending = keeper->ending && !is_linked(&keeper->woken);
    pthread_mutex_unlock(&keeper->lock);
    return ending && keeper->count == 0;
}

static void *
run(void *arg)
{
    struct http_keeper *keeper = arg;
    struct epoll_event events[EVENTS];
    struct http_stream *stream;
    int count, i;

    muster_signals_block();
    while (!is_over(keeper)) {
        count = epoll_wait(keeper->epoll, events, EVENTS, beat_all(keeper));
        for (i = 0; i < count; i++)
            on_ready(keeper, &events[i]);
        while ((stream = take_woken(keeper)) != NULL)
            on_woken(keeper, stream);
        while (keeper->server->stopping && (stream = first(&keeper->beats)) != NULL)
            end(keeper, stream);
    }
    return NULL;
}

/* ---- birth and death ---- */

/* One whose other end is closed; -1: there are no descriptors. */
static int
make_dead(void)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    (void)close(pair[1]);
    return pair[0];
}

static void
keeper_free(struct http_keeper *keeper)
{
    if (keeper->epoll >= 0)
        (void)close(keeper->epoll);
    if (keeper->wake >= 0)
        (void)close(keeper->wake);
    if (keeper->dead >= 0)
        (void)close(keeper->dead);
    pthread_mutex_destroy(&keeper->lock);
    free(keeper);
}

muster_err
http_keeper_start(struct http_server *server, struct http_keeper **out_keeper)
{
    struct http_keeper *keeper = muster_alloc(sizeof *keeper);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

    keeper->server = server;
    link_init(&keeper->beats, NULL);
    link_init(&keeper->queue, NULL);
    link_init(&keeper->woken, NULL);
    pthread_mutex_init(&keeper->lock, NULL);
    keeper->epoll = epoll_create1(EPOLL_CLOEXEC);
    keeper->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    keeper->dead = make_dead();
    if (keeper->epoll < 0 || keeper->wake < 0 || keeper->dead < 0 ||
        epoll_ctl(keeper->epoll, EPOLL_CTL_ADD, keeper->wake, &event) != 0 ||
        pthread_create(&keeper->thread, NULL, run, keeper) != 0) {
        keeper_free(keeper);
        return MUSTER_OVERLOADED;
    }
    *out_keeper = keeper;
    return MUSTER_OK;
}

void
http_keeper_stop(struct http_keeper **keeper_p)
{
    struct http_keeper *keeper = *keeper_p;

    if (keeper == NULL)
        return;
    pthread_mutex_lock(&keeper->lock);
    keeper->ending = true;
    pthread_mutex_unlock(&keeper->lock);
    http_wake(keeper->wake);
    (void)pthread_join(keeper->thread, NULL);
    *keeper_p = NULL; /* a reader that ends last still finds it */
    keeper_free(keeper);
}
