/* SPDX-License-Identifier: MPL-2.0 */
/* The surroundings of one actor in a test: a clock that only the test moves, a store in memory, and a record of all
 * that the actor sent, published, fetched and started.
 *
 * It takes the place of actors/runtime.c, transport/child.c and actors/journal.c: it defines the functions that actors
 * call there, so a test that links it must not call what only those files have (muster_actor_start,
 * muster_journal_new). Messages go through the codec both ways, so a test sees what another actor would.  Misuse
 * aborts, which fails the test. Everything handed out lives until fake_free.  One thread. */
#ifndef FAKE_CTX_H
#define FAKE_CTX_H

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"

/* Where the clock begins: a whole second. */
#define FAKE_START_MS INT64_C(1700000000000)

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

/* Options from YAML text, NULL: all defaults; an empty store; the clock at FAKE_START_MS. */
struct muster_ctx *fake_new(const char *yaml);
/* Ends the actor if there is one. */
void fake_free(struct muster_ctx **ctx_p);
/* Make the actor's struct and call its init; `config` is borrowed.  After a failed init the actor is ended. */
muster_err fake_start(struct muster_ctx *ctx, const struct muster_actor_class *class, const char *address,
                      const void *config);
/* Call its fini.  Timers, open fetches and subscription are gone; store, clock, board and records stay. */
void fake_stop(struct muster_ctx *ctx);
/* Stop and start again, as after a crash of the actor or of the daemon. */
muster_err fake_restart(struct muster_ctx *ctx);
/* The actor's struct. */
void *fake_self(struct muster_ctx *ctx);

/* ---- messages to the actor ------------------------------------------------------------------------------------------
 */

/* Deliver a message, then call idle.  Answers `failed` to the reply address when the handler returns an error, which is
 * also returned here.  `envelope` NULL: from nobody.  MUSTER_INVALID_REQUEST: it has no handler for that. */
muster_err fake_deliver(struct muster_ctx *ctx, const struct muster_envelope *envelope, const struct muster_type *type,
                        const void *body);
/* The same as a request `id` that is to be answered to `reply_to`, from the daemon itself. */
muster_err fake_call(struct muster_ctx *ctx, const char *reply_to, int64_t id, const struct muster_type *type,
                     const void *body);
/* Between these two idle is not called, and once at the end: messages of one batch. */
void fake_batch_begin(struct muster_ctx *ctx);
void fake_batch_end(struct muster_ctx *ctx);
/* Deliver feed.event with an event of that type, numbered in order.  The actor must have subscribed. */
muster_err fake_feed(struct muster_ctx *ctx, const struct muster_type *type, const char *team,
                     const struct muster_id *job, const void *body);
/* What muster_events_missed says next. */
void fake_feed_missed(struct muster_ctx *ctx, size_t count);
bool fake_subscribed(const struct muster_ctx *ctx);

/* ---- messages from the actor ----------------------------------------------------------------------------------------
 */

struct fake_sent {
    const char *to;
    struct muster_envelope envelope;
    const struct muster_type *type;
    const void *body; /* decoded: the struct of `type` */
};
/* Messages not taken yet. */
size_t fake_sent_count(const struct muster_ctx *ctx);
/* Take the oldest; NULL: none. */
const struct fake_sent *fake_take(struct muster_ctx *ctx);
/* Take the oldest of that type, or to that address; others stay. */
const struct fake_sent *fake_take_type(struct muster_ctx *ctx, const struct muster_type *type);
const struct fake_sent *fake_take_to(struct muster_ctx *ctx, const char *to);
/* Drop all. */
void fake_forget(struct muster_ctx *ctx);
/* From now on sending to `to` fails with `err`; MUSTER_OK: no longer. */
void fake_refuse(struct muster_ctx *ctx, const char *to, muster_err err);

/* ---- the store ------------------------------------------------------------------------------------------------------
 */

/* Take the oldest store.commit and do what the store does: write its puts, entries and events, then send its answers;
 * those to the actor itself are delivered, others recorded.  Events of `entries` are kept as fake_event_at.  False:
 * none sent. */
bool fake_commit(struct muster_ctx *ctx);
/* The same with a disk that fails: nothing is written, answers are `no`, or `failed` with `err`. */
bool fake_commit_fails(struct muster_ctx *ctx, muster_err err);
/* fake_commit until none is left; returns how many there were. */
size_t fake_commit_all(struct muster_ctx *ctx);
/* Write a record, as if it had been there before. */
void fake_put(struct muster_ctx *ctx, const struct muster_type *type, const void *record);
/* Read a record; NULL: there is none. */
const void *fake_get(struct muster_ctx *ctx, const struct muster_type *type, const struct muster_id *id);

/* ---- clock ----------------------------------------------------------------------------------------------------------
 */

/* Move the clock, firing timers on the way, each at its time and in their order; idle after each. */
void fake_advance(struct muster_ctx *ctx, int64_t ms);
/* Set the clock without firing anything, also backwards. */
void fake_set_clock(struct muster_ctx *ctx, int64_t now_ms);
/* Time until the next timer; -1: none. */
int64_t fake_next_timer(const struct muster_ctx *ctx);
/* Time until the timer of that key; -1: not set. */
int64_t fake_timer(const struct muster_ctx *ctx, uint64_t key);

/* ---- what it published and said -------------------------------------------------------------------------------------
 */

/* NULL: nothing stands there. */
const void *fake_board(const struct muster_ctx *ctx, const char *name);
/* Events of muster_publish_events, and durable ones that fake_commit wrote. */
size_t fake_event_count(const struct muster_ctx *ctx);
const struct event *fake_event_at(const struct muster_ctx *ctx, size_t index);
/* How many events were published for those who want them gathered; they are not among the above. */
size_t fake_gathered_count(const struct muster_ctx *ctx);
/* What the last muster_publish_events said is settled; 0: there was none. */
int64_t fake_settled(const struct muster_ctx *ctx);
/* Entries of the journal with that id. */
size_t fake_said(const struct muster_ctx *ctx, const char *id);
/* Is the text somewhere in the journal, in messages or facts? */
bool fake_said_text(const struct muster_ctx *ctx, const char *text);

/* ---- fetches --------------------------------------------------------------------------------------------------------
 */

struct fake_fetch {
    struct muster_fetch_spec spec; /* a copy; the body is NUL-terminated */
    bool open;                     /* not answered, the actor not stopped */
};
/* Fetches ever begun, in their order. */
size_t fake_fetch_count(const struct muster_ctx *ctx);
size_t fake_fetch_open(const struct muster_ctx *ctx);
const struct fake_fetch *fake_fetch_at(const struct muster_ctx *ctx, size_t index);
/* The value of a header, whatever its case; NULL: not sent. */
const char *fake_fetch_header(const struct fake_fetch *fetch, const char *name);
/* Answer an open fetch, then call idle.  `retry_after_s` -1: none. */
void fake_fetch_answer(struct muster_ctx *ctx, size_t index, long status, int64_t retry_after_s, const char *problem);

/* ---- children -------------------------------------------------------------------------------------------------------
 */

/* Children ever started, in their order; also those that were freed. */
size_t fake_child_count(const struct muster_ctx *ctx);
struct muster_child *fake_child_at(const struct muster_ctx *ctx, size_t index);
/* A copy. */
const struct muster_child_spec *fake_child_spec(const struct muster_child *child);
/* What was written to it since the last fake_child_input_clear. */
const char *fake_child_input(const struct muster_child *child);
void fake_child_input_clear(struct muster_child *child);
bool fake_child_input_closed(const struct muster_child *child);
bool fake_child_freed(const struct muster_child *child);
/* Signals sent to it so far, and the last of them (0: none). */
size_t fake_child_signals(const struct muster_child *child);
int fake_child_last_signal(const struct muster_child *child);
/* What it does; idle is called after each. */
void fake_child_line(struct muster_child *child, const char *line);
void fake_child_overlong(struct muster_child *child);
void fake_child_exit(struct muster_child *child, int status);
/* What muster_child_last_words says. */
void fake_child_words(struct muster_child *child, const char *text);
/* What muster_child_write returns from now on. */
void fake_child_write_error(struct muster_child *child, muster_err err);
/* The next muster_ctx_child fails so; MUSTER_OK: not. */
void fake_child_refuse(struct muster_ctx *ctx, muster_err err, const char *problem);

#endif
