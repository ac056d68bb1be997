/* SPDX-License-Identifier: MPL-2.0 */
/* Prints the tables as text that a client can be written from.  Any thread; nothing here fails but for an unknown
 * topic. Each type and each enumeration is printed once a topic, after the types that name it. */
#include "schemas/muster_describe.h"

#include <string.h>

#include "schemas/rows.h"

#define TYPES_MAX 256 /* far more than the .def files hold; a test describes them all */

struct description {
    struct muster_buf *out;
    const struct muster_type *types[TYPES_MAX]; /* to be printed, in their order */
    size_t count;
};

static const char envelope_text[] =
    "Every message is one msgpack array:\n"
    "\n"
    "  [version, type, id, reply to, deadline, trace, [key, name, limit, left, reset, window], body]\n"
    "\n"
    "  version   whole number, 1\n"
    "  type      text of 1 to 64 bytes: a name from the list below\n"
    "  id        whole number: the sender's own for the request; the answer carries it back\n"
    "  reply to  text of at most 128 bytes: address that the answer goes to; empty: none is wanted\n"
    "  deadline  whole number: unix ms after which nobody waits any more; 0: none\n"
    "  trace     text of at most 128 bytes: request id that follows the work; empty: none\n"
    "  key       16 bytes: id of the caller's key; zeros: none\n"
    "  name      text of at most 128 bytes: name of the caller's key\n"
    "  limit     whole number: requests per window; 0: unlimited or not counted\n"
    "  left      whole number: requests left\n"
    "  reset     whole number: unix seconds when the window is full again\n"
    "  window    whole number: length of the window in seconds\n"
    "  body      map of the fields below\n"
    "\n";

static const char values_text[] =
    "How values are written:\n"
    "\n"
    "                   msgpack                 JSON\n"
    "  true or false    bool                    true, false\n"
    "  whole number     int, 64 bits signed     number\n"
    "  number           float or int, finite    number\n"
    "  text             str, UTF-8, no U+0000   string\n"
    "  one of ...       str                     string\n"
    "  JSON value       str that holds it       the value itself\n"
    "  bytes            bin                     string, base64 with padding\n"
    "  UUID             bin of 16 bytes         string, 36 characters\n"
    "  list             array                   array\n"
    "  object           map                     object\n"
    "\n"
    "A field that is not required may be left out or nil; numbers are then 0, texts and lists empty.\n"
    "Fields that are not listed are ignored.  A field given twice is an error.\n"
    "\n";

static void
add_type(struct description *description, const struct muster_type *type)
{
    size_t i;

    for (i = 0; i < description->count; i++)
        if (description->types[i] == type)
            return;
    MUSTER_ASSERT(description->count < TYPES_MAX);
    description->types[description->count++] = type;
}

/* ---- one type ---- */

static void
print_row(const struct muster_field *row, struct muster_buf *out)
{
    static const char must[] = "must be ";
    char expected[256];

    rows_expected(row, row->initial != NULL, expected, sizeof expected);
    muster_buf_printf(out, "  %s: %s", row->name, expected + sizeof must - 1);
    if (row->sub)
        muster_buf_printf(out, " (%s)", row->sub->wire);
    if (row->need == MUSTER_REQUIRED)
        muster_buf_str(out, "; required");
    muster_buf_printf(out, "\n      %s\n", row->doc);
}

/* One type without its sub types, which are put down for later. */
static void
print_type(struct description *description, const struct muster_type *type)
{
    const struct muster_field *row;

    muster_buf_printf(description->out, "%s\n    %s\n", type->wire, type->doc);
    for (row = type->fields; row->kind != MUSTER_KIND_END; row++) {
        print_row(row, description->out);
        if (row->sub)
            add_type(description, row->sub);
    }
    muster_buf_str(description->out, "\n");
}

/* Those put down so far, and those that they put down. */
static void
print_types(struct description *description)
{
    size_t i;

    for (i = 0; i < description->count; i++)
        print_type(description, description->types[i]);
}

static bool
uses(const struct muster_type *type, const struct muster_enum *choice)
{
    const struct muster_field *row;

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++)
        if (row->choice == choice)
            return true;
    return false;
}

static void
print_choice(const struct muster_enum *choice, struct muster_buf *out)
{
    const struct muster_enum_value *value;

    muster_buf_printf(out, "%s\n", choice->name);
    for (value = choice->values; value->wire; value++)
        muster_buf_printf(out, "  %s: %s\n", value->wire, value->doc);
    muster_buf_str(out, "\n");
}

/* The enumerations that the printed types use. */
static void
print_choices(const struct description *description)
{
    const struct muster_enum *const *choice;
    size_t i;

    for (choice = muster_enums; *choice; choice++)
        for (i = 0; i < description->count; i++)
            if (uses(description->types[i], *choice)) {
                print_choice(*choice, description->out);
                break;
            }
}

void
muster_describe_type(const struct muster_type *type, struct muster_buf *out)
{
    struct description description = {.out = out};

    add_type(&description, type);
    print_types(&description);
    print_choices(&description);
}

/* ---- topics ---- */

static void
describe_messages(struct muster_buf *out)
{
    struct description description = {.out = out};
    const struct muster_type *const *type;

    muster_buf_str(out, envelope_text);
    muster_buf_str(out, values_text);
    for (type = muster_messages; *type; type++)
        add_type(&description, *type);
    print_types(&description);
    print_choices(&description);
}

static void
describe_events(struct muster_buf *out)
{
    struct description description = {.out = out};
    const struct muster_event_row *row;

    muster_buf_str(out, "Every event lies in the log inside an `event`, whose body is the packed row of its type.\n"
                        "Live events are published at once and on disk soon after, durable ones once on disk.\n\n");
    for (row = muster_events; row->type; row++)
        muster_buf_printf(out, "  %-18s %-8s %s%s\n", row->type->wire,
                          row->when == MUSTER_EVENT_DURABLE ? "durable" : "live", row->type->doc,
                          row->final ? "  The last of its job." : "");
    muster_buf_str(out, "\n");
    muster_buf_str(out, values_text);
    add_type(&description, &event_type);
    for (row = muster_events; row->type; row++)
        add_type(&description, row->type);
    print_types(&description);
    print_choices(&description);
}

static void
describe_records(struct muster_buf *out)
{
    struct description description = {.out = out};
    const struct muster_record_row *row;
    const struct muster_index *index;

    for (row = muster_records; row->type; row++) {
        muster_buf_printf(out, "  %-10s version %d, key %s", row->type->wire, row->version, row->type->fields[0].name);
        for (index = row->indexes; index->name; index++)
            muster_buf_printf(out, "%s %s", index == row->indexes ? "; ordered by" : ",", index->field);
        muster_buf_str(out, "\n");
        add_type(&description, row->type);
    }
    muster_buf_str(out, "\n");
    muster_buf_str(out, values_text);
    print_types(&description);
    print_choices(&description);
}

static void
describe_errors(struct muster_buf *out)
{
    int err;

    muster_buf_str(out, "Code, HTTP status, whether a job that ended so is tried again, meaning.\n\n");
    for (err = MUSTER_OK + 1; err < MUSTER_ERR_COUNT; err++)
        muster_buf_printf(out, "  %-24s %d  %-5s  %s\n", muster_err_code((muster_err)err),
                          muster_err_http((muster_err)err), muster_err_retryable((muster_err)err) ? "retry" : "",
                          muster_err_text((muster_err)err));
    muster_buf_str(out, "\n");
}

static void
print_initial(const struct muster_field *row, struct muster_buf *out)
{
    if (row->initial && row->initial[0] && row->kind == MUSTER_KIND_STRS)
        muster_buf_printf(out, "; default: [%s]", row->initial);
    else if (row->initial && row->initial[0])
        muster_buf_printf(out, "; default: %s", row->initial);
    else if (row->initial == NULL && row->kind < MUSTER_KIND_ONE)
        muster_buf_str(out, "; required");
}

/* Recursion follows the sections, which are a few levels deep. */
static void
print_section(const struct muster_type *type, int indent, struct muster_buf *out)
{
    static const char must[] = "must be ";
    const struct muster_field *row;
    char expected[256];

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++) {
        if (row->sub) {
            muster_buf_printf(out, "\n%*s%s:%s  # %s\n", indent, "", row->name,
                              row->kind == MUSTER_KIND_ONE ? ""
                              : row->initial               ? " {NAME: ...}"
                                                           : " [...]",
                              row->doc);
            print_section(row->sub, indent + 4, out);
            continue;
        }
        rows_expected(row, true, expected, sizeof expected);
        muster_buf_printf(out, "%*s%s: %s", indent, "", row->name, expected + sizeof must - 1);
        print_initial(row, out);
        muster_buf_printf(out, "\n%*s# %s\n", indent + 4, "", row->doc);
    }
}

static void
describe_options(struct muster_buf *out)
{
    muster_buf_str(out,
                   "The configuration is one YAML file.  Every value has a default unless it is required.\n"
                   "${VAR} and ${VAR:-default} stand for variables of the environment, $$ for a dollar.\n"
                   "Durations: 250ms, 30s, 5m, 2h, 7d, or milliseconds.  Sizes: 4096, 16KiB, 1MiB, 1GiB, 1TiB, or KB,\n"
                   "MB, GB, TB.  The name of a team is its key; paths count from the file's folder.\n\n");
    print_section(&options_type, 0, out);
    muster_buf_str(out, "\n");
}

static void
describe_scopes(struct muster_buf *out)
{
    const struct muster_scope *scope;

    for (scope = muster_scopes; scope->name; scope++)
        muster_buf_printf(out, "%s\n    %s\n    implies: %s\n", scope->name, scope->doc,
                          scope->implies ? scope->implies : "nothing else");
    muster_buf_str(out, "\n");
}

/* The two lists have the same order. */
const char *const muster_describe_topics[] = {"messages", "events", "records", "errors", "options", "scopes", NULL};
static void (*const describers[])(struct muster_buf *) = {describe_messages, describe_events,  describe_records,
                                                          describe_errors,   describe_options, describe_scopes};

muster_err
muster_describe(const char *topic, struct muster_buf *out)
{
    size_t i;

    for (i = 0; muster_describe_topics[i]; i++)
        if (strcmp(muster_describe_topics[i], topic) == 0) {
            describers[i](out);
            return MUSTER_OK;
        }
    return MUSTER_NOT_FOUND;
}
