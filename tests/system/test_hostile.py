# SPDX-License-Identifier: MPL-2.0
"""Clients that mean no good.  After each of them the daemon answers an ordinary ask and holds no more than before."""

import json
import socket
import threading
import time

import pytest

from harness import SLOW, Client, Footprint, Wire, scaled, wait_until

CONFIG = {
    "http": {"threads": 32, "max_sockets": 12, "max_waiting": 12, "request_timeout": "700ms", "keep_alive": "500ms"},
    "teams": {"echo": {"driver": "echo", "concurrency": 8}},
}

ROOM_KIB = 64 * 1024 * int(max(1, SLOW))  # what the allocator may keep


def warm(client):
    """Each thread keeps what its first ask takes: give one to each, on a connection that holds it."""
    connections = [client.connection() for _ in range(CONFIG["http"]["threads"])]
    for connection in connections:
        client.request("POST", "/api/v1/teams/echo/ask", {"question": "warm"}, connection=connection).ok()
    for connection in connections:
        connection.close()


@pytest.fixture
def target(daemons):
    """A daemon that must be as lean after the test as before it."""
    daemon = daemons(CONFIG)
    warm(daemon.client)
    before = Footprint.of(daemon.pid)
    yield daemon
    assert daemon.client.ask("echo", "still there?").ok()["response"] == "still there?"
    now = [before]

    def lean():
        now[0] = Footprint.of(daemon.pid)
        return now[0].fds <= before.fds + 4 and now[0].threads <= before.threads + 4

    try:
        wait_until(lean, "descriptors and threads are given back", 15)
    except AssertionError as problem:
        raise AssertionError(f"{problem}: {before} -> {now[0]}") from None
    assert now[0].rss_kib < before.rss_kib + ROOM_KIB, (before, now[0])


def raw(daemon, data, seconds=15):
    """Send and return all that is answered until the daemon closes."""
    wire = Wire(daemon.client)
    wire.sock.settimeout(scaled(seconds))
    try:
        wire.send(data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    try:
        return wire.everything()
    finally:
        wire.close()


def post(daemon, body, *headers, path="/api/v1/teams/echo/ask", length=True):
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {daemon.client.key}",
        "Content-Type: application/json",
        *headers,
    ]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


GOOD = b'{"question":"hi"}'


def status(answer):
    assert answer.startswith(b"HTTP/1."), answer[:200]
    return int(answer.split(b" ", 2)[1])


# ---- slow and absent clients ----


def test_a_client_that_says_nothing_is_closed(target):
    wires = [Wire(target.client) for _ in range(8)]
    for wire in wires:
        assert wire.closed_by_peer()


def test_a_head_that_comes_by_drops_is_cut_at_the_limit(target):
    wire = Wire(target.client)
    pulse, began = threading.Event(), time.monotonic()
    try:
        for byte in b"POST /api/v1/teams/echo/ask HTTP/1.1\r\nHost: x\r\n" + b"X-Slow: y\r\n" * 1000:
            wire.send(bytes([byte]))
            if wire.sock.fileno() < 0 or pulse.wait(0.02) or time.monotonic() > began + scaled(15):
                break
        else:
            pytest.fail("a drip of bytes was taken to its end")
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert time.monotonic() < began + scaled(15), "a drip of bytes held its thread"


def test_a_body_that_never_comes_ends_the_connection(target):
    wires = [Wire(target.client) for _ in range(8)]
    for wire in wires:
        wire.send(post(target, b"", "Content-Length: 500", length=False) + b'{"question":')
    assert target.client.ask("echo", "meanwhile").ok()
    for wire in wires:
        assert wire.closed_by_peer()


def test_clients_that_vanish_in_an_ask_leave_nothing(target):
    for _ in range(10):
        wire = Wire(target.client)
        wire.send(post(target, json.dumps({"question": "@delay=50ms gone"}).encode()))
        wire.reset()
    for _ in range(5):
        wire = Wire(target.client)
        wire.send(b"GET /he")
        wire.reset()
    client = target.client
    wait_until(
        lambda: client.history(team="echo", status="processing")["pagination"]["total"] == 0
        and client.history(team="echo", status="queued")["pagination"]["total"] == 0,
        "their jobs ended",
    )


def test_half_closed_clients_get_their_answer(target):
    wire = Wire(target.client)
    wire.send(post(target, GOOD))
    wire.sock.shutdown(socket.SHUT_WR)
    answer = wire.everything()
    assert answer == b"" or status(answer) == 200


def test_more_connections_than_threads_do_not_shut_others_out(target):
    wires = [Wire(target.client) for _ in range(80)]
    answer = target.client.request("POST", "/api/v1/teams/echo/ask", {"question": "let me in"}, seconds=30)
    assert answer.ok()["response"] == "let me in"
    for wire in wires:
        wire.close()


def test_more_asks_than_may_wait_are_told_to_come_again(target):
    client = target.client
    answers = []

    def one():
        answers.append(client.ask("echo", "@hang", timeout=600))

    threads = [threading.Thread(target=one) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(scaled(40))
    statuses = sorted({a.status for a in answers})
    assert len(answers) == 24 and set(statuses) <= {408, 503}, statuses
    for answer in answers:
        if answer.status == 503:
            assert int(answer.header("Retry-After")) > 0
    assert 408 in statuses
    for message in client.history(team="echo", limit=100)["messages"]:
        client.cancel(message["messageId"])


def test_pipelined_requests_are_answered_in_order(target):
    wire = Wire(target.client)
    wire.send(b"".join(post(target, json.dumps({"question": f"number {i}"}).encode()) for i in range(5)))
    got = []
    while len(got) < 5:
        answer = wire.answer()
        if answer is None:
            break
        got.append(answer.json["response"])
    assert got == [f"number {i}" for i in range(len(got))] and got


# ---- smuggling ----


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(["Content-Length: 17", "Transfer-Encoding: chunked"], id="length and chunked"),
        pytest.param(["Transfer-Encoding: chunked", "Content-Length: 17"], id="chunked and length"),
        pytest.param(["Content-Length: 17", "Content-Length: 17"], id="length twice"),
        pytest.param(["Content-Length: 17", "Content-Length: 5"], id="two lengths"),
        pytest.param(["Content-Length: 17, 17"], id="length list"),
        pytest.param(["Content-Length: +17"], id="plus"),
        pytest.param(["Content-Length: -1"], id="negative"),
        pytest.param(["Content-Length: 0x11"], id="hexadecimal"),
        pytest.param(["Content-Length: 17abc"], id="number and letters"),
        pytest.param(["Content-Length:"], id="empty length"),
        pytest.param(["Content-Length: 99999999999999999999999"], id="overflow"),
        pytest.param(["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], id="two encodings"),
        pytest.param(["Transfer-Encoding: gzip"], id="unknown encoding"),
        pytest.param(["Transfer-Encoding: xchunked"], id="almost chunked"),
    ],
)
def test_an_ambiguous_length_is_refused_and_the_connection_closed(target, headers):
    smuggled = f"GET /api/v1/teams HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.client.key}\r\n\r\n".encode()
    answer = raw(target, post(target, GOOD, *headers, length=False) + smuggled)
    assert answer.count(b"HTTP/1.1 ") <= 1, "the smuggled request was answered"
    assert b'"teams"' not in answer
    if answer:
        assert status(answer) in (400, 411, 413, 501), answer[:300]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /health HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(
            b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", id="space before colon"
        ),
        pytest.param(
            b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello", id="space before colon of length"
        ),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: x\r\nX y: z\r\n\r\n", id="space in a name"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", id="folded line"),
        pytest.param(b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", id="version of the future"),
        pytest.param(b"GET /health\0/x HTTP/1.1\r\nHost: x\r\n\r\n", id="NUL in the path"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, id="a TLS hello"),
        pytest.param(b"\xff" * 400 + b"\r\n\r\n", id="bytes"),
        pytest.param(b"\r\n\r\n\r\n\r\n", id="only line ends"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
    ],
)
def test_a_malformed_head_does_no_harm(target, head):
    answer = raw(target, head)
    if answer and b"HTTP/1.1 2" in answer:
        pytest.fail(f"taken for a good request: {answer[:200]!r}")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/teams/..%2f..%2fetc/ask",
        "/api/v1/../../health",
        "/" + "a" * 12000,
        "/api/v1/teams/%00/ask",
        "/%ff%fe",
        "/api/v1/teams/" + "%41" * 500 + "/status",
        "//",
        "/.",
        "*",
        "",
    ],
)
def test_a_strange_path_is_not_found(target, path):
    fields = f"Host: x\r\nAuthorization: Bearer {target.client.key}\r\nConnection: close"
    answer = raw(target, f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
    assert b"root:" not in answer
    if answer:
        assert 400 <= status(answer) < 500, answer[:200]


# ---- sizes ----


def test_a_megabyte_of_header_is_refused(target):
    answer = raw(target, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * (1 << 20) + b"\r\n\r\n")
    assert not answer or status(answer) in (400, 413, 414, 431)


def test_more_headers_than_are_kept_are_refused_not_dropped(target):
    """A dropped header might be the one that matters."""
    lines = [f"X-{i}: y" for i in range(70)]
    answer = raw(
        target, "\r\n".join(["GET /health HTTP/1.1", "Host: x", *lines, "Connection: close"]).encode() + b"\r\n\r\n"
    )
    assert status(answer) in (400, 431), answer[:200]


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(target):
    wire = Wire(target.client)
    wire.send(post(target, b"", "Content-Length: 1073741824", length=False))
    answer = wire.answer()
    assert answer is not None and answer.status == 413
    assert answer.json["code"] == "PAYLOAD_TOO_LARGE"
    assert wire.closed_by_peer()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 100000 + b"]" * 100000, id="arrays"),
        pytest.param(b'{"a":' * 100000 + b"1" + b"}" * 100000, id="objects"),
        pytest.param(b'{"question":"x","context":' + b"[" * 100000 + b"]" * 100000 + b"}", id="in a field"),
        pytest.param(b"[" * 100000, id="open arrays"),
        pytest.param(b'{"question":"x","context":' + b'{"a":[' * 2000, id="open mix"),
    ],
)
def test_json_of_any_depth_is_survived(target, body):
    answer = raw(target, post(target, body, "Connection: close"))
    assert status(answer) == 400 and b"INVALID_REQUEST" in answer


@pytest.mark.parametrize(
    "body, why",
    [
        (b"", "empty"),
        (b"{", "open"),
        (b"nonsense", "no json"),
        (b"[]", "array"),
        (b'"text"', "string"),
        (b"null", "null"),
        (b'{"question":"a\x00b"}', "NUL byte"),
        (b'{"question":"a\\u0000b"}', "escaped NUL"),
        (b'{"question":"\xff\xfe"}', "invalid UTF-8"),
        (b'{"question":"\xed\xa0\x80"}', "surrogate in UTF-8"),
        (b'{"question":"\\ud800"}', "lone surrogate"),
        (b'{"question":"x"} trailing', "trailing text"),
        (b'{"question":"x"}{"question":"y"}', "two values"),
        (b'{"question":"x","timeout":1e999}', "infinite number"),
        (b'{"question":"x","timeout":99999999999999999999}', "huge number"),
        (b"\xef\xbb\xbf" + b'{"question":"x","bom"}', "byte order mark and bad"),
    ],
)
def test_a_body_that_is_no_request_is_400(target, body, why):
    answer = raw(target, post(target, body, "Connection: close"))
    assert status(answer) == 400, (why, answer[:300])
    assert b"INVALID_REQUEST" in answer


def test_a_key_twice_in_an_object_does_not_pass_unseen(target):
    answer = raw(target, post(target, b'{"question":"first","question":"second"}', "Connection: close"))
    assert status(answer) in (200, 400)


# ---- chunked bodies ----


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)


def test_a_chunked_body_is_read_or_refused_whole(target):
    data = post(target, b"", "Transfer-Encoding: chunked", "Connection: close", length=False)
    answer = raw(target, data + chunked(b'{"question":', b'"in ', b'pieces"}') + b"0\r\n\r\n")
    assert status(answer) in (200, 411, 501)
    if status(answer) == 200:
        assert b'"in pieces"' in answer


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"zz\r\n{}\r\n0\r\n\r\n", id="no number"),
        pytest.param(b"-5\r\nhello\r\n0\r\n\r\n", id="negative"),
        pytest.param(b"ffffffffffffffff\r\nx", id="largest number"),
        pytest.param(b"ffffffffffffffffffff\r\nx", id="overflow"),
        pytest.param(b"5\r\nhelloworld\r\n0\r\n\r\n", id="longer than said"),
        pytest.param(b"5\r\nhel", id="shorter than said"),
        pytest.param(b"5;" + b"x" * 100000 + b"\r\nhello\r\n0\r\n\r\n", id="long extension"),
        pytest.param(b"1\r\nx\r\n" * 200000, id="many small ones without end"),
    ],
)
def test_broken_chunks_end_the_connection(target, body):
    answer = raw(target, post(target, b"", "Transfer-Encoding: chunked", length=False) + body)
    if answer:
        assert status(answer) in (400, 408, 411, 413, 501), answer[:300]


def test_a_secret_in_a_bad_request_is_not_in_the_log(target):
    raw(target, post(target, b"{broken", "Connection: close"))
    assert target.client.key not in target.log()


def test_many_hostile_clients_at_once(target):
    """All kinds together, while an honest client is served."""
    junk = [
        b"GET / HTTP/1.1\r\n",
        b"\x00" * 1000,
        post(target, b"[" * 50000),
        post(target, GOOD, "Content-Length: 1"),
        b"POST /api/v1/teams/echo/stream HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    problems = []

    def attack(number):
        try:
            for i in range(12):
                wire = Wire(target.client)
                try:
                    wire.send(junk[(number + i) % len(junk)])
                    if i % 2:
                        wire.reset()
                    else:
                        wire.close()
                except OSError:
                    pass
        except OSError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=attack, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    honest = Client(target.url, target.client.key)
    for i in range(10):
        assert honest.ask("echo", f"honest {i}").ok()["response"] == f"honest {i}"
    for thread in threads:
        thread.join(scaled(30))
    assert not problems


@pytest.mark.skipif(SLOW > 1, reason="a sanitizer keeps freed memory")
def test_memory_of_large_answers_is_given_back(daemons):
    daemon = daemons({"teams": {"echo": {"driver": "echo", "concurrency": 8}}})
    megabytes, answers = 15, 8

    def anonymous_mb():
        status = open(f"/proc/{daemon.pid}/status").read()
        return int(status.split("RssAnon:")[1].split()[0]) // 1024

    def ask():
        size = len(daemon.client.ask("echo", f"@size={megabytes * 1000000} x", timeout=60000).ok()["response"])
        assert size == megabytes * 1000000

    for _ in range(2):
        threads = [threading.Thread(target=ask) for _ in range(answers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wait_until(lambda: anonymous_mb() < 2 * answers * megabytes, "most of it was given back")
