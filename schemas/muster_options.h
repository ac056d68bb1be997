/* SPDX-License-Identifier: MPL-2.0 */
/* The configuration: YAML text to `struct options`, every error with file, line and column.
 *
 * `${VAR}` and `${VAR:-default}` are expanded inside scalar values; an unset variable without a default is an error.
 * All or nothing: on any error no options come out.  Any thread; the result is immutable. */
#ifndef MUSTER_OPTIONS_H
#define MUSTER_OPTIONS_H

#include "schemas/muster_codec.h"

/* Where and why a configuration was refused: "muster.yaml:12:5: http.threads: ...". */
struct muster_options_error {
    char text[1024];
};

/* The options and the memory they live in. */
struct muster_config {
    struct muster_arena *arena;    /* owns everything below */
    const struct options *options; /* complete: defaults filled in, paths absolute */
    bool data_given;               /* the data folder is not the default */
};

/* Read `path`; NULL gives all defaults, with paths counted from the current directory.  A configuration without teams
 * gets one team `echo`.  MUSTER_INVALID_REQUEST fills `error`. */
muster_err muster_config_load(const char *path, struct muster_config *out_config, struct muster_options_error *error);
/* The same for a program that registers teams of its own, `own` (may be NULL): they are there in any case, with what
 * the file says of them, and only they have the driver actor. */
muster_err muster_config_load_own(const char *path, const struct muster_strs *own, struct muster_config *out_config,
                                  struct muster_options_error *error);
/* The same as muster_config_load from text; `name` stands in errors, `directory` is what relative paths count from. */
muster_err muster_config_parse(const char *text, size_t size, const char *name, const char *directory,
                               struct muster_config *out_config, struct muster_options_error *error);
void muster_config_free(struct muster_config *config);

/* NULL when there is no such team. */
const struct team_options *muster_team_options(const struct options *options, const char *name);

/* An address to listen on: "127.0.0.1:3100"; "3100" is that port of 127.0.0.1; "*:3100" and "0.0.0.0:3100" are all
 * addresses of the machine. */
struct muster_listen {
    uint32_t address; /* IPv4, host order; 0: all */
    int port;         /* 0: a free one */
};
/* *out_problem (may be NULL) says what is wrong: "must be ...". */
muster_err muster_listen_parse(const char *text, struct muster_listen *out_listen, const char **out_problem);
/* What is wrong with an endpoint of bus.commands of some hub, tcp://HOST:PORT or ipc://PATH: "must be ..."; NULL:
 * nothing. */
const char *muster_hub_endpoint_problem(const char *endpoint);
/* Is this endpoint one that only this machine reaches: ipc, or tcp on loopback? */
bool muster_endpoint_is_local(const char *endpoint);
/* Does one of them take what the other needs? */
bool muster_listen_overlaps(const struct muster_listen *one, const struct muster_listen *other);

/* "250ms", "30s", "5m", "2h", "7d", or a plain number of milliseconds. */
muster_err muster_duration_parse(const char *text, int64_t *out_ms);
/* "4096", "16KiB", "1MiB", "1GiB", also KB/MB/GB (powers of 1000). */
muster_err muster_size_parse(const char *text, int64_t *out_bytes);

#endif
