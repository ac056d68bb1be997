# SPDX-License-Identifier: MPL-2.0
"""Rows 1 to 5, 7 and 8: requests over HTTP."""

from lab import BODY, Daemon, KEY, Missing
from rounds import interleave
from results import measured, skipped

THREADS = 300  # of muster and the civetweb peers: one a connection and some to spare


def prepare(lab, peers, starters):
    """Start what can be had: name -> (function that measures, None) or (None, reason)."""
    ready = {}
    for name, start in starters.items():
        try:
            ready[name] = start(), None
        except (Missing, RuntimeError) as problem:
            ready[name] = None, str(problem)
            lab.say(f"  SKIPPED: {name}: {problem}")
    return ready


def compare(lab, title, at, ready, pairs):
    """`pairs`: row -> (work, beside).  Measure what is there, and give each row its result."""
    variants = {name: measure for name, (measure, _) in ready.items() if measure}
    if not lab.quick:
        for measure in variants.values():
            measure()  # once to warm up
    found = interleave(lab, title, variants)
    results = []
    for row, (work, beside) in pairs.items():
        reason = ready[work][1] or ready[beside][1]
        results.append(skipped(row, reason, at) if reason else measured(row, at, found[work], found[beside]))
    return results


def status(lab, peers, wanted):
    """1: a read with key, scope and rate; 8: the cheapest request with a key."""
    results = []
    for connections in lab.connections:
        daemon = Daemon(lab, {"http": {"threads": THREADS}})
        limited, free = lab.wrk_script(KEY), lab.wrk_script(KEY + "_free")
        url = daemon.url + "/api/v1/teams/bench/status"

        def wrk(url, script, count=connections):
            return lambda: lab.wrk(url, count, script)

        starters = {"status": lambda: wrk(url, limited)}
        if 1 in wanted:
            starters["hello"] = lambda: wrk(f"http://127.0.0.1:{peers.hello(THREADS)}/", limited)
        if 8 in wanted:
            starters["free"] = lambda: wrk(url, free)
            starters["sandbox-agent"] = lambda: wrk(f"http://127.0.0.1:{peers.sandbox_agent()[0]}/v1/health", limited)
        pairs = {1: ("status", "hello"), 8: ("free", "sandbox-agent")}
        results += compare(lab, f"status, {connections} connections", f"{connections} connections",
                           prepare(lab, peers, starters), {row: pairs[row] for row in pairs if row in wanted})
        daemon.remove()
        lab.end_all()
    return results


def execute(lab, peers, wanted):
    """2, 3, 4, 5 and 7: a durable submit into a paused team, beside five others."""
    results = []
    for connections in lab.connections:
        daemon = Daemon(lab, {"http": {"threads": THREADS}})
        script = lab.wrk_script(KEY, BODY)
        path = "/api/v1/teams/bench/execute"

        def wrk(port, count=connections):
            return lambda: lab.wrk(f"http://127.0.0.1:{port}{path}", count, script)

        def beanstalkd(count=connections):
            port = peers.beanstalkd()
            put = lab.new_file("put", f"put 100 0 60 {len(BODY)}\r\n{BODY}\r\n")
            return lambda: lab.run("load", "beanstalk", port, count, lab.seconds, put)

        beside = {2: ("hello", lambda: wrk(peers.hello(THREADS))),
                  3: ("commit each", lambda: wrk(peers.commit_each(THREADS))),
                  4: ("bullmq", lambda: wrk(peers.iris("bullmq")[0])),
                  5: ("beanstalkd", beanstalkd),
                  7: ("iris stack", lambda: wrk(peers.iris("null")[0]))}
        starters = {"execute": lambda: wrk(daemon.port)}
        starters.update(beside[row] for row in beside if row in wanted)
        results += compare(lab, f"execute, {connections} connections", f"{connections} connections",
                           prepare(lab, peers, starters),
                           {row: ("execute", beside[row][0]) for row in beside if row in wanted})
        daemon.remove()
        lab.end_all()
    return results
