/* SPDX-License-Identifier: MPL-2.0 */
/* Makes the constants of all .def files of this folder (rows, types, enumerations) and the tables over them. */
#include "schemas/muster_schema.h"

#include <string.h>

/* The order of the includes is their meaning. */
/* clang-format off */
#include "schemas/pass_rows.h"

#include "schemas/enums.def"
#include "schemas/records.def"
#include "schemas/events.def"
#include "schemas/messages.def"
#include "schemas/options.def"
#include "schemas/pass_end.h"

#include "schemas/pass_types.h"

#include "schemas/enums.def"
#include "schemas/records.def"
#include "schemas/events.def"
#include "schemas/messages.def"
#include "schemas/options.def"
#include "schemas/pass_end.h"

#include "schemas/pass_none.h"
#undef TYPE
#define TYPE(id, wire, doc) &id##_type,
const struct muster_type *const muster_messages[] = {
#include "schemas/messages.def"
    NULL};
#include "schemas/pass_end.h"

#include "schemas/pass_none.h"
#undef ENUMERATION
#define ENUMERATION(id, doc) &id##_enum,
const struct muster_enum *const muster_enums[] = {
#include "schemas/enums.def"
    NULL};
#include "schemas/pass_end.h"

#include "schemas/pass_none.h"
#undef EVENT
#define EVENT(id, wire, when, final, doc) {&id##_type, MUSTER_EVENT_##when, final},
const struct muster_event_row muster_events[] = {
#include "schemas/events.def"
    {NULL, MUSTER_EVENT_LIVE, false}};
#include "schemas/pass_end.h"

#include "schemas/pass_none.h"
#undef INDEXES
#undef INDEX
#undef INDEXES_END
#define INDEXES(id) static const struct muster_index id##_indexes[] = {
#define INDEX(id, name, field) {#name, #field},
#define INDEXES_END(id) {NULL, NULL}};
#include "schemas/records.def"
#include "schemas/pass_end.h"

#include "schemas/pass_none.h"
#undef RECORD
#define RECORD(id, wire, version, doc) {&id##_type, version, id##_indexes},
const struct muster_record_row muster_records[] = {
#include "schemas/records.def"
    {NULL, 0, NULL}};
#include "schemas/pass_end.h"

#define PUBLIC(wire, body, address, scopes, answers, doc) {wire, &body##_type, address, scopes, answers, doc},
const struct muster_public muster_publics[] = {
#include "schemas/public.def"
    {NULL, NULL, NULL, NULL, NULL, NULL}};
#undef PUBLIC

#define SCOPE(name, implies, doc) {name, implies, doc},
const struct muster_scope muster_scopes[] = {
#include "schemas/scopes.def"
    {NULL, NULL, NULL}};
#undef SCOPE
/* clang-format on */

const struct muster_field *
muster_field_find(const struct muster_type *type, const char *name)
{
    const struct muster_field *field;

    for (field = type->fields; field->kind != MUSTER_KIND_END; field++)
        if (field->name[0] == name[0] && strcmp(field->name, name) == 0)
            return field;
    return NULL;
}

const char *
muster_enum_wire(const struct muster_enum *enumeration, int value)
{
    const struct muster_enum_value *row;

    for (row = enumeration->values; row->wire; row++)
        if (row->value == value)
            return row->wire;
    return NULL;
}

int
muster_enum_value(const struct muster_enum *enumeration, const char *wire)
{
    const struct muster_enum_value *row;

    for (row = enumeration->values; row->wire; row++)
        if (strcmp(row->wire, wire) == 0)
            return row->value;
    return 0;
}

const struct muster_event_row *
muster_event_row(const char *wire)
{
    const struct muster_event_row *row;

    for (row = muster_events; row->type; row++)
        if (strcmp(row->type->wire, wire) == 0)
            return row;
    return NULL;
}

const struct muster_record_row *
muster_record_row(const struct muster_type *type)
{
    const struct muster_record_row *row;

    for (row = muster_records; row->type; row++)
        if (row->type == type)
            return row;
    return NULL;
}

static const struct muster_scope *
find_scope(const char *name, size_t size)
{
    const struct muster_scope *scope;

    for (scope = muster_scopes; scope->name; scope++)
        if (scope->name[0] == name[0] && strncmp(scope->name, name, size) == 0 && scope->name[size] == '\0')
            return scope;
    return NULL;
}

/* The table is a tree of a few levels, so recursion ends soon. */
static bool
one_scope_grants(const char *held, size_t size, const char *wanted)
{
    const struct muster_scope *scope;
    const char *word, *end;

    if (strncmp(held, wanted, size) == 0 && wanted[size] == '\0')
        return true;
    scope = find_scope(held, size);
    if (scope == NULL || scope->implies == NULL)
        return false;
    for (word = scope->implies; *word != '\0'; word = *end == ' ' ? end + 1 : end) {
        end = word + strcspn(word, " ");
        if (one_scope_grants(word, (size_t)(end - word), wanted))
            return true;
    }
    return false;
}

bool
muster_scope_grants(const struct muster_strs *held, const char *wanted)
{
    size_t i;

    for (i = 0; i < held->count; i++)
        if (one_scope_grants(held->items[i], strlen(held->items[i]), wanted))
            return true;
    return false;
}

bool
muster_scope_known(const char *name)
{
    return find_scope(name, strlen(name)) != NULL;
}
