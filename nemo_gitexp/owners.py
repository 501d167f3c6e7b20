"""Which process something belongs to, and whether it still lives: across hosts, boots and reused process ids.

What may outlive its maker is named after it, so that whoever comes later can tell rubbish from work in progress.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from nemo_gitexp.worker.machine import boot_id, host_digest, pid_start, process_exists

STRANGER_DAYS = 7
"""After that long, what belongs to a process of another host counts as left behind."""

_TOKEN = re.compile(r"(?P<host>[0-9a-f]{12})-(?P<pid>\d+)-(?P<start>[0-9a-f]{12})")


def owner_token() -> str:
    """Return a name for this very process, valid in a file name and in a ref."""
    pid = os.getpid()
    return f"{host_digest()}-{pid}-{_start_digest(pid)}"


def is_left_behind(name: str, changed_s: float | None = None) -> bool:
    """Return whether something called `<owner token>[.anything]` has lost its owner; other names: no.

    Args:
        name: what it is called.
        changed_s: when it was last changed, for owners on another host; None: nobody knows.
    """
    match = _TOKEN.fullmatch(name.partition(".")[0])
    if match is None:
        return False
    if match["host"] != host_digest():
        return changed_s is not None and time.time() - changed_s > STRANGER_DAYS * 86400
    pid = int(match["pid"])
    return not (process_exists(pid) and match["start"] == _start_digest(pid))


@contextlib.contextmanager
def taking_turns(lock: Path) -> Iterator[None]:
    """Let one process at a time through; the system lets go of a killed one's turn.

    Where the file system knows no locks, nobody waits.
    """
    import fcntl

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _start_digest(pid: int) -> str:
    return hashlib.sha256(f"{boot_id()} {pid_start(pid)}".encode()).hexdigest()[:12]
