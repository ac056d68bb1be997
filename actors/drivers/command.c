/* SPDX-License-Identifier: MPL-2.0 */
/* command: any program, one process a turn.
 *
 * An argument that contains `{prompt}` gets the prompt there, and the program finds its input empty; without such an
 * argument it reads the prompt from its input.  `{model}` is the team's model.  Each line it prints is a chunk, all of
 * its output is the answer, without the newlines at the end.  Exit status 0 completes the turn; any
 * other fails it for good, as the program may have done something already, unless a signal ended it, which a shell says
 * with a status above 128.
 * Agent actor's thread. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "actors/drivers/share.h"

#define PROMPT "{prompt}"
#define MODEL "{model}"

struct command {
    const struct driver_host *host; /* borrowed; outlives us */
    struct muster_buf answer;       /* what it has printed */
    bool over;                      /* the turn has ended; what it prints now is nobody's */
};

static void
init(void *driver, const struct driver_host *host)
{
    struct command *self = driver;

    self->host = host;
}

static void
fini(void *driver)
{
    struct command *self = driver;

    muster_buf_free(&self->answer);
}

/* `text` with every `{prompt}` and `{model}` replaced; what is put in is not looked at again. */
static const char *
filled(const char *text, const char *prompt, const char *model, struct muster_arena *arena)
{
    struct muster_buf out = {0};
    const char *brace, *made;

    while ((brace = strchr(text, '{'))) {
        muster_buf_add(&out, text, (size_t)(brace - text));
        if (!strncmp(brace, PROMPT, strlen(PROMPT))) {
            muster_buf_str(&out, prompt);
            text = brace + strlen(PROMPT);
        } else if (!strncmp(brace, MODEL, strlen(MODEL))) {
            muster_buf_str(&out, model);
            text = brace + strlen(MODEL);
        } else {
            muster_buf_add(&out, brace, 1);
            text = brace + 1;
        }
    }
    muster_buf_str(&out, text);
    made = muster_arena_str(arena, out.data ? out.data : "", out.size);
    muster_buf_free(&out);
    return made;
}

static void
command(void *driver, const char *session, const struct driver_turn *turn, struct muster_arena *arena,
        struct muster_strs *out_argv, struct muster_pairs *out_env)
{
    struct command *self = driver;
    const struct team_options *team = self->host->team;
    const char **argv = muster_arena_alloc(arena, (team->command.count + 1) * sizeof(*argv));
    size_t i;

    (void)session;
    for (i = 0; i < team->command.count; i++)
        argv[i] = filled(team->command.items[i], turn ? turn->prompt : "", team->model ? team->model : "", arena);
    *out_argv = (struct muster_strs){.items = argv, .count = team->command.count};
    *out_env = (struct muster_pairs){0};
}

static bool
takes_prompt_as_argument(const struct team_options *team)
{
    size_t i;

    for (i = 0; i < team->command.count; i++)
        if (strstr(team->command.items[i], PROMPT))
            return true;
    return false;
}

static void
begin(void *driver, const struct driver_turn *turn)
{
    struct command *self = driver;
    const struct driver_host *host = self->host;

    if (!takes_prompt_as_argument(host->team) &&
        host->write(host->self, turn->prompt, strlen(turn->prompt)) == MUSTER_OVERLOADED) {
        host->broken(host->self, "The prompt is larger than the program's input may be.");
        return;
    }
    host->close_input(host->self);
}

static void
finish(struct command *self, muster_err err, const char *text, size_t size, bool final)
{
    struct driver_outcome outcome = {.err = err, .text = text, .text_size = size, .final = final};

    self->over = true;
    self->host->done(self->host->self, &outcome);
}

static void
line(void *driver, const char *text, size_t size)
{
    static const char too_large[] = "The program printed more than an answer may hold.";
    struct command *self = driver;
    const struct driver_host *host = self->host;
    size_t before = self->answer.size;

    if (self->over)
        return;
    if (before + size + 1 > (size_t)host->agents->max_answer + 1) {
        finish(self, MUSTER_OUTPUT_TOO_LARGE, too_large, sizeof(too_large) - 1, true);
        return;
    }
    muster_buf_add(&self->answer, text, size);
    muster_buf_add(&self->answer, "\n", 1);
    host->chunk(host->self, self->answer.data + before, size + 1);
}

static void
exited(void *driver, int status, const char *last_words)
{
    struct command *self = driver;
    struct muster_buf *answer = &self->answer;
    struct muster_buf problem = {0};

    if (self->over)
        return;
    if (WIFEXITED(status) && !WEXITSTATUS(status)) {
        while (answer->size && (answer->data[answer->size - 1] == '\n' || answer->data[answer->size - 1] == '\r'))
            answer->size--;
        finish(self, MUSTER_OK, answer->data ? answer->data : "", answer->size, false);
        return;
    }
    driver_exit_text(driver_program(self->host->team, "program"), status, last_words, &problem);
    finish(self, MUSTER_PROCESS_ERROR, problem.data, problem.size, WIFEXITED(status) && WEXITSTATUS(status) <= 128);
    muster_buf_free(&problem);
}

const struct driver driver_command = {
    .name = "command",
    .has_process = true,
    .process_per_turn = true,
    .size = sizeof(struct command),
    .init = init,
    .fini = fini,
    .command = command,
    .begin = begin,
    .line = line,
    .exited = exited,
};
