/* SPDX-License-Identifier: MPL-2.0 */
/* The gateway's counters, and their text for Prometheus.  Counting is atomic and done by every connection's thread. */
#include <stdio.h>

#include "api/http/gateway.h"

/* The statuses that are told apart; the last place counts all others. */
static const int statuses[] = {200, 201, 202, 204, 400, 401, 403, 404, 405, 408, 409,
                               410, 413, 415, 429, 431, 499, 500, 502, 503, 507};
enum { KNOWN = sizeof statuses / sizeof *statuses };
_Static_assert((int)KNOWN < (int)HTTP_STATUSES, "no place for a status");

static const double bounds_s[HTTP_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 10, 60};

static size_t
place_of(int status)
{
    size_t i;

    for (i = 0; i < KNOWN && statuses[i] != status; i++)
        ;
    return i;
}

void
http_metrics_count(struct http_request *request, int64_t duration_us)
{
    struct http_entry *entry = request->entry;
    size_t i;

    for (i = 0; i < HTTP_BUCKETS && (double)duration_us > bounds_s[i] * 1e6; i++)
        ;
    atomic_fetch_add_explicit(&entry->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&entry->statuses[place_of(request->status)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&entry->duration_us, (uint64_t)duration_us, memory_order_relaxed);
}

static void
label(const struct http_entry *entry, char out[128])
{
    (void)snprintf(out, 128, "method=\"%s\",route=\"%s\"", entry->route ? entry->route->method : "",
                   entry->route ? entry->route->path : "");
}

static void
print_statuses(const struct http_entry *entry, struct muster_buf *out)
{
    char labels[128], status[16];
    size_t i;

    label(entry, labels);
    for (i = 0; i <= KNOWN; i++) {
        (void)snprintf(status, sizeof status, "%d", i < KNOWN ? statuses[i] : 0);
        if (entry->statuses[i] > 0)
            muster_buf_printf(out, "muster_http_requests_total{%s,status=\"%s\"} %llu\n", labels,
                              i < KNOWN ? status : "other", (unsigned long long)entry->statuses[i]);
    }
}

static void
print_durations(const struct http_entry *entry, struct muster_buf *out)
{
    uint64_t sum = 0;
    char labels[128];
    size_t i;

    for (i = 0; i <= HTTP_BUCKETS; i++)
        sum += entry->buckets[i];
    if (sum == 0)
        return;
    label(entry, labels);
    for (sum = 0, i = 0; i < HTTP_BUCKETS; i++)
        muster_buf_printf(out, "muster_http_request_duration_seconds_bucket{%s,le=\"%g\"} %llu\n", labels, bounds_s[i],
                          (unsigned long long)(sum += entry->buckets[i]));
    sum += entry->buckets[HTTP_BUCKETS];
    muster_buf_printf(out, "muster_http_request_duration_seconds_bucket{%s,le=\"+Inf\"} %llu\n", labels,
                      (unsigned long long)sum);
    muster_buf_printf(out, "muster_http_request_duration_seconds_sum{%s} %.6f\n", labels,
                      (double)entry->duration_us / 1e6);
    muster_buf_printf(out, "muster_http_request_duration_seconds_count{%s} %llu\n", labels, (unsigned long long)sum);
}

static void
print(struct muster_buf *out, const char *name, const char *type, const char *help, int64_t value)
{
    muster_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %lld\n", name, help, name, type, name, (long long)value);
}

void
http_server_metrics(const struct http_server *server, struct muster_buf *out)
{
    size_t i;

    muster_buf_str(out, "# HELP muster_http_requests_total Requests by route and status.\n"
                        "# TYPE muster_http_requests_total counter\n");
    for (i = 0; i < server->entry_count; i++)
        print_statuses(&server->entries[i], out);
    muster_buf_str(out, "# HELP muster_http_request_duration_seconds From the head of a request to its answer.\n"
                        "# TYPE muster_http_request_duration_seconds histogram\n");
    for (i = 0; i < server->entry_count; i++)
        print_durations(&server->entries[i], out);
    print(out, "muster_http_connections", "gauge", "Connections that hold a thread.", server->connections);
    print(out, "muster_http_busy", "gauge", "Requests at work.", server->busy);
    print(out, "muster_http_threads", "gauge", "Connections that can be served at a time.", server->options->threads);
    print(out, "muster_http_waiting", "gauge", "Asks that wait for their answer.", server->waiting);
    print(out, "muster_http_streams", "gauge", "Event streams.", server->stream_count);
    print(out, "muster_http_streams_dropped_total", "counter", "Streams ended because their reader was too slow.",
          (int64_t)server->streams_dropped);
    print(out, "muster_http_stream_events_total", "counter", "Events sent to streams.", (int64_t)server->stream_events);
    print(out, "muster_http_cut_total", "counter", "Connections ended because the client took too long.",
          (int64_t)server->cut);
}
