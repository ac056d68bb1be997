/* SPDX-License-Identifier: MPL-2.0 */
/* The data folder itself, whatever engine keeps its files there. */
#ifndef STORE_FOLDER_H
#define STORE_FOLDER_H

#include <stddef.h>

#include "schemas/muster_err.h"

/* Make the folder and those above it that are missing.  0, or an errno. */
int folder_make(const char *path);
/* The names of new files must be as durable as what is in them.  0, or an errno. */
int folder_sync(const char *path);
/* Keep other daemons out until *out_fd is closed.  MUSTER_CONFLICT: one has it; MUSTER_STORAGE_FULL,
 * MUSTER_STORAGE_ERROR; `problem` says what to do. */
muster_err folder_lock(const char *path, int *out_fd, char *problem, size_t problem_size);

#endif
