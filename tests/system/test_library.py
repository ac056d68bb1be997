# SPDX-License-Identifier: MPL-2.0
"""libmuster inside other programs: Python by ctypes, and the examples in C."""

import ctypes
import json
import select
import subprocess
import threading

import pytest

import harness

BUILD = harness.binary().resolve().parent
BEGIN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
CANCEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


class Team(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("concurrency", ctypes.c_int64),
        ("begin", BEGIN),
        ("cancel", CANCEL),
        ("arg", ctypes.c_void_p),
    ]


class Settings(ctypes.Structure):
    _fields_ = [
        ("config", ctypes.c_char_p),
        ("data", ctypes.c_char_p),
        ("listen", ctypes.c_char_p),
        ("own_process", ctypes.c_bool),
        ("log_fd", ctypes.c_int),
        ("teams", ctypes.POINTER(Team)),
        ("team_count", ctypes.c_size_t),
    ]


class Submit(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_char_p)
        for name in ("team", "prompt", "priority", "session_id", "idempotency_key", "context")
    ] + [(name, ctypes.c_int64) for name in ("timeout_ms", "delay_ms", "deadline_ms", "max_attempts")]


class FollowSettings(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("job", "team", "after")]


class Address(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("hub", "hub_key", "curve_key", "api_key")]


class Event(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("cursor", "type", "team", "job", "body")] + [
        ("at_ms", ctypes.c_int64),
        ("attempt", ctypes.c_int64),
    ]


@pytest.fixture
def library():
    if "asan" in BUILD.name:
        pytest.skip("a library with sanitizers cannot be loaded into this interpreter")
    lib = ctypes.CDLL(str(BUILD / "libmuster.so"))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64
    for name, result, arguments in (
        ("muster_hub_start", pointer, [ctypes.POINTER(Settings), text, ctypes.c_size_t, pointer]),
        ("muster_hub_connect", pointer, [ctypes.POINTER(Address), text, ctypes.c_size_t]),
        ("muster_hub_stop", None, [ctypes.POINTER(pointer)]),
        ("muster_submit", text, [pointer, ctypes.POINTER(Submit), text, text, ctypes.c_size_t]),
        ("muster_job_wait", text, [pointer, text, number, ctypes.POINTER(pointer)]),
        ("muster_result_state", text, [pointer]),
        ("muster_result_text", text, [pointer]),
        ("muster_result_free", None, [ctypes.POINTER(pointer)]),
        ("muster_turn_chunk", text, [pointer, text, ctypes.c_size_t]),
        ("muster_turn_done", text, [pointer, text]),
        ("muster_follow_open", text, [pointer, ctypes.POINTER(FollowSettings), ctypes.POINTER(pointer), text, ctypes.c_size_t]),
        ("muster_follow_fd", ctypes.c_int, [pointer]),
        ("muster_follow_next", ctypes.c_int, [pointer, ctypes.POINTER(Event), ctypes.POINTER(text)]),
        ("muster_follow_close", None, [ctypes.POINTER(pointer)]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def follow(library, hub, job):
    """The events of a job until its end, as (type, body)."""
    handle, event, code = ctypes.c_void_p(), Event(), ctypes.c_char_p()
    assert library.muster_follow_open(hub, FollowSettings(job=job), handle, None, 0) is None
    poll = select.poll()
    poll.register(library.muster_follow_fd(handle), select.POLLIN)
    events = []
    while (told := library.muster_follow_next(handle, event, code)) >= 0:
        if told:
            events.append((event.type.decode(), json.loads(event.body)))
        else:
            assert poll.poll(harness.scaled(30000)), events
    assert code.value is None
    library.muster_follow_close(handle)
    return events


def test_a_python_program_is_a_team(library, tmp_path):
    threads = []

    def answer(turn, prompt):
        assert library.muster_turn_chunk(turn, b"You said: ", 10) is None
        assert library.muster_turn_chunk(turn, prompt, len(prompt)) is None
        assert library.muster_turn_done(turn, None) is None

    @BEGIN
    def begin(turn, prompt, conversation, arg):
        threads.append(threading.Thread(target=answer, args=(turn, prompt)))
        threads[-1].start()

    problem = ctypes.create_string_buffer(512)
    team = Team(name=b"python", concurrency=2, begin=begin)
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        settings = Settings(
            data=bytes(tmp_path / "data"),
            listen=b"127.0.0.1:0",
            log_fd=log.fileno(),
            teams=ctypes.pointer(team),
            team_count=1,
        )
        hub = ctypes.c_void_p(library.muster_hub_start(settings, problem, len(problem), None))
        assert hub.value, problem.value
        job, result = ctypes.create_string_buffer(48), ctypes.c_void_p()
        code = library.muster_submit(hub, Submit(team=b"python", prompt=b"hello"), job, problem, len(problem))
        assert code is None, problem.value
        assert library.muster_job_wait(hub, job, 30000, result) is None
        assert library.muster_result_state(result) == b"completed"
        assert library.muster_result_text(result) == b"You said: hello"
        library.muster_result_free(result)
        events = follow(library, hub, job.value)
        assert [events[0][0], events[-1][0]] == ["job.queued", "job.completed"]
        assert "".join(body["text"] for kind, body in events if kind == "job.chunk") == "You said: hello"
        library.muster_hub_stop(hub)
        assert hub.value is None
    for thread in threads:
        thread.join()


def example(name):
    path = BUILD / f"example_{name}"
    if not path.exists():
        pytest.skip(f"{path} was not built")
    return path


def test_the_example_that_is_a_team_answers_over_http(tmp_path):
    program = subprocess.Popen(
        [example("own_team"), tmp_path / "data"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        url = program.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        key = (tmp_path / "data" / "admin.key").read_text().strip()
        asked = ["curl", "-s", f"{url}/api/v1/teams/counter/ask", "-H", f"Authorization: Bearer {key}"]
        out = subprocess.run(
            [*asked, "-d", '{"question": "how many words are these"}'], capture_output=True, text=True, check=True
        ).stdout
        assert json.loads(out)["response"] == "5 words"
        program.stdin.close()
        assert program.wait(harness.scaled(30)) == 0
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


def test_the_example_that_follows_prints_events_and_the_answer(tmp_path):
    ran = subprocess.run(
        [example("follow"), tmp_path / "data", "@chunks=2 @tool=Read hello"],
        capture_output=True,
        text=True,
        timeout=harness.scaled(50),
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["job.queued", "job.started"]
    assert lines[-2].split()[1] == "job.completed" and lines[-1] == "completed: hello"


def with_bus(daemons, endpoint, curve):
    """A daemon, and where its bus.commands is."""
    daemon = daemons({"teams": {"echo": {"driver": "echo"}}, "bus": {"commands": endpoint, "curve": curve}})
    return daemon, endpoint.replace("ipc://", f"ipc://{daemon.folder}/")


def curve_files(daemon):
    """The two files that a client of a hub with CURVE needs."""
    made = daemon.cli("key", "create", "program", "--curve")
    assert made.returncode == 0, made.stderr
    path = daemon.folder / "program.key"
    path.write_text(made.stdout)
    return daemon.data / "bus.key.pub", path


def connect(library, address):
    problem = ctypes.create_string_buffer(512)
    hub = ctypes.c_void_p(library.muster_hub_connect(address, problem, len(problem)))
    assert hub.value, problem.value
    return hub


@pytest.mark.parametrize("curve", [False, True], ids=["plain", "curve"])
def test_a_python_program_goes_on_with_a_daemon_that_was_killed(library, daemons, curve):
    daemon, endpoint = with_bus(daemons, f"tcp://127.0.0.1:{harness.free_port()}", curve)
    address = Address(hub=endpoint.encode(), api_key=daemon.key.encode())
    if curve:
        address = Address(endpoint.encode(), *(bytes(path) for path in curve_files(daemon)))
    hub = connect(library, address)
    problem, job = ctypes.create_string_buffer(512), ctypes.create_string_buffer(48)
    submit = Submit(team=b"echo", prompt=b"@chunks=20 @gap=50ms " + b"word " * 20)
    assert library.muster_submit(hub, submit, job, problem, len(problem)) is None, problem.value
    told, result = [], ctypes.c_void_p()
    reader = threading.Thread(target=lambda: told.extend(follow(library, hub, job.value)))
    reader.start()
    daemon.client.wait_state(job.value.decode(), "processing")
    daemon.kill9()
    daemon.start()
    assert library.muster_job_wait(hub, job, int(harness.scaled(60000)), result) is None
    assert library.muster_result_text(result).split() == [b"word"] * 20
    library.muster_result_free(result)
    reader.join()
    kinds = [kind for kind, _ in told]
    assert kinds[0] == "job.queued" and kinds[-1] == "job.completed" and kinds.count("job.completed") == 1, kinds
    again = follow(library, hub, job.value)
    assert again == told
    library.muster_hub_stop(hub)


def test_a_python_program_is_told_why_it_is_not_let_in(library, daemons):
    daemon, endpoint = with_bus(daemons, "ipc://commands.sock", True)
    hub_key, curve_key = curve_files(daemon)
    problem = ctypes.create_string_buffer(512)
    address = Address(endpoint.encode(), bytes(hub_key), bytes(curve_key))
    library.muster_hub_stop(connect(library, address))
    assert daemon.cli("key", "revoke", "program").returncode == 0
    assert library.muster_hub_connect(address, problem, len(problem)) is None
    assert b"does not take this key" in problem.value


def test_the_example_that_uses_a_hub_elsewhere_prints_events_and_the_answer(daemons):
    def run(*arguments, key=""):
        return subprocess.run(
            [example("remote"), *arguments],
            capture_output=True,
            text=True,
            timeout=harness.scaled(50),
            env={"MUSTER_API_KEY": key},
        )

    plain, here = with_bus(daemons, "ipc://commands.sock", False)
    ran = run(here, "echo", "@chunks=2 hello", key=plain.key)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("job.queued ") and lines[-1] == "completed: hello"
    curved, there = with_bus(daemons, f"tcp://127.0.0.1:{harness.free_port()}", True)
    files = curve_files(curved)
    ran = run(there, "echo", "hello", *files)
    assert ran.returncode == 0 and ran.stdout.endswith("completed: hello\n"), ran.stderr
    ran = run(there, "nobody", "hello", *files)
    assert ran.returncode == 1 and ran.stderr.startswith("TEAM_NOT_FOUND: "), ran.stderr
    ran = run(here, "echo", "hello", key="muster_sk_nobody")
    assert ran.returncode == 1 and "API key" in ran.stderr
    assert run("nonsense").returncode == 2
