/* SPDX-License-Identifier: MPL-2.0 */
/* What the tests of the store share: a folder for each test, options, and records and events to put in.
 * A failure here ends the test at once. */
#ifndef TESTS_STORE_HELP_H
#define TESTS_STORE_HELP_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/engine.h"
#include "store/muster_store.h"

#define NEED(condition) ((condition) ? (void)0 : need_failed(#condition, __FILE__, __LINE__))

static inline void
need_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: needed: %s\n", file, line, condition);
    abort();
}

struct folder {
    char path[64];
};

static inline struct folder
folder_make(void)
{
    struct folder folder;

    snprintf(folder.path, sizeof(folder.path), "/tmp/muster-store-XXXXXX");
    NEED(mkdtemp(folder.path) != NULL);
    return folder;
}

static inline int
folder_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline void
folder_remove(const struct folder *folder)
{
    NEED(nftw(folder->path, folder_entry, 8, FTW_DEPTH | FTW_PHYS) == 0);
}

static const struct store_options ample = {
    .map_size = 1 << 20, .keep_jobs = 1000000, .keep_events = 1000000, .max_events = 1 << 30, .sweep = 1000};

static inline struct muster_store *
store_open(const char *path)
{
    struct muster_store *store = NULL;
    char problem[512] = "";
    muster_err err = muster_store_open(path, &ample, &store, problem, sizeof(problem));

    if (err)
        fprintf(stderr, "%s\n", problem);
    NEED(err == MUSTER_OK);
    return store;
}

/* A readable id: all zero but a time and a number. */
static inline struct muster_id
id_of(int64_t time_ms, unsigned number)
{
    struct muster_id id = {{0}};
    int i;

    for (i = 0; i < 6; i++)
        id.bytes[i] = (uint8_t)((uint64_t)time_ms >> (40 - 8 * i));
    id.bytes[14] = (uint8_t)(number >> 8);
    id.bytes[15] = (uint8_t)number;
    return id;
}

static inline struct job
job_of(unsigned number, const char *team, enum job_state state)
{
    return (struct job){.id = id_of(1000, number),
                        .kind = job_kind_EXECUTE,
                        .team = team,
                        .state = state,
                        .priority = job_priority_NORMAL,
                        .prompt = "do it",
                        .from = "tester",
                        .created_ms = 1000,
                        .timeout_ms = 1000,
                        .max_attempts = 3};
}

static inline muster_err
batch_put(struct muster_batch *batch, const struct muster_type *type, const void *record)
{
    struct muster_buf bytes = {0};
    muster_err err;

    muster_pack(type, record, &bytes);
    err = muster_batch_put(batch, type, bytes.data, bytes.size);
    muster_buf_free(&bytes);
    return err;
}

static inline muster_err
put_now(struct muster_store *store, const struct muster_type *type, const void *record)
{
    struct muster_batch *batch = muster_batch_new(store);
    muster_err err = batch_put(batch, type, record);

    if (err == MUSTER_OK)
        err = muster_batch_commit(batch);
    muster_batch_free(&batch);
    return err;
}

static inline struct event
event_of(int64_t seq, int64_t at_ms, const struct muster_id *job, const char *text)
{
    struct event event = {.seq = seq, .at_ms = at_ms, .type = "job.chunk", .team = "backend"};

    if (job)
        event.job = *job;
    event.body = (struct muster_bytes){.data = (const uint8_t *)text, .size = strlen(text)};
    return event;
}

#endif
