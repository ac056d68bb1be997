/* SPDX-License-Identifier: MPL-2.0 */
/* ratelimit: counts the requests of each key and hands on those within its rate.
 *
 * Keeps nothing on disk: after a restart every key begins with its full rate.  A key that was silent for its window is
 * forgotten, which changes nothing.  Mailbox full: the sender answers 503.  Limits above LOG_LIMIT requests a window
 * are counted by a token bucket whatever was asked for, because the exact log keeps eight bytes a request. */
#include <stdlib.h>
#include <string.h>

#include "actors/limit_window.h"
#include "actors/muster_actor.h"

#define LOG_LIMIT 100000
#define MAX_KEYS 65536 /* counted at a time; a further one is refused until others were silent for their window */
#define FIRST_SLOTS 64
#define SWEEP_MS 60000
#define SWEEP_TIMER 1
#define DAY_MS INT64_C(86400000)

/* What is known of one key. */
struct slot {
    bool used;
    bool bucket; /* which of the two below counts */
    struct muster_id key;
    int64_t idle_ms; /* from then on it may be forgotten */
    struct limit_log log;
    struct limit_bucket tokens;
};

struct limit_actor {
    struct muster_ctx *ctx; /* borrowed; outlives us */
    struct slot *slots;     /* open addressing, a power of two, at most half used */
    size_t capacity;
    size_t count;
    int64_t swept_ms; /* last time that no room for a key made us sweep */
};

/* ---- keys -----------------------------------------------------------------------------------------------------------
 */

/* Ids end in random bits, so that they are their own hash. */
static struct slot *
find(const struct limit_actor *self, const struct muster_id *key)
{
    uint64_t hash;
    size_t at;

    memcpy(&hash, key->bytes + 8, sizeof hash);
    hash *= UINT64_C(0x9e3779b97f4a7c15);
    at = (size_t)(hash >> 32) & (self->capacity - 1);
    while (self->slots[at].used && !muster_id_equal(&self->slots[at].key, key))
        at = (at + 1) & (self->capacity - 1);
    return &self->slots[at];
}

/* Move all keys that are not idle at `now_ms` to a table of that size. */
static void
rebuild(struct limit_actor *self, size_t capacity, int64_t now_ms)
{
    struct slot *old = self->slots;
    size_t i, old_capacity = self->capacity;

    self->slots = muster_alloc(capacity * sizeof *self->slots);
    self->capacity = capacity;
    self->count = 0;
    for (i = 0; i < old_capacity; i++) {
        if (!old[i].used)
            continue;
        if (old[i].idle_ms <= now_ms) {
            limit_log_free(&old[i].log);
        } else {
            *find(self, &old[i].key) = old[i];
            self->count++;
        }
    }
    free(old);
}

/* The key's slot, a new one if it has none.  NULL: there is no room. */
static struct slot *
slot_of(struct limit_actor *self, const struct muster_id *key, int64_t now_ms)
{
    struct slot *slot = find(self, key);

    if (slot->used)
        return slot;
    if (self->count >= MAX_KEYS) {
        if (now_ms - self->swept_ms < 1000 && now_ms >= self->swept_ms)
            return NULL;
        self->swept_ms = now_ms;
        rebuild(self, self->capacity, now_ms);
        if (self->count >= MAX_KEYS)
            return NULL;
    }
    if (2 * (self->count + 1) > self->capacity)
        rebuild(self, 2 * self->capacity, now_ms);
    if (self->count == 0)
        muster_timer_in(self->ctx, SWEEP_MS, SWEEP_TIMER);
    slot = find(self, key);
    *slot = (struct slot){.used = true, .key = *key};
    self->count++;
    return slot;
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static muster_err
init(void *arg, struct muster_ctx *ctx, const void *config)
{
    struct limit_actor *self = arg;

    (void)config;
    self->ctx = ctx;
    self->capacity = FIRST_SLOTS;
    self->slots = muster_alloc(self->capacity * sizeof *self->slots);
    return MUSTER_OK;
}

static void
fini(void *arg)
{
    struct limit_actor *self = arg;
    size_t i;

    for (i = 0; i < self->capacity; i++)
        limit_log_free(&self->slots[i].log);
    free(self->slots);
}

static void
on_timer(void *arg, uint64_t key)
{
    struct limit_actor *self = arg;
    size_t capacity = self->capacity;

    (void)key;
    if (capacity > FIRST_SLOTS && 8 * self->count < capacity)
        capacity /= 2;
    rebuild(self, capacity, muster_now_ms(self->ctx));
    if (self->count > 0)
        muster_timer_in(self->ctx, SWEEP_MS, SWEEP_TIMER);
}

/* ---- limit.take -----------------------------------------------------------------------------------------------------
 */

/* Tell the caller no, with what is left of the rate. */
static muster_err
refuse(struct limit_actor *self, muster_err err, const char *message, int64_t retry_after_s,
       const struct muster_principal *principal)
{
    struct failed body = {.code = muster_err_code(err), .message = message, .retry_after_s = retry_after_s};

    muster_reply_as(self->ctx, &failed_type, &body, principal);
    return MUSTER_OK;
}

static muster_err
pass(struct limit_actor *self, const struct limit_take *in, const struct muster_principal *principal)
{
    struct limit_taken taken = {.unlimited = in->requests == 0};
    muster_err err;

    if (in->next == NULL || in->next[0] == '\0') {
        muster_reply_as(self->ctx, &limit_taken_type, &taken, principal);
        return MUSTER_OK;
    }
    err = muster_forward_packed(self->ctx, in->next, in->type ? in->type : "", in->body, principal);
    if (err == MUSTER_OVERLOADED)
        return refuse(self, err, muster_err_text(err), 1, principal);
    if (err)
        return refuse(self, err, muster_err_text(err), 0, principal);
    return MUSTER_OK;
}

static void
count(struct slot *slot, const struct limit_take *in, int64_t now_ms, struct limit_verdict *out_verdict)
{
    struct limit_rate rate = {.requests = in->requests, .window_ms = in->window};
    int64_t cost = in->cost > 0 ? in->cost : 1;
    bool bucket = in->algorithm == limit_algorithm_TOKEN_BUCKET || in->requests > LOG_LIMIT;

    if (bucket != slot->bucket) { /* the key has another algorithm now: count afresh */
        limit_log_free(&slot->log);
        slot->tokens = (struct limit_bucket){0};
        slot->bucket = bucket;
    }
    if (bucket)
        limit_bucket_take(&slot->tokens, &rate, cost, now_ms, out_verdict);
    else
        limit_log_take(&slot->log, &rate, cost, now_ms, out_verdict);
    slot->idle_ms = now_ms + in->window;
}

/* Whole seconds from milliseconds, upwards. */
static int64_t
seconds(int64_t ms)
{
    return (ms + 999) / 1000;
}

MUSTER_ON(limit_actor, limit_take);

static muster_err
on_limit_take(struct limit_actor *self, const struct limit_take *in)
{
    struct muster_principal principal = muster_ctx_envelope(self->ctx)->principal;
    int64_t now_ms = muster_now_ms(self->ctx);
    struct limit_verdict verdict;
    struct slot *slot;

    if (in->requests == 0)
        return pass(self, in, &principal);
    if (in->window < 1) {
        muster_explain(self->ctx, 0, "window: must be from 1 to %lld ms", (long long)DAY_MS);
        return MUSTER_INVALID_REQUEST;
    }
    slot = slot_of(self, &principal.key, now_ms);
    if (slot == NULL)
        return refuse(self, MUSTER_OVERLOADED, "Too many keys are in use at a time", 1, &principal);
    count(slot, in, now_ms, &verdict);
    principal.rate_limit = in->requests;
    principal.rate_left = verdict.left;
    principal.rate_reset_s = seconds(verdict.reset_ms);
    principal.rate_window_s = seconds(in->window);
    if (!verdict.allowed)
        return refuse(self, MUSTER_RATE_LIMITED, muster_err_text(MUSTER_RATE_LIMITED), seconds(verdict.retry_ms),
                      &principal);
    return pass(self, in, &principal);
}

static const struct muster_handler handlers[] = {MUSTER_ROW(limit_take), {NULL, NULL}};

const struct muster_actor_class muster_limit_class = {
    .name = "ratelimit",
    .size = sizeof(struct limit_actor),
    .mailbox = 10000,
    .init = init,
    .fini = fini,
    .handlers = handlers,
    .timer = on_timer,
};
