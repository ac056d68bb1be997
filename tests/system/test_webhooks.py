# SPDX-License-Identifier: MPL-2.0
"""Webhooks: who is told of what, in which order, how stubbornly, and who may change that.

Signatures are checked twice: by the words of the Standard Webhooks document (receiver.py) and, where PyPI can be
reached, by that project's own library."""

import base64
import json
import os
import re
import socket
import threading

import pytest

import py_libs
from harness import cursor, merged, wait_until
from receiver import FAST, HANG, RESET, Receiver, head, is_signed, receivers, signatures, told  # noqa: F401

# Patience: a receiver may fail more often than in a life.
STUBBORN = merged(FAST, {"webhooks": {"max_tries": 100, "max_retry_delay": "50ms", "timeout": "300ms"}})
ECHO = {"teams": {"echo": {"driver": "echo", "concurrency": 8}}}
TWO = {"teams": {name: {"driver": "echo", "concurrency": 4} for name in ("alpha", "beta")}}
JOB_ENDS = ["job.completed", "job.failed", "job.cancelled"]
SECRET = r"whsec_[A-Za-z0-9+/]{32,88}=*"


@pytest.fixture(scope="session")
def standard():
    """The library of the Standard Webhooks project."""
    try:
        return py_libs.module("standardwebhooks")
    except py_libs.Unavailable as why:
        pytest.skip(f"no standardwebhooks: {why}")


def make(client, url, **fields):
    """A webhook, with its secret."""
    return client.post("/api/v1/webhooks", {"url": url, **fields}).ok(201)


def show(client, hook):
    return client.get(f"/api/v1/webhooks/{hook['id']}").ok()


def change(client, hook, **fields):
    return client.request("PATCH", f"/api/v1/webhooks/{hook['id']}", body=fields).ok()


def do(client, hook, verb, **fields):
    return client.post(f"/api/v1/webhooks/{hook['id']}/{verb}", fields).ok()


def with_key(client, name, scopes=("webhooks:manage", "teams:write"), **more):
    return client.with_key(client.post("/api/v1/keys", {"name": name, "scopes": [*scopes], **more}).ok(201)["key"])


def number(got):
    return cursor(head(got, "webhook-id"))[1]


def jobs_in(got):
    """The messages that these requests were about, each once, in order."""
    names = [told(one)["data"].get("messageId") for one in got]
    return list(dict.fromkeys(name for name in names if name))


def asked(client, count, team="echo", text="told"):
    return [client.ask(team, f"{text} {i}").ok()["messageId"] for i in range(count)]


def all_told(receiver, names, seconds=15):
    """Wait until the receiver has taken an event of each of these messages."""
    receiver.wait_for(
        lambda got: set(names) <= {told(one)["data"].get("messageId") for one in receiver.taken()},
        f"all of {len(names)} messages",
        seconds,
    )


def assert_in_order(receiver, *secrets, kills=0):
    """One event at a time, by rising numbers; what is repeated is the same, and everything is signed.  A daemon that
    was killed may go back to events whose delivery it had not written down."""
    numbers = [number(one) for one in receiver.got]
    firsts = list(dict.fromkeys(numbers))
    assert firsts == sorted(firsts), numbers
    assert sum(1 for a, b in zip(numbers, numbers[1:]) if b < a) <= kills, numbers
    bodies = {}
    for one in receiver.got:
        assert bodies.setdefault(head(one, "webhook-id"), one["body"]) == one["body"]
        for secret in secrets:
            assert is_signed(one, secret), one


# ---- what is told ----


def test_a_webhook_is_told_of_the_end_of_every_job(daemons, receivers):
    receiver, client = receivers(), daemons(merged(FAST, ECHO)).client
    hook = make(client, receiver.url + "?a=1", name="ends", headers={"X-Mine": "1"})
    good = client.submit("echo", "@delay=20ms report me", sessionId="s1")
    client.wait_final(good)
    bad = client.submit("echo", "@fail=MODEL_REFUSED x")
    client.wait_final(bad)
    ended = client.submit("echo", "@hang")
    client.wait_state(ended, "processing")
    client.cancel(ended).ok()
    first, second, third = receiver.wait(3)[:3]
    for got, name, kind in ((first, good, "completed"), (second, bad, "failed"), (third, ended, "cancelled")):
        assert got["method"] == "POST" and got["path"] == "/hook?a=1" and head(got, "X-Mine") == "1"
        assert head(got, "Content-Type").startswith("application/json") and "muster" in head(got, "User-Agent").lower()
        body = told(got)
        assert set(body) == {"type", "timestamp", "data"} and body["type"] == f"job.{kind}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", body["timestamp"]), body
        data = body["data"]
        assert data["messageId"] == name.replace("job_", "msg_") and data["jobId"] == name
        assert data["team"] == "echo" and data["status"] == kind and data["from"]
        assert data["duration"] >= 0 and data["timestamp"] > 1_600_000_000_000
        assert cursor(head(got, "webhook-id"))[0]
    assert "report me" in json.dumps(told(first)["data"]["result"]) and told(first)["data"]["duration"] >= 15
    assert told(first)["data"]["sessionId"] == "s1" and "sessionId" not in told(second)["data"]
    assert told(second)["data"]["code"] == "MODEL_REFUSED" and told(second)["data"]["error"]
    assert_in_order(receiver, hook["secret"])
    shown = wait_until(lambda: (s := show(client, hook))["delivered"] == 3 and s, "three are counted")
    assert shown["cursor"] == head(third, "webhook-id") or cursor(shown["cursor"])[1] >= number(third)
    assert shown["httpStatus"] == 204 and shown["tries"] == 0 and shown["missed"] == 0
    assert shown["lastDelivered"] > 1_600_000_000_000 and "problem" not in shown and not shown.get("lag")


def test_every_request_is_signed_as_the_standard_library_has_it(daemons, receivers, standard):
    receiver, client = receivers([(500, {}), (503, {})]), daemons(merged(STUBBORN, ECHO)).client
    hook = make(client, receiver.url, events=["*"])
    for text in ("plain", "äöü € \U0001f680 \u2028", '"quoted" \\ \t\r\n'):
        client.ask("echo", text).ok()
    verifier = standard.Webhook(hook["secret"])
    names = wait_until(lambda: len(receiver.taken()) >= 6 and receiver.taken(), "all were taken")
    for got in receiver.wait(8):
        assert verifier.verify(got["body"], got["headers"]) == told(got)
    with pytest.raises(standard.WebhookVerificationError):
        verifier.verify(names[0]["body"] + b" ", names[0]["headers"])
    with pytest.raises(standard.WebhookVerificationError):
        verifier.verify(names[0]["body"], {**names[0]["headers"], "webhook-id": head(names[1], "webhook-id")})
    other = standard.Webhook("whsec_" + base64.b64encode(b"x" * 32).decode())
    with pytest.raises(standard.WebhookVerificationError):
        other.verify(names[0]["body"], names[0]["headers"])


def test_the_secret_may_be_the_callers(daemons, receivers):
    receiver, client = receivers(), daemons(merged(FAST, ECHO)).client
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    hook = make(client, receiver.url, secret=secret)
    assert hook["secret"] == secret
    client.ask("echo", "x").ok()
    assert is_signed(receiver.wait(1)[0], secret)


def test_events_are_chosen_by_name_or_pattern(daemons, receivers):
    client = daemons(merged(FAST, ECHO)).client
    chosen = {
        "ends": (None, {"job.completed", "job.failed", "job.cancelled"}),
        "one": (["job.queued"], {"job.queued"}),
        "jobs": (["job.*"], {"job.queued", "job.completed", "job.failed", "job.cancelled"}),
        "teams": (["team.*"], {"team.paused", "team.resumed"}),
        "all": (["*"], {"job.queued", "job.completed", "job.failed", "job.cancelled", "team.paused", "team.resumed"}),
    }
    hooks = {}
    for name, (events, _) in chosen.items():
        receiver = receivers()
        hooks[name] = receiver, make(client, receiver.url, name=name, **({"events": events} if events else {}))
    client.ask("echo", "good").ok()
    assert client.ask("echo", "@fail=MODEL_REFUSED x").status == 502
    ended = client.submit("echo", "@hang")
    client.wait_state(ended, "processing")
    client.cancel(ended).ok()
    client.post("/api/v1/teams/echo/pause").ok()
    client.post("/api/v1/teams/echo/resume").ok()
    for name, (_, expected) in chosen.items():
        receiver, hook = hooks[name]
        receiver.wait_for(lambda got, e=expected: {told(one)["type"] for one in got} >= e, f"{name} has all")
        assert {told(one)["type"] for one in receiver.got} == expected, name
        assert_in_order(receiver, hook["secret"])
    paused = next(told(one) for one in hooks["teams"][0].got if told(one)["type"] == "team.paused")
    assert paused["data"]["team"] == "echo" and paused["data"]["by"] and "messageId" not in paused["data"]
    queued = next(told(one)["data"] for one in hooks["one"][0].got)
    assert queued["status"] == "queued" and queued["position"] >= 0 and queued["priority"] == "normal"


def test_teams_are_chosen(daemons, receivers):
    receiver, every, client = receivers(), receivers(), daemons(merged(FAST, TWO)).client
    hook, other = make(client, receiver.url, teams=["beta"]), make(client, every.url)
    names = [client.ask(team, "x").ok()["messageId"] for team in ("alpha", "beta", "alpha", "beta")]
    all_told(every, names)
    all_told(receiver, names[1::2])
    assert jobs_in(receiver.got) == names[1::2] and jobs_in(every.got) == names
    assert show(client, hook)["teams"] == ["beta"] and not show(client, other).get("teams")
    change(client, hook, teams=["alpha"])
    last = client.ask("alpha", "x").ok()["messageId"]
    all_told(receiver, [last])
    assert jobs_in(receiver.got) == names[1::2] + [last]


def test_only_what_comes_after_its_making_is_told(daemons, receivers):
    receiver, client = receivers(), daemons(merged(FAST, ECHO)).client
    asked(client, 3, text="before")
    make(client, receiver.url)
    names = asked(client, 2)
    all_told(receiver, names)
    assert jobs_in(receiver.got) == names


def test_many_events_at_once_come_in_the_order_of_their_numbers(daemons, receivers):
    client = daemons(merged(FAST, ECHO)).client
    hooks = [(receiver, make(client, receiver.url, events=["job.*"])) for receiver in (receivers(), receivers())]
    names, lock = [], threading.Lock()

    def submit(who):
        for i in range(15):
            name = client.submit("echo", f"@delay={(who * 7 + i * 3) % 11}ms {who} {i}").replace("job_", "msg_")
            with lock:
                names.append(name)

    threads = [threading.Thread(target=submit, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for receiver, hook in hooks:
        receiver.wait(2 * len(names), 30)
        assert_in_order(receiver, hook["secret"])
        numbers = [number(one) for one in receiver.got]
        assert len(set(numbers)) == len(numbers) == 2 * len(names), "each once"
        for kind in ("job.queued", "job.completed"):
            assert {told(o)["data"]["messageId"] for o in receiver.got if told(o)["type"] == kind} == set(names)
    first, second = ([head(one, "webhook-id") for one in receiver.got] for receiver, _ in hooks)
    assert first == second


# ---- receivers of all tempers ----


@pytest.mark.parametrize(
    "script",
    [
        [(500, {}), (502, {}), (503, {}), (204, {}), (404, {}), (200, {}), (400, {})],
        [(429, {"Retry-After": "1"})],
        [(503, {"Retry-After": "1"})],
        [(302, {"Location": "http://127.0.0.1:9/elsewhere"}), (308, {"Location": "/again"}), (304, {})],
        [HANG, HANG],
        [RESET, RESET, RESET],
        [HANG, (500, {}), RESET, (204, {}), RESET, (429, {}), (301, {}), (200, {}), HANG],
    ],
    ids=["5xx", "429", "503 with a time", "redirects", "hangs", "resets", "all of it"],
)
def test_a_bad_receiver_gets_everything_in_order_and_holds_up_nobody(daemons, receivers, script):
    bad, good = receivers(script), receivers()
    pauses = {"webhooks": {"max_retry_delay": "10s" if "Retry" in str(script) else "50ms"}}
    client = daemons(merged(merged(STUBBORN, ECHO), pauses)).client
    hook, other = make(client, bad.url), make(client, good.url)
    names = asked(client, 5)
    all_told(good, names)
    all_told(bad, names)
    for receiver, made in ((bad, hook), (good, other)):
        assert_in_order(receiver, made["secret"])
        assert jobs_in(receiver.taken()) == names
    assert len(good.got) == 5, "nothing is sent twice to who takes it"
    failures = [mood for mood in script if not (isinstance(mood, tuple) and mood[0] < 300)]
    assert len(bad.got) == 5 + len(failures)
    if "Retry-After" in str(script):
        first, second = bad.got[:2]
        assert second["at"] - first["at"] >= 0.95, "it was asked to wait"
    shown = wait_until(lambda: (s := show(client, hook))["delivered"] == 5 and s, "five are counted")
    assert shown["state"] == "active" and shown["tries"] == 0


def test_a_receiver_that_never_answers_does_not_hold_up_others(daemons, receivers):
    """Not even with as many webhooks as there are requests at a time."""
    limits = {"webhooks": {"max_parallel": 4, "max_per_endpoint": 2, "timeout": "500ms"}}
    client = daemons(merged(merged(STUBBORN, ECHO), limits)).client
    silent, good = receivers(default=HANG), receivers()
    for _ in range(6):
        make(client, silent.url)
    hook = make(client, good.url)
    names = asked(client, 4)
    all_told(good, names)
    assert_in_order(good, hook["secret"])
    assert not silent.taken()


def test_what_cannot_be_delivered_waits_and_is_shown(daemons, receivers):
    receiver, good = receivers(default=(500, {})), receivers()
    client = daemons(merged(STUBBORN, ECHO)).client
    hook = make(client, receiver.url)
    make(client, good.url)
    names = asked(client, 6)
    all_told(good, names)
    receiver.wait(3)
    shown = wait_until(lambda: (s := show(client, hook))["tries"] >= 2 and s, "its failures are shown")
    assert shown["httpStatus"] == 500 and shown["problem"] and shown["delivered"] == 0 and shown["state"] == "active"
    assert shown["lag"] and "lastDelivered" not in shown
    assert jobs_in(receiver.got) == names[:1], "the others wait behind the first"
    receiver.mood((204, {}))
    all_told(receiver, names)
    assert jobs_in(receiver.taken()) == names
    assert_in_order(receiver, hook["secret"])
    shown = wait_until(lambda: (s := show(client, hook))["delivered"] == 6 and s, "all are counted")
    assert shown["tries"] == 0 and not shown.get("lag") and "problem" not in shown and "nextTry" not in shown


def test_a_receiver_that_is_down_for_a_while_gets_all(daemons, receivers):
    gone = receivers()
    gone.stop()
    client = daemons(merged(STUBBORN, ECHO)).client
    hook = make(client, gone.url)
    names = asked(client, 5)
    shown = wait_until(lambda: (s := show(client, hook))["tries"] >= 2 and s, "it was tried")
    assert shown["problem"] and not shown.get("httpStatus")
    back = Receiver(port=gone.port)
    try:
        all_told(back, names)
        assert jobs_in(back.got) == names
        assert_in_order(back, hook["secret"])
    finally:
        back.stop()


def test_a_redirect_is_not_followed(daemons, receivers):
    other = receivers()
    receiver = receivers([(302, {"Location": other.url}), (307, {"Location": other.url})])
    client = daemons(merged(STUBBORN, ECHO)).client
    make(client, receiver.url)
    all_told(receiver, asked(client, 2))
    assert not other.got and len(receiver.got) == 4


def test_an_answer_without_end_is_not_listened_to(daemons, receivers):
    """A receiver that says 200 and goes on talking has taken the event, and costs nothing."""
    good, said, over = receivers(), [0], threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def talk():
        while True:
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(20)
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
                    while not over.is_set():
                        said[0] += connection.send(b"x" * 65536)
            except OSError:
                if over.is_set():
                    return

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        client = daemons(merged(FAST, ECHO)).client
        hook = make(client, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        make(client, good.url)
        all_told(good, asked(client, 2))
        shown = wait_until(lambda: (s := show(client, hook))["delivered"] == 2 and s, "both were taken")
        assert shown["httpStatus"] == 200 and said[0] < 64 << 20
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        talker.join(30)
        listener.close()


def test_410_disables_it_until_it_is_resumed(daemons, receivers):
    receiver, good = receivers([(410, {})]), receivers()
    daemon = daemons(merged(STUBBORN, ECHO))
    client = daemon.client
    hook = make(client, receiver.url, name="gone one")
    make(client, good.url)
    names = asked(client, 3)
    shown = wait_until(lambda: (s := show(client, hook))["state"] == "disabled" and s, "it is disabled")
    assert shown["httpStatus"] == 410 and shown["problem"]
    all_told(good, names)
    assert len(receiver.got) == 1, "no more is sent to who wants no more"
    wait_until(lambda: any(hook["id"] in json.dumps(line) for line in daemon.log_lines()), "the journal says so")
    assert do(client, hook, "resume")["state"] == "active"
    all_told(receiver, names)
    assert jobs_in(receiver.taken()) == names
    assert_in_order(receiver, hook["secret"])


def test_a_receiver_that_fails_for_too_long_is_disabled(daemons, receivers):
    receiver = receivers(default=(500, {}))
    daemon = daemons(merged(FAST, {"webhooks": {"max_tries": 3}, **ECHO}))
    client = daemon.client
    hook = make(client, receiver.url)
    names = asked(client, 3)
    shown = wait_until(lambda: (s := show(client, hook))["state"] == "disabled" and s, "it is given up")
    assert shown["tries"] == 3 and shown["httpStatus"] == 500
    assert len(receiver.got) == 3 and jobs_in(receiver.got) == names[:1]
    wait_until(lambda: any(hook["id"] in json.dumps(line) for line in daemon.log_lines()), "the journal says so")
    daemon.kill9()
    daemon.start()
    client = daemon.client
    assert show(client, hook)["state"] == "disabled"
    receiver.mood((204, {}))
    do(client, hook, "resume")
    names += asked(client, 1)
    all_told(receiver, names)
    assert jobs_in(receiver.taken()) == names
    assert_in_order(receiver, hook["secret"])


# ---- over the end of the daemon ----


@pytest.mark.parametrize("how", ["sigterm", "kill -9"])
def test_a_receiver_that_is_down_over_the_end_of_the_daemon_gets_all(daemons, receivers, how):
    gone, good = receivers(), receivers()
    gone.stop()
    daemon = daemons(merged(STUBBORN, ECHO))
    hook, other = make(daemon.client, gone.url, name="patient"), make(daemon.client, good.url)
    before = show(daemon.client, hook)
    names = asked(daemon.client, 5)
    wait_until(lambda: show(daemon.client, hook)["tries"] >= 1, "it was tried")
    if how == "sigterm":
        daemon.stop()
    else:
        daemon.kill9()
    daemon.start()
    after = show(daemon.client, hook)
    same = ("id", "name", "url", "events", "createdBy", "createdAt", "delivered")
    assert [after.get(f) for f in same] == [before.get(f) for f in same]
    names += asked(daemon.client, 3, text="after the start")
    all_told(good, names)
    back = Receiver(port=gone.port)
    try:
        all_told(back, names)
        for receiver, made in ((back, hook), (good, other)):
            assert jobs_in(receiver.taken()) == names
            assert_in_order(receiver, made["secret"], kills=1 if how == "kill -9" else 0)
    finally:
        back.stop()


@pytest.mark.deadline(90)
def test_kill_9_again_and_again_loses_no_event(daemons, receivers):
    """In the middle of deliveries: each event at least once, with its number, in order."""
    receiver = receivers()
    daemon = daemons(merged(STUBBORN, ECHO))
    hook = make(daemon.client, receiver.url, events=["job.*"])
    names = []
    for _ in range(4):
        before = len(receiver.got)
        for i in range(12):
            names.append(daemon.client.submit("echo", f"@delay={i}ms {len(names)}").replace("job_", "msg_"))
        receiver.wait(before + 9)
        daemon.kill9()
        daemon.start()
    for name in names:
        assert daemon.client.wait_final(name, 30)["status"] == "completed"
    all_told(receiver, names, 30)

    def both(got):
        seen = {(told(one)["type"], told(one)["data"]["messageId"]) for one in got}
        return all({("job.queued", name), ("job.completed", name)} <= seen for name in names)

    receiver.wait_for(both, "the beginning and the end of every job", 30)
    assert_in_order(receiver, hook["secret"], kills=4)
    by_event = {}
    for one in receiver.got:
        key = (told(one)["type"], told(one)["data"]["messageId"])
        assert by_event.setdefault(key, head(one, "webhook-id")) == head(one, "webhook-id"), "one event, one id"


def test_what_was_paused_and_deleted_stays_so(daemons, receivers):
    paused, deleted, good = receivers(), receivers(), receivers()
    daemon = daemons(merged(FAST, ECHO))
    client = daemon.client
    first, second = make(client, paused.url), make(client, deleted.url)
    make(client, good.url)
    do(client, first, "pause")
    assert client.request("DELETE", f"/api/v1/webhooks/{second['id']}").ok() == {"id": second["id"], "removed": True}
    names = asked(client, 2)
    daemon.kill9()
    daemon.start()
    client = daemon.client
    assert show(client, first)["state"] == "paused"
    client.get(f"/api/v1/webhooks/{second['id']}").error(404)
    names += asked(client, 1)
    all_told(good, names)
    assert not paused.got and not deleted.got
    do(client, first, "resume")
    all_told(paused, names)
    assert jobs_in(paused.got) == names and not deleted.got


def test_a_rotated_secret_and_its_overlap_survive(daemons, receivers):
    receiver, daemon = receivers(), daemons(merged(FAST, ECHO))
    hook = make(daemon.client, receiver.url)
    new = do(daemon.client, hook, "rotate", overlap="1h")["secret"]
    daemon.kill9()
    daemon.start()
    daemon.client.ask("echo", "x").ok()
    got = receiver.wait(1)[0]
    assert is_signed(got, hook["secret"]) and is_signed(got, new) and len(signatures(got)) == 2


# ---- pause, resume, seek, test, rotate, delete ----


def test_a_paused_webhook_keeps_its_place(daemons, receivers):
    receiver, good, client = receivers(), receivers(), daemons(merged(FAST, ECHO)).client
    hook = make(client, receiver.url)
    make(client, good.url)
    names = asked(client, 2)
    all_told(receiver, names)
    assert do(client, hook, "pause")["state"] == "paused"
    names += asked(client, 3)
    all_told(good, names)
    assert len(receiver.got) == 2
    assert do(client, hook, "pause")["state"] == "paused", "twice is as good as once"
    assert do(client, hook, "resume")["state"] == "active"
    all_told(receiver, names)
    assert jobs_in(receiver.got) == names and len(receiver.got) == 5
    assert_in_order(receiver, hook["secret"])
    born_paused = receivers()
    hook = make(client, born_paused.url, paused=True)
    assert hook["state"] == "paused"
    later = asked(client, 1)
    all_told(good, later)
    assert not born_paused.got
    change(client, hook, paused=False)
    all_told(born_paused, later)


def test_events_are_told_again_or_left_out_from_a_cursor(daemons, receivers):
    receiver, client = receivers(), daemons(merged(FAST, ECHO)).client
    hook = make(client, receiver.url)
    names = asked(client, 5)
    all_told(receiver, names)
    marks = [head(one, "webhook-id") for one in receiver.got]
    do(client, hook, "pause")
    do(client, hook, "resume", after=marks[1])
    receiver.wait(8)
    assert [head(one, "webhook-id") for one in receiver.got] == marks + marks[2:]
    change(client, hook, after=marks[3])
    receiver.wait(9)
    assert head(receiver.got[8], "webhook-id") == marks[4], "an active one may be sent back, too"
    do(client, hook, "pause")
    skipped = asked(client, 3)
    good = receivers()
    other = make(client, good.url, events=["job.completed"], paused=True)
    do(client, other, "resume", after=marks[4])
    all_told(good, skipped)
    last = head(good.got[-1], "webhook-id")
    do(client, hook, "resume", after=last)
    named = asked(client, 1)
    all_told(receiver, named)
    assert not set(skipped) & set(jobs_in(receiver.got)), "what lies before the cursor is left out"
    for bad in ("nonsense", "1-2-3", 5):
        answer = client.request("PATCH", f"/api/v1/webhooks/{hook['id']}", body={"after": bad})
        assert answer.error(400, "INVALID_REQUEST")["details"]["field"] == "after"


def test_a_test_is_sent_at_once_and_told(daemons, receivers):
    receiver, client = receivers([(204, {}), (500, {}), HANG]), daemons(merged(STUBBORN, ECHO)).client
    hook = make(client, receiver.url, events=["team.*"])
    answer = do(client, hook, "test")
    assert answer["status"] == 204 and answer["duration"] >= 0 and "problem" not in answer
    got = receiver.wait(1)[0]
    assert told(got)["type"] == "webhook.test" and told(got)["timestamp"] and isinstance(told(got)["data"], dict)
    assert is_signed(got, hook["secret"])
    answer = do(client, hook, "test")
    assert answer["status"] == 500 and answer["problem"]
    answer = do(client, hook, "test")
    assert not answer.get("status") and answer["problem"] and answer["duration"] >= 250
    shown = show(client, hook)
    assert shown["state"] == "active" and shown["tries"] == 0 and shown["delivered"] == 0, "a test is no event"
    do(client, hook, "pause")
    assert do(client, hook, "test")["status"] == 204
    gone = receivers()
    gone.stop()
    answer = do(client, make(client, gone.url), "test")
    assert not answer.get("status") and answer["problem"]
    assert len(receiver.got) == 4, "a test is not repeated"


def test_a_secret_is_rotated_with_an_overlap(daemons, receivers):
    receiver, client = receivers(), daemons(merged(FAST, ECHO)).client
    hook = make(client, receiver.url)
    old = hook["secret"]
    new = do(client, hook, "rotate", overlap="1h")["secret"]
    assert re.fullmatch(SECRET, new) and new != old
    client.ask("echo", "twice").ok()
    got = receiver.wait(1)[0]
    assert len(signatures(got)) == 2 and is_signed(got, old) and is_signed(got, new)
    last = do(client, hook, "rotate")["secret"]
    client.ask("echo", "once").ok()
    got = receiver.wait(2)[1]
    assert len(signatures(got)) == 1 and is_signed(got, last) and not is_signed(got, new)
    short = do(client, hook, "rotate", overlap="200ms")["secret"]

    def alone():
        count = len(receiver.got)
        client.ask("echo", "still?").ok()
        got = receiver.wait(count + 1)[-1]
        assert is_signed(got, short)
        return len(signatures(got)) == 1

    wait_until(alone, "the overlap is over")


def test_both_signatures_of_an_overlap_verify_in_the_standard_library(daemons, receivers, standard):
    receiver, client = receivers(), daemons(merged(FAST, ECHO)).client
    hook = make(client, receiver.url)
    new = do(client, hook, "rotate", overlap="1h")["secret"]
    client.ask("echo", "x").ok()
    got = receiver.wait(1)[0]
    for secret in (hook["secret"], new):
        assert standard.Webhook(secret).verify(got["body"], got["headers"]) == told(got)


def test_a_deleted_webhook_is_told_nothing_more(daemons, receivers):
    receiver, good = receivers(default=(500, {})), receivers()
    client = daemons(merged(STUBBORN, ECHO)).client
    hook = make(client, receiver.url)
    make(client, good.url)
    asked(client, 1)
    receiver.wait(2)
    client.request("DELETE", f"/api/v1/webhooks/{hook['id']}").ok()
    sent = len(receiver.got)
    all_told(good, asked(client, 3))
    assert len(receiver.got) <= sent + 1, "at most the request that was under way"
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/pause"), ("POST", "/test")):
        client.request(method, f"/api/v1/webhooks/{hook['id']}{path}", body=None if method == "GET" else {}).error(404)
    assert [h["id"] for h in client.get("/api/v1/webhooks").ok()["webhooks"]] != [hook["id"]]


def test_a_new_url_takes_over(daemons, receivers):
    first, second = receivers(default=(500, {})), receivers()
    client = daemons(merged(STUBBORN, ECHO)).client
    hook = make(client, first.url, headers={"X-Old": "1"})
    names = asked(client, 2)
    first.wait(2)
    shown = change(client, hook, url=second.url, name="renamed", headers={"X-New": "2"}, events=["job.*"])
    assert (shown["url"], shown["name"]) == (second.url, "renamed") and len(shown["events"]) >= 1
    all_told(second, names)
    assert head(second.got[0], "X-New") == "2" and head(second.got[0], "X-Old") is None
    assert_in_order(second, hook["secret"])


# ---- who sees and changes what ----


def test_a_webhook_is_shown_without_its_secrets(daemons, receivers):
    daemon = daemons(merged(FAST, ECHO))
    client, receiver = daemon.client, receivers()
    hook = make(client, receiver.url, name="shown", headers={"Authorization": "Bearer hidden-token"}, events=["job.*"])
    assert re.fullmatch(SECRET, hook["secret"]) and len(base64.b64decode(hook["secret"][6:])) >= 24
    shown = show(client, hook)
    assert {k: v for k, v in hook.items() if k != "secret"} == shown
    assert shown["name"] == "shown" and shown["url"] == receiver.url and shown["state"] == "active"
    assert shown["createdBy"] and shown["createdAt"] > 1_600_000_000_000 and cursor(shown["cursor"])
    assert shown["delivered"] == shown["missed"] == shown["tries"] == 0 and shown["headerNames"] == ["Authorization"]
    other = make(client, receiver.url)
    listed = client.get("/api/v1/webhooks")
    assert sorted(h["id"] for h in listed.ok()["webhooks"]) == sorted([hook["id"], other["id"]])
    default = next(h for h in listed.json["webhooks"] if h["id"] == other["id"])
    assert sorted(default["events"]) == sorted(JOB_ENDS)
    client.ask("echo", "x").ok()
    receiver.wait(2)
    everything = listed.text + client.get(f"/api/v1/webhooks/{hook['id']}").text + daemon.log()
    for hidden in ("hidden-token", hook["secret"], hook["secret"][6:], other["secret"][6:]):
        assert hidden not in everything
    assert "whsec_" not in everything


def test_keys_see_and_change_only_their_own(daemons, receivers):
    client, receiver = daemons(merged(FAST, TWO)).client, receivers()
    mine, other = with_key(client, "mine"), with_key(client, "other")
    hook = make(mine, receiver.url)
    assert hook["createdBy"] == "mine"
    make(client, receiver.url)
    assert [h["id"] for h in mine.get("/api/v1/webhooks").ok()["webhooks"]] == [hook["id"]]
    assert len(client.get("/api/v1/webhooks").ok()["webhooks"]) == 2, "who may do everything sees all"
    assert other.get("/api/v1/webhooks").ok()["webhooks"] == []
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"name": "stolen"}),
        ("POST", "/pause", {}),
        ("POST", "/resume", {}),
        ("POST", "/test", {}),
        ("POST", "/rotate", {}),
        ("DELETE", "", None),
    ):
        other.request(method, f"/api/v1/webhooks/{hook['id']}{path}", body=body).error(404)
    assert show(client, hook)["state"] == "active" and show(mine, hook)["createdBy"] == "mine"
    assert not receiver.got
    do(client, hook, "pause")
    assert show(mine, hook)["state"] == "paused"


def test_the_scope_of_webhooks_is_needed(daemons, receivers):
    client, receiver = daemons(merged(FAST, ECHO)).client, receivers()
    hook = make(client, receiver.url)
    nobody = with_key(client, "nobody", ["teams:write", "messages:stream", "processes:manage"])
    nobody.post("/api/v1/webhooks", {"url": receiver.url}).error(403, "FORBIDDEN")
    nobody.get("/api/v1/webhooks").error(403, "FORBIDDEN")
    nobody.request("DELETE", f"/api/v1/webhooks/{hook['id']}").error(403, "FORBIDDEN")
    client.with_key(None).get("/api/v1/webhooks").error(401, "UNAUTHORIZED")


def test_a_key_of_some_teams_is_told_of_those_only(daemons, receivers):
    receiver, every, client = receivers(), receivers(), daemons(merged(FAST, TWO)).client
    mine = with_key(client, "alpha-only", teams=["alpha"])
    hook = make(mine, receiver.url, events=["*"])
    assert hook["teams"] == ["alpha"], "none given: exactly its own"
    answer = mine.post("/api/v1/webhooks", {"url": receiver.url, "teams": ["alpha", "beta"]})
    assert answer.status in (400, 403), answer
    answer = mine.request("PATCH", f"/api/v1/webhooks/{hook['id']}", body={"teams": ["beta"]})
    assert answer.status in (400, 403), answer
    make(client, every.url)
    names = [client.ask(team, "x").ok()["messageId"] for team in ("beta", "alpha", "beta", "alpha")]
    client.post("/api/v1/teams/beta/pause").ok()
    client.post("/api/v1/teams/alpha/pause").ok()
    all_told(every, names)
    receiver.wait_for(lambda got: any(told(one)["type"] == "team.paused" for one in got), "the pause of its team")
    assert jobs_in(receiver.got) == names[1::2]
    assert {told(one)["data"]["team"] for one in receiver.got} == {"alpha"}


# ---- what is refused ----


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433", "127.1", "169.254.1.1"]
)
def test_private_addresses_are_refused_by_default(daemon, receivers, host):
    receiver = receivers()
    answer = daemon.client.post("/api/v1/webhooks", {"url": f"http://{host}:{receiver.port}/hook"})
    body = answer.error(400, "INVALID_REQUEST")
    assert body["details"]["field"] == "url" and "webhooks.allow_private" in body["message"]
    assert daemon.client.get("/api/v1/webhooks").ok()["webhooks"] == [] and not receiver.got


def test_a_private_address_that_was_allowed_is_not_called_once_it_is_not(daemons, receivers):
    """The option counts when a request is made, too."""
    receiver = receivers()
    daemon = daemons(merged(FAST, ECHO))
    hook = make(daemon.client, receiver.url)
    daemon.stop()
    daemon.configure(merged(STUBBORN, {"webhooks": {"allow_private": False}, **ECHO}))
    daemon.start()
    daemon.client.ask("echo", "x").ok()
    wait_until(lambda: show(daemon.client, hook).get("problem"), "it is told why")
    assert not receiver.got


@pytest.mark.parametrize(
    "fields, field",
    [
        ({}, "url"),
        ({"url": 5}, "url"),
        ({"url": ""}, "url"),
        ({"url": "ftp://example.com/x"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "not a url"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://127.0.0.1/\r\nInjected: 1"}, "url"),
        ({"url": "http://127.0.0.1/" + "x" * 2100}, "url"),
        ({"events": ["job.nonsense"]}, "events"),
        ({"events": ["job.chunk"]}, "events"),
        ({"events": ["nonsense.*"]}, "events"),
        ({"events": [5]}, "events"),
        ({"events": "job.completed"}, "events"),
        ({"teams": ["nobody"]}, "teams"),
        ({"teams": "echo"}, "teams"),
        ({"headers": {"A": "b\r\nInjected: 1"}}, "headers"),
        ({"headers": {"A b": "c"}}, "headers"),
        ({"headers": {"webhook-signature": "v1,forged"}}, "headers"),
        ({"headers": ["a"]}, "headers"),
        ({"secret": "plain"}, "secret"),
        ({"secret": "whsec_c2hvcnQ="}, "secret"),
        ({"secret": "whsec_" + "A" * 200}, "secret"),
        ({"secret": "whsec_!!!!"}, "secret"),
        ({"name": "n" * 65}, "name"),
        ({"paused": "yes"}, "paused"),
    ],
)
def test_what_cannot_be_is_refused_and_the_field_named(daemons, fields, field):
    client = daemons(merged(FAST, ECHO)).client
    body = fields if field == "url" else {"url": "http://127.0.0.1:9/hook", **fields}
    error = client.post("/api/v1/webhooks", body).error(400, "INVALID_REQUEST")
    assert re.match(rf"{field}\b", error["details"]["field"]), error
    assert client.get("/api/v1/webhooks").ok()["webhooks"] == []


def test_changes_that_cannot_be_are_refused_and_change_nothing(daemons, receivers):
    client, receiver = daemons(merged(FAST, ECHO)).client, receivers()
    hook = make(client, receiver.url, name="kept")
    before = show(client, hook)
    for fields, field in (
        ({"url": "http://169.254.169.254\r\nx"}, "url"),
        ({"events": ["nonsense"]}, "events"),
        ({"headers": {"A b": "c"}}, "headers"),
        ({"after": "nonsense"}, "after"),
        ({"name": 5}, "name"),
        ({"secret": "whsec_" + "A" * 44}, "secret"),
    ):
        answer = client.request("PATCH", f"/api/v1/webhooks/{hook['id']}", body=fields)
        assert re.match(rf"{field}\b", answer.error(400, "INVALID_REQUEST")["details"]["field"]), answer
    answer = client.post(f"/api/v1/webhooks/{hook['id']}/rotate", {"overlap": "soon"})
    assert answer.error(400, "INVALID_REQUEST")["details"]["field"] == "overlap"
    assert show(client, hook) == before
    for name in ("nonsense", "00000000-0000-7000-8000-000000000000", "msg_x"):
        client.get(f"/api/v1/webhooks/{name}").error(404)


def test_there_is_a_limit_of_webhooks(daemons, receivers):
    receiver = receivers()
    client = daemons(merged(FAST, {"webhooks": {"max_webhooks": 2}, **ECHO})).client
    first = make(client, receiver.url)
    make(client, receiver.url)
    answer = client.post("/api/v1/webhooks", {"url": receiver.url})
    assert answer.status in (409, 503), answer
    answer.error(answer.status)
    client.request("DELETE", f"/api/v1/webhooks/{first['id']}").ok()
    make(client, receiver.url)


def test_events_that_are_no_longer_kept_are_counted_as_missed(daemons, receivers):
    receiver = receivers()
    config = merged(merged(FAST, ECHO), {"store": {"max_events": "4KiB", "sweep": "20ms"}})
    client = daemons(config).client
    hook = make(client, receiver.url, paused=True)

    def trimmed():
        client.ask("echo", "@chunks=20 " + "x" * 2000).ok()
        answer = client.request("PATCH", f"/api/v1/webhooks/{hook['id']}", body={"after": hook["cursor"]})
        return answer.status != 200

    wait_until(trimmed, "its place is gone", pause=0.001)
    do(client, hook, "resume")
    last = client.ask("echo", "last").ok()["messageId"]
    all_told(receiver, [last])
    assert show(client, hook)["missed"] >= 1
    assert_in_order(receiver, hook["secret"])
