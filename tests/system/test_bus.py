# SPDX-License-Identifier: MPL-2.0
"""ZeroMQ clients: commands, events, CURVE, limits, and what bad clients cannot do."""

import os
import random
import re
import socket
import struct
import threading
import time
import uuid

import msgpack
import pytest
import zmq
import zmq.utils.z85

import bus_small
import harness
from bus_client import NOBODY, Bus, Refused
from harness import free_port, scaled, wait_until

TEAMS = {"echo": {"driver": "echo", "concurrency": 8}, "other": {"driver": "echo"}}


def endpoints(transport):
    if transport == "ipc":
        return {"commands": "ipc://commands.sock", "events": "ipc://events.sock"}
    return {"commands": f"tcp://127.0.0.1:{free_port()}", "events": f"tcp://127.0.0.1:{free_port()}"}


class Site:
    """A daemon with ZeroMQ, and clients of it."""

    def __init__(self, daemons, transport="ipc", curve=False, **config):
        bus = {**endpoints(transport), "curve": curve, "open_events": not curve, **config.pop("bus", {})}
        self.daemon = daemons({"teams": TEAMS, "bus": bus, **config})
        self.curve = curve
        self.endpoints = {
            name: bus[name].replace("ipc://", f"ipc://{self.daemon.folder}/") for name in ("commands", "events")
        }
        self.clients = []

    def bus(self, key=None, curve=None, events=False):
        client = Bus(
            self.endpoints["commands"],
            self.endpoints["events"] if events else None,
            key=None if curve else key or self.daemon.key,
            curve=curve,
        )
        client.seconds = scaled(20)
        self.clients.append(client)
        return client

    def key(self, name, *options):
        """What `muster key create` prints."""
        done = self.daemon.cli("key", "create", name, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")

    def curve_key(self, name, *options):
        lines = self.key(name, "--curve", *options)
        found = dict(line.split(" ") for line in lines[1:4])
        return found["curve-secret"], found["curve-public"], found["server-public"]

    def metric(self, name):
        text = self.daemon.client.get("/metrics").text
        return int(re.search(rf"^{name} (\d+)$", text, re.M).group(1))


@pytest.fixture
def site(daemons):
    made = []

    def make(*arguments, **options):
        made.append(Site(daemons, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        for client in one.clients:
            client.close()


def refused(code, call, *arguments, **fields):
    with pytest.raises(Refused) as problem:
        call(*arguments, **fields)
    assert problem.value.code == code
    return problem.value


def cursor_number(cursor):
    return int(cursor.rpartition("-")[2])


# ---- commands ----


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_submit_wait_read_cancel_place_and_pause(site, transport):
    bus = site(transport).bus()
    assert bus.welcome["server"] == "muster" and bus.welcome["name"] == "admin"
    job = bus.submit_and_wait(team="echo", prompt="hello", context='{"a":1}')
    assert (job["state"], job["result"], job["from"], job["kind"]) == ("completed", "hello", "admin", "ask")
    assert bus.ask("job.read", job=job["id"])["job"]["context"] == '{"a":1}'
    assert bus.ask("queue.pause", team="other", paused=True)["paused"]
    first = bus.ask("queue.submit", job={"team": "other", "prompt": "one"})
    second = bus.ask("queue.submit", job={"team": "other", "prompt": "two"})
    assert bus.ask("queue.place", job=second["job"])["position"] == 2
    cancelled = bus.ask("queue.cancel", job=first["job"])
    assert cancelled["state"] == "cancelled"
    assert bus.ask("job.read", job=first["job"])["job"]["state"] == "cancelled"
    assert bus.ask("queue.cancel", job=first["job"])["state"] == "cancelled"  # again: the same
    assert not bus.ask("queue.pause", team="other").get("paused")


def test_what_does_not_fit_is_refused_with_its_code(site):
    bus = site().bus()
    job = {"team": "echo", "prompt": "x"}
    refused("TEAM_NOT_FOUND", bus.ask, "queue.submit", job={**job, "team": "nobody"})
    refused("NOT_FOUND", bus.ask, "job.read", job=uuid.uuid4().bytes)
    refused("NOT_FOUND", bus.ask, "queue.cancel", job=uuid.uuid4().bytes)
    refused("INVALID_REQUEST", bus.ask, "queue.submit", job={"team": "echo"})
    refused("INVALID_REQUEST", bus.ask, "queue.submit", job={**job, "context": "[1]"})
    refused("INVALID_REQUEST", bus.ask, "queue.submit", job={**job, "callback": {"url": "http://127.0.0.1/x"}})
    refused("INVALID_REQUEST", bus.ask, "queue.submit", job={**job, "deadline_ms": 1})
    refused("INVALID_REQUEST", bus.ask, "store.commit", puts=[])
    refused("INVALID_REQUEST", bus.ask, "log.read", after="nonsense")
    refused("CURSOR_EXPIRED", bus.ask, "log.read", after="0123456789abcdef-1")
    number = bus.send("job.read", {"job": uuid.uuid4().bytes}, deadline=1)
    refused("TIMEOUT", bus.receive, number)


def test_the_deadline_ends_the_wait_and_not_the_job(site):
    bus = site().bus()
    bus.ask("queue.pause", team="other", paused=True)
    number = bus.send(
        "queue.submit",
        {"job": {"team": "other", "prompt": "later"}, "wait": True},
        deadline=int(time.time() * 1000 + scaled(1) * 1000),
    )
    job = bus.receive(number)["job"]
    refused("TIMEOUT", bus.receive, number)
    assert bus.ask("job.read", job=job)["job"]["state"] == "queued"
    bus.ask("queue.pause", team="other")
    wait_until(lambda: bus.ask("job.read", job=job)["job"]["state"] == "completed", "the job goes on")


def test_the_same_idempotency_key_is_one_job_of_one_caller(site):
    here = site()
    bus, other = here.bus(), here.bus(here.key("second")[0])
    job = {"team": "echo", "prompt": "once", "idempotency": "a-1"}
    first = bus.submit_and_wait(**job)
    again = bus.ask("queue.submit", job=job)
    assert again["repeated"] and again["job"] == first["id"]
    assert bus.submit_and_wait(**job)["id"] == first["id"]
    refused("IDEMPOTENCY_MISMATCH", bus.ask, "queue.submit", job={**job, "prompt": "twice"})
    assert not other.ask("queue.submit", job=job).get("repeated")
    # A digest is not taken as such: what another caller's job has is no way to it.
    assert "idempotency" not in bus.ask("job.read", job=first["id"])["job"]


# ---- who may ----


def test_without_a_good_key_nothing_is_answered_but_unauthorized(site):
    here = site()
    stranger = Bus(here.endpoints["commands"])
    here.clients.append(stranger)
    refused("UNAUTHORIZED", stranger.ask, "job.read", job=uuid.uuid4().bytes)
    refused("UNAUTHORIZED", stranger.ask, "bus.hello", key="muster_sk_wrong")
    refused("UNAUTHORIZED", stranger.ask, "bus.hello")
    key = here.key("short")[0]
    bus = here.bus(key)
    assert bus.ask("log.read")["settled"] >= 0
    assert here.daemon.cli("key", "revoke", "short").returncode == 0
    refused("UNAUTHORIZED", bus.ask, "log.read")


def test_scopes_and_teams_are_those_of_the_key(site):
    here = site()
    reader = here.bus(here.key("reader", "--scope", "teams:read,messages:read")[0])
    refused("FORBIDDEN", reader.ask, "queue.submit", job={"team": "echo", "prompt": "x"})
    refused("FORBIDDEN", reader.ask, "log.read")
    admin = here.bus()
    theirs = admin.submit_and_wait(team="other", prompt="secret")
    assert reader.ask("job.read", job=theirs["id"])["job"]["result"] == "secret"
    kept = here.bus(here.key("kept", "--scope", "teams:write,processes:manage", "--team", "echo")[0])
    refused("FORBIDDEN", kept.ask, "queue.submit", job={"team": "other", "prompt": "x"})
    refused("FORBIDDEN", kept.ask, "queue.pause", team="other", paused=True)
    refused("FORBIDDEN", kept.ask, "log.read", team="other")
    for kind in ("job.read", "queue.cancel", "queue.place"):
        refused("NOT_FOUND", kept.ask, kind, job=theirs["id"])
    refused("NOT_FOUND", kept.ask, "log.read", job=theirs["id"])
    assert kept.submit_and_wait(team="echo", prompt="mine")["result"] == "mine"
    assert {event["team"] for event in kept.ask("log.read")["events"]} == {"echo"}


def test_requests_count_against_the_rate_of_the_key(site):
    here = site()
    bus = here.bus(here.key("few", "--rate", "5/1h")[0])
    bus.ask("queue.submit", job={"team": "echo", "prompt": "x"})  # the second: bus.hello was the first
    assert bus.caller[2:4] == [5, 3]
    bus.ask("log.read")
    bus.ask("log.read")
    refused("TEAM_NOT_FOUND", bus.ask, "queue.submit", job={"team": "nobody", "prompt": "x"})
    refusal = refused("RATE_LIMITED", bus.ask, "log.read")
    assert refusal.args[0]["retry_after_s"] > 0
    refused("RATE_LIMITED", bus.ask, "queue.submit", job={"team": "echo", "prompt": "x"})


# ---- events ----


@pytest.mark.deadline(120)
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_events_join_with_history_over_kill_9_without_gap_or_double(site, transport):
    here = site(transport)
    writer = here.bus()
    for i in range(20):
        writer.submit_and_wait(team="echo", prompt=f"before {i}")
    seen, stop = [], threading.Event()
    reader = here.bus(events=True)

    def read():
        try:
            for cursor, event in reader.follow(""):
                seen.append((cursor, event))
                if stop.is_set() and event["type"] == "team.paused":
                    return
        except (Refused, zmq.ZMQError) as problem:
            seen.append(("problem", problem))

    # It says who it is again whenever the daemon was away: the credential of plain clients is of a connection.
    ask = reader.ask

    def patient(kind, **body):
        while True:
            try:
                return ask(kind, **body)
            except TimeoutError:
                continue  # the daemon went away with it
            except Refused as problem:
                if problem.code != "UNAUTHORIZED":
                    raise
                reader.send("bus.hello", {"key": here.daemon.key})

    reader.ask, reader.seconds = patient, scaled(1)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    for round_ in range(3):
        for burst in range(5):
            prompts = [f"{round_} {burst} {i}" for i in range(40)]
            sent = [writer.send("queue.submit", {"job": {"team": "echo", "prompt": prompt}}) for prompt in prompts]
            for number in sent if burst < 4 else ():  # the last ones are on their way when it ends
                writer.receive(number)
        wait_until(lambda: len(seen) > 60 + round_ * 300, "events are read")
        here.daemon.kill9()
        here.daemon.start()
        writer = here.bus()
    writer.submit_and_wait(team="echo", prompt="after")
    stop.set()
    writer.ask("queue.pause", team="other", paused=True)
    thread.join(scaled(60))
    assert not thread.is_alive(), (len(seen), seen[-3:])
    numbers = [event["seq"] for _, event in seen]
    assert numbers == sorted(set(numbers))
    assert [cursor_number(cursor) for cursor, _ in seen] == numbers
    logged, cursor, more = {}, "", True
    while more:
        page = writer.ask("log.read", after=cursor, limit=1000)
        logged.update((event["seq"], event) for event in page.get("events", ()) if event["seq"] <= numbers[-1])
        cursor, more = page["next"], page.get("more")
    seen_events = {event["seq"]: event for _, event in seen}
    assert not set(logged) - set(seen_events), "a gap"
    assert all(seen_events[number] == event for number, event in logged.items())
    # Live events are published before they are on disk, so that the last ones before a kill may not get there.
    durable = ("job.queued", "job.completed", "job.failed", "job.cancelled", "team.paused", "team.resumed")
    lost = [seen_events[number]["type"] for number in set(seen_events) - set(logged)]
    assert not set(lost) & set(durable), lost
    # One job's events, by its id, are those of the whole log.
    job = seen[0][1]["job"]
    own = [event["seq"] for event in writer.ask("log.read", job=job)["events"]]
    assert own == [event["seq"] for _, event in seen if event.get("job") == job]


def test_marks_tell_the_number_before_and_topics_choose(site):
    here = site()
    bus = here.bus(events=True)
    follow = bus.follow("echo/job.completed/")
    sender = here.bus()
    sender.submit_and_wait(team="echo", prompt="1")
    sender.submit_and_wait(team="other", prompt="2")
    seen = [next(follow)[1]["type"] for _ in range(10)]  # history is of all topics
    assert "job.completed" in seen
    sender.submit_and_wait(team="other", prompt="3")
    sender.submit_and_wait(team="echo", prompt="4")
    topic, event, mark = bus.events.recv_multipart()
    event, mark = msgpack.unpackb(event), msgpack.unpackb(mark)
    assert topic.decode() == f"echo/job.completed/{uuid.UUID(bytes=event['job'])}"
    assert mark["before"] < event["seq"] == cursor_number(mark["cursor"])
    assert mark["team_before"] <= mark["before"]


# ---- reads that wait ----


def test_a_reader_that_waits_sees_every_event_once_and_in_order(site):
    here = site()
    reader, writer = here.bus(), here.bus()
    cursor, seen, done = reader.welcome["cursor"], [], set()
    prompts = [f"@delay=2ms {i} " + "x " * 50 for i in range(20)]
    jobs = {writer.ask("queue.submit", job={"team": "echo", "prompt": prompt})["job"] for prompt in prompts}
    rounds = 0
    while done != jobs:
        page = reader.ask("log.read", after=cursor, wait_ms=20000)
        assert page.get("events"), "it waited in vain"
        seen += page["events"]
        done |= {event["job"] for event in page["events"] if event["type"] == "job.completed"}
        cursor, rounds = page["next"], rounds + 1
    whole, after, more = [], reader.welcome["cursor"], True
    while more:
        page = reader.ask("log.read", after=after, limit=1000)
        whole += page.get("events", ())
        after, more = page["next"], page.get("more")
    assert [event["seq"] for event in seen] == [event["seq"] for event in whole][: len(seen)]
    assert rounds < len(seen)


def test_a_read_waits_for_its_team_and_for_its_job(site):
    here = site()
    reader, writer = here.bus(), here.bus()
    cursor = reader.welcome["cursor"]
    other = reader.send("log.read", {"after": cursor, "team": "other", "wait_ms": 20000})
    for _ in range(5):
        writer.submit_and_wait(team="echo", prompt="not yours")
    assert not reader.commands.poll(200)
    job = writer.submit_and_wait(team="other", prompt="yours")
    page = reader.receive(other)
    assert {event["team"] for event in page["events"]} == {"other"} and page["events"][0]["job"] == job["id"]
    writer.ask("queue.pause", team="other", paused=True)
    waiting = writer.ask("queue.submit", job={"team": "other", "prompt": "later"})["job"]
    first = reader.ask("log.read", job=waiting, wait_ms=20000)
    assert [event["type"] for event in first["events"]] == ["job.queued"]
    one = reader.send("log.read", {"after": first["next"], "job": waiting, "wait_ms": 20000})
    writer.submit_and_wait(team="echo", prompt="not yours")
    assert not reader.commands.poll(200)
    writer.ask("queue.pause", team="other")
    assert {event["job"] for event in reader.receive(one)["events"]} == {waiting}


def test_a_read_that_waits_in_vain_ends_with_an_empty_page_or_with_the_server(site):
    here = site(bus={"max_pending": 2})
    reader, writer = here.bus(), here.bus()
    job = writer.submit_and_wait(team="echo", prompt="x")
    page = reader.ask("log.read", after=reader.welcome["cursor"])
    begun = time.monotonic()
    page = reader.ask("log.read", after=page["next"], team="other", wait_ms=300)
    assert not page.get("events") and time.monotonic() - begun > 0.29
    assert cursor_number(page["next"]) == page["settled"]
    numbers = [reader.send("log.read", {"after": page["next"], "wait_ms": 60000}) for _ in range(3)]
    refused("OVERLOADED", reader.receive, numbers[2])
    assert writer.ask("job.read", job=job["id"])
    assert not writer.ask("log.read", after=page["next"], wait_ms=1).get("events")  # those before it wait now
    here.daemon.stop()
    for number in numbers[:2]:
        assert not reader.receive(number).get("events")


def test_a_key_kept_to_teams_waits_for_events_of_those_only(site):
    here = site()
    kept, writer = here.bus(here.key("kept", "--team", "other")[0]), here.bus()
    number = kept.send("log.read", {"after": writer.welcome["cursor"], "wait_ms": 20000})
    writer.submit_and_wait(team="echo", prompt="not yours")
    assert not kept.commands.poll(200)
    job = writer.submit_and_wait(team="other", prompt="yours")
    assert {event["job"] for event in kept.receive(number)["events"]} == {job["id"]}


# ---- the client of the README ----


@pytest.mark.deadline(120)
@pytest.mark.parametrize("curve", [False, True], ids=["plain", "curve"])
def test_a_client_of_60_lines_goes_on_over_kill_9_without_gap_or_double(site, curve, tmp_path):
    assert len((harness.ROOT / "tests/system/bus_small.py").read_text().splitlines()) <= 60
    here = site("tcp", curve=curve)
    file = tmp_path / "bot.key"
    file.write_text("\n".join(here.key("bot", "--scopes", "admin:*", "--rate", "0/1m", "--curve")))
    who = {"curve": file} if curve else {"key": here.daemon.key}
    reader, writer, late = (bus_small.Bus(here.endpoints["commands"], **who) for _ in range(3))
    seen, jobs = [], []

    def read():
        for cursor, event in reader.follow(wait_ms=300):
            seen.append((cursor, event))
            if event["type"] == "team.paused":
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    for _ in range(3):
        jobs += [writer.submit("echo", f"@chunks=3 {i}") for i in range(20)]
        here.daemon.kill9()
        here.daemon.start()
    left = set(jobs)
    for _, event in writer.follow(wait_ms=300):
        left -= {event.get("job")} if event["type"] in bus_small.ENDS else set()
        if not left:
            break
    assert all(writer.ask("job.read", job=job)["job"]["state"] == "completed" for job in jobs)
    waits = writer.submit("echo", "later", not_before_ms=int(time.time() * 1000) + 3600000)
    assert writer.ask("queue.cancel", job=waits)["state"] == "cancelled"
    writer.ask("queue.pause", team="other", paused=True)
    thread.join(scaled(60))
    assert not thread.is_alive()
    ends = [event["job"] for _, event in seen if event["type"] in bus_small.ENDS]
    assert sorted(ends) == sorted([*jobs, waits])
    whole, after, more = [], "", True
    while more:
        page = writer.ask("log.read", after=after, limit=1000)
        whole += page.get("events", ())
        after, more = page["next"], page.get("more")
    assert [event for _, event in seen] == whole
    middle = len(seen) // 2
    cursor, event = next(late.follow(after=seen[middle - 1][0]))
    assert (cursor, event) == seen[middle]
    for bus in (reader, writer, late):
        bus.socket.close()


# ---- CURVE ----


def connects(site, curve, endpoint="commands", seconds=1.0):
    """Does the handshake with these keys succeed?"""
    context = zmq.Context()
    probe = context.socket(zmq.DEALER if endpoint == "commands" else zmq.SUB)
    monitor = probe.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    )
    probe.linger = 0
    try:
        if curve:
            probe.curve_secretkey, probe.curve_publickey, probe.curve_serverkey = (key.encode() for key in curve)
        probe.connect(site.endpoints[endpoint])
        if not monitor.poll(int(scaled(10) * 1000 if curve else scaled(seconds) * 1000)):
            return False
        event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        return event == zmq.EVENT_HANDSHAKE_SUCCEEDED
    finally:
        probe.disable_monitor()
        context.destroy(0)


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_curve_lets_in_registered_keys_only(site, transport):
    here = site(transport, curve=True)
    good = here.curve_key("good")
    assert (here.daemon.data / "bus.key.pub").read_text().strip() == good[2]
    bus = here.bus(curve=good)
    assert bus.ask("bus.hello")["name"] == "good"
    assert bus.submit_and_wait(team="echo", prompt="sealed")["result"] == "sealed"
    public, secret = (key.decode() for key in zmq.curve_keypair())
    assert connects(here, good)
    assert not connects(here, (secret, public, good[2])), "a key that nobody registered"
    assert not connects(here, (good[0], good[1], public)), "another server's key"
    assert not connects(here, None), "no key"
    assert not connects(here, None, "events")
    reader = here.curve_key("reader", "--scope", "messages:read")
    assert connects(here, reader) and not connects(here, reader, "events")
    here.daemon.kill9()
    here.daemon.start()
    assert bus.ask("bus.hello")["name"] == "good"


def test_revoked_and_expired_curve_keys_end_at_once(site):
    here = site(curve=True)
    key, stays = here.curve_key("goes"), here.curve_key("stays")
    bus, other = here.bus(curve=key, events=True), here.bus(curve=stays, events=True)
    short = here.bus(curve=here.curve_key("short", "--expires", "2s"))
    assert short.ask("log.read")
    leaving, staying = bus.follow(""), other.follow("")
    other.submit_and_wait(team="echo", prompt="1")
    assert next(leaving)[1]["seq"] == next(staying)[1]["seq"]
    assert here.daemon.cli("key", "revoke", "goes").returncode == 0
    refused("UNAUTHORIZED", bus.ask, "log.read")
    assert not connects(here, key) and not connects(here, key, "events")
    wait_until(lambda: here.metric("muster_bus_clients") <= 4, "its subscription has ended")
    before = len(drain(bus.events))
    other.submit_and_wait(team="echo", prompt="2")
    seen = [next(staying)[1]["seq"] for _ in range(9)]
    assert seen == sorted(set(seen)) and seen[-1] - seen[0] == 8  # joined again without gap
    assert drain(bus.events) == [], before

    def expired():
        try:
            short.ask("log.read")
        except Refused as problem:
            return problem.code == "UNAUTHORIZED"
        return False

    wait_until(expired, "the key expires")


def drain(socket_, quiet_ms=300):
    out = []
    while socket_.poll(quiet_ms):
        out.append(socket_.recv_multipart())
    return out


def test_a_key_of_some_teams_hears_those_only(site):
    here = site(curve=True)
    kept = here.bus(curve=here.curve_key("kept", "--team", "echo"), events=True)
    admin = here.bus(curve=here.curve_key("all", "--scope", "admin:*"))
    for topic in ("", "other/", "e", "echo", "ech", "/"):
        kept.events.subscribe(topic)
    events = kept.follow("echo/")
    admin.submit_and_wait(team="other", prompt="secret")
    admin.submit_and_wait(team="echo", prompt="open")
    assert [next(events)[1]["team"] for _ in range(5)] == ["echo"] * 5
    admin.submit_and_wait(team="other", prompt="secret")
    admin.submit_and_wait(team="echo", prompt="open")
    assert [next(events)[1]["team"] for _ in range(5)] == ["echo"] * 5
    assert all(frames[0].startswith((b"echo/", b"~/")) for frames in drain(kept.events))
    assert here.metric("muster_bus_unheard_total") >= 6


class Tap(threading.Thread):
    """A TCP proxy that keeps all that goes through it."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.to, self.bytes = port, bytearray()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.to))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self.copy, args=pair, daemon=True).start()

    def copy(self, source, target):
        try:
            while data := source.recv(65536):
                self.bytes += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.mark.parametrize("curve", [True, False])
def test_a_curve_session_shows_no_plain_text_on_the_wire(site, curve):
    here = site("tcp", curve=curve)
    keys = here.curve_key("sealed") if curve else None
    tap = Tap(int(here.endpoints["commands"].rpartition(":")[2]))
    here.endpoints["commands"] = f"tcp://127.0.0.1:{tap.port}"
    bus = here.bus(curve=keys)
    assert bus.submit_and_wait(team="echo", prompt="the-secret-word")["result"] == "the-secret-word"
    seen = bytes(tap.bytes)
    tap.server.close()
    for word in (b"the-secret-word", b"queue.submit", b"queue.finished", b"completed"):
        assert (word in seen) != curve  # without CURVE all of it is seen: the tap works


def test_beyond_loopback_there_is_no_plain_way_in(site):
    port = free_port()
    here = site(bus={"commands": f"tcp://0.0.0.0:{port}", "events": "", "open_events": False})
    here.endpoints["commands"] = f"tcp://127.0.0.1:{port}"
    assert not connects(here, None)
    assert here.bus(curve=here.curve_key("far")).ask("bus.hello")["name"] == "far"


def test_events_without_any_credential_must_be_asked_for(daemons):
    daemon = daemons({"bus": {"events": "ipc://e.sock"}}, start=False)
    with pytest.raises(AssertionError, match="bus.events.*bus.open_events"):
        daemon.start()


def test_without_zeromq_there_are_no_curve_keys(daemons):
    daemon = daemons({"teams": TEAMS})
    done = daemon.cli("key", "create", "lonely", "--curve")
    assert done.returncode != 0 and "bus.commands" in done.stderr
    assert not (daemon.data / "bus.key.pub").exists()
    assert "lonely" not in daemon.cli("key", "list").stdout


def test_an_endpoint_that_is_taken_is_said_at_the_start(daemons):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = daemons({"bus": {"commands": f"tcp://127.0.0.1:{port}"}}, start=False)
        with pytest.raises(AssertionError, match=f"bus.commands: cannot listen on tcp://127.0.0.1:{port}"):
            daemon.start()


# ---- bad clients ----


def is_quick(bus, seconds=5):
    begun = time.monotonic()
    assert bus.submit_and_wait(team="echo", prompt="quick")["result"] == "quick"
    return time.monotonic() - begun < scaled(seconds)


@pytest.mark.deadline(120)
def test_a_flood_of_50000_messages_hurts_nobody_else(site):
    here = site()
    normal, flood = here.bus(), here.bus()
    body = msgpack.packb([1, "job.read", 7, "", 0, "", NOBODY, {"job": uuid.uuid4().bytes}])
    done = threading.Event()

    def pour():
        for _ in range(50000):
            flood.commands.send(body)
        done.set()

    thread = threading.Thread(target=pour, daemon=True)
    thread.start()
    quick = 0
    while not done.is_set() or quick < 20:
        assert is_quick(normal)
        quick += 1
        drain_some(flood.commands)
    thread.join()
    wait_until(lambda: here.metric("muster_bus_commands_total") >= 50000, "all came", 30)
    assert is_quick(normal)


def drain_some(socket_):
    try:
        for _ in range(20000):
            socket_.recv(zmq.DONTWAIT)
    except zmq.Again:
        pass


@pytest.mark.deadline(120)
def test_a_client_that_never_reads_is_bounded(site):
    here = site(bus={"max_backlog": "1MiB"})
    normal, deaf = here.bus(), here.bus()
    job = normal.submit_and_wait(team="echo", prompt="x" * 300_000)
    before = harness.Footprint.of(here.daemon.pid).rss_kib
    for _ in range(2000):  # more than a gigabyte, if all were kept
        deaf.send("job.read", {"job": job["id"]})
    wait_until(lambda: here.metric("muster_bus_commands_total") >= 2003, "all came", 60)
    assert is_quick(normal)
    assert here.metric("muster_bus_dropped_total") > 0
    grown = harness.Footprint.of(here.daemon.pid).rss_kib - before
    assert grown < (200_000 if harness.SLOW == 1 else 450_000), grown  # a sanitizer keeps freed memory for a while
    slow = here.bus(events=True)
    slow.events.subscribe("")
    for _ in range(50):
        assert is_quick(normal)


def test_malformed_messages_are_dropped_and_counted(site):
    here = site()
    normal, bad = here.bus(), here.bus()
    chance = random.Random(20250101)
    good = msgpack.packb([1, "job.read", 7, "", 0, "", NOBODY, {"job": bytes(16)}])
    for i in range(10000):
        if i % 2:
            data = chance.randbytes(chance.randrange(0, 200))
        else:
            data = bytearray(good)
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            data = bytes(data[: chance.randrange(1, len(data) + 1)])
        bad.commands.send(data)
        if i % 500 == 0:
            assert is_quick(normal)
            bad.commands.send_multipart([b"", good])
    refused_version = msgpack.packb([2, "job.read", 7, "", 0, "", NOBODY, {}])
    bad.commands.send(refused_version)
    wait_until(lambda: here.metric("muster_bus_malformed_total") >= 5000, "they are counted", 20)
    assert is_quick(normal)
    named = Bus()
    here.clients.append(named)
    named.commands = named.context.socket(zmq.DEALER)
    named.commands.linger = 0
    named.commands.identity = b"somebody"
    named.commands.connect(here.endpoints["commands"])
    named.send("bus.hello", {"key": here.daemon.key})
    assert not named.commands.poll(500)


def test_more_clients_than_allowed_are_not_let_in(site):
    here = site("tcp", bus={"max_clients": 3})
    first = [here.bus() for _ in range(3)]
    late = Bus(here.endpoints["commands"])
    here.clients.append(late)
    late.send("bus.hello", {"key": here.daemon.key})
    assert not late.commands.poll(1000)
    first[0].close()
    assert late.receive(1)["server"] == "muster"


def test_the_longest_message_is_limited(site):
    here = site(bus={"max_message": "64KiB"})
    normal, large = here.bus(), here.bus()
    assert large.ask("queue.submit", job={"team": "echo", "prompt": "x" * 60000})
    large.send("queue.submit", {"job": {"team": "echo", "prompt": "x" * 80000}})
    assert is_quick(normal)
    refused("UNAUTHORIZED", large.ask, "log.read")  # its connection has ended, and come again without a key
    os.stat(here.endpoints["commands"][6:])


def test_a_subscriber_that_sends_data_gets_no_topics_of_others(site):
    here = site(curve=True)
    kept = here.curve_key("kept", "--team", "echo")
    everything = here.curve_key("all", "--scope", "admin:*")
    admin, bad = here.bus(curve=everything), Bus()
    here.clients.append(bad)
    socket_ = bad.connect(zmq.XSUB, here.endpoints["events"], kept)
    stop, leaked = threading.Event(), []

    def pour():
        while not stop.is_set():
            try:
                for data in (b"junk", b"\x01echo/none", b"\x00echo/none") * 50:
                    socket_.send(data, zmq.DONTWAIT)
            except zmq.Again:
                pass
            while socket_.poll(1):
                leaked.append(socket_.recv_multipart()[0])

    thread = threading.Thread(target=pour, daemon=True)
    thread.start()
    try:
        for _ in range(5):
            reader = here.bus(curve=everything, events=True)
            reader.events.subscribe("other/job.completed/")
            events = reader.follow("other/job.queued/")
            job = admin.submit_and_wait(team="other", prompt="secret")
            while next(events)[1].get("job") != job["id"]:
                continue
    finally:
        stop.set()
        thread.join()
    assert not [topic for topic in leaked if not topic.startswith(b"echo/")]
    assert not connects(here, kept, "events") and connects(here, kept)
    assert here.metric("muster_bus_malformed_total") > 0


class Raw:
    """A client that says of itself what libzmq would not."""

    def __init__(self, endpoint, **properties):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(scaled(10))
        self.socket.connect(endpoint.removeprefix("ipc://"))
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        self.exactly(64)
        ready = b"\x05READY"
        for name, value in {"Socket_Type": b"DEALER", **properties}.items():
            name = name.replace("_", "-").encode()
            ready += bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
        self.socket.sendall(b"\x06" + struct.pack(">Q", len(ready)) + ready)
        self.frame()

    def exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more
            data += more
        return data

    def frame(self):
        large = self.exactly(1)[0] & 2
        return self.exactly(struct.unpack(">Q", self.exactly(8))[0] if large else self.exactly(1)[0])

    def ask(self, kind, **body):
        message = msgpack.packb([1, kind, 1, "", 0, "", NOBODY, body])
        self.socket.sendall(b"\x02" + struct.pack(">Q", len(message)) + message)
        answer = msgpack.unpackb(self.frame())
        return answer[7].get("code", answer[1])


def test_a_login_is_of_a_connection_and_not_of_a_routing_id(site):
    here = site()
    commands = here.endpoints["commands"]
    first = Raw(commands, Identity=b"\0abcd")  # looks like one that the server gave out
    assert first.ask("bus.hello", key=here.daemon.key) == "bus.welcome"
    assert first.ask("log.read") == "log.page"
    first.socket.close()
    wait_until(lambda: here.metric("muster_bus_clients") == 0, "it has left")
    second = Raw(commands, Identity=b"\0abcd")
    assert second.ask("log.read") == "UNAUTHORIZED"
    second.socket.close()
    public = zmq.utils.z85.decode(here.curve_key("pair")[1].encode())
    forger = Raw(commands, User_Id=b"1." + public.hex().encode())
    assert forger.ask("bus.hello") == "UNAUTHORIZED"
    forger.socket.close()


def test_strangers_that_come_and_go_log_nobody_out(site):
    here = site(bus={"max_clients": 3})
    bus = here.bus()
    for _ in range(100):  # more than are remembered
        stranger = Raw(here.endpoints["commands"])
        assert stranger.ask("log.read") == "UNAUTHORIZED"
        stranger.socket.close()
    assert bus.ask("log.read")["settled"] >= 0


def test_many_requests_sent_before_any_answer_is_read_are_all_answered(site):
    here = site()
    bus = here.bus()
    numbers = {bus.send("job.read", {"job": uuid.uuid4().bytes}) for _ in range(8000)}
    wait_until(lambda: here.metric("muster_bus_failed_total") >= 8000, "all are answered", 20)
    while numbers:
        assert bus.commands.poll(scaled(10) * 1000), len(numbers)
        numbers.remove(msgpack.unpackb(bus.commands.recv())[2])


@pytest.mark.deadline(120)
def test_waiting_for_large_jobs_keeps_nothing_of_them(site):
    here = site()
    bus = here.bus()
    bus.ask("queue.pause", team="other", paused=True)
    sizes = []
    for wait in (False, True):
        for _ in range(200):
            bus.ask("queue.submit", job={"team": "other", "prompt": "x" * 1_000_000}, wait=wait)
        sizes.append(harness.Footprint.of(here.daemon.pid).rss_kib)
    assert sizes[1] - sizes[0] < 100_000, sizes
