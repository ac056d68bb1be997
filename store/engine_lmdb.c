/* SPDX-License-Identifier: MPL-2.0 */
/* The engine on LMDB: one environment in a folder, one named database a table, every commit synced before it returns.
 * META's rows lie beside the names, in the one page that every commit writes.
 * Sets are LMDB's sorted duplicates of fixed size: their members lie packed, and LMDB keeps their number.
 *
 * Readers are any thread: each holds the gate for the short life of its transaction, which comes from a list of idle
 * ones.  Commits come from one thread at a time.  When the memory map is full, the commit is undone, the gate is closed
 * to readers for the moment it takes to double the map, and the commit is done again.
 * A full disk fails the commit and leaves the environment as it was.  Where LMDB itself gives its environment up (a
 * failed write of its meta page, a failed remapping), the next commit opens it anew.
 * A process that sets RLIMIT_FSIZE must ignore SIGXFSZ, or the signal ends it before the commit can fail. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lmdb.h>

#include "schemas/muster_buf.h"
#include "store/bytes.h"
#include "store/engine.h"
#include "store/folder.h"

#define MAX_READERS 16384           /* transactions at a time; 64 bytes each in lock.mdb */
#define MAP_MAX ((uint64_t)1 << 46) /* half of the address space of a process */
#define MAP_MIN ((uint64_t)1 << 16) /* room for the empty tables */

#define TABLE_NAME 64

#define OTHER_FORMAT (-1) /* no code of LMDB's, nor an errno */

static const char format_name[] = "format"; /* in META */

struct lmdb_engine {
    struct muster_engine base;
    char *path;
    int lock_fd;  /* of folder_lock */
    MDB_env *env; /* NULL: could not be opened anew; the next commit tries again */
    MDB_dbi tables[ENGINE_TABLES];
    uint64_t map_bytes;
    pthread_rwlock_t gate;     /* read side: a transaction lives; write side: env or its map changes */
    pthread_mutex_t idle_lock; /* guards the list of idle transactions */
    MDB_txn **idle;
    size_t idle_count, idle_capacity;
};

static struct lmdb_engine *
lmdb_of(struct muster_engine *engine)
{
    return (struct lmdb_engine *)engine;
}

static muster_err
translate(int rc)
{
    switch (rc) {
    case MDB_SUCCESS:
        return MUSTER_OK;
    case MDB_NOTFOUND:
        return MUSTER_NOT_FOUND;
    case MDB_KEYEXIST: /* our own use of it: an expectation was not met */
        return MUSTER_CONFLICT;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return MUSTER_STORAGE_FULL;
    default:
        return MUSTER_STORAGE_ERROR;
    }
}

static MDB_val
val_of(struct muster_bytes bytes)
{
    /* LMDB does not change what it is given; its type has no const. */
    return (MDB_val){.mv_size = bytes.size, .mv_data = bytes.size ? (void *)(uintptr_t)bytes.data : (void *)""};
}

/* ---- the environment ------------------------------------------------------------------------------------------------
 */

static int
open_table(MDB_txn *txn, enum engine_table table, MDB_dbi *out_dbi)
{
    static const char *const names[ENGINE_RECORDS] = {
        [ENGINE_EVENTS] = "events", [ENGINE_JOB_EVENTS] = "job_events", [ENGINE_INDEX] = "index"};
    unsigned flags = engine_has_sets(table) ? MDB_CREATE | MDB_DUPSORT | MDB_DUPFIXED : MDB_CREATE;
    char name[TABLE_NAME];

    MUSTER_ASSERT(table < ENGINE_TABLES);
    if (table == ENGINE_META)
        return mdb_dbi_open(txn, NULL, 0, out_dbi);
    if (table < ENGINE_RECORDS)
        snprintf(name, sizeof(name), "%s", names[table]);
    else
        snprintf(name, sizeof(name), "records.%s", muster_records[table - ENGINE_RECORDS].type->wire);
    return mdb_dbi_open(txn, name, flags, out_dbi);
}

/* Before a table is made: what another format wrote must stay as it is. */
static int
check_format(MDB_txn *txn, MDB_dbi meta)
{
    MDB_val key = val_of(bytes_of(format_name, strlen(format_name))), value;
    uint8_t format[8];
    MDB_stat stat;
    int rc;

    rc = mdb_stat(txn, meta, &stat);
    if (rc)
        return rc;
    number_write(ENGINE_FORMAT, format);
    if (stat.ms_entries == 0) { /* a new folder */
        value = val_of(bytes_of(format, sizeof(format)));
        return mdb_put(txn, meta, &key, &value, 0);
    }
    rc = mdb_get(txn, meta, &key, &value);
    if (rc == 0 && bytes_compare(bytes_of(value.mv_data, value.mv_size), bytes_of(format, sizeof(format))) == 0)
        return 0;
    return rc == 0 || rc == MDB_NOTFOUND ? OTHER_FORMAT : rc;
}

static int
open_tables(MDB_env *env, MDB_dbi tables[ENGINE_TABLES])
{
    MDB_txn *txn;
    int i, rc;

    rc = mdb_txn_begin(env, NULL, 0, &txn);
    if (rc)
        return rc;
    rc = open_table(txn, ENGINE_META, &tables[ENGINE_META]);
    if (rc == 0)
        rc = check_format(txn, tables[ENGINE_META]);
    for (i = ENGINE_META + 1; rc == 0 && (i < ENGINE_RECORDS || muster_records[i - ENGINE_RECORDS].type); i++)
        rc = open_table(txn, (enum engine_table)i, &tables[i]);
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

/* LMDB opens its data file once or twice, without O_CLOEXEC in some releases, and hands out only one of the
 * descriptors: so look at all of the process.  Agents must not inherit them. */
static int
close_on_exec(MDB_env *env)
{
    struct stat data, other;
    struct dirent *entry;
    mdb_filehandle_t data_fd;
    DIR *open_files;
    int fd, rc;

    rc = mdb_env_get_fd(env, &data_fd);
    if (rc)
        return rc;
    if (fstat(data_fd, &data) != 0 || fcntl(data_fd, F_SETFD, FD_CLOEXEC) != 0)
        return errno;
    open_files = opendir("/proc/self/fd");
    if (open_files == NULL)
        return errno;
    while ((entry = readdir(open_files)) != NULL) {
        fd = atoi(entry->d_name); /* "." and ".." give 0, which is then looked at once more */
        if (fstat(fd, &other) == 0 && other.st_dev == data.st_dev && other.st_ino == data.st_ino)
            (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    closedir(open_files);
    return 0;
}

static int
open_env(struct lmdb_engine *self)
{
    MDB_env *env = NULL;
    MDB_envinfo info;
    int dead, rc;

    rc = mdb_env_create(&env);
    if (rc)
        return rc;
    rc = mdb_env_set_mapsize(env, self->map_bytes);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(env, MAX_READERS);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(env, ENGINE_TABLES);
    if (rc == 0)
        rc = mdb_env_open(env, self->path, MDB_NOTLS, 0600);
    if (rc == 0)
        rc = close_on_exec(env);
    if (rc == 0)
        rc = mdb_reader_check(env, &dead);
    if (rc == 0)
        rc = open_tables(env, self->tables);
    if (rc == 0)
        rc = mdb_env_info(env, &info);
    if (rc) {
        mdb_env_close(env);
        return rc;
    }
    self->map_bytes = info.me_mapsize; /* larger than asked for where the file is larger */
    self->env = env;
    return 0;
}

/* With the gate closed. */
static void
close_env(struct lmdb_engine *self)
{
    while (self->idle_count > 0)
        mdb_txn_abort(self->idle[--self->idle_count]);
    if (self->env)
        mdb_env_close(self->env);
    self->env = NULL;
}

static int
reopen(struct lmdb_engine *self)
{
    int rc;

    pthread_rwlock_wrlock(&self->gate);
    close_env(self);
    rc = open_env(self);
    pthread_rwlock_unlock(&self->gate);
    return rc;
}

/* A failed mmap leaves the environment without a map, so it is opened anew with the old size. */
static int
grow(struct lmdb_engine *self)
{
    int rc;

    if (self->map_bytes >= MAP_MAX)
        return ENOSPC;
    pthread_rwlock_wrlock(&self->gate);
    rc = mdb_env_set_mapsize(self->env, self->map_bytes * 2);
    if (rc == 0) {
        self->map_bytes *= 2;
    } else {
        close_env(self);
        (void)open_env(self);
    }
    pthread_rwlock_unlock(&self->gate);
    return rc;
}

/* ---- reading --------------------------------------------------------------------------------------------------------
 */

static MDB_txn *
take_idle(struct lmdb_engine *self)
{
    MDB_txn *txn = NULL;

    pthread_mutex_lock(&self->idle_lock);
    if (self->idle_count > 0)
        txn = self->idle[--self->idle_count];
    pthread_mutex_unlock(&self->idle_lock);
    return txn;
}

static void
keep_idle(struct lmdb_engine *self, MDB_txn *txn)
{
    pthread_mutex_lock(&self->idle_lock);
    if (self->idle_count == self->idle_capacity) {
        self->idle_capacity = self->idle_capacity ? self->idle_capacity * 2 : 16;
        self->idle = muster_realloc(self->idle, self->idle_capacity * sizeof(*self->idle));
    }
    self->idle[self->idle_count++] = txn;
    pthread_mutex_unlock(&self->idle_lock);
}

static int
begin_read(struct lmdb_engine *self, MDB_txn **out_txn)
{
    MDB_txn *txn;
    int rc;

    pthread_rwlock_rdlock(&self->gate);
    if (self->env == NULL) {
        pthread_rwlock_unlock(&self->gate);
        return EIO;
    }
    txn = take_idle(self);
    if (txn) {
        rc = mdb_txn_renew(txn);
        if (rc)
            mdb_txn_abort(txn);
    } else {
        rc = mdb_txn_begin(self->env, NULL, MDB_RDONLY, &txn);
    }
    if (rc)
        pthread_rwlock_unlock(&self->gate);
    else
        *out_txn = txn;
    return rc;
}

static void
end_read(struct lmdb_engine *self, MDB_txn *txn)
{
    mdb_txn_reset(txn);
    keep_idle(self, txn);
    pthread_rwlock_unlock(&self->gate);
}

static muster_err
lmdb_get(struct muster_engine *engine, enum engine_table table, struct muster_bytes key, struct muster_buf *out)
{
    struct lmdb_engine *self = lmdb_of(engine);
    MDB_val wanted = val_of(key), value;
    MDB_txn *txn;
    int rc;

    rc = begin_read(self, &txn);
    if (rc)
        return translate(rc);
    rc = mdb_get(txn, self->tables[table], &wanted, &value);
    if (rc == 0)
        muster_buf_add(out, value.mv_data, value.mv_size);
    end_read(self, txn);
    return translate(rc);
}

/* The first key that is above every key with this prefix; false when there is none. */
static bool
above_prefix(struct muster_bytes prefix, struct muster_buf *out)
{
    size_t size = prefix.size;

    while (size > 0 && prefix.data[size - 1] == 0xff)
        size--;
    if (size == 0)
        return false;
    muster_buf_add(out, prefix.data, size);
    out->data[size - 1] = (char)((uint8_t)out->data[size - 1] + 1);
    return true;
}

/* Put the cursor before `bound`, or, where that is allowed, on it. */
static int
seek_down(MDB_cursor *cursor, struct muster_bytes bound, bool on_it, MDB_val *key, MDB_val *value)
{
    int rc;

    *key = val_of(bound);
    rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
    if (rc == MDB_NOTFOUND)
        return mdb_cursor_get(cursor, key, value, MDB_LAST);
    if (rc == 0 && !(on_it && bytes_compare(bytes_of(key->mv_data, key->mv_size), bound) == 0))
        rc = mdb_cursor_get(cursor, key, value, MDB_PREV);
    return rc;
}

static int
seek_last(MDB_cursor *cursor, struct muster_bytes prefix, MDB_val *key, MDB_val *value)
{
    struct muster_buf bound = {0};
    int rc;

    if (above_prefix(prefix, &bound))
        rc = seek_down(cursor, bytes_of(bound.data, bound.size), false, key, value);
    else
        rc = mdb_cursor_get(cursor, key, value, MDB_LAST);
    muster_buf_free(&bound);
    return rc;
}

static int
seek(MDB_cursor *cursor, struct muster_bytes prefix, struct muster_bytes from, bool backward, MDB_val *key,
     MDB_val *value)
{
    if (backward)
        return from.size ? seek_down(cursor, from, true, key, value) : seek_last(cursor, prefix, key, value);
    if (from.size == 0)
        from = prefix;
    if (from.size == 0)
        return mdb_cursor_get(cursor, key, value, MDB_FIRST);
    *key = val_of(from);
    return mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
}

/* The member that is not below `from`, or, backward, not above it; an empty `from` is the first, or last, one. */
static int
seek_member(MDB_cursor *cursor, struct muster_bytes set, struct muster_bytes from, bool backward, MDB_val *member)
{
    MDB_val key = val_of(set);
    int rc = MDB_NOTFOUND;

    *member = val_of(from);
    if (from.size > 0)
        rc = mdb_cursor_get(cursor, &key, member, MDB_GET_BOTH_RANGE);
    if (rc == 0 && backward && bytes_compare(bytes_of(member->mv_data, member->mv_size), from) != 0)
        return mdb_cursor_get(cursor, &key, member, MDB_PREV_DUP);
    if (rc != MDB_NOTFOUND || (from.size > 0 && !backward))
        return rc;
    rc = mdb_cursor_get(cursor, &key, member, MDB_SET);
    if (rc == 0 && backward)
        rc = mdb_cursor_get(cursor, &key, member, MDB_LAST_DUP);
    return rc;
}

static int
visit_set(MDB_cursor *cursor, struct muster_bytes set, struct muster_bytes from, bool backward, engine_visit *visit,
          void *arg)
{
    MDB_cursor_op step = backward ? MDB_PREV_DUP : MDB_NEXT_DUP;
    MDB_val key, member;
    int rc;

    for (rc = seek_member(cursor, set, from, backward, &member); rc == 0;
         rc = mdb_cursor_get(cursor, &key, &member, step))
        if (!visit(arg, bytes_of(member.mv_data, member.mv_size), bytes_of("", 0)))
            break;
    return rc;
}

static int
visit_rows(MDB_cursor *cursor, struct muster_bytes prefix, struct muster_bytes from, bool backward, engine_visit *visit,
           void *arg)
{
    MDB_cursor_op step = backward ? MDB_PREV : MDB_NEXT;
    MDB_val key, value;
    int rc;

    for (rc = seek(cursor, prefix, from, backward, &key, &value); rc == 0;
         rc = mdb_cursor_get(cursor, &key, &value, step)) {
        struct muster_bytes found = bytes_of(key.mv_data, key.mv_size);

        if (!bytes_begin_with(found, prefix) || !visit(arg, found, bytes_of(value.mv_data, value.mv_size)))
            break;
    }
    return rc;
}

static muster_err
lmdb_range(struct muster_engine *engine, enum engine_table table, struct muster_bytes prefix, struct muster_bytes from,
           bool backward, engine_visit *visit, void *arg)
{
    struct lmdb_engine *self = lmdb_of(engine);
    MDB_cursor *cursor;
    MDB_txn *txn;
    int rc;

    rc = begin_read(self, &txn);
    if (rc)
        return translate(rc);
    rc = mdb_cursor_open(txn, self->tables[table], &cursor);
    if (rc == 0) {
        rc = (engine_has_sets(table) ? visit_set : visit_rows)(cursor, prefix, from, backward, visit, arg);
        mdb_cursor_close(cursor);
    }
    end_read(self, txn);
    return rc == MDB_NOTFOUND ? MUSTER_OK : translate(rc);
}

static int
count_members(MDB_txn *txn, MDB_dbi table, struct muster_bytes set, uint64_t *out_count)
{
    MDB_val key = val_of(set), member;
    MDB_cursor *cursor;
    size_t count = 0;
    int rc;

    rc = mdb_cursor_open(txn, table, &cursor);
    if (rc)
        return rc;
    rc = mdb_cursor_get(cursor, &key, &member, MDB_SET);
    if (rc == 0)
        rc = mdb_cursor_count(cursor, &count);
    mdb_cursor_close(cursor);
    if (rc == 0 || rc == MDB_NOTFOUND)
        *out_count = count;
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static muster_err
lmdb_count(struct muster_engine *engine, enum engine_table table, struct muster_bytes key, uint64_t *out_count)
{
    struct lmdb_engine *self = lmdb_of(engine);
    MDB_stat stat;
    MDB_txn *txn;
    int rc;

    rc = begin_read(self, &txn);
    if (rc)
        return translate(rc);
    if (engine_has_sets(table)) {
        rc = count_members(txn, self->tables[table], key, out_count);
    } else {
        rc = mdb_stat(txn, self->tables[table], &stat);
        if (rc == 0)
            *out_count = stat.ms_entries;
    }
    end_read(self, txn);
    return translate(rc);
}

/* ---- writing --------------------------------------------------------------------------------------------------------
 */

static int
expect(MDB_txn *txn, MDB_dbi table, const struct engine_change *change)
{
    MDB_val key = val_of(change->key), value;
    int rc = mdb_get(txn, table, &key, &value);

    if (rc == MDB_NOTFOUND)
        return change->value.data == NULL ? 0 : MDB_KEYEXIST;
    if (rc)
        return rc;
    if (change->value.data == NULL || bytes_compare(change->value, bytes_of(value.mv_data, value.mv_size)) != 0)
        return MDB_KEYEXIST;
    return 0;
}

/* Appending finds its place faster and fills pages whole.  It is refused where something stands behind that place. */
static int
append(MDB_cursor *cursor, const struct engine_change *change)
{
    MDB_val key = val_of(change->key), value = val_of(change->value);
    int rc = mdb_cursor_put(cursor, &key, &value, engine_has_sets(change->table) ? MDB_APPENDDUP : MDB_APPEND);

    return rc == MDB_KEYEXIST ? mdb_cursor_put(cursor, &key, &value, 0) : rc;
}

static int
apply(MDB_txn *txn, MDB_cursor *cursor, const struct engine_change *change)
{
    MDB_val key = val_of(change->key), value = val_of(change->value);
    int rc;

    switch (change->verb) {
    case ENGINE_PUT:
        return mdb_cursor_put(cursor, &key, &value, 0);
    case ENGINE_APPEND:
        return append(cursor, change);
    case ENGINE_DELETE:
        rc = mdb_cursor_get(cursor, &key, &value, engine_has_sets(change->table) ? MDB_GET_BOTH : MDB_SET);
        if (rc == 0)
            rc = mdb_cursor_del(cursor, 0);
        return rc == MDB_NOTFOUND ? 0 : rc;
    case ENGINE_EXPECT:
        return expect(txn, mdb_cursor_dbi(cursor), change);
    }
    return EINVAL;
}

/* One cursor a table: the next change is often beside the last one.  The end of the transaction frees them. */
static int
apply_all(struct lmdb_engine *self, MDB_txn *txn, const struct engine_change *changes, size_t count)
{
    MDB_cursor *cursors[ENGINE_TABLES] = {NULL};
    int rc = 0;
    size_t i;

    for (i = 0; i < count && rc == 0; i++) {
        MDB_cursor **cursor = &cursors[changes[i].table];

        if (*cursor == NULL)
            rc = mdb_cursor_open(txn, self->tables[changes[i].table], cursor);
        if (rc == 0)
            rc = apply(txn, *cursor, &changes[i]);
    }
    return rc;
}

static int
commit_once(struct lmdb_engine *self, const struct engine_change *changes, size_t count)
{
    MDB_txn *txn;
    int rc;

    rc = self->env ? mdb_txn_begin(self->env, NULL, 0, &txn) : MDB_PANIC;
    if (rc)
        return rc;
    rc = apply_all(self, txn, changes, count);
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

/* LMDB reports a write that was cut short, as on a full disk, with EIO.  What the file says to growing by the size of
 * the batch tells which it was; should it grow, the pages are used by the next commit. */
static int
explain_short_write(struct lmdb_engine *self, const struct engine_change *changes, size_t count)
{
    off_t need = 1 << 20;
    struct stat file;
    mdb_filehandle_t fd;
    size_t i;
    int rc;

    for (i = 0; i < count; i++)
        need += (off_t)(changes[i].key.size + changes[i].value.size);
    if (self->env == NULL || mdb_env_get_fd(self->env, &fd) != 0 || fstat(fd, &file) != 0)
        return EIO;
    rc = posix_fallocate(fd, file.st_size, need);
    return rc == ENOSPC || rc == EDQUOT || rc == EFBIG ? rc : EIO;
}

static muster_err
lmdb_commit(struct muster_engine *engine, const struct engine_change *changes, size_t count)
{
    struct lmdb_engine *self = lmdb_of(engine);
    bool reopened = false;
    int rc;

    for (;;) {
        rc = commit_once(self, changes, count);
        if (rc == MDB_MAP_FULL) {
            rc = grow(self);
        } else if (rc == MDB_PANIC && !reopened) {
            reopened = true;
            rc = reopen(self);
        } else {
            break;
        }
        if (rc)
            break;
    }
    if (rc == EIO)
        rc = explain_short_write(self, changes, count);
    return translate(rc);
}

static void
lmdb_size(struct muster_engine *engine, uint64_t *out_map_bytes, uint64_t *out_used_bytes)
{
    struct lmdb_engine *self = lmdb_of(engine);
    uint64_t map_bytes = 0, used_bytes = 0;
    MDB_envinfo info;
    MDB_stat stat;

    pthread_rwlock_rdlock(&self->gate);
    if (self->env && mdb_env_info(self->env, &info) == 0 && mdb_env_stat(self->env, &stat) == 0) {
        map_bytes = info.me_mapsize;
        used_bytes = (uint64_t)(info.me_last_pgno + 1) * stat.ms_psize;
    }
    pthread_rwlock_unlock(&self->gate);
    *out_map_bytes = map_bytes;
    *out_used_bytes = used_bytes;
}

/* ---- birth and death ---- */

static void
lmdb_close(struct muster_engine *engine)
{
    struct lmdb_engine *self = lmdb_of(engine);

    close_env(self);
    if (self->lock_fd >= 0)
        close(self->lock_fd);
    pthread_rwlock_destroy(&self->gate);
    pthread_mutex_destroy(&self->idle_lock);
    free(self->idle);
    free(self->path);
    free(self);
}

static struct lmdb_engine *
new_engine(const char *path, uint64_t map_bytes)
{
    static const struct engine_class class = {lmdb_close, lmdb_get, lmdb_range, lmdb_count, lmdb_commit, lmdb_size};
    struct lmdb_engine *self = muster_alloc(sizeof(*self));
    uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    pthread_rwlockattr_t attributes;

    self->base.class = &class;
    self->path = muster_strdup(path);
    self->lock_fd = -1;
    if (map_bytes < MAP_MIN)
        map_bytes = MAP_MIN;
    self->map_bytes = (map_bytes + page_bytes - 1) / page_bytes * page_bytes;
    /* A stream of readers must not keep the one who wants to grow the map waiting. */
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&self->gate, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    pthread_mutex_init(&self->idle_lock, NULL);
    return self;
}

muster_err
engine_lmdb_open(const char *path, uint64_t map_bytes, struct muster_engine **out_engine, char *problem,
                 size_t problem_size)
{
    struct lmdb_engine *self = new_engine(path, map_bytes);
    muster_err err;
    int rc;

    rc = folder_make(path);
    if (rc) {
        snprintf(problem, problem_size, "cannot make the data folder %s: %s", path, strerror(rc));
        err = translate(rc);
        goto out;
    }
    err = folder_lock(path, &self->lock_fd, problem, problem_size);
    if (err)
        goto out;
    rc = open_env(self);
    if (rc == 0)
        rc = folder_sync(path);
    if (rc == OTHER_FORMAT) {
        snprintf(problem, problem_size,
                 "the data folder %s was written by another version of muster, which keeps data in another way: go on "
                 "with that version, or begin with an empty folder; nothing in it was changed",
                 path);
        err = MUSTER_STORAGE_ERROR;
        goto out;
    }
    if (rc) {
        snprintf(problem, problem_size, "cannot open the data folder %s: %s", path, mdb_strerror(rc));
        err = rc == MDB_NOTFOUND ? MUSTER_STORAGE_ERROR : translate(rc);
        goto out;
    }
    *out_engine = &self->base;
    self = NULL;
out:
    if (self)
        lmdb_close(&self->base);
    return err;
}
