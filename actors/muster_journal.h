/* SPDX-License-Identifier: MPL-2.0 */
/* The log that people and their tools read: one line an entry on a descriptor, JSON or readable.
 *
 * Entries have a stable id ("agent-hang") that can be searched for.  Lines never mix, and stand in the order in which
 * they were written.  Any thread.  A line that is a WARNING or heavier, or the first one after 2 ms, is with the system
 * when the call returns; others follow together within 2 ms, so a killed process may miss those.  A reader that does
 * not read makes writers wait, as with any standard error. */
#ifndef MUSTER_JOURNAL_H
#define MUSTER_JOURNAL_H

#include "schemas/muster_schema.h"

struct muster_journal;
/* Writes to `fd`, which stays the caller's. */
struct muster_journal *muster_journal_new(int fd, const struct log_options *options);
/* What is left is written. */
void muster_journal_free(struct muster_journal **journal_p);

/* One more thing to say in a line: a text, or a number when `text` is NULL. */
struct muster_say {
    const char *name;
    const char *text;
    int64_t number;
};
static inline struct muster_say
muster_say_text(const char *name, const char *text)
{
    return (struct muster_say){name, text ? text : "", 0};
}
#define MUSTER_SAY_TEXT(name, text) muster_say_text((name), (text))
#define MUSTER_SAY_NUMBER(name, number) ((struct muster_say){(name), NULL, (number)})

/* Write an entry if `level` is heavy enough.  `message` is a sentence without the facts, which stand in `says`. */
void muster_journal_write(struct muster_journal *journal, enum log_level level, const char *id, const char *message,
                          const struct muster_say *says, size_t count);
/* muster_journal_say(journal, WARNING, "agent-hang", "No output for too long.", MUSTER_SAY_TEXT("team", name)); */
#define muster_journal_say(journal, level, id, message, ...)                                                           \
    muster_journal_write((journal), log_level_##level, (id), (message), (const struct muster_say[]){__VA_ARGS__},      \
                         sizeof((const struct muster_say[]){__VA_ARGS__}) / sizeof(struct muster_say))

#endif
