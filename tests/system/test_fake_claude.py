# SPDX-License-Identifier: MPL-2.0
"""The claude driver on bad days: tests/fake_claude.py does on request what the real CLI does unasked."""

import json
import os
import re
import signal

import pytest

from harness import PYTHON, ROOT, alive, assert_no_gap_no_double, text_of, wait_until

FAKE = ROOT / "tests" / "fake_claude.py"
TRANSCRIPTS = ROOT / "tests" / "transcripts"


@pytest.fixture
def make(daemons, tmp_path):
    """make(attempts, env={...}, **team) starts a daemon with one team `claude` behind which the stand-in is."""

    def start(attempts=1, env=None, **more):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        team = {
            "driver": "claude",
            "command": [PYTHON, "-IS", str(FAKE)],
            "stop_timeout": "200ms",
            "env": {"HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / "config"), **(env or {})},
            **more,
        }
        return daemons({"teams": {"claude": team}, "queue": {"retry_delay": "10ms", "max_attempts": attempts}})

    return start


def processes(client):
    return client.status("claude")["processes"]


def one_pid(client):
    return wait_until(lambda: next((p["pid"] for p in processes(client) if p["pid"]), None), "a process is shown")


def ask(client, question, **more):
    return client.ask("claude", question, **more).ok()["response"]


def gone(daemon):
    wait_until(lambda: not daemon.children(), "no process is left")


def test_an_answer_comes_in_pieces_and_once(make):
    client = make().client
    events = client.stream("claude", "echo: what was streamed is not said twice").rest()
    assert text_of(events) == "what was streamed is not said twice"
    assert [e.kind for e in events].count("complete") == 1
    assert_no_gap_no_double(events)


def test_the_command_line_is_what_the_cli_wants(make):
    said = ask(make(model="sonnet", permission_mode="plan").client, "argv:")
    for words in (
        "-p",
        "--input-format stream-json",
        "--output-format stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool stdio",
        "--model sonnet",
        "--permission-mode plan",
    ):
        assert words in said, said
    assert "--resume" not in said


def test_marks_of_another_claude_do_not_reach_it(daemons, tmp_path):
    team = {"driver": "claude", "command": [PYTHON, "-IS", str(FAKE)], "env": {"HOME": str(tmp_path), "MINE": "yes"}}
    client = daemons(
        {"teams": {"claude": team}}, env={"CLAUDECODE": "1", "CLAUDE_CODE_ENTRYPOINT": "cli", "SECRET": "x"}
    ).client
    for name, value in (
        ("CLAUDECODE", "(unset)"),
        ("CLAUDE_CODE_ENTRYPOINT", "(unset)"),
        ("SECRET", "(unset)"),
        ("MINE", "yes"),
        ("DISABLE_AUTOUPDATER", "1"),
    ):
        assert ask(client, f"env: {name}") == value


def test_a_warm_process_serves_turn_after_turn(make):
    client = make().client
    assert ask(client, "echo: one") == "one"
    pid = one_pid(client)
    assert ask(client, "recall:") == "echo: one | recall:"
    assert one_pid(client) == pid
    assert next(p["turns"] for p in processes(client)) == 2


def test_a_crash_in_the_middle_is_resumed_with_its_history(make):
    client = make(attempts=3).client
    ask(client, "echo: before")
    events = client.stream("claude", "crash-once: 7 it fell over").rest()
    kinds = [e.kind for e in events]
    assert kinds.count("retry") == 1 and kinds[-1] == "complete"
    assert text_of(events).endswith("survived it fell over")
    retry = next(e for e in events if e.kind == "retry")
    assert retry.data["code"] == "PROCESS_ERROR" and "it fell over" in retry.data["message"]
    message = client.message(events[0].data["messageId"])
    assert message["attempts"] == 2 and message["response"] == "survived it fell over"
    assert ask(client, "recall:").startswith("echo: before |"), "the session was not resumed"
    assert_no_gap_no_double(events)


def test_a_crash_without_attempts_left_is_told_in_its_last_words(make):
    client = make().client
    body = client.ask("claude", "crash: 9 no more disk").error(500, "PROCESS_ERROR")
    assert "no more disk" in body["message"] and "9" in body["message"]
    assert ask(client, "echo: next") == "next"


def test_a_process_killed_from_outside_is_resumed(make):
    client = make(attempts=2).client
    stream = client.stream("claude", "slow: 1500 done")
    stream.until("chunk")
    os.kill(one_pid(client), signal.SIGKILL)
    events = stream.rest()
    assert [e.kind for e in events].count("retry") == 1 and events[-1].kind == "complete"
    assert client.message(events[0].data["messageId"])["response"] == "started done"


def test_a_silent_turn_is_hung_and_the_process_goes_on(make):
    daemon = make(silence_timeout="200ms")
    ask(daemon.client, "echo: warm")
    pid = one_pid(daemon.client)
    body = daemon.client.ask("claude", "silent:").error(500, "AGENT_HUNG")
    assert "200" in body["message"] or "silen" in body["message"].lower() or "nothing" in body["message"], body
    assert any(line["id"] == "agent-hang" for line in daemon.log_lines())
    assert ask(daemon.client, "echo: next") == "next"
    assert one_pid(daemon.client) == pid, "an interrupt was enough"


def test_a_deaf_process_goes_down_the_whole_ladder(make):
    daemon = make(silence_timeout="150ms", stop_timeout="100ms")
    ask(daemon.client, "echo: warm")
    pid = one_pid(daemon.client)
    daemon.client.ask("claude", "deaf:").error(500, "AGENT_HUNG")
    wait_until(lambda: not alive(pid), "it is killed in the end")
    assert any(line["id"] == "agent-deaf" for line in daemon.log_lines())
    assert ask(daemon.client, "echo: next") == "next"
    assert one_pid(daemon.client) != pid


def test_cancel_of_a_turn_that_listens_keeps_the_process(make):
    client = make().client
    stream = client.stream("claude", "silent:")
    name = stream.next().data["messageId"]
    client.wait_state(name, "processing")
    pid = one_pid(client)
    assert client.cancel(name).ok()["status"] == "cancelled"
    assert stream.rest()[-1].data["code"] == "CANCELLED"
    assert ask(client, "echo: next") == "next"
    assert one_pid(client) == pid


def test_cancel_of_a_deaf_turn_ends_the_process(make):
    daemon = make(stop_timeout="100ms")
    ask(daemon.client, "echo: warm")
    pid = one_pid(daemon.client)
    name = daemon.client.submit("claude", "deaf:")
    daemon.client.wait_state(name, "processing")
    assert daemon.client.cancel(name).ok()["status"] == "cancelled"
    wait_until(lambda: not alive(pid), "it is killed")
    assert ask(daemon.client, "echo: next") == "next"


def test_a_turn_beyond_its_limit_fails_with_timeout(make):
    client = make(turn_timeout="200ms", silence_timeout="30s").client
    answer = client.ask("claude", "silent:")
    assert answer.json["code"] == "TIMEOUT"
    message = client.wait_final(client.history()["messages"][0]["messageId"])
    assert message["status"] == "failed" and message["error"]["code"] == "TIMEOUT"
    assert ask(client, "echo: next") == "next"


def test_what_a_tool_leaves_behind_is_ended_with_its_process(make):
    daemon = make(idle_stop="150ms")
    orphan = int(ask(daemon.client, "orphan: 613").split()[1])
    wait_until(lambda: not alive(orphan), "the orphan is ended with the idle process")
    gone(daemon)


def test_what_a_tool_leaves_behind_is_ended_with_the_daemon(make):
    daemon = make()
    orphan = int(ask(daemon.client, "orphan: 614").split()[1])
    assert alive(orphan)
    daemon.stop()
    assert not alive(orphan)


def test_a_process_that_hangs_after_its_result_does_not_hold_up_the_stop(make):
    daemon = make(stop_timeout="100ms")
    assert ask(daemon.client, "hang-after-result: fine") == "fine"
    daemon.stop(15)


def test_no_rule_is_denied_and_said_aloud(make, tmp_path):
    daemon = make()
    path = tmp_path / "made"
    said = ask(daemon.client, "tool: Bash " + json.dumps({"command": f"touch {path}"}))
    assert "No rule allows Bash" in said and not path.exists()
    warning = next(line for line in daemon.log_lines() if line["id"] == "agent-permission-denied")
    assert warning["team"] == "claude" and warning["tool"] == "Bash" and warning["level"] == "warning"


@pytest.mark.parametrize(
    "allow, deny, tool, arguments, allowed",
    [
        (["Bash"], [], "Bash", {"command": "echo ran"}, True),
        (["Bash(echo*)"], [], "Bash", {"command": "echo ran"}, True),
        (["Bash(echo:*)"], [], "Bash", {"command": "echo ran"}, True),
        (["Bash(echo:*)"], [], "Bash", {"command": "echox ran"}, False),
        (["Bash(echo*)"], [], "Bash", {"command": "echo ran; id"}, False),
        (["Bash(echo*)"], [], "Bash", {"command": "echo $(id)"}, False),
        (["Bash(echo*)"], [], "Bash", {"command": "echo ran && id"}, False),
        (["Bash(echo*)"], [], "Bash", {"command": "echo ran\nid"}, False),
        (["Bash"], ["Bash(rm*)"], "Bash", {"command": "rm -rf x"}, False),
        (["Bash"], ["Bash(rm*)"], "Bash", {"command": "true; rm -rf x"}, False),
        (["*"], ["Write"], "Write", {"file_path": "a", "content": "b"}, False),
        (["Edit(src/*)"], [], "Edit", {"file_path": "src/a.c"}, True),
        (["Edit(src/*)"], [], "Edit", {"file_path": "src/../etc/passwd"}, False),
        (["Edit(src/*)"], [], "Write", {"file_path": "src/a.c"}, False),
        (["mcp__files"], [], "mcp__files__read", {"x": 1}, True),
        (["mcp__files"], [], "mcp__filesystem__read", {"x": 1}, False),
        (["WebFetch(domain:example.com)"], [], "WebFetch", {"url": "https://example.com/x"}, True),
        (["WebFetch(domain:example.com)"], [], "WebFetch", {"url": "https://example.com.evil.org/x"}, False),
        (["WebFetch(domain:example.com)"], [], "WebFetch", {"url": "https://evil.org/@example.com"}, False),
    ],
)
def test_rules_decide(make, allow, deny, tool, arguments, allowed):
    said = ask(make(permissions={"allow": allow, "deny": deny}).client, f"tool: {tool} {json.dumps(arguments)}")
    denied = "does not allow this" in said or "No rule allows" in said
    assert denied is not allowed, said


@pytest.mark.parametrize(
    "tool, arguments, rule",
    [
        ("Read", {"file_path": "conf/.env"}, "Read(*.env)"),
        ("Bash", {"command": "cat .env"}, "Bash(cat *)"),
        ("Bash", {"command": "echo ran"}, None),
        ("Read", {"file_path": "a.c"}, None),
    ],
)
def test_a_deny_rule_holds_where_the_cli_does_not_ask(make, tool, arguments, rule):
    daemon = make(permissions={"allow": ["Bash(echo *)"], "deny": ["Read(*.env)", "Bash(cat *)"]})
    question = f"tool: {tool} {json.dumps(arguments)}"
    events = daemon.client.stream("claude", question).rest()
    denied = [e.data for e in events if e.kind == "permission_denied"]
    assert events[-1].kind == "complete"
    assert len(denied) == (1 if rule else 0), events
    metadata = daemon.client.ask("claude", question).ok()["metadata"]
    if rule:
        assert f"The rule {rule} does not allow this" in text_of(events)
        assert not metadata.get("toolsUsed") and not metadata.get("filesAccessed")
        warning = next(line for line in daemon.log_lines() if line["id"] == "agent-permission-denied")
        assert warning["rule"] == rule and warning["message_id"] == events[0].data["messageId"]
        assert warning["request_id"]
    else:
        assert metadata["toolsUsed"] == [tool]


def test_what_was_streamed_before_a_break_is_not_said_twice(make):
    events = make().client.stream("claude", "broken: half of it came before the break").rest()
    assert text_of(events) == "half of it came before the break"
    assert_no_gap_no_double(events)


def test_files_are_told_from_the_teams_directory(make, tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    client = make(directory=str(link)).client
    question = f'tool: Read {{"file_path": "{real}/src/a.c"}}'
    events = client.stream("claude", question).rest()
    assert next(e for e in events if e.kind == "tool_use").data["file"] == "src/a.c"
    assert client.ask("claude", question).ok()["metadata"]["filesAccessed"] == ["src/a.c"]


def test_the_models_credentials_are_for_claude_only(daemons, tmp_path):
    credentials = {"ANTHROPIC_API_KEY": "sk-secret", "CLAUDE_CONFIG_DIR": str(tmp_path / "config")}
    teams = {
        "claude": {"driver": "claude", "command": [PYTHON, "-IS", str(FAKE)]},
        "tool": {"driver": "command", "command": ["env"]},
    }
    client = daemons({"teams": teams}, env=credentials).client
    assert ask(client, "env: ANTHROPIC_API_KEY") == "sk-secret"
    assert (tmp_path / "config" / "fake-sessions").is_dir()
    said = client.ask("tool", "show").ok()["response"]
    assert "PATH=" in said and "sk-secret" not in said and "CLAUDE_CONFIG_DIR" not in said


def test_a_line_that_is_no_json_is_kept_and_harmless(make):
    assert ask(make().client, "badline: after it") == "after it"


def test_a_huge_line_is_taken(make):
    client = make().client
    body = client.ask("claude", "huge: 20000000", timeout=60000).ok()
    assert len(body["response"]) == 20_000_000


def test_an_answer_beyond_the_limit_is_its_own_error(daemons, make):
    daemon = make()
    daemon.stop()
    daemon.configure({**daemon.config, "agents": {"max_answer": "1MiB"}})
    daemon.start()
    daemon.client.ask("claude", "huge: 3000000").error(500, "OUTPUT_TOO_LARGE")
    assert ask(daemon.client, "echo: next") == "next"


def test_a_line_beyond_the_limit_ends_the_turn(make):
    daemon = make()
    daemon.stop()
    daemon.configure({**daemon.config, "agents": {"max_line": "64KiB"}})
    daemon.start()
    daemon.client.ask("claude", "huge: 3000000").error(500, "OUTPUT_TOO_LARGE")
    assert ask(daemon.client, "echo: next") == "next"


@pytest.mark.parametrize(
    "status, code",
    [
        ("401", "MODEL_AUTH"),
        ("403", "MODEL_AUTH"),
        ("404", "MODEL_REFUSED"),
        ("429", "MODEL_RATE_LIMITED"),
        ("500", "MODEL_ERROR"),
        ("529", "MODEL_OVERLOADED"),
        ("null", "MODEL_ERROR"),
        ("400", "MODEL_REFUSED"),
    ],
)
def test_a_failure_of_the_model_has_its_code(make, status, code):
    client = make().client
    assert "fake failure" in client.ask("claude", f"error: {status}").error(502, code)["message"]
    assert ask(client, "echo: next") == "next"


def test_retries_of_the_model_are_no_retries_of_the_job(make):
    client = make().client
    body = client.ask("claude", "retry: 3 got through").ok()
    assert body["response"] == "got through"
    assert client.message(body["messageId"])["attempts"] == 1


def test_a_turn_that_nobody_asked_for_is_nobodys_answer(make):
    client = make().client
    assert ask(client, "unsolicited: mine") == "mine"
    for i in range(5):
        assert ask(client, f"echo: mine {i}") == f"mine {i}"


def test_a_session_that_changed_its_name_is_resumed_under_the_new_one(make):
    client = make(attempts=2).client
    ask(client, "echo: forgotten")
    ask(client, "clear:")
    assert ask(client, "crash-once: 1 x") == "survived x"
    assert "forgotten" not in ask(client, "recall:")


def test_a_process_that_is_never_ready_is_told(make):
    daemon = make(env={"FAKE_CLAUDE_NOT_READY": "1"}, start_timeout="200ms")
    body = daemon.client.ask("claude", "echo: x").error(500, "AGENT_HUNG")
    assert "200" in body["message"]
    gone(daemon)


def test_a_process_that_does_not_start_is_told_in_its_own_words(make):
    daemon = make(env={"FAKE_CLAUDE_START": "5"})
    body = daemon.client.ask("claude", "echo: x").error(500, "PROCESS_ERROR")
    assert "fake claude does not start" in body["message"]
    gone(daemon)


def test_a_wrong_command_line_is_not_tried_again(make):
    daemon = make(attempts=3, env={"FAKE_CLAUDE_START": "1"})
    message = daemon.client.wait_final(daemon.client.submit("claude", "echo: x"))
    assert message["status"] == "failed" and message["attempts"] == 1
    crashes = [line for line in daemon.log_lines() if line["id"] == "agent-crash"]
    assert len(crashes) == 1 and crashes[0]["message_id"] == message["messageId"]


def test_an_unknown_session_is_begun_afresh(make, tmp_path):
    """The session's file is lost between the attempts."""
    daemon = make(attempts=3)
    client = daemon.client
    stream = client.stream("claude", "slow: 1500 done")
    stream.until("chunk")
    for file in (tmp_path / "home" / "config" / "fake-sessions").glob("*.json"):
        file.unlink()
    os.kill(one_pid(client), signal.SIGKILL)
    events = stream.rest()
    assert events[-1].kind == "complete", events[-3:]
    assert client.message(events[0].data["messageId"])["response"] == "started done"


def test_as_many_processes_as_the_concurrency_and_no_more(make):
    client = make(concurrency=2).client
    names = [client.submit("claude", "silent:") for _ in range(4)]
    wait_until(lambda: client.status("claude")["running"] == 2, "two run")
    wait_until(lambda: sum(p["status"] == "busy" for p in processes(client)) == 2, "two processes are busy")
    assert len([p for p in processes(client) if p["pid"]]) == 2
    for name in names:
        client.cancel(name).ok()


def test_kill_9_of_the_daemon_in_a_turn_resumes_the_session(make):
    daemon = make(attempts=3)
    ask(daemon.client, "echo: long ago")
    stream = daemon.client.stream("claude", "slow: 1200 finished")
    name = stream.next().data["messageId"]
    stream.until("chunk")
    pid = one_pid(daemon.client)
    daemon.kill9()
    daemon.start()
    message = daemon.client.wait_final(name, 30)
    assert message["status"] == "completed" and message["response"] == "started finished"
    assert not alive(pid)


@pytest.mark.parametrize(
    "name", ["c-multiturn", "d-tools", "d2-subagent", "g-api-500-once", "g-api-429-always", "f6-resume-unknown"]
)
def test_recorded_lines_of_the_real_cli_have_their_recorded_end(make, name):
    """Each prompt gets the next recorded turn; what the daemon answers is what the recorded result says."""
    results = []
    for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["dir"] == "out" and record["v"].get("type") == "result":
            results.append(record["v"])
    client = make(env={"FAKE_CLAUDE_TRANSCRIPT": str(TRANSCRIPTS / f"{name}.jsonl")}).client
    assert results
    for number, result in enumerate(results):
        answer = client.ask("claude", f"prompt {number}")
        if result["is_error"]:
            assert answer.status >= 500, answer
            said = result.get("result") or "; ".join(result.get("errors", []))
            assert said[:100] in answer.json["message"]
        else:
            assert answer.ok()["response"] == result["result"]


def test_a_session_id_is_shown(make):
    client = make().client
    ask(client, "echo: x")
    assert re.fullmatch(r"[0-9a-f-]{36}", wait_until(lambda: processes(client)[0].get("sessionId"), "it is shown"))
