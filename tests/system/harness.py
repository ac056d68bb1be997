# SPDX-License-Identifier: MPL-2.0
"""What the system tests stand on: the daemon as a process, HTTP clients of several kinds, ways to look at processes.

Nothing here waits for a fixed time.  `wait_until` polls a condition under a deadline; MUSTER_TEST_SLOW stretches all
deadlines, for builds with sanitizers."""

import collections
import http.client
import json
import os
import pathlib
import random
import re
import select
import signal
import socket
import stat
import subprocess
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
SLOW = float(os.environ.get("MUSTER_TEST_SLOW", "1"))
FINAL = ("completed", "failed", "cancelled")
PYTHON = "/usr/bin/python3"


def scaled(seconds):
    return seconds * SLOW


def wait_until(check, what, seconds=10.0, pause=0.02):
    """Return the first true value of check(); fail with `what` when there is none in time."""
    end = time.monotonic() + scaled(seconds)
    pulse = threading.Event()
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {scaled(seconds):g} s: {what}")
        pulse.wait(pause)


def free_port():
    """Below those that the kernel gives to connections, so that none of them takes it before the daemon does."""
    for port in random.sample(range(15000, 32000), 1000):
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no port is free")


def binary():
    named = os.environ.get("MUSTER_BIN")
    return pathlib.Path(named) if named else ROOT / "build" / "release" / "muster"


# ---- processes ----


def environ_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def processes_with(*entries):
    """Processes whose environment has all of these "NAME=value"; a value of "" matches any."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        environ = environ_of(name)
        if environ and all(any(e == w or (w.endswith(b"=") and e.startswith(w)) for e in environ) for w in entries):
            found.append(int(name))
    return found


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


class Footprint(collections.namedtuple("Footprint", "fds threads rss_kib")):
    @staticmethod
    def of(pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return Footprint(
            len(os.listdir(f"/proc/{pid}/fd")),
            int(re.search(r"^Threads:\s+(\d+)", status, re.M).group(1)),
            int(re.search(r"^VmRSS:\s+(\d+)", status, re.M).group(1)),
        )


# ---- HTTP ----


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode()

    def header(self, name):
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return None

    def error(self, status, code=None):
        """Check that this is an error answer in the seed's shape and return its body."""
        assert self.status == status, (self.status, self.body[:2000])
        body = self.json
        for field, kind in (("error", str), ("code", str), ("message", str), ("timestamp", int)):
            assert isinstance(body.get(field), kind), (field, body)
        if code is not None:
            assert body["code"] == code, body
        return body

    def ok(self, status=200):
        assert self.status == status, (self.status, self.body[:2000])
        return self.json

    def __repr__(self):
        return f"<{self.status} {self.body[:500]!r}>"


class Client:
    """One caller.  Every request has a connection of its own unless `connection` is given."""

    def __init__(self, url, key=None):
        self.url = url
        self.key = key
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port

    def with_key(self, key):
        return Client(self.url, key)

    def connection(self, seconds=60):
        return http.client.HTTPConnection(self.host, self.port, timeout=scaled(seconds))

    def head(self, headers=None):
        head = dict(headers or {})
        if self.key and "Authorization" not in head:
            head["Authorization"] = "Bearer " + self.key
        return head

    def request(self, method, path, body=None, headers=None, connection=None, seconds=60):
        head = self.head(headers)
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if body is not None and "Content-Type" not in head:
            head["Content-Type"] = "application/json"
        if isinstance(body, str):
            body = body.encode()
        own = connection is None
        connection = connection or self.connection(seconds)
        try:
            connection.request(method, path, body=body, headers=head)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            if own:
                connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.request("POST", path, body=body, **options)

    def ask(self, team, question, **fields):
        return self.post(f"/api/v1/teams/{team}/ask", {"question": question, **fields})

    def execute(self, team, task, **fields):
        return self.post(f"/api/v1/teams/{team}/execute", {"task": task, **fields})

    def submit(self, team, task, **fields):
        """Execute and return the job's id."""
        return self.execute(team, task, **fields).ok(202)["jobId"]

    def message(self, name):
        return self.get(f"/api/v1/messages/{name}").ok()

    def status(self, team):
        return self.get(f"/api/v1/teams/{team}/status").ok()

    def history(self, **query):
        return self.get("/api/v1/messages/history?" + urllib.parse.urlencode(query)).ok()

    def cancel(self, name):
        return self.post(f"/api/v1/messages/{name}/cancel")

    def wait_state(self, name, states, seconds=20):
        states = (states,) if isinstance(states, str) else states

        def look():
            message = self.message(name)
            return message if message["status"] in states else None

        return wait_until(look, f"{name} is one of {states}", seconds)

    def wait_final(self, name, seconds=20):
        return self.wait_state(name, FINAL, seconds)

    def stream(self, team, message, **fields):
        return Sse(self, "POST", f"/api/v1/teams/{team}/stream", {"message": message, **fields})

    def attach(self, name, after=None, last_event_id=None):
        path = f"/api/v1/messages/{name}/stream" + (f"?after={after}" if after is not None else "")
        return Sse(self, "GET", path, headers={"Last-Event-ID": last_event_id} if last_event_id is not None else None)


Event = collections.namedtuple("Event", "kind id data")


class Wire:
    """A socket with a buffer: for what http.client will not do."""

    def __init__(self, client, receive_buffer=None):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(scaled(20))
        self.sock.connect((client.host, client.port))
        self.buffer = b""
        self.ended = False

    def send(self, data):
        self.sock.sendall(data)

    def fill(self):
        """Read what there is into the buffer; False at the end."""
        try:
            data = self.sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            self.ended = True
            return False
        self.buffer += data
        return True

    def line(self):
        """The next line without its end, or None."""
        while b"\n" not in self.buffer:
            if not self.fill():
                return None
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.rstrip(b"\r")

    def exactly(self, size):
        while len(self.buffer) < size:
            if not self.fill():
                return None
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def everything(self):
        while self.fill():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def answer(self):
        """The next whole answer on the connection, or None when it was closed instead."""
        head = self.head()
        if head is None:
            return None
        status, headers = head
        fields = {name.lower(): value for name, value in headers}
        if "chunked" in fields.get("transfer-encoding", ""):
            body = b"".join(iter(self.chunk, b""))
        elif "content-length" in fields:
            body = self.exactly(int(fields["content-length"])) or b""
        else:
            body = b"" if status in (204, 304) else self.everything()
        return Answer(status, headers, body)

    def head(self):
        first = self.line()
        if first is None or not first.startswith(b"HTTP/1."):
            return None
        headers = []
        while True:
            line = self.line()
            if line is None:
                return None
            if not line:
                return int(first.split()[1]), headers
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.strip(), value.strip()))

    def chunk(self):
        size = self.line()
        if size is None:
            return b""
        data = self.exactly(int(size.split(b";")[0], 16)) or b""
        self.line()
        return data

    def closed_by_peer(self, seconds=20):
        """Wait until the other side has closed, throwing away what it still says."""
        end = time.monotonic() + scaled(seconds)
        while time.monotonic() < end:
            ready, _, _ = select.select([self.sock], [], [], max(0.0, end - time.monotonic()))
            if ready and not self.fill():
                return True
        return False

    def close(self):
        self.sock.close()

    def reset(self):
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


class Sse:
    """One event stream.  `comments` keeps comment lines, `retry` the reconnection time; neither is an event."""

    def __init__(self, client, method, path, body=None, headers=None, receive_buffer=None):
        payload = b"" if body is None else json.dumps(body).encode()
        head = client.head(headers)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {client.host}:{client.port}", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
        self.wire = Wire(client, receive_buffer)
        self.wire.send("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        head = self.wire.head()
        assert head is not None, "the stream's connection was closed without an answer"
        self.status, self.headers = head
        fields = {name.lower(): value for name, value in self.headers}
        self.chunked = "chunked" in fields.get("transfer-encoding", "")
        self.content_type = fields.get("content-type", "")
        self.fields = fields
        self.body = b""
        if self.status != 200:
            size = int(fields.get("content-length", 0))
            self.body = self.wire.exactly(size) or b""
        self.text = b""
        self.comments = []
        self.retry = None
        self.last_id = None
        self.events = []

    def more(self):
        if not self.chunked:
            if not self.wire.buffer and not self.wire.fill():
                return False
            self.text += self.wire.buffer
            self.wire.buffer = b""
            return True
        data = self.wire.chunk()
        self.text += data
        return bool(data)

    def next(self, seconds=20):
        """The next event, or None at the end of the stream."""
        self.wire.sock.settimeout(scaled(seconds))
        while True:
            while b"\n\n" not in self.text:
                if not self.more():
                    return None
            block, self.text = self.text.split(b"\n\n", 1)
            event = self.parse(block.decode())
            if event:
                self.events.append(event)
                return event

    def parse(self, block):
        kind, data, name = "message", [], None
        for line in block.split("\n"):
            if line.startswith(":"):
                self.comments.append(line[1:].strip())
                continue
            field, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if field == "event":
                kind = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                name = value
            elif field == "retry":
                self.retry = int(value)
        if name is not None:
            self.last_id = name
        return Event(kind, name, json.loads("\n".join(data))) if data else None

    def until(self, *kinds, seconds=20):
        """The next event of these kinds; None at the end of the stream."""
        while True:
            event = self.next(seconds)
            if event is None or event.kind in kinds:
                return event

    def rest(self, seconds=20):
        """All events up to the end of the stream, those read before included."""
        while self.next(seconds):
            pass
        return self.events

    def close(self):
        self.wire.close()


def text_of(events):
    return "".join(e.data["text"] for e in events if e.kind == "chunk")


def cursor(event_id):
    """A cursor's epoch and number."""
    epoch, _, number = event_id.rpartition("-")
    return epoch, int(number)


def assert_no_gap_no_double(events):
    """Numbers rise; what chunks say is checked by the caller."""
    ids = [cursor(e.id) for e in events if e.id]
    assert ids == sorted(set(ids), key=lambda c: c[1]), ids
    assert len({epoch for epoch, _ in ids}) <= 1, ids


def curl(url, *arguments, key=None, method=None, data=None, seconds=30):
    """The real curl program."""
    line = ["curl", "-sS", "--noproxy", "*", "--max-time", str(scaled(seconds)), "-i"]
    if key:
        line += ["-H", f"Authorization: Bearer {key}"]
    if method:
        line += ["-X", method]
    if data is not None:
        line += [
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            data if isinstance(data, str) else json.dumps(data),
        ]
    done = subprocess.run(line + list(arguments) + [url], capture_output=True, timeout=scaled(seconds) + 5)
    assert done.returncode == 0, done.stderr.decode()
    return parse_curl(done.stdout)


def parse_curl(output):
    head, _, body = output.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:]]
    return Answer(int(lines[0].split()[1]), headers, body)


# ---- the daemon ----

DEFAULTS = {
    "auth": {"rate_limit": {"requests": 0}},
    "shutdown": {"grace": "100ms"},
    "http": {"threads": 64, "max_sockets": 24, "max_waiting": 24},
    "queue": {"retry_delay": "20ms"},
    "log": {"format": "json"},
}


def merged(base, extra):
    out = dict(base)
    for name, value in extra.items():
        out[name] = merged(out[name], value) if isinstance(value, dict) and isinstance(out.get(name), dict) else value
    return out


class Daemon:
    """One data folder and, from start() to stop() or kill9(), the daemon that serves it.  `prefix` stands before its
    command, and has to keep its process id."""

    def __init__(self, folder, config=None, env=None, plain=False, prefix=(), listen="127.0.0.1:0"):
        self.folder = pathlib.Path(folder)
        self.data = self.folder / "data"
        self.config_file = self.folder / "muster.yaml"
        self.tmp = self.folder / "tmp"
        self.tmp.mkdir(parents=True, exist_ok=True)
        self.env = env or {}
        self.process = None
        self.runs = 0
        self.out = []
        self.plain = plain
        self.prefix, self.listen = list(prefix), listen
        self.configure(config or {})

    def configure(self, config):
        """A dict is laid over the defaults; YAML holds JSON."""
        self.config = config
        text = config if isinstance(config, str) else json.dumps(merged(DEFAULTS, config), indent=1)
        self.config_file.write_text(text)

    def environment(self):
        keep = ("PATH", "HOME", "LANG", "LC_ALL", "USER", "LOGNAME", "SHELL", "TZ")
        env = {name: os.environ[name] for name in keep if name in os.environ}
        env["TMPDIR"] = str(self.tmp)  # agents inherit it: tells this daemon's processes from others'
        sanitizer = f"log_path={self.folder}/sanitizer:exitcode=99"
        env["ASAN_OPTIONS"] = sanitizer + ":detect_leaks=1:abort_on_error=0"
        env["UBSAN_OPTIONS"] = sanitizer + ":print_stacktrace=1"
        if "LSAN_OPTIONS" in os.environ:
            env["LSAN_OPTIONS"] = os.environ["LSAN_OPTIONS"]
        env.update(self.env)
        return env

    def command(self):
        line = [*self.prefix, str(binary()), "serve", "--data", str(self.data), "--listen", self.listen]
        return line if self.plain else line + ["--config", str(self.config_file)]

    def spawn(self):
        assert self.process is None
        self.runs += 1
        self.out = []
        self.log_file = self.folder / f"log-{self.runs}.txt"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.changed = threading.Condition()
        self.out_ended = False
        self.reader = threading.Thread(target=self.read_out, args=(self.process.stdout,), daemon=True)
        self.reader.start()

    def read_out(self, pipe):
        with pipe:
            for line in pipe:
                with self.changed:
                    self.out.append(line.decode().rstrip("\n"))
                    self.changed.notify_all()
        with self.changed:
            self.out_ended = True
            self.changed.notify_all()

    def start(self, seconds=20):
        self.spawn()
        with self.changed:
            self.changed.wait_for(lambda: self.ready_line() or self.out_ended, scaled(seconds))
            ready = self.ready_line()
        if not ready:
            problem = f"no ready line; stdout {self.out}, stderr {self.log()[-3000:]}"
            self.end_hard()
            raise AssertionError(problem)
        self.url = ready.split()[-1]
        return self

    def ready_line(self):
        return next((line for line in self.out if " is ready at http" in line), None)

    @property
    def pid(self):
        return self.process.pid

    @property
    def key(self):
        return (self.data / "admin.key").read_text().strip()

    @property
    def client(self):
        file = self.data / "admin.key"
        return Client(self.url, file.read_text().strip() if file.exists() else None)

    def log(self):
        return self.log_file.read_text(errors="replace")

    def log_lines(self):
        """Whole JSON lines of this run's log."""
        lines = self.log().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def journal(self, name, **fields):
        """Lines of this run's log with this id, and with these fields."""
        wanted = {"id": name, **fields}
        return [line for line in self.log_lines() if all(line.get(key) == value for key, value in wanted.items())]

    def wait_journal(self, name, seconds=20, **fields):
        return wait_until(lambda: self.journal(name, **fields), f"{name} {fields} in {self.log_file}", seconds)[-1]

    def children(self):
        return processes_with(b"MUSTER_CHILD=", b"TMPDIR=" + os.fsencode(self.tmp))

    def cli(self, *arguments, seconds=30, env=None, stdin=None):
        """A client command of the program, pointed at this daemon."""
        environ = self.environment()
        environ["MUSTER_URL"] = self.url
        environ["MUSTER_API_KEY"] = self.client.key or ""
        environ.update(env or {})
        return subprocess.run(
            [str(binary()), *arguments],
            env={k: v for k, v in environ.items() if v is not None},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=scaled(seconds),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
        )

    def kill9(self):
        self.process.kill()
        self.process.wait(scaled(10))
        self.reader.join(scaled(10))
        self.process = None

    def end_hard(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait(scaled(10))
        self.process = None

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, seconds=30, knock=False):
        """`knock`: its HTTP library looks for the end every two seconds or when a connection comes; spare the pause."""
        end = time.monotonic() + scaled(seconds)
        while True:
            try:
                self.process.wait(0.02 if knock else scaled(seconds))
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() >= end:
                    stacks = self.stacks()
                    self.end_hard()
                    raise AssertionError(f"the daemon did not end; its threads wait in {stacks}") from None
                self.knock()
        self.reader.join(scaled(10))  # what it says last is not taken for the next run's
        status, self.process = self.process.returncode, None
        return status

    def knock(self):
        try:
            socket.create_connection(urllib.parse.urlsplit(self.url).netloc.split(":"), timeout=1).close()
        except OSError:
            pass

    def stacks(self):
        found = collections.Counter()
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                found[(task / "comm").read_text().strip() + ":" + (task / "wchan").read_text()] += 1
            except OSError:
                continue
        return dict(found)

    def stop(self, seconds=30):
        """SIGTERM, and nothing may be left behind."""
        self.terminate()
        status = self.wait_exit(seconds, knock=True)
        assert status == 0, (status, self.log()[-3000:])
        self.assert_clean()

    def assert_clean(self):
        left = {pid: pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.children() if alive(pid)}
        assert not left, f"processes left: {left}"
        sockets = [str(p) for p in self.data.rglob("*") if stat.S_ISSOCK(p.lstat().st_mode)]
        assert not sockets, sockets
        self.assert_no_sanitizer_output()

    def assert_no_sanitizer_output(self):
        reports = [p.read_text(errors="replace")[:6000] for p in self.folder.glob("sanitizer.*")]
        assert not reports, reports
        for path in self.folder.glob("log-*.txt"):
            text = path.read_text(errors="replace")
            for word in ("AddressSanitizer", "LeakSanitizer", "runtime error:", "MUSTER_ASSERT"):
                assert word not in text, text[-6000:]

    def end_of_test(self):
        """Called by the fixture: stop what still runs, check it, and leave no process behind in any case."""
        try:
            if self.process is None:
                self.assert_no_sanitizer_output()
            elif self.process.poll() is not None:
                status, self.process = self.process.returncode, None
                raise AssertionError(f"the daemon died with {status}: {self.log()[-3000:]}")
            else:
                self.stop()
        finally:
            self.end_hard()
            for pid in self.children():
                os.kill(pid, signal.SIGKILL)


class Worker(Daemon):
    """A data folder of a worker and, from start() to stop() or kill9(), the worker.  `worker` in its configuration says
    where the hub is; more arguments of the command line stand in `arguments`."""

    def __init__(self, folder, config, arguments=(), **options):
        self.arguments = list(arguments)
        super().__init__(folder, config, **options)

    def configure(self, config):
        self.config = config
        kept = {name: DEFAULTS[name] for name in ("shutdown", "log")}
        self.config_file.write_text(json.dumps(merged(kept, config), indent=1))

    def command(self):
        line = [*self.prefix, str(binary()), "worker", "--config", str(self.config_file), "--data", str(self.data)]
        return line + self.arguments

    def start(self, seconds=20):
        """Until it is attached."""
        self.spawn()
        try:
            self.wait_attached(seconds=seconds)
        except AssertionError as problem:
            self.end_hard()
            raise AssertionError(f"{problem}: {self.log()[-3000:]}") from None
        return self

    def wait_attached(self, times=1, seconds=20):
        """So often in this run."""
        wait_until(
            lambda: len(self.journal("link-attached")) >= times or self.process.poll() is not None,
            f"attached {times} times",
            seconds,
        )
        assert self.process.poll() is None, f"the worker ended with {self.process.returncode}: {self.log()[-3000:]}"

    def knock(self):
        pass
