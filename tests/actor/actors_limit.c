/* SPDX-License-Identifier: MPL-2.0 */
/* The rate limit: both ways to count against naive models at random times, then the actor on a virtual clock. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "actors/limit_window.h"
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

/* Send a limit.take for key number `key` and return its answer, or what was handed on. */
static const struct fake_sent *
ask(struct muster_ctx *ctx, int key, const struct limit_take *in)
{
    struct muster_envelope envelope = {.id = 7, .reply_to = "caller/1", .trace = "req", .principal = {.name = "ci"}};

    memcpy(envelope.principal.key.bytes + 8, &key, sizeof key);
    cr_assert_eq(fake_deliver(ctx, &envelope, &limit_take_type, in), MUSTER_OK);
    cr_assert_eq(fake_sent_count(ctx), 1);
    return fake_take(ctx);
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
    cr_assert_eq(fake_next_timer(ctx), 60000, "key 1 is still known");
    (void)ask(ctx, 1, &in);
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type, "and what it used too");
    fake_advance(ctx, 120000);
    cr_assert_eq(fake_next_timer(ctx), -1, "nothing is known, nothing to sweep");
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

Test(limit, restart_begins_with_full_rates)
{
    struct muster_ctx *ctx = start();
    struct limit_take in = take_of(1);

    (void)ask(ctx, 1, &in);
    cr_assert_eq(ask(ctx, 1, &in)->type, &failed_type);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_eq(ask(ctx, 1, &in)->type, &limit_taken_type);
    fake_free(&ctx);
}
