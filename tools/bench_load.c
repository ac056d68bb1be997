/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of bench_load.h: an HTTP/1.1 client of a few lines, since what measures must cost less than what is
 * measured.  A server that closes a connection gets a new one; one that does not answer in ANSWER_S has failed. */
#include "tools/bench_load.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "schemas/muster_buf.h"

enum { ANSWER_S = 10, FAILURES_MAX = 100, ANSWER_BYTES = 1 << 16 };

struct worker {
    const struct load *load;
    pthread_t thread;
    int64_t end_us;
    int fd;
    uint32_t *took_us;
    size_t count, capacity;
    struct load_result result;
    char in[ANSWER_BYTES];
};

static int64_t
clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- one request ---- */

static void
hang_up(struct worker *worker)
{
    if (worker->fd != -1)
        close(worker->fd);
    worker->fd = -1;
}

static bool
call_up(struct worker *worker)
{
    const struct addrinfo *address = worker->load->address;
    struct timeval patience = {.tv_sec = ANSWER_S};
    int one = 1;

    if (worker->fd != -1)
        return true;
    worker->fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (worker->fd == -1)
        return false;
    setsockopt(worker->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(worker->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(worker->fd, address->ai_addr, address->ai_addrlen) == 0)
        return true;
    hang_up(worker);
    return false;
}

static bool
say(struct worker *worker)
{
    const char *at = worker->load->request;
    size_t left = strlen(at);
    ssize_t sent;

    for (; left > 0; left -= (size_t)sent, at += sent) {
        sent = send(worker->fd, at, left, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
    }
    return true;
}

/* Bytes of the whole answer, as far as its head says; of a stream those of the first event.  0: not there yet. */
static size_t
answer_size(const struct worker *worker, size_t have)
{
    const char *end = memmem(worker->in, have, "\r\n\r\n", 4), *length, *event;
    size_t head;

    if (end == NULL)
        return 0;
    head = (size_t)(end - worker->in) + 4;
    if (worker->load->stream && worker->in[9] == '2') {
        event = memmem(worker->in + head, have - head, "\n\n", 2);
        return event ? (size_t)(event - worker->in) + 2 : 0;
    }
    length = strcasestr(worker->in, "\r\nContent-Length:");
    return head + (length && length < end ? (size_t)strtoul(length + 17, NULL, 10) : 0);
}

/* The status of the answer; 0: none came, or one too long for what is asked here. */
static int
hear(struct worker *worker)
{
    size_t have = 0, size = 0;
    ssize_t got;

    while (size == 0 || have < size) {
        if (have >= sizeof worker->in - 1 || size >= sizeof worker->in)
            return 0;
        got = recv(worker->fd, worker->in + have, sizeof worker->in - 1 - have, 0);
        if (got <= 0)
            return 0;
        have += (size_t)got;
        worker->in[have] = '\0';
        if (size == 0)
            size = answer_size(worker, have);
    }
    return strncmp(worker->in, "HTTP/1.1 ", 9) == 0 ? atoi(worker->in + 9) : 0;
}

static int
ask(struct worker *worker)
{
    int status = call_up(worker) && say(worker) ? hear(worker) : 0;

    if (status == 0 || worker->load->stream || strcasestr(worker->in, "\r\nConnection: close"))
        hang_up(worker);
    return status;
}

/* ---- one connection ---- */

static void
keep(struct worker *worker, int64_t took_us)
{
    if (worker->count == worker->capacity) {
        worker->capacity = worker->capacity ? 2 * worker->capacity : 4096;
        worker->took_us = muster_realloc(worker->took_us, worker->capacity * sizeof *worker->took_us);
    }
    worker->took_us[worker->count++] = (uint32_t)took_us;
}

static void *
work(void *arg)
{
    struct worker *worker = arg;
    struct load_result *result = &worker->result;
    int64_t begun_us;
    int status;

    while ((begun_us = clock_us()) < worker->end_us && result->failed < FAILURES_MAX) {
        status = ask(worker);
        if (status / 100 == 2) {
            keep(worker, clock_us() - begun_us);
        } else if (status == 429) {
            result->limited++;
        } else {
            result->failed++;
            result->status = status;
        }
    }
    hang_up(worker);
    return NULL;
}

/* ---- all of them ---- */

static int
compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void
add_up(const struct worker *workers, int count, int64_t span_us, struct load_result *out)
{
    uint32_t *all;
    size_t total = 0;
    int i;

    *out = (struct load_result){0};
    for (i = 0; i < count; i++)
        total += workers[i].count;
    all = muster_alloc((total + 1) * sizeof *all);
    for (total = 0, i = 0; i < count; i++) {
        if (workers[i].count > 0)
            memcpy(all + total, workers[i].took_us, workers[i].count * sizeof *all);
        total += workers[i].count;
        out->limited += workers[i].result.limited;
        out->failed += workers[i].result.failed;
        if (workers[i].result.failed > 0)
            out->status = workers[i].result.status;
    }
    qsort(all, total, sizeof *all, compare);
    out->good = (int64_t)total;
    out->rate = span_us > 0 ? (double)total * 1e6 / (double)span_us : 0;
    out->p50_ms = total > 0 ? (double)all[total / 2] / 1000 : 0;
    out->p99_ms = total > 0 ? (double)all[total * 99 / 100] / 1000 : 0;
    free(all);
}

bool
load_run(const struct load *load, struct load_result *out)
{
    struct worker *workers = muster_alloc((size_t)load->connections * sizeof *workers);
    int64_t begun_us = clock_us();
    int count, i;

    for (count = 0; count < load->connections; count++) {
        workers[count].load = load;
        workers[count].fd = -1;
        workers[count].end_us = begun_us + load->span_ms * 1000;
        if (pthread_create(&workers[count].thread, NULL, work, &workers[count]) != 0)
            break;
    }
    for (i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
    add_up(workers, count, clock_us() - begun_us, out);
    for (i = 0; i < count; i++)
        free(workers[i].took_us);
    free(workers);
    return count > 0;
}
