"""One builder for run directories, and the interpreters that the worker is tried with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import nemo_gitexp

WORKER = Path(nemo_gitexp.__file__).parent / "worker"
PYENV = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser())) / "versions"
VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def find_python(version: str) -> str | None:
    """Return an interpreter of the minor version, from pyenv or PATH."""
    found = sorted(PYENV.glob(f"{version}.*/bin/python"))
    return str(found[0]) if found else shutil.which(f"python{version}")


def require_python(version: str) -> str:
    """Return an interpreter of the minor version or skip the test."""
    path = find_python(version)
    if path is None:
        pytest.skip(f"no Python {version} here")
    return path


def manifest_rows(workspace: Path) -> list[list[object]]:
    """Return the manifest of everything in the workspace."""
    rows: list[list[object]] = []
    for path in sorted(workspace.rglob("*")):
        relative = path.relative_to(workspace).as_posix()
        if path.is_symlink():
            target = bytes(path.readlink())
            rows.append([relative, "120000", len(target), hashlib.sha256(target).hexdigest()])
        elif path.is_file():
            content = path.read_bytes()
            mode = "100755" if path.stat().st_mode & stat.S_IXUSR else "100644"
            rows.append([relative, mode, len(content), hashlib.sha256(content).hexdigest()])
    return rows


@dataclass
class Run:
    """A run directory in the making."""

    root: Path
    plan: dict[str, object] = field(default_factory=dict)

    @property
    def dir(self) -> Path:
        return self.root / "run"

    @property
    def workspace(self) -> Path:
        return self.root / "ws"

    @property
    def outputs(self) -> Path:
        return self.dir / "outputs"

    @property
    def log(self) -> str:
        return (self.dir / "log.txt").read_text()

    @property
    def argv(self) -> list[str]:
        python = self.plan["interpreter"] or sys.executable
        return [str(python), str(self.dir / "node" / "start.py"), str(self.dir / "plan.json")]

    def put(self, path: str, text: str | bytes, *, mode: int = 0o644) -> Path:
        """Write a file of the workspace."""
        file = self.workspace / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(mode)
        return file

    def prepare(self, entry: dict[str, object] | None = None, **plan: object) -> Run:
        """Write node/, plan.json, config.json and, unless there is one, manifest.json."""
        (self.dir / "node").mkdir(parents=True, exist_ok=True)
        sources = shutil.ignore_patterns("__pycache__")
        shutil.copytree(WORKER, self.dir / "node" / "_gitexp_worker", ignore=sources, dirs_exist_ok=True)
        shutil.copy2(WORKER / "start.py", self.dir / "node" / "start.py")
        if entry:
            self.plan["entry"] = entry
        self.plan.update(plan)
        (self.dir / "plan.json").write_text(json.dumps(self.plan))
        if not (self.dir / "config.json").exists():
            (self.dir / "config.json").write_text("{}")
        if not (self.dir / "manifest.json").exists():
            (self.dir / "manifest.json").write_text(json.dumps({"files": manifest_rows(self.workspace)}))
        return self

    def go(self, entry: dict[str, object] | None = None, *, env: dict[str, str] | None = None, **plan: object) -> dict:
        """Run the worker to its end and return result.json."""
        self.prepare(entry, **plan)
        whole = {**os.environ, **(env or {})}
        done = subprocess.run(
            self.argv, capture_output=True, text=True, timeout=120, env=whole, cwd=self.root, check=False
        )
        assert done.stderr == "", done.stderr
        self.exit_code = done.returncode
        return self.json("result.json")

    def start(self, entry: dict[str, object] | None = None, **plan: object) -> subprocess.Popen[bytes]:
        """Start the worker without waiting for it."""
        self.prepare(entry, **plan)
        return subprocess.Popen(self.argv, cwd=self.root)

    def json(self, name: str) -> dict:
        """Return one of the run directory's documents."""
        return json.loads((self.dir / name).read_text())


def script(path: str, *args: str) -> dict[str, object]:
    """Return the entry of a script."""
    return {"kind": "script", "path": path, "args": list(args)}


def new_run(root: Path) -> Run:
    """Return an empty workspace with a plan that runs nothing yet."""
    run = Run(root)
    run.workspace.mkdir(parents=True)
    run.dir.mkdir()
    run.plan = {
        "schema": 1,
        "kind": "run",
        "experiment": "0" * 40,
        "study": "s",
        "name": "n",
        "run": "run",
        "run_dir": str(run.dir),
        "manifest": str(run.dir / "manifest.json"),
        "cancel": str(run.dir / "cancel.json"),
        "workspace": str(run.workspace),
        "cwd": str(run.workspace),
        "user_root": None,
        "trusted_roots": [],
        "entry": script("train.py"),
        "interpreter": sys.executable,
        "interpreter_flags": [],
        "probe_interpreter": None,
        "env": {
            "PYTHONHASHSEED": "0",
            "GITEXP_METRICS": str(run.dir / "metrics.jsonl"),
            "GITEXP_OUTPUTS": str(run.outputs),
        },
        "unset_env": [],
        "seed": 42,
        "determinism": "seeded",
        "outputs": [],
        "outputs_dir": str(run.outputs),
        "config": str(run.dir / "config.json"),
        "metrics_file": None,
        "inputs": [],
        "allow_extra": [],
        "stop_after_steps": None,
        "grace_s": 2,
    }
    return run
