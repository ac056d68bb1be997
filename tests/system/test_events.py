# SPDX-License-Identifier: MPL-2.0
"""GET /api/v1/events, events as they are in the log, and `muster watch`, which shows them."""

import json
import os
import queue
import random
import signal
import subprocess
import threading
import urllib.parse

import pytest

from harness import Sse, binary, cursor, merged, scaled, wait_until

ECHO = {"teams": {"echo": {"driver": "echo", "concurrency": 8}}}
TWO = {"teams": {name: {"driver": "echo", "concurrency": 4} for name in ("alpha", "beta")}}
WHOLE_JOB = ["job.queued", "job.started", "job.chunk", "job.completed"]


def numbered(count):
    return "".join(f"<{i:06d}>" for i in range(count))


def events(client, last_event_id=None, **query):
    head = {"Last-Event-ID": last_event_id} if last_event_id is not None else None
    path = "/api/v1/events" + ("?" + urllib.parse.urlencode(query) if query else "")
    return Sse(client, "GET", path, headers=head)


def refused(client, status, code=None, **query):
    stream = events(client, **query)
    assert stream.status == status, (query, stream.status, stream.body)
    body = json.loads(stream.body)
    assert code is None or body["code"] == code, body
    return body


def with_key(client, name, scopes=("messages:stream", "teams:write"), **more):
    return client.with_key(client.post("/api/v1/keys", {"name": name, "scopes": [*scopes], **more}).ok(201)["key"])


def until(stream, check, seconds=20):
    """Read on to the first event that fits; all that were read, heartbeats left out."""
    while True:
        event = stream.next(seconds)
        assert event, f"the stream ended after {[e.kind for e in stream.events[-5:]]}"
        if event.kind != "heartbeat" and check(event):
            return shown(stream)


def shown(stream):
    return [e for e in stream.events if e.kind != "heartbeat"]


def until_ends(stream, names, seconds=20):
    """Read on until every one of these messages has ended."""
    left = {name.replace("job_", "msg_") for name in names}
    left -= {e.data.get("messageId") for e in shown(stream) if is_end(e)}

    def last(event):
        if is_end(event):
            left.discard(event.data.get("messageId"))
        return not left

    return until(stream, last, seconds) if left else shown(stream)


def is_end(event):
    return event.kind in ("job.completed", "job.failed", "job.cancelled")


def of_job(seen, name):
    return [e for e in seen if e.data.get("messageId") == name.replace("job_", "msg_")]


def text_of(seen):
    return "".join(e.data["data"]["text"] for e in seen if e.kind == "job.chunk")


def assert_rising(seen):
    marks = [cursor(e.id) for e in seen]
    assert all(a[0] == b[0] and a[1] < b[1] for a, b in zip(marks, marks[1:])), marks


# ---- what is shown ----


def test_events_of_a_team_are_shown_as_they_are_in_the_log(client):
    stream = events(client, team="echo")
    assert stream.status == 200 and stream.content_type.startswith("text/event-stream") and stream.retry is None
    name = client.submit("echo", '@delay=1ms @chunks=2 @tool=Read:{"file_path":"a.c"} hello', priority="high")
    seen = until_ends(stream, [name])
    assert stream.retry, "no reconnection time"
    mine = of_job(seen, name)
    kinds = [e.kind for e in mine]
    assert kinds[0] == "job.queued" and kinds[-1] == "job.completed"
    assert set(WHOLE_JOB) | {"job.tool_use"} <= set(kinds) and text_of(mine) == "hello"
    for event in mine:
        data = event.data
        assert data["cursor"] == event.id and data["type"] == event.kind and data["team"] == "echo"
        assert data["messageId"] == name.replace("job_", "msg_") and isinstance(data["at"], int)
        assert data["at"] > 1_600_000_000_000 and isinstance(data["data"], dict)
    by_kind = {e.kind: e.data for e in mine}
    assert by_kind["job.queued"]["data"]["priority"] == "high"
    assert by_kind["job.tool_use"]["data"] | {"id": 0} == {
        "tool": "Read",
        "file": "a.c",
        "input": {"file_path": "a.c"},
        "id": 0,
    }
    assert by_kind["job.chunk"]["attempt"] == 1 and by_kind["job.completed"]["data"]["duration_ms"] >= 0
    assert_rising(seen)


def test_events_of_a_job_end_with_its_last(client):
    other = client.submit("echo", "@hang")
    name = client.submit("echo", f"@chunks=10 @gap=2ms {numbered(10)}")
    for alias in (name, name.replace("job_", "msg_"), name.replace("job_", "")):
        stream = events(client, job=alias, since="oldest")
        seen = [e for e in stream.rest() if e.kind != "heartbeat"]
        assert seen == of_job(seen, name) and text_of(seen) == numbered(10)
        assert seen[0].kind == "job.queued" and [is_end(e) for e in seen].index(True) == len(seen) - 1
        assert_rising(seen)
    again = events(client, job=name, last_event_id=seen[3].id)
    assert [e for e in again.rest() if e.kind != "heartbeat"] == seen[4:]
    client.cancel(other)
    assert events(client, job=other, since="oldest").rest()[-1].kind == "job.cancelled"


def test_one_job_is_shown_before_its_end(client):
    """The agent hangs: whatever arrives cannot have waited for the end."""
    name = client.submit("echo", "@chunks=3 @gap=1ms @hang abc")
    stream, team = events(client, job=name, since="oldest"), events(client, team="echo", since="oldest")
    for reader in (stream, team):
        until(reader, lambda e: e.kind == "job.chunk")
        until(reader, lambda e: e.kind == "job.chunk")
        until(reader, lambda e: e.kind == "job.chunk")
        assert text_of(shown(reader)) == "abc"
    client.cancel(name)
    assert stream.rest()[-1].kind == "job.cancelled"


def test_failures_and_pauses_are_shown(daemons):
    client = daemons({"queue": {"retry_delay": "1ms"}, **ECHO}).client
    stream = events(client)
    name = client.submit("echo", "@fail=PROCESS_ERROR:9 no", retry={"maxAttempts": 2})
    mine = of_job(until_ends(stream, [name]), name)
    retry = next(e for e in mine if e.kind == "job.retrying").data
    assert retry["data"]["code"] == "PROCESS_ERROR"
    assert mine[-1].kind == "job.failed" and mine[-1].data["data"]["code"] == "PROCESS_ERROR"
    assert [e.data["attempt"] for e in mine if e.kind == "job.started"] == [1, 2]
    client.post("/api/v1/teams/echo/pause").ok()
    client.post("/api/v1/teams/echo/resume").ok()
    seen = until(stream, lambda e: e.kind == "team.resumed")
    paused = next(e for e in seen if e.kind == "team.paused")
    assert paused.data["team"] == "echo" and paused.data["data"]["by"] and "messageId" not in paused.data
    assert_rising(seen)


def test_without_a_since_only_what_comes_is_shown(client):
    before = client.ask("echo", "before").ok()["messageId"]
    stream = events(client)
    name = client.ask("echo", "after").ok()["messageId"]
    seen = until_ends(stream, [name])
    assert not of_job(seen, before) and of_job(seen, name)[0].kind == "job.queued"


def test_heartbeats_come_while_nothing_happens(daemons):
    client = daemons(merged(ECHO, {"http": {"heartbeat": "30ms"}})).client
    stream = events(client)
    for _ in range(3):
        assert stream.until("heartbeat").data["timestamp"]
    name = client.ask("echo", "x").ok()["messageId"]
    assert of_job(until_ends(stream, [name]), name)


# ---- whose ----


def test_all_teams_that_the_key_may_use_are_shown(daemons):
    client = daemons(TWO).client
    mine = with_key(client, "alpha-only", teams=["alpha"])
    every, some, named, both = (
        events(client),
        events(mine),
        events(client, team="beta"),
        events(client, team="alpha,beta"),
    )
    names = {team: client.ask(team, f"of {team}").ok()["messageId"] for team in ("alpha", "beta")}
    last = {team: client.ask(team, "last").ok()["messageId"] for team in ("alpha", "beta")}
    for stream, teams in ((every, {"alpha", "beta"}), (both, {"alpha", "beta"}), (some, {"alpha"}), (named, {"beta"})):
        seen = until_ends(stream, [last[team] for team in teams])
        assert {e.data["team"] for e in seen} == teams
        for team in teams:
            assert text_of(of_job(seen, names[team])) == f"of {team}"
        assert_rising(seen)
    history = events(mine, since="oldest")
    assert {e.data["team"] for e in until_ends(history, [last["alpha"]])} == {"alpha"}


def test_teams_and_jobs_of_others_are_refused(daemons):
    client = daemons(TWO).client
    mine = with_key(client, "alpha-only", teams=["alpha"])
    theirs = client.ask("beta", "x").ok()["messageId"]
    refused(mine, 403, "FORBIDDEN", team="beta")
    refused(mine, 403, "FORBIDDEN", team="alpha,beta")
    stream = events(mine, job=theirs)
    assert stream.status in (403, 404), stream.body
    refused(client, 404, "TEAM_NOT_FOUND", team="nobody")
    refused(client, 404, "NOT_FOUND", job="msg_00000000-0000-7000-8000-000000000000")
    own = client.ask("alpha", "x").ok()["messageId"]
    assert events(mine, job=own, since="oldest").rest()[-1].kind == "job.completed"


def test_the_scope_of_streams_is_needed(client):
    assert events(with_key(client, "writer", ("teams:read", "messages:write", "webhooks:manage"))).status == 403
    assert events(client.with_key(None)).status == 401
    stream = events(client.with_key(None), api_key=client.key)
    assert stream.status == 200
    stream.close()


@pytest.mark.parametrize(
    "query",
    [
        {"since": "nonsense"},
        {"since": "1-2-3"},
        {"type": "job.nonsense"},
        {"job": "nonsense"},
        {"since": "99999999999999999999-1"},
    ],
)
def test_what_makes_no_sense_is_refused(client, query):
    client.ask("echo", "x").ok()
    stream = events(client, **query)
    assert stream.status in ((404,) if "job" in query else (400, 410)), (stream.status, stream.body)
    assert events(client, last_event_id="nonsense").status == 400


# ---- cursors ----


def test_a_reader_begins_where_it_says(client):
    names = [client.ask("echo", f"number {i}").ok()["messageId"] for i in range(4)]
    whole = until_ends(events(client, team="echo", since="oldest"), names)
    assert [e.kind for e in whole][0] == "job.queued" and of_job(whole, names[0])[0] is whole[0]
    middle = of_job(whole, names[2])[0]
    after = [e for e in whole if cursor(e.id)[1] > cursor(middle.id)[1]]
    assert until_ends(events(client, since=middle.id), names[2:]) == after
    assert until_ends(events(client, last_event_id=middle.id), names[2:]) == after
    assert until_ends(events(client, last_event_id=middle.id, since="oldest"), names[2:]) == after, "the header wins"


def test_a_cut_reader_goes_on_without_gap_or_double(client):
    names = [client.submit("echo", f"@chunks=40 @gap=2ms {i}:{numbered(40)}") for i in range(4)]
    seen, last = [], None
    for _ in range(4):
        stream = events(client, since="oldest", **({} if last is None else {"last_event_id": last}))
        for _ in range(15):
            stream.next()
        seen += shown(stream)
        last = seen[-1].id
        stream.wire.reset()
    seen += until_ends_with(events(client, last_event_id=last), names, seen)
    assert_rising(seen)
    for i, name in enumerate(names):
        assert text_of(of_job(seen, name)) == f"{i}:{numbered(40)}"


def until_ends_with(stream, names, before):
    """As until_ends, when some have ended before."""
    ended = {e.data["messageId"] for e in before if is_end(e)}
    return until_ends(stream, [n for n in names if n.replace("job_", "msg_") not in ended])


def test_readers_that_come_and_go_at_any_moment_miss_nothing(client):
    """Where the past ends and the present begins there is no seam."""
    chance = random.Random(int(os.environ.get("MUSTER_TEST_SEED", "20251120")))
    names = [client.submit("echo", f"@chunks=100 @gap=3ms {i}:{numbered(100)}") for i in range(6)]
    views = [[] for _ in range(4)]

    def come_and_go(seen):
        while sum(is_end(e) for e in seen) < len(names):
            stream = events(client, since=seen[-1].id if seen else "oldest")
            for _ in range(chance.randrange(1, 60)):
                event = stream.next()
                if event.kind != "heartbeat":
                    seen.append(event)
                if sum(is_end(e) for e in seen) == len(names):
                    break
            stream.wire.reset()

    threads = [threading.Thread(target=come_and_go, args=(view,)) for view in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for view in views:
        assert_rising(view)
        assert view == views[0]
    for i, name in enumerate(names):
        assert text_of(of_job(views[0], name)) == f"{i}:{numbered(100)}"


@pytest.mark.parametrize("how", ["sigterm", "kill -9"])
def test_a_cursor_outlives_the_daemon(daemons, how):
    daemon = daemons(ECHO)
    names = [daemon.client.ask("echo", f"number {i}").ok()["messageId"] for i in range(3)]
    whole = until_ends(events(daemon.client, since="oldest"), names)
    if how == "sigterm":
        daemon.stop()
    else:
        daemon.kill9()
    daemon.start()
    new = daemon.client.ask("echo", "new").ok()["messageId"]
    again = until_ends(events(daemon.client, since="oldest"), [new])
    assert [e for e in again if e.data.get("messageId") in names] == [e for e in whole if e.data.get("messageId")]
    rest = until_ends(events(daemon.client, last_event_id=whole[2].id), [new])
    assert rest == [e for e in again if cursor(e.id)[1] > cursor(whole[2].id)[1]]
    assert_rising(again)


def test_a_reader_goes_on_after_kill_9_in_the_middle(daemons):
    daemon = daemons(ECHO)
    names = [daemon.client.submit("echo", f"@chunks=150 @gap=4ms {i}:{numbered(150)}") for i in range(4)]
    stream = events(daemon.client, since="oldest")
    for _ in range(40):
        stream.next()
    daemon.kill9()
    stream.rest()
    seen = shown(stream)
    daemon.start()
    got = until_ends_with(events(daemon.client, last_event_id=seen[-1].id), names, seen)
    assert_rising(seen + got)
    for i, name in enumerate(names):
        mine = of_job(seen + got, name)
        assert [is_end(e) for e in mine].count(True) == 1 and mine[-1].kind == "job.completed"
        assert daemon.client.message(name)["response"] == f"{i}:{numbered(150)}"
    # What is kept of them is what was seen after the crash, and a part of what was seen before.
    kept = until_ends(events(daemon.client, since="oldest"), names)
    assert_rising(kept)
    assert [e for e in kept if cursor(e.id)[1] > cursor(seen[-1].id)[1]] == got


def test_what_was_trimmed_is_told(daemons):
    client = daemons(merged(ECHO, {"store": {"max_events": "4KiB", "sweep": "20ms"}})).client
    first = until_ends(events(client, since="oldest"), [client.ask("echo", "first").ok()["messageId"]])[0]

    def gone():
        client.ask("echo", "@chunks=20 " + "x" * 2000).ok()
        stream = events(client, since=first.id)
        stream.close()
        return stream.status == 410

    wait_until(gone, "the first events are gone", pause=0.001)
    assert refused(client, 410, "CURSOR_EXPIRED", since=first.id)
    last = client.ask("echo", "last").ok()["messageId"]
    assert of_job(until_ends(events(client, since="oldest"), [last]), last), "from the oldest there is"


# ---- one type ----


def test_one_type_is_chosen(client):
    stream = events(client, type="job.completed")
    tools = events(client, type="job.tool_use", team="echo")
    names = [client.ask("echo", '@tool=Read:{"file_path":"a.c"} x').ok()["messageId"] for _ in range(3)]
    seen = until_ends(stream, names)
    assert [e.kind for e in seen] == ["job.completed"] * 3 and [e.data["messageId"] for e in seen] == names
    for _ in range(3):
        assert tools.until("job.tool_use").data["messageId"] in names
    assert {e.kind for e in shown(tools)} == {"job.tool_use"}
    again = events(client, type="job.completed", since=seen[0].id)
    assert until_ends(again, names[1:]) == seen[1:]
    one = events(client, type="job.chunk", job=names[0], since="oldest")
    kinds = [e.kind for e in one.rest() if e.kind != "heartbeat"]
    assert set(kinds) == {"job.chunk"}, "it ends with the job all the same"


# ---- many at once ----


def test_numbers_rise_over_many_jobs_at_once_and_nothing_is_missing(daemons):
    """Live events may overtake durable ones on their way; no reader of several jobs sees that."""
    daemon = daemons(merged(ECHO, {"http": {"max_backlog": "64MiB"}, "queue": {"max_running": 8}}))
    client = daemon.client
    client.ask("echo", "the first").ok()
    readers = [events(client, since="oldest"), events(client, team="echo", since="oldest")]
    names, lock = [], threading.Lock()

    def submit(who):
        for i in range(50):
            name = client.submit("echo", f"@chunks={1 + i % 4} @delay={(who + i) % 3}ms {who} {i}")
            with lock:
                names.append(name)

    threads = [threading.Thread(target=submit, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    views = [until_ends(reader, names, 40) for reader in readers]
    history = until_ends(events(client, since="oldest"), names, 40)
    for view in (*views, history):
        assert_rising(view)
        for name in names:
            kinds = [e.kind for e in of_job(view, name)]
            assert kinds[0] == "job.queued" and kinds[-1] == "job.completed" and kinds.count("job.started") == 1
    # Whatever comes behind the last end may be in one and not yet in the other.
    last = max(cursor(e.id)[1] for e in history if is_end(e))
    parts = [[e for e in view if cursor(e.id)[1] <= last] for view in (*views, history)]
    assert parts[0] == parts[1] == parts[2]


# ---- muster watch ----


class Watch:
    """`muster watch` in a pipe; its lines as they come."""

    def __init__(self, daemon, *arguments, key=None):
        env = {**daemon.environment(), "MUSTER_URL": daemon.url, "MUSTER_API_KEY": key or daemon.key}
        self.process = subprocess.Popen(
            [str(binary()), "watch", *arguments],
            env=env,
            cwd=daemon.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.lines = []
        self.coming = queue.Queue()
        self.errors = []
        self.threads = [
            threading.Thread(target=self.read, args=(self.process.stdout, self.coming.put), daemon=True),
            threading.Thread(target=self.read, args=(self.process.stderr, self.errors.append), daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def read(self, pipe, put):
        with pipe:
            for line in pipe:
                put(line.decode().rstrip("\n"))
        put(None)

    def next(self, seconds=20):
        line = self.coming.get(timeout=scaled(seconds))
        assert line is not None, f"it ended: {self.lines[-5:]} {self.errors}"
        self.lines.append(line)
        return line

    def until(self, *words):
        """The next line with all of these words."""
        while True:
            try:
                line = self.next()
            except queue.Empty:
                raise AssertionError(f"no line with {words}: {self.lines[-10:]} {self.errors}") from None
            if all(word in line for word in words):
                return line

    def wait(self, seconds=20):
        """Its exit code, when it ends by itself; the rest of its lines are read."""
        status = self.process.wait(scaled(seconds))
        while (line := self.coming.get(timeout=scaled(5))) is not None:
            self.lines.append(line)
        return status

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self.threads:
            thread.join(scaled(5))


@pytest.fixture
def watch():
    made = []

    def start(daemon, *arguments, **options):
        made.append(Watch(daemon, *arguments, **options))
        return made[-1]

    yield start
    for one in made:
        one.end()


def first_of(watch, daemon, *words, team="echo"):
    """Until it is connected it misses what happens: ask until something is seen."""
    seen = threading.Event()

    def ask():
        while not seen.is_set():
            daemon.client.ask(team, "are you there?").ok()

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        return watch.until(*words)
    finally:
        seen.set()
        asker.join()


def test_watch_shows_events_as_they_come(daemon, watch):
    one = watch(daemon, "echo")
    first_of(one, daemon, "echo", "completed")
    name = daemon.client.submit("echo", "@chunks=2 @gap=1ms @hang ab").replace("job_", "msg_")
    one.until("echo", name, "queued")
    one.until(name[-8:], "started")
    assert one.until(name[-8:], "says: a") and one.until(name[-8:], "says: b")
    daemon.client.cancel(name)
    one.until(name[-8:], "cancelled")
    daemon.client.post("/api/v1/teams/echo/pause").ok()
    one.until("echo", "paused")
    one.process.send_signal(signal.SIGINT)
    assert one.wait() == 130
    assert not [line for line in one.errors if line], "in a pipe it says nothing else"


def test_watch_prints_json_lines(daemon, watch):
    one = watch(daemon, "--json", "--after", "oldest")
    name = daemon.client.submit("echo", "@chunks=2 hello").replace("job_", "msg_")
    while True:
        event = json.loads(one.next())
        if event["type"] == "job.completed" and event["messageId"] == name:
            break
    seen = [json.loads(line) for line in one.lines]
    mine = [e for e in seen if e.get("messageId") == name]
    assert mine[0]["type"] == "job.queued" and "".join(e["data"].get("text", "") for e in mine) == "hello"
    numbers = [cursor(e["cursor"])[1] for e in seen]
    assert numbers == sorted(set(numbers))
    stream = events(daemon.client, since="oldest")
    assert [e.data for e in until_ends(stream, [name])] == seen


def test_watch_begins_after_a_cursor_and_chooses_a_type(daemon, watch):
    names = [daemon.client.ask("echo", f"number {i}").ok()["messageId"] for i in range(4)]
    ends = until_ends(events(daemon.client, since="oldest", type="job.completed"), names)
    one = watch(daemon, "--json", "--after", ends[1].id, "--type", "job.completed")
    assert [json.loads(one.next()) for _ in range(2)] == [e.data for e in ends[2:]]
    two = watch(daemon, "echo", "--json", "--after", "oldest", "--type", "job.completed")
    assert [json.loads(two.next()) for _ in range(4)] == [e.data for e in ends]


@pytest.mark.parametrize(
    "prompt, code", [("@delay=5ms fine", 0), ("@fail=MODEL_REFUSED x", 1), ("@hang", 8)], ids=["good", "bad", "ended"]
)
def test_watch_of_a_job_ends_with_it(daemon, watch, prompt, code):
    name = daemon.client.submit("echo", prompt)
    one = watch(daemon, name, "--json", "--after", "oldest")
    if code == 8:
        one.until("job.started")
        daemon.client.cancel(name)
    assert one.wait() == code, (one.lines, one.errors)
    last = json.loads(one.lines[-1])
    assert last["type"] in ("job.completed", "job.failed", "job.cancelled")
    assert {json.loads(line)["messageId"] for line in one.lines} == {name.replace("job_", "msg_")}
    again = watch(daemon, name.replace("job_", "msg_"))
    assert again.wait() == code, "also when it had ended before"


def test_watch_goes_on_over_a_restart(daemons, watch):
    daemon = daemons(ECHO)
    one = watch(daemon, "--json", "--after", "oldest")
    first = daemon.client.ask("echo", "first").ok()["messageId"]
    one.until("job.completed", first)
    port, command = daemon.url.rsplit(":", 1)[1], daemon.command
    daemon.command = lambda: [word.replace("127.0.0.1:0", f"127.0.0.1:{port}") for word in command()]
    for how in (daemon.kill9, daemon.stop):
        how()
        daemon.start()
        name = daemon.client.ask("echo", "again").ok()["messageId"]
        one.until("job.completed", name)
    assert one.process.poll() is None
    seen = [json.loads(line) for line in one.lines]
    numbers = [cursor(e["cursor"])[1] for e in seen]
    assert numbers == sorted(set(numbers)), "no double"
    for name in (first, name):
        mine = [e for e in seen if e.get("messageId") == name]
        assert mine[0]["type"] == "job.queued" and mine[-1]["type"] == "job.completed"


def test_watch_says_why_it_cannot(daemons, watch):
    daemon = daemons(TWO)
    few = with_key(daemon.client, "few", ("teams:read",)).key
    cases = [
        ((), few, 4),
        ((), "wrong", 4),
        (("msg_00000000-0000-7000-8000-000000000000",), None, 5),
        (("nobody",), None, 5),
        (("--after", "nonsense"), None, 2),
        (("--no-such-option",), None, 2),
        (("--type", "job.nonsense"), None, 2),
    ]
    for arguments, key, code in cases:
        one = watch(daemon, *arguments, key=key)
        assert one.wait() == code, (arguments, one.lines, one.errors)
        wait_until(lambda w=one: None in w.errors, "its errors were read")
        assert any(one.errors), arguments


def test_a_revoked_key_does_not_get_the_rest_of_the_log(daemons):
    """Also while old events are sent, which takes as long as the reader takes."""
    client = daemons(ECHO).client
    names = [client.submit("echo", "@chunks=8 @size=8000000") for _ in range(4)]
    for name in names:
        client.wait_final(name)
    stream = Sse(with_key(client, "gone"), "GET", "/api/v1/events?since=oldest", receive_buffer=8192)
    assert stream.status == 200 and stream.next()
    client.request("DELETE", "/api/v1/keys/gone").ok()
    while stream.more():
        assert len(stream.text) < 16_000_000, "what was on its way already is far less"


def test_who_has_seen_nothing_yet_knows_where_to_go_on(daemons):
    daemon = daemons({"teams": {"echo": {"driver": "echo"}}, "http": {"heartbeat": "50ms"}})
    stream = Sse(daemon.client, "GET", "/api/v1/events?type=job.completed")
    stream.until("heartbeat")
    begun = stream.last_id
    stream.close()
    name = daemon.client.ask("echo", "while nobody looked").ok()["messageId"]
    again = Sse(daemon.client, "GET", "/api/v1/events?type=job.completed", headers={"Last-Event-ID": begun})
    assert again.until("job.completed").data["messageId"] == name
    again.close()
