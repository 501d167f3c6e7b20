"""Keep the daemons of one test cluster: they live as long as whoever holds this process's standard input open.

`python keeper.py PLAN` starts what PLAN lists (JSON: `directory`, `env`, `daemons`, each `{name, argv, waits_for}`),
in that order, each after the file its predecessor must have made (`waits_for`, may be null). When standard input
ends, which it does however the tests end (also by `kill -9`), or SIGTERM comes, or a daemon dies, every process that
descends from this one is killed, jobs included, and the directory is removed. The exit status is 1 when a daemon died.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""

LIBC = ctypes.CDLL(None, use_errno=True)


def main(plan_file: str) -> int:
    """Start the daemons, wait for the end, leave nothing behind; return the exit status."""
    plan = json.loads(Path(plan_file).read_text())
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # daemonised grandchildren (slurmstepd, jobs) become ours
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for entry in plan["daemons"]:
            wait_for_file(entry["waits_for"], daemons)
            daemons.append(start(entry, plan))
        return watch(daemons)
    finally:
        kill_descendants()
        shutil.rmtree(plan["directory"], ignore_errors=True)


def start(entry: dict, plan: dict) -> subprocess.Popen[bytes]:
    """Start one daemon in the foreground, its talk in a file of its name; it dies with us in any case."""
    with (Path(plan["directory"]) / "log" / f"{entry['name']}.out").open("wb") as talk:
        return subprocess.Popen(
            entry["argv"],
            env=plan["env"],
            cwd=plan["directory"],
            stdin=subprocess.DEVNULL,
            stdout=talk,
            stderr=talk,
            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509 (no threads here)
        )


def wait_for_file(path: str | None, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Wait until a file is there; end the program when the one who makes it has died or ten seconds are over."""
    end = time.monotonic() + 10
    while path is not None and not Path(path).exists():
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            sys.exit(1)
        time.sleep(0.01)


def watch(daemons: list[subprocess.Popen[bytes]]) -> int:
    """Return 0 once standard input ends, 1 once a daemon has died."""
    while True:
        readable, _, _ = select.select([0], [], [], 0.2)
        if readable and not os.read(0, 64):
            return 0
        if any(daemon.poll() is not None for daemon in daemons):
            return 1
        reap({daemon.pid for daemon in daemons})


def reap(kept: set[int]) -> None:
    """Collect the adopted children that have ended, the daemons excepted (their Popen does it)."""
    for pid in children().get(os.getpid(), []):
        if pid not in kept:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def kill_descendants() -> None:
    """Kill every process below this one, again and again until none is left: the dying may still start something."""
    end = time.monotonic() + 10
    while (left := descendants()) and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap(set())
        time.sleep(0.01)


def descendants() -> list[int]:
    """Return the processes below this one, parents first."""
    tree = children()
    found = list(tree.get(os.getpid(), []))
    for pid in found:
        found += tree.get(pid, [])
    return found


def children() -> dict[int, list[int]]:
    """Return the children of every process of the machine (pid to pids), zombies included."""
    tree: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_bytes()
            except OSError:
                continue
            parent = int(text[text.rindex(b")") + 1 :].split()[1])
            tree.setdefault(parent, []).append(int(entry.name))
    return tree


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
