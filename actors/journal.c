/* SPDX-License-Identifier: MPL-2.0 */
/* journal: lines for people and their tools.  Any thread; each line is one write(2), so no lock is needed. */
#include "actors/muster_journal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schemas/muster_codec.h"
#include "transport/muster_loop.h"

struct muster_journal {
    int fd;
    bool json;
    enum log_level level;
};

struct muster_journal *
muster_journal_new(int fd, const struct log_options *options)
{
    struct muster_journal *journal = muster_alloc(sizeof *journal);

    journal->fd = fd;
    journal->level = options->level;
    journal->json = options->format == log_format_JSON || (options->format == log_format_AUTO && !isatty(fd));
    return journal;
}

void
muster_journal_free(struct muster_journal **journal_p)
{
    if (*journal_p)
        free(*journal_p);
    *journal_p = NULL;
}

static void
add_time(struct muster_buf *line, int64_t now_ms)
{
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm parts;

    gmtime_r(&seconds, &parts);
    muster_buf_digits(line, parts.tm_year + 1900, 4);
    muster_buf_str(line, "-");
    muster_buf_digits(line, parts.tm_mon + 1, 2);
    muster_buf_str(line, "-");
    muster_buf_digits(line, parts.tm_mday, 2);
    muster_buf_str(line, "T");
    muster_buf_digits(line, parts.tm_hour, 2);
    muster_buf_str(line, ":");
    muster_buf_digits(line, parts.tm_min, 2);
    muster_buf_str(line, ":");
    muster_buf_digits(line, parts.tm_sec, 2);
    muster_buf_str(line, ".");
    muster_buf_digits(line, now_ms % 1000, 3);
    muster_buf_str(line, "Z");
}

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
    add_time(line, muster_clock_ms());
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
    size_t i, done = 0;

    if (level < journal->level)
        return;
    add_head(&line, journal->json, level, id, message);
    for (i = 0; i < count; i++)
        add_say(&line, journal->json, &says[i]);
    muster_buf_str(&line, journal->json ? "}\n" : "\n");
    while (done < line.size) {
        ssize_t sent = write(journal->fd, line.data + done, line.size - done);

        if (sent <= 0)
            break; /* nobody reads the log any more; the work goes on */
        done += (size_t)sent;
    }
    muster_buf_free(&line);
}
