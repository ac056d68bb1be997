/* SPDX-License-Identifier: MPL-2.0 */
/* First pass over a .def file: C enumerations and structs.  No guard: included once a pass. */
#include "schemas/pass_kinds.h"

/* clang-format off */
#define ENUMERATION(id, doc)                            enum id { id##_NONE = 0,
#define VALUE(id, name, wire, doc)                      id##_##name,
#define ENUM_END(id)                                    };
#define TYPE(id, wire, doc)                             struct id {
#define EVENT(id, wire, when, final, doc)               TYPE(id, wire, doc)
#define RECORD(id, wire, version, doc)                  TYPE(id, wire, doc)
#define SECTION(id, wire, doc)                          TYPE(id, wire, doc)
#define FIELD(id, kind, name, need, lo, hi, doc)        MUSTER_C_##kind name;
#define OPTION(id, kind, name, initial, lo, hi, doc)    MUSTER_C_##kind name;
#define CHOICE(id, choice, name, need, doc)             enum choice name;
#define CHOICE_OPTION(id, choice, name, initial, doc)   enum choice name;
#define ONE(id, sub, name, need, doc)                   const struct sub *name;
#define INNER(id, sub, name, doc)                       const struct sub *name;
#define MANY(id, sub, name, need, max, doc)             struct { const struct sub *items; size_t count; } name;
#define NAMED(id, sub, name, max, doc)                  MANY(id, sub, name, OPTIONAL, max, doc)
#define END(id)                                         };
#define INDEXES(id)
#define INDEX(id, name, field)
#define INDEXES_END(id)
/* clang-format on */
