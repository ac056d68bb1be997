# SPDX-License-Identifier: MPL-2.0
"""Kill -9 and SIGTERM at any moment: nothing accepted is lost, nothing is finished twice, nothing is left running."""

import collections
import json
import os
import pathlib
import random
import signal
import threading
from http.client import HTTPException

import pytest

from harness import FINAL, Daemon, Wire, PYTHON, alive, assert_no_gap_no_double, processes_with, scaled, wait_until

HERE = pathlib.Path(__file__).resolve().parent


class Bench:
    """A daemon with an echo team and a command team whose effects are written to a ledger."""

    def __init__(self, daemons, tmp_path, **more):
        self.ledger_file = tmp_path / "ledger"
        self.locks = tmp_path / "locks"
        self.locks.mkdir()
        self.ledger_file.touch()
        program = [PYTHON, "-IS", str(HERE / "agent_program.py"), str(self.ledger_file), str(self.locks)]
        config = {
            "queue": {"retry_delay": "10ms", "max_running": 8},
            "teams": {
                "echo": {"driver": "echo", "concurrency": 3},
                "tool": {"driver": "command", "command": program, "concurrency": 3, "stop_timeout": "200ms"},
            },
        }
        config.update(more)
        self.daemon = daemons(config)

    def ledger(self):
        return [line.split() for line in self.ledger_file.read_text().splitlines()]

    def started(self, name):
        return sum(1 for what, job, _ in self.ledger() if what == "start" and job == name)

    def crash(self):
        self.daemon.kill9()
        self.daemon.start()

    def assert_one_end(self, name):
        """One final event, and the last one, whatever happened on the way."""
        events = [e for e in self.daemon.client.attach(name).rest(30) if e.kind != "heartbeat"]
        assert events, name
        ends = [e.kind for e in events if e.kind in ("complete", "error")]
        assert len(ends) == 1 and events[-1].kind == ends[0], [e.kind for e in events]
        assert_no_gap_no_double(events)

    def assert_never_at_the_same_time(self):
        clashes = [entry for entry in self.ledger() if entry[0] == "clash"]
        assert not clashes, clashes


@pytest.fixture
def bench(daemons, tmp_path):
    return Bench(daemons, tmp_path)


def test_jobs_queued_and_running_finish_after_kill_9(bench):
    client = bench.daemon.client
    names = {f"job{i}": client.submit("tool", f"job{i} 60") for i in range(8)}
    echoes = [client.submit("echo", f"@delay=40ms @chunks=3 echo {i}") for i in range(12)]
    wait_until(lambda: bench.started("job0"), "the first has begun")
    bench.crash()
    client = bench.daemon.client
    for i, name in enumerate(echoes):
        message = client.wait_final(name, 30)
        assert (message["status"], message["response"]) == ("completed", f"echo {i}")
    for job, name in names.items():
        message = client.wait_final(name, 30)
        assert message["status"] == "completed" and message["response"].strip() == f"did {job}"
        bench.assert_one_end(name)
    bench.assert_never_at_the_same_time()
    assert client.history(limit=100)["pagination"]["total"] == len(names) + len(echoes)


def test_a_finished_job_is_not_done_again(bench):
    client = bench.daemon.client
    name = client.submit("tool", "once 0")
    client.wait_final(name)
    bench.crash()
    blank = bench.daemon.client.submit("tool", "other 0")
    bench.daemon.client.wait_final(blank)
    assert bench.started("once") == 1
    assert bench.daemon.client.message(name)["response"].strip() == "did once"
    bench.assert_one_end(name)


def test_tools_of_the_dead_daemon_are_ended_before_their_job_runs_again(bench):
    """The tool holds the job's lock in a session of its own and ignores gentle signals."""
    client = bench.daemon.client
    name = client.submit("tool", "wild gate orphan")
    os.mkfifo(bench.locks / "wild.gate")
    orphan = wait_until(
        lambda: next((int(pid) for what, _, pid in bench.ledger() if what == "orphan"), None), "the tool runs"
    )
    bench.daemon.kill9()
    assert alive(orphan), "this test needs a tool that outlives the daemon"
    bench.daemon.start()
    wait_until(lambda: bench.started("wild") == 2, "the job runs again")
    assert not alive(orphan)
    wait_until(
        lambda: len(processes_with(b"MUSTER_CHILD=", b"TMPDIR=" + os.fsencode(bench.daemon.tmp))) >= 1, "it is there"
    )
    with open(bench.locks / "wild.gate", "w", encoding="ascii"):
        pass
    message = bench.daemon.client.wait_final(name)
    assert message["status"] == "completed"
    bench.assert_never_at_the_same_time()
    bench.assert_one_end(name)


def test_a_cancel_that_was_answered_survives_kill_9(bench):
    client = bench.daemon.client
    blocker = client.submit("echo", "@hang")
    queued = [client.submit("tool", f"q{i} 30000") for i in range(5)]
    for name in (blocker, queued[0], queued[4]):
        assert client.cancel(name).ok()["status"] == "cancelled"
    bench.crash()
    client = bench.daemon.client
    for name in (blocker, queued[0], queued[4]):
        assert client.message(name)["status"] == "cancelled"
        bench.assert_one_end(name)
    for name in queued[1:4]:
        client.cancel(name)
    assert bench.started("q4") == 0


def test_keys_survive_kill_9_and_so_does_their_end(bench):
    client = bench.daemon.client
    kept = client.post("/api/v1/keys", {"name": "kept", "scopes": ["teams:read"]}).ok(201)
    gone = client.post("/api/v1/keys", {"name": "gone", "scopes": ["teams:read"]}).ok(201)
    assert client.request("DELETE", "/api/v1/keys/gone").status in (200, 204)
    bench.crash()
    client = bench.daemon.client
    assert client.with_key(kept["key"]).get("/api/v1/teams").status == 200
    client.with_key(gone["key"]).get("/api/v1/teams").error(401, "UNAUTHORIZED")


@pytest.mark.deadline(120)
def test_several_kills_at_random_moments(bench):
    """Clients submit while the daemon is killed again and again; every accepted job ends, once."""
    chance = random.Random(int(os.environ.get("MUSTER_TEST_SEED", "20251120")))
    accepted, refused = [], collections.Counter()
    lock = threading.Lock()
    over = threading.Event()

    def submit(number):
        serial = 0
        while not over.is_set():
            serial += 1
            job = f"c{number}n{serial}"
            client = bench.daemon.client
            try:
                if number % 2:
                    answer = client.execute("tool", f"{job} {chance.randrange(20)}")
                else:
                    answer = client.execute("echo", f"@delay={chance.randrange(1, 20)}ms {job}")
                with lock:
                    if answer.status == 202:
                        accepted.append((job, answer.json["jobId"]))
                    else:
                        refused[answer.status] += 1
            except (OSError, HTTPException):
                pass  # the daemon is away
            over.wait(0.02)

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(int(os.environ.get("MUSTER_TEST_ROUNDS", "8"))):
            seen = len(accepted)
            wait_until(lambda: len(accepted) > seen + 5, "jobs are accepted")
            over.wait(chance.uniform(0.0, 0.15))
            bench.crash()
    finally:
        over.set()
        for thread in threads:
            thread.join(scaled(20))
    assert not refused
    client = bench.daemon.client
    for job, name in accepted:
        message = client.wait_final(name, 40)
        assert message["status"] == "completed", message
        assert message["response"].strip() in (job, "did " + job)
    for _, name in accepted[-20:] + accepted[:20]:
        bench.assert_one_end(name)
    bench.assert_never_at_the_same_time()
    # A job whose answer the crash swallowed may be there as well; it ends too.
    wait_until(
        lambda: all(client.history(status=s)["pagination"]["total"] == 0 for s in ("queued", "processing")),
        "all have ended",
    )
    wait_until(lambda: not bench.daemon.children(), "their processes have ended")
    done = client.history(limit=1)["pagination"]["total"]
    assert client.history(limit=1, status="completed")["pagination"]["total"] == done >= len(accepted)


def test_sigterm_lets_a_running_turn_end_within_the_grace(daemons, tmp_path):
    bench = Bench(daemons, tmp_path, shutdown={"grace": "20s"})
    client = bench.daemon.client
    os.mkfifo(bench.locks / "last.gate")
    name = client.submit("tool", "last gate")
    wait_until(lambda: bench.started("last"), "it runs")
    later = [client.submit("tool", f"later{i} 0") for i in range(2)]
    bench.daemon.terminate()
    wait_until(lambda: refuses(client), "new work is refused")
    with open(bench.locks / "last.gate", "w", encoding="ascii"):
        pass
    assert bench.daemon.wait_exit(knock=True) == 0
    bench.daemon.assert_clean()
    bench.daemon.start()
    client = bench.daemon.client
    assert client.message(name)["status"] == "completed"
    assert bench.started("last") == 1
    for other in later:
        assert client.wait_final(other)["status"] == "completed"


def refuses(client):
    try:
        answer = client.execute("echo", "too late")
    except OSError:
        return True
    if answer.status == 503:
        assert answer.json["code"] == "SHUTTING_DOWN" and int(answer.header("Retry-After")) > 0
        return True
    return False


def test_sigterm_parks_what_outlasts_the_grace_and_it_ends_later(daemons, tmp_path):
    bench = Bench(daemons, tmp_path, shutdown={"grace": "100ms"})
    client = bench.daemon.client
    os.mkfifo(bench.locks / "long.gate")
    long = client.submit("tool", "long gate orphan")
    hanging = client.submit("echo", "@delay=500ms parked echo")
    wait_until(lambda: bench.started("long"), "it runs")
    waiting = [client.submit("tool", f"w{i} 0") for i in range(4)]
    bench.daemon.stop()
    bench.daemon.start()
    client = bench.daemon.client
    wait_until(lambda: bench.started("long") == 2, "the parked job runs again")
    with open(bench.locks / "long.gate", "w", encoding="ascii"):
        pass
    for name in (long, hanging, *waiting):
        message = client.wait_final(name, 30)
        assert message["status"] == "completed", message
        bench.assert_one_end(name)
    bench.assert_never_at_the_same_time()
    assert bench.daemon.client.message(long).get("failures", 0) == 0, "a parked attempt is no failure"


def test_a_second_sigterm_does_not_wait(daemons, tmp_path):
    bench = Bench(daemons, tmp_path, shutdown={"grace": "10m"})
    name = bench.daemon.client.submit("echo", "@hang")
    bench.daemon.client.wait_state(name, "processing")
    client = bench.daemon.client
    bench.daemon.terminate()
    wait_until(lambda: refuses(client), "it shuts down")
    bench.daemon.terminate()
    assert bench.daemon.wait_exit(15, knock=True) == 0
    bench.daemon.assert_clean()


def test_sigint_is_like_sigterm(daemons, tmp_path):
    bench = Bench(daemons, tmp_path)
    bench.daemon.process.send_signal(signal.SIGINT)
    assert bench.daemon.wait_exit(knock=True) == 0
    bench.daemon.assert_clean()


def test_a_data_folder_has_one_daemon(bench, tmp_path):
    second = Daemon(tmp_path / "second", bench.daemon.config)
    second.data = bench.daemon.data
    second.spawn()
    try:
        status = second.process.wait(scaled(15))
    finally:
        second.end_hard()
    assert status not in (0, None) and str(bench.daemon.data) in second.log() + "\n".join(second.out)
    assert bench.daemon.client.ask("echo", "unharmed").ok()["response"] == "unharmed"


def test_a_waiting_ask_whose_daemon_was_killed_is_found_later(bench):
    client = bench.daemon.client
    body = json.dumps({"question": "@delay=200ms asked before the crash"}).encode()
    wire = Wire(client)
    wire.send(
        b"POST /api/v1/teams/echo/ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer "
        + client.key.encode()
        + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )
    wait_until(lambda: client.history(team="echo")["messages"], "it was accepted")
    bench.crash()
    assert wire.answer() is None
    found = bench.daemon.client.history(team="echo")["messages"]
    assert len(found) == 1
    assert bench.daemon.client.wait_final(found[0]["messageId"])["response"] == "asked before the crash"
    assert found[0]["status"] in ("queued", "processing", "retrying", "parked", *FINAL)
