/* SPDX-License-Identifier: MPL-2.0 */
/* watch: what happens, as it is written into the log, one line an event. */
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tools/client.h"
#include "tools/commands.h"
#include "tools/events.h"
#include "tools/link.h"
#include "tools/show.h"
#include "tools/text.h"

#define LOOK_TIMEOUT_MS 30000
#define PIPE_WIDTH 240 /* characters of a line that goes to no terminal */
#define WIDTH_MIN 40

struct watch {
    const struct client *client;
    const struct call *call;
    const char *job; /* NULL: whatever happens */
    struct link link;
    struct event_style style;
    bool ended; /* the job has, and `result` tells how */
    int result;
};

/* ---- events ---- */

static int
line_width(void)
{
    struct winsize size;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return PIPE_WIDTH;
    return size.ws_col > WIDTH_MIN ? size.ws_col : WIDTH_MIN;
}

/* `data` is NULL when it is no JSON that we can read: then only --json shows it. */
static void
print_event(struct watch *watch, const struct sse_event *event, const json_t *data)
{
    struct muster_buf out = {0};

    if (watch->client->json) {
        muster_buf_add(&out, event->data, event->size);
        text_flatten(out.data);
        muster_buf_str(&out, "\n");
    } else if (data) {
        watch->style.width = line_width();
        event_line(&out, data, &watch->style);
    }
    term_text(watch->link.term, out.data, out.size);
    muster_buf_free(&out);
}

static bool
on_event(void *arg, const struct sse_event *event)
{
    struct watch *watch = arg;
    json_t *data = json_loadb(event->data, event->size, JSON_DECODE_ANY, NULL);

    print_event(watch, event, data);
    if (watch->job)
        watch->ended = event_ends(data, &watch->result);
    json_decref(data);
    return !watch->ended;
}

static void
on_read(void *arg)
{
    struct watch *watch = arg;
    const char *cursor = link_cursor(&watch->link);

    if (*cursor)
        term_hint(watch->link.term, "go on with --after %s", cursor);
}

/* ---- the stream ---- */

static const char *
make_path(const struct watch *watch, const char *after)
{
    const char *what = watch->call->arg_count > 0 ? watch->call->args[0] : NULL;
    struct muster_buf path = {0};
    const char *kept;

    muster_buf_str(&path, "/api/v1/events");
    client_add_query(&path, watch->job ? "job" : "team", what);
    client_add_query(&path, "type", call_value(watch->call, "--type"));
    client_add_query(&path, "since", after);
    kept = muster_arena_str(watch->client->arena, path.data, path.size);
    muster_buf_free(&path);
    return kept;
}

/* A stream that was closed may have been that of a job whose last event is not shown: has it ended? */
static void
look_at_job(struct watch *watch)
{
    struct client_reply reply;
    json_t *job;
    long status = watch->link.status;

    if (watch->ended || !watch->job || (status != 200 && status != 204))
        return;
    client_send(watch->client, "GET", client_path(watch->client, "/api/v1/messages/", watch->job, ""), NULL,
                LOOK_TIMEOUT_MS, &reply);
    job = reply.status == 200 ? json_loadb(reply.body.data, reply.body.size, 0, NULL) : NULL;
    if (job && job_has_ended(job)) {
        watch->ended = true;
        watch->result = show_job_result(job);
        term_note(watch->link.term, "muster: the job has ended (%s): see muster job %s", json_text(job, "status"),
                  watch->job);
    }
    json_decref(job);
    client_drop(&reply);
}

static int
tell_expired(const struct watch *watch)
{
    const char *cursor = link_cursor(&watch->link);
    const char *after = *cursor ? cursor : call_value(watch->call, "--after");

    return complain(EXIT_FAILED, "events behind %s are no longer kept: go on with --after oldest",
                    after ? after : "this one");
}

static int
tell_end(const struct watch *watch)
{
    const struct link *link = &watch->link;

    if (watch->ended)
        return watch->result;
    if (link->status == 410)
        return tell_expired(watch);
    if (link->status >= 300)
        return client_refused(watch->client, link->status, link->failure.data, link->failure.size);
    if (link->status == 0)
        return client_unreachable(watch->client, *link->problem ? link->problem : "the connection was closed");
    return complain(EXIT_FAILED, "the server has ended the stream: it may have another version, see muster version");
}

/* Up to the end of the job, or for ever. */
static void
run_stream_of_events(struct watch *watch, const char *after)
{
    bool was_open = false;

    do {
        /* Once a cursor is known it goes along in a header. */
        link_open(&watch->link, "GET", make_path(watch, *link_cursor(&watch->link) ? NULL : after), NULL);
        was_open = was_open || watch->link.status == 200;
        look_at_job(watch);
    } while (!watch->ended && was_open && link_again(&watch->link));
}

static int
watch(const struct client *client, const struct call *call)
{
    const char *after = call_value(call, "--after");
    struct watch state = {.client = client,
                          .call = call,
                          .link = {.client = client, .handler = on_event, .read = on_read, .arg = &state},
                          .style = {.short_time = isatty(STDOUT_FILENO)}};
    int result;

    if (call->arg_count > 0 && text_is_job(call->args[0]))
        state.job = call->args[0];
    if (after && !client_is_plain(after))
        return complain(EXIT_USAGE, "--after %s is no cursor: write one that watch told, or oldest", after);
    if (!after && state.job)
        after = "oldest";
    state.link.term = term_start(false, 0);
    term_hint(state.link.term, "%s", "");
    term_may_end(state.link.term);
    run_stream_of_events(&state, after);
    term_stop(&state.link.term);
    result = tell_end(&state);
    link_fini(&state.link);
    return result;
}

int
run_watch(const struct call *call)
{
    return client_run(call, watch);
}
