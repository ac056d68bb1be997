/* SPDX-License-Identifier: MPL-2.0 */
/* Prints the tables: the reference text of the program.  Any thread. */
#ifndef MUSTER_DESCRIBE_H
#define MUSTER_DESCRIBE_H

#include "schemas/muster_codec.h"

/* Topics of the tables in schemas/: "messages", "events", "records", "errors", "options", "scopes".
 * MUSTER_NOT_FOUND for another topic. */
muster_err muster_describe(const char *topic, struct muster_buf *out);
/* One of a topic: a type with what is in it, an error, an option or section ("http.listen", "teams"), a scope.
 * MUSTER_NOT_FOUND when there is none of that name, or no such topic. */
muster_err muster_describe_named(const char *topic, const char *name, struct muster_buf *out);
/* One type with all its rows, sub types below it. */
void muster_describe_type(const struct muster_type *type, struct muster_buf *out);
/* The topics above, ends with NULL. */
extern const char *const muster_describe_topics[];

#endif
