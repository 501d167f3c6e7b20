"""A job that waits at a gate, and the files that say how its run goes on: tests decide when what happens."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder import make_work, wait_until

if TYPE_CHECKING:
    import subprocess

    from builder import Work

GATED = """\
import json, os, pathlib, sys, time
gate = pathlib.Path(os.environ["GATE"])
print("at the gate", flush=True)
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"step": 1, "loss": 0.25}) + "\\n")
(gate / "ready").write_text(str(os.getpid()))
while not (gate / "go").exists():
    time.sleep(0.02)
print("through the gate", flush=True)
pathlib.Path(os.environ["GITEXP_OUTPUTS"], "made.txt").write_text("made")
"""


@dataclass(slots=True)
class Gated:
    """A repository whose `gated.py` waits for the file `go`."""

    work: Work
    gate: Path

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the command and return once its job waits at the gate."""
        process = self.work.start("run", *options, "--", "python", "gated.py")
        self.wait_at_gate(process)
        return process

    def wait_at_gate(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Wait until the job is at the gate."""

        def is_there() -> bool:
            if process is not None and process.poll() not in (None, 0):
                out, err = process.communicate()
                raise AssertionError(f"the command ended early: {process.returncode} {out!r} {err!r}")
            return (self.gate / "ready").exists()

        wait_until(is_there)

    def open(self) -> None:
        """Let the job go on."""
        (self.gate / "go").write_text("")

    def close(self) -> None:
        """Make the next job wait again."""
        for name in ("go", "ready"):
            (self.gate / name).unlink(missing_ok=True)

    @property
    def run_dir(self) -> Path:
        """The latest run directory."""
        runs = [path for path in self.run_root.iterdir() if not path.name.startswith(".")]
        return max(runs, key=lambda path: path.stat().st_ctime_ns)

    @property
    def run_root(self) -> Path:
        """Where run directories are."""
        return Path(self.work.env.get("NEMO_GITEXP_RUN_ROOT", self.work.root / ".git" / "gitexp" / "runs"))

    def pid(self, name: str) -> int:
        """Return the pid in `supervisor`, `started` (the worker) or `child` (the job)."""
        return json.loads((self.run_dir / f"{name}.json").read_text())["pid"]

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to one of the processes and return its pid."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def status(self) -> dict:
        """Return the one experiment as `log` lists it."""
        (document,) = self.work.gitexp("log", "--json").json["experiments"]
        return document


def make_gated(directory: Path, **env: str) -> Gated:
    """Make a repository with a gated job."""
    gate = directory / "gate"
    gate.mkdir(parents=True)
    work = make_work(directory / "work", directory / "home", files={"gated.py": GATED}, GATE=str(gate), **env)
    return Gated(work, gate)


def is_alive(pid: int) -> bool:
    """Return whether a process lives and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
