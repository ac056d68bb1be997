/* SPDX-License-Identifier: MPL-2.0 */
/* rawsend PORT READERS FRAME: the ceiling of a fan-out: one thread that sends the same bytes to all with plain send.
 *
 * Takes READERS connections and answers each request with a bare head ("subscribed" stands behind it, for WebSocket
 * readers).  Each line "COUNT" on standard input sends the bytes of the file FRAME so often to each reader, event after
 * event. */
#include <sys/resource.h>

#include "bench/bench.h"

static int
listen_on(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1024) != 0)
        fail("listen");
    return fd;
}

static int
welcome(int listener)
{
    static const char head[] = "HTTP/1.1 200 OK\r\n\r\nsubscribed";
    int fd = accept(listener, NULL, NULL), one = 1;
    char in[4096];

    if (fd < 0)
        fail("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (read(fd, in, sizeof in) <= 0)
        fail("read");
    write_all(fd, head, sizeof head - 1);
    return fd;
}

static void
send_all(int fd, const char *data, size_t size)
{
    ssize_t n;

    for (; size > 0; size -= (size_t)n, data += n) {
        n = send(fd, data, size, MSG_NOSIGNAL);
        if (n <= 0)
            fail("send");
    }
}

int
main(int argc, char **argv)
{
    struct rlimit files;
    char *frame;
    int listener, readers, *fds, i;
    size_t size;
    long count;

    if (argc != 4)
        return 2;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    frame = read_file(argv[3], &size);
    readers = atoi(argv[2]);
    fds = calloc((size_t)readers, sizeof *fds);
    if (fds == NULL)
        return 2;
    listener = listen_on(atoi(argv[1]));
    (void)puts("listening");
    (void)fflush(stdout);
    for (i = 0; i < readers; i++)
        fds[i] = welcome(listener);
    while (scanf("%ld", &count) == 1) {
        for (; count > 0; count--) {
            for (i = 0; i < readers; i++)
                send_all(fds[i], frame, size);
        }
    }
    return 0;
}
