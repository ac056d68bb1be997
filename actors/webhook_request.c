/* SPDX-License-Identifier: MPL-2.0 */
/* webhook_request: what the receiver of a callback is sent.  Keeps nothing and cannot fail: a header of the job's that
 * must not be sent is left out, and what a job lacks has a value that stands for it. */
#include <string.h>
#include <strings.h>

#include "actors/webhook.h"

#define SUMMARY_MAX 200 /* characters */

/* clang-format off */
#include "schemas/pass_struct.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_extern.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_rows.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
#include "schemas/pass_types.h"
#include "actors/webhook.def"
#include "schemas/pass_end.h"
/* clang-format on */

const char *
webhook_host_name(struct muster_arena *arena, const char *url)
{
    const char *from = strstr(url, "://"), *at;
    char *name, *c;
    size_t size;

    from = from ? from + 3 : url;
    size = strcspn(from, "/?#");
    at = memrchr(from, '@', size);
    if (at) {
        size -= (size_t)(at + 1 - from);
        from = at + 1;
    }
    name = muster_arena_str(arena, from, size);
    for (c = name; *c; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c - 'A' + 'a');
    return name;
}

/* The first line that is not blank, cut to SUMMARY_MAX characters. */
static const char *
summary_of(struct muster_arena *arena, const char *text)
{
    size_t size, characters = 0;

    text += strspn(text, " \t\r\n");
    for (size = 0; text[size] && text[size] != '\n' && text[size] != '\r'; size++)
        if (((unsigned char)text[size] & 0xc0) != 0x80 && ++characters > SUMMARY_MAX)
            break;
    return muster_arena_str(arena, text, size);
}

static void
write_body(struct muster_arena *arena, const struct job *job, const char *id, struct muster_buf *out)
{
    const char *details = job->result ? job->result : "";
    struct callback_result result = {.details = details};
    struct callback_body body = {.jobId = muster_arena_printf(arena, "job_%s", id),
                                 .team = job->team,
                                 .status = muster_enum_wire(&job_state_enum, (int)job->state),
                                 .timestamp = job->finished_ms};

    if (job->started_ms > 0 && job->finished_ms > job->started_ms)
        body.duration = job->finished_ms - job->started_ms;
    if (job->state == job_state_COMPLETED) {
        result.summary = summary_of(arena, details);
        body.result = &result;
    } else if (job->state == job_state_FAILED) {
        body.code = job->error ? job->error : muster_err_code(MUSTER_INTERNAL_ERROR);
        body.error = job->error_message;
        if (body.error == NULL || body.error[0] == '\0')
            body.error = muster_err_text(muster_err_from_code(body.code));
    }
    muster_json_encode(&callback_body_type, &body, out);
}

/* May the job's own header be sent?  Not what would break the request's frame, and not what is ours to say. */
static bool
is_sendable(const struct muster_pair *header)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection",
                                       "webhook-id",     "webhook-timestamp", "webhook-signature"};
    static const char name[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~";
    const char *c;
    size_t i;

    if (header->name[0] == '\0' || header->name[strspn(header->name, name)] != '\0')
        return false;
    for (c = header->value; *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
            return false;
    for (i = 0; i < sizeof ours / sizeof ours[0]; i++)
        if (strcasecmp(header->name, ours[i]) == 0)
            return false;
    return true;
}

/* The job's headers, then ours; a Content-Type of the job's replaces ours. */
static size_t
list_headers(struct muster_arena *arena, const struct muster_pairs *own, const char *id, int64_t now_ms,
             const struct muster_pair **out_headers)
{
    struct muster_pair *headers = muster_arena_alloc(arena, (own->count + 3) * sizeof *headers);
    bool has_type = false;
    size_t i, count = 0;

    for (i = 0; i < own->count; i++)
        if (is_sendable(&own->items[i])) {
            headers[count++] = own->items[i];
            has_type = has_type || strcasecmp(own->items[i].name, "content-type") == 0;
        }
    if (!has_type)
        headers[count++] = (struct muster_pair){"Content-Type", "application/json"};
    headers[count++] = (struct muster_pair){"webhook-id", muster_arena_printf(arena, "msg_%s", id)};
    headers[count++] =
        (struct muster_pair){"webhook-timestamp", muster_arena_printf(arena, "%lld", (long long)(now_ms / 1000))};
    *out_headers = headers;
    return count;
}

void
webhook_request_fill(struct muster_arena *arena, const struct job *job, int64_t now_ms, struct muster_buf *body,
                     struct muster_fetch_spec *spec)
{
    const struct job_callback *callback = job->callback;
    char id[MUSTER_ID_TEXT];

    muster_id_text(&job->id, id);
    spec->url = callback->url;
    spec->method = callback->method && callback->method[0] ? callback->method : "POST";
    spec->header_count = list_headers(arena, &callback->headers, id, now_ms, &spec->headers);
    write_body(arena, job, id, body);
    spec->body = body->data;
    spec->body_size = body->size;
}
