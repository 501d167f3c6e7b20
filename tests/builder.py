"""Real repositories for tests: fixed dates and identity, empty HOME, no system configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

SCRIPT = """\
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
arguments = parser.parse_args()
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    for step in range(3):
        stream.write(json.dumps({"step": step, "loss": arguments.lr / (step + 1)}) + "\\n")
print("lr is", arguments.lr, flush=True)
with open(os.path.join(os.environ["GITEXP_OUTPUTS"], "weights.txt"), "w") as file:
    file.write(str(arguments.lr))
"""
"""A tiny training: three steps of a metric, one output, nothing imported that is slow."""


def isolated_environment(home: Path) -> dict[str, str]:
    """Return an environment that holds nothing of this machine's user: PATH led by our own interpreter's directory."""
    kept = {name: os.environ[name] for name in ("TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE") if name in os.environ}
    return {
        **kept,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
        "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
        "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
        "DVC_NO_ANALYTICS": "1",
    }


@dataclass(frozen=True, slots=True)
class Answered:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """Its answer as a document."""
        return json.loads(self.out)


@dataclass(slots=True)
class Work:
    """One repository and the environment that commands run in."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    def git(self, *args: str, cwd: Path | None = None, check: bool = True) -> str:
        """Run git and return what it said."""
        done = subprocess.run(["git", *args], cwd=cwd or self.root, env=self.env, capture_output=True, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"git {args}: {done.stderr.decode()}")
        return done.stdout.decode("utf-8", "surrogateescape").strip()

    def write(self, path: str, content: str | bytes) -> Path:
        """Write a file of the work tree."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def commit(self, message: str = "change") -> str:
        """Commit everything and return the sha."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def gitexp(self, *args: str, cwd: Path | None = None, code: int | None = 0, timeout_s: float = 120) -> Answered:
        """Run the installed command; `code` is the exit code that is expected, None for any."""
        done = subprocess.run(
            self.command(*args), cwd=cwd or self.root, env=self.env, capture_output=True, check=False, timeout=timeout_s
        )
        answered = Answered(done.returncode, done.stdout.decode(), done.stderr.decode())
        if code is not None and answered.code != code:
            raise AssertionError(f"nemo-gitexp {args}: exit {answered.code}\n{answered.out}\n{answered.err}")
        return answered

    def command(self, *args: str) -> list[str]:
        """Return the argument list of the installed command."""
        return [str(Path(sys.executable).parent / "nemo-gitexp"), *args]

    def start(self, *args: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start the installed command in a process group of its own."""
        return subprocess.Popen(
            self.command(*args),
            cwd=cwd or self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def refs(self, prefix: str = "refs/gitexp/") -> dict[str, str]:
        """Return the refs below a prefix with their shas."""
        lines = self.git("for-each-ref", "--format=%(refname) %(objectname)", prefix).splitlines()
        return dict(line.split(" ", 1) for line in lines)


def make_work(directory: Path, home: Path, *, files: dict[str, str] | None = None, **env: str) -> Work:
    """Make a repository with one commit: `train.py` and the given files; `env` is added to its environment."""
    home.mkdir(parents=True, exist_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    work = Work(directory, {**isolated_environment(home), **env})
    work.git("init", "-q", "-b", "main")
    for path, content in {"train.py": SCRIPT, **(files or {})}.items():
        work.write(path, content)
    work.commit("first")
    return work


def put_study(work: Work, name: str) -> None:
    """Commit a study of this repository, the digits as a plain file: no DVC is needed."""
    root = Path(__file__).resolve().parents[1]
    for file in sorted((root / "experiments" / name).glob("*.*")):
        text = file.read_text()
        work.write(f"experiments/{name}/{file.name}", text.replace("data: [data/digits.npz]\n", ""))
    make = root / "experiments" / "digits" / "make_data.py"
    subprocess.run([sys.executable, str(make), str(work.root / "data" / "digits.npz")], check=True)
    work.commit(name)


def wait_until(true: object, timeout_s: float = 60.0) -> None:
    """Wait until a function returns something true."""
    end = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            raise AssertionError("it did not happen in time")
        time.sleep(0.02)
