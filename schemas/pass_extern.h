/* SPDX-License-Identifier: MPL-2.0 */
/* Declares the constants `<id>_type` and `<id>_enum` of a .def file.  No guard. */
#include "schemas/pass_none.h"
#undef ENUMERATION
#undef TYPE
#define ENUMERATION(id, doc) extern const struct muster_enum id##_enum;
#define TYPE(id, wire, doc) extern const struct muster_type id##_type;
