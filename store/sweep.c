/* SPDX-License-Identifier: MPL-2.0 */
/* Retention: finished jobs and events that are older, and events that are more, than the options allow.
 * The writer thread.  Each call is one commit of a bounded number of rows; it fails as a commit does. */
#include "store/store.h"

struct sweep {
    struct muster_batch *batch;
    int64_t cutoff_ms; /* what ended before is removed */
    size_t left;       /* rows this call may still remove */
    bool more;         /* there was a row to remove after those */
};

static bool
spend(struct sweep *sweep)
{
    if (sweep->left > 0) {
        sweep->left--;
        return true;
    }
    sweep->more = true;
    return false;
}

/* Ids are made when a job is accepted and begin with the time, and a job ends after that: the first job whose id is too
 * young ends the walk. */
static bool
sweep_job(void *arg, const void *record, struct muster_arena *arena)
{
    struct sweep *sweep = arg;
    const struct job *job = record;

    (void)arena;
    if (muster_id_time(&job->id) >= sweep->cutoff_ms)
        return false;
    if (job->finished_ms >= sweep->cutoff_ms)
        return true;
    if (!spend(sweep))
        return false;
    (void)muster_batch_remove(sweep->batch, &job_type, &job->id);
    (void)muster_batch_remove(sweep->batch, &delivery_type, &job->id);
    return true;
}

static muster_err
sweep_jobs(struct muster_store *store, struct sweep *sweep)
{
    static const int finals[] = {job_state_COMPLETED, job_state_FAILED, job_state_CANCELLED};
    muster_err err = MUSTER_OK;
    size_t i;

    for (i = 0; i < sizeof(finals) / sizeof(finals[0]) && err == MUSTER_OK; i++)
        err = muster_store_walk(store, &job_type, "job_by_state", muster_enum_wire(&job_state_enum, finals[i]),
                                MUSTER_OLDEST_FIRST, sweep_job, sweep);
    return err;
}

static muster_err
sweep_events(struct muster_store *store, struct sweep *sweep, struct scan *scan, struct muster_arena *arena)
{
    int64_t bytes = store->totals.event_bytes, dropped = 0;
    struct muster_bytes key, value;
    struct event event;
    muster_err err;

    while ((err = scan_next(scan, &key, &value)) == MUSTER_OK) {
        bool readable;

        if (key.size != NUMBER_SIZE)
            return MUSTER_STORAGE_ERROR;
        muster_arena_clear(arena);
        /* One that cannot be read is of no use to anybody, so it goes too. */
        readable = muster_unpack(&event_type, value.data, value.size, arena, &event, NULL) == MUSTER_OK;
        if (!readable)
            event = (struct event){0};
        if (readable && event.at_ms >= sweep->cutoff_ms && bytes <= store->options.max_events)
            break;
        if (!spend(sweep))
            break;
        dropped = number_read(key.data);
        bytes -= (int64_t)(key.size + value.size);
        batch_drop(sweep->batch, dropped, &event.job, value.size);
    }
    if (err != MUSTER_OK && err != MUSTER_NOT_FOUND)
        return err;
    if (dropped)
        batch_oldest(sweep->batch, err == MUSTER_OK ? number_read(key.data) : dropped + 1);
    return MUSTER_OK;
}

muster_err
muster_store_sweep(struct muster_store *store, int64_t now_ms, size_t limit, bool *out_more)
{
    struct sweep sweep = {.left = limit ? limit : 1, .cutoff_ms = now_ms - store->options.keep_jobs};
    struct muster_arena *arena = muster_arena_new();
    struct scan scan;
    muster_err err;

    sweep.batch = muster_batch_new(store);
    scan_init(&scan, store->engine, ENGINE_EVENTS, bytes_of(NULL, 0), bytes_of(NULL, 0), false);
    err = sweep_jobs(store, &sweep);
    if (err == MUSTER_OK) {
        sweep.cutoff_ms = now_ms - store->options.keep_events;
        err = sweep_events(store, &sweep, &scan, arena);
    }
    if (err == MUSTER_OK)
        err = muster_batch_commit(sweep.batch);
    if (err == MUSTER_OK)
        *out_more = sweep.more;
    scan_fini(&scan);
    muster_batch_free(&sweep.batch);
    muster_arena_free(&arena);
    return err;
}
