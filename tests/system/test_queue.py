# SPDX-License-Identifier: MPL-2.0
"""What a queue promises: one job a key, delays and deadlines, priorities, dead jobs, teams paused and resumed."""

import json
import threading

import pytest

from harness import wait_until

ONE = {"teams": {"echo": {"driver": "echo", "concurrency": 1}}}
PAUSED = {"teams": {"echo": {"driver": "echo", "concurrency": 1, "paused": True}}}


def submit(client, task, key=None, team="echo", **fields):
    headers = {"Idempotency-Key": key} if key else None
    return client.post(f"/api/v1/teams/{team}/execute", {"task": task, **fields}, headers=headers)


def ask(client, question, key, **fields):
    return client.post("/api/v1/teams/echo/ask", {"question": question, **fields}, headers={"Idempotency-Key": key})


def pause(client, team="echo"):
    return client.post(f"/api/v1/teams/{team}/pause").ok()


def resume(client, team="echo"):
    return client.post(f"/api/v1/teams/{team}/resume").ok()


# ---- Idempotency-Key ----


def test_the_same_key_and_body_give_the_same_answer(daemons):
    client = daemons(ONE).client
    first, again = submit(client, "once", "k-1"), submit(client, "once", "k-1")
    assert first.ok(202) == again.ok(202)
    assert first.header("Idempotent-Replayed") is None and again.header("Idempotent-Replayed") == "true"
    assert submit(client, "once", "k-2").ok(202)["jobId"] != first.json["jobId"]
    client.wait_final(first.json["jobId"])
    assert submit(client, "once", '"k-1"').ok(202) == first.json, "a quoted key is the same key"
    assert client.history(team="echo")["pagination"]["total"] == 2


def test_another_body_under_a_used_key_is_refused(daemons):
    client = daemons(ONE).client
    submit(client, "once", "k").ok(202)
    submit(client, "twice", "k").error(422, "IDEMPOTENCY_MISMATCH")
    submit(client, "once", "k", priority="high").error(422, "IDEMPOTENCY_MISMATCH")
    assert client.history(team="echo")["pagination"]["total"] == 1


def test_keys_of_two_callers_have_nothing_to_do_with_each_other(daemons):
    client = daemons(ONE).client
    other = client.with_key(client.post("/api/v1/keys", {"name": "b", "scopes": ["teams:write"]}).ok(201)["key"])
    assert submit(client, "once", "k").ok(202)["jobId"] != submit(other, "once", "k").ok(202)["jobId"]


@pytest.mark.parametrize("bad", ["", "x" * 256, "a b", "\x7f"])
def test_a_key_that_is_none_is_refused(daemons, bad):
    client = daemons(ONE).client
    answer = submit(client, "once", None)
    assert answer.status == 202
    connection = client.connection()
    connection.putrequest("POST", "/api/v1/teams/echo/execute")
    body = json.dumps({"task": "once"}).encode()
    for name, value in (*client.head().items(), ("Content-Length", str(len(body)))):
        connection.putheader(name, value)
    connection.putheader("Idempotency-Key", bad.encode("latin-1"))
    connection.endheaders(body)
    assert connection.getresponse().status == 400
    connection.close()


def test_a_key_is_remembered_over_kill_9(daemons):
    daemon = daemons(PAUSED)
    first = submit(daemon.client, "once", "k").ok(202)
    daemon.kill9()
    daemon.start()
    assert submit(daemon.client, "once", "k").ok(202) == first
    submit(daemon.client, "other", "k").error(422, "IDEMPOTENCY_MISMATCH")


def test_many_at_once_with_one_key_are_one_job(daemons):
    client = daemons(ONE).client
    answers, gate = [], threading.Barrier(16)

    def send():
        gate.wait()
        answers.append(submit(client, "@delay=50ms together", "k"))

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [a.json for a in answers if a.status == 202]
    assert taken and all(a == taken[0] for a in taken)
    for answer in answers:
        if answer.status != 202:
            answer.error(409, "IDEMPOTENCY_IN_PROGRESS")
            assert answer.header("Retry-After")
    assert client.history(team="echo")["pagination"]["total"] == 1


def test_a_key_is_forgotten_after_the_window(daemons):
    client = daemons({**ONE, "queue": {"dedup_window": "1s"}}).client
    first = submit(client, "once", "k").ok(202)["jobId"]
    assert submit(client, "once", "k").ok(202)["jobId"] == first
    wait_until(lambda: submit(client, "once", "k").ok(202)["jobId"] != first, "the key is free again", pause=0.1)


def test_an_ask_is_answered_again_without_being_asked_again(daemons):
    client = daemons(ONE).client
    first = ask(client, "what?", "k").ok()
    again = ask(client, "what?", "k")
    assert again.ok() == first and again.header("Idempotent-Replayed") == "true"
    failed = ask(client, "@fail=PROCESS_ERROR:9 no", "f", priority="high")
    failed.error(500, "PROCESS_ERROR")
    repeated = ask(client, "@fail=PROCESS_ERROR:9 no", "f", priority="high").error(500, "PROCESS_ERROR")
    assert repeated["details"] == failed.json["details"] and repeated["message"] == failed.json["message"]
    assert client.history(team="echo")["pagination"]["total"] == 2


def test_an_ask_that_is_still_at_work_is_a_conflict_that_names_it(daemons):
    client = daemons(ONE).client
    late = ask(client, "@delay=400ms slow", "k", timeout=50).error(408, "TIMEOUT")
    busy = ask(client, "@delay=400ms slow", "k", timeout=50)
    assert busy.error(409, "IDEMPOTENCY_IN_PROGRESS")["details"]["messageId"] == late["details"]["messageId"]
    client.wait_final(late["details"]["messageId"])
    assert "slow" in ask(client, "@delay=400ms slow", "k", timeout=50).ok()["response"]


def test_a_stream_with_a_used_key_is_the_same_stream(daemons):
    from harness import Sse, text_of

    client = daemons(ONE).client
    body = {"message": "@chunks=3 one two three"}
    streams = [
        Sse(client, "POST", "/api/v1/teams/echo/stream", body, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    first, second = (stream.rest() for stream in streams)
    assert [e for e in first if e.kind != "heartbeat"] == [e for e in second if e.kind != "heartbeat"]
    assert text_of(first) and client.history(team="echo")["pagination"]["total"] == 1


# ---- delay and deadline ----


@pytest.mark.parametrize("delay", [400, "400ms"])
def test_a_delayed_job_waits(daemons, delay):
    client = daemons(ONE).client
    later, now = client.submit("echo", "later", delay=delay), client.submit("echo", "now")
    assert client.message(later)["status"] == "queued"
    done, first = client.wait_final(later), client.wait_final(now)
    assert done["startedAt"] - done["createdAt"] >= 390, "a delay counts from the request's arrival"
    assert first["startedAt"] <= done["startedAt"]


def test_a_delay_holds_over_kill_9(daemons):
    daemon = daemons(ONE)
    name = daemon.client.submit("echo", "later", delay="2s")
    daemon.kill9()
    daemon.start()
    done = daemon.client.wait_final(name)
    assert done["status"] == "completed" and done["startedAt"] - done["createdAt"] >= 1990


def test_a_job_that_waits_past_its_deadline_fails(daemons):
    client = daemons(PAUSED).client
    created = client.message(client.submit("echo", "probe"))["createdAt"]
    name = client.submit("echo", "too late", deadline=created + 700)
    failed = client.wait_final(name)
    assert failed["status"] == "failed" and failed["error"]["code"] == "DEADLINE_EXCEEDED" and failed["attempts"] == 0
    assert failed["completedAt"] >= created + 700


def test_a_job_that_runs_past_its_deadline_is_ended(daemons):
    client = daemons(ONE).client
    created = client.message(client.submit("echo", "probe"))["createdAt"]
    name = client.submit("echo", "@hang", deadline=created + 700)
    failed = client.wait_final(name)
    assert failed["error"]["code"] == "DEADLINE_EXCEEDED" and failed["attempts"] == 1
    client.ask("echo", "the place is free again", timeout=10000).ok()


def test_wrong_times_are_refused(daemons):
    client = daemons({**ONE, "queue": {"max_delay": "1h"}}).client
    for field, value in (
        ("delay", -1),
        ("delay", "soon"),
        ("delay", "2h"),
        ("delay", True),
        ("deadline", 1000),
        ("deadline", "yesterday"),
        ("retry", {"delay": 0}),
        ("retry", {"delay": "1y"}),
        ("retry", {"maxAttempts": 0}),
    ):
        body = client.execute("echo", "x", **{field: value}).error(400, "INVALID_REQUEST")
        assert field in json.dumps(body["details"]), (field, value, body)


def test_a_job_has_its_own_patience_with_failures(daemons):
    client = daemons({**ONE, "queue": {"retry_delay": "1h", "max_retry_delay": "2h"}}).client
    name = client.submit("echo", "@fail=PROCESS_ERROR:9 no", retry={"maxAttempts": 2, "delay": 20, "maxDelay": "50ms"})
    failed = client.wait_final(name)
    assert failed["status"] == "failed" and failed["attempts"] == 2


# ---- order ----


def test_positions_and_order_follow_priority(daemons):
    client = daemons(PAUSED).client
    given = ["low", "normal", "normal", "high", "critical", "low", "critical", "high"]
    expected_positions = [1, 1, 2, 1, 1, 6, 2, 4]
    jobs = [client.execute("echo", f"{i}", priority=p).ok(202) for i, p in enumerate(given)]
    assert [job["position"] for job in jobs] == expected_positions
    order = [4, 6, 3, 7, 1, 2, 0, 5]
    assert [client.message(jobs[i]["jobId"])["position"] for i in order] == list(range(1, 9))
    estimates = [client.message(jobs[i]["jobId"])["estimatedCompletion"] for i in order]
    assert all(a < b for a, b in zip(estimates, estimates[1:])), estimates
    resume(client)
    started = [client.wait_final(job["jobId"]) for job in jobs]
    # Two jobs may start within one millisecond; completion is then told by the number of the event.
    numbers = {}
    for i, message in enumerate(started):
        events = client.attach(message["messageId"]).rest()
        numbers[i] = int(events[-1].id.rpartition("-")[2])
    assert sorted(numbers, key=numbers.get) == order


# ---- dead jobs ----


def test_a_dead_job_is_listed_and_done_again(daemons):
    daemon = daemons({**ONE, "queue": {"max_attempts": 1}})
    client = daemon.client
    name = client.submit("echo", "@fail=PROCESS_ERROR:1 once", context={"pr": 7}, priority="high")
    client.wait_final(name)
    good = client.submit("echo", "fine")
    client.wait_final(good)
    dead = client.history(status="dead")
    assert [m["messageId"] for m in dead["messages"]] == ["msg_" + name[4:]] and dead["pagination"]["total"] == 1
    client.post(f"/api/v1/messages/{good}/retry").error(409, "CONFLICT")
    answer = client.post(f"/api/v1/messages/{name}/retry")
    new = answer.ok(202)
    assert new["jobId"] != name and new["retryOf"] == "msg_" + name[4:]
    again = client.post(f"/api/v1/messages/{name}/retry")
    assert again.ok(202)["jobId"] == new["jobId"] and again.header("Idempotent-Replayed") == "true"
    done = client.wait_final(new["jobId"])
    assert done["retryOf"] == "msg_" + name[4:] and done["priority"] == "high" and done["context"] == {"pr": 7}
    assert client.message(name)["retriedAs"] == new["messageId"]
    assert client.history(status="dead")["pagination"]["total"] == (0 if done["status"] == "completed" else 1)
    client.post("/api/v1/messages/msg_0190a5b0-0000-7000-8000-000000000000/retry").error(404, "NOT_FOUND")


def test_the_command_line_lists_and_repeats_dead_jobs(daemons):
    daemon = daemons({**ONE, "queue": {"max_attempts": 1}})
    name = daemon.client.submit("echo", "@fail=PROCESS_ERROR:9 poor job")
    daemon.client.wait_final(name)
    listed = daemon.cli("jobs", "--status", "dead")
    assert listed.returncode == 0 and "poor job" in listed.stdout, listed
    again = daemon.cli("retry", name)
    assert again.returncode == 0, again
    assert daemon.client.message(name)["retriedAs"][4:] in again.stdout


# ---- pause and resume ----


def test_a_paused_team_takes_jobs_and_starts_none(daemons):
    client = daemons(ONE).client
    assert pause(client) == {"team": "echo", "paused": True} == pause(client)
    name = client.submit("echo", "later")
    status = client.status("echo")
    assert status["status"] == "paused" and status["paused"] is True and status["queued"] == 1
    client.ask("echo", "me too", timeout=100).error(408, "TIMEOUT")
    assert client.message(name)["status"] == "queued"
    assert resume(client) == {"team": "echo", "paused": False}
    assert client.wait_final(name)["status"] == "completed"
    assert client.status("echo")["paused"] is False


def test_what_runs_goes_on_while_paused(daemons):
    client = daemons(ONE).client
    name = client.submit("echo", "@delay=300ms running")
    client.wait_state(name, "processing")
    pause(client)
    assert client.wait_final(name)["status"] == "completed"


def test_a_pause_holds_over_restarts_until_the_file_changes(daemons):
    daemon = daemons(ONE)
    pause(daemon.client)
    name = daemon.client.submit("echo", "later")
    daemon.kill9()
    daemon.start()
    assert daemon.client.status("echo")["paused"] is True
    assert daemon.client.message(name)["status"] == "queued"
    resume(daemon.client)
    daemon.client.wait_final(name)
    daemon.stop()
    daemon.start()
    assert daemon.client.status("echo")["paused"] is False


def test_a_team_can_be_paused_in_the_file_and_resumed_by_command(daemons):
    daemon = daemons(PAUSED)
    client = daemon.client
    name = client.submit("echo", "later")
    assert client.status("echo")["paused"] is True
    done = daemon.cli("resume", "echo")
    assert done.returncode == 0, done
    assert client.wait_final(name)["status"] == "completed"
    assert daemon.cli("pause", "echo").returncode == 0
    assert client.status("echo")["paused"] is True


def test_who_may_pause(daemons):
    client = daemons(ONE).client
    made = client.post("/api/v1/keys", {"name": "ci", "scopes": ["teams:write"]}).ok(201)["key"]
    client.with_key(made).post("/api/v1/teams/echo/pause").error(403, "FORBIDDEN")
    client.post("/api/v1/teams/nobody/pause").error(404, "TEAM_NOT_FOUND")


def test_a_repeat_comes_too_late_for_its_own_deadline(daemons):
    """The delay counts anew with each request, the deadline does not."""
    client = daemons(PAUSED).client
    deadline = client.message(client.submit("echo", "probe"))["createdAt"] + 900
    body = {"delay": 300, "deadline": deadline}
    first = submit(client, "once", "k", **body).ok(202)
    client.wait_final(first["jobId"])
    assert submit(client, "once", "k", **body).ok(202) == first
    submit(client, "once", "another", **body).error(400, "INVALID_REQUEST")
