"""Real DVC repositories: built once with the dvc command, copied for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nemo_gitexp.data.pins import find_pin
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.data.worktree import worktree_reader
from nemo_gitexp.inputpin import InputPin

NAME = "data/größe 1.bin"
STAGES = """\
stages:
  prepare:
    cmd: python prepare.py data/raw data/made.txt
    deps: [data/raw, prepare.py]
    outs: [data/made.txt]
  chain:
    cmd: python prepare.py data/made.txt data/chain
    deps: [data/made.txt, prepare.py]
    outs: [data/chain]
  drift:
    cmd: python drift.py data/drift.txt
    deps: [drift.py]
    outs: [data/drift.txt]
"""
PREPARE = """\
import pathlib, sys
source, target = map(pathlib.Path, sys.argv[1:])
files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
text = "".join(f"{p.name} {p.stat().st_size}\\n" for p in files)
if target.suffix:
    target.write_text(text)
else:
    target.mkdir()
    (target / "a.txt").write_text(text)
    (target / "b.txt").write_text(text * 2)
pathlib.Path("stray.log").write_text("what a stage may leave behind")
"""


@dataclass(frozen=True)
class DvcRepo:
    """A git and DVC repository, its remote beside it."""

    root: Path
    locks: tuple[str, ...] = ("dvc.lock",)

    @property
    def cache(self) -> Path:
        return self.root / ".dvc" / "cache"

    def pin(self, path: str) -> InputPin:
        return find_pin(path, read=worktree_reader(self.root), lock_paths=self.locks)

    def object(self, path: str) -> Path:
        md5 = self.pin(path).pin
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]

    def workspace(self, name: str = "ws") -> Path:
        place = self.root.parent / "workspaces" / name
        git(self.root, "worktree", "add", "-q", "--detach", str(place), "HEAD")
        return place

    def forget_copies(self) -> None:
        """Remove the user's own copies of all data, as in a clone before `dvc pull`."""
        for path in (NAME, "data/raw", "data/made.txt", "data/chain", "data/drift.txt"):
            place = self.root / path
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    def forget_remote(self) -> None:
        (self.root / ".dvc" / "config").write_text("")


def git(cwd: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=cwd, check=True, capture_output=True, text=True).stdout


def dvc(cwd: Path, *args: str) -> str:
    argv = [sys.executable, "-m", "dvc", *args]
    done = subprocess.run(argv, cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session", autouse=True)
def quiet_machine(tmp_path_factory):
    """Empty home, no system configuration, fixed identity, python on PATH, no telemetry."""
    home = tmp_path_factory.mktemp("home")
    own = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CONFIG_DIRS": str(home / "xdg"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def template(quiet_machine, tmp_path_factory) -> Path:
    """Data as a file, a directory, and outputs of stages; pushed to a remote named by a relative path."""
    parent = tmp_path_factory.mktemp("template")
    root = parent / "repo"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    dvc(root, "init", "-q")
    dvc(root, "config", "core.check_update", "false")
    dvc(root, "remote", "add", "-q", "-d", "store", "../remote")
    (root / "data" / "raw" / "inner").mkdir(parents=True)
    (root / NAME).write_bytes(bytes(range(256)) * 400)
    (root / "data/raw/one.txt").write_text("one")
    (root / "data/raw/empty").write_text("")
    (root / "data/raw/inner/ö two.txt").write_text("two")
    (root / "data/raw/inner/again.txt").write_text("one")
    (root / "prepare.py").write_text(PREPARE)
    (root / "drift.py").write_text("import sys, time\nopen(sys.argv[1], 'w').write(str(time.time_ns()))\n")
    (root / "dvc.yaml").write_text(STAGES)
    dvc(root, "add", "-q", NAME, "data/raw")
    dvc(root, "repro", "-q")
    (root / "stray.log").unlink()
    dvc(root, "push", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "data")
    _age(parent)
    return parent


@pytest.fixture
def repo(template, tmp_path) -> DvcRepo:
    """A copy of its own for one test."""
    shutil.copytree(template, tmp_path / "all", symlinks=True)
    return DvcRepo(tmp_path / "all" / "repo")


@pytest.fixture
def verified(tmp_path):
    with VerifiedFiles(tmp_path / "verified.db") as memory:
        yield memory


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def tell(said) -> Callable[[str], None]:
    return said.append


def _age(root: Path) -> None:
    """Set the times of all files an hour back: freshly written ones are never trusted unhashed."""
    for base, _, names in os.walk(root):
        for name in names:
            path = Path(base) / name
            if not path.is_symlink():
                then = path.stat().st_mtime_ns - 3_600_000_000_000
                os.utime(path, ns=(then, then))
