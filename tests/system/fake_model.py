# SPDX-License-Identifier: MPL-2.0
"""A scripted model API on 127.0.0.1 that the real Claude Code CLI talks to.

The last user text that begins with a directive says what the "model" does:
  echo: TEXT            answer TEXT, in four pieces
  chunks: N TEXT        answer "TEXT 1 ", "TEXT 2 ", ... in N pieces
  gate: NAME TEXT       answer "opened ", wait for release(NAME), answer TEXT; asked(NAME) waits until it waits
  slow: MS TEXT         "started ", then TEXT after MS
  stall: MS TEXT        nothing at all for MS, then TEXT; ends early when the fake is stopped
  huge: BYTES           BYTES bytes of text
  think: TEXT           a thinking block, then TEXT
  tool: NAME {JSON}     use a tool; after its result answer "tool said: ..."
  tools: A {..} ;; B {..}
  loop: N NAME {JSON}   use a tool N times, then "loop done"
  fail: CODE [N]        HTTP error CODE (for the first N requests with that text; else always)
  cut: N                N pieces, then the connection is closed
  midfail:              one piece, then an `error` event
  recall:               all user texts so far, joined by " | "
  count:                "msgs=N users=N tools=N model=M"
Anything else is answered "ok: " and its first 60 characters."""

import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DIRECTIVE = re.compile(
    r"\s*(echo|chunks|gate|slow|stall|huge|think|tools?|loop|fail|cut|midfail|recall|count):\s*(.*)\Z", re.S
)
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


def tokens(text):
    return (len(text) + 3) // 4


def pieces(text, count):
    size = max(1, -(-len(text) // count))
    return [text[i : i + size] for i in range(0, len(text), size)] or [""]


def call(text):
    name, _, arguments = text.strip().partition(" ")
    return {"name": name, "input": json.loads(arguments) if arguments.strip() else {}}


class Plan:
    """What to answer: HTTP error, or text pieces and tool calls.  An Event among the pieces is waited for."""

    def __init__(self, say=None, calls=None, fail=0, think=None, cut=False, midfail=False, stall=None):
        self.say, self.calls, self.fail, self.think = say, calls or [], fail, think
        self.cut, self.midfail, self.stall = cut, midfail, stall


class Turn:
    """The conversation as far as directives need it."""

    def __init__(self, body):
        self.users, self.results = [], []
        self.text = ""
        messages = body.get("messages", [])
        for message in messages:
            content = message.get("content") or []
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            texts = [b["text"] for b in blocks if b.get("type") == "text" and not b["text"].lstrip().startswith("<")]
            if message.get("role") == "user" and texts:
                chosen = next((t for t in reversed(texts) if DIRECTIVE.match(t)), texts[-1])
                self.users.append(chosen.strip())
                self.text, self.results = chosen, []
            self.results += [self.flat(b.get("content")) for b in blocks if b.get("type") == "tool_result"]
        tools, model = body.get("tools") or [], body.get("model")
        self.summary = f"msgs={len(messages)} users={len(self.users)} tools={len(tools)} model={model}"

    @staticmethod
    def flat(content):
        if isinstance(content, list):
            return "".join(b.get("text", "") for b in content)
        return content if isinstance(content, str) else json.dumps(content)


class FakeModel:
    def __init__(self):
        self.lock = threading.Condition()
        self.requests = []
        self.waiting = []
        self.gates = {}
        self.failures = {}
        self.numbers = itertools.count(1)
        self.stopping = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                fake.note(self, None)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD

            def do_POST(self):
                try:
                    fake.post(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, address):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def stop(self):
        self.stopping.set()
        with self.lock:
            for gate in self.gates.values():
                gate.set()
        self.server.shutdown()
        self.server.server_close()

    # ---- for tests ----

    def gate(self, name):
        with self.lock:
            return self.gates.setdefault(name, threading.Event())

    def release(self, name):
        self.gate(name).set()

    def asked(self, name, times=1, seconds=30):
        """Wait until `times` requests have come to this gate."""
        with self.lock:
            came = self.lock.wait_for(lambda: self.waiting.count(name) >= times, seconds)
        assert came, f"the model was not asked for gate {name} ({self.waiting})"

    def prompts(self):
        with self.lock:
            return [r["prompt"] for r in self.requests if r["prompt"] is not None]

    # ---- requests ----

    def note(self, handler, prompt):
        with self.lock:
            self.requests.append(
                {
                    "method": handler.command,
                    "path": handler.path,
                    "prompt": prompt,
                    "key": handler.headers.get("x-api-key"),
                }
            )

    def post(self, handler):
        raw = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = json.loads(raw or b"{}")
        path = handler.path.split("?")[0]
        if path.endswith("/count_tokens"):
            self.note(handler, None)
            return self.send_json(handler, 200, {"input_tokens": tokens(raw.decode(errors="replace"))})
        if not path.endswith("/v1/messages"):
            self.note(handler, None)
            return self.send_json(
                handler, 404, {"type": "error", "error": {"type": "not_found_error", "message": "no such path"}}
            )
        turn = Turn(body)
        self.note(handler, turn.text)
        plan = self.plan(turn)
        if plan.stall:
            self.stopping.wait(plan.stall)
        if plan.fail:
            error = {"type": ERROR_TYPES.get(plan.fail, "api_error"), "message": f"fake {plan.fail}"}
            return self.send_json(
                handler, plan.fail, {"type": "error", "error": error}, {"retry-after": "1"} if plan.fail == 429 else {}
            )
        return self.answer(handler, body, plan)

    def plan(self, turn):
        match = DIRECTIVE.match(turn.text)
        if not match:
            return Plan(["ok: " + turn.text[:60]])
        verb, rest = match.groups()
        number = re.match(r"(\d+)\s*(.*)\Z", rest, re.S)
        count, text = (int(number[1]), number[2]) if number else (0, rest)
        return getattr(self, "plan_" + verb)(turn, count, text, rest)

    def plan_echo(self, turn, count, text, rest):
        return Plan(pieces(rest, 4))

    def plan_chunks(self, turn, count, text, rest):
        return Plan([f"{text or 'chunk'} {i + 1} " for i in range(count)])

    def plan_gate(self, turn, count, text, rest):
        name, _, words = rest.partition(" ")
        return Plan(["opened ", (name, self.gate(name)), words])

    def plan_slow(self, turn, count, text, rest):
        return Plan(["started ", (None, count / 1000), text or "done"])

    def plan_stall(self, turn, count, text, rest):
        return Plan([text or "late"], stall=count / 1000)

    def plan_huge(self, turn, count, text, rest):
        return Plan(["x" * min(65536, count - i) for i in range(0, count, 65536)])

    def plan_think(self, turn, count, text, rest):
        return Plan([rest], think="pondering " + rest)

    def plan_tool(self, turn, count, text, rest):
        return Plan(["tool said: " + " / ".join(turn.results)[:500]]) if turn.results else Plan(calls=[call(rest)])

    def plan_tools(self, turn, count, text, rest):
        if turn.results:
            return Plan(["tools said: " + " / ".join(turn.results)[:500]])
        return Plan(calls=[call(part) for part in rest.split(";;")])

    def plan_loop(self, turn, count, text, rest):
        if len(turn.results) >= count:
            return Plan(["loop done"])
        return Plan([f"step {len(turn.results) + 1} "], calls=[call(text)])

    def plan_fail(self, turn, count, text, rest):
        limit = int(text) if text.strip().isdigit() else None
        with self.lock:
            tried = self.failures[turn.text] = self.failures.get(turn.text, 0) + 1
        return Plan(fail=count) if limit is None or tried <= limit else Plan([f"recovered after {tried - 1}"])

    def plan_cut(self, turn, count, text, rest):
        return Plan([f"c{i} " for i in range(count)], cut=True)

    def plan_midfail(self, turn, count, text, rest):
        return Plan(["partial "], midfail=True)

    def plan_recall(self, turn, count, text, rest):
        return Plan(["users: " + " | ".join(turn.users)])

    def plan_count(self, turn, count, text, rest):
        return Plan([turn.summary])

    # ---- answers ----

    @staticmethod
    def send_json(handler, status, value, headers=None):
        data = json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(data)

    def wait_at(self, stop):
        """A gate, or a pause in seconds."""
        name, what = stop
        if name is None:
            self.stopping.wait(what)
            return
        with self.lock:
            self.waiting.append(name)
            self.lock.notify_all()
        what.wait()

    def answer(self, handler, body, plan):
        number = next(self.numbers)
        blocks = []
        if plan.think:
            blocks.append({"type": "thinking", "thinking": plan.think, "signature": "ZmFrZQ=="})
        if plan.say:
            blocks.append({"type": "text"})
        blocks += [{"type": "tool_use", "id": f"toolu_fake_{number}_{i}", **c} for i, c in enumerate(plan.calls)]
        words = "".join(p for p in plan.say or [] if isinstance(p, str))
        usage = {
            "input_tokens": tokens(json.dumps(body.get("messages"))),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 1,
        }
        spent = tokens(words) + 5 * len(plan.calls)
        reason = "tool_use" if plan.calls else "end_turn"
        head = {
            "id": f"msg_fake_{number}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model"),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        if not body.get("stream"):
            for stop in (p for p in plan.say or [] if not isinstance(p, str)):
                self.wait_at(stop)
            whole = [{**b, "text": words} if b["type"] == "text" else b for b in blocks]
            return self.send_json(
                handler,
                200,
                {**head, "content": whole, "stop_reason": reason, "usage": {**usage, "output_tokens": spent}},
            )
        return self.stream(handler, head, blocks, plan, reason, spent)

    def stream(self, handler, head, blocks, plan, reason, spent):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()

        def send(kind, **fields):
            data = f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            handler.wfile.flush()

        send("message_start", message=head)
        for index, block in enumerate(blocks):
            start = {
                "text": {"type": "text", "text": ""},
                "thinking": {"type": "thinking", "thinking": "", "signature": ""},
                "tool_use": {**block, "input": {}},
            }[block["type"]]
            send("content_block_start", index=index, content_block=start)
            for delta in self.deltas(block, plan):
                if isinstance(delta, tuple):
                    self.wait_at(delta)
                else:
                    send("content_block_delta", index=index, delta=delta)
            if plan.cut:
                handler.close_connection = True
                handler.connection.close()
                return
            if plan.midfail:
                send("error", error={"type": "overloaded_error", "message": "fake mid-stream overload"})
                break
            send("content_block_stop", index=index)
        else:
            send("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage={"output_tokens": spent})
            send("message_stop")
        handler.wfile.write(b"0\r\n\r\n")

    @staticmethod
    def deltas(block, plan):
        if block["type"] == "text":
            return [p if isinstance(p, tuple) else {"type": "text_delta", "text": p} for p in plan.say]
        if block["type"] == "thinking":
            return [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        return [{"type": "input_json_delta", "partial_json": p} for p in pieces(json.dumps(block["input"]), 3)]


if __name__ == "__main__":
    fake = FakeModel()
    print(fake.url, flush=True)
    fake.thread.join()
