/* SPDX-License-Identifier: MPL-2.0 */
/* iris: the history of messages, filtered and in pages.
 *
 * The narrowest index is walked and the other filters are looked at one by one, because the answer has a total. Entries
 * are encoded as they are met, with long texts cut, so an answer stays small whatever the jobs are like. */
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

struct walk {
    struct http_request *request;
    const char *team;
    const char *from;
    const char *status; /* NULL: any */
    int64_t since_ms;
    int64_t first, last; /* places on the page, counted from 0 */
    int64_t met;         /* jobs that fit, so far */
    bool counts;         /* to the end, because the index does not tell the total */
    struct muster_buf entries;
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
    iris_fail_field(request, name,
                    muster_arena_printf(http_arena(request), "must be a whole number, 1 to %lld", (long long)most));
    return false;
}

static bool
is_status(const char *text)
{
    static const char *const known[] = {"queued", "processing", "completed", "failed", "cancelled"};
    size_t i;

    for (i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], text) == 0)
            return true;
    return false;
}

static bool
read_filters(struct http_request *request, struct walk *walk)
{
    const char *to = http_query(request, "to"), *since = http_query(request, "since");

    walk->team = http_query(request, "team");
    walk->from = http_query(request, "from");
    walk->status = http_query(request, "status");
    if (walk->status && !is_status(walk->status)) {
        iris_fail_field(request, "status", "must be one of queued, processing, completed, failed, cancelled");
        return false;
    }
    if (since && http_time_parse(since, &walk->since_ms)) {
        iris_fail_field(request, "since", "must be unix milliseconds or an ISO 8601 time");
        return false;
    }
    if (walk->team && to && strcmp(walk->team, to) != 0)
        walk->last = 0; /* both cannot be */
    if (to)
        walk->team = to;
    return true;
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
add_entry(struct walk *walk, const struct job *job, struct muster_arena *arena)
{
    bool truncated = false;
    struct iris_entry entry = {.messageId = iris_message_id(arena, &job->id),
                               .from = job->from,
                               .to = job->team,
                               .message = shortened(arena, job->prompt, &truncated),
                               .response = shortened(arena, job->result, &truncated),
                               .status = iris_status(job->state),
                               .error = iris_problem_of(arena, job),
                               .duration = iris_duration(job),
                               .timestamp = job->created_ms};

    entry.truncated = truncated;
    if (walk->entries.size > 0)
        muster_buf_str(&walk->entries, ",");
    muster_json_encode(&iris_entry_type, &entry, &walk->entries);
}

static bool
fits(const struct walk *walk, const struct job *job)
{
    if (job->created_ms < walk->since_ms || !http_may_use(walk->request, job->team))
        return false;
    if (walk->team && strcmp(walk->team, job->team) != 0)
        return false;
    if (walk->from && strcmp(walk->from, job->from) != 0)
        return false;
    return walk->status == NULL || strcmp(walk->status, iris_status(job->state)) == 0;
}

static bool
visit(void *arg, const void *record, struct muster_arena *arena)
{
    const struct job *job = record;
    struct walk *walk = arg;

    if (walk->since_ms > 0 && muster_id_time(&job->id) + SLACK_MS < walk->since_ms)
        return false;
    if (!fits(walk, job))
        return true;
    if (walk->met >= walk->first && walk->met < walk->last)
        add_entry(walk, job, arena);
    walk->met++;
    return walk->counts || walk->met < walk->last;
}

/* ---- the walk ---- */

/* The index to walk, and whether it answers all filters by itself. */
static const char *
choose_index(struct walk *walk, const char **out_value)
{
    const struct key *key = http_key(walk->request);
    int filters = (walk->team != NULL) + (walk->from != NULL) + (walk->status != NULL) + (walk->since_ms > 0) +
                  (key->teams.count > 0 && walk->team == NULL);

    /* "completed", "failed" and "cancelled" are states of ours too; the other two stand for several. */
    walk->counts = filters > 1 || walk->since_ms > 0 || (key->teams.count > 0 && walk->team == NULL);
    if (walk->team) {
        *out_value = walk->team;
        return "job_by_team";
    }
    if (walk->from) {
        *out_value = walk->from;
        return "job_by_from";
    }
    if (walk->status && strcmp(walk->status, "queued") != 0 && strcmp(walk->status, "processing") != 0) {
        *out_value = walk->status;
        return "job_by_state";
    }
    walk->counts = walk->counts || walk->status != NULL;
    *out_value = NULL;
    return NULL;
}

static muster_err
run(struct walk *walk, int64_t *out_total)
{
    struct muster_store *store = http_house(walk->request)->store;
    const char *value, *index = choose_index(walk, &value);
    muster_err err = muster_store_walk(store, &job_type, index, value, MUSTER_NEWEST_FIRST, visit, walk);
    size_t count = 0;

    if (err == MUSTER_OK && !walk->counts)
        err = muster_store_count(store, &job_type, index, value, &count);
    *out_total = walk->counts ? walk->met : (int64_t)count;
    return err;
}

static void
answer(struct http_request *request, const struct walk *walk, const struct iris_page *page)
{
    struct muster_buf text = {0};

    muster_buf_str(&text, "{\"messages\":[");
    muster_buf_add(&text, walk->entries.data, walk->entries.size);
    muster_buf_str(&text, "],\"pagination\":");
    muster_json_encode(&iris_page_type, page, &text);
    muster_buf_str(&text, "}");
    http_answer(request, 200, "application/json", text.data, text.size);
    muster_buf_free(&text);
}

void
iris_handle_history(struct http_request *request)
{
    struct iris_page page = {.page = 1, .limit = LIMIT_DEFAULT};
    struct walk walk = {.request = request, .last = -1};
    muster_err err = MUSTER_OK;

    if (!read_number(request, "limit", LIMIT_MOST, &page.limit) ||
        !read_number(request, "page", PAGE_MOST, &page.page) || !read_filters(request, &walk))
        return;
    if (walk.last != 0 && (walk.team == NULL || http_may_use(request, walk.team))) {
        walk.first = (page.page - 1) * page.limit;
        walk.last = walk.first + page.limit;
        err = run(&walk, &page.total);
    }
    page.hasNext = page.total > page.page * page.limit;
    if (err)
        http_fail(request, err, "%s", muster_err_text(err));
    else
        answer(request, &walk, &page);
    muster_buf_free(&walk.entries);
}
