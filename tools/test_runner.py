# SPDX-License-Identifier: MPL-2.0
"""Builds, runs every suite and counts single tests.  Run by tools/test; only the standard library.

Suites, in order: checks (format, layers, scripts), build (one test a preset), C tests and system tests of each build,
benchmark.
The last line is "N passed, N failed, N skipped"; the exit status is 1 when anything failed or nothing passed."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PARALLEL = 2
PYTHON = "/usr/bin/python3"

# Preset: compiler, are its tests run, how much slower are they.
PRESETS = {"release": ("gcc", True, 1), "asan": ("gcc", True, 4), "clang": ("clang", False, 1)}

C_TEST_SECONDS = 120  # one program, all its tests
SYSTEM_SECONDS = 1200
BUILD_SECONDS = 900
BENCH_SECONDS = 600


class Suite:
    def __init__(self, name):
        self.name = name
        self.passed = self.failed = self.skipped = 0
        self.begun = time.monotonic()

    def count(self, passed=0, failed=0, skipped=0):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def fail(self, what, output=""):
        self.failed += 1
        say(f"FAILED: {self.name}: {what}")
        if output:
            say(output.rstrip())

    def end(self):
        took = time.monotonic() - self.begun
        say(f"== {self.name}: {self.passed} passed, {self.failed} failed, {self.skipped} skipped ({took:.0f} s)")
        return self


def say(text):
    print(text, flush=True)


def run(command, seconds, env=None, capture=True):
    """Run in a process group of its own, which is killed when the time is over.  Returns (status or None, output)."""
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, start_new_session=True,
                               stdout=subprocess.PIPE if capture else None, stderr=subprocess.STDOUT if capture else None)
    try:
        output, _ = process.communicate(timeout=seconds)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        status = None
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return status, (output or b"").decode(errors="replace")


def outcome(status, seconds):
    return f"took longer than {seconds} s" if status is None else f"ended with {status}"


# ---- checks and builds ------------------------------------------------------------------------------------------------


def run_checks():
    suite = Suite("checks")
    for name in ("check-format", "check-layers", "check-scripts"):
        if name == "check-scripts" and not shutil.which("shellcheck"):
            say(f"SKIPPED: checks: {name}: shellcheck is not installed")
            suite.count(skipped=1)
            continue
        status, output = run([str(ROOT / "tools" / name)], 120)
        if status == 0:
            suite.count(passed=1)
        else:
            suite.fail(name, output)
    return suite.end()


def build_preset(suite, name, compiler):
    """Configure and build; returns whether it can be tested."""
    env = dict(os.environ, CC=compiler)
    configure = ["cmake", "--preset", name, f"-DCMAKE_C_COMPILER={compiler}", "-DBUILD_TESTING=ON"]
    if shutil.which("ccache"):
        configure.append("-DCMAKE_C_COMPILER_LAUNCHER=ccache")
    for command in (configure, ["cmake", "--build", "--preset", name, "-j", str(os.cpu_count() or 2), "--", "-k", "0"]):
        status, output = run(command, BUILD_SECONDS, env)
        if status != 0:
            suite.fail(f"{name}: {' '.join(command[:3])} {outcome(status, BUILD_SECONDS)}", output[-20000:])
            return False
    suite.count(passed=1)
    return True


def run_builds(presets):
    suite = Suite("build")
    built = [name for name in presets if build_preset(suite, name, PRESETS[name][0])]
    return suite.end(), built


# ---- C tests ----------------------------------------------------------------------------------------------------------


def c_programs(folder):
    status, output = run(["ctest", "--test-dir", str(folder), "--show-only=json-v1"], 60)
    if status != 0:
        return []
    tests = json.loads(output[output.index("{"):])["tests"]
    return [(test["name"], test["command"]) for test in tests if "command" in test]


def sanitizer_env(logs, name):
    env = dict(os.environ)
    env["ASAN_OPTIONS"] = f"detect_leaks=1:log_path={logs}/{name}"
    env["UBSAN_OPTIONS"] = f"print_stacktrace=1:halt_on_error=1:log_path={logs}/{name}"
    return env


def read_tap(path):
    """Results of a Criterion program: list of ("ok" | "not ok" | "skip", text), and how many were planned."""
    results, planned = [], 0
    for line in path.read_text(errors="replace").split("\n") if path.exists() else []:
        plan = re.match(r"1\.\.(\d+)", line)
        result = re.match(r"(ok|not ok) - (.*)", line)
        if plan:
            planned = int(plan.group(1))
        elif result and "# SKIP" in line:
            results.append(("skip", result.group(2)))
        elif result:
            results.append((result.group(1), result.group(2)))
    return results, planned


def run_c_program(name, command, logs, slow):
    """Returns (name, passed, list of failures, list of skips, output)."""
    tap = logs / f"{name}.tap"
    criterion = pathlib.Path(command[0]).name.startswith("test_")
    seconds = C_TEST_SECONDS * slow
    extra = [f"--tap={tap}", "--timeout=60"] if criterion else []
    status, output = run(command + extra, seconds, sanitizer_env(logs, name))
    results, planned = read_tap(tap) if criterion else ([("ok" if status == 0 else "not ok", "replay")], 1)
    failures = [text for kind, text in results if kind == "not ok"]
    skips = [text for kind, text in results if kind == "skip"]
    passed = sum(kind == "ok" for kind, _ in results)
    if len(results) < planned or planned == 0:
        failures += [f"{planned - len(results) if planned else 'all'} tests did not run"] * max(planned - len(results), 1)
    elif status != 0 and not failures:
        failures.append(f"the program {outcome(status, seconds)}")
    reports = [report for report in sorted(logs.glob(f"{name}.*")) if report != tap]
    for report in reports:
        failures.append(f"sanitizer: {report.name}")
        output += "\n" + report.read_text(errors="replace")[:8000]
    return name, passed, failures, skips, output


def run_c_tests(preset):
    suite = Suite(f"C tests ({preset})")
    folder = BUILD / preset
    logs = folder / "test-logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    programs = c_programs(folder)
    if not programs:
        suite.fail("there are no test programs")
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        jobs = [pool.submit(run_c_program, *program, logs, PRESETS[preset][2]) for program in programs]
        for job in concurrent.futures.as_completed(jobs):
            name, passed, failures, skips, output = job.result()
            suite.count(passed=passed, skipped=len(skips))
            for text in skips:
                say(f"SKIPPED: {suite.name}: {name}: {text}")
            for text in failures:
                suite.fail(f"{name}: {text}")
            if failures:
                say(output.rstrip()[-12000:])
    return suite.end()


# ---- system tests -----------------------------------------------------------------------------------------------------


def count_junit(suite, path):
    for group in xml.etree.ElementTree.parse(path).getroot().iter("testsuite"):
        total, skipped = int(group.get("tests", 0)), int(group.get("skipped", 0))
        failed = int(group.get("failures", 0)) + int(group.get("errors", 0))
        suite.count(passed=max(total - skipped - failed, 0), failed=failed, skipped=skipped)


def run_system_tests(preset):
    suite = Suite(f"system tests ({preset})")
    slow = PRESETS[preset][2]
    report = BUILD / preset / "system-tests.xml"
    report.unlink(missing_ok=True)
    env = dict(os.environ, MUSTER_BIN=str(BUILD / preset / "muster"), MUSTER_TEST_SLOW=str(slow),
               PYTHONDONTWRITEBYTECODE="1")
    env.pop("PYTHONPATH", None)
    seconds = SYSTEM_SECONDS * (2 if slow > 1 else 1)
    command = [PYTHON, "-m", "pytest", "tests/system", "-q", "-rs", "-p", "no:cacheprovider", f"--junitxml={report}"]
    status, _ = run(command, seconds, env, capture=False)
    if report.exists():
        count_junit(suite, report)
    if status is None or not report.exists():
        suite.fail(f"pytest {outcome(status, seconds)}")
    elif status != 0 and suite.failed == 0:
        suite.fail(f"pytest {outcome(status, seconds)}; nothing was tested" if status == 5 else "pytest reports an error")
    return suite.end()


# ---- benchmark --------------------------------------------------------------------------------------------------------


def run_benchmark():
    """Once and short: does every row come to a number?  The numbers mean nothing here."""
    suite = Suite("benchmark (quick)")
    status, output = run([PYTHON, str(ROOT / "tools" / "bench"), "--quick"], BENCH_SECONDS)
    for line in output.splitlines():
        if "SKIPPED:" in line:
            say(line.strip())
    counted = re.search(r"^took \d+ s; (\d+) results?, (\d+) not measured$", output, re.MULTILINE)
    if counted:
        suite.count(passed=int(counted[1]) - int(counted[2]), skipped=int(counted[2]))
    if status != 0 or not counted:
        suite.fail(f"tools/bench {outcome(status, BENCH_SECONDS)}", output[-20000:])
    return suite.end()


# ---- all --------------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(prog="tools/test", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="gcc release only: no sanitizers, no clang")
    quick = parser.parse_args().quick
    presets = ["release"] if quick else list(PRESETS)

    suites = [run_checks()]
    suite, built = run_builds(presets)
    suites.append(suite)
    for preset in built:
        if PRESETS[preset][1]:
            suites.append(run_c_tests(preset))
            suites.append(run_system_tests(preset))
    suites.append(run_benchmark())
    passed, failed, skipped = (sum(getattr(s, n) for s in suites) for n in ("passed", "failed", "skipped"))
    say("")
    for suite in suites:
        say(f"{suite.name}: {suite.passed} passed, {suite.failed} failed, {suite.skipped} skipped")
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
