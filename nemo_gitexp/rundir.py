"""The run directory: the names of its files, and how they are written. Nothing else knows them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run directory; the only place that knows their names."""

    root: Path

    @property
    def run(self) -> str:
        """The run's own name: `<record sha>[.repro].<nonce>`."""
        return self.root.name

    @property
    def plan(self) -> Path:
        """What the launcher asks of the worker."""
        return self.root / "plan.json"

    @property
    def manifest(self) -> Path:
        """What the workspace must hold."""
        return self.root / "manifest.json"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.json"

    @property
    def outputs(self) -> Path:
        """The output root."""
        return self.root / "outputs"

    @property
    def metrics(self) -> Path:
        """What the job appends its metrics to."""
        return self.root / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """Stdout and stderr of the job."""
        return self.root / "log.txt"

    @property
    def worker(self) -> Path:
        """The worker's entry, run by path."""
        return self.root / "node" / "start.py"

    @property
    def supervisor(self) -> Path:
        """Who launches: written by the supervisor when it takes the plan."""
        return self.root / "supervisor.json"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor and NeMo Run said."""
        return self.root / "supervisor.log"

    @property
    def refused(self) -> Path:
        """Why the launcher could not start the job."""
        return self.root / "refused.json"

    @property
    def started(self) -> Path:
        """Who works: written by the worker."""
        return self.root / "started.json"

    @property
    def child(self) -> Path:
        """The process id of the job."""
        return self.root / "child.json"

    @property
    def cancel(self) -> Path:
        """Somebody asks to cancel."""
        return self.root / "cancel.json"

    @property
    def job(self) -> Path:
        """Settings read back in the job."""
        return self.root / "job.json"

    @property
    def result(self) -> Path:
        """The worker's last word."""
        return self.root / "result.json"


def write_beside(path: Path, content: bytes) -> None:
    """Write a file by rename, so that a reader sees all of it or nothing."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)
