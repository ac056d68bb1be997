/* SPDX-License-Identifier: MPL-2.0 */
/* Ends what takes a client too long.  civetweb's own limits begin anew with every byte, so a client that sends or reads
 * one byte a second would keep its thread for ever; here the whole phase has one deadline.
 *
 * The connection's thread enters and leaves phases; the streams' loop looks at all threads and shuts the sockets down.
 * A descriptor is never touched after http_watch_end, which is called before the handler returns. */
#include <sys/socket.h>

#include "api/http/gateway.h"

void
http_watch_begin(struct http_request *request, enum http_phase phase, int64_t limit_ms)
{
    struct http_thread *thread = request->thread;
    int fd = http_fd(request);

    pthread_mutex_lock(&thread->lock);
    thread->phase = phase;
    thread->fd = fd;
    thread->deadline_ms = http_clock_us() / 1000 + limit_ms;
    thread->fired = false;
    pthread_mutex_unlock(&thread->lock);
}

bool
http_watch_end(struct http_request *request)
{
    struct http_thread *thread = request->thread;
    bool fired;

    pthread_mutex_lock(&thread->lock);
    thread->phase = HTTP_IDLE;
    thread->fd = -1;
    fired = thread->fired;
    pthread_mutex_unlock(&thread->lock);
    return fired;
}

/* Of a client that sends too slowly only the reading side is ended, so that it can still be told. */
static void
cut(struct http_thread *thread)
{
    thread->fired = true;
    if (thread->fd >= 0)
        (void)shutdown(thread->fd, thread->phase == HTTP_WRITING ? SHUT_RDWR : SHUT_RD);
}

void
http_watch_tick(struct http_server *server)
{
    int64_t now_ms = http_clock_us() / 1000;
    struct http_thread *thread;

    pthread_mutex_lock(&server->lock);
    for (thread = server->threads; thread; thread = thread->next) {
        pthread_mutex_lock(&thread->lock);
        if ((thread->phase == HTTP_READING || thread->phase == HTTP_WRITING) && !thread->fired &&
            now_ms > thread->deadline_ms) {
            cut(thread);
            server->cut++;
        }
        pthread_mutex_unlock(&thread->lock);
    }
    pthread_mutex_unlock(&server->lock);
}

void
http_watch_stop(struct http_server *server)
{
    struct http_thread *thread;

    pthread_mutex_lock(&server->lock);
    for (thread = server->threads; thread; thread = thread->next) {
        pthread_mutex_lock(&thread->lock);
        if (thread->phase != HTTP_IDLE)
            cut(thread);
        pthread_mutex_unlock(&thread->lock);
    }
    pthread_mutex_unlock(&server->lock);
}
