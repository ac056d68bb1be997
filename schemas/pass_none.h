/* SPDX-License-Identifier: MPL-2.0 */
/* A pass over a .def file that makes nothing: the start of passes and tables that want one kind of row, which then
 * redefine its macro.  What holds rows is a TYPE unless it is said otherwise.  No guard. */
/* clang-format off */
#define ENUMERATION(id, doc)
#define VALUE(id, name, wire, doc)
#define ENUM_END(id)
#define TYPE(id, wire, doc)
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
