/* SPDX-License-Identifier: MPL-2.0 */
/* fan PORT READERS STALLED REQUEST [SUBSCRIBE]: many readers of one event stream, on one thread with epoll.
 * fan pipe PROGRAM FIFO: one reader of a child's standard output: what a line costs without any server.
 *
 * Every reader sends the bytes of the file REQUEST; with SUBSCRIBE (a WebSocket's frame) it sends that after the
 * answer's head and waits for "subscribed".  The last STALLED of them never read.  When all are in, "ready" is printed.
 * Then each line "EVENTS" on standard input waits until every reader has seen so many more events (a '~' and the time
 * of its writing) and prints one JSON line: deliveries a second from the first to the last, their latencies, and how
 * many readers had lost some after ten seconds without a byte. */
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "bench/bench.h"

enum { BUFFER = 1 << 16, EVENTS = 512, STAMP = 16, PATIENCE_MS = 10000, STALLED_BYTES = 2048 };

struct reader {
    int fd;
    int64_t seen;
    size_t partial; /* 0: no time is being read; else one more than the digits of it that came */
    char stamp[STAMP + 1];
};

struct fan {
    struct reader *readers;
    int count, epoll;
    int64_t wanted, late; /* events a reader must have seen; readers that have not */
    int64_t begun_ns, last_ns;
    struct samples samples; /* of events: from their writing; none when they have no time */
    struct samples ends;    /* of readers: from the order to their last event */
};

static void
write_file_to(int fd, const char *path)
{
    size_t size;
    char *data = read_file(path, &size);

    write_all(fd, data, size);
    free(data);
}

/* Read byte by byte, so that nothing behind it is lost. */
static void
read_until(int fd, const char *end)
{
    char in[8192];
    size_t have = 0;

    while (have < sizeof in - 1) {
        if (read(fd, in + have, 1) != 1)
            fail("no answer");
        in[++have] = '\0';
        if (have >= strlen(end) && strcmp(in + have - strlen(end), end) == 0) {
            if (strncmp(in, "HTTP/1.1 2", 10) != 0 && strncmp(in, "HTTP/1.1 101", 12) != 0 &&
                strcmp(end, "\r\n\r\n") == 0) {
                (void)fprintf(stderr, "%s\n", in);
                exit(1);
            }
            return;
        }
    }
    fail("no end of the answer's head");
}

static void
watch(struct fan *fan, struct reader *reader)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = reader};

    if (fcntl(reader->fd, F_SETFL, O_NONBLOCK) != 0 || epoll_ctl(fan->epoll, EPOLL_CTL_ADD, reader->fd, &event) != 0)
        fail("epoll_ctl");
}

/* An event's time may be cut by the end of a read; its digits are kept until the rest comes. */
static void
take(struct fan *fan, struct reader *reader, const char *data, size_t size, int64_t at_ns)
{
    const char *end = data + size, *next = data;
    int64_t written_ns;
    size_t part;

    while (next < end) {
        if (reader->partial == 0) {
            next = memchr(next, '~', (size_t)(end - next));
            if (next == NULL)
                return;
            next++;
            reader->seen++;
            if (reader->seen == fan->wanted) {
                fan->late--;
                samples_add(&fan->ends, at_ns - fan->begun_ns);
            }
            reader->partial = 1;
        }
        part = STAMP + 1 - reader->partial;
        if (part > (size_t)(end - next))
            part = (size_t)(end - next);
        memcpy(reader->stamp + reader->partial - 1, next, part);
        reader->partial += part;
        next += part;
        if (reader->partial == STAMP + 1) {
            reader->partial = 0;
            written_ns = strtoll(reader->stamp, NULL, 10);
            if (written_ns > 0)
                samples_add(&fan->samples, at_ns - written_ns);
        }
    }
}

static void
hear(struct fan *fan, struct reader *reader)
{
    static char in[BUFFER];
    ssize_t n = read(reader->fd, in, sizeof in);
    int64_t at_ns = now_ns();

    if (n <= 0) {
        epoll_ctl(fan->epoll, EPOLL_CTL_DEL, reader->fd, NULL);
        return;
    }
    fan->last_ns = at_ns;
    take(fan, reader, in, (size_t)n, at_ns);
}

static void
count_round(struct fan *fan, int64_t events)
{
    struct epoll_event ready[EVENTS];
    int i, n = 1;
    double seconds;

    fan->wanted += events;
    fan->begun_ns = fan->last_ns = now_ns();
    fan->late = 0;
    fan->samples.count = fan->ends.count = 0;
    for (i = 0; i < fan->count; i++)
        fan->late += fan->readers[i].seen < fan->wanted;
    while (fan->late > 0 && n > 0) {
        n = epoll_wait(fan->epoll, ready, EVENTS, PATIENCE_MS);
        for (i = 0; i < n; i++)
            hear(fan, ready[i].data.ptr);
    }
    seconds = (double)(fan->last_ns - fan->begun_ns) / 1e9;
    samples_print(fan->samples.count ? &fan->samples : &fan->ends,
                  seconds > 0 ? (double)(events * fan->count) / seconds : 0, fan->late);
}

static void
serve(struct fan *fan)
{
    long long events;

    (void)puts("ready");
    (void)fflush(stdout);
    while (scanf("%lld", &events) == 1)
        count_round(fan, events);
}

static void
read_pipe(struct fan *fan, char **argv)
{
    posix_spawn_file_actions_t actions;
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0)
        fail("pipe2");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    if (posix_spawn(&pid, argv[0], &actions, NULL, argv, environ) != 0)
        fail(argv[0]);
    close(ends[1]);
    fan->count = 1;
    fan->readers[0].fd = ends[0];
    watch(fan, &fan->readers[0]);
    serve(fan);
}

static void
open_all(struct fan *fan, int port, int stalled, const char *request, const char *subscribe)
{
    int i, fd;

    for (i = 0; i < fan->count + stalled; i++) {
        fd = connect_to(port, i < fan->count ? 0 : STALLED_BYTES);
        write_file_to(fd, request);
        if (i >= fan->count)
            continue;
        fan->readers[i].fd = fd;
        read_until(fd, "\r\n\r\n");
        if (subscribe) {
            write_file_to(fd, subscribe);
            read_until(fd, "subscribed");
        }
        watch(fan, &fan->readers[i]);
    }
}

int
main(int argc, char **argv)
{
    struct rlimit files;
    struct fan fan = {.epoll = epoll_create1(EPOLL_CLOEXEC)};
    int stalled;

    if (argc < 4)
        return 2;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (strcmp(argv[1], "pipe") == 0) {
        fan.readers = calloc(1, sizeof *fan.readers);
        read_pipe(&fan, argv + 2);
        return 0;
    }
    if (argc < 5)
        return 2;
    stalled = atoi(argv[3]);
    fan.count = atoi(argv[2]) - stalled;
    fan.readers = calloc((size_t)fan.count, sizeof *fan.readers);
    open_all(&fan, atoi(argv[1]), stalled, argv[4], argc > 5 ? argv[5] : NULL);
    serve(&fan);
    return 0;
}
