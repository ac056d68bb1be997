/* SPDX-License-Identifier: MPL-2.0 */
/* worker_drain: the end of a worker in order.
 *
 *   ending   what runs may end, for shutdown.grace, or until it is to hurry
 *   parking  what still runs is parked
 *   telling  the hub acknowledges everything; it has LAST_MS for that, and for the next
 *   leaving  worker.leave
 *
 * While one of these goes on it looks every LOOK_MS whether it is over.  What the hub could not be told stays with the
 * parcels.  The link's thread. */
#include "api/worker_inside.h"

enum { LOOK_MS = 50, LAST_MS = 10000 };

static void on_look(void *arg);

static void
enter(struct worker_link *link, enum worker_drain_step step, int64_t limit_ms)
{
    link->drain.step = step;
    link->drain.until_ms = worker_uptime_ms() + limit_ms;
    link->drain.parcels = -1;
}

static void
done(struct worker_link *link, bool left)
{
    link->drain.step = DRAIN_DONE;
    pthread_mutex_lock(&link->lock);
    link->drained = true;
    link->left = left;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
}

static void
park_all(struct worker_link *link)
{
    size_t i;

    enter(link, DRAIN_PARKING, link->spec->park_ms);
    for (i = 0; i < link->attempts.count; i++)
        worker_attempt_cancel(link, &link->attempts.items[i], true);
}

static void
tell_all(struct worker_link *link)
{
    enter(link, DRAIN_TELLING, LAST_MS);
    worker_dial_soon(link);
}

static void
leave(struct worker_link *link)
{
    if (link->state != LINK_ATTACHED || link->drain.leave_id != 0)
        return;
    link->drain.step = DRAIN_LEAVING;
    link->drain.leave_id = worker_ask(link, &worker_leave_type, &(struct worker_leave){.attachment = link->attachment});
}

/* Nobody is there whom to tell, and there is nothing to tell. */
static bool
is_alone(struct worker_link *link)
{
    bool was_attached;

    pthread_mutex_lock(&link->lock);
    was_attached = link->was_attached;
    pthread_mutex_unlock(&link->lock);
    return !was_attached;
}

static void
step(struct worker_link *link)
{
    struct worker_drain *drain = &link->drain;
    bool over = worker_uptime_ms() >= drain->until_ms;
    size_t running = worker_attempts_running(link);

    if (drain->step == DRAIN_ENDING && (over || drain->hurries > 0) && running > 0)
        park_all(link);
    else if ((drain->step == DRAIN_ENDING && running == 0) || (drain->step == DRAIN_PARKING && (running == 0 || over)))
        tell_all(link);
    else if ((drain->step == DRAIN_TELLING || drain->step == DRAIN_LEAVING) &&
             (over || drain->hurries > 1 || is_alone(link)))
        done(link, false);
    else if (drain->step == DRAIN_TELLING && drain->parcels == 0)
        leave(link);
    else if (drain->step == DRAIN_LEAVING && drain->leave_id == 0)
        drain->step = DRAIN_TELLING; /* refused, or the connection broke */
}

static void
on_look(void *arg)
{
    struct worker_link *link = arg;

    step(link);
    if (link->drain.step == DRAIN_DONE)
        return;
    worker_tell_parcels(link, MUSTER_QUEUE, &parcels_read_type, &(struct parcels_read){.all = true});
    link->drain_timer = muster_loop_timer(link->loop, LOOK_MS, on_look, link);
}

void
worker_on_drain(struct worker_link *link, bool hurry)
{
    if (hurry) {
        link->drain.hurries++;
        return;
    }
    if (link->drain.step != DRAIN_NONE)
        return;
    enter(link, DRAIN_ENDING, link->spec->house->options->shutdown->grace);
    muster_journal_say(link->journal, INFO, "worker-draining", "Running jobs may end; no more are taken.",
                       MUSTER_SAY_NUMBER("running", (int64_t)worker_attempts_running(link)));
    if (link->state == LINK_ATTACHED)
        worker_beat_now(link);
    on_look(link);
}

void
worker_drain_kept(struct worker_link *link, const struct parcels_kept *kept)
{
    link->drain.parcels = kept->parcels;
}

void
worker_drain_answered(struct worker_link *link, bool left)
{
    link->drain.leave_id = 0;
    if (link->drain.step != DRAIN_LEAVING)
        return;
    if (left)
        done(link, true);
    else
        enter(link, DRAIN_TELLING, link->drain.until_ms - worker_uptime_ms());
}
