/* SPDX-License-Identifier: MPL-2.0 */
/* journal: lines for people and their tools.  Any thread.
 *
 * A write(2) a line was an eighth of a cheap request, so lines that come within PAUSE_NS of the last write are gathered
 * and written together, by a thread that is there from the first such line on. */
#include "actors/muster_journal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schemas/muster_codec.h"
#include "transport/muster_loop.h"

#define PAUSE_NS 2000000
#define PENDING_BYTES 65536 /* from then on whoever adds a line writes */

struct muster_journal {
    int fd;
    bool json;
    enum log_level level;
    pthread_mutex_t writing; /* guards the descriptor and `out`; taken before `lock` */
    struct muster_buf out;   /* what is being written */
    pthread_mutex_t lock;    /* guards what follows */
    struct muster_buf pending;
    int64_t written_ns; /* when the last write began */
    pthread_cond_t wake;
    bool has_writer, writer_sleeps, ends;
    pthread_t writer;
};

/* ---- writing ---- */

/* After a write that failed: is it to be tried again?  Whoever shares the descriptor may have made it non-blocking. */
static bool
waits_for_room(int fd)
{
    struct pollfd room = {.fd = fd, .events = POLLOUT};

    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return poll(&room, 1, -1) >= 0 || errno == EINTR;
    return errno == EINTR;
}

static void
flush(struct muster_journal *journal)
{
    struct muster_buf empty;
    size_t done = 0;

    pthread_mutex_lock(&journal->writing);
    empty = journal->out;
    pthread_mutex_lock(&journal->lock);
    journal->out = journal->pending;
    journal->pending = empty;
    journal->written_ns = muster_uptime_ns();
    pthread_mutex_unlock(&journal->lock);
    while (done < journal->out.size) {
        ssize_t sent = write(journal->fd, journal->out.data + done, journal->out.size - done);

        if (sent > 0)
            done += (size_t)sent;
        else if (sent == 0 || !waits_for_room(journal->fd))
            break; /* nobody reads the log any more; the work goes on */
    }
    muster_buf_clear(&journal->out);
    pthread_mutex_unlock(&journal->writing);
}

static void *
write_gathered(void *arg)
{
    static const struct timespec pause = {.tv_nsec = PAUSE_NS};
    struct muster_journal *journal = arg;
    bool ends = false;

    muster_signals_block();
    while (!ends) {
        pthread_mutex_lock(&journal->lock);
        while (journal->pending.size == 0 && !journal->ends) {
            journal->writer_sleeps = true;
            pthread_cond_wait(&journal->wake, &journal->lock);
            journal->writer_sleeps = false;
        }
        ends = journal->ends;
        pthread_mutex_unlock(&journal->lock);
        if (!ends)
            (void)nanosleep(&pause, NULL);
        flush(journal);
    }
    return NULL;
}

/* Under the lock.  False: there can be none. */
static bool
has_writer(struct muster_journal *journal)
{
    if (!journal->has_writer)
        journal->has_writer = pthread_create(&journal->writer, NULL, write_gathered, journal) == 0;
    return journal->has_writer;
}

static void
add_line(struct muster_journal *journal, const struct muster_buf *line, bool at_once)
{
    int64_t now_ns = muster_uptime_ns();

    pthread_mutex_lock(&journal->lock);
    muster_buf_add(&journal->pending, line->data, line->size);
    at_once = at_once || now_ns - journal->written_ns >= PAUSE_NS || journal->pending.size >= PENDING_BYTES ||
              !has_writer(journal);
    if (!at_once && journal->writer_sleeps)
        pthread_cond_signal(&journal->wake);
    pthread_mutex_unlock(&journal->lock);
    if (at_once)
        flush(journal);
}

/* ---- birth and death ---- */

struct muster_journal *
muster_journal_new(int fd, const struct log_options *options)
{
    struct muster_journal *journal = muster_alloc(sizeof *journal);

    pthread_mutex_init(&journal->writing, NULL);
    pthread_mutex_init(&journal->lock, NULL);
    pthread_cond_init(&journal->wake, NULL);
    journal->written_ns = INT64_MIN / 2;
    journal->fd = fd;
    journal->level = options->level;
    journal->json = options->format == log_format_JSON || (options->format == log_format_AUTO && !isatty(fd));
    return journal;
}

void
muster_journal_free(struct muster_journal **journal_p)
{
    struct muster_journal *journal = *journal_p;

    if (journal == NULL)
        return;
    *journal_p = NULL;
    pthread_mutex_lock(&journal->lock);
    journal->ends = true;
    pthread_cond_signal(&journal->wake);
    pthread_mutex_unlock(&journal->lock);
    if (journal->has_writer)
        pthread_join(journal->writer, NULL);
    flush(journal);
    muster_buf_free(&journal->pending);
    muster_buf_free(&journal->out);
    pthread_cond_destroy(&journal->wake);
    pthread_mutex_destroy(&journal->lock);
    pthread_mutex_destroy(&journal->writing);
    free(journal);
}

/* ---- lines ---- */

/* Names are our own, of letters and '_'. */
static void
add_name(struct muster_buf *line, bool json, const char *name)
{
    muster_buf_str(line, json ? ",\"" : " ");
    muster_buf_str(line, name);
    muster_buf_str(line, json ? "\":" : "=");
}

/* A value that has blanks or quotes is quoted as in JSON, so that a line stays one line. */
static void
add_text(struct muster_buf *line, bool json, const char *text)
{
    if (!json && *text != '\0' && strpbrk(text, " \t\r\n\"\\=") == NULL)
        muster_utf8_clean(line, text, strlen(text));
    else
        muster_json_quote(line, text, strlen(text));
}

static void
add_say(struct muster_buf *line, bool json, const struct muster_say *say)
{
    add_name(line, json, say->name);
    if (say->text)
        add_text(line, json, say->text);
    else
        muster_buf_int(line, say->number);
}

/* When, what weight, which id, and the message. */
static void
add_head(struct muster_buf *line, bool json, enum log_level level, const char *id, const char *message)
{
    const char *weight = muster_enum_wire(&log_level_enum, (int)level);

    muster_buf_str(line, json ? "{\"time\":\"" : "");
    muster_buf_time(line, muster_clock_ms());
    if (!json) {
        muster_buf_printf(line, " %-7s %s: %s", weight, id, message);
        return;
    }
    muster_buf_str(line, "\",\"level\":\"");
    muster_buf_str(line, weight);
    muster_buf_str(line, "\",\"id\":\"");
    muster_buf_str(line, id);
    muster_buf_str(line, "\",\"message\":");
    muster_json_quote(line, message, strlen(message));
}

void
muster_journal_write(struct muster_journal *journal, enum log_level level, const char *id, const char *message,
                     const struct muster_say *says, size_t count)
{
    struct muster_buf line = {0};
    size_t i;

    if (level < journal->level)
        return;
    add_head(&line, journal->json, level, id, message);
    for (i = 0; i < count; i++)
        add_say(&line, journal->json, &says[i]);
    muster_buf_str(&line, journal->json ? "}\n" : "\n");
    add_line(journal, &line, level >= log_level_WARNING);
    muster_buf_free(&line);
}
