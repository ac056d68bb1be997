/* SPDX-License-Identifier: MPL-2.0 */
/* history and jobs: lists of jobs. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/client.h"
#include "tools/commands.h"
#include "tools/show.h"

#define LIST_TIMEOUT_MS 30000
#define UNIX_MS_MIN 100000000000 /* a plain --since from here on is a time; below it a unit was forgotten */
#define JOBS_LIMIT 50            /* of a page, where nobody says */
#define PAGE_MAX 1000

static int
get_page(const struct client *client, const char *query, json_t **out_answer)
{
    return client_request(client, "GET", query, NULL, LIST_TIMEOUT_MS, out_answer);
}

/* ---- history ---- */

/* A span back from now, or a time in unix milliseconds. */
static int
add_since(const struct call *call, struct muster_buf *path)
{
    const char *value = call_value(call, "--since");
    int64_t span_ms = 0;
    char text[32];
    int result;

    if (!value)
        return EXIT_DONE;
    if (strtoll(value, NULL, 10) >= UNIX_MS_MIN && duration_lacks_unit(value)) {
        client_add_query(path, "since", value);
        return EXIT_DONE;
    }
    result = client_duration(call, "--since", &span_ms);
    if (result)
        return result;
    snprintf(text, sizeof text, "%" PRId64, client_now_ms() - span_ms);
    client_add_query(path, "since", text);
    return EXIT_DONE;
}

static int
history(const struct client *client, const struct call *call)
{
    static const char *const plain[] = {"team", "status", "from", "limit", "page"};
    struct muster_buf path = {0};
    json_t *answer = NULL;
    char option[16];
    size_t i;
    int result;

    muster_buf_str(&path, "/api/v1/messages/history");
    for (i = 0; i < sizeof plain / sizeof *plain; i++) {
        snprintf(option, sizeof option, "--%s", plain[i]);
        client_add_query(&path, plain[i], call_value(call, option));
    }
    result = add_since(call, &path);
    if (!result)
        result = get_page(client, path.data, &answer);
    if (!result && client->json)
        json_print(answer);
    else if (!result)
        show_history(answer);
    json_decref(answer);
    muster_buf_free(&path);
    return result;
}

/* ---- jobs ---- */

/* The server lists jobs of one status at a time; a page of several is made of all their pages up to it. */
struct list {
    const struct client *client;
    const struct call *call;
    int64_t limit, page;
    json_t *jobs; /* all that came, each once */
    json_t *seen; /* id to place in `jobs` */
    int64_t total;
    bool more; /* there are further pages */
};

static int
read_count(const struct call *call, const char *option, int64_t most, int64_t *value)
{
    const char *text = call_value(call, option);
    char *end = NULL;

    if (!text)
        return EXIT_DONE;
    *value = strtoll(text, &end, 10);
    if (end == text || *end || *value < 1 || *value > most)
        return complain(EXIT_USAGE, "%s %s is no number from 1 to %" PRId64, option, text, most);
    return EXIT_DONE;
}

/* A job that has changed its status between two requests is in both answers: the later one counts. */
static void
take_job(struct list *list, json_t *job)
{
    const char *id = json_text(job, "messageId");
    const json_t *place = json_object_get(list->seen, id);

    if (place) {
        json_array_set(list->jobs, (size_t)json_integer_value(place), job);
        list->total--;
        return;
    }
    if (*id)
        json_object_set_new(list->seen, id, json_integer((json_int_t)json_array_size(list->jobs)));
    json_array_append(list->jobs, job);
}

static const char *
page_path(const struct list *list, const char *status, int64_t page)
{
    struct muster_buf path = {0};
    char number[32];
    const char *kept;

    muster_buf_str(&path, "/api/v1/messages/history");
    client_add_query(&path, "status", status);
    client_add_query(&path, "team", call_value(list->call, "--team"));
    client_add_query(&path, "from", call_value(list->call, "--from"));
    snprintf(number, sizeof number, "%" PRId64, list->limit);
    client_add_query(&path, "limit", number);
    snprintf(number, sizeof number, "%" PRId64, page);
    client_add_query(&path, "page", number);
    kept = muster_arena_str(list->client->arena, path.data, path.size);
    muster_buf_free(&path);
    return kept;
}

/* All pages of one status from `page` on, up to the one that is wanted. */
static int
get_status(struct list *list, const char *status, int64_t page)
{
    bool more = true;
    int64_t total = 0;

    for (; more && page <= list->page; page++) {
        json_t *answer = NULL;
        const json_t *pages;
        json_t *job;
        size_t i;
        int result = get_page(list->client, page_path(list, status, page), &answer);

        if (result)
            return result;
        json_array_foreach(json_object_get(answer, "messages"), i, job) take_job(list, job);
        pages = json_object_get(answer, "pagination");
        total = json_number(pages, "total") > 0 ? json_number(pages, "total") : 0;
        more = json_is_true(json_object_get(pages, "hasNext"));
        json_decref(answer);
    }
    list->total += total;
    list->more = list->more || more;
    return EXIT_DONE;
}

static int
newest_first(const void *left, const void *right)
{
    int64_t a = json_number(*(json_t *const *)left, "timestamp");
    int64_t b = json_number(*(json_t *const *)right, "timestamp");

    return a < b ? 1 : a > b ? -1 : 0;
}

/* Sort, and drop what is not on the page; `skip` jobs are before it. */
static void
cut_page(struct list *list, size_t skip)
{
    size_t count = json_array_size(list->jobs);
    json_t **jobs = muster_alloc((count + 1) * sizeof(json_t *));
    json_t *page = json_array();
    size_t i;

    for (i = 0; i < count; i++)
        jobs[i] = json_array_get(list->jobs, i);
    qsort(jobs, count, sizeof *jobs, newest_first);
    for (i = skip; i < count && i < skip + (size_t)list->limit; i++)
        json_array_append(page, jobs[i]);
    free(jobs);
    json_decref(list->jobs);
    list->jobs = page;
}

static json_t *
page_object(const struct list *list)
{
    json_t *pages = json_object();
    json_t *answer = json_object();

    json_object_set_new(pages, "page", json_integer(list->page));
    json_object_set_new(pages, "limit", json_integer(list->limit));
    json_object_set_new(pages, "total", json_integer(list->total));
    json_object_set_new(pages, "hasNext", json_boolean(list->more || list->page * list->limit < list->total));
    json_object_set(answer, "messages", list->jobs);
    json_object_set_new(answer, "pagination", pages);
    return answer;
}

static int
get_jobs(struct list *list)
{
    const char *text = call_value(list->call, "--status");
    json_t *statuses = json_split(text ? text : "queued,processing");
    size_t count = json_array_size(statuses);
    const json_t *status;
    size_t i;
    int result = count ? EXIT_DONE : complain(EXIT_USAGE, "--status is empty: write for example failed,cancelled");

    json_array_foreach(statuses, i, status)
    {
        if (!result)
            result = get_status(list, json_string_value(status), count == 1 ? list->page : 1);
    }
    json_decref(statuses);
    if (!result)
        cut_page(list, count == 1 ? 0 : (size_t)((list->page - 1) * list->limit));
    return result;
}

static int
jobs(const struct client *client, const struct call *call)
{
    struct list list = {.client = client, .call = call, .limit = JOBS_LIMIT, .page = 1};
    json_t *answer;
    int result = read_count(call, "--limit", PAGE_MAX, &list.limit);

    if (!result)
        result = read_count(call, "--page", PAGE_MAX, &list.page);
    if (result)
        return result;
    list.jobs = json_array();
    list.seen = json_object();
    result = get_jobs(&list);
    if (!result) {
        answer = page_object(&list);
        if (client->json)
            json_print(answer);
        else
            show_jobs(answer, client_now_ms());
        json_decref(answer);
    }
    json_decref(list.jobs);
    json_decref(list.seen);
    return result;
}

int
run_history(const struct call *call)
{
    return client_run(call, history);
}

int
run_jobs(const struct call *call)
{
    return client_run(call, jobs);
}
