/* SPDX-License-Identifier: MPL-2.0 */
/* A driver's surroundings in a test: records what a driver says to its host.  One thread; nothing fails. */
#ifndef FAKE_HOST_H
#define FAKE_HOST_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/drivers/driver.h"

#define FAKE_EVENTS_MAX 4096
#define FAKE_DONE_MAX 64

struct fake_event {
    const struct muster_type *type;
    char *json;
};
struct fake_done {
    struct driver_outcome outcome; /* its text is a copy */
    char *text;
};

struct fake_host {
    struct driver_host host;
    const struct driver *class;
    void *driver;
    struct team_options team;
    struct agent_options agents;
    struct permission_options permissions;

    struct muster_buf input;  /* written to the process */
    struct muster_buf chunks; /* all of them together */
    struct muster_buf denied; /* names of uses, a blank behind each */
    size_t chunk_count;
    struct fake_event events[FAKE_EVENTS_MAX];
    size_t event_count;
    struct fake_done done[FAKE_DONE_MAX];
    size_t done_count;
    char session[129];
    char broken[256];
    size_t ready_count;
    bool input_closed;
    int64_t timer_ms; /* -1: not set */
    int64_t busy_tools, busy_most;
    muster_err write_error;
};

static muster_err
fake_host_write(void *self, const void *data, size_t size)
{
    struct fake_host *fake = self;

    if (!fake->write_error)
        muster_buf_add(&fake->input, data, size);
    return fake->write_error;
}

static void
fake_host_close_input(void *self)
{
    ((struct fake_host *)self)->input_closed = true;
}

static void
fake_host_chunk(void *self, const char *text, size_t size)
{
    struct fake_host *fake = self;

    muster_buf_add(&fake->chunks, text, size);
    fake->chunk_count++;
}

static void
fake_host_event(void *self, const struct muster_type *type, const void *body)
{
    struct fake_host *fake = self;
    struct muster_buf packed = {0}, json = {0};
    struct muster_arena *arena = muster_arena_new();
    void *decoded = muster_arena_alloc(arena, type->size);

    /* Whatever an agent says must fit the row that the log decodes. */
    muster_pack(type, body, &packed);
    cr_assert_eq(muster_unpack(type, packed.data, packed.size, arena, decoded, NULL), MUSTER_OK, "%s does not fit",
                 type->wire);
    muster_json_encode(type, decoded, &json);
    cr_assert_lt(fake->event_count, FAKE_EVENTS_MAX);
    fake->events[fake->event_count].type = type;
    fake->events[fake->event_count++].json = muster_buf_take(&json, &(size_t){0});
    muster_buf_free(&packed);
    muster_arena_free(&arena);
}

static void
fake_host_denied(void *self, const char *use)
{
    struct fake_host *fake = self;

    muster_buf_printf(&fake->denied, "%s ", use);
}

static void
fake_host_ready(void *self)
{
    ((struct fake_host *)self)->ready_count++;
}

static void
fake_host_session(void *self, const char *session)
{
    struct fake_host *fake = self;

    snprintf(fake->session, sizeof(fake->session), "%s", session);
}

static void
fake_host_done(void *self, const struct driver_outcome *outcome)
{
    struct fake_host *fake = self;
    struct fake_done *done = &fake->done[fake->done_count++];

    cr_assert_leq(fake->done_count, FAKE_DONE_MAX);
    done->outcome = *outcome;
    done->text = muster_alloc(outcome->text_size + 1);
    if (outcome->text_size)
        memcpy(done->text, outcome->text, outcome->text_size);
    done->outcome.text = done->text;
}

static void
fake_host_broken(void *self, const char *problem)
{
    struct fake_host *fake = self;

    snprintf(fake->broken, sizeof(fake->broken), "%s", problem);
}

static void
fake_host_timer(void *self, int64_t delay_ms)
{
    ((struct fake_host *)self)->timer_ms = delay_ms;
}

static void
fake_host_busy_tools(void *self, int64_t count)
{
    struct fake_host *fake = self;

    fake->busy_tools = count;
    if (count > fake->busy_most)
        fake->busy_most = count;
}

/* Make the driver with a team of that name; other options may be set before fake_host_init. */
static inline struct fake_host *
fake_host_new(const struct driver *class)
{
    struct fake_host *fake = muster_alloc(sizeof(*fake));

    fake->class = class;
    fake->team.name = "backend";
    fake->team.directory = "/work-dir/work";
    fake->team.permissions = &fake->permissions;
    fake->agents.max_answer = 1 << 20;
    fake->timer_ms = -1;
    fake->host = (struct driver_host){
        .self = fake,
        .team = &fake->team,
        .agents = &fake->agents,
        .directory = fake->team.directory,
        .write = fake_host_write,
        .close_input = fake_host_close_input,
        .chunk = fake_host_chunk,
        .event = fake_host_event,
        .denied = fake_host_denied,
        .ready = fake_host_ready,
        .session = fake_host_session,
        .done = fake_host_done,
        .broken = fake_host_broken,
        .timer = fake_host_timer,
        .busy_tools = fake_host_busy_tools,
    };
    fake->driver = muster_alloc(class->size);
    class->init(fake->driver, &fake->host);
    return fake;
}

static inline void
fake_host_forget(struct fake_host *fake)
{
    size_t i;

    for (i = 0; i < fake->event_count; i++)
        free(fake->events[i].json);
    for (i = 0; i < fake->done_count; i++)
        free(fake->done[i].text);
    muster_buf_clear(&fake->chunks);
    muster_buf_clear(&fake->input);
    muster_buf_clear(&fake->denied);
    fake->event_count = fake->done_count = fake->chunk_count = 0;
}

static inline void
fake_host_free(struct fake_host *fake)
{
    fake_host_forget(fake);
    muster_buf_free(&fake->chunks);
    muster_buf_free(&fake->input);
    muster_buf_free(&fake->denied);
    fake->class->fini(fake->driver);
    free(fake->driver);
    free(fake);
}

static inline void
fake_host_begin(struct fake_host *fake, const char *prompt, int64_t attempt)
{
    fake->class->begin(fake->driver, &(struct driver_turn){.prompt = prompt, .attempt = attempt});
}

static inline const char *
fake_host_text(const struct muster_buf *buf)
{
    return buf->size ? buf->data : "";
}

/* How many events of that type have `text` in their JSON. */
static inline size_t
fake_host_events(const struct fake_host *fake, const struct muster_type *type, const char *text)
{
    size_t i, count = 0;

    for (i = 0; i < fake->event_count; i++)
        count += fake->events[i].type == type && strstr(fake->events[i].json, text);
    return count;
}

#endif
