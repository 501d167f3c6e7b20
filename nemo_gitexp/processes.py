"""The one place that starts processes: argument lists, never a shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished process left: `returncode` (negative: signal), `stdout` and `stderr` bytes."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def said(self) -> str:
        """What it wrote to stderr, as text without surrounding space."""
        return self.stderr.decode("utf-8", "replace").strip()


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout_s: float | None = None,
) -> Completed:
    """Run a program to its end and return what it said; a non-zero exit is no exception.

    Args:
        argv: program and arguments.
        cwd: its working directory; the caller's when None.
        env: its whole environment; the caller's when None.
        stdin: all of its input.
        timeout_s: seconds until it is killed.

    Raises:
        OSError: the program cannot be started.
        subprocess.TimeoutExpired: it ran longer than `timeout_s`.
    """
    if not stdin and hasattr(os, "memfd_create"):
        return _run_into_memory(argv, cwd, env, timeout_s)
    done = subprocess.run(  # noqa: S603 - argument list, no shell
        list(argv), cwd=cwd, env=env, input=stdin, capture_output=True, timeout=timeout_s, check=False
    )
    return Completed(done.returncode, done.stdout, done.stderr)


def _run_into_memory(
    argv: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None, timeout_s: float | None
) -> Completed:
    """Run a program that writes into memory: no full pipe stops it (4 MB from git take a quarter less time)."""
    with open(os.memfd_create("stdout"), "w+b") as out, open(os.memfd_create("stderr"), "w+b") as err:  # noqa: PTH123
        done = subprocess.run(  # noqa: S603 - argument list, no shell
            list(argv),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=timeout_s,
            check=False,
        )
        out.seek(0)
        err.seek(0)
        return Completed(done.returncode, out.read(), err.read())


def spawn_detached(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that it outlives its caller's terminal; pipes on stdin and stdout.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(  # noqa: S603 - argument list, no shell
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
