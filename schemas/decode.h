/* SPDX-License-Identifier: MPL-2.0 */
/* From parsed msgpack or JSON to a struct, by the rows of its type.  A `source` hides which of the two it is.
 *
 * Any thread; recursion is as deep as types are nested in .def files, whatever the input. */
#ifndef DECODE_H
#define DECODE_H

#include "schemas/rows.h"

enum decode_shape {
    DECODE_NIL,
    DECODE_BOOL,
    DECODE_INT,
    DECODE_REAL,
    DECODE_TEXT,
    DECODE_BYTES,
    DECODE_LIST,
    DECODE_MAP,
    DECODE_OTHER
};

/* One parsed value as its library holds it.  Only what belongs to its shape is set. */
struct decode_value {
    enum decode_shape shape;
    bool truth;
    int64_t number;
    double real;
    const char *text; /* TEXT and BYTES; not terminated */
    size_t size;      /* of text; items of LIST and MAP */
    void *node;       /* the source's own; of any value of a textual source, of a LIST or MAP of others */
    size_t level;     /* of the items in the source, where it counts */
};

/* Position in a map; begins with only `map` set. */
struct decode_walk {
    const struct decode_value *map;
    size_t index;
    void *iterator;
};

struct decode_source {
    bool textual; /* JSON: BIN is base64, ID is text, 5.0 is a whole number, any value fits JSON */
    /* Items are asked for from the first on, each once, and each value is done with before the next is asked for: a
     * source may read as it goes. */
    void (*item)(const struct decode_value *list, size_t index, struct decode_value *out);
    /* False at the end.  A name that is no text has another shape. */
    bool (*next)(struct decode_walk *walk, struct decode_value *out_name, struct decode_value *out);
    /* Textual sources: append the value as compact JSON. */
    void (*json)(const struct decode_value *value, struct muster_buf *out);
};

struct decode {
    const struct decode_source *source;
    struct muster_arena *arena;
    struct muster_fault *fault; /* may be NULL */
    bool strict;                /* an unknown field is an error */
};

/* The struct is in the arena. */
muster_err decode_struct(const struct decode *decode, const struct muster_type *type, const struct decode_value *value,
                         void **out_struct);

#endif
