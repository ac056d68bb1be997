/* SPDX-License-Identifier: MPL-2.0 */
/* The contract of store/engine.h: one list of tests, run on the memory engine and on LMDB; then what only LMDB can
 * show: growth of its map under readers, a second opener, descriptors that children do not inherit. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "store/bytes.h"
#include "tests/unit/store_help.h"

enum { ON_MEMORY, ON_LMDB, BACKENDS };

#define MAP_BYTES (1 << 20)

struct fixture {
    struct folder folder;
    struct muster_engine *engine;
};

static struct fixture
set_up(int backend)
{
    struct fixture fixture = {.folder = folder_make()};
    char problem[256] = "";

    if (backend == ON_MEMORY)
        fixture.engine = engine_memory_new();
    else
        NEED(engine_lmdb_open(fixture.folder.path, MAP_BYTES, &fixture.engine, problem, sizeof(problem)) == MUSTER_OK);
    return fixture;
}

static void
tear_down(struct fixture *fixture)
{
    fixture->engine->class->close(fixture->engine);
    folder_remove(&fixture->folder);
}

static struct muster_bytes
text(const char *of)
{
    return bytes_of(of, strlen(of));
}

static struct muster_bytes
absent(void)
{
    return bytes_of(NULL, 0);
}

static muster_err
change(struct muster_engine *engine, enum engine_verb verb, const char *key, struct muster_bytes value)
{
    struct engine_change one = {verb, ENGINE_RECORDS, text(key), value};

    return engine->class->commit(engine, &one, 1);
}

static bool
holds(struct muster_engine *engine, const char *key, const char *value)
{
    struct muster_buf found = {0};
    muster_err err = engine->class->get(engine, ENGINE_RECORDS, text(key), &found);
    bool same = err == MUSTER_OK && bytes_compare(bytes_of(found.data, found.size), text(value)) == 0;

    muster_buf_free(&found);
    return same;
}

static bool
lacks(struct muster_engine *engine, const char *key)
{
    struct muster_buf found = {0};
    muster_err err = engine->class->get(engine, ENGINE_RECORDS, text(key), &found);

    muster_buf_free(&found);
    return err == MUSTER_NOT_FOUND;
}

#define ON_BOTH(name)                                                                                                  \
    ParameterizedTestParameters(engine, name)                                                                          \
    {                                                                                                                  \
        static int backends[BACKENDS] = {ON_MEMORY, ON_LMDB};                                                          \
        return cr_make_param_array(int, backends, BACKENDS);                                                           \
    }                                                                                                                  \
    ParameterizedTest(int *backend, engine, name)

/* ---- single changes ---- */

ON_BOTH(put_replaces_and_delete_removes)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    cr_assert(lacks(engine, "a"));
    cr_assert_eq(change(engine, ENGINE_PUT, "a", text("one")), MUSTER_OK);
    cr_assert(holds(engine, "a", "one"));
    cr_assert_eq(change(engine, ENGINE_PUT, "a", text("another")), MUSTER_OK);
    cr_assert(holds(engine, "a", "another"));
    cr_assert_eq(change(engine, ENGINE_DELETE, "a", absent()), MUSTER_OK);
    cr_assert(lacks(engine, "a"));
    cr_assert_eq(change(engine, ENGINE_DELETE, "a", absent()), MUSTER_OK, "deleting nothing is no error");
    tear_down(&fixture);
}

ON_BOTH(get_appends_to_what_the_buffer_has)
{
    struct fixture fixture = set_up(*backend);
    struct muster_buf out = {0};

    cr_assert_eq(change(fixture.engine, ENGINE_PUT, "a", text("tail")), MUSTER_OK);
    muster_buf_str(&out, "head ");
    cr_assert_eq(fixture.engine->class->get(fixture.engine, ENGINE_RECORDS, text("a"), &out), MUSTER_OK);
    cr_assert_str_eq(out.data, "head tail");
    muster_buf_free(&out);
    tear_down(&fixture);
}

ON_BOTH(tables_are_apart_and_values_may_be_empty)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;
    struct engine_change one = {ENGINE_PUT, ENGINE_EVENTS, text("a"), absent()};
    struct muster_buf out = {0};

    cr_assert_eq(engine->class->commit(engine, &one, 1), MUSTER_OK);
    cr_assert(lacks(engine, "a"));
    cr_assert_eq(engine->class->get(engine, ENGINE_EVENTS, text("a"), &out), MUSTER_OK);
    cr_assert_eq(out.size, 0);
    muster_buf_free(&out);
    tear_down(&fixture);
}

ON_BOTH(keys_of_500_bytes_and_large_values_are_kept)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;
    size_t size = 3 << 20; /* more than LMDB's first map */
    char *value = muster_alloc(size);
    struct muster_buf out = {0};
    char key[500];
    struct engine_change one = {ENGINE_PUT, ENGINE_RECORDS, bytes_of(key, sizeof(key)), bytes_of(value, size)};

    memset(key, 0xff, sizeof(key));
    memset(value, 'v', size);
    cr_assert_eq(engine->class->commit(engine, &one, 1), MUSTER_OK);
    cr_assert_eq(engine->class->get(engine, ENGINE_RECORDS, one.key, &out), MUSTER_OK);
    cr_assert(out.size == size && memcmp(out.data, value, size) == 0);
    muster_buf_free(&out);
    free(value);
    tear_down(&fixture);
}

ON_BOTH(expect_compares_value_and_absence)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    cr_assert_eq(change(engine, ENGINE_EXPECT, "a", absent()), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_EXPECT, "a", text("x")), MUSTER_CONFLICT);
    cr_assert_eq(change(engine, ENGINE_PUT, "a", text("x")), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_EXPECT, "a", text("x")), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_EXPECT, "a", text("xy")), MUSTER_CONFLICT);
    cr_assert_eq(change(engine, ENGINE_EXPECT, "a", text("y")), MUSTER_CONFLICT);
    cr_assert_eq(change(engine, ENGINE_EXPECT, "a", absent()), MUSTER_CONFLICT);
    cr_assert_eq(change(engine, ENGINE_PUT, "a", bytes_of("", 0)), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_EXPECT, "a", bytes_of("", 0)), MUSTER_OK, "empty is not absent");
    cr_assert_eq(change(engine, ENGINE_EXPECT, "a", absent()), MUSTER_CONFLICT);
    tear_down(&fixture);
}

ON_BOTH(conflict_undoes_the_whole_batch)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;
    struct engine_change batch[] = {
        {ENGINE_PUT, ENGINE_RECORDS, text("kept"), text("new")},
        {ENGINE_PUT, ENGINE_RECORDS, text("made"), text("new")},
        {ENGINE_PUT, ENGINE_RECORDS, text("made"), text("newer")},
        {ENGINE_DELETE, ENGINE_RECORDS, text("gone"), absent()},
        {ENGINE_DELETE, ENGINE_RECORDS, text("none"), absent()},
        {ENGINE_EXPECT, ENGINE_RECORDS, text("made"), absent()},
        {ENGINE_PUT, ENGINE_RECORDS, text("late"), text("new")},
    };

    cr_assert_eq(change(engine, ENGINE_PUT, "kept", text("old")), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_PUT, "gone", text("old")), MUSTER_OK);
    cr_assert_eq(engine->class->commit(engine, batch, 7), MUSTER_CONFLICT);
    cr_assert(holds(engine, "kept", "old"));
    cr_assert(holds(engine, "gone", "old"));
    cr_assert(lacks(engine, "made"));
    cr_assert(lacks(engine, "none"));
    cr_assert(lacks(engine, "late"));
    tear_down(&fixture);
}

/* ---- ranges ---- */

struct collected {
    struct muster_buf keys; /* "a b c " */
    size_t most;
};

static bool
collect(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct collected *collected = arg;

    (void)value;
    muster_buf_add(&collected->keys, key.data, key.size);
    muster_buf_str(&collected->keys, " ");
    return --collected->most > 0;
}

static void
check_range(struct muster_engine *engine, const char *prefix, const char *from, bool backward, size_t most,
            const char *wanted)
{
    struct collected collected = {.most = most};

    muster_buf_str(&collected.keys, "");
    cr_assert_eq(engine->class->range(engine, ENGINE_RECORDS, text(prefix), text(from), backward, collect, &collected),
                 MUSTER_OK);
    cr_assert_str_eq(collected.keys.data ? collected.keys.data : "", wanted, "prefix '%s' from '%s' %s: '%s'", prefix,
                     from, backward ? "down" : "up", collected.keys.data);
    muster_buf_free(&collected.keys);
}

static void
fill(struct muster_engine *engine, const char *keys)
{
    char one[16];
    int used;

    for (; sscanf(keys, " %15s%n", one, &used) == 1; keys += used)
        NEED(change(engine, ENGINE_PUT, one, text("v")) == MUSTER_OK);
}

ON_BOTH(range_goes_up_from_its_boundary)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    check_range(engine, "", "", false, 9, "");
    check_range(engine, "b", "", false, 9, "");
    fill(engine, "c1 b3 a1 b1 b2 b");
    check_range(engine, "", "", false, 9, "a1 b b1 b2 b3 c1 ");
    check_range(engine, "b", "", false, 9, "b b1 b2 b3 ");
    check_range(engine, "b", "b1", false, 9, "b1 b2 b3 ");
    check_range(engine, "b", "b11", false, 9, "b2 b3 ");
    check_range(engine, "b", "b4", false, 9, "");
    check_range(engine, "", "b2", false, 9, "b2 b3 c1 ");
    check_range(engine, "b", "", false, 2, "b b1 ");
    check_range(engine, "d", "", false, 9, "");
    tear_down(&fixture);
}

ON_BOTH(range_goes_down_from_its_boundary)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    check_range(engine, "", "", true, 9, "");
    check_range(engine, "b", "", true, 9, "");
    check_range(engine, "b", "b1", true, 9, "");
    fill(engine, "c1 c b3 a1 b1 b2 b \xff\xff \xff");
    check_range(engine, "", "", true, 9, "\xff\xff \xff c1 c b3 b2 b1 b a1 ");
    check_range(engine, "b", "", true, 9, "b3 b2 b1 b ");
    check_range(engine, "\xff", "", true, 9, "\xff\xff \xff ");
    check_range(engine, "b", "b2", true, 9, "b2 b1 b ");
    check_range(engine, "b", "b25", true, 9, "b2 b1 b ");
    check_range(engine, "b", "b9", true, 9, "b3 b2 b1 b ");
    check_range(engine, "", "\xff\xff\xff", true, 2, "\xff\xff \xff ");
    check_range(engine, "b", "", true, 2, "b3 b2 ");
    check_range(engine, "d", "", true, 9, "");
    check_range(engine, "a", "a0", true, 9, "");
    tear_down(&fixture);
}

static uint64_t
count_of(struct muster_engine *engine, enum engine_table table, const char *key)
{
    uint64_t count = 999;

    cr_assert_eq(engine->class->count(engine, table, text(key), &count), MUSTER_OK);
    return count;
}

ON_BOTH(rows_are_counted_as_they_come_and_go)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    cr_assert_eq(count_of(engine, ENGINE_RECORDS, ""), 0);
    fill(engine, "b a c");
    cr_assert_eq(count_of(engine, ENGINE_RECORDS, ""), 3);
    cr_assert_eq(count_of(engine, ENGINE_RECORDS + 1, ""), 0);
    fill(engine, "b"); /* it is replaced */
    cr_assert_eq(change(engine, ENGINE_DELETE, "x", absent()), MUSTER_OK);
    cr_assert_eq(count_of(engine, ENGINE_RECORDS, ""), 3);
    cr_assert_eq(change(engine, ENGINE_DELETE, "a", absent()), MUSTER_OK);
    cr_assert_eq(count_of(engine, ENGINE_RECORDS, ""), 2);
    tear_down(&fixture);
}

ON_BOTH(append_of_what_is_not_last_is_a_put)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    cr_assert_eq(change(engine, ENGINE_APPEND, "m", text("one")), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_APPEND, "x", text("one")), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_APPEND, "b", text("one")), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_APPEND, "x", text("two")), MUSTER_OK);
    cr_assert_eq(change(engine, ENGINE_APPEND, "b", text("two")), MUSTER_OK);
    check_range(engine, "", "", false, 9, "b m x ");
    cr_assert(holds(engine, "x", "two"));
    cr_assert(holds(engine, "b", "two"));
    tear_down(&fixture);
}

/* ---- sets ---- */

static void
change_set(struct muster_engine *engine, enum engine_verb verb, const char *set, const char *members)
{
    struct engine_change one = {verb, ENGINE_INDEX, text(set), absent()};
    char member[16];
    int used;

    for (; sscanf(members, " %15s%n", member, &used) == 1; members += used) {
        one.value = text(member);
        cr_assert_eq(engine->class->commit(engine, &one, 1), MUSTER_OK);
    }
}

static void
check_set(struct muster_engine *engine, const char *set, const char *from, bool backward, size_t most,
          const char *wanted)
{
    struct collected collected = {.most = most};

    muster_buf_str(&collected.keys, "");
    cr_assert_eq(engine->class->range(engine, ENGINE_INDEX, text(set), text(from), backward, collect, &collected),
                 MUSTER_OK);
    cr_assert_str_eq(collected.keys.data, wanted, "set '%s' from '%s' %s: '%s'", set, from, backward ? "down" : "up",
                     collected.keys.data);
    muster_buf_free(&collected.keys);
}

ON_BOTH(members_are_visited_from_a_member_on_both_ways)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    change_set(engine, ENGINE_PUT, "b", "05 90 03 07");
    change_set(engine, ENGINE_PUT, "a", "04 99");
    change_set(engine, ENGINE_PUT, "c", "00 06");
    check_set(engine, "b", "", false, 9, "03 05 07 90 ");
    check_set(engine, "b", "", true, 9, "90 07 05 03 ");
    check_set(engine, "b", "05", false, 9, "05 07 90 ");
    check_set(engine, "b", "05", true, 9, "05 03 ");
    check_set(engine, "b", "08", false, 9, "90 ");
    check_set(engine, "b", "08", true, 9, "07 05 03 ");
    check_set(engine, "b", "00", false, 9, "03 05 07 90 ");
    check_set(engine, "b", "00", true, 9, "");
    check_set(engine, "b", "99", false, 9, "");
    check_set(engine, "b", "99", true, 9, "90 07 05 03 ");
    check_set(engine, "b", "", false, 2, "03 05 ");
    check_set(engine, "b", "", true, 2, "90 07 ");
    check_set(engine, "b", "07", true, 1, "07 ");
    tear_down(&fixture);
}

ON_BOTH(a_set_of_one_and_one_that_is_not_there_are_visited_alike)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;
    static const char *const froms[] = {"", "00", "05", "99"};
    static const char *const up[] = {"05 ", "05 ", "05 ", ""}, *const down[] = {"05 ", "", "05 ", "05 "};
    size_t i;

    change_set(engine, ENGINE_PUT, "b", "05");
    for (i = 0; i < 4; i++) {
        check_set(engine, "b", froms[i], false, 9, up[i]);
        check_set(engine, "b", froms[i], true, 9, down[i]);
        check_set(engine, "a", froms[i], false, 9, "");
        check_set(engine, "a", froms[i], true, 9, "");
        check_set(engine, "c", froms[i], false, 9, "");
        check_set(engine, "c", froms[i], true, 9, "");
    }
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "b"), 1);
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "c"), 0);
    tear_down(&fixture);
}

ON_BOTH(a_set_whose_key_begins_another_ones_is_apart)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    change_set(engine, ENGINE_PUT, "team", "02 04");
    change_set(engine, ENGINE_PUT, "teams", "01 05 09");
    change_set(engine, ENGINE_PUT, "te", "03");
    check_set(engine, "te", "", false, 9, "03 ");
    check_set(engine, "team", "", false, 9, "02 04 ");
    check_set(engine, "team", "", true, 9, "04 02 ");
    check_set(engine, "team", "05", true, 9, "04 02 ");
    check_set(engine, "teams", "", true, 9, "09 05 01 ");
    check_set(engine, "t", "", false, 9, "");
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "team"), 2);
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "teams"), 3);
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "te"), 1);
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "t"), 0);
    cr_assert_eq(count_of(engine, ENGINE_JOB_EVENTS, "team"), 0);
    tear_down(&fixture);
}

ON_BOTH(members_are_in_a_set_once_and_leave_it_when_removed)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;

    change_set(engine, ENGINE_APPEND, "a", "05 05 07 03 05 07");
    change_set(engine, ENGINE_PUT, "a", "05 01");
    check_set(engine, "a", "", false, 9, "01 03 05 07 ");
    change_set(engine, ENGINE_DELETE, "a", "04 05 05 99");
    change_set(engine, ENGINE_DELETE, "b", "01");
    check_set(engine, "a", "", true, 9, "07 03 01 ");
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "a"), 3);
    change_set(engine, ENGINE_DELETE, "a", "07 01 03");
    check_set(engine, "a", "", false, 9, "");
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "a"), 0);
    change_set(engine, ENGINE_APPEND, "a", "02");
    check_set(engine, "a", "", true, 9, "02 ");
    tear_down(&fixture);
}

ON_BOTH(conflict_undoes_changes_of_sets_too)
{
    struct fixture fixture = set_up(*backend);
    struct muster_engine *engine = fixture.engine;
    struct engine_change batch[] = {
        {ENGINE_PUT, ENGINE_INDEX, text("a"), text("02")},        {ENGINE_APPEND, ENGINE_INDEX, text("a"), text("02")},
        {ENGINE_PUT, ENGINE_INDEX, text("a"), text("01")},        {ENGINE_DELETE, ENGINE_INDEX, text("a"), text("01")},
        {ENGINE_DELETE, ENGINE_INDEX, text("a"), text("05")},     {ENGINE_APPEND, ENGINE_INDEX, text("b"), text("01")},
        {ENGINE_EXPECT, ENGINE_RECORDS, text("none"), text("x")},
    };

    change_set(engine, ENGINE_PUT, "a", "01 05");
    cr_assert_eq(engine->class->commit(engine, batch, 7), MUSTER_CONFLICT);
    check_set(engine, "a", "", false, 9, "01 05 ");
    check_set(engine, "b", "", false, 9, "");
    cr_assert_eq(count_of(engine, ENGINE_INDEX, "a"), 2);
    tear_down(&fixture);
}

ON_BOTH(size_grows_with_what_is_kept)
{
    struct fixture fixture = set_up(*backend);
    uint64_t map, before, after;
    char value[50000];

    memset(value, 'v', sizeof(value));
    fixture.engine->class->size(fixture.engine, &map, &before);
    cr_assert_eq(change(fixture.engine, ENGINE_PUT, "a", bytes_of(value, sizeof(value))), MUSTER_OK);
    fixture.engine->class->size(fixture.engine, &map, &after);
    cr_assert_geq(after, before + sizeof(value));
    cr_assert_geq(map, after);
    tear_down(&fixture);
}

/* ---- random operations against an array ---- */

#define MODEL_KEYS 64

struct model {
    int values[MODEL_KEYS]; /* 0: absent */
};

static unsigned
roll(unsigned *state, unsigned bound)
{
    *state = *state * 1103515245u + 12345u;
    return (*state >> 16) % bound;
}

static struct muster_bytes
model_key(unsigned number, char out_key[8])
{
    snprintf(out_key, 8, "k%02u", number);
    return text(out_key);
}

static struct muster_bytes
model_value(int value, char out_value[16])
{
    if (value == 0)
        return absent();
    snprintf(out_value, 16, "v%d", value);
    return text(out_value);
}

/* Makes a batch, and what the model is after it; false when an expectation in it is wrong. */
static bool
random_batch(unsigned *state, struct model *model, struct engine_change *batch, size_t count, char (*keys)[8],
             char (*values)[16])
{
    bool met = true;
    size_t i;

    for (i = 0; i < count; i++) {
        unsigned number = roll(state, MODEL_KEYS), kind = roll(state, 10);
        int value = kind < 6 ? 1 + (int)roll(state, 1000) : 0;

        batch[i] = (struct engine_change){ENGINE_PUT, ENGINE_RECORDS, model_key(number, keys[i]), absent()};
        if (kind >= 6 && kind < 9)
            batch[i].verb = ENGINE_DELETE;
        if (kind == 9) {
            batch[i].verb = ENGINE_EXPECT;
            value = roll(state, 8) ? model->values[number] : 7777;
            met = met && value == model->values[number];
        }
        batch[i].value = model_value(value, values[i]);
        if (kind < 9)
            model->values[number] = value;
    }
    return met;
}

struct comparison {
    const struct model *model;
    unsigned next;
    bool same;
};

static bool
compare_row(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct comparison *comparison = arg;
    char key_text[8], value_text[16];

    while (comparison->next < MODEL_KEYS && comparison->model->values[comparison->next] == 0)
        comparison->next++;
    comparison->same = comparison->next < MODEL_KEYS &&
                       bytes_compare(key, model_key(comparison->next, key_text)) == 0 &&
                       bytes_compare(value, model_value(comparison->model->values[comparison->next], value_text)) == 0;
    comparison->next++;
    return comparison->same;
}

static bool
equals_model(struct muster_engine *engine, const struct model *model)
{
    struct comparison comparison = {.model = model, .same = true};

    NEED(engine->class->range(engine, ENGINE_RECORDS, absent(), absent(), false, compare_row, &comparison) ==
         MUSTER_OK);
    while (comparison.next < MODEL_KEYS && model->values[comparison.next] == 0)
        comparison.next++;
    return comparison.same && comparison.next == MODEL_KEYS;
}

ON_BOTH(random_batches_leave_what_an_array_has)
{
    struct fixture fixture = set_up(*backend);
    struct model model = {{0}}, after;
    struct engine_change batch[12];
    char keys[12][8], values[12][16];
    unsigned state = 42, round, refused = 0;

    for (round = 0; round < 400; round++) {
        size_t count = 1 + roll(&state, 12);
        bool met;

        after = model;
        met = random_batch(&state, &after, batch, count, keys, values);
        cr_assert_eq(fixture.engine->class->commit(fixture.engine, batch, count), met ? MUSTER_OK : MUSTER_CONFLICT,
                     "round %u", round);
        if (met)
            model = after;
        else
            refused++;
        cr_assert(equals_model(fixture.engine, &model), "round %u", round);
    }
    cr_assert_gt(refused, 10);
    cr_assert_lt(refused, 300);
    tear_down(&fixture);
}

/* Sets of a few, of some hundreds and of some thousands: LMDB keeps them in three ways, and goes from one to the next.
 */
#define SETS 3
#define MEMBERS 4000

struct set_model {
    bool has[SETS][MEMBERS];
    uint64_t counts[SETS];
};

struct member_key {
    uint8_t bytes[16];
};

static struct member_key
member_of(unsigned number)
{
    struct member_key member = {{0}};

    number_write(number, member.bytes + 2); /* what differs is in the middle */
    return member;
}

struct set_comparison {
    const bool *has;
    int64_t next, step;
    bool same;
};

static bool
compare_member(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct set_comparison *comparison = arg;
    struct member_key wanted;

    while (comparison->next >= 0 && comparison->next < MEMBERS && !comparison->has[comparison->next])
        comparison->next += comparison->step;
    if (comparison->next < 0 || comparison->next >= MEMBERS)
        return comparison->same = false;
    wanted = member_of((unsigned)comparison->next);
    comparison->next += comparison->step;
    comparison->same = bytes_compare(key, bytes_of(wanted.bytes, sizeof(wanted))) == 0 && value.size == 0;
    return comparison->same;
}

static void
check_members(struct muster_engine *engine, const char *set, const bool *has, unsigned from, bool backward)
{
    struct set_comparison comparison = {.has = has, .next = from, .step = backward ? -1 : 1, .same = true};
    struct member_key first = member_of(from);

    cr_assert_eq(engine->class->range(engine, ENGINE_INDEX, text(set), bytes_of(first.bytes, sizeof(first)), backward,
                                      compare_member, &comparison),
                 MUSTER_OK);
    cr_assert(comparison.same, "set %s from %u %s", set, from, backward ? "down" : "up");
    for (; comparison.next >= 0 && comparison.next < MEMBERS; comparison.next += comparison.step)
        cr_assert(!has[comparison.next], "set %s from %u lacks %lld", set, from, (long long)comparison.next);
}

/* Changes of all three sets in one commit; they grow in the first rounds, and lose most again in the last. */
static void
change_sets(struct muster_engine *engine, struct set_model *model, unsigned *state, bool growing)
{
    static const char *const sets[SETS] = {"a", "ab", "b"};
    static const unsigned reach[SETS] = {8, 400, MEMBERS};
    struct engine_change batch[60];
    struct member_key members[60];
    unsigned i;

    for (i = 0; i < 60; i++) {
        unsigned set = roll(state, SETS), number = roll(state, reach[set]);
        bool removes = roll(state, 4) == (growing ? 0 : 1) || (!growing && roll(state, 4) != 0);
        bool *has = &model->has[set][number];

        members[i] = member_of(number);
        batch[i] =
            (struct engine_change){removes          ? ENGINE_DELETE
                                   : roll(state, 2) ? ENGINE_APPEND
                                                    : ENGINE_PUT,
                                   ENGINE_INDEX, text(sets[set]), bytes_of(members[i].bytes, sizeof(members[i]))};
        model->counts[set] += (uint64_t)(!removes && !*has) - (uint64_t)(removes && *has);
        *has = !removes;
    }
    cr_assert_eq(engine->class->commit(engine, batch, 60), MUSTER_OK);
    for (i = 0; i < SETS; i++) {
        cr_assert_eq(count_of(engine, ENGINE_INDEX, sets[i]), model->counts[i]);
        check_members(engine, sets[i], model->has[i], roll(state, MEMBERS), roll(state, 2));
    }
}

ON_BOTH(random_changes_leave_in_sets_what_arrays_have)
{
    struct fixture fixture = set_up(*backend);
    struct set_model *model = muster_alloc(sizeof(*model));
    unsigned state = 7, round;
    uint64_t largest = 0;

    for (round = 0; round < 500; round++) {
        change_sets(fixture.engine, model, &state, round < 300);
        largest = model->counts[2] > largest ? model->counts[2] : largest;
    }
    check_members(fixture.engine, "ab", model->has[1], 0, false);
    check_members(fixture.engine, "b", model->has[2], 0, false);
    check_members(fixture.engine, "b", model->has[2], MEMBERS - 1, true);
    cr_assert_gt(largest, 2000);
    cr_assert_lt(model->counts[2], 1500);
    free(model);
    tear_down(&fixture);
}

/* ---- readers beside the writer ---- */

#define READERS 4
#define GROUP 20 /* rows that every commit writes with the same value */

struct beside {
    struct muster_engine *engine;
    atomic_bool stop;
    atomic_uint reads, torn, failed;
};

struct group {
    struct muster_buf first;
    size_t rows;
    bool torn;
};

static bool
check_group(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct group *group = arg;

    (void)key;
    if (group->rows++ == 0)
        muster_buf_add(&group->first, value.data, value.size);
    else if (bytes_compare(bytes_of(group->first.data, group->first.size), value) != 0)
        group->torn = true;
    return true;
}

static void *
read_groups(void *arg)
{
    struct beside *beside = arg;
    struct group group;
    muster_err err;

    while (!atomic_load(&beside->stop)) {
        group = (struct group){.rows = 0};
        err = beside->engine->class->range(beside->engine, ENGINE_RECORDS, text("group"), absent(), false, check_group,
                                           &group);
        if (err)
            atomic_fetch_add(&beside->failed, 1);
        if (group.torn || (group.rows != 0 && group.rows != GROUP))
            atomic_fetch_add(&beside->torn, 1);
        atomic_fetch_add(&beside->reads, 1);
        muster_buf_free(&group.first);
    }
    return NULL;
}

static void
commit_group(struct muster_engine *engine, char fill_with, size_t size, unsigned ballast)
{
    struct engine_change batch[GROUP + 1];
    char keys[GROUP][16], other[16];
    char *value = muster_alloc(size);
    size_t i;

    memset(value, fill_with, size);
    for (i = 0; i < GROUP; i++) {
        snprintf(keys[i], sizeof(keys[i]), "group%02zu", i);
        batch[i] = (struct engine_change){ENGINE_PUT, ENGINE_RECORDS, text(keys[i]), bytes_of(value, size)};
    }
    snprintf(other, sizeof(other), "other%06u", ballast); /* makes the store larger with each commit */
    batch[GROUP] = (struct engine_change){ENGINE_PUT, ENGINE_RECORDS, text(other), bytes_of(value, size)};
    cr_assert_eq(engine->class->commit(engine, batch, GROUP + 1), MUSTER_OK);
    free(value);
}

ON_BOTH(readers_see_whole_commits_while_the_store_grows)
{
    struct fixture fixture = set_up(*backend);
    struct beside beside = {.engine = fixture.engine};
    pthread_t threads[READERS];
    uint64_t map, used;
    unsigned i;

    for (i = 0; i < READERS; i++)
        NEED(pthread_create(&threads[i], NULL, read_groups, &beside) == 0);
    for (i = 0; i < 300 || atomic_load(&beside.reads) < 100; i++)
        commit_group(fixture.engine, (char)('a' + i % 26), 30000, i);
    atomic_store(&beside.stop, true);
    for (i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(beside.failed, 0);
    cr_assert_eq(beside.torn, 0);
    fixture.engine->class->size(fixture.engine, &map, &used);
    cr_assert_gt(map, 8 * MAP_BYTES, "the map was doubled several times meanwhile");
    tear_down(&fixture);
}

/* ---- LMDB only ---- */

Test(lmdb, second_opener_is_told_who_has_the_folder)
{
    struct fixture fixture = set_up(ON_LMDB);
    struct muster_engine *second = NULL;
    char problem[256] = "", pid[32];

    cr_assert_eq(engine_lmdb_open(fixture.folder.path, MAP_BYTES, &second, problem, sizeof(problem)), MUSTER_CONFLICT);
    cr_assert_null(second);
    snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
    cr_assert(strstr(problem, pid) != NULL && strstr(problem, fixture.folder.path) != NULL, "%s", problem);
    fixture.engine->class->close(fixture.engine);
    cr_assert_eq(engine_lmdb_open(fixture.folder.path, MAP_BYTES, &fixture.engine, problem, sizeof(problem)), MUSTER_OK,
                 "it is free after the close");
    tear_down(&fixture);
}

Test(lmdb, missing_folders_are_made_private)
{
    struct folder folder = folder_make();
    struct muster_engine *engine = NULL;
    char path[128], problem[256] = "";
    struct stat info;

    snprintf(path, sizeof(path), "%s/one/two", folder.path);
    cr_assert_eq(engine_lmdb_open(path, MAP_BYTES, &engine, problem, sizeof(problem)), MUSTER_OK, "%s", problem);
    cr_assert_eq(stat(path, &info), 0);
    cr_assert_eq(info.st_mode & 0777, 0700);
    engine->class->close(engine);
    folder_remove(&folder);
}

static void
write_file(const char *path, const char *content)
{
    FILE *file = fopen(path, "w");

    NEED(file != NULL && fputs(content, file) >= 0 && fclose(file) == 0);
}

Test(lmdb, what_cannot_be_opened_is_an_error_with_a_text)
{
    struct folder folder = folder_make();
    struct muster_engine *engine = NULL;
    char path[128], problem[256] = "";

    snprintf(path, sizeof(path), "%s/file", folder.path);
    write_file(path, "x");
    cr_assert_eq(engine_lmdb_open(path, MAP_BYTES, &engine, problem, sizeof(problem)), MUSTER_STORAGE_ERROR);
    cr_assert(strstr(problem, path) != NULL, "%s", problem);
    strcat(path, "/below");
    cr_assert_eq(engine_lmdb_open(path, MAP_BYTES, &engine, problem, sizeof(problem)), MUSTER_STORAGE_ERROR);
    snprintf(path, sizeof(path), "%s/data.mdb", folder.path);
    write_file(path, "this is not a database, and not an empty file either");
    cr_assert_eq(engine_lmdb_open(folder.path, MAP_BYTES, &engine, problem, sizeof(problem)), MUSTER_STORAGE_ERROR);
    cr_assert(strstr(problem, folder.path) != NULL, "%s", problem);
    cr_assert_null(engine);
    folder_remove(&folder);
}

Test(lmdb, children_inherit_no_descriptor_of_it)
{
    struct fixture fixture = set_up(ON_LMDB);
    char name[300], target[300];
    unsigned files = 0;
    struct dirent *entry;
    DIR *open_files;
    ssize_t size;

    cr_assert_eq(change(fixture.engine, ENGINE_PUT, "a", text("x")), MUSTER_OK);
    open_files = opendir("/proc/self/fd");
    cr_assert_not_null(open_files);
    while ((entry = readdir(open_files)) != NULL) {
        snprintf(name, sizeof(name), "/proc/self/fd/%s", entry->d_name);
        size = readlink(name, target, sizeof(target) - 1);
        target[size > 0 ? size : 0] = '\0';
        if (strstr(target, fixture.folder.path) == NULL)
            continue;
        files++;
        cr_assert(fcntl(atoi(entry->d_name), F_GETFD) & FD_CLOEXEC, "%s", target);
    }
    closedir(open_files);
    cr_assert_geq(files, 3, "lock, lock.mdb and data.mdb at least: %u", files);
    tear_down(&fixture);
}

/* Address space for this process to `more` bytes above what it uses; RLIM_INFINITY lifts the limit. */
static void
limit_address_space(rlim_t more)
{
    struct rlimit limit;
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    NEED(file != NULL && fscanf(file, "%lu", &pages) == 1 && fclose(file) == 0);
    NEED(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = more == RLIM_INFINITY ? limit.rlim_max : pages * (rlim_t)sysconf(_SC_PAGESIZE) + more;
    NEED(setrlimit(RLIMIT_AS, &limit) == 0);
}

Test(lmdb, a_failed_growth_leaves_the_engine_usable)
{
    struct fixture fixture = set_up(ON_LMDB);
    struct muster_engine *engine = fixture.engine;
    size_t size = 64 << 20;
    char *value = muster_alloc(size);

    cr_assert_eq(change(engine, ENGINE_PUT, "a", text("x")), MUSTER_OK);
    limit_address_space(44 << 20);
    cr_assert_eq(change(engine, ENGINE_PUT, "large", bytes_of(value, size)), MUSTER_STORAGE_ERROR);
    cr_assert(holds(engine, "a", "x"));
    cr_assert_eq(change(engine, ENGINE_PUT, "b", text("y")), MUSTER_OK);
    cr_assert(holds(engine, "b", "y"));
    limit_address_space(RLIM_INFINITY);
    cr_assert_eq(change(engine, ENGINE_PUT, "large", bytes_of(value, size)), MUSTER_OK);
    cr_assert(holds(engine, "b", "y"));
    free(value);
    tear_down(&fixture);
}
