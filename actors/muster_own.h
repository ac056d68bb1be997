/* SPDX-License-Identifier: MPL-2.0 */
/* Teams that are actors of the program that the hub runs in: what the driver `actor` calls, and what the program tells.
 *
 * A turn is shared by the driver, on the team's actor thread, and by the program, on any: each holds a reference, and
 * what the program tells goes to the actor's mailbox.  Once the attempt is over nothing goes there any more, so a turn
 * may outlive its hub. */
#ifndef MUSTER_OWN_H
#define MUSTER_OWN_H

#include "schemas/muster_schema.h"
#include "transport/muster_mail.h"

struct muster_turn;

/* Config of muster_agent_class for a team with the driver actor. */
struct muster_own_team {
    struct team_options options; /* first: the agent knows nothing else */
    struct muster_bus *bus;      /* borrowed; outlives the actor */
    void (*begin)(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg);
    void (*cancel)(struct muster_turn *turn, void *arg); /* may be NULL */
    void *arg;
};

/* Tell the actor; job and attempt of `said` are filled in.  Any thread, never blocks.  MUSTER_CONFLICT: the attempt is
 * over; MUSTER_OVERLOADED: too much is on its way already.  With done and failed the caller's reference is gone when
 * this returns MUSTER_OK or MUSTER_CONFLICT. */
muster_err muster_own_say(struct muster_turn *turn, struct agent_said *said);
/* "msg_<id>"; as long as the turn. */
const char *muster_own_job(const struct muster_turn *turn);
int64_t muster_own_attempt(const struct muster_turn *turn);

#endif
