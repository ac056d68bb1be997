/* SPDX-License-Identifier: MPL-2.0 */
/* worker_mail: messages of the link to the actors of its worker, in order, however full their mailboxes are.  The
 * link's thread; nothing fails.  An actor that is not there says queue.ready when it is. */
#include <stdlib.h>

#include "api/worker_inside.h"

enum { MAIL_MS = 5 };

static void on_mail_timer(void *arg);

static void
push_mail(struct worker_link *link)
{
    struct worker_mail *mail;
    struct muster_buf copy = {0};

    while ((mail = link->mail)) {
        muster_buf_add(&copy, mail->frame.data, mail->frame.size);
        if (muster_post_send(muster_loop_post(link->loop), mail->to, &copy) == MUSTER_OVERLOADED)
            break;
        link->mail = mail->next;
        muster_buf_free(&mail->frame);
        free(mail->to);
        free(mail);
    }
    if (link->mail == NULL)
        link->mail_last = &link->mail;
    else if (link->mail_timer == 0)
        link->mail_timer = muster_loop_timer(link->loop, MAIL_MS, on_mail_timer, link);
}

static void
on_mail_timer(void *arg)
{
    struct worker_link *link = arg;

    link->mail_timer = 0;
    push_mail(link);
}

void
worker_tell(struct worker_link *link, const char *to, const struct muster_envelope *envelope,
            const struct muster_type *type, const void *body)
{
    struct worker_mail *mail = muster_alloc(sizeof *mail);

    mail->to = muster_strdup(to);
    if (type)
        muster_envelope_pack(envelope, type, body, &mail->frame);
    else
        muster_envelope_wrap(envelope, &mail->frame);
    *link->mail_last = mail;
    link->mail_last = &mail->next;
    push_mail(link);
}

void
worker_tell_parcels(struct worker_link *link, const char *reply_to, const struct muster_type *type, const void *body)
{
    struct muster_envelope envelope = {.reply_to = reply_to, .trace = "", .principal.name = ""};

    worker_tell(link, MUSTER_LOG, &envelope, type, body);
}

void
worker_mail_free(struct worker_link *link)
{
    struct worker_mail *mail;

    while ((mail = link->mail)) {
        link->mail = mail->next;
        muster_buf_free(&mail->frame);
        free(mail->to);
        free(mail);
    }
}
