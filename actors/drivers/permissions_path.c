/* SPDX-License-Identifier: MPL-2.0 */
/* Permission rules for files and searches: the spellings of a path, and patterns against them.  What permissions.c says
 * about paths is done here.
 *
 * Any thread.  Looks at symbolic links on disk, nothing else.  Nothing fails: what does not exist keeps its name. */
#include "actors/drivers/permissions.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "actors/drivers/share.h"

/* ---- one path ---- */

/* Bytes of `path` without its last name. */
static size_t
parent_size(const char *path, size_t size)
{
    while (size && path[size - 1] != '/')
        size--;
    return size > 1 ? size - 1 : size;
}

/* The path without empty, "." and ".." segments; the caller frees it. */
static char *
plain_path(const char *path)
{
    char *plain = muster_alloc(strlen(path) + 2);
    size_t used = 0, size;

    for (; *path; path += size) {
        size = strcspn(path, "/");
        if (!size) {
            if (!used)
                plain[used++] = '/';
            size = 1;
        } else if (size == 2 && !strncmp(path, "..", 2)) {
            used = parent_size(plain, used);
        } else if (size != 1 || *path != '.') {
            if (used && plain[used - 1] != '/')
                plain[used++] = '/';
            memcpy(plain + used, path, size);
            used += size;
        }
    }
    plain[used] = '\0';
    return plain;
}

/* `text`, a path from `directory` or the home folder, from the root; the caller frees it. */
static char *
absolute_path(const char *text, const char *directory)
{
    const char *home = getenv("HOME");
    struct muster_buf path = {0};

    if (home && *text == '~' && (!text[1] || text[1] == '/')) {
        muster_buf_str(&path, home);
        text++;
    } else if (*text != '/') {
        muster_buf_str(&path, directory);
        muster_buf_str(&path, "/");
    }
    muster_buf_str(&path, text);
    return muster_buf_take(&path, NULL);
}

/* Is it a symbolic link itself? */
static bool
is_link(const char *path)
{
    struct stat status;

    return !lstat(path, &status) && S_ISLNK(status.st_mode);
}

/* The end of a head of `path` that lies between two others, near their middle; `low` when there is none.  A head ends
 * before a '/' or with the path. */
static size_t
middle_head(const char *path, size_t low, size_t high)
{
    size_t middle = low + (high - low) / 2, end = middle;

    while (end > low && path[end] && path[end] != '/')
        end--;
    if (end == low)
        end = middle + strcspn(path + middle, "/");
    return end < high ? end : low;
}

/* The longest head of `path` that exists, with its links followed; the caller frees it.  NULL: none exists, and
 * *out_size is 0.  Each head of one that exists exists too, so halving finds it.  *out_lost: the next longer head is a
 * link to nothing. */
static char *
real_head(const char *path, size_t size, size_t *out_size, bool *out_lost)
{
    char *head = muster_strdup(path), *found, *real = NULL;
    size_t low = 0, high = size + 1, end = size;

    do {
        head[end] = '\0';
        found = realpath(head, NULL);
        head[end] = path[end];
        if (found) {
            free(real);
            real = found;
            low = end;
        } else {
            high = end;
        }
        end = middle_head(path, low, high);
    } while (end > low);
    if (high <= size)
        head[high] = '\0';
    *out_lost = high <= size && is_link(head);
    *out_size = low;
    free(head);
    return real;
}

/* The path, from the root, with its symbolic links followed, as far as it exists; the caller frees it.  NULL: it leads
 * through a link to nothing. */
static char *
real_path(const char *path)
{
    size_t size = strlen(path), exists = 0;
    struct muster_buf joined = {0};
    char *real = NULL, *whole = NULL;
    bool lost = false;

    if (size < PATH_MAX)
        real = real_head(path, size, &exists, &lost);
    if (!lost) {
        muster_buf_str(&joined, real ? real : "");
        muster_buf_str(&joined, "/");
        muster_buf_str(&joined, path + exists);
        whole = plain_path(joined.data);
    }
    muster_buf_free(&joined);
    free(real);
    return whole;
}

/* ---- the spellings of a path ---- */

/* The path as a folder; the caller frees it. */
static char *
with_slash(const char *path)
{
    struct muster_buf folder = {0};

    muster_buf_str(&folder, path);
    muster_buf_str(&folder, "/");
    return muster_buf_take(&folder, NULL);
}

/* Does a path climb, or is it one that some program expands to a path elsewhere? */
static bool
strays(const char *path)
{
    return *path == '~' || driver_path_climbs(path, true) || strstr(path, "{/") || strstr(path, ",/");
}

/* Does the text of a path mean the same to every program? */
static bool
is_sure(const char *text, const char *directory)
{
    size_t size = strlen(text), root = strlen(directory);

    if (!size || isspace((unsigned char)*text) || isspace((unsigned char)text[size - 1]))
        return false;
    if (!strncmp(text, directory, root) && text[root] == '/')
        text += root;
    return !strays(text);
}

/* Find the spellings of `text`, which counts from the directory of `paths`. */
static void
place_read(struct permission_place *place, const char *text, const struct permission_paths *paths)
{
    char *path;
    size_t i;

    place->text = text;
    place->sure = is_sure(text, paths->directory);
    path = absolute_path(text + strspn(text, " \t\r\n"), paths->real_directory);
    place->spellings[PLACE_CLEAN] = plain_path(path);
    place->spellings[PLACE_REAL] = real_path(path);
    if (driver_path_climbs(path, true))
        place->spellings[PLACE_CLEAN_REAL] = real_path(place->spellings[PLACE_CLEAN]);
    place->dangling = !place->spellings[PLACE_REAL];
    place->text_folder = paths->search ? with_slash(text) : NULL;
    for (i = 0; paths->search && i < PLACE_COUNT; i++)
        if (place->spellings[i])
            place->folders[i] = with_slash(place->spellings[i]);
    free(path);
}

static void
place_free(struct permission_place *place)
{
    size_t i;

    for (i = 0; i < PLACE_COUNT; i++) {
        free(place->spellings[i]);
        free(place->folders[i]);
    }
    free(place->text_folder);
}

/* Find the spellings of the team's directory. */
static void
directory_read(struct permission_paths *paths, const char *directory)
{
    paths->directory = directory && *directory ? directory : ".";
    paths->clean_directory = plain_path(paths->directory);
    paths->real_directory = real_path(paths->directory);
    if (!paths->real_directory)
        paths->real_directory = muster_strdup(paths->clean_directory);
}

void
permission_paths_read(struct permission_paths *paths, const char *directory, const char *text, const char *other,
                      bool search)
{
    struct muster_buf joined = {0};

    paths->search = search;
    directory_read(paths, directory);
    place_read(&paths->places[PLACE_MAIN], text, paths);
    if (!other)
        return;
    place_read(&paths->places[PLACE_OTHER], other, paths);
    muster_buf_printf(&joined, "%s/%s", text, other);
    paths->joined = muster_buf_take(&joined, NULL);
    place_read(&paths->places[PLACE_JOINED], paths->joined, paths);
}

void
permission_paths_free(struct permission_paths *paths)
{
    size_t i;

    for (i = 0; i < PLACES; i++)
        place_free(&paths->places[i]);
    free(paths->joined);
    free(paths->clean_directory);
    free(paths->real_directory);
}

/* ---- patterns against them ---- */

/* The pattern from the root, links in the part before its first special character followed; NULL: they lead to
 * nothing.  The caller frees it. */
static char *
real_pattern(const char *pattern, const char *directory)
{
    size_t size = strcspn(pattern, "*?[\\");
    struct muster_buf out = {0};
    char *head, *path, *real, *whole = NULL;
    const char *at;

    while (pattern[size] && size && pattern[size - 1] != '/')
        size--;
    head = muster_strdup(pattern);
    head[size] = '\0';
    path = absolute_path(head, directory);
    real = real_path(path);
    for (at = real ? real : ""; *at; at++) {
        if (strchr("*?[\\", *at))
            muster_buf_str(&out, "\\");
        muster_buf_add(&out, at, 1);
    }
    if (real) {
        if (pattern[size] && strcmp(real, "/"))
            muster_buf_str(&out, "/");
        muster_buf_str(&out, pattern + size);
        whole = muster_buf_take(&out, NULL);
    }
    free(head);
    free(path);
    free(real);
    return whole;
}

/* `pattern` against a path or the same as a folder, each NULL when there is none. */
static bool
either_matches(const char *pattern, const char *path, const char *folder)
{
    return (path && permission_glob(pattern, path, false)) || (folder && permission_glob(pattern, folder, false));
}

/* `pattern` against one spelling, from the root. */
static bool
whole_matches(const char *pattern, const struct permission_place *place, size_t spelling)
{
    return either_matches(pattern, place->spellings[spelling], place->folders[spelling]);
}

/* `pattern` against one spelling, from `directory`. */
static bool
rest_matches(const char *pattern, const struct permission_place *place, size_t spelling, const char *directory)
{
    const char *path = place->spellings[spelling], *folder = place->folders[spelling];

    path = path ? driver_path_inside(path, directory) : NULL;
    folder = folder ? driver_path_inside(folder, directory) : NULL;
    return either_matches(pattern, path, folder);
}

/* May the pattern of a search, if it has one, only find what lies in the folder that is searched? */
static bool
stays_below(const struct permission_paths *paths)
{
    const struct permission_place *root = &paths->places[PLACE_MAIN], *joined = &paths->places[PLACE_JOINED];
    const char *other = paths->places[PLACE_OTHER].text;

    if (!other)
        return true;
    if (*other == '/' || strays(other) || joined->dangling || root->dangling)
        return false;
    return driver_path_inside(joined->spellings[PLACE_REAL], root->spellings[PLACE_REAL]) != NULL;
}

bool
permission_paths_allowed(const char *pattern, const struct permission_paths *paths)
{
    const struct permission_place *place = &paths->places[PLACE_MAIN];
    char *real;
    bool allowed;

    if (!stays_below(paths) || !place->sure || place->dangling)
        return false;
    if (*pattern != '/')
        return driver_path_inside(place->spellings[PLACE_REAL], paths->real_directory) &&
               (rest_matches(pattern, place, PLACE_CLEAN, paths->clean_directory) ||
                rest_matches(pattern, place, PLACE_CLEAN, paths->real_directory));
    real = real_pattern(pattern, paths->real_directory);
    allowed = whole_matches(pattern, place, PLACE_REAL) || (real && whole_matches(real, place, PLACE_REAL));
    free(real);
    return allowed;
}

/* Does the deny pattern match any spelling?  `real` is the pattern from the root with its links followed, NULL none. */
static bool
place_denied(const char *pattern, const char *real, const struct permission_place *place, const char *directory)
{
    bool denied;
    size_t i;

    if (!place->text)
        return false;
    denied = place->dangling || either_matches(pattern, place->text, place->text_folder);
    for (i = 0; i < PLACE_COUNT && !denied; i++)
        denied = whole_matches(pattern, place, i) || (real && whole_matches(real, place, i)) ||
                 rest_matches(pattern, place, i, directory);
    return denied;
}

bool
permission_paths_denied(const char *pattern, const struct permission_paths *paths)
{
    char *real = real_pattern(pattern, paths->real_directory); /* of a relative pattern too */
    bool denied = false;
    size_t i;

    for (i = 0; i < PLACES && !denied; i++)
        denied = place_denied(pattern, real, &paths->places[i], paths->clean_directory);
    free(real);
    return denied;
}
