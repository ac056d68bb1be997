/* SPDX-License-Identifier: MPL-2.0 */
/* The dialects of this build.  A new one is a row here. */
#include "api/dialects/iris.h"

const struct http_dialect *const http_dialects[] = {&iris_dialect, &http_webhooks, &http_events, &http_nodes, NULL};
