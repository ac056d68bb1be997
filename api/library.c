/* SPDX-License-Identifier: MPL-2.0 */
/* library: who is inside a hub, asking its actors, and telling what went wrong.  Any thread.  What can fail: a hub that
 * stops, and whatever an actor refuses. */
#include "api/library.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- who is inside ---- */

struct library *
library_new(const struct muster_house *house)
{
    struct library *library = muster_alloc(sizeof *library);

    library->ways = &library_house_ways;
    library->house = house;
    library->references = 1;
    pthread_mutex_init(&library->lock, NULL);
    pthread_cond_init(&library->quiet, NULL);
    return library;
}

void
library_release(struct library *library)
{
    bool last;

    pthread_mutex_lock(&library->lock);
    last = --library->references == 0;
    pthread_mutex_unlock(&library->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&library->lock);
    pthread_cond_destroy(&library->quiet);
    free(library);
}

void
library_stop(struct library *library)
{
    pthread_mutex_lock(&library->lock);
    library->stopped = true;
    library_follows_wake(library);
    while (library->calls > 0)
        pthread_cond_wait(&library->quiet, &library->lock);
    pthread_mutex_unlock(&library->lock);
    library_watch_stop(library);
    library->house = NULL;
}

muster_err
library_enter(struct library *library)
{
    muster_err err = MUSTER_SHUTTING_DOWN;

    pthread_mutex_lock(&library->lock);
    if (!library->stopped) {
        library->calls++;
        err = MUSTER_OK;
    }
    pthread_mutex_unlock(&library->lock);
    return err;
}

void
library_leave(struct library *library)
{
    pthread_mutex_lock(&library->lock);
    if (--library->calls == 0)
        pthread_cond_broadcast(&library->quiet);
    pthread_mutex_unlock(&library->lock);
}

/* ---- telling what went wrong ---- */

const char *
library_told(muster_err err, char *problem, size_t problem_size)
{
    if (err == MUSTER_OK)
        return NULL;
    if (problem && problem_size > 0 && problem[0] == '\0')
        snprintf(problem, problem_size, "%s", muster_err_text(err));
    return muster_err_code(err);
}

void
library_problem(char *problem, size_t problem_size, const char *format, ...)
{
    va_list args;

    if (problem == NULL || problem_size == 0)
        return;
    va_start(args, format);
    vsnprintf(problem, problem_size, format, args);
    va_end(args);
}

const char *
muster_code_text(const char *code)
{
    return code ? muster_err_text(muster_err_from_code(code)) : "";
}

/* ---- asking an actor ---- */

static muster_err
open_failed(const struct muster_envelope *envelope, struct muster_arena *arena, char *problem, size_t problem_size)
{
    struct failed failed;
    muster_err err;

    if (muster_unpack(&failed_type, envelope->body.data, envelope->body.size, arena, &failed, NULL))
        return MUSTER_INTERNAL_ERROR;
    err = muster_err_from_code(failed.code);
    if (failed.message && *failed.message)
        library_problem(problem, problem_size, "%s", failed.message);
    return err == MUSTER_OK ? MUSTER_INTERNAL_ERROR : err;
}

muster_err
library_answer(const void *data, size_t size, const struct muster_type *answer, struct muster_arena *arena, void *out,
               char *problem, size_t problem_size)
{
    struct muster_envelope envelope;

    if (muster_envelope_unpack(data, size, arena, &envelope))
        return MUSTER_INTERNAL_ERROR;
    if (strcmp(envelope.type, failed_type.wire) == 0)
        return open_failed(&envelope, arena, problem, problem_size);
    if (strcmp(envelope.type, answer->wire) != 0 ||
        muster_unpack(answer, envelope.body.data, envelope.body.size, arena, out, NULL))
        return MUSTER_INTERNAL_ERROR;
    return MUSTER_OK;
}

muster_err
library_ask(const struct muster_house *house, const char *to, const struct muster_type *type, const void *body,
            const struct muster_type *answer, struct muster_arena *arena, void *out, char *problem, size_t problem_size)
{
    struct muster_envelope envelope = {.id = 1, .trace = "", .principal.name = ""};
    struct muster_frame frame = {0};
    struct muster_buf packed = {0};
    struct muster_post *post;
    muster_err err = muster_post_open(house->bus, NULL, 4, &post);

    if (err)
        return MUSTER_OVERLOADED;
    envelope.reply_to = muster_post_address(post);
    envelope.deadline_ms = muster_clock_ms() + LIBRARY_CALL_MS;
    muster_envelope_pack(&envelope, type, body, &packed);
    err = muster_post_send(post, to, &packed) ? MUSTER_OVERLOADED
                                              : muster_post_receive(post, LIBRARY_CALL_MS, -1, &frame);
    if (!err)
        err = library_answer(frame.data, frame.size, answer, arena, out, problem, problem_size);
    muster_frame_free(&frame);
    muster_buf_free(&packed);
    muster_post_close(&post);
    return err;
}

/* ---- jobs ---- */

muster_err
library_job_id(const char *text, struct muster_id *out_id)
{
    if (text && (strncmp(text, "msg_", 4) == 0 || strncmp(text, "job_", 4) == 0))
        text += 4;
    return text && muster_id_parse(text, out_id) == MUSTER_OK ? MUSTER_OK : MUSTER_NOT_FOUND;
}

void
library_job_text(const struct muster_id *id, char out_text[MUSTER_JOB_ID])
{
    memcpy(out_text, "msg_", 4);
    muster_id_text(id, out_text + 4);
}
