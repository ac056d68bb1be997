/* SPDX-License-Identifier: MPL-2.0 */
/* agent_session: sessions whose process ended while it was idle, for the next turn of their conversation.
 *
 * Of a caller's conversation the queue knows the session too, so when there are too many those go first; of the team's
 * own only the agent does.  Oldest first.  The agent's thread.  Nothing fails. */
#include <stdlib.h>
#include <string.h>

#include "actors/agent.h"
#include "actors/drivers/share.h"

static void
drop(struct agent *self, size_t index)
{
    struct agent_session *at = self->sessions + index;

    self->session_count--;
    memmove(at, at + 1, (self->session_count - index) * sizeof(*at));
}

/* Whoever goes on in that session, or in that conversation, makes what is kept of it old. */
static void
forget(struct agent *self, const char *conversation, const char *session)
{
    size_t i;

    for (i = self->session_count; i-- > 0;)
        if (!strcmp(self->sessions[i].name, session) ||
            (*conversation && !strcmp(self->sessions[i].conversation, conversation)))
            drop(self, i);
}

static void
make_room(struct agent *self)
{
    size_t i = 0;

    if (self->session_count < AGENT_SESSIONS_A_LANE * self->count)
        return;
    while (i < self->session_count && !*self->sessions[i].conversation)
        i++;
    drop(self, i < self->session_count ? i : 0);
}

void
agent_session_keep(struct agent *self, const char *conversation, const char *session)
{
    struct agent_session *kept;

    if (!*session)
        return;
    forget(self, conversation, session);
    make_room(self);
    self->sessions = muster_realloc(self->sessions, (self->session_count + 1) * sizeof(*self->sessions));
    kept = &self->sessions[self->session_count++];
    (void)driver_text_copy(conversation, kept->conversation, sizeof(kept->conversation));
    (void)driver_text_copy(session, kept->name, sizeof(kept->name));
}

/* The newest that is the turn's to go on with, and that no other waits for; "" none. */
static const char *
find(const struct agent *self, const struct agent_turn *turn)
{
    const struct agent_session *kept;
    size_t i;

    for (i = self->session_count; i-- > 0;) {
        kept = &self->sessions[i];
        if (!strcmp(kept->conversation, turn->conversation) && !agent_is_awaited(self, "", kept->name, turn))
            return kept->name;
    }
    return "";
}

void
agent_session_take(struct agent *self, const struct agent_turn *turn, char out[AGENT_SESSION_MAX + 1])
{
    const char *session = *turn->session || turn->lost ? turn->session : find(self, turn);

    (void)driver_text_copy(session, out, AGENT_SESSION_MAX + 1);
    forget(self, turn->conversation, out);
}
