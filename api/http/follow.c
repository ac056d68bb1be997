/* SPDX-License-Identifier: MPL-2.0 */
/* What a sink follows, and which of its follows sends an event.
 *
 * A connection gets each event of a job once.  While it follows the job alone they come at once; from the event on
 * where it follows the job's team too, they come with the team's, in the order of the numbers.  Each follow of a job
 * knows up to which number its events were sent, whichever way, so it can go on alone when the team is no longer
 * followed. */
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
    follow->behind = after >= 0;
    pthread_mutex_lock(&sink->lock);
    follow->sibling = sink->follows;
    sink->follows = follow;
    sink->follow_count++;
    pthread_mutex_unlock(&sink->lock);
    return follow;
}

/* The jobs of its teams are no longer sent by this one: those that are followed themselves go on where it ends. */
static void
release_jobs(const struct http_follow *follow)
{
    struct http_follow *other;

    for (other = follow->sink->follows; other; other = other->sibling) {
        if (http_follow_is_ordered(other) || !http_follow_sends(follow, other->team))
            continue;
        if (other->last < 0)
            other->from = other->last = follow->last;
        other->missed = true;
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

bool
http_follow_is_covered(const struct http_follow *follow, int64_t seq)
{
    const struct http_follow *other;

    for (other = follow->sink->follows; other; other = other->sibling)
        if (http_follow_sends(other, follow->team) && other->from >= 0 && seq > other->from)
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
    struct http_follow *other;

    if (seq <= follow->last)
        return false;
    follow->last = seq;
    other = find_job(follow->sink, job);
    if (other && seq > other->last)
        advance(other, seq, final);
    else if (other && seq > other->from)
        return false; /* it came by the job's own way, before this */
    return true;
}

bool
http_follow_due(struct http_follow *follow, int64_t seq, const struct muster_id *job, bool final)
{
    if (http_follow_is_ordered(follow))
        return is_ordered_due(follow, seq, job, final);
    if (seq <= follow->last || http_follow_is_covered(follow, seq))
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
