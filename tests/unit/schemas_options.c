/* SPDX-License-Identifier: MPL-2.0 */
/* The configuration: defaults, every kind of value, every error with its place, and harmless hostile files. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schemas/muster_options.h"

static struct muster_config
load(const char *text)
{
    struct muster_options_error error = {""};
    struct muster_config config = {0};

    cr_assert_eq(muster_config_parse(text, strlen(text), "m.yaml", "/etc/muster", &config, &error), MUSTER_OK, "%s: %s",
                 text, error.text);
    return config;
}

static void
expect_error(const char *text, const char *expected)
{
    struct muster_options_error error = {""};
    struct muster_config config = {0};

    cr_expect_eq(muster_config_parse(text, strlen(text), "m.yaml", "/etc", &config, &error), MUSTER_INVALID_REQUEST,
                 "%s", text);
    cr_expect_str_eq(error.text, expected, "%s", error.text);
    cr_expect_null(config.arena, "nothing comes out");
    muster_config_free(&config);
}

/* ---- values ---- */

Test(options, an_empty_file_gives_all_defaults_and_a_team_echo)
{
    struct muster_config config = load("");
    const struct options *options = config.options;

    cr_assert_str_eq(options->data, "/etc/muster/muster-data");
    cr_assert_eq(options->http->listen.count, 1u);
    cr_assert_str_eq(options->http->listen.items[0], "127.0.0.1:3100");
    cr_assert_eq(options->http->threads, 256);
    cr_assert_eq(options->http->max_body, 1 << 20);
    cr_assert_eq(options->queue->retry_delay, 1000);
    cr_assert_eq(options->store->keep_jobs, INT64_C(30) * 86400000);
    cr_assert_not(options->webhooks->allow_private);
    cr_assert_eq(options->log->format, log_format_AUTO);
    cr_assert_eq(options->auth->keys.count, 0u);
    cr_assert_eq(options->auth->rate_limit->requests, 100);
    cr_assert_eq(options->auth->rate_limit->algorithm, limit_algorithm_SLIDING_WINDOW);
    cr_assert_gt(options->agents->pass_env.count, 10u);
    cr_assert_str_eq(options->agents->pass_env.items[0], "PATH");
    cr_assert_eq(options->teams.count, 1u);
    cr_assert_str_eq(options->teams.items[0].name, "echo");
    cr_assert_eq(options->teams.items[0].driver, driver_kind_ECHO);
    cr_assert_str_eq(options->teams.items[0].directory, "/etc/muster");
    cr_assert_eq(options->teams.items[0].permissions->allow.count, 0u);
    muster_config_free(&config);
    cr_assert_null(config.arena);
}

static const char full[] = "data: /var/lib/muster\n"
                           "http:\n"
                           "  listen: ['*:8080', 9090, 127.0.0.1:0]\n"
                           "  keep_alive: 250ms\n"
                           "  max_body: 16KiB\n"
                           "webhooks: {allow_private: true}\n"
                           "log: {level: debug}\n"
                           "teams:\n"
                           "  backend:\n"
                           "    driver: claude\n"
                           "    directory: ../backend\n"
                           "    env: {PORT: 8080, EMPTY: ''}\n"
                           "    permissions:\n"
                           "      allow: [Read, 'Bash(git status*)', mcp__*]\n"
                           "  tool.x-1_:\n"
                           "    driver: command\n"
                           "    command: [cat, -n]\n"
                           "  plain:\n"
                           "auth:\n"
                           "  rate_limit: {requests: 0}\n"
                           "  keys:\n"
                           "    - name: ci\n"
                           "      key: muster_sk_secret\n"
                           "      teams: [backend]\n"
                           "      rate_limit: {window: 5m}\n"
                           "    - name: hashed\n"
                           "      sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
                           "      scopes: ['*']\n";

Test(options, every_kind_of_value_is_read)
{
    struct muster_config config = load(full);
    const struct options *options = config.options;
    const struct team_options *team = muster_team_options(options, "backend");

    cr_assert_str_eq(options->data, "/var/lib/muster");
    cr_assert_eq(options->http->listen.count, 3u);
    cr_assert_str_eq(options->http->listen.items[1], "9090");
    cr_assert_eq(options->http->keep_alive, 250);
    cr_assert_eq(options->http->max_body, 16384);
    cr_assert_eq(options->http->threads, 256, "what is not given is default");
    cr_assert(options->webhooks->allow_private);
    cr_assert_eq(options->log->level, log_level_DEBUG);
    cr_assert_eq(options->teams.count, 3u);
    cr_assert_str_eq(team->directory, "/etc/muster/../backend");
    cr_assert_eq(team->command.count, 1u);
    cr_assert_str_eq(team->command.items[0], "claude");
    cr_assert_eq(team->env.count, 2u);
    cr_assert_str_eq(team->env.items[0].value, "8080");
    cr_assert_eq(team->permissions->allow.count, 3u);
    cr_assert_eq(muster_team_options(options, "plain")->driver, driver_kind_ECHO);
    cr_assert_str_eq(muster_team_options(options, "tool.x-1_")->command.items[1], "-n");
    cr_assert_null(muster_team_options(options, "nobody"));
    muster_config_free(&config);
}

Test(options, keys_tell_whether_their_rate_was_given)
{
    struct muster_config config = load(full);
    const struct auth_options *auth = config.options->auth;

    cr_assert_eq(auth->keys.count, 2u);
    cr_assert_str_eq(auth->keys.items[0].key, "muster_sk_secret");
    cr_assert_eq(auth->keys.items[0].rate_limit->window, 300000);
    cr_assert_eq(auth->keys.items[0].rate_limit->requests, 100);
    cr_assert_null(auth->keys.items[1].rate_limit);
    cr_assert_eq(auth->keys.items[0].scopes.count, 2u);
    cr_assert_str_eq(auth->keys.items[1].scopes.items[0], "*");
    cr_assert_eq(auth->rate_limit->requests, 0);
    muster_config_free(&config);
}

Test(options, variables_are_expanded)
{
    struct muster_config config;

    cr_assert_eq(setenv("MUSTER_TEST_A", "alpha", 1), 0);
    cr_assert_eq(unsetenv("MUSTER_TEST_B"), 0);
    config = load("data: /x/${MUSTER_TEST_A}/${MUSTER_TEST_B:-b c}/$$HOME/$5${MUSTER_TEST_B:-}\n"
                  "teams: {a: {env: {K: '${MUSTER_TEST_A}'}}}");
    cr_assert_str_eq(config.options->data, "/x/alpha/b c/$HOME/$5");
    cr_assert_str_eq(config.options->teams.items[0].env.items[0].value, "alpha");
    muster_config_free(&config);
    expect_error("data: /x/${MUSTER_TEST_B}", "m.yaml:1:7: data: uses the variable MUSTER_TEST_B, which is not set");
    expect_error("data: ${A-b}",
                 "m.yaml:1:7: data: must use variables as ${NAME} or ${NAME:-default}, and $$ for a dollar");
    expect_error("data: /x/${",
                 "m.yaml:1:7: data: must use variables as ${NAME} or ${NAME:-default}, and $$ for a dollar");
    cr_assert_eq(setenv("MUSTER_TEST_A", "\xff", 1), 0);
    expect_error("data: ${MUSTER_TEST_A}", "m.yaml:1:7: data: must be UTF-8 text also where variables are expanded");
}

Test(options, durations_and_sizes)
{
    int64_t out = -1;

    cr_assert_eq(muster_duration_parse("250ms", &out), MUSTER_OK);
    cr_assert_eq(out, 250);
    cr_assert_eq(muster_duration_parse("30s", &out), MUSTER_OK);
    cr_assert_eq(out, 30000);
    cr_assert_eq(muster_duration_parse("2h", &out), MUSTER_OK);
    cr_assert_eq(out, 7200000);
    cr_assert_eq(muster_duration_parse("7d", &out), MUSTER_OK);
    cr_assert_eq(out, 604800000);
    cr_assert_eq(muster_duration_parse("12", &out), MUSTER_OK);
    cr_assert_eq(out, 12);
    cr_assert_eq(muster_size_parse("16KiB", &out), MUSTER_OK);
    cr_assert_eq(out, 16384);
    cr_assert_eq(muster_size_parse("2MB", &out), MUSTER_OK);
    cr_assert_eq(out, 2000000);
    cr_assert_eq(muster_size_parse("1GiB", &out), MUSTER_OK);
    cr_assert_eq(out, 1 << 30);
}

Test(options, bad_durations_and_sizes_change_nothing)
{
    static const char *const bad[] = {"",
                                      "s",
                                      "-1s",
                                      "+1s",
                                      " 1s",
                                      "1 s",
                                      "1x",
                                      "1.5s",
                                      "1sx",
                                      "9223372036854775808",
                                      "9223372036854775807d",
                                      "99999999999999999999999s",
                                      "1KIB",
                                      "1mib"};
    int64_t out = 77;
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(muster_duration_parse(bad[i], &out), MUSTER_INVALID_REQUEST, "%s", bad[i]);
        cr_expect_eq(muster_size_parse(bad[i], &out), MUSTER_INVALID_REQUEST, "%s", bad[i]);
    }
    cr_assert_eq(out, 77);
}

Test(options, relative_paths_count_from_the_given_directory)
{
    struct muster_config config = load("data: ./a/b\nteams: {t: {directory: .//c}}");
    char here[4096];
    char expected[4200];

    cr_assert_str_eq(config.options->data, "/etc/muster/a/b");
    cr_assert_str_eq(config.options->teams.items[0].directory, "/etc/muster/c");
    muster_config_free(&config);
    cr_assert_not_null(getcwd(here, sizeof here));
    cr_assert_eq(muster_config_load(NULL, &config, NULL), MUSTER_OK);
    (void)snprintf(expected, sizeof expected, "%s/muster-data", here);
    cr_assert_str_eq(config.options->data, expected);
    muster_config_free(&config);
}

/* ---- errors of single values ---- */

Test(options, unknown_keys_are_errors_with_the_nearest_known_one)
{
    expect_error("http:\n  thread: 5", "m.yaml:2:3: http.thread: is not a known option; did you mean threads?");
    expect_error("team: {}", "m.yaml:1:1: team: is not a known option; did you mean teams?");
    expect_error("completely_else: 1", "m.yaml:1:1: completely_else: is not a known option");
    expect_error("teams: {a: {name: b}}", "m.yaml:1:13: teams.a.name: is not a known option");
}

Test(options, doubles_are_errors)
{
    expect_error("data: a\nhttp: {}\ndata: b", "m.yaml:3:1: data: is given twice; the first is in line 1");
    expect_error("teams:\n  a: {}\n  a: {}", "m.yaml:3:3: teams.a: is given twice; the first is in line 2");
    expect_error("teams: {a: {env: {X: 1, X: 2}}}",
                 "m.yaml:1:25: teams.a.env.X: is given twice; the first is in line 1");
}

Test(options, values_that_do_not_fit_their_row_are_errors)
{
    expect_error("http:\n  threads: many", "m.yaml:2:12: http.threads: must be a whole number, 8 to 10000");
    expect_error("http: {threads: 7}", "m.yaml:1:17: http.threads: must be a whole number, 8 to 10000");
    expect_error("http: {threads: [7]}", "m.yaml:1:17: http.threads: must be a whole number, 8 to 10000");
    expect_error("http: {threads: }", "m.yaml:1:17: http.threads: must be a whole number, 8 to 10000");
    expect_error("http: {threads: 0x10}", "m.yaml:1:17: http.threads: must be a whole number, 8 to 10000");
    expect_error("http: {request_timeout: 5}", "m.yaml:1:25: http.request_timeout: must be a duration, 100ms to 10m");
    expect_error("http: {max_body: 1TiB}", "m.yaml:1:18: http.max_body: must be a size, 1KiB to 64MiB");
    expect_error("webhooks: {allow_private: yes}", "m.yaml:1:27: webhooks.allow_private: must be true or false");
    expect_error("log: {format: xml}", "m.yaml:1:15: log.format: must be one of auto, json, text");
    expect_error("http: {listen: {a: b}}", "m.yaml:1:16: http.listen: must be a list of 1 to 16 texts");
    expect_error("http: {listen: }", "m.yaml:1:16: http.listen: must be a list of 1 to 16 texts");
    expect_error("http: {listen: []}", "m.yaml:1:16: http.listen: must be a list of 1 to 16 texts");
    expect_error("http: {listen: [{}]}", "m.yaml:1:17: http.listen[0]: must be text");
    expect_error("http: 5", "m.yaml:1:7: http: must be a mapping");
    expect_error("[]", "m.yaml:1:1: must be a mapping");
    expect_error("teams: [a]", "m.yaml:1:8: teams: must be a mapping from at most 1000 names to mappings");
    expect_error("auth: {keys: {a: b}}", "m.yaml:1:14: auth.keys: must be a list of at most 10000 mappings");
    expect_error("teams: {a: {env: [x]}}", "m.yaml:1:18: teams.a.env: must be a mapping of at most 256 texts");
    expect_error("teams: {? [a] : {}}", "m.yaml:1:11: teams: must have names that are text");
    expect_error("data: \"a\\0b\"", "m.yaml:1:7: data: must be UTF-8 text without U+0000");
}

Test(options, malformed_yaml_is_placed)
{
    expect_error("http:\n  a: [",
                 "m.yaml:3:1: malformed YAML: while parsing a flow node, did not find expected node content");
    expect_error("a: b: c", "m.yaml:1:5: malformed YAML: mapping values are not allowed in this context");
    expect_error("a: 1\n# \xff", "m.yaml:2:3: malformed YAML: invalid leading UTF-8 octet");
    expect_error("a: 1\n---\nb: 1", "m.yaml:2:1: must be one YAML document");
}

/* ---- errors of several values together ---- */

Test(options, listen_addresses_are_checked)
{
    expect_error("http: {listen: ['443s']}",
                 "m.yaml:1:17: http.listen[0]: TLS is not served here; put a reverse proxy in "
                 "front and give its address without the s");
    expect_error("http:\n  listen:\n  - '80'\n  - localhost:80",
                 "m.yaml:4:5: http.listen[1]: must be PORT or ADDRESS:PORT with an IPv4 address or *");
    expect_error("http: {listen: [':80']}",
                 "m.yaml:1:17: http.listen[0]: must be PORT or ADDRESS:PORT with an IPv4 address or *");
    expect_error("http: {listen: ['127.0.0.1:65536']}",
                 "m.yaml:1:17: http.listen[0]: must be PORT or ADDRESS:PORT with an IPv4 address or *");
    expect_error("http: {listen: ['s']}",
                 "m.yaml:1:17: http.listen[0]: must be PORT or ADDRESS:PORT with an IPv4 address or *");
    expect_error("http: {listen: ['']}",
                 "m.yaml:1:17: http.listen[0]: must be PORT or ADDRESS:PORT with an IPv4 address or *");
}

static void
expect_threads(const char *text, int64_t sockets, int64_t waiting)
{
    struct muster_config config = load(text);

    cr_expect_eq(config.options->http->max_sockets, sockets, "%s: %d", text, (int)config.options->http->max_sockets);
    cr_expect_eq(config.options->http->max_waiting, waiting, "%s: %d", text, (int)config.options->http->max_waiting);
    muster_config_free(&config);
}

Test(options, some_threads_are_always_left)
{
    expect_threads("", 96, 96);
    expect_threads("http: {threads: 64}", 24, 24);
    expect_threads("http: {threads: 8}", 3, 3);
    expect_threads("http: {max_sockets: 128}", 128, 64);
    expect_threads("http: {max_waiting: 128}", 64, 128);
    expect_threads("http: {threads: 10000}", 96, 96);
    expect_error("http: {threads: 64, max_sockets: 33}",
                 "m.yaml:1:34: http.max_sockets: must be at most 32, half of http.threads");
    expect_error("http: {threads: 64, max_waiting: 33}",
                 "m.yaml:1:34: http.max_waiting: must be at most 32, half of http.threads");
    expect_error("http: {threads: 64, max_sockets: 32, max_waiting: 25}",
                 "m.yaml:1:51: http.max_waiting: must be at most 16: with http.max_sockets it must leave a quarter of "
                 "http.threads");
}

Test(options, the_default_ask_timeout_fits_below_its_limit)
{
    struct muster_config config = load("http: {max_ask_timeout: 10s}");

    cr_assert_eq(config.options->http->ask_timeout, 10000);
    muster_config_free(&config);
    expect_error("http: {max_ask_timeout: 10s, ask_timeout: 11s}",
                 "m.yaml:1:43: http.ask_timeout: must not be longer than http.max_ask_timeout");
}

Test(options, teams_are_checked)
{
    expect_error("teams:\n  a b: {}", "m.yaml:2:8: teams.a b: must have a name of letters, digits, '.', '_' and '-'");
    expect_error("teams: {'': {}}", "m.yaml:1:13: teams.: must be text of 1 to 64 bytes");
    expect_error("teams:\n  a:\n    driver: command",
                 "m.yaml:3:5: teams.a.command: is required for the driver command");
    expect_error("teams: {a: {command: ['']}}", "m.yaml:1:22: teams.a.command: must begin with a program");
    expect_error("teams: {a: {env: {'A=B': x}}}",
                 "m.yaml:1:26: teams.a.env.A=B: must be the name of an environment variable");
}

Test(options, teams_are_not_named_like_folders)
{
    expect_error("teams:\n  .: {}", "m.yaml:2:6: teams..: must not be named . or .., which clients take out of a path");
    expect_error("teams:\n  ..: {}",
                 "m.yaml:2:7: teams...: must not be named . or .., which clients take out of a path");
}

Test(options, permission_rules_are_checked)
{
    static const char *const bad[] = {"'Bash('", "'Bash()'", "'Bash(x'", "'(x)'", "''", "'Bash(x)y'", "'Ba sh'"};
    char text[200];
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        (void)snprintf(text, sizeof text, "teams: {a: {permissions: {deny: [Read, %s]}}}", bad[i]);
        expect_error(text, "m.yaml:1:40: teams.a.permissions.deny[1]: must be Tool or Tool(pattern), for example "
                           "Bash(git status*)");
    }
}

Test(options, keys_are_checked)
{
    expect_error("auth: {keys: [{key: a}]}", "m.yaml:1:15: auth.keys[0].name: is required");
    expect_error("auth: {keys: [{name: a}]}", "m.yaml:1:15: auth.keys[0]: must have exactly one of key and sha256");
    expect_error("auth: {keys: [{name: a, key: x, sha256: y}]}",
                 "m.yaml:1:15: auth.keys[0]: must have exactly one of key and sha256");
    expect_error("auth: {keys: [{name: a, sha256: zz}]}",
                 "m.yaml:1:33: auth.keys[0].sha256: must be 64 hexadecimal digits");
    expect_error("auth: {keys: [{name: a, key: 0123456789abcdef, scopes: [teams:all]}]}",
                 "m.yaml:1:57: auth.keys[0].scopes[0]: is not a known scope; `muster describe scopes` lists them");
    expect_error("auth: {keys: [{name: a, key: 0123456789abcdef, teams: [nobody]}]}",
                 "m.yaml:1:56: auth.keys[0].teams[0]: is not one of the teams");
    expect_error("auth:\n  keys:\n  - {name: a, key: 0123456789abcdef}\n  - {name: a, key: 0123456789abcdeg}",
                 "m.yaml:4:12: auth.keys[1].name: is the name of an earlier key");
}

Test(options, a_text_alone_is_a_list_of_one)
{
    struct muster_config config = load("auth: {type: bearer}\nhttp: {listen: 9090}\n"
                                       "teams: {a: {driver: command, command: cat}}\n");

    cr_assert_eq(config.options->auth->type.count, 1u);
    cr_assert_str_eq(config.options->auth->type.items[0], "bearer");
    cr_assert_eq(config.options->http->listen.count, 1u);
    cr_assert_str_eq(config.options->http->listen.items[0], "9090");
    cr_assert_str_eq(config.options->teams.items[0].command.items[0], "cat");
    muster_config_free(&config);
    setenv("KIND", "basic", 1);
    config = load("auth: {type: '${KIND}'}");
    cr_assert_str_eq(config.options->auth->type.items[0], "basic");
    muster_config_free(&config);
    expect_error("http: {listen: ''}",
                 "m.yaml:1:16: http.listen[0]: must be PORT or ADDRESS:PORT with an IPv4 address or *");
}

Test(options, kinds_of_credentials_are_checked)
{
    struct muster_config config = load("");

    cr_assert_eq(config.options->auth->type.count, 3u, "all are taken by default");
    muster_config_free(&config);
    expect_error("auth: {type: gold}", "m.yaml:1:14: auth.type[0]: must be bearer, basic or jwt");
    expect_error("auth: {type: [basic, Bearer]}", "m.yaml:1:22: auth.type[1]: must be bearer, basic or jwt");
    expect_error("auth: {type: []}", "m.yaml:1:14: auth.type: must be a list of 1 to 3 texts");
    expect_error("auth: {type: [jwt]}",
                 "m.yaml:1:14: auth.type: lets nobody in: jwt needs auth.jwt.secret or auth.jwt.public_key");
    config = load("auth: {type: jwt, jwt: {secret: 0123456789abcdef0123456789abcdef}}");
    cr_assert_eq(config.options->auth->type.count, 1u);
    muster_config_free(&config);
}

Test(options, tokens_are_checked)
{
    struct muster_config config = load("auth: {jwt: {public_key: /etc/passwd, scopes: [teams:read], leeway: 5s}}");

    cr_assert_eq(config.options->auth->jwt->leeway, 5000);
    cr_assert_eq(config.options->auth->jwt->scopes.count, 1u);
    muster_config_free(&config);
    config = load("");
    cr_assert_str_empty(config.options->auth->jwt->secret);
    cr_assert_str_empty(config.options->auth->jwt->public_key);
    cr_assert_eq(config.options->auth->jwt->leeway, 30000);
    muster_config_free(&config);
    expect_error("auth: {jwt: {secret: 0123456789abcdef0123456789abcde}}",
                 "m.yaml:1:22: auth.jwt.secret: must have at least 32 bytes, so that it cannot be guessed");
    expect_error("auth: {jwt: {secret: 0123456789abcdef0123456789abcdef, public_key: passwd}}",
                 "m.yaml:1:13: auth.jwt: must not have both secret and public_key");
    expect_error("auth: {jwt: {public_key: no/such.pem}}",
                 "m.yaml:1:26: auth.jwt.public_key: /etc/no/such.pem cannot be read: No such file or directory");
    expect_error("auth: {jwt: {scopes: [fly]}}",
                 "m.yaml:1:23: auth.jwt.scopes[0]: is not a known scope; `muster describe scopes` lists them");
}

Test(options, keys_have_a_tier_and_speak_for_a_team)
{
    static const char text[] = "teams: {a: {}, b: {}}\nauth:\n  keys:\n"
                               "  - {name: one, key: 0123456789abcdef, tier: premium, speaks_for: a}\n"
                               "  - {name: two, key: 0123456789abcdeg, teams: [a, b], speaks_for: b}\n"
                               "  - {name: three, key: 0123456789abcdeh}\n";
    struct muster_config config = load(text);
    const struct key_options *keys = config.options->auth->keys.items;

    cr_assert_eq(keys[0].tier, key_tier_PREMIUM);
    cr_assert_str_eq(keys[0].speaks_for, "a");
    cr_assert_str_eq(keys[1].speaks_for, "b");
    cr_assert_eq(keys[2].tier, key_tier_NONE);
    cr_assert_str_empty(keys[2].speaks_for);
    muster_config_free(&config);
    expect_error("auth: {keys: [{name: a, key: 0123456789abcdef, tier: gold}]}",
                 "m.yaml:1:54: auth.keys[0].tier: must be one of standard, premium, enterprise");
    expect_error("auth: {keys: [{name: a, key: 0123456789abcdef, speaks_for: c}]}",
                 "m.yaml:1:60: auth.keys[0].speaks_for: is not one of the teams");
    expect_error("teams: {a: {}, b: {}}\nauth: {keys: [{name: a, key: 0123456789abcdef, teams: [a], speaks_for: b}]}",
                 "m.yaml:2:72: auth.keys[0].speaks_for: must be one of the teams that the key may use");
}

Test(options, keys_that_could_be_guessed_are_refused)
{
    expect_error("auth: {keys: [{name: a, key: 0123456789abcde}]}",
                 "m.yaml:1:30: auth.keys[0].key: must have at least 16 characters, so that it cannot be guessed");
}

Test(options, a_key_has_one_name)
{
    /* The digest is that of 0123456789abcdef. */
    expect_error("auth:\n  keys:\n  - {name: a, key: 0123456789abcdef}\n  - {name: b, key: 0123456789abcdef}",
                 "m.yaml:4:5: auth.keys[1]: is the same key as that of a");
    expect_error("auth:\n  keys:\n  - {name: a, key: 0123456789abcdef}\n"
                 "  - {name: b, sha256: 9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f}",
                 "m.yaml:4:5: auth.keys[1]: is the same key as that of a");
}

/* ---- addresses ---- */

Test(options, a_port_alone_is_of_this_machine_only)
{
    static const struct {
        const char *text;
        uint32_t address;
        int port;
    } rows[] = {
        {"3100", 0x7f000001, 3100}, {"*:3100", 0, 3100}, {"0.0.0.0:3100", 0, 3100}, {"10.1.2.3:0", 0x0a010203, 0}};
    struct muster_listen listen;
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        cr_assert_eq(muster_listen_parse(rows[i].text, &listen, NULL), MUSTER_OK, "%s", rows[i].text);
        cr_expect_eq(listen.address, rows[i].address, "%s", rows[i].text);
        cr_expect_eq(listen.port, rows[i].port, "%s", rows[i].text);
    }
}

Test(options, addresses_given_twice_are_refused)
{
    struct muster_config config;

    expect_error("http:\n  listen:\n  - '80'\n  - 127.0.0.1:80", "m.yaml:4:5: http.listen[1]: overlaps 80 above");
    expect_error("http:\n  listen:\n  - 127.0.0.2:80\n  - '*:80'",
                 "m.yaml:4:5: http.listen[1]: overlaps 127.0.0.2:80 above");
    config = load("http: {listen: ['127.0.0.1:80', '127.0.0.2:80', '*:0', '*:0']}");
    muster_config_free(&config);
}

/* ---- hostile files ---- */

Test(options, anchors_and_aliases_are_refused)
{
    expect_error("data: &a x", "m.yaml:1:7: must not use anchors and aliases (& and *); quote such text");
    expect_error("a: &a [x,x]\nb: &b [*a,*a]",
                 "m.yaml:1:4: must not use anchors and aliases (& and *); quote such text");
}

/* `head`, then `piece` again and again, 1 MiB in all. */
static void
expect_refused_soon(const char *head, const char *piece)
{
    struct muster_options_error error;
    struct muster_config config = {0};
    struct muster_buf buf = {0};

    muster_buf_str(&buf, head);
    while (buf.size + strlen(piece) <= 1 << 20)
        muster_buf_str(&buf, piece);
    cr_expect_eq(muster_config_parse(buf.data, buf.size, "m.yaml", "/", &config, &error), MUSTER_INVALID_REQUEST, "%s",
                 piece);
    muster_buf_free(&buf);
}

Test(options, large_hostile_files_are_refused_soon, .timeout = 60)
{
    expect_refused_soon("", "[");
    expect_refused_soon("", "{a: ");
    expect_refused_soon("", "- ");
    expect_refused_soon("", "? ");
    expect_refused_soon("a: [", "x,");
    expect_refused_soon("", "&a x ");
    expect_refused_soon("http: {listen: [", "'80',");
    expect_refused_soon("teams:\n", " a: \n");
    expect_refused_soon("", "a: 1\n");
    expect_refused_soon("teams: {a: {env: {", "x: y, ");
}

Test(options, a_file_has_at_most_a_mebibyte)
{
    struct muster_options_error error;
    struct muster_config config = {0};
    struct muster_buf buf = {0};

    while (buf.size < 1 << 20)
        muster_buf_str(&buf, "#2345678901234567890123456789012345678901234567890123456789012\n\n");
    cr_assert_eq(buf.size, 1u << 20);
    cr_assert_eq(muster_config_parse(buf.data, buf.size, "m.yaml", "/", &config, &error), MUSTER_OK);
    muster_config_free(&config);
    muster_buf_str(&buf, "#");
    cr_assert_eq(muster_config_parse(buf.data, buf.size, "m.yaml", "/", &config, &error), MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(error.text, "m.yaml:1:1: must have at most 1048576 bytes");
    muster_buf_free(&buf);
}

/* ---- files ---- */

static void
write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    cr_assert_geq(fputs(text, file), 0);
    cr_assert_eq(fclose(file), 0);
}

Test(options, a_file_is_read_and_its_folder_counts)
{
    char folder[] = "/tmp/muster-options-XXXXXX", path[100], expected[200];
    struct muster_options_error error;
    struct muster_config config;

    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/m.yaml", folder);
    write_file(path, "data: here\n");
    cr_assert_eq(muster_config_load(path, &config, &error), MUSTER_OK);
    (void)snprintf(expected, sizeof expected, "%s/here", folder);
    cr_assert_str_eq(config.options->data, expected);
    muster_config_free(&config);

    write_file(path, "dat: here\n");
    cr_assert_eq(muster_config_load(path, &config, &error), MUSTER_INVALID_REQUEST);
    (void)snprintf(expected, sizeof expected, "%s:1:1: dat: is not a known option; did you mean data?", path);
    cr_assert_str_eq(error.text, expected);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(rmdir(folder), 0);
}

Test(options, a_file_that_cannot_be_read_says_why)
{
    struct muster_options_error error;
    struct muster_config config;

    cr_assert_eq(muster_config_load("/nonexistent/m.yaml", &config, &error), MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(error.text, "/nonexistent/m.yaml: cannot be read: No such file or directory");
    cr_assert_eq(muster_config_load("/tmp", &config, &error), MUSTER_INVALID_REQUEST);
    cr_assert_str_eq(error.text, "/tmp: cannot be read: Is a directory");
    cr_assert_eq(muster_config_load("/tmp", &config, NULL), MUSTER_INVALID_REQUEST);
}

Test(options, endpoints_of_zeromq_are_checked)
{
    static const char text[] = "bus: {commands: 'ipc://here.sock', events: 'tcp://0.0.0.0:5571'}";
    struct muster_options_error error;
    struct muster_config config;

    expect_error("bus: {commands: 'tcp://127.0.0.1'}",
                 "m.yaml:1:17: bus.commands: must be tcp://ADDRESS:PORT with an IPv4 address or *, or ipc://PATH");
    expect_error("bus: {commands: 'tcp://127.0.0.1:0'}",
                 "m.yaml:1:17: bus.commands: must be tcp://ADDRESS:PORT with an IPv4 address or *, or ipc://PATH");
    expect_error("bus: {commands: 'inproc://a'}",
                 "m.yaml:1:17: bus.commands: must be tcp://ADDRESS:PORT with an IPv4 address or *, or ipc://PATH");
    expect_error("bus: {commands: 'ipc://a', events: 'ipc://a'}", "m.yaml:1:36: bus.events: must not be that of "
                                                                  "bus.commands");
    expect_error("bus: {events: 'tcp://127.0.0.1:1'}",
                 "m.yaml:1:15: bus.events: has no credential without CURVE: set bus.curve, or bus.open_events to let "
                 "everybody on this machine read all events");
    cr_assert_eq(muster_config_parse(text, sizeof text - 1, "m.yaml", "/base", &config, &error), MUSTER_OK, "%s",
                 error.text);
    cr_assert_str_eq(config.options->bus->commands, "ipc:///base/here.sock");
    cr_assert(muster_endpoint_is_local(config.options->bus->commands));
    cr_assert(muster_endpoint_is_local("tcp://127.1.2.3:1"));
    cr_assert(!muster_endpoint_is_local(config.options->bus->events));
    cr_assert(!muster_endpoint_is_local("tcp://*:1"));
    muster_config_free(&config);
}

/* ---- workers ---- */

Test(options, what_belongs_to_the_workers_is_refused_for_a_remote_team)
{
    static const char *const theirs[] = {"directory: x",
                                         "command: [x]",
                                         "model: x",
                                         "permission_mode: x",
                                         "concurrency: 2",
                                         "silence_timeout: 1m",
                                         "start_timeout: 1m",
                                         "stop_timeout: 1m",
                                         "idle_stop: 1m",
                                         "env: {A: b}",
                                         "permissions: {allow: [Read]}"};
    struct muster_config config;
    char text[256], expected[256];
    size_t i;

    for (i = 0; i < sizeof theirs / sizeof *theirs; i++) {
        snprintf(text, sizeof text, "teams:\n  a:\n    driver: remote\n    %s\n", theirs[i]);
        snprintf(expected, sizeof expected,
                 "m.yaml:4:%d: teams.a.%.*s: belongs into the configuration of the workers, as the driver is remote",
                 (int)strcspn(theirs[i], ":") + 7, (int)strcspn(theirs[i], ":"), theirs[i]);
        expect_error(text, expected);
    }
    config = load("teams: {a: {driver: remote, turn_timeout: 1m, max_queued: 3, labels: {gpu: 'yes'}}}");
    cr_assert_eq(config.options->teams.items[0].labels.count, 1u);
    muster_config_free(&config);
    expect_error("teams: {a: {labels: {gpu: 'yes'}}}",
                 "m.yaml:1:21: teams.a.labels: is only for teams with the driver remote: which workers get its jobs");
}

Test(options, a_worker_is_checked)
{
    struct muster_config config = load("worker: {hub: 'ipc://run/hub', hub_key: keys/hub, curve_key: keys/own}");
    const struct worker_options *worker = config.options->worker;

    cr_assert_str_eq(worker->hub, "ipc:///etc/muster/run/hub");
    cr_assert_str_eq(worker->hub_key, "/etc/muster/keys/hub");
    cr_assert_str_eq(worker->curve_key, "/etc/muster/keys/own");
    muster_config_free(&config);
    config = load("{worker: {hub: 'tcp://hub.example:5570', name: w-1.x_Y, teams: [a], "
                  "hub_key: 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'}, teams: {a: {}}}");
    cr_assert_str_eq(config.options->worker->hub_key, "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7");
    muster_config_free(&config);
    expect_error("worker: {hub: 'tcp://hub'}", "m.yaml:1:15: worker.hub: must be tcp://HOST:PORT or ipc://PATH");
    expect_error("worker: {hub: 'tcp://hub:0'}", "m.yaml:1:15: worker.hub: must be tcp://HOST:PORT or ipc://PATH");
    expect_error("worker: {hub: 'tcp://a b:1'}", "m.yaml:1:15: worker.hub: must be tcp://HOST:PORT or ipc://PATH");
    expect_error("worker: {hub: 'http://h:1'}", "m.yaml:1:15: worker.hub: must be tcp://HOST:PORT or ipc://PATH");
    expect_error("worker: {hub: 'ipc://'}", "m.yaml:1:15: worker.hub: must be tcp://HOST:PORT or ipc://PATH");
    expect_error("worker: {name: 'a b'}", "m.yaml:1:16: worker.name: must have letters, digits, '.', '_' and '-' only");
    expect_error("worker: {reconnect: 1s, max_reconnect: 10ms}",
                 "m.yaml:1:40: worker.max_reconnect: must not be shorter than worker.reconnect");
    expect_error("worker: {teams: [b]}", "m.yaml:1:18: worker.teams[0]: is not one of the teams");
    expect_error("{worker: {teams: [a]}, teams: {a: {driver: remote}}}",
                 "m.yaml:1:19: worker.teams[0]: is a team with the driver remote, so it is not of this process");
}

Test(options, endpoints_of_this_machine_are_told_from_others)
{
    cr_assert(muster_endpoint_is_local("ipc:///run/x"));
    cr_assert(muster_endpoint_is_local("tcp://127.0.0.1:5570"));
    cr_assert(muster_endpoint_is_local("tcp://localhost:5570"));
    cr_assert_not(muster_endpoint_is_local("tcp://localhost.example:5570"));
    cr_assert_not(muster_endpoint_is_local("tcp://10.0.0.1:5570"));
    cr_assert_not(muster_endpoint_is_local("tcp://hub:5570"));
}

Test(options, a_data_folder_that_was_given_is_told_from_the_default)
{
    struct muster_config config = load("data: ./muster-data");

    cr_assert(config.data_given);
    muster_config_free(&config);
    config = load("http: {}");
    cr_assert_not(config.data_given);
    muster_config_free(&config);
}
