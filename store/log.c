/* SPDX-License-Identifier: MPL-2.0 */
/* The event log: numbers, cursors, and reading it whole or by job.  Any thread.
 * An event on disk that does not decode is MUSTER_STORAGE_ERROR. */
#include <inttypes.h>
#include <stdio.h>

#include "store/store.h"

/* ---- numbers and cursors ---- */

/* The assertion needs half of LOG_RESERVE taken with no commit between: the writer has been dead for days. */
int64_t
muster_log_number(struct muster_store *store)
{
    int64_t number = atomic_fetch_add(&store->next, 1);

    MUSTER_ASSERT(number < atomic_load(&store->limit));
    return number;
}

int64_t
muster_log_last(struct muster_store *store)
{
    return atomic_load(&store->next) - 1;
}

int64_t
muster_log_oldest(struct muster_store *store)
{
    int64_t oldest;

    pthread_mutex_lock(&store->lock);
    oldest = store->totals.oldest;
    pthread_mutex_unlock(&store->lock);
    return oldest;
}

void
muster_cursor_text(const struct muster_store *store, int64_t seq, char out_text[MUSTER_CURSOR_TEXT])
{
    snprintf(out_text, MUSTER_CURSOR_TEXT, "%s-%" PRId64, store->epoch, seq);
}

static bool
parse_number(const char *text, int64_t *out_number)
{
    int64_t number = 0;

    if (*text == '\0' || (*text == '0' && text[1] != '\0'))
        return false;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (number > (INT64_MAX - (*text - '0')) / 10)
            return false;
        number = number * 10 + (*text - '0');
    }
    *out_number = number;
    return *text == '\0';
}

muster_err
muster_cursor_parse(const struct muster_store *store, const char *text, int64_t *out_seq)
{
    int64_t seq;

    if (strspn(text, "0123456789abcdef") != EPOCH_SIZE || text[EPOCH_SIZE] != '-')
        return MUSTER_INVALID_REQUEST;
    if (!parse_number(text + EPOCH_SIZE + 1, &seq))
        return MUSTER_INVALID_REQUEST;
    if (memcmp(text, store->epoch, EPOCH_SIZE) != 0)
        return MUSTER_CURSOR_EXPIRED;
    *out_seq = seq;
    return MUSTER_OK;
}

/* ---- reading ---- */

static muster_err
decode(struct muster_bytes value, struct muster_arena *arena, struct event *out_event)
{
    if (muster_unpack(&event_type, value.data, value.size, arena, out_event, NULL) != MUSTER_OK)
        return MUSTER_STORAGE_ERROR;
    return MUSTER_OK;
}

muster_err
muster_log_get(struct muster_store *store, int64_t seq, struct muster_arena *arena, struct event *out_event)
{
    struct muster_buf value = {0};
    uint8_t key[NUMBER_SIZE];
    muster_err err;

    number_write(seq, key);
    err = store->engine->class->get(store->engine, ENGINE_EVENTS, bytes_of(key, sizeof(key)), &value);
    if (err == MUSTER_OK)
        err = decode(bytes_of(value.data, value.size), arena, out_event);
    muster_buf_free(&value);
    return err;
}

static muster_err
walk_all(struct scan *scan, struct muster_arena *arena, muster_log_visit *visit, void *arg)
{
    struct muster_bytes key, value;
    struct event event;
    muster_err err;

    for (;;) {
        err = scan_next(scan, &key, &value);
        if (err)
            return err;
        muster_arena_clear(arena);
        err = decode(value, arena, &event);
        if (err)
            return err;
        if (!visit(arg, &event))
            return MUSTER_OK;
    }
}

/* Events that were removed since their page of numbers was read are left out. */
static muster_err
walk_job(struct muster_store *store, struct scan *scan, struct muster_arena *arena, muster_log_visit *visit, void *arg)
{
    struct muster_bytes key, value;
    struct event event;
    muster_err err;

    for (;;) {
        err = scan_next(scan, &key, &value);
        if (err)
            return err;
        if (key.size != NUMBER_SIZE)
            return MUSTER_STORAGE_ERROR;
        muster_arena_clear(arena);
        err = muster_log_get(store, number_read(key.data), arena, &event);
        if (err == MUSTER_NOT_FOUND)
            continue;
        if (err)
            return err;
        if (!visit(arg, &event))
            return MUSTER_OK;
    }
}

muster_err
muster_log_walk(struct muster_store *store, const struct muster_id *job, int64_t after, muster_log_visit *visit,
                void *arg)
{
    enum engine_table table = job ? ENGINE_JOB_EVENTS : ENGINE_EVENTS;
    struct muster_bytes set = job ? bytes_of(job->bytes, ID_SIZE) : bytes_of(NULL, 0);
    uint8_t from[NUMBER_SIZE];
    struct muster_arena *arena;
    struct scan scan;
    muster_err err;

    if (after == INT64_MAX)
        return MUSTER_OK;
    number_write(after < 0 ? 0 : after + 1, from);
    arena = muster_arena_new();
    scan_init(&scan, store->engine, table, set, bytes_of(from, sizeof(from)), false);
    if (job)
        err = walk_job(store, &scan, arena, visit, arg);
    else
        err = walk_all(&scan, arena, visit, arg);
    scan_fini(&scan);
    muster_arena_free(&arena);
    return err == MUSTER_NOT_FOUND ? MUSTER_OK : err;
}
