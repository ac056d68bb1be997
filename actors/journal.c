/* SPDX-License-Identifier: MPL-2.0 */
/* journal: lines for people and their tools.  Any thread; each line is one write(2), so no lock is needed. */
#include "actors/muster_journal.h"

#include <stdio.h>
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
time_text(int64_t now_ms, char out_text[32])
{
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm parts;
    size_t used;

    gmtime_r(&seconds, &parts);
    used = strftime(out_text, 32, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(out_text + used, 32 - used, ".%03dZ", (int)(now_ms % 1000));
}

static void
add_json(struct muster_buf *line, const char *name, const char *text)
{
    muster_buf_str(line, ",");
    muster_json_quote(line, name, strlen(name));
    muster_buf_str(line, ":");
    muster_json_quote(line, text, strlen(text));
}

/* A value that has blanks or quotes is quoted as in JSON, so that a line stays one line. */
static void
add_text(struct muster_buf *line, const char *name, const char *text)
{
    muster_buf_printf(line, " %s=", name);
    if (*text != '\0' && strpbrk(text, " \t\r\n\"\\=") == NULL)
        muster_utf8_clean(line, text, strlen(text));
    else
        muster_json_quote(line, text, strlen(text));
}

static void
add_say(struct muster_buf *line, bool json, const struct muster_say *say)
{
    if (say->text)
        (json ? add_json : add_text)(line, say->name, say->text);
    else
        muster_buf_printf(line, json ? ",\"%s\":%lld" : " %s=%lld", say->name, (long long)say->number);
}

void
muster_journal_write(struct muster_journal *journal, enum log_level level, const char *id, const char *message,
                     const struct muster_say *says, size_t count)
{
    const char *weight = muster_enum_wire(&log_level_enum, (int)level);
    struct muster_buf line = {0};
    char when[32];
    size_t i, done = 0;

    if (level < journal->level)
        return;
    time_text(muster_clock_ms(), when);
    if (journal->json) {
        muster_buf_printf(&line, "{\"time\":\"%s\",\"level\":\"%s\",\"id\":\"%s\"", when, weight, id);
        add_json(&line, "message", message);
    } else {
        muster_buf_printf(&line, "%s %-7s %s: %s", when, weight, id, message);
    }
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
