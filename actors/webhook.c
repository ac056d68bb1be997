/* SPDX-License-Identifier: MPL-2.0 */
/* webhook: tells the receivers that jobs named in their `callback` how the jobs ended.
 *
 * The queue puts a pending `delivery` record in the commit of such a job's end.  We find it by the job's last event, or
 * by walking the pending ones at our start and when events were missed,
 * at most once a second.  Each delivery is in one place at a time:
 *
 *   due      in a heap by the time of its next request (or of its next try to save the outcome)
 *   blocked  in the list of its host, which has MAX_PER_HOST requests open already
 *   open     its request is on its way
 *   saving   its outcome is final and on its way to the disk
 *
 * Every outcome is written.  A restart makes again what was open, with the same webhook-id, so a receiver gets each end
 * at least once.  A delivery whose outcome cannot be written is kept and its outcome written later.  Mailbox full:
 * events are missed, and the records are walked instead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"

#define MAX_PER_HOST 4
#define MAX_HELD 100000 /* deliveries in memory; further ones are walked to when half of these are done */
#define BUCKETS 16384
#define GROWTH 6
#define JITTER_PERCENT 20
#define SAVE_PAUSE_MS 5000
#define SUMMARY_MAX 200    /* characters */
#define PROBLEM_MAX 160    /* bytes; cleaned they are at most three times as many */
#define WALK_PAUSE_MS 1000 /* shortest time between two walks */

enum { TIMER_PUMP = 1, TIMER_WALK };

/* ---- what receivers get ---- */

/* clang-format off */
#include "schemas/pass_struct.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_extern.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_rows.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_types.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
/* clang-format on */

/* ---- data -----------------------------------------------------------------------------------------------------------
 */

/* A receiver with requests open. */
struct host {
    struct host *next;
    char *name;                 /* host and port */
    size_t slots;               /* taken, of MAX_PER_HOST */
    struct task *first, **last; /* blocked, in their order */
};

/* One delivery. */
struct task {
    struct webhook_actor *self;
    struct muster_id job;
    struct task *chain; /* next in its bucket */
    struct task *next;  /* next blocked or saving */
    struct host *host;  /* where it has a slot; NULL: it has none */
    int64_t due_ms;     /* when it leaves the heap */
    uint64_t order;     /* of two due at the same time the one put there first is first */
    int64_t token;      /* of its last save */
    enum delivery_state state;
    int64_t tries;
    long status;                       /* of the last request */
    char problem[3 * PROBLEM_MAX + 1]; /* of the last request */
};

struct webhook_actor {
    struct muster_ctx *ctx;                /* borrowed; outlives us */
    const struct webhook_options *options; /* likewise */
    struct muster_arena *arena;            /* for one request */
    struct task *buckets[BUCKETS];         /* all of them, by job */
    size_t held;                           /* how many those are */
    struct task **heap;                    /* due ones, the earliest first */
    size_t heap_count, heap_capacity;
    struct host *hosts;  /* those with a slot taken; at most as many as there are requests open */
    struct task *saving; /* waiting for the store */
    int64_t open;        /* requests on their way */
    int64_t last_token;
    uint64_t last_order;
    int64_t walked_ms; /* when the records were last walked */
    bool more;         /* there may be pending deliveries that are not held */
};

/* ---- all deliveries by job ------------------------------------------------------------------------------------------
 */

/* Ids end in random bits. */
static struct task **
bucket_of(struct webhook_actor *self, const struct muster_id *job)
{
    size_t number;

    memcpy(&number, job->bytes + sizeof job->bytes - sizeof number, sizeof number);
    return &self->buckets[number % BUCKETS];
}

static bool
is_held(struct webhook_actor *self, const struct muster_id *job)
{
    const struct task *task;

    for (task = *bucket_of(self, job); task; task = task->chain)
        if (muster_id_equal(&task->job, job))
            return true;
    return false;
}

static void
forget(struct task *task)
{
    struct task **link = bucket_of(task->self, &task->job);

    while (*link != task)
        link = &(*link)->chain;
    *link = task->chain;
    task->self->held--;
    free(task);
}

/* ---- due: a heap ----------------------------------------------------------------------------------------------------
 */

static bool
is_before(const struct task *a, const struct task *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

static void
heap_put(struct webhook_actor *self, struct task *task, int64_t due_ms)
{
    size_t at = self->heap_count++, up;

    if (self->heap_count > self->heap_capacity) {
        self->heap_capacity = self->heap_capacity ? 2 * self->heap_capacity : 64;
        self->heap = muster_realloc(self->heap, self->heap_capacity * sizeof(struct task *));
    }
    task->due_ms = due_ms;
    task->order = ++self->last_order;
    for (; at > 0 && is_before(task, self->heap[up = (at - 1) / 2]); at = up)
        self->heap[at] = self->heap[up];
    self->heap[at] = task;
}

static struct task *
heap_take(struct webhook_actor *self)
{
    struct task *first = self->heap[0], *last = self->heap[--self->heap_count];
    size_t at = 0, down;

    while ((down = 2 * at + 1) < self->heap_count) {
        if (down + 1 < self->heap_count && is_before(self->heap[down + 1], self->heap[down]))
            down++;
        if (!is_before(self->heap[down], last))
            break;
        self->heap[at] = self->heap[down];
        at = down;
    }
    self->heap[at] = last;
    return first;
}

/* ---- hosts ----------------------------------------------------------------------------------------------------------
 */

/* Host and port of an URL. */
static const char *
host_name(struct muster_arena *arena, const char *url)
{
    const char *from = strstr(url, "://"), *at;
    char *name, *c;
    size_t size;

    from = from ? from + 3 : url;
    size = strcspn(from, "/?#");
    at = memrchr(from, '@', size);
    if (at) {
        size -= (size_t)(at + 1 - from);
        from = at + 1;
    }
    name = muster_arena_str(arena, from, size);
    for (c = name; *c; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c - 'A' + 'a');
    return name;
}

static struct host *
host_of(struct webhook_actor *self, const char *name)
{
    struct host *host;

    for (host = self->hosts; host; host = host->next)
        if (strcmp(host->name, name) == 0)
            return host;
    host = muster_alloc(sizeof *host);
    host->name = muster_strdup(name);
    host->last = &host->first;
    host->next = self->hosts;
    self->hosts = host;
    return host;
}

static void
host_free(struct webhook_actor *self, struct host *host)
{
    struct host **link = &self->hosts;

    while (*link != host)
        link = &(*link)->next;
    *link = host->next;
    free(host->name);
    free(host);
}

/* Take a slot, or wait for one. */
static bool
take_slot(struct task *task, const char *name)
{
    struct host *host;

    if (task->host)
        return true;
    host = host_of(task->self, name);
    if (host->slots < MAX_PER_HOST) {
        host->slots++;
        task->host = host;
        return true;
    }
    task->next = NULL;
    *host->last = task;
    host->last = &task->next;
    return false;
}

/* Give the slot to the next that waits for it; a host without slots taken is forgotten. */
static void
leave_slot(struct task *task)
{
    struct host *host = task->host;
    struct task *next;

    if (host == NULL)
        return;
    task->host = NULL;
    next = host->first;
    if (next) {
        host->first = next->next;
        if (host->first == NULL)
            host->last = &host->first;
        next->host = host;
        heap_put(task->self, next, next->due_ms);
    } else if (--host->slots == 0) {
        host_free(task->self, host);
    }
}

/* ---- saving outcomes ------------------------------------------------------------------------------------------------
 */

/* Send the record to the store; when the outcome is final, with an answer to ourselves that has the token as its
 * number. */
static muster_err
send_record(struct task *task, int64_t next_ms)
{
    struct webhook_actor *self = task->self;
    struct delivery record = {.id = task->job,
                              .state = task->state,
                              .tries = task->tries,
                              .next_ms = next_ms,
                              .status = task->status,
                              .problem = task->problem};
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal = {.name = ""}};
    const struct store_committed committed = {0};
    struct muster_buf packed = {0}, frame = {0};
    struct store_put put = {.record = delivery_type.wire};
    struct store_answer told = {.to = muster_ctx_address(self->ctx)};
    struct store_commit commit = {.puts = {&put, 1}, .answers = {&told, 1}};
    muster_err err;

    envelope.id = task->token = ++self->last_token;
    muster_envelope_pack(&envelope, &store_committed_type, &committed, &frame);
    told.ok = (struct muster_bytes){(const uint8_t *)frame.data, frame.size};
    if (task->state == delivery_state_PENDING)
        commit.answers.count = 0;
    muster_pack(&delivery_type, &record, &packed);
    put.value = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    err = muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit);
    muster_buf_free(&packed);
    muster_buf_free(&frame);
    return err;
}

/* A final outcome is kept until the disk has it. */
static void
save_final(struct task *task)
{
    struct webhook_actor *self = task->self;

    if (send_record(task, 0)) {
        heap_put(self, task, muster_now_ms(self->ctx) + SAVE_PAUSE_MS);
        return;
    }
    task->next = self->saving;
    self->saving = task;
}

/* What is lost when this one is not written: after a restart the try is made again. */
static void
save_pending(struct task *task, int64_t next_ms)
{
    (void)send_record(task, next_ms);
    heap_put(task->self, task, next_ms);
}

static struct task *
take_saving(struct webhook_actor *self, int64_t token)
{
    struct task **link = &self->saving, *task;

    while (*link && (*link)->token != token)
        link = &(*link)->next;
    task = *link;
    if (task)
        *link = task->next;
    return task;
}

MUSTER_ON(webhook_actor, store_committed);

static muster_err
on_store_committed(struct webhook_actor *self, const struct store_committed *in)
{
    struct task *task = take_saving(self, muster_ctx_envelope(self->ctx)->id);

    (void)in;
    if (task)
        forget(task);
    return MUSTER_OK;
}

MUSTER_ON(webhook_actor, failed);

/* The store could not write an outcome. */
static muster_err
on_failed(struct webhook_actor *self, const struct failed *in)
{
    struct task *task = take_saving(self, muster_ctx_envelope(self->ctx)->id);

    (void)in;
    if (task)
        heap_put(self, task, muster_now_ms(self->ctx) + SAVE_PAUSE_MS);
    return MUSTER_OK;
}

/* ---- outcomes -------------------------------------------------------------------------------------------------------
 */

static void
set_problem(struct task *task, const char *text)
{
    struct muster_buf clean = {0};

    muster_utf8_clean(&clean, text, strnlen(text, PROBLEM_MAX));
    (void)snprintf(task->problem, sizeof task->problem, "%s", clean.data ? clean.data : "");
    muster_buf_free(&clean);
}

static void
give_up(struct task *task)
{
    char text[MUSTER_ID_TEXT];
    const char *job = text, *problem = task->problem;

    muster_id_text(&task->job, text);
    muster_journal_say(muster_ctx_journal(task->self->ctx), WARNING, "callback-failed", "A callback was given up.",
                       MUSTER_SAY_TEXT("job", job), MUSTER_SAY_NUMBER("tries", task->tries),
                       MUSTER_SAY_NUMBER("status", task->status), MUSTER_SAY_TEXT("problem", problem));
    task->state = delivery_state_FAILED;
    save_final(task);
}

/* Until the next request: sixfold each time, up to the longest, with jitter; longer if the receiver asked for that. */
static int64_t
pause_ms(const struct webhook_options *options, int64_t tries, int64_t retry_after_s)
{
    int64_t pause = options->retry_delay, longest = options->max_retry_delay, spread, i;

    for (i = 1; i < tries && pause < longest; i++)
        pause *= GROWTH;
    pause = pause < longest ? pause : longest;
    spread = pause * JITTER_PERCENT / 100;
    pause += (int64_t)muster_random_below((uint32_t)(2 * spread + 1)) - spread;
    if (retry_after_s > longest / 1000)
        return longest;
    if (retry_after_s > 0 && retry_after_s * 1000 > pause)
        pause = retry_after_s * 1000;
    return pause < longest ? pause : longest;
}

static void
describe_problem(struct task *task, const struct muster_fetch_result *result)
{
    char text[64];

    if (result->status >= 200 && result->status < 300) {
        task->problem[0] = '\0';
    } else if (result->status == 0) {
        set_problem(task, result->problem && result->problem[0] ? result->problem : "No answer came");
    } else {
        (void)snprintf(text, sizeof text, "The receiver answered %ld", result->status);
        set_problem(task, text);
    }
}

/* Say that a callback does not get through, once each. */
static void
warn_retrying(const struct task *task, const char *host, int64_t delay_ms)
{
    char text[MUSTER_ID_TEXT];
    const char *job = text, *problem = task->problem;

    muster_id_text(&task->job, text);
    muster_journal_say(muster_ctx_journal(task->self->ctx), WARNING, "callback-retrying",
                       "A callback was not taken and is tried again.", MUSTER_SAY_TEXT("job", job),
                       MUSTER_SAY_TEXT("host", host), MUSTER_SAY_NUMBER("status", task->status),
                       MUSTER_SAY_TEXT("problem", problem), MUSTER_SAY_NUMBER("delay_ms", delay_ms));
}

static void
try_again(struct task *task, const char *host, int64_t retry_after_s)
{
    struct webhook_actor *self = task->self;
    int64_t delay_ms = pause_ms(self->options, task->tries, retry_after_s);

    if (task->tries == 1)
        warn_retrying(task, host, delay_ms);
    save_pending(task, muster_now_ms(self->ctx) + delay_ms);
}

static void
on_answer(void *arg, const struct muster_fetch_result *result)
{
    struct task *task = arg;
    struct webhook_actor *self = task->self;
    char *host = muster_strdup(task->host ? task->host->name : "");

    self->open--;
    leave_slot(task);
    task->tries++;
    task->status = result->status > 999 ? 999 : result->status;
    describe_problem(task, result);
    if (result->status >= 200 && result->status < 300) {
        task->state = delivery_state_DELIVERED;
        save_final(task);
    } else if (result->status == 410 || task->tries >= self->options->max_tries) {
        give_up(task);
    } else {
        try_again(task, host, result->retry_after_s);
    }
    free(host);
}

/* ---- requests -------------------------------------------------------------------------------------------------------
 */

/* The first line that is not blank, cut to SUMMARY_MAX characters. */
static const char *
summary_of(struct muster_arena *arena, const char *text)
{
    size_t size, characters = 0;

    text += strspn(text, " \t\r\n");
    for (size = 0; text[size] && text[size] != '\n' && text[size] != '\r'; size++)
        if (((unsigned char)text[size] & 0xc0) != 0x80 && ++characters > SUMMARY_MAX)
            break;
    return muster_arena_str(arena, text, size);
}

static void
write_body(struct webhook_actor *self, const struct job *job, const char *id, struct muster_buf *out)
{
    const char *details = job->result ? job->result : "";
    struct callback_result result = {.details = details};
    struct callback_body body = {.jobId = muster_arena_printf(self->arena, "job_%s", id),
                                 .team = job->team,
                                 .status = muster_enum_wire(&job_state_enum, (int)job->state),
                                 .timestamp = job->finished_ms};

    if (job->started_ms > 0 && job->finished_ms > job->started_ms)
        body.duration = job->finished_ms - job->started_ms;
    if (job->state == job_state_COMPLETED) {
        result.summary = summary_of(self->arena, details);
        body.result = &result;
    } else if (job->state == job_state_FAILED) {
        body.code = job->error ? job->error : muster_err_code(MUSTER_INTERNAL_ERROR);
        body.error = job->error_message;
        if (body.error == NULL || body.error[0] == '\0')
            body.error = muster_err_text(muster_err_from_code(body.code));
    }
    muster_json_encode(&callback_body_type, &body, out);
}

/* May the job's own header be sent?  Not what would break the request's frame, and not what is ours to say. */
static bool
is_sendable(const struct muster_pair *header)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection",
                                       "webhook-id",     "webhook-timestamp", "webhook-signature"};
    static const char name[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~";
    const char *c;
    size_t i;

    if (header->name[0] == '\0' || header->name[strspn(header->name, name)] != '\0')
        return false;
    for (c = header->value; *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
            return false;
    for (i = 0; i < sizeof ours / sizeof ours[0]; i++)
        if (strcasecmp(header->name, ours[i]) == 0)
            return false;
    return true;
}

/* The job's headers, then ours; a Content-Type of the job's replaces ours. */
static size_t
list_headers(struct webhook_actor *self, const struct muster_pairs *own, const char *id,
             const struct muster_pair **out_headers)
{
    struct muster_pair *headers = muster_arena_alloc(self->arena, (own->count + 3) * sizeof *headers);
    bool has_type = false;
    size_t i, count = 0;

    for (i = 0; i < own->count; i++)
        if (is_sendable(&own->items[i])) {
            headers[count++] = own->items[i];
            has_type = has_type || strcasecmp(own->items[i].name, "content-type") == 0;
        }
    if (!has_type)
        headers[count++] = (struct muster_pair){"Content-Type", "application/json"};
    headers[count++] = (struct muster_pair){"webhook-id", muster_arena_printf(self->arena, "msg_%s", id)};
    headers[count++] = (struct muster_pair){
        "webhook-timestamp", muster_arena_printf(self->arena, "%lld", (long long)(muster_now_ms(self->ctx) / 1000))};
    *out_headers = headers;
    return count;
}

static void
request(struct task *task, const struct job *job)
{
    struct webhook_actor *self = task->self;
    struct muster_fetch_spec spec = {
        .url = job->callback->url, .timeout_ms = self->options->timeout, .allow_private = self->options->allow_private};
    struct muster_buf body = {0};
    char id[MUSTER_ID_TEXT];

    muster_id_text(&job->id, id);
    spec.method = job->callback->method && job->callback->method[0] ? job->callback->method : "POST";
    spec.header_count = list_headers(self, &job->callback->headers, id, &spec.headers);
    write_body(self, job, id, &body);
    spec.body = body.data;
    spec.body_size = body.size;
    self->open++;
    muster_ctx_fetch(self->ctx, &spec, on_answer, task);
    muster_buf_free(&body);
}

/* Its time has come. */
static void
begin(struct task *task)
{
    struct webhook_actor *self = task->self;
    struct job job;
    muster_err err;

    if (task->state != delivery_state_PENDING) {
        save_final(task);
        return;
    }
    muster_arena_clear(self->arena);
    err = muster_store_get(muster_ctx_store(self->ctx), &job_type, &task->job, self->arena, &job);
    if (err == MUSTER_OK && job.callback) {
        if (take_slot(task, host_name(self->arena, job.callback->url)))
            request(task, &job);
        return;
    }
    leave_slot(task);
    if (err && err != MUSTER_NOT_FOUND) {
        heap_put(self, task, muster_now_ms(self->ctx) + SAVE_PAUSE_MS);
        return;
    }
    set_problem(task, "The job is no longer kept");
    give_up(task);
}

/* Begin what is due, and be called again when the next one is.  While as many as may be are open, the end of one calls.
 */
static void
pump(struct webhook_actor *self)
{
    int64_t now_ms = muster_now_ms(self->ctx);

    while (self->heap_count > 0 && self->heap[0]->due_ms <= now_ms && self->open < self->options->max_parallel)
        begin(heap_take(self));
    if (self->heap_count > 0 && self->open < self->options->max_parallel)
        muster_timer_in(self->ctx, self->heap[0]->due_ms - now_ms, TIMER_PUMP);
    else
        muster_timer_end(self->ctx, TIMER_PUMP);
}

/* ---- finding deliveries ---------------------------------------------------------------------------------------------
 */

/* False: there is no room for more. */
static bool
hold(struct webhook_actor *self, const struct delivery *record)
{
    struct task *task, **bucket;

    if (record->state != delivery_state_PENDING || is_held(self, &record->id))
        return true;
    if (self->held >= MAX_HELD) {
        self->more = true;
        return false;
    }
    task = muster_alloc(sizeof *task);
    task->self = self;
    task->job = record->id;
    task->state = delivery_state_PENDING;
    task->tries = record->tries;
    task->status = (long)record->status;
    bucket = bucket_of(self, &record->id);
    task->chain = *bucket;
    *bucket = task;
    self->held++;
    heap_put(self, task, record->next_ms);
    return true;
}

static bool
hold_walked(void *arg, const void *record, struct muster_arena *arena)
{
    (void)arena;
    return hold(arg, record);
}

static void
walk(struct webhook_actor *self)
{
    self->more = false;
    self->walked_ms = muster_now_ms(self->ctx);
    if (muster_store_walk(muster_ctx_store(self->ctx), &delivery_type, "delivery_by_state",
                          muster_enum_wire(&delivery_state_enum, delivery_state_PENDING), MUSTER_OLDEST_FIRST,
                          hold_walked, self))
        self->more = true;
}

MUSTER_ON(webhook_actor, feed_event);

static muster_err
on_feed_event(struct webhook_actor *self, const struct feed_event *in)
{
    const struct muster_event_row *row = muster_event_row(in->event->type);
    struct delivery record;
    muster_err err;

    if (row == NULL || !row->final)
        return MUSTER_OK;
    err = muster_store_get(muster_ctx_store(self->ctx), &delivery_type, &in->event->job, muster_ctx_arena(self->ctx),
                           &record);
    if (err == MUSTER_OK)
        (void)hold(self, &record);
    else if (err != MUSTER_NOT_FOUND)
        self->more = true;
    return MUSTER_OK;
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static muster_err
init(void *arg, struct muster_ctx *ctx, const void *config)
{
    struct webhook_actor *self = arg;

    (void)config;
    self->ctx = ctx;
    self->options = muster_ctx_options(ctx)->webhooks;
    self->arena = muster_arena_new();
    self->last_token = muster_now_ms(ctx) * 1000; /* no answer to an earlier life is taken for one to this */
    muster_events_subscribe(ctx);
    walk(self);
    pump(self);
    return MUSTER_OK;
}

static void
fini(void *arg)
{
    struct webhook_actor *self = arg;
    size_t i;

    for (i = 0; i < BUCKETS; i++)
        while (self->buckets[i])
            forget(self->buckets[i]);
    while (self->hosts)
        host_free(self, self->hosts);
    free(self->heap);
    muster_arena_free(&self->arena);
}

/* What is due is begun in idle, which follows. */
static void
on_timer(void *arg, uint64_t key)
{
    (void)arg;
    (void)key;
}

static void
on_idle(void *arg)
{
    struct webhook_actor *self = arg;
    int64_t passed_ms = muster_now_ms(self->ctx) - self->walked_ms;

    if (muster_events_missed(self->ctx) > 0)
        self->more = true;
    if (self->more && self->held <= MAX_HELD / 2) {
        if (passed_ms < 0 || passed_ms >= WALK_PAUSE_MS)
            walk(self);
        else
            muster_timer_in(self->ctx, WALK_PAUSE_MS - passed_ms, TIMER_WALK);
    }
    pump(self);
}

static const struct muster_handler handlers[] = {
    MUSTER_ROW(feed_event), MUSTER_ROW(store_committed), MUSTER_ROW(failed), {NULL, NULL}};

const struct muster_actor_class muster_webhook_class = {
    .name = "webhook",
    .size = sizeof(struct webhook_actor),
    .mailbox = 10000,
    .init = init,
    .fini = fini,
    .handlers = handlers,
    .timer = on_timer,
    .idle = on_idle,
};
