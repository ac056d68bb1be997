/* SPDX-License-Identifier: MPL-2.0 */
/* Records: by id, by index and in order, while they change, over reopening, and against bytes that are none. */
#include <criterion/criterion.h>

#include "tests/unit/store_help.h"

struct fixture {
    struct folder folder;
    struct muster_store *store;
    struct muster_arena *arena;
};

static struct fixture
set_up(void)
{
    struct fixture fixture = {.folder = folder_make()};

    fixture.store = store_open(fixture.folder.path);
    fixture.arena = muster_arena_new();
    return fixture;
}

static void
reopen(struct fixture *fixture)
{
    muster_store_close(&fixture->store);
    fixture->store = store_open(fixture->folder.path);
}

static void
tear_down(struct fixture *fixture)
{
    muster_arena_free(&fixture->arena);
    muster_store_close(&fixture->store);
    folder_remove(&fixture->folder);
}

static void
put_job(struct muster_store *store, unsigned number, const char *team, enum job_state state)
{
    struct job job = job_of(number, team, state);

    NEED(put_now(store, &job_type, &job) == MUSTER_OK);
}

static void
remove_job(struct muster_store *store, unsigned number)
{
    struct muster_batch *batch = muster_batch_new(store);
    struct muster_id id = id_of(1000, number);

    NEED(muster_batch_remove(batch, &job_type, &id) == MUSTER_OK);
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_batch_free(&batch);
}

/* ---- the numbers of the jobs that a walk visits, as text ---- */

struct visited {
    struct muster_store *store;
    char text[4096];
    size_t most;
    unsigned remove_next; /* remove the job after this one when it is visited */
    unsigned change_next; /* or give that one another team */
};

static bool
note_id(void *arg, const struct muster_id *id)
{
    struct visited *visited = arg;
    unsigned number = (unsigned)(id->bytes[14] << 8 | id->bytes[15]);

    snprintf(visited->text + strlen(visited->text), sizeof(visited->text) - strlen(visited->text), "%u ", number);
    return --visited->most > 0;
}

static bool
note_job(void *arg, const void *record, struct muster_arena *arena)
{
    struct visited *visited = arg;
    const struct job *job = record;
    unsigned number = (unsigned)(job->id.bytes[14] << 8 | job->id.bytes[15]);
    bool more = note_id(visited, &job->id);

    (void)arena;
    if (visited->remove_next && number == visited->remove_next)
        remove_job(visited->store, number + 1);
    if (visited->change_next && number == visited->change_next)
        put_job(visited->store, number + 1, "frontend", job_state_QUEUED);
    return more;
}

static void
check_walk(struct muster_store *store, const char *index, const char *value, enum muster_order order,
           const char *wanted)
{
    struct visited visited = {.store = store, .most = 1000};
    size_t count = 999, spaces = 0;
    const char *at;

    cr_assert_eq(muster_store_walk(store, &job_type, index, value, order, note_job, &visited), MUSTER_OK);
    cr_assert_str_eq(visited.text, wanted, "%s=%s", index ? index : "all", value ? value : "");
    for (at = wanted; *at; at++)
        spaces += *at == ' ';
    cr_assert_eq(muster_store_count(store, &job_type, index, value, &count), MUSTER_OK);
    cr_assert_eq(count, spaces, "count of %s=%s is %zu", index ? index : "all", value ? value : "", count);
    visited = (struct visited){.store = store, .most = 1000};
    cr_assert_eq(muster_store_walk_ids(store, &job_type, index, value, order, note_id, &visited), MUSTER_OK);
    cr_assert_str_eq(visited.text, wanted, "ids of %s=%s", index ? index : "all", value ? value : "");
}

/* ---- by id ---- */

Test(records, get_gives_what_was_put)
{
    struct fixture fixture = set_up();
    struct job job = job_of(7, "backend", job_state_QUEUED), found;
    struct usage usage = {.input_tokens = 12, .cost_usd = 0.5};
    const char *files[] = {"a.c", "b.c"};

    job.usage = &usage;
    job.files = (struct muster_strs){files, 2};
    job.context = "{\"n\":1}";
    cr_assert_eq(muster_store_get(fixture.store, &job_type, &job.id, fixture.arena, &found), MUSTER_NOT_FOUND);
    cr_assert_eq(put_now(fixture.store, &job_type, &job), MUSTER_OK);
    cr_assert_eq(muster_store_get(fixture.store, &job_type, &job.id, fixture.arena, &found), MUSTER_OK);
    cr_assert(muster_id_equal(&found.id, &job.id));
    cr_assert_str_eq(found.team, "backend");
    cr_assert_str_eq(found.context, job.context);
    cr_assert_eq(found.state, job_state_QUEUED);
    cr_assert_eq(found.usage->input_tokens, 12);
    cr_assert_eq(found.files.count, 2);
    cr_assert_str_eq(found.files.items[1], "b.c");
    tear_down(&fixture);
}

Test(records, types_with_the_same_id_are_apart)
{
    struct fixture fixture = set_up();
    struct job job = job_of(1, "backend", job_state_QUEUED), found_job;
    struct delivery delivery = {.id = job.id, .state = delivery_state_PENDING, .tries = 3}, found;
    size_t count;

    cr_assert_eq(put_now(fixture.store, &job_type, &job), MUSTER_OK);
    cr_assert_eq(muster_store_get(fixture.store, &delivery_type, &job.id, fixture.arena, &found), MUSTER_NOT_FOUND);
    cr_assert_eq(put_now(fixture.store, &delivery_type, &delivery), MUSTER_OK);
    remove_job(fixture.store, 1);
    cr_assert_eq(muster_store_get(fixture.store, &job_type, &job.id, fixture.arena, &found_job), MUSTER_NOT_FOUND);
    cr_assert_eq(muster_store_get(fixture.store, &delivery_type, &job.id, fixture.arena, &found), MUSTER_OK);
    cr_assert_eq(found.tries, 3);
    cr_assert_eq(muster_store_count(fixture.store, &delivery_type, "delivery_by_state", "pending", &count), MUSTER_OK);
    cr_assert_eq(count, 1);
    tear_down(&fixture);
}

Test(records, bytes_that_are_no_record_are_refused_and_change_nothing)
{
    struct fixture fixture = set_up();
    struct muster_batch *batch = muster_batch_new(fixture.store);
    struct job job = job_of(1, "backend", job_state_QUEUED), found;
    struct delivery delivery = {.id = job.id, .state = delivery_state_PENDING};
    struct muster_buf bytes = {0};
    size_t before;

    cr_assert_eq(batch_put(batch, &job_type, &job), MUSTER_OK);
    before = muster_batch_bytes(batch);
    cr_assert_gt(before, 0);
    cr_assert_eq(muster_batch_put(batch, &job_type, "\xc1 junk", 6), MUSTER_INVALID_REQUEST);
    cr_assert_eq(muster_batch_put(batch, &job_type, "", 0), MUSTER_INVALID_REQUEST);
    muster_pack(&delivery_type, &delivery, &bytes);
    cr_assert_eq(muster_batch_put(batch, &job_type, bytes.data, bytes.size), MUSTER_INVALID_REQUEST, "another type");
    muster_buf_clear(&bytes);
    muster_pack(&job_type, &job, &bytes);
    cr_assert_eq(muster_batch_put(batch, &job_type, bytes.data, bytes.size - 1), MUSTER_INVALID_REQUEST, "cut short");
    cr_assert_eq(muster_batch_bytes(batch), before);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    cr_assert_eq(muster_store_get(fixture.store, &job_type, &job.id, fixture.arena, &found), MUSTER_OK);
    cr_assert_eq(muster_batch_bytes(batch), 0);
    muster_buf_free(&bytes);
    muster_batch_free(&batch);
    tear_down(&fixture);
}

Test(records, large_records_are_kept_whole)
{
    struct fixture fixture = set_up();
    struct job job = job_of(1, "backend", job_state_QUEUED), found;
    size_t size = 5 << 20;
    char *prompt = muster_alloc(size + 1);

    memset(prompt, 'p', size);
    job.prompt = prompt;
    cr_assert_eq(put_now(fixture.store, &job_type, &job), MUSTER_OK);
    cr_assert_eq(muster_store_get(fixture.store, &job_type, &job.id, fixture.arena, &found), MUSTER_OK);
    cr_assert(strcmp(found.prompt, prompt) == 0);
    free(prompt);
    tear_down(&fixture);
}

/* ---- by index ---- */

Test(records, walk_follows_the_indexed_field)
{
    struct fixture fixture = set_up();
    struct muster_store *store = fixture.store;

    check_walk(store, NULL, NULL, MUSTER_OLDEST_FIRST, "");
    check_walk(store, "job_by_team", "backend", MUSTER_NEWEST_FIRST, "");
    put_job(store, 3, "backend", job_state_QUEUED);
    put_job(store, 1, "backend", job_state_QUEUED);
    put_job(store, 2, "frontend", job_state_QUEUED);
    put_job(store, 4, "back", job_state_RUNNING);
    check_walk(store, NULL, NULL, MUSTER_OLDEST_FIRST, "1 2 3 4 ");
    check_walk(store, NULL, NULL, MUSTER_NEWEST_FIRST, "4 3 2 1 ");
    check_walk(store, "job_by_team", "backend", MUSTER_OLDEST_FIRST, "1 3 ");
    check_walk(store, "job_by_team", "backend", MUSTER_NEWEST_FIRST, "3 1 ");
    check_walk(store, "job_by_team", "back", MUSTER_NEWEST_FIRST, "4 ");
    check_walk(store, "job_by_team", "b", MUSTER_OLDEST_FIRST, "");
    check_walk(store, "job_by_state", "queued", MUSTER_OLDEST_FIRST, "1 2 3 ");
    put_job(store, 1, "backend", job_state_RUNNING);
    put_job(store, 3, "frontend", job_state_QUEUED);
    check_walk(store, "job_by_state", "queued", MUSTER_OLDEST_FIRST, "2 3 ");
    check_walk(store, "job_by_state", "running", MUSTER_NEWEST_FIRST, "4 1 ");
    check_walk(store, "job_by_team", "frontend", MUSTER_OLDEST_FIRST, "2 3 ");
    check_walk(store, "job_by_from", "tester", MUSTER_OLDEST_FIRST, "1 2 3 4 ");
    remove_job(store, 2);
    remove_job(store, 2);
    check_walk(store, "job_by_state", "queued", MUSTER_OLDEST_FIRST, "3 ");
    check_walk(store, "job_by_from", "tester", MUSTER_OLDEST_FIRST, "1 3 4 ");
    tear_down(&fixture);
}

/* The job with a value in a field that is indexed and may be empty. */
static void
put_with_key(struct muster_store *store, unsigned number, const char *key)
{
    struct job job = job_of(number, "backend", job_state_QUEUED);

    job.idempotency = key;
    NEED(put_now(store, &job_type, &job) == MUSTER_OK);
}

Test(records, an_empty_field_is_not_in_its_index)
{
    struct fixture fixture = set_up();
    struct muster_store *store = fixture.store;

    put_with_key(store, 1, NULL);
    put_with_key(store, 2, "");
    put_with_key(store, 3, "k");
    check_walk(store, NULL, NULL, MUSTER_OLDEST_FIRST, "1 2 3 ");
    check_walk(store, "job_by_team", "backend", MUSTER_OLDEST_FIRST, "1 2 3 ");
    check_walk(store, "job_by_idempotency", "", MUSTER_OLDEST_FIRST, "");
    check_walk(store, "job_by_idempotency", "k", MUSTER_OLDEST_FIRST, "3 ");
    put_with_key(store, 1, "k"); /* it is set */
    check_walk(store, "job_by_idempotency", "k", MUSTER_NEWEST_FIRST, "3 1 ");
    put_with_key(store, 1, "other"); /* changed */
    check_walk(store, "job_by_idempotency", "k", MUSTER_OLDEST_FIRST, "3 ");
    check_walk(store, "job_by_idempotency", "other", MUSTER_OLDEST_FIRST, "1 ");
    put_with_key(store, 1, NULL); /* emptied */
    put_with_key(store, 3, "");
    check_walk(store, "job_by_idempotency", "other", MUSTER_OLDEST_FIRST, "");
    check_walk(store, "job_by_idempotency", "k", MUSTER_OLDEST_FIRST, "");
    check_walk(store, "job_by_idempotency", "", MUSTER_OLDEST_FIRST, "");
    put_with_key(store, 2, "k");
    remove_job(store, 1); /* the one that is in no index, and the one that is */
    remove_job(store, 2);
    check_walk(store, "job_by_idempotency", "k", MUSTER_OLDEST_FIRST, "");
    check_walk(store, NULL, NULL, MUSTER_OLDEST_FIRST, "3 ");
    tear_down(&fixture);
}

Test(records, walk_ends_when_the_visitor_says_so)
{
    struct fixture fixture = set_up();
    struct visited visited = {.store = fixture.store, .most = 2};
    unsigned i;

    for (i = 1; i <= 5; i++)
        put_job(fixture.store, i, "backend", job_state_QUEUED);
    cr_assert_eq(
        muster_store_walk(fixture.store, &job_type, "job_by_team", "backend", MUSTER_NEWEST_FIRST, note_job, &visited),
        MUSTER_OK);
    cr_assert_str_eq(visited.text, "5 4 ");
    tear_down(&fixture);
}

Test(records, visitor_may_write_and_an_index_walk_leaves_out_what_it_took_away)
{
    struct fixture fixture = set_up();
    struct visited visited = {.store = fixture.store, .most = 1000, .remove_next = 3, .change_next = 5};
    unsigned i;

    for (i = 1; i <= 7; i++)
        put_job(fixture.store, i, "backend", job_state_QUEUED);
    cr_assert_eq(
        muster_store_walk(fixture.store, &job_type, "job_by_team", "backend", MUSTER_OLDEST_FIRST, note_job, &visited),
        MUSTER_OK);
    cr_assert_str_eq(visited.text, "1 2 3 5 7 ");
    tear_down(&fixture);
}

Test(records, value_longer_than_any_index_text_finds_nothing)
{
    struct fixture fixture = set_up();
    char value[20001] = "";

    put_job(fixture.store, 1, "backend", job_state_QUEUED);
    memset(value, 'b', sizeof(value) - 1);
    check_walk(fixture.store, "job_by_team", value, MUSTER_OLDEST_FIRST, "");
    value[300] = '\0';
    check_walk(fixture.store, "job_by_team", value, MUSTER_NEWEST_FIRST, "");
    tear_down(&fixture);
}

Test(records, walks_of_many_pages_miss_nothing)
{
    struct fixture fixture = set_up();
    struct muster_batch *batch = muster_batch_new(fixture.store);
    struct visited up = {.store = fixture.store, .most = 2000}, down = up, by_index = up;
    char wanted[4096] = "", wanted_down[4096] = "";
    unsigned i, all = 700;

    for (i = 1; i <= all; i++) {
        struct job job = job_of(i, "backend", job_state_QUEUED);

        NEED(batch_put(batch, &job_type, &job) == MUSTER_OK);
        snprintf(wanted + strlen(wanted), 8, "%u ", i);
        snprintf(wanted_down + strlen(wanted_down), 8, "%u ", all + 1 - i);
    }
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_batch_free(&batch);
    cr_assert_eq(muster_store_walk(fixture.store, &job_type, NULL, NULL, MUSTER_OLDEST_FIRST, note_job, &up),
                 MUSTER_OK);
    cr_assert_str_eq(up.text, wanted);
    cr_assert_eq(muster_store_walk(fixture.store, &job_type, NULL, NULL, MUSTER_NEWEST_FIRST, note_job, &down),
                 MUSTER_OK);
    cr_assert_str_eq(down.text, wanted_down);
    cr_assert_eq(
        muster_store_walk(fixture.store, &job_type, "job_by_state", "queued", MUSTER_OLDEST_FIRST, note_job, &by_index),
        MUSTER_OK);
    cr_assert_str_eq(by_index.text, wanted);
    tear_down(&fixture);
}

/* ---- batches ---- */

Test(records, batch_sees_its_own_earlier_changes)
{
    struct fixture fixture = set_up();
    struct muster_batch *batch = muster_batch_new(fixture.store);
    struct job job = job_of(1, "backend", job_state_QUEUED), other = job_of(2, "backend", job_state_QUEUED);
    struct muster_store_stats stats;

    put_job(fixture.store, 3, "backend", job_state_QUEUED);
    cr_assert_eq(batch_put(batch, &job_type, &job), MUSTER_OK);
    cr_assert_eq(batch_put(batch, &job_type, &other), MUSTER_OK);
    job.state = job_state_RUNNING;
    cr_assert_eq(batch_put(batch, &job_type, &job), MUSTER_OK);
    job.state = job_state_COMPLETED;
    cr_assert_eq(batch_put(batch, &job_type, &job), MUSTER_OK);
    cr_assert_eq(muster_batch_remove(batch, &job_type, &other.id), MUSTER_OK);
    other.id = id_of(1000, 3);
    cr_assert_eq(muster_batch_remove(batch, &job_type, &other.id), MUSTER_OK);
    other.state = job_state_FAILED;
    cr_assert_eq(batch_put(batch, &job_type, &other), MUSTER_OK);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    check_walk(fixture.store, NULL, NULL, MUSTER_OLDEST_FIRST, "1 3 ");
    check_walk(fixture.store, "job_by_state", "queued", MUSTER_OLDEST_FIRST, "");
    check_walk(fixture.store, "job_by_state", "running", MUSTER_OLDEST_FIRST, "");
    check_walk(fixture.store, "job_by_state", "completed", MUSTER_OLDEST_FIRST, "1 ");
    check_walk(fixture.store, "job_by_state", "failed", MUSTER_OLDEST_FIRST, "3 ");
    muster_store_stats(fixture.store, &stats);
    cr_assert_eq(stats.jobs, 2);
    muster_batch_free(&batch);
    tear_down(&fixture);
}

Test(records, batch_is_empty_and_usable_after_its_commit)
{
    struct fixture fixture = set_up();
    struct muster_batch *batch = muster_batch_new(fixture.store);
    struct job job = job_of(1, "backend", job_state_QUEUED);
    struct muster_store_stats before, after;

    cr_assert_eq(batch_put(batch, &job_type, &job), MUSTER_OK);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    remove_job(fixture.store, 1);
    muster_store_stats(fixture.store, &before);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_store_stats(fixture.store, &after);
    cr_assert_eq(after.commits, before.commits, "an empty batch writes nothing");
    check_walk(fixture.store, NULL, NULL, MUSTER_OLDEST_FIRST, "");
    job.id = id_of(1000, 2);
    cr_assert_eq(batch_put(batch, &job_type, &job), MUSTER_OK);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    check_walk(fixture.store, NULL, NULL, MUSTER_OLDEST_FIRST, "2 ");
    muster_batch_free(&batch);
    tear_down(&fixture);
}

Test(records, reopened_store_has_everything)
{
    struct fixture fixture = set_up();
    struct muster_store_stats stats;
    char epoch[32];

    snprintf(epoch, sizeof(epoch), "%s", muster_store_epoch(fixture.store));
    cr_assert_eq(strlen(epoch), 16);
    cr_assert_eq(strspn(epoch, "0123456789abcdef"), 16);
    put_job(fixture.store, 1, "backend", job_state_QUEUED);
    put_job(fixture.store, 2, "frontend", job_state_RUNNING);
    reopen(&fixture);
    cr_assert_str_eq(muster_store_epoch(fixture.store), epoch);
    check_walk(fixture.store, NULL, NULL, MUSTER_OLDEST_FIRST, "1 2 ");
    check_walk(fixture.store, "job_by_team", "frontend", MUSTER_OLDEST_FIRST, "2 ");
    muster_store_stats(fixture.store, &stats);
    cr_assert_eq(stats.jobs, 2);
    put_job(fixture.store, 2, "frontend", job_state_COMPLETED);
    check_walk(fixture.store, "job_by_state", "running", MUSTER_OLDEST_FIRST, "");
    check_walk(fixture.store, "job_by_state", "completed", MUSTER_OLDEST_FIRST, "2 ");
    tear_down(&fixture);
}

/* Ids need not come in their order: clocks are set back, and jobs reach the store late. */
Test(records, records_below_the_newest_id_are_kept_and_replaced_like_any_other)
{
    struct fixture fixture = set_up();
    struct muster_batch *batch;
    struct job job;
    unsigned i;

    put_job(fixture.store, 50, "backend", job_state_QUEUED);
    put_job(fixture.store, 20, "backend", job_state_QUEUED);
    reopen(&fixture);
    put_job(fixture.store, 30, "backend", job_state_QUEUED);
    put_job(fixture.store, 20, "frontend", job_state_RUNNING);
    put_job(fixture.store, 50, "frontend", job_state_RUNNING);
    batch = muster_batch_new(fixture.store);
    for (i = 60; i > 50; i -= 3) {
        job = job_of(i, "backend", job_state_QUEUED);
        NEED(batch_put(batch, &job_type, &job) == MUSTER_OK);
    }
    job = job_of(20, "backend", job_state_QUEUED);
    NEED(batch_put(batch, &job_type, &job) == MUSTER_OK);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_batch_free(&batch);
    check_walk(fixture.store, NULL, NULL, MUSTER_OLDEST_FIRST, "20 30 50 51 54 57 60 ");
    check_walk(fixture.store, "job_by_team", "backend", MUSTER_NEWEST_FIRST, "60 57 54 51 30 20 ");
    check_walk(fixture.store, "job_by_team", "frontend", MUSTER_NEWEST_FIRST, "50 ");
    check_walk(fixture.store, "job_by_state", "running", MUSTER_NEWEST_FIRST, "50 ");
    remove_job(fixture.store, 60);
    put_job(fixture.store, 60, "frontend", job_state_RUNNING);
    check_walk(fixture.store, "job_by_state", "running", MUSTER_NEWEST_FIRST, "60 50 ");
    tear_down(&fixture);
}

Test(records, two_folders_have_two_epochs)
{
    struct fixture one = set_up(), other = set_up();

    cr_assert_str_neq(muster_store_epoch(one.store), muster_store_epoch(other.store));
    tear_down(&one);
    tear_down(&other);
}

/* ---- what lies on disk ---- */

static muster_err
plant(struct muster_engine *engine, enum engine_table table, const char *key, size_t key_size, const char *value,
      size_t value_size)
{
    struct engine_change change = {
        ENGINE_PUT, table, {(const uint8_t *)key, key_size}, {(const uint8_t *)value, value_size}};

    return engine->class->commit(engine, &change, 1);
}

Test(records, damaged_or_newer_bytes_on_disk_are_a_storage_error)
{
    static const struct {
        const char *bytes;
        size_t size;
    } rows[] = {{"", 0}, {"\1", 1}, {"\1\3\0\7back", 8}, {"\1\0", 2}, {"\1\0\x80", 3}, {"\2\0\x80", 3}, {"\1\377", 2}};
    struct muster_engine *engine = engine_memory_new();
    struct muster_engine *borrowed = engine;
    struct muster_arena *arena = muster_arena_new();
    struct muster_id id = id_of(1000, 1);
    struct visited visited = {.most = 10};
    struct muster_store *store = NULL;
    struct job found;
    size_t i;

    cr_assert_eq(muster_store_on_engine(&engine, &ample, &store), MUSTER_OK);
    cr_assert_null(engine);
    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cr_assert_eq(
            plant(borrowed, ENGINE_RECORDS, (const char *)id.bytes, sizeof(id.bytes), rows[i].bytes, rows[i].size),
            MUSTER_OK);
        cr_assert_eq(muster_store_get(store, &job_type, &id, arena, &found), MUSTER_STORAGE_ERROR, "row %zu", i);
        cr_assert_eq(muster_store_walk(store, &job_type, NULL, NULL, MUSTER_OLDEST_FIRST, note_job, &visited),
                     MUSTER_STORAGE_ERROR, "row %zu", i);
    }
    muster_arena_free(&arena);
    muster_store_close(&store);
}

Test(records, folder_of_an_unknown_format_is_refused)
{
    struct folder folder = folder_make();
    struct muster_engine *engine = NULL;
    struct muster_store *store = NULL;
    char problem[512] = "";

    cr_assert_eq(engine_lmdb_open(folder.path, 1 << 20, &engine, problem, sizeof(problem)), MUSTER_OK);
    cr_assert_eq(plant(engine, ENGINE_META, "format", 6, "\0\0\0\0\0\0\0\143", 8), MUSTER_OK);
    engine->class->close(engine);
    cr_assert_eq(muster_store_open(folder.path, &ample, &store, problem, sizeof(problem)), MUSTER_STORAGE_ERROR);
    cr_assert(strstr(problem, "another version of muster") != NULL, "%s", problem);
    cr_assert_null(store);
    folder_remove(&folder);
}

/* The first format had no row that names it, and tables with the names of some of today's. */
Test(records, folder_of_the_first_format_is_refused_and_stays_as_it_is)
{
    static const char old[] = MUSTER_SOURCE_DIR "/tests/golden/data-format-1/data.mdb";
    struct folder folder = folder_make();
    struct muster_store *store = NULL;
    char problem[512] = "", command[1024];

    snprintf(command, sizeof(command), "cp %s %s/data.mdb && chmod u+w %s/data.mdb", old, folder.path, folder.path);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(muster_store_open(folder.path, &ample, &store, problem, sizeof(problem)), MUSTER_STORAGE_ERROR);
    cr_assert(strstr(problem, "begin with an empty folder") != NULL, "%s", problem);
    cr_assert(strstr(problem, folder.path) != NULL, "%s", problem);
    cr_assert_null(store);
    snprintf(command, sizeof(command), "cmp %s %s/data.mdb", old, folder.path);
    cr_assert_eq(system(command), 0);
    folder_remove(&folder);
}

Test(records, second_store_on_a_folder_is_a_conflict)
{
    struct fixture fixture = set_up();
    struct muster_store *second = NULL;
    char problem[256] = "";

    cr_assert_eq(muster_store_open(fixture.folder.path, &ample, &second, problem, sizeof(problem)), MUSTER_CONFLICT);
    cr_assert(strstr(problem, "in use") != NULL, "%s", problem);
    cr_assert_null(second);
    tear_down(&fixture);
}

Test(records, a_copy_of_the_folder_has_another_mark)
{
    struct fixture one = set_up(), other = set_up();
    char mark[64], command[600];

    snprintf(mark, sizeof(mark), "%s", muster_store_mark(one.store));
    cr_assert_eq(strncmp(mark, muster_store_epoch(one.store), 16), 0);
    reopen(&one);
    cr_assert_str_eq(muster_store_mark(one.store), mark, "it stays");
    muster_store_close(&other.store);
    snprintf(command, sizeof(command), "cp %s/data.mdb %s/data.mdb", one.folder.path, other.folder.path);
    cr_assert_eq(system(command), 0);
    reopen(&other);
    cr_assert_str_eq(muster_store_epoch(other.store), muster_store_epoch(one.store));
    cr_assert_str_neq(muster_store_mark(other.store), mark);
    tear_down(&one);
    tear_down(&other);
}
