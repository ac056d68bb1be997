/* SPDX-License-Identifier: MPL-2.0 */
/* worker_link: the connection of a worker to its hub.
 *
 *   waiting -> dialing -> (hello, without CURVE) -> reading what is kept -> attaching -> attached -> waiting ...
 *
 * What breaks it, or is not answered, leads back to waiting; the pause doubles until it was attached.  Its thread never
 * waits.  Mailbox full: the parcels try again; agents say queue.ready again. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api/worker_inside.h"
#include "schemas/muster_options.h"

enum { MAILBOX = 4096, ANSWER_MS = 30000 };

int64_t
worker_uptime_ms(void)
{
    return muster_uptime_ns() / 1000000;
}

/* ---- to the hub ---- */

int64_t
worker_ask(struct worker_link *link, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.id = ++link->last_id, .reply_to = "", .trace = "", .principal.name = ""};
    struct muster_buf frame = {0};
    muster_err err;

    if (link->state == LINK_WAITING)
        return 0;
    muster_envelope_pack(&envelope, type, body, &frame);
    err = muster_dial_send(link->dial, &frame);
    if (err == MUSTER_OVERLOADED)
        worker_lose(link, err, "too much waits for the network");
    return envelope.id;
}

/* ---- what others see ---- */

static bool
comes_again(muster_err err)
{
    return err == MUSTER_VERSION_MISMATCH || err == MUSTER_UNAUTHORIZED || err == MUSTER_FORBIDDEN ||
           err == MUSTER_TEAM_NOT_FOUND || err == MUSTER_CONFLICT || err == MUSTER_INVALID_REQUEST;
}

static void
show_problem(struct worker_link *link, muster_err err, const char *text)
{
    pthread_mutex_lock(&link->lock);
    link->attached = false;
    link->err = err;
    link->refused += comes_again(err);
    snprintf(link->problem, sizeof link->problem, "%s", text);
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
}

static void
show_attached(struct worker_link *link)
{
    pthread_mutex_lock(&link->lock);
    link->attached = link->was_attached = true;
    link->problem[0] = '\0';
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
}

/* The same trouble stands in the journal once. */
static void
say_problem(struct worker_link *link, muster_err err, const char *text)
{
    if (link->drain.step == DRAIN_DONE)
        return; /* it has left, or gives up */
    if (link->state == LINK_ATTACHED)
        muster_journal_say(link->journal, WARNING, "link-lost", "The connection to the hub is lost.",
                           MUSTER_SAY_TEXT("hub", link->spec->dial.endpoint), MUSTER_SAY_TEXT("reason", text));
    else if (strcmp(link->said, text) != 0 && comes_again(err))
        muster_journal_say(link->journal, ERROR, "link-refused", "The hub does not take this worker.",
                           MUSTER_SAY_TEXT("hub", link->spec->dial.endpoint),
                           MUSTER_SAY_TEXT("code", muster_err_code(err)), MUSTER_SAY_TEXT("reason", text));
    else if (strcmp(link->said, text) != 0)
        muster_journal_say(link->journal, WARNING, "link-down", "The hub cannot be reached; it is tried again.",
                           MUSTER_SAY_TEXT("hub", link->spec->dial.endpoint), MUSTER_SAY_TEXT("reason", text));
    snprintf(link->said, sizeof link->said, "%s", text);
}

/* ---- the connection ---- */

static void on_dial_timer(void *arg);

/* 75 to 125 percent, so that many workers do not come back at the same moment. */
static void
dial_later(struct worker_link *link)
{
    int64_t delay_ms = link->pause_ms * (75 + (int64_t)muster_random_below(51)) / 100;

    link->pause_ms =
        2 * link->pause_ms < link->options->max_reconnect ? 2 * link->pause_ms : link->options->max_reconnect;
    link->dial_timer = muster_loop_timer(link->loop, delay_ms > 0 ? delay_ms : 1, on_dial_timer, link);
}

static void
end_timer(struct worker_link *link, int *timer)
{
    muster_loop_timer_end(link->loop, *timer);
    *timer = 0;
}

void
worker_lose(struct worker_link *link, muster_err err, const char *format, ...)
{
    char text[sizeof link->problem];
    va_list args;

    if (link->state == LINK_WAITING)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say_problem(link, err, text);
    if (link->state == LINK_ATTACHED) {
        worker_tell_parcels(link, "", &parcels_close_type, &(struct parcels_close){.all = true});
        worker_detached(link);
        link->pause_ms = link->options->reconnect;
    }
    link->state = LINK_WAITING;
    link->dial_over = link->dial != NULL;
    end_timer(link, &link->answer_timer);
    end_timer(link, &link->beat_timer);
    show_problem(link, err, text);
    dial_later(link);
}

static void
on_answer_timer(void *arg)
{
    struct worker_link *link = arg;

    link->answer_timer = 0;
    worker_lose(link, MUSTER_TIMEOUT, "the hub does not answer");
}

static void
await_answer(struct worker_link *link, enum worker_link_state state)
{
    link->state = state;
    end_timer(link, &link->answer_timer);
    link->answer_timer = muster_loop_timer(link->loop, ANSWER_MS, on_answer_timer, link);
}

static void
read_parcels(struct worker_link *link)
{
    await_answer(link, LINK_READING);
    worker_tell_parcels(link, MUSTER_QUEUE, &parcels_read_type, &(struct parcels_read){.all = true});
}

static void
attach(struct worker_link *link, const struct parcels_kept *kept)
{
    const struct worker_link_spec *spec = link->spec;
    char host[256] = "";
    struct worker_attach body = {
        .protocol = MUSTER_WORKER_PROTOCOL,
        .version = MUSTER_VERSION,
        .name = spec->name,
        .epoch = muster_store_epoch(spec->house->store),
        .host = host,
        .pid = getpid(),
        .labels = link->options->labels,
        .teams = {spec->teams, spec->team_count},
    };

    (void)gethostname(host, sizeof host - 1);
    worker_attempts_held(link, kept, &body);
    await_answer(link, LINK_ATTACHING);
    link->attach_id = worker_ask(link, &worker_attach_type, &body);
}

static void
on_up(void *arg)
{
    struct worker_link *link = arg;

    if (link->state != LINK_DIALING)
        return;
    if (link->spec->dial.curve) {
        read_parcels(link);
        return;
    }
    await_answer(link, LINK_HELLO);
    link->hello_id = worker_ask(link, &bus_hello_type, &(struct bus_hello){.key = link->spec->api_key});
}

static void
refuse(struct worker_link *link, const struct muster_envelope *envelope)
{
    struct failed failed;

    if (muster_unpack(&failed_type, envelope->body.data, envelope->body.size, link->arena, &failed, NULL))
        worker_lose(link, MUSTER_INTERNAL_ERROR, "the hub answers what is no answer");
    else
        worker_lose(link, muster_err_from_code(failed.code), "%s",
                    failed.message ? failed.message : muster_err_text(muster_err_from_code(failed.code)));
}

/* An answer on the way to be attached. */
static void
on_answer(struct worker_link *link, const struct muster_envelope *envelope)
{
    struct worker_welcome welcome;

    if (strcmp(envelope->type, failed_type.wire) == 0) {
        refuse(link, envelope);
    } else if (link->state == LINK_HELLO && strcmp(envelope->type, bus_welcome_type.wire) == 0) {
        read_parcels(link);
    } else if (link->state == LINK_ATTACHING && strcmp(envelope->type, worker_welcome_type.wire) == 0 &&
               muster_unpack(&worker_welcome_type, envelope->body.data, envelope->body.size, link->arena, &welcome,
                             NULL) == MUSTER_OK) {
        link->state = LINK_ATTACHED;
        end_timer(link, &link->answer_timer);
        link->said[0] = '\0';
        worker_attached(link, &welcome);
        if (link->state == LINK_ATTACHED)
            show_attached(link);
    } else {
        worker_lose(link, MUSTER_INTERNAL_ERROR, "the hub answers what was not asked");
    }
}

static void
on_message(void *arg, const void *data, size_t size)
{
    struct worker_link *link = arg;
    struct muster_envelope envelope;
    int64_t id = link->state == LINK_HELLO ? link->hello_id : link->attach_id;

    if (link->state == LINK_WAITING)
        return;
    muster_arena_clear(link->arena);
    if (muster_envelope_unpack(data, size, link->arena, &envelope))
        worker_lose(link, MUSTER_INTERNAL_ERROR, "the hub sends what is no message");
    else if (link->state == LINK_ATTACHED)
        worker_on_hub(link, &envelope);
    else if (envelope.id == id)
        on_answer(link, &envelope);
}

static void
on_down(void *arg, const char *reason, bool refused)
{
    worker_lose(arg, refused ? MUSTER_UNAUTHORIZED : MUSTER_TIMEOUT, "%s", reason);
}

static const struct muster_dial_hooks dial_hooks = {on_up, on_message, on_down};

static void
dial(struct worker_link *link)
{
    char problem[256] = "no connection can be made";
    muster_err err;

    muster_dial_close(&link->dial);
    link->dial_over = false;
    link->state = LINK_DIALING;
    err = muster_dial_open(link->loop, &link->spec->dial, &dial_hooks, link, &link->dial, problem, sizeof problem);
    if (err)
        worker_lose(link, err, "%s", problem);
}

static void
on_dial_timer(void *arg)
{
    struct worker_link *link = arg;

    link->dial_timer = 0;
    if (link->drain.step != DRAIN_DONE)
        dial(link);
}

void
worker_dial_soon(struct worker_link *link)
{
    if (link->state != LINK_WAITING || link->dial_timer == 0)
        return;
    end_timer(link, &link->dial_timer);
    link->pause_ms = link->options->reconnect;
    dial_later(link);
}

/* What a hub gives before an agent is there would be lost. */
void
worker_dial_when_ready(struct worker_link *link)
{
    size_t i;

    for (i = 0; i < link->spec->team_count; i++)
        if (!link->ready[i])
            return;
    if (!link->dialed)
        link->dial_timer = muster_loop_timer(link->loop, 0, on_dial_timer, link);
    link->dialed = true;
}

/* ---- the thread ---- */

#define IS(envelope, message) (strcmp((envelope)->type, message##_type.wire) == 0)

static void
on_kept(struct worker_link *link, const struct parcels_kept *kept)
{
    worker_attempts_reported(link, kept);
    if (link->state == LINK_READING)
        attach(link, kept);
    worker_drain_kept(link, kept);
}

static void
on_frame(void *arg, const void *data, size_t size)
{
    struct worker_link *link = arg;
    struct muster_envelope envelope;
    union {
        struct queue_ready ready;
        struct queue_drain drain;
        struct parcels_parcel parcel;
        struct parcels_kept kept;
    } body;

    muster_arena_clear(link->arena);
    if (muster_envelope_unpack(data, size, link->arena, &envelope))
        return;
#define TAKE(message)                                                                                                  \
    (IS(&envelope, message) &&                                                                                         \
     muster_unpack(&message##_type, envelope.body.data, envelope.body.size, link->arena, &body, NULL) == MUSTER_OK)
    if (TAKE(queue_ready))
        worker_on_ready(link, &body.ready);
    else if (TAKE(parcels_parcel))
        worker_on_parcel(link, &body.parcel);
    else if (TAKE(parcels_kept))
        on_kept(link, &body.kept);
    else if (TAKE(queue_drain))
        worker_on_drain(link, body.drain.now);
#undef TAKE
}

static void
on_idle(void *arg)
{
    struct worker_link *link = arg;

    if (link->dial && !link->dial_over)
        muster_dial_pump(link->dial);
    if (link->dial_over)
        muster_dial_close(&link->dial);
    link->dial_over = false;
    pthread_mutex_lock(&link->lock);
    link->has_attempts = link->attempts.count > 0;
    pthread_mutex_unlock(&link->lock);
}

static muster_err
on_begin(void *arg, struct muster_loop *loop)
{
    struct worker_link *link = arg;

    link->loop = loop;
    worker_dial_when_ready(link);
    return MUSTER_OK;
}

static void
on_end(void *arg)
{
    struct worker_link *link = arg;

    muster_dial_close(&link->dial);
}

static const struct muster_runner_hooks hooks = {.begin = on_begin, .frame = on_frame, .idle = on_idle, .end = on_end};

/* ---- birth and death ---- */

static void
free_link(struct worker_link *link)
{
    worker_mail_free(link);
    worker_detached(link);
    free(link->attempts.items);
    free(link->ready);
    muster_arena_free(&link->arena);
    pthread_cond_destroy(&link->changed);
    pthread_mutex_destroy(&link->lock);
    free(link);
}

muster_err
worker_link_start(const struct worker_link_spec *spec, struct worker_link **out_link)
{
    struct worker_link *link = muster_alloc(sizeof *link);
    pthread_condattr_t clock;
    muster_err err;

    link->spec = spec;
    link->options = spec->house->options->worker;
    link->journal = spec->house->journal;
    link->arena = muster_arena_new();
    link->mail_last = &link->mail;
    link->outgoing_last = &link->outgoing;
    link->pause_ms = link->options->reconnect;
    link->ready = muster_alloc(spec->team_count * sizeof *link->ready + 1);
    snprintf(link->problem, sizeof link->problem, "the hub has not answered yet");
    pthread_mutex_init(&link->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&link->changed, &clock);
    pthread_condattr_destroy(&clock);
    err = muster_runner_start(spec->house->bus, MUSTER_QUEUE, MAILBOX, &hooks, link, &link->runner);
    if (err)
        free_link(link);
    else
        *out_link = link;
    return err;
}

void
worker_link_stop(struct worker_link **link_p)
{
    if (*link_p == NULL)
        return;
    muster_runner_stop(&(*link_p)->runner);
    free_link(*link_p);
    *link_p = NULL;
}

/* ---- any thread ---- */

static struct timespec
moment_in(int64_t ms)
{
    struct timespec moment;

    clock_gettime(CLOCK_MONOTONIC, &moment);
    moment.tv_sec += ms / 1000;
    moment.tv_nsec += ms % 1000 * 1000000L;
    if (moment.tv_nsec >= 1000000000L) {
        moment.tv_sec++;
        moment.tv_nsec -= 1000000000L;
    }
    return moment;
}

/* Under the lock; false: it is time. */
static bool
await_change(struct worker_link *link, int64_t timeout_ms, const struct timespec *until)
{
    if (timeout_ms < 0)
        return pthread_cond_wait(&link->changed, &link->lock) == 0;
    return pthread_cond_timedwait(&link->changed, &link->lock, until) == 0;
}

muster_err
worker_link_wait(struct worker_link *link, int64_t timeout_ms, char *problem, size_t problem_size)
{
    struct timespec until = moment_in(timeout_ms > 0 ? timeout_ms : 0);
    muster_err err = MUSTER_OK;

    pthread_mutex_lock(&link->lock);
    while (!link->attached && link->refused == link->told && !err)
        if (!await_change(link, timeout_ms, &until))
            err = MUSTER_TIMEOUT;
    if (link->attached)
        err = MUSTER_OK;
    else if (link->refused != link->told)
        err = link->err;
    link->told = link->refused;
    if (problem && problem_size > 0)
        snprintf(problem, problem_size, "%s", link->attached ? "" : link->problem);
    pthread_mutex_unlock(&link->lock);
    return err;
}

bool
worker_link_matters(struct worker_link *link)
{
    bool matters;

    pthread_mutex_lock(&link->lock);
    matters = link->was_attached || link->has_attempts;
    pthread_mutex_unlock(&link->lock);
    return matters;
}

muster_err
worker_link_drained(struct worker_link *link, int64_t timeout_ms, bool *out_left)
{
    struct timespec until = moment_in(timeout_ms > 0 ? timeout_ms : 0);
    bool drained;

    pthread_mutex_lock(&link->lock);
    while (!link->drained && await_change(link, timeout_ms, &until))
        ;
    drained = link->drained;
    if (drained)
        *out_left = link->left;
    pthread_mutex_unlock(&link->lock);
    return drained ? MUSTER_OK : MUSTER_TIMEOUT;
}

static void
send_drain(struct worker_link *link, bool now)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    struct muster_buf frame = {0};

    muster_envelope_pack(&envelope, &queue_drain_type, &(struct queue_drain){.now = now}, &frame);
    (void)muster_bus_send(link->spec->house->bus, MUSTER_QUEUE, &frame);
}

void
worker_link_drain(struct worker_link *link)
{
    send_drain(link, false);
}

void
worker_link_hurry(struct worker_link *link)
{
    send_drain(link, true);
}
