/* SPDX-License-Identifier: MPL-2.0 */
/* What the files of the permission rules share: permissions.c has the rules, permissions_command.c the commands of a
 * command line, permissions_path.c the paths of files and searches.
 *
 * Any thread.  Nothing fails.  A structure is zeroed before it is read, borrows the text it was read from, and may be
 * freed without having been read. */
#ifndef DRIVER_PERMISSIONS_H
#define DRIVER_PERMISSIONS_H

#include "actors/drivers/driver.h"

/* The commands that a command line holds. */
struct permission_commands {
    const char *line;   /* borrowed: the command line */
    char *memory[3];    /* owned: what the items point into */
    const char **items; /* owned: what deny patterns are tried on beside the line */
    size_t count, capacity;
    bool deep; /* more programs that run programs than are looked at */
};

enum { PLACE_CLEAN, PLACE_REAL, PLACE_CLEAN_REAL, PLACE_COUNT };

/* One path in the spellings that patterns are tried on. */
struct permission_place {
    const char *text;             /* borrowed: as given; NULL: there is no path */
    char *text_folder;            /* owned: the same with '/' after it; for searches, else NULL */
    char *spellings[PLACE_COUNT]; /* owned: absolute; NULL: none */
    char *folders[PLACE_COUNT];   /* owned: likewise with '/' after it */
    bool sure;                    /* its text means the same to every program */
    bool dangling;                /* leads through a symbolic link to nothing */
};

enum { PLACE_MAIN, PLACE_OTHER, PLACE_JOINED, PLACES };

/* The paths of a file or a search. */
struct permission_paths {
    struct permission_place places[PLACES]; /* main argument, a search's pattern beside it, and both together */
    bool search;                            /* the main argument is searched: it may be a folder */
    char *joined;                           /* owned: text of PLACE_JOINED */
    const char *directory;                  /* borrowed: of the team */
    char *clean_directory;                  /* owned: without '.' and '..' */
    char *real_directory;                   /* owned: with symbolic links followed */
};

/* `pattern` against `text`; `prefix:*` is a prefix, of whole words if `words`. */
bool permission_glob(const char *pattern, const char *text, bool words);

/* Find the commands in `line`, which is borrowed until the free. */
void permission_commands_read(struct permission_commands *commands, const char *line);
/* Release what the read has kept. */
void permission_commands_free(struct permission_commands *commands);
/* Does the allow pattern match the whole line, which then holds one command only? */
bool permission_command_allowed(const char *pattern, const struct permission_commands *commands);
/* Does the deny pattern match the line or any command in it? */
bool permission_command_denied(const char *pattern, const struct permission_commands *commands);

/* Find the spellings of `text` and of `other`, a search's pattern beside it (NULL none), from the team's `directory`
 * (NULL or "": where the process is).  All are borrowed until the free. */
void permission_paths_read(struct permission_paths *paths, const char *directory, const char *text, const char *other,
                           bool search);
/* Release what the read has kept. */
void permission_paths_free(struct permission_paths *paths);
/* Does the allow pattern match the file, or all that the search can find? */
bool permission_paths_allowed(const char *pattern, const struct permission_paths *paths);
/* Does the deny pattern match the file or one of the search's paths in any spelling? */
bool permission_paths_denied(const char *pattern, const struct permission_paths *paths);

#endif
