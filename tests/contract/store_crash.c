/* SPDX-License-Identifier: MPL-2.0 */
/* Kill -9 at any moment: a child commits numbered batches and reports each; it is killed again and again, and after
 * each kill everything reported is there, no batch is there in part, and no event number comes twice. */
#include <criterion/criterion.h>

#include <signal.h>
#include <sys/wait.h>

#include "tests/unit/store_help.h"

#define ROUNDS 25
#define BATCHES_MAX 100000 /* numbers of batches of one round */

struct report {
    int64_t batch; /* its number */
    int64_t seq;   /* its last event */
};

/* Every batch has so many jobs, and as many events. */
static unsigned
size_of(int64_t batch)
{
    return 1 + (unsigned)(batch % 7);
}

static int64_t
commit_batch(struct muster_store *store, struct muster_batch *batch, int64_t number)
{
    struct event event = {0};
    char team[16];
    unsigned i;

    snprintf(team, sizeof(team), "team%lld", (long long)(number % 3));
    for (i = 0; i < size_of(number); i++) {
        struct job job = job_of(i, team, job_state_QUEUED);

        job.id = id_of(number, i);
        event = event_of(muster_log_number(store), number, &job.id, "piece");
        NEED(batch_put(batch, &job_type, &job) == MUSTER_OK);
        muster_batch_append(batch, &event);
    }
    NEED(muster_batch_commit(batch) == MUSTER_OK);
    return event.seq;
}

static void
child_commits(const char *path, int pipe_end, int64_t first)
{
    struct muster_store *store = store_open(path);
    struct muster_batch *batch = muster_batch_new(store);
    struct report report = {.batch = first};

    for (;; report.batch++) {
        report.seq = commit_batch(store, batch, report.batch);
        NEED(write(pipe_end, &report, sizeof(report)) == sizeof(report));
    }
}

static bool
next_report(int pipe_end, struct report *out_report)
{
    return read(pipe_end, out_report, sizeof(*out_report)) == (ssize_t)sizeof(*out_report);
}

/* Some work of the processor, so that the kill does not always follow a report. */
static void
dawdle(unsigned turns)
{
    volatile unsigned turn;

    for (turn = 0; turn < turns; turn++)
        ;
}

/* Let a child run for some batches and kill it; the last report that it made. */
static struct report
run_child(const char *path, int64_t first, unsigned reports, unsigned turns)
{
    struct report report = {0}, last = {0};
    int ends[2];
    pid_t child;

    NEED(pipe(ends) == 0);
    child = fork();
    NEED(child >= 0);
    if (child == 0) {
        close(ends[0]);
        child_commits(path, ends[1], first);
    }
    close(ends[1]);
    for (; reports > 0 && next_report(ends[0], &report); reports--)
        last = report;
    dawdle(turns);
    NEED(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    while (next_report(ends[0], &report))
        last = report;
    close(ends[0]);
    return last;
}

/* ---- what is there afterwards ---- */

struct tally {
    unsigned char *jobs; /* of each batch */
    unsigned char *events;
    int64_t seq;
    bool repeats;
};

static bool
tally_job(void *arg, const void *record, struct muster_arena *arena)
{
    struct tally *tally = arg;
    const struct job *job = record;

    (void)arena;
    tally->jobs[muster_id_time(&job->id)]++;
    return true;
}

static bool
tally_event(void *arg, const struct event *event)
{
    struct tally *tally = arg;

    tally->repeats = tally->repeats || event->seq <= tally->seq;
    tally->seq = event->seq;
    tally->events[event->at_ms]++;
    return true;
}

static size_t
count_by_team(struct muster_store *store)
{
    static const char *const teams[] = {"team0", "team1", "team2"};
    size_t count, all = 0, i;

    for (i = 0; i < 3; i++) {
        NEED(muster_store_count(store, &job_type, "job_by_team", teams[i], &count) == MUSTER_OK);
        all += count;
    }
    return all;
}

/* `last[r]` is the last report of round r. */
static void
check_store(struct muster_store *store, const struct report *last, unsigned rounds)
{
    struct tally tally = {.jobs = muster_alloc(ROUNDS * BATCHES_MAX), .events = muster_alloc(ROUNDS * BATCHES_MAX)};
    struct muster_store_stats stats;
    size_t i, jobs = 0;

    cr_assert_eq(muster_store_walk(store, &job_type, NULL, NULL, MUSTER_OLDEST_FIRST, tally_job, &tally), MUSTER_OK);
    cr_assert_eq(muster_log_walk(store, NULL, 0, tally_event, &tally), MUSTER_OK);
    cr_assert(!tally.repeats);
    for (i = 0; i < rounds * (size_t)BATCHES_MAX; i++) {
        const struct report *round = &last[i / BATCHES_MAX];
        bool reported = i % BATCHES_MAX != 0 && (int64_t)i <= round->batch;

        jobs += tally.jobs[i];
        cr_assert_eq(tally.jobs[i], tally.events[i], "batch %zu", i);
        if (reported)
            cr_assert_eq(tally.jobs[i], size_of((int64_t)i), "reported batch %zu", i);
        else if (tally.jobs[i])
            cr_assert_eq(tally.jobs[i], size_of((int64_t)i), "half of batch %zu", i);
    }
    muster_store_stats(store, &stats);
    cr_assert_eq(stats.jobs, jobs);
    cr_assert_eq(stats.events, jobs);
    cr_assert_eq(count_by_team(store), jobs);
    free(tally.jobs);
    free(tally.events);
}

Test(crash, everything_reported_is_there_and_nothing_in_part, .timeout = 120)
{
    struct folder folder = folder_make();
    struct report last[ROUNDS] = {{0}};
    unsigned round, state = (unsigned)getpid();
    int64_t highest = 0;

    for (round = 0; round < ROUNDS; round++) {
        struct muster_store *store;

        state = state * 1103515245u + 12345u;
        last[round] =
            run_child(folder.path, (int64_t)round * BATCHES_MAX + 1, (state >> 16) % 40, (state >> 8) % 2000000);
        cr_assert(last[round].seq == 0 || last[round].seq > highest);
        if (round % 3 == 0 && round > 0) /* then the next child is the first to see what the kill left */
            continue;
        store = store_open(folder.path);
        cr_assert_gt(muster_log_number(store), last[round].seq);
        highest = muster_log_number(store);
        check_store(store, last, round + 1);
        muster_store_close(&store);
    }
    folder_remove(&folder);
}
