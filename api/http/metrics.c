/* SPDX-License-Identifier: MPL-2.0 */
/* The gateway's counters, and the text for Prometheus of these and of what others publish.  Counting is atomic and done
 * by every connection's thread and the keeper's. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "api/bus.h"
#include "api/http/gateway.h"

/* The statuses that are told apart; the last place counts all others. */
static const int statuses[] = {101, 200, 201, 202, 204, 400, 401, 403, 404, 405, 408, 409,
                               410, 413, 415, 422, 426, 429, 431, 499, 500, 502, 503, 507};
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
http_metrics_count(struct http_entry *entry, int status, int64_t duration_us)
{
    size_t i;

    for (i = 0; i < HTTP_BUCKETS && (double)duration_us > bounds_s[i] * 1e6; i++)
        ;
    atomic_fetch_add_explicit(&entry->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&entry->statuses[place_of(status)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&entry->duration_us, (uint64_t)duration_us, memory_order_relaxed);
}

static void
label(const struct http_entry *entry, char out[128])
{
    (void)snprintf(out, 128, "method=\"%s\",route=\"%s\"", entry->method, entry->route ? entry->route->path : "none");
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
print_head(struct muster_buf *out, const char *name, const char *type, const char *help)
{
    muster_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void
print(struct muster_buf *out, const char *name, const char *type, const char *help, int64_t value)
{
    print_head(out, name, type, help);
    muster_buf_printf(out, "%s %lld\n", name, (long long)value);
}

static void
print_requests(const struct http_server *server, struct muster_buf *out)
{
    size_t i;

    print_head(out, "muster_http_requests_total", "counter",
               "Requests by route and status; route \"none\" are those that fit no route.");
    for (i = 0; i < server->entry_count; i++)
        print_statuses(&server->entries[i], out);
    print_head(out, "muster_http_request_duration_seconds", "histogram", "From the head of a request to its answer.");
    for (i = 0; i < server->entry_count; i++)
        print_durations(&server->entries[i], out);
}

static void
print_connections(const struct http_server *server, struct muster_buf *out)
{
    print(out, "muster_http_connections", "gauge", "Open connections.", server->connections);
    print(out, "muster_http_busy", "gauge", "Requests at work.", server->busy);
    print(out, "muster_http_threads", "gauge",
          "Connections that can be served at a time, beside those of event streams.", server->options->threads);
    print(out, "muster_http_waiting", "gauge", "Asks that wait for their answer.", server->waiting);
    print(out, "muster_http_streams", "gauge", "Event streams.", server->stream_count);
    print(out, "muster_http_sockets", "gauge", "WebSockets.", server->socket_count);
    print(out, "muster_http_behind_bytes", "gauge", "Bytes kept for readers of streams and WebSockets that are slow.",
          server->behind);
    print(out, "muster_http_streams_dropped_total", "counter",
          "Streams and WebSockets ended because their reader was too slow.", (int64_t)server->streams_dropped);
    print(out, "muster_http_stream_events_total", "counter", "Events sent to streams and WebSockets.",
          (int64_t)server->stream_events);
    print(out, "muster_http_socket_messages_total", "counter", "Messages that came through WebSockets.",
          (int64_t)server->socket_messages);
    print(out, "muster_http_cut_total", "counter", "Connections ended because the client took too long.",
          (int64_t)server->cut);
}

/* ---- the house ---- */

static void
print_store(struct muster_store *store, struct muster_buf *out)
{
    struct muster_store_stats stats;

    muster_store_stats(store, &stats);
    print(out, "muster_store_jobs", "gauge", "Jobs kept.", (int64_t)stats.jobs);
    print(out, "muster_store_events", "gauge", "Events kept.", (int64_t)stats.events);
    print(out, "muster_store_last_seq", "gauge", "Number of the last event.", stats.last_seq);
    print(out, "muster_store_map_bytes", "gauge", "Size of the memory map.", (int64_t)stats.map_bytes);
    print(out, "muster_store_used_bytes", "gauge", "Used of it.", (int64_t)stats.used_bytes);
    print(out, "muster_store_commits_total", "counter", "Commits to the disk.", (int64_t)stats.commits);
}

static void
put_waiting(void *arg, const struct muster_mailbox_gauge *gauge)
{
    muster_buf_printf(arg, "muster_mailbox_waiting{address=\"%s\"} %zu\n", gauge->address, gauge->waiting);
}

static void
put_limit(void *arg, const struct muster_mailbox_gauge *gauge)
{
    muster_buf_printf(arg, "muster_mailbox_limit{address=\"%s\"} %zu\n", gauge->address, gauge->limit);
}

static void
put_refused(void *arg, const struct muster_mailbox_gauge *gauge)
{
    muster_buf_printf(arg, "muster_mailbox_refused_total{address=\"%s\"} %llu\n", gauge->address,
                      (unsigned long long)gauge->refused);
}

static void
print_mailboxes(struct muster_bus *bus, struct muster_buf *out)
{
    print_head(out, "muster_mailbox_waiting", "gauge", "Messages that wait in a mailbox.");
    muster_bus_gauges(bus, put_waiting, out);
    print_head(out, "muster_mailbox_limit", "gauge", "Messages that a mailbox holds.");
    muster_bus_gauges(bus, put_limit, out);
    print_head(out, "muster_mailbox_refused_total", "counter", "Messages refused because a mailbox was full.");
    muster_bus_gauges(bus, put_refused, out);
}

/* What was published for a team under `prefix`; NULL: nothing yet. */
static struct muster_notice *
take_view(const struct muster_house *house, const char *prefix, const struct team_options *team)
{
    char board[160];

    (void)snprintf(board, sizeof board, "%s%s", prefix, team->name);
    return muster_board_take(house->bus, board);
}

static void
print_queue(const struct muster_house *house, const struct team_options *team, struct muster_buf *out)
{
    struct muster_notice *notice = take_view(house, MUSTER_QUEUE_BOARD "/", team);
    struct muster_queue_view view = {.queued = 0};

    if (notice)
        view = *(const struct muster_queue_view *)muster_notice_object(notice);
    muster_notice_release(&notice);
    muster_buf_printf(out, "muster_queue_jobs{team=\"%s\",state=\"queued\"} %lld\n", team->name,
                      (long long)view.queued);
    muster_buf_printf(out, "muster_queue_jobs{team=\"%s\",state=\"running\"} %lld\n", team->name,
                      (long long)view.running);
}

static void
print_processes(const struct muster_house *house, const struct team_options *team, struct muster_buf *out)
{
    struct muster_notice *notice = take_view(house, MUSTER_AGENT_PREFIX, team);
    const struct muster_agent_view *view = notice ? muster_notice_object(notice) : NULL;
    const struct muster_enum_value *state;
    size_t i, count;

    for (state = process_state_enum.values; state->wire; state++) {
        for (count = i = 0; view && i < view->count && i < MUSTER_VIEW_PROCESSES; i++)
            count += (int)view->processes[i].state == state->value;
        muster_buf_printf(out, "muster_agent_processes{team=\"%s\",state=\"%s\"} %zu\n", team->name, state->wire,
                          count);
    }
    muster_notice_release(&notice);
}

static void
print_teams(const struct muster_house *house, struct muster_buf *out)
{
    const struct options *options = house->options;
    size_t i;

    print_head(out, "muster_queue_jobs", "gauge", "Jobs that wait or run.");
    for (i = 0; i < options->teams.count; i++)
        print_queue(house, &options->teams.items[i], out);
    print_head(out, "muster_agent_processes", "gauge", "Processes of agents by what they do.");
    for (i = 0; i < options->teams.count; i++)
        print_processes(house, &options->teams.items[i], out);
}

/* Of ZeroMQ clients; nothing while that is off. */
static void
print_bus(const struct muster_house *house, struct muster_buf *out)
{
    struct muster_notice *notice = muster_board_take(house->bus, BUS_BOARD);
    const struct bus_view *view = notice ? muster_notice_object(notice) : NULL;

    if (view) {
        print(out, "muster_bus_clients", "gauge", "Connections of ZeroMQ clients.", view->counts.clients);
        print(out, "muster_bus_pending", "gauge", "Their requests at work.", view->pending);
        print(out, "muster_bus_commands_total", "counter", "Messages of theirs.", (int64_t)view->counts.commands);
        print(out, "muster_bus_answers_total", "counter", "Answers other than failed.", (int64_t)view->answers);
        print(out, "muster_bus_failed_total", "counter", "Answers that are failed.", (int64_t)view->failed);
        print(out, "muster_bus_malformed_total", "counter", "Messages dropped because they are none.",
              (int64_t)(view->counts.malformed + view->broken));
        print(out, "muster_bus_dropped_total", "counter",
              "Answers dropped because the client had left or did not read.", (int64_t)view->counts.dropped);
        print(out, "muster_bus_refused_total", "counter", "Connections not let in.", (int64_t)view->counts.refused);
        print(out, "muster_bus_unheard_total", "counter", "Subscriptions not allowed.", (int64_t)view->counts.unheard);
        print(out, "muster_bus_events_total", "counter", "Events published to subscribers.", (int64_t)view->published);
    }
    muster_notice_release(&notice);
}

/* ---- workers ---- */

static void
print_node_states(const struct muster_nodes_view *view, struct muster_buf *out)
{
    const struct muster_enum_value *state;
    size_t i, count;

    print_head(out, "muster_nodes", "gauge", "Workers by how they stand to the server.");
    for (state = node_state_enum.values; state->wire; state++) {
        for (count = i = 0; i < view->count; i++)
            count += (int)view->nodes[i].state == state->value;
        muster_buf_printf(out, "muster_nodes{state=\"%s\"} %zu\n", state->wire, count);
    }
}

/* One gauge of each worker; `field` is an int64_t of its view. */
static void
print_nodes(const struct muster_nodes_view *view, struct muster_buf *out, const char *name, const char *help,
            size_t field)
{
    size_t i;
    int64_t value;

    print_head(out, name, "gauge", help);
    for (i = 0; i < view->count; i++) {
        memcpy(&value, (const char *)&view->nodes[i] + field, sizeof value);
        muster_buf_printf(out, "%s{node=\"%s\"} %lld\n", name, view->nodes[i].name, (long long)value);
    }
}

/* Names of workers are letters, digits, '.', '_' and '-': nothing to escape. */
static void
print_workers(const struct muster_house *house, struct muster_buf *out)
{
    struct muster_notice *notice = muster_board_take(house->bus, MUSTER_NODES_BOARD);
    const struct muster_nodes_view *view = notice ? muster_notice_object(notice) : NULL;

    if (view) {
        print_node_states(view, out);
        print_nodes(view, out, "muster_node_running", "Attempts that a worker has.",
                    offsetof(struct muster_node_view, running));
        print_nodes(view, out, "muster_node_parcels", "Parcels of a worker that are not acknowledged, as it said last.",
                    offsetof(struct muster_node_view, parcels));
        print_nodes(view, out, "muster_node_parcels_bytes", "Bytes of these.",
                    offsetof(struct muster_node_view, parcels_bytes));
        print_nodes(view, out, "muster_node_oldest_parcel_ms", "Age of the oldest of them.",
                    offsetof(struct muster_node_view, oldest_ms));
        print(out, "muster_nodes_attached_total", "counter", "Workers that attached themselves.",
              (int64_t)view->attached);
        print(out, "muster_nodes_refused_total", "counter", "Workers that were refused.", (int64_t)view->refused);
        print(out, "muster_nodes_lost_total", "counter", "Workers that were lost.", (int64_t)view->lost);
        print(out, "muster_nodes_parcels_total", "counter", "Parcels of workers.", (int64_t)view->parcels);
        print(out, "muster_nodes_stale_total", "counter",
              "Events and reports of workers that were of no current attempt.", (int64_t)view->stale);
    }
    muster_notice_release(&notice);
}

void
http_server_metrics(const struct http_server *server, struct muster_buf *out)
{
    print_head(out, "muster_info", "gauge", "Version of the daemon; always 1.");
    muster_buf_str(out, "muster_info{version=\"" MUSTER_VERSION "\"} 1\n");
    print(out, "muster_start_time_seconds", "gauge", "Unix seconds at which the gateway started.",
          server->started_ms / 1000);
    print_requests(server, out);
    print_connections(server, out);
    print_teams(&server->house, out);
    print_mailboxes(server->house.bus, out);
    print_store(server->house.store, out);
    print_bus(&server->house, out);
    print_workers(&server->house, out);
}
