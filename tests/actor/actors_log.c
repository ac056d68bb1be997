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
    const struct fake_sent *sent;

    append(ctx, &job, "one");
    fake_call(ctx, "", 0, &log_report_type, &body);
    sent = fake_take(ctx);
    cr_assert_eq(sent->type, &store_commit_type, "first what was said is written");
    cr_assert(((const struct store_commit *)sent->body)->lazy, "together with the end of the job");
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

/* ---- records ---- */

static struct node
node_of(const char *name, int64_t received)
{
    return (struct node){.id = muster_id_of("node", name), .name = name, .epoch = "e1", .received = received};
}

/* Events, none if `text` is NULL, and a record. */
static void
append_put(struct muster_ctx *ctx, const char *text, const struct node *record)
{
    struct job_chunk chunk = {.text = text};
    struct log_entry entry = {.at_ms = FAKE_START_MS, .type = "job.chunk", .team = "t", .attempt = 1};
    struct muster_buf packed = {0}, value = {0};
    struct store_put put = {.record = "node"};
    struct log_append body = {.entries = {&entry, text ? 1 : 0}, .put = &put};

    entry.job = muster_id_new(FAKE_START_MS);
    muster_pack(&job_chunk_type, &chunk, &packed);
    muster_pack(&node_type, record, &value);
    entry.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    put.value = (struct muster_bytes){(const uint8_t *)value.data, value.size};
    cr_assert_eq(fake_call(ctx, "", 0, &log_append_type, &body), MUSTER_OK);
    muster_buf_free(&packed);
    muster_buf_free(&value);
}

static int64_t
received(struct muster_ctx *ctx, const char *name)
{
    struct muster_id id = muster_id_of("node", name);
    const struct node *record = fake_get(ctx, &node_type, &id);

    return record ? record->received : -1;
}

Test(log, a_record_is_written_in_one_commit_with_the_events_before_it)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    struct node record = node_of("w1", 7);
    const struct store_commit *commit;

    append(ctx, &job, "before");
    append_put(ctx, "with", &record);
    append(ctx, &job, "after");
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_advance(ctx, 10);
    cr_assert_eq(fake_sent_count(ctx), 1);
    commit = fake_take(ctx)->body;
    cr_assert_eq(commit->events.count, 3);
    cr_assert_eq(commit->puts.count, 1);
    cr_assert_str_eq(commit->puts.items[0].record, "node");
    fake_free(&ctx);
}

Test(log, a_record_alone_is_written_as_soon_as_events_are)
{
    struct muster_ctx *ctx = log_new();
    struct node record = node_of("w1", 7);

    append_put(ctx, NULL, &record);
    cr_assert_eq(fake_event_count(ctx), 0);
    fake_advance(ctx, 10);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(received(ctx, "w1"), 7);
    fake_advance(ctx, 1000);
    cr_assert_eq(fake_sent_count(ctx), 0, "once");
    append_put(ctx, NULL, &record);
    fake_advance(ctx, 10);
    cr_assert_eq(fake_commit_all(ctx), 1, "also the next one");
    fake_free(&ctx);
}

Test(log, of_records_with_one_id_the_last_is_written)
{
    struct muster_ctx *ctx = log_new();
    struct node one = node_of("w1", 1), two = node_of("w1", 2), other = node_of("w2", 5);
    const struct store_commit *commit;

    append_put(ctx, "a", &one);
    append_put(ctx, "b", &other);
    append_put(ctx, "c", &two);
    fake_advance(ctx, 10);
    commit = fake_take_type(ctx, &store_commit_type)->body;
    cr_assert_eq(commit->puts.count, 2);
    cr_assert_eq(commit->events.count, 3);
    append_put(ctx, "a", &one);
    append_put(ctx, "b", &other);
    append_put(ctx, "c", &two);
    fake_advance(ctx, 10);
    fake_commit_all(ctx);
    cr_assert_eq(received(ctx, "w1"), 2);
    cr_assert_eq(received(ctx, "w2"), 5);
    fake_free(&ctx);
}

Test(log, a_record_is_removed_in_its_turn)
{
    struct muster_ctx *ctx = log_new();
    struct node record = node_of("w1", 1);
    struct store_put put = {.record = "node", .value = {record.id.bytes, sizeof record.id.bytes}, .remove = true};
    struct log_append body = {.put = &put};

    append_put(ctx, "a", &record);
    cr_assert_eq(fake_call(ctx, "", 0, &log_append_type, &body), MUSTER_OK);
    fake_advance(ctx, 10);
    fake_commit_all(ctx);
    cr_assert_eq(received(ctx, "w1"), -1);
    cr_assert_eq(fake_call(ctx, "", 0, &log_append_type, &body), MUSTER_OK);
    append_put(ctx, "a", &record);
    fake_advance(ctx, 10);
    fake_commit_all(ctx);
    cr_assert_eq(received(ctx, "w1"), 1);
    fake_free(&ctx);
}

Test(log, records_never_overtake_events_when_the_store_is_full)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    struct node record = node_of("w1", 1);
    const struct store_commit *commit;

    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    append(ctx, &job, "first");
    fake_advance(ctx, 10);
    append_put(ctx, NULL, &record);
    fake_advance(ctx, 10);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OK);
    fake_advance(ctx, 10);
    commit = fake_take(ctx)->body;
    cr_assert_eq(commit->events.count, 1);
    cr_assert_eq(commit->puts.count, 0);
    commit = fake_take(ctx)->body;
    cr_assert_eq(commit->puts.count, 1);
    fake_free(&ctx);
}

Test(log, records_count_like_events_when_there_is_much_to_write)
{
    struct muster_ctx *ctx = log_new();
    char *host = muster_alloc(256);
    struct node record = node_of("w1", 1);
    int i;

    memset(host, 'h', 255);
    record.host = host;
    for (i = 0; i < 2000 && fake_sent_count(ctx) == 0; i++)
        append_put(ctx, NULL, &record);
    cr_assert_eq(fake_sent_count(ctx), 1, "records that were replaced take memory too");
    free(host);
    fake_free(&ctx);
}

Test(log, flush_and_report_take_records_along)
{
    struct muster_ctx *ctx = log_new();
    struct node record = node_of("w1", 3);
    struct queue_report report = {.attempt = 1, .state = job_state_COMPLETED};
    struct log_report body = {.report = &report};
    struct log_flush all = {.all = true};

    report.job = muster_id_new(FAKE_START_MS);
    append_put(ctx, NULL, &record);
    fake_call(ctx, "", 0, &log_report_type, &body);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(received(ctx, "w1"), 3);
    record.received = 4;
    append_put(ctx, NULL, &record);
    fake_call(ctx, "caller/1", 3, &log_flush_type, &all);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(received(ctx, "w1"), 4);
    fake_free(&ctx);
}

Test(log, what_is_no_record_is_refused_with_its_events)
{
    struct muster_ctx *ctx = log_new();
    struct store_put put = {.record = "node", .value = {(const uint8_t *)"nonsense", 8}};
    struct log_entry entry = {.at_ms = FAKE_START_MS, .type = "job.chunk", .team = "t"};
    struct log_append body = {.entries = {&entry, 1}, .put = &put};

    cr_assert_eq(fake_call(ctx, "", 0, &log_append_type, &body), MUSTER_INVALID_REQUEST);
    put.remove = true;
    cr_assert_eq(fake_call(ctx, "", 0, &log_append_type, &body), MUSTER_INVALID_REQUEST);
    fake_advance(ctx, 100);
    cr_assert_eq(fake_event_count(ctx), 0);
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_free(&ctx);
}

/* ---- what is settled ---- */

/* A durable event that the store has numbered and not yet on disk. */
static int64_t
number(struct muster_ctx *ctx)
{
    return muster_log_number(muster_ctx_store(ctx));
}

/* The store says that these are on disk, or will never be. */
static void
publish(struct muster_ctx *ctx, const int64_t *seqs, size_t count, bool lost)
{
    struct event events[8] = {{.seq = 0}};
    struct log_number numbers[8];
    struct log_publish body = {.events = {NULL, 0}};
    size_t i;

    for (i = 0; i < count; i++) {
        numbers[i].seq = seqs[i];
        events[i] = (struct event){.seq = seqs[i], .type = "job.queued", .team = "t"};
    }
    if (lost)
        body = (struct log_publish){.lost = {numbers, count}};
    else
        body = (struct log_publish){.events = {events, count}};
    cr_assert_eq(fake_call(ctx, "", 0, &log_publish_type, &body), MUSTER_OK);
}

static int64_t
last_seq(struct muster_ctx *ctx)
{
    return fake_event_at(ctx, fake_event_count(ctx) - 1)->seq;
}

Test(log, all_is_settled_while_nothing_is_on_its_way)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t durable;

    append(ctx, &job, "one");
    cr_assert_eq(fake_settled(ctx), last_seq(ctx));
    append(ctx, &job, "two");
    cr_assert_eq(fake_settled(ctx), last_seq(ctx));
    durable = number(ctx);
    publish(ctx, &durable, 1, false);
    cr_assert_eq(fake_settled(ctx), durable);
    fake_free(&ctx);
}

Test(log, live_events_overtake_durable_ones_and_settle_behind_them)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t first = number(ctx), third, fourth;

    append(ctx, &job, "two");
    cr_assert_eq(last_seq(ctx), first + 1, "published at once");
    cr_assert_eq(fake_settled(ctx), first - 1);
    third = number(ctx);
    fourth = number(ctx);
    append(ctx, &job, "five");
    cr_assert_eq(fake_settled(ctx), first - 1);
    publish(ctx, &third, 1, false);
    cr_assert_eq(fake_settled(ctx), first - 1, "the first is still missing");
    publish(ctx, &first, 1, false);
    cr_assert_eq(fake_settled(ctx), third);
    publish(ctx, &fourth, 1, false);
    cr_assert_eq(fake_settled(ctx), fourth + 1, "and what came live behind it");
    fake_free(&ctx);
}

Test(log, a_batch_settles_event_by_event)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t seqs[3] = {number(ctx), number(ctx), number(ctx)};

    publish(ctx, seqs, 3, false);
    cr_assert_eq(fake_settled(ctx), seqs[2]);
    cr_assert_eq(fake_event_count(ctx), 3);
    append(ctx, &job, "next");
    cr_assert_eq(fake_settled(ctx), seqs[2] + 1);
    fake_free(&ctx);
}

Test(log, numbers_that_were_lost_hold_nothing_up)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t seqs[2] = {number(ctx), number(ctx)};

    append(ctx, &job, "three");
    cr_assert_eq(fake_settled(ctx), seqs[0] - 1);
    publish(ctx, &seqs[1], 1, true);
    cr_assert_eq(fake_settled(ctx), seqs[0] - 1);
    publish(ctx, &seqs[0], 1, true);
    cr_assert_eq(fake_settled(ctx), seqs[1] + 1);
    cr_assert_eq(fake_event_count(ctx), 1, "nothing but the number was published");
    seqs[0] = number(ctx); /* the highest there is: nothing was seen above it */
    publish(ctx, seqs, 1, true);
    cr_assert_eq(fake_settled(ctx), seqs[0]);
    fake_free(&ctx);
}

Test(log, flush_says_what_was_settled_when_it_was_asked)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    struct log_flush body = {.all = true};
    int64_t durable = number(ctx);

    append(ctx, &job, "overtakes");
    fake_call(ctx, "caller/1", 1, &log_flush_type, &body);
    publish(ctx, &durable, 1, false);
    fake_commit_all(ctx);
    cr_assert_eq(((const struct store_committed *)fake_take_to(ctx, "caller/1")->body)->seq, durable - 1);
    fake_call(ctx, "caller/1", 2, &log_flush_type, &body);
    fake_commit_all(ctx);
    cr_assert_eq(((const struct store_committed *)fake_take_to(ctx, "caller/1")->body)->seq, durable + 1);
    fake_free(&ctx);
}

Test(log, what_was_numbered_before_a_restart_is_settled)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t before = number(ctx);

    append(ctx, &job, "overtakes");
    cr_assert_eq(fake_settled(ctx), before - 1);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    append(ctx, &job, "after");
    cr_assert_eq(fake_settled(ctx), last_seq(ctx));
    fake_free(&ctx);
}

/* Numbers in random order, as live and durable ones meet: what is settled is always all below the lowest open one. */
Test(log, settled_is_right_whatever_the_order)
{
    enum { COUNT = 400 };
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t open[COUNT], highest = 0, lowest;
    unsigned random = 7, i, k, count = 0;

    for (i = 0; i < COUNT; i++) {
        random = random * 1103515245 + 12345;
        if ((random >> 16 & 3) == 0) {
            append(ctx, &job, "live");
            highest = last_seq(ctx);
        } else if ((random >> 16 & 3) == 1 || count == 0) {
            open[count++] = number(ctx);
            continue; /* nothing was published */
        } else {
            k = (random >> 18) % count;
            publish(ctx, &open[k], 1, (random >> 24 & 1) != 0);
            highest = open[k] > highest ? open[k] : highest;
            open[k] = open[--count];
        }
        lowest = highest + 1;
        for (k = 0; k < count; k++)
            lowest = open[k] < lowest ? open[k] : lowest;
        cr_assert_eq(fake_settled(ctx), lowest - 1);
    }
    fake_free(&ctx);
}

/* ---- events gathered ---- */

Test(log, who_wants_events_gathered_gets_those_of_a_flush_at_once)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    struct queue_report report = {.job = job, .attempt = 1, .state = job_state_COMPLETED};
    struct log_report body = {.report = &report};

    append(ctx, &job, "one");
    append(ctx, &job, "two");
    cr_assert_eq(fake_event_count(ctx), 2);
    cr_assert_eq(fake_gathered_count(ctx), 0);
    fake_advance(ctx, 10);
    cr_assert_eq(fake_gathered_count(ctx), 2);
    append(ctx, &job, "three");
    fake_call(ctx, "", 0, &log_report_type, &body);
    cr_assert_eq(fake_gathered_count(ctx), 3, "before the end of the job is told");
    fake_advance(ctx, 10);
    cr_assert_eq(fake_gathered_count(ctx), 3, "none of them twice");
    fake_free(&ctx);
}

Test(log, many_events_at_a_time_are_gathered_already)
{
    struct muster_ctx *ctx = log_new();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    struct log_entry entries[40];
    struct log_append many = {.entries = {entries, 40}};
    size_t i;

    for (i = 0; i < 40; i++)
        entries[i] = (struct log_entry){.at_ms = 1,
                                        .type = "job.notice",
                                        .team = "t",
                                        .job = job,
                                        .attempt = 1,
                                        .body = {(const uint8_t *)"\x80", 1}};
    append(ctx, &job, "before");
    cr_assert_eq(fake_call(ctx, "", 0, &log_append_type, &many), MUSTER_OK);
    cr_assert_eq(fake_gathered_count(ctx), 41, "what came before them goes first");
    append(ctx, &job, "behind");
    fake_advance(ctx, 10);
    cr_assert_eq(fake_gathered_count(ctx), 42, "none of them twice");
    cr_assert_eq(fake_event_count(ctx), 42);
    fake_free(&ctx);
}
