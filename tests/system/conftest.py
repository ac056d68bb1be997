# SPDX-License-Identifier: MPL-2.0
"""Fixtures of the system tests.  MUSTER_BIN names the program (default: build/release/muster)."""

import signal

import pytest

import harness
from fake_model import FakeModel


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """A test that takes too long fails instead of holding up all others; fixtures are inside the deadline."""
    marker = item.get_closest_marker("deadline")
    seconds = harness.scaled(marker.args[0] if marker else 60)

    def late(signum, frame):
        signal.alarm(int(harness.scaled(30)))  # for the fixtures' own end
        raise TimeoutError(f"the test took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pytest_configure(config):
    if not harness.binary().exists():
        raise pytest.UsageError(f"there is no {harness.binary()}; set MUSTER_BIN")


@pytest.fixture
def daemons(tmp_path):
    """daemons(config, ...) makes and starts a daemon; at the end each must stop without leaving anything."""
    made = []

    def make(config=None, start=True, **options):
        daemon = harness.Daemon(tmp_path / f"d{len(made)}", config, **options)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    problems = []
    for daemon in made:
        try:
            daemon.end_of_test()
        except AssertionError as problem:
            problems.append(problem)
    if problems:
        raise problems[0]


@pytest.fixture
def daemon(daemons):
    """One team `echo` with room for eight jobs."""
    return daemons({"teams": {"echo": {"driver": "echo", "concurrency": 8}}})


@pytest.fixture
def client(daemon):
    return daemon.client


@pytest.fixture
def model():
    fake = FakeModel()
    yield fake
    fake.stop()
