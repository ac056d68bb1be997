#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""A stand-in for the Claude Code CLI that speaks its stream-json and control protocol.  Standard library only.

The last line of a prompt that begins with a directive decides what the "model" does:

  echo: TEXT          answer TEXT in pieces of four characters
  chunks: N TEXT      answer "TEXT 1 TEXT 2 ..." in N pieces
  slow: MS TEXT       first a piece at once, TEXT after MS milliseconds
  tool: NAME {JSON}   ask whether the tool may be used, use it, answer "tool said: ..." (Bash runs its command); Read
                      Bash with "cat" and the to-do tools are used unasked.  A PreToolUse hook is asked first, if there
                      is one
  todo: DONE/TOTAL MS TEXT   write a to-do list of which so much is done, answer TEXT after MS milliseconds
  REMEMBER WORD       keep the word in the session
  RECALL              answer with the words of the session, or "nothing"
  broken: TEXT        stream the first half of TEXT, then print the whole under another id, as after a broken stream
  recall:             answer with all earlier prompts of the session, joined by " | "
  env: NAME           answer with an environment variable
  argv:               answer with the command line
  crash: CODE TEXT    say something, TEXT to standard error, exit with CODE in the middle of the turn
  crash-once: CODE TEXT   the same, but only the first time in this config folder; then answer "survived TEXT"
  silent:             never answer; an interrupt ends the turn
  deaf:               never answer, take no notice of interrupt, end of input, SIGINT and SIGTERM
  hang-after-result: TEXT   answer, then take no notice of end of input
  badline: TEXT       print a line that is no JSON, then answer TEXT
  huge: BYTES         answer so many 'x'
  orphan: SECONDS     start `sleep SECONDS` in a session of its own, answer "orphan PID"
  error: STATUS       the model API fails with that HTTP status ("error: null" for a lost connection)
  retry: N TEXT       announce N retries of the model API, then answer TEXT
  unsolicited: TEXT   answer TEXT, then begin and end a turn that nobody asked for
  clear:              answer, and go on under another session id

Without a directive: "ok: " and the first 60 characters of the prompt.

Sessions are kept in $CLAUDE_CONFIG_DIR (or $HOME/.claude) as fake-sessions/<id>.json, so --resume works.
FAKE_CLAUDE_TRANSCRIPT=FILE replays the `out` lines of a recorded transcript instead, one turn a prompt.
FAKE_CLAUDE_NOT_READY=1 never answers initialize.  FAKE_CLAUDE_START=CODE exits at once with that code.
"""
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import uuid

DIRECTIVE = re.compile(r"^\s*([a-z-]+):\s?(.*)$", re.S)
MEMORY = re.compile(r"^\s*(REMEMBER|RECALL)\b\s*(.*)$", re.S)
TODO_TOOLS = ("TodoWrite", "TaskCreate", "TaskUpdate")
PRICE_USD = 0.001


class Interrupted(Exception):
    pass


class Gone(Exception):
    pass


def option(name, default=""):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv[:-1] else default


class Cli:
    def __init__(self):
        self.lines = queue.Queue()      # what came in and is not handled yet
        self.prompts = []               # user lines that wait for their turn
        self.session = option("--resume") or str(uuid.uuid4())
        self.model = option("--model", "fake-model")
        self.history = []
        self.cost = 0.0
        self.turns = 0
        self.deaf = False
        self.tasks = 0                  # made by TaskCreate
        self.in_turn = False
        self.transcript = None
        self.hook = None                # callback of the PreToolUse hook for all tools
        config = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.join(os.environ.get("HOME", "/tmp"), ".claude")
        self.folder = os.path.join(config, "fake-sessions")

    # ---- sessions

    def path(self):
        return os.path.join(self.folder, self.session.replace("/", "_") + ".json")

    def load(self):
        try:
            with open(self.path(), encoding="utf-8") as file:
                self.history = json.load(file)
        except FileNotFoundError:
            text = f"No conversation found with session ID: {self.session}"
            print(text, file=sys.stderr, flush=True)
            self.result("error_during_execution", True, errors=[text], num_turns=0)
            sys.exit(1)

    def save(self):
        os.makedirs(self.folder, exist_ok=True)
        with open(self.path() + ".tmp", "w", encoding="utf-8") as file:
            json.dump(self.history, file)
        os.replace(self.path() + ".tmp", self.path())

    # ---- printing

    def out(self, value):
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def say(self, **fields):
        fields.setdefault("session_id", self.session)
        fields.setdefault("uuid", str(uuid.uuid4()))
        self.out(fields)

    def event(self, event):
        self.say(type="stream_event", event=event, parent_tool_use_id=None)

    def assistant(self, message, block, **fields):
        self.say(type="assistant", parent_tool_use_id=None, **fields,
                 message={"id": message, "type": "message", "role": "assistant", "model": self.model,
                          "content": [block], "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 1}})

    def answer(self, pieces, pause_s=0.0):
        message = "msg_" + uuid.uuid4().hex[:12]
        self.event({"type": "message_start", "message": {"id": message, "role": "assistant", "content": []}})
        self.event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        for number, piece in enumerate(pieces):
            if number and pause_s:
                self.wait(pause_s)
            self.event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}})
        self.assistant(message, {"type": "text", "text": "".join(pieces)})
        self.event({"type": "content_block_stop", "index": 0})
        self.event({"type": "message_stop"})
        return "".join(pieces)

    def result(self, subtype, is_error, text=None, errors=None, status=None, reason="completed", num_turns=1):
        self.turns += 1
        if not is_error:
            self.cost += PRICE_USD
        fields = {"type": "result", "subtype": subtype, "is_error": is_error, "api_error_status": status,
                  "duration_ms": 5, "num_turns": num_turns, "total_cost_usd": self.cost, "terminal_reason": reason,
                  "usage": {"input_tokens": 7, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3,
                            "output_tokens": 5}, "permission_denials": []}
        if text is not None:
            fields["result"] = text
        if errors is not None:
            fields["errors"] = errors
        self.say(**fields)

    # ---- reading

    def read_input(self):
        for line in sys.stdin:
            self.lines.put(line)
        self.lines.put(None)

    def handle(self, line):
        """Take one line; a permission's answer is returned, everything else is acted upon."""
        if line is None:
            if not self.deaf:
                raise Gone
            return None
        if not line.strip():
            return None
        try:
            value = json.loads(line)
            kind = value["type"]
        except (ValueError, KeyError, TypeError) as error:
            print(f"Error parsing streaming input line: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        if kind == "user":
            self.prompts.append(value["message"]["content"])
        elif kind == "control_response":
            return value["response"]
        elif kind == "control_request":
            self.control(value)
        return None

    def control(self, value):
        request, identifier = value["request"], value["request_id"]
        subtype = request.get("subtype")
        if subtype == "initialize" and os.environ.get("FAKE_CLAUDE_NOT_READY"):
            return
        if subtype == "interrupt" and self.deaf:
            return
        if subtype in ("initialize", "interrupt"):
            response = {"subtype": "success", "request_id": identifier}
            if subtype == "initialize":
                for matcher in request.get("hooks", {}).get("PreToolUse", []):
                    self.hook = None if matcher.get("matcher") else matcher["hookCallbackIds"][0]
                response["response"] = {"commands": [], "pid": os.getpid()}
            self.out({"type": "control_response", "response": response})
            if subtype == "interrupt" and self.in_turn:
                raise Interrupted
        else:
            self.out({"type": "control_response",
                      "response": {"subtype": "error", "request_id": identifier,
                                   "error": f"Unsupported control request subtype: {subtype}"}})

    def wait(self, seconds):
        """Let time pass; an interrupt ends it.  None: for ever.  End of input does not end a turn."""
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            try:
                line = self.lines.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except queue.Empty:
                return
            if line is None:
                self.lines.put(None)
                time.sleep(0.02 if end is None else min(0.02, max(0.0, end - time.monotonic())))
                continue
            self.handle(line)

    def request(self, **fields):
        """Ask the host; its whole answer, None when its stream has ended."""
        identifier = str(uuid.uuid4())
        self.out({"type": "control_request", "request_id": identifier, "request": fields})
        while True:
            line = self.lines.get()
            if line is None:
                self.lines.put(None)
                return None
            response = self.handle(line)
            if response and response.get("request_id") == identifier:
                return response

    def permission(self, tool, arguments, use):
        if self.hook:
            answer = self.request(subtype="hook_callback", callback_id=self.hook, tool_use_id=use,
                                  input={"hook_event_name": "PreToolUse", "tool_name": tool, "tool_input": arguments,
                                         "tool_use_id": use, "session_id": self.session, "cwd": os.getcwd()})
            said = ((answer or {}).get("response") or {}).get("hookSpecificOutput", {})
            if said.get("permissionDecision") == "deny":
                return {"behavior": "deny", "message": said["permissionDecisionReason"]}
        if tool == "Read" or tool in TODO_TOOLS or (tool == "Bash" and arguments.get("command", "").startswith("cat ")):
            return {"behavior": "allow", "updatedInput": arguments}
        answer = self.request(subtype="can_use_tool", tool_name=tool, input=arguments, tool_use_id=use)
        if answer is None:
            return {"behavior": "deny", "message": "Tool permission stream closed before response received"}
        return answer.get("response") or {"behavior": "deny", "message": answer.get("error", "")}

    # ---- directives

    def do_echo(self, rest):
        return self.answer([rest[i:i + 4] for i in range(0, len(rest), 4)] or [""])

    def do_chunks(self, rest):
        count, _, text = rest.partition(" ")
        return self.answer([f"{text or 'chunk'} {number + 1} " for number in range(int(count))])

    def do_slow(self, rest):
        pause, _, text = rest.partition(" ")
        return self.answer(["started ", text], int(pause) / 1000)

    def do_tool(self, rest):
        name, _, arguments = rest.partition(" ")
        arguments = json.loads(arguments or "{}")
        use = "toolu_" + uuid.uuid4().hex[:12]
        self.assistant("msg_" + uuid.uuid4().hex[:12], {"type": "tool_use", "id": use, "name": name, "input": arguments})
        verdict = self.permission(name, arguments, use)
        failed = verdict.get("behavior") != "allow"
        said = verdict.get("message", "")
        if not failed and "updatedInput" not in verdict:
            failed, said = True, "Tool permission request failed: ZodError"
        elif not failed and name == "Bash":
            done = subprocess.run(["sh", "-c", verdict["updatedInput"]["command"]], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, check=False)
            failed, said = done.returncode != 0, (done.stdout + done.stderr).strip()
        elif not failed:
            said = "done"
        more = {}
        if not failed and name == "TaskCreate":
            self.tasks += 1
            said = f"Task #{self.tasks} created successfully: {arguments.get('subject', '')}"
            more = {"tool_use_result": {"task": {"id": str(self.tasks), "subject": arguments.get("subject", "")}}}
        self.say(type="user", parent_tool_use_id=None, **more,
                 message={"role": "user", "content": [{"type": "tool_result", "tool_use_id": use, "content": said,
                                                       "is_error": failed}]})
        return self.answer(["tool said: ", said])

    def do_todo(self, rest):
        share, _, rest = rest.partition(" ")
        pause, _, text = rest.partition(" ")
        done, total = (int(number) for number in share.split("/"))
        states = ["completed"] * done + ["in_progress"] + ["pending"] * total
        todos = [{"content": f"step {n + 1}", "activeForm": f"doing step {n + 1}", "status": states[n]}
                 for n in range(total)]
        use = "toolu_" + uuid.uuid4().hex[:12]
        self.assistant("msg_" + uuid.uuid4().hex[:12],
                       {"type": "tool_use", "id": use, "name": "TodoWrite", "input": {"todos": todos}})
        self.say(type="user", parent_tool_use_id=None,
                 message={"role": "user", "content": [{"type": "tool_result", "tool_use_id": use,
                                                       "content": "Todos have been modified successfully."}]})
        self.wait(int(pause or 0) / 1000)
        return self.answer([text])

    def do_broken(self, rest):
        self.event({"type": "message_start", "message": {"id": "msg_broken", "role": "assistant", "content": []}})
        self.event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        self.event({"type": "content_block_delta", "index": 0,
                    "delta": {"type": "text_delta", "text": rest[:len(rest) // 2]}})
        self.assistant("msg_whole", {"type": "text", "text": rest})
        return rest

    def do_recall(self, _rest):
        return self.answer([" | ".join(self.history)])

    def memory(self, verb, word):
        if verb == "REMEMBER":
            return self.answer([f"remembered {word.strip()}"])
        words = [found[2].strip() for prompt in self.history for line in prompt.splitlines()
                 if (found := MEMORY.match(line)) and found[1] == "REMEMBER"]
        return self.answer([" ".join(words) or "nothing"])

    def do_env(self, rest):
        return self.answer([os.environ.get(rest.strip(), "(unset)")])

    def do_argv(self, _rest):
        return self.answer([" ".join(sys.argv[1:])])

    def do_crash(self, rest):
        code, _, text = rest.partition(" ")
        self.event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half "}})
        print(text, file=sys.stderr, flush=True)
        os._exit(int(code))

    def do_crash_once(self, rest):
        mark = os.path.join(self.folder, "crashed")
        if not os.path.exists(mark):
            with open(mark, "w", encoding="utf-8"):
                pass
            self.do_crash(rest)
        return self.answer(["survived ", rest.partition(" ")[2]])

    def do_silent(self, _rest):
        self.wait(None)

    def do_deaf(self, _rest):
        self.deaf = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.wait(None)

    def do_hang_after_result(self, rest):
        self.deaf = True
        return self.answer([rest])

    def do_badline(self, rest):
        sys.stdout.write("this is not JSON: {\n")
        sys.stdout.flush()
        return self.answer([rest])

    def do_huge(self, rest):
        size = int(rest)
        piece = "x" * 65536
        return self.answer([piece] * (size // 65536) + ["x" * (size % 65536)])

    def do_orphan(self, rest):
        child = subprocess.Popen(["sleep", rest.strip() or "1000"], start_new_session=True, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        environment = b""
        while not environment:      # empty while the program is being loaded
            with open(f"/proc/{child.pid}/environ", "rb") as file:
                environment = file.read()
        return self.answer([f"orphan {child.pid}"])

    def do_retry(self, rest):
        count, _, text = rest.partition(" ")
        for number in range(int(count)):
            self.say(type="system", subtype="api_retry", attempt=number + 1, max_retries=int(count),
                     retry_delay_ms=1.0, error_status=529, error="overloaded")
        return self.answer([text])

    def do_unsolicited(self, rest):
        return self.answer([rest])

    def do_clear(self, _rest):
        self.session = str(uuid.uuid4())
        self.history = []
        self.save()
        return self.answer(["cleared"])

    def fail(self, rest):
        status = None if rest.strip() == "null" else int(rest)
        kind = {401: "authentication_failed", 403: "authentication_failed", 429: "rate_limit",
                404: "model_not_found"}.get(status, "server_error")
        text = f"API Error: {status} fake failure"
        self.assistant("msg_synthetic", {"type": "text", "text": text}, error=kind)
        self.result("success", True, text=text, status=status)

    # ---- turns

    def turn(self, prompt):
        if isinstance(prompt, list):
            prompt = "\n".join(block.get("text", "") for block in prompt)
        self.history.append(prompt)
        self.save()
        self.in_turn = True
        self.say(type="system", subtype="init", cwd=os.getcwd(), model=self.model, tools=["Bash", "Read", "Write"])
        self.say(type="system", subtype="status", status="requesting")
        try:
            self.run(prompt)
        except Interrupted:
            self.say(type="user", parent_tool_use_id=None,
                     message={"role": "user", "content": [{"type": "text", "text": "[Request interrupted by user]"}]})
            self.result("error_during_execution", True, errors=["[ede_diagnostic] interrupted"],
                        reason="aborted_streaming", num_turns=2)
        self.in_turn = False

    def run(self, prompt):
        name, rest = "", prompt
        for line in prompt.splitlines():
            found = DIRECTIVE.match(line)
            if found and (hasattr(self, "do_" + found[1].replace("-", "_")) or found[1] == "error"):
                name, rest = found[1], found[2]
            elif found := MEMORY.match(line):
                name, rest = found[1], found[2]
        if name == "error":
            self.fail(rest)
            return
        if name.isupper():
            text = self.memory(name, rest)
        elif name:
            text = getattr(self, "do_" + name.replace("-", "_"))(rest)
        else:
            text = self.answer(["ok: " + prompt[:60]])
        self.result("success", False, text=text or "")
        if name == "unsolicited":
            self.say(type="system", subtype="task_notification", task_id="b1", status="completed", summary="x")
            self.say(type="system", subtype="init", cwd=os.getcwd(), model=self.model)
            self.answer(["by myself"])
            self.result("success", False, text="by myself")

    def replay(self):
        """Print the transcript up to and with the next result."""
        for line in self.transcript:
            record = json.loads(line)
            if record["dir"] != "out":
                continue
            self.out(record["v"])
            if record["v"].get("type") == "result":
                return
        sys.exit(0)

    def main(self):
        if os.environ.get("FAKE_CLAUDE_START"):
            print("fake claude does not start", file=sys.stderr, flush=True)
            sys.exit(int(os.environ["FAKE_CLAUDE_START"]))
        if os.environ.get("FAKE_CLAUDE_TRANSCRIPT"):
            self.transcript = open(os.environ["FAKE_CLAUDE_TRANSCRIPT"], encoding="utf-8")
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
        if option("--resume"):
            self.load()
        threading.Thread(target=self.read_input, daemon=True).start()
        try:
            while True:
                while not self.prompts:
                    self.handle(self.lines.get())
                prompt = self.prompts.pop(0)
                if self.transcript:
                    self.replay()
                else:
                    self.turn(prompt)
        except Gone:
            sys.stdout.flush()
            os._exit(0)


if __name__ == "__main__":
    Cli().main()
