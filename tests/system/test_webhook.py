# SPDX-License-Identifier: MPL-2.0
"""Callbacks: what is sent, and how stubbornly."""

import json
import re
import socket
import time

import pytest

from harness import wait_until
from receiver import FAST, Receiver, head, is_signed, receivers, sign, signatures, told  # noqa: F401


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


# ---- signatures ----


def secret_of(client):
    """The server's own, which signs the callbacks that have none."""
    return client.get("/api/v1/webhooks/callbacks").ok()["secret"]


def test_a_callback_is_signed_with_the_secret_of_the_server(daemons, receivers):
    receiver, client = receivers(), daemons(FAST).client
    secret = secret_of(client)
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{32,88}=*", secret)
    name = client.submit("echo", "sign me \u00e9 \U0001f680", callback={"url": receiver.url})
    got = receiver.wait(1)[0]
    assert head(got, "webhook-id") == name.replace("job_", "msg_")
    assert len(signatures(got)) == 1 and is_signed(got, secret)
    assert not is_signed({**got, "body": got["body"] + b" "}, secret)
    assert secret_of(client) == secret


def test_a_callback_with_a_secret_of_its_own_is_signed_with_that(daemons, receivers):
    receiver, daemon = receivers([(500, {})]), daemons(FAST)
    client, secret = daemon.client, "whsec_" + "bXVzdGVyIHNpZ25zIHdpdGggdGhpcyBvbmUh"
    name = client.submit("echo", "mine", callback={"url": receiver.url, "secret": secret})
    first, second = receiver.wait(2)
    for got in (first, second):
        assert is_signed(got, secret) and not is_signed(got, secret_of(client))
        assert len(signatures(got)) == 1
        assert head(got, "webhook-id") == name.replace("job_", "msg_")
    wait_until(lambda: client.message(name)["callback"]["status"] == "delivered", "it is delivered")
    assert secret not in client.get(f"/api/v1/messages/{name}").text + daemon.log()


@pytest.mark.parametrize("how", ["sigterm", "kill -9"])
def test_the_secret_of_callbacks_outlives_the_daemon(daemons, receivers, how):
    gone = receivers()
    gone.stop()
    daemon = daemons(FAST)
    secret = secret_of(daemon.client)
    own = "whsec_" + "bXVzdGVyIHNpZ25zIHdpdGggdGhpcyBvbmUh"
    url = f"http://127.0.0.1:{gone.port}/hook"
    plain = daemon.client.submit("echo", "later", callback={"url": url})
    named = daemon.client.submit("echo", "later too", callback={"url": url, "secret": own})
    for name in (plain, named):
        daemon.client.wait_final(name)
    if how == "sigterm":
        daemon.stop()
    else:
        daemon.kill9()
    back = Receiver(port=gone.port)
    try:
        daemon.start()
        assert secret_of(daemon.client) == secret
        back.wait_for(lambda all_got: {told(got)["jobId"] for got in all_got} == {plain, named}, "both came")
        for got in back.got:
            assert is_signed(got, own if told(got)["jobId"] == named else secret), got
    finally:
        back.stop()


def test_the_secret_of_callbacks_is_rotated_with_an_overlap(daemons, receivers):
    receiver, client = receivers(), daemons(FAST).client
    old = secret_of(client)
    answer = client.post("/api/v1/webhooks/callbacks/rotate", {"overlap": "1h"}).ok()
    new = answer["secret"]
    assert new != old and answer["oldUntil"] > time.time() * 1000 + 3_000_000
    assert secret_of(client) == new
    client.submit("echo", "twice signed", callback={"url": receiver.url})
    got = receiver.wait(1)[0]
    assert len(signatures(got)) == 2 and is_signed(got, old) and is_signed(got, new)
    last = client.post("/api/v1/webhooks/callbacks/rotate", {}).ok()["secret"]
    client.submit("echo", "the old one is void", callback={"url": receiver.url})
    got = receiver.wait(2)[1]
    assert len(signatures(got)) == 1 and is_signed(got, last)
    assert sign(new, head(got, "webhook-id"), head(got, "webhook-timestamp"), got["body"]) not in signatures(got)


def test_the_secret_of_callbacks_is_for_admins(daemons):
    client = daemons(FAST).client
    key = client.post("/api/v1/keys", {"name": "some", "scopes": ["webhooks:manage", "teams:write"]}).ok(201)["key"]
    client.with_key(key).get("/api/v1/webhooks/callbacks").error(403, "FORBIDDEN")
    client.with_key(key).post("/api/v1/webhooks/callbacks/rotate", {}).error(403, "FORBIDDEN")


@pytest.mark.parametrize(
    "secret",
    ["plain", "whsec_", "whsec_c2hvcnQ=", "whsec_" + "A" * 200, "whsec_!!!", 5],
    ids=["bare", "empty", "short", "long", "no base64", "number"],
)
def test_a_secret_that_cannot_sign_is_refused(daemons, secret):
    answer = daemons(FAST).client.execute("echo", "x", callback={"url": "http://127.0.0.1:9/x", "secret": secret})
    body = answer.error(400, "INVALID_REQUEST")
    assert body["details"]["field"] == "callback.secret"
