/* SPDX-License-Identifier: MPL-2.0 */
/* Private to the routes of webhooks: what webhooks.c (which makes and changes them) and webhooks_show.c (which shows
 * them) share.  The connection's thread. */
#ifndef HTTP_WEBHOOKS_H
#define HTTP_WEBHOOKS_H

#include "api/http/gateway.h"

#include "schemas/pass_struct.h"

#include "api/http/webhooks.def"
#include "schemas/pass_end.h"

#include "schemas/pass_extern.h"

#include "api/http/webhooks.def"
#include "schemas/pass_end.h"

/* The webhook with the id in the path, if the key may see it.  False: answered. */
bool webhooks_find(struct http_request *request, struct webhook *out);
/* Answer with the webhook, and with its secret. */
void webhooks_answer(struct http_request *request, int status, const struct webhook *record, bool with_secret);
/* "whsec_..." */
const char *webhooks_secret_text(struct http_request *request, const struct muster_bytes *secret);

void webhooks_handle_list(struct http_request *request);
void webhooks_handle_show(struct http_request *request);

#endif
