/* SPDX-License-Identifier: MPL-2.0 */
/* Writes and reads small files of the data folder; see data_file.h. */
#include "api/data_file.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

muster_err
data_file_write(const char *data, const char *name, const char *text)
{
    char path[PATH_MAX], temporary[PATH_MAX + 8];
    size_t size = strlen(text);
    bool written;
    int fd;

    snprintf(path, sizeof path, "%s/%s", data, name);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return MUSTER_STORAGE_ERROR;
    written = write(fd, text, size) == (ssize_t)size && fsync(fd) == 0;
    close(fd);
    return written && rename(temporary, path) == 0 ? MUSTER_OK : MUSTER_STORAGE_ERROR;
}

bool
data_file_has_key(const char *data, const struct muster_keys *keys, const struct muster_id *id, int64_t now_ms)
{
    char path[PATH_MAX], text[MUSTER_KEY_TEXT + 2];
    const struct key *key;
    const char *reason;
    ssize_t size;
    int fd;

    snprintf(path, sizeof path, "%s/" DATA_FILE_ADMIN_KEY, data);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size > 0 ? size : 0] = '\0';
    text[strcspn(text, "\r\n")] = '\0';
    return muster_keys_check(keys, text, now_ms, &key, &reason) == MUSTER_OK && muster_id_equal(&key->id, id);
}
