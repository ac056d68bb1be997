# SPDX-License-Identifier: MPL-2.0
"""What all rows stand on: folders, child processes that never outlive the run, free ports, and wrk."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench"
PEERS = ROOT / "build" / "bench-peers"
KEY = "muster_sk_bench_0123456789abcdef0123456789abcdef"
BODY = json.dumps({
    "task": "Run npm audit and fix any vulnerabilities with auto-fixable patches",
    "priority": "normal",
    "callback": {"url": "https://api.example.com/webhooks/iris", "method": "POST",
                 "headers": {"Authorization": "Bearer webhook-secret"}},
})


class Missing(Exception):
    """Something that a row needs is not there; the row says so instead of a number."""


class Lab:
    def __init__(self, quick):
        self.quick = quick
        self.rounds = 1 if quick else 5
        self.seconds = 1 if quick else 2
        self.connections = (16,) if quick else (64, 256)
        (ROOT / "build").mkdir(exist_ok=True)
        # On the disk of the checkout: what is durable here must be so on a real file system.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-run-", dir=ROOT / "build"))
        self.plot = ROOT / "bench" / "growth.svg"
        self.children = []

    def say(self, text):
        print(text, flush=True)

    def new_folder(self, name):
        return pathlib.Path(tempfile.mkdtemp(prefix=name + "-", dir=self.folder))

    def new_file(self, name, data):
        path = self.new_folder(name) / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    # ---- processes ----

    def clean_env(self, **more):
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(home), "LANG": "C.UTF-8",
                "TMPDIR": str(self.folder), **more}

    def spawn(self, argv, env=None, **options):
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", open(self.folder / "stderr.txt", "ab"))
        options.setdefault("stdin", subprocess.DEVNULL)
        child = subprocess.Popen([str(a) for a in argv], env=env or self.clean_env(), cwd=self.folder, **options)
        self.children.append(child)
        return child

    def end(self, child):
        if child in self.children:
            self.children.remove(child)
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(3)
            except subprocess.TimeoutExpired:
                child.kill()
        child.wait()

    def end_all(self):
        for child in list(self.children):
            self.end(child)

    def close(self):
        self.end_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    def program(self, name):
        return BUILD / f"bench_{name}"

    def run(self, name, *arguments, seconds=60):
        """One of our load programs; its last line is JSON."""
        done = subprocess.run([str(self.program(name)), *map(str, arguments)], capture_output=True, text=True,
                              timeout=seconds, env=self.clean_env())
        if not done.stdout.strip():
            raise RuntimeError(f"bench_{name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return json.loads(done.stdout.splitlines()[-1])

    # ---- ports ----

    def port(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def wait_port(self, port, child, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if child.poll() is not None:
                raise RuntimeError(f"{child.args[0]} ended with {child.returncode}")
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                return
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"{child.args[0]} does not listen on {port}")

    def serve(self, argv, port, env=None):
        child = self.spawn(argv, env)
        self.wait_port(port, child)
        return child

    # ---- HTTP ----

    def wrk_script(self, key, body=None):
        lines = [f'wrk.headers["Authorization"] = "Bearer {key}"']
        if body is not None:
            lines += ['wrk.method = "POST"', f"wrk.body = [==[{body}]==]",
                      'wrk.headers["Content-Type"] = "application/json"']
        return self.new_file("wrk.lua", "\n".join(lines))

    def wrk(self, url, connections, script, seconds=None):
        if not shutil.which("wrk"):
            raise Missing("wrk is not installed")
        line = ["wrk", "-t1", f"-c{connections}", f"-d{seconds or self.seconds}s", "--latency", "--timeout", "8s"]
        done = subprocess.run([*line, "-s", str(script), url], capture_output=True, text=True, timeout=60)
        return parse_wrk(done.stdout)


MS = {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}


def parse_wrk(text):
    def number(pattern):
        match = re.search(pattern, text)
        return float(match[1]) if match else 0

    def latency(percent):
        match = re.search(rf"^\s*{percent}%\s+([\d.]+)(us|ms|s|m)", text, re.M)
        return float(match[1]) * MS[match[2]] if match else 0

    if "Requests/sec" not in text:
        raise RuntimeError(f"wrk: {text[-500:]}")
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = number(r"Non-2xx or 3xx responses: (\d+)") + (sum(map(int, broken.groups())) if broken else 0)
    return {"rate": number(r"Requests/sec:\s+([\d.]+)"), "p50_ms": latency(50), "p99_ms": latency(99),
            "errors": int(errors)}


# ---- the daemon ----


def merged(base, extra):
    out = dict(base)
    for name, value in extra.items():
        out[name] = merged(out[name], value) if isinstance(value, dict) and isinstance(out.get(name), dict) else value
    return out


class Daemon:
    """muster with a data folder of its own.  Everything is as a user has it (log, limits, validation, durability); only
    the sizes of rates and queues are raised, so that they count but do not refuse."""

    DEFAULTS = {
        "auth": {"keys": [
            {"name": "bench", "key": KEY, "scopes": ["admin:*", "teams:read", "teams:write", "messages:read",
                                                     "messages:write", "messages:stream", "processes:manage"],
             "rate_limit": {"requests": 1000000000, "window": "1m"}},
            {"name": "free", "key": KEY + "_free", "scopes": ["teams:read", "messages:write", "messages:stream"],
             "rate_limit": {"requests": 0, "window": "1m"}},
        ]},
        "queue": {"max_queued": 10000000},
        "shutdown": {"grace": "0s"},
        "log": {"format": "json"},
        "teams": {"bench": {"driver": "echo", "paused": True, "max_queued": 10000000}},
    }

    def __init__(self, lab, config=None, start=True):
        self.lab = lab
        self.folder = lab.new_folder("muster")
        self.config = merged(self.DEFAULTS, config or {})
        (self.folder / "muster.yaml").write_text(json.dumps(self.config))
        self.data = self.folder / "data"
        self.child = None
        if start:
            self.start()

    def start(self):
        with open(self.folder / "log.txt", "ab") as log:
            self.child = self.lab.spawn(
                [BUILD / "muster", "serve", "--config", self.folder / "muster.yaml", "--data", self.data,
                 "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=log, text=True)
        for line in self.child.stdout:
            if " is ready at http" in line:
                self.url = line.split()[-1]
                self.port = int(self.url.rpartition(":")[2])
                return self
        raise RuntimeError(f"muster did not start: {(self.folder / 'log.txt').read_text()[-2000:]}")

    @property
    def pid(self):
        return self.child.pid

    def call(self, method, path, body=None, key=KEY, timeout=60):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": f"Bearer {key}"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout) as answer:
            return json.load(answer)

    def stop(self):
        """Its HTTP library looks for the end when a connection comes; spare the pause of two seconds."""
        self.child.terminate()
        end = time.monotonic() + 10
        while self.child.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                pass
            time.sleep(0.02)
        self.child.stdout.close()
        self.lab.end(self.child)

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def rss_mb(pid, field="VmRSS"):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(field + r":\s+(\d+)", text)[1]) / 1024
