/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_retry: what an answer means and when the next request is made, the same for callbacks and webhooks.  Keeps
 * nothing and cannot fail. */
#include <stdio.h>
#include <string.h>

#include "actors/webhook.h"

#define GROWTH 6
#define JITTER_PERCENT 20
#define STATUS_MAX 999
#define STATUS_GONE 410

static bool
is_taken(const struct muster_fetch_result *result)
{
    return result->status >= 200 && result->status < 300;
}

enum webhook_verdict
webhook_judge(const struct webhook_options *options, int64_t tries, const struct muster_fetch_result *result)
{
    if (is_taken(result))
        return WEBHOOK_TAKEN;
    return result->status == STATUS_GONE || tries >= options->max_tries ? WEBHOOK_OVER : WEBHOOK_AGAIN;
}

int64_t
webhook_pause_ms(const struct webhook_options *options, int64_t tries, int64_t retry_after_s)
{
    int64_t pause = options->retry_delay, longest = options->max_retry_delay, spread, i;

    for (i = 1; i < tries && pause < longest; i++)
        pause *= GROWTH;
    pause = pause < longest ? pause : longest;
    spread = pause * JITTER_PERCENT / 100;
    pause += (int64_t)muster_random_below((uint32_t)(2 * spread + 1)) - spread;
    if (retry_after_s > longest / 1000)
        return longest;
    if (retry_after_s > 0 && retry_after_s * 1000 > pause)
        pause = retry_after_s * 1000;
    return pause < longest ? pause : longest;
}

void
webhook_problem_set(const char *text, char out_text[WEBHOOK_PROBLEM_TEXT])
{
    struct muster_buf clean = {0};

    muster_utf8_clean(&clean, text, strnlen(text, WEBHOOK_PROBLEM_MAX));
    (void)snprintf(out_text, WEBHOOK_PROBLEM_TEXT, "%s", clean.data ? clean.data : "");
    muster_buf_free(&clean);
}

void
webhook_problem(const struct muster_fetch_result *result, char out_text[WEBHOOK_PROBLEM_TEXT])
{
    if (is_taken(result))
        out_text[0] = '\0';
    else if (result->status == 0)
        webhook_problem_set(result->problem && result->problem[0] ? result->problem : "No answer came", out_text);
    else
        (void)snprintf(out_text, WEBHOOK_PROBLEM_TEXT, "The receiver answered %ld", result->status);
}

int64_t
webhook_status(const struct muster_fetch_result *result)
{
    return result->status > STATUS_MAX ? STATUS_MAX : result->status;
}
