"""Which machine this is and which process: read from the system's own files, without starting a program."""

from __future__ import annotations

import glob
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from .shapes import JsonValue

NUMERIC_FLAGS = ("avx", "avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "fma")
"""Instruction sets that choose other kernels, and so other last digits, in torch, numpy and oneDNN."""


HEARTBEAT_S = 30.0
"""How often a worker touches its own file: on another host nothing else tells whether it lives."""

SILENCE_S = 30 * HEARTBEAT_S
"""A worker on another host that has not touched its file for that long is dead."""


def started_document(now: str) -> dict[str, JsonValue]:
    """Return what tells later whether this very process still lives: pid, its start, the boot and the host."""
    return {"at": now, **process_document(os.getpid())}


def process_document(pid: int) -> dict[str, JsonValue]:
    """Return what tells later whether a process of this machine still lives."""
    return {"pid": pid, "pid_start": pid_start(pid), "boot_id": boot_id(), "host": host_digest()}


def keep_fresh(path: str) -> None:
    """Touch the file again and again, as long as it is there."""
    while True:
        time.sleep(HEARTBEAT_S)
        try:
            os.utime(path)
        except OSError:
            return


def process_lives(document: Mapping[str, object]) -> bool:
    """Return whether the process described by a `started_document` lives; on another host: cannot be told, so yes."""
    if document.get("host") != host_digest():
        return True
    pid = document.get("pid")
    if not isinstance(pid, int) or document.get("boot_id") != boot_id():
        return False
    start = pid_start(pid) if process_exists(pid) else None
    return start is not None and start == document.get("pid_start")


def writer_lives(path: str, document: Mapping[str, object]) -> bool:
    """Return whether the process that wrote the file lives; on another host: whether the file is fresh enough."""
    if document.get("host") == host_digest():
        return process_lives(document)
    try:
        return time.time() - os.stat(path).st_mtime < SILENCE_S
    except OSError:
        return False


def process_exists(pid: int) -> bool:
    """Return whether there is a process of this id that is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in (["Z"], ["X"])


def pid_start(pid: int) -> str | None:
    """Return when the process started, as text that differs for a reused pid; None when that is unknown."""
    stat = _text(f"/proc/{pid}/stat")
    if stat:
        return stat.rpartition(")")[2].split()[19]
    if os.path.exists("/proc/self/stat"):
        return None
    return _ps_start(pid)


def boot_id() -> str | None:
    """Return the kernel's identity of this boot, None where there is none."""
    return _text("/proc/sys/kernel/random/boot_id").strip() or None


def host_digest() -> str:
    """Return twelve hex digits that are the same on one host; its name is nobody's business."""
    import hashlib  # 3 ms, which most that import this room need not pay

    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:12]


def hardware_document() -> dict[str, JsonValue]:
    """Return processor, memory, kernel and GPUs of this machine."""
    system = os.uname()
    return {
        "system": system.sysname,
        "kernel": system.release,
        "machine": system.machine,
        "cpu_model": _cpu_field("model name"),
        "cpu_flags": [flag for flag in _cpu_field("flags").split() if flag in NUMERIC_FLAGS],
        "cpu_count": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpus": [_gpu_model(path) for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information"))],
        "gpu_driver": _gpu_driver(),
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _cpu_field(name: str) -> str:
    for line in _text("/proc/cpuinfo", 8192).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _gpu_model(path: str) -> str:
    for line in _text(path).splitlines():
        if line.startswith("Model:"):
            return line[len("Model:") :].strip()
    return "unknown"


def _gpu_driver() -> str | None:
    words = _text("/proc/driver/nvidia/version").partition("Kernel Module")[2].split()
    numbers = [word for word in words if word[:1].isdigit()]
    return numbers[0] if numbers else None


def _text(path: str, limit: int = 65536) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def _ps_start(pid: int) -> str | None:
    import subprocess  # only where there is no /proc

    done = subprocess.run(
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    return done.stdout.decode("ascii", "replace").strip() or None
