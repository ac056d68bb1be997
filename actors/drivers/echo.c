/* SPDX-License-Identifier: MPL-2.0 */
/* echo: answers with the prompt; no process.
 *
 * A prompt may begin with script words, separated by blanks; what follows them is the text:
 *
 *   @chunks=N          give the answer in N pieces (1)
 *   @delay=DURATION    wait before the first piece
 *   @gap=DURATION      wait between pieces
 *   @tool=NAME[:JSON]  use a tool before the text; the JSON has no blanks; may be repeated
 *   @progress=N/TOTAL  say how far it is behind the first piece; may be repeated: behind the second, and so on;
 *                      what is left is said behind the last
 *   @fail=CODE[:N]     fail after the delay, with N only in the first N attempts of the job
 *   @size=BYTES        answer with so many 'x' instead of the text
 *   @hang              say nothing more until interrupted
 *   @cost=USD          report this price
 *   @tokens=N          report so many tokens written
 *   @@                 one '@'; all that follows is text
 *
 * A word that is none of these, or has a value it cannot have, begins the text.  Usage counts words as tokens.
 * Agent actor's thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/drivers/share.h"
#include "schemas/muster_options.h"

#define CHUNKS_MAX 1000000
#define SIZE_MAX_BYTES 67108864
#define VALUE_MAX 16384
#define PROGRESS_MAX 100
#define STEPS_MAX 1000000000

struct script {
    int64_t chunks, delay_ms, gap_ms, tokens, fail_times;
    int64_t size; /* of an answer of 'x'; -1: the text */
    muster_err fail;
    bool hang;
    double cost_usd;
    struct job_progress progress[PROGRESS_MAX]; /* in the order in which they are said */
    size_t progress_count;
};

struct echo {
    const struct driver_host *host; /* borrowed; outlives us */
    struct script script;           /* of this turn */
    char *answer;
    size_t answer_size;
    size_t said;     /* bytes of it given already */
    int64_t pieces;  /* given already */
    size_t progress; /* said already */
    int64_t words;   /* of the prompt */
    int64_t attempt; /* of the turn's job */
    int64_t tools;   /* used in this turn */
    bool busy;       /* in a turn */
};

static void
init(void *driver, const struct driver_host *host)
{
    struct echo *self = driver;

    self->host = host;
}

static void
fini(void *driver)
{
    struct echo *self = driver;

    free(self->answer);
}

/* ---- script words --------------------------------------------------------------------------------------------------
 */

static bool
read_number(const char *value, int64_t hi, int64_t *out)
{
    char *end;
    long long number;

    if (*value < '0' || *value > '9')
        return false;
    number = strtoll(value, &end, 10);
    if (*end || number > hi)
        return false;
    *out = number;
    return true;
}

static bool
word_chunks(struct echo *self, char *value)
{
    return read_number(value, CHUNKS_MAX, &self->script.chunks);
}

static bool
word_delay(struct echo *self, char *value)
{
    return muster_duration_parse(value, &self->script.delay_ms) == MUSTER_OK;
}

static bool
word_gap(struct echo *self, char *value)
{
    return muster_duration_parse(value, &self->script.gap_ms) == MUSTER_OK;
}

static bool
word_tool(struct echo *self, char *value)
{
    char *colon = strchr(value, ':');
    json_t *input = NULL;
    char id[32];

    if (colon) {
        if (!muster_json_shallow(colon + 1, strlen(colon + 1)))
            return false;
        input = json_loads(colon + 1, 0, NULL);
        if (!input)
            return false;
        *colon = '\0';
    }
    if (*value) {
        snprintf(id, sizeof(id), "echo-%lld", (long long)++self->tools);
        driver_tool_use(self->host, value, id, input);
    }
    json_decref(input);
    return *value != '\0';
}

static bool
word_progress(struct echo *self, char *value)
{
    char *slash = strchr(value, '/');
    struct job_progress progress = {0};

    if (!slash || self->script.progress_count == PROGRESS_MAX)
        return false;
    *slash = '\0';
    if (!read_number(slash + 1, STEPS_MAX, &progress.total) || !read_number(value, progress.total, &progress.current) ||
        !progress.total)
        return false;
    self->script.progress[self->script.progress_count++] = progress;
    return true;
}

static bool
word_fail(struct echo *self, char *value)
{
    char *colon = strchr(value, ':');
    int64_t times = INT64_MAX;
    muster_err err;

    if (colon) {
        *colon = '\0';
        if (!read_number(colon + 1, INT64_MAX, &times))
            return false;
    }
    err = muster_err_from_code(value);
    if (err == MUSTER_OK || (err == MUSTER_INTERNAL_ERROR && strcmp(value, muster_err_code(err))))
        return false;
    self->script.fail = err;
    self->script.fail_times = times;
    return true;
}

static bool
word_size(struct echo *self, char *value)
{
    int64_t size;

    if (muster_size_parse(value, &size) || size < 0 || size > SIZE_MAX_BYTES)
        return false;
    self->script.size = size;
    return true;
}

static bool
word_hang(struct echo *self, char *value)
{
    (void)value;
    self->script.hang = true;
    return true;
}

static bool
word_cost(struct echo *self, char *value)
{
    char *end;
    double cost = strtod(value, &end);

    if (end == value || *end || !isfinite(cost) || cost < 0)
        return false;
    self->script.cost_usd = cost;
    return true;
}

static bool
word_tokens(struct echo *self, char *value)
{
    return read_number(value, INT64_MAX, &self->script.tokens);
}

static const struct {
    const char *name;
    bool (*read)(struct echo *self, char *value);
} words[] = {
    {"@chunks=", word_chunks}, {"@delay=", word_delay},       {"@gap=", word_gap},  {"@tool=", word_tool},
    {"@fail=", word_fail},     {"@size=", word_size},         {"@hang", word_hang}, {"@cost=", word_cost},
    {"@tokens=", word_tokens}, {"@progress=", word_progress},
};

/* Take one script word of `size` bytes; false when it is none. */
static bool
take_word(struct echo *self, const char *word, size_t size)
{
    char value[VALUE_MAX];
    size_t i, name_size;

    for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        name_size = strlen(words[i].name);
        if (size < name_size || strncmp(word, words[i].name, name_size) || size - name_size >= sizeof(value))
            continue;
        if (words[i].name[name_size - 1] != '=' && size != name_size)
            continue;
        memcpy(value, word + name_size, size - name_size);
        value[size - name_size] = '\0';
        return words[i].read(self, value);
    }
    return false;
}

/* Read the script at the beginning of the prompt; returns the text behind it. */
static const char *
read_script(struct echo *self, const char *prompt)
{
    static const char blanks[] = " \t\r\n";
    size_t size;

    self->script = (struct script){.chunks = 1, .tokens = -1, .size = -1};
    while (prompt[0] == '@' && prompt[1] != '@') {
        size = strcspn(prompt, blanks);
        if (!take_word(self, prompt, size))
            return prompt;
        prompt += size;
        prompt += strspn(prompt, blanks);
    }
    return prompt[0] == '@' ? prompt + 1 : prompt;
}

/* ---- a turn ---------------------------------------------------------------------------------------------------------
 */

static int64_t
count_words(const char *text)
{
    static const char blanks[] = " \t\r\n";
    int64_t count = 0;

    for (text += strspn(text, blanks); *text; text += strspn(text, blanks)) {
        text += strcspn(text, blanks);
        count++;
    }
    return count;
}

static void
finish(struct echo *self, muster_err err, const char *text, size_t size)
{
    struct driver_outcome outcome = {.err = err, .text = text, .text_size = size};

    outcome.usage = (struct usage){.input_tokens = self->words, .turns = 1, .cost_usd = self->script.cost_usd};
    outcome.usage.output_tokens = self->script.tokens;
    if (self->script.tokens < 0)
        outcome.usage.output_tokens = err == MUSTER_OK ? count_words(self->answer) : 0;
    self->busy = false;
    self->host->done(self->host->self, &outcome);
}

static void
fail(struct echo *self, muster_err err)
{
    finish(self, err, muster_err_text(err), strlen(muster_err_text(err)));
}

/* Give the next piece; false when the answer is complete. */
static bool
say_piece(struct echo *self)
{
    size_t left = self->answer_size - self->said;
    int64_t pieces_left = self->script.chunks - self->pieces;
    size_t size = pieces_left > 1 ? left / (size_t)pieces_left : left;

    if (!left)
        return false;
    size = driver_text_cut(self->answer + self->said, left, size ? size : 1);
    while (!size || (size < left && ((unsigned char)self->answer[self->said + size] & 0xC0) == 0x80))
        size++;
    self->host->chunk(self->host->self, self->answer + self->said, size);
    self->said += size;
    self->pieces++;
    return self->said < self->answer_size;
}

/* Say the next progress there is; with `all` all that are left. */
static void
say_progress(struct echo *self, bool all)
{
    bool more = self->progress < self->script.progress_count;

    for (; more; more = all && self->progress < self->script.progress_count)
        self->host->event(self->host->self, &job_progress_type, &self->script.progress[self->progress++]);
}

/* Go on until there is something to wait for. */
static void
go_on(struct echo *self)
{
    bool more;

    if (self->script.fail && self->attempt <= self->script.fail_times) {
        fail(self, self->script.fail);
        return;
    }
    do {
        more = say_piece(self);
        say_progress(self, !more);
    } while (more && !self->script.gap_ms);
    if (more)
        self->host->timer(self->host->self, self->script.gap_ms);
    else if (!self->script.hang)
        finish(self, MUSTER_OK, self->answer, self->answer_size);
}

static void
begin(void *driver, const struct driver_turn *turn)
{
    struct echo *self = driver;
    const char *text;

    self->busy = true;
    self->said = 0;
    self->pieces = 0;
    self->progress = 0;
    self->tools = 0;
    self->attempt = turn->attempt;
    text = read_script(self, turn->prompt);
    self->words = count_words(text);
    free(self->answer);
    self->answer_size = self->script.size >= 0 ? (size_t)self->script.size : strlen(text);
    self->answer = muster_alloc(self->answer_size + 1);
    if (self->script.size >= 0)
        memset(self->answer, 'x', self->answer_size);
    else
        memcpy(self->answer, text, self->answer_size);
    if (self->script.delay_ms)
        self->host->timer(self->host->self, self->script.delay_ms);
    else
        go_on(self);
}

static void
interrupt(void *driver)
{
    struct echo *self = driver;

    if (self->busy)
        fail(self, MUSTER_CANCELLED);
}

static void
timer(void *driver)
{
    struct echo *self = driver;

    if (self->busy)
        go_on(self);
}

const struct driver driver_echo = {
    .name = "echo",
    .size = sizeof(struct echo),
    .init = init,
    .fini = fini,
    .begin = begin,
    .interrupt = interrupt,
    .timer = timer,
};
