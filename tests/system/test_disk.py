# SPDX-License-Identifier: MPL-2.0
"""A disk without room: refused with a clear error, reads go on, and with room again so do writes."""

import os
import resource

from harness import wait_until


def test_a_full_disk_refuses_writes_until_there_is_room(daemons):
    daemon = daemons({"http": {"max_body": "2MiB"}, "teams": {"echo": {"driver": "echo", "concurrency": 2}}})
    client = daemon.client
    running = client.submit("echo", "@gap=1ms @hang x")
    client.wait_state(running, "processing")
    accepted = [running]
    data = daemon.data / "data.mdb"
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (os.path.getsize(data), hard))
    try:
        for number in range(60):
            answer = client.execute("echo", f"{number} " + "x" * 1_000_000)
            if answer.status != 202:
                break
            accepted.append(answer.json["messageId"])
        answer.error(507, "STORAGE_FULL")
        assert client.message(running)["status"] == "processing", "reads go on"
        assert client.get("/health").status == 200
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (soft, hard))
    assert client.ask("echo", "room again").ok()["response"] == "room again"
    client.cancel(running)
    for name in accepted:
        client.wait_final(name)
    wait_until(lambda: client.history(status="queued")["pagination"]["total"] == 0, "nothing is left")
    assert client.history()["pagination"]["total"] == len(accepted) + 1, "what was refused is not there"
