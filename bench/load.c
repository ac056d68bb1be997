/* SPDX-License-Identifier: MPL-2.0 */
/* load KIND PORT CONNECTIONS SECONDS REQUEST [HELLO]: closed loop load for what wrk does not speak.
 *
 * Each connection sends the bytes of the file REQUEST, waits for the answer, and sends again.  KIND is beanstalk, redis
 * or zmtp (ZeroMQ's wire protocol as a DEALER; REQUEST and HELLO hold messages, HELLO is sent first).  Prints the rate,
 * p50, p99 and the number of wrong answers as one JSON line.  One thread, epoll: the same costs for all three. */
#include <errno.h>
#include <sys/epoll.h>

#include "bench/bench.h"

enum { BUFFER = 4096, EVENTS = 512 };

struct line {
    int fd;
    size_t have;
    int64_t sent_ns;
    char in[BUFFER];
};

struct kind {
    const char *name;
    /* Size of the first whole answer in these bytes, 0: not there yet; *out_good: is it a yes? */
    size_t (*answer)(const char *data, size_t size, bool *out_good);
};

/* ---- the protocols ---- */

static size_t
after_lines(const char *data, size_t size, int lines)
{
    const char *at = data;

    while (lines-- > 0) {
        at = memchr(at, '\n', size - (size_t)(at - data));
        if (at == NULL)
            return 0;
        at++;
    }
    return (size_t)(at - data);
}

static size_t
beanstalk_answer(const char *data, size_t size, bool *out_good)
{
    *out_good = size >= 8 && memcmp(data, "INSERTED", 8) == 0;
    return after_lines(data, size, 1);
}

static size_t
redis_answer(const char *data, size_t size, bool *out_good)
{
    *out_good = data[0] == '$';
    return after_lines(data, size, data[0] == '$' ? 2 : 1);
}

/* A frame: flags, length of one or eight bytes, body. */
static size_t
zmtp_frame(const char *data, size_t size, const char **out_body, size_t *out_size)
{
    const unsigned char *bytes = (const unsigned char *)data;
    size_t head = 2, length, i;

    if (size < 2)
        return 0;
    length = bytes[1];
    if (bytes[0] & 2) {
        head = 9;
        if (size < head)
            return 0;
        for (length = 0, i = 1; i < 9; i++)
            length = length << 8 | bytes[i];
    }
    if (size - head < length)
        return 0;
    *out_body = data + head;
    *out_size = length;
    return head + length;
}

static size_t
zmtp_answer(const char *data, size_t size, bool *out_good)
{
    const char *body;
    size_t body_size, taken = zmtp_frame(data, size, &body, &body_size);

    *out_good = taken && memmem(body, body_size, "queue.accepted", 14);
    return taken;
}

static const struct kind kinds[] = {
    {"beanstalk", beanstalk_answer}, {"redis", redis_answer}, {"zmtp", zmtp_answer}, {NULL, NULL}};

/* ---- ZeroMQ's greeting ---- */

/* Read until a whole frame is there, and drop it. */
static void
zmtp_skip(int fd)
{
    char in[BUFFER];
    const char *body;
    size_t have = 0, size;
    ssize_t n;

    while (zmtp_frame(in, have, &body, &size) == 0) {
        n = read(fd, in + have, 1);
        if (n <= 0)
            fail("greeting");
        have += (size_t)n;
    }
}

static void
zmtp_greet(int fd, const char *hello, size_t hello_size)
{
    static const char ready[] = "\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06"
                                "DEALER";
    unsigned char greeting[64] = {0xff, [9] = 0x7f, [10] = 3, [12] = 'N', 'U', 'L', 'L'};
    char theirs[64];
    size_t have = 0;
    ssize_t n;

    write_all(fd, greeting, sizeof greeting);
    while (have < sizeof theirs) {
        n = read(fd, theirs + have, sizeof theirs - have);
        if (n <= 0)
            fail("greeting");
        have += (size_t)n;
    }
    write_all(fd, ready, sizeof ready - 1);
    zmtp_skip(fd);
    write_all(fd, hello, hello_size);
    zmtp_skip(fd);
}

/* A message as one frame. */
static char *
zmtp_wrap(const char *body, size_t size, size_t *out_size)
{
    char *frame = calloc(1, size + 9);
    size_t i;

    if (frame == NULL)
        fail("calloc");
    frame[0] = 2;
    for (i = 0; i < 8; i++)
        frame[1 + i] = (char)(size >> (56 - 8 * i));
    memcpy(frame + 9, body, size);
    *out_size = size + 9;
    return frame;
}

/* ---- the loop ---- */

struct load {
    const struct kind *kind;
    char *request;
    size_t request_size;
    struct samples samples;
    int64_t errors;
};

static void
ask(struct load *load, struct line *line)
{
    line->sent_ns = now_ns();
    write_all(line->fd, load->request, load->request_size);
}

static void
hear(struct load *load, struct line *line)
{
    ssize_t n = read(line->fd, line->in + line->have, sizeof line->in - line->have);
    size_t taken;
    bool good;

    if (n <= 0)
        fail("the server closed a connection");
    line->have += (size_t)n;
    taken = load->kind->answer(line->in, line->have, &good);
    if (taken == 0)
        return;
    samples_add(&load->samples, now_ns() - line->sent_ns);
    load->errors += !good;
    line->have -= taken;
    memmove(line->in, line->in + taken, line->have);
    ask(load, line);
}

static void
run(struct load *load, struct line *lines, int count, double seconds)
{
    struct epoll_event events[EVENTS];
    int64_t begun_ns = now_ns(), end_ns = begun_ns + (int64_t)(seconds * 1e9);
    int epoll = epoll_create1(EPOLL_CLOEXEC), i, n;

    for (i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &lines[i]};

        if (epoll_ctl(epoll, EPOLL_CTL_ADD, lines[i].fd, &event) != 0)
            fail("epoll_ctl");
        ask(load, &lines[i]);
    }
    while (now_ns() < end_ns) {
        n = epoll_wait(epoll, events, EVENTS, 100);
        for (i = 0; i < n; i++)
            hear(load, events[i].data.ptr);
    }
    samples_print(&load->samples, (double)load->samples.count / ((double)(now_ns() - begun_ns) / 1e9), load->errors);
}

int
main(int argc, char **argv)
{
    struct load load = {.kind = kinds};
    char *hello = NULL;
    size_t hello_size = 0;
    struct line *lines;
    int count, i;
    bool zmtp;

    if (argc < 6)
        return 2;
    while (load.kind->name && strcmp(load.kind->name, argv[1]) != 0)
        load.kind++;
    if (load.kind->name == NULL)
        return 2;
    zmtp = strcmp(argv[1], "zmtp") == 0;
    count = atoi(argv[3]);
    load.request = read_file(argv[5], &load.request_size);
    if (argc > 6)
        hello = read_file(argv[6], &hello_size);
    if (zmtp && hello) {
        load.request = zmtp_wrap(load.request, load.request_size, &load.request_size);
        hello = zmtp_wrap(hello, hello_size, &hello_size);
    }
    lines = calloc((size_t)count, sizeof *lines);
    if (lines == NULL)
        fail("calloc");
    for (i = 0; i < count; i++) {
        lines[i].fd = connect_to(atoi(argv[2]), 0);
        if (zmtp)
            zmtp_greet(lines[i].fd, hello, hello_size);
    }
    run(&load, lines, count, atof(argv[4]));
    return load.errors > 0;
}
