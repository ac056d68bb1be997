/* SPDX-License-Identifier: MPL-2.0 */
/* agent_spec: command line, environment and limits of an agent's process.
 *
 * A process sees only what agents.pass_env and its driver name of our environment, then what its driver adds, then the
 * team's own
 * variables; later ones win.  What Claude Code sets for its own children never passes.  The agent's thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/agent.h"

/* A prompt of 16 MiB may grow sixfold as JSON, and a tool's input is sent back. */
#define INPUT_MIN ((size_t)128 << 20)

/* Does the variable tell a Claude Code that it runs inside another one? */
static bool
is_nested_mark(const char *name)
{
    return !strncmp(name, "CLAUDECODE", strlen("CLAUDECODE")) || !strcmp(name, "CLAUDE_CODE_ENTRYPOINT") ||
           !strncmp(name, "CLAUDE_CODE_SSE_", strlen("CLAUDE_CODE_SSE_"));
}

struct environment {
    const char **items;
    size_t count;
};

/* Set a variable, in the place of an earlier one of that name. */
static void
set(struct environment *env, struct muster_arena *arena, const char *name, const char *value)
{
    const char *item = muster_arena_printf(arena, "%s=%s", name, value);
    size_t i, size = strlen(name) + 1;

    for (i = 0; i < env->count; i++) {
        if (strncmp(env->items[i], item, size))
            continue;
        env->items[i] = item;
        return;
    }
    env->items[env->count++] = item;
}

static void
set_all(struct environment *env, struct muster_arena *arena, const struct muster_pairs *pairs)
{
    size_t i;

    for (i = 0; i < pairs->count; i++)
        set(env, arena, pairs->items[i].name, pairs->items[i].value);
}

/* Pass on what we have under that name. */
static void
pass(struct environment *env, struct muster_arena *arena, const char *name)
{
    const char *value = is_nested_mark(name) ? NULL : getenv(name);

    if (value)
        set(env, arena, name, value);
}

static size_t
count_names(const char *const *names)
{
    size_t count = 0;

    while (names && names[count])
        count++;
    return count;
}

static const char *const *
environment(const struct agent *self, const struct muster_pairs *driver, struct muster_arena *arena)
{
    const struct muster_strs *all = &muster_ctx_options(self->ctx)->agents->pass_env;
    const char *const *own = self->driver_class->env;
    size_t own_count = count_names(own), i;
    size_t room = all->count + own_count + driver->count + self->team->env.count + 1;
    struct environment env = {.items = muster_arena_alloc(arena, room * sizeof(*env.items))};

    for (i = 0; i < all->count; i++)
        pass(&env, arena, all->items[i]);
    for (i = 0; i < own_count; i++)
        pass(&env, arena, own[i]);
    set_all(&env, arena, driver);
    set_all(&env, arena, &self->team->env);
    return env.items;
}

static const char *const *
arguments(const struct muster_strs *argv, struct muster_arena *arena)
{
    const char **items = muster_arena_alloc(arena, (argv->count + 1) * sizeof(*items));

    memcpy(items, argv->items, argv->count * sizeof(*items));
    return items;
}

muster_err
agent_spec_start(struct agent_lane *lane, const struct muster_child_hooks *hooks, char *problem, size_t problem_size)
{
    struct agent *self = lane->agent;
    const struct agent_options *agents = muster_ctx_options(self->ctx)->agents;
    struct driver_turn turn = {.prompt = lane->turn->prompt,
                               .attempt = lane->turn->attempt,
                               .job = lane->turn->job,
                               .conversation = lane->turn->origin};
    struct muster_arena *arena = muster_arena_new();
    struct muster_pairs extra = {0};
    struct muster_strs argv = {0};
    struct muster_child_spec spec = {0};
    muster_err err;

    self->driver_class->command(lane->driver, lane->session, self->driver_class->process_per_turn ? &turn : NULL, arena,
                                &argv, &extra);
    spec.argv = arguments(&argv, arena);
    spec.env = environment(self, &extra, arena);
    spec.directory = self->team->directory;
    spec.mark = muster_arena_printf(arena, "%s.%s.%lld", muster_store_mark(muster_ctx_store(self->ctx)),
                                    self->team->name, (long long)++self->started);
    spec.max_line = (size_t)agents->max_line;
    spec.stderr_kept = (size_t)agents->stderr_kept;
    spec.max_input = INPUT_MIN > 2 * spec.max_line ? INPUT_MIN : 2 * spec.max_line;
    if (argv.count) {
        err = muster_ctx_child(self->ctx, &spec, hooks, lane, problem, problem_size, &lane->child);
    } else {
        snprintf(problem, problem_size, "The team has no command.");
        err = MUSTER_NOT_FOUND;
    }
    muster_arena_free(&arena);
    return err;
}
