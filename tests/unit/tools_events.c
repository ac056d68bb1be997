/* SPDX-License-Identifier: MPL-2.0 */
/* Events in words: those of the log, and those that no server should send. */
#include "tools/events.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/exits.h"

#define ID "msg_01890a5d-ac96-774b-bcce-b302099a8057"

static void
in_utc(void)
{
    setenv("TZ", "UTC", 1);
    tzset();
}

TestSuite(tools_events, .init = in_utc);

static json_t *
parse(const char *text)
{
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);

    cr_assert(json, "%s", text);
    return json;
}

static void
expect_styled(const char *event, struct event_style style, const char *expected)
{
    struct muster_buf out = {0};
    json_t *json = parse(event);

    event_line(&out, json, &style);
    cr_assert_str_eq(out.data, expected, "%s: %s", event, out.data);
    muster_buf_free(&out);
    json_decref(json);
}

/* What an event of that type with that body says, behind time, team and short id. */
static void
expect(const char *type, const char *body, const char *expected)
{
    char event[1024];
    char line[1024];

    snprintf(event, sizeof event,
             "{\"type\":\"%s\",\"team\":\"echo\",\"messageId\":\"" ID "\",\"at\":1700000000000,\"data\":%s}", type,
             body);
    snprintf(line, sizeof line, "2023-11-14 22:13:20  echo  099a8057  %s\n", expected);
    expect_styled(event, (struct event_style){.width = 200}, line);
}

Test(tools_events, every_type_has_its_words)
{
    expect("job.queued", "{\"priority\":\"high\",\"position\":3}", ID ": queued, high, position 3");
    expect("job.started", "{\"process\":12,\"resumed\":true}", "started by process 12, goes on with its conversation");
    expect("job.chunk", "{\"text\":\"one\\n  two\"}", "says: one two");
    expect("job.tool_use", "{\"tool\":\"Read\",\"file\":\"a.c\",\"input\":{}}", "uses Read a.c");
    expect("job.tool_use", "{\"tool\":\"Bash\",\"input\":{\"command\":\"ls\"}}", "uses Bash {\"command\":\"ls\"}");
    expect("job.tool_result", "{\"id\":\"x\"}", "the tool is done");
    expect("job.tool_result", "{\"id\":\"x\",\"failed\":true,\"text\":\"no\"}", "the tool failed: no");
    expect("job.permission", "{\"tool\":\"Bash\",\"verdict\":\"denied\"}", "denied: Bash (no rule)");
    expect("job.permission", "{\"tool\":\"Bash\",\"verdict\":\"allowed\",\"rule\":\"Bash(*)\"}",
           "allowed: Bash (by the rule Bash(*))");
    expect("job.usage", "{\"usage\":{\"input_tokens\":1,\"output_tokens\":2,\"cost_usd\":0.5}}",
           "usage: 1 tokens in, 2 out, 0.5000 USD");
    expect("job.usage", "{\"usage\":{}}", "usage: not told");
    expect("job.notice", "{\"kind\":\"api_retry\",\"text\":\"soon\"}", "notice api_retry: soon");
    expect("job.retrying", "{\"code\":\"MODEL_ERROR\",\"message\":\"bad\",\"delay_ms\":1500}",
           "the attempt failed (MODEL_ERROR): bad; tries again in 1.5 s");
    expect("job.parked", "{\"reason\":\"stop\"}", "parked: stop");
    expect("job.progress", "{\"current\":2,\"total\":7,\"step\":\"tests\"}", "step 2 of 7: tests");
    expect("job.completed", "{\"duration_ms\":30000}", "completed in 30 s");
    expect("job.failed", "{\"code\":\"TIMEOUT\",\"message\":\"late\"}", "failed (TIMEOUT): late");
    expect("job.cancelled", "{\"by\":\"root\"}", "cancelled by root");
    expect("agent.process", "{\"process\":9,\"state\":\"busy\"}", "process 9 is busy");
    expect("team.paused", "{\"by\":\"root\"}", "the team is paused by root");
    expect("team.resumed", "{\"by\":\"root\"}", "the team is resumed by root");
    expect("job.lost", "{\"node\":\"w1\",\"reason\":\"not heard of\"}", "its worker was lost (w1): not heard of");
    expect("job.found", "{\"node\":\"w1\"}", "its worker is back (w1), the attempt goes on");
    expect("node.changed", "{\"node\":\"w1\",\"state\":\"away\",\"reason\":\"silent\"}", "worker w1 is away: silent");
    expect("job.later", "{\"a\":[1]}", "job.later {\"a\":[1]}");
}

Test(tools_events, any_field_may_be_missing_or_of_another_type)
{
    static const char *const types[] = {
        "job.queued", "job.started",   "job.chunk",     "job.tool_use", "job.tool_result", "job.permission",
        "job.usage",  "job.notice",    "job.retrying",  "job.parked",   "job.progress",    "job.completed",
        "job.failed", "job.cancelled", "agent.process", "team.paused",  "team.resumed",    "job.lost",
        "job.found",  "node.changed",  "other",
    };
    static const char *const values[] = {"null", "7", "1e300", "-1", "\"text\"", "[1,{}]", "{\"usage\":5}", "true"};
    static const char fields[] = "priority position process resumed text tool file input failed verdict rule usage "
                                 "kind code message delay_ms reason current total step duration_ms by state node";
    char event[4096];
    struct event_style style = {.width = 80};
    size_t t;
    size_t v;

    for (t = 0; t < sizeof types / sizeof *types; t++) {
        for (v = 0; v < sizeof values / sizeof *values; v++) {
            struct muster_buf out = {0};
            char *names = strdup(fields);
            char *rest = names;
            char *name;
            size_t used;
            json_t *json;
            int result;

            used = (size_t)snprintf(event, sizeof event,
                                    "{\"type\":\"%s\",\"team\":%s,\"messageId\":%s,\"at\":%s,\"data\":{", types[t],
                                    values[v], values[v], values[v]);
            while ((name = strsep(&rest, " ")))
                used += (size_t)snprintf(event + used, sizeof event - used, "\"%s\":%s,", name, values[v]);
            snprintf(event + used, sizeof event - used, "\"last\":0}}");
            json = parse(event);
            event_line(&out, json, &style);
            (void)event_ends(json, &result);
            cr_assert_eq(strchr(out.data, '\n'), out.data + out.size - 1, "%s is not one line", out.data);
            json_decref(json);
            json = parse(values[v]);
            event_line(&out, json, &style);
            cr_assert_not(event_ends(json, &result));
            json_decref(json);
            muster_buf_free(&out);
            free(names);
        }
    }
}

Test(tools_events, a_line_is_cut_but_not_a_failure)
{
    const struct event_style style = {.width = 50};

    expect_styled(
        "{\"type\":\"job.chunk\",\"team\":\"a\",\"at\":1700000000000,\"data\":{\"text\":\"0123456789abcdef\"}}", style,
        "2023-11-14 22:13:20  a            says: 0123456...\n");
    expect_styled(
        "{\"type\":\"job.failed\",\"team\":\"a\",\"at\":1700000000000,\"data\":{\"message\":\"0123456789abcdef\"}}",
        style, "2023-11-14 22:13:20  a            failed: 0123456789abcdef\n");
}

Test(tools_events, control_characters_do_not_reach_the_line)
{
    expect_styled("{\"type\":\"x\\u001b[1m\",\"team\":\"a\\nb\",\"messageId\":\"\\u0007\",\"at\":\"a\\u001bb\"}",
                  (struct event_style){.width = 100}, "a b  a b            x [1m\n");
}

Test(tools_events, teams_stand_in_a_column)
{
    struct event_style style = {.width = 100};
    struct muster_buf out = {0};
    json_t *wide = parse("{\"type\":\"team.paused\",\"team\":\"backend\"}");
    json_t *narrow = parse("{\"type\":\"team.paused\",\"team\":\"a\"}");

    event_line(&out, wide, &style);
    event_line(&out, narrow, &style);
    cr_assert_str_eq(out.data, "-  backend            the team is paused\n-  a                  the team is paused\n");
    muster_buf_free(&out);
    json_decref(wide);
    json_decref(narrow);
}

Test(tools_events, the_last_event_of_a_job_tells_the_exit_code)
{
    static const struct {
        const char *event;
        int result; /* -1: it is not the last */
    } cases[] = {
        {"{\"type\":\"job.completed\"}", EXIT_DONE},
        {"{\"type\":\"job.failed\",\"data\":{\"code\":\"TIMEOUT\"}}", EXIT_FAILED},
        {"{\"type\":\"job.failed\"}", EXIT_FAILED},
        {"{\"type\":\"job.cancelled\"}", EXIT_CANCELLED},
        {"{\"type\":\"job.retrying\"}", -1},
        {"{\"type\":\"team.paused\"}", -1},
    };
    size_t i;

    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *json = parse(cases[i].event);
        int result = -1;

        cr_assert_eq(event_ends(json, &result), cases[i].result >= 0, "%s", cases[i].event);
        cr_assert_eq(result, cases[i].result, "%s: %d", cases[i].event, result);
        json_decref(json);
    }
}
