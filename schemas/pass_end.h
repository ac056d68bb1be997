/* SPDX-License-Identifier: MPL-2.0 */
/* Ends a pass over a .def file.  No guard. */
#undef ENUMERATION
#undef VALUE
#undef ENUM_END
#undef TYPE
#undef EVENT
#undef RECORD
#undef SECTION
#undef FIELD
#undef OPTION
#undef CHOICE
#undef CHOICE_OPTION
#undef ONE
#undef INNER
#undef MANY
#undef NAMED
#undef END
#undef INDEXES
#undef INDEX
#undef INDEXES_END
