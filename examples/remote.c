/* SPDX-License-Identifier: MPL-2.0 */
/* A program that uses a hub elsewhere: gives it a task, prints what happens as it happens, then the answer.
 *
 *   MUSTER_API_KEY=... remote HUB TEAM TASK                     a hub on this machine, without CURVE
 *   remote HUB TEAM TASK HUB-KEY-FILE CURVE-KEY-FILE            any other; HUB is tcp://HOST:PORT or ipc://PATH */
#include <poll.h>
#include <stdio.h>

#include "api/muster.h"

static const char *
print_events(struct muster_follow *follow)
{
    struct pollfd fd = {.fd = muster_follow_fd(follow), .events = POLLIN};
    struct muster_event event;
    const char *code;
    int told;

    while ((told = muster_follow_next(follow, &event, &code)) >= 0) {
        if (told == 0) {
            poll(&fd, 1, -1);
            continue;
        }
        printf("%s %s\n", event.type, event.body);
        fflush(stdout);
    }
    return code;
}

static const char *
run(struct muster_hub *hub, const char *team, const char *task, char *problem, size_t size)
{
    struct muster_submit submit = {.team = team, .prompt = task};
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
    struct muster_address address = {0};
    char problem[512] = "";
    struct muster_hub *hub;
    const char *code;

    if (argc != 4 && argc != 6) {
        fprintf(stderr, "usage: %s HUB TEAM TASK [HUB-KEY-FILE CURVE-KEY-FILE]\n", argv[0]);
        return 2;
    }
    address.hub = argv[1];
    address.hub_key = argc > 4 ? argv[4] : NULL;
    address.curve_key = argc > 4 ? argv[5] : NULL;
    hub = muster_hub_connect(&address, problem, sizeof problem);
    if (hub == NULL) {
        fprintf(stderr, "%s\n", problem);
        return 1;
    }
    code = run(hub, argv[2], argv[3], problem, sizeof problem);
    if (code)
        fprintf(stderr, "%s: %s\n", code, problem[0] ? problem : muster_code_text(code));
    muster_hub_stop(&hub);
    return code ? 1 : 0;
}
