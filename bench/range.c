/* SPDX-License-Identifier: MPL-2.0 */
/* range FOLDER COUNT: reads the newest COUNT events of a data folder (a daemon may have it open) with an LMDB cursor
 * and copies each value: what a resume costs without rendering and sending.  Prints one JSON line. */
#include <lmdb.h>

#include "bench/bench.h"

static void
check(int rc, const char *what)
{
    if (rc == 0)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, mdb_strerror(rc));
    exit(1);
}

int
main(int argc, char **argv)
{
    static char copy[1 << 20];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi table;
    MDB_cursor *cursor;
    MDB_val key, value;
    int64_t begun_ns, count, i;
    size_t bytes = 0;
    int rc;

    if (argc != 3)
        return 2;
    count = atoll(argv[2]);
    check(mdb_env_create(&env), "create");
    check(mdb_env_set_maxdbs(env, 8), "maxdbs");
    check(mdb_env_open(env, argv[1], MDB_RDONLY | MDB_NOTLS, 0600), "open");
    check(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "begin");
    check(mdb_dbi_open(txn, "events", 0, &table), "events");
    check(mdb_cursor_open(txn, table, &cursor), "cursor");
    check(mdb_cursor_get(cursor, &key, &value, MDB_LAST), "last");
    for (i = 1; i < count; i++)
        check(mdb_cursor_get(cursor, &key, &value, MDB_PREV), "fewer events than that");
    begun_ns = now_ns();
    for (i = 0, rc = 0; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT), i++) {
        memcpy(copy, value.mv_data, value.mv_size < sizeof copy ? value.mv_size : sizeof copy);
        bytes += value.mv_size;
    }
    printf("{\"rate\": %.1f, \"bytes\": %zu, \"last\": %d, \"errors\": %d}\n",
           (double)i / ((double)(now_ns() - begun_ns) / 1e9), bytes, copy[0], i != count);
    return 0;
}
