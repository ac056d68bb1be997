# SPDX-License-Identifier: MPL-2.0
"""Workers on this machine: a team elsewhere is a team like any other, and what is said of several workers holds."""

import json
import os
import pathlib
import re
import signal
import threading
import time
import uuid

import msgpack
import pytest
import zmq

import claude_cli
from bus_client import Bus, Refused
from harness import PYTHON, ROOT, Worker, alive, free_port, merged, scaled, text_of, wait_until

FAKE = ROOT / "tests" / "fake_claude.py"
PROTOCOL = 1


def script(code):
    return [PYTHON, "-IS", "-c", "import os, sys\n" + code]


def fake_claude(folder, **more):
    """A team whose agent stands in for the CLI, with a home of its own."""
    home = pathlib.Path(folder) / "home"
    home.mkdir(parents=True, exist_ok=True)
    env = {"HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / "config")}
    return {"driver": "claude", "command": [PYTHON, "-IS", str(FAKE)], "stop_timeout": "200ms", "env": env, **more}


def bytes_of(name):
    """The id behind msg_... or job_..."""
    return uuid.UUID(name.partition("_")[2]).bytes


class Site:
    """A hub whose teams are all remote, and workers for it.  ZeroMQ without CURVE unless told otherwise."""

    def __init__(self, daemons, folder, teams=("echo",), curve=False, start=True, **hub):
        self.folder, self.curve, self.daemons = folder, curve, daemons
        self.workers, self.clients, self.admins = {}, [], {}
        self.teams = {name: {} for name in teams} if not isinstance(teams, dict) else teams
        remote = {name: {"driver": "remote", **more} for name, more in self.teams.items()}
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        bus = {"commands": self.endpoint, "curve": curve}
        self.hub = daemons(merged({"teams": remote, "bus": bus, "workers": {"lease": f"{scaled(3):g}s"}}, hub), start)

    @property
    def client(self):
        return self.hub.client

    def api_key(self, name, *options):
        done = self.hub.cli("key", "create", name, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def keys_of(self, name):
        """The section `worker` that lets this worker in."""
        options = ("--scope", "workers:run")
        if not self.curve:
            return {"api_key": self.api_key(f"{name}-{len(self.workers)}", *options).strip()}
        file = self.folder / f"{name}.key"
        file.write_text(self.api_key(name, *options, "--curve"))
        return {"hub_key": str(self.hub.data / "bus.key.pub"), "curve_key": str(file)}

    def new_worker(self, name="w1", teams=None, arguments=(), folder=None, worker=None, **config):
        """One that is not started yet."""
        teams = teams or {team: {"driver": "echo", "concurrency": 4} for team in self.teams}
        section = {"hub": self.endpoint, "name": name, **(self.keys_of(name) if worker is None else {})}
        section.update({"reconnect": "20ms", "max_reconnect": "500ms"})
        section.update(worker or {})
        made = Worker(
            self.folder / (folder or name), {"worker": section, "teams": teams, **config}, arguments=arguments
        )
        self.workers[folder or name] = made
        return made

    def worker(self, *arguments, more_worker=None, **options):
        made = self.new_worker(*arguments, **options)
        if more_worker:
            made.configure(merged(made.config, {"worker": more_worker}))
        made.start()
        self.wait_node(made.config["worker"]["name"], "up")
        return made

    def bus(self, key=None, seconds=20):
        client = Bus(self.endpoint, key=key or self.hub.key)
        client.seconds = scaled(seconds)
        self.clients.append(client)
        return client

    # ---- what is seen

    @property
    def admin(self):
        """Logged in at the hub as it runs now."""
        if not self.admins.get(self.hub.runs):
            self.admins[self.hub.runs] = self.bus()
        return self.admins[self.hub.runs]

    def nodes(self):
        return {node["name"]: node for node in self.client.get("/api/v1/nodes").ok()["nodes"]}

    def wait_node(self, name, *states, seconds=20):
        def look():
            node = self.nodes().get(name)
            return node if node and (node["state"] in states) else None

        return wait_until(look, f"{name} is {states}", seconds, pause=0.05)

    def record(self, name):
        return self.admin.ask("job.read", job=bytes_of(name))["job"]

    def node_of(self, name):
        return self.record(name).get("node", "")

    def events(self, name):
        """All events of a job, their bodies unpacked."""
        return events_of(self.admin, job=bytes_of(name))

    def wait_done(self, name, result=None, seconds=30):
        message = self.client.wait_final(name, seconds)
        assert message["status"] == "completed", message
        if result is not None:
            assert message["response"] == result
        return message

    def end(self):
        """Workers end before their hub, in order."""
        problems = []
        for client in self.clients:
            client.close()
        for worker in self.workers.values():
            try:
                worker.end_of_test()
            except AssertionError as problem:
                problems.append(problem)
        if problems:
            raise problems[0]


def events_of(bus, **query):
    found, cursor, more = [], "", True
    while more:
        page = bus.ask("log.read", after=cursor, limit=1000, **query)
        for event in page.get("events", ()):
            event["body"] = msgpack.unpackb(event["body"])
            found.append(event)
        cursor, more = page["next"], page.get("more")
    return found


@pytest.fixture
def site(daemons, tmp_path):
    made = []

    def make(*arguments, **options):
        made.append(Site(daemons, tmp_path, *arguments, **options))
        return made[-1]

    yield make
    problems = []
    for one in made:
        try:
            one.end()
        except AssertionError as problem:
            problems.append(problem)
    if problems:
        raise problems[0]


def gate_team(folder):
    """A program that says `first`, then waits until somebody opens the gate that its prompt names."""
    code = (
        "name = sys.stdin.read().split()[0]; print('first ' + name, flush=True); "
        f"open({str(folder)!r} + '/' + name).read(); print('done ' + name)"
    )
    return {"driver": "command", "command": script(code), "concurrency": 4, "stop_timeout": "200ms"}


class Gates:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder) / "gates"
        self.folder.mkdir()

    def make(self, name):
        os.mkfifo(self.folder / name)
        return name

    def open(self, name, times=1):
        """As soon as somebody waits at it."""

        def knock():
            try:
                os.close(os.open(self.folder / name, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True

        for _ in range(times):
            wait_until(knock, f"somebody waits at {name}")

    @property
    def team(self):
        return gate_team(self.folder)


@pytest.fixture
def gates(tmp_path):
    return Gates(tmp_path)


# ---- the same as on the hub ----

ECHO = [
    "hello",
    'ünïcödé "quotes"\n lines\tand \\n',
    "@chunks=4 @gap=5ms one two three four",
    '@tool=Read:{"file_path":"a.txt"} @tool=Bash @chunks=2 with two tools',
    "@progress=1/3 @progress=2/3 @chunks=2 two steps",
    "@cost=0.25 @tokens=77 dear",
    "@size=300000 @chunks=7",
    "@fail=PROCESS_ERROR:1 @cost=0.5 the second time",
    "@fail=MODEL_AUTH never",
    "@fail=MODEL_OVERLOADED always",
]
PROGRAM = ["lines\nof text", "exit 3", "signal 9", "much", ""]
CLAUDE = [
    "echo: what is streamed in pieces",
    'tool: Bash {"command":"echo allowed","description":"say"}',
    'tool: Bash {"command":"cat /etc/hostname","description":"say"}',
    'tool: Write {"file_path":"made.txt","content":"x"}',
    'tool: Read {"file_path":"src/a.c"}',
    "todo: 1/3 10 with a list",
    "broken: half of it came before the break",
    "retry: 2 got through",
    "error: 401",
    "error: 529",
    "crash-once: 1 it",
    "REMEMBER plums",
    "RECALL",
    "badline: after it",
    "huge: 200000",
]
PROGRAM_CODE = """
words = sys.stdin.read()
print('read', len(words), flush=True)
sys.stderr.write('some last words\\n')
if words.startswith('exit'): sys.exit(int(words.split()[1]))
if words.startswith('signal'): os.kill(os.getpid(), int(words.split()[1]))
if words.startswith('much'): print('y' * 100000)
print(words)
"""


def agents(folder):
    rules = {"allow": ["Bash(echo *)"], "deny": ["Bash(cat *)"]}
    return {
        "echo": {"driver": "echo"},
        "program": {"driver": "command", "command": script(PROGRAM_CODE)},
        "claude": fake_claude(folder, permissions=rules, directory=str(folder)),
    }


# Of a place, a moment or a name that is given anew each time.
OTHERWISE = re.compile(
    r"(.*_ms|timestamp|duration|delay|.*Id|id|session|process|pid|trace|node|key|cursor|seq|epoch|fingerprint|"
    r"conversation|estimat.*|uuid|.*[aA]t)$"
)


def same(value):
    """What must not depend on where the team is."""
    if isinstance(value, dict):
        return {name: same(inner) for name, inner in value.items() if not OTHERWISE.match(str(name))}
    if isinstance(value, list):
        return [same(inner) for inner in value]
    return value


def without_seams(events):
    """Chunks that follow one another as one: how a text is cut is nobody's promise.  Progress that no agent told comes
    with time."""
    out = []
    for kind, data in events:
        if kind in ("chunk", "job.chunk") and out and out[-1][0] == kind:
            out[-1][1]["text"] += data["text"]
        elif kind != "heartbeat" and not (kind == "progress" and "current" not in data):
            out.append((kind, data))
    return out


def life(daemon, bus, team, prompt):
    """All that can be seen of a job."""
    stream = daemon.client.stream(team, prompt)
    assert stream.status == 200, stream.body
    seen = stream.rest(40)
    name = seen[0].data["messageId"]
    message = daemon.client.wait_final(name)
    record = bus.ask("job.read", job=bytes_of(name))["job"]
    log = [(e["type"], {**same(e["body"]), "attempt": e.get("attempt")}) for e in events_of(bus, job=bytes_of(name))]
    return {
        "stream": without_seams([(e.kind, same(e.data)) for e in seen]),
        "message": same(message),
        "record": same(record),
        "log": without_seams(log),
    }


@pytest.mark.deadline(120)
def test_everything_that_can_be_seen_of_a_job_is_as_on_the_hub(site, daemons, tmp_path):
    queue = {"retry_delay": "10ms", "max_attempts": 2}
    here = site(["echo", "program", "claude"], queue=queue)
    here.worker(teams=agents(tmp_path / "far"))
    bus = {"commands": f"tcp://127.0.0.1:{free_port()}"}
    local = daemons({"teams": agents(tmp_path / "near"), "queue": queue, "bus": bus})
    near, far = Bus(bus["commands"], key=local.key), here.bus()
    here.clients.append(near)
    for team, prompts in (("echo", ECHO), ("program", PROGRAM), ("claude", CLAUDE)):
        for prompt in prompts:
            if not prompt:
                continue
            there, at_home = (life(d, b, team, prompt) for d, b in ((here.hub, far), (local, near)))
            text = json.dumps([there, at_home], default=str)
            text = text.replace(str(tmp_path / "far"), "HERE").replace(str(tmp_path / "near"), "HERE")
            text = re.sub(r"toolu_[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}", "NAME", text)
            there, at_home = json.loads(text)
            for part in there:
                assert there[part] == at_home[part], (team, prompt, part)
    assert here.nodes()["w1"]["state"] == "up"


def test_ask_execute_stream_and_history(site):
    here = site()
    here.worker()
    body = here.client.ask("echo", "@cost=0.25 @tokens=7 asked").ok()
    assert body["response"] == "asked" and body["metadata"]["usage"]["costUsd"] == 0.25
    name = here.client.submit("echo", "done")
    here.wait_done(name, "done")
    record = here.record(name)
    assert (record["node"], record["attempt"], record.get("failures", 0), record.get("losses", 0)) == ("w1", 1, 0, 0)
    events = here.client.stream("echo", "@chunks=3 one two three").rest()
    assert text_of(events) == "one two three" and events[-1].kind == "complete"
    attached = here.client.attach(events[0].data["messageId"]).rest()
    assert [(e.kind, e.id) for e in attached] == [(e.kind, e.id) for e in events]
    assert here.client.history(team="echo")["pagination"]["total"] == 3


def test_text_comes_while_the_agent_is_still_at_work(site, gates):
    here = site(["tool"])
    here.worker(teams={"tool": gates.team})
    stream = here.client.stream("tool", gates.make("a"))
    assert "first a" in stream.until("chunk").data["text"]
    gates.open("a")
    events = stream.rest()
    assert text_of(events) == "first a\ndone a\n" or text_of(events).split() == ["first", "a", "done", "a"]


def test_cancel_ends_a_waiting_and_a_running_job_and_its_processes(site):
    here = site(["tool"])
    worker = here.worker(teams={"tool": {"driver": "command", "command": ["sleep", "611"], "stop_timeout": "200ms"}})
    running, waiting = here.client.submit("tool", "x"), here.client.submit("tool", "y")
    here.client.wait_state(running, "processing")
    wait_until(worker.children, "it runs on the worker")
    assert not here.hub.children()
    assert here.client.cancel(waiting).ok()["status"] == "cancelled"
    assert here.client.cancel(running).ok()["status"] == "cancelled"
    wait_until(lambda: not worker.children(), "its process is gone")
    assert here.record(running)["state"] == here.record(waiting)["state"] == "cancelled"
    assert "node" not in here.record(waiting)


def test_a_limit_of_time_holds_on_the_worker(site):
    here = site(["tool"], queue={"max_attempts": 1})
    worker = here.worker(teams={"tool": {"driver": "command", "command": ["sleep", "611"], "stop_timeout": "100ms"}})
    message = here.client.wait_final(here.client.submit("tool", "x", timeout=300))
    assert message["status"] == "failed" and "TIMEOUT" in json.dumps(message)
    late = here.client.wait_final(here.client.submit("tool", "x", deadline=int(time.time() * 1000) + 500))
    assert late["status"] == "failed" and "DEADLINE_EXCEEDED" in json.dumps(late)
    wait_until(lambda: not worker.children(), "its processes are gone")


def test_the_rules_are_those_of_the_worker(site, tmp_path):
    here = site(["claude"])
    here.worker(teams={"claude": fake_claude(tmp_path, permissions={"deny": ["Bash(cat *)"]})})
    events = here.client.stream("claude", 'tool: Bash {"command":"cat /etc/passwd","description":"x"}').rest()
    assert "The rule Bash(cat *) does not allow this" in text_of(events)
    assert [e.data["tool"] for e in events if e.kind == "permission_denied"] == ["Bash"]
    worker = here.workers["w1"]
    assert worker.journal("agent-permission-denied")[0]["rule"] == "Bash(cat *)"


def test_the_status_of_a_team_shows_the_processes_of_its_workers(site, tmp_path):
    here = site(["claude"])
    for name in ("w1", "w2"):
        here.worker(name, teams={"claude": fake_claude(tmp_path / name)})
    names = [here.client.submit("claude", "silent:") for _ in range(2)]
    for name in names:
        here.client.wait_state(name, "processing")

    def busy():
        status = here.client.status("claude")
        found = [p for p in status["processes"] if p["pid"] and p["status"] == "busy"]
        return status if len(found) == 2 else None

    status = wait_until(busy, f"both are shown: {here.client.status('claude')}")
    pids = {p["pid"] for p in status["processes"] if p["pid"]}
    assert pids <= {pid for worker in here.workers.values() for pid in worker.children()}
    for name in names:
        here.client.cancel(name).ok()


def test_large_prompts_and_large_answers(site):
    here = site(["echo", "tool"], http={"max_body": "32MiB"})
    code = "text = sys.stdin.read(); print(len(text), text[-5:])"
    here.worker(teams={"echo": {"driver": "echo"}, "tool": {"driver": "command", "command": script(code)}})
    prompt = "x" * 15_000_000 + " tail"
    body = here.client.ask("tool", prompt, timeout=60000).ok()
    assert body["response"].split() == [str(len(prompt)), "tail"]
    name = here.client.submit("echo", "@size=20000000")
    assert here.wait_done(name, seconds=60)["response"] == "x" * 20_000_000
    assert here.client.ask("echo", "and on").ok()["response"] == "and on"
    assert here.record(name)["attempt"] == 1


# ---- several workers ----


def test_jobs_go_where_there_is_room(site):
    here = site()
    for name in ("w1", "w2"):
        here.worker(name, teams={"echo": {"driver": "echo", "concurrency": 2}})
    names = [here.client.submit("echo", "@hang") for _ in range(5)]
    for name in names[:4]:
        here.client.wait_state(name, "processing")
    assert sorted(here.node_of(name) for name in names[:4]) == ["w1", "w1", "w2", "w2"]
    assert here.client.message(names[4])["status"] == "queued"
    assert {n: node["running"] for n, node in here.nodes().items()} == {"w1": 2, "w2": 2}
    freed = here.node_of(names[0])
    here.client.cancel(names[0]).ok()
    here.client.wait_state(names[4], "processing")
    assert here.node_of(names[4]) == freed
    for name in names[1:]:
        here.client.cancel(name).ok()


@pytest.mark.deadline(120)
def test_two_hundred_jobs_are_done_once_each_by_both(site, tmp_path):
    here = site(["echo", "tool"], queue={"max_running": 32})
    ledger = tmp_path / "ledger"
    code = f"name = sys.stdin.read(); f = open({str(ledger)!r}, 'a'); f.write(name + '\\n'); f.close(); print(name)"
    tool = {"driver": "command", "command": script(code), "concurrency": 2}
    for name in ("w1", "w2"):
        here.worker(name, teams={"echo": {"driver": "echo", "concurrency": 4}, "tool": tool})
    jobs = {}
    for i in range(200):
        team = "tool" if i % 5 == 0 else "echo"
        prompt = f"job-{i}" if team == "tool" else f"@chunks=3 @gap=2ms job-{i} of many"
        jobs[here.client.submit(team, prompt)] = (team, f"job-{i}")
    used = set()
    for name, (team, text) in jobs.items():
        message = here.wait_done(name, seconds=60)
        assert message["response"].strip() == (text if team == "tool" else text + " of many")
        record = here.record(name)
        assert record["attempt"] == 1
        used.add((team, record["node"]))
    assert used == {(team, node) for team in ("echo", "tool") for node in ("w1", "w2")}
    done = ledger.read_text().split()
    assert sorted(done) == sorted(text for team, text in jobs.values() if team == "tool")


def hold(here, node, team="claude", text="silent:"):
    """Occupy a worker with jobs of no conversation; names of the jobs that stay there."""
    kept = []
    while True:
        name = here.client.submit(team, text)
        here.client.wait_state(name, "processing")
        if here.node_of(name) == node:
            return kept, name
        kept.append(name)


def in_conversation(here, session, text, **more):
    return here.client.submit("claude", text, sessionId=session, **more)


def test_a_conversation_stays_with_the_worker_that_has_it(site, tmp_path):
    here = site(["claude"])
    for name in ("w1", "w2"):
        here.worker(name, teams={"claude": fake_claude(tmp_path / name)})
    first = in_conversation(here, "A", "REMEMBER plums")
    here.wait_done(first)
    home = here.node_of(first)
    others, blocker = hold(here, home)
    # Its worker has no room; other jobs pass it by.
    recall = in_conversation(here, "A", "RECALL")
    for name in others:
        here.client.cancel(name).ok()
    plain = here.client.submit("claude", "echo: passes by")
    here.wait_done(plain, "passes by")
    assert here.node_of(plain) != home
    assert here.client.message(recall)["status"] == "queued"
    here.client.cancel(blocker).ok()
    here.wait_done(recall, "plums")
    assert here.node_of(recall) == home and here.record(recall)["attempt"] == 1


def test_conversations_are_spread_and_each_stays(site, tmp_path):
    here = site(["claude"])
    for name in ("w1", "w2"):
        here.worker(name, teams={"claude": fake_claude(tmp_path / name, concurrency=2)})
    nodes = {}
    names = {s: in_conversation(here, s, f"REMEMBER {s}") for s in "abcd"}
    for session, name in names.items():
        here.wait_done(name)
        nodes[session] = here.node_of(name)
    for _ in range(3):
        names = {s: in_conversation(here, s, "RECALL") for s in "abcd"}
        for session, name in names.items():
            here.wait_done(name, session)
            assert here.node_of(name) == nodes[session]
    assert set(nodes.values()) == {"w1", "w2"}


def test_a_worker_that_comes_back_has_its_conversations(site, tmp_path):
    here = site(["claude"])
    for name in ("w1", "w2"):
        here.worker(name, teams={"claude": fake_claude(tmp_path / name)})
    first = in_conversation(here, "A", "REMEMBER plums")
    here.wait_done(first)
    home = here.node_of(first)
    here.workers[home].kill9()
    recall = in_conversation(here, "A", "RECALL")
    here.wait_node(home, "lost")
    here.client.wait_state(recall, "queued")
    here.workers[home].start()
    here.wait_done(recall, "plums")
    assert here.node_of(recall) == home


def test_a_conversation_whose_worker_stays_away_goes_on_elsewhere_and_says_so(site, tmp_path):
    here = site(["claude"], workers={"hold_sessions": "1s", "lease": f"{scaled(1):g}s"})
    for name in ("w1", "w2"):
        here.worker(name, teams={"claude": fake_claude(tmp_path / name)})
    first = in_conversation(here, "A", "REMEMBER plums")
    here.wait_done(first)
    home = here.node_of(first)
    here.workers[home].kill9()
    here.wait_node(home, "away", "lost")
    recall = in_conversation(here, "A", "RECALL")
    message = here.wait_done(recall, "nothing")
    assert here.node_of(recall) != home
    assert message["attempts"] == 1
    notices = [e["body"] for e in here.events(recall) if e["type"] == "job.notice"]
    assert [n["kind"] for n in notices].count("session_lost") == 1 and notices[0]["text"]
    again = in_conversation(here, "A", "REMEMBER pears")
    here.wait_done(again)
    assert here.node_of(again) == here.node_of(recall), "it goes on from there"
    # When the first one is back, it does not take the conversation with it.
    here.workers[home].start()
    here.wait_node(home, "up")
    last = in_conversation(here, "A", "RECALL")
    here.wait_done(last, "pears")


def test_labels_choose_the_workers(site):
    here = site({"any": {}, "gpu": {"labels": {"gpu": "yes", "zone": "a"}}})
    teams = {team: {"driver": "echo", "concurrency": 8} for team in ("any", "gpu")}
    here.worker("plain", teams=teams)
    here.worker("half", teams=teams, more_worker={"labels": {"gpu": "yes"}})
    waiting = here.client.submit("gpu", "who can?")
    everywhere = [here.client.submit("any", "@hang") for _ in range(4)]
    for name in everywhere:
        here.client.wait_state(name, "processing")
    assert {here.node_of(name) for name in everywhere} == {"plain", "half"}
    assert here.client.message(waiting)["status"] == "queued"
    here.worker("right", teams=teams, more_worker={"labels": {"gpu": "yes", "zone": "a", "more": "x"}})
    here.wait_done(waiting, "who can?")
    assert here.node_of(waiting) == "right"
    for name in everywhere:
        here.client.cancel(name).ok()


def test_the_teams_of_a_worker_are_those_it_offers(site):
    here = site(["one", "two"])
    teams = {team: {"driver": "echo"} for team in ("one", "two", "three")}
    here.worker(teams=teams, arguments=["--teams", "two"])
    waiting = here.client.submit("one", "x")
    here.wait_done(here.client.submit("two", "x"), "x")
    assert here.client.message(waiting)["status"] == "queued"
    assert [team["name"] for team in here.nodes()["w1"]["teams"]] == ["two"]
    here.client.cancel(waiting).ok()


# ---- the end of a worker ----


def test_sigterm_lets_running_jobs_end_and_takes_no_more(site, gates):
    here = site(["tool"])
    worker = here.worker(teams={"tool": gates.team}, shutdown={"grace": "20s"})
    name = here.client.submit("tool", gates.make("a"))
    wait_until(worker.children, "it runs")
    worker.terminate()
    here.wait_node("w1", "draining")
    later = here.client.submit("tool", gates.make("b"))
    gates.open("a")
    here.wait_done(name)
    assert worker.wait_exit() == 0
    worker.assert_clean()
    assert here.wait_node("w1", "left")["running"] == 0
    assert here.client.message(later)["status"] == "queued" and here.record(name)["attempt"] == 1
    here.worker("w2", teams={"tool": gates.team})
    gates.open("b")
    here.wait_done(later)


def test_what_outlasts_the_grace_is_parked_and_goes_on_elsewhere(site, gates):
    here = site(["tool"])
    worker = here.worker(teams={"tool": gates.team}, shutdown={"grace": "100ms"})
    name = here.client.submit("tool", gates.make("a"))
    wait_until(worker.children, "it runs")
    worker.stop()
    here.wait_node("w1", "left")
    assert here.record(name).get("failures", 0) == 0
    here.worker("w2", teams={"tool": gates.team})
    gates.open("a")
    here.wait_done(name)
    record = here.record(name)
    assert (record["node"], record["attempt"], record.get("failures", 0)) == ("w2", 2, 0)
    assert "job.parked" in [e["type"] for e in here.events(name)]


def test_drain_and_nodes_on_the_command_line(site, gates):
    here = site(["tool"])
    for name in ("w1", "w2"):
        here.worker(name, teams={"tool": gates.team})
    table = here.hub.cli("nodes")
    assert table.returncode == 0 and "w1" in table.stdout and "w2" in table.stdout and "tool" in table.stdout
    names = [here.client.submit("tool", gates.make(gate)) for gate in "ab"]
    for name in names:
        here.client.wait_state(name, "processing")
    on_first = next(name for name in names if here.node_of(name) == "w1")
    done = []
    waiting = threading.Thread(target=lambda: done.append(here.hub.cli("drain", "w1", "--wait", seconds=40)))
    waiting.start()
    here.wait_node("w1", "draining")
    more = [here.client.submit("tool", gates.make(gate)) for gate in "cd"]
    for name in more:
        here.client.wait_state(name, "processing")
    assert {here.node_of(name) for name in more} == {"w2"}
    assert not done
    for gate in "abcd":
        gates.open(gate)
    for name in [*names, *more]:
        here.wait_done(name)
    waiting.join(scaled(20))
    assert done and done[0].returncode == 0, done
    assert here.record(on_first)["attempt"] == 1
    # It stays so over a restart of either.
    here.workers["w1"].stop()
    here.workers["w1"].start()
    here.wait_node("w1", "draining")
    here.hub.kill9()
    here.hub.start()
    here.wait_node("w1", "draining")
    here.wait_node("w2", "up")
    late = here.client.submit("tool", gates.make("e"))
    gates.open("e")
    here.wait_done(late)
    assert here.node_of(late) == "w2"
    resumed = here.hub.cli("drain", "w1", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    here.wait_node("w1", "up")
    missing = here.hub.cli("drain", "nobody")
    assert missing.returncode == 5 and "nobody" in missing.stderr


def test_an_agent_process_that_is_killed_is_an_ordinary_failure(site, tmp_path):
    here = site(["claude"], queue={"max_attempts": 3})
    worker = here.worker(teams={"claude": fake_claude(tmp_path)})
    stream = here.client.stream("claude", "slow: 1500 done")
    stream.until("chunk")
    (pid,) = worker.children()
    os.kill(pid, signal.SIGKILL)
    events = stream.rest()
    assert events[-1].kind == "complete"
    record = here.record(events[0].data["messageId"])
    assert (record["attempt"], record["failures"]) == (2, 1)


# ---- kill -9 and coming back ----


def test_a_worker_killed_in_its_jobs_leaves_no_process_and_no_failure(site, gates):
    here = site(["tool"])
    worker = here.worker(teams={"tool": gates.team})
    name = here.client.submit("tool", gates.make("a"))
    before = wait_until(worker.children, "it runs")
    worker.kill9()
    worker.start()
    wait_until(lambda: not any(alive(pid) for pid in before), "what it had is ended")
    gates.open("a")
    here.wait_done(name)
    record = here.record(name)
    assert record.get("failures", 0) == 0 and record["attempt"] == 2 and record["losses"] == 1
    kinds = [e["type"] for e in here.events(name)]
    assert kinds.count("job.lost") == 1 and kinds.count("job.completed") == 1


def test_a_hub_killed_meanwhile_is_told_all_of_it(site, gates):
    """The worker goes on without it; the attempt is the same."""
    here = site(["tool", "echo"])
    worker = here.worker(teams={"tool": gates.team, "echo": {"driver": "echo"}})
    stream = here.client.stream("tool", gates.make("a"))
    name = stream.next().data["messageId"]
    stream.until("chunk")
    pids = worker.children()
    here.hub.kill9()
    gates.open("a")
    wait_until(lambda: not any(alive(pid) for pid in pids), "it ends while nobody listens")
    here.hub.start()
    here.wait_done(name)
    record = here.record(name)
    assert (record["attempt"], record.get("failures", 0), record.get("losses", 0)) == (1, 0, 0)
    events = here.client.attach(name).rest()
    assert text_of(events).split() == ["first", "a", "done", "a"]
    kinds = [e["type"] for e in here.events(name)]
    assert kinds.count("job.completed") == 1 and "job.lost" not in kinds


def test_a_hub_stopped_in_order_finds_its_jobs_again(site, gates):
    here = site(["tool"], shutdown={"grace": "100ms"})
    here.worker(teams={"tool": gates.team})
    name = here.client.submit("tool", gates.make("a"))
    here.client.wait_state(name, "processing")
    here.hub.stop()
    here.hub.start()
    here.wait_node("w1", "up")
    gates.open("a")
    here.wait_done(name)
    record = here.record(name)
    assert record.get("failures", 0) == 0 and record["result"].split() == ["first", "a", "done", "a"]


def test_a_worker_may_be_there_before_its_hub(site):
    here = site()
    worker = here.new_worker()
    here.hub.stop()
    worker.spawn()
    wait_until(lambda: worker.journal("link-down"), "it tries")
    here.hub.start()
    worker.wait_attached()
    assert here.client.ask("echo", "there now").ok()["response"] == "there now"
    for round_ in range(2):
        here.hub.stop()
        here.hub.start()
        worker.wait_attached(2 + round_)
        assert here.client.ask("echo", f"again {round_}").ok()["response"] == f"again {round_}"


def test_jobs_that_waited_for_a_worker_reach_agents_that_have_just_begun(site):
    here = site([f"team-{i}" for i in range(200)], queue={"max_running": 200})
    names = [here.client.submit(team, f"for {team}") for team in here.teams]
    here.worker()
    for team, name in zip(here.teams, names):
        here.wait_done(name, f"for {team}")
        assert here.record(name)["attempt"] == 1


def test_a_worker_killed_after_its_job_ended_tells_the_end_later(site, gates):
    """The hub is away when the job ends, and the worker is killed before it can tell."""
    here = site(["tool"], workers={"lease": f"{scaled(20):g}s"})
    worker = here.worker(teams={"tool": gates.team})
    name = here.client.submit("tool", gates.make("a"))
    pids = wait_until(worker.children, "it runs")
    here.hub.kill9()
    gates.open("a")
    wait_until(lambda: not any(alive(pid) for pid in pids), "it ends")
    wait_until(lambda: b"done a" in kept_bytes(worker), "what it said is on the worker's disk")
    worker.kill9()
    here.hub.start()
    worker.start()
    here.wait_done(name)
    assert here.record(name)["attempt"] == 1 and here.record(name).get("losses", 0) == 0


def kept_bytes(worker):
    return b"".join(file.read_bytes() for file in worker.data.rglob("*.mdb") if "lock" not in file.name)


def test_cancel_of_a_job_whose_worker_is_away_ends_it_with_the_lease(site):
    here = site(["tool"])
    worker = here.worker(teams={"tool": {"driver": "command", "command": ["sleep", "611"], "stop_timeout": "100ms"}})
    name = here.client.submit("tool", "x")
    here.client.wait_state(name, "processing")
    pids = wait_until(worker.children, "it runs")
    worker.kill9()
    here.wait_node("w1", "away")
    thread = threading.Thread(target=here.client.cancel, args=(name,))
    thread.start()
    assert here.client.wait_final(name, 30)["status"] == "cancelled"
    thread.join(scaled(40))
    assert not thread.is_alive()
    worker.start()
    wait_until(lambda: not any(alive(pid) for pid in pids), "what it had is ended")
    assert here.record(name)["attempt"] == 1


def test_a_job_that_is_lost_too_often_fails(site):
    here = site(["tool"], workers={"max_losses": 2, "lease": f"{scaled(10):g}s"})
    worker = here.worker(teams={"tool": {"driver": "command", "command": ["sleep", "611"]}})
    name = here.client.submit("tool", "x")
    for losses in range(2):
        wait_until(lambda: here.record(name).get("attempt") == losses + 1 and worker.children(), "it runs")
        worker.kill9()
        worker.start()
    message = here.client.wait_final(name)
    assert message["status"] == "failed" and "WORKER_LOST" in json.dumps(message)
    assert here.record(name).get("failures", 0) == 0
    wait_until(lambda: not worker.children(), "no process is left")


# ---- who may be one ----


def refusal(worker):
    """What a refused worker says.  It ends, since that would not change by itself."""
    worker.wait_journal("link-refused")
    assert not worker.journal("link-attached")
    assert worker.wait_exit() in (1, 4, 5)
    return worker.log()


def test_curve_lets_in_workers_with_a_key_of_theirs(site):
    here = site(curve=True)
    good = here.worker()
    assert here.client.ask("echo", "sealed").ok()["response"] == "sealed"
    public, secret = (key.decode() for key in zmq.curve_keypair())
    hub_key = {"hub_key": str(here.hub.data / "bus.key.pub")}
    stranger_file = here.folder / "stranger.key"
    stranger_file.write_text(f"curve-secret {secret}\ncurve-public {public}\n")
    stranger = here.new_worker("stranger", worker={**hub_key, "curve_key": str(stranger_file)})
    stranger.spawn()
    assert "key" in refusal(stranger)
    other_hub = here.new_worker("confused", worker={**good.config["worker"], "name": "confused", "hub_key": public})
    other_hub.spawn()
    assert "key" in refusal(other_hub)
    reader_file = here.folder / "reader.key"
    reader_file.write_text(here.api_key("reader", "--scope", "messages:read", "--curve"))
    reader = here.new_worker("reader", worker={**hub_key, "curve_key": str(reader_file)})
    reader.spawn()
    text = refusal(reader)
    assert "FORBIDDEN" in text or "workers:run" in text
    assert set(here.nodes()) == {"w1"}
    # Plain ZeroMQ gets no word.
    probe = Bus(here.endpoint)
    here.clients.append(probe)
    probe.send("worker.attach", attach_body("probe", {"echo": 1}))
    assert not probe.commands.poll(int(scaled(0.5) * 1000))
    assert here.client.ask("echo", "still").ok()["response"] == "still"


def attach_body(name, teams, protocol=PROTOCOL, epoch=None, **more):
    return {
        "protocol": protocol,
        "version": "0.0.0-test",
        "name": name,
        "epoch": epoch or uuid.uuid4().hex[:16],
        "teams": [{"name": team, "capacity": capacity} for team, capacity in teams.items()],
        **more,
    }


class RawWorker:
    """A worker written from `muster describe messages`."""

    def __init__(self, site, name, teams, key=None, **more):
        self.bus = site.bus(key or site.api_key(f"{name}-raw", "--scope", "workers:run").strip())
        self.number = self.bus.send("worker.attach", attach_body(name, teams, **more))
        self.welcome = self.bus.receive(self.number)
        self.attachment = self.welcome["attachment"]
        self.sent = self.welcome.get("received", 0)

    def told(self, seconds=None):
        return self.bus.receive(self.number, seconds)

    def beat(self, **more):
        return self.bus.ask("worker.beat", attachment=self.attachment, **more)

    def parcel(self, kind, row, **more):
        self.sent += 1
        return self.send_parcel({"seq": self.sent, "kind": kind, "data": msgpack.packb(row), **more})

    def send_parcel(self, body):
        return self.bus.receive(self.bus.send("worker.parcel", {"attachment": self.attachment, "last": True, **body}))

    def report(self, job, attempt, **row):
        return self.parcel("report", {"job": job, "attempt": attempt, "state": "completed", **row})

    def say(self, job, attempt, text, team, **entry):
        row = {"at_ms": int(time.time() * 1000), "type": "job.chunk", "team": team, "job": job, "attempt": attempt}
        return self.parcel("events", {"entries": [{**row, "body": msgpack.packb({"text": text}), **entry}]})


def refused(code, call, *arguments, **options):
    with pytest.raises(Refused) as problem:
        call(*arguments, **options)
    assert problem.value.code == code, problem.value
    return str(problem.value.args[0].get("message", ""))


def test_a_worker_in_any_language(site):
    here = site()
    raw = RawWorker(here, "raw", {"echo": 2})
    assert raw.welcome["beat_ms"] <= raw.welcome["lease_ms"] / 2
    raw.beat()
    stream = here.client.stream("echo", "what?")
    run = raw.told()
    assert (run["prompt"], run["team"], run["attempt"]) == ("what?", "echo", 1)
    assert raw.say(run["job"], 1, "half ", "echo")["seq"] == 1
    assert stream.until("chunk").data["text"] == "half "
    raw.say(run["job"], 1, "whole", "echo")
    # The same parcel again: what is lost is the acknowledgement.
    raw.sent -= 1
    assert raw.say(run["job"], 1, "whole", "echo")["seq"] == 2
    assert raw.report(run["job"], 1, result="half whole", usage={"cost_usd": 0.5})["seq"] == 3
    events = stream.rest()
    assert text_of(events) == "half whole" and events[-1].kind == "complete"
    message = here.client.message(events[0].data["messageId"])
    assert message["response"] == "half whole" and here.record(message["messageId"])["usage"]["cost_usd"] == 0.5
    # Also when it is said once more.
    assert raw.report(run["job"], 1, result="something else")["seq"] == 4
    assert here.client.message(message["messageId"])["response"] == "half whole"
    cancelled = here.client.submit("echo", "never")
    run = raw.told()
    thread = threading.Thread(target=here.client.cancel, args=(cancelled,))
    thread.start()
    asked = raw.told()
    assert (asked["job"], asked["attempt"]) == (run["job"], 1)
    raw.report(run["job"], 1, state="cancelled")
    thread.join(scaled(20))
    assert here.client.message(cancelled)["status"] == "cancelled"
    raw.bus.ask("worker.leave", attachment=raw.attachment)
    assert here.wait_node("raw", "left")


def test_a_worker_cannot_speak_for_jobs_it_was_not_given(site):
    here = site(["echo", "other"])
    here.worker(teams={"echo": {"driver": "echo"}})
    raw = RawWorker(here, "raw", {"other": 1})
    stream = here.client.stream("echo", "@hang")
    name = stream.next().data["messageId"]
    here.client.wait_state(name, "processing")
    job = here.record(name)["id"]
    raw.say(job, 1, "forged", "echo")
    raw.say(job, 1, "forged", "other")
    raw.say(job, 1, "forged", "echo", type="job.completed", body=msgpack.packb({"duration_ms": 1}))
    raw.report(job, 1, result="forged")
    raw.report(job, 2, result="forged")
    raw.report(uuid.uuid4().bytes, 1, result="forged")
    assert here.client.message(name)["status"] == "processing"
    assert here.client.cancel(name).ok()["status"] == "cancelled"
    assert text_of(stream.rest()) == ""
    assert b"forged" not in json.dumps(events_of(here.admin), default=str).encode()
    # An attachment is its owner's.
    theirs = RawWorker(here, "third", {"other": 1})
    refused("CONFLICT", raw.bus.ask, "worker.beat", attachment=theirs.attachment)
    refused("CONFLICT", raw.bus.ask, "worker.leave", attachment=theirs.attachment)
    theirs.beat()


def test_hostile_parcels_harm_nobody(site):
    here = site(["echo", "other"])
    here.worker(teams={"echo": {"driver": "echo", "concurrency": 2}})
    bodies = [
        {"kind": "events", "data": b"\xff" * 1000},
        {"kind": "report", "data": b"\x80"},
        {"kind": "events", "data": msgpack.packb({"entries": [{"type": "nonsense", "team": "other"}]})},
        {"kind": "report", "data": msgpack.packb({"job": b"x", "attempt": -1})},
        {"kind": "events", "data": b"", "part": 7},
        {"kind": "events", "data": b"abc", "part": 3, "seq": 1 << 60},
        {"kind": "nothing", "data": b"abc"},
    ]
    for i, body in enumerate(bodies):
        raw = RawWorker(here, f"raw{i}", {"other": 1})
        try:
            raw.send_parcel({"seq": 1, **body})
        except Refused as problem:
            assert problem.code in ("INVALID_REQUEST", "CONFLICT"), (body, problem)
        assert here.client.ask("echo", f"fine {i}").ok()["response"] == f"fine {i}"
    assert here.nodes()["w1"]["state"] == "up"


def test_keys_kept_to_teams_and_scopes(site):
    here = site(["echo", "other"])
    reader = here.bus(here.api_key("reader", "--scope", "messages:read").strip())
    refused("FORBIDDEN", reader.ask, "worker.attach", **attach_body("x", {"echo": 1}))
    kept = here.bus(here.api_key("kept", "--scope", "workers:run", "--team", "echo").strip())
    refused("FORBIDDEN", kept.ask, "worker.attach", **attach_body("x", {"other": 1}))
    refused("FORBIDDEN", kept.ask, "worker.attach", **attach_body("x", {"echo": 1, "other": 1}))
    for kind, body in (
        ("queue.submit", {"job": {"team": "echo", "prompt": "x"}}),
        ("log.read", {}),
        ("job.read", {"job": uuid.uuid4().bytes}),
    ):
        refused("FORBIDDEN", kept.ask, kind, **body)
    assert kept.ask("worker.attach", **attach_body("x", {"echo": 1}))["attachment"] > 0
    nobody = Bus(here.endpoint)
    here.clients.append(nobody)
    refused("UNAUTHORIZED", nobody.ask, "worker.attach", **attach_body("y", {"echo": 1}))


def test_a_revoked_key_ends_its_worker(site):
    here = site(workers={"lease": f"{scaled(1):g}s"})
    worker = here.new_worker()
    here.api_key("goes", "--scope", "workers:run")
    key = here.api_key("goes2", "--scope", "workers:run").strip()
    worker.configure(merged(worker.config, {"worker": {"api_key": key}}))
    worker.start()
    name = here.client.submit("echo", "@hang")
    here.client.wait_state(name, "processing")
    assert here.hub.cli("key", "revoke", "goes2").returncode == 0
    here.wait_node("w1", "lost")
    here.client.wait_state(name, "queued")
    here.worker("w2")
    here.client.wait_state(name, "processing")
    assert here.node_of(name) == "w2"
    here.client.cancel(name).ok()
    worker.end_hard()


def test_other_protocols_are_refused_with_both_named(site):
    here = site()
    bus = here.bus(here.api_key("raw", "--scope", "workers:run").strip())
    for protocol in (PROTOCOL + 1, 999):
        text = refused(
            "VERSION_MISMATCH", bus.ask, "worker.attach", **attach_body("old", {"echo": 1}, protocol=protocol)
        )
        assert str(protocol) in text and str(PROTOCOL) in text and "0.0.0-test" in text and "version" in text, text
    assert "old" not in here.nodes() or here.nodes()["old"]["state"] not in ("up", "draining")
    assert here.hub.journal("node-refused")


def test_a_name_belongs_to_one(site):
    here = site()
    first = here.worker("twin")
    second = here.new_worker("twin", folder="twin-again")
    second.spawn()
    text = refusal(second)
    assert "twin" in text and "--name" in text and "CONFLICT" in text
    assert here.client.ask("echo", "by the first").ok()["response"] == "by the first"
    assert first.process.poll() is None and len(first.journal("link-attached")) == 1


def test_teams_that_the_hub_does_not_have_are_named(site):
    here = site(["echo"])
    unknown = here.new_worker("w1", teams={"echo": {"driver": "echo"}, "stranger": {"driver": "echo"}})
    unknown.spawn()
    text = refusal(unknown)
    assert "stranger" in text and "driver: remote" in text


def test_a_team_that_is_local_on_the_hub_takes_no_workers(site, daemons):
    here = site(["echo"])
    here.hub.stop()
    here.hub.configure(merged(here.hub.config, {"teams": {"local": {"driver": "echo"}}}))
    here.hub.start()
    worker = here.new_worker(teams={"local": {"driver": "echo"}})
    worker.spawn()
    text = refusal(worker)
    assert "local" in text and "remote" in text
    assert here.client.ask("local", "untouched").ok()["response"] == "untouched"


def test_a_team_that_the_worker_does_not_have_is_wrong_usage(site):
    here = site()
    worker = here.new_worker(arguments=["--teams", "echo,nonsense"])
    worker.spawn()
    assert worker.wait_exit() == 2
    assert "nonsense" in worker.log() + "\n".join(worker.out)


def test_wrong_settings_are_told_at_once(site, tmp_path):
    here = site()
    cases = {
        "hub": {"hub": "http://127.0.0.1:1"},
        "name": {"name": "two words"},
        "curve": {"hub_key": "tooshort", "curve_key": str(tmp_path / "nowhere")},
    }
    for case, section in cases.items():
        worker = here.new_worker(worker={"api_key": "muster_sk_x", **section}, folder=case)
        worker.spawn()
        assert worker.wait_exit() == 2, (case, worker.log())
        assert worker.log().strip() or worker.out, case


def test_a_team_without_any_worker_waits_and_says_so(site):
    here = site(["echo"])
    name = here.client.submit("echo", "later")
    assert here.client.message(name)["status"] == "queued"
    status = here.client.status("echo")
    assert (status["status"], status["driver"], status["queued"]) == ("offline", "remote", 1), status
    told = here.hub.cli("status")
    assert told.returncode == 0 and "offline" in told.stdout, told.stdout
    here.worker()
    here.wait_done(name, "later")
    assert here.client.status("echo")["status"] != "offline"


# ---- the way of a job through both logs ----


def test_a_request_id_leads_through_both_journals(site):
    here = site()
    worker = here.worker()
    request = "trace-of-one-job-4711"
    answer = here.client.post(
        "/api/v1/teams/echo/execute", {"task": "find me"}, headers={"X-Request-Id": request}
    ).ok(202)
    here.wait_done(answer["jobId"])
    message = here.client.message(answer["jobId"])["messageId"]
    for line in (
        here.hub.wait_journal("job-handed-over", request_id=request),
        here.hub.wait_journal("job-reported", request_id=request),
        worker.wait_journal("job-begun", request_id=request),
    ):
        assert line["message_id"] == message and line["attempt"] == 1, line
    assert here.hub.journal("job-handed-over", request_id=request)[0]["node"] == "w1"
    assert {e.get("trace") for e in here.events(message)} == {request}
    assert here.hub.journal("node-attached")
    secret = worker.config["worker"]["api_key"]
    assert secret not in here.hub.log() and secret not in worker.log()


# ---- the real thing ----


@pytest.fixture(scope="session")
def claude(tmp_path_factory):
    try:
        return claude_cli.program(tmp_path_factory.mktemp("claude-home"))
    except claude_cli.Unavailable as why:
        pytest.skip(f"no Claude Code CLI: {why}")


@pytest.mark.claude_cli
@pytest.mark.deadline(120)
def test_the_real_cli_on_a_worker(site, model, claude, tmp_path):
    here = site(["claude"], queue={"max_attempts": 3})
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    env = {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / "config"),
        "CLAUDE_CODE_TMPDIR": str(tmp_path / "w1" / "tmp"),
        "ANTHROPIC_BASE_URL": model.url,
        "ANTHROPIC_API_KEY": "sk-test",
        "CLAUDE_CODE_MAX_RETRIES": "0",
    }
    team = {"driver": "claude", "command": [str(claude)], "directory": str(work), "env": env, "stop_timeout": "2s"}
    worker = here.worker(teams={"claude": team})
    client = here.client

    def one_pid():
        status = client.status("claude")
        return next((p["pid"] for p in status["processes"] if p["pid"]), None)

    body = client.ask("claude", "echo: first words", sessionId="talk").ok()
    assert body["response"] == "first words" and body["metadata"]["usage"]["costUsd"] > 0
    pid = wait_until(one_pid, "its process is shown")
    assert "first words" in client.ask("claude", "recall:", sessionId="talk").ok()["response"]
    assert one_pid() == pid, "a warm process is used again"
    wait_until(
        lambda: any("first words" in file.read_text() for file in (home / "config" / "projects").rglob("*.jsonl")),
        "the CLI has written its history",
    )
    stream = client.stream("claude", "gate: door opened", sessionId="talk")
    name = stream.next().data["messageId"]
    stream.until("chunk")
    model.asked("door", 1, scaled(30))
    worker.kill9()
    model.release("door")
    worker.start()
    message = client.wait_final(name, 60)
    assert message["status"] == "completed", message
    assert here.record(name)["attempt"] == 2 and here.record(name).get("failures", 0) == 0
    assert "first words" in client.ask("claude", "recall:", sessionId="talk").ok()["response"], "it was resumed"
    worker.stop()
    assert not worker.children()
