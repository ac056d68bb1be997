/* SPDX-License-Identifier: MPL-2.0 */
/* The runtime with real threads and mailboxes: answers, errors, hostile bytes, timers, restart after a failure. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "schemas/muster_options.h"

#define WAIT_MS 10000

/* An actor that answers, fails, forwards and keeps callers for its timer. */
struct probe {
    struct muster_ctx *ctx;
    struct muster_caller *caller;
    int64_t handled;
};

static muster_err
probe_init(void *state, struct muster_ctx *ctx, const void *config)
{
    struct probe *self = state;

    self->ctx = ctx;
    return config ? MUSTER_STORAGE_ERROR : MUSTER_OK;
}

static void
probe_fini(void *state)
{
    struct probe *self = state;

    muster_caller_free(&self->caller);
}

MUSTER_ON(probe, metrics_read); /* answers how many messages this life has handled */
static muster_err
on_metrics_read(struct probe *self, const struct metrics_read *in)
{
    char text[32];
    struct metrics_text answer = {.text = text};

    (void)in;
    snprintf(text, sizeof text, "%lld", (long long)++self->handled);
    muster_reply(self->ctx, &metrics_text_type, &answer);
    return MUSTER_OK;
}

MUSTER_ON(probe, auth_revoke); /* refuses, fails or forwards */
static muster_err
on_auth_revoke(struct probe *self, const struct auth_revoke *in)
{
    struct metrics_read read = {.all = true};

    if (strcmp(in->key, "refuse") == 0) {
        muster_explain(self->ctx, 7, "not %s", in->key);
        return MUSTER_CONFLICT;
    }
    if (strcmp(in->key, "forward") == 0)
        return muster_forward(self->ctx, "other", &metrics_read_type, &read);
    return MUSTER_INTERNAL_ERROR;
}

MUSTER_ON(probe, log_flush); /* answers from a timer */
static muster_err
on_log_flush(struct probe *self, const struct log_flush *in)
{
    (void)in;
    self->caller = muster_caller_keep(self->ctx);
    muster_timer_in(self->ctx, 60000, 1);
    muster_timer_in(self->ctx, 1, 1); /* moved, not added */
    return MUSTER_OK;
}

static void
probe_timer(void *state, uint64_t key)
{
    struct probe *self = state;
    struct metrics_text answer = {.text = "timer"};

    cr_assert_eq(key, 1);
    muster_caller_answer(self->ctx, &self->caller, MUSTER_OK, &metrics_text_type, &answer);
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(metrics_read),
    MUSTER_ROW(auth_revoke),
    MUSTER_ROW(log_flush),
    {NULL, NULL},
};

static const struct muster_actor_class probe_class = {
    .name = "probe",
    .size = sizeof(struct probe),
    .mailbox = 100,
    .init = probe_init,
    .fini = probe_fini,
    .handlers = handlers,
    .timer = probe_timer,
};

/* ---- a house with one probe and a post of the test ---- */

struct house {
    struct muster_house house;
    struct muster_config config;
    struct muster_actor *probe;
    struct muster_post *post;
    struct muster_arena *arena;
    int null;
};

static struct house *
house_new(void)
{
    struct house *self = muster_alloc(sizeof *self);
    struct muster_options_error error;

    cr_assert_eq(muster_crypto_init(), MUSTER_OK);
    cr_assert_eq(muster_config_load(NULL, &self->config, &error), MUSTER_OK);
    self->null = open("/dev/null", O_WRONLY);
    self->arena = muster_arena_new();
    self->house.options = self->config.options;
    self->house.journal = muster_journal_new(self->null, self->config.options->log);
    self->house.bus = muster_bus_new();
    cr_assert_eq(muster_actor_start(&self->house, "probe", &probe_class, NULL, &self->probe), MUSTER_OK);
    cr_assert_eq(muster_post_open(self->house.bus, NULL, 100, &self->post), MUSTER_OK);
    return self;
}

static void
house_free(struct house *self)
{
    muster_post_close(&self->post);
    muster_actor_stop(&self->probe);
    muster_bus_free(&self->house.bus);
    muster_journal_free(&self->house.journal);
    muster_config_free(&self->config);
    muster_arena_free(&self->arena);
    close(self->null);
    free(self);
}

static void
ask(struct house *self, int64_t id, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.id = id,
                                       .reply_to = muster_post_address(self->post),
                                       .trace = "trace-1",
                                       .principal = {.name = "ci", .rate_left = 9}};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, type, body, &frame);
    cr_assert_eq(muster_post_send(self->post, "probe", &frame), MUSTER_OK);
}

static struct muster_envelope
answer(struct house *self, const struct muster_type *type, void *out)
{
    struct muster_envelope envelope;
    struct muster_frame frame;

    cr_assert_eq(muster_post_receive(self->post, WAIT_MS, -1, &frame), MUSTER_OK, "no answer");
    cr_assert_eq(muster_envelope_unpack(frame.data, frame.size, self->arena, &envelope), MUSTER_OK);
    cr_assert_str_eq(envelope.type, type->wire);
    cr_assert_eq(muster_unpack(type, envelope.body.data, envelope.body.size, self->arena, out, NULL), MUSTER_OK);
    muster_frame_free(&frame);
    return envelope;
}

Test(runtime, an_answer_carries_id_trace_and_principal_back)
{
    struct house *house = house_new();
    struct metrics_read read = {.all = true};
    struct muster_envelope envelope;
    struct metrics_text text;

    ask(house, 41, &metrics_read_type, &read);
    envelope = answer(house, &metrics_text_type, &text);
    cr_assert_eq(envelope.id, 41);
    cr_assert_str_eq(envelope.trace, "trace-1");
    cr_assert_str_eq(envelope.principal.name, "ci");
    cr_assert_eq(envelope.principal.rate_left, 9);
    cr_assert_str_eq(text.text, "1");
    house_free(house);
}

Test(runtime, an_error_is_told_with_its_reason)
{
    struct house *house = house_new();
    struct auth_revoke refuse = {.key = "refuse"};
    struct failed failed;

    ask(house, 1, &auth_revoke_type, &refuse);
    answer(house, &failed_type, &failed);
    cr_assert_str_eq(failed.code, "CONFLICT");
    cr_assert_str_eq(failed.message, "not refuse");
    cr_assert_eq(failed.retry_after_s, 7);
    house_free(house);
}

Test(runtime, unknown_and_malformed_messages_do_no_harm)
{
    struct house *house = house_new();
    struct queue_cancel unknown = {.job = muster_id_new(1)};
    struct muster_envelope wrong_body = {.type = "auth.revoke",
                                         .id = 3,
                                         .reply_to = muster_post_address(house->post),
                                         .trace = "",
                                         .principal.name = "",
                                         .body = {(const uint8_t *)"\x80", 1}};
    struct metrics_read read = {.all = true};
    struct muster_buf frame = {0};
    struct metrics_text text;
    struct failed failed;

    ask(house, 1, &queue_cancel_type, &unknown);
    answer(house, &failed_type, &failed);
    cr_assert_str_eq(failed.code, "INVALID_REQUEST");
    muster_buf_str(&frame, "no envelope at all");
    cr_assert_eq(muster_post_send(house->post, "probe", &frame), MUSTER_OK);
    muster_envelope_wrap(&wrong_body, &frame);
    cr_assert_eq(muster_post_send(house->post, "probe", &frame), MUSTER_OK);
    answer(house, &failed_type, &failed);
    cr_assert_not_null(strstr(failed.message, "key"), "names the field: %s", failed.message);
    ask(house, 2, &metrics_read_type, &read);
    answer(house, &metrics_text_type, &text);
    house_free(house);
}

Test(runtime, a_request_that_nobody_waits_for_any_more_is_not_carried_out)
{
    struct house *house = house_new();
    struct muster_envelope late = {
        .id = 1, .reply_to = muster_post_address(house->post), .deadline_ms = 1, .trace = "", .principal.name = ""};
    struct metrics_read read = {.all = true};
    struct muster_buf frame = {0};
    struct metrics_text text;
    struct failed failed;

    muster_envelope_pack(&late, &metrics_read_type, &read, &frame);
    cr_assert_eq(muster_post_send(house->post, "probe", &frame), MUSTER_OK);
    answer(house, &failed_type, &failed);
    cr_assert_str_eq(failed.code, "TIMEOUT");
    ask(house, 2, &metrics_read_type, &read);
    answer(house, &metrics_text_type, &text);
    cr_assert_str_eq(text.text, "1", "the late one was not counted");
    house_free(house);
}

Test(runtime, a_forwarded_request_is_answered_by_the_last_one)
{
    struct house *house = house_new();
    struct auth_revoke forward = {.key = "forward"};
    struct muster_actor *other;
    struct muster_envelope envelope;
    struct metrics_text text;

    cr_assert_eq(muster_actor_start(&house->house, "other", &probe_class, NULL, &other), MUSTER_OK);
    ask(house, 8, &auth_revoke_type, &forward);
    envelope = answer(house, &metrics_text_type, &text);
    cr_assert_eq(envelope.id, 8);
    muster_actor_stop(&other);
    house_free(house);
}

Test(runtime, a_kept_caller_is_answered_from_a_timer)
{
    struct house *house = house_new();
    struct log_flush flush = {.all = true};
    struct metrics_text text;

    ask(house, 4, &log_flush_type, &flush);
    cr_assert_eq(answer(house, &metrics_text_type, &text).id, 4);
    cr_assert_str_eq(text.text, "timer");
    house_free(house);
}

Test(runtime, a_failed_actor_begins_anew_and_its_mailbox_stays)
{
    struct house *house = house_new();
    struct metrics_read read = {.all = true};
    struct auth_revoke fail = {.key = "fail"};
    struct muster_envelope envelope;
    struct failed failed;
    struct metrics_text text;
    int tries;

    ask(house, 1, &metrics_read_type, &read);
    answer(house, &metrics_text_type, &text);
    ask(house, 2, &auth_revoke_type, &fail);
    answer(house, &failed_type, &failed);
    cr_assert_str_eq(failed.code, "INTERNAL_ERROR");
    for (tries = 0; tries < 1000000; tries++) { /* until it is back it says so */
        struct muster_frame frame;

        ask(house, 3, &metrics_read_type, &read);
        cr_assert_eq(muster_post_receive(house->post, WAIT_MS, -1, &frame), MUSTER_OK);
        cr_assert_eq(muster_envelope_unpack(frame.data, frame.size, house->arena, &envelope), MUSTER_OK);
        if (strcmp(envelope.type, "failed") != 0) {
            cr_assert_eq(
                muster_unpack(&metrics_text_type, envelope.body.data, envelope.body.size, house->arena, &text, NULL),
                MUSTER_OK);
            muster_frame_free(&frame);
            break;
        }
        muster_frame_free(&frame);
        muster_arena_clear(house->arena);
    }
    cr_assert_str_eq(text.text, "1", "a new life counts anew");
    house_free(house);
}

Test(runtime, an_actor_that_cannot_begin_is_not_started)
{
    struct house *house = house_new();
    struct muster_actor *bad = NULL;
    int config = 1;

    cr_assert_eq(muster_actor_start(&house->house, "bad", &probe_class, &config, &bad), MUSTER_STORAGE_ERROR);
    cr_assert_null(bad);
    cr_assert_eq(muster_actor_start(&house->house, "bad", &probe_class, NULL, &bad), MUSTER_OK, "the address is free");
    muster_actor_stop(&bad);
    house_free(house);
}
