/* SPDX-License-Identifier: MPL-2.0 */
/* A whole hub inside a program: the store, the actors, the teams and the HTTP gateway of one configuration.
 *
 * A hub has threads of its own and steals nothing from its program: no signal handler (the HTTP library ignores SIGPIPE
 * from the first start on), no global state; several hubs, each with its own data folder, may run in one process.  All
 * functions may be called from any thread, but start and stop of one hub not at the same time, and nothing may be begun
 * with a hub that is being stopped.  Calls under way then come back with SHUTTING_DOWN.
 *
 * Text is UTF-8, ends with NUL, and what is given is copied.  Times are unix milliseconds.  What is zero or NULL in a
 * structure means its default (but a log_fd of 0 is descriptor 0).
 *
 * Functions that return `const char *` and say so return NULL when all is well, else the code of what went wrong, as
 * `muster describe errors` lists them: "TEAM_NOT_FOUND".  Codes are constants and not to be freed.  Where there is a
 * `problem` of `problem_size` bytes it then gets a sentence for a person; it may be NULL. */
#ifndef MUSTER_H
#define MUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MUSTER_API __attribute__((visibility("default")))
#else
#define MUSTER_API
#endif

struct muster_hub;

/* ---- teams of the program's own ----------------------------------------------------------------------------------- */

/* One attempt of a job, for the program to do. */
struct muster_turn;

/* A team whose agent is the program itself.  It is asked, retried, cancelled and followed like any other.  The
 * configuration file may say more of it (turn_timeout, silence_timeout, max_queued ...), under its name.
 *
 * The callbacks run on the team's thread, so they must not block: they start the work and return.  The first may come
 * before muster_hub_start has returned, for a job of an earlier run; none when muster_hub_stop has. */
struct muster_team {
    const char *name;    /* letters, digits, '.', '_' and '-' */
    int64_t concurrency; /* turns at a time; 0: the configuration's, or 1 */
    /* A turn begins.  `prompt` and `conversation` are good until this returns.  `conversation` is the same for all
     * turns of one caller's conversation, which come one after the other; "" when the caller named none.  `turn` is the
     * program's until it calls muster_turn_done or muster_turn_fail, here or later, from any thread.  A program that
     * tells nothing for silence_timeout (10 minutes) has its turn ended. */
    void (*begin)(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg);
    /* The turn was cancelled, took too long or is to go on after the next start: nobody waits for it any more.  It
     * still needs its muster_turn_done or muster_turn_fail, here or later.  Does not come for a turn whose end was told
     * already, but may cross with one that another thread tells at that moment and that gets CONFLICT: `turn` itself is
     * good until this returns, what the program keeps for it is the program's to guard.  May be NULL. */
    void (*cancel)(struct muster_turn *turn, void *arg);
    void *arg; /* the program's, for the callbacks */
};

/* What a turn tells.  Any thread, none of these blocks.  They return a code: CONFLICT when the attempt is over (also
 * after its hub was stopped); OVERLOADED when the team's thread is behind, and the same call is worth trying again a
 * moment later; INVALID_REQUEST and PAYLOAD_TOO_LARGE when it cannot be taken. */

/* A piece of the answer; at most 16 MiB of text, which may break within a character. */
MUSTER_API const char *muster_turn_chunk(struct muster_turn *turn, const char *text, size_t size);
/* It uses a tool.  `input` is JSON of at most 4 MiB, or NULL. */
MUSTER_API const char *muster_turn_tool(struct muster_turn *turn, const char *name, const char *input);
/* It has done `current` of `total` steps, is at `step` (NULL: not said). */
MUSTER_API const char *muster_turn_progress(struct muster_turn *turn, int64_t current, int64_t total, const char *step);
/* The answer, at most 64 MiB; NULL: the chunks joined.  After NULL and CONFLICT the turn is gone and must not be used
 * any more; after any other code it is still the program's. */
MUSTER_API const char *muster_turn_done(struct muster_turn *turn, const char *result);
/* There is no answer.  `code` is one of `muster describe errors`, `message` (may be NULL) for a person, at most 64 KiB
 * of it are kept.  With `again` the job is tried again, if it is one of the codes that are retried and attempts are
 * left.  The turn is gone as with muster_turn_done. */
MUSTER_API const char *muster_turn_fail(struct muster_turn *turn, const char *code, const char *message, bool again);
/* Id of the job, "msg_..."; as long as the turn. */
MUSTER_API const char *muster_turn_job(const struct muster_turn *turn);
/* Which attempt of the job this is, from 1. */
MUSTER_API int64_t muster_turn_attempt(const struct muster_turn *turn);

/* ---- start and stop ------------------------------------------------------------------------------------------------ */

struct muster_hub_settings {
    const char *config; /* YAML file; NULL: all defaults */
    const char *data;   /* data folder instead of the configuration's; NULL: the configuration's */
    const char *listen; /* one address instead of the configuration's, "127.0.0.1:0"; a port alone is of 127.0.0.1;
                           NULL: the configuration's */
    bool own_process;   /* the program has no children but the hub's: adopt and reap what agents leave behind */
    int log_fd;         /* where the log goes; 2: standard error */
    const struct muster_team *teams; /* of the program's own, besides those of the configuration; they come last */
    size_t team_count;
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

/* ---- jobs ---------------------------------------------------------------------------------------------------------- */

#define MUSTER_JOB_ID 48 /* bytes of a job's id, "msg_0190b7a2-...", with its NUL */

struct muster_submit {
    const char *team;            /* required */
    const char *prompt;          /* required */
    const char *priority;        /* "low", "normal", "high" or "critical"; NULL: normal */
    const char *session_id;      /* name of a conversation, at most 128 bytes; NULL: the team's own */
    const char *idempotency_key; /* the same key and the same request give the same job; NULL: none */
    const char *context;         /* a JSON object that is kept with the job; NULL: none */
    int64_t timeout_ms;          /* limit of one attempt; 0, or more than that: the team's turn_timeout */
    int64_t delay_ms;            /* not before so long from now */
    int64_t deadline_ms;         /* unix ms; fails when it has not ended by then; 0: none */
    int64_t max_attempts;        /* 0: the configuration's */
};

/* Give a team a job.  When this returns NULL it is on disk and will come to its end; `out_id` is its id.  A code:
 * INVALID_REQUEST, TEAM_NOT_FOUND, IDEMPOTENCY_MISMATCH, IDEMPOTENCY_IN_PROGRESS, QUEUE_FULL, OVERLOADED,
 * STORAGE_FULL, STORAGE_ERROR, SHUTTING_DOWN, TIMEOUT (it may have been taken all the same); of a hub elsewhere also
 * UNAUTHORIZED, FORBIDDEN, RATE_LIMITED. */
MUSTER_API const char *muster_submit(struct muster_hub *hub, const struct muster_submit *submit,
                                     char out_id[MUSTER_JOB_ID], char *problem, size_t problem_size);
/* End a job.  NULL: it is cancelled, and that is on disk.  NOT_FOUND; CONFLICT: it came to another end before;
 * OVERLOADED, STORAGE_FULL, STORAGE_ERROR, SHUTTING_DOWN, TIMEOUT (it may end all the same); of a hub elsewhere also
 * UNAUTHORIZED, FORBIDDEN, RATE_LIMITED. */
MUSTER_API const char *muster_cancel(struct muster_hub *hub, const char *job, char *problem, size_t problem_size);

/* What is known of a job; does not change. */
struct muster_result;

/* As it is now.  NOT_FOUND, STORAGE_ERROR, SHUTTING_DOWN; of a hub elsewhere also UNAUTHORIZED, FORBIDDEN,
 * RATE_LIMITED, OVERLOADED, TIMEOUT.  *out_result is to be freed with muster_result_free. */
MUSTER_API const char *muster_job_result(struct muster_hub *hub, const char *job, struct muster_result **out_result);
/* Wait until the job has come to its end, at most `timeout_ms` (-1: for ever); then as above.  TIMEOUT: it goes on.  A
 * hub elsewhere may go away and come back meanwhile.  Not from a callback of a team. */
MUSTER_API const char *muster_job_wait(struct muster_hub *hub, const char *job, int64_t timeout_ms,
                                       struct muster_result **out_result);
/* *result_p is NULL afterwards.  NULL is accepted. */
MUSTER_API void muster_result_free(struct muster_result **result_p);

/* Texts belong to the result. */
MUSTER_API const char *muster_result_job(const struct muster_result *result);
/* "queued", "running", "waiting", "retrying", "parked", or one of the ends: "completed", "failed", "cancelled". */
MUSTER_API const char *muster_result_state(const struct muster_result *result);
MUSTER_API bool muster_result_ended(const struct muster_result *result);
/* The answer; NULL: there is none. */
MUSTER_API const char *muster_result_text(const struct muster_result *result);
/* Code of the failure, and a sentence; NULL: it has not failed. */
MUSTER_API const char *muster_result_error(const struct muster_result *result);
MUSTER_API const char *muster_result_message(const struct muster_result *result);
MUSTER_API int64_t muster_result_attempts(const struct muster_result *result);
/* Unix ms; 0: not yet. */
MUSTER_API int64_t muster_result_created_ms(const struct muster_result *result);
MUSTER_API int64_t muster_result_started_ms(const struct muster_result *result); /* of the last attempt */
MUSTER_API int64_t muster_result_ended_ms(const struct muster_result *result);
/* From the start of the last attempt to the end; 0: it has not ended, or was never started. */
MUSTER_API int64_t muster_result_duration_ms(const struct muster_result *result);

/* ---- events -------------------------------------------------------------------------------------------------------- */

struct muster_follow;

struct muster_follow_settings {
    const char *job;   /* the events of this job; NULL: of many */
    const char *team;  /* of one team; NULL, and no job: of all */
    const char *after; /* behind this cursor; "oldest": all that are kept; NULL: of a job all, else those from now on */
};

/* Texts are good until the next muster_follow_next or muster_follow_close of the same follow. */
struct muster_event {
    const char *cursor; /* for `after` of a later follow, also after a restart and over HTTP */
    const char *type;   /* "job.chunk"; `muster describe events` lists them with their bodies */
    const char *team;   /* "": the hub's own */
    const char *job;    /* "": of no job */
    const char *body;   /* JSON object */
    int64_t at_ms;
    int64_t attempt; /* 0: of none */
};

/* Follow events in the order of the log: each once, none left out, each told when it is on disk.  Nothing is kept for a
 * follower but a batch of at most 256 events: a slow one reads the log.  NOT_FOUND: no such job; TEAM_NOT_FOUND;
 * INVALID_REQUEST; CURSOR_EXPIRED: what lies behind the cursor is no longer kept; OVERLOADED, STORAGE_ERROR,
 * SHUTTING_DOWN, TIMEOUT; of a hub elsewhere also UNAUTHORIZED, FORBIDDEN, RATE_LIMITED.  A follow is for one thread at
 * a time.  *out_follow is to be closed, before or after its hub is stopped. */
MUSTER_API const char *muster_follow_open(struct muster_hub *hub, const struct muster_follow_settings *settings,
                                          struct muster_follow **out_follow, char *problem, size_t problem_size);
/* A descriptor that can be read, as poll sees it, whenever muster_follow_next may have something to say.  Only to be
 * polled. */
MUSTER_API int muster_follow_fd(const struct muster_follow *follow);
/* Does not wait.  1: *out_event is the next event; 0: there is none now; -1: there will be none any more, because the
 * job has ended and all of it was told (*out_code is NULL), or because of *out_code: CURSOR_EXPIRED, STORAGE_ERROR,
 * SHUTTING_DOWN; of a hub elsewhere also UNAUTHORIZED, FORBIDDEN, TEAM_NOT_FOUND, when that was changed meanwhile, and
 * INTERNAL_ERROR. */
MUSTER_API int muster_follow_next(struct muster_follow *follow, struct muster_event *out_event, const char **out_code);
/* *follow_p is NULL afterwards.  NULL is accepted. */
MUSTER_API void muster_follow_close(struct muster_follow **follow_p);

/* ---- a hub in another process or on another host ------------------------------------------------------------------ */

/* Where bus.commands of a hub is, and who we are there. */
struct muster_address {
    const char *hub;       /* "tcp://HOST:5570", "ipc:///run/muster/commands" */
    const char *hub_key;   /* the hub's CURVE public key, as text or a file with it; NULL: a hub without CURVE, which is
                              on this machine */
    const char *curve_key; /* file with our CURVE secret key, such as the output of `muster key create --curve`; with
                              hub_key */
    const char *api_key;   /* without CURVE; NULL: the variable MUSTER_API_KEY */
};

/* Use a hub that runs elsewhere.  Jobs, results and follows then work as on one of our own, with what the key may do:
 * submits need teams:read and messages:write, cancels messages:write, results messages:read, follows messages:stream,
 * those of a job and waits both.  Calls wait for the network, at most 30 s.  A connection that breaks is made again by
 * itself: a submit or cancel that was on its way gets TIMEOUT, everything else waits for it, and a follow or a wait
 * goes on where it was.  A submit that is to be tried again needs its idempotency_key, of visible ASCII here.  Where a
 * delay counts from is the clock of this host.  A job larger than bus.max_message of the hub breaks the connection.
 * Each follow and wait is one of the requests that bus.max_pending of the hub counts.
 *
 * Waits up to 10 s for the first answer.  NULL: it cannot be reached, or does not let us in, and `problem` says why.
 * Ends with muster_hub_stop, which ends nothing but the connection and the follows.
 *
 * Of such a hub muster_hub_url is the endpoint; muster_hub_new_key, muster_hub_data and muster_hub_first_team are NULL;
 * muster_hub_drain and muster_hub_hurry do nothing.  One thread belongs to it; while the name of its host is looked up,
 * which a stop does not wait for, another one until that is over. */
MUSTER_API struct muster_hub *muster_hub_connect(const struct muster_address *address, char *problem,
                                                 size_t problem_size);

/* ---- a worker: teams of this process for a hub elsewhere ----------------------------------------------------------- */

struct muster_worker;

struct muster_worker_settings {
    const char *config;            /* YAML file with the teams and a section `worker`; NULL: all defaults */
    const char *data;              /* data folder; NULL: the configuration's, or ./muster-worker */
    struct muster_address address; /* what is not NULL stands over the section `worker` */
    const char *name;              /* likewise; the default is the host's name */
    const char *const *offer;      /* names of the teams that it offers; NULL: the configuration's, or all */
    size_t offer_count;
    const char *labels;              /* "gpu=yes,zone=a", besides the configuration's; NULL: none */
    bool own_process;                /* as for a hub */
    int log_fd;                      /* likewise */
    const struct muster_team *teams; /* of the program's own, besides those of the configuration */
    size_t team_count;
};

/* Start the teams and begin to dial; it goes on by itself until muster_worker_stop, over every break of the connection.
 * NULL as for muster_hub_start. */
MUSTER_API struct muster_worker *muster_worker_start(const struct muster_worker_settings *settings, char *problem,
                                                     size_t problem_size, bool *out_config_error);
/* Wait until it is attached, at most `timeout_ms` (-1: for ever).  TIMEOUT: not yet, and `problem` says what is in the
 * way.  Any other code: the hub refuses it and will do so again (VERSION_MISMATCH, FORBIDDEN, UNAUTHORIZED,
 * TEAM_NOT_FOUND, CONFLICT); it goes on trying all the same, in case that somebody changes that. */
MUSTER_API const char *muster_worker_wait(struct muster_worker *worker, int64_t timeout_ms, char *problem,
                                          size_t problem_size);
/* Take no more jobs, let running ones end for shutdown.grace, then have them parked, and have the hub acknowledge
 * everything.  Returns true when the hub knows that we are gone; false when it could not be told: what it does not know
 * yet stays in the data folder.  Blocks. */
MUSTER_API bool muster_worker_drain(struct muster_worker *worker);
/* Any thread: a drain under way parks at once; a second time: it waits for the hub no longer. */
MUSTER_API void muster_worker_hurry(struct muster_worker *worker);
/* With own_process: reap what agents left behind; call it now and then. */
MUSTER_API void muster_worker_reap(struct muster_worker *worker);
/* muster_worker_drain, unless that was done or it was never attached and has nothing to tell; then stop every agent,
 * thread and socket.  *worker_p is NULL afterwards.  NULL is accepted. */
MUSTER_API void muster_worker_stop(struct muster_worker **worker_p);
/* As long as the worker. */
MUSTER_API const char *muster_worker_name(const struct muster_worker *worker);
MUSTER_API const char *muster_worker_hub(const struct muster_worker *worker);
MUSTER_API const char *muster_worker_teams(const struct muster_worker *worker); /* "backend (2), frontend (1)" */
MUSTER_API const char *muster_worker_data(const struct muster_worker *worker);

/* A sentence for a code; "" for NULL. */
MUSTER_API const char *muster_code_text(const char *code);

/* "0.1.0" */
MUSTER_API const char *muster_version(void);

#ifdef __cplusplus
}
#endif

#endif
