/* SPDX-License-Identifier: MPL-2.0 */
/* nodes_parcel: what a worker sends: put together, handed on, acknowledged.
 *
 * Events go to the log with the worker's record, which says up to which number they have come; so both are on disk or
 * neither is, and none is taken twice.  Reports go to the queue by way of the log, behind the events, and may come
 * twice: the queue knows.  A worker is not trusted: whatever is not of an attempt that it has, or not an agent's to
 * say, is left out.  What makes no sense at all is left out whole, since it would come again for ever. */
#include <stdlib.h>
#include <string.h>

#include "actors/nodes.h"

/* Live events that only the hub itself says. */
static const struct muster_type *const own_events[] = {&job_retrying_type, &job_parked_type,   &job_lost_type,
                                                       &job_found_type,    &node_changed_type, NULL};

/* ---- acknowledging --------------------------------------------------------------------------------------------------
 */

static void
answer_acked(struct nodes *self, const struct worker *worker, struct muster_caller **caller_p)
{
    struct worker_acked acked = {.seq = worker->acked};

    if (*caller_p)
        muster_caller_answer(self->ctx, caller_p, MUSTER_OK, &worker_acked_type, &acked);
}

static void
reply_acked(struct nodes *self, const struct worker *worker)
{
    struct worker_acked acked = {.seq = worker->acked};

    muster_reply(self->ctx, &worker_acked_type, &acked);
}

/* Acknowledge as far as everything is settled. */
static void
acknowledge(struct nodes *self, struct worker *worker)
{
    struct nodes_parcel *parcel;

    while ((parcel = worker->first) && parcel->settled) {
        worker->first = parcel->next;
        if (worker->first == NULL)
            worker->last = &worker->first;
        worker->acked = parcel->seq;
        worker->waiting_bytes -= parcel->size;
        answer_acked(self, worker, &parcel->caller);
        free(parcel);
    }
}

void
nodes_parcels_written(struct nodes *self, struct worker *worker, int64_t seq)
{
    struct nodes_parcel *parcel;

    for (parcel = worker->first; parcel && parcel->seq <= seq; parcel = parcel->next)
        if (!parcel->report)
            parcel->settled = true;
    acknowledge(self, worker);
}

void
nodes_parcels_drop(struct nodes *self, struct worker *worker)
{
    struct nodes_parcel *parcel;

    while ((parcel = worker->first)) {
        worker->first = parcel->next;
        if (parcel->caller)
            nodes_fail(self, &parcel->caller, MUSTER_CONFLICT, 0, "The worker is not attached so any more.");
        free(parcel);
    }
    worker->last = &worker->first;
    worker->waiting_bytes = 0;
    worker->parts.seq = 0;
    muster_buf_free(&worker->parts.data);
}

static struct nodes_parcel *
find(const struct worker *worker, int64_t seq)
{
    struct nodes_parcel *parcel = worker->first;

    while (parcel && parcel->seq != seq)
        parcel = parcel->next;
    return parcel;
}

static struct nodes_parcel *
add(struct worker *worker, int64_t seq, bool report, size_t size)
{
    struct nodes_parcel *parcel = muster_alloc(sizeof *parcel);

    parcel->seq = seq;
    parcel->report = report;
    parcel->size = size;
    worker->waiting_bytes += size;
    *worker->last = parcel;
    worker->last = &parcel->next;
    worker->taken = seq;
    return parcel;
}

/* ---- events ---------------------------------------------------------------------------------------------------------
 */

static bool
is_agents_to_say(struct nodes *self, const struct log_entry *entry)
{
    const struct muster_event_row *row = muster_event_row(entry->type);
    size_t i;
    void *body;

    if (row == NULL || row->final || row->when != MUSTER_EVENT_LIVE)
        return false;
    for (i = 0; own_events[i]; i++)
        if (row->type == own_events[i])
            return false;
    body = muster_arena_alloc(muster_ctx_arena(self->ctx), row->type->size);
    return muster_unpack(row->type, entry->body.data, entry->body.size, muster_ctx_arena(self->ctx), body, NULL) ==
           MUSTER_OK;
}

static bool
has_team(const struct worker *worker, const char *team)
{
    size_t i;

    for (i = 0; i < worker->record.teams.count; i++)
        if (strcmp(worker->record.teams.items[i], team) == 0)
            return true;
    return false;
}

static bool
is_current(struct nodes *self, const struct worker *worker, const struct log_entry *entry)
{
    const struct nodes_attempt *attempt;

    if (!is_agents_to_say(self, entry))
        return false;
    if (muster_id_is_zero(&entry->job))
        return has_team(worker, entry->team);
    attempt = nodes_attempt_find(&worker->open, &entry->job, entry->attempt);
    if (attempt == NULL || attempt->ended)
        return false;
    /* It may not offer the team any more, and still tell what it did for it. */
    return attempt->team ? strcmp(attempt->team->name, entry->team) == 0 : has_team(worker, entry->team);
}

static void
say_bad(struct nodes *self, const struct worker *worker, int64_t seq, const char *what, const char *why)
{
    muster_journal_say(muster_ctx_journal(self->ctx), ERROR, "parcel-bad",
                       "A worker sent what cannot be understood; it is left out.",
                       MUSTER_SAY_TEXT("node", worker->record.name), MUSTER_SAY_TEXT("version", worker->record.version),
                       MUSTER_SAY_NUMBER("parcel", seq), MUSTER_SAY_TEXT("what", what), MUSTER_SAY_TEXT("why", why));
}

/* The entries of the parcel that count. */
static void
read_entries(struct nodes *self, const struct worker *worker, int64_t seq, const struct muster_bytes *data,
             struct log_append *out)
{
    struct muster_arena *arena = muster_ctx_arena(self->ctx);
    struct log_append in;
    struct log_entry *entries;
    struct muster_fault fault;
    size_t i, count = 0;

    if (muster_unpack(&log_append_type, data->data, data->size, arena, &in, &fault)) {
        say_bad(self, worker, seq, "events", fault.message);
        self->stale++;
        return;
    }
    entries = muster_arena_alloc(arena, (in.entries.count + 1) * sizeof *entries);
    for (i = 0; i < in.entries.count; i++)
        if (is_current(self, worker, &in.entries.items[i]))
            entries[count++] = in.entries.items[i];
    self->stale += in.entries.count - count;
    out->entries.items = entries;
    out->entries.count = count;
}

static muster_err
hand_events(struct nodes *self, struct worker *worker, int64_t seq, const struct muster_bytes *data)
{
    struct log_append append = {.put = NULL};
    int64_t before = worker->record.received;
    struct muster_buf packed = {0};
    struct store_put put;
    muster_err err;

    read_entries(self, worker, seq, data, &append);
    worker->record.received = seq;
    put = nodes_put(worker, &packed);
    append.put = &put;
    err = muster_tell(self->ctx, MUSTER_LOG, &log_append_type, &append);
    muster_buf_free(&packed);
    if (err) {
        worker->record.received = before;
        return err;
    }
    worker->handed = seq;
    nodes_handed(self);
    add(worker, seq, false, data->size);
    return MUSTER_OK;
}

static muster_err
take_events(struct nodes *self, struct worker *worker, int64_t seq, const struct muster_bytes *data)
{
    if (seq > worker->record.received)
        return hand_events(self, worker, seq, data);
    add(worker, seq, false, data->size)->settled = true; /* from before it attached itself; that is all on disk */
    return MUSTER_OK;
}

/* ---- reports --------------------------------------------------------------------------------------------------------
 */

static bool
is_end(enum job_state state)
{
    return state == job_state_COMPLETED || state == job_state_FAILED || state == job_state_CANCELLED ||
           state == job_state_PARKED;
}

static bool
read_report(struct nodes *self, const struct worker *worker, int64_t seq, const struct muster_bytes *data,
            struct queue_report *out)
{
    struct muster_fault fault;

    if (muster_unpack(&queue_report_type, data->data, data->size, muster_ctx_arena(self->ctx), out, &fault)) {
        say_bad(self, worker, seq, "report", fault.message);
        return false;
    }
    if (!is_end(out->state)) {
        say_bad(self, worker, seq, "report", "the state is not the end of an attempt");
        return false;
    }
    return true;
}

static muster_err
hand_report(struct nodes *self, struct worker *worker, struct queue_report *report, int64_t seq)
{
    struct log_report body = {.report = report};

    report->reply_to = muster_ctx_address(self->ctx);
    report->node = worker->record.name;
    report->parcel = seq;
    return muster_tell(self->ctx, MUSTER_LOG, &log_report_type, &body);
}

static void
say_reported(struct nodes *self, const struct worker *worker, const struct nodes_attempt *attempt,
             const struct queue_report *report)
{
    struct muster_say says[NODES_SAYS + 2];

    nodes_say_attempt(self, worker, attempt, says);
    says[NODES_SAYS] = MUSTER_SAY_TEXT("state", muster_enum_wire(&job_state_enum, (int)report->state));
    says[NODES_SAYS + 1] = MUSTER_SAY_TEXT("code", report->code);
    muster_journal_write(muster_ctx_journal(self->ctx), log_level_INFO, "job-reported",
                         "A worker told the end of an attempt.", says,
                         NODES_SAYS + (report->code && report->code[0] ? 2 : 1));
}

/* `parcel` NULL: it comes for the first time; else the queue has not said yet what became of it. */
static muster_err
take_report(struct nodes *self, struct worker *worker, struct nodes_parcel *parcel, int64_t seq,
            const struct muster_bytes *data)
{
    struct nodes_attempt *attempt = NULL;
    struct queue_report report;
    muster_err err = MUSTER_OK;

    if (parcel && parcel->settled)
        return MUSTER_OK;
    if (read_report(self, worker, seq, data, &report))
        attempt = nodes_attempt_find(&worker->open, &report.job, report.attempt);
    if (attempt)
        err = hand_report(self, worker, &report, seq);
    if (err)
        return err;
    if (parcel == NULL) {
        parcel = add(worker, seq, true, data->size);
        self->stale += attempt == NULL;
        if (attempt)
            say_reported(self, worker, attempt, &report);
    }
    if (attempt == NULL) {
        parcel->settled = true;
        return MUSTER_OK;
    }
    attempt->ended = true;
    parcel->job = report.job;
    parcel->attempt = report.attempt;
    return MUSTER_OK;
}

void
nodes_on_reported(struct nodes *self, struct worker *worker, const struct queue_reported *in)
{
    struct nodes_attempt *attempt = nodes_attempt_find(&worker->open, &in->job, in->attempt);
    struct nodes_attempt *early = nodes_attempt_find(&self->early, &in->job, in->attempt);
    struct nodes_parcel *parcel;

    if (attempt)
        nodes_attempt_remove(&worker->open, attempt);
    if (early)
        nodes_attempt_remove(&self->early, early);
    for (parcel = worker->first; parcel; parcel = parcel->next)
        if (parcel->report && parcel->attempt == in->attempt && muster_id_equal(&parcel->job, &in->job))
            parcel->settled = true;
    acknowledge(self, worker);
    self->dirty = true;
}

/* ---- parcels --------------------------------------------------------------------------------------------------------
 */

/* A whole one.  On failure nothing has changed, but that the worker is to send it before all others. */
static muster_err
take(struct nodes *self, struct worker *worker, int64_t seq, int kind, const struct muster_bytes *data)
{
    struct nodes_parcel *parcel = find(worker, seq);
    bool report = kind == (int)parcel_kind_REPORT;
    muster_err err = MUSTER_OK;

    if (parcel == NULL && seq <= worker->taken) {
        reply_acked(self, worker); /* that was acknowledged */
        return MUSTER_OK;
    }
    if (parcel && parcel->report != report) {
        muster_explain(self->ctx, 0, "the parcel %lld was of another kind before", (long long)seq);
        return MUSTER_INVALID_REQUEST;
    }
    self->parcels += parcel == NULL;
    self->dirty = true;
    if (parcel == NULL && worker->first && worker->waiting_bytes + data->size > (size_t)NODES_PARCEL_MAX)
        err = MUSTER_OVERLOADED; /* one that keeps to its window never gets here */
    else if (report)
        err = take_report(self, worker, parcel, seq, data);
    else if (parcel == NULL)
        err = take_events(self, worker, seq, data);
    if (err) {
        worker->refused = seq;
        self->parcels -= parcel == NULL;
        muster_explain(self->ctx, 1,
                       "the log of the hub is full, or too much of this worker waits for it; send the "
                       "parcel again");
        return MUSTER_OVERLOADED;
    }
    parcel = find(worker, seq);
    answer_acked(self, worker, &parcel->caller); /* who asked before; it goes by this one from now on */
    parcel->caller = muster_caller_keep(self->ctx);
    acknowledge(self, worker);
    return MUSTER_OK;
}

/* The worker does not keep to the order: it is to begin anew. */
static muster_err
break_off(struct nodes *self, struct worker *worker, muster_err err, const char *reason)
{
    muster_explain(self->ctx, 0, "%s", reason);
    say_bad(self, worker, worker->parts.seq, "part", reason);
    nodes_detach(self, worker, reason);
    nodes_go_away(self, worker, reason);
    return err;
}

/* Add a part to those before it. */
static muster_err
collect(struct nodes *self, struct worker *worker, const struct worker_parcel *in)
{
    struct nodes_parts *parts = &worker->parts;

    if (in->part == 0) { /* whatever was begun is begun anew */
        muster_buf_free(&parts->data);
        *parts = (struct nodes_parts){.seq = in->seq, .kind = (int)in->kind};
    }
    if (parts->seq != in->seq || parts->next != in->part || parts->kind != (int)in->kind)
        return break_off(self, worker, MUSTER_INVALID_REQUEST, "A part of a parcel came out of order.");
    if ((int64_t)(parts->data.size + in->data.size) > NODES_PARCEL_MAX)
        return break_off(self, worker, MUSTER_PAYLOAD_TOO_LARGE, "A parcel has at most 128 MiB.");
    parts->next++;
    if (in->part > 0 || !in->last)
        muster_buf_add(&parts->data, in->data.data, in->data.size);
    return MUSTER_OK;
}

muster_err
nodes_on_parcel(struct nodes *self, struct worker *worker, const struct worker_parcel *in)
{
    struct muster_bytes data = in->data;
    muster_err err;

    nodes_heard(self, worker);
    if (worker->refused && in->seq > worker->refused) {
        muster_explain(self->ctx, 1, "the parcel %lld is to come first", (long long)worker->refused);
        return MUSTER_OVERLOADED;
    }
    err = collect(self, worker, in);
    if (err)
        return err;
    if (!in->last) {
        reply_acked(self, worker);
        return MUSTER_OK;
    }
    if (in->seq == worker->refused)
        worker->refused = 0;
    if (in->part > 0)
        data = (struct muster_bytes){(const uint8_t *)worker->parts.data.data, worker->parts.data.size};
    err = take(self, worker, in->seq, (int)in->kind, &data);
    muster_buf_free(&worker->parts.data);
    worker->parts.seq = 0;
    return err == MUSTER_INVALID_REQUEST ? break_off(self, worker, err, "A parcel changed its kind.") : err;
}
