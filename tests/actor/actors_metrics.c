/* SPDX-License-Identifier: MPL-2.0 */
/* The metrics text: what events count for, and that the text is what Prometheus reads. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/actor/fake/fake_ctx.h"

static struct muster_ctx *
start(void)
{
    struct muster_ctx *ctx = fake_new(NULL);

    cr_assert_eq(fake_start(ctx, &muster_metrics_class, MUSTER_METRICS, NULL), MUSTER_OK);
    cr_assert(fake_subscribed(ctx));
    return ctx;
}

static const char *
read_text(struct muster_ctx *ctx)
{
    const struct metrics_read read = {0};
    const struct fake_sent *sent;
    const struct metrics_text *text;

    cr_assert_eq(fake_call(ctx, "caller/1", 1, &metrics_read_type, &read), MUSTER_OK);
    sent = fake_take(ctx);
    cr_assert_eq(sent->type, &metrics_text_type);
    text = sent->body;
    return text->text;
}

/* The text has this whole line. */
static void
has(struct muster_ctx *ctx, const char *line)
{
    struct muster_buf wanted = {0};
    const char *text = read_text(ctx);

    muster_buf_printf(&wanted, "\n%s\n", line);
    cr_assert_not_null(strstr(text, wanted.data), "no line \"%s\" in:\n%s", line, text);
    muster_buf_free(&wanted);
}

static void
feed(struct muster_ctx *ctx, const struct muster_type *type, const char *team, const void *body)
{
    struct muster_id job = muster_id_new(FAKE_START_MS);

    cr_assert_eq(fake_feed(ctx, type, team, &job, body), MUSTER_OK);
}

Test(metrics, every_kind_of_event_is_counted_by_team)
{
    struct muster_ctx *ctx = start();
    struct job_queued queued = {.priority = job_priority_HIGH};
    struct job_started started = {0};
    struct job_chunk chunk = {.text = "x"};
    struct job_retrying retrying = {.code = "AGENT_HUNG"};
    struct job_parked parked = {.reason = "shutdown"};
    struct job_permission denied = {.tool = "Bash", .verdict = tool_verdict_DENIED};
    struct job_permission allowed = {.tool = "Bash", .verdict = tool_verdict_ALLOWED};
    struct job_failed failed = {.code = "MODEL_AUTH", .duration_ms = 10};
    struct job_failed strange = {.code = "FROM_THE_FUTURE", .duration_ms = 10};
    struct job_cancelled cancelled = {.by = "me"};
    int i;

    for (i = 0; i < 2; i++)
        feed(ctx, &job_queued_type, "backend", &queued);
    feed(ctx, &job_queued_type, "frontend", &queued);
    feed(ctx, &job_started_type, "backend", &started);
    for (i = 0; i < 5; i++)
        feed(ctx, &job_chunk_type, "backend", &chunk);
    feed(ctx, &job_retrying_type, "backend", &retrying);
    feed(ctx, &job_parked_type, "backend", &parked);
    feed(ctx, &job_permission_type, "backend", &denied);
    feed(ctx, &job_permission_type, "backend", &allowed);
    feed(ctx, &job_failed_type, "backend", &failed);
    feed(ctx, &job_failed_type, "backend", &strange);
    feed(ctx, &job_cancelled_type, "backend", &cancelled);
    has(ctx, "muster_jobs_queued_total{team=\"backend\"} 2");
    has(ctx, "muster_jobs_queued_total{team=\"frontend\"} 1");
    has(ctx, "muster_jobs_started_total{team=\"backend\"} 1");
    has(ctx, "muster_jobs_started_total{team=\"frontend\"} 0");
    has(ctx, "muster_job_chunks_total{team=\"backend\"} 5");
    has(ctx, "muster_jobs_retried_total{team=\"backend\"} 1");
    has(ctx, "muster_jobs_parked_total{team=\"backend\"} 1");
    has(ctx, "muster_permission_denials_total{team=\"backend\"} 1");
    has(ctx, "muster_jobs_failed_total{team=\"backend\",code=\"MODEL_AUTH\"} 1");
    has(ctx, "muster_jobs_failed_total{team=\"backend\",code=\"INTERNAL_ERROR\"} 1");
    has(ctx, "muster_jobs_cancelled_total{team=\"backend\"} 1");
    has(ctx, "muster_jobs_completed_total{team=\"backend\"} 0");
    fake_free(&ctx);
}

Test(metrics, ends_of_jobs_give_durations_tokens_and_cost)
{
    struct muster_ctx *ctx = start();
    struct usage usage = {.input_tokens = 100, .output_tokens = 20, .cache_read_tokens = 3000, .cost_usd = 0.125};
    struct job_completed completed = {.duration_ms = 700, .usage = &usage};
    struct job_failed failed = {.code = "TIMEOUT", .duration_ms = 2000000, .usage = &usage};
    struct job_usage running = {.usage = &usage};

    feed(ctx, &job_usage_type, "backend", &running); /* part of what the last event says */
    feed(ctx, &job_completed_type, "backend", &completed);
    feed(ctx, &job_failed_type, "backend", &failed);
    completed.usage = NULL;
    completed.duration_ms = 500;
    feed(ctx, &job_completed_type, "backend", &completed);
    has(ctx, "muster_jobs_completed_total{team=\"backend\"} 2");
    has(ctx, "muster_tokens_total{team=\"backend\",kind=\"input\"} 200");
    has(ctx, "muster_tokens_total{team=\"backend\",kind=\"output\"} 40");
    has(ctx, "muster_tokens_total{team=\"backend\",kind=\"cache_read\"} 6000");
    has(ctx, "muster_tokens_total{team=\"backend\",kind=\"cache_write\"} 0");
    has(ctx, "muster_cost_usd_total{team=\"backend\"} 0.250000");
    has(ctx, "muster_job_duration_seconds_bucket{team=\"backend\",le=\"0.1\"} 0");
    has(ctx, "muster_job_duration_seconds_bucket{team=\"backend\",le=\"0.5\"} 1");
    has(ctx, "muster_job_duration_seconds_bucket{team=\"backend\",le=\"1\"} 2");
    has(ctx, "muster_job_duration_seconds_bucket{team=\"backend\",le=\"1800\"} 2");
    has(ctx, "muster_job_duration_seconds_bucket{team=\"backend\",le=\"+Inf\"} 3");
    has(ctx, "muster_job_duration_seconds_sum{team=\"backend\"} 2001.200");
    has(ctx, "muster_job_duration_seconds_count{team=\"backend\"} 3");
    fake_free(&ctx);
}

Test(metrics, tools_are_bounded_and_escaped)
{
    struct muster_ctx *ctx = start();
    char name[32];
    struct job_tool_use use = {.tool = "a\"b\\c\nd"}, other = {.tool = "other"};
    int i;

    feed(ctx, &job_tool_use_type, "backend", &use);
    feed(ctx, &job_tool_use_type, "backend", &other);
    use.tool = name;
    for (i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof name, "tool-%d", i);
        feed(ctx, &job_tool_use_type, "backend", &use);
    }
    has(ctx, "muster_tool_uses_total{team=\"backend\",tool=\"a\\\"b\\\\c\\nd\"} 1");
    has(ctx, "muster_tool_uses_total{team=\"backend\",tool=\"tool-62\"} 1");
    has(ctx, "muster_tool_uses_total{team=\"backend\",tool=\"other\"} 38");
    cr_assert_null(strstr(read_text(ctx), "tool-63"));
    fake_free(&ctx);
}

Test(metrics, missed_events_are_said)
{
    struct muster_ctx *ctx = start();

    has(ctx, "muster_events_uncounted_total 0");
    fake_feed_missed(ctx, 3);
    has(ctx, "muster_events_uncounted_total 3");
    fake_feed_missed(ctx, 4);
    has(ctx, "muster_events_uncounted_total 7");
    fake_free(&ctx);
}

Test(metrics, unknown_events_and_bad_bodies_do_no_harm)
{
    struct muster_ctx *ctx = start();
    struct agent_process process = {.process = 1, .state = process_state_IDLE};
    struct event bad = {.seq = 9, .type = "job.completed", .team = "backend", .body = {(const uint8_t *)"\xc1", 1}};
    struct feed_events in = {.events = {&bad, 1}};

    feed(ctx, &agent_process_type, "backend", &process);
    cr_assert_eq(fake_deliver(ctx, NULL, &feed_events_type, &in), MUSTER_INVALID_REQUEST);
    cr_assert_null(strstr(read_text(ctx), "backend"));
    fake_free(&ctx);
}

/* Every family has HELP and TYPE before its samples, and no sample stands twice. */
Test(metrics, text_is_well_formed)
{
    struct muster_ctx *ctx = start();
    struct job_completed completed = {.duration_ms = 700};
    struct job_tool_use use = {.tool = "Bash"};
    char *text, *line, *rest, *seen, family[128] = "";
    size_t size;

    feed(ctx, &job_completed_type, "a", &completed);
    feed(ctx, &job_completed_type, "b", &completed);
    feed(ctx, &job_tool_use_type, "a", &use);
    text = muster_strdup(read_text(ctx));
    cr_assert_eq(text[strlen(text) - 1], '\n');
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            (void)snprintf(family, sizeof family, "%.*s", (int)strcspn(line + 7, " "), line + 7);
            line = strtok_r(NULL, "\n", &rest);
            cr_assert(strncmp(line, "# TYPE ", 7) == 0 && strncmp(line + 7, family, strlen(family)) == 0);
            continue;
        }
        cr_assert_eq(strncmp(line, family, strlen(family)), 0, "%s is not of %s", line, family);
        cr_assert_eq(strncmp(line, "muster_", 7), 0);
        size = (size_t)(strrchr(line, ' ') + 1 - line);
        for (seen = text; seen < line; seen += strlen(seen) + 1)
            cr_assert(strncmp(seen, line, size) != 0, "%s stands twice", line);
    }
    free(text);
    fake_free(&ctx);
}
