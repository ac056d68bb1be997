# SPDX-License-Identifier: MPL-2.0
"""Where the instructions of a request go: muster under callgrind, the same request many times on a few connections, and
what is spent between the first and the last by part and by function.  User space only; the kernel is not seen."""

import collections
import http.client
import pathlib
import re
import subprocess
import threading

from lab import BODY, BUILD, Daemon, KEY, Missing

REQUESTS = 2000
CONNECTIONS = 8

# The first pattern that fits "file:function [object]" names the part.
PARTS = (
    ("civetweb", r"civetweb"),
    ("zmq, czmq", r"libzmq|libczmq"),
    ("LMDB", r"liblmdb"),
    ("msgpack", r"libmsgpack|msgpack/"),
    ("jansson", r"libjansson"),
    ("libsodium", r"libsodium"),
    ("printf family", r"printf|_itoa|strchrnul|_IO_"),
    ("malloc, free", r"malloc|_int_free|:free|realloc|calloc|arena_get|unlink_chunk|tcache"),
    ("copies and compares", r"mem(cpy|move|set|cmp|chr)|str(len|cmp|ncmp|chr|casecmp|ncasecmp)"),
    ("locks", r"pthread|lll_|futex|cond_"),
    ("schemas: codecs, JSON", r"\bschemas/"),
    ("transport: mailboxes", r"\btransport/"),
    ("store", r"\bstore/"),
    ("actors: log", r"\bactors/log\.c"),
    ("actors: limiter", r"\bactors/limit"),
    ("actors: queue", r"\bactors/queue"),
    ("actors: others", r"\bactors/"),
    ("api: dialect", r"\bdialects/"),
    ("api: gateway", r"\b(api|http)/"),
)


class Profiled(Daemon):
    """The daemon under callgrind, which counts only when it is told to."""

    def start(self):
        self.out = self.folder / "callgrind.out"
        with open(self.folder / "log.txt", "ab") as log:
            self.child = self.lab.spawn(
                ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=no", "--trace-children=no",
                 f"--callgrind-out-file={self.out}", BUILD / "muster", "serve", "--config",
                 self.folder / "muster.yaml", "--data", self.data, "--listen", "127.0.0.1:0"],
                stdout=subprocess.PIPE, stderr=log, text=True)
        for line in self.child.stdout:
            if " is ready at http" in line:
                self.url = line.split()[-1]
                self.port = int(self.url.rpartition(":")[2])
                return self
        raise RuntimeError((self.folder / "log.txt").read_text()[-1000:])

    def control(self, *arguments):
        subprocess.run(["callgrind_control", *arguments, str(self.pid)], check=True, capture_output=True, timeout=60,
                       env=self.lab.clean_env())  # they meet in TMPDIR


def drive(port, method, path, body, count):
    def one():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for _ in range(count // CONNECTIONS):
            connection.request(method, path, body, {"Authorization": f"Bearer {KEY}"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status < 300, answer.status
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def annotate(path, inclusive="no"):
    """[(instructions, "file:function [object]")]"""
    done = subprocess.run(["callgrind_annotate", "--threshold=100", "--auto=no", "--show-percs=no",
                           f"--inclusive={inclusive}", str(path)],
                          capture_output=True, text=True, timeout=120, check=True)
    rows = []
    for line in done.stdout.splitlines():
        match = re.match(r"\s*([\d,]+)\s+(\S.*:.*)$", line)
        if match and "PROGRAM TOTALS" not in line:
            rows.append((int(match[1].replace(",", "")), match[2]))
    return rows


def part_of(text):
    return next((name for name, pattern in PARTS if re.search(pattern, text)), "other")


def short(text):
    """"folder/file.c:function"; the library where there is no file."""
    library = re.search(r"\[.*/(lib\w+)", text)
    if text.startswith("???"):
        return library[1] if library else text
    return re.sub(r"^.*?([^/]+/[^/]+:[^ ]+).*$", r"\1", text)


def profile(lab, peers, method, path, body):
    """(instructions a request, [(part, instructions)], [(our function, instructions with what it calls)])"""
    peers.apt("valgrind")
    daemon = Profiled(lab, {"http": {"threads": 32}})
    drive(daemon.port, method, path, body, 10 * CONNECTIONS)
    daemon.control("-i", "on")
    drive(daemon.port, method, path, body, REQUESTS)
    daemon.control("-i", "off")
    daemon.stop()  # it writes its counts at the end
    files = [path for path in daemon.folder.glob("callgrind.out*") if path.stat().st_size > 0]
    if not files:
        raise Missing("callgrind wrote nothing")
    counts = max(files, key=lambda path: path.stat().st_size)
    parts, functions = collections.Counter(), {}
    for cost, text in annotate(counts):
        parts[part_of(text)] += cost / REQUESTS
    for cost, text in annotate(counts, "yes"):
        if text.endswith("/muster]"):
            functions[short(text)] = max(cost / REQUESTS, functions.get(short(text), 0))
    ordered = sorted(functions.items(), key=lambda item: -item[1])
    return sum(parts.values()), parts.most_common(), ordered[:80]


WORK = {1: ("GET", "/api/v1/teams/bench/status", None), 2: ("POST", "/api/v1/teams/bench/execute", BODY)}


def at_first(row):
    """What the first table says of the same."""
    first = (pathlib.Path(__file__).parent / "first.md").read_text()
    return re.search(rf"^\*\*Row {row}, .*: ([0-9,]+) instructions", first, re.M).group(1)


def table(found):
    """Part of BENCHMARKS.md; `found`: row -> what profile() gave."""
    text = ("## Instructions of a request\n\nCallgrind, user space only, the whole daemon (all threads), "
            f"{REQUESTS} requests on {CONNECTIONS} connections.\n")
    for row, (total, parts, functions) in sorted(found.items()):
        method, path, _ = WORK[int(row)]
        text += (f"\n**Row {row}, `{method} {path}`: {total:,.0f} instructions**"
                 f" (in the first table {at_first(row)})\n\n")
        text += "| part | instructions | |\n|---|---|---|\n"
        for name, cost in parts:
            if cost >= total / 200:
                text += f"| {name} | {cost:,.0f} | {100 * cost / total:.0f} % |\n"
        text += "\nOf our functions with all that they call: " + ", ".join(
            f"`{name}` {cost:,.0f}" for name, cost in functions[:24]) + ".\n"
    return text
