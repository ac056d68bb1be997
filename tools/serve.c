/* SPDX-License-Identifier: MPL-2.0 */
/* serve: the daemon.  The main thread starts the hub, then only waits for signals: the first SIGTERM or SIGINT stops in
 * order, a second one parks at once what still runs. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/muster.h"
#include "schemas/muster_buf.h"
#include "tools/client.h"
#include "tools/commands.h"
#include "tools/daemon.h"
#include "tools/term.h"

#define REAP_MS 1000

/* ---- ready ---- */

/* Append as one word of a shell. */
static void
add_word(struct muster_buf *out, const char *text)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._/~+,:@%";

    if (strspn(text, plain) == strlen(text) && *text && *text != '~') {
        muster_buf_str(out, text);
        return;
    }
    muster_buf_str(out, "'");
    for (; *text; text++) {
        if (*text == '\'')
            muster_buf_str(out, "'\\''");
        else
            muster_buf_add(out, text, 1);
    }
    muster_buf_str(out, "'");
}

/* The Authorization header as a word of the curl line: with the key itself where it may be shown, else with what finds
 * it. */
static void
add_header(struct muster_buf *out, const char *data, const char *shown_key)
{
    struct muster_buf path = {0};

    muster_buf_printf(&path, "%s/admin.key", data);
    if (shown_key) {
        muster_buf_printf(out, "'Authorization: Bearer %s'", shown_key);
    } else if (access(path.data, R_OK) == 0) {
        muster_buf_str(out, "\"Authorization: Bearer $(cat ");
        add_word(out, path.data);
        muster_buf_str(out, ")\"");
    } else {
        muster_buf_str(out, "\"Authorization: Bearer $MUSTER_API_KEY\"");
    }
    muster_buf_free(&path);
}

/* Would `muster ask` look into this folder by itself? */
static bool
is_default_data(const char *data)
{
    const char *variable = getenv("MUSTER_DATA");
    char ours[PATH_MAX];
    char theirs[PATH_MAX];

    return realpath(data, ours) && realpath(variable && *variable ? variable : CLIENT_DATA_DEFAULT, theirs) &&
           strcmp(ours, theirs) == 0;
}

/* A new key is shown to a person only: a pipe or file is a journal that others may read and that is kept. */
static void
announce(const struct muster_hub *hub)
{
    const char *data = muster_hub_data(hub);
    const char *key = muster_hub_new_key(hub);
    const char *team = muster_hub_first_team(hub);
    const char *shown_key = isatty(STDOUT_FILENO) ? key : NULL;
    struct muster_buf out = {0};

    muster_buf_printf(&out, "muster %s is ready at %s\n", muster_version(), muster_hub_url(hub));
    if (shown_key)
        muster_buf_printf(&out, "key (also in %s/admin.key): %s\n", data, shown_key);
    else if (key)
        muster_buf_printf(&out, "key: in %s/admin.key\n", data);
    muster_buf_printf(&out, "try: curl -s -X POST %s/api/v1/teams/%s/ask -H ", muster_hub_url(hub), team);
    add_header(&out, data, shown_key);
    muster_buf_str(&out, " -H 'Content-Type: application/json' -d '{\"question\":\"hello\"}'\n");
    muster_buf_str(&out, "or:  ");
    add_word(&out, strchr(program_invocation_name, '/') ? program_invocation_name : "muster");
    muster_buf_str(&out, " ");
    if (!is_default_data(data)) {
        muster_buf_str(&out, "--data ");
        add_word(&out, data);
        muster_buf_str(&out, " ");
    }
    muster_buf_printf(&out, "ask %s hello\n", team);
    fputs(out.data, stdout);
    fflush(stdout);
    muster_buf_free(&out);
}

/* ---- stopping ---- */

static void
drain(void *hub)
{
    muster_hub_drain(hub);
}

static void
hurry(void *hub)
{
    muster_hub_hurry(hub);
}

int
run_serve(const struct call *call)
{
    struct muster_hub_settings settings = {
        .config = call_value(call, "--config"),
        .data = client_data(call),
        .listen = call_value(call, "--listen"),
        .own_process = true,
        .log_fd = STDERR_FILENO,
    };
    struct daemon daemon = {.drain = drain, .hurry = hurry};
    struct muster_hub *hub;
    char problem[1024] = "";
    bool config_error = false;
    sigset_t set;

    daemon_prepare(&set);
    hub = muster_hub_start(&settings, problem, sizeof problem, &config_error);
    if (!hub)
        return complain(config_error ? EXIT_USAGE : EXIT_FAILED, "%s", problem);
    announce(hub);
    while (!daemon_ends(&set, REAP_MS))
        muster_hub_reap(hub); /* what agents left behind */
    puts("stopping: running jobs may end first (signal again to park them now)");
    fflush(stdout);
    daemon.what = hub;
    daemon_drain(&daemon, &set);
    muster_hub_stop(&hub);
    puts("stopped");
    return EXIT_DONE;
}
