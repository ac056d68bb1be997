/* SPDX-License-Identifier: MPL-2.0 */
/* A whole hub inside a program: the store, the actors, the teams and the HTTP gateway of one configuration.
 *
 * A hub has threads of its own and steals nothing from its program: no signal handler, no global state; several hubs,
 * each with its own data folder, may run in one process.  All functions may be called from any thread, but start and
 * stop of one hub not at the same time. */
#ifndef MUSTER_H
#define MUSTER_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MUSTER_API __attribute__((visibility("default")))
#else
#define MUSTER_API
#endif

struct muster_hub;

struct muster_hub_settings {
    const char *config; /* YAML file; NULL: all defaults */
    const char *data;   /* data folder instead of the configuration's; NULL: the configuration's */
    const char *listen; /* one address instead of the configuration's, "127.0.0.1:0"; a port alone is of 127.0.0.1;
                           NULL: the configuration's */
    bool own_process;   /* the program has no children but the hub's: adopt and reap what agents leave behind */
    int log_fd;         /* where the log goes; 2: standard error */
};

/* Open the store, end what a dead daemon's agents left running, start everything, begin to serve.  NULL: it could not,
 * nothing is left running, and `problem` says what to do, with file, line and column when it is the configuration.
 * *out_config_error (may be NULL) tells a wrong configuration or `listen` from a failure to run it. */
MUSTER_API struct muster_hub *muster_hub_start(const struct muster_hub_settings *settings, char *problem,
                                               size_t problem_size, bool *out_config_error);
/* Take no more work, let running jobs end for at most the configured grace, have the rest parked.  Returns when no job
 * runs; reads and streams go on until muster_hub_stop.  A second call returns at once. */
MUSTER_API void muster_hub_drain(struct muster_hub *hub);
/* Have muster_hub_drain, under way or to come, park at once.  Any thread, also during muster_hub_drain. */
MUSTER_API void muster_hub_hurry(struct muster_hub *hub);
/* muster_hub_drain, then stop every agent, thread and socket.  *hub_p is NULL afterwards.  NULL is accepted. */
MUSTER_API void muster_hub_stop(struct muster_hub **hub_p);

/* "http://127.0.0.1:3100", of the first address. */
MUSTER_API const char *muster_hub_url(const struct muster_hub *hub);
/* The key made because the data folder had none and the configuration names none; NULL when none was made now. */
MUSTER_API const char *muster_hub_new_key(const struct muster_hub *hub);
/* Absolute path of the data folder. */
MUSTER_API const char *muster_hub_data(const struct muster_hub *hub);
/* Name of the first team. */
MUSTER_API const char *muster_hub_first_team(const struct muster_hub *hub);
/* Reap adopted processes that have ended; with own_process call it about once a second. */
MUSTER_API void muster_hub_reap(struct muster_hub *hub);

/* "0.1.0" */
MUSTER_API const char *muster_version(void);

#ifdef __cplusplus
}
#endif

#endif
