/* SPDX-License-Identifier: MPL-2.0 */
/* commit_each PORT THREADS FOLDER: what a durable execute is without group commit.  civetweb reads the body, stores a
 * job, its place in an index and its event in LMDB with a synced commit of their own, and then answers. */
#include <civetweb.h>
#include <lmdb.h>
#include <pthread.h>

#include "bench/bench.h"

struct jobs {
    pthread_mutex_t lock;
    MDB_env *env;
    MDB_dbi records, index, events;
    uint64_t last;
};

static void
check(int rc, const char *what)
{
    if (rc == 0)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, mdb_strerror(rc));
    exit(1);
}

static void
put(MDB_txn *txn, MDB_dbi table, uint64_t key, const void *data, size_t size)
{
    uint64_t ordered = __builtin_bswap64(key);
    MDB_val name = {sizeof ordered, &ordered}, value = {size, (void *)(uintptr_t)data};

    check(mdb_put(txn, table, &name, &value, 0), "put");
}

static uint64_t
keep(struct jobs *jobs, const void *body, size_t size)
{
    MDB_txn *txn;
    uint64_t id;

    pthread_mutex_lock(&jobs->lock);
    id = ++jobs->last;
    check(mdb_txn_begin(jobs->env, NULL, 0, &txn), "begin");
    put(txn, jobs->records, id, body, size);
    put(txn, jobs->index, id, &id, sizeof id);
    put(txn, jobs->events, id, body, size < 100 ? size : 100);
    check(mdb_txn_commit(txn), "commit");
    pthread_mutex_unlock(&jobs->lock);
    return id;
}

static int
answer(struct mg_connection *connection)
{
    struct jobs *jobs = mg_get_user_data(mg_get_context(connection));
    char body[8192], text[256], json[96];
    int size = 0, got, length;

    while (size < (int)sizeof body && (got = mg_read(connection, body + size, sizeof body - (size_t)size)) > 0)
        size += got;
    length = snprintf(json, sizeof json, "{\"jobId\":\"%llu\",\"status\":\"queued\"}",
                      (unsigned long long)keep(jobs, body, (size_t)size));
    length = snprintf(text, sizeof text,
                      "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length,
                      json);
    mg_write(connection, text, (size_t)length);
    return 202;
}

static void
open_store(struct jobs *jobs, const char *folder)
{
    MDB_txn *txn;

    check(mdb_env_create(&jobs->env), "create");
    check(mdb_env_set_maxdbs(jobs->env, 3), "maxdbs");
    check(mdb_env_set_mapsize(jobs->env, (size_t)16 << 30), "mapsize");
    check(mdb_env_open(jobs->env, folder, MDB_NOTLS, 0600), "open");
    check(mdb_txn_begin(jobs->env, NULL, 0, &txn), "begin");
    check(mdb_dbi_open(txn, "records", MDB_CREATE, &jobs->records), "records");
    check(mdb_dbi_open(txn, "index", MDB_CREATE, &jobs->index), "index");
    check(mdb_dbi_open(txn, "events", MDB_CREATE, &jobs->events), "events");
    check(mdb_txn_commit(txn), "commit");
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
    struct jobs jobs = {.lock = PTHREAD_MUTEX_INITIALIZER};
    char address[64];

    if (argc != 4)
        return 2;
    (void)snprintf(address, sizeof address, "127.0.0.1:%s", argv[1]);
    options[1] = address;
    options[3] = argv[2];
    open_store(&jobs, argv[3]);
    mg_init_library(0);
    if (mg_start(&callbacks, &jobs, options) == NULL)
        return 1;
    pause();
    return 0;
}
