# SPDX-License-Identifier: MPL-2.0
"""A receiver of callbacks and webhooks: a real HTTP server on a thread of its own, with moods.

What a request is answered with stands in `script`, one entry a request, then in `default`: a status and headers, HANG
(no answer until the receiver is stopped) or RESET (the connection is cut)."""

import base64
import hashlib
import hmac
import json
import os
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness import scaled

HANG = "hang"
RESET = "reset"

FAST = {"webhooks": {"allow_private": True, "retry_delay": "30ms", "max_retry_delay": "200ms", "timeout": "2s"}}


class Receiver:
    """Answers with `script`'s statuses, then `default`; keeps what came."""

    def __init__(self, script=(), port=0, default=(204, {})):
        self.script = list(script)
        self.default = default
        self.got = []
        self.changed = threading.Condition()
        self.over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with receiver.changed:
                    mood = receiver.script.pop(0) if receiver.script else receiver.default
                    receiver.got.append(
                        {
                            "at": time.monotonic(),
                            "method": self.command,
                            "path": self.path,
                            "headers": dict(self.headers),
                            "body": body,
                            "status": mood[0] if isinstance(mood, tuple) else mood,
                        }
                    )
                    receiver.changed.notify_all()
                if isinstance(mood, tuple):
                    self.send_response(mood[0])
                    for name, value in mood[1].items():
                        self.send_header(name, value)
                    self.end_headers()
                    return
                self.close_connection = True
                if mood == HANG:
                    receiver.over.wait()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())  # without the polite shutdown of the library

            do_POST = do_PUT = do_PATCH = do_GET = answer

            def log_message(self, *args):
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def wait_for(self, check, what, seconds=15):
        """The first true value of check(requests)."""
        with self.changed:
            value = self.changed.wait_for(lambda: check(self.got), scaled(seconds))
            assert value, f"not among {len(self.got)} requests: {what}; {[got['body'][:200] for got in self.got[-5:]]}"
            return value

    def wait(self, count, seconds=15):
        self.wait_for(lambda got: len(got) >= count, f"{count} of them", seconds)
        return self.got

    def taken(self):
        """The requests that were answered with 2xx."""
        with self.changed:
            return [got for got in self.got if isinstance(got["status"], int) and 200 <= got["status"] < 300]

    def mood(self, default, script=()):
        """From now on."""
        with self.changed:
            self.script = list(script)
            self.default = default

    def stop(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def head(got, name):
    """A header of a request, whatever its case."""
    return next((value for key, value in got["headers"].items() if key.lower() == name.lower()), None)


def sign(secret, name, timestamp, body):
    """What the Standard Webhooks document says, from the text alone."""
    key = base64.b64decode(secret[len("whsec_") :])
    digest = hmac.new(key, f"{name}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def signatures(got):
    return (head(got, "webhook-signature") or "").split(" ")


def is_signed(got, secret):
    """Is one of the request's signatures made with this secret, and its time near ours?"""
    name, timestamp = head(got, "webhook-id"), head(got, "webhook-timestamp")
    assert name and timestamp and timestamp.isdigit(), got["headers"]
    assert abs(time.time() - int(timestamp)) < scaled(60), timestamp
    return sign(secret, name, timestamp, got["body"]) in signatures(got)


def told(got):
    return json.loads(got["body"])


@pytest.fixture
def receivers():
    made = []

    def make(*arguments, **options):
        made.append(Receiver(*arguments, **options))
        return made[-1]

    yield make
    for receiver in made:
        receiver.stop()
