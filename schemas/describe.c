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

static const char public_text[] =
    "What a ZeroMQ client may send, each with the scopes of its key that it needs and its answers:\n"
    "\n";

static const char client_text[] =
    "Commands: a DEALER socket, without a routing id of its own, connects to bus.commands and sends one frame a\n"
    "message: the array above, in msgpack, with map keys as str.  Reply to is \"\", and the principal\n"
    "[16 zero bytes, \"\", 0, 0, 0, 0]: what stands there is not looked at.  Answers come in one frame, carry back "
    "the\n"
    "id, and hold the caller's rate where it was counted.  Every request gets its answers or `failed`, whose code is\n"
    "one of `muster describe errors`; the deadline (or 10 s, and for the end of a waited-for job "
    "http.max_ask_timeout)\n"
    "ends the wait with TIMEOUT, not the work.  Bytes that are no envelope are dropped, unknown types answered with\n"
    "`failed`.  Answers that a client does not read are dropped beyond bus.max_backlog.\n"
    "\n"
    "Without CURVE (loopback and ipc) the first message is bus.hello with the API key; when any later one is answered\n"
    "UNAUTHORIZED, say bus.hello again.  With CURVE (bus.curve, and always on other addresses) the connection is the\n"
    "credential: `muster key create NAME --curve` prints, behind the key's own line, the lines `curve-secret`,\n"
    "`curve-public` and `server-public`, each with its key in Z85.  The server's also stands in bus.key.pub of the "
    "data\n"
    "folder.  Scopes, teams, expiry, rate and revocation are the key's.\n"
    "Rotating a key changes its text and leaves its pair: for a new pair make a new key.  JSON Web Tokens are not "
    "taken.\n"
    "\n"
    "A request on its way is lost with its connection, and ZeroMQ tells nobody: when there is no answer for a while, "
    "send\n"
    "it again.  A submit that may be sent again has its `idempotency`.\n"
    "\n"
    "To follow events no other socket is needed: log.read with `wait_ms` from your cursor, again from `next`, and so "
    "on,\n"
    "leaves nothing out and brings nothing twice, whatever breaks meanwhile.  The cursor behind a single event is "
    "`next`\n"
    "with that event's number in place of what stands behind its last '-'.\n"
    "\n"
    "Events: a SUB socket connects to bus.events.  Topics are <team>/<type>/<job id, or ->; the daemon's own events\n"
    "have an empty team.  A message has three frames: topic, `event` in msgpack, `bus.mark` in msgpack.  They come in\n"
    "the order of their numbers.  With CURVE the key needs messages:stream; one that is kept to some teams subscribes "
    "to\n"
    "topics that begin with <team>/ of one of them, others are not heard.  Without CURVE there is bus.open_events.\n"
    "Who sends anything but subscriptions with CURVE there is not let in again before the server starts anew.\n"
    "\n"
    "No gap and no double: subscribe to the topics, then to ~/<a random name of your own>.  That topic then brings\n"
    "`bus.joined` (two frames: topic, body): the topics are heard now.  Set all before it aside, send log.read from "
    "your\n"
    "last cursor, again with `next` while `more` or while `settled` is below bus.joined's `published`; then take live\n"
    "events whose number is above the last `settled`.  ZeroMQ connects again by itself, and `bus.joined` comes again\n"
    "then: do the same from the last cursor.  A subscriber that was too slow has missed events when bus.mark's\n"
    "`before` (of those who subscribe to everything) or `team_before` (to <team>/) is above the last number it has\n"
    "seen: log.read again.  Who subscribes to less cannot tell, and should log.read now and then.\n"
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
print_publics(struct muster_buf *out)
{
    const struct muster_public *row;

    muster_buf_str(out, public_text);
    for (row = muster_publics; row->wire; row++)
        muster_buf_printf(out, "  %-13s body %s; scopes: %s; answers: %s\n      %s\n", row->wire, row->body->wire,
                          row->scopes[0] ? row->scopes : "none", row->answers, row->doc);
    muster_buf_str(out, "\n");
    muster_buf_str(out, client_text);
}

static void
describe_messages(struct muster_buf *out)
{
    struct description description = {.out = out};
    const struct muster_type *const *type;

    muster_buf_str(out, envelope_text);
    muster_buf_str(out, values_text);
    print_publics(out);
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
                        "Live events are published at once and on disk soon after, durable ones once on disk.\n"
                        "How ZeroMQ clients get them stands in `muster describe messages`.\n\n");
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

/* Results that never leave the process. */
static const bool is_inside[MUSTER_ERR_COUNT] = {
#define ERROR(id, http, retry, text) [MUSTER_##id] = false,
#define INSIDE(id, http, retry, text) [MUSTER_##id] = true,
#include "schemas/errors.def"
#undef ERROR
#undef INSIDE
};

static void
print_error(muster_err err, struct muster_buf *out)
{
    muster_buf_printf(out, "  %-24s %d  %-5s  %s\n", muster_err_code(err), muster_err_http(err),
                      muster_err_retryable(err) ? "retry" : "", muster_err_text(err));
}

static void
describe_errors(struct muster_buf *out)
{
    int err;

    muster_buf_str(out, "Code, HTTP status, whether a job that ended so is tried again, meaning.\n\n");
    for (err = MUSTER_OK + 1; err < MUSTER_ERR_COUNT; err++)
        if (!is_inside[err])
            print_error((muster_err)err, out);
    muster_buf_str(out, "\n");
}

/* ---- options ---- */

/* "[a, b]" from "a b": as YAML is written. */
static void
print_list(const char *words, struct muster_buf *out)
{
    const char *word;
    size_t size;

    muster_buf_str(out, "[");
    for (word = words + strspn(words, " "); *word; word += size + strspn(word + size, " ")) {
        size = strcspn(word, " ");
        muster_buf_printf(out, "%s%.*s", out->data[out->size - 1] == '[' ? "" : ", ", (int)size, word);
    }
    muster_buf_str(out, "]");
}

static void
print_initial(const struct muster_field *row, struct muster_buf *out)
{
    if (row->initial == NULL && row->kind < MUSTER_KIND_ONE) {
        muster_buf_str(out, "; required");
    } else if (row->initial && row->initial[0]) {
        muster_buf_str(out, "; default: ");
        if (row->kind == MUSTER_KIND_STRS)
            print_list(row->initial, out);
        else
            muster_buf_str(out, row->initial);
    }
}

/* In a mapping by name the name is a row of the type, but the key in the file. */
static bool
is_name_of(const struct muster_field *section, const struct muster_field *row)
{
    size_t size;

    if (!section || section->kind != MUSTER_KIND_MANY || !section->initial || row->kind == MUSTER_KIND_END)
        return false;
    size = strcspn(section->initial, ":");
    return strncmp(row->name, section->initial, size) == 0 && row->name[size] == '\0';
}

static void print_section(const struct muster_field *section, const struct muster_type *type, int indent,
                          struct muster_buf *out);

/* An option, or a section with all that is in it; `name` is how it is called here. */
static void
print_option(const struct muster_field *row, const char *name, int indent, struct muster_buf *out)
{
    static const char must[] = "must be ";
    char expected[256];

    if (row->sub) {
        muster_buf_printf(out, "%*s%s:%s  # %s\n", indent, "", name,
                          row->kind == MUSTER_KIND_ONE ? ""
                          : row->initial               ? " {NAME: ...}"
                                                       : " [...]",
                          row->doc);
        print_section(row, row->sub, indent + 4, out);
        return;
    }
    rows_expected(row, true, expected, sizeof expected);
    muster_buf_printf(out, "%*s%s: %s", indent, "", name, expected + sizeof must - 1);
    print_initial(row, out);
    muster_buf_printf(out, "\n%*s# %s\n", indent + 4, "", row->doc);
}

/* Recursion follows the sections, which are a few levels deep. */
static void
print_section(const struct muster_field *section, const struct muster_type *type, int indent, struct muster_buf *out)
{
    const struct muster_field *row;

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++) {
        if (is_name_of(section, row)) {
            muster_buf_printf(out, "%*s# NAME: %s\n", indent, "", row->doc);
            continue;
        }
        if (row->sub)
            muster_buf_str(out, "\n");
        print_option(row, row->name, indent, out);
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
    print_section(NULL, &options_type, 0, out);
    muster_buf_str(out, "\n");
}

/* Where a row is in the file: "teams.permissions". */
struct option_path {
    const struct option_path *up; /* NULL: the file itself */
    const struct muster_field *row;
};

static void
print_path(const struct option_path *path, struct muster_buf *out)
{
    if (path->up) {
        print_path(path->up, out);
        muster_buf_str(out, ".");
    }
    muster_buf_str(out, path->row->name);
}

/* Print the rows below `type` whose path is `name`, or with `anywhere` those whose last step is; returns their number.
 */
static size_t
print_named_options(const struct option_path *up, const struct muster_type *type, const char *name, bool anywhere,
                    struct muster_buf *out)
{
    const struct muster_field *section = up ? up->row : NULL;
    const struct muster_field *row;
    size_t count = 0;

    for (row = type->fields; row->kind != MUSTER_KIND_END; row++) {
        struct option_path path = {up, row};
        struct muster_buf text = {0};

        if (is_name_of(section, row))
            continue;
        print_path(&path, &text);
        if (strcmp(anywhere ? row->name : text.data, name) == 0) {
            print_option(row, text.data, 0, out);
            count++;
        } else if (row->sub) {
            count += print_named_options(&path, row->sub, name, anywhere, out);
        }
        muster_buf_free(&text);
    }
    return count;
}

static bool
name_option(const char *name, struct muster_buf *out)
{
    return print_named_options(NULL, &options_type, name, false, out) > 0 ||
           print_named_options(NULL, &options_type, name, true, out) > 0;
}

/* ---- scopes ---- */

static void
print_scope(const struct muster_scope *scope, struct muster_buf *out)
{
    muster_buf_printf(out, "%s\n    %s\n    implies: %s\n", scope->name, scope->doc,
                      scope->implies ? scope->implies : "nothing else");
}

static void
describe_scopes(struct muster_buf *out)
{
    const struct muster_scope *scope;

    for (scope = muster_scopes; scope->name; scope++)
        print_scope(scope, out);
    muster_buf_str(out, "\n");
}

static bool
name_scope(const char *name, struct muster_buf *out)
{
    const struct muster_scope *scope;

    for (scope = muster_scopes; scope->name; scope++)
        if (strcmp(scope->name, name) == 0) {
            print_scope(scope, out);
            return true;
        }
    return false;
}

/* ---- one of a topic ---- */

/* The type of that name in `type` itself or below it; types nest only a few levels. */
static const struct muster_type *
find_below(const struct muster_type *type, const char *name)
{
    const struct muster_field *row;
    const struct muster_type *found = NULL;

    if (strcmp(type->wire, name) == 0)
        return type;
    for (row = type->fields; row->kind != MUSTER_KIND_END && !found; row++)
        found = row->sub ? find_below(row->sub, name) : NULL;
    return found;
}

/* Describe the type, or else the enumeration of that name. */
static bool
name_type(const struct muster_type *type, const char *name, struct muster_buf *out)
{
    const struct muster_enum *const *choice;

    if (type) {
        muster_describe_type(type, out);
        return true;
    }
    for (choice = muster_enums; *choice; choice++)
        if (strcmp((*choice)->name, name) == 0) {
            print_choice(*choice, out);
            return true;
        }
    return false;
}

static bool
name_message(const char *name, struct muster_buf *out)
{
    const struct muster_type *found = NULL;
    size_t i;

    for (i = 0; muster_messages[i] && !found; i++)
        found = find_below(muster_messages[i], name);
    return name_type(found, name, out);
}

static bool
name_event(const char *name, struct muster_buf *out)
{
    const struct muster_type *found = find_below(&event_type, name);
    size_t i;

    for (i = 0; muster_events[i].type && !found; i++)
        found = find_below(muster_events[i].type, name);
    return name_type(found, name, out);
}

static bool
name_record(const char *name, struct muster_buf *out)
{
    const struct muster_type *found = NULL;
    size_t i;

    for (i = 0; muster_records[i].type && !found; i++)
        found = find_below(muster_records[i].type, name);
    return name_type(found, name, out);
}

static bool
name_error(const char *name, struct muster_buf *out)
{
    int err;

    for (err = MUSTER_OK + 1; err < MUSTER_ERR_COUNT; err++)
        if (!is_inside[err] && strcmp(muster_err_code((muster_err)err), name) == 0) {
            print_error((muster_err)err, out);
            return true;
        }
    return false;
}

/* ---- all of them ---- */

/* The two lists have the same order. */
const char *const muster_describe_topics[] = {"messages", "events", "records", "errors", "options", "scopes", NULL};
static const struct {
    void (*all)(struct muster_buf *out);
    bool (*named)(const char *name, struct muster_buf *out); /* false: there is none, nothing was appended */
} topics[] = {
    {describe_messages, name_message}, {describe_events, name_event},   {describe_records, name_record},
    {describe_errors, name_error},     {describe_options, name_option}, {describe_scopes, name_scope},
};

muster_err
muster_describe(const char *topic, struct muster_buf *out)
{
    size_t i;

    for (i = 0; muster_describe_topics[i]; i++)
        if (strcmp(muster_describe_topics[i], topic) == 0) {
            topics[i].all(out);
            return MUSTER_OK;
        }
    return MUSTER_NOT_FOUND;
}

muster_err
muster_describe_named(const char *topic, const char *name, struct muster_buf *out)
{
    size_t i;

    for (i = 0; muster_describe_topics[i]; i++)
        if (strcmp(muster_describe_topics[i], topic) == 0)
            return topics[i].named(name, out) ? MUSTER_OK : MUSTER_NOT_FOUND;
    return MUSTER_NOT_FOUND;
}
