/* SPDX-License-Identifier: MPL-2.0 */
/* No room: commits say so, reads go on, and writes do too once there is room.  On the real engine with a limit on the
 * size of files, which fails and cuts writes short like a full disk; and on an engine that fails when told to. */
#include <criterion/criterion.h>

#include <signal.h>
#include <sys/resource.h>

#include "tests/unit/store_help.h"

/* ---- a limit on files ---- */

static void
limit_files(rlim_t bytes)
{
    struct rlimit limit;

    NEED(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    limit.rlim_cur = bytes == RLIM_INFINITY ? limit.rlim_max : bytes;
    NEED(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static rlim_t
data_size(const struct folder *folder)
{
    struct stat info;
    char path[128];

    snprintf(path, sizeof(path), "%s/data.mdb", folder->path);
    NEED(stat(path, &info) == 0);
    return (rlim_t)info.st_size;
}

static muster_err
put_large(struct muster_store *store, unsigned number)
{
    struct job job = job_of(number, "backend", job_state_QUEUED);
    char *prompt = muster_alloc(40001);
    muster_err err;

    memset(prompt, 'p', 40000);
    job.prompt = prompt;
    err = put_now(store, &job_type, &job);
    free(prompt);
    return err;
}

/* Jobs 1 to `last` are there, and no others. */
static void
check_jobs(struct muster_store *store, unsigned last)
{
    struct muster_arena *arena = muster_arena_new();
    struct job found;
    size_t count;
    unsigned i;

    for (i = 1; i <= last; i++) {
        struct muster_id id = id_of(1000, i);

        cr_assert_eq(muster_store_get(store, &job_type, &id, arena, &found), MUSTER_OK, "job %u of %u", i, last);
        muster_arena_clear(arena);
    }
    cr_assert_eq(muster_store_count(store, &job_type, NULL, NULL, &count), MUSTER_OK);
    cr_assert_eq(count, last);
    cr_assert_eq(muster_store_count(store, &job_type, "job_by_state", "queued", &count), MUSTER_OK);
    cr_assert_eq(count, last);
    muster_arena_free(&arena);
}

/* Fill the store up to a limit of `room` bytes more than it has, twice. */
static void
run_full(rlim_t room)
{
    struct folder folder = folder_make();
    struct muster_store *store = store_open(folder.path);
    unsigned done = 0, round, again;
    muster_err err;

    NEED(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    for (round = 0; round < 2; round++) {
        limit_files(data_size(&folder) + room);
        while ((err = put_large(store, done + 1)) == MUSTER_OK)
            NEED(++done < 1000);
        cr_assert_eq(err, MUSTER_STORAGE_FULL, "%s", muster_err_code(err));
        for (again = 0; again < 3; again++)
            cr_assert_eq(put_large(store, done + 1), MUSTER_STORAGE_FULL);
        check_jobs(store, done);
        cr_assert_gt(muster_log_number(store), 0);
        limit_files(RLIM_INFINITY);
        cr_assert_eq(put_large(store, ++done), MUSTER_OK);
        check_jobs(store, done);
    }
    muster_store_close(&store);
    store = store_open(folder.path);
    check_jobs(store, done);
    cr_assert_gt(done, 4);
    muster_store_close(&store);
    folder_remove(&folder);
}

Test(full, limit_between_two_pages)
{
    run_full(64 * 4096);
}

Test(full, limit_inside_a_page)
{
    run_full(64 * 4096 + 1000);
}

Test(full, limit_at_what_there_is)
{
    struct folder folder = folder_make();
    struct muster_store *store = store_open(folder.path);

    NEED(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    cr_assert_eq(put_large(store, 1), MUSTER_OK);
    limit_files(data_size(&folder));
    cr_assert_eq(put_large(store, 2), MUSTER_STORAGE_FULL);
    check_jobs(store, 1);
    limit_files(RLIM_INFINITY);
    cr_assert_eq(put_large(store, 2), MUSTER_OK);
    check_jobs(store, 2);
    muster_store_close(&store);
    folder_remove(&folder);
}

/* ---- an engine that fails when told to ---- */

struct moody_engine {
    struct muster_engine base;
    struct muster_engine *inner;
    muster_err commit_err; /* what a commit answers without doing anything */
    bool *closed;
};

static struct moody_engine *
moody_of(struct muster_engine *engine)
{
    return (struct moody_engine *)engine;
}

static void
moody_close(struct muster_engine *engine)
{
    struct moody_engine *self = moody_of(engine);

    self->inner->class->close(self->inner);
    *self->closed = true;
    free(self);
}

static muster_err
moody_get(struct muster_engine *engine, enum engine_table table, struct muster_bytes key, struct muster_buf *out)
{
    return moody_of(engine)->inner->class->get(moody_of(engine)->inner, table, key, out);
}

static muster_err
moody_range(struct muster_engine *engine, enum engine_table table, struct muster_bytes prefix, struct muster_bytes from,
            bool backward, engine_visit *visit, void *arg)
{
    return moody_of(engine)->inner->class->range(moody_of(engine)->inner, table, prefix, from, backward, visit, arg);
}

static muster_err
moody_count(struct muster_engine *engine, enum engine_table table, struct muster_bytes key, uint64_t *out_count)
{
    return moody_of(engine)->inner->class->count(moody_of(engine)->inner, table, key, out_count);
}

static muster_err
moody_commit(struct muster_engine *engine, const struct engine_change *changes, size_t count)
{
    struct moody_engine *self = moody_of(engine);

    return self->commit_err ? self->commit_err : self->inner->class->commit(self->inner, changes, count);
}

static void
moody_size(struct muster_engine *engine, uint64_t *out_map_bytes, uint64_t *out_used_bytes)
{
    moody_of(engine)->inner->class->size(moody_of(engine)->inner, out_map_bytes, out_used_bytes);
}

static struct moody_engine *
moody_new(bool *closed)
{
    static const struct engine_class class = {moody_close, moody_get,    moody_range,
                                              moody_count, moody_commit, moody_size};
    struct moody_engine *self = muster_alloc(sizeof(*self));

    self->base.class = &class;
    self->inner = engine_memory_new();
    self->closed = closed;
    return self;
}

static void
check_failure(muster_err failure)
{
    bool closed = false;
    struct moody_engine *moody = moody_new(&closed);
    struct muster_engine *engine = &moody->base;
    struct muster_store_stats before, after;
    struct muster_store *store = NULL;
    struct muster_batch *batch;
    struct job job = job_of(2, "backend", job_state_QUEUED);
    struct event event;

    cr_assert_eq(muster_store_on_engine(&engine, &ample, &store), MUSTER_OK);
    cr_assert_eq(put_large(store, 1), MUSTER_OK);
    muster_store_stats(store, &before);
    moody->commit_err = failure;
    batch = muster_batch_new(store);
    event = event_of(muster_log_number(store), 1, &job.id, "piece");
    cr_assert_eq(batch_put(batch, &job_type, &job), MUSTER_OK);
    muster_batch_append(batch, &event);
    cr_assert_eq(muster_batch_commit(batch), failure);
    cr_assert_eq(muster_batch_bytes(batch), 0, "the batch is empty");
    muster_store_stats(store, &after);
    cr_assert(after.jobs == before.jobs && after.events == before.events && after.commits == before.commits);
    check_jobs(store, 1);
    moody->commit_err = MUSTER_OK;
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    check_jobs(store, 1);
    cr_assert_eq(put_large(store, 2), MUSTER_OK);
    check_jobs(store, 2);
    muster_batch_free(&batch);
    muster_store_close(&store);
    cr_assert(closed);
}

Test(full, failed_commit_changes_nothing)
{
    check_failure(MUSTER_STORAGE_FULL);
    check_failure(MUSTER_STORAGE_ERROR);
}

Test(full, numbers_are_given_out_while_no_commit_succeeds)
{
    bool closed = false;
    struct moody_engine *moody = moody_new(&closed);
    struct muster_engine *engine = &moody->base;
    struct muster_store *store = NULL;
    int64_t first, i;

    cr_assert_eq(muster_store_on_engine(&engine, &ample, &store), MUSTER_OK);
    moody->commit_err = MUSTER_STORAGE_FULL;
    first = muster_log_number(store);
    for (i = 1; i <= 1000000; i++)
        NEED(muster_log_number(store) == first + i);
    cr_assert_eq(put_large(store, 1), MUSTER_STORAGE_FULL);
    muster_store_close(&store);
    cr_assert(closed);
}

Test(full, store_that_cannot_reserve_numbers_is_not_opened)
{
    bool closed = false;
    struct moody_engine *moody = moody_new(&closed);
    struct muster_engine *engine = &moody->base;
    struct muster_store *store = NULL;

    moody->commit_err = MUSTER_STORAGE_FULL;
    cr_assert_eq(muster_store_on_engine(&engine, &ample, &store), MUSTER_STORAGE_FULL);
    cr_assert_null(store);
    cr_assert_null(engine);
    cr_assert(closed);
}

Test(full, sweep_that_fails_removes_nothing)
{
    bool closed = false, more = true;
    struct moody_engine *moody = moody_new(&closed);
    struct muster_engine *engine = &moody->base;
    struct muster_store *store = NULL;
    struct job job = job_of(1, "backend", job_state_COMPLETED);
    size_t count;

    cr_assert_eq(muster_store_on_engine(&engine, &ample, &store), MUSTER_OK);
    cr_assert_eq(put_now(store, &job_type, &job), MUSTER_OK);
    moody->commit_err = MUSTER_STORAGE_FULL;
    cr_assert_eq(muster_store_sweep(store, INT64_C(1) << 40, 100, &more), MUSTER_STORAGE_FULL);
    cr_assert(more, "outputs are left alone on failure");
    cr_assert_eq(muster_store_count(store, &job_type, NULL, NULL, &count), MUSTER_OK);
    cr_assert_eq(count, 1);
    moody->commit_err = MUSTER_OK;
    cr_assert_eq(muster_store_sweep(store, INT64_C(1) << 40, 100, &more), MUSTER_OK);
    cr_assert(!more);
    cr_assert_eq(muster_store_count(store, &job_type, NULL, NULL, &count), MUSTER_OK);
    cr_assert_eq(count, 0);
    muster_store_close(&store);
}
