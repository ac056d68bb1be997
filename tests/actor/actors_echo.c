/* SPDX-License-Identifier: MPL-2.0 */
/* The echo driver on a recorded host. */
#include "tests/actor/fake/fake_host.h"

static struct fake_host *
said(const char *prompt)
{
    struct fake_host *fake = fake_host_new(&driver_echo);

    fake_host_begin(fake, prompt, 1);
    return fake;
}

static void
answers(const char *prompt, const char *answer)
{
    struct fake_host *fake = said(prompt);

    cr_assert_eq(fake->done_count, 1, "%s", prompt);
    cr_assert_eq(fake->done[0].outcome.err, MUSTER_OK);
    cr_assert_str_eq(fake->done[0].text, answer);
    cr_assert_str_eq(fake_host_text(&fake->chunks), answer);
    fake_host_free(fake);
}

Test(echo, answers_with_the_prompt)
{
    answers("hello there", "hello there");
    answers("  kept  as it is \n", "  kept  as it is \n");
    answers("grüße €", "grüße €");
}

Test(echo, takes_script_words_and_leaves_the_rest)
{
    answers("@chunks=1 @cost=0.5 hello", "hello");
    answers("@cost=1", "");
    answers("@size=5", "xxxxx");
}

Test(echo, text_that_is_no_script_is_answered_whole)
{
    answers("@alice please look", "@alice please look");
    answers("@chunks=many hello", "@chunks=many hello");
    answers("@fail=NO_SUCH_CODE hello", "@fail=NO_SUCH_CODE hello");
    answers("@fail=OK hello", "@fail=OK hello");
    answers("@hanger x", "@hanger x");
    answers("@size=1000GiB x", "@size=1000GiB x");
    answers("@tool=Read:{broken x", "@tool=Read:{broken x");
    answers("@cost=nan x", "@cost=nan x");
    answers("@progress=2 x", "@progress=2 x");
    answers("@progress=6/5 x", "@progress=6/5 x");
    answers("@progress=0/0 x", "@progress=0/0 x");
    answers("@progress=1/5/6 x", "@progress=1/5/6 x");
    answers("@", "@");
}

Test(echo, two_ats_make_the_rest_literal)
{
    answers("@@chunks=2 hi", "@chunks=2 hi");
    answers("@cost=1 @@fail=TIMEOUT", "@fail=TIMEOUT");
}

Test(echo, splits_into_chunks_between_characters)
{
    struct fake_host *fake = said("@chunks=4 äöüß");

    cr_assert_eq(fake->chunk_count, 4);
    cr_assert_str_eq(fake_host_text(&fake->chunks), "äöüß");
    fake_host_free(fake);
    fake = said("@chunks=100 abc");
    cr_assert_eq(fake->chunk_count, 3);
    cr_assert_str_eq(fake_host_text(&fake->chunks), "abc");
    fake_host_free(fake);
    fake = said("@chunks=3 @size=10");
    cr_assert_eq(fake->chunk_count, 3);
    cr_assert_eq(fake->done[0].outcome.text_size, 10);
    fake_host_free(fake);
}

Test(echo, waits_before_the_first_chunk_and_between_chunks)
{
    struct fake_host *fake = said("@delay=2s @gap=30ms @chunks=2 ab");

    cr_assert_eq(fake->timer_ms, 2000);
    cr_assert_eq(fake->chunk_count, 0);
    driver_echo.timer(fake->driver);
    cr_assert_eq(fake->timer_ms, 30);
    cr_assert_eq(fake->chunk_count, 1);
    cr_assert_eq(fake->done_count, 0);
    driver_echo.timer(fake->driver);
    cr_assert_eq(fake->chunk_count, 2);
    cr_assert_eq(fake->done_count, 1);
    cr_assert_str_eq(fake->done[0].text, "ab");
    fake_host_free(fake);
}

Test(echo, uses_tools_before_the_text)
{
    struct fake_host *fake = said("@tool=Pwd @tool=Read:{\"file_path\":\"/a/b.c\"} text");

    cr_assert_eq(fake_host_events(fake, &job_tool_use_type, "\"tool\":\"Pwd\""), 1);
    cr_assert_eq(fake_host_events(fake, &job_tool_use_type, "\"file\":\"/a/b.c\""), 1);
    cr_assert_eq(fake_host_events(fake, &job_tool_use_type, "\"input\":{\"file_path\":\"/a/b.c\"}"), 1);
    cr_assert_str_eq(fake->done[0].text, "text");
    fake_host_free(fake);
}

static size_t
steps(const struct fake_host *fake)
{
    return fake_host_events(fake, &job_progress_type, "");
}

Test(echo, says_how_far_it_is_between_chunks)
{
    struct fake_host *fake = said("@progress=0/5 @progress=2/5 @chunks=3 @gap=10ms abc");

    cr_assert_eq(fake->chunk_count, 1);
    cr_assert_eq(steps(fake), 1);
    cr_assert_str_eq(fake->events[0].json, "{\"current\":0,\"total\":5}");
    driver_echo.timer(fake->driver);
    cr_assert_str_eq(fake->events[1].json, "{\"current\":2,\"total\":5}");
    cr_assert_eq(fake->done_count, 0);
    driver_echo.timer(fake->driver);
    cr_assert_eq(fake->done_count, 1);
    cr_assert_eq(steps(fake), 2);
    fake_host_begin(fake, "again", 1);
    cr_assert_eq(steps(fake), 2, "the next turn says nothing of the kind");
    fake_host_free(fake);
}

Test(echo, says_all_that_is_left_before_it_ends_or_hangs)
{
    struct fake_host *fake = said("@progress=1/3 @progress=2/3 @hang x");

    cr_assert_eq(steps(fake), 2);
    cr_assert_eq(fake->done_count, 0);
    fake_host_free(fake);
    fake = said("@progress=1/3");
    cr_assert_eq(steps(fake), 1);
    cr_assert_eq(fake->done_count, 1);
    fake_host_free(fake);
}

Test(echo, fails_as_often_as_told)
{
    struct fake_host *fake = said("@fail=MODEL_OVERLOADED:2 text");

    cr_assert_eq(fake->done[0].outcome.err, MUSTER_MODEL_OVERLOADED);
    cr_assert_eq(fake->chunk_count, 0);
    fake_host_begin(fake, "@fail=MODEL_OVERLOADED:2 text", 2);
    cr_assert_eq(fake->done[1].outcome.err, MUSTER_MODEL_OVERLOADED);
    fake_host_begin(fake, "@fail=MODEL_OVERLOADED:2 text", 3);
    cr_assert_eq(fake->done[2].outcome.err, MUSTER_OK);
    cr_assert_str_eq(fake->done[2].text, "text");
    fake_host_begin(fake, "@fail=INTERNAL_ERROR text", 99);
    cr_assert_eq(fake->done[3].outcome.err, MUSTER_INTERNAL_ERROR);
    fake_host_free(fake);
}

Test(echo, hangs_until_interrupted)
{
    struct fake_host *fake = said("@hang partial");

    cr_assert_str_eq(fake_host_text(&fake->chunks), "partial");
    cr_assert_eq(fake->done_count, 0);
    driver_echo.interrupt(fake->driver);
    cr_assert_eq(fake->done_count, 1);
    cr_assert_eq(fake->done[0].outcome.err, MUSTER_CANCELLED);
    driver_echo.interrupt(fake->driver);
    driver_echo.timer(fake->driver);
    cr_assert_eq(fake->done_count, 1);
    fake_host_free(fake);
}

Test(echo, reports_usage)
{
    struct fake_host *fake = said("@cost=0.25 @tokens=70 one two  three");

    cr_assert_eq(fake->done[0].outcome.usage.input_tokens, 3);
    cr_assert_eq(fake->done[0].outcome.usage.output_tokens, 70);
    cr_assert_float_eq(fake->done[0].outcome.usage.cost_usd, 0.25, 1e-9);
    fake_host_begin(fake, "four words are here", 1);
    cr_assert_eq(fake->done[1].outcome.usage.input_tokens, 4);
    cr_assert_eq(fake->done[1].outcome.usage.output_tokens, 4);
    cr_assert_float_eq(fake->done[1].outcome.usage.cost_usd, 0, 1e-9);
    fake_host_free(fake);
}
