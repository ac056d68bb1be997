/* SPDX-License-Identifier: MPL-2.0 */
/* Finds the descriptor of a connection, and whether civetweb has read more than the head of a request; it tells
 * neither. The connection's thread.
 *
 * A TCP connection is named by its two addresses, so the descriptor with ours is ours.  It is looked for once a
 * connection, from the newest one down, and kept in the connection's user data, which civetweb clears with it.  It
 * stays open until the request's handler has returned.  Where the local address is not known (several addresses with
 * that port) all descriptors are looked at and the answer is -1 unless exactly one fits. */
#include <arpa/inet.h>
#include <dirent.h>
#include <linux/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "api/http/gateway.h"

enum { FD_AHEAD = 64 };

struct wanted {
    struct in_addr peer;
    in_port_t peer_port;
    struct in_addr local; /* INADDR_ANY: not known */
    in_port_t local_port;
};

static bool
is_wanted(const struct wanted *wanted, int fd)
{
    struct sockaddr_in name;
    socklen_t size = sizeof name;

    memset(&name, 0, sizeof name);
    if (getpeername(fd, (struct sockaddr *)&name, &size) != 0 || name.sin_family != AF_INET)
        return false;
    if (name.sin_port != wanted->peer_port || name.sin_addr.s_addr != wanted->peer.s_addr)
        return false;
    size = sizeof name;
    if (getsockname(fd, (struct sockaddr *)&name, &size) != 0 || name.sin_port != wanted->local_port)
        return false;
    return wanted->local.s_addr == INADDR_ANY || wanted->local.s_addr == name.sin_addr.s_addr;
}

/* The address of the only listener with this port; INADDR_ANY when there are several or it listens on all. */
static struct in_addr
local_address(const struct http_server *server, int port)
{
    struct in_addr address = {INADDR_ANY};
    size_t i, found = 0;

    if (!server->running)
        return address; /* the ports are being noted */
    for (i = 0; i < server->listen_count; i++)
        if (server->listen[i].port == port) {
            address.s_addr = htonl(server->listen[i].address);
            found++;
        }
    if (found != 1)
        address.s_addr = INADDR_ANY;
    return address;
}

/* Most often it is one of the newest.  Only where the local address is known, because then the first that fits is it.
 */
static int
search_newest(int top, const struct wanted *wanted)
{
    int fd;

    for (fd = top; fd >= 0; fd--)
        if (is_wanted(wanted, fd))
            return fd;
    return -1;
}

/* All that are open and civetweb may have; -1 also when several fit. */
static int
search_all(const struct http_server *server, const struct wanted *wanted)
{
    DIR *folder = opendir("/proc/self/fd");
    int fd, found = -1, count = 0;
    struct dirent *entry;

    if (folder == NULL)
        return -1;
    while ((entry = readdir(folder)) != NULL) {
        fd = entry->d_name[0] == '.' ? -1 : atoi(entry->d_name);
        if (fd >= server->stream_fds && count > 0 && found < server->stream_fds)
            break; /* they come in order, and what follows are most often streams */
        if (fd >= 0 && is_wanted(wanted, fd)) {
            found = fd;
            count++;
        }
    }
    (void)closedir(folder);
    return count == 1 ? found : -1;
}

static int
search(struct http_server *server, const struct wanted *wanted)
{
    int fd = -1;

    if (wanted->local.s_addr != INADDR_ANY)
        fd = search_newest(atomic_load(&server->fd_hint) + FD_AHEAD, wanted);
    if (fd < 0)
        fd = search_all(server, wanted);
    return fd;
}

/* What the connection's user data says. */
struct note {
    int fd; /* -1: not looked for yet */
    bool served;
};

static struct note
note_read(const struct http_request *request)
{
    intptr_t kept = (intptr_t)mg_get_user_connection_data(request->connection);

    return (struct note){(int)(kept >> 1) - 1, (kept & 1) != 0};
}

static void
note_write(struct http_request *request, struct note note)
{
    intptr_t kept = ((intptr_t)note.fd + 1) << 1 | (note.served ? 1 : 0);

    mg_set_user_connection_data(request->connection, (void *)kept);
}

int
http_fd(struct http_request *request)
{
    const struct mg_request_info *peer = request->peer;
    struct note note;
    struct wanted wanted;
    int fd;

    if (request->connection == NULL)
        return http_stream_fd(request->stream);
    note = note_read(request);
    if (note.fd >= 0)
        return note.fd;
    if (peer == NULL || inet_pton(AF_INET, peer->remote_addr, &wanted.peer) != 1)
        return -1;
    wanted.peer_port = htons((in_port_t)peer->remote_port);
    wanted.local_port = htons((in_port_t)peer->server_port);
    wanted.local = local_address(request->server, peer->server_port);
    fd = search(request->server, &wanted);
    if (fd > atomic_load(&request->server->fd_hint))
        atomic_store(&request->server->fd_hint, fd);
    if (fd >= 0)
        note_write(request, (struct note){fd, note.served});
    return fd;
}

/* ---- what came beside the head ---- */

void
http_fd_served(struct http_request *request)
{
    note_write(request, (struct note){note_read(request).fd, true});
}

/* Bytes that the kernel has handed out so far; -1: it does not say. */
static int64_t
bytes_taken(int fd)
{
    struct tcp_info before, after;
    socklen_t size;
    int waiting;

    do {
        memset(&before, 0, sizeof before);
        memset(&after, 0, sizeof after);
        size = sizeof before;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &size) != 0 || ioctl(fd, FIONREAD, &waiting) != 0)
            return -1;
        size = sizeof after;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &size) != 0)
            return -1;
    } while (before.tcpi_bytes_received != after.tcpi_bytes_received); /* more came meanwhile */
    return (int64_t)after.tcpi_bytes_received - waiting;
}

int64_t
http_fd_taken(struct http_request *request)
{
    int fd = http_fd(request);

    return fd < 0 ? -1 : bytes_taken(fd);
}

/* The byte behind the empty line that ends the head, which the guard has found complete. */
static const char *
head_end(const struct mg_request_info *info)
{
    const char *end = info->http_headers[info->num_headers - 1].value;

    end += strlen(end);
    end += end[1] == '\0' ? 2 : 1;
    return end + (*end == '\r' ? 2 : 1);
}

bool
http_fd_has_more(struct http_request *request)
{
    const struct mg_request_info *info = request->info;
    int fd = http_fd(request);

    if (fd < 0 || info->num_headers == 0 || note_read(request).served)
        return false;
    return bytes_taken(fd) > head_end(info) - info->request_method;
}
