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
/* ---- checks ---- */

/* Of names. */
#define OPTIONS_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

/* A step down to a member or an item. */
#define OPTIONS_MEMBER(above, member)                                                                                  \
    (struct rows_path)                                                                                                 \
    {                                                                                                                  \
        .up = above, .name = member, .size = strlen(member)                                                            \
    }
#define OPTIONS_ITEM(above, at)                                                                                        \
    (struct rows_path)                                                                                                 \
    {                                                                                                                  \
        .up = above, .index = at                                                                                       \
    }

/* `directory` is absolute.  Symbolic links stay, so ".." does too. */
const char *options_absolute(struct muster_arena *arena, const char *directory, const char *path);
bool options_is_port(const char *text);
muster_err options_check_auth(const struct options_reader *reader, const char *directory, struct options *options);
muster_err options_check_bus(const struct options_reader *reader, const char *directory, struct options *options);
muster_err options_check_worker(const struct options_reader *reader, const char *directory, struct options *options);
/* What no single row can say; also makes paths absolute and fills in what depends on other values. */
muster_err options_check(const struct options_reader *reader, const char *directory, struct options *options);

#endif
