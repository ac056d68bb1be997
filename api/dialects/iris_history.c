/* SPDX-License-Identifier: MPL-2.0 */
/* iris: the history of messages, filtered and in pages.  The connection's thread.
 *
 * The answer has a total, so what the narrowest index leaves over is looked at one by one; when an index answers all
 * filters by itself, its count is the total, and it is walked, without reading the records, as far as the page goes.
 * First the ids of a page are found, then their records are read one after the other and encoded with long texts cut,
 * so an answer and its making stay small whatever the jobs are like. */
#include <stdlib.h>
#include <string.h>

#include "api/dialects/iris.h"

enum {
    LIMIT_DEFAULT = 50,
    LIMIT_MOST = 200,
    PAGE_MOST = 1000000,
    TEXT_BYTES = 16384, /* of a message and a response in the history */
    SLACK_MS = 86400000 /* by so much the clock may have been set back between two jobs */
};

/* What a job must be; NULL and 0: anything. */
struct filter {
    const char *team;
    const char *from;
    const char *status;
    int64_t since_ms;
    bool nothing; /* they cannot all be met */
};

/* ---- the query ---- */

static bool
read_number(struct http_request *request, const char *name, int64_t most, int64_t *value)
{
    const char *text = http_query(request, name);
    size_t size = text ? strlen(text) : 0;

    if (text == NULL)
        return true;
    if (size >= 1 && size <= 9 && strspn(text, "0123456789") == size) {
        *value = strtoll(text, NULL, 10);
        if (*value >= 1 && *value <= most)
            return true;
    }
    http_fail_field(request, name,
                    muster_arena_printf(http_arena(request), "must be a whole number, 1 to %lld", (long long)most));
    return false;
}

/* The states that a status stands for, in their words, up to a NULL; NULL: there is no such status. */
static const char *const *
states_of(const char *status)
{
    static const struct {
        const char *status, *states[4];
    } rows[] = {{"queued", {"queued", "retrying", "parked"}},
                {"processing", {"running", "waiting"}},
                {"completed", {"completed"}},
                {"failed", {"failed"}},
                {"cancelled", {"cancelled"}},
                {"dead", {"failed"}}};
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].status, status) == 0)
            return rows[i].states;
    return NULL;
}

static bool
read_filter(struct http_request *request, struct filter *filter)
{
    const char *to = http_query(request, "to"), *since = http_query(request, "since");

    filter->team = http_query(request, "team");
    filter->from = http_query(request, "from");
    filter->status = http_query(request, "status");
    if (filter->status && states_of(filter->status) == NULL) {
        http_fail_field(request, "status", "must be one of queued, processing, completed, failed, cancelled, dead");
        return false;
    }
    if (since && http_time_parse(since, &filter->since_ms)) {
        http_fail_field(request, "since", "must be unix milliseconds or an ISO 8601 time");
        return false;
    }
    filter->nothing = filter->team && to && strcmp(filter->team, to) != 0;
    if (to)
        filter->team = to;
    if (filter->team && !http_may_use(request, filter->team))
        filter->nothing = true;
    return true;
}

static bool
has_status(const char *status, const struct job *job)
{
    if (strcmp(status, "dead") == 0)
        return job->state == job_state_FAILED && muster_id_is_zero(&job->retried_as);
    return strcmp(status, iris_status(job->state)) == 0;
}

static bool
fits(struct http_request *request, const struct filter *filter, const struct job *job)
{
    if (job->created_ms < filter->since_ms || !http_may_use(request, job->team))
        return false;
    if (filter->team && strcmp(filter->team, job->team) != 0)
        return false;
    if (filter->from && strcmp(filter->from, job->from) != 0)
        return false;
    return filter->status == NULL || has_status(filter->status, job);
}

/* ---- where to look ---- */

/* Values of one index whose jobs are all that can fit; no job has two of them. */
struct source {
    const char *index;   /* NULL: all jobs */
    const char **values; /* one NULL for all jobs */
    size_t count;
    size_t jobs; /* with these values */
};

static muster_err
count_jobs(struct http_request *request, struct source *source)
{
    muster_err err = MUSTER_OK;
    size_t count, i;

    for (i = 0; i < source->count && !err; i++) {
        err = muster_store_count(http_house(request)->store, &job_type, source->index, source->values[i], &count);
        if (!err)
            source->jobs += count;
    }
    return err;
}

static void
add_value(struct source *source, const char *value)
{
    size_t i;

    for (i = 0; i < source->count; i++)
        if (value && strcmp(source->values[i], value) == 0)
            return;
    source->values[source->count++] = value;
}

static struct source
new_source(struct http_request *request, const char *index, size_t room)
{
    return (struct source){.index = index,
                           .values = muster_arena_alloc(http_arena(request), (room + 1) * sizeof(const char *))};
}

/* One for each filter that an index knows; how many. */
static size_t
list_sources(struct http_request *request, const struct filter *filter, struct source out[4])
{
    const struct muster_strs *teams = &http_key(request)->teams;
    const char *const *states = filter->status ? states_of(filter->status) : NULL;
    size_t count = 0, i;

    if (filter->team) {
        out[count] = new_source(request, "job_by_team", 1);
        add_value(&out[count++], filter->team);
    } else if (teams->count > 0) {
        out[count] = new_source(request, "job_by_team", teams->count);
        for (i = 0; i < teams->count; i++)
            add_value(&out[count], teams->items[i]);
        count++;
    }
    if (filter->from) {
        out[count] = new_source(request, "job_by_from", 1);
        add_value(&out[count++], filter->from);
    }
    if (states) {
        out[count] = new_source(request, "job_by_state", 4);
        for (i = 0; states[i]; i++)
            add_value(&out[count], states[i]);
        count++;
    }
    if (count == 0) {
        out[count] = new_source(request, NULL, 1);
        add_value(&out[count++], NULL);
    }
    return count;
}

/* The narrowest, and whether all of its jobs fit. */
static muster_err
choose_source(struct http_request *request, const struct filter *filter, struct source *out, bool *out_exact)
{
    struct source sources[4];
    size_t count = list_sources(request, filter, sources), best = 0, i;
    muster_err err = MUSTER_OK;

    for (i = 0; i < count && !err; i++) {
        err = count_jobs(request, &sources[i]);
        if (sources[i].jobs < sources[best].jobs)
            best = i;
    }
    *out = sources[best];
    *out_exact = count == 1 && filter->since_ms <= 0 && !(filter->status && strcmp(filter->status, "dead") == 0);
    return err;
}

/* ---- the walk ---- */

struct walk {
    struct http_request *request;
    const struct filter *filter;
    size_t most;           /* ids of one value that may be on the page, or before it */
    size_t met;            /* jobs that fit */
    size_t kept;           /* ids of this value */
    struct muster_buf ids; /* the newest `most` of each value */
};

/* False when this value has no more that may be on the page. */
static bool
keep(void *arg, const struct muster_id *id)
{
    struct walk *walk = arg;

    muster_buf_add(&walk->ids, id, sizeof *id);
    return ++walk->kept < walk->most;
}

static bool
look_at(void *arg, const void *record, struct muster_arena *arena)
{
    const struct job *job = record;
    struct walk *walk = arg;

    (void)arena;
    if (walk->filter->since_ms > 0 && muster_id_time(&job->id) + SLACK_MS < walk->filter->since_ms)
        return false;
    if (!fits(walk->request, walk->filter, job))
        return true;
    walk->met++;
    if (walk->kept < walk->most)
        (void)keep(walk, &job->id);
    return true;
}

static int
newest_first(const void *a, const void *b)
{
    return memcmp(b, a, sizeof(struct muster_id));
}

/* Fill walk->ids, in order; `exact`: all jobs of the source fit. */
static muster_err
find(struct walk *walk, const struct source *source, bool exact)
{
    struct muster_store *store = http_house(walk->request)->store;
    muster_err err = MUSTER_OK;
    size_t i;

    for (i = 0; i < source->count && !err; i++) {
        walk->kept = 0;
        err = exact ? muster_store_walk_ids(store, &job_type, source->index, source->values[i], MUSTER_NEWEST_FIRST,
                                            keep, walk)
                    : muster_store_walk(store, &job_type, source->index, source->values[i], MUSTER_NEWEST_FIRST,
                                        look_at, walk);
    }
    if (walk->ids.size > 0)
        qsort(walk->ids.data, walk->ids.size / sizeof(struct muster_id), sizeof(struct muster_id), newest_first);
    return err;
}

/* ---- entries ---- */

/* At most TEXT_BYTES, whole characters. */
static const char *
shortened(struct muster_arena *arena, const char *text, bool *truncated)
{
    size_t size = text ? strlen(text) : 0;

    if (size <= TEXT_BYTES)
        return text;
    for (size = TEXT_BYTES; size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80; size--)
        ;
    *truncated = true;
    return muster_arena_str(arena, text, size);
}

static void
add_entry(struct muster_buf *out, const struct job *job, struct muster_arena *arena)
{
    bool truncated = false;
    struct iris_entry entry = {.messageId = iris_message_id(arena, &job->id),
                               .from = job->from,
                               .to = job->team,
                               .message = shortened(arena, job->prompt, &truncated),
                               .response = shortened(arena, job->result, &truncated),
                               .status = iris_status(job->state),
                               .priority = job->priority,
                               .sessionId = job->session_id,
                               .error = iris_problem_of(arena, job),
                               .duration = iris_duration(job),
                               .timestamp = job->created_ms};

    entry.truncated = truncated;
    if (out->data[out->size - 1] != '[')
        muster_buf_str(out, ",");
    muster_json_encode(&iris_entry_type, &entry, out);
}

/* Jobs that were removed since they were found, or do not fit any more, are left out. */
static muster_err
add_entries(const struct walk *walk, const struct iris_page *page, struct muster_buf *out)
{
    const struct muster_id *ids = (const struct muster_id *)(const void *)walk->ids.data;
    size_t count = walk->ids.size / sizeof *ids, i = (size_t)((page->page - 1) * page->limit);
    size_t end = i + (size_t)page->limit < count ? i + (size_t)page->limit : count;
    struct muster_arena *arena = muster_arena_new();
    muster_err err = MUSTER_OK;
    struct job job;

    for (; i < end && !err; i++) {
        muster_arena_clear(arena);
        err = muster_store_get(http_house(walk->request)->store, &job_type, &ids[i], arena, &job);
        if (err == MUSTER_OK && fits(walk->request, walk->filter, &job))
            add_entry(out, &job, arena);
        else if (err == MUSTER_NOT_FOUND)
            err = MUSTER_OK;
    }
    muster_arena_free(&arena);
    return err;
}

static muster_err
run(struct http_request *request, const struct filter *filter, struct iris_page *page, struct muster_buf *out)
{
    struct walk walk = {.request = request, .filter = filter, .most = (size_t)(page->page * page->limit)};
    struct source source;
    bool exact;
    muster_err err = choose_source(request, filter, &source, &exact);

    if (err)
        return err;
    if (!exact || source.jobs > (size_t)((page->page - 1) * page->limit)) /* the page is not behind the last one */
        err = find(&walk, &source, exact);
    if (!err)
        err = add_entries(&walk, page, out);
    page->total = (int64_t)(exact ? source.jobs : walk.met);
    muster_buf_free(&walk.ids);
    return err;
}

void
iris_handle_history(struct http_request *request)
{
    struct iris_page page = {.page = 1, .limit = LIMIT_DEFAULT};
    struct filter filter = {.team = NULL};
    struct muster_buf text = {0};
    muster_err err = MUSTER_OK;

    if (!read_number(request, "limit", LIMIT_MOST, &page.limit) ||
        !read_number(request, "page", PAGE_MOST, &page.page) || !read_filter(request, &filter))
        return;
    muster_buf_str(&text, "{\"messages\":[");
    if (!filter.nothing)
        err = run(request, &filter, &page, &text);
    page.hasNext = page.total > page.page * page.limit;
    muster_buf_str(&text, "],\"pagination\":");
    muster_json_encode(&iris_page_type, &page, &text);
    muster_buf_str(&text, "}");
    if (err)
        http_fail(request, err, "%s", muster_err_text(err));
    else
        http_answer(request, 200, "application/json", text.data, text.size);
    muster_buf_free(&text);
}
