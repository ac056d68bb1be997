/* SPDX-License-Identifier: MPL-2.0 */
/* What a sink follows, and which of its follows sends an event.
 *
 * A connection gets each event of a job once.  While it follows the job alone they come at once; when it follows the
 * job's team too, they come with the team's, in the order of the numbers.  The hand-over is a number, `until`: up to it
 * the follow of the job sends, above it that of the team.  A follow of a job that is not up to date (it reads the log,
 * or is about to) takes all events up to where it is, so that none comes before an earlier one; it gives them up again
 * when it is live.  It knows up to which number its events were sent, whichever way, so it can go on alone when the
 * team is no longer followed; and it stays until the team's has passed over what it has sent. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/http/hub.h"

/* ---- birth and death ---- */

static char *
copy_teams(const struct muster_strs *teams)
{
    struct muster_buf out = {0};
    size_t size, i;

    if (teams == NULL || teams->count == 0)
        return NULL;
    for (i = 0; i < teams->count; i++)
        muster_buf_add(&out, teams->items[i], strlen(teams->items[i]) + 1);
    muster_buf_add(&out, "", 1);
    return muster_buf_take(&out, &size);
}

struct http_follow *
http_follow_new(struct http_sink *sink, const struct http_topic *topic, int64_t after)
{
    struct http_follow *follow = muster_alloc(sizeof *follow);

    follow->sink = sink;
    follow->job = topic->job;
    if (muster_id_is_zero(&topic->job))
        follow->teams = copy_teams(topic->teams);
    if (topic->type)
        (void)snprintf(follow->type, sizeof follow->type, "%s", topic->type);
    follow->from = follow->last = after;
    follow->until = INT64_MAX;
    follow->told = -1;
    follow->behind = after >= 0;
    pthread_mutex_lock(&sink->lock);
    follow->sibling = sink->follows;
    sink->follows = follow;
    sink->follow_count++;
    if (http_follow_is_ordered(follow) && after >= 0)
        http_follow_claim(follow);
    pthread_mutex_unlock(&sink->lock);
    return follow;
}

/* An event of the job, whose team is not known before its first, may be one of this follow's. */
static bool
may_send(const struct http_follow *follow, const struct http_follow *one_job)
{
    return http_follow_sends(follow, one_job->team) || (one_job->team[0] == '\0' && http_follow_is_ordered(follow));
}

/* The jobs of its teams are no longer sent by this one: those that are followed themselves go on where it ends. */
static void
release_jobs(const struct http_follow *follow)
{
    struct http_follow *other;

    for (other = follow->sink->follows; other; other = other->sibling) {
        if (http_follow_is_ordered(other) || other->until == INT64_MAX || !may_send(follow, other))
            continue;
        if (other->last < 0 && other->live && other->team[0])
            other->from = other->last = other->until;
        other->until = INT64_MAX;
        other->told = -1;
        other->missed = other->missed || other->live; /* else it has kept all */
        http_sink_wake(other->sink);
    }
}

void
http_follow_free(struct http_follow **follow_p)
{
    struct http_follow *follow = *follow_p, **at;
    struct http_sink *sink;

    if (follow == NULL)
        return;
    *follow_p = NULL;
    sink = follow->sink;
    pthread_mutex_lock(&sink->lock);
    for (at = &sink->follows; *at != follow; at = &(*at)->sibling)
        ;
    *at = follow->sibling;
    sink->follow_count--;
    release_jobs(follow);
    pthread_mutex_unlock(&sink->lock);
    http_follow_forget(follow);
    free(follow->teams);
    free(follow);
}

/* ---- what it wants ---- */

bool
http_follow_is_ordered(const struct http_follow *follow)
{
    return muster_id_is_zero(&follow->job);
}

bool
http_follow_has_team(const struct http_follow *follow, const char *team)
{
    const char *item;

    for (item = follow->teams; item && *item; item += strlen(item) + 1)
        if (strcmp(item, team) == 0)
            return true;
    return follow->teams == NULL;
}

bool
http_follow_shows(const struct http_follow *follow, const struct event *event)
{
    return follow->type[0] == '\0' || strcmp(follow->type, event->type) == 0;
}

/* ---- each event once ---- */

bool
http_follow_sends(const struct http_follow *follow, const char *team)
{
    return http_follow_is_ordered(follow) && follow->type[0] == '\0' && http_follow_has_team(follow, team);
}

/* The follow that sends all events of the job's team. */
static const struct http_follow *
find_sender(const struct http_follow *follow)
{
    const struct http_follow *other;

    for (other = follow->sink->follows; other; other = other->sibling)
        if (http_follow_sends(other, follow->team) && other->from >= 0)
            break;
    return other;
}

/* What the hub has not handed to the jobs yet, up to here, is in the log. */
void
http_follow_claim(struct http_follow *follow)
{
    struct http_follow *other;

    for (other = follow->sink->follows; other; other = other->sibling) {
        if (http_follow_is_ordered(other) || other->final || !may_send(follow, other))
            continue;
        if (other->team[0])
            other->until = follow->from > other->last ? follow->from : other->last;
        other->missed = true;
    }
}

void
http_follow_bind(struct http_follow *follow, const char *team)
{
    const struct http_follow *other;

    if (http_follow_is_ordered(follow) || follow->team[0] || strlen(team) >= sizeof follow->team)
        return;
    memcpy(follow->team, team, strlen(team) + 1);
    other = find_sender(follow);
    if (other && follow->until == INT64_MAX)
        follow->until = follow->told = other->last;
    else if (other && follow->until < other->last)
        follow->until = other->last;
}

bool
http_follow_finds(struct http_follow *follow, const struct event *event, bool final)
{
    const struct http_follow *other;

    if (http_follow_is_ordered(follow))
        return http_follow_due(follow, event->seq, &event->job, final);
    http_follow_bind(follow, event->team);
    if (follow->until < event->seq)
        follow->until = event->seq;
    other = find_sender(follow);
    return other == NULL || event->seq <= other->from || event->seq > follow->told;
}

bool
http_follow_is_shared(const struct http_follow *follow)
{
    const struct http_follow *other;

    for (other = follow->sink->follows; other; other = other->sibling)
        if (may_send(other, follow))
            return true;
    return false;
}

bool
http_follow_is_needed(const struct http_follow *follow)
{
    const struct http_follow *other;

    for (other = follow->sink->follows; other; other = other->sibling)
        if (http_follow_sends(other, follow->team) && other->last < follow->last)
            return true;
    return false;
}

static void
advance(struct http_follow *follow, int64_t seq, bool final)
{
    if (follow->last < 0)
        follow->from = seq - 1;
    follow->last = seq;
    follow->final = final;
}

static struct http_follow *
find_job(const struct http_sink *sink, const struct muster_id *job)
{
    struct http_follow *follow;

    for (follow = muster_id_is_zero(job) ? NULL : sink->follows; follow; follow = follow->sibling)
        if (muster_id_equal(&follow->job, job))
            break;
    return follow;
}

static bool
is_ordered_due(struct http_follow *follow, int64_t seq, const struct muster_id *job, bool final)
{
    struct http_follow *other = find_job(follow->sink, job);
    int64_t before = follow->last;

    if (seq <= before)
        return false;
    follow->last = seq;
    if (other == NULL || seq <= other->from)
        return true;
    if (other->until == INT64_MAX && other->behind)
        other->told = before;
    if ((other->until == INT64_MAX || seq > other->until) && (other->missed || other->behind))
        other->until = seq;
    if (seq <= other->until)
        return false;
    advance(other, seq, final);
    return true;
}

bool
http_follow_due(struct http_follow *follow, int64_t seq, const struct muster_id *job, bool final)
{
    if (http_follow_is_ordered(follow))
        return is_ordered_due(follow, seq, job, final);
    if (seq <= follow->last || seq > follow->until)
        return false;
    advance(follow, seq, final);
    return true;
}

/* ---- events since it joined ---- */

void
http_follow_keep(struct http_follow *follow, const struct event *event, bool final, const struct muster_buf *text)
{
    struct http_mark mark = {event->seq, event->job, follow->early.size + text->size, final};
    size_t most = (size_t)follow->sink->server->options->max_backlog;

    if (event->seq <= follow->last)
        return;
    if (follow->marks.size > 0 && mark.end + follow->marks.size > most) {
        follow->missed = true;
        return;
    }
    muster_buf_add(&follow->early, text->data, text->size);
    muster_buf_add(&follow->marks, &mark, sizeof mark);
}

void
http_follow_forget(struct http_follow *follow)
{
    muster_buf_free(&follow->early);
    muster_buf_free(&follow->marks);
}

void
http_follow_take(struct http_follow *follow, struct muster_buf *out)
{
    const struct http_mark *mark = (const struct http_mark *)(void *)follow->marks.data;
    size_t count = follow->marks.size / sizeof *mark, begin = 0, i;

    for (i = 0; i < count && !follow->final; i++) {
        if (http_follow_due(follow, mark[i].seq, &mark[i].job, mark[i].final))
            muster_buf_add(out, follow->early.data + begin, mark[i].end - begin);
        begin = mark[i].end;
    }
    http_follow_forget(follow);
}
