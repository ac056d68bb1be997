/* SPDX-License-Identifier: MPL-2.0 */
/* Callbacks: what receivers get, and that each end of a job reaches its receiver whatever happens on the way. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/webhook.h"
#include "tests/actor/fake/fake_ctx.h"

#define URL "https://api.example.com/webhooks/iris"
#define OPTIONS "webhooks: {retry_delay: 10s, max_retry_delay: 1h, max_tries: 4}\n"

static struct muster_ctx *
start(const char *yaml)
{
    struct muster_ctx *ctx = fake_new(yaml);

    cr_assert_eq(fake_start(ctx, &muster_webhook_class, MUSTER_WEBHOOK, NULL), MUSTER_OK);
    cr_assert(fake_subscribed(ctx));
    cr_assert_eq(fake_commit_all(ctx), 1, "the server's secret");
    fake_forget(ctx);
    return ctx;
}

static struct job
job_of(struct muster_ctx *ctx, const struct job_callback *callback)
{
    return (struct job){.id = muster_id_new(muster_now_ms(ctx)),
                        .kind = job_kind_EXECUTE,
                        .team = "backend",
                        .state = job_state_COMPLETED,
                        .priority = job_priority_NORMAL,
                        .prompt = "Run npm audit",
                        .from = "ci",
                        .created_ms = FAKE_START_MS - 20000,
                        .started_ms = FAKE_START_MS - 15234,
                        .finished_ms = FAKE_START_MS,
                        .timeout_ms = 1000,
                        .max_attempts = 3,
                        .result = "Fixed 3 vulnerabilities\nand more",
                        .callback = callback};
}

static const struct job_callback plain = {.url = URL};

#define OWN_SECRET "0123456789abcdef0123456789abcdef"
#define SERVER_SECRET "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
static const struct job_callback with_secret = {.url = URL, .secret = {(const uint8_t *)OWN_SECRET, 32}};

/* The server's secret is there already. */
static struct muster_ctx *
start_with_secret(void)
{
    struct muster_ctx *ctx = fake_new(NULL);
    struct secret secret = {.id = muster_id_of("secret", "callbacks"),
                            .value = {(const uint8_t *)SERVER_SECRET, 32},
                            .created_ms = FAKE_START_MS - 1};

    fake_put(ctx, &secret_type, &secret);
    cr_assert_eq(fake_start(ctx, &muster_webhook_class, MUSTER_WEBHOOK, NULL), MUSTER_OK);
    cr_assert_eq(fake_commit_all(ctx), 0, "it is not made again");
    fake_forget(ctx);
    return ctx;
}

static void
put_pending(struct muster_ctx *ctx, const struct job *job)
{
    struct delivery delivery = {.id = job->id, .state = delivery_state_PENDING};

    fake_put(ctx, &job_type, job);
    fake_put(ctx, &delivery_type, &delivery);
}

/* The job ends as the queue has it end: the records, then the event. */
static void
end_job(struct muster_ctx *ctx, const struct job *job)
{
    struct job_completed completed = {.duration_ms = 1};

    put_pending(ctx, job);
    cr_assert_eq(fake_feed(ctx, &job_completed_type, "backend", &job->id, &completed), MUSTER_OK);
}

static const struct delivery *
delivery_of(struct muster_ctx *ctx, const struct job *job)
{
    return fake_get(ctx, &delivery_type, &job->id);
}

static const char *
body_of(const struct muster_ctx *ctx, size_t index)
{
    return fake_fetch_at(ctx, index)->spec.body;
}

/* Let the open request number `index` fail, and wait for the next; returns the pause. */
static int64_t
fail_once(struct muster_ctx *ctx, size_t index, long status, int64_t retry_after_s)
{
    int64_t pause;

    fake_fetch_answer(ctx, index, status, retry_after_s, status ? "" : "Connection timed out");
    cr_assert_eq(fake_commit_all(ctx), 1, "each try is on disk");
    cr_assert_eq(fake_fetch_open(ctx), 0);
    pause = fake_next_timer(ctx);
    fake_advance(ctx, pause - 1);
    cr_assert_eq(fake_fetch_count(ctx), index + 1, "not before its time");
    fake_advance(ctx, 1);
    cr_assert_eq(fake_fetch_count(ctx), index + 2);
    return pause;
}

Test(webhook, completed_job_is_reported_as_the_seed_shows)
{
    static const struct muster_pair own[] = {{"Authorization", "Bearer webhook-secret"}};
    static const struct job_callback callback = {.url = URL, .method = "PUT", .headers = {own, 1}};
    struct muster_ctx *ctx = start(NULL);
    struct job job = job_of(ctx, &callback);
    const struct fake_fetch *fetch;
    const struct delivery *delivery;
    struct muster_buf expected = {0};
    char id[MUSTER_ID_TEXT];

    end_job(ctx, &job);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    fetch = fake_fetch_at(ctx, 0);
    cr_assert_str_eq(fetch->spec.method, "PUT");
    cr_assert_str_eq(fetch->spec.url, URL);
    cr_assert_not(fetch->spec.allow_private);
    cr_assert_eq(fetch->spec.timeout_ms, 15000);
    cr_assert_str_eq(fake_fetch_header(fetch, "Content-Type"), "application/json");
    cr_assert_str_eq(fake_fetch_header(fetch, "Authorization"), "Bearer webhook-secret");
    cr_assert_str_eq(fake_fetch_header(fetch, "webhook-timestamp"), "1700000000");
    muster_id_text(&job.id, id);
    cr_assert_str_eq(fake_fetch_header(fetch, "webhook-id") + 4, id);
    cr_assert_eq(strncmp(fake_fetch_header(fetch, "webhook-id"), "msg_", 4), 0);
    muster_buf_printf(&expected,
                      "{\"jobId\":\"job_%s\",\"team\":\"backend\",\"status\":\"completed\",\"result\":{\"summary\":"
                      "\"Fixed 3 vulnerabilities\",\"details\":\"Fixed 3 vulnerabilities\\nand more\"},"
                      "\"duration\":15234,\"timestamp\":1700000000000}",
                      id);
    cr_assert_str_eq(fetch->spec.body, expected.data);
    cr_assert_eq(fetch->spec.body_size, expected.size);
    muster_buf_free(&expected);
    fake_fetch_answer(ctx, 0, 204, -1, NULL);
    cr_assert_eq(delivery_of(ctx, &job)->state, delivery_state_PENDING, "not before it is on disk");
    cr_assert(fake_commit(ctx));
    delivery = delivery_of(ctx, &job);
    cr_assert_eq(delivery->state, delivery_state_DELIVERED);
    cr_assert_eq(delivery->tries, 1);
    cr_assert_eq(delivery->status, 204);
    fake_advance(ctx, INT64_C(86400000));
    cr_assert_eq(fake_fetch_count(ctx), 1);
    fake_free(&ctx);
}

Test(webhook, failed_and_cancelled_jobs_say_why)
{
    struct muster_ctx *ctx = start("webhooks: {allow_private: true}\n");
    struct job job = job_of(ctx, &plain);
    struct job_failed failed = {.code = "TIMEOUT"};
    struct job_cancelled cancelled = {.by = "me"};

    job.state = job_state_FAILED;
    job.result = NULL;
    job.error = "TIMEOUT";
    job.error_message = "No end after 30 minutes";
    put_pending(ctx, &job);
    (void)fake_feed(ctx, &job_failed_type, "backend", &job.id, &failed);
    cr_assert(fake_fetch_at(ctx, 0)->spec.allow_private);
    cr_assert_str_eq(fake_fetch_at(ctx, 0)->spec.method, "POST");
    cr_assert_not_null(strstr(body_of(ctx, 0), "\"status\":\"failed\",\"error\":\"No end after 30 minutes\","
                                               "\"code\":\"TIMEOUT\",\"duration\":15234,"));
    job.id = muster_id_new(FAKE_START_MS);
    job.error_message = NULL;
    put_pending(ctx, &job);
    (void)fake_feed(ctx, &job_failed_type, "backend", &job.id, &failed);
    cr_assert_not_null(strstr(body_of(ctx, 1), "\"error\":\"Request timeout exceeded\""));
    job.id = muster_id_new(FAKE_START_MS);
    job.state = job_state_CANCELLED;
    job.error = NULL;
    job.started_ms = 0;
    put_pending(ctx, &job);
    (void)fake_feed(ctx, &job_cancelled_type, "backend", &job.id, &cancelled);
    cr_assert_not_null(strstr(body_of(ctx, 2), "\"status\":\"cancelled\",\"duration\":0,"));
    fake_free(&ctx);
}

Test(webhook, summary_is_the_first_line_cut_between_characters)
{
    struct muster_ctx *ctx = start(NULL);
    struct job job = job_of(ctx, &plain);
    struct muster_buf text = {0}, expected = {0};
    int i;

    muster_buf_str(&text, "\n\n");
    for (i = 0; i < 300; i++)
        muster_buf_str(&text, "\xc3\xa9"); /* two bytes a character */
    job.result = text.data;
    end_job(ctx, &job);
    muster_buf_str(&expected, "\"summary\":\"");
    for (i = 0; i < 200; i++)
        muster_buf_str(&expected, "\xc3\xa9");
    muster_buf_str(&expected, "\",\"details\":\"\\n\\n");
    cr_assert_not_null(strstr(body_of(ctx, 0), expected.data));
    job.id = muster_id_new(FAKE_START_MS);
    job.result = NULL;
    end_job(ctx, &job);
    cr_assert_not_null(strstr(body_of(ctx, 1), "\"result\":{\"summary\":\"\",\"details\":\"\"}"));
    muster_buf_free(&text);
    muster_buf_free(&expected);
    fake_free(&ctx);
}

Test(webhook, headers_that_would_harm_are_left_out)
{
    static const struct muster_pair own[] = {{"content-type", "application/vnd.ci+json"},
                                             {"X-Evil", "a\r\nX-Other: b"},
                                             {"Bad Name", "x"},
                                             {"", "x"},
                                             {"Transfer-Encoding", "chunked"},
                                             {"Content-Length", "3"},
                                             {"Webhook-Id", "mine"},
                                             {"X-Good", "yes"}};
    static const struct job_callback callback = {.url = URL, .headers = {own, sizeof own / sizeof own[0]}};
    struct muster_ctx *ctx = start(NULL);
    struct job job = job_of(ctx, &callback);
    const struct fake_fetch *fetch;

    end_job(ctx, &job);
    fetch = fake_fetch_at(ctx, 0);
    cr_assert_eq(fetch->spec.header_count, 5);
    cr_assert_str_eq(fake_fetch_header(fetch, "Content-Type"), "application/vnd.ci+json");
    cr_assert_str_eq(fake_fetch_header(fetch, "X-Good"), "yes");
    cr_assert_eq(strncmp(fake_fetch_header(fetch, "webhook-id"), "msg_", 4), 0);
    fake_free(&ctx);
}

/* ---- signatures -------------------------------------------------------------------------------------------------- */

/* The known answer of the reference libraries of Standard Webhooks. */
Test(webhook, signature_is_that_of_the_standard)
{
    static const char body[] = "{\"test\": 2432232314}";
    struct webhook_letter letter = {.id = "msg_p5jXN8AQM9LWM0D4loKWxJek", .now_ms = INT64_C(1614265330000)};
    struct muster_arena *arena = muster_arena_new();
    uint8_t secret[MUSTER_WHSEC_BYTES];

    letter.secrets.value.data = secret;
    cr_assert_eq(muster_whsec_parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", secret, &letter.secrets.value.size),
                 MUSTER_OK);
    cr_assert_str_eq(webhook_signature(arena, &letter, body, sizeof body - 1),
                     "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    muster_arena_free(&arena);
}

/* The answers of the next two were computed with another program from the body that the first test shows. */
static const char *
signature_of(struct muster_ctx *ctx, const struct job_callback *callback)
{
    struct job job = job_of(ctx, callback);

    cr_assert_eq(muster_id_parse("018bcfe5-6800-7000-aa3a-a9640562b6e5", &job.id), MUSTER_OK);
    end_job(ctx, &job);
    return fake_fetch_header(fake_fetch_at(ctx, fake_fetch_count(ctx) - 1), "webhook-signature");
}

Test(webhook, callback_with_a_secret_of_its_own_is_signed_with_it)
{
    struct muster_ctx *ctx = start_with_secret();

    cr_assert_str_eq(signature_of(ctx, &with_secret), "v1,2ZqziCL+XD2WcUVhKT6ZByH+nrj7iOF21gCC8ghLNVo=");
    fake_free(&ctx);
}

Test(webhook, other_callbacks_are_signed_with_the_servers_secret)
{
    struct muster_ctx *ctx = start_with_secret();

    cr_assert_str_eq(signature_of(ctx, &plain), "v1,jg3818EaXAYpN0uoYn4lTcNNiyAmrS0OdOl4qij8ims=");
    fake_free(&ctx);
}

static const struct secret *
ask_secret(struct muster_ctx *ctx, const struct webhook_secret *ask)
{
    const struct webhook_secret_is *is;
    const struct fake_sent *sent;

    cr_assert_eq(fake_call(ctx, "asker", 7, &webhook_secret_type, ask), MUSTER_OK);
    (void)fake_commit_all(ctx);
    sent = fake_take_to(ctx, "asker");
    cr_assert_not_null(sent);
    cr_assert_eq(sent->type, &webhook_secret_is_type);
    cr_assert_eq(sent->envelope.id, 7);
    is = sent->body;
    return is->secret;
}

Test(webhook, servers_secret_is_made_once_and_rotates_with_two_signatures)
{
    static const struct webhook_secret show = {0}, rotate = {.rotate = true, .overlap_ms = 60000},
                                       at_once = {.rotate = true};
    struct muster_ctx *ctx = start(NULL);
    const struct secret *first = ask_secret(ctx, &show), *second;
    struct job job = job_of(ctx, &plain);

    cr_assert_eq(first->value.size, 32);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_eq(memcmp(ask_secret(ctx, &show)->value.data, first->value.data, 32), 0, "it is on disk");
    second = ask_secret(ctx, &rotate);
    cr_assert_neq(memcmp(second->value.data, first->value.data, 32), 0);
    cr_assert_eq(memcmp(second->old.data, first->value.data, 32), 0);
    cr_assert_eq(second->old_until_ms, FAKE_START_MS + 60000);
    end_job(ctx, &job);
    cr_assert_not_null(strstr(fake_fetch_header(fake_fetch_at(ctx, 0), "webhook-signature"), "= v1,"));
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_not_null(strstr(fake_fetch_header(fake_fetch_at(ctx, 1), "webhook-signature"), "= v1,"));
    fake_advance(ctx, 60000);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_null(strchr(fake_fetch_header(fake_fetch_at(ctx, 2), "webhook-signature"), ' '), "the old one is over");
    cr_assert_eq(ask_secret(ctx, &at_once)->old.size, 0);
    cr_assert_not(fake_said_text(ctx, "whsec_"));
    cr_assert_eq(fake_said(ctx, "callback-secret-rotated"), 2);
    fake_free(&ctx);
}

Test(webhook, servers_secret_that_cannot_be_written_is_written_later)
{
    static const struct webhook_secret show = {0}, rotate = {.rotate = true};
    struct muster_ctx *ctx = fake_new(NULL);
    struct muster_id id = muster_id_of("secret", "callbacks");
    const struct secret *secret;
    const struct fake_sent *sent;

    cr_assert_eq(fake_start(ctx, &muster_webhook_class, MUSTER_WEBHOOK, NULL), MUSTER_OK);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_null(fake_get(ctx, &secret_type, &id));
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    fake_advance(ctx, 5000);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OK);
    fake_advance(ctx, 5000);
    cr_assert_eq(fake_commit_all(ctx), 1);
    secret = fake_get(ctx, &secret_type, &id);
    cr_assert_not_null(secret);
    cr_assert_eq(memcmp(ask_secret(ctx, &show)->value.data, secret->value.data, 32), 0);
    cr_assert_eq(fake_call(ctx, "asker", 8, &webhook_secret_type, &rotate), MUSTER_OK);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    sent = fake_take_to(ctx, "asker");
    cr_assert_eq(sent->type, &failed_type);
    cr_assert_eq(memcmp(ask_secret(ctx, &show)->value.data, secret->value.data, 32), 0, "nothing has changed");
    fake_free(&ctx);
}

/* Whoever asks before it is on disk is told when it is, and rotations go one after the other. */
Test(webhook, servers_secret_is_told_when_it_is_on_disk)
{
    static const struct webhook_secret show = {0}, rotate = {.rotate = true, .overlap_ms = 1000};
    struct muster_ctx *ctx = fake_new(NULL);
    const struct webhook_secret_is *is;
    const struct secret *secret;

    cr_assert_eq(fake_start(ctx, &muster_webhook_class, MUSTER_WEBHOOK, NULL), MUSTER_OK);
    cr_assert_eq(fake_call(ctx, "asker", 1, &webhook_secret_type, &show), MUSTER_OK);
    cr_assert_null(fake_take_to(ctx, "asker"));
    cr_assert_eq(fake_call(ctx, "rotator", 1, &webhook_secret_type, &rotate), MUSTER_OK);
    cr_assert_eq(fake_call(ctx, "late", 1, &webhook_secret_type, &rotate), MUSTER_OVERLOADED);
    cr_assert_eq(fake_commit_all(ctx), 3);
    is = fake_take_to(ctx, "asker")->body;
    secret = is->secret;
    is = fake_take_to(ctx, "rotator")->body;
    cr_assert_eq(memcmp(is->secret->old.data, secret->value.data, 32), 0);
    secret = fake_get(ctx, &secret_type, &secret->id);
    cr_assert_eq(memcmp(is->secret->value.data, secret->value.data, 32), 0, "the last one is on disk");
    cr_assert_eq(memcmp(ask_secret(ctx, &show)->value.data, secret->value.data, 32), 0, "and in use");
    fake_free(&ctx);
}

/* ---- retries ----------------------------------------------------------------------------------------------------- */

Test(webhook, failures_are_tried_again_with_growing_pauses_and_one_id)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct job job = job_of(ctx, &plain);
    const struct delivery *delivery;
    int64_t pause;

    end_job(ctx, &job);
    pause = fail_once(ctx, 0, 500, -1);
    cr_assert(pause >= 8000 && pause <= 12000, "%lld", (long long)pause);
    delivery = delivery_of(ctx, &job);
    cr_assert_eq(delivery->state, delivery_state_PENDING);
    cr_assert_eq(delivery->tries, 1);
    cr_assert_eq(delivery->status, 500);
    cr_assert_eq(delivery->next_ms, muster_now_ms(ctx));
    cr_assert_str_eq(delivery->problem, "The receiver answered 500");
    pause = fail_once(ctx, 1, 0, -1);
    cr_assert(pause >= 48000 && pause <= 72000, "%lld", (long long)pause);
    delivery = delivery_of(ctx, &job);
    cr_assert_eq(delivery->tries, 2);
    cr_assert_eq(delivery->status, 0);
    cr_assert_str_eq(delivery->problem, "Connection timed out");
    pause = fail_once(ctx, 2, 302, -1);
    cr_assert(pause >= 288000 && pause <= 432000, "%lld", (long long)pause);
    cr_assert_str_eq(fake_fetch_header(fake_fetch_at(ctx, 0), "webhook-id"),
                     fake_fetch_header(fake_fetch_at(ctx, 3), "webhook-id"));
    cr_assert_str_neq(fake_fetch_header(fake_fetch_at(ctx, 0), "webhook-timestamp"),
                      fake_fetch_header(fake_fetch_at(ctx, 3), "webhook-timestamp"));
    cr_assert_str_eq(body_of(ctx, 0), body_of(ctx, 3));
    fake_fetch_answer(ctx, 3, 200, -1, NULL);
    cr_assert_eq(fake_commit_all(ctx), 1);
    delivery = delivery_of(ctx, &job);
    cr_assert_eq(delivery->state, delivery_state_DELIVERED);
    cr_assert_eq(delivery->tries, 4);
    fake_free(&ctx);
}

Test(webhook, last_try_ends_it)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct job job = job_of(ctx, &plain);
    size_t i;

    end_job(ctx, &job);
    for (i = 0; i < 3; i++)
        (void)fail_once(ctx, i, 503, -1);
    fake_fetch_answer(ctx, 3, 503, 10, NULL);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(delivery_of(ctx, &job)->state, delivery_state_FAILED);
    cr_assert_eq(delivery_of(ctx, &job)->tries, 4);
    cr_assert_eq(fake_next_timer(ctx), -1);
    cr_assert_eq(fake_said(ctx, "callback-failed"), 1);
    cr_assert_eq(fake_said(ctx, "callback-retrying"), 1, "at the first try only");
    cr_assert(fake_said_text(ctx, "host=api.example.com"));
    cr_assert_not(fake_said_text(ctx, "example.com/"), "an URL may hold a secret");
    fake_free(&ctx);
}

Test(webhook, receiver_that_is_gone_ends_it_at_once)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct job job = job_of(ctx, &plain);

    end_job(ctx, &job);
    fake_fetch_answer(ctx, 0, 410, -1, NULL);
    cr_assert_eq(fake_commit_all(ctx), 1);
    cr_assert_eq(delivery_of(ctx, &job)->state, delivery_state_FAILED);
    cr_assert_eq(delivery_of(ctx, &job)->status, 410);
    cr_assert_eq(fake_next_timer(ctx), -1);
    fake_free(&ctx);
}

Test(webhook, retry_after_counts_when_it_is_longer_and_has_a_limit)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct job job = job_of(ctx, &plain);

    end_job(ctx, &job);
    cr_assert_eq(fail_once(ctx, 0, 429, 600), 600000);
    cr_assert_geq(fail_once(ctx, 1, 429, 1), 48000, "shorter than our own pause");
    cr_assert_eq(fail_once(ctx, 2, 429, INT64_MAX), 3600000);
    fake_free(&ctx);
}

Test(webhook, restart_makes_open_requests_again_and_keeps_the_schedule)
{
    struct muster_ctx *ctx = start(OPTIONS);
    struct job first = job_of(ctx, &plain), second = job_of(ctx, &plain), done = job_of(ctx, &plain);
    int64_t pause;

    end_job(ctx, &first);
    end_job(ctx, &second);
    end_job(ctx, &done);
    fake_fetch_answer(ctx, 0, 500, -1, NULL);
    fake_fetch_answer(ctx, 2, 200, -1, NULL);
    (void)fake_commit_all(ctx);
    pause = fake_next_timer(ctx);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_eq(fake_fetch_open(ctx), 1, "the one that was open");
    cr_assert_str_eq(body_of(ctx, 3), body_of(ctx, 1));
    cr_assert_eq(fake_next_timer(ctx), pause);
    fake_advance(ctx, pause);
    cr_assert_eq(fake_fetch_open(ctx), 2);
    cr_assert_str_eq(body_of(ctx, 4), body_of(ctx, 0));
    fake_fetch_answer(ctx, 3, 200, -1, NULL);
    fake_fetch_answer(ctx, 4, 200, -1, NULL);
    cr_assert_eq(fake_commit_all(ctx), 2);
    cr_assert_eq(delivery_of(ctx, &first)->tries, 2, "tries go on counting");
    cr_assert_eq(delivery_of(ctx, &second)->state, delivery_state_DELIVERED);
    cr_assert_eq(fake_restart(ctx), MUSTER_OK);
    cr_assert_eq(fake_fetch_open(ctx), 0, "nothing is left to deliver");
    fake_free(&ctx);
}

Test(webhook, missed_events_are_found_in_the_store)
{
    struct muster_ctx *ctx = start(NULL);
    struct job seen = job_of(ctx, &plain), missed = job_of(ctx, &plain);
    struct job_chunk chunk = {.text = "x"};

    end_job(ctx, &seen);
    put_pending(ctx, &missed);
    (void)fake_feed(ctx, &job_chunk_type, "backend", &missed.id, &chunk);
    cr_assert_eq(fake_fetch_count(ctx), 1, "no reason to look yet");
    fake_feed_missed(ctx, 1);
    (void)fake_feed(ctx, &job_chunk_type, "backend", &missed.id, &chunk);
    cr_assert_eq(fake_fetch_count(ctx), 1, "the last walk was just now");
    fake_advance(ctx, 1000);
    cr_assert_eq(fake_fetch_count(ctx), 2, "the missed one, and the open one not twice");
    cr_assert_eq(fake_next_timer(ctx), -1);
    fake_free(&ctx);
}

Test(webhook, event_that_comes_twice_is_delivered_once)
{
    struct muster_ctx *ctx = start(NULL);
    struct job job = job_of(ctx, &plain);
    struct job_completed completed = {.duration_ms = 1};

    end_job(ctx, &job);
    (void)fake_feed(ctx, &job_completed_type, "backend", &job.id, &completed);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    fake_fetch_answer(ctx, 0, 200, -1, NULL);
    (void)fake_feed(ctx, &job_completed_type, "backend", &job.id, &completed);
    cr_assert_eq(fake_fetch_count(ctx), 1, "its outcome is on its way to the disk");
    (void)fake_commit_all(ctx);
    (void)fake_feed(ctx, &job_completed_type, "backend", &job.id, &completed);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    end_job(ctx, &job);
    cr_assert_eq(fake_fetch_count(ctx), 2, "made pending anew, it is delivered anew");
    fake_free(&ctx);
}

Test(webhook, job_without_callback_is_left_alone)
{
    struct muster_ctx *ctx = start(NULL);
    struct job job = job_of(ctx, NULL);
    struct job_completed completed = {.duration_ms = 1};

    fake_put(ctx, &job_type, &job);
    (void)fake_feed(ctx, &job_completed_type, "backend", &job.id, &completed);
    cr_assert_eq(fake_fetch_count(ctx), 0);
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_free(&ctx);
}

Test(webhook, job_that_is_no_longer_kept_ends_it)
{
    struct muster_ctx *ctx = start(NULL);
    struct delivery delivery = {.id = muster_id_new(FAKE_START_MS), .state = delivery_state_PENDING};
    struct job_completed completed = {.duration_ms = 1};
    const struct delivery *after;

    fake_put(ctx, &delivery_type, &delivery);
    (void)fake_feed(ctx, &job_completed_type, "backend", &delivery.id, &completed);
    cr_assert_eq(fake_commit_all(ctx), 1);
    after = fake_get(ctx, &delivery_type, &delivery.id);
    cr_assert_eq(after->state, delivery_state_FAILED);
    cr_assert_eq(fake_fetch_count(ctx), 0);
    fake_free(&ctx);
}

Test(webhook, outcome_that_cannot_be_written_is_written_later_and_not_sent_twice)
{
    struct muster_ctx *ctx = start(NULL);
    struct job job = job_of(ctx, &plain);

    end_job(ctx, &job);
    fake_fetch_answer(ctx, 0, 200, -1, NULL);
    cr_assert(fake_commit_fails(ctx, MUSTER_STORAGE_FULL));
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OVERLOADED);
    fake_advance(ctx, 5000);
    cr_assert_eq(fake_sent_count(ctx), 0);
    fake_refuse(ctx, MUSTER_STORE, MUSTER_OK);
    fake_advance(ctx, 5000);
    cr_assert(fake_commit(ctx));
    cr_assert_eq(delivery_of(ctx, &job)->state, delivery_state_DELIVERED);
    cr_assert_eq(fake_fetch_count(ctx), 1);
    cr_assert_eq(fake_next_timer(ctx), -1);
    fake_free(&ctx);
}

Test(webhook, one_host_has_at_most_four_requests_open)
{
    static const struct job_callback other = {.url = "http://user@OTHER.example:8080?x"};
    struct muster_ctx *ctx = start(NULL);
    struct job jobs[10], elsewhere = job_of(ctx, &other);
    size_t i;

    for (i = 0; i < 10; i++) {
        jobs[i] = job_of(ctx, &plain);
        end_job(ctx, &jobs[i]);
    }
    cr_assert_eq(fake_fetch_open(ctx), 4);
    end_job(ctx, &elsewhere);
    cr_assert_eq(fake_fetch_open(ctx), 5, "another host is not held up");
    fake_fetch_answer(ctx, 4, 200, -1, NULL);
    for (i = 0; i < 4; i++)
        fake_fetch_answer(ctx, i, 200, -1, NULL);
    cr_assert_eq(fake_fetch_open(ctx), 4);
    for (i = 5; i < 11; i++)
        fake_fetch_answer(ctx, i, 200, -1, NULL);
    cr_assert_eq(fake_fetch_count(ctx), 11);
    cr_assert_eq(fake_commit_all(ctx), 11);
    for (i = 0; i < 10; i++)
        cr_assert_eq(delivery_of(ctx, &jobs[i])->state, delivery_state_DELIVERED);
    fake_free(&ctx);
}

/* One that waits for a slot of its host and then has nothing to send hands the slot on. */
Test(webhook, slot_is_handed_on_when_a_waiting_job_is_gone)
{
    struct muster_ctx *ctx = start(NULL);
    struct job jobs[7];
    struct store_put put = {.record = "job", .remove = true};
    struct store_commit commit = {.puts = {&put, 1}};
    size_t i;

    for (i = 0; i < 7; i++) {
        jobs[i] = job_of(ctx, &plain);
        end_job(ctx, &jobs[i]);
    }
    for (i = 4; i < 6; i++) { /* retention removes two that wait */
        put.value = (struct muster_bytes){jobs[i].id.bytes, sizeof jobs[i].id.bytes};
        cr_assert_eq(muster_tell(ctx, MUSTER_STORE, &store_commit_type, &commit), MUSTER_OK);
        cr_assert(fake_commit(ctx));
    }
    fake_fetch_answer(ctx, 0, 200, -1, NULL);
    cr_assert_eq(fake_fetch_open(ctx), 4, "the seventh has the slot");
    cr_assert_not_null(strstr(body_of(ctx, 4), "job_"));
    (void)fake_commit_all(ctx);
    cr_assert_eq(delivery_of(ctx, &jobs[4])->state, delivery_state_FAILED);
    cr_assert_eq(delivery_of(ctx, &jobs[5])->state, delivery_state_FAILED);
    fake_free(&ctx);
}

Test(webhook, all_hosts_together_have_max_parallel_requests_open)
{
    struct muster_ctx *ctx = start("webhooks: {max_parallel: 3}\n");
    struct job_callback callback = {0};
    struct job job;
    char url[64];
    size_t i;

    for (i = 0; i < 8; i++) {
        (void)snprintf(url, sizeof url, "http://host-%zu.example/", i);
        callback.url = url;
        job = job_of(ctx, &callback);
        end_job(ctx, &job);
        cr_assert_leq(fake_fetch_open(ctx), 3);
    }
    for (i = 0; i < 8; i++) {
        fake_fetch_answer(ctx, i, 200, -1, NULL);
        cr_assert_leq(fake_fetch_open(ctx), 3);
    }
    cr_assert_eq(fake_fetch_count(ctx), 8);
    cr_assert_eq(fake_commit_all(ctx), 8);
    fake_free(&ctx);
}

/* Random answers, restarts, lost commits and lost events: in the end every receiver has every end. */
Test(webhook, everything_is_delivered_in_the_end)
{
    struct muster_ctx *ctx = start("webhooks: {max_tries: 100, retry_delay: 1s, max_retry_delay: 10s}\n");
    struct job_callback callback = {0};
    struct job jobs[40];
    char url[64];
    unsigned seed = 4711;
    size_t i, round, made = 0;

    for (round = 0; round < 3000; round++) {
        if (made < 40 && rand_r(&seed) % 10 == 0) {
            (void)snprintf(url, sizeof url, "http://host-%d.example/", rand_r(&seed) % 3);
            callback.url = url;
            jobs[made] = job_of(ctx, &callback);
            if (rand_r(&seed) % 3 == 0)
                end_job(ctx, &jobs[made]);
            else
                put_pending(ctx, &jobs[made]);
            made++;
        }
        for (i = 0; i < fake_fetch_count(ctx); i++)
            if (fake_fetch_at(ctx, i)->open && rand_r(&seed) % 4 == 0)
                fake_fetch_answer(ctx, i, rand_r(&seed) % 3 ? 500 : 200, -1, NULL);
        if (rand_r(&seed) % 5 == 0)
            (void)fake_commit_fails(ctx, MUSTER_STORAGE_FULL);
        (void)fake_commit_all(ctx);
        if (rand_r(&seed) % 50 == 0)
            cr_assert_eq(fake_restart(ctx), MUSTER_OK);
        if (rand_r(&seed) % 20 == 0)
            fake_feed_missed(ctx, 1);
        fake_advance(ctx, rand_r(&seed) % 1000);
    }
    cr_assert_eq(made, 40);
    for (i = 0; i < made; i++)
        cr_assert_eq(delivery_of(ctx, &jobs[i])->state, delivery_state_DELIVERED, "job %zu", i);
    fake_free(&ctx);
}
