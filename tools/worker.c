/* SPDX-License-Identifier: MPL-2.0 */
/* worker: teams of this machine for a hub elsewhere.  The main thread starts the worker, tells how it stands to its
 * hub, and waits for signals: the first one stops in order, a second one parks at once, a third one does not wait for
 * the hub. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/muster.h"
#include "schemas/muster_buf.h"
#include "schemas/muster_err.h"
#include "tools/client.h"
#include "tools/commands.h"
#include "tools/daemon.h"

enum {
    LOOK_MS = 100,
    TELL_MS = 2000, /* a connection that is back before that is not told of */
    REAP_LOOKS = 10
};

/* What the person at the terminal was told. */
struct told {
    bool ever;         /* it was attached once */
    bool attached;     /* it was, at the last look */
    int64_t since_ms;  /* when it was not any more */
    char problem[512]; /* told since then */
    bool keep_trying;
};

/* "a,b" as names in one piece of memory, which the caller frees; NULL: not given. */
static const char **
split_names(const char *text, size_t *out_count)
{
    size_t size = text ? strlen(text) : 0, room = size / 2 + 2;
    const char **names;
    char *copy, *at;

    *out_count = 0;
    if (text == NULL)
        return NULL;
    names = muster_alloc(room * sizeof *names + size + 1);
    copy = (char *)(names + room);
    memcpy(copy, text, size + 1);
    for (at = strtok(copy, ","); at; at = strtok(NULL, ","))
        names[(*out_count)++] = at;
    return names;
}

static int
refused(const struct muster_worker *worker, const char *code, const char *problem)
{
    int result = exit_of_answer(muster_err_http(muster_err_from_code(code)), code);

    return complain(result == EXIT_DONE ? EXIT_FAILED : result, "%s refuses this worker: %s (%s)",
                    muster_worker_hub(worker), problem, code);
}

static void
tell_attached(const struct muster_worker *worker, struct told *told)
{
    if (!told->attached && (!told->ever || told->problem[0])) {
        printf("worker %s is attached to %s: %s\n", muster_worker_name(worker), muster_worker_hub(worker),
               muster_worker_teams(worker));
        fflush(stdout);
    }
    told->ever = told->attached = true;
    told->problem[0] = '\0';
}

static void
tell_detached(const struct muster_worker *worker, struct told *told, const char *problem)
{
    if (told->attached)
        told->since_ms = client_now_ms();
    told->attached = false;
    if (client_now_ms() - told->since_ms < TELL_MS || strcmp(told->problem, problem) == 0)
        return;
    (void)snprintf(told->problem, sizeof told->problem, "%s", problem);
    (void)complain(EXIT_DONE, "not attached to %s: %s; trying again", muster_worker_hub(worker), problem);
}

/* Run until a signal asks for the end, or until the hub refuses at first what it will refuse again. */
static int
work(struct muster_worker *worker, struct told *told, const sigset_t *set)
{
    char problem[sizeof told->problem] = "";
    const char *code;
    int looks = 0;

    do {
        code = muster_worker_wait(worker, 0, problem, sizeof problem);
        if (code == NULL)
            tell_attached(worker, told);
        else if (strcmp(code, "TIMEOUT") != 0 && !told->ever && !told->keep_trying)
            return refused(worker, code, problem);
        else
            tell_detached(worker, told, problem);
        if (++looks % REAP_LOOKS == 0)
            muster_worker_reap(worker);
    } while (!daemon_ends(set, LOOK_MS));
    return EXIT_DONE;
}

static void
drain(void *worker)
{
    if (muster_worker_drain(worker))
        puts("the hub has everything");
    else
        printf("the hub could not be told; what it does not know stays in %s\n", muster_worker_data(worker));
}

static void
hurry(void *worker)
{
    muster_worker_hurry(worker);
}

static struct muster_worker_settings
settings_of(const struct call *call)
{
    const char *data = call_value(call, "--data");

    return (struct muster_worker_settings){
        .config = call_value(call, "--config"),
        .data = data && *data ? data : NULL, /* MUSTER_DATA is that of a server */
        .address = {.hub = call_value(call, "--hub"),
                    .hub_key = call_value(call, "--hub-key"),
                    .curve_key = call_value(call, "--curve-key"),
                    .api_key = call_value(call, "--key")},
        .name = call_value(call, "--name"),
        .labels = call_value(call, "--labels"),
        .own_process = true,
        .log_fd = STDERR_FILENO,
    };
}

int
run_worker(const struct call *call)
{
    struct muster_worker_settings settings = settings_of(call);
    struct told told = {.since_ms = client_now_ms(), .keep_trying = call_value(call, "--keep-trying") != NULL};
    struct daemon daemon = {.drain = drain, .hurry = hurry};
    const char **offer = split_names(call_value(call, "--teams"), &settings.offer_count);
    struct muster_worker *worker;
    char problem[1024] = "";
    bool config_error = false;
    sigset_t set;
    int result;

    daemon_prepare(&set);
    settings.offer = offer;
    worker = muster_worker_start(&settings, problem, sizeof problem, &config_error);
    free(offer);
    if (!worker)
        return complain(config_error ? EXIT_USAGE : EXIT_FAILED, "%s", problem);
    printf("muster %s: worker %s dials %s\n", muster_version(), muster_worker_name(worker), muster_worker_hub(worker));
    fflush(stdout);
    result = work(worker, &told, &set);
    if (result == EXIT_DONE) {
        puts("stopping: running jobs may end first (signal again to park them now)");
        fflush(stdout);
        daemon.what = worker;
        daemon_drain(&daemon, &set);
    }
    muster_worker_stop(&worker);
    if (result == EXIT_DONE)
        puts("stopped");
    return result;
}
