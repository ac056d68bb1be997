/* SPDX-License-Identifier: MPL-2.0 */
/* fill FOLDER JOBS EVENTS STATE: puts jobs of the team "bench" and events of the last of them into a data folder that
 * no daemon has open.  STATE is queued or completed.  Each event's text begins with '~'. */
#include "bench/bench.h"
#include "schemas/muster_crypto.h"
#include "store/muster_store.h"

enum { ROWS_IN_COMMIT = 20000, TEXT = 100 };

static void
need(muster_err err, const char *what)
{
    if (err == MUSTER_OK)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, muster_err_code(err));
    exit(1);
}

static struct muster_id
put_job(struct muster_batch *batch, int64_t at_ms, bool queued, int64_t position)
{
    struct usage usage = {.turns = 1};
    struct job job = {
        .id = muster_id_new(at_ms),
        .kind = job_kind_EXECUTE,
        .team = "bench",
        .state = queued ? job_state_QUEUED : job_state_COMPLETED,
        .priority = job_priority_NORMAL,
        .prompt = "Run npm audit and fix any vulnerabilities with auto-fixable patches",
        .from = "bench",
        .created_ms = at_ms,
        .timeout_ms = 1800000,
        .max_attempts = 3,
        .position = position,
    };
    struct muster_buf packed = {0};

    if (!queued) {
        job.started_ms = job.finished_ms = at_ms;
        job.attempt = 1;
        job.result = "Nothing had to be fixed.";
        job.usage = &usage;
    }
    muster_pack(&job_type, &job, &packed);
    need(muster_batch_put(batch, &job_type, packed.data, packed.size), "put");
    muster_buf_free(&packed);
    return job.id;
}

static void
put_event(struct muster_store *store, struct muster_batch *batch, const struct muster_id *job, int64_t at_ms)
{
    struct muster_buf packed = {0};
    struct job_chunk chunk;
    struct event event;
    char text[TEXT + 1];

    memset(text, '0', TEXT);
    text[0] = '~';
    text[TEXT] = '\0';
    chunk = (struct job_chunk){.text = text};
    muster_pack(&job_chunk_type, &chunk, &packed);
    event = (struct event){.seq = muster_log_number(store),
                           .at_ms = at_ms,
                           .type = "job.chunk",
                           .team = "bench",
                           .job = *job,
                           .attempt = 1,
                           .body = {(const uint8_t *)packed.data, packed.size}};
    muster_batch_append(batch, &event);
    muster_buf_free(&packed);
}

int
main(int argc, char **argv)
{
    struct store_options options = {.map_size = INT64_C(1) << 30,
                                    .keep_jobs = INT64_MAX / 2,
                                    .keep_events = INT64_MAX / 2,
                                    .max_events = INT64_C(1) << 40};
    struct timespec wall;
    struct muster_store *store;
    struct muster_batch *batch;
    struct muster_id last = {0};
    long jobs, events, i;
    int64_t at_ms;
    char problem[256] = "";

    if (argc != 5)
        return 2;
    clock_gettime(CLOCK_REALTIME, &wall);
    at_ms = (int64_t)wall.tv_sec * 1000 - 3600000; /* an hour ago, a millisecond each second job */
    jobs = atol(argv[2]);
    events = atol(argv[3]);
    need(muster_crypto_init(), "crypto");
    if (muster_store_open(argv[1], &options, &store, problem, sizeof problem)) {
        (void)fprintf(stderr, "%s\n", problem);
        return 1;
    }
    batch = muster_batch_new(store);
    for (i = 1; i <= jobs || i <= events; i++) {
        if (i <= jobs)
            last = put_job(batch, at_ms + i / 2, strcmp(argv[4], "queued") == 0, i);
        if (i <= events)
            put_event(store, batch, &last, at_ms + i / 2);
        if (i % ROWS_IN_COMMIT == 0)
            need(muster_batch_commit(batch), "commit");
    }
    need(muster_batch_commit(batch), "commit");
    muster_batch_free(&batch);
    muster_store_close(&store);
    return 0;
}
