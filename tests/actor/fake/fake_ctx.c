/* SPDX-License-Identifier: MPL-2.0 */
/* The surroundings of one actor in a test; see fake_ctx.h.  One thread; a wrong use aborts. */
#include "tests/actor/fake/fake_ctx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "schemas/muster_options.h"
#include "store/engine.h"

#define MAX_FIRED 1000000 /* timers in one fake_advance; more is a timer that never rests */
#define FIRST_PID 4000

/* Appends one item to an array that grows. */
#define ADD(list, item)                                                                                                \
    do {                                                                                                               \
        (list).items = muster_realloc((list).items, ((list).count + 1) * sizeof *(list).items);                        \
        (list).items[(list).count++] = (item);                                                                         \
    } while (0)

struct timer {
    uint64_t key;
    int64_t due_ms;
    uint64_t order; /* of two due at the same time the one set first fires first */
};

struct notice {
    const char *name;
    void *object;
    void (*destroy)(void *object);
};

struct refusal {
    const char *to;
    muster_err err;
};

struct fetch {
    struct fake_fetch view; /* first member: what tests see */
    void (*done)(void *arg, const struct muster_fetch_result *result);
    void *arg;
};

struct muster_child {
    struct muster_ctx *ctx;
    struct muster_child_spec spec;
    struct muster_child_hooks hooks;
    void *arg;
    pid_t pid;
    struct muster_buf input;
    const char *words;
    muster_err write_error;
    size_t signals;
    int last_signal;
    bool input_closed;
    bool exited;
    bool freed;
};

/* One entry of the journal. */
struct said {
    const char *id;
    const char *text; /* message and facts */
};

struct muster_journal {
    struct muster_arena *arena;
    struct {
        struct said *items;
        size_t count;
    } entries;
};

struct muster_ctx {
    struct muster_config config;
    struct muster_store *store;
    struct muster_arena *arena;   /* until fake_free */
    struct muster_arena *scratch; /* until the handler returns */
    struct muster_journal journal;
    const struct muster_actor_class *class; /* NULL: not started */
    const void *actor_config;
    const char *address;
    void *self;
    struct muster_envelope envelope;
    char explained[1024]; /* by muster_explain; "" nothing */
    int64_t retry_after_s;
    int64_t now_ms;
    int64_t feed_seq;
    size_t missed;
    int64_t settled;
    size_t gathered;
    uint64_t timer_order;
    bool subscribed;
    bool in_batch;
    muster_err child_error; /* of the next start */
    const char *child_problem;
    struct {
        struct timer *items;
        size_t count;
    } timers;
    struct {
        const struct fake_sent **items;
        size_t count;
    } sent;
    struct {
        struct refusal *items;
        size_t count;
    } refusals;
    struct {
        struct notice *items;
        size_t count;
    } board;
    struct {
        const struct event **items;
        size_t count;
    } events;
    struct {
        struct fetch **items;
        size_t count;
    } fetches;
    struct {
        struct muster_child **items;
        size_t count;
    } children;
};

/* A request kept for later.  The bytes of the texts follow. */
struct muster_caller {
    struct muster_envelope envelope;
    char *reply_to;
    char *trace;
    char *name;
};

static const struct muster_envelope nobody = {.type = "", .reply_to = "", .trace = "", .principal = {.name = ""}};

static char *
keep(struct muster_ctx *ctx, const char *text)
{
    return text ? muster_arena_str(ctx->arena, text, strlen(text)) : NULL;
}

/* A decoded copy in the long-lived arena. */
static void *
copy(struct muster_ctx *ctx, const struct muster_type *type, const void *in)
{
    struct muster_buf buf = {0};
    struct muster_fault fault;
    void *out = muster_arena_alloc(ctx->arena, type->size);

    muster_pack(type, in, &buf);
    if (muster_unpack(type, buf.data, buf.size, ctx->arena, out, &fault)) {
        (void)fprintf(stderr, "fake: %s does not fit its rows: %s %s\n", type->wire, fault.field, fault.message);
        abort();
    }
    muster_buf_free(&buf);
    return out;
}

static const struct muster_type *
find_message(const char *wire)
{
    size_t i;

    for (i = 0; muster_messages[i]; i++)
        if (strcmp(muster_messages[i]->wire, wire) == 0)
            return muster_messages[i];
    (void)fprintf(stderr, "fake: no such message: %s\n", wire);
    abort();
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

struct muster_ctx *
fake_new(const char *yaml)
{
    struct muster_ctx *ctx = muster_alloc(sizeof *ctx);
    struct muster_engine *engine;
    struct muster_options_error error;
    muster_err err;

    MUSTER_ASSERT(muster_crypto_init() == MUSTER_OK);
    if (yaml)
        err = muster_config_parse(yaml, strlen(yaml), "test.yaml", "/", &ctx->config, &error);
    else
        err = muster_config_load(NULL, &ctx->config, &error);
    if (err) {
        (void)fprintf(stderr, "fake: %s\n", error.text);
        abort();
    }
    engine = engine_memory_new();
    MUSTER_ASSERT(muster_store_on_engine(&engine, ctx->config.options->store, &ctx->store) == MUSTER_OK);
    ctx->arena = muster_arena_new();
    ctx->scratch = muster_arena_new();
    ctx->journal.arena = ctx->arena;
    ctx->envelope = nobody;
    ctx->now_ms = FAKE_START_MS;
    return ctx;
}

muster_err
fake_start(struct muster_ctx *ctx, const struct muster_actor_class *class, const char *address, const void *config)
{
    muster_err err;

    MUSTER_ASSERT(ctx->class == NULL);
    ctx->class = class;
    ctx->actor_config = config;
    ctx->address = keep(ctx, address);
    ctx->self = muster_alloc(class->size);
    muster_arena_clear(ctx->scratch);
    err = class->init(ctx->self, ctx, config);
    if (err)
        fake_stop(ctx);
    return err;
}

void
fake_stop(struct muster_ctx *ctx)
{
    size_t i;

    if (ctx->class == NULL)
        return;
    if (ctx->class->fini)
        ctx->class->fini(ctx->self);
    for (i = 0; i < ctx->fetches.count; i++)
        ctx->fetches.items[i]->view.open = false;
    free(ctx->self);
    ctx->self = NULL;
    ctx->class = NULL;
    ctx->timers.count = 0;
    ctx->subscribed = false;
}

muster_err
fake_restart(struct muster_ctx *ctx)
{
    const struct muster_actor_class *class = ctx->class;

    MUSTER_ASSERT(class != NULL);
    fake_stop(ctx);
    return fake_start(ctx, class, ctx->address, ctx->actor_config);
}

void
fake_free(struct muster_ctx **ctx_p)
{
    struct muster_ctx *ctx = *ctx_p;
    size_t i;

    if (ctx == NULL)
        return;
    fake_stop(ctx);
    for (i = 0; i < ctx->board.count; i++)
        if (ctx->board.items[i].destroy)
            ctx->board.items[i].destroy(ctx->board.items[i].object);
    for (i = 0; i < ctx->fetches.count; i++)
        free(ctx->fetches.items[i]);
    for (i = 0; i < ctx->children.count; i++) {
        muster_buf_free(&ctx->children.items[i]->input);
        free(ctx->children.items[i]);
    }
    free(ctx->timers.items);
    free(ctx->sent.items);
    free(ctx->refusals.items);
    free(ctx->board.items);
    free(ctx->events.items);
    free(ctx->fetches.items);
    free(ctx->children.items);
    free(ctx->journal.entries.items);
    muster_store_close(&ctx->store);
    muster_config_free(&ctx->config);
    muster_arena_free(&ctx->scratch);
    muster_arena_free(&ctx->arena);
    free(ctx);
    *ctx_p = NULL;
}

void *
fake_self(struct muster_ctx *ctx)
{
    return ctx->self;
}

/* ---- surroundings ---------------------------------------------------------------------------------------------------
 */

const char *
muster_ctx_address(const struct muster_ctx *ctx)
{
    return ctx->address;
}

const struct options *
muster_ctx_options(const struct muster_ctx *ctx)
{
    return ctx->config.options;
}

int64_t
muster_now_ms(struct muster_ctx *ctx)
{
    return ctx->now_ms;
}

int64_t
muster_uptime_ms(struct muster_ctx *ctx)
{
    return ctx->now_ms;
}

struct muster_store *
muster_ctx_store(struct muster_ctx *ctx)
{
    return ctx->store;
}

struct muster_journal *
muster_ctx_journal(struct muster_ctx *ctx)
{
    return &ctx->journal;
}

struct muster_arena *
muster_ctx_arena(struct muster_ctx *ctx)
{
    return ctx->scratch;
}

const struct muster_envelope *
muster_ctx_envelope(struct muster_ctx *ctx)
{
    return &ctx->envelope;
}

/* ---- timers ---------------------------------------------------------------------------------------------------------
 */

void
muster_timer_end(struct muster_ctx *ctx, uint64_t key)
{
    size_t i;

    for (i = 0; i < ctx->timers.count; i++)
        if (ctx->timers.items[i].key == key) {
            ctx->timers.items[i] = ctx->timers.items[--ctx->timers.count];
            return;
        }
}

void
muster_timer_in(struct muster_ctx *ctx, int64_t delay_ms, uint64_t key)
{
    struct timer timer = {
        .key = key, .due_ms = ctx->now_ms + (delay_ms > 0 ? delay_ms : 0), .order = ctx->timer_order++};

    MUSTER_ASSERT(ctx->class != NULL && ctx->class->timer != NULL);
    muster_timer_end(ctx, key);
    ADD(ctx->timers, timer);
}

static const struct timer *
first_timer(const struct muster_ctx *ctx)
{
    const struct timer *first = NULL, *timer;
    size_t i;

    for (i = 0; i < ctx->timers.count; i++) {
        timer = &ctx->timers.items[i];
        if (first == NULL || timer->due_ms < first->due_ms ||
            (timer->due_ms == first->due_ms && timer->order < first->order))
            first = timer;
    }
    return first;
}

/* The end of something the actor was called for. */
static void
rest(struct muster_ctx *ctx)
{
    muster_arena_clear(ctx->scratch);
    ctx->explained[0] = '\0';
    ctx->retry_after_s = 0;
    ctx->envelope = nobody;
    if (ctx->class && ctx->class->idle && !ctx->in_batch)
        ctx->class->idle(ctx->self);
}

void
fake_advance(struct muster_ctx *ctx, int64_t ms)
{
    int64_t target = ctx->now_ms + ms;
    const struct timer *timer;
    uint64_t key;
    size_t fired = 0;

    while ((timer = first_timer(ctx)) != NULL && timer->due_ms <= target) {
        MUSTER_ASSERT(++fired < MAX_FIRED);
        key = timer->key;
        if (timer->due_ms > ctx->now_ms)
            ctx->now_ms = timer->due_ms;
        muster_timer_end(ctx, key);
        ctx->class->timer(ctx->self, key);
        rest(ctx);
    }
    ctx->now_ms = target;
}

void
fake_set_clock(struct muster_ctx *ctx, int64_t now_ms)
{
    ctx->now_ms = now_ms;
}

int64_t
fake_next_timer(const struct muster_ctx *ctx)
{
    const struct timer *timer = first_timer(ctx);

    if (timer == NULL)
        return -1;
    return timer->due_ms > ctx->now_ms ? timer->due_ms - ctx->now_ms : 0;
}

int64_t
fake_timer(const struct muster_ctx *ctx, uint64_t key)
{
    size_t i;

    for (i = 0; i < ctx->timers.count; i++)
        if (ctx->timers.items[i].key == key)
            return ctx->timers.items[i].due_ms - ctx->now_ms;
    return -1;
}

/* ---- messages from the actor ----------------------------------------------------------------------------------------
 */

static void
record_frame(struct muster_ctx *ctx, const char *to, const void *data, size_t size)
{
    struct fake_sent *sent = muster_arena_alloc(ctx->arena, sizeof *sent);
    struct muster_fault fault;
    void *body;

    sent->to = keep(ctx, to);
    data = muster_arena_str(ctx->arena, data, size);
    MUSTER_ASSERT(muster_envelope_unpack(data, size, ctx->arena, &sent->envelope) == MUSTER_OK);
    sent->type = find_message(sent->envelope.type);
    body = muster_arena_alloc(ctx->arena, sent->type->size);
    if (muster_unpack(sent->type, sent->envelope.body.data, sent->envelope.body.size, ctx->arena, body, &fault)) {
        (void)fprintf(stderr, "fake: sent a bad %s: %s %s\n", sent->type->wire, fault.field, fault.message);
        abort();
    }
    sent->body = body;
    ADD(ctx->sent, sent);
}

static muster_err
refused(const struct muster_ctx *ctx, const char *to)
{
    size_t i;

    for (i = 0; i < ctx->refusals.count; i++)
        if (strcmp(ctx->refusals.items[i].to, to) == 0)
            return ctx->refusals.items[i].err;
    return MUSTER_OK;
}

static muster_err
send(struct muster_ctx *ctx, const char *to, const struct muster_envelope *envelope, const struct muster_type *type,
     const void *body)
{
    struct muster_buf frame = {0};
    muster_err err = refused(ctx, to);

    if (err)
        return err;
    if (type)
        muster_envelope_pack(envelope, type, body, &frame);
    else
        muster_envelope_wrap(envelope, &frame);
    record_frame(ctx, to, frame.data, frame.size);
    muster_buf_free(&frame);
    return MUSTER_OK;
}

muster_err
muster_tell(struct muster_ctx *ctx, const char *to, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = nobody;

    envelope.trace = ctx->envelope.trace;
    return send(ctx, to, &envelope, type, body);
}

muster_err
muster_forward(struct muster_ctx *ctx, const char *to, const struct muster_type *type, const void *body)
{
    return send(ctx, to, &ctx->envelope, type, body);
}

muster_err
muster_forward_packed(struct muster_ctx *ctx, const char *to, const char *type, struct muster_bytes body,
                      const struct muster_principal *principal)
{
    struct muster_envelope envelope = ctx->envelope;

    envelope.type = type;
    envelope.body = body;
    envelope.principal = *principal;
    return send(ctx, to, &envelope, NULL, NULL);
}

/* Answers keep the request's number, trace and principal and want no answer themselves. */
static void
answer(struct muster_ctx *ctx, const struct muster_envelope *request, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = *request;

    envelope.reply_to = "";
    envelope.deadline_ms = 0;
    if (request->reply_to && request->reply_to[0])
        (void)send(ctx, request->reply_to, &envelope, type, body);
}

void
muster_reply(struct muster_ctx *ctx, const struct muster_type *type, const void *body)
{
    answer(ctx, &ctx->envelope, type, body);
}

void
muster_reply_as(struct muster_ctx *ctx, const struct muster_type *type, const void *body,
                const struct muster_principal *principal)
{
    struct muster_envelope request = ctx->envelope;

    request.principal = *principal;
    answer(ctx, &request, type, body);
}

void
muster_explain(struct muster_ctx *ctx, int64_t retry_after_s, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(ctx->explained, sizeof ctx->explained, format, args);
    va_end(args);
    ctx->retry_after_s = retry_after_s;
}

static void
answer_failed(struct muster_ctx *ctx, const struct muster_envelope *request, muster_err err)
{
    struct failed body = {.code = muster_err_code(err),
                          .message = ctx->explained[0] ? ctx->explained : muster_err_text(err),
                          .retry_after_s = ctx->retry_after_s};

    answer(ctx, request, &failed_type, &body);
}

muster_err
muster_send_whole(struct muster_ctx *ctx, const char *to, const void *message, size_t size)
{
    muster_err err = refused(ctx, to);

    if (!err)
        record_frame(ctx, to, message, size);
    return err;
}

muster_err
muster_send_failed(struct muster_ctx *ctx, const char *to, const void *message, size_t size, muster_err err)
{
    struct failed body = {.code = muster_err_code(err),
                          .message = muster_err_text(err),
                          .retry_after_s = muster_err_http(err) >= 503 ? 5 : 0};
    struct muster_envelope envelope;

    if (muster_envelope_unpack(message, size, ctx->scratch, &envelope))
        return MUSTER_INVALID_REQUEST;
    return send(ctx, to, &envelope, &failed_type, &body);
}

size_t
fake_sent_count(const struct muster_ctx *ctx)
{
    return ctx->sent.count;
}

static const struct fake_sent *
take_at(struct muster_ctx *ctx, size_t index)
{
    const struct fake_sent *sent = ctx->sent.items[index];

    ctx->sent.count--;
    memmove(&ctx->sent.items[index], &ctx->sent.items[index + 1], (ctx->sent.count - index) * sizeof *ctx->sent.items);
    return sent;
}

const struct fake_sent *
fake_take(struct muster_ctx *ctx)
{
    return ctx->sent.count > 0 ? take_at(ctx, 0) : NULL;
}

const struct fake_sent *
fake_take_type(struct muster_ctx *ctx, const struct muster_type *type)
{
    size_t i;

    for (i = 0; i < ctx->sent.count; i++)
        if (ctx->sent.items[i]->type == type)
            return take_at(ctx, i);
    return NULL;
}

const struct fake_sent *
fake_take_to(struct muster_ctx *ctx, const char *to)
{
    size_t i;

    for (i = 0; i < ctx->sent.count; i++)
        if (strcmp(ctx->sent.items[i]->to, to) == 0)
            return take_at(ctx, i);
    return NULL;
}

void
fake_forget(struct muster_ctx *ctx)
{
    ctx->sent.count = 0;
}

void
fake_refuse(struct muster_ctx *ctx, const char *to, muster_err err)
{
    struct refusal refusal = {.to = keep(ctx, to), .err = err};
    size_t i;

    for (i = 0; i < ctx->refusals.count; i++)
        if (strcmp(ctx->refusals.items[i].to, to) == 0) {
            ctx->refusals.items[i].err = err;
            return;
        }
    ADD(ctx->refusals, refusal);
}

/* ---- callers kept ---------------------------------------------------------------------------------------------------
 */

struct muster_caller *
muster_caller_keep(struct muster_ctx *ctx)
{
    struct muster_caller *caller = muster_alloc(sizeof *caller);

    caller->envelope = ctx->envelope;
    caller->envelope.type = "";
    caller->envelope.body = (struct muster_bytes){0};
    caller->reply_to = muster_strdup(ctx->envelope.reply_to ? ctx->envelope.reply_to : "");
    caller->trace = muster_strdup(ctx->envelope.trace ? ctx->envelope.trace : "");
    caller->name = muster_strdup(ctx->envelope.principal.name ? ctx->envelope.principal.name : "");
    caller->envelope.reply_to = caller->reply_to;
    caller->envelope.trace = caller->trace;
    caller->envelope.principal.name = caller->name;
    return caller;
}

void
muster_caller_answer(struct muster_ctx *ctx, struct muster_caller **caller_p, muster_err err,
                     const struct muster_type *type, const void *body)
{
    if (err)
        answer_failed(ctx, &(*caller_p)->envelope, err);
    else
        answer(ctx, &(*caller_p)->envelope, type, body);
    muster_caller_free(caller_p);
}

void
muster_caller_free(struct muster_caller **caller_p)
{
    if (*caller_p == NULL)
        return;
    free((*caller_p)->reply_to);
    free((*caller_p)->trace);
    free((*caller_p)->name);
    free(*caller_p);
    *caller_p = NULL;
}

void
muster_caller_pack(const struct muster_caller *caller, const struct muster_type *type, const void *body,
                   struct muster_buf *out)
{
    struct muster_envelope envelope = caller->envelope;

    envelope.reply_to = "";
    envelope.deadline_ms = 0;
    muster_envelope_pack(&envelope, type, body, out);
}

const char *
muster_caller_address(const struct muster_caller *caller)
{
    return caller->reply_to;
}

const struct muster_principal *
muster_caller_principal(const struct muster_caller *caller)
{
    return &caller->envelope.principal;
}

/* ---- messages to the actor ------------------------------------------------------------------------------------------
 */

static muster_err
handle(struct muster_ctx *ctx)
{
    const struct muster_handler *row = ctx->class->handlers;
    struct muster_fault fault;
    void *in;

    while (row->type && strcmp(row->type->wire, ctx->envelope.type) != 0)
        row++;
    if (row->type == NULL)
        return MUSTER_INVALID_REQUEST;
    in = muster_arena_alloc(ctx->scratch, row->type->size);
    if (muster_unpack(row->type, ctx->envelope.body.data, ctx->envelope.body.size, ctx->scratch, in, &fault)) {
        muster_explain(ctx, 0, "%s: %s", fault.field, fault.message);
        return MUSTER_INVALID_REQUEST;
    }
    return row->handle(ctx->self, in);
}

static muster_err
deliver_frame(struct muster_ctx *ctx, const void *data, size_t size)
{
    muster_err err;

    MUSTER_ASSERT(ctx->class != NULL);
    muster_arena_clear(ctx->scratch);
    MUSTER_ASSERT(muster_envelope_unpack(data, size, ctx->scratch, &ctx->envelope) == MUSTER_OK);
    err = handle(ctx);
    if (err)
        answer_failed(ctx, &ctx->envelope, err);
    rest(ctx);
    return err;
}

muster_err
fake_deliver(struct muster_ctx *ctx, const struct muster_envelope *envelope, const struct muster_type *type,
             const void *body)
{
    struct muster_envelope full = envelope ? *envelope : nobody;
    struct muster_buf frame = {0};
    muster_err err;

    full.reply_to = full.reply_to ? full.reply_to : "";
    full.trace = full.trace ? full.trace : "";
    full.principal.name = full.principal.name ? full.principal.name : "";
    muster_envelope_pack(&full, type, body, &frame);
    err = deliver_frame(ctx, frame.data, frame.size);
    muster_buf_free(&frame);
    return err;
}

muster_err
fake_call(struct muster_ctx *ctx, const char *reply_to, int64_t id, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.id = id, .reply_to = reply_to};

    return fake_deliver(ctx, &envelope, type, body);
}

void
fake_batch_begin(struct muster_ctx *ctx)
{
    ctx->in_batch = true;
}

void
fake_batch_end(struct muster_ctx *ctx)
{
    ctx->in_batch = false;
    rest(ctx);
}

muster_err
fake_feed(struct muster_ctx *ctx, const struct muster_type *type, const char *team, const struct muster_id *job,
          const void *body)
{
    struct event event = {.seq = ++ctx->feed_seq, .at_ms = ctx->now_ms, .type = type->wire, .team = team, .attempt = 1};
    struct feed_events feed = {.events = {&event, 1}};
    struct muster_buf packed = {0};
    muster_err err;

    MUSTER_ASSERT(ctx->subscribed);
    muster_pack(type, body, &packed);
    event.body = (struct muster_bytes){(const uint8_t *)packed.data, packed.size};
    if (job)
        event.job = *job;
    err = fake_deliver(ctx, NULL, &feed_events_type, &feed);
    muster_buf_free(&packed);
    return err;
}

void
fake_feed_missed(struct muster_ctx *ctx, size_t count)
{
    ctx->missed = count;
}

bool
fake_subscribed(const struct muster_ctx *ctx)
{
    return ctx->subscribed;
}

/* ---- the store ------------------------------------------------------------------------------------------------------
 */

static const struct muster_type *
find_record(const char *wire)
{
    size_t i;

    for (i = 0; muster_records[i].type; i++)
        if (strcmp(muster_records[i].type->wire, wire) == 0)
            return muster_records[i].type;
    (void)fprintf(stderr, "fake: no such record: %s\n", wire);
    abort();
}

static void
add_put(struct muster_batch *batch, const struct store_put *put)
{
    const struct muster_type *type = find_record(put->record);
    struct muster_id id;

    if (!put->remove) {
        MUSTER_ASSERT(muster_batch_put(batch, type, put->value.data, put->value.size) == MUSTER_OK);
        return;
    }
    MUSTER_ASSERT(put->value.size == sizeof id.bytes); /* of what is removed only the id is sent */
    memcpy(id.bytes, put->value.data, sizeof id.bytes);
    MUSTER_ASSERT(muster_batch_remove(batch, type, &id) == MUSTER_OK);
}

static void
add_entry(struct muster_ctx *ctx, struct muster_batch *batch, const struct log_entry *entry)
{
    struct event event = {.seq = muster_log_number(ctx->store),
                          .at_ms = entry->at_ms,
                          .type = entry->type,
                          .team = entry->team,
                          .job = entry->job,
                          .attempt = entry->attempt,
                          .trace = entry->trace,
                          .body = entry->body};

    muster_batch_append(batch, &event);
    ADD(ctx->events, copy(ctx, &event_type, &event));
}

static void
write_commit(struct muster_ctx *ctx, const struct store_commit *commit)
{
    struct muster_batch *batch = muster_batch_new(ctx->store);
    size_t i;

    for (i = 0; i < commit->puts.count; i++)
        add_put(batch, &commit->puts.items[i]);
    for (i = 0; i < commit->entries.count; i++)
        add_entry(ctx, batch, &commit->entries.items[i]);
    for (i = 0; i < commit->events.count; i++)
        muster_batch_append(batch, &commit->events.items[i]);
    MUSTER_ASSERT(muster_batch_commit(batch) == MUSTER_OK);
    muster_batch_free(&batch);
}

static void
pass_frame(struct muster_ctx *ctx, const char *to, const void *data, size_t size)
{
    if (ctx->class && strcmp(to, ctx->address) == 0)
        (void)deliver_frame(ctx, data, size);
    else
        record_frame(ctx, to, data, size);
}

static void
tell_answer(struct muster_ctx *ctx, const struct store_answer *told, muster_err err)
{
    struct failed body = {.code = muster_err_code(err),
                          .message = muster_err_text(err),
                          .retry_after_s = muster_err_http(err) >= 503 ? 5 : 0};
    struct muster_envelope envelope;
    struct muster_buf frame = {0};

    if (err && told->no.size == 0) {
        MUSTER_ASSERT(muster_envelope_unpack(told->ok.data, told->ok.size, ctx->arena, &envelope) == MUSTER_OK);
        muster_envelope_pack(&envelope, &failed_type, &body, &frame);
    } else if (err) {
        muster_buf_add(&frame, told->no.data, told->no.size);
    } else {
        muster_buf_add(&frame, told->ok.data, told->ok.size);
    }
    pass_frame(ctx, told->to, frame.data, frame.size);
    muster_buf_free(&frame);
}

static void
tell_writer(struct muster_ctx *ctx, const struct store_commit *commit, muster_err err)
{
    struct store_about about = {.about = commit->about};
    struct store_written body = {.commits = {&about, 1}, .failed = err != MUSTER_OK};
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    struct muster_buf frame = {0};

    if (commit->writer == NULL || *commit->writer == '\0')
        return;
    muster_envelope_pack(&envelope, &store_written_type, &body, &frame);
    pass_frame(ctx, commit->writer, frame.data, frame.size);
    muster_buf_free(&frame);
}

static bool
commit_as(struct muster_ctx *ctx, muster_err err)
{
    const struct fake_sent *sent = fake_take_type(ctx, &store_commit_type);
    const struct store_commit *commit;
    size_t i;

    if (sent == NULL)
        return false;
    commit = sent->body;
    if (err == MUSTER_OK)
        write_commit(ctx, commit);
    for (i = 0; i < commit->answers.count; i++)
        if (commit->answers.items[i].ahead)
            tell_answer(ctx, &commit->answers.items[i], err);
    tell_writer(ctx, commit, err);
    for (i = 0; i < commit->answers.count; i++)
        if (!commit->answers.items[i].ahead)
            tell_answer(ctx, &commit->answers.items[i], err);
    return true;
}

bool
fake_commit(struct muster_ctx *ctx)
{
    return commit_as(ctx, MUSTER_OK);
}

bool
fake_commit_fails(struct muster_ctx *ctx, muster_err err)
{
    return commit_as(ctx, err);
}

size_t
fake_commit_all(struct muster_ctx *ctx)
{
    size_t count = 0;

    while (fake_commit(ctx))
        count++;
    return count;
}

void
fake_put(struct muster_ctx *ctx, const struct muster_type *type, const void *record)
{
    struct muster_batch *batch = muster_batch_new(ctx->store);
    struct muster_buf packed = {0};

    muster_pack(type, record, &packed);
    MUSTER_ASSERT(muster_batch_put(batch, type, packed.data, packed.size) == MUSTER_OK);
    MUSTER_ASSERT(muster_batch_commit(batch) == MUSTER_OK);
    muster_batch_free(&batch);
    muster_buf_free(&packed);
}

const void *
fake_get(struct muster_ctx *ctx, const struct muster_type *type, const struct muster_id *id)
{
    void *record = muster_arena_alloc(ctx->arena, type->size);

    return muster_store_get(ctx->store, type, id, ctx->arena, record) == MUSTER_OK ? record : NULL;
}

/* ---- board, events, journal -----------------------------------------------------------------------------------------
 */

void
muster_publish(struct muster_ctx *ctx, const char *name, void *object, void (*destroy)(void *object))
{
    struct notice notice = {.name = keep(ctx, name), .object = object, .destroy = destroy};
    size_t i;

    for (i = 0; i < ctx->board.count; i++)
        if (strcmp(ctx->board.items[i].name, name) == 0) {
            if (ctx->board.items[i].destroy)
                ctx->board.items[i].destroy(ctx->board.items[i].object);
            ctx->board.items[i] = notice;
            return;
        }
    ADD(ctx->board, notice);
}

const void *
fake_board(const struct muster_ctx *ctx, const char *name)
{
    size_t i;

    for (i = 0; i < ctx->board.count; i++)
        if (strcmp(ctx->board.items[i].name, name) == 0)
            return ctx->board.items[i].object;
    return NULL;
}

void
muster_publish_events(struct muster_ctx *ctx, unsigned kinds, const struct event *events, size_t count, int64_t settled)
{
    size_t i;

    if (kinds & MUSTER_FEED_GATHERED)
        ctx->gathered += count;
    if (kinds == MUSTER_FEED_GATHERED)
        return;
    ctx->settled = settled;
    for (i = 0; i < count; i++)
        ADD(ctx->events, copy(ctx, &event_type, &events[i]));
}

size_t
muster_events_missed(struct muster_ctx *ctx)
{
    size_t missed = ctx->missed;

    ctx->missed = 0;
    return missed;
}

void
muster_events_subscribe(struct muster_ctx *ctx, unsigned kinds)
{
    ctx->subscribed = kinds != 0;
}

size_t
fake_gathered_count(const struct muster_ctx *ctx)
{
    return ctx->gathered;
}

size_t
fake_event_count(const struct muster_ctx *ctx)
{
    return ctx->events.count;
}

int64_t
fake_settled(const struct muster_ctx *ctx)
{
    return ctx->settled;
}

const struct event *
fake_event_at(const struct muster_ctx *ctx, size_t index)
{
    MUSTER_ASSERT(index < ctx->events.count);
    return ctx->events.items[index];
}

void
muster_journal_write(struct muster_journal *journal, enum log_level level, const char *id, const char *message,
                     const struct muster_say *says, size_t count)
{
    struct muster_buf text = {0};
    struct said said;
    size_t i;

    muster_buf_printf(&text, "%s %s", muster_enum_wire(&log_level_enum, (int)level), message);
    for (i = 0; i < count; i++)
        if (says[i].text)
            muster_buf_printf(&text, " %s=%s", says[i].name, says[i].text);
        else
            muster_buf_printf(&text, " %s=%lld", says[i].name, (long long)says[i].number);
    said.id = muster_arena_str(journal->arena, id, strlen(id));
    said.text = muster_arena_str(journal->arena, text.data, text.size);
    ADD(journal->entries, said);
    muster_buf_free(&text);
}

size_t
fake_said(const struct muster_ctx *ctx, const char *id)
{
    size_t i, count = 0;

    for (i = 0; i < ctx->journal.entries.count; i++)
        count += strcmp(ctx->journal.entries.items[i].id, id) == 0;
    return count;
}

bool
fake_said_text(const struct muster_ctx *ctx, const char *text)
{
    size_t i;

    for (i = 0; i < ctx->journal.entries.count; i++)
        if (strstr(ctx->journal.entries.items[i].text, text))
            return true;
    return false;
}

/* ---- fetches --------------------------------------------------------------------------------------------------------
 */

void
muster_ctx_fetch(struct muster_ctx *ctx, const struct muster_fetch_spec *spec,
                 void (*done)(void *arg, const struct muster_fetch_result *result), void *arg)
{
    struct fetch *fetch = muster_alloc(sizeof *fetch);
    struct muster_pair *headers = muster_arena_alloc(ctx->arena, (spec->header_count + 1) * sizeof *headers);
    size_t i;

    for (i = 0; i < spec->header_count; i++)
        headers[i] = (struct muster_pair){keep(ctx, spec->headers[i].name), keep(ctx, spec->headers[i].value)};
    fetch->view.spec = *spec;
    fetch->view.spec.method = keep(ctx, spec->method);
    fetch->view.spec.url = keep(ctx, spec->url);
    fetch->view.spec.headers = headers;
    if (spec->body)
        fetch->view.spec.body = muster_arena_str(ctx->arena, spec->body, spec->body_size);
    fetch->view.open = true;
    fetch->done = done;
    fetch->arg = arg;
    ADD(ctx->fetches, fetch);
}

size_t
fake_fetch_count(const struct muster_ctx *ctx)
{
    return ctx->fetches.count;
}

size_t
fake_fetch_open(const struct muster_ctx *ctx)
{
    size_t i, count = 0;

    for (i = 0; i < ctx->fetches.count; i++)
        count += ctx->fetches.items[i]->view.open;
    return count;
}

const struct fake_fetch *
fake_fetch_at(const struct muster_ctx *ctx, size_t index)
{
    MUSTER_ASSERT(index < ctx->fetches.count);
    return &ctx->fetches.items[index]->view;
}

const char *
fake_fetch_header(const struct fake_fetch *fetch, const char *name)
{
    size_t i;

    for (i = 0; i < fetch->spec.header_count; i++)
        if (strcasecmp(fetch->spec.headers[i].name, name) == 0)
            return fetch->spec.headers[i].value;
    return NULL;
}

void
fake_fetch_answer(struct muster_ctx *ctx, size_t index, long status, int64_t retry_after_s, const char *problem)
{
    struct muster_fetch_result result = {
        .status = status, .retry_after_s = retry_after_s, .problem = problem ? problem : "", .body = ""};
    struct fetch *fetch;

    MUSTER_ASSERT(index < ctx->fetches.count && ctx->fetches.items[index]->view.open);
    fetch = ctx->fetches.items[index];
    fetch->view.open = false;
    fetch->done(fetch->arg, &result);
    rest(ctx);
}

/* ---- children -------------------------------------------------------------------------------------------------------
 */

static const char *const *
keep_list(struct muster_ctx *ctx, const char *const *list)
{
    const char **copied;
    size_t i, count = 0;

    while (list && list[count])
        count++;
    copied = muster_arena_alloc(ctx->arena, (count + 1) * sizeof *copied);
    for (i = 0; i < count; i++)
        copied[i] = keep(ctx, list[i]);
    return copied;
}

muster_err
muster_ctx_child(struct muster_ctx *ctx, const struct muster_child_spec *spec, const struct muster_child_hooks *hooks,
                 void *arg, char *problem, size_t problem_size, struct muster_child **out_child)
{
    struct muster_child *child;
    muster_err err = ctx->child_error;

    ctx->child_error = MUSTER_OK;
    if (err) {
        (void)snprintf(problem, problem_size, "%s", ctx->child_problem);
        return err;
    }
    child = muster_alloc(sizeof *child);
    child->ctx = ctx;
    child->spec = *spec;
    child->spec.argv = keep_list(ctx, spec->argv);
    child->spec.env = keep_list(ctx, spec->env);
    child->spec.directory = keep(ctx, spec->directory);
    child->spec.mark = keep(ctx, spec->mark);
    child->hooks = *hooks;
    child->arg = arg;
    child->pid = (pid_t)(FIRST_PID + ctx->children.count);
    child->words = "";
    ADD(ctx->children, child);
    *out_child = child;
    return MUSTER_OK;
}

muster_err
muster_child_write(struct muster_child *child, const void *data, size_t size)
{
    MUSTER_ASSERT(!child->freed);
    if (child->write_error)
        return child->write_error;
    if (child->exited || child->input_closed)
        return MUSTER_GONE;
    muster_buf_add(&child->input, data, size);
    return MUSTER_OK;
}

void
muster_child_close_input(struct muster_child *child)
{
    MUSTER_ASSERT(!child->freed);
    child->input_closed = true;
}

void
muster_child_signal(struct muster_child *child, int signal)
{
    MUSTER_ASSERT(!child->freed);
    child->signals++;
    child->last_signal = signal;
}

pid_t
muster_child_pid(const struct muster_child *child)
{
    MUSTER_ASSERT(!child->freed);
    return child->pid;
}

const char *
muster_child_last_words(struct muster_child *child)
{
    MUSTER_ASSERT(!child->freed);
    return child->words;
}

void
muster_child_free(struct muster_child **child_p)
{
    if (*child_p == NULL)
        return;
    MUSTER_ASSERT(!(*child_p)->freed);
    (*child_p)->freed = true;
    *child_p = NULL;
}

size_t
muster_children_end(const char *mark, int64_t limit_ms)
{
    (void)mark;
    (void)limit_ms;
    return 0;
}

void
muster_children_adopt(void)
{
}

void
muster_children_reap(void)
{
}

size_t
fake_child_count(const struct muster_ctx *ctx)
{
    return ctx->children.count;
}

struct muster_child *
fake_child_at(const struct muster_ctx *ctx, size_t index)
{
    MUSTER_ASSERT(index < ctx->children.count);
    return ctx->children.items[index];
}

const struct muster_child_spec *
fake_child_spec(const struct muster_child *child)
{
    return &child->spec;
}

const char *
fake_child_input(const struct muster_child *child)
{
    return child->input.data ? child->input.data : "";
}

void
fake_child_input_clear(struct muster_child *child)
{
    muster_buf_clear(&child->input);
}

bool
fake_child_input_closed(const struct muster_child *child)
{
    return child->input_closed;
}

bool
fake_child_freed(const struct muster_child *child)
{
    return child->freed;
}

size_t
fake_child_signals(const struct muster_child *child)
{
    return child->signals;
}

int
fake_child_last_signal(const struct muster_child *child)
{
    return child->last_signal;
}

void
fake_child_line(struct muster_child *child, const char *line)
{
    char *copied = muster_strdup(line); /* so that a reader past its end is found */

    MUSTER_ASSERT(!child->freed && !child->exited);
    child->hooks.line(child->arg, copied, strlen(copied));
    free(copied);
    rest(child->ctx);
}

void
fake_child_overlong(struct muster_child *child)
{
    MUSTER_ASSERT(!child->freed && !child->exited);
    if (child->hooks.overlong)
        child->hooks.overlong(child->arg);
    rest(child->ctx);
}

void
fake_child_exit(struct muster_child *child, int status)
{
    MUSTER_ASSERT(!child->freed && !child->exited);
    child->exited = true;
    child->hooks.exited(child->arg, status);
    rest(child->ctx);
}

void
fake_child_words(struct muster_child *child, const char *text)
{
    child->words = keep(child->ctx, text);
}

void
fake_child_write_error(struct muster_child *child, muster_err err)
{
    child->write_error = err;
}

void
fake_child_refuse(struct muster_ctx *ctx, muster_err err, const char *problem)
{
    ctx->child_error = err;
    ctx->child_problem = keep(ctx, problem);
}
