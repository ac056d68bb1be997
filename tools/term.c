/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of term.h.  One lock guards the struct and both output streams. */
#include "tools/term.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schemas/muster_buf.h"
#include "tools/exits.h"
#include "transport/muster_loop.h"

#define TICK_MS 250

struct term {
    pthread_mutex_t lock;
    pthread_t thread;
    sigset_t old_mask;   /* of the thread that started it */
    bool draws;          /* the status line is wanted and standard error is a terminal */
    bool one_screen;     /* text goes to a terminal too, so that an open line must not be overwritten */
    bool shown;          /* the status line stands there now */
    bool open_line;      /* the last text did not end its line */
    int64_t started_ms;  /* monotonic */
    int64_t deadline_ms; /* monotonic; 0: none */
    char job[96];        /* "" not known yet */
    char hint[160];      /* told in place of the job */
    bool hints;          /* there is one, though it may be "" */
    bool may_end;        /* when nobody reads any more */
    char label[96];
};

static int64_t
now_ms(void)
{
    return muster_uptime_ns() / 1000000;
}

/* ---- printing ---- */

/* Bytes of the control character at `at`: C0 without tab and line feed, DEL, and C1 in UTF-8; 0: it is none. */
static size_t
control_size(const char *at, size_t left)
{
    unsigned char first = (unsigned char)*at;

    if ((first < ' ' && first != '\n' && first != '\t') || first == 0x7f)
        return 1;
    if (first == 0xc2 && left > 1 && (unsigned char)at[1] >= 0x80 && (unsigned char)at[1] <= 0x9f)
        return 2;
    return 0;
}

void
term_print_safe(FILE *file, const char *text, size_t size)
{
    size_t at = 0;
    size_t from = 0;
    size_t control;

    if (isatty(fileno(file))) {
        while (at < size) {
            control = control_size(text + at, size - at);
            if (control > 0) {
                fwrite(text + from, 1, at - from, file);
                from = at + control;
            }
            at += control ? control : 1;
        }
    }
    if (from < size)
        fwrite(text + from, 1, size - from, file);
}

void
term_span(char *out, size_t size, int64_t span_ms)
{
    int64_t seconds = span_ms / 1000;

    if (span_ms < 1000)
        snprintf(out, size, "%" PRId64 " ms", span_ms < 0 ? 0 : span_ms);
    else if (seconds < 60 && span_ms % 1000 >= 100)
        snprintf(out, size, "%" PRId64 ".%" PRId64 " s", seconds, span_ms % 1000 / 100);
    else if (seconds < 60)
        snprintf(out, size, "%" PRId64 " s", seconds);
    else if (seconds < 3600)
        snprintf(out, size, "%" PRId64 "m %02" PRId64 "s", seconds / 60, seconds % 60);
    else
        snprintf(out, size, "%" PRId64 "h %02" PRId64 "m", seconds / 3600, seconds % 3600 / 60);
}

void
term_time(char *out, size_t size, int64_t unix_ms)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm local;

    if (unix_ms < 1 || !localtime_r(&seconds, &local) || strftime(out, size, "%Y-%m-%d %H:%M:%S", &local) == 0)
        snprintf(out, size, "-");
}

/* ---- the status line, all under the lock ---- */

static void
erase_status(struct term *term)
{
    if (!term->shown)
        return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    term->shown = false;
}

static void
draw_status(struct term *term)
{
    int64_t elapsed_ms;
    char span[32];

    if (!term->draws || (term->one_screen && term->open_line))
        return;
    elapsed_ms = (now_ms() - term->started_ms) / 1000 * 1000;
    if (elapsed_ms == 0) /* a line for what is over at once only flickers */
        return;
    term_span(span, sizeof span, elapsed_ms);
    fputs("\r\033[K", stderr);
    fprintf(stderr, "[%s] ", span);
    term_print_safe(stderr, term->label, strlen(term->label));
    fflush(stderr);
    term->shown = true;
}

static void
end_line(struct term *term)
{
    erase_status(term);
    if (term->open_line) {
        fputc('\n', stdout);
        fflush(stdout);
    }
    term->open_line = false;
}

/* End the program and say where the job goes on.  Somebody who holds the lock because nobody reads our output must not
 * keep us. */
static _Noreturn void
leave(struct term *term, int code, const char *why)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    if (pthread_mutex_timedlock(&term->lock, &until) == 0)
        erase_status(term);
    if (term->open_line && isatty(STDERR_FILENO))
        fputc('\n', stderr);
    if (term->hints && isatty(STDERR_FILENO))
        fprintf(stderr, "muster: %s%s%s\n", why, *term->hint ? "; " : "", term->hint);
    else if (term->hints)
        _exit(code);
    else if (*term->job)
        fprintf(stderr, "muster: %s; it goes on: muster job %s\n", why, term->job);
    else
        fprintf(stderr, "muster: %s; if the server has taken the job, it goes on: muster history --limit 1\n", why);
    _exit(code);
}

void
term_job(struct term *term, const char *id)
{
    pthread_mutex_lock(&term->lock);
    snprintf(term->job, sizeof term->job, "%s", id);
    pthread_mutex_unlock(&term->lock);
}

void
term_hint(struct term *term, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&term->lock);
    va_start(args, format);
    vsnprintf(term->hint, sizeof term->hint, format, args);
    va_end(args);
    term->hints = true;
    pthread_mutex_unlock(&term->lock);
}

void
term_label(struct term *term, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&term->lock);
    va_start(args, format);
    vsnprintf(term->label, sizeof term->label, format, args);
    va_end(args);
    term->label[strcspn(term->label, "\r\n")] = '\0';
    draw_status(term);
    pthread_mutex_unlock(&term->lock);
}

void
term_text(struct term *term, const char *text, size_t size)
{
    bool written;

    if (size == 0)
        return;
    pthread_mutex_lock(&term->lock);
    erase_status(term);
    term_print_safe(stdout, text, size);
    written = fflush(stdout) == 0;
    term->open_line = text[size - 1] != '\n';
    pthread_mutex_unlock(&term->lock);
    if (!written && term->may_end)
        leave(term, EXIT_DONE, "nobody reads the output");
    if (!written) /* nobody reads any more: the same as Ctrl-C */
        leave(term, EXIT_INTERRUPTED, "nobody reads the output");
}

void
term_may_end(struct term *term)
{
    term->may_end = true;
}

void
term_clear(struct term *term)
{
    pthread_mutex_lock(&term->lock);
    erase_status(term);
    term->draws = false;
    pthread_mutex_unlock(&term->lock);
}

void
term_note(struct term *term, const char *format, ...)
{
    struct muster_buf line = {0};
    va_list args;

    va_start(args, format);
    muster_buf_vprintf(&line, format, args);
    va_end(args);
    pthread_mutex_lock(&term->lock);
    if (term->one_screen)
        end_line(term);
    erase_status(term);
    term_print_safe(stderr, line.data, line.size);
    fputc('\n', stderr);
    pthread_mutex_unlock(&term->lock);
    muster_buf_free(&line);
}

/* ---- the thread ---- */

static void *
watch(void *arg)
{
    struct term *term = arg;
    const struct timespec tick = {.tv_nsec = TICK_MS * 1000000L};
    sigset_t set;
    int signal;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    for (;;) {
        signal = sigtimedwait(&set, NULL, &tick);
        if (signal == SIGINT)
            leave(term, EXIT_INTERRUPTED, "interrupted");
        if (signal == SIGUSR1)
            return NULL;
        if (term->deadline_ms && now_ms() >= term->deadline_ms)
            leave(term, EXIT_TIMEOUT, "no answer yet");
        if (pthread_mutex_trylock(&term->lock) != 0)
            continue;
        draw_status(term);
        pthread_mutex_unlock(&term->lock);
    }
}

struct term *
term_start(bool status, int64_t deadline_ms)
{
    struct term *term = muster_alloc(sizeof *term);
    sigset_t set;

    pthread_mutex_init(&term->lock, NULL);
    term->draws = status && isatty(STDERR_FILENO);
    term->one_screen = isatty(STDERR_FILENO) && isatty(STDOUT_FILENO);
    term->started_ms = now_ms();
    term->deadline_ms = deadline_ms > 0 ? term->started_ms + deadline_ms : 0;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, &term->old_mask);
    if (pthread_create(&term->thread, NULL, watch, term) != 0) {
        fputs("muster: cannot start a thread\n", stderr);
        abort();
    }
    return term;
}

void
term_stop(struct term **term_p)
{
    struct term *term = *term_p;

    *term_p = NULL;
    pthread_kill(term->thread, SIGUSR1);
    pthread_join(term->thread, NULL);
    end_line(term);
    pthread_sigmask(SIG_SETMASK, &term->old_mask, NULL);
    pthread_mutex_destroy(&term->lock);
    free(term);
}
