/* SPDX-License-Identifier: MPL-2.0 */
/* Third pass over a .def file: the constants `<id>_type` and `<id>_enum`.  No guard. */
/* clang-format off */
#define ENUMERATION(id, doc)                            const struct muster_enum id##_enum = { #id, id##_values };
#define VALUE(id, name, wire, doc)
#define ENUM_END(id)
#define TYPE(id, wire, doc)                             const struct muster_type id##_type = { wire, doc, id##_fields, sizeof(struct id) };
#define EVENT(id, wire, when, final, doc)               TYPE(id, wire, doc)
#define RECORD(id, wire, version, doc)                  TYPE(id, wire, doc)
#define SECTION(id, wire, doc)                          TYPE(id, wire, doc)
#define FIELD(id, kind, name, need, lo, hi, doc)
#define OPTION(id, kind, name, initial, lo, hi, doc)
#define CHOICE(id, choice, name, need, doc)
#define CHOICE_OPTION(id, choice, name, initial, doc)
#define ONE(id, sub, name, need, doc)
#define INNER(id, sub, name, doc)
#define MANY(id, sub, name, need, max, doc)
#define NAMED(id, sub, name, max, doc)
#define END(id)
#define INDEXES(id)
#define INDEX(id, name, field)
#define INDEXES_END(id)
/* clang-format on */
