/* SPDX-License-Identifier: MPL-2.0 */
/* How a turn of the claude CLI ended: its `result` line to an outcome.
 *
 * `is_error` decides, not `subtype`: failures of the model API come as "success".  Costs count from the start of the
 * process, everything else is the turn's.  Agent actor's thread. */
#include <string.h>

#include "actors/cost.h"
#include "actors/drivers/claude.h"
#include "transport/muster_loop.h"

/* A limit's end is told by the account's clock; keep to what is sensible to wait. */
#define RESET_MIN_MS ((int64_t)60 * 1000)
#define RESET_MAX_MS ((int64_t)6 * 3600 * 1000)

static int64_t
count_of(const json_t *object, const char *name)
{
    double number = json_number_value(json_object_get(object, name));

    return number >= 0 && number < 9e15 ? (int64_t)number : 0;
}

/* What the turn used; also moves the process's total on. */
static struct usage
usage_of(struct claude *self, const json_t *result)
{
    const json_t *usage = json_object_get(result, "usage"), *cost = json_object_get(result, "total_cost_usd");
    struct usage used = {.input_tokens = count_of(usage, "input_tokens"),
                         .output_tokens = count_of(usage, "output_tokens"),
                         .cache_read_tokens = count_of(usage, "cache_read_input_tokens"),
                         .cache_write_tokens = count_of(usage, "cache_creation_input_tokens"),
                         .turns = count_of(result, "num_turns")};
    double total = json_number_value(cost);

    if (!json_is_number(cost) || total < 0)
        return used;
    used.cost_usd = cost_rounded(total >= self->cost_usd ? total - self->cost_usd : total);
    self->cost_usd = total;
    return used;
}

/* The error text: `result`, or all of `errors`. */
static void
add_text(const json_t *result, struct muster_buf *out)
{
    const json_t *text = json_object_get(result, "result"), *errors = json_object_get(result, "errors"), *error;
    size_t i;

    if (json_is_string(text)) {
        muster_buf_add(out, json_string_value(text), json_string_length(text));
        return;
    }
    json_array_foreach(errors, i, error)
    {
        if (!json_is_string(error))
            continue;
        if (out->size)
            muster_buf_str(out, "; ");
        muster_buf_add(out, json_string_value(error), json_string_length(error));
    }
}

static bool
is(const char *text, const char *other)
{
    return !strcmp(text, other);
}

/* A failure of the model API. */
static muster_err
api_error(const struct claude *self, const json_t *result, const char *text)
{
    int64_t status = count_of(result, "api_error_status");

    if (status == 401 || status == 403 || is(self->error, "authentication_failed"))
        return MUSTER_MODEL_AUTH;
    if (status == 429 || is(self->error, "rate_limit"))
        return MUSTER_MODEL_RATE_LIMITED;
    if (status == 529 || is(self->error, "overloaded") || strcasestr(text, "overloaded"))
        return MUSTER_MODEL_OVERLOADED;
    if ((status >= 400 && status < 500 && status != 408) || is(self->error, "model_not_found") ||
        is(self->error, "invalid_request"))
        return MUSTER_MODEL_REFUSED;
    return MUSTER_MODEL_ERROR;
}

static muster_err
error_of(struct claude *self, const json_t *result, const char *text)
{
    const char *subtype = driver_json_str(result, "subtype"), *reason = driver_json_str(result, "terminal_reason");

    if (strstr(text, "No conversation found"))
        self->no_conversation = true;
    if (!strncmp(reason, "aborted", 7))
        return self->interrupted ? MUSTER_CANCELLED : MUSTER_PROCESS_ERROR;
    if (is(subtype, "error_max_turns") || is(reason, "max_turns") || is(subtype, "error_max_budget_usd"))
        return MUSTER_MAX_TURNS;
    if (is(subtype, "success") || json_is_number(json_object_get(result, "api_error_status")))
        return api_error(self, result, text);
    return self->interrupted ? MUSTER_CANCELLED : MUSTER_PROCESS_ERROR;
}

static int64_t
retry_after_ms(const struct claude *self)
{
    int64_t left_ms;

    if (!self->resets_at_s)
        return 0;
    left_ms = self->resets_at_s * 1000 - muster_clock_ms();
    if (left_ms < RESET_MIN_MS)
        return RESET_MIN_MS;
    return left_ms > RESET_MAX_MS ? RESET_MAX_MS : left_ms;
}

void
claude_result(struct claude *self, const json_t *result, struct muster_buf *text, struct driver_outcome *out)
{
    *out = (struct driver_outcome){.usage = usage_of(self, result)};
    add_text(result, text);
    if (json_is_true(json_object_get(result, "is_error"))) {
        if (!text->size)
            muster_buf_str(text, "The agent ended its turn with an error.");
        out->err = error_of(self, result, text->data);
    }
    if (out->err == MUSTER_MODEL_RATE_LIMITED)
        out->retry_after_ms = retry_after_ms(self);
    out->fresh_session = self->no_conversation;
    out->text = text->data ? text->data : "";
    out->text_size = text->size;
}
