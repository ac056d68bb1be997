/* SPDX-License-Identifier: MPL-2.0 */
/* What actors publish on the board for readers on other threads, and how to read it.
 *
 * All objects are immutable; take, read, release. */
#ifndef MUSTER_SNAPSHOTS_H
#define MUSTER_SNAPSHOTS_H

#include "actors/muster_actor.h"

/* ---- keys: published by auth under MUSTER_KEYS_BOARD after each change ---- */
#define MUSTER_KEYS_BOARD "keys"
struct muster_keys; /* all keys that exist, revoked ones too */
/* The live key with this secret: not revoked, not expired at `now_ms`; the secret it had before it was rotated is good
 * too until its time is over.  The time it takes does not depend on how much of a digest matches.
 * MUSTER_UNAUTHORIZED with *out_reason "Invalid API key", "API key expired", "API key revoked" or "API key rotated".
 * *out_key lives as long as the notice. */
muster_err muster_keys_check(const struct muster_keys *keys, const char *secret, int64_t now_ms,
                             const struct key **out_key, const char **out_reason);
/* The same for the SHA-256 of a secret. */
muster_err muster_keys_check_digest(const struct muster_keys *keys, const uint8_t digest[MUSTER_DIGEST], int64_t now_ms,
                                    const struct key **out_key, const char **out_reason);
/* The live key with this CURVE public key; likewise. */
muster_err muster_keys_check_curve(const struct muster_keys *keys, const uint8_t curve[32], int64_t now_ms,
                                   const struct key **out_key, const char **out_reason);
/* All of them, oldest first. */
size_t muster_keys_count(const struct muster_keys *keys);
const struct key *muster_keys_at(const struct muster_keys *keys, size_t index);

/* ---- queue: published by the queue under MUSTER_QUEUE_BOARD and MUSTER_QUEUE_BOARD "/<team>" after each batch ---- */
#define MUSTER_QUEUE_BOARD "queue"
struct muster_queue_view {
    int64_t queued; /* waiting, retries included */
    int64_t running;
    int64_t max_running;
    int64_t completed; /* since the daemon started */
    int64_t failed;
    int64_t cancelled;
    int64_t mean_ms; /* mean duration of recent jobs; 0: none yet */
    bool paused;     /* a team: starts no jobs until it is resumed */
    bool draining;   /* starts no more jobs */
};

/* ---- agents: published by each under MUSTER_AGENT_PREFIX "<team>" when a process changes ---- */
#define MUSTER_VIEW_PROCESSES 64
struct muster_process_view {
    int64_t pid; /* 0: the driver needs none */
    enum process_state state;
    int64_t started_ms;
    int64_t turns;
    char session[64];       /* the agent's own name for its session; "" none yet */
    struct muster_id job;   /* at work on it; zero: on none */
    int64_t current, total; /* how far the agent says it is; total 0: it does not say */
};
struct muster_agent_view {
    size_t count; /* of processes, at most MUSTER_VIEW_PROCESSES are shown */
    struct muster_process_view processes[MUSTER_VIEW_PROCESSES];
    char problem[512]; /* last thing that went wrong with a process; "" nothing */
    int64_t problem_ms;
};

/* ---- workers: published by nodes under MUSTER_NODES_BOARD when one changes, and after each of their beats ---- */
#define MUSTER_NODES_BOARD "nodes"
struct muster_node_team {
    char name[65];
    int64_t capacity, running;
    bool fits; /* it has the labels that the team asks for */
};
struct muster_node_view {
    char name[65], host[256], version[33];
    enum node_state state;
    bool draining;          /* an operator wants it so; it stays so when the worker comes back */
    int64_t attached_ms;    /* unix ms; 0: not since the hub started */
    int64_t heard_ms;       /* unix ms of its last sign of life; 0: none since the hub started */
    int64_t lease_until_ms; /* unix ms; 0: it has none */
    int64_t running;        /* attempts it has */
    int64_t parcels, parcels_bytes, oldest_ms, round_trip_ms, cpus; /* as it said last */
    double load;
    size_t team_count, label_count;
    const struct muster_node_team *teams; /* as long as the view */
    const struct muster_pair *labels;     /* likewise */
};
struct muster_nodes_view {
    struct muster_arena *arena; /* what the nodes point to */
    size_t count;
    const struct muster_node_view *nodes; /* by name */
    uint64_t attached, refused, lost;     /* since the hub started */
    uint64_t parcels, stale;              /* received; events and reports of attempts that were not current */
};

/* ---- in a worker: published by parcels under MUSTER_PARCELS_BOARD after each batch ---- */
#define MUSTER_PARCELS_BOARD "parcels"
struct muster_parcels_view {
    int64_t count, bytes; /* not acknowledged */
    int64_t oldest_ms;    /* unix ms when the oldest of them was made; 0: there is none */
    int64_t left_out;     /* events, since the start, for want of room */
};

#endif
