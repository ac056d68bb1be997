# SPDX-License-Identifier: MPL-2.0
"""`muster bench`: against a server, and one of its own."""

import json
import subprocess

from harness import binary, scaled

SHORT = ("--span", "200ms", "--connections", "2")


def lines(done):
    return {line["work"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_without_a_server_it_measures_one_of_its_own_and_leaves_nothing(tmp_path):
    folder = tmp_path / "tmp"
    folder.mkdir()
    done = subprocess.run(
        [str(binary()), "bench", "--json", *SHORT],
        env={"TMPDIR": str(folder), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=scaled(60),
    )
    assert done.returncode == 0, done
    found = lines(done)
    assert list(found) == ["status", "submit", "stream"]
    for line in found.values():
        assert line["rate"] > 0 and line["good"] > 0 and line["failed"] == 0, line
        assert 0 < line["p50Ms"] <= line["p99Ms"], line
    assert not list(folder.iterdir())


def test_a_servers_jobs_are_not_run_for_it(daemon):
    done = daemon.cli("bench", *SHORT)
    assert done.returncode == 0, done
    assert "status" in done.stdout and "stream" in done.stdout and "submit" not in done.stdout
    assert "no submits" in done.stderr
    assert daemon.client.get("/api/v1/messages/history").ok()["messages"] == []


def test_submits_go_to_a_paused_team_and_have_a_deadline(daemons):
    daemon = daemons({"teams": {"echo": {"driver": "echo"}, "held": {"driver": "echo", "paused": True}}})
    done = daemon.cli("bench", "held", "--json", *SHORT)
    assert done.returncode == 0, done
    assert lines(done)["submit"]["good"] > 0
    jobs = daemon.client.get("/api/v1/messages/history?team=held").ok()["messages"]
    assert jobs and all(job["status"] == "queued" for job in jobs)


def test_a_spent_rate_is_told(daemons):
    key = {"name": "slow", "key": "muster_sk_slow_0123456789", "rate_limit": {"requests": 50, "window": "1m"}}
    daemon = daemons({"auth": {"keys": [key]}})
    done = daemon.cli("bench", "--json", *SHORT, "--key", key["key"])
    assert done.returncode == 7, done
    assert lines(done)["status"]["limited"] > 0
    assert "rate" in done.stderr


def test_a_named_server_must_be_there(daemon):
    assert daemon.cli("bench", "--url", "http://127.0.0.1:1", *SHORT).returncode == 3
    assert daemon.cli("bench", "nobody", *SHORT).returncode == 5
    assert daemon.cli("bench", "--connections", "0").returncode == 2
