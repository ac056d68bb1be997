/* SPDX-License-Identifier: MPL-2.0 */
/* What a hub and a worker are both made of: configuration, teams, store, actors.
 *
 * Begins zeroed; house_free takes whatever there is.  Of the thread that starts and stops it. */
#ifndef HOUSE_H
#define HOUSE_H

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "actors/muster_own.h"
#include "api/muster.h"
#include "schemas/muster_options.h"

struct house {
    struct muster_config config;
    struct options options;       /* the configuration's, with what the program says over it */
    struct muster_house shared;   /* what all actors get */
    struct muster_own_team *own;  /* one for each team of the options; only those of the program are filled */
    struct muster_actor **actors; /* in the order of their start */
    size_t actor_count;
};

/* What to load. */
struct house_settings {
    const char *config, *data; /* as in muster_hub_settings */
    const struct muster_team *teams;
    size_t team_count;
    const char *data_default; /* name of the folder where neither says one; NULL: the option's */
};

/* Fills config and options.  MUSTER_INVALID_REQUEST with `problem`. */
muster_err house_load(struct house *house, const struct house_settings *settings, char *problem, size_t problem_size);
/* Open the store, end what a former life's agents left running, make the bus.  `shared` has options and journal. */
muster_err house_open(struct house *house, bool own_process, char *problem, size_t problem_size);
muster_err house_start_actor(struct house *house, const char *address, const struct muster_actor_class *class,
                             const void *config, char *problem, size_t problem_size);
/* The agent of the team with that index. */
muster_err house_start_agent(struct house *house, size_t team, char *problem, size_t problem_size);
/* How long agents may take to park what they have. */
int64_t house_park_ms(const struct house *house);
/* Stop the actors, the last one first, and close the rest. */
void house_stop(struct house *house);
/* Behind house_stop. */
void house_free(struct house *house);

/* ---- asking an actor ---- */
muster_err house_send(struct muster_post *post, const char *to, const struct muster_type *type, const void *body);
/* MUSTER_TIMEOUT; or the error that came as an answer. */
muster_err house_receive(struct muster_post *post, const struct muster_type *type, struct muster_arena *arena,
                         void *out, int64_t timeout_ms);

#endif
