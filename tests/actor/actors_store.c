/* SPDX-License-Identifier: MPL-2.0 */
/* The store actor: one commit a batch, answers only after it, numbers for durable events. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "fake/fake_ctx.h"

static struct muster_ctx *
store_new(void)
{
    struct muster_ctx *ctx = fake_new("store: {sweep: 1s, keep_jobs: 1h}");

    cr_assert_eq(fake_start(ctx, &muster_store_class, MUSTER_STORE, NULL), MUSTER_OK);
    return ctx;
}

static uint64_t
commits(struct muster_ctx *ctx)
{
    struct muster_store_stats stats;

    muster_store_stats(muster_ctx_store(ctx), &stats);
    return stats.commits;
}

/* Send a commit with one job, one durable event and one answer. */
static muster_err
send_prompt(struct muster_ctx *ctx, struct muster_id id, const char *record, const char *prompt)
{
    struct job job = {.id = id,
                      .kind = job_kind_ASK,
                      .team = "t",
                      .state = job_state_QUEUED,
                      .prompt = prompt,
                      .priority = job_priority_NORMAL,
                      .from = "f",
                      .created_ms = FAKE_START_MS,
                      .timeout_ms = 1,
                      .max_attempts = 1};
    struct job_queued queued = {.priority = job_priority_NORMAL};
    struct muster_envelope envelope = {.id = 5, .reply_to = "", .trace = "", .principal.name = ""};
    struct muster_buf value = {0}, body = {0}, ok = {0};
    struct store_committed committed = {.seq = 1};
    struct store_put put;
    struct log_entry entry;
    struct store_answer answer;
    struct store_commit commit;
    muster_err err;

    muster_pack(&job_type, &job, &value);
    muster_pack(&job_queued_type, &queued, &body);
    muster_envelope_pack(&envelope, &store_committed_type, &committed, &ok);
    put = (struct store_put){.record = record, .value = {(uint8_t *)value.data, value.size}};
    entry = (struct log_entry){
        .at_ms = 1, .type = "job.queued", .team = "t", .job = id, .body = {(uint8_t *)body.data, body.size}};
    answer = (struct store_answer){.to = "caller/1", .ok = {(uint8_t *)ok.data, ok.size}};
    commit = (struct store_commit){.puts = {&put, 1}, .entries = {&entry, 1}, .answers = {&answer, 1}};
    err = fake_call(ctx, "", 0, &store_commit_type, &commit);
    muster_buf_free(&value);
    muster_buf_free(&body);
    muster_buf_free(&ok);
    return err;
}

static muster_err
send(struct muster_ctx *ctx, struct muster_id id, const char *record)
{
    return send_prompt(ctx, id, record, "p");
}

Test(store, a_commit_is_not_larger_than_it_need_be)
{
    struct muster_ctx *ctx = store_new();
    size_t size = (size_t)9 << 20;
    char *prompt = muster_alloc(size);
    uint64_t before = commits(ctx);
    int i;

    memset(prompt, 'p', size - 1);
    fake_batch_begin(ctx);
    for (i = 0; i < 3; i++)
        cr_assert_eq(send_prompt(ctx, muster_id_new(FAKE_START_MS), "job", prompt), MUSTER_OK);
    cr_assert_eq(commits(ctx) - before, 1, "two of them are enough for one");
    fake_batch_end(ctx);
    cr_assert_eq(commits(ctx) - before, 2);
    for (i = 0; i < 3; i++)
        cr_assert_eq(fake_take_to(ctx, "caller/1")->envelope.id, 5);
    free(prompt);
    fake_free(&ctx);
}

Test(store, a_batch_is_one_commit_and_answers_follow_it)
{
    struct muster_ctx *ctx = store_new();
    uint64_t before = commits(ctx);
    struct muster_id ids[3];
    const struct log_publish *publish;
    int i;

    fake_batch_begin(ctx);
    for (i = 0; i < 3; i++) {
        ids[i] = muster_id_new(FAKE_START_MS);
        cr_assert_eq(send(ctx, ids[i], "job"), MUSTER_OK);
        cr_assert_eq(fake_sent_count(ctx), 0);
    }
    fake_batch_end(ctx);
    cr_assert_eq(commits(ctx) - before, 1);
    publish = fake_take_to(ctx, MUSTER_LOG)->body;
    cr_assert_eq(publish->events.count, 3);
    cr_assert_lt(publish->events.items[0].seq, publish->events.items[1].seq);
    for (i = 0; i < 3; i++) {
        cr_assert_eq(fake_take_to(ctx, "caller/1")->envelope.id, 5);
        cr_assert_not_null(fake_get(ctx, &job_type, &ids[i]));
    }
    fake_free(&ctx);
}

Test(store, a_commit_that_makes_no_sense_is_answered)
{
    struct muster_ctx *ctx = store_new();

    cr_assert_eq(send(ctx, muster_id_new(FAKE_START_MS), "nonsense"), MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(((const struct failed *)fake_take_to(ctx, "caller/1")->body)->code, "INVALID_REQUEST");
    fake_free(&ctx);
}

Test(store, old_jobs_are_swept)
{
    struct muster_ctx *ctx = store_new();
    struct job job = {.id = muster_id_new(FAKE_START_MS),
                      .kind = job_kind_ASK,
                      .team = "t",
                      .prompt = "p",
                      .from = "f",
                      .state = job_state_COMPLETED,
                      .priority = job_priority_NORMAL,
                      .created_ms = FAKE_START_MS,
                      .finished_ms = FAKE_START_MS,
                      .timeout_ms = 1,
                      .max_attempts = 1};

    fake_put(ctx, &job_type, &job);
    fake_advance(ctx, 3500 * 1000);
    cr_assert_not_null(fake_get(ctx, &job_type, &job.id));
    fake_advance(ctx, 200 * 1000);
    cr_assert_null(fake_get(ctx, &job_type, &job.id));
    fake_free(&ctx);
}

Test(store, a_full_actor_is_told_later)
{
    struct muster_ctx *ctx = store_new();
    struct muster_id id = muster_id_new(FAKE_START_MS);

    fake_refuse(ctx, "caller/1", MUSTER_OVERLOADED);
    cr_assert_eq(send(ctx, id, "job"), MUSTER_OK);
    cr_assert_null(fake_take_to(ctx, "caller/1"));
    fake_refuse(ctx, "caller/1", MUSTER_OK);
    fake_advance(ctx, 10);
    cr_assert_eq(fake_take_to(ctx, "caller/1")->envelope.id, 5);
    fake_free(&ctx);
}

/* ---- what may wait, and who wrote ---- */

/* A job in this state, as a commit of the queue. */
static muster_err
write_state(struct muster_ctx *ctx, struct muster_id id, enum job_state state, bool lazy)
{
    struct job job = {.id = id,
                      .kind = job_kind_ASK,
                      .team = "t",
                      .state = state,
                      .prompt = "p",
                      .priority = job_priority_NORMAL,
                      .from = "f",
                      .created_ms = FAKE_START_MS,
                      .timeout_ms = 1,
                      .max_attempts = 1};
    struct muster_buf value = {0};
    struct store_put put;
    struct store_commit commit;
    muster_err err;

    muster_pack(&job_type, &job, &value);
    put = (struct store_put){.record = "job", .value = {(uint8_t *)value.data, value.size}};
    commit = (struct store_commit){.puts = {&put, 1}, .lazy = lazy};
    if (!lazy) {
        commit.writer = MUSTER_QUEUE;
        commit.about = id;
    }
    err = fake_call(ctx, "", 0, &store_commit_type, &commit);
    muster_buf_free(&value);
    return err;
}

Test(store, what_may_wait_is_written_with_what_comes_next)
{
    struct muster_ctx *ctx = store_new();
    struct muster_id id = muster_id_new(FAKE_START_MS), other = muster_id_new(FAKE_START_MS);
    uint64_t before = commits(ctx);

    cr_assert_eq(write_state(ctx, id, job_state_RUNNING, true), MUSTER_OK);
    cr_assert_eq(commits(ctx), before);
    cr_assert_eq(write_state(ctx, other, job_state_QUEUED, false), MUSTER_OK);
    cr_assert_eq(commits(ctx) - before, 1);
    cr_assert_eq(((const struct job *)fake_get(ctx, &job_type, &id))->state, job_state_RUNNING);
    fake_advance(ctx, 10);
    cr_assert_eq(commits(ctx) - before, 1, "nothing was left to be written");
    fake_free(&ctx);
}

Test(store, what_may_wait_does_not_wait_long)
{
    struct muster_ctx *ctx = store_new();
    struct muster_id id = muster_id_new(FAKE_START_MS);
    uint64_t before = commits(ctx);

    cr_assert_eq(write_state(ctx, id, job_state_RUNNING, true), MUSTER_OK);
    fake_advance(ctx, 10);
    cr_assert_eq(commits(ctx) - before, 1);
    cr_assert_not_null(fake_get(ctx, &job_type, &id));
    fake_free(&ctx);
}

Test(store, what_may_wait_is_written_at_the_end)
{
    struct muster_ctx *ctx = store_new();
    struct muster_id id = muster_id_new(FAKE_START_MS);

    cr_assert_eq(write_state(ctx, id, job_state_RUNNING, true), MUSTER_OK);
    fake_stop(ctx);
    cr_assert_not_null(fake_get(ctx, &job_type, &id));
    fake_free(&ctx);
}

Test(store, what_waited_never_comes_behind_what_was_written_later)
{
    struct muster_ctx *ctx = store_new();
    struct muster_id id = muster_id_new(FAKE_START_MS);

    cr_assert_eq(write_state(ctx, id, job_state_RUNNING, true), MUSTER_OK);
    cr_assert_eq(write_state(ctx, id, job_state_COMPLETED, false), MUSTER_OK);
    fake_advance(ctx, 10);
    cr_assert_eq(((const struct job *)fake_get(ctx, &job_type, &id))->state, job_state_COMPLETED);
    fake_free(&ctx);
}

Test(store, a_writer_is_told_once_of_all_that_was_committed_together)
{
    struct muster_ctx *ctx = store_new();
    const struct store_written *written;
    const struct fake_sent *sent;
    struct muster_id ids[3];
    size_t i;

    fake_batch_begin(ctx);
    for (i = 0; i < 3; i++) {
        ids[i] = muster_id_new(FAKE_START_MS);
        cr_assert_eq(write_state(ctx, ids[i], job_state_QUEUED, false), MUSTER_OK);
    }
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE), "before anything is on disk");
    fake_batch_end(ctx);
    sent = fake_take_to(ctx, MUSTER_QUEUE);
    cr_assert_eq(sent->type, &store_written_type);
    written = sent->body;
    cr_assert_not(written->failed);
    cr_assert_eq(written->commits.count, 3);
    for (i = 0; i < 3; i++)
        cr_assert(muster_id_equal(&written->commits.items[i].about, &ids[i]));
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    fake_free(&ctx);
}

Test(store, the_writer_is_told_before_those_who_are_answered_and_behind_what_goes_ahead)
{
    struct muster_ctx *ctx = store_new();
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    struct muster_id id = muster_id_new(FAKE_START_MS);
    struct muster_buf ok = {0};
    struct store_answer answers[2] = {{.to = "caller/1"}, {.to = MUSTER_NODES, .ahead = true}};
    struct store_commit commit = {.answers = {answers, 2}, .writer = MUSTER_QUEUE, .about = id};

    muster_envelope_pack(&envelope, &store_committed_type, &(struct store_committed){.seq = 1}, &ok);
    answers[0].ok = answers[1].ok = (struct muster_bytes){(uint8_t *)ok.data, ok.size};
    cr_assert_eq(fake_call(ctx, "", 0, &store_commit_type, &commit), MUSTER_OK);
    cr_assert_str_eq(fake_take(ctx)->to, MUSTER_NODES);
    cr_assert_str_eq(fake_take(ctx)->to, MUSTER_QUEUE);
    cr_assert_str_eq(fake_take(ctx)->to, "caller/1");
    muster_buf_free(&ok);
    fake_free(&ctx);
}

Test(store, one_that_has_no_room_holds_up_nobody_when_it_stands_apart)
{
    struct muster_ctx *ctx = store_new();
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    struct muster_buf ok = {0};
    struct store_answer answers[2] = {{.to = "agent/slow", .apart = true}, {.to = "caller/1"}};
    struct store_commit commit = {.answers = {answers, 2}};

    muster_envelope_pack(&envelope, &store_committed_type, &(struct store_committed){.seq = 1}, &ok);
    answers[0].ok = answers[1].ok = (struct muster_bytes){(uint8_t *)ok.data, ok.size};
    fake_refuse(ctx, "agent/slow", MUSTER_OVERLOADED);
    cr_assert_eq(fake_call(ctx, "", 0, &store_commit_type, &commit), MUSTER_OK);
    cr_assert_not_null(fake_take_to(ctx, "caller/1"));
    cr_assert_null(fake_take_to(ctx, "agent/slow"));
    fake_refuse(ctx, "agent/slow", MUSTER_OK);
    fake_advance(ctx, 10);
    cr_assert_not_null(fake_take_to(ctx, "agent/slow"));
    muster_buf_free(&ok);
    fake_free(&ctx);
}

Test(store, the_writer_of_a_commit_that_makes_no_sense_is_told_at_once_and_of_no_other)
{
    struct muster_ctx *ctx = store_new();
    struct muster_id good = muster_id_new(FAKE_START_MS), bad = muster_id_new(FAKE_START_MS);
    struct store_put put = {.record = "nonsense", .value = {(const uint8_t *)"x", 1}};
    struct store_commit commit = {.puts = {&put, 1}, .writer = MUSTER_QUEUE, .about = bad};
    const struct store_written *written;

    fake_batch_begin(ctx);
    cr_assert_eq(write_state(ctx, good, job_state_QUEUED, false), MUSTER_OK);
    cr_assert_eq(fake_call(ctx, "", 0, &store_commit_type, &commit), MUSTER_INVALID_REQUEST);
    written = fake_take_to(ctx, MUSTER_QUEUE)->body;
    cr_assert(written->failed);
    cr_assert_eq(written->commits.count, 1);
    cr_assert(muster_id_equal(&written->commits.items[0].about, &bad));
    fake_batch_end(ctx);
    written = fake_take_to(ctx, MUSTER_QUEUE)->body;
    cr_assert_not(written->failed);
    cr_assert_eq(written->commits.count, 1);
    cr_assert(muster_id_equal(&written->commits.items[0].about, &good));
    fake_free(&ctx);
}
