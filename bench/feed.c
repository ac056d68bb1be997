/* SPDX-License-Identifier: MPL-2.0 */
/* feed sub ENDPOINT SUBSCRIBERS FILE [SERVER_PUBLIC PUBLIC SECRET]: ZeroMQ subscribers of the daemon's events, on one
 * thread.  Each subscribes to everything and waits for its bus.joined, then "ready" is printed.  Each line "EVENTS" on
 * standard input waits until all have heard so many more events with a '~' and prints one JSON line.  FILE gets the
 * frames of the first such event. feed pub ENDPOINT FILE [SECRET]: the ceiling: a bare XPUB that answers joins and, for
 * each line "COUNT", sends the frames of FILE so often. feed keys: prints a CURVE key pair, public then secret. */
#include <zmq.h>

#include "bench/bench.h"

enum { FRAMES = 8, PATIENCE_MS = 10000, KEY_TEXT = 41 };

struct subscriber {
    void *socket;
    long long seen;
};

struct message {
    zmq_msg_t frames[FRAMES];
    int count;
};

static void
check(int rc, const char *what)
{
    if (rc != -1)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static bool
receive(void *socket, struct message *out, int flags)
{
    out->count = 0;
    do {
        zmq_msg_init(&out->frames[out->count]);
        if (zmq_msg_recv(&out->frames[out->count], socket, flags) == -1)
            return false;
        flags = 0;
    } while (zmq_msg_more(&out->frames[out->count++]) && out->count < FRAMES);
    return true;
}

static void
drop(struct message *message)
{
    int i;

    for (i = 0; i < message->count; i++)
        zmq_msg_close(&message->frames[i]);
}

static void
set_text(void *socket, int option, const char *text)
{
    check(zmq_setsockopt(socket, option, text, strlen(text)), "option");
}

static void *
unbounded(void *context, int type)
{
    void *socket = zmq_socket(context, type);
    int zero = 0;

    check(zmq_setsockopt(socket, ZMQ_SNDHWM, &zero, sizeof zero), "hwm");
    check(zmq_setsockopt(socket, ZMQ_RCVHWM, &zero, sizeof zero), "hwm");
    check(zmq_setsockopt(socket, ZMQ_LINGER, &zero, sizeof zero), "linger");
    return socket;
}

/* ---- subscribers ---- */

static void
join(struct subscriber *one, int number)
{
    struct message message;
    char topic[32];
    bool joined = false;

    (void)snprintf(topic, sizeof topic, "~/%d.%d", (int)getpid(), number);
    check(zmq_setsockopt(one->socket, ZMQ_SUBSCRIBE, "", 0), "subscribe");
    check(zmq_setsockopt(one->socket, ZMQ_SUBSCRIBE, topic, strlen(topic)), "subscribe");
    while (!joined && receive(one->socket, &message, 0)) {
        joined = zmq_msg_size(&message.frames[0]) == strlen(topic) &&
                 memcmp(zmq_msg_data(&message.frames[0]), topic, strlen(topic)) == 0;
        drop(&message);
    }
}

static void
keep_frames(const struct message *message, const char *path)
{
    FILE *file = fopen(path, "wb");
    int i;

    if (file == NULL)
        fail(path);
    for (i = 0; i < message->count; i++) {
        uint32_t size = (uint32_t)zmq_msg_size(&message->frames[i]);

        fwrite(&size, sizeof size, 1, file);
        fwrite(zmq_msg_data((zmq_msg_t *)(uintptr_t)&message->frames[i]), 1, size, file);
    }
    fclose(file);
}

static bool
is_event(const struct message *message)
{
    zmq_msg_t *body = (zmq_msg_t *)(uintptr_t)&message->frames[1];

    return message->count == 3 && memchr(zmq_msg_data(body), '~', zmq_msg_size(body));
}

static void
count_round(struct subscriber *all, int count, long long wanted, const char *path, struct samples *samples)
{
    zmq_pollitem_t *items = calloc((size_t)count, sizeof *items);
    int64_t begun_ns = now_ns(), last_ns = begun_ns, late = count, heard = 0;
    struct message message;
    int i;

    for (i = 0; i < count; i++)
        items[i] = (zmq_pollitem_t){all[i].socket, 0, ZMQ_POLLIN, 0};
    while (late > 0 && zmq_poll(items, count, PATIENCE_MS) > 0) {
        for (i = 0; i < count; i++) {
            while (items[i].revents && receive(all[i].socket, &message, ZMQ_DONTWAIT)) {
                if (is_event(&message)) {
                    last_ns = now_ns();
                    if (heard++ == 0)
                        keep_frames(&message, path);
                    if (++all[i].seen == wanted) {
                        late--;
                        samples_add(samples, last_ns - begun_ns);
                    }
                }
                drop(&message);
            }
        }
    }
    free(items);
    samples_print(samples, last_ns > begun_ns ? (double)heard / ((double)(last_ns - begun_ns) / 1e9) : 0, late);
    samples->count = 0;
}

static int
subscribe(void *context, int argc, char **argv)
{
    struct samples samples = {0};
    struct subscriber *all;
    long long events, wanted = 0;
    int count = atoi(argv[3]), i;

    all = calloc((size_t)count, sizeof *all);
    for (i = 0; i < count; i++) {
        all[i].socket = unbounded(context, ZMQ_SUB);
        if (argc > 7) {
            set_text(all[i].socket, ZMQ_CURVE_SERVERKEY, argv[5]);
            set_text(all[i].socket, ZMQ_CURVE_PUBLICKEY, argv[6]);
            set_text(all[i].socket, ZMQ_CURVE_SECRETKEY, argv[7]);
        }
        check(zmq_connect(all[i].socket, argv[2]), "connect");
        join(&all[i], i);
    }
    (void)puts("ready");
    (void)fflush(stdout);
    while (scanf("%lld", &events) == 1)
        count_round(all, count, wanted += events, argv[4], &samples);
    return 0;
}

/* ---- the bare publisher ---- */

static void
send_frames(void *socket, const char *data, size_t size)
{
    const char *end = data + size;
    uint32_t length;

    while (data < end) {
        memcpy(&length, data, sizeof length);
        data += sizeof length;
        check(zmq_send(socket, data, length, data + length < end ? ZMQ_SNDMORE : 0), "send");
        data += length;
    }
}

static void
answer_join(void *socket)
{
    struct message message;
    const char *topic;
    size_t size;

    if (!receive(socket, &message, ZMQ_DONTWAIT))
        return;
    topic = (const char *)zmq_msg_data(&message.frames[0]) + 1;
    size = zmq_msg_size(&message.frames[0]) - 1;
    if (size > 1 && topic[0] == '~') {
        check(zmq_send(socket, topic, size, ZMQ_SNDMORE), "send");
        check(zmq_send(socket, "", 0, 0), "send");
    }
    drop(&message);
}

static int
publish(void *context, int argc, char **argv)
{
    void *socket = unbounded(context, ZMQ_XPUB);
    zmq_pollitem_t items[2] = {{socket, 0, ZMQ_POLLIN, 0}, {NULL, 0, ZMQ_POLLIN, 0}};
    int one = 1;
    size_t size;
    char *frames = read_file(argv[3], &size), line[64];
    long count;

    if (argc > 4) {
        check(zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &one, sizeof one), "curve");
        set_text(socket, ZMQ_CURVE_SECRETKEY, argv[4]);
    }
    check(zmq_setsockopt(socket, ZMQ_XPUB_VERBOSE, &one, sizeof one), "verbose");
    check(zmq_bind(socket, argv[2]), "bind");
    while (zmq_poll(items, 2, -1) != -1) {
        if (items[0].revents)
            answer_join(socket);
        if (items[1].revents) {
            if (read(0, line, sizeof line) <= 0)
                break;
            for (count = atol(line); count > 0; count--)
                send_frames(socket, frames, size);
        }
    }
    return 0;
}

int
main(int argc, char **argv)
{
    char public[KEY_TEXT], secret[KEY_TEXT];
    void *context = zmq_ctx_new();

    if (argc == 2 && strcmp(argv[1], "keys") == 0) {
        check(zmq_curve_keypair(public, secret), "curve");
        printf("%s %s\n", public, secret);
        return 0;
    }
    if (argc >= 5 && strcmp(argv[1], "sub") == 0)
        return subscribe(context, argc, argv);
    if (argc >= 4 && strcmp(argv[1], "pub") == 0)
        return publish(context, argc, argv);
    return 2;
}
