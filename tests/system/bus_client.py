# SPDX-License-Identifier: MPL-2.0
"""A ZeroMQ client written from `muster describe messages` alone."""

import os
import time

import msgpack
import zmq

NOBODY = [bytes(16), "", 0, 0, 0, 0]


class Refused(Exception):
    def __init__(self, body):
        super().__init__(body)
        self.code = body["code"]


class Bus:
    def __init__(self, commands=None, events=None, key=None, curve=None):
        """`key`: API key, without CURVE; `curve`: (secret, public, server's public) in Z85."""
        self.context = zmq.Context()
        self.seconds, self.last_id, self.backlog = 20.0, 0, []
        self.commands = self.connect(zmq.DEALER, commands, curve) if commands else None
        self.events = self.connect(zmq.SUB, events, curve) if events else None
        if key:
            self.welcome = self.ask("bus.hello", key=key)

    def connect(self, kind, endpoint, curve):
        socket = self.context.socket(kind)
        socket.linger = 0
        if curve:
            socket.curve_secretkey, socket.curve_publickey, socket.curve_serverkey = (k.encode() for k in curve)
        socket.connect(endpoint)
        return socket

    def send(self, kind, body, deadline=0):
        self.last_id += 1
        self.commands.send(msgpack.packb([1, kind, self.last_id, "", deadline, "", NOBODY, body]))
        return self.last_id

    def receive(self, wanted, seconds=None):
        end = time.monotonic() + (seconds or self.seconds)
        while True:
            for i, (number, kind, body) in enumerate(self.backlog):
                if number == wanted:
                    del self.backlog[i]
                    if kind == "failed":
                        raise Refused(body)
                    return body
            if not self.commands.poll(max(0, int((end - time.monotonic()) * 1000))):
                raise TimeoutError(wanted)
            _, kind, number, _, _, _, self.caller, body = msgpack.unpackb(self.commands.recv())
            self.backlog.append((number, kind, body))

    def ask(self, kind, **body):
        return self.receive(self.send(kind, body))

    def submit_and_wait(self, **job):
        number = self.send("queue.submit", {"job": job, "wait": True})
        self.receive(number)  # queue.accepted
        return self.receive(number)["job"]

    def follow(self, *topics, after=""):
        """Events behind a cursor: history, then live, over reconnects; yields (cursor, event).  With the topic "" an
        event that was left out on the way is seen by the number before the next one, and read from the log."""
        for topic in topics:
            self.events.subscribe(topic)
        join = b"~/" + os.urandom(8).hex().encode()
        self.events.subscribe(join)
        last, cursor, live = 0, after, False
        while True:
            topic, *frames = map(bytes, self.events.recv_multipart())
            bodies = [msgpack.unpackb(frame) for frame in frames]
            missed = topic != join and "" in topics and live and bodies[1].get("before", 0) > last
            if topic == join or missed:
                published = bodies[0]["seq"] if missed else bodies[0]["published"]
                more = live = True
                while more:
                    page = self.ask("log.read", after=cursor)
                    epoch = page["next"].rpartition("-")[0]
                    for event in page.get("events", ()):
                        yield f"{epoch}-{event['seq']}", event
                    cursor, last = page["next"], page["settled"]
                    more = page.get("more") or last < published
            elif live:
                event, mark = bodies
                if event["seq"] > last:
                    last, cursor = event["seq"], mark["cursor"]
                    yield cursor, event

    def close(self):
        self.context.destroy(0)
