# SPDX-License-Identifier: MPL-2.0
"""An agent for the command driver whose effects can be counted.

agent_program.py LEDGER LOCKS; the prompt is "NAME MS [orphan]" or "NAME gate [orphan]".

It writes "start NAME PID" and "end NAME PID" to the ledger.  Between them it holds an exclusive lock on LOCKS/NAME;
when the lock is taken, two attempts of a job are at work at the same time, and it writes "clash NAME PID".  `gate`
waits until somebody writes to LOCKS/NAME.gate.  With `orphan` it leaves a process in a session of its own that holds
the lock as well, as tools of real agents do."""

import fcntl
import os
import signal
import sys
import time


def main():
    ledger, locks = sys.argv[1:3]
    name, milliseconds, *how = sys.stdin.read().split()

    def say(what):
        line = f"{what} {name} {os.getpid()}\n".encode()
        fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line)
        os.close(fd)

    lock = os.open(os.path.join(locks, name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("clash")
        return 1
    say("start")
    if "orphan" in how and os.fork() == 0:
        os.setsid()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        for fd in (0, 1, 2):
            os.close(fd)
        say("orphan")
        time.sleep(600)
        os._exit(0)
    if milliseconds == "gate":
        with open(os.path.join(locks, name + ".gate"), encoding="ascii") as gate:
            gate.read()
    else:
        time.sleep(int(milliseconds) / 1000)
    say("end")
    print("did " + name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
