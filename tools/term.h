/* SPDX-License-Identifier: MPL-2.0 */
/* The terminal: text as it comes on standard output, notes and one status line on standard error, and Ctrl-C.
 *
 * While it is started a thread of its own redraws the status line, waits for SIGINT (which says where the job goes on
 * and ends the program) and keeps the deadline.  Start and stop are for the main thread, the others for any. */
#ifndef TOOLS_TERM_H
#define TOOLS_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct term;

/* `status`: draw the status line when standard error is a terminal.  `deadline_ms`: how long to wait before the program
 * ends with EXIT_TIMEOUT; 0: for ever.  Call before any other thread is started: they must not take SIGINT. */
struct term *term_start(bool status, int64_t deadline_ms);
/* Clear the status line, end an open line of text and give Ctrl-C back. */
void term_stop(struct term **term_p);

/* The job that Ctrl-C and the deadline tell about. */
void term_job(struct term *term, const char *id);
/* Ctrl-C tells this instead, where somebody looks; "" nothing. */
void term_hint(struct term *term, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What the status line says, besides the time. */
void term_label(struct term *term, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* That nobody reads the output any more is no failure: the program ends with EXIT_DONE. */
void term_may_end(struct term *term);
/* A piece of text on standard output, flushed. */
void term_text(struct term *term, const char *text, size_t size);
/* Take the status line away for what is printed past this module. */
void term_clear(struct term *term);
/* One line on standard error. */
void term_note(struct term *term, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Print; to a terminal without the control characters that could change or fake what it shows. */
void term_print_safe(FILE *file, const char *text, size_t size);
/* Append "850 ms", "4.2 s", "30 s", "2m 05s", "3h 10m" to `out`. */
void term_span(char *out, size_t size, int64_t span_ms);
/* "2024-01-31 12:00:05", local time; "-" for a time before 1. */
void term_time(char *out, size_t size, int64_t unix_ms);

#endif
