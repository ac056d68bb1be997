/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_probe: webhook.test, one request that changes nothing, whose outcome is the answer.  It takes a slot of the
 * receiver like any other request; when there is none the test is refused, as somebody waits for it. */
#include <stdlib.h>

#include "actors/webhook.h"

struct webhook_probe {
    struct webhook_probe *next;
    struct webhook_turn turn; /* only for its slot */
    struct webhook_actor *self;
    struct muster_caller *caller;
    int64_t begun_ms; /* of uptime */
};

static void
probe_free(struct webhook_probe *probe)
{
    muster_caller_free(&probe->caller);
    free(probe);
}

static void
on_answer(void *arg, const struct muster_fetch_result *result)
{
    struct webhook_probe *probe = arg, **link;
    struct webhook_actor *self = probe->self;
    char problem[WEBHOOK_PROBLEM_TEXT];
    struct webhook_tested tested = {.status = webhook_status(result),
                                    .problem = problem,
                                    .duration_ms = muster_uptime_ms(self->ctx) - probe->begun_ms};

    self->turns.open--;
    webhook_turn_leave(&self->turns, &probe->turn);
    for (link = &self->probes; *link != probe; link = &(*link)->next)
        ;
    *link = probe->next;
    webhook_problem(result, problem);
    muster_caller_answer(self->ctx, &probe->caller, MUSTER_OK, &webhook_tested_type, &tested);
    probe_free(probe);
}

static struct webhook_probe *
probe_new(struct webhook_actor *self, const char *endpoint)
{
    struct webhook_probe *probe = muster_alloc(sizeof *probe);

    *probe = (struct webhook_probe){.next = self->probes,
                                    .self = self,
                                    .caller = muster_caller_keep(self->ctx),
                                    .begun_ms = muster_uptime_ms(self->ctx)};
    (void)webhook_turn_slot(&self->turns, &probe->turn, endpoint, self->options->max_per_endpoint);
    self->probes = probe;
    return probe;
}

muster_err
webhook_probe_begin(struct webhook_actor *self, const struct webhook_test *in)
{
    const struct webhook_hook *hook = webhook_hook_find(self, &in->id);
    struct webhook_letter letter = {.now_ms = muster_now_ms(self->ctx)};
    struct muster_buf body = {0};
    const struct webhook *record;
    struct muster_id id;
    char text[MUSTER_ID_TEXT];
    const char *endpoint;

    if (hook == NULL) {
        muster_explain(self->ctx, 0, "There is no such webhook");
        return MUSTER_NOT_FOUND;
    }
    record = &hook->record;
    muster_arena_clear(self->arena);
    endpoint = webhook_endpoint_name(self->arena, record->url);
    if (self->turns.open >= self->options->max_parallel ||
        !webhook_turns_have_slot(&self->turns, endpoint, self->options->max_per_endpoint)) {
        muster_explain(self->ctx, 1, "As many requests as may be are on their way to this receiver; try again");
        return MUSTER_OVERLOADED;
    }
    id = muster_id_new(letter.now_ms);
    muster_id_text(&id, text);
    letter.id = muster_arena_printf(self->arena, "test_%s", text);
    letter.url = record->url;
    letter.headers = record->headers;
    letter.secrets = (struct webhook_secrets){record->secret, record->old_secret, record->old_until_ms};
    webhook_body_test(self->arena, &record->id, letter.now_ms, &body);
    webhook_send(self, &letter, &body, on_answer, probe_new(self, endpoint));
    muster_buf_free(&body);
    return MUSTER_OK;
}

/* Whoever waits is told nothing: its own patience ends. */
void
webhook_probe_fini(struct webhook_actor *self)
{
    struct webhook_probe *probe;

    while ((probe = self->probes) != NULL) {
        self->probes = probe->next;
        probe_free(probe);
    }
}
