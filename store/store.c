/* SPDX-License-Identifier: MPL-2.0 */
/* The store as a whole: opening, closing, its epoch, its running totals and its numbers for monitoring.
 * Opening writes once, to reserve event numbers; closing writes once, to give back those that were not used. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "store/store.h"

static const char epoch_name[] = "epoch";
static const char totals_name[] = "totals";

static struct muster_bytes
name_of(const char *name)
{
    return bytes_of(name, strlen(name));
}

/* ---- totals ---------------------------------------------------------------------------------------------------------
 */

void
totals_write(const struct totals *totals, uint8_t out_bytes[TOTALS_SIZE])
{
    number_write(totals->reserved, out_bytes);
    number_write(totals->oldest, out_bytes + 8);
    number_write(totals->event_bytes, out_bytes + 16);
}

static bool
totals_read(const struct muster_buf *bytes, struct totals *out_totals)
{
    const uint8_t *data = (const uint8_t *)bytes->data;

    if (bytes->size != TOTALS_SIZE)
        return false;
    *out_totals = (struct totals){
        .reserved = number_read(data),
        .oldest = number_read(data + 8),
        .event_bytes = number_read(data + 16),
    };
    return out_totals->reserved >= 1 && out_totals->reserved < INT64_MAX - LOG_RESERVE;
}

struct engine_change
totals_change(const uint8_t bytes[TOTALS_SIZE])
{
    return (struct engine_change){ENGINE_PUT, ENGINE_META, name_of(totals_name), bytes_of(bytes, TOTALS_SIZE)};
}

void
totals_reserve(struct muster_store *store, struct totals *totals)
{
    int64_t next = atomic_load(&store->next);

    if (totals->reserved - next < LOG_RESERVE / 2)
        totals->reserved = next + LOG_RESERVE;
}

void
totals_adopt(struct muster_store *store, const struct totals *totals)
{
    pthread_mutex_lock(&store->lock);
    store->totals = *totals;
    store->commits++;
    pthread_mutex_unlock(&store->lock);
    atomic_store(&store->limit, totals->reserved);
}

/* ---- opening ---- */

static muster_err
load_epoch(struct muster_store *store)
{
    struct muster_buf found = {0};
    uint8_t random[EPOCH_SIZE / 2];
    muster_err err;

    err = store->engine->class->get(store->engine, ENGINE_META, name_of(epoch_name), &found);
    if (err == MUSTER_NOT_FOUND) {
        muster_random(random, sizeof(random));
        muster_hex(random, sizeof(random), store->epoch);
        err = MUSTER_OK;
    } else if (err == MUSTER_OK && found.size != EPOCH_SIZE) {
        err = MUSTER_STORAGE_ERROR;
    } else if (err == MUSTER_OK) {
        memcpy(store->epoch, found.data, EPOCH_SIZE);
    }
    muster_buf_free(&found);
    return err;
}

static muster_err
load_totals(struct muster_store *store)
{
    struct muster_buf found = {0};
    muster_err err;

    err = store->engine->class->get(store->engine, ENGINE_META, name_of(totals_name), &found);
    if (err == MUSTER_NOT_FOUND) {
        store->totals = (struct totals){.reserved = 1, .oldest = 1};
        err = MUSTER_OK;
    } else if (err == MUSTER_OK && !totals_read(&found, &store->totals)) {
        err = MUSTER_STORAGE_ERROR;
    }
    muster_buf_free(&found);
    return err;
}

struct newest {
    struct muster_id *id;
    bool broken;
};

static bool
keep_id(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct newest *newest = arg;

    (void)value;
    newest->broken = key.size != ID_SIZE;
    if (!newest->broken)
        memcpy(newest->id->bytes, key.data, ID_SIZE);
    return false;
}

static muster_err
load_newest(struct muster_store *store)
{
    const struct muster_record_row *row;
    muster_err err = MUSTER_OK;

    for (row = muster_records; row->type && err == MUSTER_OK; row++) {
        struct newest newest = {.id = &store->newest[row - muster_records]};

        err = store->engine->class->range(store->engine, record_table(row), bytes_of(NULL, 0), bytes_of(NULL, 0), true,
                                          keep_id, &newest);
        if (newest.broken)
            err = MUSTER_STORAGE_ERROR;
    }
    return err;
}

/* Everything below totals.reserved may have been given out before, so numbering goes on there.  No number may leave
 * before the new reserve is on disk. */
static muster_err
reserve_first(struct muster_store *store)
{
    struct totals totals = store->totals;
    uint8_t bytes[TOTALS_SIZE];
    struct engine_change changes[2];
    muster_err err;

    atomic_store(&store->next, totals.reserved);
    totals_reserve(store, &totals);
    totals_write(&totals, bytes);
    changes[0] = totals_change(bytes);
    changes[1] = (struct engine_change){ENGINE_PUT, ENGINE_META, name_of(epoch_name), name_of(store->epoch)};
    err = store->engine->class->commit(store->engine, changes, 2);
    if (err == MUSTER_OK)
        totals_adopt(store, &totals);
    return err;
}

static muster_err
load(struct muster_store *store)
{
    muster_err err;

    err = muster_crypto_init();
    if (err == MUSTER_OK)
        err = load_epoch(store);
    if (err == MUSTER_OK)
        err = load_totals(store);
    if (err == MUSTER_OK)
        err = load_newest(store);
    if (err == MUSTER_OK)
        err = reserve_first(store);
    return err;
}

static void
free_store(struct muster_store *store)
{
    store->engine->class->close(store->engine);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

muster_err
muster_store_on_engine(struct muster_engine **engine_p, const struct store_options *options,
                       struct muster_store **out_store)
{
    struct muster_store *store = muster_alloc(sizeof(*store));
    muster_err err;

    store->engine = *engine_p;
    *engine_p = NULL;
    store->options = *options;
    pthread_mutex_init(&store->lock, NULL);
    index_fields(store);
    err = load(store);
    if (err) {
        free_store(store);
        return err;
    }
    *out_store = store;
    return MUSTER_OK;
}

muster_err
muster_store_open(const char *path, const struct store_options *options, struct muster_store **out_store, char *problem,
                  size_t problem_size)
{
    struct muster_engine *engine = NULL;
    struct stat folder = {0};
    muster_err err;

    err = engine_lmdb_open(path, (uint64_t)options->map_size, &engine, problem, problem_size);
    if (err)
        return err;
    err = muster_store_on_engine(&engine, options, out_store);
    if (err)
        snprintf(problem, problem_size, "cannot use the data folder %s: %s", path,
                 err == MUSTER_STORAGE_FULL ? muster_err_text(err) : "it is damaged");
    else if (stat(path, &folder) == 0)
        snprintf((*out_store)->mark, sizeof(*out_store)->mark, "%s-%llx", (*out_store)->epoch,
                 (unsigned long long)folder.st_ino);
    return err;
}

void
muster_store_close(struct muster_store **store_p)
{
    struct muster_store *store = *store_p;
    uint8_t bytes[TOTALS_SIZE];
    struct engine_change change;
    struct totals totals;

    *store_p = NULL;
    if (store == NULL)
        return;
    /* Give unused numbers back.  Should that fail, the next opening leaves them out: a gap, nothing worse. */
    totals = store->totals;
    totals.reserved = atomic_load(&store->next);
    totals_write(&totals, bytes);
    change = totals_change(bytes);
    (void)store->engine->class->commit(store->engine, &change, 1);
    free_store(store);
}

/* ---- looking ---- */

const char *
muster_store_mark(const struct muster_store *store)
{
    return store->mark[0] ? store->mark : store->epoch; /* without a folder */
}

const char *
muster_store_epoch(const struct muster_store *store)
{
    return store->epoch;
}

void
muster_store_stats(struct muster_store *store, struct muster_store_stats *out_stats)
{
    struct muster_store_stats stats = {0};
    uint64_t events = 0;

    /* Where these cannot be read now, they are 0. */
    (void)muster_store_count(store, &job_type, NULL, NULL, &stats.jobs);
    (void)store->engine->class->count(store->engine, ENGINE_EVENTS, bytes_of(NULL, 0), &events);
    stats.events = (size_t)events;
    pthread_mutex_lock(&store->lock);
    stats.commits = store->commits;
    pthread_mutex_unlock(&store->lock);
    stats.last_seq = muster_log_last(store);
    store->engine->class->size(store->engine, &stats.map_bytes, &stats.used_bytes);
    *out_stats = stats;
}
