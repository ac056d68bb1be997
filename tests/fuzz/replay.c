/* SPDX-License-Identifier: MPL-2.0 */
/* Runs a fuzz target over every file of the folder given, so that what was found once is tested for ever. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Files are read into memory of exactly their size, so that a sanitizer sees any byte read too many. */
static int
replay_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(size ? size : 1);
    int ok = file != NULL && data != NULL && fread(data, 1, size, file) == size;

    if (ok)
        (void)LLVMFuzzerTestOneInput(data, size);
    else
        (void)fprintf(stderr, "%s: cannot be read\n", path);
    if (file)
        (void)fclose(file);
    free(data);
    return ok;
}

int
main(int argc, char **argv)
{
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    struct dirent *entry;
    struct stat status;
    char path[4096];
    int count = 0, failed = 0;

    if (folder == NULL) {
        (void)fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    while ((entry = readdir(folder)) != NULL) {
        (void)snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        if (stat(path, &status) != 0 || !S_ISREG(status.st_mode))
            continue;
        failed += !replay_file(path, (size_t)status.st_size);
        count++;
    }
    (void)closedir(folder);
    (void)printf("%d files replayed\n", count);
    return count == 0 || failed > 0;
}
