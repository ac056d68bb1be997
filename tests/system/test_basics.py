# SPDX-License-Identifier: MPL-2.0
"""What a new user does first, and every answer that the API document promises."""

import hashlib
import http.server
import json
import os
import re
import select
import shlex
import subprocess
import threading
import time

import pytest

from harness import FINAL, Client, curl, parse_curl, scaled, text_of, wait_until


def key_of(name, scopes, **more):
    return {"name": name, "key": "muster_sk_test_" + name.ljust(32, "0"), "scopes": scopes, **more}


def with_keys(*keys, **more):
    return {"auth": {"keys": [key_of("root", ["*"], rate_limit={"requests": 0}), *keys]}, **more}


class Terminal:
    """A program whose standard output and error are a terminal."""

    def __init__(self, line, env, cwd=None, typed=None):
        self.master, slave = os.openpty()
        self.process = subprocess.Popen(
            [str(word) for word in line],
            env=env,
            cwd=cwd,
            stdin=slave if typed is not None else subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.text = ""
        if typed is not None:
            os.write(self.master, typed)

    def read(self, seconds):
        """False: the other side has closed."""
        ready, _, _ = select.select([self.master], [], [], max(0.0, seconds))
        try:
            data = os.read(self.master, 65536) if ready else None
        except OSError:
            data = b""
        self.text += (data or b"").decode(errors="replace")
        return data != b""

    def until(self, words, seconds=20):
        end = time.monotonic() + scaled(seconds)
        while words not in self.text and time.monotonic() < end and self.read(end - time.monotonic()):
            pass
        assert words in self.text, self.text
        return self.text

    def wait(self, seconds=20):
        """All that it prints, then its exit code."""
        end = time.monotonic() + scaled(seconds)
        try:
            while time.monotonic() < end and self.read(end - time.monotonic()):
                pass
            return self.process.wait(scaled(5))
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.master)


def clients(daemon):
    """One client per key of the configuration, by name."""
    return {key["name"]: Client(daemon.url, key["key"]) for key in daemon.config["auth"]["keys"]}


# ---- the first minute ----


def test_without_any_configuration_it_serves_a_team_echo(daemons):
    daemon = daemons(plain=True)
    assert re.fullmatch(r"muster \d+\.\d+\.\d+ is ready at http://127\.0\.0\.1:\d+", daemon.ready_line())
    assert (daemon.data / "url").read_text().strip() == daemon.url
    assert (daemon.data / "admin.key").stat().st_mode & 0o077 == 0
    assert [t["name"] for t in daemon.client.get("/api/v1/teams").ok()["teams"]] == ["echo"]


def test_the_printed_curl_line_works_as_it_stands(daemons):
    daemon = daemons(plain=True)
    wait_until(lambda: any("curl" in line for line in daemon.out), "a curl line is printed")
    text = "\n".join(daemon.out)
    assert daemon.key not in text, "a journal is no place for a key"
    command = text[re.search(r"\bcurl -", text).start() :]
    command = re.match(r"(?:.*\\\n)*.*", command).group(0)
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=scaled(20), cwd=daemon.folder)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["team"] == "echo" and body["response"]
    assert "-H" in shlex.split(command.replace("\\\n", " "))


def test_the_key_is_shown_to_a_person(daemons):
    daemon = daemons(plain=True)
    daemon.stop()
    daemon.data = daemon.folder / "fresh"
    terminal = Terminal(daemon.command(), env=daemon.environment(), cwd=daemon.folder)
    text = terminal.until("muster --data")
    key = (daemon.data / "admin.key").read_text().strip()
    assert f"key (also in {daemon.data}/admin.key): {key}" in text
    assert f"Bearer {key}" in text
    terminal.process.terminate()
    assert terminal.wait() == 0


def test_a_second_start_makes_no_new_key(daemons):
    daemon = daemons(plain=True)
    key = daemon.key
    wait_until(lambda: f"key: in {daemon.data}/admin.key" in daemon.out, "where the key is")
    daemon.stop()
    assert not (daemon.data / "url").exists() or (daemon.data / "url").read_text()
    daemon.start()
    assert daemon.key == key
    assert not any(key in line for line in daemon.out), "a key is shown once"
    assert daemon.client.ask("echo", "same key").ok()["response"] == "same key"


def test_no_key_is_made_when_the_configuration_has_keys(daemons):
    daemon = daemons(with_keys())
    assert not (daemon.data / "admin.key").exists()
    assert clients(daemon)["root"].get("/api/v1/teams").status == 200


def test_a_key_may_be_given_by_its_digest(daemons):
    key = "muster_sk_" + "z" * 43
    daemon = daemons(
        {"auth": {"keys": [{"name": "digest", "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": ["*"]}]}}
    )
    assert Client(daemon.url, key).ask("echo", "hi").ok()["response"] == "hi"


# ---- ask, execute, message ----


def test_ask_answers_as_the_document_shows(client):
    before = time.time() * 1000
    body = client.ask(
        "echo", "What is in there?", timeout=30000, context={"source": "test", "metadata": {"pr_number": 123}}
    ).ok()
    assert body["messageId"].startswith("msg_") and body["team"] == "echo"
    assert body["question"] == "What is in there?" and body["response"] == "What is in there?"
    assert isinstance(body["duration"], int) and before - 5000 < body["timestamp"] < before + 60000
    assert isinstance(body["metadata"]["filesAccessed"], list) and isinstance(body["metadata"]["toolsUsed"], list)
    message = client.message(body["messageId"])
    assert message["status"] == "completed" and message["response"] == body["response"]


def test_ask_with_curl(daemon):
    answer = curl(daemon.url + "/api/v1/teams/echo/ask", key=daemon.key, data={"question": "by curl"})
    assert answer.ok()["response"] == "by curl"
    assert answer.header("Content-Type").startswith("application/json") and answer.header("X-Request-Id")


def test_ask_metadata_names_tools_and_files(client):
    body = client.ask(
        "echo", '@tool=Read:{"file_path":"a.c"} @tool=Grep:{"pattern":"x"} @tool=Read:{"file_path":"a.c"} done'
    ).ok()
    assert sorted(body["metadata"]["toolsUsed"]) == ["Grep", "Read"]
    assert body["metadata"]["filesAccessed"] == ["a.c"]


def test_ask_metadata_has_usage_and_cost(client):
    body = client.ask("echo", "@cost=0.25 @tokens=7 one two three").ok()
    assert body["metadata"]["usage"]["costUsd"] == 0.25 and body["metadata"]["usage"]["outputTokens"] == 7


def test_execute_answers_at_once_as_the_document_shows(client):
    blocker = [client.submit("echo", "@hang") for _ in range(8)]
    answer = client.execute("echo", "later", priority="normal")
    body = answer.ok(202)
    assert body["jobId"].startswith("job_") and body["team"] == "echo" and body["status"] == "queued"
    assert body["position"] >= 1 and body["estimatedCompletion"] > time.time() * 1000 - 5000
    message = client.message(body["jobId"])
    assert message["status"] == "queued" and message["jobId"] == body["jobId"]
    assert message["messageId"] == body["jobId"].replace("job_", "msg_") and message["createdAt"] > 0
    for name in blocker:
        client.cancel(name)
    assert client.wait_final(body["jobId"])["status"] == "completed"


def test_message_and_job_name_the_same(client):
    name = client.submit("echo", "@delay=5ms same")
    client.wait_final(name)
    for alias in (name, name.replace("job_", "msg_"), name.replace("job_", "")):
        assert client.message(alias)["response"] == "same"


def test_message_shows_progress_through_its_states(client):
    name = client.submit("echo", "@hang")
    message = client.wait_state(name, "processing")
    assert message["startedAt"] >= message["createdAt"] and "response" not in message
    assert message["progress"]["current"] == 0 and 1 <= message["progress"]["percentage"] <= 99
    client.cancel(name)
    assert client.message(name)["progress"] == {"current": 0, "total": 1, "percentage": 0}


def test_a_message_shows_what_was_sent(client):
    context = {"source": "test", "list": [1, {"a": None}]}
    name = client.submit("echo", "@delay=5ms show me", context=context, priority="high", retry={"maxAttempts": 2})
    client.wait_final(name)
    message = client.message(name)
    assert message["message"] == "@delay=5ms show me" and message["context"] == context
    assert (message["kind"], message["priority"], message["maxAttempts"]) == ("execute", "high", 2)
    assert message["from"] and message["progress"] == {"current": 1, "total": 1, "percentage": 100}
    assert "callback" not in message and "error" not in message


@pytest.mark.parametrize(
    "name",
    [
        "msg_00000000-0000-7000-8000-000000000000",
        "msg_",
        "job_x",
        "nonsense",
        "msg_" + "f" * 300,
        "%00",
        "msg_00000000-0000-7000-8000-00000000000g",
    ],
)
def test_an_unknown_message_is_not_found(client, name):
    answer = client.get(f"/api/v1/messages/{name}")
    assert answer.status in (400, 404)
    answer.error(answer.status)
    assert client.cancel(name).status in (400, 404)


def test_text_comes_back_byte_for_byte(client):
    for text in [
        "äöü €  \U0001f680 \u2028\u2029",
        "\t tabs\r\nand lines\n",
        "quotes \" ' \\ / </script>",
        "\x7f\x01\x1f",
        "@@literal at",
        " leading and trailing ",
        "\ufeffbom",
        "a" * 65536,
    ]:
        expected = text[1:] if text.startswith("@@") else text
        assert client.ask("echo", text).ok()["response"] == expected
        assert text_of(client.stream("echo", text).rest()) == expected


@pytest.mark.parametrize("size", [1 << 20, 5_000_000, 20_000_000])
def test_large_answers_are_whole(client, size):
    body = client.ask("echo", f"@size={size} @chunks=100", timeout=60000).ok()
    assert len(body["response"]) == size
    assert len(client.message(body["messageId"])["response"]) == size


def test_a_question_of_almost_the_limit_is_taken(client):
    question = "q" * (1024 * 1024 - 100)
    assert client.ask("echo", question).ok()["response"] == question


# ---- teams, health, metrics ----


def test_teams_and_their_status(daemons):
    client = daemons({"teams": {"alpha": {"driver": "echo"}, "beta": {"driver": "echo", "concurrency": 2}}}).client
    teams = client.get("/api/v1/teams").ok()["teams"]
    assert sorted(t["name"] for t in teams) == ["alpha", "beta"]
    status = client.status("beta")
    assert status["team"] == "beta" and status["status"]
    names = [client.submit("beta", "@hang") for _ in range(3)]
    wait_until(lambda: numbers(client.status("beta")).get("running") == 2, "two run")
    now = numbers(client.status("beta"))
    assert now["queued"] == 1
    for name in names:
        client.cancel(name)
    wait_until(lambda: numbers(client.status("beta"))["running"] == 0, "none runs")


def numbers(status):
    """Queue numbers of a status answer, wherever they stand."""
    found = {}
    for value in (status, *(v for v in status.values() if isinstance(v, dict))):
        found.update({k: v for k, v in value.items() if isinstance(v, int) and not isinstance(v, bool)})
    return found


def test_health_needs_no_key(daemon):
    answer = Client(daemon.url).get("/health")
    assert answer.ok()["status"] in ("ok", "healthy")
    assert daemon.key not in answer.text


def test_metrics_are_prometheus_text(daemon):
    daemon.client.ask("echo", "hi").ok()
    answer = daemon.client.get("/metrics")
    if answer.status != 200:
        pytest.fail(str(answer))
    assert answer.header("Content-Type").startswith("text/plain")
    names = set()
    for line in answer.text.splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_]\w*="(?:[^"\\]|\\.)*",?)*\})? (\S+)', line)
            assert match, line
            float(match[3].replace("+Inf", "inf"))
            names.add(match[1])
    assert any("job" in n for n in names) and any("http" in n for n in names), names
    assert "/api/v1/teams/{team}/ask" in answer.text, "routes are labels, paths are not"


def test_every_answer_has_a_request_id_and_keeps_the_callers(client):
    first, second = client.get("/health"), client.get("/health")
    assert first.header("X-Request-Id") != second.header("X-Request-Id")
    assert client.get("/health", headers={"X-Request-Id": "mine-123"}).header("X-Request-Id") == "mine-123"
    assert client.get("/nowhere").header("X-Request-Id")


def test_head_has_no_body(daemon):
    done = subprocess.run(
        ["curl", "-sS", "-I", "--max-time", "20", daemon.url + "/health"], capture_output=True, timeout=30
    )
    answer = parse_curl(done.stdout)
    assert answer.status == 200 and answer.body == b""


# ---- who may ----


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "wrong"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"Authorization": "Basic d3Jvbmc6d3Jvbmc="},
        {"Authorization": "Bearer " + "x" * 4000},
    ],
)
@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/api/v1/teams"),
        ("POST", "/api/v1/teams/echo/ask"),
        ("POST", "/api/v1/teams/nowhere/ask"),
        ("GET", "/api/v1/keys"),
        ("GET", "/api/v1/messages/history"),
        ("GET", "/api/v1/messages/msg_00000000-0000-7000-8000-000000000000"),
    ],
)
def test_no_key_or_a_wrong_one_is_401(daemon, headers, method, path):
    """Also for what does not exist: nothing is told to strangers."""
    answer = Client(daemon.url).request(method, path, {"question": "hi"} if method == "POST" else None, headers)
    answer.error(401, "UNAUTHORIZED")
    assert "www-authenticate" in {k.lower() for k, _ in answer.headers}


def test_both_headers_carry_a_key(daemon):
    for headers in (
        {"Authorization": "Bearer " + daemon.key},
        {"authorization": "bearer " + daemon.key},
        {"X-API-Key": daemon.key},
    ):
        assert Client(daemon.url).get("/api/v1/teams", headers=headers).status == 200, headers


def test_a_missing_scope_is_403_naming_required_and_provided(daemons):
    daemon = daemons(
        with_keys(
            key_of("reader", ["teams:read"]),
            key_of("asker", ["teams:read", "messages:write"]),
            key_of("writer", ["teams:read", "teams:write"]),
        )
    )
    who = clients(daemon)
    answer = who["reader"].ask("echo", "may I?")
    body = answer.error(403, "FORBIDDEN")
    where = body if "required" in body else body["details"]
    assert "messages:write" in where["required"] and where["provided"] == ["teams:read"]
    assert who["reader"].get("/api/v1/teams").status == 200
    assert who["asker"].ask("echo", "I may").ok()["response"] == "I may"
    assert who["writer"].ask("echo", "I may too").ok()["response"] == "I may too"
    for name in ("reader", "asker", "writer"):
        who[name].get("/api/v1/keys").error(403, "FORBIDDEN")
        who[name].post("/api/v1/keys", {"name": "x", "scopes": ["*"]}).error(403, "FORBIDDEN")


def test_a_key_of_some_teams_sees_no_other(daemons):
    config = with_keys(key_of("narrow", ["teams:write"], teams=["mine"]))
    config["teams"] = {"mine": {"driver": "echo"}, "other": {"driver": "echo"}}
    daemon = daemons(config)
    who = clients(daemon)
    foreign = who["root"].ask("other", "secret of the other team").ok()["messageId"]
    narrow = who["narrow"]
    assert narrow.ask("mine", "mine").ok()["response"] == "mine"
    assert [t["name"] for t in narrow.get("/api/v1/teams").ok()["teams"]] == ["mine"]
    for answer in (
        narrow.ask("other", "x"),
        narrow.execute("other", "x"),
        narrow.get("/api/v1/teams/other/status"),
        narrow.post("/api/v1/teams/other/stream", {"message": "x"}),
    ):
        assert answer.status in (403, 404)
    for answer in (
        narrow.get(f"/api/v1/messages/{foreign}"),
        narrow.cancel(foreign),
        narrow.get(f"/api/v1/messages/{foreign}/stream"),
    ):
        assert answer.status in (403, 404)
        assert b"secret" not in answer.body
    history = narrow.history()
    assert history["pagination"]["total"] == 1 and {m["to"] for m in history["messages"]} == {"mine"}
    assert (
        narrow.history(team="other")["messages"] == []
        if narrow.get("/api/v1/messages/history?team=other").status == 200
        else True
    )


def test_keys_are_made_listed_and_revoked_at_once(client):
    made = client.post("/api/v1/keys", {"name": "ci", "scopes": ["teams:read", "messages:write"]}).ok(201)
    assert made["name"] == "ci" and made["key"].startswith("muster_sk_") and len(made["key"]) >= 50
    ci = client.with_key(made["key"])
    assert ci.ask("echo", "from ci").ok()["response"] == "from ci"
    listed = client.get("/api/v1/keys").ok()["keys"]
    mine = next(k for k in listed if k["name"] == "ci")
    assert mine["scopes"] == ["teams:read", "messages:write"] and made["key"] not in json.dumps(listed)
    assert client.post("/api/v1/keys", {"name": "ci", "scopes": ["teams:read"]}).status == 409
    assert client.request("DELETE", f"/api/v1/keys/{mine['id']}").status in (200, 204)
    ci.ask("echo", "still?").error(401, "UNAUTHORIZED")
    client.request("DELETE", "/api/v1/keys/no-such-key").error(404, "NOT_FOUND")
    client.post("/api/v1/keys", {"name": "by-name", "scopes": ["teams:read"]}).ok(201)
    assert client.request("DELETE", "/api/v1/keys/by-name").status in (200, 204)


@pytest.mark.parametrize(
    "body, field",
    [
        ({"scopes": ["teams:read"]}, "name"),
        ({"name": "", "scopes": ["teams:read"]}, "name"),
        ({"name": "x"}, "scopes"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["no:such"]}, "scopes"),
        ({"name": "x", "scopes": "teams:read"}, "scopes"),
        ({"name": "x", "scopes": ["teams:read"], "rateLimit": {"requests": -1, "window": "1m"}}, "rateLimit"),
        ({"name": "x" * 65, "scopes": ["teams:read"]}, "name"),
    ],
)
def test_a_key_that_cannot_be_names_its_field(client, body, field):
    assert field in json.dumps(client.post("/api/v1/keys", body).error(400, "INVALID_REQUEST"))


def test_a_key_for_a_team_that_does_not_exist_is_refused(client):
    answer = client.post("/api/v1/keys", {"name": "x", "scopes": ["teams:read"], "teams": ["no-such-team"]})
    assert "no-such-team" in answer.error(404, "TEAM_NOT_FOUND")["message"]
    assert "x" not in [k["name"] for k in client.get("/api/v1/keys").ok()["keys"]]


def test_an_expired_key_is_401(client):
    made = client.post(
        "/api/v1/keys", {"name": "brief", "scopes": ["teams:read"], "expiresAt": int(time.time() * 1000) + 400}
    ).ok(201)
    brief = client.with_key(made["key"])
    wait_until(lambda: brief.get("/api/v1/teams").status == 401, "it expires")
    assert "expired" in brief.get("/api/v1/teams").text.lower()


def test_nobody_gives_more_than_they_have(daemons):
    """A key that may make keys cannot make a mightier one."""
    daemon = daemons(with_keys(key_of("admin", ["admin:*"])))
    who = clients(daemon)
    assert who["admin"].post("/api/v1/keys", {"name": "x", "scopes": ["*"]}).status in (201, 403)
    made = who["admin"].post("/api/v1/keys", {"name": "y", "scopes": ["teams:read"]}).ok(201)
    assert (
        who["admin"].with_key(made["key"]).post("/api/v1/keys", {"name": "z", "scopes": ["teams:read"]}).status == 403
    )


# ---- what is refused ----


def test_an_unknown_team_is_404(client):
    for answer in (
        client.ask("nobody", "hi"),
        client.execute("nobody", "hi"),
        client.get("/api/v1/teams/nobody/status"),
        client.post("/api/v1/teams/nobody/stream", {"message": "hi"}),
    ):
        answer.error(404, "TEAM_NOT_FOUND")


def test_an_unknown_path_is_404(client):
    for path in ("/", "/api", "/api/v1", "/api/v1/teams/echo/ask/more", "/index.html", "/api/v2/teams"):
        client.get(path).error(404)


@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("GET", "/api/v1/teams/echo/ask", "POST"),
        ("DELETE", "/api/v1/teams/echo/execute", "POST"),
        ("POST", "/api/v1/teams", "GET"),
        ("PUT", "/api/v1/teams/echo/status", "GET"),
        ("PATCH", "/api/v1/keys", "GET"),
        ("DELETE", "/health", "GET"),
        ("POST", "/metrics", "GET"),
        ("DELETE", "/api/v1/messages/history", "GET"),
    ],
)
def test_a_wrong_method_is_405_with_allow(client, method, path, allowed):
    answer = client.request(method, path, {} if method in ("POST", "PUT", "PATCH") else None)
    answer.error(405, "METHOD_NOT_ALLOWED")
    assert allowed in answer.header("Allow")


@pytest.mark.parametrize(
    "kind, body, field",
    [
        ("ask", {}, "question"),
        ("ask", {"question": ""}, "question"),
        ("ask", {"question": 5}, "question"),
        ("ask", {"question": None}, "question"),
        ("ask", {"question": ["x"]}, "question"),
        ("ask", {"question": "x", "timeout": "soon"}, "timeout"),
        ("ask", {"question": "x", "timeout": -1}, "timeout"),
        ("ask", {"question": "x", "timeout": 1.5}, "timeout"),
        ("ask", {"question": "x", "timeout": 10**15}, "timeout"),
        ("ask", {"question": "x", "priority": "urgent"}, "priority"),
        ("ask", {"question": "x", "priority": 1}, "priority"),
        ("execute", {}, "task"),
        ("execute", {"task": ""}, "task"),
        ("execute", {"task": {}}, "task"),
        ("execute", {"task": "x", "priority": "HIGHEST"}, "priority"),
        ("execute", {"task": "x", "retry": 3}, "retry"),
        ("execute", {"task": "x", "retry": {"maxAttempts": 0}}, "maxAttempts"),
        ("execute", {"task": "x", "retry": {"maxAttempts": 101}}, "maxAttempts"),
        ("execute", {"task": "x", "timeout": 0}, "timeout"),
        ("execute", {"task": "x", "callback": "http://x"}, "callback"),
        ("stream", {}, "message"),
        ("stream", {"message": ""}, "message"),
    ],
)
def test_a_bad_request_names_its_field(client, kind, body, field):
    answer = client.post(f"/api/v1/teams/echo/{kind}", body)
    problem = answer.error(400, "INVALID_REQUEST")
    assert field in problem["message"], problem
    assert client.history()["pagination"]["total"] == 0, "nothing was queued"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"{'question':'x'}", b"question=x", b'{"question":"x",}']
)
def test_what_is_not_a_json_object_is_400(client, body):
    client.post("/api/v1/teams/echo/ask", body).error(400, "INVALID_REQUEST")


def test_an_oversized_body_is_413(client):
    client.ask("echo", "x" * (2 << 20)).error(413, "PAYLOAD_TOO_LARGE")
    assert client.ask("echo", "small").ok()["response"] == "small"


def test_a_form_is_not_taken_for_json(client):
    answer = client.post(
        "/api/v1/teams/echo/ask", b"--x\r\n\r\n--x--\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status == 415


def test_a_curl_user_may_forget_the_content_type(daemon):
    answer = curl(daemon.url + "/api/v1/teams/echo/ask", "--data", '{"question":"plain -d"}', key=daemon.key)
    assert answer.ok()["response"] == "plain -d"


def test_a_bad_query_is_400(client):
    for query in (
        "limit=0",
        "limit=x",
        "limit=-1",
        "limit=100000",
        "page=0",
        "page=x",
        "since=yesterday",
        "status=nonsense",
    ):
        answer = client.get("/api/v1/messages/history?" + query)
        body = answer.error(400, "INVALID_REQUEST")
        assert query.split("=")[0] in body["message"], body


# ---- limits ----


def test_the_rate_is_limited_and_shown(daemons):
    daemon = daemons(
        with_keys(
            key_of("few", ["teams:write"], rate_limit={"requests": 3, "window": "1h"}),
            key_of("other", ["teams:write"], rate_limit={"requests": 3, "window": "1h"}),
        )
    )
    few = clients(daemon)["few"]
    for left in (2, 1, 0):
        answer = few.get("/api/v1/teams")
        assert answer.status == 200
        assert (answer.header("X-RateLimit-Limit"), answer.header("X-RateLimit-Remaining")) == ("3", str(left))
        assert time.time() < int(answer.header("X-RateLimit-Reset")) < time.time() + 3700
        assert any(k.lower().startswith("ratelimit") for k, _ in answer.headers), "the IETF header is missing"
    for answer in (
        few.get("/api/v1/teams"),
        few.ask("echo", "no"),
        few.execute("echo", "no"),
        few.post("/api/v1/teams/echo/stream", {"message": "no"}),
    ):
        answer.error(429, "RATE_LIMITED")
        assert 0 < int(answer.header("Retry-After")) <= 3600
        assert (answer.header("X-RateLimit-Limit"), answer.header("X-RateLimit-Remaining")) == ("3", "0")
        assert time.time() < int(answer.header("X-RateLimit-Reset")) < time.time() + 3700
    assert clients(daemon)["other"].ask("echo", "another key").ok()["response"] == "another key"
    assert few.get("/health").status == 200
    assert clients(daemon)["root"].history()["pagination"]["total"] == 1


def test_refused_requests_count_too(daemons):
    daemon = daemons(with_keys(key_of("few", ["messages:write"], rate_limit={"requests": 3, "window": "1h"})))
    few = clients(daemon)["few"]
    for left, answer in (
        (2, few.get("/api/v1/teams")),
        (1, few.get("/api/v1/messages/msg_nonsense")),
        (0, few.post("/api/v1/teams/echo/ask", {"question": "x"})),
    ):
        assert answer.status in (403, 404)
        assert (answer.header("X-RateLimit-Limit"), answer.header("X-RateLimit-Remaining")) == ("3", str(left))
        if answer.status == 403:
            assert answer.json["required"][0] == "teams:read" and "messages:write" in answer.json["provided"]
            assert "teams:read" in answer.json["message"]
    spent = few.get("/api/v1/teams")
    spent.error(429, "RATE_LIMITED")
    assert (spent.json["limit"], spent.json["window"]) == (3, 3_600_000)
    assert time.time() * 1000 < spent.json["resetAt"] < time.time() * 1000 + 3_700_000


def test_a_rate_recovers_after_its_window(daemons):
    daemon = daemons(
        with_keys(
            key_of("quick", ["teams:read"], rate_limit={"requests": 2, "window": "600ms"}),
            key_of("drip", ["teams:read"], rate_limit={"requests": 2, "window": "600ms", "algorithm": "token_bucket"}),
        )
    )
    for name in ("quick", "drip"):
        who = clients(daemon)[name]
        statuses = [who.get("/api/v1/teams").status for _ in range(3)]
        assert statuses[:2] == [200, 200]
        wait_until(lambda: who.get("/api/v1/teams").status == 200, "it may call again", pause=0.1)


def test_a_full_queue_is_503_and_tells_when_to_come_back(daemons):
    client = daemons({"teams": {"echo": {"driver": "echo", "max_queued": 2}}}).client
    running = client.submit("echo", "@hang")
    client.wait_state(running, "processing")
    waiting = [client.submit("echo", f"waits {i}") for i in range(2)]
    for answer in (client.execute("echo", "no room"), client.ask("echo", "no room")):
        answer.error(503, "QUEUE_FULL")
        assert int(answer.header("Retry-After")) > 0
    assert client.post("/api/v1/teams/echo/stream", {"message": "no room"}).status == 503
    client.cancel(running)
    for name in waiting:
        assert client.wait_final(name)["status"] == "completed"
    assert client.ask("echo", "room again").ok()["response"] == "room again"
    assert client.history()["pagination"]["total"] == 4


def test_patience_ends_with_408_and_the_job_goes_on(client):
    answer = client.ask("echo", "@delay=400ms worth waiting for", timeout=50)
    body = answer.error(408, "TIMEOUT")
    name = re.search(r"msg_[0-9a-f-]{36}", json.dumps(body)).group(0)
    message = client.wait_final(name)
    assert message["status"] == "completed" and message["response"] == "worth waiting for"


def test_the_message_that_a_408_names_can_be_looked_up_at_once(client):
    """However short the patience: what is promised to go on is on disk."""
    for i in range(20):
        answer = client.ask("echo", f"@delay=5ms impatient {i}", timeout=1)
        if answer.status == 200:
            continue
        name = re.search(r"msg_[0-9a-f-]{36}", json.dumps(answer.error(408, "TIMEOUT"))).group(0)
        assert client.get(f"/api/v1/messages/{name}").status == 200
        assert client.attach(name).status == 200


# ---- history ----


@pytest.fixture
def past(daemons):
    """Two teams, two keys, and one job of every end."""
    config = with_keys(key_of("second", ["teams:write"]))
    config["teams"] = {"alpha": {"driver": "echo", "concurrency": 4}, "beta": {"driver": "echo"}}
    daemon = daemons(config)
    root, second = clients(daemon)["root"], clients(daemon)["second"]
    for i in range(5):
        root.ask("alpha", f"alpha {i}").ok()
    second.ask("beta", "beta 0").ok()
    root.ask("alpha", "@fail=MODEL_REFUSED no").error(502)
    cancelled = root.submit("beta", "@hang")
    root.wait_state(cancelled, "processing")
    root.cancel(cancelled)
    return daemon, root, second


def test_history_as_the_document_shows(past):
    _, root, _ = past
    history = root.history()
    assert history["pagination"] == {"page": 1, "limit": 50, "total": 8, "hasNext": False}
    newest = history["messages"][0]
    assert newest["status"] == "cancelled" and newest["to"] == "beta" and newest["from"] == "root"
    first = history["messages"][-1]
    assert first["messageId"].startswith("msg_") and first["message"] == "alpha 0" and first["response"] == "alpha 0"
    assert first["status"] == "completed" and isinstance(first["duration"], int) and first["timestamp"] > 0
    stamps = [m["timestamp"] for m in history["messages"]]
    assert stamps == sorted(stamps, reverse=True)


def test_a_duration_below_a_millisecond_is_still_a_number(client):
    names = [client.ask("echo", f"quick {i}").ok()["messageId"] for i in range(15)]
    assert all(isinstance(m["duration"], int) for m in client.history()["messages"])
    assert all(isinstance(client.message(name)["duration"], int) for name in names)


@pytest.mark.parametrize(
    "query, total",
    [
        ({"team": "alpha"}, 6),
        ({"to": "beta"}, 2),
        ({"from": "second"}, 1),
        ({"from": "root"}, 7),
        ({"status": "completed"}, 6),
        ({"status": "failed"}, 1),
        ({"status": "cancelled"}, 1),
        ({"status": "queued"}, 0),
        ({"status": "processing"}, 0),
        ({"team": "alpha", "status": "completed"}, 5),
        ({"team": "beta", "from": "second"}, 1),
        ({"team": "alpha", "from": "second"}, 0),
        ({"from": "nobody"}, 0),
        ({"team": "alpha", "to": "alpha"}, 6),
        ({"team": "alpha", "to": "beta"}, 0),
    ],
)
def test_history_filters(past, query, total):
    _, root, _ = past
    history = root.history(**query)
    assert history["pagination"]["total"] == total and len(history["messages"]) == total
    for message in history["messages"]:
        for name, value in query.items():
            assert message["to" if name == "team" else name] == value


def test_history_since(past):
    _, root, _ = past
    messages = root.history()["messages"]
    middle = messages[3]
    found = root.history(since=middle["timestamp"])
    assert middle["messageId"] in [m["messageId"] for m in found["messages"]]
    assert all(m["timestamp"] >= middle["timestamp"] for m in found["messages"])
    assert found["pagination"]["total"] == sum(m["timestamp"] >= middle["timestamp"] for m in messages)
    assert root.history(since=int(time.time() * 1000) + 10**6)["messages"] == []


@pytest.mark.parametrize("limit", [1, 3, 8, 50])
def test_history_pages_meet_without_gap_or_double(past, limit):
    _, root, _ = past
    everything = [m["messageId"] for m in root.history()["messages"]]
    seen, page = [], 1
    while True:
        part = root.history(limit=limit, page=page)
        assert (
            part["pagination"]["total"] == 8
            and part["pagination"]["page"] == page
            and part["pagination"]["limit"] == limit
        )
        seen += [m["messageId"] for m in part["messages"]]
        assert part["pagination"]["hasNext"] == (len(seen) < 8)
        if not part["pagination"]["hasNext"]:
            break
        page += 1
    assert seen == everything
    assert root.history(limit=limit, page=page + 5)["messages"] == []


# ---- cancel ----


def test_cancel_of_a_queued_a_running_and_a_final_job(daemons):
    client = daemons({"teams": {"echo": {"driver": "echo"}}}).client
    running, queued = client.submit("echo", "@hang"), client.submit("echo", "never runs")
    client.wait_state(running, "processing")
    assert client.cancel(queued).ok()["status"] == "cancelled"
    assert client.message(queued)["status"] == "cancelled" and not client.message(queued).get("startedAt")
    assert client.message(running)["status"] == "processing"
    assert client.cancel(running).ok()["status"] == "cancelled"
    assert client.message(running)["status"] == "cancelled"
    assert client.ask("echo", "the agent is free").ok()["response"] == "the agent is free"
    for name in (running, queued):
        again = client.cancel(name)
        assert again.status in (200, 409)
        assert client.message(name)["status"] == "cancelled"
    done = client.ask("echo", "done").ok()["messageId"]
    late = client.cancel(done)
    assert late.status in (200, 409)
    if late.status == 200:
        assert late.json["status"] == "completed"
    assert client.message(done)["status"] == "completed"


def test_a_waiting_ask_is_told_of_the_cancel(client):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.ask("echo", "@hang")))
    thread.start()
    name = wait_until(
        lambda: next((m["messageId"] for m in client.history(status="processing")["messages"]), None), "it runs"
    )
    client.cancel(name).ok()
    thread.join(scaled(10))
    answers[0].error(409, "CANCELLED")


def test_cancel_of_a_job_that_waits_for_its_retry(daemons):
    client = daemons({"queue": {"retry_delay": "1h", "max_retry_delay": "2h"}}).client
    name = client.submit("echo", "@fail=PROCESS_ERROR x", retry={"maxAttempts": 3})
    wait_until(
        lambda: "retry" in client.message(name)["status"]
        or client.message(name).get("attempts") == 1
        and client.message(name)["status"] != "processing",
        "it waits",
    )
    assert client.cancel(name).ok()["status"] == "cancelled"


# ---- order and concurrency ----


def test_priorities_go_before_age_and_age_within_one(daemons):
    client = daemons({"teams": {"echo": {"driver": "echo"}}}).client
    blocker = client.submit("echo", "@hang")
    client.wait_state(blocker, "processing")
    asked = ["low", "normal", "high", "critical", "low", "normal", "high", "critical"]
    names = [(p, i, client.submit("echo", f"@delay=15ms {p}{i}", priority=p)) for i, p in enumerate(asked)]
    client.cancel(blocker)
    began = sorted((client.wait_final(name)["startedAt"], p, i) for p, i, name in names)
    assert [(p, i) for _, p, i in began] == [
        ("critical", 3),
        ("critical", 7),
        ("high", 2),
        ("high", 6),
        ("normal", 1),
        ("normal", 5),
        ("low", 0),
        ("low", 4),
    ]


def test_a_low_job_ages_past_newer_high_ones(daemons):
    client = daemons({"queue": {"aging": "40ms"}, "teams": {"echo": {"driver": "echo"}}}).client
    blocker = client.submit("echo", "@hang")
    client.wait_state(blocker, "processing")
    low = client.submit("echo", "@delay=10ms low", priority="low")
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 0.4, "it ages")
    high = client.submit("echo", "@delay=10ms high", priority="high")
    client.cancel(blocker)
    assert client.wait_final(low)["startedAt"] < client.wait_final(high)["startedAt"]


def test_concurrency_of_a_team_and_of_all(daemons):
    config = {
        "queue": {"max_running": 3},
        "teams": {"a": {"driver": "echo", "concurrency": 2}, "b": {"driver": "echo", "concurrency": 2}},
    }
    client = daemons(config).client
    names = [client.submit(team, "@delay=40ms x") for _ in range(6) for team in ("a", "b")]
    messages = [client.wait_final(name) for name in names]
    events = []
    for message in messages:
        end = message.get("completedAt") or message["startedAt"] + message["duration"]
        events += [(message["startedAt"], 1, message["team"]), (end, -1, message["team"])]
    level = {"a": 0, "b": 0}
    most = {"a": 0, "b": 0, "all": 0}
    for _, step, team in sorted(events, key=lambda e: (e[0], e[1])):
        level[team] += step
        most[team] = max(most[team], level[team])
        most["all"] = max(most["all"], sum(level.values()))
    assert most["a"] <= 2 and most["b"] <= 2 and most["all"] <= 3
    assert most["all"] >= 2, "nothing ran side by side"


def test_a_failed_attempt_is_tried_again(client):
    name = client.submit("echo", "@fail=PROCESS_ERROR:2 third time lucky", retry={"maxAttempts": 3})
    message = client.wait_final(name)
    assert message["status"] == "completed" and message["response"] == "third time lucky"
    assert message["attempts"] == 3


def test_attempts_run_out(client):
    name = client.submit("echo", "@fail=PROCESS_ERROR x", retry={"maxAttempts": 2})
    message = client.wait_final(name)
    assert message["status"] == "failed" and message["attempts"] == 2 and "PROCESS_ERROR" in json.dumps(message)


def test_what_cannot_get_better_is_not_tried_again(client):
    message = client.wait_final(client.submit("echo", "@fail=MODEL_AUTH x", retry={"maxAttempts": 5}))
    assert message["status"] == "failed" and message["attempts"] == 1 and "MODEL_AUTH" in json.dumps(message)


@pytest.mark.parametrize(
    "code, status",
    [
        ("MODEL_AUTH", 502),
        ("MODEL_RATE_LIMITED", 502),
        ("MODEL_OVERLOADED", 502),
        ("MODEL_ERROR", 502),
        ("MODEL_REFUSED", 502),
        ("PROCESS_ERROR", 500),
        ("AGENT_HUNG", 500),
        ("MAX_TURNS", 500),
    ],
)
def test_a_failed_ask_has_the_code_of_its_failure(daemons, code, status):
    client = daemons({"queue": {"max_attempts": 1}}).client
    body = client.ask("echo", f"@fail={code} x").error(status, code)
    assert re.search(r"msg_[0-9a-f-]{36}", json.dumps(body)), "the failed message cannot be looked up"


# ---- configuration ----


@pytest.mark.parametrize(
    "text, where, word",
    [
        ("teams:\n  a:\n    driver: ecco\n", "3:13", "driver"),
        ("http:\n  listen: [127.0.0.1:0]\n  thread: 5\n", "3:3", "thread"),
        ("http:\n  threads: many\n", "2:12", "threads"),
        ("http:\n  threads: 3\n", "2:12", "threads"),
        ("http: [\n", "", ""),
        ("teams:\n  a: {driver: echo, env: [x]}\n", "2:", "env"),
        ("auth:\n  keys:\n    - {name: a, key: 0123456789abcdef, scopes: [no:such]}\n", "3:", "scopes"),
        ("auth:\n  keys:\n    - {name: a, key: short}\n", "3:22", "16 characters"),
        ("http:\n  listen: [127.0.0.1:4711, '*:4711']\n", "2:28", "overlaps"),
        ("auth:\n  keys:\n    - {name: a}\n", "3:", "key"),
        ("data: ${MUSTER_NO_SUCH_VARIABLE}\n", "1:7", "MUSTER_NO_SUCH_VARIABLE"),
        ("queue:\n  retry_delay: 5 parsecs\n", "2:16", "retry_delay"),
        ("teams:\n  'bad name!': {driver: echo}\n", "2:", ""),
        ("http: {max_sockets: 600, threads: 1024}\n", "", "max_sockets"),
        ("\x00", "", ""),
        ("a: &a [*a, *a]\n", "", ""),
        ("teams: {a: {}, a: {}}\n", "1:", "a"),
    ],
)
def test_a_broken_configuration_is_told_by_line_and_nothing_starts(daemons, text, where, word):
    daemon = daemons(text, start=False)
    daemon.spawn()
    status = daemon.wait_exit(15)
    said = daemon.log() + "\n".join(daemon.out)
    assert status == 2, said
    assert re.search(r"muster\.yaml:" + re.escape(where), said) and word in said, said
    assert not daemon.data.exists() or not any(daemon.data.iterdir())
    checked = subprocess.run(
        [*daemon.command()[:1], "check-config", str(daemon.config_file)],
        capture_output=True,
        text=True,
        timeout=scaled(20),
        env=daemon.environment(),
    )
    assert checked.returncode == 2 and re.search(r"muster\.yaml:" + re.escape(where), checked.stderr + checked.stdout)


def test_a_taken_port_is_told(daemons):
    first = daemons()
    second = daemons(start=False)
    second.command_line = second.command()
    second.command_line[second.command_line.index("127.0.0.1:0")] = first.url.removeprefix("http://")
    second.command = lambda: second.command_line
    second.spawn()
    assert second.wait_exit(15) not in (0, 2)
    assert first.url.removeprefix("http://") in second.log()


def test_variables_are_expanded(daemons):
    config = {"teams": {"t": {"driver": "command", "command": ["echo", "${WORD}", "${MUSTER_UNSET:-by default}"]}}}
    daemon = daemons(config, env={"WORD": "expanded"})
    assert daemon.client.ask("t", "x").ok()["response"].strip() == "expanded by default"


# ---- the log ----


def test_each_request_is_one_json_line_without_secrets(daemon):
    client = daemon.client
    client.post("/api/v1/teams/echo/ask", {"question": "a private question"}, headers={"User-Agent": "tester/1.0"})
    client.get("/api/v1/teams?api_key=" + client.key, headers={"User-Agent": "tester/2.0"})
    Client(daemon.url, "muster_sk_wrong_key_of_somebody").get("/api/v1/teams", headers={"User-Agent": "tester/3.0"})

    def entry(agent):
        return next((line for line in daemon.log_lines() if agent in json.dumps(line)), None)

    first = wait_until(lambda: entry("tester/1.0"), "the request is logged")
    values = [str(v) for v in first.values()]
    assert (
        "POST" in values and "/api/v1/teams/echo/ask" in values and "200" in values and "127.0.0.1" in json.dumps(first)
    )
    assert any("duration" in name.lower() for name in first)
    assert any(v not in ("",) and n.lower() in ("key", "apikey", "api_key") for n, v in first.items()), first
    assert first["time"] and first["level"] == "info"
    wait_until(lambda: entry("tester/2.0") and entry("tester/3.0"), "the others too")
    assert "401" in [str(v) for v in entry("tester/3.0").values()]
    assert client.key not in daemon.log(), "the key is in the log"
    assert "wrong_key_of_somebody" not in daemon.log(), "a mistyped key is in the log"
    assert "a private question" not in daemon.log()


# ---- command line ----


def test_client_commands(daemon):
    def run(*arguments, code=0, **more):
        done = daemon.cli(*arguments, **more)
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    assert run("ask", "echo", "hello").stdout == "hello\n"
    assert json.loads(run("ask", "echo", "hello", "--json").stdout)["response"] == "hello"
    assert run("ask", "echo", "-", stdin="from stdin").stdout == "from stdin\n"
    name = run("execute", "echo", "work").stdout.strip()
    assert name.startswith("job_")
    daemon.client.wait_final(name)
    assert "work" in run("job", name).stdout
    assert json.loads(run("job", name, "--json").stdout)["status"] == "completed"
    assert "streamed" in run("stream", "echo", "streamed").stdout
    assert "echo" in run("status").stdout
    assert json.loads(run("status", "--json").stdout)
    assert name.split("_")[1][:8] in run("history").stdout
    assert json.loads(run("history", "--json").stdout)["pagination"]["total"] >= 4
    hanging = run("execute", "echo", "@hang").stdout.strip()
    run("cancel", hanging)
    assert daemon.client.message(hanging)["status"] == "cancelled"
    made = run("key", "create", "cli-key", "--scope", "teams:read,teams:write")
    key = re.search(r"muster_sk_[A-Za-z0-9_-]+", made.stdout).group(0)
    assert run("ask", "echo", "with new key", env={"MUSTER_API_KEY": key}).stdout == "with new key\n"
    assert "cli-key" in run("key", "list").stdout
    run("key", "revoke", "cli-key")
    run("ask", "echo", "x", env={"MUSTER_API_KEY": key}, code=4)
    assert re.search(r"\d+\.\d+\.\d+", run("version").stdout)
    for what in ("messages", "events", "records", "routes", "bodies", "options", "errors", "scopes"):
        assert len(run("describe", what).stdout.splitlines()) > 5
    run("check-config", str(daemon.config_file))


def test_exit_codes(daemon):
    hanging = daemon.client.submit("echo", "@hang")
    cases = [
        (("ask", "echo", "@fail=MODEL_REFUSED x"), {}, 1),
        (("ask", "echo"), {}, 2),
        (("no-such-command",), {}, 2),
        (("ask", "echo", "x", "--no-such-option"), {}, 2),
        (("ask", "echo", "x"), {"MUSTER_URL": "http://127.0.0.1:1"}, 3),
        (("ask", "echo", "x"), {"MUSTER_API_KEY": "wrong"}, 4),
        (("ask", "nobody", "x"), {}, 5),
        (("job", "job_00000000-0000-7000-8000-000000000000"), {}, 5),
        (("ask", "echo", "@hang", "--timeout", "50ms"), {}, 6),
        (("version",), {}, 0),
        (("help",), {}, 0),
    ]
    for arguments, env, code in cases:
        done = daemon.cli(*arguments, env=env)
        assert done.returncode == code, (arguments, code, done)
        assert code == 0 or (done.stderr and "\n" in done.stderr), arguments
    for message in daemon.client.history(limit=50)["messages"]:
        if message["status"] not in FINAL:
            daemon.client.cancel(message["messageId"])
    assert daemon.cli("job", hanging, "--follow").returncode == 8


def test_exit_code_of_a_limit(daemons):
    daemon = daemons(with_keys(key_of("few", ["teams:write"], rate_limit={"requests": 1, "window": "1h"})))
    env = {"MUSTER_API_KEY": clients(daemon)["few"].key}
    assert daemon.cli("ask", "echo", "one", env=env).returncode == 0
    assert daemon.cli("ask", "echo", "two", env=env).returncode == 7


def test_the_client_finds_server_and_key_in_the_data_folder(daemon):
    done = daemon.cli(
        "ask", "--data", str(daemon.data), "echo", "found", env={"MUSTER_URL": None, "MUSTER_API_KEY": None}
    )
    assert (done.returncode, done.stdout) == (0, "found\n"), done


def test_streams_on_the_command_line_come_as_they_are_said(daemon):
    process = subprocess.Popen(
        [str(daemon.command()[0]), "stream", "echo", "@chunks=2 @hang ab"],
        stdout=subprocess.PIPE,
        env={**daemon.environment(), "MUSTER_URL": daemon.url, "MUSTER_API_KEY": daemon.key},
    )
    try:
        assert process.stdout.read(2) == b"ab"
        running = wait_until(lambda: daemon.client.history(status="processing")["messages"], "it is processing")[0][
            "messageId"
        ]
        daemon.client.cancel(running)
        assert process.wait(scaled(10)) == 8
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def on_terminal(daemon, *arguments, key=None, typed=None, url=None):
    """A client command of the program on a terminal: exit code and text."""
    env = {**daemon.environment(), "MUSTER_URL": url or daemon.url, "MUSTER_API_KEY": key or daemon.key}
    terminal = Terminal([daemon.command()[0], *arguments], env=env, cwd=daemon.folder, typed=typed)
    return terminal.wait(), terminal.text


def test_a_key_that_may_not_stream_asks_and_waits_all_the_same(daemons):
    daemon = daemons(with_keys(key_of("plain", ["teams:read", "messages:write"])))
    key = clients(daemon)["plain"].key
    code, text = on_terminal(daemon, "ask", "echo", "no stream", key=key)
    assert code == 0 and "no stream" in text and "scope" not in text
    assert clients(daemon)["root"].history()["pagination"]["total"] == 1
    env = {"MUSTER_API_KEY": key}
    done = daemon.cli("execute", "echo", "worked", "--wait", env=env)
    assert (done.returncode, done.stdout) == (0, "worked\n"), done
    done = daemon.cli("execute", "echo", "@fail=MODEL_REFUSED x", "--wait", env=env)
    assert done.returncode == 1 and "MODEL_REFUSED" in done.stderr
    done = daemon.cli("stream", "echo", "x", env=env)
    assert done.returncode == 4 and "use a key with the scopes teams:read, messages:stream" in done.stderr


ONE_AT_A_TIME = {"teams": {"echo": {"driver": "echo", "concurrency": 1}}}


def test_the_status_line_waits_until_the_agent_speaks(daemons):
    daemon = daemons(ONE_AT_A_TIME)
    blocker = daemon.client.submit("echo", "@hang")
    daemon.client.wait_state(blocker, "processing")
    terminal = Terminal(
        [daemon.command()[0], "stream", "echo", "@chunks=2 @hang ab"],
        env={**daemon.environment(), "MUSTER_URL": daemon.url, "MUSTER_API_KEY": daemon.key},
    )
    assert "at work" not in terminal.until("waiting")
    daemon.client.cancel(blocker)
    terminal.until("ab")
    for message in daemon.client.history()["messages"]:
        if message["status"] not in FINAL:
            daemon.client.cancel(message["messageId"])
    assert terminal.wait() == 8


def test_one_end_of_input_ends_a_typed_text(daemon):
    code, text = on_terminal(daemon, "ask", "echo", "-", typed=b"typed\n\x04")
    assert code == 0 and text.count("typed") == 2, text


def test_text_is_sent_as_it_is_or_refused(daemon):
    for words, stdin, problem in (
        (["-"], b"one\0two", "NUL"),
        (["-"], b"caf\xe9", "UTF-8"),
        ([b"caf\xe9"], b"", "UTF-8"),
        (["x", "--context", b'"\xff"'], b"", "UTF-8"),
    ):
        env = {**daemon.environment(), "MUSTER_URL": daemon.url, "MUSTER_API_KEY": daemon.key}
        done = subprocess.run([daemon.command()[0], "ask", "echo", *words], env=env, input=stdin, capture_output=True)
        assert done.returncode == 2 and problem in done.stderr.decode() and not done.stdout, done
    done = daemon.cli("ask", "", "x")
    assert done.returncode == 2 and "the team's name is empty" in done.stderr
    assert daemon.cli("ask", "echo", "-", stdin="\u00e9\ufffd\n").stdout == "\u00e9\ufffd\n"
    assert daemon.client.history()["pagination"]["total"] == 1


def test_a_span_on_the_command_line_needs_its_unit(daemon):
    for arguments in (
        ("ask", "echo", "x", "--timeout", "5"),
        ("execute", "echo", "x", "--timeout", "5"),
        ("history", "--since", "5"),
        ("key", "create", "x", "--expires", "5"),
        ("key", "create", "x", "--rate", "5/5"),
    ):
        done = daemon.cli(*arguments)
        assert done.returncode == 2 and "write a unit" in done.stderr, done
    assert "30m" in daemon.cli("help", "ask").stdout
    assert daemon.cli("history", "--since", "1700000000000").returncode == 0


def test_hints_fit_what_went_wrong(daemons):
    daemon = daemons(with_keys(key_of("few", ["teams:write"], rate_limit={"requests": 1, "window": "1h"})))
    root = {"MUSTER_API_KEY": clients(daemon)["root"].key}
    done = daemon.cli("ask", "nobody", "x", env=root)
    assert done.stderr == "muster: Team 'nobody' does not exist; known teams: echo (TEAM_NOT_FOUND)\n"
    done = daemon.cli("key", "create", "few", env=root)
    assert done.returncode == 1 and "muster key list" in done.stderr and "muster job" not in done.stderr
    env = {"MUSTER_API_KEY": clients(daemon)["few"].key}
    done = daemon.cli("key", "list", env=env)
    assert done.returncode == 4 and "use a key with the scopes admin:*" in done.stderr
    daemon.cli("status", env=env)
    assert re.search(r"try again in (1h 00m|59m \d\ds)", daemon.cli("status", env=env).stderr)
    listed = daemon.cli("key", "list", env=root).stdout
    assert re.search(r"^few .* 1 in 1h 00m *$", listed, re.M) and re.search(r"^root .* unlimited *$", listed, re.M)
    done = daemon.cli("ask", "echo", "@hang", "--timeout", "50ms", env=root)
    name = re.search(r"no answer yet; it goes on: muster job (\S+)$", done.stderr.strip()).group(1)
    assert daemon.cli("cancel", name, env=root).returncode == 0
    assert f"see muster job {name}" in daemon.cli("cancel", name, env=root).stderr


def test_options_of_a_job_reach_the_server(daemons):
    daemon = daemons(ONE_AT_A_TIME)
    blocker = daemon.client.submit("echo", "@hang")
    daemon.client.wait_state(blocker, "processing")
    late = daemon.cli("execute", "echo", "late", "--priority", "low").stdout.strip()
    soon = daemon.cli("execute", "echo", "@fail=PROCESS_ERROR:9 x", "--attempts", "2", "--timeout", "7s").stdout.strip()
    assert daemon.client.message(late)["status"] == "queued"
    daemon.client.cancel(blocker)
    assert daemon.client.wait_final(soon)["attempts"] == 2
    assert daemon.client.wait_final(late)["response"] == "late"
    for command in ("ask", "stream"):
        assert daemon.cli(command, "echo", "x", "--priority", "high").returncode == 0
        done = daemon.cli(command, "echo", "x", "--priority", "huge")
        assert done.returncode == 2 and "priority" in done.stderr
    done = daemon.cli("execute", "echo", "@hang", "--timeout", "30ms", "--attempts", "1", "--wait")
    assert done.returncode == 1 and "TIMEOUT" in done.stderr
    assert daemon.cli("execute", "echo", "x", "--attempts", "none").returncode == 2


def test_describe_shows_what_is_named(daemon):
    def lines(*arguments):
        return daemon.cli("describe", *arguments).stdout.splitlines()

    assert lines("options", "http.listen")[0] == "http.listen: a list of 1 to 16 texts; default: [127.0.0.1:3100]"
    assert lines("scopes", "teams:read")[0] == "teams:read" and len(lines("scopes", "teams:read")) == 3
    assert not any(line.startswith("    name:") for line in lines("options", "teams"))
    execute = lines("bodies", "iris.execute")
    assert execute[0] == "iris.execute" and "iris.callback" in execute and "iris.ask" not in execute
    assert not any(line.split()[:1] in (["EXISTS"], ["GONE"], ["AGAIN"]) for line in lines("errors"))
    assert daemon.cli("describe", "bodies", "nothing").returncode == 5


def test_an_ask_in_a_pipe_waits_half_an_hour_or_as_long_as_the_server_allows(daemons):
    daemon = daemons({"http": {"ask_timeout": "50ms"}})
    assert daemon.cli("ask", "echo", "@delay=200ms patient").stdout == "patient\n"
    daemon = daemons({"http": {"ask_timeout": "10s", "max_ask_timeout": "10s"}})
    assert daemon.cli("ask", "echo", "allowed").stdout == "allowed\n"
    done = daemon.cli("ask", "echo", "x", "--timeout", "20s")
    assert done.returncode == 2 and "timeout" in done.stderr


class Denying(http.server.BaseHTTPRequestHandler):
    """A server whose agent is refused two tools."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number, (kind, data) in enumerate(
            (
                ("start", {"messageId": "msg_1", "team": "t"}),
                ("permission_denied", {"tool": "Bash", "input": {"command": "rm x"}}),
                ("permission_denied", {"tool": "Read", "rule": "Read(*.env)", "input": {"text": "\u00e9" * 1000}}),
                ("chunk", {"text": "sorry"}),
                ("complete", {"messageId": "msg_1", "duration": 1, "timestamp": 1}),
            )
        ):
            self.wfile.write(f"id: e-{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())

    def log_message(self, *arguments):
        pass


def test_a_denied_tool_is_told(daemon):
    server = http.server.HTTPServer(("127.0.0.1", 0), Denying)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        done = daemon.cli("job", "msg_1", "--follow", env={"MUSTER_URL": url})
        code, text = on_terminal(daemon, "job", "msg_1", "--follow", url=url)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (done.returncode, done.stdout) == (0, "sorry\n")
    first, second = done.stderr.splitlines()
    assert first == 'denied: Bash {"command":"rm x"} (no rule allows it)'
    assert second.startswith('denied: Read {"text":"\u00e9') and second.endswith("\u00e9... (by the rule Read(*.env))")
    assert code == 0 and first in text and "sorry" in text
