/* SPDX-License-Identifier: MPL-2.0 */
/* Small files of the data folder for programs on this machine: where the server is, and the first key.
 *
 * Readable by their owner only; whole or not there.  Any thread, one at a time for a file. */
#ifndef DATA_FILE_H
#define DATA_FILE_H

#include "actors/muster_snapshots.h"

#define DATA_FILE_ADMIN_KEY "admin.key"

/* MUSTER_STORAGE_ERROR. */
muster_err data_file_write(const char *data, const char *name, const char *text);
/* Does admin.key hold the text of the key with this id?  False also when there is no such file. */
bool data_file_has_key(const char *data, const struct muster_keys *keys, const struct muster_id *id, int64_t now_ms);

#endif
