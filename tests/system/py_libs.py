# SPDX-License-Identifier: MPL-2.0
"""Puts Python libraries that Debian does not have into build/py-libs, once, and makes them importable.

A virtual environment of their own, made by the ordinary tools; nothing outside of build/ is changed."""

import importlib
import subprocess
import sys

from harness import PYTHON, ROOT

FOLDER = ROOT / "build" / "py-libs"


class Unavailable(Exception):
    """Says why there is no such library."""


def run(what, line, seconds):
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(f"{what}: {problem}") from None
    if done.returncode != 0:
        raise Unavailable(f"{what} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def find(name):
    """The module from the folder, or None."""
    for path in FOLDER.glob("lib/python3.*/site-packages"):
        if str(path) not in sys.path:
            sys.path.append(str(path))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def module(name, package=None):
    """A module that `package` of PyPI has; raises Unavailable."""
    found = find(name)
    if found:
        return found
    run("python3 -m venv", [PYTHON, "-m", "venv", str(FOLDER)], 120)
    pip = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run("pip install", [*pip, package or name], 300)
    found = find(name)
    if not found:
        raise Unavailable(f"{package or name} was installed to {FOLDER} but cannot be imported")
    return found
