/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the parcels actor: what its files share.  The actor's thread only.
 *
 *   parcels.c        messages, what is joined, what is on its way to the hub
 *   parcels_list.c   what is not acknowledged, in order
 *   parcels_disk.c   what of it is on disk */
#ifndef ACTORS_PARCELS_H
#define ACTORS_PARCELS_H

#include "actors/muster_actor.h"
#include "actors/muster_journal.h"
#include "actors/muster_snapshots.h"

enum { PARCELS_TIMER_SEAL = 1, PARCELS_TIMER_SEND, PARCELS_TIMER_AGAIN, PARCELS_TIMER_WRITE };

enum parcels_where { PARCELS_IN_MEMORY, PARCELS_WRITING, PARCELS_ON_DISK };

/* A parcel that is not acknowledged. */
struct parcels_item {
    struct parcels_item *next;
    int64_t seq; /* 0: none yet, because it is not known how far the hub is */
    enum parcel_kind kind;
    struct muster_buf data; /* the packed row; empty once it is on disk */
    size_t size;            /* of that row */
    struct muster_id job;   /* of a report */
    int64_t attempt;        /* likewise */
    int64_t at_ms;          /* unix ms when it was made */
    int64_t made_ms;        /* the same on the clock of spans */
    enum parcels_where where;
};

/* Attempts whose reports are not wanted. */
struct parcels_stale {
    struct held_attempt *items;
    size_t count, capacity;
};

struct parcels {
    struct muster_ctx *ctx;             /* borrowed; outlives us */
    struct parcels_item *first, **last; /* oldest first */
    size_t count, bytes;                /* of them; bytes of their rows */
    struct parcels_item *unsent;        /* the first that is not on its way; NULL: all are */
    size_t sent, sent_bytes;            /* those before it */
    struct parcels_item *unwritten;     /* the first in memory only; NULL: none */
    int64_t last_seq;                   /* highest number given, or found at the start */
    bool numbered;                      /* it is known how far the hub is: what is made gets a number */
    bool open;                          /* the hub can be reached */
    bool paused;                        /* until the hub is asked again */
    struct muster_arena *arena;         /* of the entries that are being joined */
    struct log_entry *entries;          /* those */
    size_t entry_count, entry_capacity, entry_bytes;
    struct parcels_stale stale; /* running when the hub said that they are not wanted */
    int64_t *gone;              /* numbers of records to be removed */
    size_t gone_count, gone_capacity;
    size_t going;         /* of those, in the commit under way */
    int64_t gone_ms;      /* since when the first of the others waits */
    int64_t write_due_ms; /* of the timer; 0: not set */
    bool writing;         /* a commit is under way */
    bool failing;         /* the last one failed */
    bool full;            /* events are left out */
    bool dirty;           /* the board is behind */
    int64_t left_out;
};

/* ---- parcels_list.c */
void parcels_list_init(struct parcels *self);
void parcels_list_fini(struct parcels *self);
/* Takes `item`, which is the newest. */
void parcels_add(struct parcels *self, struct parcels_item *item);
/* Forget the one at `link`, also on disk. */
void parcels_drop(struct parcels *self, struct parcels_item **link);
/* The hub has all up to `seq` of those sent. */
void parcels_acked_up_to(struct parcels *self, int64_t seq);
/* None is on its way any more. */
void parcels_rewind(struct parcels *self);
/* Give numbers above `received` from now on, also to those that have none. */
void parcels_number(struct parcels *self, int64_t received);
/* What it costs to keep them. */
size_t parcels_cost(const struct parcels *self);

/* ---- parcels_disk.c */
/* What a former life left. */
muster_err parcels_disk_read(struct parcels *self);
/* See to it that what is not acknowledged is written in time, and what is acknowledged removed. */
void parcels_disk_look(struct parcels *self);
/* PARCELS_TIMER_WRITE */
void parcels_disk_timer(struct parcels *self);
/* The commit under way is on disk, or failed. */
void parcels_disk_done(struct parcels *self, bool failed);
/* Write all that is not on disk; for the end. */
void parcels_disk_flush(struct parcels *self);
/* Its record is to be removed. */
void parcels_disk_remove(struct parcels *self, int64_t seq);
/* The row of a parcel, in the arena if it has to be read. */
muster_err parcels_disk_row(struct parcels *self, const struct parcels_item *item, struct muster_arena *arena,
                            struct muster_bytes *out_row);

#endif
