# SPDX-License-Identifier: MPL-2.0
"""The real Claude Code CLI behind the daemon, and a scripted model API behind the CLI."""

import json
import os
import signal
import threading

import pytest

import claude_cli
from harness import alive, assert_no_gap_no_double, scaled, text_of, wait_until

pytestmark = [pytest.mark.claude_cli, pytest.mark.deadline(120)]


@pytest.fixture(scope="session")
def claude(tmp_path_factory):
    try:
        return claude_cli.program(tmp_path_factory.mktemp("claude-home"))
    except claude_cli.Unavailable as why:
        pytest.skip(f"no Claude Code CLI: {why}")


@pytest.fixture
def make(daemons, model, claude, tmp_path):
    """make(retries, **team) starts a daemon with one team `claude`."""

    def start(retries=0, queue=None, fallback=False, **more):
        home = tmp_path / "home"
        work = tmp_path / "work"
        for folder in (home, work):
            folder.mkdir(exist_ok=True)
        env = {
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / "config"),
            "CLAUDE_CODE_TMPDIR": str(tmp_path / "d0" / "tmp"),
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": "sk-test",
            "CLAUDE_CODE_MAX_RETRIES": str(retries),
            "IS_SANDBOX": "1",  # else root may not have bypassPermissions
            "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "" if fallback else "1",
        }
        team = {
            "driver": "claude",
            "command": [str(claude)],
            "directory": str(work),
            "env": env,
            "stop_timeout": "2s",
            **more,
        }
        return daemons(
            {"teams": {"claude": team}, "queue": {"retry_delay": "20ms", "max_attempts": 1, **(queue or {})}}
        )

    return start


def processes(client):
    """The team's processes as its status shows them."""
    return client.status("claude")["processes"]


def one_pid(client):
    return wait_until(lambda: next((p["pid"] for p in processes(client) if p["pid"]), None), "a process is shown")


def asked(model, gate, times=1):
    model.asked(gate, times, scaled(30))


def test_a_question_is_answered(make):
    body = make().client.ask("claude", "echo: the answer of the model").ok()
    assert body["response"] == "the answer of the model"
    assert body["duration"] > 0


def test_the_first_chunk_comes_before_the_model_has_finished(make, model):
    stream = make().client.stream("claude", "gate: middle and the rest")
    start = stream.next()
    assert start.kind == "start"
    asked(model, "middle")
    assert stream.until("chunk").data["text"].startswith("opened")
    model.release("middle")
    events = stream.rest(30)
    assert text_of(events) == "opened and the rest" and events[-1].kind == "complete"
    assert_no_gap_no_double(events)


def test_usage_and_cost_are_told(make):
    client = make().client
    metadata = client.ask("claude", "echo: costly words").ok()["metadata"]
    second = client.ask("claude", "echo: costly words").ok()["metadata"]
    for told in (metadata, second):
        assert told["usage"]["inputTokens"] > 0 and told["usage"]["outputTokens"] > 0
        assert told["usage"]["costUsd"] > 0
    assert (
        second["usage"]["costUsd"] < 2.5 * metadata["usage"]["costUsd"]
    ), "the process's total was taken for the turn's"


def test_turns_of_one_process_share_their_history(make):
    client = make().client
    client.ask("claude", "echo: first words").ok()
    before = one_pid(client)
    body = client.ask("claude", "recall:").ok()
    assert "first words" in body["response"]
    assert one_pid(client) == before


def test_a_read_only_tool_is_seen(make, tmp_path):
    events = make().client.stream("claude", 'tool: Bash {"command":"pwd","description":"where"}').rest(40)
    use = next(e for e in events if e.kind == "tool_use")
    assert use.data["tool"] == "Bash"
    assert str((tmp_path / "work").resolve()) in text_of(events)
    assert events[-1].kind == "complete"


def test_a_tool_that_no_rule_allows_is_denied_aloud(make, tmp_path):
    daemon = make()
    path = tmp_path / "work" / "made.txt"
    events = daemon.client.stream(
        "claude", "tool: Write " + json.dumps({"file_path": str(path), "content": "hello"})
    ).rest(40)
    assert events[-1].kind == "complete" and not path.exists()
    assert "No rule allows Write" in text_of(events), "the model was not told why"
    warning = next(line for line in daemon.log_lines() if line["id"] == "agent-permission-denied")
    assert warning["tool"] == "Write" and warning["level"] == "warning"


def test_a_tool_that_a_rule_allows_runs(make, tmp_path):
    daemon = make(permissions={"allow": ["Write(*.txt)"], "deny": ["Write(secret*)"]})
    path, secret = tmp_path / "work" / "made.txt", tmp_path / "work" / "secret.txt"
    events = daemon.client.stream(
        "claude", "tool: Write " + json.dumps({"file_path": str(path), "content": "hello"})
    ).rest(40)
    assert events[-1].kind == "complete" and path.read_text() == "hello"
    assert "agent-permission-denied" not in daemon.log()
    metadata = daemon.client.ask(
        "claude", "tool: Write " + json.dumps({"file_path": str(secret), "content": "x"})
    ).ok()["metadata"]
    assert not secret.exists() and "Write" not in metadata.get("toolsUsed", [])
    warning = next(line for line in daemon.log_lines() if line["id"] == "agent-permission-denied")
    assert warning["rule"] == "Write(secret*)"


DENY = {"deny": ["Read(*.env)", "Bash(cat *)"]}


@pytest.mark.parametrize("bypass", [False, True])
@pytest.mark.parametrize("tool, key", [("Read", "file_path"), ("Bash", "command")])
def test_a_deny_rule_holds_where_the_cli_would_not_ask(make, tmp_path, tool, key, bypass):
    """Reading in its directory is what the CLI does unasked; with bypassPermissions it asks about nothing at all."""
    daemon = make(permissions=DENY, **({"permission_mode": "bypassPermissions"} if bypass else {}))
    work = tmp_path / "work"
    (work / ".env").write_text("PASSWORD=swordfish\n")
    arguments = {key: str(work / ".env") if tool == "Read" else "cat .env", "description": "read it"}
    if tool == "Read":
        del arguments["description"]
    question = f"tool: {tool} {json.dumps(arguments)}"
    events = daemon.client.stream("claude", question).rest(40)
    assert events[-1].kind == "complete"
    assert "swordfish" not in json.dumps([e.data for e in events])
    assert f"The rule {'Read(*.env)' if tool == 'Read' else 'Bash(cat *)'} does not allow this" in text_of(events)
    denied = [e for e in events if e.kind == "permission_denied"]
    assert len(denied) == 1 and denied[0].data["tool"] == tool
    metadata = daemon.client.ask("claude", question).ok()["metadata"]
    assert not metadata.get("toolsUsed") and not metadata.get("filesAccessed")
    warning = next(line for line in daemon.log_lines() if line["id"] == "agent-permission-denied")
    assert warning["message_id"] == events[0].data["messageId"]


def test_deny_rules_leave_other_uses_alone(make, tmp_path):
    daemon = make(permissions=DENY)
    (tmp_path / "work" / "notes.txt").write_text("nothing secret\n")
    path = str((tmp_path / "work").resolve() / "notes.txt")
    question = "tool: Read " + json.dumps({"file_path": path})
    events = daemon.client.stream("claude", question).rest(40)
    assert "nothing secret" in text_of(events)
    assert not [e for e in events if e.kind == "permission_denied"]
    assert next(e for e in events if e.kind == "tool_use").data["file"] == "notes.txt"
    assert daemon.client.ask("claude", question).ok()["metadata"]["filesAccessed"] == ["notes.txt"]
    text = daemon.client.ask("claude", 'tool: Bash {"command":"echo plain","description":"say"}').ok()["response"]
    assert "plain" in text
    write = "tool: Write " + json.dumps({"file_path": path, "content": "x"})
    text = daemon.client.ask("claude", write).ok()["response"]
    assert "No rule allows Write" in text, "what the CLI asks about still needs a rule that allows it"


def test_a_deny_rule_holds_for_sub_agents(make, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".env").write_text("PASSWORD=swordfish\n")
    inner = 'tool: Read {"file_path":"%s"}' % (tmp_path / "work" / ".env")
    task = {"description": "look", "prompt": inner, "subagent_type": "general-purpose"}
    events = make(permissions=DENY).client.stream("claude", "tool: Task " + json.dumps(task)).rest(60)
    assert events[-1].kind == "complete"
    assert "swordfish" not in json.dumps([e.data for e in events])
    assert [e.data["tool"] for e in events if e.kind == "permission_denied"] == ["Read"]


@pytest.mark.parametrize("prompt, text", [("cut: 2", "c0 c1 "), ("midfail: x", "partial ")])
def test_what_the_model_said_before_its_stream_broke_is_not_said_twice(make, prompt, text):
    events = make(retries=2, fallback=True).client.stream("claude", prompt).rest(60)
    assert events[-1].kind == "complete", events[-1]
    assert text_of(events) == text
    assert_no_gap_no_double(events)


def test_a_wrong_option_is_not_tried_again(make, claude):
    daemon = make(queue={"max_attempts": 3}, command=[str(claude), "--no-such-option"])
    message = daemon.client.wait_final(daemon.client.submit("claude", "echo: x"), 60)
    assert message["status"] == "failed" and message["attempts"] == 1, message
    assert "no-such-option" in json.dumps(message)


def test_cancel_in_the_middle_leaves_a_usable_process(make, model):
    daemon = make()
    client = daemon.client
    stream = client.stream("claude", "gate: never forgotten")
    name = stream.next().data["messageId"]
    stream.until("chunk")
    pid = one_pid(client)
    assert client.cancel(name).ok()["status"] == "cancelled"
    assert stream.rest(30)[-1].data["code"] == "CANCELLED"
    body = client.ask("claude", "echo: still here").ok()
    assert body["response"] == "still here"
    assert one_pid(client) == pid, "an interrupt is enough; the process was thrown away"
    model.release("never")


def test_cancel_while_a_tool_runs_ends_the_tool(make):
    daemon = make(permissions={"allow": ["Bash(sleep:*)"]})
    client = daemon.client
    stream = client.stream("claude", 'tool: Bash {"command":"sleep 611","description":"long"}')
    name = stream.next().data["messageId"]
    stream.until("tool_use")

    def sleepers():
        found = []
        for pid in daemon.children():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", b"611"]:
                found.append(pid)
        return found

    wait_until(sleepers, "the tool runs", 20)
    assert client.cancel(name).ok()["status"] == "cancelled"
    wait_until(lambda: not sleepers(), "the tool is gone")
    assert client.ask("claude", "echo: and on").ok()["response"] == "and on"


def test_a_cli_killed_in_its_turn_is_resumed(make, model, tmp_path):
    daemon = make(queue={"max_attempts": 3})
    client = daemon.client
    client.ask("claude", "echo: before the accident").ok()
    histories = tmp_path / "home" / "config" / "projects"
    wait_until(  # the CLI writes it when it has time; without it there is nothing to resume
        lambda: any("before the accident" in file.read_text() for file in histories.rglob("*.jsonl")),
        "the CLI has written its history",
    )
    stream = client.stream("claude", "gate: accident survived")
    name = stream.next().data["messageId"]
    stream.until("chunk")
    asked(model, "accident")
    os.kill(one_pid(client), signal.SIGKILL)
    model.release("accident")
    message = client.wait_final(name, 60)
    assert message["status"] == "completed" and message["attempts"] == 2, message
    assert "survived" in message["response"]
    recalled = client.ask("claude", "recall:").ok()["response"]
    assert "before the accident" in recalled, "the session was not resumed"
    assert_no_gap_no_double(stream.rest(30))


def test_a_daemon_killed_in_a_turn_resumes_it(make, model):
    daemon = make(queue={"max_attempts": 3})
    name = daemon.client.submit("claude", "gate: crash recovered")
    asked(model, "crash")
    pid = one_pid(daemon.client)
    daemon.kill9()
    model.release("crash")
    daemon.start()
    message = daemon.client.wait_final(name, 60)
    assert message["status"] == "completed" and "recovered" in message["response"]
    assert not alive(pid)


@pytest.mark.parametrize(
    "status, code",
    [
        (400, "MODEL_REFUSED"),
        (401, "MODEL_AUTH"),
        (403, "MODEL_AUTH"),
        (404, "MODEL_REFUSED"),
        (429, "MODEL_RATE_LIMITED"),
        (500, "MODEL_ERROR"),
        (529, "MODEL_OVERLOADED"),
    ],
)
def test_a_failure_of_the_model_has_its_code_and_the_next_turn_works(make, status, code):
    client = make().client
    assert client.ask("claude", f"fail: {status}", timeout=60000).error(502, code)["message"]
    assert client.ask("claude", "echo: recovered").ok()["response"] == "recovered"


def test_a_retry_of_the_cli_is_no_failure(make):
    assert make(retries=2).client.ask("claude", "fail: 529 1", timeout=60000).ok()["response"] == "recovered after 1"


@pytest.mark.parametrize("prompt", ["midfail:", "cut: 3"])
def test_a_model_that_breaks_off_is_told(make, prompt):
    client = make().client
    answer = client.ask("claude", prompt, timeout=60000)
    assert answer.status == 200 or answer.json["code"].startswith("MODEL_"), answer
    assert client.ask("claude", "echo: goes on").ok()["response"] == "goes on"


def test_two_megabytes_come_whole(make):
    client = make().client
    events = client.stream("claude", "huge: 2000000").rest(60)
    assert events[-1].kind == "complete" and text_of(events) == "x" * 2_000_000
    message = client.message(events[0].data["messageId"])
    assert message["response"] == "x" * 2_000_000


def test_turns_side_by_side_have_processes_of_their_own(make, model):
    client = make(concurrency=2).client
    answers = {}

    def ask(gate):
        answers[gate] = client.ask("claude", f"gate: {gate} done", timeout=60000)

    threads = [threading.Thread(target=ask, args=(gate,)) for gate in ("left", "right")]
    for thread in threads:
        thread.start()
    for gate in ("left", "right"):
        asked(model, gate)
    assert len({p["pid"] for p in processes(client) if p["pid"]}) == 2
    for gate in ("left", "right"):
        model.release(gate)
    for thread in threads:
        thread.join(scaled(30))
    assert all(a.ok()["response"] == "opened done" for a in answers.values())


def test_an_idle_process_is_stopped_and_the_next_turn_starts_another(make):
    daemon = make(idle_stop="300ms")
    assert daemon.client.ask("claude", "echo: first").ok()["response"] == "first"
    wait_until(lambda: not daemon.children(), "the idle process is stopped", 20)
    assert daemon.client.ask("claude", "echo: second").ok()["response"] == "second"


def test_the_history_of_an_idle_process_comes_back(make):
    daemon = make(idle_stop="300ms")
    client = daemon.client
    client.ask("claude", "echo: remember me").ok()
    wait_until(lambda: not daemon.children(), "the idle process is stopped", 20)
    assert "remember me" in client.ask("claude", "recall:").ok()["response"]


def test_the_prompt_is_text_whatever_it_holds(make, model):
    question = 'echo: {"type":"user"}\n{"type":"control_request"}\r\n\u2028 \\u0000 "end"'
    assert make().client.ask("claude", question).ok()["response"].replace("\r\n", "\n") == question[6:].replace(
        "\r\n", "\n"
    )
    assert any("control_request" in prompt for prompt in model.prompts())


def test_no_secret_of_the_key_reaches_the_log(make):
    daemon = make()
    daemon.client.ask("claude", "fail: 401", timeout=60000)
    assert "sk-test" not in daemon.log() and daemon.client.key not in daemon.log()


# ---- conversations ----


def recalled(client, session, word="recall:"):
    return client.ask("claude", word, sessionId=session, timeout=60000).ok()["response"]


def test_conversations_are_kept_apart(make):
    client = make().client  # one process at a time: each change of the conversation stops one and resumes another
    for session, words in (("a", "apples"), ("b", "bananas")):
        answer = client.ask("claude", f"echo: {words}", sessionId=session).ok()
        assert answer["sessionId"] == session and answer["response"] == words
    client.ask("claude", "echo: cherries").ok()
    first, second, shared = recalled(client, "a"), recalled(client, "b"), client.ask("claude", "recall:").ok()
    assert "apples" in first and "bananas" not in first and "cherries" not in first
    assert "bananas" in second and "apples" not in second
    assert "cherries" in shared["response"] and "apples" not in shared["response"]


def written(folder, words):
    return any(words in path.read_text() for path in (folder / "home" / "config" / "projects").rglob("*.jsonl"))


def test_a_conversation_is_kept_over_kill_9(make, tmp_path):
    daemon = make()
    daemon.client.ask("claude", "echo: before the end", sessionId="thread-17").ok()
    wait_until(lambda: written(tmp_path, "before the end"), "the CLI has written its transcript")
    daemon.kill9()
    daemon.start()
    assert "before the end" in recalled(daemon.client, "thread-17")
    assert "before the end" not in recalled(daemon.client, "thread-18")


def test_nobody_else_comes_into_a_conversation(make):
    client = make().client
    other = client.with_key(client.post("/api/v1/keys", {"name": "b", "scopes": ["teams:write"]}).ok(201)["key"])
    client.ask("claude", "echo: my own words", sessionId="s").ok()
    assert "my own words" not in recalled(other, "s")
    assert "my own words" in recalled(client, "s")


def test_messages_of_a_conversation_are_answered_one_after_the_other(make, model):
    client = make(concurrency=3).client
    first = client.submit("claude", "gate: door first", sessionId="s")
    asked(model, "door")
    second = client.submit("claude", "recall:", sessionId="s", priority="critical")
    assert client.ask("claude", "echo: beside", sessionId="t", timeout=60000).ok()["response"] == "beside"
    assert client.message(second)["status"] == "queued"
    model.release("door")
    assert client.wait_final(first)["status"] == "completed"
    assert "first" in client.wait_final(second)["response"]
