# SPDX-License-Identifier: MPL-2.0
"""Row 6: jobs from ZeroMQ clients."""

import struct

from lab import BODY, Daemon, KEY
from rows_http import compare, prepare

NOBODY = [bytes(16), "", 0, 0, 0, 0]


def pack(value):
    """msgpack, as far as `muster describe messages` needs it."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return bytes([value]) if 0 <= value < 128 else b"\xd3" + struct.pack(">q", value)
    if isinstance(value, str):
        data = value.encode()
        return b"\xda" + struct.pack(">H", len(data)) + data
    if isinstance(value, bytes):
        return b"\xc5" + struct.pack(">H", len(value)) + value
    if isinstance(value, dict):
        return b"\xde" + struct.pack(">H", len(value)) + b"".join(pack(k) + pack(v) for k, v in value.items())
    return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(pack, value))


def envelope(kind, number, body):
    return pack([1, kind, number, "", 0, "", NOBODY, body])


def submit(lab, peers, wanted):
    """6: the same job as in row 2, by ZeroMQ's own wire protocol, beside the fastest durable queue there is."""
    results = []
    for connections in lab.connections:
        port = lab.port()
        daemon = Daemon(lab, {"bus": {"commands": f"tcp://127.0.0.1:{port}", "max_clients": 1000}})
        job = {"team": "bench", "prompt": BODY}
        request = lab.new_file("submit", envelope("queue.submit", 7, {"job": job}))
        hello = lab.new_file("hello", envelope("bus.hello", 1, {"key": KEY}))

        def xadd(count=connections):
            redis = peers.redis(durable=True)
            add = lab.new_file("xadd", "*5\r\n$4\r\nXADD\r\n$4\r\njobs\r\n$1\r\n*\r\n$3\r\njob\r\n"
                               f"${len(BODY)}\r\n{BODY}\r\n")
            return lambda: lab.run("load", "redis", redis, count, lab.seconds, add)

        starters = {"submit": lambda count=connections: lambda: lab.run("load", "zmtp", port, count, lab.seconds,
                                                                         request, hello),
                    "xadd": xadd}
        results += compare(lab, f"bus submit, {connections} connections", f"{connections} connections",
                           prepare(lab, peers, starters), {6: ("submit", "xadd")})
        daemon.remove()
        lab.end_all()
    return results
