# SPDX-License-Identifier: MPL-2.0
"""Puts packages of npm into build/node-libs, once, for tests that act as clients written in JavaScript."""

import shutil

from claude_cli import Unavailable, find_npm, run
from harness import ROOT

FOLDER = ROOT / "build" / "node-libs"


def folder(*packages):
    """A folder whose node_modules has these; raises claude_cli.Unavailable."""
    missing = [p for p in packages if not (FOLDER / "node_modules" / p.partition("@")[0]).exists()]
    if missing:
        FOLDER.mkdir(parents=True, exist_ok=True)
        run("npm install", [find_npm(), "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER), *missing], 300)
    if not shutil.which("node"):
        raise Unavailable("there is no node")
    return FOLDER
