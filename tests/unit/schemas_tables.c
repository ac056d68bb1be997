/* SPDX-License-Identifier: MPL-2.0 */
/* The tables: what must hold for all rows, scopes, the golden bytes and the printed reference. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "schemas/muster_describe.h"
#include "tests/unit/schemas_random.h"

#define GOLDEN MUSTER_SOURCE_DIR "/tests/golden/messages.hex"
#define REFERENCE MUSTER_SOURCE_DIR "/tests/golden/describe.txt"
#define GOLDEN_SEED 20250101

/* ---- rows ---- */

Test(tables, wire_names_are_unique)
{
    const struct muster_type *a, *b;
    size_t i, j;

    for (i = 0; (a = type_at(i)) != NULL; i++)
        for (j = 0; j < i; j++) {
            b = type_at(j);
            cr_assert_str_neq(a->wire, b->wire);
        }
    cr_assert_gt(i, 40u);
}

Test(tables, every_row_can_be_met_and_decoders_have_room_for_all)
{
    const struct muster_type *type;
    const struct muster_field *row;
    size_t i, rows;

    for (i = 0; (type = type_at(i)) != NULL; i++) {
        rows = 0;
        for (row = type->fields; row->kind != MUSTER_KIND_END; row++, rows++) {
            cr_assert_leq(row->lo, row->hi, "%s.%s", type->wire, row->name);
            cr_assert_eq(muster_field_find(type, row->name), row, "%s.%s", type->wire, row->name);
            cr_assert_eq(row->name_size, strlen(row->name), "%s.%s", type->wire, row->name);
            cr_assert_lt(row->offset, type->size);
            cr_assert_eq(row->sub != NULL, row->kind == MUSTER_KIND_ONE || row->kind == MUSTER_KIND_MANY);
            cr_assert_eq(row->choice != NULL, row->kind == MUSTER_KIND_CHOICE);
        }
        cr_assert_leq(rows, 64u, "%s", type->wire);
    }
    cr_assert_null(muster_field_find(&job_type, "nothing"));
}

Test(tables, enumerations_go_there_and_back)
{
    const struct muster_enum *const *choice;
    const struct muster_enum_value *value;

    for (choice = muster_enums; *choice; choice++)
        for (value = (*choice)->values; value->wire; value++) {
            cr_assert_neq(value->value, 0);
            cr_assert_eq(muster_enum_value(*choice, value->wire), value->value);
            cr_assert_str_eq(muster_enum_wire(*choice, value->value), value->wire);
        }
    cr_assert_eq(muster_enum_value(&job_state_enum, "nothing"), 0);
    cr_assert_null(muster_enum_wire(&job_state_enum, 0));
}

Test(tables, records_begin_with_their_key_and_index_fields_that_are_there)
{
    const struct muster_record_row *row;
    const struct muster_index *index;

    for (row = muster_records; row->type; row++) {
        cr_assert_eq(row->type->fields[0].kind, MUSTER_KIND_ID);
        cr_assert_str_eq(row->type->fields[0].name, "id");
        cr_assert_eq(muster_record_row(row->type), row);
        for (index = row->indexes; index->name; index++)
            cr_assert_not_null(muster_field_find(row->type, index->field), "%s", index->name);
    }
    cr_assert_null(muster_record_row(&usage_type));
    cr_assert_eq(muster_event_row("job.chunk")->type, &job_chunk_type);
    cr_assert_null(muster_event_row("job.nothing"));
}

Test(tables, error_codes_go_there_and_back)
{
    int err;

    for (err = 0; err < MUSTER_ERR_COUNT; err++) {
        cr_assert_eq((int)muster_err_from_code(muster_err_code((muster_err)err)), err);
        cr_assert_geq(muster_err_http((muster_err)err), 200);
        cr_assert_gt(strlen(muster_err_text((muster_err)err)), 0u);
    }
    cr_assert_eq(muster_err_from_code("NO_SUCH_CODE"), MUSTER_INTERNAL_ERROR);
    cr_assert_str_eq(muster_err_code((muster_err)9999), "INTERNAL_ERROR");
    cr_assert_eq(muster_err_http(MUSTER_TEAM_NOT_FOUND), 404);
    cr_assert(muster_err_retryable(MUSTER_AGENT_HUNG));
    cr_assert_not(muster_err_retryable(MUSTER_CANCELLED));
}

Test(tables, faults_are_cut_and_may_be_null)
{
    struct muster_fault fault;
    char longer[400];

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    cr_assert_eq(muster_fault_set(&fault, longer, "%s", longer), MUSTER_INVALID_REQUEST);
    cr_assert_eq(strlen(fault.field), sizeof fault.field - 1);
    cr_assert_eq(strlen(fault.message), sizeof fault.message - 1);
    cr_assert_eq(muster_fault_set(NULL, "a", "b"), MUSTER_INVALID_REQUEST);
}

/* ---- scopes ---- */

static bool
grants(const char *held, const char *wanted)
{
    return muster_scope_grants(&(struct muster_strs){&held, 1}, wanted);
}

Test(scopes, imply_what_the_table_says)
{
    cr_assert(grants("teams:write", "messages:write"));
    cr_assert(grants("teams:write", "messages:stream"));
    cr_assert(grants("teams:write", "messages:read"));
    cr_assert(grants("teams:write", "teams:read"));
    cr_assert(grants("*", "processes:read"), "over several steps");
    cr_assert(grants("admin:*", "messages:stream"));
    cr_assert(grants("teams:read", "teams:read"));
}

Test(scopes, grant_nothing_else)
{
    cr_assert_not(grants("teams:read", "teams:write"));
    cr_assert_not(grants("teams:read", "messages:read"));
    cr_assert_not(grants("messages:write", "messages:stream"));
    cr_assert_not(grants("teams:write", "teams:delete"));
    cr_assert_not(grants("teams:write", "processes:read"));
    cr_assert_not(grants("admin:*", "*"));
    cr_assert_not(grants("unknown", "teams:read"));
    cr_assert_not(grants("teams", "teams:read"));
    cr_assert_not(grants("", "teams:read"));
    cr_assert_not(muster_scope_grants(&(struct muster_strs){NULL, 0}, "teams:read"));
}

Test(scopes, every_implied_scope_is_a_row)
{
    const struct muster_scope *scope;
    char name[64];
    const char *word;
    size_t size;

    for (scope = muster_scopes; scope->name; scope++) {
        cr_assert(muster_scope_known(scope->name));
        cr_assert(grants("*", scope->name), "%s", scope->name);
        for (word = scope->implies ? scope->implies : ""; *word; word += size + strspn(word + size, " ")) {
            size = strcspn(word, " ");
            (void)snprintf(name, sizeof name, "%.*s", (int)size, word);
            cr_assert(muster_scope_known(name), "%s", name);
        }
    }
    cr_assert_not(muster_scope_known("teams:"));
}

/* ---- golden files ---- */

static bool
is_writing(void)
{
    return getenv("MUSTER_GOLDEN_WRITE") != NULL;
}

static void
golden_sample(const struct muster_type *type, struct muster_arena *arena, void *out)
{
    random_struct(hash_text(GOLDEN_SEED, type->wire), arena, type, out);
}

/* Options are no part of the wire. */
static const struct muster_type *
golden_type(size_t index)
{
    const struct muster_type *type = type_at(index);

    return type == &options_type ? NULL : type;
}

static void
write_golden(struct muster_arena *arena)
{
    FILE *file = fopen(GOLDEN, "w");
    const struct muster_type *type;
    struct muster_buf buf = {0}, hex = {0};
    size_t i;

    cr_assert_not_null(file);
    for (i = 0; (type = golden_type(i)) != NULL; i++) {
        void *in = muster_arena_alloc(arena, type->size);

        golden_sample(type, arena, in);
        muster_buf_clear(&buf);
        muster_pack(type, in, &buf);
        muster_buf_clear(&hex);
        muster_hex((uint8_t *)buf.data, buf.size, muster_buf_room(&hex, 2 * buf.size));
        (void)fprintf(file, "%s %s\n", type->wire, hex.data);
    }
    cr_assert_eq(fclose(file), 0);
    muster_buf_free(&buf);
    muster_buf_free(&hex);
}

static void
check_golden(struct muster_arena *arena, const struct muster_type *type, const char *hex)
{
    size_t size = strlen(hex) / 2;
    uint8_t *bytes = muster_arena_alloc(arena, size);
    void *expected = muster_arena_alloc(arena, type->size), *out = muster_arena_alloc(arena, type->size);
    const struct muster_field *row;
    struct muster_fault fault = {0};
    struct muster_buf again = {0};

    cr_assert_eq(muster_unhex(hex, bytes, size), MUSTER_OK, "%s", type->wire);
    cr_assert_eq(muster_unpack(type, bytes, size, arena, out, &fault), MUSTER_OK, "%s: %s %s", type->wire, fault.field,
                 fault.message);
    golden_sample(type, arena, expected);
    for (row = type->fields; row->kind != MUSTER_KIND_END; row++) /* rows younger than the file are empty in it */
        cr_assert(!is_present(type, row, out) || fields_equal(row, out, expected), "%s.%s", type->wire, row->name);
    muster_pack(type, out, &again);
    cr_assert_eq(again.size, size, "%s", type->wire);
    cr_assert_eq(memcmp(again.data, bytes, size), 0, "%s", type->wire);
    muster_buf_free(&again);
}

static const struct muster_type *
find_type(const char *wire)
{
    const struct muster_type *type;
    size_t i;

    for (i = 0; (type = golden_type(i)) != NULL; i++)
        if (strcmp(type->wire, wire) == 0)
            return type;
    return NULL;
}

/* Bytes written by any release must decode for ever.  MUSTER_GOLDEN_WRITE=1 writes the file anew, which is right before
 * the first release and when a type is added. */
Test(golden, bytes_of_every_type_still_decode)
{
    struct muster_arena *arena = muster_arena_new();
    size_t seen = 0, types = 0, room = 0;
    const struct muster_type *type;
    char *line = NULL, *hex;
    FILE *file;

    if (is_writing())
        write_golden(arena);
    file = fopen(GOLDEN, "r");
    cr_assert_not_null(file);
    while (getline(&line, &room, file) > 0) {
        line[strcspn(line, "\n")] = '\0';
        hex = strchr(line, ' ');
        cr_assert_not_null(hex);
        *hex++ = '\0';
        type = find_type(line);
        cr_assert_not_null(type, "%s is gone", line);
        check_golden(arena, type, hex);
        seen++;
    }
    while (golden_type(types))
        types++;
    cr_assert_eq(seen, types, "types without golden bytes");
    free(line);
    (void)fclose(file);
    muster_arena_free(&arena);
}

static void
write_reference(const struct muster_buf *text)
{
    FILE *file = fopen(REFERENCE, "w");

    cr_assert_not_null(file);
    cr_assert_eq(fwrite(text->data, 1, text->size, file), text->size);
    cr_assert_eq(fclose(file), 0);
}

Test(golden, describe_prints_the_committed_reference)
{
    struct muster_buf text = {0}, expected = {0};
    const char *const *topic;
    FILE *file;

    for (topic = muster_describe_topics; *topic; topic++) {
        muster_buf_printf(&text, "==== %s\n", *topic);
        cr_assert_eq(muster_describe(*topic, &text), MUSTER_OK);
    }
    if (is_writing())
        write_reference(&text);
    file = fopen(REFERENCE, "r");
    cr_assert_not_null(file);
    expected.size = fread(muster_buf_room(&expected, text.size + 100), 1, text.size + 100, file);
    cr_assert_eq(expected.size, text.size, "the reference is stale: MUSTER_GOLDEN_WRITE=1 writes it anew");
    cr_assert_eq(memcmp(expected.data, text.data, text.size), 0, "the reference is stale");
    (void)fclose(file);
    muster_buf_free(&text);
    muster_buf_free(&expected);
}

Test(describe, prints_every_type_once_and_knows_its_topics)
{
    struct muster_buf text = {0};
    const char *first;

    cr_assert_eq(muster_describe("nothing", &text), MUSTER_NOT_FOUND);
    cr_assert_eq(text.size, 0u);
    muster_describe_type(&queue_submit_type, &text);
    cr_assert_not_null(strstr(text.data, "queue.submit\n"));
    cr_assert_not_null(strstr(text.data, "job.callback\n    Where"));
    first = strstr(text.data, "usage\n    What");
    cr_assert_not_null(first);
    cr_assert_null(strstr(first + 1, "usage\n    What"));
    cr_assert_not_null(strstr(text.data, "job_priority\n"));
    muster_buf_free(&text);
}

/* What a topic says under that name; "" when it knows none. */
static const char *
named(struct muster_buf *out, const char *topic, const char *name)
{
    muster_buf_clear(out);
    if (muster_describe_named(topic, name, out) == MUSTER_NOT_FOUND)
        cr_assert_eq(out->size, 0u, "%s %s", topic, name);
    return out->data ? out->data : "";
}

static bool
begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

Test(describe, prints_a_section_or_a_single_option)
{
    struct muster_buf out = {0};

    cr_assert(begins(named(&out, "options", "teams"), "teams: {NAME: ...}"));
    cr_assert(strstr(out.data, "\n    driver: "));
    cr_assert(strstr(out.data, "\n    permissions:"));
    cr_assert_null(strstr(out.data, "\n    name: "), "the name is the key of the mapping");
    cr_assert_null(strstr(out.data, "listen"));
    cr_assert(begins(named(&out, "options", "http"), "http:"));
    cr_assert(strstr(out.data, "; default: 256\n"));
    cr_assert_null(strstr(out.data, "driver"));
    cr_assert(begins(named(&out, "options", "http.listen"), "http.listen: "));
    cr_assert(strstr(out.data, "; default: [127.0.0.1:3100]\n"));
    cr_assert_eq(strchr(strchr(out.data, '\n') + 1, '\n')[1], '\0', "two lines");
    cr_assert(strstr(named(&out, "options", "auth.keys"), "\n    name: "), "in a list the name is written");
    cr_assert(strstr(out.data, "; default: [teams:read, teams:write]\n"));
    cr_assert(begins(named(&out, "options", "max_streams"), "http.max_streams: "));
    cr_assert_str_eq(named(&out, "options", "teams.name"), "");
    cr_assert_str_eq(named(&out, "options", "nothing"), "");
    muster_buf_free(&out);
}

Test(describe, prints_one_of_each_topic)
{
    struct muster_buf out = {0};

    cr_assert(begins(named(&out, "scopes", "teams:read"), "teams:read\n"));
    cr_assert_null(strstr(out.data, "teams:write"));
    cr_assert_str_eq(named(&out, "scopes", "teams"), "");
    cr_assert(begins(named(&out, "messages", "queue.submit"), "queue.submit\n"));
    cr_assert(strstr(out.data, "\njob.callback\n"));
    cr_assert_null(strstr(out.data, "\nqueue.cancel\n"));
    cr_assert(begins(named(&out, "events", "job.chunk"), "job.chunk\n"));
    cr_assert(begins(named(&out, "records", "job"), "job\n"));
    cr_assert(begins(named(&out, "messages", "job_priority"), "job_priority\n"));
    cr_assert(strstr(named(&out, "errors", "TEAM_NOT_FOUND"), " 404 "));
    cr_assert_str_eq(named(&out, "nothing", "teams"), "");
    muster_buf_free(&out);
}

Test(describe, leaves_out_results_that_never_leave_the_process)
{
    struct muster_buf out = {0};

    cr_assert_eq(muster_describe("errors", &out), MUSTER_OK);
    cr_assert(strstr(out.data, "MAX_TURNS"));
    cr_assert_null(strstr(out.data, "EXISTS"));
    cr_assert_null(strstr(out.data, "GONE"));
    cr_assert_null(strstr(out.data, "AGAIN"));
    cr_assert_str_eq(named(&out, "errors", "GONE"), "");
    muster_buf_free(&out);
}
