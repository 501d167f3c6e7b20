"""DVC itself: opened in this process to fetch, run as a command to do what its API does only in the right directory."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp import processes
from nemo_gitexp.errors import StateDirectoryError

if TYPE_CHECKING:
    from dvc.repo import Repo


@contextlib.contextmanager
def dvc_session(root: Path) -> Iterator[Repo]:
    """Open the DVC repository at `root`; what DVC prints goes to stderr, its libraries' warnings nowhere."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dvc.repo import Repo

        with Repo(str(root)) as repo:
            yield repo


def run_dvc(arguments: Sequence[str], cwd: Path) -> str | None:
    """Run the dvc command of our own interpreter and return what it said if it failed, None if it succeeded.

    `repro` and `commit` of a stage resolve paths against the working directory of the process, also through
    `dvc.repo.Repo` (DVC 3.67, `stage/cache.py`), and ours is the user's.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    env["DVC_NO_ANALYTICS"] = "1"
    done = processes.run([sys.executable, "-m", "dvc", *arguments], cwd=cwd, env=env)
    if done.returncode == 0:
        return None
    return done.said or done.stdout.decode("utf-8", "replace") or f"exit code {done.returncode}"


def initialise_dvc(root: Path) -> None:
    """Set DVC up at the root of a repository; nothing is staged, existing files stay.

    These are the files of `dvc init`, which would also `git add` them; with `--no-scm` it writes no `.gitignore` and
    makes every later `dvc add` write none, so that cache and data would count as untracked files (tried, DVC 3.67).

    Raises:
        StateDirectoryError: the directory cannot be written.
    """
    folder = root / ".dvc"
    files = {folder / "config": "", folder / ".gitignore": "/config.local\n/tmp\n/cache\n", root / ".dvcignore": ""}
    try:
        folder.mkdir(exist_ok=True)
        for path, text in files.items():
            if not path.exists():
                path.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise StateDirectoryError(f"DVC cannot be set up in {folder}: {fault.strerror}", path=str(folder)) from fault
