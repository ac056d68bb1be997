# SPDX-License-Identifier: MPL-2.0
"""Rows 14 and 15: turns of agents, from the submit to the durable end, beside the same agent driven by hand."""

import http.client
import json
import queue
import subprocess
import sys
import threading
import time

from lab import Daemon, KEY, ROOT, Missing
from results import measured
from rounds import interleave

ARGUMENTS = ["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
             "--include-partial-messages", "--permission-prompt-tool", "stdio"]
DELAY_MS = 10


# ---- an agent by hand ----


class Hand:
    """A Claude Code process of our own, one turn after the other."""

    def __init__(self, lab, command, env):
        self.lab = lab
        self.child = lab.spawn([*command, *ARGUMENTS], env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.write({"type": "control_request", "request_id": "1", "request": {"subtype": "initialize"}})
        self.until(lambda line: line["type"] == "control_response")

    def write(self, line):
        self.child.stdin.write(json.dumps(line) + "\n")
        self.child.stdin.flush()

    def until(self, wanted):
        for text in self.child.stdout:
            line = json.loads(text)
            if wanted(line):
                return line
        raise RuntimeError("the agent ended")

    def turn(self, text):
        """Seconds to the first piece of text, and to the end of the turn."""
        begun = time.perf_counter()
        self.write({"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": text}]}})
        self.until(lambda line: line.get("event", {}).get("delta", {}).get("type") == "text_delta")
        first = time.perf_counter() - begun
        self.until(lambda line: line["type"] == "result")
        return first, time.perf_counter() - begun

    def end(self):
        self.child.stdin.close()
        self.child.stdout.close()
        self.lab.end(self.child)


class Sleeper:
    """The echo driver alone: its turn is its delay."""

    def turn(self, text):
        time.sleep(DELAY_MS / 1000)
        return 0, DELAY_MS / 1000

    def end(self):
        pass


# ---- the same through muster ----


class Asker:
    """One connection that asks a team and waits for the durable end."""

    def __init__(self, daemon, team):
        self.wire = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        self.path = f"/api/v1/teams/{team}/ask"

    def turn(self, text):
        begun = time.perf_counter()
        self.wire.request("POST", self.path, json.dumps({"question": text}), {"Authorization": f"Bearer {KEY}"})
        answer = self.wire.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {body[:200]}")
        return 0, time.perf_counter() - begun

    def end(self):
        self.wire.close()


def turns(lab, workers, text, count):
    """`count` turns, by all of these at the same time: turns a second, p50 and p99."""
    left, took, problems = queue.SimpleQueue(), [], []
    for _ in range(count):
        left.put(None)

    def work(worker):
        try:
            while True:
                left.get_nowait()
                took.append(worker.turn(text)[1])
        except queue.Empty:
            pass
        except (RuntimeError, OSError) as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    if problems:
        raise RuntimeError(problems[0])
    took.sort()
    return {"rate": count / seconds, "p50_ms": 1000 * took[count // 2], "p99_ms": 1000 * took[count * 99 // 100]}


# Askers a team: one waits for its turn to be taken while another's is at work.
ASKERS = 2


def end_to_end(lab, peers, wanted):
    results = []
    fake = [sys.executable, str(ROOT / "tests" / "fake_claude.py")]
    kinds = {
        f"echo, turns of {DELAY_MS} ms": ({"driver": "echo", "paused": False}, f"@delay={DELAY_MS}ms hello", Sleeper),
        "scripted claude": ({"driver": "claude", "command": fake, "paused": False}, "echo: hello", None),
    }
    for name, (team, text, alone) in kinds.items():
        for teams in (1, 2) if lab.quick else (1, 16):
            names = [f"t{number}" for number in range(teams)]
            daemon = Daemon(lab, {"teams": {name: team for name in names}, "queue": {"max_running": 64}})
            askers = [Asker(daemon, name) for name in names for _ in range(ASKERS)]
            hands = [alone() if alone else Hand(lab, fake, lab.clean_env()) for _ in names]
            count = 10 * teams if lab.quick else 400 if name.startswith("scripted") else 100 * teams
            for workers in (askers, hands):
                turns(lab, workers, text, 4 * teams)  # every process is warm
            at = f"{name}, {teams} team{'s' if teams > 1 else ''}"
            found = interleave(lab, at, {"muster": lambda: turns(lab, askers, text, count),
                                         "alone": lambda: turns(lab, hands, text, count)})
            results.append(measured(14, at, found["muster"], found["alone"], unit="turns/s"))
            for worker in askers + hands:
                worker.end()
            daemon.remove()
            lab.end_all()
    return results


# ---- row 15: the real CLI ----


def first_chunk(daemon, text):
    """Seconds from a stream's request to its first chunk; reads on to its end."""
    begun = time.perf_counter()
    wire = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    wire.request("POST", "/api/v1/teams/claude/stream", json.dumps({"message": text}),
                 {"Authorization": f"Bearer {KEY}"})
    first, last = None, b""
    for line in wire.getresponse():
        if first is None and line.startswith(b"event: chunk"):
            first = time.perf_counter() - begun
        last = line if line.startswith(b"event:") else last
    wire.close()
    if first is None or b"complete" not in last:
        raise RuntimeError(f"the stream ended with {last}")
    return first


def real_cli(lab, peers, wanted):
    sys.path.insert(0, str(ROOT / "tests" / "system"))
    import claude_cli
    from fake_model import FakeModel
    home = lab.new_folder("claude-home")
    if lab.quick and not any(path.exists() for path in claude_cli.candidates()):
        raise Missing("Claude Code is not installed (tools/bench without --quick installs it)")
    try:
        program = claude_cli.program(home)
    except claude_cli.Unavailable as problem:
        raise Missing(f"no Claude Code: {problem}") from None
    model = FakeModel()
    env = {"HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / "config"), "ANTHROPIC_BASE_URL": model.url,
           "ANTHROPIC_API_KEY": "sk-test", "CLAUDE_CODE_MAX_RETRIES": "0", "IS_SANDBOX": "1",
           "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
           "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1"}
    daemon = Daemon(lab, {"teams": {"claude": {"driver": "claude", "command": [str(program)], "env": env,
                                               "directory": str(home), "stop_timeout": "1s"}}})
    hand = Hand(lab, [str(program)], {**lab.clean_env(), **env})
    count = 2 if lab.quick else 15

    def sample(once):
        took = sorted(once() for _ in range(count))
        return {"rate": 1 / took[count // 2], "p50_ms": 1000 * took[count // 2], "p99_ms": 1000 * took[-1]}

    text = "echo: hello there"
    first_chunk(daemon, text)  # both are warm
    hand.turn(text)
    found = interleave(lab, "warm turn", {"muster": lambda: sample(lambda: first_chunk(daemon, text)),
                                          "by hand": lambda: sample(lambda: hand.turn(text)[0])})
    hand.end()
    daemon.remove()
    model.stop()
    return [measured(15, "p50", found["muster"], found["by hand"], "p50_ms", unit="turns/s")]
