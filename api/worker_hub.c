/* SPDX-License-Identifier: MPL-2.0 */
/* worker_hub: what goes between a worker and its hub while they are attached.
 *
 * Beats: one at a time; the hub was heard of when the last one that it answered was sent.  Parcels go out in the order
 * of the log, large ones in parts, at most ASKED_MAX parts at a time.  The link's thread.  What can fail: the hub
 * refuses; what is worth trying again is tried by the parcels, all else ends the connection. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/worker_inside.h"
#include "schemas/muster_options.h"

enum {
    ASKED_MAX = 32,
    PROCESSES_MAX = 1024,
    PART_BYTES = 256 << 10,
    BEAT_MIN_MS = 10 /* whatever the hub says */
};

#define IS(envelope, message) (strcmp((envelope)->type, message##_type.wire) == 0)

/* Decode the body of an envelope; false: it does not fit. */
static bool
take(struct worker_link *link, const struct muster_envelope *envelope, const struct muster_type *type, void *out)
{
    return muster_unpack(type, envelope->body.data, envelope->body.size, link->arena, out, NULL) == MUSTER_OK;
}

/* ---- beats ---- */

static void
add_processes(const struct worker_team *team, const struct muster_agent_view *view, struct worker_process *processes,
              size_t *count)
{
    size_t i;

    for (i = 0; i < view->count && *count < PROCESSES_MAX; i++) {
        const struct muster_process_view *from = &view->processes[i];

        processes[(*count)++] = (struct worker_process){
            .team = team->name,
            .pid = from->pid,
            .state = from->state,
            .started_ms = from->started_ms,
            .turns = from->turns,
            .session = from->session,
            .job = from->job,
            .current = from->current,
            .total = from->total,
        };
    }
}

/* The views of all teams; they are to be released when the beat was packed. */
static void
add_teams(struct worker_link *link, struct worker_beat *beat, struct muster_notice **notices,
          struct muster_arena *arena)
{
    const struct worker_link_spec *spec = link->spec;
    struct worker_process *processes = muster_arena_alloc(arena, PROCESSES_MAX * sizeof *processes);
    struct worker_problem *problems = muster_arena_alloc(arena, (spec->team_count + 1) * sizeof *problems);
    size_t process_count = 0, problem_count = 0, i;

    for (i = 0; i < spec->team_count; i++) {
        char name[128];
        const struct muster_agent_view *view;

        snprintf(name, sizeof name, MUSTER_AGENT_PREFIX "%s", spec->teams[i].name);
        notices[i] = muster_board_take(spec->house->bus, name);
        if (notices[i] == NULL)
            continue;
        view = muster_notice_object(notices[i]);
        add_processes(&spec->teams[i], view, processes, &process_count);
        if (view->problem[0])
            problems[problem_count++] = (struct worker_problem){spec->teams[i].name, view->problem, view->problem_ms};
    }
    beat->processes.items = processes;
    beat->processes.count = process_count;
    beat->problems.items = problems;
    beat->problems.count = problem_count;
}

static void
add_parcels(struct worker_link *link, struct worker_beat *beat)
{
    struct muster_notice *notice = muster_board_take(link->spec->house->bus, MUSTER_PARCELS_BOARD);
    const struct muster_parcels_view *view = notice ? muster_notice_object(notice) : NULL;
    int64_t age_ms;

    if (view == NULL)
        return;
    age_ms = view->oldest_ms > 0 ? muster_clock_ms() - view->oldest_ms : 0;
    beat->parcels = view->count;
    beat->parcels_bytes = view->bytes;
    beat->oldest_ms = age_ms > 0 ? age_ms : 0;
    muster_notice_release(&notice);
}

void
worker_beat_now(struct worker_link *link)
{
    struct muster_arena *arena = muster_arena_new();
    struct muster_notice **notices;
    struct worker_beat beat = {.attachment = link->attachment,
                               .draining = link->drain.step != DRAIN_NONE,
                               .round_trip_ms = link->round_trip_ms,
                               .cpus = sysconf(_SC_NPROCESSORS_ONLN)};
    double load[1] = {0};
    size_t i;

    notices = muster_arena_alloc(arena, (link->spec->team_count + 1) * sizeof *notices);
    if (getloadavg(load, 1) == 1)
        beat.load = load[0];
    add_parcels(link, &beat);
    add_teams(link, &beat, notices, arena);
    link->beat_sent_ms = worker_uptime_ms();
    link->beat_id = worker_ask(link, &worker_beat_type, &beat);
    for (i = 0; i < link->spec->team_count; i++)
        if (notices[i])
            muster_notice_release(&notices[i]);
    muster_arena_free(&arena);
}

static void
on_beat_timer(void *arg)
{
    struct worker_link *link = arg;

    link->beat_timer = muster_loop_timer(link->loop, link->beat_ms, on_beat_timer, link);
    if (worker_uptime_ms() - link->heard_ms > link->lease_ms)
        worker_lose(link, MUSTER_TIMEOUT, "the hub was not heard of for %lld s", (long long)link->lease_ms / 1000);
    else if (link->beat_id == 0)
        worker_beat_now(link);
}

static void
on_heard(struct worker_link *link, const struct worker_heard *heard)
{
    link->heard_ms = link->beat_sent_ms;
    link->round_trip_ms = worker_uptime_ms() - link->beat_sent_ms;
    if (heard->draining != link->held_back)
        muster_journal_say(link->journal, INFO, "link-draining",
                           heard->draining ? "The hub gives no jobs until an operator allows it."
                                           : "The hub gives jobs again.",
                           MUSTER_SAY_TEXT("hub", link->spec->dial.endpoint));
    link->held_back = heard->draining;
}

/* ---- parcels ---- */

static void
drop_outgoing(struct worker_link *link)
{
    struct worker_outgoing *parcel;

    while ((parcel = link->outgoing)) {
        link->outgoing = parcel->next;
        muster_buf_free(&parcel->data);
        free(parcel);
    }
    link->outgoing_last = &link->outgoing;
}

/* The next part of the first parcel; true: that was the last one. */
static bool
send_part(struct worker_link *link, struct worker_outgoing *parcel)
{
    size_t size = parcel->data.size - parcel->sent;
    struct worker_parcel body = {
        .attachment = link->attachment, .seq = parcel->seq, .part = parcel->part++, .kind = parcel->kind};

    body.last = size <= PART_BYTES;
    size = body.last ? size : PART_BYTES;
    body.data = (struct muster_bytes){(const uint8_t *)parcel->data.data + parcel->sent, size};
    parcel->sent += size;
    link->asked++;
    (void)worker_ask(link, &worker_parcel_type, &body);
    return body.last;
}

static void
push(struct worker_link *link)
{
    struct worker_outgoing *parcel;

    while (link->state == LINK_ATTACHED && (parcel = link->outgoing) && link->asked < ASKED_MAX) {
        if (!send_part(link, parcel) || link->outgoing != parcel) /* lost meanwhile: all of it is gone */
            continue;
        link->outgoing = parcel->next;
        if (link->outgoing == NULL)
            link->outgoing_last = &link->outgoing;
        muster_buf_free(&parcel->data);
        free(parcel);
    }
}

void
worker_on_parcel(struct worker_link *link, const struct parcels_parcel *parcel)
{
    struct worker_outgoing *outgoing;
    struct worker_attempt *attempt;

    if (link->state != LINK_ATTACHED)
        return; /* it is sent again */
    outgoing = muster_alloc(sizeof *outgoing);
    outgoing->seq = parcel->seq;
    outgoing->kind = parcel->kind;
    muster_buf_add(&outgoing->data, parcel->data.data, parcel->data.size);
    *link->outgoing_last = outgoing;
    link->outgoing_last = &outgoing->next;
    if (parcel->kind == parcel_kind_REPORT) {
        attempt = worker_attempt_find(link, &parcel->job, parcel->attempt);
        if (attempt)
            attempt->report = parcel->seq;
    }
    push(link);
}

static void
on_acked(struct worker_link *link, const struct worker_acked *acked)
{
    link->asked -= link->asked > 0;
    if (acked->seq > link->acked) {
        link->acked = acked->seq;
        worker_attempts_acked(link, acked->seq);
        worker_tell_parcels(link, "", &parcels_acked_type, &(struct parcels_acked){.seq = acked->seq});
    }
    push(link);
}

/* ---- jobs ---- */

static void
say_job(struct worker_link *link, const struct muster_envelope *envelope, const struct agent_run *run, bool begun)
{
    char id[MUSTER_ID_TEXT], message[MUSTER_ID_TEXT + 4];

    muster_id_text(&run->job, id);
    snprintf(message, sizeof message, "msg_%s", id);
    muster_journal_say(link->journal, INFO, begun ? "job-begun" : "job-refused",
                       begun ? "The hub gave a job." : "The hub gave a job that cannot be begun here.",
                       MUSTER_SAY_TEXT("message_id", message),
                       MUSTER_SAY_TEXT("request_id", run->trace && run->trace[0] ? run->trace : envelope->trace),
                       MUSTER_SAY_TEXT("team", run->team), MUSTER_SAY_NUMBER("attempt", run->attempt));
}

static size_t
find_team(const struct worker_link *link, const char *name)
{
    size_t i;

    for (i = 0; i < link->spec->team_count; i++)
        if (name && strcmp(link->spec->teams[i].name, name) == 0)
            break;
    return i;
}

static void
on_run(struct worker_link *link, const struct muster_envelope *envelope)
{
    struct muster_envelope out = {
        .type = envelope->type, .reply_to = "", .trace = envelope->trace, .principal.name = "", .body = envelope->body};
    char address[128];
    struct agent_run run;
    size_t team;

    if (!take(link, envelope, &agent_run_type, &run) || (run.attachment && run.attachment != link->attachment))
        return;
    team = find_team(link, run.team);
    if (team == link->spec->team_count || !worker_takes_jobs(link)) {
        say_job(link, envelope, &run, false);
        worker_attempt_add(link, &run.job, run.attempt, team);
        worker_attempt_report(link, &run.job, run.attempt,
                              team == link->spec->team_count ? job_state_FAILED : job_state_PARKED,
                              MUSTER_TEAM_NOT_FOUND, "This worker does not offer the team.");
        return;
    }
    say_job(link, envelope, &run, true);
    worker_attempt_add(link, &run.job, run.attempt, team);
    snprintf(address, sizeof address, MUSTER_AGENT_PREFIX "%s", link->spec->teams[team].name);
    worker_tell(link, address, &out, NULL, NULL);
}

static void
on_cancel(struct worker_link *link, const struct muster_envelope *envelope)
{
    struct worker_attempt *attempt;
    struct agent_cancel cancel;

    if (!take(link, envelope, &agent_cancel_type, &cancel))
        return;
    attempt = worker_attempt_find(link, &cancel.job, cancel.attempt);
    if (attempt)
        worker_attempt_cancel(link, attempt, cancel.park);
}

/* ---- what the hub says ---- */

static const char *
text_of(const struct failed *failed)
{
    return failed->message && failed->message[0] ? failed->message
                                                 : muster_err_text(muster_err_from_code(failed->code));
}

/* Could the same have another answer a moment later? */
static bool
is_passing(muster_err err)
{
    return err == MUSTER_OVERLOADED || err == MUSTER_TIMEOUT || err == MUSTER_RATE_LIMITED ||
           err == MUSTER_STORAGE_FULL || err == MUSTER_STORAGE_ERROR || err == MUSTER_SHUTTING_DOWN;
}

static void
on_failed(struct worker_link *link, int64_t id, const struct failed *failed)
{
    muster_err err = muster_err_from_code(failed->code);

    if (id == link->attach_id) {
        worker_lose(link, err, "%s", text_of(failed));
    } else if (id == link->drain.leave_id && id != 0) {
        worker_drain_answered(link, false);
    } else if (!is_passing(err)) {
        worker_lose(link, err, "%s", text_of(failed));
    } else if (id == link->beat_id) {
        link->beat_id = 0;
    } else {
        link->asked -= link->asked > 0;
        drop_outgoing(link);
        worker_tell_parcels(link, "", &parcels_again_type, &(struct parcels_again){.all = true});
    }
}

/* Under the number of the worker.attach. */
static void
on_attachment(struct worker_link *link, const struct muster_envelope *envelope)
{
    struct worker_detached detached;

    if (IS(envelope, agent_run))
        on_run(link, envelope);
    else if (IS(envelope, agent_cancel))
        on_cancel(link, envelope);
    else if (IS(envelope, worker_detached) && take(link, envelope, &worker_detached_type, &detached))
        worker_lose(link, MUSTER_GONE, "%s",
                    detached.reason && detached.reason[0] ? detached.reason : "the hub has detached this worker");
}

void
worker_on_hub(struct worker_link *link, const struct muster_envelope *envelope)
{
    union {
        struct worker_heard heard;
        struct worker_acked acked;
        struct failed failed;
    } body;

    if (IS(envelope, failed) && take(link, envelope, &failed_type, &body)) {
        on_failed(link, envelope->id, &body.failed);
    } else if (envelope->id == link->attach_id) {
        on_attachment(link, envelope);
    } else if (IS(envelope, worker_heard) && take(link, envelope, &worker_heard_type, &body)) {
        on_heard(link, &body.heard);
        link->beat_id = 0;
    } else if (IS(envelope, worker_acked) && take(link, envelope, &worker_acked_type, &body)) {
        on_acked(link, &body.acked);
    } else if (IS(envelope, worker_left)) {
        worker_drain_answered(link, true);
    }
}

/* ---- begin and end ---- */

/* The hub does not want them: their agents end them, and nobody reports it. */
static void
drop_stale(struct worker_link *link, const struct worker_welcome *welcome)
{
    struct worker_attempt *attempt;
    size_t i;

    for (i = 0; i < welcome->stale.count; i++) {
        attempt = worker_attempt_find(link, &welcome->stale.items[i].job, welcome->stale.items[i].attempt);
        if (attempt == NULL)
            continue; /* its report is among the parcels */
        worker_attempt_cancel(link, attempt, false);
        worker_attempt_remove(link, attempt);
    }
}

void
worker_attached(struct worker_link *link, const struct worker_welcome *welcome)
{
    struct parcels_open open = {.received = welcome->received};

    link->attachment = welcome->attachment;
    link->lease_ms = welcome->lease_ms;
    link->beat_ms = welcome->beat_ms > BEAT_MIN_MS ? welcome->beat_ms : BEAT_MIN_MS;
    link->heard_ms = worker_uptime_ms();
    link->held_back = welcome->draining;
    link->pause_ms = link->options->reconnect;
    link->acked = 0;
    muster_journal_say(link->journal, INFO, "link-attached", "This worker is attached to the hub.",
                       MUSTER_SAY_TEXT("hub", link->spec->dial.endpoint), MUSTER_SAY_TEXT("name", link->spec->name),
                       MUSTER_SAY_TEXT("hub_version", welcome->version),
                       MUSTER_SAY_NUMBER("stale", (int64_t)welcome->stale.count));
    open.stale.items = welcome->stale.items;
    open.stale.count = welcome->stale.count;
    worker_tell_parcels(link, "", &parcels_open_type, &open);
    drop_stale(link, welcome);
    link->beat_timer = muster_loop_timer(link->loop, link->beat_ms, on_beat_timer, link);
    worker_beat_now(link);
}

void
worker_detached(struct worker_link *link)
{
    size_t i;

    drop_outgoing(link);
    link->asked = 0;
    link->beat_id = link->attach_id = link->drain.leave_id = 0;
    for (i = 0; i < link->attempts.count; i++)
        link->attempts.items[i].report = 0;
}
