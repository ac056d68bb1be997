/* SPDX-License-Identifier: MPL-2.0 */
/* Webhooks: each is told of the events it wants, in their order, at least once, whatever happens on the way. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/webhook.h"
#include "tests/actor/fake/fake_ctx.h"

#define URL "https://api.example.com/hooks/muster"
#define OTHER "https://other.example.com/hooks"
#define OPTIONS "webhooks: {retry_delay: 10s, max_retry_delay: 1h, max_tries: 4}\n"
#define SECRET "0123456789abcdef0123456789abcdef"

/* ---- the log ----------------------------------------------------------------------------------------------------- */

/* Say that everything up to the last number given out is settled. */
static void
settle(struct muster_ctx *ctx)
{
    struct muster_store_stats stats;
    struct feed_events feed = {.settled = 0};

    muster_store_stats(muster_ctx_store(ctx), &stats);
    feed.settled = stats.last_seq;
    cr_assert_eq(fake_deliver(ctx, NULL, &feed_events_type, &feed), MUSTER_OK);
}

/* Answer the question that the actor asks at its start and when it missed events. */
static void
answer_flush(struct muster_ctx *ctx)
{
    const struct fake_sent *sent = fake_take_type(ctx, &log_flush_type);
    struct muster_store_stats stats;
    struct store_committed committed;
    struct muster_envelope envelope;

    cr_assert_not_null(sent);
    cr_assert_str_eq(sent->to, MUSTER_LOG);
    cr_assert_str_eq(sent->envelope.reply_to, MUSTER_WEBHOOK);
    muster_store_stats(muster_ctx_store(ctx), &stats);
    committed.seq = stats.last_seq;
    envelope = (struct muster_envelope){.id = sent->envelope.id};
    cr_assert_eq(fake_deliver(ctx, &envelope, &store_committed_type, &committed), MUSTER_OK);
}

static struct muster_ctx *
start(const char *yaml)
{
    struct muster_ctx *ctx = fake_new(yaml);

    cr_assert_eq(fake_start(ctx, &muster_webhook_class, MUSTER_WEBHOOK, NULL), MUSTER_OK);
    cr_assert_eq(fake_commit_all(ctx), 1, "the server's secret");
    answer_flush(ctx);
    cr_assert_eq(fake_sent_count(ctx), 0);
    return ctx;
}

static void
restart(struct muster_ctx *ctx)
{
    fake_forget(ctx); /* what was on its way to the disk is lost */
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    answer_flush(ctx);
}

static const struct muster_id job_id = {{0x01, 0x8b, 0xcf, 0xe5, 0x68, 0, 0x70, 0, 0xaa, 0x3a, 1, 2, 3, 4, 5, 6}};

/* Put an event on disk; its number. */
static int64_t
write_event(struct muster_ctx *ctx, const struct muster_type *type, const char *team, const void *body)
{
    struct muster_batch *batch = muster_batch_new(muster_ctx_store(ctx));
    struct event event = {.seq = muster_log_number(muster_ctx_store(ctx)),
                          .at_ms = muster_now_ms(ctx),
                          .type = type->wire,
                          .team = team,
                          .job = job_id,
                          .attempt = 1};
    struct muster_buf packed = {0};

    muster_pack(type, body, &packed);
    event.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    muster_batch_append(batch, &event);
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_batch_free(&batch);
    muster_buf_free(&packed);
    return event.seq;
}

/* Publish it, with `settled`. */
static void
publish(struct muster_ctx *ctx, const struct muster_type *type, const char *team, int64_t seq, int64_t settled)
{
    struct event event = {.seq = seq, .at_ms = muster_now_ms(ctx), .type = type->wire, .team = team, .job = job_id};
    struct feed_events feed = {.events = {&event, 1}, .settled = settled};

    cr_assert_eq(fake_deliver(ctx, NULL, &feed_events_type, &feed), MUSTER_OK);
}

static int64_t
happen(struct muster_ctx *ctx, const struct muster_type *type, const char *team, const void *body)
{
    int64_t seq = write_event(ctx, type, team, body);

    publish(ctx, type, team, seq, seq);
    return seq;
}

static int64_t
complete(struct muster_ctx *ctx, const char *team)
{
    static const struct job_completed body = {.duration_ms = 5};

    return happen(ctx, &job_completed_type, team, &body);
}

static int64_t
chunk(struct muster_ctx *ctx)
{
    static const struct job_chunk body = {.text = "x"};

    return happen(ctx, &job_chunk_type, "backend", &body);
}

/* ---- webhooks ---------------------------------------------------------------------------------------------------- */

static const char *const completed_only[] = {"job.completed"};
static const char *const backend_only[] = {"backend"};

static struct webhook
hook_of(const char *url)
{
    return (struct webhook){.url = url,
                            .events = {completed_only, 1},
                            .secret = {(const uint8_t *)SECRET, 32},
                            .state = webhook_state_ACTIVE,
                            .from = "-"};
}

/* The answer to the message that "asker" sent. */
static const struct fake_sent *
answer_of(struct muster_ctx *ctx, const struct muster_type *type)
{
    const struct fake_sent *sent = fake_take_to(ctx, "asker");

    cr_assert_not_null(sent);
    cr_assert_eq(sent->type, type, "%s", sent->type->wire);
    return sent;
}

static struct muster_id
create(struct muster_ctx *ctx, const struct webhook *record)
{
    struct muster_envelope envelope = {
        .id = 5, .reply_to = "asker", .principal = {.name = "ci", .key = muster_id_of("key", "ci")}};
    struct webhook_create in = {.webhook = record};
    const struct webhook_created *created;

    cr_assert_eq(fake_deliver(ctx, &envelope, &webhook_create_type, &in), MUSTER_OK);
    cr_assert_null(fake_take_to(ctx, "asker"), "not before it is on disk");
    cr_assert(fake_commit(ctx));
    created = answer_of(ctx, &webhook_created_type)->body;
    return created->webhook->id;
}

static struct muster_id
create_simple(struct muster_ctx *ctx, const char *url)
{
    struct webhook record = hook_of(url);

    return create(ctx, &record);
}

static const struct webhook *
record_of(struct muster_ctx *ctx, const struct muster_id *id)
{
    return fake_get(ctx, &webhook_type, id);
}

static void
change(struct muster_ctx *ctx, const struct webhook_change *in)
{
    cr_assert_eq(fake_call(ctx, "asker", 6, &webhook_change_type, in), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    (void)answer_of(ctx, &webhook_created_type);
}

/* The number of the event that request `index` told of. */
static int64_t
told(const struct muster_ctx *ctx, size_t index)
{
    return atoll(strchr(fake_fetch_header(fake_fetch_at(ctx, index), "webhook-id"), '-') + 1);
}

static void
take(struct muster_ctx *ctx, size_t index)
{
    fake_fetch_answer(ctx, index, 204, -1, NULL);
    (void)fake_commit_all(ctx);
}

static const char *
body_of(const struct muster_ctx *ctx, size_t index)
{
    return fake_fetch_at(ctx, index)->spec.body;
}

/* What signs request `index` with that secret, computed here. */
static void
sign(const struct muster_ctx *ctx, size_t index, const void *secret, size_t size, char out[64])
{
    const struct fake_fetch *fetch = fake_fetch_at(ctx, index);
    struct muster_buf text = {0};
    uint8_t digest[MUSTER_DIGEST];

    muster_buf_printf(&text, "%s.%s.%s", fake_fetch_header(fetch, "webhook-id"),
                      fake_fetch_header(fetch, "webhook-timestamp"), (const char *)fetch->spec.body);
    muster_hmac_sha256(secret, size, text.data, text.size, digest);
    memcpy(out, "v1,", 3);
    muster_base64(digest, sizeof digest, out + 3);
    muster_buf_free(&text);
}

/* ---- being told -------------------------------------------------------------------------------------------------- */

Test(hooks, event_is_told_signed_under_its_cursor)
{
    static const struct muster_pair own[] = {{"X-Token", "t"}, {"Webhook-Signature", "mine"}};
    struct muster_ctx *ctx = start(NULL);
    struct webhook hook = hook_of(URL);
    struct job job = {.id = job_id,
                      .kind = job_kind_ASK,
                      .team = "backend",
                      .state = job_state_COMPLETED,
                      .priority = job_priority_NORMAL,
                      .prompt = "?",
                      .from = "ci",
                      .created_ms = 1,
                      .timeout_ms = 1,
                      .max_attempts = 1,
                      .session_id = "s-1",
                      .result = "Yes\nit is"};
    const struct fake_fetch *fetch;
    const struct webhook *record;
    char expected[64], cursor[MUSTER_CURSOR_TEXT];
    struct muster_id id;
    int64_t before, seq;

    before = complete(ctx, "backend");
    hook.headers = (struct muster_pairs){own, 2};
    id = create(ctx, &hook);
    record = record_of(ctx, &id);
    cr_assert_eq(record->cursor, before, "it begins with what comes from now on");
    cr_assert_str_eq(record->from, "ci");
    cr_assert_eq(record->created_ms, FAKE_START_MS);
    cr_assert_eq(fake_fetch_count(ctx), 0);
    fake_put(ctx, &job_type, &job);
    seq = complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 1);
    fetch = fake_fetch_at(ctx, 0);
    cr_assert_str_eq(fetch->spec.url, URL);
    cr_assert_str_eq(fetch->spec.method, "POST");
    cr_assert_str_eq(fake_fetch_header(fetch, "Content-Type"), "application/json");
    cr_assert_str_eq(fake_fetch_header(fetch, "X-Token"), "t");
    cr_assert_str_eq(fake_fetch_header(fetch, "webhook-timestamp"), "1700000000");
    muster_cursor_text(muster_ctx_store(ctx), seq, cursor);
    cr_assert_str_eq(fake_fetch_header(fetch, "webhook-id"), cursor);
    sign(ctx, 0, SECRET, 32, expected);
    cr_assert_str_eq(fake_fetch_header(fetch, "webhook-signature"), expected);
    cr_assert_str_eq(body_of(ctx, 0),
                     "{\"type\":\"job.completed\",\"timestamp\":\"2023-11-14T22:13:20.000Z\",\"data\":{"
                     "\"messageId\":\"msg_018bcfe5-6800-7000-aa3a-010203040506\","
                     "\"jobId\":\"job_018bcfe5-6800-7000-aa3a-010203040506\",\"team\":\"backend\","
                     "\"status\":\"completed\",\"from\":\"ci\",\"sessionId\":\"s-1\","
                     "\"result\":{\"summary\":\"Yes\",\"details\":\"Yes\\nit is\"},\"duration\":5,"
                     "\"timestamp\":1700000000000}}");
    cr_assert_eq(record_of(ctx, &id)->cursor, before);
    take(ctx, 0);
    record = record_of(ctx, &id);
    cr_assert_eq(record->cursor, seq);
    cr_assert_eq(record->delivered, 1);
    cr_assert_eq(record->delivered_ms, FAKE_START_MS);
    cr_assert_eq(record->status, 204);
    cr_assert_eq(record->tries, 0);
    fake_free(&ctx);
}

static void
expect_data(struct muster_ctx *ctx, size_t index, const char *data)
{
    cr_assert_not_null(strstr(body_of(ctx, index), data), "%s\nin %s", data, body_of(ctx, index));
    take(ctx, index);
}

/* The job's record is no longer kept: what the event has is told. */
Test(hooks, each_event_has_its_data)
{
    static const char *const all[] = {"job.queued",    "job.completed", "job.failed",
                                      "job.cancelled", "team.paused",   "team.resumed"};
    static const struct job_queued queued = {.priority = job_priority_HIGH, .position = 3};
    static const struct job_failed failed = {.code = "TIMEOUT", .duration_ms = 7};
    static const struct job_cancelled cancelled = {.by = "me"};
    static const struct team_paused paused = {.by = "ops"};
    static const struct team_resumed resumed = {.by = "dev"};
    struct muster_ctx *ctx = start(NULL);
    struct webhook hook = hook_of(URL);

    hook.events = (struct muster_strs){all, 6};
    (void)create(ctx, &hook);
    (void)happen(ctx, &job_queued_type, "backend", &queued);
    expect_data(ctx, 0, "\"team\":\"backend\",\"status\":\"queued\",\"priority\":\"high\",\"position\":3,");
    (void)complete(ctx, "backend");
    expect_data(ctx, 1, "\"status\":\"completed\",\"duration\":5,");
    (void)happen(ctx, &job_failed_type, "backend", &failed);
    expect_data(ctx, 2,
                "\"status\":\"failed\",\"error\":\"Request timeout exceeded\",\"code\":\"TIMEOUT\",\"duration\":7,");
    (void)happen(ctx, &job_cancelled_type, "backend", &cancelled);
    expect_data(ctx, 3, "\"status\":\"cancelled\",\"by\":\"me\",\"duration\":0,");
    (void)happen(ctx, &team_paused_type, "backend", &paused);
    expect_data(ctx, 4, "\"data\":{\"team\":\"backend\",\"by\":\"ops\"}}");
    (void)happen(ctx, &team_resumed_type, "backend", &resumed);
    expect_data(ctx, 5, "\"type\":\"team.resumed\"");
    cr_assert_eq(fake_fetch_count(ctx), 6);
    fake_free(&ctx);
}

Test(hooks, only_wanted_events_of_wanted_teams_are_told)
{
    static const struct job_failed failed = {.code = "TIMEOUT"};
    struct muster_ctx *ctx = start(NULL);
    struct webhook hook = hook_of(URL);
    int64_t wanted;

    hook.teams = (struct muster_strs){backend_only, 1};
    (void)create(ctx, &hook);
    (void)complete(ctx, "frontend");
    (void)happen(ctx, &job_failed_type, "backend", &failed);
    (void)chunk(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 0);
    wanted = complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 1);
    cr_assert_eq(told(ctx, 0), wanted);
    fake_free(&ctx);
}

Test(hooks, events_are_told_one_at_a_time_in_their_order)
{
    struct muster_ctx *ctx = start(NULL);
    int64_t seqs[10];
    size_t i;

    (void)create_simple(ctx, URL);
    for (i = 0; i < 10; i++) {
        (void)chunk(ctx);
        seqs[i] = complete(ctx, "backend");
        cr_assert_eq(fake_fetch_open(ctx), 1);
    }
    for (i = 0; i < 10; i++) {
        cr_assert_eq(told(ctx, i), seqs[i]);
        take(ctx, i);
        cr_assert_eq(fake_fetch_open(ctx), i < 9);
    }
    cr_assert_eq(fake_fetch_count(ctx), 10);
    fake_free(&ctx);
}

/* A lower number may still come until it is settled that none will; whether it waits or is behind. */
Test(hooks, event_above_what_is_settled_waits)
{
    static const struct job_completed body = {.duration_ms = 1};
    static const struct job_chunk piece = {.text = "x"};
    struct muster_ctx *ctx = start(NULL);
    struct webhook hook = hook_of(URL);
    int64_t other, low, high;

    hook.teams = (struct muster_strs){backend_only, 1};
    (void)create(ctx, &hook);
    (void)create_simple(ctx, OTHER);
    other = write_event(ctx, &job_completed_type, "frontend", &body);
    (void)write_event(ctx, &job_chunk_type, "backend", &piece);
    low = muster_log_number(muster_ctx_store(ctx)); /* on its way */
    high = write_event(ctx, &job_completed_type, "backend", &body);
    publish(ctx, &job_completed_type, "frontend", other, other);
    publish(ctx, &job_completed_type, "backend", high, low - 1);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    cr_assert_eq(told(ctx, 0), other);
    take(ctx, 0);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    settle(ctx); /* the lower one was lost */
    cr_assert_eq(fake_fetch_count(ctx), 3);
    cr_assert_eq(told(ctx, 1), high);
    cr_assert_eq(told(ctx, 2), high);
    fake_free(&ctx);
}

Test(hooks, missed_events_are_found_in_the_log)
{
    static const struct job_completed body = {.duration_ms = 1};
    struct muster_ctx *ctx = start(NULL);
    int64_t missed, seen;

    (void)create_simple(ctx, URL);
    missed = write_event(ctx, &job_completed_type, "backend", &body);
    fake_feed_missed(ctx, 1);
    (void)chunk(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    cr_assert_eq(told(ctx, 0), missed);
    take(ctx, 0);
    fake_forget(ctx);
    seen = write_event(ctx, &job_completed_type, "backend", &body);
    fake_feed_missed(ctx, 1); /* and nothing comes after it */
    fake_advance(ctx, 60000);
    answer_flush(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 2);
    cr_assert_eq(told(ctx, 1), seen);
    fake_free(&ctx);
}

/* ---- receivers that do not take it ------------------------------------------------------------------------------- */

/* Let request `index` fail and wait for the next; the pause. */
static int64_t
fail_once(struct muster_ctx *ctx, size_t index, long status, int64_t retry_after_s)
{
    int64_t pause;

    fake_fetch_answer(ctx, index, status, retry_after_s, status ? "" : "Connection timed out");
    cr_assert_eq(fake_commit_all(ctx), 1, "each try is on disk");
    cr_assert_eq(fake_fetch_open(ctx), 0);
    pause = fake_timer(ctx, WEBHOOK_TIMER_PUMP);
    fake_advance(ctx, pause - 1);
    (void)fake_commit_all(ctx);
    cr_assert_eq(fake_fetch_count(ctx), index + 1, "not before its time");
    fake_advance(ctx, 1);
    cr_assert_eq(fake_fetch_count(ctx), index + 2);
    return pause;
}

Test(hooks, failures_are_tried_again_and_the_others_wait_behind)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct muster_id id = create_simple(ctx, URL);
    int64_t first = complete(ctx, "backend"), second = complete(ctx, "backend"), pause;
    const struct webhook *record;
    size_t i;

    pause = fail_once(ctx, 0, 500, -1);
    cr_assert(pause >= 8000 && pause <= 12000, "%lld", (long long)pause);
    record = record_of(ctx, &id);
    cr_assert_eq(record->tries, 1);
    cr_assert_eq(record->next_ms, muster_now_ms(ctx));
    cr_assert_eq(record->status, 500);
    cr_assert_str_eq(record->problem, "The receiver answered 500");
    cr_assert_eq(record->cursor, first - 1);
    cr_assert_eq(fail_once(ctx, 1, 429, 600), 600000, "Retry-After");
    pause = fail_once(ctx, 2, 302, -1);
    cr_assert(pause >= 288000 && pause <= 432000, "a redirect is a failure: %lld", (long long)pause);
    for (i = 0; i < 4; i++) {
        cr_assert_eq(told(ctx, i), first);
        cr_assert_str_eq(body_of(ctx, i), body_of(ctx, 0));
    }
    cr_assert_str_neq(fake_fetch_header(fake_fetch_at(ctx, 0), "webhook-signature"),
                      fake_fetch_header(fake_fetch_at(ctx, 3), "webhook-signature"), "of this try's time");
    take(ctx, 3);
    cr_assert_eq(fake_fetch_count(ctx), 5);
    cr_assert_eq(told(ctx, 4), second);
    cr_assert_eq(record_of(ctx, &id)->tries, 0);
    cr_assert_eq(fake_said(ctx, "webhook-retrying"), 1, "at the first try only");
    cr_assert(fake_said_text(ctx, "host=api.example.com"));
    cr_assert_not(fake_said_text(ctx, "/hooks"), "an URL may hold a secret");
    fake_free(&ctx);
}

Test(hooks, last_try_disables_and_resume_goes_on_with_the_same_event)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct muster_id id = create_simple(ctx, URL);
    int64_t seq = complete(ctx, "backend");
    struct webhook_change resume = {.id = id, .state = webhook_state_ACTIVE};
    size_t i;

    for (i = 0; i < 3; i++)
        (void)fail_once(ctx, i, 0, -1);
    fake_fetch_answer(ctx, 3, 0, -1, "Connection refused");
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(record_of(ctx, &id)->state, webhook_state_DISABLED);
    cr_assert_eq(record_of(ctx, &id)->tries, 4);
    cr_assert_str_eq(record_of(ctx, &id)->problem, "Connection refused");
    cr_assert_eq(fake_said(ctx, "webhook-disabled"), 1);
    (void)complete(ctx, "backend");
    fake_advance(ctx, INT64_C(86400000));
    (void)fake_commit_all(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 4);
    restart(ctx);
    fake_advance(ctx, 1000);
    cr_assert_eq(fake_fetch_count(ctx), 4, "still");
    change(ctx, &resume);
    cr_assert_eq(fake_fetch_count(ctx), 5);
    cr_assert_eq(told(ctx, 4), seq);
    cr_assert_eq(record_of(ctx, &id)->tries, 0);
    fake_free(&ctx);
}

Test(hooks, receiver_that_is_gone_disables_at_once)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct muster_id id = create_simple(ctx, URL);

    (void)complete(ctx, "backend");
    fake_fetch_answer(ctx, 0, 410, -1, NULL);
    (void)fake_commit_all(ctx);
    cr_assert_eq(record_of(ctx, &id)->state, webhook_state_DISABLED);
    cr_assert_eq(record_of(ctx, &id)->status, 410);
    cr_assert_eq(fake_said(ctx, "webhook-disabled"), 1);
    cr_assert_eq(fake_timer(ctx, WEBHOOK_TIMER_PUMP), -1);
    fake_free(&ctx);
}

/* A job with a callback to that URL ends. */
static void
end_job(struct muster_ctx *ctx, const char *url)
{
    struct job_callback callback = {.url = url};
    struct job job = {.id = muster_id_new(muster_now_ms(ctx)),
                      .kind = job_kind_EXECUTE,
                      .team = "backend",
                      .state = job_state_COMPLETED,
                      .priority = job_priority_NORMAL,
                      .prompt = "?",
                      .from = "ci",
                      .created_ms = 1,
                      .timeout_ms = 1,
                      .max_attempts = 1,
                      .callback = &callback};
    struct delivery delivery = {.id = job.id, .state = delivery_state_PENDING};
    struct event event = {.at_ms = 1, .type = job_completed_type.wire, .team = "nobody's", .job = job.id};
    struct feed_events feed = {.events = {&event, 1}};

    fake_put(ctx, &job_type, &job);
    fake_put(ctx, &delivery_type, &delivery);
    cr_assert_eq(fake_deliver(ctx, NULL, &feed_events_type, &feed), MUSTER_OK);
}

Test(hooks, dead_receiver_holds_up_neither_another_webhook_nor_callbacks)
{
    struct muster_ctx *ctx = start(OPTIONS);
    int64_t first, second;

    (void)create_simple(ctx, URL);
    (void)create_simple(ctx, OTHER);
    first = complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 2);
    take(ctx, 1); /* the first one is open and never answers */
    second = complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 3);
    cr_assert_str_eq(fake_fetch_at(ctx, 2)->spec.url, OTHER);
    cr_assert_eq(told(ctx, 2), second);
    end_job(ctx, URL);
    cr_assert_eq(fake_fetch_count(ctx), 4, "a callback, even to the same receiver");
    fake_fetch_answer(ctx, 0, 500, -1, NULL);
    take(ctx, 2);
    (void)complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 5);
    cr_assert_str_eq(fake_fetch_at(ctx, 4)->spec.url, OTHER);
    fake_advance(ctx, 12000);
    cr_assert_eq(told(ctx, 5), first);
    fake_free(&ctx);
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

Test(hooks, receiver_has_a_limit_of_requests_from_webhooks_and_callbacks_together)
{
    struct muster_ctx *ctx = start("webhooks: {max_per_endpoint: 2}\n");
    struct muster_id ids[3];
    size_t i;

    for (i = 0; i < 3; i++)
        ids[i] = create_simple(ctx, i ? URL : "https://API.example.com/another");
    (void)complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 2);
    end_job(ctx, URL);
    cr_assert_eq(fake_fetch_count(ctx), 2);
    end_job(ctx, OTHER);
    cr_assert_eq(fake_fetch_count(ctx), 3, "another receiver");
    take(ctx, 0);
    cr_assert_eq(fake_fetch_count(ctx), 4, "the third webhook");
    cr_assert_eq(strncmp(fake_fetch_header(fake_fetch_at(ctx, 3), "webhook-id"), "msg_", 4) == 0, false);
    take(ctx, 1);
    cr_assert_eq(fake_fetch_count(ctx), 5, "the callback");
    cr_assert_eq(strncmp(fake_fetch_header(fake_fetch_at(ctx, 4), "webhook-id"), "msg_", 4), 0);
    for (i = 2; i < 5; i++)
        take(ctx, i);
    for (i = 0; i < 3; i++)
        cr_assert_eq(record_of(ctx, &ids[i])->delivered, 1);
    fake_free(&ctx);
}

/* One that waits for a slot and is paused or removed gives up its place, and nobody else's. */
Test(hooks, webhook_that_waits_for_a_slot_may_be_changed)
{
    struct muster_ctx *ctx = start("webhooks: {max_per_endpoint: 1}\n");
    struct muster_id ids[4];
    struct webhook_change pause = {.state = webhook_state_PAUSED};
    struct webhook_remove remove;
    size_t i;

    for (i = 0; i < 4; i++)
        ids[i] = create_simple(ctx, URL);
    (void)complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 1);
    pause.id = ids[1];
    change(ctx, &pause);
    remove.id = ids[3];
    cr_assert_eq(fake_call(ctx, "asker", 6, &webhook_remove_type, &remove), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    (void)answer_of(ctx, &webhook_removed_type);
    take(ctx, 0);
    cr_assert_eq(fake_fetch_count(ctx), 2);
    take(ctx, 1);
    cr_assert_eq(fake_fetch_count(ctx), 2);
    cr_assert_eq(record_of(ctx, &ids[0])->delivered, 1);
    cr_assert_eq(record_of(ctx, &ids[1])->delivered, 0);
    cr_assert_eq(record_of(ctx, &ids[2])->delivered, 1);
    cr_assert_null(record_of(ctx, &ids[3]));
    fake_free(&ctx);
}

Test(hooks, there_are_at_most_max_webhooks)
{
    struct muster_ctx *ctx = start("webhooks: {max_webhooks: 2}\n");
    struct webhook record = hook_of(URL);
    struct webhook_create in = {.webhook = &record};
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_remove remove = {.id = id};

    cr_assert_eq(fake_call(ctx, "asker", 1, &webhook_create_type, &in), MUSTER_OK);
    cr_assert_eq(fake_call(ctx, "asker", 2, &webhook_create_type, &in), MUSTER_CONFLICT, "one is on its way");
    (void)fake_commit_all(ctx);
    cr_assert_eq(fake_call(ctx, "asker", 3, &webhook_create_type, &in), MUSTER_CONFLICT);
    cr_assert_eq(fake_call(ctx, "asker", 4, &webhook_remove_type, &remove), MUSTER_OK);
    (void)fake_commit_all(ctx);
    fake_forget(ctx);
    (void)create_simple(ctx, URL);
    fake_free(&ctx);
}

/* ---- far behind, and too far ------------------------------------------------------------------------------------- */

/* Rows nobody wants, many in one commit. */
static void
fill(struct muster_ctx *ctx, size_t count)
{
    struct muster_batch *batch = muster_batch_new(muster_ctx_store(ctx));
    static const struct job_chunk body = {.text = "x"};
    struct muster_buf packed = {0};
    struct event event = {
        .at_ms = muster_now_ms(ctx), .type = job_chunk_type.wire, .team = "backend", .job = job_id, .attempt = 1};

    muster_pack(&job_chunk_type, &body, &packed);
    event.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    while (count-- > 0) {
        event.seq = muster_log_number(muster_ctx_store(ctx));
        muster_batch_append(batch, &event);
    }
    cr_assert_eq(muster_batch_commit(batch), MUSTER_OK);
    muster_batch_free(&batch);
    muster_buf_free(&packed);
}

Test(hooks, webhook_far_behind_reads_in_pieces_and_others_are_served_meanwhile)
{
    static const struct job_completed body = {.duration_ms = 1};
    struct muster_ctx *ctx = start(NULL);
    struct muster_id behind = create_simple(ctx, URL);
    struct webhook_change pause = {.id = behind, .state = webhook_state_PAUSED},
                          resume = {.id = behind, .state = webhook_state_ACTIVE};
    int64_t far, near;

    (void)create_simple(ctx, OTHER);
    change(ctx, &pause);
    fill(ctx, 30000);
    far = write_event(ctx, &job_completed_type, "backend", &body);
    publish(ctx, &job_completed_type, "backend", far, far);
    take(ctx, 0);
    change(ctx, &resume);
    cr_assert_eq(fake_fetch_count(ctx), 1, "it is not there yet");
    cr_assert_eq(fake_timer(ctx, WEBHOOK_TIMER_PUMP), 0, "messages are looked at in between");
    near = complete(ctx, "backend");
    cr_assert_eq(fake_timer(ctx, WEBHOOK_TIMER_PUMP), 0);
    fake_advance(ctx, 0);
    cr_assert_eq(fake_fetch_count(ctx), 3);
    cr_assert_str_eq(fake_fetch_at(ctx, 1)->spec.url, OTHER, "it did not wait for the one that is behind");
    cr_assert_eq(told(ctx, 1), near);
    cr_assert_str_eq(fake_fetch_at(ctx, 2)->spec.url, URL);
    cr_assert_eq(told(ctx, 2), far);
    take(ctx, 2);
    cr_assert_eq(told(ctx, 3), near);
    fake_free(&ctx);
}

/* The front itself, when a lot was missed. */
Test(hooks, much_that_is_new_is_read_in_pieces)
{
    struct muster_ctx *ctx = start(NULL);
    int64_t seq;

    (void)create_simple(ctx, URL);
    fill(ctx, 10000);
    fake_feed_missed(ctx, 10000);
    seq = complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 0);
    cr_assert_eq(fake_timer(ctx, WEBHOOK_TIMER_FEED), 0);
    fake_advance(ctx, 0);
    cr_assert_eq(told(ctx, 0), seq);
    fake_free(&ctx);
}

/* Remove all events of before now. */
static void
trim(struct muster_ctx *ctx)
{
    bool more = true;

    while (more)
        cr_assert_eq(muster_store_sweep(muster_ctx_store(ctx), muster_now_ms(ctx) + INT64_C(8 * 86400000), 1000, &more),
                     MUSTER_OK);
}

Test(hooks, events_that_are_no_longer_kept_are_missed_and_it_goes_on)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_change pause = {.id = id, .state = webhook_state_PAUSED},
                          resume = {.id = id, .state = webhook_state_ACTIVE};
    int64_t gone, kept;

    change(ctx, &pause);
    gone = complete(ctx, "backend");
    (void)complete(ctx, "backend");
    trim(ctx);
    kept = complete(ctx, "backend");
    change(ctx, &resume);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    cr_assert_eq(told(ctx, 0), kept);
    take(ctx, 0);
    cr_assert_eq(record_of(ctx, &id)->missed, 1);
    cr_assert_gt(record_of(ctx, &id)->cursor, gone);
    cr_assert_eq(fake_said(ctx, "webhook-missed"), 1);
    fake_free(&ctx);
}

Test(hooks, event_that_goes_between_two_tries_is_missed)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct muster_id id = create_simple(ctx, URL);
    int64_t kept;

    (void)complete(ctx, "backend");
    fake_fetch_answer(ctx, 0, 500, -1, NULL);
    trim(ctx);
    kept = complete(ctx, "backend");
    fake_advance(ctx, 12000);
    (void)fake_commit_all(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 2);
    cr_assert_eq(told(ctx, 1), kept);
    take(ctx, 1);
    cr_assert_eq(record_of(ctx, &id)->missed, 1);
    cr_assert_eq(record_of(ctx, &id)->delivered, 1);
    fake_free(&ctx);
}

/* It was told everything, though nothing for long. */
Test(hooks, cursor_moves_over_what_nobody_wanted)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    int64_t last = 0;
    size_t i;

    for (i = 0; i < 100; i++)
        last = chunk(ctx);
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_advance(ctx, 60000);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(record_of(ctx, &id)->cursor, last);
    trim(ctx);
    restart(ctx);
    last = complete(ctx, "backend");
    cr_assert_eq(told(ctx, 0), last);
    take(ctx, 0);
    cr_assert_eq(record_of(ctx, &id)->missed, 0);
    fake_free(&ctx);
}

Test(hooks, cursor_is_written_also_when_nothing_happens_after_a_restart)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    int64_t last = chunk(ctx);

    restart(ctx);
    cr_assert_lt(record_of(ctx, &id)->cursor, last);
    fake_advance(ctx, 60000);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_geq(record_of(ctx, &id)->cursor, last);
    fake_advance(ctx, 600000);
    cr_assert_eq(fake_commit_all(ctx), 0, "once");
    fake_free(&ctx);
}

/* ---- restarts ---------------------------------------------------------------------------------------------------- */

Test(hooks, restart_makes_an_open_request_again_under_the_same_id)
{
    struct muster_ctx *ctx = start(OPTIONS);
    int64_t seq;

    (void)create_simple(ctx, URL);
    seq = complete(ctx, "backend");
    restart(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 2);
    cr_assert_eq(told(ctx, 1), seq);
    cr_assert_str_eq(body_of(ctx, 1), body_of(ctx, 0));
    fake_free(&ctx);
}

Test(hooks, restart_keeps_the_schedule)
{
    struct muster_ctx *ctx = start(OPTIONS);
    int64_t seq, pause;

    (void)create_simple(ctx, URL);
    seq = complete(ctx, "backend");
    fake_fetch_answer(ctx, 0, 503, -1, NULL);
    (void)fake_commit_all(ctx);
    pause = fake_timer(ctx, WEBHOOK_TIMER_PUMP);
    restart(ctx);
    cr_assert_eq(fake_timer(ctx, WEBHOOK_TIMER_PUMP), pause);
    fake_advance(ctx, pause);
    cr_assert_eq(told(ctx, 1), seq);
    fake_free(&ctx);
}

Test(hooks, restart_before_an_outcome_is_on_disk_tells_it_again_and_loses_nothing)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct muster_id id = create_simple(ctx, URL);
    int64_t first = complete(ctx, "backend"), second = complete(ctx, "backend");

    fake_fetch_answer(ctx, 0, 200, -1, NULL);
    cr_assert_eq(told(ctx, 1), second);
    restart(ctx);
    cr_assert_eq(told(ctx, 2), first);
    take(ctx, 2);
    cr_assert_eq(told(ctx, 3), second);
    take(ctx, 3);
    restart(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 4);
    cr_assert_eq(record_of(ctx, &id)->cursor, second);
    fake_free(&ctx);
}

Test(hooks, what_happened_during_a_restart_is_told)
{
    static const struct job_completed body = {.duration_ms = 1};
    struct muster_ctx *ctx = start(OPTIONS);
    int64_t seq;

    (void)create_simple(ctx, URL);
    seq = write_event(ctx, &job_completed_type, "backend", &body);
    restart(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    cr_assert_eq(told(ctx, 0), seq);
    fake_free(&ctx);
}

Test(hooks, event_that_is_missed_before_the_log_has_answered_is_told)
{
    static const struct job_completed body = {.duration_ms = 1};
    struct muster_ctx *ctx = start(OPTIONS);
    int64_t seq;

    (void)create_simple(ctx, URL);
    fake_forget(ctx);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    seq = write_event(ctx, &job_completed_type, "backend", &body);
    fake_feed_missed(ctx, 1);
    settle(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    cr_assert_eq(told(ctx, 0), seq);
    fake_free(&ctx);
}

Test(hooks, outcome_that_cannot_be_written_is_written_later_and_not_sent_twice)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct muster_id id = create_simple(ctx, URL);
    int64_t seq = complete(ctx, "backend");

    fake_fetch_answer(ctx, 0, 200, -1, NULL);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    fake_advance(ctx, 5000);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OK);
    fake_advance(ctx, 5000);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(record_of(ctx, &id)->cursor, seq);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    fake_free(&ctx);
}

Test(hooks, start_without_an_answer_of_the_log_asks_again)
{
    struct muster_ctx *ctx = fake_new(NULL);
    struct webhook record = hook_of(URL);
    static const struct job_completed body = {.duration_ms = 1};

    record.id = muster_id_new(FAKE_START_MS);
    record.created_ms = 1;
    fake_put(ctx, &webhook_type, &record);
    (void)write_event(ctx, &job_completed_type, "backend", &body);
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OVERLOADED);
    cr_assert_eq(fake_start(ctx, &muster_webhook_class, MUSTER_WEBHOOK, NULL), MUSTER_OK);
    (void)fake_commit_all(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 0);
    fake_refuse(ctx, MUSTER_LOG, MUSTER_OK);
    fake_advance(ctx, 5000);
    answer_flush(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    fake_free(&ctx);
}

/* ---- changes ----------------------------------------------------------------------------------------------------- */

Test(hooks, paused_webhook_keeps_its_place)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_change pause = {.id = id, .state = webhook_state_PAUSED},
                          resume = {.id = id, .state = webhook_state_ACTIVE};
    int64_t first, second;

    change(ctx, &pause);
    cr_assert_eq(record_of(ctx, &id)->state, webhook_state_PAUSED);
    first = complete(ctx, "backend");
    second = complete(ctx, "backend");
    restart(ctx);
    fake_advance(ctx, 100000);
    (void)fake_commit_all(ctx);
    cr_assert_eq(fake_fetch_count(ctx), 0);
    change(ctx, &resume);
    cr_assert_eq(told(ctx, 0), first);
    take(ctx, 0);
    cr_assert_eq(told(ctx, 1), second);
    fake_free(&ctx);
}

Test(hooks, outcome_of_a_request_counts_when_the_webhook_was_paused_meanwhile)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_change pause = {.id = id, .state = webhook_state_PAUSED};
    int64_t seq = complete(ctx, "backend");

    (void)complete(ctx, "backend");
    change(ctx, &pause);
    take(ctx, 0);
    cr_assert_eq(record_of(ctx, &id)->cursor, seq);
    cr_assert_eq(record_of(ctx, &id)->state, webhook_state_PAUSED);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    fake_free(&ctx);
}

/* Both are on their way to the disk at a time. */
Test(hooks, outcome_and_change_do_not_overwrite_each_other)
{
    static const char *const both[] = {"job.completed", "job.failed"};
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_change more = {.id = id, .events = {both, 2}, .name = "new"};
    int64_t first = complete(ctx, "backend"), second = complete(ctx, "backend");
    const struct webhook *record;

    cr_assert_eq(fake_call(ctx, "asker", 6, &webhook_change_type, &more), MUSTER_OK);
    fake_fetch_answer(ctx, 0, 200, -1, NULL);
    cr_assert_eq(fake_fetch_count(ctx), 1, "nothing begins meanwhile");
    cr_assert_eq(fake_call(ctx, "asker", 7, &webhook_change_type, &more), MUSTER_OVERLOADED, "one at a time");
    (void)fake_commit_all(ctx);
    record = record_of(ctx, &id);
    cr_assert_eq(record->cursor, first);
    cr_assert_eq(record->delivered, 1);
    cr_assert_eq(record->events.count, 2);
    cr_assert_str_eq(record->name, "new");
    cr_assert_eq(told(ctx, 1), second);
    fake_free(&ctx);
}

Test(hooks, seek_tells_again_and_is_not_undone_by_an_older_outcome)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    int64_t first = complete(ctx, "backend"), second = complete(ctx, "backend");
    struct webhook_change back = {.id = id, .seek = true, .cursor = first - 1},
                          over = {.id = id, .seek = true, .cursor = INT64_MAX};

    take(ctx, 0);
    cr_assert_eq(told(ctx, 1), second);
    change(ctx, &back);
    cr_assert_eq(fake_fetch_count(ctx), 2, "one request at a time");
    take(ctx, 1);
    cr_assert_eq(record_of(ctx, &id)->cursor, first - 1);
    cr_assert_eq(told(ctx, 2), first);
    take(ctx, 2);
    cr_assert_eq(told(ctx, 3), second);
    (void)complete(ctx, "backend");
    change(ctx, &over);
    take(ctx, 3);
    cr_assert_eq(fake_fetch_count(ctx), 4, "the third is left out");
    cr_assert_eq(record_of(ctx, &id)->cursor, second + 1);
    (void)complete(ctx, "backend");
    cr_assert_eq(told(ctx, 4), second + 2);
    fake_free(&ctx);
}

Test(hooks, another_url_is_told_what_the_old_one_was_asked_last)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_change move = {.id = id, .url = OTHER};
    int64_t seq = complete(ctx, "backend");

    change(ctx, &move);
    fake_fetch_answer(ctx, 0, 410, -1, NULL);
    (void)fake_commit_all(ctx);
    cr_assert_eq(record_of(ctx, &id)->state, webhook_state_ACTIVE);
    cr_assert_str_eq(fake_fetch_at(ctx, 1)->spec.url, OTHER);
    cr_assert_eq(told(ctx, 1), seq);
    fake_fetch_answer(ctx, 1, 500, -1, NULL);
    (void)fake_commit_all(ctx);
    move.url = URL;
    change(ctx, &move);
    cr_assert_eq(fake_fetch_count(ctx), 3, "at once, not after the pause");
    fake_free(&ctx);
}

Test(hooks, rotation_signs_with_both_secrets_for_a_while)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_change rotate = {.id = id, .rotate = true, .overlap_ms = 60000};
    const struct webhook *record;
    char both[160], old[64], new[64];

    change(ctx, &rotate);
    record = record_of(ctx, &id);
    cr_assert_eq(record->secret.size, 32);
    cr_assert_neq(memcmp(record->secret.data, SECRET, 32), 0);
    cr_assert_eq(memcmp(record->old_secret.data, SECRET, 32), 0);
    cr_assert_eq(record->old_until_ms, FAKE_START_MS + 60000);
    (void)complete(ctx, "backend");
    sign(ctx, 0, SECRET, 32, old);
    sign(ctx, 0, record->secret.data, 32, new);
    (void)snprintf(both, sizeof both, "%s %s", new, old);
    cr_assert_str_eq(fake_fetch_header(fake_fetch_at(ctx, 0), "webhook-signature"), both);
    take(ctx, 0);
    fake_advance(ctx, 60000);
    (void)fake_commit_all(ctx);
    (void)complete(ctx, "backend");
    sign(ctx, 1, record->secret.data, 32, new);
    cr_assert_str_eq(fake_fetch_header(fake_fetch_at(ctx, 1), "webhook-signature"), new);
    take(ctx, 1);
    rotate.overlap_ms = 0;
    change(ctx, &rotate);
    cr_assert_eq(record_of(ctx, &id)->old_secret.size, 0);
    (void)complete(ctx, "backend");
    sign(ctx, 2, record_of(ctx, &id)->secret.data, 32, new);
    cr_assert_str_eq(fake_fetch_header(fake_fetch_at(ctx, 2), "webhook-signature"), new);
    cr_assert_eq(fake_said(ctx, "webhook-secret-rotated"), 2);
    fake_free(&ctx);
}

Test(hooks, change_that_cannot_be_written_changes_nothing)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_change pause = {.id = id, .state = webhook_state_PAUSED};
    struct webhook_remove remove = {.id = id};
    struct webhook record = hook_of(OTHER);
    struct webhook_create make = {.webhook = &record};
    int64_t seq;

    cr_assert_eq(fake_call(ctx, "asker", 1, &webhook_change_type, &pause), MUSTER_OK);
    seq = complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 0);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    (void)answer_of(ctx, &failed_type);
    cr_assert_eq(fake_fetch_count(ctx), 1, "it goes on");
    cr_assert_eq(told(ctx, 0), seq);
    cr_assert_eq(fake_call(ctx, "asker", 2, &webhook_remove_type, &remove), MUSTER_OK);
    fake_fetch_answer(ctx, 0, 200, -1, NULL);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    (void)answer_of(ctx, &failed_type);
    (void)fake_commit_all(ctx);
    cr_assert_eq(record_of(ctx, &id)->cursor, seq, "the outcome is written all the same");
    cr_assert_eq(fake_call(ctx, "asker", 3, &webhook_create_type, &make), MUSTER_OK);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    (void)answer_of(ctx, &failed_type);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    cr_assert_eq(fake_call(ctx, "asker", 4, &webhook_change_type, &pause), MUSTER_OVERLOADED);
    cr_assert_eq(fake_call(ctx, "asker", 5, &webhook_remove_type, &remove), MUSTER_OVERLOADED);
    cr_assert_eq(fake_call(ctx, "asker", 6, &webhook_create_type, &make), MUSTER_OVERLOADED);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OK);
    (void)complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 2);
    fake_free(&ctx);
}

Test(hooks, removed_webhook_is_gone_also_while_its_request_is_open)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_remove remove = {.id = id};
    struct webhook_change resume = {.id = id, .state = webhook_state_ACTIVE};

    (void)complete(ctx, "backend");
    cr_assert_eq(fake_call(ctx, "asker", 6, &webhook_remove_type, &remove), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    (void)answer_of(ctx, &webhook_removed_type);
    cr_assert_null(record_of(ctx, &id));
    cr_assert_eq(fake_call(ctx, "asker", 7, &webhook_change_type, &resume), MUSTER_NOT_FOUND);
    cr_assert_eq(fake_call(ctx, "asker", 8, &webhook_remove_type, &remove), MUSTER_NOT_FOUND);
    fake_fetch_answer(ctx, 0, 200, -1, NULL);
    cr_assert_eq(fake_commit_all(ctx), 0);
    cr_assert_null(record_of(ctx, &id), "its outcome does not bring it back");
    (void)complete(ctx, "backend");
    fake_advance(ctx, 100000);
    cr_assert_eq(fake_commit_all(ctx), 0);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    cr_assert_eq(fake_said(ctx, "webhook-created"), 1);
    cr_assert_eq(fake_said(ctx, "webhook-removed"), 1);
    fake_free(&ctx);
}

Test(hooks, what_cannot_be_told_is_refused)
{
    static const char *const live[] = {"job.completed", "job.chunk"}, *const none[] = {"job.nothing"};
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook record = hook_of(URL);
    struct webhook_create in = {.webhook = &record};
    struct webhook_change other = {.id = id, .url = "nothing"};

    record.events = (struct muster_strs){live, 2};
    cr_assert_eq(fake_call(ctx, "asker", 1, &webhook_create_type, &in), MUSTER_INVALID_REQUEST);
    record.events = (struct muster_strs){none, 1};
    cr_assert_eq(fake_call(ctx, "asker", 2, &webhook_create_type, &in), MUSTER_INVALID_REQUEST);
    cr_assert_eq(fake_call(ctx, "asker", 3, &webhook_change_type, &other), MUSTER_INVALID_REQUEST);
    other = (struct webhook_change){.id = id, .events = {live, 2}};
    cr_assert_eq(fake_call(ctx, "asker", 4, &webhook_change_type, &other), MUSTER_INVALID_REQUEST);
    cr_assert_eq(fake_commit_all(ctx), 0);
    fake_free(&ctx);
}

/* The caller is answered by the store although the actor began anew meanwhile. */
Test(hooks, change_on_its_way_survives_a_restart)
{
    struct muster_ctx *ctx = start(NULL);
    struct muster_id id = create_simple(ctx, URL);
    struct webhook_change pause = {.id = id, .state = webhook_state_PAUSED};

    cr_assert_eq(fake_call(ctx, "asker", 6, &webhook_change_type, &pause), MUSTER_OK);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert(fake_commit(ctx));
    (void)answer_of(ctx, &webhook_created_type);
    answer_flush(ctx);
    cr_assert_eq(record_of(ctx, &id)->state, webhook_state_PAUSED);
    fake_free(&ctx);
}

/* ---- webhook.test ------------------------------------------------------------------------------------------------ */

Test(hooks, test_sends_once_and_tells_what_came_of_it)
{
    struct muster_ctx *ctx = start("webhooks: {max_per_endpoint: 1}\n");
    struct muster_id id = create_simple(ctx, URL), none = muster_id_of("x", "y");
    struct webhook_test in = {.id = id}, unknown = {.id = none};
    const struct webhook_tested *tested;
    char expected[64], text[MUSTER_ID_TEXT];
    struct muster_buf data = {0};
    int64_t cursor = record_of(ctx, &id)->cursor;

    cr_assert_eq(fake_call(ctx, "asker", 9, &webhook_test_type, &unknown), MUSTER_NOT_FOUND);
    fake_forget(ctx);
    cr_assert_eq(fake_call(ctx, "asker", 9, &webhook_test_type, &in), MUSTER_OK);
    cr_assert_eq(fake_call(ctx, "asker2", 9, &webhook_test_type, &in), MUSTER_OVERLOADED, "no slot is left");
    muster_id_text(&id, text);
    muster_buf_printf(&data,
                      "{\"type\":\"webhook.test\",\"timestamp\":\"2023-11-14T22:13:20.000Z\",\"data\":{"
                      "\"webhookId\":\"%s\",\"message\":",
                      text);
    cr_assert_eq(strncmp(body_of(ctx, 0), data.data, data.size), 0, "%s", body_of(ctx, 0));
    muster_buf_free(&data);
    sign(ctx, 0, SECRET, 32, expected);
    cr_assert_str_eq(fake_fetch_header(fake_fetch_at(ctx, 0), "webhook-signature"), expected);
    (void)complete(ctx, "backend");
    cr_assert_eq(fake_fetch_count(ctx), 1, "the event waits for the slot");
    fake_advance(ctx, 40);
    fake_fetch_answer(ctx, 0, 500, -1, NULL);
    tested = answer_of(ctx, &webhook_tested_type)->body;
    cr_assert_eq(tested->status, 500);
    cr_assert_str_eq(tested->problem, "The receiver answered 500");
    cr_assert_eq(tested->duration_ms, 40);
    cr_assert_eq(record_of(ctx, &id)->cursor, cursor);
    cr_assert_eq(record_of(ctx, &id)->status, 0);
    cr_assert_eq(fake_fetch_count(ctx), 2);
    take(ctx, 1);
    cr_assert_eq(fake_call(ctx, "asker", 9, &webhook_test_type, &in), MUSTER_OK);
    fake_restart(ctx);
    fake_free(&ctx);
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

#define HOOKS 5
#define SEQS 200

struct receiver {
    char url[64];
    struct muster_id webhook;
    int64_t got[SEQS * 50];
    size_t count;
};

struct world {
    struct muster_ctx *ctx;
    struct receiver receivers[HOOKS];
    int64_t seqs[SEQS]; /* of the events */
    size_t made;        /* how many there are */
    size_t noted;       /* requests that were looked at */
    unsigned seed;
};

static bool
one_in(struct world *world, int count)
{
    return rand_r(&world->seed) % count == 0;
}

static void
make_event(struct world *world)
{
    static const struct job_completed body = {.duration_ms = 1};
    int64_t seq;

    if (world->made == SEQS || !one_in(world, 10))
        return;
    seq = world->seqs[world->made++] = write_event(world->ctx, &job_completed_type, "backend", &body);
    if (one_in(world, 3))
        fake_feed_missed(world->ctx, 1);
    else
        publish(world->ctx, &job_completed_type, "backend", seq, one_in(world, 2) ? seq - 1 : seq);
}

/* Who was told of what since the last call. */
static void
note_requests(struct world *world)
{
    struct receiver *receiver;
    size_t i;

    for (; world->noted < fake_fetch_count(world->ctx); world->noted++)
        for (i = 0; i < HOOKS; i++) {
            receiver = &world->receivers[i];
            if (strcmp(fake_fetch_at(world->ctx, world->noted)->spec.url, receiver->url) == 0 &&
                receiver->count < SEQS * 50)
                receiver->got[receiver->count++] = told(world->ctx, world->noted);
        }
}

/* Answer open requests; `wild`: some of them, and not all with 200. */
static void
answer_requests(struct world *world, bool wild)
{
    size_t count = fake_fetch_count(world->ctx), i;

    for (i = count > 200 ? count - 200 : 0; i < fake_fetch_count(world->ctx); i++)
        if (fake_fetch_at(world->ctx, i)->open && (!wild || one_in(world, 4)))
            fake_fetch_answer(world->ctx, i, wild && one_in(world, 3) ? 500 : 200, -1, NULL);
}

static void
change_state(struct world *world, size_t index, enum webhook_state state)
{
    struct webhook_change in = {.id = world->receivers[index].webhook, .state = state};

    (void)fake_call(world->ctx, "", 1, &webhook_change_type, &in);
}

/* Lost commits, restarts, and answers of the log that come late. */
static void
disturb(struct world *world)
{
    if (one_in(world, 20))
        change_state(world, (size_t)rand_r(&world->seed) % HOOKS,
                     one_in(world, 2) ? webhook_state_ACTIVE : webhook_state_PAUSED);
    if (one_in(world, 5))
        (void)fake_commit_fails(world->ctx, MUSTER_STORAGE_FULL);
    (void)fake_commit_all(world->ctx);
    if (one_in(world, 50)) {
        fake_forget(world->ctx);
        cr_assert_eq(fake_restart(world->ctx), MUSTER_OK);
    }
    if (one_in(world, 10) && fake_take_type(world->ctx, &log_flush_type))
        settle(world->ctx);
}

/* All events, none for the first time behind a later one. */
static void
expect_all(const struct world *world, size_t index)
{
    const struct receiver *receiver = &world->receivers[index];
    const struct webhook *record = record_of(world->ctx, &receiver->webhook);
    size_t i, seen = 0;

    for (i = 0; i < receiver->count; i++)
        if (seen < SEQS && receiver->got[i] == world->seqs[seen])
            seen++;
        else
            cr_assert(seen > 0 && receiver->got[i] <= world->seqs[seen - 1], "webhook %zu was told of %lld too early",
                      index, (long long)receiver->got[i]);
    cr_assert_eq(seen, SEQS, "webhook %zu was told of %zu", index, seen);
    cr_assert_eq(record->cursor, world->seqs[SEQS - 1]);
    cr_assert_eq(record->missed, 0);
}

/* Random answers, restarts, lost commits, lost events, changes: in the end every webhook was told of every event. */
Test(hooks, everything_is_told_in_order_in_the_end)
{
    static struct world world = {.seed = 4711};
    struct receiver *receiver;
    size_t i, round;

    world.ctx = start("webhooks: {max_tries: 100, retry_delay: 1s, max_retry_delay: 10s,"
                      " max_per_endpoint: 1, max_parallel: 3}\n");
    for (i = 0; i < HOOKS; i++) {
        receiver = &world.receivers[i];
        (void)snprintf(receiver->url, sizeof receiver->url, "http://host-%zu.example/%zu", i / 2, i);
        receiver->webhook = create_simple(world.ctx, receiver->url);
    }
    for (round = 0; round < 20000; round++) {
        make_event(&world);
        note_requests(&world);
        answer_requests(&world, true);
        cr_assert_leq(fake_fetch_open(world.ctx), 3);
        disturb(&world);
        fake_advance(world.ctx, rand_r(&world.seed) % 500);
    }
    cr_assert_eq(world.made, SEQS);
    for (i = 0; i < HOOKS; i++)
        change_state(&world, i, webhook_state_ACTIVE);
    for (round = 0; round < 5000; round++) {
        settle(world.ctx);
        (void)fake_commit_all(world.ctx);
        note_requests(&world);
        answer_requests(&world, false);
        fake_advance(world.ctx, 100);
    }
    for (i = 0; i < HOOKS; i++)
        expect_all(&world, i);
    fake_free(&world.ctx);
}
