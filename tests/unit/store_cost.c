/* SPDX-License-Identifier: MPL-2.0 */
/* What the store asks of its engine, counted in rows read: it must not grow with what is kept.  An engine stands
 * between that passes everything on and counts. */
#include <criterion/criterion.h>

#include "tests/unit/store_help.h"

#define JOBS 3000

struct counting_engine {
    struct muster_engine base;
    struct muster_engine *inner;
    size_t rows; /* found by get, or visited by range */
    size_t counts;
};

static struct counting_engine *
counting_of(struct muster_engine *engine)
{
    return (struct counting_engine *)engine;
}

static void
counting_close(struct muster_engine *engine)
{
    counting_of(engine)->inner->class->close(counting_of(engine)->inner);
    free(engine);
}

static muster_err
counting_get(struct muster_engine *engine, enum engine_table table, struct muster_bytes key, struct muster_buf *out)
{
    counting_of(engine)->rows++;
    return counting_of(engine)->inner->class->get(counting_of(engine)->inner, table, key, out);
}

struct counted_visit {
    struct counting_engine *engine;
    engine_visit *visit;
    void *arg;
};

static bool
visit_and_count(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct counted_visit *counted = arg;

    counted->engine->rows++;
    return counted->visit(counted->arg, key, value);
}

static muster_err
counting_range(struct muster_engine *engine, enum engine_table table, struct muster_bytes prefix,
               struct muster_bytes from, bool backward, engine_visit *visit, void *arg)
{
    struct counted_visit counted = {counting_of(engine), visit, arg};
    struct muster_engine *inner = counting_of(engine)->inner;

    return inner->class->range(inner, table, prefix, from, backward, visit_and_count, &counted);
}

static muster_err
counting_count(struct muster_engine *engine, enum engine_table table, struct muster_bytes key, uint64_t *out_count)
{
    counting_of(engine)->counts++;
    return counting_of(engine)->inner->class->count(counting_of(engine)->inner, table, key, out_count);
}

static muster_err
counting_commit(struct muster_engine *engine, const struct engine_change *changes, size_t count)
{
    return counting_of(engine)->inner->class->commit(counting_of(engine)->inner, changes, count);
}

static void
counting_size(struct muster_engine *engine, uint64_t *out_map_bytes, uint64_t *out_used_bytes)
{
    counting_of(engine)->inner->class->size(counting_of(engine)->inner, out_map_bytes, out_used_bytes);
}

struct fixture {
    struct counting_engine *engine;
    struct muster_store *store;
};

/* A store with JOBS jobs of two teams, every third one is completed, and an event of each. */
static struct fixture
set_up(void)
{
    static const struct engine_class class = {counting_close, counting_get,    counting_range,
                                              counting_count, counting_commit, counting_size};
    struct fixture fixture = {.engine = muster_alloc(sizeof(*fixture.engine))};
    struct muster_engine *engine = &fixture.engine->base;
    struct muster_batch *batch;
    unsigned i;

    engine->class = &class;
    fixture.engine->inner = engine_memory_new();
    NEED(muster_store_on_engine(&engine, &ample, &fixture.store) == MUSTER_OK);
    batch = muster_batch_new(fixture.store);
    for (i = 1; i <= JOBS; i++) {
        struct job job = job_of(i, i % 2 ? "backend" : "frontend", i % 3 ? job_state_QUEUED : job_state_COMPLETED);
        struct event event = event_of(muster_log_number(fixture.store), 1000, &job.id, "piece");

        NEED(batch_put(batch, &job_type, &job) == MUSTER_OK);
        muster_batch_append(batch, &event);
    }
    fixture.engine->rows = 0;
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_batch_free(&batch);
    return fixture;
}

static void
check_count(struct fixture *fixture, const char *index, const char *value, size_t wanted)
{
    size_t count = 0;

    fixture->engine->rows = fixture->engine->counts = 0;
    cr_assert_eq(muster_store_count(fixture->store, &job_type, index, value, &count), MUSTER_OK);
    cr_assert_eq(count, wanted);
    cr_assert_eq(fixture->engine->rows, 0, "%s=%s read %zu rows", index, value, fixture->engine->rows);
    cr_assert_eq(fixture->engine->counts, 1);
}

Test(cost, counting_reads_no_row)
{
    struct fixture fixture = set_up();
    struct muster_store_stats stats;

    check_count(&fixture, NULL, NULL, JOBS);
    check_count(&fixture, "job_by_team", "backend", JOBS / 2);
    check_count(&fixture, "job_by_state", "completed", JOBS / 3);
    check_count(&fixture, "job_by_state", "running", 0);
    muster_store_stats(fixture.store, &stats);
    cr_assert_eq(stats.jobs, JOBS);
    cr_assert_eq(stats.events, JOBS);
    cr_assert_eq(fixture.engine->rows, 0);
    muster_store_close(&fixture.store);
}

Test(cost, new_records_are_not_looked_for)
{
    struct fixture fixture = set_up();
    struct job job = job_of(JOBS / 2, "backend", job_state_COMPLETED);

    cr_assert_eq(fixture.engine->rows, 0, "of %d records made, %zu were looked for", JOBS, fixture.engine->rows);
    cr_assert_eq(put_now(fixture.store, &job_type, &job), MUSTER_OK);
    cr_assert_eq(fixture.engine->rows, 1, "one that is there already is");
    muster_store_close(&fixture.store);
}

static bool
take_id(void *arg, const struct muster_id *id)
{
    (void)id;
    return --*(int *)arg > 0;
}

static bool
take_record(void *arg, const void *record, struct muster_arena *arena)
{
    (void)record;
    (void)arena;
    return --*(int *)arg > 0;
}

/* A walk reads ahead, first little and then more, so it may read as much again as it is asked for, and some. */
Test(cost, walks_read_what_is_taken_of_them)
{
    struct fixture fixture = set_up();
    int left = 50;

    cr_assert_eq(
        muster_store_walk_ids(fixture.store, &job_type, "job_by_team", "backend", MUSTER_NEWEST_FIRST, take_id, &left),
        MUSTER_OK);
    cr_assert_eq(left, 0);
    cr_assert_leq(fixture.engine->rows, 100);
    fixture.engine->rows = 0;
    left = 50;
    cr_assert_eq(
        muster_store_walk(fixture.store, &job_type, "job_by_team", "backend", MUSTER_NEWEST_FIRST, take_record, &left),
        MUSTER_OK);
    cr_assert_eq(left, 0);
    cr_assert_leq(fixture.engine->rows, 150);
    muster_store_close(&fixture.store);
}
