/* SPDX-License-Identifier: MPL-2.0 */
/* agent_log: what an agent tells the log, in order, however full the log's mailbox is.
 *
 * Entries are gathered until the flush at the end of a batch, and consecutive chunks are joined: one message a batch.
 * What the log refuses stays here and is tried again, and what is held stays until it is released.  Beyond LIVE_MAX
 * bytes events are dropped; reports never are.
 * The agent's thread.  Nothing here fails or waits. */
#include <stdlib.h>
#include <string.h>

#include "actors/agent.h"
#include "actors/drivers/share.h"

#define LIVE_MAX ((size_t)16 << 20)
#define CHUNK_JOINED_MAX ((size_t)64 << 10)
#define CHUNK_MAX ((size_t)256 << 10)
#define MESSAGE_ENTRIES_MAX 256
#define MESSAGE_BYTES_MAX ((size_t)1 << 20)
#define PAUSE_MS 10

struct agent_log_item {
    struct agent_log_item *next;
    const struct muster_type *type; /* of an event; NULL: a report */
    bool held;
    int64_t at_ms;
    struct muster_id job;
    int64_t attempt;
    char *trace;
    struct muster_buf body; /* the packed row; of a chunk its text until `packed` */
    bool packed;
    struct muster_arena *arena; /* a report's memory */
    struct queue_report report;
};

void
agent_log_init(struct agent_log *log, struct muster_ctx *ctx, const char *team)
{
    *log = (struct agent_log){.ctx = ctx, .team = team};
    log->last = &log->first;
}

/* Free an item and take it out of its place. */
static void
drop(struct agent_log *log, struct agent_log_item **at)
{
    struct agent_log_item *item = *at;

    *at = item->next;
    if (log->last == &item->next)
        log->last = at;
    log->count--;
    log->held -= item->held ? 1 : 0;
    log->live_bytes -= item->body.size;
    muster_buf_free(&item->body);
    muster_arena_free(&item->arena);
    free(item->trace);
    free(item);
}

void
agent_log_fini(struct agent_log *log)
{
    while (log->first)
        drop(log, &log->first);
}

static struct agent_log_item *
add(struct agent_log *log, const struct agent_log_about *about)
{
    struct agent_log_item *item = muster_alloc(sizeof(*item));

    item->at_ms = muster_now_ms(log->ctx);
    item->job = about->job;
    item->attempt = about->attempt;
    item->held = about->held;
    log->count++;
    log->held += item->held ? 1 : 0;
    *log->last = item;
    log->last = &item->next;
    return item;
}

/* The last of the list; NULL when it is empty. */
static struct agent_log_item *
newest(struct agent_log *log)
{
    return log->first ? (struct agent_log_item *)((char *)log->last - offsetof(struct agent_log_item, next)) : NULL;
}

/* Is there room for an event of `size` bytes? */
static bool
has_room(struct agent_log *log, size_t size)
{
    if (log->live_bytes + size > LIVE_MAX && !log->refused && log->count > log->held)
        agent_log_flush(log);
    if (log->live_bytes + size <= LIVE_MAX)
        return true;
    if (!log->dropped++)
        muster_journal_say(muster_ctx_journal(log->ctx), WARNING, "agent-log-full",
                           "The log takes no events; live events are dropped.", MUSTER_SAY_TEXT("team", log->team));
    return false;
}

/* ---- adding ---------------------------------------------------------------------------------------------------------
 */

static struct agent_log_item *
add_live(struct agent_log *log, const struct agent_log_about *about, const struct muster_type *type)
{
    struct agent_log_item *item = add(log, about);

    item->type = type;
    item->trace = muster_strdup(about->trace ? about->trace : "");
    return item;
}

static void
add_piece(struct agent_log *log, const struct agent_log_about *about, const char *text, size_t size)
{
    struct agent_log_item *item;

    if (!has_room(log, size))
        return;
    item = newest(log);
    if (!item || item->type != &job_chunk_type || item->packed || !muster_id_equal(&item->job, &about->job) ||
        item->attempt != about->attempt || item->body.size + size > CHUNK_JOINED_MAX)
        item = add_live(log, about, &job_chunk_type);
    muster_buf_add(&item->body, text, size);
    log->live_bytes += size;
}

void
agent_log_chunk(struct agent_log *log, const struct agent_log_about *about, const char *text, size_t size)
{
    struct muster_buf clean = {0};
    size_t at, piece;

    muster_utf8_clean(&clean, text, size);
    for (at = 0; at < clean.size; at += piece) {
        piece = driver_text_cut(clean.data + at, clean.size - at, CHUNK_MAX);
        add_piece(log, about, clean.data + at, piece);
    }
    muster_buf_free(&clean);
}

void
agent_log_event(struct agent_log *log, const struct agent_log_about *about, const struct muster_type *type,
                const void *body)
{
    struct muster_buf packed = {0};
    struct agent_log_item *item;

    muster_pack(type, body, &packed);
    if (!has_room(log, packed.size)) {
        muster_buf_free(&packed);
        return;
    }
    item = add_live(log, about, type);
    log->live_bytes += packed.size;
    item->body = packed;
    item->packed = true;
}

void
agent_log_report(struct agent_log *log, const struct agent_log_about *about, const struct queue_report *report)
{
    struct agent_log_item *item = add(log, about);
    struct muster_buf packed = {0};

    item->arena = muster_arena_new();
    muster_pack(&queue_report_type, report, &packed);
    if (muster_unpack(&queue_report_type, packed.data, packed.size, item->arena, &item->report, NULL))
        item->report = (struct queue_report){.job = report->job,
                                             .attempt = report->attempt,
                                             .state = job_state_FAILED,
                                             .code = muster_err_code(MUSTER_INTERNAL_ERROR),
                                             .message = "The report of the attempt could not be packed."};
    muster_buf_free(&packed);
}

/* ---- sending --------------------------------------------------------------------------------------------------------
 */

/* A chunk that is about to be sent becomes a packed row; nothing is joined to it from now on. */
static void
seal(struct agent_log *log, struct agent_log_item *item)
{
    struct muster_buf packed = {0};

    if (item->packed)
        return;
    muster_pack(&job_chunk_type, &(struct job_chunk){.text = item->body.data}, &packed);
    log->live_bytes += packed.size - item->body.size;
    muster_buf_free(&item->body);
    item->body = packed;
    item->packed = true;
}

/* The oldest that is not held; what it points to is NULL when there is none. */
static struct agent_log_item **
oldest(struct agent_log_item **at)
{
    while (*at && (*at)->held)
        at = &(*at)->next;
    return at;
}

/* Those from `first` on, up to a report. */
static muster_err
send_events(struct agent_log *log, struct agent_log_item **first)
{
    struct log_entry entries[MESSAGE_ENTRIES_MAX];
    struct agent_log_item **at, *item;
    size_t count = 0, bytes = 0, i;
    struct log_append message = {.put = NULL};
    muster_err err;

    for (at = first; (item = *at) && item->type && count < MESSAGE_ENTRIES_MAX && bytes < MESSAGE_BYTES_MAX;
         at = oldest(&item->next)) {
        seal(log, item);
        entries[count++] = (struct log_entry){.at_ms = item->at_ms,
                                              .type = item->type->wire,
                                              .team = log->team,
                                              .job = item->job,
                                              .attempt = item->attempt,
                                              .trace = item->trace,
                                              .body = {(const uint8_t *)item->body.data, item->body.size}};
        bytes += item->body.size;
    }
    message.entries.items = entries;
    message.entries.count = count;
    err = muster_tell(log->ctx, MUSTER_LOG, &log_append_type, &message);
    for (i = 0; !err && i < count; i++)
        drop(log, oldest(first));
    return err;
}

static muster_err
send_report(struct agent_log *log, struct agent_log_item **at)
{
    muster_err err =
        muster_tell(log->ctx, MUSTER_LOG, &log_report_type, &(struct log_report){.report = &(*at)->report});

    if (!err)
        drop(log, at);
    return err;
}

void
agent_log_flush(struct agent_log *log)
{
    struct agent_log_item **at, *item;
    muster_err err = MUSTER_OK;

    while (!err && log->count > log->held) {
        at = oldest(&log->first);
        err = (*at)->type ? send_events(log, at) : send_report(log, at);
    }
    log->refused = err != MUSTER_OK;
    if (err)
        muster_timer_in(log->ctx, PAUSE_MS, AGENT_TIMER_LOG);
    if (log->first == NULL)
        log->dropped = 0;
    item = newest(log);
    if (item && item->held && item->type) /* the next round's chunk is another one */
        seal(log, item);
}

void
agent_log_release(struct agent_log *log, const struct muster_id *job, int64_t attempt)
{
    struct agent_log_item *item;

    for (item = log->held > 0 ? log->first : NULL; item; item = item->next) {
        if (!item->held || item->attempt != attempt || !muster_id_equal(&item->job, job))
            continue;
        item->held = false;
        log->held--;
    }
}
