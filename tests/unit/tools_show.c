/* SPDX-License-Identifier: MPL-2.0 */
/* Answers as tables and lines: what is in them, and what is not as it should be. */
#include "tools/show.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tools/client.h"

static void
redirect(void)
{
    setenv("TZ", "UTC", 1);
    tzset();
    cr_redirect_stdout();
}

TestSuite(tools_show, .init = redirect);

static json_t *
parse(const char *text)
{
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);

    cr_assert(json, "%s", text);
    return json;
}

static void
expect_stdout(const char *expected)
{
    fflush(stdout);
    cr_assert_stdout_eq_str(expected);
}

Test(tools_show, jobs_have_an_age)
{
    json_t *answer =
        parse("{\"messages\":[{\"messageId\":\"msg_1\",\"to\":\"echo\",\"status\":\"queued\",\"priority\":\"high\","
              "\"position\":2,\"timestamp\":1000,\"from\":\"ci\",\"message\":\"two\\nlines\"}],"
              "\"pagination\":{\"page\":1,\"total\":9,\"hasNext\":true}}");

    show_jobs(answer, 31000);
    json_decref(answer);
    expect_stdout("JOB    TEAM  STATUS  PRIORITY  POSITION  AGE   FROM  TEXT\n"
                  "msg_1  echo  queued  high      2         30 s  ci    two lines\n"
                  "(9 in all; go on with --page 2)\n");
}

Test(tools_show, a_column_that_no_row_has_is_left_out)
{
    json_t *answer = parse("{\"messages\":[{\"messageId\":\"msg_1\"}]}");

    show_jobs(answer, 0);
    json_decref(answer);
    expect_stdout("JOB    TEAM  STATUS  AGE  FROM  TEXT\nmsg_1  -     -       -    -     -\n");
}

Test(tools_show, paused_teams_stand_out)
{
    json_t *answer =
        parse("[{\"name\":\"a\",\"status\":\"paused\",\"paused\":true},{\"name\":\"b\",\"paused\":false}]");

    show_teams(answer);
    json_decref(answer);
    expect_stdout("TEAM  STATUS  DRIVER  RUNNING  QUEUED  CONCURRENCY  PAUSED\n"
                  "a     paused  -       -        -       -            yes\n"
                  "b     -       -       -        -       -            -\n");
}

Test(tools_show, keys_have_tier_sender_and_the_end_of_the_old_one)
{
    json_t *answer = parse("[{\"name\":\"ci\",\"tier\":\"premium\",\"speaksFor\":\"ops\",\"oldUntil\":1700000000000,"
                           "\"expiresAt\":1700000000000,\"scopes\":[\"a\",\"b\"]}]");

    show_keys(answer);
    json_decref(answer);
    expect_stdout(
        "NAME  ID  SCOPES  TEAMS  TIER     AS   CREATED  EXPIRES              OLD UNTIL            REVOKED  RATE\n"
        "ci    -   a,b     -      premium  ops  -        2023-11-14 22:13:20  2023-11-14 22:13:20  -        "
        "by tier\n");
}

Test(tools_show, a_job_says_how_far_it_is_and_until_when_it_may_go)
{
    json_t *job = parse("{\"status\":\"processing\",\"progress\":{\"current\":3,\"total\":7,\"percentage\":42},"
                        "\"deadline\":1700000000000,\"sessionId\":\"s\",\"retryOf\":\"msg_1\",\"position\":2,"
                        "\"callback\":{\"status\":\"pending\",\"nextTry\":1700000000000}}");

    show_job(job);
    json_decref(job);
    expect_stdout("status: processing\nprogress: 3 of 7 (42 %)\ndeadline: 2023-11-14 22:13:20\nsessionId: s\n"
                  "retryOf: msg_1\nposition: 2\ncallback:\n  status: pending\n  nextTry: 2023-11-14 22:13:20\n");
}

Test(tools_show, odd_answers_are_shown_somehow)
{
    static const char *const answers[] = {
        "null",
        "7",
        "\"text\"",
        "[]",
        "{}",
        "[null, 1, \"x\", [], {}]",
        "{\"messages\":5,\"pagination\":7,\"webhooks\":\"x\",\"progress\":[],\"status\":{}}",
        "{\"messages\":{\"a\":1},\"pagination\":{\"hasNext\":true},\"progress\":{\"total\":1e300,\"current\":\"x\"}}",
        "{\"messages\":[null,5,\"x\",[],{\"timestamp\":1e300,\"duration\":-1e300,\"status\":[1],\"message\":{}}]}",
        "{\"webhooks\":[null,{\"nextTry\":1e18,\"events\":\"x\",\"state\":[1]}],\"deadline\":1e300,\"response\":\"\"}",
        "[{\"timestamp\":-1e18,\"rateLimit\":7,\"oldUntil\":\"x\",\"paused\":\"yes\",\"expiresAt\":9e18}]",
        "[{\"rateLimit\":{\"requests\":1e18,\"window\":\"x\"},\"scopes\":{\"a\":[]},\"teams\":[[],{},null]}]",
    };
    size_t i;

    for (i = 0; i < sizeof answers / sizeof *answers; i++) {
        json_t *answer = parse(answers[i]);

        show_jobs(answer, 1000);
        show_history(answer);
        show_teams(answer);
        show_keys(answer);
        show_webhooks(answer);
        show_job(answer);
        show_fields(answer, 0);
        cr_assert(show_job_result(answer) == EXIT_DONE);
        cr_assert(job_has_ended(answer));
        json_decref(answer);
    }
}

Test(tools_show, a_number_that_is_none_is_minus_one)
{
    json_t *json = parse("{\"a\":1e300,\"b\":-1e300,\"c\":\"1\",\"d\":1.9,\"e\":9007199254740993,\"f\":null}");

    cr_assert_eq(json_number(json, "a"), -1);
    cr_assert_eq(json_number(json, "b"), -1);
    cr_assert_eq(json_number(json, "c"), -1);
    cr_assert_eq(json_number(json, "d"), 1);
    cr_assert_eq(json_number(json, "e"), -1);
    cr_assert_eq(json_number(json, "f"), -1);
    cr_assert_eq(json_number(json, "none"), -1);
    json_decref(json);
    expect_stdout("");
}

Test(tools_show, the_server_stands_before_its_workers)
{
    json_t *answer =
        parse("{\"hub\":{\"host\":\"here\",\"version\":\"0.1.0\",\"running\":0,\"load\":{\"load1\":0.25,\"cpus\":2},"
              "\"teams\":[]},\"nodes\":[{\"name\":\"w1\",\"host\":\"far\",\"version\":\"0.1.0\",\"state\":\"away\","
              "\"draining\":true,\"running\":3,\"lastHeardAt\":1000,\"teams\":[{\"name\":\"a\",\"capacity\":4,"
              "\"running\":1,\"fits\":true},{\"name\":\"b\",\"capacity\":2,\"running\":2,\"fits\":false}],"
              "\"load\":{\"load1\":1.5,\"cpus\":16},\"lag\":{\"parcels\":5,\"bytes\":1,\"oldestMs\":1200,"
              "\"roundTripMs\":1}}]}");

    show_nodes(answer, 31000);
    json_decref(answer);
    expect_stdout("NODE      STATE           HOST  VERSION  TEAMS                  LOAD        LAG       HEARD\n"
                  "(server)  up              here  0.1.0    -                      0.25 of 2   -         -\n"
                  "w1        away, draining  far   0.1.0    a 1/4, b 2/2 (labels)  1.50 of 16  5, 1.2 s  30 s\n");
}
