/* SPDX-License-Identifier: MPL-2.0 */
/* runtime: gives an actor its thread, its mailbox and its surroundings.
 *
 * A message goes: frame -> envelope -> decoded struct -> handler -> answer.  A handler's error is answered as `failed`;
 * MUSTER_INTERNAL_ERROR means that the actor itself has failed: it is ended, and begun anew after a pause, while its
 * mailbox stays and callers are told to come back.  Everything here runs on the actor's thread except start and stop.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"

#define FIRST_PAUSE_MS 100
#define LAST_PAUSE_MS 60000
#define EXPLAIN_MAX 1024

/* One timer of an actor. */
struct ctx_timer {
    struct muster_ctx *ctx;
    uint64_t key;
    int loop_timer;
};

struct muster_ctx {
    const struct muster_house *house;       /* shared by all actors; outlives us */
    const struct muster_actor_class *class; /* what it is */
    const void *config;                     /* given to init */
    const char *address;                    /* its mailbox */
    void *self;                             /* its struct; NULL while it is down */
    struct muster_loop *loop;               /* its thread's */
    struct muster_arena *arena;             /* memory of one handler */
    struct muster_envelope envelope;        /* of the message being handled */
    struct muster_fetcher *fetcher;         /* made at first use */
    struct ctx_timer **timers;              /* those not fired */
    size_t timer_count, timer_capacity;
    bool broken;                 /* to be begun anew in `idle` */
    int64_t pause_ms;            /* before the next beginning */
    int64_t begun_ms;            /* when it last began */
    int64_t retry_after_s;       /* of muster_explain; -1 none */
    char explained[EXPLAIN_MAX]; /* of muster_explain */
};

struct muster_actor {
    struct muster_ctx ctx;
    struct muster_runner_hooks hooks;
    struct muster_runner *runner;
    char *address;
};

struct muster_caller {
    char *reply_to;
    char *trace;
    char *name;
    int64_t id;
    struct muster_principal principal;
};

/* ---- surroundings ---- */

const char *
muster_ctx_address(const struct muster_ctx *ctx)
{
    return ctx->address;
}

const struct options *
muster_ctx_options(const struct muster_ctx *ctx)
{
    return ctx->house->options;
}

int64_t
muster_now_ms(struct muster_ctx *ctx)
{
    (void)ctx;
    return muster_clock_ms();
}

int64_t
muster_uptime_ms(struct muster_ctx *ctx)
{
    (void)ctx;
    return muster_uptime_ns() / 1000000;
}

struct muster_store *
muster_ctx_store(struct muster_ctx *ctx)
{
    return ctx->house->store;
}

struct muster_journal *
muster_ctx_journal(struct muster_ctx *ctx)
{
    return ctx->house->journal;
}

struct muster_arena *
muster_ctx_arena(struct muster_ctx *ctx)
{
    return ctx->arena;
}

const struct muster_envelope *
muster_ctx_envelope(struct muster_ctx *ctx)
{
    return &ctx->envelope;
}

/* ---- timers ---- */

/* Between two messages there is no current request: nothing may be answered to an old one. */
static void
forget_message(struct muster_ctx *ctx)
{
    muster_arena_clear(ctx->arena);
    ctx->envelope = (struct muster_envelope){.type = "", .reply_to = "", .trace = "", .principal.name = ""};
    ctx->retry_after_s = -1;
    ctx->explained[0] = '\0';
}

static void
drop_timer(struct muster_ctx *ctx, size_t at)
{
    free(ctx->timers[at]);
    ctx->timers[at] = ctx->timers[--ctx->timer_count];
}

static void
fire(void *arg)
{
    struct ctx_timer *timer = arg;
    struct muster_ctx *ctx = timer->ctx;
    uint64_t key = timer->key;
    size_t i;

    for (i = 0; ctx->timers[i] != timer; i++)
        ;
    drop_timer(ctx, i);
    forget_message(ctx);
    if (ctx->self && ctx->class->timer)
        ctx->class->timer(ctx->self, key);
}

void
muster_timer_end(struct muster_ctx *ctx, uint64_t key)
{
    size_t i;

    for (i = 0; i < ctx->timer_count; i++) {
        if (ctx->timers[i]->key == key) {
            muster_loop_timer_end(ctx->loop, ctx->timers[i]->loop_timer);
            drop_timer(ctx, i);
            return;
        }
    }
}

void
muster_timer_in(struct muster_ctx *ctx, int64_t delay_ms, uint64_t key)
{
    struct ctx_timer *timer = muster_alloc(sizeof *timer);

    muster_timer_end(ctx, key);
    if (ctx->timer_count == ctx->timer_capacity) {
        ctx->timer_capacity = ctx->timer_capacity ? 2 * ctx->timer_capacity : 16;
        ctx->timers = muster_realloc(ctx->timers, ctx->timer_capacity * sizeof *ctx->timers);
    }
    timer->ctx = ctx;
    timer->key = key;
    timer->loop_timer = muster_loop_timer(ctx->loop, delay_ms > 0 ? delay_ms : 0, fire, timer);
    ctx->timers[ctx->timer_count++] = timer;
}

/* ---- messages ---- */

static muster_err
send_packed(struct muster_ctx *ctx, const char *to, const struct muster_envelope *envelope,
            const struct muster_type *type, const void *body)
{
    struct muster_buf frame = {0};

    if (type)
        muster_envelope_pack(envelope, type, body, &frame);
    else
        muster_envelope_wrap(envelope, &frame);
    return muster_post_send(muster_loop_post(ctx->loop), to, &frame);
}

muster_err
muster_tell(struct muster_ctx *ctx, const char *to, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {
        .type = type->wire,
        .reply_to = "",
        .trace = ctx->envelope.trace,
        .principal.name = "",
    };

    return send_packed(ctx, to, &envelope, type, body);
}

muster_err
muster_forward(struct muster_ctx *ctx, const char *to, const struct muster_type *type, const void *body)
{
    return send_packed(ctx, to, &ctx->envelope, type, body);
}

muster_err
muster_forward_packed(struct muster_ctx *ctx, const char *to, const char *type, struct muster_bytes body,
                      const struct muster_principal *principal)
{
    struct muster_envelope envelope = ctx->envelope;

    envelope.type = type;
    envelope.body = body;
    envelope.principal = *principal;
    return send_packed(ctx, to, &envelope, NULL, NULL);
}

void
muster_reply_as(struct muster_ctx *ctx, const struct muster_type *type, const void *body,
                const struct muster_principal *principal)
{
    struct muster_envelope envelope = ctx->envelope;

    if (envelope.reply_to[0] == '\0')
        return;
    envelope.reply_to = "";
    envelope.deadline_ms = 0;
    envelope.principal = *principal;
    (void)send_packed(ctx, ctx->envelope.reply_to, &envelope, type, body); /* the caller may be gone */
}

void
muster_reply(struct muster_ctx *ctx, const struct muster_type *type, const void *body)
{
    muster_reply_as(ctx, type, body, &ctx->envelope.principal);
}

void
muster_explain(struct muster_ctx *ctx, int64_t retry_after_s, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(ctx->explained, sizeof ctx->explained, format, args);
    va_end(args);
    ctx->retry_after_s = retry_after_s;
}

static struct failed
failed_body(const struct muster_ctx *ctx, muster_err err)
{
    return (struct failed){
        .code = muster_err_code(err),
        .message = ctx->explained[0] ? ctx->explained : muster_err_text(err),
        .retry_after_s = ctx->retry_after_s > 0 ? ctx->retry_after_s : 0,
    };
}

struct muster_caller *
muster_caller_keep(struct muster_ctx *ctx)
{
    struct muster_caller *caller = muster_alloc(sizeof *caller);

    caller->reply_to = muster_strdup(ctx->envelope.reply_to);
    caller->trace = muster_strdup(ctx->envelope.trace);
    caller->name = muster_strdup(ctx->envelope.principal.name);
    caller->id = ctx->envelope.id;
    caller->principal = ctx->envelope.principal;
    caller->principal.name = caller->name;
    return caller;
}

void
muster_caller_free(struct muster_caller **caller_p)
{
    struct muster_caller *caller = *caller_p;

    if (caller == NULL)
        return;
    free(caller->reply_to);
    free(caller->trace);
    free(caller->name);
    free(caller);
    *caller_p = NULL;
}

void
muster_caller_pack(const struct muster_caller *caller, const struct muster_type *type, const void *body,
                   struct muster_buf *out)
{
    struct muster_envelope envelope = {
        .type = type->wire,
        .id = caller->id,
        .reply_to = "",
        .trace = caller->trace,
        .principal = caller->principal,
    };

    muster_envelope_pack(&envelope, type, body, out);
}

void
muster_caller_answer(struct muster_ctx *ctx, struct muster_caller **caller_p, muster_err err,
                     const struct muster_type *type, const void *body)
{
    struct failed failed = failed_body(ctx, err);
    struct muster_buf frame = {0};

    if ((*caller_p)->reply_to[0] != '\0') {
        muster_caller_pack(*caller_p, err ? &failed_type : type, err ? &failed : body, &frame);
        (void)muster_post_send(muster_loop_post(ctx->loop), (*caller_p)->reply_to, &frame); /* may be gone */
    }
    muster_caller_free(caller_p);
}

muster_err
muster_send_whole(struct muster_ctx *ctx, const char *to, const void *message, size_t size)
{
    struct muster_buf frame = {0};

    muster_buf_add(&frame, message, size);
    return muster_post_send(muster_loop_post(ctx->loop), to, &frame);
}

muster_err
muster_send_failed(struct muster_ctx *ctx, const char *to, const void *message, size_t size, muster_err err)
{
    struct failed failed = {
        .code = muster_err_code(err),
        .message = muster_err_text(err),
        .retry_after_s = muster_err_http(err) >= 503 ? 5 : 0,
    };
    struct muster_envelope envelope;

    if (muster_envelope_unpack(message, size, ctx->arena, &envelope))
        return MUSTER_INVALID_REQUEST;
    return send_packed(ctx, to, &envelope, &failed_type, &failed);
}

const char *
muster_caller_address(const struct muster_caller *caller)
{
    return caller->reply_to;
}

const struct muster_principal *
muster_caller_principal(const struct muster_caller *caller)
{
    return &caller->principal;
}

/* ---- board, feed, outside world ---- */

void
muster_publish(struct muster_ctx *ctx, const char *name, void *object, void (*destroy)(void *object))
{
    muster_board_publish(ctx->house->bus, name, object, destroy);
}

void
muster_publish_events(struct muster_ctx *ctx, unsigned kinds, const struct event *events, size_t count, int64_t settled)
{
    struct muster_envelope envelope = {
        .type = feed_events_type.wire, .reply_to = "", .trace = "", .principal.name = ""};
    struct feed_events body = {.events = {events, count}, .settled = settled};
    struct muster_post *post = muster_loop_post(ctx->loop);
    struct muster_buf frame = {0};

    if (!muster_feed_is_wanted(post, kinds))
        return;
    muster_envelope_pack(&envelope, &feed_events_type, &body, &frame);
    muster_feed_publish(post, kinds, &frame);
}

size_t
muster_events_missed(struct muster_ctx *ctx)
{
    return muster_feed_missed(ctx->house->bus, ctx->address);
}

void
muster_events_subscribe(struct muster_ctx *ctx, unsigned kinds)
{
    muster_err err = muster_feed_subscribe(ctx->house->bus, ctx->address, kinds);

    MUSTER_ASSERT(err == MUSTER_OK); /* our own mailbox is there */
}

muster_err
muster_ctx_child(struct muster_ctx *ctx, const struct muster_child_spec *spec, const struct muster_child_hooks *hooks,
                 void *arg, char *problem, size_t problem_size, struct muster_child **out_child)
{
    return muster_child_start(ctx->loop, spec, hooks, arg, problem, problem_size, out_child);
}

void
muster_ctx_fetch(struct muster_ctx *ctx, const struct muster_fetch_spec *spec,
                 void (*done)(void *arg, const struct muster_fetch_result *result), void *arg)
{
    if (ctx->fetcher == NULL)
        ctx->fetcher = muster_fetcher_new(ctx->loop);
    muster_fetch(ctx->fetcher, spec, done, arg);
}

/* ---- life ---- */

static muster_err
begin_actor(struct muster_ctx *ctx)
{
    muster_err err;

    forget_message(ctx);
    ctx->begun_ms = muster_clock_ms();
    ctx->self = muster_alloc(ctx->class->size);
    err = ctx->class->init(ctx->self, ctx, ctx->config);
    if (err) {
        ctx->class->fini(ctx->self);
        free(ctx->self);
        ctx->self = NULL;
    }
    return err;
}

static void
end_actor(struct muster_ctx *ctx)
{
    if (ctx->self) {
        forget_message(ctx);
        ctx->class->fini(ctx->self);
        free(ctx->self);
        ctx->self = NULL;
    }
    muster_fetcher_free(&ctx->fetcher);
    while (ctx->timer_count > 0)
        muster_timer_end(ctx, ctx->timers[0]->key);
}

static void begin_again(void *arg);

static void
begin_later(struct muster_ctx *ctx)
{
    if (muster_clock_ms() - ctx->begun_ms > LAST_PAUSE_MS)
        ctx->pause_ms = FIRST_PAUSE_MS;
    muster_loop_timer(ctx->loop, ctx->pause_ms, begin_again, ctx);
    ctx->pause_ms = ctx->pause_ms * 2 > LAST_PAUSE_MS ? LAST_PAUSE_MS : ctx->pause_ms * 2;
}

static void
begin_again(void *arg)
{
    struct muster_ctx *ctx = arg;
    muster_err err = begin_actor(ctx);

    muster_journal_say(ctx->house->journal, WARNING, "actor-restarted", "An actor that failed was begun anew.",
                       MUSTER_SAY_TEXT("actor", ctx->address), MUSTER_SAY_TEXT("result", muster_err_code(err)));
    if (err)
        begin_later(ctx);
}

static void
on_idle(void *arg)
{
    struct muster_ctx *ctx = arg;

    forget_message(ctx);
    if (ctx->self && ctx->class->idle && !ctx->broken)
        ctx->class->idle(ctx->self);
    if (!ctx->broken)
        return;
    ctx->broken = false;
    muster_journal_say(ctx->house->journal, ERROR, "actor-failed", "An actor failed and will be begun anew.",
                       MUSTER_SAY_TEXT("actor", ctx->address), MUSTER_SAY_NUMBER("pause_ms", ctx->pause_ms));
    end_actor(ctx);
    begin_later(ctx);
}

static const struct muster_handler *
find_handler(const struct muster_actor_class *class, const char *wire)
{
    const struct muster_handler *row;

    for (row = class->handlers; row->type; row++)
        if (strcmp(row->type->wire, wire) == 0)
            return row;
    return NULL;
}

static muster_err
handle(struct muster_ctx *ctx)
{
    const struct muster_handler *row = find_handler(ctx->class, ctx->envelope.type);
    struct muster_fault fault = {0};
    muster_err err;
    void *in;

    if (ctx->self == NULL || ctx->broken) {
        muster_explain(ctx, 1, "%s is being restarted; try again", ctx->address);
        return MUSTER_OVERLOADED;
    }
    if (row == NULL) {
        muster_explain(ctx, 0, "%s does not know messages of type %.64s", ctx->address, ctx->envelope.type);
        return MUSTER_INVALID_REQUEST;
    }
    if (ctx->envelope.deadline_ms > 0 && ctx->envelope.deadline_ms < muster_clock_ms()) {
        muster_explain(ctx, 1, "%s got the request too late: nobody waits for it any more", ctx->address);
        return MUSTER_TIMEOUT;
    }
    in = muster_arena_alloc(ctx->arena, row->type->size);
    err = muster_unpack(row->type, ctx->envelope.body.data, ctx->envelope.body.size, ctx->arena, in, &fault);
    if (err) {
        muster_explain(ctx, 0, "%s: %s", fault.field, fault.message);
        return err;
    }
    err = row->handle(ctx->self, in);
    if (err == MUSTER_INTERNAL_ERROR)
        ctx->broken = true;
    return err;
}

static void
on_frame(void *arg, const void *data, size_t size)
{
    struct muster_ctx *ctx = arg;
    struct failed failed;
    muster_err err;

    forget_message(ctx);
    err = muster_envelope_open(data, size, ctx->arena, &ctx->envelope);
    if (err) {
        forget_message(ctx);
        muster_journal_say(ctx->house->journal, WARNING, "message-malformed", "A message was not an envelope.",
                           MUSTER_SAY_TEXT("actor", ctx->address), MUSTER_SAY_NUMBER("bytes", (int64_t)size));
        return;
    }
    err = handle(ctx);
    if (err == MUSTER_OK)
        return;
    failed = failed_body(ctx, err);
    muster_reply(ctx, &failed_type, &failed);
    if (ctx->envelope.reply_to[0] == '\0')
        muster_journal_say(ctx->house->journal, WARNING, "message-failed", "A message nobody waits for failed.",
                           MUSTER_SAY_TEXT("actor", ctx->address), MUSTER_SAY_TEXT("type", ctx->envelope.type),
                           MUSTER_SAY_TEXT("code", failed.code), MUSTER_SAY_TEXT("reason", failed.message));
}

static void
on_end(void *arg)
{
    struct muster_ctx *ctx = arg;

    end_actor(ctx);
    free(ctx->timers);
    muster_arena_free(&ctx->arena);
}

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct muster_ctx *ctx = arg;
    muster_err err;

    ctx->loop = loop;
    ctx->arena = muster_arena_new();
    ctx->pause_ms = FIRST_PAUSE_MS;
    err = begin_actor(ctx);
    if (err)
        on_end(ctx); /* a runner that did not begin does not end */
    return err;
}

muster_err
muster_actor_start(const struct muster_house *house, const char *address, const struct muster_actor_class *class,
                   const void *config, struct muster_actor **out_actor)
{
    struct muster_actor *actor = muster_alloc(sizeof *actor);
    muster_err err;

    actor->address = muster_strdup(address);
    actor->ctx.house = house;
    actor->ctx.class = class;
    actor->ctx.config = config;
    actor->ctx.address = actor->address;
    actor->hooks = (struct muster_runner_hooks){on_begin, on_frame, on_idle, on_end, class->batch};
    err = muster_runner_start(house->bus, address, class->mailbox, &actor->hooks, &actor->ctx, &actor->runner);
    if (err) {
        free(actor->address);
        free(actor);
        return err;
    }
    *out_actor = actor;
    return MUSTER_OK;
}

void
muster_actor_stop(struct muster_actor **actor_p)
{
    struct muster_actor *actor = *actor_p;

    if (actor == NULL)
        return;
    muster_runner_stop(&actor->runner);
    free(actor->address);
    free(actor);
    *actor_p = NULL;
}
