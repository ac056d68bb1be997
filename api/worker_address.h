/* SPDX-License-Identifier: MPL-2.0 */
/* What a worker says of its hub, made ready for a dial.  Any thread. */
#ifndef WORKER_ADDRESS_H
#define WORKER_ADDRESS_H

#include "actors/muster_journal.h"
#include "api/muster.h"
#include "transport/muster_dial.h"

/* Fill the endpoint, the keys and the limits; texts of `address` that are NULL or "" are not given, and its endpoint is
 * borrowed.  *out_api_key (NULL with CURVE) points into `address` or the environment.  A key file that others may read
 * is told to the journal.  MUSTER_INVALID_REQUEST with `problem`, which says what to do. */
muster_err worker_address_read(const struct muster_address *address, struct muster_journal *journal,
                               struct muster_dial_spec *out_spec, const char **out_api_key, char *problem,
                               size_t problem_size);

#endif
