/* SPDX-License-Identifier: MPL-2.0 */
/* A program with a hub inside that gives a team a task, prints what happens until it has ended, and then the answer.
 *
 *   follow DATA-FOLDER [TASK] */
#include <poll.h>
#include <stdio.h>

#include "api/muster.h"

/* Print events until there are no more; returns a code or NULL. */
static const char *
print_events(struct muster_follow *follow)
{
    struct pollfd fd = {.fd = muster_follow_fd(follow), .events = POLLIN};
    struct muster_event event;
    const char *code;
    int told;

    while ((told = muster_follow_next(follow, &event, &code)) >= 0) {
        if (told > 0)
            printf("%s %s %s\n", event.cursor, event.type, event.body);
        else
            poll(&fd, 1, -1);
    }
    return code;
}

static const char *
run(struct muster_hub *hub, const char *task, char *problem, size_t size)
{
    struct muster_submit submit = {.team = muster_hub_first_team(hub), .prompt = task, .priority = "high"};
    struct muster_follow_settings settings = {0};
    struct muster_result *result = NULL;
    struct muster_follow *follow = NULL;
    char id[MUSTER_JOB_ID];
    const char *code = muster_submit(hub, &submit, id, problem, size);

    settings.job = id;
    if (code == NULL)
        code = muster_follow_open(hub, &settings, &follow, problem, size);
    if (code == NULL)
        code = print_events(follow);
    muster_follow_close(&follow);
    if (code == NULL)
        code = muster_job_result(hub, id, &result);
    if (code == NULL)
        printf("%s: %s\n", muster_result_state(result),
               muster_result_text(result) ? muster_result_text(result) : muster_result_message(result));
    muster_result_free(&result);
    return code;
}

int
main(int argc, char **argv)
{
    struct muster_hub_settings settings = {.listen = "127.0.0.1:0", .log_fd = 2};
    char problem[512] = "";
    const char *code = "INTERNAL_ERROR";
    struct muster_hub *hub;

    settings.data = argc > 1 ? argv[1] : "follow-data";
    hub = muster_hub_start(&settings, problem, sizeof problem, NULL);
    if (hub)
        code = run(hub, argc > 2 ? argv[2] : "@chunks=3 one two three", problem, sizeof problem);
    if (code)
        fprintf(stderr, "%s: %s\n", code, problem[0] ? problem : muster_code_text(code));
    muster_hub_stop(&hub);
    return code ? 1 : 0;
}
