/* SPDX-License-Identifier: MPL-2.0 */
/* Data folders of every release still open and say the same.  tests/golden/data-<version>/data.mdb is what that release
 * wrote; MUSTER_GOLDEN_WRITE=1 writes the one of this version anew, which is right only until it is released. */
#include <criterion/criterion.h>

#include "tests/unit/store_help.h"

#define GOLDEN MUSTER_SOURCE_DIR "/tests/golden/data-"
#define JOB_MS 1700000000000

static void
copy_file(const char *from, const char *to)
{
    char command[1024];

    snprintf(command, sizeof(command), "mkdir -p $(dirname %s) && cp %s %s && chmod u+w %s", to, from, to, to);
    cr_assert_eq(system(command), 0, "%s", command);
}

/* One record of every kind with every kind of field, and a few events. */
static void
fill(struct muster_store *store)
{
    static const char *const words[] = {"Read", "teams:read"};
    static const struct muster_pair headers[] = {{"X-One", "1"}};
    static const uint8_t digest[32] = {1, 2, 3};
    struct usage usage = {.input_tokens = 10, .cost_usd = 0.25};
    struct job_callback callback = {.url = "http://example.com/hook", .headers = {headers, 1}};
    struct job job = {.id = id_of(JOB_MS, 1),
                      .kind = job_kind_ASK,
                      .team = "backend",
                      .state = job_state_COMPLETED,
                      .priority = job_priority_HIGH,
                      .prompt = "What?",
                      .context = "{\"a\":1}",
                      .from = "ci",
                      .created_ms = JOB_MS,
                      .finished_ms = JOB_MS + 5,
                      .timeout_ms = 1000,
                      .attempt = 2,
                      .max_attempts = 3,
                      .result = "That.",
                      .usage = &usage,
                      .tools = {words, 1},
                      .callback = &callback};
    struct rate_limit rate = {.requests = 5, .window = 1000, .algorithm = limit_algorithm_TOKEN_BUCKET};
    struct key key = {.id = id_of(JOB_MS, 2),
                      .name = "ci",
                      .digest = {digest, 32},
                      .scopes = {words + 1, 1},
                      .rate_limit = &rate,
                      .created_ms = JOB_MS};
    struct delivery delivery = {.id = id_of(JOB_MS, 1), .state = delivery_state_PENDING, .tries = 1, .problem = "no"};
    struct muster_batch *batch = muster_batch_new(store);
    int i;

    cr_assert_eq(batch_put(batch, &job_type, &job), MUSTER_OK);
    cr_assert_eq(batch_put(batch, &key_type, &key), MUSTER_OK);
    cr_assert_eq(batch_put(batch, &delivery_type, &delivery), MUSTER_OK);
    for (i = 0; i < 3; i++) {
        struct event event = event_of(muster_log_number(store), JOB_MS + i, &job.id, "piece");

        muster_batch_append(batch, &event);
    }
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_batch_free(&batch);
}

static bool
count_event(void *arg, const struct event *event)
{
    cr_assert_eq(event->at_ms, JOB_MS + *(int *)arg);
    cr_assert_str_eq(event->type, "job.chunk");
    ++*(int *)arg;
    return true;
}

static bool
count_record(void *arg, const void *record, struct muster_arena *arena)
{
    (void)record;
    (void)arena;
    ++*(int *)arg;
    return true;
}

static void
check(struct muster_store *store)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_id one = id_of(JOB_MS, 1), two = id_of(JOB_MS, 2);
    int events = 0, pending = 0;
    struct job job;
    struct key key;

    cr_assert_eq(muster_store_get(store, &job_type, &one, arena, &job), MUSTER_OK);
    cr_assert_str_eq(job.result, "That.");
    cr_assert_str_eq(job.context, "{\"a\":1}");
    cr_assert_str_eq(job.callback->headers.items[0].value, "1");
    cr_assert_eq(job.usage->cost_usd, 0.25);
    cr_assert_eq(muster_store_get(store, &key_type, &two, arena, &key), MUSTER_OK);
    cr_assert_eq(key.digest.data[2], 3);
    cr_assert_eq(key.rate_limit->algorithm, limit_algorithm_TOKEN_BUCKET);
    cr_assert_eq(muster_store_walk(store, &delivery_type, "delivery_by_state", "pending", MUSTER_OLDEST_FIRST,
                                   count_record, &pending),
                 MUSTER_OK);
    cr_assert_eq(pending, 1);
    cr_assert_eq(muster_log_walk(store, &one, 0, count_event, &events), MUSTER_OK);
    cr_assert_eq(events, 3);
    muster_arena_free(&arena);
}

static void
open_and_check(const char *version)
{
    struct folder folder = folder_make();
    struct muster_store *store;
    char from[512], to[128];

    snprintf(from, sizeof(from), GOLDEN "%s/data.mdb", version);
    snprintf(to, sizeof(to), "%s/data.mdb", folder.path);
    copy_file(from, to);
    store = store_open(folder.path);
    check(store);
    cr_assert_gt(muster_log_number(store), 3, "numbers go on");
    muster_store_close(&store);
    folder_remove(&folder);
}

Test(golden, data_folders_of_this_version_open)
{
    struct folder folder = folder_make();
    struct muster_store *store;
    char from[128];

    if (getenv("MUSTER_GOLDEN_WRITE")) {
        store = store_open(folder.path);
        fill(store);
        muster_store_close(&store);
        snprintf(from, sizeof(from), "%s/data.mdb", folder.path);
        copy_file(from, GOLDEN MUSTER_VERSION "/data.mdb");
    }
    folder_remove(&folder);
    open_and_check(MUSTER_VERSION);
}
