/* SPDX-License-Identifier: MPL-2.0 */
/* metrics: counts what the events say and prints it for Prometheus.
 *
 * Keeps nothing on disk: counters begin at zero with each start, as Prometheus expects.  Events that its mailbox had no
 * room for are not counted, but their number is.  Labels are bounded: teams come from the configuration, codes from the
 * error table, and a tool beyond MAX_TOOLS of a team counts as "other".  Nothing here can fail. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/muster_actor.h"

/* With these the text stays below what metrics.text may have. */
#define MAX_TEAMS 1001 /* as many as can be configured, and none; an event of a further one is not counted */
#define MAX_TOOLS 64   /* labels of a team */
#define MAX_ALL_TOOLS 5000
#define BUCKETS 12

static const double bucket_s[BUCKETS] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 1800};

/* Counters without a label of their own besides the team, one row each below. */
enum plain {
    PLAIN_QUEUED,
    PLAIN_STARTED,
    PLAIN_COMPLETED,
    PLAIN_CANCELLED,
    PLAIN_RETRIED,
    PLAIN_PARKED,
    PLAIN_CHUNKS,
    PLAIN_DENIALS,
    PLAIN_COUNT
};

static const struct {
    const char *name;
    const char *help;
} plain_rows[PLAIN_COUNT] = {
    [PLAIN_QUEUED] = {"muster_jobs_queued_total", "Jobs accepted."},
    [PLAIN_STARTED] = {"muster_jobs_started_total", "Attempts started."},
    [PLAIN_COMPLETED] = {"muster_jobs_completed_total", "Jobs that ended with an answer."},
    [PLAIN_CANCELLED] = {"muster_jobs_cancelled_total", "Jobs that somebody ended."},
    [PLAIN_RETRIED] = {"muster_jobs_retried_total", "Attempts that failed and were followed by another."},
    [PLAIN_PARKED] = {"muster_jobs_parked_total", "Jobs put aside by a shutdown."},
    [PLAIN_CHUNKS] = {"muster_job_chunks_total", "Pieces of answers."},
    [PLAIN_DENIALS] = {"muster_permission_denials_total", "Tool uses that the team's rules denied."},
};

enum { INPUT, OUTPUT, CACHE_READ, CACHE_WRITE, KINDS };
static const char *const kind_names[KINDS] = {"input", "output", "cache_read", "cache_write"};

struct tool {
    char *name;
    uint64_t uses;
};

struct team {
    char *name;
    uint64_t plain[PLAIN_COUNT];
    uint64_t failed[MUSTER_ERR_COUNT]; /* by code */
    struct tool tools[MAX_TOOLS];
    size_t tool_count;
    uint64_t other_tools;   /* uses of tools beyond those */
    uint64_t tokens[KINDS]; /* of finished jobs, by kind */
    double cost_usd;
    uint64_t bucket[BUCKETS];
    uint64_t durations;
    double duration_s; /* sum of them */
};

struct metrics_actor {
    struct muster_ctx *ctx; /* borrowed; outlives us */
    struct team **teams;    /* in the order of their first event */
    size_t team_count;
    size_t tool_count; /* of all teams together */
    uint64_t missed;   /* events we had no room for */
};

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static muster_err
init(void *arg, struct muster_ctx *ctx, const void *config)
{
    struct metrics_actor *self = arg;

    (void)config;
    self->ctx = ctx;
    muster_events_subscribe(ctx, MUSTER_FEED_GATHERED | MUSTER_FEED_DURABLE);
    return MUSTER_OK;
}

static void
fini(void *arg)
{
    struct metrics_actor *self = arg;
    size_t i, j;

    for (i = 0; i < self->team_count; i++) {
        for (j = 0; j < self->teams[i]->tool_count; j++)
            free(self->teams[i]->tools[j].name);
        free(self->teams[i]->name);
        free(self->teams[i]);
    }
    free(self->teams);
}

/* The team's counters; NULL: there are too many teams. */
static struct team *
team_of(struct metrics_actor *self, const char *name)
{
    struct team *team;
    size_t i;

    for (i = 0; i < self->team_count; i++)
        if (strcmp(self->teams[i]->name, name) == 0)
            return self->teams[i];
    if (self->team_count == MAX_TEAMS)
        return NULL;
    team = muster_alloc(sizeof *team);
    team->name = muster_strdup(name);
    self->teams = muster_realloc(self->teams, (self->team_count + 1) * sizeof(struct team *));
    self->teams[self->team_count++] = team;
    return team;
}

/* ---- counting -------------------------------------------------------------------------------------------------------
 */

/* A tool that is really called "other" is counted with the others, so that no line is printed twice. */
static void
count_tool(struct metrics_actor *self, struct team *team, const char *name)
{
    size_t i;

    for (i = 0; i < team->tool_count && strcmp(team->tools[i].name, name) != 0; i++)
        ;
    if (i == team->tool_count) {
        if (i == MAX_TOOLS || self->tool_count == MAX_ALL_TOOLS || strcmp(name, "other") == 0) {
            team->other_tools++;
            return;
        }
        team->tools[team->tool_count++].name = muster_strdup(name);
        self->tool_count++;
    }
    team->tools[i].uses++;
}

/* Every job ends once, and its last event has the usage of all its attempts. */
static void
count_end(struct team *team, int64_t duration_ms, const struct usage *usage)
{
    double seconds = (double)duration_ms / 1000;
    size_t i;

    team->durations++;
    team->duration_s += seconds;
    for (i = 0; i < BUCKETS; i++)
        team->bucket[i] += seconds <= bucket_s[i];
    if (usage == NULL)
        return;
    team->tokens[INPUT] += (uint64_t)usage->input_tokens;
    team->tokens[OUTPUT] += (uint64_t)usage->output_tokens;
    team->tokens[CACHE_READ] += (uint64_t)usage->cache_read_tokens;
    team->tokens[CACHE_WRITE] += (uint64_t)usage->cache_write_tokens;
    team->cost_usd += usage->cost_usd;
}

static void
count_one(struct metrics_actor *self, struct team *team, const void *body, enum plain plain)
{
    (void)self;
    (void)body;
    team->plain[plain]++;
}

static void
count_completed(struct metrics_actor *self, struct team *team, const void *body, enum plain plain)
{
    const struct job_completed *in = body;

    (void)self;
    team->plain[plain]++;
    count_end(team, in->duration_ms, in->usage);
}

static void
count_failed(struct metrics_actor *self, struct team *team, const void *body, enum plain plain)
{
    const struct job_failed *in = body;

    (void)self;
    (void)plain;
    team->failed[muster_err_from_code(in->code)]++;
    count_end(team, in->duration_ms, in->usage);
}

static void
count_cancelled(struct metrics_actor *self, struct team *team, const void *body, enum plain plain)
{
    const struct job_cancelled *in = body;

    (void)self;
    team->plain[plain]++;
    count_end(team, in->duration_ms, in->usage);
}

static void
count_tool_use(struct metrics_actor *self, struct team *team, const void *body, enum plain plain)
{
    const struct job_tool_use *in = body;

    (void)plain;
    count_tool(self, team, in->tool);
}

static void
count_permission(struct metrics_actor *self, struct team *team, const void *body, enum plain plain)
{
    const struct job_permission *in = body;

    (void)self;
    team->plain[plain] += in->verdict == tool_verdict_DENIED;
}

/* What each event counts for; `read` says whether its body is needed. */
static const struct {
    const struct muster_type *type;
    void (*count)(struct metrics_actor *self, struct team *team, const void *body, enum plain plain);
    enum plain plain;
    bool read;
} event_rows[] = {
    {&job_chunk_type, count_one, PLAIN_CHUNKS, false},
    {&job_queued_type, count_one, PLAIN_QUEUED, false},
    {&job_started_type, count_one, PLAIN_STARTED, false},
    {&job_retrying_type, count_one, PLAIN_RETRIED, false},
    {&job_parked_type, count_one, PLAIN_PARKED, false},
    {&job_completed_type, count_completed, PLAIN_COMPLETED, true},
    {&job_failed_type, count_failed, PLAIN_COUNT, true},
    {&job_cancelled_type, count_cancelled, PLAIN_CANCELLED, true},
    {&job_tool_use_type, count_tool_use, PLAIN_COUNT, true},
    {&job_permission_type, count_permission, PLAIN_DENIALS, true},
};

static muster_err
count_event(struct metrics_actor *self, const struct event *event)
{
    struct team *team;
    void *body = NULL;
    muster_err err = MUSTER_OK;
    size_t i;

    for (i = 0; i < sizeof event_rows / sizeof event_rows[0]; i++) {
        if (strcmp(event_rows[i].type->wire, event->type) != 0)
            continue;
        if (event_rows[i].read) {
            body = muster_arena_alloc(muster_ctx_arena(self->ctx), event_rows[i].type->size);
            err = muster_unpack(event_rows[i].type, event->body.data, event->body.size, muster_ctx_arena(self->ctx),
                                body, NULL);
        }
        team = err ? NULL : team_of(self, event->team);
        if (team)
            event_rows[i].count(self, team, body, event_rows[i].plain);
        return err;
    }
    return MUSTER_OK;
}

MUSTER_ON(metrics_actor, feed_events);
static muster_err
on_feed_events(struct metrics_actor *self, const struct feed_events *in)
{
    muster_err err, first = MUSTER_OK;
    size_t i;

    for (i = 0; i < in->events.count; i++) {
        err = count_event(self, &in->events.items[i]);
        if (!first)
            first = err;
    }
    return first;
}

/* ---- printing -------------------------------------------------------------------------------------------------------
 */

static void
print_head(struct muster_buf *out, const char *name, const char *type, const char *help)
{
    muster_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: backslash, quote and newline are escaped. */
static void
print_value(struct muster_buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"')
            muster_buf_add(out, "\\", 1);
        if (*text == '\n')
            muster_buf_str(out, "\\n");
        else
            muster_buf_add(out, text, 1);
    }
}

/* name{team="..." and, if there is one, a second label. */
static void
print_labels(struct muster_buf *out, const char *name, const struct team *team, const char *label, const char *value)
{
    muster_buf_printf(out, "%s{team=\"", name);
    print_value(out, team->name);
    muster_buf_str(out, "\"");
    if (label) {
        muster_buf_printf(out, ",%s=\"", label);
        print_value(out, value);
        muster_buf_str(out, "\"");
    }
    muster_buf_str(out, "} ");
}

static void
print_count(struct muster_buf *out, const char *name, const struct team *team, const char *label, const char *value,
            uint64_t count)
{
    print_labels(out, name, team, label, value);
    muster_buf_printf(out, "%" PRIu64 "\n", count);
}

static void
print_plain(const struct metrics_actor *self, struct muster_buf *out)
{
    size_t row, i;

    for (row = 0; row < PLAIN_COUNT; row++) {
        print_head(out, plain_rows[row].name, "counter", plain_rows[row].help);
        for (i = 0; i < self->team_count; i++)
            print_count(out, plain_rows[row].name, self->teams[i], NULL, NULL, self->teams[i]->plain[row]);
    }
}

static void
print_failed(const struct metrics_actor *self, struct muster_buf *out)
{
    static const char name[] = "muster_jobs_failed_total";
    size_t i;
    int code;

    print_head(out, name, "counter", "Jobs that ended without an answer, by failure code.");
    for (i = 0; i < self->team_count; i++)
        for (code = 0; code < MUSTER_ERR_COUNT; code++)
            if (self->teams[i]->failed[code] > 0)
                print_count(out, name, self->teams[i], "code", muster_err_code((muster_err)code),
                            self->teams[i]->failed[code]);
}

static void
print_tools(const struct metrics_actor *self, struct muster_buf *out)
{
    static const char name[] = "muster_tool_uses_total";
    const struct team *team;
    size_t i, j;

    print_head(out, name, "counter", "Tool uses; \"other\" are those beyond the first ones.");
    for (i = 0; i < self->team_count; i++) {
        team = self->teams[i];
        for (j = 0; j < team->tool_count; j++)
            print_count(out, name, team, "tool", team->tools[j].name, team->tools[j].uses);
        if (team->other_tools > 0)
            print_count(out, name, team, "tool", "other", team->other_tools);
    }
}

static void
print_usage(const struct metrics_actor *self, struct muster_buf *out)
{
    static const char tokens[] = "muster_tokens_total", cost[] = "muster_cost_usd_total";
    size_t i, kind;

    print_head(out, tokens, "counter", "Tokens of finished jobs.");
    for (i = 0; i < self->team_count; i++)
        for (kind = 0; kind < KINDS; kind++)
            print_count(out, tokens, self->teams[i], "kind", kind_names[kind], self->teams[i]->tokens[kind]);
    print_head(out, cost, "counter", "Price of finished jobs by the agents' lists, in US dollars.");
    for (i = 0; i < self->team_count; i++) {
        print_labels(out, cost, self->teams[i], NULL, NULL);
        muster_buf_printf(out, "%.6f\n", self->teams[i]->cost_usd);
    }
}

static void
print_durations(const struct metrics_actor *self, struct muster_buf *out)
{
    static const char name[] = "muster_job_duration_seconds";
    const struct team *team;
    char bound[32];
    size_t i, j;

    print_head(out, name, "histogram", "Time from the start of a job's last attempt to its end.");
    for (i = 0; i < self->team_count; i++) {
        team = self->teams[i];
        for (j = 0; j < BUCKETS; j++) {
            (void)snprintf(bound, sizeof bound, "%g", bucket_s[j]);
            print_count(out, "muster_job_duration_seconds_bucket", team, "le", bound, team->bucket[j]);
        }
        print_count(out, "muster_job_duration_seconds_bucket", team, "le", "+Inf", team->durations);
        print_labels(out, "muster_job_duration_seconds_sum", team, NULL, NULL);
        muster_buf_printf(out, "%.3f\n", team->duration_s);
        print_count(out, "muster_job_duration_seconds_count", team, NULL, NULL, team->durations);
    }
}

MUSTER_ON(metrics_actor, metrics_read);

static muster_err
on_metrics_read(struct metrics_actor *self, const struct metrics_read *in)
{
    struct metrics_text answer;
    struct muster_buf out = {0};

    (void)in;
    self->missed += muster_events_missed(self->ctx);
    print_plain(self, &out);
    print_failed(self, &out);
    print_tools(self, &out);
    print_usage(self, &out);
    print_durations(self, &out);
    print_head(&out, "muster_events_uncounted_total", "counter",
               "Messages of events that came too fast to be counted here.");
    muster_buf_printf(&out, "muster_events_uncounted_total %" PRIu64 "\n", self->missed);
    answer = (struct metrics_text){.text = out.data};
    muster_reply(self->ctx, &metrics_text_type, &answer);
    muster_buf_free(&out);
    return MUSTER_OK;
}

static const struct muster_handler handlers[] = {MUSTER_ROW(feed_events), MUSTER_ROW(metrics_read), {NULL, NULL}};

const struct muster_actor_class muster_metrics_class = {
    .name = "metrics",
    .size = sizeof(struct metrics_actor),
    .mailbox = 100000,
    .init = init,
    .fini = fini,
    .handlers = handlers,
};
