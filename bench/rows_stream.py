# SPDX-License-Identifier: MPL-2.0
"""Rows 9 to 13: one writer, many readers.

A job waits in a paused team until all its readers are in; then the team is let go, and the clock runs from
there to the last byte of the last reader.  The ceiling sends the same bytes to as many readers."""

import base64
import json
import os
import socket
import subprocess
import time

from lab import BUILD, Daemon, KEY
from results import measured
from rounds import interleave

PIECE = 100  # bytes of text in an event
TEAM = {"fan": {"driver": "echo", "paused": True}}


def pieces(events):
    """What makes `echo` say so many pieces that begin with '~' and no time.  Without a gap they would be joined."""
    return f"@chunks={events} @gap=1ms " + ("~" + "0" * (PIECE - 1)) * events


def tools(events):
    """So many events at once that are never joined."""
    return ('@tool=Read:{"file_path":"~' + "0" * 60 + '"} ') * events + "done"


class Talk:
    """A program of ours that takes orders by standard input and answers by JSON lines."""

    def __init__(self, lab, name, *arguments, ready="ready"):
        self.lab = lab
        self.child = lab.spawn([lab.program(name), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)
        line = self.child.stdout.readline().strip() if ready else ready
        if line != ready:
            raise RuntimeError(f"{name} {arguments}: {line or 'ended'}")

    def order(self, text):
        self.child.stdin.write(f"{text}\n")
        self.child.stdin.flush()

    def answer(self):
        return json.loads(self.child.stdout.readline())

    def end(self):
        self.child.stdin.close()
        self.child.stdout.close()
        self.lab.end(self.child)


# ---- requests of readers, and one event's bytes as they get it ----


def sse_request(daemon, job):
    return (f"GET /api/v1/messages/{job}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {KEY}\r\n\r\n")


def ws_request():
    nonce = base64.b64encode(bytes(16)).decode()
    return ("GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {KEY}\r\n\r\n")


def ws_subscribe():
    text = json.dumps({"type": "subscribe", "team": "fan"}).encode()
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


def submit(daemon, task):
    return daemon.call("POST", "/api/v1/teams/fan/execute", {"task": task})["messageId"]


def let_go(daemon, go=True):
    daemon.call("POST", f"/api/v1/teams/fan/{'resume' if go else 'pause'}", {})


def wait_end(daemon, job):
    while daemon.call("GET", f"/api/v1/messages/{job}")["status"] not in ("completed", "failed", "cancelled"):
        time.sleep(0.01)


def capture(daemon, web_socket):
    """The bytes of one event as a reader gets it."""
    job = submit(daemon, pieces(4))
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as wire:
        wire.sendall((ws_request() if web_socket else sse_request(daemon, job)).encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += wire.recv(65536)
        if web_socket:
            wire.sendall(ws_subscribe())
            while b"subscribed" not in data:
                data += wire.recv(65536)
        let_go(daemon)
        while data.count(b"~0") < 4 or b"complete" not in data:
            data += wire.recv(65536)
    let_go(daemon, False)
    wait_end(daemon, job)
    at = data.index(b"~0", data.index(b"~0") + 1)
    if web_socket:
        begin = data.rindex(b"\x81~", 0, at)
        return data[begin:begin + 4 + int.from_bytes(data[begin + 2:begin + 4], "big")]
    return data[data.rindex(b"\n\n", 0, at) + 2:data.index(b"\n\n", at) + 2]


# ---- rows 9 to 11 ----


class Fan:
    """One kind of stream with so many readers: how muster and the ceiling are measured."""

    def __init__(self, lab, readers, events, web_socket=False):
        self.lab, self.readers, self.events, self.web_socket = lab, readers, events, web_socket
        # Event streams need no threads of their own, WebSockets may have half of them.
        http = {"threads": max(256, 2 * readers), "max_sockets": readers, "max_waiting": 64} if web_socket else {}
        self.daemon = Daemon(lab, {"http": http, "teams": TEAM})
        self.subscribe = [lab.new_file("subscribe", ws_subscribe())] if web_socket else []
        self.frame = lab.new_file("frame", capture(self.daemon, web_socket))

    def muster(self, stalled=0):
        job = submit(self.daemon, pieces(self.events))
        request = self.lab.new_file("request", ws_request() if self.web_socket else sse_request(self.daemon, job))
        fan = Talk(self.lab, "fan", self.daemon.port, self.readers, stalled, request, *self.subscribe)
        fan.order(self.events)
        let_go(self.daemon)
        found = fan.answer()
        fan.end()
        let_go(self.daemon, False)
        wait_end(self.daemon, job)
        return found

    def raw(self):
        port = self.lab.port()
        sender = Talk(self.lab, "rawsend", port, self.readers, self.frame, ready="listening")
        request = self.lab.new_file("request", "GET / HTTP/1.1\r\n\r\n")
        fan = Talk(self.lab, "fan", port, self.readers, 0, request, *self.subscribe)
        fan.order(self.events)
        sender.order(self.events)
        found = fan.answer()
        fan.end()
        sender.end()
        return found

    def close(self):
        self.daemon.remove()


def events_each(sample, readers):
    """Deliveries a second as events a second that each reader got."""
    return dict(sample, rate=sample["rate"] / readers)


def fan_out(lab, peers, wanted):
    results = []
    for readers in (50,) if lab.quick else (1000, 5000):
        if 9 not in wanted and readers == 5000:
            break
        at = f"{readers:,} readers"
        fan = Fan(lab, readers, 20 if lab.quick else 300000 // readers)
        if 9 in wanted:
            found = interleave(lab, f"SSE, {at}", {"muster": fan.muster, "raw": fan.raw})
            results.append(measured(9, at, found["muster"], found["raw"]))
        if 10 in wanted and readers <= 1000:
            few = readers // 10
            found = interleave(lab, f"SSE, {few} of {at} stalled", {
                "stalled": lambda: events_each(fan.muster(few), readers - few),
                "none": lambda: events_each(fan.muster(), readers)})
            results.append(measured(10, at, found["stalled"], found["none"], unit="events/s"))
        fan.close()
    return results


def web_sockets(lab, peers, wanted):
    readers = 50 if lab.quick else 1000
    fan = Fan(lab, readers, 20 if lab.quick else 300, web_socket=True)
    found = interleave(lab, f"WebSocket, {readers} readers", {"muster": fan.muster, "raw": fan.raw})
    fan.close()
    return [measured(11, f"{readers:,} readers", found["muster"], found["raw"])]


# ---- row 12 ----


def curve_keys():
    return subprocess.run([BUILD / "bench_feed", "keys"], capture_output=True, text=True, check=True).stdout.split()


def feed_once(lab, endpoint, subscribers, events, frames, keys, go):
    sub = Talk(lab, "feed", "sub", endpoint, subscribers, frames, *keys)
    sub.order(events)
    go()
    found = sub.answer()
    sub.end()
    return found


def feed(lab, peers, wanted):
    results = []
    for curve in (False, True):
        endpoint = f"tcp://127.0.0.1:{lab.port()}"
        daemon = Daemon(lab, {"teams": TEAM, "bus": {"events": endpoint, "curve": curve, "open_events": not curve,
                                                     "max_events": 1000000}})
        keys = []
        if curve:
            made = daemon.call("POST", "/api/v1/keys", {"name": "curve", "scopes": ["messages:stream"], "curve": True})
            keys = [made["serverPublic"], made["curvePublic"], made["curveSecret"]]
        for subscribers in (1, 10) if lab.quick else (1, 10, 100):
            events = 200 if lab.quick else max(3000, 40000 // subscribers)
            frames = lab.folder / f"frames-{curve}-{subscribers}"

            def muster(count=subscribers, frames=frames, events=events):
                jobs = [submit(daemon, tools(min(events, 5000))) for _ in range(0, events, 5000)]
                found = feed_once(lab, endpoint, count, events, frames, keys, lambda: let_go(daemon))
                wait_end(daemon, jobs[-1])
                let_go(daemon, False)
                return found

            def bare(count=subscribers, frames=frames, events=events):
                port = lab.port()
                public, secret = curve_keys()
                mine = [public, *curve_keys()] if curve else []
                secrets = [secret] if curve else []
                pub = Talk(lab, "feed", "pub", f"tcp://127.0.0.1:{port}", frames, *secrets, ready="")
                found = feed_once(lab, f"tcp://127.0.0.1:{port}", count, events, lab.folder / "frames-bare", mine,
                                  lambda: pub.order(events))
                pub.end()
                return found

            at = f"{subscribers} subscriber{'s' if subscribers > 1 else ''}, {'CURVE' if curve else 'plain'}"
            muster()  # which also leaves an event's frames for the ceiling
            found = interleave(lab, f"feed, {at}", {"muster": muster, "bare": bare})
            results.append(measured(12, at, found["muster"], found["bare"]))
        daemon.remove()
    return results


# ---- row 13 ----


def agent_line(lab, peers, wanted):
    fifo, bare = lab.folder / "talker", lab.folder / "talker-bare"
    os.mkfifo(fifo)
    os.mkfifo(bare)
    program = str(lab.program("talker"))
    daemon = Daemon(lab, {"teams": {"talker": {"driver": "command", "command": [program, str(fifo)]}}})
    job = daemon.call("POST", "/api/v1/teams/talker/execute", {"task": "talk"})["messageId"]
    through = Talk(lab, "fan", daemon.port, 1, 0, lab.new_file("request", sse_request(daemon, job)))
    pipe = Talk(lab, "fan", "pipe", program, bare)
    lines = 200 if lab.quick else 1500

    def measure(reader, path):
        reader.order(lines)
        with open(path, "w", encoding="ascii") as orders:
            orders.write(f"{lines} 1000 200\n")
        return reader.answer()

    found = interleave(lab, "agent line", {"muster": lambda: measure(through, fifo),
                                           "pipe": lambda: measure(pipe, bare)})
    for path in (fifo, bare):
        with open(path, "w", encoding="ascii") as orders:
            orders.write("0 0 0\n")
    through.end()
    pipe.end()
    daemon.remove()
    return [measured(13, at, found["muster"], found["pipe"], field)
            for at, field in (("p50", "p50_ms"), ("p99", "p99_ms"))]
