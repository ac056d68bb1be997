/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of the configuration reader: a YAML document, and errors that name a place in it.  One thread at a time. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <yaml.h>

#include "schemas/muster_options.h"
#include "schemas/rows.h"

struct options_reader {
    const char *name;          /* stands in errors */
    yaml_document_t *document; /* NULL: there is none, everything is default */
    struct muster_arena *arena;
    struct muster_options_error *error; /* may be NULL */
    const struct muster_strs *own;      /* teams that the program registered; NULL: none */
};

/* Says what is wrong with the value at `path`, with the place of the deepest node of the path that is there. */
muster_err options_refuse(const struct options_reader *reader, const struct rows_path *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with a place of one's own. */
muster_err options_refuse_at(const struct options_reader *reader, yaml_mark_t mark, const struct rows_path *path,
                             const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Is there a value at `path`, or is it a default? */
bool options_is_given(const struct options_reader *reader, const struct rows_path *path);

/* Fill the struct from the document's root and the defaults; the program's own teams are added where the document has
 * none of their name, and without any team it gets one team echo. */
muster_err options_read(const struct options_reader *reader, struct options *out);
/* What no single row can say; also makes paths absolute and fills in what depends on other values. */
muster_err options_check(const struct options_reader *reader, const char *directory, struct options *options);

#endif
