# SPDX-License-Identifier: MPL-2.0
"""Rows 16 to 20: what lies in the store, restarts, memory, and what happens to the cost as all of it grows."""

import http.client
import math
import os
import socket
import statistics
import subprocess
import time
import urllib.parse

from lab import BODY, BUILD, Daemon, KEY, Missing, rss_mb
from plot import draw
from results import judged, measured, skipped
from rounds import interleave
from rows_stream import Talk, sse_request, submit, TEAM

AMPLE = {"store": {"max_events": "1TiB"}}


def filled(lab, jobs, events, state="completed", config=None):
    """A daemon, not started, with so much in its store."""
    daemon = Daemon(lab, config, start=False)
    done = subprocess.run([BUILD / "bench_fill", daemon.data, str(jobs), str(events), state], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"bench_fill: {done.stderr}")
    return daemon


def http_get(port, path, key=KEY):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def epoch_of(daemon):
    """The first half of a cursor of this data folder."""
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as wire:
        wire.sendall(b"GET /api/v1/events?since=oldest HTTP/1.1\r\nHost: x\r\n"
                     + f"Authorization: Bearer {KEY}\r\n\r\n".encode())
        data = b""
        while b"\nid: " not in data or b"\n" not in data.split(b"\nid: ", 1)[1]:
            data += wire.recv(65536)
    return data.split(b"\nid: ", 1)[1].split(b"-", 1)[0].decode()


def resume(daemon, after, events):
    """Seconds from the connect to the last of the events behind this one."""
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as wire:
        wire.settimeout(20)
        wire.sendall(f"GET /api/v1/events?since={daemon.epoch}-{after} HTTP/1.1\r\nHost: x\r\n"
                     f"Authorization: Bearer {KEY}\r\n\r\n".encode())
        seen, tail = 0, b""
        while seen < events:
            data = tail + wire.recv(1 << 20)
            seen += data.count(b"~0")
            tail = data[-1:]
            if tail == b"~" and data == b"~":
                raise RuntimeError("the stream ended")
    return time.perf_counter() - begun


def cursor(lab, peers, wanted):
    """16."""
    events = 5000 if lab.quick else 100000
    daemon = filled(lab, 1, events, config=AMPLE).start()
    daemon.epoch = epoch_of(daemon)

    def muster():
        return {"rate": events / resume(daemon, 0, events)}

    found = interleave(lab, "resume", {"muster": muster, "range": lambda: lab.run("range", daemon.data, events)})
    daemon.remove()
    return [measured(16, f"{events:,} events", found["muster"], found["range"], unit="events/s")]


# ---- starts ----


def first_answer(lab, argv, port, path, key=KEY):
    """Seconds from the spawn to the first 200, and the child."""
    begun = time.perf_counter()
    child = lab.spawn(argv)
    while True:
        try:
            status, _ = http_get(port, path, key)
            if status == 200:
                return time.perf_counter() - begun, child
        except OSError:
            pass
        if time.perf_counter() - begun > 60 or child.poll() is not None:
            raise RuntimeError(f"{argv[0]} does not serve")
        time.sleep(0.0005)


def muster_start(lab, daemon):
    port = lab.port()
    seconds, child = first_answer(lab, [BUILD / "muster", "serve", "--config", daemon.folder / "muster.yaml", "--data",
                                        daemon.data, "--listen", f"127.0.0.1:{port}"], port,
                                  "/api/v1/teams/bench/status")
    daemon.child, daemon.port = child, port
    return seconds


def end_start(lab, daemon):
    """A clean end, so that the next start is one of an orderly data folder."""
    daemon.child.stdout = open("/dev/null", "rb")
    daemon.stop()


def restart(lab, peers, wanted):
    """17: seconds to serving with so many queued jobs, and whether twice as many take twice as long."""
    sizes = (0, 1000, 2000) if lab.quick else (0, 25000, 50000, 100000)
    daemons = {size: filled(lab, size, 0, "queued") for size in sizes}
    times = {size: [] for size in sizes}
    for _ in range(1 if lab.quick else 3):
        for size, daemon in daemons.items():
            times[size].append(muster_start(lab, daemon))
            end_start(lab, daemon)
    medians = {size: statistics.median(found) for size, found in times.items()}
    lab.say("  restart: " + ", ".join(f"{size:,} jobs {1000 * value:.0f} ms" for size, value in medians.items()))
    most, half = sizes[-1], sizes[-2]
    growth = max(medians[most] - medians[0], 0) / max(medians[half] - medians[0], 0.001)
    stat = {"rate": 1000 * medians[most], "samples": times[most]}
    base = {"rate": 1000 * medians[0], "samples": times[0]}
    return [judged(17, f"{most:,} jobs", medians[most], min(times[most]), max(times[most]), stat, base, unit="ms",
                   ratio_unit=" s", goal_unit=" s"),
            judged(17, f"{most:,} jobs beside {half:,}", growth, growth, growth, stat,
                   {"rate": 1000 * medians[half], "samples": times[half]}, goal=2.5, unit="ms", ratio_unit="x",
                   goal_unit="x")]


def start(lab, peers, wanted):
    """19."""
    program = peers.sandbox_agent_program()

    def muster():
        daemon = Daemon(lab, start=False)
        seconds = muster_start(lab, daemon)
        lab.end(daemon.child)
        return {"rate": 1000 * seconds}

    def sandbox_agent():
        port = lab.port()
        seconds, child = first_answer(lab, [program, "server", "--port", port, "--token", KEY, "--no-telemetry"], port,
                                      "/v1/health")
        lab.end(child)
        return {"rate": 1000 * seconds}

    os.sync()  # a new data folder is synced, and would wait for what the rows before this one wrote
    found = interleave(lab, "start, ms", {"muster": muster, "sandbox-agent": sandbox_agent})
    return [measured(19, "", found["muster"], found["sandbox-agent"], unit="ms")]


# ---- memory ----


def memory_row(at, work, beside, goal=None):
    value = work / beside if beside else work
    return judged(18, at, value, value, value, {"rate": work}, {"rate": beside} if beside else None, goal=goal,
                  unit="MB", ratio_unit="" if beside else " MB")


def memory_idle(lab, peers):
    daemon = Daemon(lab, {"teams": {"bench": {"paused": False}}})
    try:
        _, child = peers.sandbox_agent()
    except Missing as problem:
        return [skipped(18, str(problem), "idle")]
    http_get(daemon.port, "/api/v1/teams/bench/status")
    return [memory_row("idle", rss_mb(daemon.pid), rss_mb(child.pid), 2)]


def memory_readers(lab, peers):
    readers = 50 if lab.quick else 1000
    daemon = Daemon(lab, {"teams": TEAM})
    job = submit(daemon, "quiet")
    ours = Talk(lab, "fan", daemon.port, readers, 0, lab.new_file("request", sse_request(daemon, job)))
    try:
        port, child = peers.iris("sse")
    except Missing as problem:
        return [skipped(18, str(problem), f"{readers:,} SSE readers")]
    theirs = Talk(lab, "fan", port, readers, 0, lab.new_file(
        "request", f"GET /stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"))
    found = [memory_row(f"{readers:,} SSE readers", rss_mb(daemon.pid), rss_mb(child.pid), 0.45)]
    ours.end()
    theirs.end()
    return found


def memory_sessions(lab):
    """Conversations whose turns are over, and whose agents sleep."""
    count = 20 if lab.quick else 1000
    daemon = Daemon(lab, {"teams": {"bench": {"paused": False, "concurrency": 4, "idle_stop": "10ms"}}})
    before = rss_mb(daemon.pid)
    for number in range(count):
        job = daemon.call("POST", "/api/v1/teams/bench/execute", {"task": "hello", "sessionId": f"s{number}"})
    while daemon.call("GET", f"/api/v1/messages/{job['messageId']}")["status"] != "completed":
        time.sleep(0.01)
    return [memory_row(f"{count:,} sessions asleep (before: {before:.0f} MB)", rss_mb(daemon.pid), None)]


def memory_jobs(lab):
    count = 1000 if lab.quick else 1000000
    daemon = filled(lab, count, 0, config=AMPLE).start()
    http_get(daemon.port, "/api/v1/messages/history?limit=50")
    own = rss_mb(daemon.pid, "RssAnon")
    return [memory_row(f"{count:,} finished jobs ({own:.0f} MB of it not the mapped store)", rss_mb(daemon.pid), None)]


def memory(lab, peers, wanted):
    """18."""
    results = []
    for part in (memory_idle, memory_readers):
        results += part(lab, peers)
        lab.end_all()
    for part in (memory_sessions, memory_jobs):
        results += part(lab)
        lab.end_all()
    return results


# ---- growth ----


def last_job(daemon):
    return daemon.call("GET", "/api/v1/messages/history?limit=1")["messages"][0]["messageId"]


def cost(lab, url, script):
    """Microseconds a request on eight connections; of one by itself where it takes so long that none was counted."""
    found = lab.wrk(url, 8, script, seconds=1)
    if found["rate"] > 0 and not found["errors"]:
        return 1e6 / found["rate"]
    parts = urllib.parse.urlsplit(url)
    begun = time.perf_counter()
    status, _ = http_get(parts.port, f"{parts.path}?{parts.query}")
    if status != 200:
        raise RuntimeError(f"{url}: {status}")
    return 1e6 * (time.perf_counter() - begun)


def work_of(lab, daemon, size):
    """What is asked of a store of that size: name -> function that gives its cost in microseconds."""
    job = last_job(daemon)
    get, post = lab.wrk_script(KEY), lab.wrk_script(KEY, BODY)
    daemon.epoch = epoch_of(daemon)
    back = 1000

    def wrk(path, script):
        return lambda: cost(lab, daemon.url + path, script)

    found = {"one job": wrk(f"/api/v1/messages/{job}", get),
             "1,000 events back": lambda: 1e6 * resume(daemon, size - back, back)}
    if lab.quick:
        return found
    return {**found, "page of history": wrk("/api/v1/messages/history?limit=10", get),
            "submit": wrk("/api/v1/teams/bench/execute", post)}


def team_name(number):
    return f"team{number}" if number else "bench"


def teams_of(lab, daemon, size):
    get, post = lab.wrk_script(KEY), lab.wrk_script(KEY, BODY)
    team = team_name(size - 1)
    found = {"status": lambda: cost(lab, f"{daemon.url}/api/v1/teams/{team}/status", get)}
    if not lab.quick:
        found["submit"] = lambda: cost(lab, f"{daemon.url}/api/v1/teams/{team}/execute", post)
    return found


def grow(lab, what, daemons, works):
    """Cost of each work at each size, measured in turn; one result each: the dearest size beside the cheapest end."""
    costs = {name: {size: [] for size in daemons} for name in works[next(iter(daemons))]}
    for number in range(1 if lab.quick else 3):
        for name, by_size in costs.items():
            for size in daemons:
                by_size[size].append(works[size][name]())
        lab.say(f"  {what}, round {number + 1}")
    results, lines = [], {}
    for name, by_size in costs.items():
        medians = {size: statistics.median(found) for size, found in by_size.items()}
        lines[name] = medians
        sizes = sorted(medians)
        growth = medians[sizes[-1]] / medians[sizes[0]]
        # Logarithmic growth, and half as much again for the noise of single rounds.
        allowed = 1.5 * max(1, math.log(sizes[-1]) / math.log(max(sizes[0], 10)))
        results.append(judged(
            20, f"{name}: {sizes[-1]:,} {what} beside {sizes[0]:,}", growth, growth, growth,
            {"rate": medians[sizes[-1]]}, {"rate": medians[sizes[0]]}, goal=round(allowed, 2), unit="us",
            ratio_unit="x", goal_unit="x", curve=[[size, medians[size]] for size in sizes]))
    return results, lines


def growth(lab, peers, wanted):
    """20."""
    sizes = (1000, 2000) if lab.quick else (1000, 10000, 100000, 1000000, 10000000)
    daemons = {size: filled(lab, size, size, config=AMPLE).start() for size in sizes}
    in_store, first = grow(lab, "jobs and events", daemons, {s: work_of(lab, d, s) for s, d in daemons.items()})
    for daemon in daemons.values():
        daemon.remove()
    counts = (1, 10) if lab.quick else (1, 10, 100, 1000)
    daemons = {count: Daemon(lab, {"teams": {team_name(n): {"driver": "echo", "paused": True, "max_queued": 10000000}
                                            for n in range(count)}}) for count in counts}
    of_teams, second = grow(lab, "teams", daemons, {c: teams_of(lab, d, c) for c, d in daemons.items()})
    if not lab.quick:
        draw(lab.plot, {"jobs and events in the store": first, "teams": second})
    return in_store + of_teams
