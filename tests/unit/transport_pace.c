/* SPDX-License-Identifier: MPL-2.0 */
/* When threads yield: while other programs leave most of the processors to us. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "transport/pace.h"

/* A look after so many more seconds of two processors: `ours` and `others` of them busy, in hundredths of a second. */
static bool
look(struct pace *pace, int64_t *total, int64_t *busy, int64_t *own, int64_t ours, int64_t others)
{
    char text[256];

    *total += 200;
    *busy += ours + others;
    *own += ours * 10000;
    (void)snprintf(text, sizeof text, "cpu  %lld 0 0 %lld 0 0 0 0 0 0\ncpu0 1 2 3\n", (long long)*busy,
                   (long long)(*total - *busy));
    pace_look(pace, text, 100, *own);
    return pace->yields;
}

Test(pace, threads_yield_while_others_leave_most_of_the_processors)
{
    struct pace pace;
    int64_t total = 100000, busy = 30000, own = 5000000;

    memset(&pace, 0, sizeof pace);
    cr_assert_not(look(&pace, &total, &busy, &own, 100, 0), "one look tells nothing");
    cr_assert(look(&pace, &total, &busy, &own, 150, 40));
    cr_assert(look(&pace, &total, &busy, &own, 0, 0));
    cr_assert(look(&pace, &total, &busy, &own, 120, 79), "39 percent");
    cr_assert_not(look(&pace, &total, &busy, &own, 120, 80), "40 percent");
    cr_assert_not(look(&pace, &total, &busy, &own, 20, 180));
    cr_assert(look(&pace, &total, &busy, &own, 100, 60), "when they are done it goes on");
}

Test(pace, nobody_yields_where_it_cannot_be_told)
{
    const char *texts[] = {"", "cpu", "cpu  1 2 3 4 5 6 7", "intr 1 2 3 4 5 6 7 8 9", "cpu  a b c d e f g h"};
    struct pace pace;
    int64_t total = 1000, busy = 100, own = 0;
    size_t i;

    memset(&pace, 0, sizeof pace);
    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        (void)look(&pace, &total, &busy, &own, 10, 0);
        cr_assert(look(&pace, &total, &busy, &own, 10, 0));
        pace_look(&pace, texts[i], 100, own);
        cr_assert_not(pace.yields, "%s", texts[i]);
    }
}

Test(pace, whoever_yields_first_takes_a_look)
{
    struct pace pace;
    int64_t due_ns;

    memset(&pace, 0, sizeof pace);
    pace_yield(&pace);
    due_ns = pace.due_ns;
    cr_assert_gt(due_ns, 0);
    cr_assert_gt(pace.total, 0, "/proc/stat was read");
    pace_yield(&pace);
    cr_assert_eq(pace.due_ns, due_ns, "the next look is not due yet");
}
