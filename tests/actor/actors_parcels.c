/* SPDX-License-Identifier: MPL-2.0 */
/* The log of a worker: what is joined, what is on its way, what is written, what is left out. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_snapshots.h"
#include "fake/fake_ctx.h"

static struct muster_ctx *
begin(const char *yaml)
{
    struct muster_ctx *ctx = fake_new(yaml);

    cr_assert_eq(fake_start(ctx, &muster_parcels_class, MUSTER_LOG, NULL), MUSTER_OK);
    return ctx;
}

static void
append(struct muster_ctx *ctx, const char *text)
{
    struct job_chunk chunk = {.text = text};
    struct log_entry entry = {.at_ms = FAKE_START_MS, .type = "job.chunk", .team = "t", .attempt = 1, .trace = "r-1"};
    struct log_append body = {.entries = {&entry, 1}};
    struct muster_buf packed = {0};

    muster_pack(&job_chunk_type, &chunk, &packed);
    entry.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    cr_assert_eq(fake_call(ctx, "", 0, &log_append_type, &body), MUSTER_OK);
    muster_buf_free(&packed);
}

/* One parcel with that text alone. */
static void
make(struct muster_ctx *ctx, const char *text)
{
    append(ctx, text);
    fake_advance(ctx, 2);
}

static void
append_size(struct muster_ctx *ctx, size_t size)
{
    char *text = muster_alloc(size + 1);

    memset(text, 'x', size);
    append(ctx, text);
    free(text);
}

static struct held_attempt
attempt_of(int number)
{
    struct held_attempt attempt = {.attempt = number};

    attempt.job.bytes[15] = (uint8_t)number;
    return attempt;
}

static void
report(struct muster_ctx *ctx, int number, const char *result)
{
    struct held_attempt attempt = attempt_of(number);
    struct queue_report row = {
        .job = attempt.job, .attempt = attempt.attempt, .state = job_state_COMPLETED, .result = result};

    cr_assert_eq(fake_call(ctx, "", 0, &log_report_type, &(struct log_report){.report = &row}), MUSTER_OK);
}

static void
open_at(struct muster_ctx *ctx, int64_t received)
{
    cr_assert_eq(fake_call(ctx, "", 0, &parcels_open_type, &(struct parcels_open){.received = received}), MUSTER_OK);
}

static void
open_stale(struct muster_ctx *ctx, int number)
{
    struct held_attempt stale = attempt_of(number);
    struct parcels_open body = {.stale = {&stale, 1}};

    cr_assert_eq(fake_call(ctx, "", 0, &parcels_open_type, &body), MUSTER_OK);
}

static void
close_link(struct muster_ctx *ctx)
{
    cr_assert_eq(fake_call(ctx, "", 0, &parcels_close_type, &(struct parcels_close){.all = true}), MUSTER_OK);
}

static void
acked(struct muster_ctx *ctx, int64_t seq)
{
    cr_assert_eq(fake_call(ctx, "", 0, &parcels_acked_type, &(struct parcels_acked){.seq = seq}), MUSTER_OK);
}

/* The next parcel on its way; NULL: none. */
static const struct parcels_parcel *
next(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_to(ctx, MUSTER_QUEUE);

    return sent ? sent->body : NULL;
}

static size_t
sent(struct muster_ctx *ctx)
{
    size_t count = 0;

    while (next(ctx))
        count++;
    return count;
}

/* What the entries of a parcel say, one behind the other. */
static void
text_of(const struct parcels_parcel *parcel, char *out, size_t size)
{
    struct muster_arena *arena = muster_arena_new();
    struct log_append row;
    struct job_chunk chunk;
    size_t i;

    out[0] = '\0';
    cr_assert_eq(parcel->kind, parcel_kind_EVENTS);
    cr_assert_eq(muster_unpack(&log_append_type, parcel->data.data, parcel->data.size, arena, &row, NULL), MUSTER_OK);
    for (i = 0; i < row.entries.count; i++) {
        cr_assert_eq(muster_unpack(&job_chunk_type, row.entries.items[i].body.data, row.entries.items[i].body.size,
                                   arena, &chunk, NULL),
                     MUSTER_OK);
        cr_assert_str_eq(row.entries.items[i].trace, "r-1");
        snprintf(out + strlen(out), size - strlen(out), "%s", chunk.text);
    }
    muster_arena_free(&arena);
}

static void
expect(struct muster_ctx *ctx, int64_t seq, const char *text)
{
    const struct parcels_parcel *parcel = next(ctx);
    char said[256];

    cr_assert_not_null(parcel, "%s is not on its way", text);
    cr_assert_eq(parcel->seq, seq, "%s has number %lld", text, (long long)parcel->seq);
    text_of(parcel, said, sizeof said);
    cr_assert_str_eq(said, text);
}

static void
expect_report(struct muster_ctx *ctx, int64_t seq, int number)
{
    const struct parcels_parcel *parcel = next(ctx);

    cr_assert_not_null(parcel);
    cr_assert_eq(parcel->seq, seq);
    cr_assert_eq(parcel->kind, parcel_kind_REPORT);
    cr_assert_eq(parcel->attempt, number);
    cr_assert_eq(parcel->job.bytes[15], number);
}

static const struct muster_parcels_view *
view(struct muster_ctx *ctx)
{
    return fake_board(ctx, MUSTER_PARCELS_BOARD);
}

static size_t
on_disk(struct muster_ctx *ctx)
{
    size_t count;

    cr_assert_eq(muster_store_count(muster_ctx_store(ctx), &parcel_type, NULL, NULL, &count), MUSTER_OK);
    return count;
}

/* ---- joining ---- */

Test(parcels, what_is_said_at_the_same_time_is_one_parcel)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    append(ctx, "one ");
    append(ctx, "two");
    cr_assert_null(next(ctx), "it waits a moment for more");
    fake_advance(ctx, 2);
    expect(ctx, 1, "one two");
    make(ctx, "three");
    expect(ctx, 2, "three");
    fake_free(&ctx);
}

Test(parcels, much_is_sent_without_waiting)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    append_size(ctx, 70000);
    cr_assert_eq(sent(ctx), 1);
    fake_free(&ctx);
}

Test(parcels, a_report_stands_alone_behind_what_was_said_before)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    append(ctx, "one");
    report(ctx, 7, "done");
    append(ctx, "two");
    fake_advance(ctx, 2);
    expect(ctx, 1, "one");
    expect_report(ctx, 2, 7);
    expect(ctx, 3, "two");
    fake_free(&ctx);
}

/* ---- on its way ---- */

Test(parcels, at_most_a_window_is_on_its_way)
{
    struct muster_ctx *ctx = begin(NULL);
    int i;

    open_at(ctx, 0);
    for (i = 0; i < 40; i++)
        make(ctx, "x");
    cr_assert_eq(sent(ctx), 32);
    acked(ctx, 3);
    expect(ctx, 33, "x");
    cr_assert_eq(sent(ctx), 2);
    acked(ctx, 40);
    cr_assert_eq(view(ctx)->count, 5, "what was not sent cannot be acknowledged");
    cr_assert_eq(sent(ctx), 5);
    acked(ctx, 40);
    cr_assert_eq(view(ctx)->count, 0);
    fake_free(&ctx);
}

Test(parcels, large_parcels_fill_the_window_by_their_bytes)
{
    struct muster_ctx *ctx = begin(NULL);
    int i;

    open_at(ctx, 0);
    for (i = 0; i < 4; i++)
        append_size(ctx, 3 << 20);
    cr_assert_eq(sent(ctx), 1);
    acked(ctx, 1);
    cr_assert_eq(sent(ctx), 1);
    append_size(ctx, 6 << 20);
    acked(ctx, 4);
    acked(ctx, 4);
    acked(ctx, 4);
    cr_assert_eq(sent(ctx), 3, "also one that is larger than the window");
    fake_free(&ctx);
}

Test(parcels, nothing_is_sent_while_the_hub_cannot_be_reached_and_all_when_it_can)
{
    struct muster_ctx *ctx = begin(NULL);

    make(ctx, "one");
    open_at(ctx, 0);
    expect(ctx, 1, "one");
    close_link(ctx);
    make(ctx, "two");
    report(ctx, 1, "done");
    cr_assert_null(next(ctx));
    open_at(ctx, 0);
    expect(ctx, 1, "one");
    expect(ctx, 2, "two");
    expect_report(ctx, 3, 1);
    fake_free(&ctx);
}

Test(parcels, what_the_hub_has_is_not_sent_again_but_reports_are)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    make(ctx, "one");
    report(ctx, 1, "done");
    make(ctx, "two");
    make(ctx, "three");
    cr_assert_eq(sent(ctx), 4);
    close_link(ctx);
    open_at(ctx, 3);
    expect_report(ctx, 2, 1);
    expect(ctx, 4, "three");
    cr_assert_null(next(ctx));
    cr_assert_eq(view(ctx)->count, 2);
    acked(ctx, 4);
    cr_assert_eq(view(ctx)->count, 0);
    fake_free(&ctx);
}

Test(parcels, stale_attempts_are_not_reported)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    report(ctx, 1, "there already");
    report(ctx, 2, "wanted");
    close_link(ctx);
    fake_forget(ctx);
    open_stale(ctx, 1);
    expect_report(ctx, 2, 2);
    close_link(ctx);
    fake_forget(ctx);
    open_stale(ctx, 3);
    expect_report(ctx, 2, 2);
    report(ctx, 3, "comes later");
    report(ctx, 4, "wanted");
    expect_report(ctx, 3, 4);
    cr_assert_null(next(ctx));
    fake_free(&ctx);
}

Test(parcels, refused_ones_are_sent_again_in_order_after_a_pause)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    make(ctx, "one");
    make(ctx, "two");
    cr_assert_eq(sent(ctx), 2);
    fake_call(ctx, "", 0, &parcels_again_type, &(struct parcels_again){.all = true});
    fake_advance(ctx, 500);
    fake_call(ctx, "", 0, &parcels_again_type, &(struct parcels_again){.all = true});
    make(ctx, "three");
    fake_advance(ctx, 400);
    cr_assert_null(next(ctx));
    fake_advance(ctx, 200);
    expect(ctx, 1, "one");
    expect(ctx, 2, "two");
    expect(ctx, 3, "three");
    fake_free(&ctx);
}

Test(parcels, a_full_link_is_tried_again)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_OVERLOADED);
    make(ctx, "one");
    make(ctx, "two");
    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_OK);
    fake_advance(ctx, 10);
    expect(ctx, 1, "one");
    expect(ctx, 2, "two");
    cr_assert_null(next(ctx));
    fake_free(&ctx);
}

/* ---- numbers ---- */

Test(parcels, numbers_go_on_behind_what_the_hub_has)
{
    struct muster_ctx *ctx = begin(NULL);

    make(ctx, "said before it was known");
    fake_advance(ctx, 5000);
    cr_assert_eq(fake_commit_all(ctx), 0, "what has no number cannot be written");
    open_at(ctx, 41);
    expect(ctx, 42, "said before it was known");
    make(ctx, "two");
    expect(ctx, 43, "two");
    fake_free(&ctx);
}

Test(parcels, numbers_go_on_behind_what_a_former_life_wrote)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    make(ctx, "one");
    report(ctx, 1, "done");
    fake_forget(ctx);
    fake_advance(ctx, 20);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    make(ctx, "three");
    open_at(ctx, 0);
    expect(ctx, 1, "one");
    expect_report(ctx, 2, 1);
    expect(ctx, 3, "three");
    fake_free(&ctx);
}

/* ---- on disk ---- */

Test(parcels, what_is_acknowledged_in_time_is_never_written)
{
    struct muster_ctx *ctx = begin(NULL);
    int i;

    open_at(ctx, 0);
    for (i = 1; i <= 20; i++) {
        make(ctx, "x");
        fake_advance(ctx, 3);
        acked(ctx, i);
    }
    fake_advance(ctx, 5000);
    cr_assert_null(fake_take_to(ctx, MUSTER_STORE));
    fake_free(&ctx);
}

Test(parcels, what_waits_is_written_together_and_removed_after_its_ack)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    append(ctx, "one");
    report(ctx, 1, "done");
    report(ctx, 2, "done");
    fake_advance(ctx, 9);
    cr_assert_eq(fake_commit_all(ctx), 0);
    fake_advance(ctx, 1);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(on_disk(ctx), 3);
    acked(ctx, 2);
    fake_advance(ctx, 900);
    cr_assert_eq(fake_commit_all(ctx), 0, "removing is not urgent");
    fake_advance(ctx, 100);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(on_disk(ctx), 1);
    acked(ctx, 3);
    make(ctx, "four");
    fake_advance(ctx, 10);
    cr_assert_eq(fake_commit_all(ctx), 1, "removed with the next one that is written");
    cr_assert_eq(on_disk(ctx), 1);
    fake_free(&ctx);
}

Test(parcels, what_is_acknowledged_while_it_is_written_is_removed_too)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    make(ctx, "one");
    fake_advance(ctx, 10);
    acked(ctx, 1);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(on_disk(ctx), 1);
    fake_advance(ctx, 1500);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(on_disk(ctx), 0);
    fake_free(&ctx);
}

Test(parcels, what_was_written_is_read_back_for_sending)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    close_link(ctx);
    make(ctx, "one");
    make(ctx, "two");
    fake_advance(ctx, 10);
    cr_assert_eq(fake_commit_all(ctx), 1);
    open_at(ctx, 0);
    expect(ctx, 1, "one");
    expect(ctx, 2, "two");
    fake_free(&ctx);
}

Test(parcels, an_orderly_end_writes_what_is_left)
{
    struct muster_ctx *ctx = begin(NULL);

    open_at(ctx, 0);
    make(ctx, "one");
    report(ctx, 1, "done");
    append(ctx, "two");
    fake_stop(ctx);
    fake_commit_all(ctx);
    cr_assert_eq(on_disk(ctx), 3);
    fake_forget(ctx);
    cr_assert_eq(fake_start(ctx, &muster_parcels_class, MUSTER_LOG, NULL), MUSTER_OK);
    open_at(ctx, 0);
    expect(ctx, 1, "one");
    expect_report(ctx, 2, 1);
    expect(ctx, 3, "two");
    fake_free(&ctx);
}

Test(parcels, leftovers_are_told_to_the_link)
{
    struct muster_ctx *ctx = begin(NULL);
    const struct parcels_kept *kept;

    open_at(ctx, 0);
    make(ctx, "one");
    report(ctx, 5, "done");
    report(ctx, 6, "done");
    fake_stop(ctx);
    fake_commit_all(ctx);
    fake_forget(ctx);
    cr_assert_eq(fake_start(ctx, &muster_parcels_class, MUSTER_LOG, NULL), MUSTER_OK);
    cr_assert_eq(fake_call(ctx, "queue", 9, &parcels_read_type, &(struct parcels_read){.all = true}), MUSTER_OK);
    kept = fake_take_type(ctx, &parcels_kept_type)->body;
    cr_assert_eq(kept->parcels, 3);
    cr_assert_eq(kept->reports.count, 2);
    cr_assert_eq(kept->reports.items[0].attempt, 5);
    cr_assert_eq(kept->reports.items[1].attempt, 6);
    open_stale(ctx, 5);
    expect(ctx, 1, "one");
    expect_report(ctx, 3, 6);
    fake_advance(ctx, 1500);
    fake_commit_all(ctx);
    cr_assert_eq(on_disk(ctx), 2, "what is stale leaves the disk");
    fake_free(&ctx);
}

Test(parcels, a_disk_that_fails_keeps_them_in_memory_and_is_tried_again)
{
    struct muster_ctx *ctx = begin(NULL);
    int i;

    open_at(ctx, 0);
    close_link(ctx);
    make(ctx, "one");
    for (i = 0; i < 3; i++) {
        fake_advance(ctx, 1100);
        cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
        make(ctx, "more");
    }
    cr_assert_eq(fake_said(ctx, "parcels-unwritten"), 1);
    open_at(ctx, 0);
    expect(ctx, 1, "one");
    cr_assert_eq(sent(ctx), 3);
    fake_advance(ctx, 1100);
    fake_commit_all(ctx);
    cr_assert_eq(on_disk(ctx), 4);
    fake_free(&ctx);
}

Test(parcels, what_cannot_be_read_back_is_reported_as_failed)
{
    struct muster_ctx *ctx = begin(NULL);
    struct muster_arena *arena = muster_arena_new();
    struct muster_batch *batch = muster_batch_new(muster_ctx_store(ctx));
    const struct parcels_parcel *parcel;
    struct queue_report row;
    struct muster_id id = {{0}};

    open_at(ctx, 0);
    close_link(ctx);
    make(ctx, "one");
    report(ctx, 1, "done");
    make(ctx, "three");
    fake_advance(ctx, 10);
    fake_commit_all(ctx);
    for (id.bytes[15] = 1; id.bytes[15] <= 2; id.bytes[15]++)
        cr_assert_eq(muster_batch_remove(batch, &parcel_type, &id), MUSTER_OK);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_batch_free(&batch);
    open_at(ctx, 0);
    parcel = next(ctx);
    cr_assert_eq(parcel->seq, 2);
    cr_assert_eq(muster_unpack(&queue_report_type, parcel->data.data, parcel->data.size, arena, &row, NULL), MUSTER_OK);
    cr_assert_eq(row.state, job_state_FAILED);
    cr_assert_str_eq(row.code, "STORAGE_ERROR");
    expect(ctx, 3, "three");
    cr_assert_eq(fake_said(ctx, "parcel-unreadable"), 2);
    fake_advance(ctx, 1100);
    fake_commit_all(ctx);
    cr_assert_eq(on_disk(ctx), 2, "what is told instead is written");
    acked(ctx, 3);
    cr_assert_eq(view(ctx)->count, 0);
    cr_assert_eq(view(ctx)->bytes, 0);
    muster_arena_free(&arena);
    fake_free(&ctx);
}

Test(parcels, beyond_max_outbox_events_are_left_out_and_reports_kept)
{
    struct muster_ctx *ctx = begin("{worker: {max_outbox: 64KiB}}");
    int i;

    open_at(ctx, 0);
    close_link(ctx);
    append_size(ctx, 60000);
    for (i = 1; i <= 3; i++) {
        append_size(ctx, 20000);
        report(ctx, i, "done");
    }
    cr_assert_eq(view(ctx)->left_out, 3);
    cr_assert_eq(fake_said(ctx, "parcels-full"), 1);
    open_at(ctx, 0);
    cr_assert_eq(next(ctx)->seq, 1);
    for (i = 1; i <= 3; i++)
        expect_report(ctx, i + 1, i);
    acked(ctx, 4);
    make(ctx, "room again");
    expect(ctx, 5, "room again");
    fake_free(&ctx);
}

/* ---- anything ---- */

/* A hub and what is between it and the actor. */
struct hub {
    struct muster_ctx *ctx;
    bool open;
    int64_t received, handled, events; /* as nodes counts; handled: since it was opened */
    bool reported[201];
};

static void
hub_close(struct hub *hub)
{
    close_link(hub->ctx);
    while (next(hub->ctx)) /* on their way: lost */
        ;
    hub->open = false;
}

static void
hub_open(struct hub *hub)
{
    open_at(hub->ctx, hub->received);
    hub->handled = 0;
    hub->open = true;
}

/* Take up to `count`. */
static void
hub_take(struct hub *hub, int count)
{
    const struct parcels_parcel *parcel;

    for (; count > 0 && (parcel = next(hub->ctx)); count--) {
        cr_assert_gt(parcel->seq, hub->handled, "in order");
        hub->handled = parcel->seq;
        if (parcel->kind == parcel_kind_REPORT) {
            hub->reported[parcel->attempt] = true;
        } else if (parcel->seq > hub->received) {
            hub->events++;
            hub->received = parcel->seq;
        }
    }
}

static void
restart(struct hub *hub)
{
    fake_stop(hub->ctx);
    fake_commit_all(hub->ctx);
    fake_forget(hub->ctx);
    cr_assert_eq(fake_start(hub->ctx, &muster_parcels_class, MUSTER_LOG, NULL), MUSTER_OK);
    hub_open(hub);
}

Test(parcels, whatever_breaks_all_arrives_once_and_in_order)
{
    static struct hub hub;
    int64_t said = 0;
    int reports = 0, step, i;

    hub.ctx = begin(NULL);
    hub_open(&hub);
    srand(7);
    for (step = 0; step < 6000; step++) {
        switch (rand() % 8) {
        case 0:
        case 1:
            make(hub.ctx, "x");
            said++;
            break;
        case 2:
            if (reports < 200)
                report(hub.ctx, ++reports, "done");
            break;
        case 3:
            if (hub.open)
                hub_close(&hub);
            else
                hub_open(&hub);
            break;
        case 4:
            (void)(rand() % 2 ? fake_commit(hub.ctx) : fake_commit_fails(hub.ctx, MUSTER_STORAGE_FULL));
            break;
        case 5:
            fake_advance(hub.ctx, rand() % 1200);
            break;
        case 6:
            if (rand() % 20 == 0)
                restart(&hub);
            break;
        default:
            hub_take(&hub, rand() % 8);
            if (hub.open && rand() % 2)
                acked(hub.ctx, hub.handled);
        }
    }
    restart(&hub);
    while (view(hub.ctx)->count > 0) {
        hub_take(&hub, 100);
        acked(hub.ctx, hub.handled);
    }
    cr_assert_eq(hub.events, said);
    for (i = 1; i <= reports; i++)
        cr_assert(hub.reported[i], "report %d", i);
    for (i = 0; i < 5; i++) {
        fake_advance(hub.ctx, 3000);
        fake_commit_all(hub.ctx);
    }
    cr_assert_eq(on_disk(hub.ctx), 0);
    fake_free(&hub.ctx);
}
