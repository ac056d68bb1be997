/* SPDX-License-Identifier: MPL-2.0 */
/* Text of the server on one line: cut between characters, never inside one. */
#include "tools/text.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static void
expect_line(const char *text, int width, const char *expected)
{
    struct muster_buf out = {0};

    muster_buf_str(&out, "> ");
    text_add_line(&out, text, width);
    cr_assert_str_eq(out.data + 2, expected, "%s in %d: %s", text, width, out.data);
    muster_buf_free(&out);
}

Test(tools_text, lines_and_runs_of_blanks_become_one_space)
{
    expect_line("\n\n  two\r\n\twords\x1b[31m\x7f ", 50, "two words [31m");
    expect_line("", 50, "");
    expect_line(" \n ", 50, "");
}

Test(tools_text, what_is_longer_than_the_width_ends_in_dots)
{
    expect_line("0123456789", 10, "0123456789");
    expect_line("0123456789a", 10, "0123456...");
    expect_line("01234567  a", 10, "01234567 a");
    expect_line("\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", 4, "\xc3\xa9...");
    expect_line("\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", 4, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9");
    expect_line("abc", 2, "...");
}

Test(tools_text, a_copy_has_whole_characters)
{
    char out[6];

    text_copy(out, sizeof out, "abcd\xc3\xa9");
    cr_assert_str_eq(out, "abcd");
    text_copy(out, sizeof out, "abc\xc3\xa9");
    cr_assert_str_eq(out, "abc\xc3\xa9");
    text_copy(out, 1, "a");
    cr_assert_str_eq(out, "");
}

Test(tools_text, a_cell_is_cut_to_its_width)
{
    char cell[32] = "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9";

    text_cut(cell, 6);
    cr_assert_eq(text_width(cell), 6);
    text_cut(cell, 5);
    cr_assert_str_eq(cell, "\xc3\xa9\xc3\xa9...");
}

Test(tools_text, names_of_jobs_are_told_from_those_of_teams)
{
    cr_assert(text_is_job("msg_01890a5d-ac96-774b-bcce-b302099a8057"));
    cr_assert(text_is_job("job_01890a5d-ac96-774b-bcce-b302099a8057"));
    cr_assert(text_is_job("01890A5D-ac96-774b-bcce-b302099a8057"));
    cr_assert(text_is_job("msg_01890a5d"), "a part of an id is no team");
    cr_assert_not(text_is_job("job_runner"));
    cr_assert_not(text_is_job("msg_"));
    cr_assert_not(text_is_job("backend"));
    cr_assert_not(text_is_job("01890a5d-ac96-774b-bcce"));
}

Test(tools_text, a_short_id_is_the_end)
{
    cr_assert_str_eq(text_short_id("msg_01890a5d-ac96-774b-bcce-b302099a8057"), "099a8057");
    cr_assert_str_eq(text_short_id("x"), "x");
    cr_assert_str_eq(text_short_id(""), "");
    cr_assert_str_eq(text_short_id("\xc3\xa9"
                                   "1234567"),
                     "1234567", "no half character");
}
