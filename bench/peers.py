# SPDX-License-Identifier: MPL-2.0
"""The programs that muster is measured beside: installed where they are missing (apt, npm), started on loopback with a
folder of their own.  One that cannot be had raises Missing, and its rows say so."""

import json
import os
import shutil
import subprocess

from lab import KEY, Missing, PEERS

# redis-tools holds the server too, and installing it starts no service.
APT = {"wrk": ("wrk", "wrk"), "redis": ("redis-check-rdb", "redis-tools"), "beanstalkd": ("beanstalkd", "beanstalkd"),
       "node": ("node", "nodejs"), "npm": ("npm", "npm"), "valgrind": ("valgrind", "valgrind")}
NPM = {"express": "4", "ioredis": "5", "bullmq": "5", "@sandbox-agent/cli": "0.4"}


def quietly(argv, seconds, **options):
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=seconds, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return "" if done.returncode == 0 else done.stdout.decode(errors="replace").strip()[-300:]


class Peers:
    def __init__(self, lab, install):
        self.lab = lab
        self.install = install
        self.problems = {}

    # ---- installing ----

    def apt(self, *names):
        """Each name's program, installed if need be."""
        wanted = [APT[name][1] for name in names if not shutil.which(APT[name][0]) and name not in self.problems]
        if wanted and self.install:
            self.lab.say(f"installing: {' '.join(wanted)}")
            sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
            env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
            command = [*sudo, "apt-get", "install", "-y", "-q", "--no-install-recommends", *wanted]
            # Lists may be old or missing; they are fetched only then.
            problem = quietly(command, 300, env=env)
            if problem:
                quietly([*sudo, "apt-get", "update", "-q"], 120, env=env)
                problem = quietly(command, 300, env=env)
            for name in names:
                self.problems[name] = problem
        for name in names:
            if not shutil.which(APT[name][0]):
                raise Missing(f"{name} is not installed" + self.why(name))
        return [shutil.which(APT[name][0]) for name in names]

    def why(self, name):
        if not self.install:
            return " (tools/bench without --quick installs it)"
        return f": {self.problems[name]}" if self.problems.get(name) else ""

    def npm(self, *names):
        """The folder that has these packages."""
        self.apt("node", "npm")
        PEERS.mkdir(parents=True, exist_ok=True)
        missing = [n for n in names if not (PEERS / "node_modules" / n).exists()]
        if missing and self.install and "npm" not in self.problems:
            self.lab.say(f"installing: {' '.join(missing)}")
            (PEERS / "package.json").write_text(json.dumps({"private": True, "dependencies": NPM}))
            self.problems["npm"] = quietly(["npm", "install", "--no-fund", "--no-audit", "--loglevel=error"], 300,
                                           cwd=PEERS)
        for name in names:
            if not (PEERS / "node_modules" / name).exists():
                raise Missing(f"{name} is not installed" + self.why("npm"))
        return PEERS

    def versions(self):
        found = {}
        for name, argv in {"redis": ["redis-cli", "--version"], "beanstalkd": ["beanstalkd", "-v"],
                           "node": ["node", "--version"]}.items():
            if shutil.which(argv[0]):
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                found[name] = (done.stdout or done.stderr).split()[-1]
        for name in NPM:
            package = PEERS / "node_modules" / name / "package.json"
            if package.exists():
                found[name] = json.loads(package.read_text())["version"]
        return found

    # ---- starting ----

    def hello(self, threads):
        port = self.lab.port()
        self.lab.serve([self.lab.program("hello"), port, threads], port)
        return port

    def commit_each(self, threads):
        port = self.lab.port()
        self.lab.serve([self.lab.program("commit_each"), port, threads, self.lab.new_folder("lmdb")], port)
        return port

    def redis(self, durable):
        self.apt("redis")
        port = self.lab.port()
        folder = self.lab.new_folder("redis")
        server = folder / "redis-server"
        server.symlink_to(shutil.which("redis-check-rdb"))
        keep = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        self.lab.serve([server, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder, *keep], port)
        return port

    def beanstalkd(self):
        program, = self.apt("beanstalkd")
        port = self.lab.port()
        self.lab.serve([program, "-l", "127.0.0.1", "-p", port, "-b", self.lab.new_folder("beanstalkd"), "-f0",
                        "-z", "65535"], port)
        return port

    def iris(self, mode):
        """The iris document's stack; its redis syncs each write where its queue is to be durable."""
        folder = self.npm("express", "ioredis", "bullmq")
        redis = self.redis(durable=mode == "bullmq") if mode != "sse" else 0
        port = self.lab.port()
        env = self.lab.clean_env(BENCH_KEY=KEY, NODE_PATH=str(folder / "node_modules"), NODE_ENV="production")
        from lab import ROOT
        child = self.lab.serve([shutil.which("node"), ROOT / "bench" / "iris.js", port, redis, mode], port, env)
        return port, child

    def sandbox_agent_program(self):
        folder = self.npm("@sandbox-agent/cli")
        found = sorted((folder / "node_modules" / "@sandbox-agent").glob("cli-linux-*/bin/sandbox-agent"))
        if not found:
            raise Missing("@sandbox-agent/cli has no program for this machine")
        return found[0]

    def sandbox_agent(self):
        port = self.lab.port()
        child = self.lab.serve([self.sandbox_agent_program(), "server", "--port", port, "--token", KEY,
                                "--no-telemetry"], port)
        return port, child
