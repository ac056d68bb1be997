/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_hooks: the webhooks in memory, each with a copy of its record.  Cannot fail. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_journal.h"
#include "actors/webhook.h"

/* ---- what they want -------------------------------------------------------------------------------------------------
 */

uint64_t
webhook_type_bit(const char *wire)
{
    const struct muster_event_row *row = muster_event_row(wire);

    if (row == NULL || row->when != MUSTER_EVENT_DURABLE)
        return 0;
    MUSTER_ASSERT(row - muster_events < 64);
    return UINT64_C(1) << (row - muster_events);
}

uint64_t
webhook_types(const struct muster_strs *events, const char **out_unknown)
{
    uint64_t types = 0, bit;
    size_t i;

    for (i = events->count; i-- > 0;) {
        bit = webhook_type_bit(events->items[i]);
        if (bit == 0)
            *out_unknown = events->items[i];
        types |= bit;
    }
    return types;
}

bool
webhook_hook_wants(const struct webhook_hook *hook, uint64_t bit, const char *team)
{
    const struct muster_strs *teams = &hook->record.teams;
    size_t i;

    if ((hook->types & bit) == 0)
        return false;
    for (i = 0; i < teams->count; i++)
        if (strcmp(teams->items[i], team) == 0)
            return true;
    return teams->count == 0;
}

/* ---- records --------------------------------------------------------------------------------------------------------
 */

struct webhook
webhook_record_copy(struct muster_arena *arena, const struct webhook *record)
{
    struct muster_buf packed = {0};
    struct webhook copy;

    muster_pack(&webhook_type, record, &packed);
    MUSTER_ASSERT(muster_unpack(&webhook_type, packed.data, packed.size, arena, &copy, NULL) == MUSTER_OK);
    explicit_bzero(packed.data, packed.size);
    muster_buf_free(&packed);
    return copy;
}

/* An event type of a later version of the server, which is not known here, is never told. */
void
webhook_hook_set(struct webhook_hook *hook, const struct webhook *record)
{
    struct muster_arena *arena = muster_arena_new();
    struct webhook copy = webhook_record_copy(arena, record);
    const char *unknown;

    muster_arena_free(&hook->arena);
    hook->arena = arena;
    hook->record = copy;
    hook->types = webhook_types(&copy.events, &unknown);
    (void)snprintf(hook->problem, sizeof hook->problem, "%s", copy.problem ? copy.problem : "");
    hook->record.problem = hook->problem;
}

struct webhook_hook *
webhook_hook_add(struct webhook_actor *self, const struct webhook *record)
{
    struct webhook_hook *hook = muster_alloc(sizeof *hook);

    hook->self = self;
    hook->turn.begin = webhook_hook_begin;
    webhook_hook_set(hook, record);
    hook->kept = record->cursor;
    if (self->hook_count == self->hook_capacity) {
        self->hook_capacity = self->hook_capacity ? 2 * self->hook_capacity : 16;
        self->hooks = muster_realloc(self->hooks, self->hook_capacity * sizeof(struct webhook_hook *));
    }
    self->hooks[self->hook_count++] = hook;
    return hook;
}

void
webhook_hook_free(struct webhook_hook *hook)
{
    struct webhook_actor *self = hook->self;
    size_t i;

    for (i = 0; self->hooks[i] != hook; i++)
        ;
    self->hook_count--;
    memmove(self->hooks + i, self->hooks + i + 1, (self->hook_count - i) * sizeof(struct webhook_hook *));
    muster_arena_free(&hook->arena);
    free(hook);
}

struct webhook_hook *
webhook_hook_find(const struct webhook_actor *self, const struct muster_id *id)
{
    size_t i;

    for (i = 0; i < self->hook_count; i++)
        if (!self->hooks[i]->removed && muster_id_equal(&self->hooks[i]->record.id, id))
            return self->hooks[i];
    return NULL;
}

/* ---- the journal ----------------------------------------------------------------------------------------------------
 */

/* Not the whole URL, which may hold a secret. */
void
webhook_hook_say(const struct webhook_hook *hook, enum log_level level, const char *id, const char *message)
{
    const struct webhook *record = &hook->record;
    struct muster_arena *arena = muster_arena_new();
    char text[MUSTER_ID_TEXT];
    struct muster_say says[6];

    muster_id_text(&record->id, text);
    says[0] = muster_say_text("webhook", text);
    says[1] = muster_say_text("name", record->name);
    says[2] = muster_say_text("host", webhook_endpoint_name(arena, record->url));
    says[3] = MUSTER_SAY_NUMBER("tries", record->tries);
    says[4] = MUSTER_SAY_NUMBER("status", record->status);
    says[5] = muster_say_text("problem", hook->problem);
    muster_journal_write(muster_ctx_journal(hook->self->ctx), level, id, message, says, 6);
    muster_arena_free(&arena);
}
