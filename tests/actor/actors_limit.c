/* SPDX-License-Identifier: MPL-2.0 */
/* The rate limit: both ways to count against naive models at random times, then the actor on a virtual clock, its
 * numbers against a model that knows nothing of it, with restarts and crashes. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "actors/limit_keep.h"
#include "tests/actor/fake/fake_ctx.h"

#define ROUNDS 4000
#define WINDOW 60000

static int64_t
below(unsigned *seed, int64_t bound)
{
    return (int64_t)rand_r(seed) % bound;
}

/* ---- log against a list of all requests that passed ---- */

struct model {
    int64_t times[ROUNDS * 3];
    size_t count;
};

static size_t
model_first(const struct model *model, int64_t start_ms)
{
    size_t i;

    for (i = 0; i < model->count && model->times[i] <= start_ms; i++)
        ;
    return i;
}

static void
check_log(struct model *model, const struct limit_rate *rate, int64_t cost, int64_t now_ms,
          const struct limit_verdict *verdict)
{
    size_t first = model_first(model, now_ms - rate->window_ms);
    int64_t count = (int64_t)(model->count - first), i;
    bool allowed = count + cost <= rate->requests;

    cr_assert_eq(verdict->allowed, allowed, "at %lld: %lld used", (long long)now_ms, (long long)count);
    if (allowed) {
        cr_assert_eq(verdict->left, rate->requests - count - cost);
        cr_assert_eq(verdict->reset_ms, now_ms + rate->window_ms);
        for (i = 0; i < cost; i++)
            model->times[model->count++] = now_ms;
        return;
    }
    cr_assert_eq(verdict->left, rate->requests - count);
    cr_assert_eq(verdict->reset_ms, model->times[first] + rate->window_ms);
    /* After the pause there is room for it, and a millisecond earlier there is not. */
    first = model_first(model, now_ms + verdict->retry_ms - rate->window_ms);
    cr_assert((int64_t)(model->count - first) + cost <= rate->requests);
    first = model_first(model, now_ms + verdict->retry_ms - 1 - rate->window_ms);
    cr_assert((int64_t)(model->count - first) + cost > rate->requests);
}

static void
run_log(unsigned seed, int64_t requests, int64_t window_ms)
{
    struct limit_rate rate = {requests, window_ms};
    struct model *model = calloc(1, sizeof *model);
    struct limit_log log = {0};
    struct limit_verdict verdict;
    int64_t now_ms = FAKE_START_MS, cost;
    int i;

    for (i = 0; i < ROUNDS; i++) {
        now_ms += below(&seed, 4) ? below(&seed, 3 * window_ms / requests + 1) : 0;
        if (below(&seed, 500) == 0)
            now_ms += window_ms;
        cost = 1 + (below(&seed, 5) == 0 ? below(&seed, requests < 3 ? requests : 3) : 0);
        limit_log_take(&log, &rate, cost, now_ms, &verdict);
        check_log(model, &rate, cost, now_ms, &verdict);
    }
    limit_log_free(&log);
    free(model);
}

Test(limit_log, agrees_with_a_list_of_all_requests)
{
    run_log(1, 1, 1000);
    run_log(2, 3, 1000);
    run_log(3, 16, 999);
    run_log(4, 17, 60000);
    run_log(5, 100, 60000);
    run_log(6, 1000, 10000);
}

Test(limit_log, lower_limit_waits_for_enough_to_leave)
{
    struct limit_rate high = {10, 1000}, low = {3, 1000};
    struct limit_log log = {0};
    struct limit_verdict verdict;
    int64_t i;

    for (i = 0; i < 10; i++)
        limit_log_take(&log, &high, 1, 5000 + i * 10, &verdict);
    limit_log_take(&log, &low, 1, 5100, &verdict);
    cr_assert(!verdict.allowed);
    cr_assert_eq(verdict.left, 0);
    cr_assert_eq(verdict.reset_ms, 6000);
    cr_assert_eq(verdict.retry_ms, 5070 + 1000 - 5100, "eight of ten must have left");
    limit_log_take(&log, &low, 1, 5100 + verdict.retry_ms, &verdict);
    cr_assert(verdict.allowed);
    limit_log_free(&log);
}

Test(limit_log, clock_that_goes_back_blocks_no_longer_than_a_window)
{
    struct limit_rate rate = {2, 1000};
    struct limit_log log = {0};
    struct limit_verdict verdict;

    limit_log_take(&log, &rate, 1, 9000000, &verdict);
    limit_log_take(&log, &rate, 1, 9000000, &verdict);
    limit_log_take(&log, &rate, 1, 5000, &verdict);
    cr_assert(!verdict.allowed);
    cr_assert_eq(verdict.retry_ms, 1000);
    limit_log_take(&log, &rate, 1, 6000, &verdict);
    cr_assert(verdict.allowed);
    limit_log_free(&log);
}

Test(limit_log, cost_above_the_limit_counts_as_the_limit)
{
    struct limit_rate rate = {5, 1000};
    struct limit_log log = {0};
    struct limit_verdict verdict;

    limit_log_take(&log, &rate, 50, 1000, &verdict);
    cr_assert(verdict.allowed);
    cr_assert_eq(verdict.left, 0);
    limit_log_free(&log);
}

/* ---- bucket against one that is filled millisecond by millisecond ---- */

static void
run_bucket(unsigned seed, int64_t requests, int64_t window_ms)
{
    struct limit_rate rate = {requests, window_ms};
    struct limit_bucket bucket = {0}, later;
    struct limit_verdict verdict, other;
    int64_t now_ms = FAKE_START_MS, step, cost, missing = 0, capacity = requests * window_ms, passed = 0;
    bool allowed;
    int i;

    for (i = 0; i < ROUNDS; i++) {
        for (step = below(&seed, 3 * window_ms / requests + 2); step > 0; step--, now_ms++)
            missing = missing > requests ? missing - requests : 0;
        cost = 1 + (below(&seed, 5) == 0 ? below(&seed, requests < 3 ? requests : 3) : 0);
        allowed = capacity - missing >= cost * window_ms;
        limit_bucket_take(&bucket, &rate, cost, now_ms, &verdict);
        cr_assert_eq(verdict.allowed, allowed);
        missing += allowed ? cost * window_ms : 0;
        passed += allowed ? cost : 0;
        cr_assert_eq(verdict.left, (capacity - missing) / window_ms);
        cr_assert(missing - (verdict.reset_ms - now_ms) * requests <= 0, "full at its reset");
        cr_assert(missing == 0 || missing - (verdict.reset_ms - 1 - now_ms) * requests > 0, "and not before");
        if (allowed)
            continue;
        later = bucket;
        limit_bucket_take(&later, &rate, cost, now_ms + verdict.retry_ms, &other);
        cr_assert(other.allowed);
        later = bucket;
        limit_bucket_take(&later, &rate, cost, now_ms + verdict.retry_ms - 1, &other);
        cr_assert(!other.allowed);
    }
    cr_assert(passed * window_ms <= (now_ms - FAKE_START_MS) * requests + capacity);
}

Test(limit_bucket, agrees_with_one_filled_bit_by_bit)
{
    run_bucket(1, 1, 100);
    run_bucket(2, 3, 1000);
    run_bucket(3, 7, 997);
    run_bucket(4, 100, 6000);
    run_bucket(5, 5000, 1000);
}

Test(limit_bucket, largest_rate_does_not_overflow)
{
    struct limit_rate rate = {1000000000, 86400000};
    struct limit_bucket bucket = {0};
    struct limit_verdict verdict;

    limit_bucket_take(&bucket, &rate, 1000000000, FAKE_START_MS, &verdict);
    cr_assert(verdict.allowed);
    cr_assert_eq(verdict.reset_ms, FAKE_START_MS + 86400000);
    limit_bucket_take(&bucket, &rate, 1, FAKE_START_MS, &verdict);
    cr_assert(!verdict.allowed);
    cr_assert_eq(verdict.retry_ms, 1);
    limit_bucket_take(&bucket, &rate, 1000000000, FAKE_START_MS + INT64_C(86400000) * 3650, &verdict);
    cr_assert(verdict.allowed);
}

Test(limit_bucket, tokens_taken_stay_taken_when_the_rate_changes)
{
    struct limit_rate old = {10, 1000}, new = {20, 60000};
    struct limit_bucket bucket = {0};
    struct limit_verdict verdict;

    limit_bucket_take(&bucket, &old, 8, 1000, &verdict);
    limit_bucket_take(&bucket, &new, 1, 1000, &verdict);
    cr_assert(verdict.allowed);
    cr_assert_eq(verdict.left, 11);
}

/* ---- the actor ---- */

static struct muster_ctx *
start(void)
{
    struct muster_ctx *ctx = fake_new(NULL);

    cr_assert_eq(fake_start(ctx, &muster_limit_class, MUSTER_LIMIT, NULL), MUSTER_OK);
    return ctx;
}

static struct limit_take
take_of(int64_t requests)
{
    return (struct limit_take){.requests = requests, .window = WINDOW, .algorithm = limit_algorithm_SLIDING_WINDOW};
}

static struct muster_id
key_of(int number)
{
    struct muster_id id = {{0}};

    memcpy(id.bytes + 8, &number, sizeof number);
    return id;
}

/* Send a limit.take for key number `key` and return its answer, or what was handed on. */
static const struct fake_sent *
ask(struct muster_ctx *ctx, int key, const struct limit_take *in)
{
    struct muster_envelope envelope = {.id = 7, .reply_to = "caller/1", .trace = "req", .principal = {.name = "ci"}};

    const struct fake_sent *sent;
    size_t before = fake_sent_count(ctx);

    envelope.principal.key = key_of(key);
    cr_assert_eq(fake_deliver(ctx, &envelope, &limit_take_type, in), MUSTER_OK);
    sent = fake_take_to(ctx, "caller/1");
    if (sent == NULL)
        sent = fake_take_to(ctx, in->next);
    cr_assert_not_null(sent);
    cr_assert_leq(fake_sent_count(ctx), before + 1, "one answer, and at most one commit");
    return sent;
}

Test(limit, counts_down_and_refuses_with_the_seeds_numbers)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(3);
    const struct fake_sent *sent;
    const struct failed *failed;
    int i;

    for (i = 0; i < 3; i++) {
        fake_set_clock(ctx, FAKE_START_MS + i * 1500);
        sent = ask(ctx, 1, &in);
        cr_assert_eq(sent->type, &limit_taken_type);
        cr_assert_str_eq(sent->to, "caller/1");
        cr_assert_eq(sent->envelope.id, 7);
        cr_assert_eq(sent->envelope.principal.rate_limit, 3);
        cr_assert_eq(sent->envelope.principal.rate_left, 2 - i);
        cr_assert_eq(sent->envelope.principal.rate_window_s, 60);
        cr_assert_eq(sent->envelope.principal.rate_reset_s, (FAKE_START_MS + i * 1500 + WINDOW + 999) / 1000);
    }
    sent = ask(ctx, 1, &in);
    cr_assert_eq(sent->type, &failed_type);
    failed = sent->body;
    cr_assert_str_eq(failed->code, "RATE_LIMITED");
    cr_assert_eq(failed->retry_after_s, 57);
    cr_assert_eq(sent->envelope.principal.rate_limit, 3);
    cr_assert_eq(sent->envelope.principal.rate_left, 0);
    cr_assert_eq(sent->envelope.principal.rate_reset_s, FAKE_START_MS / 1000 + 60);
    cr_assert_eq(ask(ctx, 2, &in)->type, &limit_taken_type, "another key has its own rate");
    fake_set_clock(ctx, FAKE_START_MS + WINDOW - 1);
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type);
    fake_set_clock(ctx, FAKE_START_MS + WINDOW);
    cr_assert_eq(ask(ctx, 1, &in)->type, &limit_taken_type);
    fake_free(&ctx);
}

Test(limit, hands_the_body_on_with_what_is_left)
{
    struct muster_ctx *ctx = start();
    struct queue_cancel cancel = {.job = muster_id_new(FAKE_START_MS)};
    struct muster_buf packed = {0};
    struct limit_take in = take_of(10);
    const struct fake_sent *sent;
    const struct queue_cancel *got;

    muster_pack(&queue_cancel_type, &cancel, &packed);
    in.next = MUSTER_QUEUE;
    in.type = queue_cancel_type.wire;
    in.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    in.cost = 4;
    sent = ask(ctx, 1, &in);
    muster_buf_free(&packed);
    cr_assert_str_eq(sent->to, "queue");
    cr_assert_eq(sent->type, &queue_cancel_type);
    got = sent->body;
    cr_assert(muster_id_equal(&got->job, &cancel.job));
    cr_assert_str_eq(sent->envelope.reply_to, "caller/1", "the queue answers in our place");
    cr_assert_eq(sent->envelope.id, 7);
    cr_assert_str_eq(sent->envelope.trace, "req");
    cr_assert_eq(sent->envelope.principal.rate_left, 6);
    fake_free(&ctx);
}

Test(limit, next_that_is_full_is_overloaded_with_the_rate)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(10);
    const struct fake_sent *sent;
    const struct failed *failed;

    in.next = MUSTER_QUEUE;
    in.type = metrics_read_type.wire;
    in.body = (struct muster_bytes){(const uint8_t *)"\x80", 1};
    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_OVERLOADED);
    sent = ask(ctx, 1, &in);
    failed = sent->body;
    cr_assert_str_eq(failed->code, "OVERLOADED");
    cr_assert_eq(failed->retry_after_s, 1);
    cr_assert_eq(sent->envelope.principal.rate_left, 9);
    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_NOT_FOUND);
    failed = ask(ctx, 1, &in)->body;
    cr_assert_str_eq(failed->code, "NOT_FOUND");
    fake_free(&ctx);
}

Test(limit, unlimited_is_not_counted)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = {0};
    const struct fake_sent *sent;
    const struct limit_taken *taken;
    int i;

    for (i = 0; i < 1000; i++) {
        sent = ask(ctx, 1, &in);
        taken = sent->body;
        cr_assert_eq(sent->type, &limit_taken_type);
        cr_assert(taken->unlimited);
        cr_assert_eq(sent->envelope.principal.rate_limit, 0);
    }
    cr_assert_eq(fake_next_timer(ctx), -1);
    fake_free(&ctx);
}

Test(limit, limit_without_window_is_invalid)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = {.requests = 5};
    const struct failed *failed;

    cr_assert_eq(fake_call(ctx, "caller/1", 1, &limit_take_type, &in), MUSTER_INVALID_REQUEST);
    failed = fake_take(ctx)->body;
    cr_assert_str_eq(failed->code, "INVALID_REQUEST");
    fake_free(&ctx);
}

Test(limit, bucket_refills_evenly)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(60);
    const struct fake_sent *sent;
    const struct failed *failed;
    int i;

    in.algorithm = limit_algorithm_TOKEN_BUCKET;
    for (i = 0; i < 60; i++)
        cr_assert_eq(ask(ctx, 1, &in)->type, &limit_taken_type);
    sent = ask(ctx, 1, &in);
    failed = sent->body;
    cr_assert_str_eq(failed->code, "RATE_LIMITED");
    cr_assert_eq(failed->retry_after_s, 1);
    cr_assert_eq(sent->envelope.principal.rate_reset_s, FAKE_START_MS / 1000 + 60);
    fake_set_clock(ctx, FAKE_START_MS + 1000);
    cr_assert_eq(ask(ctx, 1, &in)->type, &limit_taken_type);
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type);
    fake_free(&ctx);
}

Test(limit, very_large_limits_are_counted_by_a_bucket)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(6000000); /* 100 a millisecond */
    const struct fake_sent *sent;

    in.cost = 1000;
    (void)ask(ctx, 1, &in);
    fake_set_clock(ctx, FAKE_START_MS + 10);
    in.cost = 1;
    sent = ask(ctx, 1, &in);
    cr_assert_eq(sent->envelope.principal.rate_left, 5999999, "what was taken has flowed back after 10 ms");
    fake_free(&ctx);
}

Test(limit, silent_keys_are_forgotten_and_busy_ones_are_not)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(2);
    int key;

    for (key = 0; key < 5000; key++)
        (void)ask(ctx, key, &in);
    fake_advance(ctx, WINDOW - 1);
    (void)ask(ctx, 1, &in);
    fake_advance(ctx, 1);
    cr_assert_eq(fake_timer(ctx, 1), 60000, "key 1 is still known");
    (void)ask(ctx, 1, &in);
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type, "and what it used too");
    fake_advance(ctx, 120000);
    cr_assert_eq(fake_next_timer(ctx), -1, "nothing is known, nothing to sweep or to write");
    cr_assert_eq(ask(ctx, 4999, &in)->envelope.principal.rate_left, 1);
    fake_free(&ctx);
}

Test(limit, too_many_keys_at_a_time_are_refused_until_others_are_silent)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(2);
    const struct failed *failed;
    int key;

    for (key = 0; key < 65536; key++)
        cr_assert_eq(ask(ctx, key, &in)->type, &limit_taken_type);
    failed = ask(ctx, 70000, &in)->body;
    cr_assert_str_eq(failed->code, "OVERLOADED");
    cr_assert_eq(failed->retry_after_s, 1);
    cr_assert_eq(ask(ctx, 9, &in)->type, &limit_taken_type, "known keys go on");
    fake_set_clock(ctx, FAKE_START_MS + WINDOW);
    cr_assert_eq(ask(ctx, 70000, &in)->type, &limit_taken_type);
    fake_free(&ctx);
}

/* ---- on disk ---- */

static const struct rate *
record_of(struct muster_ctx *ctx, int key)
{
    struct muster_id id = key_of(key);

    return fake_get(ctx, &rate_type, &id);
}

static size_t
records(struct muster_ctx *ctx)
{
    size_t count = 0;

    cr_assert_eq(muster_store_count(muster_ctx_store(ctx), &rate_type, NULL, NULL, &count), MUSTER_OK);
    return count;
}

/* As the daemon does: what is sent at the end is written before the next beginning. */
static void
restart(struct muster_ctx *ctx)
{
    fake_stop(ctx);
    (void)fake_commit_all(ctx);
    cr_assert_eq(fake_start(ctx, &muster_limit_class, MUSTER_LIMIT, NULL), MUSTER_OK);
}

/* What was not written yet is lost. */
static void
crash(struct muster_ctx *ctx)
{
    fake_stop(ctx);
    fake_forget(ctx);
    cr_assert_eq(fake_start(ctx, &muster_limit_class, MUSTER_LIMIT, NULL), MUSTER_OK);
}

Test(limit, restart_changes_nothing)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(3);
    int i;

    for (i = 0; i < 3; i++) {
        fake_set_clock(ctx, FAKE_START_MS + i * 1000);
        (void)ask(ctx, 1, &in);
    }
    restart(ctx);
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type);
    cr_assert_eq(ask(ctx, 2, &in)->type, &limit_taken_type, "another key has its own rate");
    fake_stop(ctx);
    (void)fake_commit_all(ctx);
    fake_set_clock(ctx, FAKE_START_MS + WINDOW + 999); /* time passes while it is down */
    cr_assert_eq(fake_start(ctx, &muster_limit_class, MUSTER_LIMIT, NULL), MUSTER_OK);
    cr_assert_eq(ask(ctx, 1, &in)->envelope.principal.rate_left, 0, "one has left the window");
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type);
    fake_free(&ctx);
}

Test(limit, counted_keys_are_written_together_a_moment_later)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(1000);
    const struct rate *rate;
    int key;

    for (key = 0; key < 300; key++) {
        (void)ask(ctx, key, &in);
        (void)ask(ctx, key, &in);
    }
    cr_assert_eq(fake_sent_count(ctx), 0, "nothing is written while requests wait");
    cr_assert_eq(fake_timer(ctx, 2), 200);
    fake_advance(ctx, 199);
    (void)ask(ctx, 0, &in);
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_advance(ctx, 1);
    cr_assert_eq(fake_sent_count(ctx), 1, "one commit for all");
    cr_assert_eq(fake_timer(ctx, 2), -1, "nothing more to write");
    cr_assert(fake_commit(ctx));
    cr_assert_eq(records(ctx), 300);
    rate = record_of(ctx, 0);
    cr_assert_eq(rate->algorithm, limit_algorithm_SLIDING_WINDOW);
    cr_assert_eq(rate->requests, 1000);
    cr_assert_eq(rate->window, WINDOW);
    cr_assert_eq(rate->times.size, 3 * 8);
    cr_assert_eq(rate->at_ms, FAKE_START_MS + 200);
    fake_advance(ctx, 1000);
    cr_assert_eq(fake_sent_count(ctx), 0, "silent keys are not written again");
    fake_free(&ctx);
}

Test(limit, very_many_counted_keys_take_several_commits)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(10);
    int key;

    for (key = 0; key < 2500; key++)
        (void)ask(ctx, key, &in);
    fake_advance(ctx, 200);
    cr_assert_eq(fake_sent_count(ctx), 1);
    cr_assert(fake_commit(ctx));
    cr_assert_eq(records(ctx), 1000);
    fake_advance(ctx, 400);
    cr_assert_eq(fake_sent_count(ctx), 2);
    cr_assert_eq(fake_commit_all(ctx), 2);
    cr_assert_eq(records(ctx), 2500);
    cr_assert_eq(fake_timer(ctx, 2), -1);
    fake_free(&ctx);
}

Test(limit, large_counts_are_spread_over_commits)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(100000);
    int key, i;

    in.cost = 1000;
    for (key = 0; key < 3; key++)
        for (i = 0; i < 100; i++)
            (void)ask(ctx, key, &in);
    fake_advance(ctx, 200);
    cr_assert(fake_commit(ctx));
    cr_assert_eq(records(ctx), 2, "a mebibyte and what was begun before");
    fake_advance(ctx, 200);
    cr_assert(fake_commit(ctx));
    cr_assert_eq(record_of(ctx, 2)->times.size, 800000);
    restart(ctx);
    in.cost = 1;
    for (key = 0; key < 3; key++)
        cr_assert_eq(ask(ctx, key, &in)->type, &failed_type);
    fake_free(&ctx);
}

Test(limit, a_refused_key_is_written_at_once)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(2);
    int i;

    for (i = 0; i < 3; i++)
        (void)ask(ctx, 1, &in);
    cr_assert_eq(fake_sent_count(ctx), 1, "with the first refusal");
    cr_assert(fake_commit(ctx));
    cr_assert_eq(record_of(ctx, 1)->times.size, 2 * 8);
    for (i = 0; i < 100; i++)
        cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type);
    fake_advance(ctx, 1000);
    cr_assert_eq(fake_sent_count(ctx), 0, "the others change nothing");
    crash(ctx);
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type);
    fake_free(&ctx);
}

Test(limit, a_key_that_never_gives_up_is_not_written_all_the_time)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(1000);
    int i, refused = 0, written = 0;

    in.window = 1000;
    in.algorithm = limit_algorithm_TOKEN_BUCKET; /* one is let through each ms, and the next ones are not */
    for (i = 0; i < 1000; i++)
        (void)ask(ctx, 1, &in);
    for (i = 0; i < 2000; i++) {
        (void)ask(ctx, 1, &in);
        refused += ask(ctx, 1, &in)->type == &failed_type;
        fake_advance(ctx, 1);
        for (; fake_take_to(ctx, MUSTER_STORE) != NULL; written++)
            ;
    }
    cr_assert_eq(refused, 2000);
    cr_assert_leq(written, 22, "%d", written);
    cr_assert_geq(written, 10, "%d", written);
    fake_free(&ctx);
}

Test(limit, unlimited_keys_are_never_written)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = {0};

    (void)ask(ctx, 1, &in);
    fake_advance(ctx, 1000);
    restart(ctx);
    cr_assert_eq(records(ctx), 0);
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_free(&ctx);
}

Test(limit, a_store_that_takes_nothing_is_tried_again)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(1);

    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    cr_assert_eq(ask(ctx, 1, &in)->type, &limit_taken_type);
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type);
    fake_advance(ctx, 600);
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OK);
    fake_advance(ctx, 200);
    cr_assert(fake_commit(ctx));
    cr_assert_eq(records(ctx), 1);
    (void)ask(ctx, 2, &in);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_NOT_FOUND);
    restart(ctx); /* the end does not wait for it for ever */
    cr_assert_eq(records(ctx), 1);
    fake_free(&ctx);
}

Test(limit, records_of_silent_keys_are_removed)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(2);

    (void)ask(ctx, 1, &in);
    (void)ask(ctx, 2, &in);
    fake_advance(ctx, 200);
    (void)fake_commit_all(ctx);
    fake_advance(ctx, WINDOW / 2 - 200);
    (void)ask(ctx, 2, &in);
    fake_advance(ctx, WINDOW / 2 + 1000);
    (void)fake_commit_all(ctx);
    cr_assert_eq(records(ctx), 1);
    cr_assert_not_null(record_of(ctx, 2));
    fake_advance(ctx, 2 * WINDOW);
    (void)fake_commit_all(ctx);
    cr_assert_eq(records(ctx), 0);
    fake_free(&ctx);
}

Test(limit, a_key_that_comes_back_keeps_its_record)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(2);

    (void)ask(ctx, 1, &in);
    fake_advance(ctx, WINDOW); /* the sweep forgets it */
    cr_assert_eq(fake_timer(ctx, 2), 200);
    (void)ask(ctx, 1, &in);
    fake_advance(ctx, 200);
    (void)fake_commit_all(ctx);
    cr_assert_eq(record_of(ctx, 1)->times.size, 8);
    fake_advance(ctx, 2 * WINDOW);
    (void)fake_commit_all(ctx);
    cr_assert_eq(records(ctx), 0, "and loses it when it is silent again");
    fake_free(&ctx);
}

Test(limit, records_that_ran_out_are_removed_at_the_start)
{
    struct muster_ctx *ctx = start();
    struct limit_take log = take_of(2), bucket = take_of(2);

    bucket.algorithm = limit_algorithm_TOKEN_BUCKET;
    (void)ask(ctx, 1, &log);
    (void)ask(ctx, 2, &bucket);
    fake_stop(ctx);
    (void)fake_commit_all(ctx);
    cr_assert_eq(records(ctx), 2);
    fake_set_clock(ctx, FAKE_START_MS + WINDOW / 2);
    cr_assert_eq(fake_start(ctx, &muster_limit_class, MUSTER_LIMIT, NULL), MUSTER_OK);
    fake_advance(ctx, 200);
    (void)fake_commit_all(ctx);
    cr_assert_null(record_of(ctx, 2), "its bucket is full again");
    cr_assert_not_null(record_of(ctx, 1));
    fake_stop(ctx);
    fake_set_clock(ctx, FAKE_START_MS + WINDOW);
    cr_assert_eq(fake_start(ctx, &muster_limit_class, MUSTER_LIMIT, NULL), MUSTER_OK);
    fake_advance(ctx, 200);
    (void)fake_commit_all(ctx);
    cr_assert_eq(records(ctx), 0);
    cr_assert_eq(fake_next_timer(ctx), -1);
    fake_free(&ctx);
}

Test(limit, records_that_make_no_sense_do_no_harm)
{
    static const uint8_t future[16] = {0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t later[8] = {0x00, 0x00, 0x02}; /* in 2039 */
    struct rate rows[] = {
        {.algorithm = limit_algorithm_SLIDING_WINDOW, .times = {future, 16}},
        {.algorithm = limit_algorithm_SLIDING_WINDOW, .window = 1000, .times = {future, 13}},
        {.algorithm = limit_algorithm_SLIDING_WINDOW, .window = WINDOW, .times = {future, 7}},
        {.algorithm = limit_algorithm_TOKEN_BUCKET, .missing = INT64_MAX, .at_ms = INT64_MAX},
        {.algorithm = limit_algorithm_TOKEN_BUCKET, .requests = 2, .window = WINDOW, .missing = INT64_MAX},
        {.algorithm = limit_algorithm_SLIDING_WINDOW, .window = WINDOW, .times = {later, 8}},
    };
    struct muster_ctx *ctx = fake_new(NULL);
    struct limit_take in = take_of(2);
    int i;

    for (i = 0; i < 6; i++) {
        rows[i].id = key_of(i);
        fake_put(ctx, &rate_type, &rows[i]);
    }
    cr_assert_eq(fake_start(ctx, &muster_limit_class, MUSTER_LIMIT, NULL), MUSTER_OK);
    for (i = 0; i < 5; i++)
        (void)ask(ctx, i, &in);
    fake_set_clock(ctx, FAKE_START_MS + WINDOW);
    for (i = 0; i < 5; i++)
        cr_assert_eq(ask(ctx, i, &in)->type, &limit_taken_type, "%d waits longer than a window", i);
    cr_assert_not_null(record_of(ctx, 5));
    fake_advance(ctx, 2 * WINDOW);
    (void)fake_commit_all(ctx);
    cr_assert_eq(records(ctx), 0, "and nothing of it stays for ever");
    fake_free(&ctx);
}

/* ---- the actor against a plain model, with restarts ---- */

enum { MODEL_KEYS = 5, MODEL_TIMES = 4096 };

/* What a key may still do, by the definition of the two ways to count. */
struct plain {
    struct limit_take rate;
    int64_t times[MODEL_TIMES]; /* sliding window: of all that passed */
    int count;
    double tokens; /* token bucket: how many are there; small numbers of small parts, so that nothing is rounded */
    int64_t at_ms;
};

static int64_t
plain_used(const struct plain *plain, int64_t now_ms)
{
    int64_t used = 0;
    int i;

    for (i = 0; i < plain->count; i++)
        used += plain->times[i] > now_ms - plain->rate.window;
    return used;
}

static double
plain_tokens(const struct plain *plain, int64_t now_ms)
{
    double more = (double)(now_ms - plain->at_ms) * (double)plain->rate.requests / (double)plain->rate.window;
    double tokens = plain->tokens + more;

    return tokens > (double)plain->rate.requests ? (double)plain->rate.requests : tokens;
}

static bool
plain_allows(const struct plain *plain, int64_t cost, int64_t now_ms)
{
    if (plain->rate.algorithm == limit_algorithm_TOKEN_BUCKET)
        return plain_tokens(plain, now_ms) >= (double)cost;
    return plain_used(plain, now_ms) + cost <= plain->rate.requests;
}

static void
plain_take(struct plain *plain, int64_t cost, int64_t now_ms)
{
    plain->tokens = plain_tokens(plain, now_ms) - (double)cost;
    plain->at_ms = now_ms;
    for (; cost > 0; cost--)
        plain->times[plain->count++] = now_ms;
}

static int64_t
plain_left(const struct plain *plain, int64_t now_ms)
{
    int64_t left = 0;

    while (left < plain->rate.requests && plain_allows(plain, left + 1, now_ms))
        left++;
    return left;
}

/* When the bucket is full; or the oldest request leaves the window; or, when the last one was let through, that. */
static int64_t
plain_reset(const struct plain *plain, bool allowed, int64_t now_ms)
{
    int64_t at_ms = now_ms, used = plain_used(plain, now_ms);

    if (plain->rate.algorithm == limit_algorithm_TOKEN_BUCKET) {
        while (plain_tokens(plain, at_ms) < (double)plain->rate.requests)
            at_ms++;
        return at_ms;
    }
    if (allowed)
        return now_ms + plain->rate.window;
    while (plain_used(plain, at_ms) == used)
        at_ms++;
    return at_ms;
}

static int64_t
up(int64_t ms)
{
    return ms / 1000 + (ms % 1000 != 0);
}

static void
compare(struct plain *plain, const struct fake_sent *sent, int64_t cost, int64_t now_ms)
{
    const struct muster_principal *told = &sent->envelope.principal;
    bool allowed = plain_allows(plain, cost, now_ms);
    const struct failed *failed = sent->body;
    int64_t wait_ms = 0;

    cr_assert_eq(sent->type, allowed ? &limit_taken_type : &failed_type, "at %lld", (long long)now_ms);
    if (allowed)
        plain_take(plain, cost, now_ms);
    cr_assert_eq(told->rate_limit, plain->rate.requests);
    cr_assert_eq(told->rate_window_s, up(plain->rate.window));
    cr_assert_eq(told->rate_left, plain_left(plain, now_ms));
    cr_assert_eq(told->rate_reset_s, up(plain_reset(plain, allowed, now_ms)));
    if (allowed)
        return;
    while (!plain_allows(plain, cost, now_ms + wait_ms))
        wait_ms++;
    cr_assert_str_eq(failed->code, "RATE_LIMITED");
    cr_assert_eq(failed->retry_after_s, up(wait_ms));
}

/* Requests and windows whose quotients are exact in binary, so that the model may count in fractions. */
static void
run_plain(unsigned seed, enum limit_algorithm algorithm)
{
    static const int64_t requests[MODEL_KEYS] = {1, 2, 8, 5, 16}, windows[MODEL_KEYS] = {256, 2048, 4096, 1024, 65536};
    static const int64_t steps[] = {0, 0, 1, 7, 50, 400, 3000, 70000};
    struct plain *plain = calloc(MODEL_KEYS, sizeof *plain);
    struct muster_ctx *ctx = start();
    int64_t now_ms = FAKE_START_MS, step;
    int i, key, down = 0;

    for (key = 0; key < MODEL_KEYS; key++)
        plain[key] = (struct plain){.rate = {requests[key], windows[key], algorithm, 0, NULL, NULL, {NULL, 0}},
                                    .tokens = (double)requests[key],
                                    .at_ms = now_ms};
    for (i = 0; i < ROUNDS; i++) {
        step = below(&seed, 1 + steps[below(&seed, 8)]);
        if (below(&seed, 40) == 0) { /* down for that long */
            fake_stop(ctx);
            (void)fake_commit_all(ctx);
            fake_set_clock(ctx, now_ms + step);
            cr_assert_eq(fake_start(ctx, &muster_limit_class, MUSTER_LIMIT, NULL), MUSTER_OK);
            down++;
        } else {
            fake_advance(ctx, step);
        }
        now_ms += step;
        (void)fake_commit_all(ctx);
        key = (int)below(&seed, MODEL_KEYS);
        plain[key].rate.cost = 1 + (below(&seed, 4) == 0 ? below(&seed, requests[key]) : 0);
        compare(&plain[key], ask(ctx, key, &plain[key].rate), plain[key].rate.cost, now_ms);
    }
    cr_assert_gt(down, ROUNDS / 80);
    fake_free(&ctx);
    free(plain);
}

Test(limit, a_sliding_window_is_exact_over_restarts)
{
    run_plain(11, limit_algorithm_SLIDING_WINDOW);
    run_plain(12, limit_algorithm_SLIDING_WINDOW);
}

Test(limit, a_token_bucket_is_exact_over_restarts)
{
    run_plain(21, limit_algorithm_TOKEN_BUCKET);
    run_plain(22, limit_algorithm_TOKEN_BUCKET);
}

/* A crash may give away what was counted since the last write, never more; and nothing of a key that is spent. */
static void
run_crashes(unsigned seed, enum limit_algorithm algorithm)
{
    struct plain plain = {.rate = {8, 2048, algorithm, 1, NULL, NULL, {NULL, 0}}, .tokens = 8, .at_ms = FAKE_START_MS};
    struct muster_ctx *ctx = start();
    int64_t now_ms = FAKE_START_MS, step;
    int i, refusals = 0;

    for (i = 0; i < ROUNDS / 4; i++) {
        step = below(&seed, 600);
        fake_advance(ctx, step);
        now_ms += step;
        (void)fake_commit_all(ctx);
        while (plain_allows(&plain, 1, now_ms))
            compare(&plain, ask(ctx, 1, &plain.rate), 1, now_ms);
        compare(&plain, ask(ctx, 1, &plain.rate), 1, now_ms);
        if (!fake_commit(ctx)) { /* it was refused a moment ago: then the timer writes it */
            fake_advance(ctx, 200);
            now_ms += 200;
            (void)fake_commit_all(ctx);
        }
        crash(ctx);
        refusals += !plain_allows(&plain, 1, now_ms);
        compare(&plain, ask(ctx, 1, &plain.rate), 1, now_ms);
    }
    cr_assert_gt(refusals, ROUNDS / 16);
    fake_free(&ctx);
}

Test(limit, a_spent_key_stays_spent_over_a_crash)
{
    run_crashes(31, limit_algorithm_SLIDING_WINDOW);
    run_crashes(32, limit_algorithm_TOKEN_BUCKET);
}
