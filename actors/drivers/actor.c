/* SPDX-License-Identifier: MPL-2.0 */
/* actor: a turn is done by the program that the hub runs in; no process.
 *
 * The driver runs on the agent actor's thread and calls the program there.  The program answers from any thread through
 * the turn, whose lock is held only to look at its flags and to send: what is told travels as agent.said.  A turn ends
 * once: by what the program told, or by us, after which it says so to whoever still calls.  What can fail: a program
 * that tells faster than the actor listens is refused with MUSTER_OVERLOADED, done and failed excepted. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/drivers/share.h"
#include "actors/muster_actor.h"
#include "actors/muster_own.h"
#include "schemas/muster_options.h"

enum {
    ADDRESS_MAX = 128,
    WAITING_MAX = 2048,       /* of the mailbox's 4096 places, all turns of a team together */
    WAITING_BYTES = 32 << 20, /* of one turn */
};

struct muster_turn {
    atomic_int references;
    struct muster_bus *bus; /* borrowed; not used once the turn is over */
    char address[ADDRESS_MAX];
    struct muster_id job;
    char job_text[MUSTER_ID_TEXT + 4];
    int64_t attempt;
    size_t limit;
    pthread_mutex_t lock; /* guards what follows */
    size_t waiting;       /* told, but not heard yet, */
    size_t waiting_bytes; /* with texts of so many bytes */
    bool ended;           /* the program has told the end, which is on its way */
    bool over;            /* nobody listens any more */
};

struct actor {
    const struct driver_host *host; /* borrowed; outlives us */
    const struct muster_own_team *team;
    struct muster_turn *turn; /* a reference; NULL: none */
    struct muster_buf answer; /* the chunks joined, */
    size_t shown;             /* of which so much was said; the rest is the beginning of a character */
    int64_t tools;            /* used in this turn */
};

/* ---- the turn -------------------------------------------------------------------------------------------------------
 */

static struct muster_turn *
turn_new(const struct muster_own_team *team, const struct driver_turn *given)
{
    struct muster_turn *turn = muster_alloc(sizeof(*turn));

    atomic_init(&turn->references, 2); /* the driver's and the program's */
    pthread_mutex_init(&turn->lock, NULL);
    turn->bus = team->bus;
    snprintf(turn->address, sizeof(turn->address), MUSTER_AGENT_PREFIX "%s", team->options.name);
    turn->job = given->job;
    memcpy(turn->job_text, "msg_", 4);
    muster_id_text(&given->job, turn->job_text + 4);
    turn->attempt = given->attempt;
    turn->limit = WAITING_MAX / (size_t)team->options.concurrency;
    return turn;
}

static void
turn_release(struct muster_turn *turn)
{
    if (atomic_fetch_sub(&turn->references, 1) > 1)
        return;
    pthread_mutex_destroy(&turn->lock);
    free(turn);
}

static size_t
bytes_of(const struct agent_said *said)
{
    return said->text.size + (said->input ? strlen(said->input) : 0);
}

static muster_err
turn_send(struct muster_turn *turn, struct muster_buf *frame, size_t bytes, bool last)
{
    muster_err err = MUSTER_CONFLICT;

    pthread_mutex_lock(&turn->lock);
    if (!turn->over && !turn->ended && !last &&
        (turn->waiting >= turn->limit || turn->waiting_bytes + bytes > WAITING_BYTES))
        err = MUSTER_OVERLOADED;
    else if (!turn->over && !turn->ended)
        err = muster_bus_send(turn->bus, turn->address, frame);
    if (err == MUSTER_OK) {
        turn->waiting++;
        turn->waiting_bytes += bytes;
        turn->ended = last;
    }
    pthread_mutex_unlock(&turn->lock);
    return err == MUSTER_OK || err == MUSTER_CONFLICT ? err : MUSTER_OVERLOADED;
}

muster_err
muster_own_say(struct muster_turn *turn, struct agent_said *said)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    bool last = said->kind == said_kind_DONE || said->kind == said_kind_FAILED;
    struct muster_buf frame = {0};
    muster_err err;

    said->job = turn->job;
    said->attempt = turn->attempt;
    muster_envelope_pack(&envelope, &agent_said_type, said, &frame);
    err = turn_send(turn, &frame, bytes_of(said), last);
    muster_buf_free(&frame);
    if (last && err != MUSTER_OVERLOADED)
        turn_release(turn);
    return err;
}

const char *
muster_own_job(const struct muster_turn *turn)
{
    return turn->job_text;
}

int64_t
muster_own_attempt(const struct muster_turn *turn)
{
    return turn->attempt;
}

/* ---- its end --------------------------------------------------------------------------------------------------------
 */

/* Listen no more.  `heard` is false when we end it; then the program is told, unless it has told the end itself. */
static void
let_go(struct actor *self, bool heard)
{
    struct muster_turn *turn = self->turn;
    bool tell;

    self->turn = NULL;
    pthread_mutex_lock(&turn->lock);
    turn->over = true;
    tell = !heard && !turn->ended;
    pthread_mutex_unlock(&turn->lock);
    if (tell && self->team->cancel)
        self->team->cancel(turn, self->team->arg);
    turn_release(turn);
}

static void
finish(struct actor *self, const struct driver_outcome *outcome)
{
    if (self->answer.size > self->shown)
        self->host->chunk(self->host->self, self->answer.data + self->shown, self->answer.size - self->shown);
    self->host->done(self->host->self, outcome);
    muster_buf_free(&self->answer);
    self->shown = 0;
}

static void
break_off(struct actor *self, muster_err err)
{
    struct driver_outcome outcome = {
        .err = err, .text = muster_err_text(err), .text_size = strlen(muster_err_text(err))};

    let_go(self, false);
    finish(self, &outcome);
}

/* Its end, when the program has told it, is in the mailbox already and counts. */
static void
interrupt(void *driver)
{
    struct actor *self = driver;
    bool ended;

    if (!self->turn)
        return;
    pthread_mutex_lock(&self->turn->lock);
    ended = self->turn->ended;
    pthread_mutex_unlock(&self->turn->lock);
    if (!ended)
        break_off(self, MUSTER_CANCELLED);
}

/* ---- what the program tells -----------------------------------------------------------------------------------------
 */

/* How many bytes at the end are the beginning of a character? */
static size_t
begun_character(const char *text, size_t size)
{
    size_t back, whole;
    unsigned char byte;

    for (back = 1; back <= 3 && back <= size; back++) {
        byte = (unsigned char)text[size - back];
        if ((byte & 0xC0) == 0x80)
            continue;
        whole = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
        return whole > back ? back : 0;
    }
    return 0;
}

static void
on_chunk(struct actor *self, const struct agent_said *said)
{
    size_t whole;

    muster_buf_add(&self->answer, said->text.data, said->text.size);
    whole = self->answer.size - begun_character(self->answer.data, self->answer.size);
    self->host->chunk(self->host->self, self->answer.data ? self->answer.data + self->shown : "", whole - self->shown);
    self->shown = whole;
    if (self->answer.size > (size_t)self->host->agents->max_answer)
        break_off(self, MUSTER_OUTPUT_TOO_LARGE);
}

static void
on_tool_use(struct actor *self, const struct agent_said *said)
{
    json_t *input = said->input ? json_loads(said->input, JSON_DECODE_ANY, NULL) : NULL;
    char id[32];

    snprintf(id, sizeof(id), "own-%lld", (long long)++self->tools);
    driver_tool_use(self->host, said->tool, id, input);
    json_decref(input);
}

static void
on_progress(struct actor *self, const struct agent_said *said)
{
    struct job_progress progress = {.current = said->current, .total = said->total, .step = said->step};

    self->host->event(self->host->self, &job_progress_type, &progress);
}

static void
on_done(struct actor *self, const struct agent_said *said)
{
    struct driver_outcome outcome = {.text = (const char *)said->text.data, .text_size = said->text.size};

    if (said->joined)
        outcome = (struct driver_outcome){.text = self->answer.data, .text_size = self->answer.size};
    if (!outcome.text)
        outcome.text = "";
    let_go(self, true);
    finish(self, &outcome);
}

static void
on_failed(struct actor *self, const struct agent_said *said)
{
    struct driver_outcome outcome = {.err = muster_err_from_code(said->code ? said->code : ""), .final = said->final};

    outcome.text = said->text.size ? (const char *)said->text.data : muster_err_text(outcome.err);
    outcome.text_size = said->text.size ? said->text.size : strlen(outcome.text);
    let_go(self, true);
    finish(self, &outcome);
}

static void
said(void *driver, const struct agent_said *in)
{
    static void (*const on[])(struct actor * self, const struct agent_said *said) = {
        [said_kind_CHUNK] = on_chunk, [said_kind_TOOL_USE] = on_tool_use, [said_kind_PROGRESS] = on_progress,
        [said_kind_DONE] = on_done,   [said_kind_FAILED] = on_failed,
    };
    struct actor *self = driver;

    if (!self->turn)
        return;
    pthread_mutex_lock(&self->turn->lock);
    self->turn->waiting--;
    self->turn->waiting_bytes -= bytes_of(in);
    pthread_mutex_unlock(&self->turn->lock);
    on[in->kind](self, in);
}

/* ---- the driver -----------------------------------------------------------------------------------------------------
 */

static void
init(void *driver, const struct driver_host *host)
{
    struct actor *self = driver;

    self->host = host;
    self->team = (const struct muster_own_team *)host->team; /* only the program makes teams with this driver */
}

static void
fini(void *driver)
{
    struct actor *self = driver;

    if (self->turn)
        let_go(self, false);
    muster_buf_free(&self->answer);
}

static void
begin(void *driver, const struct driver_turn *given)
{
    struct actor *self = driver;

    self->turn = turn_new(self->team, given);
    self->tools = 0;
    self->team->begin(self->turn, given->prompt, given->conversation, self->team->arg);
}

const struct driver driver_actor = {
    .name = "actor",
    .size = sizeof(struct actor),
    .init = init,
    .fini = fini,
    .begin = begin,
    .interrupt = interrupt,
    .said = said,
};
