/* SPDX-License-Identifier: MPL-2.0 */
/* Third pass over a .def file: the constants `<id>_type` and `<id>_enum`.  No guard. */
#include "schemas/pass_none.h"
#undef ENUMERATION
#undef TYPE
#define ENUMERATION(id, doc) const struct muster_enum id##_enum = {#id, id##_values};
#define TYPE(id, wire, doc) const struct muster_type id##_type = {wire, doc, id##_fields, sizeof(struct id)};
