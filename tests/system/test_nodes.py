# SPDX-License-Identifier: MPL-2.0
"""The hub's side of workers: a program that was written from `muster describe messages` alone pretends to be one."""

import hashlib
import os
import subprocess
import threading
import time

import msgpack
import pytest
import zmq

import harness
from bus_client import Bus, Refused
from harness import free_port, scaled, wait_until

TEAMS = {"far": {"driver": "remote"}, "else": {"driver": "remote"}, "echo": {"driver": "echo"}}
PART = 256 << 10


class Fake(Bus):
    """A worker that does what the test says."""

    def __init__(self, commands, name="w1", key=None, curve=None):
        super().__init__(commands, key=key, curve=curve)
        self.credential = {"key": key, "curve": curve}
        self.seconds = scaled(20)
        self.name, self.epoch, self.seq = name, os.urandom(8).hex(), 0

    def attach(self, teams=("far",), capacity=2, held=(), protocol=1, epoch=None):
        body = {
            "protocol": protocol,
            "version": "0.0.9",
            "name": self.name,
            "epoch": epoch or self.epoch,
            "host": "far.example",
            "teams": [{"name": team, "capacity": capacity} for team in teams],
            "held": [{"job": job, "attempt": attempt} for job, attempt in held],
        }
        self.number = self.send("worker.attach", body)
        self.hello = self.receive(self.number)
        self.attachment = self.hello["attachment"]
        self.seq = max(self.seq, self.hello.get("received", 0))
        return self

    def job(self, seconds=None):
        """What comes as a further answer to worker.attach."""
        return self.receive(self.number, seconds)

    def beat(self, **fields):
        return self.ask("worker.beat", attachment=self.attachment, **fields)

    def parcel(self, kind, body, seq=None, part=PART):
        """Send, in parts; returns the numbers of the requests."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        data = msgpack.packb(body)
        pieces = [data[i : i + part] for i in range(0, len(data), part)]
        head = {"attachment": self.attachment, "seq": seq, "kind": kind}
        return [
            self.send("worker.parcel", {**head, "part": i, "last": i + 1 == len(pieces), "data": piece})
            for i, piece in enumerate(pieces)
        ]

    def say(self, run, kind, body, **options):
        entry = {"at_ms": int(time.time() * 1000), "type": kind, "team": run["team"], "job": run["job"]}
        entry.update(attempt=run["attempt"], trace=run.get("trace", ""), body=msgpack.packb(body))
        return self.parcel("events", {"entries": [entry]}, **options)

    def report(self, run, state="completed", **fields):
        body = {"job": run["job"], "attempt": run["attempt"], "state": state, **fields}
        return self.parcel("report", body)

    def acked(self, numbers):
        for number in numbers:
            answer = self.receive(number)
        return answer["seq"]

    def answer(self, run, *chunks):
        for chunk in chunks:
            self.say(run, "job.chunk", {"text": chunk})
        assert self.acked(self.report(run, result="".join(chunks))) == self.seq


class Hub:
    def __init__(self, daemons, curve=False, **config):
        self.port = free_port()
        bus = {"commands": f"tcp://127.0.0.1:{self.port}", "curve": curve}
        workers = {"lease": "30s", **config.pop("workers", {})}
        self.daemon = daemons({"teams": TEAMS, "bus": bus, "workers": workers, **config})
        self.endpoint, self.curve, self.fakes = bus["commands"], curve, []
        self.client = self.daemon.client

    def key(self, name, *options):
        done = self.daemon.cli("key", "create", name, *(["--curve"] if self.curve else []), *options)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.split("\n")
        if not self.curve:
            return {"key": lines[0]}
        found = dict(line.split(" ") for line in lines[1:4])
        return {"curve": (found["curve-secret"], found["curve-public"], found["server-public"])}

    def fake(self, name="w1", credential=None, **options):
        credential = credential or self.key(f"key-{len(self.fakes)}", "--scope", "workers:run")
        self.fakes.append(Fake(self.endpoint, name, **credential, **options))
        return self.fakes[-1]

    def node(self, name="w1"):
        return self.client.get(f"/api/v1/nodes/{name}").ok()

    def metric(self, line):
        text = self.client.get("/metrics").text
        return next((float(row.rpartition(" ")[2]) for row in text.split("\n") if row.startswith(line + " ")), None)

    def ask_later(self, team, question, **fields):
        """An ask in a thread; call the result for its answer."""
        out = []
        thread = threading.Thread(target=lambda: out.append(self.client.ask(team, question, **fields)), daemon=True)
        thread.start()

        def result():
            thread.join(scaled(30))
            return out[0].ok()

        return result


@pytest.fixture
def hub(daemons):
    made = []

    def make(**options):
        made.append(Hub(daemons, **options))
        return made[-1]

    yield make
    for one in made:
        for fake in one.fakes:
            fake.close()


def refused(code, call, *arguments, **fields):
    with pytest.raises(Refused) as problem:
        call(*arguments, **fields)
    assert problem.value.code == code, problem.value
    return problem.value.args[0].get("message", "")


# ---- a worker does jobs ----


@pytest.mark.parametrize("curve", [False, True])
def test_a_worker_answers_an_ask(hub, curve):
    here = hub(curve=curve)
    answer = here.ask_later("far", "what is it?")
    wait_until(lambda: here.client.status("far")["queued"] == 1, "it waits for a worker")
    assert here.client.status("far")["status"] == "offline"
    fake = here.fake().attach()
    run = fake.job()
    assert (run["prompt"], run["team"], run["attempt"], run["node"]) == ("what is it?", "far", 1, "w1")
    fake.answer(run, "it ", "is ", "far")
    assert answer()["response"] == "it is far"
    status = here.client.status("far")
    assert (status["status"], status["workers"], status["concurrency"]) == ("idle", 1, 2)
    handed = here.daemon.wait_journal("job-handed-over", node="w1")
    assert handed["request_id"] == run["trace"]
    assert here.daemon.wait_journal("job-reported", node="w1")["request_id"] == run["trace"]


def test_chunks_of_a_worker_come_over_a_stream_in_order_and_once(hub):
    here = hub()
    fake = here.fake().attach()
    stream = here.client.stream("far", "count")
    run = fake.job()
    sent = [f"{i} " for i in range(200)]
    for i, text in enumerate(sent):
        fake.say(run, "job.chunk", {"text": text})
        if i % 10 == 0:
            fake.say(run, "job.chunk", {"text": text}, seq=fake.seq)  # the same parcel again
    fake.acked(fake.report(run, result="".join(sent)))
    events = stream.rest()
    assert [event.data["text"] for event in events if event.kind == "chunk"] == sent
    assert events[-1].kind == "complete"
    harness.assert_no_gap_no_double(events)


def test_parcels_that_were_acknowledged_do_not_count_again(hub):
    here = hub()
    fake = here.fake().attach()
    name = here.client.submit("far", "x")
    run = fake.job()
    fake.acked(fake.say(run, "job.chunk", {"text": "once"}))
    fake.attach(held=[(run["job"], run["attempt"])])  # the same life: what it said before is known
    assert fake.hello["received"] == fake.seq
    fake.acked(fake.say(run, "job.chunk", {"text": "once"}, seq=fake.seq))
    fake.seq += 1
    report = {"job": run["job"], "attempt": 1, "state": "completed", "result": "once"}
    numbers = fake.parcel("report", report, seq=fake.seq)
    again = fake.parcel("report", report, seq=fake.seq)
    fake.acked(numbers)  # the later one has the answer
    assert fake.acked(again) == fake.seq
    assert here.client.wait_final(name)["response"] == "once"
    stream = here.client.attach(name)
    assert harness.text_of(stream.rest()) == "once"


def test_large_answers_come_in_parts(hub):
    here = hub()
    fake = here.fake().attach()
    answer = here.ask_later("far", "much")
    run = fake.job()
    text = "".join(f"{i:015d} " for i in range(200_000))  # three MiB
    numbers = fake.report(run, result=text)
    assert len(numbers) > 10
    assert fake.acked(numbers) == fake.seq
    response = answer()["response"]
    assert hashlib.sha256(response.encode()).digest() == hashlib.sha256(text.encode()).digest()


def test_a_worker_gets_as_many_jobs_as_it_has_room_for_and_a_cancel(hub):
    here = hub()
    fake = here.fake().attach(capacity=2)
    names = [here.client.submit("far", f"job {i}") for i in range(3)]
    runs = [fake.job(), fake.job()]
    assert {run["prompt"] for run in runs} == {"job 0", "job 1"}
    with pytest.raises(TimeoutError):
        fake.job(0.3)
    later = threading.Thread(target=lambda: here.client.cancel(names[0]), daemon=True)
    later.start()
    first = next(run for run in runs if run["prompt"] == "job 0")
    cancel = fake.job()
    assert (cancel["job"], cancel["attempt"]) == (first["job"], 1) and "prompt" not in cancel
    fake.acked(fake.report(first, state="cancelled"))
    later.join(scaled(20))
    assert here.client.wait_final(names[0])["status"] == "cancelled"
    assert fake.job()["prompt"] == "job 2"


def test_a_failure_of_a_worker_is_tried_again(hub):
    here = hub(queue={"retry_delay": "10ms"})
    fake = here.fake().attach()
    name = here.client.submit("far", "x", retry={"maxAttempts": 2})
    fake.report(fake.job(), state="failed", code="PROCESS_ERROR", message="it fell over")
    run = fake.job()
    assert run["attempt"] == 2
    fake.answer(run, "now")
    assert here.client.wait_final(name)["response"] == "now"


# ---- who may be one ----


def test_only_a_key_with_its_scope_and_teams_is_a_worker(hub):
    here = hub()
    stranger = here.fake(credential={"key": None})
    refused("UNAUTHORIZED", stranger.attach)
    other = here.fake(credential=here.key("other", "--scope", "teams:write"))
    refused("FORBIDDEN", other.attach)
    refused("FORBIDDEN", other.ask, "worker.beat", attachment=1)
    kept = here.fake(credential=here.key("kept", "--scope", "workers:run", "--team", "far"))
    refused("FORBIDDEN", kept.attach, teams=("far", "else"))
    refused("FORBIDDEN", kept.ask, "log.read")
    refused("FORBIDDEN", kept.ask, "queue.submit", job={"team": "far", "prompt": "x"})
    kept.attach()
    assert [node["name"] for node in here.client.get("/api/v1/nodes").ok()["nodes"]] == ["w1"]
    assert here.metric("muster_nodes_attached_total") == 1


def test_with_curve_only_registered_keys_reach_it(hub):
    here = hub(curve=True)
    good = here.key("good", "--scope", "workers:run")["curve"]
    public, secret = (key.decode() for key in zmq.curve_keypair())
    for curve in ((secret, public, good[2]), (good[0], good[1], public), None):
        fake = Fake(here.endpoint, "bad", curve=curve)
        here.fakes.append(fake)
        fake.seconds = 0.7
        with pytest.raises(TimeoutError):
            fake.attach()
    here.fake(credential={"curve": good}).attach()
    assert [node["name"] for node in here.client.get("/api/v1/nodes").ok()["nodes"]] == ["w1"]


def test_a_refusal_says_what_to_do(hub):
    here = hub()
    fake = here.fake()
    text = refused("VERSION_MISMATCH", fake.attach, protocol=7)
    assert "7" in text and "1" in text and "0.0.9" in text and "same version" in text
    text = refused("TEAM_NOT_FOUND", fake.attach, teams=("far", "nowhere"))
    assert "nowhere" in text and "driver: remote" in text
    assert "echo" in refused("CONFLICT", fake.attach, teams=("echo",))
    fake.attach()
    other = here.fake()
    assert "--name" in refused("CONFLICT", other.attach)
    other.name = "w2"
    other.attach()
    assert here.metric("muster_nodes_refused_total") == 4


def test_a_key_that_is_revoked_is_no_worker_any_more(hub):
    here = hub(workers={"lease": "1s"})
    fake = here.fake(credential=here.key("goes", "--scope", "workers:run")).attach()
    name = here.client.submit("far", "x")
    fake.job()
    assert here.daemon.cli("key", "revoke", "goes").returncode == 0
    refused("UNAUTHORIZED", fake.job)
    refused("UNAUTHORIZED", fake.beat)
    wait_until(lambda: here.node()["state"] == "lost", "its lease ends")
    here.client.wait_state(name, "queued")


def test_what_a_worker_makes_up_does_not_count(hub):
    here = hub()
    fake = here.fake().attach()
    mine = here.client.submit("far", "mine")
    theirs = here.client.submit("else", "theirs")
    run = fake.job()
    waiting = here.client.message(theirs)["messageId"].removeprefix("msg_").replace("-", "")
    for job, attempt in ((bytes.fromhex(waiting), 1), (os.urandom(16), 1), (run["job"], 2)):
        made_up = {"job": job, "attempt": attempt, "team": "else"}
        fake.acked(fake.say(made_up, "job.chunk", {"text": "lies"}))
        fake.acked(fake.report(made_up, result="lies"))
    fake.acked(fake.say(run, "job.completed", {"duration_ms": 1}))
    assert here.client.message(theirs)["status"] == "queued"
    assert here.client.message(mine)["status"] == "processing"
    fake.answer(run, "true")
    assert here.client.wait_final(mine)["response"] == "true"
    assert here.metric("muster_nodes_stale_total") >= 7


# ---- leases ----


def test_a_worker_that_comes_back_goes_on_and_one_that_does_not_is_replaced(hub):
    here = hub(workers={"lease": "1s"})
    credential = here.key("both", "--scope", "workers:run")
    fake = here.fake(credential=credential).attach()
    stream = here.client.stream("far", "x")
    run = fake.job()
    fake.acked(fake.say(run, "job.chunk", {"text": "one "}))
    assert stream.until("lost").data["node"] == "w1"  # it does not beat
    fake.attach(held=[(run["job"], run["attempt"])])
    assert not fake.hello.get("stale")
    assert stream.until("found").data["node"] == "w1"
    fake.acked(fake.say(run, "job.chunk", {"text": "two"}))
    assert stream.until("lost")
    other = here.fake("w2", credential=credential).attach()
    second = other.job()
    assert (second["job"], second["attempt"]) == (run["job"], 2)
    other.answer(second, "three")
    events = stream.rest()
    assert [event.kind for event in events if event.kind in ("lost", "found", "complete")] == [
        "lost",
        "found",
        "lost",
        "complete",
    ]
    told = here.daemon.cli("job", events[0].data["messageId"], "--follow")
    assert told.returncode == 0 and told.stdout.rstrip().endswith("three")
    for words in ("the worker w1 was lost", "the worker w1 is back", "the answer begins anew"):
        assert words in told.stderr, told.stderr
    fake.attach(held=[(run["job"], run["attempt"])])
    assert [held["attempt"] for held in fake.hello["stale"]] == [1]
    assert here.metric("muster_nodes_lost_total") >= 2


# ---- operators ----


def test_a_worker_is_drained_shown_and_forgotten(hub):
    here = hub()
    fake = here.fake().attach()
    name = here.client.submit("far", "first")
    run = fake.job()
    fake.beat(parcels=3, parcels_bytes=100, oldest_ms=1200, round_trip_ms=4, load=0.5, cpus=16)
    node = wait_until(lambda: (here.node()["load"]["cpus"] == 16) and here.node(), "its beat is shown")
    assert (node["state"], node["running"], node["lag"]["parcels"]) == ("up", 1, 3)
    assert node["teams"] == [{"name": "far", "capacity": 2, "running": 1, "fits": True}]
    shown = here.daemon.cli("nodes").stdout
    assert shown.split("\n")[0].split() == ["NODE", "STATE", "HOST", "VERSION", "TEAMS", "LOAD", "LAG", "HEARD"]
    assert "(server)" in shown and "far 1/2" in shown and "0.50 of 16" in shown and "3, 1.2 s" in shown
    environ = {**here.daemon.environment(), "MUSTER_URL": here.daemon.url, "MUSTER_API_KEY": here.client.key}
    waiting = subprocess.Popen(
        [str(harness.binary()), "drain", "w1", "--wait"], env=environ, stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: here.node()["state"] == "draining", "it drains")
    assert fake.beat()["draining"]
    later = here.client.submit("far", "second")
    with pytest.raises(TimeoutError):
        fake.job(0.3)
    assert waiting.poll() is None
    fake.answer(run, "done")
    assert here.client.wait_final(name)["response"] == "done"
    assert waiting.communicate(timeout=scaled(20))[0] == "draining\n" and waiting.returncode == 0
    here.client.request("DELETE", "/api/v1/nodes/w1").error(409, "CONFLICT")
    here.daemon.kill9()
    here.daemon.start()
    here.client = here.daemon.client
    assert here.node()["draining"]  # it stays so
    done = here.daemon.cli("drain", "w1", "--resume")
    assert done.returncode == 0, done.stderr
    fake = here.fake(credential=fake.credential).attach(epoch=fake.epoch)
    run = fake.job()
    assert run["prompt"] == "second"
    fake.answer(run, "done")
    assert here.client.wait_final(later)["response"] == "done"
    assert fake.ask("worker.leave", attachment=fake.attachment)["name"] == "w1"
    wait_until(lambda: here.node()["state"] == "left", "it has left")
    assert here.client.request("DELETE", "/api/v1/nodes/w1").ok() == {"name": "w1", "forgotten": True}
    here.client.get("/api/v1/nodes/w1").error(404, "NOT_FOUND")
    assert here.daemon.cli("drain", "w1").returncode == 5
    assert here.daemon.cli("drain", "w1", "--wait", "--resume").returncode == 2


def test_keys_see_workers_of_their_teams(hub):
    here = hub()
    here.fake("w1").attach(teams=("far", "else"))
    here.fake("w2").attach(teams=("else",))
    kept = here.client.with_key(here.key("kept", "--scope", "processes:manage", "--team", "far")["key"])
    answer = kept.get("/api/v1/nodes").ok()
    assert [(node["name"], [team["name"] for team in node["teams"]]) for node in answer["nodes"]] == [("w1", ["far"])]
    assert answer["hub"]["teams"] == []
    kept.post("/api/v1/nodes/w1/drain", {}).error(403, "FORBIDDEN")
    kept.get("/api/v1/nodes/w2").error(404, "NOT_FOUND")
    assert [team["name"] for team in here.client.get("/api/v1/nodes").ok()["hub"]["teams"]] == ["echo"]
