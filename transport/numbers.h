/* SPDX-License-Identifier: MPL-2.0 */
/* A hash table by number instead of by text. */
#ifndef MUSTER_TRANSPORT_NUMBERS_H
#define MUSTER_TRANSPORT_NUMBERS_H

#include <czmq.h>

/* An empty table; a key is its number cast to a pointer, never 0, and nothing is copied or freed. */
zhashx_t *numbers_new(void);

#endif
