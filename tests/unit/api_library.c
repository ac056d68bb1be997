/* SPDX-License-Identifier: MPL-2.0 */
/* The embedding interface: teams of the program's own, jobs that it submits, events that it follows. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api/library.h"
#include "transport/muster_fetch.h"
#include "transport/muster_loop.h"

static char folder[] = "/tmp/muster-library-XXXXXX";
static int null_fd;

/* What the program's team was told; the callbacks write, the test reads. */
struct seen {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct muster_turn *turns[64];
    size_t begun, cancelled;
    char prompt[256], conversation[128];
};

static struct seen seen = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void
set_up(void)
{
    cr_assert_not_null(mkdtemp(folder));
    null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
}

static void
tear_down(void)
{
    char command[128];

    close(null_fd);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(library, .init = set_up, .fini = tear_down, .timeout = 120);

/* ---- teams ---- */

static void
keep(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg)
{
    struct seen *to = arg;

    pthread_mutex_lock(&to->lock);
    to->turns[to->begun++ % 64] = turn;
    snprintf(to->prompt, sizeof to->prompt, "%s", prompt);
    snprintf(to->conversation, sizeof to->conversation, "%s", conversation);
    pthread_cond_broadcast(&to->changed);
    pthread_mutex_unlock(&to->lock);
}

static void
note_cancel(struct muster_turn *turn, void *arg)
{
    struct seen *to = arg;

    (void)turn;
    pthread_mutex_lock(&to->lock);
    to->cancelled++;
    pthread_cond_broadcast(&to->changed);
    pthread_mutex_unlock(&to->lock);
}

/* On the team's own thread, at once: pieces of the prompt. */
static void
answer_at_once(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg)
{
    (void)conversation;
    (void)arg;
    cr_assert_null(muster_turn_chunk(turn, prompt, strlen(prompt)));
    cr_assert_null(muster_turn_chunk(turn, "!", 1));
    cr_assert_null(muster_turn_done(turn, NULL));
}

/* Fails what says so, the first time with a code that is retried. */
static void
fail_once(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg)
{
    (void)conversation;
    (void)arg;
    if (muster_turn_attempt(turn) == 1)
        cr_assert_null(muster_turn_fail(turn, "PROCESS_ERROR", "not now", strcmp(prompt, "again") == 0));
    else
        cr_assert_null(muster_turn_done(turn, "at last"));
}

static struct muster_turn *
await_turn(size_t count)
{
    struct muster_turn *turn;

    pthread_mutex_lock(&seen.lock);
    while (seen.begun < count)
        pthread_cond_wait(&seen.changed, &seen.lock);
    turn = seen.turns[(count - 1) % 64];
    pthread_mutex_unlock(&seen.lock);
    return turn;
}

static void
await_cancel(size_t count)
{
    pthread_mutex_lock(&seen.lock);
    while (seen.cancelled < count)
        pthread_cond_wait(&seen.changed, &seen.lock);
    pthread_mutex_unlock(&seen.lock);
}

static const struct muster_team teams[] = {
    {.name = "mine", .concurrency = 4, .begin = keep, .cancel = note_cancel, .arg = &seen},
    {.name = "quick", .begin = answer_at_once},
    {.name = "flaky", .begin = fail_once},
};

static struct muster_hub *
start_with(const char *data, const char *config, char *problem, size_t size)
{
    char path[256];
    struct muster_hub_settings settings = {.config = config,
                                           .data = path,
                                           .listen = "127.0.0.1:0",
                                           .log_fd = null_fd,
                                           .teams = teams,
                                           .team_count = sizeof teams / sizeof *teams};

    snprintf(path, sizeof path, "%s/%s", folder, data);
    return muster_hub_start(&settings, problem, size, NULL);
}

static const char *
write_config(const char *text)
{
    static char path[256];
    FILE *file;

    snprintf(path, sizeof path, "%s/muster.yaml", folder);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

static struct muster_hub *
start(const char *data)
{
    char problem[512];
    const char *config = write_config("queue: {retry_delay: 10ms}\nshutdown: {grace: 0ms}\nteams: {echo: {}}\n");
    struct muster_hub *hub = start_with(data, config, problem, sizeof problem);

    cr_assert_not_null(hub, "%s", problem);
    return hub;
}

static void
submit(struct muster_hub *hub, const char *team, const char *prompt, char id[MUSTER_JOB_ID])
{
    struct muster_submit job = {.team = team, .prompt = prompt};
    char problem[256];
    const char *code = muster_submit(hub, &job, id, problem, sizeof problem);

    cr_assert_null(code, "%s: %s", code, problem);
}

static struct muster_result *
await(struct muster_hub *hub, const char *id)
{
    struct muster_result *result = NULL;
    const char *code = muster_job_wait(hub, id, 60000, &result);

    cr_assert_null(code, "%s", code);
    return result;
}

static void
expect_text(struct muster_hub *hub, const char *id, const char *text)
{
    struct muster_result *result = await(hub, id);

    cr_assert_str_eq(muster_result_state(result), "completed", "%s", muster_result_message(result));
    cr_assert_str_eq(muster_result_text(result), text);
    cr_assert_null(muster_result_error(result));
    muster_result_free(&result);
    cr_assert_null(result);
}

static void
expect_failure(struct muster_hub *hub, const char *id, const char *code, const char *message)
{
    struct muster_result *result = await(hub, id);

    cr_assert_str_eq(muster_result_state(result), "failed");
    cr_assert_str_eq(muster_result_error(result), code);
    cr_assert_str_eq(muster_result_message(result), message);
    cr_assert_null(muster_result_text(result));
    muster_result_free(&result);
}

Test(library, a_team_answers_on_its_own_thread)
{
    struct muster_hub *hub = start("data");
    char id[MUSTER_JOB_ID];

    submit(hub, "quick", "hello", id);
    expect_text(hub, id, "hello!");
    muster_hub_stop(&hub);
}

Test(library, a_team_answers_from_another_thread_later)
{
    struct muster_hub *hub = start("data");
    struct muster_turn *turn;
    struct muster_result *result = NULL;
    char id[MUSTER_JOB_ID];

    submit(hub, "mine", "a question", id);
    turn = await_turn(1);
    cr_assert_str_eq(muster_turn_job(turn), id);
    cr_assert_eq(muster_turn_attempt(turn), 1);
    cr_assert_str_eq(seen.prompt, "a question");
    cr_assert_str_eq(seen.conversation, "");
    cr_assert_null(muster_turn_chunk(turn, "draft", 5));
    cr_assert_null(muster_turn_tool(turn, "Read", "{\"path\": \"a.txt\"}"));
    cr_assert_str_eq(muster_turn_tool(turn, "Read", "{"), "INVALID_REQUEST");
    cr_assert_null(muster_turn_progress(turn, 1, 2, "reading"));
    cr_assert_str_eq(muster_turn_progress(turn, 3, 2, NULL), "INVALID_REQUEST");
    cr_assert_str_eq(muster_turn_fail(turn, "NO_SUCH_CODE", NULL, false), "INVALID_REQUEST");
    cr_assert_null(muster_job_result(hub, id, &result));
    cr_assert_not(muster_result_ended(result));
    cr_assert_null(muster_result_text(result));
    muster_result_free(&result);
    cr_assert_str_eq(muster_job_wait(hub, id, 1, &result), "TIMEOUT");
    cr_assert_null(muster_turn_done(turn, "final"));
    expect_text(hub, id, "final");
    muster_hub_stop(&hub);
}

Test(library, a_failure_is_tried_again_only_when_it_may)
{
    struct muster_hub *hub = start("data");
    struct muster_result *result;
    char id[MUSTER_JOB_ID];

    submit(hub, "flaky", "again", id);
    result = await(hub, id);
    cr_assert_str_eq(muster_result_text(result), "at last");
    cr_assert_eq(muster_result_attempts(result), 2);
    cr_assert_gt(muster_result_created_ms(result), 0);
    cr_assert_geq(muster_result_ended_ms(result), muster_result_started_ms(result));
    cr_assert_geq(muster_result_duration_ms(result), 0);
    muster_result_free(&result);
    submit(hub, "flaky", "once", id);
    expect_failure(hub, id, "PROCESS_ERROR", "not now");
    muster_hub_stop(&hub);
}

Test(library, a_cancelled_turn_is_told_and_takes_calls_without_harm)
{
    struct muster_hub *hub = start("data");
    struct muster_result *result;
    struct muster_turn *turn;
    char id[MUSTER_JOB_ID], problem[256];

    submit(hub, "mine", "x", id);
    turn = await_turn(1);
    cr_assert_null(muster_cancel(hub, id, problem, sizeof problem), "%s", problem);
    await_cancel(1);
    cr_assert_str_eq(muster_turn_chunk(turn, "late", 4), "CONFLICT");
    cr_assert_str_eq(muster_turn_done(turn, "late"), "CONFLICT");
    result = await(hub, id);
    cr_assert_str_eq(muster_result_state(result), "cancelled");
    muster_result_free(&result);
    cr_assert_null(muster_cancel(hub, id, problem, sizeof problem), "it is cancelled");
    submit(hub, "quick", "x", id);
    expect_text(hub, id, "x!");
    cr_assert_str_eq(muster_cancel(hub, id, problem, sizeof problem), "CONFLICT");
    cr_assert_gt(strlen(problem), 5);
    muster_hub_stop(&hub);
}

Test(library, a_turn_that_takes_too_long_is_told)
{
    struct muster_submit job = {.team = "mine", .prompt = "x", .timeout_ms = 50, .max_attempts = 1};
    struct muster_hub *hub = start("data");
    struct muster_result *result;
    struct muster_turn *turn;
    char id[MUSTER_JOB_ID];

    cr_assert_null(muster_submit(hub, &job, id, NULL, 0));
    turn = await_turn(1);
    await_cancel(1);
    result = await(hub, id);
    cr_assert_str_eq(muster_result_error(result), "TIMEOUT");
    muster_result_free(&result);
    cr_assert_str_eq(muster_turn_fail(turn, "PROCESS_ERROR", "late", true), "CONFLICT");
    muster_hub_stop(&hub);
}

Test(library, a_turn_outlives_its_hub_and_its_job_goes_on_at_the_next_start)
{
    struct muster_hub *hub = start("data");
    struct muster_turn *turn;
    char id[MUSTER_JOB_ID];

    submit(hub, "mine", "x", id);
    turn = await_turn(1);
    muster_hub_stop(&hub);
    await_cancel(1);
    cr_assert_str_eq(muster_turn_chunk(turn, "late", 4), "CONFLICT");
    cr_assert_str_eq(muster_turn_done(turn, "late"), "CONFLICT");
    hub = start("data");
    turn = await_turn(2);
    cr_assert_str_eq(muster_turn_job(turn), id);
    cr_assert_null(muster_turn_done(turn, "now"));
    expect_text(hub, id, "now");
    muster_hub_stop(&hub);
}

Test(library, a_program_that_tells_too_fast_is_refused_but_may_end_its_turn)
{
    struct muster_hub *hub = start("data");
    struct muster_turn *turn;
    size_t taken = 0, refused = 0, i;
    char id[MUSTER_JOB_ID];
    struct muster_result *result;
    const char *code;

    submit(hub, "mine", "x", id);
    turn = await_turn(1);
    for (i = 0; i < 50000; i++) {
        code = muster_turn_chunk(turn, "y", 1);
        cr_assert(code == NULL || strcmp(code, "OVERLOADED") == 0, "%s", code);
        taken += code == NULL;
        refused += code != NULL;
    }
    cr_assert_null(muster_turn_done(turn, NULL));
    result = await(hub, id);
    cr_assert_eq(strlen(muster_result_text(result)), taken, "%zu refused", refused);
    muster_result_free(&result);
    muster_hub_stop(&hub);
}

/* Without a limit on bytes the team's mailbox would take gigabytes. */
static void
tell_large(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg)
{
    enum { SIZE = 16 << 20 };
    char *text = malloc(SIZE);
    const char *code = NULL;
    int i;

    (void)prompt;
    (void)conversation;
    (void)arg;
    cr_assert_not_null(text);
    memset(text, 'x', SIZE);
    for (i = 0; i < 8 && code == NULL; i++)
        code = muster_turn_chunk(turn, text, SIZE);
    cr_expect_str_eq(code ? code : "none", "OVERLOADED");
    free(text);
    cr_assert_null(muster_turn_done(turn, "done"));
}

Test(library, a_program_that_tells_too_much_at_once_is_refused)
{
    char problem[512], id[MUSTER_JOB_ID], path[256];
    const struct muster_team team = {.name = "large", .begin = tell_large};
    struct muster_hub_settings settings = {
        .data = path, .listen = "127.0.0.1:0", .log_fd = null_fd, .teams = &team, .team_count = 1};
    struct muster_hub *hub;

    snprintf(path, sizeof path, "%s/data", folder);
    hub = muster_hub_start(&settings, problem, sizeof problem, NULL);
    cr_assert_not_null(hub, "%s", problem);
    submit(hub, "large", "x", id);
    expect_text(hub, id, "done");
    muster_hub_stop(&hub);
}

struct teller {
    struct muster_turn *turn;
    char letter;
};

static void *
tell_many(void *arg)
{
    const struct teller *teller = arg;
    int i;

    for (i = 0; i < 500; i++)
        while (muster_turn_chunk(teller->turn, &teller->letter, 1))
            sched_yield();
    return NULL;
}

Test(library, several_threads_tell_one_turn)
{
    struct muster_hub *hub = start("data");
    struct muster_result *result;
    struct teller tellers[4];
    pthread_t threads[4];
    char id[MUSTER_JOB_ID];
    size_t i;

    submit(hub, "mine", "x", id);
    for (i = 0; i < 4; i++) {
        tellers[i] = (struct teller){await_turn(1), (char)('a' + i)};
        cr_assert_eq(pthread_create(&threads[i], NULL, tell_many, &tellers[i]), 0);
    }
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    cr_assert_null(muster_turn_done(await_turn(1), NULL));
    result = await(hub, id);
    cr_assert_eq(strlen(muster_result_text(result)), 2000);
    muster_result_free(&result);
    muster_hub_stop(&hub);
}

/* ---- the configuration ---- */

Test(library, the_driver_actor_is_for_registered_teams_only)
{
    char problem[512];

    cr_assert_null(start_with("data", write_config("teams:\n  other:\n    driver: actor\n"), problem, sizeof problem));
    cr_assert_not_null(
        strstr(problem, ":3:13: teams.other.driver: must not be actor: that is for teams that a program "), "%s",
        problem);
    cr_assert_null(start_with("data", write_config("teams:\n  mine:\n    driver: echo\n"), problem, sizeof problem));
    cr_assert_not_null(strstr(problem, "teams.mine.driver: must be actor"), "%s", problem);
}

Test(library, the_configuration_may_say_more_of_a_registered_team)
{
    char problem[512], id[MUSTER_JOB_ID];
    struct muster_hub *hub = start_with(
        "data", write_config("teams:\n  mine: {driver: actor, turn_timeout: 50ms}\nqueue: {max_attempts: 1}\n"),
        problem, sizeof problem);
    struct muster_result *result;

    cr_assert_not_null(hub, "%s", problem);
    cr_assert_str_eq(muster_hub_first_team(hub), "mine");
    submit(hub, "mine", "x", id);
    result = await(hub, id);
    cr_assert_str_eq(muster_result_error(result), "TIMEOUT");
    muster_result_free(&result);
    (void)muster_turn_done(await_turn(1), NULL);
    muster_hub_stop(&hub);
}

Test(library, wrong_teams_are_refused)
{
    const struct muster_team twice[] = {{.name = "a", .begin = keep}, {.name = "a", .begin = keep}};
    const struct muster_team bad[] = {{.name = NULL, .begin = keep},
                                      {.name = "a"},
                                      {.name = "a", .begin = keep, .concurrency = 5000},
                                      {.name = "a b", .begin = keep}};
    struct muster_hub_settings settings = {.listen = "127.0.0.1:0", .log_fd = null_fd, .data = folder};
    char problem[512];
    bool config_error;
    size_t i;

    settings.team_count = 1;
    cr_expect_null(muster_hub_start(&settings, problem, sizeof problem, NULL));
    cr_expect_not_null(strstr(problem, "teams is NULL"), "%s", problem);
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        settings.teams = &bad[i];
        config_error = false;
        cr_assert_null(muster_hub_start(&settings, problem, sizeof problem, &config_error));
        cr_assert(config_error);
        cr_assert_gt(strlen(problem), 10, "%zu", i);
    }
    settings.teams = twice;
    settings.team_count = 2;
    cr_assert_null(muster_hub_start(&settings, problem, sizeof problem, NULL));
    cr_assert_not_null(strstr(problem, "earlier team, a"), "%s", problem);
}

/* ---- over HTTP ---- */

static long
ask(const struct muster_hub *hub, const char *team, struct muster_buf *answer)
{
    char url[256], authorization[128], problem[256];
    struct muster_pair headers[] = {{"Authorization", authorization}};
    struct muster_fetch_spec spec = {.method = "POST",
                                     .url = url,
                                     .headers = headers,
                                     .header_count = 1,
                                     .body = "{\"question\":\"hello\"}",
                                     .body_size = 20,
                                     .timeout_ms = 30000,
                                     .max_answer = 65536,
                                     .allow_private = true};
    long status = 0;

    snprintf(url, sizeof url, "%s/api/v1/teams/%s/ask", muster_hub_url(hub), team);
    snprintf(authorization, sizeof authorization, "Bearer %s", muster_hub_new_key(hub));
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, answer, problem, sizeof problem), MUSTER_OK, "%s",
                 problem);
    return status;
}

Test(library, a_team_is_asked_over_http_like_any_other)
{
    struct muster_hub *hub = start("data");
    struct muster_buf answer = {0};

    cr_assert_eq(ask(hub, "quick", &answer), 200);
    cr_assert_not_null(strstr(answer.data, "\"response\":\"hello!\""), "%s", answer.data);
    muster_buf_free(&answer);
    muster_hub_stop(&hub);
}

/* ---- jobs ---- */

Test(library, a_submit_that_cannot_be_taken_says_why)
{
    static const struct muster_submit bad[] = {
        {.prompt = "x"},
        {.team = "echo"},
        {.team = "echo", .prompt = ""},
        {.team = "echo", .prompt = "x", .priority = "urgent"},
        {.team = "echo", .prompt = "x", .session_id = ""},
        {.team = "echo", .prompt = "x", .context = "[1]"},
        {.team = "echo", .prompt = "x", .context = "{"},
        {.team = "echo", .prompt = "\xff"},
        {.team = "echo", .prompt = "x", .deadline_ms = 1},
        {.team = "echo", .prompt = "x", .delay_ms = -1},
        {.team = "echo", .prompt = "x", .max_attempts = 1000},
    };
    struct muster_hub *hub = start("data");
    struct muster_submit nobody = {.team = "nobody", .prompt = "x"};
    struct muster_result *result;
    char id[MUSTER_JOB_ID], problem[256];
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        problem[0] = '\0';
        cr_assert_str_eq(muster_submit(hub, &bad[i], id, problem, sizeof problem), "INVALID_REQUEST", "%zu", i);
        cr_assert_gt(strlen(problem), 5, "%zu", i);
    }
    cr_assert_str_eq(muster_submit(hub, &nobody, id, NULL, 0), "TEAM_NOT_FOUND");
    cr_assert_str_eq(muster_code_text("TEAM_NOT_FOUND"), "Team does not exist");
    cr_assert_str_eq(muster_job_result(hub, "msg_0190b7a2-0000-7000-8000-000000000000", &result), "NOT_FOUND");
    cr_assert_str_eq(muster_job_result(hub, "nonsense", &result), "NOT_FOUND");
    cr_assert_str_eq(muster_job_wait(hub, NULL, 0, &result), "NOT_FOUND");
    cr_assert_str_eq(muster_cancel(hub, "nonsense", NULL, 0), "NOT_FOUND");
    muster_hub_stop(&hub);
}

Test(library, an_idempotency_key_makes_one_job)
{
    struct muster_submit job = {.team = "quick", .prompt = "x", .idempotency_key = "k"};
    struct muster_hub *hub = start("data");
    char id[MUSTER_JOB_ID], other[MUSTER_JOB_ID];

    cr_assert_null(muster_submit(hub, &job, id, NULL, 0));
    expect_text(hub, id, "x!");
    cr_assert_null(muster_submit(hub, &job, other, NULL, 0));
    cr_assert_str_eq(id, other);
    job.prompt = "y";
    cr_assert_str_eq(muster_submit(hub, &job, other, NULL, 0), "IDEMPOTENCY_MISMATCH");
    muster_hub_stop(&hub);
}

Test(library, turns_of_a_conversation_come_one_after_the_other)
{
    struct muster_submit job = {.team = "mine", .prompt = "1", .session_id = "thread", .context = "{\"a\":1}"};
    struct muster_hub *hub = start("data");
    char one[MUSTER_JOB_ID], two[MUSTER_JOB_ID], name[128], other[MUSTER_JOB_ID];

    cr_assert_null(muster_submit(hub, &job, one, NULL, 0));
    cr_assert_null(muster_submit(hub, &job, two, NULL, 0));
    cr_assert_str_eq(muster_turn_job(await_turn(1)), one);
    snprintf(name, sizeof name, "%s", seen.conversation);
    cr_assert_gt(strlen(name), 0);
    submit(hub, "mine", "other", other);
    cr_assert_str_eq(muster_turn_job(await_turn(2)), other, "the conversation's second turn waits");
    cr_assert_null(muster_turn_done(await_turn(2), "other"));
    cr_assert_null(muster_turn_done(await_turn(1), "first"));
    cr_assert_str_eq(muster_turn_job(await_turn(3)), two);
    cr_assert_str_eq(seen.conversation, name);
    cr_assert_null(muster_turn_done(await_turn(3), "second"));
    expect_text(hub, two, "second");
    muster_hub_stop(&hub);
}

static void *
wait_long(void *arg)
{
    void **args = arg;
    struct muster_result *result;

    return (void *)(uintptr_t)muster_job_wait(args[0], args[1], -1, &result);
}

/* Until so many calls are under way. */
static void
await_calls(struct muster_hub *hub, size_t expected)
{
    struct library *library = library_of(hub);
    size_t calls = 0;

    while (calls < expected) {
        pthread_mutex_lock(&library->lock);
        calls = library->calls;
        pthread_mutex_unlock(&library->lock);
        sched_yield();
    }
}

Test(library, a_stop_ends_waits_and_follows)
{
    struct muster_hub *hub = start("data");
    struct muster_follow_settings all = {.after = "oldest"};
    struct muster_follow *follow;
    struct muster_event event;
    void *args[2], *code;
    const char *why;
    char id[MUSTER_JOB_ID];
    pthread_t thread;

    submit(hub, "echo", "@hang", id);
    args[0] = hub;
    args[1] = id;
    cr_assert_null(muster_follow_open(hub, &all, &follow, NULL, 0));
    cr_assert_eq(pthread_create(&thread, NULL, wait_long, args), 0);
    while (muster_follow_next(follow, &event, &why) != 1 || strcmp(event.type, "job.started") != 0)
        ;
    await_calls(hub, 1);
    muster_hub_stop(&hub);
    pthread_join(thread, &code);
    cr_assert_str_eq(code, "SHUTTING_DOWN");
    while (muster_follow_next(follow, &event, &why) == 1)
        ;
    cr_assert_str_eq(why, "SHUTTING_DOWN");
    muster_follow_close(&follow);
    cr_assert_null(follow);
}

/* ---- events ---- */

/* The next event; fails when there is none. */
static void
next(struct muster_follow *follow, struct muster_event *out)
{
    struct pollfd fd = {.fd = muster_follow_fd(follow), .events = POLLIN};
    const char *code;
    int told;

    while ((told = muster_follow_next(follow, out, &code)) == 0)
        cr_assert_gt(poll(&fd, 1, 60000), 0, "nothing came");
    cr_assert_eq(told, 1, "%s", code ? code : "it has ended");
}

static void
expect_end(struct muster_follow *follow)
{
    struct muster_event event;
    const char *code = "";

    cr_assert_eq(muster_follow_next(follow, &event, &code), -1);
    cr_assert_null(code);
}

static struct muster_follow *
follow_job(struct muster_hub *hub, const char *job, const char *after)
{
    struct muster_follow_settings settings = {.job = job, .after = after};
    struct muster_follow *follow;
    char problem[256];
    const char *code = muster_follow_open(hub, &settings, &follow, problem, sizeof problem);

    cr_assert_null(code, "%s: %s", code, problem);
    return follow;
}

Test(library, a_job_is_followed_from_its_first_event_to_its_last)
{
    static const char *const types[] = {"job.queued",   "job.started", "job.tool_use",
                                        "job.progress", "job.chunk",   "job.completed"};
    struct muster_hub *hub = start("data");
    struct muster_follow *follow;
    struct muster_event event;
    struct muster_turn *turn;
    char id[MUSTER_JOB_ID], cursor[64] = "";
    size_t i;

    submit(hub, "mine", "x", id);
    follow = follow_job(hub, id, NULL);
    turn = await_turn(1);
    cr_assert_null(muster_turn_tool(turn, "Read", "{\"n\":1}"));
    cr_assert_null(muster_turn_progress(turn, 1, 2, "reading"));
    cr_assert_null(muster_turn_chunk(turn, "text", 4));
    cr_assert_null(muster_turn_done(turn, NULL));
    for (i = 0; i < sizeof types / sizeof *types; i++) {
        next(follow, &event);
        cr_assert_str_eq(event.type, types[i]);
        cr_assert_str_eq(event.job, id);
        cr_assert_str_eq(event.team, "mine");
        cr_assert_gt(event.at_ms, 0);
        if (i == 2)
            cr_assert_not_null(strstr(event.body, "\"input\":{\"n\":1}"), "%s", event.body);
        if (i == 3)
            snprintf(cursor, sizeof cursor, "%s", event.cursor);
        if (i == 4)
            cr_assert_str_eq(event.body, "{\"text\":\"text\"}");
    }
    expect_end(follow);
    expect_end(follow);
    muster_follow_close(&follow);
    follow = follow_job(hub, id, cursor);
    next(follow, &event);
    cr_assert_str_eq(event.type, "job.chunk");
    next(follow, &event);
    cr_assert_str_eq(event.type, "job.completed");
    snprintf(cursor, sizeof cursor, "%s", event.cursor);
    expect_end(follow);
    muster_follow_close(&follow);
    follow = follow_job(hub, id, cursor);
    expect_end(follow);
    muster_follow_close(&follow);
    muster_hub_stop(&hub);
}

/* The texts of a job's chunks, joined, and how many times it said that it uses a tool. */
static size_t
read_chunks(struct muster_hub *hub, const char *job, char *out, size_t size)
{
    struct muster_follow *follow = follow_job(hub, job, NULL);
    struct pollfd fd = {.fd = muster_follow_fd(follow), .events = POLLIN};
    struct muster_event event;
    const char *code, *text;
    size_t tools = 0;
    int told;

    *out = '\0';
    while ((told = muster_follow_next(follow, &event, &code)) >= 0) {
        if (told == 0)
            cr_assert_gt(poll(&fd, 1, 60000), 0, "nothing came");
        if (told == 0)
            continue;
        tools += strcmp(event.type, "job.tool_use") == 0;
        text = strcmp(event.type, "job.chunk") == 0 ? strstr(event.body, "\"text\":\"") : NULL;
        if (text)
            snprintf(out + strlen(out), size - strlen(out), "%.*s", (int)strcspn(text + 8, "\""), text + 8);
    }
    cr_assert_null(code);
    muster_follow_close(&follow);
    return tools;
}

Test(library, a_character_told_in_two_pieces_is_whole_in_the_events)
{
    struct muster_hub *hub = start("data");
    char id[MUSTER_JOB_ID], chunks[64];
    struct muster_turn *turn;

    submit(hub, "mine", "x", id);
    turn = await_turn(1);
    cr_assert_null(muster_turn_chunk(turn, "a\xF0\x9F", 3));
    cr_assert_null(muster_turn_chunk(turn, "\x98", 1));
    cr_assert_null(muster_turn_chunk(turn, "\x80z\xC3", 3));
    cr_assert_null(muster_turn_done(turn, NULL));
    expect_text(hub, id, "a\xF0\x9F\x98\x80z\xEF\xBF\xBD");
    read_chunks(hub, id, chunks, sizeof chunks);
    cr_assert_str_eq(chunks, "a\xF0\x9F\x98\x80z\xEF\xBF\xBD");
    muster_hub_stop(&hub);
}

/* Floats of few letters, the form that grows most in the log. */
static char *
large_input(size_t size)
{
    char *input = malloc(size + 1);
    size_t at;

    cr_assert_not_null(input);
    for (at = 0; at < size; at++)
        input[at] = ",1e1"[at % 4];
    input[0] = '[';
    while (at > size - 3)
        input[--at] = ' ';
    for (at = size - 3; input[at - 1] != '1' || input[at - 2] != 'e'; at--)
        input[at - 1] = ' ';
    input[size - 1] = ']';
    input[size] = '\0';
    return input;
}

Test(library, the_largest_input_of_a_tool_is_told_and_a_larger_one_refused)
{
    enum { SIZE = 4 << 20 };
    struct muster_hub *hub = start("data");
    char id[MUSTER_JOB_ID], chunks[64], *input = large_input(SIZE), *larger = large_input(SIZE + 1);
    struct muster_turn *turn;

    submit(hub, "mine", "x", id);
    turn = await_turn(1);
    cr_assert_null(muster_turn_tool(turn, "t", input));
    cr_assert_str_eq(muster_turn_tool(turn, "t", larger), "PAYLOAD_TOO_LARGE");
    cr_assert_null(muster_turn_done(turn, "done"));
    expect_text(hub, id, "done");
    cr_assert_eq(read_chunks(hub, id, chunks, sizeof chunks), 1);
    free(input);
    free(larger);
    muster_hub_stop(&hub);
}

Test(library, what_cannot_be_followed_says_why)
{
    static const struct {
        struct muster_follow_settings settings;
        const char *code;
    } bad[] = {
        {{.team = "nobody"}, "TEAM_NOT_FOUND"},
        {{.job = "nonsense"}, "NOT_FOUND"},
        {{.job = "msg_0190b7a2-0000-7000-8000-000000000000"}, "NOT_FOUND"},
        {{.after = "nonsense"}, "INVALID_REQUEST"},
        {{.after = "0123456789abcdef-1"}, "CURSOR_EXPIRED"},
        {{.job = "x", .team = "echo"}, "INVALID_REQUEST"},
    };
    struct muster_hub *hub = start("data");
    struct muster_follow *follow;
    char problem[256];
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        problem[0] = '\0';
        cr_assert_str_eq(muster_follow_open(hub, &bad[i].settings, &follow, problem, sizeof problem), bad[i].code);
        cr_assert_gt(strlen(problem), 5, "%zu", i);
    }
    muster_hub_stop(&hub);
}

enum { SUBMITTERS = 4, JOBS_EACH = 40 };

static void *
submit_many(void *hub)
{
    char id[MUSTER_JOB_ID];
    int i;

    for (i = 0; i < JOBS_EACH; i++)
        submit(hub, i % 2 ? "echo" : "quick", "@chunks=5 12345", id);
    return NULL;
}

/* Read until all jobs have ended; returns how many events that took, and the sum of their numbers, which must rise. */
static size_t
read_all(struct muster_follow *follow, const char *team, long long *out_sum)
{
    struct muster_event event;
    long long seq, last = 0;
    size_t ended = 0, count = 0, most = (size_t)SUBMITTERS * JOBS_EACH / (team ? 2 : 1);

    for (*out_sum = 0; ended < most; count++) {
        next(follow, &event);
        seq = atoll(strrchr(event.cursor, '-') + 1);
        cr_assert_gt(seq, last);
        if (team)
            cr_assert_str_eq(event.team, team);
        last = seq;
        *out_sum += seq;
        ended += strcmp(event.type, "job.completed") == 0;
    }
    return count;
}

Test(library, followers_miss_nothing_and_get_nothing_twice)
{
    struct muster_hub *hub = start("data");
    struct muster_follow_settings all = {0}, echo = {.team = "echo"}, oldest = {.after = "oldest"};
    struct muster_follow *live, *one, *later;
    pthread_t threads[SUBMITTERS];
    long long live_sum, later_sum, one_sum;
    size_t i, count;

    cr_assert_null(muster_follow_open(hub, &all, &live, NULL, 0));
    cr_assert_null(muster_follow_open(hub, &echo, &one, NULL, 0));
    for (i = 0; i < SUBMITTERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, submit_many, hub), 0);
    count = read_all(live, NULL, &live_sum);
    for (i = 0; i < SUBMITTERS; i++)
        pthread_join(threads[i], NULL);
    cr_assert_null(muster_follow_open(hub, &oldest, &later, NULL, 0));
    cr_assert_eq(read_all(later, NULL, &later_sum), count);
    cr_assert_eq(live_sum, later_sum);
    count = read_all(one, "echo", &one_sum);
    muster_follow_close(&later);
    echo.after = "oldest";
    cr_assert_null(muster_follow_open(hub, &echo, &later, NULL, 0));
    cr_assert_eq(read_all(later, "echo", &later_sum), count);
    cr_assert_eq(one_sum, later_sum);
    muster_follow_close(&live);
    muster_follow_close(&one);
    muster_follow_close(&later);
    muster_hub_stop(&hub);
}

Test(library, a_follow_goes_on_after_a_restart)
{
    struct muster_follow_settings settings = {.team = "quick"};
    struct muster_hub *hub = start("data");
    struct muster_follow *follow;
    struct muster_event event;
    char id[MUSTER_JOB_ID], cursor[64];

    cr_assert_null(muster_follow_open(hub, &settings, &follow, NULL, 0));
    submit(hub, "quick", "x", id);
    do
        next(follow, &event);
    while (strcmp(event.type, "job.completed") != 0);
    snprintf(cursor, sizeof cursor, "%s", event.cursor);
    muster_hub_stop(&hub);
    muster_follow_close(&follow);
    hub = start("data");
    settings.after = cursor;
    cr_assert_null(muster_follow_open(hub, &settings, &follow, NULL, 0));
    submit(hub, "quick", "y", id);
    next(follow, &event);
    cr_assert_str_eq(event.type, "job.queued");
    cr_assert_str_eq(event.job, id);
    muster_follow_close(&follow);
    muster_hub_stop(&hub);
}

Test(library, a_follower_that_was_overtaken_by_retention_is_told)
{
    const char *config = write_config("store: {max_events: 4KiB, sweep: 10ms}\nteams: {echo: {}}\n");
    struct muster_follow_settings settings = {0};
    struct muster_follow *follow, *other = NULL;
    struct muster_event event;
    char problem[512], id[MUSTER_JOB_ID], cursor[64];
    const char *code = NULL;
    struct muster_hub *hub = start_with("data", config, problem, sizeof problem);

    cr_assert_not_null(hub, "%s", problem);
    cr_assert_null(muster_follow_open(hub, &settings, &follow, NULL, 0));
    submit(hub, "quick", "x", id);
    next(follow, &event);
    snprintf(cursor, sizeof cursor, "%s", event.cursor);
    muster_follow_close(&follow);
    settings.after = cursor;
    cr_assert_null(muster_follow_open(hub, &settings, &follow, NULL, 0));
    while (code == NULL) {
        submit(hub, "quick", "x", id);
        expect_text(hub, id, "x!");
        code = muster_follow_open(hub, &settings, &other, NULL, 0);
        muster_follow_close(&other);
    }
    cr_assert_str_eq(code, "CURSOR_EXPIRED");
    cr_assert_eq(muster_follow_next(follow, &event, &code), -1);
    cr_assert_str_eq(code, "CURSOR_EXPIRED");
    muster_follow_close(&follow);
    muster_hub_stop(&hub);
}

/* Many at a time, until the program says that it is enough. */
struct flood {
    struct muster_hub *hub;
    atomic_bool enough;
    atomic_int waiting;
    const char *job;
};

static void *
flood_on(void *arg)
{
    struct flood *flood = arg;
    struct muster_submit job = {.team = "quick", .prompt = "x"};
    char id[MUSTER_JOB_ID];

    while (!atomic_load(&flood->enough))
        (void)muster_submit(flood->hub, &job, id, NULL, 0);
    return NULL;
}

static void *
wait_in_flood(void *arg)
{
    struct flood *flood = arg;
    struct muster_result *result;
    const char *code = muster_job_wait(flood->hub, flood->job, -1, &result);

    atomic_fetch_sub(&flood->waiting, 1);
    if (code == NULL)
        muster_result_free(&result);
    return (void *)(uintptr_t)code;
}

Test(library, a_waiter_that_was_overtaken_by_retention_waits_on)
{
    const char *config = write_config("store: {max_events: 4KiB, sweep: 10ms}\nteams: {echo: {}}\n");
    enum { THREADS = 4, EVENTS = 20000 };
    pthread_t waiters[THREADS], floods[THREADS];
    char problem[512], id[MUSTER_JOB_ID];
    struct muster_store_stats stats = {0};
    struct flood flood = {.waiting = THREADS, .job = id};
    void *code;
    int i;

    flood.hub = start_with("data", config, problem, sizeof problem);
    cr_assert_not_null(flood.hub, "%s", problem);
    submit(flood.hub, "mine", "x", id);
    for (i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_create(&waiters[i], NULL, wait_in_flood, &flood), 0);
        cr_assert_eq(pthread_create(&floods[i], NULL, flood_on, &flood), 0);
    }
    while (stats.last_seq < EVENTS && atomic_load(&flood.waiting) == THREADS) {
        muster_store_stats(library_of(flood.hub)->house->store, &stats);
        sched_yield();
    }
    cr_expect_eq(atomic_load(&flood.waiting), THREADS, "a wait came back before the end");
    atomic_store(&flood.enough, true);
    cr_assert_null(muster_turn_done(await_turn(1), "end"));
    for (i = 0; i < THREADS; i++) {
        pthread_join(floods[i], NULL);
        pthread_join(waiters[i], &code);
        cr_expect_null(code, "%s", (const char *)code);
    }
    muster_hub_stop(&flood.hub);
}

Test(library, a_follower_finds_its_team_behind_many_events_of_others)
{
    struct muster_follow_settings settings = {.team = "quick", .after = "oldest"};
    struct muster_hub *hub = start("data");
    struct muster_follow *follow;
    struct muster_event event;
    struct muster_turn *turn;
    char id[MUSTER_JOB_ID];
    int i;

    submit(hub, "mine", "x", id);
    turn = await_turn(1);
    for (i = 1; i <= 9000; i++)
        while (muster_turn_progress(turn, i, 9000, NULL))
            sched_yield();
    cr_assert_null(muster_turn_done(turn, "done"));
    expect_text(hub, id, "done");
    submit(hub, "quick", "x", id);
    cr_assert_null(muster_follow_open(hub, &settings, &follow, NULL, 0));
    next(follow, &event);
    cr_assert_str_eq(event.type, "job.queued");
    cr_assert_str_eq(event.job, id);
    muster_follow_close(&follow);
    muster_hub_stop(&hub);
}

/* CPU time of this thread in following `job` while others come and go. */
static int64_t
follow_among_others_ns(struct muster_hub *hub, const char *job)
{
    struct muster_follow *follow = follow_job(hub, job, NULL);
    struct timespec before, after;
    struct muster_event event;
    char id[MUSTER_JOB_ID];
    const char *code;
    int64_t spent_ns = 0;
    int i, told;

    while (muster_follow_next(follow, &event, &code) == 1)
        ;
    for (i = 0; i < 50; i++) {
        submit(hub, "quick", "x", id);
        expect_text(hub, id, "x!");
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
        while ((told = muster_follow_next(follow, &event, &code)) == 1)
            ;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
        cr_assert_eq(told, 0);
        spent_ns += (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    }
    muster_follow_close(&follow);
    return spent_ns;
}

Test(library, following_a_large_job_costs_no_more_than_a_small_one)
{
    enum { SIZE = 15 << 20 };
    struct muster_hub *hub = start("data");
    char small[MUSTER_JOB_ID], large[MUSTER_JOB_ID], *prompt = malloc(SIZE + 1);
    int64_t small_ns, large_ns;

    cr_assert_not_null(prompt);
    memset(prompt, 'x', SIZE);
    prompt[SIZE] = '\0';
    submit(hub, "mine", "x", small);
    submit(hub, "mine", prompt, large);
    free(prompt);
    await_turn(2);
    small_ns = follow_among_others_ns(hub, small);
    large_ns = follow_among_others_ns(hub, large);
    cr_expect_lt(large_ns, 20 * small_ns, "%lld ns and %lld ns", (long long)large_ns, (long long)small_ns);
    cr_assert_null(muster_turn_done(await_turn(1), "done"));
    cr_assert_null(muster_turn_done(await_turn(2), "done"));
    muster_hub_stop(&hub);
}

Test(library, a_descriptor_is_quiet_when_nothing_happens)
{
    struct muster_follow_settings settings = {0};
    struct muster_hub *hub = start("data");
    struct muster_follow *follow;
    struct muster_event event;
    struct pollfd fd = {.events = POLLIN};
    const char *code;

    cr_assert_null(muster_follow_open(hub, &settings, &follow, NULL, 0));
    fd.fd = muster_follow_fd(follow);
    do
        while (muster_follow_next(follow, &event, &code) == 1)
            ;
    while (poll(&fd, 1, 200) == 1);
    cr_assert_null(code);
    muster_follow_close(&follow);
    muster_hub_stop(&hub);
}

/* ---- the process ---- */

static size_t
entries(const char *path)
{
    size_t count = 0;
    DIR *dir = opendir(path);

    cr_assert_not_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void
use(struct muster_hub *hub)
{
    struct muster_follow *follow;
    struct muster_event event;
    char id[MUSTER_JOB_ID];

    submit(hub, "quick", "x", id);
    follow = follow_job(hub, id, NULL);
    next(follow, &event);
    expect_text(hub, id, "x!");
    muster_follow_close(&follow);
}

static void
await_at_most(const char *path, size_t most)
{
    int64_t end_ms = muster_clock_ms() + 20000;

    while (entries(path) > most && muster_clock_ms() < end_ms)
        sched_yield();
    cr_assert_leq(entries(path), most, "%s", path);
}

Test(library, two_hubs_in_one_process_and_nothing_left_after_stop)
{
    size_t threads = entries("/proc/self/task") + 2, descriptors; /* ZeroMQ keeps two of its own once it was used */
    struct muster_hub *one, *two;
    struct sigaction before[64], after;
    int number, round;

    for (number = 1; number < 32; number++)
        sigaction(number, NULL, &before[number]);
    one = start("one");
    use(one);
    muster_hub_stop(&one);
    await_at_most("/proc/self/task", threads);
    descriptors = entries("/proc/self/fd");
    for (round = 0; round < 2; round++) {
        one = start("one");
        two = start("two");
        use(one);
        use(two);
        muster_hub_stop(&one);
        use(two);
        muster_hub_stop(&two);
        await_at_most("/proc/self/task", threads);
        await_at_most("/proc/self/fd", descriptors);
    }
    for (number = 1; number < 32; number++) {
        sigaction(number, NULL, &after);
        if (number != SIGPIPE) /* the HTTP library ignores it */
            cr_assert_eq(after.sa_handler, before[number].sa_handler, "signal %d", number);
    }
}
