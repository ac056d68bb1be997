/* SPDX-License-Identifier: MPL-2.0 */
/* Types that are declared once: every message, event, record, option and HTTP body is a row list in a .def file.
 *
 * A .def file is included several times with different macros (pass_struct.h, pass_rows.h): the first pass makes the C
 * structs below, the second the field rows, the third the constants `<id>_type`.  Codecs, `muster describe`, tests and
 * fuzz targets read those rows; nothing repeats a field's name.
 *
 *   TYPE(id, wire, doc)                        begins struct <id>
 *   FIELD(id, KIND, name, need, lo, hi, doc)   lo/hi: value bounds of numbers, byte bounds of text, counts of lists
 *   CHOICE(id, enumeration, name, need, doc)   one of the values in enums.def; 0 is "not given"
 *   ONE(id, sub, name, need, doc)              pointer to another type, NULL is "not given"
 *   MANY(id, sub, name, need, max, doc)        list of another type
 *   END(id)
 *
 * An OPTIONAL field that is zero, NULL or empty is left out when encoding and zero after decoding. */
#ifndef MUSTER_SCHEMA_H
#define MUSTER_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schemas/muster_crypto.h"

enum muster_kind {
    MUSTER_KIND_END, /* closes a row list */
    MUSTER_KIND_BOOL,
    MUSTER_KIND_INT,    /* int64_t */
    MUSTER_KIND_MS,     /* int64_t; options are written "30s", everywhere else milliseconds */
    MUSTER_KIND_SIZE,   /* int64_t; options are written "16MiB", everywhere else bytes */
    MUSTER_KIND_REAL,   /* double */
    MUSTER_KIND_STR,    /* const char *, UTF-8 without NUL */
    MUSTER_KIND_JSON,   /* const char *, one JSON value as compact text; embedded as it is in JSON */
    MUSTER_KIND_BIN,    /* struct muster_bytes; base64 in JSON */
    MUSTER_KIND_ID,     /* struct muster_id; canonical UUID text in JSON */
    MUSTER_KIND_STRS,   /* struct muster_strs */
    MUSTER_KIND_PAIRS,  /* struct muster_pairs, a map of text to text */
    MUSTER_KIND_CHOICE, /* int holding a value of an enumeration; its wire text outside */
    MUSTER_KIND_ONE,    /* const struct <sub> * */
    MUSTER_KIND_MANY    /* struct muster_many */
};

enum muster_need { MUSTER_OPTIONAL, MUSTER_REQUIRED };

struct muster_bytes {
    const uint8_t *data;
    size_t size;
};
struct muster_strs {
    const char *const *items;
    size_t count;
};
struct muster_pair {
    const char *name;
    const char *value;
};
struct muster_pairs {
    const struct muster_pair *items;
    size_t count;
};
struct muster_many {
    const void *items; /* count structs of the sub type, one after the other */
    size_t count;
};

struct muster_enum_value {
    int value;
    const char *wire;
    const char *doc;
};
struct muster_enum {
    const char *name;
    const struct muster_enum_value *values; /* ends with wire == NULL */
};

struct muster_type;
struct muster_field {
    enum muster_kind kind;
    const char *name;
    uint32_t name_size; /* strlen(name) */
    enum muster_need need;
    int64_t lo, hi;
    size_t offset;
    const struct muster_type *sub;    /* ONE and MANY */
    const struct muster_enum *choice; /* CHOICE */
    const char *initial;              /* options: the default as it would be written; else NULL */
    const char *doc;
};
struct muster_type {
    const char *wire; /* "queue.submit" */
    const char *doc;
    const struct muster_field *fields; /* ends with MUSTER_KIND_END */
    size_t size;                       /* of the C struct */
};

/* The row of a field; NULL when the type has none of that name. */
const struct muster_field *muster_field_find(const struct muster_type *type, const char *name);

/* Wire text of an enumeration's value; NULL when it has none. */
const char *muster_enum_wire(const struct muster_enum *enumeration, int value);
/* The value of a wire text; 0 when unknown. */
int muster_enum_value(const struct muster_enum *enumeration, const char *wire);

/* The order of these includes is their meaning. */
/* clang-format off */
#include "schemas/pass_struct.h"

#include "schemas/enums.def"
#include "schemas/records.def"
#include "schemas/events.def"
#include "schemas/messages.def"
#include "schemas/options.def"
#include "schemas/pass_end.h"

#include "schemas/pass_extern.h"

#include "schemas/enums.def"
#include "schemas/records.def"
#include "schemas/events.def"
#include "schemas/messages.def"
#include "schemas/options.def"
#include "schemas/pass_end.h"
/* clang-format on */

/* ---- the tables, for describe, codecs and tests ---- */

/* All messages and events by wire name; each list ends with NULL. */
extern const struct muster_type *const muster_messages[];
extern const struct muster_enum *const muster_enums[];

enum muster_event_when {
    MUSTER_EVENT_LIVE,   /* published at once, on disk within one group commit */
    MUSTER_EVENT_DURABLE /* published only after it is on disk */
};
struct muster_event_row {
    const struct muster_type *type;
    enum muster_event_when when;
    bool final; /* the last event of a job */
};
extern const struct muster_event_row muster_events[]; /* ends with type == NULL */
/* NULL when there is no such event. */
const struct muster_event_row *muster_event_row(const char *wire);

struct muster_index {
    const char *name;  /* "job_by_team" */
    const char *field; /* what it orders by; ties are ordered by the record's id */
};
struct muster_record_row {
    const struct muster_type *type; /* first field is `ID id`, the key */
    int version;
    const struct muster_index *indexes; /* ends with name == NULL */
};
extern const struct muster_record_row muster_records[]; /* ends with type == NULL */
/* NULL when there is no such record. */
const struct muster_record_row *muster_record_row(const struct muster_type *type);

/* What ZeroMQ clients may send. */
struct muster_public {
    const char *wire;
    const struct muster_type *body;
    const char *address; /* of the actor that gets it; "": answered from the store */
    const char *scopes;  /* all needed, separated by spaces; "": any key */
    const char *answers; /* wire names separated by spaces */
    const char *doc;
};
extern const struct muster_public muster_publics[]; /* ends with wire == NULL */

struct muster_scope {
    const char *name;
    const char *implies; /* space-separated; NULL: nothing */
    const char *doc;
};
extern const struct muster_scope muster_scopes[]; /* ends with name == NULL */
/* Does holding `held` grant `wanted`, directly or by implication? */
bool muster_scope_grants(const struct muster_strs *held, const char *wanted);
bool muster_scope_known(const char *name);

#endif
