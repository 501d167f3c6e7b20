"""What a reproduction is given to run in."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from builder import Work, wait_until

from nemo_gitexp.catalog import open_site
from nemo_gitexp.environment import parse_environment
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.owners import taking_turns
from nemo_gitexp.store import read_environment, read_experiments
from nemo_gitexp.surroundings import Surroundings, find_surroundings

if TYPE_CHECKING:
    from pathlib import Path


def test_an_environment_that_another_process_makes_is_waited_for_and_taken(work: Work) -> None:
    sha = work.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json["experiment"]
    site = open_site(open_repository(work.root), work.env)
    (experiment,) = read_experiments(site.repository, [find_experiment(site.repository, sha)])
    key = parse_environment(read_environment(site.repository, experiment)).key.removeprefix("sha256:")[:16]
    place = site.repository.state_dir / "environments" / key
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(sys.executable)
    found: list[Surroundings] = []
    said: list[str] = []
    lock = place.with_suffix(".turns")
    waiter = threading.Thread(
        target=lambda: found.append(find_surroundings(site, experiment, "recreate", work.env, said.append))
    )
    with taking_turns(lock):
        waiter.start()
        wait_until(lambda: said or not waiter.is_alive() or is_open_twice(lock))
        (place / "gitexp-complete").touch()
    waiter.join()
    assert (said, found[0].interpreter) == ([], place / "bin" / "python")


def is_open_twice(file: Path) -> bool:
    """Return whether this process has the file open more than once: it holds the lock and waits for it."""
    inodes = []
    for descriptor in range(256):
        with contextlib.suppress(OSError):
            inodes.append(os.fstat(descriptor).st_ino)
    return inodes.count(file.stat().st_ino) > 1
