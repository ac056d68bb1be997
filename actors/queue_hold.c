/* SPDX-License-Identifier: MPL-2.0 */
/* queue_hold: jobs tied to sites, and how long they wait there.  The queue actor's thread; nothing fails. */
#include "actors/queue_hold.h"

#include "actors/queue_conversation.h"
#include "actors/queue_due.h"
#include "actors/queue_record.h"
#include "actors/queue_show.h"

/* Its wait begins or ends, by whether the site takes jobs. */
static void
follow_site(void *arg, struct queue_job *job)
{
    struct queue_actor *self = arg;

    if (queue_site_serves(job->tie->site))
        job->tie->gone_ms = 0;
    else if (job->tie->gone_ms == 0)
        job->tie->gone_ms = muster_now_ms(self->ctx);
    queue_watch(self, job);
}

void
queue_hold(struct queue_actor *self, struct queue_job *job, struct queue_site *site)
{
    queue_tie(job, site);
    follow_site(self, job);
}

void
queue_hold_changed(struct queue_actor *self, struct queue_site *site)
{
    queue_site_each_tied(site, follow_site, self);
}

int64_t
queue_hold_until(const struct queue_actor *self, const struct queue_job *job)
{
    if (job->tie == NULL || job->tie->gone_ms == 0)
        return 0;
    return job->tie->gone_ms + muster_ctx_options(self->ctx)->workers->hold_sessions;
}

void
queue_hold_look(struct queue_actor *self, struct queue_job *job)
{
    int64_t until_ms = queue_hold_until(self, job);
    const char *node = job->tie->site->node;

    if (until_ms == 0 || until_ms > muster_now_ms(self->ctx))
        return;
    queue_say_anew(self->ctx, job, node);
    queue_record_anew(self->ctx, job, node);
    queue_conversation_anew(job);
    queue_untie(job);
}
