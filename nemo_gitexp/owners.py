"""Which process something belongs to, and whether it still lives: across hosts, boots and reused process ids.

What may outlive its maker is named after it, so that whoever comes later can tell rubbish from work in progress.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.worker.machine import boot_id, host_digest, pid_start

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
    return not (_exists(pid) and match["start"] == _start_digest(pid))


def process_lives(document: Mapping[str, JsonValue]) -> bool:
    """Return whether the process described by a `started_document` lives; on another host: cannot be told, so yes."""
    if document.get("host") != host_digest():
        return True
    pid = document.get("pid")
    if not isinstance(pid, int) or document.get("boot_id") != boot_id():
        return False
    start = pid_start(pid) if _exists(pid) else None
    return start is not None and start == document.get("pid_start")


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


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
