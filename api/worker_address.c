/* SPDX-License-Identifier: MPL-2.0 */
/* worker_address: what a worker says of its hub, with advice where something is missing.  A file with what `muster key
 * create --curve` printed has both keys.  Any thread.  What can fail: what is said, and files. */
#include "api/worker_address.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/connect.h"
#include "schemas/muster_options.h"

enum { FILE_MAX = 4096, CONNECT_MS = 10000 };
#define UNSENT_MAX (INT64_C(256) << 20) /* more than the largest parcel */

static bool
is_given(const char *text)
{
    return text && text[0];
}

/* Does the key file also have the hub's key?  On the way, may others read it?  An empty one is what a shell leaves of a
 * `muster key create` that failed. */
static muster_err
look_into(const char *path, struct muster_journal *journal, bool *out_has_hub_key, char *problem, size_t problem_size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char text[FILE_MAX];
    struct stat stat;
    ssize_t size;

    if (fd < 0) {
        snprintf(problem, problem_size, "curve_key: %s: %s", path, strerror(errno));
        return MUSTER_INVALID_REQUEST;
    }
    if (fstat(fd, &stat) == 0 && (stat.st_mode & 077) != 0)
        muster_journal_say(journal, WARNING, "key-readable", "Others may read the file with the secret key: chmod 600.",
                           MUSTER_SAY_TEXT("file", path));
    size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size > 0 ? size : 0] = '\0';
    *out_has_hub_key = strstr(text, "server-public") != NULL;
    explicit_bzero(text, sizeof text);
    if (size > 0)
        return MUSTER_OK;
    snprintf(problem, problem_size, "curve_key: there is nothing in %s; `muster key create` failed, or wrote elsewhere",
             path);
    return MUSTER_INVALID_REQUEST;
}

/* What is missing, and where to get it; NULL: nothing. */
static const char *
advice(const struct muster_address *address)
{
    bool hub_key = is_given(address->hub_key), curve_key = is_given(address->curve_key);

    if (!is_given(address->hub))
        return "the hub is missing: say where it is with --hub tcp://HOST:5570, or worker.hub in the configuration";
    if (hub_key && !curve_key)
        return "hub_key without curve_key: give the file with this worker's CURVE secret key too; on the hub `muster "
               "key create NAME --scope workers:run --curve` makes one";
    if (curve_key && !hub_key)
        return "curve_key without hub_key: give the hub's public key too; it stands in bus.key.pub of the hub's data "
               "folder";
    if (!hub_key && muster_hub_endpoint_problem(address->hub) == NULL && !muster_endpoint_is_local(address->hub))
        return "a hub on another host is spoken to by CURVE only: give --curve-key (a file with what `muster key "
               "create NAME --scope workers:run --curve` printed on the hub) and --hub-key (bus.key.pub of the hub's "
               "data folder)";
    if (!hub_key && !is_given(address->api_key) && !is_given(getenv("MUSTER_API_KEY")))
        return "an API key is missing: give it with MUSTER_API_KEY; on the hub `muster key create NAME --scope "
               "workers:run` makes one";
    return NULL;
}

muster_err
worker_address_read(const struct muster_address *address, struct muster_journal *journal,
                    struct muster_dial_spec *out_spec, const char **out_api_key, char *problem, size_t problem_size)
{
    struct muster_address whole = *address;
    bool has_hub_key = false;
    const char *missing;
    muster_err err = MUSTER_OK;

    if (is_given(whole.curve_key))
        err = look_into(whole.curve_key, journal, &has_hub_key, problem, problem_size);
    if (err)
        return err;
    if (has_hub_key && !is_given(whole.hub_key))
        whole.hub_key = whole.curve_key;
    missing = advice(&whole);
    if (missing) {
        snprintf(problem, problem_size, "%s", missing);
        return MUSTER_INVALID_REQUEST;
    }
    if (!is_given(whole.api_key))
        whole.api_key = NULL;
    err = connect_address_read(&whole, out_spec, out_api_key, problem, problem_size);
    if (err)
        return err;
    out_spec->max_unsent = UNSENT_MAX;
    out_spec->connect_ms = CONNECT_MS;
    return MUSTER_OK;
}
