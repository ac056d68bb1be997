/* SPDX-License-Identifier: MPL-2.0 */
/* queue_pause: one change of a team at a time; what is asked meanwhile waits for its end, so that everybody is told
 * what is on disk.  The queue actor's thread; writing can fail, and then the caller is told. */
#include "actors/queue_pause.h"

#include <stdlib.h>
#include <string.h>

#include "actors/queue_record.h"

/* Somebody who wants a team paused or resumed. */
struct queue_asked {
    struct queue_asked *next;
    struct muster_caller *caller;
    bool paused;
};

/* ---- one change ---- */

static muster_err
write_change(struct queue_actor *self, const struct queue_team *team, const struct queue_asked *asked)
{
    struct muster_arena *arena = muster_ctx_arena(self->ctx);
    const char *by = muster_caller_principal(asked->caller)->name;
    struct team_state state = {.id = team->state_id,
                               .team = team->name,
                               .paused = asked->paused,
                               .configured = team->options->paused,
                               .by = by,
                               .changed_ms = muster_now_ms(self->ctx)};
    struct team_paused paused = {.by = by};
    struct team_resumed resumed = {.by = by};
    struct queue_paused told = {.team = team->name, .paused = asked->paused};
    struct store_put put = {.record = team_state_type.wire, .value = queue_pack(&team_state_type, &state, arena)};
    struct log_entry event = {
        .at_ms = state.changed_ms, .team = team->name, .trace = muster_ctx_envelope(self->ctx)->trace};
    struct store_answer answer;
    struct store_commit commit = {
        .puts = {&put, 1}, .entries = {&event, 1}, .writer = muster_ctx_address(self->ctx), .about = team->state_id};

    event.type = asked->paused ? team_paused_type.wire : team_resumed_type.wire;
    event.body =
        asked->paused ? queue_pack(&team_paused_type, &paused, arena) : queue_pack(&team_resumed_type, &resumed, arena);
    if (*muster_caller_address(asked->caller)) {
        answer = queue_answer_caller(asked->caller, &queue_paused_type, &told, arena);
        commit.answers.items = &answer;
        commit.answers.count = 1;
    }
    return muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit);
}

static void
change(struct queue_actor *self, struct queue_team *team, struct queue_asked *asked)
{
    muster_err err = write_change(self, team, asked);

    if (err) {
        muster_caller_answer(self->ctx, &asked->caller, err, NULL, NULL);
        return;
    }
    team->changing = true;
    team->change_to = asked->paused;
    team->paused = team->paused || asked->paused;
    team->dirty = true;
}

/* ---- one after the other ---- */

static struct queue_asked *
take_asked(struct queue_team *team)
{
    struct queue_asked *asked = team->asked;

    team->asked = asked->next;
    if (team->asked == NULL)
        team->asked_last = NULL;
    return asked;
}

static void
settle(struct queue_actor *self, struct queue_team *team)
{
    while (team->asked && !team->changing) {
        struct queue_asked *asked = take_asked(team);
        struct queue_paused told = {.team = team->name, .paused = team->paused};

        if (asked->paused == team->paused)
            muster_caller_answer(self->ctx, &asked->caller, MUSTER_OK, &queue_paused_type, &told);
        else
            change(self, team, asked);
        muster_caller_free(&asked->caller);
        free(asked);
    }
}

muster_err
queue_pause_take(struct queue_actor *self, const struct queue_pause *in)
{
    struct queue_team *team = queue_team_find(&self->table, in->team);
    struct queue_asked *asked;

    if (team == NULL || team->options == NULL) {
        muster_explain(self->ctx, 0, "there is no team %s", in->team);
        return MUSTER_TEAM_NOT_FOUND;
    }
    asked = muster_alloc(sizeof *asked);
    asked->caller = muster_caller_keep(self->ctx);
    asked->paused = in->paused;
    *(team->asked ? &team->asked_last->next : &team->asked) = asked;
    team->asked_last = asked;
    settle(self, team);
    return MUSTER_OK;
}

/* ---- what is on disk ---- */

static muster_err
read_state(struct queue_actor *self, struct queue_team *team, struct team_state *out_state)
{
    return muster_store_get(muster_ctx_store(self->ctx), &team_state_type, &team->state_id, muster_ctx_arena(self->ctx),
                            out_state);
}

/* What was said before the file was changed must not come back when the file is changed back. */
static void
forget_state(struct queue_actor *self, const struct queue_team *team)
{
    struct store_put put = {
        .record = team_state_type.wire, .value = {team->state_id.bytes, sizeof team->state_id.bytes}, .remove = true};
    struct store_commit commit = {.puts = {&put, 1}};

    (void)muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit); /* if it is lost: at the next start */
}

static muster_err
recover_team(struct queue_actor *self, struct queue_team *team)
{
    struct team_state state;
    muster_err err = read_state(self, team, &state);

    team->paused = team->options->paused;
    team->dirty = true;
    if (err)
        return err == MUSTER_NOT_FOUND ? MUSTER_OK : err;
    if (state.configured == team->options->paused)
        team->paused = state.paused;
    else
        forget_state(self, team);
    return MUSTER_OK;
}

muster_err
queue_pause_recover(struct queue_actor *self)
{
    struct queue_table *table = &self->table;
    muster_err err = MUSTER_OK;
    size_t i;

    for (i = 0; i < table->team_count && !err; i++)
        if (table->teams[i].options)
            err = recover_team(self, &table->teams[i]);
    return err;
}

void
queue_pause_written(struct queue_actor *self, const struct muster_id *state_id, bool failed)
{
    struct queue_table *table = &self->table;
    size_t i;

    for (i = 0; i < table->team_count; i++) {
        struct queue_team *team = &table->teams[i];

        if (!muster_id_equal(&team->state_id, state_id) || team->options == NULL)
            continue;
        if (!team->changing) /* of a former life of this actor */
            (void)recover_team(self, team);
        else if (failed == team->change_to) /* a pause that failed, or a resume that did not */
            team->paused = false;
        team->changing = false;
        team->dirty = true;
        settle(self, team);
        return;
    }
}

void
queue_pause_fini(struct queue_table *table)
{
    size_t i;

    for (i = 0; i < table->team_count; i++) {
        struct queue_team *team = &table->teams[i];

        while (team->asked) {
            struct queue_asked *asked = take_asked(team);

            muster_caller_free(&asked->caller);
            free(asked);
        }
    }
}
