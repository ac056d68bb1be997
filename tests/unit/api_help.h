/* SPDX-License-Identifier: MPL-2.0 */
/* What the tests of the gateway share: a server on a free port with a real store, simple actors behind it, and a client
 * that sends any bytes.  A failure here ends the test at once. */
#ifndef TESTS_API_HELP_H
#define TESTS_API_HELP_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "actors/keys.h"
#include "api/http/muster_http.h"
#include "schemas/muster_options.h"
#include "transport/muster_loop.h"

#define NEED(condition) ((condition) ? (void)0 : need_failed(#condition, __FILE__, __LINE__))

static inline void
need_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: needed: %s\n", file, line, condition);
    abort();
}

enum { PATIENCE_MS = 20000 };

/* ---- the house ------------------------------------------------------------------------------------------------------ */

#define ADMIN_KEY "muster_sk_admin"   /* everything, unlimited */
#define READER_KEY "muster_sk_reader" /* teams:read only, 1000 a minute */
#define BACKEND_KEY "muster_sk_team"  /* team backend only, unlimited */
#define SPENT_KEY "muster_sk_spent"   /* has no requests left */

struct rig {
    char folder[64];
    struct muster_config config;
    struct muster_house house;
    struct muster_bus *bus;
    struct muster_post *post; /* the test's own, publishes events */
    struct http_server *server;
    int port;
    int journal_fd;
    struct muster_runner *limit, *log, *queue, *silent;
    struct muster_loop *queue_loop;
    struct muster_arena *limit_arena, *log_arena, *queue_arena;
    struct muster_loop *limit_loop, *log_loop;
    /* what the queue does next */
    void (*on_submit)(struct rig *rig, const struct muster_envelope *envelope, const struct queue_submit *submit);
    void (*on_flush)(struct rig *rig); /* on the log's thread */
    atomic_int submits, flushes, taken;
    struct muster_id last_job; /* valid once submits has grown */
    _Atomic int64_t settled;   /* what the log says: every event up to it is on disk or never will be */
    int64_t last_timeout_ms, last_max_attempts;
    char last_callback[256];
    int64_t seq;
};

static inline void
reply(struct muster_loop *loop, const struct muster_envelope *to, const struct muster_principal *principal,
      const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {
        .type = "", .id = to->id, .reply_to = "", .trace = to->trace, .principal = *principal};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, type, body, &frame);
    (void)muster_post_send(muster_loop_post(loop), to->reply_to, &frame);
    muster_buf_free(&frame);
}

static inline void
fake_limit(void *arg, const void *data, size_t size)
{
    struct rig *rig = arg;
    struct muster_envelope envelope;
    struct limit_take take;
    struct limit_taken taken = {.unlimited = false};
    struct failed failed = {"RATE_LIMITED", "Rate limit exceeded", 7};
    struct muster_buf frame = {0};

    muster_arena_clear(rig->limit_arena);
    NEED(muster_envelope_unpack(data, size, rig->limit_arena, &envelope) == MUSTER_OK);
    NEED(muster_unpack(&limit_take_type, envelope.body.data, envelope.body.size, rig->limit_arena, &take, NULL) ==
         MUSTER_OK);
    rig->taken++;
    envelope.principal.rate_limit = take.requests;
    envelope.principal.rate_left = take.requests - 5;
    envelope.principal.rate_reset_s = muster_clock_ms() / 1000 + take.window / 1000 + 1; /* rounded up */
    envelope.principal.rate_window_s = take.window / 1000;
    if (strcmp(envelope.principal.name, "spent") == 0) {
        envelope.principal.rate_left = 0;
        reply(rig->limit_loop, &envelope, &envelope.principal, &failed_type, &failed);
    } else if (take.next && *take.next) {
        envelope.type = take.type;
        envelope.body = take.body;
        muster_envelope_wrap(&envelope, &frame);
        NEED(muster_post_send(muster_loop_post(rig->limit_loop), take.next, &frame) == MUSTER_OK);
        muster_buf_free(&frame);
    } else {
        reply(rig->limit_loop, &envelope, &envelope.principal, &limit_taken_type, &taken);
    }
}

static inline void
fake_log(void *arg, const void *data, size_t size)
{
    struct rig *rig = arg;
    struct muster_envelope envelope;
    struct store_committed committed;

    muster_arena_clear(rig->log_arena);
    NEED(muster_envelope_unpack(data, size, rig->log_arena, &envelope) == MUSTER_OK);
    if (rig->on_flush)
        rig->on_flush(rig);
    rig->flushes++;
    committed.seq = rig->settled;
    reply(rig->log_loop, &envelope, &envelope.principal, &store_committed_type, &committed);
}

static inline void
fake_queue(void *arg, const void *data, size_t size)
{
    struct rig *rig = arg;
    struct muster_envelope envelope;
    struct queue_submit submit;
    struct queue_cancel cancel;
    struct queue_cancelled cancelled;

    muster_arena_clear(rig->queue_arena);
    NEED(muster_envelope_unpack(data, size, rig->queue_arena, &envelope) == MUSTER_OK);
    if (strcmp(envelope.type, queue_cancel_type.wire) == 0) {
        NEED(muster_unpack(&queue_cancel_type, envelope.body.data, envelope.body.size, rig->queue_arena, &cancel,
                           NULL) == MUSTER_OK);
        cancelled = (struct queue_cancelled){cancel.job, job_state_CANCELLED, true};
        reply(rig->queue_loop, &envelope, &envelope.principal, &queue_cancelled_type, &cancelled);
        return;
    }
    NEED(muster_unpack(&queue_submit_type, envelope.body.data, envelope.body.size, rig->queue_arena, &submit, NULL) ==
         MUSTER_OK);
    rig->last_job = submit.job->id;
    rig->last_timeout_ms = submit.job->timeout_ms;
    rig->last_max_attempts = submit.job->max_attempts;
    snprintf(rig->last_callback, sizeof rig->last_callback, "%s",
             submit.job->callback ? submit.job->callback->url : "");
    rig->submits++; /* before the answer, so that whoever has it sees the count */
    if (rig->on_submit)
        rig->on_submit(rig, &envelope, &submit);
}

static inline void
fake_silence(void *arg, const void *data, size_t size)
{
    (void)arg;
    (void)data;
    (void)size;
}

static inline muster_err
begin_limit(void *arg, struct muster_loop *loop)
{
    ((struct rig *)arg)->limit_loop = loop;
    return MUSTER_OK;
}

static inline muster_err
begin_log(void *arg, struct muster_loop *loop)
{
    ((struct rig *)arg)->log_loop = loop;
    return MUSTER_OK;
}

static inline muster_err
begin_queue(void *arg, struct muster_loop *loop)
{
    ((struct rig *)arg)->queue_loop = loop;
    return MUSTER_OK;
}

static inline muster_err
begin_nothing(void *arg, struct muster_loop *loop)
{
    (void)arg;
    (void)loop;
    return MUSTER_OK;
}

static inline void
end_nothing(void *arg)
{
    (void)arg;
}

static const struct muster_runner_hooks limit_hooks = {
    .begin = begin_limit, .frame = fake_limit, .idle = NULL, .end = end_nothing};
static const struct muster_runner_hooks log_hooks = {
    .begin = begin_log, .frame = fake_log, .idle = NULL, .end = end_nothing};
static const struct muster_runner_hooks queue_hooks = {
    .begin = begin_queue, .frame = fake_queue, .idle = NULL, .end = end_nothing};
static const struct muster_runner_hooks silent_hooks = {
    .begin = begin_nothing, .frame = fake_silence, .idle = NULL, .end = end_nothing};

static inline void
publish_keys(struct rig *rig)
{
    static const char *const all[] = {"*"}, *const reads[] = {"teams:read"}, *const writes[] = {"teams:write"};
    static const char *const backend[] = {"backend"};
    static const struct rate_limit thousand = {1000, 60000, limit_algorithm_SLIDING_WINDOW};
    static const struct rate_limit unlimited = {0, 60000, limit_algorithm_SLIDING_WINDOW};
    static const char *const secrets[] = {ADMIN_KEY, READER_KEY, BACKEND_KEY, SPENT_KEY};
    struct key keys[4] = {
        {.name = "admin", .scopes = {all, 1}, .rate_limit = &unlimited, .configured = true},
        {.name = "reader", .scopes = {reads, 1}, .rate_limit = &thousand},
        {.name = "team", .scopes = {writes, 1}, .teams = {backend, 1}, .rate_limit = &unlimited},
        {.name = "spent", .scopes = {all, 1}, .rate_limit = &thousand},
    };
    static uint8_t digests[4][MUSTER_DIGEST];
    size_t i;

    for (i = 0; i < 4; i++) {
        muster_sha256(secrets[i], strlen(secrets[i]), digests[i]);
        keys[i].digest = (struct muster_bytes){digests[i], MUSTER_DIGEST};
        keys[i].id = muster_id_new(1000 + (int64_t)i);
        keys[i].created_ms = 1000 + (int64_t)i;
    }
    muster_board_publish(rig->bus, MUSTER_KEYS_BOARD, keys_new(keys, 4), keys_free);
}

static const char rig_options[] =
    "http:\n  listen: [127.0.0.1:0]\n  threads: 24\n  max_streams: 8\n  max_sockets: 8\n"
    "  max_waiting: 8\n"
    "  request_timeout: 600ms\n  keep_alive: 2s\n  max_body: 64KiB\n  max_backlog: 64KiB\n"
    "  ask_timeout: 10s\n"
    "teams:\n  backend: {}\n  frontend: {}\n"
    "log: {format: json, level: info}\n";

static inline void
rig_open(struct rig *rig, const char *yaml, const struct http_dialect *const *dialects)
{
    struct muster_options_error error = {""};
    char problem[512] = "";

    memset(rig, 0, sizeof *rig);
    NEED(muster_crypto_init() == MUSTER_OK);
    snprintf(rig->folder, sizeof rig->folder, "/tmp/muster-api-XXXXXX");
    NEED(mkdtemp(rig->folder) != NULL);
    if (muster_config_parse(yaml, strlen(yaml), "test.yaml", rig->folder, &rig->config, &error))
        fprintf(stderr, "%s\n", error.text);
    NEED(rig->config.options != NULL);
    rig->bus = muster_bus_new();
    rig->journal_fd = open(rig->folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    NEED(rig->journal_fd >= 0);
    rig->house.bus = rig->bus;
    rig->house.options = rig->config.options;
    rig->house.journal = muster_journal_new(rig->journal_fd, rig->config.options->log);
    NEED(muster_store_open(rig->folder, rig->config.options->store, &rig->house.store, problem, sizeof problem) ==
         MUSTER_OK);
    NEED(muster_post_open(rig->bus, "test", 1000, &rig->post) == MUSTER_OK);
    rig->limit_arena = muster_arena_new();
    rig->log_arena = muster_arena_new();
    rig->queue_arena = muster_arena_new();
    NEED(muster_runner_start(rig->bus, MUSTER_LIMIT, 10000, &limit_hooks, rig, &rig->limit) == MUSTER_OK);
    NEED(muster_runner_start(rig->bus, MUSTER_LOG, 10000, &log_hooks, rig, &rig->log) == MUSTER_OK);
    NEED(muster_runner_start(rig->bus, MUSTER_QUEUE, 10000, &queue_hooks, rig, &rig->queue) == MUSTER_OK);
    NEED(muster_runner_start(rig->bus, "silent", 10000, &silent_hooks, rig, &rig->silent) == MUSTER_OK);
    publish_keys(rig);
    if (http_server_start(&rig->house, dialects, &rig->server, problem, sizeof problem))
        fprintf(stderr, "%s\n", problem);
    NEED(rig->server != NULL);
    rig->port = atoi(strrchr(http_server_url(rig->server), ':') + 1);
}

static inline int
rig_remove(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline void
rig_close(struct rig *rig)
{
    http_server_stop(&rig->server);
    muster_runner_stop(&rig->limit);
    muster_runner_stop(&rig->log);
    muster_runner_stop(&rig->queue);
    muster_runner_stop(&rig->silent);
    muster_post_close(&rig->post);
    muster_bus_free(&rig->bus);
    muster_arena_free(&rig->limit_arena);
    muster_arena_free(&rig->log_arena);
    muster_arena_free(&rig->queue_arena);
    muster_store_close(&rig->house.store);
    muster_journal_free(&rig->house.journal);
    close(rig->journal_fd);
    muster_config_free(&rig->config);
    NEED(nftw(rig->folder, rig_remove, 8, FTW_DEPTH | FTW_PHYS) == 0);
}

/* All that was written to the log so far, NUL-terminated. */
static inline char *
rig_journal(struct rig *rig, struct muster_buf *out)
{
    char piece[4096];
    off_t at = 0;
    ssize_t got;

    /* Takes along what was said before it. */
    muster_journal_say(rig->house.journal, WARNING, "test", "Up to here.", MUSTER_SAY_NUMBER("n", 0));
    while ((got = pread(rig->journal_fd, piece, sizeof piece, at)) > 0) {
        muster_buf_add(out, piece, (size_t)got);
        at += got;
    }
    return out->data ? out->data : "";
}

/* ---- events --------------------------------------------------------------------------------------------------------- */

/* Chunk number `seq` of `job`; `final` makes it job.completed. */
static inline void
make_event(struct muster_buf *body, const struct muster_id *job, int64_t seq, const char *text, bool final,
           struct event *out)
{
    struct job_completed completed = {.duration_ms = 5};
    struct job_chunk chunk = {text};

    muster_buf_clear(body);
    if (final)
        muster_pack(&job_completed_type, &completed, body);
    else
        muster_pack(&job_chunk_type, &chunk, body);
    *out = (struct event){.seq = seq,
                          .at_ms = muster_clock_ms(),
                          .type = final ? job_completed_type.wire : job_chunk_type.wire,
                          .team = "backend",
                          .job = *job,
                          .attempt = 1,
                          .body = {(const uint8_t *)body->data, body->size}};
}

static inline void
publish_many(struct rig *rig, const struct event *events, size_t count, int64_t settled)
{
    struct feed_events feed = {{events, count}, settled};
    struct muster_envelope envelope = {.type = "", .reply_to = "", .trace = "", .principal = {.name = ""}};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, &feed_events_type, &feed, &frame);
    muster_feed_publish(rig->post, MUSTER_FEED_LIVE, &frame);
    muster_buf_free(&frame);
}

/* `event` may be NULL. */
static inline void
publish_settled(struct rig *rig, const struct event *event, int64_t settled)
{
    publish_many(rig, event, event ? 1 : 0, settled);
}

/* Nothing below is missing. */
static inline void
publish(struct rig *rig, const struct event *event)
{
    publish_settled(rig, event, event->seq);
}

static inline void
publish_text(struct rig *rig, const struct muster_id *job, int64_t seq, const char *text, bool final)
{
    struct muster_buf body = {0};
    struct event event;

    make_event(&body, job, seq, text, final, &event);
    publish(rig, &event);
    muster_buf_free(&body);
}

/* Put chunks with these numbers on disk. */
static inline void
store_chunks(struct rig *rig, const struct muster_id *job, int64_t first, int64_t last, const char *text, bool final)
{
    struct muster_batch *batch = muster_batch_new(rig->house.store);
    struct muster_buf body = {0};
    struct event event;
    int64_t seq;

    for (seq = first; seq <= last; seq++) {
        make_event(&body, job, seq, text, final && seq == last, &event);
        muster_batch_append(batch, &event);
    }
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_buf_free(&body);
    muster_batch_free(&batch);
}

/* Put these events on disk together. */
static inline void
store_events(struct rig *rig, const struct event *events, size_t count)
{
    struct muster_batch *batch = muster_batch_new(rig->house.store);
    size_t i;

    for (i = 0; i < count; i++)
        muster_batch_append(batch, &events[i]);
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_batch_free(&batch);
}

static inline void
store_job(struct rig *rig, const struct job *job)
{
    struct muster_batch *batch = muster_batch_new(rig->house.store);
    struct muster_buf bytes = {0};

    muster_pack(&job_type, job, &bytes);
    NEED(muster_batch_put(batch, &job_type, bytes.data, bytes.size) == MUSTER_OK);
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_buf_free(&bytes);
    muster_batch_free(&batch);
}

/* ---- the client ----------------------------------------------------------------------------------------------------- */

struct client {
    int fd;
    struct muster_buf in; /* received and not used yet */
    bool ended;           /* the server has closed */
};

struct answer {
    int status;
    char head[4096];
    struct muster_buf body;
};

static inline struct client
client_open_small(const struct rig *rig, int receive_bytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((in_port_t)rig->port)};
    struct client client = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};

    NEED(client.fd >= 0);
    if (receive_bytes > 0)
        NEED(setsockopt(client.fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes) == 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    NEED(connect(client.fd, (struct sockaddr *)&address, sizeof address) == 0);
    return client;
}

static inline struct client
client_open(const struct rig *rig)
{
    return client_open_small(rig, 0);
}

static inline void
client_close(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    muster_buf_free(&client->in);
}

/* False: the server has closed. */
static inline bool
client_send(struct client *client, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(client->fd, data, size, MSG_NOSIGNAL);

        if (sent <= 0)
            return false;
        data += sent;
        size -= (size_t)sent;
    }
    return true;
}

static inline void client_say(struct client *client, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline void
client_say(struct client *client, const char *format, ...)
{
    struct muster_buf text = {0};
    va_list args;

    va_start(args, format);
    muster_buf_vprintf(&text, format, args);
    va_end(args);
    (void)client_send(client, text.data, text.size);
    muster_buf_free(&text);
}

/* Wait for more bytes; false: the server has closed. */
static inline bool
client_more(struct client *client)
{
    struct pollfd poller = {.fd = client->fd, .events = POLLIN};
    char *room;
    ssize_t got;

    if (client->ended)
        return false;
    NEED(poll(&poller, 1, PATIENCE_MS) == 1);
    room = muster_buf_room(&client->in, 65536);
    got = recv(client->fd, room, 65536, 0);
    if (got <= 0) {
        client->ended = true;
        return false;
    }
    client->in.size += (size_t)got;
    client->in.data[client->in.size] = '\0';
    return true;
}

/* Wait for the next event of a stream that has an id; its number, -1: the stream has ended.  Its text goes to `out`. */
static inline int64_t
client_event(struct client *client, char *out, size_t size)
{
    const char *end, *dash;
    size_t length;
    int64_t seq;

    for (;;) {
        while ((end = client->in.data ? memmem(client->in.data, client->in.size, "\n\n", 2) : NULL) == NULL)
            if (!client_more(client))
                return -1;
        length = (size_t)(end - client->in.data) + 2;
        seq = -1;
        if (strncmp(client->in.data, "id: ", 4) == 0) {
            dash = strchr(client->in.data, '-');
            seq = atoll(dash + 1);
            if (out)
                snprintf(out, size, "%.*s", (int)length - 2, client->in.data);
        }
        muster_buf_shift(&client->in, length);
        if (seq >= 0)
            return seq;
    }
}

/* Wait until the text is there; its place, or NULL when the server closed before. */
static inline const char *
client_until(struct client *client, const char *text)
{
    const char *found;

    for (;;) {
        found = client->in.data ? memmem(client->in.data, client->in.size, text, strlen(text)) : NULL;
        if (found || !client_more(client))
            return found;
    }
}

static inline bool
answer_header(const struct answer *answer, const char *name, char *out, size_t size)
{
    const char *line;
    size_t length = strlen(name);

    for (line = strstr(answer->head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, length) == 0 && line[2 + length] == ':') {
            snprintf(out, size, "%.*s", (int)strcspn(line + 4 + length, "\r"), line + 4 + length);
            return true;
        }
    return false;
}

static inline bool
answer_has(const struct answer *answer, const char *text)
{
    return answer->body.data && strstr(answer->body.data, text) != NULL;
}

/* One whole answer.  False: the server closed without one. */
static inline bool
client_answer(struct client *client, struct answer *answer)
{
    const char *end = client_until(client, "\r\n\r\n");
    char length[32];
    size_t head, body;

    answer->status = 0;
    answer->head[0] = '\0';
    muster_buf_clear(&answer->body);
    if (end == NULL)
        return false;
    head = (size_t)(end - client->in.data) + 4;
    NEED(head < sizeof answer->head);
    memcpy(answer->head, client->in.data, head);
    answer->head[head] = '\0';
    muster_buf_shift(&client->in, head);
    NEED(sscanf(answer->head, "HTTP/1.1 %d", &answer->status) == 1);
    body = answer_header(answer, "Content-Length", length, sizeof length) ? (size_t)atol(length) : 0;
    while (client->in.size < body)
        NEED(client_more(client));
    muster_buf_add(&answer->body, client->in.data ? client->in.data : "", body);
    muster_buf_shift(&client->in, body);
    return true;
}

/* Has the server closed, with nothing more to read? */
static inline bool
client_is_closed(struct client *client)
{
    return client->in.size == 0 && !client_more(client);
}

/* Send a request on a connection of its own; its status, 0: none. */
static inline int
request_bytes(struct rig *rig, const char *data, size_t size, struct answer *answer)
{
    struct client client = client_open(rig);

    (void)client_send(&client, data, size);
    (void)client_answer(&client, answer);
    client_close(&client);
    return answer->status;
}

static inline int
request_text(struct rig *rig, struct answer *answer, const char *method, const char *path, const char *key,
             const char *headers, const char *body)
{
    struct muster_buf text = {0};
    int status;

    muster_buf_printf(&text, "%s %s HTTP/1.1\r\nHost: test\r\n", method, path);
    if (key)
        muster_buf_printf(&text, "Authorization: Bearer %s\r\n", key);
    if (body)
        muster_buf_printf(&text, "Content-Length: %zu\r\n", strlen(body));
    muster_buf_printf(&text, "%s\r\n%s", headers ? headers : "", body ? body : "");
    status = request_bytes(rig, text.data, text.size, answer);
    muster_buf_free(&text);
    return status;
}

#endif
