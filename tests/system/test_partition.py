# SPDX-License-Identifier: MPL-2.0
"""A hub and workers on hosts of their own, and a network between them that fails in every way: each job that was
accepted ends once, with the right answer, no attempt is spent, and who follows the events sees each of them once, in
order.

MUSTER_TEST_SEED chooses another random life; the seed is printed."""

import collections
import os
import random
import signal
import threading
import time
import uuid
from http.client import HTTPException

import msgpack
import pytest
import zmq

from bus_client import Bus, Refused
from harness import FINAL, PYTHON, SLOW, Daemon, Worker, scaled, wait_until
from net import Bed, Unavailable, frames_of, streams_of

SEED = int(os.environ.get("MUSTER_TEST_SEED", "20261120"))
LEASE = 3.0 * max(1.0, SLOW / 2)
COMMANDS, EVENTS = 5570, 5571

pytestmark = pytest.mark.deadline(120)


@pytest.fixture(scope="module")
def bed():
    try:
        with Bed("hub", "w1", "w2", seed=SEED) as made:
            yield made
    except Unavailable as why:
        pytest.skip(f"no network namespaces: {why}")


PROGRAM = """
import sys, time
seconds, text = sys.stdin.read().split(' ', 1)
print('begun', flush=True)
time.sleep(float(seconds))
print(text)
"""


class Site:
    """The hub, reached by a link that is never cut, and a worker on each other host."""

    teams = {
        "echo": {"driver": "echo", "concurrency": 6},
        "tool": {
            "driver": "command",
            "command": [PYTHON, "-IS", "-c", PROGRAM],
            "concurrency": 2,
            "stop_timeout": "200ms",
        },
    }

    def __init__(self, bed, folder, daemons):
        self.bed, self.folder, self.workers, self.clients = bed, folder, {}, []
        config = {
            "teams": {name: {"driver": "remote"} for name in self.teams},
            "bus": {"commands": f"tcp://0.0.0.0:{COMMANDS}", "events": f"tcp://0.0.0.0:{EVENTS}"},
            "workers": {"lease": f"{LEASE:g}s"},
            "queue": {"max_running": 32},
        }
        self.hub = daemons(config, prefix=bed["hub"].prefix, listen=f"{bed.management}:3100")
        for name in bed.hosts:
            if name != "hub":
                self.worker(name)

    @property
    def client(self):
        return self.hub.client

    def key(self, name, *options):
        done = self.hub.cli("key", "create", name, "--curve", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def worker(self, name):
        file = self.folder / f"{name}.key"
        file.write_text(self.key(name, "--scope", "workers:run"))
        section = {
            "hub": f"tcp://{self.bed['hub'].address}:{COMMANDS}",
            "name": name,
            "hub_key": str(self.hub.data / "bus.key.pub"),
            "curve_key": str(file),
            "reconnect": "50ms",
            "max_reconnect": "1s",
        }
        made = Worker(self.folder / name, {"worker": section, "teams": self.teams}, prefix=self.bed[name].prefix)
        self.workers[name] = made
        made.start()

    def bus(self, name):
        lines = dict(line.split(" ") for line in self.key(name, "--scope", "admin:*").split("\n")[1:4])
        curve = lines["curve-secret"], lines["curve-public"], lines["server-public"]
        at = self.bed.management
        client = Bus(f"tcp://{at}:{COMMANDS}", f"tcp://{at}:{EVENTS}", curve=curve)
        client.seconds = scaled(20)
        self.clients.append(client)
        return client

    def nodes(self):
        return {node["name"]: node for node in self.client.get("/api/v1/nodes").ok()["nodes"]}

    def wait_node(self, name, *states, seconds=20):
        wait_until(lambda: self.nodes()[name]["state"] in states, f"{name} is {states}", seconds, pause=0.05)

    def end(self):
        for client in self.clients:
            client.close()
        problems = []
        for host in self.bed.hosts.values():
            host.restore()
        for worker in self.workers.values():
            try:
                worker.end_of_test()
            except AssertionError as problem:
                problems.append(problem)
        if problems:
            raise problems[0]


@pytest.fixture
def site(bed, daemons, tmp_path):
    for host in bed.hosts.values():
        host.restore()
    made = Site.__new__(Site)
    made.bed, made.workers, made.clients = bed, {}, []
    try:
        made.__init__(bed, tmp_path, daemons)
        yield made
    finally:
        made.end()


class Over(Exception):
    pass


class Follower(threading.Thread):
    """A subscriber that resumes: all events from the first on, over every break."""

    def __init__(self, bus):
        super().__init__(daemon=True)
        self.bus, self.seen, self.problem = bus, [], None
        self.over = threading.Event()
        self.socket, bus.events = bus.events, self
        self.subscribe, self.ask = self.socket.subscribe, bus.ask
        bus.ask, bus.seconds = self.ask_again, scaled(1)
        self.start()

    def ask_again(self, kind, **body):
        while not self.over.is_set():
            try:
                return self.ask(kind, **body)
            except TimeoutError:
                continue  # the hub went away with it
        raise Over

    def recv_multipart(self):
        while not self.socket.poll(100):
            if self.over.is_set():
                raise Over
        return self.socket.recv_multipart()

    def run(self):
        try:
            for cursor, event in self.bus.follow(""):
                event["body"] = msgpack.unpackb(event["body"])
                self.seen.append((cursor, event))
        except Over:
            pass
        except (Refused, zmq.ZMQError) as problem:
            self.problem = problem

    def end(self):
        self.over.set()
        self.join(scaled(20))

    def ended(self):
        return {event["job"] for _, event in list(self.seen) if event["type"].partition(".")[2] in FINAL}


class Load:
    """Jobs all the time, each with an answer of its own.  What is refused or not answered is sent again under the same
    key, so that it is one job whatever happens."""

    def __init__(self, site, seed, pause=0.08):
        self.site, self.chance, self.pause = site, random.Random(seed), pause
        self.jobs = {}  # name: answer
        self.problems = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.follower = Follower(site.bus("follower"))
        self.reader = site.bus("reader")
        self.thread.start()

    def job(self, number):
        text = f"answer {number} " + "".join(self.chance.choices("abcdefgh ", k=self.chance.randrange(5, 60))).strip()
        kind = self.chance.random()
        if kind < 0.6:
            return "echo", f"@chunks={self.chance.randrange(1, 9)} @gap={self.chance.randrange(1, 80)}ms {text}", text
        if kind < 0.8:
            return "echo", f"@delay={self.chance.randrange(1, 400)}ms @chunks=3 @gap=200ms {text}", text
        if kind < 0.85:
            return "echo", f"@chunks=40 @gap=100ms {text}", text  # longer than the lease
        if kind < 0.9:
            return "echo", "@chunks=10 @gap=20ms @size=200000", "x" * 200_000
        return "tool", f"{self.chance.uniform(0, 1.5):.2f} {text}", f"begun\n{text}"

    def run(self):
        number = 0
        while not self.over.is_set():
            number += 1
            team, prompt, answer = self.job(number)
            try:
                self.submit(f"load-{number}", team, prompt, answer)
            except Exception as problem:  # pylint: disable=broad-except
                self.problems.append(problem)
                return
            self.over.wait(self.pause)

    def submit(self, key, team, prompt, answer):
        end = time.monotonic() + scaled(30)
        while time.monotonic() < end:
            try:
                got = self.site.client.post(
                    f"/api/v1/teams/{team}/execute", {"task": prompt}, headers={"Idempotency-Key": key}, seconds=10
                )
            except (OSError, HTTPException):
                self.over.wait(0.05)  # the hub is away
                continue
            if got.status == 202:
                self.jobs[got.json["jobId"]] = answer
                return
            assert got.status in (503, 409), got
            self.over.wait(0.05)
        raise AssertionError(f"{key} was not accepted")

    def wait_more(self, count=5):
        """Go on until so many more were accepted: the load is there."""
        before = len(self.jobs)
        wait_until(lambda: len(self.jobs) >= before + count or self.problems, "jobs are accepted", 30)

    def for_seconds(self, seconds):
        """The test's own time: the network is to be as it is for so long, while the load goes on."""
        threading.Event().wait(seconds)

    # ---- what must be so in the end

    def end(self):
        self.over.set()
        self.thread.join(scaled(60))
        assert not self.problems, self.problems
        self.records = {name: self.finished(name) for name in list(self.jobs)}
        wait_until(
            lambda: {job["id"] for job in self.records.values()} <= self.follower.ended() or self.follower.problem,
            "the follower has seen all ends",
            60,
        )
        assert not self.follower.problem, self.follower.problem
        self.follower.end()
        self.check_events()
        for worker in self.site.workers.values():
            wait_until(lambda w=worker: not w.children(), f"no process is left of {worker.folder.name}", 20)
        assert not self.site.hub.children()
        return self.records

    def finished(self, name):
        job = wait_until(lambda: self.final(name), f"{name} has ended", 60)
        assert job["state"] == "completed", job
        assert job["result"] == self.jobs[name], (job, self.jobs[name])
        assert job.get("failures", 0) == 0, job
        return job

    def final(self, name):
        job = self.reader.ask("job.read", job=uuid.UUID(name.partition("_")[2]).bytes)["job"]
        return job if job["state"] in FINAL else None

    def check_events(self):
        seen = list(self.follower.seen)
        numbers = [event["seq"] for _, event in seen]
        assert numbers == sorted(set(numbers)), "an event came twice, or out of order"
        logged, cursor, more = {}, "", True
        while more:
            page = self.reader.ask("log.read", after=cursor, limit=1000)
            for event in page.get("events", ()):
                event["body"] = msgpack.unpackb(event["body"])
                if event["seq"] <= numbers[-1]:
                    logged[event["seq"]] = event
            cursor, more = page["next"], page.get("more")
        by_number = {event["seq"]: event for _, event in seen}
        assert not set(logged) - set(by_number), "the follower missed something"
        assert all(by_number[number] == event for number, event in logged.items())
        by_job = collections.defaultdict(list)
        for number in sorted(logged):
            by_job[logged[number].get("job")].append(logged[number])
        for name, job in self.records.items():
            self.check_job(name, job, by_job[job["id"]])
        # A job whose acceptance the hub could not tell any more is one of the above: its key was sent again.
        known = {job["id"] for job in self.records.values()}
        assert {event["job"] for events in by_job.values() for event in events if event.get("job")} <= known

    def torn(self):
        """What was lost although its worker lives and had begun it.  An attempt that is on disk and on its way to the
        worker when the hub is killed is lost, too, but the worker has never had it."""
        seen = [event for _, event in self.follower.seen]
        begun = {(one["job"], one["attempt"]) for one in seen if one["type"] in ("job.started", "job.chunk")}
        lost = [one for one in seen if one["type"] == "job.lost"]
        return [
            one
            for one in lost
            if (one["job"], one["attempt"]) in begun or one["body"]["reason"] != "the worker came back without it"
        ]

    def check_job(self, name, job, events):
        kinds = [event["type"] for event in events]
        story = [(event["type"], event.get("attempt")) for event in events if event["type"] != "job.chunk"]
        assert kinds.count("job.queued") == 1 and kinds[0] == "job.queued", (name, story)
        assert kinds.count("job.completed") == 1 and kinds[-1] == "job.completed", (name, story)
        assert "job.retrying" not in kinds and "job.failed" not in kinds, (name, story)
        assert kinds.count("job.lost") == job.get("losses", 0) or "job.parked" in kinds, (name, story, job)
        assert job["attempt"] <= 1 + job.get("losses", 0) + kinds.count("job.parked"), (name, story, job)
        attempts = [event["attempt"] for event in events if event["type"] in ("job.started", "job.chunk")]
        assert attempts == sorted(attempts), (name, story)
        assert attempts[-1] == job["attempt"], (name, story)
        text = "".join(e["body"]["text"] for e in events if e["type"] == "job.chunk" and e["attempt"] == job["attempt"])
        assert text.removesuffix("\n") == job["result"], (name, story, text[:200], job["result"][:200])


@pytest.fixture
def load(site):
    made = Load(site, SEED)
    print(f"MUSTER_TEST_SEED={SEED}")
    yield made
    made.over.set()
    made.follower.end()
    made.thread.join(scaled(30))


def running_on(site, name, team=None):
    """Attempts that the hub counts there."""
    return sum(one["running"] for one in site.nodes()[name]["teams"] if team in (None, one["name"]))


def wait_running_on(site, name, count=1):
    wait_until(lambda: running_on(site, name) >= count, f"{name} has {count} jobs")


def losses(records):
    return sum(job.get("losses", 0) for job in records.values())


def changes(load):
    """How workers stood, one after the other, as the events tell."""
    found = collections.defaultdict(list)
    for _, event in load.follower.seen:
        if event["type"] == "node.changed":
            found[event["body"]["node"]].append(event["body"]["state"])
    return found


def test_a_calm_network(site, load):
    load.wait_more(40)
    records = load.end()
    assert losses(records) == 0 and {job["attempt"] for job in records.values()} == {1}
    assert {job["node"] for job in records.values()} == {"w1", "w2"}
    assert len(records) >= 40


def test_a_cut_shorter_than_the_lease_is_not_seen_at_all(site, load):
    for seconds in (0.1, 0.3, LEASE * 0.3):
        wait_running_on(site, "w1")
        _, dropped = site.bed.stats()
        site.bed["w1"].cut()
        load.for_seconds(seconds)
        site.bed["w1"].restore()
        load.wait_more(10)
        if seconds > 0.2:
            assert site.bed.stats()[1] > dropped, "the cut hit nothing"
    records = load.end()
    assert losses(records) == 0 and {job["attempt"] for job in records.values()} == {1}
    assert "lost" not in changes(load)["w1"]


def test_a_cut_longer_than_the_lease(site, load):
    load.wait_more(20)
    wait_running_on(site, "w1", 2)
    site.bed["w1"].cut()
    site.wait_node("w1", "lost", seconds=LEASE * 3)
    load.wait_more(20)
    site.bed["w1"].restore()
    site.wait_node("w1", "up", seconds=30)
    load.wait_more(20)
    records = load.end()
    assert losses(records) > 0, "nothing was lost: the test has shown nothing"
    assert len(site.workers["w1"].journal("link-attached")) >= 2


def test_attempts_of_a_worker_that_comes_back_in_time_go_on(site, load):
    """Nobody else can begin them: the other worker is cut off as well."""
    load.wait_more(10)
    names = {}
    for i in range(4):
        key, text = f"long-{i}", f"long {i} " + "word " * 20 + "end"
        load.submit(key, "echo", f"@chunks=90 @gap=100ms {text}", text)
        names[list(load.jobs)[-1]] = None
    for name in names:
        site.client.wait_state(name, "processing")
    for worker in ("w1", "w2"):
        site.bed[worker].cut()
    for worker in ("w1", "w2"):
        site.wait_node(worker, "lost", seconds=LEASE * 3)
    for worker in ("w1", "w2"):
        site.bed[worker].restore()
    records = load.end()
    kinds = collections.Counter(event["type"] for _, event in load.follower.seen)
    assert kinds["job.found"] > 0 and kinds["job.lost"] > 0
    found = {event["job"] for _, event in load.follower.seen if event["type"] == "job.found"}
    assert any(records[name]["id"] in found and records[name]["attempt"] == 1 for name in names)


def test_a_link_that_flaps(site, load):
    chance = random.Random(SEED + 1)
    load.wait_more(10)
    for _ in range(12):
        one = chance.choice(("w1", "w2"))
        site.bed[one].cut()
        load.for_seconds(chance.uniform(0.05, LEASE * 0.4))
        site.bed[one].restore()
        load.for_seconds(chance.uniform(0.05, 0.5))
    load.wait_more(10)
    load.end()


@pytest.mark.parametrize("how, amount", [("delay", 200), ("lose", 5), ("lose", 20)])
def test_a_slow_or_lossy_link(site, load, how, amount):
    load.wait_more(5)
    handed, dropped = site.bed.stats()
    getattr(site.bed["w1"], how)(amount)
    load.for_seconds(4)
    load.wait_more(20)
    if how == "lose":
        assert site.bed.stats()[1] > dropped + 10
    site.bed["w1"].restore()
    assert site.bed.stats()[0] > handed
    records = load.end()
    done_there = [job for job in records.values() if job["node"] == "w1"]
    assert len(done_there) > 5
    if how == "delay":
        assert losses(records) == 0 and {job["attempt"] for job in records.values()} == {1}


def test_a_worker_killed_and_started_again(site, load):
    chance = random.Random(SEED + 2)
    for round_ in range(3):
        load.wait_more(15)
        one = ("w1", "w2", "w1")[round_]
        wait_running_on(site, one)
        load.for_seconds(chance.uniform(0, 0.2))
        site.workers[one].kill9()
        load.for_seconds(chance.uniform(0, 0.5))
        site.workers[one].start()
    load.wait_more(10)
    records = load.end()
    assert losses(records) > 0


def test_a_hub_killed_and_started_again(site, load):
    chance = random.Random(SEED + 3)
    for _ in range(3):
        load.wait_more(15)
        wait_running_on(site, "w1")
        load.for_seconds(chance.uniform(0, 0.2))
        site.hub.kill9()
        load.for_seconds(chance.uniform(0, 0.5))
        site.hub.start()
        for worker in site.workers.values():
            assert worker.process.poll() is None
    load.wait_more(10)
    load.end()
    assert not load.torn(), "what ran on a worker when the hub was killed goes on"


def test_both_killed_at_once_and_a_cut_on_top(site, load):
    load.wait_more(15)
    wait_running_on(site, "w1")
    site.bed["w2"].cut()
    site.hub.kill9()
    site.workers["w1"].kill9()
    site.hub.start()
    site.workers["w1"].start()
    load.wait_more(5)
    site.bed["w2"].restore()
    load.wait_more(10)
    load.end()


def test_a_host_that_vanishes_for_good(site, load):
    load.wait_more(15)
    wait_running_on(site, "w1", 2)
    gone = site.workers["w1"]
    site.bed["w1"].cut()
    gone.kill9()
    for pid in gone.children():
        os.kill(pid, signal.SIGKILL)
    site.wait_node("w1", "lost", seconds=LEASE * 3)
    load.wait_more(10)
    records = load.end()
    assert losses(records) > 0
    assert all(job["node"] == "w2" for job in records.values() if job.get("losses"))
    forgotten = site.client.request("DELETE", "/api/v1/nodes/w1")
    assert forgotten.status == 200 and "w1" not in site.nodes()


def test_nothing_can_be_read_on_the_wire(site, tmp_path):
    """The same search finds the same words when they go over the same wire as they are."""
    word = "swordfish" + uuid.uuid4().hex
    noise = random.Random(SEED).randbytes(50_000).hex()
    file = tmp_path / "frames"
    with site.bed.capture(file):
        for team, prompt in (("echo", f"@chunks=5 {word} {noise}"), ("tool", f"0 {word} {noise}")):
            assert word in site.client.ask(team, prompt).ok()["response"]
    key = (site.folder / "w1.key").read_text().split()
    secrets = [word, noise[:60], noise[-60:], "muster_sk_", "job.chunk", *(text for text in key if len(text) >= 32)]
    said = streams_of(file)
    size = sum(len(text) for text in said.values())
    assert size > 4 * len(noise), "what was asked and answered did not go over this wire"
    for needle in secrets:
        assert not any(needle.encode() in text for text in said.values()), needle
        assert not any(needle.encode() in frame for frame in frames_of(file)), needle
    control = tmp_path / "control"
    with site.bed.capture(control), site.bed["hub"].listen() as server:
        with site.bed["w1"].dial(server.getsockname()) as client:
            other, _ = server.accept()
            for needle in secrets:
                client.sendall(needle.encode())
            client.sendall(b".")
            got = bytearray()
            while not got.endswith(b"."):
                got += other.recv(65536)
            other.close()
    (name,) = [name for name, text in streams_of(control).items() if word.encode() in text]
    assert all(needle.encode() in streams_of(control)[name] for needle in secrets)


def test_a_request_id_leads_over_the_network(site):
    """Also when the attempt was done by another worker than the one that had it first."""
    request = "trace-over-the-network"
    text = "@chunks=60 @gap=100ms " + "word " * 60
    answer = site.client.post("/api/v1/teams/echo/execute", {"task": text}, headers={"X-Request-Id": request}).ok(202)
    site.client.wait_state(answer["jobId"], "processing")
    first = wait_until(lambda: site.hub.journal("job-handed-over", request_id=request), "it is handed over")[0]["node"]
    other = {"w1": "w2", "w2": "w1"}[first]
    site.workers[first].wait_journal("job-begun", request_id=request)
    site.bed[first].cut()
    assert site.client.wait_final(answer["jobId"], 40)["status"] == "completed"
    handed = site.hub.journal("job-handed-over", request_id=request)
    assert [(line["node"], line["attempt"]) for line in handed] == [(first, 1), (other, 2)]
    assert site.workers[other].journal("job-begun", request_id=request)[0]["attempt"] == 2
    assert site.hub.journal("job-reported", request_id=request)[-1]["node"] == other
    site.bed[first].restore()
    site.wait_node(first, "up", seconds=30)
    wait_until(lambda: running_on(site, first) == 0, "the first one has given it up")
