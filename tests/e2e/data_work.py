"""A repository with a study on DVC-tracked data: a file and a directory by `dvc add`, one file made by a stage."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from builder import Work, make_work

STUDY = """\
purpose: Sum what the data hold.
command: python sum.py {outputs}
data: [data/points.bin, data/raw, data/made.txt]
outputs: [sum.txt, parts]
"""
SUM = """\
import json, os, pathlib, sys
out = pathlib.Path(sys.argv[1])
files = [path for path in sorted(pathlib.Path("data").rglob("*")) if path.is_file() and path.suffix in (".bin", ".txt")]
total = sum(sum(path.read_bytes()) for path in files)
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"total": total}) + "\\n")
(out / "sum.txt").write_text(str(total))
(out / "parts").mkdir()
for path in files:
    (out / "parts" / path.name).write_text(str(sum(path.read_bytes())))
"""
STAGES = """\
stages:
  prepare:
    cmd: python prepare.py data/raw data/made.txt
    deps: [data/raw, prepare.py]
    outs: [data/made.txt]
"""
PREPARE = """\
import pathlib, sys
files = sorted(path for path in pathlib.Path(sys.argv[1]).iterdir())
pathlib.Path(sys.argv[2]).write_text("".join(f"{path.name} {path.stat().st_size}\\n" for path in files))
"""
FILES = {"sum.py": SUM, "prepare.py": PREPARE, "dvc.yaml": STAGES, "experiments/sum/experiment.yaml": STUDY}
INPUTS = ("data/points.bin", "data/raw", "data/made.txt")


@dataclass(slots=True)
class DataWork(Work):
    """A work repository with DVC; its remote lies beside it."""

    @property
    def cache(self) -> Path:
        return self.root / ".dvc" / "cache"

    @property
    def remote(self) -> Path:
        return self.root.parent / "remote"

    def dvc(self, *args: str, cwd: Path | None = None) -> str:
        """Run DVC and return what it said."""
        argv = [sys.executable, "-m", "dvc", *args]
        env = {name: value for name, value in self.env.items() if not name.endswith("_DATE")}  # dulwich reads no Z
        done = subprocess.run(argv, cwd=cwd or self.root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def object(self, path: str) -> Path:
        """Return the cache object behind a file that `dvc add` tracks."""
        pointer = (self.root / f"{path}.dvc").read_text()
        md5 = pointer.split("md5: ")[1].split()[0]
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]

    def forget_remote(self) -> None:
        shutil.rmtree(self.remote)

    def forget_data(self) -> None:
        """Remove the user's own copies: what is not in the cache or the remote is gone."""
        for path in INPUTS:
            place = self.root / path
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def make_template(parent: Path) -> Path:
    """Make the repository with its remote below `parent`."""
    work = make_work(parent / "work", parent / "home", files=FILES)
    data = DataWork(work.root, work.env)
    data.dvc("init", "-q")
    data.write(".dvc/config", "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../remote\n")
    data.write("data/points.bin", bytes(range(256)) * 16)
    data.write("data/raw/a.txt", "one")
    data.write("data/raw/b.txt", "two")
    data.dvc("add", "-q", "data/points.bin", "data/raw")
    data.dvc("repro", "-q")
    data.dvc("push", "-q")
    data.commit("data")
    _age(parent)
    return parent


def copy_template(template: Path, place: Path) -> DataWork:
    """Return a copy of its own for one test."""
    # A supervisor may still be tidying its own files away.
    shutil.copytree(template, place, symlinks=True, ignore=shutil.ignore_patterns("nemo"))
    env = make_work(place / "unused", place / "home").env
    env["DVC_SITE_CACHE_DIR"] = str(place / "site")
    work = DataWork(place / "work", env)
    work.git("update-index", "-q", "--refresh")
    return work


def _age(root: Path) -> None:
    """Set the times of all files an hour back: freshly written ones are never trusted unhashed."""
    for base, _, names in os.walk(root):
        for name in names:
            path = Path(base, name)
            then = path.lstat().st_mtime_ns - 3_600_000_000_000
            os.utime(path, ns=(then, then), follow_symlinks=False)
