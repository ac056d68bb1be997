/* SPDX-License-Identifier: MPL-2.0 */
/* What the programs of the benchmark share: a clock, latencies and their percentiles, connections on loopback.
 *
 * Laboratory programs: whatever fails ends the program with a message on standard error. */
#ifndef BENCH_H
#define BENCH_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static inline void __attribute__((noreturn)) fail(const char *what)
{
    perror(what);
    exit(1);
}

static inline int64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- latencies ---- */

struct samples {
    float *us;
    size_t count, capacity;
};

static inline void
samples_add(struct samples *samples, int64_t ns)
{
    if (samples->count == samples->capacity) {
        samples->capacity = samples->capacity ? 2 * samples->capacity : 1 << 16;
        samples->us = realloc(samples->us, samples->capacity * sizeof *samples->us);
        if (samples->us == NULL)
            fail("realloc");
    }
    samples->us[samples->count++] = (float)ns / 1000;
}

static inline int
samples_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return x < y ? -1 : x > y;
}

/* The rate and p50 and p99 as one JSON line; sorts the samples. */
static inline void
samples_print(struct samples *samples, double rate, int64_t errors)
{
    size_t n = samples->count;

    qsort(samples->us, n, sizeof *samples->us, samples_compare);
    printf("{\"rate\": %.1f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"errors\": %lld}\n", rate,
           n ? (double)samples->us[n / 2] / 1000 : 0, n ? (double)samples->us[n * 99 / 100] / 1000 : 0,
           (long long)errors);
    fflush(stdout);
}

/* ---- connections and files ---- */

static inline int
connect_to(int port, int receive_bytes)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;

    if (fd < 0)
        fail("socket");
    if (receive_bytes > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static inline void
write_all(int fd, const void *data, size_t size)
{
    const char *at = data;
    ssize_t n;

    for (; size > 0; size -= (size_t)n, at += n) {
        n = write(fd, at, size);
        if (n <= 0)
            fail("write");
    }
}

/* The whole file with a NUL behind it. */
static inline char *
read_file(const char *path, size_t *out_size)
{
    FILE *file = fopen(path, "rb");
    char *data;
    long size;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0)
        fail(path);
    rewind(file);
    data = calloc(1, (size_t)size + 1);
    if (data == NULL || fread(data, 1, (size_t)size, file) != (size_t)size)
        fail(path);
    fclose(file);
    *out_size = (size_t)size;
    return data;
}

#endif
