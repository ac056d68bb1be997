/* SPDX-License-Identifier: MPL-2.0 */
/* The tables behind exits.h. */
#include "tools/exits.h"

#include <string.h>

const struct exit_row exit_rows[] = {
    {EXIT_DONE, "done"},
    {EXIT_FAILED, "the job failed, or the server did"},
    {EXIT_USAGE, "wrong usage or configuration"},
    {EXIT_UNREACHABLE, "the server cannot be reached"},
    {EXIT_REFUSED, "refused: no key, a wrong one, or one without the scope"},
    {EXIT_NOT_FOUND, "no such team, job, key, webhook or worker"},
    {EXIT_TIMEOUT, "timeout; the job goes on"},
    {EXIT_LATER, "rate limited or overloaded; try later"},
    {EXIT_CANCELLED, "the job was cancelled"},
    {EXIT_INTERRUPTED, "interrupted; a job already sent goes on"},
    {0, NULL},
};

/* First row that fits wins: a row with a code is for that code only, one without for its status. */
static const struct {
    const char *code;
    long status;
    int exit;
    const char *advice;
} answers[] = {
    {"CANCELLED", 0, EXIT_CANCELLED, "send it again if you still want it"},
    {"TEAM_NOT_FOUND", 0, EXIT_NOT_FOUND, ""},
    {"CURSOR_EXPIRED", 0, EXIT_FAILED, "these events are no longer kept; see the result with: muster job"},
    {"IDEMPOTENCY_IN_PROGRESS", 0, EXIT_LATER, "try again in a moment"},
    {"IDEMPOTENCY_MISMATCH", 0, EXIT_USAGE, "give another request another --idempotency-key"},
    {"DEADLINE_EXCEEDED", 0, EXIT_FAILED, "send it again with a later --deadline"},
    {"SHUTTING_DOWN", 0, EXIT_LATER, "try again when the server is back"},
    {"STORAGE_FULL", 0, EXIT_LATER, "make room on the server's disk"},
    {NULL, 400, EXIT_USAGE, "see: muster help"},
    {NULL, 401, EXIT_REFUSED, "give a key with MUSTER_API_KEY or --key"},
    {NULL, 403, EXIT_REFUSED, "use a key that may do this"},
    {NULL, 404, EXIT_NOT_FOUND, "check the name or id, and the server's version"},
    {NULL, 405, EXIT_USAGE, "the server may have another version; see: muster version"},
    {NULL, 408, EXIT_TIMEOUT, "the job goes on; find it with: muster history"},
    {NULL, 409, EXIT_FAILED, "see: muster key list"},
    {NULL, 410, EXIT_FAILED, "look at it with: muster job"},
    {NULL, 413, EXIT_USAGE, "send less, or raise http.max_body"},
    {NULL, 415, EXIT_USAGE, "the server may have another version; see: muster version"},
    {NULL, 422, EXIT_USAGE, "see: muster help"},
    {NULL, 429, EXIT_LATER, "try again later"},
    {NULL, 431, EXIT_USAGE, "use a shorter key or argument"},
    {NULL, 503, EXIT_LATER, "try again later"},
    {NULL, 507, EXIT_LATER, "make room on the server's disk"},
    {NULL, 0, EXIT_FAILED, "look into the server's log"},
};

static size_t
find_answer(long status, const char *code)
{
    const size_t last = sizeof answers / sizeof *answers - 1;
    size_t i;

    for (i = 0; i < last; i++) {
        if (answers[i].code ? strcmp(answers[i].code, code) == 0 : answers[i].status == status)
            return i;
    }
    return last;
}

int
exit_of_answer(long status, const char *code)
{
    return answers[find_answer(status, code)].exit;
}

int
exit_of_job(const char *code)
{
    return strcmp(code, "CANCELLED") == 0 ? EXIT_CANCELLED : EXIT_FAILED;
}

const char *
exit_advice(long status, const char *code)
{
    return answers[find_answer(status, code)].advice;
}
