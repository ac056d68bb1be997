/* SPDX-License-Identifier: MPL-2.0 */
/* hello PORT THREADS: bare civetweb that reads the body and answers every request with one short write.  The ceiling
 * of everything that muster does behind the same library. */
#include <civetweb.h>

#include "bench/bench.h"

static int
answer(struct mg_connection *connection)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
    const struct mg_request_info *info = mg_get_request_info(connection);
    char body[4096];

    if (info->content_length > 0)
        while (mg_read(connection, body, sizeof body) > 0)
            ;
    mg_write(connection, text, sizeof text - 1);
    return 200;
}

int
main(int argc, char **argv)
{
    const char *options[] = {"listening_ports",
                             NULL,
                             "num_threads",
                             NULL,
                             "tcp_nodelay",
                             "1",
                             "enable_keep_alive",
                             "yes",
                             "keep_alive_timeout_ms",
                             "30000",
                             "connection_queue",
                             "1024",
                             "listen_backlog",
                             "1024",
                             NULL};
    struct mg_callbacks callbacks = {.begin_request = answer};
    char address[64];

    if (argc != 3)
        return 2;
    (void)snprintf(address, sizeof address, "127.0.0.1:%s", argv[1]);
    options[1] = address;
    options[3] = argv[2];
    mg_init_library(0);
    if (mg_start(&callbacks, NULL, options) == NULL)
        return 1;
    pause();
    return 0;
}
