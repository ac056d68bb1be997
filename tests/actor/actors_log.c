/* SPDX-License-Identifier: MPL-2.0 */
/* The log: numbers, order of publishing, flushing, and the report behind the events. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "fake/fake_ctx.h"

static struct muster_ctx *
log_new(void)
{
    struct muster_ctx *ctx = fake_new(NULL);

    cr_assert_eq(fake_start(ctx, &muster_log_class, MUSTER_LOG, NULL), MUSTER_OK);
    return ctx;
}

static void
append(struct muster_ctx *ctx, const struct muster_id *job, const char *text)
{
    struct job_chunk chunk = {.text = text};
    struct log_entry entry = {.at_ms = FAKE_START_MS, .type = "job.chunk", .team = "t", .job = *job, .attempt = 1};
    struct log_append body = {.entries = {&entry, 1}};
    struct muster_buf packed = {0};

    muster_pack(&job_chunk_type, &chunk, &packed);
    entry.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    cr_assert_eq(fake_call(ctx, "", 0, &log_append_type, &body), MUSTER_OK);
    muster_buf_free(&packed);
}

static bool
remember(void *arg, const struct event *event)
{
    int64_t *seqs = arg;

    seqs[++seqs[0]] = event->seq;
    return true;
}

Test(log, live_events_are_published_at_once_and_written_within_milliseconds)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t seqs[10] = {0};

    append(ctx, &job, "one");
    append(ctx, &job, "two");
    cr_assert_eq(fake_event_count(ctx), 2);
    cr_assert_lt(fake_event_at(ctx, 0)->seq, fake_event_at(ctx, 1)->seq);
    cr_assert_eq(fake_sent_count(ctx), 0, "written together, not one by one");
    cr_assert_leq(fake_next_timer(ctx), 10);
    fake_advance(ctx, 10);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(muster_log_walk(muster_ctx_store(ctx), &job, 0, remember, seqs), MUSTER_OK);
    cr_assert_eq(seqs[0], 2);
    cr_assert_eq(seqs[1], fake_event_at(ctx, 0)->seq);
    fake_free(&ctx);
}

Test(log, a_report_goes_on_behind_the_events)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    struct queue_report report = {.job = job, .attempt = 1, .state = job_state_COMPLETED};
    struct log_report body = {.report = &report};

    append(ctx, &job, "one");
    fake_call(ctx, "", 0, &log_report_type, &body);
    cr_assert_eq(fake_take(ctx)->type, &store_commit_type, "first what was said is written");
    cr_assert_eq(fake_take(ctx)->type, &queue_report_type);
    fake_free(&ctx);
}

Test(log, a_full_queue_delays_the_report_but_never_loses_it)
{
    struct muster_ctx *ctx = log_new();
    struct queue_report report = {.attempt = 1, .state = job_state_COMPLETED};
    struct log_report body = {.report = &report};
    int i;

    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_OVERLOADED);
    for (i = 0; i < 3; i++) {
        report.attempt = i + 1;
        report.job = muster_id_new(FAKE_START_MS);
        fake_call(ctx, "", 0, &log_report_type, &body);
    }
    fake_advance(ctx, 1000);
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_OK);
    fake_advance(ctx, 10);
    for (i = 0; i < 3; i++)
        cr_assert_eq(((const struct queue_report *)fake_take(ctx)->body)->attempt, i + 1, "in order");
    fake_free(&ctx);
}

Test(log, flush_is_answered_when_everything_is_on_disk)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    struct log_flush body = {.all = true};

    append(ctx, &job, "one");
    fake_call(ctx, "caller/1", 3, &log_flush_type, &body);
    cr_assert_null(fake_take_to(ctx, "caller/1"));
    fake_commit_all(ctx);
    cr_assert_eq(((const struct store_committed *)fake_take_to(ctx, "caller/1")->body)->seq,
                 fake_event_at(ctx, 0)->seq);
    fake_free(&ctx);
}

Test(log, many_bytes_are_written_without_waiting)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    char *text = muster_alloc(300001);

    memset(text, 'x', 300000);
    append(ctx, &job, text);
    cr_assert_eq(fake_sent_count(ctx), 1);
    free(text);
    fake_free(&ctx);
}
