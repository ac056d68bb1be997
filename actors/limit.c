/* SPDX-License-Identifier: MPL-2.0 */
/* ratelimit: counts the requests of each key and hands on those within its rate.
 *
 * What was counted is on disk a moment later: every WRITE_PAUSE_MS all keys that were counted since, in one commit; a
 * key that is refused, at once; and the rest at the end.  A restart reads it back, and time passes for it meanwhile, so
 * it gives nothing away; after a crash what was counted in the last moment may be missing, of keys that still had room.
 * Nobody waits for these writes, and one that fails is made up for by the key's next one.  A key that was silent for
 * its window is forgotten, and so is its record, here or at the next start; which changes nothing.  Mailbox full: the
 * sender answers 503.  Limits above LOG_LIMIT requests a window are counted by a token bucket whatever was asked for,
 * because the exact log keeps eight bytes a request. */
#include <stdlib.h>
#include <string.h>

#include "actors/limit_keep.h"
#include "actors/muster_actor.h"

#define LOG_LIMIT 100000
#define MAX_KEYS 65536 /* counted at a time; a further one is refused until others were silent for their window */
#define FIRST_SLOTS 64
#define SWEEP_MS 60000
#define WRITE_PAUSE_MS 200
#define WRITE_KEYS 1000       /* records in one commit */
#define WRITE_BYTES (1 << 20) /* no further record is added to a commit of that size */
#define DAY_MS INT64_C(86400000)

enum { TIMER_SWEEP = 1, TIMER_WRITE };

/* What is known of one key. */
struct slot {
    bool used;
    bool changed; /* since it was written; then it stands in `changed` of the actor */
    bool written; /* there is a record */
    struct muster_id key;
    int64_t idle_ms;    /* from then on it may be forgotten */
    int64_t refused_ms; /* when it was last written because it was refused */
    struct limit_count count;
};

/* A queue of keys. */
struct keys {
    struct muster_id *items;
    size_t first, end, capacity;
};

struct limit_actor {
    struct muster_ctx *ctx; /* borrowed; outlives us */
    struct slot *slots;     /* open addressing, a power of two, at most half used */
    size_t capacity;
    size_t count;
    int64_t swept_ms;           /* last time that no room for a key made us sweep */
    struct keys changed;        /* to be written; a key may stand here twice, or be forgotten meanwhile */
    struct keys refused;        /* to be written at once; they stand in `changed` too */
    struct keys gone;           /* whose records are to be removed */
    bool write_awaited;         /* the timer is set */
    struct muster_arena *arena; /* of the commit being put together */
};

/* ---- queues of keys -------------------------------------------------------------------------------------------------
 */

static void
keys_add(struct keys *keys, const struct muster_id *key)
{
    if (keys->end == keys->capacity) {
        keys->capacity = keys->capacity ? 2 * keys->capacity : 64;
        keys->items = muster_realloc(keys->items, keys->capacity * sizeof *keys->items);
    }
    keys->items[keys->end++] = *key;
}

static void
keys_drop(struct keys *keys, size_t count)
{
    keys->first += count;
    if (2 * keys->first < keys->end)
        return;
    keys->end -= keys->first;
    if (keys->end > 0)
        memmove(keys->items, keys->items + keys->first, keys->end * sizeof *keys->items);
    keys->first = 0;
}

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

static void
await_write(struct limit_actor *self)
{
    if (!self->write_awaited)
        muster_timer_in(self->ctx, WRITE_PAUSE_MS, TIMER_WRITE);
    self->write_awaited = true;
}

static void
forget(struct limit_actor *self, struct slot *slot)
{
    limit_count_fini(&slot->count);
    if (!slot->written)
        return;
    keys_add(&self->gone, &slot->key);
    await_write(self);
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
            forget(self, &old[i]);
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
        muster_timer_in(self->ctx, SWEEP_MS, TIMER_SWEEP);
    slot = find(self, key);
    *slot = (struct slot){.used = true, .key = *key};
    self->count++;
    return slot;
}

/* ---- records --------------------------------------------------------------------------------------------------------
 */

struct batch {
    struct store_put *puts;
    size_t count;
    size_t bytes;
};

static void
put_record(struct limit_actor *self, struct batch *batch, const struct slot *slot)
{
    struct muster_buf packed = {0};
    struct rate rate;

    limit_keep_record(&slot->count, &slot->key, muster_now_ms(self->ctx), self->arena, &rate);
    muster_pack(&rate_type, &rate, &packed);
    batch->puts[batch->count++] = (struct store_put){
        .record = rate_type.wire,
        .value = muster_bytes_copy(self->arena, packed.data, packed.size),
    };
    batch->bytes += packed.size;
    muster_buf_free(&packed);
}

static void
put_removal(struct limit_actor *self, struct batch *batch, const struct muster_id *key)
{
    const char *id = muster_arena_str(self->arena, (const char *)key->bytes, sizeof key->bytes);

    batch->puts[batch->count++] =
        (struct store_put){.record = rate_type.wire, .value = {(const uint8_t *)id, sizeof key->bytes}, .remove = true};
}

static muster_err
commit(struct limit_actor *self, const struct batch *batch)
{
    struct store_commit commit = {.puts = {batch->puts, batch->count}};

    return batch->count > 0 ? muster_tell(self->ctx, MUSTER_STORE, &store_commit_type, &commit) : MUSTER_OK;
}

static struct batch
batch_for(struct limit_actor *self, const struct keys *keys)
{
    size_t count = keys->end - keys->first, room = count < WRITE_KEYS ? count : WRITE_KEYS;

    muster_arena_clear(self->arena);
    return (struct batch){.puts = muster_arena_alloc(self->arena, (room + 1) * sizeof(struct store_put))};
}

/* Write as many of these keys as one commit takes.  When the store takes none they stay in the queue. */
static muster_err
write_changed(struct limit_actor *self, struct keys *keys)
{
    struct batch batch = batch_for(self, keys);
    size_t i, end;
    struct slot *slot;

    for (end = keys->first; end < keys->end && batch.count < WRITE_KEYS && batch.bytes < WRITE_BYTES; end++) {
        slot = find(self, &keys->items[end]);
        if (slot->used && slot->changed)
            put_record(self, &batch, slot);
    }
    if (commit(self, &batch))
        return MUSTER_OVERLOADED;
    for (i = keys->first; i < end; i++) {
        slot = find(self, &keys->items[i]);
        if (slot->used && slot->changed) {
            slot->changed = false;
            slot->written = true;
        }
    }
    keys_drop(keys, end - keys->first);
    return MUSTER_OK;
}

/* Likewise remove the records of keys that were forgotten.  One that has come back goes on with its record. */
static muster_err
remove_gone(struct limit_actor *self)
{
    struct keys *keys = &self->gone;
    struct batch batch = batch_for(self, keys);
    struct slot *slot;
    size_t end;

    for (end = keys->first; end < keys->end && batch.count < WRITE_KEYS; end++) {
        slot = find(self, &keys->items[end]);
        if (slot->used)
            slot->written = true;
        else
            put_removal(self, &batch, &keys->items[end]);
    }
    if (commit(self, &batch))
        return MUSTER_OVERLOADED;
    keys_drop(keys, end - keys->first);
    return MUSTER_OK;
}

static void
write_some(struct limit_actor *self)
{
    self->write_awaited = false;
    (void)write_changed(self, &self->changed);
    (void)remove_gone(self);
    if (self->changed.end > 0 || self->gone.end > 0)
        await_write(self);
}

static void
write_all(struct limit_actor *self)
{
    while (self->changed.end > 0 && write_changed(self, &self->changed) == MUSTER_OK)
        ;
    while (self->gone.end > 0 && remove_gone(self) == MUSTER_OK)
        ;
}

/* What was refused in this batch of messages.  When the store takes nothing, it is among the next ones. */
static void
on_idle(void *arg)
{
    struct limit_actor *self = arg;

    while (self->refused.end > 0 && write_changed(self, &self->refused) == MUSTER_OK)
        ;
    keys_drop(&self->refused, self->refused.end - self->refused.first);
}

/* It was counted: have it written, at once when it was refused; but not all the time, when it never gives up. */
static void
note_changed(struct limit_actor *self, struct slot *slot, bool refused, int64_t now_ms)
{
    if (!refused && !slot->changed) {
        slot->changed = true;
        keys_add(&self->changed, &slot->key);
        await_write(self);
    }
    if (refused && slot->changed && (now_ms - slot->refused_ms >= WRITE_PAUSE_MS || now_ms < slot->refused_ms)) {
        slot->refused_ms = now_ms;
        keys_add(&self->refused, &slot->key);
    }
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static bool
load_record(void *arg, const void *record, struct muster_arena *arena)
{
    struct limit_actor *self = arg;
    const struct rate *rate = record;
    int64_t now_ms = muster_now_ms(self->ctx), idle_ms;
    struct limit_count count;
    struct slot *slot = NULL;

    (void)arena;
    if (limit_keep_load(rate, now_ms, &count, &idle_ms)) {
        slot = slot_of(self, &rate->id, now_ms);
        if (slot == NULL)
            limit_count_fini(&count);
    }
    if (slot == NULL) {
        keys_add(&self->gone, &rate->id);
        await_write(self);
        return true;
    }
    slot->count = count;
    slot->idle_ms = idle_ms;
    slot->written = true;
    return true;
}

static muster_err
init(void *arg, struct muster_ctx *ctx, const void *config)
{
    struct limit_actor *self = arg;

    (void)config;
    self->ctx = ctx;
    self->capacity = FIRST_SLOTS;
    self->slots = muster_alloc(self->capacity * sizeof *self->slots);
    self->arena = muster_arena_new();
    return muster_store_walk(muster_ctx_store(ctx), &rate_type, NULL, NULL, MUSTER_OLDEST_FIRST, load_record, self);
}

static void
fini(void *arg)
{
    struct limit_actor *self = arg;
    size_t i;

    write_all(self);
    for (i = 0; i < self->capacity; i++)
        limit_count_fini(&self->slots[i].count);
    free(self->slots);
    free(self->changed.items);
    free(self->refused.items);
    free(self->gone.items);
    muster_arena_free(&self->arena);
}

static void
sweep(struct limit_actor *self)
{
    size_t capacity = self->capacity;

    if (capacity > FIRST_SLOTS && 8 * self->count < capacity)
        capacity /= 2;
    rebuild(self, capacity, muster_now_ms(self->ctx));
    if (self->count > 0)
        muster_timer_in(self->ctx, SWEEP_MS, TIMER_SWEEP);
}

static void
on_timer(void *arg, uint64_t key)
{
    if (key == TIMER_SWEEP)
        sweep(arg);
    else
        write_some(arg);
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
count(struct limit_actor *self, struct slot *slot, const struct limit_take *in, int64_t now_ms,
      struct limit_verdict *out_verdict)
{
    struct limit_rate rate = {.requests = in->requests, .window_ms = in->window};
    bool bucket = in->algorithm == limit_algorithm_TOKEN_BUCKET || in->requests > LOG_LIMIT;

    limit_count_take(&slot->count, bucket, &rate, in->cost > 0 ? in->cost : 1, now_ms, out_verdict);
    slot->idle_ms = now_ms + in->window;
    note_changed(self, slot, !out_verdict->allowed, now_ms);
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
    count(self, slot, in, now_ms, &verdict);
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
    .idle = on_idle,
};
