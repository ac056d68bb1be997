/* SPDX-License-Identifier: MPL-2.0 */
/* Second pass over a .def file: the field rows.  No guard. */
/* clang-format off */
#define ENUMERATION(id, doc)                            static const struct muster_enum_value id##_values[] = {
#define VALUE(id, name, wire, doc)                          { id##_##name, wire, doc },
#define ENUM_END(id)                                        { 0, NULL, NULL } };
#define TYPE(id, wire, doc)                             static const struct muster_field id##_fields[] = {
#define EVENT(id, wire, when, final, doc)               TYPE(id, wire, doc)
#define RECORD(id, wire, version, doc)                  TYPE(id, wire, doc)
#define SECTION(id, wire, doc)                          TYPE(id, wire, doc)
#define FIELD(id, kind, name, need, lo, hi, doc) \
    { MUSTER_KIND_##kind, #name, sizeof(#name) - 1, MUSTER_##need, lo, hi, offsetof(struct id, name), NULL, NULL, NULL, doc },
#define OPTION(id, kind, name, initial, lo, hi, doc) \
    { MUSTER_KIND_##kind, #name, sizeof(#name) - 1, MUSTER_OPTIONAL, lo, hi, offsetof(struct id, name), NULL, NULL, initial, doc },
#define CHOICE(id, choice, name, need, doc) \
    { MUSTER_KIND_CHOICE, #name, sizeof(#name) - 1, MUSTER_##need, 0, 0, offsetof(struct id, name), NULL, &choice##_enum, NULL, doc },
#define CHOICE_OPTION(id, choice, name, initial, doc) \
    { MUSTER_KIND_CHOICE, #name, sizeof(#name) - 1, MUSTER_OPTIONAL, 0, 0, offsetof(struct id, name), NULL, &choice##_enum, initial, doc },
#define ONE(id, sub, name, need, doc) \
    { MUSTER_KIND_ONE, #name, sizeof(#name) - 1, MUSTER_##need, 0, 0, offsetof(struct id, name), &sub##_type, NULL, NULL, doc },
#define INNER(id, sub, name, doc) \
    { MUSTER_KIND_ONE, #name, sizeof(#name) - 1, MUSTER_OPTIONAL, 0, 0, offsetof(struct id, name), &sub##_type, NULL, "{}", doc },
#define MANY(id, sub, name, need, max, doc) \
    { MUSTER_KIND_MANY, #name, sizeof(#name) - 1, MUSTER_##need, 0, max, offsetof(struct id, name), &sub##_type, NULL, NULL, doc },
#define NAMED(id, sub, name, max, doc) \
    { MUSTER_KIND_MANY, #name, sizeof(#name) - 1, MUSTER_OPTIONAL, 0, max, offsetof(struct id, name), &sub##_type, NULL, "name: ", doc },
#define END(id)                                             { MUSTER_KIND_END, NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL } };
#define INDEXES(id)
#define INDEX(id, name, field)
#define INDEXES_END(id)
/* clang-format on */
