/* SPDX-License-Identifier: MPL-2.0 */
/* nodes: workers that come, are silent, are lost and come back; what they send reaches the log once, whatever breaks.
 *
 * The test plays the bus, the log with its disk, and the queue. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_snapshots.h"
#include "fake/fake_ctx.h"

#define LEASE_MS 30000
#define YAML                                                                                                           \
    "teams: {remote: {driver: remote}, gpu: {driver: remote, labels: {card: h100}}, local: {driver: echo}}\n"          \
    "workers: {max_workers: 3}\n"

static const struct muster_id key_one = {{1}}, key_two = {{2}};

/* ---- the log and its disk ---- */

static const struct log_append *handed[512]; /* not written yet */
static size_t handed_count;
static char written[8192]; /* texts of the chunks that are on disk */
static size_t reports;     /* that went to the queue */
static struct queue_report last_report;
static size_t changes; /* node.changed events */
static char last_change[64];

static void
write_put(struct muster_ctx *ctx, const struct store_put *put)
{
    struct muster_batch *batch = muster_batch_new(muster_ctx_store(ctx));
    struct muster_id id;

    cr_assert_str_eq(put->record, "node");
    if (put->remove) {
        memcpy(id.bytes, put->value.data, sizeof id.bytes);
        cr_assert_eq(muster_batch_remove(batch, &node_type, &id), MUSTER_OK);
    } else {
        cr_assert_eq(muster_batch_put(batch, &node_type, put->value.data, put->value.size), MUSTER_OK);
    }
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_batch_free(&batch);
}

static void
write_entry(const struct log_entry *entry)
{
    struct muster_arena *arena = muster_arena_new();
    struct job_chunk chunk;
    struct node_changed changed;

    if (strcmp(entry->type, "job.chunk") == 0) {
        cr_assert_eq(muster_unpack(&job_chunk_type, entry->body.data, entry->body.size, arena, &chunk, NULL), 0);
        strcat(strcat(written, chunk.text), " ");
    } else if (strcmp(entry->type, "node.changed") == 0) {
        cr_assert_eq(muster_unpack(&node_changed_type, entry->body.data, entry->body.size, arena, &changed, NULL), 0);
        cr_assert_str_eq(entry->team, "");
        changes++;
        snprintf(last_change, sizeof last_change, "%s %s", changed.node,
                 muster_enum_wire(&node_state_enum, (int)changed.state));
    } else {
        strcat(strcat(written, entry->type), " ");
    }
    muster_arena_free(&arena);
}

static void
write_handed(struct muster_ctx *ctx, bool ok)
{
    size_t i, k;

    for (i = 0; ok && i < handed_count; i++) {
        for (k = 0; k < handed[i]->entries.count; k++)
            write_entry(&handed[i]->entries.items[k]);
        if (handed[i]->put)
            write_put(ctx, handed[i]->put);
    }
    handed_count = 0;
}

/* What came to the log up to the next log.flush; its number, 0: there was none. */
static int64_t
hear_log(struct muster_ctx *ctx)
{
    const struct fake_sent *sent;

    while ((sent = fake_take_to(ctx, MUSTER_LOG))) {
        if (sent->type == &log_append_type) {
            handed[handed_count++] = sent->body;
        } else if (sent->type == &log_report_type) {
            reports++;
            last_report = *((const struct log_report *)sent->body)->report;
        } else {
            cr_assert_eq(sent->type, &log_flush_type);
            cr_assert_str_eq(sent->envelope.reply_to, MUSTER_NODES);
            return sent->envelope.id;
        }
    }
    return 0;
}

static void
answer_flush(struct muster_ctx *ctx, int64_t id, muster_err err)
{
    struct muster_envelope envelope = {.id = id, .reply_to = "", .trace = "", .principal.name = ""};
    struct store_committed committed = {.seq = 1};
    struct failed failed = {.code = muster_err_code(err)};

    fake_deliver(ctx, &envelope, err ? &failed_type : &store_committed_type, err ? (void *)&failed : &committed);
}

/* Everything is written, as often as nodes asks. */
static void
disk(struct muster_ctx *ctx)
{
    int64_t id;

    while ((id = hear_log(ctx))) {
        write_handed(ctx, true);
        answer_flush(ctx, id, MUSTER_OK);
    }
    write_handed(ctx, true); /* the log does that by itself after a while */
}

static void
disk_fails(struct muster_ctx *ctx)
{
    int64_t id = hear_log(ctx);

    cr_assert_neq(id, 0);
    write_handed(ctx, false);
    answer_flush(ctx, id, MUSTER_STORAGE_FULL);
}

/* ---- the queue ---- */

static const struct queue_node *
told_queue(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_to(ctx, MUSTER_QUEUE);

    cr_assert_not_null(sent, "the queue is told");
    cr_assert_eq(sent->type, &queue_node_type);
    cr_assert_str_eq(sent->envelope.reply_to, MUSTER_NODES);
    return sent->body;
}

/* The last that it was told. */
static const struct queue_node *
told_last(struct muster_ctx *ctx)
{
    const struct queue_node *told = told_queue(ctx);
    const struct fake_sent *sent;

    while ((sent = fake_take_to(ctx, MUSTER_QUEUE)))
        told = sent->body;
    return told;
}

static void
noded(struct muster_ctx *ctx, const char *node, int64_t attachment, const struct held_attempt *stale, size_t count)
{
    struct queue_noded body = {.node = node, .attachment = attachment, .stale = {stale, count}};

    fake_call(ctx, "", 0, &queue_noded_type, &body);
}

static void
reported(struct muster_ctx *ctx, const struct queue_report *report)
{
    struct queue_reported body = {
        .node = report->node, .parcel = report->parcel, .job = report->job, .attempt = report->attempt};

    fake_call(ctx, "", 0, &queue_reported_type, &body);
}

/* ---- workers ---- */

static int64_t last_id = 1000;

static struct muster_envelope
envelope_of(const struct muster_id *key)
{
    return (struct muster_envelope){
        .id = ++last_id, .reply_to = "bus", .trace = "", .principal = {.key = *key, .name = "worker-key"}};
}

static struct worker_attach
attach_of(const char *name)
{
    static const struct worker_team teams[] = {{.name = "remote", .capacity = 4}, {.name = "gpu", .capacity = 2}};

    return (struct worker_attach){.protocol = MUSTER_WORKER_PROTOCOL,
                                  .version = "0.1.0",
                                  .name = name,
                                  .epoch = "e1",
                                  .host = "host-a",
                                  .pid = 77,
                                  .teams = {teams, 2}};
}

static muster_err
ask(struct muster_ctx *ctx, const struct muster_id *key, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = envelope_of(key);

    return fake_deliver(ctx, &envelope, type, body);
}

static const void *
answer(struct muster_ctx *ctx, const struct muster_type *type)
{
    const struct fake_sent *sent = fake_take_type(ctx, type);

    cr_assert_not_null(sent, "%s is sent", type->wire);
    cr_assert_str_eq(sent->to, "bus");
    return sent->body;
}

/* The refusal, which names all of these. */
static void
expect_failed(struct muster_ctx *ctx, muster_err err, const char *text)
{
    const struct failed *failed = answer(ctx, &failed_type);

    cr_assert_str_eq(failed->code, muster_err_code(err), "%s: %s", failed->code, failed->message);
    cr_assert(strstr(failed->message, text), "%s", failed->message);
}

static void
refused(struct muster_ctx *ctx, const struct worker_attach *in, const struct muster_id *key, muster_err err,
        const char *text)
{
    size_t said = fake_said(ctx, "node-refused");

    cr_assert_eq(ask(ctx, key, &worker_attach_type, in), err);
    expect_failed(ctx, err, text);
    cr_assert_eq(fake_said(ctx, "node-refused"), said + 1);
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
}

/* All of it; what the queue says is stale.  Returns the attachment. */
static int64_t
attach_with(struct muster_ctx *ctx, const struct worker_attach *in, const struct held_attempt *stale, size_t count,
            struct worker_welcome *out_welcome)
{
    const struct queue_node *told;
    const struct fake_sent *sent;
    int64_t id;

    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, in), MUSTER_OK);
    id = last_id;
    cr_assert_null(fake_take_type(ctx, &worker_welcome_type), "not before its record is on disk");
    disk(ctx);
    cr_assert_null(fake_take_type(ctx, &worker_welcome_type), "not before the queue knows");
    told = told_last(ctx);
    cr_assert(told->attached);
    cr_assert_eq(told->attachment, id);
    cr_assert_eq(told->held.count, in->held.count);
    noded(ctx, in->name, id, stale, count);
    sent = fake_take_type(ctx, &worker_welcome_type);
    cr_assert_not_null(sent);
    cr_assert_str_eq(sent->to, "bus");
    cr_assert_eq(sent->envelope.id, id, "an answer to the worker.attach");
    *out_welcome = *(const struct worker_welcome *)sent->body;
    disk(ctx);
    return id;
}

static int64_t
attach(struct muster_ctx *ctx, const char *name)
{
    struct worker_attach in = attach_of(name);
    struct worker_welcome welcome;

    return attach_with(ctx, &in, NULL, 0, &welcome);
}

static struct muster_ctx *
start(void)
{
    struct muster_ctx *ctx = fake_new(YAML);

    cr_assert_eq(fake_start(ctx, &muster_nodes_class, MUSTER_NODES, NULL), MUSTER_OK);
    return ctx;
}

static muster_err
beat(struct muster_ctx *ctx, int64_t attachment, bool draining)
{
    return ask(ctx, &key_one, &worker_beat_type, &(struct worker_beat){.attachment = attachment, .draining = draining});
}

static void
run(struct muster_ctx *ctx, const char *node, int64_t attachment, const struct muster_id *job, int64_t attempt)
{
    struct agent_run body = {.job = *job,
                             .attempt = attempt,
                             .prompt = "do it",
                             .timeout_ms = 1000,
                             .trace = "req-7",
                             .team = "remote",
                             .node = node,
                             .attachment = attachment};

    fake_call(ctx, "", 0, &agent_run_type, &body);
}

/* A worker that was there. */
static void
heard_of(struct muster_ctx *ctx, const char *name)
{
    int64_t attachment = attach(ctx, name);

    cr_assert_eq(beat(ctx, attachment, false), MUSTER_OK);
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    disk(ctx);
    fake_forget(ctx);
}

/* A worker with an attempt at work. */
static int64_t
attach_and_run(struct muster_ctx *ctx, struct muster_id *out_job)
{
    int64_t attachment = attach(ctx, "w1");

    *out_job = muster_id_new(FAKE_START_MS);
    run(ctx, "w1", attachment, out_job, 1);
    cr_assert_not_null(answer(ctx, &agent_run_type));
    return attachment;
}

/* It looks at once what is on disk. */
static void
restart(struct muster_ctx *ctx)
{
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    disk(ctx);
}

static const struct muster_nodes_view *
view_of(struct muster_ctx *ctx)
{
    return fake_board(ctx, MUSTER_NODES_BOARD);
}

/* ---- parcels ---- */

static struct muster_buf parcel_bytes;

static struct log_entry
entry_of(struct muster_buf *body, const struct muster_id *job, int64_t attempt, const char *text)
{
    muster_pack(&job_chunk_type, &(struct job_chunk){.text = text}, body);
    return (struct log_entry){.at_ms = FAKE_START_MS,
                              .type = "job.chunk",
                              .team = "remote",
                              .job = *job,
                              .attempt = attempt,
                              .trace = "req-7",
                              .body = {(const uint8_t *)body->data, body->size}};
}

static muster_err
send_part(struct muster_ctx *ctx, struct worker_parcel part, const void *data, size_t size)
{
    part.data = (struct muster_bytes){data, size};
    return ask(ctx, &key_one, &worker_parcel_type, &part);
}

static muster_err
send_whole(struct muster_ctx *ctx, int64_t attachment, int64_t seq, enum parcel_kind kind)
{
    return send_part(ctx, (struct worker_parcel){.attachment = attachment, .seq = seq, .last = true, .kind = kind},
                     parcel_bytes.data, parcel_bytes.size);
}

static muster_err
send_entries(struct muster_ctx *ctx, int64_t attachment, int64_t seq, const struct log_entry *entries, size_t count)
{
    muster_buf_clear(&parcel_bytes);
    muster_pack(&log_append_type, &(struct log_append){.entries = {entries, count}}, &parcel_bytes);
    return send_whole(ctx, attachment, seq, parcel_kind_EVENTS);
}

static muster_err
send_chunk(struct muster_ctx *ctx, int64_t attachment, int64_t seq, const struct muster_id *job, int64_t attempt,
           const char *text)
{
    struct muster_buf body = {0};
    struct log_entry entry = entry_of(&body, job, attempt, text);
    muster_err err = send_entries(ctx, attachment, seq, &entry, 1);

    muster_buf_free(&body);
    return err;
}

static muster_err
send_report(struct muster_ctx *ctx, int64_t attachment, int64_t seq, const struct muster_id *job, int64_t attempt)
{
    struct queue_report report = {.job = *job,
                                  .attempt = attempt,
                                  .state = job_state_COMPLETED,
                                  .result = "done",
                                  .reply_to = "evil",
                                  .node = "evil",
                                  .parcel = 99};

    muster_buf_clear(&parcel_bytes);
    muster_pack(&queue_report_type, &report, &parcel_bytes);
    return send_whole(ctx, attachment, seq, parcel_kind_REPORT);
}

/* The next acknowledgement; -1: none was sent. */
static int64_t
acked(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &worker_acked_type);

    return sent ? ((const struct worker_acked *)sent->body)->seq : -1;
}

/* ---- attaching ---- */

Test(nodes, a_worker_is_welcome_when_its_record_is_on_disk_and_the_queue_knows_it)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    struct muster_id id = muster_id_of("node", "w1");
    const struct muster_nodes_view *view;
    const struct node *record;
    struct worker_welcome welcome;
    int64_t attachment = attach_with(ctx, &in, NULL, 0, &welcome);

    cr_assert_eq(welcome.attachment, attachment);
    cr_assert_eq(welcome.lease_ms, LEASE_MS);
    cr_assert_eq(welcome.beat_ms, LEASE_MS / 3);
    cr_assert_eq(welcome.received, 0);
    cr_assert_str_eq(welcome.epoch, muster_store_epoch(muster_ctx_store(ctx)));
    record = fake_get(ctx, &node_type, &id);
    cr_assert_not_null(record);
    cr_assert_str_eq(record->epoch, "e1");
    cr_assert(muster_id_equal(&record->key, &key_one));
    view = view_of(ctx);
    cr_assert_eq(view->count, 1);
    cr_assert_str_eq(view->nodes[0].name, "w1");
    cr_assert_str_eq(view->nodes[0].host, "host-a");
    cr_assert_eq(view->nodes[0].state, node_state_UP);
    cr_assert_eq(view->nodes[0].lease_until_ms, FAKE_START_MS + LEASE_MS);
    cr_assert_eq(view->nodes[0].teams[0].capacity, 4);
    cr_assert(view->nodes[0].teams[0].fits);
    cr_assert_eq(view->attached, 1);
    cr_assert_eq(fake_said(ctx, "node-attached"), 1);
    cr_assert_str_eq(last_change, "w1 up");
    fake_free(&ctx);
}

Test(nodes, the_queue_gets_no_room_for_teams_whose_labels_the_worker_lacks)
{
    static const struct muster_pair card[] = {{"card", "h100"}, {"zone", "b"}};
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    const struct queue_node *told;

    ask(ctx, &key_one, &worker_attach_type, &in);
    disk(ctx);
    told = told_last(ctx);
    cr_assert_eq(told->teams.count, 2);
    cr_assert_eq(told->teams.items[0].capacity, 4);
    cr_assert_str_eq(told->teams.items[1].name, "gpu");
    cr_assert_eq(told->teams.items[1].capacity, 0);
    in.name = "w2";
    in.labels = (struct muster_pairs){card, 2};
    ask(ctx, &key_one, &worker_attach_type, &in);
    disk(ctx);
    cr_assert_eq(told_last(ctx)->teams.items[1].capacity, 2);
    noded(ctx, "w2", last_id, NULL, 0);
    cr_assert_eq(view_of(ctx)->count, 1, "the other is not welcome yet");
    cr_assert_eq(view_of(ctx)->nodes[0].label_count, 2);
    cr_assert_str_eq(view_of(ctx)->nodes[0].labels[1].value, "b");
    cr_assert(view_of(ctx)->nodes[0].teams[1].fits);
    fake_free(&ctx);
}

Test(nodes, refusals_say_what_to_do)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    struct worker_team teams[2] = {{.name = "remote", .capacity = 1}, {.name = "remote", .capacity = 1}};

    in.protocol = 2;
    in.version = "9.9";
    refused(ctx, &in, &key_one, MUSTER_VERSION_MISMATCH, "muster 9.9) speaks protocol 2");
    in = attach_of("w 1");
    refused(ctx, &in, &key_one, MUSTER_INVALID_REQUEST, "--name");
    in = attach_of("w1");
    in.teams.count = 0;
    refused(ctx, &in, &key_one, MUSTER_INVALID_REQUEST, "no team");
    in.teams.items = teams;
    in.teams.count = 2;
    refused(ctx, &in, &key_one, MUSTER_INVALID_REQUEST, "twice");
    teams[1].name = "ghost";
    refused(ctx, &in, &key_one, MUSTER_TEAM_NOT_FOUND, "`teams: ghost: {driver: remote}`");
    teams[1].name = "local";
    refused(ctx, &in, &key_one, MUSTER_CONFLICT, "`teams: local: {driver: remote}`");
    cr_assert_eq(view_of(ctx)->refused, 6);
    cr_assert_eq(view_of(ctx)->count, 0);
    fake_free(&ctx);
}

Test(nodes, a_name_belongs_to_one_worker_and_to_its_key)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;
    int64_t attachment = attach(ctx, "w1");

    refused(ctx, &in, &key_two, MUSTER_CONFLICT, "another key");
    in.epoch = "e2";
    refused(ctx, &in, &key_one, MUSTER_CONFLICT, "--name");
    cr_assert_eq(beat(ctx, attachment, false), MUSTER_OK, "the first is as it was");
    disk(ctx);
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    fake_forget(ctx);
    refused(ctx, &in, &key_two, MUSTER_CONFLICT, "another key");
    attach_with(ctx, &in, NULL, 0, &welcome); /* its data folder was lost, and it is away */
    fake_advance(ctx, LEASE_MS);
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_LOST);
    cr_assert_eq(ask(ctx, &key_two, &worker_attach_type, &in), MUSTER_OK, "its lease is over");
    fake_free(&ctx);
}

Test(nodes, another_worker_cannot_take_a_name_while_its_attach_is_under_way)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");

    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OK);
    in.epoch = "e2";
    refused(ctx, &in, &key_one, MUSTER_CONFLICT, "--name");
    refused(ctx, &in, &key_two, MUSTER_CONFLICT, "--name");
    fake_free(&ctx);
}

Test(nodes, there_are_at_most_max_workers)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w4");
    int64_t attachment;

    attachment = attach(ctx, "w1");
    attach(ctx, "w2");
    attach(ctx, "w3");
    refused(ctx, &in, &key_one, MUSTER_OVERLOADED, "workers.max_workers");
    in.name = "w3";
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OK, "one that is there may come anew");
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    in.name = "w4";
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OK);
    fake_free(&ctx);
}

Test(nodes, the_same_worker_takes_the_place_of_its_old_attachment)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t old = attach_and_run(ctx, &job), new;
    struct held_attempt held = {.job = job, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    const struct fake_sent *sent;
    struct worker_welcome welcome;

    in.held.items = &held;
    in.held.count = 1;
    new = attach_with(ctx, &in, NULL, 0, &welcome);
    sent = fake_take_type(ctx, &worker_detached_type);
    cr_assert_not_null(sent);
    cr_assert_eq(sent->envelope.id, old);
    cr_assert_eq(((const struct worker_detached *)sent->body)->attachment, old);
    cr_assert_eq(beat(ctx, old, false), MUSTER_CONFLICT);
    expect_failed(ctx, MUSTER_CONFLICT, "attach again");
    cr_assert_eq(beat(ctx, new, false), MUSTER_OK);
    cr_assert_eq(view_of(ctx)->nodes[0].running, 1);
    cr_assert_eq(view_of(ctx)->nodes[0].teams[0].running, 1, "its team is still known");
    cr_assert_eq(fake_said(ctx, "node-away"), 0);
    fake_free(&ctx);
}

Test(nodes, an_attach_that_comes_anew_before_it_is_done_replaces_the_first)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;
    int64_t first, second;

    ask(ctx, &key_one, &worker_attach_type, &in);
    first = last_id;
    second = attach_with(ctx, &in, NULL, 0, &welcome);
    expect_failed(ctx, MUSTER_CONFLICT, "anew");
    cr_assert_eq(welcome.attachment, second);
    noded(ctx, "w1", first, NULL, 0);
    cr_assert_null(fake_take_type(ctx, &worker_welcome_type));
    fake_free(&ctx);
}

Test(nodes, an_attach_ends_with_its_connection)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    int64_t id;

    ask(ctx, &key_one, &worker_attach_type, &in);
    id = last_id;
    disk(ctx);
    cr_assert_eq(told_last(ctx)->state, node_state_UP);
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = id});
    cr_assert_eq(told_last(ctx)->state, node_state_AWAY, "the queue is to give it nothing");
    noded(ctx, "w1", id, NULL, 0);
    cr_assert_null(fake_take_to(ctx, "bus"));
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_AWAY);
    fake_free(&ctx);
}

Test(nodes, an_attach_waits_only_so_long_for_disk_and_queue)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    int64_t attachment;

    ask(ctx, &key_one, &worker_attach_type, &in);
    disk(ctx);
    fake_advance(ctx, 10000);
    expect_failed(ctx, MUSTER_OVERLOADED, "try again");
    attachment = attach(ctx, "w1");
    cr_assert_eq(beat(ctx, attachment, false), MUSTER_OK);
    fake_free(&ctx);
}

Test(nodes, an_attach_that_fails_in_the_place_of_another_leaves_the_worker_away)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");

    attach(ctx, "w1");
    ask(ctx, &key_one, &worker_attach_type, &in);
    disk(ctx);
    fake_advance(ctx, 10000);
    expect_failed(ctx, MUSTER_OVERLOADED, "try again");
    cr_assert_eq(told_last(ctx)->state, node_state_AWAY);
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_AWAY);
    fake_free(&ctx);
}

Test(nodes, an_attach_needs_a_number_of_its_own_and_an_address)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1"), other = attach_of("w2");
    int64_t attachment = attach(ctx, "w1");

    last_id = attachment - 1;
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &other), MUSTER_INVALID_REQUEST);
    cr_assert_eq(fake_call(ctx, "", 7, &worker_attach_type, &in), MUSTER_INVALID_REQUEST);
    fake_free(&ctx);
}

Test(nodes, what_became_of_the_queues_own_commits_is_not_for_nodes)
{
    struct muster_ctx *ctx = start();
    struct failed failed = {.code = "STORAGE_FULL"};
    int64_t attachment = attach(ctx, "w1");

    cr_assert_eq(fake_call(ctx, "", 0, &failed_type, &failed), MUSTER_OK);
    cr_assert_eq(beat(ctx, attachment, false), MUSTER_OK);
    fake_free(&ctx);
}

Test(nodes, an_attach_that_the_queue_refuses_fails)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    struct failed failed = {.code = "OVERLOADED", .message = "queue is being restarted; try again"};
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};

    ask(ctx, &key_one, &worker_attach_type, &in);
    disk(ctx);
    envelope.id = fake_take_to(ctx, MUSTER_QUEUE)->envelope.id;
    fake_deliver(ctx, &envelope, &failed_type, &failed);
    expect_failed(ctx, MUSTER_OVERLOADED, "queue is being restarted");
    fake_free(&ctx);
}

Test(nodes, what_is_stale_is_told_and_not_open)
{
    struct muster_ctx *ctx = start();
    struct held_attempt held[2] = {{.job = muster_id_new(FAKE_START_MS), .attempt = 3},
                                   {.job = muster_id_new(FAKE_START_MS), .attempt = 1}};
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;
    int64_t attachment;

    heard_of(ctx, "w1");
    in.held.items = held;
    in.held.count = 2;
    attachment = attach_with(ctx, &in, &held[1], 1, &welcome);
    cr_assert_eq(welcome.stale.count, 1);
    cr_assert(muster_id_equal(&welcome.stale.items[0].job, &held[1].job));
    cr_assert_eq(view_of(ctx)->nodes[0].running, 1);
    send_chunk(ctx, attachment, 1, &held[1].job, 1, "stale");
    send_chunk(ctx, attachment, 2, &held[0].job, 3, "current");
    disk(ctx);
    cr_assert_str_eq(written, "current ");
    fake_free(&ctx);
}

Test(nodes, stale_attempts_may_be_many_and_in_any_order)
{
    enum { HELD = 100000 };
    struct muster_ctx *ctx = start();
    struct held_attempt *held = muster_alloc(HELD * sizeof *held);
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;
    size_t i;

    heard_of(ctx, "w1");
    for (i = 0; i < HELD; i++) { /* the last first */
        held[i].job.bytes[0] = (uint8_t)(255 - (i >> 16));
        held[i].job.bytes[1] = (uint8_t)(255 - (i >> 8));
        held[i].job.bytes[2] = (uint8_t)(255 - i);
        held[i].attempt = 1;
    }
    in.held.items = held;
    in.held.count = HELD;
    attach_with(ctx, &in, held, HELD, &welcome);
    cr_assert_eq(welcome.stale.count, HELD);
    cr_assert_eq(view_of(ctx)->nodes[0].running, 0);
    free(held);
    fake_free(&ctx);
}

Test(nodes, team_and_request_id_of_attempts_it_had_before_come_from_their_jobs)
{
    struct muster_ctx *ctx = start();
    struct job job = {.id = muster_id_new(FAKE_START_MS),
                      .kind = job_kind_ASK,
                      .team = "remote",
                      .state = job_state_RUNNING,
                      .priority = job_priority_NORMAL,
                      .prompt = "p",
                      .from = "ci",
                      .trace = "req-before",
                      .created_ms = FAKE_START_MS,
                      .timeout_ms = 1000,
                      .max_attempts = 3};
    struct held_attempt held = {.job = job.id, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;
    int64_t attachment;

    fake_put(ctx, &job_type, &job);
    heard_of(ctx, "w1");
    in.held.items = &held;
    in.held.count = 1;
    attachment = attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert_eq(view_of(ctx)->nodes[0].teams[0].running, 1);
    send_report(ctx, attachment, 1, &job.id, 1);
    cr_assert(fake_said_text(ctx, "request_id=req-before"));
    fake_free(&ctx);
}

/* ---- the lease ---- */

Test(nodes, a_beat_renews_the_lease_and_its_facts_are_shown)
{
    struct muster_ctx *ctx = start();
    int64_t attachment = attach(ctx, "w1");
    struct worker_beat in = {.attachment = attachment, .parcels = 5, .load = 1.5, .cpus = 8, .round_trip_ms = 3};
    int i;

    for (i = 0; i < 20; i++) {
        fake_advance(ctx, LEASE_MS / 3);
        cr_assert_eq(ask(ctx, &key_one, &worker_beat_type, &in), MUSTER_OK);
        cr_assert_not(((const struct worker_heard *)answer(ctx, &worker_heard_type))->draining);
    }
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_UP);
    cr_assert_eq(view_of(ctx)->nodes[0].parcels, 5);
    cr_assert_eq(view_of(ctx)->nodes[0].cpus, 8);
    cr_assert_float_eq(view_of(ctx)->nodes[0].load, 1.5, 0.001);
    cr_assert_eq(view_of(ctx)->nodes[0].heard_ms, muster_now_ms(ctx));
    cr_assert_eq(fake_said(ctx, "node-away"), 0);
    fake_free(&ctx);
}

Test(nodes, one_that_is_silent_is_away_and_then_lost)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);

    fake_forget(ctx);
    fake_advance(ctx, LEASE_MS * 2 / 3 - 1);
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    fake_advance(ctx, 1);
    cr_assert_eq(told_last(ctx)->state, node_state_AWAY);
    cr_assert_eq(view_of(ctx)->nodes[0].running, 1, "its jobs count as running");
    fake_advance(ctx, LEASE_MS / 3 - 1);
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    fake_advance(ctx, 1);
    cr_assert_eq(told_last(ctx)->state, node_state_LOST);
    cr_assert_eq(view_of(ctx)->nodes[0].running, 0);
    cr_assert_eq(view_of(ctx)->lost, 1);
    cr_assert_not_null(answer(ctx, &worker_detached_type));
    cr_assert_eq(fake_said(ctx, "node-lost"), 1);
    disk(ctx);
    cr_assert_str_eq(last_change, "w1 lost");
    cr_assert_eq(beat(ctx, attachment, false), MUSTER_CONFLICT, "it is to attach again");
    fake_advance(ctx, 10 * LEASE_MS);
    cr_assert_eq(view_of(ctx)->lost, 1);
    fake_free(&ctx);
}

Test(nodes, one_that_is_heard_of_again_in_time_goes_on)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    const struct queue_node *told;

    fake_advance(ctx, LEASE_MS * 2 / 3);
    fake_forget(ctx);
    cr_assert_eq(beat(ctx, attachment, false), MUSTER_OK);
    told = told_last(ctx);
    cr_assert_eq(told->state, node_state_UP);
    cr_assert_eq(told->attachment, attachment);
    cr_assert_not(told->attached);
    cr_assert_eq(view_of(ctx)->nodes[0].running, 1);
    send_chunk(ctx, attachment, 1, &job, 1, "goes-on");
    disk(ctx);
    cr_assert_str_eq(written, "goes-on ");
    fake_free(&ctx);
}

Test(nodes, parcels_are_signs_of_life_too)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job), i;

    for (i = 1; i < 10; i++) {
        fake_advance(ctx, LEASE_MS / 2);
        send_chunk(ctx, attachment, i, &job, 1, "x");
        disk(ctx);
    }
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_UP);
    fake_free(&ctx);
}

Test(nodes, one_whose_connection_ends_is_away_at_once_and_found_when_it_is_back)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct held_attempt held = {.job = job, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    fake_forget(ctx);
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    cr_assert_eq(told_last(ctx)->state, node_state_AWAY);
    cr_assert_null(fake_take_type(ctx, &worker_detached_type), "nobody is there to hear it");
    run(ctx, "w1", attachment, &job, 2);
    cr_assert_null(fake_take_type(ctx, &agent_run_type), "decided too late");
    fake_advance(ctx, LEASE_MS - 1);
    in.held.items = &held;
    in.held.count = 1;
    attachment = attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert_eq(view_of(ctx)->lost, 0);
    send_chunk(ctx, attachment, 1, &job, 1, "found");
    disk(ctx);
    cr_assert_str_eq(written, "found ");
    fake_free(&ctx);
}

Test(nodes, a_lease_is_not_over_while_the_worker_is_about_to_be_welcome)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");
    int64_t attachment = attach(ctx, "w1");

    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    fake_advance(ctx, LEASE_MS - 1);
    ask(ctx, &key_one, &worker_attach_type, &in);
    fake_advance(ctx, 5000);
    cr_assert_eq(view_of(ctx)->lost, 0);
    disk(ctx);
    noded(ctx, "w1", last_id, NULL, 0);
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_UP);
    fake_free(&ctx);
}

Test(nodes, the_queue_hears_with_each_beat_how_its_workers_stand)
{
    struct muster_ctx *ctx = start();
    int64_t attachment = attach(ctx, "w1");

    fake_forget(ctx);
    beat(ctx, attachment, false);
    cr_assert_eq(told_queue(ctx)->state, node_state_UP);
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    fake_free(&ctx);
}

/* ---- attempts ---- */

Test(nodes, attempts_go_to_the_worker_as_answers_to_its_attach)
{
    struct muster_ctx *ctx = start();
    struct muster_id job = muster_id_new(FAKE_START_MS), other = muster_id_new(FAKE_START_MS);
    int64_t attachment = attach(ctx, "w1");
    const struct fake_sent *sent;

    run(ctx, "w1", attachment, &job, 1);
    sent = fake_take_type(ctx, &agent_run_type);
    cr_assert_eq(sent->envelope.id, attachment);
    cr_assert_str_eq(sent->to, "bus");
    cr_assert_str_eq(((const struct agent_run *)sent->body)->team, "remote");
    cr_assert_eq(fake_said(ctx, "job-handed-over"), 1);
    cr_assert(fake_said_text(ctx, "request_id=req-7"));
    fake_call(ctx, "", 0, &agent_cancel_type, &(struct agent_cancel){.job = job, .attempt = 1});
    sent = fake_take_type(ctx, &agent_cancel_type);
    cr_assert_eq(sent->envelope.id, attachment);
    run(ctx, "w1", attachment - 1, &other, 1);
    run(ctx, "w2", attachment, &other, 1);
    cr_assert_null(fake_take_type(ctx, &agent_run_type), "of another attachment, of another worker");
    cr_assert_eq(view_of(ctx)->nodes[0].running, 1);
    fake_free(&ctx);
}

Test(nodes, a_cancel_that_overtakes_its_attempt_follows_it)
{
    struct muster_ctx *ctx = start();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t attachment = attach(ctx, "w1");

    fake_call(ctx, "", 0, &agent_cancel_type, &(struct agent_cancel){.job = job, .attempt = 2, .park = true});
    cr_assert_null(fake_take_type(ctx, &agent_cancel_type));
    run(ctx, "w1", attachment, &job, 1);
    cr_assert_null(fake_take_type(ctx, &agent_cancel_type), "of another attempt");
    run(ctx, "w1", attachment, &job, 2);
    cr_assert(((const struct agent_cancel *)answer(ctx, &agent_cancel_type))->park);
    fake_free(&ctx);
}

Test(nodes, a_cancel_that_comes_before_the_welcome_follows_it)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct held_attempt held = {.job = job, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    size_t i;

    in.held.items = &held;
    in.held.count = 1;
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    ask(ctx, &key_one, &worker_attach_type, &in);
    disk(ctx);
    fake_forget(ctx);
    fake_call(ctx, "", 0, &agent_cancel_type, &(struct agent_cancel){.job = job, .attempt = 1});
    cr_assert_null(fake_take_type(ctx, &agent_cancel_type));
    noded(ctx, "w1", last_id, NULL, 0);
    for (i = 0; i < 2; i++)
        cr_assert_eq(fake_take_to(ctx, "bus")->type, i == 0 ? &worker_welcome_type : &agent_cancel_type);
    fake_free(&ctx);
}

/* ---- parcels ---- */

Test(nodes, events_are_acknowledged_when_they_are_on_disk)
{
    struct muster_ctx *ctx = start();
    struct muster_id job, id = muster_id_of("node", "w1");
    int64_t attachment = attach_and_run(ctx, &job), flush;

    cr_assert_eq(send_chunk(ctx, attachment, 1, &job, 1, "one"), MUSTER_OK);
    flush = hear_log(ctx);
    cr_assert_neq(flush, 0, "asked at once");
    send_chunk(ctx, attachment, 2, &job, 1, "two");
    send_chunk(ctx, attachment, 3, &job, 1, "three");
    cr_assert_eq(hear_log(ctx), 0, "one at a time");
    cr_assert_eq(acked(ctx), -1);
    write_handed(ctx, true);
    answer_flush(ctx, flush, MUSTER_OK);
    cr_assert_eq(acked(ctx), 1, "what came after it was asked is not covered");
    cr_assert_eq(acked(ctx), -1);
    disk(ctx);
    cr_assert_eq(acked(ctx), 2);
    cr_assert_eq(acked(ctx), 3);
    cr_assert_str_eq(written, "one two three ");
    cr_assert_eq(((const struct node *)fake_get(ctx, &node_type, &id))->received, 3);
    cr_assert_eq(view_of(ctx)->parcels, 3);
    fake_free(&ctx);
}

Test(nodes, events_and_the_number_of_their_parcel_go_to_the_log_together)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct muster_arena *arena = muster_arena_new();
    const struct log_append *append;
    struct node record;

    send_chunk(ctx, attachment, 7, &job, 1, "one");
    append = fake_take_type(ctx, &log_append_type)->body;
    cr_assert_eq(append->entries.count, 1);
    cr_assert_str_eq(append->entries.items[0].trace, "req-7");
    cr_assert_eq(muster_unpack(&node_type, append->put->value.data, append->put->value.size, arena, &record, NULL), 0);
    cr_assert_eq(record.received, 7);
    cr_assert_str_eq(record.host, "host-a", "the whole record");
    muster_arena_free(&arena);
    fake_free(&ctx);
}

Test(nodes, a_report_is_acknowledged_when_the_queue_says_so)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    send_report(ctx, attachment, 2, &job, 1);
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    cr_assert_eq(acked(ctx), -1, "on its way");
    cr_assert_eq(reports, 1);
    cr_assert_str_eq(last_report.reply_to, MUSTER_NODES, "whatever the worker said");
    cr_assert_str_eq(last_report.node, "w1");
    cr_assert_eq(last_report.parcel, 2);
    cr_assert_str_eq(last_report.result, "done");
    cr_assert_eq(fake_said(ctx, "job-reported"), 1);
    send_chunk(ctx, attachment, 3, &job, 1, "after-its-end");
    disk(ctx);
    cr_assert_eq(acked(ctx), -1, "in their order");
    reported(ctx, &last_report);
    cr_assert_eq(acked(ctx), 2);
    cr_assert_eq(acked(ctx), 3);
    cr_assert_eq(view_of(ctx)->nodes[0].running, 0);
    cr_assert_str_eq(written, "one ");
    fake_free(&ctx);
}

Test(nodes, a_report_of_another_attempt_settles_nothing)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct queue_report other;

    send_report(ctx, attachment, 1, &job, 1);
    disk(ctx);
    other = last_report;
    other.attempt = 2;
    reported(ctx, &other);
    cr_assert_eq(acked(ctx), -1);
    other = last_report;
    other.node = "nobody";
    reported(ctx, &other);
    cr_assert_eq(acked(ctx), -1);
    fake_free(&ctx);
}

Test(nodes, stale_attempts_are_left_out_and_acknowledged)
{
    struct muster_ctx *ctx = start();
    struct muster_id job, foreign = muster_id_new(FAKE_START_MS);
    int64_t attachment = attach_and_run(ctx, &job);

    send_chunk(ctx, attachment, 1, &foreign, 1, "never-had");
    send_chunk(ctx, attachment, 2, &job, 2, "another-attempt");
    send_report(ctx, attachment, 3, &job, 2);
    send_report(ctx, attachment, 4, &foreign, 1);
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    cr_assert_eq(acked(ctx), 2);
    cr_assert_eq(acked(ctx), 3);
    cr_assert_eq(acked(ctx), 4);
    cr_assert_eq(reports, 0);
    cr_assert_str_eq(written, "");
    cr_assert_eq(view_of(ctx)->stale, 4);
    fake_free(&ctx);
}

Test(nodes, parcels_that_come_again_are_taken_once)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    send_chunk(ctx, attachment, 1, &job, 1, "one");
    cr_assert_eq(acked(ctx), 0, "who asked first is told what is known");
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    cr_assert_eq(acked(ctx), -1);
    send_chunk(ctx, attachment, 1, &job, 1, "one");
    cr_assert_eq(acked(ctx), 1, "at once");
    send_report(ctx, attachment, 2, &job, 1);
    send_report(ctx, attachment, 2, &job, 1);
    disk(ctx);
    cr_assert_eq(reports, 2, "the queue may not have got the first, and knows what to do");
    cr_assert_eq(acked(ctx), 1);
    reported(ctx, &last_report);
    cr_assert_eq(acked(ctx), 2);
    reported(ctx, &last_report);
    cr_assert_eq(acked(ctx), -1);
    send_report(ctx, attachment, 2, &job, 1);
    cr_assert_eq(acked(ctx), 2);
    disk(ctx);
    cr_assert_eq(reports, 2);
    cr_assert_str_eq(written, "one ");
    cr_assert_eq(view_of(ctx)->parcels, 2);
    fake_free(&ctx);
}

Test(nodes, a_parcel_may_come_in_parts)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct worker_parcel part = {.attachment = attachment, .seq = 1, .kind = parcel_kind_EVENTS};
    struct muster_buf body = {0}, whole = {0};
    struct log_entry entry = entry_of(&body, &job, 1, "in-parts");
    size_t third;

    muster_pack(&log_append_type, &(struct log_append){.entries = {&entry, 1}}, &whole);
    third = whole.size / 3;
    cr_assert_eq(send_part(ctx, part, whole.data, third), MUSTER_OK);
    cr_assert_eq(acked(ctx), 0, "at once");
    cr_assert_eq(send_part(ctx, part, whole.data, third), MUSTER_OK, "it may begin anew");
    cr_assert_eq(acked(ctx), 0);
    part.part = 1;
    cr_assert_eq(send_part(ctx, part, whole.data + third, third), MUSTER_OK);
    cr_assert_eq(acked(ctx), 0);
    part.part = 2;
    part.last = true;
    cr_assert_eq(send_part(ctx, part, whole.data + 2 * third, whole.size - 2 * third), MUSTER_OK);
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    cr_assert_str_eq(written, "in-parts ");
    muster_buf_free(&body);
    muster_buf_free(&whole);
    fake_free(&ctx);
}

Test(nodes, parts_out_of_order_end_the_attachment)
{
    static const struct worker_parcel wrong[] = {
        {.seq = 1, .part = 2, .kind = parcel_kind_EVENTS},
        {.seq = 2, .part = 1, .kind = parcel_kind_EVENTS},
        {.seq = 1, .part = 1, .kind = parcel_kind_REPORT},
    };
    struct muster_ctx *ctx = start();
    size_t i;

    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int64_t attachment = attach(ctx, "w1");
        struct worker_parcel part = {.attachment = attachment, .seq = 1, .kind = parcel_kind_EVENTS};

        cr_assert_eq(send_part(ctx, part, "abc", 3), MUSTER_OK);
        part = wrong[i];
        part.attachment = attachment;
        fake_forget(ctx);
        cr_assert_eq(send_part(ctx, part, "abc", 3), MUSTER_INVALID_REQUEST);
        expect_failed(ctx, MUSTER_INVALID_REQUEST, "order");
        cr_assert_eq(((const struct worker_detached *)answer(ctx, &worker_detached_type))->attachment, attachment);
        cr_assert_eq(told_last(ctx)->state, node_state_AWAY);
        cr_assert_eq(beat(ctx, attachment, false), MUSTER_CONFLICT);
        disk(ctx);
    }
    fake_free(&ctx);
}

Test(nodes, a_parcel_that_is_too_large_ends_the_attachment)
{
    enum { PART = 1 << 20 };
    struct muster_ctx *ctx = start();
    struct worker_parcel part = {.attachment = attach(ctx, "w1"), .seq = 1, .kind = parcel_kind_EVENTS};
    char *data = muster_alloc(PART);

    for (part.part = 0; part.part < 128; part.part++)
        cr_assert_eq(send_part(ctx, part, data, PART), MUSTER_OK);
    cr_assert_eq(send_part(ctx, part, data, 1), MUSTER_PAYLOAD_TOO_LARGE);
    expect_failed(ctx, MUSTER_PAYLOAD_TOO_LARGE, "128 MiB");
    cr_assert_not_null(answer(ctx, &worker_detached_type));
    free(data);
    fake_free(&ctx);
}

/* What a worker may not say is left out; the rest of the parcel counts. */
Test(nodes, a_worker_says_only_what_its_agents_may_say)
{
    struct muster_ctx *ctx = start();
    struct muster_id job, zero = {{0}};
    int64_t attachment = attach_and_run(ctx, &job);
    struct muster_buf body = {0}, process = {0};
    struct log_entry good = entry_of(&body, &job, 1, "good"), entries[10];
    size_t i;

    muster_pack(&agent_process_type, &(struct agent_process){.state = process_state_IDLE}, &process);
    for (i = 0; i < 10; i++)
        entries[i] = good;
    entries[0].team = "local";
    entries[1].team = "gpu"; /* its own, but not the job's */
    entries[2].type = "job.nonsense";
    entries[3].type = "job.completed";
    entries[4].type = "job.queued";
    entries[5].type = "job.lost";
    entries[6].type = "node.changed";
    entries[7].body.size--;
    entries[8] = (struct log_entry){.at_ms = FAKE_START_MS,
                                    .type = "agent.process",
                                    .team = "gpu",
                                    .job = zero,
                                    .body = {(const uint8_t *)process.data, process.size}};
    send_entries(ctx, attachment, 1, entries, 10);
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    cr_assert_str_eq(written, "agent.process good ");
    cr_assert_eq(view_of(ctx)->stale, 8);
    muster_buf_free(&body);
    muster_buf_free(&process);
    fake_free(&ctx);
}

Test(nodes, a_worker_may_tell_what_it_did_for_a_team_that_it_does_not_offer_any_more)
{
    struct muster_ctx *ctx = start();
    struct worker_team other = {.name = "gpu", .capacity = 1};
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct held_attempt held = {.job = job, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    in.teams.items = &other;
    in.teams.count = 1;
    in.held.items = &held;
    in.held.count = 1;
    attachment = attach_with(ctx, &in, NULL, 0, &welcome);
    send_chunk(ctx, attachment, 1, &job, 1, "before");
    disk(ctx);
    cr_assert_str_eq(written, "before ");
    fake_free(&ctx);
}

Test(nodes, a_worker_has_only_so_much_on_its_way_to_the_disk)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job), seq;
    struct worker_parcel part = {.attachment = attachment, .kind = parcel_kind_EVENTS};
    char *junk = muster_alloc(1 << 20);

    for (seq = 1; seq <= 3; seq++) /* 50 MiB each, of nothing that can be understood */
        for (part.seq = seq, part.part = 0; part.part < 50; part.part++) {
            part.last = part.part == 49;
            cr_assert_eq(send_part(ctx, part, junk, 1 << 20), part.last && seq == 3 ? MUSTER_OVERLOADED : MUSTER_OK);
        }
    fake_forget(ctx);
    send_chunk(ctx, attachment, 4, &job, 1, "four");
    expect_failed(ctx, MUSTER_OVERLOADED, "3 is to come first");
    disk(ctx);
    cr_assert_eq(send_chunk(ctx, attachment, 3, &job, 1, "three"), MUSTER_OK);
    disk(ctx);
    cr_assert_str_eq(written, "three ");
    free(junk);
    fake_free(&ctx);
}

Test(nodes, a_parcel_that_comes_again_as_another_kind_ends_the_attachment)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    cr_assert_eq(send_report(ctx, attachment, 1, &job, 1), MUSTER_INVALID_REQUEST);
    cr_assert_not_null(answer(ctx, &worker_detached_type));
    fake_free(&ctx);
}

Test(nodes, a_report_that_is_settled_waits_for_what_came_before_it)
{
    struct muster_ctx *ctx = start();
    struct muster_id job, stale = muster_id_new(FAKE_START_MS);
    int64_t attachment = attach_and_run(ctx, &job);

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    send_report(ctx, attachment, 2, &stale, 1);
    cr_assert_eq(acked(ctx), -1);
    send_report(ctx, attachment, 2, &stale, 1);
    cr_assert_eq(acked(ctx), 0);
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    cr_assert_eq(acked(ctx), 2);
    cr_assert_eq(reports, 0);
    fake_free(&ctx);
}

Test(nodes, what_cannot_be_understood_is_left_out_and_does_not_come_again)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct queue_report report = {.job = job, .attempt = 1, .state = job_state_QUEUED};

    muster_buf_str(&parcel_bytes, "no msgpack");
    cr_assert_eq(send_whole(ctx, attachment, 1, parcel_kind_EVENTS), MUSTER_OK);
    cr_assert_eq(send_whole(ctx, attachment, 2, parcel_kind_REPORT), MUSTER_OK);
    muster_buf_clear(&parcel_bytes);
    muster_pack(&queue_report_type, &report, &parcel_bytes);
    cr_assert_eq(send_whole(ctx, attachment, 3, parcel_kind_REPORT), MUSTER_OK);
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    cr_assert_eq(acked(ctx), 2);
    cr_assert_eq(acked(ctx), 3);
    cr_assert_eq(reports, 0);
    cr_assert_eq(fake_said(ctx, "parcel-bad"), 3);
    fake_free(&ctx);
}

Test(nodes, parcels_need_the_attachment_and_its_key)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct worker_parcel in = {.attachment = attachment, .seq = 1, .last = true, .kind = parcel_kind_EVENTS};

    in.data = (struct muster_bytes){(const uint8_t *)"x", 1};
    cr_assert_eq(ask(ctx, &key_two, &worker_parcel_type, &in), MUSTER_CONFLICT);
    expect_failed(ctx, MUSTER_CONFLICT, "attach again");
    cr_assert_eq(ask(ctx, &key_two, &worker_beat_type, &(struct worker_beat){.attachment = attachment}),
                 MUSTER_CONFLICT);
    cr_assert_eq(ask(ctx, &key_two, &worker_leave_type, &(struct worker_leave){.attachment = attachment}),
                 MUSTER_CONFLICT);
    cr_assert_eq(send_chunk(ctx, attachment + 1, 1, &job, 1, "x"), MUSTER_CONFLICT);
    fake_free(&ctx);
}

/* ---- full mailboxes ---- */

Test(nodes, a_full_log_refuses_parcels_and_the_order_is_kept)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    cr_assert_eq(send_chunk(ctx, attachment, 2, &job, 1, "two"), MUSTER_OVERLOADED);
    expect_failed(ctx, MUSTER_OVERLOADED, "again");
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OK);
    cr_assert_eq(send_chunk(ctx, attachment, 3, &job, 1, "three"), MUSTER_OVERLOADED, "not before the second");
    expect_failed(ctx, MUSTER_OVERLOADED, "parcel 2 is to come first");
    cr_assert_eq(send_report(ctx, attachment, 4, &job, 1), MUSTER_OVERLOADED);
    send_chunk(ctx, attachment, 1, &job, 1, "one");
    send_chunk(ctx, attachment, 2, &job, 1, "two");
    send_chunk(ctx, attachment, 3, &job, 1, "three");
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    cr_assert_eq(send_report(ctx, attachment, 4, &job, 1), MUSTER_OVERLOADED);
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OK);
    cr_assert_eq(send_report(ctx, attachment, 4, &job, 1), MUSTER_OK);
    disk(ctx);
    cr_assert_str_eq(written, "one two three ");
    cr_assert_eq(reports, 1);
    fake_free(&ctx);
}

Test(nodes, a_full_log_delays_the_flush)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);

    fake_batch_begin(ctx);
    send_chunk(ctx, attachment, 1, &job, 1, "one");
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    fake_batch_end(ctx);
    disk(ctx);
    cr_assert_eq(acked(ctx), -1);
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OK);
    fake_advance(ctx, 5);
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    fake_free(&ctx);
}

Test(nodes, a_flush_that_is_not_answered_is_asked_again_and_its_parcels_come_again)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job), i;

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    cr_assert_neq(hear_log(ctx), 0);
    write_handed(ctx, false); /* the log was begun anew */
    for (i = 0; i < 4; i++) {
        fake_advance(ctx, 9000);
        (void)beat(ctx, attachment, false);
    }
    cr_assert_not_null(fake_take_type(ctx, &worker_detached_type));
    disk(ctx);
    fake_advance(ctx, 1000);
    disk(ctx);
    fake_forget(ctx);
    attachment = attach(ctx, "w1");
    cr_assert_neq(attachment, 0);
    fake_free(&ctx);
}

Test(nodes, a_full_queue_is_told_later_and_in_order)
{
    struct muster_ctx *ctx = start();
    int64_t attachment = attach(ctx, "w1");

    fake_forget(ctx);
    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_OVERLOADED);
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    fake_advance(ctx, LEASE_MS);
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    fake_refuse(ctx, MUSTER_QUEUE, MUSTER_OK);
    fake_advance(ctx, 5);
    cr_assert_eq(told_queue(ctx)->state, node_state_AWAY);
    cr_assert_eq(told_queue(ctx)->state, node_state_LOST);
    fake_free(&ctx);
}

Test(nodes, a_full_bus_gets_attempts_and_cancels_later_and_in_order)
{
    struct muster_ctx *ctx = start();
    struct muster_id job = muster_id_new(FAKE_START_MS);
    int64_t attachment = attach(ctx, "w1");

    fake_refuse(ctx, "bus", MUSTER_OVERLOADED);
    run(ctx, "w1", attachment, &job, 1);
    fake_call(ctx, "", 0, &agent_cancel_type, &(struct agent_cancel){.job = job, .attempt = 1});
    fake_refuse(ctx, "bus", MUSTER_OK);
    fake_advance(ctx, 5);
    cr_assert_eq(fake_take_to(ctx, "bus")->type, &agent_run_type);
    cr_assert_eq(fake_take_to(ctx, "bus")->type, &agent_cancel_type);
    fake_free(&ctx);
}

Test(nodes, a_full_log_refuses_an_attach_which_may_come_again)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");

    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OVERLOADED);
    expect_failed(ctx, MUSTER_OVERLOADED, "try again");
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OK);
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OVERLOADED, "what is on disk is looked up");
    expect_failed(ctx, MUSTER_OVERLOADED, "looked up");
    fake_advance(ctx, 1000);
    disk(ctx);
    attach(ctx, "w1");
    fake_free(&ctx);
}

/* ---- a disk that fails ---- */

Test(nodes, what_could_not_be_written_is_not_acknowledged_and_comes_again)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct held_attempt held = {.job = job, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    disk(ctx);
    cr_assert_eq(acked(ctx), 1);
    send_chunk(ctx, attachment, 2, &job, 1, "two");
    disk_fails(ctx);
    cr_assert_eq(acked(ctx), -1);
    expect_failed(ctx, MUSTER_CONFLICT, "not attached");
    cr_assert_not_null(answer(ctx, &worker_detached_type));
    in.held.items = &held;
    in.held.count = 1;
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_STORAGE_FULL);
    expect_failed(ctx, MUSTER_STORAGE_FULL, "looked up");
    fake_advance(ctx, 200);
    disk_fails(ctx); /* still */
    cr_assert_eq(hear_log(ctx), 0, "not in a circle");
    fake_advance(ctx, 200);
    disk(ctx);
    attachment = attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert_eq(welcome.received, 1, "as it is on disk");
    send_chunk(ctx, attachment, 2, &job, 1, "two");
    disk(ctx);
    cr_assert_eq(acked(ctx), 2);
    cr_assert_str_eq(written, "one two ");
    fake_free(&ctx);
}

Test(nodes, a_commit_that_was_lost_before_a_flush_that_was_not_is_noticed)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job), flush;

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    flush = hear_log(ctx);
    write_handed(ctx, false);
    answer_flush(ctx, flush, MUSTER_OK);
    cr_assert_eq(acked(ctx), -1);
    cr_assert_not_null(answer(ctx, &worker_detached_type));
    fake_free(&ctx);
}

Test(nodes, an_attach_that_cannot_be_written_fails)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");

    ask(ctx, &key_one, &worker_attach_type, &in);
    disk_fails(ctx);
    expect_failed(ctx, MUSTER_STORAGE_FULL, "written");
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    fake_advance(ctx, 200);
    disk(ctx);
    attach(ctx, "w1");
    fake_free(&ctx);
}

/* ---- restarts ---- */

Test(nodes, after_a_restart_workers_are_away_with_a_whole_lease)
{
    struct muster_ctx *ctx = start();
    int64_t attachment = attach(ctx, "w1");
    const struct queue_node *told;

    fake_advance(ctx, 10000);
    fake_forget(ctx);
    restart(ctx);
    told = told_queue(ctx);
    cr_assert_str_eq(told->node, "w1");
    cr_assert_eq(told->state, node_state_AWAY);
    cr_assert_eq(told->teams.count, 2);
    cr_assert_eq(beat(ctx, attachment, false), MUSTER_CONFLICT, "it is to attach again");
    fake_advance(ctx, LEASE_MS - 1);
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    fake_advance(ctx, 1);
    cr_assert_eq(told_queue(ctx)->state, node_state_LOST);
    fake_free(&ctx);
}

Test(nodes, events_that_were_on_disk_before_a_restart_are_not_written_again_and_others_are)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct held_attempt held = {.job = job, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    hear_log(ctx);
    write_handed(ctx, true); /* on disk, but not acknowledged any more */
    send_chunk(ctx, attachment, 2, &job, 1, "two");
    hear_log(ctx);
    write_handed(ctx, false); /* never written */
    fake_forget(ctx);
    restart(ctx);
    in.held.items = &held;
    in.held.count = 1;
    attachment = attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert_eq(welcome.received, 1);
    send_chunk(ctx, attachment, 1, &job, 1, "one");
    cr_assert_eq(acked(ctx), 1, "at once");
    send_chunk(ctx, attachment, 2, &job, 1, "two");
    disk(ctx);
    cr_assert_eq(acked(ctx), 2);
    cr_assert_str_eq(written, "one two ");
    fake_free(&ctx);
}

Test(nodes, what_is_on_its_way_to_the_disk_at_a_restart_counts)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OVERLOADED, "it may be there in a moment");
    disk(ctx);
    fake_forget(ctx);
    attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert_eq(welcome.received, 1);
    fake_free(&ctx);
}

Test(nodes, reports_from_before_an_attachment_are_handed_on_again)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct held_attempt held = {.job = job, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    send_report(ctx, attachment, 1, &job, 1);
    send_chunk(ctx, attachment, 2, &job, 1, "x");
    disk(ctx);
    restart(ctx);
    in.held.items = &held;
    in.held.count = 1;
    attachment = attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert_eq(welcome.received, 2);
    send_report(ctx, attachment, 1, &job, 1);
    cr_assert_eq(acked(ctx), -1, "a report is not received with the events");
    disk(ctx);
    cr_assert_eq(reports, 2);
    reported(ctx, &last_report);
    cr_assert_eq(acked(ctx), 1);
    fake_free(&ctx);
}

Test(nodes, another_life_of_a_worker_begins_its_numbers_anew)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    send_chunk(ctx, attachment, 9, &job, 1, "one");
    disk(ctx);
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    in.epoch = "e2";
    attachment = attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert_eq(welcome.received, 0);
    run(ctx, "w1", attachment, &job, 2);
    send_chunk(ctx, attachment, 1, &job, 2, "two");
    disk(ctx);
    cr_assert_str_eq(written, "one two ");
    fake_free(&ctx);
}

Test(nodes, a_worker_waits_until_what_it_sent_before_is_on_disk)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OVERLOADED);
    disk(ctx);
    fake_forget(ctx);
    attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert_eq(welcome.received, 1);
    fake_free(&ctx);
}

/* ---- draining, leaving, forgetting ---- */

static muster_err
operate(struct muster_ctx *ctx, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.id = 5, .reply_to = "http/1", .trace = "", .principal.name = "admin"};

    return fake_deliver(ctx, &envelope, type, body);
}

static const struct node_drained *
drained(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &node_drained_type);

    if (sent)
        cr_assert_str_eq(sent->to, "http/1");
    return sent ? sent->body : NULL;
}

Test(nodes, an_operator_drains_a_worker_and_that_stays)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    const struct node_drained *answered;
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;

    fake_forget(ctx);
    cr_assert_eq(operate(ctx, &node_drain_type, &(struct node_drain){.node = "w1", .draining = true}), MUSTER_OK);
    cr_assert_null(drained(ctx), "not before it is on disk");
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    disk(ctx);
    answered = drained(ctx);
    cr_assert_eq(answered->state, node_state_DRAINING);
    cr_assert_eq(answered->running, 1);
    cr_assert_eq(told_last(ctx)->state, node_state_DRAINING);
    beat(ctx, attachment, false);
    cr_assert(((const struct worker_heard *)answer(ctx, &worker_heard_type))->draining);
    restart(ctx);
    attachment = attach_with(ctx, &in, NULL, 0, &welcome);
    cr_assert(welcome.draining);
    cr_assert(view_of(ctx)->nodes[0].draining);
    fake_forget(ctx);
    operate(ctx, &node_drain_type, &(struct node_drain){.node = "w1"});
    disk(ctx);
    cr_assert_eq(drained(ctx)->state, node_state_UP);
    cr_assert_eq(told_last(ctx)->state, node_state_UP);
    cr_assert_eq(operate(ctx, &node_drain_type, &(struct node_drain){.node = "nobody"}), MUSTER_NOT_FOUND);
    fake_free(&ctx);
}

Test(nodes, a_busy_worker_can_be_drained)
{
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job);
    int64_t flush;

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    flush = hear_log(ctx);
    operate(ctx, &node_drain_type, &(struct node_drain){.node = "w1", .draining = true});
    send_chunk(ctx, attachment, 2, &job, 1, "two");
    write_handed(ctx, true);
    answer_flush(ctx, flush, MUSTER_OK);
    cr_assert_null(drained(ctx));
    disk(ctx);
    cr_assert_not_null(drained(ctx));
    cr_assert_eq(acked(ctx), 1);
    cr_assert_eq(acked(ctx), 2);
    fake_free(&ctx);
}

Test(nodes, a_drain_that_cannot_be_written_fails)
{
    struct muster_ctx *ctx = start();

    attach(ctx, "w1");
    operate(ctx, &node_drain_type, &(struct node_drain){.node = "w1", .draining = true});
    disk_fails(ctx);
    cr_assert_null(drained(ctx));
    cr_assert_str_eq(((const struct failed *)fake_take_to(ctx, "http/1")->body)->code, "STORAGE_FULL");
    fake_advance(ctx, 200);
    disk(ctx);
    cr_assert_not(view_of(ctx)->nodes[0].draining, "as it is on disk");
    fake_free(&ctx);
}

Test(nodes, a_worker_that_is_about_to_end_gets_no_jobs)
{
    struct muster_ctx *ctx = start();
    int64_t attachment = attach(ctx, "w1");

    fake_forget(ctx);
    beat(ctx, attachment, true);
    cr_assert_eq(told_last(ctx)->state, node_state_DRAINING);
    cr_assert_not(view_of(ctx)->nodes[0].draining, "no operator wants it");
    disk(ctx);
    cr_assert_str_eq(last_change, "w1 draining");
    beat(ctx, attachment, false);
    cr_assert_eq(told_last(ctx)->state, node_state_UP);
    fake_free(&ctx);
}

Test(nodes, a_worker_leaves_when_it_has_no_attempts)
{
    struct muster_ctx *ctx = start();
    struct muster_id job, id = muster_id_of("node", "w1"), other = muster_id_new(FAKE_START_MS);
    int64_t attachment = attach_and_run(ctx, &job);
    struct worker_leave leave = {.attachment = attachment};
    const struct fake_sent *sent;

    cr_assert_eq(ask(ctx, &key_one, &worker_leave_type, &leave), MUSTER_CONFLICT);
    expect_failed(ctx, MUSTER_CONFLICT, "still has 1");
    send_report(ctx, attachment, 1, &job, 1);
    disk(ctx);
    reported(ctx, &last_report);
    fake_forget(ctx);
    cr_assert_eq(ask(ctx, &key_one, &worker_leave_type, &leave), MUSTER_OK);
    cr_assert_eq(told_last(ctx)->state, node_state_LEFT, "it gets nothing from now on");
    run(ctx, "w1", attachment, &other, 1);
    cr_assert_null(fake_take_type(ctx, &agent_run_type));
    cr_assert_null(fake_take_type(ctx, &worker_left_type), "not before it is on disk");
    beat(ctx, attachment, true);
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    disk(ctx);
    cr_assert_str_eq(((const struct worker_left *)answer(ctx, &worker_left_type))->name, "w1");
    sent = fake_take_type(ctx, &worker_detached_type);
    cr_assert_eq(sent->envelope.id, attachment);
    cr_assert(((const struct node *)fake_get(ctx, &node_type, &id))->left);
    cr_assert_eq(fake_said(ctx, "node-left"), 1);
    fake_advance(ctx, 10 * LEASE_MS);
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_LEFT);
    fake_forget(ctx);
    restart(ctx);
    cr_assert_eq(told_queue(ctx)->state, node_state_LEFT, "a job may have been on its way to it");
    cr_assert_null(fake_take_to(ctx, MUSTER_QUEUE));
    attach(ctx, "w1");
    cr_assert_not(((const struct node *)fake_get(ctx, &node_type, &id))->left);
    fake_free(&ctx);
}

Test(nodes, only_one_that_is_gone_can_be_forgotten)
{
    struct muster_ctx *ctx = start();
    struct muster_id id = muster_id_of("node", "w1");
    struct node_forget forget = {.node = "w1"};

    cr_assert_eq(operate(ctx, &node_forget_type, &forget), MUSTER_NOT_FOUND);
    attach(ctx, "w1");
    cr_assert_eq(operate(ctx, &node_forget_type, &forget), MUSTER_CONFLICT);
    fake_advance(ctx, LEASE_MS * 2 / 3);
    cr_assert_eq(operate(ctx, &node_forget_type, &forget), MUSTER_CONFLICT, "within its lease");
    fake_advance(ctx, LEASE_MS);
    disk(ctx);
    cr_assert_eq(operate(ctx, &node_forget_type, &forget), MUSTER_OK);
    cr_assert_null(drained(ctx));
    disk(ctx);
    cr_assert_eq(drained(ctx)->state, node_state_LOST);
    cr_assert_null(fake_get(ctx, &node_type, &id));
    cr_assert_eq(view_of(ctx)->count, 0);
    attach(ctx, "w1");
    fake_free(&ctx);
}

Test(nodes, one_that_comes_back_while_it_is_forgotten_stays)
{
    struct muster_ctx *ctx = start();
    struct muster_id id = muster_id_of("node", "w1");
    struct worker_attach in = attach_of("w1");

    attach(ctx, "w1");
    fake_advance(ctx, LEASE_MS);
    disk(ctx);
    fake_forget(ctx);
    operate(ctx, &node_forget_type, &(struct node_forget){.node = "w1"});
    cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OK);
    disk(ctx);
    cr_assert_not_null(drained(ctx));
    cr_assert(told_last(ctx)->attached);
    noded(ctx, "w1", last_id, NULL, 0);
    cr_assert_not_null(fake_take_type(ctx, &worker_welcome_type));
    cr_assert_not_null(fake_get(ctx, &node_type, &id));
    fake_free(&ctx);
}

Test(nodes, what_is_answered_is_shown_already)
{
    struct muster_ctx *ctx = start();
    struct worker_attach in = attach_of("w1");

    ask(ctx, &key_one, &worker_attach_type, &in);
    disk(ctx);
    fake_batch_begin(ctx);
    noded(ctx, "w1", last_id, NULL, 0);
    cr_assert_not_null(fake_take_type(ctx, &worker_welcome_type));
    cr_assert_eq(view_of(ctx)->count, 1);
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_UP);
    fake_batch_end(ctx);
    operate(ctx, &node_drain_type, &(struct node_drain){.node = "w1", .draining = true});
    fake_batch_begin(ctx);
    disk(ctx);
    cr_assert_not_null(drained(ctx));
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_DRAINING);
    fake_batch_end(ctx);
    fake_advance(ctx, LEASE_MS * 2 / 3);
    fake_advance(ctx, LEASE_MS);
    disk(ctx);
    operate(ctx, &node_forget_type, &(struct node_forget){.node = "w1"});
    fake_batch_begin(ctx);
    disk(ctx);
    cr_assert_not_null(drained(ctx));
    cr_assert_eq(view_of(ctx)->count, 0);
    fake_batch_end(ctx);
    fake_free(&ctx);
}

/* It may send again what was on disk before it was forgotten, and nobody knows that any more. */
Test(nodes, one_that_comes_back_after_it_was_forgotten_is_to_drop_what_it_has)
{
    struct muster_ctx *ctx = start();
    struct muster_id job, since = muster_id_new(FAKE_START_MS);
    int64_t attachment = attach_and_run(ctx, &job);
    struct held_attempt held[2] = {{.job = job, .attempt = 1}, {.job = since, .attempt = 1}};
    struct worker_attach in = attach_of("w1");
    const struct worker_welcome *welcome;
    int i;

    send_chunk(ctx, attachment, 1, &job, 1, "one");
    disk(ctx);
    fake_advance(ctx, LEASE_MS * 2 / 3);
    fake_advance(ctx, LEASE_MS);
    disk(ctx);
    operate(ctx, &node_forget_type, &(struct node_forget){.node = "w1"});
    disk(ctx);
    in.held.items = held;
    for (i = 1; i <= 2; i++) { /* the second time because it did not get its welcome */
        fake_forget(ctx);
        in.held.count = (size_t)i;
        cr_assert_eq(ask(ctx, &key_one, &worker_attach_type, &in), MUSTER_OK);
        attachment = last_id;
        disk(ctx);
        cr_assert_eq(told_last(ctx)->held.count, (size_t)i - 1, "only what it got since");
        noded(ctx, "w1", attachment, NULL, 0);
        welcome = answer(ctx, &worker_welcome_type);
        cr_assert_eq(welcome->stale.count, 1);
        cr_assert(muster_id_equal(&welcome->stale.items[0].job, &job));
        cr_assert_eq(view_of(ctx)->nodes[0].running, i - 1);
        run(ctx, "w1", attachment, &since, 1);
    }
    send_chunk(ctx, attachment, 1, &job, 1, "one");
    send_chunk(ctx, attachment, 2, &since, 1, "since");
    disk(ctx);
    cr_assert_str_eq(written, "one since ");
    fake_free(&ctx);
}

Test(nodes, workers_under_ever_new_names_are_forgotten_in_the_end)
{
    enum { NAMES = 1010 };
    struct muster_ctx *ctx = start();
    struct muster_id first = muster_id_of("node", "pod-0");
    char name[32];
    int i;

    for (i = 0; i < NAMES; i++) {
        struct worker_leave leave = {.attachment = 0};

        snprintf(name, sizeof name, "pod-%d", i);
        fake_set_clock(ctx, FAKE_START_MS + i);
        leave.attachment = attach(ctx, name);
        ask(ctx, &key_one, &worker_leave_type, &leave);
        disk(ctx);
        fake_forget(ctx);
    }
    cr_assert_eq(view_of(ctx)->count, 1006, "1000 and twice max_workers");
    cr_assert_null(fake_get(ctx, &node_type, &first));
    fake_free(&ctx);
}

Test(nodes, a_full_log_refuses_what_operators_want_and_a_leave)
{
    struct muster_ctx *ctx = start();
    int64_t attachment = attach(ctx, "w1");
    struct worker_leave leave = {.attachment = attachment};

    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    cr_assert_eq(operate(ctx, &node_drain_type, &(struct node_drain){.node = "w1", .draining = true}),
                 MUSTER_OVERLOADED);
    cr_assert_eq(ask(ctx, &key_one, &worker_leave_type, &leave), MUSTER_OVERLOADED);
    cr_assert_eq(view_of(ctx)->nodes[0].state, node_state_UP);
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OK);
    cr_assert_eq(ask(ctx, &key_one, &worker_leave_type, &leave), MUSTER_OK);
    cr_assert_eq(ask(ctx, &key_one, &worker_leave_type, &leave), MUSTER_OK, "it may ask again");
    disk(ctx);
    cr_assert_not_null(fake_take_type(ctx, &worker_left_type));
    cr_assert_not_null(fake_take_type(ctx, &worker_left_type));
    cr_assert_eq(fake_said(ctx, "node-left"), 1);
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    cr_assert_eq(operate(ctx, &node_forget_type, &(struct node_forget){.node = "w1"}), MUSTER_OVERLOADED);
    fake_free(&ctx);
}

Test(nodes, a_worker_that_cannot_be_removed_is_not_forgotten)
{
    struct muster_ctx *ctx = start();
    struct muster_id id = muster_id_of("node", "w1");

    attach(ctx, "w1");
    fake_advance(ctx, LEASE_MS);
    disk(ctx);
    operate(ctx, &node_forget_type, &(struct node_forget){.node = "w1"});
    disk_fails(ctx);
    cr_assert_null(drained(ctx));
    cr_assert_str_eq(((const struct failed *)fake_take_to(ctx, "http/1")->body)->code, "STORAGE_FULL");
    fake_advance(ctx, 200);
    disk(ctx);
    cr_assert_eq(view_of(ctx)->count, 1);
    cr_assert_not_null(fake_get(ctx, &node_type, &id));
    fake_free(&ctx);
}

/* ---- views of teams ---- */

static const struct muster_agent_view *
team_view(struct muster_ctx *ctx, const char *name)
{
    char board[80];

    snprintf(board, sizeof board, MUSTER_AGENT_PREFIX "%s", name);
    return fake_board(ctx, board);
}

Test(nodes, processes_of_all_workers_are_shown_as_their_teams)
{
    struct muster_ctx *ctx = start();
    struct worker_process processes[2] = {
        {.team = "remote", .pid = 10, .state = process_state_BUSY, .turns = 3, .session = "s1"},
        {.team = "gpu", .pid = 11, .state = process_state_IDLE}};
    struct worker_problem problem = {.team = "remote", .text = "it broke", .at_ms = 5};
    struct worker_beat in = {.processes = {processes, 2}, .problems = {&problem, 1}};
    int64_t one, two;

    cr_assert_eq(team_view(ctx, "remote") ? team_view(ctx, "remote")->count : 0, 0);
    one = attach(ctx, "w1");
    two = attach(ctx, "w2");
    in.attachment = one;
    ask(ctx, &key_one, &worker_beat_type, &in);
    processes[0].pid = 20;
    in.attachment = two;
    in.processes.count = 1;
    in.problems.count = 0;
    ask(ctx, &key_one, &worker_beat_type, &in);
    cr_assert_eq(team_view(ctx, "remote")->count, 2);
    cr_assert_eq(team_view(ctx, "remote")->processes[0].pid, 10);
    cr_assert_str_eq(team_view(ctx, "remote")->processes[0].session, "s1");
    cr_assert_eq(team_view(ctx, "remote")->processes[1].pid, 20);
    cr_assert_str_eq(team_view(ctx, "remote")->problem, "it broke");
    cr_assert_eq(team_view(ctx, "gpu")->count, 1);
    cr_assert_null(team_view(ctx, "local"), "its agent shows itself");
    fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = one});
    fake_advance(ctx, LEASE_MS * 2 / 3);
    beat(ctx, two, false);
    fake_advance(ctx, LEASE_MS / 3);
    cr_assert_eq(team_view(ctx, "remote")->count, 0, "one is lost, the other says that it has none");
    cr_assert_eq(team_view(ctx, "gpu")->count, 0);
    fake_free(&ctx);
}

/* ---- everything at once ---- */

/* The worker's connection, the actor, the whole hub or the disk fails.  What the log has not written by then: goes with
 * the hub, unless that was just in time; fails with the disk; and is written later in all other cases. */
static void
break_something(struct muster_ctx *ctx, unsigned what, bool in_time, int64_t attachment)
{
    if (what == 0) {
        fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
    } else if (what == 1) {
        cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    } else if (what == 2) {
        hear_log(ctx);
        write_handed(ctx, in_time);
        fake_forget(ctx);
        cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    } else {
        int64_t flush = hear_log(ctx);

        hear_log(ctx);
        write_handed(ctx, false);
        if (flush)
            answer_flush(ctx, flush, MUSTER_STORAGE_FULL);
        else
            fake_call(ctx, "", 0, &node_gone_type, &(struct node_gone){.attachment = attachment});
        fake_advance(ctx, 200);
    }
    disk(ctx);
    fake_forget(ctx);
}

/* Parcels and breaks in random order: each chunk is on disk once, in order. */
static void
send_through_breaks(unsigned random)
{
    enum { CHUNKS = 500 };
    struct muster_ctx *ctx = start();
    struct muster_id job;
    int64_t attachment = attach_and_run(ctx, &job), next = 1, confirmed = 0, seq;
    struct held_attempt held = {.job = job, .attempt = 1};
    struct worker_attach in = attach_of("w1");
    struct worker_welcome welcome;
    struct muster_buf expected = {0};
    char text[32];

    in.held.items = &held;
    in.held.count = 1;
    while (confirmed < CHUNKS) {
        random = random * 1103515245 + 12345;
        if ((random >> 16 & 15) == 0) {
            break_something(ctx, random >> 20 & 3, (random >> 22 & 1) != 0, attachment);
            attachment = attach_with(ctx, &in, NULL, 0, &welcome);
            cr_assert_geq(welcome.received, confirmed, "what was acknowledged is there");
            confirmed = welcome.received;
            next = confirmed + 1;
        } else if ((random >> 16 & 15) < 3 || next > CHUNKS) {
            disk(ctx);
        } else {
            snprintf(text, sizeof text, "%lld", (long long)next);
            (void)send_chunk(ctx, attachment, next++, &job, 1, text);
        }
        while ((seq = acked(ctx)) >= 0)
            confirmed = seq > confirmed ? seq : confirmed;
    }
    for (seq = 1; seq <= CHUNKS; seq++)
        muster_buf_printf(&expected, "%lld ", (long long)seq);
    cr_assert_str_eq(written, expected.data);
    written[0] = '\0';
    muster_buf_free(&expected);
    fake_free(&ctx);
}

Test(nodes, each_event_is_written_once_whatever_happens)
{
    unsigned seed;

    for (seed = 1; seed <= 20; seed++)
        send_through_breaks(seed * 7919);
}
