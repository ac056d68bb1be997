/* SPDX-License-Identifier: MPL-2.0 */
/* Things that are found by a text of theirs: a hash table whose nodes stand inside the things.
 *
 * Keeps nothing but its buckets.  The queue actor's thread only; nothing fails. */
#ifndef ACTORS_QUEUE_NAMES_H
#define ACTORS_QUEUE_NAMES_H

#include <stddef.h>

struct queue_name {
    struct queue_name *chain;
    char *text; /* the owner's; stays the same while it is in the table */
};

struct queue_names {
    struct queue_name **buckets;
    size_t bucket_count, count;
};

void queue_names_init(struct queue_names *names);
void queue_names_fini(struct queue_names *names);
/* NULL: none has that text. */
struct queue_name *queue_names_find(const struct queue_names *names, const char *text);
/* `text` must not be there yet. */
void queue_names_add(struct queue_names *names, struct queue_name *name);
void queue_names_remove(struct queue_names *names, struct queue_name *name);

#endif
