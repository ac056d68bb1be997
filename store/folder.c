/* SPDX-License-Identifier: MPL-2.0 */
/* folder: makes the data folder, keeps a second daemon out of it, and makes the names in it durable.  The thread that
 * opens the store. */
#include "store/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schemas/muster_buf.h"

int
folder_make(const char *path)
{
    char *copy = muster_strdup(path);
    char *slash;
    int rc = 0;

    for (slash = strchr(copy + 1, '/'); slash && rc == 0; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            rc = errno;
        *slash = '/';
    }
    if (rc == 0 && mkdir(copy, 0700) != 0 && errno != EEXIST)
        rc = errno;
    free(copy);
    return rc;
}

int
folder_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = 0;

    if (fd < 0)
        return errno;
    if (fsync(fd) != 0 && errno != EINVAL) /* a file system without it */
        rc = errno;
    close(fd);
    return rc;
}

static void
read_owner(int fd, char out_owner[32])
{
    ssize_t size = pread(fd, out_owner, 31, 0);

    out_owner[size > 0 ? size : 0] = '\0';
    out_owner[strcspn(out_owner, "\n")] = '\0';
}

muster_err
folder_lock(const char *path, int *out_fd, char *problem, size_t problem_size)
{
    char name[PATH_MAX], owner[32];
    int fd;

    if ((size_t)snprintf(name, sizeof(name), "%s/lock", path) >= sizeof(name)) {
        snprintf(problem, problem_size, "the name of the data folder is too long");
        return MUSTER_STORAGE_ERROR;
    }
    fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        snprintf(problem, problem_size, "cannot open %s: %s", name, strerror(errno));
        return errno == ENOSPC || errno == EDQUOT ? MUSTER_STORAGE_FULL : MUSTER_STORAGE_ERROR;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) {
            snprintf(problem, problem_size, "cannot lock %s: %s", name, strerror(errno));
            close(fd);
            return MUSTER_STORAGE_ERROR;
        }
        read_owner(fd, owner);
        close(fd);
        snprintf(problem, problem_size, "the data folder %s is in use by another muster (process %s)", path,
                 *owner ? owner : "unknown");
        return MUSTER_CONFLICT;
    }
    /* Only for the message above, so a full disk does not matter. */
    if (ftruncate(fd, 0) == 0)
        (void)dprintf(fd, "%ld\n", (long)getpid());
    *out_fd = fd;
    return MUSTER_OK;
}
