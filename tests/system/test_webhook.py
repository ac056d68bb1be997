# SPDX-License-Identifier: MPL-2.0
"""Callbacks: what is sent, and how stubbornly."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness import scaled, wait_until

FAST = {"webhooks": {"allow_private": True, "retry_delay": "30ms", "max_retry_delay": "200ms", "timeout": "2s"}}


class Receiver:
    """Answers with `script`'s statuses, then 204; keeps what came."""

    def __init__(self, script=(), port=0):
        self.script = list(script)
        self.got = []
        self.changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with receiver.changed:
                    status, headers = receiver.script.pop(0) if receiver.script else (204, {})
                    receiver.got.append(
                        {
                            "at": time.monotonic(),
                            "method": self.command,
                            "path": self.path,
                            "headers": dict(self.headers),
                            "body": body,
                            "status": status,
                        }
                    )
                    receiver.changed.notify_all()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            do_POST = do_PUT = do_PATCH = do_GET = answer

            def log_message(self, *args):
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def wait(self, count, seconds=15):
        with self.changed:
            came = self.changed.wait_for(lambda: len(self.got) >= count, scaled(seconds))
        assert came, f"{len(self.got)} of {count} callbacks came"
        return self.got

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receivers():
    made = []

    def make(*arguments, **options):
        made.append(Receiver(*arguments, **options))
        return made[-1]

    yield make
    for receiver in made:
        receiver.stop()


def test_a_completed_job_is_reported(daemons, receivers):
    receiver, client = receivers(), daemons(FAST).client
    callback = {
        "url": receiver.url + "?a=1&b=2",
        "method": "POST",
        "headers": {"Authorization": "Bearer webhook-secret", "X-Mine": "1"},
    }
    name = client.submit("echo", "@delay=20ms report me", callback=callback)
    got = receiver.wait(1)[0]
    assert got["method"] == "POST" and got["path"] == "/hook?a=1&b=2"
    assert got["headers"]["Content-Type"].startswith("application/json")
    assert got["headers"]["Authorization"] == "Bearer webhook-secret" and got["headers"]["X-Mine"] == "1"
    body = json.loads(got["body"])
    assert body["jobId"] == name and body["team"] == "echo" and body["status"] == "completed"
    assert "report me" in json.dumps(body["result"])
    assert body["duration"] >= 15 and body["timestamp"] > 1_600_000_000_000
    client.ask("echo", "something else").ok()
    assert len(receiver.got) == 1


def test_all_fields_are_there_however_quick_the_job_was(daemons, receivers):
    receiver, client = receivers(), daemons(FAST).client
    for i in range(8):
        client.submit("echo", f"quick {i}", callback={"url": receiver.url})
    for got in receiver.wait(8):
        body = json.loads(got["body"])
        assert isinstance(body["duration"], int) and isinstance(body["timestamp"], int) and body["result"]


def test_a_message_tells_where_its_callback_is(daemons, receivers):
    receiver, client = receivers([(500, {})]), daemons(FAST).client
    name = client.submit("echo", "@hang", callback={"url": receiver.url})
    client.wait_state(name, "processing")
    assert client.message(name)["callback"] == {"status": "waiting", "tries": 0}
    client.cancel(name).ok()
    receiver.wait(2)
    wait_until(lambda: client.message(name)["callback"]["status"] == "delivered", "the callback is delivered")
    assert client.message(name)["callback"] == {"status": "delivered", "tries": 2, "httpStatus": 204}


def test_a_callback_that_is_given_up_is_told(daemons, receivers):
    gone = receivers()
    gone.stop()
    client = daemons({"webhooks": {**FAST["webhooks"], "max_tries": 2}}).client
    name = client.submit("echo", "hi", callback={"url": f"http://127.0.0.1:{gone.port}/hook"})
    wait_until(lambda: client.message(name)["callback"]["status"] == "failed", "the callback is given up")
    callback = client.message(name)["callback"]
    assert callback["tries"] == 2 and callback["problem"] and "httpStatus" not in callback


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_the_method_is_the_callers(daemons, receivers, method):
    receiver, client = receivers(), daemons(FAST).client
    client.submit("echo", "hi", callback={"url": receiver.url, "method": method})
    assert receiver.wait(1)[0]["method"] == method


def test_a_failed_job_is_reported(daemons, receivers):
    receiver, client = receivers(), daemons(FAST).client
    client.submit("echo", "@fail=MODEL_REFUSED x", callback={"url": receiver.url})
    body = json.loads(receiver.wait(1)[0]["body"])
    assert body["status"] == "failed" and "MODEL_REFUSED" in json.dumps(body) and body["error"]


def test_a_cancelled_job_is_reported(daemons, receivers):
    receiver, client = receivers(), daemons(FAST).client
    name = client.submit("echo", "@hang", callback={"url": receiver.url})
    client.wait_state(name, "processing")
    client.cancel(name).ok()
    assert json.loads(receiver.wait(1)[0]["body"])["status"] == "cancelled"


def test_a_500_is_tried_again_with_the_same_body(daemons, receivers):
    receiver, client = receivers([(500, {}), (502, {})]), daemons(FAST).client
    client.submit("echo", "again", callback={"url": receiver.url})
    got = receiver.wait(3)
    assert len({g["body"] for g in got}) == 1
    assert [g["status"] for g in got] == [500, 502, 204]


def test_retry_after_of_a_429_is_honoured(daemons, receivers):
    slow = {"webhooks": {**FAST["webhooks"], "max_retry_delay": "10s"}}
    receiver, client = receivers([(429, {"Retry-After": "1"})]), daemons(slow).client
    client.submit("echo", "patience", callback={"url": receiver.url})
    first, second = receiver.wait(2)
    assert second["at"] - first["at"] >= 0.95


def test_redirects_are_not_followed(daemons, receivers):
    other = receivers()
    receiver = receivers([(302, {"Location": other.url})])
    client = daemons(FAST).client
    client.submit("echo", "straight", callback={"url": receiver.url})
    receiver.wait(1)
    client.submit("echo", "marker", callback={"url": receiver.url})
    receiver.wait(2)
    assert not other.got


def test_a_receiver_that_is_down_for_a_while_gets_it_later(daemons, receivers):
    gone = receivers()
    port = gone.port
    gone.stop()
    client = daemons(FAST).client
    name = client.submit("echo", "late", callback={"url": f"http://127.0.0.1:{port}/hook"})
    client.wait_final(name)
    back = Receiver(port=port)
    try:
        assert json.loads(back.wait(1)[0]["body"])["jobId"] == name
    finally:
        back.stop()


@pytest.mark.parametrize("how", ["sigterm", "kill -9"])
def test_a_callback_outlives_the_daemon(daemons, receivers, how):
    gone = receivers()
    port = gone.port
    gone.stop()
    daemon = daemons(FAST)
    name = daemon.client.submit("echo", "later", callback={"url": f"http://127.0.0.1:{port}/hook"})
    daemon.client.wait_final(name)
    if how == "sigterm":
        daemon.stop()
    else:
        daemon.kill9()
    back = Receiver(port=port)
    try:
        daemon.start()
        assert json.loads(back.wait(1)[0]["body"])["jobId"] == name
    finally:
        back.stop()


def test_a_silent_receiver_does_not_hold_up_others(daemons, receivers):
    silent = socket.create_server(("127.0.0.1", 0))
    config = {"webhooks": {**FAST["webhooks"], "timeout": "400ms"}}
    receiver, client = receivers(), daemons(config).client
    client.submit("echo", "to nobody", callback={"url": f"http://127.0.0.1:{silent.getsockname()[1]}/"})
    name = client.submit("echo", "to somebody", callback={"url": receiver.url})
    assert json.loads(receiver.wait(1)[0]["body"])["jobId"] == name
    silent.close()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433", "127.1"]
)
def test_private_addresses_are_refused_by_default(daemons, receivers, host):
    receiver = receivers()
    config = {"webhooks": {"retry_delay": "20ms", "max_retry_delay": "30ms", "max_tries": 2}}
    daemon = daemons(config)
    answer = daemon.client.execute("echo", "hi", callback={"url": f"http://{host}:{receiver.port}/hook"})
    answer.error(400, "INVALID_REQUEST")
    assert answer.json["details"]["field"] == "callback.url" and "webhooks.allow_private" in answer.json["message"]
    daemon.client.ask("echo", "meanwhile").ok()
    assert not receiver.got, "a private address was called"


@pytest.mark.parametrize(
    "callback",
    [
        {"url": "ftp://example.com/x"},
        {"url": "file:///etc/passwd"},
        {"url": "gopher://127.0.0.1:1/x"},
        {"url": "http://"},
        {"url": "not a url"},
        {"url": 5},
        {},
        "http://x",
        {"url": "http://x/", "method": "DELETE"},
        {"url": "http://x/", "headers": {"A": "b\r\nInjected: 1"}},
        {"url": "http://x/", "headers": {"A b": "c"}},
        {"url": "http://x/\r\nInjected: 1"},
        {"url": "http://x/", "headers": ["a"]},
    ],
)
def test_a_callback_that_cannot_be_is_refused_at_once(client, callback):
    answer = client.execute("echo", "hi", callback=callback)
    body = answer.error(400, "INVALID_REQUEST")
    assert "callback" in json.dumps(body)
