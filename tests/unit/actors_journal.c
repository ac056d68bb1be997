/* SPDX-License-Identifier: MPL-2.0 */
/* The log: whole lines in their order, whoever writes how fast, and which of them are there when. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "actors/muster_journal.h"
#include "schemas/muster_buf.h"

enum { THREADS = 8, LINES = 5000 };

static const struct log_options as_json = {.level = log_level_INFO, .format = log_format_JSON};

struct pipe {
    int ends[2];
    struct muster_buf read;
};

static void
pipe_open(struct pipe *self)
{
    memset(self, 0, sizeof *self);
    cr_assert_eq(pipe(self->ends), 0);
}

/* All that is there now. */
static const char *
pipe_now(struct pipe *self)
{
    char piece[4096];
    ssize_t got;

    cr_assert_eq(fcntl(self->ends[0], F_SETFL, O_NONBLOCK), 0);
    while ((got = read(self->ends[0], piece, sizeof piece)) > 0)
        muster_buf_add(&self->read, piece, (size_t)got);
    return self->read.size > 0 ? self->read.data : "";
}

static void *
read_to_end(void *arg)
{
    struct pipe *self = arg;
    char piece[4096];
    ssize_t got;

    while ((got = read(self->ends[0], piece, sizeof piece)) > 0)
        muster_buf_add(&self->read, piece, (size_t)got);
    return NULL;
}

static void
pipe_close(struct pipe *self)
{
    close(self->ends[0]);
    muster_buf_free(&self->read);
}

struct talker {
    struct muster_journal *journal;
    int64_t number;
};

static void *
talk(void *arg)
{
    const struct talker *talker = arg;

    for (int64_t i = 0; i < LINES; i++)
        muster_journal_say(talker->journal, INFO, "a-line", "Said.", MUSTER_SAY_NUMBER("talker", talker->number),
                           MUSTER_SAY_NUMBER("line", i));
    return NULL;
}

/* Every line of every thread once, whole, and in the order of its thread. */
static void
check_lines(char *text)
{
    int64_t next[THREADS] = {0};
    long long talker, number;
    char *rest = text, *line, *says;
    size_t count = 0;

    while ((line = strsep(&rest, "\n")) != NULL && *line) {
        says = strstr(line, ",\"talker\":");
        cr_assert(line[0] == '{' && says, "not a whole line: %s", line);
        cr_assert_eq(sscanf(says, ",\"talker\":%lld,\"line\":%lld}", &talker, &number), 2, "%s", line);
        cr_assert_eq(number, next[talker], "line %lld of talker %lld came instead of %lld", number, talker,
                     (long long)next[talker]);
        next[talker]++;
        count++;
    }
    cr_assert_eq(count, THREADS * LINES);
}

Test(journal, lines_of_many_threads_come_whole_once_and_in_order)
{
    struct talker talkers[THREADS];
    pthread_t threads[THREADS], reader;
    struct muster_journal *journal;
    struct pipe pipe;

    pipe_open(&pipe);
    journal = muster_journal_new(pipe.ends[1], &as_json);
    cr_assert_eq(pthread_create(&reader, NULL, read_to_end, &pipe), 0);
    for (int64_t i = 0; i < THREADS; i++) {
        talkers[i] = (struct talker){journal, i};
        cr_assert_eq(pthread_create(&threads[i], NULL, talk, &talkers[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    muster_journal_free(&journal);
    close(pipe.ends[1]);
    pthread_join(reader, NULL);
    check_lines(pipe.read.data);
    pipe_close(&pipe);
}

Test(journal, the_first_line_is_there_when_the_call_returns)
{
    struct muster_journal *journal;
    struct pipe pipe;

    pipe_open(&pipe);
    journal = muster_journal_new(pipe.ends[1], &as_json);
    muster_journal_say(journal, INFO, "first", "One.", MUSTER_SAY_NUMBER("n", 1));
    cr_assert(strstr(pipe_now(&pipe), "\"id\":\"first\""));
    muster_journal_free(&journal);
    close(pipe.ends[1]);
    pipe_close(&pipe);
}

Test(journal, a_warning_takes_along_what_was_said_before_it)
{
    struct muster_journal *journal;
    struct pipe pipe;
    const char *text, *last;

    pipe_open(&pipe);
    journal = muster_journal_new(pipe.ends[1], &as_json);
    for (int i = 0; i < 100; i++)
        muster_journal_say(journal, INFO, "before", "One of many.", MUSTER_SAY_NUMBER("n", i));
    muster_journal_say(journal, WARNING, "heavy", "Look here.", MUSTER_SAY_NUMBER("n", 100));
    text = pipe_now(&pipe);
    last = strstr(text, "\"n\":99}");
    cr_assert(last, "what came before it is missing");
    cr_assert(strstr(last, "\"id\":\"heavy\""), "it does not stand behind what came before it");
    muster_journal_free(&journal);
    close(pipe.ends[1]);
    pipe_close(&pipe);
}

Test(journal, lines_that_are_gathered_come_without_a_further_one, .timeout = 20)
{
    struct muster_journal *journal;
    struct pipe pipe;
    char piece[65536];
    struct muster_buf seen = {0};

    pipe_open(&pipe);
    journal = muster_journal_new(pipe.ends[1], &as_json);
    for (int i = 0; i < 100; i++)
        muster_journal_say(journal, INFO, "many", "One of many.", MUSTER_SAY_NUMBER("n", i));
    while (seen.size == 0 || !strstr(seen.data, "\"n\":99}")) {
        ssize_t got = read(pipe.ends[0], piece, sizeof piece);

        cr_assert_gt(got, 0);
        muster_buf_add(&seen, piece, (size_t)got);
    }
    muster_buf_free(&seen);
    muster_journal_free(&journal);
    close(pipe.ends[1]);
    pipe_close(&pipe);
}

Test(journal, a_descriptor_that_does_not_block_loses_nothing)
{
    struct talker talker = {.number = 0};
    struct muster_journal *journal;
    struct pipe pipe;
    pthread_t thread, reader;
    size_t lines = 0, i;

    pipe_open(&pipe);
    cr_assert_eq(fcntl(pipe.ends[1], F_SETFL, O_NONBLOCK), 0);
    journal = talker.journal = muster_journal_new(pipe.ends[1], &as_json);
    cr_assert_eq(pthread_create(&thread, NULL, talk, &talker), 0);
    cr_assert_eq(pthread_create(&reader, NULL, read_to_end, &pipe), 0);
    pthread_join(thread, NULL);
    muster_journal_free(&journal);
    close(pipe.ends[1]);
    pthread_join(reader, NULL);
    for (i = 0; i < pipe.read.size; i++)
        lines += pipe.read.data[i] == '\n';
    cr_assert_eq(lines, LINES);
    cr_assert(strstr(pipe.read.data, "\"line\":4999}"));
    pipe_close(&pipe);
}

Test(journal, what_is_too_light_is_not_written)
{
    struct log_options options = {.level = log_level_ERROR, .format = log_format_JSON};
    struct muster_journal *journal;
    struct pipe pipe;

    pipe_open(&pipe);
    journal = muster_journal_new(pipe.ends[1], &options);
    muster_journal_say(journal, WARNING, "light", "Not heavy enough.", MUSTER_SAY_NUMBER("n", 1));
    muster_journal_free(&journal);
    cr_assert_str_eq(pipe_now(&pipe), "");
    close(pipe.ends[1]);
    pipe_close(&pipe);
}
