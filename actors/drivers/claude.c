/* SPDX-License-Identifier: MPL-2.0 */
/* claude: the Claude Code CLI, kept warm, spoken to in stream-json lines with its control protocol.
 *
 * States: started (initialize sent) -> ready -> turn -> ready ...  A `result` line alone ends a turn.  The CLI joins
 * prompts that come during a turn, so a prompt is written only when no turn runs.  The CLI begins turns of its own,
 * each announced by a task_notification (a background task has ended): the prompt waits for the end of that one, or if
 * it was written already the result of that one is passed over.  A malformed line ends the CLI, so every line is made
 * by jansson. Agent actor's thread.  What can fail: the process, told by `exited`. */
#include "actors/drivers/claude.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define HOOK_TIMEOUT_S 3600

static void
init(void *driver, const struct driver_host *host)
{
    struct claude *self = driver;

    self->host = host;
    self->tools = json_object();
    self->denied = json_object();
    self->todos = json_object();
    self->tasks = json_object();
}

static void
fini(void *driver)
{
    struct claude *self = driver;

    json_decref(self->tools);
    json_decref(self->denied);
    json_decref(self->todos);
    json_decref(self->tasks);
    muster_buf_free(&self->said);
    free(self->waiting);
}

/* ---- the process ----------------------------------------------------------------------------------------------------
 */

static void
command(void *driver, const char *session, const struct driver_turn *turn, struct muster_arena *arena,
        struct muster_strs *out_argv, struct muster_pairs *out_env)
{
    static const char *const fixed[] = {
        "-p",
        "--input-format",
        "stream-json",
        "--output-format",
        "stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool",
        "stdio",
    };
    static const struct muster_pair env[] = {
        {"DISABLE_AUTOUPDATER", "1"},
        {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"},
        {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1"},
        {"CLAUDE_CODE_MAX_RETRIES", "3"},
    };
    struct claude *self = driver;
    const struct team_options *team = self->host->team;
    size_t fixed_count = sizeof(fixed) / sizeof(fixed[0]), count = 0, i;
    const char **argv = muster_arena_alloc(arena, (team->command.count + fixed_count + 7) * sizeof(*argv));

    (void)turn;
    for (i = 0; i < team->command.count; i++)
        argv[count++] = team->command.items[i];
    if (!count)
        argv[count++] = "claude";
    for (i = 0; i < fixed_count; i++)
        argv[count++] = fixed[i];
    if (team->model && *team->model) {
        argv[count++] = "--model";
        argv[count++] = team->model;
    }
    if (team->permission_mode && *team->permission_mode) {
        argv[count++] = "--permission-mode";
        argv[count++] = team->permission_mode;
    }
    if (*session) {
        argv[count++] = "--resume";
        argv[count++] = muster_arena_str(arena, session, strlen(session));
    }
    *out_argv = (struct muster_strs){.items = argv, .count = count};
    *out_env = (struct muster_pairs){.items = env, .count = sizeof(env) / sizeof(env[0])};
}

static void
write_text(struct claude *self, const char *line)
{
    const struct driver_host *host = self->host;

    if (host->write(host->self, line, strlen(line)) == MUSTER_OVERLOADED)
        host->broken(host->self, "claude does not read its input.");
}

/* The object as a line; the caller frees it. */
static char *
line_of(json_t *object)
{
    struct muster_buf line = {0};
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

    json_decref(object);
    MUSTER_ASSERT(text);
    muster_buf_str(&line, text);
    muster_buf_add(&line, "\n", 1);
    free(text);
    return muster_buf_take(&line, &(size_t){0});
}

void
claude_write(struct claude *self, json_t *object)
{
    char *line = line_of(object);

    write_text(self, line);
    free(line);
}

static void
send_request(struct claude *self, const char *id, json_t *request)
{
    claude_write(self, json_pack("{s:s, s:s, s:o}", "type", "control_request", "request_id", id, "request", request));
}

/* The CLI asks `can_use_tool` only for some uses of tools; of deny rules it must ask for all.  A hook without a matcher
 * is for all tools.  Its time is long, as we answer at once or not at all; an answer that is late is a denial. */
static void
started(void *driver)
{
    struct claude *self = driver;
    const struct permission_options *permissions = self->host->team->permissions;
    json_t *request = json_pack("{s:s}", "subtype", "initialize");

    if (permissions && permissions->deny.count)
        json_object_set_new(request, "hooks",
                            json_pack("{s:[{s:[s], s:i}]}", "PreToolUse", "hookCallbackIds", CLAUDE_DENY_HOOK,
                                      "timeout", HOOK_TIMEOUT_S));
    send_request(self, CLAUDE_INITIALIZE, request);
}

/* Did it end with what a program says that cannot be started like this? */
static bool
is_usage_error(int status, const char *last_words)
{
    return WIFEXITED(status) && WEXITSTATUS(status) == 1 && last_words && last_words[strspn(last_words, " \t\r\n")];
}

static void
exited(void *driver, int status, const char *last_words)
{
    struct claude *self = driver;
    struct driver_outcome outcome = {.err = MUSTER_PROCESS_ERROR};
    struct muster_buf text = {0};

    driver_exit_text(driver_program(self->host->team, "claude"), status, last_words, &text);
    outcome.text = text.data;
    outcome.text_size = text.size;
    outcome.fresh_session = self->no_conversation || strstr(text.data, "No conversation found") ||
                            strstr(text.data, "--resume requires a valid session");
    outcome.final = !self->ready && !outcome.fresh_session && is_usage_error(status, last_words);
    claude_turn_clear(self);
    self->host->done(self->host->self, &outcome);
    muster_buf_free(&text);
}

/* ---- turns ----------------------------------------------------------------------------------------------------------
 */

/* A turn of the CLI's own that was announced begins within this time, or not at all. */
#define ANNOUNCED_MS 5000

void
claude_turn_clear(struct claude *self)
{
    self->in_turn = self->in_init = false;
    self->announced = self->foreign = self->ahead = false;
    self->interrupted = false;
    self->anew = false;
    self->again = 0;
    muster_buf_free(&self->said);
    self->message[0] = '\0';
    self->error[0] = '\0';
    self->resets_at_s = 0;
    json_object_clear(self->tools);
    json_object_clear(self->denied);
    json_object_clear(self->todos);
    json_object_clear(self->tasks);
    if (self->busy_tools)
        self->host->busy_tools(self->host->self, 0);
    self->busy_tools = 0;
}

void
claude_send_waiting(struct claude *self)
{
    char *line = self->waiting;

    if (!line)
        return;
    self->waiting = NULL;
    self->in_turn = true;
    write_text(self, line);
    free(line);
}

static void
begin(void *driver, const struct driver_turn *turn)
{
    struct claude *self = driver;
    struct muster_buf prompt = {0};
    json_t *content;

    muster_utf8_clean(&prompt, turn->prompt, strlen(turn->prompt));
    content = json_stringn(prompt.data ? prompt.data : "", prompt.size);
    muster_buf_free(&prompt);
    free(self->waiting);
    self->waiting =
        line_of(json_pack("{s:s, s:{s:s, s:o}}", "type", "user", "message", "role", "user", "content", content));
    if (self->foreign)
        return;
    if (self->announced) {
        self->host->timer(self->host->self, ANNOUNCED_MS);
        return;
    }
    claude_turn_clear(self);
    claude_send_waiting(self);
}

/* What was announced did not begin. */
static void
timer(void *driver)
{
    struct claude *self = driver;

    if (self->foreign || !self->waiting)
        return;
    claude_turn_clear(self);
    claude_send_waiting(self);
}

static void
interrupt(void *driver)
{
    static const char text[] = "The turn was given up before it began.";
    struct claude *self = driver;
    struct driver_outcome outcome = {.err = MUSTER_CANCELLED, .text = text, .text_size = sizeof(text) - 1};
    char id[48];

    if (self->waiting) {
        free(self->waiting);
        self->waiting = NULL;
        self->host->done(self->host->self, &outcome);
        return;
    }
    if (!self->in_turn)
        return;
    self->interrupted = true;
    snprintf(id, sizeof(id), "muster-%lld", (long long)++self->requests);
    send_request(self, id, json_pack("{s:s}", "subtype", "interrupt"));
}

/* Who it is to the model API, and where that is. */
static const char *const environment[] = {
    "ANTHROPIC_API_KEY",       "ANTHROPIC_AUTH_TOKEN",   "ANTHROPIC_BASE_URL",
    "ANTHROPIC_MODEL",         "CLAUDE_CONFIG_DIR",      "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", NULL,
};

const struct driver driver_claude = {
    .name = "claude",
    .has_process = true,
    .env = environment,
    .size = sizeof(struct claude),
    .init = init,
    .fini = fini,
    .command = command,
    .started = started,
    .begin = begin,
    .line = claude_line,
    .exited = exited,
    .interrupt = interrupt,
    .timer = timer,
};
