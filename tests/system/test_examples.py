# SPDX-License-Identifier: MPL-2.0
"""What users of the iris document wrote against it: a shell line, a CI step, a chat bot, a cron job, an alert handler.

Each is written here as they would write it, with nothing of ours in between; only host and key differ."""

import json
import os
import subprocess
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import node_libs
from claude_cli import Unavailable
from harness import PYTHON, scaled

TEAMS = {"teams": {name: {"driver": "echo", "concurrency": 4} for name in ("backend", "frontend", "code-reviewer")}}
FAST = {**TEAMS, "webhooks": {"allow_private": True}}


def shell(daemon, script, folder):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", textwrap.dedent(script)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "URL": daemon.url, "IRIS_API_KEY": daemon.key, "PR": "42"},
        capture_output=True,
        text=True,
        timeout=scaled(30),
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.fixture
def node(daemons, tmp_path):
    """node(daemon, script) runs a module beside axios and eventsource and returns what it printed."""
    try:
        libs = node_libs.folder("axios@1", "eventsource@2")
    except Unavailable as reason:
        pytest.skip(f"no JavaScript client: {reason}")

    def run(daemon, script):
        os.symlink(libs / "node_modules", tmp_path / "node_modules")
        (tmp_path / "main.mjs").write_text(textwrap.dedent(script))
        done = subprocess.run(
            ["node", "main.mjs"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "URL": daemon.url, "IRIS_API_KEY": daemon.key},
            capture_output=True,
            text=True,
            timeout=scaled(40),
        )
        assert done.returncode == 0, done
        return done.stdout

    return run


def test_the_first_curl_line(daemons, tmp_path):
    out = shell(
        daemons(TEAMS),
        """
        curl -s -X POST $URL/api/v1/teams/backend/ask \\
          -H "Content-Type: application/json" \\
          -H "Authorization: Bearer $IRIS_API_KEY" \\
          -d '{
            "question": "What database migration system do you use?",
            "timeout": 30000
          }'
        """,
        tmp_path,
    )
    answer = json.loads(out)
    assert answer["messageId"].startswith("msg_") and answer["team"] == "backend"
    assert "migration" in answer["response"]
    assert isinstance(answer["duration"], int) and isinstance(answer["timestamp"], int)


def test_a_ci_step_without_a_content_type(daemons, tmp_path):
    shell(
        daemons(TEAMS),
        """
        curl -s -X POST $URL/api/v1/teams/code-reviewer/ask \\
          -H "Authorization: Bearer ${IRIS_API_KEY}" \\
          -d "{\\"question\\": \\"Review PR #${PR}\\"}" \\
          | jq -r '.response' > review.md
        """,
        tmp_path,
    )
    assert "Review PR #42" in (tmp_path / "review.md").read_text()


def test_a_chat_bot_with_axios(daemons, node):
    out = node(
        daemons(TEAMS),
        """
        import axios from 'axios';

        const iris = axios.create({
          baseURL: `${process.env.URL}/api/v1`,
          headers: { 'Authorization': `Bearer ${process.env.IRIS_API_KEY}` }
        });
        const posted = [];
        const chat = { postMessage: async (message) => posted.push(message) };

        async function onMessage(event) {
          if (!event.text.startsWith('/ask-backend')) return;
          const question = event.text.replace('/ask-backend', '').trim();
          const answer = await iris.post('/teams/backend/ask', { question });
          await chat.postMessage({ channel: event.channel, text: `Backend team says: ${answer.data.response}` });
        }

        await onMessage({ channel: 'C1', text: 'good morning' });
        await onMessage({ channel: 'C1', text: '/ask-backend how are you?' });
        console.log(JSON.stringify(posted));
        """,
    )
    posted = json.loads(out)
    assert len(posted) == 1 and posted[0]["channel"] == "C1" and "how are you?" in posted[0]["text"]


def test_a_cron_job_that_asks_executes_and_streams(daemons, node):
    out = node(
        daemons(TEAMS),
        """
        import EventSource from 'eventsource';

        class Team {
          constructor(name) {
            this.base = `${process.env.URL}/api/v1/teams/${name}`;
            this.headers = { 'Authorization': `Bearer ${process.env.IRIS_API_KEY}` };
          }
          async post(path, body) {
            const response = await fetch(this.base + path, {
              method: 'POST', headers: { ...this.headers, 'Content-Type': 'application/json' },
              body: JSON.stringify(body) });
            if (!response.ok) throw new Error(JSON.stringify(await response.json()));
            return response.json();
          }
          ask(question, options) { return this.post('/ask', { question, ...options }); }
          execute(task, options) { return this.post('/execute', { task, ...options }); }
          stream(message) {
            const source = new EventSource(this.base + '/stream?message=' + encodeURIComponent(message),
                                           { headers: this.headers });
            return new Promise((resolve, reject) => {
              let text = '';
              source.addEventListener('chunk', (e) => { text += JSON.parse(e.data).text; });
              source.addEventListener('complete', (e) => {
                source.close();
                resolve({ text, duration: JSON.parse(e.data).duration });
              });
              source.onerror = (e) => { source.close(); reject(e); };
            });
          }
        }

        const backend = new Team('backend'), frontend = new Team('frontend');
        console.log(JSON.stringify({
          asked: await backend.ask('Check for outdated npm dependencies'),
          given: await frontend.execute('Run npm audit', { priority: 'low' }),
          streamed: await backend.stream('@chunks=3 Explain the flow'),
          refused: await new Team('nobody').ask('?').catch((e) => JSON.parse(e.message)),
        }));
        """,
    )
    said = json.loads(out)
    assert "npm dependencies" in said["asked"]["response"]
    assert said["given"]["status"] == "queued" and said["given"]["position"] >= 1
    assert "Explain the flow" in said["streamed"]["text"] and said["streamed"]["duration"] >= 1
    assert said["refused"]["code"] == "TEAM_NOT_FOUND"


def test_an_alert_handler_in_python(daemons, tmp_path):
    daemon = daemons(TEAMS)
    script = """
        import json, os, urllib.request

        def ask(team, question, **options):
            request = urllib.request.Request(
                f"{os.environ['URL']}/api/v1/teams/{team}/ask",
                data=json.dumps({"question": question, **options}).encode(),
                headers={"Authorization": f"Bearer {os.environ['IRIS_API_KEY']}"})
            with urllib.request.urlopen(request) as response:
                return json.load(response)

        def handle(alert):
            if alert["severity"] == "critical":
                answer = ask("backend", f"We have a critical alert: {alert['message']}. Check logs and suggest a fix.",
                             context={"source": "monitoring", "metadata": {"alert": alert["id"]}})
                print("AI Analysis:", answer["response"])
                if "suggested_fix" in answer["metadata"]:
                    raise SystemExit("nobody suggested a fix")
                print(answer["messageId"])

        handle({"id": 1, "severity": "info", "message": "all is well"})
        handle({"id": 2, "severity": "critical", "message": "disk full"})
    """
    done = subprocess.run(
        [PYTHON, "-c", textwrap.dedent(script)],
        env={"URL": daemon.url, "IRIS_API_KEY": daemon.key},
        capture_output=True,
        text=True,
        timeout=scaled(30),
    )
    assert done.returncode == 0, done
    analysis, name = done.stdout.strip().rsplit("\n", 1)
    assert "disk full" in analysis
    assert daemon.client.message(name)["context"] == {"source": "monitoring", "metadata": {"alert": 2}}


def test_a_task_whose_end_is_called_back(daemons, tmp_path):
    """The document's callback: its body has these members and nothing in the way of them."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append((self.headers, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.timeout = scaled(20)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    out = shell(
        daemons(FAST),
        f"""
        curl -s -X POST $URL/api/v1/teams/backend/execute -H "Authorization: Bearer $IRIS_API_KEY" -d '{{
          "task": "Run npm audit and fix any vulnerabilities with auto-fixable patches",
          "priority": "normal",
          "callback": {{
            "url": "http://127.0.0.1:{server.server_address[1]}/webhooks/iris",
            "method": "POST",
            "headers": {{ "Authorization": "Bearer webhook-secret" }}
          }}
        }}'
        """,
        tmp_path,
    )
    thread.join(scaled(20))
    server.server_close()
    given = json.loads(out)
    assert set(given) >= {"jobId", "team", "status", "estimatedCompletion", "position"}
    headers, body = came[0]
    assert headers["Authorization"] == "Bearer webhook-secret" and headers["webhook-signature"].startswith("v1,")
    assert body["jobId"] == given["jobId"] and body["team"] == "backend" and body["status"] == "completed"
    assert set(body["result"]) == {"summary", "details"} and isinstance(body["timestamp"], int)
    assert isinstance(body["duration"], int)
