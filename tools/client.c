/* SPDX-License-Identifier: MPL-2.0 */
/* The functions of client.h.  Main thread. */
#include "tools/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schemas/muster_codec.h"
#include "schemas/muster_options.h"
#include "transport/muster_fetch.h"

#define TEXT_MAX ((size_t)16 << 20)    /* bytes read from standard input */
#define ANSWER_MAX ((size_t)128 << 20) /* bytes of an answer */
#define LINE_MAX_BYTES 4096            /* of the files in the data folder */
#define NUMBER_MAX 9e15                /* whole numbers in JSON are exact up to here */

/* ---- what the command line says ---- */

static bool
is_utf8(const char *text, size_t size)
{
    struct muster_buf clean = {0};
    bool same;

    muster_utf8_clean(&clean, text, size);
    same = clean.size == size && (size == 0 || memcmp(clean.data, text, size) == 0);
    muster_buf_free(&clean);
    return same;
}

static int
check_word(const char *what, const char *text)
{
    if (!text || is_utf8(text, strlen(text)))
        return EXIT_DONE;
    return complain(EXIT_USAGE, "%s is not UTF-8: convert it, for example with iconv", what);
}

/* Names and texts go to the server as they are, or not at all. */
static int
check_words(const struct call *call)
{
    const struct command *command = call->command;
    const char *what = strstr(command->args, "TEAM")           ? "the team's name"
                       : strncmp(command->args, "ID", 2) == 0  ? "the id"
                       : strncmp(command->args, "URL", 3) == 0 ? "the URL"
                                                               : "the name";
    int result = EXIT_DONE;
    int i;

    if (call->arg_count > 0 && !*call->args[0])
        return complain(EXIT_USAGE, "%s is empty: write muster %s %s", what, command->name, command->args);
    for (i = 0; i < call->arg_count && !result; i++)
        result = check_word(i == 0 ? what : "the text", call->args[i]);
    for (i = 0; command->options && command->options[i].name && !result; i++)
        result = check_word(command->options[i].name, call->values[i]);
    return result;
}

/* ---- which server, which key ---- */

const char *
client_data(const struct call *call)
{
    const char *data = call_value(call, "--data");

    if (!data)
        data = getenv("MUSTER_DATA");
    return data && *data ? data : NULL;
}

/* First line of <data>/<name>; NULL when it cannot be read. */
static const char *
read_line(struct muster_arena *arena, const char *data, const char *name)
{
    char line[LINE_MAX_BYTES];
    const char *found = NULL;
    FILE *file = fopen(muster_arena_printf(arena, "%s/%s", data, name), "re");

    if (!file)
        return NULL;
    if (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = '\0';
        if (*line)
            found = muster_arena_str(arena, line, strlen(line));
    }
    fclose(file);
    return found;
}

static const char *
first_given(const char *flag, const char *variable)
{
    const char *value = flag ? flag : getenv(variable);

    return value && *value ? value : NULL;
}

bool
client_is_plain(const char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text <= ' ' || *text == 0x7f)
            return false;
    }
    return true;
}

static const char *
trim_slash(struct muster_arena *arena, const char *url)
{
    size_t size = strlen(url);

    while (size > 0 && url[size - 1] == '/')
        size--;
    return muster_arena_str(arena, url, size);
}

int
client_open(const struct call *call, struct client *out)
{
    struct muster_arena *arena = muster_arena_new();
    const char *data = client_data(call);
    const char *written = read_line(arena, data ? data : CLIENT_DATA_DEFAULT, "url");
    const char *url = first_given(call_value(call, "--url"), "MUSTER_URL");
    const char *key = first_given(call_value(call, "--key"), "MUSTER_API_KEY");

    int result = check_words(call);

    url = trim_slash(arena, url ? url : written ? written : CLIENT_URL_DEFAULT);
    if (!key && (data || (written && strcmp(trim_slash(arena, written), url) == 0)))
        key = read_line(arena, data ? data : CLIENT_DATA_DEFAULT, "admin.key");
    *out = (struct client){.arena = arena, .url = url, .key = key, .json = call_value(call, "--json") != NULL};
    if (result) {
        client_close(out);
        return result;
    }
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0) {
        client_close(out);
        return complain(EXIT_USAGE,
                        "the server's URL begins neither with http:// nor https://: correct --url or MUSTER_URL");
    }
    if (!client_is_plain(url) || (key && !client_is_plain(key))) {
        client_close(out);
        return complain(EXIT_USAGE, "the URL or key has a space or control character: copy it again");
    }
    return EXIT_DONE;
}

void
client_close(struct client *client)
{
    muster_arena_free(&client->arena);
    memset(client, 0, sizeof *client);
}

int
client_run(const struct call *call, int (*run)(const struct client *client, const struct call *call))
{
    struct client client;
    int result = client_open(call, &client);

    if (result)
        return result;
    result = run(&client, call);
    client_close(&client);
    return result;
}

/* ---- a request ---- */

size_t
client_headers(const struct client *client, bool has_body, const char *accept, struct muster_pair *items)
{
    size_t count = 0;

    items[count++] = (struct muster_pair){"Accept", accept};
    items[count++] = (struct muster_pair){"User-Agent", "muster/" MUSTER_VERSION};
    if (client->key)
        items[count++] =
            (struct muster_pair){"Authorization", muster_arena_printf(client->arena, "Bearer %s", client->key)};
    if (has_body)
        items[count++] = (struct muster_pair){"Content-Type", "application/json"};
    if (has_body && client->idempotency_key)
        items[count++] = (struct muster_pair){"Idempotency-Key", client->idempotency_key};
    return count;
}

void
client_send(const struct client *client, const char *method, const char *path, const char *body, int64_t timeout_ms,
            struct client_reply *out)
{
    struct muster_pair headers[CLIENT_HEADERS_MAX];
    struct muster_fetch_spec spec = {
        .method = method,
        .url = muster_arena_printf(client->arena, "%s%s", client->url, path),
        .headers = headers,
        .header_count = client_headers(client, body != NULL, "application/json", headers),
        .body = body,
        .body_size = body ? strlen(body) : 0,
        .timeout_ms = timeout_ms,
        .max_answer = ANSWER_MAX,
        .allow_private = true,
    };

    *out = (struct client_reply){.status = 0};
    out->err = muster_fetch_now(&spec, NULL, NULL, &out->status, &out->body, out->problem, sizeof out->problem);
}

void
client_drop(struct client_reply *reply)
{
    muster_buf_free(&reply->body);
}

int
client_take(const struct client *client, struct client_reply *reply, json_t **out_answer)
{
    json_t *json = NULL;
    int result = EXIT_DONE;

    if (reply->err)
        result = client_unreachable(client, *reply->problem ? reply->problem : muster_err_text(reply->err));
    else if (reply->status < 200 || reply->status > 299)
        result = client_refused(client, reply->status, reply->body.data, reply->body.size);
    else if (reply->body.size > 0 && !(json = json_loadb(reply->body.data, reply->body.size, JSON_DECODE_ANY, NULL)))
        result = complain(EXIT_FAILED, "the answer of %s is not JSON: is it a muster server?", client->url);
    else
        *out_answer = json ? json : json_object();
    client_drop(reply);
    return result;
}

bool
client_is_about(const struct client_reply *reply, const char *field)
{
    json_t *error = reply->body.data ? json_loadb(reply->body.data, reply->body.size, 0, NULL) : NULL;
    bool is = !reply->err && reply->status == 400 &&
              strcmp(json_text(json_object_get(error, "details"), "field"), field) == 0;

    json_decref(error);
    return is;
}

int
client_request(const struct client *client, const char *method, const char *path, const char *body, int64_t timeout_ms,
               json_t **out_answer)
{
    struct client_reply reply;

    client_send(client, method, path, body, timeout_ms, &reply);
    return client_take(client, &reply, out_answer);
}

/* ---- what is sent ---- */

void
url_encode(struct muster_buf *out, const char *text)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (; *text; text++) {
        if (strchr(plain, *text))
            muster_buf_add(out, text, 1);
        else
            muster_buf_printf(out, "%%%02X", (unsigned)(unsigned char)*text);
    }
}

const char *
client_path(const struct client *client, const char *before, const char *part, const char *after)
{
    struct muster_buf path = {0};
    const char *kept;

    muster_buf_str(&path, before);
    url_encode(&path, part);
    muster_buf_str(&path, after);
    kept = muster_arena_str(client->arena, path.data, path.size);
    muster_buf_free(&path);
    return kept;
}

void
client_add_query(struct muster_buf *path, const char *name, const char *value)
{
    if (!value)
        return;
    muster_buf_printf(path, "%c%s=", strchr(path->data, '?') ? '&' : '?', name);
    url_encode(path, value);
}

void
json_put_text(json_t *object, const char *name, const char *text)
{
    json_object_set_new(object, name, json_string(text));
}

const char *
client_body(const struct client *client, json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT | JSON_ENCODE_ANY);
    const char *kept = muster_arena_str(client->arena, text ? text : "{}", text ? strlen(text) : 2);

    free(text);
    json_decref(object);
    return kept;
}

/* Up to its first end: on a terminal that is one Ctrl-D, after which more could still be typed. */
static int
read_input(struct muster_buf *text)
{
    do {
        char *room = muster_buf_room(text, 65536);

        text->size += fread(room, 1, 65536, stdin);
    } while (!feof(stdin) && !ferror(stdin) && text->size <= TEXT_MAX);
    if (ferror(stdin))
        return complain(EXIT_USAGE, "cannot read standard input (%s): give the text as an argument", strerror(errno));
    if (text->size > TEXT_MAX)
        return complain(EXIT_USAGE, "standard input is larger than 16 MiB: send less");
    if (memchr(text->data, '\0', text->size))
        return complain(EXIT_USAGE, "standard input has a NUL byte in it: send text");
    if (!is_utf8(text->data, text->size))
        return complain(EXIT_USAGE, "standard input is not UTF-8: convert it, for example with iconv");
    while (text->size > 0 && text->data[text->size - 1] == '\n')
        text->size--;
    return EXIT_DONE;
}

int
client_text(const struct client *client, const struct call *call, int from, const char **out_text)
{
    struct muster_buf text = {0};
    int result = EXIT_DONE;
    int i;

    if (call->arg_count == from + 1 && strcmp(call->args[from], "-") == 0) {
        result = read_input(&text);
    } else {
        for (i = from; i < call->arg_count; i++)
            muster_buf_printf(&text, "%s%s", i > from ? " " : "", call->args[i]);
    }
    if (!result && text.size == 0)
        result = complain(EXIT_USAGE, "the text is empty: say what the team should do");
    if (!result)
        *out_text = muster_arena_str(client->arena, text.data, text.size);
    muster_buf_free(&text);
    return result;
}

int64_t
client_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

json_t *
json_split(const char *text)
{
    json_t *list = json_array();
    char *copy = muster_strdup(text);
    char *rest = copy;
    char *item;

    while ((item = strsep(&rest, ","))) {
        if (*item)
            json_array_append_new(list, json_string(item));
    }
    free(copy);
    return list;
}

int
client_duration(const struct call *call, const char *option, int64_t *out_ms)
{
    const char *value = call_value(call, option);

    if (!value)
        return EXIT_DONE;
    if (duration_lacks_unit(value))
        return complain(EXIT_USAGE, "%s: write a unit, for example 5s or 5m", option);
    if (muster_duration_parse(value, out_ms) || *out_ms <= 0)
        return complain(EXIT_USAGE, "%s %s is no duration: write for example 250ms, 30s, 5m, 2h or 7d", option, value);
    return EXIT_DONE;
}

int
client_overlap(const struct client *client, const struct call *call, const char **out_body)
{
    int64_t overlap_ms = 0;
    int result = client_duration(call, "--overlap", &overlap_ms);
    json_t *body;

    if (result)
        return result;
    body = json_object();
    if (overlap_ms > 0)
        json_object_set_new(body, "overlap", json_integer(overlap_ms));
    *out_body = client_body(client, body);
    return EXIT_DONE;
}

/* ---- what comes back ---- */

const char *
json_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text ? text : "";
}

int64_t
json_whole(const json_t *value)
{
    double number = json_is_number(value) ? json_number_value(value) : -1;

    return number > -NUMBER_MAX && number < NUMBER_MAX ? (int64_t)number : -1;
}

int64_t
json_number(const json_t *object, const char *name)
{
    return json_whole(json_object_get(object, name));
}

void
json_print(const json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    putchar('\n');
}
