# SPDX-License-Identifier: MPL-2.0
"""The table of rows, and what becomes of each: a ratio with its goal, or the reason why there is none."""

import rounds

# Row: what is done, beside what, the goal, and whether the ratio must reach it ("min") or must not pass it ("max").
ROWS = {
    1: ("GET status: key, scope, rate limit, JSON answer", "bare civetweb hello", 0.60, "min"),
    2: ("execute: validated, limited, durable before the answer", "bare civetweb hello", 0.43, "min"),
    3: ("execute, as above", "one commit per job on the same store", 12, "min"),
    4: ("execute, as above", "Express + BullMQ, redis `appendfsync always`", 7, "min"),
    5: ("execute, as above", "beanstalkd `-f0` through its own protocol", 4.5, "min"),
    6: ("submit over `bus.commands` (ZeroMQ), durable", "redis XADD, `appendfsync always`", 1.0, "min"),
    7: ("execute with rate limit", "the iris document's stack (Express, ioredis), null queue", 7, "min"),
    8: ("cheapest authenticated request", "`sandbox-agent`", 1.2, "min"),
    9: ("SSE fan-out", "raw `send` of the same bytes", 0.95, "min"),
    10: ("SSE fan-out, 10 % of the readers stalled", "none stalled", 0.95, "min"),
    11: ("WebSocket fan-out", "raw `send` of the same bytes", 0.9, "min"),
    12: ("event feed over ZeroMQ", "bare PUB/SUB of the same bytes", 0.8, "min"),
    13: ("agent's line: child's write to SSE reader's byte", "pipe to epoll alone", 5, "max"),
    14: ("turns from submit to durable end", "the driver alone in a loop", 0.7, "min"),
    15: ("warm turn of the real CLI to its first chunk", "the CLI driven by hand", 1.05, "max"),
    16: ("resume of a cursor 100,000 events back", "LMDB range read of them", 0.5, "min"),
    17: ("restart with 100,000 queued jobs, to serving", "-", 1.0, "max"),
    18: ("memory", "`sandbox-agent` idle; Express SSE", None, "max"),
    19: ("start to first answer", "`sandbox-agent`", 1.0, "max"),
    20: ("cost as work grows", "-", None, "max"),
}

# Why a goal is missed, where that is known; shown only while it is.
REASONS = {
    1: "the request crosses to the limiter's thread and back, and each message through a ZeroMQ mailbox takes some five"
       " system calls. See the table below.",
    2: "it crosses three more threads (limiter, queue, store), which decode and encode the job again, and the store"
       " writes some 4 KiB a job in two syncs a commit; see below.",
    3: "as row 2; the store commits groups, so what is missing is in front of it.",
    4: "as row 2.",
    5: "as row 2; beside it stands a server of one thread that parses a line.",
    6: "as row 2, and two more threads: the door's and ZeroMQ's. Redis commits groups too, in one thread.",
    7: "as row 2: muster is durable here, the other side keeps nothing.",
    9: "the hub's thread sends at the raw rate, less what agent, log, store and rendering take of the same two cores.",
    11: "as row 9.",
    12: "with few subscribers the rate is that at which events are made: each is numbered, stored and published by the"
        " log's thread, while the bare publisher sends the same bytes over and over.",
    13: "a line crosses agent, log and stream hub before its reader wakes up, and a wake-up costs 20 to 40 us here.",
    14: "a turn is three synced commits (submit, begin, end), each waits four times for the disk, and some ten hops"
        " between threads; a scripted turn alone is over in half a millisecond.",
    15: "the submit is durable before the turn begins.",
    16: "every event is decoded, rendered as JSON and sent; a range read does none of that.",
    17: "the jobs are read, decoded and sorted one by one.",
    18: "each of the 256 threads takes 19 KB before anybody asks, and as much again once it has served somebody.",
    19: "59 shared libraries are loaded (7 ms), 256 threads started (6 ms), and a data folder made and synced (2 ms).",
}


def result(row, at, **more):
    work, beside, goal, kind = ROWS[row]
    return {"row": row, "work": work, "beside": beside, "at": at, "goal": goal, "kind": kind, **more}


def skipped(row, reason, at=""):
    return result(row, at, skipped=reason)


def judged(row, at, value, low, high, work, beside, goal=None, **more):
    found = result(row, at, ratio=value, low=low, high=high, work_stat=work, beside_stat=beside, **more)
    found["goal"] = found["goal"] if goal is None else goal
    if found["goal"] is not None:
        found["met"] = value >= found["goal"] if found["kind"] == "min" else value <= found["goal"]
    return found


def measured(row, at, work, beside, field="rate", **more):
    value, low, high = rounds.ratio(work, beside, field)
    return judged(row, at, value, low, high, work.json(), beside.json(), **more)
