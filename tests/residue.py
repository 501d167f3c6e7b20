"""What runs may leave in a repository, and what not."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder import wait_until

if TYPE_CHECKING:
    from builder import Work


def left_behind(work: Work) -> list[str]:
    """Return everything temporary of ours that is still there."""
    common = Path(work.git("rev-parse", "--path-format=absolute", "--git-common-dir"))
    state = common / "gitexp"
    found = [line for line in work.git("worktree", "list", "--porcelain").splitlines() if "gitexp" in line]
    found += work.refs("refs/gitexp-tmp/")
    places = [*state.glob("nemo/*"), *state.glob("tmp/*"), *state.glob("workspaces/*"), *state.glob("runs/.*")]
    places += [
        *state.glob("manifests/.*"),
        *state.glob("store/tmp/*"),
        *common.glob("fast_import_crash_*"),
        *_locks(common),
    ]
    places += list(Path(tempfile.gettempdir()).glob("*.gitexp"))
    return found + [str(place) for place in places if place.name != "turns.lock"]


def _locks(directory: Path) -> list[Path]:
    """Return the lock files below a directory that others are changing: pathlib's rglob trips over what vanishes."""
    return [Path(place, name) for place, _, names in os.walk(directory) for name in names if name.endswith(".lock")]


def expect_nothing_left(work: Work, timeout_s: float = 20.0) -> None:
    """Wait until nothing temporary of ours is left; supervisors leave a moment after their run."""
    try:
        wait_until(lambda: not left_behind(work), timeout_s)
    except AssertionError:
        raise AssertionError(f"left behind: {left_behind(work)}") from None
