# SPDX-License-Identifier: MPL-2.0
"""Event streams: order, resuming, readers of all tempers, and that a reader's end is not the job's."""

import contextlib
import os
import pathlib
import re
import socket
import threading
import time

import pytest

from harness import SLOW, Footprint, Sse, Wire, assert_no_gap_no_double, cursor, text_of, wait_until


def numbered(count):
    """An answer whose every chunk can be told from the others, whatever the split."""
    return "".join(f"<{i:06d}>" for i in range(count))


def test_a_stream_begins_with_start_and_ends_with_complete(client):
    stream = client.stream("echo", "hello world")
    events = stream.rest()
    assert stream.status == 200
    assert stream.content_type.startswith("text/event-stream")
    assert stream.fields["x-accel-buffering"] == "no"
    assert "no-cache" in stream.fields["cache-control"]
    assert stream.fields["x-request-id"]
    assert stream.retry, "no reconnection time"
    kinds = [e.kind for e in events if e.kind != "heartbeat"]
    assert kinds[0] == "start" and kinds[-1] == "complete" and set(kinds[1:-1]) == {"chunk"}
    assert events[0].data["team"] == "echo" and events[0].data["messageId"].startswith("msg_")
    assert text_of(events) == "hello world"
    assert events[-1].data["duration"] >= 0 and events[-1].data["timestamp"] > 1_600_000_000_000
    assert_no_gap_no_double(events)


def test_chunks_arrive_before_the_end(client):
    """The agent hangs after its last chunk: whatever arrives cannot have waited for the end."""
    stream = client.stream("echo", "@chunks=3 @gap=1ms @hang abcdef")
    start = stream.next()
    assert start.kind == "start"
    text = ""
    while text != "abcdef":
        text += stream.until("chunk").data["text"]
    client.wait_state(start.data["messageId"], "processing")
    assert client.cancel(start.data["messageId"]).status == 200
    last = stream.rest()[-1]
    assert last.kind == "error" and last.data["code"] == "CANCELLED"


def test_get_with_a_message_in_the_query_streams_too(client):
    stream = Sse(client, "GET", "/api/v1/teams/echo/stream?message=hello%20there")
    events = stream.rest()
    assert stream.status == 200 and text_of(events) == "hello there" and events[-1].kind == "complete"


def test_an_event_source_may_give_its_key_in_the_query(client):
    anonymous = client.with_key(None)
    assert Sse(anonymous, "GET", "/api/v1/teams/echo/stream?message=hi").status == 401
    stream = Sse(anonymous, "GET", f"/api/v1/teams/echo/stream?message=hi&api_key={client.key}")
    assert stream.status == 200 and text_of(stream.rest()) == "hi"
    answer = anonymous.get(f"/api/v1/teams?api_key={client.key}")
    answer.error(401, "UNAUTHORIZED")


def test_tool_use_is_seen_in_its_place(client):
    events = client.stream("echo", '@tool=Read:{"file_path":"src/a.c"} looked').rest()
    kinds = [e.kind for e in events]
    assert "tool_use" in kinds and kinds.index("tool_use") < kinds.index("complete")
    use = next(e for e in events if e.kind == "tool_use")
    assert use.data["tool"] == "Read"
    assert "src/a.c" in str(use.data)


def test_a_failure_is_an_error_event(client):
    events = client.stream("echo", "@fail=MODEL_REFUSED no").rest()
    assert events[-1].kind == "error" and events[-1].data["code"] == "MODEL_REFUSED"
    assert events[-1].data["error"]


def test_a_retry_is_an_event_between_the_attempts(daemons):
    client = daemons({"queue": {"retry_delay": "1ms"}}).client
    name = client.submit("echo", "@fail=PROCESS_ERROR:2 fine at last", retry={"maxAttempts": 3})
    events = client.attach(name).rest()
    assert [e.kind for e in events].count("retry") == 2
    assert events[-1].kind == "complete"
    retry = next(e for e in events if e.kind == "retry")
    assert retry.data["code"] == "PROCESS_ERROR"
    assert_no_gap_no_double(events)


def test_a_stream_cut_in_the_middle_is_resumed_without_gap_or_double(client):
    text = numbered(60)
    whole = f"@chunks=60 @gap=3ms {text}"
    first = client.stream("echo", whole)
    seen = [first.next() for _ in range(7)]
    first.wire.reset()
    name = seen[0].data["messageId"]
    for how in ("header", "query"):
        if how == "header":
            again = client.attach(name, last_event_id=seen[-1].id)
        else:
            again = client.attach(name, after=seen[-1].id)
        for _ in range(9):
            seen.append(again.next())
        again.close()
    last = client.attach(name, last_event_id=seen[-1].id)
    seen += last.rest()
    seen = [e for e in seen if e.kind != "heartbeat"]
    assert text_of(seen) == text
    assert seen[-1].kind == "complete" and [e.kind for e in seen].count("start") == 1
    assert_no_gap_no_double(seen)


def test_an_empty_query_cursor_counts_as_none(client):
    name = client.ask("echo", "hi").ok()["messageId"]
    assert client.attach(name, after="").status in (200, 400)


@pytest.mark.parametrize(
    "bad", ["nonsense", "-", "1-", "-1", "99999999999999999999999-1", "1-99999999999999999999999", "1-2-3"]
)
def test_a_cursor_that_is_none_is_refused(client, bad):
    name = client.ask("echo", "hi").ok()["messageId"]
    stream = client.attach(name, last_event_id=bad)
    assert stream.status in (400, 410), (bad, stream.status)


def test_many_readers_before_during_and_after_see_the_same(client):
    blocker = client.submit("echo", "@hang")
    text = numbered(40)
    name = client.submit("echo", f"@chunks=40 @gap=2ms {text}")
    early = [client.attach(name) for _ in range(3)]
    early[0].until("chunk")
    during = [client.attach(name) for _ in range(3)]
    seen = [reader.rest() for reader in early + during]
    after = client.attach(name)
    seen.append(after.rest())
    for events in seen:
        assert text_of(events) == text and events[-1].kind == "complete"
        assert_no_gap_no_double(events)
    assert len({tuple(e.id for e in events if e.id) for events in seen}) == 1
    client.cancel(blocker)


def test_a_reader_that_has_seen_all_is_told_to_stay_away(client):
    events = client.stream("echo", "hi").rest()
    name = events[0].data["messageId"]
    assert client.attach(name, last_event_id=events[-1].id).status == 204


def test_a_stream_of_an_unknown_message_is_not_found(client):
    stream = client.attach("msg_00000000-0000-7000-8000-000000000000")
    assert stream.status == 404 and b"NOT_FOUND" in stream.body


def test_heartbeats_come_while_nothing_happens(daemons):
    client = daemons({"http": {"heartbeat": "30ms"}}).client
    stream = client.stream("echo", "@hang")
    start = stream.next()
    for _ in range(3):
        beat = stream.until("heartbeat")
        assert beat and "timestamp" in beat.data
    assert beat.id is None or cursor(beat.id) >= cursor(start.id)
    client.cancel(start.data["messageId"])
    assert stream.until("error").data["code"] == "CANCELLED"


def test_a_reader_that_leaves_does_not_cancel(client):
    stream = client.stream("echo", "@chunks=10 @gap=10ms still here")
    start = stream.next()
    stream.wire.reset()
    message = client.wait_final(start.data["messageId"])
    assert message["status"] == "completed" and message["response"] == "still here"


def test_an_asker_that_leaves_does_not_cancel(client):
    body = b'{"question": "@delay=150ms nobody waits"}'
    wire = Wire(client)
    wire.send(
        b"POST /api/v1/teams/echo/ask HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + client.key.encode()
        + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )
    name = wait_until(lambda: client.history()["messages"], "it was accepted")[0]["messageId"]
    wire.reset()
    message = client.wait_final(name)
    assert message["status"] == "completed" and message["response"] == "nobody waits"


def test_a_stalled_reader_is_dropped_and_holds_up_nobody(daemons):
    """One reader takes nothing; the other gets all, and the first can come back with its cursor."""
    daemon = daemons({"http": {"max_backlog": "64KiB", "request_timeout": "2s"}})
    client = daemon.client
    size = 24 * 1024 * 1024
    name = client.submit("echo", f"@delay=300ms @chunks=400 @size={size}")
    stalled = Sse(client, "GET", f"/api/v1/messages/{name}/stream", receive_buffer=4096)
    assert stalled.status == 200
    stalled.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader = client.attach(name)
    events = reader.rest(seconds=40)
    # The lively one may itself have been slower than the daemon: it comes back like any client.
    rounds = 0
    while events[-1].kind != "complete":
        rounds += 1
        assert rounds < 2000
        events = events + client.attach(name, last_event_id=[e.id for e in events if e.id][-1]).rest(seconds=40)
    assert len(text_of(events)) == size
    assert client.ask("echo", "others are served").ok()["response"] == "others are served"
    seen = []
    stalled.rest(seconds=40)
    seen += stalled.events
    assert not seen or seen[-1].kind != "complete", "a reader that read nothing was kept"
    back = client.attach(name, last_event_id=stalled.last_id) if stalled.last_id else client.attach(name)
    assert back.status == 200
    assert back.next() is not None
    back.close()


def test_a_slow_reader_of_a_short_stream_gets_all(client):
    """Within its limits a reader may take its time."""
    stream = Sse(
        client,
        "POST",
        "/api/v1/teams/echo/stream",
        {"message": "@chunks=50 @gap=1ms " + numbered(50)},
        receive_buffer=4096,
    )
    name = stream.next().data["messageId"]
    client.wait_final(name)
    events = stream.rest()
    assert text_of(events) == numbered(50) and events[-1].kind == "complete"


@pytest.mark.parametrize("how", ["sigterm", "kill -9"])
def test_a_cursor_outlives_the_daemon(daemons, how):
    daemon = daemons({"store": {"keep_events": "7d"}})
    text = numbered(30)
    events = daemon.client.stream("echo", f"@chunks=30 @gap=2ms {text}").rest()
    chunks = [e for e in events if e.kind != "heartbeat"]
    name = events[0].data["messageId"]
    if how == "sigterm":
        daemon.stop()
    else:
        daemon.kill9()
    daemon.start()
    again = daemon.client.attach(name, last_event_id=chunks[10].id)
    assert again.status == 200
    rest = [e for e in again.rest() if e.kind != "heartbeat"]
    assert [e.id for e in rest] == [e.id for e in chunks[11:]]
    assert text_of(chunks[:11] + rest) == text
    later = daemon.client.stream("echo", "a new one").rest()
    assert cursor(later[0].id)[1] > cursor(chunks[-1].id)[1], "a number was used twice"


def test_a_stream_goes_on_after_kill_9_in_its_middle(daemons):
    """Events of the cut attempt stay, those of the next follow, numbers only rise, and the end comes once."""
    daemon = daemons()
    stream = daemon.client.stream("echo", "@chunks=300 @gap=5ms " + numbered(300))
    seen = [stream.next() for _ in range(20)]
    daemon.kill9()
    assert all(stream.rest())
    name, last = seen[0].data["messageId"], stream.last_id
    daemon.start()
    # Chunks of the last milliseconds before a crash may be gone from the disk; a cursor beyond them must still work.
    again = daemon.client.attach(name, last_event_id=last)
    assert again.status == 200
    got = [e for e in again.rest(seconds=40) if e.kind != "heartbeat"]
    assert got[-1].kind == "complete" and [e.kind for e in got].count("complete") == 1
    assert all(cursor(e.id)[1] > cursor(last)[1] for e in got)
    assert_no_gap_no_double(got)
    message = daemon.client.wait_final(name)
    assert message["response"] == numbered(300)


def test_streams_are_limited_and_the_limit_is_told(daemons):
    daemon = daemons({"http": {"max_streams": 3}, "teams": {"echo": {"driver": "echo", "concurrency": 8}}})
    client = daemon.client
    open_streams = [client.stream("echo", "@hang") for _ in range(3)]
    names = [stream.next().data["messageId"] for stream in open_streams]
    refused = client.stream("echo", "one too many")
    assert refused.status == 503 and b"OVERLOADED" in refused.body and int(refused.fields["retry-after"]) > 0
    assert client.ask("echo", "asks go on").ok()["response"] == "asks go on"
    open_streams[0].close()
    wait_until(
        lambda: client.stream("echo", "room again").status == 200, "the place of a reader that left is free again"
    )
    for name in names:
        client.cancel(name)


def test_a_daemon_that_stops_ends_its_streams(daemons):
    daemon = daemons({"shutdown": {"grace": "0"}})
    stream = daemon.client.stream("echo", "@hang")
    stream.next()
    daemon.stop()
    events = stream.rest()
    assert events[-1].kind not in ("complete", "error")


def test_a_revoked_key_loses_its_streams(daemons):
    client = daemons({"http": {"heartbeat": "50ms"}}).client
    key = client.post("/api/v1/keys", {"name": "gone", "scopes": ["teams:write"]}).ok(201)["key"]
    mine = client.with_key(key).stream("echo", "@gap=1ms @chunks=2 @hang ab")
    name = mine.next().data["messageId"]
    others = client.attach(name)
    mine.until("heartbeat")
    client.request("DELETE", "/api/v1/keys/gone").ok()
    assert "complete" not in [e.kind for e in mine.rest()], "the stream went on"
    others.until("heartbeat")
    client.cancel(name)
    assert others.rest()[-1].kind == "error"


@pytest.mark.parametrize("streams", [1, 2])
def test_a_last_event_that_was_lost_with_the_daemon_is_no_dead_end(daemon, streams):
    """Live events are seen before they are on disk.  One running stream: that one was meant; two: nobody can tell."""
    opened = [daemon.client.stream("echo", "@chunks=2 @gap=1ms @hang ab") for _ in range(streams)]
    firsts = [stream.next() for stream in opened]
    for stream in opened:
        stream.until("chunk")
        stream.until("chunk")
    epoch, seq = cursor(firsts[-1].id)
    daemon.kill9()
    daemon.start()
    again = Sse(
        daemon.client, "GET", "/api/v1/teams/echo/stream?message=x", headers={"Last-Event-ID": f"{epoch}-{seq + 500}"}
    )
    if streams == 2:
        assert again.status == 410
    else:
        assert again.status == 200
        again.until("retry")
        again.until("chunk")
        daemon.client.cancel(firsts[0].data["messageId"])
        assert again.rest()[-1].data["messageId"] == firsts[0].data["messageId"]
    assert daemon.client.history(team="echo")["pagination"]["total"] == streams, "nothing new was submitted"


# ---- many more streams than threads ----

THREADS = {"threads": 8, "max_sockets": 1, "max_waiting": 4}
FEW = {"http": {**THREADS, "heartbeat": "600s"}, "teams": {"echo": {"driver": "echo", "concurrency": 8}}}


def sockets_of(pid):
    """Descriptors of sockets; each of the server's threads has some others of its own, however often it is used."""
    folder, count = f"/proc/{pid}/fd", 0
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
    return count


def metric(client, name):
    return int(re.search(rf"^{name} (\d+)$", client.get("/metrics").text, re.M).group(1))


def quiet_job(client, text="ab"):
    """A running job that has said its two chunks and says nothing more until it is cancelled."""
    stream = client.stream("echo", f"@chunks=2 @gap=1ms @hang {text}")
    name = stream.next().data["messageId"]
    for _ in range(2):
        assert stream.until("chunk")
    stream.close()
    return name


def test_streams_hold_no_thread(daemons):
    """Each of 200 gets every event, plain requests are served beside them, and no thread is added."""
    daemon = daemons(FEW)
    client = daemon.client
    before = Footprint.of(daemon.pid).threads
    names = [client.submit("echo", f"@delay=10s @hang {i}") for i in range(3)]
    streams = [client.attach(names[i % 3]) for i in range(200)]
    assert all(stream.status == 200 for stream in streams)
    assert Footprint.of(daemon.pid).threads <= before + 3
    assert metric(client, "muster_http_streams") == 200
    assert metric(client, "muster_http_connections") >= 201
    wait_until(lambda: metric(client, "muster_http_busy") == 201, "they and this one are at work")
    for _ in range(10):
        assert client.ask("echo", "others are served").ok()["response"] == "others are served"
    for name in names:
        client.cancel(name)
    ends = [stream.rest() for stream in streams]
    for i, events in enumerate(ends):
        assert events[-1].data["code"] == "CANCELLED" and events[-1].data["messageId"][4:] == names[i % 3][4:]
        assert [e.id for e in events] == [e.id for e in ends[i % 3]]
    assert metric(client, "muster_http_streams") == 0
    wait_until(lambda: metric(client, "muster_http_busy") == 1, "only this one is at work")


def test_a_stalled_reader_holds_up_no_other_of_many(daemons):
    daemon = daemons(dict(FEW, http={**FEW["http"], "max_backlog": "16MiB"}))
    client = daemon.client
    size = 20 * 1024 * 1024
    name = client.submit("echo", f"@delay=300ms @chunks=400 @size={size}")
    stalled = [Sse(client, "GET", f"/api/v1/messages/{name}/stream", receive_buffer=4096) for _ in range(4)]
    readers = [client.attach(name) for _ in range(3)]
    lively = [threading.Thread(target=reader.rest, kwargs={"seconds": 60}) for reader in readers]
    for thread in lively:
        thread.start()
    for thread in lively:
        thread.join()
    for reader in readers:
        assert len(text_of(reader.events)) == size and reader.events[-1].kind == "complete"
    wait_until(lambda: metric(client, "muster_http_streams_dropped_total") == 4, "those that do not read are dropped")
    wait_until(lambda: metric(client, "muster_http_streams") == 0, "their places are free")
    for one in stalled:
        events = one.rest(seconds=40)
        assert not events or events[-1].kind != "complete"
        back = client.attach(name, last_event_id=one.last_id)
        assert back.status == 200 and cursor(back.next().id) > cursor(one.last_id)
        back.close()


def test_a_client_that_takes_nothing_any_more_is_given_up(daemons):
    """Also when nothing more is to come for it; what it holds is not held for ever."""
    daemon = daemons({"http": {**THREADS, "heartbeat": "100ms", "request_timeout": "300ms", "max_backlog": "64MiB"}})
    client = daemon.client
    name = client.submit("echo", "@delay=200ms @chunks=100 @size=16000000")
    stalled = Sse(client, "GET", f"/api/v1/messages/{name}/stream", receive_buffer=4096)
    assert stalled.status == 200
    client.wait_final(name)
    wait_until(lambda: metric(client, "muster_http_streams_dropped_total") == 1, "it is given up", 20)
    wait_until(lambda: metric(client, "muster_http_streams") == 0, "its place is free")
    assert metric(client, "muster_http_behind_bytes") == 0


def test_clients_that_read_their_history_slowly_leave_threads_for_others(daemons):
    daemon = daemons({"http": {**THREADS, "threads": 16, "request_timeout": "300s"}})
    client = daemon.client
    for _ in range(2):
        client.wait_final(client.submit("echo", "@chunks=200 @size=16000000"))
    lines = ["GET /api/v1/events?since=oldest HTTP/1.1", "Host: x"]
    lines += [f"{name}: {value}" for name, value in client.head({}).items()]
    slow = [Wire(client, 4096) for _ in range(30)]
    for wire in slow:
        wire.send("\r\n".join(lines).encode() + b"\r\n\r\n")
    for _ in range(5):
        assert client.ask("echo", "others are served").ok()["response"] == "others are served"
    for wire in slow:
        wire.close()
    wait_until(lambda: metric(client, "muster_http_streams") == 0, "they are gone")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_is_seen_at_once_and_leaves_no_descriptor(daemons, how):
    daemon = daemons(FEW)
    before = sockets_of(daemon.pid)
    client = daemon.client
    name = quiet_job(client)
    for _ in range(3):
        streams = [client.attach(name) for _ in range(40)]
        for stream in streams:
            stream.until("start")
        assert sockets_of(daemon.pid) >= 40
        for stream in streams:
            stream.wire.reset() if how == "reset" else stream.close()
        wait_until(lambda: metric(client, "muster_http_streams") == 0, "the server has seen it", 5)
        wait_until(lambda: sockets_of(daemon.pid) <= before, "their descriptors are closed", 5)
    client.cancel(name)


def test_a_stop_has_a_last_word_for_every_stream(daemons):
    daemon = daemons(dict(FEW, shutdown={"grace": "0"}))
    name = quiet_job(daemon.client)
    streams = [daemon.client.attach(name) for _ in range(100)]
    for stream in streams:
        stream.until("chunk")
    begun = time.monotonic()
    daemon.stop()
    if SLOW == 1:
        assert time.monotonic() - begun < 2.5, "the stop waited for them"
    for stream in streams:
        assert stream.rest()[-1].kind not in ("complete", "error")
        assert "server stopping" in stream.comments


def test_the_last_event_reaches_a_client_that_sent_more_than_its_request(daemons):
    """What is unread when the server closes would reset the connection."""
    client = daemons({"http": {**THREADS, "heartbeat": "30ms"}}).client
    name = quiet_job(client)
    stream = client.attach(name)
    stream.until("chunk")
    stream.wire.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    for _ in range(3):
        assert stream.until("heartbeat"), "it was taken for one that has left"
    client.cancel(name)
    assert stream.until("error").data["code"] == "CANCELLED"
    assert stream.next() is None


def test_bytes_sent_ahead_do_not_keep_the_server_busy(daemons):
    daemon = daemons({"http": {**THREADS, "heartbeat": "50ms"}})
    name = quiet_job(daemon.client)
    streams = [daemon.client.attach(name) for _ in range(10)]

    def seconds_used():
        fields = pathlib.Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    for stream in streams:
        stream.until("heartbeat")
        stream.wire.send(b"x" * 5000)
    before, begun = seconds_used(), time.monotonic()
    for _ in range(20):
        for stream in streams:
            stream.until("heartbeat")
    assert seconds_used() - before < (time.monotonic() - begun) / 2
    daemon.client.cancel(name)


def test_a_stream_is_in_the_log_and_the_metrics_when_it_has_ended(daemons):
    daemon = daemons(FEW)
    client = daemon.client
    name = quiet_job(client)
    path = f"/api/v1/messages/{name}/stream"
    stream = Sse(client, "GET", path, headers={"X-Request-Id": "the-one", "User-Agent": "a reader"})
    stream.until("chunk")
    begun = time.monotonic()
    counted = r'muster_http_requests_total\{method="GET",route="/api/v1/messages/\{messageId\}/stream",status="200"\} 1'
    assert not re.search(counted, client.get("/metrics").text)
    assert not daemon.journal("http-request", request_id="the-one")
    client.ask("echo", "@delay=100ms it takes its time").ok()
    client.cancel(name)
    stream.rest()
    lasted = time.monotonic() - begun
    line = daemon.wait_journal("http-request", request_id="the-one")
    assert line["method"] == "GET" and line["path"] == path and line["status"] == 200
    assert line["key"] == "admin" and line["user_agent"] == "a reader" and line["address"] == "127.0.0.1"
    assert 100 <= line["duration_ms"] and line["duration_ms"] >= 1000 * lasted - 1000
    assert re.search(counted, client.get("/metrics").text)


def test_streams_have_half_of_the_descriptors(daemons):
    """Then they are refused, and everything else goes on."""
    daemon = daemons(FEW, prefix=["prlimit", "--nofile=400:400"])
    client = daemon.client
    name = quiet_job(client)
    wait_until(lambda: metric(client, "muster_http_streams") == 0, "the first one has left")
    streams = [client.attach(name) for _ in range(200)]
    assert all(stream.status == 200 for stream in streams)
    refused = client.attach(name)
    assert refused.status == 503 and b"OVERLOADED" in refused.body
    assert client.ask("echo", "others are served").ok()["response"] == "others are served"
    client.cancel(name)
    assert all(stream.rest()[-1].kind == "error" for stream in streams)


def test_streams_and_web_sockets_are_limited_apart(daemons):
    daemon = daemons({"http": {**THREADS, "max_streams": 2}})
    client = daemon.client
    name = quiet_job(client)
    wait_until(lambda: metric(client, "muster_http_streams") == 0, "the first one has left")
    streams = [client.attach(name) for _ in range(2)]
    assert client.attach(name).status == 503
    wires = [Wire(client) for _ in range(2)]
    for wire, status in zip(wires, (101, 503)):
        wire.send(
            f"GET /api/v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.key}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert wire.head()[0] == status
    client.cancel(name)
    assert all(stream.rest()[-1].kind == "error" for stream in streams)
