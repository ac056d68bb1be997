/* SPDX-License-Identifier: MPL-2.0 */
/* queue_names: chained buckets, doubled as they fill.  The queue actor's thread only; nothing fails.
 *
 * The texts are digests that the daemon makes, so nobody can choose them to fall into one bucket. */
#include "actors/queue_names.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/muster_buf.h"

#define FIRST_BUCKETS 64

void
queue_names_init(struct queue_names *names)
{
    *names = (struct queue_names){.bucket_count = FIRST_BUCKETS};
    names->buckets = muster_alloc(FIRST_BUCKETS * sizeof(struct queue_name *));
}

void
queue_names_fini(struct queue_names *names)
{
    free(names->buckets);
    *names = (struct queue_names){.buckets = NULL};
}

/* FNV-1a. */
static struct queue_name **
bucket(const struct queue_names *names, const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return &names->buckets[hash & (names->bucket_count - 1)];
}

struct queue_name *
queue_names_find(const struct queue_names *names, const char *text)
{
    struct queue_name *name;

    for (name = *bucket(names, text); name; name = name->chain)
        if (strcmp(name->text, text) == 0)
            return name;
    return NULL;
}

static void
push(struct queue_names *names, struct queue_name *name)
{
    struct queue_name **home = bucket(names, name->text);

    name->chain = *home;
    *home = name;
}

static void
grow(struct queue_names *names)
{
    struct queue_name **old = names->buckets, *name;
    size_t old_count = names->bucket_count, i;

    names->bucket_count *= 2;
    names->buckets = muster_alloc(names->bucket_count * sizeof(struct queue_name *));
    for (i = 0; i < old_count; i++) {
        while ((name = old[i]) != NULL) {
            old[i] = name->chain;
            push(names, name);
        }
    }
    free(old);
}

void
queue_names_add(struct queue_names *names, struct queue_name *name)
{
    if (names->count == names->bucket_count)
        grow(names);
    push(names, name);
    names->count++;
}

void
queue_names_remove(struct queue_names *names, struct queue_name *name)
{
    struct queue_name **place = bucket(names, name->text);

    while (*place != name)
        place = &(*place)->chain;
    *place = name->chain;
    names->count--;
}
