/* SPDX-License-Identifier: MPL-2.0 */
/* The event log: numbers that never repeat, cursors, walks, and what a sweep leaves of events and jobs. */
#include <criterion/criterion.h>

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "tests/unit/store_help.h"

struct fixture {
    struct folder folder;
    struct muster_store *store;
    struct muster_arena *arena;
};

static struct fixture
set_up_with(const struct store_options *options)
{
    struct fixture fixture = {.folder = folder_make()};
    char problem[256] = "";

    NEED(muster_store_open(fixture.folder.path, options, &fixture.store, problem, sizeof(problem)) == MUSTER_OK);
    fixture.arena = muster_arena_new();
    return fixture;
}

static struct fixture
set_up(void)
{
    return set_up_with(&ample);
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

/* Append `count` events in one commit, one millisecond apart; returns the number of the last. */
static int64_t
append(struct muster_store *store, const struct muster_id *job, int64_t at_ms, unsigned count)
{
    struct muster_batch *batch = muster_batch_new(store);
    struct event event = {0};

    for (; count > 0; count--) {
        event = event_of(muster_log_number(store), at_ms++, job, "piece");
        muster_batch_append(batch, &event);
    }
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    muster_batch_free(&batch);
    return event.seq;
}

struct noted {
    char text[8192];
    size_t most;
    int64_t last;
    bool falls; /* a number was not above the one before it */
    size_t count;
};

static bool
note_event(void *arg, const struct event *event)
{
    struct noted *noted = arg;
    size_t used = strlen(noted->text);

    snprintf(noted->text + used, sizeof(noted->text) - used, "%lld ", (long long)event->seq);
    noted->falls = noted->falls || event->seq <= noted->last;
    noted->last = event->seq;
    noted->count++;
    return --noted->most > 0;
}

static void
check_walk(struct muster_store *store, const struct muster_id *job, int64_t after, size_t most, const char *wanted)
{
    struct noted noted = {.most = most};

    cr_assert_eq(muster_log_walk(store, job, after, note_event, &noted), MUSTER_OK);
    cr_assert_str_eq(noted.text, wanted, "after %lld: %s", (long long)after, noted.text);
}

static size_t
events_of(struct muster_store *store)
{
    struct muster_store_stats stats;

    muster_store_stats(store, &stats);
    return stats.events;
}

/* ---- numbers ---- */

Test(log, numbers_begin_at_one_and_go_on_after_a_close)
{
    struct fixture fixture = set_up();
    struct muster_store_stats stats;

    cr_assert_eq(muster_log_number(fixture.store), 1);
    cr_assert_eq(muster_log_number(fixture.store), 2);
    reopen(&fixture);
    cr_assert_eq(muster_log_number(fixture.store), 3);
    reopen(&fixture);
    reopen(&fixture);
    muster_store_stats(fixture.store, &stats);
    cr_assert_eq(stats.last_seq, 3);
    cr_assert_eq(muster_log_number(fixture.store), 4);
    tear_down(&fixture);
}

#define TAKERS 4
#define TAKEN 5000

struct taker {
    struct muster_store *store;
    int64_t numbers[TAKEN];
};

static void *
take_numbers(void *arg)
{
    struct taker *taker = arg;
    size_t i;

    for (i = 0; i < TAKEN; i++)
        taker->numbers[i] = muster_log_number(taker->store);
    return NULL;
}

Test(log, threads_never_get_the_same_number)
{
    struct fixture fixture = set_up();
    struct taker *takers = muster_alloc(TAKERS * sizeof(*takers));
    bool *seen = muster_alloc(TAKERS * TAKEN + 1);
    pthread_t threads[TAKERS];
    size_t i, j;

    for (i = 0; i < TAKERS; i++) {
        takers[i].store = fixture.store;
        NEED(pthread_create(&threads[i], NULL, take_numbers, &takers[i]) == 0);
    }
    for (i = 0; i < TAKERS; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < TAKERS; i++)
        for (j = 0; j < TAKEN; j++) {
            int64_t number = takers[i].numbers[j];

            cr_assert(number >= 1 && number <= TAKERS * TAKEN && !seen[number], "%lld", (long long)number);
            seen[number] = true;
        }
    free(seen);
    free(takers);
    tear_down(&fixture);
}

/* A process that takes numbers, appends some of them, tells the last one, and waits for its end. */
static void
child_takes_numbers(const char *path, int report, unsigned taken, unsigned appended)
{
    struct muster_store *store = store_open(path);
    int64_t last = 0;

    if (appended)
        last = append(store, NULL, 1, appended);
    for (; taken > 0; taken--)
        last = muster_log_number(store);
    NEED(write(report, &last, sizeof(last)) == sizeof(last));
    for (;;)
        pause();
}

static int64_t
last_number_of_killed(const char *path, unsigned taken, unsigned appended)
{
    int64_t last = 0;
    int report[2];
    pid_t child;

    NEED(pipe(report) == 0);
    child = fork();
    NEED(child >= 0);
    if (child == 0)
        child_takes_numbers(path, report[1], taken, appended);
    close(report[1]);
    NEED(read(report[0], &last, sizeof(last)) == sizeof(last));
    NEED(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    close(report[0]);
    return last;
}

Test(log, numbers_never_repeat_after_a_kill)
{
    struct folder folder = folder_make();
    struct muster_store *store;
    int64_t highest = 0, last, next;
    unsigned round;

    for (round = 0; round < 6; round++) {
        last = last_number_of_killed(folder.path, 1 + round * 1000, round % 3 * 10);
        cr_assert_gt(last, highest, "round %u", round);
        highest = last;
    }
    store = store_open(folder.path);
    next = muster_log_number(store);
    cr_assert_gt(next, highest);
    cr_assert_eq(muster_log_oldest(store), 1);
    cr_assert_eq(events_of(store), 60);
    muster_store_close(&store);
    store = store_open(folder.path);
    cr_assert_eq(muster_log_number(store), next + 1, "a close in good order leaves no gap");
    muster_store_close(&store);
    folder_remove(&folder);
}

/* ---- cursors ---- */

Test(log, cursor_text_is_parsed_back)
{
    struct fixture fixture = set_up();
    static const int64_t numbers[] = {0, 1, 9, 10, 65536, INT64_MAX};
    char text[MUSTER_CURSOR_TEXT];
    int64_t seq;
    size_t i;

    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        muster_cursor_text(fixture.store, numbers[i], text);
        cr_assert_eq(strncmp(text, muster_store_epoch(fixture.store), 16), 0);
        seq = -1;
        cr_assert_eq(muster_cursor_parse(fixture.store, text, &seq), MUSTER_OK, "%s", text);
        cr_assert_eq(seq, numbers[i]);
    }
    tear_down(&fixture);
}

Test(log, cursor_of_another_folder_has_expired)
{
    struct fixture one = set_up(), other = set_up();
    char text[MUSTER_CURSOR_TEXT];
    int64_t seq = -1;

    muster_cursor_text(other.store, 5, text);
    cr_assert_eq(muster_cursor_parse(one.store, text, &seq), MUSTER_CURSOR_EXPIRED);
    cr_assert_eq(seq, -1);
    tear_down(&one);
    tear_down(&other);
}

Test(log, garbage_is_no_cursor)
{
    struct fixture fixture = set_up();
    static const char *const ends[] = {"",
                                       "-",
                                       "-x",
                                       "--1",
                                       "-1x",
                                       "-01",
                                       "- 1",
                                       "-+1",
                                       "-1 ",
                                       ":1",
                                       "a-1",
                                       "-9223372036854775808",
                                       "-99999999999999999999999"};
    static const char *const wholes[] = {
        "", "-", "1", "-1", "0123456789abcde-1", "0123456789ABCDEF-1", "0123456789abcdeg-1"};
    char text[80];
    int64_t seq = -1;
    size_t i;

    for (i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        snprintf(text, sizeof(text), "%s%s", muster_store_epoch(fixture.store), ends[i]);
        cr_assert_eq(muster_cursor_parse(fixture.store, text, &seq), MUSTER_INVALID_REQUEST, "%s", text);
    }
    for (i = 0; i < sizeof(wholes) / sizeof(wholes[0]); i++)
        cr_assert_eq(muster_cursor_parse(fixture.store, wholes[i], &seq), MUSTER_INVALID_REQUEST, "%s", wholes[i]);
    cr_assert_eq(seq, -1);
    tear_down(&fixture);
}

/* ---- reading ---- */

Test(log, walk_gives_events_in_order_by_job_or_all)
{
    struct fixture fixture = set_up();
    struct muster_id one = id_of(1, 1), two = id_of(1, 2), none = id_of(1, 3);

    check_walk(fixture.store, NULL, 0, 99, "");
    append(fixture.store, &one, 10, 2);
    append(fixture.store, &two, 20, 1);
    append(fixture.store, NULL, 30, 1);
    append(fixture.store, &one, 40, 2);
    check_walk(fixture.store, NULL, 0, 99, "1 2 3 4 5 6 ");
    check_walk(fixture.store, NULL, -5, 99, "1 2 3 4 5 6 ");
    check_walk(fixture.store, NULL, 4, 99, "5 6 ");
    check_walk(fixture.store, NULL, 6, 99, "");
    check_walk(fixture.store, NULL, INT64_MAX, 99, "");
    check_walk(fixture.store, NULL, 1, 2, "2 3 ");
    check_walk(fixture.store, &one, 0, 99, "1 2 5 6 ");
    check_walk(fixture.store, &one, 2, 99, "5 6 ");
    check_walk(fixture.store, &one, 2, 1, "5 ");
    check_walk(fixture.store, &two, 0, 99, "3 ");
    check_walk(fixture.store, &two, 3, 99, "");
    check_walk(fixture.store, &none, 0, 99, "");
    reopen(&fixture);
    check_walk(fixture.store, &one, 0, 99, "1 2 5 6 ");
    cr_assert_eq(events_of(fixture.store), 6);
    tear_down(&fixture);
}

Test(log, walks_of_many_pages_miss_nothing)
{
    struct fixture fixture = set_up();
    struct muster_id job = id_of(1, 1);
    struct noted all = {.most = 99999}, of_job = {.most = 99999};

    append(fixture.store, &job, 10, 1500);
    append(fixture.store, NULL, 10, 500);
    cr_assert_eq(muster_log_walk(fixture.store, NULL, 0, note_event, &all), MUSTER_OK);
    cr_assert(all.count == 2000 && !all.falls);
    cr_assert_eq(muster_log_walk(fixture.store, &job, 100, note_event, &of_job), MUSTER_OK);
    cr_assert(of_job.count == 1400 && !of_job.falls);
    tear_down(&fixture);
}

Test(log, events_that_reach_the_store_out_of_order_are_read_in_order)
{
    struct fixture fixture = set_up();
    struct muster_batch *batch = muster_batch_new(fixture.store);
    int64_t first = muster_log_number(fixture.store), second = muster_log_number(fixture.store);
    struct event event = event_of(second, 2, NULL, "second");

    muster_batch_append(batch, &event);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    event = event_of(first, 1, NULL, "first");
    muster_batch_append(batch, &event);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    check_walk(fixture.store, NULL, 0, 99, "1 2 ");
    muster_batch_free(&batch);
    tear_down(&fixture);
}

Test(log, get_gives_the_event_as_it_was_appended)
{
    struct fixture fixture = set_up();
    struct muster_id job = id_of(1, 1);
    struct event found = {0};
    int64_t seq = append(fixture.store, &job, 77, 1);

    cr_assert_eq(muster_log_get(fixture.store, seq, fixture.arena, &found), MUSTER_OK);
    cr_assert_eq(found.seq, seq);
    cr_assert_eq(found.at_ms, 77);
    cr_assert_str_eq(found.type, "job.chunk");
    cr_assert_str_eq(found.team, "backend");
    cr_assert(muster_id_equal(&found.job, &job));
    cr_assert(found.body.size == 5 && memcmp(found.body.data, "piece", 5) == 0);
    cr_assert_eq(muster_log_get(fixture.store, seq + 1, fixture.arena, &found), MUSTER_NOT_FOUND);
    cr_assert_eq(muster_log_get(fixture.store, 0, fixture.arena, &found), MUSTER_NOT_FOUND);
    tear_down(&fixture);
}

/* ---- sweeping ---- */

static bool
sweep(struct muster_store *store, int64_t now_ms, size_t limit)
{
    bool more = false;

    cr_assert_eq(muster_store_sweep(store, now_ms, limit, &more), MUSTER_OK);
    return more;
}

Test(log, sweep_removes_old_events_and_tells_the_oldest_left)
{
    struct store_options options = ample;
    struct fixture fixture;
    struct muster_id job = id_of(1, 1);
    struct event found;

    options.keep_events = 1000;
    fixture = set_up_with(&options);
    cr_assert_eq(muster_log_oldest(fixture.store), 1);
    append(fixture.store, &job, 10000, 3);
    append(fixture.store, &job, 20000, 3);
    cr_assert(!sweep(fixture.store, 11000, 100));
    check_walk(fixture.store, NULL, 0, 99, "1 2 3 4 5 6 ");
    cr_assert_eq(muster_log_oldest(fixture.store), 1);
    cr_assert(!sweep(fixture.store, 11002, 100));
    check_walk(fixture.store, NULL, 0, 99, "3 4 5 6 ");
    cr_assert_eq(muster_log_oldest(fixture.store), 3);
    cr_assert(!sweep(fixture.store, 20000, 100));
    check_walk(fixture.store, &job, 0, 99, "4 5 6 ");
    cr_assert_eq(muster_log_oldest(fixture.store), 4);
    cr_assert_eq(muster_log_get(fixture.store, 3, fixture.arena, &found), MUSTER_NOT_FOUND);
    cr_assert(!sweep(fixture.store, 99000, 100));
    check_walk(fixture.store, NULL, 0, 99, "");
    check_walk(fixture.store, &job, 0, 99, "");
    cr_assert_eq(events_of(fixture.store), 0);
    cr_assert_eq(muster_log_oldest(fixture.store), 7);
    reopen(&fixture);
    cr_assert_eq(muster_log_oldest(fixture.store), 7);
    cr_assert_eq(append(fixture.store, &job, 99000, 1), 7);
    check_walk(fixture.store, &job, 0, 99, "7 ");
    tear_down(&fixture);
}

Test(log, sweep_does_as_much_as_it_may_and_says_what_is_left)
{
    struct store_options options = ample;
    struct fixture fixture;

    options.keep_events = 1000;
    fixture = set_up_with(&options);
    append(fixture.store, NULL, 1, 7);
    cr_assert(sweep(fixture.store, 5000, 3));
    check_walk(fixture.store, NULL, 0, 99, "4 5 6 7 ");
    cr_assert_eq(muster_log_oldest(fixture.store), 4);
    cr_assert(sweep(fixture.store, 5000, 3));
    cr_assert(!sweep(fixture.store, 5000, 3));
    check_walk(fixture.store, NULL, 0, 99, "");
    tear_down(&fixture);
}

Test(log, sweep_keeps_no_more_bytes_than_allowed)
{
    struct store_options options = ample;
    struct noted noted = {.most = 999};
    struct event one = event_of(1, 1, NULL, "piece");
    struct muster_buf packed = {0};
    struct fixture fixture;

    options.max_events = 4096;
    fixture = set_up_with(&options);
    muster_pack(&event_type, &one, &packed);
    append(fixture.store, NULL, 1, 100); /* all of one size, as their numbers are below 128 */
    cr_assert(!sweep(fixture.store, 2, 1000));
    cr_assert_eq(muster_log_walk(fixture.store, NULL, 0, note_event, &noted), MUSTER_OK);
    cr_assert_eq(noted.last, 100);
    cr_assert_eq(noted.count, 4096 / (packed.size + 8), "%zu", noted.count);
    cr_assert_eq(muster_log_oldest(fixture.store), 101 - (int64_t)noted.count);
    cr_assert_eq(events_of(fixture.store), noted.count);
    reopen(&fixture); /* with ample options */
    cr_assert(!sweep(fixture.store, 2, 1000));
    cr_assert_eq(events_of(fixture.store), noted.count);
    muster_buf_free(&packed);
    tear_down(&fixture);
}

static bool
count_row(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    (void)key;
    (void)value;
    ++*(size_t *)arg;
    return true;
}

Test(log, sweep_leaves_no_row_of_an_event_behind)
{
    struct muster_engine *engine = engine_memory_new(), *borrowed = engine;
    struct muster_bytes all = {NULL, 0};
    struct muster_id job = id_of(1, 1);
    struct muster_bytes its = {job.bytes, sizeof(job.bytes)};
    struct muster_store *store = NULL;
    size_t rows = 0;

    cr_assert_eq(muster_store_on_engine(&engine, &ample, &store), MUSTER_OK);
    append(store, &job, 1, 5);
    cr_assert_eq(borrowed->class->range(borrowed, ENGINE_JOB_EVENTS, its, all, false, count_row, &rows), MUSTER_OK);
    cr_assert_eq(rows, 5);
    cr_assert(!sweep(store, INT64_C(1) << 40, 100));
    rows = 0;
    cr_assert_eq(borrowed->class->range(borrowed, ENGINE_JOB_EVENTS, its, all, false, count_row, &rows), MUSTER_OK);
    cr_assert_eq(borrowed->class->range(borrowed, ENGINE_EVENTS, all, all, false, count_row, &rows), MUSTER_OK);
    cr_assert_eq(rows, 0);
    muster_store_close(&store);
}

Test(log, oldest_never_goes_back)
{
    struct store_options options = ample;
    struct fixture fixture;
    struct muster_batch *batch;
    struct event late;

    options.keep_events = 1000;
    fixture = set_up_with(&options);
    late = event_of(muster_log_number(fixture.store), 1, NULL, "late");
    batch = muster_batch_new(fixture.store);
    append(fixture.store, NULL, 1, 3);
    cr_assert(!sweep(fixture.store, 5000, 100));
    cr_assert_eq(muster_log_oldest(fixture.store), 5);
    muster_batch_append(batch, &late);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    cr_assert(!sweep(fixture.store, 5000, 100));
    cr_assert_eq(muster_log_oldest(fixture.store), 5);
    cr_assert_eq(events_of(fixture.store), 0);
    muster_batch_free(&batch);
    tear_down(&fixture);
}

static void
finish_job(struct muster_store *store, unsigned number, int64_t created_ms, int64_t finished_ms, enum job_state state)
{
    struct job job = job_of(number, "backend", state);
    struct delivery delivery = {.state = delivery_state_DELIVERED};

    job.id = delivery.id = id_of(created_ms, number);
    job.created_ms = created_ms;
    job.finished_ms = finished_ms;
    NEED(put_now(store, &job_type, &job) == MUSTER_OK);
    NEED(put_now(store, &delivery_type, &delivery) == MUSTER_OK);
}

static bool
note_job(void *arg, const void *record, struct muster_arena *arena)
{
    const struct job *job = record;
    char *text = arg;

    (void)arena;
    sprintf(text + strlen(text), "%u ", job->id.bytes[15]);
    return true;
}

static void
check_jobs(struct muster_store *store, const char *wanted)
{
    struct muster_store_stats stats;
    size_t deliveries = 0, spaces = 0;
    char text[200] = "";
    const char *at;

    cr_assert_eq(muster_store_walk(store, &job_type, NULL, NULL, MUSTER_OLDEST_FIRST, note_job, text), MUSTER_OK);
    cr_assert_str_eq(text, wanted);
    for (at = wanted; *at; at++)
        spaces += *at == ' ';
    cr_assert_eq(muster_store_count(store, &delivery_type, NULL, NULL, &deliveries), MUSTER_OK);
    cr_assert_eq(deliveries, spaces);
    muster_store_stats(store, &stats);
    cr_assert_eq(stats.jobs, spaces);
}

Test(log, sweep_removes_finished_jobs_by_their_end)
{
    struct store_options options = ample;
    struct fixture fixture;

    options.keep_jobs = 1000;
    fixture = set_up_with(&options);
    finish_job(fixture.store, 1, 100, 200, job_state_COMPLETED);
    finish_job(fixture.store, 2, 110, 0, job_state_RUNNING);
    finish_job(fixture.store, 3, 120, 5000, job_state_FAILED);
    finish_job(fixture.store, 4, 130, 300, job_state_CANCELLED);
    finish_job(fixture.store, 5, 140, 0, job_state_QUEUED);
    finish_job(fixture.store, 6, 150, 400, job_state_FAILED);
    finish_job(fixture.store, 7, 6000, 6100, job_state_COMPLETED);
    cr_assert(!sweep(fixture.store, 1200, 100));
    check_jobs(fixture.store, "1 2 3 4 5 6 7 ");
    cr_assert(!sweep(fixture.store, 1201, 100));
    check_jobs(fixture.store, "2 3 4 5 6 7 ");
    cr_assert(sweep(fixture.store, 5000, 1));
    check_jobs(fixture.store, "2 3 4 5 7 ");
    cr_assert(!sweep(fixture.store, 5000, 1));
    check_jobs(fixture.store, "2 3 5 7 ");
    cr_assert(!sweep(fixture.store, 9000, 100));
    check_jobs(fixture.store, "2 5 ");
    tear_down(&fixture);
}

Test(log, events_outlive_their_job)
{
    struct store_options options = ample;
    struct fixture fixture;
    struct muster_id job = id_of(100, 1);

    options.keep_jobs = 1000;
    fixture = set_up_with(&options);
    finish_job(fixture.store, 1, 100, 200, job_state_COMPLETED);
    append(fixture.store, &job, 150, 2);
    cr_assert(!sweep(fixture.store, 9000, 100));
    check_jobs(fixture.store, "");
    check_walk(fixture.store, &job, 0, 99, "1 2 ");
    tear_down(&fixture);
}

/* ---- what lies on disk ---- */

Test(log, an_event_that_cannot_be_read_is_an_error_until_it_is_swept)
{
    static const uint8_t junk[] = {0xc1, 0xff}, first[8] = {0, 0, 0, 0, 0, 0, 0, 1};
    struct engine_change change = {ENGINE_PUT, ENGINE_EVENTS, {first, sizeof(first)}, {junk, sizeof(junk)}};
    struct muster_engine *engine = engine_memory_new(), *borrowed = engine;
    struct muster_arena *arena = muster_arena_new();
    struct noted noted = {.most = 99};
    struct muster_store *store = NULL;
    struct event found;

    cr_assert_eq(muster_store_on_engine(&engine, &ample, &store), MUSTER_OK);
    cr_assert_eq(muster_log_number(store), 1);
    append(store, NULL, 1000, 1);
    cr_assert_eq(borrowed->class->commit(borrowed, &change, 1), MUSTER_OK);
    cr_assert_eq(muster_log_walk(store, NULL, 0, note_event, &noted), MUSTER_STORAGE_ERROR);
    cr_assert_eq(muster_log_get(store, 1, arena, &found), MUSTER_STORAGE_ERROR);
    cr_assert(!sweep(store, 1000, 100));
    check_walk(store, NULL, 0, 99, "2 ");
    muster_arena_free(&arena);
    muster_store_close(&store);
}
