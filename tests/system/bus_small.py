# SPDX-License-Identifier: MPL-2.0
"""A whole ZeroMQ client in one socket, written from `muster describe messages` and `muster describe events` alone."""

import time
import uuid

import msgpack
import zmq

ENDS = ("job.completed", "job.failed", "job.cancelled")
LATER = ("RATE_LIMITED", "OVERLOADED", "SHUTTING_DOWN")


class Bus:
    def __init__(self, endpoint, key=None, curve=None):
        """`key`: API key; or `curve`: the file that `muster key create --curve` made."""
        self.socket, self.key, self.last_id = zmq.Context.instance().socket(zmq.DEALER), key, 0
        self.socket.linger = 0
        if curve:
            keys = dict(line.split() for line in open(curve, "rb").read().splitlines()[1:])
            self.socket.curve_secretkey, self.socket.curve_publickey = keys[b"curve-secret"], keys[b"curve-public"]
            self.socket.curve_serverkey = keys[b"server-public"]
        self.socket.connect(endpoint)

    def ask(self, kind, seconds=60, **body):
        """The answer.  Who hears nothing asks again, so a submit has its `idempotency`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.last_id += 1
            self.socket.send(msgpack.packb([1, kind, self.last_id, "", 0, "", [bytes(16), "", 0, 0, 0, 0], body]))
            while self.socket.poll(2000 + body.get("wait_ms", 0)):
                _, answer, number, *_, data = msgpack.unpackb(self.socket.recv())
                if number == self.last_id:  # else of a request that was sent again
                    break
            else:
                continue
            if answer != "failed":
                return data
            if data["code"] == "UNAUTHORIZED" and self.key and kind != "bus.hello":
                self.ask("bus.hello", key=self.key)  # this connection does not know us yet
            elif data["code"] in LATER:
                time.sleep(data.get("retry_after_s", 1))
            else:
                raise RuntimeError(data["code"], data.get("message"))
        raise TimeoutError(kind)

    def submit(self, team, prompt, **job):
        job = {"team": team, "prompt": prompt, "idempotency": str(uuid.uuid4()), **job}
        return self.ask("queue.submit", job=job)["job"]

    def follow(self, after="", wait_ms=10000, **only):
        """(cursor, event) of all behind a cursor, then as they come, for ever; `only`: team=NAME or job=ID."""
        while True:
            page = self.ask("log.read", after=after, wait_ms=wait_ms, **only)
            for event in page.get("events", ()):
                yield f"{page['next'].rpartition('-')[0]}-{event['seq']}", event
            after = page["next"]
