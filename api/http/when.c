/* SPDX-License-Identifier: MPL-2.0 */
/* Reads times that clients write.  Any thread, no state. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/http/muster_http.h"

enum { MOST_DIGITS = 15 };

/* Exactly `count` digits; -1: they are not there. */
static int
digits(const char **at, int count)
{
    int value = 0, i;

    for (i = 0; i < count; i++, (*at)++) {
        if (**at < '0' || **at > '9')
            return -1;
        value = value * 10 + (**at - '0');
    }
    return value;
}

static bool
accept(const char **at, char c)
{
    if (**at != c)
        return false;
    (*at)++;
    return true;
}

static bool
read_date(const char **at, struct tm *tm)
{
    tm->tm_year = digits(at, 4) - 1900;
    if (tm->tm_year < 70 || !accept(at, '-') || (tm->tm_mon = digits(at, 2) - 1) < 0 || tm->tm_mon > 11)
        return false;
    return accept(at, '-') && (tm->tm_mday = digits(at, 2)) >= 1 && tm->tm_mday <= 31;
}

static bool
read_clock(const char **at, struct tm *tm, int *out_ms)
{
    int scale;

    if ((tm->tm_hour = digits(at, 2)) < 0 || tm->tm_hour > 23 || !accept(at, ':') || (tm->tm_min = digits(at, 2)) < 0 ||
        tm->tm_min > 59)
        return false;
    if (!accept(at, ':'))
        return true;
    if ((tm->tm_sec = digits(at, 2)) < 0 || tm->tm_sec > 60)
        return false;
    if (!accept(at, '.'))
        return true;
    for (scale = 100; **at >= '0' && **at <= '9'; (*at)++, scale /= 10)
        *out_ms += (**at - '0') * scale;
    return true;
}

/* Minutes east of UTC; nothing means UTC. */
static bool
read_zone(const char **at, int *out_minutes)
{
    int sign, hours, minutes;

    if (**at == '\0' || accept(at, 'Z'))
        return true;
    sign = **at == '-' ? -1 : 1;
    if (!accept(at, '+') && !accept(at, '-'))
        return false;
    hours = digits(at, 2);
    (void)accept(at, ':');
    minutes = digits(at, 2);
    if (hours < 0 || hours > 14 || minutes < 0 || minutes > 59)
        return false;
    *out_minutes = sign * (hours * 60 + minutes);
    return true;
}

muster_err
http_time_parse(const char *text, int64_t *out_ms)
{
    size_t size = strlen(text);
    const char *at = text;
    struct tm tm = {.tm_isdst = 0};
    int ms = 0, zone = 0;

    if (size > 0 && size <= MOST_DIGITS && strspn(text, "0123456789") == size) {
        *out_ms = strtoll(text, NULL, 10);
        return MUSTER_OK;
    }
    if (!read_date(&at, &tm))
        return MUSTER_INVALID_REQUEST;
    if ((accept(&at, 'T') || accept(&at, ' ')) && (!read_clock(&at, &tm, &ms) || !read_zone(&at, &zone)))
        return MUSTER_INVALID_REQUEST;
    if (*at != '\0')
        return MUSTER_INVALID_REQUEST;
    *out_ms = ((int64_t)timegm(&tm) - zone * 60) * 1000 + ms;
    return MUSTER_OK;
}

const char *
http_bare(struct http_request *request, const char *json)
{
    size_t size = strlen(json);

    return size >= 2 && json[0] == '"' ? muster_arena_str(http_arena(request), json + 1, size - 2) : json;
}
