/* SPDX-License-Identifier: MPL-2.0 */
/* A hub inside a program: starts, answers, says clearly why it cannot start, and leaves nothing behind. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/muster.h"
#include "transport/muster_fetch.h"

static char folder[] = "/tmp/muster-hub-XXXXXX";
static int null_fd;

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

TestSuite(hub, .init = set_up, .fini = tear_down, .timeout = 60);

static struct muster_hub *
start(const char *data, const char *config, const char *listen, char *problem, size_t size, bool *config_error)
{
    char path[256];
    struct muster_hub_settings settings = {.config = config, .data = path, .listen = listen, .log_fd = null_fd};

    snprintf(path, sizeof path, "%s/%s", folder, data);
    return muster_hub_start(&settings, problem, size, config_error);
}

static struct muster_hub *
start_ok(const char *data)
{
    char problem[512];
    struct muster_hub *hub = start(data, NULL, "127.0.0.1:0", problem, sizeof problem, NULL);

    cr_assert_not_null(hub, "%s", problem);
    return hub;
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

static long
ask(const struct muster_hub *hub, const char *key, struct muster_buf *answer)
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

    snprintf(url, sizeof url, "%s/api/v1/teams/%s/ask", muster_hub_url(hub), muster_hub_first_team(hub));
    snprintf(authorization, sizeof authorization, "Bearer %s", key);
    cr_assert_eq(muster_fetch_now(&spec, NULL, NULL, &status, answer, problem, sizeof problem), MUSTER_OK, "%s",
                 problem);
    return status;
}

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

Test(hub, answers_with_its_new_key)
{
    struct muster_hub *hub = start_ok("data");
    struct muster_buf answer = {0};

    cr_assert_not_null(muster_hub_new_key(hub));
    cr_assert_eq(ask(hub, muster_hub_new_key(hub), &answer), 200);
    cr_assert_not_null(strstr(answer.data, "\"response\":\"hello\""));
    muster_buf_free(&answer);
    muster_hub_stop(&hub);
    cr_assert_null(hub);
    hub = start_ok("data");
    cr_assert_null(muster_hub_new_key(hub), "only the first start makes a key");
    muster_hub_stop(&hub);
}

Test(hub, the_key_file_is_its_owners_alone)
{
    struct muster_hub *hub = start_ok("data");
    char path[256];
    struct stat facts;

    snprintf(path, sizeof path, "%s/admin.key", muster_hub_data(hub));
    cr_assert_eq(stat(path, &facts), 0);
    cr_assert_eq(facts.st_mode & 0777, 0600);
    muster_hub_stop(&hub);
}

Test(hub, two_in_one_process_do_not_meet)
{
    struct muster_hub *one = start_ok("one"), *two = start_ok("two");
    struct muster_buf answer = {0};

    cr_assert_eq(ask(one, muster_hub_new_key(two), &answer), 401);
    muster_buf_clear(&answer);
    cr_assert_eq(ask(two, muster_hub_new_key(two), &answer), 200);
    muster_hub_stop(&one);
    muster_buf_clear(&answer);
    cr_assert_eq(ask(two, muster_hub_new_key(two), &answer), 200, "the other one goes on");
    muster_buf_free(&answer);
    muster_hub_stop(&two);
}

Test(hub, a_data_folder_in_use_is_refused)
{
    struct muster_hub *hub = start_ok("data");
    char problem[512];
    bool config_error = true;

    cr_assert_null(start("data", NULL, "127.0.0.1:0", problem, sizeof problem, &config_error));
    cr_assert_not(config_error);
    cr_assert_gt(strlen(problem), 10);
    muster_hub_stop(&hub);
}

Test(hub, an_address_in_use_is_named)
{
    struct muster_hub *hub = start_ok("one");
    const char *address = strstr(muster_hub_url(hub), "127.0.0.1");
    char problem[512];

    cr_assert_null(start("two", NULL, address, problem, sizeof problem, NULL));
    cr_assert_not_null(strstr(problem, address), "%s", problem);
    muster_hub_stop(&hub);
}

static void
expect_nothing_begun(const char *data)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", folder, data);
    cr_assert_neq(access(path, F_OK), 0, "nothing was begun");
}

Test(hub, an_address_that_cannot_be_had_is_found_out_first)
{
    struct muster_hub *hub = start_ok("one");
    const char *address = strstr(muster_hub_url(hub), "127.0.0.1");
    char problem[512];
    bool config_error = true;

    cr_assert_null(start("two", NULL, address, problem, sizeof problem, &config_error));
    cr_assert_not(config_error);
    cr_assert_not_null(strstr(problem, "address already in use"), "%s", problem);
    expect_nothing_begun("two");
    muster_hub_stop(&hub);
    cr_assert_null(start("two", NULL, "localhost:x", problem, sizeof problem, &config_error));
    cr_assert(config_error);
    cr_assert_not_null(strstr(problem, "'localhost:x', must be PORT or ADDRESS:PORT"), "%s", problem);
    expect_nothing_begun("two");
}

/* What a start and a stop leave in the log. */
static void
log_of(struct muster_hub_settings *settings, bool starts, char *out, size_t size)
{
    struct muster_hub *hub;
    char problem[512];
    ssize_t got;

    settings->log_fd = open(folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    cr_assert_geq(settings->log_fd, 0);
    hub = muster_hub_start(settings, problem, sizeof problem, NULL);
    cr_assert_eq(hub != NULL, starts, "%s", problem);
    muster_hub_stop(&hub);
    got = pread(settings->log_fd, out, size - 1, 0);
    cr_assert_geq(got, 0);
    out[got] = '\0';
    close(settings->log_fd);
}

Test(hub, only_what_started_says_that_it_stopped)
{
    char data[256], text[16384];
    struct muster_hub_settings settings = {.data = data, .listen = "127.0.0.1:0"};
    struct muster_hub *holder = start_ok("data");

    snprintf(data, sizeof data, "%s/data", folder);
    log_of(&settings, false, text, sizeof text); /* its data folder is in use */
    cr_assert_null(strstr(text, "hub-stopped"), "%s", text);
    muster_hub_stop(&holder);
    log_of(&settings, true, text, sizeof text);
    cr_assert_not_null(strstr(text, "hub-stopped"), "%s", text);
}

Test(hub, says_which_teams_no_worker_can_reach)
{
    char data[256], text[16384];
    struct muster_hub_settings settings = {.data = data, .listen = "127.0.0.1:0"};

    snprintf(data, sizeof data, "%s/data", folder);
    settings.config = write_config("teams: {here: {driver: echo}, far: {driver: remote}}");
    log_of(&settings, true, text, sizeof text);
    cr_assert_not_null(strstr(text, "workers-shut-out"), "%s", text);
    cr_assert_not_null(strstr(text, "\"team\":\"far\""), "%s", text);
    settings.config = write_config("teams: {far: {driver: remote}}\nbus: {commands: 'ipc://c.sock'}");
    log_of(&settings, true, text, sizeof text);
    cr_assert_null(strstr(text, "workers-shut-out"), "%s", text);
}

Test(hub, a_wrong_configuration_is_told_apart)
{
    const char *path = write_config("http:\n  threads: many\n");
    char problem[512], place[300];
    bool config_error = false;

    cr_assert_null(start("data", path, NULL, NULL, 0, NULL), "nobody asks why");
    cr_assert_null(start("data", path, NULL, problem, sizeof problem, &config_error));
    cr_assert(config_error);
    snprintf(place, sizeof place, "%s:2:12: http.threads", path);
    cr_assert_not_null(strstr(problem, place), "%s", problem);
    snprintf(place, sizeof place, "%s/data", folder);
    cr_assert_neq(access(place, F_OK), 0, "nothing was begun");
}

/* A thread that has said its last word needs a moment to be gone. */
static void
await_threads(size_t expected)
{
    int64_t end_ms = muster_clock_ms() + 20000;

    while (entries("/proc/self/task") != expected && muster_clock_ms() < end_ms)
        sched_yield();
    cr_assert_eq(entries("/proc/self/task"), expected);
}

/* ZeroMQ closes what belonged to a socket on a thread of its own, a moment later. */
static void
await_descriptors(size_t most)
{
    int64_t end_ms = muster_clock_ms() + 20000;

    while (entries("/proc/self/fd") > most && muster_clock_ms() < end_ms)
        sched_yield();
    cr_assert_leq(entries("/proc/self/fd"), most);
}

Test(hub, nothing_is_left_after_stop)
{
    size_t threads = entries("/proc/self/task") + 2, descriptors; /* ZeroMQ keeps two of its own once it was used */
    struct muster_hub *hub = start_ok("data");

    muster_hub_stop(&hub);
    await_threads(threads);
    descriptors = entries("/proc/self/fd");
    hub = start_ok("data");
    cr_assert_gt(entries("/proc/self/task"), threads);
    muster_hub_stop(&hub);
    await_threads(threads);
    await_descriptors(descriptors);
    hub = start_ok("data");
    muster_hub_hurry(hub);
    muster_hub_stop(&hub);
    await_threads(threads);
    await_descriptors(descriptors);
}
