# SPDX-License-Identifier: MPL-2.0
"""What the README says of ZeroMQ and of workers, done as it stands there."""

import re
import subprocess

from harness import PYTHON, ROOT, binary, free_port, scaled, wait_until


def blocks(section):
    """(language, text) of each piece of code under this heading."""
    text = (ROOT / "README.md").read_text()
    text = re.split(rf"^#+ {section}$", text, flags=re.M)[1]
    return re.findall(r"^```(\w+)\n(.*?)^```$", re.split(r"^#+ [A-Z]", text, flags=re.M)[0], re.M | re.S)


class Here:
    """The daemon of the README's configuration, at a port of our own, and a shell beside it."""

    def __init__(self, daemons, folder, config):
        self.port, self.folder = free_port(), folder
        self.daemon = daemons(self.put(config))

    def put(self, text):
        text = text.replace("build/release/muster", str(binary())).replace("//HUB:", "//127.0.0.1:")
        return text.replace("5570", str(self.port)).replace("tests/system", str(ROOT / "tests" / "system"))

    def environment(self, known):
        key = {"MUSTER_URL": self.daemon.url, "MUSTER_API_KEY": self.daemon.key} if known else {}
        return {**self.daemon.environment(), **key}

    def run(self, line, stdin=None):
        done = subprocess.run(
            ["bash", "-euc", self.put(line)],
            cwd=self.folder,
            env=self.environment(True),
            capture_output=True,
            text=True,
            timeout=scaled(30),
            input=stdin,
        )
        assert done.returncode == 0, (line, done)
        return done.stdout


def test_zeromq(daemons, tmp_path):
    (_, config), (_, shell), (_, program) = blocks("ZeroMQ")
    here = Here(daemons, tmp_path, config)
    make_key, python = shell.splitlines()
    here.run(make_key)
    assert (tmp_path / "bot.key").stat().st_mode & 0o777 == 0o600
    assert here.run(python.replace("python3", PYTHON), stdin=here.put(program)) == "hello\n"


def test_more_hosts(daemons, tmp_path):
    (_, hub), (_, worker), (_, shell) = blocks("More hosts")
    here = Here(daemons, tmp_path, hub)
    assert "driver: claude" in worker
    (tmp_path / "worker.yaml").write_text(worker.replace("driver: claude", "driver: echo"))
    make_key, dial, ask, nodes, drain = [line for line in shell.splitlines() if not line.startswith("#")]
    here.run(make_key)
    log = tmp_path / "worker.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            ["bash", "-euc", "exec " + here.put(dial)], cwd=tmp_path, env=here.environment(False), stdout=out, stderr=out
        )
    try:
        wait_until(lambda: "worker worker-1 is attached" in log.read_text(), "it is attached")
        assert here.run(ask) == "hello\n"
        assert re.search(r"^worker-1 +up .* backend 0/2 ", here.run(nodes), re.M)
        assert here.run(drain) == "draining\n"
        process.terminate()
        assert process.wait(scaled(20)) == 0
    finally:
        process.kill()
        process.wait()
    assert "key-readable" not in log.read_text()
