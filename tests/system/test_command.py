# SPDX-License-Identifier: MPL-2.0
"""The command driver: any program as an agent."""

import json
import os

import pytest

from harness import PYTHON, alive, assert_no_gap_no_double, text_of, wait_until


def team(*command, **more):
    return {"teams": {"tool": {"driver": "command", "command": list(command), **more}}}


def script(code):
    """A python agent that starts quickly."""
    return [PYTHON, "-IS", "-c", "import os, sys\n" + code]


def test_the_prompt_comes_on_standard_input(daemons):
    client = daemons(team("cat")).client
    question = 'line one\nline two, ünïcödé\n\ttab and "quotes" $HOME `x` \\n'
    assert client.ask("tool", question).ok()["response"].rstrip("\n") == question.rstrip("\n")


def test_the_prompt_takes_the_place_of_prompt_in_an_argument(daemons):
    """One argument stays one argument; no shell sees it."""
    client = daemons(
        team(*script("print(len(sys.argv), sys.argv[1]); print(repr(sys.stdin.read()))"), "--text={prompt}")
    ).client
    question = "two words; rm -rf $HOME 'x' \"y\""
    lines = client.ask("tool", question).ok()["response"].split("\n")
    assert lines[0] == f"2 --text={question}"
    assert lines[1] == "''"


def test_output_lines_are_chunks_as_they_come(daemons, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    client = daemons(team(*script(f"print('first', flush=True); open({str(gate)!r}).read(); print('second')"))).client
    stream = client.stream("tool", "go")
    start = stream.next()
    assert "first" in stream.until("chunk").data["text"]
    client.wait_state(start.data["messageId"], "processing")
    gate.write_text("on")
    events = stream.rest()
    assert text_of(events).split() == ["first", "second"] and events[-1].kind == "complete"
    assert_no_gap_no_double(events)


def test_a_failing_program_is_quoted_by_its_standard_error(daemons):
    client = daemons(merge_attempts(team(*script("sys.stderr.write('the disk is on fire\\n'); sys.exit(3)")))).client
    body = client.ask("tool", "go").error(500, "PROCESS_ERROR")
    assert "the disk is on fire" in json.dumps(body) and "3" in json.dumps(body)
    message = client.history(team="tool", status="failed")["messages"][0]
    assert "the disk is on fire" in json.dumps(client.message(message["messageId"]))


def merge_attempts(config, attempts=1):
    return {**config, "queue": {"max_attempts": attempts, "retry_delay": "1ms"}}


def test_a_program_killed_by_a_signal_says_so(daemons):
    client = daemons(merge_attempts(team(*script("os.kill(os.getpid(), 11)")))).client
    body = client.ask("tool", "go").error(500, "PROCESS_ERROR")
    assert "signal" in body["message"].lower() or "SIGSEGV" in body["message"]


def test_a_missing_program_is_a_process_error_that_names_it(daemons):
    client = daemons(merge_attempts(team("no-such-program-anywhere"))).client
    body = client.ask("tool", "go").error(500, "PROCESS_ERROR")
    assert "no-such-program-anywhere" in body["message"]


def test_a_program_that_fails_runs_once(daemons, tmp_path):
    """What it did before it failed must not be done again."""
    runs = tmp_path / "runs"
    code = f"open({str(runs)!r}, 'a').write('x'); sys.exit(4)"
    daemon = daemons(merge_attempts(team(*script(code)), attempts=3))
    message = daemon.client.wait_final(daemon.client.submit("tool", "go"))
    assert message["status"] == "failed" and message["attempts"] == 1
    assert runs.read_text() == "x"
    ended = next(line for line in daemon.log_lines() if line["id"] == "job-ended")
    assert ended["level"] == "warning" and ended["state"] == "failed" and ended["code"] == "PROCESS_ERROR"
    assert ended["team"] == "tool" and ended["message_id"] == message["messageId"] and ended["attempts"] == 1
    submitted = next(line for line in daemon.log_lines() if line.get("path", "").endswith("/execute"))
    assert ended["request_id"] == submitted["request_id"] and ended["from"]


def test_a_program_killed_by_a_signal_is_tried_again(daemons, tmp_path):
    runs = tmp_path / "runs"
    code = f"open({str(runs)!r}, 'a').write('x'); os.kill(os.getpid(), 9)"
    daemon = daemons(merge_attempts(team(*script(code)), attempts=3))
    message = daemon.client.wait_final(daemon.client.submit("tool", "go"))
    assert message["status"] == "failed" and message["attempts"] == 3
    assert runs.read_text() == "xxx"
    retries = [line for line in daemon.log_lines() if line["id"] == "job-retrying"]
    assert [line["message_id"] for line in retries] == [message["messageId"]] * 2
    assert all(line["code"] == "PROCESS_ERROR" and line["delay_ms"] >= 0 for line in retries)


def test_a_missing_program_is_not_looked_for_again(daemons):
    daemon = daemons(merge_attempts(team("no-such-program-anywhere"), attempts=3))
    message = daemon.client.wait_final(daemon.client.submit("tool", "go"))
    assert message["status"] == "failed" and message["attempts"] == 1


def test_a_missing_directory_is_named(daemons, tmp_path):
    daemon = daemons(merge_attempts(team("cat", directory=str(tmp_path / "nowhere"))), start=False)
    daemon.spawn()
    try:
        wait_until(lambda: daemon.ready_line() or daemon.process.poll() is not None, "it starts or refuses")
        if daemon.process.poll() is None:
            daemon.url = daemon.ready_line().split()[-1]
            body = daemon.client.ask("tool", "go").error(500, "PROCESS_ERROR")
            assert "nowhere" in body["message"]
        else:
            assert daemon.process.returncode == 2 and "nowhere" in daemon.log()
            daemon.process = None
    finally:
        if daemon.process and not daemon.ready_line():
            daemon.end_hard()


def test_it_runs_in_the_teams_directory(daemons, tmp_path):
    work = tmp_path / "d0" / "work"
    work.mkdir(parents=True)
    client = daemons(team("pwd", directory="work")).client
    assert client.ask("tool", "where").ok()["response"].strip() == str(work.resolve())


def test_only_allowed_variables_reach_it(daemons):
    secrets = {
        "MY_SECRET": "swordfish",
        "AWS_SECRET_ACCESS_KEY": "abc",
        "MUSTER_API_KEY": "key-in-env",
        "ANTHROPIC_API_KEY": "sk-of-claude",
        "CLAUDECODE": "1",
        "CLAUDE_CODE_ENTRYPOINT": "cli",
        "LANG": "C.UTF-8",
    }
    config = team("env", env={"TEAM_VALUE": "of the team", "LANG": "of-the-team"})
    daemon = daemons(config, env=secrets)
    lines = daemon.client.ask("tool", "show").ok()["response"].split("\n")
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert seen["TEAM_VALUE"] == "of the team" and seen["LANG"] == "of-the-team" and seen["PATH"]
    assert seen["MUSTER_CHILD"]
    for name in (
        "MY_SECRET",
        "AWS_SECRET_ACCESS_KEY",
        "MUSTER_API_KEY",
        "ANTHROPIC_API_KEY",
        "CLAUDECODE",
        "CLAUDE_CODE_ENTRYPOINT",
        "ASAN_OPTIONS",
    ):
        assert name not in seen, name
    assert daemon.client.key not in json.dumps(seen)


def test_it_inherits_no_descriptor(daemons):
    client = daemons(team(*script("print(sorted(os.listdir('/proc/self/fd')))"))).client
    seen = json.loads(client.ask("tool", "fds").ok()["response"].replace("'", '"'))
    assert set(seen) <= {"0", "1", "2", "3"}  # 3: listdir's own


def test_it_starts_with_ordinary_signals(daemons):
    """No signal may be blocked or ignored because the daemon does so."""
    code = "print([l.split()[1] for l in open('/proc/self/status') if l[:6] in ('SigBlk', 'SigIgn')])"
    client = daemons(team(*script("import signal\n" + code))).client
    blocked, ignored = json.loads(client.ask("tool", "signals").ok()["response"].replace("'", '"'))
    assert int(blocked, 16) == 0
    # python itself ignores SIGPIPE and SIGXFSZ; the C library keeps two signals of its own out of a new program's way
    assert int(ignored, 16) & ~(1 << 12 | 1 << 24 | 3 << 31) == 0


def test_a_turn_beyond_its_limit_is_ended(daemons):
    config = merge_attempts(team("sleep", "1000", turn_timeout="150ms", stop_timeout="100ms"))
    daemon = daemons(config)
    body = daemon.client.ask("tool", "never", timeout=20000)
    assert body.status in (408, 500) and body.json["code"] == "TIMEOUT"
    message = daemon.client.history(team="tool")["messages"][0]
    assert message["status"] == "failed", "the limit of the job is final, unlike the caller's patience"
    wait_until(lambda: not daemon.children(), "its process is gone")


def test_a_timeout_of_the_request_limits_an_executed_task(daemons):
    daemon = daemons(merge_attempts(team("sleep", "1000", stop_timeout="100ms")))
    message = daemon.client.wait_final(daemon.client.submit("tool", "never", timeout=150))
    assert message["status"] == "failed" and "TIMEOUT" in json.dumps(message)
    wait_until(lambda: not daemon.children(), "its process is gone")


def test_a_silent_program_is_ended_as_hung(daemons):
    daemon = daemons(merge_attempts(team("sleep", "1000", silence_timeout="150ms", stop_timeout="100ms")))
    message = daemon.client.wait_final(daemon.client.submit("tool", "never"))
    assert message["status"] == "failed" and "AGENT_HUNG" in json.dumps(message)
    wait_until(lambda: not daemon.children(), "its process is gone")


def test_a_program_that_ignores_signals_is_killed_with_all_its_kin(daemons, tmp_path):
    """It ignores what it can, and its child is in a session of its own."""
    pids = tmp_path / "pids"
    code = f"""
import signal
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: pass
open({str(pids)!r}, 'a').write(str(os.getpid()) + '\\n')
print('up', flush=True)
while True: signal.pause()
"""
    daemon = daemons(merge_attempts(team(*script(code), stop_timeout="100ms")))
    stream = daemon.client.stream("tool", "stay")
    name = stream.next().data["messageId"]
    stream.until("chunk")
    everyone = wait_until(
        lambda: (lambda t: t if len(t) == 3 else None)(pids.read_text().split()), "all three have begun"
    )
    assert daemon.client.cancel(name).ok()["status"] == "cancelled"
    wait_until(lambda: not any(alive(int(pid)) for pid in everyone), "all of them are gone")
    assert daemon.client.message(name)["status"] == "cancelled"


def test_a_program_that_leaves_a_child_on_its_pipe_ends_its_turn(daemons):
    """The pipe stays open after the program's exit; the answer must not wait for it."""
    daemon = daemons(team("sh", "-c", "sleep 1000 & echo done"))
    assert daemon.client.ask("tool", "go", timeout=15000).ok()["response"].strip() == "done"
    wait_until(lambda: not daemon.children(), "what it left is ended")


def test_an_answer_beyond_the_limit_is_its_own_error(daemons):
    config = merge_attempts(team(*script("print('x' * 300000)")))
    config["agents"] = {"max_answer": "100KiB"}
    message = daemons(config).client.ask("tool", "much")
    message.error(500, "OUTPUT_TOO_LARGE")


def test_a_large_prompt_to_a_program_that_does_not_read_is_no_trouble(daemons):
    client = daemons(team("echo", "not listening")).client
    assert client.ask("tool", "x" * 900_000).ok()["response"].strip() == "not listening"


def test_output_that_is_no_text_is_still_valid_json(daemons):
    client = daemons(team(*script("sys.stdout.buffer.write(b'ok \\xff\\xfe \\x00 end\\n')"))).client
    response = client.ask("tool", "bytes").ok()["response"]
    assert response.startswith("ok ") and "end" in response


@pytest.mark.parametrize("count", [12])
def test_as_many_processes_as_the_concurrency_allows(daemons, count, tmp_path):
    ledger = tmp_path / "ledger"
    code = f"""
import fcntl, time
def say(what):
    with open({str(ledger)!r}, 'a') as f: fcntl.flock(f, 2); f.write(what)
say('+'); time.sleep(0.03); say('-'); print('ok')
"""
    client = daemons(team(*script(code), concurrency=3)).client
    names = [client.submit("tool", str(i)) for i in range(count)]
    assert all(client.wait_final(name)["status"] == "completed" for name in names)
    depth = [0]
    for mark in ledger.read_text():
        depth.append(depth[-1] + (1 if mark == "+" else -1))
    assert depth[-1] == 0 and max(depth) <= 3 and len(ledger.read_text()) == 2 * count
