# SPDX-License-Identifier: MPL-2.0
"""BENCHMARKS.md and the raw numbers beside it."""

import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import time

import instructions
from lab import BUILD, ROOT
from results import REASONS, ROWS

HEAD = """# Benchmarks

Written by `tools/bench`; `tools/bench --rows 1,2` repeats some rows, `--quick` shows in a minute that all of them
run. Load and servers share one machine, and everything goes over loopback, so a rate says little and only the ratios
count: both sides of a ratio are measured in turn in the same rounds. A ratio is the median of {rounds} rounds (lowest
to highest; rows 17 and 20 have three, row 18 one), and the rates beside it are medians too. Nothing is switched off:
key, scope, rate limit, validation, request log and sync are as a user has them. Submits go to a paused team, so only
the submit is measured. Where the rounds differ more than threefold the verdict is called noisy: something else was at
work on the machine, and it means nothing either way. `bench/first.md` is the first table, before anything was made
faster because of it.

{machine}

| # | work | beside | at | ratio | goal | | work: rate, p50 / p99 | beside: rate, p50 / p99 |
|---|---|---|---|---|---|---|---|---|
"""


def text_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def sync_rate(folder, seconds=0.5):
    """Overwrites of 4 KiB with fdatasync a second: what the disk can do."""
    path = folder / "sync"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.pwrite(descriptor, bytes(4096), 0)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        os.pwrite(descriptor, bytes(4096), 0)
        os.fdatasync(descriptor)
        count += 1
    os.close(descriptor)
    path.unlink()
    return count / seconds


def stamp(lab):
    """When, of which commit, and how fast the disk was just then: rows may come from several runs, and on a shared
    machine the disk is not always the same, on which the durable rows depend."""
    return {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": text_of(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]) or "unknown",
            "syncs": round(sync_rate(lab.folder))}


def stamps(results):
    """One line for each group of rows that was measured together."""
    groups = {}
    for found in results:
        if "stamp" in found:
            groups.setdefault(tuple(found["stamp"].values()), set()).add(found["row"])
    lines = []
    for (date, commit, syncs), rows in sorted(groups.items(), key=lambda item: min(item[1])):
        disk = f"{syncs:,} syncs" if syncs else "syncs not recorded"
        lines.append(f"- rows {', '.join(map(str, sorted(rows)))}: {date}, {commit}, {disk}")
    return "\n".join(lines)


def machine(lab, peers):
    cpu = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())
    return {
        "cpu": f"{os.cpu_count()} x {cpu[1].strip() if cpu else platform.machine()}",
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "",
        "kernel": platform.release(),
        "disk": text_of(["df", "--output=fstype", str(lab.folder)]).split()[-1],
        "libraries": ", ".join(f"{p} {text_of(['pkg-config', '--modversion', m])}" for p, m in
                               {"libzmq": "libzmq", "czmq": "libczmq", "LMDB": "lmdb", "jansson": "jansson"}.items()),
        "peers": ", ".join(f"{name} {version}" for name, version in peers.versions().items()),
    }


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def stat(found, unit):
    if found is None:
        return "-"
    text = number(found["rate"]) + (f" {unit}" if unit else "/s")
    if found.get("p99_ms"):
        text += f", {number(found['p50_ms'])} / {number(found['p99_ms'])} ms"
    return text


def line(found, quick=False):
    cells = [str(found["row"]), found["work"], found["beside"], found["at"] or "-"]
    goal = found["goal"]
    goal_text = "-"
    if goal is not None:
        goal_text = f"{'≥' if found['kind'] == 'min' else '≤'} {goal:g}{found.get('goal_unit', '')}"
    if "skipped" in found:
        return "| " + " | ".join([*cells, "-", goal_text, "not measured", found["skipped"], ""]) + " |"
    verdict = "quick" if quick else {True: "met", False: "**missed**", None: "reported"}[found.get("met")]
    if not quick and 0 < 3 * found["low"] < found["high"]:
        verdict += ", noisy"
    unit = found.get("ratio_unit", "")
    ratio = f"**{found['ratio']:.2f}{unit}**"
    if found["low"] != found["high"]:
        ratio += f" ({found['low']:.2f} to {found['high']:.2f})"
    cells += [ratio, goal_text, verdict, stat(found["work_stat"], found.get("unit")),
              stat(found["beside_stat"], found.get("unit"))]
    return "| " + " | ".join(cells) + " |"


def write(kept, facts, rounds, path):
    results = [found for row, some in kept.items() if row.isdigit() for found in some]
    about = (f"{facts['cpu']}, {facts['memory']}, Linux {facts['kernel']}, {facts['disk']}. {facts['libraries']}. "
             f"Peers: {facts['peers']}.\n\nMeasured when, at which commit, and how many overwrites of 4 KiB the disk "
             f"synced a second just before (a slow disk flatters rows 3 to 5):\n\n{stamps(results)}")
    text = HEAD.format(rounds=rounds, machine=about)
    done = {found["row"] for found in results}
    rest = [{"row": row, "work": ROWS[row][0], "beside": ROWS[row][1], "at": "", "goal": ROWS[row][2],
             "kind": ROWS[row][3], "skipped": "not in this run"} for row in ROWS if row not in done]
    ordered = sorted(results + rest, key=lambda found: found["row"])
    text += "\n".join(map(line, ordered)) + "\n"
    missed = sorted({found["row"] for found in ordered if found.get("met") is False})
    if missed:
        text += "\n## Missed goals\n\n"
        text += "\n".join(f"- **{row}**: {REASONS.get(row, 'not yet looked into.')}" for row in missed) + "\n"
    if (ROOT / "bench" / "growth.svg").exists():
        text += "\n## Cost as work grows\n\n![cost over size](bench/growth.svg)\n"
    if kept.get("profiles"):
        text += "\n" + instructions.table(kept["profiles"])
    path.write_text(text)


def load():
    path = BUILD / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def save(kept):
    (BUILD / "results.json").write_text(json.dumps(kept, indent=1))
