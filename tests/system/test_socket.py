# SPDX-License-Identifier: MPL-2.0
"""WebSocket /api/v1/stream, spoken to by an independent client library and, where that is too polite, by hand."""

import asyncio
import base64
import contextlib
import functools
import json
import os
import random
import struct

import pytest
import websockets

from harness import PYTHON, ROOT, SLOW, Footprint, Wire, cursor, scaled, wait_until

ENDS = ("complete", "error")
# Echo jobs of many tests run at the same time.
ECHO = {"teams": {"echo": {"driver": "echo", "concurrency": 8}}}
TWO = {
    "teams": {"alpha": {"driver": "echo", "concurrency": 8}, "beta": {"driver": "echo", "concurrency": 8}},
}


def numbered(count):
    """An answer whose every chunk can be told from the others, whatever the split."""
    return "".join(f"<{i:06d}>" for i in range(count))


def spoken(test):
    """The test is a coroutine."""

    @functools.wraps(test)
    def run(*arguments, **fixtures):
        asyncio.run(test(*arguments, **fixtures))

    return run


class Talk:
    """One connection.  `seen` is all that came, in order."""

    def __init__(self, socket):
        self.socket = socket
        self.seen = []

    async def say(self, kind, **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def next(self, seconds=20):
        """The next message of the server; heartbeats of the protocol are not among them."""
        text = await asyncio.wait_for(self.socket.recv(), scaled(seconds))
        assert isinstance(text, str), "the server speaks text"
        message = json.loads(text)
        assert isinstance(message["type"], str), message
        self.seen.append(message)
        return message

    async def find(self, check, seconds=20):
        """The first message that fits, among those seen and those to come."""
        at = 0
        while True:
            while at < len(self.seen):
                if check(self.seen[at]):
                    return self.seen[at]
                at += 1
            await self.next(seconds)

    async def answer(self, name):
        """The direct answer to the message with this `id`."""
        return await self.find(lambda m: m.get("id") == name)

    async def request(self, kind, **fields):
        """Say it, and wait for its answer."""
        name = f"r{random.getrandbits(40):x}"
        await self.say(kind, id=name, **fields)
        return await self.answer(name)

    async def submit(self, message, team="echo", **fields):
        """A message; its messageId."""
        answer = await self.request("message", team=team, message=message, **fields)
        assert answer["type"] == "accepted", answer
        return answer["messageId"]

    def events(self, name):
        """What was seen of a message, without direct answers."""
        return [m for m in self.seen if m.get("messageId") == name and "cursor" in m and m["type"] != "accepted"]

    async def end(self, name, seconds=20):
        """Wait for the end of a message; all its events."""
        await self.find(lambda m: m["type"] in ENDS and m.get("messageId") == name and "cursor" in m, seconds)
        return self.events(name)

    async def alive(self):
        """Is it still served?"""
        assert (await self.request("ping"))["type"] == "pong"

    async def closed(self, seconds=20):
        """Read to the end; the close code."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await self.next(seconds)
        return self.socket.close_code


def address(client, query=""):
    return f"ws://{client.host}:{client.port}/api/v1/stream{query}"


@contextlib.asynccontextmanager
async def talk(client, query="", **options):
    """A connection with the client's key in its headers."""
    head = {"Authorization": "Bearer " + client.key} if client.key else {}
    options = {"extra_headers": head, "ping_interval": None, "max_size": None, "max_queue": None, **options}
    options = {"open_timeout": scaled(15), "close_timeout": scaled(5), **options}
    async with websockets.connect(address(client, query), **options) as connection:
        yield Talk(connection)


async def refused(client, query="", **options):
    """The HTTP status that a handshake ends with."""
    try:
        async with talk(client, query, **options):
            pass
    except websockets.InvalidStatusCode as problem:
        return problem.status_code
    raise AssertionError("the connection was taken")


def text_of(events):
    return "".join(m["text"] for m in events if m["type"] == "chunk")


def kinds(events):
    return [m["type"] for m in events]


def assert_rising(messages):
    """Cursors of one log rise strictly."""
    marks = [cursor(m["cursor"]) for m in messages if "cursor" in m]
    assert all(a[0] == b[0] and a[1] < b[1] for a, b in zip(marks, marks[1:])), marks


def with_key(daemon, name, scopes, **more):
    made = daemon.client.post("/api/v1/keys", {"name": name, "scopes": scopes, **more}).ok(201)
    return daemon.client.with_key(made["key"])


class Frames:
    """A WebSocket by hand: what a library would not send, and what it would not show."""

    def __init__(self, client, receive_buffer=None, headers=()):
        self.wire = Wire(client, receive_buffer)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /api/v1/stream HTTP/1.1",
            f"Host: {client.host}:{client.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            f"Authorization: Bearer {client.key}",
            *headers,
        ]
        self.wire.send("\r\n".join(lines).encode() + b"\r\n\r\n")
        answer = self.wire.head()
        assert answer is not None and answer[0] == 101, answer

    def send(self, opcode, payload=b"", fin=True, masked=True):
        head = bytes([opcode | (0x80 if fin else 0)])
        flag = 0x80 if masked else 0
        if len(payload) < 126:
            head += bytes([flag | len(payload)])
        elif len(payload) < 65536:
            head += bytes([flag | 126]) + struct.pack("!H", len(payload))
        else:
            head += bytes([flag | 127]) + struct.pack("!Q", len(payload))
        if masked:
            mask = os.urandom(4)
            head += mask
            payload = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        self.wire.send(head + payload)

    def say(self, kind, **fields):
        self.send(1, json.dumps({"type": kind, **fields}).encode())

    def frame(self):
        """(opcode, payload) of the next frame, or None when the connection has ended."""
        head = self.wire.exactly(2)
        if head is None:
            return None
        assert head[0] & 0x70 == 0 and head[1] & 0x80 == 0, head
        size = head[1]
        if size >= 126:
            more = self.wire.exactly(2 if size == 126 else 8)
            if more is None:
                return None
            size = int.from_bytes(more, "big")
        payload = self.wire.exactly(size)
        return None if payload is None else (head[0] & 15, payload)

    def until(self, opcode):
        while True:
            frame = self.frame()
            if frame is None or frame[0] == opcode:
                return frame

    def until_type(self, *names):
        """The next message of these types."""
        while True:
            frame = self.until(1)
            assert frame, f"the connection ended before {names}"
            message = json.loads(frame[1])
            if message["type"] in names:
                return message

    def close_code(self):
        """Read to the end; the code of the server's close frame, 1005 when it has none, None when there is no frame."""
        code = None
        while True:
            frame = self.frame()
            if frame is None:
                return code
            if frame[0] == 8:
                code = struct.unpack("!H", frame[1][:2])[0] if frame[1] else 1005
                with contextlib.suppress(OSError):
                    self.send(8, frame[1][:2])

    def close(self):
        self.wire.close()


# ---- the conversation of the document ----


@spoken
async def test_the_conversation_of_the_document(client):
    async with talk(client) as one:
        await one.say("subscribe", team="echo")
        await one.say("message", team="echo", message="@chunks=5 @gap=2ms What database indexes do we have?")
        subscribed = await one.find(lambda m: m["type"] == "subscribed")
        assert subscribed["team"] == "echo" and cursor(subscribed["cursor"])
        accepted = await one.find(lambda m: m["type"] == "accepted")
        name = accepted["messageId"]
        assert name.startswith("msg_") and accepted["jobId"] == name.replace("msg_", "job_")
        assert accepted["team"] == "echo" and accepted["position"] >= 0 and accepted["estimatedCompletion"] > 0
        assert "replayed" not in accepted or accepted["replayed"] is False
        events = await one.end(name)
        assert kinds(events) == ["start"] + ["chunk"] * 5 + ["complete"]
        assert text_of(events) == "What database indexes do we have?"
        for event in events:
            assert event["team"] == "echo" and event["timestamp"] > 1_600_000_000_000
        assert events[-1]["duration"] >= 0 and events[-1]["usage"]
        assert_rising(events)
    message = client.message(name)
    assert message["status"] == "completed" and message["message"].endswith("What database indexes do we have?")


@spoken
async def test_without_a_subscription_a_message_is_answered_to_its_sender(client):
    async with talk(client) as one, talk(client) as other:
        await one.say("message", team="echo", message="for me", id="q1")
        first = await one.next()
        assert (first["type"], first["id"]) == ("accepted", "q1"), "its name comes before its events"
        events = await one.end(first["messageId"])
        assert text_of(events) == "for me" and kinds(events)[0] == "start"
        assert all("id" not in event for event in events)
        await other.alive()
        assert kinds(other.seen) == ["pong"], "others did not subscribe"


@spoken
async def test_tool_use_as_in_the_document(client):
    async with talk(client) as one:
        name = await one.submit('@tool=Read:{"file_path":"src/file.ts"} looked')
        events = await one.end(name)
        use = next(m for m in events if m["type"] == "tool_use")
        assert (use["tool"], use["file"], use["input"]) == ("Read", "src/file.ts", {"file_path": "src/file.ts"})
        assert kinds(events).index("tool_use") < kinds(events).index("complete")
        assert cursor(use["cursor"]) and use["timestamp"] and use["team"] == "echo"


@spoken
async def test_a_failure_is_an_error_with_its_code(client):
    async with talk(client) as one:
        events = await one.end(await one.submit("@fail=MODEL_REFUSED no"))
        last = events[-1]
        assert last["type"] == "error" and last["code"] == "MODEL_REFUSED" and last["error"] and last["message"]
        assert last["team"] == "echo" and last["timestamp"]
        await one.alive()


@spoken
async def test_a_retry_is_told_between_the_attempts(daemons):
    daemon = daemons({"queue": {"retry_delay": "1ms"}, **ECHO})
    async with talk(daemon.client) as one:
        events = await one.end(await one.submit("@fail=PROCESS_ERROR:2 fine at last"))
        assert kinds(events).count("retry") == 2 and kinds(events)[-1] == "complete"
        assert next(m for m in events if m["type"] == "retry")["code"] == "PROCESS_ERROR"


@spoken
async def test_refused_tools_and_steps_are_told(daemons, tmp_path):
    """By the stand-in of the real agent."""
    team = {
        "driver": "claude",
        "command": [PYTHON, "-IS", str(ROOT / "tests" / "fake_claude.py")],
        "stop_timeout": "200ms",
        "env": {"HOME": str(tmp_path)},
        "permissions": {"deny": ["Read(*.env)"]},
    }
    daemon = daemons({"teams": {"claude": team}})
    async with talk(daemon.client) as one:
        events = await one.end(await one.submit('tool: Read {"file_path": "secret.env"}', team="claude"))
        denied = next(m for m in events if m["type"] == "permission_denied")
        assert (denied["tool"], denied["rule"]) == ("Read", "Read(*.env)") and denied["team"] == "claude"
        assert denied["input"] == {"file_path": "secret.env"} and cursor(denied["cursor"]) and denied["timestamp"]
        events = await one.end(await one.submit("todo: 3/5 0 on the way", team="claude"))
        step = next(m for m in events if m["type"] == "progress")
        assert (step["current"], step["total"]) == (3, 5) and step["step"] and text_of(events) == "on the way"
        assert kinds(events)[-1] == "complete"


@spoken
async def test_chunks_come_before_the_end(client):
    """The agent hangs after its last chunk: whatever arrives cannot have waited for the end."""
    async with talk(client) as one:
        name = await one.submit("@chunks=3 @gap=1ms @hang abcdef")
        while text_of(one.events(name)) != "abcdef":
            await one.next()
        client.wait_state(name, "processing")
        answer = await one.request("cancel", messageId=name)
        assert (answer["type"], answer["messageId"]) == ("cancelled", name)
        assert answer["status"] == "cancelled" and answer["wasRunning"] is True
        last = (await one.end(name))[-1]
        assert last["type"] == "error" and last["code"] == "CANCELLED"
    assert client.message(name)["status"] == "cancelled"


@spoken
async def test_priority_and_context_reach_the_job(client):
    async with talk(client) as one:
        name = await one.submit("@delay=1ms x", priority="high", context={"source": "test", "list": [1, None]})
        await one.end(name)
    message = client.message(name)
    assert message["priority"] == "high" and message["context"] == {"source": "test", "list": [1, None]}


@spoken
async def test_a_session_is_accepted_and_said_again(client):
    async with talk(client) as one:
        for _ in range(2):
            answer = await one.request("message", team="echo", message="again", sessionId="conversation-1")
            assert answer["type"] == "accepted" and answer["sessionId"] == "conversation-1"
            assert kinds(await one.end(answer["messageId"]))[-1] == "complete"
            assert client.message(answer["messageId"])["sessionId"] == "conversation-1"
        answer = await one.request("message", team="echo", message="x", sessionId="s" * 129)
        assert (answer["type"], answer["code"]) == ("error", "INVALID_REQUEST") and "sessionId" in str(answer)
        answer = await one.request("message", team="echo", message="no session")
        assert "sessionId" not in answer


@spoken
async def test_messages_of_one_session_run_one_after_the_other(client):
    async with talk(client) as one:
        names = [await one.submit(f"@delay=30ms turn {i}", sessionId="turns") for i in range(4)]
        for name in names:
            await one.end(name)
        ends = [m["messageId"] for m in one.seen if m["type"] == "complete"]
        assert ends == names
        for before, after in zip(names, names[1:]):
            assert client.message(before)["completedAt"] <= client.message(after)["startedAt"]


@spoken
async def test_text_comes_back_as_it_was_sent(client):
    async with talk(client) as one:
        for text in ("äöü € \U0001f680 \u2028", "\t tabs\r\nand lines\n", "\x7f\x01\x1f", "quotes \" ' \\ </script>"):
            assert text_of(await one.end(await one.submit(text))) == text


@spoken
async def test_a_large_answer_is_whole(daemons):
    daemon = daemons({"http": {"max_backlog": "64MiB"}, **ECHO})
    async with talk(daemon.client) as one:
        events = await one.end(await one.submit("@chunks=16 @size=8000000"), seconds=40)
        assert len(text_of(events)) == 8_000_000 and events[-1]["type"] == "complete"


# ---- credentials ----


@spoken
async def test_a_key_may_come_in_any_of_these_ways(client):
    anonymous, key = client.with_key(None), client.key
    for options in (
        {"extra_headers": {"Authorization": "Bearer " + key}},
        {"extra_headers": {"x-api-key": key}},
        {"subprotocols": ["muster", "muster.key." + key]},
        {"subprotocols": ["muster.key." + key, "muster"]},
    ):
        async with websockets.connect(address(anonymous), ping_interval=None, **options) as connection:
            assert connection.subprotocol == ("muster" if "subprotocols" in options else None)
            one = Talk(connection)
            assert text_of(await one.end(await one.submit("let in"))) == "let in"
    async with talk(anonymous, f"?api_key={key}") as one:
        await one.alive()


@spoken
async def test_a_browser_chooses_the_plain_subprotocol_too(client):
    async with talk(client, subprotocols=["muster"]) as one:
        assert one.socket.subprotocol == "muster"
        await one.alive()


@spoken
async def test_the_first_message_may_be_the_credential(daemons):
    """And a connection that has shown it is not closed when the time for it is over."""
    daemon = daemons({"http": {"auth_timeout": "200ms"}, **ECHO})
    async with talk(daemon.client.with_key(None)) as one:
        answer = await one.request("auth", token=daemon.key)
        assert answer["type"] == "authenticated" and answer["name"]
        assert text_of(await one.end(await one.submit("@delay=500ms still here"))) == "still here"
    async with talk(daemon.client.with_key(None)) as one:
        answer = await one.request("auth", token="Bearer " + daemon.key)
        assert answer["type"] in ("authenticated", "error")


@spoken
async def test_a_wrong_key_is_refused_before_the_handshake(client):
    wrong = client.with_key("muster_sk_" + "w" * 43)
    assert await refused(wrong) == 401
    anonymous = client.with_key(None)
    assert await refused(anonymous, "?api_key=" + wrong.key) == 401
    assert await refused(anonymous, subprotocols=["muster", "muster.key." + wrong.key]) == 401


@spoken
async def test_who_never_says_a_key_is_told_and_closed(daemons):
    daemon = daemons({"http": {"auth_timeout": "300ms"}, **ECHO})
    anonymous = daemon.client.with_key(None)
    async with talk(anonymous) as one:
        for kind, fields in (
            ("message", {"team": "echo", "message": "x"}),
            ("subscribe", {"team": "echo"}),
            ("cancel", {"messageId": "msg_00000000-0000-7000-8000-000000000000"}),
        ):
            answer = await one.request(kind, **fields)
            assert (answer["type"], answer["code"]) == ("error", "UNAUTHORIZED")
        assert await one.closed() == 1008
    async with talk(anonymous) as silent:
        assert await silent.closed() == 1008
    assert daemon.client.history()["pagination"]["total"] == 0


@spoken
async def test_a_wrong_token_is_told_and_closed(daemons):
    daemon = daemons({"http": {"auth_timeout": "300ms"}, **ECHO})
    async with talk(daemon.client.with_key(None)) as one:
        answer = await one.request("auth", token="muster_sk_" + "w" * 43)
        assert (answer["type"], answer["code"]) == ("error", "UNAUTHORIZED")
        assert await one.closed() == 1008


@spoken
async def test_a_key_in_a_query_is_not_logged(daemon):
    async with talk(daemon.client.with_key(None), f"?api_key={daemon.key}") as one:
        await one.alive()
    async with talk(daemon.client.with_key(None)) as one:
        await one.request("auth", token=daemon.key)
    async with talk(daemon.client.with_key(None), subprotocols=["muster", "muster.key." + daemon.key]) as one:
        await one.alive()
    daemon.stop()
    assert daemon.key not in daemon.log()


def test_a_plain_request_is_told_to_upgrade(client):
    answer = client.get("/api/v1/stream")
    answer.error(426)
    assert "websocket" in (answer.header("Upgrade") or "").lower()


@spoken
async def test_a_revoked_key_loses_its_connection(daemons):
    daemon = daemons({"http": {"heartbeat": "50ms"}, **ECHO})
    mine = with_key(daemon, "gone", ["teams:read", "messages:write", "messages:stream"])
    async with talk(mine) as one, talk(daemon.client) as other:
        name = await one.submit("@hang")
        daemon.client.request("DELETE", "/api/v1/keys/gone").ok()
        assert await one.closed() == 1008
        await other.alive()
        daemon.client.cancel(name)
    assert await refused(mine) == 401


# ---- scopes and teams ----


@spoken
async def test_the_scope_of_streams_is_needed(daemon):
    nobody = with_key(daemon, "nobody", ["teams:read", "messages:write"])
    assert await refused(nobody) == 403
    async with talk(nobody.with_key(None)) as one:
        answer = await one.request("auth", token=nobody.key)
        assert (answer["type"], answer["code"]) == ("error", "FORBIDDEN")


@spoken
async def test_who_may_only_look_sends_nothing(daemon):
    looker = with_key(daemon, "looker", ["teams:read", "messages:stream"])
    async with talk(looker) as one:
        answer = await one.request("message", team="echo", message="x")
        assert (answer["type"], answer["code"]) == ("error", "FORBIDDEN") and "messages:write" in str(answer)
        name = daemon.client.submit("echo", "@hang")
        answer = await one.request("cancel", messageId=name.replace("job_", "msg_"))
        assert (answer["type"], answer["code"]) == ("error", "FORBIDDEN")
        assert (await one.request("subscribe", team="echo"))["type"] == "subscribed"
        seen = daemon.client.ask("echo", "looked at").ok()["messageId"]
        assert text_of(await one.end(seen)) == "looked at"
        daemon.client.wait_state(name, "processing")
        daemon.client.cancel(name)
    writer = with_key(daemon, "writer", ["messages:write", "messages:stream"])
    async with talk(writer) as one:
        answer = await one.request("subscribe", team="echo")
        assert (answer["type"], answer["code"]) == ("error", "FORBIDDEN") and "teams:read" in str(answer)
        await one.alive()


@spoken
async def test_a_key_is_limited_to_its_teams(daemons):
    daemon = daemons(TWO)
    scopes = ["teams:read", "messages:write", "messages:stream"]
    mine = with_key(daemon, "alpha-only", scopes, teams=["alpha"])
    theirs = daemon.client.submit("beta", "@hang").replace("job_", "msg_")
    async with talk(mine) as one:
        for kind, fields in (
            ("subscribe", {"team": "beta"}),
            ("message", {"team": "beta", "message": "x"}),
        ):
            answer = await one.request(kind, **fields)
            assert (answer["type"], answer["code"]) == ("error", "FORBIDDEN"), answer
        for kind in ("cancel", "resume"):
            answer = await one.request(kind, messageId=theirs)
            assert answer["type"] == "error" and answer["code"] in ("FORBIDDEN", "NOT_FOUND"), answer
        assert (await one.request("subscribe", team="alpha"))["type"] == "subscribed"
        daemon.client.ask("beta", "hidden").ok()
        assert text_of(await one.end(await one.submit("mine", team="alpha"))) == "mine"
        assert all(m.get("team", "alpha") == "alpha" for m in one.seen if "cursor" in m)
    daemon.client.wait_state(theirs, "processing")
    daemon.client.cancel(theirs)


@spoken
async def test_an_unknown_team_or_message_is_told(client):
    async with talk(client) as one:
        for kind, fields, code in (
            ("subscribe", {"team": "nobody"}, "TEAM_NOT_FOUND"),
            ("message", {"team": "nobody", "message": "x"}, "TEAM_NOT_FOUND"),
            ("cancel", {"messageId": "msg_00000000-0000-7000-8000-000000000000"}, "NOT_FOUND"),
            ("resume", {"messageId": "msg_00000000-0000-7000-8000-000000000000"}, "NOT_FOUND"),
        ):
            answer = await one.request(kind, **fields)
            assert (answer["type"], answer["code"]) == ("error", code), answer
            assert answer["error"] and answer["message"] and answer["timestamp"] and "cursor" not in answer
        name = client.ask("echo", "done").ok()["messageId"]
        answer = await one.request("cancel", messageId=name)
        assert (answer["type"], answer["code"]) == ("error", "CONFLICT"), answer
        await one.alive()


# ---- many messages ----


@spoken
async def test_several_messages_at_once_are_each_complete_and_in_order(client):
    text = numbered(40)
    async with talk(client) as one:
        names = [await one.submit(f"@chunks=40 @gap=3ms {i}:{text}") for i in range(6)]
        for i, name in enumerate(names):
            events = await one.end(name)
            assert text_of(events) == f"{i}:{text}"
            assert kinds(events) == ["start"] + ["chunk"] * 40 + ["complete"]
            assert_rising(events)
        order = [m["messageId"] for m in one.seen if m["type"] == "chunk"]
        changes = sum(1 for a, b in zip(order, order[1:]) if a != b)
        assert changes > len(names), "their chunks are interleaved"


@spoken
async def test_a_message_whose_team_is_followed_comes_once_and_in_the_teams_order(client):
    async with talk(client) as one:
        await one.request("subscribe", team="echo")
        names = [await one.submit(f"@chunks=10 @gap=1ms {i}:{numbered(10)}") for i in range(8)]
        for i, name in enumerate(names):
            events = await one.end(name)
            assert text_of(events) == f"{i}:{numbered(10)}" and kinds(events).count("start") == 1
        assert_rising([m for m in one.seen if m.get("messageId") and "cursor" in m])


async def talk_at_random(client, seed):
    """Own messages between subscriptions that come and go; each must come once, whole, and in order."""
    choose = random.Random(seed)
    text, names, subscribed = numbered(12), [], set()
    async with talk(client) as one:
        for i in range(50):
            team = choose.choice(("alpha", "beta"))
            if choose.random() < 0.5:
                words = f"@chunks={choose.randrange(1, 12)} @gap={choose.randrange(1, 5)}ms {text}"
                await one.say("message", team=team, message=words, id=f"m{i}")
                names.append(f"m{i}")
            else:
                await one.say("unsubscribe" if team in subscribed else "subscribe", team=team)
                subscribed ^= {team}
            for _ in range(choose.randrange(5)):  # how the calls are mixed with what comes
                await one.alive()
        for name in [(await one.answer(name))["messageId"] for name in names]:
            events = await one.end(name)
            assert kinds(events)[0] == "start" and text_of(events) == text, events
            assert_rising(events)
        await one.alive()
        for name in {m["messageId"] for m in one.seen if "cursor" in m and "messageId" in m}:
            assert_rising(one.events(name))


@spoken
async def test_own_messages_are_whole_whatever_else_is_followed_meanwhile(daemons):
    client = daemons(TWO).client
    await asyncio.gather(*(talk_at_random(client, seed) for seed in range(12)))


@spoken
async def test_two_that_follow_a_team_see_the_same(client):
    async with talk(client) as one, talk(client) as two:
        await one.request("subscribe", team="echo")
        await two.request("subscribe", team="echo")
        names = [await one.submit(f"@chunks=6 @gap=1ms {i}:{numbered(6)}") for i in range(5)]
        names += [client.submit("echo", f"@chunks=3 by http {i}").replace("job_", "msg_") for i in range(3)]
        views = []
        for reader in (one, two):
            for name in names:
                await reader.end(name)
            events = [m for m in reader.seen if "cursor" in m and m.get("messageId")]
            assert_rising(events)
            views.append(events)
        assert views[0] == views[1]


@spoken
async def test_an_unsubscribed_team_is_no_longer_shown(client):
    async with talk(client) as one:
        await one.request("subscribe", team="echo")
        await one.end(client.ask("echo", "seen").ok()["messageId"])
        answer = await one.request("unsubscribe", team="echo")
        assert (answer["type"], answer["team"]) == ("unsubscribed", "echo")
        hidden = client.ask("echo", "hidden").ok()["messageId"]
        mine = await one.submit("mine")
        assert text_of(await one.end(mine)) == "mine"
        assert not one.events(hidden)
        answer = await one.request("unsubscribe", team="echo")
        assert answer["type"] in ("error", "unsubscribed")
        assert (await one.request("subscribe", team="echo"))["type"] == "subscribed"
        again = client.ask("echo", "seen again").ok()["messageId"]
        assert text_of(await one.end(again)) == "seen again"


@spoken
async def test_as_much_is_followed_as_the_options_say(daemons):
    teams = {name: {"driver": "echo"} for name in ("a", "b", "c")}
    daemon = daemons({"http": {"max_follows": 2}, "teams": teams})
    async with talk(daemon.client) as one:
        assert (await one.request("subscribe", team="a"))["type"] == "subscribed"
        assert (await one.request("subscribe", team="b"))["type"] == "subscribed"
        answer = await one.request("subscribe", team="c")
        assert (answer["type"], answer["code"]) == ("error", "OVERLOADED")
        await one.request("unsubscribe", team="a")
        assert (await one.request("subscribe", team="c"))["type"] == "subscribed"


@spoken
async def test_ended_messages_make_room_for_others(daemons):
    daemon = daemons({"http": {"max_follows": 3}, **ECHO})
    async with talk(daemon.client) as one:
        for i in range(12):
            assert text_of(await one.end(await one.submit(f"number {i}"))) == f"number {i}"


# ---- cursors ----


@spoken
async def test_a_message_is_resumed_on_another_connection(client):
    text = numbered(60)
    async with talk(client) as one:
        name = await one.submit(f"@chunks=60 @gap=4ms {text}")
        while len(one.events(name)) < 10:
            await one.next()
    seen = one.events(name)
    for _ in range(2):
        async with talk(client) as again:
            await again.say("resume", messageId=name, after=seen[-1]["cursor"])
            while len(again.events(name)) < 10:
                await again.next()
        seen += again.events(name)
    async with talk(client) as last:
        await last.say("resume", messageId=name, after=seen[-1]["cursor"])
        seen += await last.end(name)
    assert text_of(seen) == text and kinds(seen) == ["start"] + ["chunk"] * 60 + ["complete"]
    assert_rising(seen)


@spoken
async def test_resumed_without_a_cursor_it_begins_with_its_beginning(client):
    async with talk(client) as one:
        name = await one.submit(f"@chunks=5 {numbered(5)}")
        seen = await one.end(name)
    async with talk(client) as two:
        await two.say("resume", messageId=name)
        assert await two.end(name) == seen
    running = client.submit("echo", "@chunks=3 @gap=1ms @hang abc").replace("job_", "msg_")
    async with talk(client) as three:
        await three.say("resume", messageId=running)
        while text_of(three.events(running)) != "abc":
            await three.next()
        assert kinds(three.events(running)) == ["start", "chunk", "chunk", "chunk"]
        await three.request("cancel", messageId=running)
        assert (await three.end(running))[-1]["code"] == "CANCELLED"


@pytest.mark.parametrize("bad", ["nonsense", "-1", "1-2-3", "99999999999999999999999-1", 5, "00000000-1"])
@spoken
async def test_a_cursor_that_is_none_is_refused(client, bad):
    name = client.ask("echo", "hi").ok()["messageId"]
    async with talk(client) as one:
        for kind, fields in (("resume", {"messageId": name}), ("subscribe", {"team": "echo"})):
            answer = await one.request(kind, after=bad, **fields)
            assert answer["type"] == "error" and answer["code"] in ("INVALID_REQUEST", "CURSOR_EXPIRED"), answer
        await one.alive()


@spoken
async def test_a_subscription_goes_on_after_a_disconnect(client):
    """Whatever happened in between is told, once, in order; then what happens now."""
    async with talk(client) as one:
        subscribed = await one.request("subscribe", team="echo")
        first = await one.submit("@chunks=4 first")
        await one.end(first)
        running = await one.submit(f"@chunks=50 @gap=3ms {numbered(50)}")
        while len(one.events(running)) < 8:
            await one.next()
    seen = [m for m in one.seen if "cursor" in m and "messageId" in m]
    between = client.ask("echo", "between").ok()["messageId"]
    async with talk(client) as two:
        assert (await two.request("subscribe", team="echo", after=seen[-1]["cursor"]))["type"] == "subscribed"
        later = await two.submit("later")
        for name in (running, between, later):
            await two.end(name)
    seen += [m for m in two.seen if "cursor" in m and "messageId" in m]
    assert_rising(seen)
    for name, text in ((first, "first"), (running, numbered(50)), (between, "between"), (later, "later")):
        events = [m for m in seen if m["messageId"] == name]
        assert text_of(events) == text and kinds(events)[0] == "start" and kinds(events)[-1] == "complete"
    async with talk(client) as three:
        await three.request("subscribe", team="echo", after=subscribed["cursor"])
        for name in (running, between, later):
            await three.end(name)
        assert [m for m in three.seen if "cursor" in m and "messageId" in m] == seen


@spoken
async def test_readers_that_come_and_go_at_any_moment_miss_nothing(client):
    """Where the past ends and the present begins there is no seam, for a team or for one message."""
    chance = random.Random(int(os.environ.get("MUSTER_TEST_SEED", "20251120")))
    async with talk(client) as one:
        begin = (await one.request("subscribe", team="echo"))["cursor"]
        names = [await one.submit(f"@chunks=120 @gap=3ms {i}:{numbered(120)}") for i in range(5)]

        async def come_and_go(kind, fields, after, is_over):
            seen = []
            while not is_over(seen):
                async with talk(client) as reader:
                    await reader.say(kind, **fields, **({"after": after} if after else {}))
                    for _ in range(chance.randrange(1, 60)):
                        if is_over(seen):
                            break
                        message = await reader.next()
                        assert message["type"] != "error", message
                        if "cursor" in message and "messageId" in message:
                            seen.append(message)
                            after = message["cursor"]
            return seen

        def all_over(seen):
            return sum(m["type"] == "complete" for m in seen) == len(names)

        def one_over(seen):
            return bool(seen) and seen[-1]["type"] in ENDS

        readers = [come_and_go("subscribe", {"team": "echo"}, begin, all_over) for _ in range(3)]
        readers += [come_and_go("resume", {"messageId": name}, None, one_over) for name in names]
        views = await asyncio.gather(*readers)
        for name in names:
            await one.end(name)
    whole = [m for m in one.seen if "cursor" in m and "messageId" in m]
    assert_rising(whole)
    for view in views[:3]:
        assert view == whole
    for name, view in zip(names, views[3:]):
        assert view == one.events(name)
    for i, name in enumerate(names):
        assert text_of(one.events(name)) == f"{i}:{numbered(120)}"


@spoken
async def test_a_subscription_goes_on_after_kill_9(daemons):
    daemon = daemons(ECHO)
    async with talk(daemon.client) as one:
        await one.request("subscribe", team="echo")
        done = await one.submit("@chunks=3 done before")
        await one.end(done)
        running = [await one.submit(f"@chunks=200 @gap=4ms {i}:{numbered(200)}") for i in range(3)]
        while len(one.events(running[-1])) < 5:
            await one.next()
        daemon.kill9()
        assert await one.closed() == 1006
    seen = [m for m in one.seen if "cursor" in m and "messageId" in m]
    daemon.start()
    async with talk(daemon.client) as two:
        assert (await two.request("subscribe", team="echo", after=seen[-1]["cursor"]))["type"] == "subscribed"
        later = await two.submit("later")
        for name in (*running, later):
            await two.end(name, 40)
    got = [m for m in two.seen if "cursor" in m and "messageId" in m]
    assert_rising(seen + got)
    assert not [m for m in got if m["messageId"] == done]
    for i, name in enumerate(running):
        events = [m for m in seen + got if m["messageId"] == name]
        assert kinds(events).count("complete") == 1 and kinds(events)[-1] == "complete"
        assert daemon.client.message(name)["response"] == f"{i}:{numbered(200)}"


@spoken
async def test_what_was_trimmed_is_told(daemons):
    daemon = daemons({"store": {"max_events": "4KiB", "sweep": "20ms"}, **ECHO})
    async with talk(daemon.client) as one:
        first = (await one.end(await one.submit("first")))[0]
        for i in range(200):
            await one.end(await one.submit(f"@chunks=20 {i}:{numbered(60)}"))
            async with talk(daemon.client) as two:
                answer = await two.request("subscribe", team="echo", after=first["cursor"])
            if answer["type"] == "error":
                break
        assert (answer["type"], answer.get("code")) == ("error", "CURSOR_EXPIRED")
        answer = await one.request("resume", messageId=first["messageId"], after=first["cursor"])
        assert (answer["type"], answer.get("code")) == ("error", "CURSOR_EXPIRED")
        await one.alive()


# ---- idempotency and rates ----


@spoken
async def test_a_message_sent_twice_with_one_key_is_one_job(client):
    fields = {"team": "echo", "message": "@chunks=4 @gap=1ms once", "idempotencyKey": "key-1"}
    async with talk(client) as one:
        first = await one.request("message", **fields)
        events = await one.end(first["messageId"])
        again = await one.request("message", **fields)
        assert again["type"] == "accepted" and again["messageId"] == first["messageId"] and again["replayed"] is True
        assert not first.get("replayed")
    async with talk(client) as two:
        again = await two.request("message", **fields)
        assert again["messageId"] == first["messageId"] and again["replayed"] is True
        assert await two.end(first["messageId"]) == events
        other = await two.request("message", **{**fields, "message": "something else"})
        assert (other["type"], other["code"]) == ("error", "IDEMPOTENCY_MISMATCH")
        new = await two.request("message", **{**fields, "idempotencyKey": "key-2"})
        assert new["messageId"] != first["messageId"]
        await two.end(new["messageId"])
    assert client.history()["pagination"]["total"] == 2


@spoken
async def test_a_message_repeated_while_it_runs_is_followed(client):
    fields = {"team": "echo", "message": "@chunks=3 @gap=1ms @hang abc", "idempotencyKey": "running"}
    async with talk(client) as one, talk(client) as two:
        first = await one.request("message", **fields)
        again = await two.request("message", **fields)
        assert again["messageId"] == first["messageId"] and again["replayed"] is True
        for reader in (one, two):
            while text_of(reader.events(first["messageId"])) != "abc":
                await reader.next()
        await one.request("cancel", messageId=first["messageId"])
        assert await one.end(first["messageId"]) == await two.end(first["messageId"])


@spoken
async def test_messages_count_against_the_rate_and_pings_do_not(daemon):
    few = with_key(
        daemon,
        "few",
        ["teams:read", "messages:write", "messages:stream"],
        rateLimit={"requests": 5, "window": 3_600_000},
    )
    async with talk(few) as one:
        for _ in range(20):
            await one.alive()
        answers = [await one.request("message", team="echo", message=f"number {i}") for i in range(8)]
        taken = [a for a in answers if a["type"] == "accepted"]
        assert 4 <= len(taken) <= 5, answers
        for over in answers[len(taken) :]:
            assert (over["type"], over["code"]) == ("error", "RATE_LIMITED")
            assert {**over, **(over.get("details") or {})}["retryAfter"] > 0
        assert (await one.request("subscribe", team="echo"))["code"] == "RATE_LIMITED"
        for answer in taken:
            assert kinds(await one.end(answer["messageId"]))[-1] == "complete"
        await one.alive()
    assert daemon.client.history()["pagination"]["total"] == len(taken)


# ---- frames, pings and ends ----


@spoken
async def test_pings_go_both_ways(client):
    async with talk(client) as one:
        waiter = await one.socket.ping(b"payload")
        await asyncio.wait_for(waiter, scaled(10))
        answer = await one.request("ping")
        assert answer["type"] == "pong" and answer["timestamp"] > 1_600_000_000_000


def test_the_server_pings_and_closes_who_does_not_answer(daemons):
    daemon = daemons({"http": {"heartbeat": "60ms"}, **ECHO})
    lively, dead = Frames(daemon.client), Frames(daemon.client)
    for _ in range(6):
        ping = lively.until(9)
        assert ping is not None, "one that answers is kept"
        lively.send(10, ping[1])
    assert dead.wire.closed_by_peer(10)
    lively.send(9, b"mine")
    assert lively.until(10) == (10, b"mine")
    lively.say("ping")
    assert lively.until_type("pong")
    lively.close()
    dead.close()


@spoken
async def test_a_client_that_says_goodbye_is_answered(client):
    async with talk(client) as one:
        await one.alive()
        await one.socket.close(1000, "bye")
        assert one.socket.close_code == 1000 and one.socket.close_rcvd is not None
    frames = Frames(client)
    frames.send(8, struct.pack("!H", 1000))
    assert frames.close_code() == 1000
    frames.close()


@spoken
async def test_a_daemon_that_stops_says_so(daemons):
    daemon = daemons({"shutdown": {"grace": "0"}, **ECHO})
    async with talk(daemon.client) as one, talk(daemon.client.with_key(None)) as silent:
        name = await one.submit("@hang")
        await asyncio.to_thread(daemon.stop)
        assert await one.closed() == 1001
        assert not [m for m in one.events(name) if m["type"] in ENDS]
        assert await silent.closed() in (1001, 1008)


@spoken
async def test_binary_is_not_understood(client):
    async with talk(client) as one:
        await one.socket.send(b'{"type":"ping"}')
        assert await one.closed() == 1003


@spoken
async def test_a_message_that_is_too_large_ends_the_connection(daemons):
    daemon = daemons({"http": {"max_body": "8KiB"}, **ECHO})
    async with talk(daemon.client) as one:
        name = await one.submit("x" * 8000)
        assert len(text_of(await one.end(name))) == 8000
        await one.say("message", team="echo", message="x" * 9000)
        assert await one.closed() == 1009
    # Announced: nobody waits for all of it.
    frames = Frames(daemon.client)
    frames.wire.send(b"\x81\xff" + struct.pack("!Q", 1 << 40) + b"mask" + b"its beginning")
    assert frames.close_code() == 1009
    frames.close()
    frames = Frames(daemon.client)
    frames.send(1, b"x" * 5000, fin=False)
    frames.send(0, b"x" * 5000, fin=False)
    assert frames.close_code() == 1009
    frames.close()
    assert daemon.client.history()["pagination"]["total"] == 1


@pytest.mark.parametrize("depth", [80, 500_000])
@spoken
async def test_json_that_is_nested_too_deep_ends_the_connection_only(client, depth):
    async with talk(client) as one, talk(client) as other:
        await one.socket.send('{"type":"ping","x":' + "[" * depth + "]" * depth + "}")
        assert await one.closed() == 1008 and not one.seen
        await other.alive()


def test_text_that_is_not_utf_8_ends_the_connection(client):
    frames = Frames(client)
    frames.send(1, b'{"type":"ping","id":"\xff\xfe"}')
    assert frames.close_code() == 1007
    frames.close()


@pytest.mark.parametrize(
    "what",
    [
        lambda f: f.send(1, b'{"type":"ping"}', masked=False),
        lambda f: f.send(3, b"reserved opcode"),
        lambda f: f.send(0, b"a continuation of nothing"),
        lambda f: f.send(9, b"x" * 126),
        lambda f: f.wire.send(b"\xc1\x80mask"),  # a bit of an extension that was not agreed on
        lambda f: f.send(9, b"", fin=False),
    ],
    ids=["unmasked", "opcode", "continuation", "long ping", "rsv", "fragmented ping"],
)
def test_frames_against_the_protocol_end_the_connection(client, what):
    frames = Frames(client)
    what(frames)
    assert frames.close_code() in (1002, 1005, None)
    frames.close()
    assert client.ask("echo", "others are served").ok()


def test_a_message_in_pieces_is_one_message(client):
    frames = Frames(client)
    text = json.dumps({"type": "message", "team": "echo", "message": "in pieces \u20ac"}, ensure_ascii=False).encode()
    frames.send(1, text[:10], fin=False)
    frames.send(9, b"between")
    for i in range(10, len(text)):
        frames.send(0, text[i : i + 1], fin=i == len(text) - 1)
    seen = []
    while not seen or (10, b"between") not in seen or not seen_chunk(seen):
        seen.append(frames.frame())
        assert seen[-1], seen
    assert seen_chunk(seen)["text"] == "in pieces \u20ac"
    frames.close()


def seen_chunk(frames):
    return next((json.loads(text) for opcode, text in frames if opcode == 1 and b'"chunk"' in text), None)


@spoken
async def test_what_makes_no_sense_is_told_and_the_connection_lives(client):
    async with talk(client) as one:
        for text in (
            "not json",
            "",
            "{",
            "[]",
            "5",
            "null",
            '"text"',
            "{}",
            '{"type":5}',
            '{"type":"nonsense"}',
            '{"type":"message"}',
            '{"type":"message","team":"echo"}',
            '{"type":"message","team":"echo","message":5}',
            '{"type":"message","team":"echo","message":"x","priority":"huge"}',
            '{"type":"subscribe"}',
            '{"type":"subscribe","team":["echo"]}',
            '{"type":"cancel","messageId":"nonsense"}',
            '{"type":"resume"}',
            json.dumps({"type": "ping", "id": "x" * 129}),
            '{"type":"message","team":"echo","message":"a\\u0000b"}',
        ):
            before = len(one.seen)
            await one.socket.send(text)
            answer = await one.next()
            assert answer["type"] == "error" and answer["code"] in ("INVALID_REQUEST", "NOT_FOUND"), (text, answer)
            assert answer["error"] and answer["message"] and len(one.seen) == before + 1
            await one.alive()
        answer = await one.request("nonsense")
        assert answer["type"] == "error" and answer["code"] == "INVALID_REQUEST"
        answer = await one.request("message", team="echo")
        assert answer["type"] == "error" and "message" in answer["message"], "the field is named"
    assert client.history()["pagination"]["total"] == 0


@spoken
async def test_a_job_whose_connection_is_gone_completes(client):
    """Disconnect is never cancel, however it happens."""
    names = []
    async with talk(client) as one:
        names.append(await one.submit("@chunks=10 @gap=10ms still here"))
    for how in ("reset", "fin"):
        frames = Frames(client)
        frames.say("message", team="echo", message="@chunks=10 @gap=10ms still here")
        names.append(frames.until_type("accepted")["messageId"])
        if how == "reset":
            frames.wire.reset()
        else:
            frames.close()
    for name in names:
        message = client.wait_final(name)
        assert message["status"] == "completed" and message["response"] == "still here"


def test_a_slow_reader_is_dropped_and_holds_up_nobody(daemons):
    """One follows the team and takes nothing; another gets all."""
    daemon = daemons({"http": {"max_backlog": "64KiB", "request_timeout": "20s"}, **ECHO})
    client = daemon.client
    stalled = Frames(client, receive_buffer=4096)
    stalled.say("subscribe", team="echo")
    assert stalled.until_type("subscribed")
    size = 24 * 1024 * 1024

    async def lively():
        """Slower than the daemon now and then: it comes back with its cursor like any client."""
        name, seen = client.submit("echo", f"@delay=50ms @chunks=400 @size={size}").replace("job_", "msg_"), []
        for _ in range(2000):
            async with talk(client) as one:
                await one.say("resume", messageId=name, **({"after": seen[-1]["cursor"]} if seen else {}))
                with contextlib.suppress(websockets.ConnectionClosed):
                    await one.end(name, 40)
                seen += one.events(name)
                if seen and seen[-1]["type"] == "complete":
                    return seen
                assert one.socket.close_code == 1013, one.socket.close_code
        raise AssertionError("never complete")

    events = asyncio.run(lively())
    assert len(text_of(events)) == size and kinds(events).count("start") == 1
    assert_rising(events)
    assert client.ask("echo", "others are served").ok()["response"] == "others are served"
    assert stalled.close_code() == 1013
    stalled.close()
    back = Frames(client)
    back.say("subscribe", team="echo", after=events[-3]["cursor"])
    assert back.until_type("complete")
    back.close()


def test_places_of_connections_that_left_are_free_again(daemons):
    daemon = daemons({"http": {"max_sockets": 3, "heartbeat": "100ms"}, **ECHO})
    client = daemon.client

    async def opened():
        async with talk(client) as one:
            await one.alive()

    for _ in range(4):
        held = []
        try:
            for _ in range(3):
                held.append(wait_until(lambda: try_frames(client), "a place is free"))
            assert asyncio.run(refused(client)) == 503
        finally:
            for i, frames in enumerate(held):
                frames.wire.reset() if i % 2 else frames.close()
    wait_until(lambda: try_frames(client), "a place is free").close()
    assert client.ask("echo", "asks go on").ok()["response"] == "asks go on"


def try_frames(client):
    try:
        return Frames(client)
    except AssertionError:
        return None


def test_a_connection_keeps_no_memory_of_its_last_message(daemons):
    daemon = daemons({"http": {"heartbeat": "600s", "threads": 256, "max_sockets": 100}, **ECHO})
    sockets = [Frames(daemon.client) for _ in range(60)]
    before = Footprint.of(daemon.pid).rss_kib
    for one in sockets:
        one.say("ping", pad="x" * 900_000)
        one.until_type("pong")
    grown = Footprint.of(daemon.pid).rss_kib - before
    for one in sockets:
        one.close()
    if SLOW == 1:  # a sanitizer keeps what was freed
        assert grown < 30_000, grown


def test_connections_leave_no_descriptor_behind(daemons):
    daemon = daemons({"http": {"heartbeat": "50ms"}, **ECHO})
    client = daemon.client

    def round_of_connections():
        for i in range(12):
            frames = Frames(client)
            frames.say("subscribe", team="echo")
            frames.until_type("subscribed")
            if i % 3 == 0:
                frames.wire.reset()
            elif i % 3 == 1:
                frames.send(8, struct.pack("!H", 1000))
                frames.close_code()
            frames.close()

    def descriptors():
        """Of sockets; each of the server's threads has some others of its own, however often it is used."""
        folder, count = f"/proc/{daemon.pid}/fd", 0
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                count += os.readlink(f"{folder}/{name}").startswith("socket:")
        return count

    before = descriptors()
    for _ in range(4):
        round_of_connections()
    wait_until(lambda: descriptors() == before, "their descriptors are closed")
