/* SPDX-License-Identifier: MPL-2.0 */
/* What drivers share.  Agent actor's thread.  Text of agents comes in any length and is cut to what the rows of
 * events.def take; nothing here fails. */
#include "actors/drivers/share.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

const char *
driver_program(const struct team_options *team, const char *otherwise)
{
    const char *slash;

    if (!team->command.count)
        return otherwise;
    slash = strrchr(team->command.items[0], '/');
    return slash ? slash + 1 : team->command.items[0];
}

void
driver_exit_text(const char *program, int status, const char *last_words, struct muster_buf *out)
{
    size_t size = last_words ? strlen(last_words) : 0;

    while (size && strchr(" \t\r\n", last_words[size - 1]))
        size--;
    if (WIFSIGNALED(status))
        muster_buf_printf(out, "%s was ended by signal %d", program, WTERMSIG(status));
    else
        muster_buf_printf(out, "%s exited with status %d", program, WEXITSTATUS(status));
    if (!size)
        return;
    muster_buf_str(out, ": ");
    muster_buf_add(out, last_words, size);
}

size_t
driver_text_cut(const char *text, size_t size, size_t limit)
{
    if (size <= limit)
        return size;
    size = limit;
    while (size && ((unsigned char)text[size] & 0xC0) == 0x80)
        size--;
    return size;
}

const char *
driver_text_copy(const char *text, char *out, size_t out_size)
{
    size_t size;

    text = text ? text : "";
    size = driver_text_cut(text, strlen(text), out_size - 1);
    memcpy(out, text, size);
    out[size] = '\0';
    return out;
}

bool
driver_path_climbs(const char *path, bool braces)
{
    const char *before = braces ? "/{," : "/", *after = braces ? "/}," : "/", *at = path;

    while ((at = strstr(at, ".."))) {
        if ((at == path || strchr(before, at[-1])) && strchr(after, at[2])) /* which finds the end of the path too */
            return true;
        at += 2;
    }
    return false;
}

const char *
driver_path_inside(const char *path, const char *directory)
{
    size_t size = strlen(directory);

    while (size && directory[size - 1] == '/')
        size--;
    if (strncmp(path, directory, size) || (path[size] && path[size] != '/'))
        return NULL;
    return path[size] ? path + size + 1 : path + size;
}

const char *
driver_json_str(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text ? text : "";
}

bool
driver_json_is(const json_t *object, const char *name, const char *text)
{
    return !strcmp(driver_json_str(object, name), text);
}

/* Compact text of a value, to be freed with free(); NULL when it is longer than an event may hold. */
static char *
json_text(const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

    if (text && strlen(text) <= DRIVER_JSON_MAX)
        return text;
    free(text);
    return NULL;
}

/* The file that a tool was given, under the names that tools have for it. */
static const char *
tool_file(const json_t *input)
{
    static const char *const names[] = {"file_path", "path", "notebook_path"};
    const char *file;
    size_t i;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        file = json_string_value(json_object_get(input, names[i]));
        if (file)
            return file;
    }
    return "";
}

/* `file` from `directory`; NULL when it is not in it, or the directory is the root or not known. */
static const char *
file_inside(const char *file, const char *directory)
{
    const char *rest = NULL;

    if (directory && directory[strspn(directory, "/")])
        rest = driver_path_inside(file, directory);
    return rest && rest[-1] == '/' ? rest : NULL; /* else it is the directory itself */
}

/* The file from the team's directory if it lies there. */
static const char *
team_file(const struct driver_host *host, const char *file)
{
    const char *inside = file_inside(file, host->directory);

    if (!inside)
        inside = file_inside(file, host->team->directory);
    if (!inside || driver_path_climbs(inside, false))
        return file;
    inside += strspn(inside, "/");
    return *inside ? inside : file;
}

void
driver_tool_use(const struct driver_host *host, const char *tool, const char *id, const json_t *input)
{
    char name[DRIVER_NAME_MAX + 1], use[DRIVER_NAME_MAX + 1], file[DRIVER_FILE_MAX + 1];
    char *text = input ? json_text(input) : NULL;
    struct job_tool_use event = {.tool = driver_text_copy(tool && *tool ? tool : "unknown", name, sizeof(name)),
                                 .id = driver_text_copy(id, use, sizeof(use)),
                                 .file = driver_text_copy(team_file(host, tool_file(input)), file, sizeof(file)),
                                 .input = text};

    host->event(host->self, &job_tool_use_type, &event);
    free(text);
}

void
driver_notice(const struct driver_host *host, const char *kind, const char *text, const json_t *data)
{
    char name[129];
    char *json = data ? json_text(data) : NULL;
    struct job_notice event = {
        .kind = driver_text_copy(kind && *kind ? kind : "unknown", name, sizeof(name)), .text = text, .data = json};

    host->event(host->self, &job_notice_type, &event);
    free(json);
}
