# SPDX-License-Identifier: MPL-2.0
"""Puts the real Claude Code CLI into build/claude-cli, once, and finds its program there."""

import os
import shutil
import subprocess

from harness import ROOT

PACKAGE = "@anthropic-ai/claude-code"
FOLDER = ROOT / "build" / "claude-cli"


class Unavailable(Exception):
    """Says why there is no CLI."""


def answers(program, home):
    """Does this file run?  An install without its scripts may leave an empty one."""
    try:
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "DISABLE_AUTOUPDATER": "1"}
        done = subprocess.run(
            [str(program), "--version"], env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "Claude Code" in done.stdout


def candidates():
    modules = FOLDER / "node_modules"
    yield modules / ".bin" / "claude"
    yield from sorted(modules.glob("@anthropic-ai/claude-code-linux-*/claude"))


def run(what, line, seconds):
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(f"{what}: {problem}") from None
    if done.returncode != 0:
        raise Unavailable(f"{what} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def find_npm():
    if not shutil.which("npm"):
        if not shutil.which("apt-get") or os.geteuid() != 0:
            raise Unavailable("there is no npm, and it cannot be installed here")
        run("apt-get install npm", ["apt-get", "install", "-y", "--no-install-recommends", "npm"], 600)
    return shutil.which("npm") or "npm"


def program(home):
    """Path of a CLI that runs; raises Unavailable."""
    for path in candidates():
        if path.exists() and answers(path, home):
            return path
    FOLDER.mkdir(parents=True, exist_ok=True)
    run("npm install", [find_npm(), "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER), PACKAGE], 600)
    for path in candidates():
        if path.exists() and answers(path, home):
            return path
    raise Unavailable(f"{PACKAGE} was installed to {FOLDER} but its program does not run")
