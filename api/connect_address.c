/* SPDX-License-Identifier: MPL-2.0 */
/* connect_address: what a program or a worker says of the hub it wants, checked, with the keys read from their files.
 * Any thread.  What can fail: what is said, and files. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/connect.h"
#include "schemas/muster_options.h"

enum { FILE_MAX = 4096 };

/* The key in a file: behind `word` on a line of its own, as `muster key create --curve` prints it, or by itself. */
static bool
find_key(char *text, const char *word, uint8_t out_key[MUSTER_CURVE])
{
    char *rest = NULL, *token = strtok_r(text, " \t\r\n", &rest), *first = token;

    for (; token; token = strtok_r(NULL, " \t\r\n", &rest))
        if (strcmp(token, word) == 0) {
            first = strtok_r(NULL, " \t\r\n", &rest);
            break;
        }
    return first && muster_curve_parse(first, out_key);
}

static muster_err
read_key(const char *path, const char *what, const char *word, uint8_t out_key[MUSTER_CURVE], char *problem,
         size_t size)
{
    FILE *file = fopen(path, "re");
    char text[FILE_MAX] = "";
    bool found;

    if (file == NULL) {
        snprintf(problem, size, "%s: %s: %s", what, path, strerror(errno));
        return MUSTER_INVALID_REQUEST;
    }
    setbuf(file, NULL); /* so that nothing of a secret stays behind */
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    found = find_key(text, word, out_key);
    explicit_bzero(text, sizeof text);
    if (!found)
        snprintf(problem, size, "%s: there is no CURVE key in %s", what, path);
    return found ? MUSTER_OK : MUSTER_INVALID_REQUEST;
}

static bool
is_given(const char *text)
{
    return text && *text;
}

static muster_err
read_curve(const struct muster_address *address, struct muster_dial_spec *spec, char *problem, size_t size)
{
    muster_err err = MUSTER_OK;

    spec->curve = true;
    if (!muster_curve_parse(address->hub_key, spec->hub_key))
        err = read_key(address->hub_key, "hub_key", "server-public", spec->hub_key, problem, size);
    if (!err)
        err = read_key(address->curve_key, "curve_key", "curve-secret", spec->secret, problem, size);
    return err;
}

muster_err
connect_address_read(const struct muster_address *address, struct muster_dial_spec *out_spec, const char **out_api_key,
                     char *problem, size_t problem_size)
{
    struct muster_dial_spec spec = {.endpoint = address->hub};
    const char *key = address->api_key ? address->api_key : getenv("MUSTER_API_KEY"), *wrong = NULL;
    muster_err err = MUSTER_INVALID_REQUEST;

    if (is_given(address->hub))
        wrong = muster_hub_endpoint_problem(address->hub);
    if (!is_given(address->hub))
        snprintf(problem, problem_size, "hub is required: where bus.commands of the hub is");
    else if (wrong)
        snprintf(problem, problem_size, "hub: %s %s", address->hub, wrong);
    else if (is_given(address->hub_key) != is_given(address->curve_key))
        snprintf(problem, problem_size, "hub_key and curve_key belong together");
    else if (is_given(address->hub_key))
        err = read_curve(address, &spec, problem, problem_size);
    else if (!muster_endpoint_is_local(address->hub))
        snprintf(problem, problem_size, "hub_key and curve_key are required for a hub on another host");
    else if (!is_given(key))
        snprintf(problem, problem_size, "api_key is required without CURVE keys; MUSTER_API_KEY is not set either");
    else
        err = MUSTER_OK;
    if (!err) {
        *out_spec = spec;
        *out_api_key = spec.curve ? NULL : key;
    }
    explicit_bzero(&spec, sizeof spec);
    return err;
}
