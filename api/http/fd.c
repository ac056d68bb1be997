/* SPDX-License-Identifier: MPL-2.0 */
/* Finds the descriptor of a connection, which civetweb does not tell.  The connection's thread.
 *
 * A TCP connection is named by its two addresses, so the descriptor with ours is ours.  It is looked for once a
 * connection, from the newest one down, and kept in the connection's user data, which civetweb clears with it.  It
 * stays open until the request's handler has returned.  Where the local address is not known (several addresses with
 * that port) all descriptors are looked at and the answer is -1 unless exactly one fits. */
#include <arpa/inet.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
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

/* All that are open; -1 also when several fit. */
static int
search_all(const struct wanted *wanted)
{
    DIR *folder = opendir("/proc/self/fd");
    int fd, found = -1, count = 0;
    struct dirent *entry;

    if (folder == NULL)
        return -1;
    while ((entry = readdir(folder)) != NULL) {
        fd = entry->d_name[0] == '.' ? -1 : atoi(entry->d_name);
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
        fd = search_all(wanted);
    return fd;
}

int
http_fd(struct http_request *request)
{
    const struct mg_request_info *peer = request->peer;
    void *kept = mg_get_user_connection_data(request->connection);
    struct wanted wanted;
    int fd;

    if (kept)
        return (int)((intptr_t)kept - 1);
    if (peer == NULL || inet_pton(AF_INET, peer->remote_addr, &wanted.peer) != 1)
        return -1;
    wanted.peer_port = htons((in_port_t)peer->remote_port);
    wanted.local_port = htons((in_port_t)peer->server_port);
    wanted.local = local_address(request->server, peer->server_port);
    fd = search(request->server, &wanted);
    if (fd > atomic_load(&request->server->fd_hint))
        atomic_store(&request->server->fd_hint, fd);
    if (fd >= 0)
        mg_set_user_connection_data(request->connection, (void *)(intptr_t)(fd + 1));
    return fd;
}
